//! Certificates made on the spot, so that what goes to Azure over TLS goes over TLS here too.
//!
//! An authority of our own signs one server certificate for `localhost`, `127.0.0.1` and `::1`.
//! Clients trust it through `SSL_CERT_FILE`, which the official clients hear on Linux. Two calls
//! of [`Certificates::make`] give two authorities that know nothing of one another: the second
//! one's file is the wrong certificate of a test.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::error::{Classify, Kind};

/// The names that the server certificate is good for.
const SERVER_NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

const CA_FILE: &str = "ca.pem";
const SERVER_FILE: &str = "server.pem";
const KEY_FILE: &str = "server-key.pem";

/// What the servers of the emulator show, and what their clients must trust.
#[derive(Clone)]
pub struct Certificates {
    server: Arc<ServerConfig>,
    ca_pem: String,
    server_pem: String,
    key_pem: String,
}

impl Certificates {
    /// A new authority, and a server certificate signed by it.
    ///
    /// # Errors
    /// When the key or the certificates can't be made; not seen to happen.
    pub fn make() -> Result<Self, CertificateError> {
        let ca_key = KeyPair::generate().map_err(CertificateError::Make)?;
        let ca = CertifiedIssuer::self_signed(ca_params(), ca_key).map_err(CertificateError::Make)?;
        let server_key = KeyPair::generate().map_err(CertificateError::Make)?;
        let server =
            server_params().and_then(|params| params.signed_by(&server_key, &ca)).map_err(CertificateError::Make)?;
        Self::from_pem(ca.pem(), server.pem(), server_key.serialize_pem())
    }

    /// The certificates that lie in `dir`, or new ones written there: a restart keeps the authority.
    ///
    /// # Errors
    /// When the folder can't be read or written, or what lies in it isn't what was written.
    pub fn open(dir: &Path) -> Result<Self, CertificateError> {
        let read = |name: &str| {
            let path = dir.join(name);
            match std::fs::read_to_string(&path) {
                Ok(text) => Ok(Some(text)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                Err(source) => Err(CertificateError::File { path, source }),
            }
        };
        if let (Some(ca), Some(server), Some(key)) = (read(CA_FILE)?, read(SERVER_FILE)?, read(KEY_FILE)?) {
            return Self::from_pem(ca, server, key);
        }
        let made = Self::make()?;
        std::fs::create_dir_all(dir).map_err(|source| CertificateError::File { path: dir.to_owned(), source })?;
        made.write_ca(&dir.join(CA_FILE))?;
        write(&dir.join(SERVER_FILE), &made.server_pem)?;
        write_private(&dir.join(KEY_FILE), &made.key_pem)?;
        Ok(made)
    }

    /// The server's side of TLS, as tokio-rustls and the AMQP acceptor take it.
    pub fn server(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.server)
    }

    /// The authority's certificate, PEM.
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// Writes the authority's certificate where `SSL_CERT_FILE` can point.
    ///
    /// # Errors
    /// When the file can't be written.
    pub fn write_ca(&self, path: &Path) -> Result<(), CertificateError> {
        write(path, &self.ca_pem)
    }

    fn from_pem(ca_pem: String, server_pem: String, key_pem: String) -> Result<Self, CertificateError> {
        let chain = CertificateDer::pem_slice_iter(server_pem.as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .map_err(CertificateError::Read)?;
        let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).map_err(CertificateError::Read)?;
        // The provider is named here: with ring in the tree too, rustls can't choose one and panics.
        let server = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
            .map_err(CertificateError::Use)?;
        Ok(Self { server: Arc::new(server), ca_pem, server_pem, key_pem })
    }
}

impl std::fmt::Debug for Certificates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Certificates").finish_non_exhaustive()
    }
}

fn ca_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "Sluicebox emulator authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    years(params)
}

fn server_params() -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(SERVER_NAMES.map(str::to_owned))?;
    params.distinguished_name.push(DnType::CommonName, "Sluicebox emulator");
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    // Python's strict verification refuses a certificate that doesn't name its authority's key.
    params.use_authority_key_identifier_extension = true;
    Ok(years(params))
}

/// rcgen's own default ends in the year 4096, which some verifiers can't read.
fn years(mut params: CertificateParams) -> CertificateParams {
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2049, 1, 1);
    params
}

fn write(path: &Path, text: &str) -> Result<(), CertificateError> {
    std::fs::write(path, text).map_err(|source| CertificateError::File { path: path.to_owned(), source })
}

/// Readable by the owner alone, from the first byte on.
fn write_private(path: &Path, text: &str) -> Result<(), CertificateError> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.mode(0o600);
    }
    options
        .open(path)
        .and_then(|mut file| io::Write::write_all(&mut file, text.as_bytes()))
        .map_err(|source| CertificateError::File { path: path.to_owned(), source })
}

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    #[error("can't make a certificate")]
    Make(#[source] rcgen::Error),
    #[error("a certificate of the emulator is not PEM")]
    Read(#[source] pem::Error),
    #[error("a certificate of the emulator can't be served")]
    Use(#[source] rustls::Error),
    #[error("can't read or write `{}`", path.display())]
    File {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl Classify for CertificateError {
    fn kind(&self) -> Kind {
        match self {
            Self::Make(_) => Kind::Internal,
            Self::Read(_) | Self::Use(_) => Kind::Data,
            Self::File { .. } => Kind::User,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Read(_) | Self::Use(_) => {
                Some(format!("remove {CA_FILE}, {SERVER_FILE} and {KEY_FILE} from its folder: they are made anew"))
            }
            Self::Make(_) | Self::File { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_keeps_its_authority() {
        let dir = tempfile::tempdir().unwrap();
        let first = Certificates::open(dir.path()).unwrap();
        let second = Certificates::open(dir.path()).unwrap();
        assert_eq!(first.ca_pem(), second.ca_pem());
    }

    #[test]
    fn two_authorities_differ() {
        assert_ne!(Certificates::make().unwrap().ca_pem(), Certificates::make().unwrap().ca_pem());
    }

    #[test]
    fn debug_shows_no_key() {
        assert_eq!(format!("{:?}", Certificates::make().unwrap()), "Certificates { .. }");
    }

    #[test]
    fn a_damaged_folder_is_an_error_with_a_way_out() {
        let dir = tempfile::tempdir().unwrap();
        Certificates::open(dir.path()).unwrap();
        std::fs::write(dir.path().join(KEY_FILE), "not a key").unwrap();
        let error = Certificates::open(dir.path()).unwrap_err();
        assert!(error.hint().is_some_and(|hint| hint.contains(KEY_FILE)), "{error:?}");
    }
}
