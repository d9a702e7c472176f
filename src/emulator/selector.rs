//! Where a receiver wants to start, as its source filter says.

use fe2o3_amqp_types::messaging::FilterSet;
use serde_amqp::Value;

const SELECTOR: &str = "apache.org:selector-filter:string";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bound {
    pub(super) value: i64,
    pub(super) inclusive: bool,
}

impl Bound {
    pub(super) fn is_met_by(&self, value: i64) -> bool {
        if self.inclusive { value >= self.value } else { value > self.value }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StartPosition {
    Earliest,
    Latest,
    Offset(Bound),
    SequenceNumber(Bound),
    /// Epoch milliseconds.
    EnqueuedTime(Bound),
}

/// A filter that isn't understood, in its own words.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the filter `{0}` isn't understood")]
pub(super) struct UnknownSelector(String);

impl StartPosition {
    /// Without a filter a receiver starts at the earliest event.
    pub(super) fn of(filter: Option<&FilterSet>) -> Result<Self, UnknownSelector> {
        let Some(selector) =
            filter.and_then(|filter| filter.iter().find(|(key, _)| key.as_str() == SELECTOR).map(|(_, value)| value))
        else {
            return Ok(Self::Earliest);
        };
        let expression = match selector {
            Value::Described(described) => match &described.value {
                Value::String(expression) => expression,
                other => return Err(UnknownSelector(format!("{other:?}"))),
            },
            Value::String(expression) => expression,
            other => return Err(UnknownSelector(format!("{other:?}"))),
        };
        Self::parse(expression)
    }

    /// `amqp.annotation.x-opt-… > 'value'` or `>=`.
    fn parse(expression: &str) -> Result<Self, UnknownSelector> {
        let unknown = || UnknownSelector(expression.to_owned());
        let (name, rest) = expression.split_once('>').ok_or_else(unknown)?;
        let (inclusive, rest) = rest.strip_prefix('=').map_or((false, rest), |rest| (true, rest));
        let value = rest.trim().trim_matches('\'');
        let bound = || value.parse().map(|value| Bound { value, inclusive }).map_err(|_| unknown());
        match (name.trim(), value) {
            ("amqp.annotation.x-opt-offset", "@latest") => Ok(Self::Latest),
            ("amqp.annotation.x-opt-offset", "-1") => Ok(Self::Earliest),
            ("amqp.annotation.x-opt-offset", _) => Ok(Self::Offset(bound()?)),
            ("amqp.annotation.x-opt-sequence-number", _) => Ok(Self::SequenceNumber(bound()?)),
            ("amqp.annotation.x-opt-enqueued-time", _) => Ok(Self::EnqueuedTime(bound()?)),
            _ => Err(unknown()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_selectors_of_the_clients_are_understood() {
        let bound = |value, inclusive| Bound { value, inclusive };
        for (expression, position) in [
            ("amqp.annotation.x-opt-offset > '-1'", StartPosition::Earliest),
            ("amqp.annotation.x-opt-offset > '@latest'", StartPosition::Latest),
            ("amqp.annotation.x-opt-offset >= '17'", StartPosition::Offset(bound(17, true))),
            ("amqp.annotation.x-opt-offset > '17'", StartPosition::Offset(bound(17, false))),
            ("amqp.annotation.x-opt-sequence-number > '5'", StartPosition::SequenceNumber(bound(5, false))),
            ("amqp.annotation.x-opt-sequence-number >='5'", StartPosition::SequenceNumber(bound(5, true))),
            ("amqp.annotation.x-opt-enqueued-time > '99'", StartPosition::EnqueuedTime(bound(99, false))),
        ] {
            assert_eq!(StartPosition::parse(expression), Ok(position), "{expression}");
        }
    }

    #[test]
    fn other_selectors_are_refused_in_their_own_words() {
        for expression in ["", "color = 'red'", "amqp.annotation.x-opt-offset > 'x'", "a > '1'"] {
            assert_eq!(StartPosition::parse(expression), Err(UnknownSelector(expression.to_owned())));
        }
    }
}
