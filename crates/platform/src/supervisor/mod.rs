//! The supervisor: starts the components of one region (or of the host), watches them, and stops them in order.
//!
//! Components outlive their supervisor: each is known by its process identity in a file under `/run`, and a
//! supervisor that comes back adopts those that still run. That way the death of a supervisor stops no I/O.
//! Their output goes straight to their log files for the same reason: a pipe would break with the supervisor.

mod child;
mod component;
mod control;
mod descriptors;
mod log;
mod spec;

pub(crate) use child::{detached, launcher};
pub use control::{Request, Response, call};
pub use spec::{Component, Prepare, State, Status, Unit};

use crate::host::process::ProcessId;
use component::{Desired, Task};
use descriptors::Kept;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How often the sizes of log files are looked at.
const LOG_CHECK: Duration = Duration::from_secs(30);

/// How long an earlier supervisor of the unit may take to end.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);

/// Why the supervisor stopped.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or socket.
    #[error("{action} {path}: {source}")]
    File {
        /// What was attempted.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// The specification is not what this program wrote.
    #[error("{path}: {source}")]
    Spec {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// Another supervisor of the same unit runs.
    #[error("supervisor {0} runs already")]
    Running(String),
}

/// Called now and then by the supervisor that also looks after certificates. Returns when to call it again.
pub type Upkeep = Box<dyn Fn() -> Duration + Send + Sync>;

/// Runs the supervisor of a unit until it is asked to end. `shutdown` (SIGTERM) ends only the supervisor: its
/// components run on, and the next supervisor adopts them.
///
/// `upkeep` runs at the start and then whenever it asked to.
pub async fn run(spec: &Path, upkeep: Option<Upkeep>, shutdown: CancellationToken) -> Result<(), Error> {
    let unit = Unit::load(spec)?;
    let _lock = lock(&unit)?;
    let known = Status::load(&unit.processes).unwrap_or_default();
    prepare(&unit, &known).await;
    let (states, _) = watch::channel(known.living().components);
    let mut supervisor = Supervisor {
        spec: spec.into(),
        states: Arc::new(states),
        tasks: BTreeMap::new(),
        kept: Arc::new(Kept::beside(&unit.processes)),
        unit: unit.clone(),
    };
    supervisor.apply(unit.clone()).await;
    tokio::spawn(write_status(
        unit.processes.clone(),
        supervisor.states.subscribe(),
    ));
    tokio::spawn(rotate_logs(supervisor.states.clone(), unit.log_dir.clone()));
    if let Some(upkeep) = upkeep {
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(upkeep()).await;
            }
        });
    }
    let mut requests = control::listen(&unit.control)?;
    loop {
        let (request, reply) = tokio::select! {
            request = requests.recv() => match request {
                Some(request) => request,
                None => break,
            },
            () = shutdown.cancelled() => break,
        };
        let response = supervisor.answer(request).await;
        let ended = response.ended;
        let _ = reply.send(response);
        if ended {
            // The reply is on its way through another task.
            tokio::time::sleep(Duration::from_millis(50)).await;
            break;
        }
    }
    let _ = std::fs::remove_file(&unit.control);
    Ok(())
}

/// One supervisor per unit: the lock lives as long as the process.
fn lock(unit: &Unit) -> Result<std::fs::File, Error> {
    let path = unit.processes.with_extension("lock");
    let failed = |action| {
        let path = path.clone();
        move |source| Error::File { action, path, source }
    };
    if let Some(dir) = path.parent() {
        crate::files::private_dir(dir).map_err(failed("create the directory of"))?;
    }
    let file = std::fs::File::create(&path).map_err(failed("create"))?;
    // One that was asked to leave needs a moment to end.
    let deadline = std::time::Instant::now() + LOCK_PATIENCE;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(std::fs::TryLockError::WouldBlock) if std::time::Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(std::fs::TryLockError::WouldBlock) => return Err(Error::Running(unit.name.clone())),
            Err(std::fs::TryLockError::Error(source)) => return Err(failed("lock")(source)),
        }
    }
}

/// Cleans up behind components that cannot be adopted: a node whose engine is gone has dead mounts.
async fn prepare(unit: &Unit, known: &Status) {
    for step in &unit.prepare {
        let alive = known.components.get(&step.unless_alive);
        if alive
            .and_then(|s| s.process.as_ref())
            .is_some_and(ProcessId::is_alive)
        {
            continue;
        }
        child::run_to_end(&step.command, &unit.own_log, component::HOOK_PATIENCE).await;
    }
}

