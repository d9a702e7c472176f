//! A batch taken apart, so that each table has a share that accounts for all of its numbers.

use std::sync::Arc;

use arrow::array::{AsArray as _, RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::{ArrowPrimitiveType, Int32Type, Int64Type};
use arrow::error::ArrowError;

use super::picked::{Picked, ROWS_WORTH_TAKING, SharedRows, gathered};
use super::strays::WHY;
use super::{Decided, Home, Router};
use crate::batch::{Decoded, EventBatch, Reject, RejectClass, bronze};
use crate::checkpoint::{Range, Run};
use crate::decode::rows_of_rejects;

/// How the dead letter of an event that was decoded says that it was framed.
const DECODED: &str = "decoded";

/// What of a batch is one table's.
#[derive(Debug, Default)]
pub struct Share {
    /// (number, enqueued ms) of its events, ascending.
    pub events: Vec<(i64, i64)>,
    pub batches: Vec<RecordBatch>,
    /// Rows that lie among those of other tables.
    pub picked: Vec<Picked>,
    /// Ascending by number.
    pub rejects: Vec<Reject>,
    /// The other events, as runs of numbers without a hole, ascending.
    pub elsewhere: Vec<Run>,
}

impl Share {
    pub fn has_rows(&self) -> bool {
        !self.batches.is_empty() || !self.picked.is_empty()
    }

    /// Its rows as batches of their own. CPU work.
    ///
    /// # Errors
    /// Only for a defect of ours.
    pub fn rows(&self) -> Result<Vec<RecordBatch>, ArrowError> {
        gathered(self.batches.clone(), &self.picked)
    }
}

/// A batch by the tables that it goes to.
#[derive(Debug)]
pub struct Routed {
    /// One for each table.
    pub shares: Vec<Share>,
    /// The batches that rows are picked of.
    pub shared: Vec<Arc<SharedRows>>,
    /// Events that are no table's.
    pub filtered: u64,
}

impl Router {
    /// Takes a batch apart. CPU work, somewhat less than decoding was.
    ///
    /// # Errors
    /// Only for a defect of ours.
    pub fn split(&self, batch: &EventBatch, decoded: Decoded) -> Result<Routed, ArrowError> {
        let Decoded { batches, schema_names, rejects } = decoded;
        let mut shares: Vec<Share> = (0..self.tables).map(|_| Share::default()).collect();
        if self.rules.is_empty() {
            let events = batch.events.iter().map(|event| (event.sequence_number, event.enqueued_at)).collect();
            shares[0] = Share { events, batches, rejects, ..Share::default() };
            return Ok(Routed { shares, shared: Vec::new(), filtered: 0 });
        }
        let mut homes = vec![Home::DEFAULT; batch.events.len()];
        let mut places = Places::of(batch);
        // Of each event that has rows, by its first record.
        let mut firsts: Vec<Option<(i32, Decided)>> = vec![None; batch.events.len()];
        for (rows, schema_name) in batches.iter().zip(schema_names) {
            let decided = self.decide(rows, schema_name.as_deref())?;
            let keys = numbers(rows)?.iter().zip(indexes(rows)?);
            for ((number, index), mut decided) in keys.zip(decided) {
                let Some(first) = places.of_number(*number).map(|at| &mut firsts[at]) else { continue };
                if first.as_ref().is_none_or(|(held, _)| index < held) {
                    self.save(batch, *number, &mut decided);
                    *first = Some((*index, decided));
                }
            }
        }
        for (at, first) in firsts.iter().enumerate() {
            let Some((_, decided)) = first else { continue };
            homes[at] = decided.home;
            if let Home::Letter(table) = decided.home {
                let why = decided.why.as_deref().unwrap_or("a route rejects it");
                shares[table].rejects.push(rejected(batch, at, why));
            }
        }
        let mut shared = Vec::new();
        for rows in batches {
            let place = |number: &i64| places.of_number(*number).map(|at| homes[at]);
            let of_events: Vec<_> = numbers(&rows)?.iter().map(place).collect();
            shared.extend(apart(rows, &of_events, &mut shares)?);
        }
        if !rejects.is_empty() {
            let decided = self.decide(&rows_of_rejects(batch, &rejects)?, None)?;
            for (reject, mut decided) in rejects.into_iter().zip(decided) {
                self.save(batch, reject.event.sequence_number, &mut decided);
                if let Some(at) = places.of_number(reject.event.sequence_number) {
                    homes[at] = decided.home;
                }
                if let Home::Table(table) | Home::Letter(table) = decided.home {
                    shares[table].rejects.push(reject);
                }
            }
        }
        for (event, home) in batch.events.iter().zip(&homes) {
            match home {
                Home::Table(table) | Home::Letter(table) => {
                    shares[*table].events.push((event.sequence_number, event.enqueued_at));
                }
                Home::Filtered => {}
            }
        }
        let all = stretches(batch);
        for share in &mut shares {
            share.rejects.sort_by_key(|reject| reject.event.sequence_number);
            share.elsewhere = without(&all, &share.events, batch);
        }
        let filtered = homes.iter().filter(|home| **home == Home::Filtered).count() as u64;
        Ok(Routed { shares, shared, filtered })
    }
}

impl Router {
    /// An event that no table has, and that its own would drop, becomes a dead letter of another.
    fn save(&self, batch: &EventBatch, number: i64, decided: &mut Decided) {
        if let Some(table) = self.strays.saved_by(&batch.partition, number, decided.home) {
            *decided = Decided { home: Home::Letter(table), why: Some(WHY.into()) };
        }
    }
}

fn rejected(batch: &EventBatch, at: usize, text: &str) -> Reject {
    Reject {
        event: batch.events[at].clone(),
        origin: batch.origin.clone(),
        record_index: 0,
        schema_id: None,
        framing: DECODED,
        class: RejectClass::NoRoute,
        text: text.to_owned(),
    }
}

/// The places of events in their batch. Rows ascend, so the next one is at the same event or close behind.
struct Places<'b> {
    batch: &'b EventBatch,
    at: usize,
}

