//! EndpointSlices (discovery.k8s.io/v1): the endpoints of a Service in pieces of a hundred.

use super::{Backend, Port};
use crate::context::Context;
use crate::ownership::controller_reference;
use client::events::reference;
use client::pods::controller_of;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, DeleteParams, PostParams};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The Service a slice belongs to.
pub const SERVICE_LABEL: &str = "kubernetes.io/service-name";
/// Who looks after a slice.
pub const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const MANAGER: &str = "endpointslice-controller.k8s.io";
const HEADLESS: &str = "service.kubernetes.io/headless";
/// Endpoints in one slice (upstream's default).
const ENDPOINTS_PER_SLICE: usize = 100;

/// Endpoints that can share slices: one address family, the same ports.
type Group = (bool, Vec<Port>);

/// Makes, changes and deletes the slices of a Service until they show `backends`.
pub async fn write(context: &Context, service: &Service, backends: &[Backend]) -> kube::Result<()> {
    let namespace = service.metadata.namespace.as_deref().unwrap_or_default();
    let known = existing(context, service);
    bring_to(context, namespace, known, desired(service, backends)).await
}

/// Who looks after this slice.
pub fn manager(slice: &EndpointSlice) -> Option<&str> {
    let labels = slice.metadata.labels.as_ref()?;
    labels.get(MANAGED_BY).map(String::as_str)
}

/// Makes, changes and deletes slices until there are the desired ones instead of the known ones.
pub async fn bring_to(
    context: &Context,
    namespace: &str,
    known: Vec<Arc<EndpointSlice>>,
    desired: Vec<EndpointSlice>,
) -> kube::Result<()> {
    let api: Api<EndpointSlice> = context.api(namespace);
    let mut unused = known;
    let mut missing = Vec::new();
    for wanted in desired {
        match take_match(&mut unused, &wanted) {
            Some(slice) if same(&slice, &wanted) => {}
            Some(slice) => {
                let mut changed = wanted;
                changed.metadata.name.clone_from(&slice.metadata.name);
                changed
                    .metadata
                    .generate_name
                    .clone_from(&slice.metadata.generate_name);
                changed
                    .metadata
                    .resource_version
                    .clone_from(&slice.metadata.resource_version);
                let name = slice.metadata.name.as_deref().unwrap_or_default();
                let written = api.replace(name, &PostParams::default(), &changed).await?;
                context.slices.observe(written);
            }
            None => missing.push(wanted),
        }
    }
    for wanted in missing {
        context.create(&api, &context.slices, &wanted).await?;
    }
    for slice in unused {
        context
            .delete(&api, &context.slices, &*slice, &DeleteParams::default())
            .await?;
    }
    Ok(())
}

fn existing(context: &Context, service: &Service) -> Vec<Arc<EndpointSlice>> {
    let namespace = service.metadata.namespace.as_deref().unwrap_or_default();
    let name = service.metadata.name.as_ref();
    context.slices.select_in(namespace, |slice| {
        let label = |key: &str| slice.metadata.labels.as_ref().and_then(|labels| labels.get(key));
        label(SERVICE_LABEL) == name
            && label(MANAGED_BY).is_some_and(|manager| manager == MANAGER)
            && slice.metadata.deletion_timestamp.is_none()
            && controller_of(&slice.metadata)
                .is_none_or(|owner| Some(&owner.uid) == service.metadata.uid.as_ref())
    })
}

/// The slice to reuse: of the same family and ports, and with most addresses in common, so that few change.
fn take_match(unused: &mut Vec<Arc<EndpointSlice>>, wanted: &EndpointSlice) -> Option<Arc<EndpointSlice>> {
    let common = |slice: &EndpointSlice| {
        let has = |endpoint: &&Endpoint| {
            let same = |other: &Endpoint| other.addresses == endpoint.addresses;
            wanted.endpoints.iter().flatten().any(same)
        };
        slice.endpoints.iter().flatten().filter(has).count()
    };
    let candidates = unused
        .iter()
        .enumerate()
        .filter(|(_, slice)| slice.address_type == wanted.address_type);
    let best = candidates.max_by_key(|(_, slice)| (slice.ports == wanted.ports, common(slice)));
    let index = best.map(|(index, _)| index)?;
    Some(unused.swap_remove(index))
}

