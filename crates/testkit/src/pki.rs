//! Certificates of a test cluster, in `DIR/pki`.

use anyhow::{Context, Result};
use base64::Engine;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tls::{Authority, IdentityFiles, Subject};

const VALIDITY: Duration = Duration::from_secs(30 * 24 * 3600);

/// The authorities of a test cluster.
pub struct Pki {
    dir: PathBuf,
    /// Signs clients, API server and kubelets.
    pub cluster: Authority,
    /// Signs etcd members and their clients.
    pub etcd: Authority,
}

impl Pki {
    /// Makes or loads the authorities below `dir`.
    pub fn open(dir: &Path) -> Result<Self> {
        let cluster = Authority::open(&dir.join("cluster"), "testkit-cluster-ca")?;
        let etcd = Authority::open(&dir.join("etcd"), "testkit-etcd-ca")?;
        Ok(Self {
            dir: dir.into(),
            cluster,
            etcd,
        })
    }

    /// A serving certificate of the cluster's authority for these addresses.
    pub fn server(&self, name: &str, ips: &[IpAddr]) -> Result<IdentityFiles> {
        Ok(self.cluster.issue_files(name, &server(name, ips))?)
    }

    /// A certificate of an etcd member or client.
    pub fn etcd(&self, name: &str) -> Result<IdentityFiles> {
        let local = [IpAddr::from([127, 0, 0, 1])];
        Ok(self.etcd.issue_files(name, &server(name, &local))?)
    }

    /// A client certificate of a user.
    pub fn client(&self, file: &str, user: &str, groups: &[&str]) -> Result<IdentityFiles> {
        let subject = Subject {
            common_name: user.into(),
            organizations: groups.iter().map(|g| (*g).to_owned()).collect(),
            client: true,
            validity: VALIDITY,
            ..Subject::default()
        };
        Ok(self.cluster.issue_files(file, &subject)?)
    }

    /// The key that signs service-account tokens.
    pub fn token_key(&self) -> Result<PathBuf> {
        let path = self.dir.join("sa.key");
        if !path.exists() {
            let key = rcgen::KeyPair::generate().context("generate the token key")?;
            std::fs::write(&path, key.serialize_pem())?;
        }
        Ok(path)
    }

    /// The key that encrypts Secrets.
    pub fn encryption_key(&self) -> Result<PathBuf> {
        let path = self.dir.join("encryption.key");
        if !path.exists() {
            // Random enough for a test: the digits of a fresh private key.
            let key = rcgen::KeyPair::generate().context("generate the encryption key")?;
            let der = key.serialize_der();
            let start = der.len() - 32;
            std::fs::write(
                &path,
                base64::engine::general_purpose::STANDARD.encode(&der[start..]),
            )?;
        }
        Ok(path)
    }
}

fn server(name: &str, ips: &[IpAddr]) -> Subject {
    Subject {
        common_name: name.into(),
        dns: vec![
            "localhost".into(),
            "kubernetes".into(),
            "kubernetes.default".into(),
            "kubernetes.default.svc".into(),
            "kubernetes.default.svc.cluster.local".into(),
        ],
        ips: ips.to_vec(),
        server: true,
        client: true,
        validity: VALIDITY,
        ..Subject::default()
    }
}
