//! Events per second and memory of `sluice backfill`, against a bare loop without any guarantee.
//!
//! ```text
//! capture files, written once ─┬─▶ A: container, arrow-avro, ArrowWriter; as many threads as cores; no ledger
//!                              ├─▶ B: `sluice backfill`, a process of its own, into a fresh Delta table
//!                              └─▶ C: fastavro and deltalake, on the first blobs alone (with SLUICE_TEST_PYTHON)
//! ```
//!
//! A and B alternate, so that both see the same machine; medians are compared. Both write Parquet with
//! zstd 1. Memory is the peak resident set of B, at the whole input and at half of it.
//!
//! `cargo bench --bench backfill -- [--events N] [--runs N]`

#![allow(clippy::print_stdout, reason = "a bench prints what it measured")]

mod captures;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use apache_avro::Schema;
use apache_avro::types::Value;
use apache_avro::writer::datum::GenericDatumWriter;
use arrow_avro::reader::ReaderBuilder;
use arrow_avro::schema::{AvroSchema, Fingerprint, FingerprintAlgorithm, SchemaStore};
use deltalake::parquet::arrow::ArrowWriter;
use deltalake::parquet::basic::{Compression, ZstdLevel};
use deltalake::parquet::file::properties::WriterProperties;

use captures::PARTITIONS;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A nested record with strings, longs, doubles, an enum, optional fields, a timestamp and an array.
const DATUM: &str = r#"{"type":"record","name":"Reading","fields":[
    {"name":"id","type":"string"},{"name":"count","type":"long"},{"name":"score","type":"double"},
    {"name":"channel","type":{"type":"enum","name":"Channel","symbols":["WEB","PHONE","BROKER"]}},
    {"name":"campaign","type":["null","string"]},{"name":"at","type":{"type":"long","logicalType":"timestamp-micros"}},
    {"name":"contact","type":{"type":"record","name":"Contact","fields":[
        {"name":"name","type":"string"},{"name":"age","type":["null","int"]},{"name":"city","type":"string"}]}},
    {"name":"tags","type":{"type":"array","items":"string"}},{"name":"note","type":"string"}]}"#;

