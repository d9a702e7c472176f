//! What a table is made of at one version: its files, its columns; and how one begins.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use deltalake::kernel::engine::arrow_conversion::{TryIntoArrow as _, TryIntoKernel as _};
use deltalake::kernel::{
    Action, Add, AddCDCFile, Metadata, MetadataExt as _, Protocol, Remove, Snapshot, StructType, Transaction,
    new_metadata,
};
use deltalake::protocol::{DeltaOperation, SaveMode};
use futures::TryStreamExt as _;

use super::CatalogError;
use super::change_data::{CHANGED_ROWS, needed_protocol};
use super::commit_log::{CommitLog, Put};
use super::log::table_url;

/// Writer features that neither adding nor removing whole files needs to honour or can break.
const REWRITABLE: [&str; 5] = ["appendOnly", "invariants", "changeDataFeed", "timestampNtz", "v2Checkpoint"];

/// A file whose rows are in the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ActiveFile {
    /// Relative to the table's folder, not URL-encoded: where the object store has it.
    pub path: String,
    /// What all its rows have in common: the values of partition columns.
    pub partition_values: HashMap<String, Option<String>>,
    pub size: i64,
    /// Epoch ms.
    pub modified_at: i64,
    /// Delta's statistics, JSON; a writer need not have given any.
    pub stats: Option<String>,
    has_deletions: bool,
}

impl ActiveFile {
    /// The action that takes the file out; `data_change` says whether its rows go with it.
    pub fn remove(&self, data_change: bool) -> Remove {
        Remove {
            path: self.path.clone(),
            data_change,
            deletion_timestamp: Some(chrono::Utc::now().timestamp_millis()),
            extended_file_metadata: Some(true),
            partition_values: Some(self.partition_values.clone()),
            size: Some(self.size),
            tags: None,
            deletion_vector: None,
            base_row_id: None,
            default_row_commit_version: None,
        }
    }
}

/// What statistics of a file tell without its rows.
#[derive(Debug, Clone, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Statistics {
    #[serde(rename = "numRecords")]
    pub rows: Option<u64>,
    /// By column; nested ones are objects.
    pub min_values: serde_json::Value,
    pub null_count: serde_json::Value,
}

impl Statistics {
    /// None where there are none, or none that can be read.
    pub fn read(text: Option<&str>) -> Option<Self> {
        serde_json::from_str(text?).ok()
    }
}

/// How many rows a file has, as its statistics say.
pub fn rows_in(statistics: Option<&str>) -> Option<u64> {
    Statistics::read(statistics)?.rows
}

impl ActiveFile {
    /// The file with a value that all its rows have in a column that it lacks.
    pub fn with(mut self, column: &str, value: Option<String>) -> Self {
        self.partition_values.insert(column.to_owned(), value);
        self
    }

    /// Whether some of its rows are marked as deleted beside it.
    pub fn has_deletions(&self) -> bool {
        self.has_deletions
    }
}

impl From<&Remove> for ActiveFile {
    fn from(remove: &Remove) -> Self {
        Self {
            path: remove.path.clone(),
            partition_values: remove.partition_values.clone().unwrap_or_default(),
            size: remove.size.unwrap_or_default(),
            modified_at: remove.deletion_timestamp.unwrap_or_default(),
            stats: None,
            has_deletions: remove.deletion_vector.is_some(),
        }
    }
}

impl From<&AddCDCFile> for ActiveFile {
    fn from(file: &AddCDCFile) -> Self {
        let rows = file.tags.as_ref().and_then(|tags| tags.get(CHANGED_ROWS)?.as_ref()?.parse::<u64>().ok());
        Self {
            path: file.path.clone(),
            partition_values: file.partition_values.clone(),
            size: file.size,
            modified_at: 0,
            stats: rows.map(|rows| format!("{{\"numRecords\":{rows}}}")),
            has_deletions: false,
        }
    }
}

impl From<&Add> for ActiveFile {
    fn from(add: &Add) -> Self {
        Self {
            path: add.path.clone(),
            partition_values: add.partition_values.clone(),
            size: add.size,
            modified_at: add.modification_time,
            stats: add.stats.clone(),
            has_deletions: add.deletion_vector.is_some(),
        }
    }
}

/// The files of the table at `version`, by path.
///
/// Costs O(files): for who rewrites, never for an append.
///
/// # Errors
/// [`CatalogError::Unsupported`] where rows are marked as deleted beside their files, and errors
/// of storage.
pub async fn active_files(log: &CommitLog, version: u64) -> Result<Vec<ActiveFile>, CatalogError> {
    let failed = |source| log.failed(source);
    let snapshot = Snapshot::try_new(log.store().as_ref(), Some(version)).await.map_err(failed)?;
    let views = snapshot.file_views(log.store().as_ref(), None);
    let files = views.map_ok(|view| ActiveFile {
        path: view.path().into_owned(),
        partition_values: view.partition_values_map(),
        size: view.size(),
        modified_at: view.modification_time(),
        stats: view.stats(),
        has_deletions: view.deletion_vector_descriptor().is_some(),
    });
    let mut files: Vec<ActiveFile> = files.try_collect().await.map_err(failed)?;
    if files.iter().any(|file| file.has_deletions) {
        let feature = "some of its files have deletion vectors".to_owned();
        return Err(CatalogError::Unsupported { table: log.table.clone(), feature });
    }
    files.sort_by(|one, other| one.path.cmp(&other.path));
    Ok(files)
}

