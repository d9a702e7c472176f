//! Numbers that are covered as dead letters, settled otherwise: they become rows, or count as expired. And numbers that
//! are covered as another table's, whose dead letters are this table's by now.
//!
//! Trimming can't help here, since all of these numbers are covered. What keeps an event from becoming two rows is an
//! anti-join on its key: of the letters only those land that have no row at the version V at which the rows were
//! looked at, and they land as V + 1 or not at all, together with the counters that they move.
//!
//! A lost race doesn't always mean to look again. A flush adds rows only of numbers that nothing covered, and these
//! all are; so only a commit that settles letters, too, or a stranger's can have given one a row. Such a commit
//! ([`CaughtUp::letters_settled`](super::table::CaughtUp)) ends the try, since the letters themselves may be marked otherwise by now:
//! [`Settled::Outrun`]. After any other the same files are put again, on the new base.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use arrow::array::{AsArray, BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::Int64Type;
use arrow::error::ArrowError;
use datafusion::execution::SendableRecordBatchStream;
use deltalake::kernel::{Action, Add};
use futures::TryStreamExt as _;
use serde_json::json;

use super::SinkError;
use super::dead_letters::keys;
use super::files::{self, Written};
use super::table::CaughtUp;
use super::writer::{FilesOf, Of, StoredFiles, TRIES, TableWriter, Tried, forget_misfits};
use crate::batch::bronze;
use crate::catalog::commit_log::CommitLog;
use crate::catalog::scan::{scan, scan_at};
use crate::checkpoint::{Counter, LedgerKey, PartitionKey};
use crate::fault_points::FaultPoint;

/// What looking for rows may gather before it spills.
const SCAN_MEMORY_BYTES: usize = 64 << 20;

/// Numbers by partition.
pub type Numbers = BTreeMap<PartitionKey, BTreeSet<i64>>;

/// Dead letters of one partition, of which some decode now.
#[derive(Debug, Clone)]
pub struct Replayed {
    pub partition: PartitionKey,
    /// All that were tried: of those that have a row already it is told.
    pub tried: BTreeSet<i64>,
    /// Those that have rows now.
    pub decoded: BTreeSet<i64>,
    pub batches: Vec<RecordBatch>,
}

/// What came of settling.
#[derive(Debug)]
pub enum Settled<T> {
    Done(T),
    /// Somebody else settled letters meanwhile: they have to be read again.
    Outrun,
}

/// What a replay did.
#[derive(Debug, Default)]
pub struct Landed {
    /// The version of the commit; none where there was nothing to land.
    pub version: Option<u64>,
    pub rows: u64,
    /// Numbers whose rows landed.
    pub landed: Numbers,
    /// Numbers that had a row before.
    pub had_row: Numbers,
    /// Numbers that the table doesn't account for as another's: not yet, or by a dead letter of its own.
    pub not_its_own: Numbers,
}

impl TableWriter {
    /// Lands the rows of dead letters, and takes these off what counts as rejected, in one commit. All of them must be
    /// covered. Safe to call again after any error: what has landed has a row.
    ///
    /// # Errors
    /// [`SinkError::Uncounted`] when the ledger counts fewer rejected events than are to land; errors of storage.
    pub async fn replay(&mut self, parts: &[Replayed]) -> Result<Settled<Landed>, SinkError> {
        self.land(parts, Counter::Rejected, Numbers::new()).await
    }

    /// Lands the rows of dead letters of another table, which this one has counted as filtered so far, and takes these
    /// off that count, in one commit. What it doesn't account for stays out, and so does what `letters`, its own
    /// dead letters, hold. Safe to call again after any error: what has landed has a row.
    ///
    /// # Errors
    /// As [`TableWriter::replay`]
    pub async fn adopt(
        &mut self,
        parts: &[Replayed],
        letters: Option<&CommitLog>,
    ) -> Result<Settled<Landed>, SinkError> {
        self.catch_up().await?;
        let mut not_its_own = Numbers::new();
        for part in parts {
            let covered = self.table.ledger.coverage(&part.partition);
            let lacking = part.tried.iter().filter(|number| !covered.contains(**number));
            not_its_own.entry(part.partition.clone()).or_default().extend(lacking);
        }
        // A letter of a number lies there before the number is covered.
        if let (Some(log), Some(sql)) = (letters, keys_sql(&tried(parts))) {
            let found = numbers_of(scan(log.store(), &sql).await?, log, &tried(parts)).await?;
            for (partition, numbers) in found {
                not_its_own.entry(partition).or_default().extend(numbers);
            }
        }
        not_its_own.retain(|_, numbers| !numbers.is_empty());
        self.land(parts, Counter::Filtered, not_its_own).await
    }

