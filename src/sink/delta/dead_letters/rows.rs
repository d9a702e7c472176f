//! A dead letter as a row of its table, written and read back.
//!
//! | columns | say |
//! |---|---|
//! | `_source`, `_partition`, `_sequence_number`, `_record_index` | the key; the index is 0, since an event is rejected whole |
//! | `_offset`, `_enqueued_at`, `_origin` | where the event was read, and by which path |
//! | `body`, `content_type`, `_properties` | the event itself; null once it expired |
//! | `framing`, `_schema_id` | how it was framed, as far as that was told |
//! | `error_class`, `error`, `attempt`, `tried_at` | why the last try failed, which one it was, and when |
//! | `pipeline`, `config_hash` | who tried last |
//! | `rejected_at` | when it failed first |
//! | `replayed_at` | since when it is known to have a row: it counts no more |
//! | `replayed_to` | the table of that row, where it is another: here the letter goes on accounting for its number |
//! | `expired_at` | since when its bytes are gone, by retention or because somebody dropped it |

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryBuilder, Int32Builder, Int64Builder, MapBuilder, MapFieldNames, RecordBatch,
    StringBuilder, TimestampMicrosecondBuilder, new_null_array,
};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Int32Type, Int64Type, Schema, SchemaRef, TimestampMicrosecondType};
use arrow::error::ArrowError;
use bytes::Bytes;

use super::{Letter, Writer};
use crate::batch::{Event, Origin, bronze};
use crate::checkpoint::{PartitionKey, SourceId};

pub const BODY: &str = "body";
pub const EXPIRED_AT: &str = "expired_at";
pub const REPLAYED_AT: &str = "replayed_at";
pub const REPLAYED_TO: &str = "replayed_to";
pub const REJECTED_AT: &str = "rejected_at";
const CONTENT_TYPE: &str = "content_type";
const FRAMING: &str = "framing";
const ERROR_CLASS: &str = "error_class";
const ERROR: &str = "error";
const PIPELINE: &str = "pipeline";
const CONFIG_HASH: &str = "config_hash";
const ATTEMPT: &str = "attempt";
const TRIED_AT: &str = "tried_at";

/// The columns of which the log tells the least and the greatest value. No text that an event has a part in is among
/// them: the log remembers for weeks what the table has let go.
pub const INDEXED: [&str; 10] = [
    bronze::SOURCE,
    bronze::PARTITION,
    bronze::SEQUENCE_NUMBER,
    bronze::RECORD_INDEX,
    bronze::ENQUEUED_AT,
    REJECTED_AT,
    TRIED_AT,
    REPLAYED_AT,
    REPLAYED_TO,
    EXPIRED_AT,
];

/// What a letter takes in memory beside its texts: its own fields, and what allocators add.
const FIXED_BYTES: usize = 512;

/// A dead letter as its table holds it. Times are epoch microseconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    pub partition: PartitionKey,
    pub sequence_number: i64,
    pub record_index: i32,
    pub offset: Option<String>,
    pub enqueued_at_us: Option<i64>,
    /// None once it expired.
    pub body: Option<Bytes>,
    pub content_type: Option<String>,
    pub framing: Option<String>,
    pub schema_id: Option<String>,
    pub properties: Vec<(String, String)>,
    pub error_class: Option<String>,
    pub error: Option<String>,
    pub pipeline: Option<String>,
    pub config_hash: Option<String>,
    /// Counts from 1.
    pub attempt: i32,
    pub rejected_at_us: Option<i64>,
    /// None where letters of before this column are concerned, or the first try is the last.
    pub tried_at_us: Option<i64>,
    pub origin: Option<String>,
    pub replayed_at_us: Option<i64>,
    pub expired_at_us: Option<i64>,
    pub replayed_to: Option<String>,
}

/// What became of a dead letter, as far as its own row says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LetterState {
    /// It may be replayed or dropped.
    Waiting,
    /// The event has a row.
    Replayed,
    /// Its bytes are gone.
    Expired,
}

impl DeadLetter {
    pub(super) fn new(letter: &Letter<'_>, writer: &Writer, now_us: i64) -> Self {
        let (reject, event) = (letter.reject, &letter.reject.event);
        Self {
            partition: letter.partition.clone(),
            sequence_number: event.sequence_number,
            record_index: reject.record_index,
            offset: Some(event.offset.clone()),
            enqueued_at_us: Some(event.enqueued_at.saturating_mul(1000)),
            body: Some(event.body.clone()),
            content_type: event.content_type.clone(),
            framing: Some(reject.framing.to_owned()),
            schema_id: reject.schema_id.clone(),
            properties: event.properties.clone(),
            error_class: Some(reject.class.as_str().to_owned()),
            error: Some(reject.text.clone()),
            pipeline: Some(writer.pipeline.clone()),
            config_hash: Some(writer.config_hash.clone()),
            attempt: 1,
            rejected_at_us: Some(now_us),
            tried_at_us: Some(now_us),
            origin: Some(reject.origin.as_str().to_owned()),
            replayed_at_us: None,
            expired_at_us: None,
            replayed_to: None,
        }
    }

