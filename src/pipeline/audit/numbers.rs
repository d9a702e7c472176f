//! A set of sequence numbers that stays small where they are dense.
//!
//! Numbers are kept in chunks of 65,536. A chunk that is full costs a few bytes, one that is
//! nearly empty two bytes a number, any other 8 KiB: a hundred million numbers in a row, met in
//! any order, never need more than 13 MB, and next to nothing once all were met.

use std::collections::BTreeMap;

use crate::checkpoint::Range;

const CHUNK_BITS: u32 = 16;
const CHUNK_NUMBERS: usize = 1 << CHUNK_BITS;
const WORDS: usize = CHUNK_NUMBERS / 64;

/// Where a list of numbers costs as much as the bits.
const MOST_LISTED: usize = CHUNK_NUMBERS / 16;

#[derive(Debug, Default)]
pub struct NumberSet {
    chunks: BTreeMap<i64, Chunk>,
    len: u64,
}

#[derive(Debug)]
enum Chunk {
    /// Ascending.
    Few(Vec<u16>),
    Bits {
        words: Box<[u64; WORDS]>,
        ones: usize,
    },
    Full,
}

impl NumberSet {
    /// Adds a number; false when it was there already.
    pub fn insert(&mut self, number: i64) -> bool {
        let (chunk, low) = split(number);
        let is_new = self.chunks.entry(chunk).or_insert_with(|| Chunk::Few(Vec::new())).insert(low);
        self.len += u64::from(is_new);
        is_new
    }

    pub fn contains(&self, number: i64) -> bool {
        let (chunk, low) = split(number);
        self.chunks.get(&chunk).is_some_and(|chunk| chunk.contains(low))
    }

    /// How many numbers it holds.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Calls `each` with the runs of numbers of `range` that neither set holds, in order.
    pub fn missing_in_both(&self, other: &NumberSet, range: Range, mut each: impl FnMut(Range)) {
        let mut next = range.from;
        while next < range.to {
            let from = self.first_missing(other, next, range.to);
            let to = self.first_present(other, from, range.to);
            if from < to {
                each(Range::new(from, to));
            }
            next = to;
        }
    }

    fn first_missing(&self, other: &NumberSet, from: i64, until: i64) -> i64 {
        let mut next = from;
        while next < until {
            let (chunk, low) = split(next);
            let (one, two) = (self.chunks.get(&chunk), other.chunks.get(&chunk));
            let both = |at| word(one, at) | word(two, at);
            match next_zero(both, low) {
                Some(low) => return until.min(join(chunk, low)),
                None => next = start_of(chunk + 1),
            }
        }
        until
    }

    fn first_present(&self, other: &NumberSet, from: i64, until: i64) -> i64 {
        let mut next = from;
        while next < until {
            let (chunk, low) = split(next);
            let (one, two) = (self.chunks.get(&chunk), other.chunks.get(&chunk));
            if one.is_none() && two.is_none() {
                // Over the empty stretch in one step: coverage may be wide and hold nothing.
                let after = [&self.chunks, &other.chunks]
                    .into_iter()
                    .filter_map(|chunks| chunks.range(chunk..).next().map(|(chunk, _)| *chunk));
                match after.min() {
                    Some(chunk) => next = start_of(chunk),
                    None => return until,
                }
                continue;
            }
            let neither = |at| !(word(one, at) | word(two, at));
            match next_zero(neither, low) {
                Some(low) => return until.min(join(chunk, low)),
                None => next = start_of(chunk + 1),
            }
        }
        until
    }
}

impl Chunk {
    fn insert(&mut self, low: u16) -> bool {
        match self {
            Self::Full => false,
            Self::Few(listed) => {
                let Err(at) = listed.binary_search(&low) else { return false };
                listed.insert(at, low);
                if listed.len() > MOST_LISTED {
                    let mut words = Box::new([0u64; WORDS]);
                    for low in listed.iter() {
                        words[usize::from(*low) / 64] |= 1 << (low % 64);
                    }
                    *self = Self::Bits { words, ones: MOST_LISTED + 1 };
                }
                true
            }
            Self::Bits { words, ones } => {
                let word = &mut words[usize::from(low) / 64];
                let bit = 1 << (low % 64);
                if *word & bit != 0 {
                    return false;
                }
                *word |= bit;
                *ones += 1;
                if *ones == CHUNK_NUMBERS {
                    *self = Self::Full;
                }
                true
            }
        }
    }