/// The columns that the table had at `version`.
///
/// # Errors
/// Errors of storage, also where the log has that version no more.
pub async fn schema_at(log: &CommitLog, version: u64) -> Result<SchemaRef, CatalogError> {
    let snapshot = Snapshot::try_new(log.store().as_ref(), Some(version)).await;
    arrow_schema(log, snapshot.map_err(|source| log.failed(source))?.metadata())
}

/// The columns that `metadata` declares, as Arrow.
///
/// # Errors
/// [`CatalogError::Log`] when they can't be read.
pub fn arrow_schema(log: &CommitLog, metadata: &Metadata) -> Result<SchemaRef, CatalogError> {
    let columns = metadata.parse_schema().map_err(|source| log.failed(source))?;
    let schema: Schema = (&columns).try_into_arrow().map_err(|source| log.failed(source))?;
    Ok(Arc::new(schema))
}

/// The metadata with other columns.
///
/// # Errors
/// [`CatalogError::Log`] when a column has no Delta type.
pub fn metadata_with(log: &CommitLog, metadata: &Metadata, schema: &Schema) -> Result<Metadata, CatalogError> {
    metadata.clone().with_schema(&kernel_schema(log, schema)?).map_err(|source| log.failed(source))
}

/// What a new table's metadata says, under a new id.
///
/// # Errors
/// [`CatalogError::Log`] when a column has no Delta type.
pub fn metadata_of_new(
    log: &CommitLog,
    schema: &Schema,
    partition_columns: &[&str],
    properties: Vec<(String, String)>,
) -> Result<Metadata, CatalogError> {
    let columns = kernel_schema(log, schema)?;
    new_metadata(&columns, partition_columns, properties).map_err(|source| log.failed(source))
}

/// Puts version 0 of a table that any reader can read, protocol (1, 2), or (1, 4) with a change feed. Somebody else may be
/// quicker, and the outcome may be unknown: the caller opens what is there then.
///
/// # Errors
/// [`CatalogError::Log`] when the commit can't be laid out.
pub async fn create(log: &CommitLog, metadata: Metadata, transactions: Vec<Transaction>) -> Result<(), CatalogError> {
    let protocol: Protocol = serde_json::from_value(serde_json::json!({"minReaderVersion": 1, "minWriterVersion": 2}))
        .map_err(|source| log.failed(source))?;
    let protocol = needed_protocol(log, &protocol, &metadata)?.unwrap_or(protocol);
    let operation = DeltaOperation::Create {
        mode: SaveMode::ErrorIfExists,
        location: table_url(log.store()),
        protocol: protocol.clone(),
        metadata: metadata.clone(),
    };
    let actions = vec![Action::Protocol(protocol), Action::Metadata(metadata)];
    let commit = log.lay_out(actions, transactions, operation, HashMap::new())?;
    if let Put::Unknown(source) = log.put(0, &commit).await {
        tracing::warn!(table = log.table, error = source.to_string(), "making the table has an unknown outcome");
    }
    Ok(())
}

/// Refuses a table whose files can't be taken out and put in without more ado.
///
/// # Errors
/// [`CatalogError::Unsupported`] names what stands in the way.
pub fn refuse_unrewritable(log: &CommitLog, protocol: &Protocol, metadata: &Metadata) -> Result<(), CatalogError> {
    let refuse = |feature: String| Err(CatalogError::Unsupported { table: log.table.clone(), feature });
    let protocol = serde_json::to_value(protocol).unwrap_or(serde_json::Value::Null);
    match protocol["minWriterVersion"].as_u64().unwrap_or(u64::MAX) {
        0..=4 => {}
        7 => {
            let features = protocol["writerFeatures"].as_array().cloned().unwrap_or_default();
            let mut features = features.iter().filter_map(serde_json::Value::as_str);
            if let Some(feature) = features.find(|feature| !REWRITABLE.contains(feature)) {
                return refuse(format!("it needs the table feature `{feature}`"));
            }
        }
        other => return refuse(format!("it needs writer version {other}")),
    }
    for (key, value) in metadata.configuration() {
        if key == "delta.columnMapping.mode" && value != "none" {
            return refuse(format!("its property `{key}` is `{value}`"));
        }
    }
    Ok(())
}

fn kernel_schema(log: &CommitLog, schema: &Schema) -> Result<StructType, CatalogError> {
    schema.try_into_kernel().map_err(|source: arrow::error::ArrowError| log.failed(source))
}
