//! The emulator as a process beside a bench, events in it, and pipelines that read them.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use apache_avro::Schema;
use sluicebox::config::spec::{EventHubsAccess, EventHubsSpec, ProjectSpec, Secret};
use sluicebox::config::{LoadOptions, load_with};
use sluicebox::pipeline::demo::facts::Fact;
use sluicebox::pipeline::demo::story::Teller;
use sluicebox::pipeline::{RunOptions, run_project};
use sluicebox::shutdown::Shutdown;
use sluicebox::source::event_hubs::{EventSender, OutgoingEvent};

pub const PARTITIONS: u64 = 4;
/// Nested: a record, an array of records, a map, decimals, optional fields.
pub const FACT: Fact = Fact::AccountActivated;
/// USER_HZ of every Linux.
const TICKS_PER_SECOND: f64 = 100.0;

#[derive(Debug, Clone, Copy)]
pub struct Measured {
    pub seconds: f64,
    pub cpu_seconds: f64,
    emulator_cpu_seconds: f64,
}

impl Measured {
    pub fn median(runs: &[Self]) -> Self {
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

    pub fn print(&self, name: &str, events: u64) {
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

pub struct Sizes {
    pub body: f64,
    pub whole: f64,
}

/// The emulator as a child of this process.
pub struct Azure {
    child: Child,
    #[allow(dead_code, reason = "benches that run pipelines alone need no address")]
    pub event_hubs: String,
    pub connection_string: String,
    schema_registry: String,
}

impl Azure {
    pub fn start() -> Self {
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
    pub async fn fill(&self, events: u64, routes: u64) -> Sizes {
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

    pub async fn timed(&self, name: &str, events: u64, work: impl Future<Output = ()>) -> Measured {
        let emulator = self.child.id().to_string();
        let (cpu, emulator_cpu) = (cpu_seconds("self"), cpu_seconds(&emulator));
        let began = Instant::now();
        work.await;
        let measured = Measured {
            seconds: began.elapsed().as_secs_f64(),
            cpu_seconds: cpu_seconds("self") - cpu,
            emulator_cpu_seconds: cpu_seconds(&emulator) - emulator_cpu,
        };
        measured.print(name, events);
        measured
    }

    /// The whole way, into a folder of its own: into one table, by a route that takes all types, or into one for each.
    pub async fn run_pipeline(&self, events: u64, routes: u64, types: u64) {
        let folder = tempfile::tempdir().expect("a folder");
        let project = self.project(folder.path(), routes, types);
        let options = RunOptions { until_caught_up: true, ..RunOptions::default() };
        let summary = run_project(&project, options, Shutdown::new()).await.expect("it caught up");
        let committed: u64 = summary.pipelines.iter().map(|pipeline| pipeline.committed).sum();
        assert_eq!(committed, events);
    }

    fn project(&self, dir: &Path, routes: u64, types: u64) -> ProjectSpec {
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
        let route = |route| {
            let taken = if routes < types { "lane.*".to_owned() } else { lane(route) };
            format!("\n[[route]]\ntype = \"{taken}\"\ntable = \"bronze.lane_{route}\"\n")
        };
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

/// User and system time of a process so far.
fn cpu_seconds(process: &str) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).expect("Linux tells it");
    // The second field is the name in parentheses, which may hold blanks; utime is the 14th.
    let fields: Vec<&str> = stat.rsplit(')').next().expect("fields follow").split_whitespace().collect();
    let ticks = |at: usize| fields[at].parse::<f64>().expect("a number");
    (ticks(11) + ticks(12)) / TICKS_PER_SECOND
}

pub fn peak_rss_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux tells it");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("the line is there");
    line.trim().trim_end_matches("kB").trim().parse::<u64>().expect("a number") / 1024
}

pub fn machine() -> String {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map_or("?", |line| line.trim_start_matches([' ', '\t', ':']));
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let profile = if cfg!(debug_assertions) { "dev profile" } else { "release profile" };
    format!("{model}, {cores} cores, {profile}")
}
