//! Dead letters, decoded and routed again with today's schemas and declarations.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use serde::Serialize;

use super::homes::{self, Homes, Sorted};
use super::list::{State, covered, refuse_itself, state};
use super::{DeadLetterError, Filter};
use crate::batch::{Decoded, Event, EventBatch, Origin, Reject};
use crate::catalog::commit_log::CommitLog;
use crate::catalog::log::log_store_to_read;
use crate::catalog::{dead_letters_of, table_location};
use crate::checkpoint::PartitionKey;
use crate::config::spec::{PipelineSpec, ProjectSpec, TableName};
use crate::decode::Decoder;
use crate::error::{Classify as _, Retry};
use crate::fault_points::FaultPoints;
use crate::pipeline::gaps::Target;
use crate::pipeline::partition::report;
use crate::pipeline::setup::{self, Places, SharedRegistry};
use crate::retry::Backoff;
use crate::shutdown::Shutdown;
use crate::sink::delta::dead_letters::held::{Chunk, HeldLetters, Rewritten, Told};
use crate::sink::delta::dead_letters::{DeadLetter, LetterState, Writer};
use crate::sink::delta::settle::{Landed, Numbers, Replayed, Settled};
use crate::sink::delta::writer::TableWriter;

/// Events that are decoded together: a batch as sources make them.
const BATCH_EVENTS: usize = 4_096;

/// How often a registry or storage that fails is asked before the replay ends: what has landed stays.
const TRIES: u32 = 6;
const PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// How often others may rewrite the letters meanwhile. Each time somebody has got something done.
pub(super) const OUTRUN_TRIES: u32 = 50;

/// What came of a replay. The shape that scripts read: fields may be added, never renamed or removed.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Replay {
    pub pipeline: String,
    pub table: String,
    /// Events that landed, and the rows that they became.
    pub replayed: u64,
    pub rows: u64,
    /// Events that had a row already: a replay before died, or a rival decoded them.
    pub had_row: u64,
    /// Events that still can't become rows, by class.
    pub failed: u64,
    pub failed_by_class: BTreeMap<String, u64>,
    /// Of those that landed the ones that today's routes give to another table, by that.
    pub replayed_to: BTreeMap<String, u64>,
    /// Events that today's routes give to a table that doesn't account for them as another's: it hasn't come so far, began
    /// later, or has a dead letter of its own. They stay.
    pub left_for: BTreeMap<String, u64>,
    /// Tables that refuse what belongs to them, and why, in words. It is among what is left for them.
    pub refused_by: BTreeMap<String, String>,
    /// Events that today's routes keep out of all tables. They stay.
    pub filtered: u64,
    /// Letters whose events aren't accounted for yet: the pipeline comes first.
    pub in_flight: u64,
    pub commits: u64,
    /// It was stopped before its end; the next one goes on.
    pub stopped: bool,
}

impl Replay {
    /// Whether every letter that was meant has a row now.
    pub fn is_whole(&self) -> bool {
        self.failed == 0 && self.filtered == 0 && self.left_for.is_empty()
    }
}

/// A table of a pipeline and its dead letters, to settle dead letters in.
pub(super) struct Tables {
    pub(super) writer: TableWriter,
    pub(super) letters: HeldLetters,
    pub(super) by: Writer,
    pub(super) fault_points: FaultPoints,
}

impl Tables {
    /// Opens both; none where there is nothing to settle. The table of the rows goes first: what its log says of letters was
    /// marked before.
    ///
    /// # Errors
    /// Errors of storage, and what makes a table unwritable.
    pub(super) async fn open(
        project: &ProjectSpec,
        pipeline: &PipelineSpec,
        table: &TableName,
        fault_points: FaultPoints,
    ) -> Result<Option<Self>, DeadLetterError> {
        let places = Places::of(project)?;
        let sink = pipeline.sinks().find(|sink| sink.table == *table);
        let Some(sink) = sink else { return Ok(None) };
        // Opening to write would make them.
        if log_store_to_read(&table_location(&places.lake, table)).await?.is_none() {
            return Ok(None);
        }
        let name = dead_letters_of(table);
        let Some(store) = log_store_to_read(&table_location(&places.lake, &name)).await? else { return Ok(None) };
        let spec = setup::table_spec(pipeline, sink, &places, fault_points.clone())?;
        let by = spec.writer.clone();
        let writer = TableWriter::open(spec).await?;
        let letters = HeldLetters::open(CommitLog::new(store, name.to_string())).await?;
        Ok(letters.map(|letters| Self { writer, letters, by, fault_points }))
    }
}

