//! One run of a transform: part after part, until its inputs' heads at the start are reached.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use chrono::Utc;
use datafusion::catalog::TableProvider;
use datafusion::execution::memory_pool::MemoryLimit;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::prelude::SessionContext;
use deltalake::protocol::{DeltaOperation, SaveMode};
use object_store::ObjectStoreExt as _;
use object_store::path::Path;
use serde_json::{Value, json};

use super::consumed::{Position, refreshed, refreshes};
use super::expectations::{Sieve, Violations};
use super::input::{InputTable, News, Part, REFRESH};
use super::modes::{GivesWay, Planned, Work, grave_schema};
use super::output::{CONFIG_HASH, Output, with_properties, write};
use super::pool::{SORTS_AT_ONCE, merging_bytes};
use super::side::{self, Side};
use super::stage::Staged;
use super::{TakenBy, TransformError};
use crate::catalog::change_data;
use crate::catalog::data_file::delete;
use crate::catalog::rewrite::{Change, Kind};
use crate::catalog::state::metadata_of_new;
use crate::catalog::tables::Tables;
use crate::config::spec::{Mode, OnViolation, TableName, TransformSpec, Trigger};
use crate::fault_points::{FaultPoint, FaultPoints};
use crate::shutdown::Shutdown;
use crate::transform::graph::Node;
use crate::transform::{Parsed, session};

pub use super::report::{Outcome, Read, Report};

/// How much of an input is read into one commit unless told otherwise, in bytes of its files.
/// Smaller makes more commits of a first run; larger more to do again after a crash.
pub const PART_BYTES: u64 = 64 << 20;

/// The memory that a partition of a query needs at least to sort, join and group at once.
const PARTITION_BYTES: usize = 64 << 20;

/// What a sort holds becomes one batch, and the offsets of its texts have 31 bits.
const MOST_SORTED_IN_PLACE_BYTES: usize = 1 << 30;

/// Of how many bytes of memory a row is in a batch where joins are sorted: a sort reads some batches of each of its runs.
const BATCH_SHARE: usize = 64 << 10;

/// Of fewer rows batches cost more than they hold.
const FEWEST_ROWS: usize = 128;

/// How often a part is planned again since somebody else's commit went first.
const TRIES: u32 = 100;

/// How long versions of an input that bring no rows may go unrecorded: each record is a commit.
const EMPTY_VERSIONS_RECORDED_AFTER_MS: i64 = 24 * 60 * 60 * 1000;

/// What all runs of a process share.
#[derive(Clone)]
pub struct Engine {
    /// The lake, and what its runs know of its tables by now.
    pub lake: Tables,
    /// Memory and temporary files.
    pub runtime: Arc<RuntimeEnv>,
    pub part_bytes: u64,
    pub fault_points: FaultPoints,
    pub shutdown: Shutdown,
}

/// How joins are made: with one side in memory, or with both sorted, on disk where they don't fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Joins {
    Hashed,
    Sorted,
}

/// Where a part of a run has led.
enum Step {
    Committed,
    /// Committed, and nothing is left up to the inputs' heads.
    Last,
    /// Somebody else's commit went first.
    Again,
    Nothing,
}

/// One run, as far as it has come.
pub(super) struct Run<'a> {
    pub(super) engine: &'a Engine,
    pub(super) node: &'a Node,
    pub(super) spec: &'a TransformSpec,
    pub(super) parsed: Parsed,
    pub(super) inputs: BTreeMap<TableName, InputTable>,
    /// Whole inputs, each at the version that it is pinned to.
    pub(super) snapshots: HashMap<(TableName, u64), Arc<dyn TableProvider>>,
    pub(super) report: Report,
}

impl Engine {
    /// Runs a transform up to what its inputs hold now. What was committed stays, whatever the error.
    pub async fn run(&self, node: &Node, full_refresh: Refresh) -> Report {
        let mut run = Run {
            engine: self,
            node,
            spec: &node.spec,
            parsed: node.parsed.clone(),
            inputs: BTreeMap::new(),
            snapshots: HashMap::new(),
            report: Report::begun(&node.spec.table),
        };
        let ended = run.go(full_refresh).await;
        run.report.error = ended.err();
        run.report.ended_at = Utc::now();
        run.report
    }
}

