//! `sluice gaps` and what `audit` and `status` make of it, on tables that were written in this process.

use std::process::Stdio;
use std::sync::Arc;

use arrow::array::new_null_array;
use deltalake::protocol::SaveMode;
use serde_json::{Value, json};
use sluicebox::checkpoint::{PartitionKey, Range, SourceId};
use sluicebox::emulator::together::Emulator;
use sluicebox::sink::delta::gaps::{Acceptance, AcceptedGap, AcceptedGaps, accept, schema};
use sluicebox::sink::delta::staged::Staged;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;

use crate::lakehouse::{Lakehouse, Said, partition, staged};
use crate::live::{caught_up, logged};

/// Partition 1 lacks 10, 11 and 12; 15 and later are lag.
async fn with_a_gap() -> Lakehouse {
    let lake = Lakehouse::with_leads().await;
    let mut writer = lake.writer("bronze.leads").await;
    writer.flush(&[staged("1", 13..15, &[])]).await.expect("the flush lands");
    lake
}

fn gaps(lake: &Lakehouse, arguments: &[&str], code: i32) -> Vec<Value> {
    let said = lake.sluice(&[&["gaps"], arguments, &["--format", "json"]].concat());
    assert_eq!(said.code, Some(code), "{}{}", said.stdout, said.stderr);
    said.json()["gaps"].as_array().expect("a list").clone()
}

fn accepting(lake: &Lakehouse, from: &str, to: &str, more: &[&str]) -> Said {
    let named = ["gaps", "accept", "leads", "--partition", "1", "--from", from, "--to", to];
    lake.sluice(&[&named, more, &["--by", "ada", "--why", "retention, ticket 12"]].concat())
}

/// Times are those of the test.
fn without_times(text: &str) -> String {
    let is_time = |word: &&str| word.starts_with("20") && word.trim_end_matches(':').ends_with('Z');
    let times: Vec<&str> = text.split_whitespace().filter(is_time).collect();
    times.iter().fold(text.to_owned(), |text, time| text.replace(time.trim_end_matches(':'), "<a time>"))
}

#[tokio::test]
async fn a_gap_is_listed_and_once_accepted_it_is_told_by_whom_and_why() {
    let lake = with_a_gap().await;
    let open = json!({
        "pipeline": "leads", "table": "bronze.leads", "source": "emulator/leads", "partition": "1",
        "from": 10, "to": 13, "count": 3, "known_by": "ledger", "hub_may_have": false, "state": "open", "accepted": null,
    });
    for named in [&["list"][..], &["list", "leads"], &["list", "leads", "bronze.leads"]] {
        assert_eq!(gaps(&lake, named, 0), std::slice::from_ref(&open), "{named:?}");
    }
    gaps(&lake, &["list", "--exit-code"], 1);
    let audit = lake.sluice(&["audit", "bronze.leads", "--offline"]);
    assert_eq!(audit.code, Some(1));
    assert!(audit.stdout.contains("the ledger has gaps: 10 to 12"), "{}", audit.stdout);

    assert_eq!(accepting(&lake, "10", "12", &[]).code, Some(0));
    let listed = gaps(&lake, &["list"], 0);
    assert_eq!(listed.len(), 2, "{listed:?}");
    assert_eq!(
        (&listed[0]["from"], &listed[0]["to"], &listed[0]["state"]),
        (&json!(10), &json!(12), &json!("accepted"))
    );
    assert_eq!(
        (&listed[0]["accepted"]["by"], &listed[0]["accepted"]["why"]),
        (&json!("ada"), &json!("retention, ticket 12"))
    );
    assert_eq!((&listed[1]["from"], &listed[1]["to"], &listed[1]["state"]), (&json!(12), &json!(13), &json!("open")));
    insta::assert_snapshot!(without_times(&lake.sluice(&["gaps", "list"]).stdout));
    let status = lake.sluice(&["status", "--format", "json"]).json();
    assert_eq!(
        (&status["pipelines"][0]["gap_events"], &status["pipelines"][0]["accepted_gap_events"]),
        (&json!(1), &json!(2))
    );
    let audit = lake.sluice(&["audit", "bronze.leads", "--offline", "--format", "json"]);
    assert_eq!(audit.code, Some(1), "12 is missing still");
    assert_eq!(audit.json()["partitions"][1]["missing"], json!([[12, 13]]));

    assert_eq!(accepting(&lake, "10", "13", &[]).code, Some(0), "of which some was accepted before");
    gaps(&lake, &["list", "--exit-code"], 0);
    let audit = lake.sluice(&["audit", "bronze.leads", "--offline"]);
    assert_eq!(audit.code, Some(0), "{}", audit.stdout);
    insta::assert_snapshot!(without_times(&audit.stdout));
    let rows =
        lake.sluice(&["query", "SELECT * FROM sluice.gaps ORDER BY \"from\", \"to\"", "--format", "json"]).json();
    assert_eq!(
        (&rows[0]["partition"], &rows[1]["table"], &rows[1]["to"]),
        (&json!("1"), &json!("bronze.leads"), &json!(13))
    );
}

