use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::{ArrayRef, BinaryArray, RecordBatch};
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use futures::StreamExt as _;
use futures::stream;

use super::avro::{WriterSchema, fingerprint};
use super::envelope;
use super::error::DecodeError;
use super::framing::{Frame, Known, Unframed, tell};
use super::registry::{IdKind, RegistryError, SchemaId, SchemaRegistry};
use crate::batch::{Decoded, Event, EventBatch, Reject, RejectClass, bronze};
use crate::compute;
use crate::config::spec::{DecodeSpec, Format, Framing};
use crate::error::{Classify as _, Kind};

/// Bodies above which decoding leaves the reactor. At some 500 MB/s this is a tenth of a
/// millisecond; larger would hold up other tasks, smaller pays a thread's wake-up for nothing.
const INLINE_BYTES_MAX: usize = 64 << 10;

/// Events above which decoding leaves the reactor, whatever their size.
const INLINE_EVENTS_MAX: usize = 200;

/// Memory of the events that one batch of rows is made of: Arrow's offsets have 31 bits.
const BATCH_BYTES_MAX: usize = 512 << 20;

/// Unknown ids asked for at the same time: more would run into the registry's own limits.
const LOOKUPS_MAX: usize = 8;

/// Makes rows of events. Shared by all partitions of a pipeline.
pub struct Decoder {
    known: Known,
    pinned: Option<Arc<WriterSchema>>,
    registry: Option<Arc<dyn SchemaRegistry>>,
    /// Ids are immutable, so what was understood once stays. As many as the registry has.
    schemas: Mutex<HashMap<SchemaId, Prepared>>,
}

/// A registered schema, or why it can't be used.
type Prepared = Result<Arc<WriterSchema>, String>;

