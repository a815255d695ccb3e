//! Switches that turn off one rule of the protocol each. Only the simulator sets them, to prove that it notices.

/// One flag per rule; all false is the protocol as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mutations {
    /// R1: report the log end without making the log durable first.
    pub r1_promise_without_sync: bool,
    /// R2: accept records of epochs below the promised one.
    pub r2_accept_lower_epochs: bool,
    /// R3: expose the device without levelling a majority.
    pub r3_expose_unlevelled: bool,
    /// R4: forget retained writes at two receipts instead of two durable copies.
    pub r4_release_on_receipt: bool,
    /// R5: let a learner be the source of the log and serve reads.
    pub r5_learner_is_source: bool,
    /// R6: open below what a member knows to be flushed.
    pub r6_open_below_flushed: bool,
    /// R7: believe a replica of which another one remembers more.
    pub r7_believe_set_back: bool,
    /// R8: apply in place whatever was received.
    pub r8_apply_uncommitted: bool,
    /// R9: release journal records when applied but not synced.
    pub r9_release_unsynced: bool,
    /// R10: ignore later evidence of durability when the journal ends in a bad record.
    pub r10_damage_is_end: bool,
    /// R11: a freed block looks as if it had never been written.
    pub r11_forget_freed: bool,
    /// R12: an engine that opens again gives the places of writes that are not decided yet to others.
    pub r12_forget_undecided: bool,
    /// R13: complete a read before what it contains is committed.
    pub r13_read_uncommitted: bool,
    /// R14: serve reads without a lease.
    pub r14_no_lease: bool,
    /// R15: count a learner as complete without a sync.
    pub r15_complete_unsynced: bool,
    /// R16: compare positions without their histories.
    pub r16_seqs_alone: bool,
    /// Snapshots: overwrite before what is kept is synced.
    pub snap_keep_unsynced: bool,
    /// Snapshots: a learner is complete without the layers.
    pub snap_copy_no_layers: bool,
    /// A disk that lost what it said was synced is believed about the rest.
    pub believe_liars: bool,
    /// Scrub: what it finds is told to nobody.
    pub scrub_tells_nobody: bool,
    /// Scrub: what snapshots keep is left out.
    pub scrub_no_layers: bool,
}

impl Mutations {
    /// The rule of that name ("R1") switched off.
    pub fn parse(rule: &str) -> Option<Mutations> {
        let mut m = Mutations::default();
        let flag = match rule {
            "R1" => &mut m.r1_promise_without_sync,
            "R2" => &mut m.r2_accept_lower_epochs,
            "R3" => &mut m.r3_expose_unlevelled,
            "R4" => &mut m.r4_release_on_receipt,
            "R5" => &mut m.r5_learner_is_source,
            "R6" => &mut m.r6_open_below_flushed,
            "R7" => &mut m.r7_believe_set_back,
            "R8" => &mut m.r8_apply_uncommitted,
            "R9" => &mut m.r9_release_unsynced,
            "R10" => &mut m.r10_damage_is_end,
            "R11" => &mut m.r11_forget_freed,
            "R12" => &mut m.r12_forget_undecided,
            "R13" => &mut m.r13_read_uncommitted,
            "R14" => &mut m.r14_no_lease,
            "R15" => &mut m.r15_complete_unsynced,
            "R16" => &mut m.r16_seqs_alone,
            "keep-unsynced" => &mut m.snap_keep_unsynced,
            "copy-no-layers" => &mut m.snap_copy_no_layers,
            "believe-liars" => &mut m.believe_liars,
            "scrub-tells-nobody" => &mut m.scrub_tells_nobody,
            "scrub-no-layers" => &mut m.scrub_no_layers,
            _ => return None,
        };
        *flag = true;
        Some(m)
    }
}
