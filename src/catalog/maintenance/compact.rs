//! One job of compaction: read its files, write their rows as fewer files, commit without data change.
//!
//! Rows are put in order where the table has one, so that the statistics of the new files say more than
//! those of the old ones did. What is sorted is bounded; beyond that it goes to temporary files. A file in the making
//! lies in memory until it is whole.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::SortOptions;
use arrow::datatypes::{Schema, SchemaRef};
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfigBuilder, ParquetSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::datasource::table_schema::TableSchema;
use datafusion::error::DataFusionError;
use datafusion::execution::memory_pool::FairSpillPool;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::expressions::col;
use datafusion::physical_expr::{LexOrdering, PhysicalSortExpr};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::prelude::{SessionConfig, SessionContext};
use deltalake::ObjectMeta;
use deltalake::kernel::Add;
use deltalake::protocol::DeltaOperation;
use futures::TryStreamExt as _;
use object_store::path::Path;
use serde_json::json;

use super::jobs::{FileSizes, Job, plan};
use super::{MaintainedTable, MaintenanceError};
use crate::batch::bronze;
use crate::catalog::data_file::{self, Columns, Encoder, FileError, Indexed};
use crate::catalog::filling::filled;
use crate::catalog::rewrite::{Change, Kind, Lost, Outcome, commit};
use crate::catalog::state::{ActiveFile, active_files, arrow_schema, rows_in};
use crate::config::spec::MaintenanceSpec;

/// What is known of the columns of events; other tables have none of these names.
const DISTINCT: [&str; 3] = [bronze::SEQUENCE_NUMBER, bronze::OFFSET, bronze::EVENT_ID];
const ASCENDING: [&str; 2] = [bronze::SEQUENCE_NUMBER, bronze::ENQUEUED_AT];

/// Rows that are handled together, where nothing is known of their size or they are small.
const MOST_ROWS_A_BATCH: usize = 8192;

/// A row takes so many times in memory what it takes in a file, about.
const UNPACKED: u64 = 10;

/// What a job has written and not committed.
#[derive(Debug)]
pub struct Written {
    adds: Vec<Add>,
    pub rows: u64,
}

impl Written {
    pub fn files(&self) -> u64 {
        self.adds.len() as u64
    }

    pub fn bytes(&self) -> u64 {
        self.adds.iter().map(|add| u64::try_from(add.size).unwrap_or(0)).sum()
    }
}

/// What became of a job.
#[derive(Debug)]
pub enum Compacted {
    Landed(u64),
    /// Somebody else took one of its files, or the head is too old: look again.
    Lost(Lost),
}

/// What a table holds now, and what is to be rewritten of it.
#[derive(Debug)]
pub struct Planned {
    pub files: u64,
    pub bytes: u64,
    pub jobs: Vec<Job>,
}

impl MaintainedTable {
    /// Looks at the files of the head. Costs O(files).
    ///
    /// # Errors
    /// [`crate::catalog::CatalogError::Unsupported`] where rows are marked as deleted beside their files, and errors of storage.
    pub async fn plan_compaction(&self, spec: &MaintenanceSpec, sizes: FileSizes) -> Result<Planned, MaintenanceError> {
        let files = active_files(&self.log, self.version()).await?;
        let bytes = files.iter().map(|file| u64::try_from(file.size).unwrap_or(0)).sum();
        let count = files.len() as u64;
        let jobs = if spec.compact { plan(files, spec, sizes) } else { Vec::new() };
        Ok(Planned { files: count, bytes, jobs })
    }

    /// Writes the rows of a job's files as new files, sorted by the columns of `order` where the table has them all, else
    /// in the order of the files.
    /// Nobody can see them until they are committed.
    ///
    /// # Errors
    /// [`MaintenanceError::RowsDiffer`], and errors of storage. What was written by then is deleted, as far as that
    /// is possible; vacuum finds the rest.
    ///
    /// # Cancel safety
    /// What was written stays for vacuum.
    pub async fn write_job(
        &self,
        job: &Job,
        order: &[String],
        spec: &MaintenanceSpec,
    ) -> Result<Written, MaintenanceError> {
        let columns = arrow_schema(&self.log, &self.head.metadata)?;
        let partitions = self.head.metadata.partition_columns();
        let kept = columns.fields().iter().filter(|field| !partitions.contains(field.name()));
        let schema = Arc::new(Schema::new(kept.cloned().collect::<Vec<_>>()));
        let order: Vec<&String> = order.iter().filter(|column| !partitions.contains(column)).collect();
        let rows = self.read(job, &schema, &order, spec)?;
        let folder = folder_of(job, partitions);
        let mut output = FilesOfJob::new(self, job, folder, &schema);
        match output.write_all(rows).await {
            Ok(()) => Ok(Written { adds: output.adds, rows: output.rows }),
            Err(error) => {
                data_file::delete(self.log.store(), &output.adds).await;
                Err(error)
            }
        }
    }

