//! The tables of a lake as one process knows them: what was read of a log once isn't read again.
//!
//! A head is what a checkpoint and all commits behind it say. Kept, it costs a look at the commits since, and so do the
//! files that it stands for. A look reads on from the kept version `V`, then asks whether `V` is what it was:
//!
//! | entry `V` | entry `V + 1` | then |
//! |---|---|---|
//! | is the one that was read | isn't there | the head is as it was |
//! | is the one that was read | is there | it is read, and so on, up to 64 of them |
//! | is gone, or another | | all is read anew: the log was cleaned, or the table was made anew |

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use deltalake::kernel::Action;

use super::commit_log::{CommitLog, EntryId, ReadAt, ReadCommit};
use super::log::{TableHead, log_store, may_hold_table, read_head};
use super::state::{ActiveFile, active_files};
use super::{CatalogError, table_location};
use crate::config::spec::TableName;
use crate::storage::Location;

/// How many commits are followed one by one. Far fewer would read a busy table's checkpoint each time; far more would
/// take longer than reading that.
const MOST_FOLLOWED: usize = 64;

/// Of how many files, over all tables, it is kept that they are there: a file with its statistics takes about a kilobyte.
/// A table of more is listed anew each time.
const MOST_FILES: usize = 20_000;

/// The tables of one lake; clones know the same.
#[derive(Clone)]
pub struct Tables {
    lake: Location,
    known: Arc<Mutex<HashMap<TableName, Known>>>,
}

/// A table at its head.
#[derive(Debug, Clone)]
pub struct AtHead {
    pub log: CommitLog,
    pub head: TableHead,
    /// Before anything of it was read.
    pub read_at: ReadAt,
}

#[derive(Clone)]
struct Known {
    log: CommitLog,
    /// None where the log has no entry of that version, so that it can't be known again.
    kept: Option<Kept>,
}

/// What a log said.
#[derive(Clone)]
struct Kept {
    head: TableHead,
    /// What the entry of the head's version was.
    entry: EntryId,
    /// The files of the head's version, by path, where somebody has asked for them.
    files: Option<Arc<Vec<ActiveFile>>>,
}

impl fmt::Debug for Tables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tables({})", self.lake)
    }
}

impl Tables {
    /// Nothing is known of them yet.
    pub fn new(lake: &Location) -> Self {
        Self { lake: lake.clone(), known: Arc::default() }
    }

    pub fn lake(&self) -> &Location {
        &self.lake
    }

    /// The table at its head, or nothing where there is none yet.
    ///
    /// # Errors
    /// Errors of storage.
    pub async fn at_head(&self, name: &TableName) -> Result<Option<AtHead>, CatalogError> {
        let read_at = ReadAt::now();
        let known = self.lock().get(name).cloned();
        let log = match &known {
            Some(known) => known.log.clone(),
            None => {
                let location = table_location(&self.lake, name);
                if !may_hold_table(&location) {
                    return Ok(None);
                }
                CommitLog::new(log_store(&location)?, name.to_string())
            }
        };
        if let Some(kept) = known.and_then(|known| known.kept)
            && let Some(kept) = follow(&log, kept).await?
        {
            let head = kept.head.clone();
            self.keep(name, Known { log: log.clone(), kept: Some(kept) });
            return Ok(Some(AtHead { log, head, read_at }));
        }
        let Some(head) = read_head(log.store()).await? else {
            self.lock().remove(name);
            return Ok(None);
        };
        let entry = log.entry(head.version).await?;
        let kept = entry.map(|entry| Kept { head: head.clone(), entry, files: None });
        self.keep(name, Known { log: log.clone(), kept });
        Ok(Some(AtHead { log, head, read_at }))
    }

    /// The files of the table at `version`, by path.
    ///
    /// # Errors
    /// As [`active_files`]
    pub async fn files(
        &self,
        name: &TableName,
        log: &CommitLog,
        version: u64,
    ) -> Result<Arc<Vec<ActiveFile>>, CatalogError> {
        let of_version = |known: &Known| known.kept.clone().filter(|kept| kept.head.version == version);
        if let Some(files) = self.lock().get(name).and_then(of_version).and_then(|kept| kept.files) {
            return Ok(files);
        }
        let files = Arc::new(active_files(log, version).await?);
        let mut known = self.lock();
        let held: usize = known.iter().filter(|(other, _)| *other != name).map(|(_, known)| known.files()).sum();
        if held + files.len() > MOST_FILES {
            known.values_mut().filter_map(|known| known.kept.as_mut()).for_each(|kept| kept.files = None);
        }
        if files.len() <= MOST_FILES
            && let Some(kept) = known.get_mut(name).and_then(|known| known.kept.as_mut())
            && kept.head.version == version
        {
            kept.files = Some(Arc::clone(&files));
        }
        Ok(files)
    }

    fn keep(&self, name: &TableName, known: Known) {
        self.lock().insert(name.clone(), known);
    }

    /// What is known stays true, whoever panicked with it.
    fn lock(&self) -> MutexGuard<'_, HashMap<TableName, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn files(&self) -> usize {
        self.kept.as_ref().and_then(|kept| kept.files.as_ref()).map_or(0, |files| files.len())
    }
}

/// What was kept and the commits since, or nothing where all is to be read anew.
async fn follow(log: &CommitLog, mut kept: Kept) -> Result<Option<Kept>, CatalogError> {
    let (version, entry) = (kept.head.version, kept.entry.clone());
    let mut is_head = false;
    for _ in 0..MOST_FOLLOWED {
        match log.read_entry(kept.head.version + 1).await? {
            Some((commit, entry)) => kept.apply(&commit, entry),
            None => {
                is_head = true;
                break;
            }
        }
    }
    // Asked last: what a log was cleaned of goes from the oldest entry on.
    Ok(if is_head && log.entry(version).await? == Some(entry) { Some(kept) } else { None })
}

impl Kept {
    fn apply(&mut self, commit: &ReadCommit, entry: EntryId) {
        self.head.version = commit.version;
        self.entry = entry;
        for action in &commit.actions {
            match action {
                Action::Metadata(metadata) => self.head.metadata = metadata.clone(),
                Action::Protocol(protocol) => self.head.protocol = protocol.clone(),
                Action::Txn(txn) => {
                    self.head.transactions.insert(txn.app_id.clone(), txn.version);
                }
                _ => {}
            }
        }
        let Some(files) = &mut self.files else { return };
        if commit.adds().next().is_none() && commit.removes().next().is_none() {
            return;
        }
        // Whoever lists the files tells what is wrong with them.
        if commit.adds().any(|add| add.deletion_vector.is_some()) {
            self.files = None;
            return;
        }
        let gone: HashSet<&str> = commit.removes().map(|remove| remove.path.as_str()).collect();
        let new: HashMap<&str, ActiveFile> = commit.adds().map(|add| (add.path.as_str(), add.into())).collect();
        let files = Arc::make_mut(files);
        files.retain(|file| !gone.contains(file.path.as_str()) && !new.contains_key(file.path.as_str()));
        files.extend(new.into_values());
        files.sort_by(|one, other| one.path.cmp(&other.path));
    }
}
