//! What is kept of a schedule between processes: a small file in the state, folder or storage.
//!
//! It decides when captures are read, never what a table accounts for. Lost, the schedule begins anew
//! as of now: a time that was missed meanwhile isn't made up for, and its events come with the next run,
//! which then looks at the whole history, since nobody knows what was missed.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _};
use serde::{Deserialize, Serialize};

use crate::pipeline::PipelineError;
use crate::storage::Location;

/// A record is some hundred bytes and the text of an error.
const LARGEST_BYTES: u64 = 64 * 1024;
const LONGEST_ERROR_CHARS: usize = 2_000;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScheduleRecord {
    /// The schedule's times up to this one are dealt with.
    pub dealt_until: DateTime<Utc>,
    /// When the last run began that missed nothing; before the first one, when the schedule was first seen;
    /// none where that was lost.
    pub complete_at: Option<DateTime<Utc>>,
    pub last_run: Option<ScheduledRun>,
}

/// How a run of a schedule ended. The shape that scripts read: fields may be added, never renamed or removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScheduledRun {
    pub began_at: DateTime<Utc>,
    pub ended_at: DateTime<Utc>,
    pub outcome: RunOutcome,
    pub committed: u64,
    pub error: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RunOutcome {
    /// The table accounts for all that the captures have.
    Complete,
    /// A blob was torn, or numbers between blobs are missing; the rest landed.
    Incomplete,
    /// What it has committed stays; it is tried again.
    Failed,
    /// The process was told to stop.
    Stopped,
}

impl RunOutcome {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Incomplete => "incomplete",
            Self::Failed => "failed",
            Self::Stopped => "stopped",
        }
    }
}

impl ScheduleRecord {
    pub fn new(now: DateTime<Utc>) -> Self {
        Self { dealt_until: now, complete_at: Some(now), last_run: None }
    }

    /// In place of one that can't be read.
    pub fn lost(now: DateTime<Utc>) -> Self {
        Self { dealt_until: now, complete_at: None, last_run: None }
    }

    /// Takes in how a run ended. One that failed or was stopped leaves its time to be dealt with.
    pub fn take(&mut self, mut run: ScheduledRun) {
        if matches!(run.outcome, RunOutcome::Complete | RunOutcome::Incomplete) {
            self.dealt_until = run.began_at;
        }
        if run.outcome == RunOutcome::Complete {
            self.complete_at = Some(run.began_at);
        }
        run.error = run.error.map(|error| error.chars().take(LONGEST_ERROR_CHARS).collect());
        self.last_run = Some(run);
    }
}

/// What came of looking for a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Loaded {
    Found(ScheduleRecord),
    /// There never was one, or it was taken away.
    Missing,
    /// Torn, or the store doesn't answer: it must not be written over before a run took its place.
    Unreadable,
}

impl Loaded {
    /// The record to go by.
    pub fn or_new(self, now: DateTime<Utc>) -> ScheduleRecord {
        match self {
            Self::Found(record) => record,
            Self::Missing => ScheduleRecord::new(now),
            Self::Unreadable => ScheduleRecord::lost(now),
        }
    }
}

/// Where the record of one pipeline lies.
#[derive(Debug, Clone)]
pub struct RecordFile {
    store: Arc<dyn ObjectStore>,
    path: Path,
    /// For words.
    url: String,
}

impl RecordFile {
    /// # Errors
    /// When the state's place can't be used.
    pub fn open(state: &Location, pipeline: &str) -> Result<Self, PipelineError> {
        let place = state.join("schedules");
        let path = Path::from(format!("{pipeline}.json"));
        Ok(Self { url: format!("{place}{path}"), store: place.object_store()?, path })
    }

