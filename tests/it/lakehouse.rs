//! A project in a temporary folder, whose tables are written in this process.

use std::collections::HashMap;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BinaryArray, Date32Array, Decimal128Array, Int32Array, Int64Array, ListBuilder, MapBuilder,
    MapFieldNames, RecordBatch, StringArray, StringBuilder, StructArray, TimestampMicrosecondArray, new_null_array,
};
use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema};
use bytes::Bytes;
use deltalake::{DeltaTable, DeltaTableBuilder};
use sluicebox::batch::{Event, Origin, Reject, RejectClass, bronze};
use sluicebox::catalog::{dead_letters_of, table_location};
use sluicebox::checkpoint::{PartitionKey, Range, SourceId};
use sluicebox::config::spec::TableName;
use sluicebox::fault_points::FaultPoints;
use sluicebox::sink::delta::dead_letters::Writer;
use sluicebox::sink::delta::schema::Policy;
use sluicebox::sink::delta::staged::Staged;
use sluicebox::sink::delta::writer::{TableSpec, TableWriter, first_schema};
use sluicebox::storage::Location;

/// 2026-01-02T03:04:05Z; an event is enqueued each second from then on.
pub const FIRST_ENQUEUED_MS: i64 = 1_767_323_045_000;

const PROJECT: &str = r#"
[project]
name  = "insurer"
teams = ["conversions"]

[lake]
url = "lake"

[event_hubs]
connection_string = "${HUBS}"

[serve]
address = "127.0.0.1:0"
"#;

const PIPELINE: &str = r#"
[pipeline]
name  = "leads"
owner = "conversions"

[source.event_hubs]
hub       = "leads"
retention = "1h"

[decode]
format = "raw"

[sink]
table        = "bronze.leads"
commit_every = "100ms"
"#;

/// Where nothing listens.
const NO_HUBS: &str = "Endpoint=sb://127.0.0.1:1;SharedAccessKeyName=n;SharedAccessKey=k;UseDevelopmentEmulator=true;";

pub struct Lakehouse {
    folder: tempfile::TempDir,
    hubs: String,
}

/// What the program said.
pub struct Said {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Said {
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {}{}", self.stdout, self.stderr))
    }
}

impl Lakehouse {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        std::fs::write(folder.path().join("sluice.toml"), PROJECT).expect("the project is written");
        std::fs::create_dir(folder.path().join("pipelines")).expect("the folder is made");
        std::fs::write(folder.path().join("pipelines/leads.toml"), PIPELINE).expect("the pipeline is written");
        Self { folder, hubs: NO_HUBS.to_owned() }
    }

    /// One with `bronze.leads`: partition 0 holds 0 to 9, of which 3 and 7 are dead letters,
    /// partition 1 holds 5 to 9; in two commits.
    pub async fn with_leads() -> Self {
        let lake = Self::new();
        let mut writer = lake.writer("bronze.leads").await;
        let starts = [(partition("0"), 0), (partition("1"), 5)];
        let created = SourceId::new("emulator/leads");
        writer.record_starts(Some((&created, FIRST_ENQUEUED_MS)), &starts).await.expect("the starts are committed");
        writer.flush(&[staged("0", 0..6, &[3])]).await.expect("the first flush lands");
        writer.flush(&[staged("0", 6..10, &[7]), staged("1", 5..10, &[])]).await.expect("the second flush lands");
        lake
    }

    /// From here on the program finds its hubs there.
    pub fn connect(&mut self, connection_string: &str) {
        connection_string.clone_into(&mut self.hubs);
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    pub fn location(&self) -> Location {
        let lake = self.path().join("lake");
        Location::resolve(lake.to_str().expect("a UTF-8 path"), None).expect("an absolute folder")
    }

    pub async fn writer(&self, table: &str) -> TableWriter {
        let name: TableName = table.parse().expect("a name of a table");
        let payload: Vec<Field> = payload(&[]).0.iter().map(|field| field.as_ref().clone()).collect();
        let spec = TableSpec {
            name: table.to_owned(),
            location: table_location(&self.location(), &name),
            dead_letters: table_location(&self.location(), &dead_letters_of(&name)),
            writer: Writer {
                pipeline: "leads".to_owned(),
                owner: "conversions".to_owned(),
                config_hash: "0".repeat(64),
            },
            schema: first_schema(&payload),
            policy: Policy::default(),
            fault_points: FaultPoints::default(),
        };
        TableWriter::open(spec).await.expect("the table opens")
    }

    /// The table as a program that isn't ours sees it, free to do with it as it likes.
    pub async fn stranger(&self, table: &str) -> DeltaTable {
        let table = self.opened(table).await;
        let properties = HashMap::from([("delta.appendOnly".to_owned(), "false".to_owned())]);
        table.set_tbl_properties().with_properties(properties).await.expect("the property is set")
    }

    pub async fn opened(&self, table: &str) -> DeltaTable {
        let name: TableName = table.parse().expect("a name of a table");
        let url = table_location(&self.location(), &name).url().clone();
        DeltaTableBuilder::from_url(url).expect("a table's URL").load().await.expect("the table is there")
    }

    /// Runs the program in the project's folder.
    pub fn sluice(&self, args: &[&str]) -> Said {
        let output = self.command(args).output().expect("sluice runs");
        let text = |bytes| String::from_utf8(bytes).expect("sluice writes UTF-8");
        Said { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }
}

impl Lakehouse {
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sluice"));
        command.current_dir(self.path()).env("HUBS", &self.hubs).args(args);
        command
    }
}

