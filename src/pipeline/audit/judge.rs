//! From counted keys to a verdict.

use std::time::Duration;

use super::count::{Counted, Listed, MOST_LISTED, Tallies, Tally};
use super::{AcceptedRange, Audit, AuditError, PartitionAudit};
use crate::catalog::{Catalog, CatalogError, accepted_gaps, dead_letters_of, table_location};
use crate::checkpoint::{Counter, PartitionKey, PartitionLedger, Range, SourceId};
use crate::config::spec::{PipelineSpec, ProjectSpec, TableName};
use crate::pipeline::gaps::Accepted;
use crate::pipeline::setup;
use crate::sink::delta::gaps::AcceptedGaps;
use crate::sink::delta::ledger::{ReadLedger, read_ledger};
use crate::storage::Location;

/// How long the hub may take to say which partitions it has, all tries together.
const HUB_ANSWERS_WITHIN: Duration = Duration::from_secs(30);

/// How many numbers or ranges a sentence names.
const MOST_NAMED: usize = 10;

/// How many commits of strangers a report names.
const MOST_STRANGERS: usize = 20;

/// What the source is known to have.
enum Expected {
    /// Nobody was asked: what the ledger lists is all there is.
    Ledger,
    Hub {
        source: SourceId,
        created_at_ms: i64,
        partitions: Vec<String>,
    },
}

/// Audits a table of a pipeline against its hub.
///
/// # Errors
/// [`AuditError`]; that the table isn't complete is an answer, not an error.
pub async fn audit(
    project: &ProjectSpec,
    pipeline: &PipelineSpec,
    table: &TableName,
    counted: &Counted,
) -> Result<Audit, AuditError> {
    let lake = lake(project)?;
    // Before the ledger is read: a partition that the hub gains meanwhile isn't held against it.
    let expected = ask_hub(project, pipeline).await?;
    audit_at(&lake, table, pipeline.source.dense, expected, counted).await
}

/// Audits a table against its ledger alone. `dense` says whether numbers have no holes.
///
/// # Errors
/// [`AuditError`]; that the table isn't complete is an answer, not an error.
pub async fn audit_offline(
    project: &ProjectSpec,
    table: &TableName,
    dense: bool,
    counted: &Counted,
) -> Result<Audit, AuditError> {
    audit_at(&lake(project)?, table, dense, Expected::Ledger, counted).await
}

fn lake(project: &ProjectSpec) -> Result<Location, AuditError> {
    Ok(Location::resolve(&project.lake.url, project.storage_azure.as_ref()).map_err(CatalogError::from)?)
}

async fn ask_hub(project: &ProjectSpec, pipeline: &PipelineSpec) -> Result<Expected, AuditError> {
    let hub = pipeline.source.hub.clone();
    let asked = tokio::time::timeout(HUB_ANSWERS_WITHIN, async {
        let source = setup::connect(project, pipeline).await?;
        let properties = source.hub().await?;
        source.close().await;
        Ok((source.id().clone(), properties))
    });
    match asked.await {
        Ok(Ok((source, properties))) => {
            Ok(Expected::Hub { source, created_at_ms: properties.created_at_ms, partitions: properties.partitions })
        }
        Ok(Err(error)) => Err(AuditError::Hub { hub, source: Box::new(error) }),
        Err(_) => Err(AuditError::HubSilent { hub, after: HUB_ANSWERS_WITHIN }),
    }
}

async fn audit_at(
    lake: &Location,
    name: &TableName,
    dense: bool,
    expected: Expected,
    counted: &Counted,
) -> Result<Audit, AuditError> {
    if let Some(of) = name.table.strip_suffix("__dead_letters") {
        let of = format!("{}.{of}", name.schema);
        return Err(AuditError::DeadLetters { table: name.to_string(), of });
    }
    if *name == accepted_gaps() {
        return Err(AuditError::NoEvents { table: name.to_string() });
    }
    let Some(read) = read_ledger(&table_location(lake, name), &name.to_string()).await? else {
        let known = Catalog::new(lake).tables().await?;
        let known = known.iter().map(ToString::to_string).collect();
        return Err(CatalogError::Unknown { table: name.to_string(), known }.into());
    };
    let mut tallies = Tallies::of(&read.ledger);
    counted.expects(tallies.partitions.values().flat_map(|tally| tally.coverage.iter()).map(|range| range.len()).sum());
    tallies.count_rows(&read.log, read.version, counted).await?;
    let letters = dead_letters_of(name);
    if let Some(letters) = read_ledger(&table_location(lake, &letters), &letters.to_string()).await? {
        tallies.count_letters(&letters, counted).await?;
    }
    let accepted = AcceptedGaps::read(lake, &read.table_id).await?;
    Ok(judge(name, &read, &accepted, &tallies, dense, &expected))
}

