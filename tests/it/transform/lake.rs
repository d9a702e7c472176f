//! A project with transforms in a temporary folder, whose inputs are written in this process.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use deltalake::protocol::SaveMode;
use futures::TryStreamExt as _;
use serde_json::{Value, json};
use sluicebox::catalog::Catalog;
use sluicebox::catalog::query::query;
use sluicebox::catalog::rewrite::{Change, Kind};
use sluicebox::catalog::tables::Tables;
use sluicebox::config::spec::{ProjectSpec, TableName};
use sluicebox::config::{self, LoadOptions};
use sluicebox::pipeline::transforms::{TransformOptions, TransformSummary, Transforms};
use sluicebox::shutdown::Shutdown;
use sluicebox::storage::Location;
use sluicebox::transform::run::engine::Refresh;
use sluicebox::transform::run::output::{Output, write};

const PROJECT: &str = "[project]\nname = \"insurer\"\nteams = [\"conversions\"]\n\n[lake]\nurl = \"lake\"\n";

/// One event of an input: key, place in time, what it says, how much.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Event {
    pub id: Option<String>,
    pub seq: i64,
    pub status: Option<String>,
    pub amount: Option<i64>,
}

pub fn event(id: &str, seq: i64, status: &str, amount: i64) -> Event {
    Event { id: Some(id.to_owned()), seq, status: Some(status.to_owned()), amount: Some(amount) }
}

pub struct Lake {
    pub folder: tempfile::TempDir,
    pub options: TransformOptions,
}

pub fn name(table: &str) -> TableName {
    table.parse().expect("a table's name")
}

fn columns() -> Schema {
    Schema::new(vec![
        Field::new("id", DataType::Utf8, true),
        Field::new("seq", DataType::Int64, true),
        Field::new("status", DataType::Utf8, true),
        Field::new("amount", DataType::Int64, true),
    ])
}

impl Lake {
    /// Transforms as `(table, keys of its declaration, SQL)`.
    pub fn new(transforms: &[(&str, &str, &str)]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        fs::write(folder.path().join("sluice.toml"), PROJECT).expect("the project is written");
        let lake = Self { folder, options: TransformOptions::default() };
        lake.declare(transforms);
        lake
    }

    pub fn declare(&self, transforms: &[(&str, &str, &str)]) {
        let dir = self.folder.path();
        fs::create_dir_all(dir.join("pipelines")).expect("a folder");
        fs::create_dir_all(dir.join("sql")).expect("a folder");
        let mut declared = String::new();
        for (table, keys, sql) in transforms {
            fs::write(dir.join(format!("sql/{table}.sql")), sql).expect("the SQL is written");
            declared += &format!(
                "[[transform]]\ntable = \"{table}\"\nowner = \"conversions\"\nsql = \"sql/{table}.sql\"\n{keys}\n"
            );
        }
        fs::write(dir.join("pipelines/transforms.toml"), declared).expect("the transforms are written");
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    pub fn project(&self) -> ProjectSpec {
        let options = LoadOptions { project: Some(self.path().to_owned()), env: None };
        config::load_with(&options, &|_| None).unwrap_or_else(|errors| panic!("{errors:?}"))
    }

    pub fn location(&self) -> Location {
        Location::resolve(&self.project().lake.url, None).expect("a folder has a location")
    }

    /// A commit with these events.
    pub async fn append(&self, table: &str, events: &[Event]) -> u64 {
        let text =
            |of: fn(&Event) -> Option<&str>| Arc::new(events.iter().map(of).collect::<StringArray>()) as ArrayRef;
        let rows = RecordBatch::try_new(
            Arc::new(columns()),
            vec![
                text(|event| event.id.as_deref()),
                Arc::new(events.iter().map(|event| Some(event.seq)).collect::<Int64Array>()),
                text(|event| event.status.as_deref()),
                Arc::new(events.iter().map(|event| event.amount).collect::<Int64Array>()),
            ],
        )
        .expect("the arrays fit their schema");
        self.append_rows(table, &rows, json!({})).await
    }

    pub async fn append_rows(&self, table: &str, rows: &RecordBatch, note: Value) -> u64 {
        let schema = rows.schema();
        let mut output = Output::open_or_create(&Tables::new(&self.location()), &name(table), &schema, &[], Vec::new())
            .await
            .expect("the input can be opened");
        let more = schema.fields().iter().filter(|field| output.schema.field_with_name(field.name()).is_err());
        let wider = Schema::new(output.schema.fields().iter().chain(more).cloned().collect::<Vec<_>>());
        output.follow(&wider, None, &[], &note).await.expect("columns can be added");
        let mut writer = output.writer();
        let rows = sluicebox::transform::run::columns::fit(rows, &output.schema).expect("the rows fit");
        writer.write(&rows).await.expect("rows can be encoded");
        let change = Change {
            kind: Kind::Append,
            adds: writer.close().await.expect("files can be stored"),
            removes: Vec::new(),
            transactions: Vec::new(),
            metadata: None,
            changes: Vec::new(),
            protocol: None,
            operation: write(SaveMode::Append),
            note,
        };
        output.put(change).await.expect("the log is there").expect("nobody else writes")
    }

    pub async fn run_with(&self, refresh: Refresh) -> Vec<TransformSummary> {
        let transforms =
            Transforms::open(&self.project(), &self.options, Shutdown::new()).expect("the SQL can be read");
        transforms.run_once(&transforms.select(&[]).expect("all are there"), refresh).await
    }

    /// One run of all transforms, none of which fails.
    pub async fn run(&self) -> Vec<TransformSummary> {
        let summaries = self.run_with(Refresh::No).await;
        for summary in &summaries {
            assert!(summary.failure.is_none(), "{summary:?}");
        }
        summaries
    }

    /// Rows of a query as JSON objects, in an order of their own.
    pub async fn rows(&self, sql: &str) -> Vec<String> {
        let catalog = Catalog::new(&self.location());
        let rows = query(&catalog, sql, 1 << 28).await.unwrap_or_else(|error| panic!("{error}: {sql}"));
        let batches: Vec<RecordBatch> = rows.try_collect().await.expect("the rows can be read");
        let mut text = Vec::new();
        let mut writer = arrow::json::LineDelimitedWriter::new(&mut text);
        batches.iter().for_each(|batch| writer.write(batch).expect("rows have a JSON form"));
        writer.finish().expect("rows have a JSON form");
        drop(writer);
        let mut lines: Vec<String> =
            String::from_utf8(text).expect("JSON is text").lines().map(str::to_owned).collect();
        lines.sort();
        lines
    }

    pub async fn count(&self, table: &str) -> usize {
        let rows = self.rows(&format!("SELECT count(*) AS n FROM {table}")).await;
        let row: Value = serde_json::from_str(&rows[0]).expect("a row is JSON");
        usize::try_from(row["n"].as_u64().expect("a count is a number")).expect("counts are small")
    }

    pub async fn head(&self, table: &str) -> Output {
        let opened = Output::open(&Tables::new(&self.location()), &name(table)).await;
        opened.expect("the table can be opened").expect("there is a table")
    }
}
