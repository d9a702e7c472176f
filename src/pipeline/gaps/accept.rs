//! Saying that a table can do without numbers, and why.

use chrono::Utc;

use super::find::{AskHub, Gap, Missing, Target, unknown_table};
use super::{Accepted, GapError};
use crate::checkpoint::{PartitionKey, Range, RangeSet, SourceId};
use crate::config::spec::ProjectSpec;
use crate::pipeline::setup;
use crate::sink::delta::gaps::{Acceptance, AcceptedGap, accept as record};

/// How long a name or a reason may be: they are shown in tables and reports.
const LONGEST_NAME_CHARS: usize = 200;
const LONGEST_REASON_CHARS: usize = 1_000;

/// What is to be accepted, by whom and why.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Needed where the ledger knows the partition of several sources.
    pub source: Option<String>,
    pub partition: String,
    pub range: Range,
    pub by: String,
    pub why: String,
}

/// Accepts numbers as missing; gives them as `list` shows them from now on.
///
/// # Errors
/// [`GapError::NotMissing`] when the table accounts for some of them, or isn't known to lack them;
/// [`GapError::Before`] when all of them were accepted already; what else was said wrong; errors of storage.
pub async fn accept(
    project: &ProjectSpec,
    target: &Target<'_>,
    wanted: Wanted,
    ask: AskHub,
) -> Result<Vec<Gap>, GapError> {
    let by = words("--by", &wanted.by, LONGEST_NAME_CHARS)?;
    let why = words("--why", &wanted.why, LONGEST_REASON_CHARS)?;
    if wanted.range.is_empty() {
        return Err(GapError::Empty(wanted.range));
    }
    let lake = setup::Places::of(project)?.lake;
    let Some(mut missing) = Missing::find(project, target, ask).await? else {
        return Err(unknown_table(&lake, &target.table).await?);
    };
    let partition = partition(&missing, target, &wanted)?;
    refuse_what_is_there(&missing, target, &partition, wanted.range)?;
    let gap = AcceptedGap {
        partition: partition.clone(),
        range: wanted.range,
        table: target.table.to_string(),
        table_id: missing.read.table_id.clone(),
        accepted_at_us: Utc::now().timestamp_micros(),
        accepted_by: by,
        why,
    };
    if let Acceptance::Before(before) = record(&lake, &gap).await? {
        let Accepted { by, at, .. } = Accepted::from(before.as_ref());
        return Err(GapError::Before { partition: partition.to_string(), range: wanted.range, by, at });
    }
    // Nothing is read again: it stands, whatever fails from here on.
    missing.accepted.add(gap);
    let is_named = |gap: &Gap| {
        gap.source == partition.source.as_str()
            && gap.partition == *partition.partition
            && wanted.range.from <= gap.from
            && gap.to <= wanted.range.to
    };
    Ok(missing.gaps(target).into_iter().filter(is_named).collect())
}

/// A line that can be shown.
fn words(flag: &'static str, text: &str, most_chars: usize) -> Result<String, GapError> {
    let wrong = |reason: &str| GapError::Words { flag, reason: reason.to_owned() };
    let text = text.trim();
    if text.is_empty() {
        return Err(wrong("is blank"));
    }
    if text.chars().any(char::is_control) {
        return Err(wrong("holds characters that can't be shown: write one line"));
    }
    if text.chars().nth(most_chars).is_some() {
        return Err(wrong(&format!("is longer than {most_chars} characters")));
    }
    Ok(text.to_owned())
}

fn partition(missing: &Missing, target: &Target<'_>, wanted: &Wanted) -> Result<PartitionKey, GapError> {
    let ledger = &missing.read.ledger;
    let table = target.table.to_string();
    let is_meant = |key: &PartitionKey| {
        *key.partition == *wanted.partition && wanted.source.as_ref().is_none_or(|source| key.source.as_str() == source)
    };
    let found: Vec<&PartitionKey> = ledger.partitions().map(|(key, _)| key).filter(|key| is_meant(key)).collect();
    match found.as_slice() {
        [only] => Ok((*only).clone()),
        [] => {
            let name = |source: &String| PartitionKey::new(SourceId::new(source.as_str()), wanted.partition.as_str());
            let partition =
                wanted.source.as_ref().map_or_else(|| wanted.partition.clone(), |source| name(source).to_string());
            let known = ledger.partitions().map(|(key, _)| key.to_string()).collect();
            Err(GapError::UnknownPartition { table, partition, known })
        }
        several => {
            let sources = several.iter().map(|key| key.source.to_string()).collect();
            Err(GapError::SeveralSources { table, partition: wanted.partition.clone(), sources })
        }
    }
}

/// Only what is missing can be accepted: anything else is a slip of the pen.
fn refuse_what_is_there(
    missing: &Missing,
    target: &Target<'_>,
    partition: &PartitionKey,
    range: Range,
) -> Result<(), GapError> {
    let gaps: RangeSet = missing.numbers().remove(partition).unwrap_or_default();
    let others = gaps.missing_in(range);
    if others.is_empty() {
        return Ok(());
    }
    let held = missing.read.ledger.partition(partition);
    let coverage = held.map(|held| held.coverage()).unwrap_or_default();
    let (start, end) = held.map_or((0, 0), |held| (held.start().unwrap_or(0), held.end().unwrap_or(0)));
    let mut why = Vec::new();
    for other in others {
        why.extend(coverage.held_in(other).iter().map(|covered| format!("the table accounts for {covered}")));
        for uncovered in coverage.missing_in(other) {
            let before = Range::new(uncovered.from, uncovered.to.min(start));
            let past = Range::new(uncovered.from.max(end), uncovered.to);
            if !before.is_empty() {
                why.push(format!("{before} lies before its start"));
            }
            if !past.is_empty() {
                why.push(format!("{past} lies past its end, where it is lag"));
            }
        }
    }
    Err(GapError::NotMissing {
        table: target.table.to_string(),
        partition: partition.to_string(),
        range,
        why,
        missing: gaps.iter().collect(),
    })
}
