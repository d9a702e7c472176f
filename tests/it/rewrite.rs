//! Commits that aren't the bronze append: which go behind a rival, and which are planned again.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arrow::datatypes::{DataType, Field, Schema};
use async_trait::async_trait;
use bytes::Bytes;
use deltalake::kernel::transaction::TransactionError;
use deltalake::kernel::{Add, Version};
use deltalake::logstore::{CommitOrBytes, LogStore, LogStoreConfig, LogStoreRef};
use deltalake::protocol::{DeltaOperation, SaveMode};
use deltalake::{DeltaResult, DeltaTableError};
use object_store::ObjectStore;
use serde_json::json;
use sluicebox::catalog::commit_log::{CommitLog, ReadAt};
use sluicebox::catalog::log::{log_store, read_head};
use sluicebox::catalog::rewrite::{Base, Change, Kind, Lost, Outcome, commit};
use sluicebox::catalog::state::{ActiveFile, active_files, create, metadata_of_new, metadata_with};
use uuid::Uuid;

use crate::sink::location;

fn columns(names: &[&str]) -> Schema {
    Schema::new(names.iter().map(|name| Field::new(*name, DataType::Utf8, true)).collect::<Vec<_>>())
}

/// A table with the files `a`, `b` and `c`, at version 1.
async fn table(dir: &Path) -> CommitLog {
    let log =
        CommitLog::new(log_store(&location(dir, "leads")).expect("a folder has a log"), "silver.leads".to_owned());
    let metadata = metadata_of_new(&log, &columns(&["id"]), &[], Vec::new()).expect("text has a Delta type");
    create(&log, metadata, Vec::new()).await.expect("a table can be made");
    let landed = commit(&log, base(0), change(Kind::Append, &["a", "b", "c"], &[])).await.expect("the log is there");
    assert_eq!(landed, Outcome::Landed(1));
    log
}

fn base(version: u64) -> Base {
    Base { version, read_at: ReadAt::now() }
}

fn add(path: &str, data_change: bool) -> Add {
    Add {
        path: path.to_owned(),
        partition_values: HashMap::new(),
        size: 1,
        modification_time: 0,
        data_change,
        stats: None,
        tags: None,
        deletion_vector: None,
        base_row_id: None,
        default_row_commit_version: None,
        clustering_provider: None,
    }
}

fn change(kind: Kind, adds: &[&str], removes: &[&str]) -> Change {
    let data_change = kind != Kind::Compact;
    Change {
        kind,
        adds: adds.iter().map(|path| add(path, data_change)).collect(),
        removes: removes.iter().map(|path| ActiveFile::from(&add(path, true)).remove(data_change)).collect(),
        transactions: Vec::new(),
        metadata: None,
        changes: Vec::new(),
        protocol: None,
        operation: DeltaOperation::Write { mode: SaveMode::Append, partition_by: None, predicate: None },
        note: json!({"maintenance": kind == Kind::Compact}),
    }
}

async fn paths(log: &CommitLog) -> Vec<String> {
    let head = read_head(log.store()).await.expect("the log can be read").expect("there is a table");
    let files = active_files(log, head.version).await.expect("the files can be listed");
    files.into_iter().map(|file| file.path).collect()
}

/// Both are planned from version 1; `first` lands, and then `second`, or not.
async fn race(first: Change, second: Change) -> (Option<u64>, Vec<String>) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let log = table(dir.path()).await;
    let landed = commit(&log, base(1), first).await.expect("the log is there");
    assert_eq!(landed, Outcome::Landed(2));
    let version = match commit(&log, base(1), second).await.expect("the log is there") {
        Outcome::Landed(version) => Some(version),
        Outcome::Lost { why: Lost::To { version: 2, .. }, may_still_land: false } => None,
        other => panic!("{other:?}"),
    };
    (version, paths(&log).await)
}

#[tokio::test]
async fn what_a_winner_touched_decides_whether_a_change_goes_behind_it() {
    use Kind::{Append, Compact, Rewrite};
    let append = || change(Append, &["d"], &[]);
    let merge = || change(Rewrite, &["m"], &["a"]);
    let insert = || change(Rewrite, &["i"], &[]);
    let compact = || change(Compact, &["bc"], &["b", "c"]);
    let compact_all = || change(Compact, &["abc"], &["a", "b", "c"]);
    for (name, first, second, lands, files) in [
        ("append, append", append(), change(Append, &["e"], &[]), true, "a b c d e"),
        ("append, merge", append(), merge(), false, "a b c d"),
        ("append, a merge that adds alone", append(), insert(), false, "a b c d"),
        ("append, compaction", append(), compact(), true, "a bc d"),
        ("merge, append", merge(), append(), true, "b c d m"),
        ("merge, merge", merge(), change(Rewrite, &["n"], &["b"]), false, "b c m"),
        ("merge, compaction of others", merge(), compact(), true, "bc m"),
        ("merge, compaction of its files", merge(), compact_all(), false, "b c m"),
        ("compaction, append", compact(), append(), true, "a bc d"),
        ("compaction, merge of others", compact(), merge(), true, "bc m"),
        ("compaction, merge of its files", compact_all(), merge(), false, "abc"),
        ("compaction, compaction", compact(), compact_all(), false, "a bc"),
        ("compaction, overwrite", compact(), change(Rewrite, &["o"], &["a", "b", "c"]), false, "a bc"),
        ("overwrite, compaction", change(Rewrite, &["o"], &["a", "b", "c"]), compact(), false, "o"),
    ] {
        let (version, held) = race(first, second).await;
        assert_eq!(version, lands.then_some(3), "{name}");
        assert_eq!(held.join(" "), files, "{name}");
    }
}

