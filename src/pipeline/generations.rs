//! Whose events may lie in the captures of a hub that was made anew.

use std::collections::BTreeSet;

use super::{PipelineError, setup};
use crate::checkpoint::SourceId;
use crate::config::source_id;
use crate::config::spec::{GenerationSpec, PipelineSpec, ProjectSpec};
use crate::source::capture::EnqueuedBetween;

/// One life of a hub: numbers mean other events in each.
#[derive(Debug, Clone, PartialEq)]
pub struct Generation {
    pub source: SourceId,
    /// When its events were enqueued.
    pub lasts: EnqueuedBetween,
    /// Which of them are wanted.
    pub wanted: EnqueuedBetween,
}

/// The generations that have events in `between`. What came before `since` belongs to the generation
/// before, whose name follows from this one's.
///
/// # Errors
/// [`PipelineError::GenerationBefore`] when that one is wanted and its name doesn't follow.
pub fn generations(
    project: &ProjectSpec,
    spec: &PipelineSpec,
    between: EnqueuedBetween,
) -> Result<Vec<Generation>, PipelineError> {
    let present = setup::source_of(project, spec)?;
    let Some(generation) = &spec.source.generation else {
        return Ok(vec![Generation { source: present, lasts: EnqueuedBetween::default(), wanted: between }]);
    };
    let since = generation.since;
    let mut found = Vec::new();
    if between.to.is_none_or(|to| to > since) {
        let from = Some(between.from.map_or(since, |from| from.max(since)));
        let lasts = EnqueuedBetween { from: Some(since), to: None };
        found.push(Generation { source: present, lasts, wanted: EnqueuedBetween { from, ..between } });
    }
    if between.from.is_none_or(|from| from < since) {
        let to = Some(between.to.map_or(since, |to| to.min(since)));
        let lasts = EnqueuedBetween { from: None, to: Some(since) };
        let source = before(project, spec, generation)?;
        found.push(Generation { source, lasts, wanted: EnqueuedBetween { to, ..between } });
    }
    Ok(found)
}

/// The generations that are one of `sources`. A generation before whose name doesn't follow is none of them.
///
/// # Errors
/// When the project declares no `[event_hubs]`.
pub fn generations_of(
    project: &ProjectSpec,
    spec: &PipelineSpec,
    sources: &BTreeSet<&SourceId>,
) -> Result<Vec<Generation>, PipelineError> {
    let mut found = match generations(project, spec, EnqueuedBetween::default()) {
        Err(PipelineError::GenerationBefore { .. }) => {
            let since = spec.source.generation.as_ref().map(|generation| generation.since);
            generations(project, spec, EnqueuedBetween { from: since, to: None })?
        }
        found => found?,
    };
    found.retain(|generation| sources.contains(&generation.source));
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
