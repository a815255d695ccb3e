//! The state store on etcd 3.4 to 3.6, over any number of members.

mod lease;
mod member;
mod status;
mod watch;

pub use status::{MemberStatus, status};

use crate::{Error, Page, Range, Record, StateStore, WatchStream, Written};
use async_trait::async_trait;
use bytes::Bytes;
use lease::Leases;
use member::{Address, Answer, LARGE_TRY_TIMEOUT, Members, TRY_TIMEOUT};
use protos::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use protos::etcdserverpb::kv_client::KvClient;
use protos::etcdserverpb::request_op::Request;
use protos::etcdserverpb::response_op::Response;
use protos::etcdserverpb::{
    CompactionRequest, Compare, DeleteRangeRequest, PutRequest, RangeRequest, RangeResponse, RequestOp,
    TxnRequest, TxnResponse,
};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// A page of a list may hold many objects.
const MAX_MESSAGE_BYTES: usize = 512 << 20;
/// Batches on their way from a watch to its receiver; each is at most what etcd sends at once.
const WATCH_QUEUE: usize = 64;
/// The key that read indexes ask for. It need not exist.
const READ_INDEX_KEY: &str = "/registry/health";

/// A client of an etcd cluster.
pub struct EtcdStore {
    members: Arc<Members>,
    leases: Leases,
}

impl EtcdStore {
    /// Prepares connections to the members at these URLs; `files` are needed for `https`. It does not wait for
    /// a member to be up.
    pub fn new(endpoints: &[String], files: Option<&tls::IdentityFiles>) -> Result<Self, Error> {
        let tls = files
            .map(|files| tls::client_config(files, &[b"h2"]))
            .transpose()
            .map_err(|e| Error::Configuration(e.to_string()))?;
        let addresses = endpoints
            .iter()
            .map(|url| Address::parse(url, tls.clone()))
            .collect::<Result<Vec<_>, _>>()?;
        let members = Arc::new(Members::new(addresses)?);
        Ok(Self {
            leases: Leases::new(members.clone()),
            members,
        })
    }

    async fn range_request(
        &self,
        request: RangeRequest,
        try_timeout: Duration,
    ) -> Result<RangeResponse, Error> {
        let answer = self
            .members
            .call("range", try_timeout, |channel| {
                let request = request.clone();
                async move {
                    KvClient::new(channel)
                        .max_decoding_message_size(MAX_MESSAGE_BYTES)
                        .range(request)
                        .await
                }
            })
            .await?;
        Ok(answer.value)
    }

    /// A write of `key` that happens only if its last write was `expected` (0: if it does not exist).
    ///
    /// A try whose answer was lost is repeated as it was. That is safe: whichever of the two etcd executes
    /// first changes the revision, so that the other one fails its comparison.
    async fn compare_and_write(&self, key: &str, expected: i64, write: Request) -> Result<Written, Error> {
        let request = TxnRequest {
            compare: vec![Compare {
                result: CompareResult::Equal.into(),
                target: CompareTarget::Mod.into(),
                key: key.into(),
                target_union: Some(TargetUnion::ModRevision(expected)),
            }],
            success: vec![RequestOp {
                request: Some(write.clone()),
            }],
            failure: vec![RequestOp {
                request: Some(Request::RequestRange(RangeRequest {
                    key: key.into(),
                    ..Default::default()
                })),
            }],
        };
        let answer = self
            .members
            .call("write", TRY_TIMEOUT, |channel| {
                let request = request.clone();
                async move {
                    KvClient::new(channel)
                        .max_decoding_message_size(MAX_MESSAGE_BYTES)
                        .txn(request)
                        .await
                }
            })
            .await;
        match answer {
            Ok(answer) => written(key, &write, answer),
            Err(Error::Unavailable(reason)) => Err(Error::Unknown {
                key: key.into(),
                reason,
            }),
            Err(error) => Err(error),
        }
    }

    async fn put(
        &self,
        key: &str,
        value: Bytes,
        expected: i64,
        ttl: Option<Duration>,
    ) -> Result<Written, Error> {
        let Some(ttl) = ttl else {
            let write = Request::RequestPut(PutRequest {
                key: key.into(),
                value: value.to_vec(),
                lease: 0,
            });
            return self.compare_and_write(key, expected, write).await;
        };
        // Twice: etcd may have lost the lease (a restore, a pause longer than its time), and then wants a new one.
        let mut last = false;
        loop {
            let lease = self.leases.get(ttl).await?;
            let write = Request::RequestPut(PutRequest {
                key: key.into(),
                value: value.to_vec(),
                lease,
            });
            match self.compare_and_write(key, expected, write).await {
                Err(Error::Refused { .. }) if !last => self.leases.forget(lease),
                result => return result,
            }
            last = true;
        }
    }
}

