//! What the AMQP library between us and the socket can't do, done on its frames.
//!
//! In what a client sends:
//! - frames behind a `Begin` are held until ours has gone out: pyamqp doesn't wait for it
//! - a message that outgrows the limit loses the rest of its payload, so that no client can
//!   fill the memory; [`Wire::was_oversized`] tells the link
//!
//! In what goes out:
//! - performatives are padded with nulls to their full number of fields: pyamqp finds them by
//!   position
//! - a message that was encoded before travels as the body of another; the three bytes
//!   around it are taken away
//! - the Rust client fails its session when a `Detach` for `$cbs` reaches it after its own
//!   `End`, so it gets none
//! - transfers are gathered, where the library would flush each; other frames go at once
//!
//! [`Wire`] is also how a connection is cut: from then on every read and write fails.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, BufMut, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::options::MAX_MESSAGE_BYTES;

/// What the broker says in its `Open`. Larger frames save headers, smaller ones let links
/// share the connection more evenly.
pub(super) const MAX_FRAME_BYTES: u32 = 256 * 1024;

const HEADER_BYTES: usize = 8;
const READ_BYTES: usize = 64 * 1024;
/// As much is gathered before it is written: enough that a system call costs nothing per
/// event, little enough that the client works meanwhile.
const GATHER_BYTES: usize = 64 * 1024;
/// Past this, writers wait for the socket.
const BACKLOG_BYTES: usize = 256 * 1024;

const OPEN: u8 = 0x10;
const BEGIN: u8 = 0x11;
const ATTACH: u8 = 0x12;
const TRANSFER: u8 = 0x14;
const DETACH: u8 = 0x16;
const END: u8 = 0x17;

/// How many fields a performative has.
fn field_count(code: u8) -> usize {
    match code {
        OPEN => 10,
        BEGIN => 8,
        ATTACH => 14,
        // flow, transfer
        0x13 | TRANSFER => 11,
        // disposition
        0x15 => 6,
        DETACH => 3,
        // end, close
        _ => 1,
    }
}

/// What the shim and the tasks of its connection share.
#[derive(Debug)]
pub(super) struct Wire {
    pub(super) cut: CancellationToken,
    /// Links (channel and handle of the client) on which a message outgrew the limit.
    oversized: Mutex<HashSet<(u16, u32)>>,
    any_oversized: AtomicBool,
}

impl Wire {
    pub(super) fn new(cut: CancellationToken) -> Self {
        Self { cut, oversized: Mutex::default(), any_oversized: AtomicBool::new(false) }
    }

    /// Whether a message on this link was cut short.
    pub(super) fn was_oversized(&self, channel: u16, handle: u32) -> bool {
        self.any_oversized.load(Ordering::Acquire)
            && self.oversized.lock().unwrap_or_else(PoisonError::into_inner).contains(&(channel, handle))
    }

    fn note_oversized(&self, link: (u16, u32)) {
        self.oversized.lock().unwrap_or_else(PoisonError::into_inner).insert(link);
        self.any_oversized.store(true, Ordering::Release);
    }
}

pub(super) struct Shim<S: AsyncWrite + Unpin> {
    stream: S,
    wire: Arc<Wire>,
    read_cut: Pin<Box<WaitForCancellationFutureOwned>>,
    write_cut: Pin<Box<WaitForCancellationFutureOwned>>,
    scratch: Box<[u8]>,
    incoming: Incoming,
    outgoing: Outgoing,
    /// Wakes the reader when frames are no longer held.
    held_reader: Option<Waker>,
}

impl<S: AsyncWrite + Unpin> fmt::Debug for Shim<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shim").finish_non_exhaustive()
    }
}

fn severed() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, "the emulator cut the connection")
}

