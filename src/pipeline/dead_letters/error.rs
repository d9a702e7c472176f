//! What keeps dead letters from being shown, replayed or dropped.

use crate::catalog::CatalogError;
use crate::decode::DecodeError;
use crate::error::{Classify, Kind};
use crate::pipeline::PipelineError;
use crate::pipeline::gaps::GapError;
use crate::sink::delta::SinkError;

#[derive(Debug, thiserror::Error)]
pub enum DeadLetterError {
    #[error("table `{table}` holds dead letters, which are named by the table of the rows")]
    Itself { table: String, of: String },
    #[error("`{text}` is no key of a dead letter")]
    Key { text: String },
    #[error("table `{table}` has no dead letter `{key}`")]
    NoLetter { table: String, key: String },
    #[error("the bytes of dead letter `{key}` are gone since {since}")]
    NoBytes { key: String, since: String },
    #[error("no pipeline of the project writes table `{table}`, so nothing says how to decode its dead letters")]
    NoPipeline { table: String },
    #[error("pipeline `{pipeline}` declares no `dead_letters_retention`")]
    NoRetention { pipeline: String },
    #[error("`drop` needs to know which dead letters are meant")]
    Unfiltered,
    #[error("dropping dead letters needs a yes")]
    Unconfirmed,
    #[error("dead letters of table `{table}` can't be decoded now")]
    Decode { table: String, source: DecodeError },
    #[error("others have rewritten the dead letters of table `{table}` {tries} times in a row")]
    Outrun { table: String, tries: u32 },
    #[error(transparent)]
    Target(#[from] GapError),
    #[error(transparent)]
    Pipeline(#[from] PipelineError),
    #[error(transparent)]
    Sink(#[from] SinkError),
    #[error(transparent)]
    Catalog(#[from] CatalogError),
}

impl Classify for DeadLetterError {
    fn kind(&self) -> Kind {
        match self {
            Self::Itself { .. }
            | Self::Key { .. }
            | Self::NoLetter { .. }
            | Self::NoBytes { .. }
            | Self::NoPipeline { .. }
            | Self::NoRetention { .. }
            | Self::Unfiltered
            | Self::Unconfirmed => Kind::User,
            Self::Outrun { .. } => Kind::External,
            Self::Decode { source, .. } => source.kind(),
            Self::Target(error) => error.kind(),
            Self::Pipeline(error) => error.kind(),
            Self::Sink(error) => error.kind(),
            Self::Catalog(error) => error.kind(),
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Itself { of, .. } => Some(format!("name `{of}`")),
            Self::Key { .. } => Some(
                "a key is `<source>/<partition>/<number>`, as `sluice dead-letters list` shows it, or \
                 `<partition>/<number>`"
                    .to_owned(),
            ),
            Self::NoLetter { table, .. } => Some(format!("`sluice dead-letters list {table}` names those there are")),
            Self::NoRetention { .. } => {
                Some("add `dead_letters_retention = \"30d\"` to `[sink]`, or name what to drop".to_owned())
            }
            Self::Unfiltered => Some("name them with `--class`, `--key` and so on, or say `--all`".to_owned()),
            Self::Unconfirmed => Some("`--yes` says it where nobody can be asked".to_owned()),
            Self::Decode { source, .. } => source.hint(),
            Self::Target(error) => error.hint(),
            Self::Pipeline(error) => error.hint(),
            Self::Sink(error) => error.hint(),
            Self::Catalog(error) => error.hint(),
            Self::NoBytes { .. } | Self::NoPipeline { .. } | Self::Outrun { .. } => None,
        }
    }
}
