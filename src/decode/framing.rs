//! What an event's body is, told from its content type and from what the pipeline declares.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::batch::{Event, RejectClass};
use crate::config::spec::{Format, Framing};

use super::registry::SchemaId;

/// The content type of Azure's Avro encoders: `avro/binary+<schema id>`.
const AVRO_MIME: &str = "avro/binary";

/// How much of a name from outside a reject's text repeats; longer ones would flood the log.
const QUOTED_CHARS_MAX: usize = 100;

/// What a body holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Frame {
    /// The body is the datum of a schema that the registry knows.
    Registered(SchemaId),
    /// The body is a datum of the pinned schema.
    Bare,
    /// The body stays bytes.
    Raw,
}

impl Frame {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Registered(_) => "content-type",
            Self::Bare => "bare",
            Self::Raw => "raw",
        }
    }
}

/// An event whose framing isn't known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unframed {
    pub(super) framing: &'static str,
    pub(super) text: String,
}

impl Unframed {
    pub(super) const CLASS: RejectClass = RejectClass::Framing;
}

/// What a pipeline has to tell framings with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Known {
    pub(super) format: Format,
    pub(super) framing: Framing,
    pub(super) pinned: bool,
    pub(super) registry: bool,
}

/// The content type in the AMQP field goes first, then the application property of the same name
/// (a Kafka header arrives as that), then a bare datum where a schema is pinned.
pub(super) fn tell(event: &Event, known: Known) -> Result<Frame, Unframed> {
    match (known.format, known.framing) {
        (Format::Raw, _) => Ok(Frame::Raw),
        (Format::Avro, Framing::Bare) => Ok(Frame::Bare),
        (Format::Avro, Framing::Auto) if !known.registry => Ok(Frame::Bare),
        (Format::Avro, Framing::Auto | Framing::ContentType) => by_content_type(event, known),
    }
}

fn by_content_type(event: &Event, known: Known) -> Result<Frame, Unframed> {
    let field = event.content_type.as_deref();
    let property = || {
        let found = event.properties.iter().find(|(name, _)| name.eq_ignore_ascii_case("content-type"));
        found.map(|(_, value)| value.as_str())
    };
    let named = field.and_then(after_mime).map(Cow::Borrowed).or_else(|| {
        let value = property()?;
        after_mime(value).map(Cow::Borrowed).or_else(|| behind_base64(value).map(Cow::Owned))
    });
    if let Some(text) = &named {
        return SchemaId::parse(text).map(Frame::Registered).ok_or_else(|| Unframed {
            framing: "content-type",
            text: format!("content type `{AVRO_MIME}+{}` holds no schema id of 32 hex digits", quoted(text)),
        });
    }
    if known.pinned && known.framing == Framing::Auto {
        return Ok(Frame::Bare);
    }
    let found = match field.or_else(property) {
        Some(content_type) => format!("content type `{}` names no schema", quoted(content_type)),
        None => "the event has no content type that would name its schema".to_owned(),
    };
    Err(Unframed { framing: "unknown", text: format!("{found}; looked for `{AVRO_MIME}+<schema id>`") })
}

/// What follows `avro/binary+`; the media type is compared without case.
fn after_mime(content_type: &str) -> Option<&str> {
    let (mime, id) = content_type.split_once('+')?;
    mime.trim().eq_ignore_ascii_case(AVRO_MIME).then(|| id.trim())
}

/// A Kafka header is bytes, and a property of bytes has base64 as its canonical form.
fn behind_base64(value: &str) -> Option<String> {
    let content_type = String::from_utf8(STANDARD.decode(value).ok()?).ok()?;
    after_mime(&content_type).map(str::to_owned)
}

/// A piece of text from outside, short enough to be repeated.
pub(super) fn quoted(text: &str) -> String {
    let mut shown: String = text.chars().take(QUOTED_CHARS_MAX).flat_map(char::escape_debug).collect();
    if text.chars().nth(QUOTED_CHARS_MAX).is_some() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;

    const ID: &str = "b489dc4916744e3db72dda8f9693f342";

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

    fn known(framing: Framing, pinned: bool, registry: bool) -> Known {
        Known { format: Format::Avro, framing, pinned, registry }
    }

    #[test]
    fn the_amqp_field_goes_before_the_property() {
        let other = "avro/binary+00000000000000000000000000000000";
        let field = format!("avro/binary+{ID}");
        let told = tell(&event(Some(&field), &[("content-type", other)]), known(Framing::Auto, false, true));
        assert_eq!(told, Ok(Frame::Registered(SchemaId::parse(ID).expect("an id"))));
        let bytes = STANDARD.encode(&field);
        for (content_type, name, value) in [
            (None, "content-type", &field),
            (Some("application/octet-stream"), "Content-Type", &field),
            (None, "content-type", &bytes),
        ] {
            let told = tell(&event(content_type, &[(name, value)]), known(Framing::Auto, false, true));
            assert_eq!(told, Ok(Frame::Registered(SchemaId::parse(ID).expect("an id"))));
        }
    }

    #[test]
    fn the_media_type_is_compared_without_case() {
        let told = tell(&event(Some(&format!("Avro/BINARY+{ID}")), &[]), known(Framing::ContentType, false, true));
        assert_eq!(told, Ok(Frame::Registered(SchemaId::parse(ID).expect("an id"))));
    }

    #[test]
    fn a_pinned_schema_takes_what_names_none() {
        for content_type in [None, Some("application/json"), Some("avro/binary")] {
            assert_eq!(tell(&event(content_type, &[]), known(Framing::Auto, true, true)), Ok(Frame::Bare));
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
            "content type `application/json` names no schema; looked for `avro/binary+<schema id>`"
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

    proptest! {
        #[test]
        fn any_content_type_is_told_without_panic(content_type in ".{0,200}") {
            let _ = tell(&event(Some(&content_type), &[]), known(Framing::Auto, false, true));
        }
    }
}
