//! Rows and their ledger into a Delta table, in ONE commit.
//!
//! ```text
//! Staged ─▶ trim ─▶ dead letters ─▶ schema ─▶ data files ─▶ put version base + 1
//!            ▲                                                   │ taken: read the winners
//!            └───────────────────────────────────────────────────┘
//! ```
//!
//! The version at which the ledger was read is the base of the commit: what was trimmed at V
//! lands as V + 1 or not at all. [`writer::TableWriter`] holds that loop, [`table::OpenTable`] the
//! head of the log as this process knows it, [`CommitLog`](crate::catalog::commit_log::CommitLog) the bytes.

pub mod dead_letters;
pub mod evolve;
pub mod files;
pub mod gaps;
pub mod ledger;
mod plan;
pub mod schema;
pub mod settle;
pub mod staged;
pub mod table;
pub mod writer;

use crate::catalog::CatalogError;
use crate::checkpoint::PartitionKey;
use crate::error::{Classify, Kind, Retry};

#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    #[error("rows of table `{table}` can't be written")]
    File { table: String, source: files::FileError },
    #[error("commit {version} of table `{table}` has an unknown outcome")]
    UnknownOutcome { table: String, version: u64, source: Box<dyn std::error::Error + Send + Sync> },
    #[error(
        "a stranger's `{operation}` in version {version} of table `{table}` took rows that the ledger accounts for"
    )]
    Stranger { table: String, version: u64, operation: String },
    #[error("table `{table}` can't be written by this version: {feature}")]
    Unsupported { table: String, feature: String },
    #[error("table `{table}` holds a ledger entry that this version can't read: `{app_id}`")]
    NewerLedger { table: String, app_id: String },
    #[error("table `{table}` was replaced while it was written: its id was `{was}` and is `{is}`")]
    Replaced { table: String, was: String, is: String },
    #[error("rows for table `{table}` don't fit together")]
    Arrow { table: String, source: arrow::error::ArrowError },
    #[error("table `{table}` has lost {tries} races for a commit in a row")]
    Contended { table: String, tries: u32 },
    #[error("hub `{origin}` was made at {is} (epoch ms), and table `{table}` holds events of one made at {was}")]
    Generation { table: String, origin: String, was: i64, is: i64 },
    #[error("table `{table}` isn't to change its columns for the schema `{schema}`")]
    SchemaChange {
        table: String,
        schema: String,
        #[source]
        misfit: schema::Misfit,
    },
    #[error(
        "table `{table}` counts {counted} {counter} events of partition `{partition}`, and {letters} dead letters wait"
    )]
    Uncounted { table: String, partition: PartitionKey, counter: &'static str, counted: i64, letters: usize },
    #[error("partition `{partition}` was staged out of order for table `{table}`")]
    Order { table: String, partition: PartitionKey },
    #[error(transparent)]
    Catalog(#[from] CatalogError),
}

impl Classify for SinkError {
    fn kind(&self) -> Kind {
        match self {
            Self::File { source: files::FileError::Encode(_) | files::FileError::Task(_), .. } => Kind::Internal,
            Self::File { source: files::FileError::Store { .. }, .. }
            | Self::UnknownOutcome { .. }
            | Self::Contended { .. } => Kind::External,
            Self::Stranger { .. }
            | Self::Replaced { .. }
            | Self::NewerLedger { .. }
            | Self::Generation { .. }
            | Self::SchemaChange { .. }
            | Self::Uncounted { .. } => Kind::Data,
            Self::Unsupported { .. } => Kind::User,
            Self::Arrow { .. } | Self::Order { .. } => Kind::Internal,
            Self::Catalog(error) => error.kind(),
        }
    }

    fn retry(&self) -> Retry {
        match self.kind() {
            Kind::External => Retry::Backoff,
            _ => Retry::Never,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Stranger { version, .. } => Some(format!(
                "the ledger can't be believed after version {version}: restore the table to version {} with the tool \
                 that changed it, or declare a new table",
                version.saturating_sub(1)
            )),
            Self::SchemaChange { .. } => Some(
                "say `on_schema_change = \"evolve\"` in `[decode]` to let columns be added, or `\"pin\"` to keep in \
                 `_rescued` what has none; or give the table the column (JSON: the pinned schema the field), and start again"
                    .to_owned(),
            ),
            Self::Uncounted { table, .. } => Some(format!("`sluice audit {table}` says what doesn't agree")),
            Self::NewerLedger { .. } => Some("run the newer version of sluice that wrote it".to_owned()),
            Self::Generation { .. } => Some(
                "the hub was deleted and made anew: declare `[source] generation = { name = \"2\", since = \
                 <when it was made> }`"
                    .to_owned(),
            ),
            _ => None,
        }
    }
}
