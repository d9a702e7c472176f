//! From a pipeline's declaration to its parts: source, decoder, table, and where each partition starts.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use futures::{StreamExt as _, TryStreamExt as _, stream};

use super::checkpoints::Checkpoints;
use super::routes::{Router, Strays};
use super::schemas::Registry;
use super::{PipelineError, columns};
use crate::catalog::{dead_letters_of, table_location};
use crate::checkpoint::{PartitionKey, PartitionLedger, Range, RangeSet, SourceId};
use crate::config::source_id;
use crate::config::spec::{
    CredentialSpec, EventHubsAccess, PipelineSpec, ProjectSpec, RegistrySpec, Secret, SinkSpec, Start,
};
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

/// Tables that are opened at the same time: each reads its log.
const TABLES_AT_ONCE: usize = 8;

/// The scope of tokens for Event Hubs and its registry.
const SCOPE: &str = "https://eventhubs.azure.net/.default";

/// A partition about to be read, and what it can't read any more.
#[derive(Debug)]
pub struct PartitionStart {
    pub read: ReadPartition,
    /// Numbers that some table lacks before its position and the hub no longer has.
    pub lost: Vec<Range>,
    /// Where each table begins that came later than others.
    pub begins: Vec<Option<i64>>,
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

/// The registry of a project, opened by the first pipeline that asks and shared by all of a process: a schema that one of
/// them has met is asked for once. Clones are the same.
#[derive(Clone, Default)]
pub struct SharedRegistry(Arc<Mutex<Option<Arc<dyn SchemaRegistry>>>>);

impl std::fmt::Debug for SharedRegistry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("SharedRegistry").finish_non_exhaustive()
    }
}

impl SharedRegistry {
    fn of(&self, project: &ProjectSpec, places: &Places) -> Result<Option<Arc<dyn SchemaRegistry>>, PipelineError> {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if held.is_none() {
            *held = registry(project, places)?.map(|registry| registry.by_id);
        }
        Ok(held.clone())
    }
}

