//! Conditions over the rows of a transform: `delete_when`, and the checks of expectations.

use std::ops::ControlFlow;
use std::sync::Arc;

use arrow::datatypes::{DataType, SchemaRef};
use datafusion::common::tree_node::{TreeNode as _, TreeNodeRecursion};
use datafusion::common::{DFSchema, TableReference};
use datafusion::datasource::empty::EmptyTable;
use datafusion::error::DataFusionError;
use datafusion::logical_expr::Expr;
use datafusion::prelude::SessionContext;
use datafusion::sql::parser::{DFParserBuilder, Statement};
use datafusion::sql::sqlparser::ast::{self, Query, SetExpr, Visit as _, Visitor};
use datafusion::sql::sqlparser::dialect::GenericDialect;

use super::diagnose::diagnose_expression;
use super::sql::{DEEPEST_NESTING, measure, told};
use super::{session, words};
use crate::catalog::sql::{SqlProblem, problem};

/// What the rows are called, where a condition is planned on its own.
const ROWS: &str = "rows";

/// Reads a condition over rows of `schema`: true, false or null for each.
///
/// # Errors
/// Every mistake in it, with places in `text`.
pub async fn condition(outer: &SessionContext, schema: &SchemaRef, text: &str) -> Result<Expr, Vec<SqlProblem>> {
    let only = |message: &str, hint: &str| {
        Err(vec![SqlProblem { message: message.to_owned(), place: Some(0..text.len()), hint: Some(hint.to_owned()) }])
    };
    let measured = measure::measure(text).map_err(|problem| vec![problem])?;
    let parsed = DFParserBuilder::new(measured.tokens)
        .with_dialect(&GenericDialect {})
        .with_recursion_limit(DEEPEST_NESTING)
        .build()
        .and_then(|mut parser| parser.parse_into_expr())
        .map_err(|error| vec![told(problem(&error, text), text)])?;
    if parsed.alias.is_some() {
        return only("a condition has no name", "remove `AS …`");
    }
    if parsed.expr.visit(&mut HasQuery).is_break() {
        return only("a condition can't hold a query", "join what it needs in the transform's SQL");
    }
    // A session of its own: the rows are no table of the lake.
    let session = session(outer.runtime_env());
    let failed = |error: DataFusionError| words::problems(&error, text);
    register_rows(&session, schema).map_err(failed)?;
    let state = session.state();
    let planned = DFSchema::try_from_qualified_schema(TableReference::bare(ROWS), schema).and_then(|rows| {
        let expr = state.create_logical_expr_from_sql_expr(parsed.clone(), &rows)?;
        let physical = state.create_physical_expr(without_rows_of_others(expr.clone())?, &rows)?;
        Ok((expr, physical.data_type(rows.as_arrow())?))
    });
    match planned {
        Ok((expr, DataType::Boolean | DataType::Null)) => Ok(unqualified(expr)),
        Ok((_, other)) => {
            let message = format!("a condition is true or false, and this is a value of type {other}");
            only(&message, "compare it: `score > 0`")
        }
        Err(error) => {
            let Some(select) = select_of_rows() else { return Err(failed(error)) };
            Err(diagnose_expression(&state, text, select, &parsed.expr, &error).await)
        }
    }
}

fn register_rows(session: &SessionContext, schema: &SchemaRef) -> Result<(), DataFusionError> {
    let catalog = session.catalog(session::CATALOG);
    let rows = Arc::new(datafusion::catalog::MemorySchemaProvider::new());
    if let Some(catalog) = catalog {
        catalog.register_schema("public", rows)?;
    }
    session.register_table(ROWS, Arc::new(EmptyTable::new(Arc::clone(schema)))).map(drop)
}

/// `SELECT 1 FROM rows`, for the parts of a condition.
fn select_of_rows() -> Option<ast::Select> {
    let mut parser = DFParserBuilder::new("SELECT 1 FROM rows").build().ok()?;
    let Statement::Statement(statement) = parser.parse_statement().ok()? else { return None };
    let ast::Statement::Query(query) = *statement else { return None };
    match *query.body {
        SetExpr::Select(select) => Some(*select),
        _ => None,
    }
}

/// A condition is about one row.
fn without_rows_of_others(expr: Expr) -> Result<Expr, DataFusionError> {
    let mut found = None;
    expr.apply(|expr| {
        Ok(match expr {
            Expr::AggregateFunction(_) | Expr::WindowFunction(_) => {
                found = Some(expr.schema_name().to_string().replace(&format!("{ROWS}."), ""));
                TreeNodeRecursion::Stop
            }
            _ => TreeNodeRecursion::Continue,
        })
    })?;
    match found {
        Some(name) => Err(DataFusionError::Plan(format!("a condition is about one row, and `{name}` about several"))),
        None => Ok(expr),
    }
}

/// Columns by their names alone, as the rows have them wherever the condition is used.
fn unqualified(expr: Expr) -> Expr {
    let columns = expr.clone().transform_up(|expr| match expr {
        Expr::Column(mut column) => {
            column.relation = None;
            Ok(datafusion::common::tree_node::Transformed::yes(Expr::Column(column)))
        }
        other => Ok(datafusion::common::tree_node::Transformed::no(other)),
    });
    columns.map_or(expr, |columns| columns.data)
}

struct HasQuery;

impl Visitor for HasQuery {
    type Break = ();

    fn pre_visit_query(&mut self, _: &Query) -> ControlFlow<()> {
        ControlFlow::Break(())
    }
}
