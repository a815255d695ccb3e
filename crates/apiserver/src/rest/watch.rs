//! Watches: a stream of events from the cache.

use super::list::Selectors;
use super::read;
use crate::call::{Call, Response};
use crate::http::body::Body;
use crate::http::events::EventEncoder;
use crate::http::respond;
use crate::http::status::Status;
use crate::store::cache::{Cursor, TooOld};
use crate::store::{Event, EventKind, Freshness, Object, ResourceCache, Store, Version, object};
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use rand::Rng;
use schema::Resource;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// A watch without a timeout of its own ends after half an hour to an hour, so that watches spread over servers.
const DEFAULT_TIMEOUT_SECONDS: std::ops::Range<u64> = 1800..3600;
/// How often a watch that wants bookmarks gets one.
const BOOKMARK_INTERVAL: Duration = Duration::from_secs(60);
/// Events that are sent in one piece.
const BATCH: usize = 128;
/// Initial events are sent in pieces of about this size, so that a large list is never in memory twice.
const INITIAL_BYTES: usize = 64 << 10;

/// Everything that a running watch needs.
struct Watch {
    store: Arc<Store>,
    cache: Arc<ResourceCache>,
    encoder: EventEncoder,
    selectors: Selectors,
    prefix: String,
    cursor: Cursor,
    /// Objects to send before the events.
    initial: std::vec::IntoIter<Arc<Object>>,
    /// The revision to mark when they have been sent.
    initial_end: Option<i64>,
    bookmarks: bool,
    next_bookmark: Instant,
    /// Nothing is sent before this time.
    paused_until: Instant,
    deadline: Instant,
    shutdown: CancellationToken,
    ended: bool,
}

/// Answers a watch.
pub async fn watch(call: Arc<Call>, resource: &'static Resource) -> Result<Response, Status> {
    let content_type = call.accept.stream_content_type().ok_or_else(|| {
        Status::not_acceptable("application/json, application/vnd.kubernetes.protobuf;stream=watch")
    })?;
    let selectors = Selectors::read(&call, resource)?;
    let timeout = call
        .query
        .number("timeoutSeconds")?
        .and_then(|s| u64::try_from(s).ok())
        .filter(|s| *s > 0);
    let timeout = timeout.unwrap_or_else(|| rand::rng().random_range(DEFAULT_TIMEOUT_SECONDS));
    let bookmarks = call.query.flag("allowWatchBookmarks");
    let streaming_list = check_initial_events(&call)?;
    let store = call.server.store.clone();
    let cache = store.cache(resource)?.clone();
    let prefix = object::list_prefix(resource, &call.info.namespace);
    let start = match start(&call, &store, &cache, &prefix, streaming_list).await {
        // Told within the stream, as upstream does: kube-rs lists anew only then.
        Err(status) if status.code == GONE => {
            let mut out = BytesMut::new();
            let version = Version::new(resource, cache.resource);
            EventEncoder::new(call, resource, version).error(&mut out, &status);
            return Ok(respond::bytes(200, content_type, out.freeze()));
        }
        other => other?,
    };
    let now = Instant::now();
    let watch = Watch {
        encoder: EventEncoder::new(call.clone(), resource, Version::new(resource, cache.resource)),
        cursor: start.cursor,
        initial: start.objects.into_iter(),
        initial_end: (streaming_list && bookmarks).then_some(start.revision),
        next_bookmark: now + BOOKMARK_INTERVAL,
        paused_until: now,
        deadline: now + Duration::from_secs(timeout),
        shutdown: call.server.shutdown.clone(),
        ended: false,
        store,
        cache,
        selectors,
        prefix,
        bookmarks,
    };
    let chunks = futures::stream::unfold(watch, |mut watch| async move {
        let chunk = watch.next().await?;
        Some((chunk, watch))
    });
    let mut response = respond::bytes(200, content_type, Bytes::new());
    *response.body_mut() = Body::Stream(chunks.boxed());
    Ok(response)
}

/// Code of a status that says that a revision is not kept any more.
const GONE: u16 = 410;

/// Whether a streaming list is asked for, by upstream's rules.
fn check_initial_events(call: &Call) -> Result<bool, Status> {
    let wanted = call.query.optional_flag("sendInitialEvents");
    let rule = call.query.get("resourceVersionMatch");
    if wanted.is_none() && rule.is_some() {
        return Err(Status::bad_request(
            "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden for watch unless sendInitialEvents \
             is provided",
        ));
    }
    if wanted.is_some() && rule != Some("NotOlderThan") {
        return Err(Status::bad_request(
            "sendInitialEvents: Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
        ));
    }
    Ok(wanted == Some(true))
}

