//! Datums to columns, by the shape of the schema: our own walk, arrow-avro's bare decoder, `apache-avro`.
//!
//! ```text
//! 8,192 datums of a shape, in memory ─┬─▶ A: `WriterSchema::decode`: judged, each a row or a reject
//!                                     ├─▶ B: arrow-avro's decoder, which trusts its bytes; a flush for each batch
//!                                     └─▶ C: apache-avro to values, without columns
//! ```
//!
//! The three take turns, batch after batch on one thread, so that they share whatever else the machine
//! does; medians are compared. What is sound to A is sound to B: the inputs have no errors.
//!
//! `cargo bench --bench decode -- [--rounds N]`

#![allow(clippy::print_stdout, reason = "a bench prints what it measured")]

use std::hint::black_box;
use std::time::Instant;

use apache_avro::Schema;
use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::types::Value;
use apache_avro::writer::datum::GenericDatumWriter;
use arrow_avro::reader::ReaderBuilder;
use arrow_avro::schema::{AvroSchema, Fingerprint, FingerprintAlgorithm, SchemaStore};
use sluicebox::decode::WriterSchema;

/// As the program itself has it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const DATUMS: usize = 8_192;

struct Shape {
    name: &'static str,
    schema: &'static str,
    value: fn(u64) -> Value,
}

const SHAPES: [Shape; 6] = [
    Shape {
        name: "flat",
        schema: r#"{"type":"record","name":"R","fields":[
            {"name":"a","type":"long"},{"name":"b","type":"int"},{"name":"c","type":"double"},{"name":"d","type":"float"},
            {"name":"e","type":"boolean"},{"name":"f","type":{"type":"long","logicalType":"timestamp-micros"}},
            {"name":"g","type":"long"},{"name":"h","type":"long"}]}"#,
        value: |n| {
            record([
                ("a", Value::Long(n as i64)),
                ("b", Value::Int((n >> 40) as i32)),
                ("c", Value::Double(n as f64)),
                ("d", Value::Float(n as f32)),
                ("e", Value::Boolean(n & 1 == 0)),
                ("f", Value::TimestampMicros(1_795_431_600_000_000 + (n >> 30) as i64)),
                ("g", Value::Long((n & 0xFF) as i64)),
                ("h", Value::Long((n >> 48) as i64)),
            ])
        },
    },
    Shape {
        name: "strings",
        schema: r#"{"type":"record","name":"R","fields":[
            {"name":"a","type":"string"},{"name":"b","type":"string"},{"name":"c","type":"string"},
            {"name":"d","type":"string"},{"name":"e","type":"string"},{"name":"f","type":"string"}]}"#,
        value: |n| {
            record([
                ("a", text(format!("{n:016x}"))),
                ("b", text(format!("city {}", n % 97))),
                ("c", text(format!("{:x}", n.rotate_left(9)).repeat(2))),
                ("d", text("Größe".to_owned())),
                ("e", text(String::new())),
                ("f", text(format!("Name {}", n % 50_021))),
            ])
        },
    },
    Shape {
        name: "nested",
        schema: r#"{"type":"record","name":"R","fields":[
            {"name":"id","type":"string"},
            {"name":"contact","type":{"type":"record","name":"C","fields":[
                {"name":"name","type":"string"},{"name":"age","type":["null","int"]},
                {"name":"home","type":{"type":"record","name":"H","fields":[
                    {"name":"city","type":"string"},{"name":"floor","type":"int"}]}}]}},
            {"name":"channel","type":{"type":"enum","name":"E","symbols":["WEB","PHONE","BROKER"]}}]}"#,
        value: |n| {
            let home = record([("city", text(format!("city {}", n % 97))), ("floor", Value::Int((n % 7) as i32))]);
            let contact = record([
                ("name", text(format!("Name {}", n % 50_021))),
                ("age", optional((n & 2 == 0).then_some(Value::Int((n % 90) as i32)))),
                ("home", home),
            ]);
            let symbol = (n % 3) as u32;
            let channel = Value::Enum(symbol, ["WEB", "PHONE", "BROKER"][symbol as usize].to_owned());
            record([("id", text(format!("{n:x}"))), ("contact", contact), ("channel", channel)])
        },
    },
    Shape {
        name: "optionals",
        schema: r#"{"type":"record","name":"R","fields":[
            {"name":"a","type":["null","long"]},{"name":"b","type":["null","string"]},{"name":"c","type":["null","double"]},
            {"name":"d","type":["null","long"]},{"name":"e","type":["null","string"]},{"name":"f","type":["null","int"]},
            {"name":"g","type":["null","boolean"]},{"name":"h","type":["null","string"]}]}"#,
        value: |n| {
            let some = |bit: u32, value: Value| optional((n >> bit & 1 == 0).then_some(value));
            record([
                ("a", some(0, Value::Long(n as i64))),
                ("b", some(1, text(format!("{:x}", n >> 32)))),
                ("c", some(2, Value::Double(n as f64))),
                ("d", some(3, Value::Long((n >> 50) as i64))),
                ("e", some(4, text("seldom".to_owned()))),
                ("f", some(5, Value::Int(7))),
                ("g", some(6, Value::Boolean(true))),
                ("h", some(7, text(format!("city {}", n % 97)))),
            ])
        },
    },
    Shape {
        name: "arrays",
        schema: r#"{"type":"record","name":"R","fields":[
            {"name":"tags","type":{"type":"array","items":"string"}},
            {"name":"lines","type":{"type":"array","items":{"type":"record","name":"L","fields":[
                {"name":"sku","type":"string"},{"name":"count","type":"int"},{"name":"price","type":"double"}]}}}]}"#,
        value: |n| {
            let tags = (0..n % 5).map(|tag| text(format!("tag {}", (n >> 30) % 31 + tag))).collect();
            let lines = (0..n % 4).map(|line| {
                record([
                    ("sku", text(format!("{:x}", n >> (line * 8)))),
                    ("count", Value::Int(line as i32)),
                    ("price", Value::Double(n as f64)),
                ])
            });
            record([("tags", Value::Array(tags)), ("lines", Value::Array(lines.collect()))])
        },
    },
    Shape {
        name: "maps",
        schema: r#"{"type":"record","name":"R","fields":[
            {"name":"labels","type":{"type":"map","values":"string"}},{"name":"counts","type":{"type":"map","values":"long"}}]}"#,
        value: |n| {
            let labels = (0..n % 4).map(|at| (format!("label {at}"), text(format!("{:x}", n >> 40)))).collect();
            let counts = (0..n % 3).map(|at| (format!("count {at}"), Value::Long((n >> 20) as i64))).collect();
            record([("labels", Value::Map(labels)), ("counts", Value::Map(counts))])
        },
    },
];

