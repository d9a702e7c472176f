//! What 10,000 new rows cost a transform, as its tables grow.
//!
//! For each size it makes an input of so many rows, in commits of a day each, and brings three tables up to date with
//! it: `append`, `merge` (keys that grow: few files hold those of the new rows), `recompute` (counts by day and product).
//! Then come rounds of 10,000 rows, a part of which are newer states of the last keys; for each round and table: the time,
//! the bytes that the process read (the system's own count, logs of the tables and all), and the files of the output that
//! were looked into and written anew. Beside it `deltalake`'s merge, in Python, of the same rows into a copy of the merged table.
//!
//! `cargo bench --bench transform -- [--rows 100000,10000000] [--rounds 5]`

#![allow(clippy::print_stdout, reason = "a bench prints what it measured")]

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use arrow::array::{Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use deltalake::protocol::SaveMode;
use serde_json::json;
use sluicebox::catalog::rewrite::{Change, Kind};
use sluicebox::config::spec::ProjectSpec;
use sluicebox::config::{self, LoadOptions};
use sluicebox::pipeline::transforms::{TransformOptions, Transforms};
use sluicebox::shutdown::Shutdown;
use sluicebox::storage::Location;
use sluicebox::transform::run::engine::Refresh;
use sluicebox::transform::run::output::{Output, write};
use tracing::field::{Field as TracedField, Visit};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};

const SIZES: [i64; 2] = [100_000, 10_000_000];
const NEW_ROWS: i64 = 10_000;
/// Rows of the input in one commit, and so of one day.
const COMMIT_ROWS: i64 = 50_000;
const TABLES: [(&str, &str, &str); 3] = [
    ("silver.appended", "mode = \"append\"", "SELECT id, seq, day, product, amount FROM STREAM(bronze.events)"),
    (
        "silver.merged",
        "mode = \"merge\"\nkeys = [\"id\"]\nsequence_by = [\"seq\"]",
        "SELECT id, seq, day, product, amount FROM STREAM(bronze.events)",
    ),
    (
        "gold.counted",
        "mode = \"recompute\"\nkeys = [\"day\", \"product\"]",
        "SELECT day, product, count(*) AS events, sum(amount) AS amount FROM STREAM(bronze.events) GROUP BY day, product",
    ),
];

/// The same merge by `deltalake`: a line of JSON with the seconds for each line of stdin, which names a file of rows.
const PEER: &str = r#"
import json, sys, time
import deltalake, pyarrow.parquet
table = sys.argv[1]
for line in sys.stdin:
    rows = pyarrow.parquet.read_table(line.strip())
    began = time.monotonic()
    merge = deltalake.DeltaTable(table).merge(rows, predicate="t.id = s.id", source_alias="s", target_alias="t")
    done = merge.when_matched_update_all().when_not_matched_insert_all().execute()
    print(json.dumps({"seconds": time.monotonic() - began, "files": done["num_target_files_scanned"]}), flush=True)
"#;

fn main() {
    let looked = Looked::default();
    let subscriber = tracing_subscriber::registry().with(looked.clone());
    tracing::subscriber::set_global_default(subscriber).expect("nobody else listens");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_stack_size(8 * 1024 * 1024)
        .build()
        .expect("a runtime");
    let rounds = asked("--rounds").map_or(5, |text| text.parse().expect("a number of rounds"));
    let sizes = asked("--rows").map_or(SIZES.to_vec(), |text| {
        text.split(',').map(|rows| rows.parse().expect("numbers of rows, as in 1000,2000")).collect()
    });
    runtime.block_on(measure(&sizes, rounds, &looked));
}

fn asked(flag: &str) -> Option<String> {
    let args: Vec<String> = std::env::args().collect();
    args.iter().position(|arg| arg == flag).and_then(|at| args.get(at + 1)).cloned()
}

