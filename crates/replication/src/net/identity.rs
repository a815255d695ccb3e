//! Who may do what on the storage network, by the URI name in the certificate.

use rustls::pki_types::{CertificateDer, pem::PemObject};
use std::path::Path;

/// What a process is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// The engine of a node: may do everything.
    Engine(String),
    /// The store of a region.
    Store(String),
    /// A control plane: may ask, and changes nothing.
    ControlPlane,
    /// The administrator: may do everything.
    Admin,
}

/// An identity on the storage network.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    /// Name of the cluster.
    pub cluster: String,
    /// What it is.
    pub role: Role,
}

impl Identity {
    /// Reads `hikube://<cluster>/engine/<node>`, `.../store/<region>`, `.../control-plane` or `.../admin`.
    pub fn parse(uri: &str) -> Option<Identity> {
        let mut parts = uri.strip_prefix("hikube://")?.split('/');
        let cluster = parts.next().filter(|c| !c.is_empty())?.to_owned();
        let kind = parts.next()?;
        let name = parts.next().filter(|n| !n.is_empty()).map(str::to_owned);
        if parts.next().is_some() {
            return None;
        }
        let role = match (kind, name) {
            ("engine", Some(node)) => Role::Engine(node),
            ("store", Some(region)) => Role::Store(region),
            ("control-plane", None) => Role::ControlPlane,
            ("admin", None) => Role::Admin,
            _ => return None,
        };
        Some(Identity { cluster, role })
    }

    /// The first identity among the URI names of a certificate chain that was verified.
    pub fn of_chain(chain: Option<&[CertificateDer<'_>]>) -> Option<Identity> {
        tls::peer_of(chain)?.uris.iter().find_map(|uri| Self::parse(uri))
    }

    /// The identity in our own certificate file.
    pub fn of_file(path: &Path) -> Result<Identity, super::Error> {
        let pem = std::fs::read(path).map_err(|source| tls::Error::File {
            action: "read",
            path: path.into(),
            source,
        })?;
        let chain: Vec<_> = CertificateDer::pem_slice_iter(&pem)
            .filter_map(Result::ok)
            .collect();
        Self::of_chain(Some(&chain)).ok_or_else(|| {
            super::Error::Tls(tls::Error::Content {
                path: path.into(),
                reason: "has no URI name of the form hikube://<cluster>/<role>".into(),
            })
        })
    }

    /// Whether it may create, delete and write volumes.
    pub fn may_write(&self) -> bool {
        matches!(self.role, Role::Engine(_) | Role::Admin)
    }
}

impl std::fmt::Display for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.role {
            Role::Engine(node) => write!(f, "hikube://{}/engine/{node}", self.cluster),
            Role::Store(region) => write!(f, "hikube://{}/store/{region}", self.cluster),
            Role::ControlPlane => write!(f, "hikube://{}/control-plane", self.cluster),
            Role::Admin => write!(f, "hikube://{}/admin", self.cluster),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_are_read_back_and_anything_else_is_refused() {
        for uri in [
            "hikube://c/engine/n-1",
            "hikube://c/store/geneva",
            "hikube://c/control-plane",
            "hikube://c/admin",
        ] {
            assert_eq!(Identity::parse(uri).unwrap().to_string(), uri);
        }
        for uri in [
            "hikube://c/engine",
            "hikube://c/engine/",
            "hikube:///admin",
            "hikube://c/admin/x",
            "hikube://c/store/a/b",
            "https://c/admin",
            "",
        ] {
            assert_eq!(Identity::parse(uri), None, "{uri}");
        }
        assert!(!Identity::parse("hikube://c/control-plane").unwrap().may_write());
        assert!(!Identity::parse("hikube://c/store/geneva").unwrap().may_write());
    }
}
