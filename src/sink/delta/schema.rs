//! A table's columns: the union of all schemas that it has met, and batches made to fit them.
//!
//! A column once known never leaves. A new one is added before the envelope's columns, nested
//! ones within their struct; all are nullable. Names are compared without case, as Delta does.
//! A value that its column can't hold goes to `_rescued` as JSON, and the column is null there.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, ListArray, MapArray, RecordBatch, StringArray, StructArray, new_null_array,
};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::json::LineDelimitedWriter;

use crate::batch::bronze;

/// The union of a table's schema and a batch's, or nothing when the table has it all.
pub fn union(table: &Schema, batch: &Schema) -> Option<Schema> {
    let fields = union_fields(table.fields(), batch.fields());
    let mut fields: Vec<FieldRef> = fields.iter().cloned().collect();
    if fields == table.fields().iter().cloned().collect::<Vec<_>>() {
        return None;
    }
    // The payload's columns stay together, before the envelope's.
    let is_envelope = |field: &FieldRef| bronze::fields().iter().any(|held| held.name() == field.name());
    fields.sort_by_key(is_envelope);
    Some(Schema::new_with_metadata(fields, table.metadata().clone()))
}

fn union_fields(table: &Fields, batch: &Fields) -> Fields {
    let mut fields: Vec<FieldRef> = table.iter().cloned().collect();
    for new in batch {
        match fields.iter_mut().find(|held| held.name().eq_ignore_ascii_case(new.name())) {
            Some(held) => {
                let joined = union_type(held.data_type(), new.data_type());
                if joined != *held.data_type() {
                    *held = Arc::new(held.as_ref().clone().with_data_type(joined));
                }
            }
            None => fields.push(Arc::new(new.as_ref().clone().with_nullable(true))),
        }
    }
    fields.into()
}

fn union_type(table: &DataType, new: &DataType) -> DataType {
    match (table, new) {
        (DataType::Struct(held), DataType::Struct(new)) => DataType::Struct(union_fields(held, new)),
        (DataType::List(held), DataType::List(new)) => {
            let element = union_type(held.data_type(), new.data_type());
            DataType::List(Arc::new(held.as_ref().clone().with_data_type(element)))
        }
        (DataType::Map(held, sorted), DataType::Map(new, _)) => {
            let entries = union_entries(held.data_type(), new.data_type());
            DataType::Map(Arc::new(held.as_ref().clone().with_data_type(entries)), *sorted)
        }
        _ => table.clone(),
    }
}

/// Keys of maps are strings in Avro; only the values can differ.
fn union_entries(held: &DataType, new: &DataType) -> DataType {
    match (held, new) {
        (DataType::Struct(held), DataType::Struct(new)) if held.len() == 2 && new.len() == 2 => {
            let value = union_type(held[1].data_type(), new[1].data_type());
            let value = Arc::new(held[1].as_ref().clone().with_data_type(value));
            DataType::Struct(Fields::from(vec![Arc::clone(&held[0]), value]))
        }
        _ => held.clone(),
    }
}

/// Makes `batch` fit the table's schema exactly.
///
/// # Errors
/// [`ArrowError`] only when the arrays contradict their own types.
pub fn align(batch: &RecordBatch, table: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    let rows = batch.num_rows();
    let batch_schema = batch.schema();
    let mut columns = Vec::with_capacity(table.fields().len());
    let mut rescued = Vec::new();
    for field in table.fields() {
        let found = batch_schema.fields().iter().position(|held| held.name().eq_ignore_ascii_case(field.name()));
        let fitted = match found.map(|at| batch.column(at)) {
            None => None,
            Some(column) => {
                let fitted = fit(column, field.data_type())?;
                if fitted.is_none() {
                    rescued.push((Field::new(field.name(), column.data_type().clone(), true), Arc::clone(column)));
                }
                fitted
            }
        };
        columns.push(fitted.unwrap_or_else(|| new_null_array(field.data_type(), rows)));
    }
    if !rescued.is_empty() {
        let at = table.index_of(bronze::RESCUED)?;
        columns[at] = rescue(&columns[at], rescued, rows)?;
    }
    RecordBatch::try_new(Arc::clone(table), columns)
}

/// The array as `wanted`, or nothing when a value could be lost.
fn fit(array: &ArrayRef, wanted: &DataType) -> Result<Option<ArrayRef>, ArrowError> {
    if array.data_type() == wanted {
        return Ok(Some(Arc::clone(array)));
    }
    match (array.data_type(), wanted) {
        (DataType::Int8 | DataType::Int16 | DataType::Int32, DataType::Int64)
        | (DataType::Float32, DataType::Float64)
        | (DataType::Int32 | DataType::Int16 | DataType::Int8, DataType::Float64) => cast(array, wanted).map(Some),
        (DataType::Struct(_), DataType::Struct(fields)) => fit_struct(array.as_struct(), fields),
        (DataType::List(_), DataType::List(element)) => {
            let list = array.as_list::<i32>();
            let Some(values) = fit(list.values(), element.data_type())? else { return Ok(None) };
            let list = ListArray::try_new(Arc::clone(element), list.offsets().clone(), values, list.nulls().cloned())?;
            Ok(Some(Arc::new(list)))
        }
        (DataType::Map(_, _), DataType::Map(entries, sorted)) => {
            let map = array.as_map();
            let DataType::Struct(fields) = entries.data_type() else { return Ok(None) };
            let held = map.entries();
            let (Some(keys), Some(values)) =
                (fit(held.column(0), fields[0].data_type())?, fit(held.column(1), fields[1].data_type())?)
            else {
                return Ok(None);
            };
            let held = StructArray::try_new(fields.clone(), vec![keys, values], held.nulls().cloned())?;
            let map =
                MapArray::try_new(Arc::clone(entries), map.offsets().clone(), held, map.nulls().cloned(), *sorted)?;
            Ok(Some(Arc::new(map)))
        }
        (_, _) if array.null_count() == array.len() => Ok(Some(new_null_array(wanted, array.len()))),
        _ => Ok(None),
    }
}

