//! Dead letters that are replayed into the table that today's routes name.

use serde_json::{Value, json};
use sluicebox::catalog::commit_log::CommitLog;
use sluicebox::emulator::together::Emulator;
use sluicebox::fault_points::{FaultPoint, FaultPoints};
use sluicebox::sink::delta::dead_letters::Writer;
use sluicebox::sink::delta::dead_letters::held::HeldLetters;

use crate::lakehouse::Lakehouse;
use crate::routes::{audited, caught_up, declare, routed, typed};

const REJECTED: &str = r#"
[[route]]
type  = "lead"
table = "bronze.leads"
[[route]]
type   = "odd"
reject = true
"#;

/// What becomes of `odd` events otherwise.
fn with(odd: &str) -> String {
    REJECTED.replace("reject = true", odd)
}

/// Two leads, three odd events that are rejected, one of the rest.
async fn with_letters() -> (Lakehouse, Emulator) {
    let (lake, emulator) = routed(REJECTED).await;
    for (kind, count) in [("lead", 1), ("odd", 2), ("rest", 1), ("odd", 1), ("lead", 1)] {
        emulator.broker().append("leads", "0", typed(kind, count)).expect("events");
    }
    caught_up(&lake);
    assert_eq!((counted(&lake, "rest"), counted(&lake, "leads")), ([1, 3, 2], [2, 0, 4]));
    (lake, emulator)
}

/// Rows, rejected and filtered of a table that is complete.
fn counted(lake: &Lakehouse, table: &str) -> [i64; 3] {
    let audit = audited(lake, &format!("bronze.{table}"), &["--offline"]);
    ["rows", "rejected", "filtered"].map(|what| audit[what].as_i64().expect("a count"))
}

fn replayed(lake: &Lakehouse, code: i32) -> Value {
    let said = lake.sluice(&["dead-letters", "replay", "bronze.rest", "--format", "json"]);
    assert_eq!(said.code, Some(code), "{}{}", said.stdout, said.stderr);
    said.json()
}

