//! Which table a letter's event belongs to today, and the way into one that isn't the letter's.
//!
//! A letter lies beside the table that its event belonged to when it was rejected. Its number is covered there as
//! rejected, and in all other tables of the pipeline as another's: `filtered`. So an event that belongs to another table now
//! lands there in one commit that takes it off that table's `filtered`, and no row of it may be there before: the same
//! anti-join, put at the same version, as in the letter's own table. The letter stays where it is, and goes on accounting for the
//! number in its own table, which counts it as rejected still; it is marked with the table that has the row.

use std::collections::{BTreeMap, BTreeSet};

use super::DeadLetterError;
use crate::batch::{Decoded, EventBatch, Reject};
use crate::catalog::commit_log::CommitLog;
use crate::catalog::log::log_store_to_read;
use crate::catalog::{dead_letters_of, table_location};
use crate::checkpoint::PartitionKey;
use crate::config::spec::{PipelineSpec, SinkSpec, TableName};
use crate::fault_points::FaultPoints;
use crate::pipeline::PipelineError;
use crate::pipeline::routes::Router;
use crate::pipeline::setup::{self, Places};
use crate::sink::delta::settle::{Landed, Numbers, Replayed, Settled};
use crate::sink::delta::writer::TableWriter;

/// The tables of a pipeline, as its routes name them.
pub(super) struct Homes<'a> {
    pipeline: &'a PipelineSpec,
    places: Places,
    router: Router,
    fault_points: FaultPoints,
    /// Which of them has the letters.
    pub(super) own: usize,
    /// Those that were asked for; none where one isn't there yet.
    opened: BTreeMap<usize, Option<TableWriter>>,
}

/// Decoded events by where they belong.
#[derive(Default)]
pub(super) struct Sorted {
    /// The rows of each table.
    pub(super) parts: BTreeMap<usize, Vec<Replayed>>,
    /// Those that a rule keeps out of all tables.
    pub(super) filtered: Numbers,
    pub(super) rejects: Vec<Reject>,
}

impl<'a> Homes<'a> {
    /// # Errors
    /// A condition that can't be used.
    pub(super) fn of(
        pipeline: &'a PipelineSpec,
        table: &TableName,
        places: Places,
        fault_points: FaultPoints,
    ) -> Result<Self, DeadLetterError> {
        let router = Router::open(pipeline)?;
        let own = pipeline.sinks().position(|sink| sink.table == *table).unwrap_or(0);
        Ok(Self { pipeline, places, router, fault_points, own, opened: BTreeMap::new() })
    }

    pub(super) fn sink(&self, at: usize) -> Option<&'a SinkSpec> {
        self.pipeline.sinks().nth(at)
    }

    /// The name of one of the tables.
    pub(super) fn name(&self, at: usize) -> String {
        self.sink(at).map_or_else(String::new, |sink| sink.table.to_string())
    }

    /// Asks the routes. What can't be decoded, and what a route rejects, is a reject, whosever it would be.
    ///
    /// # Errors
    /// Only for a defect of ours.
    pub(super) fn sort(&self, batch: &EventBatch, decoded: Decoded) -> Result<Sorted, DeadLetterError> {
        let failed = |source| PipelineError::Routing { partition: batch.partition.to_string(), source };
        let routed = self.router.split(batch, decoded).map_err(failed)?;
        let mut sorted = Sorted::default();
        let mut settled = BTreeSet::new();
        for (at, share) in routed.shares.into_iter().enumerate() {
            let batches = share.rows().map_err(failed)?;
            let rejected = share.rejects.iter().map(|reject| reject.event.sequence_number);
            let rejected: BTreeSet<i64> = rejected.collect();
            let numbers = share.events.iter().map(|(number, _)| *number);
            let with_rows: BTreeSet<i64> = numbers.filter(|number| !rejected.contains(number)).collect();
            settled.extend(rejected);
            settled.extend(&with_rows);
            sorted.rejects.extend(share.rejects);
            if !with_rows.is_empty() {
                let (partition, tried) = (batch.partition.clone(), with_rows.clone());
                sorted.parts.entry(at).or_default().push(Replayed { partition, tried, decoded: with_rows, batches });
            }
        }
        let others = batch.events.iter().map(|event| event.sequence_number).filter(|number| !settled.contains(number));
        sorted.filtered.entry(batch.partition.clone()).or_default().extend(others);
        Ok(sorted)
    }

    /// Lands events of letters in a table that isn't the letters'.
    ///
    /// # Errors
    /// As [`TableWriter::adopt`]
    pub(super) async fn land(&mut self, at: usize, parts: &[Replayed]) -> Result<Settled<Landed>, DeadLetterError> {
        let Some(sink) = self.sink(at) else { return Ok(Settled::Done(none_of(parts))) };
        let letters = dead_letters_of(&sink.table);
        let store = log_store_to_read(&table_location(&self.places.lake, &letters)).await?;
        let letters = store.map(|store| CommitLog::new(store, letters.to_string()));
        if !self.opened.contains_key(&at) {
            let opened = self.open(sink).await?;
            self.opened.insert(at, opened);
        }
        match self.opened.get_mut(&at).and_then(Option::as_mut) {
            Some(writer) => Ok(writer.adopt(parts, letters.as_ref()).await?),
            None => Ok(Settled::Done(none_of(parts))),
        }
    }

    async fn open(&self, sink: &SinkSpec) -> Result<Option<TableWriter>, DeadLetterError> {
        // Opening to write would make it.
        if log_store_to_read(&table_location(&self.places.lake, &sink.table)).await?.is_none() {
            return Ok(None);
        }
        let spec = setup::table_spec(self.pipeline, sink, &self.places, self.fault_points.clone())?;
        Ok(Some(TableWriter::open(spec).await?))
    }
}

/// Of a table that isn't there none is its own.
fn none_of(parts: &[Replayed]) -> Landed {
    Landed { not_its_own: tried(parts), ..Landed::default() }
}

/// All that these are about.
pub(super) fn tried(parts: &[Replayed]) -> Numbers {
    let mut numbers = Numbers::new();
    for part in parts {
        numbers.entry(part.partition.clone()).or_default().extend(&part.tried);
    }
    numbers
}

/// Takes out the numbers that have a row already, wherever they belong.
pub(super) fn without(parts: Vec<Replayed>, had_row: &Numbers) -> Vec<Replayed> {
    let is_left =
        |partition: &PartitionKey, number: &i64| had_row.get(partition).is_none_or(|numbers| !numbers.contains(number));
    let left = parts.into_iter().map(|mut part| {
        part.tried.retain(|number| is_left(&part.partition, number));
        part.decoded.retain(|number| is_left(&part.partition, number));
        part
    });
    left.filter(|part| !part.tried.is_empty()).collect()
}

/// The numbers that have no row.
pub(super) fn left(numbers: Numbers, had_row: &Numbers) -> Numbers {
    let none = BTreeSet::new();
    let of = |(partition, numbers): (PartitionKey, BTreeSet<i64>)| {
        let left: BTreeSet<i64> = numbers.difference(had_row.get(&partition).unwrap_or(&none)).copied().collect();
        (!left.is_empty()).then_some((partition, left))
    };
    numbers.into_iter().filter_map(of).collect()
}
