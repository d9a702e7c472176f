//! The ledger's algebra: which numbers of which partition a table accounts for. No I/O, no async.
//!
//! | word | meaning |
//! |---|---|
//! | [`SourceId`] | `<namespace>/<hub>[@<generation>]`, or `kafka:<cluster id>/<topic>` |
//! | [`PartitionKey`] | a source id and a partition of it |
//! | [`Range`] | half-open `[from, to)` of sequence numbers |
//! | [`RangeSet`] | disjoint, joined ranges in order |
//! | position | the NEXT sequence number to read |

mod app_id;
mod ledger;
mod range;

pub use app_id::{Counter, FORMAT, LedgerKey, Parsed};
pub use ledger::{LastCovered, Ledger, PartitionLedger, Run, trim};
pub use range::{Range, RangeSet};

use std::fmt;
use std::sync::Arc;

/// Names a source for ever, in every ledger: never the consumer group or the pipeline's name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SourceId(Arc<str>);

impl SourceId {
    pub fn new(text: impl Into<Arc<str>>) -> Self {
        Self(text.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SourceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A partition of a source. The partition is a string, as Event Hubs has it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PartitionKey {
    pub source: SourceId,
    pub partition: Arc<str>,
}

impl PartitionKey {
    pub fn new(source: SourceId, partition: impl Into<Arc<str>>) -> Self {
        Self { source, partition: partition.into() }
    }
}

impl fmt::Display for PartitionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.source, self.partition)
    }
}
