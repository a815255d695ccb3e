//! What the engine keeps for each member.

use super::copy::CopyTask;
use super::{MemberState, SILENCE_LIMIT};
use crate::core::types::{Epoch, Nanos, Seq};
use crate::core::wire::Promise;

/// How far a member has come in this session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Stage {
    /// No session.
    #[default]
    Absent,
    /// `Hello` sent.
    Greeting,
    /// Welcomed, no epoch to ask for yet.
    Greeted,
    /// `Prepare` sent.
    Preparing,
    /// Promised to somebody else.
    Refused,
    /// Has promised; waits for the choice of the log.
    Promised,
    /// `Truncate` sent.
    Truncating,
    /// Gets the log up to the recovery point.
    Filling,
    /// `Adopt` sent.
    Adopting,
    /// In the epoch.
    Live,
    /// Its disk failed.
    Failed,
}

#[derive(Default)]
pub(super) struct Peer {
    pub session: Option<u64>,
    pub stage: Stage,
    pub promise: Option<Promise>,
    /// Known in this session.
    pub received: Seq,
    /// Known ever in this log; what the status shows.
    pub durable: Seq,
    /// Next record to send.
    pub next: Seq,
    /// `Append` messages without an answer.
    pub outstanding: u32,
    pub told_commit: Seq,
    pub told_sync: Seq,
    /// Catching up by extents: does not count.
    pub learner: bool,
    pub copy: Option<CopyTask>,
    /// (request, source) of a `FetchLog` for this member.
    pub fetch: Option<(u64, usize)>,
    /// The journal of the others has no more what this member needs: it must copy.
    pub must_copy: bool,
    /// Last message from it.
    pub heard: Nanos,
    /// Last message to it.
    pub sent: Nanos,
    /// It confirmed the epoch; reads may be served until then.
    pub lease: Nanos,
    /// Messages without an answer.
    pub owed: u32,
    /// Since when it owes something and has answered nothing.
    pub owed_since: Option<Nanos>,
    /// Refused: the epoch that its log has begun, and when it said so.
    pub begun: Epoch,
    pub told: Nanos,
    /// Bytes written in all when it was lost; for the lag.
    pub lost_at: Option<u64>,
}

impl Peer {
    /// Its receipts and durable seqs make the quorum.
    pub fn counts(&self) -> bool {
        self.stage == Stage::Live && !self.learner
    }

    /// It owes an answer for longer than `limit`.
    pub fn slow(&self, now: Nanos, limit: Nanos) -> bool {
        self.owed_since.is_some_and(|t| t + limit <= now)
    }

    /// In a session and promised to this engine.
    pub fn is_ours(&self) -> bool {
        matches!(
            self.stage,
            Stage::Promised | Stage::Truncating | Stage::Filling | Stage::Adopting | Stage::Live
        )
    }

    pub fn state(&self) -> MemberState {
        match self.stage {
            Stage::Absent | Stage::Greeting | Stage::Greeted | Stage::Preparing => MemberState::Absent,
            Stage::Refused | Stage::Failed => MemberState::Failed,
            Stage::Live if !self.learner => MemberState::Complete,
            _ if self.promise.as_ref().is_some_and(|p| p.blank) => MemberState::Learner,
            _ => MemberState::CatchingUp,
        }
    }

    /// It owes an answer.
    fn owes(&self) -> bool {
        let handshake = matches!(
            self.stage,
            Stage::Greeting | Stage::Preparing | Stage::Truncating | Stage::Adopting
        );
        self.session.is_some() && (handshake || self.owed_since.is_some())
    }

    pub fn silence_deadline(&self) -> Option<Nanos> {
        let since = self.owed_since.unwrap_or(self.sent);
        self.owes().then(|| since.max(self.heard) + SILENCE_LIMIT)
    }
}
