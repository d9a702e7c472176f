//! The live source over TLS, with a key and with a token of a managed identity.
//!
//! What a process trusts and how it signs in are variables of its environment, so each case
//! runs the ignored test below in a process of its own.

use std::env;
use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use axum::http::HeaderMap;
use axum::routing::get;
use axum::{Json, Router};
use bytes::Bytes;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use sluicebox::checkpoint::{PartitionKey, SourceId};
use sluicebox::config::spec::{CredentialSpec, EventHubsAccess, EventHubsSourceSpec, EventHubsSpec, Secret, Start};
use sluicebox::emulator::{Broker, BrokerOptions, HubSpec, StoredMessageInput};
use sluicebox::memory::MemoryBudget;
use sluicebox::source::event_hubs::EventHubsSource;
use sluicebox::source::{ReadPartition, SourceEvent};
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

const TOKEN: &str = "a-token-of-this-machine";
const IDENTITY_HEADER: &str = "who-may-ask";
const ACCESS: &str = "SLUICE_TEST_ACCESS";

struct Tls {
    config: Arc<ServerConfig>,
    authority: String,
}

fn tls() -> Tls {
    let authority_key = KeyPair::generate().expect("a key");
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let certificate = authority.self_signed(&authority_key).expect("an authority");
    let issuer = Issuer::new(authority, authority_key);
    let key = KeyPair::generate().expect("a key");
    let leaf = CertificateParams::new(vec!["localhost".to_owned()])
        .and_then(|params| params.signed_by(&key, &issuer))
        .expect("a certificate");
    let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("the provider's own versions")
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], private)
        .expect("the key fits");
    Tls { config: Arc::new(config), authority: certificate.pem() }
}

async fn broker(tls: &Tls) -> Broker {
    let broker = Broker::start(BrokerOptions {
        hubs: vec![HubSpec::new("leads", 1)],
        tls: Some(Arc::clone(&tls.config)),
        keys: vec![("listen".into(), "c2VjcmV0".into())],
        bearer_tokens: vec![TOKEN.into()],
        ..BrokerOptions::default()
    })
    .await
    .expect("a free port on loopback");
    let message =
        |number: i32| StoredMessageInput { body: Bytes::from(number.to_string()), ..StoredMessageInput::default() };
    broker.append("leads", "0", (0..100).map(message).collect()).expect("the partition takes them");
    broker
}

/// The answer of App Service's identity endpoint.
async fn identity_endpoint(tasks: &mut JoinSet<()>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    let token = get(|headers: HeaderMap| async move {
        let known = headers.get("x-identity-header").is_some_and(|value| value == IDENTITY_HEADER);
        let expires_on = (chrono::Utc::now().timestamp() + 3_600).to_string();
        let token = if known { TOKEN } else { "nobody" };
        Json(serde_json::json!({
            "access_token": token, "expires_on": expires_on, "resource": "https://eventhubs.azure.net", "token_type": "Bearer",
        }))
    });
    let app = Router::new().route("/msi/token", token);
    tasks.spawn(async move { axum::serve(listener, app).await.expect("it serves") });
    format!("http://{address}/msi/token")
}

/// Runs the test below with this access, trusting the authority in `trusted`.
async fn read_in_a_process(access: &str, trusted: Option<&Path>, identity: Option<&str>) -> (bool, String) {
    let mut child = Command::new(env::current_exe().expect("this binary"));
    child
        .args(["source_tls::in_a_process_of_its_own", "--exact", "--ignored", "--nocapture"])
        .env(ACCESS, access)
        .env_remove("SSL_CERT_FILE")
        .env_remove("SSL_CERT_DIR")
        .kill_on_drop(true)
        .stdin(Stdio::null());
    if let Some(trusted) = trusted {
        child.env("SSL_CERT_FILE", trusted);
    }
    if let Some(identity) = identity {
        child.env("IDENTITY_ENDPOINT", identity).env("IDENTITY_HEADER", IDENTITY_HEADER);
    }
    let output = timeout(Duration::from_secs(120), child.output()).await.expect("in time").expect("it starts");
    let words = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(words.contains("running 1 test"), "the test was renamed: {words}");
    (output.status.success(), words)
}

