//! The flushes of one pipeline: when they are due, what becomes of them, and how they are tried again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::ahead::gather;
use super::target::{Target, lowest_committed};
use super::{Pipeline, TRIES_WHEN_CATCHING_UP};
use crate::checkpoint::PartitionKey;
use crate::compute;
use crate::error::{Classify as _, Retry};
use crate::fault_points::FaultPoint;
use crate::pipeline::checkpoints::Committed;
use crate::pipeline::partition::{Part, ReadPath, report};
use crate::pipeline::status::{LastCommit, State};
use crate::sink::delta::SinkError;
use crate::sink::delta::files::FileError;
use crate::sink::delta::writer::{Counts, Flushed, TableWriter};
use crate::telemetry::metrics;

/// Tables that are flushed at the same time: each holds files in the making, and requests to the store.
pub(super) const FLUSHES_AT_ONCE: usize = 8;

/// A flush that came to its end, with all that was lent to it.
pub(super) struct FlushEnded {
    /// Of which table.
    pub(super) target: usize,
    pub(super) writer: TableWriter,
    pub(super) parts: Vec<Part>,
    pub(super) result: Result<Flushed, SinkError>,
    pub(super) took: Duration,
}

impl Pipeline {
    pub(super) fn flush_if_due(&mut self) {
        // Whoever waits for all ledgers would wait for ever, were there always a flush of some table.
        if self.targets.len() > 1 && self.waits_for_ledgers() {
            return;
        }
        let nothing_comes = self.reading.is_empty() && !self.captures.is_at_work();
        let crowded = self.crowded();
        let is_due = |at: usize, target: &Target| {
            target.may_flush() && (nothing_comes || crowded == Some(at) || target.is_due())
        };
        let due = self.targets.iter().enumerate().filter(|(at, target)| is_due(*at, target));
        let mut due: Vec<usize> = due.map(|(at, _)| at).collect();
        due.sort_by_key(|at| self.targets[*at].pending_since);
        for at in due {
            if self.flush.len() >= FLUSHES_AT_ONCE {
                return;
            }
            if self.targets[at].pending.close() {
                self.flush_table(at);
            }
        }
    }

    fn flush_table(&mut self, at: usize) {
        let target = &mut self.targets[at];
        let Some(mut writer) = target.writer.take() else { return };
        target.retry_at = None;
        target.pending_since = None;
        let (parts, budget, table) = (target.pending.take(), self.budget.clone(), target.table.clone());
        self.flush.spawn(async move {
            let began = Instant::now();
            let gathered = compute::spawn(move || gather(parts, &budget)).await.map_err(FileError::Task).flatten();
            let (parts, result) = match gathered {
                Ok(parts) => {
                    let result = writer.flush(&parts).await;
                    (parts, result)
                }
                // They are gone, and nothing may be committed over them: no error of this kind is tried again.
                Err(source) => (Vec::new(), Err(SinkError::File { table, source })),
            };
            FlushEnded { target: at, writer, parts, result, took: began.elapsed() }
        });
    }

    /// Where batches of which several tables have rows hold a good part of the budget, each table takes its rows out: one
    /// that is flushed seldom would hold all of them for a few rows.
    pub(super) fn gather_if_crowded(&mut self) {
        if self.pool.bytes() >= self.budget.capacity() / 4 {
            self.gather();
        }
    }

    fn gather(&mut self) {
        self.targets.iter_mut().for_each(|target| target.pending.gather());
    }

    /// The table that holds most, where all of them together hold as much as one may. With one alone its own share is
    /// what counts.
    fn crowded(&self) -> Option<usize> {
        if self.targets.len() < 2 || !self.flush.is_empty() {
            return None;
        }
        let held: usize = self.targets.iter().map(|target| target.pending.bytes()).sum();
        if held < self.budget.capacity() / 8 * 3 { None } else { self.largest(Target::may_flush) }
    }

    fn largest(&self, may: impl Fn(&Target) -> bool) -> Option<usize> {
        let targets = self.targets.iter().enumerate().filter(|(_, target)| may(target));
        targets.max_by_key(|(_, target)| target.pending.bytes()).map(|(at, _)| at)
    }

    /// Whether something can be done for those that wait for memory. What is being encoded frees some already.
    pub(super) fn may_make_room(&self) -> bool {
        let is_encoding = self.targets.iter().any(|target| target.pending.is_working());
        !is_encoding
            && (self.targets.iter().any(|target| target.pending.may_make_room())
                || (self.flush.is_empty() && self.targets.iter().any(Target::may_flush_early)))
    }

    pub(super) fn make_room(&mut self) {
        // What only few rows are wanted of goes first.
        if self.pool.bytes() >= self.budget.capacity() / 16 {
            self.gather();
            if self.targets.iter().any(|target| target.pending.is_working()) {
                return;
            }
        }
        if let Some(at) = self.largest(|target| target.pending.may_make_room()) {
            self.targets[at].pending.make_room();
        } else if let Some(at) = self.largest(Target::may_flush_early) {
            let target = &mut self.targets[at];
            target.pending_since = Some(Instant::now() - target.patience());
        }
    }

