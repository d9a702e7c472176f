//! The webhook of `sluice run`, over a real connection: who gets in, what is taken, what is kept.

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use reqwest::{Client, Method, RequestBuilder, Response};
use serde_json::{Value, json};
use sluicebox::config::spec::{Secret, WebhookEntraSpec, WebhookSpec};
use sluicebox::pipeline::spool::Spool;
use sluicebox::pipeline::webhook::Intake;
use sluicebox::serve::webhook::Webhook;
use sluicebox::serve::{Server, start};
use sluicebox::storage::Location;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStderr, Command};

use crate::lakehouse::Lakehouse;
use crate::live::logged;

const SECRET: &str = "a secret of thirty-two bytes !&=";
const BEFORE: &str = "the secret that was there before";

struct Hook {
    server: Server,
    state: tempfile::TempDir,
}

impl Hook {
    async fn new(entra: Option<WebhookEntraSpec>) -> Self {
        let state = tempfile::tempdir().expect("a temporary folder");
        let secrets = if entra.is_some() { Vec::new() } else { vec![Secret::new(SECRET), Secret::new(BEFORE)] };
        let spool = Arc::new(Spool::open(&location(state.path())).await.expect("a folder"));
        let webhook = Webhook::new(&WebhookSpec { secrets, entra }, Intake::new(spool)).expect("a client");
        let loopback = "127.0.0.1:0".parse().expect("an address");
        let server = start(loopback, Arc::default(), Some(webhook)).await.expect("a free port");
        Self { server, state }
    }

    fn request(&self, method: Method, query: &str) -> RequestBuilder {
        let url = format!("http://{}/eventgrid{query}", self.server.address());
        Client::new().request(method, url)
    }

    /// A request of somebody who knows the secret.
    fn admitted(&self, method: Method) -> RequestBuilder {
        self.request(method, "").query(&[("code", SECRET)])
    }

    async fn post(&self, body: impl Into<reqwest::Body>) -> (u16, String) {
        said(self.admitted(Method::POST).body(body).send().await.expect("an answer")).await
    }

    /// What lies in the spool, in its order.
    fn kept(&self) -> Vec<String> {
        let folder = self.state.path().join("webhook");
        let mut files: Vec<_> = std::fs::read_dir(folder)
            .expect("the folder of the spool")
            .map(|file| file.expect("an entry").path())
            .filter(|path| path.is_file())
            .collect();
        files.sort();
        files.iter().map(|file| std::fs::read_to_string(file).expect("a text")).collect()
    }
}

fn location(folder: &Path) -> Location {
    Location::resolve(&folder.to_string_lossy(), None).expect("an absolute folder")
}

async fn said(answer: Response) -> (u16, String) {
    (answer.status().as_u16(), answer.text().await.expect("a text"))
}

fn event(key: &str) -> Value {
    json!({"id": "1", "subject": "eventhubs/leads", key: "Microsoft.EventHub.CaptureFileCreated", "data": {
        "fileUrl": "https://insurer.blob.core.windows.net/capture/insurer/leads/1/2026/11/25/10/00/00.avro",
        "partitionId": "1", "eventCount": 1, "firstSequenceNumber": 5, "lastSequenceNumber": 5,
    }})
}

#[tokio::test]
async fn event_grid_shakes_hands_by_the_code_of_its_validation_event() {
    let hook = Hook::new(None).await;
    let validation = json!([{
        "id": "2d1781af", "topic": "/subscriptions/x", "subject": "",
        "data": {"validationCode": "512d38b6-c7b8", "validationUrl": "https://rp.eventgrid.azure.net:553/x"},
        "eventType": "Microsoft.EventGrid.SubscriptionValidationEvent", "eventTime": "2026-11-25T10:00:00.1Z",
        "metadataVersion": "1", "dataVersion": "2",
    }]);
    let request = hook.admitted(Method::POST).header("aeg-event-type", "SubscriptionValidation");
    let answer = request.body(validation.to_string()).send().await.expect("an answer");
    assert_eq!(answer.status(), 200);
    let answer: Value = answer.json().await.expect("JSON");
    assert_eq!(answer, json!({"validationResponse": "512d38b6-c7b8"}));
    assert!(hook.kept().is_empty());
    let stranger = hook.request(Method::POST, "?code=guess").body(validation.to_string());
    assert_eq!(stranger.send().await.expect("an answer").status(), 401);
}

