//! What the column of a payload's field is called, and what it remembers of the field.
//!
//! Names are mapped reversibly:
//!
//! | field | column | why |
//! |---|---|---|
//! | `score` | `score` | nearly every name stays as it is |
//! | `a b` | `a_x0020_b` | a character that Delta can't hold becomes `_xHHHH_`, its code point in upper-case hex |
//! | `_x0020` | `_x005F_x0020` | so an underscore before `x` and four hex digits is escaped too |
//! | `_offset` | `_x005F_offset` | a clash with a bronze column, whatever the case |
//! | `id`, `ID` | `id`, `_x0049_D` | case-insensitive twins: the first keeps its name, as many first characters of the later one are escaped as it takes |
//!
//! [`field_name`] gives a field's name back from its column's.
//!
//! What is remembered stands in the metadata of the Arrow field, and so in the schema of the Delta table:
//!
//! | key | value |
//! |---|---|
//! | [`ALIASES`] | other names of the field, as a JSON array: its values go into this column under these names too |
//! | [`DEFAULT`] | the field's default, unless that is null: the JSON that Arrow makes of the column's value |
//! | [`BRANCH`] | the column is the branch of a union, and this is its type |

use std::collections::HashSet;

use arrow::datatypes::{DataType, Field, Fields};

use crate::batch::bronze;

pub const ALIASES: &str = "sluice.aliases";
pub const DEFAULT: &str = "sluice.default";
pub const BRANCH: &str = "sluice.branch";

/// What Delta calls a type: `struct<name:string,scores:array<double>>`.
pub fn type_name(data_type: &DataType) -> String {
    let of = |fields: &Fields| -> Vec<String> {
        fields.iter().map(|field| format!("{}:{}", field.name(), type_name(field.data_type()))).collect()
    };
    match data_type {
        DataType::Utf8 => "string".to_owned(),
        DataType::Int8 => "byte".to_owned(),
        DataType::Int16 => "short".to_owned(),
        DataType::Int32 => "integer".to_owned(),
        DataType::Int64 => "long".to_owned(),
        DataType::Float32 => "float".to_owned(),
        DataType::Float64 => "double".to_owned(),
        DataType::Boolean => "boolean".to_owned(),
        DataType::Binary => "binary".to_owned(),
        DataType::Date32 => "date".to_owned(),
        DataType::Timestamp(_, Some(_)) => "timestamp".to_owned(),
        DataType::Timestamp(_, None) => "timestamp_ntz".to_owned(),
        DataType::Decimal128(precision, scale) => format!("decimal({precision},{scale})"),
        DataType::List(element) => format!("array<{}>", type_name(element.data_type())),
        DataType::Struct(fields) => format!("struct<{}>", of(fields).join(",")),
        DataType::Map(entries, _) => match entries.data_type() {
            DataType::Struct(pair) if pair.len() == 2 => {
                format!("map<{},{}>", type_name(pair[0].data_type()), type_name(pair[1].data_type()))
            }
            other => other.to_string(),
        },
        other => other.to_string(),
    }
}

/// Other names of the field that `column` was made of. What can't be read is none: a stranger may have
/// written it.
pub fn aliases(column: &Field) -> Vec<String> {
    let held = column.metadata().get(ALIASES);
    held.and_then(|json| serde_json::from_str(json).ok()).unwrap_or_default()
}

/// `column` with these aliases.
pub fn with_aliases(column: Field, aliases: &[String]) -> Field {
    if aliases.is_empty() { column } else { with(column, ALIASES, serde_json::Value::from(aliases).to_string()) }
}

/// `column` with one more entry in its metadata.
pub fn with(column: Field, key: &str, value: String) -> Field {
    let mut metadata = column.metadata().clone();
    metadata.insert(key.to_owned(), value);
    column.with_metadata(metadata)
}

/// The column of a field at the top of a payload, as far as its own name decides it.
///
/// Twins that differ in case alone are told apart where the whole record is known.
pub fn column_name(field: &str) -> String {
    let escaped = escape(field, 0);
    if clashes_with_bronze(&escaped) { escape(field, 1) } else { escaped }
}

/// The field that a column was made of: undoes every escape.
pub fn field_name(column: &str) -> String {
    let mut name = String::with_capacity(column.len());
    let mut rest = column;
    while let Some(next) = rest.chars().next() {
        match unescape(rest) {
            Some((character, length)) => {
                name.push(character);
                rest = &rest[length..];
            }
            None => {
                name.push(next);
                rest = &rest[next.len_utf8()..];
            }
        }
    }
    name
}

/// Where a record stands: only the fields at the top share their names with the bronze columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    Top,
    Nested,
}

/// Hands out the column names of one record, in the order of its fields.
#[derive(Debug)]
pub struct ColumnNames {
    taken: HashSet<String>,
}

