//! From an AMQP message to an [`Event`].
//!
//! Only `Data` sections are a body; several are joined. A message whose body is an AMQP value
//! or sequence, as no Event Hubs client writes it, becomes an event with an empty body and the
//! property [`BODY_PROPERTY`], `value` or `sequence`: decoding rejects it, and the dead letter
//! says why.
//!
//! Application properties of any AMQP type become strings: numbers and booleans as written in
//! JSON, timestamps RFC 3339 in UTC with milliseconds, binary as base64 (but as text where a name says so: `ce_…` and
//! `content-type`), UUIDs with hyphens,
//! decimals as the hex of their bits, null as the empty string, described values (as .NET writes
//! `DateTimeOffset`, `TimeSpan` and `Uri`) as the value alone.

use std::time::SystemTime;

use azure_core_amqp::message::AmqpMessageBody;
use azure_messaging_eventhubs::models::{AmqpMessage, AmqpSimpleValue, AmqpValue, ReceivedEventData};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use chrono::{DateTime, SecondsFormat, Utc};

use crate::batch::{Event, text_of_bytes};

/// Says that the message's body was no bytes.
pub const BODY_PROPERTY: &str = "_amqp_body";

/// An event, or what it lacks.
pub(super) fn event(received: &ReceivedEventData) -> Result<Event, &'static str> {
    let sequence_number = received.sequence_number().ok_or("an event came without a sequence number")?;
    let enqueued_at = received.enqueued_time().ok_or("an event came without an enqueued time")?;
    let message = received.raw_amqp_message();
    let (body, foreign) = body(&message.body);
    let mut properties = properties(message);
    if let Some(form) = foreign {
        properties.push((BODY_PROPERTY.to_owned(), form.to_owned()));
    }
    Ok(Event {
        sequence_number,
        offset: received.offset().clone().unwrap_or_default(),
        enqueued_at: epoch_ms(enqueued_at),
        body,
        content_type: message
            .properties
            .as_ref()
            .and_then(|properties| properties.content_type.as_ref())
            .map(|symbol| symbol.0.clone()),
        properties,
    })
}

fn body(body: &AmqpMessageBody) -> (Bytes, Option<&'static str>) {
    match body {
        AmqpMessageBody::Binary(sections) => match sections.as_slice() {
            [] => (Bytes::new(), None),
            [section] => (Bytes::copy_from_slice(section), None),
            sections => (Bytes::from(sections.concat()), None),
        },
        AmqpMessageBody::Empty => (Bytes::new(), None),
        AmqpMessageBody::Value(_) => (Bytes::new(), Some("value")),
        AmqpMessageBody::Sequence(_) => (Bytes::new(), Some("sequence")),
    }
}

fn properties(message: &AmqpMessage) -> Vec<(String, String)> {
    let Some(properties) = &message.application_properties else {
        return Vec::new();
    };
    let text = |(name, value): (&String, &AmqpSimpleValue)| match value {
        AmqpSimpleValue::Binary(value) => text_of_bytes(name, value),
        value => text(value),
    };
    properties.0.iter().map(|entry| (entry.0.clone(), text(entry))).collect()
}

fn text(value: &AmqpSimpleValue) -> String {
    match value {
        AmqpSimpleValue::Null => String::new(),
        AmqpSimpleValue::Boolean(value) => value.to_string(),
        AmqpSimpleValue::UByte(value) => value.to_string(),
        AmqpSimpleValue::Byte(value) => value.to_string(),
        AmqpSimpleValue::Char(value) => value.to_string(),
        AmqpSimpleValue::UShort(value) => value.to_string(),
        AmqpSimpleValue::Short(value) => value.to_string(),
        AmqpSimpleValue::UInt(value) => value.to_string(),
        AmqpSimpleValue::Int(value) => value.to_string(),
        AmqpSimpleValue::ULong(value) => value.to_string(),
        AmqpSimpleValue::Long(value) => value.to_string(),
        AmqpSimpleValue::Float(value) => value.to_string(),
        AmqpSimpleValue::Double(value) => value.to_string(),
        AmqpSimpleValue::Decimal128(bits) => hex(bits),
        AmqpSimpleValue::Decimal64(bits) => hex(bits),
        AmqpSimpleValue::Decimal32(bits) => hex(bits),
        AmqpSimpleValue::TimeStamp(timestamp) => timestamp.0.map(rfc3339).unwrap_or_default(),
        AmqpSimpleValue::Uuid(value) => value.to_string(),
        AmqpSimpleValue::String(value) => value.clone(),
        AmqpSimpleValue::Symbol(value) => value.0.clone(),
        AmqpSimpleValue::Binary(value) => STANDARD.encode(value),
        AmqpSimpleValue::Described(value) => described(&value.value),
    }
}

/// Event Hubs clients of .NET write times, durations and URIs as described strings and longs.
fn described(value: &AmqpValue) -> String {
    match value {
        AmqpValue::String(value) => value.clone(),
        AmqpValue::Symbol(value) => value.0.clone(),
        AmqpValue::Long(value) => value.to_string(),
        AmqpValue::ULong(value) => value.to_string(),
        AmqpValue::Int(value) => value.to_string(),
        AmqpValue::UInt(value) => value.to_string(),
        AmqpValue::Binary(value) => STANDARD.encode(value),
        other => format!("{other:?}"),
    }
}

