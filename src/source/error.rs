//! What can go wrong while reading.

use std::error::Error as StdError;
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use thiserror::Error;

use super::capture::CaptureError;
use crate::config::spec::GenerationSpec;
use crate::error::{Classify, Kind, Retry};
use crate::storage::credential::CredentialError;

type Cause = Box<dyn StdError + Send + Sync>;

/// Cut by what the caller does next: mend the declaration, stop, or let it try again.
#[derive(Debug, Error)]
pub enum SourceError {
    /// The declared address can't be used.
    #[error("event hubs: {problem}")]
    Access { problem: String, hint: Option<String> },
    #[error("could not prepare the sign-in to event hubs")]
    Credential(#[source] CredentialError),
    /// No token, or a token without the right.
    #[error("not allowed to {doing} of `{namespace}`")]
    Unauthorized {
        doing: String,
        namespace: String,
        #[source]
        source: Cause,
    },
    #[error("could not {doing}: `{namespace}` has no such hub, partition or consumer group")]
    NotFound {
        doing: String,
        namespace: String,
        #[source]
        source: Cause,
    },
    /// Another reader of the same consumer group attached to the partition.
    #[error("partition `{partition}` of hub `{hub}` was taken over by another reader of consumer group `{group}`")]
    Stolen { hub: String, partition: String, group: String },
    /// The hub was made anew, or failed over: its numbers mean other events than before.
    #[error("hub `{hub}` counts anew, {difference}; declare the new generation: [source] {declaration}")]
    Generation { hub: String, difference: String, declaration: String },
    #[error("could not {doing}: no answer within {}", humantime::format_duration(*after))]
    TimedOut { doing: String, after: Duration },
    #[error("could not {doing}: `{namespace}` is busy")]
    Busy {
        doing: String,
        namespace: String,
        #[source]
        source: Cause,
    },
    /// The hub refused to begin there: its numbers don't reach so far.
    #[error("could not {doing}: the hub has no such position")]
    OutOfRange {
        doing: String,
        #[source]
        source: Cause,
    },
    #[error("could not {doing}")]
    Failed {
        doing: String,
        #[source]
        source: Cause,
    },
    /// The link ended, or an event came without what every event has.
    #[error("partition `{partition}` of hub `{hub}`: {what}")]
    Protocol { hub: String, partition: String, what: &'static str },
    #[error(transparent)]
    Capture(Box<CaptureError>),
    /// Larger than any message may be.
    #[error("an event of {bytes} bytes is too large for hub `{hub}`")]
    EventTooLarge { hub: String, bytes: usize },
}

impl From<CaptureError> for SourceError {
    fn from(error: CaptureError) -> Self {
        Self::Capture(Box::new(error))
    }
}

impl Classify for SourceError {
    fn kind(&self) -> Kind {
        match self {
            Self::Access { .. } => Kind::Config,
            Self::Credential(error) => error.kind(),
            Self::Capture(error) => error.kind(),
            Self::NotFound { .. } => Kind::Config,
            Self::Generation { .. } => Kind::Data,
            Self::EventTooLarge { .. } => Kind::User,
            Self::Unauthorized { .. }
            | Self::Stolen { .. }
            | Self::TimedOut { .. }
            | Self::Busy { .. }
            | Self::OutOfRange { .. }
            | Self::Failed { .. }
            | Self::Protocol { .. } => Kind::External,
        }
    }

    fn retry(&self) -> Retry {
        match self {
            Self::TimedOut { .. }
            | Self::Busy { .. }
            | Self::OutOfRange { .. }
            | Self::Failed { .. }
            | Self::Protocol { .. } => Retry::Backoff,
            Self::Capture(error) => error.retry(),
            Self::Access { .. }
            | Self::Credential(_)
            | Self::Unauthorized { .. }
            | Self::NotFound { .. }
            | Self::Stolen { .. }
            | Self::Generation { .. }
            | Self::EventTooLarge { .. } => Retry::Never,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Access { hint, .. } => hint.clone(),
            Self::Credential(error) => error.hint(),
            Self::Unauthorized { .. } => Some(
                "grant the role `Azure Event Hubs Data Receiver` on the hub (a grant on the consumer group alone \
                 isn't enough), or give the shared access policy the right `Listen`"
                    .into(),
            ),
            Self::NotFound { .. } => Some("compare `hub` and `consumer_group` with what the namespace lists".into()),
            Self::Stolen { .. } => Some("one reader for each consumer group: give every pipeline its own".into()),
            Self::Generation { .. } => Some("declare it only where the hub was really made anew or failed over".into()),
            _ => None,
        }
    }
}

impl SourceError {
    /// The error of a hub that isn't the one that the ledger knows, with the declaration that lets it go on.
    pub(crate) fn counts_anew(
        hub: &str,
        difference: String,
        generation: Option<&GenerationSpec>,
        since: Option<DateTime<Utc>>,
    ) -> Self {
        let name = next_generation(generation.map(|generation| generation.name.as_str()));
        let since =
            since.map_or_else(|| "<time>".to_owned(), |since| since.to_rfc3339_opts(SecondsFormat::Millis, true));
        let declaration = format!("generation = {{ name = \"{name}\", since = {since} }}");
        Self::Generation { hub: hub.to_owned(), difference, declaration }
    }

    /// The least time to leave the hub alone, where the service names one.
    pub(crate) fn pause(&self) -> Duration {
        match self {
            // What the other official clients wait after `server-busy`.
            Self::Busy { .. } => Duration::from_secs(4),
            // A partition that has just moved may be a moment behind itself.
            Self::OutOfRange { .. } => Duration::from_secs(1),
            // It worked before: a role that comes and goes isn't mended by asking often.
            Self::Unauthorized { .. } | Self::NotFound { .. } => Duration::from_secs(30),
            _ => Duration::ZERO,
        }
    }
}

fn next_generation(name: Option<&str>) -> String {
    match name {
        None => "2".to_owned(),
        Some(name) => match name.parse::<u64>() {
            Ok(number) => (number.saturating_add(1)).to_string(),
            Err(_) => format!("{name}-2"),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_declaration_to_add_names_another_generation() {
        assert_eq!(next_generation(None), "2");
        assert_eq!(next_generation(Some("2")), "3");
        assert_eq!(next_generation(Some("after-failover")), "after-failover-2");
    }
}
