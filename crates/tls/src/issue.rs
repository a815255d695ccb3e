//! Certificate authorities and the certificates they sign (ECDSA P-256).

use crate::Error;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType,
};
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What a certificate says.
#[derive(Clone, Debug, Default)]
pub struct Subject {
    /// Common name.
    pub common_name: String,
    /// Organizations.
    pub organizations: Vec<String>,
    /// DNS names, for servers.
    pub dns: Vec<String>,
    /// Addresses, for servers.
    pub ips: Vec<IpAddr>,
    /// URI names.
    pub uris: Vec<String>,
    /// Usable by a TLS server.
    pub server: bool,
    /// Usable by a TLS client.
    pub client: bool,
    /// How long it is valid from now on. The authority itself lasts ten years.
    pub validity: Duration,
}

/// A certificate authority kept in a directory as `ca.crt` and `ca.key`.
pub struct Authority {
    dir: PathBuf,
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
}

const AUTHORITY_VALIDITY: time::Duration = time::Duration::days(3650);
/// Certificates are valid from a little earlier, so that clocks that differ do not refuse them.
const BACKDATE: time::Duration = time::Duration::minutes(5);

impl Authority {
    /// Loads the authority in `dir`, or makes one named `common_name` there. The directory is made, with mode
    /// 0700, if it is missing.
    pub fn open(dir: &Path, common_name: &str) -> Result<Self, Error> {
        let (cert_path, key_path) = (dir.join("ca.crt"), dir.join("ca.key"));
        if !cert_path.exists() {
            create_dir(dir)?;
            let (cert, key) = new_authority(common_name)?;
            // The key first: a certificate without its key would be taken for a complete authority.
            write_private(&key_path, key.as_bytes())?;
            write_private(&cert_path, cert.as_bytes())?;
        }
        let read = |path: &Path| {
            std::fs::read_to_string(path).map_err(|source| Error::File {
                action: "read",
                path: path.into(),
                source,
            })
        };
        let certificate = read(&cert_path)?;
        let content = |path: &Path, e: rcgen::Error| Error::Content {
            path: path.into(),
            reason: e.to_string(),
        };
        let key = KeyPair::from_pem(&read(&key_path)?).map_err(|e| content(&key_path, e))?;
        let issuer = Issuer::from_ca_cert_pem(&certificate, key).map_err(|e| content(&cert_path, e))?;
        Ok(Self {
            dir: dir.into(),
            issuer,
            certificate,
        })
    }

    /// The authority's certificate, PEM.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// Path of the authority's certificate.
    pub fn certificate_path(&self) -> PathBuf {
        self.dir.join("ca.crt")
    }

    /// Signs a certificate and returns (certificate, key), both PEM.
    pub fn issue(&self, subject: &Subject) -> Result<(String, String), Error> {
        let failed = |e: rcgen::Error| Error::Issue {
            subject: subject.common_name.clone(),
            reason: e.to_string(),
        };
        let mut params = CertificateParams::new(subject.dns.clone()).map_err(failed)?;
        params.distinguished_name = name(&subject.common_name, &subject.organizations);
        for ip in &subject.ips {
            params.subject_alt_names.push(SanType::IpAddress(*ip));
        }
        for uri in &subject.uris {
            params
                .subject_alt_names
                .push(SanType::URI(uri.as_str().try_into().map_err(failed)?));
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        if subject.server {
            params
                .extended_key_usages
                .push(ExtendedKeyUsagePurpose::ServerAuth);
        }
        if subject.client {
            params
                .extended_key_usages
                .push(ExtendedKeyUsagePurpose::ClientAuth);
        }
        let now = time::OffsetDateTime::now_utc();
        params.not_before = now - BACKDATE;
        params.not_after = now + subject.validity;
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate().map_err(failed)?;
        let cert = params.signed_by(&key, &self.issuer).map_err(failed)?;
        Ok((cert.pem(), key.serialize_pem()))
    }

    /// Signs a certificate and writes `<name>.crt` and `<name>.key` (0600) into the authority's directory,
    /// the key first. A running component picks the pair up at its next handshake.
    pub fn issue_files(&self, name: &str, subject: &Subject) -> Result<crate::IdentityFiles, Error> {
        let (cert, key) = self.issue(subject)?;
        let files = self.files(name);
        write_private(&files.key, key.as_bytes())?;
        write_private(&files.cert, cert.as_bytes())?;
        Ok(files)
    }

    /// Where [`Authority::issue_files`] puts the pair called `name`.
    pub fn files(&self, name: &str) -> crate::IdentityFiles {
        crate::IdentityFiles {
            cert: self.dir.join(format!("{name}.crt")),
            key: self.dir.join(format!("{name}.key")),
            ca: self.certificate_path(),
        }
    }
}

/// Whether the certificate in `path` ends within `margin` from now. Unreadable counts as ended.
pub fn expires_within(path: &Path, margin: Duration) -> bool {
    let Ok(pem) = std::fs::read(path) else { return true };
    let Ok((_, pem)) = x509_parser::pem::parse_x509_pem(&pem) else {
        return true;
    };
    let Ok(cert) = pem.parse_x509() else { return true };
    let limit = time::OffsetDateTime::now_utc() + margin;
    cert.validity().not_after.timestamp() < limit.unix_timestamp()
}

fn new_authority(common_name: &str) -> Result<(String, String), Error> {
    let failed = |e: rcgen::Error| Error::Issue {
        subject: common_name.into(),
        reason: e.to_string(),
    };
    let mut params = CertificateParams::default();
    params.distinguished_name = name(common_name, &[]);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::CrlSign,
        KeyUsagePurpose::DigitalSignature,
    ];
    let now = time::OffsetDateTime::now_utc();
    params.not_before = now - BACKDATE;
    params.not_after = now + AUTHORITY_VALIDITY;
    let key = KeyPair::generate().map_err(failed)?;
    let cert = params.self_signed(&key).map_err(failed)?;
    Ok((cert.pem(), key.serialize_pem()))
}

fn name(common_name: &str, organizations: &[String]) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    for organization in organizations {
        name.push(DnType::OrganizationName, organization.as_str());
    }
    name.push(DnType::CommonName, common_name);
    name
}

fn create_dir(dir: &Path) -> Result<(), Error> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|source| Error::File {
            action: "create",
            path: dir.into(),
            source,
        })
}

/// Replaces the file in one step, readable by its owner only.
fn write_private(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let temporary = path.with_extension("new");
    let write = || -> std::io::Result<()> {
        let _ = std::fs::remove_file(&temporary);
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)
    };
    write().map_err(|source| Error::File {
        action: "write",
        path: path.into(),
        source,
    })
}
