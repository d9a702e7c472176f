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

use chrono::{DateTime, Utc};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::{Parts, Pipeline, PipelineOptions};
use crate::checkpoint::{PartitionKey, Range, RangeSet, SourceId};
use crate::config::source_id;
use crate::config::spec::{GenerationSpec, PipelineSpec, ProjectSpec};
use crate::pipeline::PipelineError;
use crate::pipeline::announcements::{Announcement, Ticket};
use crate::pipeline::partition::{EventsFrom, report};
use crate::pipeline::setup;
use crate::pipeline::status::PipelineStatus;
use crate::shutdown::Shutdown;
use crate::sink::delta::writer::TableWriter;
use crate::source::capture::{CaptureRead, CaptureSource, EnqueuedBetween, Listing, Missing};
use crate::source::{HoleCause, SourceError};

/// Blobs that were looked into, and the messages that announced them; a sweep has none.
pub(super) struct Listed {
    listing: Arc<Listing>,
    tickets: Vec<OpenTicket>,
}

/// A message that is settled once the numbers of a blob are covered.
struct OpenTicket {
    path: String,
    partition: String,
    /// When the blob's window ended, by its name.
    window: DateTime<Utc>,
    /// As it was announced, or once the blob was read.
    numbers: Option<Range>,
    ticket: Ticket,
}

impl From<Announcement> for OpenTicket {
    fn from(announced: Announcement) -> Self {
        let Announcement { path, name, holds, ticket } = announced;
        let numbers = holds.map(|holds| holds.range);
        Self { path: path.to_string(), partition: name.partition, window: name.window, numbers, ticket }
    }
}

/// What a pipeline reads of the captures, and what it still lacks.
pub(super) struct Captures {
    source: Option<Arc<CaptureSource>>,
    /// Whose events may lie in the blobs, and when those were enqueued.
    pub(super) generations: Vec<(SourceId, EnqueuedBetween)>,
    pub(super) listing: JoinSet<Result<Listed, PipelineError>>,
    /// What was found, until the ledger is at hand.
    listed: Option<Listed>,
    pub(super) announcements: Option<mpsc::Receiver<Announcement>>,
    /// Blobs that were announced and aren't looked into yet.
    announced: Vec<Announcement>,
    /// Messages that wait for what they announced.
    tickets: Vec<OpenTicket>,
    /// All that isn't covered is wanted, whatever it is.
    wants_all: bool,
    /// Holes that are to be looked for now.
    gaps: BTreeMap<PartitionKey, RangeSet>,
    /// Holes that no blob had when it was looked.
    unhealed: BTreeMap<PartitionKey, RangeSet>,
    sweep_at: Option<Instant>,
    /// Readers at work.
    readers: usize,
}

impl Captures {
    pub(super) fn new(source: Option<Arc<CaptureSource>>) -> Self {
        Self {
            source,
            generations: Vec::new(),
            listing: JoinSet::new(),
            listed: None,
            announcements: None,
            announced: Vec::new(),
            tickets: Vec::new(),
            wants_all: false,
            gaps: BTreeMap::new(),
            unhealed: BTreeMap::new(),
            sweep_at: None,
            readers: 0,
        }
    }

