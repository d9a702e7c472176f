//! Strings of a declaration that mean something: what they look like, and what they become.

use std::time::Duration;

use bytesize::ByteSize;
use chrono::{DateTime, Utc};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;

/// A string with a schema of its own: `x-what` completes "must be …".
macro_rules! texts {
    ($($(#[$doc:meta])* $name:ident { $($schema:tt)* })+) => {
        $(
            $(#[$doc])*
            #[derive(Debug, Clone, Deserialize)]
            #[serde(transparent)]
            pub(super) struct $name(pub String);

            impl JsonSchema for $name {
                fn inline_schema() -> bool {
                    true
                }

                fn schema_name() -> std::borrow::Cow<'static, str> {
                    stringify!($name).into()
                }

                fn json_schema(_: &mut SchemaGenerator) -> Schema {
                    json_schema!({ "type": "string", $($schema)* })
                }
            }
        )+
    };
}

texts! {
    /// `10s`, `5min`, `1h 30min`.
    DurationText { "x-type": "duration", "x-what": "a duration, as in \"10s\"", "examples": ["10s", "5min"] }
    /// `128MiB`, `1GB`.
    SizeText { "x-type": "size", "x-what": "a size, as in \"128MiB\"", "examples": ["128MiB"] }
    /// `2026-01-01T00:00:00Z`, with or without quotes.
    TimeText { "x-type": "time", "x-what": "a time, as in 2026-01-01T00:00:00Z", "format": "date-time" }
    /// The name of a thing of the project.
    NameText { "x-type": "name", "x-what": "a name", "pattern": "^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$" }
    /// `bronze.leads`.
    TableText { "x-type": "table name", "x-what": "the name of a table, as in \"bronze.leads\"", "examples": ["bronze.leads"] }
    /// A file, relative to the project's folder.
    PathText { "x-type": "path", "x-what": "the path of a file" }
    /// A folder or a URL.
    UrlText { "x-type": "URL", "x-what": "a URL" }
    /// `0 3 * * *`.
    CronText { "x-type": "cron", "x-what": "times in cron's words, as in \"0 3 * * *\"", "examples": ["0 3 * * *"] }
    /// `127.0.0.1:8080`.
    AddressText { "x-type": "address", "x-what": "an address, as in \"127.0.0.1:8080\"", "examples": ["127.0.0.1:8080"] }
}

/// A key that the design has and this version doesn't read: it is refused by its name.
#[derive(Debug, Deserialize)]
pub(super) struct Unsupported {}

impl JsonSchema for Unsupported {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Unsupported".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "x-unsupported": true })
    }
}

/// A duration within bounds, both inclusive.
pub(super) fn duration(text: &str, least: Duration, most: Duration) -> Result<Duration, String> {
    let form = "write a number with a unit: `500ms`, `10s`, `5min`, `1h`, `7days`";
    let duration = humantime::parse_duration(text).map_err(|_| form.to_owned())?;
    if duration < least || duration > most {
        return Err(format!("it must lie between `{}` and `{}`", shown(least), shown(most)));
    }
    Ok(duration)
}

/// A duration of whole days in days: nobody thinks of 90 days as two months, 29 days and hours.
fn shown(duration: Duration) -> String {
    const DAY_SECONDS: u64 = 24 * 60 * 60;
    match duration.as_secs() {
        seconds if seconds > DAY_SECONDS && seconds.is_multiple_of(DAY_SECONDS) => {
            format!("{}days", seconds / DAY_SECONDS)
        }
        _ => humantime::format_duration(duration).to_string(),
    }
}

/// A size of at least one byte.
pub(super) fn size(text: &str) -> Result<ByteSize, String> {
    let form = "write a number with a unit: `64KiB`, `128MiB`, `1GiB`";
    // Without a unit it would be bytes, which nobody means.
    if !text.ends_with(['b', 'B']) {
        return Err(form.to_owned());
    }
    match text.parse::<ByteSize>() {
        Ok(size) if size.as_u64() > 0 => Ok(size),
        Ok(_) => Err("it must be at least `1B`".to_owned()),
        Err(_) => Err(form.to_owned()),
    }
}

/// A time with an offset.
pub(super) fn time(text: &str) -> Result<DateTime<Utc>, String> {
    DateTime::parse_from_rfc3339(text)
        .map(|time| time.with_timezone(&Utc))
        .map_err(|_| "write date, time and offset: `2026-01-01T00:00:00Z`".to_owned())
}

/// Letters, digits, `_` and `-`, at most 64: what is safe in a path, a label and a log.
pub(super) fn name(text: &str) -> Result<String, String> {
    const LONGEST: usize = 64;
    let fits = text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-')
        && text.len() <= LONGEST;
    if fits { Ok(text.to_owned()) } else { Err(format!("write letters, digits, `_` and `-`, at most {LONGEST}")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_needs_its_unit() {
        assert_eq!(size("128MiB"), Ok(ByteSize::mib(128)));
        assert_eq!(size("1 GB"), Ok(ByteSize::gb(1)));
        assert_eq!(size("1B"), Ok(ByteSize::b(1)));
        for wrong in ["128", "", "MiB", "0B", "-1MiB", "1.2.3MiB", "128M", "ä"] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_duration_lies_within_its_bounds() {
        let within = |text| duration(text, Duration::from_millis(1), Duration::from_secs(3600));
        assert_eq!(within("1h"), Ok(Duration::from_secs(3600)));
        assert_eq!(within("500ms"), Ok(Duration::from_millis(500)));
        for wrong in ["0s", "2h", "10", "", "s", "99999999999999999999s", "-1s"] {
            assert!(within(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_time_needs_its_offset() {
        assert!(time("2026-01-01T00:00:00Z").is_ok());
        assert!(time("2026-01-01T00:00:00").is_err());
        assert!(time("2026-01-01").is_err());
    }
}
