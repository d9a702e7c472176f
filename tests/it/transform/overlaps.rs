//! Runs of transforms and maintenance that overlap on one table: the rows are those that one of the orders gives.
//! One is held where its files are written and nothing is committed; the other goes through meanwhile.

use std::collections::BTreeMap;
use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};

use sluicebox::catalog::maintenance::MaintainedTable;
use sluicebox::catalog::maintenance::compact::Compacted;
use sluicebox::catalog::maintenance::jobs::FileSizes;
use sluicebox::config::spec::MaintenanceSpec;
use sluicebox::fault_points::{FaultPoint, FaultPoints};
use sluicebox::pipeline::transforms::{TransformOptions, Transforms};
use sluicebox::shutdown::Shutdown;
use sluicebox::transform::run::engine::Refresh;

use super::lake::{Event, Lake, event};

const TABLE: &str = "silver.leads";
const SQL: &str = "SELECT id, seq, status, amount FROM";

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Op {
    /// Leads 2, 3 and 100 have news.
    Merge,
    /// All rows go, and leads 0 to 4 come.
    Overwrite,
    /// A second row of lead 7, and one of lead 50.
    Append,
    Maintain,
}

const OPS: [Op; 4] = [Op::Merge, Op::Overwrite, Op::Append, Op::Maintain];

/// One table, and three projects that write it.
struct Shared {
    merging: Lake,
    replacing: Lake,
    appending: Lake,
}

fn leads(ids: impl IntoIterator<Item = i64>, seq: i64, status: &str) -> Vec<Event> {
    ids.into_iter().map(|id| event(&format!("lead-{id}"), seq, status, id)).collect()
}

fn spec() -> MaintenanceSpec {
    MaintenanceSpec { min_files: 2, ..MaintenanceSpec::default() }
}

impl Shared {
    /// Leads 0 to 9, in five files; news of each kind lie in wait.
    async fn new() -> Self {
        let keys = "mode = \"merge\"\nkeys = [\"id\"]\nsequence_by = [\"seq\"]";
        let merging = Lake::new(&[(TABLE, keys, &format!("{SQL} STREAM(bronze.leads)"))]);
        for first in (0..10).step_by(2) {
            merging.append("bronze.leads", &leads(first..first + 2, 1, "open")).await;
            merging.run().await;
        }
        merging.append("bronze.leads", &leads([2, 3, 100], 2, "won")).await;
        merging.append("bronze.all", &leads(0..5, 3, "anew")).await;
        merging.append("bronze.more", &leads([7, 50], 4, "more")).await;
        let lake = merging.path().join("lake");
        let beside = |mode: &str, from: &str| {
            let beside = Lake::new(&[(TABLE, &format!("mode = \"{mode}\""), &format!("{SQL} {from}"))]);
            let declared = beside.path().join("sluice.toml");
            let text = fs::read_to_string(&declared).expect("it was written");
            let text = text.replace("url = \"lake\"", &format!("url = \"{}\"", lake.display()));
            fs::write(declared, text).expect("it can be written");
            beside
        };
        Self { replacing: beside("replace", "bronze.all"), appending: beside("append", "STREAM(bronze.more)"), merging }
    }

    /// One run, told to fault points.
    async fn transform(&self, op: Op, fault_points: FaultPoints) {
        let lake = match op {
            Op::Merge | Op::Maintain => &self.merging,
            Op::Overwrite => &self.replacing,
            Op::Append => &self.appending,
        };
        let options = TransformOptions { fault_points, ..TransformOptions::default() };
        let transforms = Transforms::open(&lake.project(), &options, Shutdown::new()).expect("the SQL can be read");
        let selected = transforms.select(&[]).expect("it is there");
        let summaries = transforms.run_once(&selected, Refresh::No).await;
        assert_eq!(summaries[0].outcome, "committed", "{op:?}: {summaries:?}");
    }

    async fn run(&self, op: Op) {
        match op {
            Op::Maintain => while !self.maintain(std::future::ready(())).await {},
            _ => self.transform(op, FaultPoints::default()).await,
        }
    }

    /// Compaction as it is done, with something between writing and committing.
    async fn maintain(&self, between: impl Future<Output = ()>) -> bool {
        let location = self.merging.location().join("silver").join("leads");
        let table =
            MaintainedTable::open(&location, TABLE).await.expect("the log can be read").expect("there is a table");
        let mut written = Vec::new();
        for job in table.plan_compaction(&spec(), FileSizes::Keyed).await.expect("a plan").jobs {
            written.push((table.write_job(&job, &[], &spec()).await.expect("files are written"), job));
        }
        between.await;
        let mut all = true;
        for (written, job) in written {
            let put = table.commit_job(&job, written, &spec()).await.expect("the log is there");
            all &= matches!(put, Compacted::Landed(_));
        }
        all
    }

    async fn rows(&self) -> Vec<String> {
        self.merging.rows(&format!("{SQL} {TABLE}")).await
    }
}

/// `one` is held while `other` goes through; and whether `one` then had its work to do again.
async fn overlapping(one: Op, other: Op) -> (Vec<String>, bool) {
    let shared = Shared::new().await;
    if one == Op::Maintain {
        let landed = shared.maintain(shared.run(other)).await;
        if !landed {
            shared.run(Op::Maintain).await;
        }
        return (shared.rows().await, !landed);
    }
    let (written, mut is_written) = tokio::sync::mpsc::unbounded_channel();
    let (go_on, wait) = mpsc::channel();
    let wait = Mutex::new(wait);
    let passes = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&passes);
    let points = FaultPoints::watched(move |point| {
        if point == FaultPoint::PartWritten && counted.fetch_add(1, Ordering::SeqCst) == 0 {
            written.send(()).expect("the test waits for it");
            let wait = wait.lock().expect("nobody panics with it");
            tokio::task::block_in_place(|| wait.recv().expect("the test lets it go on"));
        }
    });
    let beside = async {
        is_written.recv().await.expect("it comes to write files");
        shared.run(other).await;
        go_on.send(()).expect("it waits");
    };
    tokio::join!(shared.transform(one, points), beside);
    (shared.rows().await, passes.load(Ordering::SeqCst) > 1)
}

async fn in_order(ops: [Op; 2]) -> Vec<String> {
    let shared = Shared::new().await;
    for op in ops {
        shared.run(op).await;
    }
    shared.rows().await
}

#[tokio::test]
async fn two_runs_that_overlap_give_what_one_order_of_them_gives() {
    let mut orders = BTreeMap::new();
    let pairs = || OPS.into_iter().flat_map(|one| OPS.map(|other| (one, other)));
    for (one, other) in pairs().filter(|(one, other)| one != other || *one == Op::Maintain) {
        orders.insert((one, other), in_order([one, other]).await);
    }
    let mut alone = Vec::new();
    for (one, other) in pairs().filter(|(one, other)| one != other || *one == Op::Maintain) {
        let (rows, is_again) = overlapping(one, other).await;
        let fits = [orders[&(one, other)].clone(), orders[&(other, one)].clone()];
        assert!(fits.contains(&rows), "{one:?} held for {other:?}: {rows:#?}\n{fits:#?}");
        if !is_again {
            alone.push((one, other));
        }
    }
    // All others had to do their work again: they did overlap.
    assert_eq!(alone, [(Op::Append, Op::Maintain), (Op::Maintain, Op::Append)]);
}