pub fn partition(name: &str) -> PartitionKey {
    PartitionKey::new(SourceId::new("emulator/leads"), name)
}

pub fn enqueued_ms(number: i64) -> i64 {
    FIRST_ENQUEUED_MS + number * 1_000
}

/// Events of a partition: rows, but for those that are rejected.
pub fn staged(name: &str, numbers: std::ops::Range<i64>, rejected: &[i64]) -> Staged {
    let rows: Vec<i64> = numbers.clone().filter(|number| !rejected.contains(number)).collect();
    Staged {
        partition: partition(name),
        range: Range::new(numbers.start, numbers.end),
        events: numbers.map(|number| (number, enqueued_ms(number))).collect(),
        batches: if rows.is_empty() { Vec::new() } else { vec![batch(name, &rows)] },
        elsewhere: Vec::new(),
        encoded: None,
        rejects: rejected.iter().map(|number| reject(*number)).collect(),
    }
}

pub fn reject(number: i64) -> Reject {
    Reject {
        event: Event {
            sequence_number: number,
            offset: number.to_string(),
            enqueued_at: enqueued_ms(number),
            body: Bytes::from_static(b"\x00\xffnot avro"),
            content_type: None,
            properties: Vec::new(),
        },
        origin: Origin::Live,
        record_index: 0,
        schema_id: None,
        framing: "content-type",
        class: RejectClass::Datum,
        text: "the datum ends early".to_owned(),
    }
}

/// The rows of these numbers, with a column of each kind.
pub fn batch(partition: &str, numbers: &[i64]) -> RecordBatch {
    let (fields, columns) = payload(numbers);
    let envelope = bronze::fields().iter().map(|field| envelope(field, partition, numbers));
    let fields: Vec<FieldRef> = fields.iter().chain(bronze::fields()).cloned().collect();
    let columns: Vec<ArrayRef> = columns.into_iter().chain(envelope).collect();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).expect("the columns fit their types")
}

fn envelope(field: &FieldRef, partition: &str, numbers: &[i64]) -> ArrayRef {
    let rows = numbers.len();
    match field.name().as_str() {
        bronze::SOURCE => Arc::new(StringArray::from(vec!["emulator/leads"; rows])),
        bronze::PARTITION => Arc::new(StringArray::from(vec![partition; rows])),
        bronze::SEQUENCE_NUMBER => Arc::new(Int64Array::from(numbers.to_vec())),
        bronze::RECORD_INDEX => Arc::new(Int32Array::from(vec![0; rows])),
        bronze::ENQUEUED_AT => {
            let times = numbers.iter().map(|number| enqueued_ms(*number) * 1_000);
            Arc::new(TimestampMicrosecondArray::from_iter_values(times).with_timezone("UTC"))
        }
        bronze::ENQUEUED_DATE => Arc::new(Date32Array::from_iter_values(
            numbers.iter().map(|number| (enqueued_ms(*number) / 86_400_000) as i32),
        )),
        bronze::ORIGIN => Arc::new(StringArray::from(vec!["live"; rows])),
        bronze::PROPERTIES => {
            let names = MapFieldNames { entry: "key_value".into(), key: "key".into(), value: "value".into() };
            let mut map = MapBuilder::new(Some(names), StringBuilder::new(), StringBuilder::new());
            for number in numbers {
                map.keys().append_value("n");
                map.values().append_value(number.to_string());
                map.append(true).expect("keys and values are even");
            }
            Arc::new(map.finish())
        }
        _ => new_null_array(field.data_type(), rows),
    }
}

fn payload(numbers: &[i64]) -> (Fields, Vec<ArrayRef>) {
    let ids: StringArray = numbers.iter().map(|number| Some(format!("lead-{number}"))).collect();
    // Beyond what a double can hold.
    let scores: Int64Array =
        numbers.iter().map(|number| (number % 2 == 0).then_some(9_007_199_254_740_993 + number)).collect();
    let premiums = Decimal128Array::from_iter_values(numbers.iter().map(|number| i128::from(*number) * 100 + 5))
        .with_precision_and_scale(10, 2)
        .expect("a decimal of that precision");
    let mut tags = ListBuilder::new(StringBuilder::new());
    for number in numbers {
        tags.values().append_value(format!("t{number}"));
        tags.values().append_null();
        tags.append(true);
    }
    let city: ArrayRef =
        Arc::new(numbers.iter().map(|number| Some(format!("city, \"{number}\""))).collect::<StringArray>());
    let address = StructArray::from(vec![(Arc::new(Field::new("city", DataType::Utf8, true)), city)]);
    let photos = BinaryArray::from_iter_values(numbers.iter().map(|number| [0, 255, *number as u8]));
    let born = Date32Array::from_iter_values(numbers.iter().map(|number| *number as i32));
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("leadId", Arc::new(ids)),
        ("score", Arc::new(scores)),
        ("premium", Arc::new(premiums)),
        ("tags", Arc::new(tags.finish())),
        ("address", Arc::new(address)),
        ("photo", Arc::new(photos)),
        ("born", Arc::new(born)),
    ];
    let fields = columns.iter().map(|(name, column)| Field::new(*name, column.data_type().clone(), true)).collect();
    (fields, columns.into_iter().map(|(_, column)| column).collect())
}
