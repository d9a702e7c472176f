//! Which versions of other tables a table's rows were made from: what its streams will ask for next.

use super::Keep;
use crate::catalog::log::TableHead;

/// The prefix of the app ids under which a transform's output holds how far it has read its inputs.
const CONSUMED: &str = "sluice-consumed:";
/// The format of these that this version reads.
const FORMAT: &str = "1";

/// What the streams of this table need of the table with this id; nothing where it streams none of it.
pub fn needs_of(reader: &TableHead, id: &str) -> Option<Keep> {
    let needs = reader.transactions.iter().filter_map(|(app_id, version)| need(app_id, *version, id));
    needs.reduce(Keep::and)
}

fn need(app_id: &str, version: i64, id: &str) -> Option<Keep> {
    let (format, rest) = app_id.strip_prefix(CONSUMED)?.split_once(':')?;
    let (of, more) = rest.split_once(':').map_or((rest, None), |(of, more)| (of, Some(more)));
    if of != id {
        return None;
    }
    let version = u64::try_from(version).unwrap_or(0);
    Some(match (format, more) {
        (FORMAT, None) => Keep { consumed: Some(version), pinned: None },
        // How it counts is no matter: until the first run is through, all stays.
        _ => Keep { consumed: Some(0), pinned: None },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_stream_has_read_is_told_by_its_app_id() {
        let consumed = |version| Some(Keep { consumed: Some(version), pinned: None });
        for (app_id, version, expected) in [
            ("sluice-consumed:1:id-1", 7, consumed(7)),
            ("sluice-consumed:1:id-1", -7, consumed(0)),
            ("sluice-consumed:1:id-1:snapshot", 7, consumed(0)),
            ("sluice-consumed:2:id-1", 7, consumed(0)),
            ("sluice-consumed:1:id-2", 7, None),
            ("sluice:1:id-1:seen", 7, None),
            ("sluice-consumed:", 7, None),
        ] {
            assert_eq!(need(app_id, version, "id-1"), expected, "{app_id}");
        }
    }
}
