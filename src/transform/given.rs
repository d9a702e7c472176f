//! Rows that are given, not made: the inputs of users' tests.

use arrow::array::RecordBatch;
use arrow::datatypes::Schema;
use deltalake::protocol::SaveMode;
use serde_json::Value;

use super::run::TransformError;
use super::run::output::{Output, write};
use crate::catalog::rewrite::{Change, Kind};
use crate::catalog::tables::Tables;
use crate::config::spec::TableName;

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
        operation: write(SaveMode::Append),
        note: Value::Null,
    };
    output.put(change).await.map(drop)
}
