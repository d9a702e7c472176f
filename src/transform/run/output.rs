//! The table that a transform writes, and those that stand beside it.

use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use deltalake::kernel::{Add, Metadata};
use deltalake::protocol::{DeltaOperation, SaveMode};
use serde_json::Value;

use super::TransformError;
use super::columns::{Evolved, evolve};
use crate::catalog::change_data;
use crate::catalog::commit_log::CommitLog;
use crate::catalog::data_file::{FilesWriter, delete};
use crate::catalog::log::{TableHead, log_store};
use crate::catalog::rewrite::{Base, Change, Kind, Outcome, commit};
use crate::catalog::state::{ActiveFile, arrow_schema, create, metadata_of_new, metadata_with, refuse_unrewritable};
use crate::catalog::table_location;
use crate::catalog::tables::{AtHead, Tables};
use crate::config::spec::TableName;

/// How often a commit that everything else waits for is planned again. Each time somebody else
/// landed; more would hide a livelock.
const TRIES: u32 = 20;

/// The properties by which a table says whose it is.
pub const CONFIG_HASH: &str = "sluice.configHash";

/// A table as this run knows it: its head at the base version.
#[derive(Debug)]
pub struct Output {
    pub name: TableName,
    pub log: CommitLog,
    pub head: TableHead,
    pub base: Base,
    pub schema: SchemaRef,
    tables: Tables,
}

impl Output {
    /// The table at its head, or nothing where there is none yet.
    ///
    /// # Errors
    /// [`CatalogError::Unsupported`](crate::catalog::CatalogError::Unsupported), errors of storage.
    pub async fn open(tables: &Tables, name: &TableName) -> Result<Option<Self>, TransformError> {
        let Some(AtHead { log, head, read_at }) = tables.at_head(name).await? else { return Ok(None) };
        refuse_unrewritable(&log, &head.protocol, &head.metadata)?;
        let schema = arrow_schema(&log, &head.metadata)?;
        let base = Base { version: head.version, read_at };
        Ok(Some(Self { name: name.clone(), log, head, base, schema, tables: tables.clone() }))
    }

    /// The table at its head, made with these columns where there was none.
    ///
    /// # Errors
    /// As [`Output::open`]
    pub async fn open_or_create(
        tables: &Tables,
        name: &TableName,
        schema: &Schema,
        partition_by: &[String],
        properties: Vec<(String, String)>,
    ) -> Result<Self, TransformError> {
        if let Some(output) = Self::open(tables, name).await? {
            return Ok(output);
        }
        let log = CommitLog::new(log_store(&table_location(tables.lake(), name))?, name.to_string());
        let partitions: Vec<&str> = partition_by.iter().map(String::as_str).collect();
        let metadata = metadata_of_new(&log, schema, &partitions, properties)?;
        create(&log, metadata, Vec::new()).await?;
        Self::open(tables, name).await?.ok_or_else(|| TransformError::Lost { table: name.clone(), tries: 1 })
    }

    /// Looks what its head is by now: what was planned before is worth nothing any more.
    ///
    /// # Errors
    /// Errors of storage.
    pub async fn reload(&mut self) -> Result<(), TransformError> {
        let reopened = Self::open(&self.tables, &self.name).await?;
        *self = reopened.ok_or_else(|| TransformError::Lost { table: self.name.clone(), tries: 1 })?;
        Ok(())
    }

    pub fn partition_columns(&self) -> &[String] {
        self.head.metadata.partition_columns()
    }

    /// Whether it has a change feed by now.
    pub fn has_feed(&self) -> bool {
        change_data::is_on(&self.head.metadata)
    }

    /// Its files at the base version.
    ///
    /// # Errors
    /// Errors of storage.
    pub async fn files(&self) -> Result<Arc<Vec<ActiveFile>>, TransformError> {
        Ok(self.tables.files(&self.name, &self.log, self.base.version).await?)
    }

    /// Somewhere to put rows; their files are seen once a commit names them.
    pub fn writer(&self) -> FilesWriter {
        FilesWriter::new(self.log.store(), &self.schema, self.partition_columns())
    }

