//! `sluice dead-letters` on tables that were written in this process: what is shown, replayed, dropped; what a death at
//! any point leaves; what rivals make of it.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::RecordBatch;
use bytes::Bytes;
use deltalake::DeltaTable;
use deltalake::protocol::SaveMode;
use serde_json::{Value, json};
use sluicebox::batch::Reject;
use sluicebox::catalog::commit_log::CommitLog;
use sluicebox::fault_points::{FaultPoint, FaultPoints};
use sluicebox::sink::delta::dead_letters::held::{HeldLetters, Rewritten};
use sluicebox::sink::delta::dead_letters::rows::to_rows;
use sluicebox::sink::delta::dead_letters::{DeadLetter, Writer, schema};
use sluicebox::sink::delta::settle::{Replayed, Settled};
use sluicebox::sink::delta::staged::Staged;

use crate::lakehouse::{Lakehouse, Said, batch, enqueued_ms, partition, reject, staged};

const TABLE: &str = "bronze.leads";
const LETTERS: &str = "bronze.leads__dead_letters";

fn ran(lake: &Lakehouse, arguments: &[&str], code: i32) -> Said {
    let said = lake.sluice(&[&["dead-letters"], arguments].concat());
    assert_eq!(said.code, Some(code), "{arguments:?}: {}{}", said.stdout, said.stderr);
    said
}

fn listed(lake: &Lakehouse, arguments: &[&str]) -> Value {
    let said = ran(lake, &[&["list", "leads"], arguments, &["--format", "json"]].concat(), 0);
    said.json()["tables"][0].clone()
}

fn replayed(lake: &Lakehouse, arguments: &[&str], code: i32) -> Value {
    ran(lake, &[&["replay", "leads"], arguments, &["--format", "json"]].concat(), code).json()
}

/// Rows, rejected, expired; the table is complete.
fn complete(lake: &Lakehouse) -> (u64, u64, u64) {
    let said = lake.sluice(&["audit", TABLE, "--offline", "--format", "json"]);
    assert_eq!(said.code, Some(0), "{}{}", said.stdout, said.stderr);
    let audit = said.json();
    let number = |name: &str| audit[name].as_u64().expect("a number");
    assert_eq!((number("duplicates"), number("missing")), (0, 0));
    (number("rows"), number("rejected"), number("expired"))
}

/// The ledger's counters of partition 0.
fn counters(lake: &Lakehouse) -> (i64, i64) {
    let ledger = lake.sluice(&["ledger", TABLE, "--format", "json"]).json();
    let of = |name: &str| ledger["partitions"][0][name].as_i64().expect("a number");
    (of("rejected"), of("expired"))
}

/// From here on the pipeline takes bodies for Avro, of which these are none.
fn expect_avro(lake: &Lakehouse) {
    std::fs::create_dir_all(lake.path().join("schemas")).expect("made");
    let schema =
        r#"{"type":"record","name":"lead","fields":[{"name":"city","type":"string"},{"name":"n","type":"long"}]}"#;
    std::fs::write(lake.path().join("schemas/lead.avsc"), schema).expect("written");
    declare(lake, "format = \"raw\"", "schema = \"schemas/lead.avsc\"\nframing = \"bare\"");
}

fn declare(lake: &Lakehouse, instead: &str, text: &str) {
    let path = lake.path().join("pipelines/leads.toml");
    let held = std::fs::read_to_string(&path).expect("the pipeline");
    assert!(held.contains(instead), "{held}");
    std::fs::write(&path, held.replace(instead, text)).expect("written");
}

fn without_times(text: &str) -> String {
    let is_time = |word: &&str| word.starts_with("20") && word.ends_with('Z') && word.contains('T');
    let times: BTreeSet<&str> = text.split_whitespace().filter(is_time).collect();
    times.iter().fold(text.to_owned(), |text, time| text.replace(time, "<a time>"))
}

