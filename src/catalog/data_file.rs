//! Data files of a table: Parquet, zstd 1, with statistics.
//!
//! A file is encoded in memory and then stored as it is: delta-rs's own upload panics when the
//! store refuses the end of a file. Nothing of it can be seen until a commit names it.

use std::sync::Arc;

use arrow::array::{AsArray as _, RecordBatch, StringArray};
use arrow::datatypes::SchemaRef;
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

use super::change_data;
use super::log::{DataSkippingNumIndexedCols, Scalar as PartitionValue};

/// Rows of a row group. Its pages are held until it ends, and the file is put together from whole ones: large
/// ones are held twice. This is what DuckDB writes; readers work on row groups side by side.
pub const ROW_GROUP_ROWS: usize = 128 << 10;

/// And bytes of one, as far as they are encoded: rows of a megabyte each would make such a group of any size.
const ROW_GROUP_BYTES: usize = 32 << 20;

/// Files above this are stored in parts of this size. A part that fails is sent again by itself; smaller
/// ones cost more requests.
const PART_BYTES: usize = 16 << 20;

/// Rows in memory after which files are closed and stored: what a writer holds at most, encoded.
/// Smaller makes small files of a large table; larger holds more at a time.
const HELD_BYTES: usize = 256 << 20;

/// Up to so many files a table whose rows give way to others has them of one row group each; then they grow. Who
/// changes a row writes its whole file again, so smaller ones cost less; each costs its place in the log, so
/// many cost every reader.
const MANY_FILES: usize = 1_000;

/// How many rows a file is to have in a table whose rows give way to others by their keys, and which has so many
/// files by now: files and their sizes both grow as the root of the table does.
pub fn rows_of_keyed_file(files: usize) -> u64 {
    (ROW_GROUP_ROWS * files.div_ceil(MANY_FILES).max(1)) as u64
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
    pub fn rows(source: arrow::error::ArrowError) -> Self {
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

impl DataFile {
    /// Stores it under a name that was never used, so that a file which a commit names already is
    /// never touched.
    ///
    /// # Errors
    /// [`FileError::Store`]; what was stored by then stays for vacuum.
    pub async fn store(&self, store: &LogStoreRef) -> Result<Add, FileError> {
        self.store_in(store, self.folder()).await
    }

    /// As [`Self::store`], below a folder of the table's, whose name has a slash at its end.
    async fn store_below(&self, below: &str, store: &LogStoreRef) -> Result<Add, FileError> {
        self.store_in(store, format!("{below}{}", self.folder()).trim_end_matches('/')).await
    }

    /// That of its partition.
    fn folder(&self) -> &str {
        self.add.path.rsplit_once('/').map(|(folder, _)| folder).unwrap_or_default()
    }

    /// As [`Self::store`], in a folder of the table.
    ///
    /// # Errors
    /// As [`Self::store`]
    pub async fn store_in(&self, store: &LogStoreRef, folder: &str) -> Result<Add, FileError> {
        let slash = if folder.is_empty() { "" } else { "/" };
        let mut add = self.add.clone();
        add.path = format!("{folder}{slash}part-00000-{}-c000.zstd.parquet", Uuid::new_v4());
        let path = Path::parse(&add.path).map_err(|source| stored(&Path::default(), source.into()))?;
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

/// What a writer does with single columns.
#[derive(Debug, Clone, Copy, Default)]
pub struct Columns<'a> {
    /// Columns whose values hardly ever repeat within a file. A dictionary of them costs a hash a value and is
    /// given up halfway anyway.
    pub distinct: &'a [&'a str],
    /// Columns that ascend, so that the statistics of their pages let readers skip pages. For all others those
    /// of whole chunks, which Delta's own are made of, say as much and cost less.
    pub ascending: &'a [&'a str],
    pub indexed: Indexed<'a>,
}

/// The columns whose least and greatest values the log tells of each file. They stand there for as long as the log
/// does, which may be longer than the file.
#[derive(Debug, Clone, Copy, Default)]
pub enum Indexed<'a> {
    #[default]
    All,
    /// As a table's properties say it.
    First(DataSkippingNumIndexedCols),
    Named(&'a [&'a str]),
}

