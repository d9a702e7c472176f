use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared};
use reqwest::header::{ACCEPT, CONTENT_TYPE};
use reqwest::{Client, StatusCode, Url, redirect};
use serde::de::IgnoredAny;

use super::disk::DiskCache;
use super::{RegisteredSchema, RegistryError, SchemaId, SchemaRegistry, TokenSource};
use crate::config::spec::RegistrySpec;

const API_VERSION: &str = "2022-10";

/// The service holds schemas of up to 1 MB; without a bound, a wrong address could fill the memory.
const SCHEMA_BYTES_MAX: usize = 2 << 20;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A whole request. Shorter cuts off slow answers, longer holds a partition back without a word.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a 404 is believed: a schema may be registered at any time. Shorter asks the registry
/// for each batch of a stream that names an unknown id, longer rejects events that could be rows.
const NOT_FOUND_TTL: Duration = Duration::from_secs(30);

/// Unknown ids that are remembered. They come from outside, so there is no end of them.
const NOT_FOUND_MAX: usize = 4096;

type Answer = Result<Arc<RegisteredSchema>, RegistryError>;

/// The Schema Registry of an Event Hubs namespace, over REST.
///
/// Found schemas are cached in memory and, given a folder, on disk, for good. One request is made
/// for an id, however many ask for it at the same time.
pub struct AzureRegistry {
    wire: Arc<Wire>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    found: HashMap<SchemaId, Arc<RegisteredSchema>>,
    not_found: HashMap<SchemaId, Instant>,
    in_flight: HashMap<SchemaId, Shared<BoxFuture<'static, Answer>>>,
}

/// What a request needs; owns itself, so that a request outlives whoever asked first.
struct Wire {
    client: Client,
    base: Url,
    /// The endpoint as words name it: without path or query.
    endpoint: String,
    token: Option<Arc<dyn TokenSource>>,
    disk: Option<DiskCache>,
}

impl std::fmt::Debug for AzureRegistry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AzureRegistry").field("endpoint", &self.wire.endpoint).finish_non_exhaustive()
    }
}

impl AzureRegistry {
    /// Makes the folder of the cache; no network. Plain `http` is for loopback alone, where no
    /// token is sent.
    ///
    /// Certificates are checked against the system's roots, or against those in the files that
    /// `SSL_CERT_FILE` and `SSL_CERT_DIR` name.
    ///
    /// # Errors
    /// When the endpoint can't be used. A folder that can't be used is told and passed over: it
    /// only saves requests.
    pub fn open(
        spec: &RegistrySpec,
        cache_dir: Option<PathBuf>,
        token: Option<Arc<dyn TokenSource>>,
    ) -> Result<Self, RegistryError> {
        let RegistrySpec::Azure { endpoint, .. } = spec;
        let (base, endpoint) = base(endpoint)?;
        let loopback = is_loopback(&base);
        let token = if base.scheme() == "http" { None } else { token };
        if token.is_none() && !loopback {
            return Err(RegistryError::Endpoint { endpoint, reason: "it needs a sign-in with Entra" });
        }
        let client = Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(REQUEST_TIMEOUT)
            // A redirect would carry the token elsewhere.
            .redirect(redirect::Policy::none())
            .user_agent(concat!("sluicebox/", env!("CARGO_PKG_VERSION")));
        let client = if loopback { client.no_proxy() } else { client };
        // A machine without any root certificates can still use an emulator: none are loaded for plain `http`.
        let client = if base.scheme() == "http" { client.tls_certs_only([]) } else { client };
        let client = client
            .build()
            .map_err(|source| RegistryError::Client { endpoint: endpoint.clone(), source: Arc::new(source) })?;
        let disk = cache_dir.and_then(|dir| {
            let opened =
                DiskCache::open(&dir, endpoint.split_once("://").map_or(&*endpoint, |(_, authority)| authority));
            opened
                .inspect_err(|error| tracing::warn!(dir = %dir.display(), %error, "schemas aren't cached on disk"))
                .ok()
        });
        let wire = Arc::new(Wire { client, base, endpoint, token, disk });
        Ok(Self { wire, state: Mutex::default() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known, or the one request that all who ask for `id` wait for.
    fn known_or_asked(&self, id: &SchemaId) -> Result<Answer, Shared<BoxFuture<'static, Answer>>> {
        let mut state = self.state();
        if let Some(schema) = state.found.get(id) {
            return Ok(Ok(schema.clone()));
        }
        match state.not_found.get(id) {
            Some(since) if since.elapsed() < NOT_FOUND_TTL => return Ok(Err(not_found(id))),
            Some(_) => drop(state.not_found.remove(id)),
            None => {}
        }
        let wire = Arc::clone(&self.wire);
        let asked = state.in_flight.entry(*id).or_insert_with(|| {
            let id = *id;
            async move { wire.get(&id).await }.boxed().shared()
        });
        Err(asked.clone())
    }
}

#[async_trait]
impl SchemaRegistry for AzureRegistry {
    async fn schema(&self, id: &str) -> Answer {
        let Some(id) = SchemaId::parse(id) else { return Err(RegistryError::Id { id: id.chars().take(64).collect() }) };
        let asked = match self.known_or_asked(&id) {
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
                Err(RegistryError::NotFound { .. }) => {
                    if state.not_found.len() >= NOT_FOUND_MAX {
                        state.not_found.retain(|_, since| since.elapsed() < NOT_FOUND_TTL);
                    }
                    if state.not_found.len() < NOT_FOUND_MAX {
                        state.not_found.insert(id, Instant::now());
                    }
                }
                Err(_) => {}
            }
        }
        answer
    }
}

impl Wire {
    async fn get(&self, id: &SchemaId) -> Answer {
        if let Some(disk) = &self.disk
            && let Some(text) = disk.load(id).await
        {
            return Ok(Arc::new(RegisteredSchema { id: *id, text }));
        }
        let text = self.fetch(id).await?;
        if let Some(disk) = &self.disk {
            disk.store(id, &text).await;
        }
        tracing::info!(schema_id = %id, registry = %self.endpoint, "fetched a schema");
        Ok(Arc::new(RegisteredSchema { id: *id, text }))
    }

