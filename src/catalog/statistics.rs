//! What the log says of the values in a file, as far as their order is beyond doubt: what lets a reader pass it over.

use arrow::datatypes::{DataType, Field, Schema};
use datafusion::common::stats::Precision;
use datafusion::common::{ColumnStatistics, ScalarValue, Statistics};
use serde_json::Value;

use super::state::ActiveFile;

/// Statistics of timestamps are cut to the millisecond.
const CUT_MICROSECONDS: i64 = 1_000;

/// Delta's statistics of one file.
#[derive(Debug, Default)]
pub struct FileStatistics(Value);

impl FileStatistics {
    /// A writer need not have given any, and they may be torn.
    pub fn of(file: &ActiveFile) -> Self {
        Self(file.stats.as_deref().and_then(|stats| serde_json::from_str(stats).ok()).unwrap_or_default())
    }

    pub fn rows(&self) -> Option<u64> {
        self.0["numRecords"].as_u64()
    }

    pub fn nulls(&self, column: &str) -> Option<u64> {
        self.0["nullCount"][column].as_u64()
    }

    /// No value of the column is below the first or above the second.
    pub fn bounds(&self, column: &str, kind: &DataType) -> Option<(ScalarValue, ScalarValue)> {
        let least = value(&self.0["minValues"][column], kind)?;
        let most = value(&self.0["maxValues"][column], kind).map(cut_back)?;
        Some((least, most))
    }

    /// As DataFusion has them, of columns within the file and then of those outside, with their values. It passes a file over by bounds that are exact, and takes them for values of rows only where
    /// the count of nulls is exact, too: so that isn't.
    pub fn for_reader(&self, within: &Schema, outside: &[ScalarValue], bytes: usize) -> Statistics {
        let count = |count: Option<u64>| match count.and_then(|count| usize::try_from(count).ok()) {
            Some(count) => Precision::Inexact(count),
            None => Precision::Absent,
        };
        let of_column = |field: &Field| {
            let bounds = self.bounds(field.name(), field.data_type());
            let (min_value, max_value) = bounds.map_or((Precision::Absent, Precision::Absent), |(least, most)| {
                (Precision::Exact(least), Precision::Exact(most))
            });
            let null_count = count(self.nulls(field.name()));
            ColumnStatistics { null_count, min_value, max_value, ..ColumnStatistics::new_unknown() }
        };
        let of_value = |value: &ScalarValue| match value.is_null() {
            true => ColumnStatistics::new_unknown(),
            false => ColumnStatistics {
                min_value: Precision::Exact(value.clone()),
                max_value: Precision::Exact(value.clone()),
                ..ColumnStatistics::new_unknown()
            },
        };
        let within = within.fields().iter().map(|field| of_column(field));
        Statistics {
            num_rows: count(self.rows()),
            total_byte_size: Precision::Inexact(bytes),
            column_statistics: within.chain(outside.iter().map(of_value)).collect(),
        }
    }
}

fn value(value: &Value, kind: &DataType) -> Option<ScalarValue> {
    match kind {
        DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::Int64 => {
            ScalarValue::Int64(Some(value.as_i64()?)).cast_to(kind).ok().filter(|value| !value.is_null())
        }
        DataType::Utf8 => Some(ScalarValue::Utf8(Some(value.as_str()?.to_owned()))),
        DataType::Date32 | DataType::Timestamp(..) => {
            ScalarValue::try_from_string(value.as_str()?.to_owned(), kind).ok().filter(|value| !value.is_null())
        }
        _ => None,
    }
}

/// A largest value as far as it may have been cut.
fn cut_back(value: ScalarValue) -> ScalarValue {
    match value {
        ScalarValue::TimestampMicrosecond(Some(at), zone) => {
            ScalarValue::TimestampMicrosecond(Some(at.saturating_add(CUT_MICROSECONDS)), zone)
        }
        other => other,
    }
}
