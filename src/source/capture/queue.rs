//! A Storage Queue, by REST: the handful of calls that announcements take.
//!
//! A message that was received is invisible to others for a while, and comes back unless it is
//! deleted. So it is deleted after the commit that accounts for what it announced, and never before.
//! Source: the Queue Storage REST API, version 2023-11-03 (as the signer of `object_store` has it).

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use object_store::azure::{AzureAuthorizer, AzureConfigKey, AzureCredential, MicrosoftAzureBuilder};
use object_store::client::{HttpRequest, HttpRequestBody};
use quick_xml::escape::escape;
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use reqwest::{Client, Method};
use serde::Deserialize;
use thiserror::Error;
use url::Url;

use crate::config::spec::AzureStorageSpec;
use crate::error::{Classify, Kind, Retry};
use crate::storage::azure_options;

/// Messages that one call gives at most: what the service allows.
const MESSAGES: usize = 32;

/// A whole request; a queue answers within milliseconds.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Debug, Error)]
pub enum QueueError {
    #[error("queue `{queue}` can't be used: {reason}")]
    Address { queue: String, reason: String },
    #[error("queue `{queue}` can't be asked")]
    Request {
        queue: String,
        #[source]
        source: reqwest::Error,
    },
    #[error("no sign-in for queue `{queue}`")]
    SignIn {
        queue: String,
        #[source]
        source: object_store::Error,
    },
    #[error("queue `{queue}` refuses to {doing}: {status} {code}")]
    Refused { queue: String, doing: &'static str, status: u16, code: String },
    #[error("queue `{queue}` answers with what isn't a list of messages")]
    Answer {
        queue: String,
        #[source]
        source: quick_xml::DeError,
    },
}

impl QueueError {
    /// The message is somebody else's by now, or gone: whoever has it settles it.
    pub fn is_gone(&self) -> bool {
        matches!(self, Self::Refused { status: 404, .. })
            || matches!(self, Self::Refused { code, .. } if code == "PopReceiptMismatch")
    }

    /// The role isn't allowed to do this.
    pub fn is_forbidden(&self) -> bool {
        matches!(self, Self::Refused { status: 403, .. })
    }
}

impl Classify for QueueError {
    fn kind(&self) -> Kind {
        match self {
            Self::Address { .. } => Kind::Config,
            _ => Kind::External,
        }
    }

    fn retry(&self) -> Retry {
        match self {
            Self::Address { .. } => Retry::Never,
            _ => Retry::Backoff,
        }
    }

    fn hint(&self) -> Option<String> {
        self.is_forbidden().then(|| {
            "grant `Storage Queue Data Contributor` on the queue, or `Storage Queue Data Message Processor` to receive \
             and delete alone"
                .to_owned()
        })
    }
}

/// A message as it was received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueMessage {
    pub id: String,
    /// Names this receiving of it: a later one makes it void.
    pub receipt: String,
    /// How often it was received, this time included.
    pub deliveries: u32,
    /// As it lies there: plain or base64.
    pub text: String,
}

/// One queue. Cheap to clone.
#[derive(Clone)]
pub struct Queue {
    url: Url,
    name: String,
    account: String,
    client: Client,
    credentials: object_store::azure::AzureCredentialProvider,
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue").field("url", &self.url.as_str()).finish_non_exhaustive()
    }
}

#[derive(Debug, Deserialize)]
struct MessagesList {
    #[serde(rename = "QueueMessage", default)]
    messages: Vec<ReceivedMessage>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ReceivedMessage {
    message_id: String,
    pop_receipt: String,
    #[serde(default)]
    dequeue_count: u32,
    #[serde(default)]
    message_text: String,
}

impl Queue {
    /// `url` is `https://<account>.queue.core.windows.net/<queue>`, or as Azurite has it
    /// `http://127.0.0.1:<port>/<account>/<queue>`. No network.
    ///
    /// # Errors
    /// When the URL or the sign-in can't be one.
    pub fn open(url: &str, azure: Option<&AzureStorageSpec>) -> Result<Self, QueueError> {
        let wrong = |reason: &str| QueueError::Address { queue: url.to_owned(), reason: reason.to_owned() };
        let parsed = Url::parse(url).map_err(|_| wrong("it is not a URL"))?;
        let host = parsed.host_str().unwrap_or_default().to_owned();
        let segments: Vec<&str> = parsed.path().split('/').filter(|segment| !segment.is_empty()).collect();
        let (account, name) = match segments.as_slice() {
            [name] => (host.split('.').next().unwrap_or_default().to_owned(), (*name).to_owned()),
            [account, name] => ((*account).to_owned(), (*name).to_owned()),
            _ => return Err(wrong("it doesn't end in the name of a queue")),
        };
        let mut builder = MicrosoftAzureBuilder::new().with_account(account.clone()).with_container_name("queue");
        for (key, value) in azure.map(azure_options).unwrap_or_default() {
            if let Ok(key) = key.parse::<AzureConfigKey>()
                && !matches!(key, AzureConfigKey::AccountName | AzureConfigKey::Endpoint)
            {
                builder = builder.with_config(key, value);
            }
        }
        let store = builder.build().map_err(|source| QueueError::SignIn { queue: name.clone(), source })?;
        let client = Client::builder()
            .timeout(REQUEST_TIMEOUT)
            // A redirect would carry the signature elsewhere.
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|source| QueueError::Request { queue: name.clone(), source })?;
        let credentials = Arc::clone(store.credentials());
        let url = parsed.as_str().trim_end_matches('/').parse().map_err(|_| wrong("it is not a URL"))?;
        Ok(Self { url, name, account, client, credentials })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// The queue for what can't be settled, by the convention of Azure Functions.
    pub fn poison(&self) -> Self {
        let name = format!("{}-poison", self.name);
        let mut url = self.url.clone();
        url.set_path(&format!("{}-poison", self.url.path()));
        Self { url, name, ..self.clone() }
    }

