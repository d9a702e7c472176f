//! Streams of tables that are updated: what their change feeds say, and what is made of that.

use std::process::Command;
use std::sync::Arc;

use deltalake::DeltaTable;
use deltalake::protocol::SaveMode;
use serde_json::{Value, json};
use sluicebox::catalog::rewrite::{Change, Kind};
use sluicebox::transform::run::TransformError;
use sluicebox::transform::run::engine::Refresh;
use sluicebox::transform::run::output::write;

use super::keyed::{HISTORY, MERGE, RECOMPUTED, SQL, batches, for_some};
use super::lake::{Event, Lake, event};

const LOG: &str = "mode = \"append\"";
const MERGED: &str = "mode = \"merge\"\nkeys = [\"id\"]\nsequence_by = [\"_commit_version\", \"_change_type\"]\n\
    delete_when = \"_change_type = 'delete'\"";
/// A table that has both: merged, and streamed itself.
const MERGED_ON: &str = "mode = \"merge\"\nkeys = [\"id\"]\nsequence_by = [\"version\", \"change\"]\n\
    delete_when = \"change = 'delete'\"";
const BY_STATUS: &str = "mode = \"recompute\"\nkeys = [\"status\"]";
const BY_ID: &str = "mode = \"recompute\"\nkeys = [\"id\"]";

/// Each table that is updated, with the logs and copies that its streams make.
const GRAPH: [(&str, &str, &str); 15] = [
    ("silver.leads", MERGE, SQL),
    ("silver.leads_log", LOG, "SELECT * FROM STREAM(silver.leads)"),
    ("gold.leads", MERGED, "SELECT * FROM STREAM(silver.leads) WHERE _change_type <> 'update_preimage'"),
    (
        "gold.leads_again",
        MERGED_ON,
        "SELECT id, seq, status, amount, _change_type AS change, _commit_version AS version FROM STREAM(silver.leads) \
         WHERE _change_type <> 'update_preimage'",
    ),
    (
        "gold.leads_third",
        MERGED,
        "SELECT id, seq, status, amount, _change_type, _commit_version FROM STREAM(gold.leads_again) \
         WHERE _change_type <> 'update_preimage'",
    ),
    ("silver.history", HISTORY, SQL),
    ("silver.history_log", LOG, "SELECT * FROM STREAM(silver.history)"),
    (
        "gold.statuses",
        BY_STATUS,
        "SELECT status, count(*) AS n, sum(amount) AS amount FROM STREAM(silver.leads) GROUP BY status",
    ),
    ("gold.statuses_log", LOG, "SELECT * FROM STREAM(gold.statuses)"),
    (
        "gold.current",
        BY_STATUS,
        "SELECT status, count(*) AS n FROM STREAM(silver.history) WHERE is_current GROUP BY status HAVING count(*) > 1",
    ),
    (
        "gold.sizes",
        "mode = \"recompute\"\nkeys = [\"n\"]",
        "SELECT n, count(*) AS statuses FROM STREAM(gold.statuses) GROUP BY n",
    ),
    ("gold.all", "mode = \"replace\"", "SELECT id, seq, status, amount FROM silver.leads WHERE amount IS NOT NULL"),
    ("gold.all_log", LOG, "SELECT * FROM STREAM(gold.all)"),
    ("gold.all_again", MERGED, "SELECT * FROM STREAM(gold.all) WHERE _change_type <> 'update_preimage'"),
    (
        "gold.met",
        BY_ID,
        "SELECT l.id, l.seq, s.n, h.n AS current FROM STREAM(silver.leads) l JOIN STREAM(gold.statuses) s ON l.status = s.status \
         LEFT JOIN STREAM(gold.current) h ON h.status = l.status WHERE s.n < 3",
    ),
];

async fn replayed(lake: &Lake, log: &str, table: &str) {
    let head = lake.head(table).await;
    let columns = head.schema.fields().iter().map(|field| field.name().as_str()).collect::<Vec<_>>().join(", ");
    let signed = "sum(CASE WHEN _change_type IN ('insert', 'update_postimage') THEN 1 ELSE -1 END)";
    let left = format!("SELECT {columns}, {signed} AS times FROM {log} GROUP BY {columns} HAVING {signed} <> 0");
    let held = format!("SELECT {columns}, count(*) AS times FROM {table} GROUP BY {columns}");
    assert_eq!(lake.rows(&left).await, lake.rows(&held).await, "the changes of {table} give the table");
}

