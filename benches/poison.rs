//! What bad events cost: `sluice backfill` of a stream of which 1 in 100 can't be decoded, against the same without any;
//! then what it takes to land the rest, once its schema is there.
//!
//! ```text
//! capture files, written once ─┬─▶ clean: every body a datum of the pinned schema
//!                              └─▶ poison: 1 in 100 names a schema that nobody has ─▶ dead letters ─▶ replay
//! ```
//!
//! The two alternate, so that both see the same machine; medians are compared. Each run is a process of its own, into a
//! fresh table. In the end every event is a row, once, as `sluice audit` counts.
//!
//! `cargo bench --bench poison -- [--events N] [--runs N]`

#![allow(clippy::print_stdout, reason = "a bench prints what it measured")]

mod captures;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use apache_avro::Schema;
use apache_avro::rabin::Rabin;
use apache_avro::types::Value;
use apache_avro::writer::datum::GenericDatumWriter;

use captures::PARTITIONS;

/// One event in so many can't be decoded.
const POISON: usize = 100;

const READING: &str = r#"{"type":"record","name":"Reading","fields":[
    {"name":"id","type":"string"},{"name":"count","type":"long"},{"name":"score","type":"double"},
    {"name":"campaign","type":["null","string"]},{"name":"tags","type":{"type":"array","items":"string"}},
    {"name":"note","type":"string"}]}"#;

/// What the bad events are encoded with, in single-object encoding.
const LATE: &str = r#"{"type":"record","name":"Late","fields":[
    {"name":"id","type":"string"},{"name":"count","type":"long"},{"name":"note","type":"string"}]}"#;

fn main() {
    let (mut events, mut runs) = (1_000_000_usize, 5_usize);
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut number = || args.next().and_then(|text| text.parse().ok()).expect("a number follows");
        match arg.as_str() {
            "--events" => events = number(),
            "--runs" => runs = number(),
            // What cargo itself passes.
            _ => {}
        }
    }
    let events = events / (PARTITIONS * POISON) * PARTITIONS * POISON;
    let folder = tempfile::tempdir().expect("a folder");
    let (clean, poison) = (folder.path().join("clean"), folder.path().join("poison"));
    let bodies = Bodies::new();
    bodies.write(|bodies| captures::write(&clean, events, |number| bodies.reading(number)));
    bodies.write(|bodies| {
        captures::write(&poison, events, |number| {
            if number % POISON == 0 { bodies.late(number) } else { bodies.reading(number) }
        })
    });
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    println!("{cores} cores; {events} events, of which {} are poison", events / POISON);
    let (mut of_clean, mut of_poison, mut of_replay) = (Vec::new(), Vec::new(), Vec::new());
    for run in 1..=runs {
        let took = Project::new(folder.path(), &clean).backfill(events, 0);
        println!("clean {run}   {took:6.2} s {:>9.0}/s", events as f64 / took);
        of_clean.push(took);
        let project = Project::new(folder.path(), &poison);
        let took = project.backfill(events - events / POISON, events / POISON);
        println!("poison {run}  {took:6.2} s {:>9.0}/s", events as f64 / took);
        of_poison.push(took);
        let took = project.replay(events);
        println!("replay {run}  {took:6.2} s {:>9.0}/s", (events / POISON) as f64 / took);
        of_replay.push(took);
    }
    let (clean, poison, replay) = (median(&mut of_clean), median(&mut of_poison), median(&mut of_replay));
    println!("events/s with poison against without: {:.2}", clean / poison);
    println!("replay of {} dead letters: {replay:.2} s", events / POISON);
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The schemas that bodies are made with.
struct Bodies {
    reading: Schema,
    late: Schema,
    header: Vec<u8>,
}

struct Writers<'a> {
    reading: GenericDatumWriter<'a>,
    late: GenericDatumWriter<'a>,
    header: &'a [u8],
}

impl Bodies {
    fn new() -> Self {
        let (reading, late) =
            (Schema::parse_str(READING).expect("a schema"), Schema::parse_str(LATE).expect("a schema"));
        let fingerprint = late.fingerprint::<Rabin>().bytes;
        Self { reading, late, header: [&[0xC3, 0x01], fingerprint.as_slice()].concat() }
    }

