//! Which blobs there are, and which numbers each begins with.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt as _};
use percent_encoding::percent_decode_str;
use tokio::sync::OnceCell;
use url::Url;

use super::CaptureError;
use super::index::BlobIndex;
use super::read::{EnqueuedBetween, events};
use super::record::RecordShape;
use crate::avro_container::{ContainerError, Header, Step};
use crate::checkpoint::Range;
use crate::config::capture_name::BlobName;
use crate::config::spec::CaptureSpec;
use crate::storage::{Location, StorageError};

/// What is fetched of a blob to learn its first number: the header and a record or two.
const HEAD_BYTES: u64 = 8 * 1024;

/// How far a name may lie before the events of its blob. Names tell when a window began or ended, by somebody
/// else's clock: the real one of our tests was named 73 s before its event. Windows last 15 minutes at most.
const NAME_SLACK: TimeDelta = TimeDelta::days(1);

/// How much later a blob with lower numbers may be: clocks of brokers differ by less.
const COUNTS_ANEW_AFTER: TimeDelta = TimeDelta::seconds(10);

/// How often what was learned is kept at most: each time all of it is written.
const KEEP_INDEX_EVERY: Duration = Duration::from_secs(60);

/// Blobs looked into at once. Each look is a request of some milliseconds and a few kilobytes.
const LOOKS: usize = 16;

/// A blob that holds events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaptureBlob {
    pub path: Path,
    pub bytes: u64,
    /// When its window began or ended, by its name: it bounds no event.
    pub window: DateTime<Utc>,
    pub first: i64,
    /// When its first event was enqueued, epoch ms.
    pub first_enqueued_at: i64,
    /// One past its last number, where it was read before.
    pub end: Option<i64>,
}

/// What was found at one moment.
#[derive(Debug, Default)]
pub struct Listing {
    /// By partition, ascending by first number; a blob that was written twice is there twice.
    pub partitions: BTreeMap<String, Vec<CaptureBlob>>,
    /// Blobs without events: heartbeats.
    pub empty: Vec<Path>,
    /// Blobs that couldn't be looked into, and why.
    pub torn: Vec<CaptureError>,
}

impl Listing {
    /// The blobs of one generation of a partition, each with the numbers that it has; where it wasn't read
    /// before, that it can have at most: up to where the next one begins. A generation counts for itself, so
    /// the blobs of another bound nothing; the last one before it may hold its first events, and says of
    /// what numbers only once it is opened.
    pub fn ranges(&self, partition: &str, generation: EnqueuedBetween) -> Vec<(&CaptureBlob, Range)> {
        let blobs = self.partitions.get(partition).map_or(&[][..], Vec::as_slice);
        let of_it: Vec<_> = blobs.iter().filter(|blob| generation.has(blob.first_enqueued_at)).collect();
        let before = blobs.iter().filter(|blob| generation.is_after(blob.first_enqueued_at));
        let across = before.max_by_key(|blob| blob.first_enqueued_at);
        let bounded = of_it.iter().enumerate().map(|(at, blob)| {
            let next = of_it[at + 1..].iter().map(|next| next.first).find(|first| *first > blob.first);
            (*blob, Range::new(blob.first, blob.end.or(next).unwrap_or(i64::MAX)))
        });
        across.into_iter().map(|blob| (blob, Range::new(i64::MIN, i64::MAX))).chain(bounded).collect()
    }

    /// The blob from which on a generation of a partition counts anew: it has numbers that an earlier one
    /// was past. That is another hub, whose events nobody has given a generation.
    pub fn counts_anew(&self, partition: &str, generation: EnqueuedBetween) -> Option<&CaptureBlob> {
        let blobs = self.partitions.get(partition)?;
        let mut by_time: Vec<_> = blobs.iter().filter(|blob| generation.has(blob.first_enqueued_at)).collect();
        by_time.sort_by_key(|blob| (blob.first_enqueued_at, blob.first));
        let mut highest: Option<&CaptureBlob> = None;
        for blob in by_time {
            let is_past = |highest: &CaptureBlob| {
                blob.first <= highest.first
                    && blob.first_enqueued_at - highest.first_enqueued_at > COUNTS_ANEW_AFTER.num_milliseconds()
            };
            if highest.is_some_and(is_past) {
                return Some(blob);
            }
            highest = Some(highest.filter(|highest| highest.first >= blob.first).unwrap_or(blob));
        }
        None
    }
}

