//! Older files of a table whose maps hold records that gained fields.
//!
//! DataFusion fills what a file lacks of the table's columns with nulls, also within records and lists, but not within
//! maps: there it says that it can't cast. So such columns are kept away from it, and filled here.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::array::{
    Array as _, ArrayRef, AsArray as _, ListArray, MapArray, RecordBatch, StructArray, new_null_array,
};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef};
use datafusion::arrow::error::ArrowError;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::Result;
use datafusion::common::tree_node::{Transformed, TreeNode as _};
use datafusion::datasource::physical_plan::{FileScanConfig, FileScanConfigBuilder};
use datafusion::datasource::source::DataSourceExec;
use datafusion::logical_expr::{ColumnarValue, Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr_adapter::{
    DefaultPhysicalExprAdapterFactory, PhysicalExprAdapter, PhysicalExprAdapterFactory,
};
use datafusion::physical_plan::ExecutionPlan;

/// A table as its provider reads it, and what that can't fill.
#[derive(Debug)]
pub(super) struct Filling(pub(super) Arc<dyn TableProvider>);

#[async_trait]
impl TableProvider for Filling {
    fn schema(&self) -> SchemaRef {
        self.0.schema()
    }

    fn table_type(&self) -> TableType {
        self.0.table_type()
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        self.0.supports_filters_pushdown(filters)
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let plan = self.0.scan(state, projection, filters, limit).await?;
        if !self.schema().fields().iter().any(|field| has_map(field.data_type())) {
            return Ok(plan);
        }
        filled(plan)
    }
}

/// The plan, with scans of files that fill what these lack.
pub(in crate::catalog) fn filled(plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    Ok(plan.transform_down(|node| Ok(filling(node)))?.data)
}

fn filling(plan: Arc<dyn ExecutionPlan>) -> Transformed<Arc<dyn ExecutionPlan>> {
    let config =
        plan.downcast_ref::<DataSourceExec>().and_then(|exec| exec.data_source().downcast_ref::<FileScanConfig>());
    let Some(config) = config.cloned() else { return Transformed::no(plan) };
    let inner = config.expr_adapter_factory.clone().unwrap_or_else(|| Arc::new(DefaultPhysicalExprAdapterFactory));
    let adapter: Arc<dyn PhysicalExprAdapterFactory> = Arc::new(FillingAdapters(inner));
    let config = FileScanConfigBuilder::from(config).with_expr_adapter(Some(adapter)).build();
    Transformed::yes(DataSourceExec::from_data_source(config))
}

fn has_map(data_type: &DataType) -> bool {
    match data_type {
        DataType::Map(..) => true,
        DataType::Struct(fields) => fields.iter().any(|field| has_map(field.data_type())),
        DataType::List(element) => has_map(element.data_type()),
        _ => false,
    }
}

#[derive(Debug)]
struct FillingAdapters(Arc<dyn PhysicalExprAdapterFactory>);

impl PhysicalExprAdapterFactory for FillingAdapters {
    fn create(&self, logical: SchemaRef, physical: SchemaRef) -> Result<Arc<dyn PhysicalExprAdapter>> {
        // The inner adapter is told that what is filled here is as the file has it.
        let mut filled = Vec::new();
        let fields = logical.fields().iter().map(|field| match physical.field_with_name(field.name()) {
            Ok(held) if has_map(field.data_type()) && held.data_type() != field.data_type() => {
                filled.push(Arc::clone(field));
                Arc::new(held.clone())
            }
            _ => Arc::clone(field),
        });
        let shown = Schema::new_with_metadata(fields.collect::<Vec<_>>(), logical.metadata().clone());
        let inner = self.0.create(Arc::new(shown), physical)?;
        Ok(if filled.is_empty() { inner } else { Arc::new(FillingAdapter { inner, filled }) })
    }
}

#[derive(Debug)]
struct FillingAdapter {
    inner: Arc<dyn PhysicalExprAdapter>,
    filled: Vec<FieldRef>,
}

impl PhysicalExprAdapter for FillingAdapter {
    fn rewrite(&self, expr: Arc<dyn PhysicalExpr>) -> Result<Arc<dyn PhysicalExpr>> {
        let expr = self.inner.rewrite(expr)?;
        let fill = |expr: Arc<dyn PhysicalExpr>| {
            let name = expr.downcast_ref::<Column>().map(Column::name);
            match self.filled.iter().find(|field| name == Some(field.name())) {
                Some(field) => {
                    Transformed::yes(Arc::new(Fill { of: expr, to: Arc::clone(field) }) as Arc<dyn PhysicalExpr>)
                }
                None => Transformed::no(expr),
            }
        };
        Ok(expr.transform_up(|expr| Ok(fill(expr)))?.data)
    }
}

/// A column of a file as the table has it.
#[derive(Debug, Eq)]
struct Fill {
    of: Arc<dyn PhysicalExpr>,
    to: FieldRef,
}

impl PartialEq for Fill {
    fn eq(&self, other: &Self) -> bool {
        self.of.eq(&other.of) && self.to == other.to
    }
}

impl Hash for Fill {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.of.hash(state);
        self.to.hash(state);
    }
}