#[tokio::test]
async fn only_what_is_missing_can_be_accepted() {
    let lake = with_a_gap().await;
    for (from, to, more, expected) in [
        ("8", "13", &[][..], "the table accounts for [8, 10)"),
        ("10", "14", &[], "the table accounts for [13, 14)"),
        ("5", "6", &[], "the table accounts for [5, 6)"),
        ("13", "20", &[], "[15, 20) lies past its end, where it is lag"),
        ("2", "4", &[], "[2, 4) lies before its start"),
        ("12", "12", &[], "`--from 12` and `--to 12` have no number between them"),
        ("10", "13", &["--source", "emulator/other"], "no partition `emulator/other/1`"),
    ] {
        let said = accepting(&lake, from, to, more);
        assert_eq!((said.code, said.stdout.as_str()), (Some(1), ""), "[{from}, {to}): {}", said.stderr);
        assert!(said.stderr.contains(expected), "[{from}, {to}): {}", said.stderr);
    }
    let said = accepting(&lake, "8", "13", &[]);
    assert!(said.stderr.contains("hint: missing is [10, 13)"), "{}", said.stderr);
    for (why, expected) in [(" ", "`--why` is blank"), ("a\u{1b}[2Jb", "`--why` holds characters that can't be shown")]
    {
        let named = ["gaps", "accept", "bronze.leads", "--partition", "1", "--from", "10", "--to", "13"];
        let said = lake.sluice(&[&named[..], &["--by", "ada", "--why", why]].concat());
        assert_eq!(said.code, Some(1));
        assert!(said.stderr.contains(expected), "{}", said.stderr);
    }
    let unnamed = ["gaps", "accept", "leads", "--partition", "1", "--from", "10", "--to", "13", "--why", "x"];
    let mut command = lake.command(&unnamed);
    let said = command.env_remove("USER").env_remove("LOGNAME").env_remove("USERNAME").output().expect("sluice runs");
    assert_eq!(said.status.code(), Some(1), "nobody is made up");
    let said = command.env("USER", "grace").output().expect("sluice runs");
    assert_eq!(said.status.code(), Some(0), "{}", String::from_utf8_lossy(&said.stderr));
    assert_eq!(gaps(&lake, &["list"], 0)[0]["accepted"]["by"], "grace");
    let said = accepting(&lake, "10", "12", &[]);
    assert_eq!(said.code, Some(1));
    assert!(said.stderr.contains("[10, 12) of partition `emulator/leads/1` was accepted by grace"), "{}", said.stderr);
}

#[tokio::test]
async fn what_was_accepted_still_lands() {
    let lake = with_a_gap().await;
    assert_eq!(accepting(&lake, "10", "13", &[]).code, Some(0));
    let mut writer = lake.writer("bronze.leads").await;
    let flushed = writer.flush(&[staged("1", 8..12, &[])]).await.expect("the flush lands");
    assert_eq!(flushed.counts[&partition("1")].committed, 2, "acceptance covers nothing");
    let listed = gaps(&lake, &["list"], 0);
    assert_eq!((listed.len(), &listed[0]["from"], &listed[0]["to"]), (1, &json!(12), &json!(13)));
    writer.flush(&[staged("1", 12..13, &[])]).await.expect("the flush lands");
    assert_eq!(gaps(&lake, &["list"], 0), [] as [Value; 0]);
    let audit = lake.sluice(&["audit", "bronze.leads", "--offline", "--format", "json"]).json();
    assert_eq!(
        (&audit["complete"], &audit["accepted"], &audit["missing"]),
        (&json!(true), &json!(0), &json!(0)),
        "{audit}"
    );
}

