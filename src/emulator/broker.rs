//! The handle by which a broker is started, fed, watched and disturbed.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::error::BrokerError;
use super::faults::Fault;
use super::hub::{Hubs, Partition};
use super::messages;
use super::options::{BrokerOptions, HubSpec, Retention};
use super::server::{self, Shared, Started, report_expiry};

/// An event to be appended in process.
#[derive(Debug, Clone, Default)]
pub struct StoredMessageInput {
    pub body: Bytes,
    pub content_type: Option<String>,
    pub properties: Vec<(String, String)>,
    /// Stored with the event; the partition is the one that was named.
    pub partition_key: Option<String>,
}

/// Where a partition stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionInfo {
    pub hub: String,
    pub partition: String,
    /// The first event kept; the next number where none is.
    pub begin_sequence_number: i64,
    /// -1 before the first event.
    pub last_sequence_number: i64,
    /// -1 before the first event.
    pub last_offset: i64,
    /// Epoch milliseconds; 0 before the first event.
    pub last_enqueued_at: i64,
    /// Events kept.
    pub events: u64,
    /// What they take in memory.
    pub bytes: u64,
    /// Links that read it now.
    pub receivers: usize,
}

#[derive(Debug)]
struct Running {
    address: SocketAddr,
    shared: Arc<Shared>,
    /// Cancelling it stops the server, as dropping the last handle does.
    stopped: DropGuard,
    /// Cancelled when it has ended.
    ended: CancellationToken,
}

/// A running broker. Clones are handles of the same; it ends with [`Broker::stop`] or with
/// the last handle.
#[derive(Debug, Clone)]
pub struct Broker {
    running: Arc<Running>,
}

impl Broker {
    /// Opens the hubs and listens on loopback.
    ///
    /// # Errors
    /// A hub that can't be, a port that is taken, a folder that can't be read.
    pub async fn start(options: BrokerOptions) -> Result<Self, BrokerError> {
        for spec in &options.hubs {
            spec.check()?;
        }
        let stopped = CancellationToken::new();
        let Started { shared, address, ended } = server::start(options, stopped.clone()).await?;
        Ok(Self { running: Arc::new(Running { address, shared, stopped: stopped.drop_guard(), ended }) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.running.address
    }

    pub(super) fn all_hubs(&self) -> &Hubs {
        &self.running.shared.hubs
    }

    pub fn hubs(&self) -> Vec<HubSpec> {
        self.all_hubs().all().iter().map(|hub| hub.spec.clone()).collect()
    }

    /// # Errors
    /// A hub of that name, or one that can't be.
    pub fn create_hub(&self, spec: HubSpec) -> Result<(), BrokerError> {
        self.all_hubs().create(spec)
    }

    /// As if the hub were deleted and created: a new creation time, numbers from 0, links
    /// detached.
    ///
    /// # Errors
    /// No such hub.
    pub fn remake_hub(&self, name: &str) -> Result<(), BrokerError> {
        self.all_hubs().remake(name)
    }

    /// Appends events without a client; says their numbers.
    ///
    /// # Errors
    /// No such partition, an event that is too large, or no memory left.
    pub fn append(
        &self,
        hub: &str,
        partition: &str,
        messages: Vec<StoredMessageInput>,
    ) -> Result<Vec<i64>, BrokerError> {
        let partition = self.all_hubs().partition(hub, partition)?;
        let mut numbers = Vec::with_capacity(messages.len());
        let mut messages = messages.into_iter().peekable();
        while let Some(first) = messages.next() {
            let key = first.partition_key.clone();
            let mut batch = vec![messages::message_of(first)];
            while let Some(next) = messages.next_if(|next| next.partition_key == key) {
                batch.push(messages::message_of(next));
            }
            numbers.extend(partition.append(batch, key.as_deref())?);
        }
        Ok(numbers)
    }

    /// # Errors
    /// No such partition.
    pub fn partition(&self, hub: &str, partition: &str) -> Result<PartitionInfo, BrokerError> {
        Ok(self.all_hubs().partition(hub, partition)?.info())
    }

    /// Lets retention take what lies before a number, now.
    ///
    /// # Errors
    /// No such partition.
    pub fn expire_before(&self, hub: &str, partition: &str, sequence_number: i64) -> Result<(), BrokerError> {
        self.all_hubs().partition(hub, partition)?.expire_before(sequence_number)
    }

    /// Retention from now on; what it no longer keeps goes at once.
    pub fn set_retention(&self, retention: Retention) {
        self.running.shared.store.set_retention(retention);
        report_expiry(&self.running.shared);
    }

    pub fn inject(&self, fault: Fault) {
        self.running.shared.faults.inject(fault);
        for hub in self.all_hubs().all() {
            hub.partitions.iter().for_each(|partition| Partition::wake(partition));
        }
    }

    pub fn clear_faults(&self) {
        self.running.shared.faults.clear();
    }

    /// Those that are not used up.
    pub fn faults(&self) -> Vec<Fault> {
        self.running.shared.faults.list()
    }

    /// Cuts every connection and frees the port.
    pub async fn stop(&self) {
        self.running.stopped.token().cancel();
        self.running.ended.cancelled().await;
    }
}
