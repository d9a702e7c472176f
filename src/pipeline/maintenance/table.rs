//! One table, from its head to a report of what was done for it.

use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::readers::Readers;
use super::targets::Target;
use crate::catalog::maintenance::compact::Compacted;
use crate::catalog::maintenance::jobs::Job;
use crate::catalog::maintenance::{Keep, MaintainedTable, MaintenanceError};
use crate::catalog::table_location;
use crate::config::spec::TableName;
use crate::fault_points::{Armed, NamedPoint};
use crate::pipeline::partition::report;
use crate::storage::Location;

/// How often in a row a table is looked at anew when somebody else was quicker each time.
const TRIES: u32 = 5;

/// How many files a report of a dry run lists.
const MOST_LISTED: usize = 1_000;

/// The points at which a process may be told to die.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    CompactionStaged,
    CompactionCommitted,
    CheckpointWritten,
    FilesVacuumed,
    LogCleaned,
}

impl NamedPoint for Step {
    const ALL: &'static [Self] = &[
        Self::CompactionStaged,
        Self::CompactionCommitted,
        Self::CheckpointWritten,
        Self::FilesVacuumed,
        Self::LogCleaned,
    ];

    fn as_str(self) -> &'static str {
        match self {
            Self::CompactionStaged => "compaction-staged",
            Self::CompactionCommitted => "compaction-committed",
            Self::CheckpointWritten => "checkpoint-written",
            Self::FilesVacuumed => "files-vacuumed",
            Self::LogCleaned => "log-cleaned",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Do,
    /// Only say what would be done.
    DryRun,
}

/// How the maintenance of a table ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    Done,
    /// Nothing was done, as asked.
    DryRun,
    /// Another process does it at the moment.
    Elsewhere,
    Failed,
    Stopped,
}

impl Outcome {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::DryRun => "dry-run",
            Self::Elsewhere => "elsewhere",
            Self::Failed => "failed",
            Self::Stopped => "stopped",
        }
    }
}

/// Files of one partition that became fewer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompactedPartition {
    /// `day=2026-01-01`; empty where the table isn't partitioned.
    pub partition: String,
    pub files: u64,
    pub into_files: u64,
    pub bytes: u64,
    pub into_bytes: u64,
}

/// What was done for a table, or in a dry run would be. The shape that scripts read: fields may be added, never
/// renamed or removed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TableReport {
    pub table: String,
    pub outcome: Outcome,
    pub error: Option<String>,
    /// After it.
    pub version: Option<u64>,
    pub files_before: u64,
    pub files_after: u64,
    pub bytes_before: u64,
    pub bytes_after: u64,
    /// Files that were rewritten, and what they held.
    pub compacted_files: u64,
    pub compacted_bytes: u64,
    pub partitions: Vec<CompactedPartition>,
    /// The version of the checkpoint that was written.
    pub checkpoint: Option<u64>,
    pub log_entries_removed: u64,
    /// The stream for which most of the log stays, beyond what is young.
    pub log_kept_for: Option<String>,
    pub vacuumed_files: u64,
    pub vacuumed_bytes: u64,
    /// In a dry run: which files would be deleted; at most 1,000 of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<String>,
    pub seconds: f64,
}

impl TableReport {
    pub fn of(table: &str, outcome: Outcome) -> Self {
        Self {
            table: table.to_owned(),
            outcome,
            error: None,
            version: None,
            files_before: 0,
            files_after: 0,
            bytes_before: 0,
            bytes_after: 0,
            compacted_files: 0,
            compacted_bytes: 0,
            partitions: Vec::new(),
            checkpoint: None,
            log_entries_removed: 0,
            log_kept_for: None,
            vacuumed_files: 0,
            vacuumed_bytes: 0,
            files: Vec::new(),
            seconds: 0.0,
        }
    }

    pub fn failed(table: &str, error: String) -> Self {
        Self { error: Some(error), ..Self::of(table, Outcome::Failed) }
    }

