//! Every metric: its name, its labels, what it counts. The only place that names one.
//!
//! `sluice_<stage>_<thing>_<unit>[_total]`, in base units. Labels are bounded by what a project
//! declares: `pipeline`, `table` and `partition`, and causes from closed lists.
//!
//! Conservation, for each pipeline, table and partition:
//! received = committed + rejected + filtered + duplicate + in flight.

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

/// What a metric is to Prometheus.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricKind {
    Counter,
    Gauge,
    Histogram,
}

impl MetricKind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// A metric as the documentation lists it.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    pub name: &'static str,
    pub kind: MetricKind,
    pub labels: &'static [&'static str],
    pub help: &'static str,
}

macro_rules! metrics_of_the_program {
    ($($constant:ident = $name:literal, $kind:ident, [$($label:literal),*], $help:literal;)+) => {
        $(const $constant: &str = $name;)+

        /// All of them, in the order of the flow.
        pub const METRICS: &[Metric] = &[
            $(Metric { name: $name, kind: MetricKind::$kind, labels: &[$($label),*], help: $help },)+
        ];
    };
}

metrics_of_the_program! {
    RECEIVED = "sluice_source_received_events_total", Counter, ["pipeline", "table", "partition"],
        "Events taken from the source";
    RECEIVED_BYTES = "sluice_source_received_bytes_total", Counter, ["pipeline", "table", "partition"],
        "Bytes of the bodies taken from the source";
    HOLES = "sluice_source_holes_total", Counter, ["pipeline", "table", "partition", "cause"],
        "Stretches of numbers that the source did not deliver";
    MISSING = "sluice_source_missing_events_total", Counter, ["pipeline", "table", "partition", "cause"],
        "Numbers that the source did not deliver";
    PARTITION_FAILURES = "sluice_source_partition_failures_total", Counter, ["pipeline", "table", "partition"],
        "Failures of a partition, after each of which it was tried again: a broken link, a schema that was not told";
    WEBHOOK_REQUESTS = "sluice_source_webhook_requests_total", Counter, ["outcome"],
        "Requests to the webhook: `taken`, `handshake`, `denied` (401), `torn` (400), `too_large` (413), `busy` (503)";
    WEBHOOK_WAITING = "sluice_source_webhook_waiting_requests", Gauge, [],
        "Requests that were taken and whose blobs aren't accounted for yet";
    LAG = "sluice_source_lag_events", Gauge, ["pipeline", "table", "partition"],
        "Events that the source holds and the table does not account for yet";
    DATA_LOSS = "sluice_source_data_loss_in_seconds", Gauge, ["pipeline", "table", "partition"],
        "Seconds until retention takes the oldest event that waits, at least; absent where retention is not declared";
    ATTRIBUTE_FAULTS = "sluice_decode_attribute_faults_total", Counter, ["pipeline", "attribute", "fault"],
        "CloudEvents attributes that are null in their rows, since they were `missing` or `malformed`";
    IN_FLIGHT = "sluice_pipeline_in_flight_events", Gauge, ["pipeline", "table", "partition"],
        "Events received and not settled yet";
    STOPPED = "sluice_pipeline_stopped_partitions", Gauge, ["pipeline", "table", "partition"],
        "1 while a partition isn't read: too many of its events were rejected, or its table isn't to take their schema";
    SCHEDULED_RUNS = "sluice_pipeline_scheduled_runs_total", Counter, ["pipeline", "table", "outcome"],
        "Scheduled backfills that ended: complete, incomplete, failed, stopped";
    SCHEDULED_COMPLETE = "sluice_pipeline_scheduled_complete_timestamp_seconds", Gauge, ["pipeline", "table"],
        "When the last scheduled backfill began that missed nothing, in seconds since 1970; before the first, when the schedule began";
    COMMITTED = "sluice_sink_committed_events_total", Counter, ["pipeline", "table", "partition"],
        "Events whose rows are committed";
    REJECTED = "sluice_sink_rejected_events_total", Counter, ["pipeline", "table", "partition"],
        "Events that became dead letters";
    FILTERED = "sluice_sink_filtered_events_total", Counter, ["pipeline", "table", "partition"],
        "Events that a declared rule left out, or that went to another table of their pipeline";
    DUPLICATE = "sluice_sink_duplicate_events_total", Counter, ["pipeline", "table", "partition"],
        "Events that the table accounted for already";
    GAPS = "sluice_sink_gap_events", Gauge, ["pipeline", "table", "partition"],
        "Numbers that the table lacks and that nobody has accepted as missing";
    WRITTEN_BYTES = "sluice_sink_written_bytes_total", Counter, ["pipeline", "table"],
        "Bytes of the data files committed";
    RESCUED = "sluice_sink_rescued_values_total", Counter, ["pipeline", "table"],
        "Values that their columns can't hold, kept in `_rescued`";
    SCHEMA_CHANGES = "sluice_sink_schema_changes_total", Counter, ["pipeline", "table"],
        "Commits that added columns to the table, or names and defaults to columns";
    COMMITS = "sluice_sink_commits_total", Counter, ["pipeline", "table"],
        "Commits landed in the table";
    COMMIT_RETRIES = "sluice_sink_commit_retries_total", Counter, ["pipeline", "table"],
        "Tries of a commit beyond its first";
    MAINTENANCE_RUNS = "sluice_maintenance_runs_total", Counter, ["table", "outcome"],
        "Times that a table was maintained: `done`, `failed`, `stopped`, `elsewhere` (another process took over)";
    MAINTENANCE_COMPLETE = "sluice_maintenance_complete_timestamp_seconds", Gauge, ["table"],
        "When a table was last maintained in full by this process, in seconds since 1970";
    COMPACTED_FILES = "sluice_maintenance_compacted_files_total", Counter, ["table"],
        "Small files that were rewritten as fewer, larger ones";
    COMPACTED_BYTES = "sluice_maintenance_compacted_bytes_total", Counter, ["table"],
        "Bytes of the files that were rewritten";
    VACUUMED_FILES = "sluice_maintenance_vacuumed_files_total", Counter, ["table"],
        "Files deleted that no version named any more";
    CLEANED_ENTRIES = "sluice_maintenance_cleaned_log_entries_total", Counter, ["table"],
        "Entries of the log that were deleted";
    COMMIT_DURATION = "sluice_sink_commit_duration_seconds", Histogram, ["pipeline", "table"],
        "How long a flush took, from the first file to the commit";
    TRANSFORM_RUNS = "sluice_transform_runs_total", Counter, ["table", "outcome"],
        "Runs of a transform that ended: committed, unchanged, waits (for an input that isn't there yet), failed";
    TRANSFORM_ROWS = "sluice_transform_written_rows_total", Counter, ["table"],
        "Rows that a transform's query gave and its table took";
    TRANSFORM_DURATION = "sluice_transform_run_duration_seconds", Histogram, ["table"],
        "How long a run of a transform took that committed something or failed";
    VIOLATIONS = "sluice_transform_violating_rows_total", Counter, ["table", "expectation", "on_violation"],
        "Rows that violated an expectation, whatever became of them";
}

