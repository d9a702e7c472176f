//! What a commit of merge, history or recompute changes, row by row, for the table's change feed.
//!
//! ```text
//! rows of the keys before ─▶ sorted by identity, then all columns ─┐
//!                                                                  ├▶ runs of equal rows ─▶ what one side has more of
//! rows of the keys after  ─▶ sorted so, too ───────────────────────┘
//! ```
//!
//! A row that is there as often before as after is no change, whichever file it is in by then. A row that is gone and
//! one that is new are an update where they are the only ones of their identity: the keys, and of a history all columns of
//! the query. Else they are a deletion and an insertion. The sorts go to disk where they must; no more than a batch of each
//! side and some rows are held beside them.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray as _, ListArray, RecordBatch, StringArray};
use arrow::compute::interleave_record_batch;
use arrow::datatypes::DataType;
use arrow::error::ArrowError;
use arrow::row::{OwnedRow, Row, RowConverter, Rows, SortField};
use datafusion::dataframe::DataFrame;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::logical_expr::Expr;
use datafusion::prelude::SessionContext;
use deltalake::kernel::Add;
use futures::TryStreamExt as _;

use super::TransformError;
use super::columns::fit;
use super::expectations::Sieve;
use super::keyed::{orderable, plain};
use super::modes::{Planned, Work, write_all};
use super::stage::{Staged, Staging};
use crate::catalog::change_data::{DELETE, INSERT, UPDATE_POSTIMAGE, UPDATE_PREIMAGE, file_schema};
use crate::catalog::data_file::{FilesWriter, delete};
use crate::catalog::file_table::FileTable;
use crate::catalog::rewrite::Kind;
use crate::catalog::state::ActiveFile;
use crate::config::spec::Mode;
use crate::transform::HISTORY_COLUMNS;

/// Changed rows are written when so many are gathered, or the batch that they are from ends.
const MOST_GATHERED: usize = 8192;

/// The rows of some keys.
pub(super) struct Told<'a> {
    pub before: &'a Staged,
    pub after: &'a Staged,
    /// Which of those after are in the table; all, without it.
    pub living: Option<Expr>,
}

impl Work<'_> {
    /// These files give way to those of `writer`, by which the rows of some keys become others. Where none does, no
    /// file gives way; where all that happens is that rows are added, the added files say so.
    pub(super) async fn with_changes(
        &self,
        files: &[ActiveFile],
        writer: FilesWriter,
        told: Told<'_>,
    ) -> Result<Planned, TransformError> {
        let rows = writer.rows();
        // Closed before others are opened: each holds row groups in the making.
        let adds = writer.close().await?;
        let mut planned = Planned { kind: Kind::Rewrite, rows, ..Planned::nothing() };
        if !files.is_empty() {
            let told = write(self, told).await;
            if !told.as_ref().is_ok_and(|changes| !changes.is_empty()) {
                delete(self.output.log.store(), &adds).await;
                return told.map(|_| planned);
            }
            planned.changes = told?;
        }
        planned.removes = files.iter().map(|file| file.remove(true)).collect();
        planned.adds = adds;
        Ok(planned)
    }

    /// All keys are computed again: as by [`Work::replace`], except that what changes is told where the table has a
    /// change feed.
    ///
    /// # Errors
    /// As [`Work::replace`].
    pub async fn recompute_all(
        &self,
        query: DataFrame,
        sieve: &mut Sieve<'_>,
    ) -> Result<(Planned, Option<Staged>), TransformError> {
        if !self.output.has_feed() {
            return self.replace(query, sieve).await;
        }
        let (store, partitions) = (self.output.log.store(), self.output.partition_columns());
        let files = self.output.files().await?;
        let before = if files.is_empty() {
            Staging::new(self.runtime, &self.output.schema).finish()?
        } else {
            let held = FileTable::open(self.session, store, &self.output.schema, partitions, &files)?;
            Staged::collect(self.runtime, self.session.read_table(held)?.execute_stream().await?).await?
        };
        let (after, quarantined) = self.stage(query, &self.output.schema, sieve).await?;
        let writer = write_all(self.output.writer(), self.frame(&after).await?, &self.output.schema).await?;
        let planned = self.with_changes(&files, writer, Told { before: &before, after: &after, living: None }).await?;
        Ok((Planned { rows: after.rows(), ..planned }, quarantined))
    }
}

/// Writes what differs between the rows of some keys before and after. No file: nothing does.
///
/// # Errors
/// Errors of the rows, of the disk and of storage; what was stored is deleted then.
async fn write(work: &Work<'_>, told: Told<'_>) -> Result<Vec<Add>, TransformError> {
    let store = work.output.log.store();
    let schema = file_schema(&work.output.schema);
    let mut writer = FilesWriter::of_changes(store, &schema, work.output.partition_columns());
    match write_into(&mut writer, work, told).await {
        Ok(()) => Ok(writer.close().await?),
        Err(error) => {
            writer.abort().await;
            Err(error)
        }
    }
}

