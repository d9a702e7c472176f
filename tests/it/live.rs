//! What the commands say of a pipeline whose hub answers.

use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use sluicebox::emulator::together::{Emulator, EmulatorOptions};
use sluicebox::emulator::{HubSpec, StoredMessageInput};

use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{ChildStderr, Command};

use crate::lakehouse::Lakehouse;

/// A project whose hub has ten events in partition 0, all of them in the table, and none in 1.
pub async fn caught_up() -> (Lakehouse, Emulator) {
    let options = EmulatorOptions { hubs: vec![HubSpec::new("leads", 2)], ..EmulatorOptions::default() };
    let emulator = Emulator::start(options).await.expect("an emulator");
    emulator.broker().append("leads", "0", vec![Default::default(); 10]).expect("events");
    let mut lake = Lakehouse::new();
    lake.connect(emulator.addresses().connection_string.reveal());
    let said = lake.sluice(&["run", "--until-caught-up"]);
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    (lake, emulator)
}

fn audited(lake: &Lakehouse, expected_code: i32) -> Value {
    let said = lake.sluice(&["audit", "bronze.leads", "--format", "json"]);
    assert_eq!(said.code, Some(expected_code), "{}{}", said.stdout, said.stderr);
    said.json()
}

fn status(lake: &Lakehouse) -> Value {
    let said = lake.sluice(&["status", "--format", "json"]);
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    said.json()["pipelines"][0].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_audit_covers_the_partitions_that_the_hub_lists() {
    let (lake, emulator) = caught_up().await;
    let audit = audited(&lake, 0);
    assert_eq!((&audit["rows"], &audit["offline"], &audit["notes"]), (&json!(10), &json!(false), &json!([])));
    assert_eq!(audit["partitions"].as_array().map(Vec::len), Some(2), "an empty partition is listed too: {audit}");

    emulator.broker().append("leads", "1", vec![Default::default(); 3]).expect("events");
    assert_eq!(audited(&lake, 0)["missing"], 0, "what waits is lag, not missing");

    emulator.broker().remake_hub("leads").expect("the hub is made anew");
    let audit = audited(&lake, 1);
    assert!(audit["problems"][0].as_str().is_some_and(|problem| problem.contains("`generation`")), "{audit}");
    emulator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_that_the_ledger_does_not_know_is_named() {
    let (lake, emulator) = caught_up().await;
    let connection_string = emulator.addresses().connection_string.reveal().to_owned();
    emulator.stop().await;
    let other = Emulator::start(EmulatorOptions { hubs: vec![HubSpec::new("leads", 3)], ..EmulatorOptions::default() });
    let other = other.await.expect("an emulator");
    assert_ne!(other.addresses().connection_string.reveal(), connection_string);
    let mut lake = lake;
    lake.connect(other.addresses().connection_string.reveal());
    let problems = audited(&lake, 1)["problems"].to_string();
    assert!(problems.contains("partition `emulator/leads/2`: the hub has it, and the ledger doesn't"), "{problems}");
    other.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_status_counts_what_waits() {
    let (lake, emulator) = caught_up().await;
    let idle = status(&lake);
    assert_eq!(idle["state"], "idle", "{idle}");
    assert_eq!(
        idle["partitions"][0],
        json!({
            "partition": "0", "position": 10, "last_enqueued": 9, "lag_events": 0, "lag_seconds": 0.0,
            "seconds_to_data_loss": null, "gap_events": 0, "accepted_gap_events": 0,
        })
    );
    emulator.broker().append("leads", "0", vec![Default::default(); 3]).expect("events");
    let behind = status(&lake);
    assert_eq!((&behind["state"], &behind["partitions"][0]["lag_events"]), (&json!("behind"), &json!(3)));
    let left = behind["partitions"][0]["seconds_to_data_loss"].as_f64().expect("retention is declared");
    assert!(left > 3_000.0 && left <= 3_600.0, "{behind}");
    assert_eq!(behind["partitions"][1]["lag_events"], 0);

    emulator.broker().expire_before("leads", "0", 12).expect("retention bites");
    let lost = status(&lake);
    assert_eq!(lost["partitions"][0]["seconds_to_data_loss"], 0.0);
    assert_eq!((&lost["partitions"][0]["lag_events"], &lost["partitions"][0]["position"]), (&json!(1), &json!(12)));
    assert_eq!((&lost["gap_events"], &lost["accepted_gap_events"]), (&json!(2), &json!(0)), "{lost}");
    emulator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipeline_that_never_ran_is_new() {
    let emulator =
        Emulator::start(EmulatorOptions { hubs: vec![HubSpec::new("leads", 1)], ..EmulatorOptions::default() });
    let emulator = emulator.await.expect("an emulator");
    let mut lake = Lakehouse::new();
    lake.connect(emulator.addresses().connection_string.reveal());
    let new = status(&lake);
    assert_eq!((&new["state"], &new["last_commit"]), (&json!("new"), &json!(null)), "{new}");
    assert_eq!(new["partitions"][0]["position"], json!(null));
    emulator.stop().await;
}

/// The next line of the log whose message is this one.
pub async fn logged(log: &mut Lines<BufReader<ChildStderr>>, message: &str) -> Value {
    let found = async {
        loop {
            let line = log.next_line().await.expect("the log can be read").expect("the run goes on");
            let entry: Value = serde_json::from_str(&line).expect("the log is JSON");
            if entry["message"].as_str().is_some_and(|said| said.starts_with(message)) {
                return entry;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), found).await.unwrap_or_else(|_| panic!("`{message}` is logged"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_tells_what_it_does_while_it_does_it() {
    let (lake, emulator) = caught_up().await;
    let mut run = Command::from(lake.command(&["run", "--log-format", "json"]))
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("sluice runs");
    let mut log = BufReader::new(run.stderr.take().expect("the log is piped")).lines();
    let address = logged(&mut log, "serving").await["address"].as_str().expect("an address").to_owned();
    logged(&mut log, "reading").await;
    emulator.broker().append("leads", "1", vec![Default::default(); 7]).expect("events");
    logged(&mut log, "committed").await;

    let get = async |path: &str| {
        let answer = reqwest::get(format!("http://{address}{path}")).await.expect("an answer");
        (answer.status().as_u16(), answer.text().await.expect("a text"))
    };
    assert_eq!(get("/readyz").await, (200, "ready\n".to_owned()));
    let (_, text) = get("/metrics").await;
    let count = |name: &str| {
        let labelled = format!("{name}{{pipeline=\"leads\",table=\"bronze.leads\",partition=\"1\"}} ");
        text.lines().find_map(|line| line.strip_prefix(&labelled)?.parse::<u64>().ok()).unwrap_or(0)
    };
    let settled = ["committed", "rejected", "filtered", "duplicate"]
        .map(|what| count(&format!("sluice_sink_{what}_events_total")));
    assert_eq!(settled, [7, 0, 0, 0], "{text}");
    assert_eq!(count("sluice_source_received_events_total"), 7 + count("sluice_pipeline_in_flight_events"), "{text}");

    let id = run.id().expect("it runs").to_string();
    assert!(std::process::Command::new("kill").args(["-TERM", &id]).status().expect("kill runs").success());
    assert_eq!(run.wait().await.expect("it ends").code(), Some(0));
    emulator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_schemas_are_not_to_change_json_that_the_schema_does_not_know_stops_its_partition() {
    let options = EmulatorOptions { hubs: vec![HubSpec::new("leads", 2)], ..EmulatorOptions::default() };
    let emulator = Emulator::start(options).await.expect("an emulator");
    let mut lake = Lakehouse::new();
    lake.connect(emulator.addresses().connection_string.reveal());
    let schema = r#"{"type":"record","name":"lead","fields":[{"name":"city","type":"string"}]}"#;
    std::fs::write(lake.path().join("lead.avsc"), schema).expect("written");
    let path = lake.path().join("pipelines/leads.toml");
    let held = std::fs::read_to_string(&path).expect("the pipeline");
    let declare = |policy: &str| {
        let json = format!("format = \"json\"\nschema = \"lead.avsc\"\non_schema_change = \"{policy}\"");
        std::fs::write(&path, held.replace("format = \"raw\"", &json)).expect("written");
    };
    let event = |body: &'static str| StoredMessageInput { body: body.into(), ..StoredMessageInput::default() };
    let append =
        |partition: &str, body| emulator.broker().append("leads", partition, vec![event(body)]).expect("taken");
    append("0", r#"{"city":"Bern","canton":"BE"}"#);
    append("1", r#"{"city":"Basel"}"#);
    declare("fail");
    let said = lake.sluice(&["run", "--until-caught-up"]);
    assert_eq!(said.code, Some(1), "{}", said.stderr);
    assert!(said.stderr.contains("the field `canton` holds what the schema has no field for"), "{}", said.stderr);
    let rows = "SELECT city, _rescued AS rescued FROM bronze.leads ORDER BY 1";
    let rows = || lake.sluice(&["query", rows, "--format", "json"]).json();
    assert_eq!(rows(), json!([{"city": "Basel", "rescued": null}]), "the other goes on");
    declare("pin");
    assert_eq!(lake.sluice(&["run", "--until-caught-up"]).code, Some(0));
    let expected = json!([{"city": "Basel", "rescued": null}, {"city": "Bern", "rescued": r#"{"canton":"BE"}"#}]);
    assert_eq!(rows(), expected);
    emulator.stop().await;
}
