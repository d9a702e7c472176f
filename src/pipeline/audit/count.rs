//! Counting the keys of a table: its rows at one version, then its dead letters.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int32Type, Int64Type};
use futures::TryStreamExt as _;

use super::AuditError;
use super::numbers::NumberSet;
use crate::batch::bronze;
use crate::catalog::commit_log::CommitLog;
use crate::catalog::query::QueryError;
use crate::catalog::scan::scan_at;
use crate::checkpoint::{Ledger, PartitionKey, RangeSet, SourceId};
use crate::pipeline::status::Headway;
use crate::sink::delta::dead_letters::rows::EXPIRED_AT;
use crate::sink::delta::ledger::ReadLedger;

/// How many numbers a list in a report holds; the count beside it is whole.
pub const MOST_LISTED: usize = 1_000;

/// How many partitions are kept that no ledger knows: a stranger's rows may name any text.
const MOST_UNKNOWN_PARTITIONS: usize = 100;

/// What sorting or grouping within a scan may hold before it spills.
const SCAN_MEMORY_BYTES: usize = 128 * 1024 * 1024;

/// How far an audit has come, for who shows it: keys counted, of numbers covered.
#[derive(Debug, Default)]
pub struct Counted {
    keys: AtomicU64,
    covered: AtomicU64,
}

impl Counted {
    pub fn headway(&self) -> Headway {
        Headway { done: self.keys.load(Ordering::Relaxed), of: self.covered.load(Ordering::Relaxed) }
    }

    pub(super) fn expects(&self, numbers: u64) {
        self.covered.store(numbers, Ordering::Relaxed);
    }
}

/// Numbers, counted in full and listed up to a bound, lowest first.
#[derive(Debug, Default)]
pub struct Listed {
    pub count: u64,
    pub numbers: BTreeSet<i64>,
}

impl Listed {
    fn add(&mut self, number: i64) {
        self.add_times(number, 1);
    }

    fn add_times(&mut self, number: i64, times: u64) {
        self.count += times;
        self.numbers.insert(number);
        if self.numbers.len() > MOST_LISTED {
            self.numbers.pop_last();
        }
    }
}

/// What was counted of one partition.
#[derive(Debug, Default)]
pub struct Tally {
    pub coverage: RangeSet,
    /// Numbers that have a row.
    pub rows: NumberSet,
    /// Rows beyond the first of an event.
    pub more_rows: u64,
    /// Covered numbers that have a dead letter and no row.
    pub letters: NumberSet,
    /// Those of them whose bytes expired.
    pub expired: NumberSet,
    /// Keys of rows, each as often as it is there beyond once.
    pub doubled_rows: Listed,
    pub doubled_letters: Listed,
    /// Rows that the ledger doesn't account for.
    pub uncovered: Listed,
}

/// What was counted of a table.
#[derive(Debug, Default)]
pub struct Tallies {
    pub partitions: BTreeMap<PartitionKey, Tally>,
    /// Rows whose source, partition or number is null: nothing of ours writes such.
    pub rows_without_key: u64,
    /// Rows of partitions beyond those that are kept.
    pub rows_elsewhere: u64,
    has_more_rows: bool,
}

impl Tallies {
    pub fn of(ledger: &Ledger) -> Self {
        let partitions = ledger
            .partitions()
            .map(|(key, held)| (key.clone(), Tally { coverage: held.coverage(), ..Tally::default() }));
        Self { partitions: partitions.collect(), ..Self::default() }
    }

    /// Counts the rows of the table at `version`.
    ///
    /// # Errors
    /// Errors of storage, and a table without the columns of a key.
    pub async fn count_rows(&mut self, log: &CommitLog, version: u64, counted: &Counted) -> Result<(), AuditError> {
        self.count(log, version, &keys_sql(), counted, Tallies::count_row_keys).await?;
        if self.has_more_rows {
            // Sets of numbers don't tell the records of an event apart: grouping does, and spills.
            // The column of the index then says how often a key is there beyond once.
            let [source, partition, number, index] = KEY;
            let sql = format!(
                "SELECT {source}, {partition}, {number}, CAST(count(*) - 1 AS INT) FROM t WHERE {index} > 0 \
                 GROUP BY {source}, {partition}, {number}, {index} HAVING count(*) > 1"
            );
            // These were counted before.
            self.count(log, version, &sql, &Counted::default(), Tallies::count_doubled_records).await?;
        }
        Ok(())
    }

    /// Counts the dead letters of a table; its rows come first.
    ///
    /// # Errors
    /// As [`Tallies::count_rows`]
    pub async fn count_letters(&mut self, letters: &ReadLedger, counted: &Counted) -> Result<(), AuditError> {
        let (log, version) = (&letters.log, letters.version);
        self.count(log, version, &keys_sql(), counted, Tallies::count_letter_keys).await?;
        // Tables of earlier versions lack the column.
        if letters.schema.column_with_name(EXPIRED_AT).is_some() {
            let sql = format!("{} WHERE {EXPIRED_AT} IS NOT NULL", keys_sql());
            self.count(log, version, &sql, &Counted::default(), Tallies::count_expired_keys).await?;
        }
        Ok(())
    }

