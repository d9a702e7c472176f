//! Transforms are checked with no network and no data: every mistake is told at its place.
//!
//! A project dropped into `tests/data/check` is a test.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use sluicebox::cli::problems::render;
use sluicebox::config::{self, ConfigErrors, LoadOptions};
use sluicebox::pipeline::check::{Checked, check};

fn cases() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/check");
    let entries = fs::read_dir(&folder).expect("the folder of cases is there");
    let mut cases: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry can be read").path()).collect();
    cases.retain(|path| path.is_dir());
    cases.sort();
    cases
}

async fn checked(dir: &Path) -> Checked {
    let options = LoadOptions { project: Some(dir.to_owned()), env: None };
    let project = config::load_with(&options, &|_| None);
    let project = project.unwrap_or_else(|errors| panic!("{}\n{}", dir.display(), render(&errors, false)));
    check(&project).await.expect("a project without a lake can be checked")
}

/// What a user sees of it.
fn shown(dir: &Path, checked: Checked) -> String {
    let mut text = String::new();
    for note in &checked.notes {
        let place = note.place.as_ref().map(ToString::to_string).unwrap_or_default();
        text.push_str(&format!("note: {place}: {} ({})\n", note.message, note.hint.as_deref().unwrap_or_default()));
    }
    for (table, output) in &checked.outputs {
        let columns: Vec<String> =
            output.schema.fields().iter().map(|field| format!("{} {}", field.name(), field.data_type())).collect();
        text.push_str(&format!("{table}: {}\n", columns.join(", ")));
    }
    if !checked.problems.is_empty() {
        text.push_str(&render(&ConfigErrors { dir: None, problems: checked.problems }, false));
    }
    text.replace(&dir.to_string_lossy().into_owned(), "<project>")
}

#[tokio::test]
async fn every_mistake_of_a_transform_is_told_at_its_place() {
    let cases = cases();
    assert!(cases.len() >= 5, "the cases are found");
    let mut wrong = Vec::new();
    for case in &cases {
        let text = shown(case, checked(case).await);
        for leak in ["__stream", "lake.public", "likely a bug"] {
            assert!(!text.contains(leak) || case.ends_with("refused"), "{}: {leak} in {text}", case.display());
        }
        let mut settings = insta::Settings::clone_current();
        settings.set_snapshot_path(case);
        settings.set_prepend_module_to_snapshot(false);
        settings.set_omit_expression(true);
        let same = catch_unwind(AssertUnwindSafe(|| settings.bind(|| insta::assert_snapshot!("checked", text))));
        if same.is_err() {
            wrong.push(case);
        }
    }
    assert!(wrong.is_empty(), "other problems than in the snapshots of {wrong:#?}");
}

/// SQL that means no good: too deep, too long, or no text at all.
fn hostile() -> Vec<(&'static str, String)> {
    let reads = " FROM STREAM(bronze.leads)";
    let many = |part: &str, count: usize| part.repeat(count);
    vec![
        ("parentheses", format!("SELECT {}1{}{reads}", many("(", 100_000), many(")", 100_000))),
        ("open parentheses", format!("SELECT {}", many("(", 200_000))),
        ("functions", format!("SELECT {}leadId{}{reads}", many("upper(", 20_000), many(")", 20_000))),
        ("sum", format!("SELECT 1{}{reads}", many("+1", 100_000))),
        ("conditions", format!("SELECT leadId{reads} WHERE {} TRUE", many("score > 1 AND ", 15_000))),
        ("minus", format!("SELECT {}1{reads}", many("- ", 100_000))),
        ("not", format!("SELECT {}TRUE{reads}", many("NOT ", 50_000))),
        ("unions", many("SELECT leadId FROM bronze.leads UNION ALL ", 5_000) + "SELECT 1"),
        ("joins", format!("SELECT 1{reads} {}", many("CROSS JOIN bronze.leads ", 9_000))),
        ("subqueries", format!("SELECT * FROM {}bronze.leads{}", many("(SELECT * FROM ", 10_000), many(")", 10_000))),
        ("cases", format!("SELECT {}1{}{reads}", many("CASE WHEN TRUE THEN ", 8_000), many(" END", 8_000))),
        ("brackets", format!("SELECT {}1{}{reads}", many("[", 100_000), many("]", 100_000))),
        ("casts", format!("SELECT 1{}{reads}", many("::INT", 50_000))),
        ("indexes", format!("SELECT tags{}{reads}", many("[1]", 60_000))),
        ("megabytes", format!("SELECT '{}'{reads}", many("x", 5_000_000))),
        ("zero byte", format!("SELECT '\0'{reads}")),
        ("control bytes", "SELECT \u{1b}[31m \u{7} FROM x".to_owned()),
        ("comments", format!("SELECT {}1{reads}", many("/*", 100_000))),
        ("not text", "\u{202e}\u{fffd}🦀'\"`$$".to_owned()),
        ("wide list", format!("SELECT leadId{reads} WHERE score IN ({}1)", many("1,", 20_000))),
    ]
}

