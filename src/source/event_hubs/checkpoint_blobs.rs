//! The checkpoints of the official SDKs, in their layout.
//!
//! ```text
//! <prefix>/<namespace>/<hub>/<consumer group>/checkpoint/<partition>     all in lower case
//! ```
//!
//! An empty block blob for each partition; `sequencenumber` and `offset` are its metadata and
//! name the LAST event that was processed. They are read to take over from a processor in
//! .NET, Java or Python, and written after a commit for portals and lag tools. Nothing rests
//! on them: the service writes them without a condition, so that a zombie can set one back.
//!
//! Older Java clients wrote the path as it was spelled and the keys in capitals: both are read.

use std::sync::Arc;

use object_store::path::Path;
use object_store::{Attribute, AttributeValue, Attributes, GetOptions, ObjectStore, PutOptions, PutPayload};
use thiserror::Error;

use crate::error::{Classify, Kind, Retry};

const OFFSET: &str = "offset";
const SEQUENCE_NUMBER: &str = "sequencenumber";

#[derive(Debug, Error)]
pub enum CheckpointBlobError {
    #[error("could not {doing} checkpoint blob `{path}`")]
    Store {
        doing: &'static str,
        path: Path,
        #[source]
        source: object_store::Error,
    },
    /// Metadata of blobs is what a checkpoint is made of.
    #[error("the checkpoint store has no metadata, so the official SDKs could not read `{path}`")]
    NotSupported { path: Path },
    #[error("checkpoint blob `{path}` has `{key}` = `{value}`, which is not a number")]
    NotANumber { path: Path, key: &'static str, value: String },
    /// A processor that recorded offsets alone.
    #[error("checkpoint blob `{path}` has an offset and no sequence number")]
    OffsetAlone { path: Path },
}

impl Classify for CheckpointBlobError {
    fn kind(&self) -> Kind {
        match self {
            Self::Store { .. } => Kind::External,
            Self::NotSupported { .. } => Kind::Config,
            Self::NotANumber { .. } | Self::OffsetAlone { .. } => Kind::Data,
        }
    }

    fn retry(&self) -> Retry {
        match self {
            Self::Store { .. } => Retry::Backoff,
            _ => Retry::Never,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::NotSupported { .. } => Some(
                "`checkpoint_store` must be a container of Azure Blob Storage; leave it out where nobody else reads it"
                    .into(),
            ),
            Self::OffsetAlone { .. } => {
                Some("declare `start` with the sequence number or the time at which the other processor stopped".into())
            }
            _ => None,
        }
    }
}

/// The checkpoints of one consumer group of one hub.
#[derive(Debug, Clone)]
pub struct CheckpointBlobs {
    store: Arc<dyn ObjectStore>,
    /// As the present SDKs write it, and as it is spelled.
    folders: [Path; 2],
}

impl CheckpointBlobs {
    /// `namespace` is the fully qualified one; `prefix` lies within the container.
    pub fn new(store: Arc<dyn ObjectStore>, prefix: &Path, namespace: &str, hub: &str, group: &str) -> Self {
        let folder = |parts: [&str; 3]| {
            let parts = parts.into_iter().chain(["checkpoint"]);
            parts.fold(prefix.clone(), |path, part| path.join(part))
        };
        let lower = [namespace, hub, group].map(str::to_lowercase);
        let folders = [folder([&lower[0], &lower[1], &lower[2]]), folder([namespace, hub, group])];
        Self { store, folders }
    }

    /// The number of the last event that was processed; `None` without a checkpoint.
    pub async fn read(&self, partition: &str) -> Result<Option<i64>, CheckpointBlobError> {
        for folder in &self.folders {
            let path = folder.clone().join(partition);
            if let Some(number) = self.read_at(&path).await? {
                return Ok(Some(number));
            }
        }
        Ok(None)
    }

    async fn read_at(&self, path: &Path) -> Result<Option<i64>, CheckpointBlobError> {
        let head = GetOptions { head: true, ..GetOptions::default() };
        let attributes = match self.store.get_opts(path, head).await {
            Ok(found) => found.attributes,
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            Err(source) => return Err(CheckpointBlobError::Store { doing: "read", path: path.clone(), source }),
        };
        match (metadata(&attributes, SEQUENCE_NUMBER), metadata(&attributes, OFFSET)) {
            (Some(value), _) => value.parse().map(Some).map_err(|_| CheckpointBlobError::NotANumber {
                path: path.clone(),
                key: SEQUENCE_NUMBER,
                value: value.to_owned(),
            }),
            (None, Some(_)) => Err(CheckpointBlobError::OffsetAlone { path: path.clone() }),
            // A blob without metadata: a store that has none, or a claim that was never used.
            (None, None) => Ok(None),
        }
    }

