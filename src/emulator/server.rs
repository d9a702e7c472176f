//! The thread on which a broker runs.
//!
//! It has one of its own, for two reasons. The AMQP library looks for credit and only then
//! starts to listen for it: with a second thread in between, a link that has credit would wait
//! for ever. And what the program does beside it (in tests and in the demo, whole pipelines)
//! must not hold it up.

use std::net::{SocketAddr, TcpListener as StdListener};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::runtime;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::access::Policies;
use super::connection::{self, Served};
use super::error::BrokerError;
use super::faults::FaultBook;
use super::hub::{Hubs, Store};
use super::options::BrokerOptions;
use super::socket::{PromptStream, listen};

/// How often age alone lets events go; appends look too.
const RETENTION_TICK: Duration = Duration::from_millis(500);
const TLS_HANDSHAKE: Duration = Duration::from_secs(10);
/// How long connections that were cut may take to end before their tasks are aborted.
const END_DEADLINE: Duration = Duration::from_secs(5);

/// What connections share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) namespace: String,
    pub(super) store: Arc<Store>,
    pub(super) hubs: Hubs,
    pub(super) faults: FaultBook,
    pub(super) policies: Policies,
}

/// A server that has started.
pub(super) struct Started {
    pub(super) shared: Arc<Shared>,
    pub(super) address: SocketAddr,
    /// Cancelled when the thread has ended.
    pub(super) ended: CancellationToken,
}

/// Starts a server that runs until it is stopped.
pub(super) async fn start(options: BrokerOptions, stopped: CancellationToken) -> Result<Started, BrokerError> {
    let (started, outcome) = oneshot::channel();
    let runtime = runtime::Builder::new_current_thread().enable_all().build().map_err(BrokerError::Thread)?;
    let ended = CancellationToken::new();
    let guard = ended.clone().drop_guard();
    let serve_on_it = move || {
        let _guard = guard;
        let tls = options.tls.clone().map(TlsAcceptor::from);
        match open(options) {
            Err(error) => drop(started.send(Err(error))),
            Ok((shared, listener, address)) => {
                if started.send(Ok((Arc::clone(&shared), address))).is_ok() {
                    runtime.block_on(run(listener, tls, shared, stopped));
                }
            }
        }
    };
    thread::Builder::new().name("event-hubs".to_owned()).spawn(serve_on_it).map_err(BrokerError::Thread)?;
    // The thread answers before it does anything else that could end it.
    let (shared, address) = outcome.await.expect("the thread says how its start went")?;
    Ok(Started { shared, address, ended })
}

/// Opens the hubs and the port. Reads whole journals, so it is nothing for a reactor.
fn open(options: BrokerOptions) -> Result<(Arc<Shared>, StdListener, SocketAddr), BrokerError> {
    let store = Arc::new(Store::new(options.max_bytes, options.retention, options.dir));
    let shared = Arc::new(Shared {
        namespace: options.namespace,
        hubs: Hubs::open(Arc::clone(&store), &options.hubs)?,
        store,
        faults: FaultBook::default(),
        policies: Policies::new(options.keys, options.bearer_tokens),
    });
    let listener = listen(options.port).and_then(|listener| Ok((listener.local_addr()?, listener)));
    let (address, listener) = listener.map_err(|source| BrokerError::Listen { port: options.port, source })?;
    Ok((shared, listener, address))
}

async fn run(listener: StdListener, tls: Option<TlsAcceptor>, shared: Arc<Shared>, stopped: CancellationToken) {
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return warn!(error = &error as &dyn std::error::Error, "the emulator can't use its port"),
    };
    tokio::join!(accept(listener, tls, Arc::clone(&shared), stopped.clone()), expire(shared, stopped));
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
    let ended = timeout(END_DEADLINE, async { while connections.join_next().await.is_some() {} }).await;
    if ended.is_err() {
        warn!("connections of the emulator outlived its end and were aborted");
        connections.shutdown().await;
    }
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

/// Lets retention bite.
pub(super) fn report_expiry(shared: &Shared) {
    if let Err(error) = shared.hubs.expire() {
        warn!(error = &error as &dyn std::error::Error, "the emulator can't note what has expired");
    }
}
