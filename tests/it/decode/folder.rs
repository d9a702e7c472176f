//! Single-object encoding, and schemas in a folder.

use std::path::Path;
use std::time::Duration;

use apache_avro::rabin::Rabin;
use sluicebox::decode::FolderRegistry;
use sluicebox::error::{Classify, Kind, Retry};

use super::*;

fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a folder");
    for (name, text) in files {
        write(dir.path(), name, text);
    }
    dir
}

fn write(dir: &Path, name: &str, text: &str) {
    let path = dir.join(name);
    std::fs::create_dir_all(path.parent().expect("a parent")).expect("the folder is made");
    std::fs::write(path, text).expect("written");
}

fn open(dir: &Path) -> Result<Arc<FolderRegistry>, String> {
    FolderRegistry::open(dir, FolderRegistry::READ_AGAIN_AFTER).map(Arc::new).map_err(|error| error.to_string())
}

/// Fingerprints as fastavro 1.13.1 has them.
const OF_LEAD: u64 = 0xe3d0_344e_0a38_5863;
const OF_INT: u64 = 0x8f5c_393f_1ad5_7572;
const OF_ORDER: u64 = 0xb5fc_a5b0_cc9d_3639;

fn single_object(fingerprint: u64, datum: &[u8]) -> Vec<u8> {
    [&[0xC3, 0x01], &fingerprint.to_be_bytes()[..], datum].concat()
}

#[tokio::test]
async fn a_schema_of_a_folder_is_found_by_its_fingerprint_and_by_its_name() {
    let dir = folder(&[
        ("leads/current.avsc", LEAD),
        (&format!("azure/{LEAD_ID}.avsc"), LEAD),
        ("confluent/42.avsc", LEAD),
        ("README.md", "not a schema"),
        (".hidden.avsc", "neither"),
    ]);
    let decoder = by_content_type(open(dir.path()).expect("a folder"));
    let events = batch(vec![
        event(0, None, single_object(OF_LEAD, &lead_bytes(0))),
        event(1, Some(LEAD_ID), lead_bytes(1)),
        event(2, None, [&[0, 0, 0, 0, 42][..], &lead_bytes(2)].concat()),
        event(3, None, [&[0; 4], LEAD_ID.as_bytes(), &lead_bytes(3)].concat()),
        event(4, None, single_object(OF_INT, &[2])),
        event(5, None, vec![0xC3, 0x01, 1]),
    ]);
    let decoded = decoder.decode(events).await.expect("decoded");
    let ids: Vec<_> = decoded
        .batches
        .iter()
        .flat_map(|rows| {
            rows.column_by_name(bronze::SCHEMA_ID).expect("the column").as_string::<i32>().iter().flatten()
        })
        .collect();
    assert_eq!(ids.len(), 4, "{:?}", decoded.rejects);
    assert_eq!(ids[0].len(), 16);
    assert_eq!(ids[1..3], [LEAD_ID, "42"]);
    let told: Vec<_> = decoded.rejects.iter().map(|reject| (reject.class, reject.framing)).collect();
    assert_eq!(told, [(RejectClass::SchemaNotFound, "single-object"), (RejectClass::Framing, "unknown")]);
    assert!(decoded.rejects[0].text.starts_with("the registry has no schema `"), "{}", decoded.rejects[0].text);
}

#[tokio::test]
async fn single_object_encoding_may_name_the_pinned_schema() {
    let dir = folder(&[("lead.avsc", LEAD)]);
    let schema = Some(dir.path().join("lead.avsc"));
    for framing in [Framing::Auto, Framing::SingleObject] {
        let spec = DecodeSpec { format: Format::Avro, schema: schema.clone(), framing, ..DecodeSpec::default() };
        let decoder = Decoder::open(&spec, None).expect("a decoder");
        let other = event(1, None, single_object(OF_INT, &[2]));
        let events = batch(vec![event(0, None, single_object(OF_LEAD, &lead_bytes(0))), other]);
        let decoded = decoder.decode(events).await.expect("decoded");
        assert_eq!(decoded.batches[0].num_rows(), 1);
        let class = if framing == Framing::Auto { RejectClass::Datum } else { RejectClass::SchemaNotFound };
        assert_eq!(decoded.rejects[0].class, class, "{}", decoded.rejects[0].text);
    }
}

#[tokio::test]
async fn the_fingerprint_of_apache_avros_writers_is_known_too() {
    let fingerprint = Schema::parse_str(LEAD).expect("a schema").fingerprint::<Rabin>().bytes;
    let fingerprint = u64::from_be_bytes(fingerprint.try_into().expect("eight bytes"));
    assert_ne!(fingerprint, OF_LEAD, "its form keeps what the specification leaves out");
    let dir = folder(&[("lead.avsc", LEAD)]);
    let decoder = by_content_type(open(dir.path()).expect("a folder"));
    let decoded = decoder.decode(batch(vec![event(0, None, single_object(fingerprint, &lead_bytes(0)))])).await;
    assert_eq!(decoded.expect("decoded").batches[0].num_rows(), 1);
}

