//! What comes from partitions, on its way to the tables.

use std::time::Instant;

use super::Pipeline;
use crate::checkpoint::PartitionKey;
use crate::pipeline::partition::{Part, ReadPath};
use crate::telemetry::metrics;

impl Pipeline {
    pub(super) fn take_parts(&mut self, parts: Vec<Part>, filtered: u64) {
        let Some(first) = parts.first() else { return };
        // What no table takes is settled: each accounts for it as for any other that isn't its own.
        let received = filtered + parts.iter().map(|part| part.staged.events.len() as u64).sum::<u64>();
        self.summary.received += received;
        self.summary.filtered += filtered;
        self.status.change(|snapshot| snapshot.received += received);
        // Captures are read again at each sweep: what was mended meanwhile goes on by itself.
        let went_on = self.stopped.remove(&(first.staged.partition.clone(), first.path)).is_some();
        if went_on && !self.stopped.keys().any(|(partition, _)| *partition == first.staged.partition) {
            let (pipeline, table, partition) = self.labels(&first.staged.partition);
            metrics::partition_stopped(pipeline, table, partition, false);
            self.status.partition(&first.staged.partition.partition, |held| {
                held.stopped = false;
                held.last_error = None;
            });
        }
        if first.path == ReadPath::Live {
            self.status.partition(&first.staged.partition.partition, |held| {
                held.position = Some(first.staged.range.to);
                held.last_error = None;
            });
            if let Some(enqueued_at_ms) = first.staged.last_enqueued_at() {
                self.taken_at_ms.insert(first.staged.partition.clone(), enqueued_at_ms);
            }
        }
        parts.into_iter().for_each(|part| self.take_part(part));
    }

    fn take_part(&mut self, part: Part) {
        let at = part.target;
        if self.targets[at].passes_over(&part) {
            let own = part.staged.events.len() as u64;
            self.summary.duplicate += own;
            return;
        }
        let received = part.staged.received();
        let (pipeline, table, partition) = self.labels_of(at, &part.staged.partition);
        metrics::received(pipeline, table, partition, received, part.bytes() as u64);
        self.move_in_flight(at, &part.staged.partition, |held| held + received);
        let target = &mut self.targets[at];
        target.pending_since.get_or_insert_with(Instant::now);
        target.pending.push(part);
    }

    pub(super) fn move_in_flight(&mut self, at: usize, partition: &PartitionKey, change: impl FnOnce(u64) -> u64) {
        let held = self.targets[at].in_flight.entry(partition.clone()).or_default();
        let before = std::mem::replace(held, change(*held));
        let moved = *held as f64 - before as f64;
        let (pipeline, table, partition) = self.labels_of(at, partition);
        metrics::in_flight(pipeline, table, partition, moved);
    }

    /// Until retention takes the oldest event that waits, at least: it is not older than the
    /// newest one taken in.
    pub(super) fn tell_time_left(&self, partition: &PartitionKey, lag: u64) {
        let now_ms = chrono::Utc::now().timestamp_millis();
        let oldest_ms = if lag == 0 { Some(now_ms) } else { self.taken_at_ms.get(partition).copied() };
        let (Some(retention), Some(oldest_ms)) = (self.spec.source.retention, oldest_ms) else { return };
        let left = retention.as_secs_f64() - (now_ms - oldest_ms) as f64 / 1000.0;
        let (pipeline, table, partition) = self.labels(partition);
        metrics::seconds_to_data_loss(pipeline, table, partition, left);
    }

    pub(super) fn labels<'a>(&'a self, partition: &'a PartitionKey) -> (&'a str, &'a str, &'a str) {
        (&self.spec.name, &self.table, &partition.partition)
    }

    pub(super) fn labels_of<'a>(&'a self, at: usize, partition: &'a PartitionKey) -> (&'a str, &'a str, &'a str) {
        (&self.spec.name, &self.targets[at].table, &partition.partition)
    }
}
