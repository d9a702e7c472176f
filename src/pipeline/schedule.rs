//! Backfills at the times that `[schedule]` names, beside the live pipeline or instead of one.
//!
//! ```text
//! record ─▶ first time after what is dealt with ─▶ wait ─▶ lock ─▶ backfill ─▶ record
//!             ▲                                                       │ failed: backoff
//!             └───────────────────────────────────────────────────────┘
//! ```
//!
//! Times that pass while nothing runs, or while a run is at work, are made up for by one run: what a run
//! takes in is all that the table lacks, so a second one would find nothing. Runs of one pipeline never
//! overlap: within a process they follow one another, and between processes there is the lock.

mod record;

use std::time::Duration;

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use serde::Serialize;

pub use self::record::{Loaded, RecordFile, RunOutcome, ScheduleRecord, ScheduledRun};
use super::PipelineError;
use super::lock::PipelineLock;
use super::partition::report;
use super::run::{Pipeline, PipelineOptions, PipelineSummary};
use super::setup::{Places, SharedRegistry};
use super::status::{PipelineStatus, State};
use crate::config::spec::{PipelineSpec, ProjectSpec, ScheduleSpec};
use crate::fault_points::FaultPoints;
use crate::retry::Backoff;
use crate::shutdown::Shutdown;
use crate::source::capture::EnqueuedBetween;
use crate::storage::Location;
use crate::telemetry::metrics;

/// A run that failed is tried again after such a pause.
const PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(10 * 60);

/// No consumer group has such a name, so the lock is never that of a live pipeline.
const LOCK: &str = "$schedule";

/// The wall clock is looked at this often: it may be set, and a machine may sleep.
pub(super) const LOOK_AT_CLOCK_EVERY: Duration = Duration::from_secs(15);

/// A schedule as `sluice run` and `sluice status` tell it. The shape that scripts read: fields may be added,
/// never renamed or removed.
#[derive(Debug, Clone, Serialize)]
pub struct ScheduleStatus {
    pub cron: String,
    /// In the past, where a run is due or at work.
    pub next_at: Option<DateTime<Utc>>,
    pub running_since: Option<DateTime<Utc>>,
    pub last_run: Option<ScheduledRun>,
}

impl ScheduleStatus {
    pub fn of(schedule: &ScheduleSpec, record: &ScheduleRecord) -> Self {
        Self {
            cron: schedule.cron.to_string(),
            next_at: schedule.cron.next_after(record.dealt_until),
            running_since: None,
            last_run: record.last_run.clone(),
        }
    }
}

/// How the schedule of a pipeline stands, seen from outside.
///
/// # Errors
/// When the state's place can't be used.
pub async fn standing(places: &Places, spec: &PipelineSpec) -> Result<Option<ScheduleStatus>, PipelineError> {
    let Some(schedule) = &spec.schedule else { return Ok(None) };
    let now = Utc::now();
    let record = RecordFile::open(&places.state, &spec.name)?.load(now).await;
    Ok(Some(ScheduleStatus::of(schedule, &record.or_new(now))))
}

/// The scheduled backfills of one pipeline.
pub struct Scheduled {
    project: ProjectSpec,
    spec: PipelineSpec,
    schedule: ScheduleSpec,
    state: Location,
    file: RecordFile,
    record: ScheduleRecord,
    /// What the world sees of the pipeline.
    status: PipelineStatus,
    fault_points: FaultPoints,
    shutdown: Shutdown,
    /// What all runs of this process did.
    summary: PipelineSummary,
}

impl Scheduled {
    /// Reads how far the schedule has come. The first start is its beginning: nothing was missed before.
    ///
    /// # Errors
    /// [`PipelineError::NotScheduled`]; when the state's place can't be used.
    pub async fn open(
        project: &ProjectSpec,
        spec: &PipelineSpec,
        status: PipelineStatus,
        fault_points: FaultPoints,
        shutdown: Shutdown,
    ) -> Result<Self, PipelineError> {
        let Some(schedule) = spec.schedule.clone() else {
            return Err(PipelineError::NotScheduled { pipelines: vec![spec.name.clone()] });
        };
        let state = Places::of(project)?.state;
        let file = RecordFile::open(&state, &spec.name)?;
        let loaded = file.load(Utc::now()).await;
        let is_first = loaded == Loaded::Missing;
        let record = loaded.or_new(Utc::now());
        if is_first {
            file.store(&record).await;
        }
        let scheduled = Self {
            project: project.clone(),
            spec: spec.clone(),
            schedule,
            state,
            file,
            record,
            status,
            fault_points,
            shutdown,
            summary: PipelineSummary { name: spec.name.clone(), ..PipelineSummary::default() },
        };
        scheduled.tell(None);
        Ok(scheduled)
    }

    /// Runs at each of the times, until stopped. A run that fails is tried again until it doesn't, whatever it
    /// was: somebody may mend it meanwhile. It stops nothing else.
    ///
    /// # Errors
    /// [`PipelineError::CutOff`]
    pub async fn run(mut self) -> Result<PipelineSummary, PipelineError> {
        let mut backoff = Backoff::new(PAUSE, LONGEST_PAUSE);
        let mut not_before = DateTime::<Utc>::MIN_UTC;
        loop {
            self.wait(false);
            // A clock that went back would hold up the schedule until it is there again.
            self.record.dealt_until = self.record.dealt_until.min(Utc::now());
            let due = self.schedule.cron.next_after(self.record.dealt_until).map(|due| due.max(not_before));
            self.sleep_until(due).await;
            if self.shutdown.is_stopping() {
                break;
            }
            if due.is_none_or(|due| due > Utc::now()) {
                continue;
            }
            match self.attempt(due).await {
                Ok(()) => backoff.reset(),
                Err(PipelineError::CutOff) => return Err(PipelineError::CutOff),
                Err(error) => {
                    let (pipeline, pause) = (&self.spec.name, backoff.pause());
                    tracing::error!(pipeline, error = report(&error), ?pause, "a scheduled backfill: trying again");
                    not_before = Utc::now() + TimeDelta::from_std(pause).unwrap_or_default();
                }
            }
        }
        self.wait(true);
        Ok(self.summary)
    }

