//! Declarations in TOML, into typed specs; every mistake found in one run, at its bytes.

pub mod load;
pub mod problem;
pub mod schema;
pub mod spec;

pub use load::{LoadOptions, load};
pub use problem::{ConfigErrors, Place, Problem, SourceFile};
