//! Bodies that are Avro containers: each record a row, or all of them one reject.

use std::io::Read as _;

use apache_avro::{Codec, DeflateSettings, Writer};
use arrow::datatypes::Int32Type;

use super::ends::containers;
use super::*;

const MARKER: [u8; 16] = [7; 16];
const TEXTS: &str =
    r#"{"type":"record","name":"R","fields":[{"name":"a","type":"long"},{"name":"b","type":"string"}]}"#;

fn long(value: i64) -> Vec<u8> {
    let mut rest = ((value << 1) ^ (value >> 63)).cast_unsigned();
    let mut bytes = Vec::new();
    while rest >= 0x80 {
        bytes.push((rest & 0x7F) as u8 | 0x80);
        rest >>= 7;
    }
    bytes.push(rest as u8);
    bytes
}

fn sized(bytes: &[u8]) -> Vec<u8> {
    [long(bytes.len() as i64), bytes.to_vec()].concat()
}

pub(crate) fn header(schema: &str, codec: &str) -> Vec<u8> {
    let entries = [("avro.schema", schema), ("avro.codec", codec)];
    let entries = entries.map(|(key, value)| [sized(key.as_bytes()), sized(value.as_bytes())].concat()).concat();
    [&b"Obj\x01"[..], &long(2), &entries, &[0], &MARKER].concat()
}

pub(crate) fn block(records: i64, bytes: &[u8]) -> Vec<u8> {
    [&long(records)[..], &sized(bytes), &MARKER].concat()
}

/// A container as its bytes are laid out, of any claims and any bytes.
fn container(schema: &str, blocks: &[(i64, &[u8])]) -> Vec<u8> {
    let blocks = blocks.iter().map(|(records, bytes)| block(*records, bytes));
    [vec![header(schema, "null")], blocks.collect()].concat().concat()
}

/// Every codec that the specification names.
pub(crate) const CODECS: [&str; 6] = ["null", "deflate", "snappy", "zstandard", "bzip2", "xz"];

/// The bytes of a block, as a writer with this codec packs them.
pub(crate) fn packed(codec: &str, bytes: &[u8]) -> Vec<u8> {
    let all = |mut encoder: Box<dyn std::io::Read + '_>| {
        let mut packed = Vec::new();
        encoder.read_to_end(&mut packed).expect("packed");
        packed
    };
    match codec {
        "null" => bytes.to_vec(),
        "deflate" => all(Box::new(flate2::read::DeflateEncoder::new(bytes, flate2::Compression::fast()))),
        "snappy" => {
            let mut crc = flate2::Crc::new();
            crc.update(bytes);
            let mut packed = snap::raw::Encoder::new().compress_vec(bytes).expect("packed");
            packed.extend(crc.sum().to_be_bytes());
            packed
        }
        "zstandard" => zstd::encode_all(bytes, 3).expect("packed"),
        "bzip2" => all(Box::new(bzip2::read::BzEncoder::new(bytes, bzip2::Compression::best()))),
        "xz" => all(Box::new(liblzma::read::XzEncoder::new(bytes, 6))),
        other => panic!("no codec `{other}`"),
    }
}

fn deflated(bytes: &[u8]) -> Vec<u8> {
    packed("deflate", bytes)
}

fn text(number: i64, text: &[u8]) -> Vec<u8> {
    [long(number), sized(text)].concat()
}

/// Number of the event and index of each row, over all batches.
fn keys(decoded: &Decoded) -> Vec<(i64, i32)> {
    let keys = decoded.batches.iter().flat_map(|rows| {
        let numbers = rows.column_by_name(bronze::SEQUENCE_NUMBER).expect("numbers").as_primitive::<Int64Type>();
        let indexes = rows.column_by_name(bronze::RECORD_INDEX).expect("indexes").as_primitive::<Int32Type>();
        numbers.values().iter().copied().zip(indexes.values().iter().copied()).collect::<Vec<_>>()
    });
    keys.collect()
}

