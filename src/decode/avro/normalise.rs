//! arrow-avro's columns to the columns that Delta holds; `docs/types.md` is its table.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, Decimal128Array, FixedSizeBinaryArray, Int32Array, Int64Array, ListArray,
    MapArray, PrimitiveArray, StringBuilder, StructArray, UInt32Array, UnionArray,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::compute::take;
use arrow::datatypes::{
    ArrowPrimitiveType, DataType, Date32Type, Fields, Float32Type, Float64Type, Int32Type, Int64Type,
    TimestampMicrosecondType,
};
use arrow::error::ArrowError;

use super::plan::{BranchNode, FieldNode, Form, Kind, Node};
use super::validate::decimal;

/// The column of a node, of the type that the plan gave it; `None` where the plan gave none.
///
/// # Errors
/// When `array` isn't what the physical schema of the node asks for.
pub(super) fn normalise(node: &Node, array: &ArrayRef) -> Result<Option<ArrayRef>, ArrowError> {
    let Some(data_type) = &node.data_type else { return Ok(None) };
    let column: ArrayRef = match &node.kind {
        Kind::Null => return Ok(None),
        Kind::Boolean | Kind::Long | Kind::Double | Kind::Bytes | Kind::String => array.clone(),
        Kind::Int => Arc::new(primitive::<Int32Type>(array)?.unary::<_, Int64Type>(i64::from)),
        Kind::Float => Arc::new(primitive::<Float32Type>(array)?.unary::<_, Float64Type>(f64::from)),
        Kind::Enum(symbols) => enumeration(symbols, primitive::<Int32Type>(array)?),
        Kind::Fixed(size) => fixed(*size, typed(array)?)?,
        Kind::Decimal { precision, scale, form } => decimals(*precision, *scale, *form, array)?,
        Kind::Uuid(form) => uuids(*form, array)?,
        Kind::Date => Arc::new(primitive::<Int32Type>(array)?.reinterpret_cast::<Date32Type>()),
        Kind::TimestampMillis => timestamps(array, |millis| millis.saturating_mul(1000))?,
        Kind::TimestampMicros => timestamps(array, |micros| micros)?,
        Kind::TimestampNanos => timestamps(array, |nanos| nanos.div_euclid(1000))?,
        Kind::Duration => durations(data_type, typed(array)?)?,
        Kind::Array(items) => list(data_type, items, typed(array)?)?,
        Kind::Map(values) => map(data_type, values, typed(array)?)?,
        Kind::Record(fields) => {
            let record: &StructArray = typed(array)?;
            let columns = record_columns(fields, record.columns())?;
            Arc::new(StructArray::try_new(struct_fields(data_type)?, columns, record.nulls().cloned())?)
        }
        Kind::Optional { inner, .. } => return normalise(inner, array),
        Kind::Union(branches) => union(data_type, branches, typed(array)?)?,
    };
    Ok(Some(column))
}

/// The columns of a record's fields; those that take no bytes aren't among arrow-avro's.
pub(super) fn record_columns(fields: &[FieldNode], arrays: &[ArrayRef]) -> Result<Vec<ArrayRef>, ArrowError> {
    let kept = fields.iter().filter(|field| !field.node.is_empty());
    let mut columns = Vec::with_capacity(fields.len());
    for (field, array) in kept.zip(arrays) {
        columns.extend(normalise(&field.node, array)?);
    }
    Ok(columns)
}

fn typed<T: 'static>(array: &ArrayRef) -> Result<&T, ArrowError> {
    array.as_any().downcast_ref().ok_or_else(|| unexpected(array.data_type()))
}

fn primitive<T: ArrowPrimitiveType>(array: &ArrayRef) -> Result<&PrimitiveArray<T>, ArrowError> {
    array.as_primitive_opt().ok_or_else(|| unexpected(array.data_type()))
}

fn unexpected(found: &DataType) -> ArrowError {
    ArrowError::SchemaError(format!("a column of {found} where the plan has another type"))
}

fn struct_fields(data_type: &DataType) -> Result<Fields, ArrowError> {
    match data_type {
        DataType::Struct(fields) => Ok(fields.clone()),
        other => Err(unexpected(other)),
    }
}

fn timestamps(array: &ArrayRef, to_micros: impl Fn(i64) -> i64) -> Result<ArrayRef, ArrowError> {
    let micros = primitive::<Int64Type>(array)?.unary::<_, TimestampMicrosecondType>(to_micros);
    Ok(Arc::new(micros.with_timezone("UTC")))
}

fn enumeration(symbols: &[String], indices: &Int32Array) -> ArrayRef {
    let mut texts = StringBuilder::with_capacity(indices.len(), indices.len() * 8);
    for index in indices {
        let symbol = index.and_then(|index| usize::try_from(index).ok()).and_then(|index| symbols.get(index));
        texts.append_option(symbol);
    }
    Arc::new(texts.finish())
}

