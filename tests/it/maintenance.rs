//! Compaction, checkpoints, log cleanup and vacuum, through the program and beside its writers.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use sluicebox::catalog::log::{log_store, read_head};
use sluicebox::catalog::table_location;
use sluicebox::pipeline::maintenance::leader::{Leader, Taken};

use crate::lakehouse::{Lakehouse, staged};

const DAY: u64 = 24 * 60 * 60;

/// This many small commits more of each partition of `bronze.leads`, from this number on.
async fn small_commits(lake: &Lakehouse, from: i64, commits: i64) {
    let mut writer = lake.writer("bronze.leads").await;
    for number in from..from + commits {
        writer.flush(&[staged("0", number..number + 1, &[])]).await.expect("a flush lands");
        writer.flush(&[staged("1", number..number + 1, &[])]).await.expect("a flush lands");
    }
}

fn folder(lake: &Lakehouse, table: &str) -> PathBuf {
    lake.path().join("lake").join(table.replace('.', "/"))
}

fn files_below(folder: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir(folder).expect("the folder is there") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(files_below(&path));
        } else {
            found.insert(path);
        }
    }
    found
}

fn data_files(lake: &Lakehouse, table: &str) -> BTreeSet<PathBuf> {
    let is_data = |path: &PathBuf| !path.to_string_lossy().contains("_delta_log");
    files_below(&folder(lake, table)).into_iter().filter(is_data).collect()
}

fn log_files(lake: &Lakehouse, table: &str) -> BTreeSet<String> {
    let name = |path: &PathBuf| path.file_name().expect("a name").to_string_lossy().into_owned();
    files_below(&folder(lake, table).join("_delta_log")).iter().map(name).collect()
}

/// All that is there now was stored so many days ago.
fn age(lake: &Lakehouse, table: &str, days: u64) {
    let then = SystemTime::now() - Duration::from_secs(days * DAY);
    for path in files_below(&folder(lake, table)) {
        let file = std::fs::File::options().append(true).open(&path).expect("the file opens");
        file.set_modified(then).expect("its time can be set");
    }
}

fn maintain(lake: &Lakehouse, more: &[&str]) -> Value {
    let said = lake.sluice(&[&["maintain", "--format", "json"], more].concat());
    assert_eq!(said.code, Some(0), "{}{}", said.stdout, said.stderr);
    said.json()["tables"].clone()
}

fn report<'a>(tables: &'a Value, table: &str) -> &'a Value {
    tables.as_array().and_then(|tables| tables.iter().find(|report| report["table"] == table)).expect("it is reported")
}

fn rows(lake: &Lakehouse) -> Value {
    let sql = "SELECT _partition, _sequence_number, \"leadId\", score, tags, _properties, _enqueued_date \
               FROM bronze.leads ORDER BY _partition, _sequence_number";
    let said = lake.sluice(&["query", "--format", "json", sql]);
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    said.json()
}

fn is_complete(lake: &Lakehouse) -> bool {
    let said = lake.sluice(&["audit", "bronze.leads", "--offline", "--format", "json"]);
    assert!(matches!(said.code, Some(0 | 1)), "{}", said.stderr);
    let audit = said.json();
    let only = json!(["the hub was not asked which partitions it has"]);
    assert_eq!(audit["notes"], only, "our own commits are no strangers': {audit}");
    audit["complete"] == true
}

/// A table whose `txn`s say that it streams `bronze.leads`, and how far it has read.
async fn streams(lake: &Lakehouse, consumed: u64) {
    use sluicebox::catalog::commit_log::{CommitLog, ReadAt};
    use sluicebox::catalog::rewrite::{Base, Change, Kind, commit};
    use sluicebox::catalog::state::{create, metadata_of_new};
    let place = |table: &str| table_location(&lake.location(), &table.parse().expect("a name"));
    let input = read_head(&log_store(&place("bronze.leads")).expect("a log")).await.expect("a head").expect("a table");
    let log = CommitLog::new(log_store(&place("silver.leads")).expect("a log"), "silver.leads".to_owned());
    if read_head(log.store()).await.expect("a log").is_none() {
        let field = arrow::datatypes::Field::new("id", arrow::datatypes::DataType::Utf8, true);
        let metadata = metadata_of_new(&log, &arrow::datatypes::Schema::new(vec![field]), &[], Vec::new());
        create(&log, metadata.expect("metadata"), Vec::new()).await.expect("the table is made");
    }
    let head = read_head(log.store()).await.expect("a log").expect("a table");
    let change = Change {
        kind: Kind::Append,
        adds: Vec::new(),
        removes: Vec::new(),
        transactions: vec![(
            format!("sluice-consumed:1:{}", input.metadata.id()),
            i64::try_from(consumed).expect("a small number"),
        )],
        metadata: None,
        changes: Vec::new(),
        protocol: None,
        operation: deltalake::protocol::DeltaOperation::StreamingUpdate {
            output_mode: deltalake::protocol::OutputMode::Append,
            query_id: "test".to_owned(),
            epoch_id: 0,
        },
        note: Value::Null,
    };
    commit(&log, Base { version: head.version, read_at: ReadAt::now() }, change).await.expect("the position lands");
}

