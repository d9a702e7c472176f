//! The clients of one hub, and who uses which.
//!
//! Up to [`GROUP`] partitions share a client, so that a dead connection takes only its group;
//! one more client is for management calls. A client is never mended: whoever meets an error
//! on it retires it, the next one to ask opens a fresh one, and it ends when its last user
//! has left. A client reads a partition once at most: asked again for the same partition it
//! would go on with the link that it had.
//!
//! **Links are dropped, never detached.** The AMQP library answers a peer that closes the link
//! while it is being detached by attaching it once more, to close it as the standard has it:
//! with the owner level and all, so that a dying link would take the partition from the one
//! that replaced it. Closing a client detaches its links too. So a reader's client is dropped,
//! which closes its links and its connection without waiting for anybody; what stays is the
//! client's task that would refresh the token, asleep until then. A link that was left on a
//! client that others still use is displaced by the next one, or goes with the client.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use azure_messaging_eventhubs::ConsumerClient;
use tokio::runtime::Handle;
use tokio::sync::OnceCell;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::access::Access;
use super::failure::Asked;
use crate::source::SourceError;

/// Partitions that share a connection. More, and one broken connection stops more of them;
/// fewer, and a hub of 100 partitions opens so many more.
const GROUP: u32 = 8;

/// TCP, TLS, SASL and Open take a handful of round trips; a token from a cold credential some
/// seconds. Shorter, and a slow start never succeeds; longer, and a dead one is noticed late.
const OPEN_TIMEOUT: Duration = Duration::from_secs(30);

/// What closing may take before the connection is just dropped: it waits for a peer that may
/// be gone.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Closes clients that hold no links to partitions, off the path of those who go on.
#[derive(Clone, Default)]
struct Closing {
    /// Not a `JoinSet`: one that is spawned into under its lock would wait for itself where
    /// the runtime ends and drops what it is given, and with it the next thing to close.
    tasks: Arc<Mutex<Vec<JoinHandle<()>>>>,
}

impl Closing {
    fn run(&self, close: impl Future<Output = ()> + Send + 'static) {
        // Outside a runtime the connection closes by being dropped.
        let Ok(handle) = Handle::try_current() else { return };
        let task = handle.spawn(close);
        let mut tasks = lock(&self.tasks);
        tasks.retain(|task| !task.is_finished());
        tasks.push(task);
    }

    fn client(&self, client: ConsumerClient) {
        self.run(async move {
            if let Ok(Err(error)) = timeout(CLOSE_TIMEOUT, client.close()).await {
                tracing::debug!(%error, "closing a client failed");
            }
        });
    }

    /// Waits for what is still closing, each bounded by its own timeout.
    async fn finish(&self) {
        let tasks = mem::take(&mut *lock(&self.tasks));
        for task in tasks {
            if let Err(error) = task.await {
                tracing::debug!(%error, "closing a connection broke off");
            }
        }
    }
}

/// A client between its opening and its last user.
struct Opened {
    number: u64,
    client: OnceCell<ConsumerClient>,
    partitions: Mutex<HashSet<String>>,
    /// How to close it; a reader's client is dropped.
    closing: Option<Closing>,
}

impl Drop for Opened {
    fn drop(&mut self) {
        if let (Some(client), Some(closing)) = (self.client.take(), &self.closing) {
            closing.client(client);
        }
    }
}

/// The place of a client that is replaced when it fails.
pub(super) struct Slot {
    current: Mutex<Arc<Opened>>,
    closing: Option<Closing>,
}

impl Slot {
    fn new(closing: Option<Closing>) -> Self {
        Self { current: Mutex::new(Arc::new(Self::opened(0, closing.clone()))), closing }
    }

    fn opened(number: u64, closing: Option<Closing>) -> Opened {
        Opened { number, client: OnceCell::new(), partitions: Mutex::new(HashSet::new()), closing }
    }

    fn current(&self) -> Arc<Opened> {
        Arc::clone(&lock(&self.current))
    }

    /// The client that isn't reading the partition and never did.
    fn unread(&self, partition: &str) -> Arc<Opened> {
        loop {
            let opened = self.current();
            if lock(&opened.partitions).insert(partition.to_owned()) {
                return opened;
            }
            self.retire(opened.number);
        }
    }

    /// Nobody new gets the client of that number; whoever has it may go on.
    fn retire(&self, number: u64) {
        let mut current = lock(&self.current);
        if current.number == number {
            *current = Arc::new(Self::opened(number + 1, self.closing.clone()));
        }
    }
}

