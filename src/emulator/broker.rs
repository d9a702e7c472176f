//! The handle by which a broker is started, fed, watched and disturbed.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{debug, warn};

use super::access::Policies;
use super::connection::{self, Served};
use super::error::BrokerError;
use super::faults::{Fault, FaultBook};
use super::hub::{Hubs, Partition, Store};
use super::messages;
use super::options::{BrokerOptions, HubSpec, Retention};
use super::socket::{PromptStream, listen};

/// How often age alone lets events go; appends look too.
const RETENTION_TICK: Duration = Duration::from_millis(500);
const TLS_HANDSHAKE: Duration = Duration::from_secs(10);
/// How long `stop` waits for connections that were cut before it aborts their tasks.
const STOP_DEADLINE: Duration = Duration::from_secs(5);

/// An event to be appended in process.
#[derive(Debug, Clone, Default)]
pub struct StoredMessageInput {
    pub body: Bytes,
    pub content_type: Option<String>,
    pub properties: Vec<(String, String)>,
    /// Stored with the event; the partition is the one that was named.
    pub partition_key: Option<String>,
}

/// Where a partition stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionInfo {
    pub hub: String,
    pub partition: String,
    /// The first event kept; the next number where none is.
    pub begin_sequence_number: i64,
    /// -1 before the first event.
    pub last_sequence_number: i64,
    /// -1 before the first event.
    pub last_offset: i64,
    /// Epoch milliseconds; 0 before the first event.
    pub last_enqueued_at: i64,
    /// Events kept.
    pub events: u64,
    /// What they take in memory.
    pub bytes: u64,
    /// Links that read it now.
    pub receivers: usize,
}

/// What connections share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) namespace: String,
    pub(super) hubs: Hubs,
    pub(super) faults: FaultBook,
    pub(super) policies: Policies,
}

#[derive(Debug)]
struct Running {
    address: SocketAddr,
    shared: Arc<Shared>,
    store: Arc<Store>,
    stopped: CancellationToken,
    tasks: Mutex<JoinSet<()>>,
    /// Ends everything when the last handle is dropped.
    _guard: DropGuard,
}

/// A running broker. Clones are handles of the same; it ends with [`Broker::stop`] or with
/// the last handle.
#[derive(Debug, Clone)]
pub struct Broker {
    running: Arc<Running>,
}

