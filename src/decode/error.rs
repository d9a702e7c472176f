use std::path::PathBuf;

use arrow::error::ArrowError;

use super::registry::RegistryError;
use crate::error::{Classify, Kind, Retry};

/// Why decoding could not begin, or can't go on. What is wrong with an event is a
/// [`Reject`](crate::batch::Reject) instead.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    #[error("can't read the schema `{}`", path.display())]
    SchemaFile {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("the schema `{}` can't be used: {reason}", path.display())]
    PinnedSchema { path: PathBuf, reason: String },
    #[error("the schema can't be used: {reason}")]
    Schema { reason: String },
    #[error("framing `{framing}` needs a registry with such schema ids, and the project declares none")]
    NoRegistry { framing: &'static str },
    #[error("framing `bare` needs a pinned schema, and the pipeline names none")]
    NoSchema,
    #[error("format `avro` needs a registry or a pinned schema, and there is neither")]
    NoSource,
    #[error("can't get the schema `{id}` from the registry")]
    Registry {
        id: String,
        #[source]
        source: RegistryError,
    },
    #[error("the worker that decodes has stopped")]
    Worker(#[source] tokio::task::JoinError),
    #[error("decoded values don't fit the columns that their schema asks for")]
    Columns(#[from] ArrowError),
}

impl Classify for DecodeError {
    fn kind(&self) -> Kind {
        match self {
            Self::SchemaFile { .. }
            | Self::PinnedSchema { .. }
            | Self::Schema { .. }
            | Self::NoRegistry { .. }
            | Self::NoSchema
            | Self::NoSource => Kind::Config,
            Self::Registry { source, .. } => source.kind(),
            Self::Worker(_) | Self::Columns(_) => Kind::Internal,
        }
    }

    fn retry(&self) -> Retry {
        match self {
            Self::Registry { source, .. } => source.retry(),
            _ => Retry::Never,
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::SchemaFile { .. } => {
                "`[decode] schema` is a path to an `.avsc` file, relative to the project's folder"
            }
            Self::PinnedSchema { .. } | Self::Schema { .. } => return None,
            Self::NoRegistry { framing: "confluent" } => {
                "declare `[registry.confluent]` in `sluice.toml`, or name files in `[registry.folder]` by number: `42.avsc`"
            }
            Self::NoRegistry { framing: "single-object" } => {
                "declare `[registry.folder]` in `sluice.toml`, or name an `.avsc` file in `[decode] schema`"
            }
            Self::NoRegistry { .. } => "declare `[registry.azure]` or `[registry.folder]` in `sluice.toml`",
            Self::NoSchema => "name an `.avsc` file in `[decode] schema`",
            Self::NoSource => "declare a registry in `sluice.toml`, or name an `.avsc` file in `[decode] schema`",
            Self::Registry { source, .. } => return source.hint(),
            Self::Worker(_) | Self::Columns(_) => "this is a defect of sluice: report it with the schema",
        };
        Some(hint.to_owned())
    }
}