#[tokio::test]
async fn small_files_become_one_and_the_rows_and_the_ledger_stay() {
    let lake = Lakehouse::with_leads().await;
    small_commits(&lake, 10, 10).await;
    let mut open_all_along = lake.writer("bronze.leads").await;
    let before = rows(&lake);
    let dry = maintain(&lake, &["--dry-run"]);
    let would = report(&dry, "bronze.leads");
    assert_eq!((&would["outcome"], &would["compacted_files"]), (&json!("dry-run"), &json!(22)), "{would}");
    let done = maintain(&lake, &[]);
    let leads = report(&done, "bronze.leads");
    assert_eq!(
        (&leads["outcome"], &leads["files_before"], &leads["files_after"]),
        (&json!("done"), &json!(22), &json!(1))
    );
    assert_eq!(
        (&would["files_after"], &would["partitions"][0]["partition"]),
        (&json!(1), &json!("_enqueued_date=2026-01-02"))
    );
    assert_eq!(rows(&lake), before);
    assert!(is_complete(&lake));

    let version = leads["version"].as_u64().expect("a version");
    let entry = folder(&lake, "bronze.leads").join(format!("_delta_log/{version:020}.json"));
    let entry = std::fs::read_to_string(entry).expect("the commit is there");
    assert!(!entry.contains("\"dataChange\":true") && entry.contains("\"dataChange\":false"), "{entry}");
    assert!(entry.contains("\"maintenance\":true") && entry.contains("\"operation\":\"OPTIMIZE\""), "{entry}");
    let add = entry.lines().find(|line| line.contains("\"add\"")).expect("a file is added");
    let add: Value = serde_json::from_str(add).expect("JSON");
    let stats: Value = serde_json::from_str(add["add"]["stats"].as_str().expect("statistics")).expect("JSON");
    assert_eq!((&stats["numRecords"], &stats["maxValues"]["_sequence_number"]), (&json!(33), &json!(19)), "{stats}");

    let status = lake.sluice(&["status", "--format", "json"]).json();
    let last = &status["pipelines"][0]["maintenance"];
    assert_eq!((&last["outcome"], &last["files"]), (&json!("done"), &json!(1)), "{status}");
    let words = lake.sluice(&["status"]).stdout;
    assert!(words.contains("  maintained: done at "), "{words}");

    // Its base lies before the compaction.
    open_all_along.flush(&[staged("0", 20..22, &[])]).await.expect("the flush lands behind it");
    assert!(is_complete(&lake));
    assert_eq!(rows(&lake).as_array().map(Vec::len), before.as_array().map(|rows| rows.len() + 2));
    assert_eq!(report(&maintain(&lake, &[]), "bronze.leads")["compacted_files"], 0, "two files are too few");
}

#[tokio::test]
async fn what_is_done_is_told_in_words() {
    let lake = Lakehouse::with_leads().await;
    tune(&lake, "checkpoint_every = 5\nlog_retention = \"7days\"");
    let mut said = vec![lake.sluice(&["-q", "maintain", "--dry-run"])];
    small_commits(&lake, 10, 5).await;
    said.push(lake.sluice(&["-q", "maintain"]));
    streams(&lake, 2).await;
    std::fs::write(folder(&lake, "bronze.leads").join("orphan.parquet"), "torn").expect("a file is written");
    age(&lake, "bronze.leads", 30);
    said.push(lake.sluice(&["-q", "maintain", "bronze.leads", "--dry-run"]));
    said.push(lake.sluice(&["-q", "maintain", "bronze.leads"]));
    let said: Vec<String> = said.into_iter().map(|said| said.stdout + &said.stderr).collect();
    let mut settings = insta::Settings::clone_current();
    settings.add_filter(r"\d+(\.\d+)? (B|KiB|MiB)\b", "<size>");
    settings.add_filter(r"in \d+\.\d s", "in <time>");
    settings.add_filter(r"part-00000-[0-9a-f-]+", "part-00000-<id>");
    settings.bind(|| insta::assert_snapshot!(said.join("\n")));
}

