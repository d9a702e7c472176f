//! Azure Schema Registry over HTTP, on loopback: the six operations that the official clients use.
//!
//! | operation | request | answer |
//! |---|---|---|
//! | groups | `GET /$schemaGroups` | 200, `{"Value":[…],"NextLink":…}` |
//! | by id | `GET /$schemaGroups/$schemas/{id}` | 200, the text |
//! | versions | `GET /$schemaGroups/{group}/schemas/{name}/versions` | 200, `{"Value":[…]}` |
//! | by version | `GET /$schemaGroups/{group}/schemas/{name}/versions/{version}` | 200, the text |
//! | id of a content | `POST /$schemaGroups/{group}/schemas/{name}:get-id` | 204, or 404 |
//! | register | `PUT /$schemaGroups/{group}/schemas/{name}` | 204; the same content is the same id |
//!
//! Each wants `api-version` 2021-10, 2022-10 or 2023-07-01. Unlike Azure, a group is made when its
//! first schema is registered, and compatibility modes aren't kept.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::{Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, LOCATION, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use rustls::ServerConfig;
use serde_json::{Value, json};

use super::http::HttpServer;
use crate::config::spec::Secret;
use crate::error::{Classify, Kind};

mod store;

pub use store::SchemaFormat;
use store::{Refusal, SCHEMA_BYTES, Schema, Store};

const API_VERSIONS: [&str; 3] = ["2021-10", "2022-10", "2023-07-01"];
/// Entries of one page: small, so that clients meet `NextLink` while a test still is quick.
const PAGE: usize = 100;

/// What a name may hold and a path may not, without spoiling names that are plain.
const IN_PATH: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

const SCHEMA_ID: HeaderName = HeaderName::from_static("schema-id");
const SCHEMA_ID_LOCATION: HeaderName = HeaderName::from_static("schema-id-location");
const SCHEMA_GROUP_NAME: HeaderName = HeaderName::from_static("schema-group-name");
const SCHEMA_NAME: HeaderName = HeaderName::from_static("schema-name");
const SCHEMA_VERSION: HeaderName = HeaderName::from_static("schema-version");

/// How a registry is started; the default listens on a free port, plain, open to all, in memory.
#[derive(Clone, Default)]
pub struct RegistryOptions {
    /// 0 picks a free one.
    pub port: u16,
    /// Where schemas outlive a restart.
    pub dir: Option<PathBuf>,
    /// TLS instead of plain HTTP.
    pub tls: Option<Arc<ServerConfig>>,
    /// A request must carry one of these as its bearer token; without any, all are welcome.
    pub bearer_tokens: Vec<Secret>,
    /// Groups that exist before their first schema.
    pub groups: Vec<String>,
}

/// What the registry does instead of answering.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegistryFault {
    /// For lookups of this id alone; else for every request.
    pub schema_id: Option<String>,
    pub times: u32,
    pub action: RegistryAction,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RegistryAction {
    /// Answers with this status at once.
    Status(u16),
    /// Answers right, but late.
    Delay(Duration),
}

/// A running registry; dropped, it ends at once.
#[derive(Debug)]
pub struct Registry {
    server: HttpServer,
    shared: Arc<Shared>,
}

impl Registry {
    /// # Errors
    /// When the port is taken, or the folder can't be used.
    pub async fn start(options: RegistryOptions) -> Result<Self, RegistryError> {
        let store = Store::open(options.dir.as_deref(), &options.groups)?;
        let shared = Arc::new(Shared {
            store: Arc::new(Mutex::new(store)),
            faults: Mutex::default(),
            served: Mutex::default(),
            bearer_tokens: options.bearer_tokens,
            scheme: if options.tls.is_some() { "https" } else { "http" },
        });
        let router = Router::new().fallback(answer).with_state(Arc::clone(&shared));
        let server = HttpServer::start(options.port, options.tls, router)
            .await
            .map_err(|source| RegistryError::Listen { port: options.port, source })?;
        Ok(Self { server, shared })
    }

