//! Event Hubs Capture on this machine: what the hubs take in, as Avro containers in a folder or container.
//!
//! Each partition has windows of its own, which end by time or by size, whichever comes first; the
//! name of a blob is the moment at which its window began, as a real one is named before its events. Two
//! windows of one partition that begin within a second are named a second apart, since names have no
//! more than that.
//!
//! It reads what the log still holds: events that retention takes within a tick of their coming are
//! captured by nobody.

use std::collections::HashMap;
use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Timelike as _, Utc};
use fe2o3_amqp_types::messaging::Body;
use fe2o3_amqp_types::messaging::message::__private::Deserializable;
use fe2o3_amqp_types::primitives::SimpleValue;
use flate2::Compression;
use flate2::write::DeflateEncoder;
use object_store::path::Path;
use object_store::{ObjectStore, PutMode, PutPayload};
use serde_amqp::Value;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::announce::{Announcer, CapturedBlob};
use super::broker::Broker;
use super::hub::{Hub, Partition};
use super::log::StoredEvent;
use super::messages::EventMessage;
use crate::config::capture_name::{BlobName, NameTemplate};
use crate::storage::{Location, StorageError};

/// How often the logs are looked at.
const TICK: Duration = Duration::from_millis(50);

/// Events taken from a log at a time.
const READ_EVENTS: usize = 1000;
const READ_BYTES: u64 = 4 << 20;

/// Where a block ends: Capture's own writer has blocks of this order.
const BLOCK_BYTES: usize = 64 << 10;

/// As in the files of recent years: `null` among the values of `Properties`, none in `SystemProperties`.
const SCHEMA: &str = r#"{"type":"record","name":"EventData","namespace":"Microsoft.ServiceBus.Messaging","fields":[{"name":"SequenceNumber","type":"long"},{"name":"Offset","type":"string"},{"name":"EnqueuedTimeUtc","type":"string"},{"name":"SystemProperties","type":{"type":"map","values":["long","double","string","bytes"]}},{"name":"Properties","type":{"type":"map","values":["long","double","string","bytes","null"]}},{"name":"Body","type":["null","bytes"]}]}"#;

/// How blobs are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CaptureCodec {
    #[default]
    Null,
    Deflate,
}

/// Whether a window without events makes a blob, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EmptyWindows {
    #[default]
    Skipped,
    Written,
}

/// What Capture is told on Azure.
#[derive(Debug, Clone)]
pub struct CaptureOptions {
    pub location: Location,
    pub template: NameTemplate,
    pub namespace: String,
    /// A window ends after so long, or with so many bytes of bodies.
    pub window: Duration,
    pub window_bytes: u64,
    pub empty: EmptyWindows,
    pub codec: CaptureCodec,
}

/// Capture at work; dropped, it ends at once.
#[derive(Debug)]
pub struct Capture {
    stop: CancellationToken,
    task: JoinSet<()>,
}

impl Capture {
    /// # Errors
    /// When the place can't be used.
    pub fn start(options: CaptureOptions, broker: Broker, announcer: Announcer) -> Result<Self, StorageError> {
        let store = options.location.object_store()?;
        let stop = CancellationToken::new();
        let mut task = JoinSet::new();
        let stopping = stop.clone();
        task.spawn(async move {
            let mut capturing = Capturing { options, store, announcer, windows: HashMap::new() };
            while stopping.run_until_cancelled(tokio::time::sleep(TICK)).await.is_some() {
                capturing.look(&broker, Closing::WhatIsDue).await;
            }
            capturing.look(&broker, Closing::Everything).await;
        });
        Ok(Self { stop, task })
    }

    /// Ends every window, writes it and ends.
    pub async fn stop(mut self) {
        self.stop.cancel();
        while self.task.join_next().await.is_some() {}
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Closing {
    WhatIsDue,
    Everything,
}

struct Capturing {
    options: CaptureOptions,
    store: Arc<dyn ObjectStore>,
    announcer: Announcer,
    windows: HashMap<WindowKey, Window>,
}

/// A hub that was made anew has windows of its own.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct WindowKey {
    hub: String,
    created_at: i64,
    partition: String,
}

struct Window {
    next: i64,
    began: DateTime<Utc>,
    /// What the window before was named: names don't repeat.
    named: DateTime<Utc>,
    bytes: u64,
    events: Vec<Arc<StoredEvent>>,
}

impl Capturing {
    async fn look(&mut self, broker: &Broker, closing: Closing) {
        for hub in broker.all_hubs().all() {
            for partition in &hub.partitions {
                self.gather(&hub, partition, closing).await;
            }
        }
    }

