//! What a broker is started with.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::error::BrokerError;

/// The largest message, a batch counted as one: the limit of Event Hubs from the standard
/// tier up.
pub const MAX_MESSAGE_BYTES: u64 = 1024 * 1024;

const MAX_PARTITIONS: u32 = 1024;
const MAX_NAME_BYTES: usize = 256;

/// A hub to serve.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HubSpec {
    pub name: String,
    /// 1 to 1024.
    pub partitions: u32,
    /// Groups beside `$Default`, which is always there. Where none is declared, any name
    /// is accepted.
    #[serde(default)]
    pub consumer_groups: Vec<String>,
}

impl HubSpec {
    pub fn new(name: impl Into<String>, partitions: u32) -> Self {
        Self { name: name.into(), partitions, consumer_groups: Vec::new() }
    }

    pub(super) fn check(&self) -> Result<(), BrokerError> {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        let starts_well = self.name.starts_with(|c: char| c.is_ascii_alphanumeric());
        if !starts_well || self.name.len() > MAX_NAME_BYTES || !self.name.chars().all(plain) {
            return Err(BrokerError::HubName { hub: self.name.clone() });
        }
        if self.partitions == 0 || self.partitions > MAX_PARTITIONS {
            return Err(BrokerError::PartitionCount { hub: self.name.clone(), partitions: self.partitions });
        }
        Ok(())
    }

    /// Groups are told apart without regard to case, as the service does.
    pub(super) fn has_group(&self, group: &str) -> bool {
        self.consumer_groups.is_empty()
            || group.eq_ignore_ascii_case("$Default")
            || self.consumer_groups.iter().any(|declared| declared.eq_ignore_ascii_case(group))
    }
}

/// What a partition keeps; without bounds, everything.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retention {
    /// Events that each partition keeps.
    pub max_events: Option<u64>,
    pub max_age: Option<Duration>,
}

impl Retention {
    pub(super) fn is_bounded(&self) -> bool {
        self.max_events.is_some() || self.max_age.is_some()
    }
}

/// See [`Broker::start`](super::Broker::start).
#[derive(Clone)]
pub struct BrokerOptions {
    /// The name shown to clients; nothing is resolved by it.
    pub namespace: String,
    pub hubs: Vec<HubSpec>,
    /// On loopback; 0 takes a free one.
    pub port: u16,
    /// Where events and hubs' creation times outlive the process; without it they don't.
    pub dir: Option<PathBuf>,
    /// Serves AMQP over TLS, and over nothing else.
    pub tls: Option<Arc<rustls::ServerConfig>>,
    pub retention: Retention,
    /// Bounds the memory of all partitions together. When it is full the oldest events of
    /// the partition that is written to go if `retention` has a bound; otherwise producers
    /// hear `com.microsoft:server-busy`.
    pub max_bytes: u64,
    /// Name and key of shared access policies. Without any, every token is accepted.
    pub keys: Vec<(String, String)>,
    /// Tokens of type `jwt` that are accepted although `keys` are set.
    pub bearer_tokens: Vec<String>,
}

impl Default for BrokerOptions {
    fn default() -> Self {
        Self {
            namespace: "emulator".to_owned(),
            hubs: Vec::new(),
            port: 0,
            dir: None,
            tls: None,
            retention: Retention::default(),
            max_bytes: 2 * 1024 * 1024 * 1024,
            keys: Vec::new(),
            bearer_tokens: Vec::new(),
        }
    }
}

impl fmt::Debug for BrokerOptions {
    /// Says everything but the keys and tokens.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BrokerOptions")
            .field("namespace", &self.namespace)
            .field("hubs", &self.hubs)
            .field("port", &self.port)
            .field("dir", &self.dir)
            .field("tls", &self.tls.is_some())
            .field("retention", &self.retention)
            .field("max_bytes", &self.max_bytes)
            .field("keys", &self.keys.len())
            .field("bearer_tokens", &self.bearer_tokens.len())
            .finish()
    }
}
