//! One partition of a running pipeline: reads, decodes, hands on; fails and backs off alone.

use std::borrow::{Borrow, BorrowMut};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::PipelineError;
use super::reject_share::RejectShare;
use super::routes::{Picked, Pool, Routed, Router, Share, gathered};
use crate::batch::{Decoded, EventBatch};
use crate::checkpoint::{PartitionKey, Range};
use crate::compute;
use crate::decode::Decoder;
use crate::error::{Classify as _, Retry};
use crate::memory::{MemoryBudget, Reservation};
use crate::retry::Backoff;
use crate::sink::delta::SinkError;
use crate::sink::delta::evolve;
use crate::sink::delta::files::FileError;
use crate::sink::delta::schema::TableColumns;
use crate::sink::delta::staged::Staged;
use crate::source::capture::{CaptureRead, CaptureSource};
use crate::source::event_hubs::EventHubsSource;
use crate::source::{HoleCause, LastSeen, ReadPartition, SourceError, SourceEvent};

/// Events above which routing leaves the reactor, as decoding does.
const ROUTED_INLINE_MAX: usize = 200;

/// Batches read ahead of decode. One is decoded while the next is read; more would only hold memory.
const READ_AHEAD: usize = 2;

/// The first pause after a failure, and the longest.
const PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// A partition that another reader took over is left to that one for a while: coming back at
/// once would only take it from him, and so on for ever. It grows with each theft.
const PAUSE_AFTER_THEFT: Duration = Duration::from_secs(30);
const LONGEST_PAUSE_AFTER_THEFT: Duration = Duration::from_secs(600);

/// By which path a partition is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ReadPath {
    Live,
    Capture,
}

/// Where the events of a partition come from, and which are wanted.
pub enum EventsFrom {
    Live { source: Arc<EventHubsSource>, read: ReadPartition },
    Capture { source: Arc<CaptureSource>, read: CaptureRead },
}

impl EventsFrom {
    pub fn partition(&self) -> &PartitionKey {
        match self {
            Self::Live { read, .. } => &read.partition,
            Self::Capture { read, .. } => &read.partition,
        }
    }

    fn path(&self) -> ReadPath {
        match self {
            Self::Live { .. } => ReadPath::Live,
            Self::Capture { .. } => ReadPath::Capture,
        }
    }

    /// A reader of what is left of it, as a task of its own.
    fn reader(
        &self,
        budget: MemoryBudget,
        sender: mpsc::Sender<SourceEvent>,
        stop: CancellationToken,
    ) -> BoxFuture<'static, Result<(), SourceError>> {
        match self {
            Self::Live { source, read } => Arc::clone(source).read(read.clone(), budget, sender, stop).boxed(),
            Self::Capture { source, read } => Arc::clone(source).read(read.clone(), budget, sender, stop).boxed(),
        }
    }

    /// What was handed on isn't read again by the next reader. Capture readers have one life.
    fn move_to(&mut self, position: i64, last: Option<LastSeen>) {
        if let Self::Live { read, .. } = self {
            (read.position, read.last) = (position, last);
        }
    }
}

/// Decoded events of a partition on their way to a table, and the memory that they hold.
#[derive(Debug)]
pub struct Part {
    /// Which of the pipeline's tables.
    pub target: usize,
    pub path: ReadPath,
    /// Without the rows that are picked: no flush may take it before they are gathered.
    pub staged: Staged,
    /// Rows that lie among those of other tables.
    pub picked: Vec<Picked>,
    /// For all but what is picked.
    pub reservation: Reservation,
    /// The offset of the last event.
    pub last_offset: String,
}

impl Part {
    /// What it holds of the budget, with its share of what it has picked from.
    pub fn bytes(&self) -> usize {
        self.reservation.bytes() + self.picked.iter().map(Picked::bytes).sum::<usize>()
    }

    pub fn has_rows(&self) -> bool {
        self.staged.has_rows() || !self.picked.is_empty()
    }

    /// Whether none of its events is the table's.
    pub fn is_elsewhere(&self) -> bool {
        self.staged.is_elsewhere() && self.picked.is_empty()
    }

