//! One process at a time reads a pipeline's live partitions, where the state lies in a folder.
//!
//! The lock belongs to the open file: it is gone with the process, however that ends. It keeps
//! readers of one consumer group apart; the table is kept right by its ledger alone.

use std::fs::{File, TryLockError};
use std::path::PathBuf;

use super::PipelineError;
use crate::storage::Location;

/// A file that one process holds at a time.
#[derive(Debug)]
pub struct FileLock(#[expect(dead_code, reason = "open, it is locked")] File);

impl FileLock {
    /// Takes it, and makes it where it isn't there; none when another holds it.
    ///
    /// # Errors
    /// [`PipelineError::File`]
    pub fn take(path: PathBuf) -> Result<Option<Self>, PipelineError> {
        let failed = |source| PipelineError::File { path: path.clone(), source };
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(failed)?;
        }
        let file = File::options().create(true).append(true).open(&path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Self(file))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(source)) => Err(failed(source)),
        }
    }
}

/// Held for as long as the pipeline runs.
#[derive(Debug)]
pub struct PipelineLock {
    _held: Option<FileLock>,
}

impl PipelineLock {
    /// Takes the lock; storage that isn't a folder has none.
    ///
    /// # Errors
    /// [`PipelineError::Owned`] when another process holds it.
    pub fn take(state: &Location, pipeline: &str, group: &str) -> Result<Self, PipelineError> {
        let Some(folder) = state.join("locks").folder() else { return Ok(Self { _held: None }) };
        let name: String = format!("{pipeline}@{group}.lock")
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() || "._-@$".contains(c) { c } else { '_' })
            .collect();
        let path = folder.join(name);
        match FileLock::take(path.clone())? {
            Some(held) => Ok(Self { _held: Some(held) }),
            None => Err(PipelineError::Owned { pipeline: pipeline.to_owned(), group: group.to_owned(), path }),
        }
    }
}
