//! All pipelines of a project at once: one that fails doesn't stop the others.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::PipelineError;
use super::announcements::{self, Announcement};
use super::dead_letters;
use super::maintenance;
use super::run::{Pipeline, PipelineOptions, PipelineSummary, told_if_lost};
use super::schedule::Scheduled;
use super::setup::SharedRegistry;
use super::spool::Spool;
use super::status::{PipelineStatus, State};
use super::transforms::{TransformOptions, TransformSummary, Transforms, first_failure};
use crate::config::spec::{PipelineSpec, ProjectSpec};
use crate::fault_points::FaultPoints;
use crate::shutdown::Shutdown;
use crate::source::capture::EnqueuedBetween;
use crate::transform::run::engine::Refresh;

/// How a project runs.
#[derive(Debug, Clone, Default)]
pub struct RunOptions {
    /// End at the last numbers read at the start.
    pub until_caught_up: bool,
    /// Names of pipelines; empty means all.
    pub pipelines: Vec<String>,
    pub fault_points: FaultPoints,
    /// What the webhook took in, where one is served.
    pub spool: Option<Arc<Spool>>,
    /// What all pipelines of the run ask for schemas.
    pub registry: SharedRegistry,
}

/// What a run did, a pipeline at a time.
#[derive(Debug, Default, serde::Serialize)]
pub struct RunSummary {
    pub pipelines: Vec<PipelineSummary>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub transforms: Vec<TransformSummary>,
}

/// The pipelines that `options` name, with a status of each.
///
/// # Errors
/// [`PipelineError::Unknown`]
pub fn select<'a>(
    project: &'a ProjectSpec,
    options: &RunOptions,
) -> Result<Vec<(&'a PipelineSpec, PipelineStatus)>, PipelineError> {
    let known = || project.pipelines.iter().map(|pipeline| pipeline.name.clone()).collect::<Vec<_>>();
    if let Some(name) = options.pipelines.iter().find(|name| !known().contains(name)) {
        return Err(PipelineError::Unknown { name: name.clone(), known: known() });
    }
    let is_wanted =
        |pipeline: &&PipelineSpec| options.pipelines.is_empty() || options.pipelines.contains(&pipeline.name);
    let status = |pipeline: &PipelineSpec| {
        PipelineStatus::new(&pipeline.name, &pipeline.owner, &pipeline.sink.table.to_string())
    };
    Ok(project.pipelines.iter().filter(is_wanted).map(|pipeline| (pipeline, status(pipeline))).collect())
}

/// Runs pipelines until they are stopped, or have caught up.
///
/// # Errors
/// The first error of a pipeline, after all have ended.
pub async fn run_project(
    project: &ProjectSpec,
    options: RunOptions,
    shutdown: Shutdown,
) -> Result<RunSummary, PipelineError> {
    let selected = select(project, &options)?;
    run_selected(project, selected, options, shutdown).await
}

