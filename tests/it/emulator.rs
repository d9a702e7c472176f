//! The emulator as a whole: its control API, its tokens, its certificates.

use reqwest::{Client, StatusCode};
use serde_json::{Value, json};
use sluicebox::config::spec::Secret;
use sluicebox::emulator::HubSpec;
use sluicebox::emulator::together::{Emulator, EmulatorOptions, Transport};

async fn start(options: EmulatorOptions) -> Emulator {
    Emulator::start(EmulatorOptions { hubs: vec![HubSpec::new("leads", 2)], ..options }).await.expect("an emulator")
}

async fn ask(emulator: &Emulator, method: &str, path: &str, body: Option<Value>) -> (StatusCode, Value) {
    let url = format!("{}{path}", emulator.addresses().control);
    let mut request = Client::new().request(method.parse().expect("a method"), url);
    if let Some(body) = body {
        request = request.json(&body);
    }
    let response = request.send().await.expect("an answer");
    (response.status(), response.json().await.unwrap_or(Value::Null))
}

#[test]
fn a_secret_in_a_flag_that_can_not_be_used_is_not_shown() {
    for (flag, value, reason) in [
        ("--announce-webhook", "https://:80/hook?code=s3cret", "empty host"),
        ("--announce-webhook", "http://example.com/hook?code=s3cret", "plaintext to another machine"),
        ("--announce-queue", "ftp://example.com/queue?sig=s3cret", "write `https://host/…`"),
        ("--key", "s3cret", "a key is of the form `NAME=KEY`"),
    ] {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_sluice"));
        let said = command.args(["emulator", "--capture", "captures", flag, value]).output().expect("sluice runs");
        let words = String::from_utf8_lossy(&said.stderr);
        assert_eq!(said.status.code(), Some(2), "{flag}: {words}");
        assert!(words.contains(flag) && words.contains(reason), "{words}");
        assert!(!words.contains("s3cret"), "{words}");
        assert!(words.ends_with("try '--help'.\n"), "as clap ends other mistakes: {words}");
    }
}

#[tokio::test]
async fn hubs_are_listed_made_and_watched() {
    let emulator = start(EmulatorOptions::default()).await;
    assert_eq!(ask(&emulator, "GET", "/healthz", None).await.0, StatusCode::OK);
    let made = ask(&emulator, "POST", "/hubs", Some(json!({ "name": "accounts", "partitions": 3 }))).await;
    assert_eq!(made.0, StatusCode::CREATED);
    let again = ask(&emulator, "POST", "/hubs", Some(json!({ "name": "accounts", "partitions": 3 }))).await;
    assert_eq!(again.0, StatusCode::CONFLICT);
    let (_, hubs) = ask(&emulator, "GET", "/hubs", None).await;
    let named: Vec<_> =
        hubs["hubs"].as_array().expect("a list").iter().map(|hub| (&hub["name"], &hub["partitions"])).collect();
    assert!(
        named.contains(&(&json!("leads"), &json!(2))) && named.contains(&(&json!("accounts"), &json!(3))),
        "{hubs}"
    );
    let (status, partition) = ask(&emulator, "GET", "/hubs/leads/partitions/1", None).await;
    assert_eq!((status, &partition["last_sequence_number"]), (StatusCode::OK, &json!(-1)), "{partition}");
    for path in ["/hubs/leads/partitions/2", "/hubs/nobody/partitions/0"] {
        let (status, error) = ask(&emulator, "GET", path, None).await;
        assert_eq!(status, StatusCode::NOT_FOUND);
        assert!(error["error"].is_string(), "{error}");
    }
    emulator.stop().await;
}

#[tokio::test]
async fn expiry_and_a_hub_made_anew_move_the_numbers() {
    let emulator = start(EmulatorOptions::default()).await;
    emulator.broker().append("leads", "0", vec![Default::default(); 10]).expect("events");
    assert_eq!(ask(&emulator, "POST", "/hubs/leads/partitions/0/expire", Some(json!({ "before": 4 }))).await.0, 204);
    let (_, partition) = ask(&emulator, "GET", "/hubs/leads/partitions/0", None).await;
    assert_eq!((&partition["begin_sequence_number"], &partition["last_sequence_number"]), (&json!(4), &json!(9)));
    assert_eq!(ask(&emulator, "PUT", "/retention", Some(json!({ "max_events": 2, "max_age": "1h" }))).await.0, 204);
    let (_, partition) = ask(&emulator, "GET", "/hubs/leads/partitions/0", None).await;
    assert_eq!(partition["begin_sequence_number"], json!(8));
    assert_eq!(ask(&emulator, "POST", "/hubs/leads/remake", None).await.0, 204);
    let (_, partition) = ask(&emulator, "GET", "/hubs/leads/partitions/0", None).await;
    assert_eq!(partition["last_sequence_number"], json!(-1));
}

