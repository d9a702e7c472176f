//! What the tables of a running pipeline lack: in the log at each sweep, and in a gauge, until it is
//! healed or accepted. Other processes heal and accept, so the tables' logs are looked at from time to time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::target::Target;
use super::{Parts, Pipeline, PipelineOptions};
use crate::catalog::table_location;
use crate::checkpoint::{Ledger, PartitionKey, PartitionLedger, Range, RangeSet};
use crate::config::spec::{PipelineSpec, ProjectSpec, SinkSpec};
use crate::pipeline::PipelineError;
use crate::pipeline::gaps::accepted_of;
use crate::pipeline::generations::generations_of;
use crate::pipeline::partition::report;
use crate::pipeline::setup::{self, Places};
use crate::pipeline::status::PipelineStatus;
use crate::shutdown::Shutdown;
use crate::sink::delta::gaps::AcceptedGaps;
use crate::sink::delta::ledger::{ReadLedger, read_ledger};
use crate::sink::delta::writer::TableWriter;
use crate::source::capture::{CaptureRead, Listing, Missing};
use crate::source::{HoleCause, SourceError};
use crate::storage::Location;
use crate::telemetry::metrics;
use chrono::{DateTime, Utc};

/// How often the log is looked at while something is open. More often costs requests; more rarely, and who
/// accepted a gap waits for the alert to end.
const LOOK_EVERY: Duration = Duration::from_secs(15);

/// How often an open gap is told where no captures are swept: often enough to be met in a day's log.
const TELL_EVERY: Duration = Duration::from_secs(3_600);

/// How many ranges of a partition a line of the log names.
const MOST_NAMED: usize = 10;

/// What the log says of a table: its ledger, and what was accepted.
pub(super) type LookedAtTable = Result<(Option<ReadLedger>, AcceptedGaps), PipelineError>;

/// What a table lacks, as far as this run knows.
pub(super) struct Gaps {
    lake: Location,
    location: Location,
    /// What was missing when it was met; what landed since is in it still.
    known: BTreeMap<PartitionKey, RangeSet>,
    accepted: AcceptedGaps,
    /// What of those partitions landed by other processes.
    landed: BTreeMap<PartitionKey, RangeSet>,
    /// What the log of the program has named since the last sweep.
    told: BTreeMap<PartitionKey, RangeSet>,
    /// What was counted as missing: each number is once, however often it is met.
    counted: BTreeMap<PartitionKey, RangeSet>,
    /// By the name of the partition, over all sources; as of the last look at the ledger.
    open: BTreeMap<String, u64>,
    is_looked_at: bool,
    tell_every: Duration,
    tell_at: Instant,
    look_at: Instant,
}

impl Gaps {
    pub(super) fn new(spec: &PipelineSpec, sink: &SinkSpec, places: &Places) -> Self {
        let tell_every = spec.capture.as_ref().map_or(TELL_EVERY, |capture| capture.sweep_every);
        let now = Instant::now();
        Self {
            lake: places.lake.clone(),
            location: table_location(&places.lake, &sink.table),
            known: BTreeMap::new(),
            accepted: AcceptedGaps::default(),
            landed: BTreeMap::new(),
            told: BTreeMap::new(),
            counted: BTreeMap::new(),
            open: BTreeMap::new(),
            is_looked_at: false,
            tell_every,
            tell_at: now + tell_every,
            look_at: now + LOOK_EVERY.min(tell_every),
        }
    }

    /// A hole was met.
    pub(super) fn know(&mut self, partition: &PartitionKey, missing: Range) {
        self.known.entry(partition.clone()).or_default().insert(missing);
    }

    /// Whether somebody accepted all of it.
    pub(super) fn accepts(&self, partition: &PartitionKey, missing: Range) -> bool {
        self.accepted.of(partition).missing_in(missing).is_empty()
    }

    fn has_open(&self) -> bool {
        self.open.values().any(|count| *count > 0)
    }

    /// How many of these numbers were not counted as missing before.
    fn count(&mut self, partition: &PartitionKey, missing: Range) -> u64 {
        let counted = self.counted.entry(partition.clone()).or_default();
        let new = counted.missing_in(missing).iter().map(Range::len).sum();
        counted.insert(missing);
        new
    }

    /// What is known to be missing, and neither landed nor accepted by now.
    fn still_open(&self, ledger: Option<&Ledger>) -> BTreeMap<PartitionKey, RangeSet> {
        let open = |(partition, known): (&PartitionKey, &RangeSet)| {
            let mut there = ledger.map(|ledger| ledger.coverage(partition)).unwrap_or_default();
            there.union(&self.accepted.of(partition));
            self.landed.get(partition).into_iter().for_each(|landed| there.union(landed));
            let open: RangeSet = known.iter().flat_map(|gap| there.missing_in(gap)).collect();
            (partition.clone(), open)
        };
        self.known.iter().map(open).filter(|(_, open)| !open.is_empty()).collect()
    }
}

