//! Declarations: every mistake is found in one run, at its bytes; what is well becomes its spec.
//!
//! A folder dropped into `tests/data/config/bad` or `good` is a test. Beside the project's files
//! it may hold `variables` (`NAME=value` lines) and `env` (the name for `--env`).

use std::collections::BTreeMap;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use proptest::prelude::*;
use sluicebox::cli::problems::render;
use sluicebox::config::spec::ProjectSpec;
use sluicebox::config::{self, ConfigErrors, LoadOptions, reference, schema};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn cases(kind: &str) -> Vec<PathBuf> {
    let folder = root().join("tests/data/config").join(kind);
    let entries = fs::read_dir(&folder).expect("the folder of cases is there");
    let mut cases: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry can be read").path()).collect();
    cases.retain(|path| path.is_dir());
    cases.sort();
    cases
}

fn load(case: &Path) -> Result<ProjectSpec, ConfigErrors> {
    let text = |name: &str| fs::read_to_string(case.join(name)).ok();
    let variables: BTreeMap<String, String> = text("variables")
        .unwrap_or_default()
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let env = text("env").map(|env| env.trim().to_owned());
    let options = LoadOptions { project: Some(case.to_owned()), env };
    config::load_with(&options, &|name| variables.get(name).cloned())
}

/// Compares with the snapshot in the case's own folder; paths of this machine are taken out.
fn snapshot(case: &Path, name: &str, text: &str) -> bool {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(case);
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    let text = text.replace(&case.to_string_lossy().into_owned(), "<project>");
    catch_unwind(AssertUnwindSafe(|| settings.bind(|| insta::assert_snapshot!(name, text)))).is_ok()
}

#[test]
fn every_bad_project_is_told_all_of_its_problems() {
    let cases = cases("bad");
    assert!(cases.len() > 20, "the cases are found");
    let wrong: Vec<_> = cases
        .iter()
        .filter(|case| {
            let errors = load(case).expect_err(&case.to_string_lossy());
            !snapshot(case, "problems", &render(&errors, false))
        })
        .collect();
    assert!(wrong.is_empty(), "other problems than in the snapshots of {wrong:#?}");
}

#[test]
fn every_good_project_becomes_its_spec() {
    let cases = cases("good");
    assert!(!cases.is_empty(), "the cases are found");
    let wrong: Vec<_> = cases
        .iter()
        .filter(|case| match load(case) {
            Ok(project) => !snapshot(case, "spec", &format!("{project:#?}")),
            Err(errors) => panic!("{}\n{}", case.display(), render(&errors, false)),
        })
        .collect();
    assert!(wrong.is_empty(), "another spec than in the snapshots of {wrong:#?}");
}

#[test]
fn no_report_shows_a_secret() {
    for case in cases("bad") {
        let errors = load(&case).expect_err("the project is bad");
        for text in [render(&errors, true), format!("{errors:?}"), errors.to_string()] {
            assert!(!text.contains("c2VjcmV0"), "{}: {text}", case.display());
        }
    }
    for case in cases("good") {
        let project = load(&case).expect("the project is good");
        assert!(!format!("{project:?}").contains("c2VjcmV0"), "{}", case.display());
    }
}

#[test]
fn a_report_has_no_characters_that_move_the_cursor() {
    for case in cases("bad") {
        let text = render(&load(&case).expect_err("the project is bad"), false);
        let moves = text.chars().find(|c| c.is_control() && *c != '\n');
        assert_eq!(moves, None, "{}", case.display());
    }
}

/// A project with one pipeline file of these bytes.
fn project_with(pipeline: &[u8]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let project = "[project]\nname = \"insurer\"\nteams = [\"conversions\"]\n[lake]\nurl = \"lake\"\n";
    fs::write(dir.path().join("sluice.toml"), project).expect("the project is written");
    fs::create_dir(dir.path().join("pipelines")).expect("the folder is made");
    fs::write(dir.path().join("pipelines/leads.toml"), pipeline).expect("the pipeline is written");
    dir
}

