//! Failures on demand.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What a fault does to the link of a receiver, or to its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FaultAction {
    /// Detaches the link with `amqp:link:detach-forced`; it may attach again.
    Detach,
    /// Closes the link with `amqp:link:detach-forced`.
    Close,
    /// Closes the link with `amqp:link:stolen`, as if a higher epoch had come.
    Steal,
    /// Cuts the TCP connection, without a word.
    DropConnection,
    /// Holds the next event back; `{"delay": "250ms"}`.
    Delay(#[serde(with = "duration_text")] Duration),
    /// Closes the link with `com.microsoft:server-busy`.
    ServerBusy,
}

/// A failure that was ordered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    pub action: FaultAction,
    /// Any hub where none is named.
    #[serde(default)]
    pub hub: Option<String>,
    /// Any partition where none is named; they count together.
    #[serde(default)]
    pub partition: Option<String>,
    /// How many events are delivered before it strikes; counted anew after each strike.
    #[serde(default)]
    pub after_events: u64,
    /// How often it strikes; 0 until it is cleared.
    #[serde(default = "once")]
    pub times: u32,
}

fn once() -> u32 {
    1
}

impl Fault {
    fn concerns(&self, hub: &str, partition: &str) -> bool {
        self.hub.as_deref().is_none_or(|named| named == hub)
            && self.partition.as_deref().is_none_or(|named| named == partition)
    }
}

#[derive(Debug)]
struct Armed {
    fault: Fault,
    events_left: u64,
    strikes: u32,
}

/// The faults that were ordered and are not used up.
#[derive(Debug, Default)]
pub(super) struct FaultBook {
    armed: Mutex<Vec<Armed>>,
    /// How many there are, so that a delivery without faults takes no lock.
    count: AtomicUsize,
}

impl FaultBook {
    fn lock(&self) -> MutexGuard<'_, Vec<Armed>> {
        self.armed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn inject(&self, fault: Fault) {
        let mut armed = self.lock();
        armed.push(Armed { events_left: fault.after_events, strikes: 0, fault });
        self.count.store(armed.len(), Ordering::Release);
    }

    pub(super) fn clear(&self) {
        let mut armed = self.lock();
        armed.clear();
        self.count.store(0, Ordering::Release);
    }

    pub(super) fn list(&self) -> Vec<Fault> {
        self.lock().iter().map(|armed| armed.fault.clone()).collect()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.count.load(Ordering::Acquire) == 0
    }

    /// Counts a delivered event.
    pub(super) fn delivered(&self, hub: &str, partition: &str) {
        for armed in self.lock().iter_mut().filter(|armed| armed.fault.concerns(hub, partition)) {
            armed.events_left = armed.events_left.saturating_sub(1);
        }
    }

    /// Takes the first fault that is due on a partition. A delay is due only where an event
    /// waits to be delivered.
    pub(super) fn strike(&self, hub: &str, partition: &str, event_waits: bool) -> Option<FaultAction> {
        let mut all = self.lock();
        let index = all.iter().position(|armed| {
            armed.events_left == 0
                && armed.fault.concerns(hub, partition)
                && (event_waits || !matches!(armed.fault.action, FaultAction::Delay(_)))
        })?;
        let armed = &mut all[index];
        let action = armed.fault.action;
        armed.events_left = armed.fault.after_events;
        armed.strikes += 1;
        if armed.fault.times != 0 && armed.strikes >= armed.fault.times {
            all.remove(index);
            self.count.store(all.len(), Ordering::Release);
        }
        Some(action)
    }
}

pub(super) mod duration_text {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer, de};

    pub(in crate::emulator) fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&humantime::format_duration(*duration))
    }

    pub(in crate::emulator) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        let text = String::deserialize(deserializer)?;
        humantime::parse_duration(&text).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(action: FaultAction, after_events: u64, times: u32) -> Fault {
        Fault { action, hub: None, partition: Some("1".to_owned()), after_events, times }
    }

    #[test]
    fn a_fault_strikes_after_its_events_and_as_often_as_ordered() {
        let book = FaultBook::default();
        book.inject(fault(FaultAction::Close, 2, 2));
        let mut strikes = Vec::new();
        for event in 1..=10 {
            book.delivered("hub", "1");
            if book.strike("hub", "1", true).is_some() {
                strikes.push(event);
            }
        }
        assert_eq!(strikes, [2, 4]);
        assert!(book.is_empty());
    }

    #[test]
    fn a_fault_spares_the_partitions_that_it_does_not_name() {
        let book = FaultBook::default();
        book.inject(fault(FaultAction::Close, 0, 1));
        assert_eq!(book.strike("hub", "0", true), None);
        assert_eq!(book.strike("hub", "1", true), Some(FaultAction::Close));
    }

    #[test]
    fn a_delay_waits_for_an_event() {
        let book = FaultBook::default();
        book.inject(fault(FaultAction::Delay(Duration::from_millis(5)), 0, 1));
        assert_eq!(book.strike("hub", "1", false), None);
        assert!(book.strike("hub", "1", true).is_some());
    }

    #[test]
    fn faults_are_written_in_kebab_case_with_readable_durations() {
        let written = serde_json::to_value([
            FaultAction::DropConnection,
            FaultAction::ServerBusy,
            FaultAction::Delay(Duration::from_millis(250)),
        ])
        .expect("plain data");
        assert_eq!(written, serde_json::json!(["drop-connection", "server-busy", {"delay": "250ms"}]));
        let read: Fault = serde_json::from_str(r#"{"action": {"delay": "2s"}}"#).expect("a fault");
        assert_eq!(read.action, FaultAction::Delay(Duration::from_secs(2)));
        assert_eq!((read.after_events, read.times), (0, 1));
    }
}
