//! Data files of a flush: Parquet, zstd 1, with statistics, one for each enqueued date.
//!
//! A flush is split by date once, which nearly always gives one file; files mix the source's
//! partitions. Nothing of them can be seen until a commit names them.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{AsArray, Date32Array, RecordBatch, Scalar};
use arrow::compute::filter_record_batch;
use arrow::compute::kernels::cmp::not_distinct;
use arrow::datatypes::Date32Type;
use arrow::error::ArrowError;
use bytes::Bytes;
use deltalake::DeltaTableError;
use deltalake::datafile::writer::{DeltaWriter, WriterConfig};
use deltalake::kernel::Add;
use deltalake::logstore::LogStoreRef;
use deltalake::parquet::basic::{Compression, ZstdLevel};
use deltalake::parquet::file::properties::{EnabledStatistics, WriterProperties};
use deltalake::parquet::schema::types::ColumnPath;
use indexmap::IndexMap;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _, WriteMultipart};
use uuid::Uuid;

use super::schema::{Rescued, TableColumns};
use crate::batch::bronze;
use crate::catalog::log::{DataSkippingNumIndexedCols, Scalar as PartitionValue, date_value};
use crate::compute;

/// Columns whose values hardly ever repeat within a file. A dictionary of them costs a hash a value and is
/// given up halfway anyway.
const DISTINCT: [&str; 3] = [bronze::SEQUENCE_NUMBER, bronze::OFFSET, bronze::EVENT_ID];

/// Columns that ascend, so that the statistics of their pages let readers skip pages. For all others those
/// of whole chunks, which Delta's own are made of, say as much and cost less.
const ASCENDING: [&str; 2] = [bronze::SEQUENCE_NUMBER, bronze::ENQUEUED_AT];

/// Files above this are stored in parts of this size. A part that fails is sent again by itself; smaller
/// ones cost more requests.
const PART_BYTES: usize = 16 << 20;

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

/// Why a file isn't there.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error("rows can't be encoded as Parquet")]
    Encode(#[source] Box<DeltaTableError>),
    #[error("encoding ended too early")]
    Task(#[source] tokio::task::JoinError),
    #[error("data file `{path}` can't be stored")]
    Store {
        path: Path,
        #[source]
        source: object_store::Error,
    },
}

impl FileError {
    pub(super) fn rows(source: ArrowError) -> Self {
        DeltaTableError::from(source).into()
    }
}

impl From<DeltaTableError> for FileError {
    fn from(error: DeltaTableError) -> Self {
        Self::Encode(Box::new(error))
    }
}

/// A whole data file that no store has yet.
#[derive(Debug, Clone)]
pub struct DataFile {
    /// Names a path of its own; each time that the file is stored it gets another.
    add: Add,
    pub bytes: Bytes,
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
    let (table, columns) = (table.clone(), partition_columns.to_vec());
    let encoding = compute::spawn_async(async move {
        let mut encoder = FileEncoder::new(&table, &columns, date)?;
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

impl DataFile {
    /// Stores it under a name that was never used, so that a file which a commit names already is
    /// never touched.
    ///
    /// # Errors
    /// [`FileError::Store`]; what was stored by then stays for vacuum.
    pub async fn store(&self, store: &LogStoreRef) -> Result<Add, FileError> {
        let folder = self.add.path.rsplit_once('/').map(|(folder, _)| format!("{folder}/")).unwrap_or_default();
        let mut add = self.add.clone();
        add.path = format!("{folder}part-00000-{}-c000.zstd.parquet", Uuid::new_v4());
        let path = Path::from_url_path(&add.path).map_err(|source| stored(&Path::default(), source.into()))?;
        let to = store.object_store(None);
        upload(to.as_ref(), &path, self.bytes.clone()).await.map_err(|source| stored(&path, source))?;
        Ok(add)
    }
}

fn stored(path: &Path, source: object_store::Error) -> FileError {
    FileError::Store { path: path.clone(), source }
}

async fn upload(to: &dyn ObjectStore, path: &Path, bytes: Bytes) -> object_store::Result<()> {
    if bytes.len() <= PART_BYTES {
        return to.put(path, bytes.into()).await.map(drop);
    }
    let mut upload = WriteMultipart::new_with_chunk_size(to.put_multipart(path).await?, PART_BYTES);
    upload.put(bytes);
    // It aborts by itself where a part fails.
    upload.finish().await.map(drop)
}

/// Encodes rows of one enqueued date, in their order, as one file (or several, where it would get too
/// large).
///
/// It is encoded in memory and then stored as it is: delta-rs's own upload panics when the store
/// refuses the end of a file. CPU work; no I/O.
pub struct FileEncoder {
    table: TableColumns,
    rescued: Rescued,
    store: Arc<InMemory>,
    writer: DeltaWriter,
    /// The folder of the date, where the table is partitioned.
    values: IndexMap<String, PartitionValue>,
}

impl FileEncoder {
    /// # Errors
    /// [`FileError::Encode`].
    pub fn new(table: &TableColumns, partition_columns: &[String], date: Option<i32>) -> Result<Self, FileError> {
        let store = Arc::new(InMemory::new());
        let config = WriterConfig::new(
            Arc::clone(&table.schema),
            partition_columns.to_vec(),
            Some(properties()?),
            None,
            None,
            DataSkippingNumIndexedCols::AllColumns,
            None,
        );
        let values = partition_columns.iter().map(|column| (column.clone(), date_value(date))).collect();
        let writer = DeltaWriter::new(Arc::clone(&store) as Arc<dyn ObjectStore>, config);
        Ok(Self { table: table.clone(), rescued: Rescued::new(), store, writer, values })
    }

    /// # Errors
    /// [`FileError::Encode`].
    pub async fn write(&mut self, batch: &RecordBatch) -> Result<(), FileError> {
        let aligned = self.table.align(batch, &mut self.rescued).map_err(FileError::rows)?;
        if self.values.is_empty() {
            self.writer.write(&aligned).await?;
        } else {
            self.writer.write_partition(aligned, &self.values).await?;
        }
        Ok(())
    }

    /// # Errors
    /// [`FileError::Encode`].
    pub async fn close(self) -> Result<Written<DataFile>, FileError> {
        let mut files = Vec::new();
        for add in self.writer.close().await? {
            let path = Path::from_url_path(&add.path).map_err(|source| stored(&Path::default(), source.into()))?;
            let held = self.store.get(&path).await.map_err(|source| stored(&path, source))?;
            let bytes = held.bytes().await.map_err(|source| stored(&path, source))?;
            files.push(DataFile { add, bytes });
        }
        Ok(Written { files, rescued: self.rescued })
    }
}

fn properties() -> Result<WriterProperties, FileError> {
    let level = ZstdLevel::try_new(1).map_err(DeltaTableError::from)?;
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(level))
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_created_by(concat!("sluicebox ", env!("CARGO_PKG_VERSION")).to_owned());
    let properties = DISTINCT
        .into_iter()
        .fold(properties, |held, column| held.set_column_dictionary_enabled(ColumnPath::from(column), false));
    let properties = ASCENDING.into_iter().fold(properties, |held, column| {
        held.set_column_statistics_enabled(ColumnPath::from(column), EnabledStatistics::Page)
    });
    Ok(properties.build())
}
