//! Datums into columns: one walk that judges a datum and keeps its values.
//!
//! ```text
//! Rows::push(datum) ─┬─ sound to its last byte: one more row in every column
//!                    └─ anything else: every column is cut back to the rows that it had
//! ```
//!
//! A datum is sound when every length and count is within the bytes that are left, every string is UTF-8,
//! every index exists, every value fits the column that it goes to, and nothing is left over.

mod finish;

use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryArray, BooleanBufferBuilder, NullBufferBuilder, StringArray};
use arrow::buffer::{Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::error::ArrowError;

use self::finish::record_columns;
use super::plan::{Form, Kind, Node};
use super::walk::{DatumError, Step, Texts, Walk};

/// The memory that one datum may take in columns beyond its own bytes. A null record of a thousand columns
/// is one byte in the datum, and so is a symbol of a kilobyte; larger would let a megabyte of such bytes take
/// the process's memory. It bounds a datum, and not what many such take together: a schema of the kind is
/// needed for that, and whoever registers schemas is trusted so far.
const EXTRA_BYTES_MAX: usize = 64 << 20;

/// Columns that grow by a row for each sound datum.
pub(super) struct Columns<'p> {
    root: &'p Node,
    column: Column<'p>,
    rows: usize,
    bytes: usize,
}

impl<'p> Columns<'p> {
    /// For about so many rows; `root` is a record.
    pub(super) fn new(root: &'p Node, rows: usize) -> Self {
        Self { root, column: Column::of(root, rows), rows: 0, bytes: 0 }
    }

    /// What the rows were made of: bytes of datums, and what they take beyond these.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds a row.
    ///
    /// # Errors
    /// What is wrong with the datum; then nothing was added.
    pub(super) fn push(&mut self, datum: &[u8], texts: Texts) -> Result<(), Box<DatumError>> {
        let mut walk = Walk::new(datum, texts);
        if datum.is_empty() && self.root.bytes_min > 0 {
            return Err(walk.error("the body is empty"));
        }
        let mut extra = 0;
        match self.column.push(&mut walk, &mut extra).and_then(|()| walk.end()) {
            Ok(()) => {
                self.rows += 1;
                self.bytes = self.bytes.saturating_add(datum.len()).saturating_add(extra);
                Ok(())
            }
            Err(error) => {
                self.column.truncate(self.rows);
                Err(error)
            }
        }
    }

    /// How many bytes the datum at the front of `bytes` takes. Adds nothing but to `extra`: what datums one
    /// behind the other take in columns beyond their own bytes, which is bounded as for one.
    ///
    /// # Errors
    /// What is wrong with the datum.
    pub(super) fn length_of(&mut self, bytes: &[u8], extra: &mut usize) -> Result<usize, Box<DatumError>> {
        let mut walk = Walk::new(bytes, Texts::Together);
        let walked = self.column.push(&mut walk, extra);
        self.column.truncate(self.rows);
        walked.map(|()| bytes.len() - walk.left())
    }

    /// The payload's columns, in the plan's order.
    ///
    /// # Errors
    /// Texts that aren't UTF-8, if they weren't looked at one by one; and defects.
    pub(super) fn finish(self) -> Result<Vec<ArrayRef>, ArrowError> {
        match (self.column, &self.root.kind) {
            (Column::Record { fields, .. }, Kind::Record(nodes)) => {
                record_columns(fields, nodes.iter().map(|f| &f.node))
            }
            _ => Err(unexpected(self.root)),
        }
    }
}

fn unexpected(node: &Node) -> ArrowError {
    ArrowError::SchemaError(format!("columns that aren't of the plan's {:?}", node.data_type))
}

/// Bytes of many values, one behind the other.
struct Bytes {
    offsets: Vec<i32>,
    bytes: Vec<u8>,
    nulls: NullBufferBuilder,
}

impl Bytes {
    fn new(rows: usize) -> Self {
        Self { offsets: offsets(rows), bytes: Vec::with_capacity(rows * 8), nulls: NullBufferBuilder::new(rows) }
    }

    /// Offsets have 31 bits: the bound on the bytes of a set of columns keeps them from overflowing.
    #[inline]
    fn push(&mut self, value: &[u8]) {
        self.bytes.extend_from_slice(value);
        self.offsets.push(self.bytes.len() as i32);
        self.nulls.append_non_null();
    }

    fn push_null(&mut self) {
        self.offsets.push(self.bytes.len() as i32);
        self.nulls.append_null();
    }

    fn truncate(&mut self, rows: usize) {
        self.offsets.truncate(rows + 1);
        self.bytes.truncate(end_of(&self.offsets));
        self.nulls.truncate(rows);
    }

