//! `tests/**/*.toml`, from what is declared to what it means.

use std::collections::BTreeMap;
use std::path::Path;

use super::declared::{Batching, ExpectedTable, GivenTable, TestFile, TestTable};
use super::document::{Node, Table, Value};
use super::problem::{Place, Problem, quoted};
use super::reading::Reading;
use super::spec::TableName;
use super::test_spec::{Batches, Cell, CellValue, Expected, Given, GivenRows, Placed, Row, TestSpec};
use super::{schema, shape};

/// A test's name is a line of a report.
const LONGEST_NAME: usize = 200;

/// Each batch is a run of every transform.
const MOST_BATCHES: i64 = 1_000;

/// Reads a file of tests, with its variables in place. `file` is relative to `dir`.
pub(super) fn build(root: &Node, file: &Path, dir: &Path, problems: &mut Vec<Problem>) -> Vec<TestSpec> {
    let declared: TestFile = shape::read(root, &schema::TEST, problems);
    let tables = declared.tests.unwrap_or_default();
    let tests = nodes(root, "test").iter().zip(tables).filter(|(node, _)| node.table().is_some());
    tests
        .filter_map(|(node, table)| test(table, file, dir, &mut Reading { root: node, problems: &mut *problems }))
        .collect()
}

fn nodes<'a>(root: &'a Node, key: &str) -> &'a [Node] {
    match root.within(&[key]).map(|node| &node.value) {
        Some(Value::Array(nodes)) => nodes,
        _ => &[],
    }
}

fn test(table: TestTable, file: &Path, dir: &Path, reading: &mut Reading<'_>) -> Option<TestSpec> {
    let before = reading.problems.len();
    let name = reading.parse(&["name"], table.name.as_deref(), "the name of a test", |text| {
        let fits = !text.trim().is_empty() && text.len() <= LONGEST_NAME && !text.contains(char::is_control);
        if fits { Ok(text.to_owned()) } else { Err(format!("write a line of at most {LONGEST_NAME} bytes")) }
    });
    let batches = match table.batches {
        None => vec![Batches::Given],
        Some(words) => words
            .into_iter()
            .map(|word| match word {
                Batching::Given => Batches::Given,
                Batching::Once => Batches::Once,
                Batching::Rows => Batches::Rows,
            })
            .collect(),
    };
    if batches.is_empty() && nodes(reading.root, "batches").is_empty() {
        reading.wrong(&["batches"], "`batches` is empty", "name `given`, `once` or `rows`, or remove it");
    }
    let run = table.run.map(|tables| {
        let nodes = nodes(reading.root, "run");
        let places = nodes.iter().map(|node| node.place.clone());
        tables.into_iter().zip(places).filter_map(|(name, place)| table_at(&name.0, place, reading.problems)).collect()
    });
    let given = nodes(reading.root, "given").iter().zip(table.given.unwrap_or_default());
    let given = given.filter_map(|(node, table)| {
        given_of(table, dir, &mut Reading { root: node, problems: &mut *reading.problems })
    });
    let given: Vec<Given> = given.collect();
    let expected = nodes(reading.root, "expect").iter().zip(table.expect.unwrap_or_default());
    let expected = expected
        .filter_map(|(node, table)| expected_of(table, &mut Reading { root: node, problems: &mut *reading.problems }));
    let expected: Vec<Expected> = expected.collect();
    for expected in expected.iter().filter(|expected| expected.after.is_some()) {
        if batches.iter().any(|batches| *batches != Batches::Given) {
            let message = "`after` needs runs that are given: it is one of their numbers";
            let hint = "say `batches = [\"given\"]`, or remove `after`";
            reading.problems.push(Problem::new(expected.table.place.clone(), message).with_hint(hint));
        }
    }
    if reading.problems.len() > before {
        return None;
    }
    let place = reading.place(&["name"]);
    Some(TestSpec { file: file.to_owned(), name: name?, place, batches, run, given, expected })
}

fn table_at(text: &str, place: Place, problems: &mut Vec<Problem>) -> Option<Placed<TableName>> {
    match text.parse::<TableName>() {
        Ok(value) => Some(Placed { value, place }),
        Err(_) => {
            let message = format!("{} is not the name of a table", quoted(text));
            problems.push(Problem::new(place, message).with_hint("write `schema.table`, as in `silver.leads`"));
            None
        }
    }
}

fn given_of(table: GivenTable, dir: &Path, reading: &mut Reading<'_>) -> Option<Given> {
    let place = reading.place(&["table"]);
    let name = table.table.and_then(|name| table_at(&name.0, place, reading.problems));
    let batch = table.batch.unwrap_or(1);
    if batch > MOST_BATCHES {
        reading.wrong(&["batch"], format!("`batch` must be at most {MOST_BATCHES}"), "each batch is a run of its own");
    }
    let has_rows = reading.root.at(&["rows"]).is_some();
    let rows = match (has_rows, reading.root.at(&["file"]).is_some()) {
        (true, false) => rows(reading).map(|rows| GivenRows::Inline(rows.value)),
        (false, true) => table.file.and_then(|file| {
            let path = dir.join(&file.0);
            let known = ["jsonl", "json", "avro"];
            let is_known =
                path.extension().is_some_and(|end| known.iter().any(|known| end.eq_ignore_ascii_case(known)));
            let place = reading.place(&["file"]);
            if !path.is_file() {
                let message = format!("the file {} isn't there", quoted(&file.0));
                reading.wrong(&["file"], message, "relative paths start at the project's folder");
                None
            } else if !is_known {
                let message = format!("the file {} is of no kind that has rows", quoted(&file.0));
                reading.wrong(&["file"], message, "its name must end in `.jsonl`, `.json` or `.avro`");
                None
            } else {
                Some(GivenRows::File(Placed { value: path, place }))
            }
        }),
        _ => {
            let hint = "write `rows = [{ … }]`, or `file = \"tests/leads.jsonl\"`";
            reading.wrong(&[], "`[[test.given]]` must have exactly one of `rows` and `file`", hint);
            None
        }
    };
    Some(Given { table: name?, batch: u32::try_from(batch).ok()?, rows: rows? })
}