#[tokio::test]
async fn dead_letters_are_counted_by_class_and_shown() {
    let lake = Lakehouse::with_leads().await;
    let mut writer = lake.writer(TABLE).await;
    let other = Reject { class: sluicebox::batch::RejectClass::SchemaNotFound, ..reject(10) };
    writer.flush(&[Staged { rejects: vec![other], ..staged("0", 10..12, &[10]) }]).await.expect("the flush lands");
    let all = listed(&lake, &[]);
    assert_eq!((&all["waiting"], &all["table"], &all["pipeline"]), (&json!(3), &json!(TABLE), &json!("leads")));
    let classes: Vec<_> =
        all["classes"].as_array().expect("a list").iter().map(|of| (&of["class"], &of["waiting"])).collect();
    assert_eq!(classes, [(&json!("datum"), &json!(2)), (&json!("schema_not_found"), &json!(1))]);
    let newest = &all["letters"][0];
    assert_eq!(
        (&newest["key"], &newest["attempt"], &newest["origin"]),
        (&json!("emulator/leads/0/10"), &json!(1), &json!("live"))
    );
    for (filter, expected) in [
        (&["--class", "datum"][..], 2),
        (&["--class", "datum", "--class", "schema_not_found"], 3),
        (&["--partition", "1"], 0),
        (&["--key", "0/7", "--key", "emulator/leads/0/10"], 2),
        (&["--until", "2026-01-01"], 0),
        (&["--since", "2026-01-01", "--source", "emulator/leads"], 3),
        (&["--source", "emulator/other"], 0),
        (&["--schema-id", "x"], 0),
    ] {
        assert_eq!(listed(&lake, filter)["waiting"], expected, "{filter:?}");
    }
    assert_eq!(listed(&lake, &["--limit", "1"])["letters"].as_array().map(Vec::len), Some(1));
    ran(&lake, &["list", "--exit-code"], 1);
    insta::assert_snapshot!(without_times(&ran(&lake, &["list", TABLE], 0).stdout));
    insta::assert_snapshot!(without_times(&ran(&lake, &["show", "leads", "0/7"], 0).stdout));

    let shown = ran(&lake, &["show", "leads", "emulator/leads/0/7", "--bytes", "base64", "--format", "json"], 0).json();
    assert_eq!((&shown["body"], &shown["body_bytes"]), (&json!("AP9ub3QgYXZybw=="), &json!(10)));
    let raw = lake.command(&["dlq", "show", "leads", "0/7", "--raw"]).output().expect("sluice runs");
    assert_eq!(raw.stdout, b"\x00\xffnot avro");
}

#[tokio::test]
async fn what_is_named_wrong_is_said() {
    let lake = Lakehouse::with_leads().await;
    for (arguments, code, expected) in [
        (&["show", "leads", "0/4"][..], 1, "table `bronze.leads` has no dead letter `0/4`"),
        (&["show", "leads", "7"], 2, "a key is `<source>/<partition>/<number>`"),
        (&["replay", LETTERS], 1, "name `bronze.leads`"),
        (&["list", "nobody"], 1, "there is no pipeline `nobody`"),
        (&["list", "bronze.nobody"], 1, "there is no table `bronze.nobody`"),
        (&["replay", "bronze.nobody"], 1, "no pipeline of the project writes table `bronze.nobody`"),
        (&["drop", "leads"], 1, "name them with `--class`, `--key` and so on, or say `--all`"),
        (&["drop", "leads", "--all"], 1, "`--yes` says it where nobody can be asked"),
        (&["expire", "leads"], 1, "declares no `dead_letters_retention`"),
    ] {
        let said = ran(&lake, arguments, code);
        assert!(said.stderr.contains(expected), "{arguments:?}: {}", said.stderr);
    }
    assert_eq!(complete(&lake), (13, 2, 0), "nothing was dropped without a yes");
    let none = Lakehouse::new();
    assert_eq!(listed(&none, &[])["waiting"], 0, "a pipeline without a table has none");
    assert_eq!(replayed(&none, &[], 0)["replayed"], 0);
    assert!(!none.path().join("lake/bronze/leads").exists(), "and none is made");
}

#[tokio::test]
async fn a_replay_lands_each_letter_once_and_moves_the_counter() {
    let lake = Lakehouse::with_leads().await;
    assert_eq!((complete(&lake), counters(&lake)), ((13, 2, 0), (2, 0)));
    let done = replayed(&lake, &[], 0);
    assert_eq!(
        (&done["replayed"], &done["rows"], &done["commits"], &done["failed"]),
        (&json!(2), &json!(2), &json!(1), &json!(0))
    );
    assert_eq!((complete(&lake), counters(&lake)), ((15, 0, 0), (0, 0)));
    let rows = "SELECT _sequence_number, body, _origin, _offset FROM bronze.leads WHERE body IS NOT NULL ORDER BY 1";
    let rows = lake.sluice(&["query", rows, "--format", "json"]).json();
    let of = |number: i64| json!({"_sequence_number": number, "body": "AP9ub3QgYXZybw==", "_origin": "live", "_offset": number.to_string()});
    assert_eq!(rows, json!([of(3), of(7)]));
    let all = listed(&lake, &["--all"]);
    assert_eq!((&all["waiting"], &all["replayed"]), (&json!(0), &json!(2)));
    assert!(all["letters"][0]["replayed_at"].is_string(), "{all}");

    let version = lake.opened(TABLE).await.version();
    let again = replayed(&lake, &[], 0);
    assert_eq!((&again["replayed"], &again["had_row"]), (&json!(0), &json!(0)), "a marked letter isn't tried again");
    assert_eq!(lake.opened(TABLE).await.version(), version);
}