    fn parts(self) -> (OffsetBuffer<i32>, Buffer, Option<NullBuffer>) {
        (OffsetBuffer::new(fitted(self.offsets)), Buffer::from_vec(trimmed(self.bytes)), self.nulls.build())
    }

    fn binary(self) -> Result<ArrayRef, ArrowError> {
        let (offsets, bytes, nulls) = self.parts();
        Ok(Arc::new(BinaryArray::try_new(offsets, bytes, nulls)?))
    }

    fn text(self) -> Result<ArrayRef, ArrowError> {
        let (offsets, bytes, nulls) = self.parts();
        Ok(Arc::new(StringArray::try_new(offsets, bytes, nulls)?))
    }
}

fn offsets(rows: usize) -> Vec<i32> {
    let mut offsets = Vec::with_capacity(rows + 1);
    offsets.push(0);
    offsets
}

/// Where the next value begins.
fn end_of(offsets: &[i32]) -> usize {
    offsets.last().map_or(0, |end| end.unsigned_abs() as usize)
}

/// Gives back what a vector that doubled holds in vain, unless that is little.
fn trimmed<T>(mut values: Vec<T>) -> Vec<T> {
    if values.capacity() > values.len() + values.len() / 4 {
        values.shrink_to_fit();
    }
    values
}

fn fitted<T: arrow::datatypes::ArrowNativeType>(values: Vec<T>) -> ScalarBuffer<T> {
    ScalarBuffer::from(trimmed(values))
}

/// Numbers, of a width that the column has.
struct Numbers<T> {
    values: Vec<T>,
    nulls: NullBufferBuilder,
}

impl<T: Default + arrow::datatypes::ArrowNativeType> Numbers<T> {
    fn new(rows: usize) -> Self {
        Self { values: Vec::with_capacity(rows), nulls: NullBufferBuilder::new(rows) }
    }

    #[inline]
    fn push(&mut self, value: T) {
        self.values.push(value);
        self.nulls.append_non_null();
    }

    fn push_null(&mut self) {
        self.values.push(T::default());
        self.nulls.append_null();
    }

    fn truncate(&mut self, rows: usize) {
        self.values.truncate(rows);
        self.nulls.truncate(rows);
    }

    fn parts(self) -> (ScalarBuffer<T>, Option<NullBuffer>) {
        (fitted(self.values), self.nulls.build())
    }
}

/// What a timestamp counts.
#[derive(Clone, Copy)]
enum Unit {
    Millis,
    Micros,
    Nanos,
}

/// A column of a node, with what reading its values takes. Also of nodes that have no column in the table,
/// since their bytes have to be walked: those give nothing at the end.
enum Column<'p> {
    Nothing,
    Boolean(BooleanBufferBuilder, NullBufferBuilder),
    Int(Numbers<i64>),
    Long(Numbers<i64>),
    Float(Numbers<f64>),
    Double(Numbers<f64>),
    Date(Numbers<i32>),
    Timestamp(Unit, Numbers<i64>),
    Decimal {
        precision: u8,
        scale: i8,
        form: Form,
        values: Numbers<i128>,
    },
    Bytes(Bytes),
    Text(Bytes),
    Fixed(usize, Bytes),
    Enum(&'p [String], Bytes),
    Uuid(Form, Bytes),
    Duration {
        parts: [Vec<i64>; 3],
        nulls: NullBufferBuilder,
    },
    List {
        item_bytes_min: usize,
        offsets: Vec<i32>,
        items: Box<Column<'p>>,
        nulls: NullBufferBuilder,
    },
    Map {
        item_bytes_min: usize,
        keys: Bytes,
        values: Box<Column<'p>>,
        offsets: Vec<i32>,
        nulls: NullBufferBuilder,
    },
    Record {
        fields: Vec<Named<'p>>,
        nulls: NullBufferBuilder,
    },
    Optional {
        null_branch: usize,
        null_bytes: usize,
        inner: Box<Column<'p>>,
    },
    /// Each branch is a column with nulls where another branch was written.
    Union {
        null_branch: Option<usize>,
        branches: Vec<Named<'p>>,
        nulls: NullBufferBuilder,
    },
}

struct Named<'p> {
    name: &'p str,
    column: Column<'p>,
    /// What a null takes there.
    null_bytes: usize,
}

impl<'p> Named<'p> {
    fn of(name: &'p str, node: &'p Node, rows: usize) -> Self {
        Self { name, column: Column::of(node, rows), null_bytes: node.null_bytes }
    }
}

