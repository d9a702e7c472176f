//! The transforms of a project: once, in the order of what is made of what, or for as long as the
//! project runs.
//!
//! One that fails holds back those that hang on it, and no other.

mod schedule;
mod times;

use std::collections::BTreeSet;
use std::time::Duration;

use serde::Serialize;
use tokio::task::JoinSet;

use super::PipelineError;
use super::setup::Places;
use crate::catalog::tables::Tables;
use crate::compute;
use crate::config::spec::{ProjectSpec, TableName, TransformSpec};
use crate::error::{Classify as _, Retry};
use crate::fault_points::FaultPoints;
use crate::shutdown::Shutdown;
use crate::storage::Location;
use crate::telemetry::metrics;
use crate::transform::Graph;
use crate::transform::graph::Node;
use crate::transform::run::TransformError;
use crate::transform::run::engine::{Engine, Outcome, PART_BYTES, Refresh, Report};
use crate::transform::run::pool::runtime;
use crate::transform::run::run_log;

/// What all transforms of a process may gather in memory unless told otherwise.
pub const MEMORY_BYTES: usize = 512 << 20;

/// How transforms run.
#[derive(Debug, Clone)]
pub struct TransformOptions {
    /// What their queries may hold in memory, together.
    pub memory_bytes: usize,
    /// How much of an input is read into one commit, in bytes of its files.
    pub part_bytes: u64,
    pub fault_points: FaultPoints,
}

impl Default for TransformOptions {
    fn default() -> Self {
        Self { memory_bytes: MEMORY_BYTES, part_bytes: PART_BYTES, fault_points: FaultPoints::default() }
    }
}

/// What became of a transform. The shape that scripts read: fields may be added, never renamed or removed.
#[derive(Debug, Serialize)]
pub struct TransformSummary {
    pub table: String,
    /// `committed`, `unchanged`, `waits` (for an input that isn't there yet), `failed`, `held-back`, `stopped`.
    pub outcome: &'static str,
    pub run_id: Option<String>,
    pub commits: usize,
    /// The last version that it committed.
    pub version: Option<u64>,
    pub rows_in: Option<u64>,
    pub rows_out: u64,
    pub expectations: Vec<ViolationSummary>,
    pub seconds: f64,
    /// In words, with its causes.
    pub error: Option<String>,
    #[serde(skip)]
    pub failure: Option<TransformError>,
}

/// How many rows violated an expectation.
#[derive(Debug, Serialize)]
pub struct ViolationSummary {
    pub name: String,
    pub on_violation: &'static str,
    pub rows: u64,
}

/// The transforms of a project, ready to run.
#[derive(Clone)]
pub struct Transforms {
    engine: Engine,
    state: Location,
    graph: Graph,
}

impl Transforms {
    /// # Errors
    /// [`PipelineError::Sql`] where a transform can't be read; errors of storage.
    pub fn open(project: &ProjectSpec, options: &TransformOptions, shutdown: Shutdown) -> Result<Self, PipelineError> {
        let (graph, problems) = Graph::build(&project.transforms);
        if !problems.is_empty() {
            return Err(PipelineError::Sql(problems));
        }
        let Places { lake, state } = Places::of(project)?;
        let runtime = runtime(options.memory_bytes).map_err(TransformError::from);
        let runtime = runtime
            .map_err(|source| PipelineError::Transform { table: project.name.clone(), source: Box::new(source) })?;
        let engine = Engine {
            lake: Tables::new(&lake),
            runtime,
            part_bytes: options.part_bytes,
            fault_points: options.fault_points.clone(),
            shutdown,
        };
        Ok(Self { engine, state, graph })
    }

    pub fn is_empty(&self) -> bool {
        self.graph.nodes().is_empty()
    }

    /// The transforms that are named, or all, each after those that it hangs on.
    ///
    /// # Errors
    /// [`PipelineError::UnknownTransform`]
    pub fn select(&self, names: &[TableName]) -> Result<BTreeSet<usize>, PipelineError> {
        let nodes = self.graph.nodes();
        if names.is_empty() {
            return Ok((0..nodes.len()).collect());
        }
        let place = |name: &TableName| {
            nodes.iter().position(|node| node.spec.table == *name).ok_or_else(|| PipelineError::UnknownTransform {
                name: name.to_string(),
                known: nodes.iter().map(|node| node.spec.table.to_string()).collect(),
            })
        };
        names.iter().map(place).collect()
    }

