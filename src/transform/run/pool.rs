//! The memory of transforms: a half for operators that can go to disk, a half for what can't, of which sorts that merge their
//! runs may have half, each the same share.
//!
//! In one pool of DataFusion's, sorts fill all of it before they go to disk, and what merges their runs finds nothing left;
//! and the first to merge takes as many runs at once as there is room for, so that the next finds none.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use datafusion::common::{Result, resources_datafusion_err};
use datafusion::execution::memory_pool::{
    FairSpillPool, GreedyMemoryPool, MemoryConsumer, MemoryLimit, MemoryPool, MemoryReservation,
};
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};

/// What DataFusion calls the consumer that merges the runs of a sort.
const MERGE: &str = "ExternalSorterMerge";

/// How many sorts a query may have at work at once: where its joins are sorted too, on both sides of them, before windows,
/// and before rows are written, each in two partitions.
pub const SORTS_AT_ONCE: usize = 16;

/// A pool in parts.
#[derive(Debug)]
struct Parts {
    spilling: FairSpillPool,
    staying: Arc<GreedyMemoryPool>,
    merging: Shares,
    bytes: usize,
}

/// A part of a pool, of which each consumer may have the same share.
#[derive(Debug)]
struct Shares {
    /// What each consumer holds.
    held: Mutex<HashMap<usize, usize>>,
    bytes: usize,
    of: Arc<GreedyMemoryPool>,
}

/// Memory for the queries of transforms, and temporary files beyond it.
///
/// # Errors
/// When there is no folder for these.
pub fn runtime(bytes: usize) -> Result<Arc<RuntimeEnv>> {
    let half = bytes / 2;
    let staying = Arc::new(GreedyMemoryPool::new(bytes - half));
    let merging = Shares { held: Mutex::default(), bytes: merging_bytes(bytes), of: Arc::clone(&staying) };
    let pool = Parts { spilling: FairSpillPool::new(half), staying, merging, bytes };
    RuntimeEnvBuilder::new().with_memory_pool(Arc::new(pool)).build_arc()
}

/// How much of all memory sorts may take to merge what they had put on disk.
pub fn merging_bytes(bytes: usize) -> usize {
    bytes / 4
}

impl Parts {
    fn of(&self, consumer: &MemoryConsumer) -> &dyn MemoryPool {
        if consumer.name().starts_with(MERGE) {
            &self.merging
        } else if consumer.can_spill() {
            &self.spilling
        } else {
            self.staying.as_ref()
        }
    }
}

impl fmt::Display for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "parts({}, {}, {})", self.spilling, self.staying, self.merging)
    }
}

impl MemoryPool for Parts {
    fn name(&self) -> &str {
        "parts"
    }

    fn register(&self, consumer: &MemoryConsumer) {
        self.of(consumer).register(consumer);
    }

    fn unregister(&self, consumer: &MemoryConsumer) {
        self.of(consumer).unregister(consumer);
    }

    fn grow(&self, reservation: &MemoryReservation, additional: usize) {
        self.of(reservation.consumer()).grow(reservation, additional);
    }

    fn shrink(&self, reservation: &MemoryReservation, shrink: usize) {
        self.of(reservation.consumer()).shrink(reservation, shrink);
    }

    fn try_grow(&self, reservation: &MemoryReservation, additional: usize) -> Result<()> {
        self.of(reservation.consumer()).try_grow(reservation, additional)
    }

    fn reserved(&self) -> usize {
        self.spilling.reserved() + self.staying.reserved()
    }

    fn memory_limit(&self) -> MemoryLimit {
        MemoryLimit::Finite(self.bytes)
    }
}

impl Shares {
    /// A count stays one, whoever panicked with it.
    fn held(&self) -> MutexGuard<'_, HashMap<usize, usize>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Display for Shares {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "shares(used: {}, of: {}, by: {})", self.reserved(), self.bytes, self.held().len())
    }
}

impl MemoryPool for Shares {
    fn name(&self) -> &str {
        "shares"
    }

    fn register(&self, consumer: &MemoryConsumer) {
        self.held().entry(consumer.id()).or_default();
    }

    fn unregister(&self, consumer: &MemoryConsumer) {
        self.held().remove(&consumer.id());
    }

    fn grow(&self, reservation: &MemoryReservation, additional: usize) {
        self.of.grow(reservation, additional);
        *self.held().entry(reservation.consumer().id()).or_default() += additional;
    }

    fn shrink(&self, reservation: &MemoryReservation, shrink: usize) {
        self.of.shrink(reservation, shrink);
        if let Some(held) = self.held().get_mut(&reservation.consumer().id()) {
            *held = held.saturating_sub(shrink);
        }
    }

    fn try_grow(&self, reservation: &MemoryReservation, additional: usize) -> Result<()> {
        let mut all = self.held();
        // Each sort takes a sixteenth before its first row, however many there are; what is left bounds their sum.
        let share = (self.bytes / all.len().max(1)).max(self.bytes / SORTS_AT_ONCE);
        let held = all.entry(reservation.consumer().id()).or_default();
        if *held + additional > share {
            let name = reservation.consumer().name();
            return Err(resources_datafusion_err!(
                "{name} holds {held} bytes of its share of {share}, and wants {additional} more"
            ));
        }
        self.of.try_grow(reservation, additional)?;
        *held += additional;
        Ok(())
    }

    fn reserved(&self) -> usize {
        self.held().values().sum()
    }

    fn memory_limit(&self) -> MemoryLimit {
        MemoryLimit::Finite(self.bytes)
    }
}
