//! The tables that a transform reads: pinned at a version, or what was added to them since.
//!
//! Of a table that only grows, new rows are those of the files that a range of versions added with `dataChange`. A commit that
//! only lays rows out anew adds none, and so do the commits that we mark as erasure: both are
//! passed over. Any other commit that takes rows away would have to take away what was made of
//! them, too: that is an error with the ways out.
//!
//! Of a table that is updated, what is new are its changes ([`change_data`]): a first run reads the rows that it has as
//! inserted, and what comes later version by version. Nothing that is taken away stops it.

use arrow::datatypes::SchemaRef;

use super::columns::{Evolved, evolve};
use super::consumed::Position;
use super::{TakenBy, TransformError};
use crate::catalog::commit_log::{CommitLog, ReadCommit};
use crate::catalog::log::TableHead;
use crate::catalog::state::{ActiveFile, active_files, arrow_schema, rows_in, schema_at};
use crate::catalog::tables::{AtHead, Tables};
use crate::catalog::{CatalogError, change_data};
use crate::config::spec::TableName;

/// What is new in a table, for who streams it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News {
    /// Rows that are added.
    Rows,
    /// Rows that are inserted, updated and deleted.
    Changes,
}

/// What a commit that begins a table anew notes of itself.
pub const REFRESH: &str = "refresh";

/// A table at the version that a run has pinned it to.
#[derive(Debug)]
pub struct InputTable {
    pub name: TableName,
    pub log: CommitLog,
    pub head: TableHead,
    pub schema: SchemaRef,
    pub news: News,
    /// The version that head and columns are of; a run may be pinned to an older one.
    pub opened: u64,
    /// Its files at the version that a first run goes through, once they were listed.
    listed: Option<(u64, Vec<ActiveFile>)>,
    /// When the first commit that was passed over for bringing no rows was made, epoch ms.
    pub skipped_since_ms: Option<i64>,
}

/// A bounded part of what is new.
#[derive(Debug, Clone)]
pub struct Part {
    pub files: Vec<ActiveFile>,
    /// Where the input stands once these files are in.
    pub position: Position,
}

impl Part {
    /// How many rows the files have, where all of them say so.
    pub fn rows(&self) -> Option<u64> {
        self.files.iter().map(|file| rows_in(file.stats.as_deref())).sum()
    }
}

impl InputTable {
    /// The table at its head, or nothing where there is none yet.
    ///
    /// # Errors
    /// Errors of storage.
    pub async fn open(tables: &Tables, name: &TableName) -> Result<Option<Self>, TransformError> {
        let Some(AtHead { log, head, .. }) = tables.at_head(name).await? else { return Ok(None) };
        let schema = arrow_schema(&log, &head.metadata)?;
        let opened = head.version;
        let (name, news) = (name.clone(), News::Rows);
        Ok(Some(Self { name, log, head, schema, news, opened, listed: None, skipped_since_ms: None }))
    }

    pub fn id(&self) -> &str {
        self.head.metadata.id()
    }

    pub fn partition_columns(&self) -> &[String] {
        self.head.metadata.partition_columns()
    }

    /// What comes after `position`, of about `bytes`; up to `end` where a try before this one
    /// has fixed that. None when nothing is left up to the pinned version.
    ///
    /// # Errors
    /// [`TransformError::RowsTaken`], [`TransformError::VersionGone`] and errors of storage.
    pub async fn next_part(
        &mut self,
        position: Position,
        end: Option<Position>,
        bytes: u64,
        skip: &[u64],
    ) -> Result<Option<Part>, TransformError> {
        if end == Some(position) {
            return Ok(None);
        }
        // Its files have columns of other names, and all would be null.
        if self.head.metadata.configuration().get("delta.columnMapping.mode").is_some_and(|mode| mode != "none") {
            let (table, feature) = (self.name.to_string(), "its columns are mapped to other names".to_owned());
            return Err(CatalogError::Unsupported { table, feature }.into());
        }
        match position {
            Position::Nothing => {
                let version = match end {
                    Some(Position::Snapshot { version, .. } | Position::Version(version)) => version,
                    _ => self.head.version,
                };
                self.part_of_snapshot(version, 0, end, bytes).await.map(Some)
            }
            Position::Snapshot { version, files } => self.part_of_snapshot(version, files, end, bytes).await.map(Some),
            Position::Version(version) if version < self.head.version => {
                self.part_of_versions(version, end, bytes, skip).await
            }
            Position::Version(_) => Ok(None),
        }
    }

    /// The first run takes the table as it is at one version: what it was made of before may be
    /// compacted and vacuumed.
    async fn part_of_snapshot(
        &mut self,
        version: u64,
        done: u64,
        end: Option<Position>,
        bytes: u64,
    ) -> Result<Part, TransformError> {
        if self.listed.as_ref().is_none_or(|(listed, _)| *listed != version) {
            let files = active_files(&self.log, version).await;
            let files = files.map_err(|source| TransformError::SnapshotGone {
                table: self.name.clone(),
                version,
                source: Box::new(source),
            })?;
            if !files.iter().all(|file| self.has_layout_of(file)) {
                let (table, operation) = (self.name.clone(), "WRITE".to_owned());
                return Err(TransformError::RowsTaken { table, version: self.opened, operation, by: TakenBy::Refresh });
            }
            self.listed = Some((version, self.as_inserted(version, files).await?));
        }
        let all = self.listed.as_ref().map(|(_, files)| files.as_slice()).unwrap_or_default();
        let done = usize::try_from(done).unwrap_or(usize::MAX).min(all.len());
        let taken = match end {
            Some(Position::Snapshot { files, .. }) => usize::try_from(files).unwrap_or(usize::MAX).saturating_sub(done),
            Some(Position::Version(_)) => all.len(),
            _ => within(all[done..].iter().map(|file| file.size), bytes),
        };
        let until = (done + taken).min(all.len());
        let position = if until == all.len() {
            Position::Version(version)
        } else {
            Position::Snapshot { version, files: until as u64 }
        };
        Ok(Part { files: all[done..until].to_vec(), position })
    }

