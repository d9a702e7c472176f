//! The emulator as a whole: broker, registry and control API, with one set of keys and certificates.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::announce::{AnnounceOptions, Announcer, Announcing};
use super::capture::{Capture, CaptureOptions};
use super::certificates::{CertificateError, Certificates};
use super::control::{Control, ControlError, ControlOptions};
use super::registry::{Registry, RegistryError, RegistryOptions};
use super::{Broker, BrokerError, BrokerOptions, HubSpec, Retention};
use crate::config::spec::Secret;
use crate::error::{Classify, Kind, Retry};
use crate::storage::StorageError;

/// What connection strings name where no key is demanded; Microsoft's emulator has the same.
const ANY_KEY: (&str, &str) = ("RootManageSharedAccessKey", "SAS_KEY_VALUE");

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Transport {
    #[default]
    Plain,
    /// AMQP and registry over TLS, by certificates made on the spot. The control API stays plain:
    /// it is no part of Azure, and the token endpoint is plain on Azure too.
    Tls,
}

/// How an emulator is started; the default listens on free ports, plain, in memory, without hubs.
#[derive(Debug, Clone)]
pub struct EmulatorOptions {
    pub namespace: String,
    pub hubs: Vec<HubSpec>,
    /// Each port may be 0, which picks a free one.
    pub port: u16,
    pub registry_port: u16,
    pub control_port: u16,
    /// Where events, schemas and certificates outlive a restart.
    pub dir: Option<PathBuf>,
    pub transport: Transport,
    pub retention: Retention,
    /// Shared access keys. Without any, every key and token is accepted; with them, only these
    /// and the tokens of the token endpoint.
    pub keys: Vec<(String, Secret)>,
    /// Where Capture writes, where it is on.
    pub capture: Option<CaptureOptions>,
    /// Who is told of its blobs.
    pub announce: Option<AnnounceOptions>,
}

impl Default for EmulatorOptions {
    fn default() -> Self {
        Self {
            namespace: BrokerOptions::default().namespace,
            hubs: Vec::new(),
            port: 0,
            registry_port: 0,
            control_port: 0,
            dir: None,
            transport: Transport::default(),
            retention: Retention::default(),
            keys: Vec::new(),
            capture: None,
            announce: None,
        }
    }
}

/// Where everything listens.
#[derive(Debug, Clone)]
pub struct Addresses {
    /// `amqp://127.0.0.1:PORT`, or `amqps://localhost:PORT`.
    pub event_hubs: String,
    pub connection_string: Secret,
    pub schema_registry: String,
    pub control: String,
    /// For `IDENTITY_ENDPOINT`; any `IDENTITY_HEADER` will do.
    pub identity_endpoint: String,
    /// For `SSL_CERT_FILE`, with [`Transport::Tls`].
    pub ca_file: Option<PathBuf>,
}

/// Azure on this machine; dropped, it ends at once.
pub struct Emulator {
    broker: Broker,
    registry: Arc<Registry>,
    control: Control,
    capture: Option<Capture>,
    announcing: Option<Arc<Announcing>>,
    addresses: Addresses,
    hubs: Vec<HubSpec>,
    /// Where the authority's file lies when there is no folder to keep it.
    passing: Option<PassingFolder>,
}

impl Emulator {
    /// # Errors
    /// When a port is taken, a folder can't be used, or a hub can't be.
    pub async fn start(options: EmulatorOptions) -> Result<Self, EmulatorError> {
        let token = token(&options.keys);
        let (certificates, ca_file, passing) = certificates(&options)?;
        let tls = certificates.as_ref().map(Certificates::server);
        let guarded = !options.keys.is_empty();
        let within = |name: &str| options.dir.as_ref().map(|dir| dir.join(name));
        let broker = Broker::start(BrokerOptions {
            namespace: options.namespace.clone(),
            hubs: options.hubs.clone(),
            port: options.port,
            dir: within("event-hubs"),
            tls: tls.clone(),
            retention: options.retention,
            keys: options.keys.iter().map(|(name, key)| (name.clone(), key.reveal().to_owned())).collect(),
            bearer_tokens: if guarded { vec![token.reveal().to_owned()] } else { Vec::new() },
            ..BrokerOptions::default()
        })
        .await?;
        let registry = Registry::start(RegistryOptions {
            port: options.registry_port,
            dir: within("registry"),
            tls,
            bearer_tokens: if guarded { vec![token.clone()] } else { Vec::new() },
            groups: Vec::new(),
        })
        .await
        .map(Arc::new)?;
        let announcing = options.announce.map(Announcing::start).transpose().map_err(EmulatorError::Announce)?;
        let (announcing, announcer) = match announcing {
            Some((announcing, announcer)) => (Some(Arc::new(announcing)), announcer),
            None => (None, Announcer::default()),
        };
        let control = Control::start(ControlOptions {
            port: options.control_port,
            token,
            broker: broker.clone(),
            registry: Arc::clone(&registry),
            announcing: announcing.clone(),
        })
        .await?;
        let port = broker.address().port();
        let addresses = Addresses {
            event_hubs: match options.transport {
                Transport::Plain => format!("amqp://127.0.0.1:{port}"),
                Transport::Tls => format!("amqps://localhost:{port}"),
            },
            connection_string: connection_string(&options.keys, options.transport, port),
            schema_registry: registry.url(),
            control: control.url(),
            identity_endpoint: format!("{}/token", control.url()),
            ca_file,
        };
        let capture = options.capture.map(|capture| Capture::start(capture, broker.clone(), announcer)).transpose()?;
        Ok(Self { broker, registry, control, capture, announcing, addresses, hubs: options.hubs, passing })
    }

    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// The hubs that it was started with.
    pub fn hubs(&self) -> &[HubSpec] {
        &self.hubs
    }

