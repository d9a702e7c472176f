//! `sluice query`: values, places of mistakes, nothing written.

use serde_json::json;

use crate::lakehouse::{Lakehouse, staged};

#[tokio::test]
async fn every_type_has_its_json() {
    let lake = Lakehouse::with_leads().await;
    let sql = "SELECT leadId, score, premium, tags, address, photo, born, _properties, _enqueued_at, _enqueued_date, \
               _event_id, CAST('NaN' AS DOUBLE) AS nan FROM bronze.leads WHERE _partition = '0' AND \
               _sequence_number IN (4, 5) ORDER BY _sequence_number";
    let said = lake.sluice(&["query", sql, "--format", "json"]);
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    assert!(said.stdout.contains("\"score\":9007199254740997,"), "all digits: {}", said.stdout);
    assert_eq!(
        said.json()[0],
        json!({
            "leadId": "lead-4", "score": 9_007_199_254_740_997_i64, "premium": "4.05", "tags": ["t4", null],
            "address": {"city": "city, \"4\""}, "photo": "AP8E", "born": "1970-01-05", "_properties": {"n": "4"},
            "_enqueued_at": "2026-01-02T03:04:09Z", "_enqueued_date": "2026-01-02", "_event_id": null, "nan": null,
        })
    );
    assert_eq!(said.json()[1]["score"], json!(null));

    let said = lake.sluice(&["query", sql, "--format", "csv"]);
    insta::assert_snapshot!(said.stdout);
}

#[tokio::test]
async fn rows_are_shown_as_a_table() {
    let lake = Lakehouse::with_leads().await;
    let sql = "SELECT leadId, score, address FROM bronze.leads WHERE _partition = '1' ORDER BY 1";
    let said = lake.sluice(&["query", sql, "--limit", "2"]);
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    insta::assert_snapshot!(said.stdout);
}

#[tokio::test]
async fn no_rows_are_an_empty_array() {
    let lake = Lakehouse::with_leads().await;
    let said = lake.sluice(&["query", "SELECT 1 AS one WHERE false", "--format", "json"]);
    assert_eq!((said.code, said.stdout.as_str()), (Some(0), "[]\n"), "{}", said.stderr);
    let said = lake.sluice(&["query", "SELECT leadId FROM bronze.leads", "--format", "json", "--limit", "0"]);
    assert_eq!((said.code, said.stdout.as_str()), (Some(0), "[]\n"), "{}", said.stderr);
}

#[tokio::test]
async fn a_table_can_be_asked_as_it_was() {
    let lake = Lakehouse::with_leads().await;
    let version = lake.writer("bronze.leads").await.version();
    lake.writer("bronze.leads").await.flush(&[staged("1", 10..20, &[])]).await.expect("the flush lands");
    let count = |from: &str, more: &[&str]| {
        let sql = format!("SELECT count(*) AS n FROM {from}");
        let said = lake.sluice(&[&["query", &sql, "--format", "json"], more].concat());
        assert_eq!(said.code, Some(0), "{}", said.stderr);
        said.json()[0]["n"].clone()
    };
    assert_eq!(count("bronze.leads", &[]), 23);
    assert_eq!(count(&format!("bronze.\"leads@v{version}\""), &[]), 13);
    assert_eq!(count("bronze.leads", &["--version-as-of", &format!("bronze.leads={version}")]), 13);
    let said = lake.sluice(&["query", "SELECT 1 FROM bronze.\"leads@v99\""]);
    assert_eq!(said.code, Some(1));
    assert!(said.stderr.contains("table `bronze.leads` can't be read at version 99"), "{}", said.stderr);
}

#[tokio::test]
async fn a_mistake_is_shown_at_its_place() {
    let lake = Lakehouse::with_leads().await;
    for sql in ["SELECT\n  leadI,\n  1\nFROM bronze.leads", "SELECT 1 FROM bronze.lead", "SELECT 1 FRM x"] {
        let said = lake.sluice(&["query", sql]);
        assert_eq!((said.code, said.stdout.as_str()), (Some(1), ""), "{}", said.stderr);
        insta::assert_snapshot!(said.stderr);
    }
}

#[tokio::test]
async fn nothing_can_be_written() {
    let lake = Lakehouse::with_leads().await;
    let target = lake.path().join("out.csv");
    for sql in [
        "INSERT INTO bronze.leads SELECT * FROM bronze.leads".to_owned(),
        format!("COPY bronze.leads TO '{}'", target.display()),
        "CREATE EXTERNAL TABLE x STORED AS CSV LOCATION '/etc/passwd'".to_owned(),
        "CREATE TABLE bronze.x AS SELECT 1".to_owned(),
        "DROP TABLE bronze.leads".to_owned(),
        "DELETE FROM bronze.leads".to_owned(),
        "SET datafusion.execution.batch_size = 1".to_owned(),
        format!("EXPLAIN ANALYZE COPY bronze.leads TO '{}'", target.display()),
        "SELECT * FROM '/etc/passwd'".to_owned(),
        "SELECT * FROM \"..\".\"..\"".to_owned(),
        "SELECT 1; SELECT 2".to_owned(),
    ] {
        let said = lake.sluice(&["query", &sql]);
        assert_eq!((said.code, said.stdout.as_str()), (Some(1), ""), "{sql}: {}", said.stderr);
    }
    assert!(!target.exists());
    let said = lake.sluice(&["query", "SELECT count(*) AS n FROM bronze.leads", "--format", "json"]);
    assert_eq!(said.json(), json!([{"n": 13}]));
}

#[tokio::test]
async fn the_tables_of_a_lake_are_listed() {
    let lake = Lakehouse::with_leads().await;
    std::fs::create_dir_all(lake.path().join("lake/bronze/no_table")).expect("a folder");
    std::fs::create_dir_all(lake.path().join("lake/_sluice/locks/_delta_log")).expect("a folder");
    let said = lake.sluice(&["query", "SHOW TABLES", "--format", "json"]);
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    let tables = said.json();
    let names: Vec<_> = tables.as_array().expect("rows").iter().map(|row| row["table_name"].as_str()).collect();
    assert!(names.contains(&Some("leads")) && names.contains(&Some("leads__dead_letters")), "{tables}");
    assert!(!names.contains(&Some("no_table")) && !names.contains(&Some("locks")), "{tables}");
}

#[tokio::test]
async fn columns_of_one_name_are_refused_where_they_would_hide_each_other() {
    let lake = Lakehouse::with_leads().await;
    let sql = "SELECT a.leadId, b.leadId FROM bronze.leads a JOIN bronze.leads b ON a.leadId = b.leadId";
    let said = lake.sluice(&["query", sql, "--format", "json"]);
    assert_eq!((said.code, said.stdout.as_str()), (Some(1), ""), "{}", said.stderr);
    assert!(said.stderr.contains("two columns are named `leadId`"), "{}", said.stderr);
    assert_eq!(lake.sluice(&["query", sql, "--format", "csv"]).code, Some(0));
}

#[tokio::test]
async fn a_query_that_needs_more_memory_than_it_may_have_says_so() {
    let lake = Lakehouse::new();
    let sql = "SELECT array_agg(value) FROM generate_series(1, 3000000) GROUP BY value % 2";
    let said = lake.sluice(&["query", sql, "--memory", "1MiB", "--format", "csv"]);
    assert_eq!(said.code, Some(1), "{}", said.stderr);
    assert!(said.stderr.contains("--memory"), "{}", said.stderr);
}
