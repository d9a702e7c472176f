//! What keeps a table quick to read, one table at a time: compaction, checkpoints, log cleanup, vacuum.
//!
//! ```text
//! head ─▶ files ─▶ jobs ─▶ read, sort, write ─▶ commit (no data change) ─┐  again for each job
//!                   ▲                                                    │
//!                   └───────────── lost: another took a file ◀───────────┘
//! log ──▶ checkpoint ──▶ entries below the oldest that somebody needs ─▶ deleted
//! folder ▶ files that no version of the last days names ─▶ deleted
//! ```
//!
//! Nothing here is on the path of a commit, and nothing has to be done: a kill between any two steps,
//! or within one, leaves the same rows under the same versions. Compaction lands by the commit that
//! [`super::rewrite`] guards; what deletes looks first and deletes only what no reader of [`Keep`] can
//! need, so that a second process that does the same does no harm.

pub mod cleanup;
pub mod compact;
pub mod jobs;
pub mod readers;
pub mod vacuum;

use std::time::SystemTime;

use super::CatalogError;
use super::commit_log::{CommitLog, ReadAt};
use super::data_file::FileError;
use super::log::{TableHead, WantedUpkeep, log_store_to_read, read_head};
use super::rewrite::Base;
use super::state::refuse_unrewritable;
use crate::error::{Classify, Kind, Retry};
use crate::storage::Location;

#[derive(Debug, thiserror::Error)]
pub enum MaintenanceError {
    #[error("files of table `{table}` can't be read")]
    Read { table: String, source: Box<datafusion::error::DataFusionError> },
    #[error("files of table `{table}` can't be written")]
    Write { table: String, source: FileError },
    #[error("the folder of table `{table}` can't be listed, or what is to go can't be deleted")]
    Folder { table: String, source: object_store::Error },
    /// Nothing was changed.
    #[error("{read} rows were read of table `{table}`, which says that they are {expected}")]
    RowsDiffer { table: String, read: u64, expected: u64 },
    #[error("table `{table}` names a file that has no place in its folder: `{path}`")]
    Outside { table: String, path: String },
    #[error(transparent)]
    Catalog(#[from] CatalogError),
}

impl Classify for MaintenanceError {
    fn kind(&self) -> Kind {
        match self {
            Self::Read { .. } | Self::Write { .. } | Self::Folder { .. } => Kind::External,
            Self::RowsDiffer { .. } => Kind::Data,
            Self::Outside { .. } => Kind::User,
            Self::Catalog(error) => error.kind(),
        }
    }

    fn retry(&self) -> Retry {
        match self {
            Self::Catalog(error) => error.retry(),
            other if other.kind() == Kind::External => Retry::Backoff,
            _ => Retry::Never,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::RowsDiffer { .. } => Some(
                "the table was left as it was: a file or its statistics are wrong; `sluice audit` says whether rows are \
                 missing"
                    .to_owned(),
            ),
            Self::Outside { .. } => Some("a table that names files elsewhere isn't vacuumed".to_owned()),
            Self::Catalog(error) => error.hint(),
            _ => None,
        }
    }
}

/// A table that is maintained, at its head.
#[derive(Debug, Clone)]
pub struct MaintainedTable {
    pub log: CommitLog,
    pub head: TableHead,
    pub wants: WantedUpkeep,
    read_at: ReadAt,
}

impl MaintainedTable {
    /// Opens the table at `location`, or finds that there is none.
    ///
    /// # Errors
    /// [`CatalogError::Unsupported`] for what our files would break, and errors of storage.
    pub async fn open(location: &Location, name: &str) -> Result<Option<Self>, MaintenanceError> {
        let Some(store) = log_store_to_read(location).await? else { return Ok(None) };
        let log = CommitLog::new(store, name.to_owned());
        let read_at = ReadAt::now();
        let Some(head) = read_head(log.store()).await? else { return Ok(None) };
        refuse_unrewritable(&log, &head.protocol, &head.metadata)?;
        let wants = WantedUpkeep::of(&head.metadata);
        Ok(Some(Self { log, head, wants, read_at }))
    }

    /// Reads the head anew.
    ///
    /// # Errors
    /// As [`MaintainedTable::open`].
    pub async fn reload(&mut self) -> Result<(), MaintenanceError> {
        let read_at = ReadAt::now();
        if let Some(head) = read_head(self.log.store()).await? {
            refuse_unrewritable(&self.log, &head.protocol, &head.metadata)?;
            self.wants = WantedUpkeep::of(&head.metadata);
            (self.head, self.read_at) = (head, read_at);
        }
        Ok(())
    }

    /// The id that the `txn`s of its readers name.
    pub fn id(&self) -> &str {
        self.head.metadata.id()
    }

    pub fn version(&self) -> u64 {
        self.head.version
    }

    /// Whether the head was read too long ago for a commit upon it.
    pub fn is_stale(&self) -> bool {
        self.read_at.is_stale()
    }

    fn base(&self) -> Base {
        Base { version: self.head.version, read_at: self.read_at }
    }
}

/// What others need of a table's past.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Keep {
    /// The lowest version up to which a stream has read the table. What came later it will ask for.
    pub consumed: Option<u64>,
    /// The lowest version whose files a stream is at work to read, all of them.
    pub pinned: Option<u64>,
}

impl Keep {
    /// The lower of both.
    pub fn and(self, other: Self) -> Self {
        let lower = |one: Option<u64>, other: Option<u64>| one.into_iter().chain(other).min();
        Self { consumed: lower(self.consumed, other.consumed), pinned: lower(self.pinned, other.pinned) }
    }

    /// The oldest version that somebody asks the log for.
    pub fn oldest(self) -> Option<u64> {
        self.consumed.into_iter().chain(self.pinned).min()
    }
}

/// Epoch ms of that long ago.
fn ms_ago(ago: std::time::Duration) -> i64 {
    let then = SystemTime::now().checked_sub(ago).and_then(|then| then.duration_since(SystemTime::UNIX_EPOCH).ok());
    then.map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}
