//! Signing in with Entra: one credential for hubs, storage, registry and vault.
//!
//! | declared | token from |
//! |---|---|
//! | default | workload identity where its variables are set; else managed identity where its endpoint is; else the machine's identity (IMDS), and where nobody answers the developer tools |
//! | managed identity | App Service and Container Apps (`IDENTITY_ENDPOINT`), Azure Arc, else IMDS |
//! | workload identity | the federated token of a pod |
//! | client secret | an app registration |
//! | developer tools | `az`, then `azd` |
//!
//! Tokens are cached by each credential until shortly before they expire.

use std::collections::HashMap;
use std::env;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use azure_core::credentials::{AccessToken, TokenCredential, TokenRequestOptions};
use azure_core::error::{Error, ErrorKind, ResultExt};
use azure_core::http::headers::{HeaderName, HeaderValue, Headers};
use azure_core::http::{AsyncRawResponse, Body, ClientOptions, HttpClient, Request, Transport};
use azure_identity::{
    ClientAssertionCredentialOptions, ClientSecretCredential, ClientSecretCredentialOptions, DeveloperToolsCredential,
    ManagedIdentityCredential, ManagedIdentityCredentialOptions, UserAssignedId, WorkloadIdentityCredential,
    WorkloadIdentityCredentialOptions,
};
use thiserror::Error;

use crate::config::spec::{CredentialSpec, Secret};
use crate::error::{Classify, Kind, Retry};

/// IMDS answers within milliseconds where it exists, and nobody answers elsewhere. Shorter,
/// and a busy machine is taken for a laptop; longer, and every first command on a laptop waits.
const IMDS_WAIT: Duration = Duration::from_secs(3);

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// A sign-in that can't even be tried.
#[derive(Debug, Error)]
pub enum CredentialError {
    #[error("could not prepare the sign-in by {way}")]
    Prepare {
        way: &'static str,
        #[source]
        source: Error,
    },
    #[error("could not make the HTTP client for sign-ins")]
    Http(#[source] reqwest::Error),
    #[error("no token can be had from Entra")]
    Token(#[source] Error),
}

impl Classify for CredentialError {
    fn kind(&self) -> Kind {
        match self {
            Self::Prepare { .. } => Kind::Config,
            Self::Http(_) => Kind::Internal,
            Self::Token(_) => Kind::External,
        }
    }

    fn retry(&self) -> Retry {
        match self {
            Self::Token(_) => Retry::Backoff,
            Self::Prepare { .. } | Self::Http(_) => Retry::Never,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Prepare { way: "workload identity", .. } => {
                Some("workload identity needs AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_FEDERATED_TOKEN_FILE".into())
            }
            _ => None,
        }
    }
}

/// A sign-in that gives plain tokens, for HTTP services that aren't reached by an Azure client.
pub struct SignIn(Arc<dyn TokenCredential>);

impl SignIn {
    /// # Errors
    /// As [`credential`]
    pub fn new(spec: &CredentialSpec) -> Result<Self, CredentialError> {
        credential(spec).map(Self)
    }

    /// A bearer token for `scope`, from the credential's cache while it holds.
    ///
    /// # Errors
    /// [`CredentialError::Token`]
    pub async fn token(&self, scope: &str) -> Result<Secret, CredentialError> {
        let token = self.0.get_token(&[scope], None).await.map_err(CredentialError::Token)?;
        Ok(Secret::new(token.token.secret()))
    }
}

/// The credential of a declaration. Nothing is asked of the network yet.
///
/// # Errors
/// A declaration that can't work: a missing variable, an empty id.
pub fn credential(spec: &CredentialSpec) -> Result<Arc<dyn TokenCredential>, CredentialError> {
    let variables = |name: &str| env::var_os(name).is_some_and(|value| !value.is_empty());
    match spec {
        CredentialSpec::Default => match default_way(variables) {
            DefaultWay::WorkloadIdentity => workload_identity(),
            DefaultWay::ManagedIdentity => managed_identity(None),
            DefaultWay::ImdsThenDeveloperTools => Ok(Arc::new(ImdsElse {
                imds: managed_identity(None)?,
                tools: developer_tools()?,
                chosen: AtomicU8::new(0),
            })),
        },
        CredentialSpec::ManagedIdentity { client_id } => managed_identity(client_id.as_deref()),
        CredentialSpec::WorkloadIdentity => workload_identity(),
        CredentialSpec::ClientSecret { tenant_id, client_id, client_secret } => {
            let options = ClientSecretCredentialOptions { client_options: client_options()? };
            let secret = client_secret.reveal().to_owned().into();
            let credential = ClientSecretCredential::new(tenant_id, client_id.clone(), secret, Some(options))
                .map_err(|source| CredentialError::Prepare { way: "client secret", source })?;
            Ok(credential)
        }
        CredentialSpec::DeveloperTools => developer_tools(),
    }
}

#[derive(Debug, PartialEq, Eq)]
enum DefaultWay {
    WorkloadIdentity,
    ManagedIdentity,
    ImdsThenDeveloperTools,
}

fn default_way(is_set: impl Fn(&str) -> bool) -> DefaultWay {
    if ["AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_FEDERATED_TOKEN_FILE"].into_iter().all(&is_set) {
        DefaultWay::WorkloadIdentity
    } else if is_set("IDENTITY_ENDPOINT") {
        DefaultWay::ManagedIdentity
    } else {
        DefaultWay::ImdsThenDeveloperTools
    }
}

fn managed_identity(client_id: Option<&str>) -> Result<Arc<dyn TokenCredential>, CredentialError> {
    let options = ManagedIdentityCredentialOptions {
        user_assigned_id: client_id.map(|id| UserAssignedId::ClientId(id.to_owned())),
        client_options: client_options()?,
    };
    let credential = ManagedIdentityCredential::new(Some(options))
        .map_err(|source| CredentialError::Prepare { way: "managed identity", source })?;
    Ok(credential)
}

fn workload_identity() -> Result<Arc<dyn TokenCredential>, CredentialError> {
    let options = WorkloadIdentityCredentialOptions {
        credential_options: ClientAssertionCredentialOptions { client_options: client_options()? },
        ..WorkloadIdentityCredentialOptions::default()
    };
    let credential = WorkloadIdentityCredential::new(Some(options))
        .map_err(|source| CredentialError::Prepare { way: "workload identity", source })?;
    Ok(credential)
}

fn developer_tools() -> Result<Arc<dyn TokenCredential>, CredentialError> {
    let credential = DeveloperToolsCredential::new(None)
        .map_err(|source| CredentialError::Prepare { way: "developer tools", source })?;
    Ok(credential)
}

/// The machine's identity where it answers in time, else the developer tools; the first that
/// gave a token is kept.
struct ImdsElse {
    imds: Arc<dyn TokenCredential>,
    tools: Arc<dyn TokenCredential>,
    chosen: AtomicU8,
}

const CHOSE_IMDS: u8 = 1;
const CHOSE_TOOLS: u8 = 2;

impl fmt::Debug for ImdsElse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ImdsElse").finish_non_exhaustive()
    }
}

