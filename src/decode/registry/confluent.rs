use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use reqwest::header::{ACCEPT, CONTENT_TYPE};
use reqwest::{RequestBuilder, Response, StatusCode, Url};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::cache::{Cached, Wire};
use super::http::{Http, SCHEMA_BYTES_MAX};
use super::references::Definitions;
use super::subjects::{Listed, SubjectVersion, Subjects, words_of};
use super::{IdKind, RegisteredSchema, RegistryError, SchemaId, SchemaRegistry};
use crate::config::spec::Secret;

/// Schemas that one schema may be put together from, directly or by way of others. Each costs a request.
const REFERENCES_MAX: usize = 100;

/// The codes under which a registry says that it has no such schema, subject or version: 404 and two digits more.
const NOT_THERE: std::ops::Range<u32> = 40_400..40_500;

/// A registry that speaks Confluent's REST, wire format of `GET /schemas/ids/{id}`.
///
/// A schema that refers to others is put together with them. The rest is as of
/// [`AzureRegistry`](super::AzureRegistry).
#[derive(Debug)]
pub struct ConfluentRegistry(Cached<ConfluentWire>);

struct ConfluentWire {
    http: Http,
    credential: Option<(String, Secret)>,
}

impl ConfluentRegistry {
    /// Makes the folder of the cache; no network. Plain `http` is for loopback alone. `credential` is user name and
    /// password, or key and secret of an API.
    ///
    /// # Errors
    /// When the address can't be used. A folder that can't be used is told and passed over.
    pub fn open(
        url: &str,
        cache_dir: Option<PathBuf>,
        credential: Option<(String, Secret)>,
    ) -> Result<Self, RegistryError> {
        let http = Http::open(url)?;
        let name = http.name();
        Ok(Self(Cached::new(ConfluentWire { http, credential }, cache_dir, &name)))
    }
}

#[async_trait]
impl SchemaRegistry for ConfluentRegistry {
    fn names(&self, kind: IdKind) -> bool {
        kind == IdKind::Number
    }

    async fn schema(&self, id: &str) -> Result<Arc<RegisteredSchema>, RegistryError> {
        self.0.get(SchemaId::of_kind(IdKind::Number, id)?).await
    }
}

/// What is asked for by id, and by subject and version.
#[derive(Deserialize)]
struct Held {
    schema: String,
    /// Missing means Avro.
    #[serde(rename = "schemaType")]
    schema_type: Option<String>,
    references: Option<Vec<Reference>>,
}

#[derive(Deserialize)]
struct Reference {
    subject: String,
    version: i64,
}

#[derive(Deserialize)]
struct Refusal {
    error_code: u32,
}

#[async_trait]
impl Wire for ConfluentWire {
    fn endpoint(&self) -> &str {
        &self.http.endpoint
    }

    async fn fetch(&self, id: &SchemaId) -> Result<String, RegistryError> {
        let name = id.to_string();
        let unusable = |reason: String| RegistryError::Unusable { id: id.to_string(), reason };
        let not_found = || RegistryError::NotFound { id: id.to_string() };
        let root: Held = self.ask(self.http.url(&["schemas", "ids", &name]), &name, not_found).await?;
        let mut definitions = Definitions::default();
        let mut wanted = referred_to(&root).map_err(unusable)?;
        let mut seen = HashSet::new();
        let mut bytes = root.schema.len();
        while let Some(Reference { subject, version }) = wanted.pop() {
            if !seen.insert((subject.clone(), version)) {
                continue;
            }
            if seen.len() > REFERENCES_MAX {
                return Err(unusable(format!("it refers to more than {REFERENCES_MAX} others")));
            }
            let mut url = self.http.url(&["subjects", &subject, "versions", &version.to_string()]);
            // What was deleted softly is still part of those that refer to it.
            url.query_pairs_mut().append_pair("deleted", "true");
            let what = format!("{name}` by way of `{subject}");
            let missing = || RegistryError::Reference { id: id.to_string(), subject: subject.clone(), version };
            let part: Held = self.ask(url, &what, missing).await?;
            bytes += part.schema.len();
            if bytes > SCHEMA_BYTES_MAX {
                return Err(RegistryError::TooLarge { id: what, limit: SCHEMA_BYTES_MAX });
            }
            wanted.extend(referred_to(&part).map_err(unusable)?);
            definitions.add(&subject, &part.schema).map_err(unusable)?;
        }
        if seen.is_empty() {
            return Ok(root.schema);
        }
        definitions.complete(&root.schema).map_err(unusable)
    }
}

