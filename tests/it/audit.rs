//! `sluice audit` on tables that are whole, and on those that a stranger has been at.

use std::sync::Arc;

use arrow::array::{Int32Array, RecordBatch};
use deltalake::DeltaTable;
use deltalake::protocol::SaveMode;
use serde_json::{Value, json};

use sluicebox::batch::bronze;
use sluicebox::sink::delta::staged::Staged;

use crate::lakehouse::{Lakehouse, batch, staged};

fn audited(lake: &Lakehouse, expected_code: i32) -> Value {
    let said = lake.sluice(&["audit", "bronze.leads", "--offline", "--format", "json"]);
    assert_eq!(said.code, Some(expected_code), "{}{}", said.stdout, said.stderr);
    said.json()
}

async fn delete(table: DeltaTable, predicate: &str) {
    let (_, deleted) = table.delete().with_predicate(predicate).await.expect("the stranger deletes");
    assert_eq!(deleted.num_deleted_rows, Some(1), "the predicate names one row");
}

async fn append(table: DeltaTable, partition: &str, numbers: &[i64]) {
    table.write([batch(partition, numbers)]).with_save_mode(SaveMode::Append).await.expect("the stranger appends");
}

#[tokio::test]
async fn a_whole_table_is_complete() {
    let lake = Lakehouse::with_leads().await;
    let audit = audited(&lake, 0);
    assert_eq!(audit["complete"], true, "{audit}");
    assert_eq!((&audit["rows"], &audit["rejected"]), (&json!(13), &json!(2)));
    assert_eq!((&audit["duplicates"], &audit["missing"], &audit["filtered"]), (&json!(0), &json!(0), &json!(0)));
    let partition = &audit["partitions"][0];
    assert_eq!((&partition["source"], &partition["partition"]), (&json!("emulator/leads"), &json!("0")));
    assert_eq!((&partition["ranges"], &partition["missing"]), (&json!([[0, 10]]), &json!([])));
    assert_eq!((&partition["rows"], &partition["rejected"]), (&json!(8), &json!(2)));
    assert_eq!(audit["partitions"][1]["ranges"], json!([[5, 10]]));
}

#[tokio::test]
async fn the_words_of_a_complete_table() {
    let lake = Lakehouse::with_leads().await;
    let said = lake.sluice(&["audit", "bronze.leads", "--offline"]);
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    insta::assert_snapshot!(said.stdout);
}

#[tokio::test]
async fn a_deleted_row_is_named() {
    let lake = Lakehouse::with_leads().await;
    delete(lake.stranger("bronze.leads").await, "_partition = '0' AND _sequence_number = 4").await;
    let audit = audited(&lake, 1);
    assert_eq!((&audit["missing"], &audit["rows"]), (&json!(1), &json!(12)));
    assert_eq!(audit["partitions"][0]["missing"], json!([[4, 5]]));
    assert_eq!(audit["partitions"][1]["missing"], json!([]));
    let said = lake.sluice(&["audit", "bronze.leads", "--offline"]);
    insta::assert_snapshot!(said.stdout);
}

#[tokio::test]
async fn a_row_appended_twice_is_named() {
    let lake = Lakehouse::with_leads().await;
    append(lake.stranger("bronze.leads").await, "1", &[6]).await;
    let audit = audited(&lake, 1);
    assert_eq!((&audit["duplicates"], &audit["missing"], &audit["rows"]), (&json!(1), &json!(0), &json!(13)));
    assert_eq!(audit["partitions"][1]["duplicate_numbers"], json!([6]));
    let said = lake.sluice(&["audit", "bronze.leads", "--offline"]);
    insta::assert_snapshot!(said.stdout);
}

#[tokio::test]
async fn a_removed_dead_letter_is_named() {
    let lake = Lakehouse::with_leads().await;
    delete(lake.stranger("bronze.leads__dead_letters").await, "_sequence_number = 7").await;
    let audit = audited(&lake, 1);
    assert_eq!((&audit["missing"], &audit["rejected"]), (&json!(1), &json!(1)));
    assert_eq!(audit["partitions"][0]["missing"], json!([[7, 8]]));
    let said = lake.sluice(&["audit", "bronze.leads", "--offline"]);
    insta::assert_snapshot!(said.stdout);
}

#[tokio::test]
async fn a_row_that_the_ledger_does_not_account_for_is_named() {
    let lake = Lakehouse::with_leads().await;
    append(lake.stranger("bronze.leads").await, "1", &[42]).await;
    append(lake.opened("bronze.leads").await, "9", &[1, 2]).await;
    let audit = audited(&lake, 1);
    assert_eq!(audit["partitions"][1]["uncovered_numbers"], json!([42]));
    assert_eq!(audit["partitions"][2]["partition"], "9");
    assert_eq!(audit["partitions"][2]["uncovered_count"], 2);
    assert_eq!((&audit["missing"], &audit["duplicates"]), (&json!(0), &json!(0)));
}

