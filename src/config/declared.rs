//! The files as they are written: every key, with the words of the user's manual.
//!
//! The JSON Schemas, the reference in `docs/configuration.md` and the check of every file's
//! shape are all made from these types, so a key that is missing here exists nowhere. Every
//! field is optional to serde: what is required is said to the schema, and a file is read as
//! far as it goes, so that all of its mistakes are found in one run.

mod route;

use schemars::JsonSchema;
use serde::Deserialize;

mod test;
mod transform;

pub(super) use self::route::{PropertyTable, RouteTable};
use super::capture_name;
use super::maintenance::MaintenanceTable;
use super::text::{
    AddressText, CronText, DurationText, NameText, PathText, SizeText, TableText, TimeText, Unsupported, UrlText,
};
pub(super) use test::{Batching, ExpectedTable, GivenTable, TestFile, TestTable};
pub(super) use transform::{
    DEDUPE_WITHIN, EVERY, ExpectTable, Mode as TransformMode, OnViolation as OnViolationWord, TransformTable,
};

pub(super) const CONSUMER_GROUP: &str = "$Default";
pub(super) const COMMIT_EVERY: &str = "10s";
pub(super) const COMMIT_BYTES: &str = "128MiB";
pub(super) const MAX_IN_FLIGHT_BYTES: &str = "128MiB";
pub(super) const COVERAGE_EVERY: &str = "5min";
pub(super) const REJECT_SHARE_WINDOW: &str = "5min";
pub(super) const REJECT_SHARE_MIN_EVENTS: u64 = 100;
pub(super) const SWEEP_EVERY: &str = "1h";
pub(super) const SERVE_ADDRESS: &str = "127.0.0.1:8080";
/// The app that Event Grid signs in as, in every tenant of the public cloud.
pub(super) const EVENT_GRID_APP: &str = "4962773b-9cdb-44cf-a8bf-237846a00ab7";
pub(super) const ENTRA_AUTHORITY: &str = "https://login.microsoftonline.com";
pub(super) const SHUTDOWN_DEADLINE: &str = "30s";

/// `sluice.toml` at the root of a project: what all of its pipelines share.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ProjectFile {
    #[schemars(required)]
    pub project: Option<ProjectTable>,
    #[schemars(required)]
    pub lake: Option<LakeTable>,
    pub state: Option<StateTable>,
    pub storage: Option<StorageTable>,
    pub event_hubs: Option<EventHubsTable>,
    pub registry: Option<RegistryTable>,
    pub serve: Option<ServeTable>,
    pub webhook: Option<WebhookTable>,
    pub shutdown: Option<ShutdownTable>,
    pub maintenance: Option<MaintenanceTable>,
}

/// The project itself.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ProjectTable {
    /// The name of the project.
    #[schemars(required)]
    pub name: Option<NameText>,
    /// The teams that may own pipelines: the `owner` of a pipeline must be one of them.
    #[schemars(required)]
    pub teams: Option<Vec<NameText>>,
}

/// Where the tables are.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct LakeTable {
    /// A folder, relative to the project's, or `abfss://container@account.dfs.core.windows.net/path`, or
    /// `az://container/path` in the account of `[storage.azure]`. The table `bronze.leads` is the folder
    /// `bronze/leads` in it.
    #[schemars(required)]
    pub url: Option<UrlText>,
}

/// Where what isn't a table is kept: ownership, indexes, cached schemas.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct StateTable {
    /// A folder or a URL, as for the lake. Everything in it can be made again.
    #[schemars(extend("x-default-words" = "`_sluice` in the lake"))]
    pub url: Option<UrlText>,
}

/// Access to the places where lake, state and checkpoints are.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct StorageTable {
    pub azure: Option<AzureStorageTable>,
}

/// Azure storage. With neither `account_key` nor `sas_token`: sign-in with Entra.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct AzureStorageTable {
    /// The storage account; `az://` URLs need it, `abfss://` URLs name their own.
    pub account_name: Option<String>,
    /// One of the account's two keys.
    pub account_key: Option<String>,
    /// A shared access signature, in place of a key.
    pub sas_token: Option<String>,
    /// Another blob endpoint than the public one, with the account's name as its path, as Azurite has it:
    /// `http://127.0.0.1:10000/devstoreaccount1`. Plain `http` on loopback alone.
    pub endpoint: Option<UrlText>,
}

