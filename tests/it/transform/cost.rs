//! What a run asks of storage follows what is new, not what the tables hold.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use serde_json::json;
use sluicebox::catalog::tables::Tables;
use sluicebox::pipeline::transforms::Transforms;
use sluicebox::shutdown::Shutdown;
use sluicebox::transform::run::engine::Refresh;
use sluicebox::transform::run::output::Output;

use super::lake::{Event, Lake, event, name};
use crate::counting_store::{Asked, Watched, watch};

const SQL: &str = "SELECT id, seq, status, amount FROM STREAM(bronze.events)";
const MERGE: &str = "mode = \"merge\"\nkeys = [\"id\"]\nsequence_by = [\"seq\"]";

/// Transforms that stay open.
struct Open {
    lake: Lake,
    transforms: Transforms,
    watched: Watched,
}

impl Open {
    fn new(declared: &str, sql: &str) -> Self {
        let lake = Lake::new(&[("silver.leads", declared, sql)]);
        let watched = watch(lake.path());
        let transforms =
            Transforms::open(&lake.project(), &lake.options, Shutdown::new()).expect("the SQL can be read");
        Self { lake, transforms, watched }
    }

    /// What a run asks for.
    async fn run(&self) -> Asked {
        self.watched.taken();
        let selected = self.transforms.select(&[]).expect("it is there");
        let summaries = self.transforms.run_once(&selected, Refresh::No).await;
        assert_eq!(summaries[0].outcome, "committed", "{summaries:?}");
        self.watched.taken()
    }

    fn of(asked: &Asked, table: &str) -> usize {
        asked.files.iter().filter(|file| file.contains(table)).count()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_asks_no_more_of_a_long_log_than_of_a_short_one() {
    for declared in ["mode = \"append\"", MERGE] {
        let open = Open::new(declared, SQL);
        let mut asked = Vec::new();
        for seq in 0..40 {
            open.lake.append("bronze.events", &[event(&format!("k{}", seq % 3), seq, "open", seq)]).await;
            asked.push(open.run().await);
        }
        // By the fourth all tables are there, the run log too, and each key.
        let (short, long) = (&asked[3], &asked[39]);
        assert_eq!((short.requests, short.of_logs), (long.requests, long.of_logs), "{declared}");
        assert_eq!(long.lists, 0, "{declared}");
        assert_eq!(Open::of(long, "bronze/events"), 1, "{declared}: {:?}", long.files);
    }
}

/// Rows whose keys grow with their numbers.
fn rows(numbers: std::ops::Range<i64>, seq: i64) -> RecordBatch {
    let schema = Schema::new(vec![
        Field::new("id", DataType::Utf8, true),
        Field::new("seq", DataType::Int64, true),
        Field::new("status", DataType::Utf8, true),
        Field::new("amount", DataType::Int64, true),
    ]);
    let text = |of: &dyn Fn(i64) -> String| -> ArrayRef {
        Arc::new(numbers.clone().map(|row| Some(of(row))).collect::<StringArray>())
    };
    let number = |of: &dyn Fn(i64) -> i64| -> ArrayRef {
        Arc::new(numbers.clone().map(|row| Some(of(row))).collect::<Int64Array>())
    };
    let columns =
        vec![text(&|row| format!("{row:09}")), number(&|_| seq), text(&|_| "open".to_owned()), number(&|row| row % 10)];
    RecordBatch::try_new(Arc::new(schema), columns).expect("the arrays fit their schema")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_merge_writes_the_file_of_its_keys_again_and_no_other() {
    const ALL: i64 = 300_000;
    let open = Open::new(MERGE, SQL);
    open.lake.append_rows("bronze.events", &rows(0..ALL, 1), json!({})).await;
    open.run().await;
    let before = open.lake.head("silver.leads").await.files().await.expect("it has files");
    assert_eq!(before.len(), 3, "files of a row group each, all of one size");
    open.lake.append_rows("bronze.events", &rows(150_000..150_010, 2), json!({})).await;
    let asked = open.run().await;
    assert_eq!(Open::of(&asked, "silver/leads"), 1, "{:?}", asked.files);
    let after = open.lake.head("silver.leads").await.files().await.expect("it has files");
    let stay = after.iter().filter(|file| before.contains(file)).count();
    assert_eq!((after.len(), stay), (3, 2));
    let counted = "SELECT count(*) AS n, count(DISTINCT id) AS keys, sum(seq) AS seq FROM silver.leads";
    assert_eq!(open.lake.rows(counted).await, [format!("{{\"n\":{ALL},\"keys\":{ALL},\"seq\":{}}}", ALL + 10)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recompute_opens_the_files_of_its_keys_alone() {
    let sql = "SELECT id, count(*) AS events, sum(amount) AS amount FROM STREAM(bronze.events) GROUP BY id";
    let open = Open::new("mode = \"recompute\"\nkeys = [\"id\"]", sql);
    for at in 0..20 {
        open.lake.append_rows("bronze.events", &rows(at * 10..at * 10 + 10, 1), json!({})).await;
    }
    open.run().await;
    open.lake.append_rows("bronze.events", &rows(55..58, 2), json!({})).await;
    let asked = open.run().await;
    assert_eq!(Open::of(&asked, "bronze/events"), 2, "what is new, and what has the same keys: {:?}", asked.files);
    let twice =
        open.lake.rows("SELECT id FROM silver.leads WHERE events = 2 AND amount = 2 * CAST(id AS BIGINT) - 100").await;
    assert_eq!(twice.len(), 3);
    assert_eq!(open.lake.count("silver.leads").await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_without_a_value_is_not_passed_over() {
    let sql = "SELECT status, count(*) AS events FROM STREAM(bronze.events) GROUP BY status";
    let open = Open::new("mode = \"recompute\"\nkeys = [\"status\"]", sql);
    let tables = Tables::new(&open.lake.location());
    let columns = rows(0..1, 0).schema();
    Output::open_or_create(&tables, &name("bronze.events"), &columns, &["status".to_owned()], Vec::new())
        .await
        .expect("the input is made");
    let without = |seq| Event { status: None, ..event("k", seq, "", 1) };
    open.lake.append("bronze.events", &[without(0), event("k", 1, "open", 1), event("k", 2, "won", 1)]).await;
    open.run().await;
    open.lake.append("bronze.events", &[without(3)]).await;
    let asked = open.run().await;
    assert_eq!(Open::of(&asked, "bronze/events"), 2, "those of the partition: {:?}", asked.files);
    let expected = [r#"{"events":2}"#, r#"{"status":"open","events":1}"#, r#"{"status":"won","events":1}"#];
    assert_eq!(open.lake.rows("SELECT * FROM silver.leads").await, expected);
}
