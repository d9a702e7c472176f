//! Avro datums to Arrow columns, all of one writer schema at a time.
//!
//! ```text
//! .avsc ─▶ plan ─▶ validate: is this datum sound?   (each datum by itself)
//!            ├──▶ physical: arrow-avro makes columns (all sound datums at once)
//!            └──▶ normalise: the columns that Delta holds
//! ```
//!
//! `plan` is the only judge of what a schema means; the three others follow it. arrow-avro gets a
//! schema made from the plan that names physical types alone, so its own views on logical types,
//! names and references never matter, and it sees only datums that `validate` has walked to their
//! exact end: it doesn't roll a half-decoded record back.

mod normalise;
mod physical;
mod plan;
mod validate;
mod writer;

pub use plan::SCHEMA_NODES_MAX;
pub(super) use writer::WriterSchema;
