//! Mistakes in SQL, in words and at their place, from the errors of DataFusion.

use std::ops::Range;

use datafusion::common::Span;
use datafusion::error::DataFusionError;

/// How many hints of a planner are passed on.
const MOST_HINTS: usize = 20;

/// One mistake in the SQL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SqlProblem {
    pub message: String,
    /// Bytes of the SQL.
    pub place: Option<Range<usize>>,
    pub hint: Option<String>,
}

/// What an error says, and where.
pub fn problem(error: &DataFusionError, sql: &str) -> SqlProblem {
    let mut problem = as_it_says(error, sql);
    // A place that is pointed at needn't be said in words.
    if problem.place.is_some()
        && let Some(at) = problem.message.rfind(" at Line: ")
    {
        problem.message.truncate(at);
    }
    problem
}

fn as_it_says(error: &DataFusionError, sql: &str) -> SqlProblem {
    match error.diagnostic() {
        Some(diagnostic) => {
            let notes = diagnostic.notes.iter().map(|note| &note.message);
            let helps = diagnostic.helps.iter().map(|help| &help.message);
            let hints: Vec<&str> = helps.chain(notes).map(String::as_str).take(MOST_HINTS).collect();
            SqlProblem {
                message: diagnostic.message.clone(),
                place: diagnostic.span.and_then(|span| bytes_of(span, sql)),
                hint: (!hints.is_empty()).then(|| hints.join("; ")),
            }
        }
        None => {
            let message = plain(error);
            SqlProblem { place: place_in_words(&message, sql), message, hint: None }
        }
    }
}

/// The innermost words, without `Error during planning:` before them.
pub fn plain(error: &DataFusionError) -> String {
    error.find_root().strip_backtrace().split_once(": ").map_or_else(
        || error.strip_backtrace(),
        |(prefix, rest)| {
            let is_prefix = prefix.ends_with("error") || prefix.starts_with("Error") || prefix.ends_with("implemented");
            if is_prefix { rest.to_owned() } else { format!("{prefix}: {rest}") }
        },
    )
}

/// The parser says where only in words: `… at Line: 1, Column: 8`.
fn place_in_words(message: &str, sql: &str) -> Option<Range<usize>> {
    let (_, place) = message.rsplit_once("Line: ")?;
    let (line, column) = place.split_once(", Column: ")?;
    let digits = |text: &str| text.chars().take_while(char::is_ascii_digit).collect::<String>().parse().ok();
    let start = offset(sql, digits(line)?, digits(column)?)?;
    let end = sql[start..].find(|c: char| c.is_whitespace() || c == ';').map_or(sql.len(), |at| start + at);
    Some(start..end)
}

pub fn bytes_of(span: Span, sql: &str) -> Option<Range<usize>> {
    let start = offset(sql, span.start.line, span.start.column)?;
    let end = offset(sql, span.end.line, span.end.column)?;
    (start <= end).then_some(start..end)
}

/// Lines and columns count from 1, columns in characters.
pub fn offset(sql: &str, line: u64, column: u64) -> Option<usize> {
    let line = usize::try_from(line.checked_sub(1)?).ok()?;
    let column = usize::try_from(column.checked_sub(1)?).ok()?;
    let start: usize = sql.split_inclusive('\n').take(line).map(str::len).sum();
    let rest = sql.get(start..)?;
    Some(start + rest.char_indices().nth(column).map_or(rest.len(), |(at, _)| at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_columns_are_bytes_of_the_text() {
        let sql = "SELECT 'ä',\n  x\nFROM t";
        for (line, column, expected) in
            [(1, 1, Some(0)), (1, 11, Some(11)), (2, 3, Some(15)), (3, 6, Some(22)), (0, 1, None)]
        {
            assert_eq!(offset(sql, line, column), expected, "{line}:{column}");
        }
        assert_eq!(offset(sql, 9, 9), Some(sql.len()));
    }
}
