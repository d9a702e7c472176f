//! A transform as declared: typed, defaulted, and with the places of its keys.

use std::fmt;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::cron::Cron;
use super::document::{Node, Value};
use super::problem::{Place, SourceFile};
use super::spec::{MaintenanceSpec, TableName};

/// A query is written by hand: what is larger is another kind of file, and reading it would only cost memory.
pub const LARGEST_SQL_BYTES: usize = 256 * 1024;

/// A table made of other tables, by one SQL query.
#[derive(Debug, Clone)]
pub struct TransformSpec {
    /// The file that declares it, relative to the project's folder.
    pub file: PathBuf,
    pub owner: String,
    pub table: TableName,
    /// The file of its SQL, relative to the project's folder.
    pub sql_file: PathBuf,
    pub sql: String,
    /// The file of its SQL, for places in reports.
    pub sql_source: Arc<SourceFile>,
    pub mode: Mode,
    /// Not empty for merge, history and recompute; else empty.
    pub keys: Vec<String>,
    /// Not empty for merge and history; else empty.
    pub sequence_by: Vec<String>,
    /// For merge and history alone.
    pub delete_when: Option<String>,
    /// For append alone.
    pub dedupe: Option<Dedupe>,
    pub partition_by: Vec<String>,
    /// The table has a change feed, also where no transform of the project streams it.
    pub change_feed: bool,
    pub trigger: Trigger,
    pub skip_versions: Vec<SkippedVersion>,
    pub expectations: Vec<Expectation>,
    pub maintenance: MaintenanceSpec,
    /// Hex SHA-256 over what decides the rows: SQL, mode and its keys, expectations.
    pub config_hash: String,
    pub declaration: Declaration,
}

impl TransformSpec {
    /// Bytes of its SQL.
    pub fn sql_place(&self, bytes: Range<usize>) -> Place {
        Place { file: Arc::clone(&self.sql_source), bytes }
    }
}

/// How the rows of the query become those of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mode {
    Append,
    Merge,
    History,
    Recompute,
    Replace,
}

impl Mode {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Append => "append",
            Self::Merge => "merge",
            Self::History => "history",
            Self::Recompute => "recompute",
            Self::Replace => "replace",
        }
    }

    /// Whether a run may change or remove rows that were there.
    pub fn rewrites(self) -> bool {
        self != Self::Append
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Each combination of these columns is in the table once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dedupe {
    /// Not empty.
    pub by: Vec<String>,
    /// Default 7 days: how far back it looks.
    pub within: Duration,
}

/// When `sluice run` runs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trigger {
    /// After commits of its inputs, at most this often; default 1 min.
    Commits {
        every: Duration,
    },
    Cron(Cron),
}

impl fmt::Display for Trigger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Commits { every } => write!(f, "after commits, every {}", humantime::format_duration(*every)),
            Self::Cron(cron) => write!(f, "cron {cron}"),
        }
    }
}

/// A version of an input that is passed over.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct SkippedVersion {
    pub table: TableName,
    pub version: u64,
}

/// What is expected of each row. A row violates it when the check is false; unknown (null) is no violation, as with
/// `CHECK` of SQL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expectation {
    /// Once in a transform.
    pub name: String,
    /// A condition in SQL over the query's columns.
    pub check: String,
    pub on_violation: OnViolation,
}

/// What happens to rows that violate an expectation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OnViolation {
    /// Kept, and counted.
    Warn,
    /// Left out, and counted.
    Drop,
    /// Put into a table of their own.
    Quarantine,
    /// The run fails.
    Fail,
}

impl OnViolation {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Warn => "warn",
            Self::Drop => "drop",
            Self::Quarantine => "quarantine",
            Self::Fail => "fail",
        }
    }
}

/// Where each key of a declaration stands, for what is found wrong with its value later on.
#[derive(Clone)]
pub struct Declaration(Node);

impl Declaration {
    pub(super) fn new(node: Node) -> Self {
        Self(node)
    }

    /// The bytes of the value at a path of keys, and of numbers from 0 in arrays: `["keys", "0"]`. Where it isn't there,
    /// of what is around it.
    pub fn place(&self, path: &[&str]) -> Place {
        match (self.0.within(path), path.split_last()) {
            (Some(node), _) => node.place.clone(),
            (None, Some((_, parents))) => self.place(parents),
            (None, None) => self.0.place.clone(),
        }
    }

    /// Some bytes of a text, where it stands as it is: without escapes and variables. Else the whole of it.
    pub fn place_in_text(&self, path: &[&str], bytes: Range<usize>) -> Place {
        let whole = self.place(path);
        let Some(Node { value: Value::Text(text), .. }) = self.0.within(path) else { return whole };
        let raw = whole.file.shown.get(whole.bytes.clone()).unwrap_or_default();
        let quotes = ["\"\"\"\n", "\"\"\"\r\n", "'''\n", "'''\r\n", "\"\"\"", "'''", "\"", "'"];
        let Some(quote) = quotes.into_iter().find(|quote| raw.starts_with(quote)) else { return whole };
        let inside = raw.get(quote.len()..raw.len().saturating_sub(quote.trim_end().len())).unwrap_or_default();
        if inside != text.value || bytes.end > inside.len() {
            return whole;
        }
        let start = whole.bytes.start + quote.len();
        Place { bytes: start + bytes.start..start + bytes.end, ..whole }
    }
}

impl fmt::Debug for Declaration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Declaration({})", self.0.place)
    }
}
