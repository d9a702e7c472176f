//! The Delta sink: writers that race, logs that were cleaned up, strangers.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, AsArray, Date32Array, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
    UInt32Array, new_null_array,
};
use arrow::compute::take_arrays;
use arrow::datatypes::{DataType, Field, Int64Type, Schema};
use bytes::Bytes;
use futures::TryStreamExt as _;
use sluicebox::batch::{Event, Origin, Reject, RejectClass, bronze};
use sluicebox::catalog::log::log_store;
use sluicebox::catalog::scan::scan;
use sluicebox::checkpoint::{Counter, PartitionKey, Range, SourceId};
use sluicebox::fault_points::FaultPoints;
use sluicebox::sink::delta::SinkError;
use sluicebox::sink::delta::dead_letters::Writer;
use sluicebox::sink::delta::schema::Policy;
use sluicebox::sink::delta::staged::Staged;
use sluicebox::sink::delta::writer::{TableSpec, TableWriter, first_schema};
use sluicebox::storage::Location;

use crate::ahead::encoded;

/// 2026-01-01T00:00:00Z, in epoch milliseconds.
const NEW_YEAR: i64 = 1_767_225_600_000;

pub fn key(partition: &str) -> PartitionKey {
    PartitionKey::new(SourceId::new("emulator/leads"), partition)
}

pub fn location(dir: &Path, table: &str) -> Location {
    let url = dir.join(table);
    Location::resolve(url.to_str().expect("temporary folders have plain names"), None).expect("a folder has a location")
}

fn spec(dir: &Path) -> TableSpec {
    TableSpec {
        name: "bronze.leads".to_owned(),
        location: location(dir, "leads"),
        dead_letters: location(dir, "leads__dead_letters"),
        writer: Writer { pipeline: "leads".to_owned(), owner: "team".to_owned(), config_hash: "hash".to_owned() },
        schema: first_schema(&[]),
        policy: Policy::default(),
        fault_points: FaultPoints::default(),
    }
}

pub async fn open(dir: &Path) -> TableWriter {
    open_with(dir, Policy::default()).await
}

pub async fn open_with(dir: &Path, policy: Policy) -> TableWriter {
    TableWriter::open(TableSpec { policy, ..spec(dir) }).await.expect("the table can be opened")
}

fn text(value: &str, rows: usize) -> ArrayRef {
    Arc::new(StringArray::from(vec![value; rows]))
}

/// Events `[from, to)` of a partition, one a millisecond, with a column `id` and those named.
pub fn staged_with(partition: &str, from: i64, to: i64, more: &[&str]) -> Staged {
    let numbers: Vec<i64> = (from..to).collect();
    let rows = numbers.len();
    let mut fields = vec![Field::new("id", DataType::Int64, true)];
    let mut columns: Vec<ArrayRef> = vec![Arc::new(Int64Array::from(numbers.clone()))];
    for name in more {
        fields.push(Field::new(*name, DataType::Utf8, true));
        columns.push(text(name, rows));
    }
    for field in bronze::fields() {
        let column: ArrayRef = match field.name().as_str() {
            bronze::SOURCE => text("emulator/leads", rows),
            bronze::PARTITION => text(partition, rows),
            bronze::SEQUENCE_NUMBER => Arc::new(Int64Array::from(numbers.clone())),
            bronze::RECORD_INDEX => Arc::new(Int32Array::from(vec![0; rows])),
            bronze::ENQUEUED_AT => {
                let times = numbers.iter().map(|number| (NEW_YEAR + number) * 1000);
                Arc::new(TimestampMicrosecondArray::from_iter_values(times).with_timezone("UTC"))
            }
            bronze::ENQUEUED_DATE => Arc::new(Date32Array::from(vec![20454; rows])),
            _ => new_null_array(field.data_type(), rows),
        };
        fields.push(field.as_ref().clone());
        columns.push(column);
    }
    let batch = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).expect("the columns fit");
    Staged {
        partition: key(partition),
        range: Range::new(from, to),
        events: numbers.iter().map(|number| (*number, NEW_YEAR + number)).collect(),
        batches: vec![batch],
        elsewhere: Vec::new(),
        encoded: None,
        rejects: Vec::new(),
    }
}

pub fn staged(partition: &str, from: i64, to: i64) -> Staged {
    staged_with(partition, from, to, &[])
}

