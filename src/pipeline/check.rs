//! A project checked beyond its files: every transform planned over the columns of its inputs, with no data, and with no
//! network unless somebody says so.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::execution::runtime_env::RuntimeEnv;

use super::setup::Places;
use super::{PipelineError, columns, routes};
use crate::catalog::{accepted_gaps, dead_letters_of};
use crate::columns::type_name;
use crate::config::spec::{OWN_SCHEMA, PipelineSpec, ProjectSpec, TableName};
use crate::config::{Problem, nearest, quoted};
use crate::sink::delta::dead_letters;
use crate::transform::graph::{self, Graph, Node};
use crate::transform::run::expectations::quarantine_schema;
use crate::transform::run::modes::grave_schema;
use crate::transform::run::side::{graves_of, quarantine_of};
use crate::transform::{Input, Output, check as transform_check, notes, place_of_column, session, table_schema};

/// What is known of a project whose files are well.
#[derive(Debug)]
pub struct Checked {
    /// In the order of files and places.
    pub problems: Vec<Problem>,
    /// Those of them that each transform has, by its table.
    pub wrong: BTreeMap<TableName, Vec<Problem>>,
    /// What isn't wrong, and should be known: what could not be checked, and why.
    pub notes: Vec<Problem>,
    /// The transforms whose SQL could be read, each after those whose tables it reads.
    pub graph: Graph,
    /// The transforms without problems, by their tables.
    pub outputs: BTreeMap<TableName, Output>,
    /// The columns of every table that they are known of.
    pub columns: BTreeMap<TableName, SchemaRef>,
}

/// Where the columns of tables are looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Declarations first, so that they can be checked before they are deployed; a lake only where it is a folder.
    ThisMachine,
    /// Tables that are there first, wherever the lake is: what a run would find.
    Lake,
}

/// Checks the transforms of a project, without network.
///
/// # Errors
/// What could not be looked at: a table of a local lake that can't be read, schema files that vanished.
pub async fn check(project: &ProjectSpec) -> Result<Checked, PipelineError> {
    check_over(project, BTreeMap::new(), Reach::ThisMachine).await
}

/// As [`check`], where the columns of some tables are given.
///
/// # Errors
/// As [`check`]; errors of storage.
pub async fn check_over(
    project: &ProjectSpec,
    given: BTreeMap<TableName, SchemaRef>,
    reach: Reach,
) -> Result<Checked, PipelineError> {
    let (graph, mut problems) = Graph::build(&project.transforms);
    problems.extend(routes::problems(project));
    let checked = Checked {
        problems,
        wrong: BTreeMap::new(),
        notes: Vec::new(),
        graph,
        outputs: BTreeMap::new(),
        columns: given,
    };
    let mut checker = Checker { project, places: Places::of(project)?, reach, checked };
    for node in checker.checked.graph.clone().nodes() {
        let mut wrong = transform_check::streams(node);
        checker.node(node, &mut wrong).await?;
        if !wrong.is_empty() {
            checker.checked.wrong.insert(node.spec.table.clone(), wrong);
        }
    }
    let mut checked = checker.checked;
    checked.problems.extend(checked.wrong.values().flatten().cloned());
    checked.problems.sort_by_key(order);
    checked.problems.dedup();
    Ok(checked)
}

/// Files by name, then places.
pub(super) fn order(problem: &Problem) -> (String, usize, usize) {
    let place = problem.place.as_ref();
    place.map_or_else(Default::default, |place| (place.file.name.clone(), place.bytes.start, place.bytes.end))
}

struct Checker<'a> {
    project: &'a ProjectSpec,
    places: Places,
    reach: Reach,
    checked: Checked,
}

/// What is known of an input.
enum Known {
    Columns(SchemaRef),
    /// Nobody makes such a table.
    Nobody,
    /// Somebody does, and why its columns aren't known has been told or is told with its transform.
    Told,
    /// It may be there, and nothing on this machine says what it has.
    Unknown {
        why: String,
        hint: String,
    },
}

