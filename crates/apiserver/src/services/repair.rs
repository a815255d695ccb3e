//! Addresses and ports that belong to no Service: left by a server that died between taking them and storing the
//! Service, or that could not give them back. Services that lack theirs get them.

use super::{cluster_ip, ips, node_ports, ports};
use crate::http::status::Status;
use crate::json::items;
use crate::server::Server;
use crate::store::Freshness;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

/// What is without a Service for so long is leaked: no request takes that long to store its Service.
const GRACE: Duration = Duration::from_secs(60);
/// Time between repairs. Leaks are rare, and the ranges are large.
const INTERVAL: Duration = Duration::from_secs(600);

/// What belongs to nobody.
#[derive(Debug, Default, PartialEq, Eq)]
struct Leaked {
    ips: BTreeSet<Ipv4Addr>,
    ports: BTreeSet<u16>,
}

/// Repairs at the start of the server and now and then, as long as it runs.
pub async fn run(server: Arc<Server>) {
    loop {
        tokio::select! {
            done = repair(&server) => if let Err(error) = done {
                tracing::info!(%error, "addresses and ports of Services not repaired; again later");
            },
            () = server.shutdown.cancelled() => return,
        }
        tokio::select! {
            () = tokio::time::sleep(INTERVAL) => {}
            () = server.shutdown.cancelled() => return,
        }
    }
}

async fn repair(server: &Arc<Server>) -> Result<(), Status> {
    let (addresses, services) = current(server).await?;
    for service in &services {
        restore(server, &addresses, service).await?;
    }
    let before = leaked(&addresses, &services, &ports::taken(server).await?);
    if before == Leaked::default() {
        return Ok(());
    }
    tokio::time::sleep(GRACE).await;
    let (addresses, services) = current(server).await?;
    let now = leaked(&addresses, &services, &ports::taken(server).await?);
    for ip in now.ips.intersection(&before.ips) {
        tracing::info!(%ip, "cluster IP without a Service released");
        ips::release(server, *ip).await?;
    }
    let left: Vec<u16> = now.ports.intersection(&before.ports).copied().collect();
    if !left.is_empty() {
        tracing::info!(ports = ?left, "node ports without a Service released");
        ports::release(server, &left).await?;
    }
    Ok(())
}

/// The addresses that are taken, and the Services, as they are now.
async fn current(server: &Arc<Server>) -> Result<(Vec<Value>, Vec<Value>), Status> {
    server.store.fresh(Freshness::Newest).await?;
    let list = |group: &str, plural: &str| -> Vec<Value> {
        let objects = server.store.cached_list(group, plural, "");
        objects.iter().map(|object| object.value()).collect()
    };
    Ok((list("networking.k8s.io", "ipaddresses"), list("", "services")))
}

/// A Service whose address or ports are not marked as taken would share them with the next one.
async fn restore(server: &Arc<Server>, addresses: &[Value], service: &Value) -> Result<(), Status> {
    let text = |field: &str| service["metadata"][field].as_str().unwrap_or_default();
    if let Some(ip) = cluster_ip(service) {
        let name = ip.to_string();
        if !addresses.iter().any(|a| a["metadata"]["name"] == name.as_str()) {
            // Taken meanwhile means that it is marked.
            ips::take(server, ip, text("namespace"), text("name")).await?;
        }
    }
    ports::mark(server, &node_ports(service)).await
}

fn leaked(addresses: &[Value], services: &[Value], taken: &BTreeSet<u16>) -> Leaked {
    let mut owners: BTreeMap<(&str, &str), Vec<&str>> = BTreeMap::new();
    for service in services {
        let text = |field: &str| service["metadata"][field].as_str().unwrap_or_default();
        let ips = items(&service["spec"], "clusterIPs").iter();
        let ips = ips
            .chain([&service["spec"]["clusterIP"]])
            .filter_map(Value::as_str);
        owners.insert((text("namespace"), text("name")), ips.collect());
    }
    let is_leaked = |address: &&Value| {
        let parent = &address["spec"]["parentRef"];
        let text = |field: &str| parent[field].as_str().unwrap_or_default();
        let name = address["metadata"]["name"].as_str().unwrap_or_default();
        // Addresses that others allocate are not this server's to release.
        let own = address["metadata"]["labels"]["ipaddress.kubernetes.io/managed-by"] == "ipallocator.k8s.io";
        own && text("resource") == "services"
            && owners
                .get(&(text("namespace"), text("name")))
                .is_none_or(|ips| !ips.contains(&name))
    };
    let used: BTreeSet<u16> = services.iter().flat_map(node_ports).collect();
    Leaked {
        ips: addresses
            .iter()
            .filter(is_leaked)
            .filter_map(|a| a["metadata"]["name"].as_str()?.parse().ok())
            .collect(),
        ports: taken.difference(&used).copied().collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_has_no_service_is_leaked() {
        let address = |ip: &str, service: &str, manager: &str| {
            json!({"metadata": {"name": ip, "labels": {"ipaddress.kubernetes.io/managed-by": manager}},
                "spec": {"parentRef": {"resource": "services", "namespace": "t", "name": service}}})
        };
        let addresses = [
            address("10.96.0.2", "a", "ipallocator.k8s.io"),
            // The Service has another address by now.
            address("10.96.0.3", "a", "ipallocator.k8s.io"),
            address("10.96.0.4", "gone", "ipallocator.k8s.io"),
            address("10.96.0.5", "gone", "somebody"),
        ];
        let services = [json!({"metadata": {"name": "a", "namespace": "t"}, "spec": {
            "clusterIP": "10.96.0.2", "clusterIPs": ["10.96.0.2"], "ports": [{"nodePort": 30001}],
        }})];
        let found = leaked(&addresses, &services, &BTreeSet::from([30001, 30002]));
        let ips: Vec<String> = found.ips.iter().map(ToString::to_string).collect();
        assert_eq!(ips, ["10.96.0.3", "10.96.0.4"]);
        assert_eq!(found.ports, BTreeSet::from([30002]));
    }
}
