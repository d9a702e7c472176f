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

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::task::Poll;

    use super::*;

    fn frame(code: u8, fields: &[u8], count: u8) -> Vec<u8> {
        let mut frame = vec![0, 0, 0, 0, 2, 0, 0, 7, 0, 0x53, code, 0xc0, fields.len() as u8 + 1, count];
        frame.extend(fields);
        frame[3] = frame.len() as u8;
        frame
    }

    fn outcome(settled: u8) -> Vec<u8> {
        frame(DISPOSITION, &[TRUE, 0x52, 9, 0x40, settled, 0x00, 0x53, 0x24, 0x45, 0x40], 6)
    }

    fn flow(handle: u8) -> Vec<u8> {
        frame(FLOW, &[0x43, 0x43, 0x43, 0x43, 0x52, handle], 5)
    }

    async fn next(repeats: &mut Repeats) -> Vec<Bytes> {
        poll_fn(|cx| {
            let due = repeats.poll(cx);
            if due.is_empty() { Poll::Pending } else { Poll::Ready(due) }
        })
        .await
    }

    #[tokio::test]
    async fn an_outcome_is_said_unsettled_again_and_again_and_settled_at_last() {
        let mut repeats = Repeats::default();
        assert_eq!(repeats.note(7, &outcome(TRUE)).as_deref(), Some(&outcome(FALSE)[..]));
        for _ in 1..PAUSES.len() {
            assert_eq!(next(&mut repeats).await, [outcome(FALSE)]);
        }
        assert_eq!(next(&mut repeats).await, [outcome(TRUE)]);
        assert!(repeats.waiting.is_empty());
    }

    #[tokio::test]
    async fn only_the_newest_flow_of_a_link_is_said_again() {
        let mut repeats = Repeats::default();
        for handle in [1, 2, 1] {
            assert_eq!(repeats.note(7, &flow(handle)), None);
        }
        assert_eq!(repeats.waiting.len(), 2);
        repeats.forget_link(7, 2);
        assert_eq!(next(&mut repeats).await, [flow(1)]);
    }

    #[tokio::test]
    async fn nothing_is_said_of_a_session_that_has_ended() {
        let mut repeats = Repeats::default();
        repeats.note(7, &outcome(TRUE));
        repeats.note(7, &flow(1));
        repeats.note(8, &flow(1));
        repeats.forget_channel(7);
        assert_eq!(repeats.waiting.len(), 1);
    }

    #[tokio::test]
    async fn what_can_not_be_missed_is_said_once() {
        let mut repeats = Repeats::default();
        assert_eq!(repeats.note(7, &outcome(FALSE)), None);
        assert_eq!(repeats.note(7, &frame(0x16, &[0x43], 1)), None);
        assert!(repeats.waiting.is_empty());
    }
}