/// The one event `number`, which could not be decoded.
pub fn rejected(partition: &str, number: i64) -> Staged {
    let event = Event {
        sequence_number: number,
        offset: number.to_string(),
        enqueued_at: NEW_YEAR + number,
        body: Bytes::from_static(b"\xff\x00"),
        content_type: None,
        properties: Vec::new(),
    };
    let reject = Reject {
        event,
        origin: Origin::Live,
        record_index: 0,
        schema_id: None,
        framing: "bare",
        class: RejectClass::Datum,
        text: "torn".to_owned(),
    };
    Staged {
        partition: key(partition),
        range: Range::new(number, number + 1),
        events: vec![(number, NEW_YEAR + number)],
        batches: Vec::new(),
        elsewhere: Vec::new(),
        encoded: None,
        rejects: vec![reject],
    }
}

/// How often each number of a partition stands in the table.
pub async fn numbers(dir: &Path, table: &str, partition: &str) -> BTreeMap<i64, usize> {
    let store = log_store(&location(dir, table)).expect("the table has a log");
    let sql = format!("SELECT _sequence_number FROM t WHERE _partition = '{partition}'");
    let mut batches = scan(&store, &sql).await.expect("the table can be read");
    let mut found = BTreeMap::new();
    while let Some(batch) = batches.try_next().await.expect("its rows can be read") {
        for number in batch.column(0).as_primitive::<Int64Type>().values() {
            *found.entry(*number).or_default() += 1;
        }
    }
    found
}

