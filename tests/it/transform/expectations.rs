//! Rows that aren't as they should be.

use sluicebox::transform::run::TransformError;
use sluicebox::transform::run::engine::Refresh;

use super::lake::{Event, Lake, event};

fn expecting(on_violation: &str) -> String {
    format!(
        "mode = \"append\"\n[[transform.expect]]\nname = \"positive\"\ncheck = \"amount > 0\"\non_violation = \
         \"{on_violation}\"\n"
    )
}

const SQL: &str = "SELECT id, seq, amount FROM STREAM(bronze.events)";

fn some_bad() -> Vec<Event> {
    let unknown = Event { amount: None, ..event("unknown", 3, "open", 0) };
    vec![event("good", 1, "open", 5), event("bad", 2, "open", -5), unknown]
}

#[tokio::test(flavor = "multi_thread")]
async fn each_kind_of_violation_has_its_end_and_unknown_is_none() {
    for (on_violation, kept) in [("warn", 3), ("drop", 2), ("quarantine", 2)] {
        let lake = Lake::new(&[("silver.events", &expecting(on_violation), SQL)]);
        lake.append("bronze.events", &some_bad()).await;
        let summary = lake.run().await;
        assert_eq!(lake.count("silver.events").await, kept, "{on_violation}");
        assert_eq!(summary[0].expectations[0].rows, 1, "{on_violation}");
        let runs =
            lake.rows("SELECT expectations[1]['name'] AS name, expectations[1]['rows'] AS n FROM sluice.runs").await;
        assert_eq!(runs, [r#"{"name":"positive","n":1}"#], "{on_violation}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_quarantined_is_there_once_with_its_reason_and_its_run() {
    let mut lake = Lake::new(&[("silver.events", &expecting("quarantine"), SQL)]);
    lake.options.part_bytes = 1;
    lake.append("bronze.events", &some_bad()).await;
    lake.append("bronze.events", &[event("worse", 4, "open", -9)]).await;
    let summary = lake.run().await;
    let run = summary[0].run_id.clone().expect("it ran");
    let held = "SELECT id, amount, _expectation, _reason, _run_id FROM silver.events__quarantine";
    let row = |id: &str, amount: i64| {
        format!(
            r#"{{"id":"{id}","amount":{amount},"_expectation":"positive","_reason":"not (amount > 0)","_run_id":"{run}"}}"#
        )
    };
    assert_eq!(lake.rows(held).await, [row("bad", -5), row("worse", -9)]);
    lake.append("bronze.events", &[event("worst", 5, "open", -10)]).await;
    lake.run().await;
    assert_eq!(lake.count("silver.events__quarantine").await, 3);
    lake.run_with(Refresh::Full).await;
    assert_eq!(lake.count("silver.events__quarantine").await, 3, "begun anew, with the table");
    assert_eq!(lake.count("silver.events").await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_computed_again_gives_way_in_the_quarantine_too() {
    let amounts = "SELECT id, sum(amount) AS amount FROM STREAM(bronze.events) GROUP BY id";
    let recompute = expecting("quarantine").replace("\"append\"", "\"recompute\"\nkeys = [\"id\"]");
    let whole = "SELECT id, sum(amount) AS amount FROM bronze.events GROUP BY id";
    let replace = expecting("quarantine").replace("\"append\"", "\"replace\"");
    let lake = Lake::new(&[("gold.amounts", &recompute, amounts), ("gold.whole", &replace, whole)]);
    let held = |table: &str| format!("SELECT id, amount FROM {table}__quarantine");
    for (amount, expected) in [(-5, &[r#"{"id":"a","amount":-5}"#][..]), (1, &[r#"{"id":"a","amount":-4}"#]), (9, &[])]
    {
        lake.append("bronze.events", &[event("a", 1, "open", amount), event("b", 1, "open", 1)]).await;
        lake.run().await;
        for table in ["gold.amounts", "gold.whole"] {
            assert_eq!(lake.rows(&held(table)).await, expected, "{table} after {amount}");
        }
    }
    lake.append("bronze.events", &[event("bad", 1, "open", -1)]).await;
    lake.append("bronze.events", &[event("worse", 1, "open", -2)]).await;
    lake.run().await;
    lake.append("bronze.events", &[event("bad", 1, "open", -1)]).await;
    lake.run().await;
    let others = [r#"{"id":"bad","amount":-2}"#, r#"{"id":"worse","amount":-2}"#];
    assert_eq!(lake.rows(&held("gold.amounts")).await, others);
    assert_eq!(lake.rows(&held("gold.whole")).await, others);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_row_may_violate_leaves_the_table_as_it_was() {
    let lake = Lake::new(&[("silver.events", &expecting("fail"), SQL)]);
    lake.append("bronze.events", &[event("good", 0, "open", 1)]).await;
    lake.run().await;
    let version = lake.head("silver.events").await.base.version;
    lake.append("bronze.events", &some_bad()).await;
    let failed = lake.run_with(Refresh::No).await;
    match &failed[0].failure {
        Some(TransformError::Expectation { name, violations, .. }) => {
            assert_eq!((name.as_str(), *violations), ("positive", 1))
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(lake.head("silver.events").await.base.version, version);
    let files = std::fs::read_dir(lake.path().join("lake/silver/events")).expect("the table is a folder").count();
    assert_eq!(files, 2, "one file and the log: what was written is deleted");
    lake.declare(&[("silver.events", &expecting("drop"), SQL)]);
    lake.run().await;
    assert_eq!(lake.count("silver.events").await, 3);
}
