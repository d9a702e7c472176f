//! The log: checkpoints, and which of its entries may go.

use futures::{StreamExt as _, TryStreamExt as _};
use object_store::ObjectStoreExt as _;
use object_store::path::Path;
use serde::Deserialize;

use super::{Keep, MaintainedTable, MaintenanceError, ms_ago};
use crate::catalog::log::{read_checkpoint, write_checkpoint};
use crate::config::spec::MaintenanceSpec;

/// So many entries are deleted at a time, the oldest first.
const DELETED_AT_ONCE: usize = 1000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    Commit,
    /// Of one file, under the name that every reader knows.
    Checkpoint,
    /// What belongs to a version, and of which nothing is concluded: a checksum, a checkpoint of several files.
    Beside,
}

/// A file of the log that belongs to one version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    pub version: u64,
    pub kind: EntryKind,
    /// When the store took it, epoch ms.
    pub at_ms: i64,
    location: Path,
}

/// The files of a log, by version.
#[derive(Debug, Clone, Default)]
pub struct LogEntries(Vec<LogEntry>);

/// What of a log may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    /// Every entry below it may go. The log is whole from it on.
    pub below: u64,
    /// No checkpoint stands there yet.
    pub needs_checkpoint: bool,
}

impl LogEntries {
    fn commits(&self) -> impl DoubleEndedIterator<Item = &LogEntry> {
        self.0.iter().filter(|entry| entry.kind == EntryKind::Commit)
    }

    pub fn holds(&self, version: u64) -> bool {
        self.commits().any(|entry| entry.version == version)
    }

    /// The first version that was committed at that time or after it.
    pub fn first_since(&self, at_ms: i64) -> Option<u64> {
        self.commits().find(|entry| entry.at_ms >= at_ms).map(|entry| entry.version)
    }

    fn checkpoints(&self) -> impl Iterator<Item = u64> {
        self.0.iter().filter(|entry| entry.kind == EntryKind::Checkpoint).map(|entry| entry.version)
    }

    /// Whether each version from `from` to `head` has its commit.
    fn is_whole(&self, from: u64, head: u64) -> bool {
        let held = self.commits().filter(|entry| (from..=head).contains(&entry.version)).count() as u64;
        head.checked_sub(from).is_some_and(|between| held == between + 1)
    }

    /// Up to where the log may be cut: a checkpoint with all that came after it, below which nobody asks for
    /// anything. Nothing, where that would free nothing.
    ///
    /// - The head and what is younger than `cutoff_ms` stay, and all that came after the first of that.
    /// - What `keep` names stays, the last version that a stream has read too: by it the stream knows the head.
    /// - Never above the checkpoint that `_last_checkpoint` names: readers begin there.
    pub fn cut(&self, head: u64, hint: Option<u64>, keep: Keep, cutoff_ms: i64, checkpoint_every: u64) -> Option<Cut> {
        let kept = [Some(head), hint, keep.oldest(), self.first_since(cutoff_ms)];
        let kept = kept.into_iter().flatten().min()?;
        hint?;
        let oldest = self.commits().next()?.version;
        let held = self.checkpoints().filter(|version| *version <= kept).max();
        let frees = |below: u64| below.saturating_sub(oldest);
        let cut = match held {
            Some(below) if frees(kept) - frees(below) < checkpoint_every => Cut { below, needs_checkpoint: false },
            _ if frees(kept) >= checkpoint_every => Cut { below: kept, needs_checkpoint: true },
            Some(below) => Cut { below, needs_checkpoint: false },
            None => return None,
        };
        (frees(cut.below) > 0 && self.is_whole(cut.below, head)).then_some(cut)
    }

    /// What may go below a cut.
    pub fn below(&self, cut: Cut, cutoff_ms: i64) -> Vec<&LogEntry> {
        self.0.iter().filter(|entry| entry.version < cut.below && entry.at_ms < cutoff_ms).collect()
    }
}

/// What of `_last_checkpoint` is needed.
#[derive(Debug, Deserialize)]
struct LastCheckpoint {
    version: u64,
}

