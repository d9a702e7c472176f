//! Running a transform, exactly once.
//!
//! ```text
//! inputs: the next part ─▶ query ─▶ expectations ─▶ mode: which rows of the table give way ─▶ files
//!    ▲                                    └▶ quarantine (first)                                │
//!    └── consumed versions ◀──────────── ONE commit: files in, files out, consumed versions ◀──┘
//! ```
//!
//! The invariant that everything rests on: what was read of the output's log at version V (how far
//! the inputs are consumed, which rows there are) is what the commit at V + 1 was planned from, or
//! the commit is lost and planned anew ([`catalog::rewrite`](crate::catalog::rewrite)). So a run
//! that dies anywhere is repeated from what the log says, and two runs at once do the work of one.
//!
//! | file | is |
//! |---|---|
//! | [`engine`] | one run: part after part, until the inputs' heads at its start are reached |
//! | `queries`, `touched` | the query over new rows, over all, and which keys new rows touch |
//! | [`report`] | what a run did |
//! | [`input`] | what is new in an input; snapshots |
//! | [`changes`] | what a commit changed, for the table's change feed |
//! | [`consumed`] | how far an input was read, in the output's log |
//! | [`output`] | the table: its head, its columns, commits |
//! | [`expectations`] | which rows go where, and the counts |
//! | [`keyed`] | the rows of some keys give way to others: which files that touches |
//! | `layout` | which files those rows lie in then |
//! | [`side`] | `__quarantine` and `__deleted`, which are committed first |
//! | [`modes`] | append, merge, history, recompute, replace |
//! | [`pool`] | memory, in parts |
//! | [`run_log`] | `sluice.runs` |
//! | [`stage`] | rows in between, in memory or on disk |

pub mod changes;
pub mod columns;
pub mod consumed;
pub mod engine;
pub mod expectations;
pub mod input;
pub mod keyed;
mod layout;
pub mod modes;
pub mod output;
pub mod pool;
mod queries;
pub mod report;
pub mod run_log;
pub mod side;
pub mod stage;
mod touched;

use datafusion::error::DataFusionError;

use super::SqlProblem;
use crate::catalog::CatalogError;
use crate::catalog::data_file::FileError;
use crate::config::spec::TableName;
use crate::error::{Classify, Kind, Retry};