fn main() {
    let (mut events, mut runs) = (1_000_000_usize, 3_usize);
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
    let folder = tempfile::tempdir().expect("a folder");
    let (half, whole) = (folder.path().join("half"), folder.path().join("whole"));
    write_captures(&half, events / 2);
    let bytes = write_captures(&whole, events);
    println!("{} cores; {events} events, {} bytes of file an event", cores(), bytes / events as u64);
    let mut loops = Vec::new();
    let mut backfills = Vec::new();
    let mut peak = 0;
    for run in 1..=runs {
        let bare = bare_loop(&whole, &folder.path().join(format!("bare-{run}")), events);
        println!("bare loop {run}  {bare:6.2} s {:>9.0}/s", events as f64 / bare);
        loops.push(bare);
        let (seconds, rss) = backfill(folder.path(), &whole, events);
        println!("backfill {run}   {seconds:6.2} s {:>9.0}/s, {} MiB", events as f64 / seconds, rss >> 20);
        backfills.push(seconds);
        peak = peak.max(rss);
    }
    let (bare, ours) = (median(&mut loops), median(&mut backfills));
    println!("events/s against the bare loop: {:.2}", bare / ours);
    let (_, at_half) = backfill(folder.path(), &half, events / 2);
    println!(
        "peak RSS: {} MiB, and {} MiB with half the input: {:.2}",
        peak >> 20,
        at_half >> 20,
        peak as f64 / at_half as f64
    );
    python(&whole, folder.path(), events as f64 / ours);
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn datum(writer: &GenericDatumWriter<'_>, number: usize) -> Vec<u8> {
    let text = |text: String| Value::String(text);
    let optional = |is_there: bool, value: Value| match is_there {
        true => Value::Union(1, Box::new(value)),
        false => Value::Union(0, Box::new(Value::Null)),
    };
    // Mixed so that no column is a row of equal values, nor of such that only grow.
    let mixed = (number as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let value = Value::Record(vec![
        ("id".into(), text(format!("{mixed:016x}-{number:08}"))),
        ("count".into(), Value::Long((mixed >> 20) as i64)),
        ("score".into(), Value::Double((mixed >> 11) as f64 / (1_u64 << 53) as f64)),
        ("channel".into(), Value::Enum((mixed % 3) as u32, ["WEB", "PHONE", "BROKER"][(mixed % 3) as usize].into())),
        ("campaign".into(), optional(mixed & 1 == 0, text(format!("campaign {}", mixed % 97)))),
        ("at".into(), Value::TimestampMicros(1_795_431_600_000_000 + number as i64 * 1_250)),
        (
            "contact".into(),
            Value::Record(vec![
                ("name".into(), text(format!("Name {}", mixed % 50_021))),
                ("age".into(), optional(mixed & 2 == 0, Value::Int((mixed % 90) as i32))),
                ("city".into(), text(["Köln", "Oslo", "Graz", "Bern"][(mixed >> 8) as usize % 4].into())),
            ]),
        ),
        (
            "tags".into(),
            Value::Array((0..mixed % 4).map(|tag| text(format!("tag {}", (mixed >> 30) % 31 + tag))).collect()),
        ),
        ("note".into(), text(format!("{:x}", mixed.rotate_left(17)).repeat(2))),
    ]);
    writer.write_value_to_vec(value).expect("it fits the schema")
}

/// Writes the blobs of all partitions; gives their bytes.
fn write_captures(folder: &Path, events: usize) -> u64 {
    let schema = Schema::parse_str(DATUM).expect("a schema");
    let writer = GenericDatumWriter::builder(&schema).build().expect("a writer");
    captures::write(folder, events, |number| datum(&writer, number))
}

fn blobs(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("read").map(|entry| entry.expect("read").path()) {
            if entry.is_dir() { folders.push(entry) } else { found.push(entry) }
        }
    }
    found.sort();
    found
}

/// Each thread takes the next blob, walks it, decodes its bodies and appends them to a file of its own.
fn bare_loop(captures: &Path, out: &Path, events: usize) -> f64 {
    std::fs::create_dir_all(out).expect("made");
    let blobs = blobs(captures);
    let next = AtomicUsize::new(0);
    let began = Instant::now();
    let rows: usize = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..cores())
            .map(|thread| {
                let (blobs, next, file) = (&blobs, &next, out.join(format!("{thread}.parquet")));
                scope.spawn(move || {
                    let mut writer: Option<ArrowWriter<File>> = None;
                    let mut rows = 0;
                    while let Some(blob) = blobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                        rows += one_blob(&std::fs::read(blob).expect("read"), &file, &mut writer);
                    }
                    writer.map(|writer| writer.close().expect("closed"));
                    rows
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).sum()
    });
    assert_eq!(rows, events / PARTITIONS * PARTITIONS);
    began.elapsed().as_secs_f64()
}

fn one_blob(bytes: &[u8], file: &Path, writer: &mut Option<ArrowWriter<File>>) -> usize {
    let mut store = SchemaStore::new_with_type(FingerprintAlgorithm::Id);
    store.set(Fingerprint::Id(0), AvroSchema::new(DATUM.to_owned())).expect("a schema");
    let reader = ReaderBuilder::new().with_writer_schema_store(store).with_batch_size(8192);
    let mut decoder = reader.build_decoder().expect("a decoder");
    let mut at = bytes.windows(16).position(|window| window == [7; 16]).expect("a marker") + 16;
    let mut rows = 0;
    let mut write = |batch: arrow::array::RecordBatch| {
        let writer = writer.get_or_insert_with(|| {
            let zstd = Compression::ZSTD(ZstdLevel::try_new(1).expect("a level"));
            let properties = WriterProperties::builder()
                .set_compression(zstd)
                .set_max_row_group_row_count(Some(sluicebox::catalog::data_file::ROW_GROUP_ROWS))
                .build();
            ArrowWriter::try_new(File::create(file).expect("made"), batch.schema(), Some(properties)).expect("a writer")
        });
        writer.write(&batch).expect("written");
        batch.num_rows()
    };
    while at < bytes.len() {
        let records = long(bytes, &mut at);
        let _length = long(bytes, &mut at);
        for _ in 0..records {
            long(bytes, &mut at);
            skip(bytes, &mut at);
            skip(bytes, &mut at);
            while long(bytes, &mut at) != 0 {
                skip(bytes, &mut at);
                long(bytes, &mut at);
                long(bytes, &mut at);
            }
            long(bytes, &mut at);
            long(bytes, &mut at);
            let length = long(bytes, &mut at) as usize;
            decoder.decode(&[0; 5]).expect("a prefix");
            decoder.decode(&bytes[at..at + length]).expect("a datum");
            at += length;
            if decoder.batch_is_full() {
                rows += decoder.flush().expect("flushed").map_or(0, &mut write);
            }
        }
        at += 16;
    }
    rows + decoder.flush().expect("flushed").map_or(0, &mut write)
}

