//! How far a transform has read each of its streamed inputs: `txn` actions in the log of its own
//! table, in the same commit as the rows that were made of them.
//!
//! | app id | version |
//! |---|---|
//! | `sluice-consumed:1:<input's metaData.id>` | the last version of the input whose rows are in; below 0: none |
//! | `…:snapshot` | while the first run goes through the input as it was at one version: that version |
//! | `…:snapshot-files` | how many of its files, in the order of their paths, are in |
//! | `sluice-refresh:1` | how often the table was begun anew |
//!
//! An input is known by its id, not by its name: a table that was dropped and made again counts
//! from 0.

use std::collections::HashMap;

const CONSUMED: &str = "sluice-consumed";
const FORMAT: &str = "1";
const REFRESH: &str = "sluice-refresh:1";

/// What of an input is in the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Position {
    Nothing,
    /// The first `files` of the files that the input had at `version`.
    Snapshot {
        version: u64,
        files: u64,
    },
    /// All rows up to and with this version.
    Version(u64),
}

/// An entry of a newer sluice, which means something that this one can't know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Newer {
    pub app_id: String,
}

impl Position {
    /// Reads the position in the input with this id from an output's `txn`s.
    ///
    /// # Errors
    /// [`Newer`]
    pub fn read(transactions: &HashMap<String, i64>, input: &str) -> Result<Self, Newer> {
        let newer = |id: &&String| {
            let mut parts = id.splitn(3, ':');
            parts.next() == Some(CONSUMED) && parts.next() != Some(FORMAT)
        };
        if let Some(app_id) = transactions.keys().find(newer) {
            return Err(Newer { app_id: app_id.clone() });
        }
        let number = |id: String| transactions.get(&id).and_then(|value| u64::try_from(*value).ok());
        Ok(match (number(consumed(input)), number(snapshot(input))) {
            (Some(version), _) => Self::Version(version),
            (None, Some(version)) => {
                Self::Snapshot { version, files: number(snapshot_files(input)).unwrap_or_default() }
            }
            (None, None) => Self::Nothing,
        })
    }

    /// The `txn`s that put this position in place of any before.
    pub fn transactions(self, input: &str) -> Vec<(String, i64)> {
        let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        match self {
            Self::Nothing => vec![(consumed(input), -1), (snapshot(input), -1), (snapshot_files(input), -1)],
            Self::Snapshot { version, files } => {
                vec![(consumed(input), -1), (snapshot(input), number(version)), (snapshot_files(input), number(files))]
            }
            Self::Version(version) => vec![(consumed(input), number(version))],
        }
    }

    /// Whether it is past `other`, in the same input.
    pub fn is_after(self, other: Self) -> bool {
        let place = |position| match position {
            Self::Nothing => (0, 0),
            Self::Snapshot { version: _, files } => (1, files),
            Self::Version(version) => (2, version),
        };
        place(self) > place(other)
    }
}

/// How often the table was begun anew.
pub fn refreshes(transactions: &HashMap<String, i64>) -> i64 {
    transactions.get(REFRESH).copied().unwrap_or_default()
}

/// The `txn` that says so.
pub fn refreshed(times: i64) -> (String, i64) {
    (REFRESH.to_owned(), times)
}

/// Every `txn` of a table that says how far an input was read, by the input's id.
pub fn inputs(transactions: &HashMap<String, i64>) -> Vec<String> {
    let prefix = format!("{CONSUMED}:{FORMAT}:");
    let ids = transactions.keys().filter_map(|id| id.strip_prefix(&prefix)?.split(':').next());
    let mut ids: Vec<String> = ids.map(str::to_owned).collect();
    ids.sort();
    ids.dedup();
    ids
}

fn consumed(input: &str) -> String {
    format!("{CONSUMED}:{FORMAT}:{input}")
}

fn snapshot(input: &str) -> String {
    format!("{}:snapshot", consumed(input))
}

fn snapshot_files(input: &str) -> String {
    format!("{}:snapshot-files", consumed(input))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_read_as_it_was_written_whatever_was_there_before() {
        let positions = [
            Position::Nothing,
            Position::Snapshot { version: 7, files: 3 },
            Position::Version(7),
            Position::Version(0),
        ];
        for before in positions {
            for after in positions {
                let mut held: HashMap<String, i64> = before.transactions("x").into_iter().collect();
                held.extend(after.transactions("x"));
                assert_eq!(Position::read(&held, "x"), Ok(after), "{before:?} then {after:?}");
                assert_eq!(Position::read(&held, "y"), Ok(Position::Nothing));
                assert_eq!(inputs(&held), ["x"]);
            }
        }
    }

    #[test]
    fn a_newer_format_is_not_guessed_at() {
        let held = HashMap::from([("sluice-consumed:2:x".to_owned(), 5)]);
        assert!(Position::read(&held, "x").is_err());
    }

    #[test]
    fn positions_are_in_the_order_of_reading() {
        let ascending = [
            Position::Nothing,
            Position::Snapshot { version: 9, files: 1 },
            Position::Snapshot { version: 9, files: 2 },
            Position::Version(9),
            Position::Version(10),
        ];
        for (at, one) in ascending.iter().enumerate() {
            for (other_at, other) in ascending.iter().enumerate() {
                assert_eq!(one.is_after(*other), at > other_at, "{one:?} after {other:?}");
            }
        }
    }
}