    /// `http://127.0.0.1:PORT`, or `https://…`.
    pub fn url(&self) -> String {
        self.server.url()
    }

    pub fn port(&self) -> u16 {
        self.server.port()
    }

    /// Registers an Avro schema and gives its id.
    ///
    /// # Errors
    /// When the service would refuse it, or the folder can't be written.
    pub fn register(&self, group: &str, name: &str, avsc: &str) -> Result<String, RegistryError> {
        let registered = lock(&self.shared.store).register(group, name, SchemaFormat::Avro, avsc);
        match registered.map_err(RegistryError::Write)? {
            Ok(schema) => Ok(schema.id.clone()),
            Err(refusal) => Err(RegistryError::Refused { name: name.to_owned(), why: words(&refusal) }),
        }
    }

    /// The next `times` requests are answered with `status`.
    pub fn fail_next(&self, times: u32, status: u16) {
        self.fail(RegistryFault { schema_id: None, times, action: RegistryAction::Status(status) });
    }

    pub fn fail(&self, fault: RegistryFault) {
        lock(&self.shared.faults).push(fault);
    }

    /// What still is to happen.
    pub fn faults(&self) -> Vec<RegistryFault> {
        lock(&self.shared.faults).clone()
    }

    pub fn clear_faults(&self) {
        lock(&self.shared.faults).clear();
    }

    /// Requests answered so far, failed ones too, by operation: `by-id`, `register`, ….
    pub fn served(&self) -> BTreeMap<&'static str, u64> {
        lock(&self.shared.served).clone()
    }

    /// Answers what is under way and frees the port.
    pub async fn stop(&self) {
        self.server.stop().await;
    }
}

struct Shared {
    /// A write to disk happens under it, on a thread for blocking work; a reader may wait for one.
    store: Arc<Mutex<Store>>,
    faults: Mutex<Vec<RegistryFault>>,
    served: Mutex<BTreeMap<&'static str, u64>>,
    bearer_tokens: Vec<Secret>,
    scheme: &'static str,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

/// Nothing panics half way through a change, so a poisoned lock still guards whole data.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One of the six operations.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Call {
    Groups,
    ById { id: String },
    Versions { group: String, name: String },
    ByVersion { group: String, name: String, version: String },
    IdOf { group: String, name: String },
    Register { group: String, name: String },
}

