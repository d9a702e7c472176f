//! The second path of a pipeline: history by backfill, and holes that are healed beside the live path.
//!
//! ```text
//! hole ─▶ gaps ─▶ list the captures ─▶ a reader for each partition ─▶ the same table, the same ledger
//!          ▲                                 │
//!          └──── at the next sweep ◀─────────┴─ what no blob has
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use chrono::{DateTime, SecondsFormat};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::target::missing_in_any;
use super::{LONGEST_PAUSE, PAUSE, Parts, Pipeline, PipelineOptions, TRIES_WHEN_CATCHING_UP};
use crate::checkpoint::{PartitionKey, Range, RangeSet};
use crate::config::spec::{PipelineSpec, ProjectSpec};
use crate::error::{Classify as _, Retry};
use crate::pipeline::PipelineError;
use crate::pipeline::announcements::{Announcement, Ticket};
use crate::pipeline::generations::{Generation, generations};
use crate::pipeline::partition::{EventsFrom, report};
use crate::pipeline::setup;
use crate::pipeline::status::PipelineStatus;
use crate::retry::Backoff;
use crate::shutdown::Shutdown;
use crate::source::capture::{CaptureError, CaptureRead, CaptureSource, EnqueuedBetween, Listing, Missing};
use crate::source::{HoleCause, SourceError};

/// What came of looking at blobs. Where it failed, what was wanted is wanted still.
pub(super) enum Looked {
    /// All there are.
    All(Result<Listing, PipelineError>),
    /// Those that were announced.
    Announced(Vec<Announcement>, Result<Listing, PipelineError>),
}

/// Blobs that were looked into, and the messages that announced them; a sweep has none.
struct Found {
    listing: Arc<Listing>,
    tickets: Vec<OpenTicket>,
}

/// A message that is settled once the numbers of a blob are covered.
struct OpenTicket {
    path: String,
    partition: String,
    /// When the blob's first event was enqueued, epoch ms: tells its generation.
    first_enqueued_at: Option<i64>,
    /// As it was announced, or once the blob was read.
    numbers: Option<Range>,
    ticket: Ticket,
}

impl From<Announcement> for OpenTicket {
    fn from(announced: Announcement) -> Self {
        let Announcement { path, name, holds, ticket } = announced;
        Self {
            path: path.to_string(),
            partition: name.partition,
            first_enqueued_at: holds.as_ref().and_then(|holds| holds.first_enqueued_at),
            numbers: holds.map(|holds| holds.range),
            ticket,
        }
    }
}

/// What a pipeline reads of the captures, and what it still lacks.
pub(super) struct Captures {
    source: Option<Arc<CaptureSource>>,
    /// Whose events may lie in the blobs.
    pub(super) generations: Vec<Generation>,
    pub(super) looking: JoinSet<Looked>,
    /// Not before this is looked again, after it failed.
    look_at: Option<Instant>,
    backoff: Backoff,
    /// What was found, until the ledger is at hand.
    found: Option<Found>,
    pub(super) announcements: Option<mpsc::Receiver<Announcement>>,
    /// Blobs that were announced and aren't looked into yet.
    announced: Vec<Announcement>,
    /// Messages that wait for what they announced.
    tickets: Vec<OpenTicket>,
    /// All that isn't covered is wanted, whatever it is.
    wants_all: bool,
    /// Holes that are to be looked for now.
    gaps: BTreeMap<PartitionKey, RangeSet>,
    /// What no blob had, until the ledger is at hand: by another path it may be there already.
    missed: Vec<(PartitionKey, Range)>,
    /// What readers are at work on that heal holes.
    healing: BTreeMap<PartitionKey, RangeSet>,
    /// Holes that no blob had when it was looked, or that weren't healed to their end.
    unhealed: BTreeMap<PartitionKey, RangeSet>,
    /// Holes that were counted: each is once, however often it is met.
    counted: BTreeMap<PartitionKey, RangeSet>,
    sweep_at: Option<Instant>,
    /// Readers at work.
    readers: usize,
}

impl Captures {
    pub(super) fn new(source: Option<Arc<CaptureSource>>) -> Self {
        Self {
            source,
            generations: Vec::new(),
            looking: JoinSet::new(),
            look_at: None,
            backoff: Backoff::new(PAUSE, LONGEST_PAUSE),
            found: None,
            announcements: None,
            announced: Vec::new(),
            tickets: Vec::new(),
            wants_all: false,
            gaps: BTreeMap::new(),
            missed: Vec::new(),
            healing: BTreeMap::new(),
            unhealed: BTreeMap::new(),
            counted: BTreeMap::new(),
            sweep_at: None,
            readers: 0,
        }
    }

