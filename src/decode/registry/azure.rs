use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use reqwest::header::{ACCEPT, CONTENT_TYPE};
use reqwest::{RequestBuilder, Response, StatusCode, Url};
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};

use super::cache::{Cached, Wire};
use super::http::Http;
use super::subjects::{Listed, PAGES_MAX, SubjectVersion, Subjects, words_of};
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
        let request = self.http.get(url).header(ACCEPT, "application/json; serialization=Avro");
        let endpoint = || self.http.endpoint.clone();
        let response = self.send(request).await?;
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

impl AzureWire {
    async fn send(&self, mut request: RequestBuilder) -> Result<Response, RegistryError> {
        if let Some(token) = &self.token {
            let failed = |source| RegistryError::Token { endpoint: self.http.endpoint.clone(), source };
            request = request.bearer_auth(token.token().await.map_err(failed)?.reveal());
        }
        self.http.send(request).await
    }

    fn url(&self, segments: &[&str]) -> Url {
        let mut url = self.http.url(segments);
        url.query_pairs_mut().append_pair("api-version", API_VERSION);
        url
    }

    /// All of a list, page by page.
    async fn pages<T: DeserializeOwned>(&self, url: Url, what: &str) -> Result<Vec<T>, RegistryError> {
        let endpoint = || self.http.endpoint.clone();
        let (mut values, mut next) = (Vec::new(), Some(url));
        for _ in 0..PAGES_MAX {
            let Some(url) = next.take() else { break };
            let response = self.send(self.http.get(url)).await?;
            match response.status() {
                StatusCode::OK => {}
                StatusCode::NOT_FOUND => return Err(RegistryError::NoSubject { subject: what.to_owned() }),
                status => return Err(RegistryError::of_status(endpoint(), status)),
            }
            let body = self.http.body(response, what).await?;
            let page: Page<T> =
                serde_json::from_slice(&body).map_err(|_| RegistryError::NotASchema { endpoint: endpoint() })?;
            values.extend(page.values);
            next = page.next.and_then(|link| self.http.next_page(&link));
        }
        Ok(values)
    }
}

/// A page of a list.
#[derive(Deserialize)]
struct Page<T> {
    #[serde(rename = "Value", alias = "value")]
    values: Vec<T>,
    #[serde(rename = "NextLink", alias = "nextLink")]
    next: Option<String>,
}

fn group_and_name(subject: &str) -> Result<(&str, &str), RegistryError> {
    let parts = subject.split_once('/').filter(|(group, name)| !group.is_empty() && !name.is_empty());
    let reason = "of Azure's registry it is `group/name`";
    parts.ok_or_else(|| RegistryError::Subject { subject: subject.to_owned(), reason })
}

fn header<T: std::str::FromStr>(response: &Response, name: &str) -> Option<T> {
    response.headers().get(name)?.to_str().ok()?.parse().ok()
}

#[async_trait]
impl Subjects for AzureRegistry {
    async fn list(&self) -> Result<Listed, RegistryError> {
        let wire = self.0.wire();
        Ok(Listed::Groups(wire.pages(wire.url(&["$schemaGroups"]), "list of groups").await?))
    }

    async fn versions(&self, subject: &str) -> Result<Vec<u32>, RegistryError> {
        let (group, name) = group_and_name(subject)?;
        let wire = self.0.wire();
        let url = wire.url(&["$schemaGroups", group, "schemas", name, "versions"]);
        let mut versions: Vec<u32> = wire.pages(url, subject).await?;
        versions.sort_unstable();
        Ok(versions)
    }

    async fn version(&self, subject: &str, version: u32) -> Result<SubjectVersion, RegistryError> {
        let (group, name) = group_and_name(subject)?;
        let wire = self.0.wire();
        let url = wire.url(&["$schemaGroups", group, "schemas", name, "versions", &version.to_string()]);
        let response = wire.send(wire.http.get(url)).await?;
        let endpoint = || wire.http.endpoint.clone();
        match response.status() {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => {
                return Err(RegistryError::NoSubject { subject: format!("{subject}@{version}") });
            }
            status => return Err(RegistryError::of_status(endpoint(), status)),
        }
        let id = header(&response, "schema-id").ok_or_else(|| RegistryError::NotASchema { endpoint: endpoint() })?;
        let text = String::from_utf8(wire.http.body(response, subject).await?)
            .map_err(|_| RegistryError::NotASchema { endpoint: endpoint() })?;
        Ok(SubjectVersion { subject: subject.to_owned(), version, id, text })
    }

    async fn register(&self, subject: &str, text: &str) -> Result<SubjectVersion, RegistryError> {
        let (group, name) = group_and_name(subject)?;
        let wire = self.0.wire();
        let request = wire.http.put(wire.url(&["$schemaGroups", group, "schemas", name]));
        let request = request.header(CONTENT_TYPE, "application/json; serialization=Avro").body(text.to_owned());
        let response = wire.send(request).await?;
        let endpoint = || wire.http.endpoint.clone();
        let status = response.status();
        match status {
            StatusCode::OK | StatusCode::CREATED | StatusCode::NO_CONTENT => {}
            StatusCode::BAD_REQUEST
            | StatusCode::CONFLICT
            | StatusCode::NOT_FOUND
            | StatusCode::UNPROCESSABLE_ENTITY => {
                let why = words_of(&wire.http.body(response, subject).await?);
                return Err(RegistryError::Refused { endpoint: endpoint(), status: status.as_u16(), why });
            }
            status => return Err(RegistryError::of_status(endpoint(), status)),
        }
        let told = header(&response, "schema-id").zip(header(&response, "schema-version"));
        let (id, version) = told.ok_or_else(|| RegistryError::NotASchema { endpoint: endpoint() })?;
        Ok(SubjectVersion { subject: subject.to_owned(), version, id, text: text.to_owned() })
    }
}