#[tokio::test]
async fn a_table_made_anew_has_gaps_of_its_own() {
    let lake = with_a_gap().await;
    assert_eq!(accepting(&lake, "10", "13", &[]).code, Some(0));
    std::fs::remove_dir_all(lake.path().join("lake/bronze")).expect("the table is dropped");
    let mut writer = lake.writer("bronze.leads").await;
    writer.record_starts(None, &[(partition("1"), 5)]).await.expect("the start is committed");
    writer.flush(&[staged("1", 5..10, &[]), staged("1", 13..15, &[])]).await.expect("the flush lands");
    assert_eq!(gaps(&lake, &["list"], 0)[0]["state"], "open");
}

#[tokio::test]
async fn a_partition_of_several_sources_has_to_be_named_with_its_source() {
    let lake = with_a_gap().await;
    let mut writer = lake.writer("bronze.leads").await;
    let anew = PartitionKey::new(SourceId::new("emulator/leads@2"), "1");
    writer.record_starts(None, &[(anew.clone(), 0)]).await.expect("the start is committed");
    let of_it = |numbers: std::ops::Range<i64>| Staged { partition: anew.clone(), ..staged("1", numbers, &[]) };
    writer.flush(&[of_it(0..10), of_it(13..15)]).await.expect("the flush lands");
    assert_eq!(gaps(&lake, &["list"], 0).len(), 2);
    let said = accepting(&lake, "10", "13", &[]);
    assert_eq!(said.code, Some(1));
    assert!(said.stderr.contains("`--source`: emulator/leads, emulator/leads@2"), "{}", said.stderr);
    assert_eq!(accepting(&lake, "10", "13", &["--source", "emulator/leads@2"]).code, Some(0));
    let states: Vec<_> = gaps(&lake, &["list"], 0).iter().map(|gap| gap["state"].clone()).collect();
    assert_eq!(states, ["open", "accepted"]);
}

#[tokio::test]
async fn healing_needs_captures() {
    let lake = with_a_gap().await;
    let said = lake.sluice(&["gaps", "heal", "leads"]);
    assert_eq!(said.code, Some(1));
    assert!(said.stderr.contains("pipeline `leads` declares no captures"), "{}", said.stderr);
    for (arguments, expected) in [
        (["gaps", "list", "nobody"], "there is no pipeline `nobody`"),
        (["gaps", "list", "bronze.nobody"], "there is no table `bronze.nobody`"),
        (["gaps", "list", "Bronze.Leads"], "`Bronze.Leads` is not of the form"),
        (["gaps", "heal", "nobody"], "there is no pipeline `nobody`"),
    ] {
        let said = lake.sluice(&arguments);
        assert_eq!(said.code, Some(1), "{arguments:?}");
        assert!(said.stderr.contains(expected), "{arguments:?}: {}", said.stderr);
    }
}

#[tokio::test]
async fn the_table_of_what_was_accepted_holds_no_events() {
    let lake = with_a_gap().await;
    assert_eq!(accepting(&lake, "10", "13", &[]).code, Some(0));
    let said = lake.sluice(&["audit", "sluice.gaps"]);
    assert_eq!(said.code, Some(1));
    assert!(said.stderr.contains("holds no events"), "{}", said.stderr);
}

/// Adds to what the project's pipeline declares; captures are there, and hold nothing.
fn declare(lake: &Lakehouse, of_source: &str) {
    let pipeline = lake.path().join("pipelines/leads.toml");
    let text = std::fs::read_to_string(&pipeline).expect("the pipeline");
    let text = text.replace("[source.event_hubs]", &format!("{of_source}\n[source.event_hubs]"));
    let capture = "[source.capture]\nurl = \"captures\"\nsweep_every = \"1s\"";
    std::fs::write(&pipeline, format!("{text}\n{capture}\n")).expect("written");
    std::fs::create_dir_all(lake.path().join("captures")).expect("made");
}

