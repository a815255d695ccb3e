//! A claim gets its volume: CreateVolume, then a PersistentVolume that names the claim. Both bear a name made of the
//! claim's UID, so that a repetition after a crash finds what the first attempt made.

use super::{Error, PROVISIONED_BY, Sidecar, bounded, quantity};
use crate::capability::REGION_KEY;
use client::events::reference;
use k8s_openapi::api::core::v1::{
    CSIPersistentVolumeSource, Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm,
    PersistentVolume, PersistentVolumeClaim, PersistentVolumeSpec, VolumeNodeAffinity,
};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::{Api, ObjectMeta, PostParams};
use protos::csi::{CapacityRange, CreateVolumeRequest, Topology, TopologyRequirement, Volume};
use std::collections::{BTreeMap, HashMap};

/// Annotations by which the volume controller asks a provisioner; the second is the older name.
const ASKED: [&str; 2] = [
    "volume.kubernetes.io/storage-provisioner",
    "volume.beta.kubernetes.io/storage-provisioner",
];
/// Annotation by which the scheduler names the node of the first consumer.
const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// Keeps a volume's object until what it stands for is deleted (as upstream's provisioner does).
pub(super) const FINALIZER: &str = "external-provisioner.volume.kubernetes.io/finalizer";
/// Parameters of a class that are the provisioner's rather than the driver's.
const OWN_PARAMETERS: &str = "csi.storage.k8s.io/";
const FS_TYPE: &str = "csi.storage.k8s.io/fstype";
const DEFAULT_FS_TYPE: &str = "ext4";

impl Sidecar {
    /// Provisions for a claim without a volume, if it is ours to do and time for it.
    pub(super) async fn provision(&self, claim: &PersistentVolumeClaim) -> Result<(), Error> {
        let Some(class) = self.wanted(claim) else {
            return Ok(());
        };
        let uid = claim.metadata.uid.as_deref().unwrap_or_default();
        let name = format!("pvc-{uid}");
        if uid.is_empty() || self.volumes.get("", &name).is_some() {
            return Ok(());
        }
        let on = reference(claim);
        let made = self.make(claim, &class, &name).await;
        match made {
            Ok(()) => {
                let message = format!("Successfully provisioned volume {name}");
                self.events.event(&on, "Normal", "ProvisioningSucceeded", message);
                tracing::info!(volume = name, "provisioned");
                Ok(())
            }
            Err(error) => {
                let class = class.metadata.name.as_deref().unwrap_or_default();
                let message = format!("failed to provision volume with StorageClass \"{class}\": {error}");
                self.events.event(&on, "Warning", "ProvisioningFailed", message);
                Err(error)
            }
        }
    }

    /// The claim's class, when the claim waits for this provisioner.
    fn wanted(&self, claim: &PersistentVolumeClaim) -> Option<std::sync::Arc<StorageClass>> {
        if claim.metadata.deletion_timestamp.is_some() {
            return None;
        }
        let annotations = claim.metadata.annotations.as_ref()?;
        if !ASKED
            .iter()
            .any(|key| annotations.get(*key).is_some_and(|v| v == crate::DRIVER))
        {
            return None;
        }
        let class = claim.spec.as_ref()?.storage_class_name.as_deref()?;
        let class = self
            .classes
            .get("", class)
            .filter(|c| c.provisioner == crate::DRIVER)?;
        let waits = class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer");
        (!waits || annotations.contains_key(SELECTED_NODE)).then_some(class)
    }

