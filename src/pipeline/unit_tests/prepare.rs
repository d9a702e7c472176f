//! From a declared test to one that can be run, or to what is wrong with it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use bytes::Bytes;
use serde_json::{Map, Value};

use super::ShownRow;
use super::rows::{batch, named, of_json, shown, those_there, values, with_envelope};
use crate::batch::{Event, EventBatch, Origin, bronze};
use crate::catalog::change_data::{CHANGE_TYPE, DELETE, INSERT, UPDATE_POSTIMAGE, UPDATE_PREIMAGE, file_schema};
use crate::checkpoint::{PartitionKey, SourceId};
use crate::config::spec::{DecodeSpec, Format, Framing, ProjectSpec, TableName};
use crate::config::test_spec::{Batches, CellValue, Expected, Given, GivenRows, Placed, Row, TestSpec};
use crate::config::{Place, Problem, nearest, quoted};
use crate::decode::Decoder;
use crate::pipeline::check::{Checked, order, side_table};
use crate::transform::given::Rows;
use crate::transform::graph::{Node, owner_of};

/// A file of rows is written by hand or cut from a sample: what is larger is no test of a second.
const LARGEST_FILE_BYTES: u64 = 16 * 1024 * 1024;

/// A test, parted into runs in one way.
#[derive(Debug)]
pub struct Prepared {
    pub name: String,
    pub place: Place,
    pub batches: Batches,
    /// The tables that are there before the first run, with their columns.
    pub(super) tables: BTreeMap<TableName, SchemaRef>,
    /// What is added before each run.
    pub(super) steps: Vec<Vec<(TableName, Rows)>>,
    /// In the order in which they run.
    pub(super) transforms: Vec<Node>,
    pub(super) expected: Vec<PreparedExpected>,
}

#[derive(Debug, Clone)]
pub(super) struct PreparedExpected {
    pub table: TableName,
    /// Columns and rows.
    pub rows: Option<(Vec<String>, Vec<ShownRow>)>,
    pub order_by: Vec<String>,
    pub tolerance: f64,
    /// From 1 on.
    pub after: Option<u32>,
    pub violations: BTreeMap<String, u64>,
    pub fails: Option<String>,
}

/// Makes tests ready; each of them once for each way in which it is parted into runs.
pub async fn prepare(project: &ProjectSpec, checked: &Checked, tests: &[TestSpec]) -> (Vec<Prepared>, Vec<Problem>) {
    let mut problems = Vec::new();
    let mut prepared = Vec::new();
    for spec in tests {
        let mut preparing = Preparing { project, checked, problems: Vec::new() };
        let ready = preparing.test(spec).await;
        if preparing.problems.is_empty() {
            prepared.extend(ready);
        }
        problems.extend(preparing.problems);
    }
    problems.sort_by_key(order);
    (prepared, problems)
}

struct Preparing<'a> {
    project: &'a ProjectSpec,
    checked: &'a Checked,
    problems: Vec<Problem>,
}

/// A row of a given table, before it is parted into runs.
struct GivenRow {
    table: TableName,
    batch: u32,
    row: ShownRow,
}

