//! The producers: three teams that publish at the same time, through the real client.

use std::collections::BTreeMap;

use futures::{StreamExt as _, TryStreamExt as _, future, stream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::DemoError;
use super::facts::{Fact, Hub};
use super::story::{Story, Told, schemas};
use crate::config::spec::EventHubsSpec;
use crate::shutdown::Shutdown;
use crate::source::event_hubs::{EventSender, OutgoingEvent};

/// Events that go out together. More fill the client's largest batch anyway; fewer wait for the
/// hub's answer more often. A small demo sends smaller parcels, so that all partitions get some.
const PARCEL_EVENTS: u64 = 1500;
const PARCELS_PER_PARTITION: u64 = 8;

/// Parcels told ahead of the sender: one is on its way while the next is told.
const TOLD_AHEAD: usize = 2;

/// An id that no registry gives.
const UNKNOWN_SCHEMA: &str = "00000000000000000000000000000000";

/// One in so many events of a hub is broken: the second, and so on. Its producer notices, and sends it as it should
/// be right after.
const ONE_IN_BROKEN: u64 = 2000;

/// What a hub is sent.
#[derive(Debug, Clone)]
pub struct Sending {
    pub hub: Hub,
    /// The ids that the registry gave to [`Fact::avsc`] of each of the hub's facts.
    pub schema_ids: Vec<(Fact, String)>,
    pub seed: u64,
    /// How many events the hub has, broken ones too.
    pub position: u64,
    /// How many become rows.
    pub events: u64,
}

impl Sending {
    /// How many are sent, broken ones too.
    pub fn len(&self) -> u64 {
        let told = told_before(self.position);
        let mut len = self.events;
        while told_before(self.position + len) - told < self.events {
            len += 1;
        }
        len
    }

    pub fn is_empty(&self) -> bool {
        self.events == 0
    }
}

fn is_broken(position: u64) -> bool {
    position % ONE_IN_BROKEN == 1
}

/// How many events of the story a hub has that holds so many events.
fn told_before(position: u64) -> u64 {
    position - (position + ONE_IN_BROKEN - 2) / ONE_IN_BROKEN
}

/// Sends everything, all teams at once; `sent` counts the events. Ends early when told to stop.
///
/// # Errors
/// The first error of a team; nothing is sent twice.
pub async fn send(
    hubs: &EventHubsSpec,
    sendings: &[Sending],
    sent: &watch::Sender<u64>,
    shutdown: &Shutdown,
) -> Result<(), DemoError> {
    let teams = sendings.iter().map(|sending| publish(hubs, sending.clone(), sent, shutdown));
    future::try_join_all(teams).await?;
    Ok(())
}

async fn publish(
    hubs: &EventHubsSpec,
    sending: Sending,
    sent: &watch::Sender<u64>,
    shutdown: &Shutdown,
) -> Result<(), DemoError> {
    // What has a key keeps its order, so one parcel at a time; else the next one is packed
    // while the hub takes in the last.
    let in_flight = if sending.hub == Hub::Leads { 2 } else { 1 };
    let sender = EventSender::connect(hubs, sending.hub.name()).await?;
    let (parcels, mut told) = mpsc::channel(TOLD_AHEAD);
    let mut teller = JoinSet::new();
    // Telling is CPU work, so it has a thread of its own.
    teller.spawn_blocking(move || tell(&sending, &parcels));
    let packing = &sender;
    stream::unfold(&mut told, async |told| told.recv().await.map(|parcel| (parcel, told)))
        .take_until(shutdown.stopping())
        .map(async |Parcel { key, events }| {
            let count = events.len() as u64;
            packing.send(None, key, events).await?;
            sent.send_modify(|sent| *sent += count);
            Ok::<_, DemoError>(())
        })
        .buffered(in_flight)
        .try_for_each(|()| future::ready(Ok(())))
        .await?;
    sender.close().await;
    // The teller ends with its listener.
    drop(told);
    while let Some(ended) = teller.join_next().await {
        ended.map_err(DemoError::Teller)??;
    }
    Ok(())
}

struct Parcel {
    key: Option<&'static str>,
    events: Vec<OutgoingEvent>,
}

/// Tells the story into parcels of one key each, with a broken event here and there.
fn tell(sending: &Sending, parcels: &mpsc::Sender<Parcel>) -> Result<(), DemoError> {
    let schemas = schemas(sending.hub).map_err(DemoError::story)?;
    let next = told_before(sending.position);
    let mut story = Story::try_new(sending.hub, &schemas, sending.seed, next).map_err(DemoError::story)?;
    let share = sending.events / (u64::from(super::PARTITIONS) * PARCELS_PER_PARTITION);
    let parcel_events = usize::try_from(share.clamp(1, PARCEL_EVENTS)).unwrap_or(1);
    let mut open: BTreeMap<Option<&'static str>, Vec<OutgoingEvent>> = BTreeMap::new();
    let mut position = sending.position;
    for _ in 0..sending.events {
        let told = story.tell().map_err(DemoError::story)?;
        let key = told.key;
        let event = outgoing(sending, told);
        let bucket = open.entry(key).or_default();
        if is_broken(position) {
            bucket.push(broken(sending.hub, position, event.clone()));
            position += 1;
        }
        bucket.push(event);
        position += 1;
        if bucket.len() >= parcel_events {
            let events = std::mem::take(bucket);
            if parcels.blocking_send(Parcel { key, events }).is_err() {
                // The sender stopped, and has said why.
                return Ok(());
            }
        }
    }
    for (key, events) in open.into_iter().filter(|(_, events)| !events.is_empty()) {
        if parcels.blocking_send(Parcel { key, events }).is_err() {
            break;
        }
    }
    Ok(())
}

/// An Avro datum by content type, with the CloudEvents attributes as properties: the binary mode
/// of the AMQP binding.
fn outgoing(sending: &Sending, told: Told) -> OutgoingEvent {
    let schema_id = sending.schema_ids.iter().find(|(fact, _)| *fact == told.fact).map(|(_, id)| id.as_str());
    OutgoingEvent {
        body: told.body.into(),
        content_type: Some(format!("avro/binary+{}", schema_id.unwrap_or(UNKNOWN_SCHEMA))),
        properties: vec![
            ("cloudEvents_specversion".to_owned(), "1.0".to_owned()),
            ("cloudEvents_id".to_owned(), told.id.to_string()),
            ("cloudEvents_source".to_owned(), format!("/insurer/{}", sending.hub.team())),
            ("cloudEvents_type".to_owned(), told.fact.name().to_owned()),
            ("cloudEvents_time".to_owned(), told.time),
        ],
    }
}

/// What can't become a row, in three ways: cut off, of a schema that nobody knows, no Avro at all.
fn broken(hub: Hub, position: u64, event: OutgoingEvent) -> OutgoingEvent {
    let first = match hub {
        Hub::Leads | Hub::Contacts => 0,
        Hub::Accounts => 1,
        Hub::Products | Hub::Sales => 2,
    };
    match (first + position / ONE_IN_BROKEN) % 3 {
        0 => OutgoingEvent { body: event.body.slice(..event.body.len() / 2), ..event },
        1 => OutgoingEvent { content_type: Some(format!("avro/binary+{UNKNOWN_SCHEMA}")), ..event },
        _ => OutgoingEvent {
            body: format!(r#"{{"hub":"{}"}}"#, hub.name()).into(),
            content_type: Some("application/json".to_owned()),
            ..event
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sending(hub: Hub, position: u64, events: u64) -> Sending {
        let schema_ids = hub.facts().map(|fact| (fact, "f".repeat(32))).collect();
        Sending { hub, schema_ids, seed: 1, position, events }
    }

    fn parcels(sending: Sending) -> Vec<Parcel> {
        let (sender, mut receiver) = mpsc::channel(10_000);
        tell(&sending, &sender).expect("told");
        drop(sender);
        std::iter::from_fn(|| receiver.blocking_recv()).collect()
    }

    fn events(sending: Sending) -> Vec<OutgoingEvent> {
        parcels(sending).into_iter().flat_map(|parcel| parcel.events).collect()
    }

    fn id(event: &OutgoingEvent) -> &str {
        &event.properties.iter().find(|(name, _)| name == "cloudEvents_id").expect("an id").1
    }

    #[test]
    fn a_few_events_are_broken_and_sent_again_as_they_should_be() {
        for (hub, content_type) in [
            (Hub::Accounts, format!("avro/binary+{UNKNOWN_SCHEMA}")),
            (Hub::Products, "application/json".to_owned()),
            (Hub::Sales, "application/json".to_owned()),
        ] {
            let sent = sending(hub, 0, 300);
            assert_eq!(sent.len(), 301);
            let events = events(sent);
            assert_eq!(events.len(), 301);
            let at = events.iter().position(|event| event.content_type.as_ref() == Some(&content_type));
            let at = at.expect("a broken event");
            assert_eq!(id(&events[at]), id(&events[at + 1]));
        }
        assert_eq!(events(sending(Hub::Leads, 0, 8000)).len(), 8005);
    }

    #[test]
    fn a_run_goes_on_where_the_one_before_it_ended() {
        let whole = events(sending(Hub::Leads, 0, 5000));
        for split in [1, 2, 3, 1999, 2000, 2001, 4000] {
            let first = sending(Hub::Leads, 0, split);
            let second = sending(Hub::Leads, first.len(), 5000 - split);
            let both = [events(first), events(second)].concat();
            assert!(both == whole, "split at {split}");
        }
    }

    #[test]
    fn a_parcel_has_one_key() {
        let parcels = parcels(sending(Hub::Accounts, 0, 900));
        assert!(parcels.len() > 8, "{} parcels", parcels.len());
        assert!(parcels.iter().all(|parcel| parcel.key.is_some() && !parcel.events.is_empty()));
    }
}
