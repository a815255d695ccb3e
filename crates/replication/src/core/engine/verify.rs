//! Comparing the members at one position of the log. A digest is computed when its message arrives, in the order of
//! the stream; writes are held back until every member has been sent the same records, then all are asked at once.

use super::peer::Stage;
use super::{Engine, MemberState, OpError, Phase};
use crate::core::checksum;
use crate::core::types::{BLOCK, Seq, SnapshotInfo};
use crate::core::wire::{BlockEntry, Message};
use bytes::Bytes;

/// Blocks compared at a time: 4 MiB, some milliseconds of a replica's time.
const CHUNK: u64 = 1024;
/// Blocks of one digest, see the replica.
const DIGEST_BLOCKS: u64 = 16;
/// Differences reported.
const MAX_DIFFERENCES: usize = 100;

/// Result of [`super::Op::Verify`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VerifyReport {
    /// All members hold the same bytes.
    pub equal: bool,
    /// Bytes compared, in each member.
    pub compared_bytes: u64,
    /// (member, offset, what): at most 100.
    pub differences: Vec<(usize, u64, String)>,
    /// Checksum of the whole volume, per member.
    pub checksums: Vec<u64>,
}

/// A comparison under way.
pub(super) struct Verify {
    pub request: u64,
    next: u64,
    /// Snapshots to compare after the volume, oldest last.
    snapshots: Vec<SnapshotInfo>,
    /// The one that is being compared.
    snapshot: Option<SnapshotInfo>,
    /// Wire request of the present chunk for each member; 0: not asked.
    asked: Vec<u64>,
    answers: Vec<Option<(Seq, Vec<u64>)>>,
    sums: Vec<Vec<u8>>,
    report: VerifyReport,
}

impl Verify {
    pub fn new(request: u64, members: usize, snapshots: &[SnapshotInfo]) -> Verify {
        Verify {
            request,
            next: 0,
            snapshots: snapshots.iter().rev().cloned().collect(),
            snapshot: None,
            asked: vec![0; members],
            answers: vec![None; members],
            sums: vec![Vec::new(); members],
            report: VerifyReport {
                equal: true,
                checksums: vec![0; members],
                ..VerifyReport::default()
            },
        }
    }

    fn asking(&self) -> bool {
        self.asked.iter().any(|a| *a != 0)
    }
}

impl Engine {
    /// New writes wait until every member has been sent the same records.
    pub(super) fn verify_holds(&self) -> bool {
        self.verify
            .as_ref()
            .is_some_and(|v| !v.asking() && v.snapshot.is_none() && v.next < self.blocks)
    }

    pub(super) fn verify_lost(&mut self) {
        if let Some(verify) = self.verify.take() {
            self.complete(verify.request, Err(OpError::NotComplete));
        }
    }

    pub(super) fn advance_verify(&mut self) {
        if self.verify.is_none() || self.phase != Phase::Open {
            return;
        }
        self.pump();
        if !self
            .peers
            .iter()
            .all(|p| self.member_state(p) == MemberState::Complete)
        {
            return self.verify_lost();
        }
        let last = self.stream.last;
        let level = self
            .peers
            .iter()
            .all(|p| p.stage == Stage::Live && p.next == last + 1);
        let Some(verify) = &self.verify else { return };
        if verify.asking() || !level {
            return;
        }
        let blocks = verify.snapshot.as_ref().map_or(self.blocks, |s| s.blocks);
        if verify.next >= blocks {
            return self.verify_next();
        }
        let block = verify.next;
        let snapshot = verify.snapshot.as_ref().map_or(0, |s| s.seq);
        // A member takes a snapshot only once it knows that its record is durable.
        for member in 0..self.peers.len() {
            if self.peers[member].told_commit < snapshot {
                self.append(member, Vec::new());
            }
        }
        let count = CHUNK.min(blocks - block) as u32;
        for member in 0..self.peers.len() {
            let request = self.request_id();
            if let Some(verify) = &mut self.verify {
                verify.asked[member] = request;
            }
            let epoch = self.epoch;
            self.ask(member);
            self.send(
                member,
                Message::Digest {
                    epoch,
                    request,
                    block,
                    count,
                    snapshot,
                },
            );
        }
        self.admit();
    }

