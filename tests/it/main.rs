//! The integration tests, in one binary: a module for each area.

mod ahead;
mod announce;
mod audit;
mod broker;
mod capture;
mod capture_index;
mod check;
mod config;
mod decode;
mod demo;
mod emulator;
mod gaps;
mod guide;
mod lakehouse;
mod ledger;
mod live;
mod operations;
mod query;
mod registry;
mod rewrite;
mod serve;
mod sink;
mod source;
mod source_tls;
mod tidy;
mod webhook;
