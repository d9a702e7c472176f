//! What keeps schemas from being shown, compared or registered.

use std::path::PathBuf;

use crate::catalog::CatalogError;
use crate::decode::{DecodeError, RegistryError};
use crate::error::{Classify, Kind};
use crate::pipeline::PipelineError;
use crate::pipeline::gaps::GapError;
use crate::sink::delta::SinkError;

#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    #[error("the project declares no registry")]
    NoRegistry,
    #[error("the schema `{}` can't be read", path.display())]
    File { path: PathBuf, source: std::io::Error },
    #[error("the schema `{name}` can't be used: {reason}")]
    Unusable { name: String, reason: String },
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error(transparent)]
    Decode(#[from] DecodeError),
    #[error(transparent)]
    Target(#[from] GapError),
    #[error(transparent)]
    Pipeline(#[from] PipelineError),
    #[error(transparent)]
    Sink(#[from] SinkError),
    #[error(transparent)]
    Catalog(#[from] CatalogError),
}

impl Classify for SchemaError {
    fn kind(&self) -> Kind {
        match self {
            Self::NoRegistry | Self::File { .. } | Self::Unusable { .. } => Kind::User,
            Self::Registry(error) => error.kind(),
            Self::Decode(error) => error.kind(),
            Self::Target(error) => error.kind(),
            Self::Pipeline(error) => error.kind(),
            Self::Sink(error) => error.kind(),
            Self::Catalog(error) => error.kind(),
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::NoRegistry => Some(
                "add `[registry.azure]`, `[registry.confluent]` or `[registry.folder]` to `sluice.toml`".to_owned(),
            ),
            Self::File { .. } => Some("paths start where the command is run".to_owned()),
            Self::Unusable { .. } => None,
            Self::Registry(error) => error.hint(),
            Self::Decode(error) => error.hint(),
            Self::Target(error) => error.hint(),
            Self::Pipeline(error) => error.hint(),
            Self::Sink(error) => error.hint(),
            Self::Catalog(error) => error.hint(),
        }
    }
}
