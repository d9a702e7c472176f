//! What planning says, in words that help.

use std::ops::Range;
use std::sync::LazyLock;

use datafusion::error::DataFusionError;
use regex::Regex;

use crate::catalog::sql::{SqlProblem, problem};
use crate::config::{nearest, quoted};

/// Functions and columns that a hint lists at most.
const MOST_LISTED: usize = 8;

/// What DataFusion says of types that don't go together; its span is that of one of the two.
const INCOMPATIBLE: &str = "expressions have incompatible types";

/// Whether an error is about two operands, of which it has the place of one.
pub(super) fn is_of_operands(error: &DataFusionError) -> bool {
    error.diagnostic().is_some_and(|diagnostic| diagnostic.message == INCOMPATIBLE)
}

/// The mistakes that an error holds.
pub(super) fn problems(error: &DataFusionError, sql: &str) -> Vec<SqlProblem> {
    error
        .iter()
        .map(|error| {
            let SqlProblem { message, place, hint } = told(problem(error, sql), sql);
            SqlProblem { message: type_words(&message), place, hint: hint.map(|hint| type_words(&hint)) }
        })
        .collect()
}

/// A message in one line, with the name that was probably meant.
fn told(problem: SqlProblem, sql: &str) -> SqlProblem {
    let SqlProblem { message, place, hint } = problem;
    // DataFusion says of some mistakes of type that it is a bug of its own.
    let message = message.split("This issue was likely caused by").next().unwrap_or_default();
    let message = without_prefixes(message.trim()).trim_end_matches('.');
    if let Some((head, candidates)) = message.split_once("Candidate functions:") {
        return mismatched(head, candidates, place);
    }
    if let Some((_, errors)) = message.split_once("failed to match any signature, errors: ") {
        return unmatched(errors, place);
    }
    if message == INCOMPATIBLE
        && let [one, other] = hint.as_deref().unwrap_or_default().split("; ").collect::<Vec<_>>().as_slice()
    {
        let name = |note: &str| note.trim_start_matches("has type ").to_owned();
        let message = format!("{} and {} don't go together", name(one), name(other));
        return SqlProblem { message, place, hint: Some("cast one of them to the other's type".to_owned()) };
    }
    if let Some(function) = message.strip_prefix("Invalid function '").and_then(|rest| rest.split('\'').next()) {
        let near = hint.as_deref().and_then(|hint| hint.strip_prefix("Possible function '")?.strip_suffix('\''));
        let hint = near.map(|near| format!("did you mean `{near}`?"));
        return SqlProblem { message: format!("there is no function {}", quoted(function)), place, hint };
    }
    if let Some(column) = message.strip_prefix("column '").and_then(|rest| Some(rest.split_once("' is ambiguous")?.0)) {
        let known = possible(hint.as_deref().unwrap_or_default());
        let hint = (!known.is_empty()).then(|| format!("write {}", crate::config::listed(known.iter().copied(), "or")));
        return SqlProblem { message: format!("more than one table has a column {}", quoted(column)), place, hint };
    }
    if let Some(column) = message.strip_prefix("column '").and_then(|rest| Some(rest.split_once("' not found")?.0)) {
        let known = possible(hint.as_deref().unwrap_or_default());
        return unknown(column, &known, place, sql);
    }
    if let Some(rest) = message.strip_prefix("No field named ") {
        let column = rest.split(". ").next().unwrap_or(rest).split(".\n").next().unwrap_or(rest);
        let known = rest.split_once("Valid fields are ").map(|(_, known)| known.split(", ").collect::<Vec<_>>());
        return unknown(column, &known.unwrap_or_default(), place, sql);
    }
    if let Some(field) = message.strip_prefix("Field ").and_then(|rest| rest.strip_suffix(" not found in struct")) {
        return SqlProblem { message: format!("the struct has no field {}", quoted(field)), place, hint };
    }
    let message = message.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ");
    SqlProblem { message: lower_first(&message), place, hint: hint.map(|hint| lower_first(&hint)) }
}

/// Whose error it is within DataFusion is no matter of who asked.
fn without_prefixes(mut message: &str) -> &str {
    const PREFIXES: [&str; 7] = [
        "Internal error: ",
        "Error during planning: ",
        "Arrow error: ",
        "Cast error: ",
        "Parser error: ",
        "Invalid argument error: ",
        "This feature is not implemented: ",
    ];
    while let Some(rest) = PREFIXES.iter().find_map(|prefix| message.strip_prefix(prefix)) {
        message = rest;
    }
    message
}