    async fn fetch(&self, id: &SchemaId) -> Result<String, RegistryError> {
        let mut url = self.base.clone();
        url.set_path(&format!("{}/$schemaGroups/$schemas/{id}", self.base.path().trim_end_matches('/')));
        url.query_pairs_mut().clear().append_pair("api-version", API_VERSION);
        let mut request = self.client.get(url).header(ACCEPT, "application/json; serialization=Avro");
        if let Some(token) = &self.token {
            let endpoint = self.endpoint.clone();
            let token = token.token().await.map_err(|source| RegistryError::Token { endpoint, source })?;
            request = request.bearer_auth(token.reveal());
        }
        let mut response = request.send().await.map_err(|error| self.failed(error))?;
        let endpoint = || self.endpoint.clone();
        match response.status() {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => return Err(not_found(id)),
            status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
                return Err(RegistryError::Denied { endpoint: endpoint(), status: status.as_u16() });
            }
            StatusCode::TOO_MANY_REQUESTS => return Err(RegistryError::Throttled { endpoint: endpoint() }),
            status => return Err(RegistryError::Status { endpoint: endpoint(), status: status.as_u16() }),
        }
        // Schemas of the service's custom type are plain text; no event can be decoded with one, but it is an answer.
        let plain =
            response.headers().get(CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"text/plain"));
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| self.failed(error))? {
            if body.len() + chunk.len() > SCHEMA_BYTES_MAX {
                return Err(RegistryError::TooLarge { id: id.to_string(), limit: SCHEMA_BYTES_MAX });
            }
            body.extend_from_slice(&chunk);
        }
        // A proxy's page with status 200 must not be taken for the schema for good.
        match String::from_utf8(body) {
            Ok(text) if plain || serde_json::from_str::<IgnoredAny>(&text).is_ok() => Ok(text),
            _ => Err(RegistryError::NotASchema { endpoint: endpoint() }),
        }
    }

    fn failed(&self, error: reqwest::Error) -> RegistryError {
        let endpoint = self.endpoint.clone();
        let source = Arc::new(error.without_url());
        if source.is_timeout() {
            RegistryError::Timeout { endpoint, within: REQUEST_TIMEOUT, source }
        } else {
            RegistryError::Unreachable { endpoint, source }
        }
    }
}

fn not_found(id: &SchemaId) -> RegistryError {
    RegistryError::NotFound { id: id.to_string() }
}

/// The address and its words. What could hold a secret, a user name or a query, is refused unseen.
fn base(endpoint: &str) -> Result<(Url, String), RegistryError> {
    let refused = |shown: String, reason| Err(RegistryError::Endpoint { endpoint: shown, reason });
    // It may be anything, a connection string too: not repeated.
    let Ok(url) = Url::parse(endpoint) else { return refused("…".to_owned(), "it isn't a URL") };
    let shown = url.origin().ascii_serialization();
    if !url.username().is_empty() || url.password().is_some() || url.query().is_some() || url.fragment().is_some() {
        return refused(shown, "it holds more than scheme, host, port and path");
    }
    match url.scheme() {
        "https" if url.has_host() => Ok((url, shown)),
        "http" if is_loopback(&url) => Ok((url, shown)),
        "http" => refused(shown, "plain `http` is for loopback alone"),
        _ => refused(shown, "it isn't an `https` address"),
    }
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Domain(name)) => name.eq_ignore_ascii_case("localhost"),
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}
