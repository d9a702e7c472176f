//! A lake as DataFusion sees it: one catalog, a schema for each folder, tables opened when a
//! query names them.
//!
//! A name may end in `@v<version>`: `SELECT … FROM bronze."leads@v12"`.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::catalog::{CatalogProvider, SchemaProvider, TableProvider};
use datafusion::common::Result;
use datafusion::error::DataFusionError;
use datafusion::logical_expr::TableType;

use super::lake::Catalog;
use crate::config::spec::TableName;

/// The catalog that [`super::query`] registers. `listed` is what `SHOW TABLES` and the
/// information schema show; a table can be read without being listed.
#[derive(Debug)]
pub struct LakeCatalog {
    catalog: Catalog,
    listed: BTreeMap<String, Vec<String>>,
}

impl LakeCatalog {
    pub fn new(catalog: Catalog, tables: Vec<TableName>) -> Self {
        let mut listed: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for name in tables {
            listed.entry(name.schema).or_default().push(name.table);
        }
        Self { catalog, listed }
    }
}

impl CatalogProvider for LakeCatalog {
    fn schema_names(&self) -> Vec<String> {
        self.listed.keys().cloned().collect()
    }

    fn schema(&self, name: &str) -> Option<Arc<dyn SchemaProvider>> {
        let listed = self.listed.get(name).cloned().unwrap_or_default();
        Some(Arc::new(LakeSchema { catalog: self.catalog.clone(), name: name.to_owned(), listed }))
    }
}

#[derive(Debug)]
struct LakeSchema {
    catalog: Catalog,
    name: String,
    listed: Vec<String>,
}

#[async_trait]
impl SchemaProvider for LakeSchema {
    fn table_names(&self) -> Vec<String> {
        self.listed.clone()
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        let (table, version) = split_version(name);
        let name = TableName { schema: self.name.clone(), table: table.to_owned() };
        let opened = self.catalog.open(&name, version).await;
        let opened = opened.map_err(|error| DataFusionError::External(Box::new(error)))?;
        Ok(opened.map(|table| table.provider))
    }

    /// Without opening it: `SHOW TABLES` asks for each.
    async fn table_type(&self, name: &str) -> Result<Option<TableType>> {
        Ok(self.table_exist(name).then_some(TableType::Base))
    }

    fn table_exist(&self, name: &str) -> bool {
        self.listed.iter().any(|listed| listed == name)
    }
}

/// `leads@v12` is `leads` at version 12; any other name is one.
fn split_version(name: &str) -> (&str, Option<u64>) {
    match name.rsplit_once("@v").map(|(table, version)| (table, version.parse())) {
        Some((table, Ok(version))) => (table, Some(version)),
        _ => (name, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_the_end_of_a_name() {
        for (name, expected) in [
            ("leads", ("leads", None)),
            ("leads@v12", ("leads", Some(12))),
            ("leads@v", ("leads@v", None)),
            ("leads@vx", ("leads@vx", None)),
            ("a@v1@v2", ("a@v1", Some(2))),
        ] {
            assert_eq!(split_version(name), expected);
        }
    }
}
