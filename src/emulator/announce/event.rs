//! The events of Event Grid that name a blob of Capture.

use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::{Value, json};
use uuid::Uuid;

/// What the resources of a subscription that nobody has are called.
const SUBSCRIPTION: &str = "/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/emulator/providers";

/// Which of the two services announces a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AnnouncedAs {
    /// Event Hubs: the blob, and what it holds.
    #[default]
    CaptureFileCreated,
    /// Blob Storage: the blob alone.
    BlobCreated,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EventSchema {
    #[default]
    EventGrid,
    CloudEvents,
}

/// A blob as Capture wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CapturedBlob {
    /// As the service names it, percent-encoded.
    pub url: String,
    pub account: String,
    pub container: String,
    /// Below its container.
    pub path: String,
    pub namespace: String,
    pub hub: String,
    pub partition: String,
    pub bytes: u64,
    pub events: u64,
    /// -1 and -1 where it has no events.
    pub first: i64,
    pub last: i64,
    /// Epoch ms.
    pub first_enqueued_at: Option<i64>,
    pub last_enqueued_at: Option<i64>,
    pub e_tag: Option<String>,
    pub written_at: DateTime<Utc>,
}

impl AnnouncedAs {
    /// One event, as JSON. Each call gives it another id: what is sent twice is the same text.
    pub(super) fn of(self, blob: &CapturedBlob, schema: EventSchema) -> String {
        let id = Uuid::new_v4().to_string();
        let (kind, topic, subject, data) = match self {
            Self::CaptureFileCreated => (
                "Microsoft.EventHub.CaptureFileCreated",
                format!("{SUBSCRIPTION}/Microsoft.EventHub/namespaces/{}", blob.namespace),
                format!("eventhubs/{}", blob.hub),
                captured(blob),
            ),
            Self::BlobCreated => (
                "Microsoft.Storage.BlobCreated",
                format!("{SUBSCRIPTION}/Microsoft.Storage/storageAccounts/{}", blob.account),
                format!("/blobServices/default/containers/{}/blobs/{}", blob.container, blob.path),
                created(blob, &id),
            ),
        };
        // Seven digits, as the service writes them.
        let time = blob.written_at.format("%Y-%m-%dT%H:%M:%S%.6f0Z").to_string();
        envelope(schema, &Envelope { id: &id, kind, topic: &topic, subject: &subject, time: &time, data }).to_string()
    }
}

/// What both schemas say, by different names.
pub(super) struct Envelope<'a> {
    pub(super) id: &'a str,
    pub(super) kind: &'a str,
    pub(super) topic: &'a str,
    pub(super) subject: &'a str,
    pub(super) time: &'a str,
    pub(super) data: Value,
}

pub(super) fn envelope(schema: EventSchema, said: &Envelope<'_>) -> Value {
    let Envelope { id, kind, topic, subject, time, data } = said;
    match schema {
        EventSchema::EventGrid => json!({
            "topic": topic, "subject": subject, "id": id, "eventType": kind, "eventTime": time,
            "data": data, "dataVersion": "", "metadataVersion": "1",
        }),
        EventSchema::CloudEvents => json!({
            "source": topic, "subject": subject, "id": id, "type": kind, "time": time,
            "data": data, "specversion": "1.0",
        }),
    }
}

fn captured(blob: &CapturedBlob) -> Value {
    let time = |at: Option<i64>| {
        at.and_then(DateTime::from_timestamp_millis).map(|at| at.to_rfc3339_opts(SecondsFormat::Millis, true))
    };
    json!({
        "fileUrl": blob.url, "fileType": "AzureBlockBlob", "partitionId": blob.partition,
        "sizeInBytes": blob.bytes, "eventCount": blob.events,
        "firstSequenceNumber": blob.first, "lastSequenceNumber": blob.last,
        "firstEnqueueTime": time(blob.first_enqueued_at), "lastEnqueueTime": time(blob.last_enqueued_at),
    })
}

fn created(blob: &CapturedBlob, id: &str) -> Value {
    json!({
        "api": "PutBlob", "clientRequestId": id, "requestId": id, "eTag": blob.e_tag.as_deref().unwrap_or_default(),
        "contentType": "application/octet-stream", "contentLength": blob.bytes, "blobType": "BlockBlob",
        "url": blob.url, "sequencer": format!("{:032x}", blob.written_at.timestamp_micros()),
        "storageDiagnostics": {"batchId": id},
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::Range;
    use crate::source::capture::notices;

    fn blob() -> CapturedBlob {
        CapturedBlob {
            url: "http://127.0.0.1:10000/devstoreaccount1/capture/emulator/leads/1/2026/11/25/10/00/00.avro".to_owned(),
            account: "devstoreaccount1".to_owned(),
            container: "capture".to_owned(),
            path: "emulator/leads/1/2026/11/25/10/00/00.avro".to_owned(),
            namespace: "emulator".to_owned(),
            hub: "leads".to_owned(),
            partition: "1".to_owned(),
            bytes: 900,
            events: 10,
            first: 5,
            last: 14,
            first_enqueued_at: Some(1_764_064_800_123),
            last_enqueued_at: Some(1_764_064_801_000),
            e_tag: Some("\"0x1\"".to_owned()),
            written_at: DateTime::UNIX_EPOCH,
        }
    }

    #[test]
    fn what_is_announced_is_understood_in_either_schema() {
        for schema in [EventSchema::EventGrid, EventSchema::CloudEvents] {
            let text = AnnouncedAs::CaptureFileCreated.of(&blob(), schema);
            let heard = notices(text.as_bytes()).expect("it is understood");
            assert_eq!(heard.len(), 1, "{text}");
            let holds = heard[0].holds.clone().expect("what it holds");
            assert_eq!((holds.events, holds.range), (10, Range::new(5, 15)));
            assert_eq!(holds.first_enqueued_at, Some(1_764_064_800_123));
            let text = AnnouncedAs::BlobCreated.of(&blob(), schema);
            let heard = notices(text.as_bytes()).expect("it is understood");
            assert_eq!((heard[0].url.as_str(), heard[0].holds.is_none()), (blob().url.as_str(), true), "{text}");
        }
    }
}
