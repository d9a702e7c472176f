//! Event Hubs to the Delta lakehouse, each event exactly once.

pub mod batch;
pub mod catalog;
pub mod checkpoint;
pub mod cli;
pub mod config;
pub mod decode;
pub mod emulator;
pub mod error;
pub mod memory;
pub mod pipeline;
pub mod retry;
pub mod serve;
pub mod shutdown;
pub mod sink;
pub mod source;
pub mod storage;
pub mod telemetry;
