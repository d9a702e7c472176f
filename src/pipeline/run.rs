//! The event loop of one pipeline: takes in decoded events, commits them in groups.
//!
//! A flush runs beside the loop and owns its table's writer meanwhile; the loop goes on
//! taking in. A flush that fails keeps its events and is tried again with backoff, before
//! anything that came later.

mod ahead;
mod capture;
mod flush;
mod gaps;
mod opening;
mod summary;
mod taking;
mod target;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::ahead::Encoded;
use self::capture::{Captures, Looked};
use self::flush::FlushEnded;
use self::gaps::{Gaps, LookedAtTable};
use self::opening::{Opened, Parts, open};
pub use self::summary::{PipelineSummary, peak_rss_bytes};
use self::target::{Target, encoded};
use super::PipelineError;
use super::announcements::Announcement;
use super::checkpoints::{Checkpoints, Committed};
use super::generations::generations;
use super::lock::PipelineLock;
use super::partition::{EventsFrom, PartitionEvent, PartitionTask, ReadPath, report};
use super::reject_share::RejectShare;
use super::routes::{Pool, Router};
use super::setup::{self, PartitionStart, SharedRegistry};
use super::status::{PipelineStatus, State};
use crate::checkpoint::PartitionKey;
use crate::config::spec::{PipelineSpec, ProjectSpec};
use crate::decode::Decoder;
use crate::error::{Classify as _, Retry};
use crate::fault_points::FaultPoints;
use crate::memory::MemoryBudget;
use crate::retry::Backoff;
use crate::shutdown::Shutdown;
use crate::sink::delta::SinkError;
use crate::sink::delta::files::FileError;
use crate::sink::delta::writer::TableWriter;
use crate::source::HoleCause;
use crate::source::capture::{EnqueuedBetween, Listing};
use crate::source::event_hubs::EventHubsSource;
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
    pub registry: SharedRegistry,
}

