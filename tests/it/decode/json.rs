//! Bodies that are JSON: by a schema, and without one.

use sluicebox::decode::arrow_schema_of;
use sluicebox::sink::delta::schema::{Policy, Rescued, TableColumns};

use super::*;

/// Every type that a schema has.
const ALL: &str = r#"{"type": "record", "name": "All", "fields": [
  {"name": "b", "type": "boolean"}, {"name": "i", "type": "int"}, {"name": "l", "type": "long"},
  {"name": "f", "type": "float"}, {"name": "d", "type": "double"}, {"name": "y", "type": "bytes"},
  {"name": "s", "type": "string"}, {"name": "x", "type": {"type": "fixed", "name": "X", "size": 2}},
  {"name": "e", "type": {"type": "enum", "name": "E", "symbols": ["A", "B"]}},
  {"name": "dec", "type": {"type": "bytes", "logicalType": "decimal", "precision": 38, "scale": 2}},
  {"name": "fix", "type": {"type": "fixed", "name": "D", "size": 3, "logicalType": "decimal", "precision": 6, "scale": 1}},
  {"name": "u", "type": {"type": "fixed", "name": "U", "size": 16, "logicalType": "uuid"}},
  {"name": "day", "type": {"type": "int", "logicalType": "date"}},
  {"name": "ms", "type": {"type": "long", "logicalType": "timestamp-millis"}},
  {"name": "us", "type": {"type": "long", "logicalType": "timestamp-micros"}},
  {"name": "ns", "type": {"type": "long", "logicalType": "timestamp-nanos"}},
  {"name": "dur", "type": {"type": "fixed", "name": "L", "size": 12, "logicalType": "duration"}},
  {"name": "list", "type": {"type": "array", "items": ["null", "long"]}},
  {"name": "map", "type": {"type": "map", "values": "string"}},
  {"name": "o", "type": ["null", "string"], "default": null},
  {"name": "un", "type": ["null", "long", "string", {"type": "record", "name": "R", "fields": [{"name": "n", "type": "int"}]}]},
  {"name": "def", "type": "long", "default": 7},
  {"name": "defy", "type": "bytes", "default": "\u0001\u00ff"}
]}"#;

fn by_schema(avsc: &str) -> Decoder {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("schema.avsc");
    std::fs::write(&path, avsc).expect("written");
    let spec = DecodeSpec { format: Format::Json, schema: Some(path), ..DecodeSpec::default() };
    Decoder::open(&spec, None).expect("a decoder")
}

pub(super) fn plain() -> Decoder {
    let spec = DecodeSpec { format: Format::Json, ..DecodeSpec::default() };
    Decoder::open(&spec, None).expect("a decoder")
}

fn of(bodies: &[&str]) -> Arc<EventBatch> {
    batch((0..).zip(bodies).map(|(number, body)| event(number, None, (*body).to_owned())).collect())
}

fn rescued(rows: &RecordBatch) -> Vec<Option<&str>> {
    rows[bronze::RESCUED].as_string::<i32>().iter().collect()
}

const WHOLE: &str = r#"{"b": true, "i": -5, "l": 9223372036854775807, "f": 1.5, "d": 1e300, "y": "AP8=", "s": "é\n",
  "x": "AQI=", "e": "B", "dec": 123456789012345678901234567890123456.78, "fix": "-12.3",
  "u": "00112233-4455-6677-8899-AABBCCDDEEFF", "day": "1970-01-31", "ms": "1970-01-01T00:00:01.5Z",
  "us": "1970-01-01T01:00:00.000001+01:00", "ns": "1970-01-01T00:00:00.000001999Z",
  "dur": {"months": 1, "days": 2, "millis": 4294967295}, "list": [1, null, "3"], "map": {"k": "v", "": ""},
  "o": "there", "un": {"n": 3}, "def": 1, "defy": ""}"#;

