//! `sluice test`: the project's tests of its transforms.

use std::fmt::Write as _;
use std::process::ExitCode;

use serde::Serialize;
use serde_json::Value;

use super::check::say_notes;
use super::{Exit, Format, Global};
use crate::config::{self, ConfigErrors};
use crate::error::AnyError;
use crate::pipeline;
use crate::pipeline::unit_tests::{self, Difference, Failure, ShownRow, TestReport};

/// Rows that a difference shows at most: more scroll the first ones away.
const MOST_ROWS: usize = 20;

/// A cell of a difference is cut off here.
const LONGEST_CELL_CHARS: usize = 60;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only tests whose name or file holds this text
    #[arg(value_name = "NAME")]
    name: Option<String>,
    /// `json` writes `{"tests": [{"name", "batches", "file", "line", "ok", "seconds", "failures": [{"table", "message",
    /// "columns", "expected", "actual"}]}], "passed", "failed"}`
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    format: Format,
}

/// # Errors
/// Every problem of the project's files, SQL and tests.
pub async fn run(args: Args, global: &Global) -> Result<ExitCode, AnyError> {
    let project = global.load_project()?;
    let output = global.output();
    let tests = config::load_tests(&project)?;
    if tests.is_empty() {
        output.say("there are no tests: `tests/**/*.toml` would hold them, see `docs/guide.md`");
    }
    let checked = pipeline::check::check(&project).await?;
    say_notes(&checked.notes, &output);
    let errors = |problems| ConfigErrors { dir: Some(project.dir.clone()), problems };
    if !checked.problems.is_empty() {
        return Err(errors(checked.problems).into());
    }
    let total = tests.len();
    let is_asked_for = |text: &str| args.name.as_deref().is_none_or(|name| text.contains(name));
    let chosen: Vec<_> = tests
        .into_iter()
        .filter(|test| is_asked_for(&test.name) || is_asked_for(&test.file.to_string_lossy()))
        .collect();
    if chosen.is_empty() && total > 0 {
        output.say(format!("error: none of the {total} tests has `{}` in its name", args.name.unwrap_or_default()));
        return Ok(Exit::Failed.into());
    }
    let (prepared, problems) = unit_tests::prepare(&project, &checked, &chosen).await;
    if !problems.is_empty() {
        return Err(errors(problems).into());
    }
    let reports = unit_tests::run(prepared).await?;
    let failed = reports.iter().filter(|report| !report.failures.is_empty()).count();
    match args.format {
        Format::Json => output.json(&Tested::from(reports.as_slice()))?,
        Format::Text => output.line(words(&reports))?,
    }
    Ok(if failed == 0 { Exit::Well } else { Exit::Failed }.into())
}

fn words(reports: &[TestReport]) -> String {
    let mut text = String::new();
    for report in reports {
        let verdict = if report.failures.is_empty() { "ok    " } else { "FAILED" };
        let way = match report.batches {
            config::test_spec::Batches::Given => String::new(),
            other => format!(" ({})", other.as_str()),
        };
        let _ = writeln!(text, "{verdict} {}{way}", report.name);
        if !report.failures.is_empty() {
            let _ = writeln!(text, "       at {}", report.place);
        }
        for failure in &report.failures {
            let _ = writeln!(text, "       {}: {}", failure.table, failure.message);
            if let Some(difference) = &failure.difference {
                text.push_str(&shown(difference));
            }
        }
    }
    let failed = reports.iter().filter(|report| !report.failures.is_empty()).count();
    let seconds: f64 = reports.iter().map(|report| report.took.as_secs_f64()).sum();
    let _ = write!(text, "{} passed, {failed} failed; {seconds:.2} s of work", reports.len() - failed);
    text
}

