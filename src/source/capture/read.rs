//! One partition's share of the captures, blob after blob.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use object_store::path::Path;
use tokio::sync::mpsc;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::CaptureError;
use super::listing::{CaptureBlob, CaptureSource, Listing, next_window};
use super::record::RecordShape;
use crate::avro_container::{BLOCK_BYTES_MAX, Block, ContainerError, Header, Step};
use crate::batch::{Event, EventBatch, Origin};
use crate::checkpoint::{PartitionKey, Range, RangeSet};
use crate::compute;
use crate::memory::{MemoryBudget, Reservation};
use crate::retry::Backoff;
use crate::source::{HoleCause, SourceError, SourceEvent};

/// Bytes of a blob that are fetched at a time; each partition holds one such window. Larger ones cost
/// memory, smaller ones cost requests.
const WINDOW_BYTES: u64 = 2 << 20;

/// What a batch holds at most, in events and in bytes: enough that decoding pays its fixed cost seldom.
const BATCH_EVENTS: usize = 4_096;
const BATCH_BYTES: usize = 4 << 20;

/// Blocks up to this size are read where they are: it takes less than half a millisecond.
const INLINE_BYTES: usize = 256 << 10;

/// How often a blob is tried that is torn or can't be fetched. One that Capture still writes isn't
/// listed yet, so what is torn stays torn as a rule.
const TRIES: u32 = 4;

/// Which enqueued times are wanted: `[from, to)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EnqueuedBetween {
    pub from: Option<DateTime<Utc>>,
    pub to: Option<DateTime<Utc>>,
}

impl EnqueuedBetween {
    /// Whether a time (epoch ms) lies in it.
    pub fn has(&self, enqueued_at: i64) -> bool {
        !self.is_after(enqueued_at) && self.to.is_none_or(|to| enqueued_at < to.timestamp_millis())
    }

    /// Whether it begins after a time (epoch ms).
    pub(super) fn is_after(&self, enqueued_at: i64) -> bool {
        self.from.is_some_and(|from| enqueued_at < from.timestamp_millis())
    }
}

/// What to read of the captures.
#[derive(Debug, Clone)]
pub struct CaptureRead {
    pub partition: PartitionKey,
    pub listing: Arc<Listing>,
    /// The numbers that are wanted; others aren't handed on.
    pub wanted: RangeSet,
    /// When the events of the partition's generation were enqueued.
    pub generation: EnqueuedBetween,
    /// Which of them are wanted; never more than those of the generation.
    pub enqueued: EnqueuedBetween,
    pub missing: Missing,
}

/// Which of the wanted numbers are known to be missing when no blob has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// All: they were enqueued, and are looked for by their numbers.
    Wanted,
    /// Those between events that the blobs have, whether these were wanted or not: others were enqueued at
    /// another time, or never yet.
    Between,
    /// None: only some blobs were looked into, and what lies between them is in others.
    Unknown,
}

impl CaptureRead {
    /// The blobs that may hold what is wanted.
    pub fn blobs(&self) -> Vec<&CaptureBlob> {
        let ranges = self.listing.ranges(&self.partition.partition, self.generation);
        let mut chosen = Vec::new();
        for (at, (blob, holds)) in ranges.iter().enumerate() {
            // Times don't go back within a partition: the next blob's first event is not older than any of this.
            let next = ranges[at + 1..].iter().map(|(next, _)| *next).find(|next| next.first > blob.first);
            let ends_too_early = next.is_some_and(|next| self.enqueued.is_after(next.first_enqueued_at));
            let begins_too_late = self.enqueued.to.is_some_and(|to| blob.first_enqueued_at >= to.timestamp_millis());
            let is_wanted = self.wanted.iter().any(|wanted| wanted.from < holds.to && holds.from < wanted.to);
            if is_wanted && !begins_too_late && !ends_too_early {
                chosen.push(*blob);
            }
        }
        chosen
    }

    /// From the first to the last number that the blobs are known to have of what is enqueued as wanted.
    fn known(&self) -> Option<Range> {
        let ranges = self.listing.ranges(&self.partition.partition, self.generation);
        let firsts = ranges.iter().filter(|(blob, _)| self.enqueued.has(blob.first_enqueued_at));
        let firsts = firsts.filter(|(blob, _)| self.generation.has(blob.first_enqueued_at));
        firsts.map(|(blob, _)| Range::new(blob.first, blob.first.saturating_add(1))).reduce(spanning)
    }
}

/// The smallest range that holds both.
fn spanning(one: Range, other: Range) -> Range {
    Range::new(one.from.min(other.from), one.to.max(other.to))
}

