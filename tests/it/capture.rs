//! The blobs of Capture: a real one, torn ones, hostile ones, and what is read of many.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use proptest::prelude::*;
use sluicebox::avro_container::{Header, Step};
use sluicebox::batch::{Event, Origin};
use sluicebox::checkpoint::{PartitionKey, Range, RangeSet, SourceId};
use sluicebox::config::capture_name::NameTemplate;
use sluicebox::config::spec::CaptureSpec;
use sluicebox::emulator::announce::Announcer;
use sluicebox::emulator::capture::{Capture, CaptureCodec, CaptureOptions, EmptyWindows};
use sluicebox::emulator::{Broker, BrokerOptions, HubSpec, StoredMessageInput};
use sluicebox::memory::MemoryBudget;
use sluicebox::source::capture::{CaptureBlob, CaptureRead, CaptureSource, EnqueuedBetween, Listing, Missing};
use sluicebox::source::{HoleCause, SourceEvent};
use sluicebox::storage::Location;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::decode::container::{CODECS, block, header, packed};

pub(crate) const HUB: &str = "leads";
const TEMPLATE: &str = "{Namespace}/{EventHub}/p{PartitionId}--{Year}-{Month}-{Day}--{Hour}-{Minute}-{Second}";
const REAL: &[u8] = include_bytes!("../data/capture/p9--2022-12-09--16-50-12.avro");

/// Far beyond what any of these tests takes: a hang fails instead of standing.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn source(folder: &Path) -> Arc<CaptureSource> {
    Arc::new(open(folder))
}

pub(crate) fn open(folder: &Path) -> CaptureSource {
    let location = location(folder);
    let spec = CaptureSpec {
        url: location.url().to_string(),
        template: NameTemplate::parse(TEMPLATE).expect("a template"),
        namespace: "emulator".to_owned(),
        hub: HUB.to_owned(),
        sweep_every: Duration::from_secs(1),
        queue: None,
    };
    CaptureSource::open(&spec, &location).expect("a folder")
}

pub(crate) fn location(folder: &Path) -> Location {
    Location::resolve(&folder.to_string_lossy(), None).expect("an absolute folder")
}

pub(crate) fn put(folder: &Path, name: &str, bytes: &[u8]) {
    let path = folder.join("emulator").join(HUB).join(name);
    std::fs::create_dir_all(path.parent().expect("a folder above")).expect("made");
    std::fs::write(path, bytes).expect("written");
}

/// What a reader said until it ended.
#[derive(Debug, Default)]
pub(crate) struct Told {
    events: Vec<Event>,
    origins: Vec<Origin>,
    holes: Vec<Range>,
    failed: Vec<String>,
    /// Blobs, and whether they were read to their end.
    pub(crate) blobs: Vec<bool>,
}

impl Told {
    pub(crate) fn numbers(&self) -> Vec<i64> {
        self.events.iter().map(|event| event.sequence_number).collect()
    }
}

pub(crate) async fn read(
    source: &Arc<CaptureSource>,
    listing: Listing,
    partition: &str,
    wanted: Range,
    missing: Missing,
) -> Told {
    let read = CaptureRead {
        partition: PartitionKey::new(SourceId::new("emulator/leads"), partition),
        listing: Arc::new(listing),
        wanted: RangeSet::from_iter([wanted]),
        generation: EnqueuedBetween::default(),
        enqueued: EnqueuedBetween::default(),
        missing,
    };
    let (sender, mut events) = mpsc::channel(4);
    let reading = Arc::clone(source).read(read, MemoryBudget::new(64 << 20), sender, CancellationToken::new());
    let listening = async {
        let mut told = Told::default();
        while let Some(event) = events.recv().await {
            match event {
                SourceEvent::Events { batch, .. } => {
                    let numbers = batch.events.windows(2);
                    assert!(numbers.into_iter().all(|pair| pair[1].sequence_number == pair[0].sequence_number + 1));
                    told.events.extend(batch.events);
                    told.origins.push(batch.origin);
                }
                SourceEvent::Hole { missing, cause, .. } => {
                    assert_eq!(cause, HoleCause::NotCaptured);
                    told.holes.push(missing);
                }
                SourceEvent::Failed { error, .. } => told.failed.push(report(&error)),
                SourceEvent::BlobRead { numbers, .. } => told.blobs.push(numbers.is_some()),
                SourceEvent::CaughtUp { .. } | SourceEvent::Progress { .. } => {}
            }
        }
        told
    };
    let (ended, told) =
        tokio::time::timeout(PATIENCE, async { tokio::join!(reading, listening) }).await.expect("it ends in time");
    ended.expect("what a blob lacks is said, not an error");
    told
}

