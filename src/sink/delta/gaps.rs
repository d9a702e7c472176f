//! Gaps that somebody accepted, in a table of the lake: `sluice.gaps`.
//!
//! An acceptance says who can live without which numbers of which table, and why. It changes
//! nothing of a ledger: should the events turn up they land, and the acceptance doesn't matter any more. It
//! belongs to the table's id: a table made anew under the same name has gaps of its own.
//!
//! The table is only appended to, by the same compare and set as all others: what was looked at in
//! version V is put as V + 1 or not at all.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef, TimestampMicrosecondType};
use arrow::error::ArrowError;
use deltalake::kernel::Action;
use deltalake::protocol::{DeltaOperation, OutputMode};
use futures::TryStreamExt as _;

use super::SinkError;
use super::files;
use super::table::OpenTable;
use crate::batch::bronze;
use crate::catalog::commit_log::{CommitLog, Put, ReadAt};
use crate::catalog::log::{log_store, log_store_to_read};
use crate::catalog::scan::scan;
use crate::catalog::{accepted_gaps, table_location};
use crate::checkpoint::{PartitionKey, Range, RangeSet, SourceId};
use crate::storage::Location;

/// How often a commit may lose the race for its version: people accept gaps, one at a time.
const TRIES: u32 = 20;

/// Numbers that somebody can live without.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AcceptedGap {
    pub partition: PartitionKey,
    pub range: Range,
    /// The table that lacks them, as it is named, and the id that its ledger names.
    pub table: String,
    pub table_id: String,
    /// Epoch microseconds.
    pub accepted_at_us: i64,
    pub accepted_by: String,
    pub why: String,
}

/// What was accepted of one table, oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AcceptedGaps(Vec<AcceptedGap>);

/// What became of an acceptance.
#[derive(Debug)]
pub enum Acceptance {
    /// It stands in the table.
    Recorded,
    /// All of it was accepted before, of which this is the first.
    Before(Box<AcceptedGap>),
}

impl AcceptedGaps {
    /// Reads what was accepted of the table with this id. Rows that a stranger left without a key say nothing.
    ///
    /// # Errors
    /// Errors of storage, and a table that lacks our columns.
    pub async fn read(lake: &Location, table_id: &str) -> Result<Self, SinkError> {
        let name = accepted_gaps();
        match log_store_to_read(&table_location(lake, &name)).await? {
            Some(store) => Self::read_log(&CommitLog::new(store, name.to_string()), table_id).await,
            None => Ok(Self::default()),
        }
    }