    pub fn state(&self) -> LetterState {
        match (self.replayed_at_us, self.expired_at_us) {
            (Some(_), _) => LetterState::Replayed,
            (None, Some(_)) => LetterState::Expired,
            (None, None) => LetterState::Waiting,
        }
    }

    /// The event as it came; none where the letter doesn't hold it any more.
    pub fn event(&self) -> Option<Event> {
        Some(Event {
            sequence_number: self.sequence_number,
            offset: self.offset.clone().unwrap_or_default(),
            enqueued_at: self.enqueued_at_us?.div_euclid(1000),
            body: self.body.clone()?,
            content_type: self.content_type.clone(),
            properties: self.properties.clone(),
        })
    }

    pub fn event_origin(&self) -> Origin {
        Origin::of_dead_letter(self.origin.as_deref())
    }

    /// Forgets what the event said. What stays accounts for its number, and says what was wrong with it; the words of
    /// the error may repeat what stood in it, so they go, too.
    pub fn expire(&mut self, now_us: i64) {
        self.body = None;
        self.content_type = None;
        self.properties = Vec::new();
        self.error = None;
        self.expired_at_us = Some(now_us);
    }

    /// Roughly what it holds in memory.
    pub fn memory_bytes(&self) -> usize {
        let texts = [
            &self.offset,
            &self.content_type,
            &self.framing,
            &self.schema_id,
            &self.error_class,
            &self.error,
            &self.pipeline,
            &self.config_hash,
            &self.origin,
        ];
        let texts: usize = texts.into_iter().flatten().map(String::len).sum();
        let properties: usize = self.properties.iter().map(|(key, value)| key.len() + value.len() + 48).sum();
        FIXED_BYTES + texts + properties + self.body.as_ref().map_or(0, Bytes::len)
    }
}

/// The columns of a dead-letter table.
pub fn schema() -> SchemaRef {
    let text = |name: &str| Field::new(name, DataType::Utf8, true);
    let time = |name: &str| Field::new(name, bronze::timestamp(), true);
    Arc::new(Schema::new(vec![
        text(bronze::SOURCE),
        text(bronze::PARTITION),
        Field::new(bronze::SEQUENCE_NUMBER, DataType::Int64, true),
        Field::new(bronze::RECORD_INDEX, DataType::Int32, true),
        text(bronze::OFFSET),
        time(bronze::ENQUEUED_AT),
        Field::new(BODY, DataType::Binary, true),
        text(CONTENT_TYPE),
        text(FRAMING),
        text(bronze::SCHEMA_ID),
        Field::new(bronze::PROPERTIES, bronze::string_map(), true),
        text(ERROR_CLASS),
        text(ERROR),
        text(PIPELINE),
        text(CONFIG_HASH),
        Field::new(ATTEMPT, DataType::Int32, true),
        time(REJECTED_AT),
        text(bronze::ORIGIN),
        time(TRIED_AT),
        time(REPLAYED_AT),
        time(EXPIRED_AT),
        text(REPLAYED_TO),
    ]))
}

/// The columns that a table of `held` has and, after them, those that it lacks of ours: tables of earlier versions
/// have fewer. None where it lacks none.
pub(super) fn with_ours(held: &Schema) -> Option<Schema> {
    let is_lacking = |field: &&Arc<Field>| held.column_with_name(field.name()).is_none();
    let ours = schema();
    let lacking: Vec<_> = ours.fields().iter().filter(is_lacking).cloned().collect();
    let fields: Vec<_> = held.fields().iter().cloned().chain(lacking.iter().cloned()).collect();
    (!lacking.is_empty()).then(|| Schema::new_with_metadata(fields, held.metadata().clone()))
}

/// A column that isn't ours, if there is one.
pub(super) fn foreign_column(held: &Schema) -> Option<&str> {
    let ours = schema();
    held.fields().iter().map(|field| field.name().as_str()).find(|name| ours.column_with_name(name).is_none())
}

