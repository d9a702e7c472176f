//! What is new in an input, and what isn't.

use std::sync::Arc;

use arrow::array::{Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use deltalake::DeltaTable;
use serde_json::json;
use sluicebox::catalog::data_file::delete;
use sluicebox::transform::run::engine::Refresh;
use sluicebox::transform::run::{TakenBy, TransformError};

use super::lake::{Event, Lake, event};

const APPEND: (&str, &str, &str) =
    ("silver.events", "mode = \"append\"", "SELECT id, seq, status, amount FROM STREAM(bronze.events)");

fn numbered(from: i64, to: i64) -> Vec<Event> {
    (from..to).map(|seq| event(&format!("e{seq}"), seq, "open", seq * 10)).collect()
}

async fn seqs(lake: &Lake) -> Vec<i64> {
    let rows = lake.rows("SELECT seq FROM silver.events").await;
    let mut seqs: Vec<i64> = rows
        .iter()
        .map(|row| {
            serde_json::from_str::<serde_json::Value>(row).expect("a row is JSON")["seq"].as_i64().expect("a number")
        })
        .collect();
    seqs.sort_unstable();
    seqs
}

#[tokio::test(flavor = "multi_thread")]
async fn each_row_is_read_once_and_nothing_is_skipped() {
    let lake = Lake::new(&[APPEND]);
    assert_eq!(lake.run().await[0].outcome, "waits", "there is no input yet");
    lake.append("bronze.events", &numbered(0, 10)).await;
    lake.append("bronze.events", &numbered(10, 20)).await;
    let first = lake.run().await;
    assert_eq!((first[0].outcome, first[0].rows_out, first[0].commits), ("committed", 20, 1));
    assert_eq!(lake.run().await[0].outcome, "unchanged");
    lake.append("bronze.events", &numbered(20, 25)).await;
    lake.append("bronze.events", &numbered(25, 30)).await;
    let second = lake.run().await;
    assert_eq!((second[0].rows_in, second[0].rows_out), (Some(10), 10));
    assert_eq!(seqs(&lake).await, (0..30).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn small_parts_come_to_the_same_as_one() {
    let mut lake = Lake::new(&[APPEND]);
    lake.options.part_bytes = 1;
    for from in (0..30).step_by(10) {
        lake.append("bronze.events", &numbered(from, from + 10)).await;
    }
    assert_eq!(lake.run().await[0].commits, 3, "the first run goes through the files one by one");
    for from in (30..60).step_by(10) {
        lake.append("bronze.events", &numbered(from, from + 10)).await;
    }
    assert_eq!(lake.run().await[0].commits, 3, "and then through the versions");
    assert_eq!(seqs(&lake).await, (0..60).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn compaction_and_marked_erasure_are_not_new_data() {
    let lake = Lake::new(&[APPEND]);
    lake.append("bronze.events", &numbered(0, 10)).await;
    lake.run().await;
    lake.append("bronze.events", &numbered(10, 20)).await;
    let mut table = DeltaTable::new(Arc::clone(lake.head("bronze.events").await.log.store()));
    table.load().await.expect("the table can be loaded");
    let (_, metrics) = table.optimize().await.expect("the table can be compacted");
    assert_eq!(metrics.num_files_removed, 2);
    lake.append("bronze.events", &numbered(20, 30)).await;
    let erased = RecordBatch::try_new(
        Arc::new(Schema::new(vec![Field::new("seq", DataType::Int64, true)])),
        vec![Arc::new(Int64Array::from(vec![99]))],
    );
    let erased = erased.expect("the arrays fit their schema");
    lake.append_rows("bronze.events", &erased, json!({"erasure": true})).await;
    lake.run().await;
    assert_eq!(seqs(&lake).await, (0..30).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_a_stranger_took_stop_the_stream_until_somebody_decides() {
    let lake = Lake::new(&[APPEND]);
    lake.append("bronze.events", &numbered(0, 10)).await;
    lake.run().await;
    let mut table = DeltaTable::new(Arc::clone(lake.head("bronze.events").await.log.store()));
    table.load().await.expect("the table can be loaded");
    table.delete().with_predicate("seq < 5").await.expect("rows can be deleted");
    let version = lake.head("bronze.events").await.base.version;
    lake.append("bronze.events", &numbered(10, 20)).await;
    let failed = lake.run_with(Refresh::No).await;
    match &failed[0].failure {
        Some(TransformError::RowsTaken { version: taken, by: TakenBy::Stranger, .. }) => assert_eq!(*taken, version),
        other => panic!("{other:?}"),
    }
    assert_eq!(seqs(&lake).await, (0..10).collect::<Vec<_>>(), "nothing of that run is in");

    let skipping = format!("mode = \"append\"\nskip_versions = [\"bronze.events@{version}\"]");
    lake.declare(&[("silver.events", &skipping, APPEND.2)]);
    lake.run().await;
    assert_eq!(seqs(&lake).await, (0..20).collect::<Vec<_>>(), "what was made of those rows stays");

    lake.run_with(Refresh::Full).await;
    assert_eq!(seqs(&lake).await, (5..20).collect::<Vec<_>>(), "made anew, it is gone");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cleanup_or_vacuum_took_is_told_by_its_version() {
    let lake = Lake::new(&[APPEND]);
    lake.append("bronze.events", &numbered(0, 10)).await;
    lake.run().await;
    let second = lake.append("bronze.events", &numbered(10, 20)).await;
    lake.append("bronze.events", &numbered(20, 30)).await;
    let held = lake.head("bronze.events").await;
    let newest = held.log.read(second).await.expect("the log is there").expect("so is the version");
    delete(held.log.store(), &newest.adds().cloned().collect::<Vec<_>>()).await;
    let failed = lake.run_with(Refresh::No).await;
    assert!(matches!(failed[0].failure, Some(TransformError::FileGone { .. })), "{failed:?}");
    crate::sink::checkpoint_and_clean(held.log.store(), held.base.version).await;
    let failed = lake.run_with(Refresh::No).await;
    match &failed[0].failure {
        Some(TransformError::VersionGone { version, .. }) => assert_eq!(*version, second),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_runs_at_once_do_the_work_of_one() {
    let mut lake = Lake::new(&[APPEND]);
    lake.options.part_bytes = 1;
    for from in (0..100).step_by(10) {
        lake.append("bronze.events", &numbered(from, from + 10)).await;
    }
    let (one, two, three) = tokio::join!(lake.run(), lake.run(), lake.run());
    let commits: usize = [&one, &two, &three].iter().map(|summaries| summaries[0].commits).sum();
    assert_eq!(commits, 10);
    assert_eq!(seqs(&lake).await, (0..100).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_column_that_came_later_is_null_before_and_the_output_follows() {
    let lake = Lake::new(&[APPEND]);
    lake.append("bronze.events", &numbered(0, 3)).await;
    lake.run().await;
    let wider = Schema::new(vec![Field::new("seq", DataType::Int64, true), Field::new("town", DataType::Utf8, true)]);
    let wider = RecordBatch::try_new(
        Arc::new(wider),
        vec![Arc::new(Int64Array::from(vec![3])), Arc::new(StringArray::from(vec!["Bern"]))],
    );
    lake.append("bronze.events", &numbered(4, 5)).await;
    lake.append_rows("bronze.events", &wider.expect("the arrays fit their schema"), json!({})).await;
    lake.declare(&[(
        "silver.events",
        "mode = \"append\"",
        "SELECT id, seq, status, amount, town FROM STREAM(bronze.events)",
    )]);
    lake.run().await;
    let rows = lake.rows("SELECT seq, town FROM silver.events WHERE seq > 1").await;
    assert_eq!(rows, [r#"{"seq":2}"#, r#"{"seq":3,"town":"Bern"}"#, r#"{"seq":4}"#]);

    lake.declare(&[(
        "silver.events",
        "mode = \"append\"",
        "SELECT id, CAST(seq AS VARCHAR) AS seq FROM STREAM(bronze.events)",
    )]);
    let failed = lake.run_with(Refresh::No).await;
    assert!(matches!(failed[0].failure, Some(TransformError::Evolved { .. })), "{failed:?}");
    lake.run_with(Refresh::Full).await;
    assert_eq!(lake.rows("SELECT seq FROM silver.events").await.len(), 5);
    assert!(lake.rows("SELECT seq FROM silver.events").await.contains(&r#"{"seq":"3"}"#.to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn repetitions_of_a_producer_are_dropped_within_a_part_and_across() {
    let dedupe = "mode = \"append\"\ndedupe_by = [\"id\"]\ndedupe_within = \"7d\"";
    let lake = Lake::new(&[("silver.events", dedupe, APPEND.2)]);
    let nameless = |seq| Event { id: None, ..event("", seq, "open", 1) };
    let first =
        [event("a", 1, "open", 1), event("b", 2, "open", 1), event("a", 3, "again", 1), nameless(4), nameless(5)];
    lake.append("bronze.events", &first).await;
    lake.run().await;
    lake.append("bronze.events", &[event("b", 6, "again", 1), event("c", 7, "open", 1), nameless(8)]).await;
    lake.run().await;
    lake.append("bronze.events", &[event("c", 9, "again", 1)]).await;
    lake.run().await;
    assert_eq!(
        lake.rows("SELECT id, count(*) AS n FROM silver.events GROUP BY id").await,
        [r#"{"id":"a","n":1}"#, r#"{"id":"b","n":1}"#, r#"{"id":"c","n":1}"#, r#"{"n":3}"#,]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_fails_holds_back_those_that_hang_on_it_and_no_other() {
    let lake = Lake::new(&[
        ("silver.bad", "mode = \"append\"", "SELECT id, CAST(status AS BIGINT) AS n FROM STREAM(bronze.events)"),
        ("gold.bad", "mode = \"replace\"", "SELECT count(*) AS n FROM silver.bad"),
        ("silver.good", "mode = \"append\"", "SELECT id FROM STREAM(bronze.events)"),
        ("gold.good", "mode = \"replace\"", "SELECT count(*) AS n FROM silver.good"),
    ]);
    lake.append("bronze.events", &numbered(0, 3)).await;
    let summaries = lake.run_with(Refresh::No).await;
    let outcome = |table: &str| summaries.iter().find(|summary| summary.table == table).map(|summary| summary.outcome);
    assert_eq!(outcome("silver.bad"), Some("failed"));
    assert_eq!(outcome("gold.bad"), Some("held-back"));
    assert_eq!(outcome("silver.good"), Some("committed"));
    assert_eq!(outcome("gold.good"), Some("committed"));
    assert_eq!(lake.rows("SELECT n FROM gold.good").await, [r#"{"n":3}"#]);
    let runs = "SELECT transform, outcome, rows_in, rows_out, versions_written[1] AS version FROM sluice.runs";
    assert_eq!(
        lake.rows(runs).await,
        [
            r#"{"transform":"gold.good","outcome":"committed","rows_out":1,"version":1}"#,
            r#"{"transform":"silver.bad","outcome":"failed","rows_in":0,"rows_out":0}"#,
            r#"{"transform":"silver.good","outcome":"committed","rows_in":3,"rows_out":3,"version":1}"#,
        ]
    );
    assert_eq!(lake.run_with(Refresh::No).await.iter().filter(|summary| summary.outcome == "unchanged").count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_was_begun_anew_stops_who_streams_it_and_says_why() {
    let lake = Lake::new(&[APPEND, ("gold.events", "mode = \"append\"", "SELECT seq FROM STREAM(silver.events)")]);
    lake.append("bronze.events", &numbered(0, 3)).await;
    lake.run().await;
    lake.declare(&[APPEND]);
    lake.run_with(Refresh::Full).await;
    lake.declare(&[APPEND, ("gold.events", "mode = \"append\"", "SELECT seq FROM STREAM(silver.events)")]);
    let failed = lake.run_with(Refresh::No).await;
    assert!(matches!(failed[1].failure, Some(TransformError::RowsTaken { by: TakenBy::Refresh, .. })), "{failed:?}");
    lake.run_with(Refresh::Full).await;
    assert_eq!(lake.count("gold.events").await, 3);
}
