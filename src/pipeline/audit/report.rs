//! What an audit says, in the shape that scripts read.

use serde::Serialize;

use crate::checkpoint::Range;
use crate::pipeline::gaps::Accepted;

/// The verdict on a table. Fields may be added, never renamed or removed.
#[derive(Debug, Clone, Serialize)]
pub struct Audit {
    pub table: String,
    /// Nothing is missing but what was accepted, and nothing is there twice.
    pub complete: bool,
    /// The version of the table that was audited.
    pub version: u64,
    /// Whether the hub was not asked for its partitions.
    pub offline: bool,
    /// Rows by key, each once.
    pub rows: u64,
    /// Events that are dead letters instead of rows, each once.
    pub rejected: u64,
    /// Those of them whose bytes are gone, by retention or because somebody dropped them.
    pub expired: u64,
    pub filtered: u64,
    /// Rows and dead letters that are there beyond once.
    pub duplicates: u64,
    /// Numbers that nothing accounts for, but for those that were accepted as missing.
    pub missing: u64,
    /// Numbers that are missing, and that somebody accepted as missing.
    pub accepted: u64,
    /// Why the table isn't complete.
    pub problems: Vec<String>,
    /// What a reader should know besides.
    pub notes: Vec<String>,
    pub partitions: Vec<PartitionAudit>,
}

/// The verdict on one partition.
#[derive(Debug, Clone, Default, Serialize)]
pub struct PartitionAudit {
    pub source: String,
    pub partition: String,
    /// What the ledger covers, `[from, to)`, joined.
    pub ranges: Vec<(i64, i64)>,
    pub rows: u64,
    pub rejected: u64,
    pub expired: u64,
    pub filtered: u64,
    pub duplicates: u64,
    /// `[from, to)`, ascending; the first ones where there are very many.
    pub missing: Vec<(i64, i64)>,
    pub missing_count: u64,
    /// What is missing and was accepted, ascending; the first ones where there are very many.
    pub accepted: Vec<AcceptedRange>,
    pub accepted_count: u64,
    /// Numbers that have more than one row or dead letter, the first ones.
    pub duplicate_numbers: Vec<i64>,
    /// Numbers of rows that the ledger doesn't account for, the first ones.
    pub uncovered_numbers: Vec<i64>,
    pub uncovered_count: u64,
    pub problems: Vec<String>,
}

/// Numbers that somebody accepted as missing: `[from, to)`.
#[derive(Debug, Clone, Serialize)]
pub struct AcceptedRange {
    pub from: i64,
    pub to: i64,
    #[serde(flatten)]
    pub accepted: Accepted,
}

impl From<(Range, Accepted)> for AcceptedRange {
    fn from((range, accepted): (Range, Accepted)) -> Self {
        Self { from: range.from, to: range.to, accepted }
    }
}