    /// Runs transforms once, each up to what its inputs hold when its turn comes.
    pub async fn run_once(&self, selected: &BTreeSet<usize>, refresh: Refresh) -> Vec<TransformSummary> {
        let mut summaries = Vec::new();
        let mut held_back = BTreeSet::new();
        for number in selected {
            let node = &self.graph.nodes()[*number];
            if held_back.contains(number) {
                summaries.push(TransformSummary::without_run(node, "held-back"));
                continue;
            }
            if self.engine.shutdown.is_stopping() {
                summaries.push(TransformSummary::without_run(node, "stopped"));
                continue;
            }
            let summary = self.run_one(*number, refresh).await;
            if summary.failure.is_some() {
                held_back.extend(self.graph.after(*number));
            }
            summaries.push(summary);
        }
        summaries
    }

    /// One run, apart from the reactor: a query computes and reads at once.
    async fn run_one(&self, number: usize, refresh: Refresh) -> TransformSummary {
        let node = &self.graph.nodes()[number];
        let mut running = JoinSet::new();
        let (engine, node_to_run) = (self.engine.clone(), node.clone());
        running.spawn_on(
            async move {
                let report = engine.run(&node_to_run, refresh).await;
                account(&engine, &node_to_run.spec, &report).await;
                report
            },
            &compute::queries(),
        );
        match running.join_next().await {
            Some(Ok(report)) => report.into(),
            _ => {
                let error = TransformError::Internal("the run ended in a panic".to_owned());
                let summary = TransformSummary::without_run(node, Outcome::Failed.as_str());
                TransformSummary { error: Some(error.to_string()), failure: Some(error), ..summary }
            }
        }
    }
}

/// Counts a run and writes it to the run log.
async fn account(engine: &Engine, spec: &TransformSpec, report: &Report) {
    let table = spec.table.to_string();
    let outcome = report.outcome();
    let took = (report.ended_at - report.started_at).to_std().unwrap_or(Duration::ZERO);
    metrics::transform_run(&table, outcome.as_str(), report.rows_out, took);
    for violated in &report.violations {
        metrics::violations(&table, &violated.name, violated.on_violation.as_str(), violated.rows);
    }
    if let Some(error) = &report.error {
        let error = run_log::chain(error);
        match outcome {
            Outcome::Waits => tracing::info!(table, error, "a transform waits"),
            _ => tracing::error!(table, error, "a transform failed"),
        }
    }
    if matches!(outcome, Outcome::Unchanged | Outcome::Waits) {
        return;
    }
    if let Err(error) = run_log::record(&engine.lake, spec, report).await {
        tracing::warn!(table, error = run_log::chain(&error), "the run isn't in the run log");
    }
}

impl TransformSummary {
    fn without_run(node: &Node, outcome: &'static str) -> Self {
        Self {
            table: node.spec.table.to_string(),
            outcome,
            run_id: None,
            commits: 0,
            version: None,
            rows_in: None,
            rows_out: 0,
            expectations: Vec::new(),
            seconds: 0.0,
            error: None,
            failure: None,
        }
    }
}

impl From<Report> for TransformSummary {
    fn from(report: Report) -> Self {
        let outcome = report.outcome();
        let seconds = (report.ended_at - report.started_at).to_std().unwrap_or(Duration::ZERO).as_secs_f64();
        let expectations = report.violations.iter().map(|violated| ViolationSummary {
            name: violated.name.clone(),
            on_violation: violated.on_violation.as_str(),
            rows: violated.rows,
        });
        Self {
            table: report.table.to_string(),
            outcome: outcome.as_str(),
            commits: report.committed.len(),
            version: report.committed.last().copied(),
            rows_in: report.rows_in,
            rows_out: report.rows_out,
            expectations: expectations.collect(),
            seconds,
            error: report.error.as_ref().map(run_log::chain),
            failure: report.error.filter(|_| outcome == Outcome::Failed),
            run_id: Some(report.run_id),
        }
    }
}

/// The first failure among them, as what ends a run.
pub fn first_failure(summaries: &mut [TransformSummary]) -> Option<PipelineError> {
    summaries.iter_mut().find_map(|summary| {
        let source = Box::new(summary.failure.take()?);
        Some(PipelineError::Transform { table: summary.table.clone(), source })
    })
}

impl TransformSummary {
    /// Whether trying again may help.
    fn is_transient(&self) -> bool {
        self.failure.as_ref().is_some_and(|error| error.retry() == Retry::Backoff)
    }
}
