//! Events that a crash left between the tables, and that today's routes would lose.
//!
//! Tables commit one by one. Say an event went to B, and A has committed that it isn't its own; then the process
//! dies before B commits. Read again, the event goes to B, which lacks it, and all is well. But when the routes were changed
//! meanwhile, or a schema came to be known, it may go to A: which covers it and drops it as a duplicate, while B
//! accounts for it as another's. Nobody would have it.
//!
//! So where tables stand apart at a start, the numbers that some cover and others don't are looked for among the rows
//! and dead letters of those that do. What lies in none of them, and would go to a table that covers it, becomes a
//! dead letter of a table that doesn't.

use std::collections::BTreeMap;

use arrow::array::{Array as _, AsArray as _};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type};
use futures::{StreamExt as _, TryStreamExt as _, stream};

use super::Home;
use crate::batch::bronze;
use crate::catalog::log::log_store;
use crate::catalog::scan::scan;
use crate::catalog::{CatalogError, dead_letters_of, table_location};
use crate::checkpoint::{Ledger, PartitionKey, Range, RangeSet, SourceId};
use crate::config::spec::{PipelineSpec, TableName};
use crate::pipeline::PipelineError;
use crate::sink::delta::SinkError;
use crate::sink::delta::ledger::read_ledger;
use crate::sink::delta::writer::TableWriter;
use crate::storage::Location;

/// Tables that are looked into at the same time.
const TABLES_AT_ONCE: usize = 4;

/// What a dead letter of such an event says.
pub(super) const WHY: &str = "its table accounts for it as another's: routes or schemas changed after tables had \
                              committed one without the other";

/// By partition, what isn't settled.
#[derive(Debug, Default)]
pub struct Strays(BTreeMap<PartitionKey, Unsettled>);

#[derive(Debug, Default)]
struct Unsettled {
    /// Covered by some tables and not by others, and stored in none.
    numbers: RangeSet,
    /// What each table covers of those that are looked at.
    covered: Vec<RangeSet>,
}

impl Strays {
    /// Looks at tables that stand apart; where none do it costs nothing.
    ///
    /// # Errors
    /// When the rows can't be read.
    pub async fn find(
        pipeline: &PipelineSpec,
        lake: &Location,
        writers: &[TableWriter],
    ) -> Result<Self, PipelineError> {
        let ledgers: Vec<&Ledger> = writers.iter().map(TableWriter::ledger).collect();
        let mut apart = apart(&ledgers);
        if apart.is_empty() {
            return Ok(Self::default());
        }
        let wanted = |at: usize| -> BTreeMap<PartitionKey, Range> {
            let of = |(key, held): (&PartitionKey, &Unsettled)| {
                let covered = held.numbers.iter().flat_map(|range| held.covered[at].held_in(range));
                let around = covered.reduce(|one, other| Range::new(one.from.min(other.from), one.to.max(other.to)));
                Some((key.clone(), around?))
            };
            apart.iter().filter_map(of).collect()
        };
        let tables = pipeline.sinks().enumerate().flat_map(|(at, sink)| {
            let wanted = wanted(at);
            [sink.table.clone(), dead_letters_of(&sink.table)].map(|table| (table, wanted.clone()))
        });
        let tables: Vec<_> = tables.filter(|(_, wanted)| !wanted.is_empty()).collect();
        let stored = stream::iter(tables).map(|(table, wanted)| stored(lake, table, wanted)).buffered(TABLES_AT_ONCE);
        for (partition, numbers) in stored.try_collect::<Vec<_>>().await?.into_iter().flatten() {
            let Some(held) = apart.get_mut(&partition) else { continue };
            held.numbers = held.numbers.iter().flat_map(|range| numbers.missing_in(range)).collect();
        }
        apart.retain(|_, held| !held.numbers.is_empty());
        for (partition, held) in &apart {
            let numbers = held.numbers.len();
            tracing::info!(
                pipeline = pipeline.name, %partition, numbers,
                "tables stand apart: events that none of them has yet are watched for"
            );
        }
        Ok(Self(apart))
    }

    /// The table beside which the event becomes a dead letter, when the one that it would go to drops it.
    pub(super) fn saved_by(&self, partition: &PartitionKey, number: i64, home: Home) -> Option<usize> {
        let held = self.0.get(partition)?;
        let (Home::Table(table) | Home::Letter(table)) = home else { return None };
        if !held.numbers.contains(number) || !held.covered.get(table)?.contains(number) {
            return None;
        }
        held.covered.iter().position(|covered| !covered.contains(number))
    }
}