/// Encodes rows, in their order, as one file a partition (or several, where one would get too large).
///
/// CPU work; no I/O.
pub struct Encoder {
    store: Arc<InMemory>,
    writer: DeltaWriter,
}

impl Encoder {
    /// # Errors
    /// [`FileError::Encode`].
    pub fn new(table: &SchemaRef, partition_columns: &[String], columns: Columns<'_>) -> Result<Self, FileError> {
        let store = Arc::new(InMemory::new());
        let (first, named) = match columns.indexed {
            Indexed::All => (DataSkippingNumIndexedCols::AllColumns, None),
            Indexed::First(first) => (first, None),
            Indexed::Named(named) => {
                let named = named.iter().map(|name| (*name).to_owned()).collect();
                (DataSkippingNumIndexedCols::AllColumns, Some(named))
            }
        };
        let properties = Some(properties(columns)?);
        let partitions = partition_columns.to_vec();
        let config = WriterConfig::new(Arc::clone(table), partitions, properties, None, None, first, named);
        let writer = DeltaWriter::new(Arc::clone(&store) as Arc<dyn ObjectStore>, config);
        Ok(Self { store, writer })
    }

    /// Rows of any partitions.
    ///
    /// # Errors
    /// [`FileError::Encode`].
    pub async fn write(&mut self, batch: &RecordBatch) -> Result<(), FileError> {
        Ok(self.writer.write(batch).await?)
    }

    /// Rows of one partition.
    ///
    /// # Errors
    /// [`FileError::Encode`].
    pub async fn write_partition(
        &mut self,
        batch: RecordBatch,
        values: &IndexMap<String, PartitionValue>,
    ) -> Result<(), FileError> {
        Ok(self.writer.write_partition(batch, values).await?)
    }

    /// # Errors
    /// [`FileError::Encode`].
    pub async fn close(self) -> Result<Vec<DataFile>, FileError> {
        let mut files = Vec::new();
        for add in self.writer.close().await? {
            let path = Path::parse(&add.path).map_err(|source| stored(&Path::default(), source.into()))?;
            let held = self.store.get(&path).await.map_err(|source| stored(&path, source))?;
            let bytes = held.bytes().await.map_err(|source| stored(&path, source))?;
            files.push(DataFile { add, bytes });
        }
        Ok(files)
    }
}

fn properties(columns: Columns<'_>) -> Result<WriterProperties, FileError> {
    let level = ZstdLevel::try_new(1).map_err(DeltaTableError::from)?;
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(level))
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
        .set_max_row_group_bytes(Some(ROW_GROUP_BYTES))
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_created_by(concat!("sluicebox ", env!("CARGO_PKG_VERSION")).to_owned());
    let properties = columns
        .distinct
        .iter()
        .fold(properties, |held, column| held.set_column_dictionary_enabled(ColumnPath::from(*column), false));
    let properties = columns.ascending.iter().fold(properties, |held, column| {
        held.set_column_statistics_enabled(ColumnPath::from(*column), EnabledStatistics::Page)
    });
    Ok(properties.build())
}

/// Writes any number of rows into files of a table, within a bound of memory.
pub struct FilesWriter {
    store: LogStoreRef,
    table: SchemaRef,
    partition_columns: Vec<String>,
    rows_a_file: u64,
    encoder: Option<Encoder>,
    held_bytes: usize,
    held_rows: u64,
    rows: u64,
    stored: Vec<Add>,
    /// The folder that the files lie in, with a slash at its end; empty for the table's own.
    below: String,
}

impl FilesWriter {
    pub fn new(store: &LogStoreRef, table: &SchemaRef, partition_columns: &[String]) -> Self {
        Self::below(String::new(), store, table, partition_columns)
    }

