//! A mistake in a declaration, and where its bytes are.

use std::fmt;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use serde::ser::{Serialize, SerializeStruct as _, Serializer};

use super::mask::mask;
use crate::error::{Classify, Kind};

/// A file of the project as it was read, fit to be shown: what looks like a secret is masked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceFile {
    /// Relative to the project's folder, with `/` between its parts.
    pub name: String,
    /// The text with secrets masked byte for byte, so that places in it stay true.
    pub shown: String,
}

/// Bytes of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub file: Arc<SourceFile>,
    pub bytes: Range<usize>,
}

impl Place {
    /// Line and column of the first byte, both from 1; columns count characters.
    pub fn line_and_column(&self) -> (usize, usize) {
        let text = self.file.shown.as_bytes();
        let before = &text[..self.bytes.start.min(text.len())];
        let line_start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1);
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        (line, String::from_utf8_lossy(&before[line_start..]).chars().count() + 1)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (line, column) = self.line_and_column();
        write!(f, "{}:{line}:{column}", self.file.name)
    }
}

/// One mistake, with what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// None where there are no bytes to point at: a file that isn't there.
    pub place: Option<Place>,
    pub message: String,
    pub hint: Option<String>,
}

impl Problem {
    pub fn new(place: impl Into<Option<Place>>, message: impl Into<String>) -> Self {
        Self { place: place.into(), message: message.into(), hint: None }
    }

    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// The shape that scripts read: `{"file", "line", "column", "message", "hint"}`.
impl Serialize for Problem {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (line, column) = self.place.as_ref().map(Place::line_and_column).unzip();
        let mut shown = serializer.serialize_struct("Problem", 5)?;
        shown.serialize_field("file", &self.place.as_ref().map(|place| place.file.name.as_str()))?;
        shown.serialize_field("line", &line)?;
        shown.serialize_field("column", &column)?;
        shown.serialize_field("message", &self.message)?;
        shown.serialize_field("hint", &self.hint)?;
        shown.end()
    }
}

/// A text of the user's in backticks: shortened, without secrets, and without characters that
/// move a cursor.
pub(crate) fn quoted(text: &str) -> String {
    let text = mask(text);
    const LONGEST: usize = 80;
    let mut shown: String = text.chars().take(LONGEST).flat_map(escaped).collect();
    if text.chars().nth(LONGEST).is_some() {
        shown.push('…');
    }
    format!("`{shown}`")
}

/// A control character as its escape, any other as it is.
fn escaped(c: char) -> Vec<char> {
    if c.is_control() { c.escape_debug().collect() } else { vec![c] }
}

/// The nearest of the known names, where one is near enough to be a slip of the fingers.
pub(crate) fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // Comparing costs the product of both lengths.
    const LONGEST: usize = 64;
    let name = &name.chars().take(LONGEST).collect::<String>().to_ascii_lowercase().replace('-', "_");
    known
        .into_iter()
        .map(|known| (strsim::damerau_levenshtein(name, &known.to_ascii_lowercase().replace('-', "_")), known))
        .filter(|(distance, known)| *distance <= (known.len().max(name.len()) / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, known)| known)
}

/// "`a`, `b` or `c`".
pub(crate) fn listed<'a>(names: impl IntoIterator<Item = &'a str>, last: &str) -> String {
    let names: Vec<String> = names.into_iter().map(quoted).collect();
    match names.split_last() {
        Some((only, [])) => only.clone(),
        Some((end, rest)) => format!("{} {last} {end}", rest.join(", ")),
        None => "none".to_owned(),
    }
}

/// Every problem of a project, in the order of files and lines; never empty.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ConfigErrors {
    /// The project's folder, where one was found.
    pub dir: Option<PathBuf>,
    pub problems: Vec<Problem>,
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.problems.as_slice() {
            [only] => match &only.place {
                Some(place) => write!(f, "{place}: {}", only.message),
                None => f.write_str(&only.message),
            },
            problems => write!(f, "the project's files have {} problems", problems.len()),
        }
    }
}

impl Classify for ConfigErrors {
    fn kind(&self) -> Kind {
        Kind::Config
    }

    fn hint(&self) -> Option<String> {
        match self.problems.as_slice() {
            [only] => only.hint.clone(),
            _ => Some("`sluice check` lists them".to_owned()),
        }
    }
}
