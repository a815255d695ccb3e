//! Who is on the other side of a connection.

use rustls::pki_types::CertificateDer;
use x509_parser::prelude::*;

/// The identity in a verified peer certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peer {
    /// Common name: Kubernetes' user name.
    pub common_name: String,
    /// Organizations: Kubernetes' groups.
    pub organizations: Vec<String>,
    /// URI names: identities of engines and stores.
    pub uris: Vec<String>,
}

/// Reads the identity from the leaf of a chain that rustls has verified. `None` when the chain is empty or
/// its leaf cannot be parsed.
pub fn peer_of(chain: Option<&[CertificateDer<'_>]>) -> Option<Peer> {
    let leaf = chain?.first()?;
    let (_, cert) = X509Certificate::from_der(leaf.as_ref()).ok()?;
    let subject = cert.subject();
    let text = |attribute: &AttributeTypeAndValue<'_>| attribute.as_str().ok().map(str::to_owned);
    let common_name = subject
        .iter_common_name()
        .next()
        .and_then(text)
        .unwrap_or_default();
    let organizations = subject.iter_organization().filter_map(text).collect();
    let mut uris = Vec::new();
    if let Ok(Some(names)) = cert.subject_alternative_name() {
        for name in &names.value.general_names {
            if let GeneralName::URI(uri) = name {
                uris.push((*uri).to_owned());
            }
        }
    }
    Some(Peer {
        common_name,
        organizations,
        uris,
    })
}