#[tokio::test]
async fn what_still_fails_stays_with_its_new_reason() {
    let lake = Lakehouse::with_leads().await;
    expect_avro(&lake);
    let mut versions = Vec::new();
    for attempt in 2..=3 {
        let done = replayed(&lake, &[], 1);
        assert_eq!((&done["failed"], &done["failed_by_class"]), (&json!(2), &json!({"datum": 2})), "{done}");
        let letters = listed(&lake, &[])["letters"].clone();
        let letter = &letters[1];
        assert_eq!((&letter["attempt"], &letter["framing"]), (&json!(attempt), &json!("bare")), "{letter}");
        assert_ne!(letter["error"], "the datum ends early");
        assert_ne!(letter["config_hash"], "0".repeat(64));
        versions.push(lake.opened(TABLE).await.version());
    }
    assert_eq!(versions[0], versions[1], "nothing lands; the columns that are declared came with the first");
    assert_eq!((complete(&lake), counters(&lake)), ((13, 2, 0), (2, 0)));
    let one = replayed(&lake, &["--key", "0/3"], 1);
    assert_eq!(one["failed"], 1, "only what was meant is tried");
    declare(&lake, "schema = \"schemas/lead.avsc\"\nframing = \"bare\"", "format = \"raw\"");
    assert_eq!(replayed(&lake, &[], 0)["replayed"], 2);
    assert_eq!(complete(&lake), (15, 0, 0));
}

#[tokio::test]
async fn a_death_at_any_point_of_a_replay_repeats_nothing_and_loses_nothing() {
    for point in
        [FaultPoint::ReplayStaged, FaultPoint::ReplayCommitted, FaultPoint::LettersStaged, FaultPoint::LettersCommitted]
    {
        let lake = Lakehouse::with_leads().await;
        let died = lake.sluice(&["dead-letters", "replay", "leads", "--crash-at", point.as_str()]);
        assert_eq!(died.code, None, "{point:?}: {}", died.stderr);
        let has_landed = point != FaultPoint::ReplayStaged;
        assert_eq!(complete(&lake), if has_landed { (15, 0, 0) } else { (13, 2, 0) }, "{point:?}: complete in between");
        let done = replayed(&lake, &[], 0);
        let (landed, had_row) = match point {
            FaultPoint::ReplayStaged => (2, 0),
            FaultPoint::LettersCommitted => (0, 0),
            _ => (0, 2),
        };
        assert_eq!((&done["replayed"], &done["had_row"]), (&json!(landed), &json!(had_row)), "{point:?}");
        assert_eq!((complete(&lake), counters(&lake)), ((15, 0, 0), (0, 0)), "{point:?}");
        let all = listed(&lake, &[]);
        assert_eq!((&all["waiting"], &all["replayed"]), (&json!(0), &json!(2)), "{point:?}: a lost mark is made again");
    }
}

#[tokio::test]
async fn what_is_in_flight_waits_for_its_pipeline() {
    let lake = Lakehouse::with_leads().await;
    let in_flight = DeadLetter { sequence_number: 12, ..held(&lake).await.remove(0) };
    let table = lake.opened(LETTERS).await;
    table.write([to_rows([&in_flight]).expect("rows")]).with_save_mode(SaveMode::Append).await.expect("it lands");
    let done = replayed(&lake, &[], 0);
    assert_eq!((&done["replayed"], &done["in_flight"]), (&json!(2), &json!(1)), "{done}");
    assert_eq!(complete(&lake), (15, 0, 0));
    let dropped = ran(&lake, &["drop", "leads", "--all", "--yes", "--format", "json"], 0).json();
    assert_eq!((&dropped["expired"], &dropped["in_flight"]), (&json!(0), &json!(1)));
    let all = listed(&lake, &[]);
    assert_eq!((&all["in_flight"], &all["letters"][0]["state"]), (&json!(1), &json!("in-flight")));

    // The pipeline reads it again: it stays a reject, and from then on it can be replayed.
    let mut writer = lake.writer(TABLE).await;
    writer.flush(&[staged("0", 10..14, &[12])]).await.expect("the flush lands");
    assert_eq!(complete(&lake), (18, 1, 0));
    assert_eq!(replayed(&lake, &[], 0)["replayed"], 1);
    assert_eq!(complete(&lake), (19, 0, 0));
}