/// A folder commits in a few ms and blob storage in some 100 ms; what takes longer than a
/// minute is an outage, however long.
const COMMIT_BUCKETS_SECONDS: [f64; 12] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0];

/// A run over little takes some 100 ms; a first run over much takes hours.
const RUN_BUCKETS_SECONDS: [f64; 10] = [0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 1800.0];

/// The metrics were installed before.
#[derive(Debug, thiserror::Error)]
#[error("metrics are installed already")]
pub struct AlreadyInstalled;

/// Renders what was counted; clones share it.
#[derive(Clone)]
pub struct MetricsHandle(PrometheusHandle);

impl MetricsHandle {
    /// The Prometheus text format. Also drains what histograms have gathered, so memory
    /// stays bounded only while somebody renders, or calls [`MetricsHandle::upkeep`].
    pub fn render(&self) -> String {
        self.0.render()
    }

    /// Drains what histograms have gathered; a few times a minute is enough.
    pub fn upkeep(&self) {
        self.0.run_upkeep();
    }
}

/// Installs the recorder of the process.
///
/// # Errors
/// [`AlreadyInstalled`] at the second call.
pub fn install() -> Result<MetricsHandle, AlreadyInstalled> {
    let recorder = recorder();
    let handle = MetricsHandle(recorder.handle());
    metrics::set_global_recorder(recorder).map_err(|_| AlreadyInstalled)?;
    describe();
    Ok(handle)
}

