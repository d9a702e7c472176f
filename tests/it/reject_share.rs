//! `max_reject_share`: a partition whose events are bad beyond it stops, and the others go on.

use std::process::Stdio;
use std::time::Duration;

use serde_json::json;
use sluicebox::config::capture_name::NameTemplate;
use sluicebox::emulator::announce::Announcer;
use sluicebox::emulator::capture::{Capture, CaptureCodec, CaptureOptions, EmptyWindows};
use sluicebox::emulator::together::{Emulator, EmulatorOptions};
use sluicebox::emulator::{HubSpec, StoredMessageInput};
use sluicebox::storage::Location;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;

use crate::lakehouse::Lakehouse;
use crate::live::logged;

const SCHEMA: &str =
    r#"{"type":"record","name":"lead","fields":[{"name":"city","type":"string"},{"name":"n","type":"long"}]}"#;

fn events(body: &'static [u8], count: usize) -> Vec<StoredMessageInput> {
    vec![StoredMessageInput { body: body.into(), ..StoredMessageInput::default() }; count]
}

fn good(count: usize) -> Vec<StoredMessageInput> {
    events(b"\x02a\x02", count)
}

fn bad(count: usize) -> Vec<StoredMessageInput> {
    events(b"\xff", count)
}

fn declare(lake: &Lakehouse, instead: &str, text: &str) {
    let path = lake.path().join("pipelines/leads.toml");
    let held = std::fs::read_to_string(&path).expect("the pipeline");
    assert!(held.contains(instead), "{held}");
    std::fs::write(&path, held.replace(instead, text)).expect("written");
}

