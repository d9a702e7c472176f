//! What the registry holds: groups, names, versions, and an append-only log of them in a folder.
//!
//! A schema's id is a hash of its group, name, format and canonical content. So the same content is
//! the same id for good, also after a restart, and also where the log was thrown away.

use std::collections::{BTreeMap, HashMap};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::RegistryError;

/// The service's own limit for one schema.
pub const SCHEMA_BYTES: usize = 1 << 20;
/// All schemas together, as a Premium namespace has it: memory stays bounded.
const TOTAL_BYTES: usize = 100 << 20;
/// Versions of all names together, as a Dedicated namespace has it.
const TOTAL_SCHEMAS: usize = 10_000;
const GROUP_CHARS: usize = 50;
const NAME_CHARS: usize = 100;
const LOG_FILE: &str = "schemas.jsonl";

/// What a schema is written in; the content type of its text follows from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SchemaFormat {
    Avro,
    Json,
    Custom,
    Protobuf,
}

impl SchemaFormat {
    /// The format that a `Content-Type` header names.
    pub(super) fn of_content_type(value: &str) -> Option<Self> {
        let value: String = value.chars().filter(|c| !c.is_whitespace()).collect::<String>().to_ascii_lowercase();
        match value.as_str() {
            "application/json;serialization=avro" => Some(Self::Avro),
            "application/json;serialization=json" => Some(Self::Json),
            "text/plain;charset=utf-8" | "text/plain" => Some(Self::Custom),
            "text/vnd.ms.protobuf" => Some(Self::Protobuf),
            _ => None,
        }
    }

    pub(super) fn content_type(self) -> &'static str {
        match self {
            Self::Avro => "application/json; serialization=Avro",
            Self::Json => "application/json; serialization=Json",
            Self::Custom => "text/plain; charset=utf-8",
            Self::Protobuf => "text/vnd.ms.protobuf",
        }
    }
}

/// One version of one name, as it was registered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Schema {
    pub(super) id: String,
    pub(super) group: String,
    pub(super) name: String,
    pub(super) version: usize,
    pub(super) format: SchemaFormat,
    pub(super) content: String,
}

/// What a caller of the service did wrong; the words go into the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Refusal {
    Name(String),
    Content(String),
    TooLarge,
    Full,
}

#[derive(Debug, Default)]
pub(super) struct Store {
    groups: BTreeMap<String, BTreeMap<String, Vec<Arc<Schema>>>>,
    by_id: HashMap<String, Arc<Schema>>,
    bytes: usize,
    log: Option<File>,
}

impl Store {
    /// An empty store, or what the log in `dir` tells.
    ///
    /// # Errors
    /// When the folder can't be used, or its log isn't what was written.
    pub(super) fn open(dir: Option<&Path>, groups: &[String]) -> Result<Self, RegistryError> {
        let mut store = Self::default();
        for group in groups {
            store.groups.entry(group.clone()).or_default();
        }
        if let Some(dir) = dir {
            store.read_log(dir)?;
        }
        Ok(store)
    }

    pub(super) fn groups(&self) -> Vec<String> {
        self.groups.keys().cloned().collect()
    }

    pub(super) fn by_id(&self, id: &str) -> Option<Arc<Schema>> {
        self.by_id.get(id).cloned()
    }

    pub(super) fn has_group(&self, group: &str) -> bool {
        self.groups.contains_key(group)
    }

    /// The versions of a name, from 1 upwards.
    pub(super) fn versions(&self, group: &str, name: &str) -> Option<&[Arc<Schema>]> {
        self.groups.get(group)?.get(name).map(Vec::as_slice)
    }

    /// The schema with this content, if the name has it.
    pub(super) fn find(&self, group: &str, name: &str, format: SchemaFormat, content: &str) -> Option<Arc<Schema>> {
        self.by_id(&id_of(group, name, format, content))
    }

