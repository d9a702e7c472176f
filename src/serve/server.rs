//! The server: binds, answers, ends.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::extract::State as Shared;
use axum::http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::page;
use super::webhook::Webhook;
use crate::error::{Classify, Kind};
use crate::pipeline::status::{PipelineSnapshot, PipelineStatus, State};
use crate::telemetry::metrics::{self, MetricsHandle};

/// How often histograms are drained where nobody scrapes: they hold every value until then.
const UPKEEP_EVERY: Duration = Duration::from_secs(10);

/// How long a stop waits for answers on their way; a connection held open doesn't hold the exit.
const STOP_WITHIN: Duration = Duration::from_secs(2);

#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("can't listen on `{address}`")]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error("the webhook can't have an HTTP client")]
    Webhook(#[from] reqwest::Error),
}

impl Classify for ServeError {
    fn kind(&self) -> Kind {
        Kind::External
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Listen { .. } => Some("set `[serve] address` in sluice.toml; port 0 picks a free one".to_owned()),
            Self::Webhook(_) => None,
        }
    }
}

/// A server at work; dropping it ends it at once.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

/// Starts to serve, with a webhook where one is declared; port 0 picks a free one.
///
/// # Errors
/// [`ServeError::Listen`] where the address is taken or isn't this machine's.
pub async fn start(
    address: SocketAddr,
    pipelines: Arc<Vec<PipelineStatus>>,
    webhook: Option<Webhook>,
) -> Result<Server, ServeError> {
    let failed = |source| ServeError::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    let has_webhook = webhook.is_some();
    let webhook = webhook.map_or_else(Router::new, Webhook::router);
    let told = Told { pipelines, metrics: recorder().clone() };
    let stop = CancellationToken::new();
    let mut tasks = JoinSet::new();
    tasks.spawn(keep_up(told.metrics.clone(), stop.clone()));
    let asked_to_stop = stop.clone().cancelled_owned();
    tasks.spawn(async move {
        let serving = axum::serve(listener, router(told).merge(webhook)).with_graceful_shutdown(asked_to_stop);
        if let Err(error) = serving.await {
            tracing::warn!(%error, "the HTTP server ended");
        }
    });
    tracing::info!(%address, "serving `/`, `/healthz`, `/readyz` and `/metrics`");
    if has_webhook {
        tracing::info!(%address, "serving the webhook of Event Grid at `{}`", super::webhook::PATH);
    }
    Ok(Server { address, stop, tasks })
}

impl Server {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes no more connections, answers what was asked, ends.
    pub async fn stop(mut self) {
        self.stop.cancel();
        let ended = tokio::time::timeout(STOP_WITHIN, async { while self.tasks.join_next().await.is_some() {} });
        if ended.await.is_err() {
            tracing::debug!("connections were still open when the HTTP server ended");
        }
    }
}

/// The recorder of the process: installed with the first server, shared by all after it.
fn recorder() -> &'static MetricsHandle {
    static RECORDER: OnceLock<MetricsHandle> = OnceLock::new();
    RECORDER.get_or_init(|| metrics::install().expect("nothing else installs a recorder"))
}

async fn keep_up(metrics: MetricsHandle, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(UPKEEP_EVERY);
    loop {
        tokio::select! {
            _ = ticks.tick() => metrics.upkeep(),
            () = stop.cancelled() => return,
        }
    }
}

/// What the handlers read.
#[derive(Clone)]
struct Told {
    pipelines: Arc<Vec<PipelineStatus>>,
    metrics: MetricsHandle,
}

impl Told {
    fn snapshots(&self) -> Vec<PipelineSnapshot> {
        self.pipelines.iter().map(PipelineStatus::snapshot).collect()
    }
}

fn router(told: Told) -> Router {
    Router::new()
        .route("/", get(index))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(scrape))
        .with_state(told)
}

#[derive(Serialize)]
struct Index {
    pipelines: Vec<PipelineSnapshot>,
}

async fn index(Shared(told): Shared<Told>, headers: HeaderMap) -> Response {
    let pipelines = told.snapshots();
    let never_stored = [(CACHE_CONTROL, "no-store"), (X_CONTENT_TYPE_OPTIONS, "nosniff")];
    if wants_json(&headers) {
        return (never_stored, Json(Index { pipelines })).into_response();
    }
    (never_stored, Html(page::html(&pipelines))).into_response()
}

/// A browser names `text/html`; what asks for JSON alone is a script.
fn wants_json(headers: &HeaderMap) -> bool {
    let accepted = headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    accepted.contains("application/json") && !accepted.contains("text/html")
}

async fn ready(Shared(told): Shared<Told>) -> (StatusCode, String) {
    let waiting: Vec<String> = told.snapshots().iter().filter_map(not_ready).collect();
    if waiting.is_empty() {
        return (StatusCode::OK, "ready\n".to_owned());
    }
    (StatusCode::SERVICE_UNAVAILABLE, waiting.join("\n") + "\n")
}

/// Why a pipeline isn't at work.
fn not_ready(pipeline: &PipelineSnapshot) -> Option<String> {
    if matches!(pipeline.state, State::Running | State::Waiting) {
        return None;
    }
    let why = pipeline.error.as_ref().map(|error| format!(": {error}")).unwrap_or_default();
    Some(format!("pipeline `{}` is {}{why}", pipeline.name, page::state_word(pipeline.state)))
}

async fn scrape(Shared(told): Shared<Told>) -> Response {
    let content_type = [(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    (content_type, told.metrics.render()).into_response()
}