#[tokio::test]
async fn hostile_sql_is_an_error_not_a_crash() {
    let dir = tempfile::tempdir().expect("a folder");
    for (name, text) in [
        (
            "sluice.toml",
            "[project]\nname = \"p\"\nteams = [\"t\"]\n[lake]\nurl = \"lake\"\n[event_hubs]\nnamespace = \"n.servicebus.windows.net\"\n",
        ),
        (
            "pipelines/leads.toml",
            "[pipeline]\nname = \"leads\"\nowner = \"t\"\n[source.event_hubs]\nhub = \"leads\"\n[decode]\nschema = \"lead.avsc\"\n[sink]\ntable = \"bronze.leads\"\n[[transform]]\ntable = \"silver.leads\"\nsql = \"leads.sql\"\nmode = \"append\"\n",
        ),
        (
            "lead.avsc",
            r#"{"type":"record","name":"L","fields":[{"name":"leadId","type":"string"},{"name":"score","type":"double"},{"name":"tags","type":{"type":"array","items":"string"}}]}"#,
        ),
    ] {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("the folder is made");
        fs::write(path, text).expect("the file is written");
    }
    for (name, sql) in hostile() {
        fs::write(dir.path().join("leads.sql"), &sql).expect("the SQL is written");
        let out = std::process::Command::new(env!("CARGO_BIN_EXE_sluice"))
            .args(["check", "--project"])
            .arg(dir.path())
            .output()
            .expect("sluice starts");
        let said = String::from_utf8_lossy(&out.stderr);
        assert!(matches!(out.status.code(), Some(0 | 1)), "{name}: {:?} {said:.2000}", out.status);
        assert!(said.len() < 20_000, "{name}: {} bytes are said", said.len());
        assert_eq!(out.status.code() == Some(0), name == "wide list", "{name}: {said}");
    }
}

/// As long and as deep as a query may be: it is planned, within the stack that the threads of `sluice` have.
#[test]
fn a_query_at_the_bounds_is_planned() {
    const STACK_BYTES: usize = 8 * 1024 * 1024;
    let planned = || {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(plan_at_the_bounds());
    };
    let thread = std::thread::Builder::new().stack_size(STACK_BYTES).spawn(planned).expect("a thread");
    thread.join().expect("it is planned");
}

async fn plan_at_the_bounds() {
    let parse = |sql: &str| sluicebox::transform::parse_query(sql);
    let session = sluicebox::transform::session(Default::default());
    for (name, sql, is_well) in [
        ("sum", format!("SELECT quotes{} AS x FROM bronze.leads", "+1".repeat(390)), true),
        ("conditions", format!("SELECT quotes FROM bronze.leads WHERE {} TRUE", "quotes > 1 AND ".repeat(190)), true),
        ("wrong sum", format!("SELECT nope{} AS x FROM bronze.leads", "+1".repeat(390)), false),
        ("deep", format!("SELECT {}quotes{} AS x FROM bronze.leads", "abs(".repeat(20), ")".repeat(20)), true),
        (
            "columns",
            format!(
                "SELECT {} FROM bronze.leads",
                (0..1_000).map(|n| format!("quotes + {n} AS q{n}")).collect::<Vec<_>>().join(", ")
            ),
            true,
        ),
        ("unions", "SELECT quotes FROM bronze.leads UNION ALL ".repeat(190) + "SELECT quotes FROM bronze.leads", true),
    ] {
        let parsed = parse(&sql).unwrap_or_else(|problems| panic!("{name}: {problems:?}"));
        let schema = arrow::datatypes::Schema::new(vec![arrow::datatypes::Field::new(
            "quotes",
            arrow::datatypes::DataType::Int64,
            true,
        )]);
        let table = datafusion::datasource::empty::EmptyTable::new(schema.into());
        sluicebox::transform::register(&session, &parsed.inputs[0], std::sync::Arc::new(table))
            .expect("it is registered");
        let checked = sluicebox::transform::checked(&session, &parsed).await;
        assert_eq!(checked.is_ok(), is_well, "{name}: {:.500}", format!("{:?}", checked.err()));
    }
}

