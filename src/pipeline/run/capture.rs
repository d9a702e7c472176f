//! The second path of a pipeline: history by backfill, and holes that are healed beside the live path.
//!
//! ```text
//! hole ─▶ gaps ─▶ list the captures ─▶ a reader for each partition ─▶ the same table, the same ledger
//!          ▲                                 │
//!          └──── at the next sweep ◀─────────┴─ what no blob has
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::{Parts, Pipeline, PipelineOptions};
use crate::checkpoint::{PartitionKey, Range, RangeSet, SourceId};
use crate::config::source_id;
use crate::config::spec::{GenerationSpec, PipelineSpec, ProjectSpec};
use crate::pipeline::PipelineError;
use crate::pipeline::partition::{EventsFrom, report};
use crate::pipeline::setup;
use crate::pipeline::status::PipelineStatus;
use crate::shutdown::Shutdown;
use crate::sink::delta::writer::TableWriter;
use crate::source::capture::{CaptureRead, CaptureSource, EnqueuedBetween, Listing, Missing};
use crate::source::{HoleCause, SourceError};

/// What a pipeline reads of the captures, and what it still lacks.
pub(super) struct Captures {
    source: Option<Arc<CaptureSource>>,
    pub(super) listing: JoinSet<Result<Arc<Listing>, PipelineError>>,
    /// Holes that are to be looked for now.
    gaps: BTreeMap<PartitionKey, RangeSet>,
    /// Holes that no blob had when it was looked.
    unhealed: BTreeMap<PartitionKey, RangeSet>,
    sweep_at: Option<Instant>,
    /// Readers at work.
    readers: usize,
}

impl Captures {
    pub(super) fn new(source: Option<Arc<CaptureSource>>) -> Self {
        Self {
            source,
            listing: JoinSet::new(),
            gaps: BTreeMap::new(),
            unhealed: BTreeMap::new(),
            sweep_at: None,
            readers: 0,
        }
    }

    /// Whether something is under way, or to be begun, that a run waits for which is to end by itself.
    pub(super) fn is_at_work(&self) -> bool {
        self.readers > 0 || !self.listing.is_empty() || !self.gaps.is_empty()
    }

    /// When holes are looked for again.
    pub(super) fn heal_at(&self) -> Option<Instant> {
        self.sweep_at.filter(|_| !self.unhealed.is_empty())
    }

    pub(super) fn ended(&mut self) {
        self.readers = self.readers.saturating_sub(1);
    }

    /// Nothing is read any more.
    pub(super) fn clear(&mut self) {
        self.listing.abort_all();
        self.listing = JoinSet::new();
        self.gaps.clear();
        self.readers = 0;
    }
}

impl Pipeline {
    /// A run that takes in what Capture has of the events enqueued in `between` and the table doesn't
    /// account for. It asks no hub and takes no lock: it may run beside the live pipeline.
    ///
    /// # Errors
    /// [`PipelineError::NoCapture`]; captures that can't be listed; errors of storage.
    pub async fn backfill(
        project: &ProjectSpec,
        spec: &PipelineSpec,
        between: EnqueuedBetween,
        options: PipelineOptions,
        status: PipelineStatus,
        shutdown: Shutdown,
    ) -> Result<Self, PipelineError> {
        let parts = Parts::of(project, spec)?;
        let Some(captures) = parts.captures.clone() else {
            return Err(PipelineError::NoCapture { pipeline: spec.name.clone() });
        };
        let listing = Arc::new(captures.list(between.from).await.map_err(SourceError::from)?);
        let writer = TableWriter::open(setup::table_spec(spec, &parts.places, options.fault_points.clone())?).await?;
        let mut pipeline = Self::new(spec, parts, None, writer, options, status, shutdown);
        pipeline.summary.torn_blobs = listing.torn.len() as u64;
        for torn in &listing.torn {
            tracing::error!(pipeline = spec.name, error = report(torn), "a capture blob is torn");
        }
        for (source, enqueued) in generations(project, spec, between)? {
            for partition in listing.partitions.keys() {
                let partition = PartitionKey::new(source.clone(), partition.as_str());
                let covered = pipeline.writer.as_ref().map(|writer| writer.ledger().coverage(&partition));
                let missing = covered.unwrap_or_default().missing_in(Range::new(0, i64::MAX));
                let wanted = missing.into_iter().collect();
                let (listing, missing) = (Arc::clone(&listing), Missing::Between);
                pipeline.read_capture(CaptureRead { partition, listing, wanted, enqueued, missing });
            }
        }
        Ok(pipeline)
    }