    async fn part_of_versions(
        &mut self,
        consumed: u64,
        end: Option<Position>,
        bytes: u64,
        skip: &[u64],
    ) -> Result<Option<Part>, TransformError> {
        let last = match end {
            Some(Position::Version(version)) => version.min(self.head.version),
            _ => self.head.version,
        };
        let mut part = Part { files: Vec::new(), position: Position::Version(consumed) };
        let mut held = 0;
        for version in consumed + 1..=last {
            let Some(commit) = self.log.read(version).await? else {
                return Err(TransformError::VersionGone { table: self.name.clone(), version });
            };
            let new = if skip.contains(&version) { Vec::new() } else { self.new_files(&commit).await? };
            let size: u64 = new.iter().map(|file| u64::try_from(file.size).unwrap_or_default()).sum();
            let is_full = !part.files.is_empty() && held + size > bytes;
            if is_full && !matches!(end, Some(Position::Version(_))) {
                break;
            }
            if part.files.is_empty() && new.is_empty() && self.skipped_since_ms.is_none() {
                self.skipped_since_ms = commit.timestamp_ms();
            }
            held += size;
            part.files.extend(new);
            part.position = Position::Version(version);
        }
        Ok(Some(part))
    }

    /// The files that a commit brought new rows in.
    async fn new_files(&self, commit: &ReadCommit) -> Result<Vec<ActiveFile>, TransformError> {
        if commit.is_maintenance() || commit.is_erasure() {
            return Ok(Vec::new());
        }
        if self.news == News::Changes {
            return self.changed_files(commit).await;
        }
        if commit.removes_data() {
            let by = match commit.flush_id() {
                None => TakenBy::Stranger,
                Some(_) if commit.note()[REFRESH] == true => TakenBy::Refresh,
                Some(_) => TakenBy::Update,
            };
            let operation = commit.operation().to_owned();
            return Err(TransformError::RowsTaken { table: self.name.clone(), version: commit.version, operation, by });
        }
        Ok(commit.adds().filter(|add| add.data_change).map(ActiveFile::from).collect())
    }
}

impl InputTable {
    /// Files that the table has, as a first run takes them.
    async fn as_inserted(&self, version: u64, files: Vec<ActiveFile>) -> Result<Vec<ActiveFile>, TransformError> {
        if self.news == News::Rows {
            return Ok(files);
        }
        // Of a version that is cleaned up by now nobody knows the time.
        let at_ms = self.log.read(version).await?.and_then(|commit| commit.timestamp_ms());
        let of = change_data::Commit { version, at_ms };
        Ok(files.into_iter().map(|file| of.inserted(file)).collect())
    }

    /// Whether a file is laid out by the partitions that the table has now.
    fn has_layout_of(&self, file: &ActiveFile) -> bool {
        let names = self.partition_columns();
        let own = file.partition_values.keys().filter(|name| !change_data::COLUMNS.contains(&name.as_str()));
        own.clone().count() == names.len() && own.clone().all(|name| names.contains(name))
    }

    async fn changed_files(&self, commit: &ReadCommit) -> Result<Vec<ActiveFile>, TransformError> {
        let files = change_data::changed_files(&self.log, commit).await?;
        // A table that was begun anew may have other columns and partitions than the rows that went: they can't be
        // read as its own any more.
        let is_anew = commit.metadata().is_some() && commit.removes_data() && !self.follows(commit.version).await?;
        if is_anew || !files.iter().all(|file| self.has_layout_of(file)) {
            let (table, operation) = (self.name.clone(), commit.operation().to_owned());
            return Err(TransformError::RowsTaken { table, version: commit.version, operation, by: TakenBy::Refresh });
        }
        Ok(files)
    }

    /// Whether the columns that the table had before a version are columns of it still.
    async fn follows(&self, version: u64) -> Result<bool, TransformError> {
        let Some(before) = version.checked_sub(1) else { return Ok(true) };
        let before = schema_at(&self.log, before).await.map_err(|source| TransformError::SnapshotGone {
            table: self.name.clone(),
            version: before,
            source: Box::new(source),
        })?;
        Ok(!matches!(evolve(&before, &self.schema), Evolved::Broken(_)))
    }
}

/// How many of these sizes fit into `bytes`; one at least.
fn within(sizes: impl Iterator<Item = i64>, bytes: u64) -> usize {
    let mut held = 0;
    let mut count = 0;
    for size in sizes {
        held += u64::try_from(size).unwrap_or_default();
        if count > 0 && held > bytes {
            break;
        }
        count += 1;
    }
    count
}

#[cfg(test)]
mod tests {
    use super::within;

    #[test]
    fn a_part_is_bounded_and_never_empty() {
        for (sizes, bytes, expected) in [
            (vec![10, 10, 10], 20, 2),
            (vec![10, 10, 10], 25, 2),
            (vec![10, 10, 10], 100, 3),
            (vec![50, 1], 20, 1),
            (vec![], 20, 0),
        ] {
            assert_eq!(within(sizes.iter().copied(), bytes), expected, "{sizes:?} {bytes}");
        }
    }
}
