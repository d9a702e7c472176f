use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared};

use super::http::SCHEMA_BYTES_MAX;
use super::references::Definitions;
use super::subjects::{Listed, SubjectVersion, Subjects};
use super::{IdKind, RegisteredSchema, RegistryError, SchemaId, SchemaRegistry};
use crate::compute;
use crate::decode::avro::fingerprints;

/// Files that a folder may hold, and folders in folders. More is another kind of folder.
const FILES_MAX: usize = 10_000;
const DEPTH_MAX: usize = 16;

/// A folder of `.avsc` files, those of its folders too.
///
/// Each schema is known by its fingerprint; and by an id of Azure or of Confluent, where its file has that for a
/// name: `b489dc4916744e3db72dda8f9693f342.avsc`, `42.avsc`. A file may use the named types that other files
/// define. Names that begin with a point are passed over.
///
/// The folder is read when it is opened, and again for a schema that isn't known. A file that is half written then is
/// an outage, not an answer.
pub struct FolderRegistry {
    path: PathBuf,
    read_again_after: Duration,
    /// Whether files were named by numbers when the folder was opened.
    has_numbers: bool,
    state: Mutex<State>,
}

struct State {
    schemas: Arc<Schemas>,
    /// None where the last try has failed.
    read_at: Option<Instant>,
    /// The one reading that all who miss a schema wait for.
    reading: Option<Reading>,
}

type Reading = Shared<BoxFuture<'static, Result<Arc<Schemas>, RegistryError>>>;

type Schemas = BTreeMap<SchemaId, Arc<RegisteredSchema>>;

impl std::fmt::Debug for FolderRegistry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FolderRegistry").field("path", &self.path).finish_non_exhaustive()
    }
}

impl FolderRegistry {
    /// How long the answer that there is no such schema is believed, before the folder is read again. Shorter
    /// reads it for each batch of a stream that names an unknown schema, longer rejects events that could be rows.
    pub const READ_AGAIN_AFTER: Duration = Duration::from_secs(10);

    /// Reads the folder; as a rule again after [`Self::READ_AGAIN_AFTER`].
    ///
    /// # Errors
    /// When the folder or a file in it can't be read, or a file is no schema.
    pub fn open(path: &Path, read_again_after: Duration) -> Result<Self, RegistryError> {
        let schemas = Arc::new(read(path)?);
        let has_numbers = schemas.keys().any(|id| id.kind() == IdKind::Number);
        let state = Mutex::new(State { schemas, read_at: Some(Instant::now()), reading: None });
        Ok(Self { path: path.to_owned(), read_again_after, has_numbers, state })
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
        let reading = {
            let mut state = self.state();
            if let Some(schema) = state.schemas.get(&id) {
                return Ok(schema.clone());
            }
            if state.reading.is_none() && state.read_at.is_some_and(|at| at.elapsed() < self.read_again_after) {
                return Err(not_found());
            }
            state.reading.get_or_insert_with(|| read_again(self.path.clone())).clone()
        };
        let read = reading.clone().await;
        let mut state = self.state();
        // The first to wake files the answer.
        if state.reading.as_ref().is_some_and(|current| current.ptr_eq(&reading)) {
            state.reading = None;
            state.read_at = read.is_ok().then(Instant::now);
            if let Ok(schemas) = &read {
                state.schemas = Arc::clone(schemas);
            }
        }
        read?.get(&id).cloned().ok_or_else(not_found)
    }
}

fn read_again(path: PathBuf) -> Reading {
    let failed = {
        let path = path.clone();
        move |source| RegistryError::ReadAgain { path, source: Arc::new(source) }
    };
    let reading = compute::spawn({
        let path = path.clone();
        move || read(&path).map(Arc::new)
    });
    let lost = move |lost| RegistryError::Folder { path, source: Arc::new(io::Error::other(lost)) };
    async move { reading.await.map_err(lost).flatten().map_err(failed) }.boxed().shared()
}

