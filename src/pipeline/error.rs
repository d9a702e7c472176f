//! What stops a pipeline.

use std::path::PathBuf;

use super::reject_share::TooMany;
use super::spool::SpoolError;
use crate::catalog::CatalogError;
use crate::config::Problem;
use crate::decode::{DecodeError, RegistryError};
use crate::error::{Classify, Kind, Retry};
use crate::sink::delta::SinkError;
use crate::source::SourceError;
use crate::source::capture::QueueError;
use crate::source::event_hubs::CheckpointBlobError;
use crate::storage::StorageError;
use crate::storage::credential::CredentialError;
use crate::transform::run::TransformError;

#[derive(Debug, thiserror::Error)]
pub enum PipelineError {
    #[error("pipeline `{pipeline}` stopped")]
    Stopped { pipeline: String, source: Box<PipelineError> },
    #[error("there is no pipeline `{name}`")]
    Unknown { name: String, known: Vec<String> },
    #[error("pipeline `{pipeline}` needs `[event_hubs]` in sluice.toml")]
    NoEventHubs { pipeline: String },
    #[error("pipeline `{pipeline}` declares no captures")]
    NoCapture { pipeline: String },
    #[error("which generation came before `{generation}` of pipeline `{pipeline}` can't be told")]
    GenerationBefore { pipeline: String, generation: String },
    #[error("another process runs pipeline `{pipeline}` with consumer group `{group}`")]
    Owned { pipeline: String, group: String, path: PathBuf },
    #[error("nothing is scheduled{}", of(pipelines))]
    NotScheduled { pipelines: Vec<String> },
    #[error("another process runs the scheduled backfill of pipeline `{pipeline}`")]
    ScheduledElsewhere { pipeline: String, path: PathBuf },
    #[error("who maintains table `{table}`, and when, can't be read or written in the state")]
    MaintenanceState { table: String, source: object_store::Error },
    #[error("file `{}` can't be used", path.display())]
    File { path: PathBuf, source: std::io::Error },
    #[error("partition `{partition}` handed on {events} events for {numbers} numbers")]
    Sparse { partition: String, events: usize, numbers: u64 },
    #[error("a route of pipeline `{pipeline}` has the condition `{condition}`, which can't be used: {reason}")]
    Route { pipeline: String, condition: String, reason: String },
    #[error("the events of partition `{partition}` can't be routed")]
    Routing { partition: String, source: arrow::error::ArrowError },
    #[error("there is no transform of `{name}`")]
    UnknownTransform { name: String, known: Vec<String> },
    #[error("the SQL of transforms can't be read: {}", .0.iter().map(|problem| problem.message.as_str()).collect::<Vec<_>>().join("; "))]
    Sql(Vec<Problem>),
    #[error("transform `{table}` failed")]
    Transform { table: String, source: Box<TransformError> },
    #[error(
        "partition `{partition}` stopped: {} of {} events within {} were rejected, more than a share of {}, and most of them \
         as `{}`",
        of.rejected, of.events, humantime::format_duration(of.within), of.share, of.class.as_str()
    )]
    TooManyRejects { partition: String, of: TooMany },
    #[error("the shutdown was cut off; what was not committed is read again by the next start")]
    CutOff,
    #[error("task `{task}` of the pipeline failed")]
    Task { task: &'static str, source: tokio::task::JoinError },
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error(transparent)]
    Queue(#[from] QueueError),
    #[error(transparent)]
    Spool(#[from] SpoolError),
    #[error(transparent)]
    Checkpoint(#[from] CheckpointBlobError),
    #[error(transparent)]
    Decode(#[from] DecodeError),
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error(transparent)]
    Sink(#[from] SinkError),
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error(transparent)]
    Credential(#[from] CredentialError),
}

/// Where some were named.
fn of(pipelines: &[String]) -> String {
    if pipelines.is_empty() { String::new() } else { format!(" for pipeline `{}`", pipelines.join("`, `")) }
}

impl PipelineError {
    fn classified(&self) -> Option<&dyn Classify> {
        match self {
            Self::Stopped { source, .. } => Some(source.as_ref()),
            Self::Transform { source, .. } => Some(source.as_ref()),
            Self::Source(error) => Some(error),
            Self::Queue(error) => Some(error),
            Self::Spool(error) => Some(error),
            Self::Checkpoint(error) => Some(error),
            Self::Decode(error) => Some(error),
            Self::Registry(error) => Some(error),
            Self::Sink(error) => Some(error),
            Self::Catalog(error) => Some(error),
            Self::Storage(error) => Some(error),
            Self::Credential(error) => Some(error),
            _ => None,
        }
    }
}

impl Classify for PipelineError {
    fn kind(&self) -> Kind {
        match self {
            Self::Unknown { .. } | Self::UnknownTransform { .. } | Self::Owned { .. } | Self::NotScheduled { .. } => {
                Kind::User
            }
            Self::Sql(_)
            | Self::NoEventHubs { .. }
            | Self::NoCapture { .. }
            | Self::GenerationBefore { .. }
            | Self::Route { .. } => Kind::Config,
            Self::File { .. } | Self::MaintenanceState { .. } | Self::ScheduledElsewhere { .. } | Self::CutOff => {
                Kind::External
            }
            Self::TooManyRejects { .. } => Kind::Data,
            Self::Sparse { .. } | Self::Routing { .. } | Self::Task { .. } => Kind::Internal,
            other => other.classified().map_or(Kind::Internal, Classify::kind),
        }
    }

    fn retry(&self) -> Retry {
        self.classified().map_or(Retry::Never, Classify::retry)
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Sql(_) => Some("`sluice check` shows where".to_owned()),
            Self::Unknown { known, .. } | Self::UnknownTransform { known, .. } => {
                Some(format!("the project has {}", known.join(", ")))
            }
            Self::NoCapture { .. } => {
                Some("add `[source.capture]` with the `url` that Event Hubs Capture writes to".to_owned())
            }
            Self::TooManyRejects { .. } => Some(
                "`sluice dead-letters list` shows those that were taken in; mend the schema or the declaration and start \
                 again, or raise `max_reject_share`"
                    .to_owned(),
            ),
            Self::GenerationBefore { .. } => Some(
                "name generations by numbers, from `2` on; or give `--from` the time of `since`, to take in this \
                 generation alone"
                    .to_owned(),
            ),
            Self::NotScheduled { .. } => Some("add `[schedule]` with its `cron` to the pipeline's file".to_owned()),
            Self::ScheduledElsewhere { path, .. } => {
                Some(format!("it holds the lock on `{}` until it ends", path.display()))
            }
            Self::Owned { path, .. } => Some(format!("stop it first; it holds the lock on `{}`", path.display())),
            other => other.classified().and_then(Classify::hint),
        }
    }
}
