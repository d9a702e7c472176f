//! Event Hubs over AMQP, with the official client and none of its own recovery.
//!
//! | file | |
//! |---|---|
//! | `hub.rs` | [`EventHubsSource`]: what a hub holds, where a partition starts |
//! | `read.rs`, `link.rs` | the reader of a partition; one link of it |
//! | `tracker.rs` | what a number that comes means |
//! | `clients.rs` | who shares which connection |
//! | `access.rs`, `failure.rs`, `message.rs`, `pace.rs` | address and sign-in; errors; events; rate and credit |
//! | `sender.rs` | [`EventSender`], for the demo and for tests |
//! | `checkpoint_blobs.rs` | the official SDKs' checkpoints |
//!
//! **Why no recovery of the client's own.** After any detach the client attaches again at the
//! link's first start position, without a word: numbers come twice, or, from `latest`, never.
//! So retries are off; on any error the link and its client are dropped, and a fresh client
//! opens at the last event received, inclusive. That event is compared with the one received
//! (its enqueued time, to the millisecond) and dropped, as is everything before it; what comes
//! after a jump is told apart by the first number that the hub still has. Management calls and
//! opens have timeouts, since the client can lose an answer and wait for ever; a link that
//! delivers nothing although the hub has more is opened again, too.
//!
//! **Bounds.** Of a pipeline's memory a quarter, shared evenly by the partitions, is what
//! links may hold ahead of us; it is not counted in the budget. What was taken from a link is
//! reserved first, but for the one event that is about to be.
//!
//! **Epochs.** Every link claims its partition with owner level 0, so that a second reader of
//! the same consumer group displaces the first, who stops. [`EventHubsSource::peek`] and the
//! resolving of times do so, too: they are for before reading.
//!
//! **Limits.** A compacted hub (`dense = false`) whose newest numbers are all gone, read up to
//! an end, is only known to be at its end once the link has delivered something. A message
//! that the AMQP library itself can't decode stops its partition, visibly, until retention
//! takes it.

mod access;
mod checkpoint_blobs;
mod clients;
mod failure;
mod hub;
mod link;
mod message;
mod pace;
mod read;
mod sender;
mod tracker;
mod watch;

pub use checkpoint_blobs::{CheckpointBlobError, CheckpointBlobs};
pub use hub::EventHubsSource;
pub use message::BODY_PROPERTY;
pub use sender::{EventSender, OutgoingEvent};