/// As [`run_project`], with statuses that somebody else watches.
///
/// # Errors
/// As [`run_project`]
pub async fn run_selected(
    project: &ProjectSpec,
    selected: Vec<(&PipelineSpec, PipelineStatus)>,
    options: RunOptions,
    shutdown: Shutdown,
) -> Result<RunSummary, PipelineError> {
    // A run that is to end by itself lists what there is, and leaves announcements to who comes next.
    let listens = |pipeline: &&PipelineSpec| !options.until_caught_up && pipeline.capture.is_some();
    let specs = selected.iter().map(|(spec, _)| *spec).filter(listens);
    let (listening, mut announcements) = announcements::listen(project, specs, options.spool.clone(), &shutdown)?;
    let transforms = transforms_of(project, &options, &shutdown)?;
    let transforming = async {
        match &transforms {
            Some(transforms) if !options.until_caught_up => {
                let ended = transforms.run().await;
                if let Err(error) = &ended {
                    tracing::error!(
                        error = super::partition::report(error),
                        "the transforms stop, and so does the run"
                    );
                    shutdown.stop();
                }
                ended
            }
            _ => Ok(()),
        }
    };
    let mut running = JoinSet::new();
    for (spec, status) in selected {
        let announcements = announcements.remove(&spec.name);
        let (project, spec) = (project.clone(), spec.clone());
        let (options, shutdown) = (options.clone(), shutdown.clone());
        running.spawn(async move {
            let name = spec.name.clone();
            // What is done to dead letters in time goes with what belongs to it.
            let mut beside = JoinSet::new();
            if !options.until_caught_up && spec.sink.dead_letters_retention.is_some() {
                let (project, spec, shutdown) = (project.clone(), spec.clone(), shutdown.clone());
                let fault_points = options.fault_points.clone();
                beside.spawn(async move { dead_letters::keep(&project, &spec, fault_points, shutdown).await });
            }
            let mut run = Box::pin(run_one(&project, &spec, options, announcements, status.clone(), shutdown));
            let ended = loop {
                tokio::select! {
                    ended = &mut run => break ended,
                    Some(kept) = beside.join_next() => drop(told_if_lost(kept, "retention of dead letters")),
                }
            };
            drop(run);
            beside.shutdown().await;
            if let Err(error) = &ended {
                status.change(|snapshot| {
                    snapshot.state = State::Failed;
                    snapshot.error = Some(super::partition::report(error));
                });
            }
            ended.map_err(|source| PipelineError::Stopped { pipeline: name, source: Box::new(source) })
        });
    }
    let maintaining = maintain_beside(project, &options, &shutdown);
    let reads = !running.is_empty();
    let pipelines = async {
        let ended = all_of(running).await;
        // Where all have failed nobody has said that it is to stop.
        if reads && !options.until_caught_up {
            shutdown.stop();
        }
        ended
    };
    let (ended, transformed, ()) = tokio::join!(pipelines, transforming, end(maintaining, &shutdown));
    listening.end().await;
    let mut summary = ended?;
    transformed?;
    if let Some(transforms) = transforms.filter(|_| options.until_caught_up) {
        transform_once(&transforms, &mut summary).await?;
    }
    Ok(summary)
}

/// Looks after the tables meanwhile. A run that is to end by itself leaves them to who comes next.
fn maintain_beside(project: &ProjectSpec, options: &RunOptions, shutdown: &Shutdown) -> JoinSet<()> {
    let mut beside = JoinSet::new();
    if !options.until_caught_up {
        let mut project = project.clone();
        if !options.pipelines.is_empty() {
            project.pipelines.retain(|pipeline| options.pipelines.contains(&pipeline.name));
            project.transforms.clear();
        }
        let shutdown = shutdown.clone();
        beside.spawn(async move { maintenance::background::run(&project, &shutdown).await });
    }
    beside
}

/// Lets it come to its end, which it does once it is told to stop.
async fn end(mut beside: JoinSet<()>, shutdown: &Shutdown) {
    tokio::select! {
        ended = beside.join_next() => drop(ended.map(|ended| told_if_lost(ended, "maintenance"))),
        () = shutdown.aborting() => beside.shutdown().await,
    }
}

/// The project's transforms, where not only some pipelines are to run.
fn transforms_of(
    project: &ProjectSpec,
    options: &RunOptions,
    shutdown: &Shutdown,
) -> Result<Option<Transforms>, PipelineError> {
    if !options.pipelines.is_empty() || project.transforms.is_empty() {
        return Ok(None);
    }
    let transform_options =
        TransformOptions { fault_points: options.fault_points.clone(), ..TransformOptions::default() };
    Transforms::open(project, &transform_options, shutdown.clone()).map(Some)
}

/// Runs all transforms over what has come.
async fn transform_once(transforms: &Transforms, summary: &mut RunSummary) -> Result<(), PipelineError> {
    summary.transforms = transforms.run_once(&transforms.select(&[])?, Refresh::No).await;
    first_failure(&mut summary.transforms).map_or(Ok(()), Err)
}

/// Takes in what the captures of one pipeline have of the events enqueued in `between`, to its end.
///
/// # Errors
/// What the pipeline can't go on with.
pub async fn run_backfill(
    project: &ProjectSpec,
    selected: (&PipelineSpec, PipelineStatus),
    between: EnqueuedBetween,
    fault_points: FaultPoints,
    shutdown: Shutdown,
) -> Result<RunSummary, PipelineError> {
    let (spec, status) = selected;
    let options = PipelineOptions { until_caught_up: true, fault_points, registry: SharedRegistry::default() };
    let ended = async { Pipeline::backfill(project, spec, between, options, status, shutdown).await?.run().await };
    match ended.await {
        Ok(summary) => Ok(RunSummary { pipelines: vec![summary], transforms: Vec::new() }),
        Err(source) => Err(PipelineError::Stopped { pipeline: spec.name.clone(), source: Box::new(source) }),
    }
}

