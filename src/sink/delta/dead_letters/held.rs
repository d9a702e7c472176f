//! Dead letters as they lie in their table, a few files at a time, to be marked and written again.
//!
//! ```text
//! files of the table ─▶ Chunk { letters } ─▶ changed by the caller ─▶ remove the files, add others: ONE commit
//! ```
//!
//! A commit that removes files may only do so while each of them is still in the table, or rows would be doubled.
//! So the base is followed commit by commit: one that removes any file ends the chunk, and all is listed anew. One that
//! appends, as a flush of a live pipeline does, moves the base and nothing else.
//!
//! **Memory**: a chunk holds some 64 MiB of letters, or one file where that has more; files are written again in
//! portions of that size. A file as flushes write it holds no more than a flush did.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::compute::filter_record_batch;
use chrono::{DateTime, Utc};
use deltalake::DeltaTable;
use deltalake::kernel::Add;
use deltalake::parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use deltalake::protocol::{DeltaOperation, OutputMode};
use futures::TryStreamExt as _;
use object_store::path::Path;
use object_store::{ObjectStore as _, ObjectStoreExt as _};
use serde_json::json;

use super::rows::{self, DeadLetter, Rows};
use super::{Writer, keys};
use crate::batch::bronze;
use crate::catalog::commit_log::CommitLog;
use crate::catalog::data_file;
use crate::catalog::rewrite::{self, Change, Kind, Outcome};
use crate::catalog::scan::scan_at;
use crate::catalog::state::{ActiveFile, Statistics, active_files};
use crate::checkpoint::PartitionKey;
use crate::compute;
use crate::fault_points::{FaultPoint, FaultPoints};
use crate::sink::delta::SinkError;
use crate::sink::delta::files;
use crate::sink::delta::schema::{Policy, TableColumns};
use crate::sink::delta::table::OpenTable;

/// Letters that are held at once, unless a single file has more. Less makes more commits, more takes more memory.
const CHUNK_BYTES: usize = 64 << 20;

/// What a scan of all letters may gather before it spills.
const SCAN_MEMORY_BYTES: usize = 64 << 20;

/// How long a file stays that the table doesn't name any more: who began to read an older version reads on.
const FILES_STAY: Duration = Duration::from_secs(3600);

/// The table, to be rewritten.
pub struct HeldLetters {
    log: CommitLog,
    table: OpenTable,
    /// Those of the listing that weren't handed out yet.
    files: VecDeque<ActiveFile>,
    /// Others have changed the table: the listing holds no more.
    must_list: bool,
}

/// What the log tells of the letters of a file. What it doesn't tell may be either way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Told {
    /// None of them was rejected before, epoch µs.
    pub rejected_since_us: Option<i64>,
    pub all_replayed: bool,
    /// None of them has a row here: they weren't replayed, or into another table.
    pub none_has_row_here: bool,
    pub all_expired: bool,
}

impl Told {
    fn of(file: &ActiveFile) -> Self {
        let told = Statistics::read(file.stats.as_deref()).unwrap_or_default();
        let nulls = |column: &str| told.null_count[column].as_u64();
        let has_none = |column: &str| nulls(column).is_some() && nulls(column) == told.rows;
        let least = told.min_values[rows::REJECTED_AT].as_str().filter(|_| nulls(rows::REJECTED_AT) == Some(0));
        let least = least.and_then(|text| DateTime::parse_from_rfc3339(text).ok());
        Self {
            rejected_since_us: least.map(|at| at.timestamp_micros()),
            all_replayed: nulls(rows::REPLAYED_AT) == Some(0),
            none_has_row_here: has_none(rows::REPLAYED_AT)
                || nulls(rows::REPLAYED_AT).is_some() && nulls(rows::REPLAYED_AT) == nulls(rows::REPLAYED_TO),
            all_expired: nulls(rows::EXPIRED_AT) == Some(0),
        }
    }

    /// Whether one of them may be replayed or dropped.
    pub fn may_wait(self) -> bool {
        !self.all_replayed && !self.all_expired
    }
}

/// Some files of the table, and what they hold.
#[derive(Debug, Clone)]
pub struct Chunk {
    files: Vec<ActiveFile>,
    pub letters: Vec<DeadLetter>,
    /// Rows without a key, which nothing of ours writes: they stay as they are.
    keyless: Vec<RecordBatch>,
}

