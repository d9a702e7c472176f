//! Which numbers tables lack, from their ledgers and, where it is asked, from the hub.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chrono::{DateTime, SecondsFormat};
use serde::Serialize;

use super::GapError;
use crate::catalog::{Catalog, CatalogError, table_location};
use crate::checkpoint::{Ledger, PartitionKey, Range, RangeSet};
use crate::config::spec::{PipelineSpec, ProjectSpec, TableName};
use crate::pipeline::{PipelineError, setup, standing};
use crate::sink::delta::gaps::{AcceptedGap, AcceptedGaps};
use crate::sink::delta::ledger::{ReadLedger, read_ledger};
use crate::source::PartitionProperties;
use crate::storage::Location;

/// How long a hub may take to say what it holds, all tries together.
const HUB_ANSWERS_WITHIN: Duration = Duration::from_secs(30);

/// Who says which numbers are missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AskHub {
    /// The ledger alone.
    No,
    /// The hub of a live pipeline, too: what it has no more is missing also past the ledger's end, and
    /// what it still has isn't, since it will be read.
    Yes,
}

/// What tells that numbers are missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum KnownBy {
    /// They lie between ranges that the ledger covers.
    Ledger,
    /// They lie past the ledger's end, and before the first number that the hub has.
    Hub,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum GapState {
    Open,
    Accepted,
}

/// Who accepted numbers as missing, when and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Accepted {
    pub by: String,
    /// RFC 3339, UTC.
    pub at: String,
    pub why: String,
}

/// Numbers that a table lacks. The shape that scripts read: fields may be added, never renamed or removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Gap {
    /// None where no pipeline of the project writes the table.
    pub pipeline: Option<String>,
    pub table: String,
    pub source: String,
    pub partition: String,
    /// `[from, to)`
    pub from: i64,
    pub to: i64,
    pub count: u64,
    pub known_by: KnownBy,
    pub state: GapState,
    pub accepted: Option<Accepted>,
}

/// A table, and the pipeline of the project that writes it.
#[derive(Debug, Clone)]
pub struct Target<'a> {
    pub table: TableName,
    pub pipeline: Option<&'a PipelineSpec>,
}

impl<'a> Target<'a> {
    /// Every table that the project writes.
    pub fn all(project: &'a ProjectSpec) -> Vec<Self> {
        let target = |pipeline: &'a PipelineSpec| Self { table: pipeline.sink.table.clone(), pipeline: Some(pipeline) };
        project.pipelines.iter().map(target).collect()
    }

    /// The one that is named, as a table (`bronze.leads`) or as a pipeline.
    ///
    /// # Errors
    /// [`GapError::Name`], [`PipelineError::Unknown`]
    pub fn named(project: &'a ProjectSpec, name: &str) -> Result<Self, GapError> {
        if name.contains('.') {
            let table: TableName = name.parse().map_err(GapError::Name)?;
            let pipeline = project.pipelines.iter().find(|pipeline| pipeline.sink.table == table);
            return Ok(Self { table, pipeline });
        }
        match project.pipelines.iter().find(|pipeline| pipeline.name == name) {
            Some(pipeline) => Ok(Self { table: pipeline.sink.table.clone(), pipeline: Some(pipeline) }),
            None => {
                let known = project.pipelines.iter().map(|pipeline| pipeline.name.clone()).collect();
                Err(PipelineError::Unknown { name: name.to_owned(), known }.into())
            }
        }
    }
}

