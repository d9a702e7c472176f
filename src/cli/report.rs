//! The one place that turns an error into words, hints and an exit code.
//!
//! | code | meaning |
//! |---|---|
//! | 0 | well; a clean drain on SIGTERM or SIGINT too |
//! | 1 | the user's mistake, a failed check, or stored data that somebody must look at |
//! | 2 | usage: the command line could not be read |
//! | 3 | something outside failed, or a defect of ours |
//! | 130 | cut off by a second signal or by the deadline |

use std::error::Error;
use std::fmt::Write as _;
use std::process::ExitCode;

use super::output::{Output, OutputError};
use super::problems;
use crate::config::ConfigErrors;
use crate::error::{AnyError, Classify, Kind};

/// How the program ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    Well = 0,
    /// The user's mistake, or a check that failed.
    Failed = 1,
    Usage = 2,
    Outside = 3,
    /// Cut off by a second signal or by the deadline.
    CutOff = 130,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

impl From<Kind> for Exit {
    fn from(kind: Kind) -> Self {
        match kind {
            // Data: somebody must look and decide, trying again doesn't help.
            Kind::User | Kind::Config | Kind::Data => Self::Failed,
            Kind::External | Kind::Internal => Self::Outside,
        }
    }
}

/// Prints an error with its chain and hint, and picks the exit code.
pub fn report(error: &AnyError, output: &Output) -> ExitCode {
    let classified = error.classified();
    let any: &(dyn Error + 'static) = classified;
    if matches!(any.downcast_ref(), Some(OutputError::Closed)) {
        return Exit::Well.into();
    }
    match any.downcast_ref::<ConfigErrors>() {
        Some(errors) => output.say(problems::render(errors, output.color_on_stderr())),
        None => output.say(words(classified, output.color_on_stderr())),
    }
    Exit::from(classified.kind()).into()
}

/// Answers help, version and usage errors.
pub(super) fn usage(answer: clap::Error) -> ExitCode {
    // Where stdout or stderr is gone there is nobody left to tell.
    drop(answer.print());
    if answer.use_stderr() { Exit::Usage.into() } else { Exit::Well.into() }
}

/// The runtime could not be built: the machine has no threads or handles left.
pub fn no_runtime(error: &std::io::Error) -> ExitCode {
    Output::new(super::Color::Never).say(format!("error: can't start the runtime\n  caused by: {error}"));
    Exit::Outside.into()
}

/// `error: …`, its causes once each, and the hint.
fn words(error: &dyn Classify, color: bool) -> String {
    let (red, cyan, plain) = if color { ("\x1b[1;31m", "\x1b[1;36m", "\x1b[0m") } else { ("", "", "") };
    let mut text = format!("{red}error:{plain} {error}");
    let mut said = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let message = error.to_string();
        // Foreign errors often repeat their source in their own words.
        if !said.contains(&message) {
            let message = message.trim_end().replace('\n', "\n    ");
            // Writing to a String can't fail.
            let _ = write!(text, "\n  caused by: {message}");
        }
        said = message;
        cause = error.source();
    }
    let hint = error.hint().or_else(|| {
        (error.kind() == Kind::Internal)
            .then(|| "this is a defect of sluice: please report it with what led to it".into())
    });
    if let Some(hint) = hint {
        let _ = write!(text, "\n{cyan}hint:{plain} {hint}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("connection refused")]
    struct Refused;

    #[derive(Debug, thiserror::Error)]
    #[error("can't reach `localhost`: connection refused")]
    struct Unreachable(#[source] Refused);

    #[derive(Debug, thiserror::Error)]
    #[error("can't open hub `leads`")]
    struct Open(#[source] Unreachable);

    impl Classify for Open {
        fn kind(&self) -> Kind {
            Kind::External
        }

        fn hint(&self) -> Option<String> {
            Some("is the emulator running?".to_owned())
        }
    }

    #[test]
    fn each_level_of_the_chain_is_said_once() {
        let said = words(&Open(Unreachable(Refused)), false);
        assert_eq!(
            said,
            "error: can't open hub `leads`\n  caused by: can't reach `localhost`: connection refused\n\
             hint: is the emulator running?"
        );
    }

    #[test]
    fn the_exit_code_follows_the_kind() {
        let code = |kind| Exit::from(kind) as u8;
        assert_eq!(code(Kind::User), 1);
        assert_eq!(code(Kind::Config), 1);
        assert_eq!(code(Kind::Data), 1);
        assert_eq!(code(Kind::External), 3);
        assert_eq!(code(Kind::Internal), 3);
    }
}
