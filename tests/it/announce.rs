//! What the emulator announces, as a webhook hears it.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use serde_json::{Value, json};
use sluicebox::config::capture_name::{DEFAULT_TEMPLATE, NameTemplate};
use sluicebox::emulator::HubSpec;
use sluicebox::emulator::announce::{AnnounceFaults, AnnounceOptions, AnnouncedAs, EventSchema};
use sluicebox::emulator::capture::{CaptureCodec, CaptureOptions, EmptyWindows};
use sluicebox::emulator::together::{Emulator, EmulatorOptions};
use sluicebox::source::capture::{Notice, notices};
use sluicebox::storage::Location;
use tokio::task::JoinSet;

/// Far beyond what any of these tests takes: a hang fails instead of standing.
const PATIENCE: Duration = Duration::from_secs(60);

/// A webhook that hears everything, and answers as it is told.
struct Ear {
    url: url::Url,
    heard: Arc<Mutex<Vec<Heard>>>,
    _serving: JoinSet<()>,
}

#[derive(Debug, Clone)]
struct Heard {
    method: Method,
    headers: HeaderMap,
    body: String,
}

impl Heard {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    fn notices(&self) -> Vec<Notice> {
        notices(self.body.as_bytes()).expect("what Event Grid sends")
    }
}

type Answers = fn(usize, &Heard) -> Response;

impl Ear {
    /// `answers` is given how many requests came before.
    async fn new(answers: Answers) -> Self {
        type Shared = (Arc<Mutex<Vec<Heard>>>, Answers);
        async fn hear(State((heard, answers)): State<Shared>, request: Request) -> Response {
            let (parts, body) = request.into_parts();
            let body = axum::body::to_bytes(body, usize::MAX).await.expect("a body");
            let body = String::from_utf8(body.to_vec()).expect("a text");
            let one = Heard { method: parts.method, headers: parts.headers, body };
            let mut heard = heard.lock().expect("not poisoned");
            heard.push(one.clone());
            answers(heard.len() - 1, &one)
        }
        let heard = Arc::default();
        let router = Router::new().route("/hook", any(hear)).with_state((Arc::clone(&heard), answers));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}/hook?code=secret", listener.local_addr().expect("an address"));
        let mut serving = JoinSet::new();
        serving.spawn(async move { axum::serve(listener, router).await.expect("it serves") });
        Self { url: url.parse().expect("a URL"), heard, _serving: serving }
    }

    fn heard(&self) -> Vec<Heard> {
        self.heard.lock().expect("not poisoned").clone()
    }
}

/// Agrees to either handshake, and takes what comes.
fn agree(_: usize, heard: &Heard) -> Response {
    if heard.method == Method::OPTIONS {
        let allowed = [("WebHook-Allowed-Origin", "eventgrid.azure.net"), ("WebHook-Allowed-Rate", "*")];
        return allowed.into_response();
    }
    let body: Value = serde_json::from_str(&heard.body).expect("JSON");
    match body[0]["data"]["validationCode"].as_str() {
        Some(code) => axum::Json(json!({ "validationResponse": code })).into_response(),
        None => StatusCode::OK.into_response(),
    }
}

/// An emulator that captures into `folder` and announces it there.
async fn emulator(folder: &std::path::Path, ear: &Ear, event: AnnouncedAs, schema: EventSchema) -> Emulator {
    let capture = CaptureOptions {
        location: Location::resolve(&folder.to_string_lossy(), None).expect("an absolute folder"),
        template: NameTemplate::parse(DEFAULT_TEMPLATE).expect("a template"),
        namespace: "emulator".to_owned(),
        window: Duration::from_millis(100),
        window_bytes: u64::MAX,
        empty: EmptyWindows::Skipped,
        codec: CaptureCodec::Null,
    };
    let announce = AnnounceOptions {
        queue: None,
        webhook: Some(ear.url.clone()),
        event,
        schema,
        retry: Duration::from_millis(10),
        faults: AnnounceFaults::default(),
        seed: 1,
    };
    let (capture, announce) = (Some(capture), Some(announce));
    let hubs = vec![HubSpec::new("leads", 1)];
    let options = EmulatorOptions { hubs, capture, announce, ..EmulatorOptions::default() };
    Emulator::start(options).await.expect("an emulator")
}

