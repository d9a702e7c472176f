//! How a query treats the changes of a table that is updated: they are rows as any others to SQL, and a row that was
//! deleted would pass for a new one.

use std::ops::ControlFlow;

use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::logical_expr::LogicalPlan;
use datafusion::prelude::SessionContext;
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{Expr, Visit as _, Visitor};

use super::graph::Node;
use super::output::Output;
use super::{Input, Parsed, place_of_column};
use crate::catalog::change_data::{CHANGE_TYPE, COLUMNS, reserved};
use crate::config::Problem;
use crate::config::spec::Mode;

/// What is wrong with how the query of a transform treats changes, and with the names of its columns.
pub(super) fn problems(session: &SessionContext, node: &Node, output: &Output) -> Vec<Problem> {
    let mut problems = reserved_names(node, output);
    let shown: Vec<&Input> = node.parsed.inputs.iter().filter(|input| node.shows_changes(input)).collect();
    if shown.is_empty() {
        return problems;
    }
    // Without the columns that nothing is made of.
    let Ok(plan) = session.state().optimize(&output.plan) else { return problems };
    let is_heeded = is_named(&node.parsed) || passes_on(node, output);
    for input in shown.into_iter().filter(|input| !is_heeded || !is_read(&plan, input)) {
        let message = format!(
            "`{}` is updated, and nothing asks for `{CHANGE_TYPE}`: deleted rows and old states would pass for new rows",
            input.table
        );
        let place = node.spec.sql_place(input.place.clone());
        problems.push(Problem::new(place, message).with_hint(way_out(node.spec.mode)));
    }
    problems
}

fn way_out(mode: Mode) -> &'static str {
    match mode {
        Mode::Merge | Mode::History => {
            "write `WHERE _change_type <> 'update_preimage'`, select `_change_type` and `_commit_version`, and declare \
             `delete_when = \"_change_type = 'delete'\"` and `sequence_by = [\"_commit_version\", \"_change_type\"]`"
        }
        _ => {
            "write `WHERE _change_type = 'insert'`, or what else you want: it is `insert`, `update_preimage`, \
             `update_postimage` or `delete`; or select it"
        }
    }
}

/// Why a column of changes isn't there where keys are computed again.
pub(super) fn hint_of_recompute(node: &Node, message: &str) -> Option<String> {
    let streams = node.parsed.inputs.iter().any(|input| node.streams_changes(input));
    let is_about = node.spec.mode == Mode::Recompute && streams && COLUMNS.iter().any(|name| message.contains(name));
    is_about.then(|| {
        "`mode = \"recompute\"` computes over the rows that are there: changes say only which keys are computed again"
            .to_owned()
    })
}

fn reserved_names(node: &Node, output: &Output) -> Vec<Problem> {
    let names = reserved(&output.schema).filter(|_| node.has_feed);
    let problems = names.map(|name| {
        let at = output.schema.index_of(name).unwrap_or_default();
        let place = node.spec.sql_place(place_of_column(&node.parsed, at, name).unwrap_or(0..0));
        let message = format!("column `{name}` has a name that belongs to the change feed of `{}`", node.spec.table);
        Problem::new(place, message).with_hint(format!("give it another: `{name} AS …`"))
    });
    problems.collect()
}

/// Whether the table, or its declaration, gets to know what each row is.
fn passes_on(node: &Node, output: &Output) -> bool {
    if output.schema.field_with_name(CHANGE_TYPE).is_err() {
        return false;
    }
    let spec = &node.spec;
    match spec.mode {
        Mode::Merge | Mode::History => {
            spec.delete_when.as_ref().is_some_and(|condition| condition.contains(CHANGE_TYPE))
                || spec.keys.iter().chain(&spec.sequence_by).any(|name| name == CHANGE_TYPE)
        }
        _ => true,
    }
}

/// Whether the query names the column anywhere.
fn is_named(parsed: &Parsed) -> bool {
    match &parsed.statement {
        Statement::Statement(statement) => statement.visit(&mut NamesType).is_break(),
        _ => false,
    }
}

struct NamesType;

impl Visitor for NamesType {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        let name = match expr {
            Expr::Identifier(name) => Some(name),
            Expr::CompoundIdentifier(names) => names.last(),
            _ => None,
        };
        if name.is_some_and(|name| name.value == CHANGE_TYPE) {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    }
}

/// Whether each scan of the input reads the column.
fn is_read(plan: &LogicalPlan, input: &Input) -> bool {
    let wanted = input.reference();
    let mut is_read = true;
    let looked = plan.apply_with_subqueries(|node| {
        if let LogicalPlan::TableScan(scan) = node
            && scan.table_name.table() == wanted.table()
            && scan.table_name.schema() == wanted.schema()
        {
            is_read &= scan.projected_schema.has_column_with_unqualified_name(CHANGE_TYPE);
        }
        Ok(TreeNodeRecursion::Continue)
    });
    looked.is_ok() && is_read
}
