//! Maintenance within `sluice run`: each table when it is due, one after another, beside what is read.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use super::record::RecordFile;
use super::table::Mode;
use super::targets::{Target, that_may_be};
use super::{MaintainOptions, maintain_all};
use crate::catalog::Catalog;
use crate::config::spec::{ProjectSpec, TableName};
use crate::fault_points::Armed;
use crate::pipeline::PipelineError;
use crate::pipeline::partition::report;
use crate::pipeline::setup::Places;
use crate::shutdown::Shutdown;

/// The wall clock is looked at this often: it may be set, and a machine may sleep.
const LOOK_AT_CLOCK_EVERY: Duration = Duration::from_secs(15);

/// Maintains the project's tables until the shutdown begins. What fails is told and tried again when the table is
/// due next: no pipeline stops for it.
pub async fn run(project: &ProjectSpec, shutdown: &Shutdown) {
    let targets: Vec<Target> = that_may_be(project).into_iter().filter(|target| target.spec.enabled).collect();
    let Some(shortest) = targets.iter().map(|target| target.spec.every).min() else { return };
    let pause = shortest.min(LOOK_AT_CLOCK_EVERY);
    let mut background = Background { project, targets, due_at: BTreeMap::new() };
    while !shutdown.is_stopping() {
        if let Err(error) = background.look(shutdown).await {
            tracing::warn!(
                error = report(&error),
                "tables could not be maintained: they are tried again when due next"
            );
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = shutdown.stopping() => {}
        }
    }
}

struct Background<'a> {
    project: &'a ProjectSpec,
    targets: Vec<Target>,
    /// Before that a table isn't looked at; another process may have maintained it by then.
    due_at: BTreeMap<TableName, DateTime<Utc>>,
}

impl Background<'_> {
    async fn look(&mut self, shutdown: &Shutdown) -> Result<(), PipelineError> {
        let places = Places::of(self.project)?;
        let mut due = Vec::new();
        for target in self.targets.clone() {
            if self.is_due(&places, &target).await? {
                due.push(target);
            }
        }
        if due.is_empty() {
            return Ok(());
        }
        // Only now is the lake asked for anything.
        let there = Catalog::new(&places.lake).tables().await?;
        due.retain(|target| there.contains(&target.name));
        let options = MaintainOptions { tables: Vec::new(), mode: Mode::Do, fault_points: Armed::default() };
        maintain_all(self.project, &places, &there, due, &options, shutdown).await;
        Ok(())
    }

    /// A period after it was maintained last, by whatever process; the first time a period after it was first
    /// asked for. Whatever comes of it, it isn't due again for a period.
    async fn is_due(&mut self, places: &Places, target: &Target) -> Result<bool, PipelineError> {
        let now = Utc::now();
        let period = TimeDelta::from_std(target.spec.every).unwrap_or(TimeDelta::MAX);
        let after = |at: DateTime<Utc>| at.checked_add_signed(period).unwrap_or(DateTime::<Utc>::MAX_UTC);
        // A clock that went back would hold it up until it is there again.
        if self.due_at.get(&target.name).is_some_and(|due| *due > now && *due <= after(now)) {
            return Ok(false);
        }
        let file = RecordFile::open(&places.state, &target.name.to_string())?;
        let held = file.load().await;
        let held = held.map_err(|source| PipelineError::MaintenanceState { table: target.name.to_string(), source })?;
        let since = match held {
            Some(record) => record.at.min(now),
            None => {
                file.begin().await;
                now
            }
        };
        let is_due = after(since) <= now;
        self.due_at.insert(target.name.clone(), after(if is_due { now } else { since }));
        Ok(is_due)
    }
}