impl Checker<'_> {
    async fn node(&mut self, node: &Node, wrong: &mut Vec<Problem>) -> Result<(), PipelineError> {
        if !self.inputs(node, wrong).await? {
            return Ok(());
        }
        // Each in a session of its own: what one plans is no other's.
        let session = session(Arc::new(RuntimeEnv::default()));
        match transform_check::check(&session, node, &self.checked.columns).await {
            Ok(output) => {
                self.checked.notes.extend(notes(node, &output.plan));
                let schema = table_schema(&node.spec, &output.schema);
                wrong.extend(self.changed(node, &schema).await?);
                self.checked.columns.insert(node.spec.table.clone(), schema);
                self.checked.outputs.insert(node.spec.table.clone(), output);
            }
            Err(problems) => wrong.extend(problems),
        }
        Ok(())
    }

    /// Learns the columns of a transform's inputs. False where not all of them can be known.
    async fn inputs(&mut self, node: &Node, wrong: &mut Vec<Problem>) -> Result<bool, PipelineError> {
        let mut all = true;
        for input in &node.parsed.inputs {
            if self.checked.columns.contains_key(&input.table) {
                continue;
            }
            match self.known(input).await? {
                Known::Columns(schema) => drop(self.checked.columns.insert(input.table.clone(), schema)),
                Known::Told => all = false,
                Known::Nobody => {
                    let place = node.spec.sql_place(input.place.clone());
                    let message = format!("there is no table `{}`", input.table);
                    wrong.push(Problem::new(place, message).with_hint(self.guess(&input.table)));
                    all = false;
                }
                Known::Unknown { why, hint } => {
                    let place = node.spec.sql_place(input.place.clone());
                    let message =
                        format!("unknown columns: `{}`, {why}; `{}` isn't checked", input.table, node.spec.table);
                    self.checked.notes.push(Problem::new(place, message).with_hint(hint));
                    all = false;
                }
            }
        }
        Ok(all)
    }

    async fn known(&self, input: &Input) -> Result<Known, PipelineError> {
        let table = &input.table;
        let owner = graph::owner_of(table);
        let pipeline = self.project.pipelines.iter().find(|pipeline| pipeline.writes(&owner));
        if let Some(pipeline) = pipeline {
            if *table == dead_letters_of(&owner) {
                return Ok(Known::Columns(dead_letters::schema()));
            }
            if *table != owner {
                return Ok(Known::Nobody);
            }
            let there = match self.reach {
                Reach::ThisMachine => None,
                Reach::Lake => columns::of_table(table, &self.places).await?,
            };
            let known = match there {
                None => columns::known(self.project, pipeline, &owner, &self.places).await?,
                there => there,
            };
            return Ok(match known {
                Some(schema) => Known::Columns(schema),
                None => Known::Unknown {
                    why: "for its events were never seen on this machine".to_owned(),
                    hint: format!(
                        "name their schemas in `{}`: `[decode] columns_from = [\"schemas/….avsc\"]`",
                        pipeline.file.display()
                    ),
                },
            });
        }
        let is_transforms = self.project.transforms.iter().any(|spec| spec.table == owner);
        if is_transforms && *table == owner {
            return Ok(Known::Told);
        }
        if let (Some(node), Some(output)) = (self.checked.graph.node(&owner), self.checked.outputs.get(&owner)) {
            return Ok(side_table(node, output, table).map_or(Known::Nobody, Known::Columns));
        }
        if let Some(schema) = self.in_lake(table).await? {
            return Ok(Known::Columns(schema));
        }
        let is_own = table.schema == OWN_SCHEMA;
        if is_transforms || is_own {
            let hint = "a run makes it; from then on it is checked".to_owned();
            return Ok(Known::Unknown { why: "which isn't there yet".to_owned(), hint });
        }
        if self.reach == Reach::Lake || self.places.lake.folder().is_some() {
            return Ok(Known::Nobody);
        }
        let why = "which nobody in this project makes, and the lake is not on this machine".to_owned();
        Ok(Known::Unknown { why, hint: self.guess(table) })
    }

    async fn in_lake(&self, table: &TableName) -> Result<Option<SchemaRef>, PipelineError> {
        match self.reach {
            Reach::ThisMachine => columns::in_lake(table, &self.places).await,
            Reach::Lake => columns::of_table(table, &self.places).await,
        }
    }

    /// The tables that there are, or the one that was meant.
    fn guess(&self, table: &TableName) -> String {
        const MOST: usize = 12;
        let sinks = self.project.pipelines.iter().flat_map(PipelineSpec::sinks);
        let of_pipelines = sinks.map(|sink| sink.table.to_string());
        let of_transforms = self.project.transforms.iter().map(|spec| spec.table.to_string());
        let mut known: Vec<String> = of_pipelines.chain(of_transforms).chain([accepted_gaps().to_string()]).collect();
        known.sort();
        match nearest(&table.to_string(), known.iter().map(String::as_str)) {
            Some(near) => format!("did you mean `{near}`?"),
            None => {
                let shown: Vec<String> = known.iter().take(MOST).map(|name| quoted(name)).collect();
                let rest = if known.len() > MOST { ", …" } else { "" };
                format!("the project makes {}{rest}", shown.join(", "))
            }
        }
    }

    /// What a run would refuse of a table that is there already: columns that are gone or of another type.
    async fn changed(&self, node: &Node, schema: &SchemaRef) -> Result<Vec<Problem>, PipelineError> {
        let Some(held) = self.in_lake(&node.spec.table).await? else { return Ok(Vec::new()) };
        let mut problems = Vec::new();
        for (at, field) in schema.fields().iter().enumerate() {
            let before = held.fields().iter().find(|held| held.name().eq_ignore_ascii_case(field.name()));
            if let Some(before) = before.filter(|before| before.data_type() != field.data_type()) {
                let place = place_of_column(&node.parsed, at, field.name()).unwrap_or(0..0);
                let message = format!(
                    "column {} of `{}` is {} in the lake, and the query gives {}",
                    quoted(field.name()),
                    node.spec.table,
                    type_name(before.data_type()),
                    type_name(field.data_type())
                );
                let hint = "cast it to what it was, give it another name, or make the table again: `sluice transform --full-refresh`";
                problems.push(Problem::new(node.spec.sql_place(place), message).with_hint(hint));
            }
        }
        let gone = held
            .fields()
            .iter()
            .filter(|held| !schema.fields().iter().any(|field| field.name().eq_ignore_ascii_case(held.name())));
        for field in gone {
            let message = format!(
                "column {} of `{}` is in the lake, and the query gives none",
                quoted(field.name()),
                node.spec.table
            );
            let hint =
                "give it (`CAST(NULL AS …)` will do), or make the table again: `sluice transform --full-refresh`";
            problems.push(Problem::new(node.spec.sql_place(0..0), message).with_hint(hint));
        }
        Ok(problems)
    }
}

/// The columns of a table that stands beside that of a transform.
pub fn side_table(node: &Node, output: &Output, table: &TableName) -> Option<SchemaRef> {
    if *table == quarantine_of(&node.spec.table) {
        return Some(Arc::new(quarantine_schema(&output.schema)));
    }
    (*table == graves_of(&node.spec.table)).then(|| Arc::new(grave_schema(&node.spec, &output.schema)))
}
