//! How far the streams of a lake have read its tables.

use std::collections::BTreeMap;

use futures::StreamExt as _;

use super::targets::is_of_pipeline;
use crate::catalog::log::{TableHead, log_store_to_read, read_head};
use crate::catalog::maintenance::Keep;
use crate::catalog::maintenance::readers::{is_reader, needs_of};
use crate::catalog::{CatalogError, table_location};
use crate::config::spec::{OWN_SCHEMA, ProjectSpec, TableName};
use crate::pipeline::partition::report;
use crate::storage::Location;
use crate::transform;

/// How many logs are read at once.
const LOOKS_AT_ONCE: usize = 8;

/// The tables that stream others.
#[derive(Debug, Default)]
pub(super) struct Readers {
    known: BTreeMap<TableName, Reader>,
    /// One of which nobody knows what it needs, since its log can't be read: nothing that it may need goes.
    unread: Option<TableName>,
}

#[derive(Debug)]
struct Reader {
    head: TableHead,
    /// What it streams by now; none where that isn't known, as of another project's.
    streams: Option<Vec<TableName>>,
}

impl Readers {
    /// Looks at every table of the lake that no pipeline of the project fills: a lake may be shared, and a stream
    /// of another project needs what ours do.
    pub(super) async fn look(project: &ProjectSpec, lake: &Location, there: &[TableName]) -> Self {
        let may_stream = |name: &&TableName| name.schema != OWN_SCHEMA && !is_of_pipeline(project, name);
        let looks = there.iter().filter(may_stream).map(|name| async move { (name, head_of(lake, name).await) });
        let looks: Vec<_> = looks.collect();
        let heads: Vec<_> = futures::stream::iter(looks).buffer_unordered(LOOKS_AT_ONCE).collect().await;
        let mut readers = Self::default();
        for (name, head) in heads {
            match head {
                Ok(Some(head)) if is_reader(&head) => {
                    let streams = streams_of(project, name);
                    readers.known.insert(name.clone(), Reader { head, streams });
                }
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(
                        table = %name,
                        error = report(&error),
                        "what this table streams isn't known: no file or version of any table goes until it is"
                    );
                    readers.unread = Some(name.clone());
                }
            }
        }
        readers
    }

    /// What has to stay of this table, and for whom most.
    pub(super) fn needs(&self, table: &TableName, id: &str) -> (Keep, Option<TableName>) {
        if let Some(unread) = &self.unread {
            return (Keep { consumed: Some(0), pinned: None }, Some(unread.clone()));
        }
        let mut keep = Keep::default();
        let mut slowest: Option<(u64, TableName)> = None;
        for (name, reader) in &self.known {
            // Its SQL was another once.
            if reader.streams.as_ref().is_some_and(|streams| !streams.contains(table)) {
                continue;
            }
            let Some(needs) = needs_of(&reader.head, id) else { continue };
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

async fn head_of(lake: &Location, name: &TableName) -> Result<Option<TableHead>, CatalogError> {
    match log_store_to_read(&table_location(lake, name)).await? {
        Some(store) => Ok(read_head(&store).await?),
        None => Ok(None),
    }
}

/// What the transform that writes this table streams; none where the project has no such, or none that can be read.
fn streams_of(project: &ProjectSpec, table: &TableName) -> Option<Vec<TableName>> {
    let spec = project.transforms.iter().find(|transform| transform.table == *table)?;
    let parsed = transform::parse(spec).ok()?;
    Some(parsed.inputs.into_iter().filter(|input| input.is_streamed).map(|input| input.table).collect())
}