/// A case of `tests/data/check`, where files may be added.
fn copied(case: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a folder");
    let mut open = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(case)];
    let root = open[0].clone();
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            let to = dir.path().join(path.strip_prefix(&root).expect("below the case"));
            if path.is_dir() {
                fs::create_dir_all(&to).expect("a folder is made");
                open.push(path);
            } else {
                fs::copy(&path, &to).expect("a file is copied");
            }
        }
    }
    dir
}

fn sluice(dir: &Path, args: &[&str]) -> (Option<i32>, String, String) {
    let out = std::process::Command::new(env!("CARGO_BIN_EXE_sluice"))
        .args(args)
        .arg("--project")
        .arg(dir)
        .output()
        .expect("sluice starts");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).replace(&dir.to_string_lossy().into_owned(), "<project>");
    (out.status.code(), text(&out.stdout), text(&out.stderr))
}

/// Makes a table of these columns, as an earlier run would have.
async fn make(dir: &Path, table: &str, columns: &[(&str, arrow::datatypes::DataType)]) {
    let fields: Vec<_> =
        columns.iter().map(|(name, kind)| arrow::datatypes::Field::new(*name, kind.clone(), true)).collect();
    let lake = dir.join("lake");
    let lake = sluicebox::storage::Location::resolve(&lake.to_string_lossy(), None).expect("a folder");
    let table = table.parse().expect("the name of a table");
    let schema = arrow::datatypes::Schema::new(fields);
    sluicebox::transform::given::give(&sluicebox::catalog::tables::Tables::new(&lake), &table, &schema, None)
        .await
        .expect("the table is made");
}

#[tokio::test]
async fn a_plan_says_what_is_made_of_what_and_what_changes() {
    use arrow::datatypes::DataType;
    let dir = copied("user_tests/good");
    let (code, said, words) = sluice(dir.path(), &["plan"]);
    assert_eq!((code, words.as_str()), (Some(0), ""), "{said}");
    insta::assert_snapshot!("plan_of_an_empty_lake", said);
    make(dir.path(), "silver.lead_events", &[("lead_id", DataType::Utf8), ("product_code", DataType::Utf8)]).await;
    let columns = [("product_code", DataType::Utf8), ("leads", DataType::Int64), ("score", DataType::Float64)];
    make(dir.path(), "gold.by_product", &columns).await;
    let (code, said, _) = sluice(dir.path(), &["plan"]);
    assert_eq!(code, Some(0), "{said}");
    insta::assert_snapshot!("plan_of_a_lake_with_tables", said);
    let (code, said, _) = sluice(dir.path(), &["plan", "--format", "json"]);
    let plan: serde_json::Value = serde_json::from_str(&said).expect("JSON");
    assert_eq!(code, Some(0));
    let table = |name: &str| plan["tables"].as_array().expect("an array").iter().find(|table| table["name"] == name);
    let events = table("silver.lead_events").expect("it is planned");
    assert_eq!(events["change"], "alter");
    assert_eq!(events["columns_added"], serde_json::json!([{"name": "first_tag", "type": "string"}]));
    assert_eq!(events["reads"], serde_json::json!([{"table": "bronze.leads", "streamed": true, "changes": false}]));
    let log = table("gold.lead_log").expect("it is planned");
    assert_eq!(log["reads"], serde_json::json!([{"table": "silver.leads", "streamed": true, "changes": true}]));
    assert_eq!(table("silver.leads").expect("it is planned")["change_feed_added"], true);
    assert_eq!(table("gold.by_product").expect("it is planned")["change"], "none");
    assert_eq!(plan["roles"][0]["role"], "Azure Event Hubs Data Receiver");
}

#[tokio::test]
async fn a_table_whose_columns_change_their_types_is_told_before_a_run() {
    use arrow::datatypes::DataType;
    let dir = copied("user_tests/good");
    let columns = [("product_code", DataType::Int64), ("leads", DataType::Int64), ("once", DataType::Utf8)];
    make(dir.path(), "gold.by_product", &columns).await;
    let (code, _, words) = sluice(dir.path(), &["check"]);
    assert_eq!(code, Some(1));
    insta::assert_snapshot!("columns_that_change", words);
}

