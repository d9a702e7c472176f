//! What the name of a capture blob says: whose it is, and of which window.
//!
//! A template has all nine tokens, in any order and with anything between them; Capture adds
//! `.avro`. A token stands for what has no `/` in it, the parts of the time for digits.

use std::fmt;

use chrono::{DateTime, NaiveDate, Utc};
use regex::Regex;
use thiserror::Error;

/// What Capture uses unless told otherwise.
pub const DEFAULT_TEMPLATE: &str = "{Namespace}/{EventHub}/{PartitionId}/{Year}/{Month}/{Day}/{Hour}/{Minute}/{Second}";

/// What Capture adds to the name.
const SUFFIX: &str = ".avro";

/// The tokens, and what each stands for.
const TOKENS: [(&str, &str); 9] = [
    ("Namespace", "[^/]+?"),
    ("EventHub", "[^/]+?"),
    ("PartitionId", "[^/]+?"),
    ("Year", "[0-9]{4}"),
    ("Month", "[0-9]{1,2}"),
    ("Day", "[0-9]{1,2}"),
    ("Hour", "[0-9]{1,2}"),
    ("Minute", "[0-9]{1,2}"),
    ("Second", "[0-9]{1,2}"),
];

/// A template that can't be one.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TemplateError {
    #[error("it lacks `{{{token}}}`")]
    Missing { token: &'static str },
    #[error("it has `{{{token}}}` twice")]
    Twice { token: &'static str },
    #[error("it has `{{{token}}}`, which Capture doesn't know")]
    Unknown { token: String },
    #[error("it has a brace that isn't closed")]
    Unclosed,
}

/// A piece of a template.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    Token(&'static str),
}

/// How the blobs of a hub are named.
#[derive(Clone)]
pub struct NameTemplate {
    pieces: Vec<Piece>,
    pattern: Regex,
}

/// The template as it was written.
impl fmt::Debug for NameTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::new();
        for piece in &self.pieces {
            match piece {
                Piece::Text(piece) => text.push_str(piece),
                Piece::Token(token) => text.push_str(&format!("{{{token}}}")),
            }
        }
        write!(f, "NameTemplate({text:?})")
    }
}

/// What a name says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlobName {
    pub namespace: String,
    pub hub: String,
    pub partition: String,
    /// When the window began or ended, to the second; not the time of any event, nor a bound of any.
    pub window: DateTime<Utc>,
}

impl NameTemplate {
    /// # Errors
    /// A template without one of the nine tokens, with one twice, or with one that isn't known.
    pub fn parse(template: &str) -> Result<Self, TemplateError> {
        let pieces = pieces(template.strip_suffix(SUFFIX).unwrap_or(template))?;
        for (token, _) in TOKENS {
            match pieces.iter().filter(|piece| **piece == Piece::Token(token)).count() {
                0 => return Err(TemplateError::Missing { token }),
                1 => {}
                _ => return Err(TemplateError::Twice { token }),
            }
        }
        let mut pattern = String::from("^");
        for piece in &pieces {
            match piece {
                Piece::Text(text) => pattern.push_str(&regex::escape(text)),
                Piece::Token(token) => {
                    let stands_for = TOKENS.iter().find(|(name, _)| name == token).map_or("", |(_, form)| form);
                    pattern.push_str(&format!("(?P<{token}>{stands_for})"));
                }
            }
        }
        pattern.push_str(&format!("{}$", regex::escape(SUFFIX)));
        let pattern = Regex::new(&pattern).expect("escaped text and groups of ours are a pattern");
        Ok(Self { pieces, pattern })
    }

    /// What the path of a blob, from the place of all captures on, says; nothing where it isn't of
    /// this form, or its time doesn't exist.
    pub fn read(&self, path: &str) -> Option<BlobName> {
        let found = self.pattern.captures(path)?;
        let text = |token| found.name(token).map(|found| found.as_str().to_owned());
        let number = |token| found.name(token).and_then(|found| found.as_str().parse::<u32>().ok());
        let year = found.name("Year").and_then(|found| found.as_str().parse::<i32>().ok())?;
        let day = NaiveDate::from_ymd_opt(year, number("Month")?, number("Day")?)?;
        let window = day.and_hms_opt(number("Hour")?, number("Minute")?, number("Second")?)?.and_utc();
        Some(BlobName {
            namespace: text("Namespace")?,
            hub: text("EventHub")?,
            partition: text("PartitionId")?,
            window,
        })
    }

    /// The beginning that all blobs of a hub share, up to the last `/` before what differs among
    /// them: what has to be listed.
    pub fn prefix(&self, namespace: Option<&str>, hub: &str) -> String {
        let mut prefix = String::new();
        for piece in &self.pieces {
            match piece {
                Piece::Text(text) => prefix.push_str(text),
                Piece::Token("EventHub") => prefix.push_str(hub),
                Piece::Token("Namespace") => match namespace {
                    Some(namespace) => prefix.push_str(namespace),
                    None => break,
                },
                Piece::Token(_) => break,
            }
        }
        prefix.rfind('/').map_or(String::new(), |at| prefix[..=at].to_owned())
    }

