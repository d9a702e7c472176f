//! Rows as they are written, to rows of a table's columns; and back, to compare and to show.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Fields, SchemaRef};
use arrow::error::ArrowError;
use arrow::json::{ReaderBuilder, WriterBuilder};
use chrono::{DateTime, Days, NaiveDate, SecondsFormat, TimeDelta};
use serde_json::{Map, Value};

use super::ShownRow;
use crate::batch::bronze;
use crate::columns::type_name;
use crate::config::test_spec::{Cell, CellValue, Placed, Row};
use crate::config::{Problem, nearest, quoted};

/// Values of the columns of `schema`, as JSON that [`batch`] reads; what can't be one is told at its bytes.
pub(super) fn values(row: &Row, schema: &SchemaRef, problems: &mut Vec<Problem>) -> ShownRow {
    fields(row, schema.fields(), problems)
}

/// The envelope of a bronze row, where the test leaves it out; `number` is how many rows the table had before.
pub(super) fn with_envelope(mut row: ShownRow, schema: &SchemaRef, number: u64) -> ShownRow {
    let is_bronze = bronze::fields().iter().all(|field| schema.field_with_name(field.name()).is_ok());
    if !is_bronze {
        return row;
    }
    const FIRST: &str = "2026-01-01T00:00:00Z";
    let seconds = i64::try_from(number).unwrap_or(i64::MAX).min(i64::from(u32::MAX));
    let first = DateTime::parse_from_rfc3339(FIRST).unwrap_or_default().to_utc();
    let enqueued_at = first + TimeDelta::seconds(seconds);
    let at = match row.get(bronze::ENQUEUED_AT).and_then(Value::as_str).map(DateTime::parse_from_rfc3339) {
        Some(Ok(given)) => given.to_utc(),
        _ => enqueued_at,
    };
    let defaults = [
        (bronze::SOURCE, Value::from("test")),
        (bronze::PARTITION, Value::from("0")),
        (bronze::SEQUENCE_NUMBER, Value::from(number)),
        (bronze::RECORD_INDEX, Value::from(0)),
        (bronze::ENQUEUED_AT, Value::from(at.to_rfc3339_opts(SecondsFormat::Micros, true))),
        (bronze::ENQUEUED_DATE, Value::from(at.date_naive().to_string())),
    ];
    for (name, value) in defaults {
        row.entry(name).or_insert(value);
    }
    row
}

/// Rows of a schema, of values that [`values`] gave.
///
/// # Errors
/// A value that its column can't hold after all.
pub(super) fn batch(rows: &[ShownRow], schema: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    let mut decoder = ReaderBuilder::new(Arc::clone(schema)).with_batch_size(rows.len().max(1)).build_decoder()?;
    decoder.serialize(rows)?;
    Ok(decoder.flush()?.unwrap_or_else(|| RecordBatch::new_empty(Arc::clone(schema))))
}

/// Rows as JSON objects with all their columns.
///
/// # Errors
/// A column that has no JSON.
pub(super) fn shown(batches: &[RecordBatch]) -> Result<Vec<ShownRow>, ArrowError> {
    let mut bytes = Vec::new();
    let mut writer =
        WriterBuilder::new().with_explicit_nulls(true).build::<_, arrow::json::writer::LineDelimited>(&mut bytes);
    for batch in batches.iter().filter(|batch| batch.num_rows() > 0) {
        writer.write(batch)?;
    }
    writer.finish()?;
    drop(writer);
    let lines = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    lines.map(|line| serde_json::from_slice(line).map_err(|error| ArrowError::JsonError(error.to_string()))).collect()
}

/// A row of a file, as if it were written at `place`.
pub(super) fn of_json(row: Map<String, Value>, place: &crate::config::Place) -> Row {
    let cells = row.into_iter().filter_map(|(name, value)| {
        let value = cell_of_json(value, place)?;
        Some((name, Cell { key: place.clone(), value }))
    });
    cells.collect()
}

