//! Rows that were encoded ahead of their flush: into the commit as they are, or apart again.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Fields, Schema};
use arrow::json::ReaderBuilder;
use arrow::util::pretty::pretty_format_batches;
use futures::TryStreamExt as _;
use serde_json::json;
use sluicebox::batch::bronze;
use sluicebox::catalog::log::log_store;
use sluicebox::catalog::scan::scan;
use sluicebox::checkpoint::Range;
use sluicebox::sink::delta::staged::{OpenChunk, Staged};
use sluicebox::sink::delta::writer::TableWriter;

use crate::sink::{key, location, numbers, once, open, rejected, staged, staged_with};

/// As a pipeline does it: all in one chunk.
pub async fn encoded(writer: &TableWriter, parts: Vec<Staged>) -> Vec<Staged> {
    let mut chunk = OpenChunk::new(writer.encoder());
    for part in parts {
        assert!(chunk.fits(&part), "the table has its columns");
        chunk.push(part).await.expect("encoded");
    }
    let parts = chunk.close().await.expect("closed");
    assert!(parts.iter().all(|part| part.batches.is_empty() && part.encoded.is_some()), "nothing stays behind");
    parts
}

/// A table whose columns are known, so that nothing has to be added before encoding.
async fn with_columns(dir: &Path, more: &[&str]) -> TableWriter {
    let mut writer = open(dir).await;
    writer.flush(&[staged_with("9", 0, 1, more)]).await.expect("a flush lands");
    writer
}

fn files(dir: &Path) -> usize {
    let folder = dir.join("leads/_enqueued_date=2026-01-01");
    std::fs::read_dir(folder).expect("a day").count()
}

#[tokio::test]
async fn files_go_into_the_commit_as_they_are() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut writer = with_columns(dir.path(), &[]).await;
    let parts = encoded(&writer, vec![staged("0", 0, 50), staged("1", 10, 20), staged("0", 50, 60)]).await;
    let flushed = writer.flush(&parts).await.expect("a flush lands");
    assert_eq!((flushed.rows, flushed.counts[&key("0")].committed, flushed.counts[&key("1")].committed), (70, 60, 10));
    assert_eq!(files(dir.path()), 2, "one for each commit");
    assert_eq!(numbers(dir.path(), "leads", "0").await, once(0, 60));
    assert_eq!(numbers(dir.path(), "leads", "1").await, once(10, 20));
    let again = writer.flush(&parts).await.expect("a flush ends");
    assert_eq!((again.version, again.counts[&key("0")].duplicate), (None, 60));
    assert_eq!(files(dir.path()), 2, "nothing is stored for what is covered");
}

#[tokio::test]
async fn what_a_rival_has_is_taken_out() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut writer = with_columns(dir.path(), &[]).await;
    let parts = encoded(&writer, vec![staged("0", 0, 50), staged("1", 0, 50), staged("2", 0, 50)]).await;
    let mut rival = open(dir.path()).await;
    rival.flush(&[staged("0", 20, 30), staged("1", 0, 50)]).await.expect("a flush lands");
    let flushed = writer.flush(&parts).await.expect("a flush lands");
    assert_eq!(flushed.rows, 90);
    assert_eq!((flushed.counts[&key("0")].duplicate, flushed.counts[&key("1")].duplicate), (10, 50));
    for partition in ["0", "1", "2"] {
        assert_eq!(numbers(dir.path(), "leads", partition).await, once(0, 50));
        assert_eq!(writer.ledger().coverage(&key(partition)).as_slice(), [Range::new(0, 50)]);
    }
    assert_eq!(files(dir.path()), 3, "the files that held the rival's rows are gone");
}

#[tokio::test]
async fn columns_that_came_meanwhile_are_null() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut writer = with_columns(dir.path(), &["city"]).await;
    let parts = encoded(&writer, vec![staged_with("0", 0, 5, &["city"])]).await;
    open(dir.path()).await.flush(&[staged_with("1", 0, 5, &["zip"])]).await.expect("a flush lands");
    writer.flush(&parts).await.expect("a flush lands");
    let rows = all(dir.path(), "SELECT count(*), count(city), count(zip) FROM t").await;
    assert!(rows.contains("| 11       | 6             | 5            |"), "{rows}");
}

#[tokio::test]
async fn rows_with_new_columns_wait_for_their_flush() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut writer = with_columns(dir.path(), &[]).await;
    let more = staged_with("0", 5, 9, &["city"]);
    assert!(!writer.encoder().fits(&more));
    let mut parts = encoded(&writer, vec![staged("0", 0, 5)]).await;
    parts.push(more);
    writer.flush(&parts).await.expect("a flush lands");
    assert_eq!(numbers(dir.path(), "leads", "0").await, once(0, 9));
}

#[tokio::test]
async fn a_dead_letter_of_an_earlier_life_is_taken_out() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut first = with_columns(dir.path(), &[]).await;
    first.flush(&[staged("0", 0, 5), rejected("0", 5)]).await.expect("a flush lands");
    let log = dir.path().join("leads/_delta_log");
    std::fs::remove_file(log.join(format!("{:020}.json", first.version()))).expect("the newest commit can be removed");
    let mut second = open(dir.path()).await;
    let parts = encoded(&second, vec![staged("0", 0, 8)]).await;
    let flushed = second.flush(&parts).await.expect("a flush lands");
    assert_eq!((flushed.counts[&key("0")].committed, flushed.counts[&key("0")].rejected), (7, 1));
    let expected: BTreeMap<i64, usize> = [0, 1, 2, 3, 4, 6, 7].into_iter().map(|number| (number, 1)).collect();
    assert_eq!(numbers(dir.path(), "leads", "0").await, expected);
}

