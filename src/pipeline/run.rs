//! The event loop of one pipeline: takes in decoded events, commits them in groups.
//!
//! A flush runs beside the loop and owns the table's writer meanwhile; the loop goes on
//! taking in. A flush that fails keeps its events and is tried again with backoff, before
//! anything that came later.

mod ahead;
mod capture;
mod flush;
mod gaps;
mod summary;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::ahead::{Ahead, Encoded};
use self::capture::{Captures, Looked};
use self::flush::FlushEnded;
use self::gaps::{Gaps, LookedAtTable};
pub use self::summary::{PipelineSummary, peak_rss_bytes};
use super::PipelineError;
use super::announcements::Announcement;
use super::checkpoints::Checkpoints;
use super::generations::generations;
use super::lock::PipelineLock;
use super::partition::{EventsFrom, Part, PartitionEvent, PartitionTask, ReadPath, report};
use super::reject_share::RejectShare;
use super::setup::{self, PartitionStart, Places};
use super::status::{PipelineStatus, State};
use crate::checkpoint::PartitionKey;
use crate::config::spec::{PipelineSpec, ProjectSpec, Start};
use crate::decode::Decoder;
use crate::error::{Classify as _, Retry};
use crate::fault_points::FaultPoints;
use crate::memory::MemoryBudget;
use crate::retry::Backoff;
use crate::shutdown::Shutdown;
use crate::sink::delta::SinkError;
use crate::sink::delta::files::FileError;
use crate::sink::delta::schema::TableColumns;
use crate::sink::delta::writer::TableWriter;
use crate::source::capture::{CaptureSource, EnqueuedBetween, Listing};
use crate::source::event_hubs::EventHubsSource;
use crate::source::{HoleCause, SourceError};
use crate::telemetry::metrics;

/// Decoded batches that wait for the loop. It never does more than put them aside, so a few
/// are plenty; what they hold is within the memory budget anyway.
const EVENTS: usize = 16;

/// How often the hub is asked for partitions that were added.
const LOOK_FOR_PARTITIONS_EVERY: Duration = Duration::from_secs(30);

/// How long readers may take to end after a stop. A call to the hub that hangs would hold the
/// whole drain until its own timeout; what such a reader still holds is read again by the next start.
const READERS_END_WITHIN: Duration = Duration::from_secs(5);

const PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// A run that is to end by itself doesn't wait for a hub or a table longer than this many tries.
const TRIES_WHEN_CATCHING_UP: u32 = 6;

/// How a pipeline runs.
#[derive(Debug, Clone)]
pub struct PipelineOptions {
    /// End at the last numbers read at the start.
    pub until_caught_up: bool,
    pub fault_points: FaultPoints,
}

pub struct Pipeline {
    spec: PipelineSpec,
    /// The table's name, for words and labels.
    table: String,
    options: PipelineOptions,
    /// None in a backfill, which asks no hub.
    source: Option<Arc<EventHubsSource>>,
    captures: Captures,
    gaps: Gaps,
    decoder: Arc<Decoder>,
    /// For partitions, the table's columns as the writer last saw them.
    columns: watch::Sender<TableColumns>,
    checkpoints: Arc<Checkpoints>,
    budget: MemoryBudget,
    status: PipelineStatus,
    shutdown: Shutdown,
    _lock: Option<PipelineLock>,
    /// Here between flushes, with the flush while one runs; gone for good after an error that can't pass.
    writer: Option<TableWriter>,
    partitions: JoinSet<()>,
    /// Cancelled to end every partition's reading.
    stop_reading: CancellationToken,
    sender: mpsc::Sender<PartitionEvent>,
    receiver: mpsc::Receiver<PartitionEvent>,
    /// Events taken in and not yet settled by a commit.
    in_flight: BTreeMap<PartitionKey, u64>,
    /// When the newest event taken in was enqueued, epoch ms.
    taken_at_ms: BTreeMap<PartitionKey, i64>,
    /// Partitions that still read.
    reading: BTreeMap<PartitionKey, ()>,
    /// Partitions that are read no more until the next start, and why.
    stopped: BTreeMap<PartitionKey, PipelineError>,
    /// What waits for a flush.
    pending: Ahead,
    pending_since: Option<Instant>,
    flush: JoinSet<FlushEnded>,
    /// Not before this is a failed flush tried again.
    retry_at: Option<Instant>,
    backoff: Backoff,
    /// When readers that haven't ended after a stop are dropped.
    drop_readers_at: Option<Instant>,
    added: JoinSet<Result<Vec<String>, PipelineError>>,
    look_at: Instant,
    summary: PipelineSummary,
    failure: Option<PipelineError>,
}

