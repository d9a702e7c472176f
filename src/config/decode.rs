//! `[decode]` of a pipeline, from what is declared to what it means.

use std::path::Path;

use super::declared::{
    Attribute as AttributeWord, DecodeTable, Format as FormatWord, Framing as FramingWord,
    OnSchemaChange as OnSchemaChangeWord,
};
use super::document::{Node, Value};
use super::problem::{Problem, quoted};
use super::project::{Declared, Shared};
use super::reading::Reading;
use super::spec::{Attribute, DecodeSpec, EvolutionSpec, Format, Framing, OnSchemaChange, RegistrySpec};

/// A schema is written by hand or by a tool: what is larger is another kind of file.
const LARGEST_SCHEMA_BYTES: u64 = 4 * 1024 * 1024;

/// What it means, with the bytes of the pinned schema.
pub(super) fn build(
    table: DecodeTable,
    dir: &Path,
    shared: &Shared,
    reading: &mut Reading<'_>,
) -> Option<(DecodeSpec, Option<Vec<u8>>)> {
    let format = match table.format {
        Some(FormatWord::Raw) => Format::Raw,
        Some(FormatWord::Json) => Format::Json,
        Some(FormatWord::Avro) | None => Format::Avro,
    };
    let framing = match table.framing {
        Some(FramingWord::ContentType) => Framing::ContentType,
        Some(FramingWord::Preamble) => Framing::Preamble,
        Some(FramingWord::Confluent) => Framing::Confluent,
        Some(FramingWord::Container) => Framing::Container,
        Some(FramingWord::SingleObject) => Framing::SingleObject,
        Some(FramingWord::Bare) => Framing::Bare,
        Some(FramingWord::CloudEvents) => Framing::CloudEvents,
        Some(FramingWord::Json) => Framing::Json,
        Some(FramingWord::Auto) | None => Framing::Auto,
    };
    let has = |key| reading.root.at(&["decode", key]).is_some();
    let (has_schema, has_format) = (has("schema"), table.format.is_some() || !has("format"));
    if format == Format::Raw {
        let idle = ["schema", "columns_from", "framing", "on_schema_change", "defaults"];
        for key in idle.into_iter().filter(|key| has(key)) {
            let hint = format!("remove `{key}`, or say `format = \"avro\"`");
            reading.wrong(&["decode", key], format!("`{key}` does nothing with `format = \"raw\"`"), hint);
        }
    } else if format == Format::Json {
        if !matches!(framing, Framing::Auto | Framing::CloudEvents | Framing::Json) {
            let word = reading.root.written(&["decode", "framing"]).trim_matches('"').to_owned();
            let message = format!("`framing = \"{word}\"` does nothing with `format = \"json\"`");
            reading.wrong(&["decode", "framing"], message, "it must be `auto`, `cloudevents` or `json`");
        }
        // A body that stays text has one column, whatever it holds.
        let idle = ["columns_from", "on_schema_change", "defaults"];
        for key in idle.into_iter().filter(|key| !has_schema && has(key)) {
            let message = format!("`{key}` does nothing with `format = \"json\"` that no schema is pinned for");
            reading.wrong(&["decode", key], message, format!("remove `{key}`, or pin a schema"));
        }
        if has_schema && has("columns_from") {
            // No event would ever fill such columns.
            let message =
                "`columns_from` does nothing with `format = \"json\"`: JSON has the columns of the pinned schema";
            reading.wrong(&["decode", "columns_from"], message, "add the fields to the pinned schema, with a default");
        }
    } else if framing == Framing::Json {
        let hint = "say `format = \"json\"`";
        reading.wrong(&["decode", "framing"], "`framing = \"json\"` does nothing with `format = \"avro\"`", hint);
    } else if framing == Framing::Bare && !has_schema {
        let hint = "pin it: `schema = \"schemas/lead.avsc\"`";
        reading.wrong(&["decode", "framing"], "`framing = \"bare\"` needs a schema", hint);
    } else if let Some(needed) =
        registry_needed(framing, has_schema).filter(|_| has_format && !matches!(shared.registry, Declared::Absent))
    {
        if let Declared::As(registry) = &shared.registry
            && !needed.contains(&registry_kind(registry))
        {
            let word = reading.root.written(&["decode", "framing"]).trim_matches('"').to_owned();
            let message = format!(
                "`framing = \"{word}\"` needs schema ids that `[registry.{}]` doesn't have",
                registry_kind(registry)
            );
            let hint = format!("declare `[registry.{}]` in `sluice.toml`, or say `framing = \"auto\"`", needed[0]);
            reading.wrong(&["decode", "framing"], message, hint);
        }
    } else if has_format
        && matches!(shared.registry, Declared::Absent)
        && ((!has_schema && framing != Framing::Container) || registry_needed(framing, has_schema).is_some())
    {
        let hint = "declare a registry in `sluice.toml`, as `[registry.azure]`, or pin a schema, or say `format = \"json\"` or `\"raw\"`";
        let places: [&[&str]; 3] = [&["decode"], &["source", "event_hubs"], &["source", "capture"]];
        let path = places.into_iter().find(|place| reading.root.at(place).is_some()).unwrap_or(&["source"]);
        reading.wrong(path, "no schema to decode with: there is no registry", hint);
    }
    let (schema, bytes) = match &table.schema {
        None => (None, None),
        Some(file) => {
            let path = dir.join(&file.0);
            let bytes = schema_of(&path, &["decode", "schema"], reading)?;
            (Some(path), Some(bytes))
        }
    };
    let mut columns_from = Vec::new();
    for (at, file) in table.columns_from.unwrap_or_default().iter().enumerate() {
        let path = dir.join(&file.0);
        schema_of(&path, &["decode", "columns_from", &at.to_string()], reading)?;
        columns_from.push(path);
    }
    let require = table.require.iter().flatten().map(|word| attribute(*word)).collect();
    Some((DecodeSpec { format, schema, columns_from, framing, require }, bytes))
}

