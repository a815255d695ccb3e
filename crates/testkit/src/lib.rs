//! A cluster's control plane for tests and development: a PKI, real etcd members, and the API server in process.
//!
//! ```no_run
//! # async fn example() -> anyhow::Result<()> {
//! let cluster = hikube_testkit::Cluster::start().await?;
//! println!("{}", cluster.admin.display());
//! # Ok(()) }
//! ```

mod cluster;
mod etcd;
mod pki;
mod raw;

pub use cluster::{Cluster, Options, server_config};
pub use etcd::{Etcd, free_port};
pub use pki::Pki;