    async fn read_log(log: &CommitLog, table_id: &str) -> Result<Self, SinkError> {
        let failed = |source| SinkError::Arrow { table: log.table.clone(), source };
        let columns: Vec<String> = schema().fields().iter().map(|field| format!("\"{}\"", field.name())).collect();
        let mut batches = scan(log.store(), &format!("SELECT {} FROM t", columns.join(", "))).await?;
        let mut gaps = Vec::new();
        while let Some(batch) = batches.try_next().await.map_err(|source| log.failed(source))? {
            gaps.extend(of_rows(&batch).map_err(failed)?.into_iter().filter(|gap| gap.table_id == table_id));
        }
        Ok(gaps.into_iter().collect())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The numbers of a partition that were accepted.
    pub fn of(&self, partition: &PartitionKey) -> RangeSet {
        self.0.iter().filter(|gap| gap.partition == *partition).map(|gap| gap.range).collect()
    }

    /// What is missing, cut where it is accepted: each piece with the first acceptance that names it, or none.
    pub fn split(&self, partition: &PartitionKey, missing: Range) -> Vec<(Range, Option<&AcceptedGap>)> {
        let mut told = RangeSet::new();
        let mut pieces = Vec::new();
        for gap in self.0.iter().filter(|gap| gap.partition == *partition) {
            let within = Range::new(gap.range.from.max(missing.from), gap.range.to.min(missing.to));
            if within.is_empty() {
                continue;
            }
            pieces.extend(told.missing_in(within).into_iter().map(|piece| (piece, Some(gap))));
            told.insert(within);
        }
        pieces.extend(told.missing_in(missing).into_iter().map(|piece| (piece, None)));
        pieces.sort_by_key(|(piece, _)| *piece);
        pieces
    }

    /// One that was recorded just now.
    pub fn add(&mut self, gap: AcceptedGap) {
        if !self.0.contains(&gap) {
            self.0.push(gap);
        }
    }

    fn accepts(&self, gap: &AcceptedGap) -> Option<&AcceptedGap> {
        let pieces = self.split(&gap.partition, gap.range);
        let is_whole = pieces.iter().all(|(_, accepted)| accepted.is_some());
        pieces.first().and_then(|(_, accepted)| *accepted).filter(|_| is_whole)
    }
}

impl FromIterator<AcceptedGap> for AcceptedGaps {
    fn from_iter<I: IntoIterator<Item = AcceptedGap>>(gaps: I) -> Self {
        let mut gaps: Vec<_> = gaps.into_iter().collect();
        gaps.sort_by_key(|gap| gap.accepted_at_us);
        Self(gaps)
    }
}

/// Records an acceptance, making the table where there is none. Whether the numbers are missing is for
/// the caller to know.
///
/// # Errors
/// Errors of storage, what makes a table unwritable, and [`SinkError::Contended`] when others win every race.
pub async fn accept(lake: &Location, gap: &AcceptedGap) -> Result<Acceptance, SinkError> {
    let name = accepted_gaps();
    let log = CommitLog::new(log_store(&table_location(lake, &name))?, name.to_string());
    let mut table = match OpenTable::open(log.clone()).await? {
        Some(table) => table,
        None => {
            let properties = vec![("delta.appendOnly".to_owned(), "true".to_owned())];
            OpenTable::create(log.clone(), &schema(), &[], properties).await?
        }
    };
    let mut ours = Vec::new();
    for _ in 0..TRIES {
        // The head may be newer than the base: then the put below loses, and all is looked at again.
        if let Some(before) = AcceptedGaps::read_log(&log, &gap.table_id).await?.accepts(gap) {
            let is_ours = before == gap;
            return Ok(if is_ours { Acceptance::Recorded } else { Acceptance::Before(Box::new(before.clone())) });
        }
        let rows = row(gap).map_err(|source| SinkError::Arrow { table: log.table.clone(), source })?;
        let adds = files::write(log.store(), &table.columns(), &[], None, vec![rows])
            .await
            .map_err(|source| SinkError::File { table: log.table.clone(), source })?;
        let version = table.version + 1;
        let commit = log.lay_out(
            adds.files.into_iter().map(Action::Add).collect(),
            table.transactions(&[], version),
            DeltaOperation::StreamingUpdate {
                output_mode: OutputMode::Append,
                query_id: "gaps accept".to_owned(),
                epoch_id: i64::try_from(version).unwrap_or(i64::MAX),
            },
            HashMap::new(),
        )?;
        ours.push(commit.id);
        let read_at = ReadAt::now();
        match log.put(version, &commit).await {
            Put::Landed if !table.is_stale() && log.holds(table.version).await? => {
                table.advance(version, &[], read_at);
                return Ok(Acceptance::Recorded);
            }
            Put::Landed | Put::Unknown(_) | Put::Taken => {
                if table.catch_up(&ours).await?.landed.is_some() {
                    return Ok(Acceptance::Recorded);
                }
            }
        }
    }
    Err(SinkError::Contended { table: log.table, tries: TRIES })
}

const SOURCE: &str = "source";
const PARTITION: &str = "partition";
const FROM: &str = "from";
const TO: &str = "to";
const ACCEPTED_AT: &str = "accepted_at";
const ACCEPTED_BY: &str = "accepted_by";
const WHY: &str = "why";
const TABLE: &str = "table";
const TABLE_ID: &str = "table_id";

/// The columns of the table, named as `sluice gaps list --format json` names them.
pub fn schema() -> SchemaRef {
    let text = |name: &str| Field::new(name, DataType::Utf8, true);
    let number = |name: &str| Field::new(name, DataType::Int64, true);
    Arc::new(Schema::new(vec![
        text(SOURCE),
        text(PARTITION),
        number(FROM),
        number(TO),
        Field::new(ACCEPTED_AT, bronze::timestamp(), true),
        text(ACCEPTED_BY),
        text(WHY),
        text(TABLE),
        text(TABLE_ID),
    ]))
}

fn row(gap: &AcceptedGap) -> Result<RecordBatch, ArrowError> {
    let text = |value: &str| -> ArrayRef { Arc::new(StringArray::from(vec![value])) };
    let number = |value: i64| -> ArrayRef { Arc::new(Int64Array::from(vec![value])) };
    let at = TimestampMicrosecondArray::from(vec![gap.accepted_at_us]).with_timezone("UTC");
    RecordBatch::try_new(
        schema(),
        vec![
            text(gap.partition.source.as_str()),
            text(&gap.partition.partition),
            number(gap.range.from),
            number(gap.range.to),
            Arc::new(at),
            text(&gap.accepted_by),
            text(&gap.why),
            text(&gap.table),
            text(&gap.table_id),
        ],
    )
}

/// Rows whose columns stand in the order of [`schema`].
fn of_rows(batch: &RecordBatch) -> Result<Vec<AcceptedGap>, ArrowError> {
    let column = |at: usize, wanted: &DataType| cast(batch.column(at), wanted);
    let texts = [0, 1, 5, 6, 7, 8].map(|at| column(at, &DataType::Utf8));
    let [sources, partitions, by, whys, tables, ids] = texts;
    let (sources, partitions, by, whys, tables, ids) = (sources?, partitions?, by?, whys?, tables?, ids?);
    let (from, to) = (column(2, &DataType::Int64)?, column(3, &DataType::Int64)?);
    let at = column(4, &bronze::timestamp())?;
    let text = |array: &ArrayRef, row: usize| {
        let array = array.as_string::<i32>();
        array.is_valid(row).then(|| array.value(row).to_owned())
    };
    let number = |array: &ArrayRef, row: usize| {
        let array = array.as_primitive::<Int64Type>();
        array.is_valid(row).then(|| array.value(row))
    };
    let gap = |row: usize| {
        let at = at.as_primitive::<TimestampMicrosecondType>();
        Some(AcceptedGap {
            partition: PartitionKey::new(SourceId::new(text(&sources, row)?), text(&partitions, row)?),
            range: Range::new(number(&from, row)?, number(&to, row)?),
            table: text(&tables, row).unwrap_or_default(),
            table_id: text(&ids, row)?,
            accepted_at_us: if at.is_valid(row) { at.value(row) } else { 0 },
            accepted_by: text(&by, row).unwrap_or_default(),
            why: text(&whys, row).unwrap_or_default(),
        })
    };
    Ok((0..batch.num_rows()).filter_map(gap).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepted(partition: &str, from: i64, to: i64, at: i64) -> AcceptedGap {
        AcceptedGap {
            partition: PartitionKey::new(SourceId::new("emulator/leads"), partition),
            range: Range::new(from, to),
            table: "bronze.leads".to_owned(),
            table_id: "an id".to_owned(),
            accepted_at_us: at,
            accepted_by: format!("who {at}"),
            why: "retention".to_owned(),
        }
    }

    #[test]
    fn what_is_missing_is_cut_where_it_is_accepted() {
        let gaps: AcceptedGaps =
            [accepted("0", 15, 30, 2), accepted("0", 10, 20, 1), accepted("1", 0, 99, 3)].into_iter().collect();
        let partition = PartitionKey::new(SourceId::new("emulator/leads"), "0");
        let split = |from, to| -> Vec<(i64, i64, Option<i64>)> {
            let pieces = gaps.split(&partition, Range::new(from, to));
            pieces.iter().map(|(piece, by)| (piece.from, piece.to, by.map(|gap| gap.accepted_at_us))).collect()
        };
        assert_eq!(split(5, 35), [(5, 10, None), (10, 20, Some(1)), (20, 30, Some(2)), (30, 35, None)]);
        assert_eq!(split(12, 18), [(12, 18, Some(1))]);
        assert_eq!(split(40, 50), [(40, 50, None)]);
        assert_eq!(split(40, 40), []);
    }

    #[test]
    fn rows_are_read_as_they_were_written() {
        let gap = accepted("0", 10, 20, 1_700_000_000_000_000);
        assert_eq!(of_rows(&row(&gap).expect("a row")).expect("our columns"), [gap]);
    }
}
