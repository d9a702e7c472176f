//! Which files are rewritten together: the small ones of a partition, oldest first.

use std::collections::{BTreeMap, HashMap};

use crate::catalog::data_file::rows_of_keyed_file;
use crate::catalog::state::ActiveFile;
use crate::config::spec::MaintenanceSpec;

/// A job reads at most so many times the target size. More would sort more rows together, but a job that
/// loses to somebody else is work for nothing, and what it sorts lies on the disk meanwhile.
const TARGETS_A_JOB: u64 = 4;

/// How large files become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileSizes {
    /// As declared.
    Declared,
    /// As declared, and of no more rows than who changes rows by their keys lays into one: a larger file would be cut
    /// again by the next change.
    Keyed,
}

/// Files of one partition that become fewer, larger ones, by one commit.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    pub partition_values: HashMap<String, Option<String>>,
    pub files: Vec<ActiveFile>,
    pub bytes: u64,
    /// None where a file doesn't say how many it has.
    pub rows: Option<u64>,
    /// How many files they become.
    pub becomes: u64,
}

impl Job {
    fn of(files: Vec<ActiveFile>, target: u64, most_rows: Option<u64>) -> Self {
        let bytes = files.iter().map(size_of).sum::<u64>();
        let rows: Option<u64> = files.iter().map(rows_of).sum();
        let by_rows = rows.zip(most_rows).map_or(1, |(rows, most)| rows.div_ceil(most));
        Self {
            partition_values: files.first().map(|file| file.partition_values.clone()).unwrap_or_default(),
            rows,
            bytes,
            becomes: bytes.div_ceil(target).max(by_rows).max(1),
            files,
        }
    }

    /// `day=2026-01-01`; empty where the table isn't partitioned.
    pub fn partition(&self) -> String {
        let values: BTreeMap<_, _> = self.partition_values.iter().collect();
        let named = values.iter().map(|(column, value)| format!("{column}={}", value.as_deref().unwrap_or("null")));
        named.collect::<Vec<_>>().join(", ")
    }
}

/// What is to be rewritten of `files`.
///
/// Files of three quarters of the target and more are as they should be. The others of a partition wait
/// until they are `min_files`; then all of them are taken, the one that an earlier run made of smaller ones too,
/// until it is large enough. Of keyed tables a file of half the rows is large enough: a full one that was cut in two has
/// so many.
pub fn plan(files: Vec<ActiveFile>, spec: &MaintenanceSpec, sizes: FileSizes) -> Vec<Job> {
    let target = spec.target_file_bytes.as_u64().max(1);
    let most_rows = match sizes {
        FileSizes::Declared => None,
        FileSizes::Keyed => Some(rows_of_keyed_file(files.len())),
    };
    let is_small = |file: &ActiveFile| {
        let has_few_rows = || most_rows.zip(rows_of(file)).is_none_or(|(most, rows)| rows < most / 2);
        size_of(file) < target - target / 4 && has_few_rows()
    };
    let mut partitions: BTreeMap<Vec<(String, Option<String>)>, Vec<ActiveFile>> = BTreeMap::new();
    for file in files.into_iter().filter(is_small) {
        let mut values: Vec<_> = file.partition_values.clone().into_iter().collect();
        values.sort();
        partitions.entry(values).or_default().push(file);
    }
    let small = partitions.into_values().filter(|files| files.len() >= spec.min_files.max(2));
    small.flat_map(|files| cut(files, target, most_rows)).collect()
}

/// Pieces of two files and more, each as large as a job may be.
fn cut(mut files: Vec<ActiveFile>, target: u64, most_rows: Option<u64>) -> Vec<Job> {
    // What was written one after another has numbers and times one after another.
    files.sort_by(|one, other| (one.modified_at, &one.path).cmp(&(other.modified_at, &other.path)));
    let mut pieces: Vec<Vec<ActiveFile>> = Vec::new();
    let mut held = u64::MAX;
    for file in files {
        let size = size_of(&file);
        match pieces.last_mut() {
            Some(piece) if piece.len() < 2 || held.saturating_add(size) <= target * TARGETS_A_JOB => {
                held = held.saturating_add(size);
                piece.push(file);
            }
            _ => {
                held = size;
                pieces.push(vec![file]);
            }
        }
    }
    if pieces.len() > 1
        && let Some(alone) = pieces.pop_if(|piece| piece.len() < 2)
        && let Some(last) = pieces.last_mut()
    {
        last.extend(alone);
    }
    pieces
        .into_iter()
        .map(|piece| Job::of(piece, target, most_rows))
        .filter(|job| (job.files.len() as u64) > job.becomes)
        .collect()
}