    /// Takes in what follows it at once; gives it back when it doesn't fit.
    ///
    /// # Errors
    /// What doesn't fit.
    pub fn join(&mut self, next: Self, budget: &MemoryBudget) -> Result<(), Box<Self>> {
        if self.path != next.path || !self.staged.is_followed_by(&next.staged) {
            return Err(Box::new(next));
        }
        let was_elsewhere = self.is_elsewhere() && next.is_elsewhere();
        self.staged.join(next.staged);
        self.picked.extend(next.picked);
        self.reservation.merge(next.reservation);
        self.last_offset = next.last_offset;
        if was_elsewhere {
            // Runs that meet are one.
            self.reservation.hold(self.staged.memory_bytes(), budget);
        }
        Ok(())
    }

    /// Takes its rows out from among those of others, and makes one batch of small ones. CPU work.
    ///
    /// # Errors
    /// [`FileError::Encode`]: the rows contradict their own types.
    pub fn gather(&mut self, budget: &MemoryBudget) -> Result<(), FileError> {
        let picked = std::mem::take(&mut self.picked);
        if picked.is_empty() && self.staged.batches.len() < 2 {
            return Ok(());
        }
        self.staged.batches = gathered(std::mem::take(&mut self.staged.batches), &picked).map_err(FileError::rows)?;
        // While others wait for memory nothing is free, and rows that nobody counts would be without bound.
        picked.iter().filter_map(Picked::take_share).for_each(|share| self.reservation.merge(share));
        drop(picked);
        self.reservation.hold(self.staged.memory_bytes(), budget);
        Ok(())
    }
}

impl Borrow<Staged> for Part {
    fn borrow(&self) -> &Staged {
        &self.staged
    }
}

impl BorrowMut<Staged> for Part {
    fn borrow_mut(&mut self) -> &mut Staged {
        &mut self.staged
    }
}

/// What a partition tells its pipeline's loop; one partition's events keep their order.
#[derive(Debug)]
pub enum PartitionEvent {
    /// A batch, as a part for each of the pipeline's tables.
    Parts {
        parts: Vec<Part>,
        /// Events of it that are no table's.
        filtered: u64,
    },
    Hole {
        partition: PartitionKey,
        missing: Range,
        cause: HoleCause,
    },
    Failed {
        partition: PartitionKey,
        error: String,
        retry_in: Duration,
    },
    Progress {
        partition: PartitionKey,
        last_enqueued: i64,
    },
    /// A capture blob was read to its end, and holds these numbers; or was given up before it.
    BlobRead {
        path: String,
        numbers: Option<Range>,
    },
    /// The declared end was reached, or reading was stopped; nothing more comes.
    Ended {
        partition: PartitionKey,
        path: ReadPath,
    },
    /// Its next events aren't to be taken in as they are: it is read no more, and others go on.
    Stopped {
        partition: PartitionKey,
        path: ReadPath,
        error: PipelineError,
    },
    /// Waiting won't mend it.
    Fatal {
        error: PipelineError,
    },
}

pub struct PartitionTask {
    pub from: EventsFrom,
    pub decoder: Arc<Decoder>,
    pub router: Arc<Router>,
    /// Each table, for words, and its columns, as its writer last saw them.
    pub tables: Vec<(String, watch::Receiver<TableColumns>)>,
    pub budget: MemoryBudget,
    /// What batches hold of which several tables have rows.
    pub pool: Pool,
    pub dense: bool,
    /// Where too many rejects stop it.
    pub rejects: Option<RejectShare>,
    pub events: mpsc::Sender<PartitionEvent>,
    pub stop: CancellationToken,
}

impl PartitionTask {
    /// Runs until stopped, caught up, or beyond mending; says so as its last event.
    pub async fn run(mut self) {
        let (partition, path) = (self.from.partition().clone(), self.from.path());
        let mut backoff = Backoff::new(PAUSE, LONGEST_PAUSE);
        let mut yielding = Backoff::new(PAUSE_AFTER_THEFT, LONGEST_PAUSE_AFTER_THEFT);
        let last = loop {
            match self.read_once(&mut backoff).await {
                Ok(()) => break PartitionEvent::Ended { partition, path },
                Err(PipelineError::Source(error @ SourceError::Stolen { .. })) => {
                    if self.pause(&error.to_string(), &mut yielding).await.is_err() {
                        break PartitionEvent::Ended { partition, path };
                    }
                }
                Err(
                    error
                    @ (PipelineError::Sink(SinkError::SchemaChange { .. }) | PipelineError::TooManyRejects { .. }),
                ) => {
                    break PartitionEvent::Stopped { partition, path, error };
                }
                Err(error) => break PartitionEvent::Fatal { error },
            }
        };
        // The loop that listens may be gone already, and then nobody needs to know.
        let _ = self.events.send(last).await;
    }