#[tokio::test]
async fn rows_of_a_compacted_file_lie_in_the_order_of_their_numbers() {
    let lake = Lakehouse::with_leads().await;
    small_commits(&lake, 10, 10).await;
    maintain(&lake, &["bronze.leads"]);
    let said =
        lake.sluice(&["query", "--format", "json", "SELECT _partition AS p, _sequence_number AS n FROM bronze.leads"]);
    let keys: Vec<(String, i64)> = said
        .json()
        .as_array()
        .expect("rows")
        .iter()
        .map(|row| (row["p"].as_str().expect("a partition").to_owned(), row["n"].as_i64().expect("a number")))
        .collect();
    let mut sorted = keys.clone();
    sorted.sort();
    assert_eq!(keys, sorted);
}

#[tokio::test]
async fn a_kill_at_any_point_leaves_the_rows_as_they_are() {
    for point in ["compaction-staged", "compaction-committed", "checkpoint-written", "files-vacuumed", "log-cleaned"] {
        let lake = Lakehouse::with_leads().await;
        tune(&lake, "checkpoint_every = 5\nlog_retention = \"7days\"");
        small_commits(&lake, 10, 6).await;
        maintain(&lake, &[]);
        small_commits(&lake, 16, 6).await;
        let before = rows(&lake);
        age(&lake, "bronze.leads", 8);
        // The head of long ago, of which nothing is looked back on any more.
        std::fs::write(folder(&lake, "bronze.leads").join("orphan.parquet"), "torn").expect("a file is written");
        age(&lake, "bronze.leads", 8);
        let killed = lake.sluice(&["maintain", "bronze.leads", "--crash-at", point]);
        assert_eq!(killed.code, None, "{point}: it is killed: {}", killed.stderr);
        assert_eq!(rows(&lake), before, "{point}");
        assert!(is_complete(&lake), "{point}");
        let report = maintain(&lake, &["bronze.leads"]);
        assert_eq!(report[0]["outcome"], "done", "{point}");
        assert_eq!(rows(&lake), before, "{point}");
        assert!(is_complete(&lake), "{point}");
        let mut writer = lake.writer("bronze.leads").await;
        writer.flush(&[staged("0", 22..23, &[])]).await.expect("the flush lands");
        assert!(is_complete(&lake), "{point}");
    }
}

/// `[maintenance]` of the project.
fn tune(lake: &Lakehouse, keys: &str) {
    let path = lake.path().join("sluice.toml");
    let text = std::fs::read_to_string(&path).expect("the project is there");
    std::fs::write(path, format!("{text}\n[maintenance]\n{keys}\n")).expect("the project is written");
}

#[tokio::test]
async fn what_is_young_stays_and_what_is_old_and_unnamed_goes() {
    let lake = Lakehouse::with_leads().await;
    tune(&lake, "checkpoint_every = 5\nlog_retention = \"7days\"");
    small_commits(&lake, 10, 6).await;
    let before = rows(&lake);
    let done = maintain(&lake, &["bronze.leads"]);
    assert!(done[0]["checkpoint"].is_u64(), "{done}");
    assert_eq!((&done[0]["vacuumed_files"], &done[0]["log_entries_removed"]), (&json!(0), &json!(0)), "all is young");
    let held = data_files(&lake, "bronze.leads");

    // Six days later the inputs of the compaction are wanted still.
    age(&lake, "bronze.leads", 6);
    assert_eq!(maintain(&lake, &["bronze.leads"])[0]["vacuumed_files"], 0);
    age(&lake, "bronze.leads", 8);
    let dry = maintain(&lake, &["bronze.leads", "--dry-run"]);
    assert_eq!(dry[0]["vacuumed_files"], held.len() - 1, "{dry}");
    assert_eq!(data_files(&lake, "bronze.leads"), held, "a dry run deletes nothing");
    assert_eq!(dry[0]["files"].as_array().map(Vec::len), Some(held.len() - 1));
    let done = maintain(&lake, &["bronze.leads"]);
    assert_eq!(
        (&done[0]["vacuumed_files"], &done[0]["log_entries_removed"]),
        (&dry[0]["vacuumed_files"], &dry[0]["log_entries_removed"])
    );
    assert_eq!(data_files(&lake, "bronze.leads").len(), 1);
    assert!(done[0]["log_entries_removed"].as_u64() > Some(10), "{done}");
    assert!(!log_files(&lake, "bronze.leads").contains("00000000000000000000.json"));
    assert_eq!(rows(&lake), before);
    assert!(is_complete(&lake));
    let mut writer = lake.writer("bronze.leads").await;
    writer.flush(&[staged("0", 16..18, &[])]).await.expect("the flush lands");
    assert!(is_complete(&lake));
}

