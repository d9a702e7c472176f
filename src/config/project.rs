//! `sluice.toml`, from what is declared to what it means.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use super::address::{endpoint, host_and_port, is_loopback, location};
use super::connection_string::{ConnectionString, ConnectionStringError};
use super::declared::{
    AzureRegistryTable, AzureStorageTable, ConfluentRegistryTable, Credential, CredentialWord, ENTRA_AUTHORITY,
    EVENT_GRID_APP, EventHubsTable, FolderRegistryTable, ProjectFile, RegistryTable, SERVE_ADDRESS, SHUTDOWN_DEADLINE,
    WebhookEntraTable, WebhookTable,
};
use super::document::Node;
use super::problem::{Problem, quoted};
use super::reading::Reading;
use super::source_id::{host_of, id_of_host};
use super::spec::{
    AzureStorageSpec, CredentialSpec, EventHubsAccess, EventHubsSpec, LakeSpec, MaintenanceSpec, ProjectSpec,
    RegistrySpec, Secret, ServeSpec, ShutdownSpec, StateSpec, WebhookEntraSpec, WebhookSpec,
};
use super::{maintenance, schema, shape, text};

/// Long enough for a commit to a slow store, short enough that an orchestrator doesn't kill first.
const LONGEST_DEADLINE: Duration = Duration::from_secs(60 * 60);

/// Whether a part of the project file could be read, when pipelines refer to it.
#[derive(Debug, Clone)]
pub(super) enum Declared<T> {
    As(T),
    Absent,
    /// It has problems of its own, which are enough.
    Wrong,
}

/// What pipelines need to know of their project, as far as it could be read.
#[derive(Debug)]
pub(super) struct Shared {
    pub teams: Declared<Vec<String>>,
    pub event_hubs: Declared<EventHubsSpec>,
    pub registry: Declared<RegistrySpec>,
    pub has_account: bool,
    /// Where it is wrong, the defaults.
    pub maintenance: MaintenanceSpec,
}

impl Shared {
    /// For a project file that couldn't be read at all.
    pub(super) fn unknown() -> Self {
        Self {
            teams: Declared::Wrong,
            event_hubs: Declared::Wrong,
            registry: Declared::Wrong,
            has_account: true,
            maintenance: MaintenanceSpec::default(),
        }
    }
}

/// Reads the project file, with its overlay and variables in place. The spec has no pipelines
/// yet; it is None where something that it can't do without is wrong.
pub(super) fn build(root: &Node, dir: &Path, problems: &mut Vec<Problem>) -> (Option<ProjectSpec>, Shared) {
    let declared: ProjectFile = shape::read(root, &schema::PROJECT, problems);
    let mut reading = Reading { root, problems };
    let has = |key: &str| root.at(&[key]).is_some();

    let project = declared.project.as_ref();
    let name = reading.parse(
        &["project", "name"],
        project.and_then(|project| project.name.as_ref()).map(|name| name.0.as_str()),
        "a name",
        text::name,
    );
    let teams = project.and_then(|project| project.teams.as_ref()).map(|teams| teams_of(teams, &mut reading));

    let storage = declared.storage.and_then(|storage| storage.azure).map(|azure| azure_storage(azure, &mut reading));
    let has_account = storage.as_ref().is_some_and(|storage| storage.account_name.is_some())
        || root.at(&["storage", "azure", "account_name"]).is_some();
    let lake = declared.lake.and_then(|lake| lake.url);
    let lake = reading
        .address(&["lake", "url"], lake.as_ref().map(|url| url.0.as_str()), |text| location(text, dir, has_account));
    let state = declared.state.and_then(|state| state.url);
    let state = reading
        .address(&["state", "url"], state.as_ref().map(|url| url.0.as_str()), |text| location(text, dir, has_account));

    let event_hubs = declared.event_hubs.map(|table| event_hubs(table, &mut reading));
    let event_hubs = match event_hubs {
        Some(Some(spec)) => Declared::As(spec),
        None if !has("event_hubs") => Declared::Absent,
        _ => Declared::Wrong,
    };
    let registry = declared.registry.map(|table| registry(table, dir, &event_hubs, &mut reading));
    let registry = match registry {
        Some(Some(spec)) => Declared::As(spec),
        None if !has("registry") => Declared::Absent,
        _ => Declared::Wrong,
    };

    let address = declared.serve.and_then(|serve| serve.address);
    let address = reading.parse(
        &["serve", "address"],
        Some(address.as_ref().map_or(SERVE_ADDRESS, |address| address.0.as_str())),
        "an address",
        |text| text.parse::<SocketAddr>().map_err(|_| "write IP address and port: `127.0.0.1:8080`".to_owned()),
    );
    let webhook = declared.webhook.map(|table| webhook(table, &mut reading));
    let deadline = declared.shutdown.and_then(|shutdown| shutdown.deadline);
    let deadline = reading.parse(
        &["shutdown", "deadline"],
        Some(deadline.as_ref().map_or(SHUTDOWN_DEADLINE, |deadline| deadline.0.as_str())),
        "a deadline",
        |text| text::duration(text, Duration::ZERO, LONGEST_DEADLINE),
    );

    let maintenance =
        maintenance::build(declared.maintenance, &["maintenance"], &MaintenanceSpec::default(), &mut reading);

    let optional = |declared: &Declared<EventHubsSpec>| match declared {
        Declared::As(spec) => Some(spec.clone()),
        Declared::Absent | Declared::Wrong => None,
    };
    let spec = (|| {
        let lake = lake?;
        // A webhook that is wrong must not become none.
        let webhook = match webhook {
            Some(webhook) => Some(webhook?),
            None => None,
        };
        Some(ProjectSpec {
            dir: dir.to_owned(),
            name: name?,
            teams: teams.clone()?,
            state: StateSpec { url: state.unwrap_or_else(|| format!("{}/_sluice", lake.trim_end_matches('/'))) },
            lake: LakeSpec { url: lake },
            storage_azure: storage,
            event_hubs: optional(&event_hubs),
            registry: match &registry {
                Declared::As(spec) => Some(spec.clone()),
                Declared::Absent | Declared::Wrong => None,
            },
            serve: ServeSpec { address: address? },
            webhook,
            shutdown: ShutdownSpec { deadline: deadline? },
            maintenance: maintenance.clone(),
            pipelines: Vec::new(),
            transforms: Vec::new(),
        })
    })();
    let teams = teams.map_or(Declared::Wrong, Declared::As);
    (spec, Shared { teams, event_hubs, registry, has_account, maintenance })
}

