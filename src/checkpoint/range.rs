//! Half-open ranges of sequence numbers, and sets of them.

use std::fmt;

/// `[from, to)`; empty when `from >= to`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Range {
    pub from: i64,
    pub to: i64,
}

impl Range {
    pub const fn new(from: i64, to: i64) -> Self {
        Self { from, to }
    }

    pub const fn is_empty(&self) -> bool {
        self.from >= self.to
    }

    /// How many numbers it holds.
    pub const fn len(&self) -> u64 {
        if self.is_empty() { 0 } else { self.to.abs_diff(self.from) }
    }

    pub const fn contains(&self, number: i64) -> bool {
        self.from <= number && number < self.to
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}, {})", self.from, self.to)
    }
}

/// Disjoint, non-empty ranges in ascending order; ranges that touch are joined.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RangeSet {
    ranges: Vec<Range>,
}

impl RangeSet {
    pub const fn new() -> Self {
        Self { ranges: Vec::new() }
    }

    pub fn iter(&self) -> impl Iterator<Item = Range> + '_ {
        self.ranges.iter().copied()
    }

    pub fn as_slice(&self) -> &[Range] {
        &self.ranges
    }

    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// How many numbers it holds.
    pub fn len(&self) -> u64 {
        self.ranges.iter().map(Range::len).sum()
    }

    pub fn contains(&self, number: i64) -> bool {
        self.holding(number).is_some()
    }

    /// The joined range that holds `number`.
    pub fn holding(&self, number: i64) -> Option<Range> {
        let after = self.ranges.partition_point(|range| range.from <= number);
        let range = *self.ranges.get(after.checked_sub(1)?)?;
        range.contains(number).then_some(range)
    }

    /// The first number at or after `number` that the set does not hold.
    pub fn first_missing_from(&self, number: i64) -> i64 {
        self.holding(number).map_or(number, |range| range.to)
    }

    /// Adds a range, joining what it overlaps or touches. An empty range changes nothing.
    pub fn insert(&mut self, range: Range) {
        if range.is_empty() {
            return;
        }
        let first = self.ranges.partition_point(|held| held.to < range.from);
        let last = self.ranges.partition_point(|held| held.from <= range.to);
        let joined = self.ranges[first..last]
            .iter()
            .fold(range, |joined, held| Range::new(joined.from.min(held.from), joined.to.max(held.to)));
        self.ranges.splice(first..last, [joined]);
    }

    pub fn union(&mut self, other: &RangeSet) {
        for range in other.iter() {
            self.insert(range);
        }
    }

    /// What of `range` the set holds, in order.
    pub fn held_in(&self, range: Range) -> Vec<Range> {
        let first = self.ranges.partition_point(|held| held.to <= range.from);
        let held = self.ranges[first..].iter().take_while(|held| held.from < range.to);
        held.map(|held| Range::new(held.from.max(range.from), held.to.min(range.to)))
            .filter(|held| !held.is_empty())
            .collect()
    }

    /// What of `range` the set does not hold, in order.
    pub fn missing_in(&self, range: Range) -> Vec<Range> {
        let mut missing = Vec::new();
        let mut next = range.from;
        let first = self.ranges.partition_point(|held| held.to <= range.from);
        for held in &self.ranges[first..] {
            if held.from >= range.to {
                break;
            }
            if next < held.from {
                missing.push(Range::new(next, held.from));
            }
            next = next.max(held.to);
        }
        if next < range.to {
            missing.push(Range::new(next, range.to));
        }
        missing
    }
}

impl FromIterator<Range> for RangeSet {
    fn from_iter<I: IntoIterator<Item = Range>>(ranges: I) -> Self {
        let mut set = Self::new();
        for range in ranges {
            set.insert(range);
        }
        set
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn numbers(set: &RangeSet) -> BTreeSet<i64> {
        set.iter().flat_map(|range| range.from..range.to).collect()
    }

    fn range() -> impl Strategy<Value = Range> {
        (-40i64..40, 0i64..12).prop_map(|(from, length)| Range::new(from, from + length))
    }

    proptest! {
        #[test]
        fn a_set_of_ranges_is_a_set_of_numbers(ranges in prop::collection::vec(range(), 0..12), probe in range()) {
            let set: RangeSet = ranges.iter().copied().collect();
            let model: BTreeSet<i64> = ranges.iter().flat_map(|range| range.from..range.to).collect();
            prop_assert_eq!(numbers(&set), model.clone());
            prop_assert_eq!(set.len(), model.len() as u64);
            prop_assert_eq!(set.contains(probe.from), model.contains(&probe.from));
            let missing: BTreeSet<i64> = set.missing_in(probe).iter().flat_map(|range| range.from..range.to).collect();
            let expected: BTreeSet<i64> = (probe.from..probe.to).filter(|number| !model.contains(number)).collect();
            prop_assert_eq!(missing, expected);
            let held: BTreeSet<i64> = set.held_in(probe).iter().flat_map(|range| range.from..range.to).collect();
            let expected: BTreeSet<i64> = (probe.from..probe.to).filter(|number| model.contains(number)).collect();
            prop_assert_eq!(held, expected);
            prop_assert!(!set.contains(set.first_missing_from(probe.from)));
            for pair in set.as_slice().windows(2) {
                prop_assert!(pair[0].to < pair[1].from, "ranges are joined and in order");
            }
        }
    }
}