async fn measure(sizes: &[i64], rounds: usize, looked: &Looked) {
    println!("{NEW_ROWS} new rows a round, {rounds} rounds; medians");
    println!(
        "{:>10} {:<16} {:>9} {:>10} {:>12} {:>8} {:>8}",
        "rows", "table", "ms", "MiB read", "output files", "looked", "written"
    );
    let mut first: BTreeMap<&str, (f64, f64)> = BTreeMap::new();
    for &size in sizes {
        let lake = Lake::made(size).await;
        let mut took: BTreeMap<&str, Vec<Round>> = BTreeMap::new();
        let mut peer = Peer::start(&lake);
        for round in 0..rounds {
            let rows = lake.rows(size + NEW_ROWS / 2 * i64::try_from(round).unwrap_or_default());
            lake.append(&rows).await;
            for (table, ..) in TABLES {
                looked.clear();
                let (began, before) = (Instant::now(), read_bytes());
                lake.run(table).await;
                let seconds = began.elapsed().as_secs_f64();
                let (files, looked_into, touched) = looked.found();
                let bytes = read_bytes() - before;
                took.entry(table).or_default().push(Round { seconds, bytes, files, looked_into, touched });
            }
            if let Some(peer) = &mut peer {
                let (seconds, files) = peer.merge(&rows, lake.folder.path());
                took.entry("deltalake merge").or_default().push(Round {
                    seconds,
                    bytes: 0,
                    files: 0,
                    looked_into: files,
                    touched: 0,
                });
            }
        }
        for (table, rounds) in &took {
            let median = |of: fn(&Round) -> f64| {
                let mut values: Vec<f64> = rounds.iter().map(of).collect();
                values.sort_by(f64::total_cmp);
                values[values.len() / 2]
            };
            let (ms, bytes) = (median(|round| round.seconds * 1000.0), median(|round| round.bytes as f64));
            println!(
                "{size:>10} {table:<16} {ms:>9.1} {:>10.2} {:>12} {:>8} {:>8}",
                bytes / 1_048_576.0,
                median(|round| round.files as f64),
                median(|round| round.looked_into as f64),
                median(|round| round.touched as f64),
            );
            let (first_ms, first_bytes) = *first.entry(*table).or_insert((ms, bytes));
            if size != sizes[0] {
                println!("{:>10} {:<16} {:>8.2}x {:>9.2}x", "", "against first", ms / first_ms, bytes / first_bytes);
            }
        }
    }
}

struct Round {
    seconds: f64,
    bytes: u64,
    files: u64,
    looked_into: u64,
    touched: u64,
}

/// A lake with an input, and transforms of it.
struct Lake {
    folder: tempfile::TempDir,
    location: Location,
    project: ProjectSpec,
}

impl Lake {
    async fn made(size: i64) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let dir = folder.path();
        fs::create_dir_all(dir.join("pipelines")).expect("a folder");
        fs::create_dir_all(dir.join("sql")).expect("a folder");
        let project = "[project]\nname = \"bench\"\nteams = [\"bench\"]\n\n[lake]\nurl = \"lake\"\n";
        fs::write(dir.join("sluice.toml"), project).expect("written");
        let mut declared = String::new();
        for (table, keys, sql) in TABLES {
            fs::write(dir.join(format!("sql/{table}.sql")), sql).expect("written");
            declared +=
                &format!("[[transform]]\ntable = \"{table}\"\nowner = \"bench\"\nsql = \"sql/{table}.sql\"\n{keys}\n");
        }
        fs::write(dir.join("pipelines/transforms.toml"), declared).expect("written");
        let options = LoadOptions { project: Some(dir.to_owned()), env: None };
        let project = config::load_with(&options, &|_| None).expect("a project");
        let location = Location::resolve(&project.lake.url, None).expect("a place");
        let lake = Self { folder, location, project };
        for from in (0..size).step_by(usize::try_from(COMMIT_ROWS).unwrap_or(1)) {
            lake.append(&rows_of(from, (from + COMMIT_ROWS).min(size), from)).await;
        }
        for (table, ..) in TABLES {
            lake.run(table).await;
        }
        lake
    }

    /// New rows from `from` on: half of them of keys that are there, and newer.
    fn rows(&self, from: i64) -> RecordBatch {
        rows_of(from - NEW_ROWS / 2, from + NEW_ROWS / 2, from * 10)
    }

    async fn append(&self, rows: &RecordBatch) {
        let name = "bronze.events".parse().expect("a name");
        let schema = rows.schema();
        let output = Output::open_or_create(&self.location, &name, &schema, &["day".to_owned()], Vec::new()).await;
        let mut output = output.expect("a table");
        let mut writer = output.writer();
        writer.write(rows).await.expect("encoded");
        let change = Change {
            kind: Kind::Append,
            adds: writer.close().await.expect("stored"),
            removes: Vec::new(),
            transactions: Vec::new(),
            metadata: None,
            changes: Vec::new(),
            protocol: None,
            operation: write(SaveMode::Append),
            note: json!({}),
        };
        output.put(change).await.expect("a log").expect("nobody else writes");
    }

    async fn run(&self, table: &str) {
        let transforms = Transforms::open(&self.project, &TransformOptions::default(), Shutdown::new());
        let transforms = transforms.expect("SQL");
        let selected = transforms.select(&[table.parse().expect("a name")]).expect("a transform");
        let summaries = transforms.run_once(&selected, Refresh::No).await;
        assert_eq!(summaries[0].outcome, "committed", "{summaries:?}");
    }
}