/// The letters of the table, by number.
async fn held(lake: &Lakehouse) -> Vec<DeadLetter> {
    let mut letters = HeldLetters::open(log(lake)).await.expect("the table opens").expect("the table is there");
    let mut found = letters.next_chunk().await.expect("it can be read").expect("a chunk").letters;
    found.sort_by_key(|letter| letter.sequence_number);
    found
}

fn log(lake: &Lakehouse) -> CommitLog {
    let name = LETTERS.parse().expect("a name");
    let location = sluicebox::catalog::table_location(&lake.location(), &name);
    CommitLog::new(sluicebox::catalog::log::log_store(&location).expect("a log"), LETTERS.to_owned())
}

fn by() -> Writer {
    Writer { pipeline: "leads".to_owned(), owner: "conversions".to_owned(), config_hash: "1".repeat(64) }
}

fn of_partition_0(numbers: &[i64]) -> Replayed {
    let numbers: BTreeSet<i64> = numbers.iter().copied().collect();
    let rows: Vec<i64> = numbers.iter().copied().collect();
    Replayed { partition: partition("0"), tried: numbers.clone(), decoded: numbers, batches: vec![batch("0", &rows)] }
}

#[tokio::test]
async fn a_replay_and_a_live_writer_outrun_one_another_and_nothing_is_lost() {
    let lake = Lakehouse::with_leads().await;
    let (mut live, mut replaying) = (lake.writer(TABLE).await, lake.writer(TABLE).await);
    // The live writer is quicker: the replay lands on top of it, with the counter as it is by then.
    live.flush(&[staged("0", 10..14, &[11])]).await.expect("the flush lands");
    let Settled::Done(landed) = replaying.replay(&[of_partition_0(&[3, 7])]).await.expect("the replay lands") else {
        panic!("a flush gives no letter a row");
    };
    assert_eq!((landed.rows, landed.had_row.len()), (2, 0));
    assert_eq!((complete(&lake), counters(&lake)), ((18, 1, 0), (1, 0)));
    // And the other way round.
    live.flush(&[staged("0", 14..16, &[15])]).await.expect("the flush lands on top of the replay");
    assert_eq!((complete(&lake), counters(&lake)), ((19, 2, 0), (2, 0)));
    // Rewritten under a writer that holds it open, the letters' table takes further letters.
    assert_eq!(replayed(&lake, &["--key", "0/11"], 0)["replayed"], 1);
    live.flush(&[staged("0", 16..18, &[16])]).await.expect("the flush lands");
    assert_eq!((complete(&lake), counters(&lake)), ((21, 2, 0), (2, 0)));
}

#[tokio::test]
async fn of_two_replays_one_lands_and_the_other_is_told() {
    let lake = Lakehouse::with_leads().await;
    let (mut one, mut other) = (lake.writer(TABLE).await, lake.writer(TABLE).await);
    assert!(matches!(one.replay(&[of_partition_0(&[3, 7])]).await, Ok(Settled::Done(_))));
    assert!(matches!(other.replay(&[of_partition_0(&[3, 7])]).await, Ok(Settled::Outrun)), "it has to look again");
    let Ok(Settled::Done(landed)) = other.replay(&[of_partition_0(&[3, 7])]).await else { panic!("nothing is left") };
    assert_eq!((landed.version, landed.had_row[&partition("0")].len()), (None, 2));
    assert_eq!((complete(&lake), counters(&lake)), ((15, 0, 0), (0, 0)));

    // What the ledger doesn't count as rejected can't be taken off.
    let error = other.replay(&[of_partition_0(&[42])]).await.expect_err("42 was never rejected");
    assert!(error.to_string().contains("counts 0 rejected events"), "{error}");
}

