//! The commits of one Delta log: a conditional put of our own, and the reading of what others put.
//!
//! No listing, no snapshot: a commit costs the same at any version. Any error of a put means
//! that its outcome is unknown until the log was read; each commit carries an id in its
//! `commitInfo`, so a retried put knows its own success.

use std::collections::HashMap;
use std::fmt;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use deltalake::kernel::transaction::{CommitData, TransactionError};
use deltalake::kernel::{Action, Add, AddCDCFile, Metadata, Remove, Transaction};
use deltalake::logstore::{CommitOrBytes, LogStoreRef, get_actions};
use deltalake::protocol::DeltaOperation;
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStoreExt as _};
use serde_json::Value;
use uuid::Uuid;

use super::CatalogError;

/// The key in `commitInfo` that names one try of one flush.
pub const FLUSH_ID: &str = "sluiceFlush";

/// The key in `commitInfo` under which we say what a commit is for: `{"maintenance": true}` and
/// `{"erasure": true}` bring no new rows to a stream.
pub const NOTE: &str = "sluice";
/// The key in `commitInfo` of a commit that gives rows to dead letters, or counts them otherwise: what it did.
pub const SETTLES_LETTERS: &str = "sluiceDeadLetters";

/// A base older than this isn't believed: cleanup keeps a week of commits, so an hour is far
/// from it even with clocks that are wrong; much shorter would enumerate the ledger of an idle
/// table for nothing.
const BASE_BELIEVED_FOR: Duration = Duration::from_secs(3600);

/// The log of one table.
#[derive(Clone)]
pub struct CommitLog {
    store: LogStoreRef,
    /// The table's name, for errors.
    pub table: String,
}

/// A commit as it will lie in the log: exact bytes under an id of its own.
#[derive(Debug, Clone)]
pub struct Commit {
    pub id: Uuid,
    bytes: Bytes,
}

/// What became of a put.
#[derive(Debug)]
pub enum Put {
    Landed,
    /// Somebody's commit has this version; it may be our own, retried.
    Taken,
    Unknown(Box<dyn std::error::Error + Send + Sync>),
}

/// A commit that was read back.
#[derive(Debug)]
pub struct ReadCommit {
    pub version: u64,
    pub actions: Vec<Action>,
}

/// What tells an entry of a log from any other that may come to lie in its place: a table was made anew there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryId {
    e_tag: Option<String>,
    last_modified: DateTime<Utc>,
    size: u64,
}

impl EntryId {
    fn of(meta: &ObjectMeta) -> Self {
        Self { e_tag: meta.e_tag.clone(), last_modified: meta.last_modified, size: meta.size }
    }
}

impl ReadCommit {
    fn info(&self) -> Option<&HashMap<String, Value>> {
        self.actions.iter().find_map(|action| match action {
            Action::CommitInfo(info) => Some(&info.info),
            _ => None,
        })
    }

    /// The id of the flush that put it, when it is one of ours.
    pub fn flush_id(&self) -> Option<Uuid> {
        self.info()?.get(FLUSH_ID)?.as_str()?.parse().ok()
    }

    pub fn operation(&self) -> &str {
        self.actions
            .iter()
            .find_map(|action| match action {
                Action::CommitInfo(info) => info.operation.as_deref(),
                _ => None,
            })
            .unwrap_or("unknown operation")
    }

    /// When its author's clock said that it was made, epoch ms.
    pub fn timestamp_ms(&self) -> Option<i64> {
        self.actions.iter().find_map(|action| match action {
            Action::CommitInfo(info) => info.timestamp,
            _ => None,
        })
    }

    /// What we noted in it besides its id; null in a stranger's.
    pub fn note(&self) -> &Value {
        self.info().and_then(|info| info.get(NOTE)).unwrap_or(&Value::Null)
    }

    /// Whether it only lays rows out anew.
    pub fn is_maintenance(&self) -> bool {
        self.note()["maintenance"] == Value::Bool(true)
    }

    /// Whether it erases rows that nobody may keep: what was made of them stays as it is.
    pub fn is_erasure(&self) -> bool {
        self.note()["erasure"] == Value::Bool(true)
    }

    pub fn metadata(&self) -> Option<&Metadata> {
        self.actions.iter().find_map(|action| match action {
            Action::Metadata(metadata) => Some(metadata),
            _ => None,
        })
    }

    pub fn transactions(&self) -> impl Iterator<Item = &Transaction> {
        self.actions.iter().filter_map(|action| match action {
            Action::Txn(txn) => Some(txn),
            _ => None,
        })
    }

    pub fn adds(&self) -> impl Iterator<Item = &Add> {
        self.actions.iter().filter_map(|action| match action {
            Action::Add(add) => Some(add),
            _ => None,
        })
    }

    pub fn removes(&self) -> impl Iterator<Item = &Remove> {
        self.actions.iter().filter_map(|action| match action {
            Action::Remove(remove) => Some(remove),
            _ => None,
        })
    }

    /// Files with the rows that it changed, where it says these.
    pub fn changes(&self) -> impl Iterator<Item = &AddCDCFile> {
        self.actions.iter().filter_map(|action| match action {
            Action::Cdc(file) => Some(file),
            _ => None,
        })
    }

