//! One process at a time reads a pipeline's live partitions, where the state lies in a folder.
//!
//! The lock belongs to the open file: it is gone with the process, however that ends. It keeps
//! readers of one consumer group apart; the table is kept right by its ledger alone.

use std::fs::{File, TryLockError};
use std::path::PathBuf;

use super::PipelineError;
use crate::storage::Location;

/// Held for as long as the pipeline runs.
#[derive(Debug)]
pub struct PipelineLock {
    _file: Option<File>,
}

impl PipelineLock {
    /// Takes the lock; storage that isn't a folder has none.
    ///
    /// # Errors
    /// [`PipelineError::Owned`] when another process holds it.
    pub fn take(state: &Location, pipeline: &str, group: &str) -> Result<Self, PipelineError> {
        let Some(folder) = state.join("locks").folder() else { return Ok(Self { _file: None }) };
        let name: String = format!("{pipeline}@{group}.lock")
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() || "._-@$".contains(c) { c } else { '_' })
            .collect();
        let path: PathBuf = folder.join(name);
        let failed = |source| PipelineError::File { path: path.clone(), source };
        std::fs::create_dir_all(&folder).map_err(failed)?;
        let file = File::options().create(true).append(true).open(&path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => Ok(Self { _file: Some(file) }),
            Err(TryLockError::WouldBlock) => {
                Err(PipelineError::Owned { pipeline: pipeline.to_owned(), group: group.to_owned(), path })
            }
            Err(TryLockError::Error(source)) => Err(failed(source)),
        }
    }
}