/// The captures of one hub.
#[derive(Debug)]
pub struct CaptureSource {
    pub(super) store: Arc<dyn ObjectStore>,
    /// Where they lie, for words and for the column of origin.
    pub(super) url: String,
    spec: CaptureSpec,
    /// What was learned of blobs, so that a sweep looks into new ones alone. It holds what the last
    /// listing found; losing it costs requests.
    learned: Mutex<HashMap<Path, Learned>>,
    index: Option<Index>,
}

/// What keeps it between processes.
#[derive(Debug)]
struct Index {
    file: BlobIndex,
    /// Set once it was read.
    read: OnceCell<()>,
    /// Whether more was learned than is kept.
    is_behind: AtomicBool,
    kept_at: Mutex<Option<Instant>>,
}

/// What is known of a blob as long as it stays the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Learned {
    /// Its ETag, or when it was written.
    pub mark: String,
    pub bytes: u64,
    /// Number and enqueued time of its first event; none where it is empty.
    pub first: Option<(i64, i64)>,
    /// One past its last number, where it was read.
    pub end: Option<i64>,
}

fn mark(blob: &ObjectMeta) -> String {
    // Quoted in the answer for one blob, and bare in a list.
    let bare = |tag: &String| tag.trim_start_matches("W/").trim_matches('"').to_owned();
    blob.e_tag.as_ref().map_or_else(|| blob.last_modified.to_rfc3339(), bare)
}

impl CaptureSource {
    /// # Errors
    /// When the place can't be used.
    pub fn open(spec: &CaptureSpec, location: &Location) -> Result<Self, StorageError> {
        let url = location.url().to_string();
        let (learned, index) = (Mutex::default(), None);
        Ok(Self { store: location.object_store()?, url, spec: spec.clone(), learned, index })
    }

    /// With what earlier processes learned of the blobs, and for later ones.
    pub fn with_index(self, file: BlobIndex) -> Self {
        let (read, is_behind, kept_at) = (OnceCell::new(), AtomicBool::new(false), Mutex::default());
        Self { index: Some(Index { file, read, is_behind, kept_at }), ..self }
    }

    /// Reads what earlier processes learned, the first time that it is needed.
    async fn recall(&self) {
        let Some(index) = &self.index else { return };
        let read = index.read.get_or_init(|| async {
            let kept = index.file.load(&self.url).await;
            tracing::debug!(captures = self.url, blobs = kept.len(), "known from before");
            let mut learned = self.learned();
            for (path, held) in kept {
                learned.entry(path).or_insert(held);
            }
        });
        read.await;
    }

    /// Keeps what was learned for the next process, where that is more than is kept.
    pub async fn keep_index(&self) {
        let Some(index) = &self.index else { return };
        if !index.is_behind.swap(false, Ordering::Relaxed) {
            return;
        }
        *index.kept_at.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        let learned = self.learned().iter().map(|(path, held)| (path.clone(), held.clone())).collect();
        index.file.store(&self.url, learned).await;
    }

    /// When that was last; where it never was, `else_at`.
    fn index_kept_at(&self, else_at: Option<Instant>) -> Option<Instant> {
        let index = self.index.as_ref()?;
        index.kept_at.lock().unwrap_or_else(PoisonError::into_inner).or(else_at)
    }

    fn know(&self, path: &Path, learned: Learned) {
        self.learned().insert(path.clone(), learned);
        self.tell_index();
    }

    fn tell_index(&self) {
        if let Some(index) = &self.index {
            index.is_behind.store(true, Ordering::Relaxed);
        }
    }