fn rows_of(from: i64, to: i64, seq: i64) -> RecordBatch {
    let text = |of: &dyn Fn(i64) -> String| Arc::new((from..to).map(|row| Some(of(row))).collect::<StringArray>());
    let number = |of: &dyn Fn(i64) -> i64| Arc::new((from..to).map(|row| Some(of(row))).collect::<Int64Array>());
    let field = |name: &str, kind: DataType| Field::new(name, kind, true);
    RecordBatch::try_new(
        Arc::new(Schema::new(vec![
            field("id", DataType::Utf8),
            field("seq", DataType::Int64),
            field("day", DataType::Utf8),
            field("product", DataType::Utf8),
            field("amount", DataType::Int64),
        ])),
        vec![
            text(&|row| format!("lead-{row:012}")),
            number(&|row| seq + row),
            text(&|row| format!("day-{:06}", row / COMMIT_ROWS)),
            text(&|row| format!("product-{}", row % 7)),
            number(&|row| row % 100),
        ],
    )
    .expect("the arrays fit their schema")
}

/// `deltalake` in a process of its own, over a copy of the merged table.
struct Peer {
    child: std::process::Child,
    answers: std::io::BufReader<std::process::ChildStdout>,
}

impl Peer {
    fn start(lake: &Lake) -> Option<Self> {
        let python = std::env::var("SLUICE_TEST_PYTHON").ok()?;
        let copy = lake.folder.path().join("copy");
        let merged = lake.folder.path().join("lake/silver/merged");
        let copied = std::process::Command::new("cp").arg("-r").arg(merged).arg(&copy).status().expect("a copy");
        assert!(copied.success(), "a copy");
        let mut child = std::process::Command::new(python)
            .args(["-c", PEER])
            .arg(&copy)
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("Python");
        let answers = std::io::BufReader::new(child.stdout.take().expect("it is piped"));
        Some(Self { child, answers })
    }

    fn merge(&mut self, rows: &RecordBatch, folder: &Path) -> (f64, u64) {
        use std::io::{BufRead as _, Write as _};
        let path = folder.join("rows.parquet");
        let file = fs::File::create(&path).expect("a file");
        let mut writer = deltalake::parquet::arrow::ArrowWriter::try_new(file, rows.schema(), None).expect("a writer");
        writer.write(rows).expect("encoded");
        writer.close().expect("stored");
        let stdin = self.child.stdin.as_mut().expect("it is piped");
        writeln!(stdin, "{}", path.display()).expect("it listens");
        stdin.flush().expect("it listens");
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("it answers");
        let answer: serde_json::Value = serde_json::from_str(&line).expect("JSON");
        (answer["seconds"].as_f64().expect("seconds"), answer["files"].as_u64().unwrap_or_default())
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// What the log says of the files that a run looked into.
#[derive(Clone, Default)]
struct Looked(Arc<Mutex<BTreeMap<String, u64>>>);

impl Looked {
    fn clear(&self) {
        self.0.lock().expect("nobody panics with it").clear();
    }

    fn found(&self) -> (u64, u64, u64) {
        let held = self.0.lock().expect("nobody panics with it");
        let of = |name: &str| held.get(name).copied().unwrap_or_default();
        (of("files"), of("looked_into"), of("touched"))
    }
}

impl<S: tracing::Subscriber> Layer<S> for Looked {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        if event.metadata().target().ends_with("run::keyed") {
            event.record(&mut Fields(self));
        }
    }
}

struct Fields<'a>(&'a Looked);

impl Visit for Fields<'_> {
    fn record_u64(&mut self, field: &TracedField, value: u64) {
        *self.0.0.lock().expect("nobody panics with it").entry(field.name().to_owned()).or_default() += value;
    }

    fn record_debug(&mut self, _: &TracedField, _: &dyn fmt::Debug) {}
}

/// Bytes that this process has read by system calls so far.
fn read_bytes() -> u64 {
    let io = fs::read_to_string("/proc/self/io").expect("Linux tells it");
    let line = io.lines().find_map(|line| line.strip_prefix("rchar:")).expect("the line is there");
    line.trim().parse().expect("a number")
}
