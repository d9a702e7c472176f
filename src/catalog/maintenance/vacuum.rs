//! Files of a table's folder that no version of the last days names.
//!
//! Deleted is what lies in the folder, is a Parquet file, is older than `vacuum_after`, and is named
//! neither by the head, nor by the version that was the head `vacuum_after` ago, nor by any commit that a
//! stream hasn't read yet: what that adds, and, for the stream of a table that is updated, what it takes out and its files
//! of changes. What came in between is younger. A writer's files that aren't committed yet
//! are younger, too, or the writer has been at it for longer than `vacuum_after`.

use std::collections::HashSet;
use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _, stream};
use object_store::path::Path;

use super::cleanup::LogEntries;
use super::{Keep, MaintainedTable, MaintenanceError, ms_ago};
use crate::catalog::change_data::FOLDER;
use crate::catalog::state::active_files;
use crate::config::spec::MaintenanceSpec;

/// A file is stored before the commit that names it, by minutes; this allows for hours.
const LONGEST_FLUSH: Duration = Duration::from_secs(3 * 60 * 60);

/// Commits that are read at once.
const READS_AT_ONCE: usize = 16;

/// A file that may go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unnamed {
    pub path: Path,
    pub bytes: u64,
}

impl MaintainedTable {
    /// The files that may go, by path. `entries` were listed after the head was read.
    ///
    /// # Errors
    /// [`MaintenanceError::Outside`] where the table names a file that isn't in its folder, and errors of storage:
    /// where the past can't be read, nothing may go.
    pub async fn unnamed_files(
        &self,
        entries: &LogEntries,
        keep: Keep,
        spec: &MaintenanceSpec,
    ) -> Result<Vec<Unnamed>, MaintenanceError> {
        let after = self.wants.deleted_file_retention.map_or(spec.vacuum_after, |wanted| wanted.max(spec.vacuum_after));
        // The log says when a file was committed; when it was stored may be earlier.
        let stored_before = ms_ago(after + LONGEST_FLUSH.min(after / 8));
        let mut candidates = self.old_files(stored_before).await?;
        if candidates.is_empty() {
            return Ok(Vec::new());
        }
        self.spare(&mut candidates, self.version()).await?;
        // What was the head when the time began that a reader may look back on.
        let base = match entries.first_since(ms_ago(after)) {
            Some(first) => first.checked_sub(1).filter(|base| entries.holds(*base)).unwrap_or(first),
            None => self.version(),
        };
        for version in [Some(base), keep.pinned].into_iter().flatten().filter(|version| *version < self.version()) {
            if !candidates.is_empty() {
                self.spare(&mut candidates, version).await?;
            }
        }
        if let Some(oldest) = keep.oldest()
            && !candidates.is_empty()
        {
            self.spare_unread(&mut candidates, oldest + 1..=base).await?;
        }
        let mut files: Vec<Unnamed> = candidates.into_iter().map(|(path, bytes)| Unnamed { path, bytes }).collect();
        files.sort_by(|one, other| one.path.cmp(&other.path));
        Ok(files)
    }

    /// Deletes files. Gives how many.
    ///
    /// # Errors
    /// [`MaintenanceError::Folder`]; the rest is left for the next run.
    pub async fn delete_files(&self, files: &[Unnamed]) -> Result<u64, MaintenanceError> {
        let store = self.log.store().object_store(None);
        let paths: Vec<_> = files.iter().map(|file| Ok(file.path.clone())).collect();
        let deleted = store.delete_stream(stream::iter(paths).boxed()).map(|deleted| match deleted {
            Err(object_store::Error::NotFound { .. }) => Ok(Path::default()),
            other => other,
        });
        let deleted: Vec<_> = deleted.try_collect().await.map_err(|source| self.folder_failed(source))?;
        Ok(deleted.len() as u64)
    }

