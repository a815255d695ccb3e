//! One replica in its own thread: messages in, actions out, syncs elsewhere.
//!
//! The thread drains what has come, handles it in one go, and sends the answers; meanwhile a blocking thread of the
//! runtime runs the sync that covers the previous batch (group commit).

use super::files::Directory;
use crate::clock;
use crate::core::replica::{Replica, ReplicaAction, ReplicaError, ReplicaSettings, ReplicaStatus, SyncJob};
use crate::core::types::Epoch;
use crate::core::wire::Message;
use crate::net::frame::Kind;
use crate::net::outbox::Outbox;
use bytes::Bytes;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use tokio::sync::oneshot;

/// Messages handled before their answers are sent: enough for a batch, few enough that answers flow.
const BATCH: usize = 128;
/// Bytes of messages that wait for a replica before its session is dropped: its disk does not keep up.
const MAX_WAITING_BYTES: usize = 64 << 20;
/// The thread's stack, bytes: the core allocates its buffers on the heap.
const STACK_BYTES: usize = 512 << 10;
/// Without anything to do for so long, memory is given back.
const IDLE: std::time::Duration = std::time::Duration::from_secs(5);

/// How often a replica whose disk is full looks for space.
const FULL_PAUSE: std::time::Duration = std::time::Duration::from_secs(2);
/// Free space with which it is worth another try, bytes: some segments of journal and blocks.
const FULL_MARGIN: u64 = 32 << 20;

/// A session of an engine.
pub struct Session {
    /// Never used twice in a process.
    pub number: u64,
    /// Channel on the connection.
    pub channel: u64,
    /// Its connection.
    pub outbox: Arc<Outbox>,
    /// Node of the engine; empty when the engine does not attach the volume.
    pub node: String,
}

enum Input {
    Open(Session),
    Message(u64, Message, usize),
    Disconnected(u64),
    Synced(u64, std::io::Result<()>),
    Status(oneshot::Sender<Result<ReplicaStatus, String>>),
    Stop(oneshot::Sender<()>),
}

/// Who got the last promise.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// Counter of its epoch.
    pub epoch: u64,
    /// Instance of its epoch, in hexadecimal.
    pub instance: String,
    /// Its node; empty once it has closed the volume.
    pub node: String,
}

fn refuse(session: &Session, reason: &'static str) {
    let reason = Bytes::from_static(reason.as_bytes());
    session.outbox.send(Kind::Close, session.channel, reason);
}

/// A running replica.
pub struct Host {
    inputs: Sender<Input>,
    waiting_bytes: Arc<AtomicUsize>,
    owner: Arc<Mutex<Owner>>,
}

impl Host {
    /// Starts the replica in `dir/replica`. It opens in the background; what is sent meanwhile waits.
    pub fn start(dir: &Path, settings: ReplicaSettings) -> std::io::Result<Self> {
        let (inputs, receiver) = channel();
        let waiting_bytes = Arc::new(AtomicUsize::new(0));
        let owner_path = dir.join("owner.json");
        let owner = std::fs::read(&owner_path)
            .ok()
            .and_then(|text| serde_json::from_slice(&text).ok())
            .unwrap_or_default();
        let owner = Arc::new(Mutex::new(owner));
        let worker = Worker {
            receiver,
            inputs: inputs.clone(),
            waiting_bytes: waiting_bytes.clone(),
            sessions: HashMap::new(),
            owner: owner.clone(),
            owner_path,
            syncing: 0,
            runtime: tokio::runtime::Handle::current(),
        };
        let dir = dir.join("replica");
        std::thread::Builder::new()
            .name("replica".into())
            .stack_size(STACK_BYTES)
            .spawn(move || worker.serve(&dir, settings))?;
        Ok(Self {
            inputs,
            waiting_bytes,
            owner,
        })
    }

    /// A new session.
    pub fn open(&self, session: Session) {
        let _ = self.inputs.send(Input::Open(session));
    }

    /// A message of `bytes` bytes; false when too much waits already.
    pub fn deliver(&self, session: u64, message: Message, bytes: usize) -> bool {
        let waiting = self.waiting_bytes.fetch_add(bytes, Ordering::Relaxed);
        if waiting > MAX_WAITING_BYTES {
            self.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
            return false;
        }
        let _ = self.inputs.send(Input::Message(session, message, bytes));
        true
    }

    /// A session ended.
    pub fn disconnected(&self, session: u64) {
        let _ = self.inputs.send(Input::Disconnected(session));
    }

