//! StateStore: etcd semantics behind a trait.
