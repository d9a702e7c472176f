//! Events to rows and rejects: each event ends as exactly one of them.

mod cloud_events;
mod confluent;
pub(crate) mod container;
mod differential;
mod ends;
mod evolution;
mod folder;
mod hostile;
mod json;
mod outage;
mod registry;
mod resolution;
mod types;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use apache_avro::Schema;
use apache_avro::types::Value;
use apache_avro::writer::datum::GenericDatumWriter;
use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Date32Type, Decimal128Type, Float64Type, Int64Type, TimestampMicrosecondType};
use async_trait::async_trait;
use bytes::Bytes;
use proptest::prelude::*;
use serde_json::{Value as Json, json};
use sluicebox::batch::{Decoded, Event, EventBatch, RejectClass, bronze};
use sluicebox::config::spec::{DecodeSpec, Format, Framing};
use sluicebox::decode::{Decoder, IdKind, RegisteredSchema, RegistryError, SchemaId, SchemaRegistry};

use ends::{LEAD, LEAD_ID, batch, decode_now, each_event_ends_once, event};

const UNKNOWN_ID: &str = "00000000000000000000000000000000";

/// Holds what a test puts into it, and counts how often it is asked.
#[derive(Default)]
pub struct Shelf {
    schemas: HashMap<String, String>,
    asked: AtomicUsize,
}

impl Shelf {
    fn with(schemas: &[(&str, &str)]) -> Arc<Self> {
        let schemas = schemas.iter().map(|(id, text)| ((*id).to_owned(), (*text).to_owned())).collect();
        Arc::new(Self { schemas, asked: AtomicUsize::new(0) })
    }
}

#[async_trait]
impl SchemaRegistry for Shelf {
    fn names(&self, kind: IdKind) -> bool {
        kind == IdKind::Guid
    }

    async fn schema(&self, id: &str) -> Result<Arc<RegisteredSchema>, RegistryError> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        match self.schemas.get(id) {
            Some(text) => {
                let id = SchemaId::parse(id).expect("an id");
                Ok(Arc::new(RegisteredSchema { id, text: text.clone() }))
            }
            None => Err(RegistryError::NotFound { id: id.to_owned() }),
        }
    }
}

fn by_content_type(registry: Arc<dyn SchemaRegistry>) -> Decoder {
    let spec = DecodeSpec { format: Format::Avro, schema: None, framing: Framing::Auto, ..DecodeSpec::default() };
    Decoder::open(&spec, Some(registry)).expect("a decoder")
}

fn encode(schema: &Schema, value: Value) -> Vec<u8> {
    let writer = GenericDatumWriter::builder(schema).build().expect("a writer");
    writer.write_value_to_vec(value).expect("a datum")
}

fn lead(number: i64) -> Value {
    let optional = |value: Value| Value::Union(1, Box::new(value));
    let symbol = ["WEB", "PHONE", "AGENT"][number.unsigned_abs() as usize % 3];
    Value::Record(vec![
        ("lead_id".to_owned(), Value::String(format!("lead-{number}"))),
        ("score".to_owned(), optional(Value::Double(number as f64 / 7.0))),
        ("channel".to_owned(), Value::Enum(number.unsigned_abs() as u32 % 3, symbol.to_owned())),
        (
            "contact".to_owned(),
            Value::Record(vec![
                ("email".to_owned(), Value::String(format!("{number}@example.org"))),
                ("age".to_owned(), Value::Union(0, Box::new(Value::Null))),
            ]),
        ),
        ("tags".to_owned(), Value::Array(vec![Value::String("new".to_owned()), Value::String("ünïcode".to_owned())])),
        ("attributes".to_owned(), Value::Map(HashMap::from([("n".to_owned(), Value::Long(number))]))),
        ("consented".to_owned(), Value::Boolean(number % 2 == 0)),
        ("created_at".to_owned(), Value::TimestampMillis(1_700_000_000_000 + number)),
    ])
}