#[tokio::test]
async fn what_a_txn_counts_is_counted_once() {
    let counted = |kind, path: &str, id: &str| {
        let transactions = vec![(id.to_owned(), 7)];
        Change { transactions, ..change(kind, &[path], &[]) }
    };
    for kind in [Kind::Append, Kind::Rewrite, Kind::Compact] {
        let (version, held) = race(counted(Kind::Append, "d", "x"), counted(kind, "e", "x")).await;
        assert_eq!((version, held.join(" ").as_str()), (None, "a b c d"), "{kind:?}");
    }
    let (version, held) = race(counted(Kind::Append, "d", "x"), counted(Kind::Append, "e", "y")).await;
    assert_eq!((version, held.join(" ").as_str()), (Some(3), "a b c d e"));
}

#[tokio::test]
async fn a_change_of_columns_or_a_strangers_overwrite_is_looked_at_first() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let log = table(dir.path()).await;
    let head = read_head(log.store()).await.expect("the log can be read").expect("there is a table");
    let wider = metadata_with(&log, &head.metadata, &columns(&["id", "more"])).expect("text has a Delta type");
    let wider = Change { metadata: Some(wider), ..change(Kind::Append, &[], &[]) };
    assert_eq!(commit(&log, base(1), wider).await.expect("the log is there"), Outcome::Landed(2));
    for (kind, lands) in [(Kind::Append, false), (Kind::Rewrite, false), (Kind::Compact, true)] {
        let outcome = commit(&log, base(1), change(kind, &["x"], &[])).await.expect("the log is there");
        assert_eq!(matches!(outcome, Outcome::Landed(_)), lands, "{kind:?}: {outcome:?}");
    }

    let head = read_head(log.store()).await.expect("the log can be read").expect("there is a table").version;
    let stranger = format!(
        "{}\n{}\n",
        json!({"commitInfo": {"operation": "WRITE", "timestamp": 0}}),
        json!({"remove": {"path": "a", "dataChange": true, "deletionTimestamp": 0}})
    );
    let folder = dir.path().join("leads/_delta_log");
    std::fs::write(folder.join(format!("{:020}.json", head + 1)), stranger).expect("a stranger can write");
    let outcome = commit(&log, base(head), change(Kind::Append, &["y"], &[])).await.expect("the log is there");
    let expected = Lost::To { version: head + 1, operation: "WRITE".to_owned() };
    assert_eq!(outcome, Outcome::Lost { why: expected, may_still_land: false });
}

#[tokio::test]
async fn a_base_that_was_cleaned_away_is_not_built_upon() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let log = table(dir.path()).await;
    for version in 1..6 {
        let more = change(Kind::Append, &[format!("f{version}").as_str()], &[]);
        commit(&log, base(version), more).await.expect("the log is there");
    }
    crate::sink::checkpoint_and_clean(log.store(), 6).await;
    let outcome = commit(&log, base(2), change(Kind::Append, &["late"], &[])).await.expect("the log is there");
    assert_eq!(outcome, Outcome::Lost { why: Lost::Base, may_still_land: true });
    assert!(!paths(&log).await.contains(&"late".to_owned()), "what landed below the log's end is in no table");
}

/// A store that lands the next commit and says that it failed.
struct Liar {
    store: LogStoreRef,
    lies: AtomicBool,
}

#[async_trait]
impl LogStore for Liar {
    fn name(&self) -> String {
        self.store.name()
    }

    async fn read_commit_entry(&self, version: Version) -> DeltaResult<Option<Bytes>> {
        self.store.read_commit_entry(version).await
    }

    async fn write_commit_entry(
        &self,
        version: Version,
        commit: CommitOrBytes,
        operation: Uuid,
    ) -> Result<(), TransactionError> {
        self.store.write_commit_entry(version, commit, operation).await?;
        if self.lies.swap(false, Ordering::SeqCst) {
            let source = Box::new(DeltaTableError::Generic("the connection broke".to_owned()));
            return Err(TransactionError::LogStoreError { msg: "a lie".to_owned(), source });
        }
        Ok(())
    }

    async fn abort_commit_entry(
        &self,
        version: Version,
        commit: CommitOrBytes,
        operation: Uuid,
    ) -> Result<(), TransactionError> {
        self.store.abort_commit_entry(version, commit, operation).await
    }

    async fn get_latest_version(&self, start: Version) -> DeltaResult<Version> {
        self.store.get_latest_version(start).await
    }

    fn object_store(&self, operation: Option<Uuid>) -> Arc<dyn ObjectStore> {
        self.store.object_store(operation)
    }

    fn root_object_store(&self, operation: Option<Uuid>) -> Arc<dyn ObjectStore> {
        self.store.root_object_store(operation)
    }

    fn config(&self) -> &LogStoreConfig {
        self.store.config()
    }
}

#[tokio::test]
async fn a_commit_whose_outcome_was_unknown_is_found_and_not_put_twice() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let log = table(dir.path()).await;
    let liar = Liar { store: Arc::clone(log.store()), lies: AtomicBool::new(true) };
    let lied_to = CommitLog::new(Arc::new(liar), "silver.leads".to_owned());
    let outcome = commit(&lied_to, base(1), change(Kind::Append, &["d"], &[])).await.expect("the log is there");
    assert_eq!(outcome, Outcome::Landed(2));
    assert_eq!(paths(&log).await, ["a", "b", "c", "d"]);
    assert!(!log.holds(3).await.expect("the log can be looked at"));
}
