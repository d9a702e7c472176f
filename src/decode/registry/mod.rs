//! Schemas by id. Ids are immutable, so what was seen once is kept for good.

mod azure;
mod cache;
mod confluent;
mod disk;
mod folder;
mod http;
mod references;
mod subjects;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use reqwest::StatusCode;

pub use azure::AzureRegistry;
pub use confluent::ConfluentRegistry;
pub use folder::{FolderRegistry, texts as folder_texts};
pub use subjects::{Listed, SubjectVersion, Subjects};

use crate::config::spec::Secret;
use crate::error::{Classify, Kind, Retry};

/// Where schemas come from.
///
/// Asking again is cheap: an implementation caches what it found, and several who ask for one
/// unknown id at the same time cause one request.
#[async_trait]
pub trait SchemaRegistry: Send + Sync {
    /// Whether schemas have ids of this kind here.
    fn names(&self, kind: IdKind) -> bool;

    /// # Errors
    /// Of the kind [`Kind::Data`] when the registry says that it has no such schema, or none that can be used;
    /// anything else means that it couldn't be asked.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    async fn schema(&self, id: &str) -> Result<Arc<RegisteredSchema>, RegistryError>;
}

/// A schema as a registry holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegisteredSchema {
    pub id: SchemaId,
    /// The schema itself, as JSON.
    pub text: String,
}

/// What the id of a schema is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum IdKind {
    /// An Azure Schema Registry's: 32 hex digits.
    Guid,
    /// A Confluent-compatible registry's: a number of 31 bits.
    Number,
    /// What the schema itself gives: CRC-64-AVRO of its canonical form.
    Fingerprint,
}

/// The id of a schema. Its text is safe in a path and in a URL, and tells the kind. Copied for each event, so it
/// owns no memory elsewhere.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SchemaId {
    /// Lower-case hex digits.
    Guid([u8; 32]),
    /// At most `i32::MAX`.
    Number(u32),
    /// The eight bytes as they lie in a body, the least first.
    Fingerprint([u8; 8]),
}

impl SchemaId {
    /// `None` unless the text is 32 hex digits, 16 of them, or a number of 31 bits; upper case is made lower.
    pub fn parse(text: &str) -> Option<Self> {
        Self::guid(text.as_bytes()).or_else(|| Self::fingerprint(text)).or_else(|| {
            let is_number = !text.is_empty() && text.len() <= 10 && text.bytes().all(|digit| digit.is_ascii_digit());
            is_number.then(|| text.parse().ok()).flatten().and_then(Self::number)
        })
    }

    /// `None` unless the text is 32 hex digits.
    pub fn guid(text: &[u8]) -> Option<Self> {
        let mut digits: [u8; 32] = text.try_into().ok()?;
        digits.make_ascii_lowercase();
        digits.iter().all(u8::is_ascii_hexdigit).then_some(Self::Guid(digits))
    }

    /// `None` when the number is none that a registry gives.
    pub fn number(number: u32) -> Option<Self> {
        i32::try_from(number).is_ok().then_some(Self::Number(number))
    }

    /// `None` unless the text is 16 hex digits.
    fn fingerprint(text: &str) -> Option<Self> {
        let is_one = text.len() == 16 && text.bytes().all(|digit| digit.is_ascii_hexdigit());
        let number = is_one.then(|| u64::from_str_radix(text, 16).ok()).flatten()?;
        Some(Self::Fingerprint(number.to_be_bytes()))
    }

    pub fn kind(&self) -> IdKind {
        match self {
            Self::Guid(_) => IdKind::Guid,
            Self::Number(_) => IdKind::Number,
            Self::Fingerprint(_) => IdKind::Fingerprint,
        }
    }

    /// # Errors
    /// [`RegistryError::Id`] when the text is none of this kind.
    pub fn of_kind(kind: IdKind, text: &str) -> Result<Self, RegistryError> {
        Self::parse(text)
            .filter(|id| id.kind() == kind)
            .ok_or_else(|| RegistryError::Id { id: text.chars().take(64).collect() })
    }
}

impl fmt::Display for SchemaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Guid(digits) => f.write_str(std::str::from_utf8(digits).expect("hex digits are ASCII")),
            Self::Number(number) => write!(f, "{number}"),
            Self::Fingerprint(bytes) => write!(f, "{:016x}", u64::from_be_bytes(*bytes)),
        }
    }
}

impl fmt::Debug for SchemaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SchemaId({self})")
    }
}

/// Signs a registry's requests.
#[async_trait]
pub trait TokenSource: Send + Sync {
    /// A bearer token for the scope `https://eventhubs.azure.net/.default`; whoever implements it caches and renews it.
    ///
    /// # Errors
    /// When no token can be had.
    async fn token(&self) -> Result<Secret, TokenError>;
}

