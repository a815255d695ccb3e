//! The cluster's state behind one trait, [`StateStore`], with etcd's semantics: a single sequence of revisions,
//! writes that compare the revision they replace, reads at a revision, and watches that lose nothing.
//!
//! Invariants: nothing here knows Kubernetes; a write is reported done only when it is; a read through
//! [`StateStore::revision`] is never older than a write that was reported done before it.

pub mod embedded;
pub mod etcd;
mod store;

pub use store::{Change, Error, Page, Range, Record, StateStore, WatchBatch, WatchStream, Written};
