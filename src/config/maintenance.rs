//! `[maintenance]`, for the project and for a table: what keeps tables quick to read.

use std::time::Duration;

use bytesize::ByteSize;
use schemars::JsonSchema;
use serde::Deserialize;

use super::reading::Reading;
use super::spec::MaintenanceSpec;
use super::text::{self, DurationText, SizeText};

const EVERY: &str = "1h";
const TARGET_FILE_BYTES: &str = "128MiB";
const MIN_FILES: u32 = 8;
const VACUUM_AFTER: &str = "7days";
const LOG_RETENTION: &str = "30days";
const CHECKPOINT_EVERY: u32 = 100;
const MEMORY: &str = "256MiB";

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// Readers, streams and writers count on a week: a file that one of them has in hand, or a
/// version that it read last, is still there then.
const WEEK: Duration = Duration::from_secs(7 * 24 * 60 * 60);
const LONGEST: Duration = Duration::from_secs(10 * 366 * 24 * 60 * 60);
/// Each run reads the heads of all tables.
const SHORTEST_EVERY: Duration = Duration::from_secs(1);
/// Less, and nothing can be sorted beside one file in the making.
const LEAST_MEMORY: ByteSize = ByteSize::mib(64);
/// Less makes the files that compaction is there to get rid of.
const LEAST_TARGET: ByteSize = ByteSize::mib(1);

/// How the tables are kept quick to read: small files are rewritten as large ones, the log gets checkpoints and loses
/// what is old, and files that no version names any more are deleted. `sluice run` does it in the background, and
/// `sluice maintain` now. `maintenance = { … }` in
/// `[sink]` or `[[transform]]` says otherwise for one table and those beside it.
#[derive(Debug, Default, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct MaintenanceTable {
    /// Whether `sluice run` does it by itself.
    #[schemars(extend("default" = true))]
    pub enabled: Option<bool>,
    /// How often `sluice run` looks after a table.
    #[schemars(extend("default" = EVERY))]
    pub every: Option<DurationText>,
    /// Whether small files are rewritten as large ones.
    #[schemars(extend("default" = true))]
    pub compact: Option<bool>,
    /// How large files are to become. Those above three quarters of it are left alone.
    #[schemars(extend("default" = TARGET_FILE_BYTES))]
    pub target_file_bytes: Option<SizeText>,
    /// How many small files a partition of the table must have before they are rewritten. Fewer means that the same rows
    /// are rewritten more often.
    #[schemars(extend("default" = MIN_FILES), range(min = 2))]
    pub min_files: Option<u32>,
    /// How much a compaction holds in memory, one table at a time; beyond it rows go to temporary files. A file in the making, of
    /// `target_file_bytes`, should fit into half of it.
    #[schemars(extend("default" = MEMORY))]
    pub memory: Option<SizeText>,
    /// A checkpoint of the log is written once it has this many commits since the last one.
    #[schemars(extend("default" = CHECKPOINT_EVERY), range(min = 1))]
    pub checkpoint_every: Option<u32>,
    /// Whether entries of the log that are older than `log_retention` are deleted. What a transform has not read yet stays,
    /// however old.
    #[schemars(extend("default" = true))]
    pub clean_log: Option<bool>,
    /// How long entries of the log stay: 7 days or more.
    #[schemars(extend("default" = LOG_RETENTION))]
    pub log_retention: Option<DurationText>,
    /// Whether files that no version names any more are deleted.
    #[schemars(extend("default" = true))]
    pub vacuum: Option<bool>,
    /// How long a file stays after the last version that names it, and so how far back `table@v12` can be asked for: 7 days or
    /// more, and not longer than `log_retention`. It must be longer than any query, and than any commit takes from its first file.
    #[schemars(extend("default" = VACUUM_AFTER))]
    pub vacuum_after: Option<DurationText>,
    /// Lets `vacuum_after` be shorter than 7 days. Queries and writers that are at work then may lose their files.
    #[schemars(extend("default" = false))]
    pub unsafe_vacuum: Option<bool>,
}