fn judge(
    name: &TableName,
    read: &ReadLedger,
    accepted: &AcceptedGaps,
    tallies: &Tallies,
    dense: bool,
    expected: &Expected,
) -> Audit {
    let mut problems = problems_of_table(read, tallies, expected);
    let mut partitions = Vec::new();
    for (key, tally) in &tallies.partitions {
        let held = read.ledger.partition(key);
        let audited = match held {
            Some(held) => judge_partition(key, held, accepted, tally, dense),
            None => judge_unknown(key, tally),
        };
        problems.extend(audited.problems.iter().map(|problem| format!("partition `{key}`: {problem}")));
        partitions.push(audited);
    }
    let sum = |of: fn(&PartitionAudit) -> u64| partitions.iter().map(of).sum();
    Audit {
        table: name.to_string(),
        complete: problems.is_empty(),
        version: read.version,
        offline: matches!(expected, Expected::Ledger),
        rows: sum(|partition| partition.rows),
        rejected: sum(|partition| partition.rejected),
        expired: sum(|partition| partition.expired),
        filtered: sum(|partition| partition.filtered),
        duplicates: sum(|partition| partition.duplicates),
        missing: sum(|partition| partition.missing_count),
        accepted: sum(|partition| partition.accepted_count),
        problems,
        notes: notes(read, dense, expected),
        partitions,
    }
}

/// What is wrong with the table as a whole.
fn problems_of_table(read: &ReadLedger, tallies: &Tallies, expected: &Expected) -> Vec<String> {
    let mut problems = Vec::new();
    if read.ledger.seen().is_none() {
        problems.push(if read.has_foreign_ledger {
            format!(
                "its ledger belongs to another table: this one has the id `{}`, and was replaced or copied",
                read.table_id
            )
        } else {
            "it has no ledger: no pipeline has written it".to_owned()
        });
    }
    if let Expected::Hub { source, created_at_ms, partitions } = expected {
        if let Some(was) = read.ledger.created(source).filter(|was| was != created_at_ms) {
            problems.push(format!(
                "hub `{source}` was made at {created_at_ms} (epoch ms), and the ledger is of one made at {was}: declare \
                 its `generation`"
            ));
        }
        for partition in partitions {
            let key = PartitionKey::new(source.clone(), partition.as_str());
            if read.ledger.partition(&key).and_then(PartitionLedger::start).is_none() {
                problems.push(format!("partition `{key}`: the hub has it, and the ledger doesn't"));
            }
        }
    }
    if tallies.rows_without_key > 0 {
        problems.push(format!("{} without source, partition or number", of_many(tallies.rows_without_key, "row")));
    }
    if tallies.rows_elsewhere > 0 {
        let rows = of_many(tallies.rows_elsewhere, "row");
        problems.push(format!("{rows} of further partitions that the ledger doesn't know"));
    }
    problems
}

fn notes(read: &ReadLedger, dense: bool, expected: &Expected) -> Vec<String> {
    let mut notes = Vec::new();
    for stranger in read.strangers.iter().take(MOST_STRANGERS) {
        let did = match (stranger.removes_rows, stranger.adds_rows) {
            (true, true) => ", which removes and adds files",
            (true, false) => ", which removes files",
            (false, true) => ", which adds files",
            (false, false) => "",
        };
        notes.push(format!("version {} (`{}`) isn't sluice's{did}", stranger.version, stranger.operation));
    }
    if read.strangers.len() > MOST_STRANGERS {
        notes.push(format!("and {} further versions that aren't sluice's", read.strangers.len() - MOST_STRANGERS));
    }
    match expected {
        Expected::Ledger => notes.push("the hub was not asked which partitions it has".to_owned()),
        Expected::Hub { source, .. } => {
            let mut gone: Vec<_> = read.ledger.partitions().map(|(key, _)| &key.source).collect();
            gone.dedup();
            for other in gone.into_iter().filter(|other| *other != source) {
                notes.push(format!("`{other}` isn't the hub that was asked: it is audited to its ledger's end"));
            }
        }
    }
    if !dense {
        notes.push("numbers of this source have holes (`dense = false`): absence can't be proved".to_owned());
    }
    notes
}