/// What became of a chunk that was to be written again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rewritten {
    Landed(u64),
    /// Somebody else has rewritten files: nothing was changed, and all is listed anew.
    Outrun,
}

impl HeldLetters {
    /// Opens the table and lists its files, or finds that there is none.
    ///
    /// # Errors
    /// Errors of storage, and what makes a table unwritable, a column that isn't ours among it.
    pub async fn open(log: CommitLog) -> Result<Option<Self>, SinkError> {
        let Some(table) = OpenTable::open(log.clone()).await? else { return Ok(None) };
        let mut letters = Self { log, table, files: VecDeque::new(), must_list: false };
        letters.list().await?;
        Ok(Some(letters))
    }

    /// Begins anew with the files that the table has now.
    ///
    /// # Errors
    /// As [`HeldLetters::open`]
    pub async fn list(&mut self) -> Result<(), SinkError> {
        self.table.catch_up(&[]).await?;
        if let Some(column) = rows::foreign_column(&self.table.schema) {
            let feature = format!("column `{column}` isn't one of this version, and would be lost");
            return Err(SinkError::Unsupported { table: self.log.table.clone(), feature });
        }
        self.files = active_files(&self.log, self.table.version).await?.into();
        self.must_list = false;
        Ok(())
    }

    /// Whether the next chunk is the first one again: others have changed the table.
    pub fn begins_anew(&self) -> bool {
        self.must_list
    }

    /// The next files of the listing; none when all were handed out.
    ///
    /// # Errors
    /// Errors of storage; [`SinkError::Arrow`] when a file holds what ours can't.
    pub async fn next_chunk(&mut self) -> Result<Option<Chunk>, SinkError> {
        self.next_chunk_of(|_| true).await
    }

    /// As [`Self::next_chunk`], without the files that can't hold what is meant, by what the log tells of them: these
    /// aren't read.
    ///
    /// # Errors
    /// As [`Self::next_chunk`]
    pub async fn next_chunk_of(&mut self, may_be_meant: impl Fn(Told) -> bool) -> Result<Option<Chunk>, SinkError> {
        if self.must_list {
            self.list().await?;
        }
        let mut chunk = Chunk { files: Vec::new(), letters: Vec::new(), keyless: Vec::new() };
        let mut bytes = 0;
        while bytes < CHUNK_BYTES {
            let Some(file) = self.files.pop_front() else { break };
            if !may_be_meant(Told::of(&file)) {
                continue;
            }
            bytes += self.read(&file, &mut chunk).await?;
            chunk.files.push(file);
        }
        Ok((!chunk.files.is_empty()).then_some(chunk))
    }

    async fn read(&self, file: &ActiveFile, chunk: &mut Chunk) -> Result<usize, SinkError> {
        let store = self.log.store().object_store(None);
        let path = Path::parse(&file.path).map_err(|source| self.log.failed(source))?;
        let found = store.get(&path).await.map_err(|source| self.log.failed(source))?;
        let bytes = found.bytes().await.map_err(|source| self.log.failed(source))?;
        let read = compute::spawn(move || -> Result<_, arrow::error::ArrowError> {
            let (mut letters, mut keyless, mut held) = (Vec::new(), Vec::new(), 0);
            for batch in ParquetRecordBatchReaderBuilder::try_new(bytes)?.build()? {
                let batch = batch?;
                let mut without = Vec::with_capacity(batch.num_rows());
                for letter in Rows::of(&batch)?.letters() {
                    without.push(letter.is_none());
                    held += letter.as_ref().map_or(0, DeadLetter::memory_bytes);
                    letters.extend(letter);
                }
                if without.contains(&true) {
                    let rows = filter_record_batch(&Rows::of(&batch)?.into_batch()?, &without.into())?;
                    held += rows.get_array_memory_size();
                    keyless.push(rows);
                }
            }
            Ok((letters, keyless, held))
        });
        let failed = |source| SinkError::Arrow { table: self.log.table.clone(), source };
        let (letters, keyless, held) = read.await.map_err(|lost| self.log.failed(lost))?.map_err(failed)?;
        chunk.letters.extend(letters);
        chunk.keyless.extend(keyless);
        Ok(held)
    }

