//! Merge, history, recompute, replace: the table is what all rows at once would give, whatever the
//! batches were and in whatever order they came.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use sluicebox::transform::run::TransformError;
use sluicebox::transform::run::engine::Refresh;

use super::lake::{Event, Lake, event};

pub const SQL: &str = "SELECT id, seq, status, amount FROM STREAM(bronze.events)";
pub const MERGE: &str =
    "mode = \"merge\"\nkeys = [\"id\"]\nsequence_by = [\"seq\"]\ndelete_when = \"status = 'deleted'\"";
pub const HISTORY: &str =
    "mode = \"history\"\nkeys = [\"id\"]\nsequence_by = [\"seq\"]\ndelete_when = \"status = 'deleted'\"";

/// Batches of events of few keys, late, repeated, at the same place in time, some without a key.
pub fn batches() -> impl Strategy<Value = Vec<Vec<Event>>> {
    let one = (proptest::option::weighted(0.9, 0..4_u8), 0..6_i64, 0..4_usize, 0..3_i64).prop_map(
        |(id, seq, status, amount)| Event {
            id: id.map(|id| format!("k{id}")),
            seq,
            status: Some(["open", "won", "lost", "deleted"][status].to_owned()),
            amount: (amount > 0).then_some(amount),
        },
    );
    proptest::collection::vec(proptest::collection::vec(one, 1..6), 1..5)
}

/// Each case makes tables: a few are enough here, and more go through the kill check.
pub fn for_some(cases: u32, check: impl Fn(&tokio::runtime::Runtime, Vec<Vec<Event>>)) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let mut runner = TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() });
    runner
        .run(&batches(), |batches| {
            check(&runtime, batches);
            Ok(())
        })
        .unwrap_or_else(|error| panic!("{error}"));
}

fn is_deleted(event: &Event) -> bool {
    event.status.as_deref() == Some("deleted")
}

/// The last event of each key; a deletion wins over others of its time.
fn merged(events: &[Event]) -> Vec<String> {
    let rank = |event: &Event| (event.seq, is_deleted(event), event.status.clone(), event.amount);
    let mut last: BTreeMap<Option<String>, Event> = BTreeMap::new();
    for event in events {
        let held = last.entry(event.id.clone()).or_insert_with(|| event.clone());
        if rank(event) > rank(held) {
            *held = event.clone();
        }
    }
    let mut rows: Vec<String> = last.values().filter(|event| !is_deleted(event)).map(json).collect();
    rows.sort();
    rows
}

fn json(event: &Event) -> String {
    let id = event.id.as_ref().map(|id| format!("\"id\":\"{id}\",")).unwrap_or_default();
    let amount = event.amount.map(|amount| format!(",\"amount\":{amount}")).unwrap_or_default();
    format!("{{{id}\"seq\":{},\"status\":\"{}\"{amount}}}", event.seq, event.status.as_deref().unwrap_or_default())
}

/// All distinct events of each key, one after another.
fn history(events: &[Event]) -> Vec<String> {
    let mut keys: BTreeMap<Option<String>, Vec<Event>> = BTreeMap::new();
    for event in events {
        // Of a deletion only key and time are known later.
        let event = if is_deleted(event) { Event { amount: None, ..event.clone() } } else { event.clone() };
        let held = keys.entry(event.id.clone()).or_default();
        if !held.contains(&event) {
            held.push(event);
        }
    }
    let mut rows = Vec::new();
    for events in keys.values_mut() {
        events.sort_by_key(|event| (event.seq, is_deleted(event), event.status.clone(), event.amount));
        for (at, event) in events.iter().enumerate().filter(|(_, event)| !is_deleted(event)) {
            let next = events.get(at + 1);
            let until = next.map(|next| format!(",\"valid_to\":{}", next.seq)).unwrap_or_default();
            let row = json(event);
            let row = row.trim_end_matches('}');
            rows.push(format!("{row},\"valid_from\":{}{until},\"is_current\":{}}}", event.seq, next.is_none()));
        }
    }
    rows.sort();
    rows
}

async fn feed(lake: &Lake, table: &str, batches: &[Vec<Event>]) {
    for batch in batches {
        lake.append(table, batch).await;
        lake.run().await;
    }
}

