//! Running transforms: each mode, exactly once, whatever the batches and their order were.

mod cost;
mod expectations;
mod keyed;
mod lake;
mod memory;
mod streams;