/// Rows in the order of [`schema`].
///
/// # Errors
/// [`ArrowError`] never, as long as the columns are of the types that the schema says.
pub fn to_rows<'a>(letters: impl IntoIterator<Item = &'a DeadLetter>) -> Result<RecordBatch, ArrowError> {
    let mut texts: [StringBuilder; 12] = std::array::from_fn(|_| StringBuilder::new());
    let mut times: [_; 5] = std::array::from_fn(|_| TimestampMicrosecondBuilder::new().with_timezone("UTC"));
    let mut numbers = Int64Builder::new();
    let mut indexes = Int32Builder::new();
    let mut attempts = Int32Builder::new();
    let mut bodies = BinaryBuilder::new();
    let names = MapFieldNames { entry: "key_value".into(), key: "key".into(), value: "value".into() };
    let mut properties = MapBuilder::new(Some(names), StringBuilder::new(), StringBuilder::new());
    for letter in letters {
        let values: [Option<&str>; 12] = [
            Some(letter.partition.source.as_str()),
            Some(&letter.partition.partition),
            letter.offset.as_deref(),
            letter.content_type.as_deref(),
            letter.framing.as_deref(),
            letter.schema_id.as_deref(),
            letter.error_class.as_deref(),
            letter.error.as_deref(),
            letter.pipeline.as_deref(),
            letter.config_hash.as_deref(),
            letter.origin.as_deref(),
            letter.replayed_to.as_deref(),
        ];
        for (builder, value) in texts.iter_mut().zip(values) {
            builder.append_option(value);
        }
        let at = [
            letter.enqueued_at_us,
            letter.rejected_at_us,
            letter.tried_at_us,
            letter.replayed_at_us,
            letter.expired_at_us,
        ];
        for (builder, value) in times.iter_mut().zip(at) {
            builder.append_option(value);
        }
        numbers.append_value(letter.sequence_number);
        indexes.append_value(letter.record_index);
        attempts.append_value(letter.attempt);
        bodies.append_option(letter.body.as_ref());
        for (key, value) in &letter.properties {
            properties.keys().append_value(key);
            properties.values().append_value(value);
        }
        properties.append(letter.body.is_some())?;
    }
    let [
        source,
        partition,
        offset,
        content_type,
        framing,
        schema_id,
        class,
        error,
        pipeline,
        hash,
        origin,
        replayed_to,
    ] = texts.map(|mut builder| Arc::new(builder.finish()) as ArrayRef);
    let [enqueued, rejected, tried, replayed, expired] =
        times.map(|mut builder| Arc::new(builder.finish()) as ArrayRef);
    let numbers: ArrayRef = Arc::new(numbers.finish());
    let (indexes, attempts): (ArrayRef, ArrayRef) = (Arc::new(indexes.finish()), Arc::new(attempts.finish()));
    let (bodies, properties): (ArrayRef, ArrayRef) = (Arc::new(bodies.finish()), Arc::new(properties.finish()));
    RecordBatch::try_new(
        schema(),
        vec![
            source,
            partition,
            numbers,
            indexes,
            offset,
            enqueued,
            bodies,
            content_type,
            framing,
            schema_id,
            properties,
            class,
            error,
            pipeline,
            hash,
            attempts,
            rejected,
            origin,
            tried,
            replayed,
            expired,
            replayed_to,
        ],
    )
}

/// Rows of a dead-letter table, whoever wrote the file: columns are found by their names, and those that it lacks
/// are null.
pub struct Rows {
    columns: Vec<ArrayRef>,
    rows: usize,
}

impl Rows {
    /// # Errors
    /// [`ArrowError`] when a column holds what ours can't.
    pub fn of(batch: &RecordBatch) -> Result<Self, ArrowError> {
        let rows = batch.num_rows();
        let ours = schema();
        let column = |field: &Arc<Field>| match batch.column_by_name(field.name()) {
            Some(column) if column.data_type() == field.data_type() => Ok(Arc::clone(column)),
            Some(column) => cast(column, field.data_type()),
            None => Ok(new_null_array(field.data_type(), rows)),
        };
        Ok(Self { columns: ours.fields().iter().map(column).collect::<Result<_, _>>()?, rows })
    }

    /// The rows with our columns.
    ///
    /// # Errors
    /// As [`to_rows`]
    pub fn into_batch(self) -> Result<RecordBatch, ArrowError> {
        RecordBatch::try_new(schema(), self.columns)
    }

