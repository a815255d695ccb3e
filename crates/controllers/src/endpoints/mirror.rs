//! Mirrors Endpoints that somebody writes by hand, for a Service without a selector, into EndpointSlices, which is
//! what proxies read.

use super::slices::{self, SERVICE_LABEL};
use crate::context::{Context, settle};
use crate::ownership::controller_reference;
use client::{Key, Outcome, Queue};
use k8s_openapi::api::core::v1::{EndpointAddress, EndpointSubset, Endpoints};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Endpoints worked on at once.
const CONCURRENCY: usize = 5;
/// Who manages the slices made here.
const MANAGER: &str = "endpointslicemirroring-controller.k8s.io";
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
/// Annotations that speak of the Endpoints object itself.
const NOT_COPIED: [&str; 2] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    "endpoints.kubernetes.io/last-change-trigger-time",
];
/// Addresses of one subset that are mirrored (upstream's limit).
const MOST_ADDRESSES: usize = 1000;

/// The controller.
pub struct Controller {
    context: Arc<Context>,
    queue: Arc<Queue<Key>>,
}

impl Controller {
    /// Registers its handlers.
    pub fn new(context: &Arc<Context>) -> Self {
        let queue = Arc::new(Queue::new());
        let keys = queue.clone();
        context
            .endpoints
            .on_change(move |change| keys.add(Key::of(&**change.object())));
        let keys = queue.clone();
        context
            .services
            .on_change(move |change| keys.add(Key::of(&**change.object())));
        let keys = queue.clone();
        context.slices.on_change(move |change| {
            let slice = change.object();
            if slices::manager(slice) == Some(MANAGER)
                && let Some(service) = slice.metadata.labels.as_ref().and_then(|l| l.get(SERVICE_LABEL))
            {
                keys.add(Key::new(
                    slice.metadata.namespace.clone().unwrap_or_default(),
                    service,
                ));
            }
        });
        Self {
            context: context.clone(),
            queue,
        }
    }

    /// Works until dropped.
    pub async fn run(self) {
        let (context, queue) = (&self.context, &self.queue);
        queue
            .work(CONCURRENCY, |key| async move {
                let result = reconcile(context, &key).await;
                settle("endpointslicemirroring", &key, result)
            })
            .await;
    }
}

async fn reconcile(context: &Context, key: &Key) -> kube::Result<Outcome> {
    let endpoints = context.endpoints.by_key(key);
    let service = context.services.by_key(key).filter(|service| {
        let spec = service.spec.as_ref();
        let selector = spec.and_then(|s| s.selector.as_ref());
        selector.is_none_or(BTreeMap::is_empty)
            && spec.and_then(|s| s.type_.as_deref()) != Some("ExternalName")
            && service.metadata.deletion_timestamp.is_none()
    });
    let wanted = match (endpoints.filter(|e| mirrored(e)), service) {
        (Some(endpoints), Some(_)) => desired(&endpoints),
        _ => Vec::new(),
    };
    let known = context.slices.select_in(&key.namespace, |slice| {
        let labels = slice.metadata.labels.as_ref();
        slices::manager(slice) == Some(MANAGER)
            && labels.and_then(|l| l.get(SERVICE_LABEL)) == Some(&key.name)
            && slice.metadata.deletion_timestamp.is_none()
    });
    slices::bring_to(context, &key.namespace, known, wanted).await?;
    Ok(Outcome::Done)
}

fn mirrored(endpoints: &Endpoints) -> bool {
    let label = endpoints.metadata.labels.as_ref().and_then(|l| l.get(SKIP));
    let leads = endpoints
        .metadata
        .annotations
        .as_ref()
        .is_some_and(|a| a.contains_key(LEADER));
    label.is_none_or(|value| value != "true") && !leads && endpoints.metadata.deletion_timestamp.is_none()
}

/// The slices: one for each subset and family.
fn desired(endpoints: &Endpoints) -> Vec<EndpointSlice> {
    let mut slices = Vec::new();
    for subset in endpoints.subsets.iter().flatten() {
        let ready = subset.addresses.iter().flatten().map(|a| (a, true));
        let others = subset.not_ready_addresses.iter().flatten().map(|a| (a, false));
        let mut families: BTreeMap<bool, Vec<Endpoint>> = BTreeMap::new();
        for (address, is_ready) in ready.chain(others).take(MOST_ADDRESSES) {
            let v6 = address.ip.contains(':');
            families.entry(v6).or_default().push(endpoint(address, is_ready));
        }
        for (v6, mut members) in families {
            members.sort_by(|a, b| a.addresses.cmp(&b.addresses));
            slices.push(slice(endpoints, subset, v6, members));
        }
    }
    slices
}