    /// Puts the new files in place of the old ones, unless one of these is gone by now.
    ///
    /// # Errors
    /// Errors of storage; whether it landed is unknown then, and the next look at the head tells.
    pub async fn commit_job(
        &self,
        job: &Job,
        written: Written,
        spec: &MaintenanceSpec,
    ) -> Result<Compacted, MaintenanceError> {
        let change = Change {
            kind: Kind::Compact,
            adds: written.adds.clone(),
            removes: job.files.iter().map(|file| file.remove(false)).collect(),
            transactions: Vec::new(),
            metadata: None,
            changes: Vec::new(),
            protocol: None,
            operation: DeltaOperation::Optimize {
                predicate: None,
                target_size: i64::try_from(spec.target_file_bytes.as_u64()).unwrap_or(i64::MAX),
            },
            note: json!({ "maintenance": true }),
        };
        match commit(&self.log, self.base(), change).await? {
            Outcome::Landed(version) => Ok(Compacted::Landed(version)),
            Outcome::Lost { why, may_still_land } => {
                if !may_still_land {
                    data_file::delete(self.log.store(), &written.adds).await;
                }
                Ok(Compacted::Lost(why))
            }
        }
    }

    fn read(
        &self,
        job: &Job,
        schema: &SchemaRef,
        order: &[&String],
        spec: &MaintenanceSpec,
    ) -> Result<SendableRecordBatchStream, MaintenanceError> {
        let store = self.log.store();
        let failed = |source| MaintenanceError::Read { table: self.log.table.clone(), source: Box::new(source) };
        let files: Result<Vec<_>, _> = job.files.iter().map(|file| self.in_folder(file)).collect();
        let source = ParquetSource::new(TableSchema::from(Arc::clone(schema)));
        let group = FileGroup::new(files?.into_iter().map(Into::into).collect());
        let scan = FileScanConfigBuilder::new(store.object_store_url(), Arc::new(source))
            .with_file_groups(vec![group])
            .with_preserve_order(true)
            .build();
        let scan: Arc<dyn ExecutionPlan> = filled(DataSourceExec::from_data_source(scan)).map_err(failed)?;
        let task = task(job, spec).map_err(failed)?;
        task.runtime_env().register_object_store(store.object_store_url().as_ref(), store.object_store(None));
        let plan = match ordering(order, schema) {
            Some(ordering) => Arc::new(SortExec::new(ordering, scan)),
            None => scan,
        };
        plan.execute(0, task).map_err(failed)
    }

    fn in_folder(&self, file: &ActiveFile) -> Result<ObjectMeta, MaintenanceError> {
        let location = Path::parse(&file.path)
            .map_err(|_| MaintenanceError::Outside { table: self.log.table.clone(), path: file.path.clone() })?;
        let size = u64::try_from(file.size).unwrap_or(0);
        Ok(ObjectMeta { location, last_modified: chrono::DateTime::UNIX_EPOCH, size, e_tag: None, version: None })
    }
}

/// One thread's worth of everything: what runs beside a pipeline takes its time.
fn task(job: &Job, spec: &MaintenanceSpec) -> Result<Arc<TaskContext>, DataFusionError> {
    let memory = spec.memory.as_u64();
    // A file in the making, and what is read ahead, lie beside what is sorted.
    let pool = FairSpillPool::new(usize::try_from(memory / 2).unwrap_or(usize::MAX));
    let runtime = RuntimeEnvBuilder::new().with_memory_pool(Arc::new(pool)).build_arc()?;
    let rows = job.rows.unwrap_or_default().max(1);
    let row_bytes = (job.bytes / rows).max(1).saturating_mul(UNPACKED);
    let batch_rows = usize::try_from(memory / 32 / row_bytes).unwrap_or(MOST_ROWS_A_BATCH).clamp(16, MOST_ROWS_A_BATCH);
    let config = SessionConfig::new().with_target_partitions(1).with_batch_size(batch_rows);
    Ok(SessionContext::new_with_config_rt(config, runtime).task_ctx())
}

/// None where the table lacks one of the columns.
fn ordering(order: &[&String], schema: &SchemaRef) -> Option<LexOrdering> {
    let options = SortOptions { descending: false, nulls_first: true };
    let columns: Option<Vec<_>> = order.iter().map(|name| col(name, schema).ok()).collect();
    LexOrdering::new(columns?.into_iter().map(|column| PhysicalSortExpr::new(column, options)))
}

