//! What keeps an audit from being made; that a table isn't complete is no error.

use std::time::Duration;

use crate::catalog::CatalogError;
use crate::catalog::query::QueryError;
use crate::error::{Classify, Kind};
use crate::pipeline::PipelineError;
use crate::sink::delta::SinkError;

#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    #[error("hub `{hub}` can't be asked for its partitions")]
    Hub { hub: String, source: Box<PipelineError> },
    #[error("hub `{hub}` didn't say within {} which partitions it has", humantime::format_duration(*after))]
    HubSilent { hub: String, after: Duration },
    #[error("the rows of table `{table}` can't be read")]
    Rows { table: String, source: Box<QueryError> },
    #[error("table `{table}` has no column `{column}` of the type that the pipeline gives it")]
    Column { table: String, column: &'static str },
    #[error("table `{table}` holds dead letters, which are audited with the rows of `{of}`")]
    DeadLetters { table: String, of: String },
    #[error("table `{table}` holds no events, but which gaps of other tables were accepted")]
    NoEvents { table: String },
    #[error(transparent)]
    Sink(#[from] SinkError),
    #[error(transparent)]
    Catalog(#[from] CatalogError),
}

impl Classify for AuditError {
    fn kind(&self) -> Kind {
        match self {
            Self::Hub { source, .. } => source.kind(),
            Self::HubSilent { .. } => Kind::External,
            Self::Rows { source, .. } => source.kind(),
            Self::Column { .. } => Kind::Data,
            Self::DeadLetters { .. } | Self::NoEvents { .. } => Kind::User,
            Self::Sink(error) => error.kind(),
            Self::Catalog(error) => error.kind(),
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Hub { .. } | Self::HubSilent { .. } => {
                Some("`--offline` audits the table against its ledger alone".to_owned())
            }
            Self::DeadLetters { of, .. } => Some(format!("`sluice audit {of}`")),
            Self::Rows { source, .. } => source.hint(),
            Self::Sink(error) => error.hint(),
            Self::Catalog(error) => error.hint(),
            Self::NoEvents { .. } => Some("`sluice gaps list` shows it beside what is missing".to_owned()),
            Self::Column { .. } => None,
        }
    }
}