/// The Event Hubs namespace. Exactly one of `connection_string` and `namespace`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct EventHubsTable {
    /// A connection string, with a key or a signature: `Endpoint=sb://…;SharedAccessKeyName=…;SharedAccessKey=…`.
    /// `UseDevelopmentEmulator=true` in it means plaintext, and works on loopback alone.
    pub connection_string: Option<String>,
    /// The namespace's host, `insurer.servicebus.windows.net`, with an Entra sign-in.
    pub namespace: Option<String>,
    /// How to sign in at `namespace`.
    pub credential: Option<Credential>,
    /// The first half of the source id, where the address doesn't give it: an alias, a private name, loopback.
    /// The ledger holds it for ever, so it must not change.
    #[schemars(extend("x-default-words" = "the first label of the namespace; `emulator` on loopback"))]
    pub id: Option<NameText>,
    /// Another AMQP endpoint than the namespace's own: `amqps://host:port`; plain `amqp://` on loopback alone.
    pub endpoint: Option<UrlText>,
}

/// How to sign in with Entra: one of the words, or a table for what needs more.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub(super) enum Credential {
    Word(CredentialWord),
    Table(Box<CredentialTable>),
}

#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum CredentialWord {
    /// Workload identity where its variables are set, else managed identity, else developer tools.
    Default,
    /// The machine's own identity.
    ManagedIdentity,
    /// The identity that Kubernetes gives the pod.
    WorkloadIdentity,
    /// Whoever is signed in with the Azure CLI or the Azure Developer CLI.
    DeveloperTools,
}

/// Exactly one of the two tables.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct CredentialTable {
    pub managed_identity: Option<ManagedIdentityTable>,
    pub client_secret: Option<ClientSecretTable>,
}

/// A user-assigned managed identity.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ManagedIdentityTable {
    /// The identity's client id.
    #[schemars(required)]
    pub client_id: Option<String>,
}

/// An app registration with a secret.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ClientSecretTable {
    /// The Entra tenant.
    #[schemars(required)]
    pub tenant_id: Option<String>,
    /// The app's id.
    #[schemars(required)]
    pub client_id: Option<String>,
    /// The app's secret.
    #[schemars(required)]
    pub client_secret: Option<String>,
}

/// Where the schemas of events are looked up: one of the tables in it.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RegistryTable {
    pub azure: Option<AzureRegistryTable>,
    pub confluent: Option<ConfluentRegistryTable>,
    pub folder: Option<FolderRegistryTable>,
}

/// Azure Schema Registry.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct AzureRegistryTable {
    /// `https://` and the namespace's host; plain `http` on loopback alone.
    #[schemars(required)]
    pub endpoint: Option<UrlText>,
    /// How to sign in.
    #[schemars(extend("x-default-words" = "as `[event_hubs]` does"))]
    pub credential: Option<Credential>,
}

/// A registry that speaks Confluent's REST.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ConfluentRegistryTable {
    /// Its address; plain `http` on loopback alone.
    #[schemars(required)]
    pub url: Option<UrlText>,
    /// The user name, or the key of an API.
    pub username: Option<String>,
    /// The password, or the secret of an API.
    pub password: Option<String>,
}

/// A folder of `.avsc` files, those of its folders too. Each schema is known by its fingerprint; and by an id of Azure
/// or of Confluent, where its file has that for a name: `b489dc4916744e3db72dda8f9693f342.avsc`, `42.avsc`. A
/// file may use the named types that other files define.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct FolderRegistryTable {
    /// The folder, relative to the project's. It is read at the start, and again for a schema that isn't known.
    #[schemars(required)]
    pub path: Option<PathText>,
}

/// The HTTP server of `sluice run`: health, metrics, and the webhook where there is one.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ServeTable {
    /// Address and port to listen on; port 0 picks a free one.
    #[schemars(extend("default" = SERVE_ADDRESS))]
    pub address: Option<AddressText>,
}

/// The webhook of `sluice run`, at `/eventgrid` on the address of `[serve]`: Event Grid says there what Capture wrote,
/// and pipelines that read captures alone read it at once. It is plain HTTP: whatever stands before it must speak
/// TLS, as Event Grid demands. Without a secret or a token nobody gets in, so at least one of `secret` and
/// `[webhook.entra]` must be there; where both are, either will do.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct WebhookTable {
    /// What a request must bring, 16 bytes or more: as `code` in the query of the subscription's URL,
    /// `https://host/eventgrid?code=…`, or as `Authorization: Bearer …`.
    pub secret: Option<String>,
    /// The secret before, taken as well, until every subscription has the new one.
    pub previous_secret: Option<String>,
    pub entra: Option<WebhookEntraTable>,
}