    /// Whether something is under way, or to be begun, that a run waits for which is to end by itself.
    pub(super) fn is_at_work(&self) -> bool {
        self.readers > 0 || !self.looking.is_empty() || self.found.is_some() || self.is_wanted()
    }

    fn is_wanted(&self) -> bool {
        self.wants_all || !self.gaps.is_empty() || !self.announced.is_empty()
    }

    pub(super) fn take_announced(&mut self, announced: Option<Announcement>) {
        match announced {
            Some(announced) => self.announced.push(announced),
            None => self.announcements = None,
        }
    }

    /// A blob that was read says its numbers; of one that was given up the message is to come back.
    pub(super) fn was_read(&mut self, path: &str, numbers: Option<Range>) {
        match numbers {
            Some(numbers) => {
                for open in self.tickets.iter_mut().filter(|open| open.path == path) {
                    open.numbers.get_or_insert(numbers);
                }
            }
            None => self.tickets.retain(|open| open.path != path),
        }
    }

    /// When there is something to do that nothing else wakes.
    pub(super) fn due_at(&self) -> Option<Instant> {
        [self.sweep_at, self.look_at].into_iter().flatten().min()
    }

    /// How many of these numbers were not counted as missing before.
    pub(super) fn count(&mut self, partition: &PartitionKey, missing: Range) -> u64 {
        let counted = self.counted.entry(partition.clone()).or_default();
        let new = counted.missing_in(missing).iter().map(Range::len).sum();
        counted.insert(missing);
        new
    }

    /// Keeps what was learned of blobs for the next process.
    pub(super) async fn keep_index(&self) {
        if let Some(source) = &self.source {
            source.keep_index().await;
        }
    }

    pub(super) fn ended(&mut self, partition: &PartitionKey) {
        self.readers = self.readers.saturating_sub(1);
        self.healing.remove(partition);
    }

    /// Nothing is read any more.
    pub(super) fn clear(&mut self) {
        *self = Self { source: self.source.take(), ..Self::new(None) };
    }
}

/// The next announcement; never ready without a queue.
///
/// # Cancel safety
/// As that of the channel: nothing is lost.
pub(super) async fn announced(announcements: &mut Option<mpsc::Receiver<Announcement>>) -> Option<Announcement> {
    match announcements {
        Some(announcements) => announcements.recv().await,
        None => std::future::pending().await,
    }
}

fn listed(listing: Result<Listing, CaptureError>) -> Result<Listing, PipelineError> {
    Ok(listing.map_err(SourceError::from)?)
}

impl Pipeline {
    /// A run that takes in what Capture has of the events enqueued in `between` and the table doesn't
    /// account for. It asks no hub and takes no lock: it may run beside the live pipeline.
    ///
    /// # Errors
    /// [`PipelineError::NoCapture`]; captures that can't be listed; errors of storage.
    pub async fn backfill(
        project: &ProjectSpec,
        spec: &PipelineSpec,
        between: EnqueuedBetween,
        options: PipelineOptions,
        status: PipelineStatus,
        shutdown: Shutdown,
    ) -> Result<Self, PipelineError> {
        let mut parts = Parts::of(project, spec, &options)?;
        let Some(captures) = parts.captures.clone() else {
            return Err(PipelineError::NoCapture { pipeline: spec.name.clone() });
        };
        let listing = Arc::new(captures.list(between.from).await.map_err(SourceError::from)?);
        let writers = setup::open_tables(spec, &parts.places, &options.fault_points).await?;
        parts.router = setup::router(&parts.router, spec, &parts.places, &writers).await?;
        let mut pipeline = Self::new(spec, parts, None, writers, options, status, shutdown);
        pipeline.captures.generations = generations(project, spec, between)?;
        pipeline.read_accepted().await;
        pipeline.read_uncovered(&listing, Missing::Between);
        Ok(pipeline)
    }

    /// A hole of the live path is looked for in the captures, where there are any; what they lack is told.
    pub(super) fn take_hole(&mut self, partition: PartitionKey, missing: Range, cause: HoleCause) {
        match cause {
            HoleCause::Retention | HoleCause::Unexplained if self.captures.source.is_some() => {
                let mut is_accepted = true;
                for target in &mut self.targets {
                    for missing in target.missing_in(&partition, missing) {
                        target.gaps.know(&partition, missing);
                        is_accepted &= target.gaps.accepts(&partition, missing);
                    }
                }
                if !is_accepted {
                    tracing::warn!(
                        pipeline = self.spec.name, %partition, %missing, cause = cause.as_str(),
                        numbers = missing.len(), "the hub lacks events: looking for them in the captures"
                    );
                }
                self.count_gaps();
                self.captures.gaps.entry(partition).or_default().insert(missing);
            }
            HoleCause::NotCaptured => self.captures.missed.push((partition, missing)),
            _ => self.report_hole(&partition, missing, cause),
        }
    }

