//! The one thing that the controllers ask the storage layer: is a silent node's engine silent there too?

use anyhow::{Context, Result};
use controllers::{Contact, StorageContact};
use replication::StorageConfig;
use replication::admin::{self, Admin};

/// The stores, as the controllers see them.
pub struct Stores(Option<Admin>);

impl Stores {
    /// Without a configuration nothing is ever certain, so nothing fails over by itself.
    pub fn new(config: Option<StorageConfig>) -> Result<Self> {
        let admin = config.as_ref().map(Admin::new).transpose();
        Ok(Self(admin.context("client of the stores")?))
    }
}

#[async_trait::async_trait]
impl StorageContact for Stores {
    async fn contact(&self, node: &str) -> Contact {
        let Some(admin) = &self.0 else {
            return Contact::Unknown;
        };
        match admin.contact(node).await {
            admin::Contact::SilentFor(time) => Contact::SilentFor(time),
            admin::Contact::Heard => Contact::Heard,
            admin::Contact::Unknown => Contact::Unknown,
        }
    }
}
