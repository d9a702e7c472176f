//! How the rows of a query become those of the table.
//!
//! All but `append` and `replace` are one operation: the rows of the keys that the new rows have
//! give way to others ([`super::keyed`]). What comes out depends on which rows there are, never on
//! the order or the batches in which they came:
//!
//! * `merge`: of the rows of a key, those held and the new ones, the greatest by `sequence_by` stays.
//!   Of equals a deletion comes first, then the greatest of the other columns.
//! * `history`: all rows of a key, each valid from its own `sequence_by` to the next one's. A row that
//!   is the same in every column is there once.
//! * `recompute`: the query over the whole of its inputs, for these keys alone.
//!
//! What `delete_when` deletes leaves its key and sequence in `<table>__deleted`, which is committed
//! first: an event that is older and comes later stays dead.

use std::sync::Arc;

use arrow::array::{AsArray as _, RecordBatch};
use arrow::compute::{and, filter_record_batch, not};
use arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::common::{ScalarValue, not_impl_datafusion_err};
use datafusion::dataframe::DataFrame;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::functions_window::expr_fn::{lead, row_number};
use datafusion::logical_expr::expr::Sort;
use datafusion::logical_expr::{Expr, ExprFunctionExt as _, lit, when};
use datafusion::prelude::SessionContext;
use deltalake::kernel::{Add, Remove};
use futures::TryStreamExt as _;

use super::TransformError;
use super::changes::Told;
use super::columns::fit;
use super::expectations::Sieve;
use super::keyed::{KeySet, Split, column, orderable, plain};
use super::output::Output;
use super::stage::{Staged, Staging};
use crate::catalog::data_file::FilesWriter;
use crate::catalog::file_table::FileTable;
use crate::catalog::rewrite::Kind;
use crate::catalog::state::{ActiveFile, rows_in};
use crate::config::spec::{Dedupe, TransformSpec};
use crate::transform::{HISTORY_COLUMNS, condition as condition_of};

const DELETED: &str = "__deleted";
const NEW: &str = "__new";
const RANK: &str = "__rank";
const NEXT: &str = "__next";
const LAST: &str = "__last";

/// How many keys a scan is told one by one; beyond, their bounds.
const MOST_LISTED: usize = 1_000;

/// What a mode works with.
pub struct Work<'a> {
    pub spec: &'a TransformSpec,
    pub session: &'a SessionContext,
    pub runtime: &'a Arc<RuntimeEnv>,
    pub output: &'a Output,
}

/// What a commit is to do to the table.
pub struct Planned {
    pub kind: Kind,
    pub adds: Vec<Add>,
    pub removes: Vec<Remove>,
    /// Files of the table's change feed; none where the changes follow from `adds` and `removes`.
    pub changes: Vec<Add>,
    /// Rows that the query gave and the table took.
    pub rows: u64,
}

/// What of a quarantine gives way to what is computed now.
#[derive(Default)]
pub struct GivesWay {
    pub removes: Vec<Remove>,
    /// What else the removed files held.
    pub kept: Vec<Add>,
}

impl GivesWay {
    /// All that the table has.
    ///
    /// # Errors
    /// Errors of storage.
    pub async fn all(quarantine: Option<&Output>) -> Result<Self, TransformError> {
        let Some(quarantine) = quarantine else { return Ok(Self::default()) };
        let removes = quarantine.files().await?.iter().map(|file| file.remove(true)).collect();
        Ok(Self { removes, kept: Vec::new() })
    }
}

impl Planned {
    /// Nothing but what was consumed.
    pub fn nothing() -> Self {
        Self { kind: Kind::Append, adds: Vec::new(), removes: Vec::new(), changes: Vec::new(), rows: 0 }
    }
}

/// What goes with all that is known of some keys.
struct Rest {
    /// The files that their rows are in.
    files: Vec<ActiveFile>,
    /// The rows of other keys in these files.
    beside: Staged,
    /// How many rows are written at most.
    most: u64,
    /// What the rows of the keys are read from, which lasts as long as this is held: the keys, the new rows, and those
    /// that the table has.
    held: (KeySet, Staged, Staged),
}