    /// Whether something waits for the time between flushes, when the ledgers say what is missing.
    pub(super) fn waits_for_ledgers(&self) -> bool {
        !self.captures.missed.is_empty() || self.captures.found.is_some()
    }

    /// Tells what no blob has and a table doesn't account for by now, whoever filled it.
    async fn judge_missed(&mut self) {
        if self.captures.missed.is_empty() || !self.has_ledgers() {
            return;
        }
        for writer in self.targets.iter_mut().filter_map(|target| target.writer.as_mut()) {
            if let Err(error) = writer.catch_up().await {
                let (pipeline, table, error) = (&self.spec.name, writer.name(), report(&error));
                tracing::warn!(
                    pipeline,
                    table,
                    error,
                    "the log can't be read: what others committed may be told as missing"
                );
            }
        }
        for (partition, missed) in std::mem::take(&mut self.captures.missed) {
            let missing = missing_in_any(&self.targets, &partition, missed);
            if missing.is_empty() {
                continue;
            }
            for at in 0..self.targets.len() {
                for missing in self.targets[at].missing_in(&partition, missed) {
                    self.tell_missed(at, &partition, missing);
                }
            }
            if self.source.is_some() {
                self.sweep_later();
            }
            self.captures.unhealed.entry(partition).or_default().union(&missing);
        }
    }

    fn tell_missed(&mut self, at: usize, partition: &PartitionKey, missing: Range) {
        // Between blobs: a late one may have it. The next sweep tells.
        let may_come = self.source.is_none() && !self.options.until_caught_up;
        let target = &self.targets[at];
        let is_told = self.was_missing(partition, missing) || target.gaps.accepts(partition, missing);
        if may_come && !is_told {
            let (pipeline, table) = (&self.spec.name, &target.table);
            tracing::warn!(pipeline, table, %partition, %missing, "no blob has these numbers yet");
        } else {
            self.report_hole_of(at, partition, missing, HoleCause::NotCaptured);
        }
    }

    fn was_missing(&self, partition: &PartitionKey, missing: Range) -> bool {
        self.captures.unhealed.get(partition).is_some_and(|held| held.missing_in(missing).is_empty())
    }

    /// The captures are all there is to read: lists them now, and from time to time.
    pub(super) fn sweep(&mut self) {
        self.captures.wants_all = true;
        if !self.options.until_caught_up {
            self.captures.sweep_at = None;
            self.sweep_later();
        }
    }

    /// A reader has stopped before its end. What was to be healed is tried again at the next sweep: a schema may be there
    /// by then, or the events that were bad may be out of the way.
    pub(super) fn capture_stopped(&mut self, partition: &PartitionKey) {
        let was_healing = self.captures.healing.remove(partition);
        self.captures.ended(partition);
        if let Some(wanted) = was_healing.filter(|_| self.source.is_some() && !self.options.until_caught_up) {
            self.captures.unhealed.entry(partition.clone()).or_default().union(&wanted);
            self.sweep_later();
        }
    }

    fn sweep_later(&mut self) {
        let Some(capture) = &self.spec.capture else { return };
        let sweep_at = Instant::now() + capture.sweep_every;
        self.captures.sweep_at.get_or_insert(sweep_at);
    }

    /// Looks at the captures when there is something to look for, and reads what was found.
    pub(super) async fn heal_if_due(&mut self) {
        self.settle_tickets();
        self.judge_missed().await;
        if self.stop_reading.is_cancelled() {
            self.captures.wants_all = false;
            self.captures.gaps.clear();
            (self.captures.found, self.captures.sweep_at, self.captures.look_at) = (None, None, None);
            self.captures.announced.clear();
            return;
        }
        if self.captures.sweep_at.is_some_and(|at| at <= Instant::now()) {
            self.captures.sweep_at = None;
            if self.source.is_some() {
                for (partition, again) in std::mem::take(&mut self.captures.unhealed) {
                    self.captures.gaps.entry(partition).or_default().union(&again);
                }
            } else {
                self.sweep();
            }
        }
        // Wanted is what the ledger lacks, and during a flush nobody can say what that is.
        let has_ledgers = self.has_ledgers();
        if let Some(found) = self.captures.found.take_if(|_| has_ledgers) {
            self.read_captures(found);
            self.settle_tickets();
        }
        if self.captures.look_at.is_some_and(|at| at > Instant::now()) {
            return;
        }
        self.captures.look_at = None;
        let is_idle = self.captures.looking.is_empty() && self.captures.found.is_none() && self.captures.readers == 0;
        if let Some(source) = self.captures.source.clone().filter(|_| is_idle && self.captures.is_wanted()) {
            self.look(source);
        }
    }

