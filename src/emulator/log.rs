//! The events of one partition, in memory.
//!
//! Numbers are dense, so an event's place is its number less the first one's. Everything is
//! pure: time comes in as an argument, and nothing waits.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use super::options::Retention;
use super::selector::{Bound, StartPosition};

/// What an event takes beside its bytes: its own fields, its place and the allocations.
const OVERHEAD_BYTES: u64 = 128;

/// An event as it was accepted.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct StoredEvent {
    pub(super) sequence_number: i64,
    pub(super) offset: i64,
    /// Epoch milliseconds.
    pub(super) enqueued_at: i64,
    /// The whole message, with the annotations that a receiver reads; ready to be sent.
    pub(super) message: Bytes,
}

impl StoredEvent {
    pub(super) fn memory_bytes(&self) -> u64 {
        self.message.len() as u64 + OVERHEAD_BYTES
    }
}

/// A start that can't be: a receiver asked for a place that the partition hasn't reached.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum BeyondEnd {
    #[error("the supplied sequence number `{asked}` is beyond the last one of the partition, `{last}`")]
    SequenceNumber { asked: i64, last: i64 },
    #[error("the supplied offset `{asked}` is beyond the last one of the partition, `{last}`")]
    Offset { asked: i64, last: i64 },
}

/// The events that a partition keeps, and where it stands.
#[derive(Debug)]
pub(super) struct PartitionLog {
    events: VecDeque<Arc<StoredEvent>>,
    next_sequence_number: i64,
    next_offset: i64,
    last_offset: i64,
    last_enqueued_at: i64,
    memory_bytes: u64,
}

impl Default for PartitionLog {
    fn default() -> Self {
        Self {
            events: VecDeque::new(),
            next_sequence_number: 0,
            next_offset: 0,
            last_offset: -1,
            last_enqueued_at: 0,
            memory_bytes: 0,
        }
    }
}

impl PartitionLog {
    /// The number of the first event that is kept, or of the next one where none is.
    pub(super) fn begin(&self) -> i64 {
        self.events.front().map_or(self.next_sequence_number, |event| event.sequence_number)
    }

    pub(super) fn next_sequence_number(&self) -> i64 {
        self.next_sequence_number
    }

    /// Where the next event starts, in bytes of bodies and properties.
    pub(super) fn next_offset(&self) -> i64 {
        self.next_offset
    }

    /// -1 before the first event.
    pub(super) fn last_offset(&self) -> i64 {
        self.last_offset
    }

    /// Epoch milliseconds; 0 before the first event.
    pub(super) fn last_enqueued_at(&self) -> i64 {
        self.last_enqueued_at
    }

    pub(super) fn len(&self) -> usize {
        self.events.len()
    }

    pub(super) fn memory_bytes(&self) -> u64 {
        self.memory_bytes
    }

    /// Enqueued times never go back, whatever the clock does.
    pub(super) fn enqueue_time(&self, now: i64) -> i64 {
        now.max(self.last_enqueued_at)
    }

    /// Takes an event in; its number is the next one.
    pub(super) fn push(&mut self, event: StoredEvent, next_offset: i64) {
        self.next_sequence_number = event.sequence_number + 1;
        self.next_offset = next_offset;
        self.last_offset = event.offset;
        self.last_enqueued_at = event.enqueued_at;
        self.memory_bytes += event.memory_bytes();
        self.events.push_back(Arc::new(event));
    }

    /// Sets an empty log to where another one stood.
    pub(super) fn stand_at(&mut self, next_sequence_number: i64, next_offset: i64, last_offset: i64, enqueued_at: i64) {
        self.next_sequence_number = next_sequence_number;
        self.next_offset = next_offset;
        self.last_offset = last_offset;
        self.last_enqueued_at = enqueued_at;
    }

    /// Lets go the first event.
    pub(super) fn pop_front(&mut self) -> Option<Arc<StoredEvent>> {
        let event = self.events.pop_front()?;
        self.memory_bytes -= event.memory_bytes();
        Some(event)
    }

    /// Lets go what lies before a number; says whether anything did.
    pub(super) fn expire_before(&mut self, sequence_number: i64) -> bool {
        let before = self.events.len();
        while self.events.front().is_some_and(|event| event.sequence_number < sequence_number) {
            self.pop_front();
        }
        self.events.len() != before
    }

    /// Lets go what retention no longer keeps; says whether anything did.
    pub(super) fn retain(&mut self, retention: &Retention, now: i64) -> bool {
        let mut keep_from = self.begin();
        if let Some(max) = retention.max_events {
            let max = i64::try_from(max).unwrap_or(i64::MAX);
            keep_from = keep_from.max(self.next_sequence_number.saturating_sub(max));
        }
        if let Some(age) = retention.max_age {
            let oldest = now.saturating_sub(i64::try_from(age.as_millis()).unwrap_or(i64::MAX));
            let young = self.events.partition_point(|event| event.enqueued_at < oldest);
            keep_from = keep_from.max(self.begin() + young as i64);
        }
        self.expire_before(keep_from)
    }

    /// The number from which a receiver that asked for `position` reads.
    pub(super) fn resolve(&self, position: &StartPosition) -> Result<i64, BeyondEnd> {
        let last = self.next_sequence_number - 1;
        let number = match *position {
            StartPosition::Earliest => self.begin(),
            StartPosition::Latest => self.next_sequence_number,
            StartPosition::SequenceNumber(Bound { value, .. }) if value > last + 1 => {
                return Err(BeyondEnd::SequenceNumber { asked: value, last });
            }
            StartPosition::SequenceNumber(Bound { value, inclusive: true }) => value,
            StartPosition::SequenceNumber(Bound { value, inclusive: false }) => value.saturating_add(1),
            StartPosition::Offset(Bound { value, .. }) if value > self.last_offset.max(0) => {
                return Err(BeyondEnd::Offset { asked: value, last: self.last_offset });
            }
            StartPosition::Offset(bound) => self.first_where(|event| bound.is_met_by(event.offset)),
            StartPosition::EnqueuedTime(bound) => self.first_where(|event| bound.is_met_by(event.enqueued_at)),
        };
        Ok(number.max(self.begin()))
    }

