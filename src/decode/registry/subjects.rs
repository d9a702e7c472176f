//! Schemas by subject and version: what people look at, hold against others, and register.
//!
//! | registry | a subject is | versions are |
//! |---|---|---|
//! | Azure | `group/name`; the service lists groups, and no names | counted by the service |
//! | Confluent | a subject | counted by the registry |
//! | folder | the full name of a record | the files that define it, in the order of their paths |

use async_trait::async_trait;
use serde::Serialize;

use super::RegistryError;

/// Pages and subjects that are read at most: there is no end to what an address may answer.
pub(super) const PAGES_MAX: usize = 1_000;

/// What a registry lists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listed {
    Subjects(Vec<String>),
    /// Names within groups can't be listed.
    Groups(Vec<String>),
}

/// A version of a subject. The shape that scripts read: fields may be added, never renamed or removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SubjectVersion {
    pub subject: String,
    pub version: u32,
    /// As events name it.
    pub id: String,
    /// The schema itself, as JSON.
    #[serde(rename = "schema")]
    pub text: String,
}

/// A registry as people see it.
#[async_trait]
pub trait Subjects: Send + Sync {
    /// # Errors
    /// When the registry can't be asked.
    async fn list(&self) -> Result<Listed, RegistryError>;

    /// The numbers of a subject's versions, ascending.
    ///
    /// # Errors
    /// [`RegistryError::NoSubject`]; when the registry can't be asked.
    async fn versions(&self, subject: &str) -> Result<Vec<u32>, RegistryError>;

    /// # Errors
    /// [`RegistryError::NoSubject`]; when the registry can't be asked.
    async fn version(&self, subject: &str, version: u32) -> Result<SubjectVersion, RegistryError>;

    /// All versions of a subject, ascending.
    ///
    /// # Errors
    /// As [`Self::versions`]
    async fn all(&self, subject: &str) -> Result<Vec<SubjectVersion>, RegistryError> {
        let mut all = Vec::new();
        for version in self.versions(subject).await? {
            all.push(self.version(subject, version).await?);
        }
        Ok(all)
    }

    /// Registers a schema, or finds that it is there.
    ///
    /// # Errors
    /// [`RegistryError::Refused`] with the registry's own words; when it can't be asked.
    async fn register(&self, subject: &str, text: &str) -> Result<SubjectVersion, RegistryError>;
}

/// The words of a refusal, as registries write them; cut off, and without what moves a cursor.
pub(super) fn words_of(body: &[u8]) -> String {
    const LONGEST: usize = 500;
    let json: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let keys = [&json["message"], &json["error"]["message"], &json["Detail"]];
    let text = keys.into_iter().find_map(serde_json::Value::as_str).map(str::to_owned);
    let text = text.unwrap_or_else(|| String::from_utf8_lossy(body).into_owned());
    text.chars().take(LONGEST).map(|c| if c.is_control() { ' ' } else { c }).collect::<String>().trim().to_owned()
}
