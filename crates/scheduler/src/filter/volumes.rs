//! Which nodes can reach a pod's volumes, and for claims whose class waits for the first consumer: where a
//! volume can be found or made.

use super::Reason;
use crate::state::{NodeInfo, State};
use client::quantity;
use client::select;
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use std::sync::Arc;

/// On a claim: the node for which its volume is to be made.
pub const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// On a claim: its binding is complete.
pub const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";
const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";
const TOPOLOGY_LABELS: [&str; 2] = ["topology.kubernetes.io/zone", "topology.kubernetes.io/region"];

/// Where claims, volumes and classes are looked up.
pub trait Lookup {
    /// A claim.
    fn claim(&self, namespace: &str, name: &str) -> Option<Arc<PersistentVolumeClaim>>;
    /// A volume.
    fn volume(&self, name: &str) -> Option<Arc<PersistentVolume>>;
    /// All volumes of a class.
    fn volumes_of(&self, class: &str) -> Vec<Arc<PersistentVolume>>;
    /// A class.
    fn class(&self, name: &str) -> Option<Arc<StorageClass>>;
}

/// A claim whose volume is decided together with the node.
#[derive(Clone)]
struct Delayed {
    claim: Arc<PersistentVolumeClaim>,
    class: Arc<StorageClass>,
    candidates: Vec<Arc<PersistentVolume>>,
}

/// What becomes of such a claim once the node is chosen.
#[derive(Clone)]
pub enum Decision {
    /// It gets this volume.
    Bind(Arc<PersistentVolumeClaim>, Arc<PersistentVolume>),
    /// A volume is made for it, reachable from the node.
    Provision(Arc<PersistentVolumeClaim>),
}

/// The claims of one pod.
#[derive(Default)]
pub struct Claims {
    bound: Vec<Arc<PersistentVolume>>,
    delayed: Vec<Delayed>,
    /// Another pod uses a claim that only one pod may use.
    occupied: bool,
}

/// The class of a claim; empty for none.
pub fn class_of(claim: &PersistentVolumeClaim) -> String {
    let annotation = claim
        .metadata
        .annotations
        .as_ref()
        .and_then(|a| a.get(CLASS_ANNOTATION))
        .cloned();
    let field = claim
        .spec
        .as_ref()
        .and_then(|spec| spec.storage_class_name.clone());
    annotation.or(field).unwrap_or_default()
}

/// Is the claim's binding complete?
pub fn is_bound(claim: &PersistentVolumeClaim) -> bool {
    let named = claim
        .spec
        .as_ref()
        .and_then(|spec| spec.volume_name.as_ref())
        .is_some_and(|n| !n.is_empty());
    let completed = claim
        .metadata
        .annotations
        .as_ref()
        .is_some_and(|a| a.contains_key(BIND_COMPLETED));
    let phase = claim.status.as_ref().and_then(|status| status.phase.as_deref());
    named && (completed || phase == Some("Bound"))
}

