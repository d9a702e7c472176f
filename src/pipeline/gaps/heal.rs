//! Reading what a table lacks from the captures, and nothing else.

use std::collections::BTreeMap;

use serde::Serialize;

use super::GapError;
use super::find::{AskHub, Gap, GapState, Missing, Target};
use crate::checkpoint::{PartitionKey, RangeSet};
use crate::config::spec::{PipelineSpec, ProjectSpec};
use crate::fault_points::FaultPoints;
use crate::pipeline::PipelineError;
use crate::pipeline::run::{Pipeline, PipelineOptions, PipelineSummary};
use crate::pipeline::setup::SharedRegistry;
use crate::pipeline::status::PipelineStatus;
use crate::shutdown::Shutdown;

/// What came of healing. The shape that scripts read: fields may be added, never renamed or removed.
#[derive(Debug, Clone, Serialize)]
pub struct Healed {
    pub pipeline: String,
    pub table: String,
    /// What was missing before, and isn't any more, whoever landed it.
    pub healed: Vec<HealedRange>,
    /// What is still missing, open and accepted.
    pub gaps: Vec<Gap>,
    pub committed: u64,
    pub rejected: u64,
    pub blobs: u64,
    pub torn_blobs: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HealedRange {
    pub table: String,
    pub source: String,
    pub partition: String,
    /// `[from, to)`
    pub from: i64,
    pub to: i64,
    pub count: u64,
}

impl Healed {
    /// Whether nothing is missing but what was accepted.
    pub fn is_whole(&self) -> bool {
        self.gaps.iter().all(|gap| gap.state == GapState::Accepted)
    }
}

/// Takes in what the captures have of the gaps of a pipeline's table, accepted ones too. It asks the hub
/// nothing but, where that is wanted, what it still has; it takes no lock and may run beside the live pipeline.
///
/// # Errors
/// [`GapError::NoTable`]; what the captures or the table didn't allow. That gaps remain is an answer, not an error.
pub async fn heal(
    project: &ProjectSpec,
    selected: (&PipelineSpec, PipelineStatus),
    ask: AskHub,
    fault_points: FaultPoints,
    shutdown: Shutdown,
) -> Result<Healed, GapError> {
    let (spec, status) = selected;
    if spec.capture.is_none() {
        return Err(PipelineError::NoCapture { pipeline: spec.name.clone() }.into());
    }
    let targets = Target::of(spec);
    let mut before: Vec<BTreeMap<PartitionKey, RangeSet>> = Vec::new();
    for target in &targets {
        match Missing::find(project, target, ask).await? {
            Some(missing) => before.push(missing.numbers()),
            // One that a route was added for lacks nothing: it has no start yet.
            None if target.table != spec.sink.table => before.push(BTreeMap::new()),
            None => return Err(GapError::NoTable { table: target.table.to_string() }),
        }
    }
    let mut wanted: BTreeMap<PartitionKey, RangeSet> = BTreeMap::new();
    for (partition, missing) in before.iter().flatten() {
        wanted.entry(partition.clone()).or_default().union(missing);
    }
    if wanted.is_empty() {
        return Ok(Healed::of(spec, &PipelineSummary::default(), Vec::new(), Vec::new()));
    }
    let options = PipelineOptions { until_caught_up: true, fault_points, registry: SharedRegistry::default() };
    let run = async { Pipeline::heal(project, spec, &wanted, options, status, shutdown).await?.run().await };
    let stopped = |source| PipelineError::Stopped { pipeline: spec.name.clone(), source: Box::new(source) };
    let summary = run.await.map_err(stopped)?;
    // Whatever landed meanwhile by any path counts, so the table is asked, not the run.
    let (mut landed, mut gaps) = (Vec::new(), Vec::new());
    for (target, before) in targets.iter().zip(&before) {
        let no_table = || GapError::NoTable { table: target.table.to_string() };
        let after = Missing::find(project, target, ask).await?.ok_or_else(no_table)?;
        landed.extend(before.iter().flat_map(|(partition, missing)| healed(target, &after, partition, missing)));
        gaps.extend(after.gaps(target));
    }
    Ok(Healed::of(spec, &summary, landed, gaps))
}

fn healed(target: &Target<'_>, after: &Missing, partition: &PartitionKey, missing: &RangeSet) -> Vec<HealedRange> {
    let coverage = after.read.ledger.coverage(partition);
    let landed = missing.iter().flat_map(|missing| coverage.held_in(missing));
    landed
        .map(|range| HealedRange {
            table: target.table.to_string(),
            source: partition.source.to_string(),
            partition: partition.partition.to_string(),
            from: range.from,
            to: range.to,
            count: range.len(),
        })
        .collect()
}

impl Healed {
    fn of(spec: &PipelineSpec, summary: &PipelineSummary, healed: Vec<HealedRange>, gaps: Vec<Gap>) -> Self {
        Self {
            pipeline: spec.name.clone(),
            table: spec.sink.table.to_string(),
            healed,
            gaps,
            committed: summary.committed,
            rejected: summary.rejected,
            blobs: summary.blobs,
            torn_blobs: summary.torn_blobs,
        }
    }
}
