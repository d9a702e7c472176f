//! What a running pipeline tells of itself, for status page, health and metrics.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;

use super::schedule::ScheduleStatus;

/// Where a pipeline stands in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Looking for hub and table.
    Starting,
    Running,
    /// Its schedule says when it reads next.
    Waiting,
    /// The table can't be written at the moment, or a scheduled backfill failed; it is tried again.
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
    /// Where this run began to read.
    pub start: Option<i64>,
    /// Where it ends, where it is to end.
    pub until: Option<i64>,
    /// The next number to take in.
    pub position: Option<i64>,
    /// -1 where there never was an event.
    pub last_enqueued: Option<i64>,
    pub lag_events: Option<i64>,
    /// Numbers that the table lacks and that nobody has accepted as missing.
    pub gap_events: u64,
    pub last_error: Option<String>,
    /// Too many of its events were rejected: it is read no more, until the next start.
    pub stopped: bool,
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
    /// Capture blobs that this run reads, and those that it has read.
    pub blobs: u64,
    pub blobs_read: u64,
    /// Events taken in by any path.
    pub received: u64,
    pub schedule: Option<ScheduleStatus>,
}

/// How far work has come, in whatever it counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Headway {
    pub done: u64,
    /// 0 where it has no end, or none that is known yet.
    pub of: u64,
}

/// The numbers that pipelines have passed since they began to read, and up to their ends.
pub fn headway(pipelines: &[PipelineStatus]) -> Headway {
    let mut come = Headway::default();
    for pipeline in pipelines {
        for held in pipeline.snapshot().partitions.values() {
            let since_start = |number: Option<i64>| {
                let passed = number.zip(held.start).map_or(0, |(number, start)| number.saturating_sub(start));
                u64::try_from(passed).unwrap_or(0)
            };
            come.done += since_start(held.position);
            come.of += since_start(held.until);
        }
    }
    come
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
            blobs: 0,
            blobs_read: 0,
            received: 0,
            schedule: None,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headway_is_counted_from_where_each_partition_began() {
        let pipeline = PipelineStatus::new("leads", "conversions", "bronze.leads");
        let idle = PipelineStatus::new("accounts", "customer", "bronze.accounts");
        let ends = |start, position, until| PartitionStatus {
            start: Some(start),
            position: Some(position),
            until: Some(until),
            ..PartitionStatus::default()
        };
        pipeline.partition("0", |held| *held = ends(100, 130, 200));
        pipeline.partition("1", |held| *held = ends(0, 0, 50));
        pipeline.partition("2", |held| *held = PartitionStatus::default());
        assert_eq!(headway(&[pipeline, idle]), Headway { done: 30, of: 150 });
    }
}
