//! Node ports as bits of one object, in upstream's form: a big-endian number whose bit i is the i-th port.

use super::kind;
use crate::http::status::Status;
use crate::server::Server;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use rand::Rng;
use schema::{Cause, Reason, Resource};
use serde_json::{Value, json};
use state::Written;
use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::sync::Arc;

const KEY: &str = "/registry/ranges/servicenodeports";
/// Attempts to write the object against other servers.
const ATTEMPTS: usize = 16;

/// Gives node ports to a Service that has none yet. `held` are its present ones.
pub async fn fill(
    server: &Arc<Server>,
    resource: &Resource,
    name: &str,
    held: &[u16],
    service: &mut Value,
    allocated: &mut Vec<u16>,
) -> Result<(), Status> {
    let balanced = kind(service) == "LoadBalancer";
    if !balanced && kind(service) != "NodePort" {
        return Ok(());
    }
    let on_request = balanced && service["spec"]["allocateLoadBalancerNodePorts"] == false;
    let mut fixed: Vec<(usize, u16)> = Vec::new();
    let mut open: Vec<usize> = Vec::new();
    for (index, port) in ports(service).iter().enumerate() {
        match port["nodePort"]
            .as_u64()
            .and_then(|n| u16::try_from(n).ok())
            .unwrap_or(0)
        {
            0 if on_request => {}
            0 => open.push(index),
            number => fixed.push((index, number)),
        }
    }
    let local = balanced && service["spec"]["externalTrafficPolicy"] == "Local";
    let health = local && service["spec"]["healthCheckNodePort"].as_u64().unwrap_or(0) == 0;
    let new_fixed: Vec<(usize, u16)> = fixed.iter().copied().filter(|(_, n)| !held.contains(n)).collect();
    if new_fixed.is_empty() && open.is_empty() && !health {
        return Ok(());
    }
    let wanted = open.len() + usize::from(health);
    let range = server.services.ports.clone();
    let mut chosen: Vec<u16> = Vec::new();
    change(server, |taken| {
        chosen.clear();
        let mut own = BTreeSet::new();
        for (index, number) in &new_fixed {
            let cause = |message: String| {
                let field = format!("spec.ports[{index}].nodePort");
                Status::invalid(resource, name, vec![Cause { reason: Reason::Invalid, field, message }])
            };
            if !range.contains(number) {
                let (first, last) = (range.start(), range.end());
                return Err(cause(format!(
                    "Invalid value: {number}: provided port is not in the valid range. The range of valid ports is \
                     {first}-{last}"
                )));
            }
            // Two ports of one Service may share a number when their protocols differ.
            if !taken.insert(*number) && !own.contains(number) {
                return Err(cause(format!("Invalid value: {number}: provided port is already allocated")));
            }
            own.insert(*number);
        }
        for _ in 0..wanted {
            let number = free(&range, taken)
                .ok_or_else(|| Status::internal("failed to allocate a nodePort: range is full"))?;
            taken.insert(number);
            chosen.push(number);
        }
        Ok(())
    })
    .await?;
    allocated.extend(new_fixed.iter().map(|(_, n)| *n).chain(chosen.iter().copied()));
    let mut chosen = chosen.into_iter();
    for index in open {
        if let Some(number) = chosen.next() {
            service["spec"]["ports"][index]["nodePort"] = number.into();
        }
    }
    if let Some(number) = chosen.next() {
        service["spec"]["healthCheckNodePort"] = number.into();
    }
    Ok(())
}

