//! Event Hubs to the Delta lakehouse, each event exactly once.
//!
//! ```text
//!  Event Hubs (AMQP) ─┬▶ source ─▶ decode ─▶ pipeline ─▶ sink ─┬─▶ dead-letter table
//!  Capture blobs ─────┘                                        └─▶ bronze Delta table ─▶ transform ─▶ silver, gold
//!                                                                  (rows + ledger in ONE commit)
//! ```
//!
//! | floor | module | is |
//! |---|---|---|
//! | 6 | [`cli`] | the commands: the only code that prints or picks an exit code |
//! | 6 | [`serve`] | health, metrics, a status page and the webhook over HTTP |
//! | 5 | [`pipeline`] | the only place that knows all stages: setup, event loop, audit, demo |
//! | 5 | [`emulator`] | Azure on this machine: Event Hubs and its registry |
//! | 4 | [`source`], [`decode`], [`sink`], [`transform`] | the stages; none knows another |
//! | 3 | [`catalog`] | names to tables, what their logs say, and what keeps them quick to read |
//! | 2 | [`storage`], [`columns`] | object stores and sign-ins; what the columns of a payload are called |
//! | 1 | [`config`], [`telemetry`], [`avro_container`], [`batch`], [`compute`], [`json`], [`memory`], [`retry`], [`shutdown`] | declarations, metrics, what flows between stages, values as JSON, threads and memory |
//! | 0 | [`checkpoint`], [`error`], [`fault_points`] | the ledger's algebra, how errors are classified, where crash tests may die; no I/O |
//!
//! Imports run downward alone; a test keeps that true. `docs/exactly-once.md` has the argument
//! that everything rests on.

pub mod avro_container;
pub mod batch;
pub mod catalog;
pub mod checkpoint;
pub mod cli;
pub mod columns;
pub mod compute;
pub mod config;
pub mod decode;
pub mod emulator;
pub mod error;
pub mod fault_points;
pub mod json;
pub mod memory;
pub mod pipeline;
pub mod retry;
pub mod serve;
pub mod shutdown;
pub mod sink;
pub mod source;
pub mod storage;
pub mod telemetry;
pub mod transform;
