use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use reqwest::StatusCode;
use reqwest::header::{ACCEPT, CONTENT_TYPE};
use serde::de::IgnoredAny;

use super::cache::{Cached, Wire};
use super::http::Http;
use super::{IdKind, RegisteredSchema, RegistryError, SchemaId, SchemaRegistry, TokenSource};

const API_VERSION: &str = "2022-10";

/// The Schema Registry of an Event Hubs namespace, over REST.
///
/// Found schemas are cached in memory and, given a folder, on disk, for good. One request is made
/// for an id, however many ask for it at the same time.
#[derive(Debug)]
pub struct AzureRegistry(Cached<AzureWire>);

struct AzureWire {
    http: Http,
    token: Option<Arc<dyn TokenSource>>,
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
        endpoint: &str,
        cache_dir: Option<PathBuf>,
        token: Option<Arc<dyn TokenSource>>,
    ) -> Result<Self, RegistryError> {
        let http = Http::open(endpoint)?;
        let token = if http.is_plain() { None } else { token };
        if token.is_none() && !http.is_loopback() {
            return Err(RegistryError::Endpoint { endpoint: http.endpoint, reason: "it needs a sign-in with Entra" });
        }
        let name = http.name();
        Ok(Self(Cached::new(AzureWire { http, token }, cache_dir, &name)))
    }
}

#[async_trait]
impl SchemaRegistry for AzureRegistry {
    fn names(&self, kind: IdKind) -> bool {
        kind == IdKind::Guid
    }

    async fn schema(&self, id: &str) -> Result<Arc<RegisteredSchema>, RegistryError> {
        self.0.get(SchemaId::of_kind(IdKind::Guid, id)?).await
    }
}

#[async_trait]
impl Wire for AzureWire {
    fn endpoint(&self) -> &str {
        &self.http.endpoint
    }

    async fn fetch(&self, id: &SchemaId) -> Result<String, RegistryError> {
        let mut url = self.http.url(&["$schemaGroups", "$schemas", &id.to_string()]);
        url.query_pairs_mut().append_pair("api-version", API_VERSION);
        let mut request = self.http.get(url).header(ACCEPT, "application/json; serialization=Avro");
        let endpoint = || self.http.endpoint.clone();
        if let Some(token) = &self.token {
            let token = token.token().await.map_err(|source| RegistryError::Token { endpoint: endpoint(), source })?;
            request = request.bearer_auth(token.reveal());
        }
        let response = self.http.send(request).await?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => return Err(RegistryError::NotFound { id: id.to_string() }),
            status => return Err(RegistryError::of_status(endpoint(), status)),
        }
        // Schemas of the service's custom type are plain text; no event can be decoded with one, but it is an answer.
        let plain =
            response.headers().get(CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"text/plain"));
        let body = self.http.body(response, &id.to_string()).await?;
        // A proxy's page with status 200 must not be taken for the schema for good.
        match String::from_utf8(body) {
            Ok(text) if plain || serde_json::from_str::<IgnoredAny>(&text).is_ok() => Ok(text),
            _ => Err(RegistryError::NotASchema { endpoint: endpoint() }),
        }
    }
}
