//! Some files of a table as DataFusion sees them: the rows that a range of versions added, the
//! files that a rewrite may have to touch, all files of a version.
//!
//! Costs what these files cost, whatever else the table holds, and of them those that a query's conditions don't rule
//! out by values of partition columns and by statistics. Columns that a file lacks are null;
//! values of partition columns come from the log.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::pruning::PrunableStatistics;
use datafusion::common::stats::Precision;
use datafusion::common::{DFSchema, Result, ScalarValue, Statistics};
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfigBuilder, ParquetSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::datasource::table_schema::TableSchema;
use datafusion::error::DataFusionError;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_optimizer::pruning::PruningPredicateBuilder;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::prelude::SessionContext;
use deltalake::logstore::LogStoreRef;
use object_store::ObjectMeta;
use object_store::path::Path;

use super::filling::filled;
use super::state::ActiveFile;
use super::statistics::FileStatistics;

/// The column that says which of the files a row is from, where it is asked for.
pub const FILE: &str = "__file";

/// Rows of chosen files of one table.
#[derive(Debug)]
pub struct FileTable {
    url: ObjectStoreUrl,
    /// What the provider shows: the table's columns in their order, then [`FILE`].
    shown: SchemaRef,
    /// Columns within files, then those outside: partition columns and [`FILE`].
    schema: TableSchema,
    /// Where each shown column is in `schema`.
    order: Vec<usize>,
    files: Vec<PartitionedFile>,
}

impl FileTable {
    /// The rows of `files`, and with `numbered` the place of their file in it as column [`FILE`].
    ///
    /// # Errors
    /// [`DataFusionError`] when a partition value isn't of its column's type, or a path is none.
    fn try_new(
        store: &LogStoreRef,
        table: &SchemaRef,
        partition_columns: &[String],
        files: &[ActiveFile],
        numbered: Numbered,
    ) -> Result<Self> {
        let is_partition = |field: &FieldRef| partition_columns.contains(field.name());
        let within: Vec<FieldRef> = table.fields().iter().filter(|field| !is_partition(field)).cloned().collect();
        let named = |name: &String| table.field_with_name(name).map(|field| Arc::new(field.clone()));
        let mut outside: Vec<FieldRef> = partition_columns
            .iter()
            .map(named)
            .collect::<std::result::Result<_, _>>()
            .map_err(DataFusionError::from)?;
        let mut shown: Vec<FieldRef> = table.fields().iter().cloned().collect();
        if numbered == Numbered::Yes {
            let file: FieldRef = Arc::new(Field::new(FILE, DataType::Int64, false));
            outside.push(Arc::clone(&file));
            shown.push(file);
        }
        let inside = Schema::new(within.clone());
        let files =
            files.iter().enumerate().map(|(number, file)| partitioned(file, number, &inside, &outside)).collect();
        let schema = TableSchema::builder(Arc::new(Schema::new(within))).with_table_partition_cols(outside).build();
        let order: std::result::Result<_, _> =
            shown.iter().map(|field| schema.table_schema().index_of(field.name())).collect();
        Ok(Self {
            url: store.object_store_url(),
            shown: Arc::new(Schema::new(shown)),
            order: order.map_err(DataFusionError::from)?,
            files: files_or_error(files)?,
            schema,
        })
    }

    /// The rows of `files`, readable by `session`.
    ///
    /// # Errors
    /// [`DataFusionError`] when what the log says of a file isn't of its column's type.
    pub fn open(
        session: &SessionContext,
        store: &LogStoreRef,
        table: &SchemaRef,
        partition_columns: &[String],
        files: &[ActiveFile],
    ) -> Result<Arc<dyn TableProvider>> {
        session.register_object_store(store.object_store_url().as_ref(), store.object_store(None));
        Ok(Arc::new(Self::try_new(store, table, partition_columns, files, Numbered::No)?))
    }

    /// As [`FileTable::open`], with the column [`FILE`]: the place of a row's file among `files`.
    ///
    /// # Errors
    /// As [`FileTable::open`]
    pub fn open_numbered(
        session: &SessionContext,
        store: &LogStoreRef,
        table: &SchemaRef,
        partition_columns: &[String],
        files: &[ActiveFile],
    ) -> Result<Arc<dyn TableProvider>> {
        session.register_object_store(store.object_store_url().as_ref(), store.object_store(None));
        Ok(Arc::new(Self::try_new(store, table, partition_columns, files, Numbered::Yes)?))
    }
}