    /// Whether a stranger took rows in one stroke and without a trace of which: a restore, an
    /// overwrite, a replace. A delete is legal (erasure), and so is what names its rows.
    pub fn is_foreign_overwrite(&self) -> bool {
        let operation = self.operation();
        let is_legal = ["DELETE", "UPDATE", "MERGE"].iter().any(|legal| operation.eq_ignore_ascii_case(legal));
        self.flush_id().is_none() && (operation.eq_ignore_ascii_case("RESTORE") || (self.removes_data() && !is_legal))
    }

    pub fn removes_data(&self) -> bool {
        self.removes().any(|remove| remove.data_change)
    }

    pub fn removes_files(&self) -> bool {
        self.actions.iter().any(|action| matches!(action, Action::Remove(_)))
    }

    /// Whether it gave rows to dead letters, or counted them otherwise.
    pub fn settles_letters(&self) -> bool {
        self.info().is_some_and(|info| info.contains_key(SETTLES_LETTERS))
    }

    pub fn adds_data(&self) -> bool {
        self.adds().any(|add| add.data_change)
    }
}

/// When a base was read, by both clocks: one stands still while the machine sleeps, the other
/// may be set.
#[derive(Debug, Clone, Copy)]
pub struct ReadAt {
    monotonic: Instant,
    wall: SystemTime,
}

impl ReadAt {
    pub fn now() -> Self {
        Self { monotonic: Instant::now(), wall: SystemTime::now() }
    }

    pub fn is_stale(&self) -> bool {
        let wall = self.wall.elapsed().unwrap_or(Duration::MAX);
        self.monotonic.elapsed().max(wall) > BASE_BELIEVED_FOR
    }
}

impl fmt::Debug for CommitLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CommitLog({})", self.table)
    }
}

impl CommitLog {
    pub fn new(store: LogStoreRef, table: String) -> Self {
        Self { store, table }
    }

    pub fn store(&self) -> &LogStoreRef {
        &self.store
    }

    /// Lays out a commit; `metadata` goes to its `commitInfo`.
    ///
    /// # Errors
    /// [`CatalogError::Log`] when an action can't be serialised.
    pub fn lay_out(
        &self,
        actions: Vec<Action>,
        transactions: Vec<Transaction>,
        operation: DeltaOperation,
        mut metadata: HashMap<String, Value>,
    ) -> Result<Commit, CatalogError> {
        let id = Uuid::new_v4();
        metadata.insert(FLUSH_ID.to_owned(), Value::String(id.to_string()));
        metadata
            .insert("clientVersion".to_owned(), Value::String(concat!("sluicebox.", env!("CARGO_PKG_VERSION")).into()));
        let bytes = CommitData::new(actions, operation, metadata, transactions)
            .get_bytes()
            .map_err(|source| self.failed(source))?;
        Ok(Commit { id, bytes })
    }

    /// Puts `commit` as `version`, if nothing has that version yet.
    pub async fn put(&self, version: u64, commit: &Commit) -> Put {
        let bytes = CommitOrBytes::LogBytes(commit.bytes.clone());
        match self.store.write_commit_entry(version, bytes, commit.id).await {
            Ok(()) => Put::Landed,
            Err(TransactionError::VersionAlreadyExists(_)) => Put::Taken,
            Err(error) => Put::Unknown(Box::new(error)),
        }
    }

    /// Reads one commit, or nothing when the log has no entry of that version (any more).
    ///
    /// # Errors
    /// [`CatalogError::Log`]
    pub async fn read(&self, version: u64) -> Result<Option<ReadCommit>, CatalogError> {
        Ok(self.read_entry(version).await?.map(|(commit, _)| commit))
    }

    /// Reads one commit, and what tells its entry from any other that may lie there.
    ///
    /// # Errors
    /// As [`CommitLog::read`]
    pub async fn read_entry(&self, version: u64) -> Result<Option<(ReadCommit, EntryId)>, CatalogError> {
        let got = match self.store.object_store(None).get(&path_of(version)).await {
            Ok(got) => got,
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            Err(source) => return Err(self.failed(source)),
        };
        let entry = EntryId::of(&got.meta);
        let bytes = got.bytes().await.map_err(|source| self.failed(source))?;
        let actions = get_actions(version, &bytes).map_err(|source| self.failed(source))?;
        Ok(Some((ReadCommit { version, actions }, entry)))
    }

    /// What lies in the log as the entry of `version`, if anything does.
    ///
    /// # Errors
    /// [`CatalogError::Log`]
    pub async fn entry(&self, version: u64) -> Result<Option<EntryId>, CatalogError> {
        match self.store.object_store(None).head(&path_of(version)).await {
            Ok(meta) => Ok(Some(EntryId::of(&meta))),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(source) => Err(self.failed(source)),
        }
    }

    /// Whether the entry of `version` lies in the log. A log whose base is gone was cleaned up:
    /// nothing can be concluded from what follows the base.
    ///
    /// # Errors
    /// [`CatalogError::Log`]
    pub async fn holds(&self, version: u64) -> Result<bool, CatalogError> {
        Ok(self.entry(version).await?.is_some())
    }

    pub fn failed(&self, source: impl std::error::Error + Send + Sync + 'static) -> CatalogError {
        CatalogError::Log { table: self.table.clone(), source: Box::new(source) }
    }
}

fn path_of(version: u64) -> Path {
    Path::from(format!("_delta_log/{version:020}.json"))
}
