//! Endpoints and EndpointSlices of Services: which pods answer for them, decided once for both.

mod legacy;
pub mod mirror;
mod slices;

use crate::context::{Context, settle};
use client::pods;
use client::{Change, Key, Outcome, Queue, select};
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use std::sync::Arc;

/// Services worked on at once.
const CONCURRENCY: usize = 5;
const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

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
            .services
            .on_change(move |change| keys.add(Key::of(&**change.object())));
        let (keys, weak) = (queue.clone(), Arc::downgrade(context));
        context.pods.on_change(move |change| {
            if let Some(context) = weak.upgrade() {
                pod_changed(&context, &keys, change);
            }
        });
        // What somebody else changes or deletes is put right again.
        let keys = queue.clone();
        context.slices.on_change(move |change| {
            let slice = change.object();
            let labels = slice.metadata.labels.as_ref();
            if let Some(service) = labels.and_then(|labels| labels.get(slices::SERVICE_LABEL)) {
                keys.add(Key::new(
                    slice.metadata.namespace.clone().unwrap_or_default(),
                    service,
                ));
            }
        });
        let keys = queue.clone();
        context
            .endpoints
            .on_change(move |change| keys.add(Key::of(&**change.object())));
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
                settle("endpoints", &key, result)
            })
            .await;
    }
}

fn pod_changed(context: &Context, keys: &Queue<Key>, change: &Change<'_, Pod>) {
    if let Change::Updated(old, new) = change
        && old.metadata.labels == new.metadata.labels
        && state_of(old) == state_of(new)
    {
        return;
    }
    for pod in [change.old(), change.current()].into_iter().flatten() {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        for service in context.services.list_in(namespace) {
            let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
            if select::map_matches(selector, pod.metadata.labels.as_ref()) {
                keys.add(Key::of(&*service));
            }
        }
    }
}

/// What of a pod shows in endpoints.
#[derive(PartialEq)]
struct State<'a> {
    ips: Vec<&'a str>,
    node: &'a str,
    ready: bool,
    terminating: bool,
    terminal: bool,
}

fn state_of(pod: &Pod) -> State<'_> {
    State {
        ips: ips(pod),
        node: pods::node_name(pod),
        ready: pods::is_ready(pod),
        terminating: pods::is_terminating(pod),
        terminal: pods::is_terminal(pod),
    }
}

fn ips(pod: &Pod) -> Vec<&str> {
    let Some(status) = &pod.status else {
        return Vec::new();
    };
    let all: Vec<&str> = status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str()).collect();
    if all.is_empty() {
        status.pod_ip.as_deref().into_iter().collect()
    } else {
        all
    }
}

/// A port of a Service on one pod.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Port {
    name: String,
    protocol: String,
    number: i32,
    app_protocol: Option<String>,
}

/// One pod as an endpoint.
#[derive(Clone, Debug)]
pub(crate) struct Backend {
    pod: Arc<Pod>,
    ip: String,
    v6: bool,
    /// May traffic be sent there?
    ready: bool,
    /// Does it answer, though it may be on its way out?
    serving: bool,
    terminating: bool,
    zone: Option<String>,
    hostname: Option<String>,
    ports: Vec<Port>,
}

async fn reconcile(context: &Context, key: &Key) -> kube::Result<Outcome> {
    let Some(service) = context.services.by_key(key) else {
        // The garbage collector takes the slices; Endpoints have no owner.
        legacy::remove(context, key).await?;
        return Ok(Outcome::Done);
    };
    let spec = service.spec.clone().unwrap_or_default();
    let external = spec.type_.as_deref() == Some("ExternalName");
    let selected = spec
        .selector
        .as_ref()
        .is_some_and(|selector| !selector.is_empty());
    if external || !selected || service.metadata.deletion_timestamp.is_some() {
        return Ok(Outcome::Done);
    }
    let backends = backends(context, &service);
    slices::write(context, &service, &backends).await?;
    legacy::write(context, &service, &backends).await?;
    Ok(Outcome::Done)
}