impl Preparing<'_> {
    async fn test(&mut self, spec: &TestSpec) -> Vec<Prepared> {
        let given: BTreeSet<TableName> = spec.given.iter().map(|given| given.table.value.clone()).collect();
        let transforms = self.transforms(spec, &given);
        let made: BTreeSet<&TableName> = transforms.iter().map(|node| &node.spec.table).collect();
        for table in spec.given.iter().map(|given| &given.table).filter(|table| made.contains(&table.value)) {
            let message = format!("`{}` is given and made by a transform that runs", table.value);
            self.wrong(&table.place, message, "leave it out of `run`, or of the given tables");
        }
        let streams = transforms.iter().flat_map(|node| {
            let changes = node.parsed.inputs.iter().filter(|input| node.streams_changes(input));
            changes.map(|input| input.table.clone())
        });
        let changed: BTreeSet<TableName> = streams.collect();
        let mut tables = BTreeMap::new();
        let mut rows = Vec::new();
        let mut numbers: BTreeMap<TableName, u64> = BTreeMap::new();
        for given in &spec.given {
            let Some(schema) = self.columns(&given.table) else { continue };
            let is_changed = changed.contains(&given.table.value);
            let columns = if is_changed { file_schema(&schema) } else { Arc::clone(&schema) };
            for row in self.rows(given).await {
                if is_changed {
                    self.change_type(&row);
                }
                let row = values(&row, &columns, &mut self.problems);
                let number = numbers.entry(given.table.value.clone()).or_default();
                let row = with_envelope(row, &schema, *number);
                *number += 1;
                rows.push(GivenRow { table: given.table.value.clone(), batch: given.batch, row });
            }
            tables.insert(given.table.value.clone(), schema);
        }
        self.other_inputs(spec, &transforms, &mut tables);
        let expected: Vec<PreparedExpected> =
            spec.expected.iter().filter_map(|expected| self.expected(expected, &transforms)).collect();
        if !self.problems.is_empty() {
            return Vec::new();
        }
        let mut ways = Vec::new();
        for batches in &spec.batches {
            let steps = match self.steps(spec, *batches, &rows, &tables, &changed) {
                Ok(steps) => steps,
                Err(error) => {
                    let hint = "its columns have other types than the rows that are given";
                    self.wrong(&spec.place, format!("given rows can't be had: {error}"), hint);
                    break;
                }
            };
            ways.push(Prepared {
                name: spec.name.clone(),
                place: spec.place.clone(),
                batches: *batches,
                tables: tables.clone(),
                steps,
                transforms: transforms.clone(),
                expected: expected.clone(),
            });
        }
        ways
    }

    /// What became of a row has to be one of four words.
    fn change_type(&mut self, row: &Row) {
        const WORDS: [&str; 4] = [INSERT, UPDATE_PREIMAGE, UPDATE_POSTIMAGE, DELETE];
        let Some(cell) = row.get(CHANGE_TYPE) else { return };
        let CellValue::Text(told) = &cell.value.value else { return };
        if !WORDS.contains(&told.as_str()) {
            let message = format!("{} is nothing that becomes of a row", quoted(told));
            self.wrong(&cell.value.place, message, format!("write one of {}", WORDS.map(quoted).join(", ")));
        }
    }

    fn wrong(&mut self, place: &Place, message: impl Into<String>, hint: impl Into<String>) {
        self.problems.push(Problem::new(place.clone(), message).with_hint(hint));
    }

    /// The transforms that run, in their order.
    fn transforms(&mut self, spec: &TestSpec, given: &BTreeSet<TableName>) -> Vec<Node> {
        let graph = &self.checked.graph;
        let mut wanted: BTreeSet<TableName> = BTreeSet::new();
        if let Some(run) = &spec.run {
            for table in run {
                if graph.node(&table.value).is_some() {
                    wanted.insert(table.value.clone());
                } else {
                    let hint = self.guess(&table.value);
                    self.wrong(&table.place, format!("no transform makes `{}`", table.value), hint);
                }
            }
        } else {
            let mut open: Vec<TableName> =
                spec.expected.iter().map(|expected| owner_of(&expected.table.value)).collect();
            while let Some(table) = open.pop() {
                let Some(node) = graph.node(&table).filter(|_| !given.contains(&table)) else { continue };
                if wanted.insert(table) {
                    open.extend(node.parsed.inputs.iter().map(|input| owner_of(&input.table)));
                }
            }
        }
        let nodes = graph.nodes().iter().filter(|node| wanted.contains(&node.spec.table));
        nodes.cloned().collect()
    }

    fn guess(&self, table: &TableName) -> String {
        let known: Vec<String> = self.checked.graph.nodes().iter().map(|node| node.spec.table.to_string()).collect();
        match nearest(&table.to_string(), known.iter().map(String::as_str)) {
            Some(near) => format!("did you mean `{near}`?"),
            None if known.is_empty() => "the project has no transforms".to_owned(),
            None => format!("there are {}", known.iter().map(|name| quoted(name)).collect::<Vec<_>>().join(", ")),
        }
    }

    /// The columns of a table that is given or expected.
    fn columns(&mut self, table: &Placed<TableName>) -> Option<SchemaRef> {
        let owner = owner_of(&table.value);
        let of_transform = self.checked.graph.node(&owner).zip(self.checked.outputs.get(&owner));
        let side = of_transform.and_then(|(node, output)| side_table(node, output, &table.value));
        if let Some(schema) = self.checked.columns.get(&table.value).cloned().or(side) {
            return Some(schema);
        }
        let is_known = self.project.pipelines.iter().any(|pipeline| pipeline.writes(&owner));
        let known = self.checked.columns.keys().map(ToString::to_string).collect::<Vec<_>>();
        let (message, hint) = match nearest(&table.value.to_string(), known.iter().map(String::as_str)) {
            _ if is_known => {
                let hint = "name its schemas: `[decode] columns_from = [\"schemas/….avsc\"]`";
                (format!("the columns of `{}` are unknown", table.value), hint.to_owned())
            }
            Some(near) => (format!("there is no table `{}`", table.value), format!("did you mean `{near}`?")),
            None => (format!("there is no table `{}`", table.value), self.guess(&table.value)),
        };
        self.wrong(&table.place, message, hint);
        None
    }

    /// Inputs that are not given are there, and empty.
    fn other_inputs(&mut self, spec: &TestSpec, transforms: &[Node], tables: &mut BTreeMap<TableName, SchemaRef>) {
        let made: BTreeSet<&TableName> = transforms.iter().map(|node| &node.spec.table).collect();
        let inputs: BTreeSet<TableName> =
            transforms.iter().flat_map(|node| node.parsed.inputs.iter().map(|input| input.table.clone())).collect();
        for table in inputs {
            if !tables.contains_key(&table) && !made.contains(&owner_of(&table)) {
                let placed = Placed { value: table.clone(), place: spec.place.clone() };
                if let Some(schema) = self.columns(&placed) {
                    tables.insert(table, schema);
                }
            }
        }
    }

    async fn rows(&mut self, given: &Given) -> Vec<Row> {
        match &given.rows {
            GivenRows::Inline(rows) => rows.clone(),
            GivenRows::File(file) => match read(file).await {
                Ok(rows) => rows,
                Err(reason) => {
                    let name = file.value.file_name().unwrap_or_default().to_string_lossy().into_owned();
                    self.wrong(
                        &file.place,
                        format!("the rows of {} can't be read: {reason}", quoted(&name)),
                        "is it what its name says?",
                    );
                    Vec::new()
                }
            },
        }
    }

    fn expected(&mut self, expected: &Expected, transforms: &[Node]) -> Option<PreparedExpected> {
        let table = &expected.table.value;
        let transform = transforms.iter().map(|node| &node.spec).find(|spec| spec.table == owner_of(table));
        let Some(transform) = transform else {
            let hint = self.guess(&owner_of(table));
            self.wrong(&expected.table.place, format!("nothing makes `{table}` in this test"), hint);
            return None;
        };
        let schema = self.columns(&expected.table)?;
        let mut known = |names: &[Placed<String>]| -> Vec<String> {
            for name in names.iter().filter(|name| schema.field_with_name(&name.value).is_err()) {
                let near = nearest(&name.value, schema.fields().iter().map(|field| field.name().as_str()));
                let hint = near.map_or_else(|| those_there(schema.fields()), |near| format!("did you mean `{near}`?"));
                let message = format!("there is no column {}", quoted(&name.value));
                self.problems.push(Problem::new(name.place.clone(), message).with_hint(hint));
            }
            names.iter().map(|name| name.value.clone()).collect()
        };
        let order_by = known(&expected.order_by);
        let columns = expected.columns.as_ref().map(|columns| known(columns));
        let rows = expected.rows.as_ref().map(|rows| {
            let columns = columns.unwrap_or_else(|| named(&rows.value, &schema));
            // None at all: every column of a row that is there would be shown.
            let columns = if columns.is_empty() {
                schema.fields().iter().map(|field| field.name().clone()).collect()
            } else {
                columns
            };
            let values: Vec<ShownRow> = rows.value.iter().map(|row| values(row, &schema, &mut self.problems)).collect();
            (columns, values, rows.place.clone())
        });
        // By way of the table's own types, as the rows that are there come.
        let rows = match rows {
            Some((columns, values, place)) => {
                match batch(&values, &schema).and_then(|batch| projected(&batch, &columns)) {
                    Ok(rows) => Some((columns, rows)),
                    Err(error) => {
                        self.wrong(
                            &place,
                            format!("the rows can't be those of `{table}`: {error}"),
                            "see the types of its columns",
                        );
                        return None;
                    }
                }
            }
            None => None,
        };
        for (name, count) in &expected.violations {
            if !transform.expectations.iter().any(|expectation| expectation.name == *name) {
                let names = transform.expectations.iter().map(|expectation| expectation.name.as_str());
                let hint = match nearest(name, names) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => "expectations are declared in `[[transform.expect]]`".to_owned(),
                };
                self.wrong(&count.place, format!("`{}` has no expectation {}", transform.table, quoted(name)), hint);
            }
        }
        Some(PreparedExpected {
            table: table.clone(),
            rows,
            order_by,
            tolerance: expected.tolerance,
            after: expected.after,
            violations: expected.violations.iter().map(|(name, count)| (name.clone(), count.value)).collect(),
            fails: expected.fails.clone(),
        })
    }

    /// The rows of each run.
    fn steps(
        &self,
        spec: &TestSpec,
        batches: Batches,
        rows: &[GivenRow],
        tables: &BTreeMap<TableName, SchemaRef>,
        changed: &BTreeSet<TableName>,
    ) -> Result<Vec<Vec<(TableName, Rows)>>, ArrowError> {
        let numbered = |at: usize, row: &GivenRow| match batches {
            Batches::Given => row.batch as usize,
            Batches::Once => 1,
            Batches::Rows => at + 1,
        };
        let last = rows.iter().enumerate().map(|(at, row)| numbered(at, row)).max().unwrap_or(1);
        let after = spec.expected.iter().filter_map(|expected| expected.after).max().unwrap_or(1) as usize;
        let mut grouped: Vec<BTreeMap<TableName, Vec<ShownRow>>> = vec![BTreeMap::new(); last.max(after)];
        for (at, row) in rows.iter().enumerate() {
            grouped[numbered(at, row) - 1].entry(row.table.clone()).or_default().push(row.row.clone());
        }
        let step = |tables_of_step: BTreeMap<TableName, Vec<ShownRow>>| {
            let known = tables_of_step.into_iter().filter_map(|(table, rows)| Some((tables.get(&table)?, table, rows)));
            let batches = known.map(|(schema, table, rows)| {
                let rows = if changed.contains(&table) {
                    Rows::Changed(batch(&rows, &file_schema(schema))?)
                } else {
                    Rows::Added(batch(&rows, schema)?)
                };
                Ok((table, rows))
            });
            batches.collect::<Result<Vec<_>, ArrowError>>()
        };
        grouped.into_iter().map(step).collect()
    }
}

