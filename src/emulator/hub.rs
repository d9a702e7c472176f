//! Hubs and their partitions: the log, who waits for it, and who reads it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::broker::PartitionInfo;
use super::error::BrokerError;
use super::journal::{self, HubFile, Journal};
use super::log::{BeyondEnd, PartitionLog, StoredEvent};
use super::messages::{self, EventMessage, Place};
use super::options::{HubSpec, MAX_MESSAGE_BYTES, Retention};
use super::selector::StartPosition;

/// The service allows no more without an epoch.
const MAX_READERS_WITHOUT_EPOCH: usize = 5;

/// Epoch milliseconds.
pub(super) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What all partitions share: the memory they may fill, and how long they keep events.
#[derive(Debug)]
pub(super) struct Store {
    max_bytes: u64,
    used_bytes: AtomicU64,
    retention: RwLock<Retention>,
    dir: Option<PathBuf>,
}

impl Store {
    pub(super) fn new(max_bytes: u64, retention: Retention, dir: Option<PathBuf>) -> Self {
        Self { max_bytes, used_bytes: AtomicU64::new(0), retention: RwLock::new(retention), dir }
    }

    pub(super) fn retention(&self) -> Retention {
        *self.retention.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_retention(&self, retention: Retention) {
        *self.retention.write().unwrap_or_else(PoisonError::into_inner) = retention;
    }

    fn full(&self) -> BrokerError {
        BrokerError::Full { max_bytes: self.max_bytes }
    }
}

/// The hubs of a namespace.
#[derive(Debug)]
pub(super) struct Hubs {
    store: Arc<Store>,
    hubs: RwLock<BTreeMap<String, Arc<Hub>>>,
}

impl Hubs {
    /// The hubs that were kept in the folder, and those that are asked for.
    pub(super) fn open(store: Arc<Store>, specs: &[HubSpec]) -> Result<Self, BrokerError> {
        let kept = store.dir.as_deref().map(journal::kept_hubs).transpose()?.unwrap_or_default();
        let hubs = Self { store, hubs: RwLock::default() };
        for mut file in kept {
            if let Some(asked) = specs.iter().find(|spec| spec.name == file.spec.name) {
                if asked.partitions != file.spec.partitions {
                    return Err(BrokerError::PartitionsDiffer {
                        hub: asked.name.clone(),
                        kept: file.spec.partitions,
                        partitions: asked.partitions,
                    });
                }
                file.spec.consumer_groups.clone_from(&asked.consumer_groups);
            }
            hubs.put(file)?;
        }
        for spec in specs {
            if hubs.get(&spec.name).is_none() {
                hubs.create(spec.clone())?;
            }
        }
        Ok(hubs)
    }

    fn put(&self, file: HubFile) -> Result<(), BrokerError> {
        file.spec.check()?;
        if let Some(dir) = &self.store.dir {
            journal::keep_hub(dir, &file)?;
        }
        let hub = Arc::new(Hub::open(file, &self.store)?);
        self.hubs.write().unwrap_or_else(PoisonError::into_inner).insert(hub.spec.name.clone(), hub);
        Ok(())
    }

    pub(super) fn create(&self, spec: HubSpec) -> Result<(), BrokerError> {
        if self.get(&spec.name).is_some() {
            return Err(BrokerError::HubExists { hub: spec.name });
        }
        self.put(HubFile { spec, created_at: now() })
    }

    /// Deletes a hub and creates it again: its links are detached, its numbers start at 0.
    pub(super) fn remake(&self, name: &str) -> Result<(), BrokerError> {
        let old = self.find(name)?;
        if let Some(dir) = &self.store.dir {
            journal::forget_hub(dir, name)?;
        }
        // A hub that is made anew within the same millisecond must still tell itself apart.
        let created_at = now().max(old.created_at + 1);
        self.put(HubFile { spec: old.spec.clone(), created_at })?;
        for partition in &old.partitions {
            partition.empty();
        }
        old.gone.cancel();
        Ok(())
    }

    pub(super) fn get(&self, name: &str) -> Option<Arc<Hub>> {
        self.hubs.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    pub(super) fn find(&self, name: &str) -> Result<Arc<Hub>, BrokerError> {
        self.get(name).ok_or_else(|| BrokerError::UnknownHub { hub: name.to_owned() })
    }

    pub(super) fn partition(&self, hub: &str, partition: &str) -> Result<Arc<Partition>, BrokerError> {
        self.find(hub)?
            .partition(partition)
            .cloned()
            .ok_or_else(|| BrokerError::UnknownPartition { hub: hub.to_owned(), partition: partition.to_owned() })
    }

    pub(super) fn all(&self) -> Vec<Arc<Hub>> {
        self.hubs.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Lets retention bite in every partition.
    pub(super) fn expire(&self) -> Result<(), BrokerError> {
        for hub in self.all() {
            for partition in &hub.partitions {
                partition.retain()?;
            }
        }
        Ok(())
    }
}

#[derive(Debug)]
pub(super) struct Hub {
    pub(super) spec: HubSpec,
    /// Epoch milliseconds.
    pub(super) created_at: i64,
    pub(super) partitions: Vec<Arc<Partition>>,
    /// Cancelled when the hub is made anew: this one is no more.
    pub(super) gone: CancellationToken,
    turn: AtomicUsize,
}

impl Hub {
    fn open(file: HubFile, store: &Arc<Store>) -> Result<Self, BrokerError> {
        let partitions = (0..file.spec.partitions)
            .map(|index| Partition::open(&file.spec.name, index.to_string(), store).map(Arc::new))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            spec: file.spec,
            created_at: file.created_at,
            partitions,
            gone: CancellationToken::new(),
            turn: AtomicUsize::new(0),
        })
    }