/// Runs the scheduled backfill of each pipeline that has a schedule, once and now.
///
/// # Errors
/// [`PipelineError::NotScheduled`]; the first error of a run, after all have ended.
pub async fn run_scheduled_once(
    project: &ProjectSpec,
    selected: Vec<(&PipelineSpec, PipelineStatus)>,
    options: RunOptions,
    shutdown: Shutdown,
) -> Result<RunSummary, PipelineError> {
    let unscheduled = selected.iter().filter(|(spec, _)| spec.schedule.is_none());
    let unscheduled: Vec<String> = unscheduled.map(|(spec, _)| spec.name.clone()).collect();
    let is_asked_for = !options.pipelines.is_empty() && !unscheduled.is_empty();
    let transforms = transforms_of(project, &options, &shutdown)?;
    if is_asked_for || (unscheduled.len() == selected.len() && transforms.is_none()) {
        let pipelines = if is_asked_for { unscheduled } else { Vec::new() };
        return Err(PipelineError::NotScheduled { pipelines });
    }
    let mut running = JoinSet::new();
    for (spec, status) in selected.into_iter().filter(|(spec, _)| spec.schedule.is_some()) {
        let (project, spec, shutdown) = (project.clone(), spec.clone(), shutdown.clone());
        let fault_points = options.fault_points.clone();
        running.spawn(async move {
            let run =
                async { Scheduled::open(&project, &spec, status, fault_points, shutdown).await?.run_once().await };
            run.await.map_err(|source| PipelineError::Stopped { pipeline: spec.name, source: Box::new(source) })
        });
    }
    let mut summary = all_of(running).await?;
    if let Some(transforms) = transforms {
        transform_once(&transforms, &mut summary).await?;
    }
    Ok(summary)
}

/// What they did, once all have ended.
async fn all_of(mut running: JoinSet<Result<PipelineSummary, PipelineError>>) -> Result<RunSummary, PipelineError> {
    let mut summary = RunSummary::default();
    let mut failure = None;
    while let Some(ended) = running.join_next().await {
        match ended {
            Ok(Ok(pipeline)) => summary.pipelines.push(pipeline),
            Ok(Err(error)) => {
                failure.get_or_insert(error);
            }
            Err(source) => {
                failure.get_or_insert(PipelineError::Task { task: "pipeline", source });
            }
        }
    }
    summary.pipelines.sort_by(|a, b| a.name.cmp(&b.name));
    failure.map_or(Ok(summary), Err)
}

/// A pipeline, its schedule, or both at once: the schedule goes with what it belongs to.
async fn run_one(
    project: &ProjectSpec,
    spec: &PipelineSpec,
    options: RunOptions,
    announcements: Option<mpsc::Receiver<Announcement>>,
    status: PipelineStatus,
    shutdown: Shutdown,
) -> Result<PipelineSummary, PipelineError> {
    let RunOptions { until_caught_up, fault_points, registry, .. } = options;
    // A run that is to end by itself has no times to wait for.
    let has_times = spec.schedule.is_some() && !until_caught_up;
    let scheduled = async {
        let (status, fault_points, shutdown) = (status.clone(), fault_points.clone(), shutdown.clone());
        Scheduled::open(project, spec, status, fault_points, shutdown).await?.run().await
    };
    if has_times && !spec.is_live {
        return scheduled.await;
    }
    let reading = async {
        let options = PipelineOptions { until_caught_up, fault_points: fault_points.clone(), registry };
        let (status, shutdown) = (status.clone(), shutdown.clone());
        match Pipeline::start(project, spec, options, announcements, status, shutdown).await? {
            Some(pipeline) => pipeline.run().await,
            None => Ok(PipelineSummary { name: spec.name.clone(), ..PipelineSummary::default() }),
        }
    };
    if !has_times {
        return reading.await;
    }
    let (mut summary, backfilled) = tokio::try_join!(reading, scheduled)?;
    let seconds = summary.seconds;
    summary.add(&backfilled);
    Ok(PipelineSummary { seconds, ..summary })
}
