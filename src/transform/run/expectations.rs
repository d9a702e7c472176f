//! Expectations: what each row of the output must fulfil, and what becomes of rows that don't.
//!
//! A row violates an expectation when its check is false. Unknown (a `NULL` in it) is no violation,
//! as with `CHECK` of SQL: whoever wants a value there says `score IS NOT NULL AND …`.
//!
//! Of a row that violates several, all are counted; it is quarantined before it is dropped, and
//! dropped before it is kept.

use std::sync::Arc;

use arrow::array::{Array, AsArray as _, BooleanArray, RecordBatch, StringArray};
use arrow::compute::{filter_record_batch, not, or};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::dataframe::DataFrame;
use datafusion::logical_expr::Expr;
use datafusion::prelude::SessionContext;

use super::TransformError;
use super::columns::fit;
use crate::batch::bronze;
use crate::config::spec::{Expectation, OnViolation};
use crate::transform::condition;

/// Columns of the query's plan that say whether a row violates an expectation, by its number.
const VIOLATES: &str = "__violates_";

/// What a quarantined row has beside its own columns.
pub const EXPECTATION: &str = "_expectation";
pub const REASON: &str = "_reason";
pub const RUN_ID: &str = "_run_id";
pub const QUARANTINED_AT: &str = "_quarantined_at";

/// How often an expectation was violated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violations {
    pub name: String,
    pub on_violation: OnViolation,
    pub rows: u64,
}

/// Parts the rows of one query by its expectations.
pub struct Sieve<'a> {
    expectations: &'a [Expectation],
    /// The columns of the rows that pass.
    output: SchemaRef,
    counts: Vec<u64>,
}

/// Rows of one batch, parted.
pub struct Sifted {
    pub passed: RecordBatch,
    /// With the columns of [`quarantine_schema`], but for the run's.
    pub quarantined: Option<RecordBatch>,
}

impl<'a> Sieve<'a> {
    pub fn new(expectations: &'a [Expectation], output: &SchemaRef) -> Self {
        Self { expectations, output: Arc::clone(output), counts: vec![0; expectations.len()] }
    }

    /// The query with a column for each expectation.
    ///
    /// # Errors
    /// [`TransformError::Sql`] when a check isn't a condition over the output.
    pub async fn plan(&self, session: &SessionContext, mut frame: DataFrame) -> Result<DataFrame, TransformError> {
        let schema: SchemaRef = Arc::new(frame.schema().as_arrow().clone());
        for (number, expectation) in self.expectations.iter().enumerate() {
            let check = condition(session, &schema, &expectation.check).await.map_err(TransformError::Sql)?;
            frame = frame.with_column(&format!("{VIOLATES}{number}"), Expr::IsFalse(Box::new(check)))?;
        }
        Ok(frame)
    }

    /// Parts a batch of the planned query.
    ///
    /// # Errors
    /// [`TransformError::Value`] when a value doesn't fit its column.
    pub fn sift(&mut self, batch: &RecordBatch) -> Result<Sifted, TransformError> {
        let rows = fit(batch, &self.output)?;
        let mut dropped: Option<BooleanArray> = None;
        let mut names: Vec<Option<(String, String)>> = Vec::new();
        for (number, expectation) in self.expectations.iter().enumerate() {
            let column = batch.column_by_name(&format!("{VIOLATES}{number}"));
            let violates = column.and_then(|column| column.as_boolean_opt());
            let violates =
                violates.ok_or_else(|| TransformError::Internal(format!("no column for `{}`", expectation.name)))?;
            if violates.true_count() == 0 {
                continue;
            }
            self.counts[number] += violates.true_count() as u64;
            match expectation.on_violation {
                OnViolation::Warn | OnViolation::Fail => continue,
                OnViolation::Drop => {}
                OnViolation::Quarantine => {
                    names.resize(batch.num_rows(), None);
                    for row in (0..batch.num_rows()).filter(|row| violates.is_valid(*row) && violates.value(*row)) {
                        let held = names[row].get_or_insert_with(|| (String::new(), String::new()));
                        let comma = if held.0.is_empty() { "" } else { ", " };
                        held.0 += &format!("{comma}{}", expectation.name);
                        let and = if held.1.is_empty() { "" } else { "; " };
                        held.1 += &format!("{and}not ({})", expectation.check);
                    }
                }
            }
            dropped = Some(match dropped {
                None => violates.clone(),
                Some(held) => or(&held, violates)?,
            });
        }
        let passed = match &dropped {
            None => rows.clone(),
            Some(dropped) => filter_record_batch(&rows, &not(dropped)?)?,
        };
        let quarantined = if names.is_empty() { None } else { Some(quarantined(&rows, &names)?) };
        Ok(Sifted { passed, quarantined })
    }

    /// # Errors
    /// [`TransformError::Expectation`] where a row violates one that no row may violate.
    pub fn verdict(&self) -> Result<(), TransformError> {
        for (expectation, rows) in self.expectations.iter().zip(&self.counts) {
            if *rows > 0 && expectation.on_violation == OnViolation::Fail {
                return Err(TransformError::Expectation {
                    name: expectation.name.clone(),
                    check: expectation.check.clone(),
                    violations: *rows,
                });
            }
        }
        Ok(())
    }

    pub fn violations(&self) -> Vec<Violations> {
        let counts = self.expectations.iter().zip(&self.counts);
        counts
            .map(|(expectation, rows)| Violations {
                name: expectation.name.clone(),
                on_violation: expectation.on_violation,
                rows: *rows,
            })
            .collect()
    }
}

/// The rows with a name, and in what they failed.
fn quarantined(rows: &RecordBatch, names: &[Option<(String, String)>]) -> Result<RecordBatch, TransformError> {
    let is_one: BooleanArray = names.iter().map(|name| Some(name.is_some())).collect();
    let held = filter_record_batch(rows, &is_one)?;
    let expectations: StringArray = names.iter().flatten().map(|(name, _)| Some(name.as_str())).collect();
    let reasons: StringArray = names.iter().flatten().map(|(_, reason)| Some(reason.as_str())).collect();
    let fields = held.schema().fields().iter().map(|field| field.as_ref().clone()).collect::<Vec<_>>();
    let text = |name: &str| Field::new(name, DataType::Utf8, true);
    let fields = fields.into_iter().chain([text(EXPECTATION), text(REASON)]).collect::<Vec<_>>();
    let columns = held.columns().iter().cloned().chain([Arc::new(expectations) as _, Arc::new(reasons) as _]);
    Ok(RecordBatch::try_new(Arc::new(Schema::new(fields)), columns.collect())?)
}

/// The columns of a quarantine.
pub fn quarantine_schema(output: &Schema) -> Schema {
    let text = |name: &str| Field::new(name, DataType::Utf8, true);
    let own = [text(EXPECTATION), text(REASON), text(RUN_ID), Field::new(QUARANTINED_AT, bronze::timestamp(), true)];
    let fields = output.fields().iter().map(|field| field.as_ref().clone());
    Schema::new(fields.chain(own).collect::<Vec<_>>())
}
