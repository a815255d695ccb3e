//! The event loop and the processes.

use super::combos::Combo;
use super::disk::SimDisk;
use super::model::Model;
use super::network::{Link, Session};
use super::{Options, Outcome};
use crate::core::engine::{Engine, EngineAction, EngineEvent, EngineSettings};
use crate::core::replica::{FormatAs, Replica, ReplicaAction, ReplicaSettings, SyncJob};
use crate::core::rng::Rng;
use crate::core::types::{BLOCK, Class, MILLI, Member, Nanos, ReplicaId, SECOND, VolumeMeta};
use crate::core::wire::Message;
use bytes::Bytes;
use std::collections::{BTreeMap, BinaryHeap};

pub(super) const MEMBERS: usize = 3;
/// Journal segments are small, so that they wrap.
const SEGMENT: u64 = 192 << 10;

/// What happens at a time.
pub(super) enum Event {
    Connect {
        engine: usize,
        replica: usize,
    },
    Deliver {
        session: usize,
        to_engine: bool,
        frame: Bytes,
    },
    Closed {
        session: usize,
        to_engine: bool,
    },
    EngineTick {
        engine: usize,
        due: Nanos,
    },
    ReplicaTick {
        replica: usize,
        life: u64,
        due: Nanos,
    },
    Synced {
        replica: usize,
        life: u64,
        ticket: u64,
        job: Option<SyncJob>,
        failed: bool,
    },
    Client {
        engine: usize,
    },
    Fault,
    Combo(super::combos::Step),
    StartReplica {
        replica: usize,
    },
}

struct Timed {
    at: Nanos,
    order: u64,
    event: Event,
}

impl PartialEq for Timed {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}
impl Eq for Timed {}
impl PartialOrd for Timed {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Timed {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (other.at, other.order).cmp(&(self.at, self.order))
    }
}

/// One region.
pub(super) struct Region {
    pub disk: SimDisk,
    pub replica: Option<Replica>,
    /// Counts starts, so that events of an earlier life are dropped.
    pub life: u64,
    pub boot: u128,
    pub paused_until: Nanos,
    pub tick: Nanos,
    /// It lost its memory and has not been brought level since.
    /// The last record of the log then.
    pub forgot: Option<u64>,
    /// Faults keep it down until then.
    pub down_until: Nanos,
}

/// One engine process.
pub(super) struct Process {
    pub engine: Engine,
    pub gone: bool,
    pub opened: bool,
    /// Counter of its epoch.
    pub rank: u32,
    /// A rival has asked above it.
    pub rivalled: bool,
    pub paused_until: Nanos,
    pub sessions: [Option<usize>; MEMBERS],
    pub links: [Link; MEMBERS],
    pub tick: Nanos,
    pub requests: BTreeMap<u64, super::client::Pending>,
}

/// Everything.
pub struct World {
    pub(super) now: Nanos,
    pub(super) rng: Rng,
    options: Options,
    queue: BinaryHeap<Timed>,
    order: u64,
    pub(super) replicas: Vec<Region>,
    pub(super) engines: Vec<Process>,
    pub(super) sessions: Vec<Session>,
    pub(super) model: Model,
    pub(super) profile: super::faults::Profile,
    pub(super) calm: bool,
    /// The client takes its time.
    pub(super) slow: bool,
    pub(super) next_request: u64,
    pub(super) error: Option<String>,
    pub(super) out: Outcome,
    members: Vec<Member>,
    /// Highest epoch opened.
    pub(super) newest: u32,
    pub(super) verified: Option<bool>,
    /// For the rows of faults.
    pub(super) backup: Option<SimDisk>,
    pub(super) beheaded: Option<usize>,
    pub(super) row: super::rows::Row,
    pub(super) backlog: Option<usize>,
    pub(super) snaps: Option<super::snaps::Snaps>,
    /// Replicas are scrubbed.
    pub(super) scrubs: bool,
    /// The client asks for nothing.
    pub(super) silent: bool,
}