impl Claims {
    /// Looks up the pod's claims. The error says why no node would do at present.
    pub fn gather(pod: &Pod, state: &State, lookup: &dyn Lookup) -> Result<Self, String> {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let mut claims = Self::default();
        for name in client::pods::claim_names(pod) {
            let Some(claim) = lookup.claim(namespace, &name) else {
                return Err(format!("persistentvolumeclaim \"{name}\" not found"));
            };
            if claim.metadata.deletion_timestamp.is_some() {
                return Err(format!("persistentvolumeclaim \"{name}\" is being deleted"));
            }
            if claim.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Lost") {
                return Err(format!(
                    "persistentvolumeclaim \"{name}\" bound to non-existent persistentvolume \"{}\"",
                    claim
                        .spec
                        .as_ref()
                        .and_then(|spec| spec.volume_name.as_deref())
                        .unwrap_or_default()
                ));
            }
            let modes = claim
                .spec
                .as_ref()
                .and_then(|spec| spec.access_modes.as_deref())
                .unwrap_or_default();
            if modes.iter().any(|mode| mode == "ReadWriteOncePod")
                && used_elsewhere(pod, namespace, &name, state)
            {
                claims.occupied = true;
            }
            claims.sort_in(claim, lookup)?;
        }
        Ok(claims)
    }

    fn sort_in(&mut self, claim: Arc<PersistentVolumeClaim>, lookup: &dyn Lookup) -> Result<(), String> {
        let volume = claim
            .spec
            .as_ref()
            .and_then(|spec| spec.volume_name.clone())
            .unwrap_or_default();
        if is_bound(&claim) {
            let volume = lookup
                .volume(&volume)
                .ok_or_else(|| format!("persistentvolume \"{volume}\" not found"))?;
            self.bound.push(volume);
            return Ok(());
        }
        let class = lookup.class(&class_of(&claim));
        let waits =
            |class: &StorageClass| class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer");
        match class.filter(|class| waits(class) && volume.is_empty()) {
            Some(class) => {
                let name = class.metadata.name.as_deref().unwrap_or_default();
                let candidates = lookup
                    .volumes_of(name)
                    .into_iter()
                    .filter(|v| suits(v, &claim))
                    .collect();
                self.delayed.push(Delayed {
                    claim,
                    class,
                    candidates,
                });
                Ok(())
            }
            None => Err("pod has unbound immediate PersistentVolumeClaims".into()),
        }
    }

    /// Checks one node.
    pub fn check(&self, info: &NodeInfo) -> Result<(), Reason> {
        let Some(node) = &info.node else { return Ok(()) };
        if self.occupied {
            return Err(Reason::curable(
                "node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode",
            ));
        }
        for volume in &self.bound {
            if !reachable(volume, node) {
                return Err(Reason::fixed(
                    "node(s) didn't match PersistentVolume's node affinity",
                ));
            }
            if !in_zone(volume, info) {
                return Err(Reason::fixed("node(s) had no available volume zone"));
            }
        }
        self.decide(info).map(drop)
    }

    /// What becomes of the delayed claims if the pod goes to this node.
    pub fn decide(&self, info: &NodeInfo) -> Result<Vec<Decision>, Reason> {
        let Some(node) = &info.node else {
            return Ok(Vec::new());
        };
        let mut decisions: Vec<Decision> = Vec::new();
        for delayed in &self.delayed {
            let selected = delayed
                .claim
                .metadata
                .annotations
                .as_ref()
                .and_then(|a| a.get(SELECTED_NODE));
            if selected.is_some_and(|selected| Some(selected) != node.metadata.name.as_ref()) {
                return Err(Reason::fixed(
                    "node(s) didn't find available persistent volumes to bind",
                ));
            }
            let taken = |volume: &PersistentVolume| {
                decisions.iter().any(
                    |d| matches!(d, Decision::Bind(_, other) if other.metadata.name == volume.metadata.name),
                )
            };
            let mut fitting = delayed
                .candidates
                .iter()
                .filter(|volume| reachable(volume, node) && !taken(volume));
            let found = if selected.is_some() { None } else { fitting.next() };
            let decision = match found {
                Some(volume) => Decision::Bind(delayed.claim.clone(), volume.clone()),
                None if provisions(&delayed.class, info) => Decision::Provision(delayed.claim.clone()),
                None => {
                    return Err(Reason::fixed(
                        "node(s) didn't find available persistent volumes to bind",
                    ));
                }
            };
            decisions.push(decision);
        }
        Ok(decisions)
    }
}

fn used_elsewhere(pod: &Pod, namespace: &str, claim: &str, state: &State) -> bool {
    let others = state.nodes.values().flat_map(|node| node.pods.values());
    others
        .filter(|other| other.pod.metadata.uid != pod.metadata.uid)
        .filter(|other| other.pod.metadata.namespace.as_deref() == Some(namespace))
        .any(|other| client::pods::claim_names(&other.pod).any(|name| name == claim))
}

fn reachable(volume: &PersistentVolume, node: &Node) -> bool {
    let affinity = volume.spec.as_ref().and_then(|spec| spec.node_affinity.as_ref());
    affinity
        .and_then(|affinity| affinity.required.as_ref())
        .is_none_or(|selector| select::node_selector_matches(selector, node))
}

/// Volumes made by older provisioners carry their zone as a label; several are joined by `__`.
fn in_zone(volume: &PersistentVolume, info: &NodeInfo) -> bool {
    let labels = volume.metadata.labels.as_ref();
    TOPOLOGY_LABELS.iter().all(|key| {
        let Some(zones) = labels.and_then(|labels| labels.get(*key)) else {
            return true;
        };
        info.label(key)
            .is_some_and(|zone| zones.split("__").any(|z| z == zone))
    })
}

fn provisions(class: &StorageClass, info: &NodeInfo) -> bool {
    if class.provisioner.is_empty() || class.provisioner == NO_PROVISIONER {
        return false;
    }
    let Some(topologies) = class.allowed_topologies.as_ref().filter(|t| !t.is_empty()) else {
        return true;
    };
    topologies.iter().any(|term| {
        let expressions = term.match_label_expressions.as_deref().unwrap_or_default();
        expressions.iter().all(|e| {
            info.label(&e.key)
                .is_some_and(|value| e.values.iter().any(|v| v == value))
        })
    })
}

fn capacity(volume: &PersistentVolume) -> i64 {
    let capacity = volume.spec.as_ref().and_then(|spec| spec.capacity.as_ref());
    capacity
        .and_then(|c| c.get("storage"))
        .and_then(|q| quantity::whole(&q.0))
        .unwrap_or(0)
}