    /// What the replica says about itself, or why it cannot be used.
    pub async fn status(&self) -> Result<ReplicaStatus, String> {
        let (sender, receiver) = oneshot::channel();
        let _ = self.inputs.send(Input::Status(sender));
        receiver.await.unwrap_or_else(|_| Err("stopped".into()))
    }

    /// Who got the last promise.
    pub fn owner(&self) -> Owner {
        self.owner.lock().clone()
    }

    /// Stops it with a clean-stop mark.
    pub async fn stop(&self) {
        let (sender, receiver) = oneshot::channel();
        let _ = self.inputs.send(Input::Stop(sender));
        let _ = receiver.await;
    }
}

struct Worker {
    receiver: Receiver<Input>,
    inputs: Sender<Input>,
    waiting_bytes: Arc<AtomicUsize>,
    sessions: HashMap<u64, Session>,
    owner: Arc<Mutex<Owner>>,
    owner_path: PathBuf,
    /// Syncs whose results have not come yet.
    syncing: usize,
    runtime: tokio::runtime::Handle,
}

/// Why a replica no longer runs.
enum End {
    /// It was told to stop.
    Stopped,
    /// Its disk is full; what it said last.
    Full(ReplicaStatus),
}

impl Worker {
    /// Opens the replica, and again after its disk was full.
    fn serve(mut self, dir: &Path, mut settings: ReplicaSettings) {
        loop {
            let disk = Box::new(Directory(dir.to_owned()));
            match Replica::open(disk, settings.clone(), clock::now()) {
                Err(error) => return self.run_failed(&error),
                Ok(replica) => match self.run(replica) {
                    End::Stopped => return,
                    End::Full(status) => {
                        if self.wait_for_space(dir, &status) {
                            return;
                        }
                        settings.incarnation = uuid::Uuid::new_v4().as_u128();
                    }
                },
            }
        }
    }

    /// Refuses everything until there is space and no sync of the replica's last life is under way; true: told to stop.
    fn wait_for_space(&mut self, dir: &Path, status: &ReplicaStatus) -> bool {
        for (_, session) in self.sessions.drain() {
            refuse(&session, "the disk is full");
        }
        let mut look = clock::now();
        loop {
            match self.receiver.recv_timeout(clock::until(look)) {
                Ok(Input::Open(session)) => refuse(&session, "the disk is full"),
                Ok(Input::Message(_, _, bytes)) => {
                    self.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
                }
                Ok(Input::Status(reply)) => {
                    let _ = reply.send(Ok(status.clone()));
                }
                Ok(Input::Stop(done)) => {
                    let _ = done.send(());
                    return true;
                }
                Ok(Input::Synced(..)) => self.syncing -= 1,
                Ok(Input::Disconnected(_)) => {}
                Err(RecvTimeoutError::Disconnected) => return true,
                Err(RecvTimeoutError::Timeout) => {
                    let free = rustix::fs::statvfs(dir).map_or(0, |s| s.f_bavail.saturating_mul(s.f_frsize));
                    if free >= FULL_MARGIN && self.syncing == 0 {
                        return false;
                    }
                    look = clock::now() + FULL_PAUSE.as_nanos() as u64;
                }
            }
        }
    }

    fn run(&mut self, mut replica: Replica) -> End {
        let mut actions = Vec::new();
        let mut wake = Some(clock::now());
        loop {
            let first = match wake {
                None => self.next_when_idle(),
                Some(at) => match self.receiver.recv_timeout(clock::until(at)) {
                    Ok(input) => Some(input),
                    Err(RecvTimeoutError::Timeout) => None,
                    Err(RecvTimeoutError::Disconnected) => return End::Stopped,
                },
            };
            let more = std::iter::from_fn(|| self.receiver.try_recv().ok()).take(BATCH);
            let inputs: Vec<Input> = first.into_iter().chain(more).collect();
            for input in inputs {
                if let Input::Stop(done) = input {
                    self.stop(replica);
                    let _ = done.send(());
                    return End::Stopped;
                }
                self.handle(&mut replica, input, &mut actions);
            }
            self.act(&mut replica, &mut actions);
            wake = replica.background(clock::now());
            while let Some(job) = replica.begin_sync(clock::now()) {
                self.sync(job);
            }
            if replica.is_full() {
                return End::Full(replica.status());
            }
        }
    }

    /// Waits without a limit; gives memory back once nothing has come for a while.
    fn next_when_idle(&self) -> Option<Input> {
        match self.receiver.recv_timeout(IDLE) {
            Err(RecvTimeoutError::Timeout) => {
                crate::memory::idle();
                self.receiver.recv().ok()
            }
            other => other.ok(),
        }
    }

