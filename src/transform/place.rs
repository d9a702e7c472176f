//! Where in a query a column of its output is made.

use std::ops::Range;

use datafusion::common::Span;
use datafusion::sql::sqlparser::ast::{Query, Select, SelectItem, SetExpr, Spanned as _};

use super::Parsed;
use super::diagnose::aliased;
use super::plan::query;
use crate::catalog::sql::bytes_of;

/// The bytes of the item that gives a column: by its name, else by its number where no `*` stands before it; else
/// of all items.
pub fn place_of_column(parsed: &Parsed, column: usize, name: &str) -> Option<Range<usize>> {
    let select = first_select(query(parsed)?)?;
    let items = &select.projection;
    let is_plain = |item: &SelectItem| aliased(item).is_some();
    let by_number = items.get(column).filter(|_| items[..column].iter().all(is_plain));
    let by_name = || {
        items
            .iter()
            .rev()
            .find(|item| aliased(item).and_then(|(_, name)| name).is_some_and(|alias| alias.value == name))
    };
    let stars = || items.iter().find(|item| !is_plain(item));
    let item = by_number.or_else(by_name).or_else(stars)?;
    let span = match item {
        SelectItem::UnnamedExpr(expr) => expr.span(),
        SelectItem::ExprWithAlias { expr, alias } => expr.span().union(&alias.span),
        other => other.span(),
    };
    Span::try_from_sqlparser_span(span).and_then(|span| bytes_of(span, &parsed.sql))
}

/// The select that names the columns: the first of a union.
fn first_select(query: &Query) -> Option<&Select> {
    let mut body = query.body.as_ref();
    loop {
        body = match body {
            SetExpr::Select(select) => return Some(select),
            SetExpr::Query(query) => query.body.as_ref(),
            SetExpr::SetOperation { left, .. } => left.as_ref(),
            _ => return None,
        };
    }
}
