//! What a new schema does to the tables whose events it is to be written with, and to what is made of them.

use std::collections::BTreeSet;

use arrow::array::{Array as _, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Fields};
use futures::TryStreamExt as _;
use serde::Serialize;

use super::transforms::{self, Met, TransformDiff};
use super::{Registry, SchemaError, read_file};
use crate::batch::bronze;
use crate::catalog::scan::scan_at;
use crate::catalog::table_location;
use crate::columns::type_name;
use crate::config::spec::{Format, ProjectSpec};
use crate::decode::{ComparedSchema, arrow_schema_of, schema_notes};
use crate::pipeline::gaps::Target;
use crate::pipeline::setup::Places;
use crate::sink::delta::ledger::{ReadLedger, read_ledger};
use crate::sink::delta::schema::{Changes, Fate, FieldFate, fates, union};
use crate::transform::plain_schema;

/// What a scan for schema ids may gather.
const SCAN_MEMORY_BYTES: usize = 64 << 20;

/// Ids of a table that are looked up. A table with more was written by many producers, and the first ones tell enough.
const IDS_MAX: usize = 200;

/// The shapes that scripts read: fields may be added, never renamed or removed.
#[derive(Debug, Clone, Serialize)]
pub struct Diff {
    /// The full name of the new schema's record.
    pub name: Option<String>,
    pub tables: Vec<TableDiff>,
    /// Those that read these tables, directly or further down; each after those whose tables it reads.
    pub transforms: Vec<TransformDiff>,
    /// What a user should know of its columns.
    pub notes: Vec<String>,
}

#[derive(Debug, Clone, Serialize)]
pub struct TableDiff {
    pub table: String,
    pub pipeline: Option<String>,
    pub known_by: KnownBy,
    /// Columns that stay as they are.
    pub unchanged: usize,
    pub columns: Vec<ColumnChange>,
}

/// Why a table is taken to get events of the new schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum KnownBy {
    /// It was named.
    Named,
    /// Its pipeline pins a schema of this name.
    PinnedSchema,
    /// It has events of a schema of this name.
    SchemaId,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ColumnChange {
    /// `address.zip`, where only a part of it changes.
    pub column: String,
    pub change: Change,
    pub table_type: Option<String>,
    pub schema_type: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Change {
    /// The table gains it; older rows have null there.
    Added,
    /// Values are taken over as the column's type where it holds them exactly, else they go to `_rescued`.
    Widened,
    /// The column can't hold the values: they go to `_rescued`, and it is null for these events.
    Rescued,
    /// The new schema lacks it: null for its events.
    Unwritten,
}

impl Change {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Added => "added",
            Self::Widened => "widened",
            Self::Rescued => "rescued",
            Self::Unwritten => "unwritten",
        }
    }
}

