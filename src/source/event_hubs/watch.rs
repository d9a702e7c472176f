//! What a silent link means: judged by what the hub says that it holds.
//!
//! | the hub says | found |
//! |---|---|
//! | its last number lies before what was handed on, and the link never delivered anything | another hub |
//! | its first number lies after the next one | retention took what is between |
//! | it has more, and nothing comes | the link is dead |
//! | the same, on a compacted hub, up to the declared end | the rest was compacted away |
//!
//! The hub's word can be a moment old, and an event may be under way; so the first two and the
//! last are believed only when two looks in a row, with nothing received between them, say so.

use std::time::Duration;

use tokio::time::Instant;

use crate::source::PartitionProperties;

/// How often a partition is looked at: for the lag, and for the table above. More often, and
/// a hub of 100 partitions takes a fifth of the 50 calls a second that a namespace allows.
const INTERVAL: Duration = Duration::from_secs(10);

/// The same while an end is declared: somebody waits for it.
const INTERVAL_TO_AN_END: Duration = Duration::from_secs(2);

/// The first look, and the second one where the first found something.
const SOON: Duration = Duration::from_secs(1);

/// A link that should have delivered the event at which it was opened, and didn't.
const STALLED_AT_OPEN: Duration = Duration::from_secs(10);

/// A link that delivered before. Event Hubs delivers within a second.
const STALLED: Duration = Duration::from_secs(30);

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Finding {
    Nothing,
    /// The hub ends before what was handed on.
    AnotherHub {
        last_enqueued: i64,
    },
    /// What lies before this number has expired.
    Expired {
        begin: i64,
    },
    /// What lies before the declared end was compacted away.
    CompactedAway,
    Stalled {
        after: Duration,
    },
}

/// Where the reader stands when it looks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Standing {
    pub(super) position: i64,
    pub(super) opened_at: i64,
    pub(super) until: Option<i64>,
    pub(super) dense: bool,
    /// Events that the link delivered, known ones included.
    pub(super) received: u64,
    /// Since when it waits for the next.
    pub(super) waiting: Duration,
}

#[derive(Debug)]
pub(super) struct Watch {
    next: Instant,
    received: u64,
    /// What the look before this one found, where one look isn't enough.
    suspicion: Option<Finding>,
}

impl Watch {
    pub(super) fn new() -> Self {
        // Partitions that start together don't look together.
        Self { next: Instant::now() + SOON.mul_f64(1.0 + rand::random::<f64>()), received: 0, suspicion: None }
    }

    /// When to look next.
    pub(super) fn next(&self) -> Instant {
        self.next
    }

    /// A look failed: not now, then.
    pub(super) fn missed(&mut self) {
        self.next = Instant::now() + INTERVAL;
    }

    pub(super) fn judge(&mut self, at: Standing, holds: &PartitionProperties) -> Finding {
        let moved = at.received != self.received;
        self.received = at.received;
        let found = if moved { Finding::Nothing } else { find(at, holds) };
        let believed = match &found {
            Finding::Nothing | Finding::Stalled { .. } => true,
            Finding::AnotherHub { .. } | Finding::Expired { .. } | Finding::CompactedAway => {
                self.suspicion.as_ref() == Some(&found)
            }
        };
        self.next = Instant::now()
            + match (believed, at.until) {
                (false, _) => SOON,
                (true, Some(_)) => INTERVAL_TO_AN_END,
                (true, None) => INTERVAL,
            };
        if believed {
            self.suspicion = None;
            found
        } else {
            self.suspicion = Some(found);
            Finding::Nothing
        }
    }
}

