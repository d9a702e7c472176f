//! Parts of a query as queries of their own.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::helpers::attached_token::AttachedToken;
use datafusion::sql::sqlparser::ast::{
    BinaryOperator, Expr, GroupByExpr, Ident, JoinConstraint, JoinOperator, Query, Select, SelectItem, SetExpr,
    TableWithJoins, Value, Values, Visit as _, Visitor, With,
};

use super::name_of;

/// A query with those named around it.
pub(super) fn query_of(mut query: Query, around: &[With]) -> Query {
    let mut with = joined(around);
    if let Some(own) = query.with.take() {
        with.recursive |= own.recursive;
        with.cte_tables.extend(own.cte_tables);
    }
    query.with = (!with.cte_tables.is_empty()).then_some(with);
    query
}

/// A select as a query.
pub(super) fn select_from(select: Select, around: &[With]) -> Query {
    let query = Query {
        with: None,
        body: Box::new(SetExpr::Select(Box::new(select))),
        order_by: None,
        limit_clause: None,
        fetch: None,
        locks: Vec::new(),
        for_clause: None,
        settings: None,
        format_clause: None,
        pipe_operators: Vec::new(),
    };
    query_of(query, around)
}

/// One item, and perhaps a condition, over the tables of a select.
pub(super) fn probe_of(
    select: &Select,
    from: &[TableWithJoins],
    item: SelectItem,
    condition: Option<Expr>,
    around: &[With],
) -> Query {
    let probe = Select {
        projection: vec![item],
        from: from.to_vec(),
        selection: condition,
        distinct: None,
        group_by: GroupByExpr::Expressions(Vec::new(), Vec::new()),
        having: None,
        qualify: None,
        sort_by: Vec::new(),
        exclude: None,
        ..select.clone()
    };
    select_from(probe, around)
}

pub(super) fn no_values() -> Values {
    Values { explicit_row: false, value_keyword: false, rows: Vec::new() }
}

fn joined(around: &[With]) -> With {
    With {
        with_token: AttachedToken::empty(),
        recursive: around.iter().any(|with| with.recursive),
        cte_tables: around.iter().flat_map(|with| with.cte_tables.iter().cloned()).collect(),
    }
}

/// The tables of a select without the conditions that join them.
pub(super) fn scope_of(from: &[TableWithJoins]) -> Vec<TableWithJoins> {
    let mut from = from.to_vec();
    for join in from.iter_mut().flat_map(|table| &mut table.joins) {
        if let Some(condition) = join_condition(&mut join.join_operator) {
            *condition = Expr::value(Value::Boolean(true));
        }
    }
    from
}

/// The condition of a join that has one, and whose two sides it sees.
pub(super) fn join_condition(operator: &mut JoinOperator) -> Option<&mut Expr> {
    use JoinOperator as Op;
    match operator {
        Op::Join(JoinConstraint::On(condition))
        | Op::Inner(JoinConstraint::On(condition))
        | Op::Left(JoinConstraint::On(condition))
        | Op::LeftOuter(JoinConstraint::On(condition))
        | Op::Right(JoinConstraint::On(condition))
        | Op::RightOuter(JoinConstraint::On(condition))
        | Op::FullOuter(JoinConstraint::On(condition)) => Some(condition),
        _ => None,
    }
}

/// The expression of an item, and the name that its column has.
pub(in crate::transform) fn aliased(item: &SelectItem) -> Option<(&Expr, Option<Ident>)> {
    match item {
        SelectItem::UnnamedExpr(expr) => Some((expr, name_of(expr))),
        SelectItem::ExprWithAlias { expr, alias } => Some((expr, Some(alias.clone()))),
        _ => None,
    }
}

pub(super) fn group_by(select: &mut Select) -> Option<&mut Vec<Expr>> {
    match &mut select.group_by {
        GroupByExpr::Expressions(exprs, _) => Some(exprs),
        GroupByExpr::All(_) => None,
    }
}

pub(super) fn having(select: &mut Select) -> &mut Option<Expr> {
    &mut select.having
}

pub(super) fn qualify(select: &mut Select) -> &mut Option<Expr> {
    &mut select.qualify
}

/// The expressions right below one, without those of subqueries: these see other tables. Of a chain of `AND` or `OR`
/// all operands, however long it is.
pub(super) fn children(expr: &Expr) -> Vec<Expr> {
    if let Expr::BinaryOp { op: chained @ (BinaryOperator::And | BinaryOperator::Or), .. } = expr {
        let mut operands = Vec::new();
        let mut open = vec![expr];
        while let Some(expr) = open.pop() {
            match expr {
                Expr::BinaryOp { left, op, right } if op == chained => open.extend([right.as_ref(), left.as_ref()]),
                other => operands.push(other.clone()),
            }
        }
        return operands;
    }
    let mut collector = Collector { below: 0, queries: 0, children: Vec::new() };
    // It never breaks off.
    let _: ControlFlow<()> = expr.visit(&mut collector);
    collector.children
}

struct Collector {
    /// How many expressions are around.
    below: usize,
    /// How many subqueries are around.
    queries: usize,
    children: Vec<Expr>,
}

impl Visitor for Collector {
    type Break = ();

    fn pre_visit_query(&mut self, _: &Query) -> ControlFlow<()> {
        self.queries += 1;
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _: &Query) -> ControlFlow<()> {
        self.queries -= 1;
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        if self.below == 1 && self.queries == 0 {
            self.children.push(expr.clone());
        }
        self.below += 1;
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, _: &Expr) -> ControlFlow<()> {
        self.below -= 1;
        ControlFlow::Continue(())
    }
}

/// Whether an expression names one of the columns that the select itself gives, outside of subqueries.
pub(super) fn names_one_of(expr: &Expr, names: &[String]) -> bool {
    match expr {
        Expr::Identifier(name) => names.contains(&name.value),
        other => children(other).iter().any(|child| names_one_of(child, names)),
    }
}