impl ConfluentWire {
    async fn send(&self, request: RequestBuilder) -> Result<Response, RegistryError> {
        let mut request = request.header(ACCEPT, "application/vnd.schemaregistry.v1+json, application/json");
        if let Some((username, password)) = &self.credential {
            request = request.basic_auth(username, Some(password.reveal()));
        }
        self.http.send(request).await
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        url: Url,
        what: &str,
        missing: impl FnOnce() -> RegistryError,
    ) -> Result<T, RegistryError> {
        let response = self.send(self.http.get(url)).await?;
        let endpoint = || self.http.endpoint.clone();
        match response.status() {
            StatusCode::OK => {
                let body = self.http.body(response, what).await?;
                serde_json::from_slice(&body).map_err(|_| RegistryError::NotASchema { endpoint: endpoint() })
            }
            // A wrong path, or a proxy, answers 404 too: only the registry's own words are believed.
            StatusCode::NOT_FOUND => {
                let body = self.http.body(response, what).await?;
                match serde_json::from_slice::<Refusal>(&body) {
                    Ok(refusal) if NOT_THERE.contains(&refusal.error_code) => Err(missing()),
                    _ => Err(RegistryError::of_status(endpoint(), StatusCode::NOT_FOUND)),
                }
            }
            status => Err(RegistryError::of_status(endpoint(), status)),
        }
    }
}

fn referred_to(held: &Held) -> Result<Vec<Reference>, String> {
    match held.schema_type.as_deref() {
        None | Some("AVRO") => {}
        Some(other) => {
            let other: String = other.chars().take(40).flat_map(char::escape_debug).collect();
            return Err(format!("it is of the type `{other}`, not an Avro schema"));
        }
    }
    let references = held.references.iter().flatten();
    Ok(references
        .map(|Reference { subject, version }| Reference { subject: subject.clone(), version: *version })
        .collect())
}

/// A version, as a registry tells it.
#[derive(Deserialize)]
struct Told {
    id: u32,
    version: u32,
}

impl ConfluentRegistry {
    async fn told(&self, request: RequestBuilder, subject: &str) -> Result<Vec<u8>, RegistryError> {
        let wire = self.0.wire();
        let response = wire.send(request).await?;
        let status = response.status();
        let refused =
            [StatusCode::BAD_REQUEST, StatusCode::NOT_FOUND, StatusCode::CONFLICT, StatusCode::UNPROCESSABLE_ENTITY];
        if status != StatusCode::OK && !refused.contains(&status) {
            return Err(RegistryError::of_status(wire.http.endpoint.clone(), status));
        }
        let body = wire.http.body(response, subject).await?;
        if status == StatusCode::OK {
            return Ok(body);
        }
        let (endpoint, why) = (wire.http.endpoint.clone(), words_of(&body));
        Err(RegistryError::Refused { endpoint, status: status.as_u16(), why })
    }
}

#[async_trait]
impl Subjects for ConfluentRegistry {
    async fn list(&self) -> Result<Listed, RegistryError> {
        let wire = self.0.wire();
        let missing = || RegistryError::NoSubject { subject: "list of subjects".to_owned() };
        let mut subjects: Vec<String> = wire.ask(wire.http.url(&["subjects"]), "list of subjects", missing).await?;
        subjects.sort();
        Ok(Listed::Subjects(subjects))
    }

    async fn versions(&self, subject: &str) -> Result<Vec<u32>, RegistryError> {
        let wire = self.0.wire();
        let missing = || RegistryError::NoSubject { subject: subject.to_owned() };
        let url = wire.http.url(&["subjects", subject, "versions"]);
        let mut versions: Vec<u32> = wire.ask(url, subject, missing).await?;
        versions.sort_unstable();
        Ok(versions)
    }

    async fn version(&self, subject: &str, version: u32) -> Result<SubjectVersion, RegistryError> {
        let wire = self.0.wire();
        let missing = || RegistryError::NoSubject { subject: format!("{subject}@{version}") };
        let url = wire.http.url(&["subjects", subject, "versions", &version.to_string()]);
        let told: Told = wire.ask(url, subject, missing).await?;
        let id = told.id.to_string();
        // With all that it refers to.
        let text = self.schema(&id).await?.text.clone();
        Ok(SubjectVersion { subject: subject.to_owned(), version: told.version, id, text })
    }

    async fn register(&self, subject: &str, text: &str) -> Result<SubjectVersion, RegistryError> {
        let wire = self.0.wire();
        let body = serde_json::json!({ "schema": text }).to_string();
        let post = |segments: &[&str]| {
            let request = wire.http.post(wire.http.url(segments)).body(body.clone());
            request.header(CONTENT_TYPE, "application/vnd.schemaregistry.v1+json")
        };
        self.told(post(&["subjects", subject, "versions"]), subject).await?;
        // The answer names the id alone; which version it is, only a second question tells.
        let told = self.told(post(&["subjects", subject]), subject).await?;
        let endpoint = || wire.http.endpoint.clone();
        let Told { id, version } =
            serde_json::from_slice(&told).map_err(|_| RegistryError::NotASchema { endpoint: endpoint() })?;
        Ok(SubjectVersion { subject: subject.to_owned(), version, id: id.to_string(), text: text.to_owned() })
    }
}