impl Pipeline {
    /// A run that takes in what Capture has of `gaps`, and nothing else. It asks no hub and takes no lock:
    /// it may run beside the live pipeline. Gaps of sources whose events the captures don't hold stay.
    ///
    /// # Errors
    /// [`PipelineError::NoCapture`]; captures that can't be listed; errors of storage.
    pub async fn heal(
        project: &ProjectSpec,
        spec: &PipelineSpec,
        gaps: &BTreeMap<PartitionKey, RangeSet>,
        options: PipelineOptions,
        status: PipelineStatus,
        shutdown: Shutdown,
    ) -> Result<Self, PipelineError> {
        let mut parts = Parts::of(project, spec, &options)?;
        let Some(captures) = parts.captures.clone() else {
            return Err(PipelineError::NoCapture { pipeline: spec.name.clone() });
        };
        let writers = setup::open_tables(spec, &parts.places, &options.fault_points).await?;
        let sources: BTreeSet<_> = gaps.keys().map(|partition| &partition.source).collect();
        let generations = generations_of(project, spec, &sources)?;
        for source in sources.iter().filter(|source| generations.iter().all(|known| known.source != ***source)) {
            tracing::warn!(
                pipeline = spec.name, %source,
                "gaps of this source can't be healed: it is neither the present generation nor known as the one before"
            );
        }
        let is_known = |key: &PartitionKey| generations.iter().any(|known| known.source == key.source);
        let gaps: BTreeMap<_, _> =
            gaps.iter().filter(|(key, _)| is_known(key)).map(|(key, gap)| (key.clone(), gap.clone())).collect();
        let ledgers: Vec<&Ledger> = writers.iter().map(TableWriter::ledger).collect();
        let from = enqueued_from(&ledgers, &gaps);
        let begins = gaps.keys().map(|partition| (partition.clone(), begins(&ledgers, partition))).collect::<Vec<_>>();
        let listing = match gaps.is_empty() {
            true => Listing::default(),
            false => captures.list(from).await.map_err(SourceError::from)?,
        };
        let listing = Arc::new(listing);
        parts.router = setup::router(&parts.router, spec, &parts.places, &writers).await?;
        let mut pipeline = Self::new(spec, parts, None, writers, options, status, shutdown);
        for (partition, begins) in begins {
            for (target, begins) in pipeline.targets.iter_mut().zip(begins) {
                target.begins.extend(begins.map(|begins| (partition.clone(), begins)));
            }
        }
        pipeline.read_accepted().await;
        pipeline.tell_torn(&listing);
        for generation in generations {
            for (partition, wanted) in gaps.iter().filter(|(partition, _)| partition.source == generation.source) {
                pipeline.read_capture(CaptureRead {
                    partition: partition.clone(),
                    listing: Arc::clone(&listing),
                    wanted: wanted.clone(),
                    generation: generation.lasts,
                    enqueued: generation.lasts,
                    missing: Missing::Wanted,
                });
            }
        }
        Ok(pipeline)
    }

    /// Reads what was accepted of the tables.
    pub(super) async fn read_accepted(&mut self) {
        for target in &mut self.targets {
            let Some(writer) = &target.writer else { continue };
            target.gaps.accepted = accepted_of(&target.gaps.lake, &target.table, writer.table_id()).await;
        }
    }

    /// Tells what the tables lacked before this run. Partitions that are read live tell it themselves, when
    /// they know what the hub still has.
    pub(super) async fn begin_gaps(&mut self) {
        self.read_accepted().await;
        let live = self.source.as_ref().map(|source| source.id());
        for target in &mut self.targets {
            let Some(writer) = &target.writer else { continue };
            for (partition, held) in writer.ledger().partitions().filter(|(key, _)| Some(&key.source) != live) {
                for gap in held.gaps() {
                    target.gaps.known.entry(partition.clone()).or_default().insert(gap);
                }
            }
        }
        for at in 0..self.targets.len() {
            self.tell_gaps(at);
        }
        self.count_gaps();
    }

    /// Numbers that nothing that was asked has, where a table lacks them.
    pub(super) fn report_hole(&mut self, partition: &PartitionKey, missing: Range, cause: HoleCause) {
        if cause == HoleCause::Compaction {
            tracing::debug!(pipeline = self.spec.name, %partition, %missing, "the hub compacted these away");
            return;
        }
        for at in 0..self.targets.len() {
            for missing in self.targets[at].missing_in(partition, missing) {
                self.report_hole_of(at, partition, missing, cause);
            }
        }
    }

