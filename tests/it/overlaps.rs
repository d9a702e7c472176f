//! Changes of one table that were planned from the same version: whatever lands first, the rows are those
//! that one of the orders gives.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use arrow::array::{AsArray, Int64Array, RecordBatch, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use deltalake::kernel::Add;
use deltalake::protocol::{DeltaOperation, SaveMode};
use futures::TryStreamExt as _;
use serde_json::{Value, json};
use sluicebox::catalog::commit_log::{CommitLog, ReadAt};
use sluicebox::catalog::log::{log_store, read_head};
use sluicebox::catalog::maintenance::MaintainedTable;
use sluicebox::catalog::maintenance::compact::{Compacted, Written};
use sluicebox::catalog::maintenance::jobs::{FileSizes, Job};
use sluicebox::catalog::rewrite::{Base, Change, Kind, Outcome, commit};
use sluicebox::catalog::scan::scan_at;
use sluicebox::catalog::state::{ActiveFile, active_files, create, metadata_of_new};
use sluicebox::config::spec::MaintenanceSpec;
use sluicebox::sink::delta::files;
use sluicebox::sink::delta::schema::{Policy, TableColumns};

use crate::sink::location;

/// Keys to values, and how often each row is there.
type Rows = BTreeMap<(i64, String), usize>;

/// What is done to the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Op {
    Maintain,
    /// Every row goes, and these come: 0 to 4.
    Overwrite,
    /// Keys 2, 3 and 100 get a mark behind what they had.
    Merge,
    /// The row 50.
    Append,
}

const OPS: [Op; 4] = [Op::Maintain, Op::Overwrite, Op::Merge, Op::Append];

/// An operation as it was planned from a version, its files written and not committed.
enum Planned {
    Maintain { table: Box<MaintainedTable>, jobs: Vec<(Job, Written)> },
    Change { base: Base, change: Box<Change> },
}

struct Table {
    _dir: tempfile::TempDir,
    path: std::path::PathBuf,
    log: CommitLog,
}

fn columns() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("id", DataType::Int64, true), Field::new("value", DataType::Utf8, true)]))
}

fn batch(rows: &[(i64, String)]) -> RecordBatch {
    let ids = Int64Array::from_iter_values(rows.iter().map(|(id, _)| *id));
    let values = StringArray::from_iter_values(rows.iter().map(|(_, value)| value));
    RecordBatch::try_new(columns(), vec![Arc::new(ids), Arc::new(values)]).expect("two columns")
}

fn spec() -> MaintenanceSpec {
    MaintenanceSpec { min_files: 2, ..MaintenanceSpec::default() }
}

fn place(path: &Path) -> CommitLog {
    CommitLog::new(log_store(&location(path, "t")).expect("a folder has a log"), "silver.t".to_owned())
}

impl Table {
    /// The rows 0 to 9, a file each.
    async fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let log = place(dir.path());
        let metadata = metadata_of_new(&log, &columns(), &[], Vec::new()).expect("Delta has these types");
        create(&log, metadata, Vec::new()).await.expect("a table can be made");
        let table = Self { path: dir.path().to_owned(), _dir: dir, log };
        let mut adds = Vec::new();
        for id in 0..10 {
            adds.extend(table.write(&[(id, "v".to_owned())]).await);
        }
        let base = table.head().await;
        let landed = commit(&table.log, base, change(Kind::Append, adds, &[])).await.expect("the log is there");
        assert_eq!(landed, Outcome::Landed(1));
        table
    }

    async fn head(&self) -> Base {
        let read_at = ReadAt::now();
        let head = read_head(self.log.store()).await.expect("the log can be read").expect("there is a table");
        Base { version: head.version, read_at }
    }

    async fn write(&self, rows: &[(i64, String)]) -> Vec<Add> {
        let columns = TableColumns::new(columns(), Policy::default());
        let written = files::write(self.log.store(), &columns, &[], None, vec![batch(rows)]).await;
        written.expect("a file is written").files
    }

    async fn rows(&self) -> Rows {
        let version = self.head().await.version;
        let mut rows = Rows::new();
        let scanned = scan_at(self.log.store(), version, "SELECT id, value FROM t", 64 << 20).await.expect("a scan");
        let batches: Vec<RecordBatch> = scanned.try_collect().await.expect("the rows can be read");
        for batch in batches {
            let values = cast(batch.column(1), &DataType::Utf8).expect("text");
            let ids = batch.column(0).as_primitive::<Int64Type>();
            for row in 0..batch.num_rows() {
                *rows.entry((ids.value(row), values.as_string::<i32>().value(row).to_owned())).or_default() += 1;
            }
        }
        rows
    }

    async fn plan(&self, op: Op) -> Planned {
        let base = self.head().await;
        let files = active_files(&self.log, base.version).await.expect("the files can be listed");
        let change = match op {
            Op::Maintain => {
                let opened = MaintainedTable::open(&location(&self.path, "t"), "silver.t").await;
                let table = opened.expect("the log can be read").expect("there is a table");
                let mut jobs = Vec::new();
                for job in table.plan_compaction(&spec(), FileSizes::Declared).await.expect("a plan").jobs {
                    let written = table.write_job(&job, &["id".to_owned()], &spec()).await.expect("files are written");
                    jobs.push((job, written));
                }
                return Planned::Maintain { table: Box::new(table), jobs };
            }
            Op::Append => change(Kind::Append, self.write(&[(50, "a".to_owned())]).await, &[]),
            Op::Overwrite => {
                let rows: Vec<_> = (0..5).map(|id| (id, "o".to_owned())).collect();
                change(Kind::Rewrite, self.write(&rows).await, &files)
            }
            Op::Merge => {
                let keys = BTreeSet::from([2, 3, 100]);
                let (mut touched, mut kept, mut had) = (Vec::new(), Vec::new(), BTreeMap::new());
                for (file, rows) in self.rows_by_file(base.version, files).await {
                    if !rows.iter().any(|(id, _)| keys.contains(id)) {
                        continue;
                    }
                    touched.push(file);
                    for (id, value) in rows {
                        if keys.contains(&id) { drop(had.insert(id, value)) } else { kept.push((id, value)) }
                    }
                }
                let marked = keys.iter().map(|id| (*id, format!("{}m", had.get(id).cloned().unwrap_or_default())));
                kept.extend(marked);
                change(Kind::Rewrite, self.write(&kept).await, &touched)
            }
        };
        Planned::Change { base, change: Box::new(change) }
    }

    /// What each file holds: the keys of its statistics, as no two files share any.
    async fn rows_by_file(&self, version: u64, files: Vec<ActiveFile>) -> Vec<(ActiveFile, Vec<(i64, String)>)> {
        let mut found = Vec::new();
        let all = self.rows().await;
        assert_eq!(self.head().await.version, version, "nobody commits while this plans");
        for file in files {
            let stats: Value = serde_json::from_str(file.stats.as_deref().expect("statistics")).expect("JSON");
            let bound = |which: &str| stats[which]["id"].as_i64().expect("a bound");
            let held = bound("minValues")..=bound("maxValues");
            let rows = all.iter().filter(|((id, _), _)| held.contains(id) && (*id != 50 || *held.start() == 50));
            found.push((file, rows.map(|(row, _)| row.clone()).collect()));
        }
        found
    }

    /// Whether it landed; else it is to be planned again.
    async fn put(&self, planned: Planned) -> bool {
        match planned {
            Planned::Change { base, change } => {
                matches!(commit(&self.log, base, *change).await.expect("the log is there"), Outcome::Landed(_))
            }
            Planned::Maintain { table, jobs } => {
                let mut all = true;
                for (job, written) in jobs {
                    let put = table.commit_job(&job, written, &spec()).await.expect("the log is there");
                    all &= matches!(put, Compacted::Landed(_));
                }
                all
            }
        }
    }

    async fn run(&self, op: Op) {
        while !self.put(self.plan(op).await).await {}
    }
}

