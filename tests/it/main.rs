//! The integration tests, in one binary: a module for each area.

mod config;
mod tidy;
