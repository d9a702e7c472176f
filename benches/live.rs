//! Events per second and CPU per event of the whole pipeline, against a loop that only receives.
//!
//! ```text
//! child process: sluice emulator ◀── the events are sent once
//!        │
//!        ├─▶ this process, run A: the client alone, counting
//!        ├─▶ this process, run B: client ─▶ decode ─▶ Delta table, until caught up
//!        └─▶ with `--routes N`, run C: the same with events of N types, each to a table of its own
//! ```
//!
//! The runs alternate, so that both see the same machine; medians are compared. The emulator
//! is a process of its own, so that CPU seconds can be told apart, but it shares the cores.
//!
//! `cargo bench --bench live -- [--events N] [--runs N] [--routes N]`

#![allow(clippy::print_stdout, reason = "a bench prints what it measured")]

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use apache_avro::Schema;
use azure_core::time::Duration as AzureDuration;
use azure_messaging_eventhubs::{ConsumerClient, OpenReceiverOptions, RetryOptions, StartLocation, StartPosition};
use futures::{StreamExt as _, future};
use sluicebox::config::spec::{EventHubsAccess, EventHubsSpec, ProjectSpec, Secret};
use sluicebox::config::{LoadOptions, load_with};
use sluicebox::pipeline::demo::facts::Fact;
use sluicebox::pipeline::demo::story::Teller;
use sluicebox::pipeline::{RunOptions, run_project};
use sluicebox::shutdown::Shutdown;
use sluicebox::source::event_hubs::{EventSender, OutgoingEvent};

/// As the program itself has it, for both runs.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const PARTITIONS: u64 = 4;
/// Nested: a record, an array of records, a map, decimals, optional fields.
const FACT: Fact = Fact::AccountActivated;
/// As the pipeline's own links have it at most.
const PREFETCH: u32 = 1000;
/// USER_HZ of every Linux.
const TICKS_PER_SECOND: f64 = 100.0;

struct Options {
    events: u64,
    runs: usize,
    routes: u64,
}

