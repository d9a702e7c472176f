//! Azure on this machine.
//!
//! [`Broker`] is an Event Hubs namespace on loopback: AMQP 1.0, as the official clients of
//! Rust and Python speak it. It keeps what Event Hubs promises and what the rest of this
//! crate leans on:
//!
//! - sequence numbers of a partition are dense and start at 0; offsets grow with the bytes,
//!   so that nobody takes one for the other; enqueued times never go back
//! - what a producer was told is accepted is there, byte by byte, until retention takes it
//! - a start before what retention kept begins at the earliest event, silently
//! - one epoch reader for each partition and group: a higher or equal epoch takes the
//!   partition over, and the link that lost it hears `amqp:link:stolen`
//! - an unknown hub, partition or consumer group is refused by name
//!
//! ```text
//! TCP (TLS) ─▶ shim ─▶ connection ─┬─▶ cbs         tokens
//!                                  ├─▶ management  properties of hubs and partitions
//!                                  ├─▶ senders     events in  ─▶ hub ─▶ log (─▶ journal)
//!                                  └─▶ receivers   events out ◀─ hub ◀─ log ─▶ capture ─▶ announce
//! ```
//!
//! Memory is bounded by [`BrokerOptions::max_bytes`]. [`Fault`]s make links and connections
//! fail on demand.
//!
//! What it doesn't do: WebSockets, the Kafka endpoint, publishers, transactions, the metrics
//! that a receiver may ask to get with each event. A receiver that drains its credit hears at
//! once that nothing is available. Which partition a key belongs to is stable, but not the
//! service's choice. A start beyond the end of a partition is refused, as the service is
//! known to do for offsets.

mod access;
pub mod announce;
mod broker;
pub mod capture;
mod cbs;
pub mod certificates;
mod connection;
pub mod control;
mod error;
mod faults;
mod frames;
mod http;
mod hub;
pub mod hubs_file;
mod journal;
mod link_end;
mod log;
mod management;
mod messages;
mod options;
mod receivers;
pub mod registry;
mod repeats;
mod rpc;
mod selector;
mod senders;
mod server;
mod shim;
mod socket;
pub mod together;

pub use broker::{Broker, PartitionInfo, StoredMessageInput};
pub use error::BrokerError;
pub use faults::{Fault, FaultAction};
pub use options::{BrokerOptions, HubSpec, MAX_MESSAGE_BYTES, Retention};