fn record<const N: usize>(fields: [(&str, Value); N]) -> Value {
    Value::Record(fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
}

fn text(text: String) -> Value {
    Value::String(text)
}

fn optional(value: Option<Value>) -> Value {
    match value {
        Some(value) => Value::Union(1, Box::new(value)),
        None => Value::Union(0, Box::new(Value::Null)),
    }
}

fn main() {
    let mut rounds = 60;
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        // Others are what cargo itself passes.
        if arg == "--rounds" {
            rounds = args.next().and_then(|text| text.parse().ok()).expect("a number follows");
        }
    }
    println!("{DATUMS} datums a batch, medians of {rounds} interleaved rounds on one thread");
    println!(
        "{:>10} {:>6} {:>12} {:>8} {:>14} {:>14} {:>12} {:>12}",
        "shape", "bytes", "events/s", "MB/s", "arrow-avro/s", "apache-avro/s", "to arrow", "to apache"
    );
    for shape in &SHAPES {
        measure(shape, rounds);
    }
}

fn measure(shape: &Shape, rounds: usize) {
    let schema = Schema::parse_str(shape.schema).expect("a schema");
    let writer = GenericDatumWriter::builder(&schema).build().expect("a writer");
    let datums: Vec<Vec<u8>> = (0..DATUMS as u64)
        .map(|number| (shape.value)(number.wrapping_mul(0x9E37_79B9_7F4A_7C15)))
        .map(|value| writer.write_value_to_vec(value).expect("it fits the schema"))
        .collect();
    let datums: Vec<&[u8]> = datums.iter().map(Vec::as_slice).collect();
    let bytes = datums.iter().map(|datum| datum.len()).sum::<usize>() as f64;

    let ours = WriterSchema::parse(shape.schema).expect("a schema");
    let mut store = SchemaStore::new_with_type(FingerprintAlgorithm::Id);
    store.set(Fingerprint::Id(0), AvroSchema::new(shape.schema.to_owned())).expect("a schema");
    let reader = ReaderBuilder::new().with_writer_schema_store(store).with_batch_size(usize::MAX);
    let mut theirs = reader.build_decoder().expect("a decoder");
    let values = GenericDatumReader::builder(&schema).build().expect("a reader");

    let (mut a, mut b, mut c) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        a.push(timed(|| {
            let rows = ours.decode(&datums).expect("decoded");
            assert_eq!(rows.sets.iter().map(|set| set.datums.len()).sum::<usize>(), DATUMS);
            black_box(rows);
        }));
        b.push(timed(|| {
            for datum in &datums {
                theirs.decode(&[0; 5]).expect("a prefix");
                theirs.decode(datum).expect("a datum");
            }
            let batch = theirs.flush().expect("flushed").expect("rows");
            assert_eq!(batch.num_rows(), DATUMS);
            black_box(batch);
        }));
        c.push(timed(|| {
            for datum in &datums {
                black_box(values.read_value(&mut &**datum).expect("a value"));
            }
        }));
    }
    let (a, b, c) = (median(a), median(b), median(c));
    let per_second = |seconds: f64| DATUMS as f64 / seconds;
    println!(
        "{:>10} {:>6.0} {:>12.0} {:>8.0} {:>14.0} {:>14.0} {:>12.2} {:>12.2}",
        shape.name,
        bytes / DATUMS as f64,
        per_second(a),
        bytes / a / 1e6,
        per_second(b),
        per_second(c),
        b / a,
        c / a
    );
}

fn timed(work: impl FnOnce()) -> f64 {
    let began = Instant::now();
    work();
    began.elapsed().as_secs_f64()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