/// What the loop waits for.
enum Event {
    Partition(Option<PartitionEvent>),
    FlushEnded(Box<FlushEnded>),
    FlushLost(tokio::task::JoinError),
    Encoded(Result<Result<Encoded, FileError>, tokio::task::JoinError>),
    Added(Result<Vec<String>, PipelineError>),
    Looked(Looked),
    LookedAtTable(LookedAtTable),
    /// A blob was announced; nothing, when no more announcements come.
    Announced(Option<Announcement>),
    /// It may be time to flush or to look for partitions.
    Tick,
    Stop,
    Abort,
}

impl Pipeline {
    /// Finds hub and table, commits first starts, and begins to read.
    ///
    /// # Errors
    /// Whatever keeps the pipeline from starting; what can pass is tried again until the
    /// shutdown, or a few times when the run is to end by itself.
    pub async fn start(
        project: &ProjectSpec,
        spec: &PipelineSpec,
        options: PipelineOptions,
        announcements: Option<mpsc::Receiver<Announcement>>,
        status: PipelineStatus,
        shutdown: Shutdown,
    ) -> Result<Option<Self>, PipelineError> {
        let parts = Parts::of(project, spec)?;
        let group = if spec.is_live { &*spec.source.consumer_group } else { "captures" };
        let lock = PipelineLock::take(&parts.places.state, &spec.name, group)?;
        let mut backoff = Backoff::new(PAUSE, LONGEST_PAUSE);
        let (source, writer, starts) = loop {
            let opened = open(project, spec, &parts, &options);
            let opened = tokio::select! {
                opened = opened => opened,
                () = shutdown.stopping() => return Ok(None),
            };
            match opened {
                Ok(opened) => break opened,
                Err(error) if error.retry() == Retry::Never => return Err(error),
                Err(error) if options.until_caught_up && backoff.failures() >= TRIES_WHEN_CATCHING_UP => {
                    return Err(error);
                }
                Err(error) => {
                    let pause = backoff.pause();
                    tracing::warn!(
                        pipeline = spec.name,
                        error = report(&error),
                        ?pause,
                        "could not start: trying again"
                    );
                    status.change(|snapshot| snapshot.error = Some(report(&error)));
                    tokio::select! {
                        () = tokio::time::sleep(pause) => {}
                        () = shutdown.stopping() => return Ok(None),
                    }
                }
            }
        };
        let mut pipeline = Self::new(spec, parts, source, writer, options, status, shutdown);
        pipeline._lock = Some(lock);
        if !spec.is_live || announcements.is_some() {
            pipeline.captures.generations = generations(project, spec, EnqueuedBetween::default())?;
        }
        pipeline.captures.announcements = announcements;
        pipeline.begin_gaps().await;
        if !spec.is_live {
            pipeline.sweep();
        }
        for start in starts {
            pipeline.read(start);
        }
        Ok(Some(pipeline))
    }

