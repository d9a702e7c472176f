//! Rows that are given, not made: the inputs of users' tests.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array as _, AsArray as _, BooleanArray, RecordBatch, StringArray};
use arrow::compute::filter_record_batch;
use arrow::datatypes::Schema;
use arrow::error::ArrowError;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::execution::runtime_env::RuntimeEnv;
use deltalake::protocol::SaveMode;
use serde_json::Value;

use super::run::TransformError;
use super::run::columns::fit;
use super::run::output::{Output, write};
use super::session;
use crate::catalog::change_data::{CHANGE_TYPE, DELETE, INSERT, UPDATE_PREIMAGE, file_schema};
use crate::catalog::data_file::FilesWriter;
use crate::catalog::file_table::FileTable;
use crate::catalog::rewrite::{Change, Kind};
use crate::catalog::tables::Tables;
use crate::config::spec::TableName;

/// Rows for a table.
#[derive(Debug, Clone)]
pub enum Rows {
    Added(RecordBatch),
    /// The last column says what became of each: null is inserted.
    Changed(RecordBatch),
}

/// Makes a table with these columns, or takes the one that is there, and adds rows in a commit of their own.
///
/// # Errors
/// Errors of storage.
pub async fn give(
    tables: &Tables,
    table: &TableName,
    schema: &Schema,
    rows: Option<&RecordBatch>,
) -> Result<(), TransformError> {
    let mut output = Output::open_or_create(tables, table, schema, &[], Vec::new()).await?;
    let Some(rows) = rows else { return Ok(()) };
    let mut writer = output.writer();
    writer.write(&rows.clone().with_schema(output.schema.clone())?).await?;
    let change = Change {
        kind: Kind::Append,
        adds: writer.close().await?,
        removes: Vec::new(),
        transactions: Vec::new(),
        metadata: None,
        changes: Vec::new(),
        protocol: None,
        operation: write(SaveMode::Append),
        note: Value::Null,
    };
    output.put(change).await.map(drop)
}

/// As [`give`], for rows that may be changes: in a commit whose change feed has them all, and after which the table
/// holds what they leave. A row that goes takes one away that is the same in every column, if there is one.
///
/// # Errors
/// Errors of storage.
pub async fn give_changes(tables: &Tables, table: &TableName, changes: &RecordBatch) -> Result<(), TransformError> {
    let last = changes.num_columns().saturating_sub(1);
    let types = changes.column(last).as_string_opt::<i32>();
    let types = types.ok_or_else(|| TransformError::Internal(format!("no column `{CHANGE_TYPE}`")))?;
    let types: Vec<&str> = types.iter().map(|told| told.unwrap_or(INSERT)).collect();
    let rows = changes.project(&(0..last).collect::<Vec<_>>())?;
    if types.iter().all(|told| *told == INSERT) {
        return give(tables, table, &rows.schema(), Some(&rows)).await;
    }
    let mut output = Output::open_or_create(tables, table, &rows.schema(), &[], Vec::new()).await?;
    let rows = rows.with_schema(output.schema.clone())?;
    let goes: BooleanArray = types.iter().map(|told| Some([DELETE, UPDATE_PREIMAGE].contains(told))).collect();
    let stays = arrow::compute::not(&goes)?;
    let mut gone: HashMap<String, usize> = HashMap::new();
    for text in texts(&filter_record_batch(&rows, &goes)?)? {
        *gone.entry(text).or_default() += 1;
    }
    let files = output.files().await?;
    let mut writer = output.writer();
    for held in held(&output, &files).await? {
        let held = fit(&held, &output.schema)?;
        let kept = texts(&held)?.into_iter().map(|text| match gone.get_mut(&text).filter(|times| **times > 0) {
            Some(times) => {
                *times -= 1;
                Some(false)
            }
            None => Some(true),
        });
        writer.write(&filter_record_batch(&held, &kept.collect())?).await?;
    }
    writer.write(&filter_record_batch(&rows, &stays)?).await?;
    let schema = file_schema(&output.schema);
    let told = Arc::new(types.into_iter().map(Some).collect::<StringArray>());
    let told = RecordBatch::try_new(Arc::clone(&schema), rows.columns().iter().cloned().chain([told as _]).collect())?;
    let mut feed = FilesWriter::of_changes(output.log.store(), &schema, &[]);
    feed.write(&told).await?;
    let change = Change {
        kind: Kind::Rewrite,
        adds: writer.close().await?,
        removes: files.iter().map(|file| file.remove(true)).collect(),
        transactions: Vec::new(),
        metadata: None,
        changes: feed.close().await?,
        protocol: None,
        operation: write(SaveMode::Append),
        note: Value::Null,
    };
    output.put(change).await.map(drop)
}

async fn held(
    output: &Output,
    files: &[crate::catalog::state::ActiveFile],
) -> Result<Vec<RecordBatch>, TransformError> {
    if files.is_empty() {
        return Ok(Vec::new());
    }
    let session = session(Arc::new(RuntimeEnv::default()));
    let table = FileTable::open(&session, output.log.store(), &output.schema, &[], files)?;
    Ok(session.read_table(table)?.collect().await?)
}

/// Each row as text, by which it is known again.
fn texts(rows: &RecordBatch) -> Result<Vec<String>, ArrowError> {
    let options = FormatOptions::default();
    let columns = rows.columns().iter().map(|column| Ok((column, ArrayFormatter::try_new(column.as_ref(), &options)?)));
    let columns = columns.collect::<Result<Vec<_>, ArrowError>>()?;
    let text = |row: usize| {
        let cells = columns.iter().map(|(column, format)| {
            let cell = format.value(row).try_to_string()?;
            Ok(if column.is_null(row) { "-".to_owned() } else { format!("{}:{cell}", cell.len()) })
        });
        cells.collect::<Result<String, ArrowError>>()
    };
    (0..rows.num_rows()).map(text).collect()
}
