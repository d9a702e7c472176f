//! Links on which clients receive events.

use std::sync::Arc;

use fe2o3_amqp::Sender;
use fe2o3_amqp::link::LinkStateError;
use fe2o3_amqp_types::definitions::{ErrorCondition, LinkError};
use fe2o3_amqp_types::primitives::Symbol;
use tokio::time::sleep;
use tracing::debug;

use super::connection::Connection;
use super::faults::FaultAction;
use super::hub::{Hub, Partition, Seat};
use super::link_end::{LinkFailure, answer_detach, close_sender, detach_sender, failure};
use super::log::StoredEvent;
use super::messages;

/// What is read from the log at once: events that may expire meanwhile are held only so long.
const READ_EVENTS: usize = 256;
const READ_BYTES: u64 = 1024 * 1024;

/// A receiver that is about to be served.
#[derive(Debug)]
pub(super) struct Reading {
    pub(super) hub: Arc<Hub>,
    pub(super) partition: Arc<Partition>,
    pub(super) seat: Seat,
    /// The next event to deliver.
    pub(super) next: i64,
}

/// Why a link stops delivering.
enum Stop {
    /// The client detached or went away; the library has answered.
    Gone,
    /// Another reader took the partition over.
    Stolen,
    /// The hub was made anew.
    HubGone,
    Fault(FaultAction),
}

/// Delivers events until the link ends.
pub(super) async fn serve(mut sender: Sender, reading: Reading, connection: Arc<Connection>) {
    let Reading { hub, partition, seat, mut next } = reading;
    let mut appended = partition.watch();
    let link = Delivering { hub: &hub, partition: &partition, seat: &seat, connection: &connection };
    let stop = loop {
        appended.mark_unchanged();
        let events = partition.read(next, READ_EVENTS, READ_BYTES);
        if let Some(last) = events.last() {
            next = last.sequence_number + 1;
            if let Err(stop) = link.deliver_all(&mut sender, &events).await {
                break stop;
            }
            continue;
        }
        if let Some(action) = link.strike(false) {
            break Stop::Fault(action);
        }
        tokio::select! {
            detach = sender.on_detach() => {
                drop(seat);
                return answer_detach(sender, detach).await;
            }
            () = seat.stolen.cancelled() => break Stop::Stolen,
            () = hub.gone.cancelled() => break Stop::HubGone,
            // The partition holds the other end, so this doesn't fail.
            _ = appended.changed() => {}
        }
    };
    // The place is free at once, whenever the client answers.
    drop(seat);
    end(sender, stop, &partition, &connection).await;
}

struct Delivering<'a> {
    hub: &'a Hub,
    partition: &'a Partition,
    seat: &'a Seat,
    connection: &'a Connection,
}

impl Delivering<'_> {
    async fn deliver_all(&self, sender: &mut Sender, events: &[Arc<StoredEvent>]) -> Result<(), Stop> {
        for event in events {
            while let Some(action) = self.strike(true) {
                match action {
                    FaultAction::Delay(delay) => self.unless_ended(sleep(delay)).await?,
                    action => return Err(Stop::Fault(action)),
                }
            }
            let sendable = messages::sendable(event.message.clone());
            match self.unless_ended(sender.send_batchable_ref(&sendable)).await? {
                Ok(_settled) => {}
                Err(error) => {
                    debug!(?error, "a receiver of the emulator is gone");
                    return Err(Stop::Gone);
                }
            }
            let faults = &self.connection.shared.faults;
            if !faults.is_empty() {
                faults.delivered(&self.hub.spec.name, &self.partition.id);
            }
        }
        Ok(())
    }

    /// Takes a fault that is due.
    fn strike(&self, event_waits: bool) -> Option<FaultAction> {
        let faults = &self.connection.shared.faults;
        if faults.is_empty() { None } else { faults.strike(&self.hub.spec.name, &self.partition.id, event_waits) }
    }

    /// What is given up when the link has to end holds nothing that was promised.
    async fn unless_ended<T>(&self, work: impl Future<Output = T>) -> Result<T, Stop> {
        tokio::select! {
            biased;
            () = self.seat.stolen.cancelled() => Err(Stop::Stolen),
            () = self.hub.gone.cancelled() => Err(Stop::HubGone),
            done = work => Ok(done),
        }
    }
}

async fn end(sender: Sender, stop: Stop, partition: &Partition, connection: &Connection) {
    let forced = || failure(LinkError::DetachForced, "the link was force detached by the emulator".to_owned());
    match stop {
        Stop::Gone => {}
        Stop::Stolen => close_sender(sender, stolen(partition)).await,
        Stop::HubGone => {
            close_sender(sender, failure(LinkError::DetachForced, "the event hub is gone".to_owned())).await
        }
        Stop::Fault(FaultAction::Detach) => detach_sender(sender, forced()).await,
        Stop::Fault(FaultAction::Close | FaultAction::Delay(_)) => close_sender(sender, forced()).await,
        Stop::Fault(FaultAction::Steal) => close_sender(sender, stolen(partition)).await,
        Stop::Fault(FaultAction::ServerBusy) => close_sender(sender, server_busy()).await,
        Stop::Fault(FaultAction::DropConnection) => connection.wire.cut.cancel(),
    }
}

fn stolen(partition: &Partition) -> LinkFailure {
    let words = format!("a receiver with a higher epoch took over partition `{}`", partition.id);
    failure(LinkError::Stolen, words)
}

/// What a client is to answer with a pause.
pub(super) fn server_busy() -> LinkFailure {
    let condition = ErrorCondition::Custom(Symbol::from("com.microsoft:server-busy"));
    failure(condition, "the server is busy, try again later".to_owned())
}

/// Whether a link ended because the client, or its session, did.
pub(super) fn is_gone(error: &LinkStateError) -> bool {
    !matches!(error, LinkStateError::IllegalState | LinkStateError::ExpectImmediateDetach)
}
