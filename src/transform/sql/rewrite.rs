//! `STREAM(bronze.leads)` to a table of its own, and what a query may not hold.

use std::collections::BTreeMap;
use std::ops::{ControlFlow, Range};

use datafusion::common::Span;
use datafusion::sql::sqlparser::ast::{
    Expr, FunctionArg, FunctionArgExpr, Ident, ObjectName, ObjectNamePart, Query, Select, SetExpr, Spanned as _,
    Statement, TableAlias, TableFactor, Value, ValueWithSpan, VisitMut as _, VisitorMut,
};

use super::STREAM_PREFIX;
use crate::catalog::sql::{SqlProblem, bytes_of};
use crate::config::quoted;

const STREAM: &str = "STREAM";

/// Functions of other engines that reach beyond the query. DataFusion has none of them, but whoever writes one must
/// hear why, not that it was spelt wrong.
const REACHING_OUT: [&str; 20] = [
    "read_csv",
    "read_csv_auto",
    "read_parquet",
    "parquet_scan",
    "read_json",
    "read_json_auto",
    "read_text",
    "read_blob",
    "read_avro",
    "delta_scan",
    "glob",
    "pg_read_file",
    "pg_ls_dir",
    "lo_import",
    "dblink",
    "load_extension",
    "set_config",
    "current_setting",
    "getenv",
    "openrowset",
];

/// Functions in `FROM` that only make rows.
const MAKING_ROWS: [&str; 3] = ["generate_series", "range", "unnest"];

/// What was found on the way.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub problems: Vec<SqlProblem>,
    /// Where each table is first named, by its internal name.
    pub places: BTreeMap<String, Range<usize>>,
}

/// Gives streamed inputs their internal names, and an alias where they have none.
pub(super) fn rewrite(query: &mut Statement, sql: &str) -> Found {
    let mut rewriter = Rewriter { sql, found: Found::default() };
    // It never breaks off.
    let _: ControlFlow<()> = query.visit(&mut rewriter);
    rewriter.found
}

struct Rewriter<'a> {
    sql: &'a str,
    found: Found,
}

impl Rewriter<'_> {
    fn wrong(&mut self, span: datafusion::sql::sqlparser::tokenizer::Span, message: String, hint: &str) {
        let place = self.bytes(span);
        self.found.problems.push(SqlProblem { message, place, hint: Some(hint.to_owned()) });
    }

    fn bytes(&self, span: datafusion::sql::sqlparser::tokenizer::Span) -> Option<Range<usize>> {
        Span::try_from_sqlparser_span(span).and_then(|span| bytes_of(span, self.sql))
    }

    fn writes(&mut self, what: &str, span: datafusion::sql::sqlparser::tokenizer::Span) {
        let hint = "a transform reads: its mode says how its rows come into the table";
        self.wrong(span, format!("`{what}` has no place in a transform's query"), hint);
    }

    /// The table that `STREAM` is about; else it is told why there is none.
    fn streamed(&mut self, name: &ObjectName, args: &[FunctionArg]) -> Option<(Ident, Ident)> {
        let form = "write the name of one table: `STREAM(bronze.leads)`";
        let parts = match args {
            [FunctionArg::Unnamed(FunctionArgExpr::Expr(Expr::CompoundIdentifier(parts)))] => parts.clone(),
            [FunctionArg::Unnamed(FunctionArgExpr::Expr(Expr::Identifier(part)))] => vec![part.clone()],
            [FunctionArg::Unnamed(FunctionArgExpr::Expr(Expr::Value(value)))] => {
                let text = match &value.value {
                    Value::SingleQuotedString(text) => text.clone(),
                    other => other.to_string(),
                };
                let message = format!("`STREAM` takes a table, not the text {}", quoted(&text));
                self.wrong(value.span, message, "write the name of a table, without quotes: `STREAM(bronze.leads)`");
                return None;
            }
            _ => {
                self.wrong(name.span(), "`STREAM` takes one table".to_owned(), form);
                return None;
            }
        };
        match parts.as_slice() {
            [schema, table] => Some((schema.clone(), table.clone())),
            other => {
                let shown = other.iter().map(|part| part.value.as_str()).collect::<Vec<_>>().join(".");
                let message = format!("`STREAM` takes a table of the lake, which {} is not", quoted(&shown));
                let span = other.first().map_or_else(|| name.span(), |part| part.span);
                self.wrong(span, message, form);
                None
            }
        }
    }

    fn name_of(name: &ObjectName) -> String {
        name.0.iter().filter_map(ObjectNamePart::as_ident).map(|part| part.value.as_str()).collect::<Vec<_>>().join(".")
    }

    fn function_in_from(&mut self, name: &ObjectName) {
        let written = Self::name_of(name);
        let lower = written.to_ascii_lowercase();
        if REACHING_OUT.contains(&lower.as_str()) {
            let hint = "a transform reads tables of the lake alone";
            self.wrong(name.span(), format!("`{written}` has no place in a transform's query"), hint);
        } else if !MAKING_ROWS.contains(&lower.as_str()) {
            let hint = "in `FROM` stand tables, `STREAM(bronze.leads)`, `unnest(…)` and `generate_series(…)`";
            self.wrong(name.span(), format!("there is no function {} that gives rows", quoted(&written)), hint);
        }
    }
}

