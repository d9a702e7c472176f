//! What a pipeline is made of, and what it finds before it reads.

use std::sync::Arc;

use super::PipelineOptions;
use crate::checkpoint::PartitionKey;
use crate::config::spec::{PipelineSpec, ProjectSpec, Start};
use crate::decode::Decoder;
use crate::pipeline::PipelineError;
use crate::pipeline::checkpoints::Checkpoints;
use crate::pipeline::routes::Router;
use crate::pipeline::setup::{self, PartitionStart, Places};
use crate::sink::delta::writer::TableWriter;
use crate::source::SourceError;
use crate::source::capture::{CaptureSource, Listing};
use crate::source::event_hubs::EventHubsSource;

/// What a pipeline is made of, before hub and table are asked.
pub(super) struct Parts {
    pub(super) places: Places,
    pub(super) captures: Option<Arc<CaptureSource>>,
    pub(super) decoder: Arc<Decoder>,
    pub(super) router: Arc<Router>,
    pub(super) checkpoints: Arc<Checkpoints>,
}

impl Parts {
    pub(super) fn of(
        project: &ProjectSpec,
        spec: &PipelineSpec,
        options: &PipelineOptions,
    ) -> Result<Self, PipelineError> {
        let places = Places::of(project)?;
        let decoder = Arc::new(setup::decoder(project, spec, &places, &options.registry)?);
        let router = Arc::new(Router::open(spec)?);
        let checkpoints = Arc::new(Checkpoints::open(project, spec)?);
        Ok(Self { captures: setup::captures(project, spec)?, places, decoder, router, checkpoints })
    }
}

/// Hub and tables at hand.
pub(super) struct Opened {
    pub(super) source: Option<Arc<EventHubsSource>>,
    pub(super) writers: Vec<TableWriter>,
    pub(super) starts: Vec<PartitionStart>,
    pub(super) router: Arc<Router>,
}

pub(super) async fn open(
    project: &ProjectSpec,
    spec: &PipelineSpec,
    parts: &Parts,
    options: &PipelineOptions,
) -> Result<Opened, PipelineError> {
    if !spec.is_live {
        let writers = setup::open_tables(spec, &parts.places, &options.fault_points).await?;
        let router = setup::router(&parts.router, spec, &parts.places, &writers).await?;
        return Ok(Opened { source: None, writers, starts: Vec::new(), router });
    }
    let source = setup::connect(project, spec).await?;
    let partitions = source.hub().await?.partitions;
    let mut writers = setup::open_tables(spec, &parts.places, &options.fault_points).await?;
    let is_new = |partition: &String| {
        let partition = PartitionKey::new(source.id().clone(), partition.as_str());
        let start = |writer: &TableWriter| writer.ledger().partition(&partition).and_then(|held| held.start());
        writers.iter().all(|writer| start(writer).is_none())
    };
    let captured = match &parts.captures {
        Some(captures) if spec.source.start == Start::Capture && partitions.iter().any(is_new) => {
            captures.list(None).await.map_err(SourceError::from)?
        }
        _ => Listing::default(),
    };
    let checkpoints = &parts.checkpoints;
    let catch_up = options.until_caught_up;
    let starts = setup::starts(&source, checkpoints, &mut writers, spec, &partitions, &captured, catch_up).await?;
    let router = setup::router(&parts.router, spec, &parts.places, &writers).await?;
    Ok(Opened { source: Some(source), writers, starts, router })
}
