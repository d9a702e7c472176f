//! A connection: its sessions, and where each of its links leads.

use std::sync::Arc;
use std::time::Duration;

use fe2o3_amqp::acceptor::sasl_acceptor::SaslServerFrame;
use fe2o3_amqp::acceptor::{
    ConnectionAcceptor, LinkAcceptor, LinkEndpoint, ListenerSessionHandle, SaslAcceptor, SessionAcceptor,
};
use fe2o3_amqp_types::definitions::{AmqpError, ErrorCondition, LinkError, ReceiverSettleMode, Role, SenderSettleMode};
use fe2o3_amqp_types::messaging::TargetArchetype;
use fe2o3_amqp_types::performatives::Attach;
use fe2o3_amqp_types::primitives::{Array, Symbol, Value};
use fe2o3_amqp_types::sasl::{SaslCode, SaslInit, SaslOutcome, SaslResponse};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::access::{Grants, entity, percent_decoded};
use super::frames::MAX_FRAME_BYTES;
use super::hub::{self, Hub, Partition, SeatRefused};
use super::link_end::{self, LinkFailure, failure};
use super::options::MAX_MESSAGE_BYTES;
use super::receivers::{self, Reading};
use super::rpc::{self, Mailboxes, Node};
use super::selector::StartPosition;
use super::senders::{self, Writing};
use super::server::Shared;
use super::shim::{Shim, Wire};

const HANDSHAKE: Duration = Duration::from_secs(30);
/// The limits of the service. pyamqp compares its handles with the first, so it must be said.
const HANDLE_MAX: u32 = 4999;
const CHANNEL_MAX: u16 = 4999;
/// Frames between a link and its session, and between a session and the socket. More only
/// fills memory while a client doesn't read; fewer make the tasks wait for each other.
const QUEUED_FRAMES: usize = 64;
/// Transfers that a client may have under way on a session. Larger than any credit that we
/// give takes in frames, so that credit alone holds producers back.
const INCOMING_WINDOW: u32 = 65_535;

/// What a connection needs to be served.
pub(super) struct Served {
    pub(super) shared: Arc<Shared>,
    /// Cancelling it cuts the connection.
    pub(super) cut: CancellationToken,
}

/// What the links of a connection share.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) shared: Arc<Shared>,
    pub(super) grants: Grants,
    pub(super) wire: Arc<Wire>,
}

impl Connection {
    fn allows(&self, path: &str) -> bool {
        self.shared.policies.are_open() || self.grants.allow(path, hub::now() / 1000)
    }

    /// Whether the properties of a hub may be read.
    pub(super) fn may_read(&self, hub: &str) -> bool {
        self.shared.policies.are_open() || self.grants.touch(hub, hub::now() / 1000)
    }
}

/// Serves a connection until the client closes it, or it is cut.
pub(super) async fn serve<S>(stream: S, served: Served)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let Served { shared, cut } = served;
    let _cut_when_done = cut.clone().drop_guard();
    let name = shared.namespace.clone();
    let connection = Arc::new(Connection { shared, grants: Grants::default(), wire: Arc::new(Wire::new(cut.clone())) });
    let acceptor = ConnectionAcceptor::builder()
        .container_id(name)
        .max_frame_size(MAX_FRAME_BYTES)
        .channel_max(CHANNEL_MAX)
        .buffer_size(QUEUED_FRAMES)
        .sasl_acceptor(SignIn { connection: Arc::clone(&connection) })
        .build();
    let shim = Shim::new(stream, Arc::clone(&connection.wire));
    let mut handle = match timeout(HANDSHAKE, acceptor.accept(shim)).await {
        Ok(Ok(handle)) => handle,
        Ok(Err(error)) => return debug!(?error, "a client of the emulator didn't open its connection"),
        Err(_) => return debug!("a client of the emulator took too long to open its connection"),
    };
    let acceptor = SessionAcceptor::builder()
        .handle_max(HANDLE_MAX)
        .incoming_window(INCOMING_WINDOW)
        .buffer_size(QUEUED_FRAMES)
        .build();
    let mut sessions = JoinSet::new();
    loop {
        tokio::select! {
            () = cut.cancelled() => break,
            Some(_) = sessions.join_next(), if !sessions.is_empty() => {}
            incoming = handle.next_incoming_session() => {
                let Some(incoming) = incoming else { break };
                let channel = incoming.channel;
                match acceptor.accept_incoming_session(incoming, &mut handle).await {
                    Ok(session) => {
                        sessions.spawn(serve_session(session, channel, Arc::clone(&connection)));
                    }
                    Err(error) => debug!(?error, "a session of the emulator wasn't begun"),
                }
            }
        }
    }
    sessions.shutdown().await;
}

