//! The `kubernetes` Service and the addresses behind it: those of the API servers that live.
//!
//! Each server keeps a key with a lease; a server that is gone disappears with its lease.

use crate::http::status::Status;
use crate::server::Server;
use crate::store::{Freshness, Object, Replaced, builtin, object};
use schema::Resource;
use serde_json::{Value, json};
use state::{Range, Written};
use std::sync::Arc;
use std::time::Duration;

/// Where the servers note themselves; upstream's place.
const PREFIX: &str = "/registry/masterleases/";
/// A server that is gone is out of the endpoints after this time, and what another one needs to notice it.
const TTL: Duration = Duration::from_secs(10);
/// How often a server notes itself.
const INTERVAL: Duration = Duration::from_secs(4);
const PORT_NAME: &str = "https";

/// Notes this server and keeps the endpoints right, until it stops; then it takes itself out.
pub async fn run(server: Arc<Server>) {
    let key = format!("{PREFIX}{}", server.config.advertise_address);
    loop {
        if let Err(error) = round(&server, &key).await {
            tracing::debug!(%error, "endpoints of the API servers not written");
        }
        tokio::select! {
            () = tokio::time::sleep(INTERVAL) => {}
            () = server.shutdown.cancelled() => break,
        }
    }
    if let Err(error) = leave(&server, &key).await {
        tracing::debug!(%error, "the endpoints forget this server when its lease ends");
    }
}

async fn round(server: &Arc<Server>, key: &str) -> Result<(), Status> {
    let backend = server.store.backend();
    let value = object::to_bytes(
        &json!({"kind": "Endpoints", "apiVersion": "v1", "metadata": {}, "subsets": [
            {"addresses": [{"ip": server.config.advertise_address.to_string()}]},
        ]}),
    );
    let (current, _) = backend.get(key).await?;
    let written = match current {
        Some(record) => backend.update(key, value, record.revision, Some(TTL)).await?,
        None => backend.create(key, value, Some(TTL)).await?,
    };
    if let Written::Done(revision) = written {
        server.store.expect(revision);
    }
    publish(server).await
}

async fn leave(server: &Arc<Server>, key: &str) -> Result<(), Status> {
    let backend = server.store.backend();
    if let (Some(record), _) = backend.get(key).await? {
        backend.delete(key, record.revision).await?;
    }
    publish(server).await
}

/// Writes Service, Endpoints and EndpointSlice if they are not right.
async fn publish(server: &Arc<Server>) -> Result<(), Status> {
    let end = object::prefix_end(PREFIX);
    let range = Range {
        start: PREFIX,
        end: &end,
        ..Range::default()
    };
    let page = server.store.backend().range(range).await?;
    let mut addresses: Vec<String> = page
        .records
        .iter()
        .filter_map(|r| r.key.strip_prefix(PREFIX))
        .map(str::to_owned)
        .collect();
    addresses.sort();
    let store = &server.store;
    store.fresh(Freshness::NotOlderThan(page.revision)).await?;
    let port = server.config.bind.port();
    let service = builtin("", "services").ok_or_else(Status::no_such_path)?;
    if store.cached(service, "default", "kubernetes").is_none() {
        create_service(server, service, port).await?;
    }
    let endpoints = builtin("", "endpoints").ok_or_else(Status::no_such_path)?;
    let listed: Vec<Value> = addresses.iter().map(|ip| json!({"ip": ip})).collect();
    let subsets = if listed.is_empty() {
        json!([])
    } else {
        json!([{"addresses": listed, "ports": [{"name": PORT_NAME, "port": port, "protocol": "TCP"}]}])
    };
    let labels = json!({"endpointslice.kubernetes.io/skip-mirror": "true"});
    ensure(server, endpoints, labels, &[("subsets", subsets)]).await?;
    let slices = builtin("discovery.k8s.io", "endpointslices").ok_or_else(Status::no_such_path)?;
    let ready = |ip: &String| json!({"addresses": [ip], "conditions": {"ready": true}});
    let fields = [
        ("addressType", json!("IPv4")),
        ("endpoints", addresses.iter().map(ready).collect()),
        (
            "ports",
            json!([{"name": PORT_NAME, "port": port, "protocol": "TCP"}]),
        ),
    ];
    ensure(
        server,
        slices,
        json!({"kubernetes.io/service-name": "kubernetes"}),
        &fields,
    )
    .await
}

async fn create_service(server: &Arc<Server>, resource: &Resource, port: u16) -> Result<(), Status> {
    let ip = server.services.first();
    // False means that an earlier attempt, or another server, took it.
    let _ = super::ips::take(server, ip, "default", "kubernetes").await?;
    let mut value = json!({
        "kind": "Service", "apiVersion": "v1",
        "metadata": new_metadata(json!({"component": "apiserver", "provider": "kubernetes"})),
        "spec": {
            "clusterIP": ip.to_string(),
            "ports": [{"name": PORT_NAME, "port": 443, "protocol": "TCP", "targetPort": port}],
            "sessionAffinity": "None",
            "type": "ClusterIP",
        },
        "status": {"loadBalancer": {}},
    });
    super::families::complete(&mut value);
    let key = object::key(resource, "default", "kubernetes");
    server.store.create(resource, &key, value, None).await?;
    Ok(())
}

fn new_metadata(labels: Value) -> Value {
    json!({
        "name": "kubernetes", "namespace": "default",
        "uid": uuid::Uuid::new_v4().to_string(),
        "creationTimestamp": crate::time::now(),
        "labels": labels,
    })
}

/// Makes an object named `kubernetes` have these fields.
async fn ensure(
    server: &Arc<Server>,
    resource: &Resource,
    labels: Value,
    fields: &[(&str, Value)],
) -> Result<(), Status> {
    let store = &server.store;
    let key = object::key(resource, "default", "kubernetes");
    let Some(current) = store.cached(resource, "default", "kubernetes") else {
        let mut value = json!({
            "kind": resource.kind, "apiVersion": resource.api_version(), "metadata": new_metadata(labels),
        });
        for (field, wanted) in fields {
            value[*field] = wanted.clone();
        }
        store.create(resource, &key, value, None).await?;
        return Ok(());
    };
    let mut value = Object::value(&current);
    let before = value.clone();
    for (field, wanted) in fields {
        value[*field] = wanted.clone();
    }
    if value == before {
        return Ok(());
    }
    // After a conflict the next round looks again.
    let _: Replaced = store
        .replace(resource, &key, value, current.revision, None)
        .await?;
    Ok(())
}
