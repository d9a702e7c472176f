//! What planning says, in words that help.

use datafusion::error::DataFusionError;

use crate::catalog::sql::{SqlProblem, problem};
use crate::config::{nearest, quoted};

/// Functions that a hint lists at most.
const MOST_CANDIDATES: usize = 6;

/// The mistakes that an error holds.
pub(super) fn problems(error: &DataFusionError, sql: &str) -> Vec<SqlProblem> {
    error.iter().map(|error| told(problem(error, sql))).collect()
}

/// Messages in one line, with the name that was probably meant.
fn told(problem: SqlProblem) -> SqlProblem {
    let SqlProblem { message, place, hint } = problem;
    // DataFusion says of some mistakes of type that it is a bug of its own.
    let message = message.split("\nThis issue was likely caused by").next().unwrap_or_default();
    let message = message.split(". This issue was likely caused by").next().unwrap_or_default();
    if let Some((head, candidates)) = message.split_once("Candidate functions:") {
        let head = head.split(". You might need").next().unwrap_or(head).trim().trim_end_matches('.');
        let listed: Vec<&str> =
            candidates.lines().map(str::trim).filter(|line| !line.is_empty()).take(MOST_CANDIDATES).collect();
        let hint = format!("there are {}", listed.iter().map(|name| quoted(name)).collect::<Vec<_>>().join(", "));
        return SqlProblem { message: lower_first(head), place, hint: Some(hint) };
    }
    let message = message.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ");
    let message = message.trim_end_matches('.');
    if let Some(column) = unknown_column(message) {
        return unknown(column, place, hint);
    }
    SqlProblem { message: lower_first(message), place, hint }
}

/// `column 'scor' not found in 'l'`, `column 'scor' not found`.
fn unknown_column(message: &str) -> Option<&str> {
    let rest = message.strip_prefix("column '")?;
    rest.split_once("' not found").map(|(name, _)| name)
}

/// The columns that there are come as `possible column l.score`.
fn unknown(column: &str, place: Option<std::ops::Range<usize>>, hint: Option<String>) -> SqlProblem {
    let hint = hint.unwrap_or_default();
    let known: Vec<&str> = hint.split("; ").filter_map(|word| word.strip_prefix("possible column ")).collect();
    let name = |column: &str| column.rsplit('.').next().unwrap_or(column).trim_matches('"').to_owned();
    let names: Vec<String> = known.iter().map(|known| name(known)).collect();
    let near = nearest(&name(column), names.iter().map(String::as_str));
    let hint = match near {
        Some(near) => Some(format!("did you mean `{near}`?")),
        None if known.is_empty() => None,
        None => Some(format!("near it are {}", known.iter().map(|known| quoted(known)).collect::<Vec<_>>().join(", "))),
    };
    SqlProblem { message: format!("there is no column {}", quoted(column)), place, hint }
}

/// A message begins in lower case, unless a name does not.
fn lower_first(message: &str) -> String {
    let mut letters = message.chars();
    match (letters.next(), letters.next()) {
        (Some(first), Some(second)) if first.is_uppercase() && second.is_lowercase() => {
            first.to_lowercase().chain(message[first.len_utf8()..].chars()).collect()
        }
        _ => message.to_owned(),
    }
}
