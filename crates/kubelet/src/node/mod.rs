//! The Node object: registration, status and lease.

mod facts;
mod lease;
mod status;

pub use facts::{capacity, filesystem};
pub use lease::run as renew_lease;
pub use status::{NodeStatus, run};