/// Null is what isn't there.
fn cell_of_json(value: Value, place: &crate::config::Place) -> Option<Placed<CellValue>> {
    let value = match value {
        Value::Null => return None,
        Value::Bool(boolean) => CellValue::Boolean(boolean),
        Value::Number(number) => match number.as_i64() {
            Some(integer) => CellValue::Integer(integer),
            None => CellValue::Float(number.as_f64()?),
        },
        Value::String(text) => CellValue::Text(text),
        Value::Array(values) => {
            CellValue::List(values.into_iter().filter_map(|value| cell_of_json(value, place)).collect())
        }
        Value::Object(row) => CellValue::Fields(of_json(row, place)),
    };
    Some(Placed { value, place: place.clone() })
}

fn fields(row: &Row, known: &Fields, problems: &mut Vec<Problem>) -> ShownRow {
    let mut values = ShownRow::new();
    for (name, cell) in row {
        match known.iter().find(|field| field.name() == name) {
            Some(field) => {
                if let Some(value) = value(name, field.data_type(), &cell.value, problems) {
                    values.insert(name.clone(), value);
                }
            }
            None => {
                let message = format!("there is no column {}", quoted(name));
                let names = known.iter().map(|field| field.name().as_str());
                let problem = Problem::new(cell.key.clone(), message);
                problems.push(match nearest(name, names) {
                    Some(near) => problem.with_hint(format!("did you mean `{near}`?")),
                    None => problem.with_hint(those_there(known)),
                });
            }
        }
    }
    values
}

/// "there are …", for hints.
pub(super) fn those_there(known: &Fields) -> String {
    const MOST: usize = 12;
    let shown: Vec<String> = known.iter().take(MOST).map(|field| quoted(field.name())).collect();
    format!("there are {}{}", shown.join(", "), if known.len() > MOST { ", …" } else { "" })
}

/// A value as its column wants it; None where it can't be, which has been told then.
fn value(name: &str, data_type: &DataType, cell: &Placed<CellValue>, problems: &mut Vec<Problem>) -> Option<Value> {
    let fitting = match (data_type, &cell.value) {
        (DataType::Boolean, CellValue::Boolean(boolean)) => Ok((*boolean).into()),
        (DataType::Utf8, CellValue::Text(text)) => Ok(text.clone().into()),
        (DataType::Int64, CellValue::Integer(number)) => Ok((*number).into()),
        (DataType::Int32, CellValue::Integer(number)) => within::<i32>(*number),
        (DataType::Int16, CellValue::Integer(number)) => within::<i16>(*number),
        (DataType::Int8, CellValue::Integer(number)) => within::<i8>(*number),
        (DataType::Float32 | DataType::Float64, CellValue::Integer(number)) => Ok((*number).into()),
        (DataType::Float32 | DataType::Float64, CellValue::Float(number)) if number.is_finite() => Ok((*number).into()),
        (DataType::Timestamp(..), CellValue::Text(text) | CellValue::Time(text)) => time(text),
        (DataType::Date32, CellValue::Text(text) | CellValue::Time(text)) => date(text),
        (DataType::Decimal128(precision, scale), CellValue::Text(text)) => decimal(text, *precision, *scale),
        (DataType::Decimal128(precision, scale), CellValue::Integer(number)) => {
            decimal(&number.to_string(), *precision, *scale)
        }
        (DataType::Decimal128(precision, scale), CellValue::Float(number)) => {
            decimal(&number.to_string(), *precision, *scale)
        }
        (DataType::Binary, CellValue::Text(text)) => hex(text),
        (DataType::Struct(known), CellValue::Fields(row)) => Ok(Value::Object(fields(row, known, problems))),
        (DataType::List(item), CellValue::List(cells)) => Ok(cells
            .iter()
            .map(|cell| value(&format!("{name}[]"), item.data_type(), cell, problems).unwrap_or(Value::Null))
            .collect()),
        (DataType::Map(entries, _), CellValue::Fields(row)) => match entries.data_type() {
            DataType::Struct(entry) if entry.len() == 2 => {
                let entries = row.iter().map(|(key, cell)| {
                    let name = format!("{name}.{key}");
                    let value = value(&name, entry[1].data_type(), &cell.value, problems);
                    (key.clone(), value.unwrap_or(Value::Null))
                });
                Ok(Value::Object(entries.collect()))
            }
            _ => Err(None),
        },
        _ => Err(None),
    };
    match fitting {
        Ok(value) => Some(value),
        Err(hint) => {
            let found = match (&cell.value, &hint) {
                (CellValue::Integer(number), Some(_)) => number.to_string(),
                (value, _) => value.what().to_owned(),
            };
            let message = format!("column {} is of type {}, found {found}", quoted(name), type_name(data_type));
            let hint = hint.unwrap_or_else(|| form(data_type).to_owned());
            problems.push(Problem::new(cell.place.clone(), message).with_hint(hint));
            None
        }
    }
}

