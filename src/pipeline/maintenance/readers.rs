//! How far the streams of a lake have read its tables.

use std::collections::BTreeMap;

use futures::{StreamExt as _, TryStreamExt as _};

use super::targets::is_declared;
use crate::catalog::log::{TableHead, log_store_to_read, read_head};
use crate::catalog::maintenance::Keep;
use crate::catalog::maintenance::readers::{is_reader, needs_of};
use crate::catalog::{CatalogError, table_location};
use crate::config::spec::{OWN_SCHEMA, ProjectSpec, TableName};
use crate::storage::Location;

/// How many logs are read at once.
const LOOKS_AT_ONCE: usize = 8;

/// The heads of all tables that may stream others.
#[derive(Debug, Default)]
pub(super) struct Readers(BTreeMap<TableName, TableHead>);

impl Readers {
    /// Looks at every table of the lake that no pipeline of the project fills: a lake may be shared, and a stream
    /// of another project needs what ours do.
    ///
    /// # Errors
    /// A log that can't be read: nobody knows then what it needs.
    pub(super) async fn look(
        project: &ProjectSpec,
        lake: &Location,
        there: &[TableName],
    ) -> Result<Self, CatalogError> {
        let may_stream = |name: &&TableName| name.schema != OWN_SCHEMA && !is_declared(project, name);
        let looks = there.iter().filter(may_stream).map(|name| async move {
            let Some(store) = log_store_to_read(&table_location(lake, name)).await? else { return Ok(None) };
            Ok::<_, CatalogError>(read_head(&store).await?.map(|head| (name.clone(), head)))
        });
        let looks: Vec<_> = looks.collect();
        let heads: Vec<Option<(TableName, TableHead)>> =
            futures::stream::iter(looks).buffer_unordered(LOOKS_AT_ONCE).try_collect().await?;
        let mut heads: BTreeMap<_, _> = heads.into_iter().flatten().collect();
        heads.retain(|_, head| is_reader(head));
        Ok(Self(heads))
    }

    /// What has to stay of the table with this id, and for whom most.
    pub(super) fn needs(&self, id: &str) -> (Keep, Option<TableName>) {
        let mut keep = Keep::default();
        let mut slowest: Option<(u64, TableName)> = None;
        for (name, head) in &self.0 {
            let Some(needs) = needs_of(head, id) else { continue };
            keep = keep.and(needs);
            if let Some(oldest) = needs.oldest()
                && slowest.as_ref().is_none_or(|(held, _)| oldest < *held)
            {
                slowest = Some((oldest, name.clone()));
            }
        }
        (keep, slowest.map(|(_, name)| name))
    }
}
