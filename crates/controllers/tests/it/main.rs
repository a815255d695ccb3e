//! Scheduler and controllers against a real etcd and API server. Kubelets, provisioner and attacher are played
//! by ordinary clients that do what those would do to the API.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod batch;
mod cluster;
mod failover;
mod lifecycle;
mod more;
mod players;
mod volumes;
mod workloads;
