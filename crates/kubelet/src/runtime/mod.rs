//! The container runtime behind the CRI: a client with deadlines ([`Runtime`]), what it says about a pod
//! ([`RuntimePod`]), and the labels by which the kubelet finds its pods again after a restart.

mod call;
pub mod labels;
mod observe;
mod relist;

pub use call::{Error, Runtime};
#[cfg(test)]
pub use observe::Sandbox;
pub use observe::{Cache, ContainerRecord, RuntimePod, State, at};
pub use relist::Relist;