#[tokio::test]
async fn cloud_events_ask_for_permission_and_get_it_with_the_secret_alone() {
    let hook = Hook::new(None).await;
    let asked = |request: RequestBuilder| {
        request.header("WebHook-Request-Origin", "eventgrid.azure.net").header("WebHook-Request-Rate", "120")
    };
    let answer = asked(hook.admitted(Method::OPTIONS)).send().await.expect("an answer");
    let header = |name: &str| answer.headers().get(name).and_then(|value| value.to_str().ok());
    assert_eq!(answer.status(), 200);
    assert_eq!(header("WebHook-Allowed-Origin"), Some("eventgrid.azure.net"));
    assert_eq!((header("WebHook-Allowed-Rate"), header("Allow")), (Some("*"), Some("POST, OPTIONS")));
    let denied = asked(hook.request(Method::OPTIONS, "")).send().await.expect("an answer");
    assert_eq!((denied.status().as_u16(), denied.headers().get("WebHook-Allowed-Origin")), (401, None));
    let nobody = hook.admitted(Method::OPTIONS).send().await.expect("an answer");
    assert_eq!(nobody.status(), 400, "without an origin it is no handshake");
}

#[tokio::test]
async fn the_secret_is_taken_from_query_or_header_and_nothing_else_gets_in() {
    let hook = Hook::new(None).await;
    let body = event("type").to_string();
    let post = |query: &[(&str, &str)], bearer: Option<&str>| {
        let request = hook.request(Method::POST, "").query(query).body(body.clone());
        bearer.map_or(request.try_clone().expect("a text"), |bearer| request.header("authorization", bearer))
    };
    let with = format!("Bearer {SECRET}");
    for (query, bearer) in [
        (&[("code", SECRET)][..], None),
        (&[("secret", BEFORE)], None),
        (&[("x", "y"), ("code", "wrong"), ("code", SECRET)], None),
        (&[], Some(with.as_str())),
        (&[], Some("bearer the secret that was there before")),
    ] {
        assert_eq!(post(query, bearer).send().await.expect("an answer").status(), 200, "{query:?} {bearer:?}");
    }
    assert_eq!(hook.kept().len(), 5);
    let basic = format!("Basic {SECRET}");
    for (query, bearer) in [
        (&[][..], None),
        (&[("code", "")], None),
        (&[("code", &SECRET[1..])], None),
        (&[("key", SECRET)], None),
        (&[], Some("Bearer ")),
        (&[], Some(SECRET)),
        (&[], Some(basic.as_str())),
    ] {
        let answer = post(query, bearer).send().await.expect("an answer");
        assert_eq!(answer.headers().get("www-authenticate").map(|value| value.as_bytes()), Some(&b"Bearer"[..]));
        assert_eq!(said(answer).await, (401, String::new()), "{query:?} {bearer:?}");
    }
    assert_eq!(hook.kept().len(), 5);
    let get = hook.admitted(Method::GET).send().await.expect("an answer");
    assert_eq!(get.status(), 405);
}

#[tokio::test]
async fn events_in_either_schema_alone_or_in_a_batch_are_kept_as_they_came() {
    let hook = Hook::new(None).await;
    let mut bodies = Vec::new();
    for body in [event("type"), event("eventType"), json!([event("type"), event("eventType")])] {
        let body = body.to_string();
        assert_eq!(hook.post(body.clone()).await, (200, String::new()));
        bodies.push(body);
    }
    let mut kept = hook.kept();
    kept.sort();
    bodies.sort();
    assert_eq!(kept, bodies);
    // What announces no blob is done with.
    for body in ["[]", r#"{"type": "Microsoft.Storage.BlobDeleted", "data": {}}"#] {
        assert_eq!(hook.post(body).await.0, 200, "{body}");
    }
    assert_eq!(hook.kept().len(), 3);
}

