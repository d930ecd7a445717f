//! The certificate: from files, read again when they change, or made here.
//!
//! A changed pair that cannot be used (half written, key of another certificate) is reported once
//! and the old certificate stays in use.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, RwLock},
    time::Duration,
};

use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use tracing::{info, warn};

use crate::metrics::WebhookMetrics;

/// How often the files are read. Kubernetes changes mounted secrets about once a minute.
const CHECK_INTERVAL: Duration = Duration::from_secs(2);

/// Why a certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A file holds something else.
    #[error("{path} holds no {kind} in PEM")]
    Pem {
        /// The file.
        path: PathBuf,
        /// What was looked for.
        kind: &'static str,
        /// Why not.
        #[source]
        source: rustls::pki_types::pem::Error,
    },
    /// The pair does not fit or is of an unknown kind.
    #[error("the certificate and its key cannot be used")]
    Pair(#[source] rustls::Error),
    /// It could not be made.
    #[error("cannot make a certificate for {host:?}")]
    Make {
        /// Name or address.
        host: String,
        /// Why not.
        #[source]
        source: rcgen::Error,
    },
}

/// The certificate in use; shared with the server, replaced while it runs.
#[derive(Debug)]
pub(crate) struct CurrentCertificate(RwLock<Arc<CertifiedKey>>);

impl CurrentCertificate {
    /// Begins with this certificate.
    pub(crate) fn new(key: CertifiedKey) -> Arc<Self> {
        Arc::new(Self(RwLock::new(Arc::new(key))))
    }

    fn replace(&self, key: CertifiedKey) {
        let mut current = self
            .0
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        *current = Arc::new(key);
    }
}

impl ResolvesServerCert for CurrentCertificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let current = self
            .0
            .read()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        Some(Arc::clone(&current))
    }
}

/// A server that shows the current certificate.
///
/// # Errors
/// When the TLS library refuses its own default versions.
pub(crate) fn server(current: Arc<CurrentCertificate>) -> Result<ServerConfig, TlsError> {
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Pair)?
        .with_no_client_auth()
        .with_cert_resolver(current);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// Reads a pair.
pub(crate) fn load(cert_file: &Path, key_file: &Path) -> Result<CertifiedKey, TlsError> {
    parse(cert_file, &read(cert_file)?, key_file, &read(key_file)?)
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|source| TlsError::Read {
        path: path.to_owned(),
        source,
    })
}

fn parse(
    cert_file: &Path,
    cert: &[u8],
    key_file: &Path,
    key: &[u8],
) -> Result<CertifiedKey, TlsError> {
    let pem = |path: &Path, kind| {
        let path = path.to_owned();
        move |source| TlsError::Pem { path, kind, source }
    };
    let chain: Vec<_> = CertificateDer::pem_slice_iter(cert)
        .collect::<Result<_, _>>()
        .map_err(pem(cert_file, "certificate"))?;
    if chain.is_empty() {
        let none = rustls::pki_types::pem::Error::NoItemsFound;
        return Err(pem(cert_file, "certificate")(none));
    }
    let key = PrivateKeyDer::from_pem_slice(key).map_err(pem(key_file, "private key"))?;
    pair(chain, key)
}

fn pair(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<CertifiedKey, TlsError> {
    CertifiedKey::from_der(chain, key, &ring::default_provider()).map_err(TlsError::Pair)
}

/// Makes a certificate for a name or an address; also gives it in PEM, as its own authority.
pub(crate) fn make(host: &str) -> Result<(CertifiedKey, String), TlsError> {
    let made = rcgen::generate_simple_self_signed(vec![host.to_owned()]);
    let made = made.map_err(|source| TlsError::Make {
        host: host.to_owned(),
        source,
    })?;
    let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
    Ok((pair(vec![made.cert.der().clone()], key)?, made.cert.pem()))
}

/// Reads the files again whenever their contents change, for ever.
pub(crate) async fn follow(
    cert_file: &Path,
    key_file: &Path,
    current: &CurrentCertificate,
    metrics: &WebhookMetrics,
) {
    let mut seen = (read(cert_file).ok(), read(key_file).ok());
    loop {
        tokio::time::sleep(CHECK_INTERVAL).await;
        let now = (read(cert_file).ok(), read(key_file).ok());
        if now == seen {
            continue;
        }
        match load(cert_file, key_file) {
            Ok(key) => {
                current.replace(key);
                metrics.certificate_loaded();
                info!(file = %cert_file.display(), "the certificate changed: the new one is in use");
            }
            Err(error) => {
                metrics.certificate_failed();
                let error = anyhow::Error::new(error);
                warn!("the certificate changed but cannot be used, the old one stays: {error:#}");
            }
        }
        seen = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_made_certificate_fits_names_and_addresses() {
        for host in ["cri-resmgr-webhook.cri-resmgr.svc", "127.0.0.1"] {
            let (_, pem) = make(host).unwrap();
            assert!(pem.starts_with("-----BEGIN CERTIFICATE-----"));
        }
    }

    #[test]
    fn a_key_of_another_certificate_is_refused() {
        let certificate = rcgen::generate_simple_self_signed(vec!["a".to_owned()]).unwrap();
        let second = rcgen::generate_simple_self_signed(vec!["a".to_owned()]).unwrap();
        let fits = |key: &str| {
            let paths = (Path::new("cert"), Path::new("key"));
            parse(
                paths.0,
                certificate.cert.pem().as_bytes(),
                paths.1,
                key.as_bytes(),
            )
        };
        assert!(fits(&certificate.signing_key.serialize_pem()).is_ok());
        assert!(matches!(
            fits(&second.signing_key.serialize_pem()),
            Err(TlsError::Pair(_))
        ));
        assert!(
            fits("")
                .unwrap_err()
                .to_string()
                .contains("key holds no private key")
        );
    }
}
