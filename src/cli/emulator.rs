//! `sluice emulator`: Azure on this machine, until it is told to stop.

mod capture;
mod hidden;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use serde::Serialize;

use self::capture::{AnnounceArgs, CaptureArgs};
use self::hidden::Hidden;
use super::signals::StopSignals;
use super::{Exit, Format, Global};
use crate::config::spec::{ProjectSpec, Secret};
use crate::config::{self, ConfigErrors};
use crate::emulator::hubs_file::{HubsFile, parse_hub};
use crate::emulator::together::{Addresses, Emulator, EmulatorOptions, Transport};
use crate::emulator::{HubSpec, Retention};
use crate::error::{AnyError, Classify, Kind};

/// The ports that the official clients take where an address names none.
const AMQP_PORT: u16 = 5672;
const AMQPS_PORT: u16 = 5671;
/// Beside the usual neighbours of the two, so that addresses stay the same from run to run.
const REGISTRY_PORT: u16 = 8081;
/// Where Microsoft's emulator answers for its health.
const CONTROL_PORT: u16 = 5300;
/// Partitions of a hub that a pipeline names: enough to be seen to run in parallel.
const PROJECT_PARTITIONS: u32 = 4;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The `config.json` of Microsoft's Event Hubs emulator
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// A hub to serve, as in `leads:4`; without hubs, those of the project's pipelines
    #[arg(long = "hub", value_name = "NAME:PARTITIONS", value_parser = parse_hub)]
    hubs: Vec<HubSpec>,
    /// The port of Event Hubs (AMQP); 0 picks a free one [default: 5672, with --tls 5671]
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,
    /// The port of the Schema Registry; 0 picks a free one
    #[arg(long, value_name = "PORT", default_value_t = REGISTRY_PORT)]
    registry_port: u16,
    /// The port of the control API and the token endpoint; 0 picks a free one
    #[arg(long, value_name = "PORT", default_value_t = CONTROL_PORT)]
    control_port: u16,
    /// Keep events, schemas and certificates here, over restarts
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Serve Event Hubs and registry over TLS; clients trust it through SSL_CERT_FILE
    #[arg(long)]
    tls: bool,
    /// The most events that a partition keeps
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    retention_events: Option<u64>,
    /// The oldest that an event grows, as in `1h` or `7days`
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    retention_age: Option<Duration>,
    /// Accept only this shared access key, and tokens of the token endpoint
    #[arg(long = "key", value_name = "NAME=KEY", value_parser = Hidden(parse_key))]
    keys: Vec<SharedKey>,
    #[command(flatten)]
    capture: Box<CaptureArgs>,
    #[command(flatten)]
    announce: Box<AnnounceArgs>,
    /// `json` writes one line when all is ready
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    format: Format,
}

#[derive(Debug, Clone)]
struct SharedKey {
    name: String,
    key: Secret,
}

fn parse_key(text: &str) -> Result<SharedKey, String> {
    match text.split_once('=') {
        Some((name, key)) if !name.is_empty() && !key.is_empty() => {
            Ok(SharedKey { name: name.to_owned(), key: Secret::new(key) })
        }
        _ => Err("a key is of the form `NAME=KEY`".to_owned()),
    }
}

/// # Errors
/// When a port is taken, a folder can't be used, or there is no hub to serve.
pub async fn run(args: Args, global: &Global) -> Result<ExitCode, AnyError> {
    let output = global.output();
    let format = args.format;
    let options = options(args, global)?;
    // Before the ready line: whoever reads it may stop the program at once.
    let mut stop = StopSignals::listen()?;
    let emulator = Emulator::start(options).await?;
    match format {
        Format::Json => output.json(&Ready::from(emulator.addresses()))?,
        Format::Text => output.line(words(emulator.addresses(), emulator.hubs()))?,
    }
    stop.wait().await;
    emulator.stop().await;
    Ok(Exit::Well.into())
}