fn lead_bytes(number: i64) -> Vec<u8> {
    encode(&Schema::parse_str(LEAD).expect("a schema"), lead(number))
}

fn sequence_numbers(batch: &RecordBatch) -> Vec<i64> {
    batch[bronze::SEQUENCE_NUMBER].as_primitive::<Int64Type>().values().to_vec()
}

/// A value as JSON, so that two ways of reading can be compared: bytes in hex, floats by their bits.
fn at(array: &ArrayRef, row: usize) -> Json {
    if array.is_null(row) {
        return Json::Null;
    }
    let hex = |bytes: &[u8]| json!(bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
    match array.data_type() {
        DataType::Boolean => json!(array.as_boolean().value(row)),
        DataType::Int64 => json!(array.as_primitive::<Int64Type>().value(row)),
        DataType::Float64 => json!(format!("{:016x}", array.as_primitive::<Float64Type>().value(row).to_bits())),
        DataType::Utf8 => json!(array.as_string::<i32>().value(row)),
        DataType::Binary => hex(array.as_binary::<i32>().value(row)),
        DataType::Date32 => json!(array.as_primitive::<Date32Type>().value(row)),
        DataType::Timestamp(..) => json!(array.as_primitive::<TimestampMicrosecondType>().value(row)),
        DataType::Decimal128(..) => json!(array.as_primitive::<Decimal128Type>().value(row).to_string()),
        DataType::List(_) => {
            let items = array.as_list::<i32>().value(row);
            (0..items.len()).map(|item| at(&items, item)).collect()
        }
        DataType::Map(..) => {
            let entries = array.as_map().value(row);
            let keys = entries.column(0).as_string::<i32>();
            let pairs = (0..entries.len()).map(|entry| (keys.value(entry).to_owned(), at(entries.column(1), entry)));
            Json::Object(pairs.collect())
        }
        DataType::Struct(fields) => {
            let columns = array.as_struct().columns();
            Json::Object(
                fields.iter().zip(columns).map(|(field, column)| (field.name().clone(), at(column, row))).collect(),
            )
        }
        other => panic!("a bronze table holds no {other}"),
    }
}

fn payload(batch: &RecordBatch, row: usize) -> Json {
    let schema = batch.schema();
    let width = schema.fields().len() - bronze::fields().len();
    let columns = schema.fields().iter().zip(batch.columns()).take(width);
    Json::Object(columns.map(|(field, column)| (field.name().clone(), at(column, row))).collect())
}

#[test]
fn a_lead_becomes_a_row_of_the_declared_schema() {
    let decoder = by_content_type(Shelf::with(&[(LEAD_ID, LEAD)]));
    let decoded = decode_now(&decoder, batch(vec![event(5, Some(LEAD_ID), lead_bytes(5))]));
    assert_eq!(decoded.rejects, []);
    let [rows] = decoded.batches.as_slice() else { panic!("one batch") };
    assert_eq!(rows.schema(), sluicebox::decode::arrow_schema_of(LEAD).expect("a schema"));
    assert_eq!(
        payload(rows, 0),
        json!({
            "lead_id": "lead-5", "score": format!("{:016x}", (5.0_f64 / 7.0).to_bits()), "channel": "AGENT",
            "contact": {"email": "5@example.org", "age": null}, "tags": ["new", "ünïcode"],
            "attributes": {"n": 5}, "consented": false, "created_at": 1_700_000_000_005_000_i64,
        })
    );
    assert_eq!(rows[bronze::SCHEMA_ID].as_string::<i32>().value(0), LEAD_ID);
    assert_eq!(rows[bronze::EVENT_ID].as_string::<i32>().value(0), "event-5");
    assert_eq!(rows[bronze::ORIGIN].as_string::<i32>().value(0), "live");
    assert!(rows[bronze::RESCUED].is_null(0));
}

#[test]
fn each_writer_schema_gets_a_batch_in_the_order_of_meeting() {
    const OTHER_ID: &str = "11111111111111111111111111111111";
    let other = r#"{"type":"record","name":"Other","fields":[{"name":"n","type":"long"}]}"#;
    let shelf = Shelf::with(&[(LEAD_ID, LEAD), (OTHER_ID, other)]);
    let decoder = by_content_type(shelf.clone());
    let events = (0..10)
        .map(|n| if n % 2 == 0 { event(n, Some(OTHER_ID), vec![2]) } else { event(n, Some(LEAD_ID), lead_bytes(n)) })
        .collect();
    let events = batch(events);
    let decoded = decode_now(&decoder, events.clone());
    assert_eq!(decoded.batches.iter().map(sequence_numbers).collect::<Vec<_>>(), [[0, 2, 4, 6, 8], [1, 3, 5, 7, 9]]);
    decode_now(&decoder, events);
    assert_eq!(shelf.asked.load(Ordering::Relaxed), 2, "each schema is asked for once");
}

#[test]
fn a_schema_that_no_table_can_hold_rejects_its_events_by_name() {
    let recursive = r#"{"type":"record","name":"Node","fields":[
        {"name":"v","type":"int"}, {"name":"next","type":["null","Node"]}]}"#;
    let decoder = by_content_type(Shelf::with(&[(LEAD_ID, recursive)]));
    let decoded = decode_now(&decoder, batch(vec![event(0, Some(LEAD_ID), vec![2, 0])]));
    assert!(decoded.batches.is_empty());
    assert_eq!(decoded.rejects[0].class, RejectClass::SchemaUnusable);
    assert_eq!(decoded.rejects[0].text, "the field `next` is of the recursive type `Node`, which no table can hold");
}