    /// The same content gives the schema that is there, anything else the next version.
    ///
    /// The log is on disk before the answer: an id that was given out stays.
    pub(super) fn register(
        &mut self,
        group: &str,
        name: &str,
        format: SchemaFormat,
        content: &str,
    ) -> Result<Result<Arc<Schema>, Refusal>, io::Error> {
        if let Err(refusal) = check(group, name, format, content) {
            return Ok(Err(refusal));
        }
        if let Some(known) = self.find(group, name, format, content) {
            return Ok(Ok(known));
        }
        if self.by_id.len() >= TOTAL_SCHEMAS || self.bytes + content.len() > TOTAL_BYTES {
            return Ok(Err(Refusal::Full));
        }
        let schema = Schema {
            id: id_of(group, name, format, content),
            group: group.to_owned(),
            name: name.to_owned(),
            version: self.versions(group, name).map_or(0, <[_]>::len) + 1,
            format,
            content: content.to_owned(),
        };
        if let Some(log) = &mut self.log {
            let mut line = serde_json::to_vec(&schema).map_err(io::Error::other)?;
            line.push(b'\n');
            let end = log.stream_position()?;
            let written = log.write_all(&line).and_then(|()| log.sync_data());
            if let Err(error) = written {
                // Half a line must not stand before a whole one.
                log.set_len(end)?;
                log.seek(io::SeekFrom::Start(end))?;
                return Err(error);
            }
        }
        Ok(Ok(self.insert(schema)))
    }

    fn insert(&mut self, schema: Schema) -> Arc<Schema> {
        let schema = Arc::new(schema);
        self.bytes += schema.content.len();
        self.by_id.insert(schema.id.clone(), Arc::clone(&schema));
        let names = self.groups.entry(schema.group.clone()).or_default();
        names.entry(schema.name.clone()).or_default().push(Arc::clone(&schema));
        schema
    }

    fn read_log(&mut self, dir: &Path) -> Result<(), RegistryError> {
        let path = dir.join(LOG_FILE);
        let failed = |source| RegistryError::File { path: path.clone(), source };
        std::fs::create_dir_all(dir).map_err(failed)?;
        let mut log =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).map_err(failed)?;
        let mut text = Vec::new();
        log.read_to_end(&mut text).map_err(failed)?;
        // A line without its end was cut off by a crash before anybody was told its id.
        let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        for (number, line) in text[..whole].split(|byte| *byte == b'\n').enumerate() {
            if line.is_empty() {
                continue;
            }
            let damaged = |source| RegistryError::Log { path: path.clone(), line: number + 1, source };
            let schema: Schema = serde_json::from_slice(line).map_err(|error| damaged(Some(error)))?;
            let next = self.versions(&schema.group, &schema.name).map_or(0, <[_]>::len) + 1;
            let id = id_of(&schema.group, &schema.name, schema.format, &schema.content);
            if schema.id != id || schema.version != next {
                return Err(damaged(None));
            }
            self.insert(schema);
        }
        let end = u64::try_from(whole).expect("a file's length fits in u64");
        log.set_len(end).map_err(failed)?;
        log.seek(io::SeekFrom::Start(end)).map_err(failed)?;
        self.log = Some(log);
        Ok(())
    }
}

/// Where the log of a registry lies.
#[cfg(test)]
fn log_path(dir: &Path) -> std::path::PathBuf {
    dir.join(LOG_FILE)
}

fn check(group: &str, name: &str, format: SchemaFormat, content: &str) -> Result<(), Refusal> {
    for (what, text, most) in [("group", group, GROUP_CHARS), ("schema", name, NAME_CHARS)] {
        let fits = text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && !text.contains(['\\', '/', '$', ':'])
            && text.chars().count() <= most;
        if !fits {
            return Err(Refusal::Name(format!(
                "{what} name `{text}` must begin with a letter or a digit, have at most {most} characters, and none of \\ / $ :"
            )));
        }
    }
    if content.len() > SCHEMA_BYTES {
        return Err(Refusal::TooLarge);
    }
    match format {
        SchemaFormat::Avro => {
            apache_avro::Schema::parse_str(content).map_err(|error| Refusal::Content(error.to_string()))?;
        }
        SchemaFormat::Json => {
            serde_json::from_str::<Value>(content).map_err(|error| Refusal::Content(error.to_string()))?;
        }
        SchemaFormat::Custom | SchemaFormat::Protobuf => {}
    }
    Ok(())
}

