use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::{AsArray as _, RecordBatch};
use arrow::datatypes::{DataType, Fields, Schema, SchemaRef};
use arrow::error::ArrowError;

use super::fit::count;
use super::matching::is_envelope;
use super::rescue::rescue;
use super::union::{Changes, union};
use super::way::{Defaults, RecordWay, Source, Way, value_of};
use crate::batch::bronze;
use crate::columns::{Level, type_name};
use crate::config::spec::OnSchemaChange;
use crate::error::quoted;

/// Schemas of batches whose ways are remembered. A table meets a handful; containers may bring any number.
const SCHEMAS_MAX: usize = 256;

/// Columns that a table may have, those within structs too. Containers bring schemas from outside: without a bound,
/// whoever may send events could make a table that nothing reads any more. What comes beyond is rescued.
pub const COLUMNS_MAX: usize = 10_000;

/// What happens to what a table doesn't know yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Policy {
    pub on_schema_change: OnSchemaChange,
    pub defaults: Defaults,
}

/// By column, rows of which a value was rescued.
pub type Rescued = BTreeMap<String, u64>;

/// A field that its table can't hold as it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the field `{field}` {problem}")]
pub struct Misfit {
    /// From the top down.
    pub field: String,
    pub problem: String,
}

/// The columns of a table, and the ways of batches into them. Clones share what was worked out.
#[derive(Debug, Clone)]
pub struct TableColumns {
    pub schema: SchemaRef,
    policy: Policy,
    known: Arc<Mutex<HashMap<usize, Known>>>,
}

/// Of one schema of batches. It is held, so that its address stays its own.
#[derive(Debug, Clone)]
struct Known {
    _schema: SchemaRef,
    way: Arc<RecordWay>,
    /// Whether the table lacks anything of it.
    adds: bool,
}

impl TableColumns {
    pub fn new(schema: SchemaRef, policy: Policy) -> Self {
        Self { schema, policy, known: Arc::default() }
    }

    /// These columns, with what was worked out unless they are others.
    pub fn with_schema(&self, schema: &SchemaRef) -> Self {
        if Arc::ptr_eq(schema, &self.schema) { self.clone() } else { Self::new(Arc::clone(schema), self.policy) }
    }

    fn known(&self, batch: &SchemaRef) -> Known {
        let key = Arc::as_ptr(batch).addr();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(held) = known.get(&key) {
            return held.clone();
        }
        if known.len() >= SCHEMAS_MAX {
            known.clear();
        }
        let way = RecordWay::of(batch.fields(), self.schema.fields(), Level::Top, self.policy.defaults);
        let adds = union(&self.schema, batch, &mut Changes::default()).is_some_and(|joined| can_be_held(&joined));
        let held = Known { _schema: Arc::clone(batch), way: Arc::new(way), adds };
        known.insert(key, held.clone());
        held
    }

    /// A table without a column of a payload takes those of its first rows by any policy.
    fn is_fixed(&self) -> bool {
        self.policy.on_schema_change != OnSchemaChange::Evolve
            && self.schema.fields().iter().any(|column| !is_envelope(column))
    }

    /// Whether what doesn't fit is refused.
    pub fn refuses(&self) -> bool {
        self.policy.on_schema_change == OnSchemaChange::Fail && self.is_fixed()
    }

    /// Whether rows of this schema make the table gain columns.
    pub fn grow_by(&self, batch: &SchemaRef) -> bool {
        !self.is_fixed() && self.known(batch).adds
    }