fn listed(lake: &Lakehouse) -> Value {
    let said = lake.sluice(&["dead-letters", "list", "bronze.rest", "--all", "--format", "json"]);
    said.json()["tables"][0].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_letter_lands_once_in_the_table_that_todays_routes_name() {
    let (lake, emulator) = with_letters().await;
    declare(&lake, &with("table = \"bronze.leads\""));
    let done = replayed(&lake, 0);
    assert_eq!((&done["replayed"], &done["rows"], &done["failed"]), (&json!(3), &json!(3), &json!(0)), "{done}");
    assert_eq!(done["replayed_to"], json!({"bronze.leads": 3}));
    assert_eq!(counted(&lake, "leads"), [5, 0, 1], "they are its rows, and another's no more");
    assert_eq!(counted(&lake, "rest"), [1, 3, 2], "which has rejected them, and has their letters");
    let letters = listed(&lake);
    assert_eq!((&letters["waiting"], &letters["replayed"]), (&json!(0), &json!(3)), "{letters}");
    assert_eq!(letters["letters"][0]["replayed_to"], "bronze.leads");
    assert_eq!(replayed(&lake, 0)["replayed"], 0, "once is enough");
    assert_eq!(counted(&lake, "leads"), [5, 0, 1]);
    emulator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_death_at_any_point_of_the_way_into_another_table_repeats_nothing_and_loses_nothing() {
    for point in
        [FaultPoint::ReplayStaged, FaultPoint::ReplayCommitted, FaultPoint::LettersStaged, FaultPoint::LettersCommitted]
    {
        let (lake, emulator) = with_letters().await;
        declare(&lake, &with("table = \"bronze.leads\""));
        let died = lake.sluice(&["dead-letters", "replay", "bronze.rest", "--crash-at", point.as_str()]);
        assert_eq!(died.code, None, "{point:?}: {}", died.stderr);
        let has_landed = point != FaultPoint::ReplayStaged;
        let leads = if has_landed { [5, 0, 1] } else { [2, 0, 4] };
        assert_eq!((counted(&lake, "leads"), counted(&lake, "rest")), (leads, [1, 3, 2]), "{point:?}: in between");
        let done = replayed(&lake, 0);
        let expected = match point {
            FaultPoint::ReplayStaged => (3, 0),
            FaultPoint::LettersCommitted => (0, 0),
            _ => (0, 3),
        };
        assert_eq!(
            (&done["replayed"], &done["had_row"]),
            (&json!(expected.0), &json!(expected.1)),
            "{point:?}: {done}"
        );
        assert_eq!((counted(&lake, "leads"), counted(&lake, "rest")), ([5, 0, 1], [1, 3, 2]), "{point:?}");
        assert_eq!(listed(&lake)["replayed"], 3, "{point:?}: a lost mark is made again");
        emulator.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_letter_that_a_route_filters_or_rejects_stays() {
    let (lake, emulator) = with_letters().await;
    declare(&lake, &with("filter = true"));
    let done = replayed(&lake, 1);
    assert_eq!((&done["replayed"], &done["filtered"], &done["failed"]), (&json!(0), &json!(3), &json!(0)), "{done}");
    declare(&lake, REJECTED);
    let done = replayed(&lake, 1);
    assert_eq!((&done["failed_by_class"], &done["filtered"]), (&json!({"no_route": 3}), &json!(0)), "{done}");
    assert_eq!((counted(&lake, "rest"), counted(&lake, "leads")), ([1, 3, 2], [2, 0, 4]));
    // What no route names is that table's own.
    declare(&lake, &with("table = \"bronze.rest\""));
    let done = replayed(&lake, 0);
    assert_eq!((&done["replayed"], &done["replayed_to"]), (&json!(3), &json!({})), "{done}");
    assert_eq!((counted(&lake, "rest"), counted(&lake, "leads")), ([4, 0, 2], [2, 0, 4]));
    emulator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_letter_of_a_table_that_does_not_account_for_it_stays_and_is_told() {
    let (lake, emulator) = with_letters().await;
    declare(&lake, &with("table = \"bronze.odd\""));
    let left = json!({"bronze.odd": 3});
    assert_eq!(replayed(&lake, 1)["left_for"], left, "there is no such table yet");
    assert!(!lake.path().join("lake/bronze/odd").exists(), "and none is made");
    emulator.broker().append("leads", "0", typed("odd", 1)).expect("events");
    caught_up(&lake);
    assert_eq!(replayed(&lake, 1)["left_for"], left, "it begins behind them");
    assert_eq!((counted(&lake, "rest"), counted(&lake, "odd")), ([1, 3, 3], [1, 0, 0]));
    assert_eq!(listed(&lake)["waiting"], 3);
    let said = lake.sluice(&["dead-letters", "replay", "bronze.rest"]);
    assert!(said.stdout.contains("belongs to bronze.odd, which has no place for it: 3"), "{}", said.stdout);
    emulator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_refuses_keeps_no_other_letter_from_its_mark() {
    let (lake, emulator) = with_letters().await;
    let routes = with("table = \"bronze.leads\"");
    declare(&lake, &routes);
    let log = lake.path().join("lake/bronze/leads/_delta_log");
    let version = std::fs::read_dir(&log).expect("a log").filter_map(|entry| {
        let name = entry.expect("an entry").file_name().into_string().expect("text");
        name.strip_suffix(".json")?.parse::<u64>().ok()
    });
    let next = log.join(format!("{:020}.json", version.max().expect("a version") + 1));
    let protocol = json!({"minReaderVersion": 1, "minWriterVersion": 7, "writerFeatures": ["identityColumns"]});
    std::fs::write(&next, json!({"protocol": protocol}).to_string()).expect("a stranger's commit");
    let done = replayed(&lake, 1);
    assert_eq!((&done["replayed"], &done["left_for"]), (&json!(0), &json!({"bronze.leads": 3})), "{done}");
    let why = done["refused_by"]["bronze.leads"].as_str().expect("words");
    assert!(why.contains("identityColumns"), "{why}");
    assert_eq!(listed(&lake)["waiting"], 3);
    std::fs::remove_file(next).expect("it goes");
    assert_eq!(replayed(&lake, 0)["replayed_to"], json!({"bronze.leads": 3}));
    emulator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn retention_keeps_the_key_of_a_letter_whose_row_is_elsewhere() {
    let (lake, emulator) = with_letters().await;
    declare(&lake, &with("table = \"bronze.leads\""));
    replayed(&lake, 0);
    let name = "bronze.rest__dead_letters";
    let location = sluicebox::catalog::table_location(&lake.location(), &name.parse().expect("a name"));
    let log = CommitLog::new(sluicebox::catalog::log::log_store(&location).expect("a log"), name.to_owned());
    let mut letters = HeldLetters::open(log).await.expect("opens").expect("is there");
    let mut chunk = letters.next_chunk().await.expect("read").expect("a chunk");
    for letter in &mut chunk.letters {
        let long_ago = |at: i64| at - 100 * 3_600_000_000;
        letter.rejected_at_us = letter.rejected_at_us.map(long_ago);
        letter.replayed_at_us = letter.replayed_at_us.map(long_ago);
    }
    let by = Writer { pipeline: "events".to_owned(), owner: "conversions".to_owned(), config_hash: "1".repeat(64) };
    letters.rewrite(chunk, "test", &by, &FaultPoints::default()).await.expect("they are written");

    let routes = with("table = \"bronze.leads\"");
    declare(&lake, &format!("dead_letters_retention = \"1h\"\n{routes}"));
    for (expired, counted) in [(3, 3), (0, 0)] {
        let said = lake.sluice(&["dead-letters", "expire", "bronze.rest", "--format", "json"]);
        let done = said.json()["tables"][0].clone();
        let expected = (&json!(expired), &json!(0), &json!(counted));
        assert_eq!((&done["expired"], &done["removed"], &done["counted"]), expected, "{done}");
    }
    let audit = audited(&lake, "bronze.rest", &["--offline"]);
    assert_eq!(
        (&audit["rejected"], &audit["expired"], &audit["missing"]),
        (&json!(3), &json!(3), &json!(0)),
        "{audit}"
    );
    emulator.stop().await;
}