    /// Looks at all blobs where anything may be wanted, else at those that were announced.
    fn look(&mut self, source: Arc<CaptureSource>) {
        if self.captures.wants_all || !self.captures.gaps.is_empty() {
            self.captures.looking.spawn(async move { Looked::All(listed(source.list(None).await)) });
            return;
        }
        let announced = std::mem::take(&mut self.captures.announced);
        // What is covered is never opened, where the announcement says what it is.
        let covered = |announced: &Announcement| {
            let holds = announced.holds.as_ref();
            holds.is_some_and(|holds| self.covers(&announced.name.partition, holds.first_enqueued_at, holds.range))
        };
        let (covered, unknown): (Vec<_>, Vec<_>) = announced.into_iter().partition(covered);
        covered.into_iter().for_each(|announced| announced.ticket.settle());
        if unknown.is_empty() {
            return;
        }
        self.captures.looking.spawn(async move {
            let blobs = unknown.iter().map(|announced| (announced.path.clone(), announced.name.clone())).collect();
            let looked = listed(source.look(blobs).await);
            Looked::Announced(unknown, looked)
        });
    }

    /// Whether every table accounts for these numbers, of the generation to which a blob belongs whose first
    /// event was enqueued then. Where there are several and nobody says when, it doesn't.
    fn covers(&self, partition: &str, first_enqueued_at: Option<i64>, numbers: Range) -> bool {
        if !self.has_ledgers() {
            return false;
        }
        let generation = match (self.captures.generations.as_slice(), first_enqueued_at) {
            ([only], _) => Some(only),
            (several, Some(at)) => several.iter().find(|generation| generation.lasts.has(at)),
            (_, None) => None,
        };
        generation.is_some_and(|generation| {
            let partition = PartitionKey::new(generation.source.clone(), partition);
            missing_in_any(&self.targets, &partition, numbers).is_empty()
        })
    }

    /// Lets go of the messages whose blobs are accounted for. Only between flushes does anybody know.
    fn settle_tickets(&mut self) {
        if !self.has_ledgers() || self.captures.tickets.is_empty() {
            return;
        }
        let tickets = std::mem::take(&mut self.captures.tickets);
        for open in tickets {
            match open.numbers {
                Some(numbers) if self.covers(&open.partition, open.first_enqueued_at, numbers) => open.ticket.settle(),
                _ => self.captures.tickets.push(open),
            }
        }
    }

    pub(super) fn take_looked(&mut self, looked: Looked) {
        let (announced, listing) = match looked {
            Looked::All(listing) => (Vec::new(), listing),
            Looked::Announced(announced, listing) => (announced, listing),
        };
        match listing {
            Ok(listing) => {
                self.captures.backoff.reset();
                let tickets = announced.into_iter().map(OpenTicket::from).collect();
                self.captures.found = Some(Found { listing: Arc::new(listing), tickets });
            }
            Err(error) => {
                self.captures.announced.extend(announced);
                self.look_later(error);
            }
        }
    }

    /// What was wanted is wanted still, and is looked for again.
    fn look_later(&mut self, error: PipelineError) {
        let is_given_up = self.options.until_caught_up && self.captures.backoff.failures() >= TRIES_WHEN_CATCHING_UP;
        if is_given_up || error.retry() == Retry::Never {
            self.fail(error);
            return;
        }
        let pause = self.captures.backoff.pause();
        let error = report(&error);
        tracing::warn!(pipeline = self.spec.name, error, ?pause, "the captures can't be looked into");
        self.status.change(|snapshot| snapshot.error = Some(error));
        self.captures.look_at = Some(Instant::now() + pause);
    }