#[derive(Debug, thiserror::Error)]
pub enum TransformError {
    #[error("the SQL can't be run: {}", .0.iter().map(|problem| problem.message.as_str()).collect::<Vec<_>>().join("; "))]
    Sql(Vec<SqlProblem>),
    #[error("the query's output lacks what its declaration names: {}", .0.join("; "))]
    Columns(Vec<String>),
    #[error("table `{table}` can't take what the query gives by now: {}", .problems.join("; "))]
    Evolved { table: TableName, problems: Vec<String> },
    #[error("there is no table `{0}` yet")]
    NoInput(TableName),
    #[error("`{operation}` in version {version} of `{table}` took rows away that were read before")]
    RowsTaken { table: TableName, version: u64, operation: String, by: TakenBy },
    #[error("version {version} of `{table}` was cleaned out of its log before it was read")]
    VersionGone { table: TableName, version: u64 },
    #[error("`{table}` can't be read any more as it was at version {version}")]
    SnapshotGone { table: TableName, version: u64, source: Box<CatalogError> },
    #[error("a file of `{table}` was vacuumed before it was read")]
    FileGone { table: TableName, source: object_store::Error },
    #[error("the log has an entry that this version can't read: `{app_id}`")]
    Newer { app_id: String },
    #[error("{violations} rows violate the expectation `{name}`: {check}")]
    Expectation { name: String, check: String, violations: u64 },
    #[error("table `{table}` was lost to another writer {tries} times in a row")]
    Lost { table: TableName, tries: u32 },
    #[error("the query needs more memory than it may have")]
    Memory(#[source] Box<DataFusionError>),
    #[error("the query failed")]
    Value(#[source] Box<DataFusionError>),
    #[error("the tables can't be read")]
    Read(#[source] Box<DataFusionError>),
    #[error("rows can't be written")]
    File(#[from] FileError),
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    #[error("an invariant is broken: {0}")]
    Internal(String),
}

/// Who took rows of an input away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TakenBy {
    Stranger,
    /// A transform that updates rows in place, and that this project doesn't know as such.
    Update,
    /// Its own transform, which began it anew.
    Refresh,
}

impl From<DataFusionError> for TransformError {
    fn from(error: DataFusionError) -> Self {
        let source = Box::new(error);
        match source.find_root() {
            DataFusionError::ResourcesExhausted(_) => Self::Memory(source),
            DataFusionError::ArrowError(..) | DataFusionError::Execution(_) => Self::Value(source),
            DataFusionError::Plan(_) | DataFusionError::SchemaError(..) | DataFusionError::NotImplemented(_) => {
                Self::Sql(vec![SqlProblem { message: source.strip_backtrace(), place: None, hint: None }])
            }
            DataFusionError::Internal(_) => Self::Internal(source.strip_backtrace()),
            _ => Self::Read(source),
        }
    }
}

impl From<arrow::error::ArrowError> for TransformError {
    fn from(error: arrow::error::ArrowError) -> Self {
        DataFusionError::from(error).into()
    }
}

impl From<consumed::Newer> for TransformError {
    fn from(newer: consumed::Newer) -> Self {
        Self::Newer { app_id: newer.app_id }
    }
}

impl Classify for TransformError {
    fn kind(&self) -> Kind {
        match self {
            Self::Sql(_) | Self::Columns(_) | Self::Evolved { .. } => Kind::Config,
            Self::NoInput(_) | Self::Expectation { .. } | Self::Memory(_) | Self::Value(_) => Kind::User,
            Self::RowsTaken { .. }
            | Self::VersionGone { .. }
            | Self::SnapshotGone { .. }
            | Self::FileGone { .. }
            | Self::Newer { .. } => Kind::Data,
            Self::Lost { .. } | Self::Read(_) => Kind::External,
            Self::File(FileError::Store { .. }) => Kind::External,
            Self::File(_) | Self::Internal(_) => Kind::Internal,
            Self::Catalog(error) => error.kind(),
        }
    }

    fn retry(&self) -> Retry {
        match self {
            Self::Catalog(error) => error.retry(),
            _ if self.kind() == Kind::External => Retry::Backoff,
            _ => Retry::Never,
        }
    }

    fn hint(&self) -> Option<String> {
        const ANEW: &str = "`sluice transform NAME --full-refresh` makes the table anew from what its inputs hold now";
        match self {
            Self::Sql(problems) => problems.iter().find_map(|problem| problem.hint.clone()),
            Self::Evolved { .. } => Some(ANEW.to_owned()),
            Self::RowsTaken { table, by: TakenBy::Refresh, .. } => {
                Some(format!("`{table}` was begun or made anew: begin this one anew, too, by `--full-refresh`"))
            }
            Self::RowsTaken { table, by: TakenBy::Update, .. } => Some(format!(
                "`{table}` is updated in place; its changes can be streamed by the project that declares it: read it as a table, \
                 without `STREAM`"
            )),
            Self::RowsTaken { table, version, .. } => Some(format!(
                "{ANEW}; `skip_versions = [\"{table}@{version}\"]` passes over that version and keeps what was made \
                 of those rows"
            )),
            Self::VersionGone { .. } | Self::SnapshotGone { .. } | Self::FileGone { .. } => {
                Some(format!("{ANEW}; the input's retention is shorter than the time since the last run"))
            }
            Self::Newer { .. } => Some("run the newer version of sluice that wrote it".to_owned()),
            Self::Memory(_) => Some("give it more memory, or join and group fewer rows at a time".to_owned()),
            Self::Catalog(error) => error.hint(),
            _ => None,
        }
    }
}
