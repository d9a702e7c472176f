//! What a hub holds, and where a partition starts.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use azure_messaging_eventhubs::models::{EventHubPartitionProperties, EventHubProperties};
use azure_messaging_eventhubs::{EventHubsError, OpenReceiverOptions, StartLocation, StartPosition};
use chrono::{DateTime, Utc};
use futures::StreamExt;
use tokio::time::{sleep, timeout};

use super::access::Access;
use super::clients::{Clients, Lease};
use super::message::{self, epoch_ms};
use super::pace::{Credit, Pace};
use crate::batch::Event;
use crate::checkpoint::SourceId;
use crate::config::spec::{EventHubsSourceSpec, EventHubsSpec, GenerationSpec, Start};
use crate::error::{Classify, Retry};
use crate::retry::Backoff;
use crate::source::{HubProperties, PartitionProperties, SourceError};

/// What a management call may take. The client can lose the answer and wait for ever; a
/// throttled service answers within seconds.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// What a look at one event may take, from the open connection on.
const PEEK_TIMEOUT: Duration = Duration::from_secs(15);

/// How often a call or a look is tried.
const TRIES: u32 = 4;

/// Every link claims its partition with this level; see the module's words on epochs.
pub(super) const OWNER_LEVEL: i64 = 0;

/// One hub of one namespace, read by one consumer group.
pub struct EventHubsSource {
    pub(super) id: SourceId,
    pub(super) clients: Clients,
    pub(super) dense: bool,
    pub(super) generation: Option<GenerationSpec>,
    pub(super) pace: Pace,
    pub(super) credit: Credit,
    /// How many partitions share the memory; as last heard.
    partitions: AtomicUsize,
}

impl EventHubsSource {
    /// Connects, signs in and asks for the hub once.
    ///
    /// # Errors
    /// A declaration that can't work, a sign-in that isn't allowed, an unknown hub; or no
    /// connection after a few tries.
    pub async fn connect(
        hubs: &EventHubsSpec,
        source: &EventHubsSourceSpec,
        id: SourceId,
    ) -> Result<Arc<Self>, SourceError> {
        let access = Access::try_new(hubs, &source.hub)?;
        let connected = Arc::new(Self {
            id,
            clients: Clients::new(access, source.hub.clone(), source.consumer_group.clone()),
            dense: source.dense,
            generation: source.generation.clone(),
            pace: Pace::new(source.max_events_per_second),
            credit: Credit::default(),
            partitions: AtomicUsize::new(1),
        });
        connected.hub().await?;
        Ok(connected)
    }

    pub fn id(&self) -> &SourceId {
        &self.id
    }

    /// The hub's creation time and its partitions. Partitions can be added while it is read:
    /// ask again from time to time.
    pub async fn hub(&self) -> Result<HubProperties, SourceError> {
        let doing = || format!("ask for the properties of hub `{}`", self.clients.hub);
        let properties: EventHubProperties =
            self.manage("", doing, |lease| async move { lease.client().get_eventhub_properties().await }).await?;
        self.partitions.store(properties.partition_ids.len().max(1), Ordering::Relaxed);
        Ok(HubProperties {
            created_at_ms: properties.created_on.map_or(0, epoch_ms),
            partitions: properties.partition_ids,
        })
    }

    pub async fn partition(&self, partition: &str) -> Result<PartitionProperties, SourceError> {
        let doing = || format!("ask for the properties of partition `{partition}` of hub `{}`", self.clients.hub);
        let properties: EventHubPartitionProperties = self
            .manage(partition, doing, |lease| async move { lease.client().get_partition_properties(partition).await })
            .await?;
        Ok(PartitionProperties {
            partition: properties.id,
            begin: properties.beginning_sequence_number,
            last_enqueued: properties.last_enqueued_sequence_number,
            last_enqueued_at_ms: properties.last_enqueued_time_utc.map_or(0, epoch_ms),
            is_empty: properties.is_empty,
        })
    }

    /// The NEXT number to read for a declared start. With a declared generation it is not
    /// before the first event of that generation.
    pub async fn resolve_start(&self, partition: &str, start: Start) -> Result<i64, SourceError> {
        let position = match start {
            // What lies before comes from the blobs.
            Start::Earliest | Start::Capture => self.partition(partition).await?.first(),
            Start::Latest => self.partition(partition).await?.last_enqueued + 1,
            Start::SequenceNumber(number) => number,
            Start::EnqueuedAt(time) => self.first_at_or_after(partition, time).await?,
        };
        match &self.generation {
            Some(generation) => Ok(position.max(self.first_at_or_after(partition, generation.since).await?)),
            None => Ok(position),
        }
    }

    /// The number of the first event enqueued at or after `time`; the next to come, where
    /// there is none yet.
    async fn first_at_or_after(&self, partition: &str, time: DateTime<Utc>) -> Result<i64, SourceError> {
        let holds = self.partition(partition).await?;
        if holds.is_empty || holds.last_enqueued_at_ms < time.timestamp_millis() {
            return Ok(holds.last_enqueued + 1);
        }
        let wanted = StartLocation::EnqueuedTime(system_time(time));
        match self.look(partition, wanted).await {
            Ok(event) => Ok(event.sequence_number),
            // What the hub had may have expired since; if not, skipping it would lose it.
            Err(error) => match self.partition(partition).await? {
                holds if holds.is_empty => Ok(holds.last_enqueued + 1),
                _ => Err(error),
            },
        }
    }

