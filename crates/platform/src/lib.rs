//! The declared cluster: manifest, addresses, certificates, processes, regions and node groups.
//!
//! From top to bottom: [`cluster`] holds what the user asks for (`up`, `status`, `region`, `down`, `delete`),
//! [`supervisor`] keeps the processes of a region running, [`components`] says which processes those are, [`plan`]
//! where everything is, and [`host`] does it to the machine. Nothing here knows how replication works; volumes
//! are seen only through `replication`'s admin API.

mod api;
pub mod cluster;
pub mod components;
pub mod demo;
pub mod files;
pub mod host;
pub mod images;
pub mod kubeconfig;
mod launch;
pub mod layout;
pub mod manifest;
pub mod node;
pub mod pki;
pub mod plan;
pub mod registry;
pub mod storage;
pub mod supervisor;

pub use launch::launch;
pub use layout::Layout;