#[tokio::test]
async fn what_a_stream_has_not_read_stays_however_old() {
    let lake = Lakehouse::with_leads().await;
    tune(&lake, "checkpoint_every = 1\nlog_retention = \"7days\"");
    small_commits(&lake, 10, 6).await;
    streams(&lake, 8).await;
    maintain(&lake, &["bronze.leads"]);
    age(&lake, "bronze.leads", 30);
    let done = maintain(&lake, &["bronze.leads"]);
    assert_eq!(done[0]["log_kept_for"], "silver.leads", "{done}");
    let log = log_files(&lake, "bronze.leads");
    assert!(log.contains("00000000000000000008.json") && !log.contains("00000000000000000007.json"), "{log:?}");
    // Whatever the commits after it have added can be read.
    for name in log.iter().filter(|name| name.ends_with(".json") && name.as_str() > "00000000000000000008.json") {
        let entry =
            std::fs::read_to_string(folder(&lake, "bronze.leads").join("_delta_log").join(name)).expect("an entry");
        for line in entry.lines().filter(|line| line.starts_with("{\"add\"")) {
            let add: Value = serde_json::from_str(line).expect("JSON");
            let path = add["add"]["path"].as_str().expect("a path");
            assert!(folder(&lake, "bronze.leads").join(path).exists(), "{name} names {path}, which is gone");
        }
    }
    assert!(done[0]["vacuumed_files"].as_u64() > Some(0), "what it has read goes: {done}");
    // Once it has read on, the rest goes.
    let head = done[0]["version"].as_u64().expect("a version");
    streams(&lake, head).await;
    let done = maintain(&lake, &["bronze.leads"]);
    assert!(done[0]["vacuumed_files"].as_u64() > Some(0), "{done}");
    assert_eq!(data_files(&lake, "bronze.leads").len(), 1);
    assert!(!log_files(&lake, "bronze.leads").contains("00000000000000000008.json"));
    assert!(is_complete(&lake));
}

#[tokio::test]
async fn where_it_is_not_known_what_a_table_streams_nothing_goes() {
    let lake = Lakehouse::with_leads().await;
    tune(&lake, "checkpoint_every = 1\nlog_retention = \"7days\"");
    small_commits(&lake, 10, 6).await;
    let torn = folder(&lake, "silver.torn").join("_delta_log");
    std::fs::create_dir_all(&torn).expect("a folder");
    std::fs::write(torn.join("00000000000000000000.json"), "{\"protocol\": {\"minRea").expect("an entry");
    let log = log_files(&lake, "bronze.leads");
    maintain(&lake, &["bronze.leads"]);
    age(&lake, "bronze.leads", 30);
    let done = maintain(&lake, &["bronze.leads"]);
    assert_eq!((&done[0]["log_kept_for"], &done[0]["vacuumed_files"]), (&json!("silver.torn"), &json!(0)), "{done}");
    assert_eq!(done[0]["files_after"], 1, "small files become one all the same: {done}");
    assert!(log_files(&lake, "bronze.leads").is_superset(&log));
    std::fs::remove_dir_all(folder(&lake, "silver.torn")).expect("it goes");
    let done = maintain(&lake, &["bronze.leads"]);
    assert!(done[0]["vacuumed_files"].as_u64() > Some(0), "{done}");
}

