//! Names to tables: where a table lies, and what its log says.

pub mod change_data;
pub mod commit_log;
pub mod data_file;
pub mod file_table;
mod filling;
pub mod lake;
pub mod log;
pub mod maintenance;
pub mod provider;
pub mod query;
pub mod rewrite;
pub mod scan;
pub mod sql;
pub mod state;
pub mod statistics;
pub mod tables;

pub use lake::Catalog;

use crate::config::spec::{OWN_SCHEMA, TableName};
use crate::error::{Classify, Kind, Retry};
use crate::storage::{Location, StorageError};

#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    #[error("table at `{table}` can't be read")]
    Delta { table: String, source: Box<deltalake::DeltaTableError> },
    #[error("the log of the table at `{table}` can't be read")]
    Kernel { table: String, source: Box<buoyant_kernel::Error> },
    #[error("the rows of the table at `{table}` can't be read")]
    Query { table: String, source: Box<datafusion::error::DataFusionError> },
    #[error("table `{table}` can't be read at version {version}")]
    NoVersion { table: String, version: u64, source: Box<datafusion::error::DataFusionError> },
    #[error("the log of table `{table}` can't be written or read")]
    Log { table: String, source: Box<dyn std::error::Error + Send + Sync> },
    #[error("commit {version} of table `{table}` has an unknown outcome")]
    UnknownOutcome { table: String, version: u64, source: Box<dyn std::error::Error + Send + Sync> },
    #[error("table `{table}` was lost to another writer {tries} times in a row")]
    Contended { table: String, tries: u32 },
    #[error("table `{table}` can't be rewritten by this version: {feature}")]
    Unsupported { table: String, feature: String },
    #[error("the lake at `{lake}` can't be listed")]
    List { lake: String, source: object_store::Error },
    #[error("there is no table `{table}`")]
    Unknown { table: String, known: Vec<String> },
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl Classify for CatalogError {
    fn kind(&self) -> Kind {
        match self {
            Self::Delta { .. }
            | Self::Kernel { .. }
            | Self::Query { .. }
            | Self::List { .. }
            | Self::Log { .. }
            | Self::UnknownOutcome { .. }
            | Self::Contended { .. } => Kind::External,
            Self::NoVersion { .. } | Self::Unknown { .. } | Self::Unsupported { .. } => Kind::User,
            Self::Storage(error) => error.kind(),
        }
    }

    fn retry(&self) -> Retry {
        match self {
            Self::Storage(error) => error.retry(),
            _ if self.kind() == Kind::External => Retry::Backoff,
            _ => Retry::Never,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::NoVersion { .. } => {
                Some("a version is one that the table has had, and whose log was not cleaned up since".to_owned())
            }
            Self::Unknown { known, .. } => Some(query::name_tables(known)),
            Self::Storage(error) => error.hint(),
            _ => None,
        }
    }
}

/// Where the table `name` lies in a lake: `<lake>/<schema>/<table>`.
pub fn table_location(lake: &Location, name: &TableName) -> Location {
    lake.join(&format!("{}/{}", name.schema, name.table))
}

/// The table that holds the dead letters of `name`.
pub fn dead_letters_of(name: &TableName) -> TableName {
    TableName { schema: name.schema.clone(), table: format!("{}__dead_letters", name.table) }
}

/// The table that holds the gaps that somebody accepted: one for a lake.
pub fn accepted_gaps() -> TableName {
    TableName { schema: OWN_SCHEMA.to_owned(), table: "gaps".to_owned() }
}
