//! The Azure Schema Registry client against a server of the wire format.

use std::net::SocketAddr;
use std::sync::Mutex;

use axum::Router;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, StatusCode};
use sluicebox::config::spec::Secret;
use sluicebox::decode::{AzureRegistry, ConfluentRegistry, TokenError, TokenSource};
use sluicebox::error::{Classify, Kind, Retry};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

use super::*;

/// What the next request is answered.
#[derive(Clone)]
enum Answer {
    Schema(String),
    Page(String),
    Status(u16),
    /// A redirect to where a token would leak.
    Redirect,
}

struct Desk {
    answer: Mutex<Answer>,
    requests: Mutex<Vec<(String, HeaderMap)>>,
    arrived: mpsc::UnboundedSender<()>,
    /// A request is answered when it gets a permit.
    gate: Semaphore,
}

struct Server {
    address: SocketAddr,
    desk: Arc<Desk>,
    arrived: mpsc::UnboundedReceiver<()>,
    _tasks: JoinSet<()>,
}

async fn serve(answer: Answer) -> Server {
    let (sender, arrived) = mpsc::unbounded_channel();
    let gate = Semaphore::new(Semaphore::MAX_PERMITS);
    let desk = Arc::new(Desk { answer: Mutex::new(answer), requests: Mutex::default(), arrived: sender, gate });
    let app = Router::new().route("/$schemaGroups/$schemas/{id}", axum::routing::get(handle)).with_state(desk.clone());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { axum::serve(listener, app).await.expect("served") });
    Server { address, desk, arrived, _tasks: tasks }
}

