//! How fast: a rate over the whole source, and how much the hub may send ahead.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// `max_events_per_second`: each batch waits until those before it had their time. A source
/// that was idle may start with a batch at once, no more.
#[derive(Debug)]
pub(super) struct Pace {
    rate: Option<u32>,
    next: Mutex<Option<Instant>>,
}

impl Pace {
    pub(super) fn new(rate: Option<u32>) -> Self {
        Self { rate: rate.filter(|rate| *rate > 0), next: Mutex::new(None) }
    }

    /// How many events a batch may hold: a tenth of a second's worth, so that the rate is even.
    pub(super) fn batch_events(&self, most: usize) -> usize {
        self.rate.map_or(most, |rate| (rate as usize / 10).clamp(1, most))
    }

    /// Waits for the batch's turn.
    ///
    /// # Cancel safety
    /// Dropped early, its turn is lost.
    pub(super) async fn turn(&self, events: usize) {
        if let Some(at) = self.at(events, Instant::now()) {
            sleep_until(at).await;
        }
    }

    fn at(&self, events: usize, now: Instant) -> Option<Instant> {
        let rate = self.rate?;
        let takes = Duration::from_secs_f64(events as f64 / f64::from(rate));
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let at = next.map_or(now, |next| next.max(now));
        *next = Some(at + takes);
        Some(at)
    }
}

/// The largest event that a hub takes; what a link may hold that has seen no event yet.
const LARGEST_EVENT: usize = 1024 * 1024;

/// How many events a link may have ahead of us. Fewer than some hundred cost throughput on a
/// long line; beyond 1000 nothing more was gained, and a broken link throws them all away.
const MAX_PREFETCH: u32 = 1000;

/// A link that has seen this many events knows their size well enough.
pub(super) const ENOUGH_TO_JUDGE: u64 = 64;

/// Learns how large the events of a hub are, and bounds what its links hold by bytes.
///
/// A link's credit counts events, so a link that was opened on a wrong guess is opened again.
#[derive(Debug, Default)]
pub(super) struct Credit {
    /// Events and bytes seen, halved from time to time so that it follows the hub.
    events: AtomicU64,
    bytes: AtomicU64,
}

impl Credit {
    pub(super) fn saw(&self, events: u64, bytes: u64) {
        const REMEMBERED: u64 = 100_000;
        let all = self.events.fetch_add(events, Ordering::Relaxed) + events;
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        if all > REMEMBERED {
            // A race halves twice or counts a batch once too often; the mean stays close.
            self.events.store(all / 2, Ordering::Relaxed);
            self.bytes.store(self.bytes.load(Ordering::Relaxed) / 2, Ordering::Relaxed);
        }
    }

    /// The credit of a link that may hold `share` bytes.
    pub(super) fn prefetch(&self, share: usize) -> u32 {
        let events = self.events.load(Ordering::Relaxed);
        let size = if events < ENOUGH_TO_JUDGE {
            LARGEST_EVENT
        } else {
            usize::try_from(self.bytes.load(Ordering::Relaxed) / events).unwrap_or(LARGEST_EVENT).max(1)
        };
        u32::try_from(share / size).unwrap_or(MAX_PREFETCH).clamp(1, MAX_PREFETCH)
    }

    /// Whether a link with this credit is so far off that opening it again is worth the while.
    pub(super) fn is_off(&self, prefetch: u32, share: usize) -> bool {
        let wanted = self.prefetch(share);
        wanted >= prefetch.saturating_mul(4) || wanted <= prefetch / 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_holds_over_all_batches() {
        let pace = Pace::new(Some(1_000));
        assert_eq!(pace.batch_events(500), 100);
        let start = Instant::now();
        let last = (0..21).filter_map(|_| pace.at(100, start)).last();
        assert_eq!(last, Some(start + Duration::from_secs(2)));
    }

    #[test]
    fn without_a_rate_nobody_waits() {
        let pace = Pace::new(None);
        assert_eq!(pace.at(1_000_000, Instant::now()), None);
        assert_eq!(pace.batch_events(500), 500);
    }

    #[test]
    fn credit_follows_the_size_of_events() {
        const SHARE: usize = 8 * 1024 * 1024;
        let credit = Credit::default();
        assert_eq!(credit.prefetch(SHARE), 8);
        credit.saw(100, 100 * 1024);
        assert_eq!(credit.prefetch(SHARE), MAX_PREFETCH);
        assert!(credit.is_off(8, SHARE));
        assert!(!credit.is_off(MAX_PREFETCH, SHARE));
        credit.saw(10_000, 10_000 * 512 * 1024);
        assert!(credit.prefetch(SHARE) <= 17);
        assert!(credit.is_off(MAX_PREFETCH, SHARE));
        assert_eq!(credit.prefetch(1), 1);
        assert!(!credit.is_off(1, 1));
    }

    #[test]
    fn credit_follows_a_hub_whose_events_change() {
        let credit = Credit::default();
        for _ in 0..1_000 {
            credit.saw(1_000, 1_000 * 100);
        }
        for _ in 0..1_000 {
            credit.saw(1_000, 1_000 * 100_000);
        }
        assert!(credit.prefetch(10_000_000) < 200);
    }
}
