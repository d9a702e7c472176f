//! The ledger of one table: coverage and counters of every partition.
//!
//! A range keeps its start for ever and grows at its end. Ranges arise from a first start, a
//! backfill, or a hole that was left behind, so a partition has a handful. They may overlap
//! when two writers began at different numbers; coverage is their union.
//!
//! | ranges of a partition | run to record | facts that change |
//! |---|---|---|
//! | none | `[5, 9)` | a new range from 5 ends at 9 |
//! | `[5, 5)` (a start) | `[5, 9)` | the range from 5 ends at 9 |
//! | `[0, 5)` | `[5, 9)` | the range from 0 ends at 9 |
//! | `[0, 5)` | `[7, 9)` | a new range from 7 ends at 9; 5 and 6 are a hole |
//! | `[0, 5)`, `[3, 5)` | `[5, 9)` | the range from 0 ends at 9 (the lowest start grows) |

use std::collections::BTreeMap;

use super::{Counter, LedgerKey, PartitionKey, Range, RangeSet, SourceId};

/// What one table accounts for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ledger {
    partitions: BTreeMap<PartitionKey, PartitionLedger>,
    created: BTreeMap<SourceId, i64>,
    seen: Option<i64>,
}

/// What a table accounts for of one partition.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PartitionLedger {
    ends: BTreeMap<i64, i64>,
    times: BTreeMap<i64, i64>,
    counters: BTreeMap<Counter, i64>,
}

/// The last covered event before a position, to be met again when reading starts there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastCovered {
    pub sequence_number: i64,
    /// Epoch milliseconds.
    pub enqueued_at: i64,
}

/// Numbers that a flush accounts for, without a gap, and when the last of them was enqueued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    pub range: Range,
    pub last_enqueued_at: i64,
}

impl Ledger {
    /// Takes in one fact; a later one with the same key replaces it.
    pub fn apply(&mut self, key: LedgerKey, value: i64) {
        match key {
            LedgerKey::End { partition, from } => {
                self.partitions.entry(partition).or_default().ends.insert(from, value);
            }
            LedgerKey::Time { partition, from } => {
                self.partitions.entry(partition).or_default().times.insert(from, value);
            }
            LedgerKey::Count { partition, counter } => {
                self.partitions.entry(partition).or_default().counters.insert(counter, value);
            }
            LedgerKey::Created { source } => {
                self.created.insert(source, value);
            }
            LedgerKey::Seen => self.seen = Some(value),
        }
    }

    pub fn partitions(&self) -> impl Iterator<Item = (&PartitionKey, &PartitionLedger)> {
        self.partitions.iter()
    }

    pub fn partition(&self, partition: &PartitionKey) -> Option<&PartitionLedger> {
        self.partitions.get(partition)
    }

    /// When the hub was made, epoch ms, as the ledger recorded it.
    pub fn created(&self, source: &SourceId) -> Option<i64> {
        self.created.get(source).copied()
    }

    pub fn sources(&self) -> impl Iterator<Item = (&SourceId, i64)> {
        self.created.iter().map(|(source, created)| (source, *created))
    }

    /// The table version of the newest commit of ours.
    pub fn seen(&self) -> Option<i64> {
        self.seen
    }

    pub fn coverage(&self, partition: &PartitionKey) -> RangeSet {
        self.partition(partition).map(PartitionLedger::coverage).unwrap_or_default()
    }

    /// The facts that record `runs` of a partition and move its counters by `counted`.
    ///
    /// The runs must be disjoint, ascending, and not covered yet: trim first.
    pub fn record(
        &self,
        partition: &PartitionKey,
        runs: &[Run],
        counted: &BTreeMap<Counter, i64>,
    ) -> Vec<(LedgerKey, i64)> {
        let mut held = self.partition(partition).cloned().unwrap_or_default();
        let mut facts = BTreeMap::new();
        for run in runs.iter().filter(|run| !run.range.is_empty()) {
            let from = held.growing_at(run.range.from).unwrap_or(run.range.from);
            held.ends.insert(from, run.range.to);
            facts.insert(LedgerKey::End { partition: partition.clone(), from }, run.range.to);
            facts.insert(LedgerKey::Time { partition: partition.clone(), from }, run.last_enqueued_at);
        }
        for (&counter, &delta) in counted.iter().filter(|(_, delta)| **delta != 0) {
            let value = held.counter(counter) + delta;
            facts.insert(LedgerKey::Count { partition: partition.clone(), counter }, value);
        }
        facts.into_iter().collect()
    }
}

impl PartitionLedger {
    /// Every range with its own start, empty ones too.
    pub fn ranges(&self) -> impl Iterator<Item = Range> + '_ {
        self.ends.iter().map(|(&from, &to)| Range::new(from, to))
    }

    pub fn coverage(&self) -> RangeSet {
        self.ranges().collect()
    }

    /// When the last event of the range from `from` was enqueued, epoch ms.
    pub fn last_enqueued_at(&self, from: i64) -> Option<i64> {
        self.times.get(&from).copied()
    }

    pub fn counter(&self, counter: Counter) -> i64 {
        self.counters.get(&counter).copied().unwrap_or(0)
    }

    /// Where the accounting starts: the lowest start of all ranges.
    pub fn start(&self) -> Option<i64> {
        self.ends.keys().next().copied()
    }

    /// One past the last number that any range accounts for.
    pub fn end(&self) -> Option<i64> {
        self.ends.values().copied().max()
    }

    /// What lies between the start and the end and isn't covered, in order.
    pub fn gaps(&self) -> Vec<Range> {
        let whole = Range::new(self.start().unwrap_or(0), self.end().unwrap_or(0));
        self.coverage().missing_in(whole)
    }

    /// The next number to read: the first that is not covered, at or after the start and at or
    /// after `first_available`, the first number that the source still has.
    pub fn position(&self, first_available: i64) -> Option<i64> {
        let start = self.start()?.max(first_available);
        Some(self.coverage().first_missing_from(start))
    }

    /// The event just before `position`, when it is covered and its time is known.
    pub fn last_covered(&self, position: i64) -> Option<LastCovered> {
        let (from, _) = self.ends.iter().find(|(from, to)| **to == position && **from < position)?;
        let enqueued_at = *self.times.get(from)?;
        Some(LastCovered { sequence_number: position - 1, enqueued_at })
    }

    fn growing_at(&self, number: i64) -> Option<i64> {
        self.ends.iter().find(|(_, to)| **to == number).map(|(from, _)| *from)
    }
}

