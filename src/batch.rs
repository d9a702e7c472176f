//! What flows between the stages: events in, rows and rejects out.
//!
//! ```text
//! source ─▶ EventBatch ─▶ decode ─▶ Decoded { batches, rejects } ─▶ sink
//! ```
//!
//! An [`EventBatch`] holds events of one partition in ascending order of their sequence
//! numbers. [`Decoded`] holds the bronze rows of such a batch, and what could not become a row.

use std::sync::{Arc, LazyLock};

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef, TimeUnit};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;

use crate::checkpoint::PartitionKey;

/// One event as its source delivered it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    pub sequence_number: i64,
    /// Opaque: a decimal on plain hubs, something else with geo-replication.
    pub offset: String,
    /// Epoch milliseconds, UTC.
    pub enqueued_at: i64,
    pub body: Bytes,
    /// The content type of the AMQP message.
    pub content_type: Option<String>,
    /// Application properties in their canonical string form, in the order of arrival.
    pub properties: Vec<(String, String)>,
}

impl Event {
    /// Roughly what the event holds in memory.
    pub fn memory_bytes(&self) -> usize {
        const FIXED: usize = size_of::<Event>();
        FIXED
            + self.body.len()
            + self.offset.len()
            + self.content_type.as_ref().map_or(0, String::len)
            + self.properties.iter().map(|(key, value)| key.len() + value.len() + 48).sum::<usize>()
    }

    /// The value of an application property.
    pub fn property(&self, name: &str) -> Option<&str> {
        self.properties.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// The canonical string of a property that is bytes: base64. Headers of CloudEvents in Kafka and their content type are
/// texts by their specification, and the Kafka endpoint of Event Hubs hands every header on as bytes.
pub fn text_of_bytes(name: &str, value: &[u8]) -> String {
    let is_text = name.starts_with("ce_") || name.eq_ignore_ascii_case("content-type");
    match std::str::from_utf8(value) {
        Ok(text) if is_text => text.to_owned(),
        _ => STANDARD.encode(value),
    }
}

/// By which path an event came; becomes the column `_origin`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    Live,
    /// The URL of the capture blob.
    Capture(Arc<str>),
    /// From the dead letters, which didn't keep by which path it had come.
    DeadLetter,
}

impl Origin {
    pub fn as_str(&self) -> &str {
        match self {
            Self::Live => "live",
            Self::Capture(url) => url,
            Self::DeadLetter => "dead-letter",
        }
    }

    /// The path of an event whose dead letter says this of it.
    pub fn of_dead_letter(text: Option<&str>) -> Self {
        match text {
            Some("live") => Self::Live,
            Some(url) if url != Self::DeadLetter.as_str() => Self::Capture(url.into()),
            _ => Self::DeadLetter,
        }
    }
}

/// Events of one partition, ascending by sequence number.
#[derive(Debug, Clone)]
pub struct EventBatch {
    pub partition: PartitionKey,
    pub origin: Origin,
    pub events: Vec<Event>,
}

impl EventBatch {
    pub fn memory_bytes(&self) -> usize {
        self.events.iter().map(Event::memory_bytes).sum()
    }
}

/// Why an event could not become a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RejectClass {
    /// No framing that the pipeline knows.
    Framing,
    /// The registry says that it has no such schema.
    SchemaNotFound,
    /// The schema itself can't be used.
    SchemaUnusable,
    /// The bytes aren't a datum of the schema, or no JSON, or none that fits it.
    Datum,
    /// A CloudEvents attribute that the pipeline requires is missing or malformed.
    Attribute,
    /// It could be decoded, and a route rejects it.
    NoRoute,
}

impl RejectClass {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Framing => "framing",
            Self::SchemaNotFound => "schema_not_found",
            Self::SchemaUnusable => "schema_unusable",
            Self::Datum => "datum",
            Self::Attribute => "attribute",
            Self::NoRoute => "no_route",
        }
    }
}