#[test]
fn a_merge_is_the_last_of_each_key_whatever_the_batches_were() {
    for_some(12, |runtime, batches| {
        let expected = merged(&batches.concat());
        runtime.block_on(async {
            let lake = Lake::new(&[("silver.leads", MERGE, SQL)]);
            feed(&lake, "bronze.events", &batches).await;
            assert_eq!(lake.rows("SELECT * FROM silver.leads").await, expected, "as they came");
            let lake = Lake::new(&[("silver.leads", MERGE, SQL)]);
            let backwards: Vec<Vec<Event>> = batches.iter().rev().cloned().collect();
            feed(&lake, "bronze.events", &backwards).await;
            assert_eq!(lake.rows("SELECT * FROM silver.leads").await, expected, "backwards");
            lake.run_with(Refresh::Full).await;
            assert_eq!(lake.rows("SELECT * FROM silver.leads").await, expected, "at once");
        });
    });
}

#[test]
fn a_history_is_all_of_each_key_in_order_whatever_the_batches_were() {
    for_some(12, |runtime, batches| {
        let expected = history(&batches.concat());
        runtime.block_on(async {
            let lake = Lake::new(&[("silver.leads", HISTORY, SQL)]);
            feed(&lake, "bronze.events", &batches).await;
            assert_eq!(lake.rows("SELECT * FROM silver.leads").await, expected, "as they came");
            let lake = Lake::new(&[("silver.leads", HISTORY, SQL)]);
            let backwards: Vec<Vec<Event>> = batches.iter().rev().cloned().collect();
            feed(&lake, "bronze.events", &backwards).await;
            assert_eq!(lake.rows("SELECT * FROM silver.leads").await, expected, "backwards");
        });
    });
}

/// Queries in which new rows change what old ones gave, each in its own way.
pub const RECOMPUTED: [(&str, &str, &str); 11] = [
    (
        "gold.often",
        "id",
        "SELECT id, count(*) AS n, sum(amount) AS amount FROM STREAM(bronze.events) GROUP BY id HAVING count(*) > 1",
    ),
    (
        "gold.unsold",
        "id",
        "SELECT l.id, max(l.seq) AS seq FROM STREAM(bronze.events) l LEFT JOIN STREAM(bronze.sales) s ON l.id = s.id \
         WHERE s.id IS NULL GROUP BY l.id",
    ),
    (
        "gold.without",
        "id",
        "SELECT id, count(*) AS n FROM STREAM(bronze.events) l WHERE NOT EXISTS (SELECT 1 FROM STREAM(bronze.sales) s \
         WHERE s.id = l.id AND s.amount > 1) GROUP BY id",
    ),
    (
        "gold.ranked",
        "id",
        "SELECT id, seq, row_number() OVER (PARTITION BY id ORDER BY seq DESC, status, amount) AS place FROM \
         STREAM(bronze.events)",
    ),
    (
        "gold.share",
        "id",
        "SELECT id, sum(amount) AS amount, sum(sum(amount)) OVER () AS of_all FROM STREAM(bronze.events) GROUP BY id",
    ),
    (
        "gold.both",
        "id",
        "SELECT id, sum(n) AS n FROM (SELECT id, 1 AS n FROM STREAM(bronze.events) UNION ALL SELECT id, 100 AS n FROM \
         STREAM(bronze.sales)) GROUP BY id",
    ),
    (
        "gold.of_another_name",
        "id",
        "SELECT status AS id, sum(amount) OVER (PARTITION BY id) AS of_all FROM (SELECT id, status, amount FROM \
         STREAM(bronze.events)) x",
    ),
    (
        "gold.lines",
        "id\", \"sale",
        "SELECT l.id, s.seq AS sale, count(*) AS n FROM STREAM(bronze.events) l LEFT JOIN STREAM(bronze.sales) s ON \
         l.id = s.id GROUP BY l.id, s.seq",
    ),
    (
        "gold.tiers",
        "id",
        "SELECT c.id, t.amount AS tier FROM (SELECT id, count(*) AS n FROM STREAM(bronze.events) GROUP BY id) c JOIN \
         (SELECT DISTINCT amount FROM STREAM(bronze.sales)) t ON c.n >= t.amount",
    ),
    (
        "gold.of_all",
        "id",
        "SELECT id, sum(amount) AS amount, (SELECT count(*) FROM STREAM(bronze.events)) AS of_all FROM \
         STREAM(bronze.events) GROUP BY id",
    ),
    (
        "gold.never",
        "id",
        "SELECT id, count(*) AS n FROM STREAM(bronze.events) WHERE amount NOT IN (SELECT amount FROM \
         STREAM(bronze.sales)) GROUP BY id",
    ),
];

