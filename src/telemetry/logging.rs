//! The log: text or JSON lines, by level.

use std::io;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry};

/// What the log looks like and how much it says.
#[derive(Debug, Clone, Copy)]
pub struct Logging {
    /// 0 is INFO (life cycle and commits); each step up says more, each step down less.
    pub verbosity: i16,
    pub form: Form,
}

#[derive(Debug, Clone, Copy)]
pub enum Form {
    Text {
        color: bool,
    },
    /// One JSON object a line.
    Json,
}

/// Installs the log for the process; a second call changes nothing.
pub fn install<W: io::Write + 'static>(logging: &Logging, writer: fn() -> W) {
    let layer: Box<dyn Layer<Registry> + Send + Sync> = match logging.form {
        Form::Text { color } => {
            Box::new(tracing_subscriber::fmt::layer().with_writer(writer).with_ansi(color).with_target(false))
        }
        Form::Json => Box::new(
            tracing_subscriber::fmt::layer().json().flatten_event(true).with_current_span(true).with_writer(writer),
        ),
    };
    let layer = layer.with_filter(levels(logging.verbosity));
    // Only a second installation fails, and the first one stays.
    drop(tracing_subscriber::registry().with(layer).try_init());
}

/// Our own level, and that of the dependencies: their retries and reconnects at WARN are what
/// our own log already says in our words, so they stay quiet until asked for.
fn levels(verbosity: i16) -> Targets {
    let (ours, theirs) = match verbosity {
        3.. => (LevelFilter::TRACE, LevelFilter::DEBUG),
        2 => (LevelFilter::TRACE, LevelFilter::WARN),
        1 => (LevelFilter::DEBUG, LevelFilter::WARN),
        0 => (LevelFilter::INFO, LevelFilter::ERROR),
        -1 => (LevelFilter::WARN, LevelFilter::ERROR),
        -2 => (LevelFilter::ERROR, LevelFilter::ERROR),
        ..=-3 => (LevelFilter::OFF, LevelFilter::OFF),
    };
    Targets::new().with_default(theirs).with_target("sluicebox", ours).with_target("sluice", ours)
}

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;

    #[test]
    fn each_step_of_verbosity_changes_what_is_said() {
        let ours = |verbosity, level| levels(verbosity).would_enable("sluicebox::pipeline", &level);
        let theirs = |verbosity, level| levels(verbosity).would_enable("hyper", &level);
        assert!(ours(0, Level::INFO) && !ours(0, Level::DEBUG));
        assert!(ours(1, Level::DEBUG) && !theirs(1, Level::DEBUG));
        assert!(ours(3, Level::TRACE) && theirs(3, Level::DEBUG));
        assert!(ours(-1, Level::WARN) && !ours(-1, Level::INFO));
        assert!(!ours(-3, Level::ERROR) && !theirs(-3, Level::ERROR));
    }
}
