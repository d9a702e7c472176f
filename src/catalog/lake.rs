//! The tables of a lake: folders `<schema>/<table>` that hold a `_delta_log`.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use datafusion::catalog::TableProvider;
use deltalake::DeltaTable;
use futures::{StreamExt as _, TryStreamExt as _};
use object_store::ObjectStore;
use object_store::path::Path;

use super::filling::Filling;
use super::log::log_store_to_read;
use super::{CatalogError, table_location};
use crate::config::spec::TableName;
use crate::storage::Location;

/// How many folders are looked into at once: enough to hide the latency of blob storage, few
/// enough to stay far below its throttling.
const LOOKS_AT_ONCE: usize = 16;

/// The tables of one lake; cheap to clone.
#[derive(Debug, Clone)]
pub struct Catalog {
    lake: Location,
    pinned: Arc<BTreeMap<TableName, u64>>,
}

/// A table of a lake at a version.
#[derive(Clone)]
pub struct LakeTable {
    pub version: Option<u64>,
    pub provider: Arc<dyn TableProvider>,
}

impl fmt::Debug for LakeTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LakeTable").field("version", &self.version).finish_non_exhaustive()
    }
}

impl Catalog {
    pub fn new(lake: &Location) -> Self {
        Self { lake: lake.clone(), pinned: Arc::default() }
    }

    /// The same lake, some of its tables as they were at a version.
    pub fn pinned(mut self, versions: BTreeMap<TableName, u64>) -> Self {
        self.pinned = Arc::new(versions);
        self
    }

    pub fn lake(&self) -> &Location {
        &self.lake
    }

    /// Every table there is, by name.
    ///
    /// # Errors
    /// When the storage can't be listed.
    pub async fn tables(&self) -> Result<Vec<TableName>, CatalogError> {
        if self.lake.folder().is_some_and(|folder| !folder.is_dir()) {
            return Ok(Vec::new());
        }
        let store = &self.lake.object_store()?;
        let schemas = folders(store, None).await.map_err(|source| self.unlisted(source))?;
        let candidates: Vec<Vec<TableName>> = futures::stream::iter(schemas)
            .map(|schema| async move {
                let tables = folders(store, Some(&Path::from(schema.as_str()))).await?;
                Ok(tables.into_iter().map(|table| TableName { schema: schema.clone(), table }).collect())
            })
            .buffer_unordered(LOOKS_AT_ONCE)
            .try_collect()
            .await
            .map_err(|source| self.unlisted(source))?;
        let found: Vec<Option<TableName>> = futures::stream::iter(candidates.into_iter().flatten())
            .map(|name| async move { Ok(has_log(store, &name).await?.then_some(name)) })
            .buffer_unordered(LOOKS_AT_ONCE)
            .try_collect()
            .await
            .map_err(|source| self.unlisted(source))?;
        let mut tables: Vec<TableName> = found.into_iter().flatten().collect();
        tables.sort();
        Ok(tables)
    }

    /// Opens a table at `version`, else at the version it is pinned to, else at its head; or
    /// finds that there is none. Its files are looked up by the scan, not before.
    ///
    /// # Errors
    /// [`CatalogError::NoVersion`], and errors of storage.
    pub async fn open(&self, name: &TableName, version: Option<u64>) -> Result<Option<LakeTable>, CatalogError> {
        if !is_folder_name(&name.schema) || !is_folder_name(&name.table) {
            return Ok(None);
        }
        let Some(log_store) = log_store_to_read(&table_location(&self.lake, name)).await? else { return Ok(None) };
        let version = version.or_else(|| self.pinned.get(name).copied());
        let opened = DeltaTable::new(log_store).table_provider().with_table_version(version).build().await;
        match (opened, version) {
            (Ok(provider), _) => Ok(Some(LakeTable { version, provider: Arc::new(Filling(Arc::new(provider))) })),
            (Err(source), Some(version)) => {
                Err(CatalogError::NoVersion { table: name.to_string(), version, source: Box::new(source) })
            }
            (Err(source), None) => Err(CatalogError::Query { table: name.to_string(), source: Box::new(source) }),
        }
    }

    fn unlisted(&self, source: object_store::Error) -> CatalogError {
        CatalogError::List { lake: self.lake.to_string(), source }
    }
}

/// Names of folders, without those that aren't tables by their name: `_sluice`, `.trash`.
async fn folders(store: &Arc<dyn ObjectStore>, within: Option<&Path>) -> Result<Vec<String>, object_store::Error> {
    let listed = store.list_with_delimiter(within).await?;
    let names = listed.common_prefixes.iter().filter_map(|prefix| prefix.filename()).map(str::to_owned);
    Ok(names.filter(|name| is_folder_name(name)).collect())
}

/// Asks for one object only: the log of an old table holds many, and so does its folder.
async fn has_log(store: &Arc<dyn ObjectStore>, name: &TableName) -> Result<bool, object_store::Error> {
    let log = Path::from_iter([name.schema.as_str(), name.table.as_str(), "_delta_log"]);
    Ok(store.list(Some(&log)).next().await.transpose()?.is_some())
}

/// Whether a name is that of one folder, and can't lead out of the lake.
fn is_folder_name(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(['_', '.'])
        && name.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | '.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stays_within_the_lake() {
        for name in ["leads", "leads__dead_letters", "Leads-2", "v1.2"] {
            assert!(is_folder_name(name), "{name}");
        }
        for name in ["", ".", "..", "../x", "a/b", "a\\b", "_sluice", ".git", "a b", "a%2fb"] {
            assert!(!is_folder_name(name), "{name}");
        }
    }
}
