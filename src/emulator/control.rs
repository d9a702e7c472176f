//! The control API: what no client of Azure can ask for, over plain HTTP on loopback.
//!
//! | request | does |
//! |---|---|
//! | `GET /healthz` (also `/health`) | says that it is there |
//! | `GET /hubs` | the hubs |
//! | `POST /hubs` `{"name":"leads","partitions":4}` | makes a hub |
//! | `POST /hubs/{name}/remake` | makes it anew: empty, numbers from 0, another `created_at` |
//! | `GET /hubs/{name}/partitions/{id}` | first and last number, and what they belong to |
//! | `POST /hubs/{name}/partitions/{id}/expire` `{"before":100}` | lets retention take what lies before |
//! | `GET`, `POST`, `DELETE /faults` | what still is to fail; a [`Fault`] more; none of them |
//! | `PUT /retention` `{"max_events":100,"max_age":"1h"}` | other bounds; `null` for none |
//! | `POST /registry/fail` `{"times":3,"status":503}` | the registry's next answers; `schema_id`, `delay` |
//! | `GET /registry/served` | how often each of its operations was asked for |
//! | `GET /announcements` | what became of the announcements of captures, by queue and by webhook |
//! | `GET`, `PUT /announcements/faults` `{"lost":0.2}` | which share of those to come is to be `lost`, `duplicated`, `delayed`, `reordered`, within which `delay` |
//! | `GET /token` | a token of a managed identity, as App Service hands it out |
//!
//! The token endpoint is what `IDENTITY_ENDPOINT` and `IDENTITY_HEADER` point the official clients'
//! `ManagedIdentityCredential` to. Broker and registry accept its tokens.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use chrono::Utc;
use serde::Deserialize;
use serde_json::{Value, json};

use super::announce::{AnnounceFaults, Announcing};
use super::http::HttpServer;
use super::registry::{Registry, RegistryAction, RegistryFault};
use super::{Broker, BrokerError, Fault, HubSpec, Retention};
use crate::config::spec::Secret;
use crate::error::{Classify, Kind};

/// As long as Entra's usual tokens; the clients ask again some minutes before.
const TOKEN_LIFE: Duration = Duration::from_secs(3600);

pub(crate) struct ControlOptions {
    pub(crate) port: u16,
    pub(crate) token: Secret,
    pub(crate) broker: Broker,
    pub(crate) registry: Arc<Registry>,
    pub(crate) announcing: Option<Arc<Announcing>>,
}

/// A running control API; dropped, it ends at once.
#[derive(Debug)]
pub(crate) struct Control {
    server: HttpServer,
}

impl Control {
    /// # Errors
    /// When the port is taken.
    pub(crate) async fn start(options: ControlOptions) -> Result<Self, ControlError> {
        let port = options.port;
        let router = Router::new()
            .route("/healthz", get(healthz))
            .route("/health", get(healthz))
            .route("/hubs", get(hubs).post(make_hub))
            .route("/hubs/{hub}/remake", post(remake_hub))
            .route("/hubs/{hub}/partitions/{partition}", get(partition))
            .route("/hubs/{hub}/partitions/{partition}/expire", post(expire))
            .route("/faults", get(faults).post(inject).delete(clear_faults))
            .route("/retention", put(set_retention))
            .route("/registry/fail", post(fail_registry))
            .route("/registry/served", get(registry_served))
            .route("/announcements", get(announcements))
            .route("/announcements/faults", get(announce_faults).put(order_announce_faults))
            .route("/token", get(token))
            .with_state(Arc::new(options));
        let server =
            HttpServer::start(port, None, router).await.map_err(|source| ControlError::Listen { port, source })?;
        Ok(Self { server })
    }

    pub(crate) fn url(&self) -> String {
        self.server.url()
    }

    pub(crate) async fn stop(&self) {
        self.server.stop().await;
    }
}

type Shared = State<Arc<ControlOptions>>;

async fn healthz() -> Json<Value> {
    Json(json!({ "status": "ok" }))
}

async fn hubs(State(shared): Shared) -> Json<Value> {
    Json(json!({ "hubs": shared.broker.hubs() }))
}

async fn make_hub(State(shared): Shared, Json(hub): Json<HubSpec>) -> Result<Response, Refused> {
    shared.broker.create_hub(hub)?;
    Ok(StatusCode::CREATED.into_response())
}

