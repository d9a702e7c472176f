//! The bronze columns: what is known of an event beside its payload.
//!
//! | column | from |
//! |---|---|
//! | `_source`, `_partition`, `_sequence_number`, `_offset`, `_origin` | where the event was read |
//! | `_record_index` | which record of the body it is: 0, unless the body is a container |
//! | `_enqueued_at`, `_enqueued_date` | the enqueued time; its day in UTC |
//! | `_event_id`, `_event_source`, `_event_type`, `_event_time` | CloudEvents attributes: the application properties `cloudEvents_<name>` or `cloudEvents:<name>` |
//! | `_schema_id` | the id that the event names, if it names one |
//! | `_properties` | all application properties, those that became columns too |
//! | `_rescued` | null: nothing of the payload is left over |

use std::iter::repeat_n;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, Date32Array, Int32Array, Int64Array, MapArray, RecordBatch, StringArray, StringBuilder, StructArray,
    TimestampMicrosecondArray, new_null_array,
};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Schema};
use arrow::error::ArrowError;
use chrono::DateTime;

use crate::batch::{Event, EventBatch, Reject, bronze};

const MILLIS_PER_DAY: i64 = 86_400_000;

/// Columns for `rows`, each the place of its event and its index in that, in the order of [`bronze::fields`].
pub(super) fn columns(
    batch: &EventBatch,
    rows: &[(usize, i32)],
    schema_id: Option<&str>,
) -> Result<Vec<ArrayRef>, ArrowError> {
    let count = rows.len();
    let events = || rows.iter().map(|(event, _)| &batch.events[*event]);
    let same = |text: &str| -> ArrayRef { Arc::new(StringArray::from_iter_values(repeat_n(text, count))) };
    let attributes: Vec<_> = events().map(Attributes::of).collect();
    let ids: StringArray = attributes.iter().map(|found| found.id).collect();
    let sources: StringArray = attributes.iter().map(|found| found.source).collect();
    let types: StringArray = attributes.iter().map(|found| found.kind).collect();
    let enqueued =
        TimestampMicrosecondArray::from_iter_values(events().map(|event| event.enqueued_at.saturating_mul(1000)));
    let event_time: TimestampMicrosecondArray = attributes.iter().map(|found| found.time.and_then(micros)).collect();
    Ok(vec![
        same(batch.partition.source.as_str()),
        same(&batch.partition.partition),
        Arc::new(Int64Array::from_iter_values(events().map(|event| event.sequence_number))),
        Arc::new(Int32Array::from_iter_values(rows.iter().map(|(_, index)| *index))),
        Arc::new(StringArray::from_iter_values(events().map(|event| event.offset.as_str()))),
        Arc::new(enqueued.with_timezone("UTC")),
        Arc::new(Date32Array::from_iter_values(events().map(|event| day(event.enqueued_at)))),
        Arc::new(ids),
        Arc::new(sources),
        Arc::new(types),
        Arc::new(event_time.with_timezone("UTC")),
        match schema_id {
            Some(id) => same(id),
            None => new_null_array(&DataType::Utf8, count),
        },
        properties(events(), count)?,
        new_null_array(&DataType::Utf8, count),
        same(batch.origin.as_str()),
    ])
}

/// What is known of rejected events of a batch beside their payload, a row for each.
///
/// # Errors
/// Only for a defect of ours.
pub fn rows_of_rejects(batch: &EventBatch, rejects: &[Reject]) -> Result<RecordBatch, ArrowError> {
    let place = |reject: &Reject| {
        let number = reject.event.sequence_number;
        Some((batch.events.binary_search_by_key(&number, |event| event.sequence_number).ok()?, 0))
    };
    let places: Vec<_> = rejects.iter().filter_map(place).collect();
    let mut columns = columns(batch, &places, None)?;
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

/// An RFC 3339 time; `None` when it isn't one, and then only `_properties` has it.
fn micros(time: &str) -> Option<i64> {
    DateTime::parse_from_rfc3339(time).ok().map(|time| time.timestamp_micros())
}

fn properties<'a>(events: impl Iterator<Item = &'a Event>, count: usize) -> Result<ArrayRef, ArrowError> {
    let DataType::Map(entries_field, _) = bronze::string_map() else {
        return Err(ArrowError::SchemaError("`_properties` is no map".to_owned()));
    };
    let DataType::Struct(entry_fields) = entries_field.data_type() else {
        return Err(ArrowError::SchemaError("`_properties` has no entries".to_owned()));
    };
    let (mut keys, mut values) = (StringBuilder::new(), StringBuilder::new());
    let mut lengths = Vec::with_capacity(count);
    for event in events {
        for (key, value) in &event.properties {
            keys.append_value(key);
            values.append_value(value);
        }
        lengths.push(event.properties.len());
    }
    let entries = vec![Arc::new(keys.finish()) as ArrayRef, Arc::new(values.finish())];
    let entries = StructArray::try_new(entry_fields.clone(), entries, None)?;
    Ok(Arc::new(MapArray::try_new(entries_field, OffsetBuffer::from_lengths(lengths), entries, None, false)?))
}

