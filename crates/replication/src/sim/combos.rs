//! Faults in a row, each the situation that one or two rules are there for. Chance alone makes them too seldom. They come
//! on top of the ordinary faults and never break a guarantee by themselves.

use super::faults::FAULT_PAUSE;
use super::world::{Event, MEMBERS, World};
use crate::core::rng::Rng;
use crate::core::types::{MILLI, Nanos, SECOND, Seq};
use crate::core::wire::{Message, Record};

/// Which row a run has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Combo {
    /// None.
    Nothing,
    /// A replica's journal rots in its middle, and an engine opens with it and with one that lags (R10).
    Hole,
    /// An engine dies with writes that one member alone has; the next one sees them, and then that member dies (R1, R3).
    Chain,
    /// A replica comes back with the content of an old backup, and an engine opens with it (R6, R7).
    SetBack,
    /// An engine is left with one member while another one opens with the two others (R14).
    Split,
    /// A rival gets one promise and dies; the engine goes on above it while writes are undecided (R12).
    Rival,
    /// A session breaks while its replica has records that are not synced, the engine flushes as soon as the replica is
    /// back, and then the replica loses its memory (R1).
    Reconnect,
    /// A disk says that it synced and did not, and its machine loses power right when a member that was away has been
    /// told how far the volume is flushed (R6).
    Lie,
}

/// What happens next.
#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
    /// `away` lags from here on.
    Lag,
    /// The journal rots, everybody but the victim and who lags is away, and an engine opens.
    Rot { away: usize },
    /// A backup is taken.
    Backup,
    /// The victim starts once more; the number of starts left.
    Restart(u32),
    /// The next engine tells all members how often the others have started.
    Renew,
    /// Everybody knows: from here on one member lags.
    Outpace,
    /// The backup is restored, and an engine opens with it and with one that lags.
    Restore { away: usize },
    /// One member is away, and comes back while the others have a backlog for it.
    Backlog,
    /// The engine keeps one member, the next gets the others.
    Split,
    /// A rival asks one member.
    Rival,
    /// It dies.
    Bury { rival: usize },
    /// Only `holder` hears the engine.
    Deafen,
    /// That engine dies.
    Succeed { holder: usize },
    /// The holder of what nobody else has dies, right after the engine opened.
    Behead { holder: usize },
    /// One of the rows in [`super::rows`].
    Row(super::rows::Step),
}

impl Combo {
    /// The row of a seed; it does not depend on what else is drawn.
    pub fn of(seed: u64) -> Combo {
        match Rng::new(seed ^ 0x0c0b).below(10) {
            0..2 => Combo::Hole,
            2..4 => Combo::Chain,
            4..6 => Combo::SetBack,
            6 => Combo::Split,
            7 => Combo::Rival,
            8 => Combo::Reconnect,
            _ if seed.is_multiple_of(8) => Combo::Nothing,
            _ => Combo::Lie,
        }
    }
}

impl World {
    pub(super) fn soon(&mut self, from: Nanos, spread: Nanos, step: Step) {
        let due = self.now + from + self.rng.below(spread);
        self.at(due, Event::Combo(step));
    }

    /// The row begins, now or again.
    pub(super) fn begin_combo(&mut self) {
        let step = match self.profile.combo {
            Combo::Nothing => return,
            Combo::Hole => Step::Lag,
            Combo::Chain => Step::Deafen,
            Combo::SetBack => Step::Backup,
            Combo::Split => Step::Split,
            Combo::Rival => Step::Rival,
            Combo::Reconnect => Step::Row(super::rows::Step::Break),
            Combo::Lie => Step::Row(super::rows::Step::Lie),
        };
        self.soon(FAULT_PAUSE, 2 * SECOND, step);
    }

    /// A member other than the victim.
    pub(super) fn bystander(&mut self) -> usize {
        (self.profile.victim + 1 + self.rng.below(MEMBERS as u64 - 1) as usize) % MEMBERS
    }

