//! Events to rows: framing, schema, datum, columns.
//!
//! ```text
//! EventBatch ─▶ framing ─▶ schema (pinned, or by id from a registry) ─▶ datum ─▶ Decoded
//!                 └─ CloudEvents in structured mode are taken apart, and their data is framed by itself
//! ```
//!
//! The contract of this stage:
//!
//! * Each event ends as a row (a container or a batch of CloudEvents as a row for each record) or as one [`Reject`](crate::batch::Reject), with the exact
//!   bytes; one bad event never costs its neighbours a row.
//! * [`Decoder::decode`] fails only for what isn't the event's fault and may pass: a registry that
//!   can't be asked. Nothing is lost then; the caller asks again with the same batch.
//! * The columns are what Delta tables of protocol (1,2) hold, under the names and with the
//!   nullability that a Delta schema converts to, so a batch equals its table's Arrow schema.
//!   `docs/types.md` has the table of types.

mod avro;
mod body;
mod cloud_events;
mod compatibility;
mod container;
mod decoder;
mod envelope;
mod error;
mod framing;
mod job;
mod json;
mod registry;

pub use crate::columns::{column_name, field_name};
pub use avro::{Rows, SCHEMA_NODES_MAX, Set, WriterSchema};
pub use compatibility::{ComparedSchema, Direction, Incompatibility, Why};
pub use decoder::{Decoder, arrow_schema_of, raw_schema, schema_notes, text_schema};
pub use envelope::rows_of_rejects;
pub use error::DecodeError;
pub use registry::{
    AzureRegistry, ConfluentRegistry, FolderRegistry, IdKind, Listed, RegisteredSchema, RegistryError, SchemaId,
    SchemaRegistry, SubjectVersion, Subjects, TokenError, TokenSource, folder_texts,
};
