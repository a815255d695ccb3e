//! The worker of an open volume: takes what has come (device requests, messages, links that came and went), hands it to
//! the core's engine in one go, and carries out what the core wants.
//!
//! It has a thread for what is due at a time. Requests and messages are worked off by the thread that brings them, if
//! nobody else is at it (see [`crate::inbox`]): a request leaves for the stores, and its answer for the device, without
//! waking another thread.

use super::link::{ChannelSender, Link};
use super::volume::{Input, Phase, Reply};
use crate::clock;
use crate::core::engine::{Engine, EngineAction, EngineEvent, Op, OpError};
use crate::core::types::{Nanos, SECOND};
use crate::inbox::{self, Inbox, Machine};
use crate::net::control::{Open, VolumeSpec};
use parking_lot::{Mutex, MutexGuard};
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use tokio::sync::watch;

/// Inputs handled in one go.
const BATCH: usize = 256;
/// Bytes of requests inside the core; the rest waits in the order of its arrival. Bounds the memory of a volume
/// whose stores are slow.
const MAX_BYTES_INSIDE: u64 = 32 << 20;
/// Pause before a session that the store or the core closed is opened again.
const REOPEN_PAUSE: Nanos = SECOND / 4;
/// Without anything to do for so long, memory is given back.
const IDLE: std::time::Duration = std::time::Duration::from_millis(700);

/// What all threads that work for a volume share.
pub struct Shared {
    inbox: Inbox<Input>,
    /// Its own thread holds it except when it waits for work.
    worker: Mutex<Worker>,
    size_bytes: AtomicU64,
}

impl Shared {
    /// A worker that has not begun.
    pub fn new(
        engine: Engine,
        spec: Arc<VolumeSpec>,
        links: Vec<Option<Arc<Link>>>,
        brief: bool,
        phase: watch::Sender<Phase>,
    ) -> Arc<Self> {
        let members = links.len();
        Arc::new_cyclic(|shared: &Weak<Self>| Self {
            inbox: Inbox::default(),
            size_bytes: AtomicU64::new(spec.size_bytes),
            worker: Mutex::new(Worker {
                shared: shared.clone(),
                engine,
                spec,
                links,
                sessions: (0..members).map(|_| None).collect(),
                reopen: vec![None; members],
                brief,
                replies: HashMap::new(),
                next_request: 1,
                waiting: VecDeque::new(),
                bytes_inside: 0,
                phase,
                events: Vec::new(),
                actions: Vec::new(),
                stopped: false,
                in_turn: false,
            }),
        })
    }

    /// An input for the own thread.
    pub fn post(&self, input: Input) {
        if let Err(refused) = self.inbox.post(input) {
            refuse(refused);
        }
    }

    /// An input that is handled with the next [`Shared::drive`], which must follow.
    pub fn put(&self, input: Input) {
        if let Err(refused) = self.inbox.put(input) {
            refuse(refused);
        }
    }

    /// Handles what was put, here, unless somebody else is at it.
    pub fn drive(&self) {
        inbox::drive(&self.worker, &self.inbox);
    }

    /// Size of the volume in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes.load(Ordering::Relaxed)
    }

    /// The own thread, until the volume is stopped.
    pub fn serve(&self) {
        let mut worker = self.worker.lock();
        loop {
            let wake = worker.turn(self.inbox.take(BATCH));
            if worker.stopped {
                break;
            }
            if self.inbox.is_quiet() {
                MutexGuard::unlocked(&mut worker, || self.inbox.rest(wake, IDLE));
            }
        }
        // Late submitters find the inbox closed.
        let left = self.inbox.close();
        worker.end();
        drop(worker);
        left.into_iter().for_each(refuse);
    }
}

/// The volume is closed; a device must still get its answer.
fn refuse(input: Input) {
    if let Input::Submit(_, reply) = input {
        reply.complete(Err(OpError::Closed));
    }
}

struct Worker {
    shared: Weak<Shared>,
    engine: Engine,
    spec: Arc<VolumeSpec>,
    links: Vec<Option<Arc<Link>>>,
    sessions: Vec<Option<ChannelSender>>,
    /// When to open a session again.
    reopen: Vec<Option<Nanos>>,
    /// The volume counts as attached to nobody meanwhile.
    brief: bool,
    replies: HashMap<u64, (Reply, u64)>,
    next_request: u64,
    waiting: VecDeque<(Op, Reply)>,
    bytes_inside: u64,
    phase: watch::Sender<Phase>,
    events: Vec<EngineEvent>,
    actions: Vec<EngineAction>,
    /// The own thread ends it.
    stopped: bool,
    /// Set during a turn: if it is set before one, the last one panicked.
    in_turn: bool,
}

impl Machine for Worker {
    type Input = Input;
    const BATCH: usize = BATCH;

    fn lets_help(&self) -> bool {
        !self.stopped && !self.in_turn
    }

    fn help(&mut self, inputs: Vec<Input>) -> Option<Nanos> {
        let wake = self.turn(inputs);
        if self.stopped { Some(0) } else { wake }
    }
}

fn op_bytes(op: &Op) -> u64 {
    match op {
        Op::Read { len, .. } | Op::ReadSnapshot { len, .. } => u64::from(*len),
        Op::Write { data, .. } => data.len() as u64,
        _ => 0,
    }
}

