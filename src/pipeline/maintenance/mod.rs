//! Maintenance of a project's tables: by `sluice maintain` now, by `sluice run` in the background.
//!
//! ```text
//! lake ─▶ targets ─▶ leader of the table? ─▶ compact ─▶ checkpoint ─▶ vacuum ─▶ clean the log ─▶ record
//!           │              └ no: another process does it                 ▲
//!           └─▶ what streams have read of which table ───────────────────┘
//! ```
//!
//! [`crate::catalog::maintenance`] knows how each of it is done to one table. Here is which tables, when, by
//! whom, and what is kept for others.

pub mod background;
pub mod leader;
mod readers;
pub mod record;
pub mod table;
pub mod targets;

use std::sync::Arc;
use std::time::Duration;

use chrono::SecondsFormat;
use serde::Serialize;
use tokio::task::JoinSet;

use self::leader::{Leader, Taken};
use self::readers::Readers;
use self::record::RecordFile;
use self::table::{Mode, Outcome, Step, TableReport, maintain_table};
use self::targets::Target;
use super::PipelineError;
use super::partition::report;
use super::setup::Places;
use crate::catalog::{Catalog, CatalogError};
use crate::compute;
use crate::config::spec::{ProjectSpec, TableName};
use crate::fault_points::Armed;
use crate::shutdown::Shutdown;
use crate::telemetry::metrics;

/// What a run of maintenance is to do.
#[derive(Debug, Clone)]
pub struct MaintainOptions {
    /// Those of the project when none is named.
    pub tables: Vec<TableName>,
    pub mode: Mode,
    pub fault_points: Armed<Step>,
}

/// How the maintenance of a table ended last. The shape that scripts read: fields may be added, never renamed or
/// removed.
#[derive(Debug, Clone, Serialize)]
pub struct LastMaintenance {
    /// RFC 3339, UTC.
    pub at: String,
    pub outcome: Outcome,
    pub error: Option<String>,
    /// After it.
    pub files: u64,
}

/// What the state knows of it.
pub async fn standing(places: &Places, table: &TableName) -> Option<LastMaintenance> {
    let record = RecordFile::open(&places.state, &table.to_string()).ok()?.load().await.ok()??;
    let last = record.last?;
    let at = record.at.to_rfc3339_opts(SecondsFormat::Secs, true);
    Some(LastMaintenance { at, outcome: last.outcome, error: last.error, files: last.files_after })
}

/// Maintains tables, one after another, now.
///
/// # Errors
/// [`CatalogError::Unknown`] for a table that isn't there, and a lake or state that can't be used. What fails of one
/// table is told in its report, and stops no other.
pub async fn maintain(
    project: &ProjectSpec,
    options: MaintainOptions,
    shutdown: &Shutdown,
) -> Result<Vec<TableReport>, PipelineError> {
    let places = Places::of(project)?;
    let there = Catalog::new(&places.lake).tables().await?;
    if let Some(missing) = options.tables.iter().find(|name| !there.contains(name)) {
        let known = there.iter().map(ToString::to_string).collect();
        return Err(CatalogError::Unknown { table: missing.to_string(), known }.into());
    }
    let targets = if options.tables.is_empty() {
        targets::of_project(project, &there)
    } else {
        options.tables.iter().map(|name| Target::of(project, name)).collect()
    };
    Ok(maintain_all(project, &places, &there, targets, &options, shutdown).await)
}

async fn maintain_all(
    project: &ProjectSpec,
    places: &Places,
    there: &[TableName],
    targets: Vec<Target>,
    options: &MaintainOptions,
    shutdown: &Shutdown,
) -> Vec<TableReport> {
    let readers = Arc::new(Readers::look(project, &places.lake, there).await);
    let mut reports = Vec::new();
    for target in targets {
        if shutdown.is_stopping() {
            break;
        }
        let led = lead(places, &target, &readers, options, shutdown).await;
        reports.push(led.unwrap_or_else(|error| {
            let failed = TableReport::failed(&target.name.to_string(), report(&error));
            tell(&failed);
            failed
        }));
    }
    reports
}

