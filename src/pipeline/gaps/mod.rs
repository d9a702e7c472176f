//! What tables lack: found in their ledgers, healed from captures, or accepted by somebody.
//!
//! | word | meaning |
//! |---|---|
//! | gap | numbers between those that a table accounts for, or before the first that the hub still has |
//! | open | nobody accepted it: `audit`, `status`, metrics and log name it |
//! | accepted | somebody said that the table can do without, and why |
//!
//! Numbers past the ledger's end are lag, not a gap, unless the hub was asked and has them no more. Those before
//! it are a gap though the hub may have them: a reader may have passed them and found none.
//! An acceptance changes no ledger: whatever turns up later still lands.

mod accept;
mod error;
mod find;
mod heal;

pub use accept::{Wanted, accept};
pub use error::GapError;
pub use find::{Accepted, AskHub, Gap, GapState, KnownBy, Target, list};
pub use heal::{Healed, HealedRange, heal};

pub(super) use find::{Lacking, accepted_of, lacking, unknown_table};
