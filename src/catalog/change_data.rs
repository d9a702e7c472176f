//! The change feed of a table: which rows its commits inserted, updated and deleted.
//!
//! As the Delta protocol has it (Change Data Files):
//!
//! | a commit | its changes are |
//! |---|---|
//! | with `cdc` actions | the rows of these files, which lie below `_change_data/`; each says of itself what it is |
//! | without | rows of files that it adds with `dataChange` are inserted, of those that it removes so, deleted |
//! | that only lays rows out anew | none |
//!
//! What all rows of a file have in common (the version, its time, and where it was inferred the type of the change)
//! goes with the file as the values of partition columns do.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use async_trait::async_trait;
use chrono::DateTime;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::Result;
use datafusion::error::DataFusionError;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::union::UnionExec;
use datafusion::prelude::SessionContext;
use deltalake::kernel::{Action, Metadata, Protocol};
use deltalake::logstore::LogStoreRef;
use object_store::ObjectStoreExt as _;
use object_store::path::Path;
use serde_json::{Value, json};

use super::CatalogError;
use super::commit_log::{CommitLog, ReadCommit};
use super::file_table::FileTable;
use super::state::ActiveFile;
use crate::batch::bronze;

/// The property of a table that says that it has a change feed.
pub const PROPERTY: &str = "delta.enableChangeDataFeed";

/// The tag of a file of changes that says how many rows it has.
pub const CHANGED_ROWS: &str = "sluice.rows";

/// Where files of changes lie, below the table's folder.
pub const FOLDER: &str = "_change_data";

/// The writer feature by its name, for tables of the protocol's newer form.
const FEATURE: &str = "changeDataFeed";

/// The least writer version that knows of it.
const WRITER_VERSION: u64 = 4;

pub const CHANGE_TYPE: &str = "_change_type";
pub const COMMIT_VERSION: &str = "_commit_version";
pub const COMMIT_TIMESTAMP: &str = "_commit_timestamp";

/// The columns of changes beside those of the table, whose columns can't have these names.
pub const COLUMNS: [&str; 3] = [CHANGE_TYPE, COMMIT_VERSION, COMMIT_TIMESTAMP];

pub const INSERT: &str = "insert";
pub const DELETE: &str = "delete";
pub const UPDATE_PREIMAGE: &str = "update_preimage";
pub const UPDATE_POSTIMAGE: &str = "update_postimage";

/// Whether a table has a change feed.
pub fn is_on(metadata: &Metadata) -> bool {
    metadata.configuration().get(PROPERTY).is_some_and(|value| value.eq_ignore_ascii_case("true"))
}

/// The protocol that a table needs with this metadata, where it has another.
///
/// # Errors
/// [`CatalogError::Log`] when a protocol isn't what it is in the log.
pub fn needed_protocol(
    log: &CommitLog,
    protocol: &Protocol,
    metadata: &Metadata,
) -> Result<Option<Protocol>, CatalogError> {
    if !is_on(metadata) {
        return Ok(None);
    }
    let mut value = serde_json::to_value(protocol).map_err(|source| log.failed(source))?;
    match value["minWriterVersion"].as_u64().unwrap_or_default() {
        0..WRITER_VERSION => value["minWriterVersion"] = json!(WRITER_VERSION),
        7 => {
            let mut features = value["writerFeatures"].as_array().cloned().unwrap_or_default();
            if features.iter().any(|feature| feature == FEATURE) {
                return Ok(None);
            }
            features.push(json!(FEATURE));
            value["writerFeatures"] = Value::Array(features);
        }
        _ => return Ok(None),
    }
    serde_json::from_value(value).map(Some).map_err(|source| log.failed(source))
}

/// The columns of a file of changes: the table's, and what each row is.
pub fn file_schema(table: &Schema) -> SchemaRef {
    let own: FieldRef = Arc::new(Field::new(CHANGE_TYPE, DataType::Utf8, true));
    Arc::new(Schema::new(table.fields().iter().cloned().chain([own]).collect::<Vec<_>>()))
}

/// The columns of a table's changes.
pub fn with_columns(table: &Schema) -> SchemaRef {
    let file = file_schema(table);
    let own =
        [Field::new(COMMIT_VERSION, DataType::Int64, true), Field::new(COMMIT_TIMESTAMP, bronze::timestamp(), true)];
    Arc::new(Schema::new(file.fields().iter().cloned().chain(own.map(Arc::new)).collect::<Vec<_>>()))
}

/// The columns of a table that have names of these, in whatever letters.
pub fn reserved(table: &Schema) -> impl Iterator<Item = &str> {
    let names = table.fields().iter().map(|field| field.name().as_str());
    names.filter(|name| COLUMNS.iter().any(|own| own.eq_ignore_ascii_case(name)))
}

/// What all rows of a version have in common.
#[derive(Debug, Clone, Copy)]
pub struct Commit {
    pub version: u64,
    /// Epoch ms; none where the commit doesn't say it.
    pub at_ms: Option<i64>,
}

impl Commit {
    fn mark(self, file: ActiveFile) -> ActiveFile {
        let at = self.at_ms.and_then(DateTime::from_timestamp_millis);
        let at = at.map(|at| at.format("%Y-%m-%d %H:%M:%S%.3f").to_string());
        file.with(COMMIT_VERSION, Some(self.version.to_string())).with(COMMIT_TIMESTAMP, at)
    }

    /// A file whose rows were all inserted.
    pub fn inserted(self, file: ActiveFile) -> ActiveFile {
        self.mark(file).with(CHANGE_TYPE, Some(INSERT.to_owned()))
    }

    fn deleted(self, file: ActiveFile) -> ActiveFile {
        self.mark(file).with(CHANGE_TYPE, Some(DELETE.to_owned()))
    }
}

