//! A webhook as Event Grid calls it: asked first whether it wants to be told, then told.

use std::fmt;
use std::time::Duration;

use chrono::Utc;
use reqwest::header::CONTENT_TYPE;
use reqwest::{Client, Method, Response, StatusCode};
use serde_json::{Value, json};
use url::Url;
use uuid::Uuid;

use super::event::{Envelope, EventSchema, envelope};

/// Event Grid waits so long for an answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// Who asks, by the words of the CloudEvents handshake.
const ORIGIN: &str = "eventgrid.azure.net";

/// What a webhook says to an event.
pub(super) enum Answer {
    Taken,
    /// Event Grid doesn't try again after these.
    Refused(String),
    Failed(String),
}

pub(super) struct Webhook {
    url: Url,
    schema: EventSchema,
    client: Client,
}

impl fmt::Display for Webhook {
    /// Without its query, which may be a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = self.url.host_str().unwrap_or_default();
        let port = self.url.port_or_known_default().unwrap_or_default();
        write!(f, "{}://{host}:{port}{}", self.url.scheme(), self.url.path())
    }
}

impl Webhook {
    pub(super) fn new(url: Url, schema: EventSchema) -> Result<Self, reqwest::Error> {
        let client = Client::builder().timeout(ANSWER_WITHIN).redirect(reqwest::redirect::Policy::none()).build()?;
        Ok(Self { url, schema, client })
    }

    /// Asks the webhook whether it wants to be told, as the schema has it.
    pub(super) async fn shake_hands(&self) -> Result<(), String> {
        match self.schema {
            EventSchema::EventGrid => self.validate().await,
            EventSchema::CloudEvents => self.ask_for_permission().await,
        }
    }

    async fn validate(&self) -> Result<(), String> {
        let code = Uuid::new_v4().to_string();
        let event = envelope(
            EventSchema::EventGrid,
            &Envelope {
                id: &Uuid::new_v4().to_string(),
                kind: "Microsoft.EventGrid.SubscriptionValidationEvent",
                topic: "",
                subject: "",
                time: &Utc::now().format("%Y-%m-%dT%H:%M:%S%.6f0Z").to_string(),
                data: json!({ "validationCode": code }),
            },
        );
        let request = self
            .client
            .post(self.url.clone())
            .header(CONTENT_TYPE, "application/json; charset=utf-8")
            .header("aeg-event-type", "SubscriptionValidation")
            .header("aeg-subscription-name", "EMULATOR")
            .body(json!([event]).to_string());
        let answer = request.send().await.map_err(words)?;
        // 202 would do for an event, and doesn't for this.
        if answer.status() != StatusCode::OK {
            return Err(format!("it answers {} to the validation event", answer.status()));
        }
        let said: Value = answer.json().await.map_err(words)?;
        let is_echoed = said.get("validationResponse").and_then(Value::as_str) == Some(code.as_str());
        is_echoed.then_some(()).ok_or_else(|| "it doesn't answer with the validation code".to_owned())
    }

    /// The abuse protection of CloudEvents 1.0: HTTP webhooks, section 4.
    async fn ask_for_permission(&self) -> Result<(), String> {
        let request = self
            .client
            .request(Method::OPTIONS, self.url.clone())
            .header("WebHook-Request-Origin", ORIGIN)
            .header("WebHook-Request-Rate", "120");
        let answer = request.send().await.map_err(words)?;
        if answer.status() != StatusCode::OK {
            return Err(format!("it answers {} when asked for permission", answer.status()));
        }
        let header = |name: &str| answer.headers().get(name).and_then(|value| value.to_str().ok());
        match header("WebHook-Allowed-Origin") {
            Some(ORIGIN | "*") if header("WebHook-Allowed-Rate").is_some() => Ok(()),
            Some(ORIGIN | "*") => Err("it allows no rate".to_owned()),
            _ => Err(format!("it doesn't allow `{ORIGIN}`")),
        }
    }

    /// One event in one request, which was sent `tries` times before.
    pub(super) async fn send(&self, event: &str, tries: u32) -> Answer {
        let (content_type, body) = match self.schema {
            EventSchema::EventGrid => ("application/json; charset=utf-8", format!("[{event}]")),
            EventSchema::CloudEvents => ("application/cloudevents+json; charset=utf-8", event.to_owned()),
        };
        let request = self
            .client
            .post(self.url.clone())
            .header(CONTENT_TYPE, content_type)
            .header("aeg-event-type", "Notification")
            .header("aeg-delivery-count", tries)
            .body(body);
        match request.send().await {
            Ok(answer) => answer_of(&answer),
            Err(error) => Answer::Failed(words(error)),
        }
    }
}

fn answer_of(answer: &Response) -> Answer {
    let why = || format!("it answers {}", answer.status());
    match answer.status().as_u16() {
        200..=204 => Answer::Taken,
        400 | 401 | 403 | 413 => Answer::Refused(why()),
        _ => Answer::Failed(why()),
    }
}

/// Without the address: its query may be a secret.
fn words(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut words = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(error) = cause {
        words = format!("{words}: {error}");
        cause = error.source();
    }
    words
}