/// Decodes the waiting letters that `filter` takes, lands those that decode where today's routes say, and writes down why the others don't. It
/// takes no lock: it may run beside the live pipeline, and beside another replay.
///
/// # Errors
/// A registry that can't be asked, errors of storage. Whatever the error, what has landed stays, once.
pub async fn replay(
    project: &ProjectSpec,
    target: &Target<'_>,
    filter: &Filter,
    fault_points: FaultPoints,
    shutdown: Shutdown,
) -> Result<Replay, DeadLetterError> {
    refuse_itself(&target.table)?;
    let table = target.table.to_string();
    let pipeline = target.pipeline.ok_or_else(|| DeadLetterError::NoPipeline { table: table.clone() })?;
    let done = Replay { pipeline: pipeline.name.clone(), table, ..Replay::default() };
    let opened = Tables::open(project, pipeline, &target.table, fault_points.clone()).await?;
    let Some(tables) = opened else { return Ok(done) };
    let places = Places::of(project)?;
    let decoder = setup::decoder(project, pipeline, &places, &SharedRegistry::default())?;
    let homes = Homes::of(pipeline, &target.table, places, fault_points)?;
    let (landed, failed) = (Numbers::new(), Numbers::new());
    let backoff = Backoff::new(PAUSE, LONGEST_PAUSE);
    Replaying { tables, decoder, homes, filter, done, landed, failed, backoff }.run(shutdown).await
}

struct Replaying<'a> {
    tables: Tables,
    decoder: Decoder,
    homes: Homes<'a>,
    filter: &'a Filter,
    done: Replay,
    /// What this run has landed, and what failed in it or stays for another reason: when all is listed anew, none is counted or tried twice.
    landed: Numbers,
    failed: Numbers,
    backoff: Backoff,
}

/// Events to decode, by partition and by the path that they came by, each once.
type Wanted = BTreeMap<(PartitionKey, String), BTreeMap<i64, Event>>;

/// Why events still fail.
type Rejects = BTreeMap<(PartitionKey, i64), Reject>;

/// Events that were decoded again.
#[derive(Default)]
struct Tried {
    tried: Numbers,
    /// By the table that today's routes give them to.
    parts: BTreeMap<usize, Vec<Replayed>>,
    filtered: Numbers,
    rejects: Rejects,
}

/// What is to be written into letters.
#[derive(Default)]
struct Marks {
    /// What has a row beside the letters.
    here: Landed,
    /// What has one in another table, by its name.
    elsewhere: Vec<(String, Landed)>,
    rejects: Rejects,
}

