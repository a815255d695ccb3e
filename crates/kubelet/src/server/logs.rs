//! `/containerLogs/<namespace>/<pod>/<container>`.

use super::{Answer, Query, find, text};
use crate::context::Context;
use crate::logs::{self, Options};
use crate::pods::containers::reported;
use crate::pods::spec;
use crate::runtime::{ContainerRecord, RuntimePod, State};
use bytes::Bytes;
use client::Informer;
use futures::StreamExt;
use http::{Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use protos::cri::ContainerState;
use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::watch;
use tokio_stream::wrappers::ReceiverStream;

/// Serves a log.
pub async fn serve(
    context: &Arc<Context>,
    pods: &Informer<Pod>,
    target: (&str, &str, &str),
    query: &Query,
) -> Answer {
    let (namespace, name, container) = target;
    let options = match options(query) {
        Ok(options) => options,
        Err(message) => return text(StatusCode::BAD_REQUEST, message),
    };
    let (pod, observed) = match find(context, pods, namespace, name).await {
        Ok(found) => found,
        Err(answer) => return answer,
    };
    let of_spec = spec::spec(&pod);
    let Some((kind, _)) = spec::containers(&of_spec)
        .into_iter()
        .find(|(_, c)| c.name == container)
    else {
        let message = format!(
            "container {container:?} not found in pod {:?}",
            format!("{name}_{namespace}")
        );
        return text(StatusCode::NOT_FOUND, message);
    };
    let record = match pick(&pod, &observed, kind, container, query.flag("previous")) {
        Ok(record) => record,
        Err(message) => return text(StatusCode::BAD_REQUEST, message),
    };
    let uid = pod.metadata.uid.clone().unwrap_or_default();
    let running = running(context, uid, record.id.clone());
    let path = PathBuf::from(&record.log_path);
    if !path.exists() {
        return text(
            StatusCode::NOT_FOUND,
            format!("no log of container {container:?}"),
        );
    }
    let chunks = ReceiverStream::new(logs::stream(path, options, running));
    let body = StreamBody::new(chunks.map(|bytes: Bytes| Ok::<_, Infallible>(Frame::data(bytes))));
    let mut response = Response::new(BodyExt::boxed(body));
    response
        .headers_mut()
        .insert("Content-Type", http::HeaderValue::from_static("text/plain"));
    response
}

/// The instance of a container whose log is wanted.
fn pick<'a>(
    pod: &Pod,
    observed: &'a RuntimePod,
    kind: spec::Kind,
    container: &str,
    previous: bool,
) -> Result<&'a ContainerRecord, String> {
    let name = pod.metadata.name.clone().unwrap_or_default();
    let state = reported(pod, kind, container).and_then(|s| s.state.as_ref());
    let waiting = state.and_then(|s| s.waiting.as_ref());
    let mut records = observed.containers.iter().filter(|c| c.name == container);
    if previous {
        // The newest instance is the previous one, too, while it waits to be restarted.
        let newest = observed.newest(container).map(|n| n.id.as_str());
        let found =
            records.find(|c| c.state == State::Exited && (waiting.is_some() || newest != Some(&c.id)));
        return found
            .map(AsRef::as_ref)
            .ok_or_else(|| format!("previous terminated container {container:?} in pod {name:?} not found"));
    }
    let found = records.find(|c| c.state != State::Created);
    found.map(AsRef::as_ref).ok_or_else(|| {
        let reason = waiting
            .and_then(|w| w.reason.as_deref())
            .unwrap_or("ContainerCreating");
        format!("container {container:?} in pod {name:?} is waiting to start: {reason}")
    })
}

fn options(query: &Query) -> Result<Options, String> {
    let number = |name: &str| match query.get(name) {
        None | Some("") => Ok(None),
        Some(text) => text
            .parse::<u64>()
            .map(Some)
            .map_err(|_| format!("invalid value of {name}")),
    };
    let now = Timestamp::now();
    let since = match (number("sinceSeconds")?, query.get("sinceTime")) {
        (Some(seconds), _) => {
            let back = SignedDuration::from_secs(i64::try_from(seconds).unwrap_or(i64::MAX / 4));
            Some(now.checked_sub(back).unwrap_or(Timestamp::UNIX_EPOCH))
        }
        (None, Some(text)) if !text.is_empty() => Some(
            text.parse()
                .map_err(|_| "invalid value of sinceTime".to_owned())?,
        ),
        _ => None,
    };
    Ok(Options {
        follow: query.flag("follow"),
        tail_lines: number("tailLines")?,
        since,
        timestamps: query.flag("timestamps"),
        limit_bytes: number("limitBytes")?,
        stream: match query.get("stream") {
            Some("Stdout") => Some("stdout".into()),
            Some("Stderr") => Some("stderr".into()),
            _ => None,
        },
    })
}

/// Follows whether a container runs, until nobody asks any more.
fn running(context: &Arc<Context>, uid: String, id: String) -> watch::Receiver<bool> {
    let is_running = move |context: &Context| {
        let pods = context.relist.pods();
        let running = (id.clone(), ContainerState::ContainerRunning as i32);
        pods.get(&uid)
            .is_some_and(|seen| seen.containers.contains(&running))
    };
    let mut changes = context.relist.changes();
    changes.borrow_and_update();
    let (sender, receiver) = watch::channel(true);
    let context = context.clone();
    tokio::spawn(async move {
        // A container that was just started is not in the list yet.
        let mut seen = false;
        loop {
            let running = is_running(&context);
            seen |= running;
            if seen || !running {
                sender.send_if_modified(|old| std::mem::replace(old, running) != running);
            }
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return },
                () = sender.closed() => return,
            }
        }
    });
    receiver
}
