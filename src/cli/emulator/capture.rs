//! The flags of Capture and of its announcements.

use std::time::Duration;

use bytesize::ByteSize;
use url::Url;

use super::hidden::Hidden;
use crate::config::address::is_loopback;
use crate::config::capture_name::{DEFAULT_TEMPLATE, NameTemplate};
use crate::config::spec::{AzureStorageSpec, Secret};
use crate::emulator::announce::{AnnounceFaults, AnnounceOptions, AnnouncedAs, EventSchema};
use crate::emulator::capture::{CaptureCodec, CaptureOptions, EmptyWindows};
use crate::error::AnyError;
use crate::source::capture::Queue;
use crate::storage::{Location, StorageError};

/// What Capture of a real namespace is told, too.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Capture")]
pub(super) struct CaptureArgs {
    /// Write what the hubs take in to this place, as Event Hubs Capture does: a folder, or `az://container/path`
    #[arg(long, value_name = "PLACE")]
    capture: Option<String>,
    /// How long a window lasts; on Azure from a minute to 15
    #[arg(long, requires = "capture", value_name = "DURATION", default_value = "1min", value_parser = humantime::parse_duration)]
    capture_every: Duration,
    /// With how much of events a window ends before its time
    #[arg(long, requires = "capture", value_name = "SIZE", default_value = "300MiB")]
    capture_bytes: ByteSize,
    /// How blobs are named, with all nine tokens
    #[arg(long, requires = "capture", value_name = "TEMPLATE", default_value = DEFAULT_TEMPLATE, value_parser = NameTemplate::parse)]
    capture_template: NameTemplate,
    /// Write blobs of windows without events, too
    #[arg(long, requires = "capture")]
    capture_empty: bool,
    /// Compress blobs
    #[arg(long, requires = "capture")]
    capture_deflate: bool,
    /// The storage account of `az://` places and queues
    #[arg(long, value_name = "NAME", env = "AZURE_STORAGE_ACCOUNT")]
    storage_account: Option<String>,
    /// A key of that account; without one: sign-in with Entra
    #[arg(long, value_name = "KEY", env = "AZURE_STORAGE_KEY", hide_env_values = true, value_parser = |key: &str| Ok::<_, String>(Secret::new(key)))]
    storage_key: Option<Secret>,
    /// Another blob endpoint than the public one, with the account as its path, as Azurite has it
    #[arg(long, value_name = "URL", env = "AZURE_STORAGE_ENDPOINT")]
    storage_endpoint: Option<String>,
}

/// What a subscription of Event Grid is told, too.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Announcements of captures")]
pub(super) struct AnnounceArgs {
    /// Announce blobs in this Storage Queue, with the key of `--storage-key`; made where it isn't there
    #[arg(long, requires = "capture", value_name = "URL", value_parser = Hidden(address))]
    announce_queue: Option<Url>,
    /// Announce blobs to this webhook, after the handshake; a secret may stand in its query
    #[arg(long, requires = "capture", value_name = "URL", value_parser = Hidden(address))]
    announce_webhook: Option<Url>,
    /// Which service's event announces a blob
    #[arg(long, requires = "capture", value_enum, value_name = "EVENT", default_value_t = EventArg::CaptureFileCreated)]
    announce_as: EventArg,
    /// In which schema
    #[arg(long, requires = "capture", value_enum, value_name = "SCHEMA", default_value_t = SchemaArg::Eventgrid)]
    announce_schema: SchemaArg,
    /// The pause before a webhook is tried again; later ones grow as on Azure, to 2160 times of it
    #[arg(long, requires = "capture", value_name = "DURATION", default_value = "10s", value_parser = humantime::parse_duration)]
    announce_retry: Duration,
    /// The share of announcements that is lost, from 0 to 1
    #[arg(long, requires = "capture", value_name = "SHARE", default_value_t = 0.0, value_parser = share)]
    announce_lost: f64,
    /// The share that comes twice
    #[arg(long, requires = "capture", value_name = "SHARE", default_value_t = 0.0, value_parser = share)]
    announce_duplicated: f64,
    /// The share that comes late
    #[arg(long, requires = "capture", value_name = "SHARE", default_value_t = 0.0, value_parser = share)]
    announce_delayed: f64,
    /// The share that comes after the one that follows
    #[arg(long, requires = "capture", value_name = "SHARE", default_value_t = 0.0, value_parser = share)]
    announce_reordered: f64,
    /// How late the late ones are at most
    #[arg(long, requires = "capture", value_name = "DURATION", default_value = "5s", value_parser = humantime::parse_duration)]
    announce_delay: Duration,
    /// What the faults are drawn from: with the same seed they are the same
    #[arg(long, requires = "capture", value_name = "N", default_value_t = 0)]
    announce_seed: u64,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
#[value(rename_all = "PascalCase")]
enum EventArg {
    CaptureFileCreated,
    BlobCreated,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
#[value(rename_all = "lower")]
enum SchemaArg {
    Eventgrid,
    Cloudevents,
}

impl CaptureArgs {
    pub(super) fn options(&self, namespace: &str) -> Result<Option<CaptureOptions>, AnyError> {
        let Some(place) = &self.capture else { return Ok(None) };
        Ok(Some(CaptureOptions {
            location: self.location(place)?,
            template: self.capture_template.clone(),
            namespace: namespace.to_owned(),
            window: self.capture_every,
            window_bytes: self.capture_bytes.as_u64().max(1),
            empty: if self.capture_empty { EmptyWindows::Written } else { EmptyWindows::Skipped },
            codec: if self.capture_deflate { CaptureCodec::Deflate } else { CaptureCodec::Null },
        }))
    }