#[tokio::test]
async fn letters_that_somebody_rewrites_meanwhile_are_read_again() {
    let lake = Lakehouse::with_leads().await;
    let faults = FaultPoints::default();
    let mut one = HeldLetters::open(log(&lake)).await.expect("opens").expect("is there");
    let chunk = one.next_chunk().await.expect("read").expect("a chunk");
    // An append moves the base and nothing else.
    let mut live = lake.writer(TABLE).await;
    live.flush(&[staged("0", 10..12, &[10])]).await.expect("the flush lands");
    assert!(matches!(one.rewrite(chunk, "test", &by(), &faults).await, Ok(Rewritten::Landed(_))));
    assert_eq!(complete(&lake), (14, 3, 0));

    one.list().await.expect("listed");
    let chunk = one.next_chunk().await.expect("read").expect("a chunk");
    // So does a compaction of somebody's, though no row changes: the files are others.
    let (_, compacted) = lake.opened(LETTERS).await.optimize().await.expect("compacted");
    assert!(compacted.num_files_removed > 0);
    assert!(matches!(one.rewrite(chunk, "test", &by(), &faults).await, Ok(Rewritten::Outrun)));
    assert_eq!(complete(&lake), (14, 3, 0), "nothing is doubled");
    assert_eq!(replayed(&lake, &[], 0)["replayed"], 3, "compacted files are read as ours are");
}

#[tokio::test]
async fn what_is_dropped_is_accounted_for_still() {
    let lake = Lakehouse::with_leads().await;
    let dropped = ran(&lake, &["drop", "leads", "--key", "0/3", "--yes", "--format", "json"], 0).json();
    assert_eq!((&dropped["expired"], &dropped["counted"]), (&json!(1), &json!(1)), "{dropped}");
    assert_eq!((complete(&lake), counters(&lake)), ((13, 2, 1), (2, 1)));
    let letter = held(&lake).await.remove(0);
    assert_eq!((letter.sequence_number, letter.body, letter.error, letter.properties), (3, None, None, vec![]));
    let said = ran(&lake, &["show", "leads", "0/3", "--raw"], 1);
    assert!(said.stderr.contains("are gone since 20"), "{}", said.stderr);
    assert!(ran(&lake, &["show", "leads", "0/3"], 0).stdout.contains("its bytes are gone"));
    assert_eq!(replayed(&lake, &[], 0)["replayed"], 1, "what was dropped isn't replayed");
    assert_eq!((complete(&lake), counters(&lake)), ((14, 1, 1), (1, 1)));
    let words = ran(&lake, &["drop", "leads", "--all", "--yes"], 0).stdout;
    assert!(words.contains("the bytes of 0 dead letters are gone"), "{words}");
}

#[tokio::test]
async fn a_death_at_any_point_of_a_drop_leaves_the_table_complete() {
    for (point, after) in [
        (FaultPoint::LettersStaged, (13, 2, 0)),
        (FaultPoint::LettersCommitted, (13, 2, 1)),
        (FaultPoint::ExpiredCounted, (13, 2, 1)),
    ] {
        let lake = Lakehouse::with_leads().await;
        let died =
            lake.sluice(&["dead-letters", "drop", "leads", "--key", "0/3", "--yes", "--crash-at", point.as_str()]);
        assert_eq!(died.code, None, "{point:?}: {}", died.stderr);
        assert_eq!(complete(&lake), after, "{point:?}: complete in between");
        ran(&lake, &["drop", "leads", "--key", "0/3", "--yes"], 0);
        assert_eq!((complete(&lake), counters(&lake)), ((13, 2, 1), (2, 1)), "{point:?}: counted once");
    }
}

#[tokio::test]
async fn a_letter_that_was_dropped_and_has_a_row_all_the_same_counts_nowhere() {
    let lake = Lakehouse::with_leads().await;
    let mut replaying = lake.writer(TABLE).await;
    // Dropped after a replay had read it: marked, and not counted yet.
    let died =
        lake.sluice(&["dead-letters", "drop", "leads", "--key", "0/3", "--yes", "--crash-at", "letters-committed"]);
    assert_eq!(died.code, None);
    assert!(matches!(replaying.replay(&[of_partition_0(&[3])]).await, Ok(Settled::Done(_))));
    assert_eq!((complete(&lake), counters(&lake)), ((14, 1, 0), (1, 0)));
    ran(&lake, &["drop", "leads", "--key", "0/9", "--yes"], 0);
    assert_eq!((complete(&lake), counters(&lake)), ((14, 1, 0), (1, 0)), "its row is what counts");

    // Counted meanwhile: the replay is told to look again.
    let mut replaying = lake.writer(TABLE).await;
    ran(&lake, &["drop", "leads", "--key", "0/7", "--yes"], 0);
    assert!(matches!(replaying.replay(&[of_partition_0(&[7])]).await, Ok(Settled::Outrun)));
    assert_eq!((complete(&lake), counters(&lake)), ((14, 1, 1), (1, 1)));
}

