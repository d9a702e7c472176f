//! The bound on what is read and not yet committed.
//!
//! A [`MemoryBudget`] is shared by all partitions of a pipeline. Who wants to hold bytes
//! takes a [`Reservation`] first and keeps it beside them; dropping it gives the bytes back.
//! Waiters are served in the order in which they came.
//!
//! Nobody may wait for more while holding some that only he can free: a reader waits with
//! empty hands and grows a batch by [`MemoryBudget::try_reserve`] alone. Whoever holds bytes
//! until a commit listens to [`MemoryBudget::contended`] and commits early.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

/// Bytes that all holders together may hold; clones share them.
#[derive(Debug, Clone)]
pub struct MemoryBudget {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    capacity: usize,
    free: Arc<Semaphore>,
    waiting: watch::Sender<usize>,
}

impl MemoryBudget {
    /// `bytes` is at least 1 and at most what a semaphore can count.
    pub fn new(bytes: usize) -> Self {
        let capacity = bytes.clamp(1, Semaphore::MAX_PERMITS);
        Self {
            inner: Arc::new(Inner {
                capacity,
                free: Arc::new(Semaphore::new(capacity)),
                waiting: watch::Sender::new(0),
            }),
        }
    }

    pub fn capacity(&self) -> usize {
        self.inner.capacity
    }

    pub fn in_use(&self) -> usize {
        self.inner.capacity - self.inner.free.available_permits().min(self.inner.capacity)
    }

    /// How many wait for bytes.
    pub fn waiting(&self) -> usize {
        *self.inner.waiting.borrow()
    }

    /// Waits until the bytes are free. More than the whole budget is taken as the whole
    /// budget, so that one huge batch can still pass, alone.
    ///
    /// # Cancel safety
    /// Dropped before it is ready, it holds nothing and leaves the queue.
    pub async fn reserve(&self, bytes: usize) -> Reservation {
        let permits = self.permits(bytes);
        if let Ok(permit) = Arc::clone(&self.inner.free).try_acquire_many_owned(permits) {
            return Reservation { permit };
        }
        let _waiter = Waiter::new(&self.inner.waiting);
        let permit =
            Arc::clone(&self.inner.free).acquire_many_owned(permits).await.expect("the semaphore is never closed");
        Reservation { permit }
    }

    /// The bytes, if they are free now and nobody waits for them.
    pub fn try_reserve(&self, bytes: usize) -> Option<Reservation> {
        let permits = self.permits(bytes);
        let permit = Arc::clone(&self.inner.free).try_acquire_many_owned(permits).ok()?;
        Some(Reservation { permit })
    }

    /// Ready as soon as somebody waits for bytes.
    ///
    /// # Cancel safety
    /// It only looks.
    pub async fn contended(&self) {
        let mut waiting = self.inner.waiting.subscribe();
        // The sender lives as long as `self`.
        let _ = waiting.wait_for(|count| *count > 0).await;
    }

    /// One reservation can't count beyond 4 GiB; a budget may.
    fn permits(&self, bytes: usize) -> u32 {
        u32::try_from(bytes.min(self.inner.capacity)).unwrap_or(u32::MAX)
    }
}

/// Bytes taken from a budget, given back on drop.
#[derive(Debug)]
pub struct Reservation {
    permit: OwnedSemaphorePermit,
}

impl Reservation {
    pub fn bytes(&self) -> usize {
        self.permit.num_permits()
    }

    /// Takes over what `other` holds; both come from the same budget.
    pub fn merge(&mut self, other: Reservation) {
        self.permit.merge(other.permit);
    }

    /// Holds `bytes` from now on, as far as they are free: what became larger than it was reserved
    /// for is there already, and waiting for more would wait for itself.
    pub fn hold(&mut self, bytes: usize, budget: &MemoryBudget) {
        let bytes = bytes.min(budget.capacity());
        self.shrink_to(bytes);
        let missing = bytes - self.bytes();
        if let Some(more) = (missing > 0).then(|| budget.try_reserve(missing)).flatten() {
            self.merge(more);
        }
    }

