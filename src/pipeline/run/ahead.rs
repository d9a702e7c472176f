//! What waits for a flush, encoded as far as that is worth it.
//!
//! ```text
//! push ─▶ growing ─▶ recent ──(enough for a piece)──▶ an open chunk, one for each core that is free ──(close)──▶ closed
//!                       └─────────────────────── little is left for the flush ───────────────────────────────┴▶ take
//! ```
//!
//! A flush that is due closes the chunks first and then takes everything. What comes in small is joined as it comes:
//! many tables of one pipeline have few of its events each, and fifty of twenty rows cost much more than one of a thousand.

use std::collections::BTreeMap;
use std::task::{Context, Poll};

use tokio::task::{JoinError, JoinSet};

use crate::checkpoint::PartitionKey;
use crate::compute;
use crate::memory::MemoryBudget;
use crate::pipeline::partition::{Part, ReadPath};
use crate::sink::delta::files::FileError;
use crate::sink::delta::staged::{Encoder, OpenChunk};

/// Rows in memory that go into a chunk at a time. Smaller pieces would wake threads for nothing, and a
/// commit of less than this is one file, encoded by its flush.
const PIECE_BYTES: usize = 8 << 20;

/// When the budget is used up, so much is still worth encoding. Less is better committed.
const PIECE_BYTES_MIN: usize = 1 << 20;

/// What rows take in a file in the making, in thousandths of what they took in memory, before any was closed:
/// a fourth, where an eighth is usual. From then on the last closed one tells.
const ENCODED_SHARE: u64 = 250;

/// What a part grows to before others are joined to it no more. Less makes many small batches; more would be trimmed
/// as a whole where a rival has some of it.
const GROWN_BYTES: usize = 1 << 20;

/// What came back from a thread that computes.
pub(super) struct Encoded {
    /// Parts whose rows are out from among those of other tables, and wait as before.
    gathered: Vec<Part>,
    /// Still open, unless it was to be closed.
    open: Option<OpenChunk<Part>>,
    /// Parts of closed files, and such as the table lacks columns for.
    parts: Vec<Part>,
    /// What the parts held of the budget before and hold now.
    held: (usize, usize),
    /// What the rows of closed files took in memory and take now.
    share: Option<(usize, usize)>,
}

/// A part that others may be joined to.
struct Growing {
    part: Part,
    /// What it holds of the budget.
    bytes: usize,
}

impl Growing {
    fn recent_bytes(&self) -> usize {
        if self.part.is_elsewhere() { 0 } else { self.bytes }
    }
}

pub(super) struct Ahead {
    encoder: Encoder,
    budget: MemoryBudget,
    encoded_share: u64,
    /// Not more than cores: encoding does nothing but compute.
    chunks_max: usize,
    recent: Vec<Part>,
    /// What parts with rows hold of the budget in `recent`, and such as still grow.
    recent_bytes: usize,
    idle: Vec<OpenChunk<Part>>,
    working: JoinSet<Result<Encoded, FileError>>,
    closed: Vec<Part>,
    /// Of each partition what came last, as long as it is small.
    growing: BTreeMap<(PartitionKey, ReadPath), Growing>,
    /// What all of it holds of the budget.
    bytes: usize,
    /// A flush is due: what comes now stays as it is, or the flush would wait for ever.
    is_closing: bool,
    is_gathering: bool,
}

impl Ahead {
    pub(super) fn new(encoder: Encoder, budget: MemoryBudget) -> Self {
        Self {
            encoder,
            budget,
            encoded_share: ENCODED_SHARE,
            chunks_max: std::thread::available_parallelism().map_or(1, usize::from),
            recent: Vec::new(),
            recent_bytes: 0,
            idle: Vec::new(),
            working: JoinSet::new(),
            closed: Vec::new(),
            growing: BTreeMap::new(),
            bytes: 0,
            is_closing: false,
            is_gathering: false,
        }
    }

    pub(super) fn encode_with(&mut self, encoder: Encoder) {
        self.encoder = encoder;
    }

    pub(super) fn push(&mut self, part: Part) {
        let bytes = part.bytes();
        let of = (part.staged.partition.clone(), part.path);
        let grown = match self.growing.remove(&of) {
            None => Growing { part, bytes },
            Some(mut held) => {
                self.forget(&held);
                match held.part.join(part, &self.budget) {
                    Ok(()) if held.part.is_elsewhere() => held.bytes = held.part.bytes(),
                    Ok(()) => held.bytes += bytes,
                    Err(next) => self.settle(std::mem::replace(&mut held, Growing { part: *next, bytes })),
                }
                held
            }
        };
        if grown.bytes >= GROWN_BYTES {
            self.settle(grown);
        } else {
            self.bytes += grown.bytes;
            self.recent_bytes += grown.recent_bytes();
            self.growing.insert(of, grown);
        }
        self.encode_if_enough();
    }