fn malformed(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

impl<S: AsyncRead + AsyncWrite + Unpin> Shim<S> {
    pub(super) fn new(stream: S, wire: Arc<Wire>) -> Self {
        Self {
            stream,
            read_cut: Box::pin(wire.cut.clone().cancelled_owned()),
            write_cut: Box::pin(wire.cut.clone().cancelled_owned()),
            wire,
            scratch: vec![0; READ_BYTES].into_boxed_slice(),
            incoming: Incoming::default(),
            outgoing: Outgoing::default(),
            held_reader: None,
        }
    }
}

impl<S: AsyncWrite + Unpin> Shim<S> {
    /// Hands the socket what it takes; ready when nothing is left.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.outgoing.ready.has_remaining() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.outgoing.ready))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.outgoing.ready.advance(written);
        }
        self.outgoing.urgent = false;
        Pin::new(&mut self.stream).poll_flush(cx)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Shim<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.read_cut.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(severed()));
        }
        // Gathered transfers go out when the connection has come round without adding to them.
        if this.outgoing.ready.has_remaining() {
            if std::mem::take(&mut this.outgoing.grew) {
                cx.waker().wake_by_ref();
            } else if let Poll::Ready(Err(error)) = this.poll_drain(cx) {
                return Poll::Ready(Err(error));
            }
        }
        loop {
            this.incoming.advance(&this.wire)?;
            if this.incoming.ready.has_remaining() {
                let count = this.incoming.ready.len().min(buf.remaining());
                buf.put_slice(&this.incoming.ready[..count]);
                this.incoming.ready.advance(count);
                return Poll::Ready(Ok(()));
            }
            if this.incoming.held {
                this.held_reader = Some(cx.waker().clone());
                return Poll::Pending;
            }
            let mut scratch = ReadBuf::new(&mut this.scratch);
            ready!(Pin::new(&mut this.stream).poll_read(cx, &mut scratch))?;
            if scratch.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            this.incoming.raw.extend_from_slice(scratch.filled());
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Shim<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if this.write_cut.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(severed()));
        }
        if this.outgoing.ready.len() >= GATHER_BYTES {
            let drained = this.poll_drain(cx)?;
            if drained.is_pending() && this.outgoing.ready.len() >= BACKLOG_BYTES {
                return Poll::Pending;
            }
        }
        this.outgoing.take(bytes, this.incoming.is_rust_client)?;
        if std::mem::take(&mut this.outgoing.begun) {
            this.incoming.held = false;
            if let Some(reader) = this.held_reader.take() {
                reader.wake();
            }
        }
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.write_cut.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(severed()));
        }
        if this.outgoing.urgent { this.poll_drain(cx) } else { Poll::Ready(Ok(())) }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.write_cut.as_mut().poll(cx).is_pending() {
            ready!(this.poll_drain(cx))?;
        }
        Pin::new(&mut this.stream).poll_shutdown(cx)
    }
}

impl<S: AsyncWrite + Unpin> Drop for Shim<S> {
    /// The library drops a closed connection without a flush; what the socket takes at once
    /// still goes.
    fn drop(&mut self) {
        if !self.wire.cut.is_cancelled() {
            let _ = self.poll_drain(&mut Context::from_waker(Waker::noop()));
        }
    }
}

/// A frame's performative, as far as it is looked at.
struct Performative<'a> {
    code: u8,
    descriptor: &'a [u8],
    count: usize,
    fields: &'a [u8],
    payload: &'a [u8],
}

impl<'a> Performative<'a> {
    /// Of the body of an AMQP frame; nothing where it is empty or isn't one.
    fn parse(body: &'a [u8]) -> Option<Self> {
        let (code, descriptor_bytes) = match body {
            [0, 0x53, code, ..] => (*code, 3),
            [0, 0x80, 0, 0, 0, 0, 0, 0, 0, code, ..] => (*code, 10),
            _ => return None,
        };
        let (descriptor, list) = body.split_at(descriptor_bytes);
        let (count, fields, payload) = match *list {
            [0x45, ref rest @ ..] => (0, &rest[..0], rest),
            [0xc0, size, count, ref rest @ ..] => {
                let (fields, payload) = rest.split_at_checked(usize::from(size).checked_sub(1)?)?;
                (usize::from(count), fields, payload)
            }
            [0xd0, s0, s1, s2, s3, c0, c1, c2, c3, ref rest @ ..] => {
                let size = u32::from_be_bytes([s0, s1, s2, s3]) as usize;
                let (fields, payload) = rest.split_at_checked(size.checked_sub(4)?)?;
                (u32::from_be_bytes([c0, c1, c2, c3]) as usize, fields, payload)
            }
            _ => return None,
        };
        Some(Self { code, descriptor, count, fields, payload })
    }

