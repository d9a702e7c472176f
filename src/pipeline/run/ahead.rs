//! What waits for a flush, encoded as far as that is worth it.
//!
//! ```text
//! push ─▶ recent ──(enough for a file)──▶ encoding, a core each ─▶ older ─▶ take, for a flush
//! ```
//!
//! Parts keep the order in which they came, whatever encoding ends first.

use std::collections::BTreeMap;

use tokio::task::{JoinError, JoinSet};

use crate::compute;
use crate::pipeline::partition::{Part, report};
use crate::sink::delta::staged::Encoder;

/// Rows in memory that become a file ahead of a flush, if the budget has room for four such. They make
/// about an eighth in Parquet: more would be better files and hold more memory at a time.
const CHUNK_BYTES: usize = 64 << 20;

/// When the budget is used up, so much is still worth a file. Less is better committed.
const CHUNK_BYTES_MIN: usize = 4 << 20;

/// Parts that came back from encoding; encoded, unless the table lacks their columns.
pub(super) struct Encoded {
    number: u64,
    parts: Vec<Part>,
}

pub(super) struct Ahead {
    encoder: Encoder,
    chunk_bytes: usize,
    /// Not more than cores: encoding does nothing but compute.
    encodings_max: usize,
    recent: Vec<Part>,
    /// What `recent` holds of the budget.
    recent_bytes: usize,
    encoding: JoinSet<Encoded>,
    next_number: u64,
    /// By the order of their parts; what a failed flush gave back comes first.
    older: BTreeMap<u64, Vec<Part>>,
    older_bytes: usize,
    /// A flush is due: what comes now stays as it is, or the flush would wait for ever.
    is_closing: bool,
}

impl Ahead {
    /// `budget` is what may be in flight, in bytes.
    pub(super) fn new(encoder: Encoder, budget: usize) -> Self {
        Self {
            encoder,
            chunk_bytes: CHUNK_BYTES.min(budget / 4).max(CHUNK_BYTES_MIN),
            encodings_max: std::thread::available_parallelism().map_or(1, usize::from),
            recent: Vec::new(),
            recent_bytes: 0,
            encoding: JoinSet::new(),
            next_number: 1,
            older: BTreeMap::new(),
            older_bytes: 0,
            is_closing: false,
        }
    }

    pub(super) fn encode_with(&mut self, encoder: Encoder) {
        self.encoder = encoder;
    }

    pub(super) fn push(&mut self, part: Part) {
        self.recent_bytes += part.reservation.bytes();
        self.recent.push(part);
        self.encode_if_enough();
    }

    /// Starts to encode what came first of `recent`, if that is enough for a file and a core may be used.
    fn encode_if_enough(&mut self) {
        while self.recent_bytes >= self.chunk_bytes && self.encoding.len() < self.encodings_max && !self.is_closing {
            self.encode(self.chunk_bytes);
        }
    }

    /// Starts to encode the first parts of `recent` that hold so many bytes together.
    fn encode(&mut self, bytes: usize) {
        let mut taken = 0;
        let count = self.recent.iter().take_while(|part| {
            let before = taken;
            taken += part.reservation.bytes();
            before < bytes
        });
        let mut parts: Vec<Part> = self.recent.drain(..count.count()).collect();
        self.recent_bytes -= bytes_of(&parts);
        let (number, encoder) = (self.next_number, self.encoder.clone());
        self.next_number += 1;
        let encoding = async move {
            if let Err(error) = encoder.encode(&mut parts).await {
                // The flush meets the same error, and says it with the table's name.
                tracing::debug!(error = report(&error), "rows stay as they are until their flush");
            }
            for part in &mut parts {
                part.reservation.shrink_to(part.staged.memory_bytes());
            }
            Encoded { number, parts }
        };
        self.encoding.spawn_on(encoding, &compute::handle());
    }

    /// The next parts that come back; none when nothing is encoded.
    ///
    /// # Cancel safety
    /// It loses nothing when dropped.
    pub(super) async fn encoded(&mut self) -> Option<Result<Encoded, JoinError>> {
        self.encoding.join_next().await
    }

    pub(super) fn take_encoded(&mut self, encoded: Encoded) {
        self.older_bytes += bytes_of(&encoded.parts);
        self.older.insert(encoded.number, encoded.parts);
        self.encode_if_enough();
    }

    /// Whether encoding would free memory.
    pub(super) fn may_make_room(&self) -> bool {
        self.encoding.is_empty() && self.recent_bytes >= CHUNK_BYTES_MIN && !self.is_closing
    }

    /// Whether only a flush would.
    pub(super) fn may_flush_early(&self) -> bool {
        self.encoding.is_empty() && !self.is_empty()
    }

    /// Somebody waits for memory: encoding frees more of it than a flush would, and sooner. Says whether
    /// memory will be freed.
    pub(super) fn make_room(&mut self) -> bool {
        if self.may_make_room() {
            self.encode(self.chunk_bytes);
        }
        !self.encoding.is_empty()
    }

    /// Whether all that came is here. If not, it will be: nothing more is sent to be encoded until the
    /// next [`Ahead::take`].
    pub(super) fn close(&mut self) -> bool {
        self.is_closing = !self.encoding.is_empty();
        !self.is_closing
    }

    /// Whether a flush waits for what is being encoded.
    pub(super) fn is_closing(&self) -> bool {
        self.is_closing && !self.encoding.is_empty()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.recent.is_empty() && self.older.is_empty() && self.encoding.is_empty()
    }

    pub(super) fn has_rows(&self) -> bool {
        let mut waiting = self.older.values().flatten().chain(&self.recent);
        !self.encoding.is_empty() || waiting.any(|part| part.staged.has_rows())
    }

    /// What a flush would take, in bytes of the budget.
    pub(super) fn bytes(&self) -> usize {
        self.recent_bytes + self.older_bytes
    }

    /// All of it, in the order in which it came.
    pub(super) fn take(&mut self) -> Vec<Part> {
        let mut parts: Vec<Part> = std::mem::take(&mut self.older).into_values().flatten().collect();
        parts.append(&mut self.recent);
        (self.recent_bytes, self.older_bytes, self.is_closing) = (0, 0, false);
        parts
    }

    /// What a flush could not commit goes before all that came later.
    pub(super) fn give_back(&mut self, parts: Vec<Part>) {
        self.older_bytes += bytes_of(&parts);
        self.older.entry(0).or_default().splice(0..0, parts);
    }
}

fn bytes_of(parts: &[Part]) -> usize {
    parts.iter().map(|part| part.reservation.bytes()).sum()
}