#[test]
fn bare_datums_need_no_registry() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("lead.avsc");
    std::fs::write(&path, LEAD).expect("written");
    for framing in [Framing::Auto, Framing::Bare] {
        let spec = DecodeSpec { format: Format::Avro, schema: Some(path.clone()), framing, ..DecodeSpec::default() };
        let decoder = Decoder::open(&spec, None).expect("a decoder");
        let decoded = decode_now(&decoder, batch(vec![event(0, None, lead_bytes(0)), event(1, None, vec![])]));
        assert_eq!(sequence_numbers(&decoded.batches[0]), [0]);
        assert!(decoded.batches[0][bronze::SCHEMA_ID].is_null(0));
        assert_eq!((decoded.rejects[0].framing, decoded.rejects[0].class), ("bare", RejectClass::Datum));
        assert_eq!(decoded.rejects[0].text, "the body is empty, at byte 0");
        assert_eq!(decoder.declared_schema(), Some(decoded.batches[0].schema()));
    }
}

#[test]
fn a_raw_body_stays_as_it_is() {
    let spec = DecodeSpec { format: Format::Raw, schema: None, framing: Framing::Auto, ..DecodeSpec::default() };
    let decoder = Decoder::open(&spec, None).expect("a decoder");
    let decoded = decode_now(&decoder, batch(vec![event(0, None, vec![0, 0xFF]), event(1, Some(UNKNOWN_ID), vec![])]));
    assert_eq!(decoded.rejects, []);
    let rows = &decoded.batches[0];
    assert_eq!(rows["body"].as_binary::<i32>().iter().collect::<Vec<_>>(), [Some(&[0, 0xFF][..]), Some(&[][..])]);
    assert_eq!(decoder.declared_schema(), Some(rows.schema()));
}

#[test]
fn what_the_framing_needs_must_be_declared() {
    let open = |framing, registry| {
        let spec = DecodeSpec { format: Format::Avro, schema: None, framing, ..DecodeSpec::default() };
        Decoder::open(&spec, registry).map(drop).map_err(|error| error.to_string())
    };
    let shelf = || Some(Shelf::with(&[]) as Arc<dyn SchemaRegistry>);
    assert_eq!(open(Framing::Auto, shelf()), Ok(()));
    assert!(open(Framing::Auto, None).is_err_and(|text| text.contains("neither")));
    assert!(open(Framing::ContentType, None).is_err_and(|text| text.contains("registry")));
    assert!(open(Framing::Bare, shelf()).is_err_and(|text| text.contains("pinned schema")));
}

