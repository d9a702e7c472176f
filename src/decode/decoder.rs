use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::datatypes::{DataType, Field, SchemaRef};
use futures::StreamExt as _;
use futures::stream;

use super::avro::{WriterSchema, fingerprints};
use super::body::{self, Body};
use super::container::EmbeddedSchemas;
use super::error::DecodeError;
use super::framing::{Frame, Known, Unframed};
use super::job::Job;
use super::registry::{IdKind, RegistryError, SchemaId, SchemaRegistry};
use crate::batch::{Decoded, EventBatch, RejectClass, bronze};
use crate::compute;
use crate::config::spec::{Attribute, DecodeSpec, Format, Framing};
use crate::error::{Classify as _, Kind};
use crate::telemetry::metrics;

/// Bodies above which decoding leaves the reactor. At some 500 MB/s this is a tenth of a
/// millisecond; larger would hold up other tasks, smaller pays a thread's wake-up for nothing.
const INLINE_BYTES_MAX: usize = 64 << 10;

/// Events above which decoding leaves the reactor, whatever their size.
const INLINE_EVENTS_MAX: usize = 200;

/// Unknown ids asked for at the same time: more would run into the registry's own limits.
const LOOKUPS_MAX: usize = 8;

/// Makes rows of events. Shared by all partitions of a pipeline.
pub struct Decoder {
    known: Known,
    /// Attributes of CloudEvents without which an event is rejected.
    required: Arc<[Attribute]>,
    /// Under which name faults of attributes are counted.
    pipeline: Option<String>,
    pinned: Option<Arc<WriterSchema>>,
    registry: Option<Arc<dyn SchemaRegistry>>,
    /// Ids are immutable, so what was understood once stays. As many as the registry has.
    schemas: Mutex<HashMap<SchemaId, Prepared>>,
    /// Schemas that containers brought along.
    embedded: Arc<EmbeddedSchemas>,
}

/// A schema, or why it can't be used.
pub(super) type Prepared = Result<Arc<WriterSchema>, String>;

/// What is known of the ids that a batch names.
pub(super) type Schemas = HashMap<SchemaId, Result<Arc<WriterSchema>, (RejectClass, String)>>;

impl std::fmt::Debug for Decoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Decoder").field("known", &self.known).finish_non_exhaustive()
    }
}

impl Decoder {
    /// Reads the pinned schema; no network.
    ///
    /// # Errors
    /// When the pinned schema can't be read or used, or when the framing asks for what isn't there.
    pub fn open(spec: &DecodeSpec, registry: Option<Arc<dyn SchemaRegistry>>) -> Result<Self, DecodeError> {
        let pinned = match (&spec.schema, spec.format) {
            (Some(path), Format::Avro | Format::Json) => {
                let avsc = std::fs::read_to_string(path)
                    .map_err(|source| DecodeError::SchemaFile { path: path.clone(), source })?;
                let schema = WriterSchema::parse(&avsc)
                    .map_err(|reason| DecodeError::PinnedSchema { path: path.clone(), reason })?;
                note(&schema, &path.display());
                let ids = fingerprints(&avsc)
                    .map_err(|reason| DecodeError::PinnedSchema { path: path.clone(), reason })?
                    .map(SchemaId::Fingerprint);
                Some((ids, Arc::new(schema)))
            }
            _ => None,
        };
        let names = |kind| registry.as_ref().is_some_and(|registry| registry.names(kind));
        let known = Known {
            format: spec.format,
            framing: spec.framing,
            pinned: pinned.as_ref().map(|(ids, _)| *ids),
            guids: names(IdKind::Guid),
            numbers: names(IdKind::Number),
            fingerprints: names(IdKind::Fingerprint),
        };
        check(known, registry.is_some())?;
        // Single-object encoding may name the pinned schema too.
        let schemas = pinned.iter().flat_map(|(ids, schema)| ids.map(|id| (id, Ok(Arc::clone(schema))))).collect();
        let pinned = pinned.map(|(_, schema)| schema);
        Ok(Self {
            known,
            required: spec.require.clone().into(),
            pipeline: None,
            pinned,
            registry,
            schemas: Mutex::new(schemas),
            embedded: Arc::default(),
        })
    }

