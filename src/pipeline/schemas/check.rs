//! Holding a new version against those that a subject has, and registering it.

use serde::Serialize;

use super::{Registry, SchemaError};
use crate::decode::{ComparedSchema, Direction, Incompatibility, RegistryError, SubjectVersion};

/// What a new version has to hold against.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    None,
    Backward,
    Forward,
    Full,
    BackwardTransitive,
    ForwardTransitive,
    FullTransitive,
}

impl Mode {
    fn directions(self) -> &'static [Direction] {
        match self {
            Self::None => &[],
            Self::Backward | Self::BackwardTransitive => &[Direction::Backward],
            Self::Forward | Self::ForwardTransitive => &[Direction::Forward],
            Self::Full | Self::FullTransitive => &[Direction::Backward, Direction::Forward],
        }
    }

    fn is_transitive(self) -> bool {
        matches!(self, Self::BackwardTransitive | Self::ForwardTransitive | Self::FullTransitive)
    }
}

/// The verdict. The shape that scripts read: fields may be added, never renamed or removed.
#[derive(Debug, Clone, Serialize)]
pub struct Checked {
    pub subject: String,
    pub mode: Mode,
    pub compatible: bool,
    /// Versions that it was held against, ascending.
    pub against: Vec<u32>,
    pub problems: Vec<Problem>,
}

#[derive(Debug, Clone, Serialize)]
pub struct Problem {
    pub direction: Direction,
    pub version: u32,
    #[serde(flatten)]
    pub found: Incompatibility,
}

/// Holds the schema `text` against the last version of a subject, or all of them, or those that are given.
/// A subject that isn't there yet has none.
///
/// # Errors
/// A schema that is none; a registry that can't be asked.
pub async fn check(
    registry: &Registry,
    subject: &str,
    text: &str,
    mode: Mode,
    only: Option<u32>,
) -> Result<Checked, SchemaError> {
    let unusable = |name: String| move |reason| SchemaError::Unusable { name, reason };
    let new = ComparedSchema::parse(text).map_err(unusable("new version".to_owned()))?;
    let subjects = &registry.subjects;
    let held = match only {
        Some(version) => Ok(vec![subjects.version(subject, version).await?]),
        None if mode.is_transitive() => subjects.all(subject).await,
        None => match subjects.versions(subject).await {
            Ok(versions) => match versions.last() {
                Some(&last) => subjects.version(subject, last).await.map(|last| vec![last]),
                None => Ok(Vec::new()),
            },
            Err(error) => Err(error),
        },
    };
    let held = match held {
        Err(RegistryError::NoSubject { .. }) if only.is_none() => Vec::new(),
        held => held?,
    };
    let mut problems = Vec::new();
    for SubjectVersion { version, text, .. } in &held {
        let held = ComparedSchema::parse(text).map_err(unusable(format!("{subject}@{version}")))?;
        let found = compare(&new, &held, mode);
        problems.extend(found.map(|(direction, found)| Problem { direction, version: *version, found }));
    }
    let versions = held.into_iter().map(|held| held.version).collect();
    Ok(Checked { subject: subject.to_owned(), mode, compatible: problems.is_empty(), against: versions, problems })
}

fn compare(
    new: &ComparedSchema,
    held: &ComparedSchema,
    mode: Mode,
) -> impl Iterator<Item = (Direction, Incompatibility)> {
    mode.directions().iter().flat_map(move |direction| {
        let found = match direction {
            Direction::Backward => new.reads(held),
            Direction::Forward => held.reads(new),
        };
        found.into_iter().map(|found| (*direction, found))
    })
}

/// Registers a schema that holds against what is there; else gives what doesn't. The registry may have rules of
/// its own, and refuse what holds here.
///
/// # Errors
/// As [`check`]; [`RegistryError::Refused`] with the registry's words.
pub async fn register(
    registry: &Registry,
    subject: &str,
    text: &str,
    mode: Mode,
) -> Result<Result<SubjectVersion, Checked>, SchemaError> {
    let checked = check(registry, subject, text, mode, None).await?;
    if !checked.compatible {
        return Ok(Err(checked));
    }
    Ok(Ok(registry.subjects.register(subject, text).await?))
}