/// What is declared at `path`, over what holds for all tables. Where something is wrong, that is said and
/// what holds for all tables stands in for it.
pub(super) fn build(
    table: Option<MaintenanceTable>,
    path: &[&str],
    over: &MaintenanceSpec,
    reading: &mut Reading<'_>,
) -> MaintenanceSpec {
    let Some(table) = table else { return over.clone() };
    let at = |key: &'static str| [path, &[key]].concat();
    let mut duration = |key: &'static str, text: &Option<DurationText>, least: Duration| {
        let text = text.as_ref().map(|text| text.0.as_str());
        reading.parse(&at(key), text, "a duration that fits", |text| text::duration(text, least, LONGEST))
    };
    let least_vacuum = if table.unsafe_vacuum == Some(true) { Duration::ZERO } else { WEEK };
    let every = duration("every", &table.every, SHORTEST_EVERY);
    let log_retention = duration("log_retention", &table.log_retention, WEEK).unwrap_or(over.log_retention);
    let vacuum_after = duration("vacuum_after", &table.vacuum_after, least_vacuum).unwrap_or(over.vacuum_after);
    let mut size = |key: &'static str, text: &Option<SizeText>, least: ByteSize| {
        let text = text.as_ref().map(|text| text.0.as_str());
        reading.parse(&at(key), text, "a size that fits", |text| match text::size(text)? {
            size if size < least => Err(format!("it must be at least `{least}`")),
            size => Ok(size),
        })
    };
    let target_file_bytes = size("target_file_bytes", &table.target_file_bytes, LEAST_TARGET);
    let memory = size("memory", &table.memory, LEAST_MEMORY);
    if vacuum_after > log_retention {
        let key = if table.vacuum_after.is_some() { "vacuum_after" } else { "log_retention" };
        let hint = "files of a version are of no use once its entry of the log is gone: raise `log_retention`";
        reading.wrong(&at(key), "`vacuum_after` is longer than `log_retention`", hint);
    }
    MaintenanceSpec {
        enabled: table.enabled.unwrap_or(over.enabled),
        every: every.unwrap_or(over.every),
        compact: table.compact.unwrap_or(over.compact),
        target_file_bytes: target_file_bytes.unwrap_or(over.target_file_bytes),
        min_files: table.min_files.map_or(over.min_files, |least| least as usize),
        memory: memory.unwrap_or(over.memory),
        checkpoint_every: table.checkpoint_every.map_or(over.checkpoint_every, u64::from),
        clean_log: table.clean_log.unwrap_or(over.clean_log),
        log_retention,
        vacuum: table.vacuum.unwrap_or(over.vacuum),
        vacuum_after,
    }
}

impl Default for MaintenanceSpec {
    fn default() -> Self {
        Self {
            enabled: true,
            every: Duration::from_secs(60 * 60),
            compact: true,
            target_file_bytes: ByteSize::mib(128),
            min_files: MIN_FILES as usize,
            memory: ByteSize::mib(256),
            checkpoint_every: u64::from(CHECKPOINT_EVERY),
            clean_log: true,
            log_retention: 30 * DAY,
            vacuum: true,
            vacuum_after: WEEK,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_manual_says_is_what_holds() {
        let spec = MaintenanceSpec::default();
        let duration = |text| text::duration(text, Duration::ZERO, LONGEST);
        assert_eq!(duration(EVERY), Ok(spec.every));
        assert_eq!(duration(LOG_RETENTION), Ok(spec.log_retention));
        assert_eq!(duration(VACUUM_AFTER), Ok(spec.vacuum_after));
        assert_eq!(text::size(TARGET_FILE_BYTES), Ok(spec.target_file_bytes));
        assert_eq!(text::size(MEMORY), Ok(spec.memory));
    }
}
