//! The proof that a table accounts for every number once, or the numbers for which it doesn't.
//!
//! A table is complete when, for each partition that the hub lists (offline: that the ledger
//! lists), all of this holds at one version of the table:
//!
//! - the ledger covers one range without a gap, from its lowest start to its end, but for gaps that
//!   somebody accepted, which are listed as such;
//! - each covered number has a row, or, where it has none, a dead letter;
//! - no key (source, partition, number, record index) is there twice;
//! - no row lies outside of what the ledger covers;
//! - counted by key, rows and dead letters agree with the ledger's counters.
//!
//! Ledger and rows are read at the same version; dead letters after it, since they are
//! committed first. A dead letter that isn't covered yet is in flight, and one whose key has a
//! row is superseded: neither counts. Numbers past the ledger's end are lag, not missing.
//!
//! **Memory** is bounded by what is covered, not by the rows: sets of numbers that cost next to
//! nothing where numbers are dense (`numbers`), and lists that are cut off and say so.
//!
//! **What it can't see.** Where the ledger counts filtered or erased events, it knows
//! how many and not which: so many numbers without a row are taken for them. Expired dead letters keep their keys. On a source whose
//! numbers have holes (`dense = false`) absence can't be proved. Of an event that became
//! several rows, the loss of all but the first row isn't seen.

mod count;
mod error;
mod judge;
mod numbers;
mod report;

pub use count::Counted;
pub use error::AuditError;
pub use judge::{audit, audit_offline};
pub use report::{AcceptedRange, Audit, PartitionAudit};
