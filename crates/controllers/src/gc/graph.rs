//! Who owns whom, as a pure data structure: fed with what the watches show, it says which objects must be looked
//! at. An owner that is referred to but was never seen is no node; whoever refers to it finds out at the server.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use std::collections::{HashMap, HashSet, VecDeque};

/// The finalizer of foreground deletion.
pub const FOREGROUND: &str = "foregroundDeletion";
/// The finalizer of deletion that leaves the dependents alone.
pub const ORPHAN: &str = "orphan";
/// Owners remembered as gone, so that their many dependents cost one request.
const REMEMBERED_ABSENT: usize = 512;

/// Identifies an object for ever.
pub type Uid = String;
/// Which kind an object is of: an index into the collector's list of kinds.
pub type KindId = usize;

/// One object.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Its kind.
    pub kind: KindId,
    /// Empty for cluster-scoped objects.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its owners.
    pub owners: Vec<OwnerReference>,
    /// Being deleted?
    pub deleting: bool,
    /// Being deleted, after its dependents.
    pub foreground: bool,
    /// Being deleted, without its dependents.
    pub orphaning: bool,
}

impl Node {
    fn of(kind: KindId, meta: &ObjectMeta) -> Self {
        let deleting = meta.deletion_timestamp.is_some();
        let has = |finalizer: &str| meta.finalizers.iter().flatten().any(|f| f == finalizer);
        Self {
            kind,
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
            owners: meta.owner_references.clone().unwrap_or_default(),
            deleting,
            foreground: deleting && has(FOREGROUND),
            orphaning: deleting && has(ORPHAN),
        }
    }
}

/// What must be looked at.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Work {
    /// Should the object be deleted, or can its foreground deletion end?
    Check(Uid),
    /// The object's dependents are to be left without it.
    Orphan(Uid),
}

/// The graph.
#[derive(Default)]
pub struct Graph {
    nodes: HashMap<Uid, Node>,
    dependents: HashMap<Uid, HashSet<Uid>>,
    absent: HashSet<Uid>,
    absent_order: VecDeque<Uid>,
    /// Objects by kind and namespace.
    census: HashMap<(KindId, String), usize>,
}

impl Graph {
    /// One object.
    pub fn node(&self, uid: &str) -> Option<&Node> {
        self.nodes.get(uid)
    }

    /// Number of objects.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Number of objects of a kind in a namespace.
    pub fn count(&self, kind: KindId, namespace: &str) -> usize {
        let key = (kind, namespace.to_owned());
        self.census.get(&key).copied().unwrap_or(0)
    }

    /// The objects that refer to an owner.
    pub fn dependents(&self, owner: &str) -> Vec<Uid> {
        self.dependents
            .get(owner)
            .map(|set| set.iter().cloned().collect())
            .unwrap_or_default()
    }

    /// The uids of all objects of a kind.
    pub fn of_kind(&self, kind: KindId) -> Vec<Uid> {
        self.nodes
            .iter()
            .filter(|(_, node)| node.kind == kind)
            .map(|(uid, _)| uid.clone())
            .collect()
    }

    /// Is it certain that no object with this uid exists any more?
    pub fn is_absent(&self, uid: &str) -> bool {
        self.absent.contains(uid)
    }

    /// Remembers that an owner does not exist.
    pub fn note_absent(&mut self, uid: &str) {
        if self.absent.insert(uid.to_owned()) {
            self.absent_order.push_back(uid.to_owned());
        }
        while self.absent_order.len() > REMEMBERED_ABSENT {
            if let Some(oldest) = self.absent_order.pop_front() {
                self.absent.remove(&oldest);
            }
        }
    }

    /// An object was added or changed.
    pub fn upsert(&mut self, kind: KindId, meta: &ObjectMeta) -> Vec<Work> {
        let Some(uid) = meta.uid.clone() else {
            return Vec::new();
        };
        let node = Node::of(kind, meta);
        let old = self.nodes.get(&uid);
        if old == Some(&node) {
            return Vec::new();
        }
        let mut work = Vec::new();
        let owners_before = old.map(|old| old.owners.clone()).unwrap_or_default();
        let (was_foreground, was_orphaning) =
            old.map_or((false, false), |old| (old.foreground, old.orphaning));
        let owners_changed = owners_before != node.owners;
        if owners_changed {
            for owner in &owners_before {
                self.unlink(&uid, &owner.uid);
                // An owner in foreground deletion may have waited for this one.
                if self.nodes.get(&owner.uid).is_some_and(|owner| owner.foreground) {
                    work.push(Work::Check(owner.uid.clone()));
                }
            }
            for owner in &node.owners {
                self.dependents
                    .entry(owner.uid.clone())
                    .or_default()
                    .insert(uid.clone());
            }
        }
        if node.foreground && !was_foreground {
            work.extend(self.dependents(&uid).into_iter().map(Work::Check));
            work.push(Work::Check(uid.clone()));
        } else if node.orphaning && !was_orphaning {
            work.push(Work::Orphan(uid.clone()));
        } else if owners_changed && !node.owners.is_empty() {
            work.push(Work::Check(uid.clone()));
        }
        let place = (node.kind, node.namespace.clone());
        if self.nodes.insert(uid, node).is_none() {
            *self.census.entry(place).or_default() += 1;
        }
        work
    }