#[test]
fn a_default_may_be_of_any_branch_of_its_union() {
    let decoder = by_schema(
        r#"{"type": "record", "name": "T", "fields": [
            {"name": "later", "type": ["null", "string"], "default": "x"},
            {"name": "neither", "type": ["int", "string"], "default": "y"},
            {"name": "first", "type": ["null", "string"], "default": null}]}"#,
    );
    let decoded = decode_now(&decoder, of(&["{}"]));
    assert_eq!(decoded.rejects, []);
    let [rows] = decoded.batches.as_slice() else { panic!("one batch") };
    assert_eq!(payload(rows, 0), json!({"later": "x", "neither": {"int": null, "string": "y"}, "first": null}));
}

#[test]
fn every_type_is_read_from_json() {
    let decoder = by_schema(ALL);
    let sparse = r#"{"b": false, "i": 1.0, "l": "-9223372036854775808", "f": "NaN", "d": "-Infinity", "y": "", "s": "", "x": "AAA=",
      "e": "A", "dec": "-0.50", "fix": 1e3, "u": "00112233445566778899aabbccddeeff", "day": -1, "ms": -1, "us": 5, "ns": 2000,
      "dur": {"millis": 0, "days": 0, "months": 0}, "list": [], "map": {}, "un": null}"#;
    let decoded = decode_now(&decoder, of(&[WHOLE, sparse]));
    assert_eq!(decoded.rejects, []);
    let [rows] = decoded.batches.as_slice() else { panic!("one batch") };
    let bits = |value: f64| json!(format!("{:016x}", value.to_bits()));
    assert_eq!(
        payload(rows, 0),
        json!({"b": true, "i": -5, "l": i64::MAX, "f": bits(1.5), "d": bits(1e300), "y": "00ff", "s": "é\n", "x": "0102", "e": "B",
            "dec": "12345678901234567890123456789012345678", "fix": "-123", "u": "00112233-4455-6677-8899-aabbccddeeff",
            "day": 30, "ms": 1_500_000, "us": 1, "ns": 1, "dur": {"months": 1, "days": 2, "millis": 4_294_967_295_i64},
            "list": [1, null, 3], "map": {"k": "v", "": ""}, "o": "there",
            "un": {"long": null, "string": null, "R": {"n": 3}}, "def": 1, "defy": ""})
    );
    let second = payload(rows, 1);
    for (column, expected) in [
        ("i", json!(1)),
        ("l", json!(i64::MIN)),
        ("d", bits(f64::NEG_INFINITY)),
        ("dec", json!("-50")),
        ("fix", json!("10000")),
        ("day", json!(-1)),
        ("ms", json!(-1000)),
        ("ns", json!(2)),
        ("o", Json::Null),
        ("un", Json::Null),
        ("def", json!(7)),
        ("defy", json!("01ff")),
    ] {
        assert_eq!(second[column], expected, "{column}");
    }
    assert_eq!(rescued(rows), [None, None]);
    assert_eq!(decoder.declared_schema(), Some(rows.schema()));
}

