//! One link of a partition, from its opening to its end.

use futures::future::BoxFuture;
use futures::{Stream, StreamExt};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

use super::pace::ENOUGH_TO_JUDGE;
use super::read::{Heard, Reader};
use super::tracker::Verdict;
use super::watch::{Finding, Standing, Watch};
use crate::batch::{Event, EventBatch, Origin};
use crate::checkpoint::Range;
use crate::memory::Reservation;
use crate::source::{HoleCause, PartitionProperties, SourceError, SourceEvent};

/// What a batch holds at most. Larger, and the first event waits for the last; smaller, and
/// decoding to columns pays its fixed cost too often. A link has no more than this ahead.
const BATCH_EVENTS: usize = 1000;

/// The same in bytes: a batch of the largest events is a handful.
const BATCH_BYTES: usize = 4 * 1024 * 1024;

/// How long a batch waits for more. Nothing beside the seconds between commits; with 5 ms, four
/// partitions in full flow made batches of 200.
const LINGER: Duration = Duration::from_millis(20);

/// The least that a growing batch reserves at a time.
const RESERVE_STEP: usize = 64 * 1024;

/// How a link ended where nothing failed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum LinkEnd {
    Stopped,
    CaughtUp,
    /// A fresh link with another credit, at once.
    Reopen,
}

/// What a link waits for.
enum Step {
    Event(Event),
    Broken(SourceError),
    Look,
    Looked(Result<PartitionProperties, SourceError>),
}

type Look = BoxFuture<'static, Result<PartitionProperties, SourceError>>;

pub(super) struct Link<'a> {
    reader: &'a mut Reader,
    opened_at: i64,
    prefetch: u32,
    share: usize,
    /// Events that came, known ones included.
    received: u64,
    waiting_since: Instant,
    watch: Watch,
    look: Option<Look>,
    /// Came while a batch was gathered, and isn't judged yet.
    carried: Option<Event>,
    /// What ended the stream while a batch was gathered.
    broken: Option<SourceError>,
}

impl<'a> Link<'a> {
    pub(super) fn new(reader: &'a mut Reader, opened_at: i64, prefetch: u32, share: usize) -> Self {
        Self {
            reader,
            opened_at,
            prefetch,
            share,
            received: 0,
            waiting_since: Instant::now(),
            watch: Watch::new(),
            look: None,
            carried: None,
            broken: None,
        }
    }

    pub(super) async fn run<S>(mut self, events: S) -> Result<LinkEnd, SourceError>
    where
        S: Stream<Item = Result<Event, SourceError>>,
    {
        let mut events = pin!(events);
        loop {
            let end = match self.step(&mut events).await {
                Step::Broken(error) => return Err(error),
                Step::Event(event) => self.event(event, &mut events).await?,
                Step::Look => {
                    self.look = Some(self.look_at_the_hub());
                    None
                }
                Step::Looked(Ok(holds)) => self.looked(&holds).await?,
                Step::Looked(Err(error)) => {
                    tracing::debug!(partition = %self.reader.partition, %error, "a look at the partition failed");
                    self.watch.missed();
                    None
                }
            };
            if let Some(end) = end {
                return Ok(end);
            }
        }
    }

    /// What happens next. Each branch is cancel-safe: the stream and the look keep their
    /// state, the others only wait.
    async fn step<S>(&mut self, events: &mut S) -> Step
    where
        S: Stream<Item = Result<Event, SourceError>> + Unpin,
    {
        if let Some(event) = self.carried.take() {
            return Step::Event(event);
        }
        if let Some(error) = self.broken.take() {
            return Step::Broken(error);
        }
        let no_look = self.look.is_none();
        let look = &mut self.look;
        tokio::select! {
            biased;
            holds = async { look.as_mut().expect("the branch is off without a look").await }, if !no_look => {
                self.look = None;
                Step::Looked(holds)
            }
            () = sleep_until(self.watch.next()), if no_look => Step::Look,
            next = events.next() => match next {
                Some(Ok(event)) => {
                    self.received += 1;
                    Step::Event(event)
                }
                Some(Err(error)) => Step::Broken(error),
                None => Step::Broken(self.ended()),
            },
        }
    }

    fn ended(&self) -> SourceError {
        self.reader.source.protocol(&self.reader.partition.partition, "the link ended")
    }