fn ports(service: &Value) -> &[Value] {
    service["spec"]["ports"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default()
}

fn free(range: &RangeInclusive<u16>, taken: &BTreeSet<u16>) -> Option<u16> {
    let start = rand::rng().random_range(range.clone());
    (start..=*range.end())
        .chain(*range.start()..start)
        .find(|n| !taken.contains(n))
}

/// Gives ports back.
pub async fn release(server: &Arc<Server>, ports: &[u16]) -> Result<(), Status> {
    change(server, |taken| {
        for port in ports {
            taken.remove(port);
        }
        Ok(())
    })
    .await
}

/// Marks ports that a Service has; does nothing if they are marked.
pub async fn mark(server: &Arc<Server>, ports: &[u16]) -> Result<(), Status> {
    if ports.is_empty() {
        return Ok(());
    }
    let taken = taken(server).await?;
    if ports.iter().all(|port| taken.contains(port)) {
        return Ok(());
    }
    change(server, |taken| {
        taken.extend(ports);
        Ok(())
    })
    .await
}

/// The ports that are marked as taken.
pub async fn taken(server: &Arc<Server>) -> Result<BTreeSet<u16>, Status> {
    let record = server.store.backend().get(KEY).await?.0;
    let taken = record.and_then(|record| decode(&record.value, &server.services.ports));
    Ok(taken.unwrap_or_else(|| in_use(server)))
}

/// Changes the set of taken ports, against other servers.
async fn change(
    server: &Arc<Server>,
    mut apply: impl FnMut(&mut BTreeSet<u16>) -> Result<(), Status>,
) -> Result<(), Status> {
    let backend = server.store.backend();
    let range = &server.services.ports;
    let mut current = backend.get(KEY).await?.0;
    for _ in 0..ATTEMPTS {
        let mut taken = match current.as_ref().and_then(|record| decode(&record.value, range)) {
            Some(taken) => taken,
            // Missing, or of another range or server: the Services themselves know.
            None => in_use(server),
        };
        apply(&mut taken)?;
        let value = encode(&taken, range);
        let written = match &current {
            Some(record) => backend.update(KEY, value, record.revision, None).await?,
            None => backend.create(KEY, value, None).await?,
        };
        match written {
            Written::Done(revision) => {
                server.store.expect(revision);
                return Ok(());
            }
            Written::Conflict(record) => current = record,
        }
    }
    Err(Status::internal("the node port range keeps changing"))
}

fn in_use(server: &Server) -> BTreeSet<u16> {
    let services = server.store.cached_list("", "services", "");
    services
        .iter()
        .flat_map(|service| super::node_ports(&service.value()))
        .collect()
}

fn range_text(range: &RangeInclusive<u16>) -> String {
    format!("{}-{}", range.start(), range.end())
}

fn decode(stored: &[u8], range: &RangeInclusive<u16>) -> Option<BTreeSet<u16>> {
    let value: Value = serde_json::from_slice(stored).ok()?;
    if value["range"] != range_text(range) {
        return None;
    }
    let bits = BASE64.decode(value["data"].as_str().unwrap_or_default()).ok()?;
    let size = bits.len() * 8;
    let is_set = |i: &usize| bits[bits.len() - 1 - i / 8] >> (i % 8) & 1 == 1;
    let set = (0..size)
        .filter(is_set)
        .filter_map(|i| range.start().checked_add(u16::try_from(i).ok()?));
    Some(set.collect())
}

fn encode(taken: &BTreeSet<u16>, range: &RangeInclusive<u16>) -> bytes::Bytes {
    let offsets = || {
        taken
            .iter()
            .filter(|n| range.contains(n))
            .map(|n| usize::from(n - range.start()))
    };
    let length = offsets().max().map_or(0, |highest| highest / 8 + 1);
    let mut bits = vec![0u8; length];
    for offset in offsets() {
        bits[length - 1 - offset / 8] |= 1 << (offset % 8);
    }
    let value = json!({
        "kind": "RangeAllocation", "apiVersion": "v1", "metadata": {"creationTimestamp": null},
        "range": range_text(range), "data": BASE64.encode(bits),
    });
    crate::store::object::to_bytes(&value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_round_trip() {
        let range = 30000..=32767;
        let taken: BTreeSet<u16> = [30000, 30001, 30009, 32767].into();
        assert_eq!(decode(&encode(&taken, &range), &range).unwrap(), taken);
        assert!(decode(&encode(&taken, &range), &(1..=2)).is_none());
        let one = encode(&[30001].into(), &range);
        let value: Value = serde_json::from_slice(&one).unwrap();
        assert_eq!(value["data"], BASE64.encode([2]));
    }
}
