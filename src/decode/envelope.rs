//! The bronze columns: what is known of an event beside its payload.
//!
//! | column | from |
//! |---|---|
//! | `_source`, `_partition`, `_sequence_number`, `_offset`, `_origin` | where the event was read |
//! | `_record_index` | which record of the body it is: 0, unless the body is a container or a batch of CloudEvents |
//! | `_enqueued_at`, `_enqueued_date` | the enqueued time; its day in UTC |
//! | `_event_id`, `_event_source`, `_event_type`, `_event_time` | CloudEvents attributes; null where one is missing or malformed |
//! | `_schema_id` | the id that the event names, if it names one |
//! | `_properties` | all application properties, those that became columns too; of a structured CloudEvent its attributes as well, named as the AMQP binding names them: `cloudEvents_subject` |
//! | `_rescued` | what of a JSON payload its schema doesn't know: an object of fields, as JSON |

use std::iter::repeat_n;
use std::sync::Arc;

use super::body;
use super::cloud_events::{Attributes, CloudEvent, Faults, Sound};
use crate::batch::{EventBatch, Reject, bronze};
use crate::config::spec::Attribute;
use arrow::array::{
    ArrayBuilder as _, ArrayRef, Date32Array, Int32Array, Int64Array, MapArray, RecordBatch, StringArray,
    StringBuilder, StructArray, TimestampMicrosecondArray, new_null_array,
};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Schema};
use arrow::error::ArrowError;

const MILLIS_PER_DAY: i64 = 86_400_000;

/// What stands before an attribute's name among the properties.
const ATTRIBUTE: &str = "cloudEvents_";

/// Where a row comes from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Row<'a> {
    /// The place of its event in the batch.
    pub(super) event: usize,
    /// Which record of the event it is.
    pub(super) index: i32,
    /// The CloudEvent that held it, where that was of the structured mode.
    pub(super) enclosing: Option<&'a CloudEvent>,
    /// What its schema doesn't know.
    pub(super) rescued: Option<&'a str>,
}

