//! `sluice backfill`: history from the blobs of Event Hubs Capture.

use std::process::ExitCode;

use chrono::{DateTime, NaiveDate, NaiveTime, Utc};

use super::progress::Progress;
use super::run::ended_by_itself;
use super::{Exit, Format, Global};
use crate::error::AnyError;
use crate::fault_points::FaultPoints;
use crate::pipeline::RunOptions;
use crate::pipeline::supervise::{run_backfill, select};
use crate::shutdown::Shutdown;
use crate::source::capture::EnqueuedBetween;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The pipeline whose `[source.capture]` is read
    #[arg(value_name = "PIPELINE")]
    pipeline: String,
    /// From this enqueued time on: `2026-01-01` or `2026-01-01T00:00:00Z`; else from the first blob
    #[arg(long, value_name = "TIME", value_parser = time)]
    from: Option<DateTime<Utc>>,
    /// Up to this enqueued time, which isn't part of it; else to the last blob
    #[arg(long, value_name = "TIME", value_parser = time)]
    to: Option<DateTime<Utc>>,
    /// `json` writes `{"pipelines": [{"name", "received", "committed", "rejected", "duplicate", "blobs", …}]}`
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    format: Format,
    /// Die at a named point of a flush, as POINT or POINT:N for its Nth passing: for crash tests
    #[arg(long, hide = true, value_name = "POINT[:N]")]
    crash_at: Option<FaultPoints>,
}

/// Exit code 0 when all that the captures have is in the table, 1 when a blob was torn or numbers
/// between blobs are missing, 130 when it was stopped before its end.
///
/// # Errors
/// What the declarations, the captures or the table didn't allow.
pub async fn run(args: Args, global: &Global) -> Result<ExitCode, AnyError> {
    let project = global.load_project()?;
    let between = EnqueuedBetween { from: args.from, to: args.to };
    let options = RunOptions { pipelines: vec![args.pipeline], ..RunOptions::default() };
    let Some((spec, status)) = select(&project, &options)?.pop() else { return Ok(Exit::Well.into()) };
    let shutdown = Shutdown::new();
    let mut beside = super::signals::watch(shutdown.clone(), project.shutdown.deadline)?;
    let progress = Progress::new(global);
    let fault_points = args.crash_at.unwrap_or_default();
    let running = run_backfill(&project, (spec, status.clone()), between, fault_points, shutdown.clone());
    let ended = progress.follow_captures(running, &[status]).await;
    progress.clear();
    beside.abort_all();
    ended_by_itself(ended, &shutdown, args.format, &global.output())
}

/// A day, which begins at midnight UTC, or a time with an offset.
pub(super) fn time(text: &str) -> Result<DateTime<Utc>, String> {
    if let Ok(day) = text.parse::<NaiveDate>() {
        return Ok(day.and_time(NaiveTime::MIN).and_utc());
    }
    DateTime::parse_from_rfc3339(text)
        .map(|time| time.to_utc())
        .map_err(|_| "write a day or a time with its offset: `2026-01-01`, `2026-01-01T00:00:00Z`".to_owned())
}
