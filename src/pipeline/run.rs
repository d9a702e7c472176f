//! The event loop of one pipeline: takes in decoded events, commits them in groups.
//!
//! A flush runs beside the loop and owns the table's writer meanwhile; the loop goes on
//! taking in. A flush that fails keeps its events and is tried again with backoff, before
//! anything that came later.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::PipelineError;
use super::checkpoints::{Checkpoints, Committed};
use super::lock::PipelineLock;
use super::partition::{Part, PartitionEvent, PartitionTask, report};
use super::setup::{self, PartitionStart, Places};
use super::status::{LastCommit, PipelineStatus, State};
use crate::checkpoint::{PartitionKey, Range};
use crate::config::spec::{PipelineSpec, ProjectSpec};
use crate::decode::Decoder;
use crate::error::{Classify as _, Retry};
use crate::memory::MemoryBudget;
use crate::retry::Backoff;
use crate::shutdown::Shutdown;
use crate::sink::delta::SinkError;
use crate::sink::delta::fault_points::{FaultPoint, FaultPoints};
use crate::sink::delta::writer::{Counts, Flushed, TableWriter};
use crate::source::HoleCause;
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
}

/// What a run of one pipeline did.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct PipelineSummary {
    pub name: String,
    pub received: u64,
    pub committed: u64,
    pub rejected: u64,
    pub filtered: u64,
    pub duplicate: u64,
    pub commits: u64,
    pub blobs: u64,
    pub seconds: f64,
    pub peak_rss_bytes: u64,
}

