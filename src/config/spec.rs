//! The declarations of a project, typed and defaulted: what every other stage works from.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use chrono::{DateTime, Utc};

pub use super::transform_spec::{
    Declaration, Dedupe, Expectation, LARGEST_SQL_BYTES, Mode, OnViolation, SkippedVersion, TransformSpec, Trigger,
};

use super::capture_name::NameTemplate;
use super::cron::Cron;
use super::problem::Place;

/// A value that is never printed: not by `Debug`, not in an error, not in a log.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// The value itself, for the one call that needs it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// A whole project: `sluice.toml` and every file under `pipelines/`.
#[derive(Debug, Clone)]
pub struct ProjectSpec {
    /// Where `sluice.toml` lies; relative paths start here.
    pub dir: PathBuf,
    pub name: String,
    pub teams: Vec<String>,
    pub lake: LakeSpec,
    pub state: StateSpec,
    pub storage_azure: Option<AzureStorageSpec>,
    pub event_hubs: Option<EventHubsSpec>,
    pub registry: Option<RegistrySpec>,
    pub serve: ServeSpec,
    pub webhook: Option<WebhookSpec>,
    pub shutdown: ShutdownSpec,
    /// What holds for tables that say nothing else.
    pub maintenance: MaintenanceSpec,
    /// In the order of their files.
    pub pipelines: Vec<PipelineSpec>,
    /// In the order of their files, and as they stand in them.
    pub transforms: Vec<TransformSpec>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LakeSpec {
    /// An absolute folder, or `abfss://…`, `az://…`; made absolute against the project's folder.
    pub url: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateSpec {
    /// Default `<lake>/_sluice`.
    pub url: String,
}

/// The HTTP server of `sluice run`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServeSpec {
    /// Default `127.0.0.1:8080`; port 0 picks a free one.
    pub address: SocketAddr,
}

/// Who may announce captures to `sluice run`; one of the two at least.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebhookSpec {
    /// Each will do; of 16 bytes or more.
    pub secrets: Vec<Secret>,
    pub entra: Option<WebhookEntraSpec>,
}

/// What a token of Event Grid must say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebhookEntraSpec {
    pub tenant_id: String,
    pub audience: String,
    /// Default: that of Event Grid.
    pub client_id: String,
    /// Default: that of the public cloud; plain `http` on loopback alone.
    pub authority: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShutdownSpec {
    /// Default 30 s: how long a stop waits for what was read to be committed.
    pub deadline: Duration,
}

/// Access to Azure storage; without key and SAS: Entra.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AzureStorageSpec {
    pub account_name: Option<String>,
    pub account_key: Option<Secret>,
    pub sas_token: Option<Secret>,
    /// Another blob endpoint than the public one; plain `http` on loopback alone.
    pub endpoint: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventHubsSpec {
    pub access: EventHubsAccess,
    /// The source id's first half, where the address doesn't give it.
    pub id: Option<String>,
    /// Another AMQP endpoint than the namespace's own, `amqps://host:port` (`amqp://` on loopback alone).
    pub endpoint: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EventHubsAccess {
    ConnectionString(Secret),
    /// Fully qualified namespace, with an Entra sign-in.
    Namespace {
        namespace: String,
        credential: CredentialSpec,
    },
}

/// How to sign in with Entra.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum CredentialSpec {
    /// Workload identity where its variables are set, else managed identity, else developer tools.
    #[default]
    Default,
    ManagedIdentity {
        client_id: Option<String>,
    },
    WorkloadIdentity,
    ClientSecret {
        tenant_id: String,
        client_id: String,
        client_secret: Secret,
    },
    DeveloperTools,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RegistrySpec {
    /// Azure Schema Registry; plain `http` endpoints on loopback alone, and without a credential there.
    Azure { endpoint: String, credential: CredentialSpec },
    /// A Confluent-compatible registry; plain `http` on loopback alone.
    Confluent {
        url: String,
        /// User name and password, or key and secret of an API.
        credential: Option<(String, Secret)>,
    },
    /// An absolute folder of `.avsc` files.
    Folder { path: PathBuf },
}

#[derive(Debug, Clone)]
pub struct PipelineSpec {
    /// The file that declares it, relative to the project's folder.
    pub file: PathBuf,
    pub name: String,
    pub owner: String,
    pub source: EventHubsSourceSpec,
    /// Whether the hub is read; else its captures alone are, and it isn't asked anything.
    pub is_live: bool,
    /// Where Event Hubs Capture keeps the same events.
    pub capture: Option<CaptureSpec>,
    pub decode: DecodeSpec,
    pub evolution: EvolutionSpec,
    /// Takes what no route takes.
    pub sink: SinkSpec,
    /// Tried in this order.
    pub routes: Vec<RouteSpec>,
    /// The further tables that routes name, each once.
    pub routed_sinks: Vec<SinkSpec>,
    /// When its captures are backfilled.
    pub schedule: Option<ScheduleSpec>,
    /// Hex SHA-256 over what decides the rows: source, decode and sink, without secrets.
    pub config_hash: String,
}

impl PipelineSpec {
    /// Every table that it writes; that of `[sink]` comes first.
    pub fn sinks(&self) -> impl Iterator<Item = &SinkSpec> {
        std::iter::once(&self.sink).chain(&self.routed_sinks)
    }

    pub fn writes(&self, table: &TableName) -> bool {
        self.sinks().any(|sink| sink.table == *table)
    }
}

/// Some of the events, and where they go.
#[derive(Debug, Clone, PartialEq)]
pub struct RouteSpec {
    pub when: RouteCondition,
    pub to: RouteTo,
}

/// What must hold of an event, all of it; nothing said holds for each.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RouteCondition {
    /// The full name of the Avro record.
    pub schema: Option<String>,
    /// The type of the CloudEvent; `*` stands for any characters.
    pub event_type: Option<String>,
    /// Name and value of a property.
    pub property: Option<(String, String)>,
    pub predicate: Option<Predicate>,
}

