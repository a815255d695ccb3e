//! What every API client of Hikube shares: the connection, leader election, events, caches and work queues.
//! Scheduler, controllers, kubelet, proxy and CSI build on it and on nothing else of Hikube's control plane, so
//! that each also works against an upstream API server.

mod connect;
mod elect;
pub mod events;
pub mod informer;
pub mod pods;
pub mod quantity;
pub mod queue;
pub mod resources;
pub mod select;

pub use connect::{Connection, Error, connect};
pub use elect::{Election, lead};
pub use informer::{Change, Informer, Key};
pub use queue::{Outcome, Queue};