fn recorder() -> PrometheusRecorder {
    PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Full(COMMIT_DURATION.to_owned()), &COMMIT_BUCKETS_SECONDS)
        .expect("the list of buckets is not empty")
        .set_buckets_for_metric(Matcher::Full(TRANSFORM_DURATION.to_owned()), &RUN_BUCKETS_SECONDS)
        .expect("the list of buckets is not empty")
        .build_recorder()
}

fn describe() {
    for metric in METRICS {
        match metric.kind {
            MetricKind::Counter => metrics::describe_counter!(metric.name, metric.help),
            MetricKind::Gauge => metrics::describe_gauge!(metric.name, metric.help),
            MetricKind::Histogram => metrics::describe_histogram!(metric.name, metric.help),
        }
    }
}

fn count(name: &'static str, pipeline: &str, table: &str, partition: &str, n: u64) {
    metrics::counter!(name, "pipeline" => pipeline.to_owned(), "table" => table.to_owned(),
        "partition" => partition.to_owned())
    .increment(n);
}

fn count_of_table(name: &'static str, pipeline: &str, table: &str, n: u64) {
    metrics::counter!(name, "pipeline" => pipeline.to_owned(), "table" => table.to_owned()).increment(n);
}

fn set(name: &'static str, pipeline: &str, table: &str, partition: &str, value: f64) {
    metrics::gauge!(name, "pipeline" => pipeline.to_owned(), "table" => table.to_owned(),
        "partition" => partition.to_owned())
    .set(value);
}

/// Events taken from the source, and the bytes of their bodies.
pub fn received(pipeline: &str, table: &str, partition: &str, events: u64, bytes: u64) {
    count(RECEIVED, pipeline, table, partition, events);
    count(RECEIVED_BYTES, pipeline, table, partition, bytes);
}

/// Numbers that the source did not deliver, once for each stretch of them.
pub fn hole(pipeline: &str, table: &str, partition: &str, cause: &'static str, missing: u64) {
    for (name, n) in [(HOLES, 1), (MISSING, missing)] {
        metrics::counter!(name, "pipeline" => pipeline.to_owned(), "table" => table.to_owned(),
            "partition" => partition.to_owned(), "cause" => cause)
        .increment(n);
    }
}

pub fn partition_failure(pipeline: &str, table: &str, partition: &str) {
    count(PARTITION_FAILURES, pipeline, table, partition, 1);
}

/// A request to the webhook, by what came of it.
pub fn webhook_request(outcome: &'static str) {
    metrics::counter!(WEBHOOK_REQUESTS, "outcome" => outcome).increment(1);
}

/// Requests in the spool: the number itself, not a change of it.
pub fn webhook_waiting(requests: u64) {
    metrics::gauge!(WEBHOOK_WAITING).set(requests as f64);
}

/// Attributes of CloudEvents that could not become values.
pub fn attribute_faults(pipeline: &str, attribute: &'static str, fault: &'static str, events: u64) {
    metrics::counter!(ATTRIBUTE_FAULTS, "pipeline" => pipeline.to_owned(), "attribute" => attribute, "fault" => fault)
        .increment(events);
}

pub fn lag(pipeline: &str, table: &str, partition: &str, events: u64) {
    set(LAG, pipeline, table, partition, events as f64);
}

/// Negative once the event should be gone by now.
pub fn seconds_to_data_loss(pipeline: &str, table: &str, partition: &str, seconds: f64) {
    set(DATA_LOSS, pipeline, table, partition, seconds);
}

/// Events received and not settled yet: a change of it, since a backfill may run beside the live pipeline.
pub fn in_flight(pipeline: &str, table: &str, partition: &str, events: f64) {
    metrics::gauge!(IN_FLIGHT, "pipeline" => pipeline.to_owned(), "table" => table.to_owned(),
        "partition" => partition.to_owned())
    .increment(events);
}

