//! Which parts of a query are wrong, where planning says only that the whole is.
//!
//! DataFusion stops at the first mistake of most kinds, and has no place for many. So a query that fails is taken
//! apart: each clause is planned on its own over the same tables, what fails is taken apart further, and the smallest
//! part that fails is the place. What failed is left out (a column becomes NULL), so that the rest can be looked at.
//! It costs a plan for each part that is looked at, and only for queries that are wrong.

mod parts;

use std::ops::Range;

use datafusion::common::Span;
use datafusion::error::DataFusionError;
use datafusion::execution::SessionState;
use datafusion::logical_expr::LogicalPlan;
use datafusion::sql::parser::Statement as DfStatement;
use datafusion::sql::sqlparser::ast::{
    Expr, Ident, Query, Select, SelectItem, SetExpr, Spanned as _, Statement, TableFactor, TableWithJoins, Value, With,
};
use datafusion::sql::sqlparser::tokenizer::Span as SqlSpan;
use futures::FutureExt as _;
use futures::future::BoxFuture;

use super::Parsed;
use super::words;
use crate::catalog::sql::{SqlProblem, bytes_of};
pub(super) use parts::aliased;
use parts::{children, join_condition, names_one_of, query_of, scope_of, select_from};

/// Parts that are planned at most: a query that is wrong in every part is told by its first ones.
const MOST_PARTS: usize = 400;

/// Plans a query down to its operators, with every type known.
///
/// # Errors
/// What the planner, the optimizer or the physical planner says.
pub(super) async fn probe(state: &SessionState, statement: Statement) -> Result<LogicalPlan, DataFusionError> {
    let plan = state.statement_to_plan(DfStatement::Statement(Box::new(statement))).await?;
    state.create_physical_plan(&plan).await?;
    Ok(plan)
}

/// Every mistake of a query that fails with `error`; never empty.
pub(super) async fn diagnose(state: &SessionState, parsed: &Parsed, error: &DataFusionError) -> Vec<SqlProblem> {
    let DfStatement::Statement(statement) = &parsed.statement else { return words::problems(error, &parsed.sql) };
    let Statement::Query(query) = statement.as_ref() else { return words::problems(error, &parsed.sql) };
    let mut doctor = Doctor { state, sql: &parsed.sql, found: Vec::new(), parts: 0 };
    let repaired = doctor.query(query.as_ref().clone(), &[]).await;
    // What no part of it has is wrong with the whole.
    if let Err(error) = doctor.plan(repaired).await {
        let rest = words::problems(&error, &parsed.sql);
        let has_none = doctor.found.is_empty();
        doctor.found.extend(rest.into_iter().filter(|problem| has_none || problem.place.is_some()));
    }
    if doctor.found.is_empty() {
        doctor.found = words::problems(error, &parsed.sql);
    }
    let mut found = doctor.found;
    found.sort_by_key(|problem| problem.place.as_ref().map_or((0, 0), |place| (place.start, place.end)));
    found.dedup();
    found
}

/// Every mistake of an expression over the rows of `table`, which fails with `error`; never empty.
pub(super) async fn diagnose_expression(
    state: &SessionState,
    sql: &str,
    select: Select,
    expr: &Expr,
    error: &DataFusionError,
) -> Vec<SqlProblem> {
    let mut doctor = Doctor { state, sql, found: Vec::new(), parts: 0 };
    let scope = Scope { from: &select.from, with: &[] };
    doctor.expression(&select, &scope, expr, error, 0).await;
    doctor.found
}

struct Doctor<'a> {
    state: &'a SessionState,
    sql: &'a str,
    found: Vec<SqlProblem>,
    parts: usize,
}

/// How deep an expression is looked into; each level takes stack.
const DEEPEST_PART: usize = 60;

/// What a select's expressions are looked at in: its tables, and the named queries before it.
struct Scope<'s> {
    from: &'s [TableWithJoins],
    with: &'s [With],
}

