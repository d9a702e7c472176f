//! A table's columns: the union of all schemas that it has met, and batches made to fit them.
//!
//! ```text
//! matching: which column a field belongs to
//!    ├─▶ union: what the table lacks, which a commit of its own adds
//!    └─▶ way:   how each type goes into its column, once for each pair of schemas
//!                 └─▶ fit: the arrays ─▶ rescue: what no column can hold, as JSON in `_rescued`,
//!                                    joined with what the decoder left there
//! ```
//!
//! A table is the reader of its writers in the sense of the Avro specification: a field that a writer lacks is
//! null, or its default where that is declared; a name that was an alias leads to the same column; numbers are
//! promoted. But no value is ever rounded or dropped.

mod columns;
mod fate;
mod fit;
mod join;
mod matching;
mod rescue;
mod union;
mod way;

pub use columns::{COLUMNS_MAX, Misfit, Policy, Rescued, TableColumns};
pub use fate::{Fate, FieldFate, fates};
pub use union::{Changes, union};
pub use way::Defaults;