/// Maintains a table if nobody else does.
async fn lead(
    places: &Places,
    target: &Target,
    readers: &Arc<Readers>,
    options: &MaintainOptions,
    shutdown: &Shutdown,
) -> Result<TableReport, PipelineError> {
    let name = target.name.to_string();
    if options.mode == Mode::DryRun {
        return Ok(apart(places, target, readers, options, shutdown).await);
    }
    let mut leader = match Leader::take(&places.state, &name).await? {
        Taken::Ours(leader) => leader,
        Taken::Elsewhere => return Ok(TableReport::of(&name, Outcome::Elsewhere)),
    };
    let report = tokio::select! {
        report = apart(places, target, readers, options, shutdown) => report,
        error = leader.lost() => {
            tracing::warn!(table = name, error = report(&error), "another process has taken over the maintenance");
            TableReport::of(&name, Outcome::Elsewhere)
        }
    };
    leader.release().await;
    tell(&report);
    // What it would say of the table isn't known, and another process may have recorded its own by now.
    if matches!(report.outcome, Outcome::Elsewhere | Outcome::Stopped) {
        return Ok(report);
    }
    match RecordFile::open(&places.state, &name) {
        Ok(file) => file.store(&report).await,
        Err(error) => tracing::warn!(table = name, %error, "when the table was maintained can't be kept"),
    }
    Ok(report)
}

/// On the thread for what has time. Dropped, it stops where it waits next.
async fn apart(
    places: &Places,
    target: &Target,
    readers: &Arc<Readers>,
    options: &MaintainOptions,
    shutdown: &Shutdown,
) -> TableReport {
    let name = target.name.to_string();
    let (lake, target, readers) = (places.lake.clone(), target.clone(), Arc::clone(readers));
    let (mode, fault_points, shutdown) = (options.mode, options.fault_points.clone(), shutdown.clone());
    let mut work = JoinSet::new();
    work.spawn_on(
        async move {
            tokio::select! {
                report = maintain_table(&lake, &target, &readers, mode, &fault_points) => report,
                () = stopped(&shutdown) => TableReport::of(&target.name.to_string(), Outcome::Stopped),
            }
        },
        &compute::leisure(),
    );
    match work.join_next().await {
        Some(Ok(report)) => report,
        Some(Err(error)) => TableReport::failed(&name, format!("the task of the maintenance failed: {error}")),
        None => TableReport::failed(&name, "the task of the maintenance is gone".to_owned()),
    }
}

/// A commit that is on its way lands or doesn't; whoever reads the log sees which.
async fn stopped(shutdown: &Shutdown) {
    /// For what is about to be committed: work that is thrown away for a moment's patience is done again.
    const PATIENCE: Duration = Duration::from_secs(1);
    shutdown.stopping().await;
    tokio::time::sleep(PATIENCE).await;
}

fn tell(report: &TableReport) {
    metrics::maintained(&report.table, report.outcome.as_str(), report.compacted_files, report.compacted_bytes);
    metrics::cleaned(&report.table, report.vacuumed_files, report.log_entries_removed);
    if report.outcome == Outcome::Done {
        metrics::maintenance_complete(&report.table, chrono::Utc::now());
    }
    let TableReport { table, version, files_before, files_after, log_entries_removed, vacuumed_files, .. } = report;
    match (&report.outcome, &report.error) {
        (Outcome::Failed, error) => {
            let error = error.as_deref().unwrap_or_default();
            tracing::warn!(table, error, "a table could not be maintained in full: it is tried again next time");
        }
        _ if report.did_something() => {
            tracing::info!(
                table,
                version,
                files_before,
                files_after,
                log_entries_removed,
                vacuumed_files,
                "a table was maintained"
            );
        }
        _ => tracing::debug!(table, "nothing was to be done for a table"),
    }
}
