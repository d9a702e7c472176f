//! The rows of some keys give way to others: which files that touches, and what of them stays.
//!
//! ```text
//! all files ─▶ values of partition columns, statistics ─▶ the key columns alone ─▶ files with such rows
//! ```
//!
//! Cost follows the keys, as far as they lie together: keys that grow, or that the table is
//! partitioned by, touch few files; keys at random touch all. Keys are compared as `GROUP BY` does:
//! `NULL` is one of them.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::AsArray as _;
use arrow::compute::{filter_record_batch, is_not_null, is_null};
use arrow::datatypes::{DataType, FieldRef, Int64Type, SchemaRef};
use datafusion::common::{Column, NullEquality, Result, ScalarValue};
use datafusion::dataframe::DataFrame;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::functions_aggregate::expr_fn::{count, max, min};
use datafusion::functions_nested::expr_fn::map_entries;
use datafusion::logical_expr::{Expr, JoinType, LogicalPlanBuilder, lit};
use datafusion::prelude::SessionContext;
use futures::TryStreamExt as _;

use super::TransformError;
use super::output::Output;
use super::stage::{Staged, Staging};
use crate::catalog::file_table::{FILE, FileTable, partition_value};
use crate::catalog::state::ActiveFile;
use crate::catalog::statistics::FileStatistics;

/// Up to so many keys are held against the statistics of each file one by one; beyond, only the
/// smallest and the largest of them are. More would cost more than the look into a file.
const FEW_KEYS: u64 = 10_000;

/// Distinct keys.
pub struct KeySet {
    columns: Vec<KeyColumn>,
    staged: Staged,
}

struct KeyColumn {
    name: String,
    kind: DataType,
    has_null: bool,
    /// The smallest and the largest; none where all are null.
    bounds: Option<(ScalarValue, ScalarValue)>,
    /// Each value, ascending, where they are few.
    values: Option<Vec<ScalarValue>>,
}

/// A column by its exact name.
pub fn column(name: &str) -> Expr {
    Expr::Column(Column::from_name(name))
}

/// The plan's columns under their names alone, without what they came from.
///
/// # Errors
/// When a column is there twice.
pub fn plain(frame: DataFrame) -> Result<DataFrame> {
    let columns = frame.schema().columns().into_iter();
    let columns: Vec<Expr> = columns
        .map(|column| {
            let name = column.name.clone();
            Expr::Column(column).alias(name)
        })
        .collect();
    frame.select(columns)
}

fn key_name(number: usize) -> String {
    format!("__key_{number}")
}

impl KeySet {
    /// The distinct keys among these rows.
    ///
    /// # Errors
    /// Errors of the rows.
    pub async fn of(
        session: &SessionContext,
        runtime: &Arc<RuntimeEnv>,
        rows: DataFrame,
        keys: &[String],
    ) -> Result<Self, TransformError> {
        let named = keys.iter().enumerate().map(|(number, key)| column(key).alias(key_name(number)));
        let distinct = rows.select(named.collect::<Vec<_>>())?.distinct()?;
        let staged = Staged::collect(runtime, distinct.execute_stream().await?).await?;
        let columns = if staged.rows() <= FEW_KEYS {
            each_value(session, &staged, keys).await?
        } else {
            bounds_alone(session, &staged, keys).await?
        };
        Ok(Self { columns, staged })
    }

