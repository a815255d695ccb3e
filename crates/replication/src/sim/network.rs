//! Sessions between engines and replicas: ordered in both directions, delayed, cut one way or both, reset.

use super::world::{Event, World};
use crate::core::engine::EngineEvent;
use crate::core::types::{MILLI, Nanos};
use crate::core::wire::Message;
use bytes::Bytes;

/// One session.
#[derive(Clone, Copy, Debug)]
pub(super) struct Session {
    pub engine: usize,
    pub replica: usize,
    /// Neither end has seen its end.
    pub engine_open: bool,
    pub replica_open: bool,
    /// Last delivery to the replica and to the engine, for the order.
    last: [Nanos; 2],
}

/// State of the path between one engine's node and one replica.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Link {
    /// Nothing gets through until then: to the replica, to the engine.
    pub blocked_until: [Nanos; 2],
}

impl World {
    /// Tries to connect, as a driver does after a loss.
    pub(super) fn connect(&mut self, engine: usize, replica: usize) {
        let Some(e) = self.engines.get(engine) else { return };
        if e.gone || e.sessions[replica].is_some() {
            return;
        }
        let link = self.engines[engine].links[replica];
        let blocked = link.blocked_until.iter().any(|t| *t > self.now);
        if blocked
            || self.replicas[replica].replica.is_none()
            || self.replicas[replica].paused_until > self.now
        {
            let again = self.now + 20 * MILLI + self.rng.below(30 * MILLI);
            self.at(again, Event::Connect { engine, replica });
            return;
        }
        let id = self.sessions.len();
        let session = Session {
            engine,
            replica,
            engine_open: true,
            replica_open: true,
            last: [self.now; 2],
        };
        self.sessions.push(session);
        self.engines[engine].sessions[replica] = Some(id);
        self.engine_event(
            engine,
            EngineEvent::Connected {
                member: replica,
                session: id as u64,
            },
        );
    }

    /// Puts a message on its way. `to_engine`: direction.
    pub(super) fn transmit(&mut self, session: usize, to_engine: bool, message: &Message) {
        let s = self.sessions[session];
        let alive = if to_engine { s.replica_open } else { s.engine_open };
        if !alive {
            return;
        }
        let way = usize::from(to_engine);
        let link = self.engines[s.engine].links[s.replica];
        let slow = self.rng.percent(2);
        let delay = 50_000 + self.rng.below(if slow { 20 * MILLI } else { MILLI });
        let mut due = (self.now + delay).max(s.last[way] + 1);
        if link.blocked_until[way] > self.now {
            // TCP keeps what is not acknowledged and sends it again when the path is back.
            due = due.max(link.blocked_until[way] + delay);
        }
        self.sessions[session].last[way] = due;
        let frame = message.to_bytes();
        self.at(
            due,
            Event::Deliver {
                session,
                to_engine,
                frame,
            },
        );
    }

    pub(super) fn deliver(&mut self, session: usize, to_engine: bool, frame: Bytes) -> Result<(), String> {
        let s = self.sessions[session];
        let message = Message::decode(frame).map_err(|e| format!("a frame cannot be read: {e}"))?;
        if to_engine {
            let engine = &self.engines[s.engine];
            if s.engine_open && !engine.gone {
                let event = EngineEvent::Message {
                    member: s.replica,
                    session: session as u64,
                    message,
                };
                self.engine_event(s.engine, event);
            }
        } else if s.replica_open && self.replicas[s.replica].replica.is_some() {
            self.replica_message(s.replica, session, message);
        }
        Ok(())
    }

    /// The session breaks; both ends learn of it, at different times.
    pub(super) fn reset(&mut self, session: usize) {
        for to_engine in [true, false] {
            let due = self.now + self.rng.below(3 * MILLI);
            self.at(due, Event::Closed { session, to_engine });
        }
    }

    /// One end sees the end of the session.
    pub(super) fn closed(&mut self, session: usize, to_engine: bool) {
        let s = self.sessions[session];
        if to_engine && s.engine_open {
            self.sessions[session].engine_open = false;
            if self.engines[s.engine].gone {
                return;
            }
            self.engines[s.engine].sessions[s.replica] = None;
            let event = EngineEvent::Disconnected {
                member: s.replica,
                session: session as u64,
            };
            self.engine_event(s.engine, event);
            let again = self.now + MILLI + self.rng.below(20 * MILLI);
            self.at(
                again,
                Event::Connect {
                    engine: s.engine,
                    replica: s.replica,
                },
            );
        } else if !to_engine && s.replica_open {
            self.sessions[session].replica_open = false;
            if let Some(replica) = &mut self.replicas[s.replica].replica {
                replica.disconnected(session as u64);
            }
        }
    }

    /// Every session of a replica ends at its side; the other side learns of it unless the machine is silent.
    pub(super) fn drop_sessions(&mut self, replica: usize, silent: bool) {
        for id in 0..self.sessions.len() {
            if self.sessions[id].replica == replica && self.sessions[id].replica_open {
                self.sessions[id].replica_open = false;
                let wait = if silent {
                    6_000 * MILLI
                } else {
                    self.rng.below(3 * MILLI)
                };
                self.at(
                    self.now + wait,
                    Event::Closed {
                        session: id,
                        to_engine: true,
                    },
                );
            }
        }
    }
}