    /// Counts faults of attributes under the name of a pipeline.
    #[must_use]
    pub fn counting_for(self, pipeline: &str) -> Self {
        Self { pipeline: Some(pipeline.to_owned()), ..self }
    }

    /// The schema of the rows, as far as it is known before any event: of a pinned schema, or `raw`.
    pub fn declared_schema(&self) -> Option<SchemaRef> {
        match self.known.format {
            Format::Raw => Some(raw_schema()),
            Format::Json if self.pinned.is_none() => Some(text_schema()),
            Format::Avro | Format::Json => self.pinned.as_ref().map(|schema| Arc::clone(schema.rows())),
        }
    }

    /// Each event ends as a row or as a reject, rejects ascending by sequence number. One batch of
    /// rows for each writer schema that was met, in the order in which they were met, rows
    /// ascending by sequence number (more than one batch only for more than half a gigabyte).
    ///
    /// Large batches are decoded off the reactor.
    ///
    /// # Errors
    /// Only for what isn't an event's fault: a registry that can't be asked (it may pass, ask again
    /// with the same batch), or a defect of ours.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing but the work.
    pub async fn decode(&self, batch: Arc<EventBatch>) -> Result<Decoded, DecodeError> {
        let bytes: usize = batch.events.iter().map(|event| event.body.len()).sum();
        let is_small = bytes <= INLINE_BYTES_MAX && batch.events.len() <= INLINE_EVENTS_MAX;
        let bodies = self.open_bodies(&batch, is_small).await?;
        let schemas = self.schemas_of(&bodies).await?;
        // A container may hold much more than its bytes.
        let has_containers = bodies.contains(&Ok(Body::Whole(Frame::Container)));
        let embedded = Arc::clone(&self.embedded);
        let job = Job { pinned: self.pinned.clone(), batch, bodies, schemas, embedded };
        let (decoded, faults) = if is_small && !has_containers {
            job.run()?
        } else {
            compute::spawn(move || job.run()).await.map_err(DecodeError::Worker)??
        };
        for ((attribute, fault), events) in faults {
            if let Some(pipeline) = &self.pipeline {
                metrics::attribute_faults(pipeline, attribute.as_str(), fault.as_str(), events);
            }
        }
        Ok(decoded)
    }

    /// Structured events are read here, since their data may name a schema.
    async fn open_bodies(
        &self,
        batch: &Arc<EventBatch>,
        is_small: bool,
    ) -> Result<Vec<Result<Body, Unframed>>, DecodeError> {
        let (known, required, held) = (self.known, Arc::clone(&self.required), Arc::clone(batch));
        let open = move || held.events.iter().map(|event| body::open(event, known, &required)).collect();
        if is_small || !body::takes_long(batch, self.known) {
            return Ok(open());
        }
        compute::spawn(open).await.map_err(DecodeError::Worker)
    }

    async fn schemas_of(&self, bodies: &[Result<Body, Unframed>]) -> Result<Schemas, DecodeError> {
        let mut ids: Vec<SchemaId> = Vec::new();
        for frame in bodies.iter().flatten().flat_map(Body::frames) {
            // Most events name the same schema as the one before.
            if let Frame::Registered(_, id) = frame
                && ids.last() != Some(&id)
            {
                ids.push(id);
            }
        }
        ids.sort_unstable();
        ids.dedup();
        let mut found = Schemas::new();
        {
            let schemas = self.schemas.lock().unwrap_or_else(PoisonError::into_inner);
            found.extend(ids.iter().filter_map(|id| Some((*id, usable(schemas.get(id)?)))));
        }
        let unknown: Vec<_> = ids.into_iter().filter(|id| !found.contains_key(id)).collect();
        let mut lookups = stream::iter(unknown).map(|id| self.look_up(id)).buffer_unordered(LOOKUPS_MAX);
        while let Some(looked_up) = lookups.next().await {
            let (id, schema) = looked_up?;
            found.insert(id, schema);
        }
        Ok(found)
    }

