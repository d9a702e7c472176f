//! What is learned of capture blobs outlives the process, and decides nothing that a look wouldn't.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sluicebox::checkpoint::Range;
use sluicebox::emulator::capture::CaptureCodec;
use sluicebox::source::capture::{BlobIndex, CaptureSource, Listing, Missing};
use tempfile::TempDir;

use crate::capture::{HUB, captured, location, open, read, source};

const BLOBS: usize = 60;
const EVENTS_OF_A_BLOB: i64 = 5;
const ALL: Range = Range { from: 0, to: i64::MAX };

/// Captures of many blobs, and a state beside them.
struct Place {
    captures: TempDir,
    state: TempDir,
}

impl Place {
    async fn new() -> Self {
        let captures = tempfile::tempdir().expect("a folder");
        captured(captures.path(), CaptureCodec::Null, &[EVENTS_OF_A_BLOB as usize; BLOBS]).await;
        Self { captures, state: tempfile::tempdir().expect("a folder") }
    }

    /// As a process opens it that starts anew.
    fn start(&self) -> Arc<CaptureSource> {
        let index = BlobIndex::open(&location(self.state.path()), HUB).expect("a folder");
        Arc::new(open(self.captures.path()).with_index(index))
    }

    /// A process that reads everything, and ends.
    async fn process(&self) -> Listing {
        let source = self.start();
        let listing = source.list(None).await.expect("listed");
        let told = read(&source, source.list(None).await.expect("listed"), "0", ALL, Missing::Between).await;
        assert_eq!((told.numbers().len() as i64, told.blobs.len()), (BLOBS as i64 * EVENTS_OF_A_BLOB, BLOBS));
        source.keep_index().await;
        listing
    }

    fn index(&self) -> PathBuf {
        self.state.path().join("captures").join(format!("{HUB}.blobs.gz"))
    }

    fn blobs(&self) -> Vec<PathBuf> {
        let folder = fs::read_dir(self.captures.path().join("emulator").join(HUB)).expect("a folder");
        folder.map(|blob| blob.expect("an entry").path()).collect()
    }
}

/// Makes a blob into one that whoever opens it finds torn, and that looks the same from outside.
fn spoil(blob: &Path) {
    let before = fs::metadata(blob).expect("it is there");
    let file = fs::File::options().write(true).open(blob).expect("opened in place");
    std::io::Write::write_all(&mut &file, b"torn").expect("written");
    file.set_modified(before.modified().expect("a time")).expect("set");
}

/// Which numbers are where, in words.
fn shown(listing: &Listing) -> String {
    assert!(listing.torn.is_empty(), "{:?}", listing.torn);
    let first =
        |blob: &sluicebox::source::capture::CaptureBlob| (blob.path.to_string(), blob.first, blob.first_enqueued_at);
    let partitions = listing.partitions.iter();
    let shown: Vec<_> = partitions.map(|(name, blobs)| (name, blobs.iter().map(first).collect::<Vec<_>>())).collect();
    format!("{shown:?} {:?}", listing.empty)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_start_opens_none_of_many_blobs() {
    let place = Place::new().await;
    let first = place.process().await;
    assert_eq!(first.partitions["0"].len(), BLOBS);
    place.blobs().iter().for_each(|blob| spoil(blob));
    let looked = source(place.captures.path()).list(None).await.expect("listed");
    assert_eq!(looked.torn.len(), BLOBS, "whoever opens one is told");

    let again = place.start();
    let listing = again.list(None).await.expect("listed");
    assert_eq!(shown(&listing), shown(&first));
    // Nor the last one: it is known where that ends.
    let beyond = Range::new(BLOBS as i64 * EVENTS_OF_A_BLOB, i64::MAX);
    let told = read(&again, listing, "0", beyond, Missing::Between).await;
    assert_eq!(told.blobs.len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changed_since_is_looked_into() {
    let place = Place::new().await;
    place.process().await;
    let blobs = place.blobs();
    fs::remove_file(&blobs[0]).expect("removed");
    let other = fs::read(&blobs[2]).expect("read");
    fs::write(&blobs[1], &other).expect("written");
    let listing = place.start().list(None).await.expect("listed");
    let fresh = source(place.captures.path()).list(None).await.expect("listed");
    assert_eq!(shown(&listing), shown(&fresh));
    assert_eq!(listing.partitions["0"].len(), BLOBS - 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_torn_index_changes_nothing_but_the_time() {
    let place = Place::new().await;
    let first = place.process().await;
    let whole = fs::read(place.index()).expect("it was kept");
    let other = tempfile::tempdir().expect("a folder");
    captured(other.path(), CaptureCodec::Null, &[3]).await;
    let foreign = {
        let source = open(other.path()).with_index(BlobIndex::open(&location(other.path()), HUB).expect("a folder"));
        source.list(None).await.expect("listed");
        source.keep_index().await;
        fs::read(other.path().join("captures").join(format!("{HUB}.blobs.gz"))).expect("it was kept")
    };
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 0x40;
    for (what, bytes) in [
        ("empty", &[][..]),
        ("cut in half", &whole[..whole.len() / 2]),
        ("without its last byte", &whole[..whole.len() - 1]),
        ("a bit that flipped", &flipped),
        ("no gzip", b"{\"version\":1}"),
        ("of other captures", &foreign),
    ] {
        fs::write(place.index(), bytes).expect("written");
        let listing = place.start().list(None).await.expect("listed");
        assert_eq!(shown(&listing), shown(&first), "{what}");
        let made_anew = fs::read(place.index()).expect("it was made anew");
        assert!(made_anew.len() > whole.len() / 2 && made_anew != bytes, "{what}");
    }
    // What can't even be read is no reason to stop.
    fs::remove_file(place.index()).expect("removed");
    fs::create_dir(place.index()).expect("made");
    let listing = place.start().list(None).await.expect("listed");
    assert_eq!(shown(&listing), shown(&first));
    assert_eq!(
        fs::read_dir(place.index().parent().expect("a folder")).expect("read").count(),
        1,
        "nothing is left over"
    );
}
