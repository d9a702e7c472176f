//! The schemas of the project's files, made from the declared types.
//!
//! They hold more than JSON Schema does: `x-unsupported` marks what the design has and this
//! version doesn't read, `x-what` completes "must be …", `x-type` names a type in the
//! reference. The published form has none of these, so that an editor refuses what
//! `sluice check` refuses.

use std::sync::LazyLock;

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value};

use super::declared::{PipelineFile, ProjectFile, TestFile};

/// `sluice.toml`, with our own marks.
pub(super) static PROJECT: LazyLock<Value> = LazyLock::new(schema_of::<ProjectFile>);

/// `pipelines/**/*.toml`, with our own marks.
pub(super) static PIPELINE: LazyLock<Value> = LazyLock::new(schema_of::<PipelineFile>);

/// `tests/**/*.toml`, with our own marks.
pub(super) static TEST: LazyLock<Value> = LazyLock::new(schema_of::<TestFile>);

/// A file of transforms alone: as [`PIPELINE`], but nothing of a pipeline is missed.
pub(super) static TRANSFORMS: LazyLock<Value> = LazyLock::new(|| {
    let mut schema = PIPELINE.clone();
    if let Value::Object(map) = &mut schema {
        map.remove("required");
    }
    schema
});

/// The JSON Schema of `sluice.toml`, for editors.
pub fn project_json() -> String {
    published(&PROJECT, "sluice.toml")
}

/// The JSON Schema of `pipelines/**/*.toml`, for editors.
pub fn pipeline_json() -> String {
    let mut schema = PIPELINE.clone();
    if let Value::Object(map) = &mut schema
        && let Some(needed) = map.remove("required")
    {
        let tables = needed.as_array().into_iter().flatten();
        let any: Vec<Value> = tables.map(|table| serde_json::json!({ "required": [table] })).collect();
        let alone = serde_json::json!({ "required": ["transform"], "not": { "anyOf": any } });
        map.insert("anyOf".to_owned(), serde_json::json!([{ "required": needed }, alone]));
    }
    published(&schema, "a sluice pipeline")
}

/// The JSON Schema of `tests/**/*.toml`, for editors.
pub fn test_json() -> String {
    published(&TEST, "tests of a sluice project")
}

fn schema_of<T: JsonSchema>() -> Value {
    // Inlined: the walker and the reference need no resolving then.
    let settings = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    let mut schema = settings.for_deserialize().into_generator().into_root_schema_for::<T>().to_value();
    without_null(&mut schema);
    joined_lines(&mut schema);
    schema
}

/// TOML has no null: an optional key isn't there.
fn without_null(schema: &mut Value) {
    if let Value::Object(map) = schema {
        if let Some(Value::Array(types)) = map.get_mut("type") {
            types.retain(|name| name != "null");
            if let [only] = types.as_slice() {
                let only = only.clone();
                map.insert("type".to_owned(), only);
            }
        }
        for union in ["anyOf", "oneOf"] {
            let Some(Value::Array(members)) = map.get_mut(union) else { continue };
            members.retain(|member| member["type"] != "null");
            if let [Value::Object(only)] = members.as_mut_slice() {
                let only = std::mem::take(only);
                map.remove(union);
                for (key, value) in only {
                    // What is said at the field stands above what is said at its type.
                    map.entry(key).or_insert(value);
                }
            }
        }
    }
    each_child(schema, without_null);
}

/// A doc comment is wrapped for its source file, a description isn't.
fn joined_lines(schema: &mut Value) {
    if let Some(Value::String(description)) = schema.get_mut("description") {
        *description = description.replace('\n', " ");
    }
    each_child(schema, joined_lines);
}

fn each_child(schema: &mut Value, change: fn(&mut Value)) {
    match schema {
        Value::Object(map) => map.values_mut().for_each(change),
        Value::Array(values) => values.iter_mut().for_each(change),
        _ => {}
    }
}

fn published(schema: &Value, title: &str) -> String {
    let mut schema = schema.clone();
    without_marks(&mut schema);
    schema["title"] = title.into();
    // A tree of strings, numbers and booleans always has a JSON form.
    serde_json::to_string_pretty(&schema).unwrap_or_default() + "\n"
}

