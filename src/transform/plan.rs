//! From a parsed query to its plan.

use datafusion::logical_expr::LogicalPlan;
use datafusion::prelude::{SQLOptions, SessionContext};

use super::Parsed;
use crate::catalog::sql::{SqlProblem, plain, problem};

/// Plans a query over the inputs that `session` has been told of.
///
/// # Errors
/// Every mistake that planning tells.
pub async fn logical_plan(session: &SessionContext, parsed: &Parsed) -> Result<LogicalPlan, Vec<SqlProblem>> {
    let state = session.state();
    let mut missing = Vec::new();
    for input in &parsed.inputs {
        let is_there = match state.schema_for_ref(input.reference()) {
            Ok(schema) => schema.table_exist(&input.reference().table().to_owned()),
            Err(_) => false,
        };
        if !is_there {
            missing.push(SqlProblem {
                message: format!("there is no table `{}`", input.table),
                place: Some(input.place.clone()),
                hint: None,
            });
        }
    }
    if !missing.is_empty() {
        return Err(missing);
    }
    let plan = state.statement_to_plan(parsed.statement.clone()).await;
    let plan = plan
        .map_err(|error| error.iter().map(|error| parsed.readable(problem(error, &parsed.sql))).collect::<Vec<_>>())?;
    let read_only = SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false);
    match read_only.verify_plan(&plan) {
        Ok(()) => Ok(plan),
        Err(error) => Err(vec![SqlProblem { message: plain(&error), place: None, hint: None }]),
    }
}