impl<'p> Column<'p> {
    fn of(node: &'p Node, rows: usize) -> Self {
        let nulls = NullBufferBuilder::new(rows);
        match &node.kind {
            Kind::Null => Self::Nothing,
            Kind::Boolean => Self::Boolean(BooleanBufferBuilder::new(rows), nulls),
            Kind::Int => Self::Int(Numbers::new(rows)),
            Kind::Long => Self::Long(Numbers::new(rows)),
            Kind::Float => Self::Float(Numbers::new(rows)),
            Kind::Double => Self::Double(Numbers::new(rows)),
            Kind::Date => Self::Date(Numbers::new(rows)),
            Kind::TimestampMillis => Self::Timestamp(Unit::Millis, Numbers::new(rows)),
            Kind::TimestampMicros => Self::Timestamp(Unit::Micros, Numbers::new(rows)),
            Kind::TimestampNanos => Self::Timestamp(Unit::Nanos, Numbers::new(rows)),
            Kind::Decimal { precision, scale, form } => {
                Self::Decimal { precision: *precision, scale: *scale, form: *form, values: Numbers::new(rows) }
            }
            Kind::Bytes => Self::Bytes(Bytes::new(rows)),
            Kind::String => Self::Text(Bytes::new(rows)),
            Kind::Fixed(size) => Self::Fixed(*size, Bytes::new(rows)),
            Kind::Enum(symbols) => Self::Enum(symbols, Bytes::new(rows)),
            Kind::Uuid(form) => Self::Uuid(*form, Bytes::new(rows)),
            Kind::Duration => Self::Duration { parts: [const { Vec::new() }; 3], nulls },
            Kind::Array(items) => Self::List {
                item_bytes_min: items.bytes_min,
                offsets: offsets(rows),
                items: Box::new(Self::of(items, rows)),
                nulls,
            },
            Kind::Map(values) => Self::Map {
                item_bytes_min: 1 + values.bytes_min,
                offsets: offsets(rows),
                keys: Bytes::new(rows),
                values: Box::new(Self::of(values, rows)),
                nulls,
            },
            Kind::Record(fields) => {
                let fields = fields.iter().map(|field| Named::of(&field.name, &field.node, rows));
                Self::Record { fields: fields.collect(), nulls }
            }
            Kind::Optional { null_first, inner } => Self::Optional {
                null_branch: usize::from(!null_first),
                null_bytes: inner.null_bytes,
                inner: Box::new(Self::of(inner, rows)),
            },
            Kind::Union(branches) => Self::Union {
                null_branch: branches.iter().position(|branch| matches!(branch.node.kind, Kind::Null)),
                branches: branches.iter().map(|branch| Named::of(&branch.name, &branch.node, 0)).collect(),
                nulls,
            },
        }
    }

    /// Reads a value. Recursion is bounded by the schema's depth, which the plan bounds.
    fn push(&mut self, walk: &mut Walk<'_>, extra: &mut usize) -> Step {
        match self {
            Self::Nothing => {}
            Self::Boolean(values, nulls) => {
                values.append(walk.boolean()?);
                nulls.append_non_null();
            }
            Self::Int(values) => values.push(i64::from(walk.int()?)),
            Self::Long(values) => values.push(walk.long()?),
            Self::Float(values) => values.push(f64::from(f32::from_le_bytes(walk.array()?))),
            Self::Double(values) => values.push(f64::from_le_bytes(walk.array()?)),
            Self::Date(values) => values.push(walk.int()?),
            Self::Timestamp(unit, values) => values.push(micros(walk, *unit)?),
            Self::Decimal { precision, form, values, .. } => values.push(walk.decimal(*precision, *form)?),
            Self::Bytes(values) => values.push(walk.sized()?),
            Self::Text(values) => values.push(walk.text()?),
            Self::Fixed(size, values) => values.push(walk.take(*size)?),
            Self::Enum(symbols, values) => {
                let symbol = &symbols[walk.symbol(symbols.len())?];
                take_extra(walk, extra, symbol.len())?;
                values.push(symbol.as_bytes());
            }
            Self::Uuid(form, values) => {
                let uuid = uuid::Uuid::from_bytes(walk.uuid(*form)?);
                values.push(uuid.hyphenated().encode_lower(&mut uuid::Uuid::encode_buffer()).as_bytes());
            }
            Self::Duration { parts, nulls } => {
                for part in parts {
                    part.push(i64::from(u32::from_le_bytes(walk.array()?)));
                }
                nulls.append_non_null();
            }
            Self::List { item_bytes_min, offsets, items, nulls } => {
                let count = walk.blocks(*item_bytes_min, |walk| items.push(walk, extra))?;
                offsets.push((end_of(offsets) + count) as i32);
                nulls.append_non_null();
            }
            Self::Map { item_bytes_min, keys, values, offsets, nulls } => {
                let count = walk.blocks(*item_bytes_min, |walk| {
                    keys.push(walk.text()?);
                    values.push(walk, extra)
                })?;
                offsets.push((end_of(offsets) + count) as i32);
                nulls.append_non_null();
            }
            Self::Record { fields, nulls } => {
                for field in fields {
                    field.column.push(walk, extra).map_err(|error| error.inside(field.name))?;
                }
                nulls.append_non_null();
            }
            Self::Optional { null_branch, null_bytes, inner } => {
                if walk.branch(2)? == *null_branch {
                    take_extra(walk, extra, *null_bytes)?;
                    inner.push_null();
                } else {
                    inner.push(walk, extra)?;
                }
            }
            Self::Union { null_branch, branches, nulls } => {
                let written = walk.branch(branches.len())?;
                for (index, branch) in branches.iter_mut().enumerate() {
                    if index == written {
                        branch.column.push(walk, extra).map_err(|error| error.inside(branch.name))?;
                    } else {
                        take_extra(walk, extra, branch.null_bytes)?;
                        branch.column.push_null();
                    }
                }
                nulls.append(*null_branch != Some(written));
            }
        }
        Ok(())
    }

