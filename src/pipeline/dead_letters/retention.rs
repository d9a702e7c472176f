//! Retention within `sluice run`: beside the event loop, with handles of its own.

use std::time::Duration;

use super::expire_old;
use crate::config::spec::{PipelineSpec, ProjectSpec};
use crate::fault_points::FaultPoints;
use crate::pipeline::partition::report;
use crate::shutdown::Shutdown;

/// How often it looks for letters that are too old: hourly, or ten times within a retention that is shorter than that
/// would allow. A look reads the files that may hold one, as the log tells it, and the keys of what has expired.
const LOOK_EVERY: Duration = Duration::from_secs(3600);
const LOOKS_WITHIN_RETENTION: u32 = 10;
const SHORTEST: Duration = Duration::from_secs(1);

/// Keeps the dead letters of a pipeline within its retention, until the shutdown begins. What fails is logged, and
/// tried again at the next look.
///
/// # Cancel safety
/// Dropped at any point it leaves the table complete; the next look makes up for the rest.
pub(crate) async fn keep(
    project: &ProjectSpec,
    pipeline: &PipelineSpec,
    fault_points: FaultPoints,
    shutdown: Shutdown,
) {
    let Some(retention) = pipeline.sink.dead_letters_retention else { return };
    let every = (retention / LOOKS_WITHIN_RETENTION).clamp(SHORTEST, LOOK_EVERY);
    loop {
        for sink in pipeline.sinks() {
            let looked = tokio::select! {
                looked = expire_old(project, pipeline, &sink.table, fault_points.clone()) => looked,
                () = shutdown.stopping() => return,
            };
            match looked {
                Ok(done) if done.expired + done.removed > 0 => {
                    tracing::info!(
                        pipeline = pipeline.name,
                        table = done.table,
                        expired = done.expired,
                        removed = done.removed,
                        "dead letters are older than their retention: their bytes go"
                    );
                }
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(pipeline = pipeline.name, error = report(&error), "old dead letters stay for now");
                }
            }
        }
        tokio::select! {
            () = tokio::time::sleep(every) => {}
            () = shutdown.stopping() => return,
        }
    }
}
