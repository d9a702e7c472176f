//! The run log: a row for each run of a transform that did something or failed, in `sluice.runs`.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields, Schema};
use arrow::json::ReaderBuilder;
use chrono::{DateTime, Utc};
use deltalake::protocol::SaveMode;
use serde::Serialize;
use serde_json::json;

use super::TransformError;
use super::engine::Report;
use super::output::{Output, write};
use crate::batch::bronze;
use crate::catalog::rewrite::{Change, Kind};
use crate::catalog::tables::Tables;
use crate::config::spec::{OWN_SCHEMA, TableName, TransformSpec};

/// Longer than this and an error is cut: it may hold a whole plan.
const LONGEST_ERROR_CHARS: usize = 4_000;

/// How often a row is planned again since somebody else's went first.
const TRIES: u32 = 20;

/// The table that holds the runs of all transforms of a lake.
pub fn table() -> TableName {
    TableName { schema: OWN_SCHEMA.to_owned(), table: "runs".to_owned() }
}

#[derive(Serialize)]
struct Row<'a> {
    run_id: &'a str,
    transform: String,
    owner: &'a str,
    mode: &'static str,
    started_at: DateTime<Utc>,
    ended_at: DateTime<Utc>,
    outcome: &'static str,
    versions_read: Vec<VersionsRead<'a>>,
    versions_written: &'a [u64],
    rows_in: Option<u64>,
    rows_out: u64,
    expectations: Vec<Violated<'a>>,
    error: Option<String>,
}

#[derive(Serialize)]
struct VersionsRead<'a> {
    input: &'a str,
    streamed: bool,
    from_version: Option<u64>,
    to_version: u64,
}

#[derive(Serialize)]
struct Violated<'a> {
    name: &'a str,
    on_violation: &'static str,
    rows: u64,
}

fn schema() -> Schema {
    let field = |name: &str, kind: DataType| Field::new(name, kind, true);
    let text = |name: &str| field(name, DataType::Utf8);
    let number = |name: &str| field(name, DataType::Int64);
    let list = |name: &str, of: DataType| field(name, DataType::List(Arc::new(Field::new("element", of, true))));
    let read = vec![text("input"), field("streamed", DataType::Boolean), number("from_version"), number("to_version")];
    let violated = vec![text("name"), text("on_violation"), number("rows")];
    Schema::new(vec![
        text("run_id"),
        text("transform"),
        text("owner"),
        text("mode"),
        field("started_at", bronze::timestamp()),
        field("ended_at", bronze::timestamp()),
        text("outcome"),
        list("versions_read", DataType::Struct(Fields::from(read))),
        list("versions_written", DataType::Int64),
        number("rows_in"),
        number("rows_out"),
        list("expectations", DataType::Struct(Fields::from(violated))),
        text("error"),
    ])
}

/// Writes what a run did. Runs that found nothing new leave no row.
///
/// # Errors
/// Errors of storage: the run itself stands as it is.
pub async fn record(tables: &Tables, spec: &TransformSpec, report: &Report) -> Result<(), TransformError> {
    let error = report.error.as_ref().map(|error| chain(error).chars().take(LONGEST_ERROR_CHARS).collect());
    let row = Row {
        run_id: &report.run_id,
        transform: report.table.to_string(),
        owner: &spec.owner,
        mode: spec.mode.as_str(),
        started_at: report.started_at,
        ended_at: report.ended_at,
        outcome: report.outcome().as_str(),
        versions_read: report
            .read
            .iter()
            .map(|(input, read)| VersionsRead {
                input,
                streamed: read.is_streamed,
                from_version: read.from,
                to_version: read.to,
            })
            .collect(),
        versions_written: &report.committed,
        rows_in: report.rows_in,
        rows_out: report.rows_out,
        expectations: report
            .violations
            .iter()
            .map(|violated| Violated {
                name: &violated.name,
                on_violation: violated.on_violation.as_str(),
                rows: violated.rows,
            })
            .collect(),
        error,
    };
    let columns = schema();
    let mut table = Output::open_or_create(tables, &table(), &columns, &[], Vec::new()).await?;
    let note = json!({"runLog": true});
    table.follow(&columns, None, &[], &note).await?;
    for _ in 0..TRIES {
        let mut decoder = ReaderBuilder::new(Arc::clone(&table.schema)).build_decoder()?;
        decoder.serialize(std::slice::from_ref(&row))?;
        let mut writer = table.writer();
        if let Some(rows) = decoder.flush()? {
            writer.write(&rows).await?;
        }
        let change = Change {
            kind: Kind::Append,
            adds: writer.close().await?,
            removes: Vec::new(),
            transactions: Vec::new(),
            metadata: None,
            changes: Vec::new(),
            protocol: None,
            operation: write(SaveMode::Append),
            note: note.clone(),
        };
        if table.put(change).await?.is_some() {
            return Ok(());
        }
    }
    Err(TransformError::Lost { table: table.name, tries: TRIES })
}

/// An error with its causes, on one line.
pub fn chain(error: &TransformError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        let said = error.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        cause = error.source();
    }
    text
}
