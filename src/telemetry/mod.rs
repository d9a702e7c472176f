//! What the program says about itself: the log, and the metrics with their names.

pub mod logging;
pub mod metrics;
