//! Which tables are a project's to maintain, and what is declared for each.

use crate::batch::bronze;
use crate::catalog::accepted_gaps;
use crate::catalog::maintenance::jobs::FileSizes;
use crate::config::spec::{
    MaintenanceSpec, Mode, OWN_SCHEMA, PipelineSpec, ProjectSpec, SIDE_TABLES, TableName, TransformSpec,
};
use crate::transform::run::run_log;

/// The order of rows within a file of events.
const EVENT_ORDER: [&str; 4] = [bronze::SOURCE, bronze::PARTITION, bronze::SEQUENCE_NUMBER, bronze::RECORD_INDEX];

/// A table to maintain.
#[derive(Debug, Clone)]
pub struct Target {
    pub name: TableName,
    pub spec: MaintenanceSpec,
    /// The columns by which its rows are put in order, where it has them all.
    pub order: Vec<String>,
    pub sizes: FileSizes,
}

impl Target {
    pub fn of(project: &ProjectSpec, name: &TableName) -> Self {
        let declared = declared(project).find(|declared| declared.names.contains(name));
        let spec = declared.as_ref().map_or(&project.maintenance, |declared| declared.spec);
        // Who changes rows looks for them by their keys.
        let keys = declared.as_ref().and_then(|declared| declared.transform).map(|transform| &transform.keys);
        let order = match keys {
            Some(keys) if !keys.is_empty() => keys.clone(),
            _ => EVENT_ORDER.map(str::to_owned).to_vec(),
        };
        let gives_way = |transform: &TransformSpec| {
            transform.table == *name && matches!(transform.mode, Mode::Merge | Mode::History | Mode::Recompute)
        };
        let sizes = match declared.as_ref().and_then(|declared| declared.transform).is_some_and(gives_way) {
            true => FileSizes::Keyed,
            false => FileSizes::Declared,
        };
        Self { name: name.clone(), spec: spec.clone(), order, sizes }
    }
}

/// A table that the project writes, with those beside it.
struct Declared<'a> {
    names: Vec<TableName>,
    spec: &'a MaintenanceSpec,
    transform: Option<&'a TransformSpec>,
}

fn declared(project: &ProjectSpec) -> impl Iterator<Item = Declared<'_>> {
    let with_those_beside = |name: &TableName| {
        let beside = SIDE_TABLES
            .iter()
            .map(|(suffix, _)| TableName { schema: name.schema.clone(), table: format!("{}{suffix}", name.table) });
        [name.clone()].into_iter().chain(beside).collect()
    };
    let sinks = project.pipelines.iter().flat_map(PipelineSpec::sinks);
    let pipelines = sinks.map(move |sink| Declared {
        names: with_those_beside(&sink.table),
        spec: &sink.maintenance,
        transform: None,
    });
    let transforms = project.transforms.iter().map(move |transform| Declared {
        names: with_those_beside(&transform.table),
        spec: &transform.maintenance,
        transform: Some(transform),
    });
    pipelines.chain(transforms)
}

/// What of the lake's tables the project writes, and those of sluice itself. A lake may hold others' tables as well.
pub fn of_project(project: &ProjectSpec, there: &[TableName]) -> Vec<Target> {
    let ours: Vec<TableName> = declared(project).flat_map(|declared| declared.names).collect();
    let is_ours = |name: &&TableName| name.schema == OWN_SCHEMA || ours.contains(name);
    there.iter().filter(is_ours).map(|name| Target::of(project, name)).collect()
}

/// The tables that the project may have, whether they are there yet or not.
pub(super) fn that_may_be(project: &ProjectSpec) -> Vec<Target> {
    let names = declared(project).flat_map(|declared| declared.names).chain([accepted_gaps(), run_log::table()]);
    names.map(|name| Target::of(project, &name)).collect()
}

/// Whether a pipeline of the project fills this very table.
pub(super) fn is_of_pipeline(project: &ProjectSpec, name: &TableName) -> bool {
    project.pipelines.iter().any(|pipeline| pipeline.writes(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_that_nobody_declares_is_kept_as_all_are() {
        let options = crate::config::LoadOptions {
            project: Some(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/config/good/every_key").into()),
            env: None,
        };
        let variables = |name: &str| (name == "RATE").then(|| "1000".to_owned());
        let project = crate::config::load_with(&options, &variables).expect("a good project");
        let name = |text: &str| text.parse::<TableName>().expect("a name");
        let there = ["bronze.leads", "bronze.leads__dead_letters", "bronze.leads_too", "sluice.gaps", "silver.others"];
        let targets = of_project(&project, &there.map(name));
        let names: Vec<_> = targets.iter().map(|target| target.name.to_string()).collect();
        assert_eq!(names, ["bronze.leads", "bronze.leads__dead_letters", "sluice.gaps"]);
        let declared = &project.pipelines.iter().find(|pipeline| pipeline.sink.table == name("bronze.leads"));
        let declared = &declared.expect("it is declared").sink.maintenance;
        assert_ne!(*declared, project.maintenance);
        assert_eq!((&targets[0].spec, &targets[1].spec, &targets[2].spec), (declared, declared, &project.maintenance));
        assert_eq!(Target::of(&project, &name("silver.others")).spec, project.maintenance);
        assert_eq!(targets[0].order, EVENT_ORDER);
    }
}