    pub(super) fn block(&mut self, replica: usize, length: Nanos) {
        let until = self.now + length;
        if let Some(engine) = self.engines.last_mut() {
            engine.links[replica].blocked_until = [until; 2];
        }
    }

    pub(super) fn succeed(&mut self) {
        for engine in 0..self.engines.len() {
            if !self.engines[engine].gone {
                self.close_engine(engine);
            }
        }
        self.start_engine();
    }

    pub(super) fn combo(&mut self, step: Step) {
        if self.calm {
            return;
        }
        self.out.faults += 1;
        let victim = self.profile.victim;
        match step {
            Step::Lag => {
                let away = self.bystander();
                self.block(away, 1500 * MILLI);
                self.soon(900 * MILLI, 400 * MILLI, Step::Rot { away });
            }
            Step::Rot { .. } if self.was_stopped(victim) => self.begin_combo(),
            Step::Rot { away } => {
                let other = MEMBERS - victim - away;
                let disk = self.replicas[victim].disk.clone();
                let (from, to) = (self.now - 800 * MILLI, self.now - 450 * MILLI);
                self.crash_for(victim, 20 * MILLI);
                if disk.rot_written("journal", from, to, &mut self.rng) {
                    self.forget(victim);
                }
                self.crash_for(other, 2 * SECOND);
                self.succeed();
                self.begin_combo();
            }
            Step::Backup => {
                self.backup = Some(self.replicas[victim].disk.backup());
                let next = if self.rng.percent(50) {
                    Step::Restart(2)
                } else {
                    Step::Backlog
                };
                self.soon(100 * MILLI, 300 * MILLI, next);
            }
            Step::Restart(left) => {
                self.crash_for(victim, 50 * MILLI);
                let next = if left > 1 {
                    Step::Restart(left - 1)
                } else {
                    Step::Renew
                };
                self.soon(150 * MILLI, 150 * MILLI, next);
            }
            Step::Renew => {
                self.succeed();
                self.soon(800 * MILLI, 300 * MILLI, Step::Outpace);
            }
            Step::Outpace if self.settled() && self.all_know(victim) => {
                let lags = self.bystander();
                self.block(lags, 1500 * MILLI);
                let away = MEMBERS - lags - victim;
                self.soon(500 * MILLI, 300 * MILLI, Step::Restore { away });
            }
            Step::Outpace => self.soon(200 * MILLI, 300 * MILLI, Step::Outpace),
            Step::Restore { away } => self.set_back(away),
            Step::Backlog => {
                let lags = self.bystander();
                self.crash_for(lags, 1200 * MILLI);
                self.backlog = Some(lags);
            }
            Step::Split => self.split(),
            // Until all is well, faults by chance go on; then they leave the engine alone until it goes on above the rival.
            Step::Rival if !self.settled() => self.soon(200 * MILLI, 300 * MILLI, Step::Rival),
            Step::Rival => {
                self.row.quiet_until = self.now + super::rows::RAISE;
                let holder = self.engines.len() - 1;
                let asked = self.rng.below(MEMBERS as u64) as usize;
                self.row.asked = asked;
                let rival = self.start_engine();
                self.row.rival = Some(rival);
                // It is not the one that the client is to be served by.
                self.engines[holder].rivalled = true;
                self.soon(100 * MILLI, 200 * MILLI, Step::Bury { rival });
            }
            Step::Bury { rival } => {
                if !self.engines[rival].gone {
                    self.close_engine(rival);
                }
            }
            Step::Deafen => {
                let holder = self.rng.below(MEMBERS as u64) as usize;
                for replica in (0..MEMBERS).filter(|r| *r != holder) {
                    self.block(replica, 300 * MILLI);
                }
                self.soon(10 * MILLI, 80 * MILLI, Step::Succeed { holder });
            }
            Step::Succeed { holder } => {
                self.succeed();
                self.beheaded = Some(holder);
            }
            Step::Behead { holder } => {
                self.crash_for(holder, 1500 * MILLI);
                self.succeed();
                self.begin_combo();
            }
            Step::Row(step) => self.row(step),
        }
        self.check_weak();
    }

