//! The blobs that Event Hubs Capture wrote of a hub: the same events, by another path.
//!
//! ```text
//! listing ─▶ names that fit ─▶ first number of each ─▶ in order of numbers ─▶ blocks ─▶ events
//! ```
//!
//! A blob says its numbers itself, so nothing rests on its name but whose it is: blobs are read in
//! the order of their first numbers, and one whose numbers aren't wanted isn't opened. Each
//! number is handed on once, ascending within a run of blobs that follow one another; what of the
//! wanted numbers no blob has is named as a hole at the end.
//!
//! A blob that is torn costs its own rest and nothing else: it is tried again, then named and
//! left. Numbers that weren't handed on aren't covered by anything, so a later sweep finds them.

mod error;
mod index;
mod listing;
mod notice;
mod queue;
mod read;
mod record;

pub use error::CaptureError;
pub use index::{BlobIndex, IndexError};
pub use listing::{CaptureBlob, CaptureSource, Listing};
pub use notice::{Announced, Notice, NoticeError, notices};
pub use queue::{Queue, QueueError, QueueMessage};
pub use read::{CaptureRead, EnqueuedBetween, Missing};