/// Opens the decoder of `pipeline`, with the project's registry and its cache on disk.
///
/// # Errors
/// When the pinned schema or the registry's address can't be used.
pub fn decoder(
    project: &ProjectSpec,
    pipeline: &PipelineSpec,
    places: &Places,
    registry: &SharedRegistry,
) -> Result<Decoder, PipelineError> {
    let registry = registry.of(project, places)?;
    Ok(Decoder::open(&pipeline.decode, registry)?.counting_for(&pipeline.name))
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

/// What the writer of a table of `pipeline` needs.
///
/// # Errors
/// When the pinned schema can't be used.
pub fn table_spec(
    pipeline: &PipelineSpec,
    sink: &SinkSpec,
    places: &Places,
    fault_points: FaultPoints,
) -> Result<TableSpec, PipelineError> {
    let schema = columns::declared(pipeline)?.unwrap_or_else(|| first_schema(&[]));
    Ok(TableSpec {
        name: sink.table.to_string(),
        location: table_location(&places.lake, &sink.table),
        dead_letters: table_location(&places.lake, &dead_letters_of(&sink.table)),
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

/// Opens every table of `pipeline`, making those that aren't there; in the order of its sinks.
///
/// # Errors
/// As of [`TableWriter::open`]; when the pinned schema can't be used.
pub async fn open_tables(
    pipeline: &PipelineSpec,
    places: &Places,
    fault_points: &FaultPoints,
) -> Result<Vec<TableWriter>, PipelineError> {
    let specs: Vec<_> = pipeline
        .sinks()
        .map(|sink| table_spec(pipeline, sink, places, fault_points.clone()))
        .collect::<Result<_, _>>()?;
    let opening = stream::iter(specs.into_iter().map(TableWriter::open)).buffered(TABLES_AT_ONCE);
    Ok(opening.try_collect().await?)
}

/// The routes of `pipeline`, with what a crash left between its tables: before anything is read.
///
/// # Errors
/// Rows that can't be read.
pub async fn router(
    router: &Arc<Router>,
    pipeline: &PipelineSpec,
    places: &Places,
    writers: &[TableWriter],
) -> Result<Arc<Router>, PipelineError> {
    if writers.len() < 2 {
        return Ok(Arc::clone(router));
    }
    Ok(Arc::new(router.saving(Strays::find(pipeline, &places.lake, writers).await?)))
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

/// Looks at each partition of the hub, commits where those start that a ledger doesn't
/// know, and says where each is to be read from: at the lowest position of all tables.
///
/// The order of truth is the ledger, then the checkpoint of an official SDK, then the declared start. A table whose ledger
/// doesn't know a partition that another's does came later: it starts where reading goes on, and its history is a
/// backfill's. With `catch_up`, each ends at the last number that the hub has now.
///
/// # Errors
/// A hub that was made anew; errors of hub and storage.
pub async fn starts(
    source: &EventHubsSource,
    checkpoints: &Checkpoints,
    writers: &mut [TableWriter],
    pipeline: &PipelineSpec,
    partitions: &[String],
    captured: &Listing,
    catch_up: bool,
) -> Result<Vec<PartitionStart>, PipelineError> {
    let created = source.hub().await?.created_at_ms;
    let mut looked_at = Vec::new();
    let mut first_starts: Vec<Vec<(PartitionKey, i64)>> = writers.iter().map(|_| Vec::new()).collect();
    for partition in partitions {
        let key = PartitionKey::new(source.id().clone(), partition.as_str());
        let properties = source.partition(partition).await?;
        let held = |writer: &TableWriter| {
            let held = writer.ledger().partition(&key)?;
            held.start().and_then(|_| held.position(properties.first()))
        };
        let positions: Vec<Option<i64>> = writers.iter().map(held).collect();
        if positions.contains(&None) {
            let start = match positions.iter().flatten().min() {
                Some(position) => *position,
                None => match checkpoints.position(partition).await? {
                    Some(position) => position,
                    None => match captured_start(pipeline, captured, partition) {
                        Some(start) => start,
                        None => source.resolve_start(partition, pipeline.source.start).await?,
                    },
                },
            };
            for (starts, _) in first_starts.iter_mut().zip(&positions).filter(|(_, position)| position.is_none()) {
                starts.push((key.clone(), start));
            }
        }
        looked_at.push((key, properties));
    }
    for (writer, starts) in writers.iter_mut().zip(&first_starts) {
        writer.record_starts(Some((source.id(), created)), starts).await?;
    }
    let mut starts = Vec::new();
    for (key, properties) in looked_at {
        let until = catch_up.then_some(properties.last_enqueued + 1);
        starts.extend(start_of(writers, key, properties.first(), until));
    }
    Ok(starts)
}

/// Where a partition is read from whose start every ledger knows.
fn start_of(
    writers: &[TableWriter],
    partition: PartitionKey,
    first_available: i64,
    until: Option<i64>,
) -> Option<PartitionStart> {
    let held = writers.iter().map(|writer| writer.ledger().partition(&partition));
    let held: Vec<&PartitionLedger> = held.collect::<Option<_>>()?;
    let starts: Vec<i64> = held.iter().map(|held| held.start()).collect::<Option<_>>()?;
    let positions: Vec<i64> = held.iter().map(|held| held.position(first_available)).collect::<Option<_>>()?;
    let (position, begin) = (*positions.iter().min()?, *starts.iter().min()?);
    // Only at the end of what a table covers is its time that of the event.
    let ends_there = held.iter().zip(&positions).filter(|(_, other)| **other == position);
    let last = ends_there.map(|(held, _)| held).find_map(|held| held.last_covered(position));
    let last = last.map(|last| LastSeen { sequence_number: last.sequence_number, enqueued_at_ms: last.enqueued_at });
    let lacks = |((held, start), position): ((&&PartitionLedger, &i64), &i64)| {
        held.coverage().missing_in(Range::new(*start, *position))
    };
    let lost: RangeSet = held.iter().zip(&starts).zip(&positions).flat_map(lacks).collect();
    Some(PartitionStart {
        read: ReadPartition { partition, position, last, until },
        lost: lost.iter().collect(),
        begins: starts.into_iter().map(|start| (start > begin).then_some(start)).collect(),
    })
}