    pub(super) fn partition(&self, id: &str) -> Option<&Arc<Partition>> {
        self.partitions.iter().find(|partition| partition.id == id)
    }

    /// Where events without a partition of their own go: by their key, or to each in turn.
    pub(super) fn partition_for(&self, key: Option<&str>) -> &Arc<Partition> {
        let count = self.partitions.len();
        let index = match key {
            Some(key) => (fnv1a(key.as_bytes()) % count as u64) as usize,
            None => self.turn.fetch_add(1, Ordering::Relaxed) % count,
        };
        &self.partitions[index]
    }
}

/// The same key lands on the same partition in every run.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[derive(Debug)]
struct State {
    log: PartitionLog,
    journal: Option<Journal>,
}

#[derive(Debug)]
pub(super) struct Partition {
    pub(super) id: String,
    hub: String,
    store: Arc<Store>,
    state: Mutex<State>,
    next: watch::Sender<i64>,
    readers: Mutex<Vec<Reader>>,
    seats: AtomicU64,
}

impl Partition {
    fn open(hub: &str, id: String, store: &Arc<Store>) -> Result<Self, BrokerError> {
        let (journal, log) = match &store.dir {
            Some(dir) => {
                let (journal, log) = Journal::open(dir, hub, &id)?;
                (Some(journal), log)
            }
            None => (None, PartitionLog::default()),
        };
        store.used_bytes.fetch_add(log.memory_bytes(), Ordering::Relaxed);
        let partition = Self {
            id,
            hub: hub.to_owned(),
            store: Arc::clone(store),
            next: watch::Sender::new(log.next_sequence_number()),
            state: Mutex::new(State { log, journal }),
            readers: Mutex::default(),
            seats: AtomicU64::new(0),
        };
        partition.retain()?;
        Ok(partition)
    }

    /// Takes events in, all or none; says their numbers.
    pub(super) fn append(&self, events: Vec<EventMessage>, key: Option<&str>) -> Result<Vec<i64>, BrokerError> {
        let mut state = lock(&self.state);
        let enqueued_at = state.log.enqueue_time(now());
        let (mut number, mut offset) = (state.log.next_sequence_number(), state.log.next_offset());
        let mut stored = Vec::with_capacity(events.len());
        for event in events {
            let bytes = messages::payload_bytes(&event).map_err(BrokerError::Encode)?;
            if bytes > MAX_MESSAGE_BYTES {
                return Err(BrokerError::TooLarge { bytes });
            }
            let place = Place { sequence_number: number, offset, enqueued_at };
            let message = messages::encode(event, place, key, bytes).map_err(BrokerError::Encode)?;
            offset += bytes as i64;
            stored.push((StoredEvent { sequence_number: number, offset: place.offset, enqueued_at, message }, offset));
            number += 1;
        }
        let bytes = stored.iter().map(|(event, _)| event.memory_bytes()).sum();
        self.make_room(&mut state, bytes)?;
        if let Some(journal) = &mut state.journal
            && let Err(error) = journal.append(&stored)
        {
            self.store.used_bytes.fetch_sub(bytes, Ordering::Relaxed);
            return Err(error);
        }
        let numbers = stored.iter().map(|(event, _)| event.sequence_number).collect();
        for (event, next_offset) in stored {
            state.log.push(event, next_offset);
        }
        self.retain_locked(&mut state)?;
        self.next.send_replace(number);
        Ok(numbers)
    }

    /// Takes memory for what is to be stored, if need be from the oldest events.
    fn make_room(&self, state: &mut State, bytes: u64) -> Result<(), BrokerError> {
        let used = &self.store.used_bytes;
        let fits = |used: u64| (used + bytes <= self.store.max_bytes).then_some(used + bytes);
        let may_evict = self.store.retention().is_bounded();
        let begin = state.log.begin();
        let taken = loop {
            if used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).is_ok() {
                break Ok(());
            }
            match may_evict.then(|| state.log.pop_front()).flatten() {
                Some(event) => used.fetch_sub(event.memory_bytes(), Ordering::Relaxed),
                None => break Err(self.store.full()),
            };
        };
        self.note_expired(state, begin)?;
        taken
    }

    fn note_expired(&self, state: &mut State, begin_was: i64) -> Result<(), BrokerError> {
        let begin = state.log.begin();
        match &mut state.journal {
            Some(journal) if begin != begin_was => journal.expire(begin),
            _ => Ok(()),
        }
    }