    /// All blobs of the hub that may hold events enqueued at `from` or later, with their first numbers.
    ///
    /// # Errors
    /// When the place can't be listed, or a blob can't be fetched. One that is torn is listed as such.
    pub async fn list(&self, from: Option<DateTime<Utc>>) -> Result<Listing, CaptureError> {
        let failed = |source| CaptureError::List { url: self.url.clone(), source };
        let prefix = Path::from(self.spec.template.prefix(None, &self.spec.hub));
        let prefix = (!prefix.as_ref().is_empty()).then_some(prefix);
        let found: Vec<ObjectMeta> = self.store.list(prefix.as_ref()).try_collect().await.map_err(failed)?;
        self.recall().await;
        let there: HashSet<&Path> = found.iter().map(|blob| &blob.location).collect();
        self.learned().retain(|path, _| there.contains(path));
        let named = found.into_iter().filter_map(|blob| {
            let name = self.spec.template.read(blob.location.as_ref()).filter(|name| self.is_ours(name))?;
            from.is_none_or(|from| name.window + NAME_SLACK >= from).then_some((blob, name))
        });
        let looked = self.look_into(named.collect()).await;
        if self.index_kept_at(None).is_none_or(|at| at.elapsed() >= KEEP_INDEX_EVERY) {
            self.keep_index().await;
        }
        looked
    }

    async fn look_into(&self, named: Vec<(ObjectMeta, BlobName)>) -> Result<Listing, CaptureError> {
        let mut looks = stream::iter(named)
            .map(|(blob, name)| async move {
                let learned = self.learn(&blob).await;
                (blob, name, learned)
            })
            .buffer_unordered(LOOKS);
        let began = Instant::now();
        let mut listing = Listing::default();
        while let Some((blob, name, learned)) = looks.next().await {
            // A long history is looked into for minutes, and a kill shouldn't cost all of them.
            if self.index_kept_at(Some(began)).is_some_and(|at| at.elapsed() >= KEEP_INDEX_EVERY) {
                self.keep_index().await;
            }
            match learned {
                Ok(Learned { first: Some((first, first_enqueued_at)), end, .. }) => {
                    let found = listing.partitions.entry(name.partition).or_default();
                    let (path, bytes) = (blob.location, blob.size);
                    found.push(CaptureBlob { path, bytes, window: name.window, first, first_enqueued_at, end });
                }
                Ok(Learned { first: None, .. }) => listing.empty.push(blob.location),
                Err(error) if error.is_of_the_blob() => listing.torn.push(error),
                Err(error) => return Err(error),
            }
        }
        for blobs in listing.partitions.values_mut() {
            blobs.sort_by(|a, b| (a.first, a.window, &a.path).cmp(&(b.first, b.window, &b.path)));
        }
        Ok(listing)
    }

    /// Looks into blobs that were announced, as [`CaptureSource::list`] does into those that it finds. One
    /// that isn't there is listed as torn.
    ///
    /// # Errors
    /// When a blob can't be fetched.
    pub async fn look(&self, announced: Vec<(Path, BlobName)>) -> Result<Listing, CaptureError> {
        self.recall().await;
        let mut found = Vec::with_capacity(announced.len());
        let mut torn = Vec::new();
        for (path, name) in announced {
            match self.store.head(&path).await {
                // The store below a prefix answers with the whole path.
                Ok(blob) => found.push((ObjectMeta { location: path, ..blob }, name)),
                Err(source @ object_store::Error::NotFound { .. }) => {
                    torn.push(CaptureError::Read { path: path.to_string(), source });
                }
                Err(source) => return Err(CaptureError::Read { path: path.to_string(), source }),
            }
        }
        let mut listing = self.look_into(found).await?;
        listing.torn.append(&mut torn);
        Ok(listing)
    }

    /// The path and the name of a blob of this hub that an announcement names by its URL.
    pub fn blob_of(&self, url: &str) -> Option<(Path, BlobName)> {
        let announced = Url::parse(url).ok()?;
        let at = Url::parse(&self.url).ok()?;
        let decoded = percent_decode_str(announced.path()).decode_utf8().ok()?;
        let folder = percent_decode_str(at.path()).decode_utf8().ok()?;
        let container = if at.username().is_empty() { at.host_str().unwrap_or_default() } else { at.username() };
        // `/container/…`, or as Azurite has it `/account/container/…`.
        let below = if at.scheme() == "file" { folder.into_owned() } else { format!("/{container}{folder}") };
        let account_ends = decoded.trim_start_matches('/').find('/').map_or(0, |length| length + 1);
        let rest = decoded.strip_prefix(&below).or_else(|| decoded.get(account_ends..)?.strip_prefix(&below))?;
        let name = self.spec.template.read(rest).filter(|name| self.is_ours(name))?;
        Some((Path::from(rest), name))
    }

