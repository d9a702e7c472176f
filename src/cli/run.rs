//! `sluice run`: pipelines, until stopped or until nothing is left.

use std::process::ExitCode;
use std::sync::Arc;

use super::progress::Progress;
use super::{Exit, Format, Global};
use crate::error::AnyError;
use crate::fault_points::FaultPoints;
use crate::pipeline::setup::Places;
use crate::pipeline::spool::Spool;
use crate::pipeline::status::headway;
use crate::pipeline::supervise::{RunSummary, run_scheduled_once, run_selected, select};
use crate::pipeline::webhook::Intake;
use crate::pipeline::{PipelineError, PipelineSummary, RunOptions};
use crate::serve::webhook::Webhook;
use crate::serve::{self, ServeError};
use crate::shutdown::Shutdown;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Pipelines to run; all when none is named
    #[arg(value_name = "PIPELINE")]
    pipelines: Vec<String>,
    /// End at the last numbers that the hubs have now
    #[arg(long)]
    until_caught_up: bool,
    /// Backfill now, once, what `[schedule]` declares, and end: for schedulers elsewhere
    #[arg(long, conflicts_with = "until_caught_up")]
    once: bool,
    /// How the summary is written
    #[arg(long, value_enum, default_value_t = Format::Text, value_name = "FORMAT")]
    format: Format,
    /// Die at a named point of a flush, as POINT or POINT:N for its Nth passing: for crash tests
    #[arg(long, hide = true, value_name = "POINT[:N]")]
    crash_at: Option<FaultPoints>,
}

/// Exit code 0 after a clean stop, or when nothing is left; of `--once` that of a backfill.
///
/// # Errors
/// What the declarations, the hubs or the tables didn't allow.
pub async fn run(args: Args, global: &Global) -> Result<ExitCode, AnyError> {
    let project = global.load_project()?;
    let output = global.output();
    if args.crash_at.is_some() {
        tracing::warn!("a fault point is armed: this process will kill itself");
    }
    let webhook = project.webhook.as_ref().filter(|_| !args.until_caught_up && !args.once);
    let spool = match webhook {
        Some(_) => Some(Arc::new(Spool::open(&Places::of(&project)?.state).await.map_err(PipelineError::from)?)),
        None => None,
    };
    let options = RunOptions {
        until_caught_up: args.until_caught_up,
        pipelines: args.pipelines,
        fault_points: args.crash_at.unwrap_or_default(),
        spool: spool.clone(),
        ..RunOptions::default()
    };
    let shutdown = Shutdown::new();
    let selected = select(&project, &options)?;
    let mut beside = super::signals::watch(shutdown.clone(), project.shutdown.deadline)?;
    let statuses: Vec<_> = selected.iter().map(|(_, status)| status.clone()).collect();
    let progress = Progress::new(global);
    if args.once {
        let running = run_scheduled_once(&project, selected, options, shutdown.clone());
        let ended = progress.follow_captures(running, &statuses).await;
        progress.clear();
        beside.abort_all();
        return ended_by_itself(ended, &shutdown, args.format, &output);
    }
    let until_caught_up = options.until_caught_up;
    let running = run_selected(&project, selected, options, shutdown.clone());
    let (server, ended) = if until_caught_up {
        progress.count("catching up", "events");
        (None, progress.follow(running, || headway(&statuses)).await)
    } else {
        let webhook = webhook.zip(spool).map(|(spec, spool)| Webhook::new(spec, Intake::new(spool)));
        let webhook = webhook.transpose().map_err(ServeError::from)?;
        let server = serve::start(project.serve.address, Arc::new(statuses.clone()), webhook).await?;
        (Some(server), progress.watch(running, &statuses).await)
    };
    progress.clear();
    beside.abort_all();
    if let Some(server) = server {
        server.stop().await;
    }
    match ended {
        Ok(summary) => {
            print(&summary, args.format, &output)?;
            Ok(Exit::Well.into())
        }
        Err(PipelineError::Stopped { source, .. }) if matches!(*source, PipelineError::CutOff) => {
            tracing::warn!("cut off: what was not committed is read again by the next start");
            Ok(Exit::CutOff.into())
        }
        Err(error) => Err(error.into()),
    }
}

/// The exit code of what reads captures to their end: 1 where a blob was torn or numbers between blobs are
/// missing, 130 where it was stopped before.
///
/// # Errors
/// The one that it ended with.
pub(super) fn ended_by_itself(
    ended: Result<RunSummary, PipelineError>,
    shutdown: &Shutdown,
    format: Format,
    output: &super::Output,
) -> Result<ExitCode, AnyError> {
    match ended {
        Ok(summary) => {
            print(&summary, format, output)?;
            if shutdown.is_stopping() {
                tracing::warn!("stopped before the end: the next run goes on from what was committed");
                return Ok(Exit::CutOff.into());
            }
            let is_whole = summary.pipelines.iter().all(PipelineSummary::is_whole);
            Ok(if is_whole { Exit::Well } else { Exit::Failed }.into())
        }
        Err(PipelineError::Stopped { source, .. }) if matches!(*source, PipelineError::CutOff) => {
            tracing::warn!("cut off: what was not committed is read again by the next run");
            Ok(Exit::CutOff.into())
        }
        Err(error) => Err(error.into()),
    }
}

fn print(summary: &RunSummary, format: Format, output: &super::Output) -> Result<(), AnyError> {
    match format {
        Format::Json => output.json(summary)?,
        Format::Text => {
            for pipeline in &summary.pipelines {
                let blobs = if pipeline.blobs > 0 { format!(", from {} blobs", pipeline.blobs) } else { String::new() };
                output.say(format!(
                    "{}: {} received{blobs}, {} committed, {} rejected, {} duplicate, in {} commits and {:.1} s",
                    pipeline.name,
                    pipeline.received,
                    pipeline.committed,
                    pipeline.rejected,
                    pipeline.duplicate,
                    pipeline.commits,
                    pipeline.seconds
                ));
            }
            super::transform::say(&summary.transforms, output);
        }
    }
    Ok(())
}