pub struct Pipeline {
    spec: PipelineSpec,
    /// The table's name, for words and labels.
    table: String,
    options: PipelineOptions,
    source: Arc<EventHubsSource>,
    decoder: Arc<Decoder>,
    checkpoints: Arc<Checkpoints>,
    budget: MemoryBudget,
    status: PipelineStatus,
    shutdown: Shutdown,
    _lock: PipelineLock,
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
    pending: Vec<Part>,
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

struct FlushEnded {
    writer: TableWriter,
    parts: Vec<Part>,
    result: Result<Flushed, SinkError>,
    took: Duration,
}

/// What the loop waits for.
enum Event {
    Partition(Option<PartitionEvent>),
    FlushEnded(Box<FlushEnded>),
    FlushLost(tokio::task::JoinError),
    Added(Result<Vec<String>, PipelineError>),
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
        status: PipelineStatus,
        shutdown: Shutdown,
    ) -> Result<Option<Self>, PipelineError> {
        let places = Places::of(project)?;
        let lock = PipelineLock::take(&places.state, &spec.name, &spec.source.consumer_group)?;
        let decoder = Arc::new(setup::decoder(project, spec, &places)?);
        let checkpoints = Arc::new(Checkpoints::open(project, spec)?);
        let mut backoff = Backoff::new(PAUSE, LONGEST_PAUSE);
        let (source, writer, starts) = loop {
            let opened = open(project, spec, &places, &checkpoints, &options);
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
        let (sender, receiver) = mpsc::channel(EVENTS);
        let budget = MemoryBudget::new(usize::try_from(spec.sink.max_in_flight_bytes.as_u64()).unwrap_or(usize::MAX));
        let mut pipeline = Self {
            spec: spec.clone(),
            table: spec.sink.table.to_string(),
            options,
            source,
            decoder,
            checkpoints,
            budget,
            status,
            stop_reading: shutdown.child(),
            shutdown,
            _lock: lock,
            writer: Some(writer),
            partitions: JoinSet::new(),
            sender,
            receiver,
            in_flight: BTreeMap::new(),
            taken_at_ms: BTreeMap::new(),
            reading: BTreeMap::new(),
            pending: Vec::new(),
            pending_since: None,
            flush: JoinSet::new(),
            retry_at: None,
            backoff: Backoff::new(PAUSE, LONGEST_PAUSE),
            drop_readers_at: None,
            added: JoinSet::new(),
            look_at: Instant::now() + LOOK_FOR_PARTITIONS_EVERY,
            summary: PipelineSummary { name: spec.name.clone(), ..PipelineSummary::default() },
            failure: None,
        };
        pipeline.status.change(|snapshot| {
            snapshot.state = State::Running;
            snapshot.error = None;
        });
        for start in starts {
            pipeline.read(start);
        }
        Ok(Some(pipeline))
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
                Event::Added(found) => self.take_added(found).await,
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
        if tokio::time::timeout(READERS_END_WITHIN, self.source.close()).await.is_err() {
            tracing::debug!(pipeline = self.spec.name, "the links to the hub are left to its own timeout");
        }
        self.summary.seconds = began.elapsed().as_secs_f64();
        self.summary.peak_rss_bytes = peak_rss_bytes();
        match self.failure.take() {
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
        let may_flush_early = self.writer.is_some() && !self.pending.is_empty() && self.retry_at.is_none();
        // Each branch is cancel-safe: receiving and joining lose nothing when dropped.
        tokio::select! {
            biased;
            () = self.shutdown.aborting() => Event::Abort,
            () = self.shutdown.stopping(), if !is_draining => Event::Stop,
            Some(ended) = self.flush.join_next(), if is_flushing => match ended {
                Ok(ended) => Event::FlushEnded(Box::new(ended)),
                Err(error) => Event::FlushLost(error),
            },
            Some(found) = self.added.join_next() => match found {
                Ok(found) => Event::Added(found),
                Err(source) => Event::Added(Err(PipelineError::Task { task: "looking for partitions", source })),
            },
            event = self.receiver.recv() => Event::Partition(event),
            () = self.budget.contended(), if may_flush_early => {
                self.pending_since = Some(Instant::now() - self.spec.sink.commit_every);
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
        let flush_at = if self.writer.is_some() { due } else { None };
        let soonest = [flush_at, self.drop_readers_at].into_iter().flatten().fold(self.look_at, Instant::min);
        soonest.max(Instant::now())
    }

    /// How long events may wait. Coverage without rows is committed more rarely: it makes
    /// versions and nobody reads anything new from them.
    fn patience(&self) -> Duration {
        let has_rows = self.pending.iter().any(|part| !part.staged.batches.is_empty());
        if has_rows { self.spec.sink.commit_every } else { self.spec.sink.coverage_every }
    }

    fn is_done(&self) -> bool {
        self.reading.is_empty()
            && self.receiver.is_empty()
            && self.flush.is_empty()
            && (self.pending.is_empty() || self.failure.is_some())
            && (self.stop_reading.is_cancelled() || self.options.until_caught_up)
    }

    fn take(&mut self, event: PartitionEvent) {
        match event {
            PartitionEvent::Part(part) => self.take_part(part),
            PartitionEvent::Hole { partition, missing, cause } => self.report_hole(&partition, missing, cause),
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
            PartitionEvent::Ended { partition } => {
                self.reading.remove(&partition);
            }
            PartitionEvent::Fatal { error } => {
                self.reading.clear();
                self.fail(error);
            }
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
        self.status.partition(&part.staged.partition.partition, |held| {
            held.position = Some(part.staged.range.to);
            held.last_error = None;
        });
        if let Some((_, enqueued_at_ms)) = part.staged.events.last() {
            self.taken_at_ms.insert(part.staged.partition.clone(), *enqueued_at_ms);
        }
        self.move_in_flight(&part.staged.partition, |held| held + received);
        self.pending_since.get_or_insert_with(Instant::now);
        self.pending.push(part);
    }

    fn move_in_flight(&mut self, partition: &PartitionKey, change: impl FnOnce(u64) -> u64) {
        let held = self.in_flight.entry(partition.clone()).or_default();
        *held = change(*held);
        let held = *held;
        let (pipeline, table, partition) = self.labels(partition);
        metrics::in_flight(pipeline, table, partition, held);
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

    fn report_hole(&self, partition: &PartitionKey, missing: Range, cause: HoleCause) {
        match cause {
            HoleCause::Compaction => {
                tracing::debug!(pipeline = self.spec.name, %partition, %missing, "the hub compacted these away");
            }
            HoleCause::Retention | HoleCause::Unexplained => {
                tracing::error!(
                    pipeline = self.spec.name, %partition, %missing, cause = cause.as_str(), numbers = missing.len(),
                    "events are missing: the hub no longer has them"
                );
                metrics::hole(&self.spec.name, &self.table, &partition.partition, cause.as_str(), missing.len());
            }
        }
    }

    fn flush_if_due(&mut self) {
        if self.writer.is_none() || self.pending.is_empty() {
            return;
        }
        if self.retry_at.is_some_and(|retry_at| retry_at > Instant::now()) {
            return;
        }
        let bytes: usize = self.pending.iter().map(|part| part.reservation.bytes()).sum();
        // Half the budget, so that the other half can be read while this one is written.
        let enough = (self.spec.sink.commit_bytes.as_u64()).min(self.spec.sink.max_in_flight_bytes.as_u64() / 2);
        let is_due = self.retry_at.is_some()
            || bytes as u64 >= enough
            || self.pending_since.is_some_and(|since| since.elapsed() >= self.patience())
            || self.reading.is_empty();
        let Some(mut writer) = self.writer.take_if(|_| is_due) else { return };
        self.retry_at = None;
        self.pending_since = None;
        let parts = std::mem::take(&mut self.pending);
        let checkpoints = Arc::clone(&self.checkpoints);
        let fault_points = self.options.fault_points.clone();
        self.flush.spawn(async move {
            let began = Instant::now();
            let result = writer.flush(&parts).await;
            let took = began.elapsed();
            if result.is_ok() {
                checkpoints.publish(&last_of(&parts)).await;
                fault_points.pass(FaultPoint::CheckpointsPublished);
            }
            FlushEnded { writer, parts, result, took }
        });
    }

    fn flush_ended(&mut self, ended: FlushEnded) {
        let error = match ended.result {
            Ok(flushed) => {
                self.writer = Some(ended.writer);
                self.backoff.reset();
                self.account(&flushed, ended.took);
                return;
            }
            Err(error) => error,
        };
        let is_given_up = self.options.until_caught_up && self.backoff.failures() >= TRIES_WHEN_CATCHING_UP;
        if is_given_up || error.retry() == Retry::Never {
            // The writer goes, and with it all further flushes: what is pending is read again by the next start.
            self.fail(error.into());
            return;
        }
        self.writer = Some(ended.writer);
        let mut parts = ended.parts;
        parts.append(&mut self.pending);
        self.pending = parts;
        self.retry_later(&error);
    }

    fn retry_later(&mut self, error: &SinkError) {
        let pause = self.backoff.pause();
        tracing::warn!(
            pipeline = self.spec.name,
            table = self.table,
            error = report(error),
            ?pause,
            "the table can't be written: it holds back its pipeline"
        );
        self.status.change(|snapshot| {
            snapshot.state = State::BackingOff;
            snapshot.error = Some(report(error));
        });
        self.retry_at = Some(Instant::now() + pause);
    }

    fn account(&mut self, flushed: &Flushed, took: Duration) {
        for (partition, counts) in &flushed.counts {
            let Counts { committed, rejected, duplicate } = *counts;
            self.summary.committed += committed;
            self.summary.rejected += rejected;
            self.summary.duplicate += duplicate;
            let (pipeline, table, partition) = self.labels(partition);
            metrics::committed(pipeline, table, partition, committed);
            metrics::rejected(pipeline, table, partition, rejected);
            metrics::duplicate(pipeline, table, partition, duplicate);
        }
        for (partition, counts) in &flushed.counts {
            let settled = counts.committed + counts.rejected + counts.duplicate;
            self.move_in_flight(partition, |held| held.saturating_sub(settled));
        }
        let Some(version) = flushed.version else { return };
        self.summary.commits += 1;
        metrics::commit(&self.spec.name, &self.table, flushed.bytes, flushed.tries, took);
        tracing::info!(
            pipeline = self.spec.name,
            table = self.table,
            version,
            rows = flushed.rows,
            bytes = flushed.bytes,
            tries = flushed.tries,
            milliseconds = took.as_millis() as u64,
            "committed"
        );
        let at = chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Millis, true);
        self.status.change(|snapshot| {
            snapshot.last_commit = Some(LastCommit { version, at });
            if snapshot.state == State::BackingOff {
                snapshot.state = State::Running;
                snapshot.error = None;
            }
        });
    }

    fn labels<'a>(&'a self, partition: &'a PartitionKey) -> (&'a str, &'a str, &'a str) {
        (&self.spec.name, &self.table, &partition.partition)
    }

    fn read(&mut self, start: PartitionStart) {
        let partition = start.read.partition.clone();
        for lost in start.lost {
            self.report_hole(&partition, lost, HoleCause::Retention);
        }
        tracing::info!(pipeline = self.spec.name, %partition, position = start.read.position, "reading");
        self.status.partition(&partition.partition, |held| {
            held.start = Some(start.read.position);
            held.until = start.read.until;
            held.position = Some(start.read.position);
        });
        self.reading.insert(partition, ());
        let task = PartitionTask {
            source: Arc::clone(&self.source),
            decoder: Arc::clone(&self.decoder),
            budget: self.budget.clone(),
            dense: self.spec.source.dense,
            read: start.read,
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
        if !self.reading.is_empty() {
            let partitions: Vec<_> = self.reading.keys().map(|key| &*key.partition).collect();
            tracing::warn!(
                pipeline = self.spec.name,
                partitions = partitions.join(", "),
                "readers that hang are dropped"
            );
            self.partitions.abort_all();
            self.reading.clear();
        }
    }

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
        let known: Vec<String> = self.reading.keys().map(|key| key.partition.to_string()).collect();
        let new: Vec<String> = found.into_iter().filter(|partition| !known.contains(partition)).collect();
        let Some(mut writer) = self.writer.take_if(|_| !new.is_empty()) else { return };
        let started = setup::starts(&self.source, &self.checkpoints, &mut writer, &self.spec, &new, false).await;
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
        let source = Arc::clone(&self.source);
        self.added.spawn(async move { Ok(source.hub().await?.partitions) }.boxed());
    }
}

async fn open(
    project: &ProjectSpec,
    spec: &PipelineSpec,
    places: &Places,
    checkpoints: &Checkpoints,
    options: &PipelineOptions,
) -> Result<(Arc<EventHubsSource>, TableWriter, Vec<PartitionStart>), PipelineError> {
    let source = setup::connect(project, spec).await?;
    let partitions = source.hub().await?.partitions;
    let mut writer = TableWriter::open(setup::table_spec(spec, places, options.fault_points.clone())?).await?;
    let starts = setup::starts(&source, checkpoints, &mut writer, spec, &partitions, options.until_caught_up).await?;
    Ok((source, writer, starts))
}

/// The last event of each partition, as a checkpoint names it.
fn last_of(parts: &[Part]) -> Vec<Committed> {
    let mut last: BTreeMap<&PartitionKey, &Part> = BTreeMap::new();
    for part in parts {
        last.insert(&part.staged.partition, part);
    }
    last.into_values()
        .map(|part| Committed {
            partition: part.staged.partition.partition.to_string(),
            sequence_number: part.staged.range.to - 1,
            offset: part.last_offset.clone(),
        })
        .collect()
}

/// The largest resident set of this process so far, in bytes; 0 where the system doesn't tell.
pub fn peak_rss_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kibibytes = line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
    kibibytes.unwrap_or(0) * 1024
}