/// Columns for `rows`, in the order of [`bronze::fields`].
pub(super) fn columns(
    batch: &EventBatch,
    rows: &[Row<'_>],
    schema_id: Option<&str>,
    faults: &mut Faults,
) -> Result<Vec<ArrayRef>, ArrowError> {
    let count = rows.len();
    let events = || rows.iter().map(|row| &batch.events[row.event]);
    let same = |text: &str| -> ArrayRef { Arc::new(StringArray::from_iter_values(repeat_n(text, count))) };
    let attributes: Vec<_> = rows
        .iter()
        .map(|row| row.enclosing.map_or_else(|| Attributes::of_properties(&batch.events[row.event]), Attributes::of))
        .map(|attributes| attributes.judge(faults))
        .collect();
    let sound = |attribute| -> ArrayRef {
        Arc::new(attributes.iter().map(|held| held.get(attribute)).collect::<StringArray>())
    };
    let enqueued =
        TimestampMicrosecondArray::from_iter_values(events().map(|event| event.enqueued_at.saturating_mul(1000)));
    let event_time: TimestampMicrosecondArray = attributes.iter().map(Sound::time).collect();
    Ok(vec![
        same(batch.partition.source.as_str()),
        same(&batch.partition.partition),
        Arc::new(Int64Array::from_iter_values(events().map(|event| event.sequence_number))),
        Arc::new(Int32Array::from_iter_values(rows.iter().map(|row| row.index))),
        Arc::new(StringArray::from_iter_values(events().map(|event| event.offset.as_str()))),
        Arc::new(enqueued.with_timezone("UTC")),
        Arc::new(Date32Array::from_iter_values(events().map(|event| day(event.enqueued_at)))),
        sound(Attribute::Id),
        sound(Attribute::Source),
        sound(Attribute::Type),
        Arc::new(event_time.with_timezone("UTC")),
        match schema_id {
            Some(id) => same(id),
            None => new_null_array(&DataType::Utf8, count),
        },
        properties(batch, rows)?,
        Arc::new(rows.iter().map(|row| row.rescued).collect::<StringArray>()),
        same(batch.origin.as_str()),
    ])
}

/// What is known of rejected events of a batch beside their payload, a row for each: of a structured CloudEvent its
/// attributes, of several in one event those of the first, as far as its body can be read.
///
/// # Errors
/// Only for a defect of ours.
pub fn rows_of_rejects(batch: &EventBatch, rejects: &[Reject]) -> Result<RecordBatch, ArrowError> {
    let mut places: Vec<(usize, &Reject)> = Vec::with_capacity(rejects.len());
    for reject in rejects {
        let number = reject.event.sequence_number;
        places.extend(batch.events.binary_search_by_key(&number, |event| event.sequence_number).ok().zip(Some(reject)));
    }
    let enclosing: Vec<_> =
        places.iter().map(|(at, reject)| body::first_enclosed(&batch.events[*at], reject)).collect();
    let row = |(place, enclosing): (&(usize, &Reject), _)| Row { event: place.0, index: 0, enclosing, rescued: None };
    let rows: Vec<_> = places.iter().zip(enclosing.iter().map(Option::as_ref)).map(row).collect();
    // They are no rows of a table: their faults aren't counted.
    let mut columns = columns(batch, &rows, None, &mut Faults::new())?;
    if let Some(at) = bronze::fields().iter().position(|field| field.name() == bronze::SCHEMA_ID) {
        columns[at] = Arc::new(rejects.iter().map(|reject| reject.schema_id.as_deref()).collect::<StringArray>());
    }
    RecordBatch::try_new(Arc::new(Schema::new(bronze::fields().to_vec())), columns)
}

/// Days since 1970-01-01; what lies outside of a date's range goes to its end.
fn day(millis: i64) -> i32 {
    let days = millis.div_euclid(MILLIS_PER_DAY);
    i32::try_from(days).unwrap_or(if days < 0 { i32::MIN } else { i32::MAX })
}

fn properties(batch: &EventBatch, rows: &[Row<'_>]) -> Result<ArrayRef, ArrowError> {
    let DataType::Map(entries_field, _) = bronze::string_map() else {
        return Err(ArrowError::SchemaError("`_properties` is no map".to_owned()));
    };
    let DataType::Struct(entry_fields) = entries_field.data_type() else {
        return Err(ArrowError::SchemaError("`_properties` has no entries".to_owned()));
    };
    let (mut keys, mut values) = (StringBuilder::new(), StringBuilder::new());
    let mut lengths = Vec::with_capacity(rows.len());
    for row in rows {
        let begin = values.len();
        for (key, value) in &batch.events[row.event].properties {
            // An attribute goes before the property that would have its name: a key is there once.
            let name = key.strip_prefix(ATTRIBUTE);
            if row.enclosing.zip(name).is_none_or(|(event, name)| event.attribute(name).is_none()) {
                keys.append_value(key);
                values.append_value(value);
            }
        }
        for (name, value) in row.enclosing.iter().flat_map(|event| &event.attributes) {
            keys.append_value(format!("{ATTRIBUTE}{name}"));
            values.append_value(value);
        }
        lengths.push(values.len() - begin);
    }
    let entries = vec![Arc::new(keys.finish()) as ArrayRef, Arc::new(values.finish())];
    let entries = StructArray::try_new(entry_fields.clone(), entries, None)?;
    Ok(Arc::new(MapArray::try_new(entries_field, OffsetBuffer::from_lengths(lengths), entries, None, false)?))
}

#[cfg(test)]
mod tests {
    use arrow::array::{Array, AsArray};
    use arrow::datatypes::{Date32Type, TimestampMicrosecondType};
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::batch::{Event, Origin};
    use crate::checkpoint::{PartitionKey, SourceId};

    fn batch(events: Vec<Event>) -> EventBatch {
        let partition = PartitionKey::new(SourceId::new("emulator/leads"), "3");
        EventBatch { partition, origin: Origin::Live, events }
    }

    fn of(batch: &EventBatch, count: usize, schema_id: Option<&str>) -> Vec<ArrayRef> {
        let rows: Vec<_> = (0..count).map(|event| Row { event, index: 0, enclosing: None, rescued: None }).collect();
        columns(batch, &rows, schema_id, &mut Faults::new()).expect("columns")
    }

    fn event(enqueued_at: i64, properties: &[(&str, &str)]) -> Event {
        Event {
            sequence_number: 7,
            offset: "1024".to_owned(),
            enqueued_at,
            body: Bytes::new(),
            content_type: None,
            properties: properties.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        }
    }

    #[test]
    fn the_columns_are_of_the_types_that_bronze_declares() {
        let batch = batch(vec![event(0, &[]), event(1, &[("a", "b")])]);
        let columns = of(&batch, 2, Some("id"));
        let types: Vec<_> = columns.iter().map(|column| column.data_type().clone()).collect();
        let declared: Vec<_> = bronze::fields().iter().map(|field| field.data_type().clone()).collect();
        assert_eq!(types, declared);
    }

    #[test]
    fn the_enqueued_date_is_the_day_in_utc() {
        for (millis, days) in [(0, 0), (-1, -1), (MILLIS_PER_DAY - 1, 0), (MILLIS_PER_DAY, 1), (i64::MAX, i32::MAX)] {
            let batch = batch(vec![event(millis, &[])]);
            let columns = of(&batch, 1, None);
            assert_eq!(columns[6].as_primitive::<Date32Type>().value(0), days);
        }
    }

    #[test]
    fn attributes_are_read_behind_each_prefix() {
        for prefix in ["cloudEvents_", "cloudEvents:", "ce_"] {
            let names = ["id", "source", "type", "time"].map(|name| format!("{prefix}{name}"));
            let values = ["1", "/leads", "lead.generated", "2026-11-23T12:00:00.5+01:00"];
            let properties: Vec<_> = names.iter().map(String::as_str).zip(values).collect();
            let batch = batch(vec![event(0, &properties)]);
            let columns = of(&batch, 1, None);
            assert_eq!(columns[7].as_string::<i32>().value(0), "1");
            assert_eq!(columns[8].as_string::<i32>().value(0), "/leads");
            assert_eq!(columns[9].as_string::<i32>().value(0), "lead.generated");
            assert_eq!(columns[10].as_primitive::<TimestampMicrosecondType>().value(0), 1_795_431_600_500_000);
        }
    }

    #[test]
    fn a_time_that_is_none_is_null_and_stays_among_the_properties() {
        let batch = batch(vec![event(0, &[("cloudEvents_time", "yesterday")])]);
        let columns = of(&batch, 1, None);
        assert!(columns[10].is_null(0));
        let entries = columns[12].as_map().value(0);
        assert_eq!(entries.column(0).as_string::<i32>().value(0), "cloudEvents_time");
        assert_eq!(entries.column(1).as_string::<i32>().value(0), "yesterday");
    }

    #[test]
    fn attributes_of_a_structured_event_are_properties_once() {
        let batch = batch(vec![event(0, &[("tenant", "7"), ("cloudEvents_id", "of the message")])]);
        let attributes = [("id", "1"), ("source", "a b"), ("time", "0"), ("subject", "s")];
        let enclosing =
            CloudEvent { attributes: attributes.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec() };
        let row = Row { event: 0, index: 3, enclosing: Some(&enclosing), rescued: Some("{}") };
        let mut faults = Faults::new();
        let columns = columns(&batch, &[row], None, &mut faults).expect("columns");
        assert_eq!(columns[7].as_string::<i32>().value(0), "1");
        assert!(columns[8].is_null(0), "no URI reference");
        assert_eq!(columns[10].as_primitive::<TimestampMicrosecondType>().value(0), 0);
        assert_eq!(columns[13].as_string::<i32>().value(0), "{}");
        let entries = columns[12].as_map().value(0);
        let keys: Vec<_> = entries.column(0).as_string::<i32>().iter().flatten().collect();
        let expected = ["tenant", "cloudEvents_id", "cloudEvents_source", "cloudEvents_time", "cloudEvents_subject"];
        assert_eq!(keys, expected);
        assert_eq!(entries.column(1).as_string::<i32>().value(2), "a b");
        assert_eq!(faults.len(), 3, "a malformed source, no version, no type");
    }

    proptest! {
        #[test]
        fn any_attributes_give_columns(
            properties in prop::collection::vec(
                ("(cloudEvents[_:]?|ce_)?(id|source|type|time|.{0,8})", "[0-9]{0,5}-[0-9]{0,3}-[0-9]{0,3}T.{0,20}|.{0,20}"),
                0..6,
            ),
            enqueued_at in any::<i64>(),
        ) {
            let properties: Vec<_> = properties.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            let columns = of(&batch(vec![event(enqueued_at, &properties)]), 1, None);
            prop_assert_eq!(columns.len(), bronze::fields().len());
            // What is no attribute, or none that can be read, stays among the properties.
            prop_assert_eq!(columns[12].as_map().value(0).len(), properties.len());
        }
    }
}
