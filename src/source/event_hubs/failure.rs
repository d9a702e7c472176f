//! From the client's errors to ours.
//!
//! What decides lies deep in the chain: an AMQP condition, or the status of a management or
//! token request. Everything that isn't known to be final may be tried again.

use std::error::Error as StdError;

use azure_core::http::StatusCode;
use azure_core_amqp::AmqpError;
use azure_core_amqp::error::{AmqpErrorCondition, AmqpErrorKind};
use azure_messaging_eventhubs::EventHubsError;
use azure_messaging_eventhubs::error::ErrorKind;

use crate::source::SourceError;

/// A chain longer than this is a loop.
const MAX_DEPTH: usize = 16;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failure {
    Stolen,
    Unauthorized,
    NotFound,
    Busy,
    OutOfRange,
    Other,
}

impl Failure {
    pub(super) fn of(error: &EventHubsError) -> Self {
        if matches!(error.kind, ErrorKind::ConsumerDisconnected(_)) {
            return Self::Stolen;
        }
        let mut cause: Option<&(dyn StdError + 'static)> = Some(error);
        for _ in 0..MAX_DEPTH {
            let Some(link) = cause else { break };
            if let Some(failure) = Self::of_link(link) {
                return failure;
            }
            cause = link.source();
        }
        Self::Other
    }

    fn of_link(link: &(dyn StdError + 'static)) -> Option<Self> {
        if let Some(error) = link.downcast_ref::<AmqpError>() {
            return match error.kind() {
                AmqpErrorKind::AmqpDescribedError(described) => Self::of_condition(&described.condition),
                AmqpErrorKind::ManagementStatusCode(status, _) => Self::of_status(*status),
                _ => None,
            };
        }
        let error = link.downcast_ref::<azure_core::Error>()?;
        match error.kind() {
            azure_core::error::ErrorKind::Credential => Some(Self::Unauthorized),
            azure_core::error::ErrorKind::HttpResponse { status, .. } => Self::of_status(*status),
            _ => None,
        }
    }

    fn of_condition(condition: &AmqpErrorCondition) -> Option<Self> {
        match condition {
            AmqpErrorCondition::LinkStolen => Some(Self::Stolen),
            AmqpErrorCondition::UnauthorizedAccess => Some(Self::Unauthorized),
            AmqpErrorCondition::NotFound | AmqpErrorCondition::ResourceDeleted => Some(Self::NotFound),
            AmqpErrorCondition::ServerBusyError | AmqpErrorCondition::ResourceLimitExceeded => Some(Self::Busy),
            AmqpErrorCondition::ArgumentError | AmqpErrorCondition::ArgumentOutOfRangeError => Some(Self::OutOfRange),
            AmqpErrorCondition::UnknownValue(text) if text == "com.microsoft:auth-failed" => Some(Self::Unauthorized),
            _ => None,
        }
    }

    fn of_status(status: StatusCode) -> Option<Self> {
        match u16::from(status) {
            401 | 403 => Some(Self::Unauthorized),
            404 | 410 => Some(Self::NotFound),
            429 | 503 => Some(Self::Busy),
            _ => None,
        }
    }
}

/// Who was asked for what, for the words.
#[derive(Debug, Clone)]
pub(super) struct Asked<'a> {
    pub(super) namespace: &'a str,
    pub(super) hub: &'a str,
    pub(super) group: &'a str,
    /// Empty where it was about the hub.
    pub(super) partition: &'a str,
    /// After "could not", as in "read partition `0` of hub `leads`".
    pub(super) doing: String,
}

impl Asked<'_> {
    pub(super) fn failed(self, error: EventHubsError) -> SourceError {
        let namespace = self.namespace.to_owned();
        let doing = self.doing;
        match Failure::of(&error) {
            Failure::Stolen => SourceError::Stolen {
                hub: self.hub.to_owned(),
                partition: self.partition.to_owned(),
                group: self.group.to_owned(),
            },
            Failure::Unauthorized => SourceError::Unauthorized { doing, namespace, source: error.into() },
            Failure::NotFound => SourceError::NotFound { doing, namespace, source: error.into() },
            Failure::Busy => SourceError::Busy { doing, namespace, source: error.into() },
            Failure::OutOfRange => SourceError::OutOfRange { doing, source: error.into() },
            Failure::Other => SourceError::Failed { doing, source: error.into() },
        }
    }
}

#[cfg(test)]
mod tests {
    use azure_core_amqp::AmqpDescribedError;

    use super::*;

    fn described(condition: AmqpErrorCondition) -> AmqpError {
        AmqpErrorKind::AmqpDescribedError(AmqpDescribedError::new(condition, None, Default::default())).into()
    }

    fn wrapped(inner: AmqpError) -> EventHubsError {
        let outer =
            azure_core::Error::with_error(azure_core::error::ErrorKind::Other, inner, "Failed to ensure receiver");
        AmqpError::from(outer).into()
    }

    #[test]
    fn the_condition_decides_however_deep_it_lies() {
        for (condition, failure) in [
            (AmqpErrorCondition::LinkStolen, Failure::Stolen),
            (AmqpErrorCondition::UnauthorizedAccess, Failure::Unauthorized),
            (AmqpErrorCondition::NotFound, Failure::NotFound),
            (AmqpErrorCondition::ServerBusyError, Failure::Busy),
            (AmqpErrorCondition::ArgumentError, Failure::OutOfRange),
            (AmqpErrorCondition::LinkDetachForced, Failure::Other),
            (AmqpErrorCondition::UnknownValue("com.microsoft:auth-failed".into()), Failure::Unauthorized),
        ] {
            assert_eq!(Failure::of(&described(condition.clone()).into()), failure);
            assert_eq!(Failure::of(&wrapped(described(condition))), failure);
        }
    }

    #[test]
    fn statuses_and_sign_ins_are_told_apart() {
        let status = |code: u16| AmqpError::from(AmqpErrorKind::ManagementStatusCode(code.into(), None));
        assert_eq!(Failure::of(&wrapped(status(401))), Failure::Unauthorized);
        assert_eq!(Failure::of(&wrapped(status(404))), Failure::NotFound);
        assert_eq!(Failure::of(&wrapped(status(500))), Failure::Other);
        let no_token = azure_core::Error::with_message(azure_core::error::ErrorKind::Credential, "no token");
        assert_eq!(Failure::of(&AmqpError::from(no_token).into()), Failure::Unauthorized);
    }
}