    fn location(&self, place: &str) -> Result<Location, StorageError> {
        if place.contains("://") {
            return Location::resolve(place, Some(&self.storage()?));
        }
        let folder =
            std::path::absolute(place).map_err(|source| StorageError::Folder { path: place.into(), source })?;
        Location::resolve(&folder.to_string_lossy(), None)
    }

    /// Looked at only where it is needed: the environment may be meant for another program. An empty
    /// variable counts as unset.
    fn storage(&self) -> Result<AzureStorageSpec, StorageError> {
        let endpoint = self.storage_endpoint.as_deref().filter(|url| !url.is_empty()).map(|url| {
            let wrong = |reason| StorageError::Url { url: url.to_owned(), reason };
            address(url).map(|url| url.as_str().trim_end_matches('/').to_owned()).map_err(wrong)
        });
        Ok(AzureStorageSpec {
            account_name: self.storage_account.clone().filter(|name| !name.is_empty()),
            account_key: self.storage_key.clone().filter(|key| !key.reveal().is_empty()),
            sas_token: None,
            endpoint: endpoint.transpose()?,
        })
    }
}

impl AnnounceArgs {
    pub(super) fn options(self, capture: &CaptureArgs) -> Result<Option<AnnounceOptions>, AnyError> {
        if self.announce_queue.is_none() && self.announce_webhook.is_none() {
            return Ok(None);
        }
        let queue = match self.announce_queue {
            Some(url) => Some(Queue::open(url.as_str(), Some(&capture.storage()?))?),
            None => None,
        };
        Ok(Some(AnnounceOptions {
            queue,
            webhook: self.announce_webhook,
            event: match self.announce_as {
                EventArg::CaptureFileCreated => AnnouncedAs::CaptureFileCreated,
                EventArg::BlobCreated => AnnouncedAs::BlobCreated,
            },
            schema: match self.announce_schema {
                SchemaArg::Eventgrid => EventSchema::EventGrid,
                SchemaArg::Cloudevents => EventSchema::CloudEvents,
            },
            retry: self.announce_retry,
            faults: AnnounceFaults {
                lost: self.announce_lost,
                duplicated: self.announce_duplicated,
                delayed: self.announce_delayed,
                reordered: self.announce_reordered,
                delay: self.announce_delay,
            },
            seed: self.announce_seed,
        }))
    }
}

fn share(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
        _ => Err("a share is a number from 0 to 1".to_owned()),
    }
}

/// Plain `http` on loopback alone: keys and secrets must not cross a network in the clear.
fn address(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|error| error.to_string())?;
    let is_local = url.host_str().is_some_and(is_loopback);
    match url.scheme() {
        "https" => Ok(url),
        "http" if is_local => Ok(url),
        "http" => Err("it is plaintext to another machine: write `https://`".to_owned()),
        _ => Err("write `https://host/…`".to_owned()),
    }
}
