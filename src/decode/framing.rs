//! What an event's body is, told from its content type, its first bytes, and what the pipeline declares.
//!
//! Told in this order, unless the pipeline names one:
//!
//! | framing | looks like | then |
//! |---|---|---|
//! | CloudEvents, structured | content type `application/cloudevents…` | attributes and data are taken out, and the data told by itself |
//! | content type | `avro/binary+<id>` in the AMQP field, else in the property `content-type` | the body is a datum |
//! | data schema | the attribute `dataschema` ends with a schema id, and the content type names no other form | the body is a datum |
//! | JSON | content type `application/json` and the like, where a schema is pinned | JSON by that |
//! | old Azure preamble | `00 00 00 00`, 32 hex digits | a datum |
//! | Confluent | `00`, a big-endian number of 31 bits | a datum |
//! | container | `Obj 01` | a schema and records of it, each a row |
//! | single-object | `C3 01`, the eight bytes of the schema's fingerprint | a datum |
//! | bare | anything, where a schema is pinned | the body is a datum |
//!
//! With `format = "json"` whatever isn't a structured CloudEvent is JSON. Content type and preamble are looked for where
//! the registry has ids of Azure, Confluent where it has numbers: no other
//! registry could say what they mean. Single-object is looked for where there is a folder of schemas, or for the
//! fingerprint of the pinned schema. The preamble goes before Confluent, whose ids below 2^24 begin as it does.

use crate::avro_container::MAGIC;
use crate::batch::{Event, RejectClass};
use crate::config::spec::{Attribute, Format, Framing};
use crate::error::quoted;

use super::cloud_events::Attributes;
use super::registry::{IdKind, SchemaId};

/// The content type of Azure's Avro encoders: `avro/binary+<schema id>`.
const AVRO_MIME: &str = "avro/binary";

/// Content types that say Avro, and not which schema.
const AVRO_MEDIA_TYPES: [&str; 2] = [AVRO_MIME, "application/avro"];

/// What the betas of Azure's encoders put before the 32 hex digits of the schema id.
const PREAMBLE_INDICATOR: [u8; 4] = [0; 4];
const PREAMBLE_BYTES: usize = 36;

/// What Confluent's serializers put before the four bytes of the schema id.
const CONFLUENT_MAGIC: u8 = 0;
const CONFLUENT_BYTES: usize = 5;

/// What the Avro specification puts before the eight bytes of the fingerprint.
const SINGLE_OBJECT_MARKER: [u8; 2] = [0xC3, 0x01];
const SINGLE_OBJECT_BYTES: usize = 10;

/// What a body holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Frame {
    /// The datum of a schema that the registry knows.
    Registered(NamedBy, SchemaId),
    /// An Avro container, with its own schema and any number of records.
    Container,
    /// The body is a datum of the pinned schema.
    Bare,
    /// JSON: by the pinned schema, or as it is.
    Json,
    /// The body stays bytes.
    Raw,
}

/// What named the schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum NamedBy {
    ContentType,
    /// The CloudEvents attribute.
    DataSchema,
    Preamble,
    Confluent,
    SingleObject,
}

impl Frame {
    /// As `[decode] framing` calls it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Registered(NamedBy::ContentType | NamedBy::DataSchema, _) => "content-type",
            Self::Registered(NamedBy::Preamble, _) => "preamble",
            Self::Registered(NamedBy::Confluent, _) => "confluent",
            Self::Registered(NamedBy::SingleObject, _) => "single-object",
            Self::Container => "container",
            Self::Bare => "bare",
            Self::Json => "json",
            Self::Raw => "raw",
        }
    }

    /// What lies before the datum.
    pub(super) fn prefix_bytes(self) -> usize {
        match self {
            Self::Registered(NamedBy::Preamble, _) => PREAMBLE_BYTES,
            Self::Registered(NamedBy::Confluent, _) => CONFLUENT_BYTES,
            Self::Registered(NamedBy::SingleObject, _) => SINGLE_OBJECT_BYTES,
            Self::Registered(NamedBy::ContentType | NamedBy::DataSchema, _)
            | Self::Container
            | Self::Bare
            | Self::Json
            | Self::Raw => 0,
        }
    }
}

/// An event that is rejected before anybody looks at its data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unframed {
    pub(super) framing: &'static str,
    pub(super) class: RejectClass,
    pub(super) text: String,
}