#[test]
fn each_record_is_a_row_with_the_position_of_its_event_and_an_index() {
    let schema = Schema::parse_str(LEAD).expect("a schema");
    let bodies = [Codec::Null, Codec::Deflate(DeflateSettings::default())].map(|codec| {
        let mut writer = Writer::with_codec(&schema, Vec::new(), codec).expect("a writer");
        for number in 0..5 {
            writer.append_value(lead(number)).expect("written");
            if number == 2 {
                writer.flush().expect("a block of its own");
            }
        }
        writer.into_inner().expect("a container")
    });
    let [plain, small] = bodies;
    let decoded = decode_now(&containers(), batch(vec![event(7, None, plain), event(8, None, small)]));
    assert!(decoded.rejects.is_empty(), "{:?}", decoded.rejects);
    let [rows] = decoded.batches.as_slice() else { panic!("one schema, one batch") };
    let expected: Vec<_> = [7, 8].into_iter().flat_map(|number| (0..5).map(move |index| (number, index))).collect();
    assert_eq!(keys(&decoded), expected);
    let ids: Vec<_> = rows.column_by_name("lead_id").expect("ids").as_string::<i32>().iter().flatten().collect();
    assert_eq!(ids, [0, 1, 2, 3, 4, 0, 1, 2, 3, 4].map(|number| format!("lead-{number}")));
    let events: Vec<_> =
        rows.column_by_name(bronze::EVENT_ID).expect("ids").as_string::<i32>().iter().flatten().collect();
    assert_eq!((events[0], events[4], events[5]), ("event-7", "event-7", "event-8"));
    assert_eq!(rows.column_by_name(bronze::SCHEMA_ID).expect("the column").null_count(), 10);
}

#[test]
fn a_container_with_one_bad_record_is_rejected_whole_and_costs_its_neighbours_nothing() {
    let good = container(TEXTS, &[(2, &[text(1, b"a"), text(2, b"b")].concat())]);
    for (bad, wanted) in [
        // Nothing but a text shows what is wrong; a string that leaves its block; a number without end.
        (container(TEXTS, &[(1, &text(1, b"a")), (2, &[text(1, b"a"), text(2, b"\xFF")].concat())]), "record 2: "),
        (container(TEXTS, &[(2, &[text(1, b"a"), vec![2, 80, b'x']].concat())]), "record 1: needs 40 bytes"),
        (container(TEXTS, &[(1, &[0x80; 3])]), "record 0: a number that is cut off"),
        (container(TEXTS, &[(1, &[text(1, b"a"), text(2, b"b")].concat())]), "behind record 0 follow 3 bytes"),
        (container(TEXTS, &[]), "the container holds no record"),
        (container(TEXTS, &[(0, b"")]), "the container holds no record"),
        (container(TEXTS, &[(-1, b"")]), "the container can't be read: the block at byte "),
        (container(TEXTS, &[(4, b"abc")]), "the container can't be read: the block at byte "),
        (good[..20].to_vec(), "the container can't be read: its header is torn"),
        (good[..good.len() - 1].to_vec(), "the container can't be read: it is cut off"),
    ] {
        let decoded = decode_now(
            &containers(),
            batch((0..3).map(|n| event(n, None, if n == 1 { bad.clone() } else { good.clone() })).collect()),
        );
        assert_eq!(keys(&decoded), [(0, 0), (0, 1), (2, 0), (2, 1)], "{wanted}");
        let [reject] = decoded.rejects.as_slice() else { panic!("{:?}", decoded.rejects) };
        assert!(reject.text.starts_with(wanted), "{}", reject.text);
        assert_eq!((reject.class, reject.framing), (RejectClass::Datum, "container"));
        assert_eq!((reject.event.sequence_number, reject.record_index, &reject.event.body[..]), (1, 0, &bad[..]));
    }
}

