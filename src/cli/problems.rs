//! Problems of the project's files as a person reads them: the line, a caret, a hint.

use std::fmt;

use miette::{Diagnostic, GraphicalReportHandler, GraphicalTheme, LabeledSpan, NamedSource, SourceCode, SourceSpan};

use crate::config::{ConfigErrors, Place, Problem};

/// A line longer than this isn't shown: it fills the screen and hides the message.
const LONGEST_SHOWN_LINE_BYTES: usize = 400;

/// Renders every problem, then their number.
pub fn render(errors: &ConfigErrors, color: bool) -> String {
    let theme = if color { GraphicalTheme::unicode() } else { GraphicalTheme::unicode_nocolor() };
    // Lines aren't wrapped: a terminal wraps by its own width, and a log has none.
    let handler = GraphicalReportHandler::new_themed(theme)
        .with_context_lines(1)
        .with_wrap_lines(false)
        .without_syntax_highlighting();
    let mut text = String::new();
    for problem in &errors.problems {
        let shown = Shown::new(problem);
        let handler = match &problem.hint {
            Some(hint) => handler.clone().with_footer(format!("hint: {hint}")),
            None => handler.clone(),
        };
        // Writing to a String can't fail; a report that couldn't be drawn is still said.
        if handler.render_report(&mut text, &shown).is_err() {
            text.push_str(&problem.message);
        }
        text.push('\n');
    }
    let count = errors.problems.len();
    text.push_str(&format!("{count} problem{}", if count == 1 { "" } else { "s" }));
    text
}

/// A problem in the form that miette draws.
struct Shown<'a> {
    problem: &'a Problem,
    source: Option<(NamedSource<String>, SourceSpan)>,
}

impl<'a> Shown<'a> {
    fn new(problem: &'a Problem) -> Self {
        let source = problem.place.as_ref().filter(|place| fits_the_screen(place)).map(|place| {
            let text = place.file.shown.clone();
            let start = floor_char_boundary(&text, place.bytes.start);
            let end = floor_char_boundary(&text, place.bytes.end.min(line_end(&text, start)));
            let span = SourceSpan::from((start, end.saturating_sub(start)));
            (NamedSource::new(&place.file.name, text), span)
        });
        Self { problem, source }
    }
}

/// Whether the line of a place, and those beside it, are short enough to show.
fn fits_the_screen(place: &Place) -> bool {
    let text = &place.file.shown;
    let (line, _) = place.line_and_column();
    text.split('\n').skip(line.saturating_sub(2)).take(3).all(|line| line.len() <= LONGEST_SHOWN_LINE_BYTES)
}

/// The end of the line that holds `from`: a caret under a table of many lines says nothing.
fn line_end(text: &str, from: usize) -> usize {
    text[from..].find('\n').map_or(text.len(), |length| from + length)
}

fn floor_char_boundary(text: &str, at: usize) -> usize {
    (0..=at.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0)
}

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.problem.place {
            Some(place) if self.source.is_none() => write!(f, "{place}: {}", self.problem.message),
            _ => f.write_str(&self.problem.message),
        }
    }
}

impl fmt::Debug for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for Shown<'_> {}

impl Diagnostic for Shown<'_> {
    fn source_code(&self) -> Option<&dyn SourceCode> {
        self.source.as_ref().map(|(source, _)| source as &dyn SourceCode)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let (_, span) = self.source.as_ref()?;
        Some(Box::new(std::iter::once(LabeledSpan::new_with_span(None, *span))))
    }
}