    /// The event with exactly this number, or the first after it: its number and enqueued
    /// time (epoch ms). `None` where the partition has none.
    pub async fn peek(&self, partition: &str, number: i64) -> Result<Option<(i64, i64)>, SourceError> {
        let holds = self.partition(partition).await?;
        if holds.is_empty || holds.last_enqueued < number {
            return Ok(None);
        }
        match self.look(partition, StartLocation::SequenceNumber(number)).await {
            Ok(event) => Ok(Some((event.sequence_number, event.enqueued_at))),
            Err(error) => match self.partition(partition).await? {
                holds if holds.is_empty => Ok(None),
                _ => Err(error),
            },
        }
    }

    /// Closes all connections. Readers should have ended before.
    pub async fn close(&self) {
        self.clients.close().await;
    }

    /// The first event at a location, by a client of its own.
    async fn look(&self, partition: &str, location: StartLocation) -> Result<Event, SourceError> {
        let mut backoff = call_backoff();
        loop {
            let error = match self.look_once(partition, location.clone()).await {
                Ok(event) => return Ok(event),
                Err(error) => error,
            };
            if error.retry() == Retry::Never || backoff.failures() + 1 >= TRIES {
                return Err(error);
            }
            sleep(backoff.pause().max(error.pause())).await;
        }
    }

    async fn look_once(&self, partition: &str, location: StartLocation) -> Result<Event, SourceError> {
        let doing = || format!("look at an event in partition `{partition}` of hub `{}`", self.clients.hub);
        let lease = self.clients.for_once().await?;
        let options = OpenReceiverOptions {
            owner_level: Some(OWNER_LEVEL),
            prefetch: Some(1),
            start_position: Some(StartPosition { location, inclusive: true }),
            receive_timeout: None,
        };
        let receiver = lease
            .client()
            .open_receiver_on_partition(partition.to_owned(), Some(options))
            .await
            .map_err(|error| self.clients.asked(partition, doing()).failed(error))?;
        match timeout(PEEK_TIMEOUT, receiver.stream_events().next()).await {
            Ok(Some(Ok(received))) => message::event(&received).map_err(|what| self.protocol(partition, what)),
            Ok(Some(Err(error))) => Err(self.clients.asked(partition, doing()).failed(error)),
            Ok(None) => Err(self.protocol(partition, "the link ended")),
            Err(_) => Err(SourceError::TimedOut { doing: doing(), after: PEEK_TIMEOUT }),
        }
    }

    pub(super) fn protocol(&self, partition: &str, what: &'static str) -> SourceError {
        SourceError::Protocol { hub: self.clients.hub.clone(), partition: partition.to_owned(), what }
    }

    /// A management call, tried a few times, on a fresh client after each failure.
    async fn manage<T, Call, Answer>(
        &self,
        partition: &str,
        doing: impl Fn() -> String,
        call: Call,
    ) -> Result<T, SourceError>
    where
        Call: Fn(Lease) -> Answer,
        Answer: Future<Output = Result<T, EventHubsError>>,
    {
        let mut backoff = call_backoff();
        loop {
            let error = match self.manage_once(partition, &doing, &call).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            if error.retry() == Retry::Never || backoff.failures() + 1 >= TRIES {
                return Err(error);
            }
            tracing::debug!(%error, "a management call failed and is tried again");
            sleep(backoff.pause().max(error.pause())).await;
        }
    }

    async fn manage_once<T, Call, Answer>(
        &self,
        partition: &str,
        doing: &impl Fn() -> String,
        call: &Call,
    ) -> Result<T, SourceError>
    where
        Call: Fn(Lease) -> Answer,
        Answer: Future<Output = Result<T, EventHubsError>>,
    {
        let lease = self.clients.for_management().await?;
        let error = match timeout(CALL_TIMEOUT, call(lease.share())).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => self.clients.asked(partition, doing()).failed(error),
            Err(_) => SourceError::TimedOut { doing: doing(), after: CALL_TIMEOUT },
        };
        lease.retire();
        Err(error)
    }

    /// What one partition's link may hold ahead of us.
    pub(super) fn link_share(&self, budget: usize) -> usize {
        budget / 4 / self.partitions.load(Ordering::Relaxed).max(1)
    }

    /// The error for a hub that isn't the one that the ledger knows, with the declaration
    /// that lets it go on.
    pub(super) async fn another_hub(&self, difference: String) -> SourceError {
        let created = self.hub().await.ok().and_then(|hub| DateTime::from_timestamp_millis(hub.created_at_ms));
        SourceError::counts_anew(&self.clients.hub, difference, self.generation.as_ref(), created)
    }
}

fn call_backoff() -> Backoff {
    Backoff::new(Duration::from_millis(100), Duration::from_secs(2))
}

/// Not before 1970, where no hub has events, and which the client can't express.
fn system_time(time: DateTime<Utc>) -> SystemTime {
    SystemTime::from(time).max(UNIX_EPOCH)
}