/// The use of a client, until dropped.
pub(super) struct Lease {
    slot: Arc<Slot>,
    opened: Arc<Opened>,
}

impl Lease {
    pub(super) fn client(&self) -> &ConsumerClient {
        self.opened.client.get().expect("a lease is given after the client was opened")
    }

    /// The same client, for a future of its own.
    pub(super) fn share(&self) -> Self {
        Self { slot: Arc::clone(&self.slot), opened: Arc::clone(&self.opened) }
    }

    /// After an error: the next one to ask gets a fresh client.
    pub(super) fn retire(&self) {
        self.slot.retire(self.opened.number);
    }
}

/// All clients of one hub and consumer group.
pub(super) struct Clients {
    pub(super) access: Access,
    pub(super) hub: String,
    pub(super) group: String,
    readers: Mutex<HashMap<u32, Arc<Slot>>>,
    management: Arc<Slot>,
    closing: Closing,
}

impl Clients {
    pub(super) fn new(access: Access, hub: String, group: String) -> Self {
        let closing = Closing::default();
        let management = Arc::new(Slot::new(Some(closing.clone())));
        Self { access, hub, group, readers: Mutex::default(), management, closing }
    }

    pub(super) fn asked<'a>(&'a self, partition: &'a str, doing: String) -> Asked<'a> {
        Asked { namespace: &self.access.namespace, hub: &self.hub, group: &self.group, partition, doing }
    }

    /// A client to read the partition with.
    pub(super) async fn for_partition(&self, partition: &str) -> Result<Lease, SourceError> {
        let slot =
            Arc::clone(lock(&self.readers).entry(group_of(partition)).or_insert_with(|| Arc::new(Slot::new(None))));
        let opened = slot.unread(partition);
        self.lease(slot, opened).await
    }

    pub(super) async fn for_management(&self) -> Result<Lease, SourceError> {
        let slot = Arc::clone(&self.management);
        let opened = slot.current();
        self.lease(slot, opened).await
    }

    /// A client of one's own, for one look.
    pub(super) async fn for_once(&self) -> Result<Lease, SourceError> {
        let slot = Arc::new(Slot::new(None));
        let opened = slot.current();
        self.lease(slot, opened).await
    }

    async fn lease(&self, slot: Arc<Slot>, opened: Arc<Opened>) -> Result<Lease, SourceError> {
        let lease = Lease { slot, opened };
        let doing = || format!("connect to hub `{}`", self.hub);
        let open = lease.opened.client.get_or_try_init(|| self.access.open_consumer(&self.hub, &self.group));
        let outcome = match timeout(OPEN_TIMEOUT, open).await {
            Ok(Ok(_)) => return Ok(lease),
            Ok(Err(error)) => self.asked("", doing()).failed(error),
            Err(_) => SourceError::TimedOut { doing: doing(), after: OPEN_TIMEOUT },
        };
        lease.retire();
        Err(outcome)
    }

    /// Gives up every client; those in use go with their users.
    pub(super) async fn close(&self) {
        lock(&self.readers).clear();
        let management = self.management.current();
        self.management.retire(management.number);
        drop(management);
        self.closing.finish().await;
    }
}

/// Partitions of Event Hubs are numbered from 0; anything else is spread by its name.
fn group_of(partition: &str) -> u32 {
    partition.parse::<u32>().map_or_else(
        |_| {
            let mut hasher = DefaultHasher::new();
            partition.hash(&mut hasher);
            // Beyond the groups of numbered partitions, and not many.
            u32::MAX - (hasher.finish() % 128) as u32
        },
        |number| number / GROUP,
    )
}

/// No code under these locks can panic half-way.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eight_partitions_share_a_client() {
        let groups: Vec<u32> = (0..20).map(|number: u32| group_of(&number.to_string())).collect();
        assert_eq!(groups[..8], [0; 8]);
        assert_eq!(groups[8..16], [1; 8]);
        assert_eq!(group_of("seven"), group_of("seven"));
    }

    #[test]
    fn a_client_is_asked_for_a_partition_once_at_most() {
        let slot = Slot::new(None);
        let first = slot.unread("0");
        assert_eq!(slot.unread("1").number, first.number);
        assert_eq!(slot.unread("0").number, first.number + 1);
    }

    #[test]
    fn a_client_is_retired_once_however_many_met_the_error() {
        let slot = Slot::new(None);
        slot.retire(0);
        slot.retire(0);
        assert_eq!(slot.current().number, 1);
    }
}
