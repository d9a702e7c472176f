//! Messages of producers, and the events that a partition stores of them.

use bytes::Bytes;
use fe2o3_amqp::Sendable;
use fe2o3_amqp_types::messaging::annotations::OwnedKey;
use fe2o3_amqp_types::messaging::message::__private::{Deserializable, Serializable};
use fe2o3_amqp_types::messaging::{
    AmqpValue, ApplicationProperties, Batch, Body, Data, Message, MessageAnnotations, Properties,
};
use fe2o3_amqp_types::primitives::SimpleValue;
use serde::Serialize;
use serde_amqp::Value;
use serde_amqp::primitives::{Binary, Symbol, Timestamp};
use serde_amqp::ser::Serializer;

use super::broker::StoredMessageInput;

/// The message format of a batch: its body is a row of data sections, each a whole message.
pub(super) const BATCH_FORMAT: u32 = 0x8001_3700;

const SEQUENCE_NUMBER: &str = "x-opt-sequence-number";
const OFFSET: &str = "x-opt-offset";
const ENQUEUED_TIME: &str = "x-opt-enqueued-time";
const PARTITION_KEY: &str = "x-opt-partition-key";

/// What the annotations of an event take, without a key; about.
const ANNOTATIONS_BYTES: usize = 120;

pub(super) type EventMessage = Message<Body<Value>>;

/// The place of an event in its partition.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) sequence_number: i64,
    pub(super) offset: i64,
    /// Epoch milliseconds.
    pub(super) enqueued_at: i64,
}

/// Why a delivery holds no events.
#[derive(Debug, thiserror::Error)]
pub(super) enum BadDelivery {
    #[error("the body of a batch isn't made of data sections")]
    BatchBody,
    #[error("an event of the batch isn't a message")]
    BatchedMessage(#[source] serde_amqp::Error),
}

/// The events of a delivery, and the partition key that they share.
pub(super) fn events_of(
    message: EventMessage,
    format: Option<u32>,
) -> Result<(Vec<EventMessage>, Option<String>), BadDelivery> {
    let key = partition_key(&message);
    if format != Some(BATCH_FORMAT) {
        return Ok((vec![message], key));
    }
    let sections = match message.body {
        Body::Data(sections) => sections,
        Body::Empty => return Ok((Vec::new(), key)),
        Body::Value(_) | Body::Sequence(_) => return Err(BadDelivery::BatchBody),
    };
    let events = sections
        .into_iter()
        .map(|Data(section)| {
            serde_amqp::from_slice::<Deserializable<EventMessage>>(&section)
                .map(|message| message.0)
                .map_err(BadDelivery::BatchedMessage)
        })
        .collect::<Result<Vec<_>, _>>()?;
    let key = key.or_else(|| events.first().and_then(partition_key));
    Ok((events, key))
}

fn partition_key(message: &EventMessage) -> Option<String> {
    let annotations = message.message_annotations.as_ref()?;
    let key = OwnedKey::from(PARTITION_KEY);
    match annotations.0.iter().find(|(name, _)| **name == key)?.1 {
        Value::String(key) => Some(key.clone()),
        Value::Symbol(key) => Some(key.0.clone()),
        _ => None,
    }
}

/// Writes an event as receivers get it: with its place, and otherwise as it came.
pub(super) fn encode(
    mut message: EventMessage,
    place: Place,
    partition_key: Option<&str>,
    payload_bytes: u64,
) -> Result<Bytes, serde_amqp::Error> {
    let mut annotations = message.message_annotations.take().unwrap_or_default();
    annotations.0.insert(OwnedKey::from(SEQUENCE_NUMBER), Value::Long(place.sequence_number));
    annotations.0.insert(OwnedKey::from(OFFSET), Value::String(place.offset.to_string()));
    annotations
        .0
        .insert(OwnedKey::from(ENQUEUED_TIME), Value::Timestamp(Timestamp::from_milliseconds(place.enqueued_at)));
    if let Some(key) = partition_key {
        annotations.0.insert(OwnedKey::from(PARTITION_KEY), Value::String(key.to_owned()));
    }
    message.message_annotations = Some(MessageAnnotations(annotations.0));
    message.delivery_annotations = None;
    // Grown in steps, every event would leave a hole behind where it was shrunk to fit.
    let mut bytes = Vec::with_capacity(payload_bytes as usize + ANNOTATIONS_BYTES);
    Serializable(message).serialize(&mut Serializer::new(&mut bytes))?;
    Ok(Bytes::from(bytes))
}

/// The bytes by which offsets grow: those of the event alone.
pub(super) fn payload_bytes(message: &EventMessage) -> Result<u64, serde_amqp::Error> {
    serde_amqp::serialized_size(&Serializable(message)).map(|bytes| bytes as u64)
}

/// An event that no producer sent.
pub(super) fn message_of(input: StoredMessageInput) -> EventMessage {
    let mut properties = ApplicationProperties::default();
    for (name, value) in input.properties {
        properties.0.insert(name, SimpleValue::String(value));
    }
    Message {
        header: None,
        delivery_annotations: None,
        message_annotations: None,
        properties: input
            .content_type
            .map(|content_type| Properties { content_type: Some(Symbol(content_type)), ..Properties::default() }),
        application_properties: (!properties.0.is_empty()).then_some(properties),
        body: Body::Data(Batch::new(vec![Data(Binary::from(input.body.to_vec()))])),
        footer: None,
    }
}

/// A message that was encoded before. As a body it is written verbatim, behind the three
/// bytes that open a value section; the shim takes those away.
pub(super) struct Encoded(pub(super) Bytes);

/// The name by which the AMQP serializer knows what it writes as it is (`LazyValue`).
const VERBATIM: &str = "__LAZY_VALUE";

impl Serialize for Encoded {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        struct Verbatim<'a>(&'a [u8]);
        impl Serialize for Verbatim<'_> {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_bytes(self.0)
            }
        }
        serializer.serialize_newtype_struct(VERBATIM, &Verbatim(&self.0))
    }
}

/// What a link sends for an event.
pub(super) fn sendable(message: Bytes) -> Sendable<AmqpValue<Encoded>> {
    let message = Message {
        header: None,
        delivery_annotations: None,
        message_annotations: None,
        properties: None,
        application_properties: None,
        body: AmqpValue(Encoded(message)),
        footer: None,
    };
    Sendable { message, message_format: 0, settled: Some(true) }
}