async fn write_into(writer: &mut FilesWriter, work: &Work<'_>, told: Told<'_>) -> Result<(), TransformError> {
    let compared = Compared::of(work)?;
    // One sort at a time, and each of one partition: what a sort holds until its last row is read grows with both.
    let config = work.session.state().config().clone().with_target_partitions(1);
    let session = SessionContext::new_with_config_rt(config, Arc::clone(work.runtime));
    let before = compared.sorted(told.before.frame(&session).await?)?.execute_stream().await?;
    let before = Staging::beside_query(work.runtime, &before.schema()).filled(before).await?;
    let after = plain(told.after.frame(&session).await?)?;
    let after = match told.living {
        Some(living) => after.filter(living)?,
        None => after,
    };
    let mut before = Side::open(before.frame(&session).await?, work, &compared).await?;
    let mut after = Side::open(compared.sorted(after)?, work, &compared).await?;
    let is_whole = compared.is_whole;
    let mut differences = Differences { writer, work, is_whole, run: None, group: Group::default(), told: Vec::new() };
    loop {
        let is_new = match (before.whole(), after.whole()) {
            (None, None) => break,
            (Some(before), Some(after)) => after < before,
            (before, _) => before.is_none(),
        };
        let (side, sign) = if is_new { (&mut after, 1) } else { (&mut before, -1) };
        if let Some(held) = &side.held {
            differences.take(held, sign);
        }
        if side.advance(work, &compared).await? || differences.told.len() >= MOST_GATHERED {
            differences.flush().await?;
        }
    }
    differences.end_run();
    differences.end_group();
    differences.flush().await
}

/// What rows are told apart by.
struct Compared {
    /// Columns by their places in the table, those of the identity first; and what of them has an order.
    by: Vec<(usize, Expr)>,
    identity: usize,
    /// Whether that is all of a row. Else no two rows are taken for the same.
    is_whole: bool,
    identities: RowConverter,
    wholes: RowConverter,
}

impl Compared {
    fn of(work: &Work<'_>) -> Result<Self, TransformError> {
        let schema = &work.output.schema;
        let is_identity = |name: &String| match work.spec.mode {
            Mode::History => !HISTORY_COLUMNS.contains(&name.as_str()),
            _ => work.spec.keys.contains(name),
        };
        let all = orderable(schema);
        let is_whole = all.len() == schema.fields().len();
        let (first, rest): (Vec<_>, Vec<_>) = all.into_iter().partition(|(name, _)| is_identity(name));
        let identity = first.len();
        let by = first.into_iter().chain(rest).map(|(name, by)| Ok((schema.index_of(&name)?, by)));
        let by = by.collect::<Result<Vec<_>, ArrowError>>()?;
        let kinds: Vec<SortField> =
            by.iter().map(|(at, _)| SortField::new(comparable_type(schema.field(*at).data_type()))).collect();
        Ok(Self {
            identities: RowConverter::new(kinds[..identity].to_vec())?,
            wholes: RowConverter::new(kinds)?,
            by,
            identity,
            is_whole,
        })
    }
}

impl Compared {
    fn sorted(&self, rows: DataFrame) -> Result<DataFrame, TransformError> {
        Ok(plain(rows)?.sort(self.by.iter().map(|(_, by)| by.clone().sort(true, true)).collect())?)
    }
}

/// A map is compared by its entries.
fn comparable_type(kind: &DataType) -> DataType {
    match kind {
        DataType::Map(entries, _) => DataType::List(Arc::clone(entries)),
        other => other.clone(),
    }
}

fn comparable(column: &ArrayRef) -> ArrayRef {
    match column.as_map_opt() {
        Some(map) => Arc::new(ListArray::from(map.clone())),
        None => Arc::clone(column),
    }
}

/// Rows in the order in which they are compared.
struct Side {
    batches: SendableRecordBatchStream,
    /// Where it is; none at the end.
    held: Option<Held>,
}

struct Held {
    rows: RecordBatch,
    identities: Rows,
    wholes: Rows,
    at: usize,
}

impl Side {
    async fn open(rows: DataFrame, work: &Work<'_>, compared: &Compared) -> Result<Self, TransformError> {
        let mut side = Self { batches: rows.execute_stream().await?, held: None };
        side.next_batch(work, compared).await?;
        Ok(side)
    }

