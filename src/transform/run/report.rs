//! What a run did.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::TransformError;
use super::expectations::Violations;
use crate::config::spec::TableName;

/// What a run did, whether it ended well or not.
#[derive(Debug)]
pub struct Report {
    pub table: TableName,
    pub run_id: String,
    pub started_at: DateTime<Utc>,
    pub ended_at: DateTime<Utc>,
    /// Of each input: its version before and after, where rows were read from it.
    pub read: BTreeMap<String, Read>,
    /// The versions of the output that it committed.
    pub committed: Vec<u64>,
    /// Rows that streamed inputs brought; none where their files don't say.
    pub rows_in: Option<u64>,
    pub rows_out: u64,
    pub violations: Vec<Violations>,
    pub error: Option<TransformError>,
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Committed,
    /// Nothing was new.
    Unchanged,
    /// An input isn't there yet.
    Waits,
    Failed,
}

impl Outcome {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Committed => "committed",
            Self::Unchanged => "unchanged",
            Self::Waits => "waits",
            Self::Failed => "failed",
        }
    }
}

impl Report {
    /// A run that has done nothing yet.
    pub(super) fn begun(table: &TableName) -> Self {
        let now = Utc::now();
        Self {
            table: table.clone(),
            run_id: Uuid::new_v4().to_string(),
            started_at: now,
            ended_at: now,
            read: BTreeMap::new(),
            committed: Vec::new(),
            rows_in: Some(0),
            rows_out: 0,
            violations: Vec::new(),
            error: None,
        }
    }

    pub fn outcome(&self) -> Outcome {
        match &self.error {
            Some(TransformError::NoInput(_)) => Outcome::Waits,
            Some(_) => Outcome::Failed,
            None if self.committed.is_empty() => Outcome::Unchanged,
            None => Outcome::Committed,
        }
    }
}

/// Versions of an input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Read {
    pub is_streamed: bool,
    /// What was consumed before; none at first.
    pub from: Option<u64>,
    pub to: u64,
}