async fn remake_hub(State(shared): Shared, Path(hub): Path<String>) -> Result<Response, Refused> {
    shared.broker.remake_hub(&hub)?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

async fn partition(
    State(shared): Shared,
    Path((hub, partition)): Path<(String, String)>,
) -> Result<Json<Value>, Refused> {
    Ok(Json(json!(shared.broker.partition(&hub, &partition)?)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Expire {
    before: i64,
}

async fn expire(
    State(shared): Shared,
    Path((hub, partition)): Path<(String, String)>,
    Json(Expire { before }): Json<Expire>,
) -> Result<Response, Refused> {
    shared.broker.expire_before(&hub, &partition, before)?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

async fn faults(State(shared): Shared) -> Json<Value> {
    let registry: Vec<Value> = shared.registry.faults().iter().map(registry_fault).collect();
    Json(json!({ "faults": shared.broker.faults(), "registry": registry }))
}

async fn inject(State(shared): Shared, Json(fault): Json<Fault>) -> StatusCode {
    shared.broker.inject(fault);
    StatusCode::CREATED
}

async fn clear_faults(State(shared): Shared) -> StatusCode {
    shared.broker.clear_faults();
    shared.registry.clear_faults();
    StatusCode::NO_CONTENT
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewRetention {
    max_events: Option<u64>,
    max_age: Option<String>,
}

async fn set_retention(State(shared): Shared, Json(new): Json<NewRetention>) -> Result<Response, Refused> {
    let max_age = new.max_age.as_deref().map(duration).transpose()?;
    shared.broker.set_retention(Retention { max_events: new.max_events, max_age });
    Ok(StatusCode::NO_CONTENT.into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FailRegistry {
    times: u32,
    status: Option<u16>,
    delay: Option<String>,
    schema_id: Option<String>,
}

async fn fail_registry(State(shared): Shared, Json(asked): Json<FailRegistry>) -> Result<Response, Refused> {
    let action = match (asked.status, asked.delay) {
        (Some(status @ 400..600), None) => RegistryAction::Status(status),
        (None, Some(delay)) => RegistryAction::Delay(duration(&delay)?),
        _ => return Err(Refused::bad("either `status`, from 400 to 599, or `delay`, as in `2s`")),
    };
    if asked.times == 0 {
        return Err(Refused::bad("`times` is at least 1"));
    }
    shared.registry.fail(RegistryFault { schema_id: asked.schema_id, times: asked.times, action });
    Ok(StatusCode::CREATED.into_response())
}

async fn registry_served(State(shared): Shared) -> Json<Value> {
    Json(json!(shared.registry.served()))
}

async fn announcements(State(shared): Shared) -> Json<Value> {
    let counts = shared.announcing.iter().flat_map(|announcing| announcing.counts());
    Json(counts.map(|(listener, counts)| (listener.to_owned(), json!(counts))).collect())
}

fn announcing(shared: &ControlOptions) -> Result<&Announcing, Refused> {
    shared
        .announcing
        .as_deref()
        .ok_or_else(|| Refused::bad("nothing is announced: start it with `--announce-queue` or `--announce-webhook`"))
}

async fn announce_faults(State(shared): Shared) -> Result<Json<Value>, Refused> {
    Ok(Json(json!(announcing(&shared)?.faults())))
}

async fn order_announce_faults(
    State(shared): Shared,
    Json(faults): Json<AnnounceFaults>,
) -> Result<StatusCode, Refused> {
    if !faults.are_shares() {
        return Err(Refused::bad("a share is a number from 0 to 1"));
    }
    announcing(&shared)?.order(faults);
    Ok(StatusCode::NO_CONTENT)
}

fn registry_fault(fault: &RegistryFault) -> Value {
    let (status, delay) = match fault.action {
        RegistryAction::Status(status) => (Some(status), None),
        RegistryAction::Delay(delay) => (None, Some(humantime::format_duration(delay).to_string())),
    };
    json!({ "schema_id": fault.schema_id, "times": fault.times, "status": status, "delay": delay })
}

#[derive(Deserialize)]
struct TokenQuery {
    resource: Option<String>,
    client_id: Option<String>,
}

async fn token(
    State(shared): Shared,
    Query(query): Query<TokenQuery>,
    headers: HeaderMap,
) -> Result<Json<Value>, Refused> {
    // App Service has it so that a page in a browser can't be made to fetch a token.
    if headers.get("x-identity-header").is_none_or(|value| value.is_empty()) {
        return Err(Refused::bad("the header `X-IDENTITY-HEADER` is missing: set IDENTITY_HEADER to anything"));
    }
    let resource = query.resource.ok_or_else(|| Refused::bad("`resource` is missing"))?;
    let expires_on = Utc::now() + TOKEN_LIFE;
    Ok(Json(json!({
        "access_token": shared.token.reveal(),
        // Text, as the service has it; the official clients refuse a number.
        "expires_on": expires_on.timestamp().to_string(),
        "resource": resource,
        "token_type": "Bearer",
        "client_id": query.client_id,
    })))
}

fn duration(text: &str) -> Result<Duration, Refused> {
    humantime::parse_duration(text).map_err(|error| Refused::bad(&format!("`{text}` is not a duration: {error}")))
}

struct Refused {
    status: StatusCode,
    message: String,
}

impl Refused {
    fn bad(message: &str) -> Self {
        Self { status: StatusCode::BAD_REQUEST, message: message.to_owned() }
    }
}

impl From<BrokerError> for Refused {
    fn from(error: BrokerError) -> Self {
        let status = match &error {
            BrokerError::UnknownHub { .. } | BrokerError::UnknownPartition { .. } => StatusCode::NOT_FOUND,
            BrokerError::HubExists { .. } => StatusCode::CONFLICT,
            other if other.kind() == Kind::User => StatusCode::BAD_REQUEST,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self { status, message: error.to_string() }
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        (self.status, Json(json!({ "error": self.message }))).into_response()
    }
}

/// Why there is no control API.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    #[error("the control API can't listen on port {port} of 127.0.0.1")]
    Listen {
        port: u16,
        #[source]
        source: io::Error,
    },
}

impl Classify for ControlError {
    fn kind(&self) -> Kind {
        Kind::External
    }

    fn hint(&self) -> Option<String> {
        Some("`--control-port 0` picks a free one".to_owned())
    }
}