pub fn once(from: i64, to: i64) -> BTreeMap<i64, usize> {
    (from..to).map(|number| (number, 1)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn overlapping_ranges_of_two_writers_at_once_land_once() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    drop(open(dir.path()).await);
    let mut writers = tokio::task::JoinSet::new();
    // Different starts, different strides: nearly every flush of one overlaps one of the other.
    for (start, stride, ahead) in [(0, 7, false), (30, 11, true), (60, 13, true)] {
        let dir = dir.path().to_owned();
        writers.spawn(async move {
            let mut writer = open(&dir).await;
            writer
                .record_starts(None, &[(key("0"), start), (key("1"), start)])
                .await
                .expect("a start can be committed");
            let (mut received, mut settled) = (0, 0);
            for from in (start..300).step_by(stride) {
                let to = (from + i64::try_from(stride).expect("a small number")).min(300);
                let mut parts = vec![staged("0", from, to), staged("1", from, to)];
                if ahead && parts.iter().all(|part| writer.encoder().fits(part)) {
                    parts = encoded(&writer, parts).await;
                }
                received += parts.iter().map(|part| part.events.len() as u64).sum::<u64>();
                let flushed = writer.flush(&parts).await.expect("a flush lands");
                settled += flushed.counts.values().map(|c| c.committed + c.rejected + c.duplicate).sum::<u64>();
            }
            assert_eq!(received, settled, "received = committed + rejected + duplicate");
        });
    }
    while let Some(ended) = writers.join_next().await {
        ended.expect("a writer ends well");
    }
    for partition in ["0", "1"] {
        assert_eq!(numbers(dir.path(), "leads", partition).await, once(0, 300));
        let coverage = open(dir.path()).await.ledger().coverage(&key(partition));
        assert_eq!(coverage.as_slice(), [Range::new(0, 300)]);
    }
}

#[tokio::test]
async fn of_two_first_starts_the_lower_one_counts_whoever_commits_first() {
    for order in [[150, 0], [0, 150]] {
        let dir = tempfile::tempdir().expect("a temporary folder");
        // Both look while the ledger is empty.
        let mut writers = [open(dir.path()).await, open(dir.path()).await];
        for (writer, start) in writers.iter_mut().zip(order) {
            writer.record_starts(None, &[(key("0"), start)]).await.expect("a start can be committed");
        }
        let ledger = open(dir.path()).await.ledger().partition(&key("0")).cloned().expect("the partition is known");
        assert_eq!((ledger.start(), ledger.position(0)), (Some(0), Some(0)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_zombie_below_a_cleaned_log_lands_nothing_unseen() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut zombie = open(dir.path()).await;
    zombie.flush(&[staged("0", 0, 10)]).await.expect("the first flush lands");
    let mut rival = open(dir.path()).await;
    for from in (10..210).step_by(2) {
        rival.flush(&[staged("0", from, from + 2)]).await.expect("the rival's flushes land");
    }
    let store = log_store(&location(dir.path(), "leads")).expect("the table has a log");
    checkpoint_and_clean(&store, rival.version()).await;

    let flushed = zombie.flush(&[staged("0", 5, 215)]).await.expect("the zombie finds its way");
    assert_eq!(flushed.counts[&key("0")].committed, 5);
    assert_eq!(numbers(dir.path(), "leads", "0").await, once(0, 215));
}

pub async fn checkpoint_and_clean(store: &deltalake::logstore::LogStoreRef, version: u64) {
    let mut table = deltalake::DeltaTable::new(Arc::clone(store));
    table.load().await.expect("the table can be loaded");
    deltalake::checkpoints::create_checkpoint(&table, None).await.expect("a checkpoint can be written");
    let folder = store.config().location().to_file_path().expect("a folder").join("_delta_log");
    for old in 0..version {
        std::fs::remove_file(folder.join(format!("{old:020}.json"))).expect("an old commit can be removed");
    }
}

#[tokio::test]
async fn what_was_rejected_once_stays_rejected_and_is_kept_once() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    // The first writer dies after its dead letter, before its rows: nothing is covered yet.
    let mut first = open(dir.path()).await;
    let parts = [staged("0", 0, 5), rejected("0", 5)];
    let flushed = first.flush(&parts).await.expect("a flush lands");
    assert_eq!((flushed.counts[&key("0")].committed, flushed.counts[&key("0")].rejected), (5, 1));
    assert_eq!(numbers(dir.path(), "leads__dead_letters", "0").await, BTreeMap::from([(5, 1)]));
    let log = dir.path().join("leads/_delta_log");
    std::fs::remove_file(log.join(format!("{:020}.json", first.version()))).expect("the newest commit can be removed");

    // The second decodes event 5: it stays what it was, and nobody keeps it twice.
    let mut second = open(dir.path()).await;
    let flushed = second.flush(&[staged("0", 0, 6)]).await.expect("a flush lands");
    assert_eq!((flushed.counts[&key("0")].committed, flushed.counts[&key("0")].rejected), (5, 1));
    assert_eq!(numbers(dir.path(), "leads", "0").await, once(0, 5));
    assert_eq!(numbers(dir.path(), "leads__dead_letters", "0").await, BTreeMap::from([(5, 1)]));
    let ledger = second.ledger().partition(&key("0")).cloned().expect("the partition is in the ledger");
    assert_eq!(ledger.counter(Counter::Rejected), 1);
}

/// Each event as one of three records.
fn of_three_records(mut staged: Staged) -> Staged {
    for batch in &mut staged.batches {
        let rows = batch.num_rows() as u32;
        let thrice = UInt32Array::from_iter_values((0..rows).flat_map(|row| [row; 3]));
        let mut columns = take_arrays(batch.columns(), &thrice, None).expect("rows are taken");
        let at = batch.schema().index_of(bronze::RECORD_INDEX).expect("the column is there");
        columns[at] = Arc::new(Int32Array::from_iter_values((0..rows).flat_map(|_| [0, 1, 2])));
        *batch = RecordBatch::try_new(batch.schema(), columns).expect("the columns fit");
    }
    staged
}

#[tokio::test]
async fn the_records_of_an_event_are_trimmed_and_stay_rejected_together() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut first = open(dir.path()).await;
    let parts = [of_three_records(staged("0", 0, 5)), rejected("0", 5)];
    let flushed = first.flush(&parts).await.expect("a flush lands");
    assert_eq!((flushed.rows, flushed.counts[&key("0")].committed, flushed.counts[&key("0")].rejected), (15, 5, 1));
    let log = dir.path().join("leads/_delta_log");
    let thrice = |from: i64, to: i64| (from..to).map(|number| (number, 3)).collect::<BTreeMap<_, _>>();
    assert_eq!(numbers(dir.path(), "leads", "0").await, thrice(0, 5));
    std::fs::remove_file(log.join(format!("{:020}.json", first.version()))).expect("the newest commit can be removed");

    // Event 5 decodes by now: none of its records becomes a row beside its dead letter.
    let mut second = open(dir.path()).await;
    let flushed = second.flush(&[of_three_records(staged("0", 0, 6))]).await.expect("a flush lands");
    assert_eq!((flushed.counts[&key("0")].committed, flushed.counts[&key("0")].rejected), (5, 1));
    assert_eq!(numbers(dir.path(), "leads", "0").await, thrice(0, 5));
    assert_eq!(numbers(dir.path(), "leads__dead_letters", "0").await, BTreeMap::from([(5, 1)]));

    // What is there already is left out with all of its records, also where it was encoded ahead.
    let again = encoded(&second, vec![of_three_records(staged("0", 3, 8))]).await;
    let flushed = second.flush(&again).await.expect("a flush lands");
    assert_eq!((flushed.counts[&key("0")].committed, flushed.counts[&key("0")].duplicate), (2, 3));
    let mut whole = thrice(0, 8);
    whole.remove(&5);
    assert_eq!(numbers(dir.path(), "leads", "0").await, whole);
}

#[tokio::test]
async fn declared_columns_are_there_before_their_first_event() {
    let dir = tempfile::tempdir().expect("a folder");
    let declared = |columns: &[&str]| {
        let columns: Vec<_> = columns.iter().map(|name| Field::new(*name, DataType::Utf8, true)).collect();
        TableSpec { schema: first_schema(&columns), ..spec(dir.path()) }
    };
    let store = log_store(&location(dir.path(), "leads")).expect("a log");
    let writer = TableWriter::open(declared(&["reason"])).await.expect("made");
    assert_eq!(writer.version(), 0);
    assert!(scan(&store, "SELECT reason FROM t").await.is_ok() && scan(&store, "SELECT city FROM t").await.is_err());
    // Declared later, when the table is there.
    let mut writer = TableWriter::open(declared(&["reason", "city"])).await.expect("opened");
    assert_eq!(writer.version(), 1);
    assert!(scan(&store, "SELECT reason, city FROM t").await.is_ok());
    writer.flush(&[staged("0", 0, 10)]).await.expect("committed");
    assert_eq!(numbers(dir.path(), "leads", "0").await, once(0, 10));
    let opened_again = TableWriter::open(declared(&["reason", "city"])).await.expect("opened again");
    assert_eq!(opened_again.version(), writer.version(), "nothing was to be added");
}

#[tokio::test]
async fn two_writers_that_bring_different_columns_keep_both() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (mut one, mut two) = (open(dir.path()).await, open(dir.path()).await);
    one.flush(&[staged_with("0", 0, 5, &["city"])]).await.expect("a flush lands");
    two.flush(&[staged_with("1", 0, 5, &["zip"])]).await.expect("a flush lands");
    one.flush(&[staged("0", 5, 9)]).await.expect("a flush lands");
    let store = log_store(&location(dir.path(), "leads")).expect("the table has a log");
    let sql = "SELECT count(*), count(id), count(city), count(zip) FROM t";
    let batches: Vec<_> = scan(&store, sql).await.expect("a query").try_collect().await.expect("its rows");
    let counts: Vec<i64> = (0..4).map(|at| batches[0].column(at).as_primitive::<Int64Type>().value(0)).collect();
    assert_eq!(counts, [14, 14, 5, 5]);
}

#[tokio::test]
async fn a_strangers_overwrite_stops_the_writer_and_names_the_version() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut writer = open(dir.path()).await;
    writer.flush(&[staged("0", 0, 5)]).await.expect("a flush lands");
    let version = writer.version() + 1;
    let commit = concat!(
        r#"{"commitInfo":{"timestamp":1,"operation":"RESTORE","operationParameters":{}}}"#,
        "\n",
        r#"{"remove":{"path":"gone.parquet","dataChange":true,"deletionTimestamp":1}}"#
    );
    let path = dir.path().join(format!("leads/_delta_log/{version:020}.json"));
    std::fs::write(path, commit).expect("a stranger can write");
    let running = writer.flush(&[staged("0", 5, 9)]).await.map(|_| ());
    let opened = TableWriter::open(spec(dir.path())).await.map(|_| ());
    for outcome in [running, opened] {
        let error = outcome.expect_err("the writer stops");
        assert!(
            matches!(&error, SinkError::Stranger { version: named, operation, .. }
            if *named == version && operation == "RESTORE"),
            "{error:?}"
        );
    }
}

