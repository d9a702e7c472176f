//! Data files of a flush: Parquet, zstd 1, with statistics, one for each enqueued date.
//!
//! A flush is split by date once, which nearly always gives one file; files mix the source's
//! partitions. Nothing of them can be seen until a commit names them.

use std::collections::BTreeMap;

use arrow::array::{AsArray, Date32Array, RecordBatch, Scalar};
use arrow::compute::filter_record_batch;
use arrow::compute::kernels::cmp::not_distinct;
use arrow::datatypes::Date32Type;
use arrow::error::ArrowError;
use deltalake::kernel::Add;
use deltalake::logstore::LogStoreRef;
use indexmap::IndexMap;

use super::schema::{Rescued, TableColumns};
use crate::batch::bronze;
use crate::catalog::data_file::{Columns, Encoder, Indexed};
use crate::catalog::log::{Scalar as PartitionValue, date_value};
use crate::compute;

pub use crate::catalog::data_file::{DataFile, FileError};

const COLUMNS: Columns<'static> = Columns {
    distinct: &[bronze::SEQUENCE_NUMBER, bronze::OFFSET, bronze::EVENT_ID],
    ascending: &[bronze::SEQUENCE_NUMBER, bronze::ENQUEUED_AT],
    indexed: Indexed::All,
};

/// Rows that go into one file: all of one enqueued date.
#[derive(Debug, Default)]
pub struct Slice {
    pub batches: Vec<RecordBatch>,
    pub rows: usize,
}

/// Cuts batches by `_enqueued_date` (days since 1970; `None` where it is null).
///
/// # Errors
/// [`ArrowError`] when a batch has no such column.
pub fn by_date(batches: &[RecordBatch]) -> Result<BTreeMap<Option<i32>, Slice>, ArrowError> {
    let mut slices: BTreeMap<Option<i32>, Slice> = BTreeMap::new();
    for batch in batches.iter().filter(|batch| batch.num_rows() > 0) {
        let column = batch.column(batch.schema().index_of(bronze::ENQUEUED_DATE)?);
        let dates = column
            .as_primitive_opt::<Date32Type>()
            .ok_or_else(|| ArrowError::SchemaError(format!("column `{}` is not a date", bronze::ENQUEUED_DATE)))?;
        let distinct: std::collections::BTreeSet<Option<i32>> = dates.iter().collect();
        for date in &distinct {
            let rows = if distinct.len() == 1 {
                batch.clone()
            } else {
                let wanted = Scalar::new(Date32Array::from(vec![*date]));
                filter_record_batch(batch, &not_distinct(dates, &wanted)?)?
            };
            let slice = slices.entry(*date).or_default();
            slice.rows += rows.num_rows();
            slice.batches.push(rows);
        }
    }
    Ok(slices)
}

/// Files of rows, and what of these no column could hold.
#[derive(Debug, Clone)]
pub struct Written<F> {
    pub files: Vec<F>,
    pub rescued: Rescued,
}

impl<F> Default for Written<F> {
    fn default() -> Self {
        Self { files: Vec::new(), rescued: Rescued::new() }
    }
}

impl<F> Written<F> {
    pub fn extend(&mut self, other: Self) {
        self.files.extend(other.files);
        for (column, rows) in other.rescued {
            *self.rescued.entry(column).or_default() += rows;
        }
    }
}

/// Writes rows of one enqueued date as one file (or several, where it would get too large), encoded off
/// the reactor.
///
/// # Errors
/// [`FileError`]; what was stored by then stays for vacuum, since no log names it.
pub async fn write(
    store: &LogStoreRef,
    table: &TableColumns,
    partition_columns: &[String],
    date: Option<i32>,
    batches: Vec<RecordBatch>,
) -> Result<Written<Add>, FileError> {
    let (table, partitions) = (table.clone(), partition_columns.to_vec());
    encode_and_store(store, move || FileEncoder::new(&table, &partitions, date), batches).await
}

/// As [`write()`], of a table without partitions; the log tells values of these columns alone.
///
/// # Errors
/// As [`write()`]
pub async fn write_indexed(
    store: &LogStoreRef,
    table: &TableColumns,
    indexed: &'static [&'static str],
    batches: Vec<RecordBatch>,
) -> Result<Written<Add>, FileError> {
    let table = table.clone();
    let columns = Columns { indexed: Indexed::Named(indexed), ..COLUMNS };
    encode_and_store(store, move || FileEncoder::with(&table, &[], columns, IndexMap::new()), batches).await
}

async fn encode_and_store(
    store: &LogStoreRef,
    encoder: impl FnOnce() -> Result<FileEncoder, FileError> + Send + 'static,
    batches: Vec<RecordBatch>,
) -> Result<Written<Add>, FileError> {
    let encoding = compute::spawn_async(async move {
        let mut encoder = encoder()?;
        for batch in &batches {
            encoder.write(batch).await?;
        }
        encoder.close().await
    });
    let Written { files: encoded, rescued } = encoding.await.map_err(FileError::Task)??;
    let mut files = Vec::new();
    for file in encoded {
        files.push(file.store(store).await?);
    }
    Ok(Written { files, rescued })
}

/// Encodes rows of one enqueued date, in their order, as one file (or several, where it would get too
/// large).
///
/// CPU work; no I/O.
pub struct FileEncoder {
    table: TableColumns,
    rescued: Rescued,
    encoder: Encoder,
    /// The folder of the date, where the table is partitioned.
    values: IndexMap<String, PartitionValue>,
}

impl FileEncoder {
    /// # Errors
    /// [`FileError::Encode`].
    pub fn new(table: &TableColumns, partition_columns: &[String], date: Option<i32>) -> Result<Self, FileError> {
        let values = partition_columns.iter().map(|column| (column.clone(), date_value(date))).collect();
        Self::with(table, partition_columns, COLUMNS, values)
    }

    fn with(
        table: &TableColumns,
        partition_columns: &[String],
        columns: Columns<'_>,
        values: IndexMap<String, PartitionValue>,
    ) -> Result<Self, FileError> {
        let encoder = Encoder::new(&table.schema, partition_columns, columns)?;
        Ok(Self { table: table.clone(), rescued: Rescued::new(), encoder, values })
    }

    /// # Errors
    /// [`FileError::Encode`].
    pub async fn write(&mut self, batch: &RecordBatch) -> Result<(), FileError> {
        let aligned = self.table.align(batch, &mut self.rescued).map_err(FileError::rows)?;
        if self.values.is_empty() {
            self.encoder.write(&aligned).await
        } else {
            self.encoder.write_partition(aligned, &self.values).await
        }
    }

    /// # Errors
    /// [`FileError::Encode`].
    pub async fn close(self) -> Result<Written<DataFile>, FileError> {
        Ok(Written { files: self.encoder.close().await?, rescued: self.rescued })
    }
}
