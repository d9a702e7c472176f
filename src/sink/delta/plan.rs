//! What is left of a flush when the ledger at its base has been taken off.

use std::borrow::Borrow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use arrow::array::{AsArray, BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{Int64Type, SchemaRef};
use arrow::error::ArrowError;

use super::dead_letters::{DeadLetters, Letter};
use super::staged::{Chunk, EncodedRows, Staged};
use super::writer::Counts;
use crate::batch::bronze;
use crate::checkpoint::{Ledger, PartitionKey, Range, RangeSet, Run, trim};
use crate::compute;

/// Rows of chunks that had to be taken apart, by chunk and part. Kept over the tries of a flush.
pub(super) type Thawed = HashMap<ChunkId, Vec<Vec<RecordBatch>>>;

/// Tells chunks of one flush apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct ChunkId(usize);

impl ChunkId {
    pub(super) fn of(chunk: &Arc<Chunk>) -> Self {
        Self(Arc::as_ptr(chunk).addr())
    }
}

pub(super) struct Plan<'a> {
    pub(super) runs: BTreeMap<PartitionKey, Vec<Run>>,
    /// Rows that aren't encoded yet.
    pub(super) batches: Vec<RecordBatch>,
    /// Chunks all of whose rows are wanted.
    pub(super) chunks: BTreeMap<ChunkId, &'a Chunk>,
    pub(super) letters: Vec<Letter<'a>>,
    /// Rejects that lie in the dead-letter table already although the event decodes now.
    pub(super) stayed: BTreeMap<PartitionKey, u64>,
    /// Events that a rule keeps from this table.
    pub(super) filtered: BTreeMap<PartitionKey, u64>,
    pub(super) counts: BTreeMap<PartitionKey, Counts>,
}

impl Plan<'_> {
    pub(super) fn rows(&self) -> u64 {
        let batches = self.batches.iter().map(RecordBatch::num_rows);
        let chunks = self.chunks.values().map(|chunk| chunk.rows);
        batches.chain(chunks).map(|rows| rows as u64).sum()
    }
}

/// A part of which something is wanted.
struct Kept<'a> {
    part: &'a Staged,
    runs: Vec<Run>,
    /// The events of `runs`.
    events: u64,
    is_whole: bool,
    /// Whether a row of it is a dead letter of an earlier try: its own rejects are none.
    has_dead: bool,
}

/// What a plan is made against.
#[derive(Clone, Copy)]
pub(super) struct Base<'a> {
    pub(super) ledger: &'a Ledger,
    pub(super) dead_letters: &'a DeadLetters,
    pub(super) schema: &'a SchemaRef,
}

