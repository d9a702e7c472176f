//! Confluent's framing and registry, against a server of the wire format: no real one can be had here.

use std::net::SocketAddr;
use std::path::Path as Folder;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU16};

use axum::Router;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, Uri};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sluicebox::config::spec::Secret;
use sluicebox::decode::{ConfluentRegistry, DecodeError};
use sluicebox::error::{Classify, Kind, Retry};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::*;

const USER: &str = "key";
const PASSWORD: &str = "se:cret";

/// The registry as its documentation lays it out: schemas by id, parts by subject and version, refusals with codes.
struct Desk {
    by_id: Mutex<HashMap<u32, Json>>,
    by_subject: HashMap<(String, i64), Json>,
    requests: Mutex<Vec<String>>,
    /// Answers everything, when it isn't 200.
    status: AtomicU16,
    /// Whether a path in between doesn't lead to a registry at all.
    is_elsewhere: AtomicBool,
    gate: Semaphore,
}

struct Server {
    address: SocketAddr,
    desk: Arc<Desk>,
    _tasks: JoinSet<()>,
}

async fn serve(by_id: &[(u32, Json)], by_subject: &[(&str, i64, Json)]) -> Server {
    let desk = Arc::new(Desk {
        by_id: Mutex::new(by_id.iter().cloned().collect()),
        by_subject: by_subject
            .iter()
            .map(|(name, version, held)| (((*name).to_owned(), *version), held.clone()))
            .collect(),
        requests: Mutex::default(),
        status: AtomicU16::new(200),
        is_elsewhere: AtomicBool::new(false),
        gate: Semaphore::new(Semaphore::MAX_PERMITS),
    });
    let app = Router::new()
        .route("/registry/schemas/ids/{id}", axum::routing::get(schema))
        .route("/registry/subjects/{subject}/versions/{version}", axum::routing::get(subject))
        .with_state(desk.clone());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { axum::serve(listener, app).await.expect("served") });
    Server { address, desk, _tasks: tasks }
}

async fn schema(
    State(desk): State<Arc<Desk>>,
    Path(id): Path<u32>,
    uri: Uri,
    headers: HeaderMap,
) -> (StatusCode, String) {
    let held = desk.by_id.lock().expect("schemas").get(&id).cloned();
    desk.answer(&uri, &headers, held, 40_403).await
}

async fn subject(
    State(desk): State<Arc<Desk>>,
    Path(named): Path<(String, i64)>,
    uri: Uri,
    headers: HeaderMap,
) -> (StatusCode, String) {
    desk.answer(&uri, &headers, desk.by_subject.get(&named).cloned(), 40_402).await
}

impl Desk {
    async fn answer(&self, uri: &Uri, headers: &HeaderMap, held: Option<Json>, code: u32) -> (StatusCode, String) {
        self.requests.lock().expect("requests").push(uri.to_string());
        let _permit = self.gate.acquire().await.expect("the gate");
        let sign_in = format!("Basic {}", STANDARD.encode(format!("{USER}:{PASSWORD}")));
        if headers.get("authorization").is_none_or(|sent| sent.as_bytes() != sign_in.as_bytes()) {
            return (StatusCode::UNAUTHORIZED, json!({"error_code": 401, "message": "Unauthorized"}).to_string());
        }
        match (self.status.load(Ordering::Relaxed), held) {
            _ if self.is_elsewhere.load(Ordering::Relaxed) => {
                (StatusCode::NOT_FOUND, json!({"error_code": 404, "message": "HTTP 404 Not Found"}).to_string())
            }
            (200, Some(held)) => (StatusCode::OK, held.to_string()),
            (200, None) => (StatusCode::NOT_FOUND, json!({"error_code": code, "message": "not found"}).to_string()),
            (status, _) => (StatusCode::from_u16(status).expect("a status"), String::new()),
        }
    }
}

impl Server {
    fn registry(&self, cache: Option<&Folder>) -> Arc<ConfluentRegistry> {
        self.registry_of(cache, Some((USER.to_owned(), Secret::new(PASSWORD))))
    }

    fn registry_of(&self, cache: Option<&Folder>, credential: Option<(String, Secret)>) -> Arc<ConfluentRegistry> {
        let url = format!("http://{}/registry/", self.address);
        Arc::new(ConfluentRegistry::open(&url, cache.map(Folder::to_path_buf), credential).expect("a registry"))
    }

    fn requests(&self) -> Vec<String> {
        self.desk.requests.lock().expect("requests").clone()
    }

    fn answer(&self, status: u16) {
        self.desk.status.store(status, Ordering::Relaxed);
    }
}

fn framed(number: i64, id: u32) -> Event {
    event(number, None, [&[0][..], &id.to_be_bytes(), &lead_bytes(number)].concat())
}

fn open(registry: Arc<ConfluentRegistry>) -> Decoder {
    by_content_type(registry)
}