    /// An error for each stretch that nobody accepted.
    pub(super) fn report_hole_of(&mut self, at: usize, partition: &PartitionKey, missing: Range, cause: HoleCause) {
        let Target { table, gaps, .. } = &mut self.targets[at];
        gaps.know(partition, missing);
        let pieces = gaps.accepted.split(partition, missing);
        let pieces: Vec<_> = pieces.into_iter().map(|(piece, accepted)| (piece, accepted.is_some())).collect();
        for (missing, is_accepted) in pieces {
            if is_accepted {
                let (pipeline, table) = (&self.spec.name, &*table);
                tracing::info!(pipeline, table, %partition, %missing, "events are missing, as was accepted");
                continue;
            }
            tracing::error!(
                pipeline = self.spec.name, table = &*table, %partition, %missing, cause = cause.as_str(),
                numbers = missing.len(), "events are missing, and nothing that was asked has them"
            );
            gaps.told.entry(partition.clone()).or_default().insert(missing);
            self.summary.missing += self.captures.count(partition, missing);
            // What is met again at a sweep is no other hole.
            let new = gaps.count(partition, missing);
            if new > 0 {
                metrics::hole(&self.spec.name, table, &partition.partition, cause.as_str(), new);
            }
        }
        self.count_gaps();
    }

    /// When there is something to do that nothing else wakes. Nothing is done during a flush: its end wakes.
    pub(super) fn gaps_due_at(&self) -> Option<Instant> {
        let due_at = |target: &Target| {
            let gaps = &target.gaps;
            let look_at = (!gaps.is_looked_at).then_some(gaps.look_at);
            let due_at = [Some(gaps.tell_at), look_at].into_iter().flatten().min();
            due_at.filter(|_| gaps.has_open() && target.writer.is_some())
        };
        self.targets.iter().filter_map(due_at).min().filter(|_| !self.stop_reading.is_cancelled())
    }

    /// Looks at the logs, and tells what is open, when it is time.
    pub(super) fn look_at_gaps_if_due(&mut self) {
        if self.stop_reading.is_cancelled() {
            return;
        }
        let now = Instant::now();
        for at in 0..self.targets.len() {
            let Target { table, gaps, writer, .. } = &mut self.targets[at];
            let Some(writer) = writer.as_ref().filter(|_| gaps.has_open()) else { continue };
            if gaps.look_at <= now && !gaps.is_looked_at {
                gaps.look_at = now + LOOK_EVERY.min(gaps.tell_every);
                gaps.is_looked_at = true;
                let (lake, location) = (gaps.lake.clone(), gaps.location.clone());
                let (table, id) = (table.clone(), writer.table_id().to_owned());
                self.looking_at_tables.spawn(async move { (at, look(&lake, &location, &table, &id).await) });
            }
            if gaps.tell_at <= now {
                gaps.tell_at = now + gaps.tell_every;
                self.tell_gaps(at);
            }
        }
    }

    pub(super) fn take_looked_at_table(&mut self, at: usize, looked: LookedAtTable) {
        let Target { table, gaps, .. } = &mut self.targets[at];
        gaps.is_looked_at = false;
        match looked {
            Ok((read, accepted)) => {
                gaps.accepted = accepted;
                for partition in gaps.known.keys() {
                    let landed = read.as_ref().map(|read| read.ledger.coverage(partition)).unwrap_or_default();
                    gaps.landed.insert(partition.clone(), landed);
                }
                self.count_gaps();
            }
            Err(error) => {
                let (pipeline, error) = (&self.spec.name, report(&error));
                let table = &*table;
                tracing::warn!(pipeline, table, error, "whether gaps were healed or accepted can't be read");
            }
        }
    }

    /// Sets the gauge of each partition, when the ledger is at hand: during a flush it isn't, and its end
    /// comes back here.
    pub(super) fn count_gaps(&mut self) {
        for target in &mut self.targets {
            let Some(writer) = &target.writer else { continue };
            // By the name of the partition, as the label has it, over all sources.
            let names = writer.ledger().partitions().map(|(key, _)| key.partition.to_string());
            let mut counts: BTreeMap<String, u64> = names.map(|name| (name, 0)).collect();
            for (partition, open) in target.gaps.still_open(Some(writer.ledger())) {
                *counts.entry(partition.partition.to_string()).or_default() += open.len();
            }
            for (partition, count) in &counts {
                metrics::gaps(&self.spec.name, &target.table, partition, *count);
            }
            target.gaps.open = counts;
        }
        let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
        for (partition, count) in self.targets.iter().flat_map(|target| &target.gaps.open) {
            *counts.entry(partition).or_default() += count;
        }
        self.status.change(|snapshot| {
            for (partition, count) in counts {
                match snapshot.partitions.get_mut(partition) {
                    Some(held) => held.gap_events = count,
                    // A partition that isn't read stands there only for what it lacks.
                    None if count == 0 => {}
                    None => snapshot.partitions.entry(partition.to_owned()).or_default().gap_events = count,
                }
            }
        });
    }

