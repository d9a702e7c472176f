//! The size of a query, before anything recurses over it.

use std::ops::Range;

use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan, Tokenizer};

use crate::catalog::sql::{SqlProblem, offset};
use crate::config::quoted;
use crate::config::spec::LARGEST_SQL_BYTES;

/// Operators of one expression: each may make it one level deeper, and what walks an expression recurses. A thousand take
/// more stack than a thread has in a build without optimisation.
const MOST_OPERATORS: usize = 400;

/// Joins and unions of a query: each makes the plan one level deeper.
const MOST_TABLES: usize = 200;

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
    if let Some((token, message, hint)) = too_deep(&tokens) {
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

/// The first token that makes an expression or the plan too deep. What nests within parentheses is bounded by the
/// parser; a chain (`a + b + c …`) isn't, and what walks it recurses as well.
fn too_deep(tokens: &[TokenWithSpan]) -> Option<(&TokenWithSpan, String, &'static str)> {
    // The operators around each open parenthesis, and those of the chain at hand.
    let mut around = vec![0];
    let mut chained = 0;
    let mut tables = 0;
    for token in tokens {
        let base = around.last().copied().unwrap_or_default();
        match part(&token.token) {
            Part::Opens => around.push(chained),
            // `a[1][2]` is deeper than `a[1]`.
            Part::Indexes => {
                chained += 1;
                around.push(chained);
            }
            Part::Closes => {
                chained = base;
                if around.len() > 1 {
                    around.pop();
                }
            }
            Part::Separates => chained = base,
            Part::Operator => chained += 1,
            Part::Table => tables += 1,
            Part::Other => {}
        }
        if chained > MOST_OPERATORS {
            let message = format!("an expression has more than {MOST_OPERATORS} operators");
            return Some((
                token,
                message,
                "compare with a list (`IN (…)`), join with a table, or split it into columns",
            ));
        }
        if tables > MOST_TABLES {
            let message = format!("the query has more than {MOST_TABLES} joins and unions");
            return Some((token, message, "split it into several transforms"));
        }
    }
    None
}

/// What a token does to the depth of a tree.
enum Part {
    Opens,
    /// Opens, and may take an element of what stands before it.
    Indexes,
    Closes,
    /// Another expression begins.
    Separates,
    Operator,
    Table,
    Other,
}

fn part(token: &Token) -> Part {
    use Keyword as K;
    match token {
        Token::LParen | Token::LBrace => Part::Opens,
        Token::LBracket => Part::Indexes,
        Token::RParen | Token::RBracket | Token::RBrace => Part::Closes,
        Token::Comma | Token::SemiColon => Part::Separates,
        Token::Word(word) => match word.keyword {
            K::SELECT | K::FROM | K::WHERE | K::GROUP | K::HAVING | K::ORDER | K::QUALIFY | K::ON => Part::Separates,
            K::WHEN | K::THEN | K::ELSE => Part::Separates,
            K::JOIN | K::UNION | K::EXCEPT | K::INTERSECT | K::MINUS => Part::Table,
            K::AND | K::OR | K::XOR | K::NOT | K::IS | K::IN | K::LIKE | K::ILIKE | K::SIMILAR | K::BETWEEN => {
                Part::Operator
            }
            K::COLLATE | K::AT | K::DIV | K::CASE => Part::Operator,
            _ => Part::Other,
        },
        Token::Whitespace(_)
        | Token::Period
        | Token::Number(..)
        | Token::SingleQuotedString(_)
        | Token::DoubleQuotedString(_)
        | Token::EOF => Part::Other,
        _ => Part::Operator,
    }
}