    pub(super) fn flush_ended(&mut self, ended: FlushEnded) {
        let FlushEnded { target: at, writer, parts, result, took } = ended;
        let error = match result {
            Ok(flushed) => {
                let target = &mut self.targets[at];
                target.take_writer_back(writer);
                target.backoff.reset();
                self.account(at, &flushed, took);
                self.pass(at, &parts);
                return;
            }
            Err(error) => error,
        };
        let target = &mut self.targets[at];
        let is_given_up = self.options.until_caught_up && target.backoff.failures() >= TRIES_WHEN_CATCHING_UP;
        if is_given_up || error.retry() == Retry::Never {
            // The writer goes, and with it all further flushes: what is pending is read again by the next start.
            self.fail(error.into());
            return;
        }
        target.take_writer_back(writer);
        target.pending.give_back(parts);
        self.retry_later(at, &error);
    }

    /// What a table has committed may be published, once all have.
    fn pass(&mut self, at: usize, parts: &[Part]) {
        self.is_publishing_due = true;
        for (partition, committed) in last_of(parts) {
            self.targets[at].committed.insert(partition.clone(), committed);
            if let Some(lowest) = lowest_committed(&self.targets, &partition) {
                self.to_publish.insert(partition, lowest);
            }
        }
    }

    pub(super) fn publish_if_due(&mut self) {
        if !self.is_publishing_due || !self.publishing.is_empty() {
            return;
        }
        self.is_publishing_due = false;
        let committed: Vec<Committed> = std::mem::take(&mut self.to_publish).into_values().collect();
        let checkpoints = Arc::clone(&self.checkpoints);
        let fault_points = self.options.fault_points.clone();
        self.publishing.spawn(async move {
            checkpoints.publish(&committed).await;
            fault_points.pass(FaultPoint::CheckpointsPublished);
        });
    }

    fn retry_later(&mut self, at: usize, error: &SinkError) {
        let target = &mut self.targets[at];
        let pause = target.backoff.pause();
        tracing::warn!(
            pipeline = self.spec.name,
            table = target.table,
            error = report(error),
            ?pause,
            "the table can't be written: it holds back its pipeline"
        );
        self.status.change(|snapshot| {
            snapshot.state = State::BackingOff;
            snapshot.error = Some(report(error));
        });
        target.retry_at = Some(Instant::now() + pause);
    }

    fn account(&mut self, at: usize, flushed: &Flushed, took: Duration) {
        for (partition, counts) in &flushed.counts {
            let Counts { committed, rejected, filtered, duplicate, own_duplicate } = *counts;
            self.summary.committed += committed;
            self.summary.rejected += rejected;
            self.summary.duplicate += own_duplicate;
            let (pipeline, table, partition) = self.labels_of(at, partition);
            metrics::committed(pipeline, table, partition, committed);
            metrics::rejected(pipeline, table, partition, rejected);
            metrics::filtered(pipeline, table, partition, filtered);
            metrics::duplicate(pipeline, table, partition, duplicate);
        }
        self.count_gaps();
        for (partition, counts) in &flushed.counts {
            self.move_in_flight(at, partition, |held| held.saturating_sub(counts.received()));
        }
        let table = &self.targets[at].table;
        metrics::schema_changes(&self.spec.name, table, flushed.schema_changes);
        let rescued = flushed.rescued.values().sum();
        metrics::rescued(&self.spec.name, table, rescued);
        if rescued > 0 {
            let columns = flushed.rescued.iter().map(|(column, rows)| format!("{column}: {rows}"));
            tracing::warn!(
                pipeline = self.spec.name,
                table,
                columns = columns.collect::<Vec<_>>().join(", "),
                "values that their columns can't hold are in `_rescued`"
            );
        }
        let Some(version) = flushed.version else { return };
        self.summary.commits += 1;
        metrics::commit(&self.spec.name, table, flushed.bytes, flushed.tries, took);
        tracing::info!(
            pipeline = self.spec.name,
            table,
            version,
            rows = flushed.rows,
            bytes = flushed.bytes,
            tries = flushed.tries,
            milliseconds = took.as_millis() as u64,
            "committed"
        );
        let commit =
            LastCommit { version, at: chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Millis, true) };
        let is_well = self.targets.iter().all(|target| target.retry_at.is_none());
        self.status.change(|snapshot| {
            // A snapshot names the first table; the others' commits are in the log and the metrics.
            if at == 0 {
                snapshot.last_commit = Some(commit);
            }
            if snapshot.state == State::BackingOff && is_well {
                snapshot.state = State::Running;
                snapshot.error = None;
            }
        });
    }
}

/// The last event that came live of each partition, as a checkpoint names it: what was healed lies behind it.
fn last_of(parts: &[Part]) -> BTreeMap<PartitionKey, Committed> {
    let live = parts.iter().filter(|part| part.path == ReadPath::Live);
    live.map(|part| {
        let committed = Committed {
            partition: part.staged.partition.partition.to_string(),
            sequence_number: part.staged.range.to - 1,
            offset: part.last_offset.clone(),
        };
        (part.staged.partition.clone(), committed)
    })
    .collect()
}