#[test]
fn what_is_recomputed_is_the_query_over_all_whatever_the_batches_were() {
    for_some(6, |runtime, batches| {
        runtime.block_on(async {
            let modes = RECOMPUTED.map(|(_, keys, _)| format!("mode = \"recompute\"\nkeys = [\"{keys}\"]"));
            let declared = RECOMPUTED.iter().zip(&modes);
            let transforms: Vec<_> = declared.map(|((table, _, sql), mode)| (*table, mode.as_str(), *sql)).collect();
            let lake = Lake::new(&transforms);
            lake.append("bronze.events", &[]).await;
            lake.append("bronze.sales", &[]).await;
            for (number, batch) in batches.iter().enumerate() {
                let table = if number % 2 == 0 { "bronze.events" } else { "bronze.sales" };
                lake.append(table, batch).await;
                lake.run().await;
                for (table, _, sql) in RECOMPUTED {
                    let whole = sql.replace("STREAM(", "(SELECT * FROM ");
                    assert_eq!(lake.rows(&format!("SELECT * FROM {table}")).await, lake.rows(&whole).await, "{table}");
                }
            }
        });
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_event_of_what_was_deleted_stays_dead_and_a_newer_one_lives() {
    let lake = Lake::new(&[("silver.leads", MERGE, SQL)]);
    lake.append("bronze.events", &[event("a", 5, "deleted", 1)]).await;
    lake.run().await;
    lake.append("bronze.events", &[event("a", 4, "open", 1)]).await;
    lake.run().await;
    assert_eq!(lake.count("silver.leads").await, 0);
    assert_eq!(lake.rows("SELECT * FROM silver.leads__deleted").await, [r#"{"id":"a","seq":5}"#]);
    lake.append("bronze.events", &[event("a", 6, "open", 1)]).await;
    lake.run().await;
    assert_eq!(lake.count("silver.leads").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_merge_touches_the_files_that_hold_its_keys_and_no_other() {
    let lake = Lake::new(&[("silver.leads", MERGE, SQL)]);
    for batch in 0..5_i64 {
        let events: Vec<Event> =
            (0..20).map(|n| event(&format!("k{:03}", batch * 20 + n), batch * 20 + n, "open", 1)).collect();
        lake.append("bronze.events", &events).await;
        lake.run().await;
    }
    let before = lake.head("silver.leads").await.files().await.expect("files can be listed");
    assert_eq!(before.len(), 5);
    lake.append("bronze.events", &[event("k045", 999, "won", 2), event("k998", 999, "open", 2)]).await;
    lake.run().await;
    let after = lake.head("silver.leads").await.files().await.expect("files can be listed");
    let kept = before.iter().filter(|file| after.contains(file)).count();
    assert_eq!(kept, 4);
    assert_eq!(lake.count("silver.leads").await, 101);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partitioned_merge_moves_a_row_to_where_it_belongs_now() {
    let declared = format!("{MERGE}\npartition_by = [\"status\"]");
    let lake = Lake::new(&[("silver.leads", &declared, SQL)]);
    lake.append("bronze.events", &[event("a", 1, "open now, it's 100% {new}", 1), event("b", 1, "won", 1)]).await;
    lake.run().await;
    assert_eq!(lake.count("silver.leads").await, 2);
    lake.append("bronze.events", &[event("a", 2, "won", 1), event("c", 1, "", 1)]).await;
    lake.run().await;
    assert_eq!(
        lake.rows("SELECT id, status FROM silver.leads").await,
        [r#"{"id":"a","status":"won"}"#, r#"{"id":"b","status":"won"}"#, r#"{"id":"c"}"#,]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_text_that_is_a_key_and_a_partition_is_one_key() {
    let declared =
        "mode = \"merge\"\nkeys = [\"id\", \"status\"]\nsequence_by = [\"seq\"]\npartition_by = [\"status\"]";
    let lake = Lake::new(&[("silver.leads", declared, "SELECT id, seq, status FROM STREAM(bronze.events)")]);
    for seq in 1..=3 {
        lake.append("bronze.events", &[event("a", seq, "", 1)]).await;
        lake.run().await;
    }
    assert_eq!(lake.rows("SELECT * FROM silver.leads").await, [r#"{"id":"a","seq":3}"#]);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_differ_in_a_map_alone_are_two_in_a_history() {
    let declared = format!("{HISTORY}\npartition_by = [\"is_current\"]");
    let sql = "SELECT id, seq, status, map(['amount'], [amount]) AS said FROM STREAM(bronze.events)";
    let lake = Lake::new(&[("silver.leads", &declared, sql)]);
    lake.append("bronze.events", &[event("a", 1, "open", 1), event("a", 1, "open", 1)]).await;
    lake.run().await;
    assert_eq!(lake.count("silver.leads").await, 1, "what is the same in every column is there once");
    lake.append("bronze.events", &[event("a", 1, "open", 2)]).await;
    lake.run().await;
    assert_eq!(lake.count("silver.leads").await, 2);
    assert_eq!(lake.rows("SELECT id FROM silver.leads WHERE is_current").await, [r#"{"id":"a"}"#]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replacement_whose_columns_fit_no_more_is_begun_anew() {
    let of = |sql| ("gold.counts", "mode = \"replace\"", sql);
    let lake = Lake::new(&[of("SELECT count(*) AS n FROM bronze.events")]);
    lake.append("bronze.events", &[event("a", 1, "open", 1)]).await;
    lake.run().await;
    lake.declare(&[of("SELECT CAST(count(*) AS VARCHAR) AS n FROM bronze.events")]);
    assert_eq!(lake.run_with(Refresh::No).await[0].outcome, "failed");
    assert_eq!(lake.run_with(Refresh::Full).await[0].outcome, "committed");
    assert_eq!(lake.rows("SELECT * FROM gold.counts").await, [r#"{"n":"1"}"#]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replacement_is_made_when_an_input_has_other_rows() {
    let lake = Lake::new(&[(
        "gold.counts",
        "mode = \"replace\"",
        "SELECT status, count(*) AS n FROM bronze.events GROUP BY status",
    )]);
    lake.append("bronze.events", &[event("a", 1, "open", 1), event("b", 1, "won", 1)]).await;
    assert_eq!(lake.run().await[0].outcome, "committed");
    assert_eq!(lake.run().await[0].outcome, "unchanged");
    lake.append("bronze.events", &[event("c", 1, "won", 1)]).await;
    assert_eq!(lake.run().await[0].outcome, "committed");
    let rows = lake.rows("SELECT * FROM gold.counts").await;
    assert_eq!(rows, [r#"{"status":"open","n":1}"#, r#"{"status":"won","n":2}"#]);
    lake.declare(&[(
        "gold.counts",
        "mode = \"replace\"",
        "SELECT status, 7 + count(*) AS n FROM bronze.events GROUP BY status",
    )]);
    assert_eq!(lake.run().await[0].outcome, "committed", "the query is another one");
}

#[tokio::test]
async fn numbers_with_fractions_are_no_keys() {
    for mode in ["merge", "recompute"] {
        let keys = format!("mode = \"{mode}\"\nkeys = [\"half\"]\n");
        let keys = if mode == "merge" { format!("{keys}sequence_by = [\"seq\"]") } else { keys };
        let sql = "SELECT CAST(amount AS DOUBLE) / 2 AS half, max(seq) AS seq FROM STREAM(bronze.events) GROUP BY half";
        let lake = Lake::new(&[("silver.halves", &keys, sql)]);
        lake.append("bronze.events", &[event("a", 1, "open", 1)]).await;
        let failed = lake.run_with(Refresh::No).await;
        let Some(TransformError::Columns(why)) = &failed[0].failure else { panic!("{failed:?}") };
        assert!(why[0].contains("`half` has fractions"), "{why:?}");
    }
}
