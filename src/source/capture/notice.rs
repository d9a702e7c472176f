//! What Event Grid says of blobs: the text of a queue message, or the body of a webhook.
//!
//! | form | told by |
//! |---|---|
//! | JSON, or base64 of it | the first character |
//! | one event, or an array of them | the first character of the JSON |
//! | CloudEvents, or Event Grid's own schema | `type` or `eventType` |
//!
//! | event | names |
//! |---|---|
//! | `Microsoft.EventHub.CaptureFileCreated` | the blob with its partition, count and numbers |
//! | `Microsoft.Storage.BlobCreated` | a blob; by `data.api` whether it is there yet |
//! | `Microsoft.Storage.BlobRenamed` | a blob by its new name |
//!
//! Source: the event schemas of Azure Event Grid for Event Hubs and Blob Storage.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::DateTime;
use serde_json::{Map, Value};
use thiserror::Error;

use crate::checkpoint::Range;

/// Events in one message. Event Grid puts one into a queue message and at most 5,000 into a request.
const EVENTS_MAX: usize = 5_000;

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NoticeError {
    #[error("it is neither JSON nor base64 of JSON")]
    NotJson,
    #[error("it holds {found} events, and Event Grid sends {EVENTS_MAX} at most")]
    TooMany { found: usize },
    #[error("event {index} has no `{key}`")]
    Missing { index: usize, key: &'static str },
}

/// A blob that was announced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// As it was written: percent-encoded, on the blob or the dfs endpoint.
    pub url: String,
    /// What Capture says that the blob holds; other announcements don't know it.
    pub holds: Option<Announced>,
}

/// What `CaptureFileCreated` says of a blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announced {
    pub partition: String,
    pub events: u64,
    /// Empty where the blob has no events.
    pub range: Range,
    /// When its first event was enqueued, epoch ms, where that is said.
    pub first_enqueued_at: Option<i64>,
}

/// The blobs that a message announces. What announces something else, or a blob that isn't there
/// yet, announces nothing: such a message is done with.
///
/// # Errors
/// What Event Grid doesn't send.
pub fn notices(message: &[u8]) -> Result<Vec<Notice>, NoticeError> {
    let message = message.trim_ascii();
    let message = message.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(message);
    let parsed: Value = match message.first() {
        Some(b'{' | b'[') => serde_json::from_slice(message).map_err(|_| NoticeError::NotJson)?,
        _ => {
            let text = STANDARD.decode(message).map_err(|_| NoticeError::NotJson)?;
            serde_json::from_slice(&text).map_err(|_| NoticeError::NotJson)?
        }
    };
    let events = match parsed {
        Value::Array(events) => events,
        event @ Value::Object(_) => vec![event],
        _ => return Err(NoticeError::NotJson),
    };
    if events.len() > EVENTS_MAX {
        return Err(NoticeError::TooMany { found: events.len() });
    }
    let mut notices = Vec::with_capacity(events.len());
    for (index, event) in events.iter().enumerate() {
        notices.extend(notice(event).map_err(|key| NoticeError::Missing { index, key })?);
    }
    Ok(notices)
}

fn notice(event: &Value) -> Result<Option<Notice>, &'static str> {
    let event = event.as_object().ok_or("type")?;
    let kind = text(event, "type").or_else(|| text(event, "eventType")).ok_or("type")?;
    let data = || field(event, "data").and_then(Value::as_object).ok_or("data");
    match kind {
        "Microsoft.EventHub.CaptureFileCreated" => captured(data()?).map(Some),
        "Microsoft.Storage.BlobCreated" => created(data()?),
        "Microsoft.Storage.BlobRenamed" => {
            let url = text(data()?, "destinationUrl").ok_or("data.destinationUrl")?.to_owned();
            Ok(Some(Notice { url, holds: None }))
        }
        _ => Ok(None),
    }
}

fn captured(data: &Map<String, Value>) -> Result<Notice, &'static str> {
    let url = text(data, "fileUrl").ok_or("data.fileUrl")?.to_owned();
    let number = |key| field(data, key).and_then(Value::as_i64);
    let partition = text(data, "partitionId").ok_or("data.partitionId")?.to_owned();
    let events = number("eventCount").and_then(|count| u64::try_from(count).ok()).ok_or("data.eventCount")?;
    let range = match (events, number("firstSequenceNumber"), number("lastSequenceNumber")) {
        // An empty blob is announced with -1 and -1, or without numbers.
        (0, _, _) => Range::new(0, 0),
        (_, Some(first), Some(last)) => Range::new(first, last.saturating_add(1)),
        _ => return Err("data.firstSequenceNumber"),
    };
    let first = text(data, "firstEnqueueTime").and_then(|time| DateTime::parse_from_rfc3339(time).ok());
    let first_enqueued_at = first.map(|time| time.timestamp_millis());
    Ok(Notice { url, holds: Some(Announced { partition, events, range, first_enqueued_at }) })
}

