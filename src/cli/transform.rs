//! `sluice transform`: transforms, once.

use std::process::ExitCode;

use bytesize::ByteSize;

use super::{Exit, Format, Global, Output};
use crate::config::ConfigErrors;
use crate::config::spec::TableName;
use crate::error::{AnyError, Classify as _};
use crate::fault_points::FaultPoints;
use crate::pipeline::PipelineError;
use crate::pipeline::transforms::{MEMORY_BYTES, TransformOptions, TransformSummary, Transforms, first_failure};
use crate::shutdown::Shutdown;
use crate::transform::run::engine::{PART_BYTES, Refresh};
use crate::transform::run::explain::Explained;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Tables to bring up to date, as `silver.leads`; all that transforms make when none is named
    #[arg(value_name = "TABLE")]
    tables: Vec<TableName>,
    /// Begin these tables anew, from what their inputs hold now. Readers see them empty, then growing
    #[arg(long, conflicts_with = "dry_run")]
    full_refresh: bool,
    /// Show what a run would read, and its query's plan; write nothing
    #[arg(long)]
    dry_run: bool,
    /// `json` writes `{"transforms": [{"table", "outcome", "rows_in", "rows_out", "version", …}]}`
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    format: Format,
    /// What sorts, joins and groups may hold in memory; beyond it they go to temporary files
    #[arg(long, value_name = "SIZE", default_value_t = ByteSize::b(MEMORY_BYTES as u64))]
    memory: ByteSize,
    /// How much of an input goes into one commit, in bytes of its files
    #[arg(long, value_name = "SIZE", default_value_t = ByteSize::b(PART_BYTES))]
    part_size: ByteSize,
    /// Die at a named point of a part, as POINT or POINT:N for its Nth passing: for crash tests
    #[arg(long, hide = true, value_name = "POINT[:N]")]
    crash_at: Option<FaultPoints>,
}

/// Exit code 0 when all are up to date, 130 when it was stopped before; else that of the first failure.
///
/// # Errors
/// What the declarations didn't allow.
pub async fn run(args: Args, global: &Global) -> Result<ExitCode, AnyError> {
    let project = global.load_project()?;
    let output = global.output();
    let shutdown = Shutdown::new();
    let mut beside = super::signals::watch(shutdown.clone(), project.shutdown.deadline)?;
    let options = TransformOptions {
        memory_bytes: usize::try_from(args.memory.as_u64()).unwrap_or(usize::MAX),
        part_bytes: args.part_size.as_u64().max(1),
        fault_points: args.crash_at.unwrap_or_default(),
    };
    let transforms = match Transforms::open(&project, &options, shutdown.clone()) {
        Err(PipelineError::Sql(problems)) => {
            return Err(ConfigErrors { dir: Some(project.dir), problems }.into());
        }
        opened => opened?,
    };
    let selected = transforms.select(&args.tables)?;
    if args.dry_run {
        let explained = transforms.explain(&selected).await?;
        beside.abort_all();
        match args.format {
            Format::Json => output.json(&serde_json::json!({"transforms": explained}))?,
            Format::Text => {
                for transform in &explained {
                    output.line(in_words(transform))?;
                }
            }
        }
        return Ok(Exit::Well.into());
    }
    let refresh = if args.full_refresh { Refresh::Full } else { Refresh::No };
    let mut summaries = tokio::select! {
        summaries = transforms.run_once(&selected, refresh) => summaries,
        () = shutdown.aborting() => {
            tracing::warn!("cut off: the next run goes on from what was committed");
            return Ok(Exit::CutOff.into());
        }
    };
    beside.abort_all();
    match args.format {
        Format::Json => output.json(&serde_json::json!({"transforms": summaries}))?,
        Format::Text => say(&summaries, &output),
    }
    if let Some(error) = first_failure(&mut summaries) {
        // Each failure has been told with its transform.
        if let Some(hint) = error.hint() {
            output.say(format!("hint: {hint}"));
        }
        return Ok(Exit::from(error.kind()).into());
    }
    if shutdown.is_stopping() {
        tracing::warn!("stopped before the end: the next run goes on from what was committed");
        return Ok(Exit::CutOff.into());
    }
    Ok(Exit::Well.into())
}

/// What a run would do.
fn in_words(transform: &Explained) -> String {
    let mut text = format!("{} ({})", transform.table, transform.mode);
    for input in &transform.inputs {
        let what = match (input.version, input.files) {
            (None, _) => "not there yet".to_owned(),
            (Some(version), None) => format!("whole, as it is at version {version}"),
            (Some(version), Some(0)) => format!("nothing new up to version {version}"),
            (Some(version), Some(files)) => {
                let bytes = ByteSize::b(u64::try_from(input.bytes.unwrap_or_default()).unwrap_or_default());
                let since = match input.consumed {
                    Some(consumed) => format!("versions {} to {version}", consumed + 1),
                    None => format!("from the beginning, at version {version}"),
                };
                format!("{since}; the next part reads {files} files, {bytes}")
            }
        };
        text.push_str(&format!("\n  {}: {what}", input.input));
    }
    if let Some(plan) = &transform.plan {
        text.push_str("\n  plan:");
        for line in plan.lines() {
            text.push_str(&format!("\n    {line}"));
        }
    }
    text
}

/// A line for each transform.
pub(super) fn say(summaries: &[TransformSummary], output: &Output) {
    for summary in summaries {
        let table = &summary.table;
        output.say(match summary.outcome {
            "committed" => {
                let rows_in = summary.rows_in.map(|rows| format!("{rows} new rows in, ")).unwrap_or_default();
                let commits = if summary.commits == 1 { "commit" } else { "commits" };
                format!(
                    "{table}: {rows_in}{} rows written, in {} {commits} and {:.1} s",
                    summary.rows_out, summary.commits, summary.seconds
                )
            }
            "unchanged" => format!("{table}: nothing new"),
            "waits" => format!("{table}: waits: {}", summary.error.as_deref().unwrap_or_default()),
            "held-back" => format!("{table}: held back by one that failed"),
            "stopped" => format!("{table}: stopped before its turn"),
            _ => format!("{table}: failed: {}", summary.error.as_deref().unwrap_or_default()),
        });
        for violated in summary.expectations.iter().filter(|violated| violated.rows > 0) {
            let what = match violated.on_violation {
                "warn" => "kept",
                "drop" => "dropped",
                "quarantine" => "quarantined",
                _ => "refused",
            };
            output.say(format!("{table}: {} rows violate `{}`: {what}", violated.rows, violated.name));
        }
    }
}