    /// So many bytes of it as a reservation of their own; all of it, where it holds less.
    pub fn split(&mut self, bytes: usize) -> Self {
        let bytes = bytes.min(self.bytes());
        Self { permit: self.permit.split(bytes).expect("no more is split off than is held") }
    }

    /// Gives back what is held beyond `bytes`.
    pub fn shrink_to(&mut self, bytes: usize) {
        let surplus = self.bytes().saturating_sub(bytes);
        drop(self.permit.split(surplus));
    }
}

struct Waiter<'a> {
    waiting: &'a watch::Sender<usize>,
}

impl<'a> Waiter<'a> {
    fn new(waiting: &'a watch::Sender<usize>) -> Self {
        waiting.send_modify(|count| *count += 1);
        Self { waiting }
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.waiting.send_modify(|count| *count -= 1);
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn dropped_reservations_are_free_again() {
        let budget = MemoryBudget::new(100);
        let first = budget.reserve(60).await;
        let mut second = budget.reserve(40).await;
        assert_eq!(budget.in_use(), 100);
        assert!(budget.try_reserve(1).is_none());
        drop(first);
        assert_eq!(budget.in_use(), 40);
        second.merge(budget.try_reserve(10).expect("60 are free"));
        assert_eq!(second.bytes(), 50);
        second.shrink_to(5);
        assert_eq!(budget.in_use(), 5);
        let part = second.split(2);
        assert_eq!((part.bytes(), second.bytes(), budget.in_use()), (2, 3, 5));
        second.merge(part);
        let all = second.split(9);
        assert_eq!((all.bytes(), second.bytes()), (5, 0));
        second.merge(all);
        second.hold(30, &budget);
        assert_eq!((second.bytes(), budget.in_use()), (30, 30));
        second.hold(1_000, &budget);
        assert_eq!(second.bytes(), 100, "a whole budget is the most that anything is counted for");
        second.hold(20, &budget);
        let others = budget.reserve(80).await;
        second.hold(50, &budget);
        assert_eq!(second.bytes(), 20, "nothing is free, and nobody waits");
        drop(others);
    }

    #[tokio::test]
    async fn what_is_larger_than_the_budget_passes_alone() {
        let budget = MemoryBudget::new(10);
        let small = budget.reserve(1).await;
        let mut huge = Box::pin(budget.reserve(1_000));
        assert!(huge.as_mut().now_or_never().is_none());
        drop(small);
        assert_eq!(huge.await.bytes(), 10);
    }

    #[tokio::test]
    async fn a_small_wish_does_not_overtake_a_large_one() {
        let budget = MemoryBudget::new(10);
        let held = budget.reserve(6).await;
        let mut large = Box::pin(budget.reserve(8));
        assert!(large.as_mut().now_or_never().is_none());
        assert!(budget.try_reserve(2).is_none());
        let mut small = Box::pin(budget.reserve(2));
        assert!(small.as_mut().now_or_never().is_none());
        drop(held);
        let large = large.as_mut().now_or_never().expect("it came first");
        let small = small.as_mut().now_or_never().expect("2 are left");
        assert_eq!((large.bytes(), small.bytes()), (8, 2));
    }

    #[tokio::test]
    async fn a_cancelled_wait_leaves_nothing_behind() {
        let budget = MemoryBudget::new(10);
        let held = budget.reserve(10).await;
        let mut contended = Box::pin(budget.contended());
        assert!(contended.as_mut().now_or_never().is_none());
        let mut waiting = Box::pin(budget.reserve(5));
        assert!(waiting.as_mut().now_or_never().is_none());
        assert_eq!(budget.waiting(), 1);
        assert!(contended.as_mut().now_or_never().is_some());
        drop(waiting);
        assert_eq!(budget.waiting(), 0);
        drop(held);
        assert_eq!(budget.in_use(), 0);
    }
}
