//! A user's test as declared, with the places of its values.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::problem::Place;
use super::spec::TableName;

/// What transforms are to make of given rows.
#[derive(Debug, Clone)]
pub struct TestSpec {
    /// The file that declares it, relative to the project's folder.
    pub file: PathBuf,
    pub name: String,
    /// Where it is named.
    pub place: Place,
    /// Not empty.
    pub batches: Vec<Batches>,
    /// None: those that are expected, and what they are made of.
    pub run: Option<Vec<Placed<TableName>>>,
    pub given: Vec<Given>,
    /// Not empty.
    pub expected: Vec<Expected>,
}

/// How given rows are parted into runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Batches {
    Given,
    Once,
    Rows,
}

impl Batches {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Given => "given",
            Self::Once => "once",
            Self::Rows => "rows",
        }
    }
}

#[derive(Debug, Clone)]
pub struct Placed<T> {
    pub value: T,
    pub place: Place,
}

/// Rows of a table, before a run.
#[derive(Debug, Clone)]
pub struct Given {
    pub table: Placed<TableName>,
    /// From 1 on.
    pub batch: u32,
    pub rows: GivenRows,
}

#[derive(Debug, Clone)]
pub enum GivenRows {
    Inline(Vec<Row>),
    /// A file, absolute.
    File(Placed<PathBuf>),
}

/// The columns of a row.
pub type Row = BTreeMap<String, Cell>;

/// A column's value in a row.
#[derive(Debug, Clone)]
pub struct Cell {
    /// Where the column is named.
    pub key: Place,
    pub value: Placed<CellValue>,
}

/// A value as TOML has it.
#[derive(Debug, Clone)]
pub enum CellValue {
    Text(String),
    Integer(i64),
    Float(f64),
    Boolean(bool),
    /// A time or a date, as it is written.
    Time(String),
    List(Vec<Placed<CellValue>>),
    Fields(Row),
}

impl CellValue {
    /// What it is, with its article.
    pub fn what(&self) -> &'static str {
        match self {
            Self::Text(_) => "a string",
            Self::Integer(_) => "an integer",
            Self::Float(_) => "a float",
            Self::Boolean(_) => "a boolean",
            Self::Time(_) => "a time",
            Self::List(_) => "an array",
            Self::Fields(_) => "a table",
        }
    }
}

/// What a table holds in the end.
#[derive(Debug, Clone)]
pub struct Expected {
    pub table: Placed<TableName>,
    /// None: only counts or the failure are looked at.
    pub rows: Option<Placed<Vec<Row>>>,
    /// None: those that a row names.
    pub columns: Option<Vec<Placed<String>>>,
    /// Empty: the rows may stand in any order.
    pub order_by: Vec<Placed<String>>,
    pub tolerance: f64,
    /// None: after the last batch.
    pub after: Option<u32>,
    /// Expectation to rows.
    pub violations: BTreeMap<String, Placed<u64>>,
    pub fails: Option<String>,
}
