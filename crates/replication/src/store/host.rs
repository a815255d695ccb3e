//! One replica: messages in, actions out, syncs elsewhere.
//!
//! It has a thread of its own for what takes long or is due at a time: opening, write-back, making room. What is quick,
//! an append or a read, is done by the thread that brings it if nobody else is at work: the connection's, which then
//! sends the answer itself, and after a sync the one that synced (see [`crate::inbox`]). A sync runs in a blocking
//! thread of the runtime and covers what came before it (group commit).

use super::files::Directory;
use crate::clock;
use crate::core::replica::{Replica, ReplicaAction, ReplicaSettings, ReplicaStatus, SyncJob};
use crate::core::types::{Epoch, Nanos};
use crate::core::wire::Message;
use crate::inbox::{self, Inbox, Machine};
use crate::net::frame::Kind;
use crate::net::outbox::Outbox;
use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use tokio::sync::oneshot;

/// Messages handled before their answers are sent: enough for a batch, few enough that answers flow.
const BATCH: usize = 128;
/// Bytes of messages that wait for a replica before its session is dropped: its disk does not keep up.
const MAX_WAITING_BYTES: usize = 64 << 20;
/// More than this waits for the replica's own thread, bytes: checking and writing it would keep a connection from
/// receiving.
const HELP_BYTES: usize = 64 << 10;
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
    Scrub,
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
    shared: Arc<Shared>,
}

/// What all threads that work for a replica share.
struct Shared {
    inbox: Inbox<Input>,
    /// Its own thread holds it except when it waits for work.
    worker: Mutex<Worker>,
    waiting_bytes: AtomicUsize,
    owner: Mutex<Owner>,
    runtime: tokio::runtime::Handle,
}

impl Host {
    /// Starts the replica in `dir/replica`. It opens in the background; what is sent meanwhile waits.
    pub fn start(dir: &Path, settings: ReplicaSettings) -> std::io::Result<Self> {
        let owner_path = dir.join("owner.json");
        let owner = std::fs::read(&owner_path)
            .ok()
            .and_then(|text| serde_json::from_slice(&text).ok())
            .unwrap_or_default();
        let shared = Arc::new_cyclic(|shared| Shared {
            inbox: Inbox::default(),
            worker: Mutex::new(Worker {
                shared: shared.clone(),
                replica: None,
                sessions: HashMap::new(),
                owner_path,
                syncing: 0,
                actions: Vec::new(),
                end: None,
                in_turn: false,
            }),
            waiting_bytes: AtomicUsize::new(0),
            owner: Mutex::new(owner),
            runtime: tokio::runtime::Handle::current(),
        });
        let dir = dir.join("replica");
        let of_thread = shared.clone();
        std::thread::Builder::new()
            .name("replica".into())
            .stack_size(STACK_BYTES)
            .spawn(move || of_thread.serve(&dir, settings))?;
        Ok(Self { shared })
    }

    /// A new session.
    pub fn open(&self, session: Session) {
        let _ = self.shared.inbox.post(Input::Open(session));
    }

    /// A message of `bytes` bytes; [`Host::drive`] must follow. False when too much waits already.
    pub fn deliver(&self, session: u64, message: Message, bytes: usize) -> bool {
        let waiting = self.shared.waiting_bytes.fetch_add(bytes, Ordering::Relaxed);
        if waiting > MAX_WAITING_BYTES {
            self.shared.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
            return false;
        }
        let quick = matches!(message, Message::Append { .. } | Message::Read { .. });
        let input = Input::Message(session, message, bytes);
        let _ = if quick {
            self.shared.inbox.put(input)
        } else {
            self.shared.inbox.post(input)
        };
        true
    }

    /// Sees to what was delivered: here, if it is little and the replica is free.
    pub fn drive(&self) {
        if self.shared.waiting_bytes.load(Ordering::Relaxed) > HELP_BYTES {
            // Meanwhile the connection can receive more.
            self.shared.inbox.nudge();
        } else {
            inbox::drive(&self.shared.worker, &self.shared.inbox);
        }
    }

    /// A session ended.
    pub fn disconnected(&self, session: u64) {
        let _ = self.shared.inbox.post(Input::Disconnected(session));
    }

    /// What the replica says about itself, or why it cannot be used.
    pub async fn status(&self) -> Result<ReplicaStatus, String> {
        let (sender, receiver) = oneshot::channel();
        let _ = self.shared.inbox.post(Input::Status(sender));
        receiver.await.unwrap_or_else(|_| Err("stopped".into()))
    }

    /// Scrubs it now.
    pub fn scrub(&self) {
        let _ = self.shared.inbox.post(Input::Scrub);
    }

    /// Who got the last promise.
    pub fn owner(&self) -> Owner {
        self.shared.owner.lock().clone()
    }

