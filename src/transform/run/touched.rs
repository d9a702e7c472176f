//! Which keys of a query's output may change by new rows of one input.
//!
//! Running the query over the new rows alone doesn't tell: a `HAVING count(*) > 3` that old and new
//! rows fulfil together would show nothing, and neither would a lead that vanishes from "leads
//! without a sale" by a new sale. So the query is widened first, to one whose keys are those that new
//! rows can touch, and maybe others:
//!
//! | in the query | with new rows below it |
//! |---|---|
//! | a condition over groups, windows or outer joins | is left out |
//! | `a LEFT JOIN b`, new rows in `b` | an inner join: rows of `a` that the new ones meet |
//! | `NOT IN`, `NOT EXISTS`, new rows within | `IN`, `EXISTS` |
//! | `NOT IN`, `NOT EXISTS`, new rows before it | is left out |
//! | `UNION ALL` | the branches with new rows alone |
//! | keys that are no columns of the groups, windows over more than the keys, `LIMIT`, an input streamed on both sides of a join | every key may change |
//!
//! Rows that were taken away touch keys by what they met before, and that may be gone as well, where the other inputs are
//! updated, too. Then what is joined to them decides nothing: each row of the stream is taken as it is, whatever it meets, and
//! where a key comes from another input every key may change.
//!
//! What changes with time alone (`now()`) changes no key here: such a table is one for `replace`.

use std::sync::Arc;

use datafusion::common::tree_node::{TreeNode as _, TreeNodeRecursion};
use datafusion::common::{Column, JoinType, Result, TableReference};
use datafusion::dataframe::DataFrame;
use datafusion::logical_expr::{Distinct, EmptyRelation, Expr, Filter, Join, LogicalPlan, LogicalPlanBuilder, Union};
use datafusion::prelude::SessionContext;

use super::keyed::column;
use crate::transform::Input;

/// What may have become of the inputs that rows of a stream are joined to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Others {
    /// What they held before they hold still; or the stream has no rows that were taken away.
    Grow,
    /// They may have lost rows that those of the stream met.
    Updated,
}

/// The keys that new rows of `streamed` may touch, where they can be told; each may be there often.
///
/// # Errors
/// Errors of planning.
pub fn keys(
    session: &SessionContext,
    query: DataFrame,
    streamed: &Input,
    keys: &[String],
    others: Others,
) -> Result<Option<DataFrame>> {
    let state = session.state();
    // Subqueries become joins by this.
    let plan = state.optimize(query.logical_plan())?;
    let new = New { name: streamed.reference(), others };
    if has_subquery(&plan)? {
        return Ok(None);
    }
    // Of the query as it is, too: a widened one doesn't show any more which side was filled with nulls.
    for key in keys {
        if !new.is_carried(&plan, &Column::from_name(key))? {
            return Ok(None);
        }
    }
    let Some(widened) = new.widen(plan)? else { return Ok(None) };
    for key in keys {
        if !new.is_carried(&widened, &Column::from_name(key))? {
            return Ok(None);
        }
    }
    let at: Vec<Option<Column>> = keys.iter().map(|key| column_named(&widened, key)).collect();
    if !new.windows_are_by(&widened, &at)? {
        return Ok(None);
    }
    let keys = keys.iter().map(|key| column(key)).collect::<Vec<_>>();
    Ok(Some(DataFrame::new(state, widened).select(keys)?))
}

struct New {
    name: TableReference,
    others: Others,
}

