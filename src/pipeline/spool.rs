//! Requests that were answered for and aren't settled: each a file in the state folder, or a blob.
//!
//! ```text
//! <state>/webhook/<when>-<id>.json      what came, as it came
//! <state>/webhook/poison/…              what could not be settled
//! ```
//!
//! What was kept is there after a crash: in a folder the file and its name are on the disk before the
//! answer is given. Both bounds together keep a sender that nobody settles from filling the disk.

use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use chrono::Utc;
use futures::TryStreamExt as _;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _, PutPayload};
use thiserror::Error;
use tokio::sync::Notify;
use uuid::Uuid;

use crate::error::{Classify, Kind, Retry};
use crate::storage::{Location, StorageError};
use crate::telemetry::metrics;

/// Requests kept at once: a day of a busy namespace whose tables can't be written. More, and a start takes long.
const REQUESTS_MAX: usize = 10_000;

/// What they may take together. Fewer, and one batch of Event Grid's largest fills it.
const BYTES_MAX: u64 = 256 << 20;

/// Requests set aside at most: somebody should have looked long before.
const POISON_MAX: usize = 1_000;

const FOLDER: &str = "webhook";
const POISON: &str = "poison";

#[derive(Debug, Error)]
pub enum SpoolError {
    #[error("the spool is full: {requests} requests of {bytes} bytes wait")]
    Full { requests: usize, bytes: u64 },
    #[error("the spool in `{place}` can't be used")]
    Store {
        place: String,
        #[source]
        source: object_store::Error,
    },
    #[error("the spool in `{place}` can't be written to the disk")]
    Sync {
        place: String,
        #[source]
        source: std::io::Error,
    },
    #[error(transparent)]
    Place(#[from] StorageError),
}

impl Classify for SpoolError {
    fn kind(&self) -> Kind {
        match self {
            Self::Place(error) => error.kind(),
            _ => Kind::External,
        }
    }

    fn retry(&self) -> Retry {
        match self {
            Self::Place(_) => Retry::Never,
            _ => Retry::Backoff,
        }
    }
}

/// Shared by the server that keeps and the task that settles.
pub struct Spool {
    store: Arc<dyn ObjectStore>,
    place: String,
    /// Where it is one on this machine.
    folder: Option<PathBuf>,
    kept: Mutex<Kept>,
    arrived: Notify,
}

impl std::fmt::Debug for Spool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Spool({})", self.place)
    }
}

#[derive(Debug, Default)]
struct Kept {
    /// The bytes of each, those that are being written too.
    bytes: HashMap<String, u64>,
    total: u64,
    /// Those that nobody works on.
    waiting: VecDeque<String>,
    poison: usize,
}

impl Kept {
    fn forget(&mut self, id: &str) {
        if let Some(bytes) = self.bytes.remove(id) {
            self.total -= bytes;
        }
        metrics::webhook_waiting(self.bytes.len() as u64);
    }
}

impl Spool {
    /// Finds what a process before left: it waits, oldest first.
    ///
    /// # Errors
    /// [`SpoolError`]
    pub async fn open(state: &Location) -> Result<Self, SpoolError> {
        let location = state.join(FOLDER);
        let (store, place, folder) = (location.object_store()?, location.to_string(), location.folder());
        if let Some(above) = folder.as_deref().and_then(std::path::Path::parent) {
            let synced = std::fs::File::open(above).and_then(|above| above.sync_all());
            synced.map_err(|source| SpoolError::Sync { place: place.clone(), source })?;
        }
        let failed = |source| SpoolError::Store { place: place.clone(), source };
        let mut found: Vec<_> = store.list(None).try_collect().await.map_err(failed)?;
        found.sort_by(|a, b| a.location.cmp(&b.location));
        let mut kept = Kept::default();
        for file in found {
            let name = file.location.as_ref();
            match name.strip_suffix(".json") {
                _ if name.starts_with(POISON) => kept.poison += 1,
                Some(id) => {
                    kept.bytes.insert(id.to_owned(), file.size);
                    kept.total += file.size;
                    kept.waiting.push_back(id.to_owned());
                }
                None => tracing::warn!(place, file = name, "a file of the spool isn't ours"),
            }
        }
        if !kept.waiting.is_empty() {
            tracing::info!(place, requests = kept.waiting.len(), "taking up announcements of a run before");
        }
        Ok(Self { store, place, folder, kept: Mutex::new(kept), arrived: Notify::new() })
    }

