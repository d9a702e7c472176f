//! Where events come from: the contract of every source.
//!
//! ```text
//!  hub ── partition 0 ─▶ read() ─┐
//!      ── partition 1 ─▶ read() ─┼─▶ channel of SourceEvent ─▶ pipeline
//!      ── partition n ─▶ read() ─┘
//! ```
//!
//! A source hands on each number of a partition once, ascending, from the position that it
//! was given. Numbers that are not there are never passed over in silence: a
//! [`SourceEvent::Hole`] with its cause comes first. What is handed on holds its share of the
//! pipeline's memory, as a [`Reservation`], until that is dropped.
//!
//! A partition that fails says so ([`SourceEvent::Failed`]), backs off alone and goes on at
//! the last event that it received. Only what waiting can't mend ends a task: a hub that
//! counts again from elsewhere, a partition that another reader took over, a sign-in that
//! was never allowed.

pub mod capture;
mod error;
pub mod event_hubs;

pub use error::SourceError;

use std::time::Duration;

use crate::batch::EventBatch;
use crate::checkpoint::{PartitionKey, Range};
use crate::memory::Reservation;

/// What a reader of one partition has to say. In the channel the events of different
/// partitions mix; those of one partition keep their order.
#[derive(Debug)]
pub enum SourceEvent {
    /// Ascending; the numbers continue those of the last batch, unless a hole came between.
    Events { batch: EventBatch, reservation: Reservation },
    /// Numbers that will not come: the next batch continues at `missing.to` or later.
    Hole { partition: PartitionKey, missing: Range, cause: HoleCause },
    /// The link broke; the reader tries again by itself after `retry_in`.
    Failed { partition: PartitionKey, error: SourceError, retry_in: Duration },
    /// A capture blob was read to its end, and holds these numbers; or was given up before it.
    BlobRead { partition: PartitionKey, path: String, numbers: Option<Range> },
    /// The declared end was reached, and the reader has ended. `position` is the next number.
    CaughtUp { partition: PartitionKey, position: i64 },
    /// What the hub holds, from time to time, for the lag. Skipped when the channel is full.
    Progress {
        partition: PartitionKey,
        /// -1 where there never was one.
        last_enqueued_sequence_number: i64,
        /// Epoch milliseconds.
        last_enqueued_at: i64,
    },
}

/// Why numbers are not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HoleCause {
    /// The hub's retention took them before they were read.
    Retention,
    /// The hub is declared as compacted (`dense = false`).
    Compaction,
    /// The hub should still have them, and didn't deliver them.
    Unexplained,
    /// No capture blob has them.
    NotCaptured,
}

impl HoleCause {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Retention => "retention",
            Self::Compaction => "compaction",
            Self::Unexplained => "unexplained",
            Self::NotCaptured => "not_captured",
        }
    }
}

/// What to read of a partition.
#[derive(Debug, Clone)]
pub struct ReadPartition {
    pub partition: PartitionKey,
    /// The next number to hand on.
    pub position: i64,
    /// The last event that the ledger covers before `position`: read again and compared.
    pub last: Option<LastSeen>,
    /// Where to end: as soon as the position reaches it.
    pub until: Option<i64>,
}

/// An event that was seen before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastSeen {
    pub sequence_number: i64,
    /// Epoch milliseconds; a whole second may also be one of which only the second is known.
    pub enqueued_at_ms: i64,
}

/// What a hub says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubProperties {
    /// Epoch milliseconds; another value than before means another hub.
    pub created_at_ms: i64,
    pub partitions: Vec<String>,
}

/// What a hub says of a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionProperties {
    pub partition: String,
    /// The first number that it still has; of an empty one it means nothing: see [`Self::first`].
    pub begin: i64,
    /// -1 where there never was an event.
    pub last_enqueued: i64,
    /// Epoch milliseconds.
    pub last_enqueued_at_ms: i64,
    pub is_empty: bool,
}

impl PartitionProperties {
    /// The first number that it still has. An empty partition begins at what comes next.
    pub fn first(&self) -> i64 {
        if self.is_empty { self.last_enqueued.saturating_add(1) } else { self.begin }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_partition_begins_at_what_comes_next() {
        let holds = |begin, last_enqueued, is_empty| PartitionProperties {
            partition: "0".into(),
            begin,
            last_enqueued,
            last_enqueued_at_ms: 0,
            is_empty,
        };
        assert_eq!(holds(0, -1, true).first(), 0);
        assert_eq!(holds(0, 41, true).first(), 42);
        assert_eq!(holds(7, 41, false).first(), 7);
    }
}
