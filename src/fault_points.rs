//! The named points of a flush, of a replay, or of a transform's run, at which a process may die, for crash tests.
//!
//! A point that is armed aborts the process: nothing is flushed, closed or released, as with
//! a kill. `sluice run --crash-at data-staged:3` arms one for its third passing.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// The steps of a flush, those of what is done to dead letters later, then those of a transform's part, each in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultPoint {
    DeadLettersStaged,
    DeadLettersCommitted,
    SchemaCommitted,
    DataStaged,
    DataCommitted,
    CheckpointsPublished,
    ReplayStaged,
    ReplayCommitted,
    LettersStaged,
    LettersCommitted,
    ExpiredCounted,
    OutputMade,
    PartWritten,
    SideTablesCommitted,
    PartCommitted,
}

impl FaultPoint {
    pub const ALL: [FaultPoint; 15] = [
        FaultPoint::DeadLettersStaged,
        FaultPoint::DeadLettersCommitted,
        FaultPoint::SchemaCommitted,
        FaultPoint::DataStaged,
        FaultPoint::DataCommitted,
        FaultPoint::CheckpointsPublished,
        FaultPoint::ReplayStaged,
        FaultPoint::ReplayCommitted,
        FaultPoint::LettersStaged,
        FaultPoint::LettersCommitted,
        FaultPoint::ExpiredCounted,
        FaultPoint::OutputMade,
        FaultPoint::PartWritten,
        FaultPoint::SideTablesCommitted,
        FaultPoint::PartCommitted,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::DeadLettersStaged => "dead-letters-staged",
            Self::DeadLettersCommitted => "dead-letters-committed",
            Self::SchemaCommitted => "schema-committed",
            Self::DataStaged => "data-staged",
            Self::DataCommitted => "data-committed",
            Self::CheckpointsPublished => "checkpoints-published",
            Self::OutputMade => "output-made",
            Self::PartWritten => "part-written",
            Self::SideTablesCommitted => "side-tables-committed",
            Self::PartCommitted => "part-committed",
            Self::ReplayStaged => "replay-staged",
            Self::ReplayCommitted => "replay-committed",
            Self::LettersStaged => "letters-staged",
            Self::LettersCommitted => "letters-committed",
            Self::ExpiredCounted => "expired-counted",
        }
    }
}

/// Points at which a process may be told to die.
pub trait NamedPoint: Copy + PartialEq + Send + Sync + 'static {
    /// In the order in which they are passed.
    const ALL: &'static [Self];

    fn as_str(self) -> &'static str;

    /// Whether other work begins with it than that of the points before.
    fn begins_work(self) -> bool {
        false
    }
}

impl NamedPoint for FaultPoint {
    const ALL: &'static [Self] = &FaultPoint::ALL;

    fn as_str(self) -> &'static str {
        FaultPoint::as_str(self)
    }

    /// Of a flush, of dead letters later, of a transform.
    fn begins_work(self) -> bool {
        matches!(self, Self::ReplayStaged | Self::OutputMade)
    }
}

/// Which point of a flush is armed, if any.
pub type FaultPoints = Armed<FaultPoint>;

/// Which point is armed, if any.
#[derive(Clone)]
pub struct Armed<P>(Option<Act<P>>);

/// What is done at a point.
#[derive(Clone)]
enum Act<P> {
    /// At this one, once it was passed so often.
    Abort(P, Arc<AtomicU32>),
    Tell(Arc<dyn Fn(P) + Send + Sync>),
}

impl<P> Default for Armed<P> {
    fn default() -> Self {
        Self(None)
    }
}

impl<P: NamedPoint> fmt::Debug for Armed<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            None => f.write_str("none"),
            Some(Act::Abort(point, left)) => write!(f, "{}:{}", point.as_str(), left.load(Ordering::SeqCst)),
            Some(Act::Tell(_)) => f.write_str("watched"),
        }
    }
}

impl<P: NamedPoint> Armed<P> {
    /// Tells `watcher` of each point, and goes on once it returns: what has to happen just there can happen.
    pub fn watched(watcher: impl Fn(P) + Send + Sync + 'static) -> Self {
        Self(Some(Act::Tell(Arc::new(watcher))))
    }

    /// Passes `point`; dies when it is armed and its count has come.
    pub fn pass(&self, point: P) {
        match &self.0 {
            Some(Act::Abort(armed, left)) if *armed == point && left.fetch_sub(1, Ordering::SeqCst) == 1 => {
                tracing::error!(point = point.as_str(), "the armed fault point is reached: aborting");
                std::process::abort();
            }
            Some(Act::Tell(watcher)) => watcher(point),
            Some(Act::Abort(..)) | None => {}
        }
    }
}

impl<P: NamedPoint> FromStr for Armed<P> {
    type Err = String;

    /// # Errors
    /// Words for the user when the text isn't `POINT` or `POINT:N` with N of at least 1.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, count) = text.split_once(':').unwrap_or((text, "1"));
        let point = P::ALL.iter().copied().find(|point| point.as_str() == name).ok_or_else(|| {
            let mut known = String::new();
            for point in P::ALL {
                let between = if point.begins_work() { "; " } else { ", " };
                known.push_str(if known.is_empty() { "" } else { between });
                known.push_str(point.as_str());
            }
            format!("`{name}` is not a fault point; there are {known}")
        })?;
        match count.parse() {
            Ok(count @ 1..) => Ok(Self(Some(Act::Abort(point, Arc::new(AtomicU32::new(count)))))),
            _ => Err(format!("`{count}` is not a count of at least 1")),
        }
    }
}