impl MaintainedTable {
    /// Lists the log.
    ///
    /// # Errors
    /// [`MaintenanceError::Folder`]
    pub async fn log_entries(&self) -> Result<LogEntries, MaintenanceError> {
        let store = self.log.store();
        let listed = store.object_store(None).list(Some(store.log_path()));
        let entries = listed.try_filter_map(|file| async move {
            let name = file.location.filename().unwrap_or_default();
            let is_direct = file.location.as_ref() == format!("_delta_log/{name}");
            Ok(entry_of(name).filter(|_| is_direct).map(|(version, kind)| LogEntry {
                version,
                kind,
                at_ms: file.last_modified.timestamp_millis(),
                location: file.location,
            }))
        });
        let mut entries: Vec<LogEntry> = entries.try_collect().await.map_err(|source| self.folder_failed(source))?;
        entries.sort_by(|one, other| (one.version, &one.location).cmp(&(other.version, &other.location)));
        Ok(LogEntries(entries))
    }

    /// The version of the checkpoint from which readers begin.
    ///
    /// # Errors
    /// [`MaintenanceError::Folder`]
    pub async fn last_checkpoint(&self) -> Result<Option<u64>, MaintenanceError> {
        let store = self.log.store().object_store(None);
        let path = self.log.store().log_path().clone().join("_last_checkpoint");
        match store.get(&path).await {
            Ok(held) => {
                let bytes = held.bytes().await.map_err(|source| self.folder_failed(source))?;
                Ok(serde_json::from_slice::<LastCheckpoint>(&bytes).ok().map(|held| held.version))
            }
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(source) => Err(self.folder_failed(source)),
        }
    }

    /// Whether the log has grown enough since its last checkpoint.
    pub fn wants_checkpoint(&self, last: Option<u64>, spec: &MaintenanceSpec) -> bool {
        let since = last.map_or(self.version() + 1, |last| self.version().saturating_sub(last));
        since >= spec.checkpoint_every
    }

    /// Writes a checkpoint of a version that the log has.
    ///
    /// # Errors
    /// Errors of storage.
    pub async fn write_checkpoint(&self, version: u64) -> Result<(), MaintenanceError> {
        Ok(write_checkpoint(self.log.store(), version).await?)
    }

    /// Finds that a checkpoint is there and can be read.
    ///
    /// # Errors
    /// That it isn't, and errors of storage.
    pub async fn read_checkpoint(&self, version: u64) -> Result<(), MaintenanceError> {
        Ok(read_checkpoint(self.log.store(), version).await?)
    }

    /// Entries that are older than this may go: the longer of what is declared, and what the table's own properties
    /// say. Nothing may where these say that.
    pub fn log_cutoff_ms(&self, spec: &MaintenanceSpec) -> Option<i64> {
        let retention = self.wants.log_retention.map_or(spec.log_retention, |wanted| wanted.max(spec.log_retention));
        (spec.clean_log && self.wants.cleans_log).then(|| ms_ago(retention))
    }

    /// Deletes entries, the oldest first, so that what is left is always the log from some version on. Gives how many.
    ///
    /// # Errors
    /// [`MaintenanceError::Folder`]; the rest is left for the next run.
    pub async fn delete_entries(&self, entries: &[&LogEntry]) -> Result<u64, MaintenanceError> {
        let store = self.log.store().object_store(None);
        let failed = |source| self.folder_failed(source);
        // Who reads the log from its beginning sees by the first entry that it is gone.
        let first = entries.first().map_or(0, |first| entries.partition_point(|entry| entry.version == first.version));
        let (first, rest) = entries.split_at(first);
        for some in std::iter::once(first).chain(rest.chunks(DELETED_AT_ONCE)).filter(|some| !some.is_empty()) {
            let locations: Vec<_> = some.iter().map(|entry| Ok(entry.location.clone())).collect();
            let deleted = store.delete_stream(futures::stream::iter(locations).boxed());
            let ignoring_gone = deleted.map(|deleted| match deleted {
                Err(object_store::Error::NotFound { .. }) => Ok(Path::default()),
                other => other,
            });
            ignoring_gone.try_collect::<Vec<_>>().await.map_err(failed)?;
        }
        Ok(entries.len() as u64)
    }

    pub(super) fn folder_failed(&self, source: object_store::Error) -> MaintenanceError {
        MaintenanceError::Folder { table: self.log.table.clone(), source }
    }
}

