//! What must hold of any bytes from outside: each event ends once. The property tests call this with what they make up,
//! the targets of `fuzz/` with what the fuzzer does; nothing here is from a crate for tests.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use arrow::array::AsArray;
use arrow::datatypes::{Int32Type, Int64Type};
use bytes::Bytes;
use sluicebox::batch::{Decoded, Event, EventBatch, Origin, bronze};
use sluicebox::checkpoint::{PartitionKey, SourceId};
use sluicebox::config::spec::{DecodeSpec, Format, Framing};
use sluicebox::decode::{Decoder, FolderRegistry, SchemaRegistry};

/// A nested record as a team would send it, and the schema that the other tests use.
pub const LEAD: &str = r#"{
  "type": "record", "name": "Lead", "namespace": "insurer.conversions", "fields": [
    {"name": "lead_id", "type": "string"},
    {"name": "score", "type": ["null", "double"], "default": null},
    {"name": "channel", "type": {"type": "enum", "name": "Channel", "symbols": ["WEB", "PHONE", "AGENT"]}},
    {"name": "contact", "type": {"type": "record", "name": "Contact", "fields": [
      {"name": "email", "type": "string"},
      {"name": "age", "type": ["null", "int"], "default": null}
    ]}},
    {"name": "tags", "type": {"type": "array", "items": "string"}},
    {"name": "attributes", "type": {"type": "map", "values": "long"}},
    {"name": "consented", "type": "boolean"},
    {"name": "created_at", "type": {"type": "long", "logicalType": "timestamp-millis"}}
  ]}"#;

pub const LEAD_ID: &str = "b489dc4916744e3db72dda8f9693f342";

/// A schema with most of what a schema may hold.
pub const RICH: &str = r#"{"type":"record","name":"R","fields":[
    {"name":"a","type":"int","default":1,"aliases":["b","c"]},
    {"name":"u","type":["null","int",{"type":"record","name":"P","aliases":["Q"],"fields":[{"name":"x","type":"bytes","default":"\u00ff"}]}]},
    {"name":"l","type":{"type":"array","items":"P"},"default":[{}]},
    {"name":"d","type":{"type":"bytes","logicalType":"decimal","precision":9,"scale":2},"default":"\u0001"},
    {"name":"f","type":{"type":"fixed","name":"F","size":12,"logicalType":"duration"}},
    {"name":"e","type":{"type":"enum","name":"E","symbols":["A","B"]},"default":"A"},
    {"name":"m","type":{"type":"map","values":["null","F"]},"default":{}}]}"#;

pub fn event(sequence_number: i64, schema_id: Option<&str>, body: impl Into<Bytes>) -> Event {
    Event {
        sequence_number,
        offset: (sequence_number * 100).to_string(),
        enqueued_at: 1_795_435_200_000 + sequence_number,
        body: body.into(),
        content_type: schema_id.map(|id| format!("avro/binary+{id}")),
        properties: vec![("cloudEvents_id".to_owned(), format!("event-{sequence_number}"))],
    }
}

pub fn batch(events: Vec<Event>) -> Arc<EventBatch> {
    let partition = PartitionKey::new(SourceId::new("emulator/leads"), "0");
    Arc::new(EventBatch { partition, origin: Origin::Live, events })
}

pub fn decode_now(decoder: &Decoder, batch: Arc<EventBatch>) -> Decoded {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(decoder.decode(batch)).expect("decoded")
}

/// A registry that is a folder, which names [`LEAD`] in every way.
fn registry(dir: &Path) -> Arc<dyn SchemaRegistry> {
    for file in ["lead.avsc".to_owned(), "42.avsc".to_owned(), format!("{LEAD_ID}.avsc")] {
        std::fs::write(dir.join(file), LEAD).expect("written");
    }
    Arc::new(FolderRegistry::open(dir, FolderRegistry::READ_AGAIN_AFTER).expect("a folder"))
}

fn decoder(spec: DecodeSpec, registry: Option<Arc<dyn SchemaRegistry>>) -> Decoder {
    Decoder::open(&spec, registry).expect("a decoder")
}

/// Decoders for each way to tell a schema.
pub fn framings(dir: &Path) -> Vec<Decoder> {
    use Framing::*;
    let registry = registry(dir);
    let framings = [Auto, ContentType, Preamble, Confluent, Container, SingleObject, Bare];
    let specs = framings.into_iter().flat_map(|framing| {
        let schema = Some(dir.join("lead.avsc"));
        let pinned = DecodeSpec { format: Format::Avro, schema, framing, ..DecodeSpec::default() };
        let not = DecodeSpec { schema: None, ..pinned.clone() };
        if framing == Bare { vec![pinned] } else { vec![pinned, not] }
    });
    specs.map(|spec| decoder(spec, Some(Arc::clone(&registry)))).collect()
}

/// A decoder of containers, which needs neither registry nor schema.
pub fn containers() -> Decoder {
    decoder(
        DecodeSpec { format: Format::Avro, schema: None, framing: Framing::Container, ..DecodeSpec::default() },
        None,
    )
}

/// Decoders of bodies that are a datum: of [`LEAD`], and of [`RICH`].
pub fn datums(dir: &Path) -> Vec<Decoder> {
    std::fs::write(dir.join("rich.avsc"), RICH).expect("written");
    let of = |file: &str| DecodeSpec {
        format: Format::Avro,
        schema: Some(dir.join(file)),
        framing: Framing::Bare,
        ..DecodeSpec::default()
    };
    registry(dir);
    ["lead.avsc", "rich.avsc"].map(|file| decoder(of(file), None)).into()
}

/// Decoders of CloudEvents: whose data is JSON, whatever is told; by their content type; whose data is Avro.
pub fn cloud_events(dir: &Path) -> Vec<Decoder> {
    let json = [Framing::CloudEvents, Framing::Auto, Framing::Json]
        .map(|framing| decoder(DecodeSpec { format: Format::Json, framing, ..DecodeSpec::default() }, None));
    json.into_iter().chain([decoder(DecodeSpec::default(), Some(registry(dir)))]).collect()
}

/// Decodes the events, whose numbers count from 0 on, and holds what came of them against the contract: each is one
/// reject with all that it had, or rows, whose records count from 0 on.
pub fn each_event_ends_once(decoder: &Decoder, events: Vec<Event>) -> Decoded {
    let decoded = decode_now(decoder, batch(events.clone()));
    let mut ended: BTreeMap<i64, Vec<i32>> = BTreeMap::new();
    for rows in &decoded.batches {
        let numbers = rows[bronze::SEQUENCE_NUMBER].as_primitive::<Int64Type>().values();
        let records = rows[bronze::RECORD_INDEX].as_primitive::<Int32Type>().values();
        for (number, record) in numbers.iter().zip(records) {
            ended.entry(*number).or_default().push(*record);
        }
    }
    for (number, records) in &mut ended {
        // Records of one event may have several schemas, and each schema its batch.
        records.sort_unstable();
        assert!((0..).zip(records.iter()).all(|(at, record)| at == *record), "the records of {number}: {records:?}");
    }
    for reject in &decoded.rejects {
        let number = reject.event.sequence_number;
        assert!(ended.insert(number, Vec::new()).is_none(), "event {number} is a reject, and more: {}", reject.text);
        assert!(!reject.text.is_empty(), "nothing is said of event {number}");
        assert_eq!(&reject.event, &events[number as usize], "what is kept of a reject");
    }
    assert!(ended.keys().copied().eq(0..events.len() as i64), "{} events, and these ended: {ended:?}", events.len());
    decoded
}