fn same(a: &EndpointSlice, b: &EndpointSlice) -> bool {
    let empty = Vec::new();
    a.ports == b.ports
        && a.endpoints.as_ref().unwrap_or(&empty) == b.endpoints.as_ref().unwrap_or(&empty)
        && a.metadata.labels == b.metadata.labels
        && a.metadata.annotations.clone().unwrap_or_default()
            == b.metadata.annotations.clone().unwrap_or_default()
}

/// The slices that a Service should have. Without any endpoint there is still one empty slice for each family.
fn desired(service: &Service, backends: &[Backend]) -> Vec<EndpointSlice> {
    let mut groups: BTreeMap<Group, Vec<&Backend>> = BTreeMap::new();
    for backend in backends {
        groups
            .entry((backend.v6, backend.ports.clone()))
            .or_default()
            .push(backend);
    }
    let spec = service.spec.clone().unwrap_or_default();
    let families = spec.ip_families.unwrap_or_else(|| vec!["IPv4".into()]);
    for family in families {
        let v6 = family == "IPv6";
        if !groups.keys().any(|(other, _)| *other == v6) {
            groups.insert((v6, Vec::new()), Vec::new());
        }
    }
    let mut slices = Vec::new();
    for ((v6, ports), members) in groups {
        let mut endpoints: Vec<Endpoint> = members.iter().map(|backend| endpoint(backend)).collect();
        endpoints.sort_by(|a, b| a.addresses.cmp(&b.addresses));
        if endpoints.is_empty() {
            slices.push(slice(service, v6, &ports, Vec::new()));
        }
        for part in endpoints.chunks(ENDPOINTS_PER_SLICE) {
            slices.push(slice(service, v6, &ports, part.to_vec()));
        }
    }
    slices
}

fn endpoint(backend: &Backend) -> Endpoint {
    let mut target = reference(&*backend.pod);
    target.api_version = None;
    target.resource_version = None;
    Endpoint {
        addresses: vec![backend.ip.clone()],
        conditions: Some(EndpointConditions {
            ready: Some(backend.ready),
            serving: Some(backend.serving),
            terminating: Some(backend.terminating),
        }),
        hostname: backend.hostname.clone(),
        node_name: backend.pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
        target_ref: Some(target),
        zone: backend.zone.clone(),
        ..Endpoint::default()
    }
}

fn slice(service: &Service, v6: bool, ports: &[Port], endpoints: Vec<Endpoint>) -> EndpointSlice {
    let name = service.metadata.name.clone().unwrap_or_default();
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.insert(SERVICE_LABEL.into(), name.clone());
    labels.insert(MANAGED_BY.into(), MANAGER.into());
    if service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref()) == Some("None") {
        labels.insert(HEADLESS.into(), String::new());
    }
    let ports: Vec<EndpointPort> = ports
        .iter()
        .map(|port| EndpointPort {
            name: Some(port.name.clone()),
            protocol: Some(port.protocol.clone()),
            port: Some(port.number),
            app_protocol: port.app_protocol.clone(),
        })
        .collect();
    EndpointSlice {
        metadata: ObjectMeta {
            generate_name: Some(format!("{name}-")),
            namespace: service.metadata.namespace.clone(),
            labels: Some(labels),
            owner_references: Some(vec![controller_reference(service)]),
            ..ObjectMeta::default()
        },
        address_type: if v6 { "IPv6".into() } else { "IPv4".into() },
        endpoints: (!endpoints.is_empty()).then_some(endpoints),
        ports: (!ports.is_empty()).then_some(ports),
    }
}
