//! How every error of the crate says what it means for the caller.
//!
//! Each module has its own `thiserror` enum, cut by what the caller does next, and
//! implements [`Classify`]. Words and exit codes are made in one place, `cli/report.rs`.

use std::error::Error;

/// Whose move it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// What was asked for can't be: a wrong argument, an unknown table, a failed check.
    User,
    /// A declaration is wrong: `sluice.toml`, a pipeline file, a variable.
    Config,
    /// Something outside failed: network, storage, service.
    External,
    /// Stored data isn't what it must be: a foreign change, a generation that differs.
    Data,
    /// An invariant of ours is broken.
    Internal,
}

/// Whether trying again can help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    Never,
    Backoff,
}

/// What a caller may know of an error besides its words.
pub trait Classify: Error + Send + Sync + 'static {
    fn kind(&self) -> Kind;
    fn retry(&self) -> Retry {
        Retry::Never
    }
    /// What the user can do about it, a sentence without full stop.
    fn hint(&self) -> Option<String> {
        None
    }
}

/// Any classified error, for the top of the program.
#[derive(Debug)]
pub struct AnyError(Box<dyn Classify>);

impl AnyError {
    pub fn classified(&self) -> &dyn Classify {
        self.0.as_ref()
    }
}

impl<E: Classify> From<E> for AnyError {
    fn from(error: E) -> Self {
        Self(Box::new(error))
    }
}

/// How much of a name from outside a reject's text repeats; longer ones would flood the log.
const QUOTED_CHARS_MAX: usize = 100;

/// A piece of text from outside, short enough to be repeated.
pub fn quoted(text: &str) -> String {
    let mut shown: String = text.chars().take(QUOTED_CHARS_MAX).flat_map(char::escape_debug).collect();
    if text.chars().nth(QUOTED_CHARS_MAX).is_some() {
        shown.push('…');
    }
    shown
}
