//! Where a namespace is, and how to sign in: from the declaration to an open client.
//!
//! | declared | dialled |
//! |---|---|
//! | connection string, or namespace | `amqps://<namespace>:5671` |
//! | the same with a port in the host | `amqps://<host>:<port>` |
//! | connection string with `UseDevelopmentEmulator=true`, host on loopback | `amqp://<host>:<port or 5672>`, plaintext |
//! | `endpoint` | as it says; `amqp://` on loopback alone |
//!
//! TLS trusts what the system trusts; on Linux `SSL_CERT_FILE` and `SSL_CERT_DIR` add to it.

use std::sync::Arc;

use azure_core::credentials::TokenCredential;
use azure_core::time::Duration as AzureDuration;
use azure_messaging_eventhubs::builders::ConsumerClientBuilder;
use azure_messaging_eventhubs::{ConsumerClient, EventHubsError, ProducerClient, RetryOptions};
use url::Url;

use crate::config::address::{host_and_port, is_loopback};
use crate::config::connection_string::{ConnectionString, ConnectionStringError, SharedAccess};
use crate::config::spec::{EventHubsAccess, EventHubsSpec, Secret};
use crate::source::SourceError;
use crate::storage::credential::credential;

/// The port of plain AMQP.
const PLAIN_PORT: u16 = 5672;

#[derive(Clone)]
enum SignIn {
    ConnectionString(Secret),
    Token(Arc<dyn TokenCredential>),
}

/// One hub's address and sign-in.
#[derive(Clone)]
pub(super) struct Access {
    /// The host name that the namespace goes by; names it in errors, too.
    pub(super) namespace: String,
    /// What to dial, where it isn't `amqps://<namespace>`.
    endpoint: Option<String>,
    sign_in: SignIn,
}

impl Access {
    pub(super) fn try_new(spec: &EventHubsSpec, hub: &str) -> Result<Self, SourceError> {
        let (host, port, plaintext, sign_in) = match &spec.access {
            EventHubsAccess::ConnectionString(text) => {
                let parts: ConnectionString = text.reveal().parse().map_err(|error: ConnectionStringError| {
                    access(format!("the connection string can't be used: {error}"), Some(CONNECTION_STRING_HINT))
                })?;
                is_for(&parts, hub)?;
                let sign_in = SignIn::ConnectionString(plain_form(&parts));
                (parts.host, parts.port, parts.use_development_emulator, sign_in)
            }
            EventHubsAccess::Namespace { namespace, credential: declared } => {
                let (host, port) = host_and_port(namespace).ok_or_else(|| {
                    access(format!("namespace `{namespace}` is not a host name"), Some(NAMESPACE_HINT))
                })?;
                let sign_in = SignIn::Token(credential(declared).map_err(SourceError::Credential)?);
                (host, port, false, sign_in)
            }
        };
        let endpoint = match &spec.endpoint {
            Some(declared) => Some(declared_endpoint(declared)?),
            None if plaintext => Some(plain_endpoint(&host, port)?),
            None => port.map(|port| tls_endpoint(&host, port)),
        };
        Ok(Self { namespace: host, endpoint, sign_in })
    }

    pub(super) async fn open_consumer(&self, hub: &str, group: &str) -> Result<ConsumerClient, EventHubsError> {
        install_crypto_provider();
        let mut builder: ConsumerClientBuilder = ConsumerClient::builder()
            .with_application_id(application_id())
            .with_consumer_group(group.to_owned())
            .with_retry_options(no_retries());
        if let Some(endpoint) = &self.endpoint {
            builder = builder.with_custom_endpoint(endpoint.clone());
        }
        match &self.sign_in {
            SignIn::ConnectionString(text) => builder.open_with_connection_string(text.reveal(), Some(hub)).await,
            SignIn::Token(credential) => builder.open(&self.namespace, hub.to_owned(), Arc::clone(credential)).await,
        }
    }