    /// Up to 32 messages, which nobody else sees for `invisible`.
    ///
    /// # Errors
    /// [`QueueError`]
    pub async fn receive(&self, invisible: Duration) -> Result<Vec<QueueMessage>, QueueError> {
        let (count, timeout) = (MESSAGES.to_string(), invisible.as_secs().max(1).to_string());
        let query = [("numofmessages", &*count), ("visibilitytimeout", &*timeout)];
        let text = self.call("receive", Method::GET, "/messages", &query, None).await?;
        let failed = |source| QueueError::Answer { queue: self.name.clone(), source };
        let list: MessagesList = quick_xml::de::from_str(text.trim_start_matches('\u{feff}')).map_err(failed)?;
        let messages = list.messages.into_iter();
        Ok(messages
            .map(|message| QueueMessage {
                id: message.message_id,
                receipt: message.pop_receipt,
                deliveries: message.dequeue_count,
                text: message.message_text,
            })
            .collect())
    }

    /// # Errors
    /// [`QueueError`]; [`QueueError::is_gone`] when it isn't ours any more.
    pub async fn delete(&self, message: &QueueMessage) -> Result<(), QueueError> {
        let query = [("popreceipt", &*message.receipt)];
        self.call("delete", Method::DELETE, &format!("/messages/{}", message.id), &query, None).await.map(drop)
    }

    /// Keeps a message invisible for so long from now on; it has another receipt then.
    ///
    /// # Errors
    /// [`QueueError`]; [`QueueError::is_forbidden`] for a role that may receive and delete alone.
    pub async fn renew(&self, message: &mut QueueMessage, invisible: Duration) -> Result<(), QueueError> {
        let timeout = invisible.as_secs().to_string();
        let query = [("popreceipt", &*message.receipt), ("visibilitytimeout", &*timeout)];
        let path = format!("/messages/{}", message.id);
        message.receipt = self.call("keep a message", Method::PUT, &path, &query, None).await?;
        Ok(())
    }

    /// Appends a message, as it is.
    ///
    /// # Errors
    /// [`QueueError`]
    pub async fn put(&self, text: &str) -> Result<(), QueueError> {
        let body = format!("<QueueMessage><MessageText>{}</MessageText></QueueMessage>", escape(text));
        self.call("append", Method::POST, "/messages", &[("messagettl", "-1")], Some(body)).await.map(drop)
    }

    /// Makes the queue where there is none.
    ///
    /// # Errors
    /// [`QueueError`]
    pub async fn create(&self) -> Result<(), QueueError> {
        self.call("be made", Method::PUT, "", &[], None).await.map(drop)
    }

    /// One call. The answer's text, or the new receipt where there is one.
    async fn call(
        &self,
        doing: &'static str,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
        body: Option<String>,
    ) -> Result<String, QueueError> {
        let failed = |source| QueueError::Request { queue: self.name.clone(), source };
        let mut url = self.url.clone();
        url.set_path(&format!("{}{path}", self.url.path()));
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let credential = self.credentials.get_credential().await;
        let credential = credential.map_err(|source| QueueError::SignIn { queue: self.name.clone(), source })?;
        let request = self.signed(&credential, &method, &url, body.as_deref())?;
        let (parts, _) = request.into_parts();
        let url = parts.uri.to_string();
        let sent = self.client.request(method, url).headers(parts.headers).body(body.unwrap_or_default()).send().await;
        // The address of a signed request may hold a signature.
        let answer = sent.map_err(|error| failed(error.without_url()))?;
        let status = answer.status();
        let header = |name: &str| {
            answer.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
        };
        let (receipt, code) = (header("x-ms-popreceipt"), header("x-ms-error-code"));
        let text = answer.text().await.map_err(|error| failed(error.without_url()))?;
        if status.is_success() {
            return Ok(if receipt.is_empty() { text } else { receipt });
        }
        let code = if code.is_empty() { code_of(&text) } else { code };
        Err(QueueError::Refused { queue: self.name.clone(), doing, status: status.as_u16(), code })
    }

    /// What is signed must stand there before: the client would add it afterwards.
    fn signed(
        &self,
        credential: &AzureCredential,
        method: &Method,
        url: &Url,
        body: Option<&str>,
    ) -> Result<HttpRequest, QueueError> {
        let wrong = |reason: String| QueueError::Address { queue: self.name.clone(), reason };
        let mut request = HttpRequest::new(HttpRequestBody::empty());
        *request.method_mut() = method.clone();
        *request.uri_mut() = url.as_str().parse().map_err(|_| wrong("it is not a URI".to_owned()))?;
        if let Some(body) = body {
            request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/xml"));
            request.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
        } else if *method == Method::PUT || *method == Method::POST {
            request.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(0));
        }
        AzureAuthorizer::new(credential, &self.account).authorize(&mut request);
        Ok(request)
    }
}

/// The code in the XML of an error, where no header has it.
fn code_of(text: &str) -> String {
    let code = text.split_once("<Code>").and_then(|(_, rest)| rest.split_once("</Code>"));
    code.map_or("", |(code, _)| code).chars().take(80).collect()
}