    /// The name of a blob, as Capture would give it.
    pub fn name(&self, blob: &BlobName) -> String {
        let mut name = String::new();
        for piece in &self.pieces {
            match piece {
                Piece::Text(text) => name.push_str(text),
                Piece::Token("Namespace") => name.push_str(&blob.namespace),
                Piece::Token("EventHub") => name.push_str(&blob.hub),
                Piece::Token("PartitionId") => name.push_str(&blob.partition),
                Piece::Token("Year") => name.push_str(&blob.window.format("%Y").to_string()),
                Piece::Token("Month") => name.push_str(&blob.window.format("%m").to_string()),
                Piece::Token("Day") => name.push_str(&blob.window.format("%d").to_string()),
                Piece::Token("Hour") => name.push_str(&blob.window.format("%H").to_string()),
                Piece::Token("Minute") => name.push_str(&blob.window.format("%M").to_string()),
                Piece::Token(_) => name.push_str(&blob.window.format("%S").to_string()),
            }
        }
        name + SUFFIX
    }
}

fn pieces(template: &str) -> Result<Vec<Piece>, TemplateError> {
    let mut pieces = Vec::new();
    let mut rest = template;
    while let Some((text, after)) = rest.split_once('{') {
        if !text.is_empty() {
            pieces.push(Piece::Text(text.to_owned()));
        }
        let (name, after) = after.split_once('}').ok_or(TemplateError::Unclosed)?;
        let known = TOKENS.iter().find(|(token, _)| *token == name);
        let (token, _) = known.ok_or_else(|| TemplateError::Unknown { token: name.to_owned() })?;
        pieces.push(Piece::Token(token));
        rest = after;
    }
    if !rest.is_empty() {
        pieces.push(Piece::Text(rest.to_owned()));
    }
    Ok(pieces)
}

#[cfg(test)]
mod tests {
    use chrono::TimeZone as _;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_are_read_by_any_template() {
        let window = Utc.with_ymd_and_hms(2022, 12, 9, 16, 50, 12).single().expect("a time");
        for (template, path) in [
            (DEFAULT_TEMPLATE, "insurer/leads/9/2022/12/09/16/50/12.avro"),
            (
                "{Namespace}/{EventHub}/p{PartitionId}--{Year}-{Month}-{Day}--{Hour}-{Minute}-{Second}",
                "insurer/leads/p9--2022-12-09--16-50-12.avro",
            ),
            (
                "x/{Year}{Month}{Day}/{EventHub}-{Namespace}_{PartitionId}.{Hour}{Minute}{Second}",
                "x/20221209/leads-insurer_9.165012.avro",
            ),
        ] {
            let template = NameTemplate::parse(template).expect("a template");
            let blob = BlobName { namespace: "insurer".into(), hub: "leads".into(), partition: "9".into(), window };
            assert_eq!(template.read(path), Some(blob.clone()), "{path}");
            assert_eq!(template.name(&blob), path);
        }
    }

    #[test]
    fn what_is_named_otherwise_is_not_a_capture() {
        let template = NameTemplate::parse(DEFAULT_TEMPLATE).expect("a template");
        for path in [
            "insurer/leads/9/2022/12/09/16/50/12",
            "insurer/leads/9/2022/12/09/16/50/12.avro.tmp",
            "insurer/leads/9/2022/13/09/16/50/12.avro",
            "insurer/leads/9/2022/02/30/16/50/12.avro",
            "insurer/leads/9/2022/12/09/24/50/12.avro",
            "insurer/leads/x/9/2022/12/09/16/50/12.avro",
            "",
        ] {
            assert_eq!(template.read(path), None, "{path}");
        }
    }

    #[test]
    fn a_template_that_can_not_be_one_is_told_why() {
        for (template, words) in [
            ("{Namespace}/{EventHub}", "it lacks `{PartitionId}`"),
            (&format!("{DEFAULT_TEMPLATE}/{{Year}}"), "it has `{Year}` twice"),
            (&format!("{DEFAULT_TEMPLATE}/{{Week}}"), "it has `{Week}`, which Capture doesn't know"),
            ("{Namespace", "it has a brace that isn't closed"),
        ] {
            assert_eq!(NameTemplate::parse(template).expect_err(template).to_string(), words);
        }
    }

    #[test]
    fn the_prefix_ends_before_what_differs_among_the_blobs_of_a_hub() {
        for (template, namespace, prefix) in [
            (DEFAULT_TEMPLATE, Some("insurer"), "insurer/leads/"),
            (DEFAULT_TEMPLATE, None, ""),
            ("a/{EventHub}/p{PartitionId}/{Namespace}/{Year}{Month}{Day}{Hour}{Minute}{Second}", None, "a/leads/"),
        ] {
            let template = NameTemplate::parse(template).expect("a template");
            assert_eq!(template.prefix(namespace, "leads"), prefix);
        }
    }

    proptest! {
        #[test]
        fn any_path_is_read_without_panic(path in ".{0,120}") {
            let _ = NameTemplate::parse(DEFAULT_TEMPLATE).expect("a template").read(&path);
        }

        #[test]
        fn any_template_is_judged_without_panic(template in "[{}A-Za-z/.]{0,60}") {
            let _ = NameTemplate::parse(&template);
        }
    }
}