pub struct Pipeline {
    spec: PipelineSpec,
    /// The first table's name, for words and labels of the pipeline as a whole.
    table: String,
    options: PipelineOptions,
    /// None in a backfill, which asks no hub.
    source: Option<Arc<EventHubsSource>>,
    captures: Captures,
    /// Every table that it writes; that of `[sink]` comes first.
    targets: Vec<Target>,
    decoder: Arc<Decoder>,
    router: Arc<Router>,
    checkpoints: Arc<Checkpoints>,
    budget: MemoryBudget,
    /// What batches hold of it of which several tables have rows.
    pool: Pool,
    status: PipelineStatus,
    shutdown: Shutdown,
    _lock: Option<PipelineLock>,
    partitions: JoinSet<()>,
    /// Cancelled to end every partition's reading.
    stop_reading: CancellationToken,
    sender: mpsc::Sender<PartitionEvent>,
    receiver: mpsc::Receiver<PartitionEvent>,
    /// When the newest event taken in was enqueued, epoch ms.
    taken_at_ms: BTreeMap<PartitionKey, i64>,
    /// Partitions that still read.
    reading: BTreeMap<PartitionKey, ()>,
    /// Partitions that are read no more until the next start, and why.
    stopped: BTreeMap<(PartitionKey, ReadPath), PipelineError>,
    flush: JoinSet<FlushEnded>,
    looking_at_tables: JoinSet<(usize, LookedAtTable)>,
    /// Checkpoints that every table has passed by now.
    to_publish: BTreeMap<PartitionKey, Committed>,
    /// A flush has ended since the last publishing began.
    is_publishing_due: bool,
    publishing: JoinSet<()>,
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
    Encoded(usize, Result<Result<Encoded, FileError>, tokio::task::JoinError>),
    Added(Result<Vec<String>, PipelineError>),
    Looked(Looked),
    LookedAtTable(usize, LookedAtTable),
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
        let mut parts = Parts::of(project, spec, &options)?;
        let group = if spec.is_live { &*spec.source.consumer_group } else { "captures" };
        let lock = PipelineLock::take(&parts.places.state, &spec.name, group)?;
        let mut backoff = Backoff::new(PAUSE, LONGEST_PAUSE);
        let Opened { source, writers, starts, router } = loop {
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
        parts.router = router;
        let mut pipeline = Self::new(spec, parts, source, writers, options, status, shutdown);
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
        writers: Vec<TableWriter>,
        options: PipelineOptions,
        status: PipelineStatus,
        shutdown: Shutdown,
    ) -> Self {
        let (sender, receiver) = mpsc::channel(EVENTS);
        let budget = MemoryBudget::new(usize::try_from(spec.sink.max_in_flight_bytes.as_u64()).unwrap_or(usize::MAX));
        let targets = spec.sinks().zip(writers);
        let target = |(sink, writer)| Target::new(sink, writer, &budget, Gaps::new(spec, sink, &parts.places));
        let targets = targets.map(target).collect();
        status.change(|snapshot| {
            snapshot.state = State::Running;
            snapshot.error = None;
        });
        Self {
            spec: spec.clone(),
            table: spec.sink.table.to_string(),
            options,
            source,
            targets,
            captures: Captures::new(parts.captures),
            decoder: parts.decoder,
            router: parts.router,
            checkpoints: parts.checkpoints,
            budget,
            pool: Pool::default(),
            status,
            stop_reading: shutdown.child(),
            shutdown,
            _lock: None,
            partitions: JoinSet::new(),
            sender,
            receiver,
            taken_at_ms: BTreeMap::new(),
            reading: BTreeMap::new(),
            stopped: BTreeMap::new(),
            flush: JoinSet::new(),
            looking_at_tables: JoinSet::new(),
            to_publish: BTreeMap::new(),
            is_publishing_due: false,
            publishing: JoinSet::new(),
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
            self.gather_if_crowded();
            self.flush_if_due();
            self.publish_if_due();
            self.look_for_partitions();
            self.heal_if_due().await;
            self.look_at_gaps_if_due();
            self.end_if_nothing_is_left();
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
                Event::Encoded(at, Ok(Ok(encoded))) => self.targets[at].pending.take_encoded(encoded),
                Event::Encoded(at, Ok(Err(source))) => {
                    // Its events are gone, and nothing may be committed over them.
                    self.fail(SinkError::File { table: self.targets[at].table.clone(), source }.into());
                    break;
                }
                Event::Encoded(_, Err(source)) => {
                    self.fail(PipelineError::Task { task: "encoding", source });
                    break;
                }
                Event::Added(found) => self.take_added(found).await,
                Event::Looked(looked) => self.take_looked(looked),
                Event::LookedAtTable(at, looked) => self.take_looked_at_table(at, looked),
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
        for at in 0..self.targets.len() {
            for partition in self.targets[at].in_flight.keys().cloned().collect::<Vec<_>>() {
                self.move_in_flight(at, &partition, |_| 0);
            }
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
        let may_make_room = self.may_make_room();
        // Each branch is cancel-safe: receiving and joining lose nothing when dropped.
        tokio::select! {
            biased;
            () = self.shutdown.aborting() => Event::Abort,
            () = self.shutdown.stopping(), if !is_draining => Event::Stop,
            Some(ended) = self.flush.join_next(), if is_flushing => match ended {
                Ok(ended) => Event::FlushEnded(Box::new(ended)),
                Err(error) => Event::FlushLost(error),
            },
            (at, encoded) = encoded(&mut self.targets) => Event::Encoded(at, encoded),
            Some(ended) = self.partitions.join_next() => match ended {
                Err(source) if source.is_panic() => {
                    let error = PipelineError::Task { task: "partition", source };
                    Event::Partition(Some(PartitionEvent::Fatal { error }))
                }
                _ => Event::Tick,
            },
            Some(published) = self.publishing.join_next() => {
                told_if_lost(published, "publishing");
                Event::Tick
            }
            Some(found) = self.added.join_next() => match found {
                Ok(found) => Event::Added(found),
                Err(source) => Event::Added(Err(PipelineError::Task { task: "looking for partitions", source })),
            },
            Some(looked) = self.captures.looking.join_next() => Event::Looked(looked.unwrap_or_else(|source| {
                Looked::All(Err(PipelineError::Task { task: "looking at captures", source }))
            })),
            Some(looked) = self.looking_at_tables.join_next() => {
                told_if_lost(looked, "looking at a table").map_or(Event::Tick, |(at, looked)| {
                    Event::LookedAtTable(at, looked)
                })
            }
            announced = capture::announced(&mut self.captures.announcements) => Event::Announced(announced),
            event = self.receiver.recv() => Event::Partition(event),
            () = self.budget.contended(), if may_make_room => {
                self.make_room();
                Event::Tick
            }
            () = tokio::time::sleep_until(tick.into()) => Event::Tick,
        }
    }

    fn next_tick(&self) -> Instant {
        // Where as many flush as may, or somebody waits for all of them to end, the end of one wakes.
        let waits = self.targets.len() > 1 && self.waits_for_ledgers() && !self.flush.is_empty();
        let may_begin = self.flush.len() < flush::FLUSHES_AT_ONCE && !waits;
        let flush_at = self.targets.iter().filter_map(Target::flush_at).min().filter(|_| may_begin);
        let soonest = [flush_at, self.drop_readers_at, self.captures.due_at(), self.gaps_due_at()]
            .into_iter()
            .flatten()
            .fold(self.look_at, Instant::min);
        soonest.max(Instant::now())
    }

    fn is_done(&self) -> bool {
        self.reading.is_empty()
            && !self.captures.is_at_work()
            && self.receiver.is_empty()
            && self.flush.is_empty()
            && !self.is_publishing_due
            && self.publishing.is_empty()
            && (self.targets.iter().all(|target| target.pending.is_empty()) || self.failure.is_some())
            && (self.stop_reading.is_cancelled() || self.options.until_caught_up)
    }

    /// Whether every table's ledger is at hand. During a flush it isn't.
    fn has_ledgers(&self) -> bool {
        self.targets.iter().all(|target| target.writer.is_some())
    }

    fn take(&mut self, event: PartitionEvent) {
        match event {
            PartitionEvent::Parts { parts, filtered } => self.take_parts(parts, filtered),
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
            PartitionEvent::Ended { partition, path: ReadPath::Capture } => self.captures.ended(&partition),
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
            ReadPath::Capture => self.capture_stopped(&partition),
            ReadPath::Live => drop(self.reading.remove(&partition)),
        }
        self.stopped.insert((partition, path), error);
    }

    /// Where partitions have stopped and nothing else is read, the run ends with what stopped them; captures
    /// alone are looked at again at the next sweep.
    fn end_if_nothing_is_left(&mut self) {
        let ends = self.source.is_some() || self.options.until_caught_up;
        let is_idle = self.reading.is_empty() && !self.captures.is_at_work();
        if ends && is_idle && !self.stopped.is_empty() && !self.stop_reading.is_cancelled() {
            self.end_reading();
        }
    }

    fn read(&mut self, start: PartitionStart) {
        let partition = start.read.partition.clone();
        for (target, begins) in self.targets.iter_mut().zip(start.begins) {
            target.begins.extend(begins.map(|begins| (partition.clone(), begins)));
        }
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
            router: Arc::clone(&self.router),
            tables: self.targets.iter().map(|target| (target.table.clone(), target.columns.subscribe())).collect(),
            budget: self.budget.clone(),
            pool: self.pool.clone(),
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
    /// Starts partitions that the hub has and nobody reads yet. Needs the writers, so it waits
    /// for the next look when a flush has one.
    async fn take_added(&mut self, found: Result<Vec<String>, PipelineError>) {
        let found = match found {
            Ok(found) => found,
            Err(error) => {
                tracing::warn!(pipeline = self.spec.name, error = report(&error), "could not look for new partitions");
                return;
            }
        };
        let stopped = self.stopped.keys().filter(|(_, path)| *path == ReadPath::Live).map(|(key, _)| key);
        let known = self.reading.keys().chain(stopped);
        let known: Vec<String> = known.map(|key| key.partition.to_string()).collect();
        let new: Vec<String> = found.into_iter().filter(|partition| !known.contains(partition)).collect();
        let Some(source) = self.source.clone() else { return };
        if new.is_empty() || !self.has_ledgers() {
            return;
        }
        let mut writers: Vec<TableWriter> = self.targets.iter_mut().filter_map(|target| target.writer.take()).collect();
        // A partition that was just added has no history but what the hub still holds.
        let captured = Listing::default();
        let started = setup::starts(&source, &self.checkpoints, &mut writers, &self.spec, &new, &captured, false).await;
        for (target, writer) in self.targets.iter_mut().zip(writers) {
            target.writer = Some(writer);
        }
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

/// Nothing rests on such a task; that it was lost is told.
pub(super) fn told_if_lost<T>(ended: Result<T, tokio::task::JoinError>, task: &'static str) -> Option<T> {
    ended.inspect_err(|error| tracing::error!(task, %error, "a task was lost")).ok()
}