#[test]
fn what_a_stream_does_not_see_is_noted() {
    let dir = copied("user_tests/good");
    let grouped = "SELECT productCode AS p, count(*) AS n FROM STREAM(bronze.leads) GROUP BY productCode";
    let joined =
        "SELECT a.leadId FROM STREAM(bronze.leads) a JOIN STREAM(silver.lead_events) b ON a.leadId = b.lead_id";
    let recomputed = "SELECT leadId, count(*) AS n FROM STREAM(bronze.leads) GROUP BY leadId";
    for (name, sql, mode) in [
        ("grouped", grouped, "mode = \"append\""),
        ("joined", joined, "mode = \"append\""),
        ("recomputed", recomputed, "mode = \"recompute\"\nkeys = [\"leadId\"]"),
    ] {
        fs::write(dir.path().join(format!("sql/{name}.sql")), sql).expect("the SQL is written");
        let toml = format!(
            "[[transform]]\ntable = \"silver.{name}\"\nsql = \"sql/{name}.sql\"\nowner = \"conversions\"\n{mode}\n"
        );
        fs::write(dir.path().join(format!("pipelines/{name}.toml")), toml).expect("the transform is written");
    }
    let (code, said, words) = sluice(dir.path(), &["check"]);
    assert_eq!(code, Some(0), "{words}");
    insta::assert_snapshot!("notes_of_streams", format!("{said}\n{words}"));
}

#[test]
fn unknown_columns_are_a_note_and_not_an_error() {
    let dir = copied("user_tests/good");
    let file = dir.path().join("pipelines/leads.toml");
    let toml = fs::read_to_string(&file).expect("the pipeline is there");
    fs::write(&file, toml.replace("schema = \"schemas/lead.avsc\"\n", "")).expect("the pipeline is written");
    let project = dir.path().join("sluice.toml");
    let toml = fs::read_to_string(&project).expect("the project is there");
    fs::write(&project, toml + "\n[registry.azure]\nendpoint = \"https://n.servicebus.windows.net\"\n")
        .expect("written");
    fs::remove_dir_all(dir.path().join("tests")).expect("the tests are removed");
    let (code, said, words) = sluice(dir.path(), &["check"]);
    assert_eq!(code, Some(0), "{words}");
    insta::assert_snapshot!("unknown_columns", format!("{said}\n{words}"));
    // A folder of schemas says them, and so does `columns_from`.
    let folder = fs::read_to_string(&project).expect("the project is there");
    let folder = folder.replace(
        "[registry.azure]\nendpoint = \"https://n.servicebus.windows.net\"",
        "[registry.folder]\npath = \"schemas\"",
    );
    fs::write(&project, folder).expect("written");
    let (code, _, words) = sluice(dir.path(), &["check"]);
    assert_eq!((code, words.as_str()), (Some(0), ""));
}

#[test]
fn a_dry_run_shows_plans_and_runs_nothing() {
    let dir = copied("user_tests/good");
    let (code, said, words) = sluice(dir.path(), &["transform", "--dry-run", "gold.by_product", "silver.lead_events"]);
    assert_eq!(code, Some(0), "{words}");
    assert!(!said.contains("__stream"), "{said}");
    insta::assert_snapshot!("plans_of_a_dry_run", said);
    assert!(!dir.path().join("lake").exists(), "nothing is made");
    let (code, _, words) = sluice(dir.path(), &["transform", "--dry-run", "gold.nope"]);
    assert_eq!(code, Some(1));
    assert!(words.contains("there is no transform of `gold.nope`"), "{words}");
}

#[test]
fn check_looks_at_the_tests_too() {
    let dir = copied("user_tests/bad");
    let (code, _, words) = sluice(dir.path(), &["check"]);
    assert_eq!(code, Some(1));
    assert!(words.contains("tests/a.toml"), "{words}");
    let (_, said, _) = sluice(dir.path(), &["check", "--format", "json"]);
    let checked: serde_json::Value = serde_json::from_str(&said).expect("JSON");
    assert!(checked["problems"].as_array().expect("an array").len() > 10, "{checked:#}");
    assert_eq!(checked["problems"][0]["file"], "tests/a.toml");
}
