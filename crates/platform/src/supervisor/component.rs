//! The life of one component: wait for what it needs, start or adopt it, wait for its end, pause, again.

use super::child::{self, Running};
use super::descriptors::Kept;
use super::spec::{Component, State, Unit};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// First pause before a restart; it doubles up to [`MAX_PAUSE`].
const MIN_PAUSE: Duration = Duration::from_millis(100);
/// Longest pause before a restart: a component that fails for lack of another must not wait long after it is back.
const MAX_PAUSE: Duration = Duration::from_secs(5);
/// A component that ran this long starts with the shortest pause again.
const STEADY: Duration = Duration::from_secs(10);
/// How long a hook may take: it stops containers, which have a grace period of their own.
pub(super) const HOOK_PATIENCE: Duration = Duration::from_secs(60);

type States = Arc<watch::Sender<BTreeMap<String, State>>>;

/// What a component should do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Desired {
    /// Run.
    Running,
    /// Not run.
    Stopped,
}

/// A component and the task that looks after it.
pub(super) struct Task {
    /// What it was started as.
    pub component: Component,
    desired: watch::Sender<Desired>,
    stopped: watch::Receiver<bool>,
}

impl Task {
    /// Starts looking after a component.
    pub fn start(component: Component, unit: &Unit, states: States, kept: Arc<Kept>) -> Self {
        let (desired, wanted) = watch::channel(Desired::Running);
        let (stopped_sender, stopped) = watch::channel(false);
        let keeper = Keeper {
            log: unit.log_dir.join(format!("{}.log", component.name)),
            own_log: unit.own_log.clone(),
            component: component.clone(),
            states,
            kept,
            desired: wanted,
            stopped: stopped_sender,
        };
        tokio::spawn(keeper.run());
        Self {
            component,
            desired,
            stopped,
        }
    }

    /// Changes what it should do.
    pub fn set(&self, desired: Desired) {
        // Also when nothing changes: it ends a pause, and lets the component look at its gate again.
        self.desired.send_replace(desired);
    }

    /// Stops it and waits until it has ended.
    pub async fn stop(&self) {
        self.set(Desired::Stopped);
        let mut stopped = self.stopped.clone();
        let _ = stopped.wait_for(|stopped| *stopped).await;
    }
}

struct Keeper {
    component: Component,
    log: PathBuf,
    own_log: PathBuf,
    states: States,
    kept: Arc<Kept>,
    desired: watch::Receiver<Desired>,
    stopped: watch::Sender<bool>,
}

impl Keeper {
    async fn run(mut self) {
        let mut pause = MIN_PAUSE;
        loop {
            if self.ready().await.is_err() {
                return;
            }
            let Some(mut running) = self.start().await else {
                self.rest(pause).await;
                pause = (pause * 2).min(MAX_PAUSE);
                continue;
            };
            let started = Instant::now();
            let exit = tokio::select! {
                exit = running.wait() => Some(exit),
                result = wait_for(&mut self.desired, Desired::Stopped) => {
                    if result.is_err() {
                        return;
                    }
                    None
                }
            };
            let Some(exit) = exit else {
                self.stop(&mut running).await;
                continue;
            };
            tracing::info!(component = self.component.name, exit = exit.text, "ended");
            let done = self.component.once && exit.success;
            self.update(|state| {
                state.process = None;
                state.done = done;
                state.restarts += u32::from(!done);
                state.last_exit = Some(exit.text);
            });
            if done {
                // Until it is stopped or replaced there is nothing to do.
                if wait_for(&mut self.desired, Desired::Stopped).await.is_err() {
                    return;
                }
                continue;
            }
            if started.elapsed() >= STEADY {
                pause = MIN_PAUSE;
            }
            self.rest(pause).await;
            pause = (pause * 2).min(MAX_PAUSE);
        }
    }

