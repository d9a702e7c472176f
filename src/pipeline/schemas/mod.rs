//! The schemas of the registry: looked at, held against one another, registered; and what a new one does to tables.
//!
//! Two questions are kept apart. Whether other readers can go on is Avro's ([`check`]): they read with one schema what was
//! written with another. What becomes of a table is ours ([`diff`]): each event is decoded with the schema that it was
//! written with, and the table has the columns of all of them. The transforms that read it are planned as it is and as it
//! would be, and held side by side.

mod check;
mod effect;
mod error;
mod transforms;

pub use check::{Checked, Mode, Problem, check, register};
pub use effect::{Change, ColumnChange, Diff, KnownBy, TableDiff, diff};
pub use error::SchemaError;
pub use transforms::{GainedColumn, TransformDiff, TransformEffect};

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::config::spec::ProjectSpec;
use crate::decode::{RegistryError, SchemaRegistry, SubjectVersion, Subjects};
use crate::pipeline::setup;

/// The registry of a project, in both of its ways.
pub struct Registry {
    pub by_id: Arc<dyn SchemaRegistry>,
    pub subjects: Arc<dyn Subjects>,
}

impl Registry {
    /// # Errors
    /// [`SchemaError::NoRegistry`]; an address that can't be used.
    pub fn of(project: &ProjectSpec) -> Result<Self, SchemaError> {
        setup::registry(project, &setup::Places::of(project)?)?.ok_or(SchemaError::NoRegistry)
    }
}

/// A subject, and one of its versions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubjectName {
    pub subject: String,
    /// None means the last one.
    pub version: Option<u32>,
}

impl SubjectName {
    /// `subject`, or `subject@3`.
    pub fn parse(text: &str) -> Self {
        match text.rsplit_once('@').map(|(subject, version)| (subject, version.parse())) {
            Some((subject, Ok(version))) => Self { subject: subject.to_owned(), version: Some(version) },
            _ => Self { subject: text.to_owned(), version: None },
        }
    }
}

/// A version of a subject; the last where none is named.
///
/// # Errors
/// A subject or version that isn't there; a registry that can't be asked.
pub async fn find(registry: &Registry, name: &SubjectName) -> Result<SubjectVersion, SchemaError> {
    let version = match name.version {
        Some(version) => version,
        None => {
            let last = registry.subjects.versions(&name.subject).await?.pop();
            last.ok_or_else(|| RegistryError::NoSubject { subject: name.subject.clone() })?
        }
    };
    Ok(registry.subjects.version(&name.subject, version).await?)
}

/// The text of a file of a schema.
///
/// # Errors
/// [`SchemaError::File`]
pub fn read_file(path: &Path) -> Result<String, SchemaError> {
    std::fs::read_to_string(path).map_err(|source| SchemaError::File { path: PathBuf::from(path), source })
}