/// Where rows go that passed.
trait Passed {
    async fn take(&mut self, rows: RecordBatch) -> Result<(), TransformError>;
}

impl Passed for FilesWriter {
    async fn take(&mut self, rows: RecordBatch) -> Result<(), TransformError> {
        Ok(self.write(&rows).await?)
    }
}

impl Passed for Staging {
    async fn take(&mut self, rows: RecordBatch) -> Result<(), TransformError> {
        Ok(self.push(rows)?)
    }
}

impl Work<'_> {
    /// Runs a query and parts its rows; those that pass are staged.
    ///
    /// # Errors
    /// Errors of the query, and [`TransformError::Expectation`].
    pub async fn stage(
        &self,
        query: DataFrame,
        rows: &SchemaRef,
        sieve: &mut Sieve<'_>,
    ) -> Result<(Staged, Option<Staged>), TransformError> {
        let mut staging = Staging::new(self.runtime, rows);
        let quarantined = self.part(query, &mut staging, sieve).await?;
        Ok((staging.finish()?, quarantined))
    }

    /// Runs a query and parts its rows; those that pass are written behind what `writer` has.
    ///
    /// # Errors
    /// As [`Work::stage`]; the files of the writer are deleted then.
    pub async fn write(
        &self,
        query: DataFrame,
        mut writer: FilesWriter,
        sieve: &mut Sieve<'_>,
    ) -> Result<(Vec<Add>, Option<Staged>), TransformError> {
        match self.part(query, &mut writer, sieve).await {
            Ok(quarantined) => Ok((writer.close().await?, quarantined)),
            Err(error) => {
                writer.abort().await;
                Err(error)
            }
        }
    }

    async fn part(
        &self,
        query: DataFrame,
        passed: &mut impl Passed,
        sieve: &mut Sieve<'_>,
    ) -> Result<Option<Staged>, TransformError> {
        let mut quarantine: Option<Staging> = None;
        let mut batches = sieve.plan(self.session, query).await?.execute_stream().await?;
        while let Some(batch) = batches.try_next().await? {
            let sifted = sieve.sift(&batch)?;
            passed.take(sifted.passed).await?;
            if let Some(rows) = sifted.quarantined {
                let staging = quarantine.get_or_insert_with(|| Staging::new(self.runtime, &rows.schema()));
                staging.push(rows)?;
            }
        }
        sieve.verdict()?;
        Ok(quarantine.map(Staging::finish).transpose()?)
    }

    pub(super) async fn frame(&self, staged: &Staged) -> Result<DataFrame, TransformError> {
        Ok(plain(staged.frame(self.session).await?)?)
    }

    /// The first of the new rows of each combination of columns that the table has none of, as far
    /// back as its files of the last `within` before `since_ms` tell: when the oldest of the new rows reached the
    /// input (epoch ms), however late they are read. A row with a null among them is never a repetition.
    ///
    /// # Errors
    /// Errors of the rows and of storage.
    pub async fn append_once(&self, new: Staged, since_ms: i64, dedupe: &Dedupe) -> Result<Planned, TransformError> {
        let by: Vec<Expr> = dedupe.by.iter().map(|name| column(name)).collect();
        let known = by.iter().cloned().map(Expr::is_not_null).reduce(Expr::and).unwrap_or_else(|| lit(true));
        let others = orderable(new.schema()).into_iter().filter(|(name, _)| !dedupe.by.contains(name));
        let order: Vec<Sort> = others.map(|(_, ordered)| ordered.sort(true, true)).collect();
        let rows = self.frame(&new).await?;
        let keys = rows.clone().filter(known.clone())?;
        let keys = KeySet::of(self.session, self.runtime, keys, &dedupe.by).await?;
        let first = row_number().partition_by(by).order_by(order).build()?;
        let first =
            rows.clone().filter(known.clone())?.with_column(RANK, first)?.filter(column(RANK).eq(lit(1_u64)))?;
        let first = plain(first.drop_columns(&[RANK])?)?;
        let horizon = i64::try_from(dedupe.within.as_millis()).unwrap_or(i64::MAX);
        let horizon = since_ms.saturating_sub(horizon);
        let all = self.output.files().await?;
        let recent: Vec<ActiveFile> = all.iter().filter(|file| file.modified_at >= horizon).cloned().collect();
        let files = keys.files_of(self.session, self.output, &recent).await?;
        // What `first` reads lasts as long as this is held.
        let mut in_table = None;
        let first = if files.is_empty() {
            first
        } else {
            let store = self.output.log.store();
            let partitions = self.output.partition_columns();
            let held = FileTable::open(self.session, store, &self.output.schema, partitions, &files)?;
            let held = keys.rows_of(self.session, plain(self.session.read_table(held)?)?).await?;
            let held = in_table.insert(KeySet::of(self.session, self.runtime, held, &dedupe.by).await?);
            held.rows_beside(self.session, first).await?
        };
        let unknown = rows.filter(Expr::Not(Box::new(known)))?;
        let writer = write_all(self.output.writer(), first, &self.output.schema).await?;
        let writer = write_all(writer, unknown, &self.output.schema).await?;
        drop(in_table);
        let rows = writer.rows();
        // It leans on what it found in the table: nothing may come between.
        let adds = writer.close().await?;
        Ok(Planned { kind: Kind::Rewrite, adds, removes: Vec::new(), changes: Vec::new(), rows })
    }

    /// The new rows take the place of older ones of their keys. `graves` are what was deleted
    /// before; the rows of new ones are given back, to be committed first.
    ///
    /// # Errors
    /// Errors of the rows and of storage.
    pub async fn merge(
        &self,
        new: Staged,
        graves: Option<&Output>,
    ) -> Result<(Planned, Option<Staged>), TransformError> {
        let schema = Arc::clone(&self.output.schema);
        let (all, rest) = self.rows_of_keys(new, graves, &schema).await?;
        let mut order: Vec<Sort> = self.spec.sequence_by.iter().map(|name| column(name).sort(false, false)).collect();
        order.push(column(DELETED).sort(false, false));
        order.extend(self.other_columns(&schema).into_iter().map(|ordered| ordered.sort(false, false)));
        order.push(column(NEW).sort(true, false));
        let rank = row_number().partition_by(self.keys()).order_by(order).build()?;
        let last = all.with_column(RANK, rank)?.filter(column(RANK).eq(lit(1_u64)))?;
        self.in_place(last, rest, graves).await
    }

    /// The new rows find their places among those of their keys.
    ///
    /// # Errors
    /// As [`Work::merge`]
    pub async fn history(
        &self,
        new: Staged,
        graves: Option<&Output>,
    ) -> Result<(Planned, Option<Staged>), TransformError> {
        let schema = Arc::clone(new.schema());
        let (all, rest) = self.rows_of_keys(new, graves, &schema).await?;
        let start = self.spec.sequence_by.first().map(|name| column(name));
        let start = start.ok_or_else(|| not_impl_datafusion_err!("a history without `sequence_by`"))?;
        let ordered = orderable(&schema);
        // Rows that can't be told apart in every column aren't taken for one.
        let once = if ordered.len() == schema.fields().len() {
            let same = ordered.into_iter().map(|(_, ordered)| ordered).chain([column(DELETED)]).collect();
            let repeated = row_number().partition_by(same).order_by(vec![column(NEW).sort(true, false)]).build()?;
            all.with_column(RANK, repeated)?.filter(column(RANK).eq(lit(1_u64)))?
        } else {
            all
        };
        let order: Vec<Sort> = self
            .spec
            .sequence_by
            .iter()
            .map(|name| column(name).sort(true, true))
            .chain([column(DELETED).sort(true, true)])
            .chain(self.other_columns(&schema).into_iter().map(|ordered| ordered.sort(true, true)))
            .collect();
        let next = |of: Expr| lead(of, Some(1), None).partition_by(self.keys()).order_by(order.clone()).build();
        let placed = once.with_column(NEXT, next(start.clone())?)?;
        let placed = placed.with_column(LAST, next(lit(true))?.is_null())?;
        let [valid_from, valid_to, is_current] = HISTORY_COLUMNS;
        let shown = schema.fields().iter().map(|field| column(field.name())).chain([
            start.alias(valid_from),
            column(NEXT).alias(valid_to),
            column(LAST).alias(is_current),
            column(DELETED),
            column(NEW),
        ]);
        let placed = placed.select(shown.collect::<Vec<_>>())?;
        self.in_place(placed, rest, graves).await
    }

    /// All rows of the table give way to those of the query.
    ///
    /// # Errors
    /// As [`Work::stage`]
    pub async fn replace(
        &self,
        query: DataFrame,
        sieve: &mut Sieve<'_>,
    ) -> Result<(Planned, Option<Staged>), TransformError> {
        let (adds, quarantined) = self.write(query, self.output.writer(), sieve).await?;
        let removes = self.output.files().await?.iter().map(|file| file.remove(true)).collect();
        let rows = rows_of(&adds);
        Ok((Planned { kind: Kind::Rewrite, adds, removes, changes: Vec::new(), rows }, quarantined))
    }

    /// These keys are computed again: `query` is over the whole of its inputs.
    ///
    /// # Errors
    /// As [`Work::stage`]
    pub async fn recompute(
        &self,
        touched: DataFrame,
        query: DataFrame,
        quarantine: Option<&Output>,
        sieve: &mut Sieve<'_>,
    ) -> Result<(Planned, Option<Staged>, GivesWay), TransformError> {
        let keys = KeySet::of(self.session, self.runtime, touched, &self.spec.keys).await?;
        if keys.is_empty() {
            return Ok((Planned::nothing(), None, GivesWay::default()));
        }
        let query = match keys.condition(MOST_LISTED) {
            Some(condition) => query.filter(condition)?,
            None => query,
        };
        let query = keys.rows_of(self.session, query).await?;
        let (computed, quarantined) = self.stage(query, &self.output.schema, sieve).await?;
        let (files, beside, before) = if self.output.has_feed() {
            let files = keys.files_of(self.session, self.output, &self.output.files().await?).await?;
            let Split { beside, touched } = keys.split(self.session, self.runtime, self.output, &files).await?;
            (files, beside, Some(touched))
        } else {
            let (files, beside) = self.beside(&keys, self.output).await?;
            (files, beside, None)
        };
        let most = beside.rows() + computed.rows();
        let rows = self.frame(&computed).await?;
        let (rows, writer) = self.laid_out(&beside, rows, &[], most).await?;
        let writer = write_all(writer, rows, &self.output.schema).await?;
        drop(beside);
        let told = before.as_ref().map(|before| Told { before, after: &computed, living: None });
        let planned = self.planned(&files, writer, told).await?;
        let mut gives_way = GivesWay::default();
        if let Some(quarantine) = quarantine {
            let (files, beside) = self.beside(&keys, quarantine).await?;
            let writer = write_all(quarantine.writer(), self.frame(&beside).await?, &quarantine.schema).await?;
            gives_way.removes = files.iter().map(|file| file.remove(true)).collect();
            gives_way.kept = writer.close().await?;
        }
        Ok((Planned { rows: computed.rows(), ..planned }, quarantined, gives_way))
    }

    fn keys(&self) -> Vec<Expr> {
        self.spec.keys.iter().map(|name| column(name)).collect()
    }

    /// What ties are broken by: all columns but keys and sequence.
    fn other_columns(&self, schema: &SchemaRef) -> Vec<Expr> {
        let named = |name: &String| self.spec.keys.contains(name) || self.spec.sequence_by.contains(name);
        orderable(schema).into_iter().filter(|(name, _)| !named(name)).map(|(_, ordered)| ordered).collect()
    }

    /// All that is known of the keys of the new rows: rows held, deletions, and the new rows; and the rows of other
    /// keys in the touched files.
    async fn rows_of_keys(
        &self,
        new: Staged,
        graves: Option<&Output>,
        schema: &SchemaRef,
    ) -> Result<(DataFrame, Rest), TransformError> {
        let rows = self.frame(&new).await?;
        let keys = KeySet::of(self.session, self.runtime, rows.clone(), &self.spec.keys).await?;
        let files = keys.files_of(self.session, self.output, &self.output.files().await?).await?;
        let Split { beside, touched: staged } = keys.split(self.session, self.runtime, self.output, &files).await?;
        let most = beside.rows() + staged.rows() + new.rows();
        let columns = || schema.fields().iter().map(|field| column(field.name()));
        let mut all = self
            .frame(&staged)
            .await?
            .select(columns().chain([lit(false).alias(DELETED), lit(false).alias(NEW)]).collect::<Vec<_>>())?;
        if let Some(graves) = graves {
            let buried = keys.files_of(self.session, graves, &graves.files().await?).await?;
            if !buried.is_empty() {
                let table = FileTable::open(
                    self.session,
                    graves.log.store(),
                    &graves.schema,
                    graves.partition_columns(),
                    &buried,
                )?;
                let buried = keys.rows_of(self.session, plain(self.session.read_table(table)?)?).await?;
                let known = schema.fields().iter().map(|field| {
                    if graves.schema.field_with_name(field.name()).is_ok() {
                        Ok(column(field.name()))
                    } else {
                        Ok(lit(ScalarValue::try_from(field.data_type())?).alias(field.name()))
                    }
                });
                let known = known.collect::<Result<Vec<_>, TransformError>>()?.into_iter();
                let marks = [lit(true).alias(DELETED), lit(false).alias(NEW)];
                all = all.union(buried.select(known.chain(marks).collect::<Vec<_>>())?)?;
            }
        }
        let deleted = match &self.spec.delete_when {
            Some(condition) => {
                let condition = condition_of(self.session, new.schema(), condition).await;
                condition.map_err(TransformError::Sql)?.is_true()
            }
            None => lit(false),
        };
        let marked = rows.with_column(DELETED, deleted)?;
        let buried_alike = schema.fields().iter().map(|field| {
            let name = field.name();
            if graves.is_none() || self.spec.keys.contains(name) || self.spec.sequence_by.contains(name) {
                return Ok(column(name));
            }
            let nothing = lit(ScalarValue::try_from(field.data_type())?);
            Ok(when(column(DELETED), nothing).otherwise(column(name))?.alias(name))
        });
        let mut shown = buried_alike.collect::<Result<Vec<_>, TransformError>>()?;
        shown.extend([column(DELETED), lit(true).alias(NEW)]);
        let all = plain(all.union(marked.select(shown)?)?)?;
        Ok((all, Rest { files, beside, most, held: (keys, new, staged) }))
    }

    /// The rows of the keys take the places of those that were: `placed` are they, marked. New deletions are given back.
    async fn in_place(
        &self,
        placed: DataFrame,
        rest: Rest,
        graves: Option<&Output>,
    ) -> Result<(Planned, Option<Staged>), TransformError> {
        let Rest { files, beside, most, held: (keys, new, before) } = rest;
        // What comes out is looked at twice where it has to be told what that changes.
        let staged = if self.output.has_feed() && !files.is_empty() {
            let rows = placed.clone().execute_stream().await?;
            Some(Staging::beside_query(self.runtime, &rows.schema()).filled(rows).await?)
        } else {
            None
        };
        let placed = match &staged {
            Some(staged) => self.frame(staged).await?,
            None => placed,
        };
        let (rows, mut writer) = self.laid_out(&beside, placed, &[DELETED, NEW], most).await?;
        let mut buried = graves.map(|graves| Staging::new(self.runtime, &graves.schema));
        if let Err(error) = self.part_into_graves(rows, &mut writer, graves.zip(buried.as_mut())).await {
            writer.abort().await;
            return Err(error);
        }
        let buried = buried.map(Staging::finish).transpose()?;
        drop((beside, keys, new));
        let living = Some(Expr::Not(Box::new(column(DELETED))));
        let told = staged.as_ref().map(|after| Told { before: &before, after, living });
        Ok((self.planned(&files, writer, told).await?, buried))
    }

    /// Rows that live go to the writer, and new deletions into the grave.
    async fn part_into_graves(
        &self,
        rows: DataFrame,
        writer: &mut FilesWriter,
        mut buried: Option<(&Output, &mut Staging)>,
    ) -> Result<(), TransformError> {
        let mut batches = rows.execute_stream().await?;
        while let Some(batch) = batches.try_next().await? {
            let flag = |name: &str| {
                let column = batch.column_by_name(name).and_then(|column| column.as_boolean_opt());
                column.ok_or_else(|| TransformError::Internal(format!("no column `{name}`")))
            };
            let (deleted, new) = (flag(DELETED)?, flag(NEW)?);
            let living = filter_record_batch(&batch, &not(deleted)?)?;
            writer.write(&fit(&living, &self.output.schema)?).await?;
            if let Some((graves, staging)) = &mut buried
                && deleted.true_count() > 0
            {
                let dead = filter_record_batch(&batch, &and(deleted, new)?)?;
                staging.push(fit(&dead, &graves.schema)?)?;
            }
        }
        Ok(())
    }

    /// These files give way to those of `writer`. Where the table has a change feed, it is told what their rows were
    /// before, and what they are now.
    async fn planned(
        &self,
        files: &[ActiveFile],
        writer: FilesWriter,
        told: Option<Told<'_>>,
    ) -> Result<Planned, TransformError> {
        if let Some(told) = told {
            return self.with_changes(files, writer, told).await;
        }
        let rows = writer.rows();
        let removes = files.iter().map(|file| file.remove(true)).collect();
        Ok(Planned { kind: Kind::Rewrite, adds: writer.close().await?, removes, changes: Vec::new(), rows })
    }
}

