//! One stream into several tables: which event goes where, and that each table accounts for all of them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use arrow::array::{AsArray as _, BinaryArray};
use arrow::datatypes::Int64Type;
use bytes::Bytes;
use proptest::prelude::*;
use serde_json::{Value, json};
use sluicebox::batch::{Decoded, Event, EventBatch, Origin, RejectClass, bronze};
use sluicebox::checkpoint::{Range, RangeSet, Run};
use sluicebox::config::spec::{DecodeSpec, Format, ProjectSpec};
use sluicebox::config::{self, LoadOptions};
use sluicebox::decode::Decoder;
use sluicebox::emulator::together::{Emulator, EmulatorOptions};
use sluicebox::emulator::{HubSpec, StoredMessageInput};
use sluicebox::pipeline::routes::{Routed, Router, problems};
use sluicebox::sink::delta::staged::Staged;
use sluicebox::sink::delta::writer::TableWriter;

use crate::lakehouse::{Lakehouse, enqueued_ms, partition, staged};

const PROJECT: &str = r#"
[project]
name  = "insurer"
teams = ["conversions"]

[lake]
url = "lake"

[event_hubs]
connection_string = "${HUBS}"

[serve]
address = "127.0.0.1:0"
"#;

const PIPELINE: &str = r#"
[pipeline]
name  = "events"
owner = "conversions"

[source.event_hubs]
hub = "leads"

[decode]
format = "raw"

[sink]
table        = "bronze.rest"
commit_every = "100ms"
"#;

/// A project of one pipeline with these routes.
fn project(folder: &Path, routes: &str) -> ProjectSpec {
    std::fs::write(folder.join("sluice.toml"), PROJECT).expect("the project is written");
    std::fs::create_dir_all(folder.join("pipelines")).expect("the folder is made");
    std::fs::write(folder.join("pipelines/events.toml"), format!("{PIPELINE}{routes}")).expect("it is written");
    let options = LoadOptions { project: Some(folder.to_owned()), env: None };
    let hubs = "Endpoint=sb://127.0.0.1:1;SharedAccessKeyName=n;SharedAccessKey=k;UseDevelopmentEmulator=true;";
    config::load_with(&options, &|_| Some(hubs.to_owned())).unwrap_or_else(|errors| panic!("{errors:?}"))
}

fn router(routes: &str) -> Router {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let project = project(folder.path(), routes);
    Router::open(&project.pipelines[0]).expect("the routes can be used")
}

fn event(number: i64, properties: &[(&str, &str)]) -> Event {
    Event {
        sequence_number: number,
        offset: number.to_string(),
        enqueued_at: enqueued_ms(number),
        body: Bytes::from(number.to_string()),
        content_type: None,
        properties: properties.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
    }
}

fn batch(events: Vec<Event>) -> EventBatch {
    EventBatch { partition: partition("0"), origin: Origin::Live, events }
}

/// Routes events whose body stays bytes.
fn split(router: &Router, batch: EventBatch) -> Routed {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let decoder = Decoder::open(&project(folder.path(), "").pipelines[0].decode, None).expect("a decoder");
    split_decoded(router, &decoder, batch)
}

fn split_decoded(router: &Router, decoder: &Decoder, batch: EventBatch) -> Routed {
    let batch = Arc::new(batch);
    let decoded = tokio::runtime::Runtime::new().expect("a runtime").block_on(decoder.decode(Arc::clone(&batch)));
    router.split(&batch, decoded.expect("events of bytes")).expect("the rows are as declared")
}

/// The numbers of the rows of each table.
fn rows(routed: &Routed) -> Vec<Vec<i64>> {
    let numbers = |rows: &arrow::array::RecordBatch| {
        let column = rows.column_by_name(bronze::SEQUENCE_NUMBER).expect("the column is there");
        column.as_primitive::<Int64Type>().values().to_vec()
    };
    routed.shares.iter().map(|share| share.rows().expect("rows").iter().flat_map(numbers).collect()).collect()
}

