//! From a pipeline's declaration to its parts: source, decoder, table, and where each partition starts.

use std::sync::Arc;

use async_trait::async_trait;

use super::checkpoints::Checkpoints;
use super::schemas::Registry;
use super::{PipelineError, columns};
use crate::catalog::{dead_letters_of, table_location};
use crate::checkpoint::{PartitionKey, Range, SourceId};
use crate::config::source_id;
use crate::config::spec::{CredentialSpec, EventHubsAccess, PipelineSpec, ProjectSpec, RegistrySpec, Secret, Start};
use crate::decode::{
    AzureRegistry, ConfluentRegistry, Decoder, FolderRegistry, SchemaRegistry, Subjects, TokenError, TokenSource,
};
use crate::fault_points::FaultPoints;
use crate::sink::delta::dead_letters::Writer;
use crate::sink::delta::schema::{Defaults, Policy};
use crate::sink::delta::writer::{TableSpec, TableWriter, first_schema};
use crate::source::capture::{BlobIndex, CaptureSource, Listing};
use crate::source::event_hubs::EventHubsSource;
use crate::source::{LastSeen, ReadPartition};
use crate::storage::Location;
use crate::storage::credential::SignIn;

/// The scope of tokens for Event Hubs and its registry.
const SCOPE: &str = "https://eventhubs.azure.net/.default";

/// A partition about to be read, and what it can't read any more.
#[derive(Debug)]
pub struct PartitionStart {
    pub read: ReadPartition,
    /// Numbers before the position that nothing covers and the hub no longer has.
    pub lost: Vec<Range>,
}

/// The storage of a project.
#[derive(Debug, Clone)]
pub struct Places {
    pub lake: Location,
    pub state: Location,
}

impl Places {
    /// # Errors
    /// When a URL can't be used.
    pub fn of(project: &ProjectSpec) -> Result<Self, PipelineError> {
        let azure = project.storage_azure.as_ref();
        Ok(Self {
            lake: Location::resolve(&project.lake.url, azure)?,
            state: Location::resolve(&project.state.url, azure)?,
        })
    }
}

/// The id under which every ledger knows the hub of `pipeline`.
///
/// # Errors
/// When the project declares no `[event_hubs]`.
pub fn source_of(project: &ProjectSpec, pipeline: &PipelineSpec) -> Result<SourceId, PipelineError> {
    let hubs =
        project.event_hubs.as_ref().ok_or_else(|| PipelineError::NoEventHubs { pipeline: pipeline.name.clone() })?;
    Ok(source_id(hubs, &pipeline.source.hub, pipeline.source.generation.as_ref()))
}

/// Connects to the hub of `pipeline`.
///
/// # Errors
/// When the declared address or sign-in can't be used.
pub async fn connect(project: &ProjectSpec, pipeline: &PipelineSpec) -> Result<Arc<EventHubsSource>, PipelineError> {
    let id = source_of(project, pipeline)?;
    let hubs =
        project.event_hubs.as_ref().ok_or_else(|| PipelineError::NoEventHubs { pipeline: pipeline.name.clone() })?;
    Ok(EventHubsSource::connect(hubs, &pipeline.source, id).await?)
}

/// Opens the decoder of `pipeline`, with the project's registry and its cache on disk.
///
/// # Errors
/// When the pinned schema or the registry's address can't be used.
pub fn decoder(project: &ProjectSpec, pipeline: &PipelineSpec, places: &Places) -> Result<Decoder, PipelineError> {
    let registry = registry(project, places)?.map(|registry| registry.by_id);
    Ok(Decoder::open(&pipeline.decode, registry)?)
}

/// The registry of a project, with its cache on disk.
///
/// # Errors
/// When its address can't be used.
pub fn registry(project: &ProjectSpec, places: &Places) -> Result<Option<Registry>, PipelineError> {
    let Some(spec) = &project.registry else { return Ok(None) };
    let cache = places.state.join("schemas").folder();
    Ok(Some(match spec {
        RegistrySpec::Azure { endpoint, credential } => {
            let token = token_source(project, endpoint, credential)?;
            both(AzureRegistry::open(endpoint, cache, token)?)
        }
        RegistrySpec::Confluent { url, credential } => both(ConfluentRegistry::open(url, cache, credential.clone())?),
        RegistrySpec::Folder { path } => both(FolderRegistry::open(path, FolderRegistry::READ_AGAIN_AFTER)?),
    }))
}

fn both(registry: impl SchemaRegistry + Subjects + 'static) -> Registry {
    let registry = Arc::new(registry);
    Registry { by_id: Arc::clone(&registry) as Arc<dyn SchemaRegistry>, subjects: registry }
}

/// Azure's registry is signed in to with Entra alone: its own credential, else that of the hubs.
fn token_source(
    project: &ProjectSpec,
    endpoint: &str,
    credential: &CredentialSpec,
) -> Result<Option<Arc<dyn TokenSource>>, PipelineError> {
    if endpoint.starts_with("http://") {
        return Ok(None);
    }
    let has_own = *credential != Default::default();
    let credential = match project.event_hubs.as_ref().map(|hubs| &hubs.access) {
        Some(EventHubsAccess::Namespace { credential: of_hubs, .. }) if !has_own => of_hubs,
        _ => credential,
    };
    Ok(Some(Arc::new(RegistryToken(SignIn::new(credential)?))))
}

