//! `sluice audit`: the proof that a table accounts for every number once.

use std::process::ExitCode;

use comfy_table::{CellAlignment, Table};

use super::progress::Progress;
use super::rows::{fit_for_a_screen, plain_table};
use super::{Exit, Format, Global};
use crate::config::spec::TableName;
use crate::error::AnyError;
use crate::pipeline::audit::{Audit, Counted, audit, audit_offline};
use crate::pipeline::gaps::Accepted;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The table, as in `bronze.leads`
    #[arg(value_name = "TABLE")]
    table: TableName,
    /// Don't ask the hub which partitions it has: audit against the table's ledger alone
    #[arg(long)]
    offline: bool,
    /// `json` writes `{"table", "complete", "rows", "rejected", "filtered", "duplicates", "missing", "accepted", "partitions", …}`
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    format: Format,
}

/// Exit code 0 when the table is complete, but for gaps that were accepted; else 1.
///
/// # Errors
/// What keeps the audit from being made: no such table, storage, a hub that can't be reached.
pub async fn run(args: Args, global: &Global) -> Result<ExitCode, AnyError> {
    let project = global.load_project()?;
    let output = global.output();
    let pipeline = project.pipelines.iter().find(|pipeline| pipeline.writes(&args.table));
    let progress = Progress::new(global);
    progress.count(&format!("counting the keys of {}", args.table), "numbers");
    let counted = Counted::default();
    let auditing = async {
        match pipeline {
            Some(pipeline) if pipeline.is_live && !args.offline => {
                audit(&project, pipeline, &args.table, &counted).await
            }
            Some(pipeline) => audit_offline(&project, &args.table, pipeline.source.dense, &counted).await,
            None => {
                let mut audited = audit_offline(&project, &args.table, true, &counted).await?;
                audited.notes.push("no pipeline of the project writes this table".to_owned());
                Ok(audited)
            }
        }
    };
    let audited = progress.follow(auditing, || counted.headway()).await?;
    progress.clear();
    match args.format {
        Format::Json => output.json(&audited)?,
        Format::Text => output.line(words(&audited))?,
    }
    Ok(if audited.complete { Exit::Well } else { Exit::Failed }.into())
}

/// The verdict as a person reads it.
fn words(audit: &Audit) -> String {
    let verdict = if audit.complete { "complete" } else { "NOT COMPLETE" };
    let mut text = format!(
        "{}: {verdict} at version {}: {} rows, {} rejected, {} filtered, {} duplicates, {} missing{}\n",
        audit.table,
        audit.version,
        audit.rows,
        audit.rejected,
        audit.filtered,
        audit.duplicates,
        audit.missing,
        if audit.accepted > 0 { format!(", {} accepted as missing", audit.accepted) } else { String::new() }
    );
    for problem in &audit.problems {
        text.push_str(&format!("  {problem}\n"));
    }
    for partition in &audit.partitions {
        for gap in &partition.accepted {
            let Accepted { by, at, why } = &gap.accepted;
            let (by, why) = (fit_for_a_screen(by), fit_for_a_screen(why));
            text.push_str(&format!(
                "  accepted: partition `{}/{}`: [{}, {}), by {by} at {at}: {why}\n",
                partition.source, partition.partition, gap.from, gap.to
            ));
        }
    }
    for note in &audit.notes {
        text.push_str(&format!("  note: {note}\n"));
    }
    if !audit.partitions.is_empty() {
        text.push_str(&format!("\n{}", partitions(audit)));
    }
    text.trim_end().to_owned()
}

fn partitions(audit: &Audit) -> Table {
    let mut table =
        plain_table(["source", "partition", "covered", "rows", "rejected", "filtered", "duplicates", "missing"]);
    for partition in &audit.partitions {
        let ranges: Vec<String> = partition.ranges.iter().map(|(from, to)| format!("[{from}, {to})")).collect();
        let ranges = if ranges.is_empty() { "nothing".to_owned() } else { ranges.join(" ") };
        let numbers =
            [partition.rows, partition.rejected, partition.filtered, partition.duplicates, partition.missing_count];
        let cells = [partition.source.clone(), partition.partition.clone(), ranges];
        table.add_row(cells.into_iter().chain(numbers.map(|number| number.to_string())));
    }
    for column in table.column_iter_mut().skip(3) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}