async fn serve_session(mut session: ListenerSessionHandle, channel: u16, connection: Arc<Connection>) {
    let mailboxes = Arc::new(Mailboxes::default());
    let mut links = JoinSet::new();
    loop {
        tokio::select! {
            Some(_) = links.join_next(), if !links.is_empty() => {}
            attach = session.next_incoming_attach() => {
                let Some(attach) = attach else { break };
                let handle = attach.handle.0;
                let name = attach.name.clone();
                let route = route(&connection, &attach);
                debug!(%name, ?route, "link to the emulator");
                let task = Link { route, link: (channel, handle), connection: &connection, mailboxes: &mailboxes };
                if let Err(error) = task.attach(attach, &mut session, &mut links).await {
                    debug!(%name, error, "a link of the emulator wasn't attached");
                }
            }
        }
    }
    links.shutdown().await;
}

/// Where a link leads.
#[derive(Debug)]
enum Route {
    Requests(Node),
    Replies(Node),
    Read(Reading),
    Write(Writing),
    Refused(LinkFailure),
}

fn route(connection: &Connection, attach: &Attach) -> Route {
    let address = match attach.role {
        Role::Sender => match attach.target.as_deref() {
            Some(TargetArchetype::Target(target)) => target.address.as_deref(),
            _ => None,
        },
        Role::Receiver => attach.source.as_ref().and_then(|source| source.address.as_deref()),
    };
    let Some(address) = address else {
        return Route::Refused(failure(AmqpError::InvalidField, "the link names no address".to_owned()));
    };
    let path = percent_decoded(entity(address));
    let node = match path.rsplit('/').next() {
        Some("$cbs") => Some(Node::Cbs),
        Some("$management") => Some(Node::Management),
        _ => None,
    };
    if let Some(node) = node {
        return if attach.role == Role::Sender { Route::Requests(node) } else { Route::Replies(node) };
    }
    if !connection.allows(&path) {
        let words = format!("unauthorized access to `{path}`: no valid token was put for it");
        return Route::Refused(failure(AmqpError::UnauthorizedAccess, words));
    }
    let route = if attach.role == Role::Sender {
        write_route(connection, &path)
    } else {
        read_route(connection, attach, &path)
    };
    route.unwrap_or_else(Route::Refused)
}

fn find_hub(connection: &Connection, name: &str) -> Result<Arc<Hub>, LinkFailure> {
    connection.shared.hubs.get(name).ok_or_else(|| {
        let namespace = &connection.shared.namespace;
        failure(AmqpError::NotFound, format!("there is no event hub `{name}` in the namespace `{namespace}`"))
    })
}

fn find_partition(hub: &Hub, id: &str) -> Result<Arc<Partition>, LinkFailure> {
    hub.partition(id).cloned().ok_or_else(|| {
        failure(AmqpError::NotFound, format!("the event hub `{}` has no partition `{id}`", hub.spec.name))
    })
}

fn no_address(path: &str) -> LinkFailure {
    failure(AmqpError::NotFound, format!("`{path}` is no address of an event hub"))
}

/// `<hub>` or `<hub>/Partitions/<id>`.
fn write_route(connection: &Connection, path: &str) -> Result<Route, LinkFailure> {
    let segments: Vec<&str> = path.split('/').collect();
    let (hub, partition) = match segments[..] {
        [hub] => (find_hub(connection, hub)?, None),
        [hub, partitions, id] if partitions.eq_ignore_ascii_case("partitions") => {
            let hub = find_hub(connection, hub)?;
            let partition = find_partition(&hub, id)?;
            (hub, Some(partition))
        }
        _ => return Err(no_address(path)),
    };
    Ok(Route::Write(Writing { hub, partition }))
}

/// `<hub>/ConsumerGroups/<group>/Partitions/<id>`.
fn read_route(connection: &Connection, attach: &Attach, path: &str) -> Result<Route, LinkFailure> {
    let segments: Vec<&str> = path.split('/').collect();
    let [hub, groups, group, partitions, id] = segments[..] else { return Err(no_address(path)) };
    if !groups.eq_ignore_ascii_case("consumergroups") || !partitions.eq_ignore_ascii_case("partitions") {
        return Err(no_address(path));
    }
    let hub = find_hub(connection, hub)?;
    if !hub.spec.has_group(group) {
        let words = format!("the event hub `{}` has no consumer group `{group}`", hub.spec.name);
        return Err(failure(AmqpError::NotFound, words));
    }
    let partition = find_partition(&hub, id)?;
    let filter = attach.source.as_ref().and_then(|source| source.filter.as_ref());
    let position = StartPosition::of(filter).map_err(|error| failure(AmqpError::InvalidField, error.to_string()))?;
    let next = partition.resolve(&position).map_err(|error| {
        failure(ErrorCondition::Custom(Symbol::from("com.microsoft:argument-error")), error.to_string())
    })?;
    let seat = partition.seat(group, epoch(attach)).map_err(|refused| {
        let condition: ErrorCondition = match refused {
            SeatRefused::TooMany => AmqpError::ResourceLimitExceeded.into(),
            SeatRefused::EpochLower { .. } | SeatRefused::EpochNeeded { .. } => LinkError::Stolen.into(),
        };
        failure(condition, refused.to_string())
    })?;
    Ok(Route::Read(Reading { hub, partition, seat, next }))
}

