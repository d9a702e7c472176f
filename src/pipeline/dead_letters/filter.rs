//! Which dead letters are meant.

use chrono::{DateTime, Utc};

use super::DeadLetterError;
use crate::sink::delta::dead_letters::DeadLetter;

/// One dead letter, as people name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LetterKey {
    /// None where the partition alone says which is meant.
    pub source: Option<String>,
    pub partition: String,
    pub sequence_number: i64,
}

impl LetterKey {
    /// The key of a letter, whole.
    pub fn of(letter: &DeadLetter) -> String {
        format!("{}/{}", letter.partition, letter.sequence_number)
    }

    fn is_of(&self, letter: &DeadLetter) -> bool {
        letter.sequence_number == self.sequence_number
            && *letter.partition.partition == *self.partition
            && self.source.as_ref().is_none_or(|source| letter.partition.source.as_str() == source)
    }
}

impl std::fmt::Display for LetterKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(source) = &self.source {
            write!(f, "{source}/")?;
        }
        write!(f, "{}/{}", self.partition, self.sequence_number)
    }
}

impl std::str::FromStr for LetterKey {
    type Err = DeadLetterError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || DeadLetterError::Key { text: text.to_owned() };
        let (before, number) = text.rsplit_once('/').ok_or_else(wrong)?;
        let sequence_number = number.parse().map_err(|_| wrong())?;
        let (source, partition) = match before.rsplit_once('/') {
            Some((source, partition)) => (Some(source.to_owned()), partition),
            None => (None, before),
        };
        if partition.is_empty() || source.as_ref().is_some_and(String::is_empty) {
            return Err(wrong());
        }
        Ok(Self { source, partition: partition.to_owned(), sequence_number })
    }
}

/// All that is said must hold; of what is said several times, one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    pub classes: Vec<String>,
    pub partitions: Vec<String>,
    pub source: Option<String>,
    pub schema_ids: Vec<String>,
    pub keys: Vec<LetterKey>,
    /// When the event was rejected first: `[since, until)`.
    pub since: Option<DateTime<Utc>>,
    pub until: Option<DateTime<Utc>>,
}

impl Filter {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    pub fn takes(&self, letter: &DeadLetter) -> bool {
        let is_among = |wanted: &[String], held: Option<&str>| {
            wanted.is_empty() || held.is_some_and(|held| wanted.iter().any(|wanted| wanted == held))
        };
        let rejected_at = letter.rejected_at_us.unwrap_or(0);
        is_among(&self.classes, letter.error_class.as_deref())
            && is_among(&self.partitions, Some(&letter.partition.partition))
            && is_among(&self.schema_ids, letter.schema_id.as_deref())
            && self.source.as_ref().is_none_or(|source| letter.partition.source.as_str() == source)
            && (self.keys.is_empty() || self.keys.iter().any(|key| key.is_of(letter)))
            && self.since.is_none_or(|since| rejected_at >= since.timestamp_micros())
            && self.until.is_none_or(|until| rejected_at < until.timestamp_micros())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_with_and_without_its_source() {
        for (text, expected) in [
            ("emulator/leads/0/42", Some((Some("emulator/leads"), "0", 42))),
            ("emulator/leads@2/0/42", Some((Some("emulator/leads@2"), "0", 42))),
            ("0/42", Some((None, "0", 42))),
            ("42", None),
            ("/42", None),
            ("0/x", None),
            ("//42", None),
        ] {
            let key = text.parse::<LetterKey>().ok();
            let found = key.as_ref().map(|key| (key.source.as_deref(), key.partition.as_str(), key.sequence_number));
            assert_eq!(found, expected, "{text}");
            if let Some(key) = key {
                assert_eq!(key.to_string(), text);
            }
        }
    }
}
