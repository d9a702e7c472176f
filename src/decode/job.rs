//! Decoding a batch, once all schemas are there: plain work, no waiting.
//!
//! ```text
//! events ─▶ records, in groups of one schema ─▶ columns
//!    └─ a container is taken apart; should one of its records be wrong, all of them are taken back
//! ```

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryArray, RecordBatch};
use bytes::Bytes;

use super::avro::WriterSchema;
use super::container::{self, EmbeddedSchemas};
use super::decoder::{Schemas, raw_schema};
use super::envelope;
use super::error::DecodeError;
use super::framing::{Frame, Unframed};
use crate::batch::{Decoded, EventBatch, Reject, RejectClass};

/// Memory of what one batch of rows is made of: Arrow's offsets have 31 bits.
const BATCH_BYTES_MAX: usize = 512 << 20;

/// All that decoding a batch takes.
pub(super) struct Job {
    pub(super) pinned: Option<Arc<WriterSchema>>,
    pub(super) batch: Arc<EventBatch>,
    pub(super) frames: Vec<Result<Frame, Unframed>>,
    pub(super) schemas: Schemas,
    pub(super) embedded: Arc<EmbeddedSchemas>,
}

/// What becomes one row: the place of its event, its index in that, its bytes.
#[derive(Debug, Clone, Copy)]
struct Record<'a> {
    event: usize,
    index: i32,
    datum: &'a [u8],
}

/// Records of one frame, and so of one schema.
struct Group<'a> {
    frame: Frame,
    /// The schema that their containers brought along.
    embedded: Option<&'a Arc<WriterSchema>>,
    records: Vec<Record<'a>>,
}

/// A container's schema, and how many records lie in which bytes.
type Opened = (Arc<WriterSchema>, Vec<(usize, Bytes)>);

/// Rejects by the place of their event, of which each has one at most.
type Rejects = BTreeMap<usize, Reject>;

impl Job {
    pub(super) fn run(self) -> Result<Decoded, DecodeError> {
        let mut rejects = Rejects::new();
        let opened = self.open_containers(&mut rejects);
        let groups = self.groups(&opened, &mut rejects);
        let mut batches = Vec::with_capacity(groups.len());
        let mut schema_names = Vec::with_capacity(groups.len());
        for group in &groups {
            for records in self.portions(&group.records) {
                self.decode(group, records, &mut batches, &mut rejects)?;
            }
            schema_names.resize(batches.len(), self.schema_name(group));
        }
        Ok(Decoded { batches, schema_names, rejects: rejects.into_values().collect() })
    }

    fn schema_name(&self, group: &Group<'_>) -> Option<Arc<str>> {
        let schema = match group.frame {
            Frame::Raw => None,
            Frame::Bare => self.pinned.as_ref(),
            Frame::Container => group.embedded,
            Frame::Registered(_, id) => self.schemas.get(&id).and_then(|schema| schema.as_ref().ok()),
        };
        schema.and_then(|schema| schema.name().cloned())
    }

    fn open_containers(&self, rejects: &mut Rejects) -> HashMap<usize, Opened> {
        let mut opened = HashMap::new();
        let containers = self.frames.iter().enumerate().filter(|(_, frame)| **frame == Ok(Frame::Container));
        for (event, _) in containers {
            let frame = Frame::Container;
            match container::open(&self.batch.events[event]) {
                Ok(body) => match self.embedded.get(&body.schema) {
                    Ok(schema) => drop(opened.insert(event, (schema, body.blocks))),
                    Err(text) => self.reject(event, frame, RejectClass::SchemaUnusable, text, rejects),
                },
                Err(text) => self.reject(event, frame, RejectClass::Datum, text, rejects),
            }
        }
        opened
    }

    fn groups<'a>(&'a self, opened: &'a HashMap<usize, Opened>, rejects: &mut Rejects) -> Vec<Group<'a>> {
        let mut groups: Vec<Group<'a>> = Vec::new();
        // What `opened` holds lives as long as the groups: an address is one schema.
        let mut group_of: HashMap<(Frame, usize), usize> = HashMap::new();
        let mut last = 0;
        for (event, frame) in self.frames.iter().enumerate() {
            let frame = match frame {
                Ok(frame) => *frame,
                Err(unframed) => {
                    rejects.insert(event, self.unframed(event, unframed));
                    continue;
                }
            };
            let container = opened.get(&event);
            let embedded = container.map(|(schema, _)| schema);
            let is_last = |group: &Group<'_>| group.frame == frame && frame != Frame::Container;
            if !groups.get(last).is_some_and(is_last) {
                let key = (frame, embedded.map_or(0, |schema| Arc::as_ptr(schema).addr()));
                last = *group_of.entry(key).or_insert(groups.len());
                if last == groups.len() {
                    groups.push(Group { frame, embedded, records: Vec::new() });
                }
            }
            let records = &mut groups[last].records;
            match container {
                Some((schema, blocks)) => match schema.split(blocks) {
                    Ok(datums) => {
                        records.extend((0..).zip(datums).map(|(index, datum)| Record { event, index, datum }));
                    }
                    Err(text) => self.reject(event, frame, RejectClass::Datum, text, rejects),
                },
                // It was rejected when it was opened.
                None if frame == Frame::Container => {}
                None => {
                    let datum = &self.batch.events[event].body[frame.prefix_bytes()..];
                    records.push(Record { event, index: 0, datum });
                }
            }
        }
        groups
    }