    /// Nothing is joined to it any more.
    fn settle(&mut self, grown: Growing) {
        self.bytes += grown.bytes;
        self.recent_bytes += grown.recent_bytes();
        let settled = if grown.part.is_elsewhere() { &mut self.closed } else { &mut self.recent };
        settled.push(grown.part);
    }

    fn settle_all(&mut self) {
        for grown in std::mem::take(&mut self.growing).into_values() {
            self.forget(&grown);
            self.settle(grown);
        }
    }

    fn forget(&mut self, grown: &Growing) {
        self.bytes = self.bytes.saturating_sub(grown.bytes);
        self.recent_bytes = self.recent_bytes.saturating_sub(grown.recent_bytes());
    }

    /// Takes out the rows that lie among those of other tables, so that these can go.
    pub(super) fn gather(&mut self) {
        if self.is_closing || self.is_gathering {
            return;
        }
        self.settle_all();
        let (parts, others) = std::mem::take(&mut self.recent).into_iter().partition(|part| !part.picked.is_empty());
        self.recent = others;
        let held = bytes_of(&parts);
        self.recent_bytes = self.recent_bytes.saturating_sub(held);
        self.is_gathering = !parts.is_empty();
        if self.is_gathering {
            let budget = self.budget.clone();
            let gathering = async move {
                let gathered = gather(parts, &budget)?;
                let now = bytes_of(&gathered);
                Ok(Encoded { gathered, open: None, parts: Vec::new(), held: (held, now), share: None })
            };
            self.working.spawn_on(gathering, &compute::handle());
        }
    }

    fn encode_if_enough(&mut self) {
        while self.recent_bytes >= PIECE_BYTES && self.working.len() < self.chunks_max && !self.is_closing {
            self.encode_piece();
        }
    }

    fn encode_piece(&mut self) {
        let parts = self.first_piece();
        let open = self.idle.pop().unwrap_or_else(|| OpenChunk::new(self.encoder.clone()));
        self.work(open, parts, false);
    }

    /// The first parts of `recent` that are a piece together.
    fn first_piece(&mut self) -> Vec<Part> {
        self.settle_all();
        let mut taken = 0;
        let count = self.recent.iter().take_while(|part| {
            let before = taken;
            taken += part.bytes();
            before < PIECE_BYTES
        });
        let count = count.count();
        let parts: Vec<Part> = self.recent.drain(..count).collect();
        self.recent_bytes = self.recent_bytes.saturating_sub(bytes_of(&parts));
        parts
    }

    /// Puts parts into a chunk, and closes it if that is wanted or if it is full.
    fn work(&mut self, open: OpenChunk<Part>, parts: Vec<Part>, close: bool) {
        let (budget, share) = (self.budget.clone(), self.encoded_share);
        self.working.spawn_on(work(open, parts, close, share, budget), &compute::handle());
    }

