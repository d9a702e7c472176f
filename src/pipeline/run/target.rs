//! One table of a pipeline: its writer, what waits for it, what it lacks.
//!
//! A pipeline has one for each table that its routes name, and most have one alone. Each commits by itself, with a
//! ledger of its own; they share the memory budget, so one that can't be written holds back all in the end.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinError;

use super::ahead::{Ahead, Encoded};
use super::gaps::Gaps;
use super::{LONGEST_PAUSE, PAUSE};
use crate::checkpoint::{PartitionKey, Range, RangeSet};
use crate::config::spec::SinkSpec;
use crate::memory::MemoryBudget;
use crate::pipeline::checkpoints::Committed;
use crate::pipeline::partition::Part;
use crate::retry::Backoff;
use crate::sink::delta::files::FileError;
use crate::sink::delta::schema::TableColumns;
use crate::sink::delta::writer::TableWriter;

pub(super) struct Target {
    pub(super) sink: SinkSpec,
    /// The table's name, for words and labels.
    pub(super) table: String,
    /// Here between flushes, with the flush while one runs; gone for good after an error that can't pass.
    pub(super) writer: Option<TableWriter>,
    /// For partitions, the columns as the writer last saw them.
    pub(super) columns: watch::Sender<TableColumns>,
    /// What waits for a flush.
    pub(super) pending: Ahead,
    pub(super) pending_since: Option<Instant>,
    /// Not before this is a failed flush tried again.
    pub(super) retry_at: Option<Instant>,
    pub(super) backoff: Backoff,
    /// Events taken in and not yet settled by a commit.
    pub(super) in_flight: BTreeMap<PartitionKey, u64>,
    /// The last live event of each partition that a commit of this run accounted for.
    pub(super) committed: BTreeMap<PartitionKey, Committed>,
    /// Where a table begins that came later than others of the pipeline: what lies before isn't its own to heal.
    pub(super) begins: BTreeMap<PartitionKey, i64>,
    pub(super) gaps: Gaps,
}

impl Target {
    pub(super) fn new(sink: &SinkSpec, writer: TableWriter, budget: &MemoryBudget, gaps: Gaps) -> Self {
        Self {
            sink: sink.clone(),
            table: sink.table.to_string(),
            pending: Ahead::new(writer.encoder(), budget.clone()),
            columns: watch::Sender::new(writer.columns()),
            writer: Some(writer),
            pending_since: None,
            retry_at: None,
            backoff: Backoff::new(PAUSE, LONGEST_PAUSE),
            in_flight: BTreeMap::new(),
            committed: BTreeMap::new(),
            begins: BTreeMap::new(),
            gaps,
        }
    }

    /// How long events may wait. Coverage without rows is committed more rarely: it makes
    /// versions and nobody reads anything new from them.
    pub(super) fn patience(&self) -> Duration {
        if self.pending.has_rows() { self.sink.commit_every } else { self.sink.coverage_every }
    }

    /// When a flush is due, unless something else makes it due before.
    pub(super) fn flush_at(&self) -> Option<Instant> {
        let due = match (self.retry_at, self.pending_since) {
            (Some(retry_at), _) => Some(retry_at),
            (None, Some(since)) => Some(since + self.patience()),
            (None, None) => None,
        };
        due.filter(|_| self.writer.is_some() && !self.pending.is_closing())
    }

    /// Whether it has something to flush, and may.
    pub(super) fn may_flush(&self) -> bool {
        self.writer.is_some()
            && !self.pending.is_empty()
            && self.retry_at.is_none_or(|retry_at| retry_at <= Instant::now())
    }

    pub(super) fn is_due(&self) -> bool {
        // Less than half the budget: as much again is read while this is written, and files are held twice
        // for as long as they are put together.
        let enough = (self.sink.commit_bytes.as_u64()).min(self.sink.max_in_flight_bytes.as_u64() / 8 * 3);
        self.pending.is_closed()
            || self.retry_at.is_some()
            || self.pending.bytes() as u64 >= enough
            || self.pending_since.is_some_and(|since| since.elapsed() >= self.patience())
    }

    /// Whether a flush now would free memory, and encoding wouldn't.
    pub(super) fn may_flush_early(&self) -> bool {
        self.writer.is_some() && self.pending.may_flush_early() && self.retry_at.is_none()
    }

    pub(super) fn take_writer_back(&mut self, writer: TableWriter) {
        self.pending.encode_with(writer.encoder());
        self.columns.send_replace(writer.columns());
        self.writer = Some(writer);
    }

    /// What of these numbers the table doesn't account for, as far as its ledger is at hand: during a flush all
    /// may be missing. Where it came later than others, only from its beginning on.
    pub(super) fn missing_in(&self, partition: &PartitionKey, numbers: Range) -> Vec<Range> {
        let begins = self.begins.get(partition).copied().unwrap_or(numbers.from);
        let numbers = Range::new(numbers.from.max(begins), numbers.to);
        let coverage = self.writer.as_ref().map(|writer| writer.ledger().coverage(partition));
        coverage.unwrap_or_default().missing_in(numbers)
    }

    /// Whether a part is nothing to it.
    pub(super) fn passes_over(&self, part: &Part) -> bool {
        self.begins.get(&part.staged.partition).is_some_and(|begins| part.staged.range.to <= *begins)
    }
}

/// What of these numbers any of the tables lacks.
pub(super) fn missing_in_any(targets: &[Target], partition: &PartitionKey, numbers: Range) -> RangeSet {
    targets.iter().flat_map(|target| target.missing_in(partition, numbers)).collect()
}

/// What a thread that computes gave back next, and for which table; never ready while none works.
///
/// # Cancel safety
/// It loses nothing when dropped.
pub(super) async fn encoded(targets: &mut [Target]) -> (usize, Result<Result<Encoded, FileError>, JoinError>) {
    poll_fn(|context| {
        let found =
            targets.iter_mut().enumerate().find_map(|(at, target)| match target.pending.poll_encoded(context) {
                Poll::Ready(Some(encoded)) => Some((at, encoded)),
                Poll::Ready(None) | Poll::Pending => None,
            });
        found.map_or(Poll::Pending, Poll::Ready)
    })
    .await
}

/// The event up to which every table accounts for a partition, once each has committed some of it.
pub(super) fn lowest_committed(targets: &[Target], partition: &PartitionKey) -> Option<Committed> {
    let committed: Option<Vec<&Committed>> = targets.iter().map(|target| target.committed.get(partition)).collect();
    committed?.into_iter().min_by_key(|committed| committed.sequence_number).cloned()
}
