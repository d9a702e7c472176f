//! The reference of every key, as `docs/configuration.md` has it, made from the declared types.

use std::fmt::Write as _;

use serde_json::Value;

use super::schema::{self, PIPELINE, PROJECT, TEST};

const INTRODUCTION: &str = "\
# Configuration

<!-- Made from the doc comments of `src/config/declared.rs`; a test says how to make it again. -->

A project is a folder with `sluice.toml` at its root and a file for each pipeline in
`pipelines/<team>/<name>.toml`; transforms name their SQL files. `sluice check` finds every mistake in them, without
network and without data; `sluice check --json-schema project`, `--json-schema pipeline` and `--json-schema test` print JSON
Schemas for editors (also in `docs/schema/`).

- The kind of a thing is the name of its table: `[source.event_hubs]`, `[registry.azure]`.
- Relative paths start at the project's folder, wherever a command is run.
- `--env prod` lays `sluice.prod.toml` over `sluice.toml`: tables are joined, all else is replaced. Where only one
  of several keys may be set (`connection_string` and `namespace`; `account_key` and `sas_token`), setting one in
  the overlay takes the other away.
- Every string may hold variables: `${NAME}`, `${NAME:-default}`, `${file:path}` (the text of a file). `$${`
  stands for `${` itself. An empty variable counts as unset. What comes from a variable or a file is never printed.
  Key Vault references aren't supported by this version.
- Durations are `500ms`, `10s`, `5min`, `1h`, `7days`; sizes `64KiB`, `128MiB`, `1GB`; times `2026-01-01T00:00:00Z`.
- Plaintext (`http`, `amqp`, `UseDevelopmentEmulator=true`) is for loopback alone.
";

/// Markdown: a section for each table of both files.
pub fn markdown() -> String {
    let mut text = INTRODUCTION.to_owned();
    let files = [
        ("sluice.toml", &*PROJECT),
        ("pipelines/\\<team\\>/\\<name\\>.toml", &*PIPELINE),
        ("tests/\\<name\\>.toml", &*TEST),
    ];
    for (title, schema) in files {
        let _ = write!(text, "\n## {title}\n\n{}\n", description(schema));
        let mut unsupported = Vec::new();
        section(schema, &mut Vec::new(), Within::Table, true, &mut text, &mut unsupported);
        if !unsupported.is_empty() {
            text.push_str("\n### Not in this version\n\nThese are refused by their name:\n\n");
            text.extend(unsupported);
        }
    }
    text
}

/// Whether a table is one, or one of many.
#[derive(Clone, Copy)]
enum Within {
    Table,
    ArrayOfTables,
}

/// The table that a value of this schema is, or is an array of.
fn table_of(schema: &Value) -> Option<(Within, &Value)> {
    if schema::is_table(schema) {
        return Some((Within::Table, schema));
    }
    schema::table_in_array(schema).map(|table| (Within::ArrayOfTables, table))
}

/// A table of keys, then the tables within, each with a section of its own.
fn section(
    schema: &Value,
    path: &mut Vec<String>,
    within: Within,
    required: bool,
    text: &mut String,
    unsupported: &mut Vec<String>,
) {
    let Some(properties) = schema["properties"].as_object() else { return };
    let needed: Vec<&str> = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let (mut keys, mut tables): (Vec<_>, Vec<_>) = properties
        .iter()
        .filter(|(key, known)| {
            let refused = known["x-unsupported"] == true;
            if refused {
                let at = [path.as_slice(), &[(*key).clone()]].concat().join(".");
                unsupported.push(format!("- `{at}`: {}\n", description(known)));
            }
            !refused
        })
        .partition(|(_, known)| schema::members(known).into_iter().any(|member| table_of(member).is_none()));
    keys.sort_by_key(|(key, _)| !needed.contains(&key.as_str()));
    tables.sort_by_key(|(key, _)| !needed.contains(&key.as_str()));

    if !path.is_empty() && (!keys.is_empty() || !description(schema).is_empty()) {
        let presence = if required { "" } else { " (optional)" };
        let header = match within {
            Within::Table => format!("[{}]", path.join(".")),
            Within::ArrayOfTables => format!("[[{}]]", path.join(".")),
        };
        let _ = write!(text, "\n### `{header}`{presence}\n\n");
        if !description(schema).is_empty() {
            let _ = writeln!(text, "{}", description(schema));
        }
    }
    if !keys.is_empty() {
        text.push_str("\n| key | type | default | |\n|---|---|---|---|\n");
        for (key, known) in &keys {
            let default = match default(known) {
                Some(default) => default,
                None if needed.contains(&key.as_str()) => "**required**".to_owned(),
                None => String::new(),
            };
            let _ = writeln!(text, "| `{key}` | {} | {default} | {} |", type_of(known), cell(known));
            for word in refused_words(known) {
                let at = [path.as_slice(), &[(*key).clone()]].concat().join(".");
                unsupported.push(format!("- `{at} = \"{word}\"`\n"));
            }
        }
    }
    let unions = keys.iter().map(|(key, known)| (*key, *known));
    for (key, known) in unions.chain(tables) {
        path.push(key.clone());
        for (within, member) in schema::members(known).into_iter().filter_map(table_of) {
            section(member, path, within, needed.contains(&key.as_str()), text, unsupported);
        }
        path.pop();
    }
}

fn description(schema: &Value) -> &str {
    schema["description"].as_str().unwrap_or_default()
}

fn default(schema: &Value) -> Option<String> {
    if let Some(words) = schema["x-default-words"].as_str() {
        return Some(words.to_owned());
    }
    match &schema["default"] {
        Value::Null => None,
        Value::String(text) => Some(format!("`\"{text}\"`")),
        other => Some(format!("`{other}`")),
    }
}

fn type_of(schema: &Value) -> String {
    if let Some(members) = schema["anyOf"].as_array() {
        return members.iter().map(type_of).collect::<Vec<_>>().join(" or ");
    }
    match (schema["x-type"].as_str(), schema["type"].as_str()) {
        (Some(name), _) => name.to_owned(),
        (None, Some("array")) => format!("array of {}s", type_of(&schema["items"])),
        (None, Some("object")) => "table".to_owned(),
        (None, Some(name)) => name.to_owned(),
        (None, None) => "string".to_owned(),
    }
}

/// What a key means, and what each of its words does.
fn cell(schema: &Value) -> String {
    let mut text = description(schema).to_owned();
    for member in schema::members(schema) {
        for (word, meaning) in schema::words(member) {
            let separator = if text.is_empty() { "" } else { "<br>" };
            let colon = if meaning.is_empty() { "" } else { ": " };
            let _ = write!(text, "{separator}`{word}`{colon}{meaning}");
        }
    }
    text.replace('|', "\\|")
}

fn refused_words(schema: &Value) -> Vec<&str> {
    let members = schema::members(schema).into_iter();
    members
        .flat_map(|member| member["x-unsupported"].as_array().into_iter().flatten())
        .filter_map(Value::as_str)
        .collect()
}
