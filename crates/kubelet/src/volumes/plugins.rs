//! CSI drivers.

/// Drivers.
#[derive(Default)]
pub struct Plugins {}

impl Plugins {
    /// Runs.
    pub async fn run(&self, _: &crate::context::Context) {
        std::future::pending::<()>().await;
    }
}
