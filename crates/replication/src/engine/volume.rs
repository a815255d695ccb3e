//! One open volume: a thread that drives the core's engine.
//!
//! It drains what has come (device requests, messages, links that came and went), hands it to the core in one go,
//! and carries out what the core wants.

use super::link::{ChannelSender, Link};
use crate::clock;
use crate::core::engine::{
    Engine, EngineAction, EngineEvent, EngineSettings, EngineStatus, Op, OpError, VerifyReport,
};
use crate::core::types::{Epoch, Nanos, SECOND};
use crate::core::wire::Message;
use crate::net::control::{Open, VolumeSpec};
use blockdev::Done;
use bytes::Bytes;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use tokio::sync::{oneshot, watch};
use uuid::Uuid;

/// Inputs handled in one go.
const BATCH: usize = 256;
/// Bytes of requests inside the core; the rest waits in the order of its arrival. Bounds the memory of a volume
/// whose stores are slow.
const MAX_BYTES_INSIDE: u64 = 32 << 20;
/// The thread's stack, bytes.
const STACK_BYTES: usize = 512 << 10;
/// Pause before a session that the store or the core closed is opened again.
const REOPEN_PAUSE: Nanos = SECOND / 4;
/// Without anything to do for so long, memory is given back.
const IDLE: std::time::Duration = std::time::Duration::from_millis(700);

/// What comes to the thread.
pub enum Input {
    /// A request of the device or of an operator.
    Submit(Op, Reply),
    /// The link of that member is up.
    LinkUp(usize),
    /// A session ended; with `retry` its link is still up.
    Closed {
        /// Index of the member.
        member: usize,
        /// Number of the session.
        session: u64,
        /// Try again on the same link.
        retry: bool,
    },
    /// A message of a member.
    Message {
        /// Index of the member.
        member: usize,
        /// Number of the session.
        session: u64,
        /// The message.
        message: Message,
    },
    /// Asks what the engine knows.
    Status(oneshot::Sender<EngineStatus>),
    /// Asks for the result of the last verification.
    Report(oneshot::Sender<Option<VerifyReport>>),
    /// Ends the thread without a flush; open requests fail.
    Stop,
}

/// Where a result goes.
pub enum Reply {
    /// To the kernel, with data.
    Data(Done<Bytes>),
    /// To the kernel.
    Empty(Done<()>),
    /// To an operator.
    Operator(oneshot::Sender<Result<(), OpError>>),
}

impl Reply {
    /// Answers.
    pub fn complete(self, result: Result<Bytes, OpError>) {
        match self {
            Reply::Data(done) => done(result.map_err(errno)),
            Reply::Empty(done) => done(result.map(drop).map_err(errno)),
            Reply::Operator(sender) => {
                let _ = sender.send(result.map(drop));
            }
        }
    }
}

fn errno(error: OpError) -> i32 {
    match error {
        OpError::OutOfRange => libc::ENOSPC,
        OpError::Deposed | OpError::Damaged | OpError::Closed | OpError::NotComplete => libc::EIO,
    }
}

/// How far the opening is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Not exposed yet.
    Opening,
    /// Open in that epoch.
    Open(Epoch),
    /// Another engine has it.
    Deposed,
}

/// A handle on the thread.
#[derive(Clone)]
pub struct Volume {
    /// Its configuration.
    pub spec: Arc<VolumeSpec>,
    inputs: Sender<Input>,
    size_bytes: Arc<AtomicU64>,
    phase: watch::Receiver<Phase>,
}

impl Volume {
    /// Starts to open the volume. `links` has the member's links in the order of the configuration. With `only_after` it
    /// gives way to everybody, see [`EngineSettings::only_after`].
    pub fn start(
        spec: VolumeSpec,
        links: Vec<Option<Arc<Link>>>,
        home_region: &str,
        only_after: Option<u64>,
    ) -> std::io::Result<Volume> {
        // An ordinary instance is a random UUID, whose upper half is never zero.
        let instance = Uuid::new_v4().as_u128();
        let instance = if only_after.is_some() {
            instance & u128::from(u64::MAX)
        } else {
            instance
        };
        let class = crate::core::types::Class::parse(&spec.class)
            .ok_or_else(|| std::io::Error::other(format!("unknown class {:?}", spec.class)))?;
        let settings = EngineSettings {
            volume: spec.volume.clone(),
            size_bytes: spec.size_bytes,
            class,
            members: spec.core_members(),
            home: spec.members.iter().position(|m| m.region == home_region),
            instance,
            write_through: false,
            only_after,
            mutations: Default::default(),
        };
        let (inputs, receiver) = channel();
        let (phase_sender, phase) = watch::channel(Phase::Opening);
        let size_bytes = Arc::new(AtomicU64::new(spec.size_bytes));
        let spec = Arc::new(spec);
        let members = links.len();
        let worker = Worker {
            engine: Engine::new(settings, clock::now(), rand::random()),
            spec: spec.clone(),
            links,
            sessions: (0..members).map(|_| None).collect(),
            reopen: vec![None; members],
            inputs: inputs.clone(),
            receiver,
            brief: only_after.is_some(),
            replies: HashMap::new(),
            next_request: 1,
            waiting: VecDeque::new(),
            bytes_inside: 0,
            phase: phase_sender,
            size_bytes: size_bytes.clone(),
        };
        std::thread::Builder::new()
            .name("volume".into())
            .stack_size(STACK_BYTES)
            .spawn(move || worker.run())?;
        for member in 0..members {
            let _ = inputs.send(Input::LinkUp(member));
        }
        Ok(Volume {
            spec,
            inputs,
            size_bytes,
            phase,
        })
    }

