//! arrow-avro, kept to what it is right for: sound datums of physical types, to columns.
//!
//! The schema that it gets is made from the plan. Where it differs from the writer's, the bytes
//! are the same:
//!
//! | plan | physical | why |
//! |---|---|---|
//! | any logical type | the type under it | units and ranges are ours to convert |
//! | enum | `int` | no dictionaries to unpack |
//! | a field that takes no bytes | left out | arrow-avro can't hold nulls in a nested record |
//! | null or something that takes no bytes | `int` | only the branch's index is there to read |
//! | a branch of a union | a record of one field | two branches may be of one physical type |
//!
//! A decoder that has made its columns is kept for the next datums, since making one costs as much
//! as decoding a hundred events. Not so with a union in the schema: arrow-avro 59 doesn't reset a
//! union's offsets when it flushes, so the second batch of a used decoder fails. And never after an
//! error.

use std::sync::{Mutex, MutexGuard, PoisonError};

use arrow::array::RecordBatch;
use arrow::error::ArrowError;
use arrow_avro::reader::{Decoder, ReaderBuilder};
use arrow_avro::schema::{AvroSchema, Fingerprint, FingerprintAlgorithm, SchemaStore};
use serde_json::{Value, json};

use super::plan::{Form, Kind, Node};

/// Announces a datum of schema 0: the only framing of arrow-avro's that doesn't need a fingerprint
/// of the schema's text.
const PREFIX: [u8; 5] = [0; 5];

/// Decoders kept: about as many as decode at the same moment. Each holds 8 KiB for each leaf of the
/// schema, so more would cost memory for every schema that was ever met.
const IDLE_MAX: usize = 4;

#[derive(Debug)]
pub(super) struct Engine {
    schema: AvroSchema,
    reusable: bool,
    idle: Mutex<Vec<Decoder>>,
}

impl Engine {
    /// # Errors
    /// When arrow-avro can't work with the schema.
    pub(super) fn try_new(root: &Node) -> Result<Self, ArrowError> {
        let schema = AvroSchema::new(Names::default().physical(root).to_string());
        let engine = Self { schema, reusable: !has_union(root), idle: Mutex::default() };
        let first = engine.decoder()?;
        engine.keep(first);
        Ok(engine)
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Decoder>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(&self, decoder: Decoder) {
        let mut idle = self.idle();
        if self.reusable && idle.len() < IDLE_MAX {
            idle.push(decoder);
        }
    }

    fn decoder(&self) -> Result<Decoder, ArrowError> {
        let mut store = SchemaStore::new_with_type(FingerprintAlgorithm::Id);
        store.set(Fingerprint::Id(0), self.schema.clone())?;
        // Only a counter: flushing is up to us.
        ReaderBuilder::new().with_writer_schema_store(store).with_batch_size(usize::MAX).build_decoder()
    }

    /// The columns of `datums`, each of which is sound and so has a byte at least: a schema whose
    /// datums have none has no engine.
    ///
    /// # Errors
    /// When arrow-avro refuses one of them; what it had decoded till then is worth nothing.
    pub(super) fn columns(&self, datums: &[&[u8]]) -> Result<RecordBatch, ArrowError> {
        let idle = self.idle().pop();
        let mut decoder = idle.map_or_else(|| self.decoder(), Ok)?;
        let mut feed = |bytes: &[u8]| match decoder.decode(bytes) {
            Ok(consumed) if consumed == bytes.len() => Ok(()),
            Ok(consumed) => Err(ArrowError::AvroError(format!("{consumed} of {} bytes were read", bytes.len()))),
            Err(error) => Err(ArrowError::from(error)),
        };
        for datum in datums {
            feed(&PREFIX)?;
            feed(datum)?;
        }
        let batch = decoder.flush()?.ok_or_else(|| ArrowError::AvroError("no rows came of them".to_owned()))?;
        if batch.num_rows() != datums.len() {
            return Err(ArrowError::AvroError(format!("{} rows came of {}", batch.num_rows(), datums.len())));
        }
        self.keep(decoder);
        Ok(batch)
    }
}

fn has_union(node: &Node) -> bool {
    match &node.kind {
        Kind::Union(_) => true,
        Kind::Array(inner) | Kind::Map(inner) | Kind::Optional { inner, .. } => has_union(inner),
        Kind::Record(fields) => fields.iter().any(|field| has_union(&field.node)),
        _ => false,
    }
}

/// Named types get names of ours, each once.
#[derive(Default)]
struct Names(usize);

impl Names {
    fn next(&mut self) -> String {
        self.0 += 1;
        format!("t{}", self.0)
    }

    fn physical(&mut self, node: &Node) -> Value {
        match &node.kind {
            Kind::Null => json!("null"),
            Kind::Boolean => json!("boolean"),
            Kind::Int | Kind::Date | Kind::Enum(_) => json!("int"),
            Kind::Long | Kind::TimestampMillis | Kind::TimestampMicros | Kind::TimestampNanos => json!("long"),
            Kind::Float => json!("float"),
            Kind::Double => json!("double"),
            Kind::Bytes | Kind::Decimal { form: Form::Bytes, .. } | Kind::Uuid(Form::Bytes) => json!("bytes"),
            Kind::String => json!("string"),
            Kind::Fixed(size) | Kind::Decimal { form: Form::Fixed(size), .. } | Kind::Uuid(Form::Fixed(size)) => {
                self.fixed(*size)
            }
            Kind::Duration => self.fixed(12),
            Kind::Array(items) => json!({"type": "array", "items": self.physical(items)}),
            Kind::Map(values) => json!({"type": "map", "values": self.physical(values)}),
            Kind::Record(fields) => {
                let kept = fields.iter().map(|field| &field.node).filter(|node| !node.is_empty());
                let types: Vec<_> = kept.map(|node| self.physical(node)).collect();
                self.record(types)
            }
            Kind::Optional { inner, .. } if inner.is_empty() => json!("int"),
            Kind::Optional { null_first: true, inner } => json!(["null", self.physical(inner)]),
            Kind::Optional { null_first: false, inner } => json!([self.physical(inner), "null"]),
            Kind::Union(branches) => {
                let branches = branches.iter().map(|branch| match branch.node.kind {
                    Kind::Null => json!("null"),
                    _ => {
                        let inner = self.physical(&branch.node);
                        self.record(vec![inner])
                    }
                });
                Value::Array(branches.collect())
            }
        }
    }

    fn record(&mut self, types: Vec<Value>) -> Value {
        let fields = types.into_iter().enumerate();
        let fields: Vec<_> = fields.map(|(at, inner)| json!({"name": format!("f{at}"), "type": inner})).collect();
        json!({"type": "record", "name": self.next(), "fields": fields})
    }

    fn fixed(&mut self, size: usize) -> Value {
        json!({"type": "fixed", "name": self.next(), "size": size})
    }
}