/// An event that could not become a row, with its bytes, position and reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reject {
    pub event: Event,
    pub origin: Origin,
    pub record_index: i32,
    pub schema_id: Option<String>,
    /// How the event was framed, as far as that was told.
    pub framing: &'static str,
    pub class: RejectClass,
    pub text: String,
}

/// What decoding an [`EventBatch`] gave: each event is in exactly one of the two.
#[derive(Debug, Default)]
pub struct Decoded {
    /// Bronze rows: the payload's columns, then [`bronze::fields`]. One batch for each writer
    /// schema that was met, so their schemas may differ; rows ascend by `_sequence_number`
    /// within each.
    pub batches: Vec<RecordBatch>,
    /// Of each batch the full name of its writer schema, where it has one.
    pub schema_names: Vec<Option<Arc<str>>>,
    pub rejects: Vec<Reject>,
}

impl Decoded {
    /// What rows and rejects hold in memory.
    pub fn memory_bytes(&self) -> usize {
        let rows: usize = self.batches.iter().map(RecordBatch::get_array_memory_size).sum();
        rows + self.rejects.iter().map(|reject| reject.event.memory_bytes() + reject.text.len()).sum::<usize>()
    }
}

/// The columns that every bronze table has beside the payload's.
pub mod bronze {
    use super::*;

    pub const SOURCE: &str = "_source";
    pub const PARTITION: &str = "_partition";
    pub const SEQUENCE_NUMBER: &str = "_sequence_number";
    pub const RECORD_INDEX: &str = "_record_index";
    pub const OFFSET: &str = "_offset";
    pub const ENQUEUED_AT: &str = "_enqueued_at";
    pub const ENQUEUED_DATE: &str = "_enqueued_date";
    pub const EVENT_ID: &str = "_event_id";
    pub const EVENT_SOURCE: &str = "_event_source";
    pub const EVENT_TYPE: &str = "_event_type";
    pub const EVENT_TIME: &str = "_event_time";
    pub const SCHEMA_ID: &str = "_schema_id";
    pub const PROPERTIES: &str = "_properties";
    pub const RESCUED: &str = "_rescued";
    pub const ORIGIN: &str = "_origin";

    /// Timestamps are microseconds, UTC: Delta's `timestamp`.
    pub fn timestamp() -> DataType {
        DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
    }

    /// `map<string, string>` with the field names that Delta's Arrow schema uses.
    pub fn string_map() -> DataType {
        let entries =
            Fields::from(vec![Field::new("key", DataType::Utf8, false), Field::new("value", DataType::Utf8, true)]);
        DataType::Map(Arc::new(Field::new("key_value", DataType::Struct(entries), false)), false)
    }

    /// The schema of rows: a payload's columns, then those of the envelope.
    pub fn with_envelope(payload: impl IntoIterator<Item = FieldRef>) -> SchemaRef {
        Arc::new(Schema::new(payload.into_iter().chain(fields().iter().cloned()).collect::<Vec<_>>()))
    }

    /// In the order in which they follow the payload's columns; all nullable.
    pub fn fields() -> &'static [FieldRef] {
        static FIELDS: LazyLock<Vec<FieldRef>> = LazyLock::new(|| {
            [
                (SOURCE, DataType::Utf8),
                (PARTITION, DataType::Utf8),
                (SEQUENCE_NUMBER, DataType::Int64),
                (RECORD_INDEX, DataType::Int32),
                (OFFSET, DataType::Utf8),
                (ENQUEUED_AT, timestamp()),
                (ENQUEUED_DATE, DataType::Date32),
                (EVENT_ID, DataType::Utf8),
                (EVENT_SOURCE, DataType::Utf8),
                (EVENT_TYPE, DataType::Utf8),
                (EVENT_TIME, timestamp()),
                (SCHEMA_ID, DataType::Utf8),
                (PROPERTIES, string_map()),
                (RESCUED, DataType::Utf8),
                (ORIGIN, DataType::Utf8),
            ]
            .into_iter()
            .map(|(name, data_type)| Arc::new(Field::new(name, data_type, true)))
            .collect()
        });
        &FIELDS
    }
}
