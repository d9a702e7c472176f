//! The share of a partition's events that are rejected, held against the declared limit.
//!
//! A bad event is a dead letter and no more. When a good part of a stream is bad something is wrong with the stream, a
//! schema or the declaration, and going on would only fill the dead letters. So the events that tip the share over aren't
//! taken in at all: they stay where they are, and are decoded again by the next start.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use crate::batch::{Reject, RejectClass};
use crate::config::spec::RejectLimit;

/// Into how many portions the window is cut: each leaves it as a whole.
const PORTIONS: u32 = 60;

/// Counts the events of one partition over the window.
#[derive(Debug)]
pub struct RejectShare {
    limit: RejectLimit,
    portions: VecDeque<Portion>,
}

#[derive(Debug)]
struct Portion {
    since: Instant,
    events: u64,
    rejects: HashMap<RejectClass, u64>,
}

/// Why a partition stops.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TooMany {
    pub rejected: u64,
    pub events: u64,
    pub within: Duration,
    pub share: f64,
    /// What most of them have in common.
    pub class: RejectClass,
}

impl RejectShare {
    pub fn new(limit: RejectLimit) -> Self {
        Self { limit, portions: VecDeque::new() }
    }

    /// Counts a batch, unless it tips the share over.
    ///
    /// # Errors
    /// [`TooMany`], and then nothing was counted.
    pub fn count(&mut self, now: Instant, events: usize, rejects: &[Reject]) -> Result<(), TooMany> {
        let RejectLimit { share, window, min_events } = self.limit;
        self.portions.retain(|portion| now.duration_since(portion.since) < window);
        let mut classes: HashMap<RejectClass, u64> = HashMap::new();
        for reject in rejects {
            *classes.entry(reject.class).or_default() += 1;
        }
        let mut all = classes.clone();
        let mut of = events as u64;
        for portion in &self.portions {
            of += portion.events;
            for (class, times) in &portion.rejects {
                *all.entry(*class).or_default() += times;
            }
        }
        let rejected: u64 = all.values().sum();
        let most = all.iter().max_by_key(|(class, times)| (**times, class.as_str()));
        // A batch without rejects tips nothing over, however bad what came before was.
        if let Some((class, _)) = most
            && !rejects.is_empty()
            && of >= min_events
            && rejected as f64 > share * of as f64
        {
            return Err(TooMany { rejected, events: of, within: window, share, class: *class });
        }
        let is_open = |portion: &&mut Portion| now.duration_since(portion.since) < window / PORTIONS;
        match self.portions.back_mut().filter(is_open) {
            Some(portion) => {
                portion.events += events as u64;
                for (class, times) in classes {
                    *portion.rejects.entry(class).or_default() += times;
                }
            }
            None => self.portions.push_back(Portion { since: now, events: events as u64, rejects: classes }),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::batch::{Event, Origin};

    fn rejects(classes: &[(RejectClass, usize)]) -> Vec<Reject> {
        let reject = |class| Reject {
            event: Event {
                sequence_number: 0,
                offset: String::new(),
                enqueued_at: 0,
                body: Bytes::new(),
                content_type: None,
                properties: Vec::new(),
            },
            origin: Origin::Live,
            record_index: 0,
            schema_id: None,
            framing: "none",
            class,
            text: String::new(),
        };
        classes.iter().flat_map(|(class, times)| (0..*times).map(move |_| reject(*class))).collect()
    }

    fn share() -> RejectShare {
        RejectShare::new(RejectLimit { share: 0.1, window: Duration::from_secs(60), min_events: 100 })
    }

    #[test]
    fn more_than_the_share_stops_and_names_the_most_frequent_class() {
        let (mut held, now) = (share(), Instant::now());
        assert_eq!(held.count(now, 99, &rejects(&[(RejectClass::Datum, 99)])), Ok(()), "of too few no share is told");
        let mut held_well = share();
        assert_eq!(
            held_well.count(now, 100, &rejects(&[(RejectClass::Datum, 10)])),
            Ok(()),
            "the share itself is allowed"
        );
        let many = rejects(&[(RejectClass::SchemaNotFound, 9), (RejectClass::Datum, 2)]);
        let tipped = held_well.count(now, 100, &many).expect_err("21 of 200");
        assert_eq!((tipped.rejected, tipped.events, tipped.class), (21, 200, RejectClass::Datum));
        assert_eq!(
            held_well.count(now, 100, &rejects(&[(RejectClass::Datum, 9)])),
            Ok(()),
            "nothing of it was counted"
        );
        held.count(now, 1, &rejects(&[(RejectClass::Framing, 1)])).expect_err("all of 100");
    }

    #[test]
    fn what_lies_before_the_window_is_forgotten() {
        let (mut held, now) = (share(), Instant::now());
        held.count(now, 99, &rejects(&[(RejectClass::Datum, 60)])).expect("too few");
        assert!(held.count(now + Duration::from_secs(30), 100, &rejects(&[(RejectClass::Datum, 1)])).is_err());
        assert_eq!(held.count(now + Duration::from_secs(61), 100, &rejects(&[(RejectClass::Datum, 1)])), Ok(()));
        let mut busy = share();
        for tick in 0..10_000 {
            busy.count(now + Duration::from_millis(tick * 10), 5, &[]).expect("none is rejected");
        }
        assert!(busy.portions.len() <= 61, "{}", busy.portions.len());
    }
}