    fn look_at_the_hub(&self) -> Look {
        let source = Arc::clone(&self.reader.source);
        let partition = Arc::clone(&self.reader.partition.partition);
        Box::pin(async move { source.partition(&partition).await })
    }

    async fn event<S>(&mut self, event: Event, events: &mut S) -> Result<Option<LinkEnd>, SourceError>
    where
        S: Stream<Item = Result<Event, SourceError>> + Unpin,
    {
        self.reader.served = true;
        if let Some(until) = self.reader.until
            && event.sequence_number >= until
        {
            // The end lies in a hole, or was reached.
            let missing = Range::new(self.reader.tracker.position(), until);
            return Ok(Some(match self.hole(missing).await? {
                Heard::Yes => LinkEnd::CaughtUp,
                Heard::Stopped => LinkEnd::Stopped,
            }));
        }
        match self.reader.tracker.accept(event.sequence_number, event.enqueued_at) {
            Verdict::Known => {}
            Verdict::New => {
                if self.deliver(event, events).await == Heard::Stopped {
                    return Ok(Some(LinkEnd::Stopped));
                }
                self.waiting_since = Instant::now();
                if self.reader.is_caught_up() {
                    return Ok(Some(LinkEnd::CaughtUp));
                }
                // What broke or was carried comes first: it would be lost from the count.
                let judged = self.received >= ENOUGH_TO_JUDGE && self.broken.is_none();
                if judged && self.reader.source.credit.is_off(self.prefetch, self.share) {
                    return Ok(Some(LinkEnd::Reopen));
                }
            }
            Verdict::Jump(missing) => {
                if self.hole(missing).await? == Heard::Stopped {
                    return Ok(Some(LinkEnd::Stopped));
                }
                self.carried = Some(event);
            }
            Verdict::Foreign { recorded_ms } => {
                let difference = format!(
                    "event {} of partition `{}` was enqueued at {}, and another one at {} was read under that number",
                    event.sequence_number,
                    self.reader.partition.partition,
                    time_text(event.enqueued_at),
                    time_text(recorded_ms),
                );
                return Err(self.reader.source.another_hub(difference).await);
            }
        }
        Ok(None)
    }

    /// Names what is missing, with its cause, and moves past it.
    async fn hole(&mut self, missing: Range) -> Result<Heard, SourceError> {
        if missing.is_empty() {
            return Ok(Heard::Yes);
        }
        let parts = if self.reader.source.dense {
            let holds = self.reader.source.partition(&self.reader.partition.partition).await?;
            let kept_from = holds.first().clamp(missing.from, missing.to);
            vec![
                (Range::new(missing.from, kept_from), HoleCause::Retention),
                (Range::new(kept_from, missing.to), HoleCause::Unexplained),
            ]
        } else {
            vec![(missing, HoleCause::Compaction)]
        };
        self.say_holes(parts).await
    }

    async fn say_holes(&mut self, parts: Vec<(Range, HoleCause)>) -> Result<Heard, SourceError> {
        for (missing, cause) in parts.into_iter().filter(|(missing, _)| !missing.is_empty()) {
            let partition = self.reader.partition.clone();
            if cause == HoleCause::Compaction {
                tracing::debug!(%partition, %missing, "numbers were compacted away");
            } else {
                tracing::error!(%partition, %missing, cause = cause.as_str(), "numbers are missing");
            }
            if self.reader.say(SourceEvent::Hole { partition, missing, cause }).await == Heard::Stopped {
                return Ok(Heard::Stopped);
            }
            self.reader.tracker.skip_to(missing.to);
        }
        Ok(Heard::Yes)
    }