/// Captures `count` events as one blob, and waits until `said` holds of what became of it.
async fn capture(emulator: &Emulator, count: usize, said: impl Fn(&Value) -> bool) {
    emulator.broker().append("leads", "0", vec![Default::default(); count]).expect("events");
    let url = format!("{}/announcements", emulator.addresses().control);
    let told = async {
        loop {
            let told: Value = reqwest::get(&url).await.expect("an answer").json().await.expect("JSON");
            if said(&told["webhook"]) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, told).await.expect("it is told in time");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_is_asked_first_and_told_then() {
    for schema in [EventSchema::EventGrid, EventSchema::CloudEvents] {
        for event in [AnnouncedAs::CaptureFileCreated, AnnouncedAs::BlobCreated] {
            let folder = tempfile::tempdir().expect("a folder");
            let ear = Ear::new(agree).await;
            let emulator = emulator(folder.path(), &ear, event, schema).await;
            capture(&emulator, 7, |told| told["sent"] == 1).await;
            emulator.stop().await;
            let heard = ear.heard();
            let [asked, told] = heard.as_slice() else { panic!("{heard:?}") };
            match schema {
                EventSchema::EventGrid => {
                    assert_eq!(
                        (&asked.method, asked.header("aeg-event-type")),
                        (&Method::POST, "SubscriptionValidation")
                    );
                    assert!(told.body.starts_with('['), "an array of one: {}", told.body);
                }
                EventSchema::CloudEvents => {
                    let origin = asked.header("WebHook-Request-Origin");
                    assert_eq!((&asked.method, origin), (&Method::OPTIONS, "eventgrid.azure.net"));
                    assert_eq!(told.header("content-type"), "application/cloudevents+json; charset=utf-8");
                }
            }
            assert_eq!(told.header("aeg-event-type"), "Notification");
            let announced = told.notices();
            let [notice] = announced.as_slice() else { panic!("{announced:?}") };
            let path = notice.url.strip_prefix("file://").expect("the URL of a file");
            assert!(std::path::Path::new(path).is_file(), "{path}");
            let holds = notice.holds.as_ref().map(|holds| (holds.partition.as_str(), holds.events, holds.range.to));
            assert_eq!(holds, (event == AnnouncedAs::CaptureFileCreated).then_some(("0", 7, 7)));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_told_to_who_does_not_agree() {
    let folder = tempfile::tempdir().expect("a folder");
    // The first two answers won't do: one that accepts without the code, and another code.
    let ear = Ear::new(|before, heard| match before {
        0 => StatusCode::ACCEPTED.into_response(),
        1 => axum::Json(json!({ "validationResponse": "guess" })).into_response(),
        _ => agree(before, heard),
    });
    let ear = ear.await;
    let emulator = emulator(folder.path(), &ear, AnnouncedAs::default(), EventSchema::EventGrid).await;
    capture(&emulator, 1, |told| told["sent"] == 1).await;
    emulator.stop().await;
    let kinds: Vec<_> = ear.heard().iter().map(|heard| heard.header("aeg-event-type").to_owned()).collect();
    assert_eq!(kinds, ["SubscriptionValidation", "SubscriptionValidation", "SubscriptionValidation", "Notification"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_webhook_cannot_take_now_comes_again_and_what_it_refuses_does_not() {
    let folder = tempfile::tempdir().expect("a folder");
    let ear = Ear::new(|before, heard| match before {
        1 | 2 => StatusCode::SERVICE_UNAVAILABLE.into_response(),
        4 => StatusCode::UNAUTHORIZED.into_response(),
        _ => agree(before, heard),
    });
    let ear = ear.await;
    let emulator = emulator(folder.path(), &ear, AnnouncedAs::default(), EventSchema::EventGrid).await;
    capture(&emulator, 1, |told| told["sent"] == 1 && told["retried"] == 2).await;
    capture(&emulator, 1, |told| told["dropped"] == 1).await;
    emulator.stop().await;
    let heard = ear.heard();
    let tries: Vec<_> = heard[1..].iter().map(|heard| heard.header("aeg-delivery-count")).collect();
    assert_eq!(tries, ["0", "1", "2", "0"]);
    assert!(heard[1].body == heard[2].body && heard[2].body == heard[3].body, "it is the same event");
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_are_ordered_while_it_runs() {
    let folder = tempfile::tempdir().expect("a folder");
    let ear = Ear::new(agree).await;
    let emulator = emulator(folder.path(), &ear, AnnouncedAs::default(), EventSchema::CloudEvents).await;
    let order = async |faults: Value| {
        let url = format!("{}/announcements/faults", emulator.addresses().control);
        let answer = reqwest::Client::new().put(url).json(&faults).send().await.expect("an answer");
        answer.status().as_u16()
    };
    assert_eq!(order(json!({"lost": 1.5})).await, 400);
    assert_eq!(order(json!({"lost": 1})).await, 204);
    capture(&emulator, 1, |told| told["lost"] == 1).await;
    assert_eq!(order(json!({"duplicated": 1, "delay": "1ms"})).await, 204);
    capture(&emulator, 1, |told| told["duplicated"] == 1 && told["sent"] == 2).await;
    emulator.stop().await;
    let told: Vec<_> = ear.heard().iter().skip(1).flat_map(Heard::notices).collect();
    let firsts: Vec<_> = told.iter().filter_map(|notice| notice.holds.as_ref()).map(|holds| holds.range.from).collect();
    assert_eq!(firsts, [1, 1], "the blob of event 0 was lost, that of event 1 came twice");
}
