//! Schemas on disk, a file each, for good.
//!
//! A file appears whole or not at all: it is written under another name, flushed, and renamed. What
//! a crash, a full disk or another hand has left behind is seen when it is read: a text that is no
//! Avro schema counts as absent, and is fetched anew.

use std::io;
use std::path::{Path, PathBuf};

use apache_avro::Schema;

use super::SchemaId;

#[derive(Debug, Clone)]
pub(super) struct DiskCache {
    dir: PathBuf,
}

impl DiskCache {
    /// Makes the folder. `registry` keeps the ids of different registries apart.
    pub(super) fn open(dir: &Path, registry: &str) -> io::Result<Self> {
        let safe = |c: char| if c.is_ascii_alphanumeric() || c == '.' || c == '-' { c } else { '_' };
        let dir = dir.join(registry.chars().map(safe).collect::<String>());
        std::fs::create_dir_all(&dir)?;
        Ok(Self { dir })
    }

    fn path(&self, id: &SchemaId) -> PathBuf {
        self.dir.join(format!("{id}.avsc"))
    }

    /// The text of a schema that is there and whole.
    pub(super) async fn load(&self, id: &SchemaId) -> Option<String> {
        let path = self.path(id);
        let text = match tokio::fs::read_to_string(&path).await {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "a cached schema can't be read, it is fetched anew");
                return None;
            }
        };
        if Schema::parse_str(&text).is_err() {
            tracing::warn!(path = %path.display(), "a cached schema is torn, it is fetched anew");
            return None;
        }
        Some(text)
    }

    /// Keeps a schema; what isn't Avro isn't kept, since it would count as torn. Failing costs only
    /// another request later, so it is told and passed over.
    pub(super) async fn store(&self, id: &SchemaId, text: &str) {
        if Schema::parse_str(text).is_err() {
            return;
        }
        if let Err(error) = self.write(id, text).await {
            tracing::warn!(dir = %self.dir.display(), schema_id = %id, %error, "a schema can't be cached on disk");
        }
    }

    async fn write(&self, id: &SchemaId, text: &str) -> io::Result<()> {
        use tokio::io::AsyncWriteExt as _;
        let staged = self.dir.join(format!(".{id}.{}", uuid::Uuid::new_v4()));
        let written = async {
            let mut file = tokio::fs::File::create_new(&staged).await?;
            file.write_all(text.as_bytes()).await?;
            file.sync_all().await?;
            tokio::fs::rename(&staged, self.path(id)).await
        };
        let written = written.await;
        if written.is_err() {
            drop(tokio::fs::remove_file(&staged).await);
        }
        written
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AVSC: &str = r#"{"type":"record","name":"R","fields":[{"name":"a","type":"int"}]}"#;

    fn id() -> SchemaId {
        SchemaId::parse("b489dc4916744e3db72dda8f9693f342").expect("an id")
    }

    #[tokio::test]
    async fn what_was_stored_is_loaded_by_the_next_process() {
        let dir = tempfile::tempdir().expect("a folder");
        let cache = DiskCache::open(dir.path(), "insurer.servicebus.windows.net").expect("a cache");
        assert_eq!(cache.load(&id()).await, None);
        cache.store(&id(), AVSC).await;
        let reopened = DiskCache::open(dir.path(), "insurer.servicebus.windows.net").expect("a cache");
        assert_eq!(reopened.load(&id()).await.as_deref(), Some(AVSC));
        let files: Vec<_> =
            std::fs::read_dir(&cache.dir).expect("a folder").map(|file| file.expect("a file").file_name()).collect();
        assert_eq!(files, [format!("{}.avsc", id()).as_str()]);
    }

    #[tokio::test]
    async fn a_torn_file_counts_as_absent() {
        let dir = tempfile::tempdir().expect("a folder");
        let cache = DiskCache::open(dir.path(), "r").expect("a cache");
        for cut in [0, 1, AVSC.len() / 2, AVSC.len() - 1] {
            std::fs::write(cache.path(&id()), &AVSC[..cut]).expect("written");
            assert_eq!(cache.load(&id()).await, None, "cut at {cut}");
        }
        std::fs::write(cache.path(&id()), [0xFF, 0xFE]).expect("written");
        assert_eq!(cache.load(&id()).await, None);
    }

    #[tokio::test]
    async fn registries_do_not_share_ids() {
        let dir = tempfile::tempdir().expect("a folder");
        let one = DiskCache::open(dir.path(), "localhost:1").expect("a cache");
        let other = DiskCache::open(dir.path(), "localhost:2").expect("a cache");
        one.store(&id(), AVSC).await;
        assert_eq!(other.load(&id()).await, None);
    }
}