fn options(args: Args, global: &Global) -> Result<EmulatorOptions, AnyError> {
    let mut namespace = None;
    let mut hubs = args.hubs;
    if let Some(file) = &args.config {
        let declared = HubsFile::open(file)?;
        namespace = Some(declared.namespace);
        hubs.extend(declared.hubs);
    }
    if hubs.is_empty() {
        hubs = hubs_of(&project(global)?);
    }
    if hubs.is_empty() {
        return Err(EmulatorError::NoHub.into());
    }
    let transport = if args.tls { Transport::Tls } else { Transport::Plain };
    let default_port = match transport {
        Transport::Plain => AMQP_PORT,
        Transport::Tls => AMQPS_PORT,
    };
    let namespace = namespace.unwrap_or_else(|| EmulatorOptions::default().namespace);
    Ok(EmulatorOptions {
        capture: args.capture.options(&namespace)?,
        announce: args.announce.options(&args.capture)?,
        namespace,
        hubs,
        port: args.port.unwrap_or(default_port),
        registry_port: args.registry_port,
        control_port: args.control_port,
        dir: args.dir,
        transport,
        retention: Retention { max_events: args.retention_events, max_age: args.retention_age },
        keys: args.keys.into_iter().map(|shared| (shared.name, shared.key)).collect(),
    })
}

/// The project, though a variable isn't set yet: what it will hold is what this command prints.
fn project(global: &Global) -> Result<ProjectSpec, ConfigErrors> {
    global.load_project().or_else(|errors| {
        let lookup = |name: &str| std::env::var(name).ok().or_else(|| Some(stand_in(name).to_owned()));
        config::load_with(&global.load_options(), &lookup).map_err(|_| errors)
    })
}

/// For a variable that isn't set, while only the names of hubs are asked for: it has to have the form of
/// what it stands for, and reaches nothing.
fn stand_in(name: &str) -> &'static str {
    if name.contains("CONNECTION_STRING") {
        "Endpoint=sb://localhost;SharedAccessKeyName=none;SharedAccessKey=none;UseDevelopmentEmulator=true;"
    } else {
        "http://127.0.0.1:1"
    }
}

/// Each hub that a pipeline reads, once; any consumer group is welcome.
fn hubs_of(project: &ProjectSpec) -> Vec<HubSpec> {
    let mut names: Vec<&str> = project.pipelines.iter().map(|pipeline| pipeline.source.hub.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    names.into_iter().map(|name| HubSpec::new(name, PROJECT_PARTITIONS)).collect()
}

/// The shape that scripts read: fields may be added, never renamed or removed.
#[derive(Debug, Serialize)]
struct Ready<'a> {
    event_hubs: &'a str,
    connection_string: &'a str,
    schema_registry: &'a str,
    control: &'a str,
    /// What `IDENTITY_ENDPOINT` is set to, for tokens of a managed identity.
    identity_endpoint: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    ca_file: Option<String>,
}

impl<'a> From<&'a Addresses> for Ready<'a> {
    fn from(addresses: &'a Addresses) -> Self {
        Self {
            event_hubs: &addresses.event_hubs,
            connection_string: addresses.connection_string.reveal(),
            schema_registry: &addresses.schema_registry,
            control: &addresses.control,
            identity_endpoint: &addresses.identity_endpoint,
            ca_file: addresses.ca_file.as_ref().map(|path| path.display().to_string()),
        }
    }
}

fn words(addresses: &Addresses, hubs: &[HubSpec]) -> String {
    let mut lines = vec![
        format!("event hubs         {}", addresses.event_hubs),
        format!("connection string  {}", addresses.connection_string.reveal()),
        format!("schema registry    {}", addresses.schema_registry),
        format!("control            {}", addresses.control),
    ];
    if let Some(file) = &addresses.ca_file {
        lines.push(format!("trust it           export SSL_CERT_FILE={}", file.display()));
    }
    for hub in hubs {
        lines.push(format!("  hub `{}` with {} partitions", hub.name, hub.partitions));
    }
    lines.join("\n")
}

/// What only the command can fail with.
#[derive(Debug, thiserror::Error)]
enum EmulatorError {
    #[error("there is no hub to serve")]
    NoHub,
}

impl Classify for EmulatorError {
    fn kind(&self) -> Kind {
        match self {
            Self::NoHub => Kind::User,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::NoHub => Some("name one with `--hub leads:4`, or declare a pipeline that reads one".to_owned()),
        }
    }
}
