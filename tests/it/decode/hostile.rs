//! Bytes from outside, whatever they are: each event ends as a row or as a reject, in little time, and nothing panics.
//!
//! Datums and containers have such tests beside their own; here it is what comes before them, framings, and what comes with
//! containers, schemas: these go all the way into a table's columns.

use std::time::{Duration, Instant};

use apache_avro::Writer;
use arrow::datatypes::Schema as ArrowSchema;
use sluicebox::sink::delta::schema::{Defaults, Policy, Rescued, TableColumns};

use super::differential::cases;
use super::ends::{RICH, containers, framings};
use super::*;

const CASES: u32 = 300;

/// What a case may take in a debug build on a busy machine. It is some milliseconds; a loop that spins takes for ever.
const CASE_TAKES_AT_MOST: Duration = Duration::from_secs(20);

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let front = prop::sample::select(vec![
        vec![],
        b"Obj\x01".to_vec(),
        vec![0xC3, 0x01],
        vec![0],
        vec![0; 4],
        [&[0; 4], LEAD_ID.as_bytes()].concat(),
        [&[0; 4], UNKNOWN_ID.as_bytes()].concat(),
        vec![0, 0, 0, 0, 42],
        lead_bytes(7),
        br#"{"specversion":"1.0","data":"#.to_vec(),
    ]);
    (front, prop::collection::vec(any::<u8>(), 0..200)).prop_map(|(front, rest)| [front, rest].concat())
}

fn content_type() -> impl Strategy<Value = Option<String>> {
    let known = prop::sample::select(vec![
        format!("avro/binary+{LEAD_ID}"),
        format!("avro/binary+{UNKNOWN_ID}"),
        "avro/binary+".to_owned(),
        "avro/binary".to_owned(),
        "application/json".to_owned(),
    ]);
    prop_oneof![
        Just(None),
        known.prop_map(Some),
        "\\PC{0,40}".prop_map(Some),
        "avro/binary\\+[0-9a-fA-Fü]{30,34}".prop_map(Some)
    ]
}

fn hostile_event() -> impl Strategy<Value = (Vec<u8>, Option<String>, Option<String>)> {
    (bytes(), content_type(), content_type())
}

/// Text of a schema with some of its characters changed, left out or doubled.
fn damaged(text: &str, damage: &[(prop::sample::Index, u8, char)]) -> String {
    let mut characters: Vec<char> = text.chars().collect();
    for (at, how, other) in damage {
        let at = at.index(characters.len());
        match how % 3 {
            0 => characters[at] = *other,
            1 => drop(characters.remove(at)),
            _ => characters.insert(at, characters[at]),
        }
    }
    characters.into_iter().collect()
}

/// A datum of the rich schema: one, null, nothing, 0.01, no time, the first symbol, nothing.
const SOUND: [u8; 19] = [2, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

#[test]
fn defaults_that_unfold_beyond_all_measure_are_refused() {
    let sized = |bytes: &[u8]| [encode(&Schema::Long, Value::Long(bytes.len() as i64)), bytes.to_vec()].concat();
    for (default, fields) in [(900_000, 3_000), (60_000, 3_000), (2_000, 3_000)] {
        let more: String = (0..fields).map(|at| format!(r#",{{"name":"f{at}","type":"R"}}"#)).collect();
        let schema = format!(
            r#"{{"type":"record","name":"T","fields":[{{"name":"f","type":{{"type":"record","name":"R","fields":[
                {{"name":"s","type":"string","default":"{}"}}]}}}}{more}]}}"#,
            "x".repeat(default)
        );
        let marker = [7; 16];
        let body = [
            b"Obj\x01".to_vec(),
            vec![2],
            sized(b"avro.schema"),
            sized(schema.as_bytes()),
            vec![0],
            marker.to_vec(),
            vec![2],
            sized(&[0]),
            marker.to_vec(),
        ];
        let decoded = each_event_ends_once(&containers(), vec![event(0, None, body.concat())]);
        let [reject] = decoded.rejects.as_slice() else { panic!("{} rows", decoded.batches.len()) };
        assert!(reject.text.contains("the defaults of its fields unfold to more than"), "{}", reject.text);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(CASES)))]

    #[test]
    fn any_bytes_in_any_framing_end_as_a_row_or_as_a_reject(given in prop::collection::vec(hostile_event(), 1..6)) {
        let dir = tempfile::tempdir().expect("a folder");
        let began = Instant::now();
        for decoder in framings(dir.path()) {
            let events = given.iter().zip(0..).map(|((body, in_amqp, in_property), number)| {
                let mut event = event(number, None, body.clone());
                event.content_type = in_amqp.clone();
                event.properties.extend(in_property.iter().map(|text| ("content-type".to_owned(), text.clone())));
                event
            });
            each_event_ends_once(&decoder, events.collect());
        }
        prop_assert!(began.elapsed() < CASE_TAKES_AT_MOST);
    }

    #[test]
    fn any_schema_of_a_container_goes_into_a_table_or_is_refused(
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), prop::sample::select("\"{}[],:0129anfRPQ\\u".chars().collect::<Vec<_>>())), 0..4),
        block in prop_oneof![Just(SOUND.to_vec()), prop::collection::vec(any::<u8>(), 0..40)],
        records in 1_i64..4,
    ) {
        let began = Instant::now();
        let schema = Schema::parse_str(RICH).expect("a schema");
        let head = Writer::new(&schema, Vec::new()).expect("a writer").into_inner().expect("a header");
        let marker = &head[head.len() - 16..];
        let sized = |bytes: &[u8]| [encode(&Schema::Long, Value::Long(bytes.len() as i64)), bytes.to_vec()].concat();
        let body = [
            b"Obj\x01".to_vec(),
            vec![2],
            sized(b"avro.schema"),
            sized(damaged(RICH, &damage).as_bytes()),
            vec![0],
            marker.to_vec(),
            encode(&Schema::Long, Value::Long(records)),
            sized(&block),
            marker.to_vec(),
        ];
        let decoded = each_event_ends_once(&containers(), vec![event(0, None, body.concat())]);
        let policy = Policy { defaults: Defaults::Used, ..Policy::default() };
        let known = sluicebox::decode::arrow_schema_of(RICH).expect("a schema");
        let columns = TableColumns::new(known, policy);
        for rows in &decoded.batches {
            let grown = columns.grown(&ArrowSchema::empty(), [rows]).map_or_else(|| columns.schema.clone(), |(grown, _)| Arc::new(grown));
            let held = columns.with_schema(&grown).align(rows, &mut Rescued::new()).expect("aligned");
            prop_assert_eq!(held.num_rows(), rows.num_rows());
            // A table that has met it all gains nothing more.
            prop_assert!(columns.with_schema(&grown).grown(&ArrowSchema::empty(), [rows]).is_none());
        }
        prop_assert!(began.elapsed() < CASE_TAKES_AT_MOST);
    }
}
