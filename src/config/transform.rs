//! `[[transform]]`, from what is declared to what it means.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::cron::Cron;
use super::declared::{DEDUPE_WITHIN, EVERY, ExpectTable, OnViolationWord, TransformMode, TransformTable};
use super::document::{Node, Value};
use super::pipeline::{hex_sha256, owner_of, table_name};
use super::problem::{Place, Problem, SourceFile, quoted};
use super::project::Shared;
use super::reading::Reading;
use super::spec::{
    Declaration, Dedupe, Expectation, LARGEST_SQL_BYTES, Mode, OnViolation, SkippedVersion, TableName, TransformSpec,
    Trigger,
};
use super::{maintenance, text};

const SHORTEST_EVERY: Duration = Duration::from_millis(100);
const LONGEST_EVERY: Duration = Duration::from_secs(31 * 24 * 60 * 60);

/// Shorter than this and a producer's own retries lie outside.
const SHORTEST_DEDUPE: Duration = Duration::from_secs(60);
const LONGEST_DEDUPE: Duration = Duration::from_secs(10 * 366 * 24 * 60 * 60);

/// Longer than any name that tools show, and a bound for messages.
const LONGEST_COLUMN: usize = 255;

/// A transform as far as it could be read.
#[derive(Debug)]
pub(super) struct BuiltTransform {
    pub spec: Option<TransformSpec>,
    pub table: Option<(String, Place)>,
}

/// Where transforms stand: their file, and whose they are unless they say so.
pub(super) struct Around<'a> {
    /// Relative to `dir`.
    pub file: &'a Path,
    pub dir: &'a Path,
    pub shared: &'a Shared,
    /// The owner of the pipeline in the same file.
    pub owner: Option<&'a str>,
    pub has_pipeline: bool,
}

/// Reads the transforms of a file; `tables` are those that `root` holds.
pub(super) fn build(
    root: &Node,
    tables: Vec<TransformTable>,
    around: &Around<'_>,
    problems: &mut Vec<Problem>,
) -> Vec<BuiltTransform> {
    let Some(Value::Array(nodes)) = root.within(&["transform"]).map(|node| &node.value) else { return Vec::new() };
    let tables = nodes.iter().zip(tables).filter(|(node, _)| node.table().is_some());
    tables.map(|(node, table)| transform(table, around, &mut Reading { root: node, problems })).collect()
}

fn transform(table: TransformTable, around: &Around<'_>, reading: &mut Reading<'_>) -> BuiltTransform {
    let name = table.table.as_ref().map(|name| name.0.as_str());
    let name = reading.parse(&["table"], name, "the name of a table", table_name);
    let owner = match table.owner {
        Some(owner) => owner_of(Some(owner.0), &["owner"], around.shared, reading),
        None if reading.root.at(&["owner"]).is_some() => None,
        None if around.has_pipeline => around.owner.map(str::to_owned),
        None => {
            let hint = "write `owner = \"…\"`: without `[pipeline]` the file names no team";
            reading.wrong(&[], "`owner` is missing in `[[transform]]`", hint);
            None
        }
    };
    let sql = table.sql.as_ref().and_then(|path| sql_file(&path.0, around.dir, reading));
    let mode = table.mode.map(|mode| match mode {
        TransformMode::Append => Mode::Append,
        TransformMode::Merge => Mode::Merge,
        TransformMode::History => Mode::History,
        TransformMode::Recompute => Mode::Recompute,
        TransformMode::Replace => Mode::Replace,
    });
    if let Some(mode) = mode {
        fits_mode(mode, reading);
    }
    let keys = columns(table.keys, "keys", reading);
    let sequence_by = columns(table.sequence_by, "sequence_by", reading);
    let partition_by = columns(table.partition_by, "partition_by", reading);
    let dedupe = dedupe(table.dedupe_by, table.dedupe_within, reading);
    let delete_when = condition(table.delete_when, "delete_when", reading);
    let trigger = trigger(table.every, table.cron, reading);
    let skip_versions = skip_versions(table.skip_versions.unwrap_or_default(), reading);
    let maintenance = maintenance::build(table.maintenance, &["maintenance"], &around.shared.maintenance, reading);
    let expectations = expectations(table.expectations.unwrap_or_default(), reading);

    let placed = name.as_ref().map(|name| (name.to_string(), reading.place(&["table"])));
    let spec = (|| {
        let (sql_file, sql, sql_source) = sql?;
        let spec = TransformSpec {
            file: around.file.to_owned(),
            owner: owner?,
            table: name?,
            sql_file,
            sql,
            sql_source,
            mode: mode?,
            keys: keys?,
            sequence_by: sequence_by?,
            delete_when: delete_when?,
            dedupe: dedupe?,
            partition_by: partition_by?,
            change_feed: table.change_feed.unwrap_or_default(),
            trigger: trigger?,
            skip_versions: skip_versions?,
            expectations: expectations?,
            maintenance,
            config_hash: String::new(),
            declaration: Declaration::new(reading.root.clone()),
        };
        Some(TransformSpec { config_hash: config_hash(&spec), ..spec })
    })();
    BuiltTransform { spec, table: placed }
}

