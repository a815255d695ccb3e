//! What goes wrong, and the course of a run.

use super::world::{Event, MEMBERS, World};
use crate::core::engine::{MemberState, MemberStatus};
use crate::core::replica::{FormatAs, Replica};
use crate::core::rng::Rng;
use crate::core::types::{MILLI, Nanos, SECOND};

/// The kinds of faults that a seed has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Profile {
    pub blocks: u64,
    /// Pause of the client between requests.
    pub think: Nanos,
    /// The third member is formatted as a learner.
    pub late_member: bool,
    /// Machines lose power, not only processes.
    pub power: bool,
    /// One replica's media rot.
    pub rot: bool,
    /// One replica's sync fails.
    pub eio: bool,
    /// Engines are replaced.
    pub failover: bool,
    /// Average pause between faults.
    pub pace: Nanos,
    /// Members that are long gone, so that they come back by extents.
    pub long_absence: bool,
    /// Faults in a row.
    pub combo: super::combos::Combo,
    /// The replica whose media suffer.
    pub victim: usize,
    suffered: bool,
}

impl Profile {
    pub fn draw(rng: &mut Rng, combo: super::combos::Combo) -> Profile {
        let mut profile = Profile {
            blocks: 64 + rng.below(192),
            think: MILLI / 2 + rng.below(3 * MILLI),
            late_member: rng.percent(15),
            power: rng.percent(50),
            rot: rng.percent(20),
            eio: rng.percent(15),
            failover: rng.percent(70),
            pace: 100 * MILLI + rng.below(700 * MILLI),
            long_absence: rng.percent(40),
            victim: rng.below(MEMBERS as u64) as usize,
            combo,
            suffered: false,
        };
        // A disk has one kind of trouble.
        match profile.combo {
            super::combos::Combo::Hole => (profile.rot, profile.eio) = (true, false),
            super::combos::Combo::SetBack | super::combos::Combo::Lie | super::combos::Combo::Reconnect => {
                (profile.rot, profile.eio) = (false, false);
            }
            _ => {}
        }
        profile
    }
}

/// Shortest pause between rows of faults.
pub(super) const FAULT_PAUSE: Nanos = 500 * MILLI;
/// Length of the phase of faults.
const FAULTS: Nanos = 12 * SECOND;
/// After repair everything must be complete within so long. Silent sessions, grace periods and leases take their time.
const SETTLE: Nanos = 30 * SECOND;
/// With everything repaired no request may wait for so long.
const PATIENCE: Nanos = 5 * SECOND;
/// Longest delay of a message.
const LATE: Nanos = 3 * SECOND;
/// With one member gone no request may take longer: hedges and races, no timeouts.
const LONGEST_PAUSE_MS: u64 = 1500;

impl World {
    /// The run.
    pub(super) fn run(&mut self) -> Result<(), String> {
        self.start_engine();
        self.advance(self.now + 20 * SECOND, |w| w.engines[0].opened)?;
        if !self.engines[0].opened {
            return Err(format!("a new volume does not open: {}", self.describe()));
        }
        self.at(self.now + self.profile.pace, Event::Fault);
        self.begin_combo();
        self.advance(self.now + FAULTS, |_| false)?;
        self.repair()?;
        self.lose_one()?;
        self.scrub_all()?;
        self.compare()
    }

    fn repair(&mut self) -> Result<(), String> {
        self.calm = true;
        for replica in 0..MEMBERS {
            self.replicas[replica].down_until = 0;
            self.replicas[replica].disk.heal();
            self.replicas[replica].paused_until = self.replicas[replica].paused_until.min(self.now + SECOND);
            self.start_replica(replica);
            self.rebuild(replica);
            self.start_replica(replica);
        }
        for engine in &mut self.engines {
            engine.paused_until = engine.paused_until.min(self.now + SECOND);
            for link in &mut engine.links {
                link.blocked_until = link.blocked_until.map(|t| t.min(self.now + SECOND));
            }
        }
        let usable = self.engines.last().is_some_and(|e| !e.gone);
        if !usable || self.rng.percent(50) {
            self.start_engine();
        }
        self.close_openers();
        // An engine that went on after a pause may learn only now that it was deposed.
        for _ in 0..4 {
            let over = |w: &World| w.engines.last().is_some_and(|e| e.gone) || w.settled();
            self.advance(self.now + SETTLE, over)?;
            if !self.engines.last().is_some_and(|e| e.gone) {
                if !self.settled() {
                    return Err(format!("no progress after repair: {}", self.describe()));
                }
                self.read_all();
                self.slow = true;
                self.advance(self.now + PATIENCE, |_| false)?;
                self.slow = false;
                if !self.engines.last().is_some_and(|e| e.gone) {
                    break;
                }
            }
            self.start_engine();
            self.close_openers();
        }
        if self.longest_wait() > PATIENCE / MILLI {
            return Err(format!("a request waits for ever: {}", self.describe()));
        }
        Ok(())
    }

