//! The memory of transforms: a half for operators that can go to disk, a half for those that can't.
//!
//! In one pool of DataFusion's, sorts fill all of it before they go to disk, and what merges their
//! runs finds nothing left.

use std::fmt;
use std::sync::Arc;

use datafusion::common::Result;
use datafusion::execution::memory_pool::{
    FairSpillPool, GreedyMemoryPool, MemoryConsumer, MemoryLimit, MemoryPool, MemoryReservation,
};
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};

/// A pool in two halves.
#[derive(Debug)]
struct Halves {
    spilling: FairSpillPool,
    staying: GreedyMemoryPool,
    bytes: usize,
}

/// Memory for the queries of transforms, and temporary files beyond it.
///
/// # Errors
/// When there is no folder for these.
pub fn runtime(bytes: usize) -> Result<Arc<RuntimeEnv>> {
    let half = bytes / 2;
    let pool = Halves { spilling: FairSpillPool::new(half), staying: GreedyMemoryPool::new(bytes - half), bytes };
    RuntimeEnvBuilder::new().with_memory_pool(Arc::new(pool)).build_arc()
}

impl Halves {
    fn of(&self, consumer: &MemoryConsumer) -> &dyn MemoryPool {
        if consumer.can_spill() { &self.spilling } else { &self.staying }
    }
}

impl fmt::Display for Halves {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "halves({}, {})", self.spilling, self.staying)
    }
}

impl MemoryPool for Halves {
    fn name(&self) -> &str {
        "halves"
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