    pub fn did_something(&self) -> bool {
        self.compacted_files > 0 || self.checkpoint.is_some() || self.log_entries_removed > 0 || self.vacuumed_files > 0
    }

    /// What failed, and that the rest goes on.
    fn fail(&mut self, error: &MaintenanceError) {
        self.outcome = Outcome::Failed;
        self.error.get_or_insert(report(error));
    }
}

/// Does for a table what is to be done. What fails is told in the report; each step is of use without those
/// before it.
///
/// # Cancel safety
/// The rows stay as they are, wherever it is dropped.
pub(super) async fn maintain_table(
    lake: &Location,
    target: &Target,
    readers: &Readers,
    mode: Mode,
    fault_points: &Armed<Step>,
) -> TableReport {
    let began = Instant::now();
    let name = target.name.to_string();
    let outcome = if mode == Mode::DryRun { Outcome::DryRun } else { Outcome::Done };
    let mut done = TableReport::of(&name, outcome);
    match MaintainedTable::open(&table_location(lake, &target.name), &name).await {
        Ok(Some(table)) => {
            let mut work = Work { target, readers, mode, fault_points, table, done: &mut done };
            work.run().await;
            done.version = Some(work.table.version());
        }
        Ok(None) => {}
        Err(error) => done.fail(&error),
    }
    done.seconds = began.elapsed().as_secs_f64();
    done
}

/// What came of the jobs of one plan.
struct Round {
    /// Nothing of it is left to be planned again.
    is_over: bool,
    has_landed: bool,
}

struct Work<'a> {
    target: &'a Target,
    readers: &'a Readers,
    mode: Mode,
    fault_points: &'a Armed<Step>,
    table: MaintainedTable,
    done: &'a mut TableReport,
}

