//! Addresses in declarations: folders, storage URLs, endpoints, hosts.
//!
//! Plaintext is for loopback alone: a token or a key must never cross a network in the clear.

use std::net::IpAddr;
use std::path::{Component, Path, PathBuf};

use url::{Host, Url};

/// What is wrong, and what to write instead.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wrong {
    /// Completes "`…` …".
    pub what: String,
    pub hint: String,
}

fn wrong<T>(what: impl Into<String>, hint: impl Into<String>) -> Result<T, Wrong> {
    Err(Wrong { what: what.into(), hint: hint.into() })
}

/// Whether a host is this machine: `localhost`, `127.0.0.0/8`, `::1`.
pub fn is_loopback(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// A folder made absolute against the project's, or an Azure URL without its last slash.
pub(super) fn location(text: &str, dir: &Path, has_account: bool) -> Result<String, Wrong> {
    let forms = "write a folder, `abfss://container@account.dfs.core.windows.net/path` or `az://container/path`";
    if text.trim().is_empty() {
        return wrong("is empty", forms);
    }
    if !text.contains("://") {
        return Ok(folder(&dir.join(text)));
    }
    let Ok(url) = Url::parse(text) else { return wrong("is not a URL", forms) };
    if url.query().is_some() || url.password().is_some() {
        return wrong("must not hold a signature or a password", "put it into `[storage.azure] sas_token`");
    }
    match url.scheme() {
        "file" => match url.to_file_path() {
            Ok(path) => Ok(folder(&path)),
            Err(()) => wrong("is not the path of a folder", forms),
        },
        "abfss" => {
            let host = url.host_str().unwrap_or_default();
            if url.username().is_empty() || !host.contains('.') {
                return wrong("must name container and account", forms);
            }
            Ok(text.trim_end_matches('/').to_owned())
        }
        "az" => {
            if url.host_str().unwrap_or_default().is_empty() {
                return wrong("must name a container", forms);
            }
            if !has_account {
                return wrong("needs an account", "set `[storage.azure] account_name`, or write an `abfss://` URL");
            }
            Ok(text.trim_end_matches('/').to_owned())
        }
        scheme => wrong(format!("can't be read: there is no storage for `{scheme}://`"), forms),
    }
}

/// A path without `.` parts and a last slash; `..` stays, since a symlink may lie before it.
fn folder(path: &Path) -> String {
    let path: PathBuf = path.components().filter(|part| *part != Component::CurDir).collect();
    path.to_string_lossy().into_owned()
}

/// An endpoint of one of two schemes, of which the plain one is for loopback alone.
pub(super) fn endpoint(text: &str, secure: &str, plain: &str) -> Result<String, Wrong> {
    let form = format!("write `{secure}://host`");
    let Ok(url) = Url::parse(text) else { return wrong("is not a URL", form) };
    if !url.username().is_empty() || url.password().is_some() || url.query().is_some() {
        return wrong("must be scheme, host, port and path alone", form);
    }
    let host = url.host_str().unwrap_or_default();
    if host.is_empty() {
        return wrong("names no host", form);
    }
    if url.scheme() == plain && !is_loopback(host) {
        let what = format!("is plaintext to `{host}`, which isn't loopback");
        return wrong(what, format!("write `{secure}://`: keys and tokens must not cross a network in the clear"));
    }
    if url.scheme() != secure && url.scheme() != plain {
        return wrong(format!("has the scheme `{}`", url.scheme()), form);
    }
    Ok(text.trim_end_matches('/').to_owned())
}

/// A host with an optional port, and nothing else.
pub fn host_and_port(text: &str) -> Option<(String, Option<u16>)> {
    if text.contains(['/', '?', '#', '@', ' ']) {
        return None;
    }
    let url = Url::parse(&format!("amqps://{text}")).ok()?;
    let host = match url.host()? {
        Host::Domain(domain) => domain.to_ascii_lowercase(),
        Host::Ipv4(ip) => ip.to_string(),
        Host::Ipv6(ip) => format!("[{ip}]"),
    };
    Some((host, url.port()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_is_loopback() {
        for host in ["localhost", "LOCALHOST", "127.0.0.1", "127.1.2.3", "[::1]", "::1"] {
            assert!(is_loopback(host), "{host}");
        }
        for host in ["localhost.example.com", "127.0.0.1.nip.io", "0.0.0.0", "10.0.0.1", "", "[::]"] {
            assert!(!is_loopback(host), "{host}");
        }
    }

    #[test]
    fn a_location_is_a_folder_or_an_azure_url() {
        let at = |text| location(text, Path::new("/project"), true);
        assert_eq!(at("lake"), Ok("/project/lake".to_owned()));
        assert_eq!(at("./lake/"), Ok("/project/lake".to_owned()));
        assert_eq!(at("/lake"), Ok("/lake".to_owned()));
        assert_eq!(at("file:///lake"), Ok("/lake".to_owned()));
        assert_eq!(at("az://c/p/"), Ok("az://c/p".to_owned()));
        assert_eq!(at("abfss://c@a.dfs.core.windows.net/p"), Ok("abfss://c@a.dfs.core.windows.net/p".to_owned()));
        for text in ["", " ", "s3://b/p", "abfss://a.dfs.core.windows.net/p", "az://", "az://c?sig=x", "a://"] {
            assert!(at(text).is_err(), "{text}");
        }
        assert!(location("az://c", Path::new("/project"), false).is_err());
    }

    #[test]
    fn plaintext_is_for_loopback_alone() {
        let at = |text| endpoint(text, "https", "http");
        assert!(at("https://insurer.servicebus.windows.net").is_ok());
        assert!(at("http://127.0.0.1:10000/devstoreaccount1").is_ok());
        assert!(at("http://[::1]:1").is_ok());
        for text in ["http://10.0.0.1", "http://localhost.example.com", "ftp://localhost", "localhost", "https://u:p@h"]
        {
            assert!(at(text).is_err(), "{text}");
        }
        assert!(endpoint("amqp://127.0.0.1:5672", "amqps", "amqp").is_ok());
        assert!(endpoint("amqp://10.0.0.1:5672", "amqps", "amqp").is_err());
    }
}
