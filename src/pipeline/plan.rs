//! What a project makes of what, and what running it would change in its lake.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::datasource::empty::EmptyTable;
use serde::Serialize;

use super::check::Checked;
use super::roles::{Role, roles};
use super::setup::Places;
use super::{PipelineError, columns};
use crate::catalog::change_data::{is_on, with_columns};
use crate::catalog::log::{log_store_to_read, read_head};
use crate::catalog::{Catalog, CatalogError, table_location};
use crate::columns::type_name;
use crate::config::Problem;
use crate::config::spec::{PipelineSpec, ProjectSpec, SinkSpec, TableName, TransformSpec};
use crate::transform::graph::{self, Node};
use crate::transform::run::output::CONFIG_HASH;
use crate::transform::{Input, explain, plain_schema, planned, register, session};

/// The shape that scripts read: fields may be added, never renamed or removed.
#[derive(Debug, Serialize)]
pub struct Plan {
    /// Each after those that it is made of.
    pub tables: Vec<PlannedTable>,
    pub roles: Vec<Role>,
}

#[derive(Debug, Serialize)]
pub struct PlannedTable {
    pub name: String,
    pub owner: String,
    /// The file that declares it.
    pub file: String,
    /// The hub or the captures that a pipeline reads; none for transforms.
    pub source: Option<String>,
    /// How a transform writes it; none for pipelines.
    pub mode: Option<&'static str>,
    pub keys: Vec<String>,
    /// When a transform runs.
    pub trigger: Option<String>,
    pub reads: Vec<Read>,
    /// Whether a change feed is turned on that it hasn't yet.
    pub change_feed_added: bool,
    pub change: Change,
    /// What it has, or will have; none where that isn't known on this machine.
    pub columns: Option<Vec<PlannedColumn>>,
    pub columns_added: Vec<PlannedColumn>,
    /// Whether SQL or declaration differ from those that last wrote it; none where that isn't known.
    pub config_changed: Option<bool>,
}

#[derive(Debug, Serialize)]
pub struct Read {
    pub table: String,
    pub streamed: bool,
    /// What is streamed are rows that are inserted, updated and deleted.
    pub changes: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PlannedColumn {
    pub name: String,
    /// As Delta calls it.
    pub r#type: String,
}

/// What the next run does to a table beside writing rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// It is made.
    Create,
    /// Columns are added.
    Alter,
    None,
    /// Its columns aren't known, or the lake was not asked.
    Unknown,
}

/// A table as the lake has it.
struct Held {
    columns: SchemaRef,
    config_hash: Option<String>,
    has_feed: bool,
}

/// Compares a project that was checked with its lake.
///
/// # Errors
/// A lake that can't be read.
pub async fn plan(project: &ProjectSpec, checked: &Checked) -> Result<Plan, PipelineError> {
    let places = Places::of(project)?;
    let mut tables = Vec::new();
    for pipeline in &project.pipelines {
        for SinkSpec { table, .. } in pipeline.sinks() {
            let columns = match columns::declared(pipeline)? {
                Some(declared) => Some(declared),
                None => checked.columns.get(table).cloned(),
            };
            tables.push(of_pipeline(pipeline, table, columns, held(table, &places).await?));
        }
    }
    for node in checked.graph.nodes() {
        let columns = checked.columns.get(&node.spec.table).cloned();
        tables.push(of_transform(node, columns, held(&node.spec.table, &places).await?));
    }
    Ok(Plan { tables, roles: roles(project) })
}

async fn held(table: &TableName, places: &Places) -> Result<Option<Held>, PipelineError> {
    let Some(store) = log_store_to_read(&table_location(&places.lake, table)).await? else { return Ok(None) };
    let Some(head) = read_head(&store).await? else { return Ok(None) };
    let opened = Catalog::new(&places.lake).open(table, None).await?;
    let configuration = head.metadata.configuration();
    Ok(opened.map(|table| Held {
        columns: plain_schema(&table.provider.schema()),
        config_hash: configuration.get(CONFIG_HASH).cloned(),
        has_feed: is_on(&head.metadata),
    }))
}

fn of_pipeline(
    pipeline: &PipelineSpec,
    table: &TableName,
    columns: Option<SchemaRef>,
    held: Option<Held>,
) -> PlannedTable {
    let source = match (pipeline.is_live, &pipeline.capture) {
        (true, None) => format!("hub `{}`", pipeline.source.hub),
        (true, Some(_)) => format!("hub `{}` and its captures", pipeline.source.hub),
        (false, _) => format!("captures of hub `{}`", pipeline.source.hub),
    };
    let (change, columns_added) = change(columns.as_ref(), held.as_ref());
    PlannedTable {
        name: table.to_string(),
        owner: pipeline.owner.clone(),
        file: pipeline.file.display().to_string(),
        source: Some(source),
        mode: None,
        keys: Vec::new(),
        trigger: pipeline.schedule.as_ref().map(|schedule| format!("cron {}", schedule.cron)),
        reads: Vec::new(),
        change_feed_added: false,
        change,
        columns: columns.or(held.map(|held| held.columns)).as_ref().map(columns_of),
        columns_added,
        config_changed: None,
    }
}