#[tokio::test]
async fn a_file_whose_rows_are_not_what_its_log_says_is_left_alone() {
    let lake = Lakehouse::with_leads().await;
    small_commits(&lake, 10, 6).await;
    let entry = folder(&lake, "bronze.leads").join("_delta_log/00000000000000000006.json");
    let text = std::fs::read_to_string(&entry).expect("the commit is there");
    let lie = text.replace("\\\"numRecords\\\":1", "\\\"numRecords\\\":2");
    assert_ne!(lie, text);
    std::fs::write(&entry, lie).expect("it is written");
    let before = rows(&lake);
    let said = lake.sluice(&["maintain", "bronze.leads", "--format", "json"]);
    assert_eq!(said.code, Some(3), "{}{}", said.stdout, said.stderr);
    let report = &said.json()["tables"][0];
    assert!(report["error"].as_str().is_some_and(|error| error.contains("rows were read")), "{report}");
    assert_eq!(report["compacted_files"], 0);
    assert_eq!(rows(&lake), before);
    assert_eq!(data_files(&lake, "bronze.leads").len(), 14, "what it wrote is gone again");
}

/// By the system's own word: a process that may write no more than so much to a file.
#[tokio::test]
async fn a_store_that_refuses_the_end_of_a_file_is_an_error_and_changes_nothing() {
    let lake = Lakehouse::with_leads().await;
    small_commits(&lake, 10, 6).await;
    let (before, held) = (rows(&lake), data_files(&lake, "bronze.leads"));
    let plain = lake.command(&["maintain", "bronze.leads", "--format", "json"]);
    let mut bounded = std::process::Command::new("bash");
    bounded
        .args(["-c", "trap '' XFSZ; ulimit -f 4; exec \"$0\" \"$@\""])
        .arg(plain.get_program())
        .args(plain.get_args());
    bounded.current_dir(plain.get_current_dir().expect("the project's folder"));
    bounded.envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let said = bounded.output().expect("sluice runs");
    let words = String::from_utf8_lossy(&said.stderr);
    assert_eq!(said.status.code(), Some(3), "{words}");
    let told: Value = serde_json::from_slice(&said.stdout).expect("a report");
    let error = told["tables"][0]["error"].as_str().expect("an error");
    assert!(
        error.contains("files of table `bronze.leads` can't be written") && error.contains("can't be stored"),
        "{error}"
    );
    assert!(!words.contains("panicked"), "{words}");
    assert_eq!((rows(&lake), data_files(&lake, "bronze.leads")), (before, held));
    assert_eq!(maintain(&lake, &["bronze.leads"])[0]["compacted_files"], 14);
}

#[tokio::test]
async fn one_process_at_a_time_maintains_a_table() {
    let lake = Lakehouse::with_leads().await;
    small_commits(&lake, 10, 6).await;
    let state = lake.location().join("_sluice");
    let Taken::Ours(leader) = Leader::take(&state, "bronze.leads").await.expect("the state can be used") else {
        panic!("nobody else leads");
    };
    assert_eq!(maintain(&lake, &["bronze.leads"])[0]["outcome"], "elsewhere");
    leader.release().await;
    assert_eq!(maintain(&lake, &["bronze.leads"])[0]["outcome"], "done");
}

#[tokio::test]
async fn what_is_declared_for_a_table_holds_for_it_and_its_dead_letters() {
    let lake = Lakehouse::with_leads().await;
    small_commits(&lake, 10, 6).await;
    let path = lake.path().join("pipelines/leads.toml");
    let text = std::fs::read_to_string(&path).expect("the pipeline is there");
    std::fs::write(path, format!("{text}maintenance = {{ compact = false }}\n")).expect("it is written");
    let done = maintain(&lake, &[]);
    assert_eq!(report(&done, "bronze.leads")["compacted_files"], 0);
    assert_eq!(report(&done, "bronze.leads__dead_letters")["outcome"], "done");
}

#[tokio::test]
async fn tables_of_others_are_maintained_only_by_their_name() {
    let lake = Lakehouse::with_leads().await;
    streams(&lake, 1).await;
    let done = maintain(&lake, &[]);
    let names: Vec<_> = done.as_array().expect("tables").iter().map(|table| table["table"].clone()).collect();
    assert_eq!(names, ["bronze.leads", "bronze.leads__dead_letters"]);
    assert_eq!(maintain(&lake, &["silver.leads"])[0]["outcome"], "done");
    let said = lake.sluice(&["maintain", "silver.nope"]);
    assert_eq!(said.code, Some(1), "{}", said.stderr);
}