fn options() -> Options {
    let mut options = Options { events: 1_000_000, runs: 5, routes: 0 };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut number = || args.next().and_then(|text| text.parse().ok()).expect("a number follows");
        match arg.as_str() {
            "--events" => options.events = number(),
            "--runs" => options.runs = number() as usize,
            "--routes" => options.routes = number(),
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
    let sizes = azure.fill(options.events, options.routes).await;
    println!(
        "{} events over {PARTITIONS} partitions; Avro body {:.0} bytes, with content type and properties {:.0}",
        options.events, sizes.body, sizes.whole
    );
    let mut receives = Vec::new();
    let mut pipelines = Vec::new();
    let mut routed = Vec::new();
    println!("{:>10} {:>9} {:>12} {:>15} {:>15}", "run", "seconds", "events/s", "CPU µs/event", "emulator µs");
    for run in 1..=options.runs {
        receives.push(azure.timed("receive", run, options.events, azure.receive(options.events)).await);
        pipelines.push(azure.timed("pipeline", run, options.events, azure.run_pipeline(options.events, 0)).await);
        if options.routes > 0 {
            let work = azure.run_pipeline(options.events, options.routes);
            routed.push(azure.timed("routes", run, options.events, work).await);
        }
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
    if !routed.is_empty() {
        let routed = Measured::median(&routed);
        routed.print("routes, median", options.events);
        println!(
            "events/s of {} tables against one:          {:.2}",
            options.routes,
            pipeline.seconds / routed.seconds
        );
        println!("CPU per event against one:                 {:.2}", routed.cpu_seconds / pipeline.cpu_seconds);
    }
    println!("peak RSS of this process:                  {} MiB", peak_rss_mib());
}

#[derive(Debug, Clone, Copy)]
struct Measured {
    seconds: f64,
    cpu_seconds: f64,
    emulator_cpu_seconds: f64,
}

impl Measured {
    fn median(runs: &[Self]) -> Self {
        let middle = |pick: fn(&Self) -> f64| {
            let mut values: Vec<f64> = runs.iter().map(pick).collect();
            values.sort_by(f64::total_cmp);
            values[values.len() / 2]
        };
        Self {
            seconds: middle(|run| run.seconds),
            cpu_seconds: middle(|run| run.cpu_seconds),
            emulator_cpu_seconds: middle(|run| run.emulator_cpu_seconds),
        }
    }

    fn print(&self, name: &str, events: u64) {
        let per_event = |seconds: f64| seconds * 1e6 / events as f64;
        println!(
            "{name:>16} {:>6.2} s {:>9.0}/s {:>12.2} {:>15.2}",
            self.seconds,
            events as f64 / self.seconds,
            per_event(self.cpu_seconds),
            per_event(self.emulator_cpu_seconds)
        );
    }
}

struct Sizes {
    body: f64,
    whole: f64,
}

/// The emulator as a child of this process.
struct Azure {
    child: Child,
    event_hubs: String,
    connection_string: String,
    schema_registry: String,
}

impl Azure {
    fn start() -> Self {
        let hub = format!("{}:{PARTITIONS}", FACT.hub().name());
        let mut child = Command::new(env!("CARGO_BIN_EXE_sluice"))
            .args(["-q", "emulator", "--hub", &hub, "--port", "0", "--registry-port", "0", "--control-port", "0"])
            .args(["--format", "json"])
            .stdout(Stdio::piped())
            .spawn()
            .expect("the emulator starts");
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().expect("stdout is piped")).read_line(&mut line).expect("a line");
        let ready: serde_json::Value = serde_json::from_str(&line).expect("a line of JSON");
        let text = |key: &str| ready[key].as_str().expect("a text").to_owned();
        Self {
            event_hubs: text("event_hubs"),
            connection_string: text("connection_string"),
            schema_registry: text("schema_registry"),
            child,
        }
    }

    fn hubs(&self) -> EventHubsSpec {
        EventHubsSpec {
            access: EventHubsAccess::ConnectionString(Secret::new(self.connection_string.clone())),
            id: None,
            endpoint: None,
        }
    }

    async fn register(&self) -> String {
        let url = format!(
            "{}/$schemaGroups/{}/schemas/{}?api-version=2023-07-01",
            self.schema_registry,
            FACT.hub().team(),
            FACT.name()
        );
        let answer = reqwest::Client::new()
            .put(url)
            .header("content-type", "application/json; serialization=Avro")
            .body(FACT.avsc())
            .send()
            .await
            .expect("the registry answers");
        assert!(answer.status().is_success(), "{answer:?}");
        answer.headers()["schema-id"].to_str().expect("a text").to_owned()
    }

    /// Sends the events, each partition its share; of as many types in turn as there are routes.
    async fn fill(&self, events: u64, routes: u64) -> Sizes {
        let content_type = format!("avro/binary+{}", self.register().await);
        let schema = Schema::parse_str(FACT.avsc()).expect("a schema");
        let story = Teller::try_new(FACT, &schema, 1).expect("a story");
        let mut number = 0;
        let sender = EventSender::connect(&self.hubs(), FACT.hub().name()).await.expect("a sender");
        let (mut body, mut whole) = (0, 0);
        for partition in 0..PARTITIONS {
            let share = events / PARTITIONS + u64::from(partition < events % PARTITIONS);
            let mut left = share;
            while left > 0 {
                let count = left.min(2000);
                left -= count;
                let parcel: Vec<_> = (0..count)
                    .map(|at| {
                        let event_type = match at.checked_rem(routes) {
                            Some(route) => lane(route),
                            None => FACT.name().to_owned(),
                        };
                        let told = story.tell(number).expect("an event");
                        number += 1;
                        let properties = vec![
                            ("cloudEvents_id".to_owned(), told.id.to_string()),
                            ("cloudEvents_type".to_owned(), event_type),
                        ];
                        body += told.body.len();
                        whole += told.body.len() + content_type.len();
                        whole += properties.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
                        OutgoingEvent { body: told.body.into(), content_type: Some(content_type.clone()), properties }
                    })
                    .collect();
                sender.send(Some(&partition.to_string()), None, parcel).await.expect("sent");
            }
        }
        sender.close().await;
        Sizes { body: body as f64 / events as f64, whole: whole as f64 / events as f64 }
    }

    async fn timed(&self, name: &str, run: usize, events: u64, work: impl Future<Output = ()>) -> Measured {
        let emulator = self.child.id().to_string();
        let (cpu, emulator_cpu) = (cpu_seconds("self"), cpu_seconds(&emulator));
        let began = Instant::now();
        work.await;
        let measured = Measured {
            seconds: began.elapsed().as_secs_f64(),
            cpu_seconds: cpu_seconds("self") - cpu,
            emulator_cpu_seconds: cpu_seconds(&emulator) - emulator_cpu,
        };
        measured.print(&format!("{name} {run}"), events);
        measured
    }

    /// What the client can do by itself: one connection, a receiver for each partition.
    async fn receive(&self, events: u64) {
        let client = ConsumerClient::builder()
            .with_custom_endpoint(self.event_hubs.clone())
            .with_consumer_group("bench".to_owned())
            .with_retry_options(RetryOptions {
                max_retries: 0,
                max_total_elapsed: AzureDuration::ZERO,
                ..RetryOptions::default()
            })
            .open_with_connection_string(&self.connection_string, Some(FACT.hub().name()))
            .await
            .expect("a client");
        let counts = (0..PARTITIONS).map(|partition| receive_partition(&client, partition, events));
        let received: u64 = future::join_all(counts).await.into_iter().sum();
        assert_eq!(received, events);
        client.close().await.expect("closed");
    }

    /// The whole way, into a folder of its own.
    async fn run_pipeline(&self, events: u64, routes: u64) {
        let folder = tempfile::tempdir().expect("a folder");
        let project = self.project(folder.path(), routes);
        let options = RunOptions { until_caught_up: true, ..RunOptions::default() };
        let summary = run_project(&project, options, Shutdown::new()).await.expect("it caught up");
        let committed: u64 = summary.pipelines.iter().map(|pipeline| pipeline.committed).sum();
        assert_eq!(committed, events);
    }

    fn project(&self, dir: &Path, routes: u64) -> ProjectSpec {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let write = |file: String, text: &str| {
            let to = dir.join(file);
            std::fs::create_dir_all(to.parent().expect("a folder above")).expect("made");
            std::fs::write(to, text).expect("written");
        };
        let read = |file: &str| std::fs::read_to_string(root.join(file)).expect("a file of the project");
        let pipeline = format!("pipelines/{}/{}.toml", FACT.hub().team(), FACT.hub().name());
        // Bronze alone: what is made of it is measured elsewhere.
        let declared = read(&pipeline);
        let bronze = declared.split("[[transform]]").next().expect("a text has a first part");
        let route = |route| format!("\n[[route]]\ntype = \"{}\"\ntable = \"bronze.lane_{route}\"\n", lane(route));
        let routes: String = (0..routes).map(route).collect();
        write("sluice.toml".to_owned(), &read("sluice.toml"));
        write(pipeline, &format!("{bronze}{routes}"));
        for fact in FACT.hub().facts() {
            write(format!("schemas/{}.avsc", fact.name()), fact.avsc());
        }
        let lookup = |name: &str| match name {
            "EVENTHUBS_CONNECTION_STRING" => Some(self.connection_string.clone()),
            "SCHEMA_REGISTRY_ENDPOINT" => Some(self.schema_registry.clone()),
            _ => None,
        };
        let options = LoadOptions { project: Some(dir.to_owned()), env: None };
        load_with(&options, &lookup).expect("a project without problems")
    }
}

/// A type of events that a route takes.
fn lane(route: u64) -> String {
    format!("lane.{route}")
}

impl Drop for Azure {
    fn drop(&mut self) {
        // The child may have ended by itself; nobody is left to tell.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
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

/// User and system time of a process so far.
fn cpu_seconds(process: &str) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).expect("Linux tells it");
    // The second field is the name in parentheses, which may hold blanks; utime is the 14th.
    let fields: Vec<&str> = stat.rsplit(')').next().expect("fields follow").split_whitespace().collect();
    let ticks = |at: usize| fields[at].parse::<f64>().expect("a number");
    (ticks(11) + ticks(12)) / TICKS_PER_SECOND
}

fn peak_rss_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux tells it");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("the line is there");
    line.trim().trim_end_matches("kB").trim().parse::<u64>().expect("a number") / 1024
}

fn machine() -> String {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map_or("?", |line| line.trim_start_matches([' ', '\t', ':']));
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let profile = if cfg!(debug_assertions) { "dev profile" } else { "release profile" };
    format!("{model}, {cores} cores, {profile}")
}
