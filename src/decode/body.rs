//! What an event's body holds: itself, or CloudEvents that hold something.

use bytes::Bytes;

use super::cloud_events::{self, Attributes, CloudEvent, Data, check_required};
use super::framing::{Frame, Known, Unframed, tell};
use crate::batch::{Event, EventBatch, Reject, RejectClass};
use crate::config::spec::{Attribute, Format, Framing};

/// What the rows of a body may repeat of their event: its properties, above all.
pub(super) const REPEATED_BYTES_MAX: usize = 128 << 20;

/// As `[decode] framing` calls it.
pub(super) const CLOUD_EVENTS: &str = "cloudevents";

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Body {
    /// The body itself.
    Whole(Frame),
    /// What was in it, each to become a row.
    Enclosed(Vec<Enclosed>),
}

/// A CloudEvent of the structured mode, and what its data is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Enclosed {
    pub(super) event: CloudEvent,
    pub(super) frame: Frame,
    pub(super) data: Bytes,
}

impl Body {
    pub(super) fn frames(&self) -> impl Iterator<Item = Frame> {
        let (whole, enclosed) = match self {
            Self::Whole(frame) => (Some(*frame), &[][..]),
            Self::Enclosed(enclosed) => (None, enclosed.as_slice()),
        };
        whole.into_iter().chain(enclosed.iter().map(|enclosed| enclosed.frame))
    }
}

/// Whether telling what bodies hold is more than a look: structured events are read.
pub(super) fn takes_long(batch: &EventBatch, known: Known) -> bool {
    batch.events.iter().any(|event| !matches!(structured(event, known), Ok(None)))
}

/// Tells what a body holds. CPU work: it reads structured events.
///
/// # Errors
/// Why the event is rejected.
pub(super) fn open(event: &Event, known: Known, required: &[Attribute]) -> Result<Body, Unframed> {
    let Some(format) = structured(event, known)? else {
        if !required.is_empty() {
            let attributes = Attributes::of_properties(event);
            let framing = tell(event, known).map_or_else(|unframed| unframed.framing, Frame::name);
            check_required(&attributes, required).map_err(|text| lacking(framing, text))?;
        }
        return tell(event, known).map(Body::Whole);
    };
    let wrong = |text: String| Unframed::new(CLOUD_EVENTS, text);
    let read = cloud_events::read(format, &event.body).map_err(wrong)?;
    let repeated = (event.memory_bytes() - event.body.len()).saturating_mul(read.len());
    if repeated > REPEATED_BYTES_MAX {
        return Err(wrong(format!(
            "the rows of {} CloudEvents would repeat {repeated} bytes of the event, and {REPEATED_BYTES_MAX} can be",
            read.len()
        )));
    }
    let is_one = read.len() == 1;
    let mut enclosed = Vec::with_capacity(read.len());
    for (index, (held, data)) in read.into_iter().enumerate() {
        let place = |text: String| if is_one { text } else { format!("record {index}: {text}") };
        check_required(&Attributes::of(&held), required).map_err(|text| lacking(CLOUD_EVENTS, place(text)))?;
        let (frame, data) = data_of(&held, data, event, known).map_err(|text| wrong(place(text)))?;
        enclosed.push(Enclosed { event: held, frame, data });
    }
    Ok(Body::Enclosed(enclosed))
}

/// The CloudEvent that a rejected event holds, the first of several; none where it is of another mode, or can't be read.
pub(super) fn first_enclosed(event: &Event, reject: &Reject) -> Option<CloudEvent> {
    if reject.framing != CLOUD_EVENTS {
        return None;
    }
    let format = match cloud_events::format_of(event) {
        Some(by_type) => by_type.ok()?,
        None => cloud_events::format_by_body(&event.body),
    };
    cloud_events::read(format, &event.body).ok()?.into_iter().next().map(|(held, _)| held)
}

fn lacking(framing: &'static str, text: String) -> Unframed {
    Unframed { framing, class: RejectClass::Attribute, text }
}

/// How the event is written, if it is of the structured mode.
fn structured(event: &Event, known: Known) -> Result<Option<cloud_events::Format>, Unframed> {
    let wrong = |text: String| Unframed::new(CLOUD_EVENTS, text);
    match (known.format, known.framing) {
        (Format::Raw, _) => Ok(None),
        (_, Framing::Auto) => cloud_events::format_of(event).transpose().map_err(wrong),
        (_, Framing::CloudEvents) => {
            let by_type = cloud_events::format_of(event).transpose().map_err(wrong)?;
            Ok(Some(by_type.unwrap_or_else(|| cloud_events::format_by_body(&event.body))))
        }
        _ => Ok(None),
    }
}

