//! Decoding a batch, once all schemas are there: plain work, no waiting.
//!
//! ```text
//! events ─▶ records, in groups of one schema ─▶ columns
//!    └─ an event of several records is taken apart; should one of them be wrong, all of them are taken back
//! ```

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryArray, RecordBatch, StringArray};
use bytes::Bytes;

use super::avro::WriterSchema;
use super::body::{Body, CLOUD_EVENTS};
use super::cloud_events::{CloudEvent, Faults};
use super::container::{self, EmbeddedSchemas};
use super::decoder::{Schemas, raw_schema, text_schema};
use super::envelope::{self, Row};
use super::error::DecodeError;
use super::framing::{Frame, Unframed};
use super::json;
use crate::batch::{Decoded, EventBatch, Reject, RejectClass};

/// Memory of what one batch of rows is made of: Arrow's offsets have 31 bits.
const BATCH_BYTES_MAX: usize = 512 << 20;

/// All that decoding a batch takes.
pub(super) struct Job {
    pub(super) pinned: Option<Arc<WriterSchema>>,
    pub(super) batch: Arc<EventBatch>,
    pub(super) bodies: Vec<Result<Body, Unframed>>,
    pub(super) schemas: Schemas,
    pub(super) embedded: Arc<EmbeddedSchemas>,
}

/// What becomes one row: the place of its event, its index in that, its bytes.
#[derive(Debug, Clone, Copy)]
struct Record<'a> {
    event: usize,
    index: i32,
    datum: &'a [u8],
    /// The CloudEvent of the structured mode that held it.
    enclosing: Option<&'a CloudEvent>,
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

/// What decoding gives, in the making.
#[derive(Default)]
struct Outcome {
    batches: Vec<RecordBatch>,
    /// Of each batch.
    schema_names: Vec<Option<Arc<str>>>,
    rejects: Rejects,
    faults: Faults,
}

/// A datum, and what was left of the JSON that it was made of.
type FromJson = (Vec<u8>, Option<String>);

impl Job {
    pub(super) fn run(self) -> Result<(Decoded, Faults), DecodeError> {
        let mut out = Outcome::default();
        let opened = self.open_containers(&mut out.rejects);
        let mut groups = self.groups(&opened, &mut out.rejects);
        let with_several = with_several(&groups);
        loop {
            let rejected_before: HashSet<_> = out.rejects.keys().copied().collect();
            for group in &mut groups {
                group.records.retain(|record| !out.rejects.contains_key(&record.event));
                for records in self.portions(&group.records) {
                    self.decode(group, records, &mut out)?;
                }
                out.schema_names.resize(out.batches.len(), self.schema_name(group));
            }
            // An event goes as a whole: its other records have become rows, and are taken back.
            let may_have_rows = |event: &usize| with_several.contains(event) && !rejected_before.contains(event);
            if !out.rejects.keys().any(may_have_rows) {
                break;
            }
            (out.batches, out.schema_names, out.faults) = Default::default();
        }
        let Outcome { batches, schema_names, rejects, faults } = out;
        Ok((Decoded { batches, schema_names, rejects: rejects.into_values().collect() }, faults))
    }

    fn schema_name(&self, group: &Group<'_>) -> Option<Arc<str>> {
        let schema = match group.frame {
            Frame::Raw => None,
            Frame::Bare | Frame::Json => self.pinned.as_ref(),
            Frame::Container => group.embedded,
            Frame::Registered(_, id) => self.schemas.get(&id).and_then(|schema| schema.as_ref().ok()),
        };
        schema.and_then(|schema| schema.name().cloned())
    }

