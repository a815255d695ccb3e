//! File descriptors that outlive the process that uses them, by systemd's protocol: a process hands a descriptor and a
//! name to its service manager (`FDSTORE=1`, sd_notify(3)) and gets it again from there after a restart
//! (`LISTEN_FDS`, sd_listen_fds(3)). What is connected to the descriptor, for example a FUSE mount, notices a pause.
//!
//! - [`Manager`] and [`inherited`]: the side of the process. They work under systemd too
//!   (`FileDescriptorStoreMax=` in the unit).
//! - [`Store`] and [`pass`]: the side of the service manager.
//!
//! Here a name stands for one descriptor: a second one of that name replaces the first. systemd keeps both, and keeps one of
//! two that are the same, so that a process which uses a new name for each new descriptor sees the same with both.

mod manager;
mod message;
mod process;
mod store;

pub use manager::Manager;
pub use process::{PID_VARIABLE, inherited, is_passed, pass};
pub use store::Store;

/// Where a service manager listens (sd_notify(3)).
pub const SOCKET_VARIABLE: &str = "NOTIFY_SOCKET";