/// Whether a partition is read no more because too many of its events were rejected.
pub fn partition_stopped(pipeline: &str, table: &str, partition: &str, is_stopped: bool) {
    set(STOPPED, pipeline, table, partition, if is_stopped { 1.0 } else { 0.0 });
}

/// A scheduled backfill ended.
pub fn scheduled_run(pipeline: &str, table: &str, outcome: &'static str) {
    metrics::counter!(SCHEDULED_RUNS, "pipeline" => pipeline.to_owned(), "table" => table.to_owned(),
        "outcome" => outcome)
    .increment(1);
}

/// When the last scheduled backfill began that missed nothing.
pub fn scheduled_complete(pipeline: &str, table: &str, at: chrono::DateTime<chrono::Utc>) {
    metrics::gauge!(SCHEDULED_COMPLETE, "pipeline" => pipeline.to_owned(), "table" => table.to_owned())
        .set(at.timestamp_millis() as f64 / 1000.0);
}

pub fn committed(pipeline: &str, table: &str, partition: &str, events: u64) {
    count(COMMITTED, pipeline, table, partition, events);
}

pub fn rejected(pipeline: &str, table: &str, partition: &str, events: u64) {
    count(REJECTED, pipeline, table, partition, events);
}

pub fn filtered(pipeline: &str, table: &str, partition: &str, events: u64) {
    count(FILTERED, pipeline, table, partition, events);
}

pub fn duplicate(pipeline: &str, table: &str, partition: &str, events: u64) {
    count(DUPLICATE, pipeline, table, partition, events);
}

/// Numbers that are missing and weren't accepted: the number itself, not a change of it.
pub fn gaps(pipeline: &str, table: &str, partition: &str, events: u64) {
    set(GAPS, pipeline, table, partition, events as f64);
}

fn count_maintained(name: &'static str, table: &str, n: u64) {
    metrics::counter!(name, "table" => table.to_owned()).increment(n);
}

/// A table was maintained, by how it ended: the files that were rewritten, and their bytes.
pub fn maintained(table: &str, outcome: &'static str, files: u64, bytes: u64) {
    metrics::counter!(MAINTENANCE_RUNS, "table" => table.to_owned(), "outcome" => outcome).increment(1);
    count_maintained(COMPACTED_FILES, table, files);
    count_maintained(COMPACTED_BYTES, table, bytes);
}

/// What was deleted of a table's past.
pub fn cleaned(table: &str, files: u64, log_entries: u64) {
    count_maintained(VACUUMED_FILES, table, files);
    count_maintained(CLEANED_ENTRIES, table, log_entries);
}

pub fn maintenance_complete(table: &str, at: chrono::DateTime<chrono::Utc>) {
    metrics::gauge!(MAINTENANCE_COMPLETE, "table" => table.to_owned()).set(at.timestamp_millis() as f64 / 1000.0);
}

/// Values that no column could hold.
pub fn rescued(pipeline: &str, table: &str, values: u64) {
    count_of_table(RESCUED, pipeline, table, values);
}

/// Commits of a flush that changed the table's columns.
pub fn schema_changes(pipeline: &str, table: &str, commits: u32) {
    count_of_table(SCHEMA_CHANGES, pipeline, table, u64::from(commits));
}

/// A commit that landed: the bytes of its files, its tries (the first one too), how long the
/// flush took.
pub fn commit(pipeline: &str, table: &str, bytes: u64, tries: u32, took: std::time::Duration) {
    count_of_table(COMMITS, pipeline, table, 1);
    count_of_table(WRITTEN_BYTES, pipeline, table, bytes);
    count_of_table(COMMIT_RETRIES, pipeline, table, u64::from(tries.saturating_sub(1)));
    metrics::histogram!(COMMIT_DURATION, "pipeline" => pipeline.to_owned(), "table" => table.to_owned())
        .record(took.as_secs_f64());
}

/// A run of a transform that ended.
pub fn transform_run(table: &str, outcome: &'static str, rows: u64, took: std::time::Duration) {
    metrics::counter!(TRANSFORM_RUNS, "table" => table.to_owned(), "outcome" => outcome).increment(1);
    metrics::counter!(TRANSFORM_ROWS, "table" => table.to_owned()).increment(rows);
    if matches!(outcome, "committed" | "failed") {
        metrics::histogram!(TRANSFORM_DURATION, "table" => table.to_owned()).record(took.as_secs_f64());
    }
}

