//! From a declared string to what it means, with a problem at its bytes where it means nothing.

use super::address::Wrong;
use super::document::Node;
use super::problem::{Place, Problem, quoted};

/// A document that is being read, and the problems found so far in the whole project.
pub(super) struct Reading<'a> {
    pub root: &'a Node,
    pub problems: &'a mut Vec<Problem>,
}

impl Reading<'_> {
    pub(super) fn place(&self, path: &[&str]) -> Place {
        self.root.place(path)
    }

    /// A problem at a path.
    pub(super) fn wrong(&mut self, path: &[&str], message: impl Into<String>, hint: impl Into<String>) {
        let place = self.place(path);
        self.problems.push(Problem::new(place, message).with_hint(hint));
    }

    /// Reads a text; `parse` fails with a hint, `what` completes "`…` is not …".
    pub(super) fn parse<T>(
        &mut self,
        path: &[&str],
        text: Option<&str>,
        what: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        match parse(text?) {
            Ok(value) => Some(value),
            Err(hint) => {
                let message = format!("{} is not {what}", quoted(self.root.written(path)));
                self.wrong(path, message, hint);
                None
            }
        }
    }

    /// Reads an address.
    pub(super) fn address(
        &mut self,
        path: &[&str],
        text: Option<&str>,
        parse: impl FnOnce(&str) -> Result<String, Wrong>,
    ) -> Option<String> {
        match parse(text?) {
            Ok(address) => Some(address),
            Err(wrong) => {
                let written = self.root.written(path);
                // Nothing in backticks says nothing: name the key then.
                let said = if written.is_empty() { path.last().copied().unwrap_or_default() } else { written };
                let message = format!("{} {}", quoted(said), wrong.what);
                self.wrong(path, message, wrong.hint);
                None
            }
        }
    }
}
