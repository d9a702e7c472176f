//! What was learned of blobs, kept between processes: a file in the state, folder or storage.
//!
//! ```text
//! gzip of lines:  {"version":1,"captures":"file:///…/","blobs":2}
//!                 ["emulator/leads/0/….avro",7311,"<ETag>",[0,1764032400000],500]    path, bytes, mark, first, end
//!                 ["emulator/leads/1/….avro",508,"<ETag>",null,null]                 no events
//! ```
//!
//! It saves requests and decides nothing that a look wouldn't: a blob is taken for what its line says only as
//! long as it has the same size and ETag. A file that is torn, foreign or too large is named, thrown away
//! and made anew. Two processes may write it; the later one wins.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read as _, Write as _};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _};
use serde::{Deserialize, Serialize};

use super::listing::Learned;
use crate::compute;
use crate::storage::{Location, StorageError};

const VERSION: u32 = 1;

/// A hundred days of 32 partitions in windows of five minutes; of more, those that begin last are kept. They
/// take some 35 MB, and so much more in memory while they are written.
const MOST_BLOBS: usize = 1_000_000;
const LARGEST_FILE_BYTES: u64 = 128 << 20;

/// Paths end at 1,024 characters in Azure.
const LONGEST_LINE_BYTES: u64 = 16 << 10;

/// What saves time must not take it: a state that doesn't answer is done without.
const ANSWERS_WITHIN: Duration = Duration::from_secs(30);

#[derive(Debug, Serialize, Deserialize)]
struct Header {
    version: u32,
    captures: String,
    blobs: usize,
}

/// Path, bytes, mark, number and enqueued time of the first event, one past the last number.
type Line = (String, u64, String, Option<(i64, i64)>, Option<i64>);