async fn handle(
    State(desk): State<Arc<Desk>>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> (StatusCode, HeaderMap, String) {
    desk.requests.lock().expect("requests").push((format!("{id}?{}", query.unwrap_or_default()), headers));
    desk.arrived.send(()).unwrap_or_default();
    let _permit = desk.gate.acquire().await.expect("the gate");
    let answer = desk.answer.lock().expect("an answer").clone();
    let mut headers = HeaderMap::new();
    match answer {
        Answer::Schema(text) => {
            headers.insert("content-type", "application/json; serialization=Avro".parse().expect("a header"));
            (StatusCode::OK, headers, text)
        }
        Answer::Page(text) => {
            headers.insert("content-type", "text/html".parse().expect("a header"));
            (StatusCode::OK, headers, text)
        }
        Answer::Status(status) => (StatusCode::from_u16(status).expect("a status"), headers, "{}".to_owned()),
        Answer::Redirect => {
            headers.insert("location", "http://127.0.0.1:1/".parse().expect("a header"));
            (StatusCode::FOUND, headers, String::new())
        }
    }
}

impl Server {
    fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    fn registry(&self, cache: Option<&std::path::Path>) -> AzureRegistry {
        AzureRegistry::open(&self.endpoint(), cache.map(|dir| dir.to_path_buf()), None).expect("a registry")
    }

    fn requests(&self) -> usize {
        self.desk.requests.lock().expect("requests").len()
    }

    fn answer(&self, answer: Answer) {
        *self.desk.answer.lock().expect("an answer") = answer;
    }
}

struct Fixed;

#[async_trait]
impl TokenSource for Fixed {
    async fn token(&self) -> Result<Secret, TokenError> {
        Ok(Secret::new("entra"))
    }
}

#[tokio::test]
async fn a_schema_is_asked_for_as_the_service_wants_it_and_only_once() {
    let server = serve(Answer::Schema(LEAD.to_owned())).await;
    let registry = server.registry(None);
    for id in [LEAD_ID.to_owned(), LEAD_ID.to_uppercase()] {
        let schema = registry.schema(&id).await.expect("a schema");
        assert_eq!((schema.id.to_string().as_str(), schema.text.as_str()), (LEAD_ID, LEAD));
    }
    let requests = server.desk.requests.lock().expect("requests");
    assert_eq!(
        requests.iter().map(|(path, _)| path.as_str()).collect::<Vec<_>>(),
        [format!("{LEAD_ID}?api-version=2022-10")]
    );
    assert!(!requests[0].1.contains_key("authorization"));
}

#[tokio::test]
async fn a_token_never_goes_over_plain_http() {
    let server = serve(Answer::Schema(LEAD.to_owned())).await;
    let registry = AzureRegistry::open(&server.endpoint(), None, Some(Arc::new(Fixed))).expect("a registry");
    registry.schema(LEAD_ID).await.expect("a schema");
    assert!(!server.desk.requests.lock().expect("requests")[0].1.contains_key("authorization"));
}

#[tokio::test]
async fn concurrent_misses_are_fetched_once() {
    let mut server = serve(Answer::Schema(LEAD.to_owned())).await;
    server.desk.gate.forget_permits(Semaphore::MAX_PERMITS);
    let registry = Arc::new(server.registry(None));
    let mut askers = JoinSet::new();
    for _ in 0..50 {
        let registry = registry.clone();
        askers.spawn(async move { registry.schema(LEAD_ID).await.map(|schema| schema.text.clone()) });
    }
    server.arrived.recv().await.expect("a request");
    tokio::task::yield_now().await;
    server.desk.gate.add_permits(1);
    let answers = askers.join_all().await;
    assert!(answers.iter().all(|answer| answer.as_deref().is_ok_and(|text| text == LEAD)));
    assert_eq!(server.requests(), 1);
}

#[tokio::test]
async fn an_asker_that_goes_away_takes_nobodys_answer_with_it() {
    let mut server = serve(Answer::Schema(LEAD.to_owned())).await;
    server.desk.gate.forget_permits(Semaphore::MAX_PERMITS);
    let registry = Arc::new(server.registry(None));
    let mut askers = JoinSet::new();
    let first = {
        let registry = registry.clone();
        askers.spawn(async move { registry.schema(LEAD_ID).await.map(drop) })
    };
    server.arrived.recv().await.expect("a request");
    first.abort();
    assert!(askers.join_next().await.expect("an asker").is_err_and(|error| error.is_cancelled()));
    server.desk.gate.add_permits(1);
    assert_eq!(registry.schema(LEAD_ID).await.expect("a schema").text, LEAD);
    assert_eq!(server.requests(), 1);
}

#[tokio::test]
async fn what_is_not_found_is_asked_for_again_later_and_not_at_once() {
    let server = serve(Answer::Status(404)).await;
    let registry = server.registry(None);
    for _ in 0..3 {
        let error = registry.schema(LEAD_ID).await.expect_err("no schema");
        assert!(matches!(&error, RegistryError::NotFound { id } if id == LEAD_ID), "{error}");
    }
    assert_eq!(server.requests(), 1);
}

#[tokio::test]
async fn an_outage_says_what_to_do_and_is_not_remembered() {
    let dir = tempfile::tempdir().expect("a folder");
    let server = serve(Answer::Status(503)).await;
    let registry = server.registry(Some(dir.path()));
    let endpoint = format!("http://{}", server.address);
    for (status, text) in [
        (503, format!("the registry `{endpoint}` answered HTTP 503")),
        (500, format!("the registry `{endpoint}` answered HTTP 500")),
        (429, format!("the registry `{endpoint}` is throttling (HTTP 429)")),
        (401, format!("the registry `{endpoint}` refused the sign-in (HTTP 401)")),
        (403, format!("the registry `{endpoint}` refused the sign-in (HTTP 403)")),
    ] {
        server.answer(Answer::Status(status));
        let error = registry.schema(LEAD_ID).await.expect_err("an outage");
        assert_eq!(error.to_string(), text);
        assert_eq!((error.kind(), error.retry()), (Kind::External, Retry::Backoff));
        assert!(error.hint().is_some());
    }
    server.answer(Answer::Redirect);
    assert!(registry.schema(LEAD_ID).await.is_err_and(|error| error.to_string().ends_with("answered HTTP 302")));
    server.answer(Answer::Schema(LEAD.to_owned()));
    assert_eq!(registry.schema(LEAD_ID).await.expect("a schema").text, LEAD);
}

#[tokio::test]
async fn a_schema_that_was_seen_once_survives_an_outage_and_a_restart() {
    let dir = tempfile::tempdir().expect("a folder");
    let server = serve(Answer::Schema(LEAD.to_owned())).await;
    server.registry(Some(dir.path())).schema(LEAD_ID).await.expect("a schema");
    server.answer(Answer::Status(503));
    let restarted = server.registry(Some(dir.path()));
    assert_eq!(restarted.schema(LEAD_ID).await.expect("a schema").text, LEAD);
    assert!(restarted.schema(UNKNOWN_ID).await.is_err_and(|error| error.kind() == Kind::External));
    assert_eq!(server.requests(), 2);
}

#[tokio::test]
async fn a_torn_file_is_fetched_anew() {
    let dir = tempfile::tempdir().expect("a folder");
    let server = serve(Answer::Schema(LEAD.to_owned())).await;
    server.registry(Some(dir.path())).schema(LEAD_ID).await.expect("a schema");
    let folder = std::fs::read_dir(dir.path()).expect("a folder").next().expect("an entry").expect("an entry").path();
    let file = folder.join(format!("{LEAD_ID}.avsc"));
    std::fs::write(&file, &LEAD[..LEAD.len() / 2]).expect("written");
    assert_eq!(server.registry(Some(dir.path())).schema(LEAD_ID).await.expect("a schema").text, LEAD);
    assert_eq!(server.requests(), 2);
    assert_eq!(std::fs::read_to_string(&file).expect("a file"), LEAD);
}

#[tokio::test]
async fn what_is_no_id_is_never_asked_for() {
    let server = serve(Answer::Schema(LEAD.to_owned())).await;
    let dir = tempfile::tempdir().expect("a folder");
    let registry = server.registry(Some(dir.path()));
    for id in
        ["", "../../etc/passwd", "b489dc4916744e3db72dda8f9693f34", "b489dc4916744e3db72dda8f9693f34g", &"é".repeat(16)]
    {
        assert!(matches!(registry.schema(id).await, Err(RegistryError::Id { .. })), "{id}");
    }
    assert_eq!(server.requests(), 0);
}

#[tokio::test]
async fn a_body_without_end_is_cut_off() {
    let server = serve(Answer::Schema(" ".repeat(3 << 20))).await;
    let error = server.registry(None).schema(LEAD_ID).await.expect_err("too large");
    assert!(matches!(error, RegistryError::TooLarge { .. }), "{error}");
}

#[tokio::test]
async fn a_page_that_answers_in_place_of_the_registry_is_an_outage() {
    let dir = tempfile::tempdir().expect("a folder");
    let server = serve(Answer::Page("<html>sign in to the network</html>".to_owned())).await;
    let registry = server.registry(Some(dir.path()));
    let error = registry.schema(LEAD_ID).await.expect_err("an outage");
    assert!(matches!(error, RegistryError::NotASchema { .. }), "{error}");
    assert_eq!(error.retry(), Retry::Backoff);
    server.answer(Answer::Schema(LEAD.to_owned()));
    assert_eq!(registry.schema(LEAD_ID).await.expect("a schema").text, LEAD);
}

#[tokio::test]
async fn a_registry_that_is_gone_is_an_outage() {
    let server = serve(Answer::Status(404)).await;
    let registry = server.registry(None);
    drop(server);
    let error = registry.schema(LEAD_ID).await.expect_err("an outage");
    assert!(matches!(error, RegistryError::Unreachable { .. }), "{error}");
    assert_eq!(error.retry(), Retry::Backoff);
}

#[test]
fn an_endpoint_that_would_leak_is_refused() {
    let open = |endpoint: &str, token: Option<Arc<dyn TokenSource>>| {
        AzureRegistry::open(endpoint, None, token).map(drop).map_err(|error| error.to_string())
    };
    assert_eq!(open("https://insurer.servicebus.windows.net", Some(Arc::new(Fixed))), Ok(()));
    assert_eq!(open("http://[::1]:8081/", None), Ok(()));
    for (endpoint, token, reason) in [
        ("https://insurer.servicebus.windows.net", false, "it needs a sign-in with Entra"),
        ("http://insurer.servicebus.windows.net", true, "plain `http` is for loopback alone"),
        ("http://127.0.0.1.example.org", true, "plain `http` is for loopback alone"),
        ("https://user:secret@insurer.servicebus.windows.net", true, "it holds more than scheme, host, port and path"),
        ("https://insurer.servicebus.windows.net?sig=secret", true, "it holds more than scheme, host, port and path"),
        ("sb://insurer.servicebus.windows.net", true, "it isn't an `https` address"),
        ("SharedAccessKey=secret", true, "it isn't a URL"),
    ] {
        let token = token.then(|| Arc::new(Fixed) as Arc<dyn TokenSource>);
        let text = open(endpoint, token).expect_err("refused");
        assert!(text.ends_with(reason), "{text}");
        assert!(!text.contains("secret"), "{text}");
    }
}

/// Set for the process that this test starts of itself: the endpoint to ask, and `trusted` or `refused`.
const TLS_ENDPOINT: &str = "SLUICE_TEST_REGISTRY_ENDPOINT";
const TLS_EXPECTED: &str = "SLUICE_TEST_REGISTRY_EXPECTED";

/// Roots are read once a process from `SSL_CERT_FILE`, so each try is a process of its own.
#[test]
fn certificates_are_checked_against_the_roots_of_ssl_cert_file() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    if let Ok(endpoint) = std::env::var(TLS_ENDPOINT) {
        let registry = AzureRegistry::open(&endpoint, None, Some(Arc::new(Fixed))).expect("a registry");
        let answer = runtime.block_on(registry.schema(LEAD_ID));
        let credential = Some(("key".to_owned(), Secret::new("secret")));
        let confluent = ConfluentRegistry::open(&endpoint, None, credential).expect("a registry");
        let numbered = runtime.block_on(confluent.schema("1"));
        match std::env::var(TLS_EXPECTED).expect("what to expect").as_str() {
            "trusted" => {
                assert_eq!((&answer.expect("a schema").text[..], &numbered.expect("a schema").text[..]), (LEAD, LEAD));
            }
            _ => {
                for answer in [answer, numbered] {
                    assert!(matches!(answer, Err(RegistryError::Unreachable { .. })), "{answer:?}");
                }
            }
        }
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let (endpoint, bearer, _tasks) = runtime.block_on(serve_tls(&dir.path().join("trusted.pem")));
    write_authority(&dir.path().join("refused.pem"));
    for expected in ["trusted", "refused"] {
        let status = std::process::Command::new(std::env::current_exe().expect("this binary"))
            .args(["--exact", "decode::registry::certificates_are_checked_against_the_roots_of_ssl_cert_file"])
            .env("SSL_CERT_FILE", dir.path().join(format!("{expected}.pem")))
            .env_remove("SSL_CERT_DIR")
            .env(TLS_ENDPOINT, &endpoint)
            .env(TLS_EXPECTED, expected)
            .output()
            .expect("a process");
        assert!(status.status.success(), "{expected}: {}", String::from_utf8_lossy(&status.stdout));
        assert!(String::from_utf8_lossy(&status.stdout).contains("1 passed"), "{expected}");
    }
    assert_eq!(*bearer.lock().expect("headers"), ["Bearer entra", "Basic a2V5OnNlY3JldA=="]);
}

fn write_authority(path: &std::path::Path) -> (rcgen::CertificateParams, rcgen::KeyPair) {
    let mut params = rcgen::CertificateParams::new(Vec::new()).expect("parameters");
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = rcgen::KeyPair::generate().expect("a key");
    std::fs::write(path, params.self_signed(&key).expect("a certificate").pem()).expect("written");
    (params, key)
}

/// Answers each request with the schema over TLS, and notes the sign-ins.
async fn serve_tls(authority: &std::path::Path) -> (String, Arc<Mutex<Vec<String>>>, JoinSet<()>) {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio_rustls::rustls::ServerConfig;
    use tokio_rustls::rustls::crypto::aws_lc_rs::default_provider;
    use tokio_rustls::rustls::pki_types::PrivatePkcs8KeyDer;

    let (params, authority_key) = write_authority(authority);
    let issuer = rcgen::Issuer::new(params, authority_key);
    let key = rcgen::KeyPair::generate().expect("a key");
    let params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).expect("parameters");
    let certificate = params.signed_by(&key, &issuer).expect("a certificate");
    let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .expect("protocols")
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], PrivatePkcs8KeyDer::from(key.serialize_der()).into())
        .expect("a server");
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let endpoint = format!("https://localhost:{}", listener.local_addr().expect("an address").port());
    let bearer = Arc::new(Mutex::new(Vec::new()));
    let mut tasks = JoinSet::new();
    let noted = bearer.clone();
    tasks.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") && stream.read_buf(&mut request).await.is_ok_and(|read| read > 0) {}
            let request = String::from_utf8_lossy(&request).into_owned();
            let sign_in = request.lines().find_map(|line| line.strip_prefix("authorization: ")).unwrap_or_default();
            noted.lock().expect("headers").push(sign_in.to_owned());
            let is_numbered = request.starts_with("GET /schemas/ids/1 ");
            let body = if is_numbered { json!({"schema": LEAD}).to_string() } else { LEAD.to_owned() };
            let answer =
                format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len());
            drop(stream.write_all(answer.as_bytes()).await);
            drop(stream.shutdown().await);
        }
    });
    (endpoint, bearer, tasks)
}
