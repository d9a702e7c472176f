//! `sluice maintain`: tables are made quick to read again, now.

use std::process::ExitCode;

use bytesize::ByteSize;
use serde::Serialize;

use super::progress::Progress;
use super::{Exit, Format, Global};
use crate::config::spec::TableName;
use crate::error::AnyError;
use crate::fault_points::Armed;
use crate::pipeline::maintenance::table::{Mode, Outcome, Step, TableReport};
use crate::pipeline::maintenance::{MaintainOptions, maintain};
use crate::shutdown::Shutdown;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Tables, as in `bronze.leads`; those that the project writes when none is named
    #[arg(value_name = "TABLE")]
    tables: Vec<TableName>,
    /// Say what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// `json` writes `{"tables": [{"table", "outcome", "error", "version", "files_before", "files_after",
    /// "bytes_before", "bytes_after", "compacted_files", "compacted_bytes", "partitions", "checkpoint",
    /// "log_entries_removed", "log_kept_for", "vacuumed_files", "vacuumed_bytes", "files", "seconds"}]}`
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    format: Format,
    /// Die at a named point of the maintenance, as POINT or POINT:N for its Nth passing: for crash tests
    #[arg(long, hide = true, value_name = "POINT[:N]")]
    crash_at: Option<Armed<Step>>,
}

/// The shape that scripts read: fields may be added, never renamed or removed.
#[derive(Debug, Serialize)]
struct Shown {
    tables: Vec<TableReport>,
}

/// Exit code 0 when each table was maintained, or is by another process; 3 when one failed; 130 when it was
/// stopped before its end.
///
/// # Errors
/// A table that isn't there, and a lake or state that can't be used.
pub async fn run(args: Args, global: &Global) -> Result<ExitCode, AnyError> {
    let project = global.load_project()?;
    let output = global.output();
    let shutdown = Shutdown::new();
    let mut beside = super::signals::watch(shutdown.clone(), project.shutdown.deadline)?;
    let options = MaintainOptions {
        tables: args.tables,
        mode: if args.dry_run { Mode::DryRun } else { Mode::Do },
        fault_points: args.crash_at.unwrap_or_default(),
    };
    let progress = Progress::new(global);
    progress.spin("maintaining tables");
    let maintained = maintain(&project, options, &shutdown).await;
    progress.clear();
    beside.abort_all();
    let tables = maintained?;
    let any = |outcome| tables.iter().any(|table| table.outcome == outcome);
    let exit = match () {
        () if shutdown.is_stopping() || any(Outcome::Stopped) => Exit::CutOff,
        () if any(Outcome::Failed) => Exit::Outside,
        () => Exit::Well,
    };
    match args.format {
        Format::Json => output.json(&Shown { tables })?,
        Format::Text => output.line(words(&tables))?,
    }
    Ok(exit.into())
}

fn words(tables: &[TableReport]) -> String {
    if tables.is_empty() {
        return "no tables yet: `sluice run` makes them".to_owned();
    }
    tables.iter().map(shown).collect::<Vec<_>>().join("\n")
}

fn shown(table: &TableReport) -> String {
    let name = &table.table;
    let mut text = match table.outcome {
        Outcome::Elsewhere => return format!("{name}: another process maintains it"),
        Outcome::Stopped => return format!("{name}: stopped before the end"),
        Outcome::Failed => format!("{name}: not done in full: {}", table.error.as_deref().unwrap_or_default()),
        Outcome::DryRun if !table.did_something() => return format!("{name}: nothing would be done"),
        Outcome::Done if !table.did_something() => return format!("{name}: nothing to do"),
        Outcome::DryRun => format!("{name}: would be done"),
        Outcome::Done => format!("{name}: done in {:.1} s", table.seconds),
    };
    let mut line = |words: String| text.push_str(&format!("\n  {words}"));
    if table.compacted_files > 0 {
        line(format!(
            "files: {} to {}, {} to {}",
            table.files_before,
            table.files_after,
            ByteSize(table.bytes_before),
            ByteSize(table.bytes_after)
        ));
    }
    for compacted in &table.partitions {
        let partition = if compacted.partition.is_empty() { "all rows" } else { &compacted.partition };
        line(format!("  {partition}: {} files into {}", compacted.files, compacted.into_files));
    }
    if let Some(version) = table.checkpoint {
        line(format!("checkpoint: version {version}"));
    }
    if table.vacuumed_files > 0 {
        let bytes = ByteSize(table.vacuumed_bytes);
        line(format!("vacuumed: {} files, {bytes}", table.vacuumed_files));
    }
    for file in &table.files {
        line(format!("  {file}"));
    }
    if table.log_entries_removed > 0 {
        line(format!("log: {} entries", table.log_entries_removed));
    }
    if let Some(reader) = &table.log_kept_for {
        line(format!("log: `{reader}` has not read all of it yet, so it is kept"));
    }
    text
}