    async fn gather(&mut self, hub: &Hub, partition: &Partition, closing: Closing) {
        let key = WindowKey { hub: hub.spec.name.clone(), created_at: hub.created_at, partition: partition.id.clone() };
        let now = Utc::now();
        loop {
            let window = self.windows.entry(key.clone()).or_insert_with(|| Window {
                next: 0,
                began: now,
                named: DateTime::UNIX_EPOCH,
                bytes: 0,
                events: Vec::new(),
            });
            let read = partition.read(window.next, READ_EVENTS, READ_BYTES);
            let is_all = read.is_empty();
            for event in read {
                window.next = event.sequence_number + 1;
                window.bytes += event.message.len() as u64;
                window.events.push(event);
                if window.bytes >= self.options.window_bytes {
                    break;
                }
            }
            let is_full = window.bytes >= self.options.window_bytes;
            let is_over = (now - window.began).to_std().is_ok_and(|age| age >= self.options.window);
            let ends = is_full || (is_all && (is_over || closing == Closing::Everything));
            if ends && !self.close(&key).await {
                return;
            }
            if is_all {
                return;
            }
        }
    }

    /// Writes a window and begins the next one; false when the place doesn't take it, and the window
    /// goes on.
    async fn close(&mut self, key: &WindowKey) -> bool {
        let Some(window) = self.windows.get_mut(key) else { return true };
        let began = std::mem::replace(&mut window.began, Utc::now());
        if window.events.is_empty() && self.options.empty == EmptyWindows::Skipped {
            return true;
        }
        let container = PutPayload::from(container(&window.events, self.options.codec));
        let bytes = container.content_length() as u64;
        let second = began.with_nanosecond(0).unwrap_or(began);
        let mut named = second.max(window.named + TimeDelta::seconds(1));
        let (name, written) = loop {
            let name = self.options.template.name(&BlobName {
                namespace: self.options.namespace.clone(),
                hub: key.hub.clone(),
                partition: key.partition.clone(),
                window: named,
            });
            let written =
                self.store.put_opts(&Path::from(name.as_str()), container.clone(), PutMode::Create.into()).await;
            match written {
                Ok(written) => break (name, written),
                // Of a run before this one, or of the hub before it was made anew.
                Err(object_store::Error::AlreadyExists { .. }) => named += TimeDelta::seconds(1),
                Err(error) => {
                    tracing::warn!(blob = name, %error, "a capture can't be written: its window goes on");
                    return false;
                }
            }
        };
        let (first, last) = (window.events.first(), window.events.last());
        let at = self.options.location.blob(&name);
        self.announcer.announce(CapturedBlob {
            url: at.url,
            account: at.account,
            container: at.container,
            path: at.path,
            namespace: self.options.namespace.clone(),
            hub: key.hub.clone(),
            partition: key.partition.clone(),
            bytes,
            events: window.events.len() as u64,
            first: first.map_or(-1, |event| event.sequence_number),
            last: last.map_or(-1, |event| event.sequence_number),
            first_enqueued_at: first.map(|event| event.enqueued_at),
            last_enqueued_at: last.map(|event| event.enqueued_at),
            e_tag: written.e_tag,
            written_at: Utc::now(),
        });
        window.named = named;
        window.events.clear();
        window.bytes = 0;
        true
    }
}

/// The events as a container of Avro.
fn container(events: &[Arc<StoredEvent>], codec: CaptureCodec) -> Vec<u8> {
    let marker: [u8; 16] = *uuid::Uuid::new_v4().as_bytes();
    let mut out = b"Obj\x01".to_vec();
    let codec_name: &[u8] = match codec {
        CaptureCodec::Null => b"null",
        CaptureCodec::Deflate => b"deflate",
    };
    put_long(&mut out, 2);
    for (key, value) in [(&b"avro.codec"[..], codec_name), (b"avro.schema", SCHEMA.as_bytes())] {
        put_bytes(&mut out, key);
        put_bytes(&mut out, value);
    }
    put_long(&mut out, 0);
    out.extend(marker);
    let mut block = Vec::new();
    let mut records = 0;
    for (at, event) in events.iter().enumerate() {
        put_record(&mut block, event);
        records += 1;
        if block.len() >= BLOCK_BYTES || at + 1 == events.len() {
            let data = match codec {
                CaptureCodec::Null => std::mem::take(&mut block),
                CaptureCodec::Deflate => deflate(&std::mem::take(&mut block)),
            };
            put_long(&mut out, std::mem::take(&mut records));
            put_bytes(&mut out, &data);
            out.extend(marker);
        }
    }
    out
}

fn deflate(data: &[u8]) -> Vec<u8> {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(data).and_then(|()| encoder.finish()).expect("memory takes what is written")
}

fn put_record(out: &mut Vec<u8>, event: &StoredEvent) {
    let message = serde_amqp::from_slice::<Deserializable<EventMessage>>(&event.message);
    let message = message.map(|message| message.0).expect("the broker stores what it has encoded");
    put_long(out, event.sequence_number);
    put_bytes(out, event.offset.to_string().as_bytes());
    let enqueued = DateTime::from_timestamp_millis(event.enqueued_at).unwrap_or_default();
    put_bytes(out, enqueued.format("%-m/%-d/%Y %-I:%M:%S %p").to_string().as_bytes());
    let mut system = vec![("x-opt-enqueued-time".to_owned(), SimpleValue::Long(event.enqueued_at))];
    if let Some(content_type) = message.properties.and_then(|properties| properties.content_type) {
        system.push(("content-type".to_owned(), SimpleValue::String(content_type.0)));
    }
    put_map(out, &system);
    let properties = message.application_properties.map(|properties| properties.0).unwrap_or_default();
    put_map(out, &properties.into_iter().collect::<Vec<_>>());
    match message.body {
        Body::Data(sections) => {
            put_long(out, 1);
            let body: Vec<u8> = sections.into_iter().flat_map(|section| section.0.into_vec()).collect();
            put_bytes(out, &body);
        }
        Body::Value(_) | Body::Sequence(_) | Body::Empty => put_long(out, 0),
    }
}

fn put_map(out: &mut Vec<u8>, entries: &[(String, SimpleValue)]) {
    if !entries.is_empty() {
        put_long(out, entries.len() as i64);
        for (name, value) in entries {
            put_bytes(out, name.as_bytes());
            put_value(out, value);
        }
    }
    put_long(out, 0);
}

/// A value as one of the branches that the schema has.
fn put_value(out: &mut Vec<u8>, value: &SimpleValue) {
    let long = match value {
        SimpleValue::Long(value) => Some(*value),
        SimpleValue::Int(value) => Some(i64::from(*value)),
        SimpleValue::Uint(value) => Some(i64::from(*value)),
        SimpleValue::Short(value) => Some(i64::from(*value)),
        SimpleValue::Ushort(value) => Some(i64::from(*value)),
        SimpleValue::Byte(value) => Some(i64::from(*value)),
        SimpleValue::Ubyte(value) => Some(i64::from(*value)),
        _ => None,
    };
    let text = |out: &mut Vec<u8>, text: &str| {
        put_long(out, 2);
        put_bytes(out, text.as_bytes());
    };
    match (long, value) {
        (Some(value), _) => {
            put_long(out, 0);
            put_long(out, value);
        }
        (None, SimpleValue::Double(value)) => {
            put_long(out, 1);
            out.extend(f64::from(*value).to_le_bytes());
        }
        (None, SimpleValue::Float(value)) => {
            put_long(out, 1);
            out.extend(f64::from(f32::from(*value)).to_le_bytes());
        }
        (None, SimpleValue::String(value)) => text(out, value),
        (None, SimpleValue::Symbol(value)) => text(out, &value.0),
        (None, SimpleValue::Bool(value)) => text(out, &value.to_string()),
        (None, SimpleValue::Binary(value)) => {
            put_long(out, 3);
            put_bytes(out, value);
        }
        (None, SimpleValue::Null) => put_long(out, 4),
        (None, other) => text(out, &format!("{:?}", Value::from(other.clone()))),
    }
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_long(out, bytes.len() as i64);
    out.extend_from_slice(bytes);
}

fn put_long(out: &mut Vec<u8>, value: i64) {
    let mut left = ((value << 1) ^ (value >> 63)) as u64;
    while left >= 0x80 {
        out.push(left as u8 | 0x80);
        left >>= 7;
    }
    out.push(left as u8);
}