    /// Keeps a request: once this says so, no crash loses it.
    ///
    /// # Errors
    /// [`SpoolError::Full`]; what the disk or the store refuses.
    ///
    /// # Cancel safety
    /// Dropped, it may be kept or not; whoever sent it sends it again, and twice is as good as once.
    pub async fn keep(&self, body: Bytes) -> Result<(), SpoolError> {
        let id = format!("{:013}-{}", Utc::now().timestamp_millis(), Uuid::new_v4());
        let _place = Place::reserve(self, id.clone(), body.len() as u64)?;
        let at = path(&id);
        self.store.put(&at, PutPayload::from_bytes(body)).await.map_err(|source| self.failed(source))?;
        if let Some(folder) = self.folder.clone() {
            let file = folder.join(at.as_ref());
            let synced = tokio::task::spawn_blocking(move || -> std::io::Result<()> {
                std::fs::File::open(file)?.sync_all()?;
                // The name as well as the bytes.
                std::fs::File::open(folder)?.sync_all()
            });
            let synced = synced.await.unwrap_or_else(|error| Err(std::io::Error::other(error)));
            synced.map_err(|source| SpoolError::Sync { place: self.place.clone(), source })?;
        }
        Ok(())
    }

    /// Waits until a request was kept; one that came before counts.
    ///
    /// # Cancel safety
    /// Nothing is lost: what was kept stays waiting.
    pub(super) async fn arrived(&self) {
        self.arrived.notified().await;
    }

    /// Says how much waits, to a recorder that wasn't there when it was opened.
    pub(super) fn tell(&self) {
        metrics::webhook_waiting(self.kept().bytes.len() as u64);
    }

    /// The next that nobody works on: it is the caller's now.
    pub(super) fn take(&self) -> Option<String> {
        self.kept().waiting.pop_front()
    }

    /// What a request said; nothing when it is gone: another process shares the place, and settled it.
    pub(super) async fn read(&self, id: &str) -> Result<Option<Bytes>, SpoolError> {
        let read = async { self.store.get(&path(id)).await?.bytes().await };
        match read.await {
            Ok(body) => Ok(Some(body)),
            Err(object_store::Error::NotFound { .. }) => {
                self.kept().forget(id);
                Ok(None)
            }
            Err(source) => Err(self.failed(source)),
        }
    }

    /// It is settled. One that can't be removed comes again with the next start, and finds its events covered.
    pub(super) async fn remove(&self, id: &str) {
        match self.store.delete(&path(id)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => self.kept().forget(id),
            Err(error) => {
                tracing::warn!(place = self.place, id, %error, "a settled announcement stays until the next start");
            }
        }
    }

    /// It can't be settled: it is kept where somebody may look at it.
    pub(super) async fn set_aside(&self, id: &str, why: &str) {
        tracing::error!(place = self.place, id, why, "an announcement was set aside in `{POISON}`");
        if self.kept().poison >= POISON_MAX {
            tracing::error!(place = self.place, id, "and dropped: {POISON_MAX} are there already");
            self.remove(id).await;
            return;
        }
        let to = Path::from(format!("{POISON}/{id}.json"));
        match self.store.rename(&path(id), &to).await {
            Ok(()) => {
                let mut kept = self.kept();
                kept.forget(id);
                kept.poison += 1;
            }
            Err(error) => tracing::error!(place = self.place, id, %error, "it can't be moved, and stays"),
        }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failed(&self, source: object_store::Error) -> SpoolError {
        SpoolError::Store { place: self.place.clone(), source }
    }
}

fn path(id: &str) -> Path {
    Path::from(format!("{id}.json"))
}

/// Room for a request that is being written. However that ends, the request waits then: whoever asked may have gone
/// before the answer, and the file be there all the same. One that isn't there is forgotten when it is to be read.
struct Place<'a> {
    spool: &'a Spool,
    id: String,
}

