//! What every API client of Hikube shares: the connection, leader election and events. Scheduler,
//! controllers, kubelet, proxy and CSI build on it and on nothing else of Hikube's control plane, so that each
//! also works against an upstream API server.

mod connect;
mod elect;

pub use connect::{Connection, Error, connect};
pub use elect::{Election, lead};