struct RegistryToken(SignIn);

#[async_trait]
impl TokenSource for RegistryToken {
    async fn token(&self) -> Result<Secret, TokenError> {
        self.0.token(SCOPE).await.map_err(|error| TokenError(Arc::new(error)))
    }
}

/// What the writer of the table of `pipeline` needs.
///
/// # Errors
/// When the pinned schema can't be used.
pub fn table_spec(
    pipeline: &PipelineSpec,
    places: &Places,
    fault_points: FaultPoints,
) -> Result<TableSpec, PipelineError> {
    let schema = columns::declared(pipeline)?.unwrap_or_else(|| first_schema(&[]));
    Ok(TableSpec {
        name: pipeline.sink.table.to_string(),
        location: table_location(&places.lake, &pipeline.sink.table),
        dead_letters: table_location(&places.lake, &dead_letters_of(&pipeline.sink.table)),
        writer: Writer {
            pipeline: pipeline.name.clone(),
            owner: pipeline.owner.clone(),
            config_hash: pipeline.config_hash.clone(),
        },
        schema,
        policy: Policy {
            on_schema_change: pipeline.evolution.on_schema_change,
            defaults: if pipeline.evolution.defaults { Defaults::Used } else { Defaults::Ignored },
        },
        fault_points,
    })
}

/// The captures of `pipeline`; none where it declares none.
///
/// # Errors
/// When their place can't be used.
pub fn captures(project: &ProjectSpec, pipeline: &PipelineSpec) -> Result<Option<Arc<CaptureSource>>, PipelineError> {
    let Some(spec) = &pipeline.capture else { return Ok(None) };
    let location = Location::resolve(&spec.url, project.storage_azure.as_ref())?;
    let captures = CaptureSource::open(spec, &location)?;
    // Without it blobs are looked into again, and nothing else is lost.
    let index = BlobIndex::open(&Places::of(project)?.state, &pipeline.name);
    Ok(Some(Arc::new(match index {
        Ok(index) => captures.with_index(index),
        Err(error) => {
            tracing::warn!(pipeline = pipeline.name, %error, "what is learned of captures can't be kept");
            captures
        }
    })))
}

/// The first number that Capture has of a partition's present generation, for a declared `start = "capture"`.
fn captured_start(pipeline: &PipelineSpec, captured: &Listing, partition: &str) -> Option<i64> {
    if pipeline.source.start != Start::Capture {
        return None;
    }
    let since = pipeline.source.generation.as_ref().map_or(i64::MIN, |generation| generation.since.timestamp_millis());
    let blobs = captured.partitions.get(partition)?;
    blobs.iter().filter(|blob| blob.first_enqueued_at >= since).map(|blob| blob.first).min()
}

/// Looks at each partition of the hub, commits where those start that the ledger doesn't
/// know, and says where each is to be read from.
///
/// The order of truth is the ledger, then the checkpoint of an official SDK, then the declared start. With `catch_up`, each ends at the last
/// number that the hub has now.
///
/// # Errors
/// A hub that was made anew; errors of hub and storage.
pub async fn starts(
    source: &EventHubsSource,
    checkpoints: &Checkpoints,
    writer: &mut TableWriter,
    pipeline: &PipelineSpec,
    partitions: &[String],
    captured: &Listing,
    catch_up: bool,
) -> Result<Vec<PartitionStart>, PipelineError> {
    let created = source.hub().await?.created_at_ms;
    let mut looked_at = Vec::new();
    let mut first_starts = Vec::new();
    for partition in partitions {
        let key = PartitionKey::new(source.id().clone(), partition.as_str());
        let properties = source.partition(partition).await?;
        if writer.ledger().partition(&key).and_then(|held| held.start()).is_none() {
            let start = match checkpoints.position(partition).await? {
                Some(position) => position,
                None => match captured_start(pipeline, captured, partition) {
                    Some(start) => start,
                    None => source.resolve_start(partition, pipeline.source.start).await?,
                },
            };
            first_starts.push((key.clone(), start));
        }
        looked_at.push((key, properties));
    }
    writer.record_starts(Some((source.id(), created)), &first_starts).await?;
    let mut starts = Vec::new();
    for (key, properties) in looked_at {
        let Some(held) = writer.ledger().partition(&key) else { continue };
        let coverage = held.coverage();
        let (Some(start), Some(position)) = (held.start(), held.position(properties.first())) else { continue };
        let last = held
            .last_covered(position)
            .map(|last| LastSeen { sequence_number: last.sequence_number, enqueued_at_ms: last.enqueued_at });
        let lost = coverage.missing_in(Range::new(start, position));
        let until = catch_up.then_some(properties.last_enqueued + 1);
        starts.push(PartitionStart { read: ReadPartition { partition: key, position, last, until }, lost });
    }
    Ok(starts)
}
