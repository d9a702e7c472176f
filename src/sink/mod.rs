//! Rows into tables: Delta, and nothing else so far.

pub mod delta;
