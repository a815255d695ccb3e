//! What is known about volumes, stores and contact, as messages of the engine API.

use super::node::{Attached, Node};
use super::quorum::QuorumState;
use crate::core::engine::{EngineStatus, MemberState};
use crate::core::types::{BLOCK, SnapshotInfo};
use crate::net::control::{MemberReport, ScrubReport, SnapshotReport, VolumeSpec};
use crate::view::VolumeView;
use protos::engine as api;

/// Name of a member's state in the API.
pub fn state_name(state: MemberState) -> &'static str {
    match state {
        MemberState::Complete => "complete",
        MemberState::CatchingUp => "catching-up",
        MemberState::Absent => "absent",
        MemberState::Failed => "failed",
        MemberState::Learner => "learner",
    }
}

/// What the engine of an open volume tells the stores about its members.
pub fn reports(spec: &VolumeSpec, status: &EngineStatus) -> Vec<MemberReport> {
    let epoch = status.epoch.counter;
    let members = spec.members.iter().zip(&status.members);
    members
        .map(|(member, status)| MemberReport {
            region: member.region.clone(),
            state: state_name(status.state).into(),
            lag_bytes: status.lag_bytes,
            epoch,
        })
        .collect()
}

/// A snapshot as a store sees it.
fn snapshot(report: &SnapshotReport) -> api::Snapshot {
    api::Snapshot {
        name: report.name.clone(),
        seq: report.seq,
        size_bytes: report.size_bytes,
        used_bytes: report.used_bytes,
    }
}

/// How far the scrub in a region is.
pub fn scrub(region: &str, report: &ScrubReport) -> api::ScrubReport {
    api::ScrubReport {
        region: region.to_owned(),
        running: report.running,
        position_bytes: report.position_bytes,
        total_bytes: report.total_bytes,
        checked_blocks: report.checked_blocks,
        found_blocks: report.found_blocks,
        repaired_blocks: report.repaired_blocks,
        damaged_blocks: report.damaged_blocks,
        passes: report.passes,
        ended_unix_s: report.ended_unix_s,
        due_unix_s: report.due_unix_s,
    }
}

/// A volume as the stores see it.
pub fn volume(view: &VolumeView) -> api::Volume {
    api::Volume {
        id: view.spec.volume.clone(),
        size_bytes: view.size_bytes,
        class: view.spec.class.clone(),
        labels: view.spec.labels.clone().into_iter().collect(),
        epoch: view.epoch,
        node: view.node.clone(),
        attached_here: false,
        device_path: String::new(),
        replicas: view
            .replicas
            .iter()
            .map(|replica| api::Replica {
                region: replica.region.clone(),
                id: replica.id.to_string(),
                state: replica.state.clone(),
                durable_seq: replica.durable_seq,
                lag_bytes: replica.lag_bytes,
                scrub: replica.scrub.as_ref().map(|s| scrub(&replica.region, s)),
            })
            .collect(),
        used_bytes: view.used_bytes,
        snapshots: view.snapshots.iter().map(snapshot).collect(),
    }
}

/// Adds what this engine knows better about a volume that is attached here.
pub async fn add_attached(volume: &mut api::Volume, attached: &Attached) {
    let Some(status) = attached.volume.status().await else {
        return;
    };
    volume.attached_here = true;
    volume.device_path = attached.device.clone();
    volume.size_bytes = status.size_bytes;
    volume.epoch = status.epoch.counter;
    // The engine knows at once; the stores know what each of them takes.
    let told = std::mem::take(&mut volume.snapshots);
    let known = |s: &SnapshotInfo| api::Snapshot {
        name: s.name.clone(),
        seq: s.seq,
        size_bytes: s.blocks * BLOCK as u64,
        used_bytes: told.iter().find(|t| t.seq == s.seq).map_or(0, |t| t.used_bytes),
    };
    volume.snapshots = status.snapshots.iter().map(known).collect();
    for (member, known) in attached.volume.spec.members.iter().zip(&status.members) {
        if let Some(replica) = volume.replicas.iter_mut().find(|r| r.region == member.region) {
            replica.state = state_name(known.state).into();
            replica.lag_bytes = known.lag_bytes;
            replica.durable_seq = replica.durable_seq.max(known.durable_seq);
        }
    }
}

/// A volume whose device, of the process before, waits to be resumed: whoever uses it must not take it for dead.
pub fn waiting(node: &Node, id: &str) -> Option<api::Volume> {
    Some(api::Volume {
        id: id.to_owned(),
        node: node.name.clone(),
        attached_here: true,
        device_path: node.waiting_device(id)?.display().to_string(),
        ..api::Volume::default()
    })
}

/// A volume that is attached here, without asking the stores.
pub async fn attached(node: &Node, attached: &Attached) -> api::Volume {
    let spec = &attached.volume.spec;
    let replicas = spec.members.iter().map(|member| api::Replica {
        region: member.region.clone(),
        id: member.id.to_string(),
        ..api::Replica::default()
    });
    let mut volume = api::Volume {
        id: spec.volume.clone(),
        size_bytes: spec.size_bytes,
        class: spec.class.clone(),
        labels: spec.labels.clone().into_iter().collect(),
        epoch: attached.epoch,
        node: node.name.clone(),
        replicas: replicas.collect(),
        ..api::Volume::default()
    };
    add_attached(&mut volume, attached).await;
    volume
}

/// The state of contact.
pub fn quorum(state: QuorumState) -> api::QuorumState {
    api::QuorumState {
        majority: state.majority,
        fenced: state.fenced,
        silent_ms: state.silence.as_millis() as u64,
    }
}