#[tokio::test]
async fn where_there_is_no_table_yet_healing_says_so() {
    let lake = Lakehouse::new();
    declare(&lake, "");
    let said = lake.sluice(&["gaps", "heal", "leads"]);
    assert_eq!((said.code, said.stdout.as_str()), (Some(1), ""), "{}", said.stderr);
    assert!(said.stderr.contains("there is no table `bronze.leads` yet"), "{}", said.stderr);
}

#[tokio::test]
async fn a_gap_of_a_source_that_nobody_knows_keeps_no_other_from_healing() {
    let lake = with_a_gap().await;
    declare(&lake, "[source]\ngeneration = { name = \"blue\", since = 2026-01-01T00:00:00Z }");
    let mut writer = lake.writer("bronze.leads").await;
    let blue = PartitionKey::new(SourceId::new("emulator/leads@blue"), "0");
    writer.record_starts(None, &[(blue.clone(), 0)]).await.expect("the start is committed");
    let of_blue = |numbers: std::ops::Range<i64>| Staged { partition: blue.clone(), ..staged("0", numbers, &[]) };
    writer.flush(&[of_blue(0..4), of_blue(6..8)]).await.expect("the flush lands");
    let said = lake.sluice(&["gaps", "heal", "leads", "--format", "json"]);
    assert_eq!(said.code, Some(1), "{}", said.stderr);
    assert!(said.stderr.contains("gaps of this source can't be healed"), "{}", said.stderr);
    assert!(said.stderr.contains("nothing that was asked has them"), "the other was looked for: {}", said.stderr);
    let missing: Vec<_> =
        said.json()["gaps"].as_array().expect("a list").iter().map(|gap| gap["source"].clone()).collect();
    assert_eq!(missing, ["emulator/leads", "emulator/leads@blue"]);
}

