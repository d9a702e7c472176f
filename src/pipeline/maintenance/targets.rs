//! Which tables are a project's to maintain, and what is declared for each.

use crate::config::spec::{MaintenanceSpec, OWN_SCHEMA, ProjectSpec, TableName};

/// A table to maintain.
#[derive(Debug, Clone)]
pub struct Target {
    pub name: TableName,
    pub spec: MaintenanceSpec,
}

impl Target {
    pub fn of(project: &ProjectSpec, name: &TableName) -> Self {
        let spec = declared(project, name).unwrap_or(&project.maintenance);
        Self { name: name.clone(), spec: spec.clone() }
    }
}

/// What of the lake's tables the project writes: those that it declares, what belongs to them
/// (`<table>__dead_letters`), and those of sluice itself. A lake may hold others' tables as well.
pub fn of_project(project: &ProjectSpec, there: &[TableName]) -> Vec<Target> {
    let is_ours = |name: &&TableName| name.schema == OWN_SCHEMA || declared(project, name).is_some();
    there.iter().filter(is_ours).map(|name| Target::of(project, name)).collect()
}

/// What the declaration says that writes the table, or the table to which it belongs.
fn declared<'a>(project: &'a ProjectSpec, name: &TableName) -> Option<&'a MaintenanceSpec> {
    let tables = || project.pipelines.iter().map(|pipeline| (&pipeline.sink.table, &pipeline.sink.maintenance));
    let belongs_to = |table: &TableName| {
        table.schema == name.schema && name.table.strip_prefix(&table.table).is_some_and(|rest| rest.starts_with("__"))
    };
    let exact = tables().find(|(table, _)| *table == name);
    exact.or_else(|| tables().find(|(table, _)| belongs_to(table))).map(|(_, spec)| spec)
}

/// Whether the project declares this very table.
pub(super) fn is_declared(project: &ProjectSpec, name: &TableName) -> bool {
    project.pipelines.iter().any(|pipeline| pipeline.sink.table == *name)
}