/// The owner level that a receiver attaches with.
fn epoch(attach: &Attach) -> Option<i64> {
    match attach.properties.as_ref()?.get("com.microsoft:epoch")? {
        Value::Long(epoch) => Some(*epoch),
        _ => None,
    }
}

/// A link that is about to be attached.
struct Link<'a> {
    route: Route,
    /// Channel and handle of the client.
    link: (u16, u32),
    connection: &'a Arc<Connection>,
    mailboxes: &'a Arc<Mailboxes>,
}

impl Link<'_> {
    async fn attach(
        self,
        mut attach: Attach,
        session: &mut ListenerSessionHandle,
        links: &mut JoinSet<()>,
    ) -> Result<(), String> {
        // Senders of pyamqp ask for `second`, but want their deliveries settled.
        attach.rcv_settle_mode = ReceiverSettleMode::First;
        if attach.role == Role::Receiver {
            // pyamqp never settles what it gets, and would run out of its window.
            attach.snd_settle_mode = SenderSettleMode::Settled;
        }
        let mut acceptor = LinkAcceptor::builder();
        if attach.role == Role::Sender {
            acceptor = acceptor.max_message_size(MAX_MESSAGE_BYTES);
        }
        if matches!(self.route, Route::Refused(_)) {
            // So a client is told that our end of the link isn't there, before it hears why.
            match attach.role {
                Role::Sender => attach.target = None,
                Role::Receiver => attach.source = None,
            }
            acceptor = acceptor.verify_incoming_source(false).verify_incoming_target(false);
        }
        let reply_to = reply_address(&attach);
        let endpoint =
            acceptor.build().accept_incoming_attach(attach, session).await.map_err(|error| format!("{error:?}"))?;
        let connection = Arc::clone(self.connection);
        match (self.route, endpoint) {
            (Route::Refused(failure), endpoint) => {
                links.spawn(link_end::refuse(endpoint, failure));
            }
            (Route::Requests(node), LinkEndpoint::Receiver(receiver)) => {
                links.spawn(rpc::serve_requests(receiver, node, connection, Arc::clone(self.mailboxes)));
            }
            (Route::Replies(node), LinkEndpoint::Sender(sender)) => {
                links.spawn(rpc::send_replies(sender, node, reply_to, Arc::clone(self.mailboxes)));
            }
            (Route::Write(writing), LinkEndpoint::Receiver(receiver)) => {
                links.spawn(senders::serve(receiver, writing, self.link, connection));
            }
            (Route::Read(reading), LinkEndpoint::Sender(sender)) => {
                links.spawn(receivers::serve(sender, reading, connection));
            }
            // The library makes the endpoint from the role that the route was made from.
            (route, _) => return Err(format!("{route:?} has the other role")),
        }
        Ok(())
    }
}

/// Where a receiver of replies wants them sent.
fn reply_address(attach: &Attach) -> String {
    match attach.target.as_deref() {
        Some(TargetArchetype::Target(target)) => target.address.clone().unwrap_or_default(),
        _ => String::new(),
    }
}

/// SASL: anything is let in, but where keys are set a `PLAIN` sign-in has to know one, and
/// then needs no token.
#[derive(Debug, Clone)]
struct SignIn {
    connection: Arc<Connection>,
}

impl SignIn {
    fn outcome(&self, init: &SaslInit) -> SaslCode {
        let policies = &self.connection.shared.policies;
        if init.mechanism.as_str() != "PLAIN" || policies.are_open() {
            return SaslCode::Ok;
        }
        let response = init.initial_response.as_deref().map(|bytes| String::from_utf8_lossy(bytes).into_owned());
        let mut parts = response.as_deref().unwrap_or_default().split('\0').skip(1);
        match (parts.next(), parts.next()) {
            (Some(name), Some(key)) if policies.knows_key(name, key) => {
                self.connection.grants.add("", i64::MAX);
                SaslCode::Ok
            }
            _ => SaslCode::Auth,
        }
    }
}

impl SaslAcceptor for SignIn {
    fn mechanisms(&self) -> Array<Symbol> {
        Array::from(["MSSBCBS", "PLAIN", "ANONYMOUS", "EXTERNAL"].map(Symbol::from).to_vec())
    }

    fn on_init(&mut self, init: SaslInit) -> SaslServerFrame {
        SaslServerFrame::Outcome(SaslOutcome { code: self.outcome(&init), additional_data: None })
    }

    fn on_response(&mut self, _response: SaslResponse) -> SaslServerFrame {
        SaslServerFrame::Outcome(SaslOutcome { code: SaslCode::Sys, additional_data: None })
    }
}