impl Doctor<'_> {
    async fn plan(&mut self, query: Query) -> Result<LogicalPlan, DataFusionError> {
        self.parts += 1;
        probe(self.state, Statement::Query(Box::new(query))).await
    }

    fn is_done(&self) -> bool {
        self.parts > MOST_PARTS
    }

    /// Reports an error, at the place that it tells within `around`, else there.
    fn report(&mut self, error: &DataFusionError, around: SqlSpan) {
        let around = Span::try_from_sqlparser_span(around).and_then(|span| bytes_of(span, self.sql));
        // Of two operands that don't go together, DataFusion points at one.
        let is_of_both = words::is_of_operands(error);
        for problem in words::problems(error, self.sql) {
            let is_within = |place: &Range<usize>| match &around {
                Some(around) => around.start <= place.start && place.end <= around.end,
                None => true,
            };
            let own = problem.place.clone().filter(is_within).filter(|_| !is_of_both || around.is_none());
            let place = own.or_else(|| around.clone());
            self.found.push(SqlProblem { place, ..problem });
        }
    }

    /// Looks into a query; gives it without what is wrong. `outer` are the named queries around it.
    fn query<'f>(&'f mut self, mut query: Query, outer: &'f [With]) -> BoxFuture<'f, Query> {
        async move {
            let mut with = outer.to_vec();
            if let Some(own) = &mut query.with {
                let mut before = With { cte_tables: Vec::new(), ..own.clone() };
                for cte in &own.cte_tables {
                    let mut cte = cte.clone();
                    // A recursive one can't be looked at without itself.
                    if !own.recursive && !self.is_done() {
                        let around: Vec<With> = with.iter().cloned().chain([before.clone()]).collect();
                        if self.plan(query_of((*cte.query).clone(), &around)).await.is_err() {
                            *cte.query = self.query((*cte.query).clone(), &around).await;
                        }
                    }
                    before.cte_tables.push(cte);
                }
                *own = before.clone();
                with.push(before);
            }
            let body = std::mem::replace(query.body.as_mut(), SetExpr::Values(parts::no_values()));
            *query.body = self.body(body, &with).await;
            query
        }
        .boxed()
    }

    fn body<'f>(&'f mut self, body: SetExpr, with: &'f [With]) -> BoxFuture<'f, SetExpr> {
        async move {
            match body {
                SetExpr::Select(select) => SetExpr::Select(Box::new(self.select(*select, with).await)),
                SetExpr::Query(query) => SetExpr::Query(Box::new(self.query(*query, with).await)),
                SetExpr::SetOperation { left, op, set_quantifier, right } => SetExpr::SetOperation {
                    left: Box::new(self.body(*left, with).await),
                    op,
                    set_quantifier,
                    right: Box::new(self.body(*right, with).await),
                },
                other => other,
            }
        }
        .boxed()
    }

    async fn select(&mut self, mut select: Select, with: &[With]) -> Select {
        if self.is_done() || self.plan(select_from(select.clone(), with)).await.is_ok() {
            return select;
        }
        for table in &mut select.from {
            self.derived(&mut table.relation, with).await;
            for join in &mut table.joins {
                self.derived(&mut join.relation, with).await;
            }
        }
        let from = scope_of(&select.from);
        let scope = Scope { from: &from, with };
        let one = SelectItem::UnnamedExpr(Expr::value(Value::Number("1".to_owned(), false)));
        if let Err(error) = self.plan(parts::probe_of(&select, &from, one.clone(), None, with)).await {
            // Without its tables nothing else can be looked at.
            let around = select.from.iter().map(|table| table.span()).reduce(|one, other| one.union(&other));
            self.report(&error, around.unwrap_or_else(SqlSpan::empty));
            return select;
        }
        for at in 0..select.from.len() {
            for join in 0..select.from[at].joins.len() {
                let Some(condition) = join_condition(&mut select.from[at].joins[join].join_operator) else { continue };
                let probed = condition.clone();
                if self.condition(&select.clone(), &scope, &probed, &one).await
                    && let Some(condition) = join_condition(&mut select.from[at].joins[join].join_operator)
                {
                    *condition = Expr::value(Value::Boolean(true));
                }
            }
        }
        if let Some(condition) = select.selection.clone()
            && self.condition(&select, &scope, &condition, &one).await
        {
            select.selection = None;
        }
        for at in 0..select.projection.len() {
            let item = select.projection[at].clone();
            if self.is_done() {
                break;
            }
            let Err(error) = self.plan(parts::probe_of(&select, &from, item.clone(), None, with)).await else {
                continue;
            };
            match aliased(&item) {
                Some((expr, alias)) => {
                    self.expression(&select, &scope, expr, &error, 0).await;
                    let null = Expr::value(Value::Null);
                    select.projection[at] = match alias {
                        Some(alias) => SelectItem::ExprWithAlias { expr: null, alias },
                        None => SelectItem::UnnamedExpr(null),
                    };
                }
                None => {
                    self.report(&error, item.span());
                    select.projection[at] = one.clone();
                }
            }
        }
        self.grouped(select, &scope).await
    }

    /// `GROUP BY`, `HAVING` and `QUALIFY` may name the columns that the select gives, so they are looked at with it.
    async fn grouped(&mut self, mut select: Select, scope: &Scope<'_>) -> Select {
        let names: Vec<String> = select.projection.iter().filter_map(|item| Some(aliased(item)?.1?.value)).collect();
        let group_by = parts::group_by(&mut select).cloned().unwrap_or_default();
        for expr in group_by.iter().filter(|expr| !names_one_of(expr, &names)) {
            let item = SelectItem::UnnamedExpr(expr.clone());
            if self.is_done() {
                break;
            }
            if let Err(error) = self.plan(parts::probe_of(&select, scope.from, item, None, scope.with)).await {
                self.expression(&select, scope, expr, &error, 0).await;
                if let Some(exprs) = parts::group_by(&mut select) {
                    exprs.retain(|other| other != expr);
                }
            }
        }
        for take in [parts::having, parts::qualify] {
            let Some(condition) = take(&mut select).take() else { continue };
            let without = self.plan(select_from(select.clone(), scope.with)).await;
            *take(&mut select) = Some(condition.clone());
            if without.is_err() || self.is_done() {
                continue;
            }
            if let Err(error) = self.plan(select_from(select.clone(), scope.with)).await {
                self.conjuncts(&select, scope, &condition, &names, &error).await;
                *take(&mut select) = None;
            }
        }
        select
    }

    /// Looks into those parts of a condition that can stand without the columns that the select gives.
    async fn conjuncts(
        &mut self,
        select: &Select,
        scope: &Scope<'_>,
        condition: &Expr,
        names: &[String],
        error: &DataFusionError,
    ) {
        let before = self.found.len();
        let parts = if names_one_of(condition, names) { children(condition) } else { vec![condition.clone()] };
        for part in parts.iter().filter(|part| !names_one_of(part, names)) {
            let item = SelectItem::UnnamedExpr(part.clone());
            if let Err(error) = self.plan(parts::probe_of(select, scope.from, item, None, scope.with)).await {
                self.expression(select, scope, part, &error, 0).await;
            }
        }
        if self.found.len() == before {
            self.report(error, condition.span());
        }
    }

    /// Whether a condition is wrong; then it has been reported.
    async fn condition(&mut self, select: &Select, scope: &Scope<'_>, condition: &Expr, one: &SelectItem) -> bool {
        if self.is_done() {
            return false;
        }
        let probe = parts::probe_of(select, scope.from, one.clone(), Some(condition.clone()), scope.with);
        match self.plan(probe).await {
            Ok(_) => false,
            Err(error) => {
                self.expression(select, scope, condition, &error, 0).await;
                true
            }
        }
    }

    fn derived<'f>(&'f mut self, factor: &'f mut TableFactor, with: &'f [With]) -> BoxFuture<'f, ()> {
        async move {
            match factor {
                TableFactor::Derived { lateral: false, subquery, .. } => {
                    let is_wrong = !self.is_done() && self.plan(query_of((**subquery).clone(), with)).await.is_err();
                    if is_wrong {
                        **subquery = self.query((**subquery).clone(), with).await;
                    }
                }
                TableFactor::NestedJoin { table_with_joins, .. } => {
                    let table = table_with_joins.as_mut();
                    self.derived(&mut table.relation, with).await;
                    for join in &mut table.joins {
                        self.derived(&mut join.relation, with).await;
                    }
                }
                _ => {}
            }
        }
        .boxed()
    }

    /// Reports the smallest parts of an expression that fail; `error` is what the whole of it says.
    fn expression<'f>(
        &'f mut self,
        select: &'f Select,
        scope: &'f Scope<'f>,
        expr: &'f Expr,
        error: &'f DataFusionError,
        depth: usize,
    ) -> BoxFuture<'f, ()> {
        async move {
            let before = self.found.len();
            for child in children(expr) {
                if self.is_done() || depth == DEEPEST_PART {
                    break;
                }
                let item = SelectItem::UnnamedExpr(child.clone());
                let probe = parts::probe_of(select, scope.from, item, None, scope.with);
                if let Err(error) = self.plan(probe).await {
                    self.expression(select, scope, &child, &error, depth + 1).await;
                }
            }
            if self.found.len() == before {
                self.report(error, expr.span());
            }
        }
        .boxed()
    }
}

/// The name of an expression that is one.
fn name_of(expr: &Expr) -> Option<Ident> {
    match expr {
        Expr::Identifier(name) => Some(name.clone()),
        Expr::CompoundIdentifier(names) => names.last().cloned(),
        _ => None,
    }
}
