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
//! A decoder is made for each set of datums: arrow-avro 59 doesn't reset the offsets of a union
//! when it flushes, so the second batch of a used decoder fails.

use arrow::array::RecordBatch;
use arrow::error::ArrowError;
use arrow_avro::reader::ReaderBuilder;
use arrow_avro::schema::{AvroSchema, Fingerprint, FingerprintAlgorithm, SchemaStore};
use serde_json::{Value, json};

use super::plan::{Form, Kind, Node};

/// Announces a datum of schema 0: the only framing of arrow-avro's that doesn't need a fingerprint
/// of the schema's text.
const PREFIX: [u8; 5] = [0; 5];

#[derive(Debug)]
pub(super) struct Engine {
    schema: AvroSchema,
}

impl Engine {
    /// # Errors
    /// When arrow-avro can't work with the schema.
    pub(super) fn try_new(root: &Node) -> Result<Self, ArrowError> {
        let schema = AvroSchema::new(Names::default().physical(root).to_string());
        let engine = Self { schema };
        engine.decoder()?;
        Ok(engine)
    }

    fn decoder(&self) -> Result<arrow_avro::reader::Decoder, ArrowError> {
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
        let mut decoder = self.decoder()?;
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
        Ok(batch)
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