fn teams_of(teams: &[text::NameText], reading: &mut Reading<'_>) -> Vec<String> {
    let path = ["project", "teams"];
    if teams.is_empty() {
        reading.wrong(&path, "`teams` is empty", "every pipeline has an owner, so name at least one team");
    }
    let mut names: Vec<String> = Vec::new();
    for team in teams {
        match text::name(&team.0) {
            Ok(name) if names.contains(&name) => {
                reading.wrong(&path, format!("team {} is there twice", quoted(&name)), "name it once");
            }
            Ok(name) => names.push(name),
            Err(hint) => reading.wrong(&path, format!("{} is not a name", quoted(&team.0)), hint),
        }
    }
    names
}

fn azure_storage(table: AzureStorageTable, reading: &mut Reading<'_>) -> AzureStorageSpec {
    let path = ["storage", "azure"];
    if table.account_key.is_some() && table.sas_token.is_some() {
        let place = [&path[..], &["sas_token"]].concat();
        reading.wrong(&place, "`account_key` and `sas_token` are both set", "keep one of them");
    }
    if table.endpoint.is_some()
        && table.account_name.is_none()
        && reading.root.at(&["storage", "azure", "account_name"]).is_none()
    {
        reading.wrong(&path, "`endpoint` needs `account_name`", "write the account that the endpoint serves");
    }
    let address = reading.address(
        &["storage", "azure", "endpoint"],
        table.endpoint.as_ref().map(|endpoint| endpoint.0.as_str()),
        |text| endpoint(text, "https", "http"),
    );
    AzureStorageSpec {
        account_name: table.account_name,
        account_key: table.account_key.map(Secret::new),
        sas_token: table.sas_token.map(Secret::new),
        endpoint: address,
    }
}

