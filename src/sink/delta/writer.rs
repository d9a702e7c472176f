//! The flush: from decoded events to one commit that holds the rows and the ledger.
//!
//! The invariant that everything rests on: what was trimmed against the ledger at version V is
//! put as V + 1 or not at all. Whoever else puts V + 1 first makes us read, trim and try again.

use std::borrow::Borrow;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::{Field, Schema, SchemaRef};
use deltalake::kernel::{Action, Add};
use deltalake::protocol::{DeltaOperation, OutputMode};
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _, stream};
use serde_json::{Value, json};
use uuid::Uuid;

use super::SinkError;
use super::dead_letters::{DeadLetters, Writer};
use super::files::{self, Slice, Written};
use super::plan::{Base, ChunkId, Plan, Thawed};
use super::schema::{Policy, Rescued, TableColumns};
use super::staged::{Chunk, Encoder, Staged};
use super::table::{CaughtUp, OpenTable};
use crate::batch::bronze;
use crate::catalog::commit_log::{CommitLog, Put, ReadAt, SETTLES_LETTERS};
use crate::catalog::log::log_store;
use crate::checkpoint::{Counter, Ledger, LedgerKey, PartitionKey, Run, SourceId};
use crate::fault_points::{FaultPoint, FaultPoints};
use crate::storage::Location;

/// How many races for a version a flush may lose in a row. Each loss means that somebody else
/// landed; far fewer would give up beside a busy rival, more would hide a livelock.
pub(super) const TRIES: u32 = 100;

/// What a table writer needs to know.
#[derive(Debug, Clone)]
pub struct TableSpec {
    /// `schema.table`, for words and metadata.
    pub name: String,
    pub location: Location,
    pub dead_letters: Location,
    pub writer: Writer,
    /// Payload columns that are known before the first event, then the envelope's.
    pub schema: SchemaRef,
    pub policy: Policy,
    pub fault_points: FaultPoints,
}

/// What a flush did, by partition; what was received is the sum of the first four.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    pub committed: u64,
    pub rejected: u64,
    pub filtered: u64,
    pub duplicate: u64,
    /// Those of the duplicates that are the table's own, where others are elsewhere.
    pub own_duplicate: u64,
}

impl Counts {
    pub fn received(&self) -> u64 {
        self.committed + self.rejected + self.filtered + self.duplicate
    }
}

#[derive(Debug, Clone, Default)]
pub struct Flushed {
    /// The version of the commit; none when all was covered already.
    pub version: Option<u64>,
    pub rows: u64,
    pub bytes: u64,
    pub tries: u32,
    pub counts: BTreeMap<PartitionKey, Counts>,
    /// Commits of this flush that changed columns.
    pub schema_changes: u32,
    /// Rows of the commit that hold what no column could, by column.
    pub rescued: Rescued,
}

pub struct TableWriter {
    pub(super) spec: TableSpec,
    pub(super) table: OpenTable,
    /// As of the base.
    columns: TableColumns,
    dead_letters: DeadLetters,
    /// Of the present flush.
    pub(super) schema_changes: u32,
    /// The ids that the present flush has put, and whether one of them may still land.
    put_ids: Vec<Uuid>,
    may_still_land: bool,
}

/// Files stored for a flush, and how many rows they hold.
pub(super) type StoredFiles = BTreeMap<FilesOf, (usize, Written<Add>)>;

/// What the files hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum FilesOf {
    Chunk(ChunkId),
    /// Rows of an enqueued date that weren't encoded ahead.
    Date(Option<i32>),
}

/// Files of chunks that are stored at the same time: each holds a connection and a few megabytes.
const UPLOADS: usize = 4;

