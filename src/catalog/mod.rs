//! Names to tables: where a table lies, and what its log says.

pub mod log;
pub mod scan;

use crate::config::spec::TableName;
use crate::error::{Classify, Kind, Retry};
use crate::storage::{Location, StorageError};

#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    #[error("table at `{table}` can't be read")]
    Delta { table: String, source: deltalake::DeltaTableError },
    #[error("the log of the table at `{table}` can't be read")]
    Kernel { table: String, source: Box<buoyant_kernel::Error> },
    #[error("the rows of the table at `{table}` can't be read")]
    Query { table: String, source: Box<datafusion::error::DataFusionError> },
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl Classify for CatalogError {
    fn kind(&self) -> Kind {
        match self {
            Self::Delta { .. } | Self::Kernel { .. } | Self::Query { .. } => Kind::External,
            Self::Storage(error) => error.kind(),
        }
    }

    fn retry(&self) -> Retry {
        match self {
            Self::Delta { .. } | Self::Kernel { .. } | Self::Query { .. } => Retry::Backoff,
            Self::Storage(error) => error.retry(),
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
