//! The union of a table's columns and a batch's.
//!
//! A column once known never leaves and never changes its type. New ones are added, nested ones within
//! their struct, and a column learns of its field what it didn't know: aliases, and the first default that it
//! meets. All columns are nullable.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema};
use serde::Serialize;

use super::matching::{columns_of, is_envelope};
use super::way::{branch_for, branch_of, is_union};
use crate::columns::{BRANCH, ColumnNames, DEFAULT, Level, aliases, field_name, with, with_aliases};

/// What columns gained; each is named from the top down.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Changes {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub added: Vec<String>,
    /// By column, the names that lead to it now.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub aliases: BTreeMap<String, Vec<String>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub defaults: Vec<String>,
}

/// The union of a table's schema and a batch's, or nothing when the table has it all.
pub fn union(table: &Schema, batch: &Schema, changes: &mut Changes) -> Option<Schema> {
    let mut union = Union { path: Vec::new(), changes };
    let fields = union.fields(table.fields(), batch.fields(), Level::Top)?;
    // The payload's columns stay together, before the envelope's.
    let mut fields: Vec<FieldRef> = fields.iter().cloned().collect();
    fields.sort_by_key(|field| is_envelope(field));
    Some(Schema::new_with_metadata(fields, table.metadata().clone()))
}

struct Union<'c> {
    path: Vec<String>,
    changes: &'c mut Changes,
}

impl Union<'_> {
    /// Nothing where `held` has it all; so with the others.
    fn fields(&mut self, held: &Fields, new: &Fields, level: Level) -> Option<Fields> {
        let mut fields: Vec<FieldRef> = held.iter().cloned().collect();
        let mut names = None;
        let mut is_changed = false;
        for (field, column) in new.iter().zip(columns_of(held, new, level)) {
            match column {
                Some(at) => {
                    self.path.push(held[at].name().clone());
                    if let Some(learned) = self.column(&held[at], field) {
                        fields[at] = Arc::new(learned);
                        is_changed = true;
                    }
                    self.path.pop();
                }
                None => {
                    let names = names.get_or_insert_with(|| {
                        let mut names = ColumnNames::new(level);
                        held.iter().for_each(|column| names.take(column.name()));
                        names
                    });
                    // A stranger's table may lack a column of the envelope, which has its own name.
                    let is_envelope = level == Level::Top && is_envelope(field);
                    let name = if is_envelope { field.name().clone() } else { names.name(&field_name(field.name())) };
                    self.path.push(name.clone());
                    self.changes.added.push(self.path.join("."));
                    self.path.pop();
                    fields.push(Arc::new(field.as_ref().clone().with_name(name).with_nullable(true)));
                    is_changed = true;
                }
            }
        }
        is_changed.then(|| fields.into())
    }

    fn column(&mut self, held: &Field, new: &Field) -> Option<Field> {
        let joined = self.data_type(held.data_type(), new.data_type());
        let mut column = joined.clone().map(|joined| held.clone().with_data_type(joined));
        let own = field_name(held.name());
        let mut known = aliases(held);
        let learned: Vec<_> = std::iter::once(field_name(new.name()))
            .chain(aliases(new))
            .filter(|name| *name != own && !known.contains(name))
            .collect();
        if !learned.is_empty() {
            known.extend(learned.iter().cloned());
            self.changes.aliases.insert(self.path.join("."), learned);
            column = Some(with_aliases(column.unwrap_or_else(|| held.clone()), &known));
        }
        for key in [DEFAULT, BRANCH] {
            let Some(value) = new.metadata().get(key).filter(|_| !held.metadata().contains_key(key)) else { continue };
            // A default of another type is none of the column's.
            if key == DEFAULT && !same_values(joined.as_ref().unwrap_or(held.data_type()), new.data_type()) {
                continue;
            }
            if key == DEFAULT {
                self.changes.defaults.push(self.path.join("."));
            }
            column = Some(with(column.unwrap_or_else(|| held.clone()), key, value.clone()));
        }
        column
    }

    fn data_type(&mut self, held: &DataType, new: &DataType) -> Option<DataType> {
        match (held, new) {
            _ if held == new => None,
            (DataType::Struct(columns), DataType::Struct(fields)) if is_union(columns) == is_union(fields) => {
                self.fields(columns, fields, Level::Nested).map(DataType::Struct)
            }
            (DataType::List(element), DataType::List(new)) => {
                let joined = self.data_type(element.data_type(), new.data_type())?;
                Some(DataType::List(Arc::new(element.as_ref().clone().with_data_type(joined))))
            }
            (DataType::Map(entries, sorted), DataType::Map(new, _)) => {
                let (DataType::Struct(pair), DataType::Struct(new)) = (entries.data_type(), new.data_type()) else {
                    return None;
                };
                // Keys of maps are strings in Avro; only the values can differ.
                let joined = self.data_type(pair.get(1)?.data_type(), new.get(1)?.data_type())?;
                let value = Arc::new(pair[1].as_ref().clone().with_data_type(joined));
                let entry = DataType::Struct(Fields::from(vec![Arc::clone(&pair[0]), value]));
                Some(DataType::Map(Arc::new(entries.as_ref().clone().with_data_type(entry)), *sorted))
            }
            (_, DataType::Struct(branches)) if is_union(branches) => {
                let branch = branch_of(branches, held)?;
                self.data_type(held, branches[branch].data_type())
            }
            (DataType::Struct(branches), _) if is_union(branches) => {
                let at = branch_for(branches, new)?;
                self.path.push(branches[at].name().clone());
                let joined = self.data_type(branches[at].data_type(), new);
                self.path.pop();
                let mut columns: Vec<FieldRef> = branches.iter().cloned().collect();
                columns[at] = Arc::new(branches[at].as_ref().clone().with_data_type(joined?));
                Some(DataType::Struct(columns.into()))
            }
            _ => None,
        }
    }
}

