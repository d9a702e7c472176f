//! A store of files that counts what is asked of it: what work costs, whatever else the machine does.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex, Once, PoisonError};

use bytes::Bytes;
use deltalake::logstore::{ObjectStoreFactory, ObjectStoreRef, StorageConfig, object_store_factories};
use futures::StreamExt as _;
use futures::stream::BoxStream;
use object_store::path::Path as ObjectPath;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions,
    PutOptions, PutPayload, PutResult,
};

/// What was asked of the tables in a folder.
#[derive(Debug, Clone, Default)]
pub struct Asked {
    pub requests: u64,
    /// Of these, for files of logs.
    pub of_logs: u64,
    /// Of these, lists: each costs what the folder is long.
    pub lists: u64,
    pub bytes: u64,
    /// Data files that anything was read of.
    pub files: BTreeSet<String>,
}

impl Asked {
    fn read(&mut self, path: &ObjectPath, bytes: u64) {
        self.requests += 1;
        self.bytes += bytes;
        if path.as_ref().contains("_delta_log/") {
            self.of_logs += 1;
        } else {
            self.files.insert(path.to_string());
        }
    }
}

/// Counts for a folder as long as it is held.
pub struct Watched {
    /// As a store names it.
    folder: String,
    asked: Arc<Mutex<Asked>>,
}

static WATCHED: Mutex<Vec<(String, Arc<Mutex<Asked>>)>> = Mutex::new(Vec::new());

/// Begins to count for the tables in `folder`; those of stores that were opened before aren't seen.
pub fn watch(folder: &Path) -> Watched {
    static COUNTED: Once = Once::new();
    COUNTED.call_once(|| {
        object_store_factories().insert(url::Url::parse("file://").expect("a scheme"), Arc::new(Counting));
    });
    let folder = folder.canonicalize().expect("the folder is there");
    let folder = folder.to_str().expect("its name is text").trim_start_matches('/').to_owned();
    let asked = Arc::<Mutex<Asked>>::default();
    lock(&WATCHED).push((folder.clone(), Arc::clone(&asked)));
    Watched { folder, asked }
}

impl Watched {
    /// What was asked since this was asked last.
    pub fn taken(&self) -> Asked {
        std::mem::take(&mut *lock(&self.asked))
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        lock(&WATCHED).retain(|(folder, _)| *folder != self.folder);
    }
}

/// A count stays one, whoever panicked.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn count(path: &ObjectPath, with: impl Fn(&mut Asked)) {
    for (folder, asked) in lock(&WATCHED).iter() {
        if path.as_ref().starts_with(folder.as_str()) {
            with(&mut lock(asked));
        }
    }
}

fn listed(prefix: Option<&ObjectPath>) {
    count(&prefix.cloned().unwrap_or_default(), |asked| {
        asked.requests += 1;
        asked.lists += 1;
    });
}

/// Makes stores of files that count what is asked of them.
struct Counting;

impl ObjectStoreFactory for Counting {
    fn parse_url_opts(
        &self,
        url: &url::Url,
        _: &StorageConfig,
    ) -> Result<(ObjectStoreRef, ObjectPath), deltalake::DeltaTableError> {
        let (store, path) = object_store::parse_url(url)?;
        Ok((Arc::new(Counted(store)), path))
    }
}

#[derive(Debug)]
struct Counted(Box<dyn ObjectStore>);

impl fmt::Display for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "counted({})", self.0)
    }
}

#[async_trait::async_trait]
impl ObjectStore for Counted {
    async fn put_opts(
        &self,
        location: &ObjectPath,
        payload: PutPayload,
        options: PutOptions,
    ) -> object_store::Result<PutResult> {
        count(location, |asked| asked.requests += 1);
        self.0.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        location: &ObjectPath,
        options: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        count(location, |asked| asked.requests += 1);
        self.0.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &ObjectPath, options: GetOptions) -> object_store::Result<GetResult> {
        let is_head = options.head;
        let got = self.0.get_opts(location, options).await;
        let bytes = got.as_ref().map_or(0, |got| if is_head { 0 } else { got.range.end - got.range.start });
        count(location, |asked| asked.read(location, bytes));
        got
    }

    async fn get_ranges(&self, location: &ObjectPath, ranges: &[Range<u64>]) -> object_store::Result<Vec<Bytes>> {
        let bytes = ranges.iter().map(|range| range.end - range.start).sum();
        count(location, |asked| asked.read(location, bytes));
        self.0.get_ranges(location, ranges).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, object_store::Result<ObjectPath>>,
    ) -> BoxStream<'static, object_store::Result<ObjectPath>> {
        self.0.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&ObjectPath>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        listed(prefix);
        self.0.list(prefix).boxed()
    }

    fn list_with_offset(
        &self,
        prefix: Option<&ObjectPath>,
        offset: &ObjectPath,
    ) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        listed(prefix);
        self.0.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&ObjectPath>) -> object_store::Result<ListResult> {
        listed(prefix);
        self.0.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &ObjectPath, to: &ObjectPath, options: CopyOptions) -> object_store::Result<()> {
        self.0.copy_opts(from, to, options).await
    }
}