fn without_marks(schema: &mut Value) {
    if let Value::Object(map) = schema {
        map.retain(|key, value| !key.starts_with("x-") && value["x-unsupported"] != true);
        map.remove("title");
        if map.get("format").and_then(Value::as_str).is_some_and(|format| format.starts_with("uint")) {
            // JSON Schema has no such format, and editors complain.
            map.remove("format");
        }
    }
    each_child(schema, without_marks);
    if let Value::Object(map) = schema {
        with_variables(map);
    }
}

/// Any scalar may be written as a string with variables in it.
fn with_variables(map: &mut Map<String, Value>) {
    const VARIABLE: &str = "\\$\\{";
    if let Some(pattern) = map.get("pattern").and_then(Value::as_str) {
        let pattern = format!("{pattern}|{VARIABLE}");
        map.insert("pattern".to_owned(), pattern.into());
    }
    if let Some(kind @ ("integer" | "boolean")) = map.get("type").and_then(Value::as_str) {
        map.insert("type".to_owned(), serde_json::json!([kind, "string"]));
        map.insert("pattern".to_owned(), VARIABLE.into());
    }
    if let Some(Value::Array(words)) = map.get_mut("oneOf") {
        words.push(serde_json::json!({ "type": "string", "pattern": VARIABLE }));
    }
}

/// The words that a string may be, with what they mean; empty where it may be any.
pub(super) fn words(schema: &Value) -> Vec<(&str, &str)> {
    // An enum of one word is that word.
    let only = schema["const"].as_str().map(|word| (word, ""));
    let listed = schema["enum"].as_array().into_iter().flatten().filter_map(Value::as_str).map(|word| (word, ""));
    let described = schema["oneOf"].as_array().into_iter().flatten().flat_map(|member| {
        let description = member["description"].as_str().unwrap_or_default();
        words(member).into_iter().map(move |(word, _)| (word, description))
    });
    only.into_iter().chain(listed).chain(described).collect()
}

/// The kinds of value that a key may have: itself, or the members of a union.
pub(super) fn members(schema: &Value) -> Vec<&Value> {
    schema["anyOf"].as_array().map_or_else(|| vec![schema], |members| members.iter().collect())
}

/// Whether a value of this schema is a table.
pub(super) fn is_table(schema: &Value) -> bool {
    schema["properties"].is_object()
}

/// The tables that a value of this schema is an array of: `[[name]]` in TOML.
pub(super) fn table_in_array(schema: &Value) -> Option<&Value> {
    Some(&schema["items"]).filter(|items| is_table(items))
}

/// A path of keys as the header of its table: `[a.b]`, `[[a.b]]`.
pub(super) fn header(schema: &Value, path: &[&str]) -> String {
    let joined = path.join(".");
    let last = path.iter().try_fold(schema, |schema, key| {
        let known = members(schema).into_iter().find(|member| is_table(table_in_array(member).unwrap_or(member)))?;
        Some(&table_in_array(known).unwrap_or(known)["properties"][*key])
    });
    match last.and_then(table_in_array) {
        Some(_) => format!("[[{joined}]]"),
        None => format!("[{joined}]"),
    }
}

/// Completes "must be …".
pub(super) fn what(schema: &Value) -> String {
    if let Some(what) = schema["x-what"].as_str() {
        return what.to_owned();
    }
    let words = words(schema);
    if !words.is_empty() {
        return super::problem::listed(words.into_iter().map(|(word, _)| word), "or");
    }
    if schema["anyOf"].is_array() {
        let members: Vec<String> = members(schema).into_iter().map(what).collect();
        return members.join(", or ");
    }
    match schema["type"].as_str() {
        Some("integer") => "an integer",
        Some("number") => "a number",
        Some("boolean") => "true or false",
        Some("array") if table_in_array(schema).is_some() => "an array of tables",
        Some("array") => {
            let known = self::words(&schema["items"]);
            if known.is_empty() {
                return format!("an array of {}s", what(&schema["items"]).trim_start_matches("a "));
            }
            let known = super::problem::listed(known.into_iter().map(|(word, _)| word), "and");
            return format!("an array of the words {known}");
        }
        Some("object") => "a table",
        _ => "a string",
    }
    .to_owned()
}