#[tokio::test]
async fn a_file_may_use_the_types_of_others() {
    let dir = folder(&[
        (
            "order.avsc",
            r#"{"type":"record","name":"Order","namespace":"shop","fields":[{"name":"to","type":"Address"}]}"#,
        ),
        (
            "parts/address.avsc",
            r#"{"type":"record","name":"shop.Address","fields":[{"name":"country","type":"geo.Country"}]}"#,
        ),
        (
            "parts/geo.avsc",
            r#"[{"type":"enum","name":"geo.Country","symbols":["DE","FR"]},{"type":"fixed","name":"geo.Code","size":2}]"#,
        ),
    ]);
    let decoder = by_content_type(open(dir.path()).expect("a folder"));
    let decoded = decoder.decode(batch(vec![event(0, None, single_object(OF_ORDER, &[2]))])).await.expect("decoded");
    assert!(decoded.rejects.is_empty(), "{:?}", decoded.rejects);
    let to = decoded.batches[0].column_by_name("to").expect("the column").as_struct();
    assert_eq!(to.column(0).as_string::<i32>().value(0), "FR");
}

#[tokio::test]
async fn a_file_that_comes_later_is_found_and_one_that_is_half_written_is_waited_for() {
    let dir = folder(&[]);
    let registry = FolderRegistry::open(dir.path(), Duration::ZERO).expect("a folder");
    let decoder = by_content_type(Arc::new(registry));
    let events = batch(vec![event(0, None, single_object(OF_LEAD, &lead_bytes(0)))]);
    let decoded = decoder.decode(events.clone()).await.expect("an answer");
    assert_eq!(decoded.rejects[0].class, RejectClass::SchemaNotFound);

    write(dir.path(), "lead.avsc", &LEAD[..100]);
    for _ in 0..2 {
        let error = decoder.decode(events.clone()).await.expect_err("half of a file");
        assert_eq!((error.kind(), error.retry()), (Kind::External, Retry::Backoff), "{error}");
    }
    write(dir.path(), "lead.avsc", LEAD);
    let askers = (0..5).map(|_| decoder.decode(events.clone()));
    for decoded in futures::future::join_all(askers).await {
        assert_eq!(decoded.expect("decoded").batches.len(), 1);
    }
}

#[test]
fn what_is_wrong_with_a_folder_names_the_file() {
    let id = |size: u32| format!(r#"{{"type":"fixed","name":"Id","size":{size}}}"#);
    for (files, wanted) in [
        (vec![("a.avsc", "{".to_owned())], "a.avsc` can't be used: `a.avsc` isn't JSON"),
        (vec![("b.avsc", r#"{"type":"recrd"}"#.to_owned())], "b.avsc` can't be used: it isn't an Avro schema"),
        (vec![("c.avsc", r#""x.Missing""#.to_owned())], "c.avsc` can't be used: it isn't an Avro schema"),
        (
            vec![("1/id.avsc", id(1)), ("2/id.avsc", id(2)), ("d.avsc", r#"{"type":"array","items":"Id"}"#.to_owned())],
            "d.avsc` can't be used: uses the type `Id`, which `1/id.avsc` and `2/id.avsc` define each in its way",
        ),
        (vec![("1/7.avsc", id(1)), ("2/7.avsc", id(2))], "7.avsc` can't be used: another file has the id `7` too"),
        (vec![("e.avsc", " ".repeat(3 << 20))], "e.avsc` can't be used: it is no file of at most"),
    ] {
        let dir = folder(&files.iter().map(|(name, text)| (*name, text.as_str())).collect::<Vec<_>>());
        let error = FolderRegistry::open(dir.path(), Duration::ZERO).expect_err(wanted);
        assert!(error.to_string().contains(wanted), "{error}");
        assert_eq!(error.kind(), Kind::Config);
        assert!(error.hint().is_some());
    }
    assert!(open(Path::new("/nowhere/at/all")).is_err_and(|text| text.contains("/nowhere/at/all")));
    // Versions of one type may lie side by side.
    let dir = folder(&[("1.avsc", &id(1)), ("2.avsc", &id(2))]);
    assert!(open(dir.path()).is_ok());
}

#[test]
fn confluents_framing_needs_files_named_by_numbers() {
    let dir = folder(&[("lead.avsc", LEAD)]);
    let opened = |framing| {
        let spec = DecodeSpec { format: Format::Avro, schema: None, framing, ..DecodeSpec::default() };
        let registry: Arc<dyn SchemaRegistry> = open(dir.path()).expect("a folder");
        Decoder::open(&spec, Some(registry)).map(drop).map_err(|error| error.to_string())
    };
    for framing in [Framing::Auto, Framing::ContentType, Framing::Preamble, Framing::SingleObject] {
        assert_eq!(opened(framing), Ok(()));
    }
    assert!(opened(Framing::Confluent).is_err_and(|text| text.contains("`confluent` needs a registry")));
    write(dir.path(), "42.avsc", LEAD);
    assert_eq!(opened(Framing::Confluent), Ok(()));
}
