//! The one thing that the controllers ask the storage layer: is a silent node's engine silent there too?

use anyhow::Result;
use controllers::{Contact, StorageContact};
use replication::StorageConfig;

/// The stores, as the controllers see them.
pub struct Stores {
    _config: Option<StorageConfig>,
}

impl Stores {
    /// Without a configuration nothing is ever certain, so nothing fails over by itself.
    pub fn new(config: Option<StorageConfig>) -> Result<Self> {
        Ok(Self { _config: config })
    }
}

#[async_trait::async_trait]
impl StorageContact for Stores {
    async fn contact(&self, _node: &str) -> Contact {
        Contact::Unknown
    }
}