/// Where the files of a partition lie: `day=2026-01-01`, as the table's other files have it.
fn folder_of(job: &Job, partitions: &[String]) -> String {
    let is_of_partition = |folder: &&str| {
        let mut parts = folder.split('/');
        partitions
            .iter()
            .all(|column| parts.next().and_then(|part| part.split_once('=')).is_some_and(|(name, _)| name == column))
    };
    let folders = job.files.iter().filter_map(|file| file.path.rsplit_once('/')).map(|(folder, _)| folder);
    if partitions.is_empty() {
        return String::new();
    }
    folders.into_iter().find(is_of_partition).unwrap_or_default().to_owned()
}

/// The files that a job becomes, one after another.
struct FilesOfJob<'a> {
    table: &'a MaintainedTable,
    folder: String,
    partition_values: &'a HashMap<String, Option<String>>,
    expected_rows: Option<u64>,
    rows_a_file: u64,
    schema: SchemaRef,
    adds: Vec<Add>,
    rows: u64,
}

impl<'a> FilesOfJob<'a> {
    fn new(table: &'a MaintainedTable, job: &'a Job, folder: String, schema: &SchemaRef) -> Self {
        Self {
            table,
            folder,
            partition_values: &job.partition_values,
            expected_rows: job.rows,
            rows_a_file: job.rows.map_or(u64::MAX, |rows| rows.div_ceil(job.becomes).max(1)),
            schema: Arc::clone(schema),
            adds: Vec::new(),
            rows: 0,
        }
    }

    async fn write_all(&mut self, mut rows: SendableRecordBatchStream) -> Result<(), MaintenanceError> {
        let read = |source| MaintenanceError::Read { table: self.table.log.table.clone(), source: Box::new(source) };
        let mut open: Option<(Encoder, u64)> = None;
        while let Some(batch) = rows.try_next().await.map_err(read)? {
            let rest = RecordBatch::try_new(Arc::clone(&self.schema), batch.columns().to_vec());
            let mut rest = rest.map_err(|source| self.failed(FileError::rows(source)))?;
            while rest.num_rows() > 0 {
                let (mut encoder, held) = match open.take() {
                    Some(open) => open,
                    None => (self.encoder()?, 0),
                };
                let room = usize::try_from(self.rows_a_file - held).unwrap_or(usize::MAX).min(rest.num_rows());
                encoder.write(&rest.slice(0, room)).await.map_err(|source| self.failed(source))?;
                rest = rest.slice(room, rest.num_rows() - room);
                let held = held + room as u64;
                self.rows += room as u64;
                if held >= self.rows_a_file {
                    self.close(encoder, held).await?;
                } else {
                    open = Some((encoder, held));
                }
            }
        }
        if let Some((encoder, held)) = open {
            self.close(encoder, held).await?;
        }
        match self.expected_rows {
            Some(expected) if expected != self.rows => {
                Err(MaintenanceError::RowsDiffer { table: self.table.log.table.clone(), read: self.rows, expected })
            }
            _ => Ok(()),
        }
    }

    fn encoder(&self) -> Result<Encoder, MaintenanceError> {
        let wants = &self.table.wants;
        let named: Option<Vec<&str>> =
            wants.statistics_of.as_ref().map(|named| named.iter().map(String::as_str).collect());
        let indexed = named.as_deref().map_or(Indexed::First(wants.indexed_columns), Indexed::Named);
        let columns = Columns { distinct: &DISTINCT, ascending: &ASCENDING, indexed };
        // The folder stands for the partition: what is written has none of its columns.
        Encoder::new(&self.schema, &[], columns).map_err(|source| self.failed(source))
    }

    async fn close(&mut self, encoder: Encoder, rows: u64) -> Result<(), MaintenanceError> {
        let mut says = Some(0);
        for file in encoder.close().await.map_err(|source| self.failed(source))? {
            let stored = file.store_in(self.table.log.store(), &self.folder).await;
            let mut add = stored.map_err(|source| self.failed(source))?;
            says = says.zip(rows_in(add.stats.as_deref())).map(|(says, rows)| says + rows);
            add.partition_values.clone_from(self.partition_values);
            add.data_change = false;
            self.adds.push(add);
        }
        match says {
            Some(says) if says != rows => {
                Err(MaintenanceError::RowsDiffer { table: self.table.log.table.clone(), read: says, expected: rows })
            }
            _ => Ok(()),
        }
    }

    fn failed(&self, source: FileError) -> MaintenanceError {
        MaintenanceError::Write { table: self.table.log.table.clone(), source }
    }
}