fn find(at: Standing, holds: &PartitionProperties) -> Finding {
    let first = holds.first();
    if at.received == 0 && holds.last_enqueued < at.position - 1 {
        return Finding::AnotherHub { last_enqueued: holds.last_enqueued };
    }
    if first > at.position {
        return Finding::Expired { begin: first };
    }
    if holds.last_enqueued < at.position {
        return Finding::Nothing;
    }
    if !at.dense && at.received > 0 {
        let ends = at.until.is_some_and(|until| holds.last_enqueued + 1 >= until);
        return if ends { Finding::CompactedAway } else { Finding::Nothing };
    }
    let should_have_come = at.received == 0 && first <= at.opened_at && at.opened_at <= holds.last_enqueued;
    let after = if should_have_come { STALLED_AT_OPEN } else { STALLED };
    if at.waiting >= after { Finding::Stalled { after } } else { Finding::Nothing }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(begin: i64, last_enqueued: i64) -> PartitionProperties {
        PartitionProperties {
            partition: "0".into(),
            begin,
            last_enqueued,
            last_enqueued_at_ms: 0,
            is_empty: begin > last_enqueued,
        }
    }

    fn at(position: i64) -> Standing {
        Standing { position, opened_at: position - 1, until: None, dense: true, received: 0, waiting: Duration::ZERO }
    }

    #[tokio::test]
    async fn a_hub_that_ends_before_us_is_believed_at_the_second_look() {
        let mut watch = Watch::new();
        assert_eq!(watch.judge(at(100), &holds(0, 98)), Finding::Nothing);
        assert_eq!(watch.judge(at(100), &holds(0, 98)), Finding::AnotherHub { last_enqueued: 98 });
        assert_eq!(Watch::new().judge(at(100), &holds(0, 99)), Finding::Nothing);
    }

    #[tokio::test]
    async fn a_hub_that_delivered_the_last_event_is_not_another_one() {
        let mut watch = Watch::new();
        let standing = Standing { received: 1, ..at(100) };
        for _ in 0..4 {
            assert_eq!(watch.judge(standing, &holds(0, 50)), Finding::Nothing);
        }
    }

    #[tokio::test]
    async fn what_came_between_two_looks_clears_the_suspicion() {
        let mut watch = Watch::new();
        assert_eq!(watch.judge(at(10), &holds(20, 30)), Finding::Nothing);
        assert_eq!(watch.judge(Standing { received: 1, ..at(11) }, &holds(20, 30)), Finding::Nothing);
        assert_eq!(watch.judge(Standing { received: 1, ..at(11) }, &holds(20, 30)), Finding::Nothing);
        assert_eq!(watch.judge(Standing { received: 1, ..at(11) }, &holds(20, 30)), Finding::Expired { begin: 20 });
    }

    #[tokio::test]
    async fn an_emptied_partition_begins_at_what_comes_next() {
        let mut watch = Watch::new();
        let emptied = PartitionProperties { is_empty: true, ..holds(0, 30) };
        watch.judge(at(10), &emptied);
        assert_eq!(watch.judge(at(10), &emptied), Finding::Expired { begin: 31 });
        assert_eq!(Watch::new().judge(at(31), &emptied), Finding::Nothing);
    }

    #[tokio::test]
    async fn a_link_that_delivers_nothing_though_the_hub_has_more_is_dead() {
        let waiting = |seconds| Standing { waiting: Duration::from_secs(seconds), ..at(10) };
        assert_eq!(Watch::new().judge(waiting(9), &holds(0, 30)), Finding::Nothing);
        assert_eq!(Watch::new().judge(waiting(11), &holds(0, 30)), Finding::Stalled { after: STALLED_AT_OPEN });
        assert_eq!(Watch::new().judge(waiting(60), &holds(0, 9)), Finding::Nothing);
        let mut watch = Watch::new();
        let proven = |seconds| Standing { received: 5, ..waiting(seconds) };
        watch.judge(proven(0), &holds(0, 30));
        assert_eq!(watch.judge(proven(29), &holds(0, 30)), Finding::Nothing);
        assert_eq!(watch.judge(proven(31), &holds(0, 30)), Finding::Stalled { after: STALLED });
    }

    #[tokio::test]
    async fn the_end_of_a_compacted_hub_may_be_missing() {
        let mut watch = Watch::new();
        let standing = Standing { dense: false, received: 5, until: Some(31), waiting: STALLED * 9, ..at(10) };
        watch.judge(standing, &holds(0, 30));
        assert_eq!(watch.judge(standing, &holds(0, 30)), Finding::Nothing);
        assert_eq!(watch.judge(standing, &holds(0, 30)), Finding::CompactedAway);
        let endless = Standing { until: None, ..standing };
        assert_eq!(watch.judge(endless, &holds(0, 30)), Finding::Nothing);
    }
}
