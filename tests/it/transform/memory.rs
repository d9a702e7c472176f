//! More keys than memory holds: joins, groups and sorts go to disk, and what comes out is the same.

use std::sync::Arc;

use arrow::array::{Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use deltalake::kernel::Add;
use serde_json::json;
use sluicebox::catalog::rewrite::{Change, Kind};
use sluicebox::transform::run::output::write;

use super::lake::Lake;

/// Each key takes some 120 bytes, so that the keys alone are more than the pool has.
const POOL_BYTES: usize = 16 << 20;
const ROWS: i64 = 150_000;

/// Rows of these numbers' keys; in no order, so that none is won by luck.
fn rows(numbers: std::ops::Range<i64>, seq: i64) -> RecordBatch {
    let mut numbers: Vec<i64> = numbers.collect();
    numbers.sort_by_key(|number| number.wrapping_mul(0x9E37_79B9_7F4A_7C15_u64.cast_signed()));
    let text =
        |of: &dyn Fn(i64) -> Option<String>| Arc::new(numbers.iter().map(|row| of(*row)).collect::<StringArray>());
    let number = |of: &dyn Fn(i64) -> i64| Arc::new(numbers.iter().map(|row| Some(of(*row))).collect::<Int64Array>());
    let schema = Schema::new(vec![
        Field::new("id", DataType::Utf8, true),
        Field::new("seq", DataType::Int64, true),
        Field::new("status", DataType::Utf8, true),
        Field::new("amount", DataType::Int64, true),
    ]);
    let columns: Vec<arrow::array::ArrayRef> = vec![
        // The last key is none at all.
        text(&|row| (row != ROWS - 1).then(|| format!("{:0>120}", row))),
        number(&|_| seq),
        text(&|_| Some(format!("seen at {seq}"))),
        number(&|row| row % 7),
    ];
    RecordBatch::try_new(Arc::new(schema), columns).expect("the arrays fit their schema")
}

fn within_little(transform: &str, sql: &str) -> Lake {
    let mut lake = Lake::new(&[("silver.leads", transform, sql)]);
    lake.options.memory_bytes = POOL_BYTES;
    lake
}

async fn one(lake: &Lake, sql: &str) -> String {
    lake.rows(sql).await.remove(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_merge_of_more_keys_than_memory_holds_goes_to_disk() {
    let lake = within_little(
        "mode = \"merge\"\nkeys = [\"id\"]\nsequence_by = [\"seq\"]\ndelete_when = \"amount = 6\"",
        "SELECT id, seq, status, amount FROM STREAM(bronze.events)",
    );
    for (numbers, seq) in [(0..ROWS, 2), (0..ROWS, 1), (ROWS / 2..ROWS, 3)] {
        lake.append_rows("bronze.events", &rows(numbers, seq), json!({})).await;
        lake.run().await;
    }
    let kept = |numbers: std::ops::Range<i64>| numbers.filter(|number| number % 7 != 6).count();
    let counted = "SELECT count(*) AS n, count(DISTINCT id) AS keys FROM silver.leads WHERE";
    for (seq, expected, keys) in [
        (2, kept(0..ROWS / 2), kept(0..ROWS / 2)),
        (1, 0, 0),
        (3, kept(ROWS / 2..ROWS), kept(ROWS / 2..ROWS) - usize::from((ROWS - 1) % 7 != 6)),
    ] {
        let found = one(&lake, &format!("{counted} seq = {seq} AND status = 'seen at {seq}'")).await;
        assert_eq!(found, format!("{{\"n\":{expected},\"keys\":{keys}}}"), "of {seq}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recompute_of_more_keys_than_memory_holds_goes_to_disk() {
    let lake = within_little(
        "mode = \"recompute\"\nkeys = [\"id\"]",
        "SELECT id, count(*) AS events, max(seq) AS seq, sum(amount) AS amount FROM STREAM(bronze.events) GROUP BY id",
    );
    for (numbers, seq) in [(0..ROWS, 1), (ROWS / 2..ROWS, 2)] {
        lake.append_rows("bronze.events", &rows(numbers, seq), json!({})).await;
        lake.run().await;
    }
    let found = lake
        .rows("SELECT seq, events, count(*) AS n, sum(amount) AS amount FROM silver.leads GROUP BY seq, events")
        .await;
    let amount = |numbers: std::ops::Range<i64>| numbers.map(|number| number % 7).sum::<i64>();
    let expected = [(1, 1, 0..ROWS / 2), (2, 2, ROWS / 2..ROWS)].map(|(seq, events, numbers)| {
        let (n, amount) = (numbers.end - numbers.start, amount(numbers) * events);
        format!("{{\"seq\":{seq},\"events\":{events},\"n\":{n},\"amount\":{amount}}}")
    });
    assert_eq!(found, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn repetitions_beyond_memory_are_told_as_far_back_as_asked_and_no_further() {
    let lake = within_little(
        "mode = \"append\"\ndedupe_by = [\"id\"]\ndedupe_within = \"1h\"",
        "SELECT id, seq, status, amount FROM STREAM(bronze.events)",
    );
    // A row without a key is never a repetition.
    let (half, nulls) = (usize::try_from(ROWS / 2).expect("a count"), 1);
    lake.append_rows("bronze.events", &rows(0..ROWS / 2, 1), json!({})).await;
    lake.append_rows("bronze.events", &rows(0..ROWS / 2, 2), json!({})).await;
    lake.run().await;
    assert_eq!(lake.count("silver.leads").await, half, "within one part");
    lake.append_rows("bronze.events", &rows(0..ROWS, 3), json!({})).await;
    lake.run().await;
    assert_eq!(lake.count("silver.leads").await, 2 * half, "those that were there already are none");
    lake.append_rows("bronze.events", &rows(ROWS - 1..ROWS, 4), json!({})).await;
    lake.run().await;
    assert_eq!(lake.count("silver.leads").await, 2 * half + nulls);
    age(&lake, 2 * 60 * 60 * 1000).await;
    lake.append_rows("bronze.events", &rows(0..ROWS / 2, 5), json!({})).await;
    lake.run().await;
    assert_eq!(lake.count("silver.leads").await, 3 * half + nulls, "what is older than that isn't looked at");
}

/// Makes the files of the table so much older than they are.
async fn age(lake: &Lake, by_ms: i64) {
    let mut output = lake.head("silver.leads").await;
    let older = |file: &sluicebox::catalog::state::ActiveFile| Add {
        path: file.path.clone(),
        partition_values: file.partition_values.clone(),
        size: file.size,
        modification_time: file.modified_at - by_ms,
        data_change: false,
        stats: file.stats.clone(),
        tags: None,
        deletion_vector: None,
        base_row_id: None,
        default_row_commit_version: None,
        clustering_provider: None,
    };
    let change = Change {
        kind: Kind::Compact,
        adds: output.files().await.expect("it has files").iter().map(older).collect(),
        removes: Vec::new(),
        transactions: Vec::new(),
        metadata: None,
        changes: Vec::new(),
        protocol: None,
        operation: write(deltalake::protocol::SaveMode::Append),
        note: json!({"maintenance": true}),
    };
    output.put(change).await.expect("a log").expect("nobody else writes");
}