    /// A block device on it.
    pub fn device(&self) -> super::device::VolumeDevice {
        super::device::VolumeDevice::new(self.inputs.clone(), self.size_bytes.clone())
    }

    /// Tells the volume that the link to a region came up.
    pub fn link_up(&self, region: &str) {
        for (member, spec) in self.spec.members.iter().enumerate() {
            if spec.region == region {
                let _ = self.inputs.send(Input::LinkUp(member));
            }
        }
    }

    /// How far the opening is, and its changes.
    pub fn phase(&self) -> watch::Receiver<Phase> {
        self.phase.clone()
    }

    /// Submits an operator's request and waits for its result. The caller bounds the wait.
    pub async fn submit(&self, op: Op) -> Result<(), OpError> {
        let (sender, receiver) = oneshot::channel();
        let _ = self.inputs.send(Input::Submit(op, Reply::Operator(sender)));
        receiver.await.unwrap_or(Err(OpError::Closed))
    }

    /// What the engine knows; `None` once it is closed.
    pub async fn status(&self) -> Option<EngineStatus> {
        let (sender, receiver) = oneshot::channel();
        let _ = self.inputs.send(Input::Status(sender));
        receiver.await.ok()
    }

    /// Result of the last verification.
    pub async fn verify_report(&self) -> Option<VerifyReport> {
        let (sender, receiver) = oneshot::channel();
        let _ = self.inputs.send(Input::Report(sender));
        receiver.await.ok().flatten()
    }

    /// Ends the thread; requests that are still there fail.
    pub fn stop(&self) {
        let _ = self.inputs.send(Input::Stop);
    }
}

struct Worker {
    engine: Engine,
    spec: Arc<VolumeSpec>,
    links: Vec<Option<Arc<Link>>>,
    sessions: Vec<Option<ChannelSender>>,
    /// When to open a session again.
    reopen: Vec<Option<Nanos>>,
    inputs: Sender<Input>,
    receiver: Receiver<Input>,
    /// The volume counts as attached to nobody meanwhile.
    brief: bool,
    replies: HashMap<u64, (Reply, u64)>,
    next_request: u64,
    waiting: VecDeque<(Op, Reply)>,
    bytes_inside: u64,
    phase: watch::Sender<Phase>,
    size_bytes: Arc<AtomicU64>,
}

fn op_bytes(op: &Op) -> u64 {
    match op {
        Op::Read { len, .. } => u64::from(*len),
        Op::Write { data, .. } => data.len() as u64,
        _ => 0,
    }
}

impl Worker {
    fn run(mut self) {
        let mut events = Vec::new();
        let mut actions = Vec::new();
        loop {
            let wake = self
                .reopen
                .iter()
                .flatten()
                .copied()
                .chain(self.engine.deadline())
                .min();
            let first = match wake {
                None => self.next_when_idle(),
                Some(at) => match self.receiver.recv_timeout(clock::until(at)) {
                    Ok(input) => Some(input),
                    Err(RecvTimeoutError::Timeout) => None,
                    Err(RecvTimeoutError::Disconnected) => break,
                },
            };
            let more = std::iter::from_fn(|| self.receiver.try_recv().ok()).take(BATCH);
            let inputs: Vec<Input> = first.into_iter().chain(more).collect();
            let mut stop = false;
            for input in inputs {
                stop |= matches!(input, Input::Stop);
                self.take(input, &mut events);
            }
            if stop {
                break;
            }
            self.reopen_sessions(&mut events);
            let now = clock::now();
            if self.engine.deadline().is_some_and(|at| at <= now) {
                events.push(EngineEvent::Tick);
            }
            self.engine.handle_batch(now, events.drain(..), &mut actions);
            // Completions make room, and what was waiting may complete at once.
            while self.act(&mut actions) && self.admit(&mut events) {
                self.engine
                    .handle_batch(clock::now(), events.drain(..), &mut actions);
            }
        }
        self.end();
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
            Input::Stop => {}
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

    /// Carries out actions; true if a request completed.
    fn act(&mut self, actions: &mut Vec<EngineAction>) -> bool {
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
                            self.size_bytes
                                .store(self.engine.status().size_bytes, Ordering::Relaxed);
                        }
                        reply.complete(result);
                    }
                }
                EngineAction::Opened { epoch, size_bytes } => {
                    self.size_bytes.store(size_bytes, Ordering::Relaxed);
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
        completed
    }

    fn reopen_sessions(&mut self, events: &mut Vec<EngineEvent>) {
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
                .and_then(|link| link.open(&self.inputs, member, &open));
            // Without a link, the next `LinkUp` tries again.
            if let Some(channel) = opened {
                let session = channel.session;
                self.sessions[member] = Some(channel);
                events.push(EngineEvent::Connected { member, session });
            }
        }
    }

    fn end(mut self) {
        for (member, session) in self.sessions.iter_mut().enumerate() {
            if let (Some(session), Some(link)) = (session.take(), &self.links[member]) {
                link.close(session.session);
            }
        }
        let left = self.replies.drain().map(|(_, (reply, _))| reply);
        for reply in left.chain(self.waiting.drain(..).map(|(_, reply)| reply)) {
            reply.complete(Err(OpError::Closed));
        }
        // Late submitters find the channel closed when the receiver goes.
        while let Ok(input) = self.receiver.try_recv() {
            if let Input::Submit(_, reply) = input {
                reply.complete(Err(OpError::Closed));
            }
        }
    }
}