/// `00000000000000000042.json` and what belongs to it. Not what spans versions.
fn entry_of(name: &str) -> Option<(u64, EntryKind)> {
    let (version, rest) = name.split_at_checked(20)?;
    let version = version.bytes().all(|byte| byte.is_ascii_digit()).then(|| version.parse().ok())??;
    let kind = match rest.strip_prefix('.')? {
        "json" => EntryKind::Commit,
        "checkpoint.parquet" => EntryKind::Checkpoint,
        "crc" => EntryKind::Beside,
        part if part.starts_with("checkpoint.") => EntryKind::Beside,
        _ => return None,
    };
    Some((version, kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A commit an hour from version 0 on, and checkpoints.
    fn log(commits: std::ops::Range<u64>, checkpoints: &[u64]) -> LogEntries {
        let entry = |version, kind| LogEntry { version, kind, at_ms: hour(version), location: Path::default() };
        let mut entries: Vec<_> = commits.map(|version| entry(version, EntryKind::Commit)).collect();
        entries.extend(checkpoints.iter().map(|version| entry(*version, EntryKind::Checkpoint)));
        entries.sort_by_key(|entry| entry.version);
        LogEntries(entries)
    }

    fn hour(version: u64) -> i64 {
        i64::try_from(version).expect("a small number") * 3_600_000
    }

    fn consumed(version: u64) -> Keep {
        Keep { consumed: Some(version), pinned: None }
    }

    #[test]
    fn a_log_is_cut_below_what_anybody_needs() {
        let at = |below| Some(Cut { below, needs_checkpoint: false });
        let anew = |below| Some(Cut { below, needs_checkpoint: true });
        let entries = log(0..100, &[10, 20, 90]);
        for (name, hint, keep, young_from, expected) in [
            ("at the newest checkpoint that all can do with", Some(90), Keep::default(), 25, at(20)),
            ("what a stream has not read stays", Some(90), consumed(15), 25, at(10)),
            ("what it has read last stays", Some(90), consumed(20), 99, at(20)),
            ("what is pinned stays", Some(90), Keep { consumed: Some(30), pinned: Some(12) }, 99, at(10)),
            ("a stream that has read nothing holds all", Some(90), consumed(0), 99, None),
            ("all is young", Some(90), Keep::default(), 0, None),
            ("no checkpoint is old enough", Some(90), Keep::default(), 9, None),
            ("far past a checkpoint, one is made", Some(90), Keep::default(), 80, anew(80)),
            ("readers begin at the hint", Some(20), Keep::default(), 95, at(20)),
            ("no hint, no cut", None, Keep::default(), 95, None),
            ("all is old", Some(90), Keep::default(), 1_000, at(90)),
        ] {
            assert_eq!(entries.cut(99, hint, keep, hour(young_from), 50), expected, "{name}");
        }
    }

    #[test]
    fn a_log_that_is_not_whole_is_left_alone() {
        let mut entries = log(0..100, &[10, 20, 90]);
        entries.0.retain(|entry| entry.version != 50);
        assert_eq!(entries.cut(99, Some(90), Keep::default(), hour(25), 50), None);
        assert!(entries.cut(99, Some(90), Keep::default(), hour(95), 50).is_some(), "from 90 on it is");
    }

    #[test]
    fn a_second_cut_has_nothing_to_do() {
        assert_eq!(log(20..100, &[20, 90]).cut(99, Some(90), Keep::default(), hour(25), 50), None);
    }

    #[test]
    fn what_is_young_stays_below_a_cut() {
        let entries = log(0..100, &[10, 20]);
        let cut = Cut { below: 20, needs_checkpoint: false };
        assert_eq!(entries.below(cut, hour(1_000)).len(), 21);
        assert_eq!(entries.below(cut, hour(5)).len(), 5);
    }

    #[test]
    fn files_of_a_log_are_told_apart_by_their_names() {
        let name = |rest: &str| format!("{:020}.{rest}", 42);
        for (name, expected) in [
            (name("json"), Some((42, EntryKind::Commit))),
            (name("checkpoint.parquet"), Some((42, EntryKind::Checkpoint))),
            (name("crc"), Some((42, EntryKind::Beside))),
            (name("checkpoint.0000000001.0000000002.parquet"), Some((42, EntryKind::Beside))),
            (name("00000000000000000050.compacted.json"), None),
            (name("json.tmp"), None),
            ("_last_checkpoint".to_owned(), None),
            ("0000000000000000004ä.json".to_owned(), None),
            ("42.json".to_owned(), None),
        ] {
            assert_eq!(entry_of(&name), expected, "{name}");
        }
    }
}