impl World {
    pub(super) fn new(seed: u64, options: Options) -> World {
        let mut rng = Rng::new(seed ^ 0x5eed);
        let members: Vec<Member> = (0..MEMBERS)
            .map(|i| Member {
                id: ReplicaId(u128::from(rng.draw()) + 1),
                region: format!("r{i}"),
            })
            .collect();
        let combo = if options.plain {
            Combo::Nothing
        } else {
            Combo::of(seed)
        };
        let profile = super::faults::Profile::draw(&mut rng, combo);
        let blocks = profile.blocks;
        let mut world = World {
            now: SECOND,
            rng,
            options,
            queue: BinaryHeap::new(),
            order: 0,
            replicas: Vec::new(),
            engines: Vec::new(),
            sessions: Vec::new(),
            model: Model::new(blocks * (BLOCK as u64 / super::model::CELL)),
            profile,
            calm: false,
            slow: false,
            next_request: 0,
            error: None,
            out: Outcome {
                trace: seed,
                events: 0,
                reads: 0,
                writes: 0,
                snapshots: 0,
                epochs: 0,
                faults: 0,
            },
            members,
            newest: 0,
            verified: None,
            backup: None,
            beheaded: None,
            backlog: None,
            snaps: super::snaps::Snaps::of(seed, combo),
            row: super::rows::Row::default(),
            scrubs: super::scrubs::has(seed, options.plain),
            silent: false,
        };
        for i in 0..MEMBERS {
            let disk = SimDisk::default();
            let boot = u128::from(world.rng.draw());
            world.replicas.push(Region {
                disk,
                replica: None,
                life: 0,
                boot,
                paused_until: 0,
                tick: Nanos::MAX,
                forgot: None,
                down_until: 0,
            });
            let learner = i == 2 && world.profile.late_member;
            world.format(
                i,
                if learner {
                    FormatAs::Learner
                } else {
                    FormatAs::Fresh
                },
            );
            world.start_replica(i);
        }
        world
    }

    pub(super) fn format(&mut self, replica: usize, how: FormatAs) {
        let meta = VolumeMeta {
            volume: "v".to_owned(),
            size_bytes: self.profile.blocks * BLOCK as u64,
            class: Class::Replicated,
            members: self.members.clone(),
            id: self.members[replica].id,
            labels: BTreeMap::new(),
        };
        let region = &self.replicas[replica];
        if let Err(e) = Replica::format_with(&region.disk, &meta, how, SEGMENT) {
            self.error = Some(format!("format: {e}"));
        }
    }

    pub(super) fn at(&mut self, at: Nanos, event: Event) {
        self.order += 1;
        self.queue.push(Timed {
            at: at.max(self.now),
            order: self.order,
            event,
        });
    }

    pub(super) fn outcome(&self) -> Outcome {
        self.out
    }