impl Base<'_> {
    /// Takes off what the ledger covers, and what an earlier part of the same flush holds.
    pub(super) async fn plan<'a, S: Borrow<Staged>>(
        self,
        staged: &'a [S],
        thawed: &mut Thawed,
    ) -> Result<Plan<'a>, ArrowError> {
        let mut plan = Plan {
            runs: BTreeMap::new(),
            batches: Vec::new(),
            chunks: BTreeMap::new(),
            letters: Vec::new(),
            stayed: BTreeMap::new(),
            filtered: BTreeMap::new(),
            counts: BTreeMap::new(),
        };
        let kept = self.trim(staged, &mut plan.counts);
        let torn = self.torn(&kept);
        thaw(&kept, &torn, thawed).await?;
        for Kept { part, runs, events, is_whole, has_dead } in kept {
            let wanted: RangeSet = runs.iter().map(|run| run.range).collect();
            let batches = match &part.encoded {
                None => &part.batches,
                Some(rows) => match thawed.get(&ChunkId::of(&rows.chunk)).and_then(|parts| parts.get(rows.part)) {
                    Some(batches) => batches,
                    None => {
                        plan.chunks.insert(ChunkId::of(&rows.chunk), &*rows.chunk);
                        &Vec::new()
                    }
                },
            };
            let mut stayed = BTreeSet::new();
            for batch in batches {
                let batch = match is_whole && !has_dead {
                    true => batch.clone(),
                    false => self.keep(batch, &part.partition, &wanted, &mut stayed)?,
                };
                plan.batches.extend((batch.num_rows() > 0).then_some(batch));
            }
            let letters = part.rejects.iter().filter(|reject| wanted.contains(reject.event.sequence_number));
            let letters: Vec<_> = letters.map(|reject| Letter { partition: &part.partition, reject }).collect();
            let rejected = letters.len() as u64 + stayed.len() as u64;
            let elsewhere = self.elsewhere(part, &wanted, &mut stayed);
            let counts = plan.counts.entry(part.partition.clone()).or_default();
            counts.committed += events - rejected.min(events);
            counts.rejected += letters.len() as u64 + stayed.len() as u64;
            counts.filtered += elsewhere;
            *plan.filtered.entry(part.partition.clone()).or_default() += elsewhere;
            *plan.stayed.entry(part.partition.clone()).or_default() += stayed.len() as u64;
            plan.letters.extend(letters);
            let joined = plan.runs.entry(part.partition.clone()).or_default();
            runs.into_iter().for_each(|run| join(joined, run));
        }
        Ok(plan)
    }

    fn trim<'a, S: Borrow<Staged>>(
        self,
        staged: &'a [S],
        counts: &mut BTreeMap<PartitionKey, Counts>,
    ) -> Vec<Kept<'a>> {
        let mut taken: BTreeMap<&PartitionKey, RangeSet> = BTreeMap::new();
        let mut kept = Vec::new();
        for part in staged.iter().map(Borrow::borrow) {
            let covered = taken.entry(&part.partition).or_insert_with(|| self.ledger.coverage(&part.partition));
            let mut runs = trim(part.range, &part.events, covered);
            runs.iter_mut().for_each(|run| run.last_enqueued_at = last_enqueued_at(part, run));
            let counts = counts.entry(part.partition.clone()).or_default();
            let events: u64 = runs.iter().map(|run| events_in(&part.events, run.range)).sum();
            let elsewhere: u64 = runs.iter().map(|run| elsewhere_in(part, run.range)).sum();
            counts.duplicate += part.received() - events - elsewhere;
            counts.own_duplicate += part.events.len() as u64 - events;
            if !runs.is_empty() {
                covered.insert(part.range);
                let is_whole = runs.len() == 1 && runs[0].range == part.range;
                let has_dead = self.has_dead(part);
                kept.push(Kept { part, runs, events, is_whole, has_dead });
            }
        }
        kept
    }

    /// How many of the wanted events a rule keeps from this table. One that an earlier try made a dead letter of stays
    /// one: the letter stands in the table's name.
    fn elsewhere(self, part: &Staged, wanted: &RangeSet, stayed: &mut BTreeSet<i64>) -> u64 {
        let runs = part.elsewhere.iter().flat_map(|run| wanted.held_in(run.range));
        let count = |run: Range| {
            let before = stayed.len();
            stayed.extend(self.dead_letters.within(&part.partition, run));
            run.len() - (stayed.len() - before) as u64
        };
        runs.map(count).sum()
    }

    fn has_dead(self, part: &Staged) -> bool {
        let rejects = &part.rejects;
        let is_own = |number: i64| rejects.binary_search_by_key(&number, |reject| reject.event.sequence_number).is_ok();
        self.dead_letters.within(&part.partition, part.range).any(|number| !is_own(number))
    }

    /// Chunks that can't be used as they are: a rival has some of their rows, the table's columns
    /// changed, or some of their rows are dead letters.
    fn torn(self, kept: &[Kept<'_>]) -> BTreeSet<ChunkId> {
        let mut whole: BTreeMap<ChunkId, (usize, &Chunk)> = BTreeMap::new();
        for (kept, rows) in encoded(kept) {
            whole.entry(ChunkId::of(&rows.chunk)).or_insert((0, &rows.chunk)).0 +=
                usize::from(kept.is_whole && !kept.has_dead);
        }
        let is_torn = |(parts, chunk): &(usize, &Chunk)| *parts != chunk.parts || !chunk.fits(self.schema);
        whole.into_iter().filter(|(_, held)| is_torn(held)).map(|(id, _)| id).collect()
    }

    /// The rows of a batch that are wanted and aren't dead letters already.
    fn keep(
        self,
        batch: &RecordBatch,
        partition: &PartitionKey,
        wanted: &RangeSet,
        stayed: &mut BTreeSet<i64>,
    ) -> Result<RecordBatch, ArrowError> {
        let numbers = sequence_numbers(batch)?;
        let mask: BooleanArray = numbers
            .iter()
            .map(|&number| {
                let is_wanted = wanted.contains(number);
                let is_dead = is_wanted && self.dead_letters.holds(partition, number);
                if is_dead {
                    stayed.insert(number);
                }
                Some(is_wanted && !is_dead)
            })
            .collect();
        filter_record_batch(batch, &mask)
    }
}

