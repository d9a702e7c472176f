//! Sending events, for the demo and for tests.

use std::time::Duration;

use azure_messaging_eventhubs::models::EventData;
use azure_messaging_eventhubs::{EventDataBatchOptions, EventHubsError, ProducerClient};
use bytes::Bytes;
use tokio::time::timeout;

use super::access::Access;
use super::failure::Asked;
use crate::config::spec::EventHubsSpec;
use crate::source::SourceError;

const OPEN_TIMEOUT: Duration = Duration::from_secs(30);

/// What one batch may take. The client can lose the answer and wait for ever.
const SEND_TIMEOUT: Duration = Duration::from_secs(30);

const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// An event to send.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OutgoingEvent {
    pub body: Bytes,
    pub content_type: Option<String>,
    pub properties: Vec<(String, String)>,
}

impl OutgoingEvent {
    pub fn new(body: impl Into<Bytes>) -> Self {
        Self { body: body.into(), ..Self::default() }
    }
}

impl From<OutgoingEvent> for EventData {
    fn from(event: OutgoingEvent) -> Self {
        let mut builder = EventData::builder().with_body(event.body);
        if let Some(content_type) = event.content_type {
            builder = builder.with_content_type(content_type);
        }
        for (name, value) in event.properties {
            builder = builder.add_property(name, value);
        }
        builder.build()
    }
}

/// Sends to one hub.
pub struct EventSender {
    client: ProducerClient,
    namespace: String,
    hub: String,
}

impl EventSender {
    /// # Errors
    /// A declaration that can't work, or no connection.
    pub async fn connect(hubs: &EventHubsSpec, hub: &str) -> Result<Self, SourceError> {
        let access = Access::try_new(hubs, hub)?;
        let doing = format!("connect to hub `{hub}`");
        let client = match timeout(OPEN_TIMEOUT, access.open_producer(hub)).await {
            Ok(Ok(client)) => client,
            Ok(Err(error)) => {
                let asked = Asked { namespace: &access.namespace, hub, group: "", partition: "", doing };
                return Err(asked.failed(error));
            }
            Err(_) => return Err(SourceError::TimedOut { doing, after: OPEN_TIMEOUT }),
        };
        Ok(Self { client, namespace: access.namespace, hub: hub.to_owned() })
    }

    /// Sends the events in order, in as few batches as their size allows: to a partition, to
    /// the partition of a key, or wherever the hub likes. A partition and a key together are
    /// refused by the hub.
    ///
    /// # Errors
    /// After an error the batches before it are sent; of the one that failed nobody knows.
    /// Nothing is sent twice by itself.
    pub async fn send(
        &self,
        partition: Option<&str>,
        key: Option<&str>,
        events: Vec<OutgoingEvent>,
    ) -> Result<(), SourceError> {
        let mut events = events.into_iter().peekable();
        while events.peek().is_some() {
            let batch = match timeout(SEND_TIMEOUT, self.client.create_batch(Some(options(partition, key)))).await {
                Ok(batch) => batch.map_err(|error| self.failed(partition, error))?,
                Err(_) => return Err(self.timed_out()),
            };
            while let Some(event) = events.peek() {
                let fits =
                    batch.try_add_event_data(event.clone(), None).map_err(|error| self.failed(partition, error))?;
                if !fits {
                    break;
                }
                events.next();
            }
            if batch.is_empty() {
                let bytes = events.peek().map_or(0, |event| event.body.len());
                return Err(SourceError::EventTooLarge { hub: self.hub.clone(), bytes });
            }
            match timeout(SEND_TIMEOUT, self.client.send_batch(batch, None)).await {
                Ok(sent) => sent.map_err(|error| self.failed(partition, error))?,
                Err(_) => return Err(self.timed_out()),
            }
        }
        Ok(())
    }

    pub async fn close(self) {
        if let Ok(Err(error)) = timeout(CLOSE_TIMEOUT, self.client.close()).await {
            tracing::debug!(%error, "closing a sender failed");
        }
    }

    fn doing(&self) -> String {
        format!("send to hub `{}`", self.hub)
    }

    fn timed_out(&self) -> SourceError {
        SourceError::TimedOut { doing: self.doing(), after: SEND_TIMEOUT }
    }

    fn failed(&self, partition: Option<&str>, error: EventHubsError) -> SourceError {
        let asked = Asked {
            namespace: &self.namespace,
            hub: &self.hub,
            group: "",
            partition: partition.unwrap_or_default(),
            doing: self.doing(),
        };
        asked.failed(error)
    }
}

fn options(partition: Option<&str>, key: Option<&str>) -> EventDataBatchOptions {
    EventDataBatchOptions {
        partition_id: partition.map(str::to_owned),
        partition_key: key.map(str::to_owned),
        ..EventDataBatchOptions::default()
    }
}
