//! The end of columns: what was gathered becomes arrays of the types that the plan gave.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Date32Array, Decimal128Array, Float64Array, Int64Array, ListArray, MapArray, StructArray,
    TimestampMicrosecondArray,
};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Fields};
use arrow::error::ArrowError;

use super::{Column, Named, fitted, unexpected};
use crate::decode::avro::plan::{Kind, Node};

impl Column<'_> {
    /// The column, of the type that the plan gave its node; `None` where the plan gave none.
    pub(super) fn finish(self, node: &Node) -> Result<Option<ArrayRef>, ArrowError> {
        let Some(data_type) = &node.data_type else { return self.check(node).map(|()| None) };
        let column: ArrayRef = match (self, &node.kind) {
            (Self::Boolean(mut values, nulls), _) => Arc::new(BooleanArray::new(values.finish(), nulls.build())),
            (Self::Int(values) | Self::Long(values), _) => {
                let (values, nulls) = values.parts();
                Arc::new(Int64Array::try_new(values, nulls)?)
            }
            (Self::Float(values) | Self::Double(values), _) => {
                let (values, nulls) = values.parts();
                Arc::new(Float64Array::try_new(values, nulls)?)
            }
            (Self::Date(values), _) => {
                let (values, nulls) = values.parts();
                Arc::new(Date32Array::try_new(values, nulls)?)
            }
            (Self::Timestamp(_, values), _) => {
                let (values, nulls) = values.parts();
                Arc::new(TimestampMicrosecondArray::try_new(values, nulls)?.with_timezone("UTC"))
            }
            (Self::Decimal { precision, scale, values, .. }, _) => {
                let (values, nulls) = values.parts();
                Arc::new(Decimal128Array::try_new(values, nulls)?.with_precision_and_scale(precision, scale)?)
            }
            (Self::Bytes(values) | Self::Fixed(_, values), _) => values.binary()?,
            (Self::Text(values) | Self::Enum(_, values) | Self::Uuid(_, values), _) => values.text()?,
            (Self::Duration { parts, nulls }, _) => {
                let columns = parts.map(|part| Arc::new(Int64Array::new(fitted(part), None)) as ArrayRef);
                Arc::new(StructArray::try_new(struct_fields(node)?, columns.to_vec(), nulls.build())?)
            }
            (Self::List { offsets, items, nulls, .. }, Kind::Array(inner)) => {
                let DataType::List(element) = data_type else { return Err(unexpected(node)) };
                let items = items.finish(inner)?.ok_or_else(|| unexpected(node))?;
                let offsets = OffsetBuffer::new(fitted(offsets));
                Arc::new(ListArray::try_new(element.clone(), offsets, items, nulls.build())?)
            }
            (Self::Map { keys, values, offsets, nulls, .. }, Kind::Map(inner)) => {
                let DataType::Map(entries, _) = data_type else { return Err(unexpected(node)) };
                let DataType::Struct(fields) = entries.data_type() else { return Err(unexpected(node)) };
                let columns = vec![keys.text()?, values.finish(inner)?.ok_or_else(|| unexpected(node))?];
                let held = StructArray::try_new(fields.clone(), columns, None)?;
                let offsets = OffsetBuffer::new(fitted(offsets));
                Arc::new(MapArray::try_new(entries.clone(), offsets, held, nulls.build(), false)?)
            }
            (Self::Record { fields, nulls }, Kind::Record(nodes)) => {
                let columns = record_columns(fields, nodes.iter().map(|field| &field.node))?;
                Arc::new(StructArray::try_new(struct_fields(node)?, columns, nulls.build())?)
            }
            (Self::Optional { inner, .. }, Kind::Optional { inner: node, .. }) => return inner.finish(node),
            (Self::Union { branches, nulls, .. }, Kind::Union(nodes)) => {
                let mut columns = record_columns(branches, nodes.iter().map(|branch| &branch.node))?;
                match columns.len() {
                    1 => columns.remove(0),
                    _ => Arc::new(StructArray::try_new(struct_fields(node)?, columns, nulls.build())?),
                }
            }
            _ => return Err(unexpected(node)),
        };
        Ok(Some(column))
    }
}

impl Column<'_> {
    /// The texts of what has no column: keys of maps.
    fn check(self, node: &Node) -> Result<(), ArrowError> {
        match (self, &node.kind) {
            (Self::List { items, .. }, Kind::Array(inner)) => items.finish(inner).map(drop),
            (Self::Map { keys, values, .. }, Kind::Map(inner)) => {
                keys.text()?;
                values.finish(inner).map(drop)
            }
            (Self::Record { fields, .. }, Kind::Record(nodes)) => {
                record_columns(fields, nodes.iter().map(|field| &field.node)).map(drop)
            }
            (Self::Optional { inner, .. }, Kind::Optional { inner: node, .. }) => inner.finish(node).map(drop),
            (Self::Union { branches, .. }, Kind::Union(nodes)) => {
                record_columns(branches, nodes.iter().map(|branch| &branch.node)).map(drop)
            }
            _ => Ok(()),
        }
    }
}

pub(super) fn record_columns<'n>(
    columns: Vec<Named<'_>>,
    nodes: impl Iterator<Item = &'n Node>,
) -> Result<Vec<ArrayRef>, ArrowError> {
    columns.into_iter().zip(nodes).filter_map(|(named, node)| named.column.finish(node).transpose()).collect()
}

fn struct_fields(node: &Node) -> Result<Fields, ArrowError> {
    match &node.data_type {
        Some(DataType::Struct(fields)) => Ok(fields.clone()),
        _ => Err(unexpected(node)),
    }
}