impl Call {
    fn parse(method: &Method, uri: &Uri) -> Result<Self, Refused> {
        let segments: Vec<String> = uri
            .path()
            .trim_start_matches('/')
            .split('/')
            .map(|segment| percent_decode_str(segment).decode_utf8_lossy().into_owned())
            .collect();
        let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
        let call = match segments.as_slice() {
            ["$schemaGroups" | "$schemagroups"] => (Method::GET, Self::Groups),
            [_, "$schemas", id] => (Method::GET, Self::ById { id: (*id).to_owned() }),
            [_, group, "schemas", name, "versions"] => {
                (Method::GET, Self::Versions { group: (*group).to_owned(), name: (*name).to_owned() })
            }
            [_, group, "schemas", name, "versions", version] => {
                let version = (*version).to_owned();
                (Method::GET, Self::ByVersion { group: (*group).to_owned(), name: (*name).to_owned(), version })
            }
            [_, group, "schemas", name] => match name.strip_suffix(":get-id") {
                Some(name) => (Method::POST, Self::IdOf { group: (*group).to_owned(), name: name.to_owned() }),
                None => (Method::PUT, Self::Register { group: (*group).to_owned(), name: (*name).to_owned() }),
            },
            _ => return Err(Refused::not_found(format!("there is nothing at `{}`", uri.path()))),
        };
        if !segments[0].eq_ignore_ascii_case("$schemaGroups") {
            return Err(Refused::not_found(format!("there is nothing at `{}`", uri.path())));
        }
        if call.0 != method {
            return Err(Refused::new(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", "not by this method".into()));
        }
        Ok(call.1)
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Groups => "groups",
            Self::ById { .. } => "by-id",
            Self::Versions { .. } => "versions",
            Self::ByVersion { .. } => "by-version",
            Self::IdOf { .. } => "id-of",
            Self::Register { .. } => "register",
        }
    }
}

async fn answer(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    try_answer(&shared, request).await.unwrap_or_else(IntoResponse::into_response)
}

async fn try_answer(shared: &Shared, request: Request) -> Result<Response, Refused> {
    let (head, body) = request.into_parts();
    let call = Call::parse(&head.method, &head.uri)?;
    *lock(&shared.served).entry(call.name()).or_default() += 1;
    match shared.take_fault(&call) {
        Some(RegistryAction::Delay(delay)) => tokio::time::sleep(delay).await,
        Some(RegistryAction::Status(status)) => {
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
            return Err(Refused::new(status, "ServerBusy", "a fault that was asked for".into()));
        }
        None => {}
    }
    shared.authorize(&head.headers)?;
    let query = Query::parse(&head.uri)?;
    let body = to_bytes(body, SCHEMA_BYTES).await.map_err(|_| Refused::of(&Refusal::TooLarge))?;
    let host = head.headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or("localhost");
    let base = format!("{}://{host}", shared.scheme);
    match call {
        Call::Groups => {
            let groups = lock(&shared.store).groups();
            Ok(page(&base, head.uri.path(), &query, groups))
        }
        Call::ById { id } => shared.by_id(&base, &id),
        Call::Versions { group, name } => {
            let store = lock(&shared.store);
            let versions = store.versions(&group, &name).ok_or_else(|| unknown_name(&store, &group, &name))?;
            let versions = versions.iter().map(|schema| schema.version).collect();
            Ok(page(&base, head.uri.path(), &query, versions))
        }
        Call::ByVersion { group, name, version } => {
            let store = lock(&shared.store);
            let versions = store.versions(&group, &name).ok_or_else(|| unknown_name(&store, &group, &name))?;
            let number = version.parse::<usize>().map_err(|_| {
                Refused::new(StatusCode::BAD_REQUEST, "InvalidRequest", format!("`{version}` is not a version number"))
            })?;
            let found = versions.iter().find(|schema| schema.version == number);
            let missing = || Refused::not_found(format!("schema `{name}` has no version {number}"));
            Ok(text_of(&base, found.ok_or_else(missing)?))
        }
        Call::IdOf { group, name } => {
            let (format, content) = content_of(&head.headers, &body)?;
            let store = lock(&shared.store);
            let found = store.find(&group, &name, format, &content);
            let schema = found.ok_or_else(|| {
                if store.versions(&group, &name).is_none() {
                    return unknown_name(&store, &group, &name);
                }
                Refused::not_found(format!("schema `{name}` has no version with this content"))
            })?;
            Ok((StatusCode::NO_CONTENT, headers_of(&base, &schema)).into_response())
        }
        Call::Register { group, name } => {
            let (format, content) = content_of(&head.headers, &body)?;
            shared.register(&base, group, name, format, content).await
        }
    }
}

impl Shared {
    fn take_fault(&self, call: &Call) -> Option<RegistryAction> {
        let mut faults = lock(&self.faults);
        let hit = faults.iter().position(|fault| match (&fault.schema_id, call) {
            (None, _) => true,
            (Some(wanted), Call::ById { id }) => wanted == id,
            (Some(_), _) => false,
        })?;
        let action = faults[hit].action;
        faults[hit].times = faults[hit].times.saturating_sub(1);
        if faults[hit].times == 0 {
            faults.remove(hit);
        }
        Some(action)
    }

    fn authorize(&self, headers: &HeaderMap) -> Result<(), Refused> {
        if self.bearer_tokens.is_empty() {
            return Ok(());
        }
        let shown = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()).and_then(|value| {
            let (scheme, token) = value.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
        });
        match shown {
            Some(token) if self.bearer_tokens.iter().any(|known| known.reveal() == token) => Ok(()),
            Some(_) => Err(Refused::unauthorized("the bearer token is not one of this registry")),
            None => Err(Refused::unauthorized("a bearer token is required")),
        }
    }

