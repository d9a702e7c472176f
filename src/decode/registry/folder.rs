use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;

use super::http::SCHEMA_BYTES_MAX;
use super::references::Definitions;
use super::{IdKind, RegisteredSchema, RegistryError, SchemaId, SchemaRegistry};
use crate::compute;
use crate::decode::avro::fingerprints;

/// How long the answer that there is no such schema is believed, before the folder is read again. Shorter reads it
/// for each batch of a stream that names an unknown schema, longer rejects events that could be rows.
const READ_AGAIN_AFTER: Duration = Duration::from_secs(10);

/// Files that a folder may hold, and folders in folders. More is another kind of folder.
const FILES_MAX: usize = 10_000;
const DEPTH_MAX: usize = 16;

/// A folder of `.avsc` files, those of its folders too.
///
/// Each schema is known by its fingerprint; and by an id of Azure or of Confluent, where its file has that for a
/// name: `b489dc4916744e3db72dda8f9693f342.avsc`, `42.avsc`. A file may use the named types that other files
/// define. Names that begin with a point are passed over.
///
/// The folder is read when it is opened, and again for a schema that isn't known.
#[derive(Debug)]
pub struct FolderRegistry {
    path: PathBuf,
    /// Whether files were named by numbers when the folder was opened.
    has_numbers: bool,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    schemas: Schemas,
    read_at: Instant,
}

type Schemas = BTreeMap<SchemaId, Arc<RegisteredSchema>>;

impl FolderRegistry {
    /// Reads the folder.
    ///
    /// # Errors
    /// When the folder or a file in it can't be read, or a file is no schema.
    pub fn open(path: &Path) -> Result<Self, RegistryError> {
        let schemas = read(path)?;
        let has_numbers = schemas.keys().any(|id| id.kind() == IdKind::Number);
        let state = Mutex::new(State { schemas, read_at: Instant::now() });
        Ok(Self { path: path.to_owned(), has_numbers, state })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl SchemaRegistry for FolderRegistry {
    fn names(&self, kind: IdKind) -> bool {
        match kind {
            IdKind::Guid | IdKind::Fingerprint => true,
            // Any bare datum may begin with a zero byte, so there must be a reason to look for one.
            IdKind::Number => self.has_numbers,
        }
    }

    async fn schema(&self, id: &str) -> Result<Arc<RegisteredSchema>, RegistryError> {
        let id = SchemaId::parse(id).ok_or_else(|| RegistryError::Id { id: id.chars().take(64).collect() })?;
        let not_found = || RegistryError::NotFound { id: id.to_string() };
        {
            let mut state = self.state();
            if let Some(schema) = state.schemas.get(&id) {
                return Ok(schema.clone());
            }
            if state.read_at.elapsed() < READ_AGAIN_AFTER {
                return Err(not_found());
            }
            // Who asks meanwhile gets the old answer, and asks again.
            state.read_at = Instant::now();
        }
        let path = self.path.clone();
        match compute::spawn(move || read(&path)).await {
            Ok(Ok(schemas)) => self.state().schemas = schemas,
            Ok(Err(error)) => return Err(error),
            Err(lost) => tracing::error!(error = %lost, "the folder of schemas wasn't read again"),
        }
        self.state().schemas.get(&id).cloned().ok_or_else(not_found)
    }
}

/// All schemas of a folder, by every id that they have.
fn read(folder: &Path) -> Result<Schemas, RegistryError> {
    let mut paths = Vec::new();
    find(folder, 0, &mut paths)?;
    paths.sort();
    let mut texts = Vec::with_capacity(paths.len());
    let mut definitions = Definitions::default();
    for path in paths {
        let text = read_file(&path)?;
        let shown = path.strip_prefix(folder).unwrap_or(&path).display().to_string();
        definitions.add(&shown, &text).map_err(|reason| RegistryError::File { path: path.clone(), reason })?;
        texts.push((path, text));
    }
    let mut schemas = Schemas::new();
    for (path, text) in texts {
        let wrong = |reason| RegistryError::File { path: path.clone(), reason };
        let text = definitions.complete(&text).map_err(wrong)?;
        let by_content = fingerprints(&text).map_err(wrong)?.map(SchemaId::Fingerprint);
        let by_name = path.file_stem().and_then(|stem| stem.to_str()).and_then(SchemaId::parse);
        let by_name = by_name.filter(|id| id.kind() != IdKind::Fingerprint);
        for id in by_content.into_iter().chain(by_name) {
            let schema = Arc::new(RegisteredSchema { id, text: text.clone() });
            // Two files of one fingerprint differ in what doesn't matter to a datum; two of one id contradict.
            if schemas.insert(id, schema).is_some_and(|other| Some(id) == by_name && other.text != text) {
                return Err(wrong(format!("another file has the id `{id}` too, and another schema")));
            }
        }
    }
    Ok(schemas)
}

fn find(folder: &Path, depth: usize, paths: &mut Vec<PathBuf>) -> Result<(), RegistryError> {
    let failed = |source: io::Error| RegistryError::Folder { path: folder.to_owned(), source: Arc::new(source) };
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let (name, path) = (entry.file_name(), entry.path());
        if name.as_encoded_bytes().starts_with(b".") {
            continue;
        }
        // A link to a folder isn't followed, and so none leads in a circle.
        if entry.file_type().map_err(failed)?.is_dir() {
            if depth == DEPTH_MAX {
                return Err(RegistryError::File { path, reason: format!("it lies deeper than {DEPTH_MAX} folders") });
            }
            find(&path, depth + 1, paths)?;
        } else if path.extension().is_some_and(|extension| extension == "avsc") {
            if paths.len() == FILES_MAX {
                return Err(RegistryError::File { path, reason: format!("it is one of more than {FILES_MAX}") });
            }
            paths.push(path);
        }
    }
    Ok(())
}

fn read_file(path: &Path) -> Result<String, RegistryError> {
    let failed = |source: io::Error| RegistryError::Folder { path: path.to_owned(), source: Arc::new(source) };
    let metadata = std::fs::metadata(path).map_err(failed)?;
    if !metadata.is_file() || metadata.len() > SCHEMA_BYTES_MAX as u64 {
        let reason = format!("it is no file of at most {SCHEMA_BYTES_MAX} bytes");
        return Err(RegistryError::File { path: path.to_owned(), reason });
    }
    std::fs::read_to_string(path).map_err(failed)
}