    fn new(
        spec: &PipelineSpec,
        parts: Parts,
        source: Option<Arc<EventHubsSource>>,
        writer: TableWriter,
        options: PipelineOptions,
        status: PipelineStatus,
        shutdown: Shutdown,
    ) -> Self {
        let (sender, receiver) = mpsc::channel(EVENTS);
        let budget = MemoryBudget::new(usize::try_from(spec.sink.max_in_flight_bytes.as_u64()).unwrap_or(usize::MAX));
        let pending = Ahead::new(writer.encoder(), budget.clone());
        status.change(|snapshot| {
            snapshot.state = State::Running;
            snapshot.error = None;
        });
        Self {
            spec: spec.clone(),
            table: spec.sink.table.to_string(),
            options,
            source,
            gaps: Gaps::new(spec, &parts.places),
            captures: Captures::new(parts.captures),
            decoder: parts.decoder,
            columns: watch::Sender::new(writer.columns()),
            checkpoints: parts.checkpoints,
            budget,
            status,
            stop_reading: shutdown.child(),
            shutdown,
            _lock: None,
            partitions: JoinSet::new(),
            sender,
            receiver,
            in_flight: BTreeMap::new(),
            taken_at_ms: BTreeMap::new(),
            reading: BTreeMap::new(),
            stopped: BTreeMap::new(),
            pending,
            pending_since: None,
            writer: Some(writer),
            flush: JoinSet::new(),
            retry_at: None,
            backoff: Backoff::new(PAUSE, LONGEST_PAUSE),
            drop_readers_at: None,
            added: JoinSet::new(),
            look_at: Instant::now() + LOOK_FOR_PARTITIONS_EVERY,
            summary: PipelineSummary { name: spec.name.clone(), ..PipelineSummary::default() },
            failure: None,
        }
    }

    /// Runs until stopped, caught up, or beyond mending. What was read is committed first,
    /// unless the shutdown is cut off.
    ///
    /// # Errors
    /// What the pipeline can't go on with.
    pub async fn run(mut self) -> Result<PipelineSummary, PipelineError> {
        let began = Instant::now();
        loop {
            self.drop_readers_if_due();
            self.flush_if_due();
            self.look_for_partitions();
            self.heal_if_due().await;
            self.look_at_gaps_if_due();
            if self.is_done() {
                break;
            }
            match self.next_event().await {
                Event::Partition(Some(event)) => self.take(event),
                Event::Partition(None) | Event::Tick => {}
                Event::FlushEnded(ended) => self.flush_ended(*ended),
                Event::FlushLost(source) => {
                    // The writer is gone with the task: nothing can be committed any more.
                    self.fail(PipelineError::Task { task: "flush", source });
                    break;
                }
                Event::Encoded(Ok(Ok(encoded))) => self.pending.take_encoded(encoded),
                Event::Encoded(Ok(Err(source))) => {
                    // Its events are gone, and nothing may be committed over them.
                    self.fail(SinkError::File { table: self.table.clone(), source }.into());
                    break;
                }
                Event::Encoded(Err(source)) => {
                    self.fail(PipelineError::Task { task: "encoding", source });
                    break;
                }
                Event::Added(found) => self.take_added(found).await,
                Event::Looked(looked) => self.take_looked(looked),
                Event::LookedAtTable(looked) => self.take_looked_at_table(looked),
                Event::Announced(announced) => self.captures.take_announced(announced),
                Event::Stop => self.drain(),
                Event::Abort => {
                    self.partitions.abort_all();
                    self.flush.abort_all();
                    self.failure.get_or_insert(PipelineError::CutOff);
                    break;
                }
            }
        }
        self.stop_reading.cancel();
        self.partitions.abort_all();
        for partition in self.in_flight.keys().cloned().collect::<Vec<_>>() {
            self.move_in_flight(&partition, |_| 0);
        }
        // Beside the end, not in its way: what isn't kept is looked into again.
        tokio::select! {
            () = self.captures.keep_index() => {}
            () = self.shutdown.aborting() => {}
        }
        if let Some(source) = &self.source
            && tokio::time::timeout(READERS_END_WITHIN, source.close()).await.is_err()
        {
            tracing::debug!(pipeline = self.spec.name, "the links to the hub are left to its own timeout");
        }
        self.summary.seconds = began.elapsed().as_secs_f64();
        self.summary.peak_rss_bytes = peak_rss_bytes();
        let stopped = std::mem::take(&mut self.stopped).into_values().next();
        match self.failure.take().or(stopped) {
            Some(error) => {
                self.status.change(|snapshot| {
                    snapshot.state = State::Failed;
                    snapshot.error = Some(report(&error));
                });
                Err(error)
            }
            None => {
                self.status.change(|snapshot| snapshot.state = State::Stopped);
                Ok(self.summary)
            }
        }
    }