fn endpoint(address: &EndpointAddress, ready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![address.ip.clone()],
        conditions: Some(EndpointConditions {
            ready: Some(ready),
            ..EndpointConditions::default()
        }),
        hostname: address.hostname.clone(),
        node_name: address.node_name.clone(),
        target_ref: address.target_ref.clone(),
        ..Endpoint::default()
    }
}

fn slice(endpoints: &Endpoints, subset: &EndpointSubset, v6: bool, members: Vec<Endpoint>) -> EndpointSlice {
    let meta = &endpoints.metadata;
    let name = meta.name.clone().unwrap_or_default();
    let mut labels = meta.labels.clone().unwrap_or_default();
    labels.insert(SERVICE_LABEL.into(), name.clone());
    labels.insert(slices::MANAGED_BY.into(), MANAGER.into());
    let mut annotations = meta.annotations.clone().unwrap_or_default();
    annotations.retain(|key, _| !NOT_COPIED.contains(&key.as_str()));
    let ports = subset.ports.iter().flatten().map(|port| EndpointPort {
        name: Some(port.name.clone().unwrap_or_default()),
        protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".into())),
        port: Some(port.port),
        app_protocol: port.app_protocol.clone(),
    });
    let ports: Vec<EndpointPort> = ports.collect();
    EndpointSlice {
        metadata: ObjectMeta {
            generate_name: Some(format!("{name}-")),
            namespace: meta.namespace.clone(),
            labels: Some(labels),
            annotations: (!annotations.is_empty()).then_some(annotations),
            owner_references: Some(vec![controller_reference(endpoints)]),
            ..ObjectMeta::default()
        },
        address_type: if v6 { "IPv6".into() } else { "IPv4".into() },
        endpoints: Some(members),
        ports: (!ports.is_empty()).then_some(ports),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn each_subset_and_family_becomes_a_slice() {
        let endpoints: Endpoints = serde_json::from_value(json!({
            "metadata": {"name": "db", "namespace": "n", "uid": "u", "labels": {"a": "b"},
                "annotations": {"endpoints.kubernetes.io/last-change-trigger-time": "x", "keep": "y"}},
            "subsets": [
                {"addresses": [{"ip": "10.1.2.4"}, {"ip": "fd00::1"}], "notReadyAddresses": [{"ip": "10.1.2.3"}],
                 "ports": [{"name": "sql", "port": 5432}]},
                {"addresses": [{"ip": "10.9.9.9"}], "ports": [{"port": 80}]}],
        }))
        .unwrap();
        assert!(mirrored(&endpoints));
        let slices = desired(&endpoints);
        let shown: Vec<String> = slices
            .iter()
            .map(|slice| {
                let members = slice.endpoints.iter().flatten().map(|e| {
                    let ready = e.conditions.as_ref().unwrap().ready.unwrap();
                    format!("{}={ready}", e.addresses[0])
                });
                let members = members.collect::<Vec<_>>().join(" ");
                let port = slice.ports.as_ref().unwrap()[0].port.unwrap();
                format!("{} {port}: {members}", slice.address_type)
            })
            .collect();
        assert_eq!(
            shown,
            [
                "IPv4 5432: 10.1.2.3=false 10.1.2.4=true",
                "IPv6 5432: fd00::1=true",
                "IPv4 80: 10.9.9.9=true",
            ]
        );
        let meta = &slices[0].metadata;
        assert_eq!(meta.annotations.as_ref().unwrap().len(), 1);
        assert_eq!(meta.labels.as_ref().unwrap()[SERVICE_LABEL], "db");
    }

    #[test]
    fn leases_of_old_and_what_opts_out_are_not_mirrored() {
        for meta in [
            json!({"labels": {SKIP: "true"}}),
            json!({"annotations": {LEADER: "{}"}}),
        ] {
            let endpoints: Endpoints = serde_json::from_value(json!({"metadata": meta})).unwrap();
            assert!(!mirrored(&endpoints));
        }
    }
}
