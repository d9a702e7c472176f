//! Which files the rows of a keyed table lie in: those beside rows that change stay with them, and all of them in the order
//! of their keys once they are too many for one file.

use datafusion::dataframe::DataFrame;
use datafusion::logical_expr::lit;
use futures::TryStreamExt as _;

use super::TransformError;
use super::columns::fit;
use super::keyed::{KeySet, column, orderable, plain};
use super::modes::Work;
use super::output::Output;
use super::stage::{Staged, Staging};
use crate::catalog::data_file::{FilesWriter, rows_of_keyed_file};
use crate::catalog::file_table::FileTable;
use crate::catalog::state::ActiveFile;

impl Work<'_> {
    /// The files of `table` that hold rows of these keys, and what else they hold.
    pub(super) async fn beside(
        &self,
        keys: &KeySet,
        table: &Output,
    ) -> Result<(Vec<ActiveFile>, Staged), TransformError> {
        let files = keys.files_of(self.session, table, &table.files().await?).await?;
        if files.is_empty() {
            return Ok((files, Staging::new(self.runtime, &table.schema).finish()?));
        }
        let (store, partitions) = (table.log.store(), table.partition_columns());
        let held = FileTable::open(self.session, store, &table.schema, partitions, &files)?;
        let beside = keys.rows_beside(self.session, plain(self.session.read_table(held)?)?).await?;
        let mut staging = Staging::new(self.runtime, &table.schema);
        let mut batches = beside.execute_stream().await?;
        while let Some(batch) = batches.try_next().await? {
            staging.push(fit(&batch, &table.schema)?)?;
        }
        Ok((files, staging.finish()?))
    }

    /// What takes the place of files: the rows `beside` those that change, and these, with `marks` that are false for the
    /// others. Where they are too many for one file they come in the order of their keys, so that a later change
    /// of a key finds few files that may hold it.
    pub(super) async fn laid_out(
        &self,
        beside: &Staged,
        changed: DataFrame,
        marks: &[&str],
        most: u64,
    ) -> Result<(DataFrame, FilesWriter), TransformError> {
        let columns = || self.output.schema.fields().iter().map(|field| column(field.name()));
        let changed = changed.select(columns().chain(marks.iter().map(|mark| column(mark))).collect::<Vec<_>>())?;
        let rows = if beside.rows() == 0 {
            changed
        } else {
            let unmarked = marks.iter().map(|mark| lit(false).alias(*mark));
            let beside = self.frame(beside).await?.select(columns().chain(unmarked).collect::<Vec<_>>())?;
            plain(beside.union(changed)?)?
        };
        let rows_a_file = rows_of_keyed_file(self.output.files().await?.len());
        if most <= rows_a_file {
            return Ok((rows, self.output.writer()));
        }
        let ordered = orderable(&self.output.schema);
        let by = self.output.partition_columns().iter().chain(&self.spec.keys);
        let by = by.filter_map(|name| ordered.iter().find(|(ordered, _)| ordered == name));
        let rows = rows.sort(by.map(|(_, ordered)| ordered.clone().sort(true, true)).collect())?;
        // All of one size, so that none is left that is hardly a file.
        let files = most.div_ceil(rows_a_file);
        Ok((rows, self.output.writer().with_rows_a_file(most.div_ceil(files))))
    }
}