    /// The letters, in the order of the rows; none for a row without a key, which nothing of ours writes.
    pub fn letters(&self) -> impl Iterator<Item = Option<DeadLetter>> + '_ {
        (0..self.rows).map(|row| self.letter(row))
    }

    fn letter(&self, row: usize) -> Option<DeadLetter> {
        let text = |at: usize| {
            let array = self.columns[at].as_string::<i32>();
            array.is_valid(row).then(|| array.value(row).to_owned())
        };
        let time = |at: usize| {
            let array = self.columns[at].as_primitive::<TimestampMicrosecondType>();
            array.is_valid(row).then(|| array.value(row))
        };
        let small = |at: usize| {
            let array = self.columns[at].as_primitive::<Int32Type>();
            array.is_valid(row).then(|| array.value(row))
        };
        let numbers = self.columns[2].as_primitive::<Int64Type>();
        let bodies = self.columns[6].as_binary::<i32>();
        Some(DeadLetter {
            partition: PartitionKey::new(SourceId::new(text(0)?), text(1)?),
            sequence_number: numbers.is_valid(row).then(|| numbers.value(row))?,
            record_index: small(3).unwrap_or(0),
            offset: text(4),
            enqueued_at_us: time(5),
            body: bodies.is_valid(row).then(|| Bytes::copy_from_slice(bodies.value(row))),
            content_type: text(7),
            framing: text(8),
            schema_id: text(9),
            properties: self.properties(row),
            error_class: text(11),
            error: text(12),
            pipeline: text(13),
            config_hash: text(14),
            attempt: small(15).unwrap_or(1),
            rejected_at_us: time(16),
            origin: text(17),
            tried_at_us: time(18),
            replayed_at_us: time(19),
            expired_at_us: time(20),
            replayed_to: text(21),
        })
    }

    fn properties(&self, row: usize) -> Vec<(String, String)> {
        let map = self.columns[10].as_map();
        if !map.is_valid(row) {
            return Vec::new();
        }
        let entries = map.value(row);
        let (keys, values) = (entries.column(0).as_string::<i32>(), entries.column(1).as_string::<i32>());
        let value = |at: usize| if values.is_valid(at) { values.value(at) } else { "" };
        (0..entries.len()).map(|at| (keys.value(at).to_owned(), value(at).to_owned())).collect()
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Int64Array, StringArray};

    use super::*;

    fn letter(number: i64) -> DeadLetter {
        DeadLetter {
            partition: PartitionKey::new(SourceId::new("emulator/leads"), "0"),
            sequence_number: number,
            record_index: 0,
            offset: Some("17".to_owned()),
            enqueued_at_us: Some(1_700_000_000_123_000),
            body: Some(Bytes::from_static(b"\x00\xff")),
            content_type: Some("avro/binary+x".to_owned()),
            framing: Some("content-type".to_owned()),
            schema_id: None,
            properties: vec![("b".to_owned(), "2".to_owned()), ("a".to_owned(), String::new())],
            error_class: Some("datum".to_owned()),
            error: Some("it ends early".to_owned()),
            pipeline: Some("leads".to_owned()),
            config_hash: Some("0".repeat(64)),
            attempt: 3,
            rejected_at_us: Some(1),
            tried_at_us: Some(2),
            origin: Some("live".to_owned()),
            replayed_at_us: None,
            expired_at_us: None,
            replayed_to: Some("bronze.other".to_owned()),
        }
    }

    #[test]
    fn letters_are_read_as_they_were_written() {
        let mut expired = letter(8);
        expired.expire(99);
        assert_eq!((expired.state(), expired.event()), (LetterState::Expired, None));
        let letters = [letter(7), expired];
        let rows = Rows::of(&to_rows(&letters).expect("rows")).expect("our columns");
        let read: Vec<_> = rows.letters().flatten().collect();
        assert_eq!(read, letters);
        assert_eq!(read[0].event().map(|event| event.enqueued_at), Some(1_700_000_000_123));
    }

    #[test]
    fn columns_that_a_table_lacks_are_null_and_are_added_behind_the_others() {
        let held = Schema::new(vec![
            Field::new(bronze::PARTITION, DataType::Utf8, true),
            Field::new(bronze::SOURCE, DataType::LargeUtf8, true),
            Field::new(bronze::SEQUENCE_NUMBER, DataType::Int64, true),
        ]);
        let columns: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from(vec![Some("0"), None])),
            cast(&StringArray::from(vec!["hub", "hub"]), &DataType::LargeUtf8).expect("a cast"),
            Arc::new(Int64Array::from(vec![5, 6])),
        ];
        let batch = RecordBatch::try_new(Arc::new(held.clone()), columns).expect("a batch");
        let rows = Rows::of(&batch).expect("ours");
        let read: Vec<_> = rows.letters().collect();
        assert_eq!(read[0].as_ref().map(|letter| (letter.sequence_number, letter.attempt)), Some((5, 1)));
        assert_eq!(read[1], None, "a row without a key is no letter");
        let joined = with_ours(&held).expect("it lacks most");
        assert_eq!(joined.field(0).name(), bronze::PARTITION);
        assert_eq!(joined.fields().len(), schema().fields().len());
        assert_eq!(with_ours(&joined), None);
    }
}
