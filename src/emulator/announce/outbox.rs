//! What is to be sent to one listener, in the order in which it is due, and what faults make of it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde::{Deserialize, Serialize};

use super::WAITING_MAX;

/// Shares of announcements, from 0 to 1, that suffer something; drawn for each alone, so one may suffer several.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AnnounceFaults {
    /// Never sent.
    pub lost: f64,
    /// Sent once more, some time later.
    pub duplicated: f64,
    /// Sent later.
    pub delayed: f64,
    /// Sent after the one that comes next.
    pub reordered: f64,
    /// Later is within so long, drawn evenly.
    #[serde(with = "crate::emulator::faults::duration_text")]
    pub delay: Duration,
}

impl Default for AnnounceFaults {
    fn default() -> Self {
        Self { lost: 0.0, duplicated: 0.0, delayed: 0.0, reordered: 0.0, delay: Duration::from_secs(5) }
    }
}

impl AnnounceFaults {
    /// Whether each share is one.
    pub fn are_shares(&self) -> bool {
        [self.lost, self.duplicated, self.delayed, self.reordered].iter().all(|share| (0.0..=1.0).contains(share))
    }
}

/// What an announcement suffered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Suffered {
    Loss,
    Duplication,
    Delay,
    Reordering,
    /// Too many wait.
    NoRoom,
}

/// An event to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Letter {
    pub(super) text: String,
    /// How often it was sent in vain.
    pub(super) tries: u32,
}

#[derive(Debug)]
pub(super) struct Outbox {
    /// By when it is due, and then by when it came.
    letters: BTreeMap<(Instant, u64), Letter>,
    came: u64,
    /// Waits for the next one to go first; at the latest until this.
    held_back: Option<(Instant, u64)>,
    chance: StdRng,
}

impl Outbox {
    /// Of one seed the n-th announcement suffers the same each time.
    pub(super) fn new(seed: u64) -> Self {
        Self { letters: BTreeMap::new(), came: 0, held_back: None, chance: StdRng::seed_from_u64(seed) }
    }

    /// Says what it suffers.
    pub(super) fn put(&mut self, text: String, faults: &AnnounceFaults, now: Instant) -> Vec<Suffered> {
        // All are drawn each time: another share of one changes nothing about the others.
        let [lost, duplicated, delayed, reordered, late, later] = self.chance.random::<[f64; 6]>();
        if lost < faults.lost {
            return vec![Suffered::Loss];
        }
        let mut suffered = Vec::new();
        let mut due = now;
        let mut is_held_back = false;
        if delayed < faults.delayed {
            suffered.push(Suffered::Delay);
            due = now + faults.delay.mul_f64(late);
        } else if reordered < faults.reordered && self.held_back.is_none() {
            suffered.push(Suffered::Reordering);
            due = now + faults.delay;
            is_held_back = true;
        }
        let held_back = self.held_back.take();
        if duplicated < faults.duplicated {
            suffered.push(Suffered::Duplication);
        }
        let copies = 1 + usize::from(suffered.contains(&Suffered::Duplication));
        if self.letters.len() + copies > WAITING_MAX {
            return vec![Suffered::NoRoom];
        }
        if copies == 2 {
            self.push(Letter { text: text.clone(), tries: 0 }, now + faults.delay.mul_f64(later));
        }
        let key = self.push(Letter { text, tries: 0 }, due);
        if is_held_back {
            self.held_back = Some(key);
        }
        if let Some(letter) = held_back.and_then(|key| self.letters.remove(&key)) {
            self.push(letter, now);
        }
        suffered
    }

    /// One that wasn't taken.
    pub(super) fn put_back(&mut self, letter: Letter, due: Instant) {
        self.push(Letter { tries: letter.tries + 1, ..letter }, due);
    }

    fn push(&mut self, letter: Letter, due: Instant) -> (Instant, u64) {
        self.came += 1;
        let key = (due, self.came);
        self.letters.insert(key, letter);
        key
    }

    pub(super) fn next_due(&self) -> Option<Instant> {
        self.letters.first_key_value().map(|((due, _), _)| *due)
    }

    /// Takes out what is due by now.
    pub(super) fn due(&mut self, now: Instant) -> Vec<Letter> {
        let later = self.letters.split_off(&(now, u64::MAX));
        std::mem::replace(&mut self.letters, later).into_values().collect()
    }

    /// Takes out everything, due or not.
    pub(super) fn all(&mut self) -> Vec<Letter> {
        std::mem::take(&mut self.letters).into_values().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The texts of 1000 announcements in the order in which they are sent, and what they suffered.
    fn sent(seed: u64, faults: &AnnounceFaults) -> (Vec<usize>, Vec<Vec<Suffered>>) {
        let mut outbox = Outbox::new(seed);
        let begin = Instant::now();
        let (mut order, mut suffered) = (Vec::new(), Vec::new());
        for index in 0..1000 {
            let now = begin + Duration::from_millis(index);
            suffered.push(outbox.put(index.to_string(), faults, now));
            order.extend(outbox.due(now));
        }
        order.extend(outbox.all());
        (order.iter().map(|letter| letter.text.parse().expect("a number")).collect(), suffered)
    }

    #[test]
    fn without_faults_everything_goes_at_once_and_once() {
        assert_eq!(sent(1, &AnnounceFaults::default()).0, (0..1000).collect::<Vec<_>>());
    }

    #[test]
    fn shares_hold_and_runs_repeat() {
        let delay = Duration::from_millis(100);
        let faults = AnnounceFaults { lost: 0.2, duplicated: 0.1, delayed: 0.1, reordered: 0.3, delay };
        let (order, suffered) = sent(7, &faults);
        let count = |what| suffered.iter().filter(|all| all.contains(&what)).count();
        for (what, at_least, at_most) in [
            (Suffered::Loss, 150, 250),
            (Suffered::Duplication, 50, 120),
            (Suffered::Delay, 50, 120),
            (Suffered::Reordering, 120, 240),
        ] {
            assert!((at_least..=at_most).contains(&count(what)), "{what:?}: {}", count(what));
        }
        assert_eq!(order.len(), 1000 - count(Suffered::Loss) + count(Suffered::Duplication));
        assert_eq!(sent(7, &faults), (order, suffered.clone()));
        assert_ne!(sent(8, &faults).1, suffered);
        let lost = |faults: &AnnounceFaults| {
            let all = sent(7, faults).1;
            all.into_iter().map(|all| all == [Suffered::Loss]).collect::<Vec<_>>()
        };
        assert_eq!(lost(&faults), lost(&AnnounceFaults { duplicated: 0.9, ..faults }));
    }

    #[test]
    fn one_that_is_reordered_goes_after_the_next() {
        let faults = AnnounceFaults { reordered: 1.0, ..AnnounceFaults::default() };
        let order = sent(1, &faults).0;
        assert_eq!(order[..6], [1, 0, 3, 2, 5, 4]);
    }
}
