//! What is done to dead letters after they were written: looked at, decoded again, dropped, forgotten in time.
//!
//! | word | meaning |
//! |---|---|
//! | waiting | its event is accounted for as rejected, and may be replayed or dropped |
//! | in flight | its event isn't accounted for yet: a flush is at work, or died and will be made up for |
//! | replayed | its event has a row, beside the letter or in the table that today's routes name |
//! | expired | its bytes are gone; its row stays, and accounts for the number |
//!
//! Two tables can't change in one commit. The table of the rows always has the last word: its commit holds rows and
//! counters together, and what the letters say beside it may be behind or ahead. So:
//!
//! | | first | then | died between them |
//! |---|---|---|---|
//! | replay | rows land, and count as rejected no more | the letter is marked `replayed_at` | the next replay finds the row, lands nothing, and marks |
//! | drop, retention | the letter is marked `expired_at`, its bytes go | the ledger counts it | the next drop or retention counts |
//!
//! Of an event whose row goes into another table that table's commit has the word, and its own counters; the letter
//! is marked behind it all the same, and accounts for its number where it lies.
//!
//! A letter whose event has a row beside it counts nowhere, whatever it says. One that expired still accounts for its number, by
//! its key. So `audit` is right at every point.

mod error;
mod expire;
mod filter;
mod homes;
mod list;
mod replay;
mod retention;

pub use error::DeadLetterError;
pub use expire::{Dropped, drop_letters, expire_old, matching};
pub use filter::{Filter, LetterKey};
pub use list::{ClassCount, Listing, Shown, list, show};
pub use replay::{Replay, replay};

pub(super) use retention::keep;