fn of_transform(node: &Node, columns: Option<SchemaRef>, held: Option<Held>) -> PlannedTable {
    let spec: &TransformSpec = &node.spec;
    let (change, columns_added) = change(columns.as_ref(), held.as_ref());
    let before = held.as_ref().and_then(|held| held.config_hash.as_ref());
    let reads = node.parsed.inputs.iter();
    PlannedTable {
        name: spec.table.to_string(),
        owner: spec.owner.clone(),
        file: spec.file.display().to_string(),
        source: None,
        mode: Some(spec.mode.as_str()),
        keys: spec.keys.clone(),
        trigger: Some(spec.trigger.to_string()),
        reads: reads.map(|input| read(node, input)).collect(),
        change_feed_added: node.has_feed && held.as_ref().is_none_or(|held| !held.has_feed),
        change,
        config_changed: before.map(|before| *before != spec.config_hash),
        columns: columns.or(held.map(|held| held.columns)).as_ref().map(columns_of),
        columns_added,
    }
}

fn read(node: &Node, input: &Input) -> Read {
    Read { table: input.table.to_string(), streamed: input.is_streamed, changes: node.streams_changes(input) }
}

/// What becomes of a table that is to have `wanted`.
fn change(wanted: Option<&SchemaRef>, held: Option<&Held>) -> (Change, Vec<PlannedColumn>) {
    match (wanted, held) {
        (_, None) => (Change::Create, Vec::new()),
        (None, Some(_)) => (Change::Unknown, Vec::new()),
        (Some(wanted), Some(held)) => {
            let is_new =
                |name: &str| !held.columns.fields().iter().any(|field| field.name().eq_ignore_ascii_case(name));
            let added: Vec<PlannedColumn> =
                columns_of(wanted).into_iter().filter(|column| is_new(&column.name)).collect();
            (if added.is_empty() { Change::None } else { Change::Alter }, added)
        }
    }
}

fn columns_of(schema: &SchemaRef) -> Vec<PlannedColumn> {
    let fields = schema.fields().iter();
    fields.map(|field| PlannedColumn { name: field.name().clone(), r#type: type_name(field.data_type()) }).collect()
}

/// A transform's query as it would run.
#[derive(Debug, Serialize)]
pub struct ExplainedTransform {
    pub table: String,
    pub mode: &'static str,
    pub reads: Vec<Read>,
    /// What the query means, after optimising.
    pub logical: String,
    /// The operators that do it, over the tables as they are, and empty ones where there are none yet.
    pub physical: String,
}

/// Explains the transforms of these tables, or all; a run over a streamed table reads only what is new of it.
///
/// # Errors
/// Tables that can't be read; [`PipelineError::UnknownTransform`].
pub async fn explained(
    project: &ProjectSpec,
    checked: &Checked,
    tables: &[TableName],
) -> Result<Vec<ExplainedTransform>, PipelineError> {
    let lake = Catalog::new(&Places::of(project)?.lake);
    let nodes = checked.graph.nodes();
    if let Some(unknown) = tables.iter().find(|table| checked.graph.node(table).is_none()) {
        let known = nodes.iter().map(|node| node.spec.table.to_string()).collect();
        return Err(PipelineError::UnknownTransform { name: unknown.to_string(), known });
    }
    let mut explained = Vec::new();
    for node in nodes.iter().filter(|node| tables.is_empty() || tables.contains(&node.spec.table)) {
        let failed = |source| {
            let table = node.spec.table.to_string();
            PipelineError::Catalog(CatalogError::Query { table, source: Box::new(source) })
        };
        let session = session(Arc::default());
        for input in &node.parsed.inputs {
            let provider = match (lake.open(&input.table, None).await?, checked.columns.get(&input.table)) {
                (Some(table), _) if node.shows_changes(input) => {
                    Arc::new(EmptyTable::new(with_columns(&plain_schema(&table.provider.schema()))))
                }
                (None, Some(columns)) if node.shows_changes(input) => Arc::new(EmptyTable::new(with_columns(columns))),
                (Some(table), _) => table.provider,
                (None, Some(columns)) => Arc::new(EmptyTable::new(Arc::clone(columns))),
                (None, None) => return Err(PipelineError::Sql(vec![unknown_columns(node, input)])),
            };
            register(&session, input, provider).map_err(failed)?;
        }
        let output = planned(&session, &node.parsed).await;
        let output = output.map_err(|problems| {
            PipelineError::Sql(problems.into_iter().map(|problem| graph::placed(&node.spec, problem)).collect())
        })?;
        let plans = explain(&session, &node.parsed, &output.plan).await.map_err(failed)?;
        let reads = node.parsed.inputs.iter();
        explained.push(ExplainedTransform {
            table: node.spec.table.to_string(),
            mode: node.spec.mode.as_str(),
            reads: reads.map(|input| read(node, input)).collect(),
            logical: plans.logical,
            physical: plans.physical,
        });
    }
    Ok(explained)
}

fn unknown_columns(node: &Node, input: &Input) -> Problem {
    let place = node.spec.sql_place(input.place.clone());
    Problem::new(place, format!("the columns of `{}` are unknown", input.table)).with_hint("`sluice check` says why")
}

/// How many tables are made, are changed, stay, and aren't known.
pub fn counts(plan: &Plan) -> BTreeMap<&'static str, usize> {
    let mut counts = BTreeMap::new();
    for table in &plan.tables {
        let is_written_anew = table.config_changed == Some(true) || table.change_feed_added;
        let what = match table.change {
            Change::Create => "create",
            Change::Alter => "change",
            Change::None if is_written_anew => "change",
            Change::None => "keep",
            Change::Unknown => "unknown",
        };
        *counts.entry(what).or_default() += 1;
    }
    counts
}
