//! Decoded events on their way to a commit, and their rows as data files ahead of it.
//!
//! ```text
//! Staged { batches } ─▶ OpenChunk ─▶ Staged { encoded } ─▶ flush: the files go into the commit as they are
//!                                                             └─ a rival has some of the rows: back to batches
//! ```
//!
//! Parquet takes an eighth of what the rows take in memory, and the cores that read and decode can't
//! help a flush: so what makes a file of its own is encoded while the rest still comes in.

use std::borrow::BorrowMut;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

use arrow::array::{ArrayRef, Date32Array, RecordBatch};
use arrow::datatypes::{Schema, SchemaRef};
use arrow::error::ArrowError;
use deltalake::parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::files::{self, DataFile, FileEncoder, FileError};
use super::schema::{Rescued, TableColumns};
use crate::batch::{Reject, bronze};
use crate::checkpoint::{PartitionKey, Range, Run};

/// Decoded events of one partition, not yet committed.
#[derive(Debug)]
pub struct Staged {
    pub partition: PartitionKey,
    /// What they account for; wider than the events where a source has holes.
    pub range: Range,
    /// (number, enqueued ms) of every event that is the table's, ascending.
    pub events: Vec<(i64, i64)>,
    /// The other events of the range, which a rule keeps from this table: runs of numbers without a hole, ascending.
    pub elsewhere: Vec<Run>,
    /// Empty when the rows are encoded.
    pub batches: Vec<RecordBatch>,
    pub encoded: Option<EncodedRows>,
    pub rejects: Vec<Reject>,
}

impl Staged {
    /// What its rows hold in memory, as long as they aren't encoded.
    pub fn row_bytes(&self) -> usize {
        self.batches.iter().map(RecordBatch::get_array_memory_size).sum()
    }

    /// What its rows take in files that aren't stored yet.
    pub fn encoded_bytes(&self) -> usize {
        self.encoded.as_ref().map_or(0, |rows| rows.bytes)
    }

    /// What it holds in memory.
    pub fn memory_bytes(&self) -> usize {
        let rejects: usize = self.rejects.iter().map(|reject| reject.event.memory_bytes() + reject.text.len()).sum();
        let numbers = self.events.len() * size_of::<(i64, i64)>() + self.elsewhere.len() * size_of::<Run>();
        self.row_bytes() + self.encoded_bytes() + rejects + numbers
    }

    /// How many events it accounts for, the table's and others.
    pub fn received(&self) -> u64 {
        self.events.len() as u64 + self.elsewhere.iter().map(|run| run.range.len()).sum::<u64>()
    }

    /// When the last of them was enqueued, epoch ms.
    pub fn last_enqueued_at(&self) -> Option<i64> {
        let own = self.events.last().copied();
        let other = self.elsewhere.last().map(|run| (run.range.to - 1, run.last_enqueued_at));
        own.max(other).map(|(_, enqueued_at)| enqueued_at)
    }

    /// Whether none of its events is the table's.
    pub fn is_elsewhere(&self) -> bool {
        self.events.is_empty() && self.rejects.is_empty() && !self.has_rows()
    }

    /// Whether `next` begins where it ends, and neither is encoded.
    pub fn is_followed_by(&self, next: &Self) -> bool {
        let are_rows = self.encoded.is_none() && next.encoded.is_none();
        are_rows && self.range.to == next.range.from && self.partition == next.partition
    }