#[async_trait]
impl TokenCredential for ImdsElse {
    async fn get_token(
        &self,
        scopes: &[&str],
        options: Option<TokenRequestOptions<'_>>,
    ) -> azure_core::Result<AccessToken> {
        match self.chosen.load(Ordering::Relaxed) {
            CHOSE_IMDS => return self.imds.get_token(scopes, options).await,
            CHOSE_TOOLS => return self.tools.get_token(scopes, options).await,
            _ => {}
        }
        let first = match tokio::time::timeout(IMDS_WAIT, self.imds.get_token(scopes, options.clone())).await {
            Ok(Ok(token)) => {
                self.chosen.store(CHOSE_IMDS, Ordering::Relaxed);
                return Ok(token);
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no machine identity answered".to_owned(),
        };
        let token = self.tools.get_token(scopes, options).await.with_context_fn(ErrorKind::Credential, || {
            format!("neither managed identity ({first}) nor the developer tools gave a token")
        })?;
        self.chosen.store(CHOSE_TOOLS, Ordering::Relaxed);
        Ok(token)
    }
}

fn client_options() -> Result<ClientOptions, CredentialError> {
    let client = reqwest::Client::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .timeout(REQUEST_TIMEOUT)
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .map_err(CredentialError::Http)?;
    Ok(ClientOptions { transport: Some(Transport::new(Arc::new(Http(client)))), ..ClientOptions::default() })
}

/// `azure_core`'s own client is behind a feature that would add `stream` to reqwest for the
/// whole tree; sign-ins send and receive a few hundred bytes.
#[derive(Debug)]
struct Http(reqwest::Client);

#[async_trait]
impl HttpClient for Http {
    async fn execute_request(&self, request: &Request) -> azure_core::Result<AsyncRawResponse> {
        let method = reqwest::Method::from_bytes(request.method().as_str().as_bytes())
            .with_context(ErrorKind::Other, "the sign-in request has an unknown method")?;
        let mut outgoing = self.0.request(method, request.url().clone());
        for (name, value) in request.headers().iter() {
            outgoing = outgoing.header(name.as_str(), value.as_str());
        }
        if let Body::Bytes(bytes) = request.body() {
            outgoing = outgoing.body(bytes.clone());
        }
        let response = outgoing.send().await.map_err(|error| {
            let kind = if error.is_connect() { ErrorKind::Connection } else { ErrorKind::Io };
            Error::with_error(kind, error, "the sign-in request failed")
        })?;
        let status = response.status().as_u16().into();
        let headers: HashMap<HeaderName, HeaderValue> = response
            .headers()
            .iter()
            .filter_map(|(name, value)| {
                let value = value.to_str().ok()?;
                Some((HeaderName::from(name.as_str().to_owned()), HeaderValue::from(value.to_owned())))
            })
            .collect();
        let body = response.bytes().await.with_context(ErrorKind::Io, "the answer to a sign-in broke off")?;
        Ok(AsyncRawResponse::from_bytes(status, Headers::from(headers), body))
    }
}

#[cfg(test)]
mod tests {
    use azure_core::credentials::Secret as AzureSecret;
    use azure_core::time::OffsetDateTime;