    /// What comes back next; none when nothing is encoded.
    pub(super) fn poll_encoded(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Result<Encoded, FileError>, JoinError>>> {
        self.working.poll_join_next(context)
    }

    /// Whether something is being encoded, which frees memory.
    pub(super) fn is_working(&self) -> bool {
        !self.working.is_empty()
    }

    pub(super) fn take_encoded(&mut self, encoded: Encoded) {
        let (before, now) = encoded.held;
        self.bytes = self.bytes.saturating_sub(before) + now;
        if let Some((rows, files)) = encoded.share {
            let share = files.saturating_mul(1000) / rows.max(1);
            // Somewhat more than the last: what is open is counted before it is known.
            self.encoded_share = (share as u64 * 5 / 4).clamp(20, 1000);
        }
        self.closed.extend(encoded.parts);
        self.is_gathering &= encoded.gathered.is_empty();
        self.recent_bytes += bytes_of(&encoded.gathered);
        self.recent.splice(0..0, encoded.gathered);
        match encoded.open {
            Some(open) if self.is_closing => self.work(open, Vec::new(), true),
            Some(open) => self.idle.push(open),
            None => {}
        }
        self.encode_if_enough();
    }

    /// Whether encoding would free memory.
    pub(super) fn may_make_room(&self) -> bool {
        self.working.is_empty() && self.recent_bytes >= PIECE_BYTES_MIN && !self.is_closing
    }

    /// Whether only a flush would.
    pub(super) fn may_flush_early(&self) -> bool {
        self.working.is_empty() && !self.is_empty()
    }

    /// Somebody waits for memory: encoding frees more of it than a flush would, and sooner.
    pub(super) fn make_room(&mut self) {
        if self.may_make_room() {
            self.encode_piece();
        }
    }

    /// Closes what is open. Says whether all that came is here; if not, it will be, and nothing more is sent
    /// to be encoded until the next [`Ahead::take`].
    pub(super) fn close(&mut self) -> bool {
        if !self.is_closing {
            self.settle_all();
            // What came last goes with what is open: one file for both.
            let mut last = if self.idle.is_empty() { Vec::new() } else { std::mem::take(&mut self.recent) };
            if !last.is_empty() {
                self.recent_bytes = 0;
            }
            for open in std::mem::take(&mut self.idle) {
                self.work(open, std::mem::take(&mut last), true);
            }
        }
        self.is_closing = !self.working.is_empty();
        !self.is_closing
    }

    /// Whether a flush waits for what is being encoded.
    pub(super) fn is_closing(&self) -> bool {
        self.is_closing && !self.working.is_empty()
    }

    /// Whether a flush was due, and all that it waited for is here.
    pub(super) fn is_closed(&self) -> bool {
        self.is_closing && self.working.is_empty()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.recent.is_empty()
            && self.closed.is_empty()
            && self.growing.is_empty()
            && self.idle.is_empty()
            && self.working.is_empty()
    }

    pub(super) fn has_rows(&self) -> bool {
        let growing = self.growing.values().map(|grown| &grown.part);
        let mut waiting = self.closed.iter().chain(&self.recent).chain(growing);
        !self.idle.is_empty() || !self.working.is_empty() || waiting.any(Part::has_rows)
    }

    /// What a flush would take, in bytes of the budget.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// All of it, each partition in the order of its numbers; [`gather`] goes before a flush of it.
    pub(super) fn take(&mut self) -> Vec<Part> {
        self.settle_all();
        let mut parts = std::mem::take(&mut self.closed);
        parts.append(&mut self.recent);
        (self.recent_bytes, self.bytes, self.is_closing) = (0, 0, false);
        let order = |part: &Part| (part.staged.partition.clone(), part.staged.range.from);
        parts.sort_by_cached_key(order);
        parts
    }

    /// What a flush could not commit waits for the next.
    pub(super) fn give_back(&mut self, mut parts: Vec<Part>) {
        self.bytes += bytes_of(&parts);
        self.closed.append(&mut parts);
    }
}

async fn work(
    mut open: OpenChunk<Part>,
    parts: Vec<Part>,
    close: bool,
    share: u64,
    budget: MemoryBudget,
) -> Result<Encoded, FileError> {
    let before = bytes_of(&parts);
    let (mut back, mut now) = (Vec::new(), 0);
    for mut part in gather(parts, &budget)? {
        if !part.staged.batches.is_empty() && open.fits(&part) {
            let rows = part.staged.row_bytes();
            let beside = part.staged.memory_bytes() - rows;
            part.reservation.shrink_to(beside + usize::try_from(rows as u64 * share / 1000).unwrap_or(rows));
            now += part.reservation.bytes();
            open.push(part).await?;
        } else {
            now += part.reservation.bytes();
            back.push(part);
        }
    }
    if !close && !open.is_full() {
        return Ok(Encoded { gathered: Vec::new(), open: Some(open), parts: back, held: (before, now), share: None });
    }
    let rows = open.row_bytes();
    let mut closed = open.close().await?;
    let open_held = bytes_of(&closed);
    for part in &mut closed {
        part.reservation.hold(part.staged.memory_bytes(), &budget);
    }
    let held = (before + open_held, now + bytes_of(&closed));
    let files = closed.iter().map(|part| part.staged.encoded_bytes()).sum();
    back.append(&mut closed);
    Ok(Encoded { gathered: Vec::new(), open: None, parts: back, held, share: (rows > 0).then_some((rows, files)) })
}

/// Rows of each part as few batches of its own. CPU work.
///
/// # Errors
/// As [`Part::gather`]
pub(super) fn gather(mut parts: Vec<Part>, budget: &MemoryBudget) -> Result<Vec<Part>, FileError> {
    parts.iter_mut().try_for_each(|part| part.gather(budget))?;
    Ok(parts)
}

fn bytes_of(parts: &[Part]) -> usize {
    parts.iter().map(Part::bytes).sum()
}