impl New {
    fn is_in(&self, plan: &LogicalPlan) -> Result<bool> {
        let mut found = false;
        plan.apply(|node| {
            if let LogicalPlan::TableScan(scan) = node {
                found |= scan.table_name.table() == self.name.table() && scan.table_name.schema() == self.name.schema();
            }
            Ok(if found { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
        })?;
        Ok(found)
    }

    /// The widened plan, or nothing where every key may change.
    fn widen(&self, plan: LogicalPlan) -> Result<Option<LogicalPlan>> {
        if !self.is_in(&plan)? {
            return Ok(Some(plan));
        }
        match plan {
            LogicalPlan::TableScan(ref scan) if scan.fetch.is_none() => Ok(Some(plan)),
            LogicalPlan::Limit(_) | LogicalPlan::RecursiveQuery(_) | LogicalPlan::Extension(_) => Ok(None),
            LogicalPlan::Distinct(Distinct::On(_)) => Ok(None),
            LogicalPlan::Sort(ref sort) if sort.fetch.is_some() => Ok(None),
            LogicalPlan::Filter(filter) => {
                let is_of_rows = is_of_rows(&filter.input)?;
                let Some(input) = self.widen(filter.input.as_ref().clone())? else { return Ok(None) };
                let meets_others = self.others == Others::Updated && has_join(&filter.input)?;
                if is_of_rows && !meets_others {
                    return Ok(Some(LogicalPlan::Filter(Filter::try_new(filter.predicate, input.into())?)));
                }
                Ok(Some(input))
            }
            LogicalPlan::Union(union) => {
                let mut branches = Vec::new();
                for branch in &union.inputs {
                    if self.is_in(branch)? {
                        let Some(branch) = self.widen(branch.as_ref().clone())? else { return Ok(None) };
                        branches.push(branch.into());
                    }
                }
                Ok(Some(LogicalPlan::Union(Union { inputs: branches, schema: union.schema })))
            }
            LogicalPlan::Join(join) => self.widen_join(join),
            LogicalPlan::Subquery(_) => Ok(None),
            other => {
                let inputs = other.inputs().into_iter().cloned().collect::<Vec<_>>();
                let mut widened = Vec::with_capacity(inputs.len());
                for input in inputs {
                    let Some(input) = self.widen(input)? else { return Ok(None) };
                    widened.push(input);
                }
                if widened.is_empty() {
                    return Ok(None);
                }
                other.with_new_exprs(other.expressions(), widened).map(Some)
            }
        }
    }

    fn widen_join(&self, join: Join) -> Result<Option<LogicalPlan>> {
        let (in_left, in_right) = (self.is_in(&join.left)?, self.is_in(&join.right)?);
        // A null among new rows empties the whole of a `NOT IN`.
        if in_right && (in_left || join.null_aware) {
            return Ok(None);
        }
        if self.others == Others::Updated {
            return self.without_other_side(join, in_left);
        }
        // A condition over what was counted would be asked of the new rows alone.
        let side = if in_left { &join.left } else { &join.right };
        let conditions = join.on.iter().flat_map(|(left, right)| [left, right]).chain(join.filter.iter());
        for column in conditions.flat_map(Expr::column_refs) {
            if side.schema().has_column(column) && !self.is_carried(side, column)? {
                return Ok(None);
            }
        }
        let Some(left) = self.widen(join.left.as_ref().clone())? else { return Ok(None) };
        let Some(right) = self.widen(join.right.as_ref().clone())? else { return Ok(None) };
        let kind = match (join.join_type, in_left) {
            (JoinType::Inner, _) => JoinType::Inner,
            (JoinType::Left | JoinType::Full, true) => JoinType::Left,
            (JoinType::Left, false) | (JoinType::Right, true) => JoinType::Inner,
            (JoinType::Right | JoinType::Full, false) => JoinType::Right,
            (JoinType::LeftAnti, true) => return Ok(Some(left)),
            (JoinType::RightAnti, false) => return Ok(Some(right)),
            (JoinType::LeftSemi, _) | (JoinType::LeftAnti, false) => JoinType::LeftSemi,
            (JoinType::RightSemi, _) | (JoinType::RightAnti, true) => JoinType::RightSemi,
            (JoinType::LeftMark, true) | (JoinType::RightMark, false) => join.join_type,
            // The mark is needed above, and where it is false nothing was met.
            (JoinType::LeftMark, false) | (JoinType::RightMark, true) => return Ok(None),
        };
        as_kind(join, (left, right), kind).map(Some)
    }

    /// Each row of the side with new rows, with nulls for those that it may have met.
    fn without_other_side(&self, join: Join, in_left: bool) -> Result<Option<LogicalPlan>> {
        let (side, other) = if in_left { (&join.left, &join.right) } else { (&join.right, &join.left) };
        let Some(side) = self.widen(side.as_ref().clone())? else { return Ok(None) };
        let nothing =
            LogicalPlan::EmptyRelation(EmptyRelation { produce_one_row: false, schema: Arc::clone(other.schema()) });
        let (left, right, kind) = match (join.join_type, in_left) {
            (JoinType::Inner | JoinType::Left | JoinType::Right | JoinType::Full, true) => {
                (side, nothing, JoinType::Left)
            }
            (JoinType::Inner | JoinType::Left | JoinType::Right | JoinType::Full, false) => {
                (nothing, side, JoinType::Right)
            }
            (JoinType::LeftSemi | JoinType::LeftAnti, true) | (JoinType::RightSemi | JoinType::RightAnti, false) => {
                return Ok(Some(side));
            }
            _ => return Ok(None),
        };
        as_kind(Join { filter: None, ..join }, (left, right), kind).map(Some)
    }

    /// Whether each window over new rows is parted by the very columns that become the keys, which are these in
    /// `plan`; none where a key isn't a column of it.
    fn windows_are_by(&self, plan: &LogicalPlan, keys: &[Option<Column>]) -> Result<bool> {
        if !self.is_in(plan)? {
            return Ok(true);
        }
        if let LogicalPlan::Window(window) = plan {
            for expression in &window.window_expr {
                let mut is_by_keys = true;
                expression.apply(|inner| {
                    if let Expr::WindowFunction(function) = inner {
                        let by = &function.params.partition_by;
                        let is_by = |key: &Column| by.iter().any(|by| matches!(by, Expr::Column(by) if by == key));
                        is_by_keys &= keys.iter().all(|key| key.as_ref().is_some_and(is_by));
                    }
                    Ok(TreeNodeRecursion::Continue)
                })?;
                if !is_by_keys {
                    return Ok(false);
                }
            }
        }
        for input in plan.inputs() {
            let below: Vec<_> = keys.iter().map(|key| source_of(plan, input, key.as_ref()?)).collect();
            if !self.windows_are_by(input, &below)? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

fn column_named(plan: &LogicalPlan, name: &str) -> Option<Column> {
    plan.schema().columns().into_iter().find(|column| column.name == name)
}

/// The column of `input` that a column of the plan above it is, if it is one as it stands.
fn source_of(plan: &LogicalPlan, input: &LogicalPlan, column: &Column) -> Option<Column> {
    fn as_column(expression: &Expr) -> Option<Column> {
        match expression {
            Expr::Column(column) => Some(column.clone()),
            Expr::Alias(alias) => as_column(&alias.expr),
            _ => None,
        }
    }
    let index = plan.schema().maybe_index_of_column(column);
    match plan {
        LogicalPlan::Projection(projection) => as_column(projection.expr.get(index?)?),
        LogicalPlan::Aggregate(aggregate) => as_column(aggregate.group_expr.get(index?)?),
        LogicalPlan::SubqueryAlias(_) | LogicalPlan::Union(_) => input.schema().columns().into_iter().nth(index?),
        _ => input.schema().has_column(column).then(|| column.clone()),
    }
}

/// Whether what a condition sees are rows of inputs, each by itself or side by side.
fn is_of_rows(plan: &LogicalPlan) -> Result<bool> {
    let mut is_of_rows = true;
    plan.apply(|node| {
        is_of_rows &= match node {
            LogicalPlan::Aggregate(_) | LogicalPlan::Window(_) | LogicalPlan::Distinct(_) => false,
            LogicalPlan::Join(join) => matches!(join.join_type, JoinType::Inner),
            _ => true,
        };
        Ok(if is_of_rows { TreeNodeRecursion::Continue } else { TreeNodeRecursion::Stop })
    })?;
    Ok(is_of_rows)
}

impl New {
    /// Whether a column comes from columns of rows and groups: not from what was counted over them, nor from a side
    /// of an outer join that new rows may fill.
    fn is_carried(&self, plan: &LogicalPlan, wanted: &Column) -> Result<bool> {
        let all = |input: &LogicalPlan, expression: &Expr| -> Result<bool> {
            for column in expression.column_refs() {
                if !self.is_carried(input, column)? {
                    return Ok(false);
                }
            }
            Ok(true)
        };
        let index = plan.schema().maybe_index_of_column(wanted);
        let index = match index {
            Some(index) => index,
            None => match plan.schema().columns().iter().position(|column| column.name == wanted.name) {
                Some(index) => index,
                None => return Ok(false),
            },
        };
        match plan {
            LogicalPlan::Projection(projection) => all(&projection.input, &projection.expr[index]),
            LogicalPlan::Aggregate(aggregate) => match aggregate.group_expr.get(index) {
                Some(Expr::GroupingSet(_)) | None => Ok(false),
                Some(group) => all(&aggregate.input, group),
            },
            LogicalPlan::Window(window) => {
                let columns = window.input.schema().columns();
                match columns.get(index) {
                    Some(column) => self.is_carried(&window.input, column),
                    None => Ok(false),
                }
            }
            LogicalPlan::TableScan(_) | LogicalPlan::Values(_) | LogicalPlan::EmptyRelation(_) => Ok(true),
            LogicalPlan::Union(union) => {
                for input in &union.inputs {
                    let column = input.schema().columns().into_iter().nth(index);
                    if !column.map_or(Ok(false), |column| self.is_carried(input, &column))? {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            LogicalPlan::SubqueryAlias(alias) => {
                let column = alias.input.schema().columns().into_iter().nth(index);
                column.map_or(Ok(false), |column| self.is_carried(&alias.input, &column))
            }
            LogicalPlan::Join(join) => {
                let column = plan.schema().columns().into_iter().nth(index);
                let Some(column) = column else { return Ok(false) };
                // A null there may give way to new rows, and it would be no key of theirs.
                let is_left = join.left.schema().has_column(&column);
                let side = if is_left { &join.left } else { &join.right };
                let is_filled = match join.join_type {
                    JoinType::Left => !is_left,
                    JoinType::Right => is_left,
                    JoinType::Full => true,
                    _ => false,
                };
                if is_filled && self.is_in(side)? {
                    return Ok(false);
                }
                if self.others == Others::Updated && self.is_in(plan)? && !self.is_in(side)? {
                    return Ok(false);
                }
                if is_left { self.is_carried(&join.left, &column) } else { self.is_carried(&join.right, &column) }
            }
            _ => match plan.inputs().as_slice() {
                [input] if input.schema().columns() == plan.schema().columns() => self.is_carried(input, wanted),
                _ => Ok(false),
            },
        }
    }
}

fn has_join(plan: &LogicalPlan) -> Result<bool> {
    plan.exists(|node| Ok(matches!(node, LogicalPlan::Join(_))))
}

/// Whether a query within an expression was left there: what it gives may change for all keys.
fn has_subquery(plan: &LogicalPlan) -> Result<bool> {
    let mut found = false;
    plan.apply(|node| {
        for expression in node.expressions() {
            found |= expression
                .exists(|inner| Ok(matches!(inner, Expr::ScalarSubquery(_) | Expr::InSubquery(_) | Expr::Exists(_))))?;
        }
        Ok(if found { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    })?;
    Ok(found)
}

/// The join over other sides and of another kind, with the columns that it had.
fn as_kind(join: Join, (left, right): (LogicalPlan, LogicalPlan), kind: JoinType) -> Result<LogicalPlan> {
    let Join { on, filter, join_constraint, null_equality, schema, .. } = join;
    let joined = Join::try_new(left.into(), right.into(), on, filter, kind, join_constraint, null_equality, false)?;
    let joined = LogicalPlan::Join(joined);
    if joined.schema().columns() == schema.columns() {
        return Ok(joined);
    }
    let columns = schema.columns().into_iter().map(Expr::Column).collect::<Vec<_>>();
    LogicalPlanBuilder::from(joined).project(columns)?.build()
}