#[tokio::test]
async fn faults_are_ordered_listed_and_taken_back() {
    let emulator = start(EmulatorOptions::default()).await;
    let fault = json!({ "action": "drop-connection", "hub": "leads", "partition": "1", "after_events": 5, "times": 2 });
    assert_eq!(ask(&emulator, "POST", "/faults", Some(fault.clone())).await.0, StatusCode::CREATED);
    assert_eq!(ask(&emulator, "POST", "/registry/fail", Some(json!({ "times": 3, "status": 503 }))).await.0, 201);
    let (_, listed) = ask(&emulator, "GET", "/faults", None).await;
    assert_eq!((&listed["faults"][0], &listed["registry"][0]["times"]), (&fault, &json!(3)), "{listed}");
    for wrong in [json!({ "times": 0, "status": 503 }), json!({ "times": 1 }), json!({ "times": 1, "status": 200 })] {
        assert_eq!(ask(&emulator, "POST", "/registry/fail", Some(wrong)).await.0, StatusCode::BAD_REQUEST);
    }
    assert!(ask(&emulator, "POST", "/faults", Some(json!({ "action": "explode" }))).await.0.is_client_error());
    assert_eq!(ask(&emulator, "DELETE", "/faults", None).await.0, StatusCode::NO_CONTENT);
    let (_, listed) = ask(&emulator, "GET", "/faults", None).await;
    assert_eq!(listed, json!({ "faults": [], "registry": [] }));
}

#[tokio::test]
async fn the_token_endpoint_answers_as_app_service_does_and_the_registry_takes_its_token() {
    let keys = vec![("sender".to_owned(), Secret::new("key"))];
    let emulator = start(EmulatorOptions { keys, ..EmulatorOptions::default() }).await;
    let url = format!(
        "{}?api-version=2019-08-01&resource=https%3A%2F%2Feventhubs.azure.net",
        emulator.addresses().identity_endpoint
    );
    let without = Client::new().get(&url).send().await.expect("an answer");
    assert_eq!(without.status(), StatusCode::BAD_REQUEST);
    let with = Client::new().get(&url).header("X-IDENTITY-HEADER", "anything").send().await.expect("an answer");
    let token: Value = with.json().await.expect("json");
    assert_eq!((&token["resource"], &token["token_type"]), (&json!("https://eventhubs.azure.net"), &json!("Bearer")));
    assert!(token["expires_on"].as_str().is_some_and(|text| text.parse::<i64>().is_ok()), "{token}");

    let groups = format!("{}/$schemaGroups?api-version=2022-10", emulator.addresses().schema_registry);
    let refused = Client::new().get(&groups).send().await.expect("an answer");
    assert_eq!(refused.status(), StatusCode::UNAUTHORIZED);
    let taken = Client::new().get(&groups).bearer_auth(token["access_token"].as_str().expect("text"));
    assert_eq!(taken.send().await.expect("an answer").status(), StatusCode::OK);
}

#[tokio::test]
async fn over_tls_the_authority_lies_where_the_addresses_say_until_the_end() {
    let emulator = start(EmulatorOptions { transport: Transport::Tls, ..EmulatorOptions::default() }).await;
    let addresses = emulator.addresses().clone();
    assert!(addresses.event_hubs.starts_with("amqps://localhost:"), "{addresses:?}");
    assert!(addresses.schema_registry.starts_with("https://"), "{addresses:?}");
    assert!(!addresses.connection_string.reveal().contains("UseDevelopmentEmulator"));
    let file = addresses.ca_file.expect("a file");
    assert!(std::fs::read_to_string(&file).expect("the file").starts_with("-----BEGIN CERTIFICATE-----"));
    emulator.stop().await;
    assert!(!file.exists());
}

#[tokio::test]
async fn a_folder_keeps_hubs_schemas_and_authority() {
    let dir = tempfile::tempdir().expect("a folder");
    let options = || EmulatorOptions {
        dir: Some(dir.path().to_owned()),
        transport: Transport::Tls,
        ..EmulatorOptions::default()
    };
    let emulator = start(options()).await;
    emulator.broker().append("leads", "0", vec![Default::default(); 3]).expect("events");
    let id = emulator.registry().register("sales", "Lead", r#""string""#).expect("a schema");
    let authority = std::fs::read(emulator.addresses().ca_file.as_ref().expect("a file")).expect("the file");
    emulator.stop().await;
    let emulator = start(options()).await;
    assert_eq!(emulator.broker().partition("leads", "0").expect("a partition").last_sequence_number, 2);
    assert_eq!(emulator.registry().register("sales", "Lead", r#""string""#).expect("a schema"), id);
    assert_eq!(std::fs::read(emulator.addresses().ca_file.as_ref().expect("a file")).expect("the file"), authority);
}