    /// The first event for which a test holds that holds for all that follow it.
    fn first_where(&self, test: impl Fn(&StoredEvent) -> bool) -> i64 {
        self.begin() + self.events.partition_point(|event| !test(event)) as i64
    }

    /// Events from a number on, or from the first one kept; at least one where there is
    /// any, then as many as fit.
    pub(super) fn read(&self, from: i64, max_events: usize, max_bytes: u64) -> Vec<Arc<StoredEvent>> {
        let skip = usize::try_from(from - self.begin()).unwrap_or(0);
        let mut bytes = 0;
        self.events
            .range(skip.min(self.events.len())..)
            .take(max_events)
            .take_while(|event| {
                let fits = bytes < max_bytes;
                bytes += event.memory_bytes();
                fits
            })
            .cloned()
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Ten events of 10 bytes each, enqueued at 0, 100, … ms.
    fn log() -> PartitionLog {
        let mut log = PartitionLog::default();
        for number in 0..10 {
            let message = Bytes::from_static(b"0123456789");
            let event =
                StoredEvent { sequence_number: number, offset: number * 10, enqueued_at: number * 100, message };
            log.push(event, (number + 1) * 10);
        }
        log
    }

    fn bound(value: i64, inclusive: bool) -> Bound {
        Bound { value, inclusive }
    }

    #[test]
    fn every_kind_of_start_resolves_to_a_number() {
        for (position, number) in [
            (StartPosition::Earliest, 0),
            (StartPosition::Latest, 10),
            (StartPosition::SequenceNumber(bound(5, true)), 5),
            (StartPosition::SequenceNumber(bound(5, false)), 6),
            (StartPosition::SequenceNumber(bound(9, false)), 10),
            (StartPosition::SequenceNumber(bound(10, true)), 10),
            (StartPosition::SequenceNumber(bound(-1, false)), 0),
            (StartPosition::Offset(bound(50, true)), 5),
            (StartPosition::Offset(bound(50, false)), 6),
            (StartPosition::Offset(bound(51, true)), 6),
            (StartPosition::EnqueuedTime(bound(300, true)), 3),
            (StartPosition::EnqueuedTime(bound(300, false)), 4),
            (StartPosition::EnqueuedTime(bound(301, true)), 4),
            (StartPosition::EnqueuedTime(bound(5000, true)), 10),
        ] {
            assert_eq!(log().resolve(&position), Ok(number), "{position:?}");
        }
    }

    #[test]
    fn a_start_beyond_the_end_is_refused() {
        let asked = StartPosition::SequenceNumber(bound(12, true));
        assert_eq!(log().resolve(&asked), Err(BeyondEnd::SequenceNumber { asked: 12, last: 9 }));
        let asked = StartPosition::Offset(bound(91, false));
        assert_eq!(log().resolve(&asked), Err(BeyondEnd::Offset { asked: 91, last: 90 }));
    }

    #[test]
    fn a_start_before_what_is_kept_begins_at_the_earliest() {
        let mut log = log();
        assert!(log.expire_before(4));
        for position in [
            StartPosition::Earliest,
            StartPosition::SequenceNumber(bound(1, true)),
            StartPosition::Offset(bound(10, true)),
            StartPosition::EnqueuedTime(bound(0, true)),
        ] {
            assert_eq!(log.resolve(&position), Ok(4), "{position:?}");
        }
        assert_eq!(log.read(0, 100, 1 << 20)[0].sequence_number, 4);
    }

    #[test]
    fn retention_bites_by_count_and_by_age() {
        let mut by_count = log();
        assert!(by_count.retain(&Retention { max_events: Some(3), max_age: None }, 0));
        assert_eq!((by_count.begin(), by_count.len()), (7, 3));
        let mut by_age = log();
        by_age.retain(&Retention { max_events: None, max_age: Some(Duration::from_millis(250)) }, 1000);
        assert_eq!(by_age.begin(), 8);
        assert!(!by_age.retain(&Retention::default(), 1_000_000));
    }

    #[test]
    fn numbers_go_on_when_every_event_is_gone() {
        let mut log = log();
        log.expire_before(100);
        assert_eq!((log.begin(), log.len(), log.memory_bytes()), (10, 0, 0));
        assert_eq!((log.next_sequence_number(), log.last_offset()), (10, 90));
        assert_eq!(log.resolve(&StartPosition::Earliest), Ok(10));
    }

    #[test]
    fn a_read_is_bounded_but_never_empty_while_there_are_events() {
        let numbers = |from, events, bytes| -> Vec<i64> {
            log().read(from, events, bytes).iter().map(|event| event.sequence_number).collect()
        };
        assert_eq!(numbers(8, 100, 1 << 20), [8, 9]);
        assert_eq!(numbers(0, 2, 1 << 20), [0, 1]);
        assert_eq!(numbers(0, 100, 1), [0]);
        assert_eq!(numbers(10, 100, 1 << 20), [0_i64; 0]);
    }

    #[test]
    fn enqueued_times_never_go_back() {
        assert_eq!(log().enqueue_time(100), 900);
        assert_eq!(log().enqueue_time(901), 901);
    }
}