/// The files with the changes of a commit, whoever made it.
///
/// # Errors
/// [`CatalogError::Unsupported`] where rows are marked as deleted beside their files, and errors of storage.
pub async fn changed_files(log: &CommitLog, commit: &ReadCommit) -> Result<Vec<ActiveFile>, CatalogError> {
    let of = Commit { version: commit.version, at_ms: commit.timestamp_ms() };
    let told = commit.changes().map(|file| {
        let mut file = ActiveFile::from(file);
        file.modified_at = of.at_ms.unwrap_or_default();
        of.mark(file)
    });
    let told: Vec<ActiveFile> = told.collect();
    if !told.is_empty() {
        return Ok(told);
    }
    let mut files = Vec::new();
    for action in &commit.actions {
        match action {
            Action::Add(add) if add.data_change => files.push(of.inserted(add.into())),
            Action::Remove(remove) if remove.data_change => {
                let mut file = ActiveFile::from(remove);
                // A writer need not say how large it was.
                if remove.size.is_none() {
                    file.size = size_of(log, &file.path).await?;
                }
                files.push(of.deleted(file));
            }
            _ => {}
        }
    }
    if files.iter().any(ActiveFile::has_deletions) {
        let feature = format!("version {} marks rows by deletion vectors", commit.version);
        return Err(CatalogError::Unsupported { table: log.table.clone(), feature });
    }
    Ok(files)
}

/// 0 for a file that is gone: whoever reads it tells that.
async fn size_of(log: &CommitLog, path: &str) -> Result<i64, CatalogError> {
    let path = Path::parse(path).map_err(|source| log.failed(source))?;
    match log.store().object_store(None).head(&path).await {
        Ok(found) => Ok(i64::try_from(found.size).unwrap_or(i64::MAX)),
        Err(object_store::Error::NotFound { .. }) => Ok(0),
        Err(source) => Err(log.failed(source)),
    }
}

/// The changes that files hold, as [`changed_files`] and [`Commit::inserted`] gave them.
///
/// # Errors
/// [`DataFusionError`] when a column of the table has a name of these, or what the log says of a file isn't of its
/// column's type.
pub fn open(
    session: &SessionContext,
    store: &LogStoreRef,
    table: &SchemaRef,
    partition_columns: &[String],
    files: &[ActiveFile],
) -> Result<Arc<dyn TableProvider>> {
    if let Some(name) = reserved(table).next() {
        return Err(DataFusionError::Plan(format!("a table with a column `{name}` has no changes that can be read")));
    }
    let shown = with_columns(table);
    let (inferred, told): (Vec<_>, Vec<_>) =
        files.iter().cloned().partition(|file| file.partition_values.contains_key(CHANGE_TYPE));
    let outside = |more: &[&str]| -> Vec<String> {
        partition_columns.iter().map(String::as_str).chain(more.iter().copied()).map(str::to_owned).collect()
    };
    let told_columns = outside(&[COMMIT_VERSION, COMMIT_TIMESTAMP]);
    let inferred_columns = outside(&COLUMNS);
    let inferred_rows = || FileTable::open(session, store, &shown, &inferred_columns, &inferred);
    if told.is_empty() {
        return inferred_rows();
    }
    let told = FileTable::open(session, store, &shown, &told_columns, &told)?;
    if inferred.is_empty() {
        return Ok(told);
    }
    Ok(Arc::new(Changes { shown: Arc::clone(&shown), told, inferred: inferred_rows()? }))
}

/// Changes of commits with and without files of their own.
#[derive(Debug)]
struct Changes {
    shown: SchemaRef,
    told: Arc<dyn TableProvider>,
    inferred: Arc<dyn TableProvider>,
}

#[async_trait]
impl TableProvider for Changes {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.shown)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let told = self.told.scan(state, projection, filters, limit).await?;
        let inferred = self.inferred.scan(state, projection, filters, limit).await?;
        UnionExec::try_new(vec![told, inferred])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_protocol_is_raised_as_far_as_needed_and_readers_stay() {
        let folder = tempfile::tempdir().expect("a folder");
        let location = crate::storage::Location::resolve(&folder.path().to_string_lossy(), None);
        let store = crate::catalog::log::log_store(&location.expect("a location"));
        let log = CommitLog::new(store.expect("a store"), "silver.leads".to_owned());
        let metadata = |on: bool| {
            let properties = if on { vec![(PROPERTY.to_owned(), "true".to_owned())] } else { Vec::new() };
            let schema = Schema::new(vec![Field::new("id", DataType::Utf8, true)]);
            crate::catalog::state::metadata_of_new(&log, &schema, &[], properties).expect("metadata")
        };
        let plain = |reader: u64, writer: u64| json!({"minReaderVersion": reader, "minWriterVersion": writer});
        let featured = |features: &[&str]| json!({"minReaderVersion": 3, "minWriterVersion": 7, "readerFeatures": [], "writerFeatures": features});
        for (held, expected) in [
            (plain(1, 2), Some(plain(1, 4))),
            (plain(1, 3), Some(plain(1, 4))),
            (plain(1, 4), None),
            (featured(&["appendOnly"]), Some(featured(&["appendOnly", "changeDataFeed"]))),
            (featured(&["changeDataFeed"]), None),
        ] {
            let protocol: Protocol = serde_json::from_value(held.clone()).expect("a protocol");
            let needed = |on| needed_protocol(&log, &protocol, &metadata(on)).expect("a protocol");
            let expected: Option<Protocol> = expected.map(|held| serde_json::from_value(held).expect("a protocol"));
            assert_eq!(needed(true), expected, "{held}");
            assert_eq!(needed(false), None, "{held}");
        }
    }
}