    fn shrink(&self, state: &mut State, work: impl FnOnce(&mut PartitionLog)) -> Result<(), BrokerError> {
        let (begin, bytes) = (state.log.begin(), state.log.memory_bytes());
        work(&mut state.log);
        self.store.used_bytes.fetch_sub(bytes - state.log.memory_bytes(), Ordering::Relaxed);
        self.note_expired(state, begin)
    }

    fn retain_locked(&self, state: &mut State) -> Result<(), BrokerError> {
        let retention = self.store.retention();
        if !retention.is_bounded() {
            return Ok(());
        }
        self.shrink(state, |log| {
            log.retain(&retention, now());
        })
    }

    pub(super) fn retain(&self) -> Result<(), BrokerError> {
        self.retain_locked(&mut lock(&self.state))
    }

    pub(super) fn expire_before(&self, sequence_number: i64) -> Result<(), BrokerError> {
        self.shrink(&mut lock(&self.state), |log| {
            log.expire_before(sequence_number);
        })
    }

    /// Gives back the memory of a partition whose hub is no more.
    fn empty(&self) {
        let mut state = lock(&self.state);
        state.journal = None;
        self.store.used_bytes.fetch_sub(state.log.memory_bytes(), Ordering::Relaxed);
        state.log = PartitionLog::default();
    }

    pub(super) fn resolve(&self, position: &StartPosition) -> Result<i64, BeyondEnd> {
        lock(&self.state).log.resolve(position)
    }

    pub(super) fn read(&self, from: i64, max_events: usize, max_bytes: u64) -> Vec<Arc<StoredEvent>> {
        lock(&self.state).log.read(from, max_events, max_bytes)
    }

    /// Changes whenever an event was taken in.
    pub(super) fn watch(&self) -> watch::Receiver<i64> {
        self.next.subscribe()
    }

    /// Lets everyone who waits for an event look again.
    pub(super) fn wake(&self) {
        self.next.send_modify(|_| {});
    }

    pub(super) fn info(&self) -> PartitionInfo {
        let receivers = lock(&self.readers).len();
        let state = lock(&self.state);
        PartitionInfo {
            hub: self.hub.clone(),
            partition: self.id.clone(),
            begin_sequence_number: state.log.begin(),
            last_sequence_number: state.log.next_sequence_number() - 1,
            last_offset: state.log.last_offset(),
            last_enqueued_at: state.log.last_enqueued_at(),
            events: state.log.len() as u64,
            bytes: state.log.memory_bytes(),
            receivers,
        }
    }

    /// Takes a reader in. A higher or equal epoch displaces those of its group that are there.
    pub(super) fn seat(self: &Arc<Self>, group: &str, epoch: Option<i64>) -> Result<Seat, SeatRefused> {
        let mut readers = lock(&self.readers);
        let group = group.to_ascii_lowercase();
        let held = readers.iter().filter(|reader| reader.group == group).filter_map(|reader| reader.epoch).max();
        match (held, epoch) {
            (Some(held), None) => return Err(SeatRefused::EpochNeeded { held }),
            (Some(held), Some(epoch)) if epoch < held => return Err(SeatRefused::EpochLower { held, epoch }),
            (None, None) => {
                if readers.iter().filter(|reader| reader.group == group).count() >= MAX_READERS_WITHOUT_EPOCH {
                    return Err(SeatRefused::TooMany);
                }
            }
            (_, Some(_)) => readers.retain(|reader| {
                if reader.group == group {
                    reader.stolen.cancel();
                }
                reader.group != group
            }),
        }
        let id = self.seats.fetch_add(1, Ordering::Relaxed);
        let stolen = CancellationToken::new();
        readers.push(Reader { id, group, epoch, stolen: stolen.clone() });
        Ok(Seat { id, partition: Arc::clone(self), stolen })
    }
}

impl Drop for Partition {
    fn drop(&mut self) {
        self.store.used_bytes.fetch_sub(lock(&self.state).log.memory_bytes(), Ordering::Relaxed);
    }
}

#[derive(Debug)]
struct Reader {
    id: u64,
    /// In lower case.
    group: String,
    epoch: Option<i64>,
    stolen: CancellationToken,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum SeatRefused {
    #[error("a receiver with a higher epoch of `{held}` exists, so one with epoch `{epoch}` can't be created")]
    EpochLower { held: i64, epoch: i64 },
    #[error("a receiver with an epoch of `{held}` exists, so one without epoch isn't allowed")]
    EpochNeeded { held: i64 },
    #[error("there are {MAX_READERS_WITHOUT_EPOCH} receivers of this partition and consumer group already")]
    TooMany,
}

/// A reader's place at a partition; dropping it leaves.
#[derive(Debug)]
pub(super) struct Seat {
    id: u64,
    partition: Arc<Partition>,
    /// Cancelled when another reader took the partition over.
    pub(super) stolen: CancellationToken,
}

impl Drop for Seat {
    fn drop(&mut self) {
        lock(&self.partition.readers).retain(|reader| reader.id != self.id);
    }
}