fn long(bytes: &[u8], at: &mut usize) -> i64 {
    let (mut value, mut shift) = (0_u64, 0);
    loop {
        let byte = bytes[*at];
        *at += 1;
        value |= u64::from(byte & 0x7F) << shift;
        if byte & 0x80 == 0 {
            return (value >> 1) as i64 ^ -((value & 1) as i64);
        }
        shift += 7;
    }
}

fn skip(bytes: &[u8], at: &mut usize) {
    let length = long(bytes, at) as usize;
    *at += length;
}

/// The whole way, in a process of its own: seconds, and its peak resident set in bytes.
fn backfill(folder: &Path, captures: &Path, events: usize) -> (f64, u64) {
    let project = tempfile::tempdir_in(folder).expect("a folder");
    let put = |name: &str, text: String| {
        let path = project.path().join(name);
        std::fs::create_dir_all(path.parent().expect("a folder above")).expect("made");
        std::fs::write(path, text).expect("written");
    };
    put("schemas/reading.avsc", DATUM.to_owned());
    put("sluice.toml", "[project]\nname = \"bench\"\nteams = [\"bench\"]\n[lake]\nurl = \"lake\"\n[event_hubs]\nconnection_string = \"Endpoint=sb://localhost;SharedAccessKeyName=n;SharedAccessKey=k;UseDevelopmentEmulator=true\"\n".to_owned());
    put(
        "pipelines/readings.toml",
        format!(
            "[pipeline]\nname = \"readings\"\nowner = \"bench\"\n[source.capture]\nurl = \"{}\"\nhub = \"readings\"\n[decode]\nschema = \"schemas/reading.avsc\"\nframing = \"bare\"\n[sink]\ntable = \"bronze.readings\"\n",
            captures.display()
        ),
    );
    let began = Instant::now();
    let done = Command::new(env!("CARGO_BIN_EXE_sluice"))
        .args(["-q", "--project"])
        .arg(project.path())
        .args(["backfill", "readings", "--format", "json"])
        .output()
        .expect("sluice runs");
    let seconds = began.elapsed().as_secs_f64();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let summary: serde_json::Value = serde_json::from_slice(&done.stdout).expect("JSON");
    let pipeline = &summary["pipelines"][0];
    assert_eq!(pipeline["committed"].as_u64(), Some((events / PARTITIONS * PARTITIONS) as u64), "{summary}");
    (seconds, pipeline["peak_rss_bytes"].as_u64().expect("a number"))
}

/// What a data engineer would write first, on one blob of each partition.
const PYTHON: &str = r#"
import io, json, pathlib, sys, time
import fastavro, pyarrow, deltalake
captures, out, schema, most = pathlib.Path(sys.argv[1]), sys.argv[2], fastavro.parse_schema(json.loads(sys.argv[3])), int(sys.argv[4])
begun, count = time.monotonic(), 0
for path in sorted(captures.rglob("*.avro")):
    rows = []
    with path.open("rb") as file:
        for event in fastavro.reader(file):
            row = fastavro.schemaless_reader(io.BytesIO(event["Body"]), schema, None)
            row["_sequence_number"] = event["SequenceNumber"]
            rows.append(row)
    deltalake.write_deltalake(out, pyarrow.Table.from_pylist(rows), mode="append")
    count += len(rows)
    if count >= most:
        break
print(count / (time.monotonic() - begun))
"#;

fn python(captures: &Path, folder: &Path, ours: f64) {
    let Some(python) = std::env::var_os("SLUICE_TEST_PYTHON") else {
        println!("the Python route: not measured, SLUICE_TEST_PYTHON isn't set (see tests/provision)");
        return;
    };
    let done = Command::new(python)
        .arg("-c")
        .arg(PYTHON)
        .arg(captures)
        .arg(folder.join("python"))
        .args([DATUM, "200000"])
        .output()
        .expect("Python runs");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let theirs: f64 = String::from_utf8_lossy(&done.stdout).trim().parse().expect("a number");
    println!("the Python route: {theirs:.0}/s; backfill is {:.1} times as fast", ours / theirs);
}
