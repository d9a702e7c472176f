//! `sluice transform`: transforms, once.

use std::process::ExitCode;

use bytesize::ByteSize;

use super::{Exit, Format, Global, Output};
use crate::config::ConfigErrors;
use crate::config::spec::{ProjectSpec, TableName};
use crate::error::{AnyError, Classify as _};
use crate::fault_points::FaultPoints;
use crate::pipeline::plan::explained;
use crate::pipeline::transforms::{MEMORY_BYTES, TransformOptions, TransformSummary, Transforms, first_failure};
use crate::pipeline::{PipelineError, check};
use crate::shutdown::Shutdown;
use crate::transform::run::engine::{PART_BYTES, Refresh};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Tables to bring up to date, as `silver.leads`; all that transforms make when none is named
    #[arg(value_name = "TABLE")]
    tables: Vec<TableName>,
    /// Begin these tables anew, from what their inputs hold now. Readers see them empty, then growing
    #[arg(long, conflicts_with = "dry_run")]
    full_refresh: bool,
    /// Run nothing: show the plan of each query, logical and physical
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
    if args.dry_run {
        return dry_run(&project, &args, &output).await;
    }
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

/// The plans of transforms, as they would run.
async fn dry_run(project: &ProjectSpec, args: &Args, output: &Output) -> Result<ExitCode, AnyError> {
    let checked = check::check(project).await?;
    let errors = |problems| ConfigErrors { dir: Some(project.dir.clone()), problems };
    if !checked.problems.is_empty() {
        return Err(errors(checked.problems).into());
    }
    let explained = match explained(project, &checked, &args.tables).await {
        Err(PipelineError::Sql(problems)) => return Err(errors(problems).into()),
        explained => explained?,
    };
    if args.format == Format::Json {
        output.json(&serde_json::json!({"transforms": explained}))?;
        return Ok(Exit::Well.into());
    }
    let indented = |text: &str| text.lines().map(|line| format!("    {line}")).collect::<Vec<_>>().join("\n");
    let shown: Vec<String> = explained
        .iter()
        .map(|transform| {
            let (logical, physical) = (indented(&transform.logical), indented(&transform.physical));
            format!("{}: {}\n  logical plan\n{logical}\n  physical plan\n{physical}", transform.table, transform.mode)
        })
        .collect();
    output.line(shown.join("\n\n"))?;
    Ok(Exit::Well.into())
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
