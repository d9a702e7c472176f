//! The sockets of the broker, made so that the clients' habits don't slow them down.

use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// pyamqp reads the segment size of a connection and sets it again; on loopback it reads
/// more than may be set, and the connection fails. Any value below 32768 passes.
#[cfg(target_os = "linux")]
const SEGMENT_BYTES: u32 = 32_000;

/// Listens on loopback, without blocking.
pub(super) fn listen(port: u16) -> io::Result<TcpListener> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
    listener.set_nonblocking(true)?;
    #[cfg(target_os = "linux")]
    SockRef::from(&listener).set_tcp_mss(SEGMENT_BYTES)?;
    Ok(listener)
}

/// A connection that sends at once, and acknowledges at once what it gets. The Rust client
/// leaves Nagle's algorithm on: each of its small frames waits for the acknowledgement of the
/// one before, which the kernel would otherwise delay by 40 ms, several times for each link.
#[derive(Debug)]
pub(super) struct PromptStream(TcpStream);

impl PromptStream {
    pub(super) fn new(stream: TcpStream) -> Self {
        // Slower without it, but not broken.
        let _ = SockRef::from(&stream).set_tcp_nodelay(true);
        let prompt = Self(stream);
        prompt.acknowledge();
        prompt
    }

    /// The kernel forgets the wish whenever it thinks best, so it is said after every read.
    #[cfg(target_os = "linux")]
    fn acknowledge(&self) {
        let _ = SockRef::from(&self.0).set_tcp_quickack(true);
    }

    #[cfg(not(target_os = "linux"))]
    fn acknowledge(&self) {}
}

impl AsyncRead for PromptStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.0).poll_read(cx, buf))?;
        self.acknowledge();
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for PromptStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
