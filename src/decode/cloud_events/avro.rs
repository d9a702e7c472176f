//! The Avro format: a record of a map of attributes and the data, by the schema that the specification gives. It is
//! recursive, so it is read by hand.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;

use super::{ATTRIBUTES_MAX, CloudEvent, Data};
use crate::decode::avro::{Step, Texts, Walk};
use crate::error::quoted;

/// Levels of the data: the recursion is as deep.
const DEPTH_MAX: usize = 64;

/// The fewest bytes of an entry of a map: a name's length, a branch.
const ENTRY_BYTES_MIN: usize = 2;

/// # Errors
/// Words that say what is wrong with it.
pub(super) fn event(body: &Bytes) -> Result<(CloudEvent, Data), String> {
    if body.is_empty() {
        return Err("the body is empty".to_owned());
    }
    let mut walk = Walk::new(body, Texts::Each);
    let read = attributes(&mut walk).and_then(|event| {
        let data = data(body, &mut walk, &event)?;
        walk.end()?;
        Ok((event, data))
    });
    read.map_err(|error| format!("it is no CloudEvent of the Avro format: {error}"))
}

fn attributes(walk: &mut Walk<'_>) -> Step<CloudEvent> {
    let mut event = CloudEvent::default();
    walk.blocks(ENTRY_BYTES_MIN, |walk| {
        let name = text(walk)?;
        let value = match walk.branch(5)? {
            0 => return Ok(()),
            1 => walk.boolean()?.to_string(),
            2 => walk.int()?.to_string(),
            3 => text(walk)?,
            _ => STANDARD.encode(walk.sized()?),
        };
        if event.attribute(&name).is_some() {
            return Err(walk.error(format!("the attribute `{}` stands twice", quoted(&name))));
        }
        event.attributes.push((name, value));
        if event.attributes.len() > ATTRIBUTES_MAX {
            return Err(walk.error(format!("more than {ATTRIBUTES_MAX} attributes")));
        }
        Ok(())
    })?;
    Ok(event)
}

fn text(walk: &mut Walk<'_>) -> Step<String> {
    let text = walk.text()?;
    // The walk has looked at it.
    Ok(String::from_utf8_lossy(text).into_owned())
}

/// Data that isn't bytes is a value of JSON; a string that has a content type of its own is the text of that.
fn data(body: &Bytes, walk: &mut Walk<'_>, event: &CloudEvent) -> Step<Data> {
    let mut json = String::new();
    match walk.branch(7)? {
        0 => return Ok(Data::Binary(body.slice_ref(walk.sized()?))),
        1 => return Ok(Data::None),
        2 => json.push_str(if walk.boolean()? { "true" } else { "false" }),
        3 => map(walk, &mut json, |walk, json| match walk.branch(5)? {
            0 => scalar(json, "null"),
            1 => boolean(walk, json),
            2 => object(walk, json, 1),
            3 => double(walk, json),
            _ => string(walk, json),
        })?,
        4 => list(walk, &mut json, |walk, json| object(walk, json, 1))?,
        5 => double(walk, &mut json)?,
        _ if event.attribute("datacontenttype").is_some() => {
            return Ok(Data::Binary(body.slice_ref(walk.text()?)));
        }
        _ => string(walk, &mut json)?,
    }
    Ok(Data::Json(json.into()))
}

/// `CloudEventData`: a record of one field, which is a map.
fn object(walk: &mut Walk<'_>, json: &mut String, depth: usize) -> Step {
    if depth > DEPTH_MAX {
        return Err(walk.error(format!("data of more than {DEPTH_MAX} levels")));
    }
    map(walk, json, |walk, json| match walk.branch(6)? {
        0 => scalar(json, "null"),
        1 => boolean(walk, json),
        2 => map(walk, json, |walk, json| object(walk, json, depth + 1)),
        3 => list(walk, json, |walk, json| object(walk, json, depth + 1)),
        4 => double(walk, json),
        _ => string(walk, json),
    })
}

fn map<'a>(walk: &mut Walk<'a>, json: &mut String, mut value: impl FnMut(&mut Walk<'a>, &mut String) -> Step) -> Step {
    json.push('{');
    let begin = json.len();
    walk.blocks(1, |walk| {
        if json.len() > begin {
            json.push(',');
        }
        string(walk, json)?;
        json.push(':');
        value(walk, json)
    })?;
    json.push('}');
    Ok(())
}

fn list<'a>(walk: &mut Walk<'a>, json: &mut String, mut item: impl FnMut(&mut Walk<'a>, &mut String) -> Step) -> Step {
    json.push('[');
    let begin = json.len();
    walk.blocks(1, |walk| {
        if json.len() > begin {
            json.push(',');
        }
        item(walk, json)
    })?;
    json.push(']');
    Ok(())
}

fn scalar(json: &mut String, text: &str) -> Step {
    json.push_str(text);
    Ok(())
}

fn boolean(walk: &mut Walk<'_>, json: &mut String) -> Step {
    let value = walk.boolean()?;
    scalar(json, if value { "true" } else { "false" })
}

fn double(walk: &mut Walk<'_>, json: &mut String) -> Step {
    let value = f64::from_le_bytes(walk.array()?);
    match serde_json::Number::from_f64(value) {
        Some(number) => scalar(json, &number.to_string()),
        None => Err(walk.error(format!("a double of {value}, which JSON has no word for"))),
    }
}

fn string(walk: &mut Walk<'_>, json: &mut String) -> Step {
    let text = text(walk)?;
    scalar(json, &serde_json::Value::String(text).to_string())
}

#[cfg(test)]
mod tests {
    use apache_avro::Schema;
    use apache_avro::types::Value;
    use apache_avro::writer::datum::GenericDatumWriter;
    use proptest::prelude::*;