    /// The record as of `now`.
    pub async fn load(&self, now: DateTime<Utc>) -> Loaded {
        let lost = |why: String| {
            tracing::warn!(file = self.url, why, "the schedule's record can't be read");
            Loaded::Unreadable
        };
        let found = match self.store.get(&self.path).await {
            Ok(found) if found.meta.size > LARGEST_BYTES => return lost(format!("it has {} bytes", found.meta.size)),
            Ok(found) => found.bytes().await,
            Err(error) => Err(error),
        };
        let record = match found {
            Ok(bytes) => serde_json::from_slice::<ScheduleRecord>(&bytes),
            Err(object_store::Error::NotFound { .. }) => return Loaded::Missing,
            Err(error) => return lost(error.to_string()),
        };
        match record {
            // Written by a clock that went ahead, it would hold up the schedule until then.
            Ok(record) => Loaded::Found(ScheduleRecord {
                dealt_until: record.dealt_until.min(now),
                complete_at: record.complete_at.map(|at| at.min(now)),
                ..record
            }),
            Err(error) => lost(error.to_string()),
        }
    }

    /// Keeps the record; failing costs a run at the next start, so it is told and passed over.
    pub async fn store(&self, record: &ScheduleRecord) {
        let written = match serde_json::to_vec(record) {
            // A file appears whole or not at all: the store writes it beside, and renames it.
            Ok(bytes) => self.store.put(&self.path, bytes.into()).await.map(|_| ()).map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        if let Err(error) = written {
            tracing::warn!(file = self.url, error, "the schedule's record can't be kept");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(text: &str) -> DateTime<Utc> {
        text.parse().expect("a time")
    }

    fn run(outcome: RunOutcome) -> ScheduledRun {
        let began_at = time("2026-11-25T03:00:00Z");
        let error = (outcome == RunOutcome::Failed).then(|| "ä".repeat(100_000));
        ScheduledRun { began_at, ended_at: time("2026-11-25T03:01:00Z"), outcome, committed: 7, error }
    }

    #[test]
    fn only_what_ran_to_its_end_is_dealt_with_and_only_what_missed_nothing_moves_the_window() {
        let first = time("2026-11-24T12:00:00Z");
        let began = run(RunOutcome::Complete).began_at;
        for (outcome, dealt_until, complete_at) in [
            (RunOutcome::Complete, began, began),
            (RunOutcome::Incomplete, began, first),
            (RunOutcome::Failed, first, first),
            (RunOutcome::Stopped, first, first),
        ] {
            let mut record = ScheduleRecord::new(first);
            record.take(run(outcome));
            assert_eq!((record.dealt_until, record.complete_at), (dealt_until, Some(complete_at)), "{outcome:?}");
        }
    }

    #[tokio::test]
    async fn a_record_is_loaded_as_it_was_kept_and_a_torn_one_counts_as_none() {
        let folder = tempfile::tempdir().expect("a folder");
        let state = Location::resolve(&folder.path().to_string_lossy(), None).expect("a folder");
        let file = RecordFile::open(&state, "leads").expect("a folder");
        let now = time("2026-11-25T12:00:00Z");
        assert_eq!(file.load(now).await, Loaded::Missing);
        let mut record = ScheduleRecord::new(time("2026-11-24T12:00:00Z"));
        record.take(run(RunOutcome::Failed));
        file.store(&record).await;
        assert_eq!(file.load(now).await, Loaded::Found(record.clone()));
        let early = time("2026-11-24T00:00:00Z");
        let held = file.load(early).await.or_new(now);
        assert_eq!((held.dealt_until, held.complete_at), (early, Some(early)), "a clock that went ahead");
        let path = folder.path().join("schedules/leads.json");
        let whole = std::fs::read(&path).expect("it is there");
        assert!(whole.len() < 8_000, "{} bytes", whole.len());
        for torn in [&whole[..0], &whole[..whole.len() / 2], b"[]", b"\xff\xfe", &[b' '; 70_000]] {
            std::fs::write(&path, torn).expect("written");
            assert_eq!(file.load(now).await, Loaded::Unreadable, "{} bytes", torn.len());
            assert_eq!(file.load(now).await.or_new(now).complete_at, None, "the whole history is looked at");
        }
    }
}