#[tokio::test]
async fn a_table_that_was_restored_can_still_be_audited() {
    let lake = Lakehouse::with_leads().await;
    let table = lake.stranger("bronze.leads").await;
    let head = table.version().expect("a version");
    // Before the second flush and the change of the property.
    table.restore().with_version_to_restore(head - 2).await.expect("the stranger restores");
    let audit = audited(&lake, 1);
    assert_eq!(audit["partitions"][0]["missing"], json!([[6, 7], [8, 10]]), "{audit}");
    assert_eq!(audit["partitions"][1]["missing"], json!([[5, 10]]));
    let notes = audit["notes"].to_string();
    assert!(notes.contains("RESTORE") && notes.contains("removes"), "{notes}");
}

#[tokio::test]
async fn a_compaction_changes_nothing() {
    let lake = Lakehouse::with_leads().await;
    let (_, compacted) = lake.opened("bronze.leads").await.optimize().await.expect("the stranger compacts");
    assert!(compacted.num_files_removed > 0, "{compacted:?}");
    assert_eq!(audited(&lake, 0)["complete"], true);
}

#[tokio::test]
async fn a_dead_letter_in_flight_and_one_superseded_do_not_count() {
    let lake = Lakehouse::with_leads().await;
    // Number 12 isn't covered yet; number 5 has a row by now.
    let table = lake.opened("bronze.leads__dead_letters").await;
    let schema = sluicebox::sink::delta::dead_letters::schema();
    let key = batch("0", &[5, 12]);
    let columns = schema.fields().iter().map(|field| match field.name().as_str() {
        name if name.starts_with('_') && key.column_by_name(name).is_some() => {
            key.column_by_name(name).expect("the column is there").clone()
        }
        _ => arrow::array::new_null_array(field.data_type(), 2),
    });
    let letters = arrow::array::RecordBatch::try_new(schema.clone(), columns.collect()).expect("dead letters");
    table.write([letters]).with_save_mode(SaveMode::Append).await.expect("the letters land");
    let audit = audited(&lake, 0);
    assert_eq!((&audit["rejected"], &audit["missing"]), (&json!(2), &json!(0)), "{audit}");
}

/// Rows of one event: its records.
fn records(number: i64, indexes: &[i32]) -> RecordBatch {
    let rows = batch("0", &vec![number; indexes.len()]);
    let at = rows.schema().index_of(bronze::RECORD_INDEX).expect("the column is there");
    let mut columns = rows.columns().to_vec();
    columns[at] = Arc::new(Int32Array::from(indexes.to_vec()));
    RecordBatch::try_new(rows.schema(), columns).expect("the columns fit their types")
}

#[tokio::test]
async fn records_of_one_event_are_told_apart() {
    let lake = Lakehouse::with_leads().await;
    let mut writer = lake.writer("bronze.leads").await;
    let event = Staged { batches: vec![records(10, &[0, 1, 2])], ..staged("0", 10..11, &[]) };
    writer.flush(&[event]).await.expect("the flush lands");
    let audit = audited(&lake, 0);
    assert_eq!((&audit["rows"], &audit["duplicates"]), (&json!(16), &json!(0)), "{audit}");

    let table = lake.stranger("bronze.leads").await;
    table.write([records(10, &[1, 1, 3])]).with_save_mode(SaveMode::Append).await.expect("the stranger appends");
    let audit = audited(&lake, 1);
    assert_eq!(audit["partitions"][0]["duplicate_numbers"], json!([10]), "{audit}");
    assert_eq!((&audit["rows"], &audit["duplicates"]), (&json!(17), &json!(2)), "record 3 is one more row: {audit}");
}

#[tokio::test]
async fn a_gap_in_the_ledger_is_missing() {
    let lake = Lakehouse::with_leads().await;
    let mut writer = lake.writer("bronze.leads").await;
    writer.flush(&[staged("1", 13..15, &[])]).await.expect("the flush lands");
    let audit = audited(&lake, 1);
    assert_eq!(audit["partitions"][1]["missing"], json!([[10, 13]]), "{audit}");
    assert_eq!(audit["missing"], 3);
    assert!(audit["problems"].to_string().contains("the ledger has gaps: 10 to 12"), "{audit}");
}

#[tokio::test]
async fn a_hub_that_can_not_be_reached_is_an_outside_failure_with_a_way_on() {
    let lake = Lakehouse::with_leads().await;
    let said = lake.sluice(&["audit", "bronze.leads"]);
    assert_eq!(said.code, Some(3), "{}{}", said.stdout, said.stderr);
    assert!(said.stderr.contains("hub `leads` can't be asked") && said.stderr.contains("--offline"), "{}", said.stderr);
    assert_eq!(said.stdout, "");
}

#[tokio::test]
async fn a_table_that_is_not_there_is_the_users_mistake() {
    let lake = Lakehouse::with_leads().await;
    let said = lake.sluice(&["audit", "bronze.nope", "--offline"]);
    assert_eq!(said.code, Some(1));
    assert!(said.stderr.contains("there is no table `bronze.nope`"), "{}", said.stderr);
    assert!(said.stderr.contains("the lake has `bronze.leads`"), "{}", said.stderr);
    assert!(!lake.path().join("lake/bronze/nope").exists(), "a look makes nothing");
    let said = lake.sluice(&["audit", "bronze.leads__dead_letters"]);
    assert_eq!(said.code, Some(1));
    assert!(said.stderr.contains("sluice audit bronze.leads"), "{}", said.stderr);
}