    async fn count(
        &mut self,
        log: &CommitLog,
        version: u64,
        sql: &str,
        counted: &Counted,
        each: fn(&mut Tallies, &Keys),
    ) -> Result<(), AuditError> {
        let failed =
            |error| AuditError::Rows { table: log.table.clone(), source: Box::new(QueryError::of_rows(error)) };
        let mut batches = scan_at(log.store(), version, sql, SCAN_MEMORY_BYTES).await?;
        while let Some(batch) = batches.try_next().await.map_err(failed)? {
            each(self, &Keys::of(&batch, &log.table)?);
            counted.keys.fetch_add(batch.num_rows() as u64, Ordering::Relaxed);
        }
        Ok(())
    }

    fn count_row_keys(&mut self, keys: &Keys) {
        for run in keys.runs() {
            let Some(partition) = run.partition else {
                self.rows_without_key += run.rows.len() as u64;
                continue;
            };
            if !self.partitions.contains_key(&partition) && self.partitions.len() >= MOST_UNKNOWN_PARTITIONS {
                self.rows_elsewhere += run.rows.len() as u64;
                continue;
            }
            let tally = self.partitions.entry(partition).or_default();
            for row in run.rows {
                let Some((number, index)) = keys.number(row) else {
                    self.rows_without_key += 1;
                    continue;
                };
                if !tally.coverage.contains(number) {
                    tally.uncovered.add(number);
                } else if index > 0 {
                    tally.more_rows += 1;
                    self.has_more_rows = true;
                } else if !tally.rows.insert(number) {
                    tally.doubled_rows.add(number);
                }
            }
        }
    }

    fn count_doubled_records(&mut self, keys: &Keys) {
        for run in keys.runs() {
            let Some(tally) = run.partition.and_then(|partition| self.partitions.get_mut(&partition)) else { continue };
            for (number, beyond) in run.rows.filter_map(|row| keys.number(row)) {
                if tally.coverage.contains(number) {
                    let beyond = u64::try_from(beyond).unwrap_or(0);
                    tally.doubled_rows.add_times(number, beyond);
                    tally.more_rows = tally.more_rows.saturating_sub(beyond);
                }
            }
        }
    }

    fn count_letter_keys(&mut self, keys: &Keys) {
        for run in keys.runs() {
            let Some(tally) = run.partition.and_then(|partition| self.partitions.get_mut(&partition)) else { continue };
            for (number, index) in run.rows.filter_map(|row| keys.number(row)) {
                if !tally.coverage.contains(number) || tally.rows.contains(number) {
                    continue;
                }
                if !tally.letters.insert(number) && index == 0 {
                    tally.doubled_letters.add(number);
                }
            }
        }
    }

    fn count_expired_keys(&mut self, keys: &Keys) {
        for run in keys.runs() {
            let Some(tally) = run.partition.and_then(|partition| self.partitions.get_mut(&partition)) else { continue };
            for (number, _) in run.rows.filter_map(|row| keys.number(row)) {
                if tally.letters.contains(number) {
                    tally.expired.insert(number);
                }
            }
        }
    }
}

/// The columns of a key.
const KEY: [&str; 4] = [bronze::SOURCE, bronze::PARTITION, bronze::SEQUENCE_NUMBER, bronze::RECORD_INDEX];

fn keys_sql() -> String {
    format!("SELECT {} FROM t", KEY.join(", "))
}

/// The keys of a batch of rows.
struct Keys {
    sources: StringArray,
    partitions: StringArray,
    numbers: ArrayRef,
    indexes: ArrayRef,
}

/// Rows one after another that are of one partition; `None` where the key has nulls.
struct Run {
    partition: Option<PartitionKey>,
    rows: std::ops::Range<usize>,
}

impl Keys {
    fn of(batch: &RecordBatch, table: &str) -> Result<Self, AuditError> {
        let column = |at: usize, name: &'static str, wanted: &DataType| {
            let column = batch.columns().get(at).and_then(|column| cast(column, wanted).ok());
            column.ok_or_else(|| AuditError::Column { table: table.to_owned(), column: name })
        };
        Ok(Self {
            sources: column(0, bronze::SOURCE, &DataType::Utf8)?.as_string().clone(),
            partitions: column(1, bronze::PARTITION, &DataType::Utf8)?.as_string().clone(),
            numbers: column(2, bronze::SEQUENCE_NUMBER, &DataType::Int64)?,
            indexes: column(3, bronze::RECORD_INDEX, &DataType::Int32)?,
        })
    }

    /// The number and record index of a row; a missing index is 0, as for any event of one row.
    fn number(&self, row: usize) -> Option<(i64, i32)> {
        let (numbers, indexes) = (self.numbers.as_primitive::<Int64Type>(), self.indexes.as_primitive::<Int32Type>());
        let index = if indexes.is_valid(row) { indexes.value(row) } else { 0 };
        numbers.is_valid(row).then(|| (numbers.value(row), index))
    }

    /// A file mixes few partitions in long runs, so their keys are made and looked up seldom.
    fn runs(&self) -> impl Iterator<Item = Run> + '_ {
        let mut next = 0;
        std::iter::from_fn(move || {
            let from = next;
            if from >= self.sources.len() {
                return None;
            }
            while next < self.sources.len() && self.same_partition(from, next) {
                next += 1;
            }
            let is_whole = self.sources.is_valid(from) && self.partitions.is_valid(from);
            let partition = is_whole
                .then(|| PartitionKey::new(SourceId::new(self.sources.value(from)), self.partitions.value(from)));
            Some(Run { partition, rows: from..next })
        })
    }

    fn same_partition(&self, one: usize, other: usize) -> bool {
        let same = |array: &StringArray| {
            array.is_valid(one) == array.is_valid(other) && array.value(one) == array.value(other)
        };
        same(&self.sources) && same(&self.partitions)
    }
}