    /// The encoded field at an index; nothing past the end.
    fn field(&self, index: usize) -> Option<&'a [u8]> {
        if index >= self.count {
            return None;
        }
        let mut rest = self.fields;
        for _ in 0..index {
            rest = rest.get(value_bytes(rest)?..)?;
        }
        rest.get(..value_bytes(rest)?)
    }
}

/// How long an encoded value is, as its format code tells (AMQP 1.0, part 1.2). Described
/// values, which no field that is looked at lies behind, aren't measured.
fn value_bytes(value: &[u8]) -> Option<usize> {
    let code = *value.first()?;
    let sized = |width: usize| -> Option<usize> {
        let size = value.get(1..=width)?.iter().fold(0, |size, byte| size << 8 | usize::from(*byte));
        Some(1 + width + size)
    };
    match code >> 4 {
        0x4 => Some(1),
        0x5 => Some(2),
        0x6 => Some(3),
        0x7 => Some(5),
        0x8 => Some(9),
        0x9 => Some(17),
        0xa | 0xc | 0xe => sized(1),
        0xb | 0xd | 0xf => sized(4),
        _ => None,
    }
}

/// An encoded `uint`.
fn uint(value: &[u8]) -> Option<u32> {
    match *value {
        [0x43] => Some(0),
        [0x52, small] => Some(u32::from(small)),
        [0x70, a, b, c, d] => Some(u32::from_be_bytes([a, b, c, d])),
        _ => None,
    }
}

/// The length of what stands first in `bytes`: a protocol header or a frame; nothing while
/// it isn't whole.
fn unit_bytes(bytes: &[u8]) -> io::Result<Option<usize>> {
    let Some(&[a, b, c, d, doff, ..]) = bytes.first_chunk::<HEADER_BYTES>() else { return Ok(None) };
    if [a, b, c, d] == *b"AMQP" {
        return Ok(Some(HEADER_BYTES));
    }
    let size = u32::from_be_bytes([a, b, c, d]) as usize;
    // Nobody uses an extended header, and the library doesn't take one.
    if size < HEADER_BYTES || size > MAX_FRAME_BYTES as usize || doff != 2 {
        return Err(malformed("not an AMQP frame"));
    }
    Ok((bytes.len() >= size).then_some(size))
}

