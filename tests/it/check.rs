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
