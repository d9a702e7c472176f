//! The Delta log of a table at its head: version, metadata, protocol, and every `txn`; its checkpoints.
//!
//! The only file that knows the kernel (`buoyant_kernel`, whose `internal-api` it needs: no
//! public call of delta-rs enumerates app ids). Only the `txn` column of a checkpoint is read,
//! and the newest action of an app id wins.

use std::collections::HashMap;
use std::time::Duration;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::Int64Type;
use buoyant_kernel as kernel;
use deltalake::DeltaTableBuilder;
use deltalake::kernel::{Metadata, Protocol};
use deltalake::logstore::LogStoreRef;
use url::Url;

use kernel::engine::arrow_data::EngineDataArrowExt;
use kernel::table_properties::TableProperties;

use super::CatalogError;
use crate::storage::Location;

pub use kernel::expressions::Scalar;
pub use kernel::table_properties::DataSkippingNumIndexedCols;

/// A date (days since 1970) as the value of a partition column.
pub fn date_value(days: Option<i32>) -> Scalar {
    days.map_or(Scalar::Null(kernel::schema::DataType::DATE), Scalar::Date)
}

/// The head of a table's log.
#[derive(Debug, Clone)]
pub struct TableHead {
    pub version: u64,
    pub metadata: Metadata,
    pub protocol: Protocol,
    /// App id to version, of every `txn` in the log.
    pub transactions: HashMap<String, i64>,
}

/// Opens the log store of the table at `location`; the table need not be there yet.
///
/// # Errors
/// [`CatalogError::Storage`], [`CatalogError::Delta`]
pub fn log_store(location: &Location) -> Result<LogStoreRef, CatalogError> {
    deltalake::azure::register_handlers(None);
    location.make()?;
    DeltaTableBuilder::from_url(location.url().clone())
        .map(|builder| builder.with_storage_options(location.options().clone()))
        .and_then(|builder| builder.build_storage())
        .map_err(|source| CatalogError::Delta { table: location.to_string(), source: Box::new(source) })
}

/// Opens the log store of a table that is there, or finds that there is none. Makes nothing.
///
/// # Errors
/// [`CatalogError::Delta`]
pub async fn log_store_to_read(location: &Location) -> Result<Option<LogStoreRef>, CatalogError> {
    if !may_hold_table(location) {
        return Ok(None);
    }
    let log_store = log_store(location)?;
    Ok(holds_table(&log_store).await?.then_some(log_store))
}

/// Whether opening a log store there would make a folder that nobody asked for: no, where a table may be.
pub fn may_hold_table(location: &Location) -> bool {
    location.folder().is_none_or(|folder| folder.join("_delta_log").is_dir())
}

async fn holds_table(log_store: &LogStoreRef) -> Result<bool, CatalogError> {
    let is_there = log_store.is_delta_table_location().await;
    is_there.map_err(|source| CatalogError::Delta { table: table_url(log_store).to_string(), source: Box::new(source) })
}

/// The URL of a table's folder, with the slash at its end that the kernel wants.
pub fn table_url(log_store: &LogStoreRef) -> Url {
    let mut url = log_store.config().location().clone();
    if !url.path().ends_with('/') {
        url.set_path(&format!("{}/", url.path()));
    }
    url
}

/// Reads the head of the log, or nothing where there is no table.
///
/// Costs O(commits since the last checkpoint); for the start of a run, not for each commit.
///
/// # Errors
/// [`CatalogError::Delta`], [`CatalogError::Kernel`]
pub async fn read_head(log_store: &LogStoreRef) -> Result<Option<TableHead>, CatalogError> {
    let table = table_url(log_store).to_string();
    // The kernel would tell of a table that isn't there yet as of an error.
    if !holds_table(log_store).await? {
        return Ok(None);
    }
    let engine = log_store.engine(None);
    let url = table_url(log_store);
    let read = tokio::task::spawn_blocking(move || -> Result<TableHead, kernel::Error> {
        let snapshot = kernel::Snapshot::builder_for(url).build(engine.as_ref())?;
        let mut transactions = HashMap::new();
        let actions = snapshot.log_segment().read_actions(engine.as_ref(), kernel::actions::LOG_TXN_SCHEMA.clone())?;
        for batch in actions {
            collect_transactions(&batch?.actions.try_into_record_batch()?, &mut transactions);
        }
        let configuration = snapshot.table_configuration();
        Ok(TableHead {
            version: snapshot.version(),
            metadata: configuration.metadata().clone(),
            protocol: configuration.protocol().clone(),
            transactions,
        })
    });
    let head = read.await.expect("reading a log neither panics nor is aborted");
    head.map(Some).map_err(|source| CatalogError::Kernel { table, source: Box::new(source) })
}