fn problems_of(pipeline: &[u8]) -> String {
    let dir = project_with(pipeline);
    let options = LoadOptions { project: Some(dir.path().to_owned()), env: None };
    let errors = config::load_with(&options, &|_| None).expect_err("such a pipeline is bad");
    render(&errors, false)
}

#[test]
fn a_huge_file_is_refused_by_its_size() {
    let text = problems_of(&vec![b'#'; 3 * 1024 * 1024]);
    assert!(text.contains("pipelines/leads.toml:1:1"), "{text}");
    assert!(text.contains("more than 1048576"), "{text}");
}

#[test]
fn a_large_file_of_suspects_is_read_in_time() {
    let text = problems_of("key=".repeat(250_000).as_bytes());
    assert!(text.contains("not TOML"), "{text}");
}

#[test]
fn a_huge_line_is_not_shown() {
    let text = problems_of(format!("[pipeline]\nname = \"{}\"\n", "x".repeat(500_000)).as_bytes());
    assert!(text.len() < 10_000, "{} bytes", text.len());
    let text = problems_of(format!("{} = 1\n", "x".repeat(500_000)).as_bytes());
    assert!(text.len() < 10_000, "{} bytes", text.len());
}

#[test]
fn deep_nesting_is_refused_without_a_panic() {
    for (open, close) in [("[", "]"), ("{ a = ", " }")] {
        let text = problems_of(format!("x = {}1{}", open.repeat(100_000), close.repeat(100_000)).as_bytes());
        assert!(text.contains("not TOML"), "{text}");
    }
    let text = problems_of(format!("[{}b]\n", "a.".repeat(10_000)).as_bytes());
    assert!(text.contains("problem"), "{text}");
}

#[test]
fn many_problems_of_syntax_are_counted_not_listed() {
    let text = problems_of("= = =\n".repeat(10_000).as_bytes());
    assert!(text.contains("more such places"), "{text}");
    assert!(text.lines().count() < 200, "{text}");
}

/// Bytes that look like a declaration more often than chance would have it.
fn declaration_bytes() -> impl Strategy<Value = Vec<u8>> {
    let pieces = prop_oneof![
        Just(b"[source.event_hubs]\n".to_vec()),
        Just(b"[[transform]]\n".to_vec()),
        Just(b"[sink]\ntable = ".to_vec()),
        Just(b"hub = \"${".to_vec()),
        Just(b"start = { sequence_number = ".to_vec()),
        Just(b"account_key = \"".to_vec()),
        Just(b"\"\"\"".to_vec()),
        Just("ä€😀\u{202e}".as_bytes().to_vec()),
        Just(b"\r\n".to_vec()),
        Just(b"2026-01-01T00:00:00Z".to_vec()),
        prop::collection::vec(any::<u8>(), 0..6),
        "[ -~\n]{0,12}".prop_map(String::into_bytes),
    ];
    prop::collection::vec(pieces, 0..12).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn any_bytes_give_problems_not_a_panic(bytes in declaration_bytes()) {
        let text = problems_of(&bytes);
        prop_assert!(text.contains("problem"));

        let dir = tempfile::tempdir().expect("a temporary folder");
        fs::write(dir.path().join("sluice.toml"), &bytes).expect("the project is written");
        let options = LoadOptions { project: Some(dir.path().to_owned()), env: None };
        let errors = config::load_with(&options, &|_| None).expect_err("such a project is bad");
        prop_assert!(render(&errors, true).contains("problem"));
    }
}

/// Writes what the code makes where `WRITE_DOCS` is set, else compares.
fn is_current(path: &str, made: &str) {
    let file = root().join(path);
    if std::env::var_os("WRITE_DOCS").is_some() {
        fs::write(&file, made).expect("the file is written");
    }
    let held = fs::read_to_string(&file).unwrap_or_default();
    assert!(held == made, "`{path}` isn't current: run `WRITE_DOCS=1 cargo test --test it is_made_from_the_code`");
}

