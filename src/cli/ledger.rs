//! `sluice ledger`: what a table accounts for, as its log holds it.

use std::process::ExitCode;

use chrono::{DateTime, SecondsFormat};
use comfy_table::CellAlignment;
use serde::Serialize;

use super::rows::{or_dash, plain_table};
use super::{Exit, Format, Global};
use crate::catalog::{Catalog, CatalogError, table_location};
use crate::checkpoint::{Counter, PartitionKey, PartitionLedger};
use crate::config::spec::TableName;
use crate::error::AnyError;
use crate::sink::delta::ledger::{ReadLedger, read_ledger};
use crate::storage::Location;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The table, as in `bronze.leads`
    #[arg(value_name = "TABLE")]
    table: TableName,
    /// `json` writes `{"table", "table_id", "version", "sources": […], "partitions": […]}`
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    format: Format,
}

/// The shape that scripts read: fields may be added, never renamed or removed.
#[derive(Debug, Serialize)]
struct Shown {
    table: String,
    table_id: String,
    version: u64,
    sources: Vec<ShownSource>,
    partitions: Vec<ShownPartition>,
}

#[derive(Debug, Serialize)]
struct ShownSource {
    source: String,
    /// When the hub was made, RFC 3339.
    created_at: Option<String>,
}

#[derive(Debug, Serialize)]
struct ShownPartition {
    source: String,
    partition: String,
    /// The next number to read.
    position: Option<i64>,
    ranges: Vec<ShownRange>,
    rejected: i64,
    filtered: i64,
    erased: i64,
    expired: i64,
    events: i64,
}

#[derive(Debug, Serialize)]
struct ShownRange {
    from: i64,
    to: i64,
    /// When its last event was enqueued, RFC 3339.
    last_enqueued_at: Option<String>,
}

/// # Errors
/// No such table, and errors of storage.
pub async fn run(args: Args, global: &Global) -> Result<ExitCode, AnyError> {
    let project = global.load_project()?;
    let output = global.output();
    let lake = Location::resolve(&project.lake.url, project.storage_azure.as_ref())?;
    let name = args.table.to_string();
    let Some(read) = read_ledger(&table_location(&lake, &args.table), &name).await? else {
        let known = Catalog::new(&lake).tables().await?.iter().map(ToString::to_string).collect();
        return Err(CatalogError::Unknown { table: name, known }.into());
    };
    let shown = Shown::of(name, &read);
    match args.format {
        Format::Json => output.json(&shown)?,
        Format::Text => output.line(words(&shown))?,
    }
    Ok(Exit::Well.into())
}

impl Shown {
    fn of(table: String, read: &ReadLedger) -> Self {
        let sources = read
            .ledger
            .sources()
            .map(|(source, created)| ShownSource { source: source.to_string(), created_at: rfc3339(created) });
        Self {
            table,
            table_id: read.table_id.clone(),
            version: read.version,
            sources: sources.collect(),
            partitions: read.ledger.partitions().map(|(key, held)| ShownPartition::of(key, held)).collect(),
        }
    }
}

impl ShownPartition {
    fn of(key: &PartitionKey, held: &PartitionLedger) -> Self {
        let ranges = held.ranges().map(|range| ShownRange {
            from: range.from,
            to: range.to,
            last_enqueued_at: held.last_enqueued_at(range.from).and_then(rfc3339),
        });
        Self {
            source: key.source.to_string(),
            partition: key.partition.to_string(),
            position: held.position(i64::MIN),
            ranges: ranges.collect(),
            rejected: held.counter(Counter::Rejected),
            filtered: held.counter(Counter::Filtered),
            erased: held.counter(Counter::Erased),
            expired: held.counter(Counter::Expired),
            events: held.counter(Counter::Events),
        }
    }
}

/// Epoch milliseconds as RFC 3339 with `Z`.
fn rfc3339(epoch_ms: i64) -> Option<String> {
    Some(DateTime::from_timestamp_millis(epoch_ms)?.to_rfc3339_opts(SecondsFormat::Millis, true))
}

fn words(shown: &Shown) -> String {
    let mut text = format!("{} at version {}, table id {}\n", shown.table, shown.version, shown.table_id);
    for source in &shown.sources {
        let made = source.created_at.as_deref().unwrap_or("a time unknown");
        text.push_str(&format!("{} was made at {made}\n", source.source));
    }
    if shown.partitions.is_empty() {
        text.push_str("no partition has been read yet");
        return text;
    }
    let mut table = plain_table(["source", "partition", "from", "to", "last enqueued", "counters"]);
    for partition in &shown.partitions {
        for (at, range) in partition.ranges.iter().enumerate() {
            // Counters are of the partition, not of a range.
            let counters = if at == 0 { counters(partition) } else { String::new() };
            table.add_row([
                partition.source.clone(),
                partition.partition.clone(),
                range.from.to_string(),
                range.to.to_string(),
                or_dash(range.last_enqueued_at.as_ref()),
                counters,
            ]);
        }
    }
    for column in table.column_iter_mut().skip(2).take(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    text.push_str(&format!("\n{table}"));
    text
}

/// Those that aren't zero.
fn counters(partition: &ShownPartition) -> String {
    let all = [
        ("rejected", partition.rejected),
        ("filtered", partition.filtered),
        ("erased", partition.erased),
        ("expired", partition.expired),
        ("events", partition.events),
    ];
    let counted: Vec<String> =
        all.iter().filter(|(_, count)| *count != 0).map(|(name, count)| format!("{count} {name}")).collect();
    counted.join(", ")
}
