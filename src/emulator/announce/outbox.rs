//! What is to be sent to one listener, in the order in which it is due.

use std::collections::BTreeMap;
use std::time::Instant;

use super::WAITING_MAX;

/// An event to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Letter {
    pub(super) text: String,
    /// How often it was sent in vain.
    pub(super) tries: u32,
}

#[derive(Debug, Default)]
pub(super) struct Outbox {
    /// By when it is due, and then by when it came.
    letters: BTreeMap<(Instant, u64), Letter>,
    came: u64,
}

impl Outbox {
    /// False when there is no room.
    pub(super) fn put(&mut self, text: String, now: Instant) -> bool {
        let has_room = self.letters.len() < WAITING_MAX;
        if has_room {
            self.push(Letter { text, tries: 0 }, now);
        }
        has_room
    }

    /// One that wasn't taken.
    pub(super) fn put_back(&mut self, letter: Letter, due: Instant) {
        self.push(Letter { tries: letter.tries + 1, ..letter }, due);
    }

    fn push(&mut self, letter: Letter, due: Instant) {
        self.came += 1;
        self.letters.insert((due, self.came), letter);
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