#[test]
fn the_reference_is_made_from_the_code() {
    is_current("docs/configuration.md", &reference::markdown());
}

#[test]
fn the_project_schema_is_made_from_the_code() {
    is_current("docs/schema/project.json", &schema::project_json());
}

#[test]
fn the_pipeline_schema_is_made_from_the_code() {
    is_current("docs/schema/pipeline.json", &schema::pipeline_json());
}

#[test]
fn the_schema_of_tests_is_made_from_the_code() {
    is_current("docs/schema/test.json", &schema::test_json());
}

fn sluice(dir: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sluice")).current_dir(dir).args(args).output().expect("sluice runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("sluice writes UTF-8")
}

#[test]
fn check_says_every_problem_on_stderr_and_exits_with_1() {
    let case = root().join("tests/data/config/bad/twins");
    let output = sluice(&case, &["check"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(text(&output.stdout), "");
    let words = text(&output.stderr);
    assert!(words.contains("two pipelines are named `leads`") && words.contains("3 problems"), "{words}");
}

#[test]
fn a_report_is_coloured_only_where_that_was_asked_for() {
    let case = root().join("tests/data/config/bad/twins");
    assert!(text(&sluice(&case, &["check", "--color", "always"]).stderr).contains('\u{1b}'));
    for when in ["never", "auto"] {
        assert!(!text(&sluice(&case, &["check", "--color", when]).stderr).contains('\u{1b}'), "{when}");
    }
}

#[test]
fn check_finds_the_project_from_a_folder_within() {
    let case = root().join("tests/data/config/good/overlay");
    let output = sluice(&case.join("pipelines"), &["check", "--env", "prod"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("project `insurer`"), "{}", text(&output.stdout));
}

#[test]
fn check_writes_the_shape_that_scripts_read() {
    let bad = sluice(root(), &["check", "--format", "json", "--project", "tests/data/config/bad/access_neither"]);
    assert_eq!(bad.status.code(), Some(1));
    assert_eq!(text(&bad.stderr), "");
    let shape: serde_json::Value = serde_json::from_slice(&bad.stdout).expect("one JSON value");
    assert_eq!(
        shape,
        serde_json::json!({
            "ok": false,
            "problems": [{
                "file": "sluice.toml",
                "line": 8,
                "column": 2,
                "message": "neither `connection_string` nor `namespace` is set",
                "hint": "set exactly one: `connection_string`, or `namespace` with an Entra sign-in",
            }],
            "notes": [],
        })
    );
    let good =
        sluice(root(), &["check", "--format", "json", "--project", "tests/data/config/good/overlay", "--env", "prod"]);
    assert_eq!(good.status.code(), Some(0));
    assert_eq!(text(&good.stdout), "{\"ok\":true,\"problems\":[],\"notes\":[]}\n");
}

#[test]
fn check_outside_a_project_says_where_it_looked() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let output = sluice(dir.path(), &["check"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("there is no `sluice.toml`"), "{}", text(&output.stderr));
}

#[test]
fn check_prints_the_schemas() {
    for (file, expected) in [("project", schema::project_json()), ("pipeline", schema::pipeline_json())] {
        let output = sluice(root(), &["check", "--json-schema", file]);
        assert_eq!(output.status.code(), Some(0));
        assert_eq!(text(&output.stdout).trim_end(), expected.trim_end());
    }
}

#[test]
fn a_wrong_command_line_exits_with_2_and_help_with_0() {
    assert_eq!(sluice(root(), &["chekc"]).status.code(), Some(2));
    assert_eq!(sluice(root(), &["check", "--format", "xml"]).status.code(), Some(2));
    assert_eq!(sluice(root(), &[]).status.code(), Some(2));
    assert_eq!(sluice(root(), &["--help"]).status.code(), Some(0));
    assert_eq!(sluice(root(), &["--version"]).status.code(), Some(0));
}