/// No token can be had.
#[derive(Debug, Clone, thiserror::Error)]
#[error("no token can be had from Entra")]
pub struct TokenError(#[source] pub Arc<dyn std::error::Error + Send + Sync>);

/// Why a registry gave no schema. Clonable: all who asked for one id get the same answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RegistryError {
    #[error("the registry has no schema `{id}`")]
    NotFound { id: String },
    #[error("`{id}` is no schema id")]
    Id { id: String },
    #[error("the schema `{id}` refers to version {version} of `{subject}`, which the registry doesn't have")]
    Reference { id: String, subject: String, version: i64 },
    #[error("the schema `{id}` can't be used: {reason}")]
    Unusable { id: String, reason: String },
    #[error("the schemas in `{}` can't be read", path.display())]
    Folder {
        path: PathBuf,
        #[source]
        source: Arc<std::io::Error>,
    },
    #[error("the folder of schemas `{}` can't be read again", path.display())]
    ReadAgain {
        path: PathBuf,
        #[source]
        source: Arc<RegistryError>,
    },
    #[error("the schema `{}` can't be used: {reason}", path.display())]
    File { path: PathBuf, reason: String },
    #[error("the registry's endpoint `{endpoint}` can't be used: {reason}")]
    Endpoint { endpoint: String, reason: &'static str },
    #[error("the registry `{endpoint}` can't be asked over TLS from this machine")]
    Client {
        endpoint: String,
        #[source]
        source: Arc<reqwest::Error>,
    },
    #[error("the registry `{endpoint}` refused the sign-in (HTTP {status})")]
    Denied { endpoint: String, status: u16 },
    #[error("the registry `{endpoint}` is throttling (HTTP 429)")]
    Throttled { endpoint: String },
    #[error("the registry `{endpoint}` answered HTTP {status}")]
    Status { endpoint: String, status: u16 },
    #[error("the registry `{endpoint}` gave no answer within {} s", within.as_secs())]
    Timeout {
        endpoint: String,
        within: Duration,
        #[source]
        source: Arc<reqwest::Error>,
    },
    #[error("the registry `{endpoint}` can't be reached")]
    Unreachable {
        endpoint: String,
        #[source]
        source: Arc<reqwest::Error>,
    },
    #[error("the registry has no `{subject}`")]
    NoSubject { subject: String },
    #[error("`{subject}` can't be a subject here: {reason}")]
    Subject { subject: String, reason: &'static str },
    #[error("the registry `{endpoint}` refused the schema (HTTP {status}): {why}")]
    Refused { endpoint: String, status: u16, why: String },
    #[error("the schema `{id}` has more than {limit} bytes")]
    TooLarge { id: String, limit: usize },
    #[error("the registry `{endpoint}` answered with something that is no schema")]
    NotASchema { endpoint: String },
    #[error("the registry `{endpoint}` can't be signed in to")]
    Token {
        endpoint: String,
        #[source]
        source: TokenError,
    },
}

impl RegistryError {
    /// What an HTTP status means that is no answer.
    fn of_status(endpoint: String, status: StatusCode) -> Self {
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Self::Denied { endpoint, status: status.as_u16() },
            StatusCode::TOO_MANY_REQUESTS => Self::Throttled { endpoint },
            status => Self::Status { endpoint, status: status.as_u16() },
        }
    }
}

impl Classify for RegistryError {
    fn kind(&self) -> Kind {
        match self {
            Self::NotFound { .. } | Self::Id { .. } | Self::Reference { .. } | Self::Unusable { .. } => Kind::Data,
            Self::NoSubject { .. } | Self::Subject { .. } | Self::Refused { .. } => Kind::User,
            Self::Endpoint { .. } | Self::Client { .. } | Self::File { .. } => Kind::Config,
            _ => Kind::External,
        }
    }

    fn retry(&self) -> Retry {
        match self.kind() {
            Kind::External => Retry::Backoff,
            _ => Retry::Never,
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::NotFound { .. } | Self::Id { .. } | Self::Reference { .. } | Self::Unusable { .. } => return None,
            Self::NoSubject { .. } => {
                "`sluice schema list` names those there are; of Azure's registry a subject is `group/name`"
            }
            Self::Subject { .. } | Self::Refused { .. } => return None,
            Self::Folder { .. } | Self::ReadAgain { .. } | Self::File { .. } => {
                "`[registry.folder] path` is a folder of `.avsc` files; it is read at the start, and again for a schema \
                 that isn't known"
            }
            Self::Endpoint { .. } => {
                "`[registry.azure] endpoint` is `https://<namespace>.servicebus.windows.net`, and `[registry.confluent] \
                 url` begins with `https://` too"
            }
            Self::Client { .. } => "install the system's root certificates (`ca-certificates`), or set `SSL_CERT_FILE`",
            Self::Denied { .. } => {
                "give the identity the role `Schema Registry Reader` on the namespace or the schema group; of a \
                 Confluent registry check `username` and `password`"
            }
            Self::Throttled { .. } => "its tier limits requests; it is asked again, and each schema only once",
            Self::Status { .. } => {
                "it is asked again; if it stays, see the registry's health, and the address under `[registry]`"
            }
            Self::Timeout { .. } | Self::Unreachable { .. } => {
                "check the address under `[registry]`, the network and, with a certificate authority of your own, \
                 `SSL_CERT_FILE`"
            }
            Self::TooLarge { .. } | Self::NotASchema { .. } => {
                "something other than a schema registry may answer there: check the address under `[registry]`, and \
                 proxies on the way"
            }
            Self::Token { .. } => "check the sign-in under `[registry.azure]`",
        };
        Some(hint.to_owned())
    }
}