    /// Begins to read what was missing, now that it is known which blobs there are.
    fn read_captures(&mut self, found: Found) {
        let Found { listing, tickets } = found;
        if !tickets.is_empty() {
            self.keep_tickets(&listing, tickets);
            self.read_uncovered(&listing, Missing::Unknown);
            return;
        }
        if std::mem::take(&mut self.captures.wants_all) {
            self.read_uncovered(&listing, Missing::Between);
        }
        // Of this generation alone: the one before has other events under the same numbers.
        let from = self.spec.source.generation.as_ref().map(|generation| generation.since);
        let lasts = EnqueuedBetween { from, to: None };
        for (partition, gaps) in std::mem::take(&mut self.captures.gaps) {
            let mut wanted = RangeSet::new();
            gaps.iter().for_each(|gap| wanted.union(&missing_in_any(&self.targets, &partition, gap)));
            let (listing, missing) = (Arc::clone(&listing), Missing::Wanted);
            if !wanted.is_empty() {
                self.captures.healing.entry(partition.clone()).or_default().union(&wanted);
            }
            let read = CaptureRead { partition, listing, wanted, generation: lasts, enqueued: lasts, missing };
            self.read_capture(read);
        }
    }

    /// Keeps the messages of blobs until those are covered.
    fn keep_tickets(&mut self, listing: &Listing, mut tickets: Vec<OpenTicket>) {
        // A blob that can't be looked into lets its message come back.
        tickets.retain(|open| !listing.torn.iter().any(|torn| torn.path() == Some(&open.path)));
        for open in tickets.extract_if(.., |open| listing.empty.iter().any(|empty| empty.as_ref() == open.path)) {
            open.ticket.settle();
        }
        for open in &mut tickets {
            let blobs = listing.partitions.get(&open.partition).into_iter().flatten();
            let Some(blob) = blobs.into_iter().find(|blob| blob.path.as_ref() == open.path) else { continue };
            open.first_enqueued_at = Some(blob.first_enqueued_at);
            // One that is covered as far as it can go isn't opened, and so never says how far it goes.
            let generations = self.captures.generations.iter();
            let generation = generations.clone().find(|generation| generation.lasts.has(blob.first_enqueued_at));
            let ranges = generation.map(|generation| listing.ranges(&open.partition, generation.lasts));
            let holds = ranges.into_iter().flatten().find(|(other, _)| other.path == blob.path).map(|(_, holds)| holds);
            let covered = holds.filter(|holds| self.covers(&open.partition, open.first_enqueued_at, *holds));
            open.numbers = open.numbers.or(covered);
        }
        self.captures.tickets.append(&mut tickets);
    }

    pub(super) fn tell_torn(&mut self, listing: &Listing) {
        for torn in &listing.torn {
            tracing::error!(pipeline = self.spec.name, error = report(torn), "a capture blob is torn");
        }
        self.summary.torn_blobs += listing.torn.len() as u64;
    }

    /// Begins to read whatever a ledger doesn't cover.
    fn read_uncovered(&mut self, listing: &Arc<Listing>, missing: Missing) {
        self.tell_torn(listing);
        for Generation { source, lasts, wanted: enqueued } in self.captures.generations.clone() {
            for partition in listing.partitions.keys() {
                let partition = PartitionKey::new(source.clone(), partition.as_str());
                let wanted = missing_in_any(&self.targets, &partition, Range::new(0, i64::MAX));
                let listing = Arc::clone(listing);
                self.read_capture(CaptureRead { partition, listing, wanted, generation: lasts, enqueued, missing });
            }
        }
    }

    pub(super) fn read_capture(&mut self, read: CaptureRead) {
        let Some(source) = self.captures.source.clone() else { return };
        if let Some(blob) = read.listing.counts_anew(&read.partition.partition, read.generation) {
            let at = DateTime::from_timestamp_millis(blob.first_enqueued_at).unwrap_or_default();
            let difference = format!(
                "blob `{}` begins with event {} of {}, and one of an earlier time begins past that",
                blob.path,
                blob.first,
                at.to_rfc3339_opts(SecondsFormat::Millis, true)
            );
            let generation = self.spec.source.generation.as_ref();
            self.fail(SourceError::counts_anew(&self.spec.source.hub, difference, generation, Some(at)).into());
            return;
        }
        let blobs = read.blobs().len() as u64;
        let can_tell = match read.missing {
            Missing::Wanted => !read.wanted.is_empty(),
            Missing::Between => true,
            Missing::Unknown => false,
        };
        if blobs == 0 && !can_tell {
            return;
        }
        tracing::info!(pipeline = self.spec.name, partition = %read.partition, blobs, "reading captures");
        self.status.change(|snapshot| snapshot.blobs += blobs);
        self.captures.readers += 1;
        self.spawn(EventsFrom::Capture { source, read });
    }
}
