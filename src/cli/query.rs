//! `sluice query`: ask the tables, in SQL.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Arc;

use arrow::error::ArrowError;
use bytesize::ByteSize;
use clap::ValueEnum;
use comfy_table::{ContentArrangement, Table, presets};
use datafusion::execution::SendableRecordBatchStream;
use futures::TryStreamExt as _;

use super::rows::{self, JsonRows};
use super::{Exit, Global, Output};
use crate::catalog::Catalog;
use crate::catalog::query::{QueryError, query};
use crate::catalog::sql::SqlProblem;
use crate::config::spec::TableName;
use crate::config::{ConfigErrors, Place, Problem, SourceFile};
use crate::error::{AnyError, Classify, Kind};
use crate::storage::Location;

/// How many rows a table shows unless told otherwise: it is laid out as a whole, in memory.
const ROWS_SHOWN: u64 = 1_000;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// One SELECT, SHOW TABLES, DESCRIBE or EXPLAIN; tables are `schema.table`, or at a version
    /// `schema."table@v12"`
    #[arg(value_name = "SQL")]
    sql: String,
    /// `json` writes an array of row objects
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    format: RowFormat,
    /// Stop after so many rows; a table stops after 1000 unless told otherwise
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    /// Read a table as it was at a version; may be given for several
    #[arg(long, value_name = "TABLE=N", value_parser = pinned)]
    version_as_of: Vec<(TableName, u64)>,
    /// What sorts, joins and groups may hold in memory; beyond it they go to temporary files
    #[arg(long, value_name = "SIZE", default_value = "512MiB")]
    memory: ByteSize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
enum RowFormat {
    #[default]
    Table,
    Json,
    Csv,
}

/// What came back can't be written in the form that was asked for.
#[derive(Debug, thiserror::Error)]
enum FormatError {
    #[error("two columns are named `{0}`")]
    DoubledName(String),
    #[error("a column has no {form}")]
    Value { form: &'static str, source: ArrowError },
}

impl Classify for FormatError {
    fn kind(&self) -> Kind {
        Kind::User
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::DoubledName(_) => Some("name one of them otherwise: `… AS other_name`".to_owned()),
            Self::Value { .. } => Some("`CAST(column AS VARCHAR)` gives its text".to_owned()),
        }
    }
}

/// # Errors
/// Wrong SQL, with its place; tables that can't be read.
pub async fn run(args: Args, global: &Global) -> Result<ExitCode, AnyError> {
    let project = global.load_project()?;
    let output = global.output();
    let lake = Location::resolve(&project.lake.url, project.storage_azure.as_ref())?;
    let catalog = Catalog::new(&lake).pinned(BTreeMap::from_iter(args.version_as_of));
    let memory = usize::try_from(args.memory.as_u64()).unwrap_or(usize::MAX);
    let rows = match query(&catalog, &args.sql, memory).await {
        Ok(rows) => rows,
        Err(QueryError::Sql(problems)) => return Err(placed(problems, &args.sql).into()),
        Err(error) => return Err(error.into()),
    };
    match args.format {
        RowFormat::Json => json(rows, args.limit, &output).await?,
        RowFormat::Csv => csv(rows, args.limit, &output).await?,
        RowFormat::Table => table(rows, args.limit, &output).await?,
    }
    Ok(Exit::Well.into())
}

async fn json(rows: SendableRecordBatchStream, limit: Option<u64>, output: &Output) -> Result<(), AnyError> {
    if let Some(name) = rows::doubled_name(&rows.schema()) {
        return Err(FormatError::DoubledName(name.to_owned()).into());
    }
    let mut written = JsonRows::default();
    let mut rows = Limited::new(rows, limit);
    while let Some(batch) = rows.next().await? {
        let bytes = written.batch(&batch).map_err(|source| FormatError::Value { form: "JSON", source })?;
        output.bytes(&bytes)?;
    }
    output.bytes(written.finish())?;
    Ok(())
}

async fn csv(rows: SendableRecordBatchStream, limit: Option<u64>, output: &Output) -> Result<(), AnyError> {
    output.bytes(&rows::csv_header(&rows.schema()))?;
    let mut rows = Limited::new(rows, limit);
    while let Some(batch) = rows.next().await? {
        output.bytes(&rows::csv(&batch).map_err(|source| FormatError::Value { form: "text", source })?)?;
    }
    Ok(())
}

async fn table(rows: SendableRecordBatchStream, limit: Option<u64>, output: &Output) -> Result<(), AnyError> {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_FULL_CONDENSED).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(rows.schema().fields().iter().map(|field| field.name().clone()));
    let shown = limit.unwrap_or(ROWS_SHOWN);
    let mut count = 0;
    // One more than is shown tells whether there are more.
    let mut rows = Limited::new(rows, Some(shown.saturating_add(1)));
    while let Some(batch) = rows.next().await? {
        for row in rows::shown(&batch).map_err(|source| FormatError::Value { form: "text", source })? {
            count += 1;
            if count <= shown {
                table.add_row(row);
            }
        }
    }
    output.line(table.to_string())?;
    if count > shown && limit.is_none() {
        output.say(format!("the first {shown} rows: `--limit` shows more, `--format json` or `csv` all"));
    }
    Ok(())
}

/// Rows up to a limit; what comes after isn't read.
struct Limited {
    rows: SendableRecordBatchStream,
    left: u64,
}

impl Limited {
    fn new(rows: SendableRecordBatchStream, limit: Option<u64>) -> Self {
        Self { rows, left: limit.unwrap_or(u64::MAX) }
    }

    async fn next(&mut self) -> Result<Option<arrow::array::RecordBatch>, QueryError> {
        if self.left == 0 {
            return Ok(None);
        }
        let Some(batch) = self.rows.try_next().await.map_err(QueryError::of_rows)? else { return Ok(None) };
        let kept = usize::try_from(self.left).unwrap_or(usize::MAX).min(batch.num_rows());
        self.left -= kept as u64;
        Ok(Some(batch.slice(0, kept)))
    }
}

/// Mistakes of the SQL, shown as those of the project's files are: the line, a caret, a hint.
fn placed(problems: Vec<SqlProblem>, sql: &str) -> ConfigErrors {
    let file = Arc::new(SourceFile { name: "SQL".to_owned(), shown: sql.to_owned() });
    let place = |bytes| Place { file: Arc::clone(&file), bytes };
    let problems = problems.into_iter().map(|problem| Problem {
        place: problem.place.map(place),
        message: problem.message,
        hint: problem.hint,
    });
    ConfigErrors { dir: None, problems: problems.collect() }
}

fn pinned(text: &str) -> Result<(TableName, u64), String> {
    let wrong = || format!("`{text}` is not of the form `schema.table=version`, as in `bronze.leads=12`");
    let (table, version) = text.split_once('=').ok_or_else(wrong)?;
    Ok((table.parse()?, version.parse().map_err(|_| wrong())?))
}