    async fn next_event(&mut self) -> Event {
        let tick = self.next_tick();
        let is_draining = self.stop_reading.is_cancelled();
        let is_flushing = !self.flush.is_empty();
        let may_make_room = self.pending.may_make_room()
            || (self.writer.is_some() && self.pending.may_flush_early() && self.retry_at.is_none());
        // Each branch is cancel-safe: receiving and joining lose nothing when dropped.
        tokio::select! {
            biased;
            () = self.shutdown.aborting() => Event::Abort,
            () = self.shutdown.stopping(), if !is_draining => Event::Stop,
            Some(ended) = self.flush.join_next(), if is_flushing => match ended {
                Ok(ended) => Event::FlushEnded(Box::new(ended)),
                Err(error) => Event::FlushLost(error),
            },
            Some(encoded) = self.pending.encoded() => Event::Encoded(encoded),
            Some(found) = self.added.join_next() => match found {
                Ok(found) => Event::Added(found),
                Err(source) => Event::Added(Err(PipelineError::Task { task: "looking for partitions", source })),
            },
            Some(looked) = self.captures.looking.join_next() => Event::Looked(looked.unwrap_or_else(|source| {
                Looked::All(Err(PipelineError::Task { task: "looking at captures", source }))
            })),
            Some(looked) = self.gaps.looking.join_next() => Event::LookedAtTable(looked.unwrap_or_else(|source| {
                Err(PipelineError::Task { task: "looking at the table", source })
            })),
            announced = capture::announced(&mut self.captures.announcements) => Event::Announced(announced),
            event = self.receiver.recv() => Event::Partition(event),
            () = self.budget.contended(), if may_make_room => {
                if !self.pending.make_room() {
                    self.pending_since = Some(Instant::now() - self.patience());
                }
                Event::Tick
            }
            () = tokio::time::sleep_until(tick.into()) => Event::Tick,
        }
    }

    fn next_tick(&self) -> Instant {
        let due = match (self.retry_at, self.pending_since) {
            (Some(retry_at), _) => Some(retry_at),
            (None, Some(since)) => Some(since + self.patience()),
            (None, None) => None,
        };
        let flush_at = if self.writer.is_some() && !self.pending.is_closing() { due } else { None };
        let soonest = [flush_at, self.drop_readers_at, self.captures.due_at(), self.gaps_due_at()]
            .into_iter()
            .flatten()
            .fold(self.look_at, Instant::min);
        soonest.max(Instant::now())
    }

    /// How long events may wait. Coverage without rows is committed more rarely: it makes
    /// versions and nobody reads anything new from them.
    fn patience(&self) -> Duration {
        if self.pending.has_rows() { self.spec.sink.commit_every } else { self.spec.sink.coverage_every }
    }

    fn is_done(&self) -> bool {
        self.reading.is_empty()
            && !self.captures.is_at_work()
            && self.receiver.is_empty()
            && self.flush.is_empty()
            && (self.pending.is_empty() || self.failure.is_some())
            && (self.stop_reading.is_cancelled() || self.options.until_caught_up)
    }