/// Some columns of rows, to be compared.
pub(super) fn projected(rows: &RecordBatch, columns: &[String]) -> Result<Vec<ShownRow>, arrow::error::ArrowError> {
    let at: Result<Vec<usize>, _> = columns.iter().map(|name| rows.schema().index_of(name)).collect();
    shown(&[rows.project(&at?)?])
}

async fn read(file: &Placed<std::path::PathBuf>) -> Result<Vec<Row>, String> {
    let path = &file.value;
    let size = std::fs::metadata(path).map_err(|error| error.to_string())?.len();
    if size > LARGEST_FILE_BYTES {
        return Err(format!("it has {size} bytes, more than {LARGEST_FILE_BYTES}"));
    }
    let bytes = std::fs::read(path).map_err(|error| error.to_string())?;
    let extension = path.extension().unwrap_or_default().to_ascii_lowercase();
    let objects = match extension.to_str() {
        Some("avro") => of_container(path, bytes).await?,
        Some("json") => serde_json::from_slice::<Vec<Map<String, Value>>>(&bytes).map_err(|error| error.to_string())?,
        _ => {
            let text = String::from_utf8(bytes).map_err(|_| "it is not UTF-8 text".to_owned())?;
            let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
            let rows =
                lines.map(|(at, line)| serde_json::from_str(line).map_err(|error| format!("line {}: {error}", at + 1)));
            rows.collect::<Result<Vec<_>, String>>()?
        }
    };
    Ok(objects.into_iter().map(|row| of_json(row, &file.place)).collect())
}