    async fn land(
        &mut self,
        parts: &[Replayed],
        counter: Counter,
        mut not_its_own: Numbers,
    ) -> Result<Settled<Landed>, SinkError> {
        self.begin();
        let had_row = self.with_row(&tried(parts)).await?;
        for (partition, numbers) in &had_row {
            if let Some(not_its_own) = not_its_own.get_mut(partition) {
                not_its_own.retain(|number| !numbers.contains(number));
            }
        }
        let (batches, landed) = self.without(parts, &had_row, &not_its_own)?;
        if landed.is_empty() {
            return Ok(Settled::Done(Landed { had_row, not_its_own, ..Landed::default() }));
        }
        let rows = batches.iter().map(|batch| batch.num_rows() as u64).sum();
        let mut stored = StoredFiles::new();
        for _ in 0..TRIES {
            self.look_at_columns();
            if let Some(caught_up) = self.evolve(&batches).await? {
                if caught_up.letters_settled {
                    self.give_up(stored, caught_up).await;
                    return Ok(Settled::Outrun);
                }
                forget_misfits(&mut stored, caught_up);
                continue;
            }
            let Written { files, rescued } = self.store_replayed(&batches, &mut stored).await?;
            self.spec.fault_points.pass(FaultPoint::ReplayStaged);
            let facts = self.counted_less(counter, &landed)?;
            let said = (!rescued.is_empty()).then(|| ("sluiceRescued", json!(rescued)));
            let actions = files.into_iter().map(Action::Add).collect();
            match self.put_actions(actions, &facts, Of::Letters("replayed"), said).await? {
                Tried::Landed(version) => {
                    self.spec.fault_points.pass(FaultPoint::ReplayCommitted);
                    return Ok(Settled::Done(Landed { version: Some(version), rows, landed, had_row, not_its_own }));
                }
                Tried::Again(caught_up) if caught_up.letters_settled => {
                    self.give_up(stored, caught_up).await;
                    return Ok(Settled::Outrun);
                }
                Tried::Again(caught_up) => forget_misfits(&mut stored, caught_up),
            }
        }
        Err(SinkError::Contended { table: self.spec.name.clone(), tries: TRIES })
    }

    /// Files that no commit will name, unless the log was read anew and may name them already.
    async fn give_up(&self, stored: StoredFiles, caught_up: CaughtUp) {
        if !caught_up.enumerated {
            self.delete_orphans(stored).await;
        }
    }

    /// Has the ledger count as expired those of `expired` that are covered and have no row. Says by how much each
    /// partition's count moved.
    ///
    /// # Errors
    /// Errors of storage.
    pub async fn count_expired(
        &mut self,
        expired: &Numbers,
    ) -> Result<Settled<BTreeMap<PartitionKey, i64>>, SinkError> {
        self.begin();
        for _ in 0..TRIES {
            let moved = self.expired_moved(expired).await?;
            if moved.is_empty() {
                return Ok(Settled::Done(moved));
            }
            let facts = self.counted(Counter::Expired, &moved);
            match self.put_actions(Vec::new(), &facts, Of::Letters("expired"), []).await? {
                Tried::Landed(_) => {
                    self.spec.fault_points.pass(FaultPoint::ExpiredCounted);
                    return Ok(Settled::Done(moved));
                }
                Tried::Again(caught_up) if caught_up.letters_settled => return Ok(Settled::Outrun),
                Tried::Again(_) => {}
            }
        }
        Err(SinkError::Contended { table: self.spec.name.clone(), tries: TRIES })
    }

    /// By how much the counts of expired letters have to move, partitions that needn't left out.
    async fn expired_moved(&self, expired: &Numbers) -> Result<BTreeMap<PartitionKey, i64>, SinkError> {
        let ledger = &self.table.ledger;
        let mut differing = Numbers::new();
        for (partition, held) in ledger.partitions() {
            let covered = held.coverage();
            let numbers = expired.get(partition).into_iter().flatten().copied();
            let numbers: BTreeSet<i64> = numbers.filter(|number| covered.contains(*number)).collect();
            if i64::try_from(numbers.len()).unwrap_or(i64::MAX) != held.counter(Counter::Expired) {
                differing.insert(partition.clone(), numbers);
            }
        }
        let with_row = self.with_row(&differing).await?;
        let mut moved = BTreeMap::new();
        for (partition, numbers) in differing {
            let superseded = with_row.get(&partition).map_or(0, BTreeSet::len);
            let count = i64::try_from(numbers.len() - superseded.min(numbers.len())).unwrap_or(i64::MAX);
            let held = ledger.partition(&partition).map_or(0, |held| held.counter(Counter::Expired));
            if count != held {
                moved.insert(partition, count - held);
            }
        }
        Ok(moved)
    }

    fn counted(&self, counter: Counter, moved: &BTreeMap<PartitionKey, i64>) -> Vec<(LedgerKey, i64)> {
        let facts = moved.iter().map(|(partition, by)| {
            self.table.ledger.record(partition, &[], &BTreeMap::from([(counter, *by)])).into_iter()
        });
        facts.flatten().collect()
    }

    /// Events that have a row count as rejected no more, or as filtered.
    fn counted_less(&self, counter: Counter, landed: &Numbers) -> Result<Vec<(LedgerKey, i64)>, SinkError> {
        let mut moved = BTreeMap::new();
        for (partition, numbers) in landed {
            let counted = self.table.ledger.partition(partition).map_or(0, |held| held.counter(counter));
            let letters = numbers.len();
            let less = i64::try_from(letters).unwrap_or(i64::MAX);
            if less > counted {
                let (table, partition) = (self.spec.name.clone(), partition.clone());
                return Err(SinkError::Uncounted { table, partition, counter: counter.as_str(), counted, letters });
            }
            moved.insert(partition.clone(), -less);
        }
        Ok(self.counted(counter, &moved))
    }