#[tokio::test]
async fn what_event_grid_does_not_send_is_refused_and_kept_nowhere() {
    let hook = Hook::new(None).await;
    let mut torn = event("type");
    torn["data"].as_object_mut().expect("data").remove("fileUrl");
    let deep = "[".repeat(100_000);
    let validation = r#"{"eventType": "Microsoft.EventGrid.SubscriptionValidationEvent", "data": {}}"#;
    let half = event("type").to_string().split_off(20);
    for body in ["", "{", "hello", "\u{0}", r#""text""#, &deep, &half, &json!([torn]).to_string(), "[1]"] {
        let (status, words) = hook.post(body.to_owned()).await;
        assert_eq!(status, 400, "{body:.40}: {words}");
    }
    assert_eq!(hook.post(vec![0xff_u8; 100]).await.0, 400);
    assert_eq!(hook.post(validation).await.0, 200, "it announces nothing, and has no code to answer with");
    let events = vec![json!({"type": "x"}); 5_001];
    assert_eq!(hook.post(json!(events).to_string()).await.0, 400);
    let huge = format!("[{}]", " ".repeat(2 << 20));
    assert_eq!(hook.post(huge.clone()).await.0, 413);
    let chunks =
        futures::stream::iter(huge.into_bytes().chunks(1 << 16).map(Bytes::copy_from_slice).collect::<Vec<_>>());
    let streamed = chunked(&hook, chunks).await;
    assert!(streamed.starts_with("HTTP/1.1 413"), "without a length, too: {streamed}");
    assert!(hook.kept().is_empty());
    assert_eq!(hook.post(event("type").to_string()).await.0, 200, "it is as well as before");
}

