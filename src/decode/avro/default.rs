//! The default of a field, from the JSON of its schema to the JSON of its column.
//!
//! ```text
//! default ─▶ a datum of the field's type ─▶ a row of its column ─▶ the JSON that Arrow makes of it
//! ```
//!
//! Source: the Avro specification 1.12, "Complex Types", the table of default values: bytes and fixed are strings whose characters
//! are the bytes, and the default of a union is one of its branches.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Fields, Schema};
use arrow::json::LineDelimitedWriter;
use serde_json::Value as Json;

use super::columns::Columns;
use super::plan::{FieldNode, Form, Kind, Node};
use super::walk::Texts;

/// A default as a datum. A megabyte of schema can unfold to gigabytes of it, where lists hold records of defaults.
const DATUM_BYTES_MAX: usize = 1 << 16;

/// The column's JSON of a default; `None` when that is null, or when there is no column.
///
/// # Errors
/// Words that say why it isn't of the field's type.
pub(super) fn json_of(node: &Node, default: &Json) -> Result<Option<String>, String> {
    let Some(data_type) = node.data_type.clone().filter(|_| !default.is_null()) else { return Ok(None) };
    let datum = datum_of(node, default).ok_or("it isn't of its type, or too large")?;
    let fields = Fields::from(vec![Field::new("default", data_type, true)]);
    let root = Node {
        kind: Kind::Record(vec![FieldNode {
            name: "default".to_owned(),
            node: node.clone(),
            absent: None,
            default: None,
        }]),
        data_type: Some(DataType::Struct(fields.clone())),
        bytes_min: node.bytes_min,
        null_bytes: node.null_bytes,
    };
    let mut columns = Columns::new(&root, 1);
    columns.push(&datum, Texts::Each).map_err(|error| error.to_string())?;
    let rows = columns.finish().and_then(|columns| RecordBatch::try_new(Arc::new(Schema::new(fields)), columns));
    let mut line = Vec::new();
    let mut writer = LineDelimitedWriter::new(&mut line);
    let written = rows.and_then(|rows| writer.write(&rows)).and_then(|()| writer.finish());
    written.map_err(|error| error.to_string())?;
    drop(writer);
    let line = String::from_utf8_lossy(&line);
    let value = line.trim_end().strip_prefix("{\"default\":").and_then(|rest| rest.strip_suffix('}'));
    Ok(value.map(str::to_owned))
}

/// The datum of a default; `None` when it isn't of the node's type, or too large.
pub(super) fn datum_of(node: &Node, default: &Json) -> Option<Vec<u8>> {
    let mut datum = Vec::new();
    write(node, default, &mut datum)?;
    // The last value may have been the one too many.
    (datum.len() <= DATUM_BYTES_MAX).then_some(datum)
}

/// Writes a value as a datum; `None` when it isn't of the node's type. The depth is that of the plan.
fn write(node: &Node, json: &Json, to: &mut Vec<u8>) -> Option<()> {
    if to.len() > DATUM_BYTES_MAX {
        return None;
    }
    match &node.kind {
        Kind::Null => json.as_null()?,
        Kind::Boolean => to.push(u8::from(json.as_bool()?)),
        Kind::Int | Kind::Date => long(i64::from(i32::try_from(json.as_i64()?).ok()?), to),
        Kind::Long | Kind::TimestampMillis | Kind::TimestampMicros | Kind::TimestampNanos => long(json.as_i64()?, to),
        Kind::Float => to.extend((json.as_f64()? as f32).to_le_bytes()),
        Kind::Double => to.extend(json.as_f64()?.to_le_bytes()),
        Kind::String => sized(json.as_str()?.as_bytes(), to),
        Kind::Enum(symbols) => {
            let symbol = json.as_str()?;
            long(i64::try_from(symbols.iter().position(|held| held == symbol)?).ok()?, to);
        }
        Kind::Bytes => sized(&bytes(json)?, to),
        Kind::Fixed(size) => to.extend(exactly(*size, json)?),
        Kind::Duration => to.extend(exactly(12, json)?),
        Kind::Decimal { form, .. } | Kind::Uuid(form) => match form {
            Form::Bytes => sized(&bytes(json)?, to),
            Form::Fixed(size) => to.extend(exactly(*size, json)?),
        },
        Kind::Array(items) => {
            let values = json.as_array()?;
            blocks(values.len(), to, |to| values.iter().try_for_each(|value| write(items, value, to)))?;
        }
        Kind::Map(values) => {
            let entries = json.as_object()?;
            blocks(entries.len(), to, |to| {
                entries.iter().try_for_each(|(key, value)| {
                    sized(key.as_bytes(), to);
                    write(values, value, to)
                })
            })?;
        }
        Kind::Record(fields) => {
            let values = json.as_object()?;
            for field in fields {
                write(&field.node, values.get(&field.name).or(field.default.as_ref())?, to)?;
            }
        }
        Kind::Optional { null_first, inner } => {
            let is_null = json.is_null();
            long(i64::from(is_null != *null_first), to);
            if !is_null {
                write(inner, json, to)?;
            }
        }
        Kind::Union(branches) => {
            // The first one by the older specifications, and any that fits by the newest.
            let fitting = (0_i64..).zip(branches).find_map(|(at, branch)| {
                let mut datum = Vec::new();
                write(&branch.node, json, &mut datum).map(|()| (at, datum))
            });
            let (at, datum) = fitting?;
            long(at, to);
            to.extend(datum);
        }
    }
    Some(())
}

