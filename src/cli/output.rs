//! The two handles that the program writes to: data on stdout, words on stderr.

use std::io::{self, IsTerminal, Write};

use serde::Serialize;

use super::Color;
use crate::error::{Classify, Kind};

/// Writes to stdout and stderr; the only place that does.
#[derive(Debug, Clone, Copy)]
pub struct Output {
    color: Color,
}

/// Stdout could not be written.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    /// The reader went away, as `| head` does: no failure, the program ends quietly.
    #[error("stdout was closed")]
    Closed,
    #[error("can't write to stdout")]
    Write(#[source] io::Error),
    #[error("can't write the result as JSON")]
    Json(#[source] serde_json::Error),
}

impl Classify for OutputError {
    fn kind(&self) -> Kind {
        match self {
            Self::Closed | Self::Write(_) => Kind::External,
            Self::Json(_) => Kind::Internal,
        }
    }
}

impl From<io::Error> for OutputError {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe { Self::Closed } else { Self::Write(error) }
    }
}

impl Output {
    pub fn new(color: Color) -> Self {
        Self { color }
    }

    /// Writes a line of data to stdout and flushes it.
    ///
    /// # Errors
    /// [`OutputError::Closed`] when nobody reads any more.
    pub fn line(&self, text: impl AsRef<str>) -> Result<(), OutputError> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(text.as_ref().as_bytes())?;
        stdout.write_all(b"\n")?;
        stdout.flush()?;
        Ok(())
    }

    /// Writes data to stdout as it is.
    ///
    /// # Errors
    /// [`OutputError::Closed`] when nobody reads any more.
    pub fn bytes(&self, bytes: &[u8]) -> Result<(), OutputError> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(bytes)?;
        stdout.flush()?;
        Ok(())
    }

    /// Writes a value as one line of JSON to stdout.
    ///
    /// # Errors
    /// [`OutputError::Closed`] when nobody reads any more.
    pub fn json(&self, value: &impl Serialize) -> Result<(), OutputError> {
        self.line(serde_json::to_string(value).map_err(OutputError::Json)?)
    }

    /// Writes a line of words to stderr. That nobody can read them is no reason to stop.
    pub fn say(&self, text: impl AsRef<str>) {
        let mut stderr = io::stderr().lock();
        let written = stderr.write_all(text.as_ref().as_bytes()).and_then(|()| stderr.write_all(b"\n"));
        drop(written);
    }

    /// Whether words may be coloured.
    pub fn color_on_stderr(&self) -> bool {
        self.color_on(io::stderr().is_terminal())
    }

    /// Whether somebody watches: long work shows its progress then.
    pub fn stderr_is_terminal(&self) -> bool {
        io::stderr().is_terminal()
    }

    fn color_on(&self, terminal: bool) -> bool {
        match self.color {
            Color::Always => true,
            Color::Never => false,
            // `NO_COLOR` counts when it is set to anything but the empty text (no-color.org).
            Color::Auto => terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
        }
    }
}
