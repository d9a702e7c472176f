//! What a running pipeline tells of itself, for status page, health and metrics.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;

/// Where a pipeline stands in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Looking for hub and table.
    Starting,
    Running,
    /// The table can't be written at the moment; it is tried again.
    BackingOff,
    /// Committing what was read, then ending.
    Draining,
    Stopped,
    Failed,
}

#[derive(Debug, Clone, Serialize)]
pub struct LastCommit {
    pub version: u64,
    /// RFC 3339, UTC.
    pub at: String,
}

#[derive(Debug, Clone, Default, Serialize)]
pub struct PartitionStatus {
    pub position: Option<i64>,
    /// -1 where there never was an event.
    pub last_enqueued: Option<i64>,
    pub lag_events: Option<i64>,
    pub last_error: Option<String>,
}

/// A snapshot of one pipeline.
#[derive(Debug, Clone, Serialize)]
pub struct PipelineSnapshot {
    pub name: String,
    pub owner: String,
    pub table: String,
    pub state: State,
    pub error: Option<String>,
    pub last_commit: Option<LastCommit>,
    pub partitions: BTreeMap<String, PartitionStatus>,
}

/// Shared between a pipeline, which fills it, and the HTTP server, which reads it.
#[derive(Debug, Clone)]
pub struct PipelineStatus(Arc<Mutex<PipelineSnapshot>>);

impl PipelineStatus {
    pub fn new(name: &str, owner: &str, table: &str) -> Self {
        Self(Arc::new(Mutex::new(PipelineSnapshot {
            name: name.to_owned(),
            owner: owner.to_owned(),
            table: table.to_owned(),
            state: State::Starting,
            error: None,
            last_commit: None,
            partitions: BTreeMap::new(),
        })))
    }

    pub fn snapshot(&self) -> PipelineSnapshot {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn change(&self, change: impl FnOnce(&mut PipelineSnapshot)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    pub fn partition(&self, partition: &str, change: impl FnOnce(&mut PartitionStatus)) {
        self.change(|snapshot| change(snapshot.partitions.entry(partition.to_owned()).or_default()));
    }
}