    /// Puts the letters of `chunk`, as they are now, in place of its files.
    ///
    /// # Errors
    /// Errors of storage; [`SinkError::Contended`] when others win every race. Whatever the error, each letter lies in the
    /// table once, as it was or as it is to be.
    pub async fn rewrite(
        &mut self,
        chunk: Chunk,
        what: &str,
        writer: &Writer,
        fault_points: &FaultPoints,
    ) -> Result<Rewritten, SinkError> {
        let Chunk { files, letters, keyless } = chunk;
        let schema = Arc::new(rows::with_ours(&self.table.schema).unwrap_or_else(|| (*self.table.schema).clone()));
        let metadata = self.table.metadata_to_rewrite(&schema, &rows::INDEXED)?;
        let adds = self.write(&letters, keyless, &schema).await?;
        drop(letters);
        fault_points.pass(FaultPoint::LettersStaged);
        let base = self.table.base();
        let change = Change {
            // It leans on the files that it removes, and on nothing else: what others append may go before it.
            kind: Kind::Append,
            removes: files.iter().map(|file| file.remove(true)).collect(),
            adds,
            transactions: Vec::new(),
            metadata,
            changes: Vec::new(),
            protocol: None,
            operation: DeltaOperation::StreamingUpdate {
                output_mode: OutputMode::Update,
                query_id: format!("dead-letters {what}"),
                epoch_id: i64::try_from(base.version + 1).unwrap_or(i64::MAX),
            },
            note: json!({"deadLetters": what, "pipeline": writer.pipeline, "configHash": writer.config_hash}),
        };
        let adds = change.adds.clone();
        match rewrite::commit(&self.log, base, change).await? {
            Outcome::Landed(version) => {
                fault_points.pass(FaultPoint::LettersCommitted);
                self.table.catch_up(&[]).await?;
                // What others have done beside it may concern files that are listed.
                self.must_list = self.table.version != base.version + 1;
                Ok(Rewritten::Landed(version))
            }
            Outcome::Lost { may_still_land, .. } => {
                if !may_still_land {
                    data_file::delete(self.log.store(), &adds).await;
                }
                self.must_list = true;
                Ok(Rewritten::Outrun)
            }
        }
    }

    async fn write(
        &self,
        letters: &[DeadLetter],
        keyless: Vec<RecordBatch>,
        schema: &arrow::datatypes::SchemaRef,
    ) -> Result<Vec<Add>, SinkError> {
        let arrow = |source| SinkError::Arrow { table: self.log.table.clone(), source };
        let mut batches = keyless;
        let mut portion = 0;
        let mut adds = Vec::new();
        for group in letters.chunk_by(|one, _| {
            portion += one.memory_bytes();
            let is_full = portion >= CHUNK_BYTES;
            if is_full {
                portion = 0;
            }
            !is_full
        }) {
            batches.push(rows::to_rows(group).map_err(arrow)?);
            adds.extend(self.store(schema, std::mem::take(&mut batches)).await?);
        }
        if !batches.is_empty() {
            adds.extend(self.store(schema, batches).await?);
        }
        Ok(adds)
    }

    async fn store(
        &self,
        schema: &arrow::datatypes::SchemaRef,
        batches: Vec<RecordBatch>,
    ) -> Result<Vec<Add>, SinkError> {
        let columns = TableColumns::new(Arc::clone(schema), Policy::default());
        let stored = files::write_indexed(self.log.store(), &columns, &rows::INDEXED, batches).await;
        stored.map(|written| written.files).map_err(|source| SinkError::File { table: self.log.table.clone(), source })
    }

    /// Deletes the files that the table has not named for an hour: only then are expired bytes gone.
    ///
    /// # Errors
    /// Errors of storage.
    pub async fn delete_unnamed(&self) -> Result<u64, SinkError> {
        let mut table = DeltaTable::new(Arc::clone(self.log.store()));
        table.load().await.map_err(|source| self.log.failed(source))?;
        let state = table.snapshot().map_err(|source| self.log.failed(source))?;
        let before = Utc::now().timestamp_millis() - i64::try_from(FILES_STAY.as_millis()).unwrap_or(i64::MAX);
        let named: BTreeSet<String> = state.log_data().iter().map(|file| file.path().into_owned()).collect();
        let mut tombstones = state.all_tombstones(self.log.store().as_ref());
        let mut unnamed = BTreeSet::new();
        while let Some(gone) = tombstones.try_next().await.map_err(|source| self.log.failed(source))? {
            let path = gone.path().into_owned();
            if gone.deletion_timestamp().is_some_and(|at| at < before) && !named.contains(&path) {
                unnamed.insert(path);
            }
        }
        if unnamed.is_empty() {
            return Ok(0);
        }
        // The log remembers for a week what was deleted long ago: asking for each would cost a request.
        let store = self.log.store().object_store(None);
        let mut deleted = 0;
        let mut there = store.list(None);
        while let Some(found) = there.try_next().await.map_err(|source| self.log.failed(source))? {
            if unnamed.contains(found.location.as_ref()) {
                store.delete(&found.location).await.map_err(|source| self.log.failed(source))?;
                deleted += 1;
            }
        }
        Ok(deleted)
    }