impl VisitorMut for Rewriter<'_> {
    type Break = ();

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<()> {
        match factor {
            TableFactor::Table { name, alias, args: args @ Some(_), .. } => {
                if !Self::name_of(name).eq_ignore_ascii_case(STREAM) {
                    self.function_in_from(name);
                    return ControlFlow::Continue(());
                }
                let args = args.take().map(|args| args.args).unwrap_or_default();
                let Some((schema, table)) = self.streamed(name, &args) else { return ControlFlow::Continue(()) };
                let place = self.bytes(schema.span.union(&table.span));
                let internal = Ident { value: format!("{STREAM_PREFIX}{}", schema.value), ..schema };
                alias.get_or_insert_with(|| TableAlias {
                    explicit: false,
                    name: table.clone(),
                    columns: Vec::new(),
                    at: None,
                });
                let key = format!("{}.{}", internal.value, table.value);
                *name = ObjectName(vec![ObjectNamePart::Identifier(internal), ObjectNamePart::Identifier(table)]);
                if let Some(place) = place {
                    self.found.places.entry(key).or_insert(place);
                }
            }
            TableFactor::Table { name, args: None, .. } => {
                let written = Self::name_of(name);
                let is_text =
                    name.0.iter().filter_map(ObjectNamePart::as_ident).any(|part| part.quote_style == Some('\''));
                if is_text {
                    let hint = "a transform reads tables of the lake alone, by their names without quotes";
                    let at = self.sql.find(&format!("'{written}'"));
                    self.found.problems.push(SqlProblem {
                        message: format!("the text {} is not a table", quoted(&written)),
                        place: self.bytes(name.span()).or(at.map(|at| at..at + written.len() + 2)),
                        hint: Some(hint.to_owned()),
                    });
                    return ControlFlow::Continue(());
                } else if written.eq_ignore_ascii_case(STREAM) {
                    let hint = "write the table in parentheses: `STREAM(bronze.leads)`";
                    self.wrong(name.span(), "`STREAM` takes one table".to_owned(), hint);
                    return ControlFlow::Continue(());
                } else if written.starts_with(STREAM_PREFIX) {
                    let hint = "write `STREAM(bronze.leads)`";
                    self.wrong(name.span(), format!("{} is not the name of a table", quoted(&written)), hint);
                    return ControlFlow::Continue(());
                }
                if let Some(place) = self.bytes(name.span()) {
                    self.found.places.entry(written).or_insert(place);
                }
            }
            TableFactor::Function { name, .. } if Self::name_of(name).eq_ignore_ascii_case(STREAM) => {
                let hint = "write `FROM STREAM(bronze.leads)`, without `LATERAL`";
                self.wrong(name.span(), "`STREAM` can't be lateral".to_owned(), hint);
            }
            TableFactor::Function { name, .. } => {
                let name = name.clone();
                self.function_in_from(&name);
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<()> {
        let what = match query.body.as_ref() {
            SetExpr::Insert(_) => Some("INSERT"),
            SetExpr::Update(_) => Some("UPDATE"),
            SetExpr::Delete(_) => Some("DELETE"),
            SetExpr::Merge(_) => Some("MERGE"),
            _ if !query.locks.is_empty() => Some("FOR UPDATE"),
            _ if query.settings.is_some() => Some("SETTINGS"),
            _ if query.format_clause.is_some() => Some("FORMAT"),
            _ => None,
        };
        if let Some(what) = what {
            let span = query.span();
            self.writes(what, span);
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<()> {
        if select.into.is_some() {
            self.writes("SELECT INTO", select.span());
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if let Expr::Function(function) = expr {
            let written = Self::name_of(&function.name);
            if REACHING_OUT.contains(&written.to_ascii_lowercase().as_str()) {
                let hint = "a transform reads tables of the lake alone, and changes no settings";
                self.wrong(function.name.span(), format!("`{written}` has no place in a transform's query"), hint);
            } else if written.eq_ignore_ascii_case(STREAM) {
                let hint = "it stands in `FROM`: `SELECT … FROM STREAM(bronze.leads)`";
                self.wrong(function.name.span(), "`STREAM` is not a value".to_owned(), hint);
            }
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_value(&mut self, value: &mut ValueWithSpan) -> ControlFlow<()> {
        if let Value::Placeholder(name) = &value.value {
            let message = format!("{} has no value: a transform has no parameters", quoted(name));
            self.wrong(value.span, message, "write the value itself");
        }
        ControlFlow::Continue(())
    }
}