#[tokio::test]
#[ignore = "run by the other tests, in a process with variables of its own"]
async fn in_a_process_of_its_own() {
    let declared = env::var(ACCESS).expect("set by the test that runs this");
    let access = match declared.strip_prefix("namespace:") {
        Some(namespace) => EventHubsAccess::Namespace {
            namespace: namespace.to_owned(),
            credential: CredentialSpec::ManagedIdentity { client_id: None },
        },
        None => EventHubsAccess::ConnectionString(Secret::new(declared)),
    };
    let hubs = EventHubsSpec { access, id: None, endpoint: None };
    let spec = EventHubsSourceSpec {
        hub: "leads".into(),
        consumer_group: "$Default".into(),
        start: Start::Earliest,
        dense: true,
        generation: None,
        retention: None,
        max_events_per_second: None,
        checkpoint_store: None,
    };
    let id = SourceId::new("emulator/leads");
    let source = EventHubsSource::connect(&hubs, &spec, id.clone()).await.expect("a connection");
    let (sender, mut events) = mpsc::channel(4);
    let read = ReadPartition { partition: PartitionKey::new(id, "0"), position: 0, last: None, until: Some(100) };
    let mut tasks = JoinSet::new();
    tasks.spawn(source.read(read, MemoryBudget::new(1 << 20), sender, CancellationToken::new()));
    let mut received = 0;
    while let Some(event) = events.recv().await {
        match event {
            SourceEvent::Events { batch, .. } => received += batch.events.len(),
            SourceEvent::Failed { error, .. } => panic!("{error}"),
            _ => {}
        }
    }
    tasks.join_next().await.expect("one task").expect("no panic").expect("it ends well");
    assert_eq!(received, 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_string_with_a_key_reads_over_tls() {
    let tls = tls();
    let broker = broker(&tls).await;
    let dir = tempfile::tempdir().expect("a folder");
    let trusted = dir.path().join("ca.pem");
    fs::write(&trusted, &tls.authority).expect("writable");
    let port = broker.address().port();
    let access = |key| {
        format!("Endpoint=sb://localhost:{port}/;SharedAccessKeyName=listen;SharedAccessKey={key};EntityPath=leads")
    };
    let (passed, words) = read_in_a_process(&access("c2VjcmV0"), Some(&trusted), None).await;
    assert!(passed, "{words}");
    let (passed, words) = read_in_a_process(&access("d3Jvbmc="), Some(&trusted), None).await;
    assert!(!passed && words.contains("Unauthorized"), "{words}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_managed_identity_reads_over_tls() {
    let tls = tls();
    let broker = broker(&tls).await;
    let dir = tempfile::tempdir().expect("a folder");
    let trusted = dir.path().join("ca.pem");
    fs::write(&trusted, &tls.authority).expect("writable");
    let mut tasks = JoinSet::new();
    let identity = identity_endpoint(&mut tasks).await;
    let access = format!("namespace:localhost:{}", broker.address().port());
    let (passed, words) = read_in_a_process(&access, Some(&trusted), Some(&identity)).await;
    assert!(passed, "{words}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_nobody_vouches_for_is_refused() {
    let broker = broker(&tls()).await;
    let dir = tempfile::tempdir().expect("a folder");
    let other = dir.path().join("other.pem");
    fs::write(&other, tls().authority).expect("writable");
    let port = broker.address().port();
    let access = format!("Endpoint=sb://localhost:{port}/;SharedAccessKeyName=listen;SharedAccessKey=c2VjcmV0");
    let (passed, words) = read_in_a_process(&access, Some(&other), None).await;
    assert!(!passed && words.contains("connect to hub `leads`"), "{words}");
}
