//! Frames that are sent to the Rust client more than once, because it can miss them.
//!
//! - It hands a transfer to its session before it notes the delivery: an outcome that comes in
//!   between finds nothing, and `send` waits for ever. No delay is long enough for a client
//!   whose thread isn't running. So the outcome goes out unsettled, which the client forgets
//!   nothing about, is said again, and settled at last.
//! - It looks for credit, and only then starts to listen for it: a `Flow` in between wakes
//!   nobody. Saying it again gives no more credit, since credit is counted from the first
//!   delivery of the link.
//!
//! What belongs to a link or a session that has ended is never sent: the client would take it
//! for an error of ours.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::task::Context;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::time::{Instant, Sleep, sleep_until};

use super::frames::{DISPOSITION, FLOW, HEADER_BYTES, Performative, uint};

/// When a frame is sent again, after it was sent last.
const PAUSES: [Duration; 5] = [
    Duration::from_millis(10),
    Duration::from_millis(40),
    Duration::from_millis(160),
    Duration::from_millis(640),
    Duration::from_millis(2560),
];
/// More than a client has under way on all its links. Past it nothing is remembered.
const REMEMBERED: usize = 4096;

const TRUE: u8 = 0x41;
const FALSE: u8 = 0x42;

struct Repeat {
    channel: u16,
    /// Of our end of the link, for a `Flow`.
    handle: Option<u32>,
    frame: Bytes,
    /// Which pause comes next.
    next_pause: usize,
    /// What is sent after the last pause, instead.
    last: Bytes,
}

#[derive(Default)]
pub(super) struct Repeats {
    /// By the time at which they are due; the number tells apart what is due at once.
    waiting: BTreeMap<(Instant, u64), Repeat>,
    count: u64,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Repeats {
    /// Remembers a frame of ours (padded, as it is sent) that may be missed; says what to send
    /// instead of it now.
    pub(super) fn note(&mut self, channel: u16, frame: &[u8]) -> Option<Bytes> {
        let performative = Performative::parse(frame.get(HEADER_BYTES..)?)?;
        if self.waiting.len() >= REMEMBERED {
            return None;
        }
        let whole = Bytes::copy_from_slice(frame);
        match performative.code {
            FLOW => {
                let handle = uint(performative.field(4)?)?;
                // Only the newest counts.
                self.forget_link(channel, handle);
                self.wait(Repeat { channel, handle: Some(handle), frame: whole.clone(), next_pause: 0, last: whole });
                None
            }
            // Of a receiver, and settled.
            DISPOSITION if performative.field(0)? == [TRUE] && performative.field(3)? == [TRUE] => {
                let settled_at = frame.len() - performative.payload.len() - performative.fields_after(3) - 1;
                let mut unsettled = BytesMut::from(frame);
                unsettled[settled_at] = FALSE;
                let unsettled = unsettled.freeze();
                self.wait(Repeat { channel, handle: None, frame: unsettled.clone(), next_pause: 0, last: whole });
                Some(unsettled)
            }
            _ => None,
        }
    }

    fn wait(&mut self, repeat: Repeat) {
        self.count += 1;
        self.waiting.insert((Instant::now() + PAUSES[repeat.next_pause], self.count), repeat);
    }

    pub(super) fn forget_channel(&mut self, channel: u16) {
        self.waiting.retain(|_, repeat| repeat.channel != channel);
    }

    pub(super) fn forget_link(&mut self, channel: u16, handle: u32) {
        self.waiting.retain(|_, repeat| repeat.channel != channel || repeat.handle != Some(handle));
    }

    /// The frames that are due. Wakes the task when the next one is.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Vec<Bytes> {
        let mut due = Vec::new();
        while let Some(entry) = self.waiting.first_entry() {
            let (at, _) = *entry.key();
            let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(at)));
            if timer.deadline() != at {
                timer.as_mut().reset(at);
            }
            if timer.as_mut().poll(cx).is_pending() {
                break;
            }
            let mut repeat = entry.remove();
            repeat.next_pause += 1;
            if repeat.next_pause < PAUSES.len() {
                due.push(repeat.frame.clone());
                self.wait(repeat);
            } else {
                due.push(repeat.last);
            }
        }
        due
    }
}