    fn push_null(&mut self) {
        match self {
            Self::Nothing => {}
            Self::Boolean(values, nulls) => {
                values.append(false);
                nulls.append_null();
            }
            Self::Int(values) | Self::Long(values) | Self::Timestamp(_, values) => values.push_null(),
            Self::Float(values) | Self::Double(values) => values.push_null(),
            Self::Date(values) => values.push_null(),
            Self::Decimal { values, .. } => values.push_null(),
            Self::Bytes(values)
            | Self::Text(values)
            | Self::Fixed(_, values)
            | Self::Enum(_, values)
            | Self::Uuid(_, values) => values.push_null(),
            Self::Duration { parts, nulls } => {
                parts.iter_mut().for_each(|part| part.push(0));
                nulls.append_null();
            }
            Self::List { offsets, nulls, .. } | Self::Map { offsets, nulls, .. } => {
                offsets.push(end_of(offsets) as i32);
                nulls.append_null();
            }
            Self::Record { fields: inner, nulls } | Self::Union { branches: inner, nulls, .. } => {
                inner.iter_mut().for_each(|inner| inner.column.push_null());
                nulls.append_null();
            }
            Self::Optional { inner, .. } => inner.push_null(),
        }
    }

    /// Leaves the first `rows` values, which are all there.
    fn truncate(&mut self, rows: usize) {
        match self {
            Self::Nothing => {}
            Self::Boolean(values, nulls) => {
                values.truncate(rows);
                nulls.truncate(rows);
            }
            Self::Int(values) | Self::Long(values) | Self::Timestamp(_, values) => values.truncate(rows),
            Self::Float(values) | Self::Double(values) => values.truncate(rows),
            Self::Date(values) => values.truncate(rows),
            Self::Decimal { values, .. } => values.truncate(rows),
            Self::Bytes(values)
            | Self::Text(values)
            | Self::Fixed(_, values)
            | Self::Enum(_, values)
            | Self::Uuid(_, values) => values.truncate(rows),
            Self::Duration { parts, nulls } => {
                parts.iter_mut().for_each(|part| part.truncate(rows));
                nulls.truncate(rows);
            }
            Self::List { offsets, items, nulls, .. } => {
                offsets.truncate(rows + 1);
                items.truncate(end_of(offsets));
                nulls.truncate(rows);
            }
            Self::Map { keys, values, offsets, nulls, .. } => {
                offsets.truncate(rows + 1);
                keys.truncate(end_of(offsets));
                values.truncate(end_of(offsets));
                nulls.truncate(rows);
            }
            Self::Record { fields: inner, nulls } | Self::Union { branches: inner, nulls, .. } => {
                inner.iter_mut().for_each(|inner| inner.column.truncate(rows));
                nulls.truncate(rows);
            }
            Self::Optional { inner, .. } => inner.truncate(rows),
        }
    }
}

fn micros(walk: &mut Walk<'_>, unit: Unit) -> Step<i64> {
    let count = walk.long()?;
    match unit {
        Unit::Micros => Ok(count),
        Unit::Nanos => Ok(count.div_euclid(1000)),
        Unit::Millis => {
            count.checked_mul(1000).ok_or_else(|| walk.error("a timestamp that is out of range in microseconds"))
        }
    }
}

fn take_extra(walk: &Walk<'_>, extra: &mut usize, bytes: usize) -> Step {
    *extra = extra.saturating_add(bytes);
    if *extra > EXTRA_BYTES_MAX {
        let problem = format!("nulls or symbols that would take more than {EXTRA_BYTES_MAX} bytes of columns");
        return Err(walk.error(problem));
    }
    Ok(())
}