    fn write(&self, write: impl FnOnce(&Writers<'_>) -> u64) {
        let writer = |schema| GenericDatumWriter::builder(schema).build().expect("a writer");
        let writers = Writers { reading: writer(&self.reading), late: writer(&self.late), header: &self.header };
        assert!(write(&writers) > 0, "something was written");
    }
}

impl Writers<'_> {
    fn reading(&self, number: usize) -> Vec<u8> {
        let mixed = mixed(number);
        let campaign = match mixed & 1 {
            0 => Value::Union(1, Box::new(Value::String(format!("campaign {}", mixed % 97)))),
            _ => Value::Union(0, Box::new(Value::Null)),
        };
        let tags = (0..mixed % 4).map(|tag| Value::String(format!("tag {}", (mixed >> 30) % 31 + tag))).collect();
        let value = Value::Record(vec![
            ("id".into(), Value::String(format!("{mixed:016x}-{number:08}"))),
            ("count".into(), Value::Long((mixed >> 20) as i64)),
            ("score".into(), Value::Double((mixed >> 11) as f64 / (1_u64 << 53) as f64)),
            ("campaign".into(), campaign),
            ("tags".into(), Value::Array(tags)),
            ("note".into(), Value::String(format!("{:x}", mixed.rotate_left(17)).repeat(4))),
        ]);
        self.reading.write_value_to_vec(value).expect("it fits the schema")
    }

    fn late(&self, number: usize) -> Vec<u8> {
        let mixed = mixed(number);
        let value = Value::Record(vec![
            ("id".into(), Value::String(format!("{mixed:016x}-{number:08}"))),
            ("count".into(), Value::Long((mixed >> 20) as i64)),
            ("note".into(), Value::String(format!("{:x}", mixed.rotate_left(17)).repeat(6))),
        ]);
        [self.header, &self.late.write_value_to_vec(value).expect("it fits the schema")].concat()
    }
}

/// So that no column is a row of equal values, nor of such that only grow.
fn mixed(number: usize) -> u64 {
    (number as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

/// A pipeline that reads captures alone, into a lake of its own.
struct Project(tempfile::TempDir);

impl Project {
    fn new(folder: &Path, captures: &Path) -> Self {
        let project = Self(tempfile::tempdir_in(folder).expect("a folder"));
        project.put("schemas/reading.avsc", READING);
        // A folder is a registry as soon as it holds a schema; this one nobody names.
        project.put("registry/other.avsc", r#"{"type":"record","name":"Other","fields":[{"name":"x","type":"long"}]}"#);
        project.put(
            "sluice.toml",
            "[project]\nname = \"bench\"\nteams = [\"bench\"]\n[lake]\nurl = \"lake\"\n[registry.folder]\npath = \
             \"registry\"\n[event_hubs]\nconnection_string = \
             \"Endpoint=sb://localhost;SharedAccessKeyName=n;SharedAccessKey=k;UseDevelopmentEmulator=true\"\n",
        );
        let of_captures = format!("[source.capture]\nurl = \"{}\"\nhub = \"readings\"\n", captures.display());
        project.put(
            "pipelines/readings.toml",
            &format!(
                "[pipeline]\nname = \"readings\"\nowner = \"bench\"\n{of_captures}[decode]\nschema = \
                 \"schemas/reading.avsc\"\n[sink]\ntable = \"bronze.readings\"\n"
            ),
        );
        project
    }

    fn put(&self, name: &str, text: &str) {
        let path: PathBuf = self.0.path().join(name);
        std::fs::create_dir_all(path.parent().expect("a folder above")).expect("made");
        std::fs::write(path, text).expect("written");
    }

    fn sluice(&self, args: &[&str]) -> (f64, serde_json::Value) {
        let began = Instant::now();
        let done = Command::new(env!("CARGO_BIN_EXE_sluice"))
            .args(["-q", "--project"])
            .arg(self.0.path())
            .args(args)
            .args(["--format", "json"])
            .output()
            .expect("sluice runs");
        let seconds = began.elapsed().as_secs_f64();
        assert!(done.status.success(), "{args:?}: {}", String::from_utf8_lossy(&done.stderr));
        (seconds, serde_json::from_slice(&done.stdout).expect("JSON"))
    }

    fn backfill(&self, committed: usize, rejected: usize) -> f64 {
        let (seconds, summary) = self.sluice(&["backfill", "readings"]);
        let of = |name: &str| summary["pipelines"][0][name].as_u64().expect("a number") as usize;
        assert_eq!((of("committed"), of("rejected")), (committed, rejected), "{summary}");
        seconds
    }

    /// The schema is there from now on.
    fn replay(&self, events: usize) -> f64 {
        self.put("registry/late.avsc", LATE);
        let (seconds, done) = self.sluice(&["dead-letters", "replay", "readings"]);
        assert_eq!(done["replayed"].as_u64(), Some((events / POISON) as u64), "{done}");
        let (_, audit) = self.sluice(&["audit", "bronze.readings", "--offline"]);
        assert_eq!((audit["complete"].as_bool(), audit["rows"].as_u64()), (Some(true), Some(events as u64)), "{audit}");
        assert_eq!((audit["rejected"].as_u64(), audit["duplicates"].as_u64()), (Some(0), Some(0)), "{audit}");
        seconds
    }
}