impl FileTable {
    /// The files that may hold rows of which this is true.
    fn not_ruled_out(&self, predicate: &Arc<dyn PhysicalExpr>) -> Vec<&PartitionedFile> {
        let columns = self.schema.table_schema();
        let statistics: Vec<Arc<Statistics>> = self.files.iter().filter_map(|file| file.statistics.clone()).collect();
        let may = PruningPredicateBuilder::new()
            .with_file_schema(Arc::clone(columns))
            .try_build(Arc::clone(predicate))
            .and_then(|pruning| pruning.prune(&PrunableStatistics::new(statistics, Arc::clone(columns))));
        match may {
            Ok(may) if may.len() == self.files.len() => {
                self.files.iter().zip(may).filter(|(_, may)| *may).map(|(file, _)| file).collect()
            }
            // Not every condition can be held against bounds.
            _ => self.files.iter().collect(),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Numbered {
    Yes,
    No,
}

fn files_or_error(files: Vec<Result<PartitionedFile>>) -> Result<Vec<PartitionedFile>> {
    files.into_iter().collect()
}

fn partitioned(file: &ActiveFile, number: usize, inside: &Schema, outside: &[FieldRef]) -> Result<PartitionedFile> {
    let location = Path::parse(&file.path).map_err(|error| DataFusionError::External(Box::new(error)))?;
    let values: Result<Vec<ScalarValue>> = outside
        .iter()
        .map(|field| match field.name().as_str() {
            FILE => Ok(ScalarValue::Int64(i64::try_from(number).ok())),
            name => partition_value(file.partition_values.get(name).and_then(Option::as_deref), field.data_type()),
        })
        .collect();
    let meta = ObjectMeta {
        location,
        last_modified: chrono::DateTime::from_timestamp_millis(file.modified_at).unwrap_or_default(),
        size: u64::try_from(file.size).unwrap_or_default(),
        e_tag: None,
        version: None,
    };
    let values = values?;
    let bytes = usize::try_from(file.size).unwrap_or_default();
    let statistics = FileStatistics::of(file).for_reader(inside, &values, bytes);
    let mut file = PartitionedFile::new_from_meta(meta).with_partition_values(values);
    // `with_statistics` would say of a partition without a value that no row of it is null.
    file.statistics = Some(Arc::new(statistics));
    Ok(file)
}

/// What the log has for a partition column: text, and the empty one is null.
///
/// # Errors
/// [`DataFusionError`] when the text isn't of that type.
pub fn partition_value(text: Option<&str>, of: &DataType) -> Result<ScalarValue> {
    match text {
        None | Some("") => ScalarValue::try_from(of),
        // The protocol has no zone in the text of a timestamp: it is UTC.
        Some(text) => ScalarValue::try_from_string(text.to_owned(), of),
    }
}

#[async_trait]
impl TableProvider for FileTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.shown)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let mut source = ParquetSource::new(self.schema.clone());
        let mut files: Vec<&PartitionedFile> = self.files.iter().collect();
        if let Some(filter) = conjunction(filters.to_vec()) {
            let columns = DFSchema::try_from(Arc::clone(self.schema.table_schema()))?;
            let predicate = state.create_physical_expr(filter, &columns)?;
            files = self.not_ruled_out(&predicate);
            source = source.with_predicate(predicate);
        }
        let all: Vec<usize> = (0..self.order.len()).collect();
        let wanted = projection.unwrap_or(&all).iter().map(|column| self.order[*column]).collect();
        let rows: Option<usize> =
            files.iter().map(|file| file.statistics.as_ref()?.num_rows.get_value().copied()).sum();
        let statistics = Statistics {
            num_rows: rows.map_or(Precision::Absent, Precision::Inexact),
            ..Statistics::new_unknown(self.schema.table_schema())
        };
        // By size, so that one large file doesn't keep the others of its group waiting.
        let mut groups = vec![(0, Vec::new()); state.config().target_partitions().min(files.len()).max(1)];
        for file in files {
            if let Some((bytes, group)) = groups.iter_mut().min_by_key(|(bytes, _)| *bytes) {
                *bytes += file.object_meta.size;
                group.push(file.clone());
            }
        }
        let groups = groups.into_iter().map(|(_, files)| FileGroup::new(files)).collect();
        // Inexact filters are applied again above, and a limit only after them.
        let limit = limit.filter(|_| filters.is_empty());
        let config = FileScanConfigBuilder::new(self.url.clone(), Arc::new(source))
            .with_file_groups(groups)
            .with_projection_indices(Some(wanted))?
            .with_limit(limit)
            .with_statistics(statistics)
            .build();
        filled(DataSourceExec::from_data_source(config))
    }
}