#[tokio::test]
async fn a_body_behind_the_magic_byte_is_a_datum_of_the_schema_with_that_number() {
    let server = serve(&[(258, json!({"schema": LEAD}))], &[]).await;
    let decoder = open(server.registry(None));
    let events = batch(vec![framed(0, 258), event(1, None, vec![2, 0, 0, 1, 2]), framed(2, 258), framed(3, 7)]);
    let decoded = decoder.decode(events.clone()).await.expect("decoded");
    let [rows] = decoded.batches.as_slice() else { panic!("one batch") };
    assert_eq!(rows.column_by_name("lead_id").expect("the column").as_string::<i32>().value(1), "lead-2");
    let ids = rows.column_by_name(bronze::SCHEMA_ID).expect("the column").as_string::<i32>();
    assert_eq!(ids.iter().flatten().collect::<Vec<_>>(), ["258", "258"]);
    let [bare, unknown] = decoded.rejects.as_slice() else { panic!("two rejects") };
    assert_eq!((bare.class, bare.framing, bare.schema_id.as_deref()), (RejectClass::Framing, "unknown", None));
    assert_eq!(
        (unknown.class, unknown.framing, unknown.schema_id.as_deref(), unknown.text.as_str()),
        (RejectClass::SchemaNotFound, "confluent", Some("7"), "the registry has no schema `7`")
    );
    assert_eq!(unknown.event.body, events.events[3].body, "with the bytes before the datum");
}

#[tokio::test]
async fn a_schema_is_asked_for_once_however_many_ask_and_survives_an_outage_and_a_restart() {
    let dir = tempfile::tempdir().expect("a folder");
    let server = serve(&[(1, json!({"schema": LEAD, "schemaType": "AVRO", "references": []}))], &[]).await;
    server.desk.gate.forget_permits(Semaphore::MAX_PERMITS);
    let registry = server.registry(Some(dir.path()));
    let mut askers = JoinSet::new();
    for _ in 0..20 {
        let registry = registry.clone();
        askers.spawn(async move { registry.schema("1").await.map(|schema| schema.text.clone()) });
    }
    tokio::task::yield_now().await;
    server.desk.gate.add_permits(1);
    assert!(askers.join_all().await.iter().all(|answer| answer.as_deref().is_ok_and(|text| text == LEAD)));
    assert_eq!(server.requests(), ["/registry/schemas/ids/1"]);

    server.answer(503);
    server.desk.gate.add_permits(100);
    let decoder = open(server.registry(Some(dir.path())));
    let decoded = decoder.decode(batch(vec![framed(0, 1)])).await.expect("the disk has it");
    assert_eq!((decoded.batches[0].num_rows(), server.requests().len()), (1, 1));
    // An id that isn't known yet is no reject while nobody can be asked.
    let error = decoder.decode(batch(vec![framed(0, 2)])).await.expect_err("an outage");
    assert!(matches!(&error, DecodeError::Registry { id, .. } if id == "2"));
    assert_eq!((error.kind(), error.retry()), (Kind::External, Retry::Backoff));
    // And who doesn't meet it goes on.
    assert_eq!(decoder.decode(batch(vec![framed(0, 1)])).await.expect("decoded").batches.len(), 1);
    server.answer(200);
    let decoded = decoder.decode(batch(vec![framed(0, 2)])).await.expect("an answer");
    assert_eq!(decoded.rejects[0].class, RejectClass::SchemaNotFound);
}

#[tokio::test]
async fn only_the_registrys_own_words_make_a_reject() {
    let server = serve(&[(1, json!({"schema": LEAD}))], &[]).await;
    let registry = server.registry(None);
    server.desk.is_elsewhere.store(true, Ordering::Relaxed);
    let error = registry.schema("1").await.expect_err("another server's 404");
    assert!(matches!(error, RegistryError::Status { status: 404, .. }), "{error}");
    assert_eq!(error.retry(), Retry::Backoff);
    server.desk.is_elsewhere.store(false, Ordering::Relaxed);
    for (status, text) in [(401, "refused the sign-in (HTTP 401)"), (429, "is throttling"), (502, "answered HTTP 502")]
    {
        server.answer(status);
        let error = registry.schema("1").await.expect_err("no answer");
        assert!(error.to_string().contains(text) && error.retry() == Retry::Backoff, "{error}");
    }
    server.answer(200);
    for page in [json!("<html>"), json!({"message": "hello"}), json!({"schema": 7})] {
        server.desk.by_id.lock().expect("schemas").insert(1, page);
        let error = registry.schema("1").await.expect_err("no schema");
        assert!(matches!(error, RegistryError::NotASchema { .. }), "{error}");
    }
    server.desk.by_id.lock().expect("schemas").insert(1, json!({"schema": " ".repeat(3 << 20)}));
    assert!(matches!(registry.schema("1").await, Err(RegistryError::TooLarge { .. })));
    server.desk.by_id.lock().expect("schemas").insert(1, json!({"schema": LEAD}));
    assert_eq!(registry.schema("1").await.expect("a schema").text, LEAD, "no failure is remembered");
    let without = server.registry_of(None, None).schema("1").await;
    assert!(matches!(without, Err(RegistryError::Denied { status: 401, .. })), "{without:?}");
}

