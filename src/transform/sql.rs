//! A transform's SQL as it is written: one query, and the tables that it reads.
//!
//! Nothing here needs a table. What can be told of a text alone is told: several statements, statements that write,
//! functions that read files, `STREAM` where it can't be, names that are no tables'. A text may be hostile: it is
//! measured before it is parsed, since parsing and planning recurse.

pub(super) mod measure;
mod rewrite;

use std::fmt;
use std::ops::Range;

use datafusion::common::TableReference;
use datafusion::sql::parser::{DFParserBuilder, Statement};
use datafusion::sql::resolve::resolve_table_references;
use datafusion::sql::sqlparser::ast;
use datafusion::sql::sqlparser::dialect::GenericDialect;

use super::CATALOG;
use crate::catalog::sql::{SqlProblem, problem};
use crate::config::spec::{TableName, TransformSpec};

/// How deep a query may nest: parentheses, subqueries, functions of functions. DataFusion's own default; more would
/// need a larger stack than threads have.
pub(super) const DEEPEST_NESTING: usize = 50;

/// What the schema of a streamed input's internal name begins with. No table's does: they begin with a letter.
pub(super) const STREAM_PREFIX: &str = "__stream_";

/// A query and what it reads.
#[derive(Debug, Clone)]
pub struct Parsed {
    /// One query, in which each streamed input has its internal name.
    pub statement: Statement,
    /// Each table that it reads, and each that it streams, once; in the order of their names.
    pub inputs: Vec<Input>,
    /// The text, for places.
    pub sql: String,
}

/// A table that a query reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Input {
    pub table: TableName,
    /// Only what was added since the last run.
    pub is_streamed: bool,
    /// Where it is first named: bytes of the SQL.
    pub place: Range<usize>,
}

impl Input {
    /// The name under which it is registered and planned.
    pub fn internal_name(&self) -> String {
        format!("{}{}", if self.is_streamed { STREAM_PREFIX } else { "" }, self.table)
    }

    /// [`Self::internal_name`] as DataFusion has names.
    pub fn reference(&self) -> TableReference {
        let prefix = if self.is_streamed { STREAM_PREFIX } else { "" };
        TableReference::partial(format!("{prefix}{}", self.table.schema), self.table.table.clone())
    }
}

/// As it stands in the SQL.
impl fmt::Display for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_streamed { write!(f, "STREAM({})", self.table) } else { write!(f, "{}", self.table) }
    }
}

impl Parsed {
    /// A text in which internal names are those of the SQL again.
    pub fn readable_text(&self, text: &str) -> String {
        let streamed = self.inputs.iter().filter(|input| input.is_streamed);
        streamed.fold(text.to_owned(), |text, input| {
            let internal = input.internal_name();
            let shown = input.to_string();
            text.replace(&format!("{CATALOG}.{internal}"), &shown).replace(&internal, &shown)
        })
    }

    pub(super) fn readable(&self, problem: SqlProblem) -> SqlProblem {
        SqlProblem {
            message: self.readable_text(&problem.message),
            hint: problem.hint.map(|hint| self.readable_text(&hint)),
            ..problem
        }
    }
}

/// Reads the SQL of a transform. No tables, no network.
///
/// # Errors
/// Every mistake that the text alone tells; never empty.
pub fn parse(spec: &TransformSpec) -> Result<Parsed, Vec<SqlProblem>> {
    parse_query(&spec.sql)
}