/// What a commit is about, beside the facts that it moves.
#[derive(Clone, Copy)]
pub(super) enum Of<'a> {
    /// Columns, or starts of partitions.
    Nothing,
    /// Numbers that weren't covered before.
    Runs(&'a BTreeMap<PartitionKey, Vec<Run>>),
    /// Numbers that were, as dead letters: what became of them.
    Letters(&'static str),
}

pub(super) enum Tried {
    Landed(u64),
    Again(CaughtUp),
}

impl TableWriter {
    /// Opens the table, making it where there is none.
    ///
    /// # Errors
    /// [`SinkError`]: what makes a table unwritable, and errors of storage.
    pub async fn open(spec: TableSpec) -> Result<Self, SinkError> {
        let log = CommitLog::new(log_store(&spec.location)?, spec.name.clone());
        let table = match OpenTable::open(log.clone()).await? {
            Some(table) => table,
            None => OpenTable::create(log, &spec.schema, &[bronze::ENQUEUED_DATE], properties(&spec.writer)).await?,
        };
        let log = CommitLog::new(log_store(&spec.dead_letters)?, format!("{}__dead_letters", spec.name));
        let dead_letters = DeadLetters::open(log).await?;
        let columns = TableColumns::new(table.schema.clone(), spec.policy);
        let mut writer =
            Self { spec, table, columns, dead_letters, schema_changes: 0, put_ids: Vec::new(), may_still_land: false };
        writer.add_known_columns().await?;
        Ok(writer)
    }

    /// A table that is there already gets the columns that were declared since.
    async fn add_known_columns(&mut self) -> Result<(), SinkError> {
        let known = [RecordBatch::new_empty(self.spec.schema.clone())];
        for _ in 0..TRIES {
            if self.evolve(&known).await?.is_none() {
                return Ok(());
            }
        }
        Err(SinkError::Contended { table: self.spec.name.clone(), tries: TRIES })
    }

    pub fn ledger(&self) -> &Ledger {
        &self.table.ledger
    }

    pub fn version(&self) -> u64 {
        self.table.version
    }

    /// The id of the table, which every app id of its ledger names.
    pub fn table_id(&self) -> &str {
        self.table.id()
    }

    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// Reads what others committed since.
    ///
    /// # Errors
    /// As of [`OpenTable::catch_up`].
    pub async fn catch_up(&mut self) -> Result<(), SinkError> {
        self.table.catch_up(&[]).await.map(drop)
    }

    /// For encoding ahead of a flush; a newer one knows newer columns.
    pub fn encoder(&self) -> Encoder {
        Encoder { columns: self.columns(), partition_columns: self.table.partition_columns.clone() }
    }

    /// The columns as they were last seen.
    pub fn columns(&self) -> TableColumns {
        self.columns.with_schema(&self.table.schema)
    }

    /// Commits where partitions start, and when their hub was made.
    ///
    /// Starts are those of partitions that the ledger didn't know when it was looked at. Where a
    /// rival was quicker, the lower of the two starts is what the table accounts from.
    ///
    /// # Errors
    /// [`SinkError::Generation`] when the ledger knows the hub as made at another time, and
    /// errors of storage.
    pub async fn record_starts(
        &mut self,
        created: Option<(&SourceId, i64)>,
        starts: &[(PartitionKey, i64)],
    ) -> Result<(), SinkError> {
        for _ in 0..TRIES {
            let mut facts = Vec::new();
            if let Some((source, is)) = created {
                match self.table.ledger.created(source) {
                    Some(was) if was != is => {
                        let table = self.spec.name.clone();
                        return Err(SinkError::Generation { table, origin: source.to_string(), was, is });
                    }
                    Some(_) => {}
                    None => facts.push((LedgerKey::Created { source: source.clone() }, is)),
                }
            }
            for (partition, start) in starts {
                let held = self.table.ledger.partition(partition).and_then(|held| held.start());
                if held.is_none_or(|held| *start < held) {
                    facts.push((LedgerKey::End { partition: partition.clone(), from: *start }, *start));
                }
            }
            if facts.is_empty() {
                return Ok(());
            }
            if let Tried::Landed(_) = self.put_actions(Vec::new(), &facts, Of::Nothing, []).await? {
                return Ok(());
            }
        }
        Err(SinkError::Contended { table: self.spec.name.clone(), tries: TRIES })
    }

    /// Commits what of `staged` the ledger doesn't cover: dead letters, then columns, then rows
    /// together with the ledger. Safe to call again with the same events after any error.
    ///
    /// # Errors
    /// [`SinkError`]; nothing is lost by any, since nothing is covered before it landed.
    pub async fn flush<S: Borrow<Staged> + Sync>(&mut self, staged: &[S]) -> Result<Flushed, SinkError> {
        let mut stored = StoredFiles::new();
        let mut thawed = Thawed::new();
        self.begin();
        self.dead_letters.look(&self.table.ledger).await?;
        for tries in 1..=TRIES {
            self.look_at_columns();
            let apart = thawed.len();
            let plan = self.plan(staged, &mut thawed).await?;
            if thawed.len() > apart {
                // Rows of a chunk lie among the others now: what was stored of these isn't theirs any more.
                let of_dates = stored.split_off(&FilesOf::Date(None));
                self.delete_orphans(of_dates).await;
            }
            if plan.runs.is_empty() {
                self.dead_letters.forget_covered(&self.table.ledger);
                self.delete_orphans(stored).await;
                let schema_changes = self.schema_changes;
                return Ok(Flushed { tries, counts: plan.counts, schema_changes, ..Flushed::default() });
            }
            let writer = &self.spec.writer;
            self.dead_letters.append(&plan.letters, writer, &self.table.ledger, &self.spec.fault_points).await?;
            if let Some(caught_up) = self.evolve(&plan.batches).await? {
                forget_misfits(&mut stored, caught_up);
                continue;
            }
            let Written { files, rescued } = self.stage(&plan, &mut stored).await?;
            self.spec.fault_points.pass(FaultPoint::DataStaged);
            let facts = self.facts(&plan);
            let bytes = files.iter().map(|add| u64::try_from(add.size).unwrap_or(0)).sum();
            let said = (!rescued.is_empty()).then(|| ("sluiceRescued", json!(rescued)));
            let actions = files.into_iter().map(Action::Add).collect();
            match self.put_actions(actions, &facts, Of::Runs(&plan.runs), said).await? {
                Tried::Landed(version) => {
                    self.spec.fault_points.pass(FaultPoint::DataCommitted);
                    self.dead_letters.forget_covered(&self.table.ledger);
                    let (rows, counts) = (plan.rows(), plan.counts);
                    let schema_changes = self.schema_changes;
                    return Ok(Flushed { version: Some(version), rows, bytes, tries, counts, schema_changes, rescued });
                }
                Tried::Again(caught_up) => forget_misfits(&mut stored, caught_up),
            }
        }
        Err(SinkError::Contended { table: self.spec.name.clone(), tries: TRIES })
    }

    /// What follows is tried until it has landed, under ids of its own.
    pub(super) fn begin(&mut self) {
        self.put_ids.clear();
        self.may_still_land = false;
        self.schema_changes = 0;
    }

    /// The columns as of the base, for the files that are written on it.
    pub(super) fn look_at_columns(&mut self) {
        self.columns = self.columns();
    }

    async fn plan<'a, S: Borrow<Staged>>(&self, staged: &'a [S], thawed: &mut Thawed) -> Result<Plan<'a>, SinkError> {
        let OpenTable { ledger, schema, .. } = &self.table;
        let base = Base { ledger, dead_letters: &self.dead_letters, schema };
        let failed = |source| SinkError::Arrow { table: self.spec.name.clone(), source };
        base.plan(staged, thawed).await.map_err(failed)
    }

    /// Stores the files that aren't stored yet. A file whose rows are all still wanted is
    /// named again; one that lost rows to a rival is written anew.
    async fn stage(&self, plan: &Plan<'_>, stored: &mut StoredFiles) -> Result<Written<Add>, SinkError> {
        let failed = |source| SinkError::Arrow { table: self.spec.name.clone(), source };
        let slices = files::by_date(&plan.batches).map_err(failed)?;
        let is_wanted = |of: &FilesOf, rows: usize| match of {
            FilesOf::Date(date) => slices.get(date).is_some_and(|slice| slice.rows == rows),
            FilesOf::Chunk(id) => plan.chunks.contains_key(id),
        };
        let lost: Vec<_> = stored.iter().filter(|(of, (rows, _))| !is_wanted(of, *rows)).map(|(of, _)| *of).collect();
        let mut orphans = StoredFiles::new();
        for of in lost {
            orphans.extend(stored.remove_entry(&of));
        }
        self.delete_orphans(orphans).await;
        for (id, chunk) in &plan.chunks {
            if let Entry::Vacant(missing) = stored.entry(FilesOf::Chunk(*id)) {
                missing.insert((chunk.rows, self.store_chunk(chunk).await?));
            }
        }
        for (date, slice) in slices {
            if let Entry::Vacant(missing) = stored.entry(FilesOf::Date(date)) {
                let rows = slice.rows;
                missing.insert((rows, self.write_slice(date, slice).await?));
            }
        }
        let mut all = Written::default();
        stored.values().for_each(|(_, written)| all.extend(written.clone()));
        Ok(all)
    }

    async fn store_chunk(&self, chunk: &Chunk) -> Result<Written<Add>, SinkError> {
        let store = self.table.log.store();
        let files = chunk.files.values().flat_map(|dated| &dated.files);
        let stores: Vec<_> = files.map(|file| file.store(store).boxed()).collect();
        let stored = stream::iter(stores).buffered(UPLOADS).try_collect();
        let files = stored.await.map_err(|source| SinkError::File { table: self.spec.name.clone(), source })?;
        Ok(Written { files, rescued: chunk.rescued.clone() })
    }

    pub(super) async fn write_slice(&self, date: Option<i32>, slice: Slice) -> Result<Written<Add>, SinkError> {
        let OpenTable { log, partition_columns, .. } = &self.table;
        let written = files::write(log.store(), &self.columns, partition_columns, date, slice.batches).await;
        written.map_err(|source| SinkError::File { table: self.spec.name.clone(), source })
    }

    fn facts(&self, plan: &Plan<'_>) -> Vec<(LedgerKey, i64)> {
        let mut facts = Vec::new();
        for (partition, runs) in &plan.runs {
            let rejected = plan.letters.iter().filter(|letter| letter.partition == partition).count() as u64
                + plan.stayed.get(partition).copied().unwrap_or(0);
            let filtered = plan.filtered.get(partition).copied().unwrap_or(0);
            let counted = [(Counter::Rejected, rejected), (Counter::Filtered, filtered)];
            let counted = counted.map(|(counter, events)| (counter, i64::try_from(events).unwrap_or(i64::MAX)));
            let counted = BTreeMap::from(counted);
            facts.extend(self.table.ledger.record(partition, runs, &counted));
        }
        facts
    }

    /// One put at base + 1. Whatever it answers, the log has the last word.
    ///
    /// What is `said` beside the usual stands in its `commitInfo`.
    pub(super) async fn put_actions(
        &mut self,
        actions: Vec<Action>,
        facts: &[(LedgerKey, i64)],
        of: Of<'_>,
        said: impl IntoIterator<Item = (&'static str, Value)>,
    ) -> Result<Tried, SinkError> {
        if self.table.is_stale() {
            return Ok(Tried::Again(self.table.enumerate().await?));
        }
        let version = self.table.version + 1;
        let commit = self.table.log.lay_out(
            actions,
            self.table.transactions(facts, version),
            DeltaOperation::StreamingUpdate {
                output_mode: OutputMode::Append,
                query_id: self.spec.writer.pipeline.clone(),
                epoch_id: i64::try_from(version).unwrap_or(i64::MAX),
            },
            self.commit_metadata(of, said),
        )?;
        self.put_ids.push(commit.id);
        let read_at = ReadAt::now();
        let put = self.table.log.put(version, &commit).await;
        if let Put::Landed = put
            && !self.table.is_stale()
            && self.table.log.holds(self.table.version).await?
        {
            self.table.advance(version, facts, read_at);
            return Ok(Tried::Landed(version));
        }
        if let Put::Unknown(error) = &put {
            self.may_still_land = true;
            tracing::warn!(
                table = self.spec.name,
                version,
                error = error.to_string(),
                "a commit has an unknown outcome"
            );
        }
        let caught_up = match self.table.catch_up(&self.put_ids).await {
            Ok(caught_up) => caught_up,
            Err(error) => match put {
                Put::Unknown(source) => {
                    tracing::warn!(error = %error, "the log can't be read after it");
                    return Err(SinkError::UnknownOutcome { table: self.spec.name.clone(), version, source });
                }
                Put::Landed | Put::Taken => return Err(error),
            },
        };
        if let Some(version) = caught_up.landed {
            return Ok(Tried::Landed(version));
        }
        if let Of::Runs(runs) = of
            && caught_up.enumerated
            && self.covers(runs)
            && self.is_ours(version, commit.id).await?
        {
            return Ok(Tried::Landed(version));
        }
        if let Put::Unknown(_) = put {
            // The put may still be on its way. It can only land as `version`, where the next try
            // meets it and knows it by its id.
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        Ok(Tried::Again(caught_up))
    }

    fn covers(&self, runs: &BTreeMap<PartitionKey, Vec<Run>>) -> bool {
        !runs.is_empty()
            && runs.iter().all(|(partition, runs)| {
                let covered = self.table.ledger.coverage(partition);
                runs.iter().all(|run| covered.missing_in(run.range).is_empty())
            })
    }

    async fn is_ours(&self, version: u64, id: Uuid) -> Result<bool, SinkError> {
        Ok(self.table.log.read(version).await?.is_some_and(|commit| commit.flush_id() == Some(id)))
    }

    fn commit_metadata(
        &self,
        of: Of<'_>,
        said: impl IntoIterator<Item = (&'static str, Value)>,
    ) -> HashMap<String, Value> {
        let none = BTreeMap::new();
        let runs = if let Of::Runs(runs) = of { runs } else { &none };
        let ranges: BTreeMap<String, Vec<(i64, i64)>> = runs
            .iter()
            .map(|(partition, runs)| {
                (partition.to_string(), runs.iter().map(|run| (run.range.from, run.range.to)).collect())
            })
            .collect();
        let settles = if let Of::Letters(what) = of { Some((SETTLES_LETTERS, json!(what))) } else { None };
        let usual = [
            ("sluicePipeline", json!(self.spec.writer.pipeline)),
            ("sluiceOwner", json!(self.spec.writer.owner)),
            ("sluiceConfigHash", json!(self.spec.writer.config_hash)),
            ("sluiceRanges", json!(ranges)),
            ("isBlindAppend", json!(settles.is_none())),
        ];
        usual.into_iter().chain(settles).chain(said).map(|(key, value)| (key.to_owned(), value)).collect()
    }

    /// Files that no commit of ours names and none will: a lost race. Best effort, since vacuum
    /// finds what stays; not at all while a commit that names them may still land.
    pub(super) async fn delete_orphans(&self, files: StoredFiles) {
        use object_store::ObjectStoreExt as _;
        if self.may_still_land {
            return;
        }
        let store = self.table.log.store().object_store(None);
        for add in files.into_values().flat_map(|(_, written)| written.files) {
            let Ok(path) = deltalake::Path::from_url_path(&add.path) else { continue };
            if let Err(error) = store.delete(&path).await {
                tracing::debug!(file = add.path, error = %error, "an orphan stays until the next vacuum");
            }
        }
    }
}

/// Files fit the columns that they were written for, and a log that was read anew may already
/// name them.
pub(super) fn forget_misfits(stored: &mut StoredFiles, caught_up: CaughtUp) {
    if caught_up.schema_changed || caught_up.enumerated {
        stored.clear();
    }
}

fn properties(writer: &Writer) -> Vec<(String, String)> {
    [
        ("delta.appendOnly", "true"),
        ("delta.dataSkippingNumIndexedCols", "-1"),
        ("sluice.pipeline", &writer.pipeline),
        ("sluice.owner", &writer.owner),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .to_vec()
}

/// The columns of a table before its first event: those that are known, then the envelope's.
pub fn first_schema(known: &[Field]) -> SchemaRef {
    let envelope = bronze::fields().iter().map(|field| field.as_ref().clone());
    std::sync::Arc::new(Schema::new(known.iter().cloned().chain(envelope).collect::<Vec<_>>()))
}