#[tokio::test]
async fn retention_takes_what_is_older_and_no_more() {
    let lake = Lakehouse::with_leads().await;
    declare(&lake, "commit_every = \"100ms\"", "commit_every = \"100ms\"\ndead_letters_retention = \"1h\"");
    let expired = |lake: &Lakehouse| ran(lake, &["expire", "--format", "json"], 0).json()["tables"][0].clone();
    assert_eq!(expired(&lake)["expired"], 0, "they are a minute old at most");
    assert_eq!(replayed(&lake, &["--key", "0/7"], 0)["replayed"], 1);
    age(&lake, &[3, 7], 2).await;
    let done = expired(&lake);
    assert_eq!((&done["expired"], &done["removed"], &done["counted"]), (&json!(2), &json!(0), &json!(1)), "{done}");
    assert_eq!((complete(&lake), counters(&lake)), ((14, 1, 1), (1, 1)), "one of them has a row, and counts nowhere");
    assert!(held(&lake).await.iter().all(|letter| letter.body.is_none()), "their bytes are gone");
    assert_eq!(expired(&lake)["expired"], 0, "once is enough");
    age(&lake, &[7], 100).await;
    assert_eq!(expired(&lake)["removed"], 1, "one that was replayed goes altogether, in time");
    assert_eq!((complete(&lake), held(&lake).await.len()), ((14, 1, 1), 1));
}

/// What the log says of the values in files that it names or named, by column; and the bytes of all of it.
fn told_by_log(lake: &Lakehouse) -> (BTreeSet<String>, Vec<u8>) {
    let (mut columns, mut bytes) = (BTreeSet::new(), Vec::new());
    for entry in std::fs::read_dir(lake.path().join("lake/bronze/leads__dead_letters/_delta_log")).expect("a log") {
        let entry = std::fs::read(entry.expect("an entry").path());
        let Ok(entry) = entry else { continue };
        for line in String::from_utf8_lossy(&entry).lines() {
            let action: Value = serde_json::from_str(line).unwrap_or_default();
            let Some(stats) = action["add"]["stats"].as_str() else { continue };
            let stats: Value = serde_json::from_str(stats).expect("statistics");
            assert!(stats["numRecords"].as_u64() > Some(0));
            for kind in ["minValues", "maxValues"] {
                columns.extend(stats[kind].as_object().expect("values").keys().cloned());
            }
        }
        bytes.extend(entry);
    }
    (columns, bytes)
}

#[tokio::test]
async fn the_log_repeats_no_text_of_a_letter_whoever_writes_its_file() {
    const WORDS: &str = "the datum ends early";
    let is_told = |bytes: &[u8]| bytes.windows(WORDS.len()).any(|window| window == WORDS.as_bytes());
    let lake = Lakehouse::with_leads().await;
    std::fs::write(lake.path().join("sluice.toml"), {
        let text = std::fs::read_to_string(lake.path().join("sluice.toml")).expect("the project");
        format!("{text}\n[maintenance]\nmin_files = 2\n")
    })
    .expect("written");
    let texts = ["_offset", "content_type", "framing", "_schema_id", "error_class", "error", "pipeline", "_origin"];
    let check = |when: &str| {
        let (columns, bytes) = told_by_log(&lake);
        assert!(columns.contains("_sequence_number") && columns.contains("rejected_at"), "{when}: {columns:?}");
        assert!(texts.iter().all(|text| !columns.contains(*text)), "{when}: {columns:?}");
        assert!(!is_told(&bytes), "{when}: the log repeats the words of an error");
    };
    check("as flushes write them");
    let maintained = lake.sluice(&["maintain", LETTERS, "--format", "json"]);
    assert_eq!(maintained.json()["tables"][0]["compacted_files"], 2, "{}{}", maintained.stdout, maintained.stderr);
    check("compacted");
    expect_avro(&lake);
    replayed(&lake, &["--key", "0/3"], 1);
    check("replayed, and failed again");
    ran(&lake, &["drop", "leads", "--key", "0/7", "--yes"], 0);
    check("dropped");
    assert_eq!(complete(&lake), (13, 2, 1));

    // One that an earlier version has made says what it said, and nothing more from its next commit on.
    let lake = Lakehouse::with_leads().await;
    earlier(&lake).await;
    assert!(is_told(&told_by_log(&lake).1), "or this says nothing");
    let mut live = lake.writer(TABLE).await;
    live.flush(&[staged("0", 10..12, &[10])]).await.expect("the flush lands");
    let opened = lake.opened(LETTERS).await;
    let metadata = opened.snapshot().expect("a snapshot").metadata();
    let indexed = metadata.configuration().get("delta.dataSkippingStatsColumns").expect("the property");
    assert!(indexed.starts_with("_source,_partition,_sequence_number"), "{indexed}");
    let newest = lake.path().join("lake/bronze/leads__dead_letters/_delta_log");
    let newest = newest.join(format!("{:020}.json", opened.version().expect("a version")));
    assert!(!is_told(&std::fs::read(newest).expect("the commit")));
}