#[tokio::test]
async fn all_values_of_many_days_come_back_part_by_part() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut plain = open(&dir.path().join("plain")).await;
    let parts = [nested(0, 40), nested(40, 100), nested(100, 101)];
    plain.flush(&parts).await.expect("a flush lands");
    let expected = all(&dir.path().join("plain"), "SELECT * FROM t ORDER BY _sequence_number").await;
    assert!(expected.contains("Graz") && expected.contains("2026-01-03"), "{expected}");

    for (name, covered) in [("whole", None), ("apart", Some((30, 50)))] {
        let dir = dir.path().join(name);
        let mut writer = open(&dir).await;
        // Its columns, and nothing of the numbers below.
        writer.flush(&[nested(500, 501)]).await.expect("a flush lands");
        let parts = encoded(&writer, vec![nested(0, 40), nested(40, 100), nested(100, 101)]).await;
        if let Some((from, to)) = covered {
            open(&dir).await.flush(&[nested(from, to)]).await.expect("a flush lands");
        }
        writer.flush(&parts).await.expect("a flush lands");
        let sql = "SELECT * FROM t WHERE _sequence_number < 500 ORDER BY _sequence_number";
        assert_eq!(all(&dir, sql).await, expected, "{name}");
    }
}

async fn all(dir: &Path, sql: &str) -> String {
    let store = log_store(&location(dir, "leads")).expect("the table has a log");
    let batches: Vec<RecordBatch> =
        scan(&store, sql).await.expect("a query").try_collect().await.expect("its rows can be read");
    pretty_format_batches(&batches).expect("printed").to_string()
}

/// Rows of three days in turn, with a struct, a list and a map; some of them null.
fn nested(from: i64, to: i64) -> Staged {
    let address = Fields::from(vec![
        Field::new("city", DataType::Utf8, true),
        Field::new("floors", DataType::new_list(DataType::Int64, true), true),
    ]);
    let payload = [Field::new("address", DataType::Struct(address), true), Field::new("name", DataType::Utf8, true)];
    let fields = payload.into_iter().map(Arc::new).chain(bronze::fields().iter().cloned());
    let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    let mut decoder = ReaderBuilder::new(Arc::clone(&schema)).build_decoder().expect("a reader");
    let rows: Vec<_> = (from..to)
        .map(|number| {
            json!({
                "address": (number % 3 != 0).then(|| json!({"city": "Graz", "floors": [number, null]})),
                "name": format!("name {}", number % 7),
                "_source": "emulator/leads",
                "_partition": "0",
                "_sequence_number": number,
                "_record_index": 0,
                "_enqueued_at": format!("2026-01-0{}T00:00:00.123Z", 1 + number % 3),
                "_enqueued_date": format!("2026-01-0{}", 1 + number % 3),
                "_properties": {"tries": number.to_string(), "empty": null},
            })
        })
        .collect();
    decoder.serialize(&rows).expect("the rows fit");
    let mut part = staged("0", from, to);
    part.batches = vec![decoder.flush().expect("decoded").expect("some rows")];
    part
}

/// What a rival lands between two tries of a flush.
async fn between_tries(dir: &Path, mine: Vec<Staged>, rivals: &[Staged]) -> TableWriter {
    let mut writer = open(dir).await;
    // The rival commits after the flush has looked at the ledger, as the writer's next version.
    let mut rival = open(dir).await;
    rival.flush(rivals).await.expect("a flush lands");
    writer.flush(&mine).await.expect("a flush lands");
    writer
}

#[tokio::test]
async fn as_many_rows_are_not_the_same_rows() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let writer = with_columns(dir.path(), &[]).await;
    // Of one day and of one length: an encoded chunk of two parts, and a part beside it.
    let mut mine = encoded(&writer, vec![staged("0", 0, 40), staged("1", 0, 40)]).await;
    mine.push(staged("2", 0, 40));
    // After the first try has stored both files, the rival has one part of the chunk and the part beside it.
    between_tries(dir.path(), mine, &[staged("0", 0, 40), staged("2", 0, 40)]).await;
    for partition in ["0", "1", "2"] {
        assert_eq!(numbers(dir.path(), "leads", partition).await, once(0, 40), "{partition}");
    }
}

#[tokio::test]
async fn an_own_reject_takes_no_file_apart() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let writer = with_columns(dir.path(), &[]).await;
    let mut mine = encoded(&writer, vec![staged("0", 0, 40)]).await;
    mine.push(rejected("0", 40));
    // The rival takes the version, and nothing of ours: the second try meets the letter of the first.
    between_tries(dir.path(), mine, &[staged("1", 0, 40)]).await;
    assert_eq!(numbers(dir.path(), "leads", "0").await, once(0, 40));
    assert_eq!(numbers(dir.path(), "leads__dead_letters", "0").await, BTreeMap::from([(40, 1)]));
}
