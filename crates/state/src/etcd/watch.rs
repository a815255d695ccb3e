//! The watch of the whole key space. It reconnects from the revision after the last one delivered, to another
//! member, when the connection breaks, or when it has not reached a revision that is known to exist.
//!
//! All keys are watched, not a prefix, because every revision then shows as an event: the watch has reached
//! revision R exactly when it delivered an event of R or later. etcd's own progress notifications prove
//! nothing before 3.4.31 and 3.5.13.

use super::member::Members;
use crate::{Change, Error, WatchBatch};
use protos::etcdserverpb::watch_client::WatchClient;
use protos::etcdserverpb::watch_request::RequestUnion;
use protos::etcdserverpb::{WatchCreateRequest, WatchRequest, WatchResponse};
use protos::mvccpb::event::EventType;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tonic::Streaming;

/// How long the watch may lag behind a known revision before another member is asked.
const LAG_LIMIT: Duration = Duration::from_secs(1);
/// How long the watch may take to be created.
const CREATE_TIMEOUT: Duration = Duration::from_secs(2);
/// First and longest pause between two attempts to connect.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));
/// A page of watched events may hold many objects.
const MAX_MESSAGE_BYTES: usize = 512 << 20;

/// Why one connection ended.
enum End {
    /// The receiver is gone.
    Closed,
    /// The watch cannot go on.
    Fatal(Error),
    /// Connect again.
    Broken(String),
}

/// Delivers every change from revision `next` on, until the receiver is dropped or an error ends it.
pub(super) async fn run(
    members: Arc<Members>,
    mut next: i64,
    sender: mpsc::Sender<Result<WatchBatch, Error>>,
    mut expect: watch::Receiver<i64>,
) {
    let mut member = members.preferred();
    let mut pause = BACKOFF.0;
    loop {
        let before = next;
        match follow(&members, member, &mut next, &sender, &mut expect).await {
            End::Closed => return,
            End::Fatal(error) => {
                // A receiver that is gone needs no reason.
                let _ = sender.send(Err(error)).await;
                return;
            }
            End::Broken(reason) => {
                tracing::debug!(
                    member,
                    next,
                    reason,
                    "watch of the state store broke; reconnecting"
                );
            }
        }
        member = (member + 1) % members.len();
        pause = if next > before {
            BACKOFF.0
        } else {
            (pause * 2).min(BACKOFF.1)
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = sender.closed() => return,
        }
    }
}

async fn follow(
    members: &Members,
    member: usize,
    next: &mut i64,
    sender: &mpsc::Sender<Result<WatchBatch, Error>>,
    expect: &mut watch::Receiver<i64>,
) -> End {
    let mut stream = match tokio::time::timeout(CREATE_TIMEOUT, open(members, member, *next)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(reason)) => return End::Broken(reason),
        Err(_) => return End::Broken("the watch was not created in time".into()),
    };
    let mut lagging_since: Option<Instant> = None;
    loop {
        let lag_limit = lagging_since.map(|since| since + LAG_LIMIT);
        let message = tokio::select! {
            message = stream.message() => message,
            () = sender.closed() => return End::Closed,
            changed = expect.changed(), if lagging_since.is_none() => {
                if changed.is_err() {
                    return End::Closed;
                }
                if *expect.borrow_and_update() >= *next {
                    lagging_since = Some(Instant::now());
                }
                continue;
            }
            () = sleep_until(lag_limit) => {
                return End::Broken(format!("revision {} did not come", *expect.borrow()));
            }
        };
        let response = match message {
            Ok(Some(response)) => response,
            Ok(None) => return End::Broken("closed by the member".into()),
            Err(status) => return End::Broken(status.message().to_owned()),
        };
        if response.compact_revision != 0 {
            return End::Fatal(Error::Compacted {
                oldest: response.compact_revision,
            });
        }
        if response.canceled {
            return End::Broken(response.cancel_reason);
        }
        let batch = decode(response, *next);
        if batch.changes.is_empty() {
            continue;
        }
        *next = batch.revision + 1;
        // Progress, even if not all of it: the lag is measured anew.
        let behind = *expect.borrow_and_update() >= *next;
        lagging_since = behind.then(Instant::now);
        if sender.send(Ok(batch)).await.is_err() {
            return End::Closed;
        }
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

async fn open(members: &Members, member: usize, next: i64) -> Result<Streaming<WatchResponse>, String> {
    let channel = members.fresh_channel(member).map_err(|e| e.to_string())?;
    let mut client = WatchClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
    let create = WatchCreateRequest {
        // A range from and to the zero byte is every key.
        key: vec![0],
        range_end: vec![0],
        start_revision: next,
        progress_notify: false,
    };
    let request = WatchRequest {
        request_union: Some(RequestUnion::CreateRequest(create)),
    };
    // The request side stays open as long as the response is read, or etcd ends the watch.
    let requests = futures::StreamExt::chain(
        futures::stream::once(std::future::ready(request)),
        futures::stream::pending(),
    );
    let mut stream = client
        .watch(requests)
        .await
        .map_err(|e| e.message().to_owned())?
        .into_inner();
    match stream.message().await {
        Ok(Some(first)) if first.created && !first.canceled => Ok(stream),
        Ok(Some(first)) => Err(first.cancel_reason),
        Ok(None) => Err("closed".into()),
        Err(status) => Err(status.message().to_owned()),
    }
}

fn decode(response: WatchResponse, next: i64) -> WatchBatch {
    let mut batch = WatchBatch::default();
    for event in response.events {
        let deleted = event.r#type() == EventType::Delete;
        let Some(kv) = event.kv else { continue };
        if kv.mod_revision < next {
            continue;
        }
        batch.revision = batch.revision.max(kv.mod_revision);
        // Keys that are not text are not ours; their revision still counts.
        let Ok(key) = String::from_utf8(kv.key) else {
            continue;
        };
        batch.changes.push(Change {
            key,
            value: (!deleted).then(|| kv.value.into()),
            revision: kv.mod_revision,
        });
    }
    batch
}

#[cfg(test)]
mod tests {
    use super::*;
    use protos::mvccpb::{Event, KeyValue};

    #[test]
    fn delivered_revisions_are_not_repeated() {
        let event = |revision, deleted| Event {
            r#type: if deleted {
                EventType::Delete.into()
            } else {
                EventType::Put.into()
            },
            kv: Some(KeyValue {
                key: b"/a".to_vec(),
                mod_revision: revision,
                ..Default::default()
            }),
            prev_kv: None,
        };
        let response = WatchResponse {
            events: vec![event(4, false), event(5, true)],
            ..Default::default()
        };
        let batch = decode(response, 5);
        assert_eq!(batch.revision, 5);
        assert_eq!(
            batch.changes,
            vec![Change {
                key: "/a".into(),
                value: None,
                revision: 5
            }]
        );
    }
}