#[test]
fn what_does_not_fit_its_type_is_a_reject_that_names_the_field() {
    let decoder = by_schema(ALL);
    for (field, wrong, text) in [
        ("b", "1", "a boolean was expected, and it is a number, in the field `b`"),
        ("i", "2147483648", "a number that has more than 32 bits, in the field `i`"),
        ("i", "1.5", "a number that has a fraction or is out of range, in the field `i`"),
        ("l", "9223372036854775808", "a number that has more than 64 bits, in the field `l`"),
        ("l", "1e999999999", "a number that has a fraction or is out of range, in the field `l`"),
        ("l", "\"x\"", "a number was expected, and it is a string, in the field `l`"),
        ("l", "null", "a number was expected, and it is null, in the field `l`"),
        ("f", "1e39", "a number that is out of the range of floats, in the field `f`"),
        ("d", "1e309", "a number that is out of the range of doubles, in the field `d`"),
        ("d", "\"inf\"", "a number was expected, and it is a string, in the field `d`"),
        ("y", "\"%\"", "a string that isn't base64, in the field `y`"),
        ("s", "5", "a string was expected, and it is a number, in the field `s`"),
        ("x", "\"AA==\"", "1 bytes, where there must be 2, in the field `x`"),
        ("e", "\"C\"", "`C` is none of the symbols, in the field `e`"),
        ("dec", "1.001", "a decimal that has too many digits, or more than 2 behind the point, in the field `dec`"),
        ("dec", "1e36", "a decimal of more than 38 digits"),
        ("dec", "\"1,5\"", "a decimal was expected, and it is a string, in the field `dec`"),
        ("fix", "1000000", "a decimal that doesn't fit 3 bytes, in the field `fix`"),
        ("u", "\"1\"", "a string that is no uuid, in the field `u`"),
        ("day", "\"2026-1-1\"", "a string that is no date, as `2026-01-31`, in the field `day`"),
        (
            "ms",
            "\"2026-01-01T00:00:00\"",
            "a string that is no RFC 3339 time, as `2026-01-31T12:00:00Z`, in the field `ms`",
        ),
        ("ns", "\"3000-01-01T00:00:00Z\"", "a time that is out of range, in the field `ns`"),
        (
            "dur",
            "{\"months\": 1, \"days\": -1, \"millis\": 0}",
            "a number that has more than 32 bits, or a sign, in the field `dur.days`",
        ),
        ("dur", "{\"months\": 1, \"days\": 1}", "the field `millis` is missing, in the field `dur`"),
        ("list", "{}", "an array was expected, and it is an object, in the field `list`"),
        ("map", "{\"k\": 1}", "a string was expected, and it is a number, in the field `map.k`"),
        ("un", "true", "a boolean that fits no branch of the union, in the field `un`"),
    ] {
        let mut body: serde_json::Map<String, Json> = serde_json::from_str(WHOLE).expect("an object");
        body.insert(field.to_owned(), json!("@"));
        // As text: serde_json would round the numbers.
        body.remove("dec").filter(|_| field != "dec");
        body.entry("dec").or_insert_with(|| json!(if field == "dec" { "@" } else { "0" }));
        let body = Json::Object(body).to_string().replacen("\"@\"", wrong, 1);
        let decoded = decode_now(&decoder, of(&[WHOLE, &body, WHOLE]));
        let [reject] = decoded.rejects.as_slice() else { panic!("{field}: {:?}", decoded.rejects) };
        assert!(reject.text.starts_with(text), "{}", reject.text);
        assert_eq!((reject.class, reject.framing), (RejectClass::Datum, "json"));
        assert_eq!(sequence_numbers(&decoded.batches[0]), [0, 2], "{field}");
    }
    let missing = decode_now(&decoder, of(&["{}", "[]", "", "null", "{\"b\":true,\"b\":true}", "{\"b\":tru"])).rejects;
    assert_eq!(
        missing.iter().map(|reject| reject.text.as_str()).collect::<Vec<_>>(),
        [
            "the field `b` is missing",
            "an object was expected, and it is an array",
            "the body is empty",
            "an object was expected, and it is null",
            "it isn't JSON: the name `b` stands twice in the object, at byte 0",
            "it isn't JSON: no value, at byte 5",
        ]
    );
}