    /// Stops it with a clean-stop mark.
    pub async fn stop(&self) {
        let (sender, receiver) = oneshot::channel();
        let _ = self.shared.inbox.post(Input::Stop(sender));
        let _ = receiver.await;
    }
}

struct Worker {
    shared: Weak<Shared>,
    /// There while the replica runs.
    replica: Option<Replica>,
    sessions: HashMap<u64, Session>,
    owner_path: PathBuf,
    /// Syncs whose results have not come yet.
    syncing: usize,
    actions: Vec<ReplicaAction>,
    /// It must not run any more; the own thread sees to it.
    end: Option<End>,
    /// Set during a turn: if it is set before one, the last one panicked.
    in_turn: bool,
}

/// Why a replica no longer runs.
enum End {
    /// It was told to stop, by somebody who waits for it.
    Stopped(oneshot::Sender<()>),
    /// Its disk is full; what it said last.
    Full(Box<ReplicaStatus>),
    /// A turn panicked: nobody knows what state it is in.
    Broken,
}

impl Shared {
    /// The own thread: opens the replica, and again after its disk was full.
    fn serve(&self, dir: &Path, mut settings: ReplicaSettings) {
        let mut worker = self.worker.lock();
        loop {
            let disk = Box::new(Directory(dir.to_owned()));
            match Replica::open(disk, settings.clone(), clock::now()) {
                Err(error) => return self.run_failed(&worker, &error.to_string()),
                Ok(replica) => worker.replica = Some(replica),
            }
            let end = self.run(&mut worker);
            let replica = worker.replica.take();
            match end {
                End::Stopped(told) => {
                    self.inbox.close();
                    if let Some(mut replica) = replica {
                        worker.stop(&mut replica);
                    }
                    let _ = told.send(());
                    return;
                }
                End::Full(status) => {
                    if self.wait_for_space(&mut worker, dir, &status) {
                        self.inbox.close();
                        return;
                    }
                    settings.incarnation = uuid::Uuid::new_v4().as_u128();
                }
                End::Broken => return self.run_failed(&worker, "it failed for a reason that is in the log"),
            }
        }
    }

    /// Refuses everything until there is space and no sync of the replica's last life is under way; true: told to stop.
    fn wait_for_space(&self, worker: &mut Worker, dir: &Path, status: &ReplicaStatus) -> bool {
        for (_, session) in worker.sessions.drain() {
            refuse(&session, "the disk is full");
        }
        let mut look = clock::now();
        loop {
            self.inbox.wait(Some(look));
            for input in self.inbox.take(BATCH) {
                match input {
                    Input::Open(session) => refuse(&session, "the disk is full"),
                    Input::Message(_, _, bytes) => {
                        self.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
                    }
                    Input::Status(reply) => {
                        let _ = reply.send(Ok(status.clone()));
                    }
                    Input::Stop(done) => {
                        let _ = done.send(());
                        return true;
                    }
                    Input::Synced(..) => worker.syncing -= 1,
                    Input::Disconnected(_) | Input::Scrub => {}
                }
            }
            if look <= clock::now() {
                let free = rustix::fs::statvfs(dir).map_or(0, |s| s.f_bavail.saturating_mul(s.f_frsize));
                if free >= FULL_MARGIN && worker.syncing == 0 {
                    return false;
                }
                look = clock::now() + FULL_PAUSE.as_nanos() as u64;
            }
        }
    }

    fn run(&self, worker: &mut MutexGuard<'_, Worker>) -> End {
        loop {
            let inputs = self.inbox.take(BATCH);
            let wake = worker.turn(inputs, true);
            if let Some(end) = worker.end.take() {
                return end;
            }
            if self.inbox.is_quiet() {
                MutexGuard::unlocked(worker, || self.inbox.rest(wake, IDLE));
            }
        }
    }

    /// A replica that cannot be used refuses its sessions and says why.
    fn run_failed(&self, worker: &Worker, reason: &str) {
        tracing::error!(%reason, path = %worker.owner_path.display(), "the replica cannot be opened");
        let close = |session: &Session| {
            let reason = Bytes::copy_from_slice(reason.as_bytes());
            session.outbox.send(Kind::Close, session.channel, reason);
        };
        worker.sessions.values().for_each(close);
        loop {
            self.inbox.wait(None);
            for input in self.inbox.take(BATCH) {
                match input {
                    Input::Open(session) => close(&session),
                    Input::Message(_, _, bytes) => {
                        self.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
                    }
                    Input::Status(reply) => {
                        let _ = reply.send(Err(reason.to_owned()));
                    }
                    Input::Stop(done) => {
                        let _ = done.send(());
                        return;
                    }
                    Input::Disconnected(_) | Input::Synced(..) | Input::Scrub => {}
                }
            }
        }
    }