impl Broker {
    /// Opens the hubs and listens on loopback.
    ///
    /// # Errors
    /// A hub that can't be, a port that is taken, a folder that can't be read.
    pub async fn start(options: BrokerOptions) -> Result<Self, BrokerError> {
        for spec in &options.hubs {
            spec.check()?;
        }
        let store = Arc::new(Store::new(options.max_bytes, options.retention, options.dir));
        let shared = Arc::new(Shared {
            namespace: options.namespace,
            hubs: Hubs::open(Arc::clone(&store), &options.hubs)?,
            faults: FaultBook::default(),
            policies: Policies::new(options.keys, options.bearer_tokens),
        });
        let listen_failed = |source| BrokerError::Listen { port: options.port, source };
        let listener = listen(options.port).await.map_err(listen_failed)?;
        let address = listener.local_addr().map_err(listen_failed)?;
        let stopped = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let tls = options.tls.map(TlsAcceptor::from);
        tasks.spawn(accept(listener, tls, Arc::clone(&shared), stopped.clone()));
        tasks.spawn(expire(Arc::clone(&shared), stopped.clone()));
        let guard = stopped.clone().drop_guard();
        let tasks = Mutex::new(tasks);
        Ok(Self { running: Arc::new(Running { address, shared, store, stopped, tasks, _guard: guard }) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.running.address
    }

    fn all_hubs(&self) -> &Hubs {
        &self.running.shared.hubs
    }

    pub fn hubs(&self) -> Vec<HubSpec> {
        self.all_hubs().all().iter().map(|hub| hub.spec.clone()).collect()
    }

    /// # Errors
    /// A hub of that name, or one that can't be.
    pub fn create_hub(&self, spec: HubSpec) -> Result<(), BrokerError> {
        self.all_hubs().create(spec)
    }

    /// As if the hub were deleted and created: a new creation time, numbers from 0, links
    /// detached.
    ///
    /// # Errors
    /// No such hub.
    pub fn remake_hub(&self, name: &str) -> Result<(), BrokerError> {
        self.all_hubs().remake(name)
    }

    /// Appends events without a client; says their numbers.
    ///
    /// # Errors
    /// No such partition, an event that is too large, or no memory left.
    pub fn append(
        &self,
        hub: &str,
        partition: &str,
        messages: Vec<StoredMessageInput>,
    ) -> Result<Vec<i64>, BrokerError> {
        let partition = self.all_hubs().partition(hub, partition)?;
        let mut numbers = Vec::with_capacity(messages.len());
        let mut messages = messages.into_iter().peekable();
        while let Some(first) = messages.next() {
            let key = first.partition_key.clone();
            let mut batch = vec![messages::message_of(first)];
            while let Some(next) = messages.next_if(|next| next.partition_key == key) {
                batch.push(messages::message_of(next));
            }
            numbers.extend(partition.append(batch, key.as_deref())?);
        }
        Ok(numbers)
    }

    /// # Errors
    /// No such partition.
    pub fn partition(&self, hub: &str, partition: &str) -> Result<PartitionInfo, BrokerError> {
        Ok(self.all_hubs().partition(hub, partition)?.info())
    }

    /// Lets retention take what lies before a number, now.
    ///
    /// # Errors
    /// No such partition.
    pub fn expire_before(&self, hub: &str, partition: &str, sequence_number: i64) -> Result<(), BrokerError> {
        self.all_hubs().partition(hub, partition)?.expire_before(sequence_number)
    }

    /// Retention from now on; what it no longer keeps goes at once.
    pub fn set_retention(&self, retention: Retention) {
        self.running.store.set_retention(retention);
        report_expiry(&self.running.shared);
    }

    pub fn inject(&self, fault: Fault) {
        self.running.shared.faults.inject(fault);
        for hub in self.all_hubs().all() {
            hub.partitions.iter().for_each(|partition| Partition::wake(partition));
        }
    }

    pub fn clear_faults(&self) {
        self.running.shared.faults.clear();
    }

    /// Those that are not used up.
    pub fn faults(&self) -> Vec<Fault> {
        self.running.shared.faults.list()
    }

    /// Cuts every connection and frees the port.
    pub async fn stop(&self) {
        self.running.stopped.cancel();
        let mut tasks = std::mem::take(&mut *self.running.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        let ended = timeout(STOP_DEADLINE, async { while tasks.join_next().await.is_some() {} }).await;
        if ended.is_err() {
            warn!("connections of the emulator outlived its end and were aborted");
            tasks.shutdown().await;
        }
    }
}

async fn accept(listener: TcpListener, tls: Option<TlsAcceptor>, shared: Arc<Shared>, stopped: CancellationToken) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = stopped.cancelled() => break,
            Some(ended) = connections.join_next(), if !connections.is_empty() => {
                if let Err(error) = ended {
                    warn!(error = &error as &dyn std::error::Error, "a connection of the emulator panicked");
                }
            }
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    debug!(%peer, "connection to the emulator");
                    let served = Served { shared: Arc::clone(&shared), cut: stopped.child_token() };
                    connections.spawn(serve(stream, tls.clone(), served));
                }
                Err(error) => {
                    // Too many open files, most likely: it passes, but not by asking at once.
                    warn!(error = &error as &dyn std::error::Error, "the emulator can't accept a connection");
                    sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

async fn serve(stream: TcpStream, tls: Option<TlsAcceptor>, served: Served) {
    let stream = PromptStream::new(stream);
    match tls {
        None => connection::serve(stream, served).await,
        Some(tls) => match timeout(TLS_HANDSHAKE, tls.accept(stream)).await {
            Ok(Ok(stream)) => connection::serve(stream, served).await,
            Ok(Err(error)) => debug!(error = &error as &dyn std::error::Error, "no TLS with a client of the emulator"),
            Err(_) => debug!("a client of the emulator didn't finish its TLS handshake"),
        },
    }
}

async fn expire(shared: Arc<Shared>, stopped: CancellationToken) {
    let mut tick = interval(RETENTION_TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stopped.cancelled() => break,
            _ = tick.tick() => report_expiry(&shared),
        }
    }
}

fn report_expiry(shared: &Shared) {
    if let Err(error) = shared.hubs.expire() {
        warn!(error = &error as &dyn std::error::Error, "the emulator can't note what has expired");
    }
}