impl<'a> Place<'a> {
    fn reserve(spool: &'a Spool, id: String, bytes: u64) -> Result<Self, SpoolError> {
        let mut kept = spool.kept();
        if kept.bytes.len() >= REQUESTS_MAX || kept.total + bytes > BYTES_MAX {
            return Err(SpoolError::Full { requests: kept.bytes.len(), bytes: kept.total });
        }
        kept.bytes.insert(id.clone(), bytes);
        kept.total += bytes;
        metrics::webhook_waiting(kept.bytes.len() as u64);
        Ok(Self { spool, id })
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.spool.kept().waiting.push_back(std::mem::take(&mut self.id));
        self.spool.arrived.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(folder: &std::path::Path) -> Location {
        Location::resolve(&folder.to_string_lossy(), None).expect("an absolute folder")
    }

    #[tokio::test]
    async fn what_was_kept_waits_for_the_next_start_until_it_is_removed() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let spool = Spool::open(&state(folder.path())).await.expect("a folder");
        for body in ["one", "two", "three"] {
            spool.keep(Bytes::from(body)).await.expect("kept");
            // Their order is that of their milliseconds.
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
        let first = spool.take().expect("one waits");
        spool.remove(&first).await;
        let second = spool.take().expect("another waits");
        spool.set_aside(&second, "a test").await;
        drop(spool);
        let spool = Spool::open(&state(folder.path())).await.expect("a folder");
        let left = spool.take().expect("the last waits");
        assert_eq!(spool.read(&left).await.expect("read"), Some(Bytes::from("three")));
        assert_eq!(spool.take(), None);
        let kept = spool.kept();
        assert_eq!((kept.poison, kept.total), (1, 5));
    }

    #[tokio::test]
    async fn a_full_spool_refuses_and_takes_again_once_there_is_room() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let spool = Spool::open(&state(folder.path())).await.expect("a folder");
        spool.keep(Bytes::from("one")).await.expect("kept");
        spool.kept().total = BYTES_MAX - 1;
        let refused = spool.keep(Bytes::from("two")).await;
        assert!(matches!(refused, Err(SpoolError::Full { requests: 1, .. })), "{refused:?}");
        assert_eq!(spool.kept().bytes.len(), 1, "it takes no place");
        let id = spool.take().expect("one waits");
        spool.remove(&id).await;
        spool.keep(Bytes::from("two")).await.expect("there is room");
    }

    #[tokio::test]
    async fn one_that_could_not_be_written_takes_no_place_for_long() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let spool = Spool::open(&state(folder.path())).await.expect("a folder");
        std::fs::remove_dir_all(folder.path().join(FOLDER)).expect("removed");
        std::fs::write(folder.path().join(FOLDER), "in the way").expect("written");
        spool.keep(Bytes::from("one")).await.expect_err("a file is in the way");
        std::fs::remove_file(folder.path().join(FOLDER)).expect("removed");
        let id = spool.take().expect("it waits");
        assert_eq!(spool.read(&id).await.expect("read"), None);
        assert_eq!(spool.kept().total, 0);
    }

    #[tokio::test]
    async fn one_that_another_process_settled_is_gone() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let spool = Spool::open(&state(folder.path())).await.expect("a folder");
        spool.keep(Bytes::from("one")).await.expect("kept");
        let other = Spool::open(&state(folder.path())).await.expect("a folder");
        other.remove(&other.take().expect("one waits")).await;
        let id = spool.take().expect("one waits");
        assert_eq!(spool.read(&id).await.expect("read"), None);
        assert_eq!(spool.kept().total, 0);
    }
}