    fn take(&mut self, event: PartitionEvent) {
        match event {
            PartitionEvent::Part(part) => self.take_part(part),
            PartitionEvent::Hole { partition, missing, cause } => self.take_hole(partition, missing, cause),
            PartitionEvent::BlobRead { path, numbers } => {
                self.summary.blobs += 1;
                self.summary.torn_blobs += u64::from(numbers.is_none());
                self.captures.was_read(&path, numbers);
                self.status.change(|snapshot| snapshot.blobs_read += 1);
            }
            PartitionEvent::Failed { partition, error, retry_in } => {
                tracing::warn!(
                    pipeline = self.spec.name,
                    partition = &*partition.partition,
                    error,
                    ?retry_in,
                    "a partition failed: it backs off alone"
                );
                let (pipeline, table, name) = self.labels(&partition);
                metrics::partition_failure(pipeline, table, name);
                self.status.partition(&partition.partition, |held| held.last_error = Some(error));
            }
            PartitionEvent::Progress { partition, last_enqueued } => {
                self.status.partition(&partition.partition, |held| {
                    held.last_enqueued = Some(last_enqueued);
                    held.lag_events = held.position.map(|position| (last_enqueued + 1 - position).max(0));
                    if let Some(lag) = held.lag_events.and_then(|lag| u64::try_from(lag).ok()) {
                        metrics::lag(&self.spec.name, &self.table, &partition.partition, lag);
                        self.tell_time_left(&partition, lag);
                    }
                });
            }
            PartitionEvent::Ended { path: ReadPath::Capture, .. } => self.captures.ended(),
            PartitionEvent::Ended { partition, path: ReadPath::Live } => {
                self.reading.remove(&partition);
            }
            PartitionEvent::Stopped { partition, path, error } => self.take_stopped(partition, path, error),
            PartitionEvent::Fatal { error } => {
                self.reading.clear();
                self.captures.clear();
                self.fail(error);
            }
        }
    }

    /// The others go on; the run ends with the error when it ends. With nothing left to read that is now.
    fn take_stopped(&mut self, partition: PartitionKey, path: ReadPath, error: PipelineError) {
        let text = report(&error);
        tracing::error!(
            pipeline = self.spec.name,
            partition = &*partition.partition,
            error = text,
            "a partition stops"
        );
        let (pipeline, table, name) = self.labels(&partition);
        metrics::partition_failure(pipeline, table, name);
        metrics::partition_stopped(pipeline, table, name, true);
        self.status.change(|snapshot| snapshot.error = Some(text.clone()));
        self.status.partition(&partition.partition, |held| {
            held.stopped = true;
            held.last_error = Some(text);
        });
        match path {
            ReadPath::Capture => self.captures.ended(),
            ReadPath::Live => drop(self.reading.remove(&partition)),
        }
        self.stopped.insert(partition, error);
        if self.reading.is_empty() && !self.captures.is_at_work() {
            self.end_reading();
        }
    }

    fn take_part(&mut self, part: Part) {
        let received = part.staged.events.len() as u64;
        if received == 0 {
            return;
        }
        self.summary.received += received;
        let (pipeline, table, partition) = self.labels(&part.staged.partition);
        metrics::received(pipeline, table, partition, received, part.reservation.bytes() as u64);
        self.status.change(|snapshot| snapshot.received += received);
        // Captures are read again at each sweep: what was mended meanwhile goes on by itself.
        if self.stopped.remove(&part.staged.partition).is_some() {
            let (pipeline, table, partition) = self.labels(&part.staged.partition);
            metrics::partition_stopped(pipeline, table, partition, false);
            self.status.partition(&part.staged.partition.partition, |held| {
                held.stopped = false;
                held.last_error = None;
            });
        }
        if part.path == ReadPath::Live {
            self.status.partition(&part.staged.partition.partition, |held| {
                held.position = Some(part.staged.range.to);
                held.last_error = None;
            });
            if let Some((_, enqueued_at_ms)) = part.staged.events.last() {
                self.taken_at_ms.insert(part.staged.partition.clone(), *enqueued_at_ms);
            }
        }
        self.move_in_flight(&part.staged.partition, |held| held + received);
        self.pending_since.get_or_insert_with(Instant::now);
        self.pending.push(part);
    }

