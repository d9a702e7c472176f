//! One partition of a running pipeline: reads, decodes, hands on; fails and backs off alone.

use std::borrow::{Borrow, BorrowMut};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::PipelineError;
use super::reject_share::RejectShare;
use crate::batch::{Decoded, EventBatch};
use crate::checkpoint::{PartitionKey, Range};
use crate::compute;
use crate::decode::Decoder;
use crate::error::{Classify as _, Retry};
use crate::memory::{MemoryBudget, Reservation};
use crate::retry::Backoff;
use crate::sink::delta::SinkError;
use crate::sink::delta::evolve;
use crate::sink::delta::schema::TableColumns;
use crate::sink::delta::staged::Staged;
use crate::source::capture::{CaptureRead, CaptureSource};
use crate::source::event_hubs::EventHubsSource;
use crate::source::{HoleCause, LastSeen, ReadPartition, SourceError, SourceEvent};

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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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

/// Decoded events of a partition, and the memory that they hold.
#[derive(Debug)]
pub struct Part {
    pub path: ReadPath,
    pub staged: Staged,
    pub reservation: Reservation,
    /// The offset of the last event.
    pub last_offset: String,
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
    Part(Part),
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
    /// The table's name, for words.
    pub table: String,
    /// The columns of the table, as its writer last saw them.
    pub columns: watch::Receiver<TableColumns>,
    pub budget: MemoryBudget,
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
                let Some(part) = self.decode(batch, reservation, backoff).await? else { return Ok(None) };
                PartitionEvent::Part(part)
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
        mut reservation: Reservation,
        backoff: &mut Backoff,
    ) -> Result<Option<Part>, PipelineError> {
        let Some(range) = self.account_for(&batch)? else { return Ok(Some(self.nothing(batch, reservation))) };
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
        let Decoded { batches, rejects } = decoded;
        let batches = self.refuse_misfits(batches).await?;
        if let Some(share) = &mut self.rejects {
            let counted = share.count(Instant::now(), batch.events.len(), &rejects);
            let partition = || batch.partition.to_string();
            counted.map_err(|of| PipelineError::TooManyRejects { partition: partition(), of })?;
        }
        let events: Vec<_> = batch.events.iter().map(|event| (event.sequence_number, event.enqueued_at)).collect();
        if let Some(&(sequence_number, enqueued_at_ms)) = events.last() {
            self.from.move_to(range.to, Some(LastSeen { sequence_number, enqueued_at_ms }));
        }
        let partition = batch.partition.clone();
        let last_offset = batch.events.last().map(|event| event.offset.clone()).unwrap_or_default();
        let staged = Staged { partition, range, events, batches, encoded: None, rejects };
        // From here on the rows are what is held, and the events are gone.
        reservation.hold(staged.memory_bytes(), &self.budget);
        Ok(Some(Part { path: self.from.path(), staged, reservation, last_offset }))
    }

    /// Where the table isn't to meet new schemas, their rows go no further.
    async fn refuse_misfits(&self, batches: Vec<RecordBatch>) -> Result<Vec<RecordBatch>, PipelineError> {
        let columns = self.columns.borrow().clone();
        if !columns.refuses() {
            return Ok(batches);
        }
        let table = self.table.clone();
        let look = compute::spawn(move || evolve::refuse_misfits(&table, &columns, &batches).map(|()| batches));
        Ok(look.await.map_err(|source| PipelineError::Task { task: "looking at columns", source })??)
    }

    fn nothing(&self, batch: EventBatch, reservation: Reservation) -> Part {
        let range = Range::new(0, 0);
        let staged = Staged {
            partition: batch.partition,
            range,
            events: Vec::new(),
            batches: Vec::new(),
            encoded: None,
            rejects: Vec::new(),
        };
        Part { path: self.from.path(), staged, reservation, last_offset: String::new() }
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
