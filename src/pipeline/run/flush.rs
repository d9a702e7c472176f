//! The flush of one pipeline: when it is due, what becomes of it, and how it is tried again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Pipeline, TRIES_WHEN_CATCHING_UP};
use crate::checkpoint::PartitionKey;
use crate::error::{Classify as _, Retry};
use crate::fault_points::FaultPoint;
use crate::pipeline::checkpoints::Committed;
use crate::pipeline::partition::{Part, ReadPath, report};
use crate::pipeline::status::{LastCommit, State};
use crate::sink::delta::SinkError;
use crate::sink::delta::writer::{Counts, Flushed, TableWriter};
use crate::telemetry::metrics;

/// A flush that came to its end, with all that was lent to it.
pub(super) struct FlushEnded {
    pub(super) writer: TableWriter,
    pub(super) parts: Vec<Part>,
    pub(super) result: Result<Flushed, SinkError>,
    pub(super) took: Duration,
}

impl Pipeline {
    pub(super) fn flush_if_due(&mut self) {
        if self.writer.is_none() || self.pending.is_empty() {
            return;
        }
        if self.retry_at.is_some_and(|retry_at| retry_at > Instant::now()) {
            return;
        }
        let bytes = self.pending.bytes();
        // Less than half the budget: as much again is read while this is written, and files are held twice
        // for as long as they are put together.
        let enough = (self.spec.sink.commit_bytes.as_u64()).min(self.spec.sink.max_in_flight_bytes.as_u64() / 8 * 3);
        let is_due = self.pending.is_closed()
            || self.retry_at.is_some()
            || bytes as u64 >= enough
            || self.pending_since.is_some_and(|since| since.elapsed() >= self.patience())
            || (self.reading.is_empty() && !self.captures.is_at_work());
        if !is_due || !self.pending.close() {
            return;
        }
        let Some(mut writer) = self.writer.take() else { return };
        self.retry_at = None;
        self.pending_since = None;
        let parts = self.pending.take();
        let checkpoints = Arc::clone(&self.checkpoints);
        let fault_points = self.options.fault_points.clone();
        self.flush.spawn(async move {
            let began = Instant::now();
            let result = writer.flush(&parts).await;
            let took = began.elapsed();
            if result.is_ok() {
                checkpoints.publish(&last_of(&parts)).await;
                fault_points.pass(FaultPoint::CheckpointsPublished);
            }
            FlushEnded { writer, parts, result, took }
        });
    }

    pub(super) fn flush_ended(&mut self, ended: FlushEnded) {
        let error = match ended.result {
            Ok(flushed) => {
                self.pending.encode_with(ended.writer.encoder());
                self.writer = Some(ended.writer);
                self.backoff.reset();
                self.account(&flushed, ended.took);
                return;
            }
            Err(error) => error,
        };
        let is_given_up = self.options.until_caught_up && self.backoff.failures() >= TRIES_WHEN_CATCHING_UP;
        if is_given_up || error.retry() == Retry::Never {
            // The writer goes, and with it all further flushes: what is pending is read again by the next start.
            self.fail(error.into());
            return;
        }
        self.pending.encode_with(ended.writer.encoder());
        self.writer = Some(ended.writer);
        self.pending.give_back(ended.parts);
        self.retry_later(&error);
    }

    fn retry_later(&mut self, error: &SinkError) {
        let pause = self.backoff.pause();
        tracing::warn!(
            pipeline = self.spec.name,
            table = self.table,
            error = report(error),
            ?pause,
            "the table can't be written: it holds back its pipeline"
        );
        self.status.change(|snapshot| {
            snapshot.state = State::BackingOff;
            snapshot.error = Some(report(error));
        });
        self.retry_at = Some(Instant::now() + pause);
    }

    fn account(&mut self, flushed: &Flushed, took: Duration) {
        for (partition, counts) in &flushed.counts {
            let Counts { committed, rejected, duplicate } = *counts;
            self.summary.committed += committed;
            self.summary.rejected += rejected;
            self.summary.duplicate += duplicate;
            let (pipeline, table, partition) = self.labels(partition);
            metrics::committed(pipeline, table, partition, committed);
            metrics::rejected(pipeline, table, partition, rejected);
            metrics::duplicate(pipeline, table, partition, duplicate);
        }
        self.count_gaps();
        for (partition, counts) in &flushed.counts {
            let settled = counts.committed + counts.rejected + counts.duplicate;
            self.move_in_flight(partition, |held| held.saturating_sub(settled));
        }
        let Some(version) = flushed.version else { return };
        self.summary.commits += 1;
        metrics::commit(&self.spec.name, &self.table, flushed.bytes, flushed.tries, took);
        tracing::info!(
            pipeline = self.spec.name,
            table = self.table,
            version,
            rows = flushed.rows,
            bytes = flushed.bytes,
            tries = flushed.tries,
            milliseconds = took.as_millis() as u64,
            "committed"
        );
        let at = chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Millis, true);
        self.status.change(|snapshot| {
            snapshot.last_commit = Some(LastCommit { version, at });
            if snapshot.state == State::BackingOff {
                snapshot.state = State::Running;
                snapshot.error = None;
            }
        });
    }
}

/// The last event that came live of each partition, as a checkpoint names it: what was healed lies behind it.
fn last_of(parts: &[Part]) -> Vec<Committed> {
    let mut last: BTreeMap<&PartitionKey, &Part> = BTreeMap::new();
    for part in parts.iter().filter(|part| part.path == ReadPath::Live) {
        last.insert(&part.staged.partition, part);
    }
    last.into_values()
        .map(|part| Committed {
            partition: part.staged.partition.partition.to_string(),
            sequence_number: part.staged.range.to - 1,
            offset: part.last_offset.clone(),
        })
        .collect()
}
