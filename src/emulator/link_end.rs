//! How links end.
//!
//! A detach is answered in kind: a client that only detached and hears that the link is
//! closed attaches again just to close it. A client that doesn't read, or doesn't answer, is
//! waited for until its session ends: what it is told must reach it when it wakes up.

use fe2o3_amqp::acceptor::LinkEndpoint;
use fe2o3_amqp::link::DetachError;
use fe2o3_amqp::{Receiver, Sender};
use fe2o3_amqp_types::definitions::{Error, ErrorCondition, Fields};

/// What a client hears when a link is refused or closed.
#[derive(Debug)]
pub(super) struct LinkFailure {
    condition: ErrorCondition,
    description: String,
}

impl LinkFailure {
    /// All three fields are there: pyamqp finds them by position.
    pub(super) fn into_error(self) -> Error {
        Error {
            condition: self.condition,
            description: Some(self.description),
            info: Some(Box::new(Fields::default())),
        }
    }
}

pub(super) fn failure(condition: impl Into<ErrorCondition>, description: String) -> LinkFailure {
    LinkFailure { condition: condition.into(), description }
}

pub(super) async fn refuse(endpoint: LinkEndpoint, failure: LinkFailure) {
    match endpoint {
        LinkEndpoint::Sender(sender) => close_sender(sender, failure).await,
        LinkEndpoint::Receiver(receiver) => close_receiver(receiver, failure).await,
    }
}

pub(super) async fn close_sender(sender: Sender, failure: LinkFailure) {
    // What the client answers changes nothing any more, here and below.
    let _ = sender.close_with_error(failure.into_error()).await;
}

pub(super) async fn detach_sender(sender: Sender, failure: LinkFailure) {
    let _ = sender.detach_with_error(failure.into_error()).await;
}

pub(super) async fn close_receiver(receiver: Receiver, failure: LinkFailure) {
    let _ = receiver.close_with_error(failure.into_error()).await;
}

/// Answers the detach of a client.
pub(super) async fn answer_detach(sender: Sender, detach: DetachError) {
    match detach {
        DetachError::DetachedByRemote | DetachError::RemoteDetachedWithError(_) => {
            let _ = sender.detach().await;
        }
        DetachError::ClosedByRemote | DetachError::RemoteClosedWithError(_) => {
            let _ = sender.close().await;
        }
        // The session is gone, and the link with it.
        _ => {}
    }
}