    /// An engine that is still opening would take the volume from the newest one.
    fn close_openers(&mut self) {
        for engine in 0..self.engines.len() - 1 {
            if !self.engines[engine].opened && !self.engines[engine].gone {
                self.close_engine(engine);
            }
        }
    }

    /// One more member is lost while everything is well: nothing may pause.
    fn lose_one(&mut self) -> Result<(), String> {
        // What engines that are gone had asked may still be on its way, and is answered first.
        self.slow = true;
        self.advance(self.now + LATE, |_| false)?;
        self.advance(self.now + SETTLE, World::settled)?;
        self.slow = false;
        let replica = self.rng.below(MEMBERS as u64) as usize;
        let silent = self.rng.percent(50);
        self.replicas[replica].down_until = Nanos::MAX;
        self.crash(replica, false, silent);
        let until = self.now + 2 * SECOND;
        let engine = self.engines.len() - 1;
        while self.now < until {
            self.advance(self.now + 50 * MILLI, |_| false)?;
            if self.longest_wait() > LONGEST_PAUSE_MS {
                return Err(format!(
                    "a request pauses with one member gone: {}",
                    self.describe()
                ));
            }
        }
        if self.engines[engine].gone {
            return Err("deposed by nobody".to_owned());
        }
        self.replicas[replica].down_until = 0;
        self.start_replica(replica);
        if !self.advance(self.now + SETTLE, World::settled)? {
            return Err(format!("the last member does not come back: {}", self.describe()));
        }
        Ok(())
    }

    /// All replicas hold the same bytes, under load. Rot that a comparison finds is repaired for the next.
    fn compare(&mut self) -> Result<(), String> {
        self.read_all();
        for _ in 0..10 {
            self.verified = None;
            self.verify_all();
            self.advance(self.now + 2 * SECOND, |w| w.verified.is_some())?;
            match self.verified {
                Some(true) => return Ok(()),
                Some(false) if !self.profile.rot => break,
                _ => self.advance(self.now + SECOND, |_| false)?,
            };
        }
        let report = self.engines.last().and_then(|e| e.engine.verify_report());
        Err(format!("the replicas differ: {report:?}; {}", self.describe()))
    }

    /// Kills the process of a replica; with `power` the machine too.
    pub(super) fn crash(&mut self, replica: usize, power: bool, silent: bool) {
        if self.replicas[replica].replica.take().is_some() {
            self.replicas[replica].life += 1;
            self.drop_sessions(replica, silent);
        }
        if power {
            let disk = self.replicas[replica].disk.clone();
            disk.power_loss(&mut self.rng);
            self.replicas[replica].boot = u128::from(self.rng.draw());
            let last = self.engines.last().map_or(0, |e| e.engine.status().last_seq);
            self.replicas[replica].forgot = Some(last);
        }
        self.replicas[replica].paused_until = 0;
        self.check_weak();
    }

    /// While one replica has forgotten what it had not synced and another is out of reach, or has forgotten too, what
    /// was not flushed may be lost.
    pub(super) fn check_weak(&mut self) {
        if self.replicas.iter().all(|r| r.forgot.is_none()) {
            return;
        }
        if let Some(e) = self.engines.last()
            && !e.gone
            && e.paused_until <= self.now
        {
            let status = e.engine.status();
            for (region, member) in self.replicas.iter_mut().zip(&status.members) {
                let back = status.open && member.state == MemberState::Complete;
                if back && region.forgot.is_some_and(|last| member.durable_seq >= last) {
                    region.forgot = None;
                }
            }
        }
        let now = self.now;
        let newest = self.engines.last();
        let away = |i: usize| {
            let r = &self.replicas[i];
            let cut = newest.is_some_and(|e| e.links[i].blocked_until.iter().any(|t| *t > now));
            r.replica.is_none() || r.paused_until > now || r.forgot.is_some() || cut
        };
        let lost = (0..MEMBERS)
            .any(|i| self.replicas[i].forgot.is_some() && (0..MEMBERS).any(|j| j != i && away(j)));
        if lost {
            self.model.weaken();
        }
    }