    /// Names what is open of a table, but for what was named since the last time.
    fn tell_gaps(&mut self, at: usize) {
        let Target { table, gaps, writer, .. } = &mut self.targets[at];
        let told = std::mem::take(&mut gaps.told);
        for (partition, open) in gaps.still_open(writer.as_ref().map(TableWriter::ledger)) {
            let told = told.get(&partition).cloned().unwrap_or_default();
            let untold: RangeSet = open.iter().flat_map(|gap| told.missing_in(gap)).collect();
            if untold.is_empty() {
                continue;
            }
            let mut missing = untold.iter().take(MOST_NAMED).map(|gap| gap.to_string()).collect::<Vec<_>>().join(", ");
            if untold.as_slice().len() > MOST_NAMED {
                missing.push_str(", …");
            }
            tracing::error!(
                pipeline = self.spec.name, table = &*table, %partition, missing, numbers = untold.len(),
                "events are missing, and nobody has accepted that: `sluice gaps` lists, heals and accepts"
            );
        }
    }
}

async fn look(lake: &Location, location: &Location, table: &str, id: &str) -> LookedAtTable {
    Ok((read_ledger(location, table).await?, AcceptedGaps::read(lake, id).await?))
}

/// Where each table begins that came later than others, by its ledger.
fn begins(ledgers: &[&Ledger], partition: &PartitionKey) -> Vec<Option<i64>> {
    let start = |ledger: &&Ledger| ledger.partition(partition).and_then(PartitionLedger::start);
    let starts: Vec<Option<i64>> = ledgers.iter().map(start).collect();
    let first = starts.iter().flatten().min().copied();
    // One that doesn't know the partition has nothing that could be healed.
    starts
        .into_iter()
        .map(|start| start.map_or(first.map(|_| i64::MAX), |start| Some(start).filter(|_| Some(start) > first)))
        .collect()
}

/// When the events of the gaps were enqueued, at the earliest: not before the covered event that precedes
/// each. Nothing bounds a gap that follows none whose time is known.
fn enqueued_from(ledgers: &[&Ledger], gaps: &BTreeMap<PartitionKey, RangeSet>) -> Option<DateTime<Utc>> {
    let mut earliest: Option<i64> = None;
    for (partition, gap) in gaps.iter().flat_map(|(partition, gaps)| gaps.iter().map(move |gap| (partition, gap))) {
        // What covers the gap itself doesn't know when the event before it was enqueued.
        let lacking = |ledger: &&&Ledger| !ledger.coverage(partition).contains(gap.from);
        let last_covered = |ledger: &&Ledger| ledger.partition(partition)?.last_covered(gap.from);
        let before = ledgers.iter().filter(lacking).find_map(last_covered)?.enqueued_at;
        earliest = Some(earliest.map_or(before, |earliest| earliest.min(before)));
    }
    DateTime::from_timestamp_millis(earliest?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::{LedgerKey, SourceId};

    #[test]
    fn gaps_are_not_older_than_the_events_before_them() {
        let key = |name: &str| PartitionKey::new(SourceId::new("emulator/leads"), name);
        let mut ledger = Ledger::default();
        for (name, from, to, time) in [("0", 0, 10, 5_000), ("0", 20, 30, 7_000), ("1", 0, 5, 3_000)] {
            ledger.apply(LedgerKey::End { partition: key(name), from }, to);
            ledger.apply(LedgerKey::Time { partition: key(name), from }, time);
        }
        let of = |gaps: &[(&str, i64, i64)]| {
            let mut wanted: BTreeMap<PartitionKey, RangeSet> = BTreeMap::new();
            for (name, from, to) in gaps {
                wanted.entry(key(name)).or_default().insert(Range::new(*from, *to));
            }
            enqueued_from(&[&ledger], &wanted).map(|from| from.timestamp_millis())
        };
        assert_eq!(of(&[("0", 10, 20), ("0", 30, 40)]), Some(5_000));
        assert_eq!(of(&[("0", 10, 20), ("1", 5, 9)]), Some(3_000));
        assert_eq!(of(&[("0", 10, 20), ("1", 7, 9)]), None, "what precedes 7 isn't known");
        assert_eq!(of(&[]), None);
    }
}