    fn note(&mut self, what: u64) {
        let x = self.out.trace ^ what.wrapping_add(self.now);
        self.out.trace = x.rotate_left(23).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    /// Runs until `until` or until `done`.
    pub(super) fn advance(&mut self, until: Nanos, done: impl Fn(&World) -> bool) -> Result<bool, String> {
        while !done(self) {
            if self.queue.peek().is_none_or(|t| t.at > until) {
                self.now = until;
                return Ok(done(self));
            }
            let Some(timed) = self.queue.pop() else { break };
            self.now = self.now.max(timed.at);
            self.step(timed.event)?;
            if let Some(error) = self.error.take() {
                return Err(error);
            }
        }
        Ok(true)
    }

    fn step(&mut self, event: Event) -> Result<(), String> {
        self.out.events += 1;
        let (kind, engine, replica) = match &event {
            Event::Connect { engine, replica } => (1, Some(*engine), Some(*replica)),
            Event::Deliver {
                session,
                to_engine: true,
                ..
            } => (2, Some(self.sessions[*session].engine), None),
            Event::Deliver { session, .. } => (3, None, Some(self.sessions[*session].replica)),
            Event::Closed {
                session,
                to_engine: true,
            } => (4, Some(self.sessions[*session].engine), None),
            Event::Closed { session, .. } => (5, None, Some(self.sessions[*session].replica)),
            Event::EngineTick { engine, .. } => (6, Some(*engine), None),
            Event::ReplicaTick { replica, .. } => (7, None, Some(*replica)),
            Event::Synced { replica, .. } => (8, None, Some(*replica)),
            Event::Client { .. } => (9, None, None),
            Event::Fault | Event::Combo(_) => (10, None, None),
            Event::StartReplica { .. } => (11, None, None),
        };
        self.note(kind);
        // A stopped process handles nothing; it all comes when it goes on.
        let pause = engine
            .map_or(0, |e| self.engines[e].paused_until)
            .max(replica.map_or(0, |r| self.replicas[r].paused_until));
        if pause > self.now {
            self.at(pause, event);
            return Ok(());
        }
        match event {
            Event::Connect { engine, replica } => self.connect(engine, replica),
            Event::Deliver {
                session,
                to_engine,
                frame,
            } => {
                self.note(frame.len() as u64);
                self.deliver(session, to_engine, frame)?;
            }
            Event::Closed { session, to_engine } => self.closed(session, to_engine),
            Event::EngineTick { engine, due } => {
                if !self.engines[engine].gone && self.engines[engine].tick == due {
                    self.engines[engine].tick = Nanos::MAX;
                    self.engine_event(engine, EngineEvent::Tick);
                }
            }
            Event::ReplicaTick { replica, life, due } => {
                if self.replicas[replica].life == life && self.replicas[replica].tick == due {
                    self.replicas[replica].tick = Nanos::MAX;
                    self.replica_work(replica, Vec::new());
                }
            }
            Event::Synced {
                replica,
                life,
                ticket,
                job,
                failed,
            } => {
                self.synced(replica, life, ticket, job, failed);
            }
            Event::Client { engine } => self.client(engine),
            Event::Fault => self.fault(),
            Event::Combo(step) => self.combo(step),
            Event::StartReplica { replica } => self.start_replica(replica),
        }
        Ok(())
    }

    pub(super) fn start_engine(&mut self) -> usize {
        let id = self.engines.len();
        let settings = EngineSettings {
            volume: "v".to_owned(),
            size_bytes: self.profile.blocks * BLOCK as u64,
            class: Class::Replicated,
            members: self.members.clone(),
            home: Some(id % MEMBERS),
            instance: u128::from(self.rng.draw()) + 1,
            write_through: false,
            only_after: None,
            mutations: self.options.mutations,
        };
        let seed = self.rng.draw();
        let engine = Engine::new(settings, self.now, seed);
        self.engines.push(Process {
            engine,
            gone: false,
            opened: false,
            rank: 0,
            rivalled: false,
            paused_until: 0,
            sessions: [None; MEMBERS],
            links: [Link::default(); MEMBERS],
            tick: Nanos::MAX,
            requests: BTreeMap::new(),
        });
        for replica in 0..MEMBERS {
            let due = self.now + self.rng.below(2 * MILLI);
            self.at(due, Event::Connect { engine: id, replica });
        }
        id
    }

    pub(super) fn engine_event(&mut self, engine: usize, event: EngineEvent) {
        let mut actions = Vec::new();
        let (trace, ms) = (self.options.trace, self.now / 1000);
        if trace {
            tracing::debug!(ms, engine, ?event, "event");
        }
        let greets = matches!(event, EngineEvent::Connected { .. });
        self.engines[engine].engine.handle(self.now, event, &mut actions);
        let (mut raised, mut probed) = (false, false);
        for action in actions {
            if trace {
                tracing::debug!(ms, engine, ?action, "action");
            }
            match action {
                EngineAction::Send { member, message } => {
                    let process = &self.engines[engine];
                    raised |= process.opened
                        && matches!(message, Message::Prepare { epoch } if epoch.counter as u32 > process.rank);
                    probed |= process.opened && !greets && matches!(message, Message::Hello);
                    if matches!(message, Message::Prepare { .. }) {
                        self.row_asks(engine, member);
                    }
                    if let Some(session) = self.engines[engine].sessions[member] {
                        self.transmit(session, false, &message);
                    }
                }
                EngineAction::Complete { request, result } => {
                    if let Err(e) = self.completed(engine, request, result) {
                        self.error.get_or_insert(e);
                    }
                }
                EngineAction::Opened { epoch, .. } => {
                    self.out.epochs += 1;
                    // An engine that goes on in a higher epoch is still the same to its client.
                    if !self.engines[engine].opened {
                        self.engines[engine].opened = true;
                        self.engines[engine].rank = epoch.counter as u32;
                        self.newest = self.newest.max(epoch.counter as u32);
                        self.at(self.now, Event::Client { engine });
                        if let Err(e) = self.check_snaps(engine) {
                            self.error.get_or_insert(e);
                        }
                        self.combo_opened();
                    }
                }
                EngineAction::Deposed => self.engines[engine].gone = true,
                EngineAction::Reconnect { member } => {
                    if let Some(session) = self.engines[engine].sessions[member] {
                        self.reset(session);
                    }
                }
            }
        }
        if raised {
            self.combo_raised(engine);
        } else if probed {
            self.row_probed(engine);
        }
        if self.engines[engine].gone {
            self.close_engine(engine);
            return;
        }
        if let Some(due) = self.engines[engine].engine.deadline()
            && due < self.engines[engine].tick
        {
            self.engines[engine].tick = due;
            self.at(due, Event::EngineTick { engine, due });
        }
    }

    /// The process ends.
    pub(super) fn close_engine(&mut self, engine: usize) {
        self.engines[engine].gone = true;
        for session in self.engines[engine].sessions.into_iter().flatten() {
            self.sessions[session].engine_open = false;
            let due = self.now + self.rng.below(5 * MILLI);
            self.at(
                due,
                Event::Closed {
                    session,
                    to_engine: false,
                },
            );
        }
        self.engines[engine].requests.clear();
    }

    pub(super) fn start_replica(&mut self, replica: usize) {
        let region = &self.replicas[replica];
        if region.replica.is_some() || region.down_until > self.now {
            return;
        }
        let settings = ReplicaSettings {
            boot_id: region.boot,
            incarnation: u128::from(self.rng.draw()) << 64 | u128::from(self.rng.draw()),
            scrub: self.scrub_settings(),
            mutations: self.options.mutations,
        };
        let disk = self.replicas[replica].disk.clone();
        match Replica::open(Box::new(disk), settings, self.now) {
            Ok(opened) => {
                let region = &mut self.replicas[replica];
                region.replica = Some(opened);
                region.life += 1;
                region.tick = Nanos::MAX;
                self.replica_work(replica, Vec::new());
            }
            Err(_) if self.bad_media(replica) => {
                // Both copies of its state rotted, or a file is gone: the operator gives it a new disk.
                self.replicas[replica].disk.wipe();
                self.format(replica, FormatAs::Learner);
                self.start_replica(replica);
            }
            Err(e) => self.error = Some(format!("replica {replica} does not open: {e}")),
        }
    }

    pub(super) fn replica_message(&mut self, replica: usize, session: usize, message: Message) {
        let mut actions = Vec::new();
        let now = self.now;
        self.replicas[replica].disk.tell(now);
        if let Some(r) = &mut self.replicas[replica].replica {
            if self.options.trace {
                tracing::debug!(us = now / 1000, replica, session, ?message, "replica");
            }
            r.handle(now, session as u64, message.clone(), &mut actions);
            if self.options.trace {
                tracing::debug!(us = now / 1000, replica, ?actions, "replica");
            }
        }
        self.replica_work(replica, actions);
        self.combo_told(replica, &message);
    }

    /// What a driver does after anything happened at a replica.
    pub(super) fn replica_work(&mut self, replica: usize, actions: Vec<ReplicaAction>) {
        for action in actions {
            match action {
                ReplicaAction::Send { session, message } => self.transmit(session as usize, true, &message),
                ReplicaAction::Drop { session } => self.reset(session as usize),
            }
        }
        let now = self.now;
        let life = self.replicas[replica].life;
        let Some(r) = &mut self.replicas[replica].replica else {
            return;
        };
        let mut told = Vec::new();
        let next = r.background(now, &mut told);
        let mut jobs = Vec::new();
        while let Some(job) = r.begin_sync(now) {
            jobs.push(job);
        }
        for job in jobs {
            let ticket = job.ticket();
            let slow = self.rng.percent(2);
            let due = now + 100_000 + self.rng.below(if slow { 200 * MILLI } else { 3 * MILLI });
            // What the job covers may reach the media at its beginning or only at its end.
            let (job, failed) = if self.rng.percent(50) {
                (None, job.run().is_err())
            } else {
                (Some(job), false)
            };
            self.at(
                due,
                Event::Synced {
                    replica,
                    life,
                    ticket,
                    job,
                    failed,
                },
            );
        }
        for action in told {
            if let ReplicaAction::Send { session, message } = action {
                self.transmit(session as usize, true, &message);
            }
        }
        let region = &mut self.replicas[replica];
        if let Some(due) = next
            && due.max(now + 1) < region.tick
        {
            let due = due.max(now + 1);
            region.tick = due;
            self.at(due, Event::ReplicaTick { replica, life, due });
        }
    }

    fn synced(&mut self, replica: usize, life: u64, ticket: u64, job: Option<SyncJob>, failed: bool) {
        if self.replicas[replica].life != life || self.replicas[replica].replica.is_none() {
            return;
        }
        let failed = job.map_or(failed, |j| j.run().is_err());
        let result = if failed {
            Err(std::io::Error::other("injected EIO"))
        } else {
            Ok(())
        };
        let mut actions = Vec::new();
        let now = self.now;
        if let Some(r) = &mut self.replicas[replica].replica {
            r.synced(now, ticket, result, &mut actions);
        }
        self.replica_work(replica, actions);
    }
}