    /// Parquet files of the folder that were stored before then; not those of folders that are hidden.
    async fn old_files(&self, before_ms: i64) -> Result<HashSet<(Path, u64)>, MaintenanceError> {
        let store = self.log.store().object_store(None);
        let partitions = self.head.metadata.partition_columns();
        let files = store.list(None).try_filter_map(|file| async move {
            let is_old = file.last_modified.timestamp_millis() < before_ms;
            let is_ours = is_data_file(&file.location, partitions);
            Ok((is_old && is_ours).then_some((file.location, file.size)))
        });
        files.try_collect().await.map_err(|source| self.folder_failed(source))
    }

    /// Takes out what a version is made of.
    async fn spare(&self, candidates: &mut HashSet<(Path, u64)>, version: u64) -> Result<(), MaintenanceError> {
        let named = active_files(&self.log, version).await?;
        let named = named.iter().map(|file| self.path_of(&file.path));
        let named: HashSet<Path> = named.collect::<Result<_, _>>()?;
        candidates.retain(|(path, _)| !named.contains(path));
        Ok(())
    }

    /// Takes out what commits name.
    async fn spare_unread(
        &self,
        candidates: &mut HashSet<(Path, u64)>,
        versions: std::ops::RangeInclusive<u64>,
    ) -> Result<(), MaintenanceError> {
        let mut commits = stream::iter(versions).map(|version| self.log.read(version)).buffered(READS_AT_ONCE);
        while let Some(commit) = commits.try_next().await? {
            let Some(commit) = commit else { continue };
            let added = commit.adds().map(|add| &add.path);
            let removed = commit.removes().filter(|remove| remove.data_change).map(|remove| &remove.path);
            let changes = commit.changes().map(|file| &file.path);
            let named = added.chain(removed).chain(changes).map(|path| self.path_of(path));
            let named: HashSet<Path> = named.collect::<Result<_, _>>()?;
            candidates.retain(|(path, _)| !named.contains(path));
        }
        Ok(())
    }

    fn path_of(&self, path: &str) -> Result<Path, MaintenanceError> {
        let outside = || MaintenanceError::Outside { table: self.log.table.clone(), path: path.to_owned() };
        if path.starts_with('/') || path.contains("://") || path.split('/').any(|part| part == "..") {
            return Err(outside());
        }
        Path::parse(path).map_err(|_| outside())
    }
}

/// Whether a file may be one of the table's rows, or of its change feed's. What else begins with `_` or `.` belongs to
/// somebody else, except where it is the folder of a partition.
fn is_data_file(path: &Path, partitions: &[String]) -> bool {
    let is_hidden = |part: &str| {
        let is_partition = part.split_once('=').is_some_and(|(name, _)| partitions.iter().any(|column| column == name));
        part.starts_with(['_', '.']) && !is_partition
    };
    let is_of_feed = path.parts().next().is_some_and(|part| part.as_ref() == FOLDER);
    path.extension() == Some("parquet")
        && !path.parts().skip(usize::from(is_of_feed)).any(|part| is_hidden(part.as_ref()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_rows_of_the_table_are_looked_at() {
        let partitions = ["_enqueued_date".to_owned()];
        for (path, expected) in [
            ("part-0.parquet", true),
            ("_enqueued_date=2026-01-01/part-0.parquet", true),
            ("x/y/part-0.parquet", true),
            ("_delta_log/00000000000000000010.checkpoint.parquet", false),
            ("_change_data/cdc-0.parquet", true),
            ("_change_data/_enqueued_date=2026-01-01/cdc-0.parquet", true),
            ("_change_data/_hidden/cdc-0.parquet", false),
            ("x/_change_data/cdc-0.parquet", false),
            ("_other=1/part-0.parquet", false),
            (".hidden/part-0.parquet", false),
            ("_enqueued_date=2026-01-01/.part-0.parquet", false),
            ("deletion_vector.bin", false),
            ("README", false),
        ] {
            assert_eq!(is_data_file(&Path::from(path), &partitions), expected, "{path}");
        }
    }
}