fn elsewhere(runs: &[Run]) -> Vec<(i64, i64)> {
    runs.iter().map(|run| (run.range.from, run.range.to)).collect()
}

const TYPE: &str = "cloudEvents_type";

#[test]
fn the_first_route_that_fits_takes_the_event() {
    let router = router(
        r#"
[[route]]
type  = "lead.*"
when  = "_properties['tenant'] = 'blue'"
table = "bronze.blue"
[[route]]
type  = "lead.*"
table = "bronze.leads"
[[route]]
property = { name = "test", value = "yes" }
filter   = true
[[route]]
type   = "click"
reject = true
"#,
    );
    let routed = split(
        &router,
        batch(vec![
            event(0, &[(TYPE, "lead.made")]),
            event(1, &[(TYPE, "lead.made"), ("tenant", "blue"), ("test", "yes")]),
            event(2, &[("test", "yes")]),
            event(3, &[(TYPE, "click")]),
            event(4, &[("test", "no")]),
            event(5, &[(TYPE, "click"), ("test", "yes")]),
            event(6, &[(TYPE, "lead.sold"), ("tenant", "red")]),
        ]),
    );
    assert_eq!(rows(&routed), [vec![4], vec![1], vec![0, 6]]);
    assert_eq!(routed.filtered, 2);
    let [rest, blue, leads] = routed.shares.as_slice() else { panic!("three tables") };
    let rejects: Vec<_> = rest.rejects.iter().map(|reject| (reject.event.sequence_number, reject.class)).collect();
    assert_eq!(rejects, [(3, RejectClass::NoRoute)], "what is rejected lies beside the table of `[sink]`");
    assert_eq!(rest.rejects[0].event.body, Bytes::from("3"), "with its bytes");
    assert_eq!(elsewhere(&rest.elsewhere), [(0, 3), (5, 7)]);
    assert_eq!(elsewhere(&blue.elsewhere), [(0, 1), (2, 7)]);
    assert_eq!(elsewhere(&leads.elsewhere), [(1, 6)]);
    assert_eq!(leads.elsewhere[0].last_enqueued_at, enqueued_ms(5));
    let bodies = leads.rows().expect("rows")[0].column_by_name("body").expect("a column").as_binary::<i32>().clone();
    assert_eq!(bodies, BinaryArray::from_iter_values([b"0", b"6"]), "rows go as a whole");
}

#[test]
fn a_condition_that_can_t_be_told_of_an_event_rejects_that_event_alone() {
    let router = router(
        r#"
[[route]]
when  = "CAST(_properties['size'] AS INT) > 10"
table = "bronze.large"
"#,
    );
    let routed = split(
        &router,
        batch(vec![
            event(0, &[("size", "11")]),
            event(1, &[("size", "huge")]),
            event(2, &[]),
            event(3, &[("size", "9")]),
        ]),
    );
    assert_eq!(rows(&routed), [vec![2, 3], vec![0]]);
    let [reject] = routed.shares[0].rejects.as_slice() else { panic!("one reject") };
    assert_eq!((reject.event.sequence_number, reject.class), (1, RejectClass::NoRoute));
    assert!(reject.text.starts_with("route 1 can't be told"), "{}", reject.text);
}

#[test]
fn what_can_t_be_decoded_is_routed_by_its_envelope() {
    let router = router(
        r#"
[[route]]
schema = "insurer.Lead"
type   = "lead"
table  = "bronze.by_both"
[[route]]
type  = "lead"
table = "bronze.by_type"
[[route]]
type   = "noise"
filter = true
"#,
    );
    let types = [(0, "lead"), (1, "noise"), (2, "other"), (3, "lead"), (4, "other")];
    let batch = batch(types.iter().map(|(number, kind)| event(*number, &[(TYPE, kind)])).collect());
    let reject = |number: usize| {
        let mut reject = crate::lakehouse::reject(number as i64);
        reject.event = batch.events[number].clone();
        reject
    };
    let decoded = Decoded { rejects: (0..5).map(reject).collect(), ..Decoded::default() };
    let routed = router.split(&batch, decoded).expect("the envelope is as declared");
    let rejects = |share: usize| -> Vec<i64> {
        routed.shares[share].rejects.iter().map(|reject| reject.event.sequence_number).collect()
    };
    assert_eq!((rejects(0), rejects(1), rejects(2)), (vec![2, 4], vec![], vec![0, 3]));
    assert_eq!(routed.filtered, 1);
}

