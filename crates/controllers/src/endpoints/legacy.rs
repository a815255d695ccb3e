//! Endpoints (core/v1), the older form that many clients still read.

use super::{Backend, Port};
use crate::context::{Context, answered};
use client::Key;
use client::events::reference;
use k8s_openapi::api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Service};
use kube::api::{Api, DeleteParams, ObjectMeta, PostParams};
use std::collections::{BTreeMap, BTreeSet};

const HEADLESS: &str = "service.kubernetes.io/headless";
const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const MANAGER: &str = "endpoint-controller";
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
/// Addresses in one Endpoints object; clients that need more read slices (upstream's limit).
const MOST_ADDRESSES: usize = 1000;

/// Writes the Endpoints of a Service.
pub async fn write(context: &Context, service: &Service, backends: &[Backend]) -> kube::Result<()> {
    let namespace = service.metadata.namespace.as_deref().unwrap_or_default();
    let name = service.metadata.name.as_deref().unwrap_or_default();
    let api: Api<Endpoints> = context.api(namespace);
    let wanted = desired(service, backends);
    let Some(known) = context.endpoints.get(namespace, name) else {
        return match context.create(&api, &context.endpoints, &wanted).await {
            Err(error) if answered(&error, 403) => {
                tracing::debug!(%namespace, name, "no Endpoints: the namespace is being deleted");
                Ok(())
            }
            other => other.map(drop),
        };
    };
    if known.subsets == wanted.subsets && known.metadata.labels == wanted.metadata.labels {
        return Ok(());
    }
    let mut changed = (*known).clone();
    changed.subsets = wanted.subsets;
    changed.metadata.labels = wanted.metadata.labels;
    changed.metadata.annotations = wanted.metadata.annotations;
    let written = api.replace(name, &PostParams::default(), &changed).await?;
    context.endpoints.observe(written);
    Ok(())
}

/// Removes the Endpoints of a Service that is gone, unless somebody else made them (as leader election did).
pub async fn remove(context: &Context, key: &Key) -> kube::Result<()> {
    let Some(known) = context.endpoints.by_key(key) else {
        return Ok(());
    };
    let ours = known
        .metadata
        .labels
        .as_ref()
        .and_then(|l| l.get(MANAGED_BY))
        .is_some_and(|m| m == MANAGER);
    if !ours {
        return Ok(());
    }
    let api: Api<Endpoints> = context.api(&key.namespace);
    context
        .delete(&api, &context.endpoints, &*known, &DeleteParams::default())
        .await
}

fn desired(service: &Service, backends: &[Backend]) -> Endpoints {
    // Only the Service's first family: the older form cannot tell families apart.
    let families = service
        .spec
        .as_ref()
        .and_then(|spec| spec.ip_families.clone())
        .unwrap_or_default();
    let v6 = families.first().is_some_and(|family| family == "IPv6");
    let anyway = service.spec.as_ref().and_then(|s| s.publish_not_ready_addresses) == Some(true);
    let mut members: Vec<&Backend> = backends
        .iter()
        .filter(|b| b.v6 == v6 && (anyway || !b.terminating))
        .collect();
    members.sort_by_key(|backend| (!backend.ready, backend.ip.clone()));
    let over = members.len() > MOST_ADDRESSES;
    members.truncate(MOST_ADDRESSES);
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.insert(MANAGED_BY.into(), MANAGER.into());
    if service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref()) == Some("None") {
        labels.insert(HEADLESS.into(), String::new());
    }
    let note = over.then(|| BTreeMap::from([(OVER_CAPACITY.to_owned(), "truncated".to_owned())]));
    Endpoints {
        metadata: ObjectMeta {
            name: service.metadata.name.clone(),
            namespace: service.metadata.namespace.clone(),
            labels: Some(labels),
            annotations: note,
            ..ObjectMeta::default()
        },
        subsets: subsets(&members),
    }
}

/// Addresses grouped by ports, as the canonical form asks: each set of addresses once, with all its ports.
fn subsets(members: &[&Backend]) -> Option<Vec<EndpointSubset>> {
    let mut by_ports: BTreeMap<Vec<Port>, (BTreeSet<usize>, BTreeSet<usize>)> = BTreeMap::new();
    for (index, backend) in members.iter().enumerate() {
        let (ready, not_ready) = by_ports.entry(backend.ports.clone()).or_default();
        if backend.ready {
            ready.insert(index)
        } else {
            not_ready.insert(index)
        };
    }
    let addresses = |indices: &BTreeSet<usize>| {
        let mut list: Vec<EndpointAddress> = indices.iter().map(|i| address(members[*i])).collect();
        list.sort_by(|a, b| a.ip.cmp(&b.ip));
        (!list.is_empty()).then_some(list)
    };
    let subsets: Vec<EndpointSubset> = by_ports
        .iter()
        .map(|(ports, (ready, not_ready))| EndpointSubset {
            addresses: addresses(ready),
            not_ready_addresses: addresses(not_ready),
            ports: (!ports.is_empty()).then(|| ports.iter().map(port).collect()),
        })
        .collect();
    (!subsets.is_empty()).then_some(subsets)
}

fn address(backend: &Backend) -> EndpointAddress {
    let mut target = reference(&*backend.pod);
    target.api_version = None;
    target.resource_version = None;
    EndpointAddress {
        ip: backend.ip.clone(),
        hostname: backend.hostname.clone(),
        node_name: backend.pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
        target_ref: Some(target),
    }
}

fn port(port: &Port) -> EndpointPort {
    EndpointPort {
        name: Some(port.name.clone()).filter(|name| !name.is_empty()),
        port: port.number,
        protocol: Some(port.protocol.clone()),
        app_protocol: port.app_protocol.clone(),
    }
}
