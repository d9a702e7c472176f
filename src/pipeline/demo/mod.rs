//! The demo: an insurer on this machine, from its producers to its tables.
//!
//! ```text
//! story ─▶ Avro, CloudEvents ─▶ real client ─▶ AMQP ─▶ hubs ─▶ the repository's own pipelines ─▶ bronze
//!                                                                  the repository's own SQL ─▶ silver ─▶ gold
//! ```
//!
//! | file | |
//! |---|---|
//! | `facts.rs` | the twelve kinds of events, and their hubs |
//! | `chapters.rs` | the plot: which event comes when, and what belongs to what |
//! | `insurer.rs`, `payloads.rs` | what the events say |
//! | `story.rs` | the events themselves: the same seed, the same story |
//! | `send.rs` | the producers |
//! | `project.rs` | the folder that stays |
//! | `tables.rs` | what lies in the tables afterwards |
//!
//! `sluice demo` starts the emulator, has the story sent, runs the pipelines until they caught up
//! and prints tables and audit. Everything on the way is what a project on Azure uses.

mod chapters;
pub mod facts;
mod insurer;
mod payloads;
pub mod project;
pub mod send;
pub mod story;
pub mod tables;

use std::io;
use std::path::PathBuf;

use super::PipelineError;
use crate::catalog::CatalogError;
use crate::error::{Classify, Kind, Retry};
use crate::source::SourceError;

/// Of each hub of the demo.
pub const PARTITIONS: u32 = 4;

#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    #[error("folder `{}` holds something else than a demo", dir.display())]
    Foreign { dir: PathBuf },
    #[error("another demo runs in folder `{}`", dir.display())]
    Busy { dir: PathBuf },
    #[error("the demo can't use `{}`", path.display())]
    Folder {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("an event of the demo can't be written")]
    Story(#[source] Box<apache_avro::Error>),
    #[error("telling the demo's story broke off")]
    Teller(#[source] tokio::task::JoinError),
    #[error("the demo's events can't be sent")]
    Send(#[source] Box<SourceError>),
    #[error("the demo's tables can't be read")]
    Tables(#[source] Box<CatalogError>),
    #[error("a row of the demo can't be shown")]
    Shown(#[source] arrow::error::ArrowError),
    #[error(transparent)]
    Pipeline(Box<PipelineError>),
}

impl DemoError {
    fn story(error: apache_avro::Error) -> Self {
        Self::Story(Box::new(error))
    }
}

impl From<SourceError> for DemoError {
    fn from(error: SourceError) -> Self {
        Self::Send(Box::new(error))
    }
}

impl From<CatalogError> for DemoError {
    fn from(error: CatalogError) -> Self {
        Self::Tables(Box::new(error))
    }
}

impl Classify for DemoError {
    fn kind(&self) -> Kind {
        match self {
            Self::Foreign { .. } | Self::Busy { .. } | Self::Folder { .. } => Kind::User,
            Self::Story(_) | Self::Teller(_) | Self::Shown(_) => Kind::Internal,
            Self::Send(error) => error.kind(),
            Self::Tables(error) => error.kind(),
            Self::Pipeline(error) => error.kind(),
        }
    }

    fn retry(&self) -> Retry {
        Retry::Never
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Foreign { .. } => Some("name an empty folder with `--dir`, or one of an earlier demo".to_owned()),
            Self::Busy { .. } => Some("wait for it, or name another folder with `--dir`".to_owned()),
            Self::Send(error) => error.hint(),
            Self::Tables(error) => error.hint(),
            Self::Pipeline(error) => error.hint(),
            Self::Folder { .. } | Self::Story(_) | Self::Teller(_) | Self::Shown(_) => None,
        }
    }
}
