//! Declarations in TOML, into typed specs; every mistake found in one run, at its bytes.

pub mod spec;
