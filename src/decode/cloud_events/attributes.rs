//! The attributes that the specification names, and what is wrong with them.

use std::collections::BTreeMap;

use chrono::DateTime;

use super::{CloudEvent, VERSION};
use crate::batch::Event;
use crate::config::spec::Attribute;
use crate::error::quoted;

/// Attributes that each CloudEvent must have.
const REQUIRED: [Attribute; 4] = [Attribute::Id, Attribute::Source, Attribute::SpecVersion, Attribute::Type];

/// What may be wrong with an attribute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(in crate::decode) enum Fault {
    Missing,
    Malformed,
}

impl Fault {
    pub(in crate::decode) fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Malformed => "malformed",
        }
    }
}

/// Attributes of rows that are null since they were missing or malformed.
pub(in crate::decode) type Faults = BTreeMap<(Attribute, Fault), u64>;

/// The attributes of one event.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(in crate::decode) struct Attributes<'a> {
    values: [Option<&'a str>; Attribute::ALL.len()],
}

impl<'a> Attributes<'a> {
    /// Of the binary mode. A message uses one prefix; should it use several, `cloudEvents_` goes first, as the AMQP
    /// binding prefers it, and `ce_` last.
    pub(in crate::decode) fn of_properties(event: &'a Event) -> Self {
        let mut found = [Self::default(); 3];
        for (name, value) in &event.properties {
            let (binding, name) = if let Some(name) = name.strip_prefix("cloudEvents_") {
                (0, name)
            } else if let Some(name) = name.strip_prefix("cloudEvents:") {
                (1, name)
            } else if let Some(name) = name.strip_prefix("ce_") {
                (2, name)
            } else {
                continue;
            };
            if let Some(attribute) = Attribute::of_name(name) {
                found[binding].values[attribute as usize] = Some(value);
            }
        }
        let [mut all, colon, kafka] = found;
        for (at, value) in all.values.iter_mut().enumerate() {
            *value = value.or(colon.values[at]).or(kafka.values[at]);
        }
        let data_content_type = &mut all.values[Attribute::DataContentType as usize];
        *data_content_type = data_content_type.or(event.content_type.as_deref());
        all
    }

    pub(in crate::decode) fn of(event: &'a CloudEvent) -> Self {
        let mut all = Self::default();
        for (name, value) in &event.attributes {
            if let Some(attribute) = Attribute::of_name(name) {
                all.values[attribute as usize] = Some(value);
            }
        }
        all
    }

    pub(in crate::decode) fn get(&self, attribute: Attribute) -> Option<&'a str> {
        self.values[attribute as usize]
    }

    /// Whether the event is a CloudEvent at all: any message may have a content type.
    pub(in crate::decode) fn are_there(&self) -> bool {
        Attribute::ALL
            .iter()
            .any(|attribute| *attribute != Attribute::DataContentType && self.get(*attribute).is_some())
    }

    /// Judges each attribute once, and counts what of a CloudEvent is missing, though the specification demands it, or
    /// malformed.
    pub(in crate::decode) fn judge(&self, faults: &mut Faults) -> Sound<'a> {
        let is_cloud_event = self.are_there();
        let mut sound = Sound::default();
        for attribute in Attribute::ALL {
            let fault = match self.get(attribute) {
                None if REQUIRED.contains(&attribute) => Fault::Missing,
                None => continue,
                Some(value) => match attribute {
                    Attribute::Time => match micros(value) {
                        Some(micros) => {
                            sound.time = Some(micros);
                            continue;
                        }
                        None => Fault::Malformed,
                    },
                    _ if problem_of(attribute, value).is_some() => Fault::Malformed,
                    _ => {
                        sound.values[attribute as usize] = Some(value);
                        continue;
                    }
                },
            };
            if is_cloud_event {
                *faults.entry((attribute, fault)).or_default() += 1;
            }
        }
        sound
    }
}

/// The attributes of one event that are neither missing nor malformed.
#[derive(Debug, Default, Clone, Copy)]
pub(in crate::decode) struct Sound<'a> {
    values: [Option<&'a str>; Attribute::ALL.len()],
    time: Option<i64>,
}

impl<'a> Sound<'a> {
    /// Any but the time.
    pub(in crate::decode) fn get(&self, attribute: Attribute) -> Option<&'a str> {
        self.values[attribute as usize]
    }

    /// Microseconds since 1970.
    pub(in crate::decode) fn time(&self) -> Option<i64> {
        self.time
    }
}

/// # Errors
/// Words for the first of the required attributes that is missing or malformed.
pub(in crate::decode) fn check_required(attributes: &Attributes<'_>, required: &[Attribute]) -> Result<(), String> {
    for attribute in required {
        let name = attribute.as_str();
        match attributes.get(*attribute) {
            None => return Err(format!("the CloudEvents attribute `{name}` is missing")),
            Some(value) => {
                if let Some(problem) = problem_of(*attribute, value) {
                    return Err(format!("the CloudEvents attribute `{name}` is `{}`, {problem}", quoted(value)));
                }
            }
        }
    }
    Ok(())
}

/// What the specification has against a value.
fn problem_of(attribute: Attribute, value: &str) -> Option<&'static str> {
    if value.is_empty() {
        return Some("and may not be empty");
    }
    let (is_sound, problem) = match attribute {
        Attribute::Id | Attribute::Type | Attribute::Subject => return None,
        Attribute::Source => (is_uri_reference(value), "which is no URI reference"),
        Attribute::DataSchema => (is_uri_reference(value) && scheme(value).is_some(), "which is no URI"),
        Attribute::SpecVersion => (value == VERSION, "and `1.0` is read"),
        Attribute::DataContentType => (value.contains('/'), "which is no media type"),
        Attribute::Time => (micros(value).is_some(), "which is no RFC 3339 time"),
    };
    (!is_sound).then_some(problem)
}

