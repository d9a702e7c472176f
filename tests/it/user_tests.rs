//! `sluice test`: users' tests of their transforms, through the binary.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use insta::assert_snapshot;
use serde_json::Value;

fn project(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/user_tests").join(name)
}

fn sluice(project: &Path, args: &[&str]) -> Output {
    let out = Command::new(env!("CARGO_BIN_EXE_sluice")).args(args).arg("--project").arg(project).output();
    out.expect("sluice starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Without what differs from run to run.
fn steady(text: &str) -> String {
    let seconds = regex::Regex::new(r"\d+\.\d+ s of work").expect("a regex");
    seconds.replace_all(text, "… s of work").into_owned()
}

#[test]
fn tests_pass_in_every_way_in_which_rows_are_parted() {
    let out = sluice(&project("good"), &["test"]);
    let said = text(&out.stderr);
    assert_eq!(out.status.code(), Some(0), "{}\n{said}", text(&out.stdout));
    assert_snapshot!(steady(&text(&out.stdout)));
    assert_eq!(said, "");
}

#[test]
fn a_dozen_tests_leave_nothing_behind() {
    let temporary = tempfile::tempdir().expect("a folder");
    let out = Command::new(env!("CARGO_BIN_EXE_sluice"))
        .args(["test", "--format", "json", "--project"])
        .arg(project("good"))
        .env("TMPDIR", temporary.path())
        .output()
        .expect("sluice starts");
    let tested: Value = serde_json::from_slice(&out.stdout).expect("JSON");
    assert_eq!(tested["failed"], 0, "{tested:#}");
    assert!(tested["passed"].as_u64().expect("a number") >= 9, "{tested:#}");
    let left: Vec<_> = fs::read_dir(temporary.path()).expect("the folder is there").collect();
    assert!(left.is_empty(), "{left:?}");
    assert!(!project("good").join("lake").exists(), "the project's own lake isn't touched");
}

#[test]
fn what_is_not_as_expected_is_shown_row_by_row() {
    let out = sluice(&project("failing"), &["test"]);
    assert_eq!(out.status.code(), Some(1), "{}", text(&out.stderr));
    assert_snapshot!(steady(&text(&out.stdout)));
    let out = sluice(&project("failing"), &["test", "--format", "json"]);
    assert_eq!(out.status.code(), Some(1));
    let mut tested: Value = serde_json::from_slice(&out.stdout).expect("JSON");
    for test in tested["tests"].as_array_mut().expect("an array") {
        test["seconds"] = 0.into();
    }
    assert_snapshot!(serde_json::to_string_pretty(&tested).expect("it was JSON"));
}

#[test]
fn tests_are_chosen_by_name_or_file() {
    let out = sluice(&project("failing"), &["test", "is well"]);
    assert_eq!(out.status.code(), Some(0), "{}", text(&out.stdout));
    assert!(text(&out.stdout).contains("1 passed, 0 failed"), "{}", text(&out.stdout));
    let out = sluice(&project("failing"), &["test", "leads.toml"]);
    assert!(text(&out.stdout).contains("1 passed, 2 failed"), "{}", text(&out.stdout));
    let out = sluice(&project("failing"), &["test", "nothing of that name"]);
    assert_eq!(out.status.code(), Some(1));
    assert!(text(&out.stderr).contains("none of the 3 tests"), "{}", text(&out.stderr));
}

#[test]
fn mistakes_in_tests_are_told_at_their_bytes_before_any_runs() {
    for name in ["bad", "shapes"] {
        let out = sluice(&project(name), &["test"]);
        assert_eq!(out.status.code(), Some(1), "{}", text(&out.stdout));
        assert_eq!(text(&out.stdout), "");
        assert_snapshot!(name, text(&out.stderr));
    }
}

#[test]
fn a_project_without_tests_says_so() {
    let dir = tempfile::tempdir().expect("a folder");
    fs::write(dir.path().join("sluice.toml"), "[project]\nname = \"p\"\nteams = [\"t\"]\n[lake]\nurl = \"lake\"\n")
        .expect("the project is written");
    let out = sluice(dir.path(), &["test"]);
    assert_eq!(out.status.code(), Some(0), "{}", text(&out.stderr));
    assert!(text(&out.stderr).contains("there are no tests"), "{}", text(&out.stderr));
}

#[test]
fn a_project_within_a_project_has_tests_of_its_own() {
    let dir = tempfile::tempdir().expect("a folder");
    let project = "[project]\nname = \"p\"\nteams = [\"t\"]\n[lake]\nurl = \"lake\"\n";
    for folder in ["", "tests/fixture"] {
        let folder = dir.path().join(folder);
        fs::create_dir_all(folder.join("tests")).expect("the folder is made");
        fs::write(folder.join("sluice.toml"), project).expect("the project is written");
    }
    fs::write(dir.path().join("tests/fixture/tests/broken.toml"), "= 1").expect("a test is written");
    let out = sluice(dir.path(), &["test"]);
    assert_eq!(out.status.code(), Some(0), "{}", text(&out.stderr));
    let out = sluice(&dir.path().join("tests/fixture"), &["test"]);
    assert_eq!(out.status.code(), Some(1), "{}", text(&out.stderr));
}