#[test]
fn a_block_of_any_codec_that_is_torn_says_how() {
    let plain = [text(1, b"a"), text(2, b"b"), text(3, &[b'c'; 300])].concat();
    for codec in &CODECS[1..] {
        let whole = packed(codec, &plain);
        let rows = |packed: &[u8]| {
            let body = [header(TEXTS, codec), block(3, packed)].concat();
            let decoded = decode_now(&containers(), batch(vec![event(0, None, body)]));
            let reject = decoded.rejects.first().map(|reject| reject.text.clone());
            reject.ok_or_else(|| keys(&decoded).len())
        };
        assert_eq!(rows(&whole), Err(3), "{codec}");
        let what = if *codec == "deflate" { "inflated".to_owned() } else { format!("decompressed as {codec}") };
        let wanted = format!("is torn: its bytes can't be {what}");
        // Of snappy what is cut off is a checksum, of zstandard too; the blocks of the others end where they say.
        for cut in [whole.len() / 2, whole.len() - 5] {
            let text = rows(&whole[..cut]).expect("a reject");
            assert!(text.contains(&wanted), "{codec} cut off at {cut}: {text}");
        }
        if *codec != "deflate" {
            let text = rows(&[&whole[..], b"more"].concat()).expect("a reject");
            let behind = text.contains("bytes follow the end of what is compressed");
            assert!(behind || text.contains(&wanted), "{codec} with more behind it: {text}");
        }
    }
    let mut wrong = packed("snappy", &plain);
    *wrong.last_mut().expect("a checksum") ^= 1;
    for (packed, wanted) in [
        (&wrong[..], "is torn: its bytes don't match their checksum"),
        (&wrong[..3], "is torn: it is too short for its checksum"),
    ] {
        let body = [header(TEXTS, "snappy"), block(3, packed)].concat();
        let decoded = decode_now(&containers(), batch(vec![event(0, None, body)]));
        let [reject] = decoded.rejects.as_slice() else { panic!("a reject") };
        assert!(reject.text.contains(wanted), "{}", reject.text);
    }
}

#[test]
fn a_codec_that_nobody_reads_is_named() {
    let body = [header(TEXTS, "lz4"), block(1, b"abc")].concat();
    let decoded = decode_now(&containers(), batch(vec![event(0, None, body)]));
    let [reject] = decoded.rejects.as_slice() else { panic!("a reject") };
    let wanted = "the container can't be read: its codec is `lz4`, and only `null`, `deflate`, `snappy`, `zstandard`, \
                  `bzip2` and `xz` can be read";
    assert_eq!(reject.text, wanted);
}