impl<'b> Places<'b> {
    fn of(batch: &'b EventBatch) -> Self {
        Self { batch, at: 0 }
    }

    fn of_number(&mut self, number: i64) -> Option<usize> {
        let events = &self.batch.events;
        let is_at = |at: usize| events.get(at).is_some_and(|event| event.sequence_number == number);
        let near = [self.at, self.at + 1].into_iter().find(|at| is_at(*at));
        let found = near.or_else(|| events.binary_search_by_key(&number, |event| event.sequence_number).ok())?;
        self.at = found;
        Some(found)
    }
}

/// Gives each table its rows: all of them as they are, where they are one's; many as a batch of their own; and
/// of a few their places. Gives back the batch, where places of it were given.
fn apart(
    rows: RecordBatch,
    homes: &[Option<Home>],
    shares: &mut [Share],
) -> Result<Option<Arc<SharedRows>>, ArrowError> {
    let table = |home: &Option<Home>| match home {
        Some(Home::Table(table)) => Some(*table),
        Some(Home::Filtered | Home::Letter(_)) | None => None,
    };
    let Some(first) = homes.first() else { return Ok(None) };
    if homes.iter().all(|other| other == first) {
        if let Some(table) = table(first) {
            shares[table].batches.push(rows);
        }
        return Ok(None);
    }
    let mut places: Vec<Vec<u32>> = vec![Vec::new(); shares.len()];
    for (row, table) in (0..).zip(homes.iter().map(table)) {
        if let Some(table) = table {
            places[table].push(row);
        }
    }
    let mut shared = None;
    for (share, places) in shares.iter_mut().zip(places).filter(|(_, places)| !places.is_empty()) {
        if places.len() >= ROWS_WORTH_TAKING {
            share.batches.push(take_record_batch(&rows, &UInt32Array::from(places))?);
        } else {
            let rows = shared.get_or_insert_with(|| Arc::new(SharedRows::new(rows.clone())));
            share.picked.push(Picked::new(rows, places));
        }
    }
    Ok(shared)
}

/// The numbers of a batch as runs without a hole; on a dense source one.
fn stretches(batch: &EventBatch) -> Vec<Range> {
    let mut stretches: Vec<Range> = Vec::new();
    for event in &batch.events {
        let number = event.sequence_number;
        match stretches.last_mut().filter(|last| last.to == number) {
            Some(last) => last.to = number + 1,
            None => stretches.push(Range::new(number, number + 1)),
        }
    }
    stretches
}

/// What of the stretches isn't among `events`.
fn without(stretches: &[Range], events: &[(i64, i64)], batch: &EventBatch) -> Vec<Run> {
    let mut left = Vec::with_capacity(stretches.len() + events.len());
    let mut push = |from: i64, to: i64| {
        if from < to {
            let until = batch.events.partition_point(|event| event.sequence_number < to);
            let last_enqueued_at = until.checked_sub(1).map_or(0, |at| batch.events[at].enqueued_at);
            left.push(Run { range: Range::new(from, to), last_enqueued_at });
        }
    };
    let mut own = events.iter().map(|(number, _)| *number).peekable();
    for stretch in stretches {
        let mut from = stretch.from;
        while let Some(number) = own.next_if(|number| *number < stretch.to) {
            push(from, number);
            from = number + 1;
        }
        push(from, stretch.to);
    }
    left
}

fn numbers(rows: &RecordBatch) -> Result<&[i64], ArrowError> {
    column::<Int64Type>(rows, bronze::SEQUENCE_NUMBER)
}

fn indexes(rows: &RecordBatch) -> Result<&[i32], ArrowError> {
    column::<Int32Type>(rows, bronze::RECORD_INDEX)
}

fn column<'r, T: ArrowPrimitiveType>(rows: &'r RecordBatch, name: &str) -> Result<&'r [T::Native], ArrowError> {
    let column = rows.column_by_name(name).and_then(|column| column.as_primitive_opt::<T>());
    Ok(column.ok_or_else(|| ArrowError::SchemaError(format!("column `{name}` is missing")))?.values())
}