/// SQL over the columns of the envelope.
#[derive(Clone)]
pub struct Predicate {
    pub text: String,
    /// Where it is declared.
    pub place: Place,
}

impl PartialEq for Predicate {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Predicate {}

impl fmt::Debug for Predicate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} at {}", self.text, self.place)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RouteTo {
    Table(TableName),
    /// Nowhere, as a rule says.
    Filter,
    /// To the dead letters of `[sink]`.
    Reject,
}

#[derive(Debug, Clone, PartialEq)]
pub struct EventHubsSourceSpec {
    pub hub: String,
    /// Default `$Default`.
    pub consumer_group: String,
    /// Default `earliest`.
    pub start: Start,
    /// Default true; false for hubs with log compaction, whose numbers have holes.
    pub dense: bool,
    pub generation: Option<GenerationSpec>,
    /// The hub's retention, for `seconds_to_data_loss`: the service doesn't tell it.
    pub retention: Option<Duration>,
    pub max_events_per_second: Option<u32>,
    /// Where the official SDKs' checkpoint blobs lie, to take over from and to publish to.
    pub checkpoint_store: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    Earliest,
    Latest,
    SequenceNumber(i64),
    EnqueuedAt(DateTime<Utc>),
    /// With the oldest event that Capture has.
    Capture,
}

/// The blobs that Event Hubs Capture writes of a hub.
#[derive(Debug, Clone)]
pub struct CaptureSpec {
    /// An absolute folder, or `abfss://…`, `az://…`.
    pub url: String,
    /// Default: as Capture names blobs unless told otherwise.
    pub template: NameTemplate,
    /// What names have for the namespace and the hub; compared without case.
    pub namespace: String,
    pub hub: String,
    /// Default 1 h: how often the blobs are listed.
    pub sweep_every: Duration,
    /// The queue that announces blobs.
    pub queue: Option<String>,
}

/// When captures are backfilled, and how much of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScheduleSpec {
    pub cron: Cron,
    /// How far back a run looks; none means to the first blob.
    pub window: Option<Duration>,
}

/// A hub that was made anew counts again from elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GenerationSpec {
    pub name: String,
    pub since: DateTime<Utc>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DecodeSpec {
    pub format: Format,
    /// The pinned reader schema: an `.avsc` file, absolute.
    pub schema: Option<PathBuf>,
    /// Schemas whose fields the table has from the start: `.avsc` files, absolute.
    pub columns_from: Vec<PathBuf>,
    pub framing: Framing,
    /// Attributes of CloudEvents without which an event is rejected.
    pub require: Vec<Attribute>,
}

/// How a table meets schemas that it doesn't know yet. Declared in `[decode]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EvolutionSpec {
    pub on_schema_change: OnSchemaChange,
    /// Whether a field that a writer lacks takes its default; null otherwise.
    pub defaults: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnSchemaChange {
    /// A new field becomes a column.
    #[default]
    Evolve,
    /// The columns stay; what they can't hold goes to `_rescued`.
    Pin,
    /// The partition stops.
    Fail,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    #[default]
    Avro,
    /// By the pinned schema; without one the body stays text, in a column `body`.
    Json,
    /// The body stays bytes, in a column `body`.
    Raw,
}

