//! A table as this process knows it: the base version, the ledger at it, its columns.
//!
//! The ledger is enumerated once, when the table is opened, and then kept from each commit that
//! follows, our own and strangers'. What can't be followed (the log was cleaned up below us, or
//! the base is too old to be believed) is enumerated again.

use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use deltalake::kernel::{Action, Metadata, MetadataExt as _, Protocol, Transaction};
use serde_json::Value;
use uuid::Uuid;

use super::SinkError;
use super::schema::{Policy, TableColumns};
use crate::catalog::commit_log::{CommitLog, ReadAt, ReadCommit};
use crate::catalog::log::{TableHead, read_head};
use crate::catalog::rewrite::Base;
use crate::catalog::state::{arrow_schema, create, metadata_of_new, metadata_with};
use crate::checkpoint::{Ledger, LedgerKey, Parsed};

/// Writer features that an append neither needs to honour nor can break.
const APPENDABLE: [&str; 6] =
    ["appendOnly", "invariants", "changeDataFeed", "deletionVectors", "timestampNtz", "v2Checkpoint"];

/// The property of a table that names the columns of which files have statistics in the log.
pub const STATISTICS_OF: &str = "delta.dataSkippingStatsColumns";

pub struct OpenTable {
    pub log: CommitLog,
    /// The base: the version at which everything below was read.
    pub version: u64,
    pub ledger: Ledger,
    pub schema: SchemaRef,
    pub partition_columns: Vec<String>,
    metadata: Metadata,
    read_at: ReadAt,
}

/// What catching up with the log found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CaughtUp {
    /// The version at which the commit that was asked for has landed.
    pub landed: Option<u64>,
    /// The log couldn't be followed and was enumerated anew.
    pub enumerated: bool,
    /// Columns or properties changed.
    pub schema_changed: bool,
    /// Somebody added or removed rows.
    pub data_changed: bool,
    /// Somebody took files out of the table, whether or not their rows went with them.
    pub files_removed: bool,
    /// Numbers that were covered before may have a row now, or be counted otherwise: dead letters were replayed
    /// or dropped, or a stranger added rows.
    pub letters_settled: bool,
}

impl OpenTable {
    /// Opens the table, or finds that there is none yet.
    ///
    /// # Errors
    /// [`SinkError::Unsupported`], [`SinkError::NewerLedger`], [`SinkError::Stranger`] for what
    /// happened since our newest commit, and errors of storage.
    pub async fn open(log: CommitLog) -> Result<Option<Self>, SinkError> {
        let read_at = ReadAt::now();
        let Some(head) = read_head(log.store()).await? else { return Ok(None) };
        let table = Self::from_head(log, head, read_at)?;
        table.look_for_strangers().await?;
        Ok(Some(table))
    }

    /// Makes the table with `schema`, or opens it when somebody else was quicker.
    ///
    /// # Errors
    /// As [`OpenTable::open`]
    pub async fn create(
        log: CommitLog,
        schema: &Schema,
        partition_columns: &[&str],
        properties: Vec<(String, String)>,
    ) -> Result<Self, SinkError> {
        let metadata = metadata_of_new(&log, schema, partition_columns, properties)?;
        let seen = Transaction::new(LedgerKey::Seen.app_id(metadata.id()), 0);
        create(&log, metadata, vec![seen]).await?;
        let name = log.table.clone();
        Self::open(log).await?.ok_or_else(|| SinkError::Unsupported {
            table: name,
            feature: "the table was made and can't be found".to_owned(),
        })
    }

    fn from_head(log: CommitLog, head: TableHead, read_at: ReadAt) -> Result<Self, SinkError> {
        refuse_unsupported(&log.table, &head.protocol, &head.metadata)?;
        let mut ledger = Ledger::default();
        for (app_id, version) in head.transactions {
            apply(&mut ledger, &log.table, head.metadata.id(), &app_id, version)?;
        }
        let schema = arrow_schema(&log, &head.metadata)?;
        Ok(Self {
            version: head.version,
            ledger,
            schema,
            partition_columns: head.metadata.partition_columns().to_vec(),
            metadata: head.metadata,
            read_at,
            log,
        })
    }

    /// The table's own id, part of every app id of its ledger.
    pub fn id(&self) -> &str {
        self.metadata.id()
    }

    /// Its columns, for rows that are made to fit them.
    pub fn columns(&self) -> TableColumns {
        TableColumns::new(Arc::clone(&self.schema), Policy::default())
    }

    /// For a commit that isn't the ledger's.
    pub fn base(&self) -> Base {
        Base { version: self.version, read_at: self.read_at }
    }

    pub fn is_stale(&self) -> bool {
        self.read_at.is_stale()
    }

    /// The facts as `txn` actions of a commit that lands as `version`.
    pub fn transactions(&self, facts: &[(LedgerKey, i64)], version: u64) -> Vec<Transaction> {
        let seen = (LedgerKey::Seen, i64::try_from(version).unwrap_or(i64::MAX));
        facts.iter().chain([&seen]).map(|(key, value)| Transaction::new(key.app_id(self.id()), *value)).collect()
    }