impl Unframed {
    /// Its framing isn't known, or torn.
    pub(super) fn new(framing: &'static str, text: impl Into<String>) -> Self {
        Self { framing, class: RejectClass::Framing, text: text.into() }
    }
}

/// What a pipeline has to tell framings with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Known {
    pub(super) format: Format,
    pub(super) framing: Framing,
    /// The fingerprints of the pinned schema.
    pub(super) pinned: Option<[SchemaId; 2]>,
    /// Whether the registry has schemas under the ids of Azure.
    pub(super) guids: bool,
    /// Whether the registry has schemas under numbers, as Confluent's do.
    pub(super) numbers: bool,
    /// Whether the registry has schemas under their fingerprints.
    pub(super) fingerprints: bool,
}

/// What `event` is, by the first framing of the order that fits; or by the one that is declared. Not asked of
/// structured CloudEvents.
pub(super) fn tell(event: &Event, known: Known) -> Result<Frame, Unframed> {
    match (known.format, known.framing) {
        (Format::Raw, _) => Ok(Frame::Raw),
        (Format::Json, _) | (Format::Avro, Framing::Json) => Ok(Frame::Json),
        (Format::Avro, Framing::Bare) => Ok(Frame::Bare),
        // What is in a CloudEvent is framed by itself.
        (Format::Avro, Framing::Auto | Framing::CloudEvents) => first_that_fits(event, known),
        (Format::Avro, Framing::ContentType) => by_content_type(event)
            .unwrap_or_else(|| Err(Unframed::new("unknown", format!("{}; looked for {CONTENT_TYPE}", found(event))))),
        (Format::Avro, Framing::Preamble) => by_preamble(&event.body).ok_or_else(|| {
            Unframed::new("preamble", "the body doesn't begin with four zero bytes and a schema id of 32 hex digits")
        }),
        (Format::Avro, Framing::Confluent) => by_magic_byte(&event.body).ok_or_else(|| {
            Unframed::new(
                "confluent",
                "the body doesn't begin with a zero byte and the number of a schema in four bytes",
            )
        }),
        (Format::Avro, Framing::Container) if event.body.starts_with(MAGIC) => Ok(Frame::Container),
        (Format::Avro, Framing::Container) => {
            let text = "the body doesn't begin as an Avro container, with `Obj` and a byte of 1";
            Err(Unframed::new("container", text))
        }
        (Format::Avro, Framing::SingleObject) => by_fingerprint(&event.body).ok_or_else(|| {
            Unframed::new("single-object", "the body doesn't begin with `C3 01` and the eight bytes of a fingerprint")
        }),
    }
}

const CONTENT_TYPE: &str = "`avro/binary+<schema id>`";

fn first_that_fits(event: &Event, known: Known) -> Result<Frame, Unframed> {
    if known.guids
        && let Some(told) = by_content_type(event)
    {
        return told;
    }
    let content_type = content_type_of(event, |_| true).map(media_type);
    if let Some(frame) = by_data_schema(event, content_type, known) {
        return Ok(frame);
    }
    if known.pinned.is_some() && content_type.is_some_and(is_json) {
        return Ok(Frame::Json);
    }
    match by_preamble(&event.body) {
        Some(frame) if known.guids => return Ok(frame),
        // Confluent's framing would read it as its schema 0.
        Some(_) if known.numbers => {
            let text = "the body begins with the old preamble of Azure, and the registry has no such schema ids";
            return Err(Unframed::new("preamble", text));
        }
        _ => {}
    }
    if known.numbers
        && let Some(frame) = by_magic_byte(&event.body)
    {
        return Ok(frame);
    }
    if event.body.starts_with(MAGIC) {
        return Ok(Frame::Container);
    }
    match by_fingerprint(&event.body) {
        Some(frame @ Frame::Registered(_, id))
            if known.fingerprints || known.pinned.is_some_and(|ids| ids.contains(&id)) =>
        {
            return Ok(frame);
        }
        _ => {}
    }
    if known.pinned.is_some() {
        return Ok(Frame::Bare);
    }
    let mut looked_for = Vec::new();
    looked_for.extend(known.guids.then_some([CONTENT_TYPE, "the old preamble of Azure"]).into_iter().flatten());
    looked_for.extend(known.numbers.then_some("Confluent's magic byte"));
    looked_for.push("an Avro container");
    looked_for.extend(known.fingerprints.then_some("single-object encoding"));
    Err(Unframed::new("unknown", format!("{}; looked for {}", found(event), looked_for.join(", "))))
}