impl fmt::Display for Fill {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} as in the table", self.of)
    }
}

impl PhysicalExpr for Fill {
    fn return_field(&self, _: &Schema) -> Result<FieldRef> {
        Ok(Arc::clone(&self.to))
    }

    fn evaluate(&self, batch: &RecordBatch) -> Result<ColumnarValue> {
        let array = self.of.evaluate(batch)?.into_array(batch.num_rows())?;
        Ok(ColumnarValue::Array(fill(&array, self.to.data_type())?))
    }

    fn children(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        vec![&self.of]
    }

    fn with_new_children(self: Arc<Self>, mut children: Vec<Arc<dyn PhysicalExpr>>) -> Result<Arc<dyn PhysicalExpr>> {
        let of = children.pop().unwrap_or_else(|| Arc::clone(&self.of));
        Ok(Arc::new(Self { of, to: Arc::clone(&self.to) }))
    }

    fn fmt_sql(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.of.fmt_sql(f)
    }
}

/// The values as `wanted`: fields go by their names, and missing ones are null.
fn fill(array: &ArrayRef, wanted: &DataType) -> Result<ArrayRef, ArrowError> {
    match (array.data_type(), wanted) {
        (held, wanted) if held == wanted => Ok(Arc::clone(array)),
        (DataType::Struct(_), DataType::Struct(fields)) => {
            let held = array.as_struct();
            let columns = fill_fields(held, fields)?;
            let filled = StructArray::try_new_with_length(fields.clone(), columns, held.nulls().cloned(), held.len())?;
            Ok(Arc::new(filled))
        }
        (DataType::List(_), DataType::List(element)) => {
            let list = array.as_list::<i32>();
            let items = fill(list.values(), element.data_type())?;
            let filled = ListArray::try_new(Arc::clone(element), list.offsets().clone(), items, list.nulls().cloned())?;
            Ok(Arc::new(filled))
        }
        (DataType::Map(..), DataType::Map(entries, sorted)) => {
            let map = array.as_map();
            let DataType::Struct(pair) = entries.data_type() else { return cast(array, wanted) };
            // By place: writers call keys and values as they like.
            let of = |column: &ArrayRef, field: &Field| fill(column, field.data_type());
            let columns = vec![of(map.keys(), &pair[0])?, of(map.values(), &pair[1])?];
            let held = StructArray::try_new(pair.clone(), columns, None)?;
            let (offsets, nulls) = (map.offsets().clone(), map.nulls().cloned());
            Ok(Arc::new(MapArray::try_new(Arc::clone(entries), offsets, held, nulls, *sorted)?))
        }
        _ => cast(array, wanted),
    }
}

fn fill_fields(held: &StructArray, fields: &Fields) -> Result<Vec<ArrayRef>, ArrowError> {
    let of = |field: &FieldRef| match held.column_by_name(field.name()) {
        Some(column) => fill(column, field.data_type()),
        None => Ok(new_null_array(field.data_type(), held.len())),
    };
    fields.iter().map(of).collect()
}