impl Work<'_> {
    async fn run(&mut self) {
        if let Err(error) = self.compact().await {
            self.done.fail(&error);
        }
        let checkpoint = match self.checkpoint().await {
            Ok(checkpoint) => checkpoint,
            Err(error) => return self.done.fail(&error),
        };
        let (keep, slowest) = self.readers.needs(&self.target.name, self.table.id());
        // While the log still has all that says which files are wanted.
        if let Err(error) = self.vacuum(keep).await {
            self.done.fail(&error);
        }
        if let Err(error) = self.clean_log(checkpoint, keep, slowest).await {
            self.done.fail(&error);
        }
    }

    /// Job by job, until none is left: what is lost is looked at anew, and so is what a head that has grown old
    /// said. Rounds in which nothing lands are few.
    async fn compact(&mut self) -> Result<(), MaintenanceError> {
        let planned = self.table.plan_compaction(&self.target.spec, self.target.sizes).await?;
        (self.done.files_before, self.done.bytes_before) = (planned.files, planned.bytes);
        (self.done.files_after, self.done.bytes_after) = (planned.files, planned.bytes);
        if self.mode == Mode::DryRun {
            planned.jobs.iter().for_each(|job| self.count(job, job.becomes, job.bytes));
            return Ok(());
        }
        let mut jobs = planned.jobs;
        let mut in_vain = 0;
        while !jobs.is_empty() && in_vain < TRIES {
            let round = self.compact_jobs(jobs).await?;
            self.table.reload().await?;
            if round.is_over {
                break;
            }
            in_vain = if round.has_landed { 0 } else { in_vain + 1 };
            jobs = self.table.plan_compaction(&self.target.spec, self.target.sizes).await?.jobs;
        }
        Ok(())
    }

    async fn compact_jobs(&mut self, jobs: Vec<Job>) -> Result<Round, MaintenanceError> {
        let mut round = Round { is_over: true, has_landed: false };
        for job in jobs {
            if self.table.is_stale() {
                round.is_over = false;
                break;
            }
            match self.compact_job(&job).await {
                Ok(true) => round.has_landed = true,
                Ok(false) => round.is_over = false,
                // What is wrong with one file is no reason to leave the others.
                Err(error @ MaintenanceError::RowsDiffer { .. }) => self.done.fail(&error),
                Err(error) => return Err(error),
            }
        }
        Ok(round)
    }

    /// Whether it landed; else somebody else was quicker.
    async fn compact_job(&mut self, job: &Job) -> Result<bool, MaintenanceError> {
        let written = self.table.write_job(job, &self.target.order, &self.target.spec).await?;
        self.fault_points.pass(Step::CompactionStaged);
        let (files, bytes) = (written.files(), written.bytes());
        match self.table.commit_job(job, written, &self.target.spec).await? {
            Compacted::Landed(version) => {
                self.fault_points.pass(Step::CompactionCommitted);
                tracing::debug!(table = self.done.table, version, files, "files were compacted");
                self.count(job, files, bytes);
                Ok(true)
            }
            Compacted::Lost(why) => {
                tracing::debug!(table = self.done.table, ?why, "a compaction was lost to another commit");
                Ok(false)
            }
        }
    }

    fn count(&mut self, job: &Job, into_files: u64, into_bytes: u64) {
        let (files, bytes) = (job.files.len() as u64, job.bytes);
        self.done.compacted_files += files;
        self.done.compacted_bytes += bytes;
        self.done.files_after = (self.done.files_after + into_files).saturating_sub(files);
        self.done.bytes_after = (self.done.bytes_after + into_bytes).saturating_sub(bytes);
        let partition = job.partition();
        self.done.partitions.push(CompactedPartition { partition, files, into_files, bytes, into_bytes });
    }

    /// The version from which readers begin.
    async fn checkpoint(&mut self) -> Result<Option<u64>, MaintenanceError> {
        let last = self.table.last_checkpoint().await?;
        if !self.table.wants_checkpoint(last, &self.target.spec) {
            return Ok(last);
        }
        let version = self.table.version();
        if self.mode == Mode::Do {
            self.table.write_checkpoint(version).await?;
            self.fault_points.pass(Step::CheckpointWritten);
        }
        self.done.checkpoint = Some(version);
        Ok(Some(version))
    }

    async fn vacuum(&mut self, keep: Keep) -> Result<(), MaintenanceError> {
        if !self.target.spec.vacuum {
            return Ok(());
        }
        let entries = self.table.log_entries().await?;
        let files = self.table.unnamed_files(&entries, keep, &self.target.spec).await?;
        if self.mode == Mode::Do && !files.is_empty() {
            self.table.delete_files(&files).await?;
            self.fault_points.pass(Step::FilesVacuumed);
        }
        self.done.vacuumed_files = files.len() as u64;
        self.done.vacuumed_bytes = files.iter().map(|file| file.bytes).sum();
        if self.mode == Mode::DryRun {
            self.done.files = files.iter().take(MOST_LISTED).map(|file| file.path.to_string()).collect();
        }
        Ok(())
    }

    async fn clean_log(
        &mut self,
        checkpoint: Option<u64>,
        keep: Keep,
        slowest: Option<TableName>,
    ) -> Result<(), MaintenanceError> {
        let spec = &self.target.spec;
        let Some(cutoff_ms) = self.table.log_cutoff_ms(spec) else { return Ok(()) };
        let entries = self.table.log_entries().await?;
        let young = entries.first_since(cutoff_ms).unwrap_or(self.table.version());
        if keep.oldest().is_some_and(|oldest| oldest < young) {
            self.done.log_kept_for = slowest.map(|name| name.to_string());
        }
        let head = self.table.version();
        let Some(cut) = entries.cut(head, checkpoint, keep, cutoff_ms, spec.checkpoint_every) else { return Ok(()) };
        let removed = entries.below(cut, cutoff_ms);
        if self.mode == Mode::Do && !removed.is_empty() {
            if cut.needs_checkpoint {
                self.table.write_checkpoint(cut.below).await?;
            }
            // What readers will begin with is read once before what it stands for goes.
            self.table.read_checkpoint(cut.below).await?;
            self.table.delete_entries(&removed).await?;
            self.fault_points.pass(Step::LogCleaned);
        }
        self.done.log_entries_removed = removed.len() as u64;
        Ok(())
    }
}