/// Whether the table is begun anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refresh {
    No,
    Full,
}

impl Run<'_> {
    async fn go(&mut self, full_refresh: Refresh) -> Result<(), TransformError> {
        for input in self.parsed.inputs.clone() {
            if self.inputs.contains_key(&input.table) {
                continue;
            }
            let opened = InputTable::open(&self.engine.lake, &input.table).await?;
            let mut opened = opened.ok_or_else(|| TransformError::NoInput(input.table.clone()))?;
            if self.node.updated.contains(&input.table) {
                opened.news = News::Changes;
            }
            self.inputs.insert(input.table, opened);
        }
        let wanted = self.wanted_columns().await?;
        if full_refresh == Refresh::Full && self.spec.mode != Mode::Replace {
            self.begin_anew(&wanted).await?;
        }
        let mut output = Output::open_or_create(
            &self.engine.lake,
            &self.spec.table,
            &wanted,
            &self.spec.partition_by,
            self.properties(),
        )
        .await?;
        let was = output.head.metadata.configuration().get(CONFIG_HASH).cloned();
        let is_changed = was.as_deref() != Some(&self.spec.config_hash);
        let properties = self.properties();
        match output.follow(&wanted, Some(&self.spec.partition_by), &properties, &self.note()).await {
            // What is made whole each time has to be emptied first only where its columns don't fit any more.
            Err(TransformError::Evolved { .. }) if full_refresh == Refresh::Full => {
                self.begin_anew(&wanted).await?;
                output.reload().await?;
            }
            followed => followed?,
        }
        self.engine.fault_points.pass(FaultPoint::OutputMade);
        let mut tries = 0;
        // What is made at certain times may depend on the time.
        let is_by_cron = matches!(self.spec.trigger, Trigger::Cron(_));
        let mut must_run = is_changed || is_by_cron || full_refresh == Refresh::Full;
        while !self.engine.shutdown.is_stopping() {
            match self.part(&mut output, must_run).await? {
                Step::Nothing => break,
                step @ (Step::Committed | Step::Last) => {
                    tries = 0;
                    must_run = false;
                    self.engine.fault_points.pass(FaultPoint::PartCommitted);
                    if matches!(step, Step::Last) {
                        break;
                    }
                    output.reload().await?;
                }
                Step::Again => {
                    tries += 1;
                    if tries >= TRIES {
                        return Err(TransformError::Lost { table: self.spec.table.clone(), tries });
                    }
                }
            }
        }
        Ok(())
    }

    /// Takes all rows out of the table and all that it knows of its inputs, in one commit; the run
    /// that follows is a first one.
    async fn begin_anew(&mut self, wanted: &Schema) -> Result<(), TransformError> {
        let Some(mut output) = Output::open(&self.engine.lake, &self.spec.table).await? else { return Ok(()) };
        for _ in 0..TRIES {
            let partitions: Vec<&str> = self.spec.partition_by.iter().map(String::as_str).collect();
            let fresh = metadata_of_new(&output.log, wanted, &partitions, Vec::new())?;
            let held = &output.head.metadata;
            let mut note = self.note();
            note[REFRESH] = json!(true);
            let metadata = with_properties(held.clone(), &self.properties())?;
            let metadata = side::with_layout(metadata, &fresh)?;
            let ids = super::consumed::inputs(&output.head.transactions);
            let mut transactions: Vec<(String, i64)> =
                ids.iter().flat_map(|id| Position::Nothing.transactions(id)).collect();
            transactions.push(refreshed(refreshes(&output.head.transactions) + 1));
            let change = Change {
                kind: Kind::Rewrite,
                adds: Vec::new(),
                removes: output.files().await?.iter().map(|file| file.remove(true)).collect(),
                transactions,
                metadata: Some(metadata),
                changes: Vec::new(),
                protocol: None,
                operation: write(SaveMode::Overwrite),
                note,
            };
            if let Some(version) = output.put(change).await? {
                self.report.committed.push(version);
                return Ok(());
            }
        }
        Err(TransformError::Lost { table: self.spec.table.clone(), tries: TRIES })
    }

    /// One part: read, computed, committed.
    async fn part(&mut self, output: &mut Output, must_run: bool) -> Result<Step, TransformError> {
        let mut side = Side::open(&self.engine.lake, self.spec, output, &self.note()).await?;
        let intended = side.intended(&self.inputs, &self.parsed, output)?;
        let streamed: Vec<TableName> = self.streamed().cloned().collect();
        // Rows of a table that was made anew, or of another in its place, say nothing of what only the one before had.
        let is_other = |id: &String| self.inputs.values().all(|input| input.id() != id);
        let mut others = super::consumed::inputs(&output.head.transactions).into_iter().filter(is_other);
        let has_other_inputs =
            others.any(|id| Position::read(&output.head.transactions, &id).is_ok_and(|held| held != Position::Nothing));
        let mut parts: HashMap<TableName, Part> = HashMap::new();
        let mut before = HashMap::new();
        for name in &streamed {
            let Some(input) = self.inputs.get_mut(name) else { continue };
            let position = Position::read(&output.head.transactions, input.head.metadata.id())?;
            before.insert(name.clone(), position);
            if input.news == News::Changes && position == Position::Nothing && has_other_inputs {
                let (table, version, operation) = (name.clone(), input.head.version, "CREATE TABLE".to_owned());
                return Err(TransformError::RowsTaken { table, version, operation, by: TakenBy::Refresh });
            }
            let skipped = self.spec.skip_versions.iter().filter(|skipped| skipped.table == *name);
            let skip: Vec<u64> = skipped.map(|skipped| skipped.version).collect();
            let end = intended.as_ref().and_then(|intended| intended.ends.get(name).copied());
            let bytes = self.engine.part_bytes / streamed.len().max(1) as u64;
            if let Some(part) = input.next_part(position, end, bytes, &skip).await? {
                parts.insert(name.clone(), part);
            }
        }
        let has_rows = parts.values().any(|part| !part.files.is_empty());
        let is_due = if streamed.is_empty() { must_run || self.snapshots_moved(output).await? } else { has_rows };
        if !is_due {
            return self.record_empty(output, &parts).await;
        }
        let heads = self.pin(intended.as_ref().map(|intended| intended.pinned.as_slice()).unwrap_or_default());
        let mut computed = self.compute(output, &side, &parts, Joins::Hashed).await;
        if let Err(TransformError::Memory(source)) = &computed {
            tracing::info!(table = %self.spec.table, %source, "too many keys for memory: joining by sorting, on disk");
            computed = self.compute(output, &side, &parts, Joins::Sorted).await;
        }
        let positions = self.positions(&parts, &before);
        // What is repeated may have been begun when heads were others.
        let is_last = intended.is_none() && self.is_at_heads(&parts, &before);
        let pinned = self.pinned();
        self.pin(&heads);
        let (computed, violations) = match computed {
            Ok(computed) => computed,
            Err(error @ TransformError::Read(_)) => return Err(self.vacuumed(&parts).await.unwrap_or(error)),
            Err(error) => return Err(error),
        };
        let quarantine = Quarantine { pinned, is_repeated: intended.is_some() };
        if self.commit(output, &mut side, computed, positions, quarantine).await? {
            self.account(&parts, &before, violations);
            return Ok(if is_last { Step::Last } else { Step::Committed });
        }
        Ok(Step::Again)
    }

    /// Whether a file of these parts is gone: a reader of Parquet tells it only in words.
    async fn vacuumed(&self, parts: &HashMap<TableName, Part>) -> Option<TransformError> {
        for (name, part) in parts {
            let store = self.inputs.get(name)?.log.store().object_store(None);
            for file in &part.files {
                let path = Path::parse(&file.path).ok()?;
                if let Err(source @ object_store::Error::NotFound { .. }) = store.head(&path).await {
                    return Some(TransformError::FileGone { table: name.clone(), source });
                }
            }
        }
        None
    }

    /// Takes inputs for what they were at these versions, and gives those that they had.
    fn pin(&mut self, versions: &[(TableName, u64)]) -> Vec<(TableName, u64)> {
        let mut before = Vec::new();
        for (table, version) in versions {
            if let Some(input) = self.inputs.get_mut(table) {
                before.push((table.clone(), input.head.version));
                input.head.version = *version;
            }
        }
        before
    }

    /// What becomes of the table by these parts; nothing of it is committed yet.
    async fn compute(
        &mut self,
        output: &Output,
        side: &Side,
        parts: &HashMap<TableName, Part>,
        joins: Joins,
    ) -> Result<(Computed, Vec<Violations>), TransformError> {
        let session = self.session(joins);
        let work = Work { spec: self.spec, session: &session, runtime: &self.engine.runtime, output };
        let rows: SchemaRef = match self.spec.mode {
            Mode::History => Arc::new(super::modes::without_history(&output.schema)),
            _ => Arc::clone(&output.schema),
        };
        let mut sieve = Sieve::new(&self.spec.expectations, &rows);
        let computed = match self.spec.mode {
            Mode::Append => {
                let query = self.query(&session, parts).await?;
                match &self.spec.dedupe {
                    None => {
                        let (adds, quarantined) = work.write(query, output.writer(), &mut sieve).await?;
                        let rows = super::modes::rows_of(&adds);
                        Computed::new(Planned { adds, rows, ..Planned::nothing() }, quarantined)
                    }
                    Some(dedupe) => {
                        let (new, quarantined) = work.stage(query, &rows, &mut sieve).await?;
                        let written = parts.values().flat_map(|part| &part.files).map(|file| file.modified_at);
                        let now_ms = Utc::now().timestamp_millis();
                        let since_ms = written.min().map_or(now_ms, |oldest| oldest.min(now_ms));
                        Computed::new(work.append_once(new, since_ms, dedupe).await?, quarantined)
                    }
                }
            }
            Mode::Replace => {
                let query = self.query(&session, parts).await?;
                let (planned, quarantined) = work.replace(query, &mut sieve).await?;
                let gives_way = GivesWay::all(side.quarantined()).await?;
                Computed { gives_way, ..Computed::new(planned, quarantined) }
            }
            Mode::Merge | Mode::History => {
                let query = self.query(&session, parts).await?;
                let (new, quarantined) = work.stage(query, &rows, &mut sieve).await?;
                let (planned, buried) = if new.rows() == 0 {
                    (Planned::nothing(), None)
                } else if self.spec.mode == Mode::Merge {
                    work.merge(new, side.graves()).await?
                } else {
                    work.history(new, side.graves()).await?
                };
                Computed { buried, ..Computed::new(planned, quarantined) }
            }
            Mode::Recompute => {
                let touched = self.touched_keys(&session, parts).await?;
                let query = self.whole_query(&session).await?;
                let (planned, quarantined, gives_way) = match touched {
                    Some(touched) => work.recompute(touched, query, side.quarantined(), &mut sieve).await?,
                    None => {
                        let (planned, quarantined) = work.recompute_all(query, &mut sieve).await?;
                        (planned, quarantined, GivesWay::all(side.quarantined()).await?)
                    }
                };
                Computed { gives_way, ..Computed::new(planned, quarantined) }
            }
        };
        Ok((computed, sieve.violations()))
    }

    /// A session within the memory that there is. Each operator of each of its partitions takes a share, and
    /// a sort that can't hold a few batches gives up before it goes to disk.
    fn session(&self, joins: Joins) -> SessionContext {
        let session = session(Arc::clone(&self.engine.runtime));
        let state = session.state_ref();
        let mut state = state.write();
        let mut config = state.config().clone();
        let limit = match self.engine.runtime.memory_pool.memory_limit() {
            MemoryLimit::Finite(bytes) => bytes,
            _ => usize::MAX,
        };
        let options = config.options_mut();
        let most = (limit / PARTITION_BYTES).max(1);
        options.execution.target_partitions = options.execution.target_partitions.min(most);
        let reserved = options.execution.sort_spill_reservation_bytes;
        options.execution.sort_spill_reservation_bytes = reserved.min(merging_bytes(limit) / SORTS_AT_ONCE);
        if joins == Joins::Sorted {
            // With one partition a join is hashed, whatever is preferred.
            options.execution.target_partitions = 2;
            options.optimizer.prefer_hash_join = false;
            // To merge what it holds a sort would make a second form of it, for which nothing is left.
            options.execution.sort_in_place_threshold_bytes = limit.min(MOST_SORTED_IN_PLACE_BYTES);
            let rows = config.batch_size().min(limit / BATCH_SHARE).max(FEWEST_ROWS);
            config = config.with_batch_size(rows);
        }
        *state.config_mut() = config;
        drop(state);
        session
    }

    /// The side tables first, then rows and positions together.
    async fn commit(
        &mut self,
        output: &mut Output,
        side: &mut Side,
        computed: Computed,
        positions: Vec<(String, i64)>,
        quarantine: Quarantine,
    ) -> Result<bool, TransformError> {
        let Computed { planned, quarantined, gives_way, buried } = computed;
        self.engine.fault_points.pass(FaultPoint::PartWritten);
        let settled = async {
            let Quarantine { pinned, is_repeated } = quarantine;
            let positions = positions.iter().cloned().chain(pinned).collect();
            let runtime = &self.engine.runtime;
            if !is_repeated && !side.quarantine(quarantined, gives_way, &self.report.run_id, positions, runtime).await?
            {
                return Ok(false);
            }
            if let Some(buried) = buried {
                side.bury(&buried, &self.engine.runtime).await?;
            }
            Ok::<_, TransformError>(true)
        };
        let settled = settled.await;
        if !matches!(settled, Ok(true)) {
            delete(output.log.store(), &planned.adds).await;
            delete(output.log.store(), &planned.changes).await;
            return settled;
        }
        self.engine.fault_points.pass(FaultPoint::SideTablesCommitted);
        let rows = planned.rows;
        let operation = match self.spec.mode {
            Mode::Append => write(SaveMode::Append),
            Mode::Replace => write(SaveMode::Overwrite),
            Mode::Merge | Mode::History | Mode::Recompute => DeltaOperation::Merge {
                predicate: None,
                merge_predicate: Some(self.spec.keys.join(", ")),
                matched_predicates: Vec::new(),
                not_matched_predicates: Vec::new(),
                not_matched_by_source_predicates: Vec::new(),
            },
        };
        let change = Change {
            kind: planned.kind,
            adds: planned.adds,
            removes: planned.removes,
            transactions: positions,
            metadata: None,
            changes: planned.changes,
            protocol: None,
            operation,
            note: self.note(),
        };
        let Some(version) = output.put(change).await? else { return Ok(false) };
        tracing::info!(table = %self.spec.table, version, rows, "a part was committed");
        self.report.committed.push(version);
        self.report.rows_out += rows;
        Ok(true)
    }

    /// Records versions of inputs that brought no rows, once they are a day old: a stream that never
    /// moves would hold back the cleanup of its input's log.
    async fn record_empty(
        &mut self,
        output: &mut Output,
        parts: &HashMap<TableName, Part>,
    ) -> Result<Step, TransformError> {
        let before = Utc::now().timestamp_millis() - EMPTY_VERSIONS_RECORDED_AFTER_MS;
        let is_old = |name: &TableName| {
            self.inputs.get(name).and_then(|input| input.skipped_since_ms).is_some_and(|since| since < before)
        };
        if !parts.keys().any(is_old) {
            return Ok(Step::Nothing);
        }
        let change = Change {
            kind: Kind::Append,
            adds: Vec::new(),
            removes: Vec::new(),
            transactions: self.positions(parts, &HashMap::new()),
            metadata: None,
            changes: Vec::new(),
            protocol: None,
            operation: write(SaveMode::Append),
            note: self.note(),
        };
        output.put(change).await?;
        Ok(Step::Nothing)
    }

    /// Where all inputs stand once these parts are in. Without a streamed input, whole ones count.
    fn positions(&self, parts: &HashMap<TableName, Part>, before: &HashMap<TableName, Position>) -> Vec<(String, i64)> {
        if self.streamed().next().is_none() {
            let heads = self.inputs.values().map(|input| (input.id(), Position::Version(input.head.version)));
            return heads.flat_map(|(id, position)| position.transactions(id)).collect();
        }
        let of = |(name, part): (&TableName, &Part)| {
            let moved = before.get(name).is_none_or(|before| *before != part.position);
            let input = self.inputs.get(name).filter(|_| moved)?;
            Some(part.position.transactions(input.id()))
        };
        parts.iter().filter_map(of).flatten().collect()
    }

    /// Whether each streamed input is read up to its head once these parts are in.
    fn is_at_heads(&self, parts: &HashMap<TableName, Part>, before: &HashMap<TableName, Position>) -> bool {
        self.streamed().all(|name| {
            let position = parts.get(name).map(|part| part.position).or_else(|| before.get(name).copied());
            let head = self.inputs.get(name).map(|input| input.head.version);
            matches!((position, head), (Some(Position::Version(read)), Some(head)) if read >= head)
        })
    }

    /// Whether an input without `STREAM` holds other rows than at the last run.
    async fn snapshots_moved(&self, output: &Output) -> Result<bool, TransformError> {
        for input in self.inputs.values() {
            let consumed = match Position::read(&output.head.transactions, input.id())? {
                Position::Version(version) => version,
                Position::Nothing | Position::Snapshot { .. } => return Ok(true),
            };
            for version in consumed + 1..=input.head.version {
                match input.log.read(version).await? {
                    Some(commit) if !commit.adds_data() && !commit.removes_data() && commit.metadata().is_none() => {}
                    _ => return Ok(true),
                }
            }
        }
        Ok(false)
    }

    fn account(
        &mut self,
        parts: &HashMap<TableName, Part>,
        before: &HashMap<TableName, Position>,
        violations: Vec<Violations>,
    ) {
        if self.streamed().next().is_none() {
            self.report.rows_in = None;
        }
        for input in &self.parsed.inputs {
            let Some(table) = self.inputs.get(&input.table) else { continue };
            let version = |position: Position| match position {
                Position::Version(version) => Some(version),
                Position::Snapshot { version, .. } => Some(version),
                Position::Nothing => None,
            };
            let name = input.to_string();
            if input.is_streamed {
                let Some(part) = parts.get(&input.table) else { continue };
                let from = before.get(&input.table).copied().and_then(version);
                let to = version(part.position).unwrap_or_default();
                let read = self.report.read.entry(name).or_insert(Read { is_streamed: true, from, to });
                read.to = to;
                self.report.rows_in = self.report.rows_in.zip(part.rows()).map(|(held, more)| held + more);
            } else {
                self.report.read.insert(name, Read { is_streamed: false, from: None, to: table.head.version });
            }
        }
        if self.report.violations.is_empty() {
            self.report.violations = violations;
        } else {
            for (held, more) in self.report.violations.iter_mut().zip(violations) {
                held.rows += more.rows;
            }
        }
    }

    fn streamed(&self) -> impl Iterator<Item = &TableName> {
        self.parsed.inputs.iter().filter(|input| input.is_streamed).map(|input| &input.table)
    }

    fn note(&self) -> Value {
        json!({
            "transform": self.spec.table.to_string(),
            "owner": self.spec.owner,
            "run": self.report.run_id,
            "configHash": self.spec.config_hash,
        })
    }

    fn properties(&self) -> Vec<(String, String)> {
        let feed = self.node.has_feed.then_some((change_data::PROPERTY, "true"));
        [
            ("delta.dataSkippingNumIndexedCols", "-1"),
            ("sluice.transform", &self.spec.table.to_string()),
            ("sluice.owner", &self.spec.owner),
            (CONFIG_HASH, &self.spec.config_hash),
        ]
        .into_iter()
        .chain(feed)
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
    }
}

/// What a quarantine has to know of its part.
struct Quarantine {
    /// At which versions inputs were read whole.
    pinned: Vec<(String, i64)>,
    /// It is committed already.
    is_repeated: bool,
}

/// What a part came to, before anything of it is committed.
struct Computed {
    planned: Planned,
    quarantined: Option<Staged>,
    gives_way: GivesWay,
    buried: Option<Staged>,
}

impl Computed {
    fn new(planned: Planned, quarantined: Option<Staged>) -> Self {
        Self { planned, quarantined, gives_way: GivesWay::default(), buried: None }
    }
}

/// Whether a transform has somewhere to put rows that it doesn't keep.
pub fn quarantines(spec: &TransformSpec) -> bool {
    spec.expectations.iter().any(|expectation| expectation.on_violation == OnViolation::Quarantine)
}

/// The columns of the table of what a transform deleted.
pub fn graves(spec: &TransformSpec, output: &Schema) -> Option<Schema> {
    spec.delete_when.as_ref().map(|_| grave_schema(spec, output))
}
