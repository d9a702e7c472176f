//! `$management`: what hubs and partitions are like.

use std::sync::Arc;

use fe2o3_amqp_types::primitives::{Array, OrderedMap, Timestamp};
use serde_amqp::Value;

use super::broker::PartitionInfo;
use super::connection::Connection;
use super::hub::Hub;
use super::messages::EventMessage;
use super::rpc::{Reply, property};

const HUB: &str = "com.microsoft:eventhub";
const PARTITION: &str = "com.microsoft:partition";

/// Answers `READ`.
pub(super) fn answer(request: &EventMessage, connection: &Connection) -> Reply {
    if property(request, "operation") != Some("READ") {
        return Reply::failed(400, "the only operation is `READ`".to_owned());
    }
    let name = property(request, "name").unwrap_or_default();
    if !connection.may_read(name) {
        return Reply::failed(401, format!("unauthorized access to `{name}`: no valid token was put for it"));
    }
    let Some(hub) = connection.shared.hubs.get(name) else {
        return Reply::failed(404, format!("there is no event hub `{name}`"));
    };
    let body = match property(request, "type") {
        Some(HUB) => describe_hub(&hub),
        Some(PARTITION) => {
            let id = property(request, "partition").unwrap_or_default();
            let Some(partition) = hub.partition(id) else {
                return Reply::failed(404, format!("the event hub `{name}` has no partition `{id}`"));
            };
            describe_partition(partition.info())
        }
        _ => return Reply::failed(400, format!("`type` must be `{HUB}` or `{PARTITION}`")),
    };
    Reply { status: 200, description: "OK".to_owned(), body }
}

fn map(entries: impl IntoIterator<Item = (&'static str, Value)>) -> Value {
    let mut map = OrderedMap::new();
    for (key, value) in entries {
        map.insert(Value::String(key.to_owned()), value);
    }
    Value::Map(map)
}

fn timestamp(milliseconds: i64) -> Value {
    Value::Timestamp(Timestamp::from_milliseconds(milliseconds))
}

fn describe_hub(hub: &Arc<Hub>) -> Value {
    // The clients take an array of strings, and nothing else.
    let ids = hub.partitions.iter().map(|partition| Value::String(partition.id.clone())).collect();
    map([
        ("name", Value::String(hub.spec.name.clone())),
        ("type", Value::String(HUB.to_owned())),
        ("created_at", timestamp(hub.created_at)),
        ("partition_count", Value::Int(hub.partitions.len() as i32)),
        ("partition_ids", Value::Array(Array(ids))),
    ])
}

fn describe_partition(info: PartitionInfo) -> Value {
    map([
        ("type", Value::String(PARTITION.to_owned())),
        ("name", Value::String(info.hub)),
        ("partition", Value::String(info.partition)),
        ("begin_sequence_number", Value::Long(info.begin_sequence_number)),
        ("begin_sequence_number_epoch", Value::Long(0)),
        ("last_enqueued_sequence_number", Value::Long(info.last_sequence_number)),
        ("last_enqueued_sequence_number_epoch", Value::Long(0)),
        ("last_enqueued_offset", Value::String(info.last_offset.to_string())),
        ("last_enqueued_time_utc", timestamp(info.last_enqueued_at)),
        ("is_partition_empty", Value::Bool(info.events == 0)),
    ])
}
