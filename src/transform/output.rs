//! The columns of a transform's table: what its query gives, as Delta holds it.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef};
use datafusion::common::Column;
use datafusion::error::DataFusionError;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, cast};

use crate::batch::bronze;
use crate::config::quoted;
use crate::config::spec::{Mode, TransformSpec};

/// What Delta can't have in a column's name without a mapping of columns, which readers of version 1 lack.
const NOT_IN_NAMES: &str = " ,;{}()\n\t=";

/// The columns that `mode = "history"` adds.
pub const HISTORY_COLUMNS: [&str; 3] = ["valid_from", "valid_to", "is_current"];

/// A query whose columns are those of its table.
#[derive(Debug, Clone)]
pub struct Output {
    /// The query, with each column cast to what Delta holds, and without qualifiers.
    pub plan: LogicalPlan,
    /// What it gives; every column may be null.
    pub schema: SchemaRef,
}

/// Why a column of a query can't be one of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ColumnProblem {
    /// Its number from 0.
    pub column: usize,
    pub name: String,
    pub message: String,
    pub hint: String,
}

/// Makes the columns of `plan` those of a table.
///
/// # Errors
/// The columns that can't be; an error of DataFusion where the casts can't be planned.
pub(super) fn output(plan: LogicalPlan) -> Result<Result<Output, Vec<ColumnProblem>>, DataFusionError> {
    let mut problems = Vec::new();
    let mut names = BTreeSet::new();
    let mut columns = Vec::new();
    let mut fields = Vec::new();
    for (at, (qualifier, field)) in plan.schema().iter().enumerate() {
        let name = field.name();
        let mut wrong = |message: String, hint: String| {
            problems.push(ColumnProblem { column: at, name: name.clone(), message, hint });
        };
        if name.is_empty() || name.contains(|c: char| NOT_IN_NAMES.contains(c) || c.is_control()) {
            let message = format!("column {} has no name that a table can have: {}", at + 1, quoted(name));
            wrong(message, "give it one: `… AS name`".to_owned());
            continue;
        }
        if !names.insert(name.to_lowercase()) {
            let message = format!("two columns are named {}", quoted(name));
            wrong(message, "give one of them another name: `… AS name`; Delta compares names without case".to_owned());
            continue;
        }
        match held(field.data_type()) {
            Ok(held) => {
                let column = Expr::Column(Column::new(qualifier.cloned(), name));
                let column = if held == *field.data_type() { column } else { cast(column, held.clone()) };
                columns.push(column.alias(name));
                fields.push(Field::new(name, held, true));
            }
            Err(NotHeld { what, hint }) => {
                wrong(format!("column {} is {what}, which Delta can't hold", quoted(name)), hint)
            }
        }
    }
    if !problems.is_empty() {
        return Ok(Err(problems));
    }
    let plan = LogicalPlanBuilder::from(plan).project(columns)?.build()?;
    Ok(Ok(Output { plan, schema: Arc::new(Schema::new(fields)) }))
}

/// Columns as a scan gives them, in the types of their table.
pub fn plain_schema(schema: &Schema) -> SchemaRef {
    let plain = schema.fields().iter().map(|field| {
        let data_type = held(field.data_type()).unwrap_or_else(|_| field.data_type().clone());
        Field::new(field.name(), data_type, true)
    });
    Arc::new(Schema::new(plain.collect::<Vec<_>>()))
}

/// The columns of the table of a transform whose query gives `output`.
pub fn table_schema(spec: &TransformSpec, output: &SchemaRef) -> SchemaRef {
    if spec.mode != Mode::History {
        return Arc::clone(output);
    }
    let sequence = spec.sequence_by.first().and_then(|name| output.field_with_name(name).ok());
    let time = sequence.map_or_else(bronze::timestamp, |field| field.data_type().clone());
    let [from, to, current] = HISTORY_COLUMNS;
    let added = [
        Field::new(from, time.clone(), true),
        Field::new(to, time, true),
        Field::new(current, DataType::Boolean, true),
    ];
    let fields = output.fields().iter().cloned().chain(added.into_iter().map(Arc::new));
    Arc::new(Schema::new(fields.collect::<Vec<FieldRef>>()))
}

struct NotHeld {
    what: String,
    hint: String,
}

/// The type in which Delta holds values of a type.
fn held(data_type: &DataType) -> Result<DataType, NotHeld> {
    let not_held = |what: &str, hint: &str| Err(NotHeld { what: what.to_owned(), hint: hint.to_owned() });
    Ok(match data_type {
        DataType::Boolean
        | DataType::Int8
        | DataType::Int16
        | DataType::Int32
        | DataType::Int64
        | DataType::Float32
        | DataType::Float64
        | DataType::Utf8
        | DataType::Binary
        | DataType::Date32 => data_type.clone(),
        DataType::UInt8 => DataType::Int16,
        DataType::UInt16 => DataType::Int32,
        DataType::UInt32 | DataType::UInt64 => DataType::Int64,
        DataType::Float16 => DataType::Float32,
        DataType::LargeUtf8 | DataType::Utf8View => DataType::Utf8,
        DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => DataType::Binary,
        DataType::Date64 => DataType::Date32,
        // Without a zone it is taken as UTC: `timestamp_ntz` would raise the reader's version.
        DataType::Timestamp(..) => bronze::timestamp(),
        DataType::Decimal32(precision, scale)
        | DataType::Decimal64(precision, scale)
        | DataType::Decimal128(precision, scale)
            if *scale >= 0 =>
        {
            DataType::Decimal128(*precision, *scale)
        }
        DataType::Decimal256(precision, scale) if *precision <= 38 && *scale >= 0 => {
            DataType::Decimal128(*precision, *scale)
        }
        DataType::Decimal32(..) | DataType::Decimal64(..) | DataType::Decimal128(..) | DataType::Decimal256(..) => {
            return not_held(
                &format!("a decimal ({data_type})"),
                "at most 38 digits, and no negative scale: `CAST(… AS DECIMAL(38, 6))`",
            );
        }
        DataType::Dictionary(_, values) => held(values)?,
        DataType::RunEndEncoded(_, values) => held(values.data_type())?,
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::ListView(item)
        | DataType::LargeListView(item)
        | DataType::FixedSizeList(item, _) => {
            DataType::List(Arc::new(Field::new("element", held(item.data_type())?, true)))
        }
        DataType::Struct(fields) => DataType::Struct(held_fields(fields)?),
        DataType::Map(entries, _) => match entries.data_type() {
            DataType::Struct(fields) if fields.len() == 2 => {
                let key = Field::new("key", held(fields[0].data_type())?, false);
                let value = Field::new("value", held(fields[1].data_type())?, true);
                let entries = DataType::Struct(Fields::from(vec![key, value]));
                DataType::Map(Arc::new(Field::new("key_value", entries, false)), false)
            }
            _ => return not_held("a map of another kind", "make a map of one key and one value"),
        },
        DataType::Null => return not_held("NULL alone", "say of what type: `CAST(NULL AS VARCHAR)`"),
        DataType::Time32(_) | DataType::Time64(_) => {
            return not_held("a time of day", "keep it as text: `CAST(… AS VARCHAR)`, or as a timestamp with its date");
        }
        DataType::Interval(_) | DataType::Duration(_) => {
            return not_held("an interval", "keep it as a number: `date_part('epoch', …)` gives seconds");
        }
        DataType::Union(..) => return not_held("a union", "pick one of its members"),
    })
}

fn held_fields(fields: &Fields) -> Result<Fields, NotHeld> {
    fields.iter().map(|field| Ok(Field::new(field.name(), held(field.data_type())?, true))).collect()
}
