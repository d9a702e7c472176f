//! Values of flags that hold secrets: a mistake in them is told without repeating them.

use std::ffi::OsStr;

use clap::builder::TypedValueParser;
use clap::error::ErrorKind;
use clap::{Arg, Command, Error};

/// Parses a value as the function does; clap's own words for a mistake would show the value.
#[derive(Debug, Clone, Copy)]
pub(super) struct Hidden<T>(pub(super) fn(&str) -> Result<T, String>);

impl<T: Clone + Send + Sync + 'static> TypedValueParser for Hidden<T> {
    type Value = T;

    fn parse_ref(&self, command: &Command, flag: Option<&Arg>, value: &OsStr) -> Result<T, Error> {
        let parsed = value.to_str().ok_or_else(|| "it is not UTF-8".to_owned()).and_then(self.0);
        parsed.map_err(|reason| {
            let flag = flag.map(ToString::to_string).unwrap_or_default();
            let words = format!("the value of '{flag}' can't be used: {reason}");
            command.clone().error(ErrorKind::ValueValidation, words)
        })
    }
}
