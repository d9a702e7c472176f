//! The size of a query, before anything recurses over it.

use std::ops::Range;

use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan, Tokenizer};

use crate::catalog::sql::{SqlProblem, offset};
use crate::config::quoted;

/// A query is written by hand: what is larger is another kind of file.
pub const LARGEST_SQL_BYTES: usize = 256 * 1024;

/// Operators, joins, unions: each may make the plan one level deeper, and what walks a plan recurses. Lists of
/// columns and values don't count.
const MOST_OPERATORS: usize = 2_000;

/// What the tokens tell.
#[derive(Debug)]
pub(in crate::transform) struct Measured {
    pub tokens: Vec<TokenWithSpan>,
    /// Where the second of several statements begins.
    pub second_statement: Option<Range<usize>>,
    pub first_words: FirstWords,
}

/// How a statement begins.
#[derive(Debug, Default)]
pub(in crate::transform) struct FirstWords {
    words: Vec<String>,
    place: Option<Range<usize>>,
}

impl FirstWords {
    /// For a statement that is none.
    pub(super) fn not_a_query(&self) -> SqlProblem {
        // `CREATE TABLE`, but `INSERT`.
        let takes_two = ["CREATE", "DROP", "ALTER", "REFRESH"];
        let count = if self.words.first().is_some_and(|word| takes_two.contains(&word.as_str())) { 2 } else { 1 };
        let name = self.words.iter().take(count).cloned().collect::<Vec<_>>().join(" ");
        let hint = "write a `SELECT`: the transform's mode says how its rows come into the table";
        SqlProblem {
            message: format!("{} is not a query", quoted(&name)),
            place: self.place.clone(),
            hint: Some(hint.to_owned()),
        }
    }
}

/// Reads the tokens of a text.
///
/// # Errors
/// What makes it too large, or no SQL at all.
pub(in crate::transform) fn measure(sql: &str) -> Result<Measured, SqlProblem> {
    let wrong = |message: String, place: Option<Range<usize>>, hint: &str| SqlProblem {
        message,
        place,
        hint: Some(hint.to_owned()),
    };
    if sql.len() > LARGEST_SQL_BYTES {
        let message = format!("the SQL has {} bytes, more than {LARGEST_SQL_BYTES}", sql.len());
        return Err(wrong(message, Some(0..0), "is it a query at all?"));
    }
    if let Some(at) = sql.find('\0') {
        return Err(wrong("the SQL holds a zero byte".to_owned(), Some(at..at + 1), "save it as UTF-8 text"));
    }
    let tokens = Tokenizer::new(&GenericDialect {}, sql).tokenize_with_location().map_err(|error| {
        let start = offset(sql, error.location.line, error.location.column).unwrap_or(sql.len());
        wrong(format!("not SQL: {}", error.message), Some(start..start), "is a quote or a comment left open?")
    })?;
    let place = |token: &TokenWithSpan| {
        let (start, end) = (token.span.start, token.span.end);
        Some(offset(sql, start.line, start.column)?..offset(sql, end.line, end.column)?)
    };
    let mut operators = tokens.iter().filter(|token| nests(&token.token));
    if let Some(token) = operators.nth(MOST_OPERATORS) {
        let message = format!("the query has more than {MOST_OPERATORS} operators");
        let hint = "compare with a list (`IN (…)`) or join with a table, or split it into two transforms";
        return Err(wrong(message, place(token), hint));
    }
    let mut meant = tokens.iter().filter(|token| !matches!(token.token, Token::Whitespace(_)));
    let second = meant
        .clone()
        .skip_while(|token| token.token == Token::SemiColon)
        .skip_while(|token| token.token != Token::SemiColon)
        .find(|token| token.token != Token::SemiColon);
    let second_statement = second.and_then(place);
    let first = meant.clone().find(|token| token.token != Token::SemiColon).and_then(place);
    let words = meant.by_ref().skip_while(|token| token.token == Token::SemiColon).take(2);
    let words = words.map(|token| token.token.to_string().to_ascii_uppercase()).collect();
    let first_words = FirstWords { words, place: first };
    Ok(Measured { tokens, second_statement, first_words })
}

/// Whether a token may make a tree deeper.
fn nests(token: &Token) -> bool {
    match token {
        Token::Word(word) => matches!(
            word.keyword,
            Keyword::AND
                | Keyword::OR
                | Keyword::XOR
                | Keyword::NOT
                | Keyword::IS
                | Keyword::IN
                | Keyword::LIKE
                | Keyword::ILIKE
                | Keyword::SIMILAR
                | Keyword::BETWEEN
                | Keyword::COLLATE
                | Keyword::AT
                | Keyword::JOIN
                | Keyword::UNION
                | Keyword::EXCEPT
                | Keyword::INTERSECT
                | Keyword::MINUS
                | Keyword::SELECT
                | Keyword::CASE
                | Keyword::DIV
        ),
        // Parentheses count on their own: the parser bounds how deep they nest, not how many there are.
        Token::Whitespace(_)
        | Token::LParen
        | Token::Comma
        | Token::Period
        | Token::SemiColon
        | Token::RParen
        | Token::RBracket
        | Token::RBrace
        | Token::Number(..)
        | Token::SingleQuotedString(_)
        | Token::DoubleQuotedString(_)
        | Token::EOF => false,
        _ => true,
    }
}
