//! Fencing: a node without contact with a majority of the stores ends its pods with replicated volumes, before
//! their replacements start elsewhere.
//!
//! The node's engine says whether there is a majority. An engine that cannot be reached counts as none, from
//! that moment on. After [`COUNTDOWN`] the pods are killed through their cgroups, with SIGKILL, which needs
//! neither the API nor the runtime; which pods those are is read from the records of published volumes. Their
//! mounts are then taken out of the tree, without waiting for devices that may never answer. A pod that was
//! killed so is started again only when there is a majority and the API has confirmed that it still belongs
//! here. An API that is away is no reason to end anything.

use crate::Config;
use crate::context::Context;
use crate::sync::lock;
use crate::volumes::{csi, mounts};
use protos::engine::engine_client::EngineClient;
use protos::engine::{QuorumState, WatchQuorumRequest};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint, Uri};

/// Volumes of this driver are fenced.
const DRIVER: &str = "csi.hikube.io";
/// Time without a majority after which the pods are killed. Fail-over starts at 15 s; the pods must be dead
/// by 12 s.
const COUNTDOWN: Duration = Duration::from_secs(8);
/// Pause between attempts to reach the engine.
const RECONNECT: Duration = Duration::from_millis(250);
/// How long one attempt may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// A connection on which nothing comes is tested; an engine that hangs is found out by it.
const PING: Duration = Duration::from_secs(2);
const PING_TIMEOUT: Duration = Duration::from_secs(3);
/// While fenced, it is looked again whether something runs that must not: a container may have been on its
/// way when the pods were killed.
const SWEEP: Duration = Duration::from_millis(500);

/// Whether a pod may start containers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// It may.
    Open,
    /// It must wait.
    Closed,
    /// It may once the API has confirmed it: see [`Fence::confirmed`].
    Confirm,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The engine has not said anything yet.
    Unknown,
    /// There is a majority.
    Open,
    /// There is none, but not for long.
    Counting,
    /// There is none: nothing with a replicated volume may run.
    Fenced,
}

/// The state of the node.
pub struct Fence {
    socket: Option<PathBuf>,
    state: watch::Sender<State>,
    /// Pods that were killed, until the API confirms them.
    held: Mutex<BTreeSet<String>>,
    waiting: Mutex<Vec<Arc<Notify>>>,
    /// How often the engine was reached after it could not be.
    contacts: watch::Sender<u64>,
}

/// When to fence, as a function of what was heard. Pure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Countdown {
    /// There is a majority.
    Stopped,
    /// There is none; the end comes at this time.
    Until(Instant),
    /// The end has come.
    Over,
}

impl Countdown {
    /// Takes over what the engine says.
    fn heard(self, quorum: &QuorumState, now: Instant) -> Self {
        if quorum.fenced {
            return Self::Over;
        }
        if quorum.majority {
            return Self::Stopped;
        }
        let silent = Duration::from_millis(quorum.silent_ms);
        let end = now + COUNTDOWN.saturating_sub(silent);
        match self {
            Self::Until(earlier) if earlier < end => Self::Until(earlier),
            Self::Over => Self::Over,
            _ => Self::Until(end),
        }
    }

    /// Takes over that the engine cannot be reached.
    fn lost(self, now: Instant) -> Self {
        match self {
            Self::Stopped => Self::Until(now + COUNTDOWN),
            other => other,
        }
    }
}

impl Fence {
    /// Without an engine nothing is ever fenced.
    pub fn new(config: &Config) -> Self {
        let state = if config.engine_socket.is_some() {
            State::Unknown
        } else {
            State::Open
        };
        Self {
            socket: config.engine_socket.clone(),
            state: watch::Sender::new(state),
            held: Mutex::default(),
            waiting: Mutex::default(),
            contacts: watch::Sender::new(0),
        }
    }

    /// Whether pods with replicated volumes must not run now.
    pub fn is_fenced(&self) -> bool {
        *self.state.borrow() == State::Fenced
    }

    /// Counts how often the engine came back: it may be another process, and the devices of the former one dead.
    pub fn contacts(&self) -> watch::Receiver<u64> {
        self.contacts.subscribe()
    }

    /// Whether a pod may start containers; if not, `wake` is notified when that may have changed.
    pub fn gate(&self, pods: &Path, uid: &str, wake: &Arc<Notify>) -> Gate {
        if self.socket.is_none() {
            return Gate::Open;
        }
        let held = lock(&self.held).contains(uid);
        if !held && !csi::uses_driver(&pods.join(uid), DRIVER) {
            return Gate::Open;
        }
        let mut waiting = lock(&self.waiting);
        if !waiting.iter().any(|w| Arc::ptr_eq(w, wake)) {
            waiting.push(wake.clone());
        }
        drop(waiting);
        // Looked at after `wake` is in the list, so that no change is missed.
        match (*self.state.borrow(), held) {
            (State::Open, false) => Gate::Open,
            (State::Open, true) => Gate::Confirm,
            _ => Gate::Closed,
        }
    }

    /// The API has confirmed, after the majority was back, that the pod belongs to this node; or the pod has
    /// ended.
    pub fn confirmed(&self, uid: &str) {
        lock(&self.held).remove(uid);
    }

    /// Follows the engine for ever.
    pub async fn run(&self, context: &Context) {
        let Some(socket) = &self.socket else {
            return std::future::pending().await;
        };
        let client = EngineClient::new(channel(socket));
        let (sender, receiver) = watch::channel(Countdown::Stopped.lost(Instant::now()));
        tokio::join!(self.listen(client, sender), self.act(context, receiver));
    }