/// What the answer to a comparing write says.
fn written(key: &str, write: &Request, answer: Answer<TxnResponse>) -> Result<Written, Error> {
    let response = answer.value;
    if response.succeeded {
        return Ok(Written::Done(response.header.map_or(0, |h| h.revision)));
    }
    let current = response.responses.into_iter().find_map(|r| match r.response {
        Some(Response::ResponseRange(range)) => range.kvs.into_iter().next(),
        _ => None,
    });
    if answer.retried {
        // Was it the earlier try that won?
        match (write, &current) {
            (Request::RequestPut(put), Some(kv)) if put.value == kv.value => {
                return Ok(Written::Done(kv.mod_revision));
            }
            (Request::RequestDeleteRange(_), None) => {
                return Ok(Written::Done(response.header.map_or(0, |h| h.revision)));
            }
            _ => {
                let reason = "it was sent again, and the key has changed since".into();
                return Err(Error::Unknown {
                    key: key.into(),
                    reason,
                });
            }
        }
    }
    Ok(Written::Conflict(current.map(|kv| Record {
        key: key.into(),
        value: kv.value.into(),
        revision: kv.mod_revision,
    })))
}

#[async_trait]
impl StateStore for EtcdStore {
    async fn get(&self, key: &str) -> Result<(Option<Record>, i64), Error> {
        let request = RangeRequest {
            key: key.into(),
            ..Default::default()
        };
        let response = self.range_request(request, TRY_TIMEOUT).await?;
        let revision = response.header.map_or(0, |h| h.revision);
        let record = response.kvs.into_iter().next().map(|kv| Record {
            key: key.into(),
            value: kv.value.into(),
            revision: kv.mod_revision,
        });
        Ok((record, revision))
    }

    async fn range(&self, range: Range<'_>) -> Result<Page, Error> {
        let request = RangeRequest {
            key: range.start.into(),
            range_end: range.end.into(),
            limit: range.limit,
            revision: range.revision,
            ..Default::default()
        };
        let response = self.range_request(request, LARGE_TRY_TIMEOUT).await?;
        let newest = response.header.map_or(0, |h| h.revision);
        let records = response.kvs.into_iter().filter_map(|kv| {
            let key = String::from_utf8(kv.key).ok()?;
            Some(Record {
                key,
                value: kv.value.into(),
                revision: kv.mod_revision,
            })
        });
        Ok(Page {
            records: records.collect(),
            more: response.more,
            count: response.count,
            revision: if range.revision > 0 {
                range.revision
            } else {
                newest
            },
        })
    }

    async fn revision(&self) -> Result<i64, Error> {
        let request = RangeRequest {
            key: READ_INDEX_KEY.into(),
            count_only: true,
            ..Default::default()
        };
        let response = self.range_request(request, TRY_TIMEOUT).await?;
        Ok(response.header.map_or(0, |h| h.revision))
    }

    async fn create(&self, key: &str, value: Bytes, ttl: Option<Duration>) -> Result<Written, Error> {
        self.put(key, value, 0, ttl).await
    }

    async fn update(
        &self,
        key: &str,
        value: Bytes,
        expected: i64,
        ttl: Option<Duration>,
    ) -> Result<Written, Error> {
        self.put(key, value, expected, ttl).await
    }

    async fn delete(&self, key: &str, expected: i64) -> Result<Written, Error> {
        let write = Request::RequestDeleteRange(DeleteRangeRequest {
            key: key.into(),
            range_end: Vec::new(),
        });
        self.compare_and_write(key, expected, write).await
    }

    async fn watch(
        &self,
        from: i64,
        expect: tokio::sync::watch::Receiver<i64>,
    ) -> Result<WatchStream, Error> {
        let (sender, batches) = mpsc::channel(WATCH_QUEUE);
        tokio::spawn(watch::run(self.members.clone(), from, sender, expect));
        Ok(batches)
    }

    async fn compact(&self, revision: i64) -> Result<(), Error> {
        let request = CompactionRequest {
            revision,
            physical: false,
        };
        let result = self
            .members
            .call("compact", LARGE_TRY_TIMEOUT, |channel| async move {
                KvClient::new(channel).compact(request).await
            })
            .await;
        match result {
            // Another server was quicker.
            Ok(_) | Err(Error::Compacted { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }
}
