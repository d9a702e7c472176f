//! Links on which clients send events.

use std::sync::Arc;
use std::time::Duration;

use fe2o3_amqp::link::RecvError;
use fe2o3_amqp::link::delivery::DeliveryInfo;
use fe2o3_amqp::{Delivery, Receiver};
use fe2o3_amqp_types::definitions::{AmqpError, Error, LinkError};
use fe2o3_amqp_types::messaging::Body;
use futures::FutureExt;
use serde_amqp::Value;
use tokio::time::sleep;
use tracing::debug;

use super::connection::Connection;
use super::error::BrokerError;
use super::hub::{Hub, Partition};
use super::link_end::{LinkFailure, close_receiver, failure};
use super::messages;
use super::options::MAX_MESSAGE_BYTES;
use super::receivers::{is_gone, server_busy};

/// The Rust client loses an outcome that comes back before it has noted what it sent.
pub(super) const OUTCOME_DELAY: Duration = Duration::from_millis(2);
/// Deliveries that share one delay.
const TAKEN_TOGETHER: usize = 64;

/// A sender that is about to be served.
#[derive(Debug)]
pub(super) struct Writing {
    pub(super) hub: Arc<Hub>,
    /// Where the client named one.
    pub(super) partition: Option<Arc<Partition>>,
}

/// Takes events in until the link ends.
pub(super) async fn serve(mut receiver: Receiver, writing: Writing, link: (u16, u32), connection: Arc<Connection>) {
    let failed = loop {
        let first = tokio::select! {
            received = receiver.recv::<Body<Value>>() => received,
            () = writing.hub.gone.cancelled() => {
                break failure(LinkError::DetachForced, "the event hub is gone".to_owned());
            }
        };
        let mut taken = Taken::default();
        let mut received = Some(first);
        let ended = loop {
            match received {
                None => break None,
                Some(Ok(delivery)) => taken.take(delivery, &writing),
                Some(Err(RecvError::MessageDecode(bad))) => {
                    let oversized = connection.wire.was_oversized(link.0, link.1);
                    let failure = if oversized { too_large() } else { undecodable() };
                    taken.rejected.push((bad.info, failure.into_error()));
                }
                Some(Err(error)) => break Some(ended_by(error)),
            }
            received = if taken.len() < TAKEN_TOGETHER { receiver.recv().now_or_never() } else { None };
        };
        sleep(OUTCOME_DELAY).await;
        if let Err(error) = taken.settle(&receiver).await {
            debug!(?error, "a sender of the emulator is gone");
            return;
        }
        match ended {
            None => {}
            Some(Ended::Gone) => return,
            Some(Ended::Failed(failure)) => break failure,
        }
    };
    close_receiver(receiver, failed).await;
}

enum Ended {
    /// By the client; the library has answered.
    Gone,
    Failed(LinkFailure),
}

fn ended_by(error: RecvError) -> Ended {
    match error {
        RecvError::LinkStateError(state) if is_gone(&state) => Ended::Gone,
        other => Ended::Failed(failure(AmqpError::NotAllowed, other.to_string())),
    }
}

fn undecodable() -> LinkFailure {
    failure(AmqpError::DecodeError, "the message can't be decoded".to_owned())
}

fn too_large() -> LinkFailure {
    let words = format!("the message is larger than the {MAX_MESSAGE_BYTES} bytes that one may have");
    failure(LinkError::MessageSizeExceeded, words)
}

/// Deliveries whose outcomes are due.
#[derive(Default)]
struct Taken {
    accepted: Vec<DeliveryInfo>,
    rejected: Vec<(DeliveryInfo, Error)>,
}

impl Taken {
    fn len(&self) -> usize {
        self.accepted.len() + self.rejected.len()
    }

    fn take(&mut self, delivery: Delivery<Body<Value>>, writing: &Writing) {
        let format = *delivery.message_format();
        let (info, message) = delivery.into_parts();
        match store(message, format, writing) {
            Ok(()) => self.accepted.push(info),
            Err(failure) => self.rejected.push((info, failure.into_error())),
        }
    }

    async fn settle(self, receiver: &Receiver) -> Result<(), fe2o3_amqp::link::DispositionError> {
        if !self.accepted.is_empty() {
            receiver.accept_all(self.accepted).await?;
        }
        for (info, error) in self.rejected {
            receiver.reject(info, error).await?;
        }
        Ok(())
    }
}

fn store(message: messages::EventMessage, format: Option<u32>, writing: &Writing) -> Result<(), LinkFailure> {
    let (events, key) =
        messages::events_of(message, format).map_err(|error| failure(AmqpError::DecodeError, error.to_string()))?;
    if key.is_some() && writing.partition.is_some() {
        let words = "a partition key can't be set on what is sent to a partition".to_owned();
        return Err(failure(AmqpError::NotAllowed, words));
    }
    let partition = match &writing.partition {
        Some(partition) => partition,
        None => writing.hub.partition_for(key.as_deref()),
    };
    match partition.append(events, key.as_deref()) {
        Ok(_) => Ok(()),
        Err(BrokerError::Full { .. }) => Err(server_busy()),
        Err(BrokerError::TooLarge { .. }) => Err(too_large()),
        Err(error) => Err(failure(AmqpError::InternalError, error.to_string())),
    }
}
