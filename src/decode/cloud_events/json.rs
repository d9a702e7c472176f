//! The JSON format, one event or a batch of them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;

use super::{ATTRIBUTES_MAX, CloudEvent, Data};
use crate::decode::json::{Member, Value, parse};
use crate::error::quoted;

/// # Errors
/// Words that say what is wrong with it.
pub(super) fn event(body: &Bytes) -> Result<(CloudEvent, Data), String> {
    one(body, &parse(body)?)
}

/// # Errors
/// Words that say what is wrong with it. One bad event makes the batch a bad one.
pub(super) fn batch(body: &Bytes) -> Result<Vec<(CloudEvent, Data)>, String> {
    let Value::List(items) = parse(body)? else { return Err("a batch of CloudEvents is an array".to_owned()) };
    if items.is_empty() {
        return Err("the batch holds no CloudEvent".to_owned());
    }
    let events = items.iter().enumerate();
    events.map(|(index, item)| one(body, item).map_err(|text| format!("record {index}: {text}"))).collect()
}

fn one(body: &Bytes, value: &Value<'_>) -> Result<(CloudEvent, Data), String> {
    let Value::Object(members) = value else {
        return Err(format!("a CloudEvent is an object, and it is {}", value.what()));
    };
    let mut event = CloudEvent::default();
    let mut data = Data::None;
    for Member { name, value, written } in members {
        let found = match (&**name, value) {
            ("data_base64", Value::Null) => continue,
            // Null is a value: the event has data, and that is null.
            ("data", _) => Data::Json(body.slice_ref(written.as_bytes())),
            ("data_base64", Value::Text(text)) => match STANDARD.decode(text.as_bytes()) {
                Ok(bytes) => Data::Binary(bytes.into()),
                Err(_) => return Err("its `data_base64` isn't base64".to_owned()),
            },
            ("data_base64", other) => return Err(format!("its `data_base64` is {}, and no string", other.what())),
            (_, Value::Null) => continue,
            (_, Value::Text(text)) => {
                event.attributes.push((name.to_string(), text.to_string()));
                continue;
            }
            // No attribute is of these types; what somebody wrote is kept as it is.
            (_, Value::Boolean(_) | Value::Number(_) | Value::List(_) | Value::Object(_)) => {
                event.attributes.push((name.to_string(), (*written).to_owned()));
                continue;
            }
        };
        if data != Data::None {
            return Err("it has both `data` and `data_base64`".to_owned());
        }
        data = found;
    }
    if event.attributes.is_empty() {
        let names: Vec<_> = members.iter().map(|member| quoted(&member.name)).take(3).collect();
        return Err(format!(
            "an object without attributes is no CloudEvent, and its members are: {}",
            names.join(", ")
        ));
    }
    if event.attributes.len() > ATTRIBUTES_MAX {
        return Err(format!("it has more than {ATTRIBUTES_MAX} attributes"));
    }
    Ok((event, data))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<(CloudEvent, Data), String> {
        event(&Bytes::copy_from_slice(json.as_bytes()))
    }

    #[test]
    fn attributes_are_text_and_data_stays_as_it_was_written() {
        let (event, data) =
            read(r#"{"id":"1","count":5,"ok":true,"none":null,"data": {"a" : 1.10 } }"#).expect("an event");
        let attributes = [("id", "1"), ("count", "5"), ("ok", "true")];
        assert_eq!(event.attributes, attributes.map(|(name, value)| (name.to_owned(), value.to_owned())));
        assert_eq!(data, Data::Json(Bytes::from_static(br#"{"a" : 1.10 }"#)));
        for (json, expected) in [
            (r#"{"id":"1","data":null}"#, Data::Json(Bytes::from_static(b"null"))),
            (r#"{"id":"1","data_base64":null}"#, Data::None),
            (r#"{"id":"1","data_base64":"AP8="}"#, Data::Binary(Bytes::from_static(&[0, 0xFF]))),
            (r#"{"id":"1"}"#, Data::None),
        ] {
            assert_eq!(read(json).expect("an event").1, expected);
        }
    }

    #[test]
    fn what_is_no_event_is_told() {
        for (json, text) in [
            ("[]", "a CloudEvent is an object, and it is an array"),
            ("{}", "an object without attributes is no CloudEvent, and its members are: "),
            (r#"{"id":"1","data":1,"data_base64":"AA=="}"#, "it has both `data` and `data_base64`"),
            (r#"{"id":"1","data_base64":"A"}"#, "its `data_base64` isn't base64"),
            (r#"{"id":"1","data_base64":1}"#, "its `data_base64` is a number, and no string"),
            (r#"{"id":"1""#, "it isn't JSON: it ends too early, at byte 9"),
        ] {
            assert_eq!(read(json), Err(text.to_owned()));
        }
        let of_batch = |json: &'static str| batch(&Bytes::from_static(json.as_bytes()));
        assert_eq!(of_batch("[]"), Err("the batch holds no CloudEvent".to_owned()));
        assert_eq!(of_batch("{}"), Err("a batch of CloudEvents is an array".to_owned()));
        assert_eq!(
            of_batch(r#"[{"id":"1"},[]]"#),
            Err("record 1: a CloudEvent is an object, and it is an array".to_owned())
        );
        assert_eq!(of_batch(r#"[{"id":"1"},{"id":"2"}]"#).expect("a batch").len(), 2);
    }
}