fn hex(bits: &[u8]) -> String {
    bits.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn rfc3339(time: SystemTime) -> String {
    DateTime::<Utc>::from(time).to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// Epoch milliseconds, also of times before it.
pub(super) fn epoch_ms(time: SystemTime) -> i64 {
    DateTime::<Utc>::from(time).timestamp_millis()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use azure_core_amqp::message::{AmqpAnnotationKey, AmqpAnnotations};
    use azure_core_amqp::{AmqpDescribed, AmqpList, AmqpSymbol, AmqpTimestamp};

    use super::*;

    fn received(body: AmqpMessageBody, annotations: &[(&str, AmqpValue)]) -> ReceivedEventData {
        let mut message = AmqpMessage::builder()
            .with_body(body)
            .add_application_property("tries".to_owned(), AmqpSimpleValue::Long(-3))
            .add_application_property("first".to_owned(), AmqpSimpleValue::Boolean(true))
            .build();
        let mut all = AmqpAnnotations::new();
        for (name, value) in annotations {
            all.insert(AmqpAnnotationKey::Symbol(AmqpSymbol::from(*name)), value.clone());
        }
        message.message_annotations = Some(all);
        ReceivedEventData::from(message)
    }

    fn system(number: i64) -> [(&'static str, AmqpValue); 3] {
        [
            ("x-opt-sequence-number", AmqpValue::Long(number)),
            ("x-opt-offset", AmqpValue::String("4096".to_owned())),
            (
                "x-opt-enqueued-time",
                AmqpValue::TimeStamp(AmqpTimestamp(Some(UNIX_EPOCH + Duration::from_millis(1_700_000_000_123)))),
            ),
        ]
    }

    #[test]
    fn data_sections_are_joined_and_system_properties_read() {
        let sections = AmqpMessageBody::Binary(vec![b"ab".to_vec(), b"c".to_vec()]);
        let event = event(&received(sections, &system(7))).expect("a whole event");
        assert_eq!((event.sequence_number, event.offset.as_str()), (7, "4096"));
        assert_eq!(event.enqueued_at, 1_700_000_000_123);
        assert_eq!(event.body, Bytes::from_static(b"abc"));
        assert_eq!(event.properties, [("tries".into(), "-3".into()), ("first".into(), "true".into())]);
    }

    #[test]
    fn a_body_that_is_no_bytes_is_empty_and_says_so() {
        for (body, form) in [
            (AmqpMessageBody::Value(AmqpValue::from("text")), "value"),
            (AmqpMessageBody::Sequence(vec![AmqpList::new()]), "sequence"),
        ] {
            let event = event(&received(body, &system(0))).expect("a whole event");
            assert!(event.body.is_empty());
            assert_eq!(event.property(BODY_PROPERTY), Some(form));
        }
        let empty = event(&received(AmqpMessageBody::Empty, &system(0))).expect("a whole event");
        assert_eq!(empty.property(BODY_PROPERTY), None);
    }

    #[test]
    fn a_header_of_kafka_is_text_where_its_specification_says_so() {
        let mut message = received(AmqpMessageBody::from(b"x".to_vec()), &system(0)).raw_amqp_message().clone();
        let mut properties = azure_core_amqp::message::AmqpApplicationProperties::default();
        for (name, value) in [
            ("ce_source", &b"/leads/K\xc3\xb6ln"[..]),
            ("Content-Type", b"avro/binary+1"),
            ("ce_raw", b"\xFF"),
            ("tenant", b"7"),
        ] {
            properties.0.insert(name.to_owned(), AmqpSimpleValue::Binary(value.to_vec()));
        }
        message.application_properties = Some(properties);
        let event = event(&ReceivedEventData::from(message)).expect("a whole event");
        let text = |name: &str| event.property(name).expect("the property").to_owned();
        assert_eq!((text("ce_source"), text("Content-Type")), ("/leads/Köln".to_owned(), "avro/binary+1".to_owned()));
        assert_eq!((text("ce_raw"), text("tenant")), ("/w==".to_owned(), "Nw==".to_owned()));
    }

    #[test]
    fn an_event_without_number_or_time_is_refused() {
        let body = || AmqpMessageBody::from(b"x".to_vec());
        assert!(event(&received(body(), &system(0)[1..])).is_err());
        assert!(event(&received(body(), &system(0)[..2])).is_err());
    }

    #[test]
    fn every_property_type_has_its_text() {
        let time = AmqpTimestamp(Some(UNIX_EPOCH + Duration::from_millis(1_500)));
        for (value, expected) in [
            (AmqpSimpleValue::Null, ""),
            (AmqpSimpleValue::ULong(u64::MAX), "18446744073709551615"),
            (AmqpSimpleValue::Double(0.1), "0.1"),
            (AmqpSimpleValue::Char('ß'), "ß"),
            (AmqpSimpleValue::Binary(vec![0xfb, 0xff]), "+/8="),
            (AmqpSimpleValue::TimeStamp(time), "1970-01-01T00:00:01.500Z"),
            (AmqpSimpleValue::Symbol(AmqpSymbol::from("s")), "s"),
            (AmqpSimpleValue::Decimal32([0x22, 0x50, 0x00, 0x01]), "22500001"),
            (AmqpSimpleValue::Described(Box::new(AmqpDescribed::new("com.microsoft:timespan", 5i64))), "5"),
            (AmqpSimpleValue::Uuid(azure_core::Uuid::nil()), "00000000-0000-0000-0000-000000000000"),
        ] {
            assert_eq!(text(&value), expected);
        }
    }
}