impl Replaying<'_> {
    async fn run(mut self, shutdown: Shutdown) -> Result<Replay, DeadLetterError> {
        let mut outrun = 0;
        while !shutdown.is_stopping() {
            if self.tables.letters.begins_anew() {
                self.done.in_flight = 0;
            }
            let Some(chunk) = self.tables.letters.next_chunk_of(Told::may_wait).await? else { return Ok(self.done) };
            match self.settle(chunk).await? {
                Settled::Done(did_anything) => outrun = if did_anything { 0 } else { outrun },
                Settled::Outrun => {
                    outrun += 1;
                    if outrun > OUTRUN_TRIES {
                        return Err(DeadLetterError::Outrun { table: self.done.table, tries: outrun });
                    }
                    self.tables.letters.list().await?;
                    self.done.in_flight = 0;
                }
            }
        }
        self.done.stopped = true;
        Ok(self.done)
    }

    /// A chunk from its letters to their marks. Says whether any of them was meant.
    async fn settle(&mut self, mut chunk: Chunk) -> Result<Settled<bool>, DeadLetterError> {
        let wanted = self.wanted(&chunk);
        if wanted.is_empty() {
            return Ok(Settled::Done(false));
        }
        let Tried { tried, mut parts, filtered, rejects } = self.decode(wanted).await?;
        let own = parts.remove(&self.homes.own).unwrap_or_default();
        let Settled::Done(landed) = self.land(&tried, own).await? else { return Ok(Settled::Outrun) };
        self.count_landed(&landed);
        let mut marks = Marks { rejects, ..Marks::default() };
        for (at, parts) in parts {
            let table = self.homes.name(at);
            let parts = homes::without(parts, &landed.had_row);
            let adopted = self.homes.land(at, &parts).await;
            // What one table refuses, whenever it is tried, keeps no other letter from its mark.
            let adopted = match adopted {
                Err(error) if error.retry() == Retry::Never => {
                    tracing::error!(table, error = report(&error), "a table refuses events that are replayed");
                    self.done.refused_by.insert(table.clone(), report(&error));
                    self.leave(&table, &homes::tried(&parts));
                    continue;
                }
                adopted => adopted,
            };
            let Settled::Done(adopted) = self.again_after(adopted).await? else { return Ok(Settled::Outrun) };
            self.count_landed(&adopted);
            *self.done.replayed_to.entry(table.clone()).or_default() += count(&adopted.landed);
            self.leave(&table, &adopted.not_its_own);
            marks.elsewhere.push((table, adopted));
        }
        self.done.replayed_to.retain(|_, events| *events > 0);
        let filtered = homes::left(filtered, &landed.had_row);
        self.done.filtered += count(&filtered);
        add(&mut self.failed, &filtered);
        marks.here = landed;
        let failed = self.mark(&mut chunk, &tried, &marks);
        let Tables { letters, by, fault_points, .. } = &mut self.tables;
        if letters.rewrite(chunk, "replay", by, fault_points).await? == Rewritten::Outrun {
            // The marks are lost. What has landed is found to have a row when it is met again.
            return Ok(Settled::Outrun);
        }
        let all = marks.elsewhere.iter().map(|(_, landed)| landed).chain([&marks.here]);
        let had_row = all.flat_map(|landed| &landed.had_row).flat_map(|(partition, numbers)| {
            let ours = self.landed.get(partition);
            numbers.iter().filter(move |number| ours.is_none_or(|ours| !ours.contains(number)))
        });
        self.done.had_row += had_row.count() as u64;
        for ((partition, number), class) in failed {
            *self.done.failed_by_class.entry(class).or_default() += 1;
            self.done.failed += 1;
            self.failed.entry(partition).or_default().insert(number);
        }
        Ok(Settled::Done(true))
    }

    fn count_landed(&mut self, landed: &Landed) {
        self.done.commits += u64::from(landed.version.is_some());
        self.done.rows += landed.rows;
        self.done.replayed += count(&landed.landed);
        add(&mut self.landed, &landed.landed);
    }

    /// Events that belong to `table`, which can't take them.
    fn leave(&mut self, table: &str, numbers: &Numbers) {
        let events = count(numbers);
        if events > 0 {
            *self.done.left_for.entry(table.to_owned()).or_default() += events;
            add(&mut self.failed, numbers);
        }
    }

    fn wanted(&mut self, chunk: &Chunk) -> Wanted {
        let covered = covered(self.tables.writer.ledger());
        let mut wanted = Wanted::new();
        for letter in chunk.letters.iter().filter(|letter| self.filter.takes(letter)) {
            match state(letter, &covered) {
                State::Waiting => {}
                State::InFlight => {
                    self.done.in_flight += 1;
                    continue;
                }
                State::Replayed | State::Expired => continue,
            }
            let (partition, number) = (&letter.partition, letter.sequence_number);
            let has_failed = self.failed.get(partition).is_some_and(|failed| failed.contains(&number));
            let Some(event) = letter.event().filter(|_| !has_failed) else { continue };
            let origin = letter.event_origin().as_str().to_owned();
            wanted.entry((partition.clone(), origin)).or_default().insert(number, event);
        }
        wanted
    }

    /// Decodes and routes as a pipeline does: batches of one partition and one path, ascending.
    async fn decode(&self, wanted: Wanted) -> Result<Tried, DeadLetterError> {
        let mut all = Tried::default();
        for ((partition, origin), events) in wanted {
            let origin = Origin::of_dead_letter(Some(&origin));
            let mut events = events.into_values().peekable();
            while events.peek().is_some() {
                let events: Vec<Event> = events.by_ref().take(BATCH_EVENTS).collect();
                let numbers = events.iter().map(|event| event.sequence_number);
                all.tried.entry(partition.clone()).or_default().extend(numbers);
                let batch = Arc::new(EventBatch { partition: partition.clone(), origin: origin.clone(), events });
                let decoded = self.decode_batch(Arc::clone(&batch)).await?;
                let Sorted { parts, filtered, rejects } = self.homes.sort(&batch, decoded)?;
                for (at, parts) in parts {
                    all.parts.entry(at).or_default().extend(parts);
                }
                add(&mut all.filtered, &filtered);
                let named = rejects.into_iter();
                all.rejects.extend(named.map(|reject| ((partition.clone(), reject.event.sequence_number), reject)));
            }
        }
        Ok(all)
    }

    async fn decode_batch(&self, batch: Arc<EventBatch>) -> Result<Decoded, DeadLetterError> {
        let mut backoff = Backoff::new(PAUSE, LONGEST_PAUSE);
        loop {
            match self.decoder.decode(Arc::clone(&batch)).await {
                Ok(decoded) => return Ok(decoded),
                Err(error) if error.retry() == Retry::Backoff && backoff.failures() < TRIES => {
                    tokio::time::sleep(backoff.pause()).await;
                }
                Err(source) => return Err(DeadLetterError::Decode { table: self.done.table.clone(), source }),
            }
        }
    }

    /// Lands what belongs where the letters lie; and of all that was tried, finds what has a row there.
    async fn land(&mut self, tried: &Numbers, mut own: Vec<Replayed>) -> Result<Settled<Landed>, DeadLetterError> {
        let looked_for = tried.iter().map(|(partition, tried)| Replayed {
            partition: partition.clone(),
            tried: tried.clone(),
            decoded: BTreeSet::new(),
            batches: Vec::new(),
        });
        own.extend(looked_for);
        let landed = self.tables.writer.replay(&own).await.map_err(DeadLetterError::from);
        self.again_after(landed).await
    }

    /// After an error the letters are read again before anything else is tried: others may have settled them, and
    /// what has landed all the same is found to have a row.
    async fn again_after(
        &mut self,
        landed: Result<Settled<Landed>, DeadLetterError>,
    ) -> Result<Settled<Landed>, DeadLetterError> {
        match landed {
            Ok(settled) => {
                self.backoff.reset();
                Ok(settled)
            }
            Err(error) if error.retry() == Retry::Backoff && self.backoff.failures() < TRIES => {
                tracing::warn!(table = self.done.table, error = report(&error), "a replay is tried again");
                tokio::time::sleep(self.backoff.pause()).await;
                Ok(Settled::Outrun)
            }
            Err(error) => Err(error),
        }
    }

    /// Writes into the letters what came of them. Gives those that still fail, with their class.
    fn mark(&self, chunk: &mut Chunk, tried: &Numbers, marks: &Marks) -> Vec<((PartitionKey, i64), String)> {
        let now_us = Utc::now().timestamp_micros();
        let is_among = |numbers: &Numbers, letter: &DeadLetter| {
            numbers.get(&letter.partition).is_some_and(|held| held.contains(&letter.sequence_number))
        };
        let mut failed = Vec::new();
        for letter in chunk.letters.iter_mut().filter(|letter| is_among(tried, letter)) {
            if letter.state() != LetterState::Waiting {
                continue;
            }
            letter.tried_at_us = Some(now_us);
            let has_row = |landed: &Landed| is_among(&landed.landed, letter) || is_among(&landed.had_row, letter);
            let elsewhere = marks.elsewhere.iter().find(|(_, landed)| has_row(landed)).map(|(table, _)| table);
            let is_here = has_row(&marks.here);
            if is_here || elsewhere.is_some() {
                letter.replayed_at_us = Some(now_us);
                letter.replayed_to = elsewhere.filter(|_| !is_here).cloned();
                continue;
            }
            let key = (letter.partition.clone(), letter.sequence_number);
            let Some(reject) = marks.rejects.get(&key) else { continue };
            letter.attempt = letter.attempt.saturating_add(1);
            letter.framing = Some(reject.framing.to_owned());
            letter.schema_id.clone_from(&reject.schema_id);
            letter.error_class = Some(reject.class.as_str().to_owned());
            letter.error = Some(reject.text.clone());
            letter.pipeline = Some(self.tables.by.pipeline.clone());
            letter.config_hash = Some(self.tables.by.config_hash.clone());
            failed.push((key, reject.class.as_str().to_owned()));
        }
        failed
    }
}

pub(super) fn count(numbers: &Numbers) -> u64 {
    numbers.values().map(|numbers| numbers.len() as u64).sum()
}

fn add(held: &mut Numbers, more: &Numbers) {
    for (partition, numbers) in more {
        held.entry(partition.clone()).or_default().extend(numbers);
    }
}