    /// The operator gives a failed replica a new disk, if the others are well.
    fn rebuild(&mut self, replica: usize) {
        let failed = |w: &World, r: usize| {
            use crate::core::replica::ReplicaState as S;
            w.replicas[r]
                .replica
                .as_ref()
                .is_some_and(|r| r.status().state == S::Failed)
        };
        if !failed(self, replica) {
            return;
        }
        self.crash(replica, false, false);
        self.replicas[replica].disk.wipe();
        self.format(replica, FormatAs::Learner);
    }

    pub(super) fn fault(&mut self) {
        if self.calm {
            return;
        }
        let pause = self.profile.pace / 2 + self.rng.below(self.profile.pace);
        self.at(self.now + pause, Event::Fault);
        if self.row.quiet_until > self.now {
            return;
        }
        self.out.faults += 1;
        let replica = self.rng.below(MEMBERS as u64) as usize;
        let engine = self.engines.len() - 1;
        match self.rng.below(100) {
            0..20 => self.crash_and_return(replica, false),
            20..35 => {
                let power = self.profile.power;
                self.crash_and_return(replica, power);
            }
            35..40 if self.profile.power => {
                // The lights go out everywhere.
                self.model.weaken();
                for replica in 0..MEMBERS {
                    self.crash_and_return(replica, true);
                }
            }
            40..52 => {
                // Cut: one way or both, to one member.
                let ways = 1 + self.rng.below(3);
                let until = self.now + self.rng.below(2 * SECOND);
                for way in 0..2 {
                    if ways & (1 << way) != 0 {
                        self.engines[engine].links[replica].blocked_until[way] = until;
                    }
                }
            }
            52..60 => {
                if let Some(session) = self.engines[engine].sessions[replica] {
                    self.reset(session);
                }
            }
            60..68 => {
                let length = self.rng.below(3 * SECOND);
                self.replicas[replica].paused_until = self.now + length;
            }
            68..74 => {
                let length = self.rng.below(3 * SECOND);
                self.engines[engine].paused_until = self.now + length;
            }
            74..88 if self.profile.failover => {
                // The old engine crashes, or goes on, deposed without knowing it.
                if self.rng.percent(50) && !self.engines[engine].gone {
                    self.close_engine(engine);
                }
                self.start_engine();
            }
            88..94 => self.media_fault(),
            _ => {
                // The engine's node loses all members for a while.
                let until = self.now + self.rng.below(2 * SECOND);
                for link in &mut self.engines[engine].links {
                    link.blocked_until = [until; 2];
                }
            }
        }
        // One that goes on after its rival died needs no successor.
        let goes_on = self.engines.iter().any(|e| !e.gone && e.rivalled);
        if self.engines.last().is_some_and(|e| e.gone) && !goes_on {
            self.start_engine();
        }
        self.check_weak();
    }

    pub(super) fn crash_and_return(&mut self, replica: usize, power: bool) {
        let silent = self.rng.percent(30);
        let away = if self.profile.long_absence && self.rng.percent(30) {
            self.rng.below(6 * SECOND)
        } else {
            self.rng.below(600 * MILLI)
        };
        self.crash(replica, power, silent);
        self.replicas[replica].down_until = self.now + away;
        self.at(self.now + away + 1, Event::StartReplica { replica });
    }

    fn media_fault(&mut self) {
        let replica = self.profile.victim;
        if self.profile.rot {
            let kinds = ["data", "data", "meta", "journal", "state", "snap."];
            let kind = kinds[self.rng.below(if self.scrubs { 6 } else { 5 }) as usize];
            let disk = self.replicas[replica].disk.clone();
            disk.rot(kind, &mut self.rng);
        } else if self.profile.eio && !self.profile.suffered {
            self.profile.suffered = true;
            self.replicas[replica].disk.fail_next_sync();
        }
    }

    /// Its disk loses what it had.
    pub(super) fn bad_media(&self, replica: usize) -> bool {
        self.profile.victim == replica
            && (self.profile.rot || self.profile.combo == super::combos::Combo::Lie)
    }

    /// All members complete, as the newest engine sees it.
    pub(super) fn settled(&self) -> bool {
        self.engines.last().is_some_and(|e| {
            let status = e.engine.status();
            let level = |m: &MemberStatus| {
                m.state == MemberState::Complete && m.durable_seq + 64 >= status.durable_seq
            };
            e.opened && !e.gone && status.members.iter().all(level)
        })
    }

    /// Why the world is not settled.
    pub(super) fn describe(&self) -> String {
        let engine = self.engines.last().map(|e| (e.gone, e.engine.status()));
        let replicas: Vec<_> = self
            .replicas
            .iter()
            .map(|r| r.replica.as_ref().map(Replica::status))
            .collect();
        format!("engine {engine:?}\nreplicas {replicas:?}")
    }
}