/// What is known of the ids that a batch names.
type Schemas = HashMap<SchemaId, Result<Arc<WriterSchema>, (RejectClass, String)>>;

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
            (Some(path), Format::Avro) => {
                let avsc = std::fs::read_to_string(path)
                    .map_err(|source| DecodeError::SchemaFile { path: path.clone(), source })?;
                let schema = WriterSchema::parse(&avsc)
                    .map_err(|reason| DecodeError::PinnedSchema { path: path.clone(), reason })?;
                note(&schema, &path.display());
                let fingerprint =
                    fingerprint(&avsc).map_err(|reason| DecodeError::PinnedSchema { path: path.clone(), reason })?;
                Some((SchemaId::Fingerprint(fingerprint), Arc::new(schema)))
            }
            _ => None,
        };
        let names = |kind| registry.as_ref().is_some_and(|registry| registry.names(kind));
        let known = Known {
            format: spec.format,
            framing: spec.framing,
            pinned: pinned.as_ref().map(|(id, _)| *id),
            guids: names(IdKind::Guid),
            numbers: names(IdKind::Number),
            fingerprints: names(IdKind::Fingerprint),
        };
        check(known, registry.is_some())?;
        // Single-object encoding may name the pinned schema too.
        let schemas = pinned.iter().map(|(id, schema)| (*id, Ok(Arc::clone(schema)))).collect();
        let pinned = pinned.map(|(_, schema)| schema);
        Ok(Self { known, pinned, registry, schemas: Mutex::new(schemas) })
    }

    /// The schema of the rows, as far as it is known before any event: of a pinned schema, or `raw`.
    pub fn declared_schema(&self) -> Option<SchemaRef> {
        match self.known.format {
            Format::Raw => Some(raw_schema()),
            Format::Avro => self.pinned.as_ref().map(|schema| with_bronze(schema.columns().iter().cloned())),
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
        let frames: Vec<_> = batch.events.iter().map(|event| tell(event, self.known)).collect();
        let schemas = self.schemas_of(&frames).await?;
        let job = Job { pinned: self.pinned.clone(), batch, frames, schemas };
        let bytes: usize = job.batch.events.iter().map(|event| event.body.len()).sum();
        if bytes <= INLINE_BYTES_MAX && job.batch.events.len() <= INLINE_EVENTS_MAX {
            return job.run();
        }
        compute::spawn(move || job.run()).await.map_err(DecodeError::Worker)?
    }

    async fn schemas_of(&self, frames: &[Result<Frame, Unframed>]) -> Result<Schemas, DecodeError> {
        let mut ids: Vec<SchemaId> = Vec::new();
        for frame in frames {
            // Most events name the same schema as the one before.
            if let Ok(Frame::Registered(_, id)) = frame
                && ids.last() != Some(id)
            {
                ids.push(*id);
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
        (Format::Raw, _) => Ok(()),
        (Format::Avro, Framing::Auto) if !has_registry && known.pinned.is_none() => Err(DecodeError::NoSource),
        (Format::Avro, Framing::Bare) if known.pinned.is_none() => Err(DecodeError::NoSchema),
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

fn note(schema: &WriterSchema, name: &dyn std::fmt::Display) {
    for note in schema.notes() {
        tracing::info!(schema = %name, "{note}");
    }
}

/// All that decoding a batch takes: plain work, no waiting.
struct Job {
    pinned: Option<Arc<WriterSchema>>,
    batch: Arc<EventBatch>,
    frames: Vec<Result<Frame, Unframed>>,
    schemas: Schemas,
}

impl Job {
    fn run(self) -> Result<Decoded, DecodeError> {
        let mut rejects = Vec::new();
        let mut groups: Vec<(Frame, Vec<usize>)> = Vec::new();
        let mut group_of: HashMap<Frame, usize> = HashMap::new();
        let mut last = 0;
        for (index, frame) in self.frames.iter().enumerate() {
            match frame {
                Ok(frame) => {
                    if groups.get(last).is_none_or(|(of_last, _)| of_last != frame) {
                        last = *group_of.entry(*frame).or_insert(groups.len());
                        if last == groups.len() {
                            groups.push((*frame, Vec::new()));
                        }
                    }
                    groups[last].1.push(index);
                }
                Err(unframed) => rejects.push((index, self.unframed(index, unframed))),
            }
        }
        let mut batches = Vec::with_capacity(groups.len());
        for (frame, indices) in &groups {
            for indices in self.portions(indices) {
                self.group(*frame, indices, &mut batches, &mut rejects)?;
            }
        }
        rejects.sort_unstable_by_key(|(index, _)| *index);
        Ok(Decoded { batches, rejects: rejects.into_iter().map(|(_, reject)| reject).collect() })
    }

    /// Cuts `indices` so that each portion fits a batch: as a rule there is one.
    fn portions<'a>(&self, indices: &'a [usize]) -> Vec<&'a [usize]> {
        let mut portions = Vec::new();
        let (mut from, mut bytes) = (0, 0_usize);
        for (at, index) in indices.iter().enumerate() {
            let more = self.batch.events[*index].memory_bytes();
            if bytes.saturating_add(more) > BATCH_BYTES_MAX && at > from {
                portions.push(&indices[from..at]);
                (from, bytes) = (at, 0);
            }
            bytes = bytes.saturating_add(more);
        }
        portions.push(&indices[from..]);
        portions
    }

    /// Events of one frame, and so of one schema.
    fn group(
        &self,
        frame: Frame,
        indices: &[usize],
        batches: &mut Vec<RecordBatch>,
        rejects: &mut Vec<(usize, Reject)>,
    ) -> Result<(), DecodeError> {
        let (schema, schema_id) = match frame {
            Frame::Raw => {
                batches.push(self.raw(indices)?);
                return Ok(());
            }
            Frame::Bare => (self.pinned.as_ref().ok_or(DecodeError::NoSchema)?, None),
            Frame::Registered(_, id) => match self.schemas.get(&id) {
                Some(Ok(schema)) => (schema, Some(id.to_string())),
                Some(Err((class, text))) => {
                    let all = indices.iter().map(|index| (*index, self.reject(*index, frame, *class, text.clone())));
                    rejects.extend(all);
                    return Ok(());
                }
                None => return Err(DecodeError::NoSource),
            },
        };
        let prefix = frame.prefix_bytes();
        let datums: Vec<&[u8]> = indices.iter().map(|index| &self.batch.events[*index].body[prefix..]).collect();
        let rows = schema.decode(&datums)?;
        let refused = rows.rejected.into_iter().map(|(datum, text)| (indices[datum], text));
        rejects.extend(refused.map(|(index, text)| (index, self.reject(index, frame, RejectClass::Datum, text))));
        let schema = with_bronze(schema.columns().iter().cloned());
        for set in rows.sets {
            let events: Vec<_> = set.datums.iter().map(|datum| indices[*datum]).collect();
            let mut columns = set.columns;
            columns.extend(envelope::columns(&self.batch, &events, schema_id.as_deref())?);
            batches.push(RecordBatch::try_new(schema.clone(), columns)?);
        }
        Ok(())
    }

    fn raw(&self, indices: &[usize]) -> Result<RecordBatch, DecodeError> {
        let bodies = indices.iter().map(|index| &*self.batch.events[*index].body);
        let mut columns: Vec<ArrayRef> = vec![Arc::new(BinaryArray::from_iter_values(bodies))];
        columns.extend(envelope::columns(&self.batch, indices, None)?);
        Ok(RecordBatch::try_new(raw_schema(), columns)?)
    }

    fn event(&self, index: usize) -> Event {
        self.batch.events[index].clone()
    }

    fn reject(&self, index: usize, frame: Frame, class: RejectClass, text: String) -> Reject {
        let schema_id = match frame {
            Frame::Registered(_, id) => Some(id.to_string()),
            Frame::Bare | Frame::Raw => None,
        };
        Reject { event: self.event(index), record_index: 0, schema_id, framing: frame.name(), class, text }
    }

    fn unframed(&self, index: usize, unframed: &Unframed) -> Reject {
        Reject {
            event: self.event(index),
            record_index: 0,
            schema_id: None,
            framing: unframed.framing,
            class: Unframed::CLASS,
            text: unframed.text.clone(),
        }
    }
}

/// The Arrow schema of the rows of a writer schema: the payload's columns, then the bronze columns.
///
/// # Errors
/// Names what in the schema can't be used.
pub fn arrow_schema_of(avsc: &str) -> Result<SchemaRef, DecodeError> {
    let schema = WriterSchema::parse(avsc).map_err(|reason| DecodeError::Schema { reason })?;
    Ok(with_bronze(schema.columns().iter().cloned()))
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
    with_bronze([Arc::new(Field::new("body", DataType::Binary, true))])
}

fn with_bronze(payload: impl IntoIterator<Item = FieldRef>) -> SchemaRef {
    Arc::new(Schema::new(payload.into_iter().chain(bronze::fields().iter().cloned()).collect::<Vec<_>>()))
}