fn fit_struct(array: &StructArray, fields: &Fields) -> Result<Option<ArrayRef>, ArrowError> {
    let mut columns = Vec::with_capacity(fields.len());
    for field in fields {
        let found = array.fields().iter().position(|held| held.name().eq_ignore_ascii_case(field.name()));
        let column = match found {
            None => new_null_array(field.data_type(), array.len()),
            Some(at) => match fit(array.column(at), field.data_type())? {
                Some(column) => column,
                None => return Ok(None),
            },
        };
        columns.push(column);
    }
    if array.fields().iter().any(|held| !fields.iter().any(|field| field.name().eq_ignore_ascii_case(held.name()))) {
        return Ok(None);
    }
    Ok(Some(Arc::new(StructArray::try_new_with_length(fields.clone(), columns, array.nulls().cloned(), array.len())?)))
}

/// One JSON object a row of the columns that didn't fit; null where they hold nothing.
fn rescue(held: &ArrayRef, columns: Vec<(Field, ArrayRef)>, rows: usize) -> Result<ArrayRef, ArrowError> {
    let (fields, columns): (Vec<_>, Vec<_>) = columns.into_iter().unzip();
    let batch = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?;
    let mut lines = Vec::new();
    let mut writer = LineDelimitedWriter::new(&mut lines);
    writer.write(&batch)?;
    writer.finish()?;
    drop(writer);
    let text = String::from_utf8_lossy(&lines);
    let held = held.as_string_opt::<i32>();
    let values: StringArray = text
        .lines()
        .take(rows)
        .enumerate()
        .map(|(row, line)| match held.filter(|held| held.is_valid(row)) {
            Some(held) => Some(format!("[{},{line}]", held.value(row))),
            None => (line != "{}").then(|| line.to_owned()),
        })
        .collect();
    Ok(Arc::new(values))
}

#[cfg(test)]
mod tests {
    use arrow::array::{Int32Array, Int64Array};

    use super::*;

    fn schema(fields: Vec<Field>) -> Schema {
        let envelope = Field::new(bronze::RESCUED, DataType::Utf8, true);
        Schema::new(fields.into_iter().chain([envelope]).collect::<Vec<_>>())
    }

    fn address(fields: &[&str]) -> DataType {
        DataType::Struct(fields.iter().map(|name| Field::new(*name, DataType::Utf8, true)).collect())
    }

    #[test]
    fn a_new_column_comes_before_the_envelope_and_a_nested_one_within_its_struct() {
        let table = schema(vec![Field::new("address", address(&["city"]), true)]);
        let batch =
            schema(vec![Field::new("id", DataType::Int64, true), Field::new("address", address(&["zip"]), true)]);
        let joined = union(&table, &batch).expect("the batch has more");
        let names: Vec<_> = joined.fields().iter().map(|field| field.name().as_str()).collect();
        assert_eq!(names, ["address", "id", "_rescued"]);
        assert_eq!(joined.field(0).data_type(), &address(&["city", "zip"]));
        assert_eq!(union(&joined, &batch), None, "the union is idempotent");
    }

    #[test]
    fn what_a_batch_lacks_is_null_and_what_does_not_fit_is_rescued() {
        let table = Arc::new(schema(vec![
            Field::new("id", DataType::Int64, true),
            Field::new("score", DataType::Int64, true),
            Field::new("more", DataType::Utf8, true),
        ]));
        let batch = RecordBatch::try_new(
            Arc::new(schema(vec![Field::new("ID", DataType::Int32, true), Field::new("score", DataType::Utf8, true)])),
            vec![
                Arc::new(Int32Array::from(vec![1, 2])),
                Arc::new(StringArray::from(vec![Some("high"), None])),
                Arc::new(StringArray::from(vec![None::<&str>, None])),
            ],
        )
        .expect("the arrays fit their schema");
        let aligned = align(&batch, &table).expect("a batch can always be aligned");
        assert_eq!(aligned.column(0).as_ref(), &Int64Array::from(vec![1, 2]));
        assert_eq!(aligned.column(1).null_count(), 2);
        assert_eq!(aligned.column(2).null_count(), 2);
        let rescued = aligned.column(3).as_string::<i32>();
        assert_eq!(rescued.value(0), r#"{"score":"high"}"#);
        assert!(rescued.is_null(1));
    }
}
