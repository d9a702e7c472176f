//! Object storage from a URL and the project's credentials.
//!
//! A [`Location`] is a place in storage together with what it takes to get there. Folders,
//! `az://container/path` and `abfss://container@account.dfs.core.windows.net/path` are known.

pub mod credential;

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use object_store::ObjectStore;
use object_store::prefix::PrefixStore;
use url::Url;

use crate::config::spec::AzureStorageSpec;
use crate::error::{Classify, Kind, Retry};

#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    #[error("storage url `{url}` can't be used: {reason}")]
    Url { url: String, reason: String },
    #[error("folder `{}` can't be made", path.display())]
    Folder { path: PathBuf, source: std::io::Error },
    #[error("storage at `{url}` can't be opened")]
    Open { url: String, source: object_store::Error },
}

impl Classify for StorageError {
    fn kind(&self) -> Kind {
        match self {
            Self::Url { .. } => Kind::Config,
            Self::Folder { .. } | Self::Open { .. } => Kind::External,
        }
    }

    fn retry(&self) -> Retry {
        Retry::Never
    }
}

/// A place in storage, and the options that open it. Cheap to clone.
#[derive(Clone)]
pub struct Location {
    url: Url,
    options: Arc<HashMap<String, String>>,
}

impl fmt::Debug for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Location({})", self.url)
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.url.as_str())
    }
}

impl Location {
    /// Takes an absolute folder or a storage URL; does no I/O.
    ///
    /// # Errors
    /// [`StorageError::Url`] when the scheme isn't known or the URL is torn.
    pub fn resolve(url: &str, azure: Option<&AzureStorageSpec>) -> Result<Self, StorageError> {
        let wrong = |reason: String| StorageError::Url { url: url.to_owned(), reason };
        if !url.contains("://") {
            let folder = Path::new(url);
            let parsed =
                Url::from_directory_path(folder).map_err(|()| wrong("a folder must be absolute".to_owned()))?;
            return Ok(Self { url: parsed, options: Arc::default() });
        }
        let mut parsed = Url::parse(url).map_err(|error| wrong(error.to_string()))?;
        if !parsed.path().ends_with('/') {
            parsed.set_path(&format!("{}/", parsed.path()));
        }
        match parsed.scheme() {
            "file" => Ok(Self { url: parsed, options: Arc::default() }),
            "az" | "abfs" | "abfss" | "azure" | "adl" => {
                Ok(Self { url: parsed, options: Arc::new(azure.map(azure_options).unwrap_or_default()) })
            }
            other => Err(wrong(format!("scheme `{other}` is not one of file, az, abfss"))),
        }
    }

    /// A place below this one.
    pub fn join(&self, path: &str) -> Self {
        let mut url = self.url.clone();
        url.set_path(&format!("{}{}/", self.url.path(), path.trim_matches('/')));
        Self { url, options: Arc::clone(&self.options) }
    }

    pub fn url(&self) -> &Url {
        &self.url
    }

    /// Options in the form that `object_store` and delta-rs take; hold secrets.
    pub fn options(&self) -> &HashMap<String, String> {
        &self.options
    }

    /// What the blob service, and so Event Grid, calls a blob that lies at `name` in here.
    pub fn blob(&self, name: &str) -> BlobAddress {
        let option = |key: &str| self.options.get(key).map(String::as_str);
        let below = format!("{}{}", self.url.path(), encoded(name));
        let host = self.url.host_str().unwrap_or_default();
        let (account, container) = match (self.url.scheme(), self.url.username()) {
            ("file", _) => {
                let url = format!("file://{below}");
                return BlobAddress { url, account: String::new(), container: String::new(), path: name.to_owned() };
            }
            (_, "") => (option("azure_storage_account_name").unwrap_or_default(), host),
            (_, container) => (host.split('.').next().unwrap_or_default(), container),
        };
        let public = || format!("https://{account}.blob.core.windows.net");
        let endpoint = option("azure_storage_endpoint").map_or_else(public, |own| own.trim_end_matches('/').to_owned());
        BlobAddress {
            url: format!("{endpoint}/{container}{below}"),
            account: account.to_owned(),
            container: container.to_owned(),
            path: format!("{}{name}", self.url.path().trim_start_matches('/')),
        }
    }

    /// The folder, when this is one on this machine.
    pub fn folder(&self) -> Option<PathBuf> {
        (self.url.scheme() == "file").then(|| self.url.to_file_path().ok()).flatten()
    }

