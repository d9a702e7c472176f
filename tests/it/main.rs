//! The integration tests, in one binary: a module for each area.

mod config;
mod decode;
mod emulator;
mod registry;
mod tidy;