    fn move_in_flight(&mut self, partition: &PartitionKey, change: impl FnOnce(u64) -> u64) {
        let held = self.in_flight.entry(partition.clone()).or_default();
        let before = std::mem::replace(held, change(*held));
        let moved = *held as f64 - before as f64;
        let (pipeline, table, partition) = self.labels(partition);
        metrics::in_flight(pipeline, table, partition, moved);
    }

    /// Until retention takes the oldest event that waits, at least: it is not older than the
    /// newest one taken in.
    fn tell_time_left(&self, partition: &PartitionKey, lag: u64) {
        let now_ms = chrono::Utc::now().timestamp_millis();
        let oldest_ms = if lag == 0 { Some(now_ms) } else { self.taken_at_ms.get(partition).copied() };
        let (Some(retention), Some(oldest_ms)) = (self.spec.source.retention, oldest_ms) else { return };
        let left = retention.as_secs_f64() - (now_ms - oldest_ms) as f64 / 1000.0;
        let (pipeline, table, partition) = self.labels(partition);
        metrics::seconds_to_data_loss(pipeline, table, partition, left);
    }

    fn labels<'a>(&'a self, partition: &'a PartitionKey) -> (&'a str, &'a str, &'a str) {
        (&self.spec.name, &self.table, &partition.partition)
    }

    fn read(&mut self, start: PartitionStart) {
        let partition = start.read.partition.clone();
        for lost in start.lost {
            self.take_hole(partition.clone(), lost, HoleCause::Retention);
        }
        tracing::info!(pipeline = self.spec.name, %partition, position = start.read.position, "reading");
        self.status.partition(&partition.partition, |held| {
            held.start = Some(start.read.position);
            held.until = start.read.until;
            held.position = Some(start.read.position);
        });
        let (pipeline, table, name) = self.labels(&partition);
        metrics::partition_stopped(pipeline, table, name, false);
        self.reading.insert(partition, ());
        let Some(source) = self.source.clone() else { return };
        self.spawn(EventsFrom::Live { source, read: start.read });
    }

    fn spawn(&mut self, from: EventsFrom) {
        let task = PartitionTask {
            from,
            decoder: Arc::clone(&self.decoder),
            table: self.table.clone(),
            columns: self.columns.subscribe(),
            budget: self.budget.clone(),
            dense: self.spec.source.dense,
            rejects: self.spec.sink.reject_limit.map(RejectShare::new),
            events: self.sender.clone(),
            stop: self.stop_reading.child_token(),
        };
        self.partitions.spawn(task.run());
    }

    fn drain(&mut self) {
        tracing::info!(pipeline = self.spec.name, "stopping: committing what was read");
        self.status.change(|snapshot| snapshot.state = State::Draining);
        self.end_reading();
    }

    fn end_reading(&mut self) {
        self.stop_reading.cancel();
        self.drop_readers_at.get_or_insert(Instant::now() + READERS_END_WITHIN);
    }

    fn drop_readers_if_due(&mut self) {
        if self.drop_readers_at.is_none_or(|at| at > Instant::now()) {
            return;
        }
        self.drop_readers_at = None;
        if !self.reading.is_empty() || self.captures.is_at_work() {
            let partitions: Vec<_> = self.reading.keys().map(|key| &*key.partition).collect();
            tracing::warn!(
                pipeline = self.spec.name,
                partitions = partitions.join(", "),
                "readers that hang are dropped"
            );
            self.partitions.abort_all();
            self.reading.clear();
            self.captures.clear();
        }
    }

    /// One partition is read no more; the others go on.
    fn fail(&mut self, error: PipelineError) {
        tracing::error!(pipeline = self.spec.name, error = report(&error), "the pipeline stops");
        self.end_reading();
        self.failure.get_or_insert(error);
    }
}

