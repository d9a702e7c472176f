//! Rows in between two steps: in memory as long as the pool has room, then on disk.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::catalog::MemTable;
use datafusion::common::Result;
use datafusion::dataframe::DataFrame;
use datafusion::error::DataFusionError;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryLimit, MemoryReservation};
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::execution::{SendableRecordBatchStream, SpillFile, SpillWriter};
use datafusion::parquet::arrow::ArrowWriter;
use datafusion::parquet::file::properties::WriterProperties;
use datafusion::prelude::{ParquetReadOptions, SessionContext};
use futures::TryStreamExt as _;

/// What part of the pool rows in between may take, and at most: five of them may be held at once, and
/// the queries that read them need the rest.
const SHARE_OF_POOL: usize = 32;
const MOST_HELD_BYTES: usize = 64 << 20;

/// What part of that rows take that are gathered while a query is at work which needs the pool itself.
const SHARE_BESIDE_QUERY: usize = 16;

/// Takes rows in.
pub struct Staging {
    runtime: Arc<RuntimeEnv>,
    schema: SchemaRef,
    held: Vec<RecordBatch>,
    reservation: MemoryReservation,
    most_held_bytes: usize,
    spill: Option<Spill>,
    rows: u64,
}

struct Spill {
    file: Arc<dyn SpillFile>,
    writer: ArrowWriter<Box<dyn SpillWriter>>,
}

/// Rows that can be read as often as needed.
pub struct Staged {
    schema: SchemaRef,
    held: Held,
    rows: u64,
}

enum Held {
    Memory(
        Vec<RecordBatch>,
        #[expect(dead_code, reason = "gives its bytes back when it is dropped")] MemoryReservation,
    ),
    File(Arc<dyn SpillFile>),
}

impl Staging {
    pub fn new(runtime: &Arc<RuntimeEnv>, schema: &SchemaRef) -> Self {
        let most_held_bytes = match runtime.memory_pool.memory_limit() {
            MemoryLimit::Finite(bytes) => MOST_HELD_BYTES.min(bytes / SHARE_OF_POOL),
            _ => MOST_HELD_BYTES,
        };
        Self {
            most_held_bytes,
            runtime: Arc::clone(runtime),
            schema: Arc::clone(schema),
            held: Vec::new(),
            reservation: MemoryConsumer::new("staged rows").register(&runtime.memory_pool),
            spill: None,
            rows: 0,
        }
    }

    /// For rows that are gathered while a query is at work on others: nearly all of them go to disk.
    pub fn beside_query(runtime: &Arc<RuntimeEnv>, schema: &SchemaRef) -> Self {
        let staging = Self::new(runtime, schema);
        Self { most_held_bytes: staging.most_held_bytes / SHARE_BESIDE_QUERY, ..staging }
    }

    /// # Errors
    /// Errors of the disk.
    pub fn push(&mut self, batch: RecordBatch) -> Result<()> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        self.rows += batch.num_rows() as u64;
        if let Some(spill) = &mut self.spill {
            return Ok(spill.writer.write(&batch)?);
        }
        let bytes = batch.get_array_memory_size();
        let has_room =
            self.reservation.size() + bytes <= self.most_held_bytes && self.reservation.try_grow(bytes).is_ok();
        self.held.push(batch);
        if has_room { Ok(()) } else { self.go_to_disk() }
    }

    fn go_to_disk(&mut self) -> Result<()> {
        let file = self.runtime.disk_manager.create_tmp_file("staged rows")?;
        let mut writer = ArrowWriter::try_new(file.open_writer()?, Arc::clone(&self.schema), Some(written()))?;
        for batch in self.held.drain(..) {
            writer.write(&batch)?;
        }
        self.reservation.free();
        self.spill = Some(Spill { file, writer });
        Ok(())
    }

    /// All rows of a stream.
    ///
    /// # Errors
    /// Errors of the stream and of the disk.
    pub async fn filled(mut self, mut rows: SendableRecordBatchStream) -> Result<Staged> {
        while let Some(batch) = rows.try_next().await? {
            self.push(batch)?;
        }
        self.finish()
    }

    /// # Errors
    /// Errors of the disk.
    pub fn finish(self) -> Result<Staged> {
        let held = match self.spill {
            None => Held::Memory(self.held, self.reservation),
            Some(spill) => {
                spill.writer.into_inner()?.finish()?;
                Held::File(spill.file)
            }
        };
        Ok(Staged { schema: self.schema, held, rows: self.rows })
    }
}

/// The writer holds a row group in memory until it ends, and the pool doesn't know of it.
fn written() -> WriterProperties {
    const ROW_GROUP_BYTES: usize = 16 << 20;
    WriterProperties::builder().set_max_row_group_bytes(Some(ROW_GROUP_BYTES)).build()
}

impl Staged {
    /// All rows of a stream.
    ///
    /// # Errors
    /// Errors of the stream and of the disk.
    pub async fn collect(runtime: &Arc<RuntimeEnv>, rows: SendableRecordBatchStream) -> Result<Self> {
        Staging::new(runtime, &rows.schema()).filled(rows).await
    }

    pub fn rows(&self) -> u64 {
        self.rows
    }

    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// # Errors
    /// Errors of the disk.
    pub async fn frame(&self, session: &SessionContext) -> Result<DataFrame> {
        match &self.held {
            Held::Memory(batches, _) => {
                let table = MemTable::try_new(Arc::clone(&self.schema), vec![batches.clone()])?;
                session.read_table(Arc::new(table))
            }
            Held::File(file) => {
                let path = file.path().and_then(|path| path.to_str());
                let path = path.ok_or_else(|| DataFusionError::Internal("staged rows have no file".to_owned()))?;
                let options = ParquetReadOptions::default().schema(&self.schema).file_extension("");
                session.read_parquet(path, options).await
            }
        }
    }
}