/// Event Grid signs in with Entra: the app registration of the webhook, as the subscription names it.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct WebhookEntraTable {
    /// The Entra tenant's id.
    #[schemars(required)]
    pub tenant_id: Option<String>,
    /// For whom tokens must be: the app's id, or its URI (`api://…`), as the subscription names it.
    #[schemars(required)]
    pub audience: Option<String>,
    /// Who may send: the client id in the token.
    #[schemars(extend("default" = EVENT_GRID_APP))]
    pub client_id: Option<String>,
    /// Where the tenant's keys are told; another one in sovereign clouds. Plain `http` on loopback alone.
    #[schemars(extend("default" = ENTRA_AUTHORITY))]
    pub authority: Option<UrlText>,
}

/// How the program stops.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ShutdownTable {
    /// How long SIGTERM and SIGINT wait for what was read to be committed. What isn't by then is read again
    /// after the next start.
    #[schemars(extend("default" = SHUTDOWN_DEADLINE))]
    pub deadline: Option<DurationText>,
}

/// A file under `pipelines/`: one pipeline, from a source to a table, and transforms; or transforms alone.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct PipelineFile {
    #[schemars(required)]
    pub pipeline: Option<PipelineTable>,
    #[schemars(required)]
    pub source: Option<SourceTable>,
    pub decode: Option<DecodeTable>,
    #[schemars(required)]
    pub sink: Option<SinkTable>,
    pub schedule: Option<ScheduleTable>,
    /// Tables made of tables, by SQL.
    #[serde(rename = "transform")]
    pub transforms: Option<Vec<TransformTable>>,
    #[serde(rename = "route")]
    pub routes: Option<Vec<RouteTable>>,
}

/// The pipeline itself.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct PipelineTable {
    /// The name of the pipeline, once in a project. It may change: the ledger doesn't hold it.
    #[schemars(required)]
    pub name: Option<NameText>,
    /// The team that answers for it: one of `teams` in `sluice.toml`.
    #[schemars(required)]
    pub owner: Option<NameText>,
}

/// Where events come from: a hub, read live; the blobs that Capture wrote of it; or both.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct SourceTable {
    pub event_hubs: Option<EventHubsSourceTable>,
    pub generation: Option<GenerationTable>,
    pub capture: Option<CaptureTable>,
    /// The Kafka endpoint of Event Hubs, or any Kafka.
    #[serde(rename = "kafka")]
    pub _kafka: Option<Unsupported>,
}

/// A hub of the namespace of `[event_hubs]` in `sluice.toml`, read live.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct EventHubsSourceTable {
    /// The name of the hub.
    #[schemars(required)]
    pub hub: Option<String>,
    /// The consumer group. Readers of one partition in one group take it from each other, so each pipeline
    /// that reads the hub needs its own.
    #[schemars(extend("default" = CONSUMER_GROUP))]
    pub consumer_group: Option<String>,
    /// Where a partition starts that neither the table's ledger nor a checkpoint knows; ever after, the ledger
    /// decides. `{ sequence_number = 42 }` is the first number that is read; `{ enqueued_at = 2026-01-01T00:00:00Z }`
    /// the time from which on.
    #[schemars(extend("default" = "earliest"))]
    pub start: Option<Start>,
    /// Whether sequence numbers have no holes. Say false for a hub with log compaction: audit can't prove
    /// absence there.
    #[schemars(extend("default" = true))]
    pub dense: Option<bool>,
    /// The hub's retention. The service doesn't tell it, and without it nobody can say how long unread events
    /// are still there (`seconds_to_data_loss`).
    pub retention: Option<DurationText>,
    /// Reads no faster than this: pipelines share the egress of their namespace.
    #[schemars(range(min = 1))]
    pub max_events_per_second: Option<u32>,
    /// Where checkpoint blobs in the layout of the official SDKs lie: `az://container/path`. A pipeline takes
    /// over from them where its ledger is empty, and publishes its own there for portals and lag tools.
    pub checkpoint_store: Option<UrlText>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub(super) enum Start {
    Word(StartWord),
    At(StartTable),
}

#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum StartWord {
    /// With the oldest event that the hub still has.
    Earliest,
    /// With what is enqueued from now on.
    Latest,
    /// With the oldest event that Capture has: what the hub no longer holds comes from its blobs, beside what
    /// it still holds.
    Capture,
}

