//! Server and client configurations whose certificate is read again when its file changes.

use crate::Error;
use arc_swap::ArcSwap;
use rustls::client::ResolvesClientCert;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore, ServerConfig, SignatureScheme};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

/// Where a component's certificate, key and trusted authority lie, as PEM files.
#[derive(Clone, Debug)]
pub struct IdentityFiles {
    /// Certificate chain, leaf first.
    pub cert: PathBuf,
    /// Private key (PKCS#8 or SEC1).
    pub key: PathBuf,
    /// Authority that signs the peers' certificates.
    pub ca: PathBuf,
}

/// Whether a server asks its clients for certificates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAuth {
    /// A connection without a valid client certificate is refused.
    Required,
    /// A client may come without a certificate (the API server's token clients); a wrong one is refused.
    Optional,
}

/// Makes ring the process-wide provider of cryptography. Call it first in every process and test.
pub fn install_provider() {
    // A second call finds the provider already there, which is what it wants.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// A server configuration with the given identity; `alpn` lists protocols, preferred first.
pub fn server_config(
    files: &IdentityFiles,
    auth: ClientAuth,
    alpn: &[&[u8]],
) -> Result<Arc<ServerConfig>, Error> {
    install_provider();
    let roots = Arc::new(read_roots(&files.ca)?);
    let mut builder = WebPkiClientVerifier::builder(roots);
    if auth == ClientAuth::Optional {
        builder = builder.allow_unauthenticated();
    }
    let verifier = builder.build().map_err(|e| Error::Content {
        path: files.ca.clone(),
        reason: e.to_string(),
    })?;
    let resolver = Arc::new(Reloading::new(files)?);
    let mut config = ServerConfig::builder()
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(resolver);
    config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
    Ok(Arc::new(config))
}

/// A client configuration that presents the given identity and trusts its authority.
pub fn client_config(files: &IdentityFiles, alpn: &[&[u8]]) -> Result<Arc<ClientConfig>, Error> {
    install_provider();
    let roots = read_roots(&files.ca)?;
    let resolver = Arc::new(Reloading::new(files)?);
    let mut config = ClientConfig::builder()
        .with_root_certificates(roots)
        .with_client_cert_resolver(resolver);
    // A resumed session would go on showing the certificate of its first handshake, past its end.
    config.resumption = rustls::client::Resumption::disabled();
    config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
    Ok(Arc::new(config))
}

fn read_roots(path: &Path) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    for cert in read_certs(path)? {
        roots.add(cert).map_err(|e| Error::Content {
            path: path.into(),
            reason: e.to_string(),
        })?;
    }
    Ok(roots)
}

fn read_certs(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let bytes = read(path)?;
    let certs: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    let certs = certs.map_err(|e| Error::Content {
        path: path.into(),
        reason: format!("not PEM: {e}"),
    })?;
    if certs.is_empty() {
        return Err(Error::Content {
            path: path.into(),
            reason: "holds no certificate".into(),
        });
    }
    Ok(certs)
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    std::fs::read(path).map_err(|source| Error::File {
        action: "read",
        path: path.into(),
        source,
    })
}

/// What a file that was replaced differs in. Its time alone does not tell: the kernel's clock of files stands still for
/// some milliseconds.
type Stamp = Option<(SystemTime, u64, u64)>;

/// A certified key that follows its file: each handshake looks whether it was replaced.
#[derive(Debug)]
struct Reloading {
    files: IdentityFiles,
    current: ArcSwap<(Stamp, Arc<CertifiedKey>)>,
}

impl Reloading {
    fn new(files: &IdentityFiles) -> Result<Self, Error> {
        let stamp = stamp(&files.cert);
        let key = Arc::new(load(files)?);
        Ok(Self {
            files: files.clone(),
            current: ArcSwap::from_pointee((stamp, key)),
        })
    }

    fn key(&self) -> Arc<CertifiedKey> {
        let stamp = stamp(&self.files.cert);
        let current = self.current.load();
        if stamp == current.0 {
            return current.1.clone();
        }
        match load(&self.files) {
            Ok(key) => {
                let key = Arc::new(key);
                self.current.store(Arc::new((stamp, key.clone())));
                key
            }
            Err(error) => {
                // A renewal writes the key before the certificate; between the two the old pair still works.
                tracing::debug!(%error, "kept the previous certificate");
                current.1.clone()
            }
        }
    }
}

fn stamp(path: &Path) -> Stamp {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.ino(), metadata.len()))
}

fn load(files: &IdentityFiles) -> Result<CertifiedKey, Error> {
    let certs = read_certs(&files.cert)?;
    let key = PrivateKeyDer::from_pem_slice(&read(&files.key)?).map_err(|e| Error::Content {
        path: files.key.clone(),
        reason: format!("not a private key: {e}"),
    })?;
    let signer = rustls::crypto::ring::sign::any_supported_type(&key)?;
    let certified = CertifiedKey::new(certs, signer);
    certified.keys_match()?;
    Ok(certified)
}

impl ResolvesServerCert for Reloading {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.key())
    }
}

impl ResolvesClientCert for Reloading {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.key())
    }

    fn has_certs(&self) -> bool {
        true
    }
}