    /// One run, now.
    ///
    /// # Errors
    /// [`PipelineError::ScheduledElsewhere`]; what the captures or the table didn't allow.
    pub async fn run_once(mut self) -> Result<PipelineSummary, PipelineError> {
        self.attempt(None).await?;
        Ok(self.summary)
    }

    /// Takes in what the table lacks, unless another process did since it was `due`.
    async fn attempt(&mut self, due: Option<DateTime<Utc>>) -> Result<(), PipelineError> {
        let _lock = match PipelineLock::take(&self.state, &self.spec.name, LOCK) {
            Err(PipelineError::Owned { pipeline, path, .. }) => {
                return Err(PipelineError::ScheduledElsewhere { pipeline, path });
            }
            taken => taken?,
        };
        let began_at = Utc::now();
        if let Loaded::Found(record) = self.file.load(began_at).await {
            self.record = record;
        }
        if due.is_some() && self.schedule.cron.next_after(self.record.dealt_until).is_none_or(|due| due > began_at) {
            return Ok(());
        }
        self.tell(Some(began_at));
        let from = self.from(began_at);
        tracing::info!(
            pipeline = self.spec.name,
            due = due.map(|due| due.to_rfc3339_opts(SecondsFormat::Secs, true)),
            from = from.map(|from| from.to_rfc3339_opts(SecondsFormat::Secs, true)),
            "a scheduled backfill begins"
        );
        let ended = self.backfill(EnqueuedBetween { from, to: None }).await;
        let is_stopped = self.shutdown.is_stopping();
        let (outcome, committed, error) = match &ended {
            _ if is_stopped => (RunOutcome::Stopped, ended.as_ref().map_or(0, |summary| summary.committed), None),
            Ok(summary) if summary.is_whole() => (RunOutcome::Complete, summary.committed, None),
            Ok(summary) => (RunOutcome::Incomplete, summary.committed, Some(summary.lacks())),
            Err(error) => (RunOutcome::Failed, 0, Some(report(error))),
        };
        let (pipeline, table) = (&self.spec.name, self.spec.sink.table.to_string());
        tracing::info!(pipeline, outcome = outcome.as_str(), committed, "a scheduled backfill ended");
        metrics::scheduled_run(pipeline, &table, outcome.as_str());
        self.record.take(ScheduledRun { began_at, ended_at: Utc::now(), outcome, committed, error });
        self.file.store(&self.record).await;
        self.tell(None);
        self.summary.add(&ended?);
        Ok(())
    }

    /// From where the last run began that missed nothing, and the window before it: what an outage made
    /// late is within it, however long that took.
    fn from(&self, began_at: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let window = TimeDelta::from_std(self.schedule.window?).ok()?;
        self.record.complete_at?.min(began_at).checked_sub_signed(window)
    }

    async fn backfill(&self, between: EnqueuedBetween) -> Result<PipelineSummary, PipelineError> {
        // Beside a live pipeline it has a status of its own, or they would tell of one another.
        let status = match self.spec.is_live {
            true => PipelineStatus::new(&self.spec.name, &self.spec.owner, &self.spec.sink.table.to_string()),
            false => self.status.clone(),
        };
        let registry = SharedRegistry::default();
        let options = PipelineOptions { until_caught_up: true, fault_points: self.fault_points.clone(), registry };
        let opened = Pipeline::backfill(&self.project, &self.spec, between, options, status, self.shutdown.clone());
        let opened = tokio::select! {
            opened = opened => opened,
            () = self.shutdown.stopping() => return Ok(PipelineSummary::default()),
        };
        opened?.run().await
    }

    /// Until `due`; without one, and where the shutdown begins first, until that. Sooner where the clock goes back.
    async fn sleep_until(&self, due: Option<DateTime<Utc>>) {
        loop {
            let left = due.map_or(LOOK_AT_CLOCK_EVERY, |due| (due - Utc::now()).to_std().unwrap_or_default());
            if left.is_zero() || self.shutdown.is_stopping() || self.record.dealt_until > Utc::now() {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep(left.min(LOOK_AT_CLOCK_EVERY)) => {}
                () = self.shutdown.stopping() => return,
            }
        }
    }

    /// Where nothing is read live, the pipeline is what its schedule is.
    fn wait(&self, is_stopped: bool) {
        if self.spec.is_live {
            return;
        }
        let last = self.record.last_run.as_ref();
        self.status.change(|snapshot| {
            snapshot.error = last.and_then(|run| run.error.clone());
            snapshot.state = match last.map(|run| run.outcome) {
                _ if is_stopped => State::Stopped,
                Some(RunOutcome::Failed) => State::BackingOff,
                _ => State::Waiting,
            };
        });
    }

    fn tell(&self, running_since: Option<DateTime<Utc>>) {
        let told = ScheduleStatus { running_since, ..ScheduleStatus::of(&self.schedule, &self.record) };
        self.status.change(|snapshot| snapshot.schedule = Some(told));
        if let Some(at) = self.record.complete_at {
            metrics::scheduled_complete(&self.spec.name, &self.spec.sink.table.to_string(), at);
        }
    }
}