    /// Takes in what follows it.
    pub fn join(&mut self, next: Self) {
        self.range.to = next.range.to;
        self.events.extend(next.events);
        self.batches.extend(next.batches);
        self.rejects.extend(next.rejects);
        for run in next.elsewhere {
            match self.elsewhere.last_mut().filter(|last| last.range.to == run.range.from) {
                Some(last) => *last = Run { range: Range::new(last.range.from, run.range.to), ..run },
                None => self.elsewhere.push(run),
            }
        }
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
    /// Of its rows, by column, those of which a value was rescued.
    pub(super) rescued: Rescued,
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

/// Dates that a chunk may have open: each holds the buffers of a file in the making. More than these is a
/// history of many days, whose files aren't small for it.
const OPEN_DATES_MAX: usize = 4;

/// What encoding needs to know of a table, as its writer last saw it.
#[derive(Debug, Clone)]
pub struct Encoder {
    pub(super) columns: TableColumns,
    pub(super) partition_columns: Vec<String>,
}

impl Encoder {
    /// Whether the table has all columns of these rows, or isn't to get more. If not, they wait for the flush,
    /// which adds columns first, or refuses them.
    pub fn fits(&self, part: &Staged) -> bool {
        let waits = |batch: &RecordBatch| {
            self.columns.grow_by(batch.schema_ref()) || !matches!(self.columns.misfit(batch), Ok(None))
        };
        !part.batches.iter().any(waits)
    }
}

/// Files in the making, of the parts whose rows went into them: one for each enqueued date.
///
/// CPU work of about a microsecond a row, without I/O.
pub struct OpenChunk<S> {
    encoder: Encoder,
    parts: Vec<S>,
    rows: Vec<usize>,
    row_bytes: usize,
    dates: BTreeMap<Option<i32>, OpenFile>,
}

struct OpenFile {
    encoder: FileEncoder,
    spans: Vec<(usize, usize)>,
}

impl<S: BorrowMut<Staged>> OpenChunk<S> {
    pub fn new(encoder: Encoder) -> Self {
        Self { encoder, parts: Vec::new(), rows: Vec::new(), row_bytes: 0, dates: BTreeMap::new() }
    }

    /// What the rows took in memory before they went in.
    pub fn row_bytes(&self) -> usize {
        self.row_bytes
    }

    /// Whether it is better closed before more goes into it.
    pub fn is_full(&self) -> bool {
        self.dates.len() > OPEN_DATES_MAX
    }

    pub fn fits(&self, part: &S) -> bool {
        self.encoder.fits(part.borrow())
    }

    /// Takes in a part that fits; its rows go from it into the files.
    ///
    /// # Errors
    /// [`FileError::Encode`]: the rows contradict their own types. What was taken in is worth nothing then.
    pub async fn push(&mut self, mut part: S) -> Result<(), FileError> {
        let staged: &mut Staged = part.borrow_mut();
        let number = self.parts.len();
        self.row_bytes += staged.row_bytes();
        let mut rows = 0;
        for (date, slice) in files::by_date(&std::mem::take(&mut staged.batches)).map_err(FileError::rows)? {
            let file = match self.dates.entry(date) {
                Entry::Occupied(open) => open.into_mut(),
                Entry::Vacant(missing) => {
                    let Encoder { columns, partition_columns } = &self.encoder;
                    let encoder = FileEncoder::new(columns, partition_columns, date)?;
                    missing.insert(OpenFile { encoder, spans: Vec::new() })
                }
            };
            for batch in &slice.batches {
                file.encoder.write(batch).await?;
            }
            file.spans.push((number, slice.rows));
            rows += slice.rows;
        }
        self.parts.push(part);
        self.rows.push(rows);
        Ok(())
    }

    /// Ends the files; gives all parts that went in, each with its share of them.
    ///
    /// # Errors
    /// [`FileError::Encode`].
    pub async fn close(self) -> Result<Vec<S>, FileError> {
        let Self { encoder, mut parts, rows, dates, .. } = self;
        let mut files = BTreeMap::new();
        let mut rescued = Rescued::new();
        let mut bytes = 0;
        for (date, OpenFile { encoder, spans }) in dates {
            let written = encoder.close().await?;
            bytes += written.files.iter().map(|file| file.bytes.len()).sum::<usize>();
            for (column, rows) in written.rescued {
                *rescued.entry(column).or_default() += rows;
            }
            files.insert(date, DatedFiles { files: written.files, spans });
        }
        let all_rows = rows.iter().sum();
        let schema = encoder.columns.schema;
        let chunk = Arc::new(Chunk { parts: parts.len(), rows: all_rows, files, rescued, schema });
        for (part, (staged, rows)) in parts.iter_mut().zip(rows).enumerate() {
            let bytes = bytes.div_ceil(all_rows.max(1)) * rows;
            staged.borrow_mut().encoded = Some(EncodedRows { chunk: Arc::clone(&chunk), part, bytes });
        }
        Ok(parts)
    }
}