/// RFC 3339, or milliseconds since 1970: the Python SDK sends a time over AMQP as a long, not as a timestamp.
fn micros(time: &str) -> Option<i64> {
    match DateTime::parse_from_rfc3339(time) {
        Ok(time) => Some(time.timestamp_micros()),
        Err(_) => time.parse::<i64>().ok()?.checked_mul(1000),
    }
}

/// By the characters of RFC 3986, and of RFC 3987 beyond ASCII: senders write `/Köln` as it is.
fn is_uri_reference(text: &str) -> bool {
    let mut rest = text.chars();
    while let Some(character) = rest.next() {
        let fits = match character {
            '%' => (0..2).all(|_| rest.next().is_some_and(|digit| digit.is_ascii_hexdigit())),
            'a'..='z' | 'A'..='Z' | '0'..='9' => true,
            '-' | '.' | '_' | '~' | ':' | '/' | '?' | '#' | '[' | ']' | '@' => true,
            '!' | '$' | '&' | '\'' | '(' | ')' | '*' | '+' | ',' | ';' | '=' => true,
            other => !other.is_ascii() && !other.is_whitespace() && !other.is_control(),
        };
        if !fits {
            return false;
        }
    }
    // What stands before a colon, in the first segment, is a scheme.
    let first = text.split(['/', '?', '#']).next().unwrap_or_default();
    !first.contains(':') || scheme(text).is_some()
}

fn scheme(text: &str) -> Option<&str> {
    let (scheme, _) = text.split_once(':')?;
    let is_one = scheme.starts_with(|first: char| first.is_ascii_alphabetic())
        && scheme.chars().all(|other| other.is_ascii_alphanumeric() || matches!(other, '+' | '-' | '.'));
    is_one.then_some(scheme)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_specification_has_against_a_value_is_told() {
        use Attribute::*;
        for (attribute, sound, malformed) in [
            (Id, &["1", " "][..], &[""][..]),
            (Type, &["a.b"], &[""]),
            (Subject, &["x y"], &[""]),
            (
                Source,
                &["/leads", "urn:uuid:6e8bc430", "https://a/b?c#d", "1-2", "a%20b", "/Köln", "//host", "mailto:a@b.c"],
                &["", "a b", "a%2", "a%zz", "<a>", "1:2", "a\\b", "a\tb", "a\u{a0}b"],
            ),
            (DataSchema, &["https://a/b", "urn:x"], &["", "/a", "a b:c"]),
            (SpecVersion, &["1.0"], &["", "0.3", "1", "1.1"]),
            (DataContentType, &["text/plain; a=b"], &["", "json"]),
            (
                Time,
                &["2026-11-23T12:00:00Z", "2026-11-23T12:00:00.123456789+01:00", "1795431600500", "-1"],
                &["", "yesterday", "2026-11-23", "2026-11-23T12:00:00", "9223372036854775807", "1.5"],
            ),
        ] {
            for value in sound {
                assert_eq!(problem_of(attribute, value), None, "{attribute:?} {value}");
            }
            for value in malformed {
                assert!(problem_of(attribute, value).is_some(), "{attribute:?} {value}");
            }
        }
    }

    #[test]
    fn what_is_required_is_told_by_its_name() {
        let event = CloudEvent {
            attributes: [("id", ""), ("source", "a b"), ("type", "t"), ("time", "now")]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .to_vec(),
        };
        let attributes = Attributes::of(&event);
        for (required, text) in [
            (Attribute::Id, "the CloudEvents attribute `id` is ``, and may not be empty"),
            (Attribute::Source, "the CloudEvents attribute `source` is `a b`, which is no URI reference"),
            (Attribute::Time, "the CloudEvents attribute `time` is `now`, which is no RFC 3339 time"),
            (Attribute::Subject, "the CloudEvents attribute `subject` is missing"),
        ] {
            assert_eq!(check_required(&attributes, &[Attribute::Type, required]), Err(text.to_owned()));
        }
        let mut faults = Faults::new();
        let sound = attributes.judge(&mut faults);
        attributes.judge(&mut faults);
        assert_eq!((sound.get(Attribute::Type), sound.get(Attribute::Source), sound.time()), (Some("t"), None, None));
        let expected = [
            ((Attribute::Id, Fault::Malformed), 2),
            ((Attribute::Source, Fault::Malformed), 2),
            ((Attribute::SpecVersion, Fault::Missing), 2),
            ((Attribute::Time, Fault::Malformed), 2),
        ];
        assert_eq!(faults, Faults::from(expected));
    }

    #[test]
    fn a_message_that_is_no_cloud_event_lacks_nothing() {
        let event = Event {
            sequence_number: 0,
            offset: String::new(),
            enqueued_at: 0,
            body: bytes::Bytes::new(),
            content_type: Some("application/json".to_owned()),
            properties: vec![("tenant".to_owned(), "7".to_owned())],
        };
        let attributes = Attributes::of_properties(&event);
        let mut faults = Faults::new();
        attributes.judge(&mut faults);
        assert!(faults.is_empty() && !attributes.are_there());
        assert_eq!(attributes.get(Attribute::DataContentType), Some("application/json"));
    }
}
