//! What a broker can fail with.

use std::io;
use std::path::PathBuf;

use crate::error::{Classify, Kind, Retry};

#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    #[error("can't listen on port {port} of this machine")]
    Listen { port: u16, source: io::Error },
    #[error("can't start a thread for the emulator")]
    Thread(#[source] io::Error),
    #[error("`{hub}` can't name a hub")]
    HubName { hub: String },
    #[error("hub `{hub}` can't have {partitions} partitions")]
    PartitionCount { hub: String, partitions: u32 },
    #[error("there is a hub `{hub}` already")]
    HubExists { hub: String },
    #[error("there is no hub `{hub}`")]
    UnknownHub { hub: String },
    #[error("hub `{hub}` has no partition `{partition}`")]
    UnknownPartition { hub: String, partition: String },
    #[error("hub `{hub}` was kept with {kept} partitions, not {partitions}")]
    PartitionsDiffer { hub: String, kept: u32, partitions: u32 },
    #[error("the events in flight fill the memory of the emulator ({max_bytes} bytes)")]
    Full { max_bytes: u64 },
    #[error("an event of {bytes} bytes is larger than a message may be")]
    TooLarge { bytes: u64 },
    #[error("can't keep the log in `{}`", path.display())]
    Journal { path: PathBuf, source: io::Error },
    #[error("`{}` doesn't describe a hub", path.display())]
    HubFile { path: PathBuf, source: serde_json::Error },
    #[error("an event can't be written as an AMQP message")]
    Encode(#[source] serde_amqp::Error),
}

impl Classify for BrokerError {
    fn kind(&self) -> Kind {
        match self {
            Self::Listen { .. } | Self::Thread(_) | Self::Journal { .. } | Self::Full { .. } => Kind::External,
            Self::HubFile { .. } | Self::PartitionsDiffer { .. } => Kind::Data,
            Self::Encode(_) => Kind::Internal,
            Self::HubName { .. }
            | Self::PartitionCount { .. }
            | Self::HubExists { .. }
            | Self::UnknownHub { .. }
            | Self::UnknownPartition { .. }
            | Self::TooLarge { .. } => Kind::User,
        }
    }

    fn retry(&self) -> Retry {
        match self {
            Self::Full { .. } => Retry::Backoff,
            _ => Retry::Never,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Listen { .. } => Some("take another port, or 0 for a free one".to_owned()),
            Self::HubName { .. } => {
                Some("letters, digits, `.`, `-` and `_`, a letter or digit first, at most 256".to_owned())
            }
            Self::PartitionCount { .. } => Some("a hub has 1 to 1024 partitions".to_owned()),
            Self::PartitionsDiffer { .. } => Some("use the number it was kept with, or another folder".to_owned()),
            Self::Full { .. } => Some("give it more memory, or a retention that lets old events go".to_owned()),
            _ => None,
        }
    }
}
