//! The producers: three teams that publish at the same time, through the real client.

use std::collections::BTreeMap;

use apache_avro::Schema;
use futures::{StreamExt as _, TryStreamExt as _, future, stream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::DemoError;
use super::insurer::{Fact, Story, Told};
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

/// What one team publishes.
#[derive(Debug, Clone)]
pub struct Sending {
    pub fact: Fact,
    /// The id that the registry gave to [`Fact::avsc`].
    pub schema_id: String,
    pub seed: u64,
    /// The first event of the story that wasn't told yet.
    pub next: u64,
    /// How many become rows; a broken one comes beside them.
    pub events: u64,
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
    let in_flight = if sending.fact.has_keys() { 1 } else { 2 };
    let sender = EventSender::connect(hubs, sending.fact.hub()).await?;
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

/// Tells the story into parcels of one key each, and breaks one event amid the others.
fn tell(sending: &Sending, parcels: &mpsc::Sender<Parcel>) -> Result<(), DemoError> {
    let schema = Schema::parse_str(sending.fact.avsc()).map_err(DemoError::story)?;
    let mut story = Story::try_new(sending.fact, &schema, sending.seed, sending.next).map_err(DemoError::story)?;
    let share = sending.events / (u64::from(super::PARTITIONS) * PARCELS_PER_PARTITION);
    let parcel_events = usize::try_from(share.clamp(1, PARCEL_EVENTS)).unwrap_or(1);
    let mut open: BTreeMap<Option<&'static str>, Vec<OutgoingEvent>> = BTreeMap::new();
    for number in 0..=sending.events {
        let told = story.tell().map_err(DemoError::story)?;
        let key = told.key;
        let event = outgoing(sending, told);
        let event = if number == sending.events / 2 { broken(sending.fact, event) } else { event };
        let bucket = open.entry(key).or_default();
        bucket.push(event);
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
    let fact = sending.fact;
    OutgoingEvent {
        body: told.body.into(),
        content_type: Some(format!("avro/binary+{}", sending.schema_id)),
        properties: vec![
            ("cloudEvents_specversion".to_owned(), "1.0".to_owned()),
            ("cloudEvents_id".to_owned(), told.id.to_string()),
            ("cloudEvents_source".to_owned(), format!("/insurer/{}", fact.team())),
            ("cloudEvents_type".to_owned(), fact.name().to_owned()),
            ("cloudEvents_time".to_owned(), told.time),
        ],
    }
}

/// What can't become a row, in three ways: cut off, of a schema that nobody knows, no Avro at all.
fn broken(fact: Fact, event: OutgoingEvent) -> OutgoingEvent {
    match fact {
        Fact::LeadGenerated => OutgoingEvent { body: event.body.slice(..event.body.len() / 2), ..event },
        Fact::AccountActivated => {
            OutgoingEvent { content_type: Some(format!("avro/binary+{UNKNOWN_SCHEMA}")), ..event }
        }
        Fact::ProductUpdated => OutgoingEvent {
            body: r#"{"product_code":"motor-basic"}"#.into(),
            content_type: Some("application/json".to_owned()),
            ..event
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parcels(sending: Sending) -> Vec<Parcel> {
        let (sender, mut receiver) = mpsc::channel(10_000);
        tell(&sending, &sender).expect("told");
        drop(sender);
        std::iter::from_fn(|| receiver.blocking_recv()).collect()
    }

    #[test]
    fn one_event_of_each_hub_is_broken() {
        for (fact, is_broken) in [
            (Fact::AccountActivated, Some(format!("avro/binary+{UNKNOWN_SCHEMA}"))),
            (Fact::ProductUpdated, Some("application/json".to_owned())),
        ] {
            let sending = Sending { fact, schema_id: "f".repeat(32), seed: 1, next: 0, events: 300 };
            let events: Vec<_> = parcels(sending).into_iter().flat_map(|parcel| parcel.events).collect();
            assert_eq!(events.len(), 301);
            assert_eq!(events.iter().filter(|event| event.content_type == is_broken).count(), 1);
        }
    }

    #[test]
    fn a_parcel_has_one_key() {
        let sending =
            Sending { fact: Fact::AccountActivated, schema_id: "f".repeat(32), seed: 1, next: 0, events: 900 };
        let parcels = parcels(sending);
        assert!(parcels.len() > 8, "{} parcels", parcels.len());
        assert!(parcels.iter().all(|parcel| parcel.key.is_some() && !parcel.events.is_empty()));
    }
}