/// The gaps of tables, open and accepted, in the order of the targets; those of a table once.
///
/// # Errors
/// A named table that isn't there, a hub that can't be asked, errors of storage.
pub async fn list(project: &ProjectSpec, targets: &[Target<'_>], ask: AskHub) -> Result<Vec<Gap>, GapError> {
    let mut gaps = Vec::new();
    let mut listed = BTreeSet::new();
    for target in targets.iter().filter(|target| listed.insert(&target.table)) {
        match Missing::find(project, target, ask).await? {
            Some(missing) => gaps.extend(missing.gaps(target)),
            // That a pipeline has no table yet is no mistake.
            None if target.pipeline.is_some() => {}
            None => return Err(unknown_table(&setup::Places::of(project)?.lake, &target.table).await?),
        }
    }
    Ok(gaps)
}

pub(super) async fn unknown_table(lake: &Location, table: &TableName) -> Result<GapError, CatalogError> {
    let known = Catalog::new(lake).tables().await?.iter().map(ToString::to_string).collect();
    Ok(CatalogError::Unknown { table: table.to_string(), known }.into())
}

/// What was accepted of a table. Where it can't be read nothing counts as accepted: then too much is
/// told, and nothing stops.
pub async fn accepted_of(lake: &Location, table: &str, table_id: &str) -> AcceptedGaps {
    match AcceptedGaps::read(lake, table_id).await {
        Ok(accepted) => accepted,
        Err(error) => {
            let error = crate::pipeline::partition::report(&error);
            tracing::warn!(table, error, "what was accepted as missing can't be read: all counts as open");
            AcceptedGaps::default()
        }
    }
}

/// What one table lacks, of each partition.
#[derive(Debug)]
pub struct Missing {
    pub read: ReadLedger,
    pub accepted: AcceptedGaps,
    pub ranges: BTreeMap<PartitionKey, Vec<(Range, KnownBy)>>,
}

impl Missing {
    /// Reads the ledger, what was accepted, and what the hub has; none where there is no table.
    ///
    /// # Errors
    /// A hub that can't be asked, errors of storage.
    pub async fn find(project: &ProjectSpec, target: &Target<'_>, ask: AskHub) -> Result<Option<Self>, GapError> {
        let places = setup::Places::of(project)?;
        let name = target.table.to_string();
        // The hub first: what it takes in meanwhile isn't held against the ledger.
        let held = match (ask, target.pipeline) {
            (AskHub::Yes, Some(pipeline)) if pipeline.is_live => Some(held_by_hub(project, pipeline).await?),
            _ => None,
        };
        let Some(read) = read_ledger(&table_location(&places.lake, &target.table), &name).await? else {
            return Ok(None);
        };
        let accepted = AcceptedGaps::read(&places.lake, &read.table_id).await?;
        let mut ranges = of_ledger(&read.ledger);
        if let (Some(held), Some(pipeline)) = (held, target.pipeline) {
            let source = setup::source_of(project, pipeline)?;
            for holds in held {
                let partition = PartitionKey::new(source.clone(), holds.partition.as_str());
                let missing = beside_hub(&read.ledger, &partition, holds.begin);
                ranges.insert(partition, missing);
            }
        }
        ranges.retain(|_, missing| !missing.is_empty());
        Ok(Some(Self { read, accepted, ranges }))
    }

    pub fn gaps(&self, target: &Target<'_>) -> Vec<Gap> {
        let mut partitions: Vec<_> = self.ranges.iter().collect();
        // Partitions are numbers written as text: "10" after "9".
        partitions.sort_by_key(|(key, _)| (key.source.as_str(), key.partition.len(), &key.partition));
        let mut gaps = Vec::new();
        for (key, missing) in partitions {
            for (range, known_by) in missing {
                let pieces = self.accepted.split(key, *range);
                gaps.extend(
                    pieces.into_iter().map(|(piece, accepted)| Gap::of(target, key, piece, *known_by, accepted)),
                );
            }
        }
        gaps
    }

    /// The numbers alone.
    pub fn numbers(&self) -> BTreeMap<PartitionKey, RangeSet> {
        let numbers = |missing: &Vec<(Range, KnownBy)>| missing.iter().map(|(range, _)| *range).collect();
        self.ranges.iter().map(|(key, missing)| (key.clone(), numbers(missing))).collect()
    }
}

impl Gap {
    fn of(
        target: &Target<'_>,
        key: &PartitionKey,
        range: Range,
        known_by: KnownBy,
        accepted: Option<&AcceptedGap>,
    ) -> Self {
        Self {
            pipeline: target.pipeline.map(|pipeline| pipeline.name.clone()),
            table: target.table.to_string(),
            source: key.source.to_string(),
            partition: key.partition.to_string(),
            from: range.from,
            to: range.to,
            count: range.len(),
            known_by,
            state: if accepted.is_some() { GapState::Accepted } else { GapState::Open },
            accepted: accepted.map(Accepted::from),
        }
    }
}

impl From<&AcceptedGap> for Accepted {
    fn from(gap: &AcceptedGap) -> Self {
        let at = DateTime::from_timestamp_micros(gap.accepted_at_us).unwrap_or_default();
        Self { by: gap.accepted_by.clone(), at: at.to_rfc3339_opts(SecondsFormat::Millis, true), why: gap.why.clone() }
    }
}

fn of_ledger(ledger: &Ledger) -> BTreeMap<PartitionKey, Vec<(Range, KnownBy)>> {
    let gaps =
        |held: &crate::checkpoint::PartitionLedger| held.gaps().into_iter().map(|gap| (gap, KnownBy::Ledger)).collect();
    ledger.partitions().map(|(key, held)| (key.clone(), gaps(held))).collect()
}

/// What is missing of a partition before `begin`, the first number that the hub has. A partition that
/// the ledger doesn't know lacks nothing: it has no start yet.
fn beside_hub(ledger: &Ledger, partition: &PartitionKey, begin: i64) -> Vec<(Range, KnownBy)> {
    let Some(held) = ledger.partition(partition) else { return Vec::new() };
    let (Some(start), Some(end)) = (held.start(), held.end()) else { return Vec::new() };
    let missing = held.coverage().missing_in(Range::new(start, begin));
    let known_by = |range: Range| {
        let (inside, past) = (Range::new(range.from, range.to.min(end)), Range::new(range.from.max(end), range.to));
        [(inside, KnownBy::Ledger), (past, KnownBy::Hub)]
    };
    missing.into_iter().flat_map(known_by).filter(|(range, _)| !range.is_empty()).collect()
}

async fn held_by_hub(project: &ProjectSpec, pipeline: &PipelineSpec) -> Result<Vec<PartitionProperties>, GapError> {
    let hub = pipeline.source.hub.clone();
    match tokio::time::timeout(HUB_ANSWERS_WITHIN, standing::held_by_hub(project, pipeline)).await {
        Ok(Ok(held)) => Ok(held),
        Ok(Err(error)) => Err(GapError::Hub { hub, source: Box::new(error) }),
        Err(_) => Err(GapError::HubSilent { hub, after: HUB_ANSWERS_WITHIN }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::{LedgerKey, SourceId};

    #[test]
    fn what_the_hub_has_no_more_is_missing_and_what_it_has_is_not() {
        let key = PartitionKey::new(SourceId::new("emulator/leads"), "0");
        let mut ledger = Ledger::default();
        for (from, to) in [(0, 10), (20, 30), (40, 50)] {
            ledger.apply(LedgerKey::End { partition: key.clone(), from }, to);
        }
        let missing = |begin| -> Vec<(i64, i64, KnownBy)> {
            let found = beside_hub(&ledger, &key, begin).into_iter();
            found.map(|(range, known_by)| (range.from, range.to, known_by)).collect()
        };
        assert_eq!(missing(0), []);
        assert_eq!(missing(15), [(10, 15, KnownBy::Ledger)]);
        assert_eq!(missing(45), [(10, 20, KnownBy::Ledger), (30, 40, KnownBy::Ledger)]);
        assert_eq!(missing(60)[2], (50, 60, KnownBy::Hub));
        let other = PartitionKey::new(SourceId::new("emulator/leads"), "1");
        assert_eq!(beside_hub(&ledger, &other, 60), []);
    }
}
