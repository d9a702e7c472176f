//! SQL over the tables of a lake: read only, streamed, within a bound of memory.
//!
//! What a query holds beyond the batch in hand (sorts, joins, groups) counts against the bound and
//! spills to the system's folder for temporary files. Names of columns and tables are taken as
//! they are written: events have fields like `leadId`.

use std::sync::Arc;

use datafusion::error::DataFusionError;
use datafusion::execution::memory_pool::FairSpillPool;
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion::execution::{SendableRecordBatchStream, SessionState};
use datafusion::prelude::{SQLOptions, SessionConfig, SessionContext};
use datafusion::sql::parser::Statement;

use super::CatalogError;
use super::lake::Catalog;
use super::provider::LakeCatalog;
use super::sql::{SqlProblem, plain, problem};
use crate::error::{Classify, Kind};

/// The name of the lake in SQL, for who wants to write `lake.bronze.leads`.
const CATALOG: &str = "lake";

/// How many tables a hint names; a lake may have thousands.
const MOST_NAMED: usize = 20;

/// A query that can't be answered.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// The SQL is wrong, with a place where that is known.
    #[error("the SQL can't be run: {}", .0.iter().map(|problem| problem.message.as_str()).collect::<Vec<_>>().join("; "))]
    Sql(Vec<SqlProblem>),
    #[error("`sluice query` reads only: {0}")]
    ReadOnly(String),
    #[error("the query needs more memory than it may have")]
    Memory(#[source] Box<DataFusionError>),
    /// A value that a function can't take, a division by zero.
    #[error("the query failed")]
    Value(#[source] Box<DataFusionError>),
    #[error("the tables can't be read")]
    Storage(#[source] Box<DataFusionError>),
    #[error("the query could not be planned")]
    Planner(#[source] Box<DataFusionError>),
    #[error(transparent)]
    Catalog(#[from] CatalogError),
}

impl Classify for QueryError {
    fn kind(&self) -> Kind {
        match self {
            Self::Sql(_) | Self::ReadOnly(_) | Self::Memory(_) | Self::Value(_) => Kind::User,
            Self::Storage(_) => Kind::External,
            Self::Planner(_) => Kind::Internal,
            Self::Catalog(error) => error.kind(),
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Sql(problems) => problems.iter().find_map(|problem| problem.hint.clone()),
            Self::ReadOnly(_) => Some("tables are written by pipelines: `sluice run`".to_owned()),
            Self::Memory(_) => Some("give it more with `--memory`, or ask for fewer groups or columns".to_owned()),
            Self::Catalog(error) => error.hint(),
            Self::Value(_) | Self::Storage(_) | Self::Planner(_) => None,
        }
    }
}

/// Runs one statement; its rows come as they are made.
///
/// # Errors
/// [`QueryError`]; an error of the rows comes with the stream, for [`QueryError::of_rows`].
pub async fn query(catalog: &Catalog, sql: &str, memory_bytes: usize) -> Result<SendableRecordBatchStream, QueryError> {
    let config = session_config()
        .with_default_catalog_and_schema(CATALOG, "public")
        .with_create_default_catalog_and_schema(false);
    let runtime = runtime(memory_bytes).map_err(QueryError::of_rows)?;
    let session = SessionContext::new_with_config_rt(config, runtime);
    let state = session.state();
    let dialect = state.config().options().sql_parser.dialect;
    let statement = match state.sql_to_statement(sql, &dialect) {
        Ok(statement) => statement,
        Err(error) => return Err(wrong(error, sql, catalog).await),
    };
    let listed = if asks_for_the_list(&state, &statement) { catalog.tables().await? } else { Vec::new() };
    session.register_catalog(CATALOG, Arc::new(LakeCatalog::new(catalog.clone(), listed)));
    // A state taken before knows nothing of the catalog.
    let plan = match session.state().statement_to_plan(statement).await {
        Ok(plan) => plan,
        Err(error) => return Err(wrong(error, sql, catalog).await),
    };
    let read_only = SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false);
    if let Err(error) = read_only.verify_plan(&plan) {
        return Err(QueryError::ReadOnly(plain(&error)));
    }
    let run = async { session.execute_logical_plan(plan).await?.execute_stream().await };
    match run.await {
        Ok(rows) => Ok(rows),
        Err(error) => Err(wrong(error, sql, catalog).await),
    }
}

impl QueryError {
    /// What an error among the rows means.
    pub fn of_rows(error: DataFusionError) -> Self {
        let source = Box::new(without_context(error));
        match source.find_root() {
            DataFusionError::ResourcesExhausted(_) => Self::Memory(source),
            DataFusionError::ArrowError(..) | DataFusionError::Execution(_) => Self::Value(source),
            DataFusionError::Internal(_) => Self::Planner(source),
            _ => Self::Storage(source),
        }
    }
}

/// A session of its own, for one query over tables that it is given.
pub(super) fn bounded_session(memory_bytes: usize) -> Result<SessionContext, DataFusionError> {
    Ok(SessionContext::new_with_config_rt(session_config(), runtime(memory_bytes)?))
}

/// How SQL is read, for queries and for transforms: names as they are written, and places in errors.
pub fn session_config() -> SessionConfig {
    SessionConfig::new()
        .with_information_schema(true)
        .set_bool("datafusion.sql_parser.collect_spans", true)
        .set_bool("datafusion.sql_parser.enable_ident_normalization", false)
        // Pushing the keys of a join down as a list panics on dictionaries, which partition
        // columns are; delta-rs turns it off for its own sessions too.
        .set_usize("datafusion.optimizer.hash_join_inlist_pushdown_max_size", 0)
        .set_usize("datafusion.optimizer.hash_join_inlist_pushdown_max_distinct_values", 0)
}

/// Memory for what queries gather, shared fairly by those that run; beyond it they go to temporary files.
///
/// # Errors
/// When there is no folder for these.
pub fn runtime(memory_bytes: usize) -> Result<Arc<RuntimeEnv>, DataFusionError> {
    RuntimeEnvBuilder::new().with_memory_pool(Arc::new(FairSpillPool::new(memory_bytes))).build_arc()
}

/// Whether the names of all tables are needed: `SHOW TABLES`, the information schema.
fn asks_for_the_list(state: &SessionState, statement: &Statement) -> bool {
    let names = state.resolve_table_references(statement).unwrap_or_default();
    names.iter().any(|name| name.schema() == Some("information_schema"))
        || statement.to_string().to_ascii_uppercase().starts_with("SHOW")
}

/// What an error of the SQL, or of a plan made from it, means.
async fn wrong(error: DataFusionError, sql: &str, catalog: &Catalog) -> QueryError {
    let error = match take_catalog_error(error) {
        Ok(error) => return QueryError::Catalog(error),
        Err(error) => error,
    };
    match error.find_root() {
        DataFusionError::Plan(_)
        | DataFusionError::SchemaError(..)
        | DataFusionError::SQL(..)
        | DataFusionError::NotImplemented(_)
        | DataFusionError::Configuration(_)
        | DataFusionError::Collection(_) => {}
        _ => return QueryError::of_rows(error),
    }
    let mut problems: Vec<SqlProblem> = error.iter().map(|error| problem(error, sql)).collect();
    for problem in &mut problems {
        if let Some(table) = unknown_table(&problem.message) {
            problem.hint = Some(match catalog.tables().await {
                Ok(tables) => name_tables(&tables.iter().map(ToString::to_string).collect::<Vec<_>>()),
                Err(error) => format!("its tables can't be listed: {error}"),
            });
            problem.message = format!("there is no table `{table}`");
        }
    }
    QueryError::Sql(problems)
}

/// Which rule or operator met an error is no matter of who asked.
fn without_context(mut error: DataFusionError) -> DataFusionError {
    while let DataFusionError::Context(_, inner) = error {
        error = *inner;
    }
    error
}

fn take_catalog_error(error: DataFusionError) -> Result<CatalogError, DataFusionError> {
    match error {
        DataFusionError::External(source) => {
            source.downcast::<CatalogError>().map(|error| *error).map_err(DataFusionError::External)
        }
        error => Err(error),
    }
}

/// `table 'lake.public.leads' not found` is about `leads`.
fn unknown_table(message: &str) -> Option<String> {
    let name = message.strip_prefix("table '")?.strip_suffix("' not found")?;
    let name = name.strip_prefix("lake.").unwrap_or(name);
    Some(name.strip_prefix("public.").unwrap_or(name).to_owned())
}

/// "the lake has …", for hints.
pub fn name_tables(tables: &[String]) -> String {
    if tables.is_empty() {
        return "the lake has no tables yet: `sluice run` makes them".to_owned();
    }
    let named: Vec<String> = tables.iter().take(MOST_NAMED).map(|table| format!("`{table}`")).collect();
    let more = tables.len().saturating_sub(MOST_NAMED);
    let rest = if more > 0 { format!(" and {more} more (`SHOW TABLES` lists them)") } else { String::new() };
    format!("the lake has {}{rest}", named.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_table_is_named_as_it_was_written() {
        for (message, expected) in [
            ("table 'lake.bronze.nope' not found", Some("bronze.nope")),
            ("table 'lake.public.nope' not found", Some("nope")),
            ("column 'x' not found", None),
        ] {
            assert_eq!(unknown_table(message).as_deref(), expected);
        }
    }

    #[test]
    fn a_hint_names_a_bounded_number_of_tables() {
        let tables: Vec<String> = (0..25).map(|number| format!("bronze.t{number}")).collect();
        assert!(name_tables(&tables).ends_with("`bronze.t19` and 5 more (`SHOW TABLES` lists them)"));
        assert_eq!(name_tables(&tables[..1]), "the lake has `bronze.t0`");
    }
}