/// The data files of the letters.
fn files(lake: &Lakehouse) -> BTreeSet<std::path::PathBuf> {
    let folder = std::fs::read_dir(lake.path().join("lake/bronze/leads__dead_letters")).expect("a table");
    let paths = folder.map(|entry| entry.expect("an entry").path());
    paths.filter(|path| path.extension().is_some_and(|extension| extension == "parquet")).collect()
}

#[tokio::test]
async fn retention_reads_no_file_that_the_log_knows_to_hold_nothing_old() {
    let lake = Lakehouse::with_leads().await;
    declare(&lake, "commit_every = \"100ms\"", "commit_every = \"100ms\"\ndead_letters_retention = \"1h\"");
    let expired = |lake: &Lakehouse| ran(lake, &["expire", "--format", "json"], 0).json()["tables"][0].clone();
    age(&lake, &[3], 2).await;
    assert_eq!(expired(&lake)["expired"], 1);
    let before = files(&lake);
    let mut writer = lake.writer(TABLE).await;
    writer.flush(&[staged("0", 10..12, &[10])]).await.expect("the flush lands");
    let young = files(&lake).difference(&before).cloned().collect::<Vec<_>>();
    assert_eq!(young.len(), 1, "{young:?}");
    // Whoever opened it now would say so.
    std::fs::rename(&young[0], lake.path().join("elsewhere")).expect("moved away");
    let done = expired(&lake);
    assert_eq!((&done["expired"], &done["counted"]), (&json!(0), &json!(0)), "{done}");
    std::fs::rename(lake.path().join("elsewhere"), &young[0]).expect("moved back");
    age(&lake, &[7, 10], 2).await;
    assert_eq!(expired(&lake)["expired"], 2);
    assert_eq!(complete(&lake), (14, 3, 3));
}

#[tokio::test]
async fn a_letter_of_a_partition_that_the_ledger_does_not_know_is_shown() {
    let lake = Lakehouse::with_leads().await;
    let in_flight = DeadLetter { partition: partition("7"), ..held(&lake).await.remove(0) };
    let table = lake.opened(LETTERS).await;
    table.write([to_rows([&in_flight]).expect("rows")]).with_save_mode(SaveMode::Append).await.expect("it lands");
    for key in ["7/3", "emulator/leads/7/3"] {
        let shown = ran(&lake, &["show", "leads", key, "--format", "json"], 0).json();
        assert_eq!((&shown["partition"], &shown["state"]), (&json!("7"), &json!("in-flight")), "{shown}");
    }
    ran(&lake, &["show", "leads", "emulator/other/7/3"], 1);
}

/// Makes letters older by so many hours.
async fn age(lake: &Lakehouse, numbers: &[i64], hours: i64) {
    let mut letters = HeldLetters::open(log(lake)).await.expect("opens").expect("is there");
    let mut chunk = letters.next_chunk().await.expect("read").expect("a chunk");
    for letter in chunk.letters.iter_mut().filter(|letter| numbers.contains(&letter.sequence_number)) {
        let before = hours * 3_600_000_000;
        letter.rejected_at_us = letter.rejected_at_us.map(|at| at - before);
        letter.replayed_at_us = letter.replayed_at_us.map(|at| at - before);
    }
    letters.rewrite(chunk, "test", &by(), &FaultPoints::default()).await.expect("they are written");
}

/// A table as earlier versions made it: append-only, with fewer columns.
async fn earlier(lake: &Lakehouse) {
    use deltalake::kernel::engine::arrow_conversion::TryIntoKernel as _;
    let letters = held(lake).await;
    let path = lake.path().join("lake/bronze/leads__dead_letters");
    std::fs::remove_dir_all(&path).expect("the table goes");
    let ours = to_rows(&letters).expect("rows");
    let old: Vec<usize> = (0..ours.num_columns() - 5).collect();
    let ours: RecordBatch = ours.project(&old).expect("fewer columns");
    let columns: deltalake::kernel::StructType = ours.schema().as_ref().try_into_kernel().expect("Delta's types");
    std::fs::create_dir_all(&path).expect("made");
    let url = url::Url::from_directory_path(&path).expect("a URL");
    let table = DeltaTable::try_from_url(url).await.expect("a place");
    let append_only = [("delta.appendOnly".to_owned(), Some("true".to_owned()))];
    let table =
        table.create().with_columns(columns.fields().cloned()).with_configuration(append_only).await.expect("made");
    table.write([ours]).with_save_mode(SaveMode::Append).await.expect("the letters land");
}

