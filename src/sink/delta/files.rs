//! Data files of a flush: Parquet, zstd 1, with statistics, one for each enqueued date.
//!
//! A flush is split by date once, which nearly always gives one file; files mix the source's
//! partitions. Nothing of them can be seen until a commit names them.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{AsArray, Date32Array, RecordBatch, Scalar};
use arrow::compute::filter_record_batch;
use arrow::compute::kernels::cmp::not_distinct;
use arrow::datatypes::{Date32Type, SchemaRef};
use arrow::error::ArrowError;
use deltalake::kernel::Add;
use deltalake::logstore::LogStoreRef;
use indexmap::IndexMap;

use super::schema::align;
use crate::batch::bronze;
use crate::catalog::data_file::{Columns, Encoder};
use crate::catalog::log::{Scalar as PartitionValue, date_value};
use crate::compute;

pub use crate::catalog::data_file::{DataFile, FileError};

const COLUMNS: Columns<'static> = Columns {
    distinct: &[bronze::SEQUENCE_NUMBER, bronze::OFFSET, bronze::EVENT_ID],
    ascending: &[bronze::SEQUENCE_NUMBER, bronze::ENQUEUED_AT],
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

/// Writes rows of one enqueued date as one file (or several, where it would get too large), encoded off
/// the reactor.
///
/// # Errors
/// [`FileError`]; what was stored by then stays for vacuum, since no log names it.
pub async fn write(
    store: &LogStoreRef,
    table: &SchemaRef,
    partition_columns: &[String],
    date: Option<i32>,
    batches: Vec<RecordBatch>,
) -> Result<Vec<Add>, FileError> {
    let (table, columns) = (Arc::clone(table), partition_columns.to_vec());
    let encoding = compute::spawn_async(async move {
        let mut encoder = FileEncoder::new(&table, &columns, date)?;
        for batch in &batches {
            encoder.write(batch).await?;
        }
        encoder.close().await
    });
    let mut adds = Vec::new();
    for file in encoding.await.map_err(FileError::Task)?? {
        adds.push(file.store(store).await?);
    }
    Ok(adds)
}

/// Encodes rows of one enqueued date, in their order, as one file (or several, where it would get too
/// large).
///
/// CPU work; no I/O.
pub struct FileEncoder {
    table: SchemaRef,
    encoder: Encoder,
    /// The folder of the date, where the table is partitioned.
    values: IndexMap<String, PartitionValue>,
}

impl FileEncoder {
    /// # Errors
    /// [`FileError::Encode`].
    pub fn new(table: &SchemaRef, partition_columns: &[String], date: Option<i32>) -> Result<Self, FileError> {
        let values = partition_columns.iter().map(|column| (column.clone(), date_value(date))).collect();
        Ok(Self { table: Arc::clone(table), encoder: Encoder::new(table, partition_columns, COLUMNS)?, values })
    }

    /// # Errors
    /// [`FileError::Encode`].
    pub async fn write(&mut self, batch: &RecordBatch) -> Result<(), FileError> {
        let aligned = align(batch, &self.table).map_err(FileError::rows)?;
        if self.values.is_empty() {
            self.encoder.write(&aligned).await
        } else {
            self.encoder.write_partition(aligned, &self.values).await
        }
    }

    /// # Errors
    /// [`FileError::Encode`].
    pub async fn close(self) -> Result<Vec<DataFile>, FileError> {
        self.encoder.close().await
    }
}