#[tokio::test]
async fn a_feature_that_an_append_would_break_is_refused_by_its_name() {
    for (property, named) in [
        (r#""delta.setTransactionRetentionDuration":"interval 1 day""#, "setTransactionRetentionDuration"),
        (r#""delta.columnMapping.mode":"name""#, "columnMapping"),
        (r#""delta.constraints.positive":"id > 0""#, "delta.constraints.positive"),
    ] {
        let dir = tempfile::tempdir().expect("a temporary folder");
        drop(open(dir.path()).await);
        let path = dir.path().join("leads/_delta_log/00000000000000000000.json");
        let log = std::fs::read_to_string(&path).expect("the log can be read");
        let changed = log.replace(r#""configuration":{"#, &format!(r#""configuration":{{{property},"#));
        assert_ne!(log, changed);
        std::fs::write(&path, changed).expect("the log can be changed");
        let error = TableWriter::open(spec(dir.path())).await.map(|_| ()).expect_err("the table is refused");
        assert!(error.to_string().contains(named), "{error}");
    }
}

#[tokio::test]
async fn a_hub_made_anew_is_not_taken_for_the_old_one() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let source = SourceId::new("emulator/leads");
    let mut writer = open(dir.path()).await;
    writer.record_starts(Some((&source, 1_000)), &[(key("0"), 0)]).await.expect("a first start");
    writer.record_starts(Some((&source, 1_000)), &[]).await.expect("the same hub again");
    let error = writer.record_starts(Some((&source, 2_000)), &[]).await.expect_err("another hub of the same name");
    assert!(matches!(error, SinkError::Generation { was: 1_000, is: 2_000, .. }), "{error:?}");
}