/// What there is in place of a framing, for words.
fn found(event: &Event) -> String {
    match content_type_of(event, |_| true) {
        Some(content_type) => format!("content type `{}` names no schema", quoted(content_type)),
        None => "the event has no content type that would name its schema".to_owned(),
    }
}

/// The first content type that `fits`: the AMQP field, then the application properties of that name, in whatever case. A
/// Kafka header arrives as one.
pub(super) fn content_type_of(event: &Event, fits: impl Fn(&&str) -> bool) -> Option<&str> {
    let named = |(name, _): &&(String, String)| name.eq_ignore_ascii_case("content-type");
    let properties = event.properties.iter().filter(named).map(|(_, value)| value.as_str());
    event.content_type.as_deref().into_iter().chain(properties).find(fits)
}

/// A content type without its parameters.
pub(super) fn media_type(content_type: &str) -> &str {
    content_type.split(';').next().unwrap_or_default().trim()
}

/// Whether a media type is JSON.
fn is_json(media_type: &str) -> bool {
    let media_type = media_type.to_ascii_lowercase();
    matches!(media_type.as_str(), "application/json" | "text/json") || media_type.ends_with("+json")
}

fn by_content_type(event: &Event) -> Option<Result<Frame, Unframed>> {
    let named = content_type_of(event, |value| after_mime(value).is_some()).and_then(after_mime)?;
    let id = SchemaId::guid(named.as_bytes()).map(|id| Frame::Registered(NamedBy::ContentType, id));
    Some(id.ok_or_else(|| {
        let text = format!("content type `{AVRO_MIME}+{}` holds no schema id of 32 hex digits", quoted(named));
        Unframed::new("content-type", text)
    }))
}

/// A CloudEvent may name its schema by a URL of the registry: the last part is the id.
fn by_data_schema(event: &Event, content_type: Option<&str>, known: Known) -> Option<Frame> {
    let is_avro = |media_type: &str| AVRO_MEDIA_TYPES.iter().any(|avro| media_type.eq_ignore_ascii_case(avro));
    if !content_type.is_none_or(is_avro) || event.properties.is_empty() {
        return None;
    }
    let url = Attributes::of_properties(event).get(Attribute::DataSchema)?;
    let path = url.split(['?', '#']).next()?.trim_end_matches('/');
    let (before, last) = path.rsplit_once('/')?;
    let id = SchemaId::parse(last)?;
    let is_known = match id.kind() {
        IdKind::Guid => known.guids,
        // A version looks like a number too.
        IdKind::Number => known.numbers && before.ends_with("/schemas/ids"),
        IdKind::Fingerprint => known.fingerprints,
    };
    is_known.then_some(Frame::Registered(NamedBy::DataSchema, id))
}

fn by_preamble(body: &[u8]) -> Option<Frame> {
    let (indicator, id) = body.get(..PREAMBLE_BYTES)?.split_at(PREAMBLE_INDICATOR.len());
    let id = SchemaId::guid(id).filter(|_| indicator == PREAMBLE_INDICATOR)?;
    Some(Frame::Registered(NamedBy::Preamble, id))
}

fn by_magic_byte(body: &[u8]) -> Option<Frame> {
    let (magic, number) = body.get(..CONFLUENT_BYTES)?.split_first()?;
    let number = u32::from_be_bytes(number.try_into().ok()?);
    let id = SchemaId::number(number).filter(|_| *magic == CONFLUENT_MAGIC)?;
    Some(Frame::Registered(NamedBy::Confluent, id))
}

/// What follows `avro/binary+`; the media type is compared without case.
fn after_mime(content_type: &str) -> Option<&str> {
    let (mime, id) = media_type(content_type).split_once('+')?;
    mime.trim().eq_ignore_ascii_case(AVRO_MIME).then(|| id.trim())
}