    /// For the rows of a change feed; `table` are the columns of these.
    pub fn of_changes(store: &LogStoreRef, table: &SchemaRef, partition_columns: &[String]) -> Self {
        Self::below(format!("{}/", change_data::FOLDER), store, table, partition_columns)
    }

    fn below(below: String, store: &LogStoreRef, table: &SchemaRef, partition_columns: &[String]) -> Self {
        Self {
            below,
            store: Arc::clone(store),
            table: Arc::clone(table),
            partition_columns: partition_columns.to_vec(),
            rows_a_file: u64::MAX,
            encoder: None,
            held_bytes: 0,
            held_rows: 0,
            rows: 0,
            stored: Vec::new(),
        }
    }

    /// The same, with at most so many rows in a file.
    pub fn with_rows_a_file(mut self, rows: u64) -> Self {
        self.rows_a_file = rows.max(1);
        self
    }

    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Takes in rows whose columns are those of the table.
    ///
    /// # Errors
    /// [`FileError`]; [`delete`] removes what was stored.
    pub async fn write(&mut self, batch: &RecordBatch) -> Result<(), FileError> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        let rows = batch.num_rows();
        let bytes_of = |part: usize| batch.get_array_memory_size() / rows * part;
        let mut done = 0;
        while done < rows {
            let room = usize::try_from(self.rows_a_file - self.held_rows).unwrap_or(usize::MAX).min(rows - done);
            let part = without_empty_texts(&batch.slice(done, room), &self.partition_columns)?;
            let encoder = match &mut self.encoder {
                Some(encoder) => encoder,
                None => self.encoder.insert(Encoder::new(&self.table, &self.partition_columns, Columns::default())?),
            };
            encoder.write(&part).await?;
            done += room;
            self.rows += room as u64;
            self.held_rows += room as u64;
            self.held_bytes += bytes_of(room);
            if self.held_bytes >= HELD_BYTES || self.held_rows >= self.rows_a_file {
                self.flush().await?;
            }
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), FileError> {
        (self.held_bytes, self.held_rows) = (0, 0);
        let Some(encoder) = self.encoder.take() else { return Ok(()) };
        for file in encoder.close().await? {
            self.stored.push(file.store_below(&self.below, &self.store).await?);
        }
        Ok(())
    }

    /// The files of all rows, stored.
    ///
    /// # Errors
    /// [`FileError`]
    pub async fn close(mut self) -> Result<Vec<Add>, FileError> {
        if let Err(error) = self.flush().await {
            self.abort().await;
            return Err(error);
        }
        Ok(self.stored)
    }

    /// Gives up what was taken in.
    pub async fn abort(self) {
        delete(&self.store, &self.stored).await;
    }
}

/// Delta writes a null of a partition column as the empty text, so an empty text is null to readers; here it
/// is so from the beginning.
fn without_empty_texts(batch: &RecordBatch, partition_columns: &[String]) -> Result<RecordBatch, FileError> {
    let mut columns = batch.columns().to_vec();
    for name in partition_columns {
        let Ok(at) = batch.schema().index_of(name) else { continue };
        let Some(texts) = columns[at].as_string_opt::<i32>() else { continue };
        if texts.iter().flatten().any(str::is_empty) {
            columns[at] =
                Arc::new(texts.iter().map(|text| text.filter(|text| !text.is_empty())).collect::<StringArray>());
        }
    }
    RecordBatch::try_new(batch.schema(), columns).map_err(FileError::rows)
}

/// Deletes files that no commit of ours names and none will: a lost race, a run that failed. Best
/// effort, since vacuum finds what stays.
pub async fn delete(store: &LogStoreRef, files: &[Add]) {
    let objects = store.object_store(None);
    for add in files {
        let Ok(path) = Path::parse(&add.path) else { continue };
        if let Err(error) = objects.delete(&path).await {
            tracing::debug!(file = add.path, %error, "an orphan stays until the next vacuum");
        }
    }
}
