//! From a parsed query to its plan.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::DataFusionError;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::logical_expr::LogicalPlan;
use datafusion::prelude::{SQLOptions, SessionContext};
use datafusion::sql::parser::Statement;

use super::diagnose::diagnose;
use super::output::{Output, output};
use super::place::place_of_column;
use super::words;
use super::{Input, Parsed, session};
use crate::catalog::sql::{SqlProblem, plain};
use crate::config::spec::TableName;

/// Plans a query over the inputs that `session` has been told of.
///
/// # Errors
/// Every mistake that planning tells.
pub async fn logical_plan(session: &SessionContext, parsed: &Parsed) -> Result<LogicalPlan, Vec<SqlProblem>> {
    all_there(session, parsed)?;
    let plan = session.state().statement_to_plan(parsed.statement.clone()).await;
    let plan = plan.map_err(|error| readable(parsed, words::problems(&error, &parsed.sql)))?;
    reads_only(plan)
}

/// Plans the query of a transform, with the columns that its table has.
///
/// # Errors
/// Every mistake that planning tells, and the columns that no table can have.
pub async fn planned(session: &SessionContext, parsed: &Parsed) -> Result<Output, Vec<SqlProblem>> {
    let plan = logical_plan(session, parsed).await?;
    let made = output(plan).map_err(|error| readable(parsed, words::problems(&error, &parsed.sql)))?;
    made.map_err(|columns| {
        let problems = columns.into_iter().map(|column| SqlProblem {
            message: column.message,
            place: place_of_column(parsed, column.column, &column.name),
            hint: Some(column.hint),
        });
        problems.collect()
    })
}

/// As [`planned`], down to the operators, over empty tables: whatever a run could find wrong with the query before its
/// first row is found. Mistakes are looked for until all have their places.
///
/// # Errors
/// As [`planned`].
pub async fn checked(session: &SessionContext, parsed: &Parsed) -> Result<Output, Vec<SqlProblem>> {
    all_there(session, parsed)?;
    let state = session.state();
    let failed = match state.statement_to_plan(parsed.statement.clone()).await {
        Ok(plan) => state.create_physical_plan(&plan).await.err(),
        Err(error) => Some(error),
    };
    match failed {
        Some(error) => Err(readable(parsed, diagnose(&state, parsed, &error).await)),
        None => {
            let output = planned(session, parsed).await?;
            match state.create_physical_plan(&output.plan).await {
                Ok(_) => Ok(output),
                Err(error) => Err(readable(parsed, words::problems(&error, &parsed.sql))),
            }
        }
    }
}

/// The columns at the top that the query of `plan` reads of each of its tables, as far as it can be told before a run.
///
/// # Errors
/// What keeps the plan from being optimised.
pub fn columns_read(
    parsed: &Parsed,
    plan: &LogicalPlan,
) -> Result<BTreeMap<TableName, BTreeSet<String>>, DataFusionError> {
    let plan = session(Arc::new(RuntimeEnv::default())).state().optimize(plan)?;
    let mut read: BTreeMap<TableName, BTreeSet<String>> = BTreeMap::new();
    plan.apply_with_subqueries(|plan| {
        let LogicalPlan::TableScan(scan) = plan else { return Ok(TreeNodeRecursion::Continue) };
        let is_it = |input: &&Input| scan.table_name.resolved_eq(&input.reference());
        if let Some(input) = parsed.inputs.iter().find(is_it) {
            let columns = scan.projected_schema.fields().iter().map(|field| field.name().clone());
            read.entry(input.table.clone()).or_default().extend(columns);
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(read)
}

/// The name of a table is looked up here, where its place is known.
fn all_there(session: &SessionContext, parsed: &Parsed) -> Result<(), Vec<SqlProblem>> {
    let state = session.state();
    let is_there = |reference: datafusion::common::TableReference| {
        state.schema_for_ref(reference.clone()).is_ok_and(|schema| schema.table_exist(reference.table()))
    };
    let missing: Vec<SqlProblem> = parsed
        .inputs
        .iter()
        .filter(|input| !is_there(input.reference()))
        .map(|input| SqlProblem {
            message: format!("there is no table `{}`", input.table),
            place: Some(input.place.clone()),
            hint: None,
        })
        .collect();
    if missing.is_empty() { Ok(()) } else { Err(missing) }
}

fn reads_only(plan: LogicalPlan) -> Result<LogicalPlan, Vec<SqlProblem>> {
    let read_only = SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false);
    match read_only.verify_plan(&plan) {
        Ok(()) => Ok(plan),
        Err(error) => Err(vec![SqlProblem { message: plain(&error), place: None, hint: None }]),
    }
}

fn readable(parsed: &Parsed, problems: Vec<SqlProblem>) -> Vec<SqlProblem> {
    problems.into_iter().map(|problem| parsed.readable(twice(parsed, problem))).collect()
}

/// `Projections require unique expression names but the expression "… AS p" at position 2 and "…" at position 3 …`
fn twice(parsed: &Parsed, problem: SqlProblem) -> SqlProblem {
    if !problem.message.contains("require unique expression names") {
        return problem;
    }
    let number = problem.message.rsplit_once("at position ").and_then(|(_, rest)| rest.split(' ').next()?.parse().ok());
    let place = number.and_then(|number| place_of_column(parsed, number, ""));
    let message = "two columns have one name".to_owned();
    SqlProblem { message, place, hint: Some("give one of them another name: `… AS name`".to_owned()) }
}

/// The query of a parsed transform.
pub(super) fn query(parsed: &Parsed) -> Option<&datafusion::sql::sqlparser::ast::Query> {
    match &parsed.statement {
        Statement::Statement(statement) => match statement.as_ref() {
            datafusion::sql::sqlparser::ast::Statement::Query(query) => Some(query),
            _ => None,
        },
        _ => None,
    }
}