    /// The columns with what `declared` and the batches add; nothing where that is nothing.
    pub fn grown<'b>(
        &self,
        declared: &Schema,
        batches: impl IntoIterator<Item = &'b RecordBatch>,
    ) -> Option<(Schema, Changes)> {
        let mut changes = Changes::default();
        let mut joined = union(&self.schema, declared, &mut changes);
        let mut seen: Vec<SchemaRef> = Vec::new();
        for batch in batches {
            let schema = batch.schema_ref();
            if seen.iter().any(|seen| Arc::ptr_eq(seen, schema)) || !self.grow_by(schema) {
                continue;
            }
            seen.push(Arc::clone(schema));
            let mut more = changes.clone();
            let wider = union(joined.as_ref().unwrap_or(&self.schema), schema, &mut more);
            if let Some(wider) = wider.filter(can_be_held) {
                (joined, changes) = (Some(wider), more);
            }
        }
        joined.map(|joined| (joined, changes))
    }

    /// What of a batch the policy `fail` forbids: a field that has no column, or another type, or a value
    /// that its column can't hold; and what of JSON its schema has no field for.
    ///
    /// # Errors
    /// [`ArrowError`] only when the arrays contradict their own types.
    pub fn misfit(&self, batch: &RecordBatch) -> Result<Option<Misfit>, ArrowError> {
        if !self.refuses() {
            return Ok(None);
        }
        let Known { way, .. } = self.known(batch.schema_ref());
        if let Some(misfit) = misfit_of(&way, batch.schema_ref().fields(), self.schema.fields(), "") {
            return Ok(Some(misfit));
        }
        if let Some(field) = rescued_field(batch) {
            return Ok(Some(Misfit { field, problem: "holds what the schema has no field for".to_owned() }));
        }
        if !may_leave(&way) {
            return Ok(None);
        }
        let fields = batch.schema_ref().fields();
        let (_, left) = way.fit(fields, batch.columns(), self.schema.fields(), batch.num_rows())?;
        let problem = "has values that its column can't hold".to_owned();
        Ok(left.first().map(|(field, _)| Misfit { field: field.name().clone(), problem }))
    }

    /// Makes `batch` fit the table's schema exactly.
    ///
    /// # Errors
    /// [`ArrowError`] only when the arrays contradict their own types.
    pub fn align(&self, batch: &RecordBatch, rescued: &mut Rescued) -> Result<RecordBatch, ArrowError> {
        let rows = batch.num_rows();
        let Known { way, .. } = self.known(batch.schema_ref());
        let (mut columns, left) = way.fit(batch.schema_ref().fields(), batch.columns(), self.schema.fields(), rows)?;
        if !left.is_empty() {
            for (field, array) in &left {
                *rescued.entry(field.name().clone()).or_default() += count(array);
            }
            let at = self.schema.index_of(bronze::RESCUED)?;
            columns[at] = rescue(&columns[at], &left, rows)?;
        }
        RecordBatch::try_new(Arc::clone(&self.schema), columns)
    }
}

/// The first field of what decoding has rescued already, which is JSON that its schema doesn't know.
fn rescued_field(batch: &RecordBatch) -> Option<String> {
    let rescued = batch.column_by_name(bronze::RESCUED)?.as_string_opt::<i32>()?;
    let left = rescued.iter().flatten().next()?;
    let members: serde_json::Map<String, serde_json::Value> = serde_json::from_str(left).unwrap_or_default();
    Some(members.keys().next().map_or_else(|| bronze::RESCUED.to_owned(), |name| quoted(name)))
}

fn can_be_held(schema: &Schema) -> bool {
    fn places(data_type: &DataType) -> usize {
        match data_type {
            DataType::Struct(fields) => fields.iter().map(|field| 1 + places(field.data_type())).sum(),
            DataType::List(element) => places(element.data_type()),
            DataType::Map(entries, _) => value_of(entries).map_or(0, places),
            _ => 0,
        }
    }
    schema.fields().iter().map(|field| 1 + places(field.data_type())).sum::<usize>() <= COLUMNS_MAX
}

/// The first field that has no column, or one of another type.
fn misfit_of(way: &RecordWay, fields: &Fields, columns: &Fields, above: &str) -> Option<Misfit> {
    let below = |field: &str| if above.is_empty() { field.to_owned() } else { format!("{above}.{field}") };
    if let Some(at) = way.surplus.first() {
        return Some(Misfit { field: below(fields[*at].name()), problem: "has no column".to_owned() });
    }
    way.columns.iter().zip(columns).find_map(|(source, column)| match source {
        Source::Missing(_) => None,
        Source::Given(at, way) => misfit(way, fields[*at].data_type(), column.data_type(), &below(fields[*at].name())),
    })
}

fn misfit(way: &Way, new: &DataType, held: &DataType, field: &str) -> Option<Misfit> {
    match (way, new, held) {
        (Way::Same | Way::Cast, ..) => None,
        (Way::Record(way), DataType::Struct(fields), DataType::Struct(columns)) => {
            misfit_of(way, fields, columns, field)
        }
        (Way::List(way), DataType::List(new), DataType::List(held)) => {
            misfit(way, new.data_type(), held.data_type(), field)
        }
        (Way::Map(way), DataType::Map(new, _), DataType::Map(held, _)) => {
            misfit(way, value_of(new)?, value_of(held)?, field)
        }
        (Way::OutOf(branch, way), DataType::Struct(branches), _) => {
            misfit(way, branches[*branch].data_type(), held, field)
        }
        (Way::Into(branch, way), _, DataType::Struct(branches)) => {
            misfit(way, new, branches[*branch].data_type(), field)
        }
        _ => {
            let problem = format!("is `{}`, and its column is `{}`", type_name(new), type_name(held));
            Some(Misfit { field: field.to_owned(), problem })
        }
    }
}

/// Whether it depends on the values what is left.
fn may_leave(way: &RecordWay) -> bool {
    fn of(way: &Way) -> bool {
        match way {
            Way::Same => false,
            Way::Record(way) => may_leave(way),
            Way::List(way) | Way::Map(way) | Way::Into(_, way) => of(way),
            Way::Cast | Way::OutOf(..) | Way::Rescued => true,
        }
    }
    way.columns.iter().any(|source| matches!(source, Source::Given(_, way) if of(way)))
}

#[cfg(test)]
mod tests;