fn encoded<'k, 'a>(kept: &'k [Kept<'a>]) -> impl Iterator<Item = (&'k Kept<'a>, &'a EncodedRows)> {
    kept.iter().filter_map(|kept| Some((kept, kept.part.encoded.as_ref()?)))
}

/// Takes torn chunks apart. Once apart a chunk stays so: its files would hold the rows a second time.
async fn thaw(kept: &[Kept<'_>], torn: &BTreeSet<ChunkId>, thawed: &mut Thawed) -> Result<(), ArrowError> {
    for (_, rows) in encoded(kept) {
        let id = ChunkId::of(&rows.chunk);
        if torn.contains(&id) && !thawed.contains_key(&id) {
            let chunk = Arc::clone(&rows.chunk);
            let parts = compute::spawn(move || chunk.batches()).await;
            thawed.insert(id, parts.map_err(|lost| ArrowError::ExternalError(Box::new(lost)))??);
        }
    }
    Ok(())
}

/// Adds a run; one that begins where the last one ends makes that longer.
fn join(runs: &mut Vec<Run>, run: Run) {
    match runs.last_mut().filter(|last| last.range.to == run.range.from) {
        Some(last) => {
            last.range.to = run.range.to;
            last.last_enqueued_at = run.last_enqueued_at;
        }
        None => runs.push(run),
    }
}

fn events_in(events: &[(i64, i64)], range: Range) -> u64 {
    let from = events.partition_point(|(number, _)| *number < range.from);
    let to = events.partition_point(|(number, _)| *number < range.to);
    (to - from) as u64
}

/// As [`events_in`], of those that a rule keeps from the table.
fn elsewhere_in(part: &Staged, range: Range) -> u64 {
    let first = part.elsewhere.partition_point(|run| run.range.to <= range.from);
    let runs = part.elsewhere[first..].iter().take_while(|run| run.range.from < range.to);
    runs.map(|run| Range::new(run.range.from.max(range.from), run.range.to.min(range.to)).len()).sum()
}

/// When the last event of a run was enqueued, whosever it is. Where the run ends within a stretch of others it is
/// the time of that stretch's end: what follows there is covered, so nothing is ever compared with it.
fn last_enqueued_at(part: &Staged, run: &Run) -> i64 {
    let own = part.events.partition_point(|(number, _)| *number < run.range.to);
    let own = own.checked_sub(1).map(|at| part.events[at]);
    let other = part.elsewhere.partition_point(|other| other.range.from < run.range.to);
    let other = other.checked_sub(1).map(|at| part.elsewhere[at]);
    let other = other.map(|other| (other.range.to.min(run.range.to) - 1, other.last_enqueued_at));
    own.max(other).map_or(run.last_enqueued_at, |(_, enqueued_at)| enqueued_at)
}

fn sequence_numbers(batch: &RecordBatch) -> Result<&[i64], ArrowError> {
    let name = bronze::SEQUENCE_NUMBER;
    let numbers = batch.column_by_name(name).and_then(|column| column.as_primitive_opt::<Int64Type>());
    let wrong = || ArrowError::SchemaError(format!("column `{name}` is missing or of another type"));
    Ok(numbers.ok_or_else(wrong)?.values())
}
