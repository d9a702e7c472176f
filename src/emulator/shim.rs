//! What the AMQP library between us and the socket can't do, done on its frames.
//!
//! In what a client sends:
//! - frames behind a `Begin` are held until ours has gone out: pyamqp doesn't wait for it
//! - a message that outgrows the limit loses the rest of its payload and can't be decoded, so
//!   that no client can fill the memory; [`Wire::was_oversized`] tells why
//!
//! In what goes out:
//! - performatives are padded with nulls to their full number of fields: pyamqp finds them by
//!   position
//! - a message that was encoded before travels as the body of another; the three bytes
//!   around it are taken away
//! - the Rust client fails its session when a `Detach` for `$cbs` reaches it after its own
//!   `End`, so it gets none
//! - what the Rust client may miss is said again (see [`Repeats`])
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

use super::frames::{
    ATTACH, BEGIN, DETACH, DISPOSITION, END, FLOW, HEADER_BYTES, OPEN, Performative, TRANSFER, amqp_frame, contains,
    field_count, uint, unit_bytes,
};
use super::options::MAX_MESSAGE_BYTES;
use super::repeats::Repeats;

const READ_BYTES: usize = 64 * 1024;
/// As much is gathered before it is written: enough that a system call costs nothing per
/// event, little enough that the client works meanwhile.
const GATHER_BYTES: usize = 64 * 1024;
/// Past this, writers wait for the socket.
const BACKLOG_BYTES: usize = 256 * 1024;

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
        this.outgoing.repeat(cx);
        if this.outgoing.urgent
            && let Poll::Ready(Err(error)) = this.poll_drain(cx)
        {
            return Poll::Ready(Err(error));
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
            this.outgoing.forget_ended(&mut this.incoming.ended);
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

/// From the client.
#[derive(Default)]
struct Incoming {
    raw: BytesMut,
    ready: BytesMut,
    /// There is a `Begin` of the client that we haven't answered.
    held: bool,
    is_rust_client: bool,
    /// Channels on which the client has ended its session, until that was noted.
    ended: Vec<u16>,
    /// Bytes of messages that aren't whole, by channel and handle of their link.
    partial: HashMap<(u16, u32), u64>,
}

impl Incoming {
    /// Makes whole frames ready, up to one that has to wait.
    fn advance(&mut self, wire: &Wire) -> io::Result<()> {
        while !self.held
            && let Some(length) = unit_bytes(&self.raw)?
        {
            let mut unit = self.raw.split_to(length);
            match self.inspect(&unit, wire) {
                Verdict::Pass => self.ready.unsplit(unit),
                Verdict::Swallow => {}
                Verdict::EndHere { kept_bytes, more_at } => {
                    unit.truncate(kept_bytes);
                    // No section starts so: whatever came before, the message can't be decoded.
                    unit.put_u8(0xff);
                    unit[..4].copy_from_slice(&(kept_bytes as u32 + 1).to_be_bytes());
                    if let Some(more_at) = more_at {
                        unit[more_at] = if unit[more_at] == 0x41 { 0x42 } else { 0 };
                    }
                    self.ready.unsplit(unit);
                }
            }
        }
        Ok(())
    }

    fn inspect(&mut self, unit: &[u8], wire: &Wire) -> Verdict {
        let frame = amqp_frame(unit).and_then(|(channel, body)| Some((channel, Performative::parse(body)?)));
        let Some((channel, performative)) = frame else { return Verdict::Pass };
        let link = || Some((channel, uint(performative.field(0)?)?));
        match performative.code {
            OPEN => self.is_rust_client = contains(performative.fields, b"azure_messaging_eventhubs"),
            BEGIN => self.held = true,
            TRANSFER => {
                if let Some(link) = link() {
                    return self.inspect_transfer(link, &performative, unit.len(), wire);
                }
            }
            DETACH => {
                if let Some(link) = link() {
                    self.partial.remove(&link);
                }
            }
            END => self.ended.push(channel),
            _ => {}
        }
        Verdict::Pass
    }

    /// A message that outgrows the limit ends where it does, and what follows of it is
    /// swallowed: so its outcome finds the client, which gives the rest of a message that its
    /// link splits another delivery id.
    fn inspect_transfer(
        &mut self,
        link: (u16, u32),
        transfer: &Performative<'_>,
        unit_bytes: usize,
        wire: &Wire,
    ) -> Verdict {
        let more = matches!(transfer.field(5), Some([0x41] | [0x56, 1]));
        let payload_bytes = transfer.payload.len();
        let before = self.partial.remove(&link).unwrap_or(0);
        let bytes = before + payload_bytes as u64;
        if more {
            self.partial.insert(link, bytes);
        }
        // With more to come, a full message is too large already.
        let is_too_large = |bytes, more| bytes > MAX_MESSAGE_BYTES || (more && bytes == MAX_MESSAGE_BYTES);
        if is_too_large(before, true) {
            Verdict::Swallow
        } else if is_too_large(bytes, more) {
            wire.note_oversized(link);
            let kept_bytes = unit_bytes - payload_bytes;
            let after_more = transfer.fields_after(5);
            Verdict::EndHere { kept_bytes, more_at: more.then(|| kept_bytes - after_more - 1) }
        } else {
            Verdict::Pass
        }
    }
}

/// What becomes of a frame of the client.
enum Verdict {
    Pass,
    Swallow,
    /// The message ends with this frame, without its payload; where `more` stands, if it is
    /// set.
    EndHere {
        kept_bytes: usize,
        more_at: Option<usize>,
    },
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
    /// Our channel for each of the client's.
    channels: HashMap<u16, u16>,
    /// Our links, by channel and handle, on which we receive.
    receiving: HashSet<(u16, u32)>,
    repeats: Repeats,
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
        let link = |index| Some((channel, uint(performative.field(index)?)?));
        match performative.code {
            BEGIN => {
                self.begun = true;
                self.forget_channel(channel);
                if let Some([0x60, high, low]) = performative.field(0) {
                    self.channels.insert(u16::from_be_bytes([*high, *low]), channel);
                }
            }
            ATTACH => {
                if contains(body, b"$cbs") {
                    self.cbs_channels.insert(channel);
                }
                if let (Some(link), Some([0x41])) = (link(1), performative.field(2)) {
                    self.receiving.insert(link);
                }
            }
            DETACH => {
                if let Some((channel, handle)) = link(0) {
                    self.receiving.remove(&(channel, handle));
                    self.repeats.forget_link(channel, handle);
                }
                if to_rust_client && self.cbs_channels.contains(&channel) {
                    return;
                }
            }
            END => self.forget_channel(channel),
            _ => {}
        }
        self.urgent |= performative.code != TRANSFER;
        let start = self.ready.len();
        self.write(&unit[4..HEADER_BYTES], &performative);
        let may_be_missed = match performative.code {
            DISPOSITION => true,
            FLOW => link(4).is_some_and(|link| self.receiving.contains(&link)),
            _ => false,
        };
        if to_rust_client
            && may_be_missed
            && let Some(instead) = self.repeats.note(channel, &self.ready[start..])
        {
            self.ready.truncate(start);
            self.ready.put_slice(&instead);
        }
    }

    /// Sends again what is due.
    fn repeat(&mut self, cx: &mut Context<'_>) {
        for frame in self.repeats.poll(cx) {
            self.ready.put_slice(&frame);
            self.urgent = true;
        }
    }

    /// Nothing of a session is sent once it has ended on either side.
    fn forget_channel(&mut self, channel: u16) {
        self.repeats.forget_channel(channel);
        self.cbs_channels.remove(&channel);
        self.receiving.retain(|(of, _)| *of != channel);
    }

    /// The client has ended sessions; ours, which are still to end, keep their `$cbs`.
    fn forget_ended(&mut self, ended: &mut Vec<u16>) {
        for channel in ended.drain(..).filter_map(|channel| self.channels.remove(&channel)) {
            self.repeats.forget_channel(channel);
        }
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use tokio::time::timeout;

    use super::*;

    /// An AMQP frame with a performative of these fields, in a list of the short form.
    fn frame(channel: u16, code: u8, fields: &[&[u8]], payload: &[u8]) -> Vec<u8> {
        let content = fields.concat();
        let mut frame = vec![0, 0, 0, 0, 2, 0];
        frame.extend(channel.to_be_bytes());
        frame.extend([0, 0x53, code, 0xc0, content.len() as u8 + 1, fields.len() as u8]);
        frame.extend(content);
        frame.extend(payload);
        let size = frame.len() as u32;
        frame[..4].copy_from_slice(&size.to_be_bytes());
        frame
    }

    fn shim() -> (Shim<DuplexStream>, DuplexStream, Arc<Wire>) {
        let (ours, theirs) = duplex(4 << 20);
        let wire = Arc::new(Wire::new(CancellationToken::new()));
        (Shim::new(ours, Arc::clone(&wire)), theirs, wire)
    }

    /// What reaches the client of some frames, after `Open`s of the given clients.
    async fn sent(client: &[u8], frames: &[Vec<u8>]) -> Vec<u8> {
        let (mut shim, mut theirs, _) = shim();
        let name: Vec<u8> = [&[0xa1, client.len() as u8], client].concat();
        let open = frame(0, OPEN, &[&name], &[]);
        theirs.write_all(&open).await.expect("written");
        shim.read_exact(&mut vec![0; open.len()]).await.expect("read");
        for frame in frames {
            shim.write_all(frame).await.expect("written");
        }
        shim.shutdown().await.expect("shut down");
        let mut received = Vec::new();
        theirs.read_to_end(&mut received).await.expect("read");
        received
    }

    #[tokio::test]
    async fn performatives_are_padded_to_their_full_length() {
        let begin = frame(3, BEGIN, &[&[0x60, 0, 1], &[0x43]], &[]);
        let padded =
            frame(3, BEGIN, &[&[0x60, 0, 1], &[0x43], &[0x40], &[0x40], &[0x40], &[0x40], &[0x40], &[0x40]], &[]);
        assert_eq!(sent(b"pyamqp", std::slice::from_ref(&begin)).await, padded);
        let mut bare_end = frame(3, END, &[], &[]);
        bare_end.truncate(HEADER_BYTES + 3);
        bare_end.push(0x45);
        bare_end[3] = bare_end.len() as u8;
        assert_eq!(sent(b"pyamqp", &[bare_end]).await, frame(3, END, &[&[0x40]], &[]));
    }

    #[tokio::test]
    async fn frames_are_understood_however_they_are_cut() {
        let whole =
            [b"AMQP\0\x01\0\0".to_vec(), frame(0, END, &[&[0x40]], &[]), frame(1, END, &[&[0x40]], &[])].concat();
        for cut in 1..whole.len() {
            let pieces = [whole[..cut].to_vec(), whole[cut..].to_vec()];
            assert_eq!(sent(b"any", &pieces).await, whole, "cut at {cut}");
        }
    }

    #[tokio::test]
    async fn a_list_that_grows_out_of_its_short_form_takes_the_long_one() {
        let name = [&[0xa1, 243][..], &[b'n'; 243]].concat();
        let attach = frame(0, ATTACH, &[&name, &[0x43]], &[]);
        let received = sent(b"any", &[attach]).await;
        let (channel, body) = amqp_frame(&received).expect("a frame");
        let performative = Performative::parse(body).expect("a performative");
        assert_eq!((channel, performative.count, received[11]), (0, 14, 0xd0));
        assert_eq!((performative.field(0), performative.field(13)), (Some(&name[..]), Some(&[0x40][..])));
        assert_eq!(unit_bytes(&received).expect("a frame"), Some(received.len()));
    }

    #[tokio::test]
    async fn a_message_that_was_encoded_before_travels_without_its_wrapping() {
        let message = [0, 0x53, 0x72, 0xc1, 1, 0];
        let wrapped = [&[0, 0x53, 0x77][..], &message].concat();
        let tag: &[u8] = &[0xa0, 1, 9];
        let fields: [&[u8]; 11] =
            [&[0x43], &[0x43], tag, &[0x43], &[0x41], &[0x42], &[0x40], &[0x40], &[0x42], &[0x42], &[0x41]];
        let received = sent(b"any", &[frame(0, TRANSFER, &fields, &wrapped)]).await;
        assert_eq!(received, frame(0, TRANSFER, &fields, &message));
        // Neither what continues a message nor a plain value is touched.
        let mut continued = fields;
        continued[2] = &[0x40];
        for (fields, payload) in [(continued, &wrapped[..]), (fields, &[0, 0x53, 0x77, 0xa1, 0][..])] {
            let frame = frame(0, TRANSFER, &fields, payload);
            assert_eq!(sent(b"any", std::slice::from_ref(&frame)).await, frame);
        }
    }

    #[tokio::test]
    async fn only_the_rust_client_gets_no_detach_for_cbs() {
        let attach = frame(5, ATTACH, &[&[0xa1, 4, b'$', b'c', b'b', b's']], &[]);
        let detach = frame(5, DETACH, &[&[0x43], &[0x41], &[0x40]], &[]);
        let end = frame(5, END, &[&[0x40]], &[]);
        let frames = [attach, detach.clone(), end, detach.clone()];
        let detaches = |bytes: &[u8]| bytes.windows(detach.len()).filter(|window| *window == detach).count();
        assert_eq!(detaches(&sent(b"azure_messaging_eventhubs", &frames).await), 1);
        assert_eq!(detaches(&sent(b"pyamqp", &frames).await), 2);
    }

    #[tokio::test]
    async fn what_follows_a_begin_waits_for_ours() {
        let (mut shim, mut theirs, _) = shim();
        let (begin, attach) = (frame(0, BEGIN, &[&[0x40]], &[]), frame(0, ATTACH, &[&[0xa1, 0]], &[]));
        theirs.write_all(&[begin.clone(), attach.clone()].concat()).await.expect("written");
        let mut read = vec![0; begin.len()];
        shim.read_exact(&mut read).await.expect("read");
        assert_eq!(read, begin);
        assert!(timeout(Duration::from_millis(20), shim.read_u8()).await.is_err());
        shim.write_all(&frame(0, BEGIN, &[&[0x60, 0, 0]], &[])).await.expect("written");
        let mut read = vec![0; attach.len()];
        shim.read_exact(&mut read).await.expect("read");
        assert_eq!(read, attach);
    }

    #[tokio::test]
    async fn a_message_that_outgrows_the_limit_is_cut_short_and_told() {
        let (mut shim, mut theirs, wire) = shim();
        let payload = vec![7; 200_000];
        let part =
            |more: u8| frame(2, TRANSFER, &[&[0x52, 8], &[0x43], &[0xa0, 1, 1], &[0x43], &[0x42], &[more]], &payload);
        let whole = part(0x41).len();
        for index in 0..7 {
            theirs.write_all(&part(if index < 6 { 0x41 } else { 0x42 })).await.expect("written");
        }
        drop(theirs);
        let mut read = Vec::new();
        shim.read_to_end(&mut read).await.expect("read");
        assert_eq!(read.len(), 5 * whole + whole - payload.len() + 1);
        let (_, body) = amqp_frame(&read[5 * whole..]).expect("a frame");
        let last = Performative::parse(body).expect("a transfer");
        assert_eq!((last.field(5), last.payload), (Some(&[0x42][..]), &[0xff][..]));
        assert!(wire.was_oversized(2, 8));
        assert!(!wire.was_oversized(2, 9));
    }

    #[tokio::test]
    async fn a_cut_connection_fails_reads_and_writes() {
        let (mut shim, _theirs, wire) = shim();
        wire.cut.cancel();
        assert!(shim.read_u8().await.is_err());
        assert!(shim.write_u8(0).await.is_err());
    }

    #[tokio::test]
    async fn rubbish_is_an_error() {
        for rubbish in [&[0, 0, 0, 3, 2, 0, 0, 0][..], &[0xff; 16], &[0, 0, 0, 8, 9, 0, 0, 0]] {
            let (mut shim, mut theirs, _) = shim();
            theirs.write_all(rubbish).await.expect("written");
            assert!(shim.read_u8().await.is_err(), "{rubbish:?}");
        }
    }
}
