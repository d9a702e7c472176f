//! The schema commit: what a flush brings that the table doesn't know, before its rows.

use std::collections::BTreeSet;

use arrow::array::{Array as _, AsArray as _, RecordBatch};
use deltalake::kernel::Action;
use serde_json::json;

use super::SinkError;
use super::schema::TableColumns;
use super::table::CaughtUp;
use super::writer::{Of, TableWriter, Tried};
use crate::batch::bronze;
use crate::fault_points::FaultPoint;

impl TableWriter {
    /// Commits the columns that the batches bring; says so when the plan has to be made again.
    ///
    /// The union is computed on the base of the commit, so a rival's columns stay.
    pub(super) async fn evolve(&mut self, batches: &[RecordBatch]) -> Result<Option<CaughtUp>, SinkError> {
        let columns = self.columns();
        let Some((joined, changes)) = columns.grown(&self.spec.schema, batches) else {
            // What a partition let through before the table had any column may not fit those that it has got.
            return refuse_misfits(&self.spec.name, &columns, batches).map(|()| None);
        };
        let grows = batches.iter().filter(|batch| columns.grow_by(batch.schema_ref()));
        let schemas: BTreeSet<_> = grows.filter_map(schema_id).collect();
        let actions = vec![Action::Metadata(self.table.metadata_with(&joined)?)];
        let said = [("sluiceColumns", json!(changes)), ("sluiceSchemas", json!(schemas))];
        match self.put_actions(actions, &[], Of::Nothing, said).await? {
            Tried::Landed(version) => {
                let schemas = schemas.iter().copied().collect::<Vec<_>>().join(", ");
                let changes = json!(changes).to_string();
                tracing::info!(table = self.spec.name, version, changes, schemas, "the table's columns changed");
                self.schema_changes += 1;
                // What landed behind it was passed over when it was found: it may have settled letters.
                let letters_settled = self.table.version > version;
                self.table.reload_schema().await?;
                self.spec.fault_points.pass(FaultPoint::SchemaCommitted);
                Ok(Some(CaughtUp { schema_changed: true, letters_settled, ..CaughtUp::default() }))
            }
            Tried::Again(caught_up) => Ok(Some(caught_up)),
        }
    }
}

/// Where the columns of `table` aren't to change, looks for what doesn't fit them.
///
/// # Errors
/// [`SinkError::SchemaChange`] for the first field.
pub fn refuse_misfits(table: &str, columns: &TableColumns, batches: &[RecordBatch]) -> Result<(), SinkError> {
    for batch in batches {
        let misfit = columns.misfit(batch).map_err(|source| SinkError::Arrow { table: table.to_owned(), source })?;
        if let Some(misfit) = misfit {
            let schema = schema_id(batch).unwrap_or("in the body").to_owned();
            return Err(SinkError::SchemaChange { table: table.to_owned(), schema, misfit });
        }
    }
    Ok(())
}

/// The id that the events of a batch name their schema by; all of them the same.
fn schema_id(batch: &RecordBatch) -> Option<&str> {
    let ids = batch.column_by_name(bronze::SCHEMA_ID)?.as_string_opt::<i32>()?;
    (!ids.is_empty() && ids.is_valid(0)).then(|| ids.value(0))
}