/// Blobs that Event Hubs Capture wrote of a hub. Beside `[source.event_hubs]`: history for `sluice backfill`, and
/// what heals the holes that the hub's retention left. Alone: `sluice run` takes in what comes there, and asks
/// no hub.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct CaptureTable {
    /// The container or folder that Capture writes to: `abfss://container@account.dfs.core.windows.net`,
    /// `az://container`, or a folder.
    #[schemars(required)]
    pub url: Option<UrlText>,
    /// How blobs are named below it: all nine tokens, in any order. Capture adds `.avro`.
    #[schemars(extend("default" = capture_name::DEFAULT_TEMPLATE))]
    pub template: Option<String>,
    /// What stands for `{Namespace}` in the names.
    #[schemars(extend("x-default-words" = "the first half of the source id"))]
    pub namespace: Option<String>,
    /// What stands for `{EventHub}` in the names: the hub itself, where it isn't read live.
    #[schemars(extend("x-default-words" = "`hub` of `[source.event_hubs]`"))]
    pub hub: Option<String>,
    /// How often the blobs are listed: for what came, where they are read alone; for holes that couldn't be filled.
    #[schemars(extend("default" = SWEEP_EVERY))]
    pub sweep_every: Option<DurationText>,
    /// A Storage Queue to which Event Grid sends what Capture wrote: `https://account.queue.core.windows.net/queue`,
    /// with the sign-in of `[storage.azure]`. Blobs are read as they are announced; several pipelines of a project
    /// may share a queue. Plain `http` on loopback alone.
    pub queue: Option<UrlText>,
}

/// Exactly one of the two.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct StartTable {
    /// The first number to read.
    #[schemars(range(min = 0))]
    pub sequence_number: Option<i64>,
    /// The enqueued time from which on to read.
    pub enqueued_at: Option<TimeText>,
}

/// For a hub that was deleted and made anew, or failed over to another region: it counts again from
/// elsewhere, so its events belong to another generation than those before.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct GenerationTable {
    /// The name of this generation: it becomes part of the source id.
    #[schemars(required)]
    pub name: Option<NameText>,
    /// What was enqueued before belongs to the generation before.
    #[schemars(required)]
    pub since: Option<TimeText>,
}

/// How an event's body becomes columns.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct DecodeTable {
    #[schemars(extend("default" = "avro"))]
    pub format: Option<Format>,
    /// Pins the reader schema: an `.avsc` file, relative to the project's folder. Bare datums need it; JSON is read by it,
    /// and what of that it doesn't know goes to `_rescued`.
    pub schema: Option<PathText>,
    /// Schemas (`.avsc` files, relative to the project's folder) whose fields the table has from its first commit on, so that
    /// transforms can name them before the first event came, and `sluice check` knows them. A field that only a writer's
    /// schema has is still added as it comes. Not with `format = "json"`, whose columns are those of the pinned schema.
    pub columns_from: Option<Vec<PathText>>,
    /// How the schema of a body is told.
    #[schemars(extend("default" = "auto"))]
    pub framing: Option<Framing>,
    /// Attributes of CloudEvents without which an event is a dead letter, of the class `attribute`: those that are missing
    /// or malformed. What isn't named here is null then, and counted in `sluice_decode_attribute_faults_total`.
    pub require: Option<Vec<Attribute>>,
    /// What happens when the writers' schema changes. What a column can't hold, as a text where it holds numbers,
    /// goes to the column `_rescued` as JSON, whatever is said here, unless that is `fail`. Of JSON that is what the
    /// pinned schema has no field for.
    #[schemars(extend("default" = "evolve"))]
    pub on_schema_change: Option<OnSchemaChange>,
    /// Whether a field that a writer lacks takes the first default that the table has met of it; null otherwise.
    #[schemars(extend("default" = false))]
    pub defaults: Option<bool>,
}

#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Format {
    /// The body is Avro: a column for each field.
    Avro,
    /// The body is JSON: a column for each field of the pinned schema. Without one it stays as it is, as text in a
    /// column `body`.
    Json,
    /// The body stays bytes, in a column `body`.
    Raw,
}

