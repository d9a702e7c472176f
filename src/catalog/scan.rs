//! Rows of one table as a stream of batches.

use std::sync::Arc;

use datafusion::execution::SendableRecordBatchStream;
use datafusion::prelude::SessionContext;
use deltalake::DeltaTable;
use deltalake::logstore::LogStoreRef;

use super::CatalogError;
use super::filling::Filling;
use super::log::table_url;
use super::query::bounded_session;

/// Runs `sql` over the head of the table, which it names `t`, and gives its rows as they come.
///
/// # Errors
/// [`CatalogError::Delta`] when the table can't be opened, [`CatalogError::Query`] when it can't be read.
pub async fn scan(log_store: &LogStoreRef, sql: &str) -> Result<SendableRecordBatchStream, CatalogError> {
    let name = table_url(log_store).to_string();
    let failed = |source| CatalogError::Delta { table: name.clone(), source: Box::new(source) };
    let mut table = DeltaTable::new(Arc::clone(log_store));
    table.load().await.map_err(failed)?;
    let query = async {
        let provider = Arc::new(Filling(Arc::new(table.table_provider().build().await?)));
        let session = SessionContext::new();
        session.register_table("t", provider)?;
        session.sql(sql).await?.execute_stream().await
    };
    query.await.map_err(|source| CatalogError::Query { table: name.clone(), source: Box::new(source) })
}

/// As [`scan`], at a version, within a bound of memory for what the query gathers.
///
/// # Errors
/// [`CatalogError::Query`]
pub async fn scan_at(
    log_store: &LogStoreRef,
    version: u64,
    sql: &str,
    memory_bytes: usize,
) -> Result<SendableRecordBatchStream, CatalogError> {
    let query = async {
        let table = DeltaTable::new(Arc::clone(log_store));
        let provider = table.table_provider().with_table_version(version).build().await?;
        let provider = Arc::new(Filling(Arc::new(provider)));
        let session = bounded_session(memory_bytes)?;
        session.register_table("t", provider)?;
        session.sql(sql).await?.execute_stream().await
    };
    query
        .await
        .map_err(|source| CatalogError::Query { table: table_url(log_store).to_string(), source: Box::new(source) })
}
