//! Decoded events on their way to a commit, and their rows as data files ahead of it.
//!
//! ```text
//! Staged { batches } ─▶ Encoder ─▶ Staged { encoded } ─▶ flush: the files go into the commit as they are
//!                                                           └─ a rival has some of the rows: back to batches
//! ```
//!
//! Parquet takes an eighth of what the rows take in memory, and the cores that read and decode can't
//! help a flush: so what makes a file of its own is encoded while the rest still comes in.

use std::borrow::BorrowMut;
use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, Date32Array, RecordBatch};
use arrow::datatypes::{Schema, SchemaRef};
use arrow::error::ArrowError;
use deltalake::parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::files::{self, DataFile, FileError};
use super::schema;
use crate::batch::{Reject, bronze};
use crate::checkpoint::{PartitionKey, Range};

/// Decoded events of one partition, not yet committed.
#[derive(Debug)]
pub struct Staged {
    pub partition: PartitionKey,
    /// What they account for; wider than the events where a source has holes.
    pub range: Range,
    /// (number, enqueued ms) of every event, ascending.
    pub events: Vec<(i64, i64)>,
    /// Empty when the rows are encoded.
    pub batches: Vec<RecordBatch>,
    pub encoded: Option<EncodedRows>,
    pub rejects: Vec<Reject>,
}

impl Staged {
    /// What it holds in memory.
    pub fn memory_bytes(&self) -> usize {
        let rows: usize = self.batches.iter().map(RecordBatch::get_array_memory_size).sum();
        let encoded = self.encoded.as_ref().map_or(0, |rows| rows.bytes);
        let rejects: usize = self.rejects.iter().map(|reject| reject.event.memory_bytes() + reject.text.len()).sum();
        rows + encoded + rejects + self.events.len() * size_of::<(i64, i64)>()
    }

    pub fn has_rows(&self) -> bool {
        !self.batches.is_empty() || self.encoded.is_some()
    }
}

/// The rows of one part within the files that it shares with others.
#[derive(Debug, Clone)]
pub struct EncodedRows {
    pub(super) chunk: Arc<Chunk>,
    /// Which of the chunk's parts it is.
    pub(super) part: usize,
    /// Its share of the files.
    bytes: usize,
}

/// Parts that were encoded together.
#[derive(Debug)]
pub(super) struct Chunk {
    pub(super) parts: usize,
    pub(super) rows: usize,
    pub(super) files: BTreeMap<Option<i32>, DatedFiles>,
    schema: SchemaRef,
}

/// The files of one enqueued date, in the order in which their rows were given.
#[derive(Debug)]
pub(super) struct DatedFiles {
    pub(super) files: Vec<DataFile>,
    /// (part, rows), in the order of the rows.
    spans: Vec<(usize, usize)>,
}

impl Chunk {
    /// Whether its files are what a table of these columns would have them.
    pub(super) fn fits(&self, table: &SchemaRef) -> bool {
        Arc::ptr_eq(&self.schema, table) || self.schema == *table
    }

    /// The rows again, part by part. CPU work.
    pub(super) fn batches(&self) -> Result<Vec<Vec<RecordBatch>>, ArrowError> {
        let mut parts = vec![Vec::new(); self.parts];
        for (date, dated) in &self.files {
            let mut spans = dated.spans.iter().copied();
            let (mut part, mut left) = spans.next().unwrap_or_default();
            for file in &dated.files {
                for batch in ParquetRecordBatchReaderBuilder::try_new(file.bytes.clone())?.build()? {
                    let batch = self.with_date(&batch?, *date)?;
                    let mut at = 0;
                    while at < batch.num_rows() {
                        if left == 0 {
                            (part, left) = spans.next().ok_or_else(|| surplus(*date))?;
                            continue;
                        }
                        let rows = left.min(batch.num_rows() - at);
                        parts[part].push(batch.slice(at, rows));
                        (at, left) = (at + rows, left - rows);
                    }
                }
            }
        }
        Ok(parts)
    }

    /// The column that the files don't hold, since they lie in a folder of its value.
    fn with_date(&self, batch: &RecordBatch, date: Option<i32>) -> Result<RecordBatch, ArrowError> {
        if batch.schema().index_of(bronze::ENQUEUED_DATE).is_ok() {
            return Ok(batch.clone());
        }
        let field = self.schema.field_with_name(bronze::ENQUEUED_DATE)?.clone();
        let dates: ArrayRef = Arc::new(Date32Array::from(vec![date; batch.num_rows()]));
        let mut fields: Vec<_> = batch.schema().fields().iter().cloned().collect();
        fields.push(Arc::new(field));
        let columns = batch.columns().iter().cloned().chain([dates]).collect();
        RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)
    }
}

fn surplus(date: Option<i32>) -> ArrowError {
    ArrowError::ParquetError(format!("a file of day {date:?} holds more rows than were written"))
}

/// Encodes parts ahead of their flush, for the table as its writer last saw it.
#[derive(Debug, Clone)]
pub struct Encoder {
    pub(super) schema: SchemaRef,
    pub(super) partition_columns: Vec<String>,
}

impl Encoder {
    /// Encodes the rows of `parts` together, into a file for each enqueued date; nothing is stored yet.
    ///
    /// Parts whose columns the table doesn't have yet stay as they are: the flush adds columns first.
    ///
    /// CPU work of about a microsecond a row, without I/O.
    ///
    /// # Errors
    /// [`FileError::Encode`]; the parts stay as they are.
    pub async fn encode<S: BorrowMut<Staged>>(&self, parts: &mut [S]) -> Result<(), FileError> {
        let brings_columns =
            |part: &Staged| part.batches.iter().any(|batch| schema::union(&self.schema, &batch.schema()).is_some());
        if parts.iter().any(|part| brings_columns(part.borrow())) {
            return Ok(());
        }
        let mut dates: BTreeMap<Option<i32>, (Vec<RecordBatch>, Vec<(usize, usize)>)> = BTreeMap::new();
        for (part, staged) in parts.iter().enumerate() {
            let staged: &Staged = staged.borrow();
            for (date, slice) in files::by_date(&staged.batches).map_err(FileError::rows)? {
                let (batches, spans) = dates.entry(date).or_default();
                spans.push((part, slice.rows));
                batches.extend(slice.batches);
            }
        }
        let mut chunk = Chunk { parts: parts.len(), rows: 0, files: BTreeMap::new(), schema: self.schema.clone() };
        let mut bytes = 0;
        let mut rows_of = vec![0; parts.len()];
        for (date, (batches, spans)) in dates {
            let files = files::encode(&self.schema, &self.partition_columns, date, &batches).await?;
            bytes += files.iter().map(|file| file.bytes.len()).sum::<usize>();
            for (part, rows) in &spans {
                rows_of[*part] += rows;
                chunk.rows += rows;
            }
            chunk.files.insert(date, DatedFiles { files, spans });
        }
        let bytes_per_row = bytes.div_ceil(chunk.rows.max(1));
        let chunk = Arc::new(chunk);
        for (part, (staged, rows)) in parts.iter_mut().zip(rows_of).enumerate() {
            let staged: &mut Staged = staged.borrow_mut();
            staged.batches = Vec::new();
            staged.encoded = Some(EncodedRows { chunk: Arc::clone(&chunk), part, bytes: rows * bytes_per_row });
        }
        Ok(())
    }
}
