//! CloudEvents 1.0: what an event says of itself, wherever it says it.
//!
//! | mode | told by | attributes | data |
//! |---|---|---|---|
//! | binary, AMQP | | application properties `cloudEvents_<name>` or `cloudEvents:<name>`; `datacontenttype` is the content type | the body |
//! | binary, Kafka | | headers `ce_<name>`, which arrive as application properties | the body |
//! | structured | content type `application/cloudevents+json`, `+avro` | in the body | in the body |
//! | batched | content type `application/cloudevents-batch+json` | in the body, of each | in the body, of each |

mod attributes;
mod avro;
mod json;

use bytes::Bytes;

pub(super) use self::attributes::{Attributes, Faults, Sound, check_required};
use super::framing::{content_type_of, media_type};
use crate::batch::Event;
use crate::error::quoted;

/// What the content type of a structured event begins with.
const MEDIA_TYPE: &str = "application/cloudevents";

/// The version of the specification that is read.
const VERSION: &str = "1.0";

/// Attributes of an event. The specification has eight and any number of extensions; each becomes a property, and is
/// compared with those that are there.
const ATTRIBUTES_MAX: usize = 1000;

/// An event of the structured mode: its attributes under their own names, as text, in the order in which they were
/// written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct CloudEvent {
    pub(super) attributes: Vec<(String, String)>,
}

impl CloudEvent {
    pub(super) fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(held, _)| held == name).map(|(_, value)| value.as_str())
    }

    /// Roughly what it holds in memory.
    pub(super) fn memory_bytes(&self) -> usize {
        self.attributes.iter().map(|(name, value)| name.len() + value.len() + 48).sum()
    }
}

/// The data of a structured event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Data {
    None,
    /// A value of JSON, as text.
    Json(Bytes),
    /// Whatever `datacontenttype` says.
    Binary(Bytes),
}

/// How a structured event is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Json,
    Batch,
    Avro,
}

/// The format that the content type names; `None` where the event isn't of the structured mode.
///
/// # Errors
/// The name of a format that isn't read.
pub(super) fn format_of(event: &Event) -> Option<Result<Format, String>> {
    let is_structured = |content_type: &&str| {
        content_type.trim_start().get(..MEDIA_TYPE.len()).is_some_and(|start| start.eq_ignore_ascii_case(MEDIA_TYPE))
    };
    let content_type = content_type_of(event, is_structured)?;
    let format = media_type(content_type).to_ascii_lowercase();
    Some(match format.strip_prefix(MEDIA_TYPE) {
        Some("+json") => Ok(Format::Json),
        Some("-batch+json") => Ok(Format::Batch),
        Some("+avro") => Ok(Format::Avro),
        _ => Err(format!(
            "CloudEvents of the content type `{}` aren't read: `+json`, `-batch+json` and `+avro` are",
            quoted(content_type)
        )),
    })
}

/// The format of an event that is structured whatever its content type says.
pub(super) fn format_by_body(body: &[u8]) -> Format {
    match body.iter().find(|byte| !byte.is_ascii_whitespace()) {
        Some(b'[') => Format::Batch,
        _ => Format::Json,
    }
}

/// Takes a body apart: one event with its data, or all those of a batch.
///
/// # Errors
/// Words that say what is wrong with it.
pub(super) fn read(format: Format, body: &Bytes) -> Result<Vec<(CloudEvent, Data)>, String> {
    let events = match format {
        Format::Json => vec![json::event(body)?],
        Format::Batch => json::batch(body)?,
        Format::Avro => vec![avro::event(body)?],
    };
    for (event, _) in &events {
        // Another one may write its data otherwise.
        if let Some(version) = event.attribute("specversion").filter(|version| !version.starts_with("1.")) {
            return Err(format!("CloudEvents of version `{}` aren't read: {VERSION} is", quoted(version)));
        }
    }
    Ok(events)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_content_type_tells_the_format() {
        let format = |content_type: &str, property: Option<(&str, &str)>| {
            format_of(&Event {
                sequence_number: 0,
                offset: String::new(),
                enqueued_at: 0,
                body: Bytes::new(),
                content_type: Some(content_type.to_owned()),
                properties: property.map(|(name, value)| (name.to_owned(), value.to_owned())).into_iter().collect(),
            })
        };
        for (content_type, expected) in [
            ("application/cloudevents+json", Some(Format::Json)),
            (" Application/CloudEvents+JSON ; charset=utf-8", Some(Format::Json)),
            ("application/cloudevents-batch+json", Some(Format::Batch)),
            ("application/cloudevents+avro", Some(Format::Avro)),
            ("application/json", None),
            ("application/cloudevent", None),
            ("", None),
        ] {
            assert_eq!(format(content_type, None), expected.map(Ok), "{content_type}");
        }
        // A Kafka header.
        let header = Some(("Content-Type", "application/cloudevents+avro"));
        assert_eq!(format("", header), Some(Ok(Format::Avro)));
        for other in ["application/cloudevents", "application/cloudevents+xml", "application/cloudevents-batch+avro"] {
            let text = format(other, None).expect("structured").expect_err("not read");
            assert!(text.contains(&format!("`{other}` aren't read")), "{text}");
        }
    }

    #[test]
    fn the_version_is_looked_at() {
        let read = |version: &str| read(Format::Json, &Bytes::from(format!(r#"{{"specversion":{version},"id":"1"}}"#)));
        assert_eq!(read("\"1.0\"").expect("read").len(), 1);
        assert_eq!(read("null").expect("whoever wants it says `require`").len(), 1);
        assert_eq!(read("\"0.3\""), Err("CloudEvents of version `0.3` aren't read: 1.0 is".to_owned()));
    }
}