/// The data as an event of its own would be told.
fn data_of(held: &CloudEvent, data: Data, event: &Event, known: Known) -> Result<(Frame, Bytes), String> {
    match (known.format, data) {
        (Format::Json, Data::None) if known.pinned.is_none() => Ok((Frame::Json, Bytes::new())),
        (_, Data::None) => Err("the CloudEvent has no data, of which a row of the schema could be made".to_owned()),
        (Format::Json, Data::Json(data) | Data::Binary(data)) => Ok((Frame::Json, data)),
        (_, Data::Json(data)) if known.pinned.is_some() => Ok((Frame::Json, data)),
        (_, Data::Json(_)) => {
            Err("the CloudEvent's data is JSON, and no schema is pinned that JSON could be read by".to_owned())
        }
        (_, Data::Binary(data)) => {
            let schema = held.attribute("dataschema");
            let inner = Event {
                sequence_number: event.sequence_number,
                offset: String::new(),
                enqueued_at: event.enqueued_at,
                body: data,
                content_type: held.attribute("datacontenttype").map(str::to_owned),
                properties: schema
                    .map(|url| ("cloudEvents_dataschema".to_owned(), url.to_owned()))
                    .into_iter()
                    .collect(),
            };
            match tell(&inner, known).map_err(|unframed| unframed.text)? {
                Frame::Container => {
                    Err("the CloudEvent's data is an Avro container, which isn't read there".to_owned())
                }
                frame => Ok((frame, inner.body)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::decode::registry::SchemaId;

    const ID: &str = "b489dc4916744e3db72dda8f9693f342";

    fn content_type() -> impl Strategy<Value = Option<String>> {
        let known = prop::sample::select(vec![
            format!("avro/binary+{ID}"),
            "application/cloudevents+json".to_owned(),
            "application/cloudevents-batch+json".to_owned(),
            "application/cloudevents+avro".to_owned(),
            "application/avro".to_owned(),
            "application/json".to_owned(),
        ]);
        prop::option::of(prop_oneof![known, "[aA]pplication/cloudevents.{0,8}", ".{0,40}"])
    }

    fn enclosing(data: &[u8], content_type: Option<&str>) -> Vec<u8> {
        use base64::Engine as _;
        let data = base64::engine::general_purpose::STANDARD.encode(data);
        serde_json::json!({"id": "1", "data_base64": data, "datacontenttype": content_type}).to_string().into_bytes()
    }

    proptest! {
        #[test]
        fn any_event_is_opened_without_panic_and_its_data_is_as_long_as_its_frame_says(
            start in prop::sample::select(vec![
                vec![], vec![0], vec![0; 4], [&[0; 4], ID.as_bytes()].concat(), vec![0xC3, 1], b"Obj\x01".to_vec(), b"[{".to_vec(),
            ]),
            rest in prop::collection::vec(any::<u8>(), 0..64),
            (outer, inner) in (content_type(), content_type()),
            properties in prop::collection::vec(("[cC]ontent-[tT]ype|cloudEvents_dataschema|ce_id", content_type()), 0..3),
            is_enclosed in any::<bool>(),
            format in prop::sample::select(vec![Format::Avro, Format::Json, Format::Raw]),
            framing in prop::sample::select(vec![
                Framing::Auto, Framing::ContentType, Framing::Preamble, Framing::Confluent, Framing::Container,
                Framing::SingleObject, Framing::Bare, Framing::CloudEvents, Framing::Json,
            ]),
            (pinned, guids, numbers, fingerprints) in any::<(bool, bool, bool, bool)>(),
            required in prop::sample::subsequence(Attribute::ALL.to_vec(), 0..=2),
        ) {
            let body = [start, rest].concat();
            let event = Event {
                sequence_number: 0,
                offset: String::new(),
                enqueued_at: 0,
                body: if is_enclosed { enclosing(&body, inner.as_deref()) } else { body }.into(),
                content_type: outer,
                properties: properties.into_iter().map(|(name, value)| (name, value.unwrap_or_default())).collect(),
            };
            let pinned = pinned.then_some([SchemaId::Fingerprint([1; 8]); 2]);
            let known = Known { format, framing, pinned, guids, numbers, fingerprints };
            match open(&event, known, &required) {
                Ok(Body::Whole(frame)) => prop_assert!(frame.prefix_bytes() <= event.body.len()),
                Ok(Body::Enclosed(enclosed)) => for held in &enclosed {
                    prop_assert!(held.frame.prefix_bytes() <= held.data.len());
                    prop_assert!(!matches!(held.frame, Frame::Container | Frame::Raw));
                },
                Err(unframed) => prop_assert!(!unframed.text.is_empty()),
            }
        }
    }
}