    async fn look_up(
        &self,
        id: SchemaId,
    ) -> Result<(SchemaId, Result<Arc<WriterSchema>, (RejectClass, String)>), DecodeError> {
        let Some(registry) = self.registry.as_ref().filter(|registry| registry.names(id.kind())) else {
            let text = format!("there is no folder of schemas that could have the fingerprint `{id}`");
            return Ok((id, Err((RejectClass::SchemaNotFound, text))));
        };
        let registered = match registry.schema(&id.to_string()).await {
            Ok(registered) => registered,
            Err(error) if error.kind() == Kind::Data => {
                let class = match error {
                    RegistryError::Unusable { .. } => RejectClass::SchemaUnusable,
                    _ => RejectClass::SchemaNotFound,
                };
                return Ok((id, Err((class, error.to_string()))));
            }
            Err(source) => return Err(DecodeError::Registry { id: id.to_string(), source }),
        };
        let prepared = WriterSchema::parse(&registered.text).map(Arc::new);
        match &prepared {
            Ok(schema) => note(schema, &id),
            Err(reason) => tracing::warn!(schema_id = %id, %reason, "a registered schema can't be used"),
        }
        let schema = usable(&prepared);
        self.schemas.lock().unwrap_or_else(PoisonError::into_inner).insert(id, prepared);
        Ok((id, schema))
    }
}

/// Whether what the framing needs is there.
fn check(known: Known, has_registry: bool) -> Result<(), DecodeError> {
    let no_registry = |framing| Err(DecodeError::NoRegistry { framing });
    match (known.format, known.framing) {
        (Format::Raw | Format::Json, _) => Ok(()),
        (Format::Avro, Framing::Auto | Framing::CloudEvents) if !has_registry && known.pinned.is_none() => {
            Err(DecodeError::NoSource)
        }
        (Format::Avro, Framing::Bare | Framing::Json) if known.pinned.is_none() => Err(DecodeError::NoSchema),
        (Format::Avro, Framing::ContentType) if !known.guids => no_registry("content-type"),
        (Format::Avro, Framing::Preamble) if !known.guids => no_registry("preamble"),
        (Format::Avro, Framing::Confluent) if !known.numbers => no_registry("confluent"),
        (Format::Avro, Framing::SingleObject) if !known.fingerprints && known.pinned.is_none() => {
            no_registry("single-object")
        }
        (Format::Avro, _) => Ok(()),
    }
}

fn usable(prepared: &Prepared) -> Result<Arc<WriterSchema>, (RejectClass, String)> {
    prepared.clone().map_err(|reason| (RejectClass::SchemaUnusable, reason))
}

pub(super) fn note(schema: &WriterSchema, name: &dyn std::fmt::Display) {
    for note in schema.notes() {
        tracing::info!(schema = %name, "{note}");
    }
}

/// The Arrow schema of the rows of a writer schema: the payload's columns, then the bronze columns.
///
/// # Errors
/// Names what in the schema can't be used.
pub fn arrow_schema_of(avsc: &str) -> Result<SchemaRef, DecodeError> {
    let schema = WriterSchema::parse(avsc).map_err(|reason| DecodeError::Schema { reason })?;
    Ok(Arc::clone(schema.rows()))
}

/// What a user should know of a schema's columns: those that are called otherwise than their
/// fields, and fields without one. A sentence each, without full stop.
///
/// # Errors
/// Names what in the schema can't be used.
pub fn schema_notes(avsc: &str) -> Result<Vec<String>, DecodeError> {
    let schema = WriterSchema::parse(avsc).map_err(|reason| DecodeError::Schema { reason })?;
    Ok(schema.notes().to_vec())
}

/// The schema of rows whose body stays bytes.
pub fn raw_schema() -> SchemaRef {
    bronze::with_envelope([Arc::new(Field::new("body", DataType::Binary, true))])
}

/// The schema of rows whose body is JSON that nothing is known of.
pub fn text_schema() -> SchemaRef {
    bronze::with_envelope([Arc::new(Field::new("body", DataType::Utf8, true))])
}