    /// A hole of the live path is looked for in the captures, where there are any; what they lack is told.
    pub(super) fn take_hole(&mut self, partition: PartitionKey, missing: Range, cause: HoleCause) {
        match cause {
            HoleCause::Retention | HoleCause::Unexplained if self.captures.source.is_some() => {
                tracing::warn!(
                    pipeline = self.spec.name, %partition, %missing, cause = cause.as_str(), numbers = missing.len(),
                    "the hub lacks events: looking for them in the captures"
                );
                self.captures.gaps.entry(partition).or_default().insert(missing);
            }
            HoleCause::NotCaptured if self.source.is_some() => {
                self.report_hole(&partition, missing, cause);
                self.captures.unhealed.entry(partition).or_default().insert(missing);
                let sweep_at = Instant::now() + self.sweep_every();
                self.captures.sweep_at.get_or_insert(sweep_at);
            }
            _ => self.report_hole(&partition, missing, cause),
        }
    }

    fn sweep_every(&self) -> Duration {
        self.spec.capture.as_ref().map_or(Duration::ZERO, |capture| capture.sweep_every)
    }

    /// Lists the captures when there is something to look for.
    pub(super) fn heal_if_due(&mut self) {
        if self.captures.heal_at().is_some_and(|at| at <= Instant::now()) {
            self.captures.sweep_at = None;
            let again = std::mem::take(&mut self.captures.unhealed);
            self.captures.gaps.extend(again);
        }
        let is_idle = self.captures.listing.is_empty() && self.captures.readers == 0;
        if self.captures.gaps.is_empty() || !is_idle || self.stop_reading.is_cancelled() {
            if self.stop_reading.is_cancelled() {
                self.captures.gaps.clear();
            }
            return;
        }
        let Some(source) = self.captures.source.clone() else { return };
        self.captures.listing.spawn(async move {
            let listed = source.list(None).await;
            Ok(Arc::new(listed.map_err(SourceError::from)?))
        });
    }

    /// Begins to read what was missing, now that it is known which blobs there are.
    pub(super) fn read_captures(&mut self, listed: Result<Arc<Listing>, PipelineError>) {
        let gaps = std::mem::take(&mut self.captures.gaps);
        let listing = match listed {
            Ok(listing) => listing,
            Err(error) => {
                tracing::error!(pipeline = self.spec.name, error = report(&error), "the captures can't be looked into");
                for (partition, missing) in gaps {
                    missing
                        .iter()
                        .for_each(|missing| self.take_hole(partition.clone(), missing, HoleCause::NotCaptured));
                }
                return;
            }
        };
        for (partition, wanted) in gaps {
            // Of this generation alone: the one before has other events under the same numbers.
            let from = self.spec.source.generation.as_ref().map(|generation| generation.since);
            let enqueued = EnqueuedBetween { from, to: None };
            let (listing, missing) = (Arc::clone(&listing), Missing::Wanted);
            self.read_capture(CaptureRead { partition, listing, wanted, enqueued, missing });
        }
    }

    fn read_capture(&mut self, read: CaptureRead) {
        let Some(source) = self.captures.source.clone() else { return };
        let blobs = read.blobs().len() as u64;
        tracing::info!(pipeline = self.spec.name, partition = %read.partition, blobs, "reading captures");
        self.status.change(|snapshot| snapshot.blobs += blobs);
        self.captures.readers += 1;
        self.spawn(EventsFrom::Capture { source, read });
    }
}

/// The generations whose events may lie in the captures, and when those were enqueued. What came before
/// `since` belongs to the generation before, whose name follows from this one's.
fn generations(
    project: &ProjectSpec,
    spec: &PipelineSpec,
    between: EnqueuedBetween,
) -> Result<Vec<(SourceId, EnqueuedBetween)>, PipelineError> {
    let present = setup::source_of(project, spec)?;
    let Some(generation) = &spec.source.generation else { return Ok(vec![(present, between)]) };
    let since = generation.since;
    let mut found = Vec::new();
    if between.to.is_none_or(|to| to > since) {
        let from = Some(between.from.map_or(since, |from| from.max(since)));
        found.push((present, EnqueuedBetween { from, ..between }));
    }
    if between.from.is_none_or(|from| from < since) {
        let to = Some(between.to.map_or(since, |to| to.min(since)));
        found.push((before(project, spec, generation)?, EnqueuedBetween { to, ..between }));
    }
    Ok(found)
}

/// `2` follows the hub that had no generation yet, `3` follows `2`.
fn before(project: &ProjectSpec, spec: &PipelineSpec, generation: &GenerationSpec) -> Result<SourceId, PipelineError> {
    let hubs = project.event_hubs.as_ref().ok_or_else(|| PipelineError::NoEventHubs { pipeline: spec.name.clone() })?;
    let name = match generation.name.parse::<u64>() {
        Ok(2) => None,
        Ok(number) if number > 2 => Some((number - 1).to_string()),
        _ => {
            return Err(PipelineError::GenerationBefore {
                pipeline: spec.name.clone(),
                generation: generation.name.clone(),
            });
        }
    };
    let before = name.map(|name| GenerationSpec { name, since: generation.since });
    Ok(source_id(hubs, &spec.source.hub, before.as_ref()))
}