    fn by_id(&self, base: &str, id: &str) -> Result<Response, Refused> {
        // As seen from the service: what can't be an id is a bad request, not a missing schema.
        if id.len() != 32 || !id.chars().all(|c| c.is_ascii_hexdigit()) {
            return Err(Refused::new(StatusCode::BAD_REQUEST, "InvalidRequest", format!("`{id}` is not a schema id")));
        }
        let found = lock(&self.store).by_id(&id.to_ascii_lowercase());
        let missing = || Refused::not_found(format!("schema id `{id}` does not exist"));
        let schema = found.ok_or_else(missing)?;
        Ok(text_of(base, &schema))
    }

    async fn register(
        &self,
        base: &str,
        group: String,
        name: String,
        format: SchemaFormat,
        content: String,
    ) -> Result<Response, Refused> {
        let store = Arc::clone(&self.store);
        let work = move || lock(&store).register(&group, &name, format, &content);
        let registered = tokio::task::spawn_blocking(work)
            .await
            .map_err(|error| Refused::internal(error.to_string()))?
            .map_err(|error| Refused::internal(format!("can't write the registry's log: {error}")))?;
        let schema = registered.map_err(|refusal| Refused::of(&refusal))?;
        Ok((StatusCode::NO_CONTENT, headers_of(base, &schema)).into_response())
    }
}

fn unknown_name(store: &Store, group: &str, name: &str) -> Refused {
    if store.has_group(group) {
        Refused::not_found(format!("schema `{name}` does not exist in group `{group}`"))
    } else {
        Refused::not_found(format!("schema group `{group}` does not exist"))
    }
}

fn content_of(headers: &HeaderMap, body: &Bytes) -> Result<(SchemaFormat, String), Refused> {
    let bad = |why: String| Refused::new(StatusCode::BAD_REQUEST, "InvalidRequest", why);
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let format = SchemaFormat::of_content_type(content_type).ok_or_else(|| {
        let why = format!("content type `{content_type}` is not one of the registry's");
        Refused::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "UnsupportedMediaType", why)
    })?;
    let content = String::from_utf8(body.to_vec()).map_err(|_| bad("a schema is UTF-8 text".to_owned()))?;
    Ok((format, content))
}

fn text_of(base: &str, schema: &Schema) -> Response {
    (StatusCode::OK, headers_of(base, schema), schema.content.clone()).into_response()
}

fn headers_of(base: &str, schema: &Schema) -> HeaderMap {
    let encoded = |text: &str| utf8_percent_encode(text, IN_PATH).to_string();
    let version = schema.version;
    let path = format!("{base}/$schemaGroups/{}/schemas/{}", encoded(&schema.group), encoded(&schema.name));
    let id_path = format!("{base}/$schemaGroups/$schemas/{}?api-version=2022-10", schema.id);
    let location = format!("{path}/versions/{version}?api-version=2022-10");
    let values = [
        (SCHEMA_ID, schema.id.clone()),
        (SCHEMA_ID_LOCATION, id_path),
        (SCHEMA_GROUP_NAME, schema.group.clone()),
        (SCHEMA_NAME, schema.name.clone()),
        (SCHEMA_VERSION, version.to_string()),
        (LOCATION, location),
        (CONTENT_TYPE, schema.format.content_type().to_owned()),
    ];
    // A name may hold what a header can't; the service has the same trouble, and leaves it out.
    values.into_iter().filter_map(|(name, value)| Some((name, HeaderValue::try_from(value).ok()?))).collect()
}

struct Query {
    api_version: String,
    skip: usize,
}