/// Channel and body of an AMQP frame; nothing for protocol headers and SASL.
fn amqp_frame(unit: &[u8]) -> Option<(u16, &[u8])> {
    match *unit {
        [_, _, _, _, 2, 0, high, low, ref body @ ..] => Some((u16::from_be_bytes([high, low]), body)),
        _ => None,
    }
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

/// From the client.
#[derive(Default)]
struct Incoming {
    raw: BytesMut,
    ready: BytesMut,
    /// There is a `Begin` of the client that we haven't answered.
    held: bool,
    is_rust_client: bool,
    /// Bytes of messages that aren't whole, by channel and handle.
    partial: HashMap<(u16, u32), u64>,
}

impl Incoming {
    /// Makes whole frames ready, up to one that has to wait.
    fn advance(&mut self, wire: &Wire) -> io::Result<()> {
        while !self.held
            && let Some(length) = unit_bytes(&self.raw)?
        {
            let mut unit = self.raw.split_to(length);
            if let Some(kept) = self.inspect(&unit, wire) {
                unit.truncate(kept);
                unit[..4].copy_from_slice(&(kept as u32).to_be_bytes());
            }
            self.ready.unsplit(unit);
        }
        Ok(())
    }

    /// Notes what a frame tells; says how much of it to keep where not all.
    fn inspect(&mut self, unit: &[u8], wire: &Wire) -> Option<usize> {
        let (channel, body) = amqp_frame(unit)?;
        let performative = Performative::parse(body)?;
        match performative.code {
            OPEN => self.is_rust_client = contains(body, b"azure_messaging_eventhubs"),
            BEGIN => self.held = true,
            TRANSFER => {
                let link = (channel, uint(performative.field(0)?)?);
                let more = matches!(performative.field(5), Some([0x41] | [0x56, 1]));
                let bytes = self.partial.remove(&link).unwrap_or(0) + performative.payload.len() as u64;
                if more {
                    self.partial.insert(link, bytes);
                }
                if bytes > MAX_MESSAGE_BYTES {
                    wire.note_oversized(link);
                    return Some(unit.len() - performative.payload.len());
                }
            }
            DETACH => {
                let link = (channel, uint(performative.field(0)?)?);
                self.partial.remove(&link);
            }
            _ => {}
        }
        None
    }
}

/// To the client.
#[derive(Default)]
struct Outgoing {
    /// The start of a frame whose rest hasn't come.
    raw: BytesMut,
    ready: BytesMut,
    /// Something in `ready` isn't a transfer.
    urgent: bool,
    /// `ready` has grown since the reader looked.
    grew: bool,
    /// A `Begin` went out.
    begun: bool,
    cbs_channels: HashSet<u16>,
}

impl Outgoing {
    fn take(&mut self, bytes: &[u8], to_rust_client: bool) -> io::Result<()> {
        self.grew = true;
        if self.raw.is_empty() {
            let taken = self.take_units(bytes, to_rust_client)?;
            self.raw.extend_from_slice(&bytes[taken..]);
        } else {
            self.raw.extend_from_slice(bytes);
            let mut raw = std::mem::take(&mut self.raw);
            let taken = self.take_units(&raw, to_rust_client)?;
            raw.advance(taken);
            self.raw = raw;
        }
        Ok(())
    }

    fn take_units(&mut self, bytes: &[u8], to_rust_client: bool) -> io::Result<usize> {
        let mut taken = 0;
        while let Some(length) = unit_bytes(&bytes[taken..])? {
            self.put(&bytes[taken..taken + length], to_rust_client);
            taken += length;
        }
        Ok(taken)
    }

    fn put(&mut self, unit: &[u8], to_rust_client: bool) {
        let frame = amqp_frame(unit).and_then(|(channel, body)| Some((channel, body, Performative::parse(body)?)));
        let Some((channel, body, performative)) = frame else {
            self.ready.extend_from_slice(unit);
            self.urgent = true;
            return;
        };
        match performative.code {
            BEGIN => self.begun = true,
            ATTACH if contains(body, b"$cbs") => {
                self.cbs_channels.insert(channel);
            }
            DETACH if to_rust_client && self.cbs_channels.contains(&channel) => return,
            END => {
                self.cbs_channels.remove(&channel);
            }
            _ => {}
        }
        self.urgent |= performative.code != TRANSFER;
        self.write(&unit[4..HEADER_BYTES], &performative);
    }

    /// Writes a frame, its performative padded and a pre-encoded message unwrapped.
    fn write(&mut self, head: &[u8], performative: &Performative<'_>) {
        let missing = field_count(performative.code).saturating_sub(performative.count);
        let count = performative.count + missing;
        let fields_bytes = performative.fields.len() + missing;
        let payload = unwrapped(performative);
        let short = fields_bytes < usize::from(u8::MAX);
        let list_bytes = if short { 3 } else { 9 } + fields_bytes;
        let size = HEADER_BYTES + performative.descriptor.len() + list_bytes + payload.len();
        let out = &mut self.ready;
        out.reserve(size);
        out.put_u32(size as u32);
        out.put_slice(head);
        out.put_slice(performative.descriptor);
        if short {
            out.put_slice(&[0xc0, fields_bytes as u8 + 1, count as u8]);
        } else {
            out.put_u8(0xd0);
            out.put_u32(fields_bytes as u32 + 4);
            out.put_u32(count as u32);
        }
        out.put_slice(performative.fields);
        out.put_bytes(0x40, missing);
        out.put_slice(payload);
    }
}

/// The payload of a transfer without the value section around a whole message. Only the first
/// frame of a delivery, which alone has a tag, can start one.
fn unwrapped<'a>(performative: &Performative<'a>) -> &'a [u8] {
    if let [0, 0x53, 0x77, message @ ..] = performative.payload
        && let [0, 0x53, 0x70..=0x78, ..] = message
        && performative.code == TRANSFER
        && performative.field(2).is_some_and(|tag| tag != [0x40])
    {
        return message;
    }
    performative.payload
}