impl CaptureSource {
    /// Reads what is wanted of one partition, then names what no blob had and ends. It is meant to be
    /// a task of the caller's `JoinSet`.
    ///
    /// A torn blob, or one that can't be fetched, is tried a few times, said with
    /// [`SourceEvent::Failed`], and left.
    ///
    /// # Errors
    /// None that waiting could mend: those are said.
    ///
    /// # Cancel safety
    /// `stop` ends it wherever it is; what was not sent by then isn't covered by anything.
    pub async fn read(
        self: Arc<Self>,
        read: CaptureRead,
        budget: MemoryBudget,
        sender: mpsc::Sender<SourceEvent>,
        stop: CancellationToken,
    ) -> Result<(), SourceError> {
        let seen = read.known();
        let mut reader = Reader { source: self, handed_on: RangeSet::new(), seen, read, budget, sender };
        // Nobody listens any more: as good as a stop.
        let _ = stop.run_until_cancelled(reader.run()).await;
        Ok(())
    }
}

struct Reader {
    source: Arc<CaptureSource>,
    read: CaptureRead,
    /// Numbers that were sent: blobs may overlap.
    handed_on: RangeSet,
    /// From the first to the last number that blobs have of what is enqueued as wanted, wanted or not.
    seen: Option<Range>,
    budget: MemoryBudget,
    sender: mpsc::Sender<SourceEvent>,
}

/// Why reading a blob ended before its end.
enum Ended {
    Unheard,
    Failed(CaptureError),
}

impl From<CaptureError> for Ended {
    fn from(error: CaptureError) -> Self {
        Self::Failed(error)
    }
}

impl Reader {
    async fn run(&mut self) -> Result<(), mpsc::error::SendError<SourceEvent>> {
        let partition = self.read.partition.clone();
        let blobs: Vec<CaptureBlob> = self.read.blobs().into_iter().cloned().collect();
        for blob in blobs {
            let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(10));
            let numbers = loop {
                let error = match self.blob(&blob).await {
                    Ok(numbers) => {
                        self.source.was_read(&blob, numbers.to);
                        break Some(numbers);
                    }
                    Err(Ended::Unheard) => return Ok(()),
                    Err(Ended::Failed(error)) => error,
                };
                let retry_in = backoff.pause();
                let is_given_up = backoff.failures() >= TRIES;
                tracing::warn!(%partition, %error, is_given_up, "a capture blob failed");
                let error = SourceError::Capture(Box::new(error));
                self.sender.send(SourceEvent::Failed { partition: partition.clone(), error, retry_in }).await?;
                if is_given_up {
                    break None;
                }
                sleep(retry_in).await;
            };
            let path = blob.path.to_string();
            self.sender.send(SourceEvent::BlobRead { partition: partition.clone(), path, numbers }).await?;
        }
        for missing in self.missing() {
            let hole = SourceEvent::Hole { partition: partition.clone(), missing, cause: HoleCause::NotCaptured };
            self.sender.send(hole).await?;
        }
        let position = self.handed_on.iter().last().map_or(0, |range| range.to);
        self.sender.send(SourceEvent::CaughtUp { partition, position }).await
    }

    /// What is wanted and no blob has.
    fn missing(&self) -> Vec<Range> {
        let between = match (self.read.missing, self.seen) {
            (Missing::Wanted, _) => Range::new(i64::MIN, i64::MAX),
            (Missing::Between, Some(seen)) => seen,
            (Missing::Between | Missing::Unknown, _) => return Vec::new(),
        };
        let wanted = self.read.wanted.iter();
        let within = wanted.map(|wanted| Range::new(wanted.from.max(between.from), wanted.to.min(between.to)));
        within.flat_map(|within| self.handed_on.missing_in(within)).collect()
    }

    /// One blob; gives the numbers that it holds. What was read of it before an error is handed on: it is
    /// sound, and marked as such.
    async fn blob(&mut self, blob: &CaptureBlob) -> Result<Range, Ended> {
        let mut batch = Batch::new(Origin::Capture(format!("{}{}", self.source.url, blob.path).into()));
        let read = self.blocks(blob, &mut batch).await;
        self.send(&mut batch).await?;
        read
    }

    /// From the header to the last block.
    async fn blocks(&mut self, blob: &CaptureBlob, batch: &mut Batch) -> Result<Range, Ended> {
        let container = |source| CaptureError::Container { path: blob.path.to_string(), source };
        let mut window = self.source.fetch(&blob.path, 0, WINDOW_BYTES, blob.bytes).await?;
        let header = loop {
            match Header::read(&window).map_err(container)? {
                Step::Whole(header) => break header,
                Step::Needs(more) => {
                    let is_whole = window.len() as u64 >= blob.bytes;
                    let bytes = next_window(more as u64, window.len() as u64, is_whole, blob.bytes);
                    window = self.source.fetch(&blob.path, 0, bytes.map_err(container)?, blob.bytes).await?;
                }
            }
        };
        let shape = RecordShape::parse(&header.schema)
            .map_err(|source| CaptureError::Record { path: blob.path.to_string(), source })?;
        let shape = Arc::new(shape);
        let mut at = header.bytes as u64;
        let mut rest = window.split_off(header.bytes);
        let mut numbers = Range::new(blob.first, blob.first);
        while at < blob.bytes {
            let block = match header.block(&rest, at).map_err(container)? {
                Step::Whole(block) => block,
                Step::Needs(more) => {
                    // A block is fetched anew from its own start: a piece of it twice costs less than a copy.
                    rest = self.next_of(blob, at, more as u64).await?;
                    continue;
                }
            };
            at += block.bytes as u64;
            rest = rest.split_off(block.bytes);
            for event in events(&shape, block, &blob.path).await? {
                numbers.to = numbers.to.max(event.sequence_number.saturating_add(1));
                self.take(event, batch).await?;
            }
        }
        Ok(numbers)
    }

    async fn next_of(&self, blob: &CaptureBlob, at: u64, needs: u64) -> Result<Bytes, CaptureError> {
        let left = blob.bytes - at;
        if needs > left {
            let needed = usize::try_from(needs).unwrap_or(usize::MAX);
            let source = ContainerError::CutOff { at, needed, left };
            return Err(CaptureError::Container { path: blob.path.to_string(), source });
        }
        self.source.fetch(&blob.path, at, needs.max(WINDOW_BYTES), blob.bytes).await
    }

    async fn take(&mut self, event: Event, batch: &mut Batch) -> Result<(), Ended> {
        let number = event.sequence_number;
        if !self.read.enqueued.has(event.enqueued_at) {
            return Ok(());
        }
        let at = Range::new(number, number.saturating_add(1));
        self.seen = Some(self.seen.map_or(at, |seen| spanning(seen, at)));
        if !self.read.wanted.contains(number) || self.handed_on.contains(number) {
            return Ok(());
        }
        if batch.is_full() || batch.next.is_some_and(|next| next != number) {
            self.send(batch).await?;
        }
        self.handed_on.insert(at);
        batch.push(event);
        Ok(())
    }

    async fn send(&mut self, batch: &mut Batch) -> Result<(), Ended> {
        let (events, bytes) = batch.take();
        if events.is_empty() {
            return Ok(());
        }
        let reservation: Reservation = self.budget.reserve(bytes).await;
        let batch = EventBatch { partition: self.read.partition.clone(), origin: batch.origin.clone(), events };
        let sent = self.sender.send(SourceEvent::Events { batch, reservation }).await;
        sent.map_err(|_| Ended::Unheard)
    }
}