#[tokio::test]
async fn what_is_no_number_is_never_asked_for() {
    let server = serve(&[], &[]).await;
    for id in ["", "-1", "2147483648", "4294967296", "1/../2", "+1", "١", LEAD_ID] {
        assert!(matches!(server.registry(None).schema(id).await, Err(RegistryError::Id { .. })), "{id}");
    }
    assert!(server.requests().is_empty());
}

fn reference(name: &str, subject: &str, version: i64) -> Json {
    json!({"name": name, "subject": subject, "version": version})
}

#[tokio::test]
async fn a_schema_is_put_together_with_those_that_it_refers_to() {
    let order = json!({"type": "record", "name": "Order", "namespace": "shop", "fields": [
        {"name": "id", "type": "long"}, {"name": "to", "type": "Address"}, {"name": "from", "type": ["null", "shop.Address"]}]});
    let address =
        json!({"type": "record", "name": "shop.Address", "fields": [{"name": "country", "type": "geo.Country"}]});
    let country = json!({"type": "enum", "name": "Country", "namespace": "geo", "symbols": ["DE", "FR"]});
    let part =
        |schema: &Json, references: Json| json!({"schema": schema.to_string(), "references": references, "id": 3});
    let server = serve(
        &[(5, part(&order, json!([reference("shop.Address", "shop/address", 2)])))],
        &[
            ("shop/address", 2, part(&address, json!([reference("geo.Country", "geo", 1)]))),
            // It says that it refers to itself, as no registry should.
            ("geo", 1, part(&country, json!([reference("geo.Country", "geo", 1)]))),
        ],
    )
    .await;
    let dir = tempfile::tempdir().expect("a folder");
    let decoder = open(server.registry(Some(dir.path())));
    let body = [&[0, 0, 0, 0, 5][..], &[14, 2, 2, 0]].concat();
    let decoded = decoder.decode(batch(vec![event(0, None, body.clone())])).await.expect("decoded");
    assert!(decoded.rejects.is_empty(), "{:?}", decoded.rejects);
    let to = decoded.batches[0].column_by_name("to").expect("the column").as_struct();
    assert_eq!(to.column(0).as_string::<i32>().value(0), "FR");
    let asked = server.requests();
    assert_eq!(asked.len(), 3, "{asked:?}");
    assert!(asked.contains(&"/registry/subjects/shop%2Faddress/versions/2?deleted=true".to_owned()), "{asked:?}");
    // The disk holds it whole.
    server.answer(503);
    let decoder = open(server.registry(Some(dir.path())));
    assert_eq!(decoder.decode(batch(vec![event(0, None, body)])).await.expect("decoded").batches.len(), 1);
}

#[tokio::test]
async fn a_schema_that_can_not_be_used_is_a_reject_that_says_why() {
    let server = serve(
        &[
            (1, json!({"schema": "syntax = \"proto3\";", "schemaType": "PROTOBUF"})),
            (2, json!({"schema": "{\"type\":\"recrd\"}"})),
            (3, json!({"schema": "\"x.Missing\"", "references": [reference("x.Missing", "gone", 9)]})),
        ],
        &[],
    )
    .await;
    let decoder = open(server.registry(None));
    let decoded = decoder.decode(batch((1..=3).map(|id| framed(i64::from(id), id)).collect())).await.expect("decoded");
    let told: Vec<_> = decoded.rejects.iter().map(|reject| (reject.class, reject.text.as_str())).collect();
    assert_eq!(
        told[0],
        (RejectClass::SchemaUnusable, "the schema `1` can't be used: it is of the type `PROTOBUF`, not an Avro schema")
    );
    assert_eq!(told[1].0, RejectClass::SchemaUnusable);
    assert_eq!(
        told[2],
        (RejectClass::SchemaNotFound, "the schema `3` refers to version 9 of `gone`, which the registry doesn't have")
    );
    // Nobody is asked again for what was just refused.
    let asked = server.requests().len();
    decoder.decode(batch(vec![framed(1, 1), framed(3, 3)])).await.expect("decoded");
    assert_eq!(server.requests().len(), asked);
}

#[tokio::test]
async fn an_endless_chain_of_references_is_cut_off() {
    let parts: Vec<_> = (0..200)
        .map(|version| {
            let schema = json!({"type": "fixed", "name": format!("F{version}"), "size": 1}).to_string();
            ("chain", version, json!({"schema": schema, "references": [reference("n", "chain", version + 1)]}))
        })
        .collect();
    let server = serve(&[(1, json!({"schema": "\"int\"", "references": [reference("n", "chain", 0)]}))], &parts).await;
    let error = server.registry(None).schema("1").await.expect_err("too many");
    assert_eq!(error.to_string(), "the schema `1` can't be used: it refers to more than 100 others");
}