/// Whether a value of one type is one of the other, whatever the columns remember.
fn same_values(held: &DataType, new: &DataType) -> bool {
    held.equals_datatype(new)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::bronze;

    fn schema(fields: Vec<Field>) -> Schema {
        let envelope = Field::new(bronze::RESCUED, DataType::Utf8, true);
        Schema::new(fields.into_iter().chain([envelope]).collect::<Vec<_>>())
    }

    fn record(fields: Vec<Field>) -> DataType {
        DataType::Struct(fields.into())
    }

    fn text(name: &str) -> Field {
        Field::new(name, DataType::Utf8, true)
    }

    fn joined(table: &Schema, batch: &Schema) -> (Schema, Changes) {
        let mut changes = Changes::default();
        let joined = union(table, batch, &mut changes).expect("the batch has more");
        assert_eq!(union(&joined, batch, &mut Changes::default()), None, "the union is idempotent");
        (joined, changes)
    }

    #[test]
    fn a_new_column_comes_before_the_envelope_and_a_nested_one_within_its_struct() {
        let list = |fields| DataType::List(Arc::new(Field::new("element", record(fields), true)));
        let map = |fields| {
            let pair = vec![Field::new("key", DataType::Utf8, false), Field::new("value", record(fields), true)];
            DataType::Map(Arc::new(Field::new("key_value", record(pair), false)), false)
        };
        let columns = |inner: &[&str]| {
            let inner = || inner.iter().map(|name| text(name)).collect::<Vec<_>>();
            vec![
                Field::new("address", record(inner()), true),
                Field::new("lines", list(inner()), true),
                Field::new("by_day", map(inner()), true),
            ]
        };
        let mut batch = columns(&["zip"]);
        batch.insert(0, Field::new("id", DataType::Int64, true));
        let (joined, changes) = joined(&schema(columns(&["city"])), &schema(batch));
        let mut expected = columns(&["city", "zip"]);
        expected.push(Field::new("id", DataType::Int64, true));
        assert_eq!(joined, schema(expected));
        assert_eq!(changes.added, ["id", "address.zip", "lines.zip", "by_day.zip"]);
    }

    #[test]
    fn a_column_learns_aliases_and_its_first_default() {
        let renamed = with(with_aliases(text("full_name"), &["name".to_owned()]), DEFAULT, "\"x\"".to_owned());
        let (table, changes) = joined(&schema(vec![text("name")]), &schema(vec![renamed]));
        assert_eq!(table.field(0).name(), "name");
        assert_eq!(aliases(table.field(0)), ["full_name"]);
        assert_eq!(table.field(0).metadata()[DEFAULT], "\"x\"");
        assert_eq!((changes.defaults.as_slice(), changes.added.len()), (&["name".to_owned()][..], 0));

        let other = with(text("full_name"), DEFAULT, "\"y\"".to_owned());
        assert_eq!(union(&table, &schema(vec![other]), &mut Changes::default()), None, "the first default stays");
    }

    #[test]
    fn a_type_never_changes_and_names_are_told_apart_by_case() {
        let table = schema(vec![text("id")]);
        let number = schema(vec![Field::new("id", DataType::Int64, true)]);
        assert_eq!(union(&table, &number, &mut Changes::default()), None);
        let (joined, changes) = joined(&table, &schema(vec![text("ID")]));
        assert_eq!(joined.field(1).name(), "_x0049_D");
        assert_eq!(changes.added, ["_x0049_D"]);
    }

    #[test]
    fn a_union_gains_branches_and_what_lies_in_them() {
        let branch = |field: Field| {
            let name = field.name().clone();
            with(field, BRANCH, name)
        };
        let column = |fields: Vec<Field>| schema(vec![Field::new("u", record(fields), true)]);
        let point =
            |names: &[&str]| branch(Field::new("Point", record(names.iter().map(|name| text(name)).collect()), true));
        let table = column(vec![branch(text("string")), point(&["x"])]);
        let batch = column(vec![branch(Field::new("long", DataType::Int64, true)), point(&["x", "y"])]);
        let (joined, changes) = joined(&table, &batch);
        assert_eq!(changes.added, ["u.long", "u.Point.y"]);
        // A record alone goes into the branch that holds records, a union's record into a column of its own.
        let alone = schema(vec![Field::new("u", record(vec![text("z")]), true)]);
        let mut changes = Changes::default();
        union(&joined, &alone, &mut changes).expect("more");
        assert_eq!(changes.added, ["u.Point.z"]);
        let mut changes = Changes::default();
        union(&alone, &batch, &mut changes).expect("more");
        assert_eq!(changes.added, ["u.x", "u.y"]);
    }
}
