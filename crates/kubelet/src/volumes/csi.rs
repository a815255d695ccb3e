//! CSI volumes (first part: not yet).
use super::{Error, Mounted, PodView};
use crate::context::Context;

/// State of CSI volumes.
#[derive(Default)]
pub struct Volumes {}

/// Makes a claim's volume ready.
pub async fn ensure(_: &Context, _: &PodView<'_>, claim: &str, _: bool) -> Result<Mounted, Error> {
    Err(Error::NotYet(format!("claim {claim}")))
}

/// Takes down.
pub async fn tear_down(_: &Context, _: &str) -> Result<(), Error> {
    Ok(())
}