    /// Waits until the component should run and what it needs is there. `Err` when it was dropped.
    async fn ready(&mut self) -> Result<(), watch::error::RecvError> {
        loop {
            if *self.desired.borrow_and_update() == Desired::Stopped {
                let _ = self.stopped.send(true);
                wait_for(&mut self.desired, Desired::Running).await?;
            }
            let _ = self.stopped.send(false);
            let mut states = self.states.subscribe();
            let needs = self.component.after.clone();
            let met =
                states.wait_for(|states| needs.iter().all(|n| states.get(n).is_some_and(State::is_met)));
            tokio::select! {
                met = met => drop(met?),
                changed = self.desired.changed() => {
                    changed?;
                    continue;
                }
            }
            match &self.component.unless_exists {
                // Lifted by a request to reload, which wakes `desired`.
                Some(gate) if gate.exists() => self.desired.changed().await?,
                _ => return Ok(()),
            }
        }
    }

    /// Adopts the component if it still runs as it should, starts it otherwise.
    async fn start(&self) -> Option<Running> {
        let known = self
            .states
            .borrow()
            .get(&self.component.name)
            .cloned()
            .unwrap_or_default();
        let was = Component {
            command: known.command.clone(),
            digest: known.digest.clone(),
            before_stop: self.component.before_stop.clone(),
            ..self.component.clone()
        };
        if let Some(mut running) = known.process.as_ref().and_then(Running::adopt) {
            if !was.needs_restart(&self.component) {
                // It hands over its descriptors again as soon as it sees that we listen.
                self.listen();
                tracing::info!(component = self.component.name, pid = running.id.pid, "adopted");
                return Some(running);
            }
            tracing::info!(component = self.component.name, "replacing an outdated process");
            self.stop(&mut running).await;
        }
        match Running::spawn(&self.component, &self.log, &self.kept) {
            Ok(running) => {
                tracing::info!(component = self.component.name, pid = running.id.pid, "started");
                self.update(|state| {
                    state.process = Some(running.id.clone());
                    state.command = self.component.command.clone();
                    state.digest = self.component.digest.clone();
                    state.once = self.component.once;
                    state.done = false;
                });
                Some(running)
            }
            Err(error) => {
                tracing::info!(component = self.component.name, %error, "cannot be started");
                self.update(|state| {
                    state.process = None;
                    state.restarts += 1;
                    state.last_exit = Some(error.to_string());
                });
                None
            }
        }
    }

    fn listen(&self) {
        if self.component.keeps_descriptors
            && let Err(error) = self.kept.listen(&self.component.name)
        {
            tracing::warn!(component = self.component.name, %error, "its descriptors cannot be kept");
        }
    }

    async fn stop(&self, running: &mut Running) {
        child::run_to_end(&self.component.before_stop, &self.own_log, HOOK_PATIENCE).await;
        running
            .stop(Duration::from_millis(self.component.stop_grace_ms))
            .await;
        if self.component.kill_cgroup {
            let group = self.component.cgroup.clone();
            let killed = tokio::task::spawn_blocking(move || crate::host::cgroup::kill(&group)).await;
            if let Ok(Err(error)) = killed {
                tracing::error!(component = self.component.name, %error, "left processes behind");
            }
        }
        tracing::info!(component = self.component.name, "stopped");
        self.update(|state| {
            state.process = None;
            state.last_exit = Some("stopped".into());
        });
    }

    /// A pause that ends early when the component is to stop.
    async fn rest(&mut self, pause: Duration) {
        let _ = tokio::time::timeout(pause, self.desired.changed()).await;
    }

    fn update(&self, change: impl FnOnce(&mut State)) {
        self.states
            .send_modify(|states| change(states.entry(self.component.name.clone()).or_default()));
    }
}

async fn wait_for(
    desired: &mut watch::Receiver<Desired>,
    value: Desired,
) -> Result<(), watch::error::RecvError> {
    desired.wait_for(|d| *d == value).await.map(drop)
}
