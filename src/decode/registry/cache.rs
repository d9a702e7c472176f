//! What every registry that is asked over a network keeps: what was found, for good; what wasn't, for a while; and
//! the requests under way.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared};

use super::disk::DiskCache;
use super::{RegisteredSchema, RegistryError, SchemaId};
use crate::error::{Classify as _, Kind};

/// How long the answer that there is no such schema is believed: it may be registered at any time. Shorter asks
/// the registry for each batch of a stream that names an unknown id, longer rejects events that could be rows.
const REFUSED_TTL: Duration = Duration::from_secs(30);

/// Refused ids that are remembered. They come from outside, so there is no end of them.
const REFUSED_MAX: usize = 4096;

type Answer = Result<Arc<RegisteredSchema>, RegistryError>;

/// One request to a registry.
#[async_trait]
pub(super) trait Wire: Send + Sync + 'static {
    /// The registry as words name it.
    fn endpoint(&self) -> &str;

    /// The text of a schema, which needs no other text to be understood.
    async fn fetch(&self, id: &SchemaId) -> Result<String, RegistryError>;
}

/// A registry whose every schema is fetched once.
pub(super) struct Cached<W> {
    /// Shared with the requests, which outlive whoever asked first.
    source: Arc<Source<W>>,
    state: Mutex<State>,
}

struct Source<W> {
    wire: W,
    disk: Option<DiskCache>,
}

#[derive(Default)]
struct State {
    found: HashMap<SchemaId, Arc<RegisteredSchema>>,
    refused: HashMap<SchemaId, (Instant, RegistryError)>,
    in_flight: HashMap<SchemaId, Shared<BoxFuture<'static, Answer>>>,
}

impl<W: Wire> std::fmt::Debug for Cached<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cached").field("endpoint", &self.source.wire.endpoint()).finish_non_exhaustive()
    }
}

impl<W: Wire> Cached<W> {
    /// `name` keeps the ids of different registries apart. A folder that can't be used is told and passed over.
    pub(super) fn new(wire: W, cache_dir: Option<PathBuf>, name: &str) -> Self {
        let disk = cache_dir.and_then(|dir| {
            DiskCache::open(&dir, name)
                .inspect_err(|error| tracing::warn!(dir = %dir.display(), %error, "schemas aren't cached on disk"))
                .ok()
        });
        Self { source: Arc::new(Source { wire, disk }), state: Mutex::default() }
    }

    /// What is asked beside schemas by id.
    pub(super) fn wire(&self) -> &W {
        &self.source.wire
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) async fn get(&self, id: SchemaId) -> Answer {
        let asked = match self.known_or_asked(id) {
            Ok(known) => return known,
            Err(asked) => asked,
        };
        let answer = asked.clone().await;
        let mut state = self.state();
        // The first to wake files the answer; a request that others began since then is theirs.
        if state.in_flight.get(&id).is_some_and(|current| current.ptr_eq(&asked)) {
            state.in_flight.remove(&id);
            match &answer {
                Ok(schema) => drop(state.found.insert(id, schema.clone())),
                Err(error) if error.kind() == Kind::Data => {
                    if state.refused.len() >= REFUSED_MAX {
                        state.refused.retain(|_, (since, _)| since.elapsed() < REFUSED_TTL);
                    }
                    if state.refused.len() < REFUSED_MAX {
                        state.refused.insert(id, (Instant::now(), error.clone()));
                    }
                }
                Err(_) => {}
            }
        }
        answer
    }

    /// What is known, or the one request that all who ask for `id` wait for.
    fn known_or_asked(&self, id: SchemaId) -> Result<Answer, Shared<BoxFuture<'static, Answer>>> {
        let mut state = self.state();
        if let Some(schema) = state.found.get(&id) {
            return Ok(Ok(schema.clone()));
        }
        match state.refused.get(&id) {
            Some((since, error)) if since.elapsed() < REFUSED_TTL => return Ok(Err(error.clone())),
            Some(_) => drop(state.refused.remove(&id)),
            None => {}
        }
        let source = Arc::clone(&self.source);
        let asked = state.in_flight.entry(id).or_insert_with(|| async move { source.get(id).await }.boxed().shared());
        Err(asked.clone())
    }
}

impl<W: Wire> Source<W> {
    async fn get(&self, id: SchemaId) -> Answer {
        if let Some(disk) = &self.disk
            && let Some(text) = disk.load(&id).await
        {
            return Ok(Arc::new(RegisteredSchema { id, text }));
        }
        let text = self.wire.fetch(&id).await?;
        if let Some(disk) = &self.disk {
            disk.store(&id, &text).await;
        }
        tracing::info!(schema_id = %id, registry = self.wire.endpoint(), "fetched a schema");
        Ok(Arc::new(RegisteredSchema { id, text }))
    }
}