/// The attributes of CloudEvents that the specification names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Attribute {
    Id,
    Source,
    SpecVersion,
    Type,
    Time,
    Subject,
    DataContentType,
    DataSchema,
}

impl Attribute {
    /// In the order of their numbers.
    pub const ALL: [Self; 8] = [
        Self::Id,
        Self::Source,
        Self::SpecVersion,
        Self::Type,
        Self::Time,
        Self::Subject,
        Self::DataContentType,
        Self::DataSchema,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Id => "id",
            Self::Source => "source",
            Self::SpecVersion => "specversion",
            Self::Type => "type",
            Self::Time => "time",
            Self::Subject => "subject",
            Self::DataContentType => "datacontenttype",
            Self::DataSchema => "dataschema",
        }
    }

    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|attribute| attribute.as_str() == name)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Framing {
    /// The first that fits, in the order in which they stand here.
    #[default]
    Auto,
    ContentType,
    /// The preamble of the betas of Azure's encoders.
    Preamble,
    Confluent,
    Container,
    SingleObject,
    Bare,
    /// CloudEvents in structured mode; their data is told as by `auto`.
    CloudEvents,
    /// JSON, whatever the content type says.
    Json,
}

#[derive(Debug, Clone, PartialEq)]
pub struct SinkSpec {
    pub table: TableName,
    /// Default 10 s.
    pub commit_every: Duration,
    /// Default 128 MiB of bodies as they lie in memory.
    pub commit_bytes: ByteSize,
    /// Default 128 MiB: what was read and not yet committed, over the whole pipeline.
    pub max_in_flight_bytes: ByteSize,
    /// Default 5 min: how often coverage without rows is committed.
    pub coverage_every: Duration,
    pub maintenance: MaintenanceSpec,
    /// How long the bytes of dead letters are kept; none means for good.
    pub dead_letters_retention: Option<Duration>,
    /// Which share of rejects stops a partition; none means that none does.
    pub reject_limit: Option<RejectLimit>,
}

/// How a table is kept quick to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MaintenanceSpec {
    /// Default true: `sluice run` does it by itself.
    pub enabled: bool,
    /// Default 1 h.
    pub every: Duration,
    /// Default true.
    pub compact: bool,
    /// Default 128 MiB.
    pub target_file_bytes: ByteSize,
    /// Default 8: so many small files of a partition are rewritten.
    pub min_files: usize,
    /// Default 256 MiB: what a compaction holds.
    pub memory: ByteSize,
    /// Default 100 versions.
    pub checkpoint_every: u64,
    /// Default true.
    pub clean_log: bool,
    /// Default 30 days, at least 7.
    pub log_retention: Duration,
    /// Default true.
    pub vacuum: bool,
    /// Default 7 days; at most `log_retention`, and shorter than 7 days only where that was asked for as unsafe.
    pub vacuum_after: Duration,
}

/// More rejects than this and a partition stops: something is wrong with more than single events.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RejectLimit {
    /// Of the events within the window: above 0, at most 1.
    pub share: f64,
    /// Default 5 min.
    pub window: Duration,
    /// Default 100: of fewer events no share is told.
    pub min_events: u64,
}

/// The schema of sluice's own tables, which no pipeline writes.
pub const OWN_SCHEMA: &str = "sluice";

/// What the name of a table may not end in: such tables stand beside the one that they belong to.
pub const SIDE_TABLES: [(&str, &str); 3] = [
    ("__dead_letters", "what could not become a row"),
    ("__quarantine", "rows that violate an expectation"),
    ("__deleted", "the keys that a transform has deleted"),
];

/// `<schema>.<table>`, as in `bronze.leads`: lower case letters, digits, underscores.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TableName {
    pub schema: String,
    pub table: String,
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.schema, self.table)
    }
}

impl std::str::FromStr for TableName {
    type Err = String;

    /// # Errors
    /// Words for the user when the text isn't two names joined by a point.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || format!("table `{text}` is not of the form `schema.table`, as in `bronze.leads`");
        let (schema, table) = text.split_once('.').ok_or_else(wrong)?;
        let fits = |name: &str| {
            name.starts_with(|c: char| c.is_ascii_lowercase())
                && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
        };
        if !fits(schema) || !fits(table) {
            return Err(wrong());
        }
        Ok(Self { schema: schema.to_owned(), table: table.to_owned() })
    }
}