    /// Which of these numbers have a row at the base.
    async fn with_row(&self, wanted: &Numbers) -> Result<Numbers, SinkError> {
        let Some(sql) = keys_sql(wanted) else { return Ok(Numbers::new()) };
        let log = &self.table.log;
        let rows = scan_at(log.store(), self.table.version, &sql, SCAN_MEMORY_BYTES).await?;
        numbers_of(rows, log, wanted).await
    }

    /// The rows of events that have none yet, and the numbers of these.
    fn without(
        &self,
        parts: &[Replayed],
        had_row: &Numbers,
        not_its_own: &Numbers,
    ) -> Result<(Vec<RecordBatch>, Numbers), SinkError> {
        let none = BTreeSet::new();
        let (mut batches, mut landing) = (Vec::new(), Numbers::new());
        for part in parts {
            let had = had_row.get(&part.partition).unwrap_or(&none);
            let others = not_its_own.get(&part.partition).unwrap_or(&none);
            let taken = landing.get(&part.partition).unwrap_or(&none);
            let wanted: BTreeSet<i64> = part
                .decoded
                .iter()
                .filter(|number| ![had, others, taken].iter().any(|held| held.contains(number)))
                .copied()
                .collect();
            if wanted.is_empty() {
                continue;
            }
            for batch in &part.batches {
                let kept = keep(batch, &wanted)
                    .map_err(|source| SinkError::Arrow { table: self.spec.name.clone(), source })?;
                batches.extend((kept.num_rows() > 0).then_some(kept));
            }
            landing.entry(part.partition.clone()).or_default().extend(wanted);
        }
        Ok((batches, landing))
    }

    async fn store_replayed(
        &self,
        batches: &[RecordBatch],
        stored: &mut StoredFiles,
    ) -> Result<Written<Add>, SinkError> {
        let slices =
            files::by_date(batches).map_err(|source| SinkError::Arrow { table: self.spec.name.clone(), source })?;
        for (date, slice) in slices {
            if let Entry::Vacant(missing) = stored.entry(FilesOf::Date(date)) {
                let rows = slice.rows;
                missing.insert((rows, self.write_slice(date, slice).await?));
            }
        }
        let mut all = Written::default();
        stored.values().for_each(|(_, files)| all.extend(files.clone()));
        Ok(all)
    }
}

fn tried(parts: &[Replayed]) -> Numbers {
    let mut tried = Numbers::new();
    for part in parts {
        tried.entry(part.partition.clone()).or_default().extend(&part.tried);
    }
    tried
}

/// Asks for the keys of these numbers, and of such as lie among them; nothing where there are none.
fn keys_sql(wanted: &Numbers) -> Option<String> {
    let (source, partition, number) = (bronze::SOURCE, bronze::PARTITION, bronze::SEQUENCE_NUMBER);
    let text = |text: &str| format!("'{}'", text.replace('\'', "''"));
    let of_partition = |(key, numbers): (&PartitionKey, &BTreeSet<i64>)| {
        let (first, last) = (numbers.first()?, numbers.last()?);
        let (of_source, of_partition) = (text(key.source.as_str()), text(&key.partition));
        Some(format!(
            "({source} = {of_source} AND {partition} = {of_partition} AND {number} BETWEEN {first} AND {last})"
        ))
    };
    let conditions: Vec<String> = wanted.iter().filter_map(of_partition).collect();
    let is_any = !conditions.is_empty();
    is_any.then(|| format!("SELECT {source}, {partition}, {number} FROM t WHERE {}", conditions.join(" OR ")))
}

/// Which of the wanted numbers are among these keys.
async fn numbers_of(
    mut rows: SendableRecordBatchStream,
    log: &CommitLog,
    wanted: &Numbers,
) -> Result<Numbers, SinkError> {
    let mut found = Numbers::new();
    while let Some(batch) = rows.try_next().await.map_err(|source| log.failed(source))? {
        for key in keys(&batch) {
            if wanted.get(&key.partition).is_some_and(|numbers| numbers.contains(&key.sequence_number)) {
                found.entry(key.partition).or_default().insert(key.sequence_number);
            }
        }
    }
    Ok(found)
}

fn keep(batch: &RecordBatch, wanted: &BTreeSet<i64>) -> Result<RecordBatch, ArrowError> {
    let name = bronze::SEQUENCE_NUMBER;
    let numbers = batch.column_by_name(name).and_then(|column| column.as_primitive_opt::<Int64Type>());
    let wrong = || ArrowError::SchemaError(format!("column `{name}` is missing or of another type"));
    let mask: BooleanArray =
        numbers.ok_or_else(wrong)?.values().iter().map(|number| Some(wanted.contains(number))).collect();
    filter_record_batch(batch, &mask)
}
