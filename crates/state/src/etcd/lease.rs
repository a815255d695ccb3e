//! Leases, shared by the keys that are written at about the same time: one lease per key would cost etcd more
//! than the keys themselves.

use super::member::{Members, TRY_TIMEOUT};
use crate::Error;
use protos::etcdserverpb::LeaseGrantRequest;
use protos::etcdserverpb::lease_client::LeaseClient;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Keys that share a lease; etcd deletes them all in one step.
const MAX_KEYS: u32 = 1000;
/// A lease is shared by keys written within this part of its time, and within a minute at most.
const SHARED_PART: u32 = 20;
const SHARED_MAX: Duration = Duration::from_secs(60);

struct Lease {
    id: i64,
    reuse_until: Instant,
    keys: u32,
}

/// The leases in use, by time to live.
pub(super) struct Leases {
    members: Arc<Members>,
    current: Mutex<HashMap<Duration, Lease>>,
}

impl Leases {
    pub(super) fn new(members: Arc<Members>) -> Self {
        Self {
            members,
            current: Mutex::default(),
        }
    }

    /// A lease that ends `ttl` from now or up to a minute later.
    pub(super) async fn get(&self, ttl: Duration) -> Result<i64, Error> {
        let now = Instant::now();
        if let Some(lease) = self
            .current
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get_mut(&ttl)
            && now < lease.reuse_until
            && lease.keys < MAX_KEYS
        {
            lease.keys += 1;
            return Ok(lease.id);
        }
        let shared = (ttl / SHARED_PART).min(SHARED_MAX);
        let seconds = (ttl + shared).as_secs().max(1);
        let request = LeaseGrantRequest {
            ttl: i64::try_from(seconds).unwrap_or(i64::MAX),
            id: 0,
        };
        let answer = self
            .members
            .call("lease", TRY_TIMEOUT, |channel| async move {
                LeaseClient::new(channel).lease_grant(request).await
            })
            .await?;
        let lease = Lease {
            id: answer.value.id,
            reuse_until: now + shared,
            keys: 1,
        };
        let id = lease.id;
        self.current
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(ttl, lease);
        Ok(id)
    }

    /// Drops a lease that etcd does not know any more.
    pub(super) fn forget(&self, id: i64) {
        self.current
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|_, lease| lease.id != id);
    }
}