    /// One life of a reader. What it hands on moves `self.from`, so the next life goes on there.
    async fn read_once(&mut self, backoff: &mut Backoff) -> Result<(), PipelineError> {
        let (sender, mut receiver) = mpsc::channel(READ_AHEAD);
        let mut reader = JoinSet::new();
        let stop = self.stop.child_token();
        reader.spawn(self.from.reader(self.budget.clone(), sender, stop.clone()));
        let _stop_reader = stop.drop_guard();
        // Until the reader has ended and everything it said was heard.
        while let Some(event) = receiver.recv().await {
            if self.take(event, backoff).await?.is_none() {
                return Ok(());
            }
        }
        match reader.join_next().await {
            Some(Ok(ended)) => ended.map_err(PipelineError::from),
            Some(Err(source)) => Err(PipelineError::Task { task: "reader", source }),
            None => Ok(()),
        }
    }

    /// Hands one event on; none when nobody listens or the pipeline stops.
    async fn take(&mut self, event: SourceEvent, backoff: &mut Backoff) -> Result<Option<()>, PipelineError> {
        let event = match event {
            SourceEvent::Events { batch, reservation } => {
                let Some(parts) = self.decode(batch, reservation, backoff).await? else { return Ok(None) };
                parts
            }
            SourceEvent::Hole { partition, missing, cause } => {
                if cause != HoleCause::Compaction {
                    self.from.move_to(missing.to, None);
                }
                PartitionEvent::Hole { partition, missing, cause }
            }
            SourceEvent::Failed { partition, error, retry_in } => {
                PartitionEvent::Failed { partition, error: report(&error), retry_in }
            }
            SourceEvent::Progress { partition, last_enqueued_sequence_number, .. } => {
                PartitionEvent::Progress { partition, last_enqueued: last_enqueued_sequence_number }
            }
            SourceEvent::BlobRead { path, numbers, .. } => PartitionEvent::BlobRead { path, numbers },
            // The reader ends after it; the channel's end says the rest.
            SourceEvent::CaughtUp { .. } => return Ok(Some(())),
        };
        Ok(self.events.send(event).await.ok())
    }

    /// Decodes a batch, however long the registry takes; only this partition waits for it.
    async fn decode(
        &mut self,
        batch: EventBatch,
        reservation: Reservation,
        backoff: &mut Backoff,
    ) -> Result<Option<PartitionEvent>, PipelineError> {
        let Some(range) = self.account_for(&batch)? else {
            return Ok(Some(PartitionEvent::Parts { parts: Vec::new(), filtered: 0 }));
        };
        let batch = Arc::new(batch);
        let decoded = loop {
            match self.decoder.decode(Arc::clone(&batch)).await {
                Ok(decoded) => break decoded,
                Err(error) if error.retry() == Retry::Backoff => {
                    if self.pause(&report(&error), backoff).await.is_err() {
                        return Ok(None);
                    }
                }
                Err(error) => return Err(error.into()),
            }
        };
        backoff.reset();
        if let Some(share) = &mut self.rejects {
            let counted = share.count(Instant::now(), batch.events.len(), &decoded.rejects);
            let partition = || batch.partition.to_string();
            counted.map_err(|of| PipelineError::TooManyRejects { partition: partition(), of })?;
        }
        let routed = self.route(&batch, decoded).await?;
        self.refuse_misfits(&routed).await?;
        if let Some(last) = batch.events.last() {
            let (sequence_number, enqueued_at_ms) = (last.sequence_number, last.enqueued_at);
            self.from.move_to(range.to, Some(LastSeen { sequence_number, enqueued_at_ms }));
        }
        Ok(Some(self.parts(&batch, range, routed, reservation)))
    }