    pub fn len(&self) -> u64 {
        self.staged.rows()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    async fn frame(&self, session: &SessionContext) -> Result<DataFrame> {
        self.staged.frame(session).await
    }

    /// A condition that all rows with these keys fulfil, and which scans can use; others may, too.
    pub fn condition(&self, most_values: usize) -> Option<Expr> {
        let conditions = self.columns.iter().map(|key| {
            let found = match (&key.values, &key.bounds) {
                (_, None) => return column(&key.name).is_null(),
                (values, Some((least, most))) => {
                    // Of a long list readers make nothing where they hold a file or its pages against it.
                    let within = column(&key.name).between(lit(least.clone()), lit(most.clone()));
                    match values.as_ref().filter(|values| values.len() <= most_values) {
                        Some(values) => {
                            let listed = values.iter().map(|value| lit(value.clone())).collect();
                            within.and(column(&key.name).in_list(listed, false))
                        }
                        None => within,
                    }
                }
            };
            if key.has_null { found.or(column(&key.name).is_null()) } else { found }
        });
        conditions.reduce(Expr::and)
    }

    /// The rows of `rows` that have one of these keys.
    ///
    /// # Errors
    /// When a key is no column of them.
    pub async fn rows_of(&self, session: &SessionContext, rows: DataFrame) -> Result<DataFrame> {
        self.join(session, rows, JoinType::RightSemi).await
    }

    /// The rows of `rows` that have none of them.
    ///
    /// # Errors
    /// When a key is no column of them.
    pub async fn rows_beside(&self, session: &SessionContext, rows: DataFrame) -> Result<DataFrame> {
        self.join(session, rows, JoinType::RightAnti).await
    }

    /// The keys are on the left, so that they are what is held in memory.
    async fn join(&self, session: &SessionContext, rows: DataFrame, how: JoinType) -> Result<DataFrame> {
        let left = (0..self.columns.len()).map(|number| Column::from_name(key_name(number))).collect::<Vec<_>>();
        let right = self.columns.iter().map(|key| Column::from_name(&key.name)).collect::<Vec<_>>();
        let (state, rows) = rows.into_parts();
        let keys = self.frame(session).await?.into_unoptimized_plan();
        let plan = LogicalPlanBuilder::from(keys)
            .join_detailed(rows, how, (left, right), None, NullEquality::NullEqualsNull)?
            .build()?;
        Ok(DataFrame::new(state, plan))
    }

    /// The files that hold rows of these keys: first by what the log says of them, then by a look
    /// at their key columns.
    ///
    /// # Errors
    /// Errors of storage.
    pub async fn files_of(
        &self,
        session: &SessionContext,
        output: &Output,
        files: &[ActiveFile],
    ) -> Result<Vec<ActiveFile>, TransformError> {
        let all = files.len();
        let partitions = output.partition_columns();
        let candidates: Vec<ActiveFile> =
            files.iter().filter(|file| self.may_be_in(file, partitions)).cloned().collect();
        if candidates.is_empty() || self.is_empty() {
            return Ok(Vec::new());
        }
        let table = FileTable::open_numbered(session, output.log.store(), &output.schema, partitions, &candidates)?;
        let wanted = self.columns.iter().map(|key| column(&key.name)).chain([column(FILE)]).collect::<Vec<_>>();
        let look = self.rows_of(session, session.read_table(table)?.select(wanted)?).await?;
        let mut numbers = BTreeSet::new();
        let mut batches = look.select(vec![column(FILE)])?.distinct()?.execute_stream().await?;
        while let Some(batch) = batches.try_next().await? {
            let found = batch.column(0).as_primitive_opt::<Int64Type>();
            numbers.extend(found.into_iter().flat_map(|found| found.iter().flatten()));
        }
        tracing::debug!(
            table = %output.name,
            files = all,
            looked_into = candidates.len(),
            touched = numbers.len(),
            "which files hold the keys"
        );
        let numbered = candidates.into_iter().enumerate();
        let is_touched = |number: usize| i64::try_from(number).is_ok_and(|number| numbers.contains(&number));
        Ok(numbered.filter(|(number, _)| is_touched(*number)).map(|(_, file)| file).collect())
    }

    fn may_be_in(&self, file: &ActiveFile, partitions: &[String]) -> bool {
        let stats = FileStatistics::of(file);
        self.columns.iter().all(|key| {
            if partitions.contains(&key.name) {
                let text = file.partition_values.get(&key.name).and_then(Option::as_deref);
                return match partition_value(text, &key.kind) {
                    Ok(value) if value.is_null() => key.has_null,
                    Ok(value) => key.may_be_between(&value, &value),
                    Err(_) => true,
                };
            }
            if key.has_null && stats.nulls(&key.name) != Some(0) {
                return true;
            }
            stats.bounds(&key.name, &key.kind).is_none_or(|(least, most)| key.may_be_between(&least, &most))
        })
    }

    /// Reads these files once, and parts their rows.
    ///
    /// # Errors
    /// Errors of storage and of the disk.
    pub async fn split(
        &self,
        session: &SessionContext,
        runtime: &Arc<RuntimeEnv>,
        output: &Output,
        files: &[ActiveFile],
    ) -> Result<Split, TransformError> {
        const TOUCHED: &str = "__touched";
        let mut beside = Staging::new(runtime, &output.schema);
        let mut touched = Staging::new(runtime, &output.schema);
        if files.is_empty() {
            return Ok(Split { beside: beside.finish()?, touched: touched.finish()? });
        }
        let table = FileTable::open(session, output.log.store(), &output.schema, output.partition_columns(), files)?;
        let marked = (0..self.columns.len()).map(|number| column(&key_name(number)));
        let marked = marked.chain([lit(true).alias(TOUCHED)]).collect::<Vec<_>>();
        let left = (0..self.columns.len()).map(|number| Column::from_name(key_name(number))).collect::<Vec<_>>();
        let right = self.columns.iter().map(|key| Column::from_name(&key.name)).collect::<Vec<_>>();
        let (state, rows) = plain(session.read_table(table)?)?.into_parts();
        let keys = plain(self.frame(session).await?.select(marked)?)?.into_unoptimized_plan();
        let plan = LogicalPlanBuilder::from(keys)
            .join_detailed(rows, JoinType::Right, (left, right), None, NullEquality::NullEqualsNull)?
            .build()?;
        let wanted = output.schema.fields().iter().map(|field| column(field.name()));
        let joined = DataFrame::new(state, plan).select(wanted.chain([column(TOUCHED)]).collect::<Vec<_>>())?;
        let mut batches = joined.execute_stream().await?;
        while let Some(batch) = batches.try_next().await? {
            let mark = batch.num_columns() - 1;
            let rows = batch.project(&(0..mark).collect::<Vec<_>>())?;
            let rows = super::columns::fit(&rows, &output.schema)?;
            let mark = batch.column(mark);
            beside.push(filter_record_batch(&rows, &is_null(mark)?)?)?;
            touched.push(filter_record_batch(&rows, &is_not_null(mark)?)?)?;
        }
        Ok(Split { beside: beside.finish()?, touched: touched.finish()? })
    }
}

/// The rows of files that hold some of the keys.
pub struct Split {
    /// Those of other keys.
    pub beside: Staged,
    pub touched: Staged,
}

impl KeyColumn {
    /// Whether a key may lie from `least` to `most`. What can't be compared may.
    fn may_be_between(&self, least: &ScalarValue, most: &ScalarValue) -> bool {
        if let Some(values) = &self.values {
            let after_least = values.partition_point(|value| value.partial_cmp(least) == Some(Ordering::Less));
            return values.get(after_least).is_some_and(|value| value.partial_cmp(most) != Some(Ordering::Greater));
        }
        self.bounds.as_ref().is_some_and(|(lowest, highest)| {
            lowest.partial_cmp(most) != Some(Ordering::Greater) && highest.partial_cmp(least) != Some(Ordering::Less)
        })
    }
}

async fn each_value(
    session: &SessionContext,
    staged: &Staged,
    keys: &[String],
) -> Result<Vec<KeyColumn>, TransformError> {
    let mut columns = Vec::new();
    for (number, key) in keys.iter().enumerate() {
        let frame = staged.frame(session).await?.select(vec![column(&key_name(number))])?.distinct()?;
        let kind = frame.schema().field(0).data_type().clone();
        let mut values = Vec::new();
        let mut has_null = false;
        for batch in frame.collect().await? {
            for row in 0..batch.num_rows() {
                let value = ScalarValue::try_from_array(batch.column(0), row)?;
                if value.is_null() { has_null = true } else { values.push(value) }
            }
        }
        values.sort_by(|one, other| one.partial_cmp(other).unwrap_or(Ordering::Equal));
        let bounds = values.first().cloned().zip(values.last().cloned());
        columns.push(KeyColumn { name: key.clone(), kind, has_null, bounds, values: Some(values) });
    }
    Ok(columns)
}

async fn bounds_alone(
    session: &SessionContext,
    staged: &Staged,
    keys: &[String],
) -> Result<Vec<KeyColumn>, TransformError> {
    let mut wanted = vec![count(lit(1)).alias("__all")];
    for number in 0..keys.len() {
        let key = || column(&key_name(number));
        wanted.push(min(key()).alias(format!("__min_{number}")));
        wanted.push(max(key()).alias(format!("__max_{number}")));
        wanted.push(count(key()).alias(format!("__count_{number}")));
    }
    let found = staged.frame(session).await?.aggregate(Vec::new(), wanted)?.collect().await?;
    let found = found.into_iter().find(|batch| batch.num_rows() > 0);
    let found = found.ok_or_else(|| TransformError::Internal("an aggregate without a row".to_owned()))?;
    let value = |at: usize| ScalarValue::try_from_array(found.column(at), 0);
    let mut columns = Vec::new();
    for (number, key) in keys.iter().enumerate() {
        let (least, most, counted) = (value(1 + 3 * number)?, value(2 + 3 * number)?, value(3 + 3 * number)?);
        columns.push(KeyColumn {
            name: key.clone(),
            kind: least.data_type(),
            has_null: counted != value(0)?,
            bounds: (!least.is_null()).then_some((least, most)),
            values: None,
        });
    }
    Ok(columns)
}

/// The columns of a schema that rows can be ordered and told apart by, and what of them has an order: of a map, its
/// entries. A map within a list or a struct has none.
pub fn orderable(schema: &SchemaRef) -> Vec<(String, Expr)> {
    fn has_order(kind: &DataType) -> bool {
        match kind {
            DataType::Map(..) => false,
            DataType::List(element) => has_order(element.data_type()),
            DataType::Struct(fields) => fields.iter().all(|field| has_order(field.data_type())),
            _ => true,
        }
    }
    let of = |field: &FieldRef| {
        let ordered = match field.data_type() {
            DataType::Map(entries, _) => has_order(entries.data_type()).then(|| map_entries(column(field.name()))),
            kind => has_order(kind).then(|| column(field.name())),
        };
        ordered.map(|ordered| (field.name().clone(), ordered))
    };
    schema.fields().iter().filter_map(of).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn key(values: &[i64]) -> KeyColumn {
        let values: Vec<ScalarValue> = values.iter().map(|value| ScalarValue::Int64(Some(*value))).collect();
        KeyColumn {
            name: "id".to_owned(),
            kind: DataType::Int64,
            has_null: false,
            bounds: values.first().cloned().zip(values.last().cloned()),
            values: Some(values),
        }
    }

    #[test]
    fn a_file_is_passed_over_only_where_no_key_can_be() {
        let number = |value| ScalarValue::Int64(Some(value));
        for (values, least, most, expected) in [
            (vec![5], 1, 4, false),
            (vec![5], 1, 5, true),
            (vec![5], 5, 9, true),
            (vec![5], 6, 9, false),
            (vec![1, 9], 2, 8, false),
            (vec![1, 9], 2, 9, true),
            (vec![], 1, 9, false),
        ] {
            assert_eq!(
                key(&values).may_be_between(&number(least), &number(most)),
                expected,
                "{values:?} {least} {most}"
            );
        }
        let by_bounds = KeyColumn { values: None, ..key(&[1, 9]) };
        assert!(by_bounds.may_be_between(&number(2), &number(8)));
        assert!(!by_bounds.may_be_between(&number(10), &number(12)));
    }

    #[test]
    fn statistics_are_taken_for_what_they_say_and_no_more() {
        let stats = serde_json::json!({"minValues": {"id": 3}, "maxValues": {"id": 7}, "nullCount": {"id": 0}});
        let files = |stats: Option<&serde_json::Value>| {
            let add = deltalake::kernel::Add {
                path: "a".to_owned(),
                partition_values: HashMap::new(),
                size: 1,
                modification_time: 0,
                data_change: true,
                stats: stats.map(ToString::to_string),
                tags: None,
                deletion_vector: None,
                base_row_id: None,
                default_row_commit_version: None,
                clustering_provider: None,
            };
            ActiveFile::from(&add)
        };
        let runtime = Arc::new(RuntimeEnv::default());
        let schema = Arc::new(arrow::datatypes::Schema::empty());
        let may = |values: &[i64], has_null: bool, stats: Option<&serde_json::Value>| {
            let staged = Staging::new(&runtime, &schema).finish().expect("no rows take no disk");
            let keys = KeySet { columns: vec![KeyColumn { has_null, ..key(values) }], staged };
            keys.may_be_in(&files(stats), &[])
        };
        assert!(may(&[5], false, Some(&stats)));
        assert!(!may(&[8], false, Some(&stats)));
        assert!(!may(&[8], true, Some(&stats)), "no row of it is null");
        assert!(may(&[8], false, None), "a writer need not give statistics");
        assert!(may(&[8], true, Some(&serde_json::json!({"minValues": {"id": 3}, "maxValues": {"id": 7}}))));
    }
}
