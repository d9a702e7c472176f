//! `[[route]]` of a pipeline, from what is declared to what it means.

use super::declared::{PropertyTable, RouteTable};
use super::document::{Node, Value};
use super::pipeline::{commit_duration, commit_size, table_name};
use super::problem::{Place, Problem};
use super::reading::Reading;
use super::spec::{Predicate, RouteCondition, RouteSpec, RouteTo, SinkSpec, TableName};

/// Each table costs a writer; who has more than these has made a table of every event.
const MOST_ROUTES: usize = 1_000;

/// The settings of a table.
const SETTINGS: [&str; 3] = ["commit_every", "commit_bytes", "coverage_every"];

/// The routes of a pipeline, and the tables that only they name.
#[derive(Debug, Default)]
pub(super) struct Built {
    pub routes: Vec<RouteSpec>,
    pub sinks: Vec<SinkSpec>,
    /// Where each of these tables is named first.
    pub places: Vec<(String, Place)>,
    /// Something is wrong with one of them: it must not become none.
    pub is_broken: bool,
}

/// Reads the routes of a file, as far as they can be read; `tables` are those that `root` holds.
pub(super) fn build(
    root: &Node,
    tables: Vec<RouteTable>,
    sink: Option<&SinkSpec>,
    problems: &mut Vec<Problem>,
) -> Built {
    let Some(Value::Array(nodes)) = root.within(&["route"]).map(|node| &node.value) else {
        return Built { is_broken: root.at(&["route"]).is_some(), ..Built::default() };
    };
    if nodes.len() > MOST_ROUTES {
        let message = format!("a pipeline may have {MOST_ROUTES} routes, and this one has {}", nodes.len());
        problems.push(Problem::new(root.place(&["route"]), message).with_hint("make pipelines of some of them"));
        return Built { is_broken: true, ..Built::default() };
    }
    let mut built = Built { is_broken: sink.is_none(), ..Built::default() };
    for (at, (node, table)) in nodes.iter().zip(tables).enumerate() {
        let mut reading = Reading { root: node, problems };
        match route(table, at + 1 == nodes.len(), sink, &mut built, &mut reading) {
            Some(route) => built.routes.push(route),
            None => built.is_broken = true,
        }
    }
    built
}

fn route(
    table: RouteTable,
    is_last: bool,
    sink: Option<&SinkSpec>,
    built: &mut Built,
    reading: &mut Reading<'_>,
) -> Option<RouteSpec> {
    let before = reading.problems.len();
    let has = |reading: &Reading<'_>, key: &str| reading.root.at(&[key]).is_some();
    let named = table.table.as_ref().map(|name| name.0.as_str());
    let name = reading.parse(&["table"], named, "the name of a table", table_name);
    let ways = [has(reading, "table"), table.filter == Some(true), table.reject == Some(true)];
    if ways.into_iter().filter(|way| *way).count() != 1 {
        let hint = "write one of `table = \"bronze.…\"`, `filter = true` and `reject = true`";
        reading.wrong(&[], "a route leads to exactly one place", hint);
    }
    if !has(reading, "table") {
        for key in SETTINGS.into_iter().filter(|key| reading.root.at(&[key]).is_some()) {
            reading.wrong(&[key], format!("`{key}` does nothing without `table`"), "remove it");
        }
    }
    let when = condition(&table, reading);
    let keys = ["schema", "type", "property", "when"];
    if !keys.into_iter().any(|key| has(reading, key)) {
        if has(reading, "table") {
            let hint = "name the table for all other events in `[sink]`, and remove the route";
            reading.wrong(&[], "a route to a table needs a condition", hint);
        } else if !is_last {
            let hint = "let it stand last, or say what it takes: `type`, `schema`, `property`, `when`";
            reading.wrong(&[], "a route without a condition takes all that comes to it", hint);
        }
    }
    if let Some(when) = &when
        && built.routes.iter().any(|other| other.when == *when)
    {
        reading.wrong(&[], "a route before this one takes the same events", "remove one of them");
    }
    let to = match (name, ways) {
        (Some(name), _) => table_of(name, &table, sink, built, reading).map(RouteTo::Table),
        (None, [false, true, false]) => Some(RouteTo::Filter),
        (None, [false, false, true]) => Some(RouteTo::Reject),
        _ => None,
    };
    let route = RouteSpec { when: when?, to: to? };
    (reading.problems.len() == before).then_some(route)
}

/// The table's settings, where it is named first; later routes share them.
fn table_of(
    name: TableName,
    table: &RouteTable,
    sink: Option<&SinkSpec>,
    built: &mut Built,
    reading: &mut Reading<'_>,
) -> Option<TableName> {
    let sink = sink?;
    if sink.table == name || built.sinks.iter().any(|known| known.table == name) {
        for key in SETTINGS.into_iter().filter(|key| reading.root.at(&[key]).is_some()) {
            let message = format!("`{key}` of `{name}` is said where the table is named first");
            reading.wrong(&[key], message, "say it there");
        }
        return Some(name);
    }
    let duration = |key, text, default, reading: &mut Reading<'_>| match text {
        Some(text) => commit_duration(&[key], text, reading),
        None => Some(default),
    };
    let every = table.commit_every.as_ref().map(|text| text.0.as_str());
    let commit_every = duration("commit_every", every, sink.commit_every, reading);
    let every = table.coverage_every.as_ref().map(|text| text.0.as_str());
    let coverage_every = duration("coverage_every", every, sink.coverage_every, reading);
    let commit_bytes = match table.commit_bytes.as_ref().map(|text| text.0.as_str()) {
        Some(text) => commit_size(&["commit_bytes"], text, reading),
        None => Some(sink.commit_bytes),
    };
    if let Some(commit) = commit_bytes.filter(|commit| *commit > sink.max_in_flight_bytes) {
        let message =
            format!("`commit_bytes` ({commit}) is more than `max_in_flight_bytes` ({})", sink.max_in_flight_bytes);
        reading.wrong(&["commit_bytes"], message, "reading would pause before a commit is full");
    }
    built.places.push((name.to_string(), reading.place(&["table"])));
    built.sinks.push(SinkSpec {
        table: name.clone(),
        commit_every: commit_every?,
        coverage_every: coverage_every?,
        commit_bytes: commit_bytes?,
        ..sink.clone()
    });
    Some(name)
}

fn condition(table: &RouteTable, reading: &mut Reading<'_>) -> Option<RouteCondition> {
    let before = reading.problems.len();
    let mut said = |key: &'static str, text: Option<&str>| {
        let text = text?;
        if text.trim().is_empty() {
            reading.wrong(&[key], format!("`{key}` says nothing"), "remove it, or say what the route takes");
        }
        Some(text.to_owned())
    };
    let schema = said("schema", table.schema.as_deref());
    let event_type = said("type", table.event_type.as_deref());
    let when = said("when", table.when.as_deref());
    let predicate = when.map(|text| Predicate { text, place: reading.place(&["when"]) });
    let property = match &table.property {
        Some(PropertyTable { name: Some(name), value: Some(value) }) => Some((name.clone(), value.clone())),
        _ => None,
    };
    // A condition that is wrong must not become none.
    let declared = ["schema", "type", "property", "when"].into_iter().filter(|key| reading.root.at(&[key]).is_some());
    let found = [schema.is_some(), event_type.is_some(), property.is_some(), predicate.is_some()];
    let is_whole = declared.count() == found.into_iter().filter(|found| *found).count();
    let condition = RouteCondition { schema, event_type, property, predicate };
    (is_whole && reading.problems.len() == before).then_some(condition)
}