    fn sync(self: &Arc<Self>, job: SyncJob) {
        let shared = self.clone();
        self.runtime.spawn_blocking(move || {
            let result = job.run();
            if shared.inbox.put(Input::Synced(job.ticket(), result)).is_ok() {
                inbox::drive(&shared.worker, &shared.inbox);
            }
        });
    }
}

impl Machine for Worker {
    type Input = Input;
    const BATCH: usize = BATCH;

    fn lets_help(&self) -> bool {
        self.end.is_none() && !self.in_turn && self.replica.as_ref().is_some_and(Replica::has_room)
    }

    fn help(&mut self, inputs: Vec<Input>) -> Option<Nanos> {
        let wake = self.turn(inputs, false);
        // Only its own thread can end it.
        if self.end.is_some() { Some(0) } else { wake }
    }
}

impl Worker {
    /// Handles what came and does what is due, in the own thread also what may take a while. When to come again.
    fn turn(&mut self, inputs: Vec<Input>, own: bool) -> Option<Nanos> {
        let shared = self.shared.upgrade()?;
        if std::mem::replace(&mut self.in_turn, true) {
            self.end = Some(End::Broken);
            return None;
        }
        // Put back only at the end of a turn that did not panic.
        let mut replica = self.replica.take()?;
        for input in inputs {
            self.handle(&shared, &mut replica, input);
            if self.end.is_some() {
                break;
            }
        }
        self.act(&shared, &mut replica);
        if own {
            replica.background(clock::now(), &mut self.actions);
            self.act(&shared, &mut replica);
        }
        while let Some(job) = replica.begin_sync(clock::now()) {
            self.syncing += 1;
            shared.sync(job);
        }
        for session in self.sessions.values() {
            session.outbox.kick();
        }
        if replica.is_full() && self.end.is_none() {
            self.end = Some(End::Full(Box::new(replica.status())));
        }
        let wake = replica.due(clock::now());
        self.replica = Some(replica);
        self.in_turn = false;
        wake
    }

    fn handle(&mut self, shared: &Shared, replica: &mut Replica, input: Input) {
        match input {
            Input::Open(session) => {
                self.sessions.insert(session.number, session);
            }
            Input::Message(session, message, bytes) => {
                shared.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
                // What was still under way when the session was dropped.
                if !self.sessions.contains_key(&session) {
                    return;
                }
                if let Message::Close { epoch } = &message {
                    self.closed(shared, *epoch);
                }
                replica.handle(clock::now(), session, message, &mut self.actions);
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
                replica.synced(clock::now(), ticket, result, &mut self.actions);
            }
            Input::Status(reply) => {
                let _ = reply.send(Ok(replica.status()));
            }
            Input::Scrub => replica.scrub(clock::now(), &mut self.actions),
            Input::Stop(told) => self.end = Some(End::Stopped(told)),
        }
    }

    fn act(&mut self, shared: &Shared, replica: &mut Replica) {
        let mut actions = std::mem::take(&mut self.actions);
        for action in actions.drain(..) {
            match action {
                ReplicaAction::Send { session, message } => {
                    if let Message::Promise(promise) = &message {
                        self.promised(shared, promise.epoch, session);
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
        self.actions = actions;
    }

    fn promised(&self, shared: &Shared, epoch: Epoch, session: u64) {
        let node = self
            .sessions
            .get(&session)
            .map(|s| s.node.clone())
            .unwrap_or_default();
        let owner = Owner {
            epoch: epoch.counter,
            instance: format!("{:032x}", epoch.instance),
            node,
        };
        self.set_owner(shared, owner);
    }

    fn closed(&self, shared: &Shared, epoch: Epoch) {
        let mut owner = shared.owner.lock().clone();
        if owner.epoch == epoch.counter && owner.instance == format!("{:032x}", epoch.instance) {
            owner.node.clear();
            self.set_owner(shared, owner);
        }
    }

    /// For people only (who has the volume?), so it is not synced, and a failure is no more than a note.
    fn set_owner(&self, shared: &Shared, owner: Owner) {
        let temporary = self.owner_path.with_extension("new");
        let text = serde_json::to_vec(&owner).unwrap_or_default();
        let written =
            std::fs::write(&temporary, text).and_then(|()| std::fs::rename(&temporary, &self.owner_path));
        if let Err(error) = written {
            tracing::info!(%error, path = %self.owner_path.display(), "did not note the volume's owner");
        }
        *shared.owner.lock() = owner;
    }

    fn stop(&self, replica: &mut Replica) {
        for session in self.sessions.values() {
            refuse(session, "the replica stops");
        }
        if let Err(error) = replica.stop_clean() {
            tracing::info!(%error, path = %self.owner_path.display(), "no clean-stop mark");
        }
    }
}
