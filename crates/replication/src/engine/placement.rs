//! What must change in the stores so that they agree about which volumes there are: replicas of deleted volumes go,
//! tombstones spread, members without a replica get one.
//!
//! A pure function of the stores' inventories. Every engine runs it whenever a store appears; its actions are
//! idempotent, so it does no harm when several do.

use crate::net::control::{Inventory, Request, VolumeSpec};
use crate::view;
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

/// A request to the store of a region.
pub type Action = (String, Request);

/// What to do. Deletions come first; after them, call again with fresh inventories.
pub fn plan(inventories: &[Inventory]) -> Vec<Action> {
    let deletions = deletions(inventories);
    if deletions.is_empty() {
        creations(inventories)
    } else {
        deletions
    }
}

fn deletions(inventories: &[Inventory]) -> Vec<Action> {
    let mut stones = Vec::new();
    for stone in inventories.iter().flat_map(|i| &i.tombstones) {
        if !stones.contains(&stone) {
            stones.push(stone);
        }
    }
    let mut actions = Vec::new();
    for inventory in inventories {
        let held: BTreeSet<Uuid> = inventory.replicas.iter().map(|r| r.id).collect();
        for stone in &stones {
            let member = stone.members.iter().any(|m| m.region == inventory.info.region);
            let holds = stone.members.iter().any(|m| held.contains(&m.id));
            if member && (holds || !inventory.tombstones.contains(stone)) {
                let request = Request::Delete {
                    tombstone: (*stone).clone(),
                };
                actions.push((inventory.info.region.clone(), request));
            }
        }
    }
    actions
}

fn creations(inventories: &[Inventory]) -> Vec<Action> {
    let by_region: BTreeMap<&str, &Inventory> =
        inventories.iter().map(|i| (i.info.region.as_str(), i)).collect();
    let mut actions = Vec::new();
    for (spec, replicas) in view::configurations(inventories).into_values() {
        let answered = spec
            .members
            .iter()
            .filter(|m| by_region.contains_key(m.region.as_str()));
        if answered.count() < spec.majority() {
            continue;
        }
        let opened = replicas.values().any(|r| r.epoch > 0 || r.error.is_some());
        let complete = replicas.values().filter(|r| r.state == "complete").count();
        for member in &spec.members {
            let wanted = match replicas.get(&member.region) {
                None => true,
                // Rebuilt only while a majority of the others is whole; until then it may be worth a look.
                Some(replica) => replica.state == "failed" && complete >= spec.majority(),
            };
            if let Some(inventory) = by_region.get(member.region.as_str())
                && wanted
            {
                actions.push((member.region.clone(), create(inventory, &spec, member.id, opened)));
            }
        }
    }
    actions
}

/// What a request of a plan does, and to which volume, for the log.
pub fn describe(request: &Request) -> (&'static str, &str) {
    match request {
        Request::Create { spec, .. } => ("create", &spec.volume),
        Request::Delete { tombstone } => ("delete", &tombstone.volume),
        Request::Scrub { volume } => ("scrub", volume),
        Request::Contact { .. } | Request::List { .. } | Request::Report { .. } => ("ask", ""),
    }
}

