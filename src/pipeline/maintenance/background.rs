//! Maintenance within `sluice run`: each table when it is due, one after another, beside what is read.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use super::record::RecordFile;
use super::table::{Mode, TableReport};
use super::targets::{Target, of_project};
use super::{MaintainOptions, maintain};
use crate::catalog::Catalog;
use crate::config::spec::{ProjectSpec, TableName};
use crate::pipeline::PipelineError;
use crate::pipeline::partition::report;
use crate::pipeline::setup::Places;
use crate::shutdown::Shutdown;
use crate::sink::delta::fault_points::Armed;

/// How often it is looked which tables are due, at most: tables come into being, and other processes maintain them.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// Maintains the project's tables until the shutdown begins. What fails is told and tried again when the table is
/// due next: no pipeline stops for it.
pub async fn run(project: &ProjectSpec, shutdown: &Shutdown) {
    let declared = project.pipelines.iter().map(|pipeline| &pipeline.sink.maintenance).chain([&project.maintenance]);
    let enabled = declared.filter(|spec| spec.enabled);
    let Some(shortest) = enabled.map(|spec| spec.every).min() else { return };
    let pause = shortest.min(LOOK_EVERY);
    // A table that can't be maintained isn't tried at each look.
    let mut tried: BTreeMap<TableName, DateTime<Utc>> = BTreeMap::new();
    while !shutdown.is_stopping() {
        if let Err(error) = look(project, &mut tried, shutdown).await {
            tracing::warn!(error = report(&error), "tables could not be maintained: trying again");
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = shutdown.stopping() => {}
        }
    }
}

async fn look(
    project: &ProjectSpec,
    tried: &mut BTreeMap<TableName, DateTime<Utc>>,
    shutdown: &Shutdown,
) -> Result<(), PipelineError> {
    let places = Places::of(project)?;
    let there = Catalog::new(&places.lake).tables().await?;
    let mut due = Vec::new();
    for target in of_project(project, &there).into_iter().filter(|target| target.spec.enabled) {
        if is_due(&places, &target, tried).await? {
            due.push(target.name);
        }
    }
    if due.is_empty() {
        return Ok(());
    }
    let now = Utc::now();
    tried.extend(due.iter().map(|name| (name.clone(), now)));
    let options = MaintainOptions { tables: due, mode: Mode::Do, fault_points: Armed::default() };
    maintain(project, options, shutdown, |_: &TableReport| {}).await.map(drop)
}

/// A period after it was maintained last, by whatever process; the first time a period after it was first seen.
async fn is_due(
    places: &Places,
    target: &Target,
    tried: &BTreeMap<TableName, DateTime<Utc>>,
) -> Result<bool, PipelineError> {
    let period = TimeDelta::from_std(target.spec.every).unwrap_or(TimeDelta::MAX);
    let is_over = |since: DateTime<Utc>| {
        let now = Utc::now();
        // A clock that went back would hold it up until it is there again.
        since > now || now - since >= period
    };
    if tried.get(&target.name).is_some_and(|at| !is_over(*at)) {
        return Ok(false);
    }
    let file = RecordFile::open(&places.state, &target.name.to_string())?;
    match file.load().await {
        Some(record) => Ok(is_over(record.at)),
        None => {
            file.begin().await;
            Ok(false)
        }
    }
}