/// Could an unbound volume serve a claim: free or reserved for it, large enough, with its modes and labels?
fn suits(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let (Some(has), Some(wants)) = (&volume.spec, &claim.spec) else {
        return false;
    };
    let reserved = has.claim_ref.as_ref().is_none_or(|reference| {
        reference.name == claim.metadata.name
            && reference.namespace == claim.metadata.namespace
            && (reference.uid.is_none() || reference.uid == claim.metadata.uid)
    });
    let phase = volume
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref())
        .unwrap_or("Available");
    let requests = wants
        .resources
        .as_ref()
        .and_then(|resources| resources.requests.as_ref());
    let size = requests
        .and_then(|r| r.get("storage"))
        .and_then(|q| quantity::whole(&q.0))
        .unwrap_or(0);
    let offered = has.access_modes.as_deref().unwrap_or_default();
    let modes = wants
        .access_modes
        .iter()
        .flatten()
        .all(|mode| offered.contains(mode));
    let block = |mode: &Option<String>| mode.as_deref() == Some("Block");
    let selected = wants
        .selector
        .as_ref()
        .is_none_or(|s| select::labels_match(s, volume.metadata.labels.as_ref()));
    let free = matches!(phase, "Available" | "Pending" | "") || has.claim_ref.is_some();
    reserved
        && free
        && volume.metadata.deletion_timestamp.is_none()
        && capacity(volume) >= size
        && modes
        && block(&has.volume_mode) == block(&wants.volume_mode)
        && selected
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[derive(Default)]
    struct Fixed {
        claims: Vec<Value>,
        volumes: Vec<Value>,
        classes: Vec<Value>,
    }

    fn find<K: serde::de::DeserializeOwned>(list: &[Value], name: &str) -> Option<Arc<K>> {
        let found = list.iter().find(|v| v["metadata"]["name"] == name)?;
        Some(Arc::new(serde_json::from_value(found.clone()).unwrap()))
    }

    impl Lookup for Fixed {
        fn claim(&self, _: &str, name: &str) -> Option<Arc<PersistentVolumeClaim>> {
            find(&self.claims, name)
        }
        fn volume(&self, name: &str) -> Option<Arc<PersistentVolume>> {
            find(&self.volumes, name)
        }
        fn volumes_of(&self, class: &str) -> Vec<Arc<PersistentVolume>> {
            let of = self
                .volumes
                .iter()
                .filter(|v| v["spec"]["storageClassName"] == class);
            of.map(|v| Arc::new(serde_json::from_value(v.clone()).unwrap()))
                .collect()
        }
        fn class(&self, name: &str) -> Option<Arc<StorageClass>> {
            find(&self.classes, name)
        }
    }

    fn pod() -> Pod {
        serde_json::from_value(
            json!({"metadata": {"name": "p", "namespace": "d", "uid": "p"}, "spec": {
            "containers": [], "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]}}),
        )
        .unwrap()
    }

    fn node(name: &str) -> NodeInfo {
        let mut state = State::default();
        let value = json!({"metadata": {"name": name, "labels": {"topology.kubernetes.io/region": "r1"}}});
        state.set_node(&Arc::new(serde_json::from_value(value).unwrap()));
        state.nodes.remove(name).unwrap()
    }

    fn unbound(annotations: Value) -> Value {
        json!({"metadata": {"name": "c", "namespace": "d", "uid": "c", "annotations": annotations},
            "spec": {"storageClassName": "s", "accessModes": ["ReadWriteOnce"],
                "resources": {"requests": {"storage": "1Gi"}}}})
    }

    fn class(mode: &str, provisioner: &str) -> Value {
        json!({"metadata": {"name": "s"}, "provisioner": provisioner, "volumeBindingMode": mode})
    }

    #[test]
    fn unbound_claims_wait_or_choose() {
        let state = State::default();
        let mut world = Fixed {
            claims: vec![unbound(json!({}))],
            ..Fixed::default()
        };
        world.classes = vec![class("Immediate", "csi")];
        let error = Claims::gather(&pod(), &state, &world).err().unwrap();
        assert_eq!(error, "pod has unbound immediate PersistentVolumeClaims");
        world.classes = vec![class("WaitForFirstConsumer", "csi")];
        let claims = Claims::gather(&pod(), &state, &world).ok().unwrap();
        assert!(matches!(
            claims.decide(&node("n1")).unwrap()[..],
            [Decision::Provision(_)]
        ));
        world.claims = vec![unbound(json!({SELECTED_NODE: "n2"}))];
        let claims = Claims::gather(&pod(), &state, &world).ok().unwrap();
        assert!(claims.check(&node("n1")).is_err());
        assert!(claims.check(&node("n2")).is_ok());
        world.claims.clear();
        assert_eq!(
            Claims::gather(&pod(), &state, &world).err().unwrap(),
            "persistentvolumeclaim \"c\" not found"
        );
    }

    #[test]
    fn local_volumes_bind_where_they_are() {
        let world = Fixed {
            claims: vec![unbound(json!({}))],
            classes: vec![class("WaitForFirstConsumer", NO_PROVISIONER)],
            volumes: vec![json!({"metadata": {"name": "v"}, "spec": {
                "storageClassName": "s", "capacity": {"storage": "2Gi"}, "accessModes": ["ReadWriteOnce"],
                "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchFields": [
                    {"key": "metadata.name", "operator": "In", "values": ["n1"]}]}]}}}})],
        };
        let claims = Claims::gather(&pod(), &State::default(), &world).ok().unwrap();
        assert!(matches!(
            claims.decide(&node("n1")).unwrap()[..],
            [Decision::Bind(_, _)]
        ));
        assert!(claims.check(&node("n2")).is_err());
    }
}
