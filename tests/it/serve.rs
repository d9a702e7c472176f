//! The HTTP server beside a run, over a real connection.

use std::sync::Arc;
use std::time::Duration;

use sluicebox::pipeline::status::{LastCommit, PipelineStatus, State};
use sluicebox::serve::{Server, start};
use sluicebox::telemetry::metrics;

async fn serving(statuses: &[PipelineStatus]) -> Server {
    let loopback = "127.0.0.1:0".parse().expect("an address");
    start(loopback, Arc::new(statuses.to_vec()), None).await.expect("a free port")
}

async fn get(server: &Server, path: &str, accept: &str) -> (u16, String) {
    let url = format!("http://{}{path}", server.address());
    let answer = reqwest::Client::new().get(url).header("accept", accept).send().await.expect("an answer");
    (answer.status().as_u16(), answer.text().await.expect("a text"))
}

#[tokio::test]
async fn it_is_ready_once_every_pipeline_is_at_work() {
    let statuses = ["leads", "accounts"].map(|name| PipelineStatus::new(name, "conversions", "bronze.x"));
    let server = serving(&statuses).await;
    assert_eq!(get(&server, "/healthz", "*/*").await, (200, "ok\n".to_owned()));
    statuses[0].change(|pipeline| pipeline.state = State::Running);
    let (code, words) = get(&server, "/readyz", "*/*").await;
    assert_eq!((code, words.as_str()), (503, "pipeline `accounts` is starting\n"));
    statuses[1].change(|pipeline| pipeline.state = State::Running);
    assert_eq!(get(&server, "/readyz", "*/*").await, (200, "ready\n".to_owned()));
    statuses[1].change(|pipeline| {
        pipeline.state = State::Failed;
        pipeline.error = Some("the hub counts anew".to_owned());
    });
    let (code, words) = get(&server, "/readyz", "*/*").await;
    assert_eq!((code, words.as_str()), (503, "pipeline `accounts` is failed: the hub counts anew\n"));
    assert_eq!(get(&server, "/healthz", "*/*").await.0, 200);
}

#[tokio::test]
async fn the_page_is_html_for_a_browser_and_json_for_a_script() {
    let status = PipelineStatus::new("leads", "conversions", "bronze.leads");
    status.change(|pipeline| {
        pipeline.last_commit = Some(LastCommit { version: 7, at: "2026-01-02T03:04:05Z".to_owned() });
    });
    status.partition("0", |partition| {
        partition.position = Some(10);
        partition.lag_events = Some(3);
    });
    let server = serving(&[status]).await;
    let (code, page) = get(&server, "/", "text/html,application/xhtml+xml").await;
    assert_eq!(code, 200);
    assert!(page.starts_with("<!doctype html>") && page.contains("version 7 at 2026-01-02T03:04:05Z"), "{page}");
    assert!(page.contains("<td>0</td><td>10</td><td>–</td><td>3</td>"), "{page}");
    let (_, json) = get(&server, "/", "application/json").await;
    let told: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(told["pipelines"][0]["partitions"]["0"]["position"], 10, "{told}");
    assert_eq!(get(&server, "/nothing-here", "*/*").await.0, 404);
}

#[tokio::test]
async fn what_was_counted_can_be_scraped_from_every_server_of_the_process() {
    let first = serving(&[]).await;
    metrics::commit("scraped", "bronze.leads", 900, 2, Duration::from_millis(30));
    let second = serving(&[]).await;
    for server in [&first, &second] {
        let (code, text) = get(server, "/metrics", "*/*").await;
        assert_eq!(code, 200);
        let counted = "sluice_sink_commit_retries_total{pipeline=\"scraped\",table=\"bronze.leads\"} 1";
        assert!(text.contains(counted), "{text}");
        assert!(text.contains("# HELP sluice_sink_commits_total"), "{text}");
    }
}

#[tokio::test]
async fn a_stop_ends_it_although_a_connection_is_open() {
    let server = serving(&[]).await;
    let address = server.address();
    let open = tokio::net::TcpStream::connect(address).await.expect("it listens");
    tokio::time::timeout(Duration::from_secs(10), server.stop()).await.expect("the stop ends");
    drop(open);
    assert!(tokio::net::TcpStream::connect(address).await.is_err(), "nothing listens any more");
}

#[tokio::test]
async fn a_port_that_is_taken_is_named_with_a_way_out() {
    use sluicebox::error::Classify as _;
    let first = serving(&[]).await;
    let error = start(first.address(), Arc::default(), None).await.expect_err("the port is taken");
    assert_eq!(error.to_string(), format!("can't listen on `{}`", first.address()));
    assert!(error.hint().is_some_and(|hint| hint.contains("[serve] address")));
}