    async fn make(
        &self,
        claim: &PersistentVolumeClaim,
        class: &StorageClass,
        name: &str,
    ) -> Result<(), Error> {
        let topology = self.topology(claim, class).await?;
        let request = request(claim, class, name, topology)?;
        let reply = self.driver.clone().create_volume(bounded(request)).await?;
        let volume = reply.into_inner().volume;
        let volume = volume.ok_or_else(|| Error::Incomplete("the driver returned no volume".into()))?;
        let object = describe(claim, class, name, &volume);
        let api: Api<PersistentVolume> = Api::all(self.client.clone());
        match api.create(&PostParams::default(), &object).await {
            Ok(created) => self.volumes.observe(created),
            // From an attempt whose answer got lost.
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// Where the volume must be reachable: where the first consumer will run, or where the class allows it.
    async fn topology(
        &self,
        claim: &PersistentVolumeClaim,
        class: &StorageClass,
    ) -> Result<Option<TopologyRequirement>, Error> {
        let annotations = claim.metadata.annotations.as_ref();
        let term = |region: &str| Topology {
            segments: HashMap::from([(REGION_KEY.to_owned(), region.to_owned())]),
        };
        if let Some(node) = annotations.and_then(|a| a.get(SELECTED_NODE)) {
            let node = Api::<Node>::all(self.client.clone()).get_metadata(node).await?;
            let region = node.metadata.labels.as_ref().and_then(|l| l.get(REGION_KEY));
            let region =
                region.ok_or_else(|| Error::Incomplete(format!("the selected node has no {REGION_KEY}")))?;
            return Ok(Some(TopologyRequirement {
                requisite: vec![term(region)],
                preferred: vec![term(region)],
            }));
        }
        let allowed: Vec<Topology> = class
            .allowed_topologies
            .iter()
            .flatten()
            .flat_map(|t| t.match_label_expressions.iter().flatten())
            .filter(|e| e.key == REGION_KEY)
            .flat_map(|e| e.values.iter().map(|v| term(v)))
            .collect();
        Ok((!allowed.is_empty()).then(|| TopologyRequirement {
            requisite: allowed.clone(),
            preferred: allowed,
        }))
    }
}

fn fs_type(class: &StorageClass) -> &str {
    let parameters = class.parameters.as_ref();
    parameters
        .and_then(|p| p.get(FS_TYPE))
        .map_or(DEFAULT_FS_TYPE, String::as_str)
}

fn request(
    claim: &PersistentVolumeClaim,
    class: &StorageClass,
    name: &str,
    topology: Option<TopologyRequirement>,
) -> Result<CreateVolumeRequest, Error> {
    let spec = claim.spec.clone().unwrap_or_default();
    let asked = spec
        .resources
        .as_ref()
        .and_then(|r| r.requests.as_ref())
        .and_then(|r| r.get("storage"));
    let required = asked
        .and_then(quantity::bytes)
        .ok_or_else(|| Error::Incomplete("spec.resources.requests.storage is no size".into()))?;
    let limits = spec.resources.as_ref().and_then(|r| r.limits.as_ref());
    let limit = limits
        .and_then(|l| l.get("storage"))
        .and_then(quantity::bytes)
        .unwrap_or(0);
    if spec.data_source.is_some() || spec.data_source_ref.is_some() {
        return Err(Error::Incomplete(
            "spec.dataSource: the driver makes empty volumes only".into(),
        ));
    }
    let mut parameters: HashMap<String, String> = class
        .parameters
        .iter()
        .flatten()
        .filter(|(key, _)| !key.starts_with(OWN_PARAMETERS))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    let meta = &claim.metadata;
    for (key, value) in [
        ("pvc/name", meta.name.as_deref()),
        ("pvc/namespace", meta.namespace.as_deref()),
        ("pv/name", Some(name)),
    ] {
        parameters.insert(format!("{OWN_PARAMETERS}{key}"), value.unwrap_or_default().into());
    }
    let capability = super::capability(
        spec.access_modes.as_deref().unwrap_or_default(),
        spec.volume_mode.as_deref(),
        fs_type(class),
        class.mount_options.as_deref().unwrap_or_default(),
    )?;
    Ok(CreateVolumeRequest {
        name: name.into(),
        capacity_range: Some(CapacityRange {
            required_bytes: required,
            limit_bytes: limit,
        }),
        volume_capabilities: vec![capability],
        parameters,
        accessibility_requirements: topology,
        ..CreateVolumeRequest::default()
    })
}

/// The object that stands for the volume.
fn describe(
    claim: &PersistentVolumeClaim,
    class: &StorageClass,
    name: &str,
    volume: &Volume,
) -> PersistentVolume {
    let spec = claim.spec.clone().unwrap_or_default();
    let is_block = spec.volume_mode.as_deref() == Some("Block");
    let reclaim = class.reclaim_policy.clone().unwrap_or_else(|| "Delete".into());
    let mut claim_ref = client::events::reference(claim);
    claim_ref.field_path = None;
    PersistentVolume {
        metadata: ObjectMeta {
            name: Some(name.into()),
            annotations: Some(BTreeMap::from([(
                PROVISIONED_BY.to_owned(),
                crate::DRIVER.to_owned(),
            )])),
            finalizers: (reclaim == "Delete").then(|| vec![FINALIZER.to_owned()]),
            ..ObjectMeta::default()
        },
        spec: Some(PersistentVolumeSpec {
            access_modes: spec.access_modes,
            capacity: Some(BTreeMap::from([(
                "storage".to_owned(),
                quantity::quantity(volume.capacity_bytes),
            )])),
            claim_ref: Some(claim_ref),
            csi: Some(CSIPersistentVolumeSource {
                driver: crate::DRIVER.into(),
                fs_type: (!is_block).then(|| fs_type(class).to_owned()),
                volume_attributes: Some(volume.volume_context.clone().into_iter().collect()),
                volume_handle: volume.volume_id.clone(),
                ..CSIPersistentVolumeSource::default()
            }),
            mount_options: class.mount_options.clone(),
            node_affinity: affinity(&volume.accessible_topology),
            persistent_volume_reclaim_policy: Some(reclaim),
            storage_class_name: class.metadata.name.clone(),
            volume_mode: spec.volume_mode.or_else(|| Some("Filesystem".into())),
            ..PersistentVolumeSpec::default()
        }),
        status: None,
    }
}

/// A volume that is not everywhere ties its pods to where it is.
fn affinity(topology: &[Topology]) -> Option<VolumeNodeAffinity> {
    let terms = topology.iter().filter(|t| !t.segments.is_empty()).map(|t| {
        let mut segments: Vec<_> = t.segments.iter().collect();
        segments.sort();
        let requirement = |(key, value): (&String, &String)| NodeSelectorRequirement {
            key: key.clone(),
            operator: "In".into(),
            values: Some(vec![value.clone()]),
        };
        NodeSelectorTerm {
            match_expressions: Some(segments.into_iter().map(requirement).collect()),
            match_fields: None,
        }
    });
    let terms: Vec<NodeSelectorTerm> = terms.collect();
    (!terms.is_empty()).then_some(VolumeNodeAffinity {
        required: Some(NodeSelector {
            node_selector_terms: terms,
        }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn claim(spec: serde_json::Value) -> PersistentVolumeClaim {
        let meta = json!({"name": "data", "namespace": "shop", "uid": "u1", "resourceVersion": "7"});
        serde_json::from_value(json!({"metadata": meta, "spec": spec})).unwrap()
    }

    fn class() -> StorageClass {
        serde_json::from_value(json!({
            "metadata": {"name": "fast"}, "provisioner": crate::DRIVER, "mountOptions": ["discard"],
            "parameters": {"class": "local", "csi.storage.k8s.io/fstype": "xfs"},
        }))
        .unwrap()
    }

    #[test]
    fn a_claim_becomes_a_request() {
        let spec = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1500M"}}});
        let request = request(&claim(spec), &class(), "pvc-u1", None).unwrap();
        assert_eq!(request.capacity_range.unwrap().required_bytes, 1_500_000_000);
        assert_eq!(request.parameters["class"], "local");
        assert_eq!(request.parameters["csi.storage.k8s.io/pvc/name"], "data");
        assert_eq!(request.parameters["csi.storage.k8s.io/pvc/namespace"], "shop");
        assert!(!request.parameters.contains_key(FS_TYPE));
        // What the driver itself accepts.
        crate::capability::parameters(&request.parameters).unwrap();
        crate::capability::required(request.volume_capabilities.first()).unwrap();
        assert!(super::request(&claim(json!({})), &class(), "x", None).is_err());
    }

    #[test]
    fn a_volume_becomes_an_object() {
        let spec = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}});
        let volume = Volume {
            capacity_bytes: 2 << 30,
            volume_id: "id".into(),
            accessible_topology: vec![Topology {
                segments: HashMap::from([(REGION_KEY.into(), "gland".into())]),
            }],
            ..Volume::default()
        };
        let object = describe(&claim(spec.clone()), &class(), "pvc-u1", &volume);
        let value = serde_json::to_value(&object).unwrap();
        let read = |path: &str| value.pointer(path).cloned().unwrap_or_default();
        assert_eq!(read("/spec/capacity/storage"), "2Gi");
        assert_eq!(read("/spec/claimRef/uid"), "u1");
        assert_eq!(read("/spec/claimRef/kind"), "PersistentVolumeClaim");
        assert_eq!(read("/spec/csi/fsType"), "xfs");
        assert_eq!(read("/spec/mountOptions/0"), "discard");
        assert_eq!(read("/metadata/finalizers/0"), FINALIZER);
        let term = "/spec/nodeAffinity/required/nodeSelectorTerms/0/matchExpressions/0";
        assert_eq!(read(&format!("{term}/values/0")), "gland");
        let everywhere = describe(&claim(spec), &class(), "pvc-u1", &Volume::default());
        assert!(everywhere.spec.unwrap().node_affinity.is_none());
    }
}
