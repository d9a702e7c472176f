//! The official SDKs' checkpoint blobs of a pipeline: taken over from once, published to after commits.
//!
//! Nothing rests on them. They are read where the ledger knows nothing of a partition yet, and
//! written for portals and lag tools; a publishing that fails is told and passed over.

use std::time::Duration;

use futures::{StreamExt as _, stream};
use object_store::path::Path;

use super::PipelineError;
use super::partition::report;
use crate::config::source_id::host_of;
use crate::config::spec::{PipelineSpec, ProjectSpec};
use crate::source::event_hubs::CheckpointBlobs;
use crate::storage::Location;

/// Blobs written at the same time: a hub of 100 partitions would hold each commit for seconds, one by one.
const PUBLISHED_AT_ONCE: usize = 16;

/// What publishing may take. The store's own retries go on for minutes, and they would hold back the
/// next commit, or a drain.
const PUBLISHED_WITHIN: Duration = Duration::from_secs(10);

pub struct Checkpoints(Option<CheckpointBlobs>);

/// The last event of a partition that a commit accounted for.
#[derive(Debug, Clone)]
pub struct Committed {
    pub partition: String,
    pub sequence_number: i64,
    pub offset: String,
}

impl Checkpoints {
    /// The store that the pipeline declares as `checkpoint_store`; without one nothing is read or written.
    ///
    /// # Errors
    /// When the declared URL can't be used.
    pub fn open(project: &ProjectSpec, pipeline: &PipelineSpec) -> Result<Self, PipelineError> {
        let (Some(url), Some(hubs)) = (&pipeline.source.checkpoint_store, &project.event_hubs) else {
            return Ok(Self(None));
        };
        let store = Location::resolve(url, project.storage_azure.as_ref())?.object_store()?;
        let namespace = host_of(&hubs.access).unwrap_or_default();
        let source = &pipeline.source;
        let blobs = CheckpointBlobs::new(store, &Path::default(), &namespace, &source.hub, &source.consumer_group);
        Ok(Self(Some(blobs)))
    }

    /// Where a processor of an official SDK would go on, if one has been here.
    ///
    /// # Errors
    /// When a blob is there and can't be read: starting elsewhere would lose or repeat events.
    pub async fn position(&self, partition: &str) -> Result<Option<i64>, PipelineError> {
        let Some(blobs) = &self.0 else { return Ok(None) };
        Ok(blobs.read(partition).await?.map(|processed| processed + 1))
    }

    /// Publishes what was committed. The next commit waits for it, so it is bounded.
    pub async fn publish(&self, committed: &[Committed]) {
        let Some(blobs) = &self.0 else { return };
        let publishing =
            stream::iter(committed).for_each_concurrent(PUBLISHED_AT_ONCE, |last| publish_one(blobs, last));
        if tokio::time::timeout(PUBLISHED_WITHIN, publishing).await.is_err() {
            tracing::warn!(within = ?PUBLISHED_WITHIN, "checkpoints could not all be published; nothing rests on them");
        }
    }
}

async fn publish_one(blobs: &CheckpointBlobs, last: &Committed) {
    let Committed { partition, sequence_number, offset } = last;
    if let Err(error) = blobs.publish(partition, offset, *sequence_number).await {
        tracing::warn!(partition, error = report(&error), "a checkpoint could not be published; nothing rests on it");
    }
}