/// No change says what didn't change, and each update has both of its sides.
async fn are_true(lake: &Lake, log: &str, columns: &str) {
    let same = format!(
        "SELECT {columns}, _commit_version FROM {log} GROUP BY {columns}, _commit_version HAVING count(DISTINCT _change_type) > 1"
    );
    assert_eq!(lake.rows(&same).await, [""; 0], "{log}");
    let sides = format!(
        "SELECT _commit_version FROM {log} GROUP BY _commit_version HAVING \
         count(*) FILTER (WHERE _change_type = 'update_preimage') <> count(*) FILTER (WHERE _change_type = 'update_postimage')"
    );
    assert_eq!(lake.rows(&sides).await, [""; 0], "{log}");
}

async fn holds(lake: &Lake) {
    let own = "SELECT id, seq, status, amount FROM";
    for (table, copy) in [
        ("silver.leads", "gold.leads"),
        ("silver.leads", "gold.leads_again"),
        ("silver.leads", "gold.leads_third"),
        ("gold.all", "gold.all_again"),
    ] {
        assert_eq!(lake.rows(&format!("{own} {copy}")).await, lake.rows(&format!("{own} {table}")).await, "{copy}");
    }
    for table in ["gold.statuses", "gold.current", "gold.sizes", "gold.met"] {
        let (_, _, sql) = GRAPH.iter().find(|(name, _, _)| *name == table).expect("it is declared");
        let whole = sql.replace("STREAM(", "(SELECT * FROM ");
        assert_eq!(lake.rows(&format!("SELECT * FROM {table}")).await, lake.rows(&whole).await, "{table}");
    }
    for (log, table) in [
        ("silver.leads_log", "silver.leads"),
        ("silver.history_log", "silver.history"),
        ("gold.statuses_log", "gold.statuses"),
        ("gold.all_log", "gold.all"),
    ] {
        replayed(lake, log, table).await;
    }
    are_true(lake, "silver.leads_log", "id, seq, status, amount").await;
    are_true(lake, "silver.history_log", "id, seq, status, amount, valid_to, is_current").await;
}

#[test]
fn what_is_made_of_changes_is_what_is_made_of_the_table() {
    for_some(5, |runtime, batches| {
        runtime.block_on(async {
            let lake = Lake::new(&GRAPH);
            for batch in &batches {
                lake.append("bronze.events", batch).await;
                lake.run().await;
                holds(&lake).await;
            }
        });
    });
}

#[test]
fn a_stream_that_falls_behind_comes_to_the_same_in_small_parts() {
    for_some(4, |runtime, batches| {
        runtime.block_on(async {
            let mut lake = Lake::new(&GRAPH);
            let streamed: Vec<_> = GRAPH
                .into_iter()
                .filter(|(table, _, _)| table.starts_with("silver.") && !table.ends_with("_log"))
                .collect();
            for (number, batch) in batches.iter().enumerate() {
                lake.append("bronze.events", batch).await;
                if number == 0 {
                    lake.run().await;
                    lake.declare(&streamed);
                } else {
                    lake.run().await;
                    compacted(&lake, "silver.leads").await;
                }
            }
            lake.options.part_bytes = 1;
            lake.declare(&GRAPH);
            lake.run().await;
            holds(&lake).await;
        });
    });
}

