//! What columns a query's output has as a Delta table, and its rows made to fit them.
//!
//! | the query's | the table's |
//! |---|---|
//! | text, bytes, lists in any layout; dictionaries | plain text, bytes, lists |
//! | unsigned integers | the next wider signed one; of 64 bits a `long`, where the value fits |
//! | half floats | `float` |
//! | timestamps of any unit, with any zone or none (taken as UTC) | `timestamp`, microseconds, UTC |
//! | times of day, intervals, durations, a bare `NULL` | none: an error that says how to write it |
//!
//! All columns are nullable, since nothing that Delta readers do rests on it.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, new_null_array};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef};
use arrow::error::ArrowError;

use crate::batch::bronze;

/// The columns of the table that holds a query's output.
///
/// # Errors
/// A line for each column that no Delta table can have.
pub fn of_output(output: &Schema) -> Result<Schema, Vec<String>> {
    let mut problems = Vec::new();
    let mut fields: Vec<Field> = Vec::with_capacity(output.fields().len());
    for field in output.fields() {
        let name = field.name();
        if fields.iter().any(|held| held.name().eq_ignore_ascii_case(name)) {
            problems.push(format!("column `{name}` is there twice: tables don't tell names apart by case"));
        }
        match stored_type(field.data_type()) {
            Ok(held) => fields.push(Field::new(name, held, true)),
            Err(why) => problems.push(format!("column `{name}` {why}")),
        }
    }
    if problems.is_empty() { Ok(Schema::new(fields)) } else { Err(problems) }
}

fn stored_type(held: &DataType) -> Result<DataType, String> {
    Ok(match held {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => DataType::Utf8,
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => {
            DataType::Binary
        }
        DataType::Dictionary(_, values) => stored_type(values)?,
        DataType::RunEndEncoded(_, values) => stored_type(values.data_type())?,
        DataType::UInt8 => DataType::Int16,
        DataType::UInt16 => DataType::Int32,
        DataType::UInt32 | DataType::UInt64 => DataType::Int64,
        DataType::Float16 => DataType::Float32,
        DataType::Timestamp(..) => bronze::timestamp(),
        DataType::Date64 => DataType::Date32,
        DataType::Decimal32(precision, scale)
        | DataType::Decimal64(precision, scale)
        | DataType::Decimal128(precision, scale) => DataType::Decimal128(*precision, *scale),
        DataType::Boolean
        | DataType::Int8
        | DataType::Int16
        | DataType::Int32
        | DataType::Int64
        | DataType::Float32
        | DataType::Float64
        | DataType::Date32 => held.clone(),
        DataType::List(element)
        | DataType::LargeList(element)
        | DataType::ListView(element)
        | DataType::LargeListView(element)
        | DataType::FixedSizeList(element, _) => {
            DataType::List(Arc::new(Field::new("element", stored_type(element.data_type())?, true)))
        }
        DataType::Struct(fields) => {
            let fields: Result<Fields, String> = fields
                .iter()
                .map(|field| Ok(Field::new(field.name(), stored_type(field.data_type())?, true)))
                .collect();
            DataType::Struct(fields?)
        }
        DataType::Map(entries, _) => {
            let DataType::Struct(fields) = entries.data_type() else { return Err("is a broken map".to_owned()) };
            let [key, value] = fields.as_ref() else { return Err("is a broken map".to_owned()) };
            let key = Field::new("key", stored_type(key.data_type())?, false);
            let value = Field::new("value", stored_type(value.data_type())?, true);
            DataType::Map(Arc::new(Field::new("key_value", DataType::Struct(vec![key, value].into()), false)), false)
        }
        DataType::Null => return Err("is always NULL: write `CAST(NULL AS …)` to say of which type".to_owned()),
        DataType::Time32(_) | DataType::Time64(_) => {
            return Err("is a time of day, which Delta doesn't have: cast it to text".to_owned());
        }
        DataType::Interval(_) | DataType::Duration(_) => {
            return Err("is an interval, which Delta doesn't have: take its seconds as a number".to_owned());
        }
        other => return Err(format!("is of type {other}, which Delta doesn't have")),
    })
}

/// What an output has become since the table was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Evolved {
    Same,
    /// The table's columns with the new ones behind them.
    Wider(Schema),
    /// What the table can't follow, a line for each column.
    Broken(Vec<String>),
}

/// Holds the columns of an output against those of its table.
pub fn evolve(table: &Schema, output: &Schema) -> Evolved {
    let mut fields: Vec<FieldRef> = table.fields().iter().cloned().collect();
    let mut broken = Vec::new();
    for field in table.fields() {
        match output.fields().iter().find(|new| new.name().eq_ignore_ascii_case(field.name())) {
            None => broken.push(format!("column `{}` is gone", field.name())),
            Some(new) if !is_same_type(field.data_type(), new.data_type()) => {
                broken.push(format!("column `{}` was {} and is {}", field.name(), field.data_type(), new.data_type()));
            }
            Some(_) => {}
        }
    }
    for new in output.fields() {
        if !table.fields().iter().any(|field| field.name().eq_ignore_ascii_case(new.name())) {
            fields.push(Arc::clone(new));
        }
    }
    match (broken.is_empty(), fields.len() > table.fields().len()) {
        (false, _) => Evolved::Broken(broken),
        (true, true) => Evolved::Wider(Schema::new(fields)),
        (true, false) => Evolved::Same,
    }
}