fn event_hubs(table: EventHubsTable, reading: &mut Reading<'_>) -> Option<EventHubsSpec> {
    let path = ["event_hubs"];
    let has = |key: &str| reading.root.at(&["event_hubs", key]).is_some();
    let (has_text, has_namespace) = (has("connection_string"), has("namespace"));
    let alternatives = "set exactly one: `connection_string`, or `namespace` with an Entra sign-in";
    if has_text && has_namespace {
        let place = ["event_hubs", "namespace"];
        reading.wrong(&place, "`connection_string` and `namespace` are both set", alternatives);
    } else if !has_text && !has_namespace {
        reading.wrong(&path, "neither `connection_string` nor `namespace` is set", alternatives);
    } else if has_text && has("credential") {
        let hint = "a connection string brings its own sign-in: remove `credential`, or use `namespace`";
        reading.wrong(&["event_hubs", "credential"], "`credential` does nothing beside `connection_string`", hint);
    }

    let credential = credential(table.credential, &["event_hubs", "credential"], reading);
    let access = if has_text {
        let text = table.connection_string?;
        if let Err(error) = text.parse::<ConnectionString>() {
            let hint = match error {
                ConnectionStringError::NotLoopback { .. } => {
                    "remove `UseDevelopmentEmulator=true`, or name this machine"
                }
                _ => "copy it from the portal: `Endpoint=sb://…;SharedAccessKeyName=…;SharedAccessKey=…`",
            };
            reading.wrong(&["event_hubs", "connection_string"], format!("not a connection string: {error}"), hint);
            return None;
        }
        EventHubsAccess::ConnectionString(Secret::new(text))
    } else {
        let namespace = reading.parse(&["event_hubs", "namespace"], table.namespace.as_deref(), "a host", |text| {
            let hint = || Err("write the namespace's host alone: `insurer.servicebus.windows.net`".to_owned());
            match host_and_port(text) {
                Some((host, _)) if host.contains('.') || is_loopback(&host) => Ok(text.to_ascii_lowercase()),
                _ => hint(),
            }
        })?;
        EventHubsAccess::Namespace { namespace, credential: credential? }
    };

    let id = reading.parse(&["event_hubs", "id"], table.id.as_ref().map(|id| id.0.as_str()), "a name", |text| {
        text::name(text).map(|name| name.to_ascii_lowercase())
    });
    if !has("id")
        && let Some(host) = host_of(&access)
        && id_of_host(&host).is_none()
    {
        let hint = "set `id` to the namespace's own name: the ledger holds it for ever";
        reading.wrong(&path, format!("`{host}` doesn't tell which namespace it is"), hint);
    }
    let endpoint = reading.address(
        &["event_hubs", "endpoint"],
        table.endpoint.as_ref().map(|endpoint| endpoint.0.as_str()),
        |text| endpoint(text, "amqps", "amqp"),
    );
    Some(EventHubsSpec { access, id, endpoint })
}

fn registry(
    table: RegistryTable,
    dir: &Path,
    hubs: &Declared<EventHubsSpec>,
    reading: &mut Reading<'_>,
) -> Option<RegistrySpec> {
    let declared =
        ["azure", "confluent", "folder"].into_iter().filter(|kind| reading.root.at(&["registry", kind]).is_some());
    match declared.collect::<Vec<_>>()[..] {
        [_, second, ..] => {
            let hint = "a project has one registry: keep one of them";
            reading.wrong(&["registry", second], "`[registry]` names more than one registry", hint);
            return None;
        }
        [] if reading
            .root
            .at(&["registry"])
            .and_then(|entry| entry.node.table())
            .is_some_and(|table| table.is_empty()) =>
        {
            let hint = "declare `[registry.azure]`, `[registry.confluent]` or `[registry.folder]`";
            reading.wrong(&["registry"], "`[registry]` names no registry", hint);
        }
        _ => {}
    }
    match table {
        RegistryTable { azure: Some(azure), .. } => azure_registry(azure, hubs, reading),
        RegistryTable { confluent: Some(confluent), .. } => confluent_registry(confluent, reading),
        RegistryTable { folder: Some(folder), .. } => folder_registry(folder, dir, reading),
        _ => None,
    }
}

fn azure_registry(
    table: AzureRegistryTable,
    hubs: &Declared<EventHubsSpec>,
    reading: &mut Reading<'_>,
) -> Option<RegistrySpec> {
    let path = ["registry", "azure", "endpoint"];
    let address = table.endpoint.as_ref().map(|endpoint| endpoint.0.as_str());
    let address = reading.address(&path, address, |text| endpoint(text, "https", "http"));
    let own = table.credential.is_some();
    let own = own.then(|| credential(table.credential, &["registry", "azure", "credential"], reading));
    let credential = match (own, hubs) {
        (Some(own), _) => own?,
        (None, Declared::As(EventHubsSpec { access: EventHubsAccess::Namespace { credential, .. }, .. })) => {
            credential.clone()
        }
        (None, _) => CredentialSpec::Default,
    };
    Some(RegistrySpec::Azure { endpoint: address?, credential })
}

/// Shorter, and it can be guessed by asking.
const SHORTEST_SECRET_BYTES: usize = 16;

