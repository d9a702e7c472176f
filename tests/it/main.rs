//! The integration tests, in one binary: a module for each area.

mod broker;
mod config;
mod decode;
mod demo;
mod emulator;
mod guide;
mod registry;
mod tidy;