    /// Hands on the event and those that follow it without delay.
    async fn deliver<S>(&mut self, first: Event, events: &mut S) -> Heard
    where
        S: Stream<Item = Result<Event, SourceError>> + Unpin,
    {
        let mut bytes = first.memory_bytes();
        // With empty hands it may wait; with a batch in them it may not.
        let mut reservation = self.reader.budget.reserve(bytes).await;
        let most = self.reader.source.pace.batch_events(BATCH_EVENTS);
        let mut batch = Vec::with_capacity(most.min(self.prefetch as usize));
        batch.push(first);
        let mut linger = pin!(sleep_until(Instant::now() + LINGER));
        while batch.len() < most && bytes < BATCH_BYTES && !self.reader.is_caught_up() {
            let next = tokio::select! {
                biased;
                next = events.next() => next,
                () = &mut linger => break,
            };
            let event = match next {
                Some(Ok(event)) => event,
                Some(Err(error)) => {
                    self.broken = Some(error);
                    break;
                }
                None => {
                    self.broken = Some(self.ended());
                    break;
                }
            };
            self.received += 1;
            let size = event.memory_bytes();
            if !self.grow(&mut reservation, bytes + size) || !self.follows(&event) {
                self.carried = Some(event);
                break;
            }
            if self.reader.tracker.accept(event.sequence_number, event.enqueued_at) == Verdict::New {
                bytes += size;
                batch.push(event);
            }
        }
        reservation.shrink_to(bytes);
        self.hand_on(batch, bytes, reservation).await
    }

    /// Whether the event is the next one; any other is judged by itself.
    fn follows(&self, event: &Event) -> bool {
        event.sequence_number == self.reader.tracker.position()
    }

    /// Whether the reservation holds so many bytes, or could be made to, without waiting.
    fn grow(&self, reservation: &mut Reservation, bytes: usize) -> bool {
        let missing = bytes.saturating_sub(reservation.bytes());
        if missing == 0 {
            return true;
        }
        let budget = &self.reader.budget;
        let more = budget.try_reserve(missing.max(RESERVE_STEP)).or_else(|| budget.try_reserve(missing));
        match more {
            Some(more) => {
                reservation.merge(more);
                reservation.bytes() >= bytes
            }
            None => false,
        }
    }

    async fn hand_on(&mut self, events: Vec<Event>, bytes: usize, reservation: Reservation) -> Heard {
        let source = &self.reader.source;
        source.credit.saw(events.len() as u64, bytes as u64);
        source.pace.turn(events.len()).await;
        let batch = EventBatch { partition: self.reader.partition.clone(), origin: Origin::Live, events };
        self.reader.backoff.reset();
        self.reader.say(SourceEvent::Events { batch, reservation }).await
    }

    async fn looked(&mut self, holds: &PartitionProperties) -> Result<Option<LinkEnd>, SourceError> {
        let progress = SourceEvent::Progress {
            partition: self.reader.partition.clone(),
            last_enqueued_sequence_number: holds.last_enqueued,
            last_enqueued_at: holds.last_enqueued_at_ms,
        };
        // A full channel has more to say than this.
        let _ = self.reader.sender.try_send(progress);
        let standing = Standing {
            position: self.reader.tracker.position(),
            opened_at: self.opened_at,
            until: self.reader.until,
            dense: self.reader.source.dense,
            received: self.received,
            waiting: self.waiting_since.elapsed(),
        };
        let until = self.reader.until.unwrap_or(i64::MAX);
        let parts = match self.watch.judge(standing, holds) {
            Finding::Nothing => return Ok(None),
            Finding::Stalled { after } => {
                let doing =
                    format!("read partition `{}`, though the hub has more of it", self.reader.partition.partition);
                return Err(SourceError::TimedOut { doing, after });
            }
            Finding::AnotherHub { .. } if !self.reader.tracker.knows_the_hub() => return Ok(None),
            Finding::AnotherHub { last_enqueued } => return Err(self.reader.ends_before_us(last_enqueued).await),
            Finding::Expired { begin } => {
                let cause = if self.reader.source.dense { HoleCause::Retention } else { HoleCause::Compaction };
                vec![(Range::new(standing.position, begin.min(until)), cause)]
            }
            Finding::CompactedAway => vec![(Range::new(standing.position, until), HoleCause::Compaction)],
        };
        Ok(match self.say_holes(parts).await? {
            Heard::Stopped => Some(LinkEnd::Stopped),
            Heard::Yes if self.reader.is_caught_up() => Some(LinkEnd::CaughtUp),
            Heard::Yes => None,
        })
    }
}

fn time_text(epoch_ms: i64) -> String {
    chrono::DateTime::from_timestamp_millis(epoch_ms)
        .map_or_else(|| format!("{epoch_ms} ms"), |time| time.to_rfc3339_opts(chrono::SecondsFormat::Millis, true))
}
