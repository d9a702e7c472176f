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
use deltalake::DeltaTableError;
use deltalake::datafile::writer::{DeltaWriter, WriterConfig};
use deltalake::kernel::Add;
use deltalake::logstore::LogStoreRef;
use deltalake::parquet::basic::{Compression, ZstdLevel};
use deltalake::parquet::file::properties::{EnabledStatistics, WriterProperties};
use deltalake::parquet::schema::types::ColumnPath;
use indexmap::IndexMap;

use super::schema::align;
use crate::batch::bronze;
use crate::catalog::log::{DataSkippingNumIndexedCols, Scalar as PartitionValue, date_value};

/// Columns whose values hardly ever repeat within a file. A dictionary of them costs a hash a value and is
/// given up halfway anyway.
const DISTINCT: [&str; 3] = [bronze::SEQUENCE_NUMBER, bronze::OFFSET, bronze::EVENT_ID];

/// Columns that ascend, so that the statistics of their pages let readers skip pages. For all others those
/// of whole chunks, which Delta's own are made of, say as much and cost less.
const ASCENDING: [&str; 2] = [bronze::SEQUENCE_NUMBER, bronze::ENQUEUED_AT];

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

/// Writes one file of a table (or several, where a file would get too large).
///
/// # Errors
/// [`DeltaTableError`] from storage, or when a batch doesn't fit the schema.
pub async fn write(
    store: &LogStoreRef,
    table: &SchemaRef,
    partition_columns: &[String],
    date: Option<i32>,
    batches: &[RecordBatch],
) -> Result<Vec<Add>, DeltaTableError> {
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(1)?))
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_created_by(concat!("sluicebox ", env!("CARGO_PKG_VERSION")).to_owned());
    let properties = DISTINCT
        .into_iter()
        .fold(properties, |held, column| held.set_column_dictionary_enabled(ColumnPath::from(column), false));
    let properties = ASCENDING
        .into_iter()
        .fold(properties, |held, column| {
            held.set_column_statistics_enabled(ColumnPath::from(column), EnabledStatistics::Page)
        })
        .build();
    let config = WriterConfig::new(
        Arc::clone(table),
        partition_columns.to_vec(),
        Some(properties),
        None,
        None,
        DataSkippingNumIndexedCols::AllColumns,
        None,
    );
    let mut writer = DeltaWriter::new(store.object_store(None), config);
    let values: IndexMap<String, PartitionValue> =
        partition_columns.iter().map(|column| (column.clone(), date_value(date))).collect();
    for batch in batches {
        let aligned = align(batch, table)?;
        let written = if partition_columns.is_empty() {
            writer.write(&aligned).await
        } else {
            writer.write_partition(aligned, &values).await
        };
        if let Err(error) = written {
            if let Err(abort) = writer.abort().await {
                tracing::warn!(error = %abort, "an upload that failed could not be aborted");
            }
            return Err(error);
        }
    }
    writer.close().await
}