    /// Whether something is under way, or to be begun, that a run waits for which is to end by itself.
    pub(super) fn is_at_work(&self) -> bool {
        self.readers > 0 || !self.listing.is_empty() || self.listed.is_some() || self.is_wanted()
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

    /// When the blobs are listed again.
    pub(super) fn sweep_at(&self) -> Option<Instant> {
        self.sweep_at
    }

    pub(super) fn ended(&mut self) {
        self.readers = self.readers.saturating_sub(1);
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
        let parts = Parts::of(project, spec)?;
        let Some(captures) = parts.captures.clone() else {
            return Err(PipelineError::NoCapture { pipeline: spec.name.clone() });
        };
        let listing = Arc::new(captures.list(between.from).await.map_err(SourceError::from)?);
        let writer = TableWriter::open(setup::table_spec(spec, &parts.places, options.fault_points.clone())?).await?;
        let mut pipeline = Self::new(spec, parts, None, writer, options, status, shutdown);
        pipeline.captures.generations = generations(project, spec, between)?;
        pipeline.read_uncovered(&listing, Missing::Between);
        Ok(pipeline)
    }

    /// A hole of the live path is looked for in the captures, where there are any; what they lack is told.
    pub(super) fn take_hole(&mut self, partition: PartitionKey, missing: Range, cause: HoleCause) {
        match cause {
            HoleCause::Retention | HoleCause::Unexplained if self.captures.source.is_some() => {
                tracing::warn!(
                    pipeline = self.spec.name, %partition, %missing, cause = cause.as_str(), numbers = missing.len(),
                    "the hub lacks events: looking for them in the captures"
                );
                self.captures.gaps.entry(partition).or_default().insert(missing);
            }
            HoleCause::NotCaptured if self.source.is_some() => {
                self.report_hole(&partition, missing, cause);
                self.captures.unhealed.entry(partition).or_default().insert(missing);
                self.sweep_later();
            }
            // Between blobs: a late one may have it. The next sweep tells.
            HoleCause::NotCaptured if !self.options.until_caught_up && !self.was_missing(&partition, missing) => {
                tracing::warn!(pipeline = self.spec.name, %partition, %missing, "no blob has these numbers yet");
                self.captures.unhealed.entry(partition).or_default().insert(missing);
            }
            _ => self.report_hole(&partition, missing, cause),
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

    fn sweep_later(&mut self) {
        let Some(capture) = &self.spec.capture else { return };
        let sweep_at = Instant::now() + capture.sweep_every;
        self.captures.sweep_at.get_or_insert(sweep_at);
    }

    /// Lists the captures when there is something to look for, and reads what was found.
    pub(super) fn heal_if_due(&mut self) {
        self.settle_tickets();
        if self.stop_reading.is_cancelled() {
            self.captures.wants_all = false;
            self.captures.gaps.clear();
            (self.captures.listed, self.captures.sweep_at) = (None, None);
            self.captures.announced.clear();
            return;
        }
        if self.captures.sweep_at.is_some_and(|at| at <= Instant::now()) {
            self.captures.sweep_at = None;
            if self.source.is_some() {
                let again = std::mem::take(&mut self.captures.unhealed);
                self.captures.gaps.extend(again);
            } else {
                self.sweep();
            }
        }
        // Wanted is what the ledger lacks, and during a flush nobody can say what that is.
        if let Some(listed) = self.captures.listed.take_if(|_| self.writer.is_some()) {
            self.read_captures(listed);
            self.settle_tickets();
        }
        let is_idle = self.captures.listing.is_empty() && self.captures.listed.is_none() && self.captures.readers == 0;
        if let Some(source) = self.captures.source.clone().filter(|_| is_idle && self.captures.is_wanted()) {
            self.list(source);
        }
    }

    /// Looks into all blobs where anything may be wanted, else into those that were announced.
    fn list(&mut self, source: Arc<CaptureSource>) {
        if self.captures.wants_all || !self.captures.gaps.is_empty() {
            self.captures.listing.spawn(async move {
                let listing = Arc::new(source.list(None).await.map_err(SourceError::from)?);
                Ok(Listed { listing, tickets: Vec::new() })
            });
            return;
        }
        let announced = std::mem::take(&mut self.captures.announced);
        // What is covered is never opened, where the announcement says what it is.
        let covered = |announced: &Announcement| {
            let numbers = announced.holds.as_ref().map(|holds| holds.range);
            numbers.is_some_and(|numbers| self.covers(&announced.name.partition, announced.name.window, numbers))
        };
        let (covered, unknown): (Vec<_>, Vec<_>) = announced.into_iter().partition(covered);
        covered.into_iter().for_each(|announced| announced.ticket.settle());
        if unknown.is_empty() {
            return;
        }
        self.captures.listing.spawn(async move {
            let blobs = unknown.iter().map(|announced| (announced.path.clone(), announced.name.clone())).collect();
            let listing = Arc::new(source.look(blobs).await.map_err(SourceError::from)?);
            Ok(Listed { listing, tickets: unknown.into_iter().map(OpenTicket::from).collect() })
        });
    }

    /// Whether the table accounts for these numbers, of the generation to which a blob of this window
    /// belongs: the one before has other events under the same numbers.
    fn covers(&self, partition: &str, window: DateTime<Utc>, numbers: Range) -> bool {
        let Some(writer) = &self.writer else { return false };
        let mut generations = self.captures.generations.iter();
        let Some((source, _)) = generations.find(|(_, enqueued)| enqueued.from.is_none_or(|from| window >= from))
        else {
            return false;
        };
        let partition = PartitionKey::new(source.clone(), partition);
        writer.ledger().coverage(&partition).missing_in(numbers).is_empty()
    }

    /// Lets go of the messages whose blobs are accounted for. Only between flushes does anybody know.
    fn settle_tickets(&mut self) {
        if self.writer.is_none() || self.captures.tickets.is_empty() {
            return;
        }
        let tickets = std::mem::take(&mut self.captures.tickets);
        for open in tickets {
            match open.numbers {
                Some(numbers) if self.covers(&open.partition, open.window, numbers) => open.ticket.settle(),
                _ => self.captures.tickets.push(open),
            }
        }
    }

    pub(super) fn take_listed(&mut self, listed: Result<Listed, PipelineError>) {
        let error = match listed {
            Ok(listed) => {
                self.captures.listed = Some(listed);
                return;
            }
            Err(error) => error,
        };
        tracing::error!(pipeline = self.spec.name, error = report(&error), "the captures can't be looked into");
        self.captures.wants_all = false;
        for (partition, missing) in std::mem::take(&mut self.captures.gaps) {
            missing.iter().for_each(|missing| self.take_hole(partition.clone(), missing, HoleCause::NotCaptured));
        }
        if self.options.until_caught_up {
            self.fail(error);
        }
    }

    /// Begins to read what was missing, now that it is known which blobs there are.
    fn read_captures(&mut self, listed: Listed) {
        let Listed { listing, mut tickets } = listed;
        let listing = &listing;
        if !tickets.is_empty() {
            // A blob that can't be looked into lets its message come back.
            tickets.retain(|open| !listing.torn.iter().any(|torn| torn.path() == Some(&open.path)));
            for open in tickets.extract_if(.., |open| listing.empty.iter().any(|empty| empty.as_ref() == open.path)) {
                open.ticket.settle();
            }
            // One that is covered as far as it can go isn't opened, and so never says how far it goes.
            for open in tickets.iter_mut().filter(|open| open.numbers.is_none()) {
                let holds = listing.ranges(&open.partition).find(|(blob, _)| blob.path.as_ref() == open.path);
                open.numbers =
                    holds.map(|(_, holds)| holds).filter(|holds| self.covers(&open.partition, open.window, *holds));
            }
            self.captures.tickets.append(&mut tickets);
            self.read_uncovered(listing, Missing::Unknown);
            return;
        }
        if std::mem::take(&mut self.captures.wants_all) {
            self.read_uncovered(listing, Missing::Between);
        }
        for (partition, wanted) in std::mem::take(&mut self.captures.gaps) {
            // Of this generation alone: the one before has other events under the same numbers.
            let from = self.spec.source.generation.as_ref().map(|generation| generation.since);
            let enqueued = EnqueuedBetween { from, to: None };
            let (listing, missing) = (Arc::clone(listing), Missing::Wanted);
            self.read_capture(CaptureRead { partition, listing, wanted, enqueued, missing });
        }
    }

    /// Begins to read whatever the ledger doesn't cover.
    fn read_uncovered(&mut self, listing: &Arc<Listing>, missing: Missing) {
        for torn in &listing.torn {
            tracing::error!(pipeline = self.spec.name, error = report(torn), "a capture blob is torn");
        }
        self.summary.torn_blobs += listing.torn.len() as u64;
        for (source, enqueued) in self.captures.generations.clone() {
            for partition in listing.partitions.keys() {
                let partition = PartitionKey::new(source.clone(), partition.as_str());
                let covered = self.writer.as_ref().map(|writer| writer.ledger().coverage(&partition));
                let uncovered = covered.unwrap_or_default().missing_in(Range::new(0, i64::MAX));
                let wanted = uncovered.into_iter().collect();
                let listing = Arc::clone(listing);
                self.read_capture(CaptureRead { partition, listing, wanted, enqueued, missing });
            }
        }
    }

    fn read_capture(&mut self, read: CaptureRead) {
        let Some(source) = self.captures.source.clone() else { return };
        let blobs = read.blobs().len() as u64;
        if blobs == 0 && read.missing != Missing::Wanted {
            return;
        }
        tracing::info!(pipeline = self.spec.name, partition = %read.partition, blobs, "reading captures");
        self.status.change(|snapshot| snapshot.blobs += blobs);
        self.captures.readers += 1;
        self.spawn(EventsFrom::Capture { source, read });
    }
}

/// The generations whose events may lie in the captures, and when those were enqueued. What came before
/// `since` belongs to the generation before, whose name follows from this one's.
pub(super) fn generations(
    project: &ProjectSpec,
    spec: &PipelineSpec,
    between: EnqueuedBetween,
) -> Result<Vec<(SourceId, EnqueuedBetween)>, PipelineError> {
    let present = setup::source_of(project, spec)?;
    let Some(generation) = &spec.source.generation else { return Ok(vec![(present, between)]) };
    let since = generation.since;
    let mut found = Vec::new();
    if between.to.is_none_or(|to| to > since) {
        let from = Some(between.from.map_or(since, |from| from.max(since)));
        found.push((present, EnqueuedBetween { from, ..between }));
    }
    if between.from.is_none_or(|from| from < since) {
        let to = Some(between.to.map_or(since, |to| to.min(since)));
        found.push((before(project, spec, generation)?, EnqueuedBetween { to, ..between }));
    }
    Ok(found)
}

/// `2` follows the hub that had no generation yet, `3` follows `2`.
fn before(project: &ProjectSpec, spec: &PipelineSpec, generation: &GenerationSpec) -> Result<SourceId, PipelineError> {
    let hubs = project.event_hubs.as_ref().ok_or_else(|| PipelineError::NoEventHubs { pipeline: spec.name.clone() })?;
    let name = match generation.name.parse::<u64>() {
        Ok(2) => None,
        Ok(number) if number > 2 => Some((number - 1).to_string()),
        _ => {
            return Err(PipelineError::GenerationBefore {
                pipeline: spec.name.clone(),
                generation: generation.name.clone(),
            });
        }
    };
    let before = name.map(|name| GenerationSpec { name, since: generation.since });
    Ok(source_id(hubs, &spec.source.hub, before.as_ref()))
}
