//! The only place that knows all stages: from declarations to running pipelines.
//!
//! ```text
//! partition task ─▶ source ─▶ decode ─┐
//! partition task ─▶ source ─▶ decode ─┼─▶ event loop ─▶ flush task (holds the table's writer)
//!                                     ┘
//! ```
//!
//! One event loop a pipeline. A partition that fails backs off alone; a table that can't be
//! written holds back its own pipeline within the memory bound. Dropping what isn't committed
//! is always right: the ledger says where to read on.

pub mod announcements;
pub mod audit;
pub mod check;
pub mod checkpoints;
pub mod columns;
pub mod dead_letters;
pub mod demo;
pub mod error;
pub mod gaps;
pub mod generations;
pub mod lock;
pub mod maintenance;
pub mod partition;
pub mod plan;
pub mod reject_share;
pub mod roles;
pub mod routes;
pub mod run;
pub mod schedule;
pub mod schemas;
pub mod setup;
pub mod spool;
pub mod standing;
pub mod status;
pub mod supervise;
pub mod transforms;
pub mod unit_tests;
pub mod webhook;

pub use error::PipelineError;
pub use run::PipelineSummary;
pub use supervise::{RunOptions, RunSummary, run_project};
