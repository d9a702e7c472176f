//! A transform checked over the columns of its inputs: no data, no network.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, SchemaRef};
use datafusion::datasource::empty::EmptyTable;
use datafusion::error::DataFusionError;
use datafusion::prelude::SessionContext;

use super::changes::{self, hint_of_recompute};
use super::graph::{Node, placed};
use super::output::{HISTORY_COLUMNS, Output};
use super::{checked, condition, register};
use crate::catalog::change_data::with_columns;
use crate::catalog::sql::SqlProblem;
use crate::config::spec::{Mode, TableName, TransformSpec};
use crate::config::{Problem, nearest, quoted};

/// What is wrong with how a transform streams, whatever the columns of its inputs are.
pub fn streams(node: &Node) -> Vec<Problem> {
    let Node { spec, parsed, .. } = node;
    let mut problems = Vec::new();
    let streamed: Vec<_> = parsed.inputs.iter().filter(|input| input.is_streamed).collect();
    if spec.mode == Mode::Append && streamed.is_empty() {
        let place = spec.declaration.place(&["mode"]);
        let hint = match parsed.inputs.as_slice() {
            [only] => format!("write `FROM STREAM({only})`, or choose `mode = \"replace\"`"),
            _ => "read what is added by `STREAM(…)`, or choose `mode = \"replace\"`".to_owned(),
        };
        problems
            .push(Problem::new(place, "each run would add all rows again: the query streams nothing").with_hint(hint));
    }
    if spec.mode == Mode::Recompute && streamed.is_empty() {
        let message = "the query streams nothing, and `mode = \"recompute\"` is for the keys that new rows touch";
        let hint = "read what is added by `STREAM(…)`, or choose `mode = \"replace\"`";
        problems.push(Problem::new(spec.declaration.place(&["mode"]), message).with_hint(hint));
    }
    for input in streamed {
        let place = spec.sql_place(input.place.clone());
        if spec.mode == Mode::Replace {
            let message =
                format!("`{input}` has no place in `mode = \"replace\"`, which computes the whole table again");
            problems.push(Problem::new(place, message).with_hint(format!("write `{}` without `STREAM`", input.table)));
        }
    }
    problems
}

/// Plans a transform over empty inputs with these columns.
///
/// # Errors
/// Every problem of its SQL, and then of what its declaration says of the query's columns.
pub async fn check(
    session: &SessionContext,
    node: &Node,
    columns: &BTreeMap<TableName, SchemaRef>,
) -> Result<Output, Vec<Problem>> {
    let Node { spec, parsed, .. } = node;
    let internal = |error: DataFusionError| vec![Problem::new(None, format!("can't plan `{}`: {error}", spec.table))];
    for input in &parsed.inputs {
        if let Some(schema) = columns.get(&input.table) {
            let shown = if node.shows_changes(input) { with_columns(schema) } else { Arc::clone(schema) };
            register(session, input, Arc::new(EmptyTable::new(shown))).map_err(internal)?;
        }
    }
    let output = checked(session, parsed).await;
    let output = output.map_err(|wrong| {
        let told = wrong.into_iter().map(|problem| {
            let hint = hint_of_recompute(node, &problem.message).or(problem.hint);
            placed(spec, SqlProblem { hint, ..problem })
        });
        told.collect::<Vec<_>>()
    })?;
    let mut problems = named_columns(spec, &output.schema);
    problems.extend(conditions(session, spec, &output.schema).await);
    problems.extend(changes::problems(session, node, &output));
    if problems.is_empty() { Ok(output) } else { Err(problems) }
}

/// What keys and the like may be.
enum Use {
    /// Compared for equality.
    Key,
    /// Compared for order.
    Sequence,
    /// A folder's name.
    Partition,
}

