//! How values of one type go into a column of another, worked out once for each pair of schemas.
//!
//! | a value of | goes into a column of | |
//! |---|---|---|
//! | the column's type | | as it is |
//! | a narrower integer, `float` | a wider integer, `double` | |
//! | an integer | `double` | where the double is exactly that number |
//! | `bytes`, `string` | `string`, `bytes` | where the bytes are UTF-8 |
//! | a decimal | one of other digits | where no digit is lost |
//! | a record, a list, a map | the same of other values | by what is in it |
//! | a union | a column that is no union | the branch that the column holds |
//! | anything | a union | the branch that holds it |
//!
//! These are the promotions of the Avro specification ("Schema Resolution"), less what would round a value. What goes
//! nowhere is rescued.

use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::datatypes::{DataType, Field, Fields, Schema};
use arrow::json::ReaderBuilder;

use super::matching::columns_of;
use crate::columns::{BRANCH, DEFAULT, Level};

#[derive(Debug)]
pub(super) enum Way {
    Same,
    /// Value by value; what the column can't hold exactly is rescued.
    Cast,
    Record(RecordWay),
    List(Box<Way>),
    Map(Box<Way>),
    /// One branch of a union; the others are rescued.
    OutOf(usize, Box<Way>),
    /// Into one branch of a union.
    Into(usize, Box<Way>),
    Rescued,
}

#[derive(Debug)]
pub(super) struct RecordWay {
    /// In the order of the table's columns.
    pub(super) columns: Vec<Source>,
    /// Fields that have no column.
    pub(super) surplus: Vec<usize>,
}

#[derive(Debug)]
pub(super) enum Source {
    /// Null, or the default, as an array of one.
    Missing(Option<ArrayRef>),
    Given(usize, Way),
}

/// Whether a field that the writer lacks takes its default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Defaults {
    #[default]
    Ignored,
    Used,
}

impl RecordWay {
    pub(super) fn of(new: &Fields, held: &Fields, level: Level, defaults: Defaults) -> Self {
        let mut columns: Vec<_> = held.iter().map(|_| None).collect();
        let mut surplus = Vec::new();
        for (at, column) in columns_of(held, new, level).into_iter().enumerate() {
            match column {
                Some(column) => {
                    let way = Way::of(new[at].data_type(), held[column].data_type(), defaults);
                    columns[column] = Some(Source::Given(at, way));
                }
                None => surplus.push(at),
            }
        }
        let missing = |field: &Field| Source::Missing(default_of(field).filter(|_| defaults == Defaults::Used));
        let columns = columns.into_iter().zip(held).map(|(source, field)| source.unwrap_or_else(|| missing(field)));
        Self { columns: columns.collect(), surplus }
    }
}

impl Way {
    fn of(new: &DataType, held: &DataType, defaults: Defaults) -> Self {
        match (new, held) {
            _ if new == held => Self::Same,
            (DataType::Struct(fields), DataType::Struct(columns)) if is_union(fields) == is_union(columns) => {
                Self::Record(RecordWay::of(fields, columns, Level::Nested, defaults))
            }
            (DataType::List(new), DataType::List(held)) => {
                Self::of(new.data_type(), held.data_type(), defaults).within(Self::List)
            }
            (DataType::Map(new, _), DataType::Map(held, _)) => match (value_of(new), value_of(held)) {
                (Some(new), Some(held)) => Self::of(new, held, defaults).within(Self::Map),
                _ => Self::Rescued,
            },
            (DataType::Struct(branches), _) if is_union(branches) => match branch_of(branches, held) {
                Some(at) => Self::OutOf(at, Box::new(Self::of(branches[at].data_type(), held, defaults))),
                None => Self::Rescued,
            },
            (_, DataType::Struct(branches)) if is_union(branches) => match branch_for(branches, new) {
                Some(at) => Self::Into(at, Box::new(Self::of(new, branches[at].data_type(), defaults))),
                None => Self::Rescued,
            },
            _ if can_cast(new, held) => Self::Cast,
            _ => Self::Rescued,
        }
    }

    /// A list of what can't be held is no list of nulls.
    fn within(self, around: fn(Box<Self>) -> Self) -> Self {
        match self {
            Self::Rescued => Self::Rescued,
            inner => around(Box::new(inner)),
        }
    }
}

/// The type of a map's values.
pub(super) fn value_of(entries: &Field) -> Option<&DataType> {
    match entries.data_type() {
        DataType::Struct(pair) if pair.len() == 2 => Some(pair[1].data_type()),
        _ => None,
    }
}

/// Whether a struct holds the branches of a union.
pub(super) fn is_union(fields: &Fields) -> bool {
    fields.iter().any(|field| field.metadata().contains_key(BRANCH))
}

/// The branch of a union whose values a column takes that is no union.
pub(super) fn branch_of(branches: &Fields, column: &DataType) -> Option<usize> {
    best(branches, |branch| closeness(branch, column))
}

/// The branch of a union's column that takes values of a type.
pub(super) fn branch_for(branches: &Fields, new: &DataType) -> Option<usize> {
    best(branches, |branch| closeness(new, branch))
}

/// The first of the closest. Which of several records is meant can't be told without their names.
fn best(branches: &Fields, closeness: impl Fn(&DataType) -> Option<u8>) -> Option<usize> {
    let near: Vec<_> = branches.iter().map(|branch| closeness(branch.data_type())).collect();
    let closest = near.iter().flatten().min()?;
    let of_records = |at: &usize| matches!(branches[*at].data_type(), DataType::Struct(_));
    let mut fitting = (0..near.len()).filter(|at| near[*at] == Some(*closest));
    let first = fitting.next()?;
    (!of_records(&first) || fitting.next().is_none()).then_some(first)
}

fn closeness(new: &DataType, held: &DataType) -> Option<u8> {
    match (new, held) {
        _ if new.equals_datatype(held) => Some(0),
        (DataType::Struct(fields), DataType::Struct(columns)) => (is_union(fields) == is_union(columns)).then_some(1),
        (DataType::List(new), DataType::List(held)) => closeness(new.data_type(), held.data_type()).map(|_| 1),
        (DataType::Map(new, _), DataType::Map(held, _)) => closeness(value_of(new)?, value_of(held)?).map(|_| 1),
        _ => can_cast(new, held).then_some(2),
    }
}

fn can_cast(new: &DataType, held: &DataType) -> bool {
    match (new, held) {
        (DataType::Float32, DataType::Float64) => true,
        (DataType::Utf8, DataType::Binary) | (DataType::Binary, DataType::Utf8) => true,
        (DataType::Decimal128(..), DataType::Decimal128(..)) => true,
        (new, held) => new.is_signed_integer() && (held.is_signed_integer() || *held == DataType::Float64),
    }
}

/// The default that a column remembers; nothing where a stranger wrote what is none.
fn default_of(column: &Field) -> Option<ArrayRef> {
    let json = column.metadata().get(DEFAULT)?;
    let schema = Schema::new(vec![Field::new("default", column.data_type().clone(), true)]);
    let mut decoder = ReaderBuilder::new(Arc::new(schema)).build_decoder().ok()?;
    let line = format!("{{\"default\":{json}}}");
    let read = decoder.decode(line.as_bytes()).ok()?;
    let rows = decoder.flush().ok()??;
    (read == line.len() && rows.num_rows() == 1).then(|| Arc::clone(rows.column(0)))
}
