//! One open volume: the handle on the [`super::worker`] that drives the core's engine.

use super::link::Link;
use super::worker::Shared;
use crate::clock;
use crate::core::engine::{Engine, EngineSettings, EngineStatus, Op, OpError, VerifyReport};
use crate::core::types::Epoch;
use crate::core::wire::Message;
use crate::net::control::VolumeSpec;
use blockdev::Done;
use bytes::Bytes;
use std::sync::Arc;
use tokio::sync::{oneshot, watch};
use uuid::Uuid;

/// The thread's stack, bytes.
const STACK_BYTES: usize = 512 << 10;

/// What comes to the worker.
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
    /// To somebody who copies, with data.
    Copier(oneshot::Sender<Result<Bytes, OpError>>),
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
            Reply::Copier(sender) => {
                let _ = sender.send(result);
            }
        }
    }
}

fn errno(error: OpError) -> i32 {
    match error {
        OpError::OutOfRange => libc::ENOSPC,
        OpError::Deposed
        | OpError::Damaged
        | OpError::Closed
        | OpError::NotComplete
        | OpError::TooManySnapshots
        | OpError::NoSnapshot => libc::EIO,
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

/// With what right a volume is opened. The counters are those of epochs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// It is wanted here: whoever has it loses it.
    Attach,
    /// It was attached by this node's engine before, up to this epoch. Gives way to everybody who asked since.
    Resume {
        /// The highest epoch known.
        after: u64,
    },
    /// For work on a volume that counts as attached to nobody meanwhile. Gives way to everybody who asked since.
    Brief {
        /// The epoch that was closed.
        after: u64,
    },
}

impl Claim {
    /// See [`EngineSettings::only_after`].
    fn only_after(self) -> Option<u64> {
        match self {
            Claim::Attach => None,
            Claim::Resume { after } | Claim::Brief { after } => Some(after),
        }
    }
}

/// A handle on the thread.
#[derive(Clone)]
pub struct Volume {
    /// Its configuration.
    pub spec: Arc<VolumeSpec>,
    shared: Arc<Shared>,
    phase: watch::Receiver<Phase>,
}

impl Volume {
    /// Starts to open the volume. `links` has the member's links in the order of the configuration.
    pub fn start(
        spec: VolumeSpec,
        links: Vec<Option<Arc<Link>>>,
        home_region: &str,
        claim: Claim,
    ) -> std::io::Result<Volume> {
        let only_after = claim.only_after();
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
        let (phase_sender, phase) = watch::channel(Phase::Opening);
        let spec = Arc::new(spec);
        let members = links.len();
        let brief = matches!(claim, Claim::Brief { .. });
        let engine = Engine::new(settings, clock::now(), rand::random());
        let shared = Shared::new(engine, spec.clone(), links, brief, phase_sender);
        let of_thread = shared.clone();
        std::thread::Builder::new()
            .name("volume".into())
            .stack_size(STACK_BYTES)
            .spawn(move || of_thread.serve())?;
        for member in 0..members {
            shared.post(Input::LinkUp(member));
        }
        Ok(Volume { spec, shared, phase })
    }

    /// A block device on it.
    pub fn device(&self) -> super::device::VolumeDevice {
        super::device::VolumeDevice::new(self.shared.clone())
    }

    /// Tells the volume that the link to a region came up.
    pub fn link_up(&self, region: &str) {
        for (member, spec) in self.spec.members.iter().enumerate() {
            if spec.region == region {
                self.shared.post(Input::LinkUp(member));
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
        self.shared.post(Input::Submit(op, Reply::Operator(sender)));
        receiver.await.unwrap_or(Err(OpError::Closed))
    }

    /// Submits a read of somebody who copies. The caller bounds the wait.
    pub async fn fetch(&self, op: Op) -> Result<Bytes, OpError> {
        let (sender, receiver) = oneshot::channel();
        self.shared.post(Input::Submit(op, Reply::Copier(sender)));
        receiver.await.unwrap_or(Err(OpError::Closed))
    }

    /// What the engine knows; `None` once it is closed.
    pub async fn status(&self) -> Option<EngineStatus> {
        let (sender, receiver) = oneshot::channel();
        self.shared.post(Input::Status(sender));
        receiver.await.ok()
    }

    /// Result of the last verification.
    pub async fn verify_report(&self) -> Option<VerifyReport> {
        let (sender, receiver) = oneshot::channel();
        self.shared.post(Input::Report(sender));
        receiver.await.ok().flatten()
    }

    /// Ends the thread; requests that are still there fail.
    pub fn stop(&self) {
        self.shared.post(Input::Stop);
    }
}