    fn contains(&self, low: u16) -> bool {
        match self {
            Self::Full => true,
            Self::Few(listed) => listed.binary_search(&low).is_ok(),
            Self::Bits { words, .. } => words[usize::from(low) / 64] & (1 << (low % 64)) != 0,
        }
    }
}

/// 64 numbers of a chunk, a bit each.
fn word(chunk: Option<&Chunk>, at: usize) -> u64 {
    match chunk {
        None => 0,
        Some(Chunk::Full) => u64::MAX,
        Some(Chunk::Bits { words, .. }) => words[at],
        Some(Chunk::Few(listed)) => {
            let first = listed.partition_point(|low| usize::from(*low) / 64 < at);
            let those = listed[first..].iter().take_while(|low| usize::from(**low) / 64 == at);
            those.fold(0, |word, low| word | 1 << (low % 64))
        }
    }
}

/// The first bit at or after `from` that is 0.
fn next_zero(word: impl Fn(usize) -> u64, from: u16) -> Option<u16> {
    let mut at = usize::from(from) / 64;
    // What lies before `from` in its word doesn't count.
    let mut bits = word(at) | !(u64::MAX << (from % 64));
    loop {
        if bits != u64::MAX {
            return u16::try_from(at * 64 + bits.trailing_ones() as usize).ok();
        }
        at += 1;
        if at == WORDS {
            return None;
        }
        bits = word(at);
    }
}

fn split(number: i64) -> (i64, u16) {
    (number >> CHUNK_BITS, (number & (CHUNK_NUMBERS as i64 - 1)) as u16)
}

fn join(chunk: i64, low: u16) -> i64 {
    start_of(chunk).saturating_add(i64::from(low))
}

/// Past the last chunk there is no number: whoever asks stops at its bound.
fn start_of(chunk: i64) -> i64 {
    chunk.checked_mul(CHUNK_NUMBERS as i64).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// Numbers near the edges of chunks, so that small cases meet them.
    fn numbers() -> impl Strategy<Value = Vec<i64>> {
        let number = prop_oneof![-70i64..70, 65_480i64..65_600, 131_000i64..131_100];
        prop::collection::vec(number, 0..200)
    }

    fn set(numbers: &[i64]) -> NumberSet {
        let mut set = NumberSet::default();
        for number in numbers {
            set.insert(*number);
        }
        set
    }

    proptest! {
        #[test]
        fn it_is_a_set(one in numbers(), two in numbers(), from in -80i64..131_200, length in 0i64..140_000) {
            let model: BTreeSet<i64> = one.iter().copied().collect();
            let other: BTreeSet<i64> = two.iter().copied().collect();
            let (one, two) = (set(&one), set(&two));
            prop_assert_eq!(one.len(), model.len() as u64);
            prop_assert!(model.iter().all(|number| one.contains(*number)));
            let range = Range::new(from, from + length);
            let held: BTreeSet<i64> = model.union(&other).copied().filter(|number| range.contains(*number)).collect();
            let mut count = 0;
            let mut last = None;
            one.missing_in_both(&two, range, |run| {
                assert!(!run.is_empty() && last.is_none_or(|last| last < run.from), "runs ascend and don't touch");
                assert!(range.from <= run.from && run.to <= range.to, "runs lie within the range");
                assert_eq!(held.range(run.from..run.to).next(), None, "what is held isn't missing");
                last = Some(run.to);
                count += run.len();
            });
            prop_assert_eq!(count, range.len() - held.len() as u64, "what isn't held is missing");
        }
    }

    #[test]
    fn a_chunk_goes_from_a_list_to_bits_to_full() {
        let mut set = NumberSet::default();
        // Odd numbers, then even ones.
        for number in (1..CHUNK_NUMBERS as i64).step_by(2).chain((0..CHUNK_NUMBERS as i64).step_by(2)) {
            assert!(set.insert(number) && !set.insert(number));
        }
        assert!(matches!(set.chunks[&0], Chunk::Full));
        assert_eq!(set.len(), CHUNK_NUMBERS as u64);
        let mut missing = Vec::new();
        set.missing_in_both(&NumberSet::default(), Range::new(-5, 70_000), |run| missing.push(run));
        assert_eq!(missing, [Range::new(-5, 0), Range::new(65_536, 70_000)]);
    }

    #[test]
    fn a_wide_empty_stretch_is_one_run() {
        let mut missing = Vec::new();
        let ends = set(&[0, i64::MAX - 1]);
        ends.missing_in_both(&NumberSet::default(), Range::new(0, i64::MAX), |run| missing.push(run));
        assert_eq!(missing, [Range::new(1, i64::MAX - 1)]);
    }
}