/// A blob is there with the call that closes it; those that only begin it say nothing yet. What
/// isn't known is looked at: the blob decides, not the word.
fn created(data: &Map<String, Value>) -> Result<Option<Notice>, &'static str> {
    if matches!(text(data, "api"), Some("CreateFile" | "SftpCreate")) {
        return Ok(None);
    }
    let url = text(data, "url").ok_or("data.url")?.to_owned();
    Ok(Some(Notice { url, holds: None }))
}

/// Keys differ in case between the documents of the service.
fn field<'a>(object: &'a Map<String, Value>, key: &str) -> Option<&'a Value> {
    object.get(key).or_else(|| object.iter().find(|(name, _)| name.eq_ignore_ascii_case(key)).map(|(_, value)| value))
}

fn text<'a>(object: &'a Map<String, Value>, key: &str) -> Option<&'a str> {
    field(object, key).and_then(Value::as_str)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const URL: &str = "https://insurer.blob.core.windows.net/capture/insurer/leads/1/2026/11/25/10/00/00.avro";

    fn captured(key: &str) -> Value {
        json!({key: "Microsoft.EventHub.CaptureFileCreated", "data": {
            "fileUrl": URL, "fileType": "AzureBlockBlob", "partitionId": "1", "sizeInBytes": 249168,
            "eventCount": 1500, "firstSequenceNumber": 2400, "lastSequenceNumber": 3899,
            "firstEnqueueTime": "2017-08-31T19:12:14.674Z", "lastEnqueueTime": "2017-08-31T19:12:44.309Z",
        }})
    }

    fn read(value: &Value) -> Result<Vec<Notice>, NoticeError> {
        notices(value.to_string().as_bytes())
    }

    #[test]
    fn a_captured_file_is_known_by_either_schema_in_any_wrapping() {
        let expected = Notice {
            url: URL.to_owned(),
            holds: Some(Announced {
                partition: "1".to_owned(),
                events: 1500,
                range: Range::new(2400, 3900),
                first_enqueued_at: Some(1_504_206_734_674),
            }),
        };
        for key in ["type", "eventType"] {
            let event = captured(key);
            for text in [
                event.to_string(),
                format!(" [{event}]\n"),
                STANDARD.encode(event.to_string()),
                format!("\u{feff}{event}"),
                event.to_string().replace("fileUrl", "fileurl"),
            ] {
                assert_eq!(notices(text.as_bytes()), Ok(vec![expected.clone()]), "{text}");
            }
        }
    }

    #[test]
    fn an_empty_blob_is_announced_without_numbers() {
        for numbers in [json!({}), json!({"firstSequenceNumber": -1, "lastSequenceNumber": -1})] {
            let mut event = captured("type");
            for key in ["firstSequenceNumber", "lastSequenceNumber"] {
                event["data"].as_object_mut().expect("data").remove(key);
                if let Some(number) = numbers.get(key) {
                    event["data"][key] = number.clone();
                }
            }
            event["data"]["eventCount"] = json!(0);
            let holds = read(&event).expect("a notice")[0].holds.clone().expect("what it holds");
            assert!(holds.range.is_empty() && holds.events == 0);
        }
    }

    #[test]
    fn a_created_blob_is_taken_by_the_call_that_closed_it() {
        for (api, is_taken) in [
            (Some("PutBlob"), true),
            (Some("PutBlockList"), true),
            (Some("CopyBlob"), true),
            (Some("FlushWithClose"), true),
            (Some("SftpCommit"), true),
            (Some("CreateFile"), false),
            (Some("SftpCreate"), false),
            (Some("SomethingNew"), true),
            (None, true),
        ] {
            let event = json!({"eventType": "Microsoft.Storage.BlobCreated", "data": {"api": api, "url": URL}});
            assert_eq!(read(&event).expect("read").len(), usize::from(is_taken), "{api:?}");
        }
        let renamed = json!({"type": "Microsoft.Storage.BlobRenamed", "data": {"destinationUrl": URL}});
        assert_eq!(read(&renamed), Ok(vec![Notice { url: URL.to_owned(), holds: None }]));
        assert_eq!(read(&json!({"type": "Microsoft.Storage.BlobDeleted"})), Ok(Vec::new()));
    }

    #[test]
    fn what_event_grid_does_not_send_is_named() {
        let without = |key: &str| {
            let mut event = captured("type");
            event["data"].as_object_mut().expect("data").remove(key);
            read(&event)
        };
        assert_eq!(without("fileUrl"), Err(NoticeError::Missing { index: 0, key: "data.fileUrl" }));
        assert_eq!(without("eventCount"), Err(NoticeError::Missing { index: 0, key: "data.eventCount" }));
        assert_eq!(
            without("lastSequenceNumber"),
            Err(NoticeError::Missing { index: 0, key: "data.firstSequenceNumber" })
        );
        assert_eq!(read(&json!([1])), Err(NoticeError::Missing { index: 0, key: "type" }));
        assert_eq!(read(&json!([])), Ok(Vec::new()));
        for text in ["", "hello", "{", "\"text\"", "aGVsbG8="] {
            assert_eq!(notices(text.as_bytes()), Err(NoticeError::NotJson), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = notices(&bytes);
        }
    }
}