/// Queries over two tables, both of which lose rows, and both sides of a join at once.
#[test]
fn what_is_recomputed_over_tables_that_lose_rows_is_the_query_over_all() {
    let merged =
        "mode = \"merge\"\nkeys = [\"id\", \"amount\"]\nsequence_by = [\"seq\"]\ndelete_when = \"status = 'deleted'\"";
    let over = |sql: &str| sql.replace("bronze.", "silver.");
    for_some(6, |runtime, batches| {
        runtime.block_on(async {
            let declared: Vec<(&str, String, String)> = RECOMPUTED
                .iter()
                .map(|(table, keys, sql)| (*table, format!("mode = \"recompute\"\nkeys = [\"{keys}\"]"), over(sql)))
                .collect();
            let mut transforms = vec![
                ("silver.events", merged, "SELECT id, seq, status, amount FROM STREAM(bronze.events)"),
                ("silver.sales", merged, "SELECT id, seq, status, amount FROM STREAM(bronze.sales)"),
            ];
            transforms.extend(declared.iter().map(|(table, mode, sql)| (*table, mode.as_str(), sql.as_str())));
            let lake = Lake::new(&transforms);
            lake.append("bronze.events", &[]).await;
            lake.append("bronze.sales", &[]).await;
            for batch in &batches {
                lake.append("bronze.events", batch).await;
                lake.append("bronze.sales", &batch.iter().rev().take(2).cloned().collect::<Vec<_>>()).await;
                lake.run().await;
                for (table, _, sql) in &declared {
                    let whole = sql.replace("STREAM(", "(SELECT * FROM ");
                    assert_eq!(lake.rows(&format!("SELECT * FROM {table}")).await, lake.rows(&whole).await, "{table}");
                }
            }
        });
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_went_together_with_what_it_met_is_computed_again() {
    let met = "SELECT l.id, w.seq AS word FROM STREAM(silver.leads) l JOIN silver.words w ON w.id = l.status WHERE w.amount > 0";
    let lake = Lake::new(&[
        ("silver.leads", MERGE, SQL),
        ("silver.words", MERGE, "SELECT id, seq, status, amount FROM STREAM(bronze.words)"),
        ("gold.met", BY_ID, met),
    ]);
    lake.append("bronze.words", &[event("open", 1, "x", 1), event("won", 1, "x", 1)]).await;
    lake.append("bronze.events", &[event("a", 1, "open", 1), event("b", 1, "open", 1), event("c", 1, "won", 1)]).await;
    lake.run().await;
    assert_eq!(lake.count("gold.met").await, 3);
    lake.append("bronze.words", &[event("open", 2, "deleted", 1)]).await;
    lake.append("bronze.events", &[event("a", 2, "deleted", 1), event("b", 2, "won", 1)]).await;
    lake.run().await;
    assert_eq!(lake.rows("SELECT id FROM gold.met").await, [r#"{"id":"b"}"#, r#"{"id":"c"}"#]);
}

/// All files of a table become one, by another writer.
async fn compacted(lake: &Lake, table: &str) {
    let mut table = DeltaTable::new(Arc::clone(lake.head(table).await.log.store()));
    table.load().await.expect("the table can be loaded");
    table.optimize().await.expect("the table can be compacted");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_feed_that_is_turned_on_later_says_what_came_before_it_too() {
    let alone = [("silver.leads", MERGE, SQL)];
    let lake = Lake::new(&alone);
    lake.append("bronze.events", &[event("a", 1, "open", 1), event("b", 1, "open", 1)]).await;
    lake.run().await;
    let protocol = async || {
        serde_json::to_value(&lake.head("silver.leads").await.head.protocol).expect("JSON")["minWriterVersion"].clone()
    };
    assert_eq!(protocol().await, json!(2));
    lake.declare(&[alone[0], ("gold.log", LOG, "SELECT * FROM STREAM(silver.leads)")]);
    lake.run().await;
    assert_eq!(protocol().await, json!(4), "it is streamed by now");
    let held = lake.head("silver.leads").await;
    assert_eq!(serde_json::to_value(&held.head.protocol).expect("JSON")["minReaderVersion"], json!(1));
    assert!(held.has_feed());
    // Updated while nobody streams it: what was turned on stays.
    lake.declare(&alone);
    lake.append("bronze.events", &[event("a", 2, "won", 1)]).await;
    lake.run().await;
    assert!(lake.head("silver.leads").await.has_feed());
    lake.declare(&[alone[0], ("gold.log", LOG, "SELECT * FROM STREAM(silver.leads)")]);
    lake.run().await;
    let log = "SELECT id, status, _change_type FROM gold.log";
    assert_eq!(
        lake.rows(log).await,
        [
            r#"{"id":"a","status":"open","_change_type":"insert"}"#,
            r#"{"id":"a","status":"open","_change_type":"update_preimage"}"#,
            r#"{"id":"a","status":"won","_change_type":"update_postimage"}"#,
            r#"{"id":"b","status":"open","_change_type":"insert"}"#,
        ]
    );
    assert_eq!(lake.rows("SELECT _commit_version FROM gold.log WHERE _commit_timestamp IS NULL").await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn commits_of_before_the_feed_are_deletions_and_insertions() {
    let alone = [("silver.leads", MERGE, SQL)];
    let log = [alone[0], ("gold.log", LOG, "SELECT * FROM STREAM(silver.leads)")];
    let lake = Lake::new(&log);
    lake.append("bronze.events", &[event("a", 1, "open", 1), event("b", 1, "open", 1)]).await;
    lake.run().await;
    // A writer that knows nothing of feeds: what it does is seen by its files.
    let mut output = lake.head("silver.leads").await;
    let files = output.files().await.expect("files can be listed");
    let change = Change {
        kind: Kind::Rewrite,
        adds: Vec::new(),
        removes: files.iter().map(|file| file.remove(true)).collect(),
        transactions: Vec::new(),
        metadata: None,
        changes: Vec::new(),
        protocol: None,
        operation: write(SaveMode::Overwrite),
        note: Value::Null,
    };
    output.put(change).await.expect("the log is there").expect("nobody else writes");
    lake.run().await;
    assert_eq!(
        lake.rows("SELECT id, _change_type FROM gold.log WHERE _change_type <> 'insert'").await,
        [r#"{"id":"a","_change_type":"delete"}"#, r#"{"id":"b","_change_type":"delete"}"#]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_are_written_again_as_they_were_are_no_change() {
    let lake = Lake::new(&GRAPH[..2]);
    lake.append("bronze.events", &[event("a", 2, "open", 1), event("b", 2, "open", 1)]).await;
    lake.run().await;
    let before = lake.head("silver.leads").await.files().await.expect("files can be listed");
    lake.append("bronze.events", &[event("a", 1, "old", 1), event("b", 2, "open", 1)]).await;
    assert_eq!(lake.run().await[0].outcome, "committed", "what was consumed is");
    assert_eq!(lake.head("silver.leads").await.files().await.expect("files can be listed"), before);
    assert_eq!(lake.count("silver.leads_log").await, 2);
    lake.append("bronze.events", &[event("a", 3, "won", 1)]).await;
    assert_eq!(lake.run().await[1].rows_in, Some(2), "its state before and after");
    assert_eq!(lake.count("silver.leads_log").await, 4, "and of two rows in a file one has changed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_changes_behind_cleanup_or_vacuum_is_told() {
    let lake = Lake::new(&GRAPH[..2]);
    lake.append("bronze.events", &[event("a", 1, "open", 1)]).await;
    lake.run().await;
    lake.declare(&GRAPH[..1]);
    lake.append("bronze.events", &[event("a", 2, "won", 1)]).await;
    lake.run().await;
    let held = lake.head("silver.leads").await;
    let version = held.base.version;
    let commit = held.log.read(version).await.expect("the log is there").expect("so is the version");
    let changes: Vec<String> = commit.changes().map(|file| file.path.clone()).collect();
    assert!(changes.len() == 1 && changes[0].starts_with("_change_data/"), "{changes:?}");
    lake.declare(&GRAPH[..2]);
    let stored = lake.path().join("lake/silver/leads").join(&changes[0]);
    let bytes = std::fs::read(&stored).expect("the file is there");
    std::fs::remove_file(&stored).expect("the file is there");
    let failed = lake.run_with(Refresh::No).await;
    assert!(matches!(failed[1].failure, Some(TransformError::FileGone { .. })), "{failed:?}");
    std::fs::write(&stored, bytes).expect("the file is back");
    // A checkpoint of a table with a feed is read as any other.
    lake.declare(&GRAPH[..1]);
    lake.append("bronze.events", &[event("a", 3, "lost", 1)]).await;
    lake.run().await;
    crate::sink::checkpoint_and_clean(held.log.store(), lake.head("silver.leads").await.base.version).await;
    lake.declare(&GRAPH[..2]);
    let failed = lake.run_with(Refresh::No).await;
    match &failed[1].failure {
        Some(TransformError::VersionGone { version: gone, .. }) => assert_eq!(*gone, version),
        other => panic!("{other:?}"),
    }
    lake.run_with(Refresh::Full).await;
    replayed(&lake, "silver.leads_log", "silver.leads").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_begun_anew_takes_its_rows_away_by_its_changes() {
    let lake = Lake::new(&GRAPH[..3]);
    lake.append("bronze.events", &[event("a", 1, "open", 1), event("b", 1, "open", 1)]).await;
    lake.run().await;
    lake.declare(&GRAPH[..1]);
    lake.run_with(Refresh::Full).await;
    lake.append("bronze.events", &[event("a", 2, "deleted", 1)]).await;
    lake.run().await;
    lake.declare(&GRAPH[..3]);
    lake.run().await;
    replayed(&lake, "silver.leads_log", "silver.leads").await;
    assert_eq!(lake.rows("SELECT id FROM gold.leads").await, [r#"{"id":"b"}"#]);
    // With other partitions the rows that went can't be read as its own.
    let parted = format!("{MERGE}\npartition_by = [\"status\"]");
    lake.declare(&[("silver.leads", &parted, SQL)]);
    lake.run_with(Refresh::Full).await;
    lake.declare(&[("silver.leads", &parted, SQL), GRAPH[1]]);
    let failed = lake.run_with(Refresh::No).await;
    assert!(matches!(failed[1].failure, Some(TransformError::RowsTaken { .. })), "{failed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_of_a_partitioned_table_with_maps_have_all_their_columns() {
    let parted = format!("{MERGE}\npartition_by = [\"status\"]");
    let sql = "SELECT id, seq, status, map(['amount', 'more'], [amount, 1]) AS said, make_array(amount) AS list FROM STREAM(bronze.events)";
    let lake = Lake::new(&[("silver.leads", &parted, sql), GRAPH[1]]);
    lake.append("bronze.events", &[event("a", 1, "50% {new}", 1), event("b", 1, "", 1)]).await;
    lake.run().await;
    lake.append("bronze.events", &[event("a", 2, "won", 2), event("b", 1, "", 1)]).await;
    lake.run().await;
    lake.append("bronze.events", &[event("a", 3, "won", 2), event("b", 4, "", 7)]).await;
    lake.run().await;
    assert_eq!(
        lake.rows("SELECT id, seq, status, said['amount'] AS amount, list[1] AS first, _change_type AS t FROM silver.leads_log").await,
        [
            r#"{"id":"a","seq":1,"status":"50% {new}","amount":1,"first":1,"t":"insert"}"#,
            r#"{"id":"a","seq":1,"status":"50% {new}","amount":1,"first":1,"t":"update_preimage"}"#,
            r#"{"id":"a","seq":2,"status":"won","amount":2,"first":2,"t":"update_postimage"}"#,
            r#"{"id":"a","seq":2,"status":"won","amount":2,"first":2,"t":"update_preimage"}"#,
            r#"{"id":"a","seq":3,"status":"won","amount":2,"first":2,"t":"update_postimage"}"#,
            r#"{"id":"b","seq":1,"amount":1,"first":1,"t":"insert"}"#,
            r#"{"id":"b","seq":1,"amount":1,"first":1,"t":"update_preimage"}"#,
            r#"{"id":"b","seq":4,"amount":7,"first":7,"t":"update_postimage"}"#,
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_column_that_came_later_is_null_in_older_changes() {
    let log = |sql| ("gold.log", LOG, sql);
    let lake = Lake::new(&[GRAPH[0], log("SELECT id, amount, _change_type FROM STREAM(silver.leads)")]);
    lake.append("bronze.events", &[event("a", 1, "open", 1)]).await;
    lake.run().await;
    lake.declare(&GRAPH[..1]);
    lake.append("bronze.events", &[event("a", 2, "open", 2)]).await;
    lake.run().await;
    let wider = ("silver.leads", MERGE, "SELECT id, seq, status, amount, 'new' AS word FROM STREAM(bronze.events)");
    lake.declare(&[wider]);
    lake.append("bronze.events", &[event("a", 3, "open", 3)]).await;
    lake.run().await;
    lake.declare(&[wider, log("SELECT id, amount, _change_type, word FROM STREAM(silver.leads)")]);
    lake.run().await;
    assert_eq!(
        lake.rows("SELECT amount, word, _change_type AS t FROM gold.log").await,
        [
            r#"{"amount":1,"t":"insert"}"#,
            r#"{"amount":1,"t":"update_preimage"}"#,
            r#"{"amount":2,"t":"update_postimage"}"#,
            r#"{"amount":2,"t":"update_preimage"}"#,
            r#"{"amount":3,"word":"new","t":"update_postimage"}"#,
        ]
    );
}

/// A run of the binary that dies at a point.
fn killed(lake: &Lake, point: &str) {
    let out = Command::new(env!("CARGO_BIN_EXE_sluice"))
        .args(["transform", "--part-size", "1KB", "--crash-at", point, "--project"])
        .arg(lake.path())
        .output()
        .expect("sluice starts");
    assert!(!String::from_utf8_lossy(&out.stderr).contains("panicked"), "{out:?}");
}

#[test]
fn a_kill_anywhere_neither_loses_a_change_nor_tells_it_twice() {
    let all: Vec<Vec<Event>> = {
        use proptest::strategy::{Strategy as _, ValueTree as _};
        let mut runner = proptest::test_runner::TestRunner::deterministic();
        (0..3).flat_map(|_| batches().new_tree(&mut runner).expect("a value").current()).collect()
    };
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let lake = Lake::new(&GRAPH);
        let points = [
            "part-written:1",
            "part-committed:2",
            "output-made:3",
            "part-written:4",
            "side-tables-committed:2",
            "part-committed:5",
        ];
        for (number, batch) in all.iter().enumerate() {
            lake.append("bronze.events", batch).await;
            killed(&lake, points[number % points.len()]);
        }
        lake.run().await;
        holds(&lake).await;
    });
}

fn sluice(lake: &Lake, args: &[&str]) -> Value {
    let out = Command::new(env!("CARGO_BIN_EXE_sluice"))
        .args(args)
        .args(["--format", "json", "--project"])
        .arg(lake.path())
        .output()
        .expect("sluice starts");
    assert!(out.status.success(), "{out:?}");
    serde_json::from_slice(&out.stdout).expect("JSON")
}

fn change_files(lake: &Lake) -> usize {
    std::fs::read_dir(lake.path().join("lake/silver/leads/_change_data")).map_or(0, Iterator::count)
}

/// All that a table's folder holds was stored so many days ago.
fn age(folder: &std::path::Path, days: u64) {
    let then = std::time::SystemTime::now() - std::time::Duration::from_secs(days * 24 * 60 * 60);
    for entry in std::fs::read_dir(folder).expect("the folder is there") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            age(&path, days);
        } else {
            let file = std::fs::File::options().append(true).open(&path).expect("the file opens");
            file.set_modified(then).expect("its time can be set");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_that_a_stream_has_not_read_outlive_vacuum_and_go_afterwards() {
    let lake = Lake::new(&GRAPH[..2]);
    lake.append("bronze.events", &[event("a", 1, "open", 1), event("b", 1, "open", 1)]).await;
    lake.run().await;
    for seq in 2..5 {
        lake.append("bronze.events", &[event("a", seq, "won", seq)]).await;
        sluice(&lake, &["transform", "silver.leads"]);
    }
    assert_eq!(change_files(&lake), 3);
    let folder = lake.path().join("lake/silver/leads");
    age(&folder, 30);
    let kept = sluice(&lake, &["maintain", "silver.leads"]);
    assert_eq!(kept["tables"][0]["log_kept_for"], "silver.leads_log", "{kept}");
    assert_eq!(change_files(&lake), 3, "{kept}");
    lake.run().await;
    replayed(&lake, "silver.leads_log", "silver.leads").await;
    assert_eq!(lake.count("silver.leads_log").await, 8);
    age(&folder, 30);
    let gone = sluice(&lake, &["maintain", "silver.leads"]);
    assert!(gone["tables"][0]["vacuumed_files"].as_u64() >= Some(3), "{gone}");
    assert_eq!(change_files(&lake), 0, "{gone}");
    lake.append("bronze.events", &[event("b", 9, "deleted", 1)]).await;
    lake.run().await;
    replayed(&lake, "silver.leads_log", "silver.leads").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_computed_again_as_a_whole_tells_only_what_became_different() {
    let first = "SELECT id, seq, amount FROM STREAM(bronze.events) ORDER BY seq, id LIMIT 2";
    let lake = Lake::new(&[("gold.first", BY_ID, first), ("gold.log", LOG, "SELECT * FROM STREAM(gold.first)")]);
    lake.append("bronze.events", &[event("b", 2, "open", 1), event("c", 3, "open", 1)]).await;
    lake.run().await;
    assert_eq!(lake.count("gold.log").await, 2);
    lake.append("bronze.events", &[event("d", 4, "open", 1)]).await;
    lake.run().await;
    assert_eq!(lake.count("gold.log").await, 2, "the first two are the same");
    lake.append("bronze.events", &[event("a", 1, "open", 1)]).await;
    lake.run().await;
    assert_eq!(
        lake.rows("SELECT id, _change_type FROM gold.log").await,
        [
            r#"{"id":"a","_change_type":"insert"}"#,
            r#"{"id":"b","_change_type":"insert"}"#,
            r#"{"id":"c","_change_type":"delete"}"#,
            r#"{"id":"c","_change_type":"insert"}"#,
        ]
    );
    replayed(&lake, "gold.log", "gold.first").await;
}

#[tokio::test]
async fn a_table_that_was_dropped_and_made_anew_stops_who_streams_its_changes() {
    let copied = "SELECT * FROM STREAM(silver.leads) WHERE _change_type <> 'update_preimage'";
    let lake = Lake::new(&[("silver.leads", MERGE, SQL), ("gold.leads", MERGED, copied)]);
    lake.append("bronze.events", &[event("a", 1, "open", 1), event("b", 1, "open", 2)]).await;
    lake.run().await;
    std::fs::remove_dir_all(lake.path().join("lake/silver/leads")).expect("it goes");
    let failed = lake.run_with(Refresh::No).await;
    assert_eq!(failed[0].outcome, "committed", "{failed:?}");
    assert!(matches!(failed[1].failure, Some(TransformError::RowsTaken { .. })), "{failed:?}");
    lake.run_with(Refresh::Full).await;
    assert_eq!(lake.count("gold.leads").await, 2);
}

#[tokio::test]
async fn keys_are_found_though_somebody_took_what_their_rows_were_joined_to() {
    let joined = "SELECT l.id, n.amount FROM STREAM(silver.leads) l JOIN other.names n ON l.status = n.status";
    let lake = Lake::new(&[("silver.leads", MERGE, SQL), ("gold.named", BY_ID, joined)]);
    lake.append("other.names", &[event("x", 1, "open", 7), event("y", 1, "won", 8)]).await;
    lake.append("bronze.events", &[event("a", 1, "open", 1), event("b", 1, "won", 2)]).await;
    lake.run().await;
    assert_eq!(lake.count("gold.named").await, 2);

    let mut names = lake.head("other.names").await;
    let change = Change {
        kind: Kind::Rewrite,
        adds: Vec::new(),
        removes: names.files().await.expect("listed").iter().map(|file| file.remove(true)).collect(),
        transactions: Vec::new(),
        metadata: None,
        changes: Vec::new(),
        protocol: None,
        operation: write(SaveMode::Overwrite),
        note: Value::Null,
    };
    names.put(change).await.expect("a log").expect("nobody else writes");
    lake.append("other.names", &[event("y", 1, "won", 8)]).await;
    lake.append("bronze.events", &[event("a", 2, "deleted", 1)]).await;
    lake.run().await;
    assert_eq!(lake.rows("SELECT id, amount FROM gold.named").await, [r#"{"id":"b","amount":8}"#]);
}
