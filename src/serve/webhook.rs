//! The webhook: both handshakes of Event Grid, then its events, kept before they are answered for.
//!
//! | request | answers |
//! |---|---|
//! | `OPTIONS` | the permission that CloudEvents asks for (HTTP webhooks 1.0, section 4) |
//! | `POST` of a validation event | its code, as Event Grid's own schema has it |
//! | `POST` of events | 200 once they are kept |
//!
//! | else | why | Event Grid |
//! |---|---|---|
//! | 401 | neither the secret nor a token | gives the event up |
//! | 400, 413 | what it doesn't send | gives the event up |
//! | 408, 503 | too slow; no room, the disk, the keys of the tenant | tries again, for a day |
//!
//! The secret is asked for before the body is read, and nothing of a request goes to the log but
//! what came of it. What is lost here the next sweep finds.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Request, State as Shared};
use axum::http::header::{ALLOW, CONTENT_LENGTH, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use super::guard::{Denied, Guard};
use crate::config::spec::WebhookSpec;
use crate::pipeline::partition::report;
use crate::pipeline::webhook::{Intake, IntakeError};
use crate::telemetry::metrics;

/// Where Event Grid finds it.
pub const PATH: &str = "/eventgrid";

/// What a request may hold: twice the largest batch of Event Grid, 1 MiB, since its limit is preferred, not kept.
const BODY_BYTES_MAX: usize = 2 << 20;

/// Bodies that are read at once: what bounds the memory, together with their size.
const BODIES_MAX: usize = 32;

/// Event Grid gives up an answer after 30 s; a body that takes nearly as long helps nobody.
const BODY_WITHIN: Duration = Duration::from_secs(20);

/// Event Grid waits as long after a 503 by itself.
const AGAIN_AFTER: HeaderValue = HeaderValue::from_static("30");

const ASKED_ORIGIN: &str = "webhook-request-origin";
const ASKED_RATE: &str = "webhook-request-rate";
const ALLOWED_ORIGIN: HeaderName = HeaderName::from_static("webhook-allowed-origin");
const ALLOWED_RATE: HeaderName = HeaderName::from_static("webhook-allowed-rate");

const VALIDATION: &str = "Microsoft.EventGrid.SubscriptionValidationEvent";

/// The webhook of a server. Cheap to clone.
#[derive(Clone)]
pub struct Webhook(Arc<Inner>);

struct Inner {
    guard: Guard,
    intake: Intake,
    bodies: Semaphore,
}

impl Webhook {
    /// # Errors
    /// When there can be no HTTP client for the keys of the tenant.
    pub fn new(spec: &WebhookSpec, intake: Intake) -> Result<Self, reqwest::Error> {
        let guard = Guard::new(spec)?;
        Ok(Self(Arc::new(Inner { guard, intake, bodies: Semaphore::new(BODIES_MAX) })))
    }

    pub(super) fn router(self) -> Router {
        Router::new().route(PATH, post(events).options(permission)).with_state(self)
    }
}

/// What came of a request: the word of the metric, and the answer.
struct Refusal {
    outcome: &'static str,
    status: StatusCode,
    why: String,
}

impl Refusal {
    fn new(outcome: &'static str, status: StatusCode, why: impl Into<String>) -> Self {
        Self { outcome, status, why: why.into() }
    }

    fn torn(why: impl Into<String>) -> Self {
        Self::new("torn", StatusCode::BAD_REQUEST, why)
    }

    fn busy(why: impl Into<String>) -> Self {
        Self::new("busy", StatusCode::SERVICE_UNAVAILABLE, why)
    }
}

impl From<Denied> for Refusal {
    fn from(denied: Denied) -> Self {
        match denied {
            Denied::Nobody => Self::new("denied", StatusCode::UNAUTHORIZED, "neither the secret nor a token"),
            Denied::Token(why) => Self::new("denied", StatusCode::UNAUTHORIZED, why),
            Denied::Keys(why) => Self::busy(why),
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        metrics::webhook_request(self.outcome);
        let status = self.status.as_u16();
        // Whoever scans the web must not fill the log; what is wrong with a token is for the log alone.
        let said = if self.status == StatusCode::UNAUTHORIZED {
            tracing::debug!(status, why = self.why, "a request to the webhook was denied");
            String::new()
        } else {
            tracing::warn!(status, why = self.why, "a request to the webhook was refused");
            format!("{}\n", self.why)
        };
        let mut answer = (self.status, said).into_response();
        match self.status {
            StatusCode::UNAUTHORIZED => {
                answer.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            StatusCode::SERVICE_UNAVAILABLE => {
                answer.headers_mut().insert(RETRY_AFTER, AGAIN_AFTER);
            }
            _ => {}
        }
        answer
    }
}

/// May whoever asks send? One who knows the secret may, at any rate.
async fn permission(Shared(webhook): Shared<Webhook>, request: Request) -> Result<Response, Refusal> {
    let (parts, _) = request.into_parts();
    webhook.0.guard.admit_handshake(&parts.headers, parts.uri.query()).await?;
    let Some(origin) = parts.headers.get(ASKED_ORIGIN).cloned() else {
        return Err(Refusal::torn("`WebHook-Request-Origin` is missing"));
    };
    metrics::webhook_request("handshake");
    tracing::info!("a sender asked for permission, and has it");
    let mut answer = StatusCode::OK.into_response();
    answer.headers_mut().insert(ALLOWED_ORIGIN, origin);
    answer.headers_mut().insert(ALLOW, HeaderValue::from_static("POST, OPTIONS"));
    if parts.headers.contains_key(ASKED_RATE) {
        answer.headers_mut().insert(ALLOWED_RATE, HeaderValue::from_static("*"));
    }
    Ok(answer)
}

async fn events(Shared(webhook): Shared<Webhook>, request: Request) -> Result<Response, Refusal> {
    let (parts, body) = request.into_parts();
    webhook.0.guard.admit(&parts.headers, parts.uri.query()).await?;
    let Ok(_place) = webhook.0.bodies.try_acquire() else {
        return Err(Refusal::busy("too many requests at once"));
    };
    let body = whole(&parts.headers, body).await?;
    if let Some(code) = validation_code(&body) {
        metrics::webhook_request("handshake");
        tracing::info!("a subscription was validated");
        return Ok(axum::Json(json!({ "validationResponse": code })).into_response());
    }
    match webhook.0.intake.take(body).await {
        Ok(blobs) => {
            metrics::webhook_request("taken");
            tracing::debug!(blobs, "announcements were taken");
            Ok(StatusCode::OK.into_response())
        }
        Err(IntakeError::Torn(error)) => Err(Refusal::torn(error.to_string())),
        Err(IntakeError::Spool(error)) => {
            tracing::error!(error = report(&error), "announcements can't be kept");
            Err(Refusal::busy("announcements can't be kept now"))
        }
    }
}

async fn whole(headers: &HeaderMap, body: Body) -> Result<Bytes, Refusal> {
    let too_large = || Refusal::new("too_large", StatusCode::PAYLOAD_TOO_LARGE, "more than Event Grid sends");
    let claimed = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()).and_then(|text| text.parse().ok());
    if claimed.is_some_and(|claimed: usize| claimed > BODY_BYTES_MAX) {
        return Err(too_large());
    }
    match tokio::time::timeout(BODY_WITHIN, to_bytes(body, BODY_BYTES_MAX)).await {
        Ok(Ok(body)) => Ok(body),
        Ok(Err(error)) if is_of_length(&error) => Err(too_large()),
        Ok(Err(_)) => Err(Refusal::torn("the body broke off")),
        Err(_) => Err(Refusal::new("torn", StatusCode::REQUEST_TIMEOUT, "the body took too long")),
    }
}

fn is_of_length(error: &axum::Error) -> bool {
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = cause {
        if error.to_string().contains("length limit") {
            return true;
        }
        cause = error.source();
    }
    false
}

/// The code of a validation event, which comes alone.
fn validation_code(body: &[u8]) -> Option<String> {
    // Most requests are something else, and needn't be parsed twice.
    let is_likely = body.windows(VALIDATION.len()).any(|window| window == VALIDATION.as_bytes());
    let parsed: Value = if is_likely { serde_json::from_slice(body).ok()? } else { return None };
    let event = match &parsed {
        Value::Array(events) if events.len() == 1 => events.first()?,
        Value::Object(_) => &parsed,
        _ => return None,
    };
    let is_validation = event.get("eventType").and_then(Value::as_str) == Some(VALIDATION);
    let code = event.get("data")?.get("validationCode")?.as_str()?;
    is_validation.then(|| code.to_owned())
}