#[test]
fn a_schema_that_no_table_can_hold_is_named() {
    for (schema, wanted) in [
        ("{", "it isn't an Avro schema"),
        (r#"{"type":"record","name":"R","fields":[{"name":"next","type":["null","R"]}]}"#, "recursive"),
    ] {
        let decoded = decode_now(&containers(), batch(vec![event(0, None, container(schema, &[(1, b"\0")]))]));
        let [reject] = decoded.rejects.as_slice() else { panic!("a reject") };
        assert_eq!(reject.class, RejectClass::SchemaUnusable);
        assert!(reject.text.contains(wanted), "{}", reject.text);
    }
}

#[test]
fn containers_that_would_fill_the_memory_are_refused() {
    let wide = (0..500).map(|n| format!(r#"{{"name":"f{n}","type":"long"}}"#)).collect::<Vec<_>>().join(",");
    let wide = format!(
        r#"{{"type":"record","name":"W","fields":[{{"name":"o","type":["null",{{"type":"record","name":"I","fields":[{wide}]}}]}}]}}"#
    );
    let zeros = vec![0; 40 << 20];
    let halves = deflated(&zeros[..20 << 20]);
    let two = [header(r#""bytes""#, "deflate"), block(1, &halves), block(1, &halves)].concat();
    let many = [header(r#""long""#, "deflate"), block(300_000, &deflated(&zeros[..300_000]))].concat();
    let nulls = [header(&wide, "deflate"), block(200_000, &deflated(&zeros[..200_000]))].concat();
    let mut heavy =
        event(0, None, [header(r#""long""#, "deflate"), block(250_000, &deflated(&zeros[..250_000]))].concat());
    heavy.properties.push(("note".to_owned(), "x".repeat(10_000)));
    let bombs = CODECS.iter().filter(|codec| !["null", "snappy"].contains(codec)).map(|codec| {
        let bomb = [header(r#""long""#, codec), block(1, &packed(codec, &zeros))].concat();
        (event(0, None, bomb), "holds more bytes than are read")
    });
    // Snappy takes a twentieth at least; a header that lies takes six bytes.
    let lie = [&[0xFF, 0xFF, 0xFF, 0x1F][..], &[0; 6]].concat();
    let lie = [header(r#""long""#, "snappy"), block(1, &lie)].concat();
    // A frame that wants 3.75 TiB to look back on, and a stream that wants a dictionary of 4 GiB.
    let window = [header(r#""long""#, "zstandard"), block(1, b"\x28\xB5\x2F\xFD\x00\xFF\x01\x00\x00")].concat();
    let mut greedy = Vec::new();
    let mut options = liblzma::stream::LzmaOptions::new_preset(0).expect("options");
    let mut filters = liblzma::stream::Filters::new();
    filters.lzma2(options.dict_size(1 << 30));
    let stream =
        liblzma::stream::Stream::new_stream_encoder(&filters, liblzma::stream::Check::Crc32).expect("a stream");
    liblzma::read::XzEncoder::new_stream(&zeros[..1], stream).read_to_end(&mut greedy).expect("packed");
    let greedy = [header(r#""long""#, "xz"), block(1, &greedy)].concat();
    for (event, wanted) in bombs.chain([
        (event(0, None, lie), "holds more bytes than are read"),
        (event(0, None, window), "its bytes can't be decompressed as zstandard"),
        (event(0, None, greedy), "its bytes can't be decompressed as xz"),
        (event(0, None, two), "holds more bytes than are read"),
        (event(0, None, many), "holds 300000 records, and 262144 can be read"),
        (event(0, None, nulls), "would take more than 67108864 bytes of columns"),
        (heavy, "would repeat"),
    ]) {
        assert!(event.body.len() < 2 << 20, "{wanted}: {} bytes do the harm", event.body.len());
        let decoded = decode_now(&containers(), batch(vec![event]));
        let [reject] = decoded.rejects.as_slice() else { panic!("a reject: {wanted}") };
        assert!(reject.text.contains(wanted), "{}", reject.text);
    }
}

proptest! {
    #[test]
    fn any_bytes_behind_the_magic_give_rows_or_one_reject(rest in prop::collection::vec(any::<u8>(), 0..200)) {
        each_event_ends_once(&containers(), vec![event(0, None, [&b"Obj\x01"[..], &rest].concat())]);
    }

    #[test]
    fn a_damaged_container_gives_rows_or_one_reject(
        texts in prop::collection::vec(".{0,8}", 1..6),
        codec in prop::sample::select(CODECS.to_vec()),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in any::<prop::sample::Index>(),
        is_cut in any::<bool>(),
    ) {
        let records: Vec<u8> = texts.iter().flat_map(|one| text(1, one.as_bytes())).collect();
        let mut body = [header(TEXTS, codec), block(texts.len() as i64, &packed(codec, &records))].concat();
        for (at, byte) in damage {
            let at = at.index(body.len());
            body[at] = byte;
        }
        if is_cut {
            body.truncate(cut.index(body.len()));
        }
        each_event_ends_once(&containers(), vec![event(0, None, body)]);
    }

    #[test]
    fn a_codec_changes_no_row(texts in prop::collection::vec(prop::collection::vec(".{0,40}", 1..20), 1..4), repeat in 1_usize..60) {
        let rows = |codec: &str| {
            let blocks = texts.iter().map(|texts| {
                let records: Vec<u8> = texts.iter().flat_map(|one| text(1, one.repeat(repeat).as_bytes())).collect();
                block(texts.len() as i64, &packed(codec, &records))
            });
            let body = [vec![header(TEXTS, codec)], blocks.collect()].concat().concat();
            let decoded = decode_now(&containers(), batch(vec![event(0, None, body)]));
            assert!(decoded.rejects.is_empty(), "{codec}: {:?}", decoded.rejects);
            decoded.batches
        };
        let plain = rows("null");
        for codec in &CODECS[1..] {
            prop_assert_eq!(&rows(codec), &plain, "{}", codec);
        }
    }

    #[test]
    fn any_schema_in_a_header_gets_an_answer(schema in r#"[\[\]{}:,"a-z0-9]{0,80}"#, data in prop::collection::vec(any::<u8>(), 0..16)) {
        each_event_ends_once(&containers(), vec![event(0, None, container(&schema, &[(1, &data)]))]);
    }
}