    fn open_containers(&self, rejects: &mut Rejects) -> HashMap<usize, Opened> {
        let mut opened = HashMap::new();
        let frame = Frame::Container;
        let containers = self.bodies.iter().enumerate().filter(|(_, body)| **body == Ok(Body::Whole(frame)));
        for (event, _) in containers {
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
        let mut groups = Groups::default();
        for (event, body) in self.bodies.iter().enumerate() {
            match body {
                Err(unframed) => drop(rejects.insert(event, self.unframed(event, unframed))),
                Ok(Body::Whole(frame @ Frame::Container)) => {
                    // Else it was rejected when it was opened.
                    let Some((schema, blocks)) = opened.get(&event) else { continue };
                    match schema.split(blocks) {
                        Ok(datums) => {
                            groups.of(*frame, Some(schema)).extend((0..).zip(datums).map(|(index, datum)| Record {
                                event,
                                index,
                                datum,
                                enclosing: None,
                            }))
                        }
                        Err(text) => self.reject(event, *frame, RejectClass::Datum, text, rejects),
                    }
                }
                Ok(Body::Whole(frame)) => {
                    let datum = &self.batch.events[event].body[frame.prefix_bytes()..];
                    groups.of(*frame, None).push(Record { event, index: 0, datum, enclosing: None });
                }
                Ok(Body::Enclosed(enclosed)) => {
                    for (index, held) in (0..).zip(enclosed) {
                        let (datum, enclosing) = (&held.data[held.frame.prefix_bytes()..], Some(&held.event));
                        groups.of(held.frame, None).push(Record { event, index, datum, enclosing });
                    }
                }
            }
        }
        groups.groups
    }

    /// Cuts `records` so that each portion fits a batch: as a rule there is one.
    fn portions<'r, 'a>(&self, records: &'r [Record<'a>]) -> Vec<&'r [Record<'a>]> {
        let mut portions = Vec::new();
        let (mut from, mut bytes) = (0, 0_usize);
        for (at, record) in records.iter().enumerate() {
            let event = &self.batch.events[record.event];
            let enclosing = record.enclosing.map_or(0, CloudEvent::memory_bytes);
            let more = event.memory_bytes() - event.body.len() + record.datum.len() + enclosing;
            if bytes.saturating_add(more) > BATCH_BYTES_MAX && at > from {
                portions.push(&records[from..at]);
                (from, bytes) = (at, 0);
            }
            bytes = bytes.saturating_add(more);
        }
        portions.extend((from < records.len()).then(|| &records[from..]));
        portions
    }

    fn decode(&self, group: &Group<'_>, records: &[Record<'_>], out: &mut Outcome) -> Result<(), DecodeError> {
        let frame = group.frame;
        let (schema, schema_id) = match frame {
            Frame::Raw => return self.raw(records, out),
            Frame::Json => match &self.pinned {
                Some(schema) => (schema, None),
                None => return self.texts(records, out),
            },
            Frame::Bare => (self.pinned.as_ref().ok_or(DecodeError::NoSchema)?, None),
            Frame::Container => match group.embedded {
                Some(schema) => (schema, None),
                None => return Ok(()),
            },
            Frame::Registered(_, id) => match self.schemas.get(&id) {
                Some(Ok(schema)) => (schema, Some(id.to_string())),
                Some(Err((class, text))) => {
                    for record in records {
                        self.refuse(record, frame, *class, text.clone(), out);
                    }
                    return Ok(());
                }
                None => return Err(DecodeError::NoSource),
            },
        };
        let (records, json) = match frame {
            Frame::Json => self.read_json(schema, records, out),
            _ => (Cow::Borrowed(records), Vec::new()),
        };
        let datums: Vec<&[u8]> = match frame {
            Frame::Json => json.iter().map(|(datum, _)| datum.as_slice()).collect(),
            _ => records.iter().map(|record| record.datum).collect(),
        };
        let rows = schema.decode(&datums)?;
        for (datum, text) in rows.rejected {
            self.refuse(&records[datum], frame, RejectClass::Datum, text, out);
        }
        let schema = schema.rows();
        for set in rows.sets {
            let rescued = |at: usize| json.get(at).and_then(|(_, left)| left.as_deref());
            let places: Vec<_> = set.datums.iter().map(|at| row(&records[*at], rescued(*at))).collect();
            let mut columns = set.columns;
            columns.extend(envelope::columns(&self.batch, &places, schema_id.as_deref(), &mut out.faults)?);
            out.batches.push(RecordBatch::try_new(Arc::clone(schema), columns)?);
        }
        Ok(())
    }

    /// The datums of records that are JSON, of those that have one.
    fn read_json<'r, 'a>(
        &self,
        schema: &WriterSchema,
        records: &'r [Record<'a>],
        out: &mut Outcome,
    ) -> (Cow<'r, [Record<'a>]>, Vec<FromJson>) {
        let (mut held, mut datums) = (Vec::with_capacity(records.len()), Vec::with_capacity(records.len()));
        for record in records {
            match schema.datum_of_json(record.datum) {
                Ok(datum) => {
                    held.push(*record);
                    datums.push(datum);
                }
                Err(text) => self.refuse(record, Frame::Json, RejectClass::Datum, text, out),
            }
        }
        (Cow::Owned(held), datums)
    }

    /// Bodies that stay bytes.
    fn raw(&self, records: &[Record<'_>], out: &mut Outcome) -> Result<(), DecodeError> {
        let bodies = BinaryArray::from_iter_values(records.iter().map(|record| record.datum));
        let mut columns: Vec<ArrayRef> = vec![Arc::new(bodies)];
        let places: Vec<_> = records.iter().map(|record| row(record, None)).collect();
        columns.extend(envelope::columns(&self.batch, &places, None, &mut out.faults)?);
        out.batches.push(RecordBatch::try_new(raw_schema(), columns)?);
        Ok(())
    }

    /// JSON that nothing is known of, as it was written. A CloudEvent may have no data, and is a row still.
    fn texts(&self, records: &[Record<'_>], out: &mut Outcome) -> Result<(), DecodeError> {
        let (mut places, mut bodies) = (Vec::with_capacity(records.len()), Vec::with_capacity(records.len()));
        for record in records {
            let body = match record.datum {
                b"" if record.enclosing.is_some() => Ok(None),
                datum => json::parse(datum).and_then(|_| json::text_of(datum)).map(Some),
            };
            match body {
                Ok(body) => {
                    places.push(row(record, None));
                    bodies.push(body);
                }
                Err(text) => self.refuse(record, Frame::Json, RejectClass::Datum, text, out),
            }
        }
        if places.is_empty() {
            return Ok(());
        }
        let mut columns: Vec<ArrayRef> = vec![Arc::new(StringArray::from(bodies))];
        columns.extend(envelope::columns(&self.batch, &places, None, &mut out.faults)?);
        out.batches.push(RecordBatch::try_new(text_schema(), columns)?);
        Ok(())
    }

    /// Rejects the event of a record. The first thing that is wrong with it is told.
    fn refuse(&self, record: &Record<'_>, frame: Frame, class: RejectClass, text: String, out: &mut Outcome) {
        if out.rejects.contains_key(&record.event) {
            return;
        }
        let is_one_of_several = match &self.bodies[record.event] {
            Ok(Body::Whole(frame)) => *frame == Frame::Container,
            Ok(Body::Enclosed(enclosed)) => enclosed.len() > 1,
            Err(_) => false,
        };
        let text = if is_one_of_several { format!("record {}: {text}", record.index) } else { text };
        self.reject(record.event, frame, class, text, &mut out.rejects);
    }

    /// An event is rejected as a whole, whatever its body holds: under the index 0.
    fn reject(&self, event: usize, frame: Frame, class: RejectClass, text: String, rejects: &mut Rejects) {
        let schema_id = match frame {
            Frame::Registered(_, id) => Some(id.to_string()),
            Frame::Container | Frame::Bare | Frame::Json | Frame::Raw => None,
        };
        let framing = match &self.bodies[event] {
            Ok(Body::Enclosed(_)) => CLOUD_EVENTS,
            _ => frame.name(),
        };
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
            class: unframed.class,
            text: unframed.text.clone(),
        }
    }
}