/// 32 lower-case hex digits; white space and the order of keys don't count in JSON.
fn id_of(group: &str, name: &str, format: SchemaFormat, content: &str) -> String {
    let canonical = match (format, serde_json::from_str::<Value>(content)) {
        (SchemaFormat::Avro | SchemaFormat::Json, Ok(value)) => {
            let mut text = String::new();
            write_canonical(&value, &mut text);
            text
        }
        _ => content.to_owned(),
    };
    let mut hash = Sha256::new();
    for part in [group, name, format.content_type(), &canonical] {
        hash.update(part.len().to_be_bytes());
        hash.update(part.as_bytes());
    }
    hash.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

fn write_canonical(value: &Value, text: &mut String) {
    match value {
        Value::Object(fields) => {
            let sorted: BTreeMap<_, _> = fields.iter().collect();
            text.push('{');
            for (key, value) in sorted {
                text.push_str(&Value::from(key.as_str()).to_string());
                text.push(':');
                write_canonical(value, text);
                text.push(',');
            }
            text.push('}');
        }
        Value::Array(items) => {
            text.push('[');
            for item in items {
                write_canonical(item, text);
                text.push(',');
            }
            text.push(']');
        }
        leaf => text.push_str(&leaf.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAD: &str = r#"{"type":"record","name":"Lead","fields":[{"name":"id","type":"string"}]}"#;
    const SPACED: &str = r#"{ "name": "Lead", "type": "record", "fields": [ {"type": "string", "name": "id"} ] }"#;
    const WIDER: &str = r#"{"type":"record","name":"Lead","fields":[{"name":"id","type":"string"},{"name":"score","type":["null","double"],"default":null}]}"#;

    fn register(store: &mut Store, name: &str, content: &str) -> Result<Arc<Schema>, Refusal> {
        store.register("sales", name, SchemaFormat::Avro, content).unwrap()
    }

    #[test]
    fn the_same_content_is_the_same_id_and_another_the_next_version() {
        let mut store = Store::default();
        let first = register(&mut store, "Lead", LEAD).unwrap();
        let second = register(&mut store, "Lead", WIDER).unwrap();
        assert_eq!((first.version, second.version), (1, 2));
        assert_ne!(first.id, second.id);
        assert_eq!(register(&mut store, "Lead", SPACED).unwrap(), first);
        assert_ne!(register(&mut store, "Other", LEAD).unwrap().id, first.id);
        assert!(first.id.len() == 32 && first.id.chars().all(|c| matches!(c, '0'..='9' | 'a'..='f')));
    }

    #[test]
    fn a_restart_keeps_ids_and_versions() {
        let dir = tempfile::tempdir().unwrap();
        let before = {
            let mut store = Store::open(Some(dir.path()), &[]).unwrap();
            register(&mut store, "Lead", LEAD).unwrap();
            register(&mut store, "Lead", WIDER).unwrap()
        };
        let mut store = Store::open(Some(dir.path()), &[]).unwrap();
        assert_eq!(store.by_id(&before.id), Some(Arc::clone(&before)));
        assert_eq!(register(&mut store, "Lead", WIDER).unwrap(), before);
    }

    #[test]
    fn a_line_cut_off_by_a_crash_is_dropped_and_the_next_one_stands() {
        let dir = tempfile::tempdir().unwrap();
        register(&mut Store::open(Some(dir.path()), &[]).unwrap(), "Lead", LEAD).unwrap();
        let path = log_path(dir.path());
        let mut text = std::fs::read(&path).unwrap();
        text.extend_from_slice(br#"{"id":"0012"#);
        std::fs::write(&path, text).unwrap();
        register(&mut Store::open(Some(dir.path()), &[]).unwrap(), "Lead", WIDER).unwrap();
        let store = Store::open(Some(dir.path()), &[]).unwrap();
        assert_eq!(store.versions("sales", "Lead").map(<[_]>::len), Some(2));
    }

    #[test]
    fn a_changed_log_is_refused_with_its_line() {
        let dir = tempfile::tempdir().unwrap();
        register(&mut Store::open(Some(dir.path()), &[]).unwrap(), "Lead", LEAD).unwrap();
        let path = log_path(dir.path());
        let text = std::fs::read_to_string(&path).unwrap().replace("\"version\":1", "\"version\":7");
        std::fs::write(&path, text).unwrap();
        assert!(matches!(Store::open(Some(dir.path()), &[]), Err(RegistryError::Log { line: 1, .. })));
    }

    #[test]
    fn wrong_names_and_contents_are_refused() {
        let mut store = Store::default();
        assert!(matches!(register(&mut store, "a:b", LEAD), Err(Refusal::Name(_))));
        assert!(matches!(register(&mut store, &"a".repeat(101), LEAD), Err(Refusal::Name(_))));
        assert!(matches!(register(&mut store, "Lead", r#"{"type":"recrd"}"#), Err(Refusal::Content(_))));
        assert_eq!(register(&mut store, "Lead", &" ".repeat(SCHEMA_BYTES + 1)), Err(Refusal::TooLarge));
    }
}