/// Names of list elements and nullability say nothing about values.
fn is_same_type(one: &DataType, other: &DataType) -> bool {
    match (one, other) {
        (DataType::List(one), DataType::List(other)) => is_same_type(one.data_type(), other.data_type()),
        (DataType::Map(one, _), DataType::Map(other, _)) => is_same_type(one.data_type(), other.data_type()),
        (DataType::Struct(one), DataType::Struct(other)) => {
            one.len() == other.len()
                && one
                    .iter()
                    .zip(other)
                    .all(|(one, other)| one.name() == other.name() && is_same_type(one.data_type(), other.data_type()))
        }
        _ => one == other,
    }
}

/// Makes `batch` have the columns of `table`, by name; what it lacks is null.
///
/// # Errors
/// [`ArrowError`] when a value has no place in its column: a `long` beyond its range.
pub fn fit(batch: &RecordBatch, table: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    let held = batch.schema();
    let columns: Result<Vec<ArrayRef>, ArrowError> = table
        .fields()
        .iter()
        .map(|field| {
            let at = held.fields().iter().position(|held| held.name().eq_ignore_ascii_case(field.name()));
            match at.map(|at| batch.column(at)) {
                None => Ok(new_null_array(field.data_type(), batch.num_rows())),
                Some(column) if column.data_type() == field.data_type() => Ok(Arc::clone(column)),
                Some(column) => {
                    cast_with_options(column, field.data_type(), &CastOptions { safe: false, ..Default::default() })
                }
            }
        })
        .collect();
    let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::clone(table), columns?, &options)
}

#[cfg(test)]
mod tests {
    use arrow::array::{AsArray as _, StringViewArray, TimestampNanosecondArray, UInt64Array};
    use arrow::datatypes::{TimeUnit, TimestampMicrosecondType};

    use super::*;

    #[test]
    fn an_output_becomes_what_every_reader_knows() {
        let output = Schema::new(vec![
            Field::new("text", DataType::Utf8View, false),
            Field::new("at", DataType::Timestamp(TimeUnit::Nanosecond, None), true),
            Field::new("count", DataType::UInt64, true),
        ]);
        let table = Arc::new(of_output(&output).expect("all have a Delta type"));
        let batch = RecordBatch::try_new(
            Arc::new(output),
            vec![
                Arc::new(StringViewArray::from(vec!["a"])),
                Arc::new(TimestampNanosecondArray::from(vec![1_700_000_000_000_001_000])),
                Arc::new(UInt64Array::from(vec![7])),
            ],
        )
        .expect("the arrays fit their schema");
        let fitted = fit(&batch, &table).expect("the values fit");
        assert_eq!(fitted.column(1).as_primitive::<TimestampMicrosecondType>().value(0), 1_700_000_000_000_001);
        let beyond = batch.columns()[..2].iter().cloned().chain([Arc::new(UInt64Array::from(vec![u64::MAX])) as _]);
        let beyond = RecordBatch::try_new(batch.schema(), beyond.collect()).expect("the arrays fit their schema");
        assert!(fit(&beyond, &table).is_err(), "a value is never wrapped around");
    }

    #[test]
    fn what_no_table_can_hold_is_told_by_column() {
        let output = Schema::new(vec![
            Field::new("nothing", DataType::Null, true),
            Field::new("age", DataType::Duration(TimeUnit::Second), true),
            Field::new("id", DataType::Utf8, true),
            Field::new("ID", DataType::Utf8, true),
        ]);
        let problems = of_output(&output).expect_err("three are wrong");
        assert_eq!(problems.len(), 3, "{problems:?}");
    }

    #[test]
    fn a_table_takes_new_columns_and_no_other_types() {
        let schema = |fields: &[(&str, DataType)]| {
            Schema::new(fields.iter().map(|(name, held)| Field::new(*name, held.clone(), true)).collect::<Vec<_>>())
        };
        let table = schema(&[("id", DataType::Utf8), ("score", DataType::Float64)]);
        assert_eq!(evolve(&table, &schema(&[("score", DataType::Float64), ("id", DataType::Utf8)])), Evolved::Same);
        let wider = [("id", DataType::Utf8), ("more", DataType::Int64), ("score", DataType::Float64)];
        let Evolved::Wider(joined) = evolve(&table, &schema(&wider)) else { panic!("a column was added") };
        assert_eq!(joined.field(2).name(), "more");
        let Evolved::Broken(broken) = evolve(&table, &schema(&[("id", DataType::Int64)])) else { panic!("two broke") };
        assert_eq!(broken.len(), 2);
    }
}