/// None where the declaration is wrong.
fn webhook(table: WebhookTable, reading: &mut Reading<'_>) -> Option<WebhookSpec> {
    let has = |key: &str| reading.root.at(&["webhook", key]).is_some();
    if !has("secret") && !has("entra") {
        let hint = "set `secret = \"${EVENT_GRID_SECRET}\"`, or declare `[webhook.entra]`";
        reading.wrong(&["webhook"], "`[webhook]` would let anybody in", hint);
        return None;
    }
    let mut secrets = Vec::new();
    let mut is_wrong = false;
    for (key, secret) in [("secret", table.secret), ("previous_secret", table.previous_secret)] {
        let Some(secret) = secret else { continue };
        if secret.len() < SHORTEST_SECRET_BYTES {
            let hint = "make one: `openssl rand -hex 32`";
            let message = format!("`{key}` is shorter than {SHORTEST_SECRET_BYTES} bytes");
            reading.wrong(&["webhook", key], message, hint);
            is_wrong = true;
        }
        secrets.push(Secret::new(secret));
    }
    let entra = match table.entra {
        Some(table) => Some(webhook_entra(table, reading)?),
        None => None,
    };
    (!is_wrong).then_some(WebhookSpec { secrets, entra })
}

fn webhook_entra(table: WebhookEntraTable, reading: &mut Reading<'_>) -> Option<WebhookEntraSpec> {
    let at = |key: &'static str| ["webhook", "entra", key];
    let id = |text: &str| {
        let parsed = uuid::Uuid::parse_str(text).map(|id| id.to_string());
        parsed.map_err(|_| "write its id, as the portal shows it: `4962773b-…`".to_owned())
    };
    let tenant_id = reading.parse(&at("tenant_id"), table.tenant_id.as_deref(), "the id of a tenant", id);
    let audience = reading.parse(&at("audience"), table.audience.as_deref(), "an audience", |text| {
        if text.trim().is_empty() { Err("write the app's id, or its URI".to_owned()) } else { Ok(text.to_owned()) }
    });
    let client_id = table.client_id.as_deref().unwrap_or(EVENT_GRID_APP);
    let client_id = reading.parse(&at("client_id"), Some(client_id), "the id of a client", id);
    let authority = table.authority.as_ref().map_or(ENTRA_AUTHORITY, |authority| authority.0.as_str());
    let authority = reading.address(&at("authority"), Some(authority), |text| endpoint(text, "https", "http"));
    Some(WebhookEntraSpec { tenant_id: tenant_id?, audience: audience?, client_id: client_id?, authority: authority? })
}

fn confluent_registry(table: ConfluentRegistryTable, reading: &mut Reading<'_>) -> Option<RegistrySpec> {
    let at = |key: &'static str| ["registry", "confluent", key];
    let url = table.url.as_ref().map(|url| url.0.as_str());
    let url = reading.address(&at("url"), url, |text| endpoint(text, "https", "http"));
    for (key, other) in [("username", "password"), ("password", "username")] {
        if reading.root.at(&at(key)).is_some() && reading.root.at(&at(other)).is_none() {
            let hint = format!("set `{other}` too, or neither for a registry without sign-in");
            reading.wrong(&at(key), format!("`{key}` needs `{other}`"), hint);
            return None;
        }
    }
    let credential = table.username.zip(table.password.map(Secret::new));
    Some(RegistrySpec::Confluent { url: url?, credential })
}

fn folder_registry(table: FolderRegistryTable, dir: &Path, reading: &mut Reading<'_>) -> Option<RegistrySpec> {
    let place = ["registry", "folder", "path"];
    let path = dir.join(table.path?.0);
    if !path.is_dir() {
        let shown = quoted(reading.root.written(&place));
        reading.wrong(&place, format!("{shown} is no folder"), "relative paths start at the project's folder");
        return None;
    }
    Some(RegistrySpec::Folder { path })
}

/// None where the declaration is wrong.
fn credential(declared: Option<Credential>, path: &[&str], reading: &mut Reading<'_>) -> Option<CredentialSpec> {
    let table = match declared {
        None => return reading.root.at(path).is_none().then_some(CredentialSpec::Default),
        Some(Credential::Word(word)) => {
            return Some(match word {
                CredentialWord::Default => CredentialSpec::Default,
                CredentialWord::ManagedIdentity => CredentialSpec::ManagedIdentity { client_id: None },
                CredentialWord::WorkloadIdentity => CredentialSpec::WorkloadIdentity,
                CredentialWord::DeveloperTools => CredentialSpec::DeveloperTools,
            });
        }
        Some(Credential::Table(table)) => table,
    };
    match (table.managed_identity, table.client_secret) {
        (Some(identity), None) => Some(CredentialSpec::ManagedIdentity { client_id: Some(identity.client_id?) }),
        (None, Some(secret)) => Some(CredentialSpec::ClientSecret {
            tenant_id: secret.tenant_id?,
            client_id: secret.client_id?,
            client_secret: Secret::new(secret.client_secret?),
        }),
        _ => {
            let hint = "or one of the words `default`, `managed_identity`, `workload_identity`, `developer_tools`";
            reading.wrong(path, "exactly one of `managed_identity` and `client_secret` must be there", hint);
            None
        }
    }
}
