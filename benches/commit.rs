//! What a small commit costs as the table's log grows, and whether memory grows with it.
//!
//! Commits 100 rows at a time through the writer that pipelines use, into one table, and looks
//! at the 50 commits from each of some versions on.
//!
//! `cargo bench --bench commit -- [--commits N]`

#![allow(clippy::print_stdout, reason = "a bench prints what it measured")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use apache_avro::Schema;
use sluicebox::batch::{Event, EventBatch, Origin};
use sluicebox::checkpoint::{PartitionKey, Range, SourceId};
use sluicebox::config::spec::{DecodeSpec, Format, Framing};
use sluicebox::decode::{Decoder, arrow_schema_of};
use sluicebox::pipeline::demo::insurer::{Fact, Story};
use sluicebox::sink::delta::dead_letters::Writer;
use sluicebox::sink::delta::fault_points::FaultPoints;
use sluicebox::sink::delta::writer::{Staged, TableSpec, TableWriter};
use sluicebox::storage::Location;

const ROWS: i64 = 100;
/// Versions at which commits are looked at, and how many from there on.
const WINDOWS: [usize; 4] = [10, 100, 1000, 5000];
const WINDOW: usize = 50;
const RSS_EVERY: usize = 500;
const FACT: Fact = Fact::LeadGenerated;

fn main() {
    let commits = commits();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_stack_size(8 * 1024 * 1024)
        .build()
        .expect("a runtime");
    runtime.block_on(measure(commits));
}

fn commits() -> usize {
    let args: Vec<String> = std::env::args().collect();
    let asked = args.iter().position(|arg| arg == "--commits").and_then(|at| args.get(at + 1));
    asked.map_or(WINDOWS[3] + WINDOW, |text| text.parse().expect("a number of commits"))
}

async fn measure(commits: usize) {
    let folder = tempfile::tempdir().expect("a folder");
    println!("{}; {ROWS} rows a commit, {commits} commits, in {}", machine(), folder.path().display());
    let schema_file = folder.path().join("schema.avsc");
    std::fs::write(&schema_file, FACT.avsc()).expect("written");
    let decode = DecodeSpec { format: Format::Avro, schema: Some(schema_file), framing: Framing::Bare };
    let decoder = Decoder::open(&decode, None).expect("a decoder");
    let mut events = Events::new();
    let lake = Location::resolve(folder.path().to_str().expect("a path of text"), None).expect("a place");
    let mut writer = TableWriter::open(TableSpec {
        name: "bronze.leads".to_owned(),
        location: lake.join("bronze/leads"),
        dead_letters: lake.join("bronze/leads__dead_letters"),
        writer: Writer { pipeline: "bench".to_owned(), owner: "bench".to_owned(), config_hash: String::new() },
        schema: arrow_schema_of(FACT.avsc()).expect("a schema"),
        fault_points: FaultPoints::default(),
    })
    .await
    .expect("a table");
    let mut took = Vec::with_capacity(commits);
    let mut memory = Vec::new();
    while took.len() < commits {
        let staged = [events.staged(&decoder).await];
        let began = Instant::now();
        let flushed = writer.flush(&staged).await.expect("a commit");
        let version = flushed.version.expect("a version");
        assert_eq!(flushed.rows, ROWS as u64);
        took.push((version, began.elapsed()));
        if took.len() % RSS_EVERY == 0 {
            memory.push((version, rss_kib()));
        }
    }
    report(&took, &memory);
}

fn report(took: &[(u64, Duration)], memory: &[(u64, u64)]) {
    println!("{:>10} {:>12} {:>12} {:>8}", "version", "median ms", "p90 ms", "ratio");
    let mut first = None;
    for from in WINDOWS {
        let window: Vec<f64> = took
            .iter()
            .filter(|(version, _)| (from as u64..(from + WINDOW) as u64).contains(version))
            .map(|(_, took)| took.as_secs_f64() * 1000.0)
            .collect();
        if window.len() < WINDOW / 2 {
            continue;
        }
        let mut sorted = window;
        sorted.sort_by(f64::total_cmp);
        let (median, p90) = (sorted[sorted.len() / 2], sorted[sorted.len() * 9 / 10]);
        let base = *first.get_or_insert(median);
        println!("{from:>10} {median:>12.2} {p90:>12.2} {:>8.2}", median / base);
    }
    println!("{:>10} {:>12}", "version", "RSS MiB");
    for (version, rss) in memory {
        println!("{version:>10} {:>12.1}", *rss as f64 / 1024.0);
    }
    if let (Some((_, first)), Some((_, last))) = (memory.first(), memory.last()) {
        println!("RSS at the end against the first: {:.2}", *last as f64 / *first as f64);
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
        let mut story = Story::try_new(FACT, &self.schema, 1, from.unsigned_abs()).expect("a story");
        let events: Vec<Event> = (from..self.next)
            .map(|number| {
                let told = story.tell().expect("an event");
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
