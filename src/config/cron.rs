//! Times in cron's words: five fields, in UTC.

use std::fmt;

use chrono::{DateTime, Utc};
use croner::parser::{CronParser, Seconds, Year};

/// The times of a schedule.
#[derive(Clone)]
pub struct Cron {
    text: String,
    /// Some hundred bytes, which would make everything large that holds a schedule.
    times: Box<croner::Cron>,
}

/// What the fields are, in their order.
const FIELDS: [&str; 5] = ["minute", "hour", "day of the month", "month", "day of the week"];

impl Cron {
    /// # Errors
    /// A hint for the user when the text isn't five fields, or names a time that never comes.
    pub fn parse(text: &str) -> Result<Self, String> {
        let form = format!("write five fields, in UTC: {}; `0 3 * * *` is each day at 3", FIELDS.join(", "));
        let times = times(text).ok_or_else(|| format!("{}{form}", wrong_in(text).unwrap_or_default()))?;
        let cron = Self { text: text.to_owned(), times: Box::new(times) };
        match cron.next_after(Utc::now()) {
            Some(_) => Ok(cron),
            None => Err(format!("such a time never comes; {form}")),
        }
    }

    /// The first of the times that is later; none where the calendar ends.
    pub fn next_after(&self, time: DateTime<Utc>) -> Option<DateTime<Utc>> {
        self.times.find_next_occurrence(&time, false).ok()
    }
}

fn times(text: &str) -> Option<croner::Cron> {
    let parser = CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build();
    parser.parse(text).ok()
}

/// The first field that can't be, where there are five.
fn wrong_in(text: &str) -> Option<String> {
    // A field is a few characters; what is longer isn't worth showing.
    const LONGEST: usize = 40;
    let fields: Vec<&str> = text.split_whitespace().collect();
    if fields.len() != FIELDS.len() {
        return None;
    }
    let is_wrong = |at: usize| {
        let mut alone = ["*"; FIELDS.len()];
        alone[at] = fields[at];
        times(&alone.join(" ")).is_none()
    };
    let at = (0..FIELDS.len()).find(|at| is_wrong(*at))?;
    let shown = fields[at];
    let is_shown = shown.len() <= LONGEST && shown.chars().all(|c| c.is_ascii_graphic());
    let shown = if is_shown { format!("`{shown}`") } else { "what stands there".to_owned() };
    Some(format!("{shown} is no {}; ", FIELDS[at]))
}

impl fmt::Display for Cron {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Cron {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cron({})", self.text)
    }
}

impl PartialEq for Cron {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Cron {}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(text: &str) -> DateTime<Utc> {
        text.parse().expect("a time")
    }

    #[test]
    fn times_are_those_that_cron_means() {
        for (cron, after, next) in [
            ("0 3 * * *", "2026-11-25T02:59:59Z", "2026-11-25T03:00:00Z"),
            ("0 3 * * *", "2026-11-25T03:00:00Z", "2026-11-26T03:00:00Z"),
            ("*/15 * * * *", "2026-11-25T03:14:59.999Z", "2026-11-25T03:15:00Z"),
            // Monday is 1, and Sunday both 0 and 7.
            ("30 6 * * 1", "2026-11-25T00:00:00Z", "2026-11-30T06:30:00Z"),
            ("30 6 * * 7", "2026-11-25T00:00:00Z", "2026-11-29T06:30:00Z"),
            ("30 6 * * MON-FRI", "2026-11-27T07:00:00Z", "2026-11-30T06:30:00Z"),
            // Where both are given, either day will do.
            ("0 0 1 * 1", "2026-11-25T00:00:00Z", "2026-11-30T00:00:00Z"),
            ("0 0 29 2 *", "2026-11-25T00:00:00Z", "2028-02-29T00:00:00Z"),
            ("@daily", "2026-11-25T00:00:00Z", "2026-11-26T00:00:00Z"),
        ] {
            let found = Cron::parse(cron).unwrap_or_else(|hint| panic!("{cron}: {hint}")).next_after(time(after));
            assert_eq!(found, Some(time(next)), "{cron} after {after}");
        }
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for wrong in [
            "",
            "3",
            "0 3 * *",
            "0 0 3 * * *",
            "0 0 3 * * * 2026",
            "60 3 * * *",
            "0 24 * * *",
            "0 3 0 * *",
            "a b c d e",
            "0 0 30 2 *",
            "*/0 * * * *",
            "0 3 * * 8",
            "0 3 * * ü",
            "\u{0} 3 * * *",
        ] {
            assert!(Cron::parse(wrong).is_err(), "{wrong:?}");
        }
        assert!(Cron::parse(&"1,".repeat(100_000)).is_err());
        for (wrong, named) in [
            ("0 25 * * *", "`25` is no hour; "),
            ("0 3 32 * *", "`32` is no day of the month; "),
            ("x 3 * * *", "`x` is no minute; "),
        ] {
            assert!(Cron::parse(wrong).is_err_and(|hint| hint.starts_with(named)), "{wrong}");
        }
    }
}