    /// Turns what the engine says into a countdown.
    async fn listen(&self, mut client: EngineClient<Channel>, countdown: watch::Sender<Countdown>) {
        loop {
            let opened =
                tokio::time::timeout(CONNECT_TIMEOUT, client.watch_quorum(WatchQuorumRequest {})).await;
            if let Ok(Ok(response)) = opened {
                let mut stream = response.into_inner();
                let mut fresh = true;
                loop {
                    match stream.message().await {
                        Ok(Some(quorum)) => {
                            countdown.send_modify(|c| *c = c.heard(&quorum, Instant::now()));
                            if std::mem::take(&mut fresh) {
                                self.contacts.send_modify(|n| *n += 1);
                            }
                        }
                        Ok(None) => break,
                        Err(error) => {
                            tracing::debug!(%error, "lost the engine");
                            break;
                        }
                    }
                }
            }
            countdown.send_if_modified(|c| {
                let lost = c.lost(Instant::now());
                std::mem::replace(c, lost) != lost
            });
            tokio::time::sleep(RECONNECT).await;
        }
    }

    async fn act(&self, context: &Context, mut countdown: watch::Receiver<Countdown>) {
        loop {
            let now = *countdown.borrow_and_update();
            match now {
                Countdown::Stopped => {
                    self.enter(State::Open);
                    let _ = countdown.changed().await;
                }
                Countdown::Until(end) if Instant::now() < end => {
                    if *self.state.borrow() == State::Open {
                        self.enter(State::Counting);
                    }
                    tokio::select! {
                        _ = countdown.changed() => {}
                        () = tokio::time::sleep_until(end) => {}
                    }
                }
                Countdown::Until(_) | Countdown::Over => {
                    if self.enter(State::Fenced) {
                        tracing::info!("no majority of the stores: pods with replicated volumes are killed");
                    }
                    self.sweep(context).await;
                    tokio::select! {
                        _ = countdown.changed() => {}
                        () = tokio::time::sleep(SWEEP) => {}
                    }
                }
            }
        }
    }

    /// True when it is another state than before.
    fn enter(&self, state: State) -> bool {
        let changed = self
            .state
            .send_if_modified(|old| std::mem::replace(old, state) != state);
        if changed && state == State::Open {
            for waiting in lock(&self.waiting).drain(..) {
                waiting.notify_one();
            }
        }
        changed
    }

    /// Kills every pod with a replicated volume and takes its mounts away.
    async fn sweep(&self, context: &Context) {
        let pods = csi::pods_of_driver(&context.paths.pods(), DRIVER);
        let mut tasks = Vec::new();
        for uid in pods {
            lock(&self.held).insert(uid.clone());
            let cgroups = context.cgroups.clone();
            let dir = context.paths.volumes(&uid);
            context.volumes.forget(&uid);
            tasks.push(tokio::task::spawn_blocking(move || {
                if !cgroups.populated(&uid) {
                    return detach(&dir);
                }
                let started = std::time::Instant::now();
                if cgroups.kill(&uid) {
                    let took_ms = started.elapsed().as_millis();
                    tracing::info!(uid, took_ms, "pod killed: the node is fenced");
                    detach(&dir);
                }
            }));
        }
        for task in tasks {
            let _ = task.await;
        }
    }
}

/// Takes the pod's mounts of fenced volumes out of the tree.
fn detach(volumes: &Path) {
    let dir = volumes.join("kubernetes.io~csi");
    if let Err(error) = mounts::detach_all(&dir) {
        tracing::info!(dir = %dir.display(), %error, "mounts of a fenced pod are left");
    }
}

fn channel(socket: &Path) -> Channel {
    let path = socket.to_owned();
    Endpoint::from_static("http://localhost")
        .http2_keep_alive_interval(PING)
        .keep_alive_timeout(PING_TIMEOUT)
        .connect_with_connector_lazy(tower::service_fn(move |_: Uri| {
            let path = path.clone();
            async move {
                let stream = tokio::net::UnixStream::connect(path).await?;
                Ok::<_, std::io::Error>(hyper_util::rt::TokioIo::new(stream))
            }
        }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quorum(majority: bool, fenced: bool, silent_ms: u64) -> QuorumState {
        QuorumState {
            majority,
            fenced,
            silent_ms,
        }
    }

    #[test]
    fn counts_from_the_first_silence() {
        let now = Instant::now();
        let later = now + Duration::from_secs(2);
        let lost = Countdown::Stopped.heard(&quorum(false, false, 1000), now);
        assert_eq!(lost, Countdown::Until(now + Duration::from_secs(7)));
        assert_eq!(
            lost.lost(later),
            lost,
            "an engine that dies too does not buy time"
        );
        assert_eq!(lost.heard(&quorum(false, false, 0), later), lost);
        assert_eq!(lost.heard(&quorum(true, false, 0), later), Countdown::Stopped);
        assert_eq!(lost.heard(&quorum(false, true, 0), later), Countdown::Over);
        assert_eq!(Countdown::Over.lost(later), Countdown::Over);
        assert_eq!(
            Countdown::Over.heard(&quorum(false, false, 0), later),
            Countdown::Over
        );
        assert_eq!(Countdown::Stopped.lost(now), Countdown::Until(now + COUNTDOWN));
    }
}