/// One way of being no row.
#[derive(Debug, Clone, Copy)]
enum Bad {
    CorruptByte,
    Empty,
    Truncated,
    TrailingBytes,
    UnknownId,
    NoContentType,
    NoId,
}

impl Bad {
    fn event(self, number: i64, cut: usize) -> (Event, RejectClass) {
        let good = lead_bytes(number);
        let mut corrupt = good.clone();
        corrupt[0] = 1;
        let truncated = good[..1 + cut % (good.len() - 1)].to_vec();
        let trailing: Vec<_> = good.iter().copied().chain(std::iter::repeat_n(0, 1 + cut % 9)).collect();
        let id = Some(LEAD_ID);
        match self {
            Self::CorruptByte => (event(number, id, corrupt), RejectClass::Datum),
            Self::Empty => (event(number, id, vec![]), RejectClass::Datum),
            Self::Truncated => (event(number, id, truncated), RejectClass::Datum),
            Self::TrailingBytes => (event(number, id, trailing), RejectClass::Datum),
            Self::UnknownId => (event(number, Some(UNKNOWN_ID), good), RejectClass::SchemaNotFound),
            Self::NoContentType => (event(number, None, good), RejectClass::Framing),
            Self::NoId => (event(number, Some("lead"), good), RejectClass::Framing),
        }
    }
}

fn bad() -> impl Strategy<Value = Bad> {
    use Bad::*;
    prop::sample::select(vec![CorruptByte, Empty, Truncated, TrailingBytes, UnknownId, NoContentType, NoId])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn one_bad_event_at_any_place_costs_one_row(good in 0_usize..400, place in any::<prop::sample::Index>(), bad in bad(), cut in any::<usize>()) {
        let decoder = by_content_type(Shelf::with(&[(LEAD_ID, LEAD)]));
        let place = place.index(good + 1) as i64;
        let (poison, class) = bad.event(place, cut);
        let events: Vec<_> = (0..=good as i64)
            .map(|n| if n == place { poison.clone() } else { event(n, Some(LEAD_ID), lead_bytes(n)) })
            .collect();
        let decoded = decode_now(&decoder, batch(events));
        let numbers: Vec<_> = decoded.batches.iter().flat_map(sequence_numbers).collect();
        prop_assert_eq!(numbers, (0..=good as i64).filter(|n| *n != place).collect::<Vec<_>>());
        for rows in &decoded.batches {
            for (row, number) in sequence_numbers(rows).into_iter().enumerate() {
                prop_assert_eq!(at(&rows["lead_id"], row), json!(format!("lead-{number}")));
                prop_assert_eq!(at(&rows["attributes"], row), json!({"n": number}));
            }
        }
        prop_assert_eq!(decoded.rejects.len(), 1);
        prop_assert_eq!(&decoded.rejects[0].event, &poison);
        prop_assert_eq!(decoded.rejects[0].class, class);
        prop_assert!(!decoded.rejects[0].text.is_empty());
    }

    #[test]
    fn any_bytes_end_as_a_row_or_as_a_reject(bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..120), 1..20)) {
        let decoder = by_content_type(Shelf::with(&[(LEAD_ID, LEAD)]));
        each_event_ends_once(&decoder, bodies.iter().zip(0..).map(|(body, n)| event(n, Some(LEAD_ID), body.clone())).collect());
        let dir = tempfile::tempdir().expect("a folder");
        for decoder in ends::datums(dir.path()) {
            each_event_ends_once(&decoder, bodies.iter().zip(0..).map(|(body, n)| event(n, None, body.clone())).collect());
        }
    }
}