/// All schemas of a folder, by every id that they have.
fn read(folder: &Path) -> Result<Schemas, RegistryError> {
    let mut schemas = Schemas::new();
    for (path, text) in texts(folder)? {
        let wrong = |reason| RegistryError::File { path: path.clone(), reason };
        let by_content = fingerprints(&text).map_err(wrong)?.map(SchemaId::Fingerprint);
        let by_name = id_by_name(&path);
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

/// The id that a file's name is. A fingerprint isn't said by a name: it is the content's.
fn id_by_name(path: &Path) -> Option<SchemaId> {
    let id = path.file_stem().and_then(|stem| stem.to_str()).and_then(SchemaId::parse);
    id.filter(|id| id.kind() != IdKind::Fingerprint)
}

/// The schemas of a folder's `.avsc` files and where each stands, in the order of their paths, with the named types that
/// other files define put in.
///
/// # Errors
/// A folder or a file that can't be read, a file that is no schema.
pub fn texts(folder: &Path) -> Result<Vec<(PathBuf, String)>, RegistryError> {
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
    let complete = texts.into_iter().map(|(path, text)| {
        let text = definitions.complete(&text).map_err(|reason| RegistryError::File { path: path.clone(), reason })?;
        Ok((path, text))
    });
    complete.collect()
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

/// A file of the folder, by the record that it defines.
struct Versioned {
    path: PathBuf,
    subject: String,
    text: String,
}

impl FolderRegistry {
    /// The files, in the order of their paths, each put together with what it refers to.
    async fn versioned(&self) -> Result<Vec<Versioned>, RegistryError> {
        let folder = self.path.clone();
        let lost = |lost| RegistryError::Folder { path: self.path.clone(), source: Arc::new(io::Error::other(lost)) };
        compute::spawn(move || versioned(&folder)).await.map_err(lost)?
    }
}

fn versioned(folder: &Path) -> Result<Vec<Versioned>, RegistryError> {
    let mut files = Vec::new();
    for (path, text) in texts(folder)? {
        let named = crate::decode::ComparedSchema::parse(&text).ok();
        // What has no name of its own goes by that of its file.
        let subject = named.and_then(|schema| schema.full_name().map(str::to_owned));
        let stem = || path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        files.push(Versioned { subject: subject.unwrap_or_else(stem), path, text });
    }
    Ok(files)
}

fn id_of(file: &Versioned) -> Result<String, RegistryError> {
    let wrong = |reason| RegistryError::File { path: file.path.clone(), reason };
    let [fingerprint, _] = fingerprints(&file.text).map_err(wrong)?.map(SchemaId::Fingerprint);
    Ok(id_by_name(&file.path).unwrap_or(fingerprint).to_string())
}

#[async_trait]
impl Subjects for FolderRegistry {
    async fn list(&self) -> Result<Listed, RegistryError> {
        let mut subjects: Vec<String> = self.versioned().await?.into_iter().map(|file| file.subject).collect();
        subjects.sort();
        subjects.dedup();
        Ok(Listed::Subjects(subjects))
    }

    async fn versions(&self, subject: &str) -> Result<Vec<u32>, RegistryError> {
        Ok(self.all(subject).await?.into_iter().map(|version| version.version).collect())
    }

    /// Of one reading of the folder.
    async fn all(&self, subject: &str) -> Result<Vec<SubjectVersion>, RegistryError> {
        let files = self.versioned().await?.into_iter().filter(|file| file.subject == subject);
        let versions: Result<Vec<SubjectVersion>, RegistryError> = (1..)
            .zip(files)
            .map(|(version, file)| {
                Ok(SubjectVersion { subject: subject.to_owned(), version, id: id_of(&file)?, text: file.text })
            })
            .collect();
        match versions? {
            none if none.is_empty() => Err(RegistryError::NoSubject { subject: subject.to_owned() }),
            versions => Ok(versions),
        }
    }

    async fn version(&self, subject: &str, version: u32) -> Result<SubjectVersion, RegistryError> {
        let files = self.versioned().await?;
        let at = usize::try_from(version).ok().and_then(|version| version.checked_sub(1));
        let found = at.and_then(|at| files.iter().filter(|file| file.subject == subject).nth(at));
        let file = found.ok_or_else(|| RegistryError::NoSubject { subject: format!("{subject}@{version}") })?;
        Ok(SubjectVersion { subject: subject.to_owned(), version, id: id_of(file)?, text: file.text.clone() })
    }

    /// Writes a file, named by the subject and the version: `lead.v002.avsc`.
    async fn register(&self, subject: &str, text: &str) -> Result<SubjectVersion, RegistryError> {
        let wrong = |reason| RegistryError::Subject { subject: subject.to_owned(), reason };
        let schema = crate::decode::ComparedSchema::parse(text);
        if !schema.is_ok_and(|schema| schema.full_name() == Some(subject)) {
            return Err(wrong("in a folder it is the full name of the record"));
        }
        let files = self.versioned().await?;
        let held: Vec<&Versioned> = files.iter().filter(|file| file.subject == subject).collect();
        let count = |at: usize| u32::try_from(at + 1).unwrap_or(u32::MAX);
        let same = |text: &str| serde_json::from_str::<serde_json::Value>(text).ok();
        if let Some(at) = held.iter().position(|file| same(&file.text) == same(text)) {
            let (version, id) = (count(at), id_of(held[at])?);
            return Ok(SubjectVersion { subject: subject.to_owned(), version, id, text: text.to_owned() });
        }
        let version = count(held.len());
        let path = self.path.join(format!("{subject}.v{version:03}.avsc"));
        if held.last().is_some_and(|last| last.path >= path) {
            return Err(wrong("its files sort behind what would be the new one: put the file there yourself"));
        }
        let file = Versioned { path, subject: subject.to_owned(), text: text.to_owned() };
        write_new(&file.path, text)?;
        Ok(SubjectVersion { subject: subject.to_owned(), version, id: id_of(&file)?, text: text.to_owned() })
    }
}

/// A file that wasn't there; whole, or not at all.
fn write_new(path: &Path, text: &str) -> Result<(), RegistryError> {
    use std::io::Write as _;
    let failed = |source: io::Error| RegistryError::Folder { path: path.to_owned(), source: Arc::new(source) };
    // Names that begin with a point are passed over by who reads the folder.
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let unfinished = path.with_file_name(format!(".{name}.new"));
    let mut file = std::fs::File::create(&unfinished).map_err(failed)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
    // A link fails where there is a file already, a rename would replace it.
    let linked = std::fs::hard_link(&unfinished, path);
    std::fs::remove_file(&unfinished).map_err(failed)?;
    linked.map_err(failed)
}