type Fitting = Result<Value, Option<String>>;

fn within<T: TryFrom<i64>>(number: i64) -> Fitting {
    match T::try_from(number) {
        Ok(_) => Ok(number.into()),
        Err(_) => Err(Some("it is too large for the column".to_owned())),
    }
}

fn time(text: &str) -> Fitting {
    match DateTime::parse_from_rfc3339(text) {
        Ok(time) => Ok(time.to_utc().to_rfc3339_opts(SecondsFormat::Micros, true).into()),
        Err(_) => Err(Some("write date, time and offset: `2026-01-01T00:00:00Z`".to_owned())),
    }
}

fn date(text: &str) -> Fitting {
    match text.parse::<NaiveDate>() {
        // The calendar of Delta's readers ends there.
        Ok(date) if date.checked_add_days(Days::new(1)).is_some() => Ok(date.to_string().into()),
        _ => Err(Some("write a date: `2026-01-01`".to_owned())),
    }
}

fn decimal(text: &str, precision: u8, scale: i8) -> Fitting {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let are_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let scale = usize::try_from(scale).unwrap_or_default();
    if whole.is_empty() || !are_digits(whole) || !are_digits(fraction) {
        return Err(Some("write a number in quotes: `\"12.50\"`".to_owned()));
    }
    if fraction.len() > scale {
        return Err(Some(format!("it has {scale} digits after the point")));
    }
    if whole.trim_start_matches('0').len() + scale > usize::from(precision) {
        return Err(Some(format!("it has {precision} digits, {scale} of them after the point")));
    }
    Ok(text.to_owned().into())
}

fn hex(text: &str) -> Fitting {
    if text.len().is_multiple_of(2) && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        Ok(text.to_ascii_lowercase().into())
    } else {
        Err(Some("write bytes in hex: `\"c0ffee\"`".to_owned()))
    }
}

/// How a value of a type is written.
fn form(data_type: &DataType) -> &'static str {
    match data_type {
        DataType::Boolean => "write `true` or `false`",
        DataType::Utf8 => "write a text in quotes",
        DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::Int64 => "write a number without a point",
        DataType::Float32 | DataType::Float64 => "write a number: `0.5`",
        DataType::Timestamp(..) => "write date, time and offset: `2026-01-01T00:00:00Z`",
        DataType::Date32 => "write a date: `2026-01-01`",
        DataType::Decimal128(..) => "write a number in quotes: `\"12.50\"`",
        DataType::Binary => "write bytes in hex: `\"c0ffee\"`",
        DataType::List(_) => "write an array: `[…]`",
        DataType::Struct(_) | DataType::Map(..) => "write a table: `{ … }`",
        _ => "this type can't be given in a test",
    }
}

/// The columns that any of these rows names, in the order of the table.
pub(super) fn named<'r>(rows: impl IntoIterator<Item = &'r Row>, schema: &SchemaRef) -> Vec<String> {
    let mut named: BTreeMap<&str, ()> = BTreeMap::new();
    for row in rows {
        named.extend(row.keys().map(|name| (name.as_str(), ())));
    }
    schema.fields().iter().map(|field| field.name()).filter(|name| named.contains_key(name.as_str())).cloned().collect()
}