#[test]
fn what_the_schema_does_not_know_is_rescued_where_it_was() {
    let decoder = by_schema(
        r#"{"type": "record", "name": "R", "fields": [{"name": "id", "type": "long"},
          {"name": "in", "type": ["null", {"type": "record", "name": "I", "fields": [{"name": "a", "type": "int"}]}], "default": null},
          {"name": "many", "type": {"type": "array", "items": "I"}, "default": []},
          {"name": "by", "type": {"type": "map", "values": "I"}, "default": {}}]}"#,
    );
    let decoded = decode_now(
        &decoder,
        of(&[
            r#"{"id": 1}"#,
            r#"{"id": 2, "new": {"a": [1.10, "\u00e9"]}, "ID": null}"#,
            r#"{"in": {"a": 1, "b": 2}, "many": [{"a": 1}, {"a": 2, "c\"": true}, {"a": 3}], "by": {"x": {"a": 1, "z": 0}, "y": {"a": 1}}, "id": 3}"#,
        ]),
    );
    assert_eq!(decoded.rejects, []);
    let rows = &decoded.batches[0];
    assert_eq!(
        rescued(rows),
        [
            None,
            Some(r#"{"new":{"a": [1.10, "\u00e9"]},"ID":null}"#),
            Some(r#"{"in":{"b":2},"many":[null,{"c\"":true}],"by":{"x":{"z":0}}}"#)
        ]
    );
    assert_eq!(payload(rows, 2)["many"], json!([{"a": 1}, {"a": 2}, {"a": 3}]));
    assert_eq!(payload(rows, 0), json!({"id": 1, "in": null, "many": [], "by": {}}));
}

#[test]
fn without_a_schema_the_body_is_a_text() {
    let decoder = plain();
    let bodies = ["{\"a\" : 1.0 }", "[1,2", "\u{FEFF}\"x\"", "", "null", "{\"a\":1,\"a\":2}"];
    let decoded = decode_now(&decoder, of(&bodies));
    let rows = &decoded.batches[0];
    assert_eq!(rows["body"].as_string::<i32>().iter().flatten().collect::<Vec<_>>(), [bodies[0], "\"x\"", "null"]);
    assert_eq!(sequence_numbers(rows), [0, 2, 4]);
    assert_eq!(rows[bronze::EVENT_ID].as_string::<i32>().value(0), "event-0");
    assert_eq!(decoder.declared_schema(), Some(rows.schema()));
    let rejected: Vec<_> = decoded.rejects.iter().map(|reject| reject.event.sequence_number).collect();
    assert_eq!(rejected, [1, 3, 5]);
}

#[test]
fn a_pipeline_of_avro_reads_json_by_its_pinned_schema_where_the_content_type_says_so() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("schema.avsc");
    std::fs::write(&path, r#"{"type": "record", "name": "R", "fields": [{"name": "n", "type": "long"}]}"#)
        .expect("written");
    let spec = DecodeSpec { schema: Some(path), ..DecodeSpec::default() };
    let decoder = Decoder::open(&spec, None).expect("a decoder");
    let typed = |number, content_type: &str, body: &[u8]| Event {
        content_type: Some(content_type.to_owned()),
        ..event(number, None, body.to_vec())
    };
    let property = |name: &str, value: &str| vec![(name.to_owned(), value.to_owned())];
    let decoded = decode_now(
        &decoder,
        batch(vec![
            event(0, None, vec![14]),
            typed(1, "application/json; charset=utf-8", b"{\"n\": 8}"),
            Event { properties: property("Content-Type", "Application/Problem+JSON"), ..event(2, None, "{\"n\":9}") },
            typed(3, "application/json", &[14]),
            typed(4, "application/octet-stream", &[20]),
        ]),
    );
    let numbers: Vec<_> =
        decoded.batches.iter().flat_map(|rows| (0..rows.num_rows()).map(|row| at(&rows["n"], row))).collect();
    assert_eq!(numbers, [7, 10, 8, 9]);
    let [reject] = decoded.rejects.as_slice() else { panic!("one reject") };
    assert_eq!((reject.event.sequence_number, reject.framing), (3, "json"));
}

/// A value of [`ALL`] as JSON, with whatever stands in it.
fn nearly_json() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        Just("true".to_owned()),
        any::<i64>().prop_map(|n| n.to_string()),
        any::<f64>().prop_map(|n| format!("{n:e}")),
        "\"[a-zA-Z0-9+/=é:.TZ-]{0,12}\"",
        "[-0-9.eE+]{1,8}",
    ];
    let name = prop::sample::select(vec![
        "b", "i", "l", "d", "y", "s", "e", "dec", "ms", "list", "map", "un", "n", "dur", "new",
    ]);
    leaf.prop_recursive(3, 30, 5, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(|items| format!("[{}]", items.join(","))),
            prop::collection::vec((name.clone(), inner), 0..6).prop_map(|members| {
                let members: Vec<_> = members.into_iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
                format!("{{{}}}", members.join(","))
            }),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn whatever_stands_in_json_each_event_is_a_row_or_a_reject(bodies in prop::collection::vec(nearly_json(), 1..8)) {

        for decoder in [by_schema(ALL), by_schema(LOOSE), plain()] {
            let bodies: Vec<_> = bodies.iter().map(String::as_str).collect();
            let decoded = decode_now(&decoder, of(&bodies));
            let mut numbers: Vec<_> = decoded.batches.iter().flat_map(sequence_numbers).collect();
            numbers.extend(decoded.rejects.iter().map(|reject| reject.event.sequence_number));
            numbers.sort_unstable();
            prop_assert_eq!(numbers, (0..bodies.len() as i64).collect::<Vec<_>>());
            for left in decoded.batches.iter().flat_map(rescued).flatten() {
                prop_assert!(serde_json::from_str::<Json>(left).is_ok_and(|left| left.is_object()), "{}", left);
            }
        }
    }
}

