//! Rows made to fit the columns of their table, and columns that have changed since it was made.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, new_null_array};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, FieldRef, Schema, SchemaRef};
use arrow::error::ArrowError;

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
    use arrow::array::UInt64Array;
    use arrow::datatypes::Field;

    use super::*;

    #[test]
    fn a_value_is_never_wrapped_around() {
        let table: SchemaRef = Arc::new(Schema::new(vec![Field::new("count", DataType::Int64, true)]));
        let batch = |value| {
            let schema = Schema::new(vec![Field::new("Count", DataType::UInt64, true)]);
            RecordBatch::try_new(Arc::new(schema), vec![Arc::new(UInt64Array::from(vec![value]))])
                .expect("the arrays fit their schema")
        };
        assert!(fit(&batch(7), &table).is_ok());
        assert!(fit(&batch(u64::MAX), &table).is_err());
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
