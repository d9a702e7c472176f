//! Events per second and CPU per event of the whole pipeline, against a loop that only receives.
//!
//! ```text
//! child process: sluice emulator ◀── the events are sent once
//!        │
//!        ├─▶ this process, run A: the client alone, counting
//!        └─▶ this process, run B: client ─▶ decode ─▶ Delta table, until caught up
//! ```
//!
//! The runs alternate, so that both see the same machine; medians are compared. The emulator
//! is a process of its own, so that CPU seconds can be told apart, but it shares the cores.
//!
//! `cargo bench --bench live -- [--events N] [--runs N]`

#![allow(clippy::print_stdout, reason = "a bench prints what it measured")]

mod emulated;

use std::time::Duration;

use azure_core::time::Duration as AzureDuration;
use azure_messaging_eventhubs::{ConsumerClient, OpenReceiverOptions, RetryOptions, StartLocation, StartPosition};
use futures::{StreamExt as _, future};

use self::emulated::{Azure, FACT, Measured, PARTITIONS, machine, peak_rss_mib};

/// As the program itself has it, for both runs.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// As the pipeline's own links have it at most.
const PREFETCH: u32 = 1000;

struct Options {
    events: u64,
    runs: usize,
}

fn options() -> Options {
    let mut options = Options { events: 1_000_000, runs: 5 };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut number = || args.next().and_then(|text| text.parse().ok()).expect("a number follows");
        match arg.as_str() {
            "--events" => options.events = number(),
            "--runs" => options.runs = number() as usize,
            // What cargo itself passes.
            _ => {}
        }
    }
    options
}

fn main() {
    rustls::crypto::aws_lc_rs::default_provider().install_default().expect("the first provider");
    let options = options();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_stack_size(8 * 1024 * 1024)
        .build()
        .expect("a runtime");
    runtime.block_on(measure(&options));
}

async fn measure(options: &Options) {
    println!("{}", machine());
    let azure = Azure::start();
    let sizes = azure.fill(options.events, 0).await;
    println!(
        "{} events over {PARTITIONS} partitions; Avro body {:.0} bytes, with content type and properties {:.0}",
        options.events, sizes.body, sizes.whole
    );
    let mut receives = Vec::new();
    let mut pipelines = Vec::new();
    println!("{:>10} {:>9} {:>12} {:>15} {:>15}", "run", "seconds", "events/s", "CPU µs/event", "emulator µs");
    for run in 1..=options.runs {
        receives.push(azure.timed(&format!("receive {run}"), options.events, receive(&azure, options.events)).await);
        pipelines.push(
            azure.timed(&format!("pipeline {run}"), options.events, azure.run_pipeline(options.events, 0, 0)).await,
        );
    }
    let receive = Measured::median(&receives);
    let pipeline = Measured::median(&pipelines);
    receive.print("receive, median", options.events);
    pipeline.print("pipeline, median", options.events);
    println!("events/s of the pipeline against the loop: {:.2}", receive.seconds / pipeline.seconds);
    println!("CPU per event against the loop:            {:.2}", pipeline.cpu_seconds / receive.cpu_seconds);
    println!(
        "CPU µs per event beyond receiving:         {:.2}",
        (pipeline.cpu_seconds - receive.cpu_seconds) * 1e6 / options.events as f64
    );
    println!("peak RSS of this process:                  {} MiB", peak_rss_mib());
}

/// What the client can do by itself: one connection, a receiver for each partition.
async fn receive(azure: &Azure, events: u64) {
    let client = ConsumerClient::builder()
        .with_custom_endpoint(azure.event_hubs.clone())
        .with_consumer_group("bench".to_owned())
        .with_retry_options(RetryOptions {
            max_retries: 0,
            max_total_elapsed: AzureDuration::ZERO,
            ..RetryOptions::default()
        })
        .open_with_connection_string(&azure.connection_string, Some(FACT.hub().name()))
        .await
        .expect("a client");
    let counts = (0..PARTITIONS).map(|partition| receive_partition(&client, partition, events));
    let received: u64 = future::join_all(counts).await.into_iter().sum();
    assert_eq!(received, events);
    client.close().await.expect("closed");
}

async fn receive_partition(client: &ConsumerClient, partition: u64, events: u64) -> u64 {
    let share = events / PARTITIONS + u64::from(partition < events % PARTITIONS);
    let options = OpenReceiverOptions {
        start_position: Some(StartPosition { location: StartLocation::Earliest, inclusive: false }),
        prefetch: Some(PREFETCH),
        owner_level: Some(0),
        ..OpenReceiverOptions::default()
    };
    let receiver = client.open_receiver_on_partition(partition.to_string(), Some(options)).await.expect("a receiver");
    let mut stream = std::pin::pin!(receiver.stream_events());
    let mut received = 0;
    while received < share {
        let next = tokio::time::timeout(Duration::from_secs(60), stream.next()).await.expect("no more events come");
        let event = next.expect("the stream goes on").expect("an event");
        assert!(event.event_data().body().is_some());
        received += 1;
    }
    received
}
