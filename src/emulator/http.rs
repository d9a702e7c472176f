//! One HTTP server on loopback, with or without TLS: what the registry and the control API stand on.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::serve::Listener;
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

/// A client that says nothing for longer doesn't hold a place; a slow machine needs less.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Handshakes under way at once: more than the clients of a test, few enough to bound memory.
const HANDSHAKES: usize = 256;
/// How long a stop waits for answers under way, before it cuts them off.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);
/// Between two tries of an `accept` that fails, as it does when file handles run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A running server; dropped, it ends at once.
#[derive(Debug)]
pub(crate) struct HttpServer {
    address: SocketAddr,
    scheme: &'static str,
    stop: CancellationToken,
    tasks: Mutex<JoinSet<io::Result<()>>>,
}

impl HttpServer {
    /// Listens on loopback; port 0 picks a free one.
    ///
    /// # Errors
    /// When the port is taken.
    pub(crate) async fn start(port: u16, tls: Option<Arc<ServerConfig>>, router: Router) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
        let address = listener.local_addr()?;
        let stop = CancellationToken::new();
        let stopped = stop.clone().cancelled_owned();
        let mut tasks = JoinSet::new();
        let scheme = match tls {
            None => {
                tasks.spawn(axum::serve(listener, router).with_graceful_shutdown(stopped).into_future());
                "http"
            }
            Some(config) => {
                let listener = TlsListener::new(listener, config);
                tasks.spawn(axum::serve(listener, router).with_graceful_shutdown(stopped).into_future());
                "https"
            }
        };
        Ok(Self { address, scheme, stop, tasks: Mutex::new(tasks) })
    }

    /// `http://127.0.0.1:PORT`, or `https://…`.
    pub(crate) fn url(&self) -> String {
        format!("{}://{}", self.scheme, self.address)
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    /// Ends when the answers under way are out, or cuts them off after two seconds.
    pub(crate) async fn stop(&self) {
        self.stop.cancel();
        let mut tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        match tokio::time::timeout(DRAIN_TIMEOUT, tasks.join_next()).await {
            Ok(None | Some(Ok(Ok(())))) => {}
            Ok(joined) => {
                tracing::warn!(address = %self.address, ?joined, "an HTTP server of the emulator ended badly")
            }
            Err(_) => tasks.shutdown().await,
        }
    }
}

/// Accepts TLS without letting a slow handshake hold up the others.
struct TlsListener {
    listener: TcpListener,
    acceptor: TlsAcceptor,
    handshakes: JoinSet<Option<(TlsStream<TcpStream>, SocketAddr)>>,
}

impl TlsListener {
    fn new(listener: TcpListener, config: Arc<ServerConfig>) -> Self {
        Self { listener, acceptor: TlsAcceptor::from(config), handshakes: JoinSet::new() }
    }

    fn begin(&mut self, stream: TcpStream, peer: SocketAddr) {
        let accept = self.acceptor.accept(stream);
        self.handshakes.spawn(async move {
            match tokio::time::timeout(HANDSHAKE_TIMEOUT, accept).await {
                Ok(Ok(stream)) => Some((stream, peer)),
                Ok(Err(error)) => {
                    tracing::debug!(%peer, %error, "a client gave up the TLS handshake");
                    None
                }
                Err(_) => None,
            }
        });
    }
}

impl Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    /// Cancel safe: `accept` and `join_next` both are.
    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let event = tokio::select! {
                accepted = self.listener.accept(), if self.handshakes.len() < HANDSHAKES => Event::Connected(accepted),
                Some(done) = self.handshakes.join_next() => Event::Shaken(done.ok().flatten().map(Box::new)),
            };
            match event {
                Event::Connected(Ok((stream, peer))) => self.begin(stream, peer),
                Event::Connected(Err(error)) => {
                    tracing::debug!(%error, "can't accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
                Event::Shaken(Some(ready)) => return *ready,
                Event::Shaken(None) => {}
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

enum Event {
    Connected(io::Result<(TcpStream, SocketAddr)>),
    Shaken(Option<Box<(TlsStream<TcpStream>, SocketAddr)>>),
}