    /// The numbers whose letters expired and aren't known to have a row beside them.
    ///
    /// # Errors
    /// Errors of storage.
    pub async fn expired(&mut self) -> Result<BTreeMap<PartitionKey, BTreeSet<i64>>, SinkError> {
        self.table.catch_up(&[]).await?;
        let mut numbers: BTreeMap<PartitionKey, BTreeSet<i64>> = BTreeMap::new();
        let has = |column: &str| self.table.schema.column_with_name(column).is_some();
        // In a table of an earlier version nothing has expired, or was marked as replayed.
        if !has(rows::EXPIRED_AT) {
            return Ok(numbers);
        }
        let without_row = match (has(rows::REPLAYED_AT), has(rows::REPLAYED_TO)) {
            (false, _) => String::new(),
            (true, false) => format!(" AND \"{}\" IS NULL", rows::REPLAYED_AT),
            (true, true) => {
                format!(" AND (\"{}\" IS NULL OR \"{}\" IS NOT NULL)", rows::REPLAYED_AT, rows::REPLAYED_TO)
            }
        };
        let sql = format!(
            "SELECT \"{}\", \"{}\", \"{}\" FROM t WHERE \"{}\" IS NOT NULL{without_row}",
            bronze::SOURCE,
            bronze::PARTITION,
            bronze::SEQUENCE_NUMBER,
            rows::EXPIRED_AT,
        );
        let mut batches = scan_at(self.log.store(), self.table.version, &sql, SCAN_MEMORY_BYTES).await?;
        while let Some(batch) = batches.try_next().await.map_err(|source| self.log.failed(source))? {
            for key in keys(&batch) {
                numbers.entry(key.partition).or_default().insert(key.sequence_number);
            }
        }
        Ok(numbers)
    }
}

/// Hands each letter of the table at `version` to `each`, without body and properties.
///
/// # Errors
/// Errors of storage; [`SinkError::Arrow`] when a column holds what ours can't.
pub async fn scan_letters(
    log: &CommitLog,
    version: u64,
    condition: &str,
    mut each: impl FnMut(DeadLetter),
) -> Result<(), SinkError> {
    let sql = format!("SELECT * EXCEPT (\"{}\", \"{}\") FROM t {condition}", rows::BODY, bronze::PROPERTIES);
    let mut batches = scan_at(log.store(), version, &sql, SCAN_MEMORY_BYTES).await?;
    let failed = |source| SinkError::Arrow { table: log.table.clone(), source };
    while let Some(batch) = batches.try_next().await.map_err(|source| log.failed(source))? {
        Rows::of(&batch).map_err(failed)?.letters().flatten().for_each(&mut each);
    }
    Ok(())
}

/// The letter of one event, whole; none where the table has none. Without a source that of the first which has one.
///
/// # Errors
/// As [`scan_letters`]
pub async fn find_letter(
    log: &CommitLog,
    version: u64,
    source: Option<&str>,
    partition: &str,
    sequence_number: i64,
) -> Result<Option<DeadLetter>, SinkError> {
    let is = |column: &str, text: &str| format!("\"{column}\" = '{}'", text.replace('\'', "''"));
    let of_source = source.map(|source| format!(" AND {}", is(bronze::SOURCE, source))).unwrap_or_default();
    let sql = format!(
        "SELECT * FROM t WHERE {} AND \"{}\" = {sequence_number}{of_source} ORDER BY \"{}\"",
        is(bronze::PARTITION, partition),
        bronze::SEQUENCE_NUMBER,
        bronze::SOURCE,
    );
    let mut batches = scan_at(log.store(), version, &sql, SCAN_MEMORY_BYTES).await?;
    let failed = |source| SinkError::Arrow { table: log.table.clone(), source };
    while let Some(batch) = batches.try_next().await.map_err(|source| log.failed(source))? {
        if let Some(letter) = Rows::of(&batch).map_err(failed)?.letters().flatten().next() {
            return Ok(Some(letter));
        }
    }
    Ok(None)
}