fn report(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// Blobs that the emulator captured of `count` events in partition 0, each of a handful of blocks.
pub(crate) async fn captured(folder: &Path, codec: CaptureCodec, windows: &[usize]) {
    let hubs = vec![HubSpec::new(HUB, 1)];
    let broker = Broker::start(BrokerOptions { hubs, ..BrokerOptions::default() }).await.expect("a free port");
    let options = CaptureOptions {
        location: location(folder),
        template: NameTemplate::parse(TEMPLATE).expect("a template"),
        namespace: "emulator".to_owned(),
        window: PATIENCE,
        window_bytes: u64::MAX,
        empty: EmptyWindows::Skipped,
        codec,
    };
    for (window, count) in windows.iter().enumerate() {
        let capture = Capture::start(options.clone(), broker.clone(), Announcer::default()).expect("a folder");
        let messages = (0..*count).map(|number| StoredMessageInput {
            body: format!("event {number} of window {window}: {}", "x".repeat(200)).into(),
            content_type: Some("text/plain".to_owned()),
            properties: vec![("window".to_owned(), window.to_string())],
            partition_key: None,
        });
        broker.append(HUB, "0", messages.collect()).expect("taken");
        capture.stop().await;
        // The next capture begins at the log's first event again, as a blob that was written twice does.
        let end = broker.partition(HUB, "0").expect("the partition").last_sequence_number + 1;
        broker.expire_before(HUB, "0", end).expect("the partition");
    }
    broker.stop().await;
}

#[tokio::test]
async fn the_real_file_is_read_as_it_was_written() {
    let folder = tempfile::tempdir().expect("a folder");
    put(folder.path(), "p9--2022-12-09--16-50-12.avro", REAL);
    let source = source(folder.path());
    let listing = source.list(None).await.expect("listed");
    let told = read(&source, listing, "9", Range::new(0, i64::MAX), Missing::Between).await;
    let [event] = told.events.as_slice() else { panic!("{told:?}") };
    assert_eq!((event.sequence_number, event.offset.as_str()), (1, "1456"));
    assert_eq!(event.enqueued_at, 1_670_604_685_193);
    assert!(event.body.starts_with(b"{\n  \"type\": \"UsageReported\","), "{:?}", event.body);
    assert_eq!((event.content_type.as_ref(), event.properties.len()), (None, 0));
    assert!(told.origins[0].as_str().ends_with("emulator/leads/p9--2022-12-09--16-50-12.avro"));
    assert_eq!((told.blobs, told.holes.len(), told.failed.len()), (vec![true], 0, 0));
}

#[tokio::test]
async fn a_blob_that_is_announced_is_read_from_where_it_lies() {
    let folder = tempfile::tempdir().expect("a folder");
    let name = "p9--2022-12-09--16-50-12.avro";
    put(folder.path(), name, REAL);
    let source = source(folder.path());
    let url = location(folder.path()).blob(&format!("emulator/{HUB}/{name}")).url;
    let gone = source.blob_of(&url.replace("16-50-12", "16-50-13")).expect("one of this hub");
    let listing = source.look(vec![source.blob_of(&url).expect("one of this hub"), gone]).await.expect("looked into");
    assert_eq!(listing.torn.iter().filter_map(|torn| torn.path()).count(), 1, "the one that isn't there");
    let told = read(&source, listing, "9", Range::new(0, i64::MAX), Missing::Between).await;
    assert_eq!((told.numbers(), told.failed.len()), (vec![1], 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_emulator_captures_is_read_back_by_either_codec() {
    for codec in [CaptureCodec::Null, CaptureCodec::Deflate] {
        let folder = tempfile::tempdir().expect("a folder");
        captured(folder.path(), codec, &[700, 900]).await;
        let source = source(folder.path());
        let listing = source.list(None).await.expect("listed");
        let firsts: Vec<_> = listing.partitions["0"].iter().map(|blob| blob.first).collect();
        assert_eq!(firsts, [0, 700], "{codec:?}");
        let told = read(&source, listing, "0", Range::new(0, i64::MAX), Missing::Between).await;
        assert_eq!(told.numbers(), (0..1_600).collect::<Vec<_>>(), "{codec:?}");
        assert!(told.events.iter().all(|event| event.content_type.as_deref() == Some("text/plain")));
        assert_eq!(told.events[700].properties, [("window".to_owned(), "1".to_owned())]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_whose_numbers_are_not_wanted_is_not_opened() {
    let folder = tempfile::tempdir().expect("a folder");
    captured(folder.path(), CaptureCodec::Null, &[10, 10, 10, 10]).await;
    let source = source(folder.path());
    for (wanted, blobs) in
        [(Range::new(12, 15), 1), (Range::new(9, 11), 2), (Range::new(0, 40), 4), (Range::new(50, 60), 0)]
    {
        let listing = source.list(None).await.expect("listed");
        let told = read(&source, listing, "0", wanted, Missing::Between).await;
        let expected: Vec<_> = (wanted.from..wanted.to).filter(|number| *number < 40).collect();
        assert_eq!((told.numbers(), told.blobs.len()), (expected, blobs), "{wanted}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_was_read_is_known_to_its_end_until_it_is_written_anew() {
    let folder = tempfile::tempdir().expect("a folder");
    captured(folder.path(), CaptureCodec::Null, &[10]).await;
    let source = source(folder.path());
    let beyond = || async {
        let listing = source.list(None).await.expect("listed");
        read(&source, listing, "0", Range::new(10, i64::MAX), Missing::Between).await.blobs.len()
    };
    assert_eq!(beyond().await, 1, "nothing says where it ends");
    assert_eq!(beyond().await, 0, "it ends before");
    let path = source.list(None).await.expect("listed").partitions["0"][0].path.to_string();
    std::fs::write(folder.path().join(path), REAL).expect("written");
    assert_eq!(beyond().await, 1, "it is another blob");
}

fn at(second: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_700_000_000 + second, 0).expect("a time")
}

fn blob(name: &str, first: i64, second: i64) -> CaptureBlob {
    let first_enqueued_at = at(second).timestamp_millis();
    CaptureBlob { path: name.into(), bytes: 1, window: at(second), first, first_enqueued_at, end: None }
}

/// What is read of blobs that are given in the order of their numbers.
fn chosen(blobs: &[CaptureBlob], wanted: Range, generation: EnqueuedBetween, enqueued: EnqueuedBetween) -> Vec<String> {
    let mut listing = Listing::default();
    listing.partitions.insert("0".to_owned(), blobs.to_vec());
    let wanted = RangeSet::from_iter([wanted]);
    let read = CaptureRead { wanted, generation, enqueued, ..all_of(listing) };
    read.blobs().into_iter().map(|blob| blob.path.to_string()).collect()
}

#[tokio::test]
async fn a_blob_that_is_named_before_its_events_is_found_by_their_time() {
    let folder = tempfile::tempdir().expect("a folder");
    put(folder.path(), "p9--2022-12-09--16-50-12.avro", REAL);
    // Its event was enqueued at 16:51:25.
    let from = "2022-12-09T16:51:00Z".parse::<DateTime<Utc>>().expect("a time");
    let listing = source(folder.path()).list(Some(from)).await.expect("listed");
    assert_eq!(listing.partitions["9"].len(), 1);
}

#[test]
fn a_blob_is_passed_over_when_the_next_one_begins_before_what_is_wanted() {
    let blobs = [blob("a", 0, 0), blob("b", 10, 100), blob("c", 20, 200)];
    let all = EnqueuedBetween::default();
    for (from, to, expected) in [
        (None, None, vec!["a", "b", "c"]),
        (Some(at(150)), None, vec!["b", "c"]),
        (Some(at(100)), None, vec!["a", "b", "c"]),
        (Some(at(500)), None, vec!["c"]),
        (None, Some(at(200)), vec!["a", "b"]),
        (Some(at(101)), Some(at(199)), vec!["b"]),
    ] {
        let enqueued = EnqueuedBetween { from, to };
        assert_eq!(chosen(&blobs, Range::new(0, i64::MAX), all, enqueued), expected, "{enqueued:?}");
    }
}

#[test]
fn blobs_of_one_generation_do_not_bound_those_of_another() {
    // The old hub's begin at 0, 10 and 20; the new one's, a thousand seconds later, at 0 and 1,000.
    let blobs = [
        blob("old-0", 0, 0),
        blob("new-0", 0, 1_000),
        blob("old-10", 10, 100),
        blob("old-20", 20, 200),
        blob("new-1000", 1_000, 2_000),
    ];
    let old = EnqueuedBetween { from: None, to: Some(at(900)) };
    let new = EnqueuedBetween { from: Some(at(900)), to: None };
    for (generation, wanted, expected) in [
        // The last of the old ones may hold the first of the new: it is looked at, too.
        (new, Range::new(600, 900), vec!["old-20", "new-0"]),
        (new, Range::new(600, i64::MAX), vec!["old-20", "new-0", "new-1000"]),
        (old, Range::new(12, 15), vec!["old-10"]),
        (old, Range::new(12, i64::MAX), vec!["old-10", "old-20"]),
    ] {
        assert_eq!(chosen(&blobs, wanted, generation, generation), expected, "{wanted}");
    }
}

#[test]
fn a_hub_that_counts_anew_is_noticed_and_a_clock_that_differs_is_not() {
    let all = EnqueuedBetween::default();
    for (blobs, expected) in [
        (vec![blob("a", 0, 0), blob("b", 10, 100)], None),
        (vec![blob("a", 0, 0), blob("again", 0, 0), blob("b", 10, 100)], None),
        (vec![blob("a", 0, 5), blob("b", 10, 0)], None),
        (vec![blob("a", 0, 0), blob("anew", 0, 1_000), blob("b", 10, 100)], Some("anew")),
        (vec![blob("a", 0, 0), blob("anew", 5, 1_000), blob("b", 10, 100)], Some("anew")),
    ] {
        let mut listing = Listing::default();
        listing.partitions.insert("0".to_owned(), blobs);
        let found = listing.counts_anew("0", all).map(|blob| blob.path.to_string());
        assert_eq!(found.as_deref(), expected, "{listing:?}");
        let since = EnqueuedBetween { from: Some(at(900)), to: None };
        assert_eq!(listing.counts_anew("0", since), None, "with its generation declared");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hole_is_named_though_all_around_it_is_covered() {
    let folder = tempfile::tempdir().expect("a folder");
    captured(folder.path(), CaptureCodec::Null, &[10, 10, 10]).await;
    let middle = source(folder.path()).list(None).await.expect("listed").partitions["0"][1].path.to_string();
    std::fs::remove_file(folder.path().join(middle)).expect("removed");
    for _ in 0..2 {
        let source = source(folder.path());
        let listing = source.list(None).await.expect("listed");
        let told = read(&source, listing, "0", Range::new(10, 20), Missing::Between).await;
        assert_eq!((told.numbers(), told.holes), (vec![], vec![Range::new(10, 20)]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_blob_has_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    captured(folder.path(), CaptureCodec::Null, &[10, 10, 10]).await;
    let source = source(folder.path());
    let listing = source.list(None).await.expect("listed");
    let middle = listing.partitions["0"][1].path.to_string();
    std::fs::remove_file(folder.path().join(middle)).expect("removed");
    for (wanted, missing, holes) in [
        (Range::new(0, i64::MAX), Missing::Between, vec![Range::new(10, 20)]),
        (Range::new(5, 35), Missing::Wanted, vec![Range::new(10, 20), Range::new(30, 35)]),
        (Range::new(40, 50), Missing::Wanted, vec![Range::new(40, 50)]),
        (Range::new(40, 50), Missing::Between, vec![]),
        (Range::new(0, i64::MAX), Missing::Unknown, vec![]),
    ] {
        let listing = source.list(None).await.expect("listed");
        assert_eq!(read(&source, listing, "0", wanted, missing).await.holes, holes, "{wanted} {missing:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_was_written_twice_is_handed_on_once() {
    let folder = tempfile::tempdir().expect("a folder");
    captured(folder.path(), CaptureCodec::Null, &[300]).await;
    let source = source(folder.path());
    let first = source.list(None).await.expect("listed").partitions["0"][0].path.to_string();
    let bytes = std::fs::read(folder.path().join(first)).expect("read");
    put(folder.path(), "p0--2099-01-01--00-00-00.avro", &bytes);
    let listing = source.list(None).await.expect("listed");
    assert_eq!(listing.partitions["0"].len(), 2);
    let told = read(&source, listing, "0", Range::new(0, i64::MAX), Missing::Between).await;
    assert_eq!(told.numbers(), (0..300).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blob_cut_off_anywhere_gives_its_whole_blocks_and_says_so() {
    let folder = tempfile::tempdir().expect("a folder");
    captured(folder.path(), CaptureCodec::Null, &[600]).await;
    let whole = source(folder.path()).list(None).await.expect("listed").partitions["0"][0].path.to_string();
    let whole = std::fs::read(folder.path().join(whole)).expect("read");
    // Two thirds lie in the middle of a block, one byte less is in the last marker.
    for length in [whole.len() * 2 / 3, whole.len() - 1] {
        let folder = tempfile::tempdir().expect("a folder");
        put(folder.path(), "p0--2026-11-25--00-00-00.avro", &whole[..length]);
        let source = source(folder.path());
        let listing = source.list(None).await.expect("listed");
        let told = read(&source, listing, "0", Range::new(0, i64::MAX), Missing::Between).await;
        let count = told.events.len();
        assert!(0 < count && count < 600, "{count} of 600");
        assert_eq!(told.numbers(), (0..count as i64).collect::<Vec<_>>());
        assert_eq!(told.blobs, [false]);
        assert!(told.failed[0].contains("it is cut off"), "{:?}", told.failed);
    }
}

/// Capture writes `null`; what others wrote of a hub, or packed again for their archive, is read from the same folders.
#[tokio::test(flavor = "multi_thread")]
async fn a_blob_of_any_codec_gives_the_same_events() {
    let folder = tempfile::tempdir().expect("a folder");
    captured(folder.path(), CaptureCodec::Null, &[400]).await;
    let listing = source(folder.path()).list(None).await.expect("listed");
    let path = listing.partitions["0"][0].path.to_string();
    let plain = read(&source(folder.path()), listing, "0", Range::new(0, i64::MAX), Missing::Between).await.events;
    let whole = Bytes::from(std::fs::read(folder.path().join(path)).expect("read"));
    let Step::Whole(head) = Header::read(&whole).expect("a header") else { panic!("a whole header") };
    for codec in CODECS {
        let mut again = header(&head.schema, codec);
        let mut at = head.bytes;
        while at < whole.len() {
            let Step::Whole(one) = head.block(&whole.slice(at..), at as u64).expect("a block") else { panic!("whole") };
            again.extend(block(one.records as i64, &packed(codec, &one.packed)));
            at += one.bytes;
        }
        let folder = tempfile::tempdir().expect("a folder");
        put(folder.path(), "p0--2026-11-25--00-00-00.avro", &again);
        let source = source(folder.path());
        let listing = source.list(None).await.expect("listed");
        let told = read(&source, listing, "0", Range::new(0, i64::MAX), Missing::Between).await;
        assert_eq!((&told.events, told.failed.as_slice()), (&plain, &[][..]), "{codec}");
    }
}

const PLAIN: &str = r#"{"type":"record","name":"EventData","fields":[{"name":"SequenceNumber","type":"long"},{"name":"Body","type":["null","bytes"]}]}"#;

/// Nulls without end, in a byte or two.
const BOMB: &str = r#"{"type":"record","name":"EventData","fields":[{"name":"SequenceNumber","type":"long"},{"name":"Padding","type":{"type":"array","items":"null"}},{"name":"Body","type":["null","bytes"]}]}"#;

/// A container of one block, which claims 2^40 records.
fn with_schema(schema: &str, block: &[u8]) -> Vec<u8> {
    let mut bytes = b"Obj\x01\x02\x16avro.schema".to_vec();
    put_length(&mut bytes, schema.len());
    bytes.extend(schema.as_bytes());
    bytes.push(0);
    bytes.extend([7; 16]);
    put_length(&mut bytes, 1 << 40);
    put_length(&mut bytes, block.len());
    bytes.extend(block);
    bytes.extend([7; 16]);
    bytes
}

fn put_length(bytes: &mut Vec<u8>, length: usize) {
    let mut left = (length as u64) << 1;
    while left >= 0x80 {
        bytes.push(left as u8 | 0x80);
        left >>= 7;
    }
    bytes.push(left as u8);
}

#[tokio::test]
async fn other_codecs_and_foreign_files_are_refused_by_name() {
    let lz4 = {
        let mut bytes = b"Obj\x01\x04\x14avro.codec\x06lz4\x16avro.schema\x0c\"long\"\x00".to_vec();
        bytes.extend([7; 16]);
        bytes
    };
    let foreign = {
        let mut bytes = b"Obj\x01\x02\x16avro.schema\x0c\"long\"\x00".to_vec();
        bytes.extend([7; 16]);
        bytes
    };
    for (bytes, words) in [
        (lz4, "its codec is `lz4`, and only `null`, `deflate`, `snappy`, `zstandard`, `bzip2` and `xz` can be read"),
        (b"PAR1 is another format".to_vec(), "it doesn't begin as an Avro container"),
        (foreign, "its schema isn't that of Capture: it isn't a record"),
        (REAL[..100].to_vec(), "it is cut off"),
        (with_schema(BOMB, &[0, 0]), "field `Padding`: it is an array of what takes no bytes"),
        // A block of 16 bytes that claims 2^40 records.
        (with_schema(PLAIN, &[0; 16]), "it claims more records than it has bytes"),
    ] {
        let folder = tempfile::tempdir().expect("a folder");
        put(folder.path(), "p0--2026-11-25--00-00-00.avro", &bytes);
        let listing = source(folder.path()).list(None).await.expect("a torn blob is no error of the listing");
        assert!(listing.partitions.is_empty());
        let torn: Vec<_> = listing.torn.iter().map(|error| report(error)).collect();
        assert!(torn.len() == 1 && torn[0].contains(words) && torn[0].contains("p0--2026"), "{torn:?}");
    }
}

#[tokio::test]
async fn an_empty_blob_is_a_heartbeat_and_other_names_are_passed_over() {
    let folder = tempfile::tempdir().expect("a folder");
    // The header alone: what the real file begins with, up to its first block.
    let header = REAL.len() - 16 - block_of(REAL);
    put(folder.path(), "p0--2026-11-25--00-00-00.avro", &REAL[..header]);
    put(folder.path(), "p0--2026-11-25.avro", REAL);
    put(folder.path(), "../claims/p0--2026-11-25--00-00-00.avro", REAL);
    let listing = source(folder.path()).list(None).await.expect("listed");
    assert_eq!((listing.empty.len(), listing.partitions.len(), listing.torn.len()), (1, 0, 0), "{listing:?}");
}

/// The bytes of the only block of the real file, with the two numbers before it.
fn block_of(file: &[u8]) -> usize {
    let marker = &file[file.len() - 16..];
    let first = file.windows(16).position(|window| window == marker).expect("the header ends in it");
    file.len() - 16 - (first + 16)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whatever a file holds: an answer, and no panic.
    #[test]
    fn any_change_to_a_blob_gets_an_answer(changes in prop::collection::btree_map(0..REAL.len(), any::<u8>(), 1..12), cut in 0..REAL.len()) {
        let mut bytes = REAL.to_vec();
        for (at, byte) in changes {
            bytes[at] = byte;
        }
        bytes.truncate(REAL.len() - cut / 4);
        let folder = tempfile::tempdir().expect("a folder");
        put(folder.path(), "p0--2026-11-25--00-00-00.avro", &bytes);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let source = source(folder.path());
            let listing = source.list(None).await.expect("listed");
            if listing.partitions.is_empty() {
                assert_eq!(listing.torn.len() + listing.empty.len(), 1);
                return;
            }
            let (sender, mut events) = mpsc::channel(4);
            let reading = source.read(all_of(listing), MemoryBudget::new(1 << 20), sender, CancellationToken::new());
            let answered = async {
                // Its tries after a failure take their time: the first is answer enough.
                while let Some(event) = events.recv().await {
                    if matches!(event, SourceEvent::Failed { .. } | SourceEvent::BlobRead { .. }) {
                        return;
                    }
                }
            };
            tokio::select! {
                _ = reading => {}
                () = answered => {}
            }
        });
    }
}

fn all_of(listing: Listing) -> CaptureRead {
    CaptureRead {
        partition: PartitionKey::new(SourceId::new("emulator/leads"), "0"),
        listing: Arc::new(listing),
        wanted: RangeSet::from_iter([Range::new(i64::MIN, i64::MAX)]),
        generation: EnqueuedBetween::default(),
        enqueued: EnqueuedBetween::default(),
        missing: Missing::Between,
    }
}
