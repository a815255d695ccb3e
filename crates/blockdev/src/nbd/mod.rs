//! Serving devices to NBD clients: fixed newstyle, TLS, structured replies, on Unix and TCP sockets.
//!
//! - [`wire`]: the protocol's numbers;
//! - [`options`] and [`negotiate`]: the handshake, without I/O;
//! - [`request`] and [`reply`]: what comes and goes after it, without I/O;
//! - `connection`: one client; `flight`: what it has in flight, with its bounds;
//! - [`Server`] listens.
//!
//! Requests go to the device in the order in which they come and are answered in the order in which the device
//! completes them. One device serves all connections, so a flush on one covers what any of them completed before:
//! that is what `CAN_MULTI_CONN` promises. The size is that of the moment: a client that comes again after the
//! device has grown sees the new one.

mod connection;
mod flight;
pub mod negotiate;
pub mod options;
pub mod reply;
pub mod request;
mod server;
pub mod wire;

pub use flight::{MAX_IN_FLIGHT, MAX_IN_FLIGHT_BYTES};
pub use server::{Address, Export, MAX_CONNECTIONS, Server, Tls};