    pub fn broker(&self) -> &Broker {
        &self.broker
    }

    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Answers what is under way, writes what is kept, and ends.
    pub async fn stop(self) {
        let Self { broker, registry, control, capture, announcing, passing, .. } = self;
        control.stop().await;
        broker.stop().await;
        if let Some(capture) = capture {
            capture.stop().await;
        }
        if let Some(announcing) = announcing {
            announcing.stop().await;
        }
        registry.stop().await;
        drop(passing);
    }
}

impl fmt::Debug for Emulator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Emulator").field("addresses", &self.addresses).finish_non_exhaustive()
    }
}

/// What the token endpoint hands out. It follows from the keys, so that clients which keep a token
/// for an hour, as the official ones do, outlive a restart of the emulator.
fn token(keys: &[(String, Secret)]) -> Secret {
    let mut hash = Sha256::new();
    hash.update("sluicebox emulator token");
    for (name, key) in keys {
        hash.update(name.len().to_be_bytes());
        hash.update(name);
        hash.update(key.reveal());
    }
    let digits: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    Secret::new(format!("emulator.{digits}"))
}

type Served = (Option<Certificates>, Option<PathBuf>, Option<PassingFolder>);

fn certificates(options: &EmulatorOptions) -> Result<Served, EmulatorError> {
    match (options.transport, &options.dir) {
        (Transport::Plain, _) => Ok((None, None, None)),
        (Transport::Tls, Some(dir)) => {
            let dir = dir.join("tls");
            let certificates = Certificates::open(&dir)?;
            Ok((Some(certificates), Some(absolute(&dir)?.join("ca.pem")), None))
        }
        (Transport::Tls, None) => {
            let certificates = Certificates::make()?;
            let folder = PassingFolder::make()?;
            let file = folder.0.join("ca.pem");
            certificates.write_ca(&file)?;
            Ok((Some(certificates), Some(file), Some(folder)))
        }
    }
}

fn absolute(path: &Path) -> Result<PathBuf, EmulatorError> {
    std::path::absolute(path).map_err(|source| EmulatorError::Folder { path: path.to_owned(), source })
}

/// The form of Azure's own; `UseDevelopmentEmulator=true` tells every official client to speak plain AMQP.
fn connection_string(keys: &[(String, Secret)], transport: Transport, port: u16) -> Secret {
    let (name, key) = match keys.first() {
        Some((name, key)) => (name.as_str(), key.reveal()),
        None => ANY_KEY,
    };
    let plain = match transport {
        Transport::Plain => "UseDevelopmentEmulator=true;",
        Transport::Tls => "",
    };
    Secret::new(format!("Endpoint=sb://localhost:{port};SharedAccessKeyName={name};SharedAccessKey={key};{plain}"))
}

/// A folder that ends with its owner.
struct PassingFolder(PathBuf);

impl PassingFolder {
    fn make() -> Result<Self, EmulatorError> {
        let path = std::env::temp_dir().join(format!("sluice-emulator-{}", Uuid::new_v4()));
        std::fs::create_dir(&path).map_err(|source| EmulatorError::Folder { path: path.clone(), source })?;
        Ok(Self(path))
    }
}

impl Drop for PassingFolder {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::debug!(path = %self.0.display(), %error, "a passing folder stays behind");
        }
    }
}

/// Why there is no emulator.
#[derive(Debug, thiserror::Error)]
pub enum EmulatorError {
    #[error("the emulator's Event Hubs can't start")]
    Broker(#[from] BrokerError),
    #[error("the emulator's Schema Registry can't start")]
    Registry(#[from] RegistryError),
    #[error("the emulator's control API can't start")]
    Control(#[from] ControlError),
    #[error("the emulator can't capture")]
    Capture(#[from] StorageError),
    #[error("the emulator can't announce captures")]
    Announce(#[source] reqwest::Error),
    #[error("the emulator can't speak TLS")]
    Certificates(#[from] CertificateError),
    #[error("the emulator can't use `{}`", path.display())]
    Folder {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl EmulatorError {
    fn cause(&self) -> Option<&dyn Classify> {
        match self {
            Self::Broker(error) => Some(error),
            Self::Registry(error) => Some(error),
            Self::Control(error) => Some(error),
            Self::Capture(error) => Some(error),
            Self::Certificates(error) => Some(error),
            Self::Announce(_) | Self::Folder { .. } => None,
        }
    }
}

impl Classify for EmulatorError {
    fn kind(&self) -> Kind {
        self.cause().map_or(Kind::User, Classify::kind)
    }

    fn retry(&self) -> Retry {
        self.cause().map_or(Retry::Never, Classify::retry)
    }

    fn hint(&self) -> Option<String> {
        self.cause().and_then(Classify::hint)
    }
}
