//! Running transforms: each mode, exactly once, whatever the batches and their order were.

mod changes;
mod cost;
mod expectations;
mod keyed;
mod lake;
mod memory;
mod overlaps;
mod streams;