/// Rows that violated an expectation.
pub fn violations(table: &str, expectation: &str, on_violation: &'static str, rows: u64) {
    metrics::counter!(VIOLATIONS, "table" => table.to_owned(), "expectation" => expectation.to_owned(),
        "on_violation" => on_violation)
    .increment(rows);
}

/// The list of all metrics, as `docs/operations.md` has it.
pub fn markdown() -> String {
    let mut text = String::from("| metric | kind | labels | counts |\n|---|---|---|---|\n");
    for Metric { name, kind, labels, help } in METRICS {
        text.push_str(&format!("| `{name}` | {} | {} | {help} |\n", kind.as_str(), labels.join(", ")));
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use super::*;

    /// Counts everything once, and gives what a scrape shows.
    fn rendered() -> String {
        let recorder = recorder();
        let handle = MetricsHandle(recorder.handle());
        metrics::with_local_recorder(&recorder, || {
            describe();
            received("leads", "bronze.leads", "0", 5, 100);
            hole("leads", "bronze.leads", "0", "retention", 3);
            partition_failure("leads", "bronze.leads", "0");
            webhook_request("taken");
            webhook_waiting(2);
            attribute_faults("leads", "id", "missing", 2);
            lag("leads", "bronze.leads", "0", 7);
            seconds_to_data_loss("leads", "bronze.leads", "0", 60.5);
            in_flight("leads", "bronze.leads", "0", 3.0);
            in_flight("leads", "bronze.leads", "0", -2.0);
            partition_stopped("leads", "bronze.leads", "0", true);
            scheduled_run("leads", "bronze.leads", "complete");
            scheduled_complete("leads", "bronze.leads", chrono::DateTime::UNIX_EPOCH);
            committed("leads", "bronze.leads", "0", 2);
            rejected("leads", "bronze.leads", "0", 1);
            filtered("leads", "bronze.leads", "0", 0);
            duplicate("leads", "bronze.leads", "0", 1);
            gaps("leads", "bronze.leads", "0", 3);
            rescued("leads", "bronze.leads", 4);
            schema_changes("leads", "bronze.leads", 1);
            commit("leads", "bronze.leads", 900, 2, Duration::from_millis(30));
            transform_run("silver.leads", "committed", 5, Duration::from_millis(30));
            violations("silver.leads", "score_in_range", "warn", 2);
            maintained("silver.leads", "complete", 3, 100);
            cleaned("silver.leads", 2, 1);
            maintenance_complete("silver.leads", chrono::DateTime::UNIX_EPOCH);
        });
        handle.render()
    }

    #[test]
    fn each_metric_has_a_function_that_counts_it_with_its_labels() {
        let text = rendered();
        for metric in METRICS {
            let typed = format!("# TYPE {} {}\n", metric.name, metric.kind.as_str());
            assert!(text.contains(&typed), "{typed} in\n{text}");
            let counted = text
                .lines()
                .find(|line| line.starts_with(metric.name) && !line.starts_with('#'))
                .unwrap_or_else(|| panic!("`{}` is counted", metric.name));
            for label in metric.labels {
                assert!(counted.contains(&format!("{label}=\"")), "`{label}` in {counted}");
            }
        }
        assert!(text.contains("sluice_source_missing_events_total{") && text.contains("cause=\"retention\"} 3"));
        assert!(text.contains("sluice_sink_commit_duration_seconds_bucket{"), "{text}");
    }

    #[test]
    fn names_follow_the_rule_and_are_used_once() {
        let names: BTreeSet<_> = METRICS.iter().map(|metric| metric.name).collect();
        assert_eq!(names.len(), METRICS.len());
        for metric in METRICS {
            let stage = metric.name.strip_prefix("sluice_").and_then(|rest| rest.split('_').next());
            let is_stage =
                matches!(stage, Some("source" | "decode" | "pipeline" | "sink" | "transform" | "maintenance"));
            assert!(is_stage, "{}", metric.name);
            assert_eq!(metric.name.ends_with("_total"), metric.kind == MetricKind::Counter, "{}", metric.name);
        }
    }
}
