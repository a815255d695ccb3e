//! Persistent volumes: the marriage of claims and volumes ([`binder`], with the decisions in [`matching`]),
//! their protection while in use ([`protection`]), claims of ephemeral volumes ([`ephemeral`]), and the
//! attachment of volumes to nodes ([`attach`]).

pub mod attach;
pub mod binder;
pub mod ephemeral;
pub mod matching;
pub mod protection;