    use super::*;

    /// As the specification gives it.
    const SCHEMA: &str = r#"{"namespace": "io.cloudevents", "type": "record", "name": "CloudEvent", "fields": [
      {"name": "attribute", "type": {"type": "map", "values": ["null", "boolean", "int", "string", "bytes"]}},
      {"name": "data", "type": ["bytes", "null", "boolean",
        {"type": "map", "values": ["null", "boolean", {"type": "record", "name": "CloudEventData", "fields": [
          {"name": "value", "type": {"type": "map", "values": ["null", "boolean",
            {"type": "map", "values": "CloudEventData"}, {"type": "array", "items": "CloudEventData"}, "double", "string"]}}
        ]}, "double", "string"]},
        {"type": "array", "items": "CloudEventData"}, "double", "string"]}]}"#;

    fn written(attributes: &[(&str, (u32, Value))], data: (u32, Value)) -> Bytes {
        let union = |(branch, value): &(u32, Value)| Value::Union(*branch, Box::new(value.clone()));
        let attributes = attributes.iter().map(|(name, value)| ((*name).to_owned(), union(value))).collect();
        let event =
            Value::Record(vec![("attribute".to_owned(), Value::Map(attributes)), ("data".to_owned(), union(&data))]);
        let schema = Schema::parse_str(SCHEMA).expect("a schema");
        let writer = GenericDatumWriter::builder(&schema).build().expect("a writer");
        writer.write_value_to_vec(event).expect("a datum").into()
    }

    fn id() -> (&'static str, (u32, Value)) {
        ("id", (3, Value::String("1".to_owned())))
    }

    fn map(entries: Vec<(&str, (u32, Value))>) -> Value {
        let entries =
            entries.into_iter().map(|(name, (at, value))| (name.to_owned(), Value::Union(at, Box::new(value))));
        Value::Map(entries.collect())
    }

    fn record(entries: Vec<(&str, (u32, Value))>) -> Value {
        Value::Record(vec![("value".to_owned(), map(entries))])
    }

    #[test]
    fn attributes_of_all_types_become_text() {
        let body = written(
            &[
                id(),
                ("none", (0, Value::Null)),
                ("ok", (1, Value::Boolean(true))),
                ("count", (2, Value::Int(-5))),
                ("raw", (4, Value::Bytes(vec![0, 0xFF]))),
            ],
            (0, Value::Bytes(vec![1, 2])),
        );
        let (event, data) = event(&body).expect("an event");
        let mut attributes = event.attributes;
        attributes.sort();
        let expected = [("count", "-5"), ("id", "1"), ("ok", "true"), ("raw", "AP8=")];
        assert_eq!(attributes, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
        assert_eq!(data, Data::Binary(Bytes::from_static(&[1, 2])));
    }

    #[test]
    fn data_that_is_a_value_becomes_json() {
        let nested = map(vec![("a", (2, record(vec![("b", (4, Value::Double(1.5)))])))]);
        for (data, json) in [
            ((1, Value::Null), None),
            ((2, Value::Boolean(false)), Some("false")),
            ((5, Value::Double(0.1)), Some("0.1")),
            ((6, Value::String("é\"".to_owned())), Some("\"é\\\"\"")),
            ((3, nested), Some(r#"{"a":{"b":1.5}}"#)),
            ((3, map(vec![("n", (0, Value::Null))])), Some(r#"{"n":null}"#)),
            (
                (4, Value::Array(vec![record(vec![("x", (3, Value::Array(vec![record(vec![])])))]), record(vec![])])),
                Some(r#"[{"x":[{}]},{}]"#),
            ),
        ] {
            let (_, found) = event(&written(&[id()], data)).expect("an event");
            let expected = json.map_or(Data::None, |json| Data::Json(Bytes::from_static(json.as_bytes())));
            assert_eq!(found, expected);
        }
        let typed = [id(), ("datacontenttype", (3, Value::String("application/json".to_owned())))];
        let (_, found) = event(&written(&typed, (6, Value::String("{}".to_owned())))).expect("an event");
        assert_eq!(found, Data::Binary(Bytes::from_static(b"{}")));
    }

    #[test]
    fn what_would_never_end_is_refused() {
        let text = |body: Vec<u8>| event(&body.into()).expect_err("refused");
        // An array whose items are maps of arrays of one item each: four bytes a level.
        let deep = [vec![0, 8, 2], [2, 0, 6, 2].repeat(100_000)].concat();
        assert!(text(deep).contains("data of more than 64 levels"));
        assert!(text(vec![]).contains("the body is empty"));
        assert!(text(vec![0, 2, 0]).contains("1 bytes follow"));
        let infinite = [vec![0, 10], f64::INFINITY.to_le_bytes().to_vec()].concat();
        assert!(text(infinite).contains("JSON has no word for"));
        let twice = [vec![4], [2, b'a', 0].repeat(2), vec![0, 2]].concat();
        assert!(event(&twice.into()).is_ok(), "null is no attribute");
        let twice = [vec![4], [2, b'a', 2, 1].repeat(2), vec![0, 2]].concat();
        assert!(text(twice).contains("the attribute `a` stands twice"));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(
            start in prop::sample::select(vec![vec![], vec![0], vec![0, 6, 2], vec![0, 8, 2, 2, 0], vec![2, 2, b'a', 6]]),
            rest in prop::collection::vec(any::<u8>(), 0..120),
        ) {
            if let Ok((_, Data::Json(json))) = event(&[start, rest].concat().into()) {
                // Names may stand twice: the map has them so.
                let is_json = serde_json::from_slice::<serde_json::Value>(&json);
                prop_assert!(is_json.is_ok(), "{}: {:?}", String::from_utf8_lossy(&json), is_json);
            }
        }
    }
}