    /// Puts a change of this table at its head, unless somebody else's commit went before that it
    /// can't follow. Its files are deleted then, and the head has been read anew.
    ///
    /// # Errors
    /// Errors of storage; the outcome is unknown then, and the head tells.
    pub async fn put(&mut self, mut change: Change) -> Result<Option<u64>, TransformError> {
        let stored: Vec<Add> = change.adds.iter().chain(&change.changes).cloned().collect();
        if let Some(metadata) = &change.metadata {
            change.protocol = change_data::needed_protocol(&self.log, &self.head.protocol, metadata)?;
        }
        match commit(&self.log, self.base, change).await? {
            Outcome::Landed(version) => Ok(Some(version)),
            Outcome::Lost { why, may_still_land } => {
                tracing::info!(table = self.log.table, ?why, "somebody else's commit went first: planning again");
                if !may_still_land {
                    delete(self.log.store(), &stored).await;
                }
                self.reload().await?;
                Ok(None)
            }
        }
    }

    /// Puts what doesn't lean on the rows that are there, whoever else commits meanwhile.
    ///
    /// # Errors
    /// [`TransformError::Lost`], errors of storage.
    pub async fn settle(
        &mut self,
        mut change: impl FnMut(&Self) -> Result<Option<Change>, TransformError>,
    ) -> Result<Option<u64>, TransformError> {
        for _ in 0..TRIES {
            let Some(change) = change(self)? else { return Ok(None) };
            if let Some(version) = self.put(change).await? {
                self.reload().await?;
                return Ok(Some(version));
            }
        }
        Err(TransformError::Lost { table: self.name.clone(), tries: TRIES })
    }

    /// Gives the table the columns and properties that its transform has by now.
    ///
    /// # Errors
    /// [`TransformError::Evolved`] for columns that are gone or of another type.
    pub async fn follow(
        &mut self,
        wanted: &Schema,
        partition_by: Option<&[String]>,
        properties: &[(String, String)],
        note: &Value,
    ) -> Result<(), TransformError> {
        self.settle(|output| {
            if let Some(wanted) = partition_by
                && wanted != output.partition_columns()
            {
                let held = output.partition_columns().join(", ");
                let problem = format!("the table is partitioned by ({held}), and is to be by ({})", wanted.join(", "));
                return Err(TransformError::Evolved { table: output.name.clone(), problems: vec![problem] });
            }
            let schema = match evolve(&output.schema, wanted) {
                Evolved::Same => output.schema.as_ref().clone(),
                Evolved::Wider(schema) => schema,
                Evolved::Broken(problems) => {
                    return Err(TransformError::Evolved { table: output.name.clone(), problems });
                }
            };
            if output.has_feed()
                && let Some(name) = change_data::reserved(wanted).next()
            {
                let told = format!(
                    "column `{name}` has a name that belongs to the change feed of the table, which is on: `ALTER TABLE … SET \
                     TBLPROPERTIES (delta.enableChangeDataFeed = false)` turns it off"
                );
                return Err(TransformError::Columns(vec![told]));
            }
            let metadata = with_properties(metadata_with(&output.log, &output.head.metadata, &schema)?, properties)?;
            if metadata == output.head.metadata {
                return Ok(None);
            }
            Ok(Some(metadata_change(metadata, note)))
        })
        .await
        .map(drop)
    }
}

fn metadata_change(metadata: Metadata, note: &Value) -> Change {
    Change {
        kind: Kind::Append,
        adds: Vec::new(),
        removes: Vec::new(),
        transactions: Vec::new(),
        metadata: Some(metadata),
        changes: Vec::new(),
        protocol: None,
        operation: write(SaveMode::Append),
        note: note.clone(),
    }
}

/// Metadata with other properties than it had.
///
/// # Errors
/// [`TransformError::Internal`], when metadata isn't what it is in the log.
pub fn with_properties(metadata: Metadata, properties: &[(String, String)]) -> Result<Metadata, TransformError> {
    let broken = |source: serde_json::Error| TransformError::Internal(source.to_string());
    let mut value = serde_json::to_value(metadata).map_err(broken)?;
    for (key, property) in properties {
        value["configuration"][key] = Value::String(property.clone());
    }
    serde_json::from_value(value).map_err(broken)
}

/// The operation of a commit that writes rows.
pub fn write(mode: SaveMode) -> DeltaOperation {
    DeltaOperation::Write { mode, partition_by: None, predicate: None }
}
