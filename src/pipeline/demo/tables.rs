//! What lies in the demo's tables afterwards.

use arrow::array::{AsArray as _, RecordBatch};
use arrow::datatypes::Int64Type;
use futures::TryStreamExt as _;

use super::DemoError;
use crate::catalog::log::{log_store, read_head};
use crate::catalog::{CatalogError, scan, table_location};
use crate::config::spec::ProjectSpec;
use crate::pipeline::setup::Places;

/// The tables whose first rows are shown: a few columns, such that they fit a terminal, and their order.
const SHOWN: [(&str, &str, &str); 5] = [
    (
        "bronze.leads",
        "_event_type, channel, prospect['town'] AS town, quote, score, reason, _partition, _sequence_number",
        "_partition, _sequence_number",
    ),
    ("silver.leads", "product_code, channel, quote, status, generated_at, failure_reason, sold_at", "generated_at"),
    (
        "gold.conversion_funnel",
        "product_code, day, leads, quoted, open, abandoned, failed, converted, round(conversion_rate, 2) AS rate",
        "leads DESC, day, product_code",
    ),
    (
        "gold.abandoned_leads",
        "product_code, status, quote, generated_at, given_name, family_name, email",
        "score DESC, lead_id",
    ),
    ("gold.revenue_by_product", "product_code, month, sales, premiums, commissions", "premiums DESC, product_code"),
];
const ROWS_SHOWN: usize = 3;

const LAYERS: [&str; 3] = ["bronze", "silver", "gold"];

/// A table of the demo.
#[derive(Debug)]
pub struct Table {
    pub name: String,
    pub rows: u64,
    /// The first rows, of a table that is shown.
    pub first: Vec<RecordBatch>,
}

/// Counts the table of each pipeline and of each transform, and takes the first rows of some.
///
/// # Errors
/// When a table can't be read.
pub async fn tables(project: &ProjectSpec) -> Result<Vec<Table>, DemoError> {
    let places = Places::of(project).map_err(|source| DemoError::Pipeline(Box::new(source)))?;
    let of_pipelines = project.pipelines.iter().map(|pipeline| &pipeline.sink.table);
    let of_transforms = project.transforms.iter().map(|transform| &transform.table);
    let mut names: Vec<_> = of_pipelines.chain(of_transforms).collect();
    names.sort_by_key(|table| LAYERS.iter().position(|layer| *layer == table.schema));
    let mut tables = Vec::new();
    for table in names {
        let name = table.to_string();
        let store = log_store(&table_location(&places.lake, table))?;
        if read_head(&store).await?.is_none() {
            continue;
        }
        let select = async |sql: &str| {
            let rows = scan::scan(&store, sql).await?.try_collect::<Vec<RecordBatch>>().await;
            rows.map_err(|source| CatalogError::Query { table: name.clone(), source: Box::new(source) })
        };
        let rows = number(&select("SELECT count(*) AS rows FROM t").await?);
        let first = match SHOWN.iter().find(|(shown, _, _)| *shown == name) {
            Some((_, columns, order)) => {
                select(&format!("SELECT {columns} FROM t ORDER BY {order} LIMIT {ROWS_SHOWN}")).await?
            }
            None => Vec::new(),
        };
        tables.push(Table { rows, first, name });
    }
    Ok(tables)
}

fn number(rows: &[RecordBatch]) -> u64 {
    let column = rows.first().and_then(|batch| batch.column(0).as_primitive_opt::<Int64Type>());
    column.filter(|column| !column.is_empty()).and_then(|column| u64::try_from(column.value(0)).ok()).unwrap_or(0)
}
