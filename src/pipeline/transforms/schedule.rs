//! When transforms run within `sluice run`: after commits of their inputs, at most so often, or by
//! cron; a failed one again after a pause that grows.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use super::times::Times;
use super::{TransformSummary, Transforms};
use crate::config::spec::{TableName, Trigger};
use crate::pipeline::PipelineError;
use crate::retry::Backoff;
use crate::transform::run::engine::{Outcome, Refresh};

/// How many run at once. They share one bound of memory, so more would spill sooner.
const AT_ONCE: usize = 2;

/// The first pause after a failure, and the longest. Data that an expectation refuses doesn't get
/// better by itself, but somebody may mend it.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// A transform in the schedule.
struct Entry {
    /// When it is looked at next.
    due: Instant,
    /// Those of a cron; a look doesn't run it before one of them has come.
    times: Option<Times>,
    backoff: Backoff,
    /// The version of each input that the last good run has seen.
    seen: BTreeMap<TableName, u64>,
    has_failed: bool,
}

enum Event {
    Stop,
    Due,
    Ended(usize, Box<TransformSummary>, BTreeMap<TableName, u64>),
}

impl Transforms {
    /// Runs them until they are told to stop; a part that was begun is brought to its end.
    ///
    /// # Errors
    /// [`PipelineError::CutOff`] when the shutdown was; when the state's place can't be used.
    pub async fn run(&self) -> Result<(), PipelineError> {
        let shutdown = self.engine.shutdown.clone();
        let mut entries = Vec::new();
        for node in self.graph.nodes() {
            let times = match &node.spec.trigger {
                Trigger::Commits { .. } => None,
                Trigger::Cron(cron) => Some(Times::open(&self.state, &node.spec.table, cron).await?),
            };
            entries.push(Entry::new(times));
        }
        let mut running: JoinSet<(usize, TransformSummary, BTreeMap<TableName, u64>)> = JoinSet::new();
        let mut active = BTreeSet::new();
        loop {
            self.start_due(&mut entries, &mut active, &mut running);
            let idle = entries.iter().enumerate().filter(|(number, _)| !active.contains(number));
            let next = idle.map(|(_, entry)| entry.due).min();
            let next = next.filter(|_| active.len() < AT_ONCE);
            let event = tokio::select! {
                () = shutdown.stopping() => Event::Stop,
                Some(ended) = running.join_next() => ended_of(ended)?,
                () = tokio::time::sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => Event::Due,
            };
            match event {
                Event::Stop => break,
                Event::Due => {}
                Event::Ended(number, summary, seen) => {
                    active.remove(&number);
                    self.settle(&mut entries, number, &summary, seen).await;
                }
            }
        }
        loop {
            tokio::select! {
                () = shutdown.aborting() => {
                    running.abort_all();
                    return Err(PipelineError::CutOff);
                }
                ended = running.join_next() => match ended {
                    None => return Ok(()),
                    Some(ended) => if let Event::Ended(number, summary, seen) = ended_of(ended)? {
                        self.settle(&mut entries, number, &summary, seen).await;
                    },
                }
            }
        }
    }

    fn start_due(
        &self,
        entries: &mut [Entry],
        active: &mut BTreeSet<usize>,
        running: &mut JoinSet<(usize, TransformSummary, BTreeMap<TableName, u64>)>,
    ) {
        let now = Instant::now();
        let failed = entries.iter().enumerate().filter(|(_, entry)| entry.has_failed);
        let held_back: BTreeSet<usize> = failed.flat_map(|(number, _)| self.graph.after(number)).collect();
        for (number, entry) in entries.iter_mut().enumerate() {
            if active.len() >= AT_ONCE {
                return;
            }
            if active.contains(&number) || entry.due > now {
                continue;
            }
            let is_held_back = held_back.contains(&number);
            if is_held_back || !entry.times.as_mut().is_none_or(Times::has_come) {
                let pause = entry.pause(&self.graph.nodes()[number].spec.trigger);
                // Its time may have come long ago.
                entry.due = now + if is_held_back { pause.max(FIRST_PAUSE) } else { pause };
                continue;
            }
            if let Some(times) = &mut entry.times {
                times.begin();
            }
            active.insert(number);
            let (transforms, seen) = (self.clone(), entry.seen.clone());
            running.spawn(async move {
                let is_new = match transforms.has_moved(number, &seen).await {
                    Ok(heads) => heads,
                    // The run meets the same error, and tells it.
                    Err(_) => Some(BTreeMap::new()),
                };
                match is_new {
                    None => {
                        let node = &transforms.graph.nodes()[number];
                        (number, TransformSummary::without_run(node, "unchanged"), seen)
                    }
                    Some(heads) => (number, transforms.run_one(number, Refresh::No).await, heads),
                }
            });
        }
    }