fn size_of(file: &ActiveFile) -> u64 {
    u64::try_from(file.size).unwrap_or(0)
}

/// What its statistics say.
pub fn rows_of(file: &ActiveFile) -> Option<u64> {
    #[derive(serde::Deserialize)]
    struct Statistics {
        #[serde(rename = "numRecords")]
        rows: Option<u64>,
    }
    serde_json::from_str::<Statistics>(file.stats.as_deref()?).ok()?.rows
}

#[cfg(test)]
mod tests {
    use bytesize::ByteSize;
    use deltalake::kernel::Add;

    use super::*;

    const MIB: i64 = 1 << 20;

    fn file(name: &str, day: &str, size: i64, at: i64) -> ActiveFile {
        ActiveFile::from(&Add {
            path: format!("day={day}/{name}"),
            partition_values: HashMap::from([("day".to_owned(), Some(day.to_owned()))]),
            size,
            modification_time: at,
            data_change: true,
            stats: Some(r#"{"numRecords":10,"minValues":{}}"#.to_owned()),
            tags: None,
            deletion_vector: None,
            base_row_id: None,
            default_row_commit_version: None,
            clustering_provider: None,
        })
    }

    fn spec(min_files: usize) -> MaintenanceSpec {
        MaintenanceSpec { target_file_bytes: ByteSize::mib(8), min_files, ..MaintenanceSpec::default() }
    }

    #[test]
    fn small_files_of_a_partition_are_taken_oldest_first_once_they_are_enough() {
        let mut files: Vec<_> = (0..5).map(|at| file(&format!("{at}"), "1", MIB, 5 - at)).collect();
        files.push(file("large", "1", 6 * MIB, 0));
        files.push(file("alone", "2", MIB, 0));
        let jobs = plan(files.clone(), &spec(5), FileSizes::Declared);
        assert_eq!(jobs.len(), 1);
        let names: Vec<_> = jobs[0].files.iter().map(|file| file.path.as_str()).collect();
        assert_eq!(names, ["day=1/4", "day=1/3", "day=1/2", "day=1/1", "day=1/0"]);
        assert_eq!((jobs[0].rows, jobs[0].bytes, jobs[0].becomes), (Some(50), 5 * MIB as u64, 1));
        assert_eq!(jobs[0].partition(), "day=1");
        assert_eq!(plan(files, &spec(6), FileSizes::Declared), []);
    }

    #[test]
    fn a_job_is_bounded_and_no_file_is_rewritten_alone() {
        let files: Vec<_> = (0..13).map(|at| file(&format!("{at:02}"), "1", 5 * MIB, at)).collect();
        let jobs = plan(files, &spec(2), FileSizes::Declared);
        let sizes: Vec<_> = jobs.iter().map(|job| job.files.len()).collect();
        assert_eq!(sizes, [6, 7]);
        assert!(jobs.iter().all(|job| job.becomes < job.files.len() as u64));
    }

    #[test]
    fn files_of_a_keyed_table_stay_as_small_as_its_changes_want_them() {
        let most = rows_of_keyed_file(4);
        let with_rows = |name: &str, rows: u64| {
            let mut held = file(name, "1", MIB, 0);
            held.stats = Some(format!("{{\"numRecords\":{rows}}}"));
            held
        };
        let files = vec![
            with_rows("0", most),
            with_rows("1", most / 2),
            with_rows("2", most / 2 - 1),
            with_rows("3", most / 2 - 1),
            with_rows("4", most / 2 - 1),
        ];
        let jobs = plan(files.clone(), &spec(2), FileSizes::Keyed);
        let names: Vec<_> = jobs[0].files.iter().map(|file| file.path.as_str()).collect();
        assert_eq!((jobs.len(), names.as_slice()), (1, ["day=1/2", "day=1/3", "day=1/4"].as_slice()));
        assert_eq!(jobs[0].becomes, 2, "five megabytes of them would fit into one file");
        assert_eq!(plan(files, &spec(2), FileSizes::Declared)[0].becomes, 1);
    }

    #[test]
    fn a_file_without_statistics_leaves_the_rows_unknown() {
        let mut torn = file("torn", "1", MIB, 0);
        torn.stats = Some("{\"numRecords\":".to_owned());
        let jobs = plan(vec![torn, file("whole", "1", MIB, 1)], &spec(2), FileSizes::Declared);
        assert_eq!(jobs[0].rows, None);
    }
}