fn fixed(size: usize, array: &FixedSizeBinaryArray) -> Result<ArrayRef, ArrowError> {
    let offsets = OffsetBuffer::from_lengths(std::iter::repeat_n(size, array.len()));
    let (_, values, nulls) = array.clone().into_parts();
    Ok(Arc::new(BinaryArray::try_new(offsets, values, nulls)?))
}

/// Values of bytes, wherever they lie.
enum ByteValues<'a> {
    Bytes(&'a BinaryArray),
    Fixed(&'a FixedSizeBinaryArray),
}

impl<'a> ByteValues<'a> {
    fn of(form: Form, array: &'a ArrayRef) -> Result<Self, ArrowError> {
        Ok(match form {
            Form::Bytes => Self::Bytes(typed(array)?),
            Form::Fixed(_) => Self::Fixed(typed(array)?),
        })
    }

    fn at(&self, row: usize) -> Option<&'a [u8]> {
        match self {
            Self::Bytes(array) => array.is_valid(row).then(|| array.value(row)),
            Self::Fixed(array) => array.is_valid(row).then(|| array.value(row)),
        }
    }
}

fn decimals(precision: u8, scale: i8, form: Form, array: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    let bytes = ByteValues::of(form, array)?;
    let values = (0..array.len()).map(|row| bytes.at(row).and_then(decimal));
    Ok(Arc::new(Decimal128Array::from_iter(values).with_precision_and_scale(precision, scale)?))
}

fn uuids(form: Form, array: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    let bytes = ByteValues::of(form, array)?;
    let mut texts = StringBuilder::with_capacity(array.len(), array.len() * 36);
    for row in 0..array.len() {
        match bytes.at(row).and_then(|bytes| uuid::Uuid::from_slice(bytes).ok()) {
            Some(uuid) => texts.append_value(uuid.hyphenated().encode_lower(&mut uuid::Uuid::encode_buffer())),
            None => texts.append_null(),
        }
    }
    Ok(Arc::new(texts.finish()))
}

/// Three unsigned little-endian numbers of 32 bits.
fn durations(data_type: &DataType, array: &FixedSizeBinaryArray) -> Result<ArrayRef, ArrowError> {
    let part = |at: usize| -> ArrayRef {
        let values = (0..array.len()).map(|row| {
            let bytes = array.value(row);
            i64::from(u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]))
        });
        Arc::new(Int64Array::from_iter_values(values))
    };
    let columns = vec![part(0), part(4), part(8)];
    Ok(Arc::new(StructArray::try_new(struct_fields(data_type)?, columns, array.nulls().cloned())?))
}

fn list(data_type: &DataType, items: &Node, array: &ListArray) -> Result<ArrayRef, ArrowError> {
    let DataType::List(element) = data_type else { return Err(unexpected(data_type)) };
    let (_, offsets, values, nulls) = array.clone().into_parts();
    let values = normalise(items, &values)?.ok_or_else(|| unexpected(data_type))?;
    Ok(Arc::new(ListArray::try_new(element.clone(), offsets, values, nulls)?))
}

fn map(data_type: &DataType, values: &Node, array: &MapArray) -> Result<ArrayRef, ArrowError> {
    let DataType::Map(entries_field, _) = data_type else { return Err(unexpected(data_type)) };
    let (_, offsets, entries, nulls, _) = array.clone().into_parts();
    let columns =
        vec![entries.column(0).clone(), normalise(values, entries.column(1))?.ok_or_else(|| unexpected(data_type))?];
    let entries = StructArray::try_new(struct_fields(entries_field.data_type())?, columns, None)?;
    Ok(Arc::new(MapArray::try_new(entries_field.clone(), offsets, entries, nulls, false)?))
}

/// Each branch becomes a column with nulls where another branch was written.
fn union(data_type: &DataType, branches: &[BranchNode], array: &UnionArray) -> Result<ArrayRef, ArrowError> {
    let offsets = array.offsets().ok_or_else(|| unexpected(array.data_type()))?;
    let mut columns = Vec::with_capacity(branches.len());
    let mut null_branch = None;
    for (branch, type_id) in branches.iter().zip(0_i8..) {
        if matches!(branch.node.kind, Kind::Null) {
            null_branch = Some(type_id);
        }
        if branch.node.data_type.is_none() {
            continue;
        }
        let wrapped: &StructArray = typed(array.child(type_id))?;
        let Some(values) = normalise(&branch.node, wrapped.column(0))? else { continue };
        let rows = array.type_ids().iter().zip(offsets.iter());
        let picked: UInt32Array = rows.map(|(id, offset)| (*id == type_id).then(|| offset.cast_unsigned())).collect();
        columns.push(take(&values, &picked, None)?);
    }
    if columns.len() == 1 {
        return columns.pop().ok_or_else(|| unexpected(data_type));
    }
    let nulls = null_branch
        .map(|null_branch| array.type_ids().iter().map(|id| *id != null_branch).collect::<Vec<bool>>())
        .map(NullBuffer::from);
    Ok(Arc::new(StructArray::try_new(struct_fields(data_type)?, columns, nulls)?))
}