impl Pipeline {
    /// Starts partitions that the hub has and nobody reads yet. Needs the writer, so it waits
    /// for the next look when a flush has it.
    async fn take_added(&mut self, found: Result<Vec<String>, PipelineError>) {
        let found = match found {
            Ok(found) => found,
            Err(error) => {
                tracing::warn!(pipeline = self.spec.name, error = report(&error), "could not look for new partitions");
                return;
            }
        };
        let known = self.reading.keys().chain(self.stopped.keys());
        let known: Vec<String> = known.map(|key| key.partition.to_string()).collect();
        let new: Vec<String> = found.into_iter().filter(|partition| !known.contains(partition)).collect();
        let Some(source) = self.source.clone() else { return };
        let Some(mut writer) = self.writer.take_if(|_| !new.is_empty()) else { return };
        // A partition that was just added has no history but what the hub still holds.
        let captured = Listing::default();
        let started = setup::starts(&source, &self.checkpoints, &mut writer, &self.spec, &new, &captured, false).await;
        self.writer = Some(writer);
        match started {
            Ok(starts) => starts.into_iter().for_each(|start| self.read(start)),
            Err(error) => {
                tracing::warn!(
                    pipeline = self.spec.name,
                    error = report(&error),
                    "a new partition could not be started"
                );
            }
        }
    }

    /// Asks for the hub's partitions beside the loop, when it is time.
    fn look_for_partitions(&mut self) {
        if self.look_at > Instant::now() {
            return;
        }
        self.look_at = Instant::now() + LOOK_FOR_PARTITIONS_EVERY;
        if self.options.until_caught_up || self.stop_reading.is_cancelled() || !self.added.is_empty() {
            return;
        }
        let Some(source) = self.source.clone() else { return };
        self.added.spawn(async move { Ok(source.hub().await?.partitions) }.boxed());
    }
}

/// What a pipeline is made of, before hub and table are asked.
struct Parts {
    places: Places,
    captures: Option<Arc<CaptureSource>>,
    decoder: Arc<Decoder>,
    checkpoints: Arc<Checkpoints>,
}

impl Parts {
    fn of(project: &ProjectSpec, spec: &PipelineSpec) -> Result<Self, PipelineError> {
        let places = Places::of(project)?;
        let decoder = Arc::new(setup::decoder(project, spec, &places)?);
        let checkpoints = Arc::new(Checkpoints::open(project, spec)?);
        Ok(Self { captures: setup::captures(project, spec)?, places, decoder, checkpoints })
    }
}

async fn open(
    project: &ProjectSpec,
    spec: &PipelineSpec,
    parts: &Parts,
    options: &PipelineOptions,
) -> Result<(Option<Arc<EventHubsSource>>, TableWriter, Vec<PartitionStart>), PipelineError> {
    if !spec.is_live {
        let table = setup::table_spec(spec, &parts.places, options.fault_points.clone())?;
        return Ok((None, TableWriter::open(table).await?, Vec::new()));
    }
    let source = setup::connect(project, spec).await?;
    let partitions = source.hub().await?.partitions;
    let mut writer = TableWriter::open(setup::table_spec(spec, &parts.places, options.fault_points.clone())?).await?;
    let is_new = |partition: &String| {
        let partition = PartitionKey::new(source.id().clone(), partition.as_str());
        writer.ledger().partition(&partition).and_then(|held| held.start()).is_none()
    };
    let captured = match &parts.captures {
        Some(captures) if spec.source.start == Start::Capture && partitions.iter().any(is_new) => {
            captures.list(None).await.map_err(SourceError::from)?
        }
        _ => Listing::default(),
    };
    let checkpoints = &parts.checkpoints;
    let catch_up = options.until_caught_up;
    let starts = setup::starts(&source, checkpoints, &mut writer, spec, &partitions, &captured, catch_up).await?;
    Ok((Some(source), writer, starts))
}
