//! Ownership and garbage.

use crate::cluster::{SOON, TestCluster, eventually};
use anyhow::Result;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::api::DeleteParams;
use serde_json::{Value, json};

fn map(name: &str, owners: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "ownerReferences": owners}})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_is_collected_as_asked() -> Result<()> {
    let cluster = TestCluster::start().await?;
    let maps = cluster.api::<ConfigMap>();
    let gone = |name: &'static str| {
        let maps = maps.clone();
        async move {
            eventually(name, SOON, || async {
                Ok(maps.get_opt(name).await?.is_none().then_some(()))
            })
            .await
        }
    };
    for (owner, child, policy) in [
        ("back-owner", "back-child", DeleteParams::background()),
        ("fore-owner", "fore-child", DeleteParams::foreground()),
    ] {
        let made = cluster.create(map(owner, json!(null))).await?;
        let reference = json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": owner,
            "uid": made.metadata.uid, "blockOwnerDeletion": true}]);
        cluster.create(map(child, reference)).await?;
        maps.delete(owner, &policy).await?;
        gone(child).await?;
        gone(owner).await?;
    }
    let made = cluster.create(map("orphan-owner", json!(null))).await?;
    let reference =
        json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": "orphan-owner", "uid": made.metadata.uid}]);
    cluster.create(map("orphan-child", reference)).await?;
    maps.delete("orphan-owner", &DeleteParams::orphan()).await?;
    gone("orphan-owner").await?;
    eventually("orphaned", SOON, || async {
        let child = maps.get("orphan-child").await?;
        Ok(child
            .metadata
            .owner_references
            .is_none_or(|owners| owners.is_empty())
            .then_some(()))
    })
    .await?;
    // An owner that never existed.
    let reference = json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": "never", "uid": "no-such-uid"}]);
    cluster.create(map("stray", reference)).await?;
    gone("stray").await?;
    let connections = connections(cluster.inner.address.port())?;
    println!("{connections} connections to the API server");
    // The test's client, scheduler and controllers, each with all its watches; more while one is replaced.
    assert!(connections <= 6, "{connections} connections");
    Ok(())
}

/// Connections of this process's network to a local port (the kernel's table, addresses in hexadecimal).
fn connections(port: u16) -> Result<usize> {
    const ESTABLISHED: &str = "01";
    let table = std::fs::read_to_string("/proc/self/net/tcp")?;
    let remote = format!(":{port:04X}");
    let ours = table.lines().skip(1).filter(|line| {
        let mut fields = line.split_whitespace().skip(2);
        let to = fields.next().is_some_and(|address| address.ends_with(&remote));
        to && fields.next() == Some(ESTABLISHED)
    });
    Ok(ours.count())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_pod_without_a_node_goes() -> Result<()> {
    let cluster = TestCluster::start().await?;
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
        "spec": {"containers": [{"name": "c", "image": "toolbox"}]}});
    cluster.create(pod).await?;
    cluster.api::<Pod>().delete("p", &DeleteParams::default()).await?;
    eventually("gone", SOON, || async {
        Ok(cluster.api::<Pod>().get_opt("p").await?.is_none().then_some(()))
    })
    .await
}
