//! The reader of one partition: opens links until it is told to stop, its end is reached, or
//! nothing that waiting mends is wrong.

use std::mem;
use std::sync::Arc;
use std::time::Duration;

use azure_messaging_eventhubs::{OpenReceiverOptions, StartLocation, StartPosition};
use futures::StreamExt;
use tokio::sync::mpsc;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::hub::{EventHubsSource, OWNER_LEVEL};
use super::link::{Link, LinkEnd};
use super::message;
use super::tracker::Tracker;
use crate::checkpoint::PartitionKey;
use crate::error::{Classify, Retry};
use crate::memory::MemoryBudget;
use crate::retry::Backoff;
use crate::source::{ReadPartition, SourceError, SourceEvent};

impl EventHubsSource {
    /// Reads one partition until `stop` is cancelled, the declared end is reached, or what
    /// waiting can't mend goes wrong. It is meant to be a task of the caller's `JoinSet`.
    ///
    /// Each number from the position on is handed on once and in order, or named in a hole
    /// before it. When the channel or the budget is full it takes no more from the hub. A
    /// channel without a receiver ends it like `stop`. What was taken from the hub and not
    /// sent is dropped then: nothing covers it.
    ///
    /// # Errors
    /// [`SourceError::Generation`] for a hub that isn't the one of `last`,
    /// [`SourceError::Stolen`], and a sign-in or name that was refused from the start. All
    /// others are sent as [`SourceEvent::Failed`], and it goes on.
    pub async fn read(
        self: Arc<Self>,
        read: ReadPartition,
        budget: MemoryBudget,
        sender: mpsc::Sender<SourceEvent>,
        stop: CancellationToken,
    ) -> Result<(), SourceError> {
        let ReadPartition { partition, position, last, until } = read;
        let reader = Reader {
            source: self,
            partition,
            tracker: Tracker::new(position, last),
            until,
            budget,
            sender,
            // The service asks for 4 s when it is busy; beyond half a minute nobody knows
            // whether it still tries.
            backoff: Backoff::new(Duration::from_millis(200), Duration::from_secs(30)),
            served: false,
            refused_before: false,
        };
        // One place for all of it: whatever it waits for, a stop ends the wait.
        stop.run_until_cancelled(reader.run()).await.unwrap_or(Ok(()))
    }
}

pub(super) struct Reader {
    pub(super) source: Arc<EventHubsSource>,
    pub(super) partition: PartitionKey,
    pub(super) tracker: Tracker,
    pub(super) until: Option<i64>,
    pub(super) budget: MemoryBudget,
    pub(super) sender: mpsc::Sender<SourceEvent>,
    pub(super) backoff: Backoff,
    /// Whether the hub ever delivered an event to this reader.
    pub(super) served: bool,
    /// Whether the last failure was a refusal of our place.
    refused_before: bool,
}

/// Whether anybody still listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Heard {
    Yes,
    Stopped,
}

impl Reader {
    async fn run(mut self) -> Result<(), SourceError> {
        loop {
            let error = match self.serve().await {
                Ok(LinkEnd::Stopped) => return Ok(()),
                Ok(LinkEnd::Reopen) => continue,
                Ok(LinkEnd::CaughtUp) => {
                    let position = self.tracker.position();
                    self.say(SourceEvent::CaughtUp { partition: self.partition.clone(), position }).await;
                    return Ok(());
                }
                Err(error) if self.is_final(&error) => return Err(error),
                Err(error) => error,
            };
            if let Some(error) = self.another_hub(&error).await {
                return Err(error);
            }
            let retry_in = self.backoff.pause().max(error.pause());
            tracing::warn!(
                partition = %self.partition, position = self.tracker.position(), %error, ?retry_in,
                "a partition failed and will be opened again"
            );
            let failed = SourceEvent::Failed { partition: self.partition.clone(), error, retry_in };
            if self.say(failed).await == Heard::Stopped {
                return Ok(());
            }
            sleep(retry_in).await;
        }
    }

    pub(super) fn is_caught_up(&self) -> bool {
        self.until.is_some_and(|until| self.tracker.position() >= until)
    }

    /// A refusal is final where the hub never delivered: later it may be a role that comes
    /// back, or a hub that is moved.
    fn is_final(&self, error: &SourceError) -> bool {
        match error {
            SourceError::Unauthorized { .. } | SourceError::NotFound { .. } => !self.served,
            other => other.retry() == Retry::Never,
        }
    }

    /// A hub that twice in a row refuses our place, and says itself that it ends before it.
    async fn another_hub(&mut self, error: &SourceError) -> Option<SourceError> {
        if !matches!(error, SourceError::OutOfRange { .. }) {
            self.refused_before = false;
            return None;
        }
        if !mem::replace(&mut self.refused_before, true) {
            return None;
        }
        let holds = self.source.partition(&self.partition.partition).await.ok()?;
        // A declared start may lie beyond the end: nothing contradicts that, and it will come.
        if holds.last_enqueued >= self.tracker.position() - 1 || !self.tracker.knows_the_hub() {
            return None;
        }
        Some(self.ends_before_us(holds.last_enqueued).await)
    }

    pub(super) async fn ends_before_us(&self, last_enqueued: i64) -> SourceError {
        let difference = format!(
            "partition `{}` ends at event {last_enqueued}, and the reading goes on after event {}",
            self.partition.partition,
            self.tracker.position() - 1,
        );
        self.source.another_hub(difference).await
    }

    /// Opens one link and reads it to its end.
    async fn serve(&mut self) -> Result<LinkEnd, SourceError> {
        if self.is_caught_up() {
            return Ok(LinkEnd::CaughtUp);
        }
        let source = Arc::clone(&self.source);
        let id = Arc::clone(&self.partition.partition);
        let lease = source.clients.for_partition(&id).await?;
        let asked = || source.clients.asked(&id, format!("read partition `{id}` of hub `{}`", source.clients.hub));
        let share = source.link_share(self.budget.capacity());
        let prefetch = source.credit.prefetch(share);
        let opening = self.tracker.opens_at();
        let options = OpenReceiverOptions {
            owner_level: Some(OWNER_LEVEL),
            prefetch: Some(prefetch),
            start_position: Some(StartPosition {
                location: StartLocation::SequenceNumber(opening.number),
                inclusive: opening.inclusive,
            }),
            receive_timeout: None,
        };
        tracing::debug!(partition = %self.partition, ?opening, prefetch, "opening a link");
        let opened = lease.client().open_receiver_on_partition(id.to_string(), Some(options)).await;
        let receiver = match opened {
            Ok(receiver) => receiver,
            Err(error) => {
                lease.retire();
                return Err(asked().failed(error));
            }
        };
        let events = receiver.stream_events().map(|received| match received {
            Ok(received) => message::event(&received).map_err(|what| source.protocol(&id, what)),
            Err(error) => Err(asked().failed(error)),
        });
        let outcome = Link::new(self, opening.first(), prefetch, share).run(events).await;
        // Even a link that ended well: on this client it would go on where it was.
        lease.retire();
        outcome
    }

    /// Sends, unless nobody listens any more.
    pub(super) async fn say(&self, event: SourceEvent) -> Heard {
        if self.sender.send(event).await.is_ok() { Heard::Yes } else { Heard::Stopped }
    }
}
