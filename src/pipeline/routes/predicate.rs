//! `when` of a route: a condition in SQL over the columns of the envelope.

use std::ops::ControlFlow;
use std::sync::{Arc, LazyLock};

use arrow::array::{Array as _, AsArray as _, BooleanArray, RecordBatch};
use arrow::datatypes::{DataType, FieldRef, Schema, SchemaRef};
use arrow::error::ArrowError;
use datafusion::common::DFSchema;
use datafusion::common::tree_node::{TreeNode as _, TreeNodeRecursion};
use datafusion::error::DataFusionError;
use datafusion::logical_expr::{Expr, Volatility};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::prelude::{SessionConfig, SessionContext};
use datafusion::sql::sqlparser::ast::{self, Query, Visit as _, Visitor};

use crate::batch::bronze;

/// A condition is written by hand; what is longer is no condition, and reading it costs memory.
const LONGEST_BYTES: usize = 16 << 10;

/// The columns that a condition may name: what is known of an event as a whole.
static COLUMNS: LazyLock<SchemaRef> = LazyLock::new(|| {
    let of_event = |field: &&FieldRef| ![bronze::RECORD_INDEX, bronze::RESCUED].contains(&field.name().as_str());
    Arc::new(Schema::new(bronze::fields().iter().filter(of_event).cloned().collect::<Vec<_>>()))
});

#[derive(Debug)]
pub struct Condition {
    expr: Arc<dyn PhysicalExpr>,
}

/// What a condition says of the rows of a batch.
#[derive(Debug)]
pub enum Held {
    All(BooleanArray),
    /// Of some rows it says nothing, and why.
    Each(Vec<Result<bool, String>>),
}

impl Held {
    /// # Errors
    /// Why it can't be told.
    pub fn holds(&self, row: usize) -> Result<bool, &str> {
        match self {
            Self::All(mask) => Ok(mask.is_valid(row) && mask.value(row)),
            Self::Each(rows) => rows[row].as_ref().copied().map_err(String::as_str),
        }
    }
}

/// The columns that conditions may name, of the rows of a batch: made once, for all of them.
pub struct Envelopes<'a> {
    of: &'a RecordBatch,
    rows: Option<RecordBatch>,
}

impl<'a> Envelopes<'a> {
    pub fn of(rows: &'a RecordBatch) -> Self {
        Self { of: rows, rows: None }
    }

    /// # Errors
    /// When a column of the envelope is missing.
    pub fn rows(&mut self) -> Result<&RecordBatch, ArrowError> {
        let rows = match self.rows.take() {
            Some(rows) => rows,
            None => {
                let columns = COLUMNS.fields().iter().map(|field| {
                    let missing = || ArrowError::SchemaError(format!("column `{}` is missing", field.name()));
                    self.of.column_by_name(field.name()).cloned().ok_or_else(missing)
                });
                RecordBatch::try_new(Arc::clone(&COLUMNS), columns.collect::<Result<_, _>>()?)?
            }
        };
        Ok(self.rows.insert(rows))
    }
}

impl Condition {
    /// # Errors
    /// What is wrong with it, and what to do about it.
    pub fn parse(text: &str) -> Result<Self, (String, Option<String>)> {
        let plain = |message: &str, hint: &str| Err((message.to_owned(), Some(hint.to_owned())));
        if text.len() > LONGEST_BYTES {
            return plain(&format!("a condition has at most {LONGEST_BYTES} bytes"), "make routes of its parts");
        }
        let config = SessionConfig::new().set_bool("datafusion.sql_parser.enable_ident_normalization", false);
        let state = SessionContext::new_with_config(config).state();
        let dialect = state.config().options().sql_parser.dialect;
        let parsed = state.sql_to_expr_with_alias(text, &dialect).map_err(told)?;
        if parsed.alias.is_some() {
            return plain("a condition has no name", "remove `AS …`");
        }
        if parsed.expr.visit(&mut HasQuery).is_break() {
            return plain("a condition can't hold a query", "it is told of each event by itself");
        }
        let columns = DFSchema::try_from(Arc::clone(&COLUMNS)).map_err(told)?;
        let expr = state.create_logical_expr_from_sql_expr(parsed, &columns).map_err(told)?;
        if let Some(name) = of_more_than_the_event(&expr) {
            return plain(
                &format!("`{name}` has no place in a route"),
                "a route must say the same of an event whenever it is read, and whatever stands beside it",
            );
        }
        let expr = state.create_physical_expr(expr, &columns).map_err(told)?;
        match expr.data_type(&COLUMNS).map_err(told)? {
            DataType::Boolean => Ok(Self { expr }),
            other => plain(&format!("a condition is true or false, and this is of type {other}"), "compare it"),
        }
    }

    /// What it says of [`Envelopes::rows`].
    pub fn of_rows(&self, rows: &RecordBatch) -> Held {
        if let Ok(mask) = self.evaluate(rows) {
            return Held::All(mask);
        }
        // Some row can't be told, as a text that is to be a number. It must not spoil the others.
        let each = (0..rows.num_rows()).map(|row| {
            let mask = self.evaluate(&rows.slice(row, 1)).map_err(|error| error.strip_backtrace())?;
            Ok(mask.is_valid(0) && mask.value(0))
        });
        Held::Each(each.collect())
    }

    fn evaluate(&self, rows: &RecordBatch) -> Result<BooleanArray, DataFusionError> {
        let value = self.expr.evaluate(rows)?.into_array(rows.num_rows())?;
        let mask = value.as_boolean_opt().cloned();
        mask.ok_or_else(|| DataFusionError::Internal(format!("a condition gave {}", value.data_type())))
    }
}

/// A part that may say another thing at another time, or beside other events.
fn of_more_than_the_event(expr: &Expr) -> Option<String> {
    let mut found = None;
    let visited = expr.apply(|expr| {
        let is_steady = match expr {
            Expr::ScalarFunction(function) => function.func.signature().volatility == Volatility::Immutable,
            Expr::AggregateFunction(_) | Expr::WindowFunction(_) => false,
            _ => true,
        };
        if is_steady {
            return Ok(TreeNodeRecursion::Continue);
        }
        found = Some(expr.schema_name().to_string());
        Ok(TreeNodeRecursion::Stop)
    });
    visited.ok().and(found)
}

fn told(error: DataFusionError) -> (String, Option<String>) {
    let columns = || COLUMNS.fields().iter().map(|field| format!("`{}`", field.name())).collect::<Vec<_>>().join(", ");
    match error.find_root() {
        DataFusionError::SchemaError(source, _) => match &**source {
            datafusion::common::SchemaError::FieldNotFound { field, .. } => {
                let message = format!("the envelope has no column `{}`", field.name);
                (message, Some(format!("it has {}; columns of the payload can't be used", columns())))
            }
            other => (other.to_string(), None),
        },
        DataFusionError::SQL(error, _) => (format!("it isn't SQL: {error}"), None),
        other => (other.strip_backtrace(), None),
    }
}

struct HasQuery;

impl Visitor for HasQuery {
    type Break = ();

    fn pre_visit_query(&mut self, _: &Query) -> ControlFlow<()> {
        ControlFlow::Break(())
    }

    fn pre_visit_expr(&mut self, expr: &ast::Expr) -> ControlFlow<()> {
        match expr {
            ast::Expr::Subquery(_) | ast::Expr::Exists { .. } | ast::Expr::InSubquery { .. } => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        }
    }
}