impl ColumnNames {
    pub fn new(level: Level) -> Self {
        let taken = match level {
            Level::Top => bronze::fields().iter().map(|field| field.name().to_lowercase()).collect(),
            Level::Nested => HashSet::new(),
        };
        Self { taken }
    }

    /// Takes a name that is there already out of what is handed out.
    pub fn take(&mut self, column: &str) {
        self.taken.insert(column.to_lowercase());
    }

    pub fn name(&mut self, field: &str) -> String {
        for escaped_characters in 0..=field.chars().count() {
            let column = escape(field, escaped_characters);
            if self.taken.insert(column.to_lowercase()) {
                return column;
            }
        }
        // Every character is escaped, so only an equal name can be in the way; Avro has none in a record.
        escape(field, usize::MAX)
    }
}

fn clashes_with_bronze(column: &str) -> bool {
    bronze::fields().iter().any(|field| field.name().eq_ignore_ascii_case(column))
}

/// Escapes the first `at_least` characters, and each later one that a column can't hold.
fn escape(field: &str, at_least: usize) -> String {
    let mut column = String::with_capacity(field.len());
    for (position, (at, character)) in field.char_indices().enumerate() {
        let fits = match character {
            ' ' | ',' | ';' | '{' | '}' | '(' | ')' | '=' => false,
            '_' => !looks_escaped(&field[at..]),
            other => !other.is_control(),
        };
        if fits && position >= at_least {
            column.push(character);
        } else {
            column.push_str(&format!("_x{:04X}_", character as u32));
        }
    }
    column
}

/// `_x` and four upper-case hex digits: what [`field_name`] could take for an escape.
fn looks_escaped(text: &str) -> bool {
    text.strip_prefix("_x").is_some_and(|rest| rest.bytes().take_while(|byte| is_hex(*byte)).count() >= 4)
}

fn unescape(text: &str) -> Option<(char, usize)> {
    let rest = text.strip_prefix("_x")?;
    let digits = rest.bytes().take_while(|byte| is_hex(*byte)).count();
    if !(4..=6).contains(&digits) || rest.as_bytes().get(digits) != Some(&b'_') {
        return None;
    }
    let character = u32::from_str_radix(&rest[..digits], 16).ok().and_then(char::from_u32)?;
    Some((character, 2 + digits + 1))
}

fn is_hex(byte: u8) -> bool {
    byte.is_ascii_digit() || (b'A'..=b'F').contains(&byte)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_name_changes_only_where_it_must() {
        for (field, column) in [
            ("score", "score"),
            ("_private", "_private"),
            ("Größe", "Größe"),
            ("a b", "a_x0020_b"),
            ("a,b;c{d}e(f)g=h", "a_x002C_b_x003B_c_x007B_d_x007D_e_x0028_f_x0029_g_x003D_h"),
            ("tab\tline\n", "tab_x0009_line_x000A_"),
            ("_offset", "_x005F_offset"),
            ("_Offset", "_x005F_Offset"),
            ("_x0020", "_x005F_x0020"),
            ("_x0020_", "_x005F_x0020_"),
            ("_xyz", "_xyz"),
        ] {
            assert_eq!(column_name(field), column);
            assert_eq!(field_name(column), field);
        }
    }

    #[test]
    fn twins_that_differ_in_case_get_different_columns() {
        let mut columns = ColumnNames::new(Level::Nested);
        let given: Vec<_> = ["ID", "id", "Id", "iD"].into_iter().map(|field| columns.name(field)).collect();
        assert_eq!(given, ["ID", "_x0069_d", "_x0049_d", "_x0069__x0044_"]);
        let distinct: HashSet<_> = given.iter().map(|column| column.to_lowercase()).collect();
        assert_eq!(distinct.len(), 4);
        assert_eq!(given.iter().map(|column| field_name(column)).collect::<Vec<_>>(), ["ID", "id", "Id", "iD"]);
    }

    #[test]
    fn a_nested_field_may_be_called_as_a_bronze_column() {
        assert_eq!(ColumnNames::new(Level::Nested).name("_offset"), "_offset");
        assert_eq!(ColumnNames::new(Level::Top).name("_offset"), "_x005F_offset");
    }

    proptest! {
        #[test]
        fn every_name_comes_back(field in "\\PC{0,12}|[_xA-F0-9 ]{0,24}") {
            prop_assert_eq!(field_name(&column_name(&field)), field);
        }

        #[test]
        fn no_two_fields_of_a_record_share_a_column(fields in prop::collection::hash_set("[aAbB_x0]{1,4}", 1..12)) {
            let mut columns = ColumnNames::new(Level::Top);
            let mut seen = HashSet::new();
            for field in fields {
                let column = columns.name(&field);
                prop_assert!(seen.insert(column.to_lowercase()));
                prop_assert_eq!(field_name(&column), field);
            }
        }
    }
}
