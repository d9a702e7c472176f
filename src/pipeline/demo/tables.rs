//! What lies in the demo's tables afterwards.

use arrow::array::{AsArray as _, RecordBatch};
use arrow::datatypes::Int64Type;
use futures::TryStreamExt as _;

use super::DemoError;
use crate::catalog::log::log_store;
use crate::catalog::{CatalogError, scan, table_location};
use crate::config::spec::ProjectSpec;
use crate::pipeline::setup::Places;
use crate::storage::Location;

/// A few columns of each table, such that they fit a terminal; others show their first ones.
const SHOWN: [(&str, &str); 5] = [
    (
        "bronze.leads",
        "_event_type, channel, prospect['town'] AS town, quote, score, reason, _partition, _sequence_number",
    ),
    (
        "bronze.accounts",
        "_event_type, customer_number, plan, address['town'] AS town, reason, _event_time, _partition, \
         _sequence_number",
    ),
    ("bronze.contacts", "_event_type, role, email, product_code, premium, _event_time, _partition, _sequence_number"),
    ("bronze.sales", "_event_type, product_code, premium, file_name, total, _event_time, _partition, _sequence_number"),
    ("bronze.products", "product_code, version, status, base_premium, valid_from, _partition, _sequence_number"),
];
const ROWS_SHOWN: usize = 3;

/// A table of the demo.
#[derive(Debug)]
pub struct Table {
    pub name: String,
    pub rows: u64,
    /// The first rows by partition and number.
    pub first: Vec<RecordBatch>,
}

/// Counts each pipeline's table and takes its first rows.
///
/// # Errors
/// When a table can't be read.
pub async fn tables(project: &ProjectSpec) -> Result<Vec<Table>, DemoError> {
    let places = Places::of(project).map_err(|source| DemoError::Pipeline(Box::new(source)))?;
    let mut tables = Vec::new();
    for pipeline in &project.pipelines {
        let name = pipeline.sink.table.to_string();
        let location = table_location(&places.lake, &pipeline.sink.table);
        let columns = SHOWN.iter().find(|(table, _)| *table == name).map_or("*", |(_, columns)| columns);
        let first = format!("SELECT {columns} FROM t ORDER BY _partition, _sequence_number LIMIT {ROWS_SHOWN}");
        let rows = select(&location, "SELECT count(*) AS rows FROM t").await?;
        tables.push(Table { rows: number(&rows), first: select(&location, &first).await?, name });
    }
    Ok(tables)
}

async fn select(location: &Location, sql: &str) -> Result<Vec<RecordBatch>, DemoError> {
    let rows = scan::scan(&log_store(location)?, sql).await?.try_collect().await;
    Ok(rows.map_err(|source| CatalogError::Query { table: location.to_string(), source: Box::new(source) })?)
}

fn number(rows: &[RecordBatch]) -> u64 {
    let column = rows.first().and_then(|batch| batch.column(0).as_primitive_opt::<Int64Type>());
    column.filter(|column| !column.is_empty()).and_then(|column| u64::try_from(column.value(0)).ok()).unwrap_or(0)
}
