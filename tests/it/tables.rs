//! What a process keeps of the tables' logs is what it would read of them anew.

use std::fs;

use arrow::array::{Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema};
use deltalake::protocol::SaveMode;
use serde_json::json;
use sluicebox::catalog::commit_log::CommitLog;
use sluicebox::catalog::log::{log_store, read_head, write_checkpoint};
use sluicebox::catalog::rewrite::{Change, Kind};
use sluicebox::catalog::state::active_files;
use sluicebox::catalog::table_location;
use sluicebox::catalog::tables::Tables;
use sluicebox::config::spec::TableName;
use sluicebox::storage::Location;
use sluicebox::transform::run::output::{Output, write};

struct Lake {
    folder: tempfile::TempDir,
    location: Location,
    name: TableName,
}

fn schema() -> Schema {
    Schema::new(vec![Field::new("id", DataType::Int64, true)])
}

impl Lake {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let location = Location::resolve(folder.path().to_str().expect("text"), None).expect("a folder");
        Self { folder, location, name: "silver.leads".parse().expect("a name") }
    }

    fn log(&self) -> std::path::PathBuf {
        self.folder.path().join("silver/leads/_delta_log")
    }

    async fn output(&self) -> Output {
        let tables = Tables::new(&self.location);
        Output::open_or_create(&tables, &self.name, &schema(), &[], Vec::new()).await.expect("a table")
    }

    /// A commit that adds a file, and takes out all others where that is said.
    async fn put(&self, number: i64, kind: Kind) {
        let mut output = self.output().await;
        let mut writer = output.writer();
        let rows =
            RecordBatch::try_new(output.schema.clone(), vec![std::sync::Arc::new(Int64Array::from(vec![number]))]);
        writer.write(&rows.expect("a row")).await.expect("encoded");
        let removes = match kind {
            Kind::Append => Vec::new(),
            _ => output.files().await.expect("listed").iter().map(|file| file.remove(true)).collect(),
        };
        let change = Change {
            kind,
            adds: writer.close().await.expect("stored"),
            removes,
            transactions: vec![(format!("app-{}", number % 3), number)],
            metadata: None,
            changes: Vec::new(),
            protocol: None,
            operation: write(SaveMode::Append),
            note: json!({}),
        };
        output.put(change).await.expect("a log").expect("nobody else writes");
    }

    /// Holds what `tables` knows against the log.
    async fn check(&self, tables: &Tables, when: &str) {
        let store = log_store(&table_location(&self.location, &self.name)).expect("a store");
        let log = CommitLog::new(store, self.name.to_string());
        let known = tables.at_head(&self.name).await.expect("it can be read").map(|table| table.head);
        let head = read_head(log.store()).await.expect("it can be read");
        let shown = |head: &Option<sluicebox::catalog::log::TableHead>| {
            head.as_ref().map(|head| {
                let mut transactions: Vec<_> = head.transactions.clone().into_iter().collect();
                transactions.sort();
                (head.version, head.metadata.clone(), format!("{:?}", head.protocol), transactions)
            })
        };
        assert_eq!(shown(&known), shown(&head), "{when}");
        let Some(head) = head else { return };
        let files = tables.files(&self.name, &log, head.version).await.expect("listed");
        let paths = |files: &[sluicebox::catalog::state::ActiveFile]| {
            files.iter().map(|file| (file.path.clone(), file.size, file.modified_at)).collect::<Vec<_>>()
        };
        let listed = active_files(&log, head.version).await.expect("listed");
        assert_eq!(paths(&files), paths(&listed), "{when}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_kept_of_a_table_is_what_its_log_says() {
    let lake = Lake::new();
    let tables = Tables::new(&lake.location);
    lake.check(&tables, "before it is made").await;
    lake.output().await;
    lake.check(&tables, "made").await;
    for number in 0..4 {
        lake.put(number, Kind::Append).await;
        lake.check(&tables, "a commit").await;
    }
    for number in 4..7 {
        lake.put(number, Kind::Append).await;
    }
    lake.check(&tables, "three commits").await;
    lake.put(7, Kind::Rewrite).await;
    lake.check(&tables, "files taken out").await;
    let wider =
        Schema::new([schema().fields().to_vec(), vec![Field::new("more", DataType::Utf8, true).into()]].concat());
    lake.output().await.follow(&wider, None, &[("k".to_owned(), "v".to_owned())], &json!({})).await.expect("wider");
    lake.check(&tables, "other columns").await;
    for number in 8..80 {
        let mut output = lake.output().await;
        let change = Change {
            kind: Kind::Append,
            adds: Vec::new(),
            removes: Vec::new(),
            transactions: vec![("app-1".to_owned(), number)],
            metadata: None,
            changes: Vec::new(),
            protocol: None,
            operation: write(SaveMode::Append),
            note: json!({}),
        };
        output.put(change).await.expect("a log").expect("nobody else writes");
    }
    lake.check(&tables, "more commits than are followed").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_was_made_anew_or_whose_log_was_cleaned_is_read_anew() {
    let lake = Lake::new();
    let tables = Tables::new(&lake.location);
    for number in 0..3 {
        lake.put(number, Kind::Append).await;
    }
    lake.check(&tables, "three commits").await;
    // Another table, which is longer than what is known of the first.
    fs::remove_dir_all(lake.folder.path().join("silver")).expect("it is there");
    for number in 10..15 {
        lake.put(number, Kind::Append).await;
    }
    lake.check(&tables, "made anew").await;
    lake.put(15, Kind::Append).await;
    let head = lake.output().await.head.version;
    let store = log_store(&table_location(&lake.location, &lake.name)).expect("a store");
    write_checkpoint(&store, head).await.expect("a checkpoint");
    for version in 0..head {
        fs::remove_file(lake.log().join(format!("{version:020}.json"))).expect("it is there");
    }
    lake.check(&tables, "cleaned").await;
    fs::remove_file(lake.log().join(format!("{head:020}.json"))).expect("it is there");
    lake.check(&tables, "all but the checkpoint").await;
    fs::remove_dir_all(lake.folder.path().join("silver")).expect("it is there");
    assert!(tables.at_head(&lake.name).await.expect("it can be read").is_none(), "gone");
}