/// The request that makes the replica `id` in the store of `inventory`.
pub fn create(inventory: &Inventory, spec: &VolumeSpec, id: Uuid, learner: bool) -> Request {
    Request::Create {
        store: inventory.info.store,
        spec: spec.clone(),
        id,
        learner,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::control::{MemberSpec, ReplicaInfo, StoreInfo, Tombstone};

    fn spec(name: &str, base: u128) -> VolumeSpec {
        let members = ["a", "b", "c"].iter().zip(base..);
        VolumeSpec {
            volume: name.into(),
            size_bytes: 1 << 20,
            class: "replicated".into(),
            members: members
                .map(|(region, id)| MemberSpec {
                    id: Uuid::from_u128(id),
                    region: (*region).into(),
                })
                .collect(),
            labels: BTreeMap::new(),
        }
    }

    fn store(region: &str, replicas: &[(&VolumeSpec, u64)], tombstones: &[&VolumeSpec]) -> Inventory {
        let replicas = replicas.iter().map(|(spec, epoch)| ReplicaInfo {
            id: spec.member_in(region).unwrap().id,
            spec: (*spec).clone(),
            state: "complete".into(),
            error: None,
            epoch: *epoch,
            node: String::new(),
            engine_connected: false,
            received_seq: 0,
            durable_seq: 0,
            size_bytes: 1 << 20,
            used_bytes: 0,
            snapshots: Vec::new(),
            members: Vec::new(),
            scrub: None,
        });
        Inventory {
            info: StoreInfo {
                store: Uuid::from_u128(900 + u128::from(region.as_bytes()[0])),
                region: region.into(),
                capacity_bytes: 0,
                free_bytes: 0,
                used_bytes: 0,
            },
            replicas: replicas.collect(),
            tombstones: tombstones
                .iter()
                .map(|s| Tombstone {
                    volume: s.volume.clone(),
                    members: s.members.clone(),
                })
                .collect(),
        }
    }

    fn creates(actions: &[Action]) -> Vec<(&str, &str, bool)> {
        actions
            .iter()
            .filter_map(|(region, request)| match request {
                Request::Create { spec, learner, .. } => {
                    Some((region.as_str(), spec.volume.as_str(), *learner))
                }
                _ => None,
            })
            .collect()
    }

    #[test]
    fn an_absent_replica_is_made_fresh_only_if_the_volume_was_never_opened() {
        let v = spec("v", 1);
        let three = |epoch| {
            [
                store("a", &[(&v, 0)], &[]),
                store("b", &[(&v, epoch)], &[]),
                store("c", &[], &[]),
            ]
        };
        assert_eq!(creates(&plan(&three(0))), [("c", "v", false)]);
        assert_eq!(creates(&plan(&three(3))), [("c", "v", true)]);
        // Without a majority nobody knows.
        assert!(plan(&[store("c", &[], &[])]).is_empty());
        assert!(plan(&[store("a", &[(&v, 0)], &[])]).is_empty());
    }

    #[test]
    fn a_failed_replica_is_rebuilt_while_the_others_are_whole() {
        let v = spec("v", 1);
        let mut stores = [
            store("a", &[(&v, 2)], &[]),
            store("b", &[(&v, 2)], &[]),
            store("c", &[(&v, 2)], &[]),
        ];
        assert!(plan(&stores).is_empty());
        stores[1].replicas[0].state = "failed".into();
        assert_eq!(creates(&plan(&stores)), [("b", "v", true)]);
        stores[2].replicas[0].state = "catching-up".into();
        assert!(plan(&stores).is_empty());
    }

    #[test]
    fn deletions_reach_who_was_away_and_the_name_can_be_used_again() {
        let (old, new) = (spec("v", 1), spec("v", 11));
        let stores = [
            store("a", &[(&new, 1)], &[&old]),
            store("b", &[(&new, 1)], &[&old]),
            store("c", &[(&old, 1)], &[]),
        ];
        let first = plan(&stores);
        assert!(matches!(&first[..], [(region, Request::Delete { .. })] if region == "c"));
        let stores = [stores[0].clone(), stores[1].clone(), store("c", &[], &[&old])];
        assert_eq!(creates(&plan(&stores)), [("c", "v", true)]);
        let stores = [
            stores[0].clone(),
            stores[1].clone(),
            store("c", &[(&new, 0)], &[&old]),
        ];
        assert!(plan(&stores).is_empty());
    }

    #[test]
    fn of_two_creations_at_once_one_wins_everywhere() {
        let (low, high) = (spec("v", 1), spec("v", 11));
        let stores = [
            store("a", &[(&high, 0)], &[]),
            store("b", &[(&low, 0)], &[]),
            store("c", &[], &[]),
        ];
        assert_eq!(creates(&plan(&stores)), [("a", "v", false), ("c", "v", false)]);
        let Request::Create { spec: chosen, .. } = &plan(&stores)[0].1 else {
            panic!()
        };
        assert_eq!(chosen, &low);
    }
}
