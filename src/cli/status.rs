//! `sluice status`: where each pipeline stands.

use std::process::ExitCode;

use chrono::{DateTime, SecondsFormat, Utc};
use comfy_table::CellAlignment;
use serde::Serialize;

use super::progress::Progress;
use super::rows::{or_dash, plain_table};
use super::{Exit, Format, Global};
use crate::error::AnyError;
use crate::pipeline::standing::{PipelineStanding, standings};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// `json` writes `{"pipelines": [{"name", "owner", "state", "table", "last_commit", "partitions", "schedule",
    /// "maintenance"}]}`
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    format: Format,
}

/// The shape that scripts read: fields may be added, never renamed or removed.
#[derive(Debug, Serialize)]
struct Status {
    pipelines: Vec<PipelineStanding>,
}

/// # Errors
/// When a table can't be read; a hub that can't be asked is shown, not an error.
pub async fn run(args: Args, global: &Global) -> Result<ExitCode, AnyError> {
    let project = global.load_project()?;
    let output = global.output();
    let progress = Progress::new(global);
    progress.spin("asking tables and hubs");
    let status = Status { pipelines: standings(&project).await? };
    progress.clear();
    match args.format {
        Format::Json => output.json(&status)?,
        Format::Text => output.line(words(&status.pipelines))?,
    }
    Ok(Exit::Well.into())
}

fn words(pipelines: &[PipelineStanding]) -> String {
    if pipelines.is_empty() {
        return "no pipelines yet: declare them in `pipelines/<team>/<name>.toml`".to_owned();
    }
    let shown: Vec<String> = pipelines.iter().map(shown).collect();
    shown.join("\n\n")
}

fn shown(pipeline: &PipelineStanding) -> String {
    let mut text = format!("{} ({}) to {}: {}", pipeline.name, pipeline.owner, pipeline.table, pipeline.state.as_str());
    match &pipeline.last_commit {
        Some(commit) => {
            let at = commit.at.as_ref().map(|at| format!(" at {at}")).unwrap_or_default();
            text.push_str(&format!("; last commit: version {}{at}\n", commit.version));
        }
        None => text.push_str("; no commit yet\n"),
    }
    for table in &pipeline.routed_tables {
        let commit = table.last_commit.as_ref();
        let at = commit.and_then(|commit| commit.at.as_ref()).map(|at| format!(" at {at}")).unwrap_or_default();
        let version =
            commit.map_or_else(|| "no commit yet".to_owned(), |commit| format!("version {}{at}", commit.version));
        text.push_str(&format!("  and to {}: {version}\n", table.table));
    }
    if let Some(error) = &pipeline.error {
        text.push_str(&format!("  the hub can't be asked: {error}\n"));
    }
    if let Some(schedule) = &pipeline.schedule {
        text.push_str(&format!(
            "  backfilled at `{}`; next: {}",
            schedule.cron,
            or_dash(schedule.next_at.map(shown_time))
        ));
        if let Some(last) = &schedule.last_run {
            let error = last.error.as_ref().map(|error| format!(": {error}")).unwrap_or_default();
            let ended = shown_time(last.ended_at);
            text.push_str(&format!("; last: {} at {ended}, {} events{error}", last.outcome.as_str(), last.committed));
        }
        text.push('\n');
    }
    if let Some(last) = &pipeline.maintenance {
        let error = last.error.as_ref().map(|error| format!(": {error}")).unwrap_or_default();
        text.push_str(&format!(
            "  maintained: {} at {}, {} files{error}\n",
            last.outcome.as_str(),
            last.at,
            last.files
        ));
    }
    if pipeline.gap_events > 0 {
        let name = &pipeline.name;
        text.push_str(&format!("  {} numbers are missing: `sluice gaps list {name}`\n", pipeline.gap_events));
    }
    if pipeline.accepted_gap_events > 0 {
        text.push_str(&format!("  {} numbers are missing, and accepted as such\n", pipeline.accepted_gap_events));
    }
    if pipeline.partitions.is_empty() {
        return text.trim_end().to_owned();
    }
    let mut table = plain_table([
        "partition",
        "position",
        "last enqueued",
        "lag",
        "lag seconds",
        "seconds to data loss",
        "gaps",
        "accepted",
    ]);
    for partition in &pipeline.partitions {
        table.add_row([
            partition.partition.clone(),
            or_dash(partition.position),
            or_dash(partition.last_enqueued),
            or_dash(partition.lag_events),
            or_dash(partition.lag_seconds.map(|seconds| format!("{seconds:.1}"))),
            or_dash(partition.seconds_to_data_loss.map(|seconds| format!("{seconds:.0}"))),
            partition.gap_events.to_string(),
            partition.accepted_gap_events.to_string(),
        ]);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    format!("{text}{table}")
}

fn shown_time(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Secs, true)
}