struct Supervisor {
    spec: PathBuf,
    unit: Unit,
    states: Arc<watch::Sender<BTreeMap<String, State>>>,
    tasks: BTreeMap<String, Task>,
    kept: Arc<Kept>,
}

impl Supervisor {
    /// Starts, restarts and stops what differs between the running components and `unit`.
    async fn apply(&mut self, unit: Unit) {
        let gone: Vec<String> = self
            .tasks
            .keys()
            .filter(|name| !unit.components.iter().any(|c| &c.name == *name))
            .cloned()
            .collect();
        let mut order: Vec<(u8, String)> = gone
            .into_iter()
            .map(|name| (self.tasks[&name].component.stop_level, name))
            .collect();
        order.sort();
        for (_, name) in order {
            if let Some(task) = self.tasks.remove(&name) {
                task.stop().await;
                self.kept.clear(&name);
            }
            self.states.send_modify(|s| drop(s.remove(&name)));
        }
        for component in &unit.components {
            match self.tasks.get(&component.name) {
                Some(task) if !task.component.needs_restart(component) => continue,
                Some(_) => {
                    if let Some(task) = self.tasks.remove(&component.name) {
                        task.stop().await;
                    }
                }
                None => {}
            }
            let task = Task::start(component.clone(), &unit, self.states.clone(), self.kept.clone());
            self.tasks.insert(component.name.clone(), task);
        }
        self.unit = unit;
    }

    /// Stops all components up to `level`, level after level.
    async fn stop(&mut self, level: u8) {
        let mut levels: Vec<u8> = self.unit.components.iter().map(|c| c.stop_level).collect();
        levels.retain(|l| *l <= level);
        levels.sort_unstable();
        levels.dedup();
        for level in levels {
            let stopping = || {
                let tasks = self.tasks.values();
                tasks.filter(|t| t.component.stop_level == level)
            };
            futures::future::join_all(stopping().map(Task::stop)).await;
            // Stopped, not to be restarted: what it left is of no use to anybody.
            for task in stopping() {
                self.kept.clear(&task.component.name);
            }
        }
    }

    async fn answer(&mut self, request: Request) -> Response {
        match request {
            Request::Status => {}
            Request::Reload => match Unit::load(&self.spec) {
                Ok(unit) => {
                    self.apply(unit).await;
                    for task in self.tasks.values() {
                        task.set(Desired::Running);
                    }
                }
                Err(error) => return Response::failed(error.to_string()),
            },
            Request::Restart { component } => match self.tasks.get(&component) {
                Some(task) => {
                    task.stop().await;
                    task.set(Desired::Running);
                }
                None => return Response::failed(format!("no component {component}")),
            },
            Request::Stop { through } => self.stop(through).await,
            Request::Leave => {
                return Response {
                    ended: true,
                    ..self.response()
                };
            }
            Request::Exit => {
                self.stop(u8::MAX).await;
                return Response {
                    ended: true,
                    ..self.response()
                };
            }
        }
        self.response()
    }

    fn response(&self) -> Response {
        Response {
            error: None,
            ended: false,
            program: std::env::current_exe().unwrap_or_default(),
            components: self.states.borrow().clone(),
        }
    }
}

/// Keeps the file that a later supervisor adopts from.
async fn write_status(path: PathBuf, mut states: watch::Receiver<BTreeMap<String, State>>) {
    loop {
        let components = states.borrow_and_update().clone();
        if let Err(error) = (Status { components }).store(&path) {
            tracing::error!(path = %path.display(), %error, "cannot note the processes");
        }
        if states.changed().await.is_err() {
            return;
        }
    }
}

async fn rotate_logs(states: Arc<watch::Sender<BTreeMap<String, State>>>, log_dir: PathBuf) {
    let mut tick = tokio::time::interval(LOG_CHECK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let names: Vec<String> = states.borrow().keys().cloned().collect();
        for name in names {
            let path = log_dir.join(format!("{name}.log"));
            if let Err(error) = log::rotate(&path) {
                tracing::error!(path = %path.display(), %error, "cannot rotate a log");
            }
        }
    }
}