    use super::*;
    use crate::config::spec::Secret;

    #[test]
    fn the_default_follows_the_environment() {
        let with = |names: &[&str]| default_way(|name| names.contains(&name));
        let pod = ["AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_FEDERATED_TOKEN_FILE", "IDENTITY_ENDPOINT"];
        assert_eq!(with(&pod), DefaultWay::WorkloadIdentity);
        assert_eq!(with(&pod[1..]), DefaultWay::ManagedIdentity);
        assert_eq!(with(&pod[..2]), DefaultWay::ImdsThenDeveloperTools);
    }

    #[test]
    fn a_client_secret_without_an_id_is_a_config_error_that_does_not_show_the_secret() {
        let spec = CredentialSpec::ClientSecret {
            tenant_id: "tenant".into(),
            client_id: String::new(),
            client_secret: Secret::new("hunter2"),
        };
        let error = credential(&spec).expect_err("the client id is empty");
        assert_eq!(error.kind(), Kind::Config);
        assert!(!format!("{error:?}").contains("hunter2"));
    }

    #[derive(Debug)]
    struct Says(Option<&'static str>);

    #[async_trait]
    impl TokenCredential for Says {
        async fn get_token(&self, _: &[&str], _: Option<TokenRequestOptions<'_>>) -> azure_core::Result<AccessToken> {
            match self.0 {
                Some("silence") => std::future::pending().await,
                Some(token) => Ok(AccessToken::new(AzureSecret::new(token.to_owned()), OffsetDateTime::now_utc())),
                None => Err(Error::with_message(ErrorKind::Credential, "no token here")),
            }
        }
    }

    fn chain(imds: Option<&'static str>, tools: Option<&'static str>) -> ImdsElse {
        ImdsElse { imds: Arc::new(Says(imds)), tools: Arc::new(Says(tools)), chosen: AtomicU8::new(0) }
    }

    #[tokio::test]
    async fn the_tools_are_asked_where_no_machine_identity_answers() {
        for imds in [None, Some("silence")] {
            let token = chain(imds, Some("cli")).get_token(&["scope"], None).await.expect("the tools have one");
            assert_eq!(token.token.secret(), "cli");
        }
        let token = chain(Some("machine"), Some("cli")).get_token(&["scope"], None).await.expect("a token");
        assert_eq!(token.token.secret(), "machine");
    }

    #[tokio::test]
    async fn an_error_names_both_ways() {
        let error = chain(None, None).get_token(&["scope"], None).await.expect_err("nobody has one");
        let words = error.to_string();
        assert!(words.contains("managed identity (no token here)") && words.contains("developer tools"), "{words}");
    }
}
