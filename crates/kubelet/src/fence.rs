//! Fencing.
use std::sync::Arc;
use tokio::sync::Notify;

/// Whether pods may start.
#[derive(Default)]
pub struct Fence {}

impl Fence {
    /// Whether the pod may start.
    pub fn may_start(&self, _: &str, _: &Arc<Notify>) -> bool {
        true
    }
}

impl Fence {
    /// New.
    pub fn new(_: &crate::Config) -> Self {
        Self {}
    }
    /// Fenced.
    pub fn is_fenced(&self) -> bool {
        false
    }
    /// Runs.
    pub async fn run(&self, _: &crate::context::Context) {
        std::future::pending::<()>().await;
    }
}
