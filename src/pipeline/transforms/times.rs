//! The times of a transform that runs by cron. As with a scheduled backfill, those that passed while nothing ran,
//! or while a run was at work, are made up for by one run, which the record in the state tells.

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::TransformSummary;
use crate::config::cron::Cron;
use crate::config::spec::TableName;
use crate::pipeline::PipelineError;
use crate::pipeline::schedule::{LOOK_AT_CLOCK_EVERY, Loaded, RecordFile, RunOutcome, ScheduleRecord, ScheduledRun};
use crate::storage::Location;
use crate::transform::run::engine::Outcome;

/// How far a transform has come with its times.
pub(super) struct Times {
    cron: Cron,
    file: RecordFile,
    record: ScheduleRecord,
    began_at: DateTime<Utc>,
}

impl Times {
    /// The first start is the beginning: nothing was missed before.
    ///
    /// # Errors
    /// When the state's place can't be used.
    pub(super) async fn open(state: &Location, table: &TableName, cron: &Cron) -> Result<Self, PipelineError> {
        // A table's name has a dot, so it is never that of a pipeline.
        let file = RecordFile::open(state, &table.to_string())?;
        let now = Utc::now();
        let loaded = file.load(now).await;
        let is_first = loaded == Loaded::Missing;
        let record = loaded.or_new(now);
        if is_first {
            file.store(&record).await;
        }
        Ok(Self { cron: cron.clone(), file, record, began_at: now })
    }

    /// Whether one of the times has come that no run has dealt with.
    pub(super) fn has_come(&mut self) -> bool {
        let now = Utc::now();
        // A clock that went back would hold up the times until it is there again.
        self.record.dealt_until = self.record.dealt_until.min(now);
        self.cron.next_after(self.record.dealt_until).is_some_and(|next| next <= now)
    }

    /// How long until the next time, or the next look at the clock.
    pub(super) fn next_look(&self) -> Duration {
        let next = self.cron.next_after(self.record.dealt_until);
        let left = next.map(|next| (next - Utc::now()).to_std().unwrap_or_default());
        left.map_or(LOOK_AT_CLOCK_EVERY, |left| left.min(LOOK_AT_CLOCK_EVERY))
    }

    /// A run begins now.
    pub(super) fn begin(&mut self) {
        self.began_at = Utc::now();
    }

    /// Takes in how the run ended. One that failed, waits or was stopped leaves its time to be dealt with.
    pub(super) async fn take(&mut self, summary: &TransformSummary, is_stopped: bool) {
        let outcome = match summary.outcome {
            _ if is_stopped => RunOutcome::Stopped,
            outcome if outcome == Outcome::Waits.as_str() => return,
            _ if summary.failure.is_some() => RunOutcome::Failed,
            _ => RunOutcome::Complete,
        };
        let (began_at, ended_at) = (self.began_at, Utc::now());
        let (committed, error) = (summary.rows_out, summary.error.clone());
        self.record.take(ScheduledRun { began_at, ended_at, outcome, committed, error });
        self.file.store(&self.record).await;
    }
}