impl Query {
    fn parse(uri: &Uri) -> Result<Self, Refused> {
        let bad = |why: String| Refused::new(StatusCode::BAD_REQUEST, "InvalidRequest", why);
        let pairs: BTreeMap<_, _> =
            url::form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()).into_owned().collect();
        let api_version = pairs.get("api-version").cloned().unwrap_or_default();
        if !API_VERSIONS.contains(&api_version.as_str()) {
            return Err(bad(format!("api-version `{api_version}` is not one of {}", API_VERSIONS.join(", "))));
        }
        let skip =
            pairs.get("$skip").map_or(Ok(0), |skip| skip.parse()).map_err(|_| bad("`$skip` is a number".into()))?;
        Ok(Self { api_version, skip })
    }
}

fn page<T: Into<Value>>(base: &str, path: &str, query: &Query, all: Vec<T>) -> Response {
    let next = query.skip.saturating_add(PAGE);
    let more = next < all.len();
    let values: Vec<Value> = all.into_iter().skip(query.skip).take(PAGE).map(Into::into).collect();
    let mut body = json!({ "Value": values });
    if more {
        body["NextLink"] = json!(format!("{base}{path}?api-version={}&$skip={next}", query.api_version));
    }
    axum::Json(body).into_response()
}

/// An answer that isn't what was asked for, in the service's shape.
#[derive(Debug)]
struct Refused {
    status: StatusCode,
    code: &'static str,
    message: String,
}

impl Refused {
    fn new(status: StatusCode, code: &'static str, message: String) -> Self {
        Self { status, code, message }
    }

    fn not_found(message: String) -> Self {
        Self::new(StatusCode::NOT_FOUND, "ItemNotFound", message)
    }

    fn unauthorized(message: &str) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "Unauthorized", message.to_owned())
    }

    fn internal(message: String) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "InternalServerError", message)
    }

    fn of(refusal: &Refusal) -> Self {
        let (status, code) = match refusal {
            Refusal::Name(_) => (StatusCode::BAD_REQUEST, "InvalidRequest"),
            Refusal::Content(_) => (StatusCode::BAD_REQUEST, "InvalidSchema"),
            Refusal::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "PayloadTooLarge"),
            Refusal::Full => (StatusCode::FORBIDDEN, "QuotaExceeded"),
        };
        Self::new(status, code, words(refusal))
    }
}

fn words(refusal: &Refusal) -> String {
    match refusal {
        Refusal::Name(why) => why.clone(),
        Refusal::Content(why) => format!("schema validation failed: {why}"),
        Refusal::TooLarge => format!("a schema has at most {SCHEMA_BYTES} bytes"),
        Refusal::Full => "the registry is full".to_owned(),
    }
}

impl IntoResponse for Refused {
    /// The service has answered in both shapes over the years; clients read one or the other.
    fn into_response(self) -> Response {
        let status = self.status.as_u16();
        let body = json!({
            "error": { "code": self.code, "message": self.message },
            "Code": status,
            "Detail": format!("SubCode={status}00, {}", self.message),
        });
        let mut response = (self.status, axum::Json(body)).into_response();
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// Why a registry isn't there, or doesn't take a schema.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    #[error("the registry can't listen on port {port} of 127.0.0.1")]
    Listen {
        port: u16,
        #[source]
        source: io::Error,
    },
    #[error("the registry can't use `{}`", path.display())]
    File {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("line {line} of `{}` is not what the registry wrote", path.display())]
    Log {
        path: PathBuf,
        line: usize,
        #[source]
        source: Option<serde_json::Error>,
    },
    #[error("the registry can't write its log")]
    Write(#[source] io::Error),
    #[error("the registry refuses schema `{name}`: {why}")]
    Refused { name: String, why: String },
}

impl Classify for RegistryError {
    fn kind(&self) -> Kind {
        match self {
            Self::File { .. } | Self::Refused { .. } => Kind::User,
            Self::Log { .. } => Kind::Data,
            Self::Listen { .. } | Self::Write(_) => Kind::External,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Listen { .. } => Some("port 0 picks a free one".to_owned()),
            Self::Log { path, .. } => Some(format!("move `{}` away to begin anew: ids stay the same", path.display())),
            Self::File { .. } | Self::Write(_) | Self::Refused { .. } => None,
        }
    }
}