/// As [`parse`], for a text.
///
/// # Errors
/// As [`parse`].
pub fn parse_query(sql: &str) -> Result<Parsed, Vec<SqlProblem>> {
    let measured = measure::measure(sql).map_err(|problem| vec![problem])?;
    let failed = |error| vec![told(problem(&error, sql), sql)];
    let mut statements = DFParserBuilder::new(measured.tokens)
        .with_dialect(&GenericDialect {})
        .with_recursion_limit(DEEPEST_NESTING)
        .build()
        .and_then(|mut parser| parser.parse_statements())
        .map_err(failed)?;
    let statement = statements.pop_front();
    if !statements.is_empty() {
        let hint = "a transform is one query: give each of them a transform of its own";
        return Err(vec![SqlProblem {
            message: format!("the file holds {} statements", statements.len() + 1),
            place: measured.second_statement,
            hint: Some(hint.to_owned()),
        }]);
    }
    let mut query = match statement {
        Some(Statement::Statement(statement)) if matches!(*statement, ast::Statement::Query(_)) => *statement,
        Some(_) => return Err(vec![measured.first_words.not_a_query()]),
        None => {
            let hint = "write a query: `SELECT … FROM STREAM(bronze.leads)`".to_owned();
            return Err(vec![SqlProblem {
                message: "the file holds no SQL".to_owned(),
                place: None,
                hint: Some(hint),
            }]);
        }
    };
    let rewrite::Found { mut problems, places } = rewrite::rewrite(&mut query, sql);
    let statement = Statement::Statement(Box::new(query));
    let (references, _) = resolve_table_references(&statement, false).map_err(failed)?;
    let mut inputs = Vec::new();
    for reference in &references {
        // Functions in `FROM` count as references too, but have no place.
        let Some(place) = places.get(&reference.to_string()).cloned() else { continue };
        match input(reference, place.clone()) {
            Ok(input) => inputs.push(input),
            Err((message, hint)) => problems.push(SqlProblem { message, place: Some(place), hint: Some(hint) }),
        }
    }
    if inputs.is_empty() && problems.is_empty() {
        let hint = "write `FROM STREAM(bronze.leads)`, or `FROM bronze.leads`".to_owned();
        problems.push(SqlProblem { message: "the query reads no table".to_owned(), place: None, hint: Some(hint) });
    }
    inputs.sort_by_key(|input| (input.table.clone(), input.is_streamed));
    if problems.is_empty() { Ok(Parsed { statement, inputs, sql: sql.to_owned() }) } else { Err(problems) }
}

/// The table that a name means, or why it means none.
fn input(reference: &TableReference, place: Range<usize>) -> Result<Input, (String, String)> {
    let written = reference.to_string();
    let form = "write `schema.table`, as in `bronze.leads`".to_owned();
    let (TableReference::Partial { schema, table }, None) = (reference, reference.catalog()) else {
        let message = match reference {
            TableReference::Bare { .. } => format!("table `{written}` has no schema"),
            _ => format!("`{written}` is not the name of a table"),
        };
        return Err((message, form));
    };
    let (schema, is_streamed) = match schema.strip_prefix(STREAM_PREFIX) {
        Some(schema) => (schema, true),
        None => (schema.as_ref(), false),
    };
    if schema == "information_schema" {
        return Err(("a transform can't read the information schema".to_owned(), form));
    }
    match format!("{schema}.{table}").parse::<TableName>() {
        Ok(table) => Ok(Input { table, is_streamed, place }),
        Err(_) => {
            let hint = if table.contains('@') {
                "a transform reads its tables as they are when it runs: write the name without a version"
            } else {
                "tables are named in lower case letters, digits and underscores: `bronze.leads`"
            };
            Err((format!("`{schema}.{table}` is not the name of a table"), hint.to_owned()))
        }
    }
}

/// What the parser says, in words of ours where its own don't help.
pub(super) fn told(problem: SqlProblem, sql: &str) -> SqlProblem {
    if problem.message.contains("ecursion limit") || problem.message.contains("RecursionLimitExceeded") {
        return SqlProblem {
            message: format!("the query nests more than {DEEPEST_NESTING} deep"),
            hint: Some("name its parts with `WITH`, or split it into two transforms".to_owned()),
            ..problem
        };
    }
    let message = problem.message.strip_prefix("ParserError(\"").and_then(|rest| rest.strip_suffix("\")"));
    let Some(message) = message.map(|message| format!("not SQL: {message}")) else { return problem };
    // The end has no line of its own.
    let end = sql.trim_end().len();
    let place = if message.ends_with("found: EOF") { Some(end..end) } else { problem.place };
    SqlProblem { message, place, ..problem }
}