/// What the schema `text` does to tables: to those that are named, else to those of the project that have events of a
/// schema of its name. Without a registry only pinned schemas are known.
///
/// # Errors
/// A schema that can't be used; a named table that isn't there; errors of storage.
pub async fn diff(
    project: &ProjectSpec,
    registry: Option<&Registry>,
    text: &str,
    named: &[Target<'_>],
) -> Result<Diff, SchemaError> {
    let arrow = arrow_schema_of(text)?;
    let new: Fields = arrow.fields().iter().filter(|field| !is_envelope(field)).cloned().collect();
    let compared = ComparedSchema::parse(text)
        .map_err(|reason| SchemaError::Unusable { name: "new version".to_owned(), reason })?;
    let all = Target::all(project);
    let lake = Places::of(project)?.lake;
    let (mut tables, mut met) = (Vec::new(), Vec::new());
    for target in if named.is_empty() { &all } else { named } {
        let table = target.table.to_string();
        let read = read_ledger(&table_location(&lake, &target.table), &table).await?;
        let Some(read) = read else {
            if named.is_empty() || target.pipeline.is_some() {
                continue;
            }
            return Err(crate::pipeline::gaps::unknown_table(&lake, &target.table).await?.into());
        };
        let known_by = match named.is_empty() {
            false => Some(KnownBy::Named),
            true => known_by(registry, target, &read, compared.full_name()).await?,
        };
        let Some(known_by) = known_by else { continue };
        let held: Fields = read.schema.fields().iter().filter(|field| !is_envelope(field)).cloned().collect();
        let (unchanged, columns) = changes(&held, &new);
        let pipeline = target.pipeline.map(|pipeline| pipeline.name.clone());
        let grown = union(&read.schema, &arrow, &mut Changes::default());
        met.push(Met {
            table: target.table.clone(),
            held: plain_schema(&read.schema),
            grown: plain_schema(grown.as_ref().unwrap_or(&read.schema)),
            columns: columns.clone(),
        });
        tables.push(TableDiff { table, pipeline, known_by, unchanged, columns });
    }
    let transforms = transforms::diff(project, &met).await?;
    Ok(Diff { name: compared.full_name().map(str::to_owned), tables, transforms, notes: schema_notes(text)? })
}

fn is_envelope(field: &Field) -> bool {
    bronze::fields().iter().any(|held| held.name() == field.name())
}

async fn known_by(
    registry: Option<&Registry>,
    target: &Target<'_>,
    read: &ReadLedger,
    name: Option<&str>,
) -> Result<Option<KnownBy>, SchemaError> {
    let Some(pipeline) = target.pipeline.filter(|pipeline| pipeline.decode.format != Format::Raw) else {
        return Ok(None);
    };
    let is_of_name = |text: &str| {
        let schema = ComparedSchema::parse(text).ok();
        name.is_some() && schema.as_ref().and_then(ComparedSchema::full_name) == name
    };
    if let Some(path) = &pipeline.decode.schema
        && is_of_name(&read_file(path)?)
    {
        return Ok(Some(KnownBy::PinnedSchema));
    }
    let Some(registry) = registry else { return Ok(None) };
    for id in ids_of(read).await? {
        match registry.by_id.schema(&id).await {
            Ok(schema) if is_of_name(&schema.text) => return Ok(Some(KnownBy::SchemaId)),
            Ok(_) => {}
            Err(error) => tracing::debug!(id, %error, "a schema of the table can't be looked at"),
        }
    }
    Ok(None)
}

/// The schema ids that the events of a table name.
async fn ids_of(read: &ReadLedger) -> Result<BTreeSet<String>, SchemaError> {
    let id = bronze::SCHEMA_ID;
    let sql = format!("SELECT DISTINCT {id} FROM t WHERE {id} IS NOT NULL LIMIT {IDS_MAX}");
    let mut batches = scan_at(read.log.store(), read.version, &sql, SCAN_MEMORY_BYTES).await?;
    let mut ids = BTreeSet::new();
    while let Some(batch) = batches.try_next().await.map_err(|source| read.log.failed(source))? {
        let Ok(column) = cast(batch.column(0), &DataType::Utf8) else { continue };
        let column = column.as_string::<i32>();
        ids.extend((0..column.len()).filter(|row| column.is_valid(*row)).map(|row| column.value(row).to_owned()));
    }
    Ok(ids)
}

/// How many columns stay as they are, and what becomes of the others.
fn changes(held: &Fields, new: &Fields) -> (usize, Vec<ColumnChange>) {
    let (unchanged, fates) = fates(held, new);
    let change = |fate: FieldFate| ColumnChange {
        column: fate.path,
        change: match fate.fate {
            Fate::Added => Change::Added,
            Fate::Cast => Change::Widened,
            Fate::Rescued => Change::Rescued,
            Fate::Missing => Change::Unwritten,
        },
        table_type: fate.held.as_ref().map(type_name),
        schema_type: fate.new.as_ref().map(type_name),
    };
    (unchanged, fates.into_iter().map(change).collect())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{RecordBatch, new_null_array};
    use arrow::datatypes::Schema;
    use arrow::json::ReaderBuilder;
    use proptest::prelude::*;

    use super::*;
    use crate::sink::delta::schema::{Policy, Rescued, TableColumns};

    fn data_type() -> impl Strategy<Value = DataType> {
        let leaf = prop_oneof![
            Just(DataType::Int32),
            Just(DataType::Int64),
            Just(DataType::Float32),
            Just(DataType::Float64),
            Just(DataType::Utf8),
            Just(DataType::Boolean),
        ];
        leaf.prop_recursive(3, 12, 3, |inner| {
            prop_oneof![
                inner.clone().prop_map(|inner| DataType::List(Arc::new(Field::new("element", inner, true)))),
                prop::collection::btree_map("[abc]", inner, 1..3).prop_map(|fields| {
                    DataType::Struct(fields.into_iter().map(|(name, of)| Field::new(name, of, true)).collect())
                }),
            ]
        })
    }

    /// A value of the type without a null anywhere.
    fn value(of: &DataType) -> serde_json::Value {
        match of {
            DataType::Utf8 => "text".into(),
            DataType::Boolean => true.into(),
            DataType::List(element) => serde_json::json!([value(element.data_type())]),
            DataType::Struct(fields) => fields
                .iter()
                .map(|field| (field.name().clone(), value(field.data_type())))
                .collect::<serde_json::Map<_, _>>()
                .into(),
            _ => 1.into(),
        }
    }

    proptest! {
        /// What is said of a schema is what the sink does with its rows.
        #[test]
        fn what_is_rescued_is_what_the_sink_rescues(held in data_type(), new in data_type()) {
            let rescued = Field::new(bronze::RESCUED, DataType::Utf8, true);
            let table = Schema::new(vec![Field::new("x", held.clone(), true), rescued.clone()]);
            let of_batch = Arc::new(Schema::new(vec![Field::new("x", new.clone(), true)]));
            let mut reader = ReaderBuilder::new(Arc::clone(&of_batch)).build_decoder().expect("a reader");
            reader.serialize(&[serde_json::json!({"x": value(&new)})]).expect("a row");
            let rows = reader.flush().expect("read").expect("a row");
            let columns = vec![Arc::clone(rows.column(0)), new_null_array(&DataType::Utf8, 1)];
            let with_rescued = Arc::new(Schema::new(vec![Field::new("x", new.clone(), true), rescued]));
            let batch = RecordBatch::try_new(Arc::clone(&with_rescued), columns).expect("a batch");
            let joined = Arc::new(union(&table, &with_rescued, &mut Changes::default()).unwrap_or_else(|| table.clone()));
            let columns = TableColumns::new(Arc::clone(&joined), Policy::default());
            let aligned = columns.align(&batch, &mut Rescued::new()).expect("aligned");
            let at = joined.index_of(bronze::RESCUED).expect("the column");
            let is_rescued = aligned.column(at).is_valid(0);
            let (_, columns) = changes(&Fields::from(vec![table.field(0).clone()]), &of_batch.fields().clone());
            let is_told = columns.iter().any(|column| column.change == Change::Rescued);
            prop_assert_eq!(is_told, is_rescued, "{:?} into {:?}: {:?}", new, held, columns);
            let gains = columns.iter().any(|column| column.change == Change::Added);
            if !is_rescued {
                prop_assert_eq!(gains, joined.field(0).data_type() != &held, "{:?} into {:?}", new, held);
            }
        }
    }
}
