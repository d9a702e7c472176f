//! Avro datums to Arrow columns, all of one writer schema at a time.
//!
//! ```text
//! .avsc ─▶ plan ─▶ columns: each datum a row in all of them, or in none
//!                    └─ walk: value after value of the bytes
//! ```
//!
//! `plan` is the only judge of what a schema means, and the columns are those that Delta holds from
//! the start: nothing is converted afterwards.

mod columns;
mod default;
mod fingerprint;
mod json;
mod plan;
mod walk;
mod writer;

pub(super) use fingerprint::{fingerprints, full_name};
pub use plan::SCHEMA_NODES_MAX;
pub(super) use walk::{Step, Texts, Walk};
pub use writer::{Rows, Set, WriterSchema};