fn attribute(word: AttributeWord) -> Attribute {
    match word {
        AttributeWord::Id => Attribute::Id,
        AttributeWord::Source => Attribute::Source,
        AttributeWord::SpecVersion => Attribute::SpecVersion,
        AttributeWord::Type => Attribute::Type,
        AttributeWord::Time => Attribute::Time,
        AttributeWord::Subject => Attribute::Subject,
        AttributeWord::DataContentType => Attribute::DataContentType,
        AttributeWord::DataSchema => Attribute::DataSchema,
    }
}

/// How the table meets new schemas.
pub(super) fn evolution(table: &DecodeTable) -> EvolutionSpec {
    let on_schema_change = match table.on_schema_change {
        Some(OnSchemaChangeWord::Pin) => OnSchemaChange::Pin,
        Some(OnSchemaChangeWord::Fail) => OnSchemaChange::Fail,
        Some(OnSchemaChangeWord::Evolve) | None => OnSchemaChange::Evolve,
    };
    EvolutionSpec { on_schema_change, defaults: table.defaults.unwrap_or(false) }
}

/// The registries that have the schema ids of a framing; none needed is `None`.
fn registry_needed(framing: Framing, is_pinned: bool) -> Option<&'static [&'static str]> {
    match framing {
        Framing::ContentType | Framing::Preamble => Some(&["azure", "folder"]),
        Framing::Confluent => Some(&["confluent", "folder"]),
        Framing::SingleObject if !is_pinned => Some(&["folder"]),
        Framing::Auto
        | Framing::Container
        | Framing::SingleObject
        | Framing::Bare
        | Framing::CloudEvents
        | Framing::Json => None,
    }
}

fn registry_kind(registry: &RegistrySpec) -> &'static str {
    match registry {
        RegistrySpec::Azure { .. } => "azure",
        RegistrySpec::Confluent { .. } => "confluent",
        RegistrySpec::Folder { .. } => "folder",
    }
}

/// The bytes of a schema that can be used; `at` is where its path stands.
fn schema_of(file: &Path, at: &[&str], reading: &mut Reading<'_>) -> Option<Vec<u8>> {
    let (place, written) = match reading.root.within(at) {
        Some(Node { place, value: Value::Text(text) }) => (place.clone(), text.written.clone()),
        _ => (reading.place(at), String::new()),
    };
    let shown = quoted(&written);
    let mut wrong = |message: String, hint: &str| {
        reading.problems.push(Problem::new(place.clone(), message).with_hint(hint));
    };
    let relative = "relative paths start at the project's folder";
    let bytes = match std::fs::metadata(file) {
        Ok(metadata) if metadata.is_file() && metadata.len() <= LARGEST_SCHEMA_BYTES => std::fs::read(file),
        Ok(metadata) if metadata.is_file() => {
            let message = format!("schema {shown} has {} bytes, more than {LARGEST_SCHEMA_BYTES}", metadata.len());
            wrong(message, "is it a schema at all?");
            return None;
        }
        Ok(_) => {
            wrong(format!("schema {shown} is not a file"), relative);
            return None;
        }
        Err(error) => Err(error),
    };
    let bytes = match bytes {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            wrong(format!("schema {shown} isn't there"), relative);
            return None;
        }
        Err(error) => {
            wrong(format!("schema {shown} can't be read: {error}"), relative);
            return None;
        }
    };
    let parsed = std::str::from_utf8(&bytes)
        .map_err(|_| "it is not UTF-8 text".to_owned())
        .and_then(|text| apache_avro::Schema::parse_str(text).map_err(|error| error.to_string()));
    match parsed {
        Ok(apache_avro::Schema::Record(_)) => Some(bytes),
        Ok(_) => {
            wrong(format!("schema {shown} is not a record"), "a row needs named fields");
            None
        }
        Err(error) => {
            wrong(format!("schema {shown} is not Avro: {error}"), "an `.avsc` file is JSON");
            None
        }
    }
}