    fn whole(&self) -> Option<Row<'_>> {
        self.held.as_ref().map(|held| held.wholes.row(held.at))
    }

    /// Goes on to the next row. Whether that is in another batch.
    async fn advance(&mut self, work: &Work<'_>, compared: &Compared) -> Result<bool, TransformError> {
        match &mut self.held {
            Some(held) if held.at + 1 < held.rows.num_rows() => {
                held.at += 1;
                Ok(false)
            }
            _ => self.next_batch(work, compared).await.map(|()| true),
        }
    }

    async fn next_batch(&mut self, work: &Work<'_>, compared: &Compared) -> Result<(), TransformError> {
        self.held = None;
        while let Some(batch) = self.batches.try_next().await? {
            if batch.num_rows() > 0 {
                let rows = fit(&batch, &work.output.schema)?;
                let columns: Vec<ArrayRef> = compared.by.iter().map(|(at, _)| comparable(rows.column(*at))).collect();
                let identities = compared.identities.convert_columns(&columns[..compared.identity])?;
                let wholes = compared.wholes.convert_columns(&columns)?;
                self.held = Some(Held { rows, identities, wholes, at: 0 });
                break;
            }
        }
        Ok(())
    }
}

/// A row where it is.
struct Place {
    batch: RecordBatch,
    at: usize,
}

/// Rows that are the same in every column.
struct Run {
    whole: OwnedRow,
    row: Place,
    /// How many more of them there are after than before.
    balance: i64,
}

/// The changed rows of one identity.
#[derive(Default)]
struct Group {
    identity: Option<OwnedRow>,
    waiting: Vec<(Place, i64)>,
    /// Others of it are told already, as deletions and insertions.
    is_told: bool,
}

struct Differences<'a, 'w> {
    writer: &'a mut FilesWriter,
    work: &'a Work<'w>,
    is_whole: bool,
    run: Option<Run>,
    group: Group,
    told: Vec<(Place, &'static str)>,
}

impl Differences<'_, '_> {
    /// A row that is there after (1) or was before (-1).
    fn take(&mut self, held: &Held, sign: i64) {
        let (identity, whole) = (held.identities.row(held.at), held.wholes.row(held.at));
        let is_same = |run: &&mut Run| self.is_whole && run.whole.row() == whole;
        if let Some(run) = self.run.as_mut().filter(is_same) {
            run.balance += sign;
            return;
        }
        self.end_run();
        if self.group.identity.as_ref().is_none_or(|group| group.row() != identity) {
            self.end_group();
            self.group.identity = Some(identity.owned());
        }
        let row = Place { batch: held.rows.clone(), at: held.at };
        self.run = Some(Run { whole: whole.owned(), row, balance: sign });
    }

    fn end_run(&mut self) {
        let Some(Run { row, balance, .. }) = self.run.take().filter(|run| run.balance != 0) else { return };
        self.group.waiting.push((row, balance));
        if self.group.waiting.len() > 2 || self.group.is_told {
            self.group.is_told = true;
            self.tell_waiting();
        }
    }

    fn end_group(&mut self) {
        let is_update = matches!(self.group.waiting.as_slice(), [(_, one), (_, other)] if one * other == -1);
        if is_update {
            let waiting = std::mem::take(&mut self.group.waiting);
            let (gone, new): (Vec<_>, Vec<_>) = waiting.into_iter().partition(|(_, balance)| *balance < 0);
            self.told.extend(gone.into_iter().map(|(row, _)| (row, UPDATE_PREIMAGE)));
            self.told.extend(new.into_iter().map(|(row, _)| (row, UPDATE_POSTIMAGE)));
        } else {
            self.tell_waiting();
        }
        self.group = Group::default();
    }

    /// Each as often as it is there more or less.
    fn tell_waiting(&mut self) {
        for (row, balance) in std::mem::take(&mut self.group.waiting) {
            let told = if balance < 0 { DELETE } else { INSERT };
            let times = balance.unsigned_abs();
            self.told.extend((0..times).map(|_| (Place { batch: row.batch.clone(), at: row.at }, told)));
        }
    }

    async fn flush(&mut self) -> Result<(), TransformError> {
        let told = std::mem::take(&mut self.told);
        if told.is_empty() {
            return Ok(());
        }
        let batches: Vec<&RecordBatch> = told.iter().map(|(row, _)| &row.batch).collect();
        let places: Vec<(usize, usize)> = told.iter().enumerate().map(|(number, (row, _))| (number, row.at)).collect();
        let rows = interleave_record_batch(&batches, &places)?;
        let types: StringArray = told.iter().map(|(_, told)| Some(*told)).collect();
        let columns = rows.columns().iter().cloned().chain([Arc::new(types) as _]).collect();
        let rows = RecordBatch::try_new(file_schema(&self.work.output.schema), columns)?;
        Ok(self.writer.write(&rows).await?)
    }
}