    fn handle(&mut self, replica: &mut Replica, input: Input, actions: &mut Vec<ReplicaAction>) {
        match input {
            Input::Open(session) => {
                self.sessions.insert(session.number, session);
            }
            Input::Message(session, message, bytes) => {
                self.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
                // What was still under way when the session was dropped.
                if !self.sessions.contains_key(&session) {
                    return;
                }
                if let Message::Close { epoch } = &message {
                    self.closed(*epoch);
                }
                replica.handle(clock::now(), session, message, actions);
            }
            Input::Disconnected(session) => {
                if self.sessions.remove(&session).is_some() {
                    replica.disconnected(session);
                }
            }
            Input::Synced(ticket, result) => {
                self.syncing -= 1;
                if let Err(error) = &result {
                    tracing::error!(%error, path = %self.owner_path.display(), "sync failed: the replica must be rebuilt");
                }
                replica.synced(clock::now(), ticket, result, actions);
            }
            Input::Status(reply) => {
                let _ = reply.send(Ok(replica.status()));
            }
            Input::Stop(_) => {}
        }
    }

    fn act(&mut self, replica: &mut Replica, actions: &mut Vec<ReplicaAction>) {
        for action in actions.drain(..) {
            match action {
                ReplicaAction::Send { session, message } => {
                    if let Message::Promise(promise) = &message {
                        self.promised(promise.epoch, session);
                    }
                    if let Some(session) = self.sessions.get(&session) {
                        session.outbox.send_message(session.channel, &message);
                    }
                }
                ReplicaAction::Drop { session } => {
                    if let Some(session) = self.sessions.remove(&session) {
                        session.outbox.send(
                            Kind::Close,
                            session.channel,
                            Bytes::from_static(b"dropped by the replica"),
                        );
                        replica.disconnected(session.number);
                    }
                }
            }
        }
    }

    fn sync(&mut self, job: SyncJob) {
        self.syncing += 1;
        let inputs = self.inputs.clone();
        self.runtime.spawn_blocking(move || {
            let result = job.run();
            let _ = inputs.send(Input::Synced(job.ticket(), result));
        });
    }

    fn promised(&self, epoch: Epoch, session: u64) {
        let node = self
            .sessions
            .get(&session)
            .map(|s| s.node.clone())
            .unwrap_or_default();
        self.set_owner(Owner {
            epoch: epoch.counter,
            instance: format!("{:032x}", epoch.instance),
            node,
        });
    }

    fn closed(&self, epoch: Epoch) {
        let mut owner = self.owner.lock().clone();
        if owner.epoch == epoch.counter && owner.instance == format!("{:032x}", epoch.instance) {
            owner.node.clear();
            self.set_owner(owner);
        }
    }

    /// For people only (who has the volume?), so it is not synced, and a failure is no more than a note.
    fn set_owner(&self, owner: Owner) {
        let temporary = self.owner_path.with_extension("new");
        let text = serde_json::to_vec(&owner).unwrap_or_default();
        let written =
            std::fs::write(&temporary, text).and_then(|()| std::fs::rename(&temporary, &self.owner_path));
        if let Err(error) = written {
            tracing::info!(%error, path = %self.owner_path.display(), "did not note the volume's owner");
        }
        *self.owner.lock() = owner;
    }

    fn stop(&self, mut replica: Replica) {
        for session in self.sessions.values() {
            refuse(session, "the replica stops");
        }
        if let Err(error) = replica.stop_clean() {
            tracing::info!(%error, path = %self.owner_path.display(), "no clean-stop mark");
        }
    }

    /// A replica that cannot be opened refuses its sessions and says why.
    fn run_failed(self, error: &ReplicaError) {
        tracing::error!(%error, path = %self.owner_path.display(), "the replica cannot be opened");
        let reason = error.to_string();
        while let Ok(input) = self.receiver.recv() {
            match input {
                Input::Open(session) => {
                    session
                        .outbox
                        .send(Kind::Close, session.channel, reason.clone().into());
                }
                Input::Message(_, _, bytes) => {
                    self.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
                }
                Input::Status(reply) => {
                    let _ = reply.send(Err(reason.clone()));
                }
                Input::Stop(done) => {
                    let _ = done.send(());
                    return;
                }
                Input::Disconnected(_) | Input::Synced(..) => {}
            }
        }
    }
}