fn judge_partition(
    key: &PartitionKey,
    held: &PartitionLedger,
    accepted: &AcceptedGaps,
    tally: &Tally,
    dense: bool,
) -> PartitionAudit {
    let count = |counter| u64::try_from(held.counter(counter)).unwrap_or(0);
    let mut gaps = Vec::new();
    let mut lived_without = Vec::new();
    for (range, accepted) in held.gaps().into_iter().flat_map(|gap| accepted.split(key, gap)) {
        match accepted {
            Some(accepted) => lived_without.push((range, Accepted::from(accepted))),
            None => gaps.push(range),
        }
    }
    let mut missing = Missing::default();
    for covered in tally.coverage.iter().filter(|_| dense) {
        tally.rows.missing_in_both(&tally.letters, covered, |run| missing.add(run));
    }
    let unexplained = missing.count;
    let taken_out = count(Counter::Filtered) + count(Counter::Erased);
    if unexplained <= taken_out {
        // Which numbers were taken out isn't known, only how many.
        missing = Missing::default();
    } else {
        missing.count -= taken_out;
    }
    for gap in &gaps {
        missing.add(*gap);
    }
    let mut audited = PartitionAudit {
        missing: missing.listed(),
        missing_count: missing.count,
        filtered: count(Counter::Filtered),
        accepted_count: lived_without.iter().map(|(range, _)| range.len()).sum(),
        accepted: lived_without.into_iter().take(MOST_LISTED).map(AcceptedRange::from).collect(),
        ..counted(key, tally)
    };
    let problems = &mut audited.problems;
    if !gaps.is_empty() {
        problems.push(format!("the ledger has gaps: {}", name_ranges(&gaps)));
    }
    if missing.count > 0 {
        problems.push(format!("{} missing: {}", missing.count, name_ranges(&missing.ranges)));
    }
    if dense && unexplained > taken_out && taken_out > 0 {
        problems.push(format!("{taken_out} of the numbers named missing were filtered or erased"));
    }
    if dense && unexplained < taken_out {
        problems
            .push(format!("the ledger counts {taken_out} filtered or erased, and {unexplained} numbers have no row"));
    }
    let (rejected, letters) = (count(Counter::Rejected), tally.letters.len());
    if rejected != letters {
        problems.push(format!("the ledger counts {rejected} rejected, and the dead letters are {letters}"));
    }
    // Letters are marked before they are counted, so the count may be behind, and the next that counts makes up for it.
    let (counted_expired, expired) = (count(Counter::Expired), tally.expired.len());
    if counted_expired > expired {
        problems.push(format!("the ledger counts {counted_expired} expired, and of the dead letters {expired} are"));
    }
    let (events, found) = (count(Counter::Events), tally.rows.len() + letters + taken_out);
    if !dense && events > 0 && events != found {
        problems.push(format!("the ledger counts {events} events, and {found} are accounted for"));
    }
    audited
}

/// A partition that has rows, and that the ledger doesn't know.
fn judge_unknown(key: &PartitionKey, tally: &Tally) -> PartitionAudit {
    let mut audited = counted(key, tally);
    audited.problems.insert(0, "the ledger doesn't know it".to_owned());
    audited
}

fn counted(key: &PartitionKey, tally: &Tally) -> PartitionAudit {
    let mut problems = Vec::new();
    let doubled = [(&tally.doubled_rows, "row"), (&tally.doubled_letters, "dead letter")];
    for (listed, what) in doubled.into_iter().filter(|(listed, _)| listed.count > 0) {
        problems.push(format!("{} twice: {}", of_many(listed.count, what), name_numbers(listed)));
    }
    if tally.uncovered.count > 0 {
        let of = name_numbers(&tally.uncovered);
        let rows = of_many(tally.uncovered.count, "row");
        problems.push(format!("{rows} that the ledger doesn't account for: {of}"));
    }
    let duplicate_numbers = tally.doubled_rows.numbers.union(&tally.doubled_letters.numbers);
    PartitionAudit {
        source: key.source.to_string(),
        partition: key.partition.to_string(),
        ranges: tally.coverage.iter().map(|range| (range.from, range.to)).collect(),
        rows: tally.rows.len() + tally.more_rows,
        rejected: tally.letters.len(),
        expired: tally.expired.len(),
        duplicates: tally.doubled_rows.count + tally.doubled_letters.count,
        duplicate_numbers: duplicate_numbers.copied().take(MOST_LISTED).collect(),
        uncovered_numbers: tally.uncovered.numbers.iter().copied().collect(),
        uncovered_count: tally.uncovered.count,
        problems,
        ..PartitionAudit::default()
    }
}

/// Ranges that nothing accounts for, counted in full and listed up to a bound.
#[derive(Default)]
struct Missing {
    count: u64,
    ranges: Vec<Range>,
}

impl Missing {
    fn add(&mut self, range: Range) {
        self.count += range.len();
        if self.ranges.len() < MOST_LISTED {
            self.ranges.push(range);
        }
    }

    fn listed(&mut self) -> Vec<(i64, i64)> {
        self.ranges.sort();
        self.ranges.iter().map(|range| (range.from, range.to)).collect()
    }
}

/// `1 row`, `2 rows`.
fn of_many(count: u64, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

/// `17, 20 to 24, …`: numbers as a person counts, ends included.
fn name_ranges(ranges: &[Range]) -> String {
    let name = |range: &Range| match range.len() {
        1 => range.from.to_string(),
        _ => format!("{} to {}", range.from, range.to - 1),
    };
    cut_off(ranges.iter().map(name), ranges.len())
}

fn name_numbers(listed: &Listed) -> String {
    cut_off(listed.numbers.iter().map(ToString::to_string), listed.numbers.len())
}

fn cut_off(names: impl Iterator<Item = String>, of: usize) -> String {
    let mut text = names.take(MOST_NAMED).collect::<Vec<_>>().join(", ");
    if of > MOST_NAMED {
        text.push_str(", …");
    }
    text
}