/// Nothing has to be there, and much fits.
const LOOSE: &str = r#"{"type": "record", "name": "L", "fields": [
  {"name": "b", "type": ["null", "boolean", "long", "double", "string"], "default": null},
  {"name": "l", "type": ["null", "long"], "default": null}, {"name": "d", "type": ["null", "double"], "default": null},
  {"name": "dec", "type": ["null", {"type": "bytes", "logicalType": "decimal", "precision": 20, "scale": 5}], "default": null},
  {"name": "ms", "type": ["null", {"type": "long", "logicalType": "timestamp-millis"}], "default": null},
  {"name": "list", "type": ["null", {"type": "array", "items": ["null", "long", "string"]}], "default": null},
  {"name": "un", "type": ["null", {"type": "record", "name": "U", "fields": [{"name": "n", "type": ["null", "long"], "default": null}]}], "default": null}
]}"#;

/// The decoder leaves what the schema doesn't know, the table what its columns can't hold: both in one place.
#[test]
fn what_the_schema_and_what_the_table_can_t_hold_are_rescued_together() {
    let schema = |number: &str| {
        format!(
            r#"{{"type": "record", "name": "A", "fields": [{{"name": "n", "type": "{number}"}},
              {{"name": "r", "type": {{"type": "record", "name": "R", "fields": [
                {{"name": "n", "type": "{number}"}}, {{"name": "m", "type": "int"}}]}}}},
              {{"name": "l", "type": {{"type": "array", "items": "R"}}}}]}}"#
        )
    };
    let body = r#"{"n": "seven", "new": 1.10, "r": {"n": "x", "m": 1, "z": "}"}, "l": [{"n": "1", "m": 1}, {"n": "y", "m": 2, "z": [2]}]}"#;
    let decoded = decode_now(&by_schema(&schema("string")), of(&[body]));
    assert_eq!(decoded.rejects, []);
    assert_eq!(rescued(&decoded.batches[0]), [Some(r#"{"r":{"z":"}"},"l":[null,{"z":[2]}],"new":1.10}"#)]);
    let table = TableColumns::new(arrow_schema_of(&schema("int")).expect("a schema"), Policy::default());
    let mut counted = Rescued::new();
    let rows = table.align(&decoded.batches[0], &mut counted).expect("aligned");
    assert_eq!(
        rescued(&rows),
        [Some(r#"{"r":{"z":"}","n":"x"},"l":[{"n":"1"},{"z":[2],"n":"y"}],"new":1.10,"n":"seven"}"#)]
    );
    assert_eq!(at(&rows["r"], 0), json!({"n": null, "m": 1}));
}