/// The CloudEvents attributes that have columns of their own.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Attributes<'a> {
    id: Option<&'a str>,
    source: Option<&'a str>,
    kind: Option<&'a str>,
    time: Option<&'a str>,
}

impl<'a> Attributes<'a> {
    /// A message uses one separator; should it use both, `_` goes first, as the binding prefers it.
    fn of(event: &'a Event) -> Self {
        let (mut preferred, mut other) = (Self::default(), Self::default());
        for (name, value) in &event.properties {
            let Some(rest) = name.strip_prefix("cloudEvents") else { continue };
            let (found, name) = match rest.split_at_checked(1) {
                Some(("_", name)) => (&mut preferred, name),
                Some((":", name)) => (&mut other, name),
                _ => continue,
            };
            let attribute = match name {
                "id" => &mut found.id,
                "source" => &mut found.source,
                "type" => &mut found.kind,
                "time" => &mut found.time,
                _ => continue,
            };
            *attribute = Some(value);
        }
        Self {
            id: preferred.id.or(other.id),
            source: preferred.source.or(other.source),
            kind: preferred.kind.or(other.kind),
            time: preferred.time.or(other.time),
        }
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Array, AsArray};
    use arrow::datatypes::{Date32Type, TimestampMicrosecondType};
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::batch::Origin;
    use crate::checkpoint::{PartitionKey, SourceId};

    fn batch(events: Vec<Event>) -> EventBatch {
        let partition = PartitionKey::new(SourceId::new("emulator/leads"), "3");
        EventBatch { partition, origin: Origin::Live, events }
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
        let columns = columns(&batch, &[(0, 0), (1, 0)], Some("id")).expect("columns");
        let types: Vec<_> = columns.iter().map(|column| column.data_type().clone()).collect();
        let declared: Vec<_> = bronze::fields().iter().map(|field| field.data_type().clone()).collect();
        assert_eq!(types, declared);
    }

    #[test]
    fn the_enqueued_date_is_the_day_in_utc() {
        for (millis, days) in [(0, 0), (-1, -1), (MILLIS_PER_DAY - 1, 0), (MILLIS_PER_DAY, 1), (i64::MAX, i32::MAX)] {
            let batch = batch(vec![event(millis, &[])]);
            let columns = columns(&batch, &[(0, 0)], None).expect("columns");
            assert_eq!(columns[6].as_primitive::<Date32Type>().value(0), days);
        }
    }

    #[test]
    fn attributes_are_read_behind_either_separator() {
        for separator in ["_", ":"] {
            let names = ["id", "source", "type", "time"].map(|name| format!("cloudEvents{separator}{name}"));
            let values = ["1", "/leads", "lead.generated", "2026-11-23T12:00:00.5+01:00"];
            let properties: Vec<_> = names.iter().map(String::as_str).zip(values).collect();
            let batch = batch(vec![event(0, &properties)]);
            let columns = columns(&batch, &[(0, 0)], None).expect("columns");
            assert_eq!(columns[7].as_string::<i32>().value(0), "1");
            assert_eq!(columns[8].as_string::<i32>().value(0), "/leads");
            assert_eq!(columns[9].as_string::<i32>().value(0), "lead.generated");
            assert_eq!(columns[10].as_primitive::<TimestampMicrosecondType>().value(0), 1_795_431_600_500_000);
        }
    }

    #[test]
    fn a_time_that_is_none_is_null_and_stays_among_the_properties() {
        let batch = batch(vec![event(0, &[("cloudEvents_time", "yesterday")])]);
        let columns = columns(&batch, &[(0, 0)], None).expect("columns");
        assert!(columns[10].is_null(0));
        let entries = columns[12].as_map().value(0);
        assert_eq!(entries.column(0).as_string::<i32>().value(0), "cloudEvents_time");
        assert_eq!(entries.column(1).as_string::<i32>().value(0), "yesterday");
    }

    proptest! {
        #[test]
        fn any_attributes_give_columns(
            properties in prop::collection::vec(
                ("(cloudEvents[_:]?)?(id|source|type|time|.{0,8})", "[0-9]{0,5}-[0-9]{0,3}-[0-9]{0,3}T.{0,20}|.{0,20}"),
                0..6,
            ),
            enqueued_at in any::<i64>(),
        ) {
            let properties: Vec<_> = properties.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            let columns = columns(&batch(vec![event(enqueued_at, &properties)]), &[(0, 0)], None).expect("columns");
            prop_assert_eq!(columns.len(), bronze::fields().len());
            // What is no attribute, or none that can be read, stays among the properties.
            prop_assert_eq!(columns[12].as_map().value(0).len(), properties.len());
        }
    }
}
