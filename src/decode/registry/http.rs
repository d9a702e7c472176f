//! Asking a registry over HTTP: where it is, how long an answer may take, and how large it may be.

use std::sync::Arc;
use std::time::Duration;

use reqwest::{Client, RequestBuilder, Response, Url, redirect};

use super::RegistryError;

/// Azure holds schemas of up to 1 MB; without a bound, a wrong address could fill the memory.
pub(super) const SCHEMA_BYTES_MAX: usize = 2 << 20;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A whole request. Shorter cuts off slow answers, longer holds a partition back without a word.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// A registry's address, and a client for it.
pub(super) struct Http {
    client: Client,
    base: Url,
    /// The address as words name it: without path or query.
    pub(super) endpoint: String,
}

impl Http {
    /// No network. Plain `http` is for loopback alone.
    ///
    /// Certificates are checked against the system's roots, or against those in the files that
    /// `SSL_CERT_FILE` and `SSL_CERT_DIR` name.
    pub(super) fn open(address: &str) -> Result<Self, RegistryError> {
        let (base, endpoint) = base(address)?;
        let client = Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(REQUEST_TIMEOUT)
            // A redirect would carry the sign-in elsewhere.
            .redirect(redirect::Policy::none())
            .user_agent(concat!("sluicebox/", env!("CARGO_PKG_VERSION")));
        let client = if is_loopback(&base) { client.no_proxy() } else { client };
        // A machine without any root certificates can still use an emulator: none are loaded for plain `http`.
        let client = if base.scheme() == "http" { client.tls_certs_only([]) } else { client };
        let client = client
            .build()
            .map_err(|source| RegistryError::Client { endpoint: endpoint.clone(), source: Arc::new(source) })?;
        Ok(Self { client, base, endpoint })
    }

    pub(super) fn is_plain(&self) -> bool {
        self.base.scheme() == "http"
    }

    pub(super) fn is_loopback(&self) -> bool {
        is_loopback(&self.base)
    }

    /// What tells registries apart: host and port, then the path if there is one.
    pub(super) fn name(&self) -> String {
        let authority = self.endpoint.split_once("://").map_or(&*self.endpoint, |(_, authority)| authority);
        format!("{authority}{}", self.base.path().trim_end_matches('/'))
    }

    /// An address below that of the registry; each segment is escaped as far as needed.
    pub(super) fn url(&self, segments: &[&str]) -> Url {
        let mut url = self.base.clone();
        // An address with a host has a path.
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(segments);
        }
        url
    }

    pub(super) fn get(&self, url: Url) -> RequestBuilder {
        self.client.get(url)
    }

    pub(super) fn put(&self, url: Url) -> RequestBuilder {
        self.client.put(url)
    }

    pub(super) fn post(&self, url: Url) -> RequestBuilder {
        self.client.post(url)
    }

    /// The address of the next page, which must be one of this registry's: a sign-in goes along with it.
    pub(super) fn next_page(&self, link: &str) -> Option<Url> {
        self.base.join(link).ok().filter(|url| url.origin() == self.base.origin())
    }

    pub(super) async fn send(&self, request: RequestBuilder) -> Result<Response, RegistryError> {
        request.send().await.map_err(|error| self.failed(error))
    }

    /// The whole body of an answer; `what` names it, should it be too large.
    pub(super) async fn body(&self, mut response: Response, what: &str) -> Result<Vec<u8>, RegistryError> {
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| self.failed(error))? {
            if body.len() + chunk.len() > SCHEMA_BYTES_MAX {
                return Err(RegistryError::TooLarge { id: what.to_owned(), limit: SCHEMA_BYTES_MAX });
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    fn failed(&self, error: reqwest::Error) -> RegistryError {
        let endpoint = self.endpoint.clone();
        let source = Arc::new(error.without_url());
        if source.is_timeout() {
            RegistryError::Timeout { endpoint, within: REQUEST_TIMEOUT, source }
        } else {
            RegistryError::Unreachable { endpoint, source }
        }
    }
}

/// The address and its words. What could hold a secret, a user name or a query, is refused unseen.
fn base(endpoint: &str) -> Result<(Url, String), RegistryError> {
    let refused = |shown: String, reason| Err(RegistryError::Endpoint { endpoint: shown, reason });
    // It may be anything, a connection string too: not repeated.
    let Ok(url) = Url::parse(endpoint) else { return refused("…".to_owned(), "it isn't a URL") };
    let shown = url.origin().ascii_serialization();
    if !url.username().is_empty() || url.password().is_some() || url.query().is_some() || url.fragment().is_some() {
        return refused(shown, "it holds more than scheme, host, port and path");
    }
    match url.scheme() {
        "https" if url.has_host() => Ok((url, shown)),
        "http" if is_loopback(&url) => Ok((url, shown)),
        "http" => refused(shown, "plain `http` is for loopback alone"),
        _ => refused(shown, "it isn't an `https` address"),
    }
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Domain(name)) => name.eq_ignore_ascii_case("localhost"),
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}
