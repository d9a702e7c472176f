//! What a small commit costs as a table's log grows, and whether memory grows with it.
//!
//! Grows a table to each of some versions, 100 rows a commit through the writer that pipelines
//! use, and looks at memory while the longest one grows. Then it commits to all of them in turn,
//! so that they share whatever else the machine does, and compares the medians.
//!
//! `cargo bench --bench commit -- [--versions 10,100,1000,5000]`

#![allow(clippy::print_stdout, reason = "a bench prints what it measured")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use apache_avro::Schema;
use sluicebox::batch::{Event, EventBatch, Origin};
use sluicebox::checkpoint::{PartitionKey, Range, SourceId};
use sluicebox::config::spec::{DecodeSpec, Format, Framing};
use sluicebox::decode::{Decoder, arrow_schema_of};
use sluicebox::fault_points::FaultPoints;
use sluicebox::pipeline::demo::facts::Fact;
use sluicebox::pipeline::demo::story::Teller;
use sluicebox::sink::delta::dead_letters::Writer;
use sluicebox::sink::delta::schema::Policy;
use sluicebox::sink::delta::staged::Staged;
use sluicebox::sink::delta::writer::{TableSpec, TableWriter};
use sluicebox::storage::Location;

const ROWS: i64 = 100;
/// Versions at which commits are looked at, and how many at each.
const VERSIONS: [u64; 4] = [10, 100, 1000, 5000];
const ROUNDS: usize = 50;
const RSS_EVERY: u64 = 500;
const FACT: Fact = Fact::LeadGenerated;

fn main() {
    let versions = versions();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_stack_size(8 * 1024 * 1024)
        .build()
        .expect("a runtime");
    runtime.block_on(measure(&versions));
}

fn versions() -> Vec<u64> {
    let args: Vec<String> = std::env::args().collect();
    let asked = args.iter().position(|arg| arg == "--versions").and_then(|at| args.get(at + 1));
    asked.map_or(VERSIONS.to_vec(), |text| {
        text.split(',').map(|version| version.parse().expect("versions, as in 10,100")).collect()
    })
}

async fn measure(versions: &[u64]) {
    let folder = tempfile::tempdir().expect("a folder");
    println!("{}; {ROWS} rows a commit, in {}", machine(), folder.path().display());
    let schema_file = folder.path().join("schema.avsc");
    std::fs::write(&schema_file, FACT.avsc()).expect("written");
    let decode =
        DecodeSpec { format: Format::Avro, schema: Some(schema_file), framing: Framing::Bare, ..DecodeSpec::default() };
    let decoder = Decoder::open(&decode, None).expect("a decoder");
    let lake = Location::resolve(folder.path().to_str().expect("a path of text"), None).expect("a place");

    let longest = versions.iter().max().copied().unwrap_or(0);
    let mut memory = Vec::new();
    let mut tables = Vec::new();
    for &version in versions {
        let mut table = Table::open(&lake, version).await;
        while table.writer.version() < version {
            table.commit(&decoder).await;
            if version == longest && table.writer.version() % RSS_EVERY == 0 {
                memory.push((table.writer.version(), rss_kib()));
            }
        }
        tables.push(table);
    }
    let mut took = vec![Vec::with_capacity(ROUNDS); tables.len()];
    for _ in 0..ROUNDS {
        for (table, took) in tables.iter_mut().zip(&mut took) {
            took.push(table.commit(&decoder).await);
        }
    }
    report(versions, &took, &memory);
}

fn report(versions: &[u64], took: &[Vec<Duration>], memory: &[(u64, u64)]) {
    println!("{:>10} {:>12} {:>12} {:>12} {:>8}", "version", "median ms", "p10 ms", "p90 ms", "ratio");
    let mut first = None;
    for (version, took) in versions.iter().zip(took) {
        let mut sorted: Vec<f64> = took.iter().map(|took| took.as_secs_f64() * 1000.0).collect();
        sorted.sort_by(f64::total_cmp);
        let at = |tenths: usize| sorted[sorted.len() * tenths / 10];
        let (median, p10, p90) = (at(5), at(1), at(9));
        let base = *first.get_or_insert(median);
        println!("{version:>10} {median:>12.2} {p10:>12.2} {p90:>12.2} {:>8.2}", median / base);
    }
    println!("{:>10} {:>12}", "version", "RSS MiB");
    for (version, rss) in memory {
        println!("{version:>10} {:>12.1}", *rss as f64 / 1024.0);
    }
    if let (Some((_, first)), Some((_, last))) = (memory.first(), memory.last()) {
        println!("RSS at the end against the first: {:.2}", *last as f64 / *first as f64);
    }
}

/// A table that grows.
struct Table {
    writer: TableWriter,
    events: Events,
}

impl Table {
    async fn open(lake: &Location, version: u64) -> Self {
        let spec = TableSpec {
            name: format!("bronze.leads_{version}"),
            location: lake.join(&format!("bronze/leads_{version}")),
            dead_letters: lake.join(&format!("bronze/leads_{version}__dead_letters")),
            writer: Writer { pipeline: "bench".to_owned(), owner: "bench".to_owned(), config_hash: String::new() },
            schema: arrow_schema_of(FACT.avsc()).expect("a schema"),
            policy: Policy::default(),
            fault_points: FaultPoints::default(),
        };
        Self { writer: TableWriter::open(spec).await.expect("a table"), events: Events::new() }
    }

    async fn commit(&mut self, decoder: &Decoder) -> Duration {
        let staged = [self.events.staged(decoder).await];
        let began = Instant::now();
        let flushed = self.writer.flush(&staged).await.expect("a commit");
        let took = began.elapsed();
        assert_eq!(flushed.rows, ROWS as u64);
        took
    }
}

/// Events of one partition, one after the other.
struct Events {
    schema: Schema,
    next: i64,
    partition: PartitionKey,
}

impl Events {
    fn new() -> Self {
        let schema = Schema::parse_str(FACT.avsc()).expect("a schema");
        Self { schema, next: 0, partition: PartitionKey::new(SourceId::new("bench/leads"), "0") }
    }

    async fn staged(&mut self, decoder: &Decoder) -> Staged {
        let from = self.next;
        self.next += ROWS;
        let story = Teller::try_new(FACT, &self.schema, 1).expect("a story");
        let events: Vec<Event> = (from..self.next)
            .map(|number| {
                let told = story.tell(number.unsigned_abs()).expect("an event");
                Event {
                    sequence_number: number,
                    offset: (number * 400).to_string(),
                    // A day has 86,400 s: all of it lands in a few partitions of the table.
                    enqueued_at: 1_767_600_000_000 + number * 100,
                    body: told.body.into(),
                    content_type: None,
                    properties: vec![("cloudEvents_id".to_owned(), told.id.to_string())],
                }
            })
            .collect();
        let numbers = events.iter().map(|event| (event.sequence_number, event.enqueued_at)).collect();
        let batch = EventBatch { partition: self.partition.clone(), origin: Origin::Live, events };
        let decoded = decoder.decode(Arc::new(batch)).await.expect("decoded");
        assert!(decoded.rejects.is_empty());
        Staged {
            partition: self.partition.clone(),
            range: Range::new(from, self.next),
            events: numbers,
            batches: decoded.batches,
            elsewhere: Vec::new(),
            encoded: None,
            rejects: Vec::new(),
        }
    }
}

fn rss_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux tells it");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("the line is there");
    line.trim().trim_end_matches("kB").trim().parse().expect("a number")
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
