//! Connections on the storage network: TLS with both sides known, one per pair of processes, frames of bounded size.
//!
//! An engine has one connection to each store. Over it go pings, requests ([`control`]) and, in numbered channels,
//! one session for each attached volume. Nobody waits for a slow peer: what is to be sent goes into a bounded
//! [`outbox::Outbox`], and when that overflows the connection is dropped.

pub mod client;
pub mod control;
pub mod frame;
pub mod identity;
pub mod outbox;
pub mod version;

use std::time::Duration;

/// How often a client pings. Pings are also the heartbeats by which stores know that an engine lives.
pub const PING_INTERVAL: Duration = Duration::from_millis(1000);
/// Silence after which a client gives a store up: two pings and a half, so that one late answer does no harm.
pub const CLIENT_SILENCE: Duration = Duration::from_millis(2500);
/// Silence after which a store gives a client up. Longer than the client's, which knows first and reconnects.
pub const SERVER_SILENCE: Duration = Duration::from_millis(4000);
/// Limit for connecting, the TLS handshake and the hello together.
pub const CONNECT_TIMEOUT: Duration = Duration::from_millis(2000);

/// Why a connection cannot be made or has ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The connection failed.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// TLS is misconfigured here.
    #[error(transparent)]
    Tls(#[from] tls::Error),
    /// An address in the configuration is not `region=host:port`.
    #[error("{0:?} is not of the form region=host:port")]
    Address(String),
    /// The peer has another identity than expected, or none.
    #[error("the peer is {found:?}, not {wanted}")]
    Identity {
        /// What its certificate says.
        found: Vec<String>,
        /// What was expected.
        wanted: String,
    },
    /// The peer broke the protocol.
    #[error("protocol: {0}")]
    Protocol(String),
    /// The peer speaks another version.
    #[error(
        "the peer speaks version {theirs} of the {what}, this build only version {ours}: update the older one"
    )]
    Version {
        /// Of what.
        what: &'static str,
        /// Its version.
        theirs: u32,
        /// Ours.
        ours: u32,
    },
    /// The store does not take us.
    #[error("the store refused the connection: {0}")]
    Refused(String),
    /// Nothing was heard for too long.
    #[error("no answer within {0:?}")]
    Silent(Duration),
    /// What was to be sent exceeded its bound.
    #[error("the peer does not keep up")]
    Overflow,
}
