//! Users' tests of their transforms: rows are given, transforms run as they do in a lake, rows are compared.
//!
//! ```text
//! tests/**/*.toml ─▶ prepare: columns, values, which transforms ─▶ play: a lake of its own, run after run ─▶ compare
//! ```
//!
//! The contract:
//!
//! * A test runs what `sluice run` runs: tables in Delta, `STREAM` from their logs, the modes and expectations of the
//!   declaration. Only the sources and the schedule are left out.
//! * Each test has a lake in a folder of its own, which is gone afterwards. Tests run beside each other.
//! * What is wrong with a test itself is a problem at its bytes, and no test runs until there is none.

mod compare;
mod play;
mod prepare;
mod rows;

pub use prepare::{Prepared, prepare};

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Map, Value};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::PipelineError;
use crate::config::Place;
use crate::config::test_spec::Batches;

/// A row as it is compared and shown.
pub type ShownRow = Map<String, Value>;

/// What became of a test, parted into runs in one way.
#[derive(Debug)]
pub struct TestReport {
    pub name: String,
    pub place: Place,
    pub batches: Batches,
    pub took: Duration,
    /// Empty where all is as expected.
    pub failures: Vec<Failure>,
}

/// What isn't as expected of one table.
#[derive(Debug)]
pub struct Failure {
    pub table: String,
    pub message: String,
    /// The rows that are meant, where rows are.
    pub difference: Option<Difference>,
}

/// Rows that aren't as expected.
#[derive(Debug)]
pub struct Difference {
    /// The columns that are compared, in the order of the table.
    pub columns: Vec<String>,
    /// Expected and not there, with what is there in its place; or there and not expected.
    pub pairs: Vec<(Option<ShownRow>, Option<ShownRow>)>,
    /// How many rows are as expected.
    pub same: usize,
}

/// Runs tests, as many at once as there are processors; gives them in their order.
///
/// # Errors
/// What keeps a test from being run at all: no folder for its lake.
pub async fn run(tests: Vec<Prepared>) -> Result<Vec<TestReport>, PipelineError> {
    let at_once = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let permits = Arc::new(Semaphore::new(at_once));
    let mut running = JoinSet::new();
    for (at, test) in tests.into_iter().enumerate() {
        let permits = Arc::clone(&permits);
        running.spawn(async move {
            // It is never closed.
            let _permit = permits.acquire_owned().await;
            let started = Instant::now();
            play::play(&test).await.map(|failures| {
                let took = started.elapsed();
                let Prepared { name, place, batches, .. } = test;
                (at, TestReport { name, place, batches, took, failures })
            })
        });
    }
    let mut reports = Vec::new();
    while let Some(ended) = running.join_next().await {
        reports.push(ended.map_err(|source| PipelineError::Task { task: "test", source })??);
    }
    reports.sort_by_key(|(at, _)| *at);
    Ok(reports.into_iter().map(|(_, report)| report).collect())
}
