//! Going on above a rival. A member that promised a higher epoch to an engine which then never opened (it died, or
//! reached nobody else) refuses the engine that is open, and would do so for ever: promises never go back (R2). The
//! open engine therefore asks all members for an epoch above the rival's after a while, and opens again in it.
//!
//! - *Safe*, because it is an opening like any other, by majority promise, and because the engine goes on only if no
//!   member of that majority has begun somebody else's epoch: then nobody else was exposed since, the logs are prefixes
//!   of its own stream, and what they lack is still kept in memory under the same seqs. Requests wait meanwhile (two
//!   round trips and two syncs); none is answered twice or lost.
//! - *Not a theft*: an engine that was deposed without knowing it must not take the volume back. Just before it asks,
//!   it makes sure that a majority either still takes part in its own epoch or has not begun the rival's. So the rival
//!   was not exposed. One that is alive deposes this engine with its second promise, long before the pause is over.
//! - *Bounded*: the pause doubles as long as rivals come back.

use super::peer::Stage;
use super::stream::READ_LEASE;
use super::{Engine, Phase};
use crate::core::types::{Epoch, Nanos, SECOND};
use crate::core::wire::{Message, Promise};

/// A rival has so long to get its majority, and up to as much again by lot.
const FIRST_PAUSE: Nanos = 2 * SECOND;
/// The longest pause, for rivals that ask again and again.
const LONGEST_PAUSE: Nanos = 60 * SECOND;
/// How long the members may take to say where they stand.
const PROBE: Nanos = SECOND;

/// When to ask above a rival.
pub(super) struct Raise {
    /// The end of the pause, or of the probe.
    at: Option<Nanos>,
    /// When the members were asked where they stand.
    probe: Option<Nanos>,
    pause: Nanos,
    last: Nanos,
}

impl Default for Raise {
    fn default() -> Raise {
        Raise {
            at: None,
            probe: None,
            pause: FIRST_PAUSE,
            last: 0,
        }
    }
}

impl Engine {
    /// The device was exposed in an earlier epoch of this engine: what is submitted waits, and nothing is forgotten.
    pub(super) fn reopening(&self) -> bool {
        self.phase == Phase::Opening && self.exposed.is_some()
    }

    pub(super) fn raise_deadline(&self) -> Option<Nanos> {
        self.raise.at
    }

    /// A member that was asked where it stands.
    pub(super) fn still_refused(&mut self, member: usize, begun: Epoch) {
        self.answered(member);
        let now = self.now;
        let peer = &mut self.peers[member];
        peer.begun = begun;
        peer.told = now;
    }

    /// A member that was asked where it stands, before it takes part.
    pub(super) fn still_ours(&mut self, member: usize) {
        self.answered(member);
        self.peers[member].told = self.now;
    }

    /// Asks above a rival when its time is over.
    pub(super) fn advance_raise(&mut self) {
        if self.exposed.is_none() || !matches!(self.phase, Phase::Open | Phase::Opening) {
            return;
        }
        if !self.peers.iter().any(|p| p.stage == Stage::Refused) {
            (self.raise.at, self.raise.probe) = (None, None);
            return;
        }
        if let Some(probe) = self.raise.probe
            && self.holds_since(probe) >= self.quorum()
        {
            return self.raise();
        }
        if self.raise.at.is_some_and(|at| at > self.now) {
            return;
        }
        let paused = self.raise.at.is_some() && self.raise.probe.is_none();
        if paused {
            self.probe();
            return;
        }
        if self.now > self.raise.last + 2 * LONGEST_PAUSE {
            self.raise.pause = FIRST_PAUSE;
        }
        self.raise.probe = None;
        self.raise.at = Some(self.now + self.raise.pause + self.rng.below(self.raise.pause));
    }

    /// Asks all members where they stand.
    fn probe(&mut self) {
        self.raise.probe = Some(self.now);
        self.raise.at = Some(self.now + PROBE);
        for member in 0..self.peers.len() {
            match self.peers[member].stage {
                Stage::Live => self.append(member, Vec::new()),
                stage if stage == Stage::Refused || self.peers[member].is_ours() => {
                    self.ask(member);
                    self.send(member, Message::Hello);
                }
                _ => {}
            }
        }
    }

    /// Members that the rival cannot have counted on at some moment after `probe`.
    fn holds_since(&self, probe: Nanos) -> usize {
        let holds = |p: &&super::Peer| match p.stage {
            Stage::Live => p.lease >= probe + READ_LEASE,
            Stage::Refused => p.told >= probe && !self.is_anothers(p.begun),
            _ => p.is_ours() && p.told >= probe,
        };
        self.peers.iter().filter(holds).count()
    }

    fn raise(&mut self) {
        tracing::info!(volume = %self.settings.volume, seen = self.seen,
            "a replica has promised an engine that did not open: going on in a higher epoch");
        self.raise = Raise {
            at: None,
            probe: None,
            pause: (self.raise.pause * 2).min(LONGEST_PAUSE),
            last: self.now,
        };
        self.phase = Phase::Opening;
        self.attempt();
    }

    fn is_anothers(&self, epoch: Epoch) -> bool {
        self.exposed.is_some_and(|ours| epoch > ours) && epoch.instance != self.settings.instance
    }

    /// Whether somebody else may have been exposed since this engine was: a member has begun another's epoch.
    pub(super) fn succeeded(&self, promises: &[(usize, &Promise)]) -> bool {
        promises
            .iter()
            .any(|(_, p)| self.is_anothers(p.history.last_epoch()))
    }
}