fn by_fingerprint(body: &[u8]) -> Option<Frame> {
    let (marker, fingerprint) = body.get(..SINGLE_OBJECT_BYTES)?.split_at(SINGLE_OBJECT_MARKER.len());
    let id = SchemaId::Fingerprint(fingerprint.try_into().ok()?);
    (marker == SINGLE_OBJECT_MARKER).then_some(Frame::Registered(NamedBy::SingleObject, id))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;

    const ID: &str = "b489dc4916744e3db72dda8f9693f342";

    const PINNED: SchemaId = SchemaId::Fingerprint([1, 2, 3, 4, 5, 6, 7, 8]);

    fn event(content_type: Option<&str>, properties: &[(&str, &str)]) -> Event {
        Event {
            sequence_number: 0,
            offset: "0".to_owned(),
            enqueued_at: 0,
            body: Bytes::new(),
            content_type: content_type.map(str::to_owned),
            properties: properties.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        }
    }

    fn known(framing: Framing, pinned: bool, guids: bool) -> Known {
        let pinned = pinned.then_some([PINNED; 2]);
        Known { format: Format::Avro, framing, pinned, guids, numbers: false, fingerprints: false }
    }

    fn by_type(id: &str) -> Result<Frame, Unframed> {
        Ok(Frame::Registered(NamedBy::ContentType, SchemaId::parse(id).expect("an id")))
    }

    fn with_body(body: &[u8]) -> Event {
        Event { body: Bytes::copy_from_slice(body), ..event(None, &[]) }
    }

    fn preamble(id: &str) -> Vec<u8> {
        [&[0; 4], id.as_bytes(), &[2, 4]].concat()
    }

    #[test]
    fn the_amqp_field_goes_before_the_property() {
        let other = "avro/binary+00000000000000000000000000000000";
        let field = format!("avro/binary+{ID}");
        let told = tell(&event(Some(&field), &[("content-type", other)]), known(Framing::Auto, false, true));
        assert_eq!(told, by_type(ID));
        for (content_type, name, value) in
            [(None, "content-type", &field), (Some("application/octet-stream"), "Content-Type", &field)]
        {
            let told = tell(&event(content_type, &[(name, value)]), known(Framing::Auto, false, true));
            assert_eq!(told, by_type(ID));
        }
    }

    #[test]
    fn the_media_type_is_compared_without_case() {
        let told = tell(&event(Some(&format!("Avro/BINARY+{ID}")), &[]), known(Framing::ContentType, false, true));
        assert_eq!(told, by_type(ID));
    }

    #[test]
    fn a_pinned_schema_takes_what_names_none() {
        for content_type in [None, Some("application/octet-stream"), Some("avro/binary"), Some("")] {
            assert_eq!(tell(&event(content_type, &[]), known(Framing::Auto, true, true)), Ok(Frame::Bare));
        }
        for content_type in ["application/json", "Text/JSON;charset=utf-8", "application/vnd.a+json"] {
            let event = event(Some(content_type), &[]);
            assert_eq!(tell(&event, known(Framing::Auto, true, true)), Ok(Frame::Json), "{content_type}");
            assert_eq!(tell(&event, known(Framing::Bare, true, true)), Ok(Frame::Bare));
        }
        assert_eq!(
            tell(&event(Some(&format!("avro/binary+{ID}")), &[]), known(Framing::Bare, true, true)),
            Ok(Frame::Bare)
        );
    }

    #[test]
    fn a_reject_names_what_was_found() {
        let text = |content_type, framing, pinned| {
            tell(&event(content_type, &[]), known(framing, pinned, true)).expect_err("no framing").text
        };
        assert_eq!(
            text(Some("application/json"), Framing::Auto, false),
            "content type `application/json` names no schema; looked for `avro/binary+<schema id>`, \
             the old preamble of Azure, an Avro container"
        );
        assert_eq!(
            text(None, Framing::ContentType, true),
            "the event has no content type that would name its schema; looked for `avro/binary+<schema id>`"
        );
        assert_eq!(
            text(Some("avro/binary+../../etc"), Framing::Auto, true),
            "content type `avro/binary+../../etc` holds no schema id of 32 hex digits"
        );
    }

    #[test]
    fn the_preamble_goes_before_the_magic_byte() {
        let id = SchemaId::parse(ID).expect("an id");
        let event = with_body(&preamble(&ID.to_uppercase()));
        let both = Known { numbers: true, ..known(Framing::Auto, false, true) };
        let frame = Frame::Registered(NamedBy::Preamble, id);
        assert_eq!(tell(&event, both), Ok(frame));
        assert_eq!((frame.prefix_bytes(), frame.name()), (36, "preamble"));
        let told = tell(&event, Known { guids: false, ..both }).expect_err("not schema 0 of Confluent");
        assert_eq!((told.framing, told.text.contains("old preamble of Azure")), ("preamble", true));
        // A content type goes before either.
        let named = Event { content_type: Some(format!("avro/binary+{ID}")), ..event.clone() };
        assert_eq!(tell(&named, both), by_type(ID));
        let forced = known(Framing::Preamble, false, true);
        assert_eq!(tell(&named, forced), Ok(frame));
        for torn in 0..36 {
            let torn = with_body(&event.body[..torn]);
            assert!(tell(&torn, forced).is_err_and(|told| told.framing == "preamble"));
            assert_ne!(tell(&torn, Known { numbers: false, ..both }), Ok(frame));
        }
    }

    #[test]
    fn the_magic_byte_is_looked_at_where_ids_are_numbers() {
        let event = with_body(&[0, 0, 0, 1, 2, 14]);
        let numbers = Known { numbers: true, ..known(Framing::Auto, false, false) };
        let frame = Frame::Registered(NamedBy::Confluent, SchemaId::parse("258").expect("an id"));
        assert_eq!((tell(&event, numbers), frame.prefix_bytes()), (Ok(frame), 5));
        assert_eq!(tell(&event, Known { pinned: Some([PINNED; 2]), ..numbers }), Ok(frame));
        assert_eq!(tell(&event, known(Framing::Auto, true, true)), Ok(Frame::Bare));
        // No number that a registry gives, and no number at all.
        for body in [&[0, 0x80, 0, 0, 1][..], &[1, 0, 0, 0, 1], &[0, 0, 0, 1], &[]] {
            let forced = tell(&with_body(body), Known { framing: Framing::Confluent, ..numbers });
            assert!(forced.is_err_and(|told| told.text.starts_with("the body doesn't begin with a zero byte")));
            let text = tell(&with_body(body), numbers).expect_err("no framing").text;
            assert!(text.ends_with("looked for Confluent's magic byte, an Avro container"), "{text}");
            assert_eq!(tell(&with_body(body), Known { pinned: Some([PINNED; 2]), ..numbers }), Ok(Frame::Bare));
        }
    }

    #[test]
    fn a_fingerprint_is_looked_at_where_a_folder_or_the_pinned_schema_may_have_it() {
        let body = |id: [u8; 8]| with_body(&[&SINGLE_OBJECT_MARKER[..], &id, &[14]].concat());
        let (pinned, other) = (body([1, 2, 3, 4, 5, 6, 7, 8]), body([8; 8]));
        let frame = Frame::Registered(NamedBy::SingleObject, PINNED);
        let known = known(Framing::Auto, true, true);
        assert_eq!((tell(&pinned, known), frame.prefix_bytes()), (Ok(frame), 10));
        assert_eq!(tell(&other, known), Ok(Frame::Bare));
        let other_frame = Frame::Registered(NamedBy::SingleObject, SchemaId::parse(&"08".repeat(8)).expect("an id"));
        assert_eq!(tell(&other, Known { fingerprints: true, ..known }), Ok(other_frame));
        let forced = Known { framing: Framing::SingleObject, ..known };
        assert_eq!(tell(&other, forced), Ok(other_frame));
        for torn in 0..10 {
            let torn = with_body(&pinned.body[..torn]);
            assert!(tell(&torn, forced).is_err_and(|told| told.framing == "single-object"));
            assert_eq!(tell(&torn, known), Ok(Frame::Bare));
        }
    }

    proptest! {
        #[test]
        fn any_body_is_told_without_panic(
            start in prop::sample::select(vec![vec![], vec![0], vec![0; 4], preamble(ID), vec![0xC3, 1], MAGIC.to_vec()]),
            rest in prop::collection::vec(any::<u8>(), 0..64),
            framing in prop::sample::select(vec![
                Framing::Auto, Framing::Preamble, Framing::Confluent, Framing::SingleObject
            ]),
            (guids, numbers, fingerprints) in any::<(bool, bool, bool)>(),
        ) {
            let event = with_body(&[start, rest].concat());
            if let Ok(frame) = tell(&event, Known { numbers, fingerprints, ..known(framing, false, guids) }) {
                prop_assert!(frame.prefix_bytes() <= event.body.len());
            }
        }

        #[test]
        fn any_content_type_is_told_without_panic(content_type in ".{0,200}") {
            let _ = tell(&event(Some(&content_type), &[]), known(Framing::Auto, false, true));
        }
    }
}
