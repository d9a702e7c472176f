//! What can go wrong with a blob.

use thiserror::Error;

use super::record::RecordError;
use crate::avro_container::ContainerError;
use crate::error::{Classify, Kind, Retry};

#[derive(Debug, Error)]
pub enum CaptureError {
    #[error("the captures at `{url}` can't be listed")]
    List {
        url: String,
        #[source]
        source: object_store::Error,
    },
    #[error("capture blob `{path}` can't be read")]
    Read {
        path: String,
        #[source]
        source: object_store::Error,
    },
    #[error("capture blob `{path}` can't be used")]
    Container {
        path: String,
        #[source]
        source: ContainerError,
    },
    #[error("capture blob `{path}` can't be used")]
    Record {
        path: String,
        #[source]
        source: RecordError,
    },
    #[error("looking into capture blobs broke off")]
    Task(#[source] tokio::task::JoinError),
}

impl CaptureError {
    /// The blob that it is about.
    pub fn path(&self) -> Option<&str> {
        match self {
            Self::Read { path, .. } | Self::Container { path, .. } | Self::Record { path, .. } => Some(path),
            Self::List { .. } | Self::Task(_) => None,
        }
    }

    /// Whether it is the blob itself, and not the way to it.
    pub fn is_of_the_blob(&self) -> bool {
        matches!(self, Self::Container { .. } | Self::Record { .. })
    }
}

impl Classify for CaptureError {
    fn kind(&self) -> Kind {
        match self {
            Self::List { .. } | Self::Read { .. } => Kind::External,
            Self::Container { .. } | Self::Record { .. } => Kind::Data,
            Self::Task(_) => Kind::Internal,
        }
    }

    /// A blob that is still written looks torn, so that may pass, too.
    fn retry(&self) -> Retry {
        match self {
            Self::Task(_) => Retry::Never,
            _ => Retry::Backoff,
        }
    }
}