/// The rows that differ, column under column; `-` is expected, `+` is there.
fn shown(difference: &Difference) -> String {
    let mut lines: Vec<(char, Vec<String>)> = vec![(' ', difference.columns.clone())];
    for (expected, actual) in difference.pairs.iter().take(MOST_ROWS) {
        for (sign, row) in [('-', expected), ('+', actual)] {
            let Some(row) = row else { continue };
            let beside = if sign == '-' { actual } else { expected };
            lines.push((sign, difference.columns.iter().map(|column| cell(column, row, beside.as_ref())).collect()));
        }
    }
    let widths: Vec<usize> = (0..difference.columns.len())
        .map(|at| lines.iter().map(|(_, cells)| cells[at].chars().count()).max().unwrap_or_default())
        .collect();
    let mut text = String::new();
    for (sign, cells) in &lines {
        let cells: Vec<String> = cells
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell}{}", " ".repeat(width - cell.chars().count())))
            .collect();
        let _ = writeln!(text, "       {}", format!("{sign} {}", cells.join("  ")).trim_end());
    }
    if difference.pairs.len() > MOST_ROWS {
        let _ = writeln!(text, "       … and {} more that differ", difference.pairs.len() - MOST_ROWS);
    }
    text
}

/// A value; in brackets where the row beside it has another.
fn cell(column: &str, row: &ShownRow, beside: Option<&ShownRow>) -> String {
    let value = row.get(column).unwrap_or(&Value::Null);
    let text = match value {
        Value::Null => "NULL".to_owned(),
        Value::String(text) => text.chars().flat_map(char::escape_debug).collect(),
        other => other.to_string(),
    };
    let mut shown: String = text.chars().take(LONGEST_CELL_CHARS).collect();
    if text.chars().nth(LONGEST_CELL_CHARS).is_some() {
        shown.push('…');
    }
    let differs = beside.is_some_and(|beside| beside.get(column).unwrap_or(&Value::Null) != value);
    if differs { format!("[{shown}]") } else { shown }
}

/// The shape that scripts read: fields may be added, never renamed or removed.
#[derive(Debug, Serialize)]
struct Tested<'a> {
    tests: Vec<TestedOne<'a>>,
    passed: usize,
    failed: usize,
}

#[derive(Debug, Serialize)]
struct TestedOne<'a> {
    name: &'a str,
    batches: &'static str,
    file: &'a str,
    line: usize,
    ok: bool,
    seconds: f64,
    failures: Vec<TestedFailure<'a>>,
}

#[derive(Debug, Serialize)]
struct TestedFailure<'a> {
    table: &'a str,
    message: &'a str,
    columns: &'a [String],
    /// Expected, and not there.
    expected: Vec<&'a ShownRow>,
    /// There, and not expected.
    actual: Vec<&'a ShownRow>,
}

impl<'a> From<&'a [TestReport]> for Tested<'a> {
    fn from(reports: &'a [TestReport]) -> Self {
        let failed = reports.iter().filter(|report| !report.failures.is_empty()).count();
        let tests = reports.iter().map(|report| TestedOne {
            name: &report.name,
            batches: report.batches.as_str(),
            file: &report.place.file.name,
            line: report.place.line_and_column().0,
            ok: report.failures.is_empty(),
            seconds: report.took.as_secs_f64(),
            failures: report.failures.iter().map(TestedFailure::from).collect(),
        });
        Self { tests: tests.collect(), passed: reports.len() - failed, failed }
    }
}

impl<'a> From<&'a Failure> for TestedFailure<'a> {
    fn from(failure: &'a Failure) -> Self {
        let pairs = failure.difference.as_ref().map(|difference| difference.pairs.as_slice()).unwrap_or_default();
        Self {
            table: &failure.table,
            message: &failure.message,
            columns: failure.difference.as_ref().map(|difference| difference.columns.as_slice()).unwrap_or_default(),
            expected: pairs.iter().filter_map(|(expected, _)| expected.as_ref()).collect(),
            actual: pairs.iter().filter_map(|(_, actual)| actual.as_ref()).collect(),
        }
    }
}