fn change(kind: Kind, adds: Vec<Add>, removes: &[ActiveFile]) -> Change {
    Change {
        kind,
        adds,
        removes: removes.iter().map(|file| file.remove(true)).collect(),
        transactions: Vec::new(),
        metadata: None,
        changes: Vec::new(),
        protocol: None,
        operation: DeltaOperation::Write { mode: SaveMode::Append, partition_by: None, predicate: None },
        note: json!({}),
    }
}

async fn in_order(ops: &[Op]) -> Rows {
    let table = Table::new().await;
    for op in ops {
        table.run(*op).await;
    }
    table.rows().await
}

/// All are planned from one version, then put in this order; those that lose plan again.
async fn overlapping(ops: &[Op]) -> (Rows, usize) {
    let table = Table::new().await;
    let mut planned = Vec::new();
    for op in ops {
        planned.push(table.plan(*op).await);
    }
    let mut lost = Vec::new();
    for (op, planned) in ops.iter().zip(planned) {
        if !table.put(planned).await {
            lost.push(*op);
        }
    }
    let count = lost.len();
    for op in lost {
        table.run(op).await;
    }
    (table.rows().await, count)
}

#[tokio::test]
async fn two_changes_that_overlap_give_what_one_order_of_them_gives() {
    let mut losers = BTreeMap::new();
    for one in OPS {
        for other in OPS {
            let (rows, lost) = overlapping(&[one, other]).await;
            let orders = [in_order(&[one, other]).await, in_order(&[other, one]).await];
            assert!(orders.contains(&rows), "{one:?} then {other:?}: {rows:?}");
            losers.insert(format!("{one:?}, {other:?}"), lost);
        }
    }
    // That some lose says that they did overlap.
    for pair in
        ["Maintain, Maintain", "Maintain, Overwrite", "Overwrite, Maintain", "Merge, Overwrite", "Maintain, Merge"]
    {
        assert_eq!(losers[pair], 1, "{pair}: {losers:?}");
    }
    assert_eq!((losers["Append, Maintain"], losers["Maintain, Append"]), (0, 0), "{losers:?}");
}

#[tokio::test]
async fn four_changes_that_overlap_give_what_one_order_of_them_gives() {
    for first in 0..OPS.len() {
        let mut ops = OPS;
        ops.rotate_left(first);
        let (rows, _) = overlapping(&ops).await;
        let mut orders = Vec::new();
        for a in OPS {
            for b in OPS.into_iter().filter(|b| *b != a) {
                for c in OPS.into_iter().filter(|c| ![a, b].contains(c)) {
                    for d in OPS.into_iter().filter(|d| ![a, b, c].contains(d)) {
                        // Maintenance changes no rows: its place is no matter.
                        let order: Vec<Op> = [a, b, c, d].into_iter().filter(|op| *op != Op::Maintain).collect();
                        orders.push(order);
                    }
                }
            }
        }
        orders.sort_by_key(|order| format!("{order:?}"));
        orders.dedup();
        let mut fits = false;
        for order in orders {
            fits |= in_order(&order).await == rows;
        }
        assert!(fits, "{ops:?}: {rows:?}");
    }
}