/// A project whose hub has 20 events in partition 0; 0 to 9 were read from it, and 13 and 14 are there, too.
async fn with_a_hub() -> (Lakehouse, Emulator) {
    let (lake, emulator) = caught_up().await;
    let mut writer = lake.writer("bronze.leads").await;
    writer.flush(&[staged("0", 13..15, &[])]).await.expect("the flush lands");
    emulator.broker().append("leads", "0", vec![Default::default(); 10]).expect("events");
    (lake, emulator)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gap_that_the_hub_may_have_is_listed_and_accepted_and_is_no_lag() {
    let (lake, emulator) = with_a_hub().await;
    let [gap] = &gaps(&lake, &["list", "--hub", "--exit-code"], 1)[..] else { panic!("one gap") };
    assert_eq!((&gap["from"], &gap["to"], &gap["known_by"]), (&json!(10), &json!(13), &json!("ledger")));
    assert_eq!(gap["hub_may_have"], true);
    let words = lake.sluice(&["gaps", "list", "--hub"]).stdout;
    assert!(words.contains("ledger; the hub may have it"), "{words}");
    emulator.broker().expire_before("leads", "0", 11).expect("retention bites");
    let listed = gaps(&lake, &["list", "--hub"], 0);
    let pieces: Vec<_> = listed.iter().map(|gap| (&gap["from"], &gap["to"], &gap["hub_may_have"])).collect();
    assert_eq!(pieces, [(&json!(10), &json!(11), &json!(false)), (&json!(11), &json!(13), &json!(true))]);

    let standing = |lake: &Lakehouse| lake.sluice(&["status", "--format", "json"]).json()["pipelines"][0].clone();
    let partition = &standing(&lake)["partitions"][0];
    assert_eq!((&partition["gap_events"], &partition["lag_events"]), (&json!(3), &json!(5)), "{partition}");
    let named =
        ["gaps", "accept", "leads", "--partition", "0", "--from", "10", "--to", "13", "--why", "x", "--by", "y"];
    let said = lake.sluice(&[&named[..], &["--hub", "--format", "json"]].concat());
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    let listed = gaps(&lake, &["list", "--hub", "--exit-code"], 0);
    assert_eq!(said.json()["gaps"], json!(listed), "accepting tells what is listed from then on");
    let partition = &standing(&lake)["partitions"][0];
    assert_eq!((&partition["gap_events"], &partition["accepted_gap_events"]), (&json!(0), &json!(3)), "{partition}");
    emulator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_made_anew_says_nothing_of_what_is_missing() {
    let (lake, emulator) = with_a_hub().await;
    emulator.broker().remake_hub("leads").expect("the hub is made anew");
    for arguments in [
        &["list", "--hub"][..],
        &["accept", "leads", "--partition", "0", "--from", "10", "--to", "13", "--why", "x", "--by", "y", "--hub"],
    ] {
        let said = lake.sluice(&[&["gaps"], arguments].concat());
        assert_eq!((said.code, said.stdout.as_str()), (Some(1), ""), "{arguments:?}: {}", said.stderr);
        assert!(said.stderr.contains("hub `emulator/leads` was made at"), "{}", said.stderr);
        assert!(said.stderr.contains("generation = {"), "{}", said.stderr);
    }
    assert_eq!(gaps(&lake, &["list"], 0).len(), 1, "the ledger alone still says");
    emulator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hole_that_is_met_again_at_each_sweep_is_counted_once() {
    let (lake, emulator) = caught_up().await;
    declare(&lake, "");
    emulator.broker().append("leads", "0", vec![Default::default(); 10]).expect("events");
    emulator.broker().expire_before("leads", "0", 13).expect("retention bites");
    let mut run = Command::from(lake.command(&["run", "--log-format", "json"]))
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("sluice runs");
    let mut log = BufReader::new(run.stderr.take().expect("the log is piped")).lines();
    let address = logged(&mut log, "serving").await["address"].as_str().expect("an address").to_owned();
    for _ in 0..3 {
        logged(&mut log, "events are missing, and nothing").await;
    }
    let text =
        reqwest::get(format!("http://{address}/metrics")).await.expect("an answer").text().await.expect("a text");
    let count = |name: &str| {
        let labels = "pipeline=\"leads\",table=\"bronze.leads\",partition=\"0\",cause=\"not_captured\"";
        let labelled = format!("{name}{{{labels}}} ");
        text.lines().find_map(|line| line.strip_prefix(&labelled)?.parse::<u64>().ok())
    };
    assert_eq!(count("sluice_source_missing_events_total"), Some(3), "{text}");
    assert_eq!(count("sluice_source_holes_total"), Some(1), "{text}");
    run.kill().await.expect("it ends");
    emulator.stop().await;
}

fn accepted(from: i64) -> AcceptedGap {
    AcceptedGap {
        partition: partition("1"),
        range: Range::new(from, from + 2),
        table: "bronze.leads".to_owned(),
        table_id: "an id".to_owned(),
        accepted_at_us: from,
        accepted_by: format!("rival {from}"),
        why: "a race".to_owned(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_rivals_each_is_recorded_once() {
    let lake = Arc::new(Lakehouse::new());
    let location = lake.location();
    let mut rivals = tokio::task::JoinSet::new();
    for from in [0, 10, 20, 30, 0, 10] {
        let location = location.clone();
        rivals.spawn(async move { accept(&location, &accepted(from)).await.expect("it is recorded") });
    }
    while let Some(ended) = rivals.join_next().await {
        // Twins are the same to a letter: each finds its own words.
        assert!(matches!(ended.expect("no rival panics"), Acceptance::Recorded));
    }
    let rows = lake.sluice(&["query", "SELECT \"from\" FROM sluice.gaps ORDER BY \"from\"", "--format", "json"]).json();
    assert_eq!(rows, json!([{"from": 0}, {"from": 10}, {"from": 20}, {"from": 30}]));
}

#[tokio::test]
async fn rows_of_a_stranger_without_a_key_say_nothing() {
    let lake = Lakehouse::new();
    accept(&lake.location(), &accepted(10)).await.expect("it is recorded");
    let nulls = schema().fields().iter().map(|field| new_null_array(field.data_type(), 1)).collect();
    let row = arrow::array::RecordBatch::try_new(schema(), nulls).expect("a row of nulls");
    lake.opened("sluice.gaps").await.write([row]).with_save_mode(SaveMode::Append).await.expect("it lands");
    let read = AcceptedGaps::read(&lake.location(), "an id").await.expect("the table is read");
    assert_eq!(read, [accepted(10)].into_iter().collect());
    assert!(AcceptedGaps::read(&lake.location(), "another id").await.expect("the table is read").is_empty());
}