/// All pods that answer for a Service, one entry for each of their addresses of a family that it has.
fn backends(context: &Context, service: &Service) -> Vec<Backend> {
    let spec = service.spec.clone().unwrap_or_default();
    let namespace = service.metadata.namespace.as_deref().unwrap_or_default();
    let anyway = spec.publish_not_ready_addresses == Some(true);
    let families = spec.ip_families.unwrap_or_default();
    let mut backends = Vec::new();
    let selected = |pod: &Pod| {
        select::map_matches(spec.selector.as_ref(), pod.metadata.labels.as_ref()) && !pods::is_terminal(pod)
    };
    for pod in context.pods.select_in(namespace, selected) {
        let node = context.nodes.get("", pods::node_name(&pod));
        let zone = node.and_then(|node| node.metadata.labels.as_ref()?.get(ZONE_LABEL).cloned());
        let pod_spec = pod.spec.clone().unwrap_or_default();
        let named = pod_spec.subdomain.is_some() && pod_spec.subdomain == service.metadata.name;
        let (answers, leaving) = (pods::is_ready(&pod), pods::is_terminating(&pod));
        for ip in ips(&pod) {
            let v6 = ip.contains(':');
            let family = if v6 { "IPv6" } else { "IPv4" };
            if !families.is_empty() && !families.iter().any(|f| f == family) {
                continue;
            }
            backends.push(Backend {
                ip: ip.to_owned(),
                v6,
                ready: anyway || (answers && !leaving),
                serving: answers,
                terminating: leaving,
                zone: zone.clone(),
                hostname: pod_spec.hostname.clone().filter(|_| named),
                ports: ports(service, &pod),
                pod: pod.clone(),
            });
        }
    }
    backends
}

/// The Service's ports as numbers on this pod; a named port that the pod lacks is left out.
fn ports(service: &Service, pod: &Pod) -> Vec<Port> {
    let ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
    let mut resolved: Vec<Port> = ports
        .filter_map(|port| {
            let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".into());
            let number = match &port.target_port {
                None => port.port,
                Some(IntOrString::Int(0)) => port.port,
                Some(IntOrString::Int(number)) => *number,
                Some(IntOrString::String(name)) if name.is_empty() => port.port,
                Some(IntOrString::String(name)) => named_port(pod, name, &protocol)?,
            };
            Some(Port {
                name: port.name.clone().unwrap_or_default(),
                protocol,
                number,
                app_protocol: port.app_protocol.clone(),
            })
        })
        .collect();
    resolved.sort();
    resolved
}

fn named_port(pod: &Pod, name: &str, protocol: &str) -> Option<i32> {
    let spec = pod.spec.as_ref()?;
    let sidecars = spec
        .init_containers
        .iter()
        .flatten()
        .filter(|c| c.restart_policy.as_deref() == Some("Always"));
    let ports = spec
        .containers
        .iter()
        .chain(sidecars)
        .flat_map(|container| container.ports.iter().flatten());
    let mut found = ports.filter(|port| {
        port.name.as_deref() == Some(name) && port.protocol.as_deref().unwrap_or("TCP") == protocol
    });
    found.next().map(|port| port.container_port)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn named_ports_are_found_on_each_pod() {
        let service: Service = serde_json::from_value(json!({
            "metadata": {"name": "s"},
            "spec": {"ports": [
                {"name": "web", "port": 80, "targetPort": "http"},
                {"name": "other", "port": 81, "targetPort": "missing"},
                {"name": "plain", "port": 82},
                {"name": "number", "port": 83, "targetPort": 8083}
            ]}
        }))
        .unwrap();
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p"},
            "spec": {"containers": [{"name": "c", "ports": [{"name": "http", "containerPort": 8080}]}]}
        }))
        .unwrap();
        let found: Vec<(String, i32)> = ports(&service, &pod)
            .into_iter()
            .map(|p| (p.name, p.number))
            .collect();
        assert_eq!(
            found,
            [
                ("number".into(), 8083),
                ("plain".into(), 82),
                ("web".into(), 8080)
            ]
        );
    }
}