    pub(super) async fn open_producer(&self, hub: &str) -> Result<ProducerClient, EventHubsError> {
        install_crypto_provider();
        let mut builder =
            ProducerClient::builder().with_application_id(application_id()).with_retry_options(no_retries());
        if let Some(endpoint) = &self.endpoint {
            builder = builder.with_custom_endpoint(endpoint.clone());
        }
        match &self.sign_in {
            SignIn::ConnectionString(text) => builder.open_with_connection_string(text.reveal(), Some(hub)).await,
            SignIn::Token(credential) => builder.open(&self.namespace, hub, Arc::clone(credential)).await,
        }
    }
}

/// The client's own recovery attaches at the first start position again, so it has none here.
fn no_retries() -> RetryOptions {
    RetryOptions {
        max_retries: 0,
        initial_delay: AzureDuration::ZERO,
        max_delay: AzureDuration::ZERO,
        max_total_elapsed: AzureDuration::ZERO,
    }
}

/// Names the connection, too, and each connection needs a name of its own.
fn application_id() -> String {
    format!("sluicebox-{}", uuid::Uuid::new_v4().simple())
}

/// With two crypto providers in the tree rustls can't choose, and the client panics over TLS.
/// Whoever installed one before keeps it.
fn install_crypto_provider() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}

const NAMESPACE_HINT: &str = "as in `insurer.servicebus.windows.net`";
const CONNECTION_STRING_HINT: &str =
    "as in `Endpoint=sb://insurer.servicebus.windows.net/;SharedAccessKeyName=…;SharedAccessKey=…`";

fn access(problem: String, hint: Option<&str>) -> SourceError {
    SourceError::Access { problem, hint: hint.map(str::to_owned) }
}

fn is_for(parts: &ConnectionString, hub: &str) -> Result<(), SourceError> {
    match &parts.entity_path {
        Some(path) if path != hub => Err(access(
            format!("the connection string is for hub `{path}` (`EntityPath`), not for `{hub}`"),
            Some("a policy of the namespace has no `EntityPath` and is good for every hub"),
        )),
        _ => Ok(()),
    }
}

/// As the client takes it: it knows fewer spellings, and dials what `endpoint` says.
fn plain_form(parts: &ConnectionString) -> Secret {
    let host = &parts.host;
    Secret::new(match &parts.sign_in {
        SharedAccess::Key { name, key } => {
            format!("Endpoint=sb://{host}/;SharedAccessKeyName={name};SharedAccessKey={}", key.reveal())
        }
        SharedAccess::Signature(signature) => {
            format!("Endpoint=sb://{host}/;SharedAccessSignature={}", signature.reveal())
        }
    })
}

fn plain_endpoint(host: &str, port: Option<u16>) -> Result<String, SourceError> {
    if !is_loopback(host) {
        return Err(plaintext_refused(host, "`UseDevelopmentEmulator=true`"));
    }
    Ok(format!("amqp://{host}:{}", port.unwrap_or(PLAIN_PORT)))
}

fn plaintext_refused(host: &str, what: &str) -> SourceError {
    access(
        format!("{what} means plaintext, and `{host}` is not on this machine"),
        Some("plaintext AMQP is for loopback alone; use `amqps://`"),
    )
}

/// The client verifies names, not addresses: on loopback the name is `localhost`.
fn tls_endpoint(host: &str, port: u16) -> String {
    let host = if is_loopback(host) { "localhost" } else { host };
    format!("amqps://{host}:{port}")
}