/// Writes a checkpoint of the table at `version`, or finds that there is one. It is there whole or not
/// at all, and what `_last_checkpoint` says never goes back.
///
/// Costs O(files); nothing of it is on the path of a commit.
///
/// # Errors
/// [`CatalogError::Kernel`], also where the log has that version no more.
pub async fn write_checkpoint(log_store: &LogStoreRef, version: u64) -> Result<(), CatalogError> {
    let engine = log_store.engine(None);
    let url = table_url(log_store);
    let table = url.to_string();
    let written = tokio::task::spawn_blocking(move || -> Result<(), kernel::Error> {
        let snapshot = kernel::Snapshot::builder_for(url).at_version(version).build(engine.as_ref())?;
        snapshot.checkpoint(engine.as_ref(), None).map(drop)
    });
    let written = written.await.expect("writing a checkpoint neither panics nor is aborted");
    written.map_err(|source| CatalogError::Kernel { table, source: Box::new(source) })
}

/// Finds that a checkpoint of `version` is there and can be read.
///
/// # Errors
/// [`CatalogError::Kernel`]
pub async fn read_checkpoint(log_store: &LogStoreRef, version: u64) -> Result<(), CatalogError> {
    let engine = log_store.engine(None);
    let url = table_url(log_store);
    let table = url.to_string();
    let read = tokio::task::spawn_blocking(move || -> Result<(), kernel::Error> {
        let snapshot = kernel::Snapshot::builder_for(url).at_version(version).build(engine.as_ref())?;
        if snapshot.log_segment().checkpoint_version != Some(version) {
            return Err(kernel::Error::generic(format!("version {version} has no checkpoint that can be read")));
        }
        Ok(())
    });
    let read = read.await.expect("reading a checkpoint neither panics nor is aborted");
    read.map_err(|source| CatalogError::Kernel { table, source: Box::new(source) })
}

/// What a table's own properties ask of who maintains it.
#[derive(Debug, Clone)]
pub struct WantedUpkeep {
    /// Of how many columns files have statistics.
    pub indexed_columns: DataSkippingNumIndexedCols,
    /// Of which, where that is said instead.
    pub statistics_of: Option<Vec<String>>,
    pub log_retention: Option<Duration>,
    pub deleted_file_retention: Option<Duration>,
    pub cleans_log: bool,
}

impl WantedUpkeep {
    pub fn of(metadata: &Metadata) -> Self {
        let properties = TableProperties::from(metadata.configuration().iter());
        Self {
            indexed_columns: properties.data_skipping_num_indexed_cols.unwrap_or_default(),
            statistics_of: properties
                .data_skipping_stats_columns
                .map(|columns| columns.iter().map(ToString::to_string).collect()),
            log_retention: properties.log_retention_duration,
            deleted_file_retention: properties.deleted_file_retention_duration,
            cleans_log: properties.enable_expired_log_cleanup.unwrap_or(true),
        }
    }
}

/// Batches come newest first: the first version seen of an app id is the one that holds.
fn collect_transactions(batch: &RecordBatch, transactions: &mut HashMap<String, i64>) {
    let Some(txn) = batch.column_by_name("txn").and_then(|column| column.as_struct_opt()) else { return };
    let (Some(ids), Some(versions)) = (
        txn.column_by_name("appId").and_then(|column| column.as_string_opt::<i32>()),
        txn.column_by_name("version").and_then(|column| column.as_primitive_opt::<Int64Type>()),
    ) else {
        return;
    };
    for row in (0..batch.num_rows()).filter(|&row| txn.is_valid(row) && ids.is_valid(row)) {
        transactions.entry(ids.value(row).to_owned()).or_insert_with(|| versions.value(row));
    }
}
