//! The session that a transform is planned and run in.

use std::sync::Arc;

use datafusion::catalog::{MemoryCatalogProvider, MemorySchemaProvider, TableProvider};
use datafusion::error::DataFusionError;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::prelude::{SessionConfig, SessionContext};

use super::Input;
use crate::catalog::query;

/// The catalog that inputs are registered in.
pub const CATALOG: &str = "lake";

/// How SQL is read: as `sluice query` does, with times in UTC.
pub fn session_config() -> SessionConfig {
    query::session_config()
        .with_information_schema(false)
        .with_default_catalog_and_schema(CATALOG, "public")
        .with_create_default_catalog_and_schema(false)
        .set_str("datafusion.execution.time_zone", "UTC")
        // Delta has one type of text.
        .set_bool("datafusion.sql_parser.map_string_types_to_utf8view", false)
}

/// A session without tables; what it gathers counts against the pool of `runtime`.
pub fn session(runtime: Arc<RuntimeEnv>) -> SessionContext {
    let session = SessionContext::new_with_config_rt(session_config(), runtime);
    session.register_catalog(CATALOG, Arc::new(MemoryCatalogProvider::new()));
    session
}

/// Says what an input of a transform is, in place of what it was.
///
/// # Errors
/// When the session isn't one of [`session`].
pub fn register(
    session: &SessionContext,
    input: &Input,
    provider: Arc<dyn TableProvider>,
) -> Result<(), DataFusionError> {
    let reference = input.reference();
    let name = reference.schema().unwrap_or_default();
    let catalog = session
        .catalog(CATALOG)
        .ok_or_else(|| DataFusionError::Internal("the session has no catalog for inputs".to_owned()))?;
    let schema = match catalog.schema(name) {
        Some(schema) => schema,
        None => {
            let schema = Arc::new(MemorySchemaProvider::new());
            catalog.register_schema(name, Arc::clone(&schema) as _)?;
            schema
        }
    };
    schema.deregister_table(reference.table())?;
    schema.register_table(reference.table().to_owned(), provider)?;
    Ok(())
}
