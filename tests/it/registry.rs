//! The emulator's Schema Registry, over HTTP as its clients call it.

use std::time::{Duration, Instant};

use reqwest::{Client, Method, Response, StatusCode};
use serde_json::Value;
use sluicebox::config::spec::Secret;
use sluicebox::emulator::certificates::Certificates;
use sluicebox::emulator::registry::{Registry, RegistryAction, RegistryFault, RegistryOptions};

const LEAD: &str = r#"{"type":"record","name":"Lead","fields":[{"name":"id","type":"string"}]}"#;
const WIDER: &str = r#"{"type":"record","name":"Lead","fields":[{"name":"id","type":"string"},{"name":"score","type":["null","double"],"default":null}]}"#;
const AVRO: &str = "application/json; serialization=Avro";
const LEADS: &str = "/$schemaGroups/sales/schemas/Lead";

async fn start() -> Registry {
    Registry::start(RegistryOptions::default()).await.expect("a free port")
}

async fn send(registry: &Registry, method: Method, path: &str, body: &'static str) -> Response {
    let url = format!("{}{path}?api-version=2022-10", registry.url());
    let request = Client::new().request(method, url).header("content-type", AVRO).body(body);
    request.send().await.expect("an answer")
}

fn header<'a>(response: &'a Response, name: &str) -> &'a str {
    response.headers().get(name).unwrap_or_else(|| panic!("no {name}")).to_str().expect("text")
}

#[tokio::test]
async fn a_registered_schema_is_found_by_id_version_and_content() {
    let registry = start().await;
    let first = send(&registry, Method::PUT, LEADS, LEAD).await;
    assert_eq!(first.status(), StatusCode::NO_CONTENT);
    let id = header(&first, "schema-id").to_owned();
    assert_eq!(
        (header(&first, "schema-group-name"), header(&first, "schema-name"), header(&first, "schema-version")),
        ("sales", "Lead", "1")
    );
    assert!(header(&first, "schema-id-location").contains(&format!("/$schemaGroups/$schemas/{id}?api-version=")));
    assert!(header(&first, "location").contains("/$schemaGroups/sales/schemas/Lead/versions/1?api-version="));

    let again = send(&registry, Method::PUT, LEADS, LEAD).await;
    assert_eq!((header(&again, "schema-id"), header(&again, "schema-version")), (id.as_str(), "1"));
    let second = send(&registry, Method::PUT, LEADS, WIDER).await;
    assert_eq!(header(&second, "schema-version"), "2");
    assert_ne!(header(&second, "schema-id"), id);

    let by_id = send(&registry, Method::GET, &format!("/$schemaGroups/$schemas/{id}"), "").await;
    assert_eq!(header(&by_id, "content-type"), AVRO);
    assert_eq!(by_id.text().await.expect("text"), LEAD);
    let by_version = send(&registry, Method::GET, &format!("{LEADS}/versions/2"), "").await;
    assert_eq!(by_version.text().await.expect("text"), WIDER);
    let id_of = send(&registry, Method::POST, &format!("{LEADS}:get-id"), LEAD).await;
    assert_eq!((id_of.status(), header(&id_of, "schema-id")), (StatusCode::NO_CONTENT, id.as_str()));
    let groups: Value = send(&registry, Method::GET, "/$schemaGroups", "").await.json().await.expect("json");
    assert_eq!(groups, serde_json::json!({ "Value": ["sales"] }));
    let versions: Value =
        send(&registry, Method::GET, &format!("{LEADS}/versions"), "").await.json().await.expect("json");
    assert_eq!(versions, serde_json::json!({ "Value": [1, 2] }));
    registry.stop().await;
}

#[tokio::test]
async fn what_is_not_there_is_a_404_that_names_it_and_what_is_wrong_a_400() {
    let registry = start().await;
    registry.register("sales", "Lead", LEAD).expect("a good schema");
    let unknown = format!("/$schemaGroups/$schemas/{}", "0".repeat(32));
    let broken = r#"{"type":"recrd"}"#;
    for (method, path, body, status, named) in [
        (Method::GET, unknown.as_str(), "", 404, "0000"),
        (Method::GET, "/$schemaGroups/sales/schemas/Lead/versions/2", "", 404, "no version 2"),
        (Method::GET, "/$schemaGroups/sales/schemas/Lead/versions/two", "", 400, "`two`"),
        (Method::GET, "/$schemaGroups/sales/schemas/Nobody/versions", "", 404, "`Nobody`"),
        (Method::GET, "/$schemaGroups/nobody/schemas/Lead/versions", "", 404, "group `nobody`"),
        (Method::POST, "/$schemaGroups/sales/schemas/Lead:get-id", WIDER, 404, "`Lead`"),
        (Method::GET, "/$schemaGroups/$schemas/not-an-id", "", 400, "`not-an-id`"),
        (Method::PUT, LEADS, broken, 400, "validation"),
        (Method::PUT, "/$schemaGroups/sales/schemas/-Lead", LEAD, 400, "`-Lead`"),
        (Method::GET, "/elsewhere", "", 404, "/elsewhere"),
        (Method::DELETE, LEADS, "", 405, ""),
    ] {
        let response = send(&registry, method.clone(), path, body).await;
        assert_eq!(response.status(), status, "{method} {path}");
        let body: Value = response.json().await.expect("an error in JSON");
        assert!(body["error"]["message"].as_str().is_some_and(|text| text.contains(named)), "{method} {path}: {body}");
        assert_eq!(body["Code"], status);
    }
}