pub(super) fn long(value: i64, to: &mut Vec<u8>) {
    let mut rest = ((value << 1) ^ (value >> 63)).cast_unsigned();
    while rest > 0x7F {
        to.push((rest & 0x7F) as u8 | 0x80);
        rest >>= 7;
    }
    to.push(rest as u8);
}

pub(super) fn sized(bytes: &[u8], to: &mut Vec<u8>) {
    long(i64::try_from(bytes.len()).unwrap_or(i64::MAX), to);
    to.extend(bytes);
}

/// Each character is a byte.
fn bytes(json: &Json) -> Option<Vec<u8>> {
    json.as_str()?.chars().map(|character| u8::try_from(u32::from(character)).ok()).collect()
}

fn exactly(size: usize, json: &Json) -> Option<Vec<u8>> {
    bytes(json).filter(|bytes| bytes.len() == size)
}

/// One block, and the empty one that ends them.
fn blocks(count: usize, to: &mut Vec<u8>, items: impl FnOnce(&mut Vec<u8>) -> Option<()>) -> Option<()> {
    if count > 0 {
        long(i64::try_from(count).ok()?, to);
        items(to)?;
    }
    long(0, to);
    Some(())
}

#[cfg(test)]
mod tests {
    use super::super::WriterSchema;
    use crate::columns::DEFAULT;

    /// What the column of a field of this type and default remembers.
    fn remembered(field: &str) -> Option<String> {
        let avsc = format!(r#"{{"type": "record", "name": "R", "fields": [{{"name": "f", {field}}}]}}"#);
        let schema = WriterSchema::parse(&avsc).expect("a schema");
        schema.columns()[0].metadata().get(DEFAULT).cloned()
    }

    #[test]
    fn a_default_becomes_a_value_of_its_column() {
        for (field, json) in [
            (r#""type": "int", "default": -7"#, Some("-7")),
            (r#""type": "long", "default": 9007199254740993"#, Some("9007199254740993")),
            (r#""type": "double", "default": 1"#, Some("1.0")),
            (r#""type": "boolean", "default": false"#, Some("false")),
            (r#""type": "string", "default": "a\"b""#, Some(r#""a\"b""#)),
            (r#""type": "bytes", "default": "\u00ffA""#, Some(r#""ff41""#)),
            (r#""type": {"type": "enum", "name": "E", "symbols": ["A", "B"]}, "default": "B""#, Some(r#""B""#)),
            (r#""type": {"type": "int", "logicalType": "date"}, "default": 1"#, Some(r#""1970-01-02""#)),
            (
                r#""type": {"type": "bytes", "logicalType": "decimal", "precision": 4, "scale": 2}, "default": "\u0001\u0000""#,
                Some("2.56"),
            ),
            (
                r#""type": {"type": "long", "logicalType": "timestamp-millis"}, "default": 1"#,
                Some(r#""1970-01-01T00:00:00.001Z""#),
            ),
            (r#""type": ["null", "int"], "default": null"#, None),
            (r#""type": ["int", "null"], "default": 3"#, Some("3")),
            (r#""type": ["string", "long"], "default": "x""#, Some(r#"{"string":"x"}"#)),
            (r#""type": {"type": "array", "items": "int"}, "default": [1, 2]"#, Some("[1,2]")),
            (r#""type": {"type": "array", "items": "int"}, "default": []"#, Some("[]")),
            (r#""type": {"type": "map", "values": "string"}, "default": {"k": "v"}"#, Some(r#"{"k":"v"}"#)),
            (
                r#""type": {"type": "record", "name": "I", "fields": [
                    {"name": "a", "type": "int", "default": 5}, {"name": "b", "type": "string"}]}, "default": {"b": "x"}"#,
                Some(r#"{"a":5,"b":"x"}"#),
            ),
        ] {
            assert_eq!(remembered(field).as_deref(), json, "{field}");
        }
    }
}
