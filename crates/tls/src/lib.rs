//! TLS for every connection between components: identities that reload from disk when they are renewed,
//! who the peer is, and the issuing of certificates. One stack: rustls with ring.
//!
//! Nothing here knows what the identities mean; `platform` decides names, `apiserver` and `replication`
//! decide rights.

mod identity;
mod issue;
mod peer;
mod unverified;

pub use identity::{ClientAuth, IdentityFiles, client_config, install_provider, server_config};
pub use issue::{Authority, Subject, expires_within};
pub use peer::{Peer, peer_of};
pub use unverified::unverified_client_config;

/// What can go wrong while loading, checking or issuing certificates.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read or written.
    #[error("{action} {path}: {source}")]
    File {
        /// What was attempted, for example `read`.
        action: &'static str,
        /// On which file.
        path: std::path::PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// A file holds no usable certificate or key.
    #[error("{path}: {reason}")]
    Content {
        /// Which file.
        path: std::path::PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// rustls refused the configuration.
    #[error("TLS configuration: {0}")]
    Config(#[from] rustls::Error),
    /// A certificate could not be issued.
    #[error("issue certificate for {subject}: {reason}")]
    Issue {
        /// Common name of the certificate.
        subject: String,
        /// Why it failed.
        reason: String,
    },
}
