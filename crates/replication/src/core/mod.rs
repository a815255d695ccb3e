//! The sans-IO core of the replication layer: two state machines that are fed with messages and time and never
//! do I/O on a network, read a clock or draw a random number from outside.
//!
//! - [`engine::Engine`]: the writing side of one volume, in the process of one node;
//! - [`replica::Replica`]: one region's copy of one volume, over a [`disk::Disk`];
//! - [`wire::Message`]: what they say to each other.
//!
//! # The log
//!
//! A volume is a sequence of records, numbered from 1 without gaps across epochs. A record replaces whole 4 KiB
//! blocks. The newest record of a block decides its content, so a block is fully described by (version, data)
//! where the version is the seq of that record. Each epoch begins at a recovery point `r`: every member's
//! [`types::History`] lists (epoch, first seq), so that a position is comparable only within one history.
//!
//! # Who moves data
//!
//! Replicas have no connections among themselves. A member that is behind gets what it lacks through the
//! engine: a short gap as journal records of a complete member (`FetchLog`, forwarded as `Append`), a long one as
//! blocks newer than its position (`CopyRead` from the applied state of a complete member, `CopyWrite` to the
//! learner) while the live stream goes on. Blocks carry versions, so both merge by "the higher version wins".
//! A learner is streamed only what is durably committed already, so it never holds the maximum of the log (R5).

pub mod checksum;
pub mod disk;
pub mod engine;
pub mod mutations;
pub mod replica;
pub mod rng;
pub mod types;
pub mod wire;