impl Worker {
    /// Handles what came and what is due; when to come again.
    fn turn(&mut self, inputs: Vec<Input>) -> Option<Nanos> {
        let shared = self.shared.upgrade()?;
        if std::mem::replace(&mut self.in_turn, true) {
            tracing::error!(volume = %self.spec.volume, "the engine failed for a reason that is in the log");
            self.stopped = true;
            return None;
        }
        let (mut events, mut actions) = (
            std::mem::take(&mut self.events),
            std::mem::take(&mut self.actions),
        );
        for input in inputs {
            self.take(input, &mut events);
        }
        if !self.stopped {
            self.reopen_sessions(&shared, &mut events);
            let now = clock::now();
            if self.engine.deadline().is_some_and(|at| at <= now) {
                events.push(EngineEvent::Tick);
            }
            self.engine.handle_batch(now, events.drain(..), &mut actions);
            // Completions make room, and what was waiting may complete at once.
            while self.act(&shared, &mut actions) && self.admit(&mut events) {
                self.engine
                    .handle_batch(clock::now(), events.drain(..), &mut actions);
            }
        }
        (self.events, self.actions) = (events, actions);
        self.in_turn = false;
        self.wake()
    }

    fn wake(&self) -> Option<Nanos> {
        let reopen = self.reopen.iter().flatten().copied();
        reopen.chain(self.engine.deadline()).min()
    }

    fn take(&mut self, input: Input, events: &mut Vec<EngineEvent>) {
        match input {
            Input::Submit(op, reply) => {
                self.waiting.push_back((op, reply));
                self.admit(events);
            }
            Input::LinkUp(member) => {
                if self.sessions[member].is_none() {
                    self.reopen[member] = Some(0);
                }
            }
            Input::Closed {
                member,
                session,
                retry,
            } => {
                if self.sessions[member]
                    .as_ref()
                    .is_some_and(|s| s.session == session)
                {
                    self.sessions[member] = None;
                    self.reopen[member] = retry.then(|| clock::now() + REOPEN_PAUSE);
                    events.push(EngineEvent::Disconnected { member, session });
                }
            }
            Input::Message {
                member,
                session,
                message,
            } => events.push(EngineEvent::Message {
                member,
                session,
                message,
            }),
            Input::Status(reply) => {
                let _ = reply.send(self.engine.status());
            }
            Input::Report(reply) => {
                let _ = reply.send(self.engine.verify_report().cloned());
            }
            Input::Stop => self.stopped = true,
        }
    }

    /// Moves waiting requests into the core as far as there is room; true if any was moved.
    fn admit(&mut self, events: &mut Vec<EngineEvent>) -> bool {
        let before = events.len();
        while let Some((op, _)) = self.waiting.front() {
            let bytes = op_bytes(op);
            if self.bytes_inside > 0 && self.bytes_inside + bytes > MAX_BYTES_INSIDE {
                break;
            }
            let Some((op, reply)) = self.waiting.pop_front() else {
                break;
            };
            let request = self.next_request;
            self.next_request += 1;
            self.bytes_inside += bytes;
            self.replies.insert(request, (reply, bytes));
            events.push(EngineEvent::Submit { request, op });
        }
        events.len() > before
    }

    /// Carries out actions, then sends; true if a request completed.
    fn act(&mut self, shared: &Shared, actions: &mut Vec<EngineAction>) -> bool {
        let mut completed = false;
        for action in actions.drain(..) {
            match action {
                EngineAction::Send { member, message } => {
                    if let Some(session) = &self.sessions[member] {
                        session.send(&message);
                    }
                }
                EngineAction::Complete { request, result } => {
                    if let Some((reply, bytes)) = self.replies.remove(&request) {
                        self.bytes_inside -= bytes;
                        completed = true;
                        if matches!(reply, Reply::Operator(_)) {
                            // It may have been an expansion.
                            shared
                                .size_bytes
                                .store(self.engine.status().size_bytes, Ordering::Relaxed);
                        }
                        reply.complete(result);
                    }
                }
                EngineAction::Opened { epoch, size_bytes } => {
                    shared.size_bytes.store(size_bytes, Ordering::Relaxed);
                    self.phase.send_replace(Phase::Open(epoch));
                }
                EngineAction::Deposed => {
                    tracing::info!(volume = %self.spec.volume, "another engine has taken over the volume");
                    self.phase.send_replace(Phase::Deposed);
                }
                EngineAction::Reconnect { member } => {
                    if let Some(session) = self.sessions[member].take() {
                        if let Some(link) = &self.links[member] {
                            link.close(session.session);
                        }
                        self.reopen[member] = Some(clock::now() + REOPEN_PAUSE);
                    }
                }
            }
        }
        for session in self.sessions.iter().flatten() {
            session.flush();
        }
        completed
    }

    fn reopen_sessions(&mut self, shared: &Arc<Shared>, events: &mut Vec<EngineEvent>) {
        let now = clock::now();
        for member in 0..self.links.len() {
            if self.reopen[member].is_none_or(|at| at > now) {
                continue;
            }
            self.reopen[member] = None;
            let open = Open {
                volume: self.spec.volume.clone(),
                replica: self.spec.members[member].id,
                brief: self.brief,
            };
            let opened = self.links[member]
                .as_ref()
                .and_then(|link| link.open(shared, member, &open));
            // Without a link, the next `LinkUp` tries again.
            if let Some(channel) = opened {
                let session = channel.session;
                self.sessions[member] = Some(channel);
                events.push(EngineEvent::Connected { member, session });
            }
        }
    }

    /// Leaves the stores and fails what is still there.
    fn end(&mut self) {
        for (member, session) in self.sessions.iter_mut().enumerate() {
            if let (Some(session), Some(link)) = (session.take(), &self.links[member]) {
                link.close(session.session);
            }
        }
        let left = self.replies.drain().map(|(_, (reply, _))| reply);
        for reply in left.chain(self.waiting.drain(..).map(|(_, reply)| reply)) {
            reply.complete(Err(OpError::Closed));
        }
    }
}