/// Unpacking and reading a large block is CPU work: it leaves the reactor.
pub(super) async fn events(shape: &Arc<RecordShape>, block: Block, path: &Path) -> Result<Vec<Event>, CaptureError> {
    if block.is_plain() && block.packed.len() <= INLINE_BYTES {
        return events_of(shape, &block, path);
    }
    let (shape, path) = (Arc::clone(shape), path.clone());
    let read = compute::spawn(move || events_of(&shape, &block, &path));
    read.await.map_err(CaptureError::Task)?
}

fn events_of(shape: &RecordShape, block: &Block, path: &Path) -> Result<Vec<Event>, CaptureError> {
    let data =
        block.unpacked(BLOCK_BYTES_MAX).map_err(|source| CaptureError::Container { path: path.to_string(), source })?;
    let events = shape.events(&data, block.records);
    events.map_err(|source| CaptureError::Record { path: path.to_string(), source })
}

/// Events that follow one another.
struct Batch {
    origin: Origin,
    events: Vec<Event>,
    bytes: usize,
    next: Option<i64>,
}

impl Batch {
    fn new(origin: Origin) -> Self {
        Self { origin, events: Vec::new(), bytes: 0, next: None }
    }

    fn is_full(&self) -> bool {
        self.events.len() >= BATCH_EVENTS || self.bytes >= BATCH_BYTES
    }

    fn push(&mut self, event: Event) {
        self.bytes += event.memory_bytes();
        self.next = event.sequence_number.checked_add(1);
        self.events.push(event);
    }

    fn take(&mut self) -> (Vec<Event>, usize) {
        self.next = None;
        (std::mem::take(&mut self.events), std::mem::take(&mut self.bytes))
    }
}
