//! Comparing writes of objects.

use super::object::DecodeError;
use super::{Object, Store, object};
use crate::http::status::Status;
use schema::Resource;
use serde_json::Value;
use state::{Record, Written};
use std::sync::Arc;
use std::time::Duration;

/// Result of replacing or deleting an object.
#[derive(Debug)]
pub enum Replaced {
    /// Done.
    Done(Arc<Object>),
    /// The object has another revision by now, or is gone.
    Conflict,
}

impl Store {
    /// Reads a record of the state store.
    pub fn decode(&self, stored: &Resource, record: &Record) -> Result<Arc<Object>, DecodeError> {
        Object::decode(
            stored,
            &record.key,
            &record.value,
            record.revision,
            self.cipher.as_ref(),
        )
    }

    /// An object as the state store has it now, not as the cache has it.
    pub async fn read(&self, resource: &Resource, key: &str) -> Result<Option<Arc<Object>>, Status> {
        let (record, revision) = self.backend().get(key).await?;
        self.expect(revision);
        let Some(record) = record else { return Ok(None) };
        let stored = self.cache(resource)?.resource;
        self.decode(stored, &record).map(Some).map_err(Status::internal)
    }

    /// Writes a new object. `None` if the name is taken.
    pub async fn create(
        &self,
        resource: &Resource,
        key: &str,
        value: Value,
        ttl: Option<Duration>,
    ) -> Result<Option<Arc<Object>>, Status> {
        let stored = self.cache(resource)?.resource;
        let bytes = object::encode(stored, key, &value, self.cipher.as_ref());
        match self.backend().create(key, bytes, ttl).await? {
            Written::Done(revision) => {
                self.expect(revision);
                Ok(Some(Object::from_value(stored, key, value, revision)))
            }
            Written::Conflict(_) => Ok(None),
        }
    }

    /// Replaces an object that has revision `expected`.
    pub async fn replace(
        &self,
        resource: &Resource,
        key: &str,
        value: Value,
        expected: i64,
        ttl: Option<Duration>,
    ) -> Result<Replaced, Status> {
        let stored = self.cache(resource)?.resource;
        let bytes = object::encode(stored, key, &value, self.cipher.as_ref());
        match self.backend().update(key, bytes, expected, ttl).await? {
            Written::Done(revision) => {
                self.expect(revision);
                Ok(Replaced::Done(Object::from_value(stored, key, value, revision)))
            }
            Written::Conflict(_) => Ok(Replaced::Conflict),
        }
    }

    /// Deletes an object in exactly this state.
    pub async fn remove(&self, object: &Object) -> Result<Replaced, Status> {
        match self.backend().delete(&object.key, object.revision).await? {
            Written::Done(revision) => {
                self.expect(revision);
                Ok(Replaced::Done(Arc::new(object.at_revision(revision))))
            }
            Written::Conflict(_) => Ok(Replaced::Conflict),
        }
    }
}