fn declared_endpoint(declared: &str) -> Result<String, SourceError> {
    const HINT: &str = "as in `amqps://host:5671`, or `amqp://localhost:5672`";
    let url = Url::parse(declared).map_err(|_| access(format!("endpoint `{declared}` is not a URL"), Some(HINT)))?;
    let host = url
        .host_str()
        .filter(|host| !host.is_empty())
        .ok_or_else(|| access(format!("endpoint `{declared}` names no host"), Some(HINT)))?;
    match url.scheme() {
        "amqps" => Ok(url.port().map_or_else(|| format!("amqps://{host}"), |port| tls_endpoint(host, port))),
        "amqp" if is_loopback(host) => plain_endpoint(host, url.port()),
        "amqp" => Err(plaintext_refused(host, "an `amqp://` endpoint")),
        other => Err(access(format!("endpoint `{declared}` has scheme `{other}`"), Some(HINT))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Classify, Kind};

    const KEY: &str = "SharedAccessKeyName=listen;SharedAccessKey=c2VjcmV0PT0=";

    fn by_connection_string(text: &str) -> EventHubsSpec {
        EventHubsSpec { access: EventHubsAccess::ConnectionString(Secret::new(text)), id: None, endpoint: None }
    }

    fn dialled(text: &str) -> Result<(String, Option<String>), String> {
        Access::try_new(&by_connection_string(text), "leads")
            .map(|access| (access.namespace, access.endpoint))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn a_connection_string_says_what_to_dial() {
        let cases = [
            (format!("Endpoint=sb://insurer.servicebus.windows.net/;{KEY}"), "insurer.servicebus.windows.net", None),
            (
                format!("endpoint = sb://insurer.servicebus.windows.net;{KEY};EntityPath=leads"),
                "insurer.servicebus.windows.net",
                None,
            ),
            (
                format!("Endpoint=sb://localhost;{KEY};UseDevelopmentEmulator=true;"),
                "localhost",
                Some("amqp://localhost:5672"),
            ),
            (
                format!("Endpoint=sb://127.0.0.1:41234;{KEY};UseDevelopmentEmulator=true"),
                "127.0.0.1",
                Some("amqp://127.0.0.1:41234"),
            ),
            (format!("Endpoint=sb://localhost:41234;{KEY}"), "localhost", Some("amqps://localhost:41234")),
            (
                format!("Endpoint=sb://127.0.0.1:41234;{KEY};UseDevelopmentEmulator=false"),
                "127.0.0.1",
                Some("amqps://localhost:41234"),
            ),
        ];
        for (text, host, endpoint) in cases {
            assert_eq!(dialled(&text), Ok((host.to_owned(), endpoint.map(str::to_owned))), "{text}");
        }
    }

    #[test]
    fn a_connection_string_that_cannot_work_is_refused_without_its_key() {
        let cases = [
            (KEY.to_owned(), "`Endpoint` is missing"),
            ("Endpoint=sb://insurer.servicebus.windows.net".to_owned(), "`SharedAccessKeyName` is missing"),
            (format!("Endpoint=sb://insurer.servicebus.windows.net;{KEY};EntityPath=claims"), "for hub `claims`"),
            (format!("Endpoint=sb://insurer.servicebus.windows.net;{KEY};UseDevelopmentEmulator=true"), "plaintext"),
            (format!("Endpoint=sb://localhost.evil.example;{KEY};UseDevelopmentEmulator=true"), "plaintext"),
            ("Endpoint=sb://a.b;c2VjcmV0".to_owned(), "part 2"),
        ];
        for (text, words) in cases {
            let error = dialled(&text).expect_err(&text);
            assert!(error.contains(words), "{error}");
            assert!(!error.contains("c2VjcmV0"), "{error}");
        }
    }

    #[test]
    fn plaintext_endpoints_are_for_loopback_alone() {
        for (declared, expected) in [
            ("amqps://proxy.example:5671", Some("amqps://proxy.example:5671")),
            ("amqps://127.0.0.1:9999", Some("amqps://localhost:9999")),
            ("amqp://[::1]:5673", Some("amqp://[::1]:5673")),
            ("amqp://10.0.0.1:5672", None),
            ("https://insurer.servicebus.windows.net", None),
            ("proxy.example", None),
        ] {
            let mut spec = by_connection_string(&format!("Endpoint=sb://insurer.servicebus.windows.net;{KEY}"));
            spec.endpoint = Some(declared.to_owned());
            match (Access::try_new(&spec, "leads"), expected) {
                (Ok(access), Some(expected)) => assert_eq!(access.endpoint.as_deref(), Some(expected)),
                (Err(error), None) => assert_eq!(error.kind(), Kind::Config),
                (result, _) => panic!("{declared}: {:?}", result.map(|access| access.endpoint)),
            }
        }
    }
}