    pub(super) fn digested(
        &mut self,
        member: usize,
        request: u64,
        at: Seq,
        digests: Vec<u64>,
        bad: &[BlockEntry],
    ) {
        self.answered(member);
        let Some(verify) = &mut self.verify else { return };
        if verify.asked[member] != request {
            return;
        }
        for entry in bad {
            if verify.report.differences.len() < MAX_DIFFERENCES {
                let offset = entry.block * BLOCK as u64;
                verify
                    .report
                    .differences
                    .push((member, offset, "does not match its checksum".to_owned()));
            }
            verify.report.equal = false;
        }
        verify.answers[member] = Some((at, digests));
        let snapshot = verify.snapshot.as_ref().map_or(0, |s| s.seq);
        for entry in bad {
            self.start_repair(member, *entry, snapshot);
        }
        self.compare();
    }

    fn compare(&mut self) {
        let Some(verify) = &mut self.verify else { return };
        let answers: Vec<(Seq, Vec<u64>)> = verify.answers.iter().flatten().cloned().collect();
        if answers.len() < verify.answers.len() {
            return;
        }
        if let Some(snapshot) = &verify.snapshot
            && answers.iter().any(|(at, _)| *at == 0)
            && self.snapshots.is_going(snapshot.seq)
        {
            // It is being dropped: some members know already.
            verify.next = u64::MAX;
            verify.asked.fill(0);
            verify.answers.fill(None);
            return;
        }
        let (at, reference) = &answers[0];
        for (member, (other_at, digests)) in answers.iter().enumerate().skip(1) {
            if other_at != at {
                verify.report.equal = false;
                let what = match &verify.snapshot {
                    Some(snapshot) => format!("has no snapshot {}", snapshot.name),
                    None => format!("answered at record {other_at} instead of {at}"),
                };
                verify
                    .report
                    .differences
                    .push((member, verify.next * BLOCK as u64, what));
                continue;
            }
            for (i, (a, b)) in reference.iter().zip(digests).enumerate() {
                if a != b {
                    verify.report.equal = false;
                    let offset = (verify.next + i as u64 * DIGEST_BLOCKS) * BLOCK as u64;
                    if verify.report.differences.len() < MAX_DIFFERENCES {
                        let of = verify
                            .snapshot
                            .as_ref()
                            .map(|s| format!(" of snapshot {}", s.name));
                        let what = format!("64 KiB{} differ from the first replica", of.unwrap_or_default());
                        verify.report.differences.push((member, offset, what));
                    }
                }
            }
        }
        for (sum, (_, digests)) in verify.sums.iter_mut().zip(&answers) {
            // Fold as it goes: a digest of digests.
            for d in digests {
                sum.extend_from_slice(&d.to_le_bytes());
            }
            let folded = checksum::wide(sum);
            sum.clear();
            sum.extend_from_slice(&folded.to_le_bytes());
        }
        let blocks = verify.snapshot.as_ref().map_or(self.blocks, |s| s.blocks);
        let count = CHUNK.min(blocks.saturating_sub(verify.next));
        verify.report.compared_bytes += count * BLOCK as u64;
        verify.next += CHUNK;
        verify.asked.fill(0);
        verify.answers.fill(None);
    }

    /// The volume or a snapshot is compared: the next one, which may have been dropped since, or the end.
    fn verify_next(&mut self) {
        let there = self.snapshots.list();
        let Some(verify) = &mut self.verify else { return };
        while let Some(next) = verify.snapshots.pop() {
            if there.contains(&next) {
                verify.snapshot = Some(next);
                verify.next = 0;
                return self.advance_verify();
            }
        }
        self.verify_done();
    }

    fn verify_done(&mut self) {
        let Some(mut verify) = self.verify.take() else {
            return;
        };
        for (sum, folded) in verify.report.checksums.iter_mut().zip(&verify.sums) {
            *sum = checksum::wide(folded);
        }
        self.report = Some(verify.report);
        self.complete(verify.request, Ok(Bytes::new()));
    }
}
