//! Which numbers tables lack, from their ledgers and, where it is asked, from the hub.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chrono::{DateTime, SecondsFormat};
use serde::Serialize;

use super::GapError;
use crate::catalog::{Catalog, CatalogError, table_location};
use crate::checkpoint::{PartitionKey, PartitionLedger, Range, RangeSet};
use crate::config::spec::{PipelineSpec, ProjectSpec, TableName};
use crate::pipeline::standing::{self, HeldByHub};
use crate::pipeline::{PipelineError, setup};
use crate::sink::delta::SinkError;
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
    /// of the ledger's gaps it is known which it may still have.
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
    /// The hub was asked, and says that it keeps what lies there; a reader may have passed it and found none.
    pub hub_may_have: bool,
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
        project.pipelines.iter().flat_map(Self::of).collect()
    }

    /// Every table that a pipeline writes.
    pub fn of(pipeline: &'a PipelineSpec) -> Vec<Self> {
        pipeline.sinks().map(|sink| Self { table: sink.table.clone(), pipeline: Some(pipeline) }).collect()
    }

    /// The one that is named, as a table (`bronze.leads`) or as a pipeline.
    ///
    /// # Errors
    /// As of [`Target::named`]; [`GapError::Name`] for a pipeline of several tables.
    pub fn only(project: &'a ProjectSpec, name: &str) -> Result<Self, GapError> {
        let mut named = Self::named(project, name)?;
        match named.pop() {
            Some(only) if named.is_empty() => Ok(only),
            _ => Err(GapError::Name(format!("pipeline `{name}` writes several tables: name one of them"))),
        }
    }

    /// Those that are named, by a table (`bronze.leads`) or a pipeline.
    ///
    /// # Errors
    /// [`GapError::Name`], [`PipelineError::Unknown`]
    pub fn named(project: &'a ProjectSpec, name: &str) -> Result<Vec<Self>, GapError> {
        if name.contains('.') {
            let table: TableName = name.parse().map_err(GapError::Name)?;
            let pipeline = project.pipelines.iter().find(|pipeline| pipeline.writes(&table));
            return Ok(vec![Self { table, pipeline }]);
        }
        match project.pipelines.iter().find(|pipeline| pipeline.name == name) {
            Some(pipeline) => Ok(Self::of(pipeline)),
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

pub async fn unknown_table(lake: &Location, table: &TableName) -> Result<GapError, CatalogError> {
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

/// Numbers that a table lacks, and what is known of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lacking {
    pub range: Range,
    pub known_by: KnownBy,
    /// The hub was asked, and says that it keeps what lies there. Whether it has these numbers only reading
    /// them tells: a reader may have passed them and found none.
    pub hub_may_have: bool,
}

/// What one table lacks, of each partition.
#[derive(Debug)]
pub struct Missing {
    pub read: ReadLedger,
    pub accepted: AcceptedGaps,
    pub ranges: BTreeMap<PartitionKey, Vec<Lacking>>,
}

impl Missing {
    /// Reads the ledger, what was accepted, and what the hub has; none where there is no table.
    ///
    /// # Errors
    /// A hub that can't be asked, or that isn't the one that the ledger knows; errors of storage.
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
        let of_ledger = read.ledger.partitions().map(|(key, held)| (key.clone(), lacking(held, None)));
        let mut ranges: BTreeMap<_, _> = of_ledger.collect();
        if let (Some(HeldByHub { created_at_ms: is, partitions }), Some(pipeline)) = (held, target.pipeline) {
            let source = setup::source_of(project, pipeline)?;
            // The numbers of another hub say nothing of these.
            if let Some(was) = read.ledger.created(&source).filter(|was| *was != is) {
                return Err(SinkError::Generation { table: name, origin: source.to_string(), was, is }.into());
            }
            for holds in partitions {
                let partition = PartitionKey::new(source.clone(), holds.partition.as_str());
                // One that the ledger doesn't know lacks nothing: it has no start yet.
                if let Some(held) = read.ledger.partition(&partition) {
                    ranges.insert(partition, lacking(held, Some(&holds)));
                }
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
            for lacking in missing {
                let pieces = self.accepted.split(key, lacking.range).into_iter();
                gaps.extend(
                    pieces.map(|(range, accepted)| Gap::of(target, key, Lacking { range, ..*lacking }, accepted)),
                );
            }
        }
        gaps
    }

    /// The numbers alone.
    pub fn numbers(&self) -> BTreeMap<PartitionKey, RangeSet> {
        let numbers = |missing: &Vec<Lacking>| missing.iter().map(|lacking| lacking.range).collect();
        self.ranges.iter().map(|(key, missing)| (key.clone(), numbers(missing))).collect()
    }
}

impl Gap {
    fn of(target: &Target<'_>, key: &PartitionKey, lacking: Lacking, accepted: Option<&AcceptedGap>) -> Self {
        let Lacking { range, known_by, hub_may_have } = lacking;
        Self {
            pipeline: target.pipeline.map(|pipeline| pipeline.name.clone()),
            table: target.table.to_string(),
            source: key.source.to_string(),
            partition: key.partition.to_string(),
            from: range.from,
            to: range.to,
            count: range.len(),
            known_by,
            hub_may_have,
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

/// What a partition lacks between its start and its end, in order; and past its end, where the hub was asked
/// and has that no more.
pub fn lacking(held: &PartitionLedger, holds: Option<&PartitionProperties>) -> Vec<Lacking> {
    let (Some(start), Some(end)) = (held.start(), held.end()) else { return Vec::new() };
    let coverage = held.coverage();
    let within = |from, to, known_by, hub_may_have| {
        let missing = coverage.missing_in(Range::new(from, to));
        missing.into_iter().map(move |range| Lacking { range, known_by, hub_may_have })
    };
    let Some(first) = holds.map(PartitionProperties::first) else {
        return within(start, end, KnownBy::Ledger, false).collect();
    };
    let gone = within(start, end.min(first), KnownBy::Ledger, false);
    let kept = within(start.max(first), end, KnownBy::Ledger, true);
    let gone_past_end = within(end, first, KnownBy::Hub, false);
    gone.chain(kept).chain(gone_past_end).collect()
}

async fn held_by_hub(project: &ProjectSpec, pipeline: &PipelineSpec) -> Result<HeldByHub, GapError> {
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
    use crate::checkpoint::{Ledger, LedgerKey, SourceId};

    fn missing(holds: Option<(i64, i64)>) -> Vec<(i64, i64, KnownBy, bool)> {
        let key = PartitionKey::new(SourceId::new("emulator/leads"), "0");
        let mut ledger = Ledger::default();
        for (from, to) in [(0, 10), (20, 30), (40, 50)] {
            ledger.apply(LedgerKey::End { partition: key.clone(), from }, to);
        }
        let holds = holds.map(|(begin, last_enqueued)| PartitionProperties {
            partition: "0".to_owned(),
            begin,
            last_enqueued,
            last_enqueued_at_ms: 0,
            is_empty: begin == 0 && last_enqueued > 0,
        });
        let held = ledger.partition(&key).expect("the partition is in the ledger");
        let found = lacking(held, holds.as_ref()).into_iter();
        found.map(|lacking| (lacking.range.from, lacking.range.to, lacking.known_by, lacking.hub_may_have)).collect()
    }

    #[test]
    fn what_the_hub_has_no_more_is_missing_and_of_what_it_keeps_it_is_told() {
        let (ledger, hub) = (KnownBy::Ledger, KnownBy::Hub);
        assert_eq!(missing(None), [(10, 20, ledger, false), (30, 40, ledger, false)]);
        assert_eq!(missing(Some((1, 69))), [(10, 20, ledger, true), (30, 40, ledger, true)]);
        assert_eq!(missing(Some((15, 69))), [(10, 15, ledger, false), (15, 20, ledger, true), (30, 40, ledger, true)]);
        assert_eq!(missing(Some((45, 69))), [(10, 20, ledger, false), (30, 40, ledger, false)]);
        assert_eq!(missing(Some((60, 69))), [(10, 20, ledger, false), (30, 40, ledger, false), (50, 60, hub, false)]);
    }

    #[test]
    fn an_emptied_partition_has_nothing_whatever_it_says_of_its_begin() {
        let (ledger, hub) = (KnownBy::Ledger, KnownBy::Hub);
        assert_eq!(missing(Some((0, 49))), [(10, 20, ledger, false), (30, 40, ledger, false)]);
        assert_eq!(missing(Some((0, 54)))[2], (50, 55, hub, false));
    }
}
