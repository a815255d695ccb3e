//! Addresses as `IPAddress` objects.

use crate::http::status::Status;
use crate::server::Server;
use crate::store::{Replaced, builtin, object};
use schema::Resource;
use serde_json::json;
use std::net::Ipv4Addr;
use std::sync::Arc;

/// Random tries before all addresses are walked through.
const RANDOM_TRIES: usize = 16;

fn resource() -> Result<&'static Resource, Status> {
    builtin("networking.k8s.io", "ipaddresses").ok_or_else(Status::no_such_path)
}

/// Takes an address for a Service; false if it is taken already.
pub async fn take(server: &Arc<Server>, ip: Ipv4Addr, namespace: &str, name: &str) -> Result<bool, Status> {
    let resource = resource()?;
    let key = object::key(resource, "", &ip.to_string());
    let value = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "IPAddress",
        "metadata": {
            "name": ip.to_string(),
            "uid": uuid::Uuid::new_v4().to_string(),
            "creationTimestamp": crate::time::now(),
            "labels": {
                "ipaddress.kubernetes.io/ip-family": "IPv4",
                "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io",
            },
        },
        "spec": {"parentRef": {"group": "", "resource": "services", "namespace": namespace, "name": name}},
    });
    Ok(server.store.create(resource, &key, value, None).await?.is_some())
}

/// Takes some address for a Service.
pub async fn any(server: &Arc<Server>, namespace: &str, name: &str) -> Result<Ipv4Addr, Status> {
    let resource = resource()?;
    let network = &server.services;
    let random = (0..RANDOM_TRIES).map(|_| network.random());
    for ip in random.chain(network.all()) {
        let known = server.store.cached(resource, "", &ip.to_string()).is_some();
        if !known && take(server, ip, namespace, name).await? {
            return Ok(ip);
        }
    }
    Err(Status::internal("failed to allocate a serviceIP: range is full"))
}

/// Gives an address back.
pub async fn release(server: &Arc<Server>, ip: Ipv4Addr) -> Result<(), Status> {
    let resource = resource()?;
    let key = object::key(resource, "", &ip.to_string());
    // Somebody who edits the object at the same time is rare, and the second attempt wins.
    for _ in 0..3 {
        let Some(object) = server.store.read(resource, &key).await? else {
            return Ok(());
        };
        if let Replaced::Done(_) = server.store.remove(&object).await? {
            return Ok(());
        }
    }
    Err(Status::internal("the address keeps changing"))
}
