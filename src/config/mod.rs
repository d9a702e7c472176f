//! Declarations in TOML, into typed specs; every mistake found in one run, at its bytes.
//!
//! ```text
//! sluice.toml ◀─ sluice.<env>.toml      pipelines/**/*.toml
//!        │                                     │
//!        └────▶ document: a tree with places ◀─┘
//!                          │  variables put in
//!                          ▼
//!               shape: does it fit the schema of `declared`?
//!                          │  what fits
//!                          ▼
//!     project, pipeline, transform: what does it mean? ─▶ spec
//! ```
//!
//! A mistake never stops the search for the next one: what is wrong is reported and left out.
//! A [`spec::ProjectSpec`] exists only where nothing is wrong. Schemas, reference and shape are
//! all made from the types of `declared`, whose doc comments are the user's manual.

pub mod address;
pub mod capture_name;
pub mod connection_string;
pub mod cron;
pub mod load;
pub mod problem;
pub mod reference;
pub mod schema;
pub mod source_id;
pub mod spec;
pub mod test_spec;

mod declared;
mod decode;
mod document;
mod maintenance;
mod mask;
mod pipeline;
mod project;
mod reading;
mod route;
mod shape;
mod test;
mod text;
mod transform;
mod transform_spec;
mod variables;

pub use load::{LoadOptions, load, load_tests, load_with};
pub use problem::{ConfigErrors, Place, Problem, SourceFile};
pub(crate) use problem::{listed, nearest, quoted};
pub use source_id::source_id;
