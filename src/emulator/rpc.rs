//! Request and reply: how `$cbs` and `$management` are spoken to.
//!
//! A client opens a pair of links in one session: it sends requests on one, each with a
//! `reply-to`, and receives on the other, whose target has that address.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use fe2o3_amqp::{Receiver, Sendable, Sender};
use fe2o3_amqp_types::messaging::{AmqpValue, ApplicationProperties, Body, Message, Properties};
use fe2o3_amqp_types::primitives::SimpleValue;
use serde_amqp::Value;
use tokio::sync::mpsc;
use tokio::time::sleep;
use tracing::debug;

use super::connection::Connection;
use super::link_end::answer_detach;
use super::messages::EventMessage;
use super::senders::OUTCOME_DELAY;
use super::{cbs, management};

/// Replies that wait for their link. A client has one request under way; more are dropped.
const WAITING_REPLIES: usize = 64;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Node {
    Cbs,
    Management,
}

impl Node {
    /// Where replies go to for which nobody named an address: pyamqp gives its receiver the
    /// node's own.
    fn address(self) -> &'static str {
        match self {
            Self::Cbs => "$cbs",
            Self::Management => "$management",
        }
    }
}

/// An answer without its envelope.
pub(super) struct Reply {
    /// As HTTP has them.
    pub(super) status: i32,
    pub(super) description: String,
    pub(super) body: Value,
}

impl Reply {
    pub(super) fn failed(status: i32, description: String) -> Self {
        Self { status, description, body: Value::Null }
    }

    fn into_message(self, request: &EventMessage) -> Message<AmqpValue<Value>> {
        let properties = request.properties.as_ref();
        let id = properties.and_then(|asked| asked.message_id.clone().or_else(|| asked.correlation_id.clone()));
        let mut application = ApplicationProperties::default();
        application.0.insert("status-code".to_owned(), SimpleValue::Int(self.status));
        application.0.insert("status-description".to_owned(), SimpleValue::String(self.description));
        Message {
            header: None,
            delivery_annotations: None,
            message_annotations: None,
            properties: Some(Properties { correlation_id: id, ..Properties::default() }),
            application_properties: Some(application),
            body: AmqpValue(self.body),
            footer: None,
        }
    }
}

type ReplyMessage = Message<AmqpValue<Value>>;

struct Mailbox {
    sender: mpsc::Sender<ReplyMessage>,
    /// Until a link takes it.
    receiver: Option<mpsc::Receiver<ReplyMessage>>,
}

/// The addresses that replies of a session go to. Either link may come first.
#[derive(Default)]
pub(super) struct Mailboxes {
    open: Mutex<HashMap<(Node, String), Mailbox>>,
}

impl Mailboxes {
    fn with<T>(&self, node: Node, address: &str, work: impl FnOnce(&mut Mailbox) -> T) -> T {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let mailbox = open.entry((node, address.to_owned())).or_insert_with(|| {
            let (sender, receiver) = mpsc::channel(WAITING_REPLIES);
            Mailbox { sender, receiver: Some(receiver) }
        });
        work(mailbox)
    }

    fn post(&self, node: Node, address: &str, reply: ReplyMessage) {
        if self.with(node, address, |mailbox| mailbox.sender.try_send(reply).is_err()) {
            debug!(?node, address, "nobody takes the replies of the emulator");
        }
    }

    /// A link that comes later for the same address takes over.
    fn take(&self, node: Node, address: &str) -> mpsc::Receiver<ReplyMessage> {
        self.with(node, address, |mailbox| {
            mailbox.receiver.take().unwrap_or_else(|| {
                let (sender, receiver) = mpsc::channel(WAITING_REPLIES);
                mailbox.sender = sender;
                receiver
            })
        })
    }
}

/// Answers requests until the link ends.
pub(super) async fn serve_requests(
    mut receiver: Receiver,
    node: Node,
    connection: Arc<Connection>,
    mailboxes: Arc<Mailboxes>,
) {
    loop {
        let delivery = match receiver.recv::<Body<Value>>().await {
            Ok(delivery) => delivery,
            Err(error) => return debug!(?node, ?error, "a link for requests ended"),
        };
        let (info, request) = delivery.into_parts();
        let reply = match node {
            Node::Cbs => cbs::answer(&request, &connection),
            Node::Management => management::answer(&request, &connection),
        };
        sleep(OUTCOME_DELAY).await;
        if receiver.accept(info).await.is_err() {
            return;
        }
        let reply_to = request.properties.as_ref().and_then(|properties| properties.reply_to.as_deref());
        mailboxes.post(node, reply_to.unwrap_or(node.address()), reply.into_message(&request));
    }
}

/// Sends replies until the link ends.
pub(super) async fn send_replies(mut sender: Sender, node: Node, address: String, mailboxes: Arc<Mailboxes>) {
    let mut replies = mailboxes.take(node, &address);
    loop {
        let reply = tokio::select! {
            detach = sender.on_detach() => return answer_detach(sender, detach).await,
            reply = replies.recv() => reply,
        };
        let Some(message) = reply else { return };
        let reply = Sendable { message, message_format: 0, settled: Some(true) };
        if sender.send_batchable_ref(&reply).await.is_err() {
            return;
        }
    }
}

/// An application property of a request.
pub(super) fn property<'a>(request: &'a EventMessage, name: &str) -> Option<&'a str> {
    match request.application_properties.as_ref()?.0.get(name)? {
        SimpleValue::String(text) => Some(text),
        SimpleValue::Symbol(text) => Some(text.as_str()),
        _ => None,
    }
}