    /// Makes the folder where this is one; elsewhere a container must be there already.
    ///
    /// # Errors
    /// [`StorageError::Folder`]
    pub fn make(&self) -> Result<(), StorageError> {
        match self.folder() {
            Some(path) => std::fs::create_dir_all(&path).map_err(|source| StorageError::Folder { path, source }),
            None => Ok(()),
        }
    }

    /// An object store whose root is this place.
    ///
    /// # Errors
    /// [`StorageError::Open`] when the credentials or the URL don't fit.
    pub fn object_store(&self) -> Result<Arc<dyn ObjectStore>, StorageError> {
        self.make()?;
        let (store, path) = object_store::parse_url_opts(&self.url, self.options.iter())
            .map_err(|source| StorageError::Open { url: self.url.to_string(), source })?;
        Ok(Arc::new(PrefixStore::new(store, path)))
    }
}

/// A blob by the names that the blob service has for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlobAddress {
    /// Percent-encoded; of a folder on this machine a `file://` URL.
    pub url: String,
    pub account: String,
    pub container: String,
    /// Below its container, as it is.
    pub path: String,
}

/// What stands in a path as it is by the rules of the web, slashes included.
fn encoded(name: &str) -> String {
    use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
    const KEPT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'.').remove(b'_').remove(b'~');
    utf8_percent_encode(name, KEPT).to_string()
}

/// What `object_store` and delta-rs take to sign in; holds secrets.
pub fn azure_options(spec: &AzureStorageSpec) -> HashMap<String, String> {
    let mut options = HashMap::new();
    let mut put = |key: &str, value: &str| options.insert(key.to_owned(), value.to_owned());
    if let Some(account) = &spec.account_name {
        put("azure_storage_account_name", account);
    }
    if let Some(key) = &spec.account_key {
        put("azure_storage_account_key", key.reveal());
    }
    if let Some(token) = &spec.sas_token {
        put("azure_storage_sas_token", token.reveal());
    }
    if let Some(endpoint) = &spec.endpoint {
        put("azure_storage_endpoint", endpoint);
        if endpoint.starts_with("http://") {
            // Configuration lets plain http through for loopback alone.
            put("allow_http", "true");
        }
    }
    if spec.account_key.is_none() && spec.sas_token.is_none() {
        for (variable, option) in [
            ("AZURE_CLIENT_ID", "azure_storage_client_id"),
            ("AZURE_TENANT_ID", "azure_storage_tenant_id"),
            ("AZURE_CLIENT_SECRET", "azure_storage_client_secret"),
            ("AZURE_FEDERATED_TOKEN_FILE", "azure_federated_token_file"),
            ("AZURE_AUTHORITY_HOST", "azure_storage_authority_host"),
        ] {
            if let Ok(value) = std::env::var(variable) {
                put(option, &value);
            }
        }
    }
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_and_what_lies_below_it_have_urls() {
        let lake = Location::resolve("/tmp/la ke", None).expect("an absolute folder");
        assert_eq!(lake.join("bronze/leads").url().as_str(), "file:///tmp/la%20ke/bronze/leads/");
        assert_eq!(lake.folder(), Some(PathBuf::from("/tmp/la ke")));
    }

    #[test]
    fn a_blob_has_the_name_that_its_service_gives_it() {
        let azure = AzureStorageSpec {
            account_name: Some("devstoreaccount1".to_owned()),
            account_key: Some(crate::config::spec::Secret::new("a2V5")),
            sas_token: None,
            endpoint: Some("http://127.0.0.1:10000/devstoreaccount1".to_owned()),
        };
        let at = |url: &str, azure: Option<&AzureStorageSpec>| {
            let blob = Location::resolve(url, azure).expect("a place").blob("leads/a b.avro");
            (blob.url, blob.container)
        };
        assert_eq!(
            at("az://capture/x", Some(&azure)),
            ("http://127.0.0.1:10000/devstoreaccount1/capture/x/leads/a%20b.avro".to_owned(), "capture".to_owned())
        );
        assert_eq!(
            at("abfss://capture@insurer.dfs.core.windows.net", None),
            ("https://insurer.blob.core.windows.net/capture/leads/a%20b.avro".to_owned(), "capture".to_owned())
        );
        assert_eq!(at("/tmp/la ke", None).0, "file:///tmp/la%20ke/leads/a%20b.avro");
    }

    #[test]
    fn an_unknown_scheme_is_named() {
        let error = Location::resolve("s3://bucket/x", None).expect_err("s3 is not known");
        assert!(error.to_string().contains("`s3`"), "{error}");
    }
}