/// What each mode needs, and what does nothing with it.
fn fits_mode(mode: Mode, reading: &mut Reading<'_>) {
    use Mode::{Append, History, Merge, Recompute};
    const KEYS: [(&str, &[Mode], &str); 2] = [
        ("keys", &[Merge, History, Recompute], "keys = [\"lead_id\"]"),
        ("sequence_by", &[Merge, History], "sequence_by = [\"_enqueued_at\", \"_sequence_number\"]"),
    ];
    const OPTIONAL: [(&str, &[Mode]); 3] =
        [("delete_when", &[Merge, History]), ("dedupe_by", &[Append]), ("dedupe_within", &[Append])];
    for (key, modes, form) in KEYS {
        if modes.contains(&mode) && reading.root.at(&[key]).is_none() {
            let message = format!("`mode = \"{mode}\"` needs `{key}`");
            reading.wrong(&["mode"], message, format!("write `{form}`, with columns of the query"));
        }
    }
    let all = KEYS.into_iter().map(|(key, modes, _)| (key, modes)).chain(OPTIONAL);
    for (key, modes) in all.filter(|(key, modes)| !modes.contains(&mode) && reading.root.at(&[key]).is_some()) {
        let modes: Vec<&str> = modes.iter().map(|mode| mode.as_str()).collect();
        let hint = format!("it is for {}: remove it, or choose another mode", super::listed(modes, "and"));
        reading.wrong(&[key], format!("`{key}` does nothing with `mode = \"{mode}\"`"), hint);
    }
}

/// Names of columns, each once. Whether the query has them is seen when it is planned.
fn columns(names: Option<Vec<String>>, key: &str, reading: &mut Reading<'_>) -> Option<Vec<String>> {
    let Some(entry) = reading.root.at(&[key]) else { return Some(Vec::new()) };
    let Value::Array(nodes) = &entry.node.value else { return None };
    if nodes.is_empty() {
        reading.wrong(&[key], format!("`{key}` is empty"), "name columns of the query, or remove it");
        return None;
    }
    let names = names?;
    // What isn't text was left out, and its problem told.
    if names.len() != nodes.len() {
        return None;
    }
    let before = reading.problems.len();
    for (at, name) in names.iter().enumerate() {
        let place = nodes[at].place.clone();
        if names[..at].contains(name) {
            let problem = Problem::new(place, format!("column {} stands twice in `{key}`", quoted(name)));
            reading.problems.push(problem.with_hint("remove one of them"));
        } else if name.is_empty() || name.len() > LONGEST_COLUMN || name.contains(char::is_control) {
            let problem = Problem::new(place, format!("{} is not the name of a column", quoted(name)));
            reading.problems.push(problem.with_hint("write it as the query does: `lead_id`"));
        }
    }
    (reading.problems.len() == before).then_some(names)
}

fn condition(text: Option<String>, key: &str, reading: &mut Reading<'_>) -> Option<Option<String>> {
    match text {
        None => reading.root.at(&[key]).is_none().then_some(None),
        Some(text) if text.trim().is_empty() => {
            reading.wrong(&[key], format!("`{key}` is empty"), "write a condition in SQL: `status = 'deleted'`");
            None
        }
        Some(text) => Some(Some(text)),
    }
}