#[tokio::test]
async fn a_table_of_an_earlier_version_gains_its_columns() {
    for is_live_first in [true, false] {
        let lake = Lakehouse::with_leads().await;
        earlier(&lake).await;
        assert_eq!(complete(&lake), (13, 2, 0));
        assert_eq!(listed(&lake, &[])["letters"][0]["origin"], json!(null));
        if is_live_first {
            let mut live = lake.writer(TABLE).await;
            live.flush(&[staged("0", 10..12, &[10])]).await.expect("the flush lands");
            assert_eq!(listed(&lake, &[])["letters"][0]["origin"], "live");
        }
        let letters = if is_live_first { 3 } else { 2 };
        assert_eq!(replayed(&lake, &[], 0)["replayed"], letters);
        assert_eq!(complete(&lake).1, 0);
        let opened = lake.opened(LETTERS).await;
        let metadata = opened.snapshot().expect("a snapshot").metadata();
        assert!(!metadata.configuration().contains_key("delta.appendOnly"), "it could be rewritten");
        let names: Vec<_> =
            metadata.parse_schema().expect("columns").fields().map(|field| field.name().clone()).collect();
        let ours: Vec<_> = schema().fields().iter().map(|field| field.name().clone()).collect();
        assert_eq!(names, ours);
        let origins = "SELECT DISTINCT _origin FROM bronze.leads WHERE _sequence_number IN (3, 7) AND _partition = '0'";
        let origins = lake.sluice(&["query", origins, "--format", "json"]).json();
        assert_eq!(origins, json!([{"_origin": "dead-letter"}]), "what isn't known isn't made up");
    }
}

#[tokio::test]
async fn rows_without_a_key_stay_and_a_foreign_column_is_refused() {
    let lake = Lakehouse::with_leads().await;
    let keyless = schema();
    let columns = keyless.fields().iter().map(|field| arrow::array::new_null_array(field.data_type(), 1)).collect();
    let keyless = RecordBatch::try_new(Arc::clone(&keyless), columns).expect("a row of nulls");
    let table = lake.opened(LETTERS).await;
    table.write([keyless]).with_save_mode(SaveMode::Append).await.expect("it lands");
    assert_eq!(replayed(&lake, &[], 0)["replayed"], 2);
    let count = lake.sluice(&["query", "SELECT count(*) AS n FROM bronze.leads__dead_letters", "--format", "json"]);
    assert_eq!(count.json(), json!([{"n": 3}]));

    let more = arrow::datatypes::Schema::new(vec![arrow::datatypes::Field::new(
        "note",
        arrow::datatypes::DataType::Utf8,
        true,
    )]);
    let note: arrow::array::ArrayRef = Arc::new(arrow::array::StringArray::from(vec!["mine"]));
    let note = RecordBatch::try_new(Arc::new(more), vec![note]).expect("a row");
    let write = lake.opened(LETTERS).await.write([note]).with_save_mode(SaveMode::Append);
    write.with_schema_mode(deltalake::operations::write::SchemaMode::Merge).await.expect("a stranger adds a column");
    let said = ran(&lake, &["replay", "leads"], 1);
    assert!(said.stderr.contains("column `note` isn't one of this version"), "{}", said.stderr);
}

#[tokio::test]
async fn many_letters_are_replayed_in_portions() {
    // 40 bodies of 4 MiB are more than is held at once.
    let lake = Lakehouse::new();
    let mut writer = lake.writer(TABLE).await;
    writer.record_starts(None, &[(partition("0"), 0)]).await.expect("the start is committed");
    let large = Bytes::from(vec![0x80; 4 << 20]);
    for number in 0..40 {
        let mut large_reject = reject(number);
        large_reject.event.body = large.clone();
        let one = Staged { rejects: vec![large_reject], ..staged("0", number..number + 1, &[number]) };
        assert_eq!(one.events, [(number, enqueued_ms(number))]);
        writer.flush(&[one]).await.expect("the flush lands");
    }
    let done = replayed(&lake, &[], 0);
    assert_eq!((&done["replayed"], &done["commits"]), (&json!(40), &json!(3)), "{done}");
    assert_eq!((complete(&lake), counters(&lake)), ((40, 0, 0), (0, 0)));
}
