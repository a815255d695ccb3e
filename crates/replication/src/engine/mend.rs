//! Volumes that nobody has attached are brought to full redundancy too: an engine opens them for as long as it takes.
//!
//! Only what its last engine has closed is touched, and never anything that somebody wants: the mending engine asks once,
//! for the epoch right after the closed one and in the lowest rank, so that an engine which attaches the volume at the
//! same time wins on every replica, and one that comes later takes over at once. Who mends meanwhile gives way without
//! asking again; what it has copied is kept.
//!
//! It begins when a store appears and when a volume is detached with a replica behind; nothing polls.

use super::attach::{catch_up, goodbye};
use super::node::Node;
use super::volume::{Claim, Phase};
use crate::net::control::{Inventory, ReplicaInfo, VolumeSpec};
use crate::view;
use std::sync::Arc;
use std::time::Duration;

/// Every engine hears of a store that appears; by lot one of them looks first, and the others find its work.
const LOT: Duration = Duration::from_millis(2500);
/// A store that has just started replays its journals first; and a volume that is being moved is soon attached.
const PAUSE: Duration = Duration::from_millis(1000);

impl Node {
    /// Mends what needs it, one volume after the other.
    pub async fn mend(self: &Arc<Self>) {
        let _one_at_a_time = self.mending.lock().await;
        tokio::time::sleep(PAUSE + LOT.mul_f64(rand::random_range(0.0..1.0))).await;
        let all = candidates(&self.inventories(None, |_| false).await);
        for (spec, _) in all {
            // A large volume may have taken its time: is it still so?
            let id = spec.volume;
            let now = candidates(&self.inventories(Some(&id), |_| false).await);
            for (spec, closed) in now.into_iter().filter(|(spec, _)| spec.volume == id) {
                if self.attached(&id).is_none() {
                    self.mend_volume(spec, closed).await;
                }
            }
        }
    }

    async fn mend_volume(self: &Arc<Self>, spec: VolumeSpec, closed: u64) {
        let id = spec.volume.clone();
        let open = match self.open_as(spec, Claim::Brief { after: closed }) {
            Ok(open) => open,
            Err(error) => {
                tracing::info!(volume = id, %error, "a detached volume could not be opened to mend it");
                return;
            }
        };
        if let Err(error) = self.opened(&open.volume).await {
            tracing::debug!(volume = id, %error, "somebody else has the volume, or not enough stores answer");
            return;
        }
        tracing::info!(volume = id, "bringing a detached volume to full redundancy");
        let mut phase = open.volume.phase();
        let deposed = async { phase.wait_for(|phase| *phase == Phase::Deposed).await.map(drop) };
        let done = tokio::select! {
            () = catch_up(&open.volume) => true,
            _ = deposed => false,
        };
        tracing::info!(volume = id, done, "no longer mending the detached volume");
        if done {
            goodbye(open).await;
        }
    }
}

/// Volumes that were closed, that nobody has, and of which some replica is behind although all are there; with the
/// counter of the epoch that was closed.
fn candidates(inventories: &[Inventory]) -> Vec<(VolumeSpec, u64)> {
    let found = view::configurations(inventories).into_values();
    found
        .filter_map(|(spec, replicas)| {
            let replicas: Vec<&ReplicaInfo> = replicas.values().collect();
            let closed = lacking(&spec, &replicas)?;
            Some((spec, closed))
        })
        .collect()
}

fn lacking(spec: &VolumeSpec, replicas: &[&ReplicaInfo]) -> Option<u64> {
    let usable = |r: &&ReplicaInfo| matches!(r.state.as_str(), "complete" | "catching-up" | "learner");
    let all = replicas.len() == spec.members.len() && spec.members.len() > 1;
    if !all || !replicas.iter().all(usable) || replicas.iter().any(|r| r.engine_connected) {
        return None;
    }
    let epoch = replicas.iter().map(|r| r.epoch).max().filter(|e| *e > 0)?;
    // Its engine says goodbye only when it takes nothing any more; who was away then still names its node.
    let closed = replicas.iter().any(|r| r.epoch == epoch && r.node.is_empty());
    let end = replicas.iter().map(|r| r.received_seq).max().unwrap_or(0);
    let level = |r: &&ReplicaInfo| r.state == "complete" && r.received_seq == end && r.epoch == epoch;
    (closed && !replicas.iter().all(level)).then_some(epoch)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::control::MemberSpec;
    use std::collections::BTreeMap;
    use uuid::Uuid;

    fn spec() -> VolumeSpec {
        let member = |(id, region): (u128, &str)| MemberSpec {
            id: Uuid::from_u128(id),
            region: region.into(),
        };
        VolumeSpec {
            volume: "v".into(),
            size_bytes: 1 << 20,
            class: "replicated".into(),
            members: [(1, "a"), (2, "b"), (3, "c")].map(member).into(),
            labels: BTreeMap::new(),
        }
    }

    fn replica(state: &str, epoch: u64, node: &str, received_seq: u64) -> ReplicaInfo {
        ReplicaInfo {
            spec: spec(),
            id: Uuid::nil(),
            state: state.into(),
            error: None,
            epoch,
            node: node.into(),
            engine_connected: false,
            received_seq,
            durable_seq: received_seq,
            size_bytes: 1 << 20,
            used_bytes: 0,
            snapshots: Vec::new(),
            members: Vec::new(),
            scrub: None,
        }
    }

    fn decide(replicas: &[ReplicaInfo]) -> Option<u64> {
        lacking(&spec(), &replicas.iter().collect::<Vec<_>>())
    }

    #[test]
    fn only_what_is_closed_and_behind_is_touched() {
        let good = || replica("complete", 4, "", 90);
        // One was away when the volume was closed: it still names the node.
        assert_eq!(
            decide(&[good(), good(), replica("complete", 4, "n1", 50)]),
            Some(4)
        );
        assert_eq!(
            decide(&[good(), good(), replica("complete", 3, "n1", 90)]),
            Some(4)
        );
        assert_eq!(decide(&[good(), good(), replica("learner", 0, "", 0)]), Some(4));
        assert_eq!(decide(&[good(), good(), good()]), None, "level");
        assert_eq!(decide(&[good(), good()]), None, "one is absent");
        assert_eq!(
            decide(&[good(), good(), replica("failed", 4, "", 50)]),
            None,
            "made anew first"
        );
        let owned = || replica("complete", 5, "n2", 90);
        assert_eq!(
            decide(&[owned(), owned(), good()]),
            None,
            "attached, however silent"
        );
        let mut busy = replica("complete", 4, "n1", 50);
        busy.engine_connected = true;
        assert_eq!(decide(&[good(), good(), busy]), None, "in use");
        let new = || replica("complete", 0, "", 0);
        assert_eq!(decide(&[new(), new(), new()]), None, "never opened");
    }
}