    /// An object is gone.
    pub fn remove(&mut self, uid: &str) -> Vec<Work> {
        let Some(node) = self.nodes.remove(uid) else {
            return Vec::new();
        };
        self.note_absent(uid);
        let place = (node.kind, node.namespace.clone());
        if let Some(count) = self.census.get_mut(&place) {
            *count -= 1;
            if *count == 0 {
                self.census.remove(&place);
            }
        }
        let mut work = Vec::new();
        for owner in &node.owners {
            self.unlink(uid, &owner.uid);
            if self.nodes.get(&owner.uid).is_some_and(|owner| owner.foreground) {
                work.push(Work::Check(owner.uid.clone()));
            }
        }
        work.extend(self.dependents(uid).into_iter().map(Work::Check));
        work
    }

    fn unlink(&mut self, dependent: &str, owner: &str) {
        if let Some(set) = self.dependents.get_mut(owner) {
            set.remove(dependent);
            if set.is_empty() {
                self.dependents.remove(owner);
            }
        }
    }

    /// The dependents for which the foreground deletion of `owner` waits.
    pub fn blocking(&self, owner: &str) -> Vec<Uid> {
        let blocks = |uid: &Uid| {
            self.nodes.get(uid).is_some_and(|node| {
                node.owners
                    .iter()
                    .any(|o| o.uid == owner && o.block_owner_deletion == Some(true))
            })
        };
        self.dependents(owner).into_iter().filter(blocks).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn meta(uid: &str, owners: &[&str], finalizers: &[&str], deleting: bool) -> ObjectMeta {
        let owners: Vec<_> = owners
            .iter()
            .map(|uid| json!({"apiVersion": "v1", "kind": "K", "name": uid, "uid": uid, "blockOwnerDeletion": true}))
            .collect();
        serde_json::from_value(json!({
            "name": uid, "namespace": "n", "uid": uid, "ownerReferences": owners, "finalizers": finalizers,
            "deletionTimestamp": deleting.then_some("2026-01-01T00:00:00Z")
        }))
        .unwrap()
    }

    #[test]
    fn when_an_owner_goes_its_dependents_are_checked() {
        let mut graph = Graph::default();
        assert_eq!(graph.upsert(0, &meta("o", &[], &[], false)), []);
        assert_eq!(
            graph.upsert(0, &meta("d", &["o"], &[], false)),
            [Work::Check("d".into())]
        );
        assert_eq!(graph.upsert(0, &meta("d", &["o"], &[], false)), []);
        assert_eq!(graph.remove("o"), [Work::Check("d".into())]);
        assert!(graph.is_absent("o"));
        assert_eq!(
            (graph.count(0, "n"), graph.count(1, "n"), graph.count(0, "m")),
            (1, 0, 0)
        );
    }

    #[test]
    fn foreground_deletion_waits_for_dependents() {
        let mut graph = Graph::default();
        graph.upsert(0, &meta("o", &[], &[], false));
        graph.upsert(0, &meta("d", &["o"], &[], false));
        let work = graph.upsert(0, &meta("o", &[], &[FOREGROUND], true));
        assert_eq!(work, [Work::Check("d".into()), Work::Check("o".into())]);
        assert_eq!(graph.blocking("o"), ["d"]);
        assert_eq!(graph.remove("d"), [Work::Check("o".into())]);
        assert!(graph.blocking("o").is_empty());
    }

    #[test]
    fn orphaning_and_loss_of_a_reference() {
        let mut graph = Graph::default();
        graph.upsert(0, &meta("o", &[], &[], false));
        graph.upsert(0, &meta("d", &["o"], &[], false));
        assert_eq!(
            graph.upsert(0, &meta("o", &[], &[ORPHAN], true)),
            [Work::Orphan("o".into())]
        );
        assert_eq!(graph.upsert(0, &meta("d", &[], &[], false)), []);
        assert!(graph.dependents("o").is_empty());
    }
}
