//! Pods: what is to be done ([`plan`]), how ([`worker`], [`execute`], [`start`], [`kill`],
//! [`terminate`]), and what is
//! reported ([`status`], [`containers`], [`report`]). `plan`, `status`, `containers`, `env`'s service variables,
//! `expand`, `fields`, `network` and `resources` are pure.

mod accept;
pub mod build;
pub mod containers;
mod credentials;
pub mod env;
mod execute;
pub mod expand;
pub mod fields;
mod gc;
mod hooks;
mod images;
mod kill;
pub mod manager;
mod messages;
pub mod network;
pub mod plan;
mod repair;
pub mod report;
pub mod resize;
pub mod resources;
mod security;
pub mod spec;
mod start;
pub mod status;
mod terminate;
mod worker;
