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
        ("wide list", format!("SELECT leadId{reads} WHERE score IN ({}1)", many("1,", 100_000))),
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
