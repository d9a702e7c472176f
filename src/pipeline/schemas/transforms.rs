//! What becomes of the transforms when tables gain columns, or get nothing more for some: each is planned over the tables
//! as they are and as they would be.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use serde::Serialize;

use super::effect::{Change, ColumnChange};
use crate::columns::type_name;
use crate::config::Problem;
use crate::config::spec::{ProjectSpec, TableName};
use crate::pipeline::PipelineError;
use crate::pipeline::check::{Checked, Reach, check_over};
use crate::sink::delta::schema::{Fate, fates};
use crate::transform::columns_read;
use crate::transform::graph::{Node, owner_of};

/// The shapes that scripts read: fields may be added, never renamed or removed.
#[derive(Debug, Clone, Serialize)]
pub struct TransformDiff {
    /// Its table.
    pub transform: String,
    pub owner: String,
    /// The tables that change and that it reads itself.
    pub reads: Vec<String>,
    pub effect: TransformEffect,
    /// What its table gains.
    pub columns: Vec<GainedColumn>,
    /// Columns that it reads, as `bronze.leads.id`, and that are null for the new events.
    pub nulls: Vec<String>,
    /// Why it breaks.
    pub problems: Vec<Problem>,
    /// Why nothing can be said.
    pub why: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum TransformEffect {
    Unaffected,
    GainsColumns,
    /// The next run would refuse it.
    Breaks,
    Unknown,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GainedColumn {
    /// `address.zip`, where a part of it is gained.
    pub column: String,
    #[serde(rename = "type")]
    pub data_type: Option<String>,
}

/// A table that gets events of the new schema.
#[derive(Debug, Clone)]
pub(super) struct Met {
    pub(super) table: TableName,
    /// Its columns as they are.
    pub(super) held: SchemaRef,
    /// And as they would be.
    pub(super) grown: SchemaRef,
    pub(super) columns: Vec<ColumnChange>,
}

/// What becomes of the transforms that read these tables, or what is made of them.
///
/// # Errors
/// Errors of storage; files of the project that vanished.
pub(super) async fn diff(project: &ProjectSpec, met: &[Met]) -> Result<Vec<TransformDiff>, PipelineError> {
    let met: Vec<&Met> = met.iter().filter(|met| !met.columns.is_empty()).collect();
    if met.is_empty() || project.transforms.is_empty() {
        return Ok(Vec::new());
    }
    let of = |columns: fn(&Met) -> &SchemaRef| met.iter().map(move |met| (met.table.clone(), Arc::clone(columns(met))));
    let before = check_over(project, of(|met| &met.held).collect(), Reach::Lake).await?;
    let is_made = |table: &TableName| project.transforms.iter().any(|spec| spec.table == owner_of(table));
    // What no transform makes is as it was found, but for the tables that change.
    let given = before.columns.iter().filter(|(table, _)| !is_made(table));
    let mut given: BTreeMap<TableName, SchemaRef> =
        given.map(|(table, columns)| (table.clone(), Arc::clone(columns))).collect();
    given.extend(of(|met| &met.grown));
    let after = check_over(project, given, Reach::Lake).await?;

    let mut reached: BTreeSet<TableName> = met.iter().map(|met| met.table.clone()).collect();
    let mut found = Vec::new();
    for node in before.graph.nodes() {
        // Side tables have the columns of their transform's table; the dead letters of a pipeline have their own.
        let changes =
            |table: &TableName| reached.contains(table) || is_made(table) && reached.contains(&owner_of(table));
        let reads: BTreeSet<&TableName> =
            node.parsed.inputs.iter().map(|input| &input.table).filter(|table| changes(table)).collect();
        if reads.is_empty() {
            continue;
        }
        found.push(of_node(node, &reads, &met, &before, &after));
        reached.insert(node.spec.table.clone());
    }
    Ok(found)
}

fn of_node(
    node: &Node,
    reads: &BTreeSet<&TableName>,
    met: &[&Met],
    before: &Checked,
    after: &Checked,
) -> TransformDiff {
    let table = &node.spec.table;
    let wrong_already = before.wrong.get(table).map(Vec::as_slice).unwrap_or_default();
    let wrong = after.wrong.get(table).map(Vec::as_slice).unwrap_or_default();
    let problems: Vec<Problem> = wrong.iter().filter(|problem| !wrong_already.contains(problem)).cloned().collect();
    let mut columns = Vec::new();
    let (effect, why) = match (before.columns.get(table), after.columns.get(table)) {
        _ if !problems.is_empty() => (TransformEffect::Breaks, None),
        _ if !wrong_already.is_empty() => {
            (TransformEffect::Unknown, Some("it is wrong as it is: `sluice check` says how".to_owned()))
        }
        (Some(before), Some(after)) => {
            let (_, fates) = fates(before.fields(), after.fields());
            let gained = fates.into_iter().filter(|fate| fate.fate == Fate::Added);
            columns.extend(
                gained.map(|fate| GainedColumn { column: fate.path, data_type: fate.new.as_ref().map(type_name) }),
            );
            let is_same = columns.is_empty();
            (if is_same { TransformEffect::Unaffected } else { TransformEffect::GainsColumns }, None)
        }
        (Some(_), None) => {
            let is_gone = |table: &&&TableName| !after.columns.contains_key(&owner_of(table));
            let broken: Vec<String> = reads.iter().filter(is_gone).map(|table| format!("`{table}`")).collect();
            (TransformEffect::Unknown, Some(format!("it reads {}, which breaks before it", broken.join(", "))))
        }
        (None, _) => (TransformEffect::Unknown, Some("the columns of what it reads aren't known".to_owned())),
    };
    TransformDiff {
        transform: table.to_string(),
        owner: node.spec.owner.clone(),
        reads: reads.iter().map(ToString::to_string).collect(),
        effect,
        columns,
        nulls: nulls(node, met, before),
        problems,
        why,
    }
}

/// The columns that a transform reads of tables, and that are null for the new events.
fn nulls(node: &Node, met: &[&Met], before: &Checked) -> Vec<String> {
    let Some(output) = before.outputs.get(&node.spec.table) else { return Vec::new() };
    let read = match columns_read(&node.parsed, &output.plan) {
        Ok(read) => read,
        Err(error) => {
            tracing::debug!(table = %node.spec.table, %error, "the columns that a transform reads can't be told");
            return Vec::new();
        }
    };
    let of_table = |met: &&Met| {
        let read = read.get(&met.table)?;
        let is_null = |column: &&ColumnChange| matches!(column.change, Change::Rescued | Change::Unwritten);
        let is_read = |column: &&ColumnChange| read.contains(column.column.split('.').next().unwrap_or_default());
        let columns = met.columns.iter().filter(is_null).filter(is_read);
        Some(columns.map(|column| format!("{}.{}", met.table, column.column)).collect::<Vec<_>>())
    };
    met.iter().filter_map(of_table).flatten().collect()
}
