//! Where a reader stands in its partition, and what an event that comes means.
//!
//! | the event's number | means |
//! |---|---|
//! | that of the last one seen, same enqueued time | the proof that the hub is the same; dropped |
//! | that of the last one seen, another time | another hub: stop |
//! | below the next one | was handed on before; dropped |
//! | the next one | handed on |
//! | above the next one | a hole first |

use crate::checkpoint::Range;
use crate::source::LastSeen;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Handed on before, or the event that was compared.
    Known,
    /// The next one. The position has moved past it.
    New,
    /// These numbers are missing before it. The position hasn't moved.
    Jump(Range),
    /// The number is known, but it was another event.
    Foreign { recorded_ms: i64 },
}

/// Where a link begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Opening {
    pub(super) number: i64,
    pub(super) inclusive: bool,
}

impl Opening {
    /// The first number that the link can deliver.
    pub(super) fn first(self) -> i64 {
        if self.inclusive { self.number } else { self.number + 1 }
    }
}

#[derive(Debug, Clone)]
pub(super) struct Tracker {
    position: i64,
    last: Option<LastSeen>,
}

impl Tracker {
    pub(super) fn new(position: i64, last: Option<LastSeen>) -> Self {
        // What is said to be seen at or after the position wasn't handed on by anybody.
        Self { position, last: last.filter(|last| last.sequence_number < position) }
    }

    /// The next number to hand on.
    pub(super) fn position(&self) -> i64 {
        self.position
    }

    /// Whether an event before the position is known: received, or covered by the ledger.
    pub(super) fn knows_the_hub(&self) -> bool {
        self.last.is_some()
    }

    /// Where to open: at the last event seen, to compare it; without one, after the number
    /// before the position, since a hub refuses to begin at a number that it hasn't given.
    pub(super) fn opens_at(&self) -> Opening {
        match self.last {
            Some(last) => Opening { number: last.sequence_number, inclusive: true },
            None => Opening { number: self.position - 1, inclusive: false },
        }
    }

    pub(super) fn accept(&mut self, number: i64, enqueued_at_ms: i64) -> Verdict {
        if let Some(last) = self.last
            && last.sequence_number == number
        {
            return if same_time(last.enqueued_at_ms, enqueued_at_ms) {
                Verdict::Known
            } else {
                Verdict::Foreign { recorded_ms: last.enqueued_at_ms }
            };
        }
        if number < self.position {
            return Verdict::Known;
        }
        if number > self.position {
            return Verdict::Jump(Range::new(self.position, number));
        }
        self.position = number + 1;
        self.last = Some(LastSeen { sequence_number: number, enqueued_at_ms });
        Verdict::New
    }

    /// The numbers before `position` will not come.
    pub(super) fn skip_to(&mut self, position: i64) {
        self.position = self.position.max(position);
    }
}

/// A recorded whole second may come from a text that had no more than that.
fn same_time(recorded_ms: i64, seen_ms: i64) -> bool {
    recorded_ms == seen_ms || (recorded_ms % 1000 == 0 && recorded_ms.div_euclid(1000) == seen_ms.div_euclid(1000))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn seen(sequence_number: i64, enqueued_at_ms: i64) -> Option<LastSeen> {
        Some(LastSeen { sequence_number, enqueued_at_ms })
    }

    #[test]
    fn the_last_event_is_read_again_compared_and_dropped() {
        let mut tracker = Tracker::new(42, seen(41, 5_123));
        assert_eq!(tracker.opens_at(), Opening { number: 41, inclusive: true });
        assert_eq!(tracker.accept(41, 5_123), Verdict::Known);
        assert_eq!(tracker.accept(42, 5_200), Verdict::New);
        assert_eq!(tracker.opens_at(), Opening { number: 42, inclusive: true });
        assert_eq!(tracker.accept(42, 5_201), Verdict::Foreign { recorded_ms: 5_200 });
    }

    #[test]
    fn another_time_is_another_event_unless_only_the_second_was_known() {
        assert_eq!(Tracker::new(42, seen(41, 5_000)).accept(41, 5_999), Verdict::Known);
        assert_eq!(Tracker::new(42, seen(41, 5_000)).accept(41, 6_000), Verdict::Foreign { recorded_ms: 5_000 });
        assert_eq!(Tracker::new(42, seen(41, 5_001)).accept(41, 5_999), Verdict::Foreign { recorded_ms: 5_001 });
    }

    #[test]
    fn a_missing_last_event_is_no_mismatch() {
        let mut tracker = Tracker::new(42, seen(41, 5_123));
        assert_eq!(tracker.accept(42, 9_000), Verdict::New);
        let mut tracker = Tracker::new(42, seen(41, 5_123));
        assert_eq!(tracker.accept(50, 9_000), Verdict::Jump(Range::new(42, 50)));
        assert_eq!(tracker.position(), 42);
        tracker.skip_to(50);
        assert_eq!(tracker.accept(50, 9_000), Verdict::New);
    }

    #[test]
    fn without_a_last_event_it_opens_after_the_number_before_the_position() {
        let mut tracker = Tracker::new(42, None);
        assert_eq!(tracker.opens_at(), Opening { number: 41, inclusive: false });
        assert_eq!(tracker.opens_at().first(), 42);
        assert_eq!(tracker.accept(41, 1), Verdict::Known);
        assert_eq!(tracker.accept(42, 1), Verdict::New);
    }

    #[test]
    fn a_last_event_that_is_far_back_does_not_bring_back_what_lies_between() {
        let mut tracker = Tracker::new(42, seen(10, 1_001));
        assert_eq!(tracker.opens_at().first(), 10);
        for number in 10..42 {
            assert_eq!(tracker.accept(number, 1_001), Verdict::Known);
        }
        assert_eq!(tracker.accept(42, 1_001), Verdict::New);
    }

    proptest! {
        /// A link may break anywhere and repeat what it likes from where it was opened.
        #[test]
        fn over_any_breaks_each_number_is_handed_on_once_and_in_order(
            start in 0i64..50,
            links in prop::collection::vec((0i64..6, 0usize..30), 1..12),
            missing in prop::collection::btree_set(0i64..120, 0..20),
        ) {
            let mut tracker = Tracker::new(start, None);
            let mut handed_on = Vec::new();
            let mut holes = Vec::new();
            for (back, count) in links {
                let first = (tracker.opens_at().first() - back).max(0);
                for number in (first..).filter(|number| !missing.contains(number)).take(count) {
                    loop {
                        match tracker.accept(number, number * 10 + 1) {
                            Verdict::Known => break,
                            Verdict::New => { handed_on.push(number); break }
                            Verdict::Jump(range) => {
                                holes.extend(range.from..range.to);
                                tracker.skip_to(range.to);
                            }
                            Verdict::Foreign { .. } => prop_assert!(false, "the hub is the same"),
                        }
                    }
                }
            }
            let expected: Vec<i64> = (start..tracker.position()).filter(|number| !missing.contains(number)).collect();
            prop_assert_eq!(handed_on, expected);
            let expected: Vec<i64> = (start..tracker.position()).filter(|number| missing.contains(number)).collect();
            prop_assert_eq!(holes, expected);
        }
    }
}
