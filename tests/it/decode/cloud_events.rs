//! CloudEvents: in binary mode, in structured mode, in batches; what is required of them.

use sluicebox::config::spec::Attribute;

use super::json::plain;
use super::*;

fn typed(number: i64, content_type: &str, body: impl Into<Bytes>) -> Event {
    Event { content_type: Some(content_type.to_owned()), properties: Vec::new(), ..event(number, None, body) }
}

fn with_properties(number: i64, properties: &[(&str, &str)], body: &'static str) -> Event {
    let properties = properties.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Event { properties, ..event(number, None, body) }
}

fn structured(number: i64, body: &'static str) -> Event {
    typed(number, "application/cloudevents+json; charset=utf-8", body)
}

fn texts<'r>(rows: &'r RecordBatch, column: &str) -> Vec<Option<&'r str>> {
    rows[column].as_string::<i32>().iter().collect()
}

fn properties(rows: &RecordBatch, row: usize) -> Json {
    at(&rows[bronze::PROPERTIES], row)
}

fn requiring(require: &[Attribute], framing: Framing) -> Decoder {
    let spec = DecodeSpec { format: Format::Json, framing, require: require.to_vec(), ..DecodeSpec::default() };
    Decoder::open(&spec, None).expect("a decoder")
}

#[test]
fn a_structured_event_has_its_attributes_in_columns_and_its_data_as_the_payload() {
    let body = r#"{"specversion": "1.0", "id": "a-1", "source": "/leads", "type": "lead.generated", "time": "1970-01-01T00:00:01Z",
      "subject": "lead 7", "traceparent": "00-1", "attempt": 3, "datacontenttype": "application/json", "data": {"n": 1.10}}"#;
    let mut event = structured(0, body);
    event.properties = vec![("tenant".to_owned(), "7".to_owned()), ("cloudEvents_id".to_owned(), "other".to_owned())];
    let decoded = decode_now(&plain(), batch(vec![event, structured(1, r#"{"id": "a-2"}"#)]));
    assert_eq!(decoded.rejects, []);
    let rows = &decoded.batches[0];
    assert_eq!(texts(rows, "body"), [Some(r#"{"n": 1.10}"#), None]);
    assert_eq!(texts(rows, bronze::EVENT_ID), [Some("a-1"), Some("a-2")]);
    assert_eq!(texts(rows, bronze::EVENT_SOURCE), [Some("/leads"), None]);
    assert_eq!(texts(rows, bronze::EVENT_TYPE), [Some("lead.generated"), None]);
    assert_eq!(at(&rows[bronze::EVENT_TIME], 0), json!(1_000_000));
    assert_eq!(
        properties(rows, 0),
        json!({"tenant": "7", "cloudEvents_specversion": "1.0", "cloudEvents_id": "a-1", "cloudEvents_source": "/leads",
            "cloudEvents_type": "lead.generated", "cloudEvents_time": "1970-01-01T00:00:01Z", "cloudEvents_subject": "lead 7",
            "cloudEvents_traceparent": "00-1", "cloudEvents_attempt": "3", "cloudEvents_datacontenttype": "application/json"})
    );
}

#[test]
fn a_batch_is_a_row_for_each_of_its_events_or_one_reject() {
    let good = r#"[{"id": "1", "data": 1}, {"id": "2", "data_base64": "Mg=="}, {"id": "3"}]"#;
    let is_batch = |number, body: &'static str| typed(number, "application/cloudevents-batch+json", body);
    let decoded = decode_now(
        &plain(),
        batch(vec![
            is_batch(0, good),
            is_batch(1, r#"[{"id": "1", "data": 1}, {"id": "2", "data_base64": "eA=="}]"#),
            is_batch(2, "[]"),
            is_batch(3, r#"[{"id": "1"}, 5]"#),
            is_batch(4, r#"[{"id": "4", "data": [4]}]"#),
        ]),
    );
    let rows = &decoded.batches[0];
    assert_eq!(sequence_numbers(rows), [0, 0, 0, 4]);
    let indexes: Vec<_> = rows[bronze::RECORD_INDEX].as_primitive::<arrow::datatypes::Int32Type>().values().to_vec();
    assert_eq!(indexes, [0, 1, 2, 0]);
    assert_eq!(texts(rows, bronze::EVENT_ID), [Some("1"), Some("2"), Some("3"), Some("4")]);
    assert_eq!(texts(rows, "body"), [Some("1"), Some("2"), None, Some("[4]")]);
    let rejected: Vec<_> =
        decoded.rejects.iter().map(|r| (r.event.sequence_number, r.class, r.text.as_str())).collect();
    assert_eq!(
        rejected,
        [
            (1, RejectClass::Datum, "record 1: it isn't JSON: no value, at byte 0"),
            (2, RejectClass::Framing, "the batch holds no CloudEvent"),
            (3, RejectClass::Framing, "record 1: a CloudEvent is an object, and it is a number"),
        ]
    );
    assert!(decoded.rejects.iter().all(|reject| reject.framing == "cloudevents" && reject.record_index == 0));
}

/// Events of a batch may be of several schemas, and one that is wrong takes those of the others back.
#[test]
fn a_batch_of_several_schemas_goes_as_a_whole() {
    let other = "11111111111111111111111111111111";
    let schema = r#"{"type": "record", "name": "N", "fields": [{"name": "n", "type": "long"}]}"#;
    let decoder = by_content_type(Shelf::with(&[(LEAD_ID, LEAD), (other, schema)]));
    let encode = |bytes: &[u8]| base64::Engine::encode(&base64::engine::general_purpose::STANDARD, bytes);
    let part = |id: &str, schema: &str, bytes: &[u8]| json!({"id": id, "datacontenttype": format!("avro/binary+{schema}"), "data_base64": encode(bytes)});
    let by_url = |bytes: &[u8]| {
        json!({"id": "u", "data_base64": encode(bytes), "datacontenttype": "application/avro",
            "dataschema": format!("https://hub.servicebus.windows.net/$schemaGroups/$schemas/{other}?api-version=1")})
    };
    let is_batch =
        |number, parts: Vec<Json>| typed(number, "application/cloudevents-batch+json", Json::from(parts).to_string());
    let decoded = decode_now(
        &decoder,
        batch(vec![
            is_batch(0, vec![part("a", LEAD_ID, &lead_bytes(1)), part("b", other, &[14]), by_url(&[16])]),
            is_batch(1, vec![part("c", LEAD_ID, &lead_bytes(2)), part("d", other, &[])]),
            is_batch(2, vec![part("e", other, &[20]), part("f", UNKNOWN_ID, &[20])]),
            event(3, Some(other), vec![22]),
        ]),
    );
    let ids: Vec<_> = decoded.batches.iter().flat_map(|rows| texts(rows, bronze::EVENT_ID)).flatten().collect();
    assert_eq!(ids, ["a", "b", "event-3", "u"]);
    let found: Vec<_> = decoded.batches.iter().flat_map(|rows| texts(rows, bronze::SCHEMA_ID)).flatten().collect();
    assert_eq!(found, [LEAD_ID, other, other, other]);
    let rejected: Vec<_> =
        decoded.rejects.iter().map(|r| (r.event.sequence_number, r.class, r.schema_id.as_deref())).collect();
    assert_eq!(rejected, [(1, RejectClass::Datum, Some(other)), (2, RejectClass::SchemaNotFound, Some(UNKNOWN_ID))]);
    assert_eq!(decoded.rejects[0].text, "record 1: the body is empty, at byte 0");
}

#[test]
fn attributes_that_are_required_are_there_and_sound_or_the_event_is_rejected() {
    use Attribute::*;
    let decoder = requiring(&[Id, Source, Type, Time], Framing::Auto);
    let sound = [("ce_id", "1"), ("ce_source", "/a"), ("ce_type", "t"), ("ce_time", "2026-01-01T00:00:00Z")];
    let with = |name: &'static str, value: Option<&'static str>| {
        let mut properties: Vec<_> = sound.into_iter().filter(|(held, _)| *held != name).collect();
        properties.extend(value.map(|value| (name, value)));
        properties
    };
    let decoded = decode_now(
        &decoder,
        batch(vec![
            with_properties(0, &sound, "{}"),
            with_properties(1, &with("ce_id", Some("")), "{}"),
            with_properties(2, &with("ce_source", Some("not a URI")), "{}"),
            with_properties(3, &with("ce_type", None), "{}"),
            with_properties(4, &with("ce_time", Some("today")), "{}"),
            structured(5, r#"{"id": "1", "source": "/a", "type": "t", "time": "2026-01-01T00:00:00Z", "data": {}}"#),
            structured(6, r#"{"id": "1", "source": "/a", "type": null, "time": "2026-01-01T00:00:00Z", "data": {}}"#),
        ]),
    );
    assert_eq!(sequence_numbers(&decoded.batches[0]), [0, 5]);
    let rejected: Vec<_> =
        decoded.rejects.iter().map(|r| (r.event.sequence_number, r.framing, r.text.as_str())).collect();
    assert_eq!(
        rejected,
        [
            (1, "json", "the CloudEvents attribute `id` is ``, and may not be empty"),
            (2, "json", "the CloudEvents attribute `source` is `not a URI`, which is no URI reference"),
            (3, "json", "the CloudEvents attribute `type` is missing"),
            (4, "json", "the CloudEvents attribute `time` is `today`, which is no RFC 3339 time"),
            (6, "cloudevents", "the CloudEvents attribute `type` is missing"),
        ]
    );
    assert!(decoded.rejects.iter().all(|reject| reject.class == RejectClass::Attribute));
    // Nobody requires them: null, and the property as it came.
    let decoded = decode_now(&plain(), batch(vec![with_properties(0, &with("ce_source", Some("not a URI")), "{}")]));
    let rows = &decoded.batches[0];
    assert_eq!((texts(rows, bronze::EVENT_SOURCE), texts(rows, bronze::EVENT_ID)), (vec![None], vec![Some("1")]));
    assert_eq!(properties(rows, 0)["ce_source"], "not a URI");
}

#[test]
fn what_became_null_is_counted_by_attribute() {
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    let handle = recorder.handle();
    metrics::with_local_recorder(&recorder, || {
        let events = vec![
            with_properties(0, &[("ce_id", ""), ("ce_specversion", "1.0"), ("ce_type", "t")], "{}"),
            structured(1, r#"{"id": "1", "specversion": "1.0", "type": "t", "time": "now", "data": {}}"#),
            with_properties(2, &[("tenant", "no CloudEvent")], "{}"),
            // A reject, of which nothing is null.
            with_properties(3, &[("ce_id", "")], "{"),
        ];
        decode_now(&plain().counting_for("notes"), batch(events));
    });
    let text = handle.render();
    let mut counted: Vec<_> =
        text.lines().filter(|line| line.starts_with("sluice_decode_attribute_faults_total{")).collect();
    counted.sort_unstable();
    let line = |attribute: &str, fault: &str, events: u64| {
        let labels = format!("pipeline=\"notes\",attribute=\"{attribute}\",fault=\"{fault}\"");
        format!("sluice_decode_attribute_faults_total{{{labels}}} {events}")
    };
    let expected = [line("id", "malformed", 1), line("source", "missing", 2), line("time", "malformed", 1)];
    assert_eq!(counted, expected);
}

#[test]
fn the_structured_mode_can_be_forced_and_left_out() {
    let body = r#"{"id": "1", "data": {"n": 1}}"#;
    let batch_body = r#" [{"id": "1", "data": 1}, {"id": "2", "data": 2}]"#;
    let forced = requiring(&[], Framing::CloudEvents);
    let events = || {
        batch(vec![
            event(0, None, body),
            typed(1, "application/json", batch_body),
            event(2, None, "7"),
            structured(3, body),
        ])
    };
    let decoded = decode_now(&forced, events());
    assert_eq!(sequence_numbers(&decoded.batches[0]), [0, 1, 1, 3]);
    assert_eq!(texts(&decoded.batches[0], "body")[0], Some(r#"{"n": 1}"#));
    assert_eq!((decoded.rejects.len(), decoded.rejects[0].class), (1, RejectClass::Framing));
    let plain_json = requiring(&[], Framing::Json);
    let decoded = decode_now(&plain_json, events());
    assert_eq!(texts(&decoded.batches[0], "body"), [Some(body), Some(batch_body), Some("7"), Some(body)]);
    for (content_type, text) in [
        ("application/cloudevents+xml", "aren't read"),
        ("application/cloudevents-batch+json", "a batch of CloudEvents is an array"),
        ("application/cloudevents+avro", "it is no CloudEvent of the Avro format"),
    ] {
        let decoded = decode_now(&forced, batch(vec![typed(0, content_type, body)]));
        assert!(decoded.rejects[0].text.contains(text), "{}", decoded.rejects[0].text);
    }
}

#[test]
fn data_of_an_avro_pipeline_is_told_by_itself() {
    let decoder = by_content_type(Shelf::with(&[(LEAD_ID, LEAD)]));
    let url = format!("https://x/$schemaGroups/$schemas/{LEAD_ID}");
    let binary = |number, properties: &[(&str, &str)]| Event {
        properties: properties.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        ..event(number, None, lead_bytes(number))
    };
    let mut typed_json = binary(2, &[("cloudEvents:dataschema", &url)]);
    typed_json.content_type = Some("application/json".to_owned());
    let decoded = decode_now(
        &decoder,
        batch(vec![
            binary(0, &[("cloudEvents:dataschema", &url)]),
            binary(1, &[("cloudEvents_dataschema", "https://x/1")]),
            typed_json,
            structured(3, r#"{"id": "1", "data": {"lead_id": "1"}}"#),
            structured(4, r#"{"id": "1"}"#),
            structured(5, r#"{"id": "1", "data_base64": "T2JqAQ=="}"#),
        ]),
    );
    assert_eq!(sequence_numbers(&decoded.batches[0]), [0]);
    let rejected: Vec<_> =
        decoded.rejects.iter().map(|r| (r.event.sequence_number, r.class, r.text.as_str())).collect();
    for (found, (number, text)) in rejected.iter().zip([
        (1, "the event has no content type that would name its schema"),
        (2, "content type `application/json` names no schema"),
        (3, "the CloudEvent's data is JSON, and no schema is pinned that JSON could be read by"),
        (4, "the CloudEvent has no data"),
        (5, "the CloudEvent's data is an Avro container"),
    ]) {
        assert_eq!((found.0, found.1), (number, RejectClass::Framing));
        assert!(found.2.starts_with(text), "{}", found.2);
    }
    assert_eq!(rejected.len(), 5);
}

/// What could stand in an event of the structured mode, whole and torn.
fn nearly_structured() -> impl Strategy<Value = Vec<u8>> {
    let value = prop::sample::select(vec![
        "null",
        "1",
        "\"\"",
        "\"1.0\"",
        "\"a b\"",
        "{}",
        "[]",
        "true",
        "\"2026-01-01T00:00:00Z\"",
        "\"AA==\"",
        "\"avro/binary+x\"",
        "{\"a\":[1,{\"b\":null}]}",
        "\"application/json\"",
    ]);
    let name = prop::sample::select(vec![
        "id",
        "source",
        "type",
        "time",
        "specversion",
        "data",
        "data_base64",
        "datacontenttype",
        "dataschema",
        "subject",
        "x",
    ]);
    let one = prop::collection::vec((name, value), 0..7).prop_map(|members| {
        let members: Vec<_> = members.into_iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
        format!("{{{}}}", members.join(","))
    });
    let whole =
        prop_oneof![one.clone(), prop::collection::vec(one, 0..4).prop_map(|events| format!("[{}]", events.join(",")))];
    let torn = (whole.clone(), any::<prop::sample::Index>(), any::<u8>()).prop_map(|(body, at, byte)| {
        let mut body = body.into_bytes();
        let at = at.index(body.len());
        body[at] = byte;
        body
    });
    prop_oneof![whole.prop_map(String::into_bytes), torn, prop::collection::vec(any::<u8>(), 0..60)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn any_event_ends_as_rows_or_as_one_reject(
        events in prop::collection::vec((
            nearly_structured(),
            prop::sample::select(vec!["+json", "-batch+json", "+avro", "", "+xml"]),
            prop::collection::vec(("(cloudEvents[_:]|ce_)(id|source|type|time|x)", ".{0,6}"), 0..4),
        ), 1..8),
        require in prop::sample::subsequence(Attribute::ALL.to_vec(), 0..=2),
        framing in prop::sample::select(vec![Framing::Auto, Framing::CloudEvents, Framing::Json]),
    ) {
        let events: Vec<_> = (0..).zip(&events).map(|(number, (body, format, properties))| Event {
            properties: properties.clone(),
            ..typed(number, &format!("application/cloudevents{format}"), body.clone())
        }).collect();
        let avro = DecodeSpec { require: require.clone(), ..DecodeSpec::default() };
        let avro = Decoder::open(&avro, Some(Shelf::with(&[(LEAD_ID, LEAD)]))).expect("a decoder");
        for decoder in [requiring(&require, framing), avro] {
            each_event_ends_once(&decoder, events.clone());
        }
        let dir = tempfile::tempdir().expect("a folder");
        for decoder in ends::cloud_events(dir.path()) {
            each_event_ends_once(&decoder, events.clone());
        }
    }
}