    /// The metadata with other columns.
    ///
    /// # Errors
    /// [`CatalogError::Log`](crate::catalog::CatalogError::Log) when a column has no Delta type.
    pub fn metadata_with(&self, schema: &Schema) -> Result<Metadata, SinkError> {
        Ok(metadata_with(&self.log, &self.metadata, schema)?)
    }

    /// The metadata with other columns, of which the log tells values of `indexed` alone; none where it is so already.
    ///
    /// # Errors
    /// [`CatalogError::Log`](crate::catalog::CatalogError::Log) when a column has no Delta type.
    pub fn metadata_to_append(&self, schema: &Schema, indexed: &[&str]) -> Result<Option<Metadata>, SinkError> {
        let indexed = indexed.join(",");
        let is_indexed = self.metadata.configuration().get(STATISTICS_OF).is_some_and(|held| *held == indexed);
        if is_indexed && self.schema.fields() == schema.fields() {
            return Ok(None);
        }
        let metadata = self.metadata_with(schema)?.add_config_key(STATISTICS_OF.to_owned(), indexed);
        Ok(metadata.map(Some).map_err(|source| self.log.failed(source))?)
    }

    /// As [`Self::metadata_to_append`], and free for commits that remove files.
    ///
    /// # Errors
    /// As [`Self::metadata_to_append`]
    pub fn metadata_to_rewrite(&self, schema: &Schema, indexed: &[&str]) -> Result<Option<Metadata>, SinkError> {
        const APPEND_ONLY: &str = "delta.appendOnly";
        let is_free = self.metadata.configuration().get(APPEND_ONLY).is_none_or(|value| value != "true");
        let metadata = match self.metadata_to_append(schema, indexed)? {
            None if is_free => return Ok(None),
            None => self.metadata.clone(),
            Some(metadata) => metadata,
        };
        let metadata = metadata.remove_config_key(APPEND_ONLY);
        Ok(metadata.map(Some).map_err(|source| self.log.failed(source))?)
    }

    /// Reads the columns of the base version's own metadata action, after it landed.
    ///
    /// # Errors
    /// Errors of storage.
    pub async fn reload_schema(&mut self) -> Result<(), SinkError> {
        let Some(commit) = self.log.read(self.version).await? else {
            self.enumerate().await?;
            return Ok(());
        };
        let mut found = CaughtUp::default();
        for action in &commit.actions {
            if let Action::Metadata(metadata) = action {
                self.take_metadata(metadata, &mut found)?;
            }
        }
        Ok(())
    }

    /// Moves the base to a commit of ours that landed as `version`, the one after it.
    pub fn advance(&mut self, version: u64, facts: &[(LedgerKey, i64)], read_at: ReadAt) {
        for (key, value) in facts {
            self.ledger.apply(key.clone(), *value);
        }
        self.ledger.apply(LedgerKey::Seen, i64::try_from(version).unwrap_or(i64::MAX));
        self.version = version;
        self.read_at = read_at;
    }

    /// Follows the log to its head, looking for a commit whose id is among `ours`.
    ///
    /// # Errors
    /// [`SinkError::Stranger`] and what else makes the table unwritable; errors of storage.
    pub async fn catch_up(&mut self, ours: &[Uuid]) -> Result<CaughtUp, SinkError> {
        let mut found = CaughtUp::default();
        let read_at = ReadAt::now();
        if self.is_stale() || !self.log.holds(self.version).await? {
            return self.enumerate().await;
        }
        while let Some(commit) = self.log.read(self.version + 1).await? {
            self.follow(&commit, ours, &mut found)?;
        }
        // A missing entry means the head only while the one before it is there.
        if !self.log.holds(self.version).await? {
            return self.enumerate().await;
        }
        self.read_at = read_at;
        Ok(found)
    }

    /// Reads everything anew.
    ///
    /// # Errors
    /// As [`OpenTable::open`]
    pub async fn enumerate(&mut self) -> Result<CaughtUp, SinkError> {
        let was = self.id().to_owned();
        tracing::warn!(table = self.log.table, base = self.version, "the base isn't believed: reading the ledger anew");
        let gone = || SinkError::Unsupported { table: self.log.table.clone(), feature: "the table is gone".to_owned() };
        let reopened = Self::open(self.log.clone()).await?.ok_or_else(gone)?;
        if reopened.id() != was {
            return Err(SinkError::Replaced { table: self.log.table.clone(), was, is: reopened.id().to_owned() });
        }
        *self = reopened;
        Ok(CaughtUp {
            landed: None,
            enumerated: true,
            schema_changed: true,
            data_changed: true,
            files_removed: true,
            letters_settled: true,
        })
    }

