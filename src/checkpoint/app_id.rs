//! How the ledger stands in a Delta log: one `txn` action for each fact, its app id the key
//! and its version the value.
//!
//! ```text
//! sluice:1:<table id>:end:<source>:<partition>:<from>        version = end of the range
//! sluice:1:<table id>:time:<source>:<partition>:<from>       version = enqueued time of its last event, epoch ms
//! sluice:1:<table id>:count:<source>:<partition>:<counter>   version = cumulative count
//! sluice:1:<table id>:created:<source>                       version = when the hub was made, epoch ms
//! sluice:1:<table id>:seen                                   version = table version of this very commit
//! ```
//!
//! In names `%` and `:` are percent-encoded. The table id keeps a copied log from being
//! believed by the copy; the format version keeps an old binary from misreading a new ledger.

use std::fmt;

use super::{PartitionKey, SourceId};

/// The format of the ledger that this version writes, and the newest that it reads.
pub const FORMAT: u32 = 1;

/// What is counted for each partition, cumulative; absent means zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Counter {
    /// Events that became dead letters.
    Rejected,
    /// Events that a declared rule left out.
    Filtered,
    /// Rows erased on demand.
    Erased,
    /// Dead letters that retention or a user dropped.
    Expired,
    /// Events taken in, for sources whose numbers have holes.
    Events,
}

impl Counter {
    pub const ALL: [Counter; 5] =
        [Counter::Rejected, Counter::Filtered, Counter::Erased, Counter::Expired, Counter::Events];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rejected => "rejected",
            Self::Filtered => "filtered",
            Self::Erased => "erased",
            Self::Expired => "expired",
            Self::Events => "events",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|counter| counter.as_str() == text)
    }
}

/// A fact that the ledger holds.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LedgerKey {
    End { partition: PartitionKey, from: i64 },
    Time { partition: PartitionKey, from: i64 },
    Count { partition: PartitionKey, counter: Counter },
    Created { source: SourceId },
    Seen,
}

/// What an app id found in a log is to us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Parsed {
    Key(LedgerKey),
    /// Not the ledger of this table: another program's, or that of the table this log was copied from.
    Foreign,
    /// Written by a newer version of ours, or torn: not to be guessed at.
    Unreadable,
}

impl LedgerKey {
    /// The app id under which this fact stands in the log of the table `table_id`.
    pub fn app_id(&self, table_id: &str) -> String {
        let head = format!("sluice:{FORMAT}:{table_id}");
        match self {
            Self::End { partition, from } => format!("{head}:end:{}:{from}", Encoded(partition)),
            Self::Time { partition, from } => format!("{head}:time:{}:{from}", Encoded(partition)),
            Self::Count { partition, counter } => {
                format!("{head}:count:{}:{}", Encoded(partition), counter.as_str())
            }
            Self::Created { source } => format!("{head}:created:{}", encode(source.as_str())),
            Self::Seen => format!("{head}:seen"),
        }
    }

    pub fn parse(app_id: &str, table_id: &str) -> Parsed {
        let Some(rest) = app_id.strip_prefix("sluice:") else { return Parsed::Foreign };
        let Some((format, rest)) = rest.split_once(':') else { return Parsed::Unreadable };
        if format.parse() != Ok(FORMAT) {
            return Parsed::Unreadable;
        }
        let Some((id, rest)) = rest.split_once(':') else { return Parsed::Unreadable };
        if id != table_id {
            return Parsed::Foreign;
        }
        let parts: Vec<&str> = rest.split(':').collect();
        Self::from_parts(&parts).map_or(Parsed::Unreadable, Parsed::Key)
    }

    fn from_parts(parts: &[&str]) -> Option<Self> {
        match *parts {
            ["seen"] => Some(Self::Seen),
            ["created", source] => Some(Self::Created { source: SourceId::new(decode(source)?) }),
            [kind, source, partition, last] => {
                let partition = PartitionKey::new(SourceId::new(decode(source)?), decode(partition)?);
                match kind {
                    "end" => Some(Self::End { partition, from: last.parse().ok()? }),
                    "time" => Some(Self::Time { partition, from: last.parse().ok()? }),
                    "count" => Some(Self::Count { partition, counter: Counter::parse(last)? }),
                    _ => None,
                }
            }
            _ => None,
        }
    }
}

struct Encoded<'a>(&'a PartitionKey);

impl fmt::Display for Encoded<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", encode(self.0.source.as_str()), encode(&self.0.partition))
    }
}

fn encode(name: &str) -> String {
    name.replace('%', "%25").replace(':', "%3A")
}

fn decode(name: &str) -> Option<String> {
    let decoded = name.replace("%3A", ":").replace("%25", "%");
    (encode(&decoded) == name).then_some(decoded)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn partition() -> impl Strategy<Value = PartitionKey> {
        ("[a-z/@:%.0-9]{1,20}", "[a-z:%0-9]{1,5}").prop_map(|(source, id)| PartitionKey::new(SourceId::new(source), id))
    }

    fn key() -> impl Strategy<Value = LedgerKey> {
        prop_oneof![
            (partition(), any::<i64>()).prop_map(|(partition, from)| LedgerKey::End { partition, from }),
            (partition(), any::<i64>()).prop_map(|(partition, from)| LedgerKey::Time { partition, from }),
            (partition(), 0usize..5)
                .prop_map(|(partition, at)| LedgerKey::Count { partition, counter: Counter::ALL[at] }),
            partition().prop_map(|partition| LedgerKey::Created { source: partition.source }),
            Just(LedgerKey::Seen),
        ]
    }

    proptest! {
        #[test]
        fn an_app_id_reads_back_as_its_key(key in key()) {
            prop_assert_eq!(LedgerKey::parse(&key.app_id("id-1"), "id-1"), Parsed::Key(key));
        }

        #[test]
        fn any_text_is_parsed_without_panic(text in "(sluice:)?[^\\n]{0,60}") {
            let _ = LedgerKey::parse(&text, "id-1");
        }
    }

    #[test]
    fn strangers_and_newer_formats_are_told_apart() {
        for (app_id, expected) in [
            ("spark-query-7", Parsed::Foreign),
            ("sluice:1:another:seen", Parsed::Foreign),
            ("sluice:2:id-1:seen", Parsed::Unreadable),
            ("sluice:1:id-1:end:hub:0:x", Parsed::Unreadable),
            ("sluice:1:id-1:seen", Parsed::Key(LedgerKey::Seen)),
        ] {
            assert_eq!(LedgerKey::parse(app_id, "id-1"), expected, "{app_id}");
        }
    }
}