#[test]
fn an_event_of_several_cloud_events_goes_as_a_whole_by_its_first_one() {
    let router = router(
        r#"
[[route]]
type  = "a"
table = "bronze.a"
[[route]]
type   = "r"
reject = true
[[route]]
type   = "f"
filter = true
"#,
    );
    let bodies = [
        r#"[{"type":"a","data":1},{"type":"b","data":2}]"#,
        r#"[{"type":"b","data":1},{"type":"a","data":2},{"type":"f","data":3}]"#,
        r#"[{"type":"r","data":1},{"type":"a","data":2},{"type":"r","data":3}]"#,
        r#"[{"type":"f","data":1},{"type":"r","data":2}]"#,
        // It can't be decoded, and its attributes can.
        r#"[{"type":"a","data":1},{"type":"b","data_base64":"ew=="}]"#,
    ];
    let content_type = Some("application/cloudevents-batch+json".to_owned());
    let events = (0..).zip(bodies).map(|(number, body)| Event {
        body: Bytes::from_static(body.as_bytes()),
        content_type: content_type.clone(),
        ..event(number, &[])
    });
    let decoder = DecodeSpec { format: Format::Json, ..DecodeSpec::default() };
    let decoder = Decoder::open(&decoder, None).expect("a decoder");
    let routed = split_decoded(&router, &decoder, batch(events.collect()));
    assert_eq!(rows(&routed), [vec![1, 1, 1], vec![0, 0]]);
    let rejects = |share: usize| -> Vec<(i64, RejectClass)> {
        let rejects = routed.shares[share].rejects.iter();
        rejects.map(|reject| (reject.event.sequence_number, reject.class)).collect()
    };
    assert_eq!((rejects(0), rejects(1)), (vec![(2, RejectClass::NoRoute)], vec![(4, RejectClass::Datum)]));
    assert_eq!(routed.filtered, 1);
    assert_eq!(elsewhere(&routed.shares[0].elsewhere), [(0, 1), (3, 5)]);
    assert_eq!(elsewhere(&routed.shares[1].elsewhere), [(1, 4)]);
}

#[test]
fn conditions_that_can_t_be_used_are_told_at_their_bytes() {
    for (when, expected) in [
        ("_event_typ = 'a'", "the envelope has no column `_event_typ`"),
        ("lead_id = 1", "the envelope has no column `lead_id`"),
        ("_record_index = 0", "the envelope has no column `_record_index`"),
        ("_event_type", "a condition is true or false"),
        ("_event_type = ", "it isn't SQL"),
        ("_event_type = 'a' AS x", "a condition has no name"),
        ("_event_type IN (SELECT 1)", "can't hold a query"),
        ("count(*) > 1", "has no place in a route"),
        ("random() > 0.5", "has no place in a route"),
        ("_enqueued_at > now()", "has no place in a route"),
    ] {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let routes = format!("[[route]]\nwhen = \"{when}\"\ntable = \"bronze.x\"\n");
        let project = project(folder.path(), &routes);
        let found = problems(&project);
        let [problem] = found.as_slice() else { panic!("`{when}`: {found:?}") };
        assert!(problem.message.contains(expected), "`{when}`: {}", problem.message);
        let place = problem.place.as_ref().expect("a place");
        assert_eq!(&place.file.shown[place.bytes.clone()], format!("\"{when}\""));
        assert!(Router::open(&project.pipelines[0]).is_err());
    }
}