    /// Records the last event that was committed.
    pub async fn publish(
        &self,
        partition: &str,
        offset: &str,
        sequence_number: i64,
    ) -> Result<(), CheckpointBlobError> {
        let path = self.folders[0].clone().join(partition);
        let mut attributes = Attributes::new();
        for (key, value) in [(OFFSET, offset.to_owned()), (SEQUENCE_NUMBER, sequence_number.to_string())] {
            attributes.insert(Attribute::Metadata(key.into()), AttributeValue::from(value));
        }
        let options = PutOptions { attributes, ..PutOptions::default() };
        match self.store.put_opts(&path, PutPayload::new(), options).await {
            Ok(_) => Ok(()),
            Err(object_store::Error::NotImplemented { .. }) => Err(CheckpointBlobError::NotSupported { path }),
            Err(source) => Err(CheckpointBlobError::Store { doing: "write", path, source }),
        }
    }
}

/// Keys in any case; an empty value is none.
fn metadata<'a>(attributes: &'a Attributes, wanted: &str) -> Option<&'a str> {
    attributes.iter().find_map(|(key, value)| match key {
        Attribute::Metadata(name) if name.eq_ignore_ascii_case(wanted) && !value.is_empty() => Some(value.as_ref()),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use object_store::ObjectStoreExt;
    use object_store::local::LocalFileSystem;
    use object_store::memory::InMemory;

    use super::*;

    fn blobs(store: Arc<dyn ObjectStore>) -> CheckpointBlobs {
        CheckpointBlobs::new(store, &Path::from("hand-over"), "Insurer.servicebus.windows.net", "Leads", "$Default")
    }

    async fn put(store: &InMemory, path: &str, metadata: &[(&'static str, &'static str)]) {
        let attributes = metadata.iter().map(|(key, value)| (Attribute::Metadata((*key).into()), *value)).collect();
        let options = PutOptions { attributes, ..PutOptions::default() };
        store.put_opts(&Path::from(path), PutPayload::new(), options).await.expect("memory takes it");
    }

    #[tokio::test]
    async fn what_is_published_lies_where_the_official_sdks_look_and_is_read_back() {
        let store = Arc::new(InMemory::new());
        let blobs = blobs(Arc::clone(&store) as Arc<dyn ObjectStore>);
        assert_eq!(blobs.read("0").await.expect("readable"), None);
        blobs.publish("0", "4096", 41).await.expect("writable");
        blobs.publish("0", "8192", 42).await.expect("writable");
        assert_eq!(blobs.read("0").await.expect("readable"), Some(42));
        let path = Path::from("hand-over/insurer.servicebus.windows.net/leads/$default/checkpoint/0");
        let found = store.get(&path).await.expect("the official path");
        assert_eq!(metadata(&found.attributes, "offset"), Some("8192"));
        assert_eq!(found.meta.size, 0);
    }

    #[tokio::test]
    async fn an_older_spelling_is_read() {
        let store = Arc::new(InMemory::new());
        let path = "hand-over/Insurer.servicebus.windows.net/Leads/$Default/checkpoint/3";
        put(&store, path, &[("Offset", "17"), ("SequenceNumber", "7")]).await;
        assert_eq!(blobs(store).read("3").await.expect("readable"), Some(7));
    }

    #[tokio::test]
    async fn an_offset_alone_and_a_broken_number_are_named() {
        let store = Arc::new(InMemory::new());
        let folder = "hand-over/insurer.servicebus.windows.net/leads/$default/checkpoint";
        put(&store, &format!("{folder}/0"), &[("offset", "17"), ("sequencenumber", "")]).await;
        put(&store, &format!("{folder}/1"), &[("sequencenumber", "x")]).await;
        let blobs = blobs(store);
        assert!(matches!(blobs.read("0").await, Err(CheckpointBlobError::OffsetAlone { .. })));
        assert!(matches!(blobs.read("1").await, Err(CheckpointBlobError::NotANumber { .. })));
    }

    #[tokio::test]
    async fn a_folder_is_refused_because_it_has_no_metadata() {
        let dir = tempfile::tempdir().expect("a folder");
        let store = Arc::new(LocalFileSystem::new_with_prefix(dir.path()).expect("a store"));
        let blobs = blobs(store);
        assert_eq!(blobs.read("0").await.expect("nothing there"), None);
        let error = blobs.publish("0", "1", 1).await.expect_err("no metadata");
        assert!(matches!(error, CheckpointBlobError::NotSupported { .. }));
        assert_eq!(error.kind(), Kind::Config);
    }
}