/// The first line of the answer to a body whose length isn't told.
async fn chunked(hook: &Hook, chunks: impl futures::Stream<Item = Bytes>) -> String {
    use futures::StreamExt as _;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut socket = tokio::net::TcpStream::connect(hook.server.address()).await.expect("it listens");
    let head = format!("POST /eventgrid HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {SECRET}\r\n");
    socket.write_all(format!("{head}transfer-encoding: chunked\r\n\r\n").as_bytes()).await.expect("sent");
    let mut chunks = std::pin::pin!(chunks);
    while let Some(chunk) = chunks.next().await {
        let head = format!("{:x}\r\n", chunk.len());
        let sent = [head.as_bytes(), &chunk, b"\r\n"].concat();
        // It answers and closes as soon as it has seen too much.
        if socket.write_all(&sent).await.is_err() {
            break;
        }
    }
    let _ = socket.write_all(b"0\r\n\r\n").await;
    let mut answer = vec![0; 64];
    let read = socket.read(&mut answer).await.expect("an answer");
    String::from_utf8_lossy(&answer[..read]).lines().next().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn what_cannot_be_kept_is_not_answered_for() {
    let hook = Hook::new(None).await;
    let spool = hook.state.path().join("webhook");
    std::fs::remove_dir_all(&spool).expect("removed");
    std::fs::write(&spool, "in the way").expect("written");
    let answer = hook.admitted(Method::POST).body(event("type").to_string()).send().await.expect("an answer");
    let wait = answer.headers().get("retry-after").and_then(|value| value.to_str().ok()).map(str::to_owned);
    let (status, words) = said(answer).await;
    assert_eq!((status, wait.as_deref()), (503, Some("30")), "{words}");
    assert!(!words.contains("webhook"), "where it lies is nobody's business: {words}");
    std::fs::remove_file(&spool).expect("removed");
    assert_eq!(hook.post(event("type").to_string()).await.0, 200);
}

#[tokio::test]
async fn there_is_no_webhook_unless_one_is_declared() {
    let loopback = "127.0.0.1:0".parse().expect("an address");
    let server = start(loopback, Arc::default(), None).await.expect("a free port");
    let url = format!("http://{}/eventgrid?code={SECRET}", server.address());
    assert_eq!(Client::new().post(url).body("[]").send().await.expect("an answer").status(), 404);
}

/// A project that reads one captured blob, which isn't there yet when the run starts.
fn project_of_captures() -> (Lakehouse, std::path::PathBuf, String) {
    let lake = Lakehouse::new();
    let toml = lake.path().join("sluice.toml");
    let text = std::fs::read_to_string(&toml).expect("the project");
    std::fs::write(&toml, format!("{text}\n[webhook]\nsecret = \"{SECRET}\"\n")).expect("written");
    let pipeline = lake.path().join("pipelines/leads.toml");
    let text = std::fs::read_to_string(&pipeline).expect("the pipeline");
    let template = "{Namespace}/{EventHub}/p{PartitionId}--{Year}-{Month}-{Day}--{Hour}-{Minute}-{Second}";
    let capture = format!(
        "[source.capture]\nhub = \"leads\"\nurl = \"captures\"\nsweep_every = \"1h\"\nnamespace = \"emulator\"\ntemplate = \"{template}\"\n"
    );
    let text = text.replace("[source.event_hubs]\nhub       = \"leads\"\nretention = \"1h\"\n", &capture);
    std::fs::write(&pipeline, text).expect("written");
    let blob = lake.path().join("captures/emulator/leads/p9--2022-12-09--16-50-12.avro");
    std::fs::create_dir_all(blob.parent().expect("a folder")).expect("made");
    let url = format!("file://{}", blob.display());
    (lake, blob, url)
}

/// `sluice run` at work, and where it listens.
async fn running(lake: &Lakehouse, flags: &[&str]) -> (Child, Lines<BufReader<ChildStderr>>, String) {
    let arguments = [&["run", "--log-format", "json", "-v"], flags].concat();
    let mut run =
        Command::from(lake.command(&arguments)).stderr(Stdio::piped()).kill_on_drop(true).spawn().expect("sluice runs");
    let mut log = BufReader::new(run.stderr.take().expect("the log is piped")).lines();
    let told = logged(&mut log, "serving the webhook").await;
    let address = told["address"].as_str().expect("an address").to_owned();
    let ready = async {
        while reqwest::get(format!("http://{address}/readyz")).await.is_ok_and(|answer| answer.status() != 200) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), ready).await.expect("it is ready in time");
    (run, log, address)
}

async fn announce(address: &str, url: &str) -> u16 {
    let event = json!([{"eventType": "Microsoft.Storage.BlobCreated", "data": {"api": "PutBlob", "url": url}}]);
    let request = Client::new().post(format!("http://{address}/eventgrid")).query(&[("code", SECRET)]);
    request.body(event.to_string()).send().await.expect("an answer").status().as_u16()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_answered_for_before_a_kill_is_taken_up_by_the_next_start() {
    let (lake, blob, url) = project_of_captures();
    let spooled = || {
        let files = std::fs::read_dir(lake.path().join("lake/_sluice/webhook")).expect("the spool");
        files.filter(|file| file.as_ref().is_ok_and(|file| file.path().is_file())).count()
    };
    let (mut run, log, address) = running(&lake, &["--crash-at", "data-staged"]).await;
    std::fs::write(&blob, include_bytes!("../data/capture/p9--2022-12-09--16-50-12.avro")).expect("written");
    // Nobody's blob is done with; ours waits for its commit, before which the run kills itself.
    assert_eq!(announce(&address, &url.replace("/leads/", "/claims/")).await, 200);
    assert_eq!(announce(&address, &url).await, 200);
    let ended = tokio::time::timeout(Duration::from_secs(60), run.wait()).await.expect("it kills itself");
    assert!(!ended.expect("it ends").success());
    drop(log);
    assert_eq!(spooled(), 1);

    let (mut run, mut log, _) = running(&lake, &[]).await;
    logged(&mut log, "committed").await;
    let settled = async {
        while spooled() > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), settled).await.expect("it is settled in time");
    let id = run.id().expect("it runs").to_string();
    assert!(std::process::Command::new("kill").args(["-TERM", &id]).status().expect("kill runs").success());
    assert_eq!(run.wait().await.expect("it ends").code(), Some(0));
    let said = lake.sluice(&["query", "SELECT count(*) AS n FROM bronze.leads", "--format", "json"]);
    assert_eq!(said.json(), json!([{"n": 1}]));
}