/// What some tables cover and others don't, from where the first of them begins. What lies before a table's
/// own beginning it drops, as it does what it covers.
fn apart(ledgers: &[&Ledger]) -> BTreeMap<PartitionKey, Unsettled> {
    let mut apart = BTreeMap::new();
    let partitions: std::collections::BTreeSet<&PartitionKey> =
        ledgers.iter().flat_map(|ledger| ledger.partitions().map(|(key, _)| key)).collect();
    for partition in partitions {
        let held: Vec<_> = ledgers.iter().map(|ledger| ledger.partition(partition)).collect();
        let begins = held.iter().flatten().filter_map(|held| held.start()).min();
        let ends = held.iter().flatten().filter_map(|held| held.end()).max();
        let (Some(begins), Some(ends)) = (begins, ends) else { continue };
        let whole = Range::new(begins, ends);
        // A table that doesn't know the partition hasn't begun: it neither has these nor lacks them.
        let covered = held.iter().map(|held| match held {
            Some(held) => {
                let mut covered: RangeSet = held.coverage().held_in(whole).into_iter().collect();
                covered.insert(Range::new(begins, held.start().unwrap_or(begins)));
                covered
            }
            None => RangeSet::from_iter([whole]),
        });
        let covered: Vec<RangeSet> = covered.collect();
        let mut by_any = RangeSet::new();
        for (covered, _) in covered.iter().zip(&held).filter(|(_, held)| held.is_some()) {
            by_any.union(covered);
        }
        let lacks = |covered: &RangeSet| by_any.iter().flat_map(|range| covered.missing_in(range)).collect::<Vec<_>>();
        let numbers: RangeSet = covered.iter().flat_map(lacks).collect();
        if !numbers.is_empty() {
            apart.insert(partition.clone(), Unsettled { numbers, covered });
        }
    }
    apart
}

/// The numbers that a table has, of those that are looked for.
async fn stored(
    lake: &Location,
    table: TableName,
    wanted: BTreeMap<PartitionKey, Range>,
) -> Result<BTreeMap<PartitionKey, RangeSet>, SinkError> {
    let location = table_location(lake, &table);
    let mut found: BTreeMap<PartitionKey, Vec<i64>> = BTreeMap::new();
    if read_ledger(&location, &table.to_string()).await?.is_none() {
        return Ok(BTreeMap::new());
    }
    let text = |text: &str| format!("'{}'", text.replace('\'', "''"));
    let (source, partition, number) = (bronze::SOURCE, bronze::PARTITION, bronze::SEQUENCE_NUMBER);
    let of = |(key, range): (&PartitionKey, &Range)| {
        format!(
            "({source} = {} AND {partition} = {} AND {number} >= {} AND {number} < {})",
            text(key.source.as_str()),
            text(&key.partition),
            range.from,
            range.to
        )
    };
    let conditions: Vec<String> = wanted.iter().map(of).collect();
    let sql = format!("SELECT {source}, {partition}, {number} FROM t WHERE {}", conditions.join(" OR "));
    let failed = |source| CatalogError::Query { table: table.to_string(), source: Box::new(source) };
    let mut batches = scan(&log_store(&location)?, &sql).await?;
    while let Some(batch) = batches.try_next().await.map_err(failed)? {
        let column =
            |at: usize, wanted: &DataType| cast(batch.column(at), wanted).map_err(|error| failed(error.into()));
        let (sources, partitions) = (column(0, &DataType::Utf8)?, column(1, &DataType::Utf8)?);
        let (sources, partitions) = (sources.as_string::<i32>(), partitions.as_string::<i32>());
        let numbers = column(2, &DataType::Int64)?;
        let numbers = numbers.as_primitive::<Int64Type>();
        let mut last: Option<PartitionKey> = None;
        for row in 0..batch.num_rows() {
            let (source, partition) = (sources.value(row), partitions.value(row));
            let is_last = |key: &PartitionKey| key.source.as_str() == source && *key.partition == *partition;
            if !last.as_ref().is_some_and(is_last) {
                last = Some(PartitionKey::new(SourceId::new(source), partition));
            }
            if let (Some(key), true) = (&last, numbers.is_valid(row)) {
                found.entry(key.clone()).or_default().push(numbers.value(row));
            }
        }
    }
    let in_order = |(key, mut numbers): (PartitionKey, Vec<i64>)| {
        numbers.sort_unstable();
        (key, numbers.into_iter().map(|number| Range::new(number, number.saturating_add(1))).collect())
    };
    Ok(found.into_iter().map(in_order).collect())
}