/// The payload of the records of a container, as a pipeline reads it.
async fn of_container(path: &Path, bytes: Vec<u8>) -> Result<Vec<ShownRow>, String> {
    let spec = DecodeSpec { format: Format::Avro, framing: Framing::Container, ..DecodeSpec::default() };
    let decoder = Decoder::open(&spec, None).map_err(|error| error.to_string())?;
    let event = Event {
        sequence_number: 0,
        offset: String::new(),
        enqueued_at: 0,
        body: Bytes::from(bytes),
        content_type: None,
        properties: Vec::new(),
    };
    let source = SourceId::new(format!("test/{}", path.display()));
    let batch = EventBatch { partition: PartitionKey::new(source, "0"), origin: Origin::Live, events: vec![event] };
    let decoded = decoder.decode(Arc::new(batch)).await.map_err(|error| error.to_string())?;
    if let Some(reject) = decoded.rejects.first() {
        return Err(reject.text.clone());
    }
    let mut rows = Vec::new();
    for batch in &decoded.batches {
        let envelope = |name: &str| bronze::fields().iter().any(|field| field.name() == name);
        let schema = batch.schema();
        let columns: Vec<String> =
            schema.fields().iter().map(|field| field.name().clone()).filter(|name| !envelope(name)).collect();
        rows.extend(projected(batch, &columns).map_err(|error| error.to_string())?);
    }
    Ok(rows)
}
