//! What could not become a row, in a table of its own: `<table>__dead_letters`.
//!
//! Dead letters are committed before the data that accounts for them. Between two tries decode
//! may answer differently, so they are matched by key: of the numbers that the ledger doesn't
//! cover, an event that is there already stays a reject, and one that fails now is appended.
//! The table has a base of its own; after a lost race its keys are read again.
//!
//! Here is the way of a flush into it. What is done to dead letters later (they are replayed, marked,
//! dropped) rewrites the files that hold them: [`held`].

pub mod held;
pub mod rows;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{DataType, Int64Type};
use deltalake::kernel::Action;
use deltalake::protocol::{DeltaOperation, OutputMode};
use futures::TryStreamExt as _;
use serde_json::Value;

pub use self::rows::{DeadLetter, LetterState, schema};
use super::SinkError;
use super::files;
use super::schema::{Policy, TableColumns};
use super::table::{OpenTable, STATISTICS_OF};
use crate::batch::{Reject, bronze};
use crate::catalog::commit_log::{CommitLog, Put, ReadAt};
use crate::catalog::scan::scan;
use crate::checkpoint::{Ledger, PartitionKey, Range, SourceId};
use crate::fault_points::{FaultPoint, FaultPoints};

/// How often a commit may lose the race for its version before the flush gives up and backs off.
const TRIES: u32 = 50;

/// An event. Its dead letter stands for all records that it holds.
pub(super) struct EventKey {
    pub(super) partition: PartitionKey,
    pub(super) sequence_number: i64,
}

/// A reject on its way to the table.
#[derive(Debug, Clone)]
pub struct Letter<'a> {
    pub partition: &'a PartitionKey,
    pub reject: &'a Reject,
}

impl Letter<'_> {
    fn key(&self) -> EventKey {
        EventKey { partition: self.partition.clone(), sequence_number: self.reject.event.sequence_number }
    }
}

/// Who writes: stands in each dead letter.
#[derive(Debug, Clone)]
pub struct Writer {
    pub pipeline: String,
    pub owner: String,
    pub config_hash: String,
}

pub struct DeadLetters {
    log: CommitLog,
    table: Option<OpenTable>,
    /// The numbers of events in the table that the ledger of the rows doesn't cover; nothing before [`Self::look`].
    uncovered: BTreeMap<PartitionKey, BTreeSet<i64>>,
    has_looked: bool,
}

impl DeadLetters {
    /// Opens the table where there is one.
    ///
    /// # Errors
    /// Errors of storage, and what makes a table unwritable.
    pub async fn open(log: CommitLog) -> Result<Self, SinkError> {
        let table = OpenTable::open(log.clone()).await?;
        Ok(Self { log, table, uncovered: BTreeMap::new(), has_looked: false })
    }

    /// Reads the keys that `ledger` doesn't cover, once: before the first flush asks for them. Who only settles letters
    /// never does.
    ///
    /// # Errors
    /// Errors of storage.
    pub async fn look(&mut self, ledger: &Ledger) -> Result<(), SinkError> {
        if !self.has_looked {
            self.read_keys(ledger).await?;
            self.has_looked = true;
        }
        Ok(())
    }

    /// Whether an event that isn't covered lies here already. It is rejected as a whole, however many
    /// records it holds: none of them may become a row beside its dead letter.
    pub fn holds(&self, partition: &PartitionKey, sequence_number: i64) -> bool {
        self.uncovered.get(partition).is_some_and(|held| held.contains(&sequence_number))
    }

    /// The numbers in `range` of events that lie here and aren't covered, ascending.
    pub fn within(&self, partition: &PartitionKey, range: Range) -> impl Iterator<Item = i64> {
        let held = self.uncovered.get(partition).filter(|_| !range.is_empty());
        held.into_iter().flat_map(move |held| held.range(range.from..range.to).copied())
    }

    /// Forgets the events that the ledger has come to cover.
    pub fn forget_covered(&mut self, ledger: &Ledger) {
        self.uncovered.retain(|partition, held| {
            let covered = ledger.coverage(partition);
            held.retain(|number| !covered.contains(*number));
            !held.is_empty()
        });
    }

    fn has(&self, key: &EventKey) -> bool {
        self.holds(&key.partition, key.sequence_number)
    }

    fn remember(&mut self, key: EventKey) {
        self.uncovered.entry(key.partition).or_default().insert(key.sequence_number);
    }

