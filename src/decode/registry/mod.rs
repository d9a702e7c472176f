//! Schemas by id. Ids are immutable, so what was seen once is kept for good.

mod azure;
mod disk;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

pub use azure::AzureRegistry;

use crate::config::spec::Secret;
use crate::error::{Classify, Kind, Retry};

/// Where schemas come from.
///
/// Asking again is cheap: an implementation caches what it found, and several who ask for one
/// unknown id at the same time cause one request.
#[async_trait]
pub trait SchemaRegistry: Send + Sync {
    /// # Errors
    /// [`RegistryError::NotFound`] when the registry says that it has no such schema; anything else
    /// means that it couldn't be asked.
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

/// The id of a schema in an Azure Schema Registry: 32 lower-case hex digits, and so safe in a path
/// and in a URL. Copied for each event, so it owns no memory elsewhere.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SchemaId([u8; 32]);

impl SchemaId {
    /// `None` unless the text is 32 hex digits; upper case is made lower.
    pub fn parse(text: &str) -> Option<Self> {
        let mut digits: [u8; 32] = text.as_bytes().try_into().ok()?;
        digits.make_ascii_lowercase();
        digits.iter().all(u8::is_ascii_hexdigit).then_some(Self(digits))
    }

    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("hex digits are ASCII")
    }
}

impl fmt::Display for SchemaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
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

impl Classify for RegistryError {
    fn kind(&self) -> Kind {
        match self {
            Self::NotFound { .. } | Self::Id { .. } => Kind::Data,
            Self::Endpoint { .. } | Self::Client { .. } => Kind::Config,
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
            Self::NotFound { .. } | Self::Id { .. } => return None,
            Self::Endpoint { .. } => "`[registry.azure] endpoint` is `https://<namespace>.servicebus.windows.net`",
            Self::Client { .. } => "install the system's root certificates (`ca-certificates`), or set `SSL_CERT_FILE`",
            Self::Denied { .. } => {
                "give the identity the role `Schema Registry Reader` on the namespace or the schema group"
            }
            Self::Throttled { .. } => {
                "the namespace's tier limits requests; it is asked again, and each schema only once"
            }
            Self::Status { .. } => "it is asked again; see the namespace's health in the portal if it stays",
            Self::Timeout { .. } | Self::Unreachable { .. } => {
                "check `[registry.azure] endpoint`, the network and, with a certificate authority of your own, `SSL_CERT_FILE`"
            }
            Self::TooLarge { .. } | Self::NotASchema { .. } => {
                "something other than a Schema Registry may answer there: check `[registry.azure] endpoint`, and proxies on the way"
            }
            Self::Token { .. } => "check the sign-in under `[registry.azure]`",
        };
        Some(hint.to_owned())
    }
}