fn dedupe(
    by: Option<Vec<String>>,
    within: Option<text::DurationText>,
    reading: &mut Reading<'_>,
) -> Option<Option<Dedupe>> {
    let has = |key: &str| reading.root.at(&[key]).is_some();
    if has("dedupe_within") && !has("dedupe_by") {
        let hint = "write `dedupe_by = [\"_event_source\", \"_event_id\"]`, or remove it";
        reading.wrong(&["dedupe_within"], "`dedupe_within` needs `dedupe_by`", hint);
    }
    let is_there = reading.root.at(&["dedupe_by"]).is_some();
    let by = columns(by, "dedupe_by", reading);
    let within = within.as_ref().map_or(DEDUPE_WITHIN, |within| within.0.as_str());
    let within = reading.parse(&["dedupe_within"], Some(within), "a duration that fits", |text| {
        text::duration(text, SHORTEST_DEDUPE, LONGEST_DEDUPE)
    });
    let dedupe = Dedupe { by: by?, within: within? };
    Some(is_there.then_some(dedupe))
}

fn trigger(
    every: Option<text::DurationText>,
    cron: Option<text::CronText>,
    reading: &mut Reading<'_>,
) -> Option<Trigger> {
    let has = |key: &str| reading.root.at(&[key]).is_some();
    if has("every") && has("cron") {
        let hint = "`every` is for runs after commits, `cron` for runs at its times: keep one of the two";
        reading.wrong(&["cron"], "a transform can't have both `every` and `cron`", hint);
        return None;
    }
    if has("cron") {
        let cron = cron.as_ref().map(|cron| cron.0.as_str());
        return reading.parse(&["cron"], cron, "a time in cron's words", Cron::parse).map(Trigger::Cron);
    }
    let every = every.as_ref().map_or(EVERY, |every| every.0.as_str());
    let every = reading.parse(&["every"], Some(every), "a duration that fits", |text| {
        text::duration(text, SHORTEST_EVERY, LONGEST_EVERY)
    });
    every.map(|every| Trigger::Commits { every })
}

fn skip_versions(texts: Vec<String>, reading: &mut Reading<'_>) -> Option<Vec<SkippedVersion>> {
    let before = reading.problems.len();
    let mut skipped = Vec::with_capacity(texts.len());
    for (at, text) in texts.iter().enumerate() {
        let parsed = text.split_once('@').and_then(|(table, version)| {
            Some(SkippedVersion { table: table.parse::<TableName>().ok()?, version: version.parse().ok()? })
        });
        match parsed {
            Some(version) => skipped.push(version),
            None => {
                let place = reading.root.within(&["skip_versions", &at.to_string()]).map(|node| node.place.clone());
                let place = place.unwrap_or_else(|| reading.place(&["skip_versions"]));
                let problem = Problem::new(place, format!("{} is not a version of a table", quoted(text)));
                reading.problems.push(problem.with_hint("write table and version: `bronze.leads@17`"));
            }
        }
    }
    (reading.problems.len() == before).then_some(skipped)
}

fn expectations(tables: Vec<ExpectTable>, reading: &mut Reading<'_>) -> Option<Vec<Expectation>> {
    let Some(Value::Array(nodes)) = reading.root.within(&["expect"]).map(|node| &node.value) else {
        return reading.root.at(&["expect"]).is_none().then(Vec::new);
    };
    let mut first: BTreeMap<String, Place> = BTreeMap::new();
    let mut expectations = Some(Vec::with_capacity(tables.len()));
    for (node, table) in nodes.iter().zip(tables) {
        let expectation = expectation(table, &mut Reading { root: node, problems: &mut *reading.problems });
        if let Some(expectation) = &expectation {
            let place = node.place(&["name"]);
            if let Some(other) = first.get(&expectation.name) {
                let message = format!("two expectations are named {}", quoted(&expectation.name));
                let hint = format!("the other stands at {other}; give one of them another name");
                reading.problems.push(Problem::new(place, message).with_hint(hint));
            } else {
                first.insert(expectation.name.clone(), place);
            }
        }
        expectations = expectations.zip(expectation).map(|(mut all, one)| {
            all.push(one);
            all
        });
    }
    expectations
}