#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    #[error("it has {0} bytes")]
    TooLarge(u64),
    #[error("it is cut off or changed")]
    Torn(#[from] std::io::Error),
    #[error("line {line} is none of an index")]
    Line { line: usize, source: serde_json::Error },
    #[error("line {line} says what can't be")]
    Nonsense { line: usize },
    #[error("it is of other captures, or of another version")]
    Foreign,
    #[error("reading it broke off")]
    Task(#[from] tokio::task::JoinError),
}

/// Where the index of one pipeline's captures lies.
#[derive(Debug)]
pub struct BlobIndex {
    store: Arc<dyn ObjectStore>,
    path: Path,
    /// For words.
    url: String,
}

impl BlobIndex {
    /// # Errors
    /// When the place can't be used.
    pub fn open(state: &Location, pipeline: &str) -> Result<Self, StorageError> {
        let place = state.join("captures");
        let path = Path::from(format!("{pipeline}.blobs.gz"));
        Ok(Self { url: format!("{place}{path}"), store: place.object_store()?, path })
    }

    /// What is known of the blobs at `captures`; nothing where there is no index that can be used.
    pub(super) async fn load(&self, captures: &str) -> HashMap<Path, Learned> {
        let fetched = tokio::time::timeout(ANSWERS_WITHIN, async {
            let found = self.store.get(&self.path).await?;
            let size = found.meta.size;
            Ok(if size > LARGEST_FILE_BYTES { Err(IndexError::TooLarge(size)) } else { Ok(found.bytes().await?) })
        });
        let bytes = match fetched.await {
            Ok(Ok(bytes)) => bytes,
            Ok(Err(object_store::Error::NotFound { .. })) => return HashMap::new(),
            Ok(Err(error)) => {
                tracing::warn!(file = self.url, %error, "the index of the captures can't be read: blobs are looked into");
                return HashMap::new();
            }
            Err(_) => {
                tracing::warn!(file = self.url, "the index of the captures doesn't come: blobs are looked into");
                return HashMap::new();
            }
        };
        let captures = captures.to_owned();
        let read = async { compute::spawn(move || read(&bytes?, &captures)).await? };
        match read.await {
            Ok(learned) => learned,
            Err(error) => {
                tracing::warn!(file = self.url, %error, "the index of the captures can't be used: it is made anew");
                if let Err(error) = self.store.delete(&self.path).await {
                    tracing::debug!(file = self.url, %error, "it could not be thrown away");
                }
                HashMap::new()
            }
        }
    }

    /// Keeps what is known. Failing costs requests after the next start, so it is told and passed over.
    pub(super) async fn store(&self, captures: &str, learned: Vec<(Path, Learned)>) {
        let captures = captures.to_owned();
        let stored = tokio::time::timeout(ANSWERS_WITHIN, async {
            let written = compute::spawn(move || written(learned, &captures)).await;
            let text = written.map_err(IndexError::from).flatten().map_err(|error| error.to_string())?;
            // A file appears whole or not at all: the store writes it beside, and renames it.
            self.store.put(&self.path, text.into()).await.map_err(|error| error.to_string())
        });
        let why = match stored.await {
            Ok(Ok(_)) => return,
            Ok(Err(why)) => why,
            Err(_) => "the state doesn't answer".to_owned(),
        };
        tracing::warn!(file = self.url, why, "the index of the captures can't be kept");
    }
}

fn written(mut learned: Vec<(Path, Learned)>, captures: &str) -> Result<Bytes, IndexError> {
    if learned.len() > MOST_BLOBS {
        // Those without events have no time, and go first.
        learned.sort_by_key(|(_, held)| std::cmp::Reverse(held.first.map(|(_, enqueued_at)| enqueued_at)));
        learned.truncate(MOST_BLOBS);
    }
    // Neighbours are alike, which is what packs well.
    learned.sort_by(|(one, _), (other, _)| one.cmp(other));
    let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
    let mut line = |line: Result<String, serde_json::Error>| {
        let text = line.map_err(|source| IndexError::Line { line: 0, source })?;
        Ok::<(), IndexError>(writeln!(packed, "{text}")?)
    };
    let header = Header { version: VERSION, captures: captures.to_owned(), blobs: learned.len() };
    line(serde_json::to_string(&header))?;
    for (path, Learned { mark, bytes, first, end }) in learned {
        line(serde_json::to_string::<Line>(&(path.into(), bytes, mark, first, end)))?;
    }
    let packed = packed.finish()?;
    match packed.len() as u64 {
        bytes if bytes > LARGEST_FILE_BYTES => Err(IndexError::TooLarge(bytes)),
        _ => Ok(packed.into()),
    }
}

fn read(packed: &[u8], captures: &str) -> Result<HashMap<Path, Learned>, IndexError> {
    let mut lines = BufReader::new(GzDecoder::new(packed));
    let header: Header = parsed(&mut lines, 1)?;
    if header.version != VERSION || header.captures != captures || header.blobs > MOST_BLOBS {
        return Err(IndexError::Foreign);
    }
    let mut learned = HashMap::new();
    for line in 2..header.blobs + 2 {
        let (path, bytes, mark, first, end): Line = parsed(&mut lines, line)?;
        let path = Path::parse(path).map_err(|_| IndexError::Nonsense { line })?;
        let is_sound = match (first, end) {
            (None, None) => true,
            (Some((first, _)), end) => first >= 0 && end.is_none_or(|end| end > first),
            (None, Some(_)) => false,
        };
        if !is_sound {
            return Err(IndexError::Nonsense { line });
        }
        learned.insert(path, Learned { mark, bytes, first, end });
    }
    // The end says whether all before it is as it was written.
    match lines.read(&mut [0_u8])? {
        0 => Ok(learned),
        _ => Err(IndexError::Nonsense { line: header.blobs + 2 }),
    }
}

fn parsed<T: serde::de::DeserializeOwned>(lines: &mut impl BufRead, line: usize) -> Result<T, IndexError> {
    let mut text = Vec::new();
    lines.take(LONGEST_LINE_BYTES).read_until(b'\n', &mut text)?;
    serde_json::from_slice(&text).map_err(|source| IndexError::Line { line, source })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CAPTURES: &str = "file:///captures/";

    fn learned() -> Vec<(Path, Learned)> {
        let held = |first, end| Learned { mark: "1-2-3".to_owned(), bytes: 508, first, end };
        vec![
            ("emulator/leads/0/a b.avro".into(), held(Some((0, -5)), Some(500))),
            ("emulator/leads/0/ä.avro".into(), held(Some((500, 1_764_032_400_000)), None)),
            ("emulator/leads/1/c.avro".into(), held(None, None)),
        ]
    }

    fn packed(text: &str) -> Bytes {
        let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
        packed.write_all(text.as_bytes()).expect("it is in memory");
        packed.finish().expect("it is in memory").into()
    }

    #[test]
    fn what_was_written_is_read() {
        let bytes = written(learned(), CAPTURES).expect("written");
        assert_eq!(read(&bytes, CAPTURES).expect("read"), learned().into_iter().collect());
        assert!(matches!(read(&bytes, "file:///elsewhere/"), Err(IndexError::Foreign)));
        assert!(read(&written(Vec::new(), CAPTURES).expect("written"), CAPTURES).expect("read").is_empty());
    }

    #[test]
    fn a_file_that_is_cut_off_or_changed_anywhere_is_refused() {
        let whole = written(learned(), CAPTURES).expect("written");
        for cut in 0..whole.len() {
            assert!(read(&whole[..cut], CAPTURES).is_err(), "cut at {cut}");
        }
        // The first ten bytes say when and by what it was packed; what follows is held by a checksum.
        for at in 10..whole.len() {
            let mut changed = whole.to_vec();
            changed[at] ^= 1;
            let read = read(&changed, CAPTURES);
            assert!(read.is_err() || read.is_ok_and(|read| read == learned().into_iter().collect()), "changed at {at}");
        }
    }

    #[test]
    fn what_can_not_be_is_refused() {
        let header = |blobs: usize| format!("{{\"version\":1,\"captures\":\"{CAPTURES}\",\"blobs\":{blobs}}}\n");
        for (blobs, lines) in [
            (1, ""),
            (0, "[\"a\",1,\"m\",null,null]\n"),
            (1, "[\"a\",1,\"m\",[-1,0],null]\n"),
            (1, "[\"a\",1,\"m\",[5,0],5]\n"),
            (1, "[\"a\",1,\"m\",null,5]\n"),
            (1, "[\"../a\",1,\"m\",null,null]\n"),
            (1, "[\"a//b\",1,\"m\",null,null]\n"),
            (1, "[\"a\",-1,\"m\",null,null]\n"),
            (1, "[\"a\",1,\"m\",[9223372036854775808,0],null]\n"),
            (usize::MAX / 2, ""),
        ] {
            assert!(read(&packed(&format!("{}{lines}", header(blobs))), CAPTURES).is_err(), "{blobs} {lines}");
        }
        let bomb = packed(&" ".repeat(64 << 20));
        assert!(bomb.len() < 1 << 20 && read(&bomb, CAPTURES).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_get_an_answer(bytes in prop::collection::vec(any::<u8>(), 0..400), text in ".{0,200}") {
            let _ = read(&bytes, CAPTURES);
            let _ = read(&packed(&text), CAPTURES);
            let _ = read(&packed(&format!("{{\"version\":1,\"captures\":\"{CAPTURES}\",\"blobs\":1}}\n{text}")), CAPTURES);
        }
    }
}