    /// One that was stopped has not told its disk what is durable, as it does when it is idle: then rot of the last record
    /// looks like a torn end.
    fn was_stopped(&self, replica: usize) -> bool {
        self.replicas[replica].paused_until + SECOND > self.now
    }

    /// An engine reaches one member at first, and then only the two others.
    fn split(&mut self) {
        let kept = self.rng.below(MEMBERS as u64) as usize;
        for replica in (0..MEMBERS).filter(|r| *r != kept) {
            self.block(replica, 2500 * MILLI);
        }
        self.start_engine();
        self.block(kept, 2500 * MILLI);
        self.soon(3 * SECOND, SECOND, Step::Split);
    }

    /// A member that was away was told more than it has: at this moment another one is set back (R6).
    pub(super) fn combo_told(&mut self, replica: usize, message: &Message) {
        let behind = |last: &Record, commit: Seq| last.seq + 8 < commit;
        let told = match message {
            Message::Append { commit, records, .. } => records.last().is_some_and(|r| behind(r, *commit)),
            _ => false,
        };
        if self.backlog == Some(replica) && told && !self.calm {
            self.backlog = None;
            self.drop_sessions(replica, false);
            self.set_back(MEMBERS - replica - self.profile.victim);
        }
        if !self.calm {
            self.row_told(replica, message);
        }
    }

    /// An engine goes on in a higher epoch: the member that got all of its writes is silent, another has just failed.
    pub(super) fn combo_raised(&mut self, engine: usize) {
        if self.calm || !std::mem::take(&mut self.engines[engine].rivalled) {
            return;
        }
        self.row.quiet_until = self.now + super::rows::GOES_ON;
        // Who is left is the one that the rival had, and has got nothing since.
        let asked = self.row.asked;
        let silent = (asked + 1 + self.rng.below(MEMBERS as u64 - 1) as usize) % MEMBERS;
        self.engines[engine].links[silent].blocked_until = [self.now + 400 * MILLI; 2];
        let fails = MEMBERS - silent - asked;
        self.crash_for(fails, 5 * MILLI);
        self.begin_combo();
    }

    /// Everybody remembers the last epoch and the last start with which a member took part. The engine taking somebody for
    /// complete is no proof: who is silent for a moment may have begun the epoch before it was told who else did. With
    /// such a member and the one that was set back nobody is left who knows of anything newer, under any protocol.
    fn all_know(&self, member: usize) -> bool {
        let Some(own) = &self.replicas[member].replica else {
            return false;
        };
        let id = own.meta().id;
        let known = |r: &super::world::Region| r.replica.as_ref().and_then(|r| r.remembers(id));
        let latest = own.remembers(id);
        latest.is_some() && self.replicas.iter().all(|r| known(r) == latest)
    }

    /// The victim gets its backup back while `away` is away.
    fn set_back(&mut self, away: usize) {
        let victim = self.profile.victim;
        let Some(backup) = self.backup.take() else { return };
        self.crash_for(victim, 20 * MILLI);
        self.replicas[victim].disk.restore(&backup);
        self.forget(victim);
        self.crash_for(away, 2 * SECOND);
        self.succeed();
        self.begin_combo();
    }

    /// An engine was exposed.
    pub(super) fn combo_opened(&mut self) {
        if let Some(holder) = self.beheaded.take() {
            self.soon(MILLI / 2, 6 * MILLI, Step::Behead { holder });
        }
    }

    pub(super) fn crash_for(&mut self, replica: usize, away: Nanos) {
        let power = self.profile.combo == Combo::Chain && self.profile.power && self.rng.percent(50);
        self.crash(replica, power, false);
        self.replicas[replica].down_until = self.now + away;
        self.at(self.now + away + 1, Event::StartReplica { replica });
    }

    /// What that replica had and had not told is gone.
    pub(super) fn forget(&mut self, replica: usize) {
        let last = self.engines.last().map_or(0, |e| e.engine.status().last_seq);
        self.replicas[replica].forgot = Some(last);
    }
}