/// The columns of what was deleted: keys and sequence.
pub fn grave_schema(spec: &TransformSpec, output: &Schema) -> Schema {
    let named = |field: &&Arc<Field>| spec.keys.contains(field.name()) || spec.sequence_by.contains(field.name());
    Schema::new(output.fields().iter().filter(named).cloned().collect::<Vec<_>>())
}

/// The columns that the query of a history gave.
pub fn without_history(table: &Schema) -> Schema {
    let is_own = |field: &Arc<Field>| HISTORY_COLUMNS.contains(&field.name().as_str());
    Schema::new(table.fields().iter().filter(|field| !is_own(field)).cloned().collect::<Vec<_>>())
}

/// Writes all rows of a frame, and gives the writer back.
///
/// # Errors
/// Errors of the rows and of storage; the files of the writer are deleted then.
pub async fn write_all(
    mut writer: FilesWriter,
    rows: DataFrame,
    schema: &SchemaRef,
) -> Result<FilesWriter, TransformError> {
    let written = async {
        let mut batches = rows.execute_stream().await?;
        while let Some(batch) = batches.try_next().await? {
            writer.write(&fit(&batch, schema)?).await?;
        }
        Ok(())
    };
    match written.await {
        Ok(()) => Ok(writer),
        Err(error) => {
            writer.abort().await;
            Err(error)
        }
    }
}

/// How many rows these files hold, as their statistics say.
pub fn rows_of(adds: &[Add]) -> u64 {
    adds.iter().filter_map(|add| rows_in(add.stats.as_deref())).sum()
}
