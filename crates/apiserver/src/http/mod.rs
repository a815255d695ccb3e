//! HTTP as the API server uses it: bodies, what a request asks for, how its answer is encoded, errors.

pub mod accept;
pub mod body;
pub mod events;
pub mod query;
pub mod request;
pub mod respond;
pub mod status;