proptest! {
    /// Whatever the routes and the events: each number is one table's or filtered, and every other table's share
    /// accounts for it, with the time of the event that ends each run.
    #[test]
    fn every_share_accounts_for_every_number(
        kinds in prop::collection::vec(0usize..6, 1..60),
        gaps in prop::collection::vec(0i64..3, 60),
    ) {
        let router = router(r#"
[[route]]
type  = "k0"
table = "bronze.k0"
[[route]]
type  = "k1"
table = "bronze.k1"
[[route]]
type  = "k2"
filter = true
[[route]]
type  = "k3"
reject = true
[[route]]
type  = "k4"
table = "bronze.k0"
"#);
        let mut number = 0;
        let events: Vec<Event> = kinds.iter().zip(&gaps).map(|(kind, gap)| {
            number += 1 + gap;
            event(number, &[(TYPE, &format!("k{kind}"))])
        }).collect();
        let home = |kind: usize| match kind { 0 | 4 => Some(1), 1 => Some(2), 2 => None, _ => Some(0) };
        let expected = |table: usize| -> Vec<i64> {
            let own = events.iter().zip(&kinds).filter(|(_, kind)| home(**kind) == Some(table));
            own.map(|(event, _)| event.sequence_number).collect()
        };
        let routed = split(&router, batch(events.clone()));
        prop_assert_eq!(routed.filtered, kinds.iter().filter(|kind| **kind == 2).count() as u64);
        for (table, share) in routed.shares.iter().enumerate() {
            let own: Vec<i64> = share.events.iter().map(|(number, _)| *number).collect();
            prop_assert_eq!(&own, &expected(table));
            let rejects: BTreeSet<i64> = share.rejects.iter().map(|reject| reject.event.sequence_number).collect();
            let of_rows: BTreeSet<i64> = rows(&routed)[table].iter().copied().collect();
            prop_assert!(of_rows.is_disjoint(&rejects));
            prop_assert_eq!(of_rows.union(&rejects).copied().collect::<Vec<_>>(), own.clone());
            let mut all: RangeSet = own.iter().map(|number| Range::new(*number, number + 1)).collect();
            for run in &share.elsewhere {
                prop_assert_eq!(run.last_enqueued_at, enqueued_ms(run.range.to - 1));
                prop_assert!(all.held_in(run.range).is_empty(), "a number twice");
                all.insert(run.range);
            }
            let read: RangeSet = events.iter().map(|event| Range::new(event.sequence_number, event.sequence_number + 1)).collect();
            prop_assert_eq!(all, read);
        }
    }
}

/// What a table gets of numbers whose home is known.
fn share(table: usize, numbers: std::ops::Range<i64>, home: impl Fn(i64) -> usize) -> Staged {
    let is_own = |number: &i64| home(*number) == table;
    let own: Vec<i64> = numbers.clone().filter(is_own).collect();
    // Each eleventh is a dead letter.
    let rejected: Vec<i64> = own.iter().copied().filter(|number| number % 11 == 0).collect();
    let mut staged = staged("0", numbers.clone(), &rejected);
    let kept: Vec<i64> = own.iter().copied().filter(|number| !rejected.contains(number)).collect();
    staged.events.retain(|(number, _)| is_own(number));
    staged.batches = if kept.is_empty() { Vec::new() } else { vec![crate::lakehouse::batch("0", &kept)] };
    let others: RangeSet = numbers.filter(|number| !is_own(number)).map(|n| Range::new(n, n + 1)).collect();
    let run = |range: Range| Run { range, last_enqueued_at: enqueued_ms(range.to - 1) };
    staged.elsewhere = others.iter().map(run).collect();
    staged
}

#[derive(Debug, Clone)]
enum Step {
    Read(i64),
    Commit(usize),
    /// All that isn't committed is gone, and reading goes on at the lowest position.
    Kill,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![4 => (1i64..20).prop_map(Step::Read), 3 => (0usize..3).prop_map(Step::Commit), 1 => Just(Step::Kill)]
}

async fn open(lake: &Lakehouse) -> Vec<TableWriter> {
    let mut writers = Vec::new();
    for table in ["bronze.a", "bronze.b", "bronze.c"] {
        writers.push(lake.writer(table).await);
    }
    writers
}

fn position(writers: &[TableWriter]) -> i64 {
    let of = |writer: &TableWriter| writer.ledger().partition(&partition("0")).and_then(|held| held.position(0));
    writers.iter().filter_map(of).min().expect("each has a start")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn any_order_of_commits_and_kills_leaves_each_number_accounted_for_once_in_each_table(
        steps in prop::collection::vec(step(), 1..14), seed in 0i64..1000,
    ) {
        // The route of a number never changes, as that of an event doesn't.
        let home = move |number: i64| ((number * 7919 + seed) % 5).min(3) as usize;
        tokio::runtime::Runtime::new().expect("a runtime").block_on(async {
            let lake = Lakehouse::new();
            let mut writers = open(&lake).await;
            for writer in &mut writers {
                writer.record_starts(None, &[(partition("0"), 0)]).await.expect("a start");
            }
            let mut pending: Vec<Vec<Staged>> = (0..3).map(|_| Vec::new()).collect();
            let mut next = 0;
            let mut received = [0; 3];
            let mut settled = [0; 3];
            // To an end that lies past all that any of them has committed.
            let last = 20 * steps.len() as i64;
            for step in steps.into_iter().chain([Step::Kill, Step::Read(last)]).chain((0..3).map(Step::Commit)) {
                match step {
                    Step::Read(count) => {
                        for (table, pending) in pending.iter_mut().enumerate() {
                            let staged = share(table, next..next + count, home);
                            received[table] += staged.received();
                            pending.push(staged);
                        }
                        next += count;
                    }
                    Step::Commit(table) => {
                        let flushed = writers[table].flush(&pending[table]).await.expect("the flush lands");
                        settled[table] += flushed.counts.values().map(|counts| counts.received()).sum::<u64>();
                        pending[table].clear();
                    }
                    Step::Kill => {
                        for (table, pending) in pending.iter_mut().enumerate() {
                            received[table] -= pending.iter().map(Staged::received).sum::<u64>();
                            pending.clear();
                        }
                        writers = open(&lake).await;
                        next = position(&writers);
                    }
                }
            }
            assert_eq!(received, settled, "received = committed + rejected + filtered + duplicate");
            for (table, name) in ["bronze.a", "bronze.b", "bronze.c"].into_iter().enumerate() {
                let coverage = writers[table].ledger().coverage(&partition("0"));
                assert_eq!(coverage.as_slice(), [Range::new(0, next)], "{name}");
                let audit = audited(&lake, name, &["--offline"]);
                let own: Vec<i64> = (0..next).filter(|number| home(*number) == table).collect();
                let rejected = own.iter().filter(|number| *number % 11 == 0).count() as i64;
                let counted = ["rows", "rejected", "filtered"].map(|what| audit[what].as_i64().expect("a count"));
                let rows = own.len() as i64 - rejected;
                assert_eq!(counted, [rows, rejected, next - own.len() as i64], "{name}: {audit}");
            }
        });
    }
}

pub fn audited(lake: &Lakehouse, table: &str, more: &[&str]) -> Value {
    let said = lake.sluice(&[&["audit", table, "--format", "json"], more].concat());
    assert_eq!(said.code, Some(0), "{}{}", said.stdout, said.stderr);
    said.json()
}

pub fn typed(kind: &str, count: usize) -> Vec<StoredMessageInput> {
    let properties = vec![(TYPE.to_owned(), kind.to_owned())];
    vec![StoredMessageInput { properties, ..StoredMessageInput::default() }; count]
}

/// A project whose hub is there, with these routes.
pub async fn routed(routes: &str) -> (Lakehouse, Emulator) {
    let options = EmulatorOptions { hubs: vec![HubSpec::new("leads", 2)], ..EmulatorOptions::default() };
    let emulator = Emulator::start(options).await.expect("an emulator");
    let mut lake = Lakehouse::new();
    lake.connect(emulator.addresses().connection_string.reveal());
    std::fs::remove_file(lake.path().join("pipelines/leads.toml")).expect("the pipeline is removed");
    declare(&lake, routes);
    (lake, emulator)
}

pub fn declare(lake: &Lakehouse, routes: &str) {
    std::fs::write(lake.path().join("pipelines/events.toml"), format!("{PIPELINE}{routes}")).expect("it is written");
}

/// Runs to the end of what there is, and gives the summary.
pub fn caught_up(lake: &Lakehouse) -> Value {
    let said = lake.sluice(&["run", "--until-caught-up", "--format", "json"]);
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    said.json()["pipelines"][0].clone()
}

pub fn counts(summary: &Value) -> BTreeMap<&str, u64> {
    let count = |what: &'static str| (what, summary[what].as_u64().expect("a count"));
    ["received", "committed", "rejected", "filtered", "duplicate"].into_iter().map(count).collect()
}

const ROUTES: &str = r#"
[[route]]
type  = "lead"
table = "bronze.leads"
[[route]]
type   = "noise"
filter = true
[[route]]
type   = "odd"
reject = true
"#;

#[tokio::test(flavor = "multi_thread")]
async fn one_reader_fills_several_tables_each_with_a_ledger_of_its_own() {
    let (lake, emulator) = routed(ROUTES).await;
    let send = |partition: &str, kind: &str, count: usize| {
        emulator.broker().append("leads", partition, typed(kind, count)).expect("events");
    };
    for round in 0..3 {
        send("0", "lead", 2);
        send("0", "other", 3);
        send("1", "noise", 4);
        send("1", "odd", round);
        send("1", "lead", 1);
    }
    let summary = caught_up(&lake);
    let expected = [("received", 33), ("committed", 18), ("rejected", 3), ("filtered", 12), ("duplicate", 0)];
    assert_eq!(counts(&summary), BTreeMap::from(expected), "{summary}");
    for (table, rows, rejected, filtered) in [("bronze.rest", 9, 3, 21), ("bronze.leads", 9, 0, 24)] {
        let audit = audited(&lake, table, &[]);
        assert_eq!(
            (&audit["rows"], &audit["rejected"], &audit["filtered"], &audit["offline"]),
            (&json!(rows), &json!(rejected), &json!(filtered), &json!(false)),
            "{table}: {audit}"
        );
    }
    let status = lake.sluice(&["status", "--format", "json"]).json()["pipelines"][0].clone();
    assert_eq!((&status["state"], &status["table"]), (&json!("idle"), &json!("bronze.rest")), "{status}");
    assert_eq!(status["routed_tables"][0]["table"], "bronze.leads");
    assert_eq!(status["partitions"][0]["position"], 15, "{status}");

    assert_eq!(counts(&caught_up(&lake))["received"], 0, "nothing is read again");
    emulator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_a_later_route_names_begins_where_reading_goes_on() {
    let (lake, emulator) = routed(ROUTES).await;
    emulator.broker().append("leads", "0", typed("click", 5)).expect("events");
    caught_up(&lake);
    declare(
        &lake,
        &format!("{ROUTES}[[route]]\ntype = \"click\"\ntable = \"bronze.clicks\"\n")
            .replace("[[route]]\ntype   = \"odd\"\nreject = true\n", ""),
    );
    emulator.broker().append("leads", "0", typed("click", 3)).expect("events");
    let summary = caught_up(&lake);
    assert_eq!(counts(&summary)["received"], 3, "{summary}");
    let clicks = audited(&lake, "bronze.clicks", &[]);
    assert_eq!((&clicks["rows"], &clicks["partitions"][0]["ranges"]), (&json!(3), &json!([[5, 8]])), "{clicks}");
    let rest = audited(&lake, "bronze.rest", &[]);
    assert_eq!((&rest["rows"], &rest["filtered"]), (&json!(5), &json!(3)), "{rest}");
    emulator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_its_table_has_passed_by_becomes_a_dead_letter_of_another() {
    let (lake, emulator) = routed("[[route]]\ntype = \"other\"\ntable = \"bronze.leads\"\n").await;
    for (kind, count) in [("lead", 2), ("other", 3), ("lead", 1), ("other", 1)] {
        emulator.broker().append("leads", "0", typed(kind, count)).expect("events");
    }
    // As a crash leaves it, when leads still went to `bronze.leads`: that has committed, the other table hasn't.
    let starts = [(partition("0"), 0)];
    lake.writer("bronze.rest").await.record_starts(None, &starts).await.expect("a start");
    let mut leads = lake.writer("bronze.leads").await;
    leads.record_starts(None, &starts).await.expect("a start");
    let is_lead = |number: i64| usize::from(!matches!(number, 0 | 1 | 5));
    let mut first = share(0, 0..6, is_lead);
    (first.batches, first.rejects) = (vec![crate::lakehouse::batch("0", &[0, 1, 5])], Vec::new());
    leads.flush(&[first]).await.expect("the flush lands");

    let summary = caught_up(&lake);
    let expected = [("received", 7), ("committed", 4), ("rejected", 3), ("filtered", 0), ("duplicate", 0)];
    assert_eq!(counts(&summary), BTreeMap::from(expected), "{summary}");
    for (table, rows, rejected, filtered) in [("bronze.rest", 3, 3, 1), ("bronze.leads", 4, 0, 3)] {
        let audit = audited(&lake, table, &[]);
        let counted = ["rows", "rejected", "filtered"].map(|what| audit[what].as_i64().expect("a count"));
        assert_eq!(counted, [rows, rejected, filtered], "{table}: {audit}");
    }
    let sql = "SELECT _sequence_number AS number, error_class AS class FROM bronze.rest__dead_letters ORDER BY 1";
    let letters = lake.sluice(&["query", sql, "--format", "json"]).json();
    let letter = |number: i64| json!({ "number": number, "class": "no_route" });
    assert_eq!(letters, json!([letter(2), letter(3), letter(4)]));

    let sql = "SELECT _sequence_number AS number FROM bronze.rest ORDER BY 1";
    let rows = lake.sluice(&["query", sql, "--format", "json"]).json();
    let rows: Vec<_> = rows.as_array().expect("rows").iter().map(|row| row["number"].clone()).collect();
    assert_eq!(rows, [0, 1, 5], "by today's routes they are this table's, which lacked them");
    emulator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_that_commit_seldom_hold_up_nobody_where_memory_is_short() {
    const TABLES: usize = 8;
    let route = |table: usize| {
        let every = if table == 0 { "1h" } else { "100ms" };
        format!("[[route]]\ntype = \"of {table}\"\ntable = \"bronze.t{table}\"\ncommit_every = \"{every}\"\n")
    };
    let routes: String = (0..TABLES).map(route).collect();
    let (lake, emulator) = routed(&format!("max_in_flight_bytes = \"1MiB\"\n{routes}")).await;
    for partition in ["0", "1"] {
        let event = |number: usize| StoredMessageInput {
            body: "x".repeat(500).into(),
            properties: vec![(TYPE.to_owned(), format!("of {}", number % TABLES))],
            ..StoredMessageInput::default()
        };
        emulator.broker().append("leads", partition, (0..4000).map(event).collect()).expect("events");
    }
    let summary = caught_up(&lake);
    assert_eq!((counts(&summary)["received"], counts(&summary)["committed"]), (8000, 8000), "{summary}");
    for table in 0..TABLES {
        let audit = audited(&lake, &format!("bronze.t{table}"), &[]);
        assert_eq!((&audit["rows"], &audit["filtered"]), (&json!(1000), &json!(7000)), "{table}: {audit}");
    }
    emulator.stop().await;
}