    fn is_ours(&self, name: &BlobName) -> bool {
        name.hub.eq_ignore_ascii_case(&self.spec.hub) && name.namespace.eq_ignore_ascii_case(&self.spec.namespace)
    }

    fn learned(&self) -> MutexGuard<'_, HashMap<Path, Learned>> {
        self.learned.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known of a blob, or a look into it. One that was written anew is another blob.
    async fn learn(&self, blob: &ObjectMeta) -> Result<Learned, CaptureError> {
        let is_same = |held: &Learned| held.bytes == blob.size && held.mark == mark(blob);
        if let Some(held) = self.learned().get(&blob.location).filter(|held| is_same(held)) {
            return Ok(held.clone());
        }
        let first = self.first_of(&blob.location, blob.size).await?;
        let learned = Learned { mark: mark(blob), bytes: blob.size, first, end: None };
        self.know(&blob.location, learned.clone());
        Ok(learned)
    }

    /// A blob was read to its end: the next listing knows how far it goes.
    pub(super) fn was_read(&self, blob: &CaptureBlob, end: i64) {
        if let Some(held) = self.learned().get_mut(&blob.path).filter(|held| held.bytes == blob.bytes) {
            held.end = Some(end);
            self.tell_index();
        }
    }

    /// The number and enqueued time (epoch ms) of a blob's first event; none where it is empty.
    async fn first_of(&self, path: &Path, size: u64) -> Result<Option<(i64, i64)>, CaptureError> {
        let container = |source| CaptureError::Container { path: path.to_string(), source };
        let mut wanted = HEAD_BYTES;
        loop {
            let head = self.fetch(path, 0, wanted, size).await?;
            let is_whole = head.len() as u64 >= size;
            let header = match Header::read(&head).map_err(container)? {
                Step::Whole(header) => header,
                Step::Needs(more) => {
                    wanted = next_window(more as u64, wanted, is_whole, size).map_err(container)?;
                    continue;
                }
            };
            let shape = RecordShape::parse(&header.schema)
                .map_err(|source| CaptureError::Record { path: path.to_string(), source })?;
            let shape = Arc::new(shape);
            let rest = head.slice(header.bytes..);
            if rest.is_empty() && is_whole {
                return Ok(None);
            }
            // The first record is enough, where it is there and its block isn't compressed.
            if let Some(first) = header.records_so_far(&rest).and_then(|data| shape.first(&data)) {
                return Ok(Some((first.sequence_number, first.enqueued_at)));
            }
            let block = match header.block(&rest, header.bytes as u64).map_err(container)? {
                Step::Whole(block) => block,
                Step::Needs(more) => {
                    let more = (header.bytes + more) as u64;
                    wanted = next_window(more, wanted, is_whole, size).map_err(container)?;
                    continue;
                }
            };
            let events = events(&shape, block, path).await?;
            return Ok(events.first().map(|event| (event.sequence_number, event.enqueued_at)));
        }
    }

    pub(super) async fn fetch(&self, path: &Path, from: u64, bytes: u64, size: u64) -> Result<Bytes, CaptureError> {
        let to = from.saturating_add(bytes).min(size);
        if from >= to {
            return Ok(Bytes::new());
        }
        let fetched = self.store.get_range(path, from..to).await;
        fetched.map_err(|source| CaptureError::Read { path: path.to_string(), source })
    }
}

/// How much to fetch when `more` bytes are needed: twice as much as before at least, so that a few
/// requests do.
///
/// # Errors
/// When all there is was fetched already.
pub(super) fn next_window(more: u64, had: u64, is_whole: bool, size: u64) -> Result<u64, ContainerError> {
    if is_whole || more > size {
        let needed = usize::try_from(more).unwrap_or(usize::MAX);
        return Err(ContainerError::CutOff { at: 0, needed, left: size });
    }
    Ok(more.max(had.saturating_mul(2)))
}