fn expected_of(table: ExpectedTable, reading: &mut Reading<'_>) -> Option<Expected> {
    let place = reading.place(&["table"]);
    let name = table.table.and_then(|name| table_at(&name.0, place, reading.problems));
    let has = |key: &str| reading.root.at(&[key]).is_some();
    if !has("rows") && !has("violations") && !has("fails") {
        let hint = "write `rows = [{ … }]` (`rows = []` for none), `violations = { … }` or `fails = \"…\"`";
        reading.wrong(&[], "`[[test.expect]]` expects nothing", hint);
    }
    let rows = if has("rows") { Some(rows(reading)?) } else { None };
    let columns = table.columns.map(|columns| placed(columns, "columns", reading));
    let order_by = placed(table.order_by.unwrap_or_default(), "order_by", reading);
    let tolerance = table.tolerance.unwrap_or_default();
    if !(tolerance.is_finite() && tolerance >= 0.0) {
        reading.wrong(&["tolerance"], "`tolerance` must be a number from 0 on", "write `0.001`");
    }
    let mut violations = BTreeMap::new();
    if let Some(node) = reading.root.within(&["violations"]).cloned() {
        let hint = "write the names of expectations, and how many rows violate each: `{ score_in_range = 2 }`";
        match &node.value {
            Value::Table(table) => {
                for (name, entry) in table {
                    match &entry.node.value {
                        Value::Integer(count) if *count >= 0 => {
                            let value = count.unsigned_abs();
                            violations.insert(name.clone(), Placed { value, place: entry.key.clone() });
                        }
                        _ => {
                            let message = format!("{} must be a number of rows", quoted(name));
                            reading.problems.push(Problem::new(entry.node.place.clone(), message).with_hint(hint));
                        }
                    }
                }
            }
            other => {
                let message = format!("`violations` must be a table, found {}", other.what());
                reading.problems.push(Problem::new(node.place.clone(), message).with_hint(hint));
            }
        }
    }
    Some(Expected {
        table: name?,
        rows,
        columns,
        order_by,
        tolerance,
        after: table.after.and_then(|after| u32::try_from(after).ok()),
        violations,
        fails: table.fails,
    })
}

fn placed(names: Vec<String>, key: &str, reading: &Reading<'_>) -> Vec<Placed<String>> {
    let places = nodes(reading.root, key).iter().map(|node| node.place.clone());
    names.into_iter().zip(places).map(|(value, place)| Placed { value, place }).collect()
}

/// `rows` as they are written.
fn rows(reading: &mut Reading<'_>) -> Option<Placed<Vec<Row>>> {
    let node = reading.root.within(&["rows"])?.clone();
    let hint = "write a table of columns for each row: `[{ lead_id = \"a\", score = 0.5 }]`";
    let Value::Array(nodes) = &node.value else {
        let message = format!("`rows` must be an array of tables, found {}", node.value.what());
        reading.problems.push(Problem::new(node.place.clone(), message).with_hint(hint));
        return None;
    };
    let before = reading.problems.len();
    let mut rows = Vec::with_capacity(nodes.len());
    for node in nodes {
        match &node.value {
            Value::Table(table) => rows.push(row(table, reading.problems)),
            other => {
                let message = format!("a row must be a table of columns, found {}", other.what());
                reading.problems.push(Problem::new(node.place.clone(), message).with_hint(hint));
            }
        }
    }
    (reading.problems.len() == before).then(|| Placed { value: rows, place: node.place.clone() })
}

fn row(table: &Table, problems: &mut Vec<Problem>) -> Row {
    let cells = table.iter().filter_map(|(name, entry)| {
        let value = cell(&entry.node, problems)?;
        Some((name.clone(), Cell { key: entry.key.clone(), value }))
    });
    cells.collect()
}

/// Recursion is bounded by the parser of TOML.
fn cell(node: &Node, problems: &mut Vec<Problem>) -> Option<Placed<CellValue>> {
    let value = match &node.value {
        Value::Text(text) => CellValue::Text(text.value.clone()),
        Value::Integer(number) => CellValue::Integer(*number),
        Value::Float(number) => CellValue::Float(*number),
        Value::Boolean(boolean) => CellValue::Boolean(*boolean),
        Value::Time(time) => CellValue::Time(time.to_string()),
        Value::Array(nodes) => CellValue::List(nodes.iter().filter_map(|node| cell(node, problems)).collect()),
        Value::Table(table) => CellValue::Fields(row(table, problems)),
        Value::HugeInteger => {
            let hint = "write it in quotes, for a decimal column";
            problems.push(Problem::new(node.place.clone(), "the number has more than 64 bits").with_hint(hint));
            return None;
        }
        Value::Broken => return None,
    };
    Some(Placed { value, place: node.place.clone() })
}

/// Two tests of one name can't be told apart.
pub(super) fn named_once(tests: &[TestSpec], problems: &mut Vec<Problem>) {
    let mut first: BTreeMap<&str, &Place> = BTreeMap::new();
    for test in tests {
        match first.get(test.name.as_str()) {
            None => drop(first.insert(&test.name, &test.place)),
            Some(other) => {
                let message = format!("two tests are named {}", quoted(&test.name));
                let hint = format!("the other stands at {other}; give one of them another name");
                problems.push(Problem::new(test.place.clone(), message).with_hint(hint));
            }
        }
    }
}
