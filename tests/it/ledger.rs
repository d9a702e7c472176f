//! `sluice ledger` and `sluice status` on a table that was written in this process.

use serde_json::json;

use crate::lakehouse::{Lakehouse, staged};

#[tokio::test]
async fn a_ledger_shows_ranges_times_and_counters() {
    let lake = Lakehouse::with_leads().await;
    let mut writer = lake.writer("bronze.leads").await;
    writer.flush(&[staged("1", 13..15, &[])]).await.expect("the flush lands");
    let shown = lake.sluice(&["ledger", "bronze.leads", "--format", "json"]).json();
    assert_eq!(shown["version"], writer.version());
    assert_eq!(shown["sources"], json!([{"source": "emulator/leads", "created_at": "2026-01-02T03:04:05.000Z"}]));
    assert_eq!(
        shown["partitions"][0],
        json!({
            "source": "emulator/leads", "partition": "0", "position": 10,
            "ranges": [{"from": 0, "to": 10, "last_enqueued_at": "2026-01-02T03:04:14.000Z"}],
            "rejected": 2, "filtered": 0, "erased": 0, "expired": 0, "events": 0,
        })
    );
    assert_eq!(shown["partitions"][1]["position"], 10);
    assert_eq!(shown["partitions"][1]["ranges"][1]["from"], 13);

    let said = lake.sluice(&["ledger", "bronze.leads"]);
    let id = shown["table_id"].as_str().expect("an id");
    insta::assert_snapshot!(said.stdout.replace(id, "<table id>"));
}

#[tokio::test]
async fn a_status_without_its_hub_tells_what_the_ledger_knows() {
    let lake = Lakehouse::with_leads().await;
    let said = lake.sluice(&["status", "--format", "json"]);
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    let pipeline = &said.json()["pipelines"][0];
    assert_eq!((&pipeline["name"], &pipeline["owner"]), (&json!("leads"), &json!("conversions")));
    assert_eq!((&pipeline["state"], &pipeline["table"]), (&json!("unreachable"), &json!("bronze.leads")));
    assert!(pipeline["last_commit"]["version"].is_u64() && pipeline["last_commit"]["at"].is_string(), "{pipeline}");
    assert_eq!(
        pipeline["partitions"][0],
        json!({
            "partition": "0", "position": 10, "last_enqueued": null, "lag_events": null, "lag_seconds": null,
            "seconds_to_data_loss": null, "gap_events": 0, "accepted_gap_events": 0,
        })
    );
}