    /// Appends those letters that aren't here yet, in one commit.
    ///
    /// # Errors
    /// Errors of storage; [`SinkError::Contended`] when others win every race.
    pub async fn append(
        &mut self,
        letters: &[Letter<'_>],
        writer: &Writer,
        ledger: &Ledger,
        fault_points: &FaultPoints,
    ) -> Result<(), SinkError> {
        for _ in 0..TRIES {
            let new: Vec<&Letter<'_>> = letters.iter().filter(|letter| !self.has(&letter.key())).collect();
            if new.is_empty() {
                return Ok(());
            }
            if self.table.is_none() {
                self.create(writer).await?;
                self.read_keys(ledger).await?;
                continue;
            }
            let base = self.table.as_ref().map(|table| table.version);
            if self.commit(&new, writer, fault_points).await? {
                new.iter().for_each(|letter| self.remember(letter.key()));
                // Others have landed behind it.
                if self.table.as_ref().map(|table| table.version) != base.map(|base| base + 1) {
                    self.read_keys(ledger).await?;
                }
                return Ok(());
            }
            self.read_keys(ledger).await?;
        }
        Err(SinkError::Contended { table: self.log.table.clone(), tries: TRIES })
    }

    async fn create(&mut self, writer: &Writer) -> Result<(), SinkError> {
        // Not append-only: dead letters are marked, and their bytes expire.
        let properties = vec![
            ("sluice.pipeline".to_owned(), writer.pipeline.clone()),
            ("sluice.owner".to_owned(), writer.owner.clone()),
            (STATISTICS_OF.to_owned(), rows::INDEXED.join(",")),
        ];
        self.table = Some(OpenTable::create(self.log.clone(), &schema(), &[], properties).await?);
        Ok(())
    }

    /// One try; false when somebody else was there first, and the keys have to be read again.
    async fn commit(
        &mut self,
        letters: &[&Letter<'_>],
        writer: &Writer,
        fault_points: &FaultPoints,
    ) -> Result<bool, SinkError> {
        let table = self.table.as_mut().expect("a commit follows the opening of its table");
        let now_us = chrono::Utc::now().timestamp_micros();
        let letters: Vec<_> = letters.iter().map(|letter| DeadLetter::new(letter, writer, now_us)).collect();
        let batch =
            rows::to_rows(&letters).map_err(|source| SinkError::Arrow { table: self.log.table.clone(), source })?;
        // A table of an earlier version gains columns, and loses texts of its statistics, in the same commit.
        let schema = rows::with_ours(&table.schema).map_or_else(|| Arc::clone(&table.schema), Arc::new);
        let metadata = table.metadata_to_append(&schema, &rows::INDEXED)?;
        let columns = TableColumns::new(schema, Policy::default());
        let adds = files::write_indexed(self.log.store(), &columns, &rows::INDEXED, vec![batch])
            .await
            .map_err(|source| SinkError::File { table: self.log.table.clone(), source })?;
        fault_points.pass(FaultPoint::DeadLettersStaged);
        let version = table.version + 1;
        let commit = self.log.lay_out(
            metadata.clone().map(Action::Metadata).into_iter().chain(adds.files.into_iter().map(Action::Add)).collect(),
            table.transactions(&[], version),
            DeltaOperation::StreamingUpdate {
                output_mode: OutputMode::Append,
                query_id: writer.pipeline.clone(),
                epoch_id: i64::try_from(version).unwrap_or(i64::MAX),
            },
            HashMap::from([("sluiceConfigHash".to_owned(), Value::String(writer.config_hash.clone()))]),
        )?;
        let read_at = ReadAt::now();
        let landed = match self.log.put(version, &commit).await {
            Put::Landed if !table.is_stale() && self.log.holds(table.version).await? => {
                table.advance(version, &[], read_at);
                if metadata.is_some() {
                    table.reload_schema().await?;
                }
                true
            }
            Put::Landed | Put::Unknown(_) | Put::Taken => table.catch_up(&[commit.id]).await?.landed.is_some(),
        };
        if landed {
            fault_points.pass(FaultPoint::DeadLettersCommitted);
        }
        Ok(landed)
    }

    async fn read_keys(&mut self, ledger: &Ledger) -> Result<(), SinkError> {
        if self.table.is_none() {
            return Ok(());
        }
        let mut found = Vec::new();
        let sql = format!("SELECT {}, {}, {} FROM t", bronze::SOURCE, bronze::PARTITION, bronze::SEQUENCE_NUMBER);
        let failed = |source| SinkError::Arrow {
            table: self.log.table.clone(),
            source: arrow::error::ArrowError::ExternalError(Box::new(source)),
        };
        let mut batches = scan(self.log.store(), &sql).await?;
        while let Some(batch) = batches.try_next().await.map_err(failed)? {
            found.extend(keys(&batch).filter(|key| !ledger.coverage(&key.partition).contains(key.sequence_number)));
        }
        self.uncovered.clear();
        found.into_iter().for_each(|key| self.remember(key));
        Ok(())
    }
}

/// The events of rows whose first three columns are source, partition and number.
pub(super) fn keys(batch: &RecordBatch) -> impl Iterator<Item = EventKey> {
    let text = |at: usize| arrow::compute::cast(batch.column(at), &DataType::Utf8).ok();
    let (sources, partitions) = (text(0), text(1));
    let numbers = batch.column(2).as_primitive_opt::<Int64Type>().cloned();
    (0..batch.num_rows()).filter_map(move |row| {
        let source = sources.as_ref()?.as_string_opt::<i32>()?.value(row).to_owned();
        let partition = partitions.as_ref()?.as_string_opt::<i32>()?.value(row).to_owned();
        Some(EventKey {
            partition: PartitionKey::new(SourceId::new(source), partition),
            sequence_number: numbers.as_ref()?.value(row),
        })
    })
}