    /// Cuts `records` so that each portion fits a batch, and no event lies in two: as a rule there is one.
    fn portions<'r, 'a>(&self, records: &'r [Record<'a>]) -> Vec<&'r [Record<'a>]> {
        let mut portions = Vec::new();
        let (mut from, mut bytes) = (0, 0_usize);
        for (at, record) in records.iter().enumerate() {
            let event = &self.batch.events[record.event];
            let more = event.memory_bytes() - event.body.len() + record.datum.len();
            let begins = at > from && records[at - 1].event != record.event;
            if bytes.saturating_add(more) > BATCH_BYTES_MAX && begins {
                portions.push(&records[from..at]);
                (from, bytes) = (at, 0);
            }
            bytes = bytes.saturating_add(more);
        }
        portions.push(&records[from..]);
        portions
    }

    fn decode(
        &self,
        group: &Group<'_>,
        records: &[Record<'_>],
        batches: &mut Vec<RecordBatch>,
        rejects: &mut Rejects,
    ) -> Result<(), DecodeError> {
        let frame = group.frame;
        let (schema, schema_id) = match frame {
            Frame::Raw => {
                batches.push(self.raw(records)?);
                return Ok(());
            }
            Frame::Bare => (self.pinned.as_ref().ok_or(DecodeError::NoSchema)?, None),
            Frame::Container => match group.embedded {
                Some(schema) => (schema, None),
                None => return Ok(()),
            },
            Frame::Registered(_, id) => match self.schemas.get(&id) {
                Some(Ok(schema)) => (schema, Some(id.to_string())),
                Some(Err((class, text))) => {
                    for record in records {
                        self.reject(record.event, frame, *class, text.clone(), rejects);
                    }
                    return Ok(());
                }
                None => return Err(DecodeError::NoSource),
            },
        };
        let mut records = Cow::Borrowed(records);
        let mut rows = schema.decode(&datums(&records))?;
        let mut refused = BTreeMap::new();
        for (datum, text) in rows.rejected {
            let Record { event, index, .. } = records[datum];
            let text = if frame == Frame::Container { format!("record {index}: {text}") } else { text };
            refused.entry(event).or_insert(text);
        }
        // A container goes as a whole: its other records have become rows, and are taken back.
        if frame == Frame::Container && !refused.is_empty() {
            records.to_mut().retain(|record| !refused.contains_key(&record.event));
            rows = schema.decode(&datums(&records))?;
        }
        for (event, text) in refused {
            self.reject(event, frame, RejectClass::Datum, text, rejects);
        }
        let schema = schema.rows();
        for set in rows.sets {
            let places: Vec<_> = set.datums.iter().map(|datum| place(&records[*datum])).collect();
            let mut columns = set.columns;
            columns.extend(envelope::columns(&self.batch, &places, schema_id.as_deref())?);
            batches.push(RecordBatch::try_new(Arc::clone(schema), columns)?);
        }
        Ok(())
    }

    fn raw(&self, records: &[Record<'_>]) -> Result<RecordBatch, DecodeError> {
        let bodies = records.iter().map(|record| record.datum);
        let mut columns: Vec<ArrayRef> = vec![Arc::new(BinaryArray::from_iter_values(bodies))];
        let places: Vec<_> = records.iter().map(place).collect();
        columns.extend(envelope::columns(&self.batch, &places, None)?);
        Ok(RecordBatch::try_new(raw_schema(), columns)?)
    }

    /// An event is rejected as a whole, whatever its body holds: under the index 0.
    fn reject(&self, event: usize, frame: Frame, class: RejectClass, text: String, rejects: &mut Rejects) {
        let schema_id = match frame {
            Frame::Registered(_, id) => Some(id.to_string()),
            Frame::Container | Frame::Bare | Frame::Raw => None,
        };
        let framing = frame.name();
        let (event_of, origin) = (self.batch.events[event].clone(), self.batch.origin.clone());
        let reject = Reject { event: event_of, origin, record_index: 0, schema_id, framing, class, text };
        rejects.insert(event, reject);
    }

    fn unframed(&self, event: usize, unframed: &Unframed) -> Reject {
        Reject {
            event: self.batch.events[event].clone(),
            origin: self.batch.origin.clone(),
            record_index: 0,
            schema_id: None,
            framing: unframed.framing,
            class: Unframed::CLASS,
            text: unframed.text.clone(),
        }
    }
}

fn datums<'a>(records: &[Record<'a>]) -> Vec<&'a [u8]> {
    records.iter().map(|record| record.datum).collect()
}

fn place(record: &Record<'_>) -> (usize, i32) {
    (record.event, record.index)
}
