//! The integration tests, in one binary: a module for each area.

mod broker;
mod config;
mod decode;
mod emulator;
mod registry;
mod sink;
mod source;
mod source_tls;
mod tidy;