    async fn settle(
        &self,
        entries: &mut [Entry],
        number: usize,
        summary: &TransformSummary,
        seen: BTreeMap<TableName, u64>,
    ) {
        let trigger = &self.graph.nodes()[number].spec.trigger;
        let Some(entry) = entries.get_mut(number) else { return };
        let was_failing = std::mem::replace(&mut entry.has_failed, summary.failure.is_some());
        if let Some(times) = &mut entry.times {
            times.take(summary, self.engine.shutdown.is_stopping()).await;
        }
        if summary.failure.is_some() {
            let pause = entry.backoff.pause().max(FIRST_PAUSE);
            tracing::warn!(
                table = summary.table,
                pause_seconds = pause.as_secs_f64(),
                transient = summary.is_transient(),
                "a transform is tried again after a pause"
            );
            entry.due = Instant::now() + pause;
            return;
        }
        // An input that isn't there yet is looked for again.
        let waits = summary.outcome == Outcome::Waits.as_str();
        entry.seen = if waits { BTreeMap::new() } else { seen };
        entry.due = Instant::now();
        entry.due += if waits && entry.times.is_some() { entry.backoff.pause() } else { entry.pause(trigger) };
        if !waits {
            entry.backoff.reset();
        }
        if was_failing {
            for after in self.graph.after(number) {
                if let (Some(entry), Trigger::Commits { .. }) =
                    (entries.get_mut(after), &self.graph.nodes()[after].spec.trigger)
                {
                    entry.due = Instant::now();
                }
            }
        }
    }

    /// The inputs' heads where one of them has moved since; a look at two objects for each.
    async fn has_moved(
        &self,
        number: usize,
        seen: &BTreeMap<TableName, u64>,
    ) -> Result<Option<BTreeMap<TableName, u64>>, PipelineError> {
        let node = &self.graph.nodes()[number];
        let inputs: BTreeSet<&TableName> = node.parsed.inputs.iter().map(|input| &input.table).collect();
        let mut heads = BTreeMap::new();
        // What is to be made at certain times may depend on the time.
        let is_by_cron = matches!(node.spec.trigger, Trigger::Cron(_));
        let mut has_moved = is_by_cron || seen.len() != inputs.len();
        for input in inputs {
            let failed =
                |source| PipelineError::Transform { table: node.spec.table.to_string(), source: Box::new(source) };
            let table = self.engine.lake.at_head(input).await.map_err(|error| failed(error.into()))?;
            let Some(version) = table.map(|table| table.head.version) else { continue };
            has_moved |= seen.get(input) != Some(&version);
            heads.insert(input.clone(), version);
        }
        Ok(has_moved.then_some(heads))
    }
}

impl Entry {
    fn new(times: Option<Times>) -> Self {
        let backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        Self { due: Instant::now(), times, backoff, seen: BTreeMap::new(), has_failed: false }
    }

    /// How long it isn't looked at.
    fn pause(&self, trigger: &Trigger) -> Duration {
        match (trigger, &self.times) {
            (Trigger::Commits { every }, _) => *every,
            (Trigger::Cron(_), Some(times)) => times.next_look(),
            (Trigger::Cron(_), None) => LONGEST_PAUSE,
        }
    }
}

fn ended_of(
    ended: Result<(usize, TransformSummary, BTreeMap<TableName, u64>), tokio::task::JoinError>,
) -> Result<Event, PipelineError> {
    match ended {
        Ok((number, summary, seen)) => Ok(Event::Ended(number, Box::new(summary), seen)),
        Err(source) => Err(PipelineError::Task { task: "transform", source }),
    }
}
