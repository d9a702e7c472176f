//! Which versions of other tables a table's rows were made from: what its streams will ask for next.

use super::Keep;
use crate::catalog::log::TableHead;

/// The prefix of the app ids under which a transform's output holds how far it has read its inputs.
const CONSUMED: &str = "sluice-consumed:";
/// The format of these that this version reads.
const FORMAT: &str = "1";

/// Whether a table streams others at all.
pub fn is_reader(head: &TableHead) -> bool {
    head.transactions.keys().any(|app_id| app_id.starts_with(CONSUMED))
}

/// What the streams of this table need of the table with this id; nothing where it streams none of it, or will
/// begin anew.
///
/// | app id | version |
/// |---|---|
/// | `sluice-consumed:1:<id>` | the last version whose rows are in; below 0: none |
/// | `…:snapshot` | until then: the version whose files a first run goes through; below 0: none |
pub fn needs_of(reader: &TableHead, id: &str) -> Option<Keep> {
    let mut consumed = None;
    let mut pinned = None;
    for (app_id, version) in &reader.transactions {
        let Some((format, rest)) = app_id.strip_prefix(CONSUMED).and_then(|rest| rest.split_once(':')) else {
            continue;
        };
        let (of, more) = rest.split_once(':').map_or((rest, None), |(of, more)| (of, Some(more)));
        match (format, more) {
            _ if of != id => {}
            (FORMAT, None) => consumed = u64::try_from(*version).ok(),
            (FORMAT, Some("snapshot")) => pinned = u64::try_from(*version).ok(),
            (FORMAT, Some(_)) => {}
            // What a newer version of ours counts isn't guessed at: all stays.
            _ => return Some(Keep { consumed: Some(0), pinned: None }),
        }
    }
    match (consumed, pinned) {
        (Some(version), _) => Some(Keep { consumed: Some(version), pinned: None }),
        // What comes after the snapshot is asked for once it is through.
        (None, Some(version)) => Some(Keep { consumed: Some(version), pinned: Some(version) }),
        (None, None) => None,
    }
}

#[cfg(test)]
mod tests {
    use deltalake::kernel::{Metadata, Protocol};
    use serde_json::json;

    use super::*;

    fn reader(transactions: &[(&str, i64)]) -> TableHead {
        let metadata = json!({"id": "reader", "format": {"provider": "parquet", "options": {}}, "schemaString": "{}",
            "partitionColumns": [], "configuration": {}});
        let protocol = json!({"minReaderVersion": 1, "minWriterVersion": 2});
        TableHead {
            version: 1,
            metadata: serde_json::from_value::<Metadata>(metadata).expect("metadata"),
            protocol: serde_json::from_value::<Protocol>(protocol).expect("a protocol"),
            transactions: transactions.iter().map(|(app_id, version)| ((*app_id).to_owned(), *version)).collect(),
        }
    }

    #[test]
    fn what_a_stream_has_read_is_told_by_its_transactions() {
        let keep = |consumed, pinned| Some(Keep { consumed: Some(consumed), pinned });
        for (name, transactions, expected) in [
            ("versions", vec![("sluice-consumed:1:x", 7), ("sluice-consumed:1:x:snapshot", 3)], keep(7, None)),
            (
                "a first run",
                vec![
                    ("sluice-consumed:1:x", -1),
                    ("sluice-consumed:1:x:snapshot", 3),
                    ("sluice-consumed:1:x:snapshot-files", 2),
                ],
                keep(3, Some(3)),
            ),
            ("begun anew", vec![("sluice-consumed:1:x", -1), ("sluice-consumed:1:x:snapshot", -1)], None),
            ("a newer format", vec![("sluice-consumed:2:x", 7)], keep(0, None)),
            ("another table", vec![("sluice-consumed:1:y", 7)], None),
            ("no stream", vec![("sluice:1:x:seen", 7), ("sluice-consumed:", 7)], None),
        ] {
            assert_eq!(needs_of(&reader(&transactions), "x"), expected, "{name}");
        }
    }
}
