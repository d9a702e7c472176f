//! Shutdown in two phases.