mod entra {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicU32, Ordering};

    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::rsa::{KeyPair, KeySize};
    use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_SHA256};
    use axum::routing::get;
    use axum::{Json, Router};
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use tokio::task::JoinSet;

    use super::*;

    const TENANT: &str = "11111111-2222-3333-4444-555555555555";
    const AUDIENCE: &str = "api://sluicebox-webhook";
    const EVENT_GRID: &str = "4962773b-9cdb-44cf-a8bf-237846a00ab7";

    /// A tenant on loopback that tells its keys.
    struct Tenant {
        authority: String,
        keys: Arc<Mutex<Value>>,
        asked: Arc<AtomicU32>,
        _serving: JoinSet<()>,
    }

    impl Tenant {
        async fn new(keys: Value) -> Self {
            let (keys, asked) = (Arc::new(Mutex::new(keys)), Arc::new(AtomicU32::new(0)));
            let (told, counted) = (Arc::clone(&keys), Arc::clone(&asked));
            let answer = move || {
                counted.fetch_add(1, Ordering::Relaxed);
                let keys = told.lock().expect("not poisoned").clone();
                async move { Json(keys) }
            };
            let router = Router::new().route(&format!("/{TENANT}/discovery/v2.0/keys"), get(answer));
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
            let authority = format!("http://{}", listener.local_addr().expect("an address"));
            let mut serving = JoinSet::new();
            serving.spawn(async move { axum::serve(listener, router).await.expect("it serves") });
            Self { authority, keys, asked, _serving: serving }
        }

        async fn hook(&self) -> Hook {
            let entra = WebhookEntraSpec {
                tenant_id: TENANT.to_owned(),
                audience: AUDIENCE.to_owned(),
                client_id: EVENT_GRID.to_owned(),
                authority: self.authority.clone(),
            };
            Hook::new(Some(entra)).await
        }
    }

    fn key() -> KeyPair {
        KeyPair::generate(KeySize::Rsa2048).expect("a key")
    }

    /// As Entra tells it. The key is `SEQUENCE { INTEGER n, INTEGER e }`, of which n has 256 bytes after a zero.
    fn told(id: &str, key: &KeyPair) -> Value {
        let der = key.public_key().as_ref();
        let (modulus, exponent) = (&der[9..265], &der[267..]);
        assert_eq!((der[8], exponent), (0, &[1, 0, 1][..]), "the form of a key of 2048 bits");
        let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        json!({"kty": "RSA", "use": "sig", "kid": id, "x5t": id, "n": encode(modulus), "e": encode(exponent), "x5c": ["…"]})
    }

    fn claims() -> Value {
        let now = chrono::Utc::now().timestamp();
        json!({
            "aud": AUDIENCE, "iss": format!("https://sts.windows.net/{TENANT}/"), "iat": now, "nbf": now,
            "exp": now + 3600, "appid": EVENT_GRID, "tid": TENANT, "roles": ["AzureEventGridSecureWebhookSubscriber"],
        })
    }

    fn token(id: &str, key: &KeyPair, claims: &Value) -> String {
        let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", encode(&json!({"typ": "JWT", "alg": "RS256", "kid": id})), encode(claims));
        let mut signature = vec![0; key.public_modulus_len()];
        key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), signed.as_bytes(), &mut signature).expect("signed");
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    async fn post(hook: &Hook, token: &str) -> u16 {
        let request = hook.request(Method::POST, "").bearer_auth(token).body(event("type").to_string());
        request.send().await.expect("an answer").status().as_u16()
    }

    #[tokio::test]
    async fn a_token_of_event_grid_gets_in_and_no_other_does() {
        let (ours, strangers) = (key(), key());
        let keys = json!({"keys": [told("one", &ours), {"kty": "EC", "kid": "odd", "crv": "P-256"}, 7]});
        let tenant = Tenant::new(keys).await;
        let hook = tenant.hook().await;
        let good = token("one", &ours, &claims());
        assert_eq!(post(&hook, &good).await, 200);
        let changed = |key: &str, value: Value| {
            let mut claims = claims();
            claims[key] = value;
            token("one", &ours, &claims)
        };
        let (signed, _) = good.rsplit_once('.').expect("three parts");
        for (what, token) in [
            ("signed by a stranger", token("one", &strangers, &claims())),
            ("without a signature", format!("{signed}.")),
            ("expired", changed("exp", json!(1_000_000_000))),
            ("for another audience", changed("aud", json!("api://another"))),
            ("of another tenant", changed("iss", json!("https://sts.windows.net/another/"))),
            ("of another app", changed("appid", json!(TENANT))),
            ("with claims of another", {
                let other = changed("aud", json!("api://another"));
                let (parts, signature) = (other.split('.').collect::<Vec<_>>(), good.rsplit('.').next());
                format!("{}.{}.{}", parts[0], parts[1], signature.unwrap_or_default())
            }),
        ] {
            assert_eq!(post(&hook, &token).await, 401, "{what}");
        }
        let nobody = hook.request(Method::POST, "").body(event("type").to_string()).send().await.expect("an answer");
        assert_eq!(nobody.status(), 401);
        assert_eq!(hook.kept().len(), 1);
        assert_eq!(tenant.asked.load(Ordering::Relaxed), 1, "keys are asked for once");
    }

    #[tokio::test]
    async fn a_key_that_nobody_told_costs_one_question_whoever_names_it() {
        let ours = key();
        let tenant = Tenant::new(json!({"keys": [told("one", &ours)]})).await;
        let hook = tenant.hook().await;
        for id in ["two", "three", "four"] {
            assert_eq!(post(&hook, &token(id, &ours, &claims())).await, 401, "{id}");
        }
        assert_eq!(tenant.asked.load(Ordering::Relaxed), 1);
        *tenant.keys.lock().expect("not poisoned") = json!({"keys": [told("two", &ours)]});
        assert_eq!(post(&hook, &token("one", &ours, &claims())).await, 200, "what was told holds");
    }

    #[tokio::test]
    async fn without_the_tenants_keys_event_grid_is_asked_to_come_again() {
        let ours = key();
        let nobody = Tenant { authority: "http://127.0.0.1:1".to_owned(), ..Tenant::new(json!({})).await };
        let hook = nobody.hook().await;
        assert_eq!(post(&hook, &token("one", &ours, &claims())).await, 503);
        assert_eq!(post(&hook, "no token").await, 401, "nobody needs to be asked about that");
    }

    #[tokio::test]
    async fn where_tokens_alone_let_in_a_handshake_of_cloud_events_needs_none() {
        let tenant = Tenant::new(json!({"keys": []})).await;
        let hook = tenant.hook().await;
        let asked = hook.request(Method::OPTIONS, "").header("WebHook-Request-Origin", "eventgrid.azure.net");
        let answer = asked.send().await.expect("an answer");
        assert_eq!(answer.status(), 200);
        assert!(answer.headers().contains_key("WebHook-Allowed-Origin"));
    }
}