/// Groups in the order in which they were met.
#[derive(Default)]
struct Groups<'a> {
    groups: Vec<Group<'a>>,
    // What containers opened lives as long as the groups: an address is one schema.
    places: HashMap<(Frame, usize), usize>,
    last: usize,
}

impl<'a> Groups<'a> {
    /// The records of the group of this frame and schema. Most events are of the same as the one before.
    fn of(&mut self, frame: Frame, embedded: Option<&'a Arc<WriterSchema>>) -> &mut Vec<Record<'a>> {
        let is_last = |group: &Group<'_>| group.frame == frame && frame != Frame::Container;
        if !self.groups.get(self.last).is_some_and(is_last) {
            let key = (frame, embedded.map_or(0, |schema| Arc::as_ptr(schema).addr()));
            self.last = *self.places.entry(key).or_insert(self.groups.len());
            if self.last == self.groups.len() {
                self.groups.push(Group { frame, embedded, records: Vec::new() });
            }
        }
        &mut self.groups[self.last].records
    }
}

/// The events that became more than one record.
fn with_several(groups: &[Group<'_>]) -> HashSet<usize> {
    let records = groups.iter().flat_map(|group| &group.records);
    records.filter(|record| record.index > 0).map(|record| record.event).collect()
}

fn row<'a>(record: &Record<'a>, rescued: Option<&'a str>) -> Row<'a> {
    Row { event: record.event, index: record.index, enclosing: record.enclosing, rescued }
}