#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Framing {
    /// CloudEvents in structured mode and JSON by their content type; else the first of these that fits, in this order. What only a registry of another kind could name isn't looked
    /// for; bare where a schema is pinned.
    Auto,
    /// The content type names the schema: `avro/binary+<schema id>`.
    ContentType,
    /// The preamble of the first Azure encoders: four zero bytes and the schema id, before the datum.
    Preamble,
    /// Confluent's serializers: a zero byte and the schema's number in four bytes, before the datum.
    Confluent,
    /// An Avro container: it has its own schema, and each of its records becomes a row.
    Container,
    /// Avro's single-object encoding: `C3 01` and the schema's fingerprint, before the datum. Needs a folder of
    /// schemas, or a pinned one.
    SingleObject,
    /// The body is the datum alone, written with the pinned schema.
    Bare,
    /// CloudEvents in structured mode, whatever the content type says. Their data is told as by `auto`.
    #[serde(rename = "cloudevents")]
    CloudEvents,
    /// Plain JSON, whatever the content type says. With `format = "json"` alone.
    Json,
}

#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Attribute {
    Id,
    Source,
    SpecVersion,
    Type,
    Time,
    Subject,
    DataContentType,
    DataSchema,
}

#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum OnSchemaChange {
    /// A new field becomes a column.
    Evolve,
    /// The table keeps its columns, which are those of the pinned schema, else those that it has, else those of its
    /// first commit with rows. What they can't hold goes to `_rescued`.
    Pin,
    /// As `pin`, but the partition stops, and the run ends with an error.
    Fail,
}

/// The table that rows are appended to.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct SinkTable {
    /// The table, as `bronze.leads`. It is made by the first commit. What could not become a row goes to
    /// `<table>__dead_letters`.
    #[schemars(required)]
    pub table: Option<TableText>,
    /// How long read events wait for a commit at most. Shorter means fresher tables, with more and smaller files.
    #[schemars(extend("default" = COMMIT_EVERY))]
    pub commit_every: Option<DurationText>,
    /// How many bytes make a commit before that time, as they lie in memory: rows until they are encoded, and
    /// from then on their share of the files. At most `max_in_flight_bytes`, and no more than half of that is waited for.
    #[schemars(extend("default" = COMMIT_BYTES))]
    pub commit_bytes: Option<SizeText>,
    /// How many bytes of what was read may wait for a commit, over the whole pipeline: events, rows, files in the
    /// making. Reading pauses there. The process takes some 350 MiB beside it.
    #[schemars(extend("default" = MAX_IN_FLIGHT_BYTES))]
    pub max_in_flight_bytes: Option<SizeText>,
    /// How often progress without rows is committed.
    #[schemars(extend("default" = COVERAGE_EVERY))]
    pub coverage_every: Option<DurationText>,
    /// What is other for this table, and those beside it, than `[maintenance]` in `sluice.toml` says.
    pub maintenance: Option<MaintenanceTable>,
    /// How long dead letters keep the bytes of their events, since they were rejected. `sluice run` lets them go then, and
    /// `sluice dead-letters expire`. What accounts for the numbers stays.
    #[schemars(extend("x-default-words" = "for good"))]
    pub dead_letters_retention: Option<DurationText>,
    /// The share of rejected events, above 0 and at most 1, that stops a partition: the events that tip it over stay
    /// where they are, and other partitions go on.
    #[schemars(extend("exclusiveMinimum" = 0, "maximum" = 1, "x-default-words" = "no limit"))]
    pub max_reject_share: Option<f64>,
    /// Of which events that share is taken: of those that were decoded within this time.
    #[schemars(extend("default" = REJECT_SHARE_WINDOW))]
    pub reject_share_window: Option<DurationText>,
    /// Of fewer events than these within the window no share is told.
    #[schemars(range(min = 1), extend("default" = REJECT_SHARE_MIN_EVENTS))]
    pub reject_share_min_events: Option<u64>,
}

/// When `sluice run` backfills from the captures by itself, beside what it reads live. Without
/// `[source.event_hubs]` nothing is read but at these times. `sluice run --once` does it now, for schedulers elsewhere.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ScheduleTable {
    /// Five fields as cron has them, in UTC: minute, hour, day of the month, month, day of the week; or `@hourly`,
    /// `@daily`, `@weekly`, `@monthly`. Times that passed while no process ran, or while a run took longer, are made
    /// up for by one run.
    #[schemars(required)]
    pub cron: Option<CronText>,
    /// How far back a run looks by enqueued time, from where the last one began that missed nothing. It should be longer
    /// than blobs are late.
    #[schemars(extend("x-default-words" = "to the first blob"))]
    pub window: Option<DurationText>,
}