/// `Function 'upper' expects 1 arguments but received 2. No function matches … Candidate functions: upper(String)`.
fn mismatched(head: &str, candidates: &str, place: Option<Range<usize>>) -> SqlProblem {
    let head = head.split(" No function matches").next().unwrap_or(head);
    let head = head.split(". You might need").next().unwrap_or(head).trim().trim_end_matches('.');
    let listed = candidates.lines().map(str::trim).filter(|line| !line.is_empty()).take(MOST_LISTED);
    let listed: Vec<String> = listed.map(quoted).collect();
    let message = head.strip_prefix("Function ").map_or_else(|| lower_first(head), |rest| format!("function {rest}"));
    SqlProblem { message, place, hint: Some(format!("it is {}", listed.join(", "))) }
}

/// `Error during planning: Function 'sum' requires Decimal, but received String (DataType: Utf8).,Error …`.
fn unmatched(errors: &str, place: Option<Range<usize>>) -> SqlProblem {
    static REQUIRES: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(r"Function '([^']+)' requires ([^,]+), but received ([^(]+)").expect("it is a regex")
    });
    let mut wanted: Vec<&str> = Vec::new();
    let mut first = None;
    for found in REQUIRES.captures_iter(errors) {
        let [function, requires, received] = found.extract().1;
        first.get_or_insert((function, received.trim()));
        if !wanted.contains(&requires) {
            wanted.push(requires);
        }
    }
    match first {
        Some((function, received)) => {
            let hint = format!("it takes {}", wanted.iter().take(MOST_LISTED).copied().collect::<Vec<_>>().join(", "));
            SqlProblem { message: format!("`{function}` can't take {received}"), place, hint: Some(hint) }
        }
        None => {
            let message = without_prefixes(errors.split(",Error during planning: ").next().unwrap_or(errors));
            SqlProblem { message: lower_first(message), place, hint: None }
        }
    }
}

/// The columns that there are come as `possible column l.score`.
fn possible(hint: &str) -> Vec<&str> {
    hint.split("; ").filter_map(|word| word.strip_prefix("possible column ")).collect()
}

fn unknown(column: &str, known: &[&str], place: Option<Range<usize>>, sql: &str) -> SqlProblem {
    let name = |column: &str| column.rsplit('.').next().unwrap_or(column).trim_matches('"').to_owned();
    let column = &column.replace('"', "");
    let mut names: Vec<String> = known.iter().map(|known| name(known)).collect();
    names.dedup();
    let hint = match nearest(&name(column), names.iter().map(String::as_str)) {
        Some(near) => Some(format!("did you mean `{near}`?")),
        None if names.is_empty() => None,
        None => {
            let rest = if names.len() > MOST_LISTED { ", …" } else { "" };
            let shown: Vec<String> = names.iter().take(MOST_LISTED).map(|name| quoted(name)).collect();
            Some(format!("there are {}{rest}", shown.join(", ")))
        }
    };
    let place = place.or_else(|| last_word(sql, &name(column)));
    SqlProblem { message: format!("there is no column {}", quoted(column)), place, hint }
}

/// The last place of a name: clauses whose mistakes have no places stand at the end of a query.
fn last_word(sql: &str, name: &str) -> Option<Range<usize>> {
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    let found = sql
        .rmatch_indices(name)
        .find(|(at, _)| !sql[..*at].ends_with(is_name) && !sql[at + name.len()..].starts_with(is_name));
    found.map(|(at, _)| at..at + name.len())
}

/// The names of Arrow's types as those of Delta.
fn type_words(message: &str) -> String {
    static SIMPLE: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(
            r#"\b(?:Large)?(?:Utf8(?:View)?)\b|\bInt(?:8|16|32|64)\b|\bFloat(?:32|64)\b|\bTimestamp\((?:s|ms|µs|ns)(?:, "[^"]*")?\)|\bDate32\b|\bBoolean\b"#,
        )
        .expect("it is a regex")
    });
    static LIST: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"\bList\(([A-Za-z<>]+)(?:, field: '[^']*')?\)").expect("it is a regex"));
    static STRUCT: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\bStruct\([^()]*\)").expect("it is a regex"));
    let simple = SIMPLE.replace_all(message, |found: &regex::Captures<'_>| {
        let name = match &found[0] {
            "Int8" => "byte",
            "Int16" => "short",
            "Int32" => "integer",
            "Int64" => "long",
            "Float32" => "float",
            "Float64" => "double",
            "Date32" => "date",
            "Boolean" => "boolean",
            time if time.starts_with("Timestamp") => "timestamp",
            _ => "string",
        };
        name.to_owned()
    });
    let lists = LIST.replace_all(&simple, "array<$1>");
    STRUCT.replace_all(&lists, "struct").into_owned()
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
