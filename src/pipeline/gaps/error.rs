//! What keeps gaps from being listed, healed or accepted.

use std::time::Duration;

use crate::catalog::CatalogError;
use crate::checkpoint::Range;
use crate::error::{Classify, Kind};
use crate::pipeline::PipelineError;
use crate::sink::delta::SinkError;
use crate::storage::StorageError;

#[derive(Debug, thiserror::Error)]
pub enum GapError {
    #[error("{0}")]
    Name(String),
    #[error("hub `{hub}` can't be asked what it still has")]
    Hub { hub: String, source: Box<PipelineError> },
    #[error("hub `{hub}` didn't say within {} what it still has", humantime::format_duration(*after))]
    HubSilent { hub: String, after: Duration },
    #[error("there is no table `{table}` yet, so nothing can be missing in it")]
    NoTable { table: String },
    #[error("table `{table}` accounts for no partition `{partition}`")]
    UnknownPartition { table: String, partition: String, known: Vec<String> },
    #[error("table `{table}` accounts for partition `{partition}` of several sources")]
    SeveralSources { table: String, partition: String, sources: Vec<String> },
    #[error("`--from {}` and `--to {}` have no number between them", .0.from, .0.to)]
    Empty(Range),
    #[error("`{flag}` {reason}")]
    Words { flag: &'static str, reason: String },
    /// Why, a clause for each stretch; and what is missing.
    #[error("not all of {range} of partition `{partition}` is missing in table `{table}`: {}", .why.join(", "))]
    NotMissing { table: String, partition: String, range: Range, why: Vec<String>, missing: Vec<Range> },
    #[error("{range} of partition `{partition}` was accepted by {by} at {at}")]
    Before { partition: String, range: Range, by: String, at: String },
    #[error(transparent)]
    Pipeline(#[from] PipelineError),
    #[error(transparent)]
    Sink(#[from] SinkError),
    #[error(transparent)]
    Catalog(#[from] CatalogError),
}

/// How many names or ranges a hint lists.
const MOST_NAMED: usize = 10;

impl From<StorageError> for GapError {
    fn from(error: StorageError) -> Self {
        Self::Catalog(error.into())
    }
}

impl Classify for GapError {
    fn kind(&self) -> Kind {
        match self {
            Self::Name(_)
            | Self::NoTable { .. }
            | Self::UnknownPartition { .. }
            | Self::SeveralSources { .. }
            | Self::Empty(_)
            | Self::Words { .. }
            | Self::NotMissing { .. }
            | Self::Before { .. } => Kind::User,
            Self::HubSilent { .. } => Kind::External,
            Self::Hub { source, .. } => source.kind(),
            Self::Pipeline(error) => error.kind(),
            Self::Sink(error) => error.kind(),
            Self::Catalog(error) => error.kind(),
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Hub { .. } | Self::HubSilent { .. } => {
                Some("without `--hub` the ledger alone says what is missing".to_owned())
            }
            Self::NoTable { .. } => {
                Some("`sluice run` makes it, and `sluice backfill` takes in what the captures hold".to_owned())
            }
            Self::UnknownPartition { known, .. } => Some(format!("it accounts for {}", listed(known))),
            Self::SeveralSources { sources, .. } => Some(format!("say which one with `--source`: {}", listed(sources))),
            Self::Empty(_) => Some("`--to` is the number after the last one".to_owned()),
            Self::NotMissing { missing, .. } if missing.is_empty() => {
                Some("nothing of this partition is missing".to_owned())
            }
            Self::NotMissing { missing, .. } => {
                let ranges: Vec<String> = missing.iter().map(ToString::to_string).collect();
                Some(format!("missing is {}", listed(&ranges)))
            }
            Self::Before { .. } => Some("`sluice gaps list` says why".to_owned()),
            Self::Pipeline(error) => error.hint(),
            Self::Sink(error) => error.hint(),
            Self::Catalog(error) => error.hint(),
            Self::Name(_) | Self::Words { .. } => None,
        }
    }
}

fn listed(names: &[String]) -> String {
    let mut text = names.iter().take(MOST_NAMED).cloned().collect::<Vec<_>>().join(", ");
    if names.len() > MOST_NAMED {
        text.push_str(", …");
    }
    text
}