fn expectation(table: ExpectTable, reading: &mut Reading<'_>) -> Option<Expectation> {
    let name = table.name.as_ref().map(|name| name.0.as_str());
    let name = reading.parse(&["name"], name, "a name", text::name);
    let check = condition(table.check, "check", reading);
    let on_violation = match table.on_violation {
        Some(OnViolationWord::Warn) => Some(OnViolation::Warn),
        Some(OnViolationWord::Drop) => Some(OnViolation::Drop),
        Some(OnViolationWord::Quarantine) => Some(OnViolation::Quarantine),
        Some(OnViolationWord::Fail) => Some(OnViolation::Fail),
        None => reading.root.at(&["on_violation"]).is_none().then_some(OnViolation::Warn),
    };
    Some(Expectation { name: name?, check: check??, on_violation: on_violation? })
}

/// The text of a SQL file of the project, with the form that reports show.
fn sql_file(path: &str, dir: &Path, reading: &mut Reading<'_>) -> Option<(PathBuf, String, Arc<SourceFile>)> {
    let shown = quoted(reading.root.written(&["sql"]));
    let relative = "relative paths start at the project's folder";
    let mut wrong = |message: String, hint: &str| {
        reading.wrong(&["sql"], message, hint);
        None
    };
    let file = dir.join(path);
    let inside = file.canonicalize().and_then(|file| Ok(file.starts_with(dir.canonicalize()?)));
    match inside {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return wrong(format!("the SQL file {shown} isn't there"), relative);
        }
        Err(error) => return wrong(format!("the SQL file {shown} can't be read: {error}"), relative),
        Ok(false) => {
            let hint = "a transform's SQL belongs to its project, so that both change together";
            return wrong(format!("the SQL file {shown} lies outside the project"), hint);
        }
        Ok(true) if !file.is_file() => return wrong(format!("{shown} is not a file"), relative),
        Ok(true) => {}
    }
    let bytes = match read_bounded(&file) {
        Ok(bytes) => bytes,
        Err(error) => return wrong(format!("the SQL file {shown} can't be read: {error}"), relative),
    };
    if bytes.len() > LARGEST_SQL_BYTES {
        let message = format!("the SQL file {shown} has more than {LARGEST_SQL_BYTES} bytes");
        return wrong(message, "is it a query at all?");
    }
    let Ok(text) = String::from_utf8(bytes) else {
        return wrong(format!("the SQL file {shown} is not UTF-8 text"), "save it as UTF-8");
    };
    if text.trim().is_empty() {
        return wrong(format!("the SQL file {shown} is empty"), "write a query: `SELECT … FROM STREAM(bronze.leads)`");
    }
    let name = path.trim_start_matches("./").replace('\\', "/");
    // Byte for byte as long: places stay true.
    let fit = |c: char| if c.is_ascii_control() && !matches!(c, '\n' | '\t' | '\r') { '?' } else { c };
    let source = Arc::new(SourceFile { name: name.clone(), shown: text.chars().map(fit).collect() });
    Some((PathBuf::from(name), text, source))
}

/// At most one byte more than a file may have.
fn read_bounded(file: &Path) -> std::io::Result<Vec<u8>> {
    use std::io::Read as _;

    let mut bytes = Vec::new();
    std::fs::File::open(file)?.take(LARGEST_SQL_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// When it runs and who owns it decide no rows, and neither do the names of files.
fn config_hash(spec: &TransformSpec) -> String {
    let dedupe = spec.dedupe.as_ref().map(|dedupe| json!({ "by": dedupe.by, "within": dedupe.within.as_secs() }));
    let expectations: Vec<_> = spec
        .expectations
        .iter()
        .map(|expectation| json!([expectation.name, expectation.check, expectation.on_violation.as_str()]))
        .collect();
    let decides = json!({
        "table": spec.table.to_string(),
        "sql": spec.sql,
        "mode": spec.mode.as_str(),
        "keys": spec.keys,
        "sequence_by": spec.sequence_by,
        "delete_when": spec.delete_when,
        "dedupe": dedupe,
        "partition_by": spec.partition_by,
        "expectations": expectations,
    });
    hex_sha256(decides.to_string().as_bytes())
}