/// Cuts what is covered out of a run of events.
///
/// `events` are (number, enqueued ms) in ascending order, and `range` is what they account
/// for; on sources with holes it is wider than their count. The parts that stay keep the time of
/// their last event; a part that holds no event at all takes the time of the event before it.
pub fn trim(range: Range, events: &[(i64, i64)], covered: &RangeSet) -> Vec<Run> {
    covered
        .missing_in(range)
        .into_iter()
        .map(|range| {
            let until = events.partition_point(|(number, _)| *number < range.to);
            let last_enqueued_at = until.checked_sub(1).map_or(0, |at| events[at].1);
            Run { range, last_enqueued_at }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key() -> PartitionKey {
        PartitionKey::new(SourceId::new("emulator/leads"), "0")
    }

    fn ledger(ranges: &[(i64, i64)]) -> Ledger {
        let mut ledger = Ledger::default();
        for &(from, to) in ranges {
            ledger.apply(LedgerKey::End { partition: key(), from }, to);
            ledger.apply(LedgerKey::Time { partition: key(), from }, to * 10);
        }
        ledger
    }

    fn run(from: i64, to: i64) -> Run {
        Run { range: Range::new(from, to), last_enqueued_at: to * 10 }
    }

    #[test]
    fn a_run_grows_the_range_that_ends_where_it_begins() {
        for (ranges, recorded, expected) in [
            (&[][..], run(5, 9), (5, 9)),
            (&[(5, 5)], run(5, 9), (5, 9)),
            (&[(0, 5)], run(5, 9), (0, 9)),
            (&[(0, 5)], run(7, 9), (7, 9)),
            (&[(0, 5), (3, 5)], run(5, 9), (0, 9)),
        ] {
            let facts = ledger(ranges).record(&key(), &[recorded], &BTreeMap::new());
            let end = LedgerKey::End { partition: key(), from: expected.0 };
            assert!(facts.contains(&(end, expected.1)), "{ranges:?} + {recorded:?} gave {facts:?}");
        }
    }

    #[test]
    fn counters_are_cumulative() {
        let mut ledger = ledger(&[(0, 5)]);
        let counted = BTreeMap::from([(Counter::Rejected, 2), (Counter::Filtered, 0)]);
        for expected in [2, 4] {
            for (key, value) in ledger.record(&key(), &[], &counted) {
                ledger.apply(key, value);
            }
            assert_eq!(ledger.partition(&key()).map(|held| held.counter(Counter::Rejected)), Some(expected));
        }
    }

    #[test]
    fn the_position_skips_what_is_covered_and_what_is_gone() {
        for (ranges, first_available, expected) in [
            (&[][..], 0, None),
            (&[(5, 5)], 0, Some(5)),
            (&[(0, 5)], 0, Some(5)),
            (&[(0, 5), (8, 12)], 0, Some(5)),
            (&[(0, 5), (8, 12)], 8, Some(12)),
            (&[(0, 5), (5, 12)], 0, Some(12)),
            (&[(0, 5)], 20, Some(20)),
        ] {
            let ledger = ledger(ranges);
            let position = ledger.partition(&key()).and_then(|held| held.position(first_available));
            assert_eq!(position, expected, "{ranges:?} from {first_available}");
        }
    }

    #[test]
    fn the_last_covered_event_is_known_at_the_end_of_a_range_alone() {
        let ledger = ledger(&[(0, 5), (8, 12), (20, 20)]);
        let held = ledger.partition(&key()).expect("the partition is in the ledger");
        assert_eq!(held.last_covered(5), Some(LastCovered { sequence_number: 4, enqueued_at: 50 }));
        assert_eq!(held.last_covered(6), None);
        assert_eq!(held.last_covered(20), None);
    }

    proptest! {
        /// Writers of any starts, each recording what is left of its runs, cover the union once.
        #[test]
        fn recording_trimmed_runs_covers_their_union(runs in prop::collection::vec((0i64..60, 0i64..15), 0..20)) {
            let mut ledger = Ledger::default();
            let mut model = RangeSet::new();
            let mut recorded = 0;
            for (from, length) in runs {
                let range = Range::new(from, from + length);
                let events: Vec<_> = (range.from..range.to).map(|number| (number, number * 10)).collect();
                let trimmed = trim(range, &events, &ledger.coverage(&key()));
                recorded += trimmed.iter().map(|run| run.range.len()).sum::<u64>();
                for run in &trimmed {
                    prop_assert_eq!(run.last_enqueued_at, (run.range.to - 1) * 10);
                }
                for (key, value) in ledger.record(&key(), &trimmed, &BTreeMap::new()) {
                    ledger.apply(key, value);
                }
                model.insert(range);
                prop_assert_eq!(ledger.coverage(&key()), model.clone());
            }
            prop_assert_eq!(recorded, model.len(), "each number is recorded once");
        }
    }
}