struct Start {
    objects: Vec<Arc<Object>>,
    cursor: Cursor,
    revision: i64,
}

async fn start(
    call: &Call,
    store: &Store,
    cache: &ResourceCache,
    prefix: &str,
    streaming_list: bool,
) -> Result<Start, Status> {
    let freshness = read::freshness(call)?;
    if let (Freshness::NotOlderThan(revision), false) = (freshness, streaming_list) {
        // A client that comes from another server may know more than this cache does yet.
        store.fresh(freshness).await?;
        let cursor = cache
            .watch_from(revision)
            .map_err(|old| too_old(revision, &old))?;
        return Ok(Start {
            objects: Vec::new(),
            cursor,
            revision,
        });
    }
    let reached = store.fresh(freshness).await?;
    let (mut objects, last, cursor) = cache.list_and_watch(prefix);
    if call.query.optional_flag("sendInitialEvents") == Some(false) {
        objects.clear();
    }
    Ok(Start {
        objects,
        cursor,
        revision: reached.max(last),
    })
}

fn too_old(revision: i64, old: &TooOld) -> Status {
    Status::expired(format!("too old resource version: {revision} ({})", old.oldest))
}

impl Watch {
    /// The next piece of the stream; `None` at its end.
    async fn next(&mut self) -> Option<Bytes> {
        if self.ended {
            return None;
        }
        let mut out = BytesMut::new();
        for object in self.initial.by_ref() {
            if self.selectors.matches(&object) {
                self.encoder.object(&mut out, EventKind::Added, &object);
                if out.len() >= INITIAL_BYTES {
                    return Some(out.freeze());
                }
            }
        }
        if let Some(revision) = self.initial_end.take() {
            self.encoder.bookmark(&mut out, revision, true);
        }
        loop {
            if self.paused_until > Instant::now() {
                tokio::select! {
                    () = tokio::time::sleep_until(self.paused_until) => {}
                    () = self.shutdown.cancelled() => return None,
                }
            }
            // Before the events: whatever is applied after it is sent later.
            let reached = self.store.revision();
            match self.cache.take(&mut self.cursor, BATCH) {
                Ok(events) => {
                    let drained = events.is_empty();
                    for event in &events {
                        self.filter(&mut out, event);
                    }
                    if !out.is_empty() {
                        self.paused_until = Instant::now() + self.cache.pause();
                        return Some(out.freeze());
                    }
                    if drained && self.bookmarks && Instant::now() >= self.next_bookmark {
                        self.next_bookmark = Instant::now() + BOOKMARK_INTERVAL;
                        self.encoder.bookmark(&mut out, reached, false);
                        return Some(out.freeze());
                    }
                    if !drained {
                        continue;
                    }
                }
                Err(old) => {
                    self.ended = true;
                    let status = Status::expired(format!(
                        "too old resource version: the watch fell behind ({})",
                        old.oldest
                    ));
                    self.encoder.error(&mut out, &status);
                    return Some(out.freeze());
                }
            }
            let next_bookmark = if self.bookmarks {
                self.next_bookmark
            } else {
                self.deadline
            };
            tokio::select! {
                alive = self.cursor.changed() => if !alive { return None },
                () = tokio::time::sleep_until(next_bookmark.min(self.deadline)) => {
                    if Instant::now() >= self.deadline {
                        return None;
                    }
                }
                () = self.shutdown.cancelled() => return None,
            }
        }
    }

    /// An object that starts or stops to match the selectors is added or deleted for this watch.
    fn filter(&mut self, out: &mut BytesMut, event: &Event) {
        if !event.object.key.starts_with(&self.prefix) {
            return;
        }
        let before = event
            .previous
            .as_ref()
            .is_some_and(|object| self.selectors.matches(object));
        let after = event.kind != EventKind::Deleted && self.selectors.matches(&event.object);
        match (before, after) {
            (false, false) => {}
            (false, true) => self.encoder.event(out, EventKind::Added, event),
            (true, true) => self.encoder.event(out, EventKind::Modified, event),
            (true, false) if event.kind == EventKind::Deleted => {
                self.encoder.event(out, EventKind::Deleted, event)
            }
            (true, false) => {
                // Its last state that matched, with the revision at which it ceased to.
                if let Some(previous) = &event.previous {
                    let object = previous.at_revision(event.object.revision);
                    self.encoder.object(out, EventKind::Deleted, &object);
                }
            }
        }
    }
}
