//! Cluster IPs and node ports of Services.
//!
//! Every address that is taken is an `IPAddress` object, whose creation fails for all but one server; node ports
//! are bits of one object that is written by compare and swap. So any number of servers allocates safely.

pub mod endpoints;
mod families;
mod ips;
pub mod network;
mod ports;
pub mod repair;

use crate::call::Call;
use crate::http::status::Status;
use crate::server::Server;
use schema::{Cause, Reason, Resource};
use serde_json::{Value, json};
use std::net::Ipv4Addr;
use std::sync::Arc;

/// What was allocated for a request, or is free after it.
#[derive(Debug, Default)]
#[must_use = "what is not released stays taken"]
pub struct Allocated {
    ips: Vec<Ipv4Addr>,
    ports: Vec<u16>,
}

impl Allocated {
    /// Gives everything back. A failure is logged: the next repair finds it.
    pub async fn release(self, call: &Call) {
        self.release_at(&call.server).await;
    }

    async fn release_at(self, server: &Arc<Server>) {
        for ip in self.ips {
            if let Err(error) = ips::release(server, ip).await {
                tracing::info!(%error, %ip, "cluster IP not released yet");
            }
        }
        if !self.ports.is_empty()
            && let Err(error) = ports::release(server, &self.ports).await
        {
            tracing::info!(%error, ports = ?self.ports, "node ports not released yet");
        }
    }
}

fn is_service(resource: &Resource) -> bool {
    resource.is("", "services")
}

fn kind(service: &Value) -> &str {
    service["spec"]["type"].as_str().unwrap_or("ClusterIP")
}

/// The cluster IP of a Service that has one.
fn cluster_ip(service: &Value) -> Option<Ipv4Addr> {
    service["spec"]["clusterIP"].as_str()?.parse().ok()
}

/// The node ports of a Service.
fn node_ports(service: &Value) -> Vec<u16> {
    let ports = service["spec"]["ports"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    let health = &service["spec"]["healthCheckNodePort"];
    let numbers = ports.iter().map(|p| &p["nodePort"]).chain([health]);
    let mut found: Vec<u16> = numbers
        .filter_map(Value::as_u64)
        .filter_map(|n| u16::try_from(n).ok())
        .filter(|n| *n > 0)
        .collect();
    found.sort_unstable();
    found.dedup();
    found
}

/// Before an update is checked: what was allocated stays, and goes when the type has no use for it any more.
pub fn prepare_update(resource: &Resource, old: &Value, new: &mut Value) {
    if is_service(resource) {
        families::inherit(old, new);
    }
}

/// Completes a Service with addresses and ports. Nothing is taken in a dry run.
pub async fn allocate(
    call: &Call,
    resource: &Resource,
    old: Option<&Value>,
    new: &mut Value,
    dry_run: bool,
) -> Result<Allocated, Status> {
    let mut allocated = Allocated::default();
    if !is_service(resource) || !call.info.subresource.is_empty() {
        return Ok(allocated);
    }
    families::check_immutable(resource, old, new)?;
    let result = fill(&call.server, resource, old, new, dry_run, &mut allocated).await;
    if let Err(status) = result {
        allocated.release(call).await;
        return Err(status);
    }
    Ok(allocated)
}

async fn fill(
    server: &Arc<Server>,
    resource: &Resource,
    old: Option<&Value>,
    new: &mut Value,
    dry_run: bool,
    allocated: &mut Allocated,
) -> Result<(), Status> {
    let name = new["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let namespace = new["metadata"]["namespace"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    if kind(new) == "ExternalName" {
        families::clear(new);
        return Ok(());
    }
    let wanted = new["spec"]["clusterIP"].as_str().unwrap_or_default().to_owned();
    let held = old.filter(|old| kind(old) != "ExternalName").and_then(cluster_ip);
    if wanted.is_empty() {
        let ip = if dry_run {
            server.services.first()
        } else {
            let ip = ips::any(server, &namespace, &name).await?;
            allocated.ips.push(ip);
            ip
        };
        new["spec"]["clusterIP"] = ip.to_string().into();
    } else if wanted != "None" {
        let ip: Ipv4Addr = wanted
            .parse()
            .map_err(|_| invalid_ip(resource, &name, &wanted, "must be a valid IPv4 address"))?;
        if held != Some(ip) {
            if !server.services.contains(ip) {
                let range = format!("failed to allocate IP {ip}: the provided IP is not in the valid range");
                return Err(invalid_ip(resource, &name, &wanted, &range));
            }
            if !dry_run {
                if !ips::take(server, ip, &namespace, &name).await? {
                    let taken = format!("failed to allocate IP {ip}: provided IP is already allocated");
                    return Err(invalid_ip(resource, &name, &wanted, &taken));
                }
                allocated.ips.push(ip);
            }
        }
    }
    families::complete(new);
    let held = old.map(node_ports).unwrap_or_default();
    if dry_run {
        return Ok(());
    }
    ports::fill(server, resource, &name, &held, new, &mut allocated.ports).await
}

fn invalid_ip(resource: &Resource, name: &str, value: &str, why: &str) -> Status {
    let message = format!("Invalid value: {}: {why}", json!([value]));
    let cause = Cause {
        reason: Reason::Invalid,
        field: "spec.clusterIPs".into(),
        message,
    };
    Status::invalid(resource, name, vec![cause])
}

/// What a Service does not need any more after an update.
pub fn freed_by_update(resource: &Resource, old: &Value, new: &Value) -> Allocated {
    if !is_service(resource) {
        return Allocated::default();
    }
    let kept = node_ports(new);
    Allocated {
        ips: cluster_ip(old)
            .filter(|ip| cluster_ip(new) != Some(*ip))
            .into_iter()
            .collect(),
        ports: node_ports(old)
            .into_iter()
            .filter(|p| !kept.contains(p))
            .collect(),
    }
}

/// What a deleted Service held.
pub fn freed_by_delete(resource: &Resource, old: &Value) -> Allocated {
    if !is_service(resource) {
        return Allocated::default();
    }
    Allocated {
        ips: cluster_ip(old).into_iter().collect(),
        ports: node_ports(old),
    }
}