    fn follow(&mut self, commit: &ReadCommit, ours: &[Uuid], found: &mut CaughtUp) -> Result<(), SinkError> {
        self.refuse_stranger(commit)?;
        for action in &commit.actions {
            match action {
                Action::Txn(txn) => {
                    apply(&mut self.ledger, &self.log.table, self.metadata.id(), &txn.app_id, txn.version)?;
                }
                Action::Metadata(metadata) => self.take_metadata(metadata, found)?,
                Action::Protocol(protocol) => refuse_unsupported(&self.log.table, protocol, &self.metadata)?,
                _ => {}
            }
        }
        found.data_changed |= commit.adds_data() || commit.removes_data();
        found.files_removed |= commit.removes_files();
        found.letters_settled |= commit.settles_letters() || (commit.flush_id().is_none() && commit.adds_data());
        if commit.flush_id().is_some_and(|id| ours.contains(&id)) {
            found.landed = Some(commit.version);
        }
        self.version = commit.version;
        Ok(())
    }

    fn take_metadata(&mut self, metadata: &Metadata, found: &mut CaughtUp) -> Result<(), SinkError> {
        if metadata.id() != self.metadata.id() {
            return Err(SinkError::Replaced {
                table: self.log.table.clone(),
                was: self.metadata.id().to_owned(),
                is: metadata.id().to_owned(),
            });
        }
        refuse_properties(&self.log.table, metadata)?;
        self.schema = arrow_schema(&self.log, metadata)?;
        self.partition_columns = metadata.partition_columns().to_vec();
        self.metadata = metadata.clone();
        found.schema_changed = true;
        Ok(())
    }

    /// Looks at what strangers did between our newest commit and the head; entries that were
    /// cleaned up meanwhile can't be looked at.
    async fn look_for_strangers(&self) -> Result<(), SinkError> {
        let Some(seen) = self.ledger.seen().and_then(|seen| u64::try_from(seen).ok()) else { return Ok(()) };
        for version in seen + 1..=self.version {
            if let Some(commit) = self.log.read(version).await? {
                self.refuse_stranger(&commit)?;
            }
        }
        Ok(())
    }

    /// A foreign restore, overwrite or replace takes rows that the ledger accounts for, in one
    /// stroke and without a trace of which. A delete is legal (erasure): audit shows its rows.
    fn refuse_stranger(&self, commit: &ReadCommit) -> Result<(), SinkError> {
        if commit.flush_id().is_some() {
            return Ok(());
        }
        let operation = commit.operation();
        if commit.is_foreign_overwrite() {
            return Err(SinkError::Stranger {
                table: self.log.table.clone(),
                version: commit.version,
                operation: operation.to_owned(),
            });
        }
        if commit.removes_data() {
            tracing::warn!(table = self.log.table, version = commit.version, operation, "a stranger removed rows");
        }
        Ok(())
    }
}

fn apply(ledger: &mut Ledger, table: &str, id: &str, app_id: &str, version: i64) -> Result<(), SinkError> {
    match LedgerKey::parse(app_id, id) {
        Parsed::Key(key) => {
            ledger.apply(key, version);
            Ok(())
        }
        Parsed::Foreign => Ok(()),
        Parsed::Unreadable => Err(SinkError::NewerLedger { table: table.to_owned(), app_id: app_id.to_owned() }),
    }
}

fn refuse_unsupported(table: &str, protocol: &Protocol, metadata: &Metadata) -> Result<(), SinkError> {
    let refuse = |feature: String| Err(SinkError::Unsupported { table: table.to_owned(), feature });
    let protocol = serde_json::to_value(protocol).unwrap_or(Value::Null);
    let version = protocol["minWriterVersion"].as_u64().unwrap_or(u64::MAX);
    match version {
        0..=4 => {}
        7 => {
            let features = protocol["writerFeatures"].as_array().cloned().unwrap_or_default();
            let unknown = features.iter().filter_map(Value::as_str).find(|feature| !APPENDABLE.contains(feature));
            if let Some(feature) = unknown {
                return refuse(format!("it needs the table feature `{feature}`"));
            }
        }
        other => return refuse(format!("it needs writer version {other}")),
    }
    refuse_properties(table, metadata)
}

fn refuse_properties(table: &str, metadata: &Metadata) -> Result<(), SinkError> {
    let refuse = |feature: String| Err(SinkError::Unsupported { table: table.to_owned(), feature });
    for (key, value) in metadata.configuration() {
        if key == "delta.setTransactionRetentionDuration" {
            return refuse(format!("its property `{key}` would expire the ledger"));
        }
        if key == "delta.columnMapping.mode" && value != "none" {
            return refuse(format!("its property `{key}` is `{value}`"));
        }
        if key.starts_with("delta.constraints.") {
            return refuse(format!("it has the check constraint `{key}`"));
        }
    }
    for expression in ["delta.invariants", "delta.generationExpression", "delta.identity.start"] {
        if metadata.schema_string().contains(expression) {
            return refuse(format!("a column of it has `{expression}`"));
        }
    }
    let partitions = metadata.partition_columns();
    if !partitions.is_empty() && partitions != [crate::batch::bronze::ENQUEUED_DATE] {
        return refuse(format!("it is partitioned by `{}`", partitions.join(", ")));
    }
    Ok(())
}