fn named_columns(spec: &TransformSpec, schema: &SchemaRef) -> Vec<Problem> {
    let dedupe = spec.dedupe.as_ref().map(|dedupe| dedupe.by.as_slice()).unwrap_or_default();
    let lists = [
        ("keys", spec.keys.as_slice(), Use::Key),
        ("sequence_by", &spec.sequence_by, Use::Sequence),
        ("dedupe_by", dedupe, Use::Key),
        ("partition_by", &spec.partition_by, Use::Partition),
    ];
    let mut problems = Vec::new();
    for (key, names, used) in lists {
        for (at, name) in names.iter().enumerate() {
            let place = || spec.declaration.place(&[key, &at.to_string()]);
            if spec.mode == Mode::History && matches!(used, Use::Partition) && HISTORY_COLUMNS.contains(&name.as_str())
            {
                continue;
            }
            let Ok(field) = schema.field_with_name(name) else {
                let message = format!("the query gives no column {}", quoted(name));
                problems.push(Problem::new(place(), message).with_hint(those_there(name, schema)));
                continue;
            };
            if let Some(why) = unfit(&used, field.data_type()) {
                let message = format!("column {} can't be in `{key}`: {why}", quoted(name));
                problems.push(
                    Problem::new(place(), message)
                        .with_hint("choose a column of whole values: text, integers, decimals, dates, times"),
                );
            }
        }
    }
    if !schema.fields().is_empty() && spec.partition_by.len() >= schema.fields().len() {
        let message = "`partition_by` names every column: no column is left for the files";
        problems.push(Problem::new(spec.declaration.place(&["partition_by"]), message).with_hint("name fewer of them"));
    }
    if spec.mode == Mode::History {
        for name in HISTORY_COLUMNS
            .iter()
            .filter(|name| schema.fields().iter().any(|field| field.name().eq_ignore_ascii_case(name)))
        {
            let message = format!("`mode = \"history\"` adds a column `{name}`, and the query gives one");
            problems.push(
                Problem::new(spec.declaration.place(&["mode"]), message).with_hint("give the query's another name"),
            );
        }
    }
    problems
}

fn unfit(used: &Use, data_type: &DataType) -> Option<&'static str> {
    let is_nested = data_type.is_nested();
    match used {
        Use::Key | Use::Sequence if is_nested => Some("it holds several values"),
        Use::Key if data_type.is_floating() => {
            Some("numbers with fractions aren't told apart as keys have to be: NaN, -0.0")
        }
        Use::Partition if is_nested => Some("it holds several values, and files are laid out by one"),
        Use::Partition if matches!(data_type, DataType::Binary) => Some("bytes are no name of a folder"),
        Use::Partition if data_type.is_floating() => Some("numbers with fractions are no names of folders"),
        _ => None,
    }
}

fn those_there(name: &str, schema: &SchemaRef) -> String {
    const MOST: usize = 12;
    let names = schema.fields().iter().map(|field| field.name().as_str());
    match nearest(name, names.clone()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => {
            let shown: Vec<String> = names.clone().take(MOST).map(quoted).collect();
            let rest = if schema.fields().len() > MOST { ", …" } else { "" };
            format!("it gives {}{rest}", shown.join(", "))
        }
    }
}

async fn conditions(session: &SessionContext, spec: &TransformSpec, schema: &SchemaRef) -> Vec<Problem> {
    let mut problems = Vec::new();
    if let Some(text) = &spec.delete_when
        && let Err(wrong) = condition(session, schema, text).await
    {
        problems.extend(wrong.into_iter().map(|problem| in_declaration(spec, &["delete_when"], problem)));
    }
    for (at, expectation) in spec.expectations.iter().enumerate() {
        if let Err(wrong) = condition(session, schema, &expectation.check).await {
            let path = ["expect", &at.to_string(), "check"];
            problems.extend(wrong.into_iter().map(|problem| in_declaration(spec, &path, problem)));
        }
    }
    problems
}

fn in_declaration(spec: &TransformSpec, path: &[&str], problem: SqlProblem) -> Problem {
    let place = match problem.place {
        Some(bytes) => spec.declaration.place_in_text(path, bytes),
        None => spec.declaration.place(path),
    };
    let told = Problem::new(place, problem.message);
    match problem.hint {
        Some(hint) => told.with_hint(hint),
        None => told,
    }
}