    async fn route(&self, batch: &Arc<EventBatch>, decoded: Decoded) -> Result<Routed, PipelineError> {
        let failed = |source| PipelineError::Routing { partition: batch.partition.to_string(), source };
        if batch.events.len() <= ROUTED_INLINE_MAX || self.router.is_trivial() {
            return self.router.split(batch, decoded).map_err(failed);
        }
        let (router, of) = (Arc::clone(&self.router), Arc::clone(batch));
        let routed = compute::spawn(move || router.split(&of, decoded)).await;
        routed.map_err(|source| PipelineError::Task { task: "routing", source })?.map_err(failed)
    }

    /// Where a table isn't to meet new schemas, their rows go no further.
    async fn refuse_misfits(&self, routed: &Routed) -> Result<(), PipelineError> {
        for ((table, columns), share) in self.tables.iter().zip(&routed.shares) {
            let columns = columns.borrow().clone();
            if !columns.refuses() || !share.has_rows() {
                continue;
            }
            let (table, (batches, picked)) = (table.clone(), (share.batches.clone(), share.picked.clone()));
            let look = compute::spawn(move || {
                let rows = gathered(batches, &picked);
                let rows = rows.map_err(|source| SinkError::Arrow { table: table.clone(), source })?;
                evolve::refuse_misfits(&table, &columns, &rows)
            });
            look.await.map_err(|source| PipelineError::Task { task: "looking at columns", source })??;
        }
        Ok(())
    }

    /// A part for each table; the reservation is theirs from here on, since the rows are what is held, and the
    /// events are gone.
    fn parts(&self, batch: &EventBatch, range: Range, routed: Routed, mut reservation: Reservation) -> PartitionEvent {
        let Routed { shares, shared, filtered } = routed;
        let last_offset = batch.events.last().map(|event| event.offset.as_str()).unwrap_or_default();
        let staged: Vec<(Staged, Vec<Picked>)> = shares
            .into_iter()
            .map(|Share { events, batches, picked, rejects, elsewhere }| {
                let partition = batch.partition.clone();
                (Staged { partition, range, events, elsewhere, batches, encoded: None, rejects }, picked)
            })
            .collect();
        let own: Vec<usize> = staged.iter().map(|(staged, _)| staged.memory_bytes()).collect();
        let of_several = shared.iter().map(|rows| rows.bytes()).sum::<usize>();
        reservation.hold(own.iter().sum::<usize>() + of_several, &self.budget);
        for rows in shared {
            rows.hold(reservation.split(rows.bytes()), &self.pool);
        }
        let parts = staged.into_iter().zip(own).enumerate().map(|(target, ((staged, picked), bytes))| {
            let reservation = reservation.split(bytes);
            Part { target, path: self.from.path(), staged, picked, reservation, last_offset: last_offset.to_owned() }
        });
        PartitionEvent::Parts { parts: parts.collect(), filtered }
    }

    /// What the events of a batch account for: exactly their own numbers; on a live source with holes all
    /// since the position.
    fn account_for(&self, batch: &EventBatch) -> Result<Option<Range>, PipelineError> {
        let (Some(first), Some(last)) = (batch.events.first(), batch.events.last()) else { return Ok(None) };
        let from = match &self.from {
            EventsFrom::Live { read, .. } if !self.dense => read.position.min(first.sequence_number),
            _ => first.sequence_number,
        };
        let range = Range::new(from, last.sequence_number + 1);
        let may_have_holes = !self.dense && self.from.path() == ReadPath::Live;
        if !may_have_holes && range.len() != batch.events.len() as u64 {
            return Err(PipelineError::Sparse {
                partition: batch.partition.to_string(),
                events: batch.events.len(),
                numbers: range.len(),
            });
        }
        Ok(Some(range))
    }

    /// Waits before the next try; an error when the pipeline stops meanwhile.
    async fn pause(&self, error: &str, backoff: &mut Backoff) -> Result<(), ()> {
        let retry_in = backoff.pause();
        let failed =
            PartitionEvent::Failed { partition: self.from.partition().clone(), error: error.to_owned(), retry_in };
        self.events.send(failed).await.map_err(|_| ())?;
        tokio::select! {
            () = tokio::time::sleep(retry_in) => Ok(()),
            () = self.stop.cancelled() => Err(()),
        }
    }
}

/// An error with its causes, on one line.
pub fn report(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let words = error.to_string();
        if !text.ends_with(&words) {
            text = format!("{text}: {words}");
        }
        cause = error.source();
    }
    text
}