#[tokio::test]
async fn an_unknown_api_version_and_content_type_are_refused() {
    let registry = start().await;
    let url = format!("{}/$schemaGroups", registry.url());
    let none = Client::new().get(&url).send().await.expect("an answer");
    let old = Client::new().get(format!("{url}?api-version=2017-04")).send().await.expect("an answer");
    assert_eq!((none.status(), old.status()), (StatusCode::BAD_REQUEST, StatusCode::BAD_REQUEST));
    let lead = format!("{}{LEADS}?api-version=2021-10", registry.url());
    let wrong =
        Client::new().put(&lead).header("content-type", "image/png").body(LEAD).send().await.expect("an answer");
    assert_eq!(wrong.status(), StatusCode::UNSUPPORTED_MEDIA_TYPE);
    let long = format!(r#"{{"type":"string","doc":"{}"}}"#, "x".repeat(1 << 20));
    let large = Client::new().put(&lead).header("content-type", AVRO).body(long).send().await.expect("an answer");
    assert_eq!(large.status(), StatusCode::PAYLOAD_TOO_LARGE);
}

#[tokio::test]
async fn a_long_list_comes_in_pages() {
    let registry = start().await;
    for number in 0..250 {
        let schema = format!(r#"{{"type":"fixed","name":"F","size":{}}}"#, number + 1);
        registry.register("sales", "F", &schema).expect("a good schema");
    }
    let mut next = Some(format!("{}/$schemaGroups/sales/schemas/F/versions?api-version=2023-07-01", registry.url()));
    let mut versions = Vec::new();
    let mut pages = 0;
    while let Some(url) = next {
        let page: Value = Client::new().get(url).send().await.expect("an answer").json().await.expect("json");
        versions.extend(page["Value"].as_array().expect("a list").iter().filter_map(Value::as_u64));
        next = page["NextLink"].as_str().map(str::to_owned);
        pages += 1;
    }
    assert_eq!(pages, 3);
    assert!(versions.iter().copied().eq(1..=250), "{versions:?}");
}

#[tokio::test]
async fn faults_strike_as_often_as_ordered_and_only_what_they_name() {
    let registry = start().await;
    let id = registry.register("sales", "Lead", LEAD).expect("a good schema");
    let other = registry.register("sales", "Lead", WIDER).expect("a good schema");
    let status =
        async |id: &str| send(&registry, Method::GET, &format!("/$schemaGroups/$schemas/{id}"), "").await.status();

    registry.fail_next(2, 503);
    for expected in [503, 503, 200, 200] {
        assert_eq!(status(&id).await, expected);
    }

    registry.fail(RegistryFault { schema_id: Some(id.clone()), times: 1, action: RegistryAction::Status(500) });
    assert_eq!(status(&other).await, StatusCode::OK);
    assert_eq!(status(&id).await, StatusCode::INTERNAL_SERVER_ERROR);
    assert!(registry.faults().is_empty());

    let delay = Duration::from_millis(120);
    registry.fail(RegistryFault { schema_id: None, times: 1, action: RegistryAction::Delay(delay) });
    let asked = Instant::now();
    assert_eq!(status(&id).await, StatusCode::OK);
    assert!(asked.elapsed() >= delay);
    assert_eq!(registry.served().get("by-id"), Some(&7));
}

#[tokio::test]
async fn a_restart_keeps_ids() {
    let dir = tempfile::tempdir().expect("a folder");
    let options = RegistryOptions { dir: Some(dir.path().to_owned()), ..RegistryOptions::default() };
    let registry = Registry::start(options.clone()).await.expect("a registry");
    let id = registry.register("sales", "Lead", LEAD).expect("a good schema");
    registry.stop().await;
    let registry = Registry::start(options).await.expect("a registry");
    let found = send(&registry, Method::GET, &format!("/$schemaGroups/$schemas/{id}"), "").await;
    assert_eq!(found.text().await.expect("text"), LEAD);
}

#[tokio::test]
async fn over_tls_with_tokens_only_the_right_authority_and_token_get_in() {
    let certificates = Certificates::make().expect("certificates");
    let registry = Registry::start(RegistryOptions {
        tls: Some(certificates.server()),
        bearer_tokens: vec![Secret::new("right")],
        ..RegistryOptions::default()
    })
    .await
    .expect("a registry");
    let trusting = |pem: &str| {
        let authority = reqwest::Certificate::from_pem(pem.as_bytes()).expect("a certificate");
        Client::builder().tls_certs_only([authority]).build().expect("a client")
    };
    let client = trusting(certificates.ca_pem());
    let url = format!("{}/$schemaGroups?api-version=2022-10", registry.url());
    let status = async |request: reqwest::RequestBuilder| request.send().await.expect("an answer").status();
    assert_eq!(status(client.get(&url).bearer_auth("right")).await, StatusCode::OK);
    assert_eq!(status(client.get(&url).bearer_auth("wrong")).await, StatusCode::UNAUTHORIZED);
    assert_eq!(status(client.get(&url)).await, StatusCode::UNAUTHORIZED);
    let by_name = url.replace("127.0.0.1", "localhost");
    assert_eq!(status(client.get(by_name).bearer_auth("right")).await, StatusCode::OK);

    let stranger = trusting(Certificates::make().expect("certificates").ca_pem());
    let refused = stranger.get(&url).bearer_auth("right").send().await.expect_err("another authority");
    assert!(refused.is_connect(), "{refused:?}");
    registry.stop().await;
}
