//! What is made of what, and so what comes before what.

use std::collections::{BTreeMap, BTreeSet};

use super::{Input, Parsed, parse};
use crate::catalog::sql::SqlProblem;
use crate::config::Problem;
use crate::config::spec::{Mode, SIDE_TABLES, TableName, TransformSpec};

/// A transform with its SQL read.
#[derive(Debug, Clone)]
pub struct Node {
    pub spec: TransformSpec,
    pub parsed: Parsed,
    /// The nodes whose tables it reads, by their numbers in [`Graph::nodes`]; all smaller than its own.
    pub before: BTreeSet<usize>,
    /// Of the tables that it reads, those whose rows their transforms may change.
    pub updated: BTreeSet<TableName>,
    /// Of the tables that it reads, those to which their transforms only add rows.
    pub grown: BTreeSet<TableName>,
    /// Whether its table has a change feed: a transform streams its changes, or it is declared.
    pub has_feed: bool,
}

impl Node {
    /// Whether an input is streamed by its changes, and its rows say of what kind they are.
    pub fn shows_changes(&self, input: &Input) -> bool {
        // What is computed again is computed over rows that are there.
        self.streams_changes(input) && self.spec.mode != Mode::Recompute
    }

    /// Whether what is new of an input is what its change feed says.
    pub fn streams_changes(&self, input: &Input) -> bool {
        input.is_streamed && self.updated.contains(&input.table)
    }
}

/// The transforms of a project, each after those whose tables it reads.
#[derive(Debug, Clone, Default)]
pub struct Graph {
    nodes: Vec<Node>,
}

impl Graph {
    /// Reads the SQL of all transforms. What can't be read or goes in a circle is told and left out, and so is nothing
    /// else: what reads a table of those stays.
    pub fn build(transforms: &[TransformSpec]) -> (Self, Vec<Problem>) {
        let mut problems = Vec::new();
        let mut open: Vec<(TransformSpec, Parsed)> = Vec::new();
        for spec in transforms {
            match parse(spec) {
                Ok(parsed) => open.push((spec.clone(), parsed)),
                Err(wrong) => problems.extend(wrong.into_iter().map(|problem| placed(spec, problem))),
            }
        }
        let rewritten: BTreeSet<TableName> =
            transforms.iter().filter(|spec| spec.mode.rewrites()).map(|spec| spec.table.clone()).collect();
        let inputs = open.iter().flat_map(|(_, parsed)| &parsed.inputs).filter(|input| input.is_streamed);
        let streamed: BTreeSet<TableName> = inputs.map(|input| input.table.clone()).collect();
        let mut nodes: Vec<Node> = Vec::new();
        loop {
            let waiting: BTreeSet<TableName> = open.iter().map(|(spec, _)| spec.table.clone()).collect();
            // In the order of their files, so that the order is always the same.
            let Some(at) = open.iter().position(|(_, parsed)| reads(parsed).is_disjoint(&waiting)) else { break };
            let (spec, parsed) = open.remove(at);
            let inputs = reads(&parsed);
            let before =
                nodes.iter().enumerate().filter(|(_, node)| inputs.contains(&node.spec.table)).map(|(at, _)| at);
            let before = before.collect();
            let updated = parsed
                .inputs
                .iter()
                .map(|input| input.table.clone())
                .filter(|table| rewritten.contains(table))
                .collect();
            let is_grown =
                |table: &TableName| transforms.iter().any(|spec| spec.table == *table && !spec.mode.rewrites());
            let grown = inputs.iter().filter(|table| is_grown(table)).cloned().collect();
            let has_feed = spec.change_feed || (spec.mode.rewrites() && streamed.contains(&spec.table));
            nodes.push(Node { spec, parsed, before, updated, grown, has_feed });
        }
        problems.extend(cycles(&open));
        (Self { nodes }, problems)
    }

    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    pub fn node(&self, table: &TableName) -> Option<&Node> {
        self.nodes.iter().find(|node| node.spec.table == *table)
    }

    /// The nodes that read the table of another, directly or through others.
    pub fn after(&self, number: usize) -> BTreeSet<usize> {
        let mut after = BTreeSet::from([number]);
        for (at, node) in self.nodes.iter().enumerate() {
            if !node.before.is_disjoint(&after) {
                after.insert(at);
            }
        }
        after.remove(&number);
        after
    }
}

/// The table that a side table belongs to; any other table itself.
pub fn owner_of(table: &TableName) -> TableName {
    let owner = SIDE_TABLES.iter().find_map(|(suffix, _)| table.table.strip_suffix(suffix)).unwrap_or(&table.table);
    TableName { schema: table.schema.clone(), table: owner.to_owned() }
}

fn reads(parsed: &Parsed) -> BTreeSet<TableName> {
    parsed.inputs.iter().map(|input| owner_of(&input.table)).collect()
}

/// One problem for each circle, named whole, at the place in the SQL where it closes.
fn cycles(open: &[(TransformSpec, Parsed)]) -> Vec<Problem> {
    let by_table: BTreeMap<&TableName, usize> =
        open.iter().enumerate().map(|(at, (spec, _))| (&spec.table, at)).collect();
    let mut told: BTreeSet<usize> = BTreeSet::new();
    let mut problems = Vec::new();
    for start in 0..open.len() {
        // Whoever only hangs on a circle isn't part of one; whoever is in one finds itself again.
        let Some(circle) = circle_of(start, open, &by_table).filter(|_| !told.contains(&start)) else { continue };
        told.extend(&circle);
        let names: Vec<String> = circle.iter().chain([&start]).map(|at| format!("`{}`", open[*at].0.table)).collect();
        let (spec, parsed) = &open[start];
        let next = circle.get(1).copied().unwrap_or(start);
        let input = parsed.inputs.iter().find(|input| owner_of(&input.table) == open[next].0.table);
        let place = spec.sql_place(input.map_or(0..0, |input| input.place.clone()));
        let message = match names.as_slice() {
            [only, _] => format!("{only} is made of itself"),
            names => format!("tables are made of each other: {}", names.join(" reads ")),
        };
        let hint = "take one of them out of the circle: read what it is made of, or make it in one query";
        problems.push(Problem::new(place, message).with_hint(hint));
    }
    problems
}

/// The shortest way from a transform back to itself.
fn circle_of(
    start: usize,
    open: &[(TransformSpec, Parsed)],
    by_table: &BTreeMap<&TableName, usize>,
) -> Option<Vec<usize>> {
    let mut came_from: BTreeMap<usize, usize> = BTreeMap::new();
    let mut queue = std::collections::VecDeque::from([start]);
    while let Some(at) = queue.pop_front() {
        for table in reads(&open[at].1) {
            let Some(next) = by_table.get(&table).copied() else { continue };
            if next == start {
                let mut way = vec![at];
                while let Some(before) = way.last().filter(|at| **at != start).and_then(|at| came_from.get(at)) {
                    way.push(*before);
                }
                way.reverse();
                return Some(way);
            }
            if let std::collections::btree_map::Entry::Vacant(entry) = came_from.entry(next) {
                entry.insert(at);
                queue.push_back(next);
            }
        }
    }
    None
}

/// A mistake of a transform's SQL as a problem of its file.
pub fn placed(spec: &TransformSpec, problem: SqlProblem) -> Problem {
    let place = spec.sql_place(problem.place.unwrap_or(0..0));
    let told = Problem::new(place, problem.message);
    match problem.hint {
        Some(hint) => told.with_hint(hint),
        None => told,
    }
}