/// A hub of two partitions that are read as bare datums, with a limit.
async fn limited() -> (Lakehouse, Emulator) {
    let options = EmulatorOptions { hubs: vec![HubSpec::new("leads", 2)], ..EmulatorOptions::default() };
    let emulator = Emulator::start(options).await.expect("an emulator");
    let mut lake = Lakehouse::new();
    lake.connect(emulator.addresses().connection_string.reveal());
    std::fs::create_dir(lake.path().join("schemas")).expect("made");
    std::fs::write(lake.path().join("schemas/lead.avsc"), SCHEMA).expect("written");
    declare(&lake, "format = \"raw\"", "schema = \"schemas/lead.avsc\"\nframing = \"bare\"");
    let limit = "max_reject_share = 0.05\nreject_share_min_events = 40\n";
    declare(&lake, "commit_every = \"100ms\"", &format!("commit_every = \"100ms\"\n{limit}"));
    (lake, emulator)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_of_bad_events_stops_and_the_others_go_on() {
    let (lake, emulator) = limited().await;
    emulator.broker().append("leads", "0", bad(60)).expect("events");
    emulator.broker().append("leads", "1", [good(97), bad(3)].concat()).expect("events");
    let said = lake.sluice(&["run", "--until-caught-up", "--format", "json"]);
    assert_eq!(said.code, Some(1), "{}", said.stderr);
    assert!(said.stderr.contains("partition `emulator/leads/0` stopped"), "{}", said.stderr);
    assert!(said.stderr.contains("more than a share of 0.05, and most of them as `datum`"), "{}", said.stderr);
    let count = "SELECT count(*) AS rows FROM bronze.leads WHERE _partition = '1'";
    assert_eq!(lake.sluice(&["query", count, "--format", "json"]).json(), json!([{"rows": 97}]));
    let audit = lake.sluice(&["audit", "bronze.leads", "--format", "json"]);
    assert_eq!(audit.code, Some(0), "what wasn't taken in is lag: {}", audit.stdout);

    declare(&lake, "max_reject_share = 0.05\nreject_share_min_events = 40\n", "");
    let said = lake.sluice(&["run", "--until-caught-up"]);
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    let audit = lake.sluice(&["audit", "bronze.leads", "--format", "json"]).json();
    assert_eq!((&audit["complete"], &audit["rows"], &audit["rejected"]), (&json!(true), &json!(97), &json!(63)));
    emulator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_that_stops_is_told_and_stays_stopped() {
    let (lake, emulator) = limited().await;
    let mut run = Command::from(lake.command(&["run", "--log-format", "json"]))
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("sluice runs");
    let mut log = BufReader::new(run.stderr.take().expect("the log is piped")).lines();
    let address = logged(&mut log, "serving").await["address"].as_str().expect("an address").to_owned();
    logged(&mut log, "reading").await;
    logged(&mut log, "reading").await;
    emulator.broker().append("leads", "0", bad(60)).expect("events");
    let told = logged(&mut log, "a partition stops").await;
    assert_eq!((&told["level"], &told["partition"]), (&json!("ERROR"), &json!("0")), "{told}");
    emulator.broker().append("leads", "1", good(7)).expect("events");
    logged(&mut log, "committed").await;

    let metrics =
        reqwest::get(format!("http://{address}/metrics")).await.expect("an answer").text().await.expect("text");
    for (partition, expected) in [("0", 1), ("1", 0)] {
        let name = "sluice_pipeline_stopped_partitions";
        let line = format!("{name}{{pipeline=\"leads\",table=\"bronze.leads\",partition=\"{partition}\"}} {expected}");
        assert!(metrics.contains(&line), "{line} in\n{metrics}");
    }
    let status = reqwest::Client::new().get(format!("http://{address}/")).header("accept", "application/json").send();
    let status: serde_json::Value = status.await.expect("an answer").json().await.expect("JSON");
    let partitions = &status["pipelines"][0]["partitions"];
    assert_eq!((&partitions["0"]["stopped"], &partitions["1"]["stopped"]), (&json!(true), &json!(false)), "{status}");
    assert!(partitions["0"]["last_error"].as_str().is_some_and(|error| error.contains("`datum`")), "{status}");

    let id = run.id().expect("it runs").to_string();
    assert!(std::process::Command::new("kill").args(["-TERM", &id]).status().expect("kill runs").success());
    assert_eq!(run.wait().await.expect("it ends").code(), Some(1), "a partition wasn't read to where it was to be");
    emulator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_heal_that_stopped_is_tried_again_at_the_next_sweep() {
    const ID: &str = "b489dc4916744e3db72dda8f9693f342";
    let (lake, emulator) = limited().await;
    declare(&lake, "framing = \"bare\"", "framing = \"auto\"");
    let capture = "[source.capture]\nurl = \"captures\"\nsweep_every = \"1s\"\n\n[sink]";
    declare(&lake, "[sink]", capture);
    let project = lake.path().join("sluice.toml");
    let text = std::fs::read_to_string(&project).expect("the project");
    let registry = "[registry.folder]\npath = \"registered\"\n";
    std::fs::write(&project, format!("{text}\n{registry}")).expect("written");
    let registered = lake.path().join("registered");
    std::fs::create_dir(&registered).expect("made");
    let captures = lake.path().join("captures");
    std::fs::create_dir(&captures).expect("made");
    let broker = emulator.broker();
    broker.append("leads", "0", good(2)).expect("events");
    assert_eq!(lake.sluice(&["run", "--until-caught-up"]).code, Some(0));

    // The hub loses 60 events that the captures have, and of which nobody knows the schema yet.
    let options = CaptureOptions {
        location: Location::resolve(&captures.to_string_lossy(), None).expect("an absolute folder"),
        template: NameTemplate::parse(
            "{Namespace}/{EventHub}/{PartitionId}/{Year}/{Month}/{Day}/{Hour}/{Minute}/{Second}",
        )
        .expect("a template"),
        namespace: "emulator".to_owned(),
        window: Duration::from_secs(60),
        window_bytes: u64::MAX,
        empty: EmptyWindows::Skipped,
        codec: CaptureCodec::Null,
    };
    let capturing = Capture::start(options, broker.clone(), Announcer::default()).expect("a folder");
    let content_type = Some(format!("avro/binary+{ID}"));
    let unknown = good(60).into_iter().map(|event| StoredMessageInput { content_type: content_type.clone(), ..event });
    broker.append("leads", "0", unknown.collect()).expect("events");
    capturing.stop().await;
    broker.expire_before("leads", "0", 62).expect("retention bites");
    broker.append("leads", "0", good(1)).expect("events");

    let mut run = Command::from(lake.command(&["run", "--log-format", "json"]))
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("sluice runs");
    let mut log = BufReader::new(run.stderr.take().expect("the log is piped")).lines();
    for _ in 0..2 {
        let told = logged(&mut log, "a partition stops").await;
        assert!(told["error"].as_str().is_some_and(|error| error.contains("schema_not_found")), "{told}");
    }
    std::fs::write(registered.join(format!("{ID}.avsc")), SCHEMA).expect("written");
    while logged(&mut log, "committed").await["rows"] != 60 {}
    let id = run.id().expect("it runs").to_string();
    assert!(std::process::Command::new("kill").args(["-TERM", &id]).status().expect("kill runs").success());
    assert_eq!(run.wait().await.expect("it ends").code(), Some(0), "nothing is stopped any more");
    let audit = lake.sluice(&["audit", "bronze.leads", "--format", "json"]).json();
    assert_eq!((&audit["complete"], &audit["rows"], &audit["rejected"]), (&json!(true), &json!(63), &json!(0)));
    emulator.stop().await;
}
