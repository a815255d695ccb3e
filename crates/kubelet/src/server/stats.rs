//! What nodes, pods and containers use: `/stats/summary` and `/metrics`.

use super::{Answer, json, text};
use crate::context::Context;
use crate::node;
use crate::runtime::labels;
use client::Informer;
use http::StatusCode;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json as value};
use std::collections::BTreeMap;
use std::fmt::Write;

/// Use of resources as upstream's summary API shows it, as far as the runtime tells.
pub async fn summary(context: &Context) -> Answer {
    let stats = match context.runtime.container_stats().await {
        Ok(stats) => stats,
        Err(error) => return text(StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
    };
    let mut pods: BTreeMap<String, (Value, Vec<Value>)> = BTreeMap::new();
    for one in stats {
        let Some(attributes) = one.attributes else {
            continue;
        };
        let label = |key: &str| attributes.labels.get(key).cloned().unwrap_or_default();
        let (cpu, memory) = (one.cpu.unwrap_or_default(), one.memory.unwrap_or_default());
        let number = |v: Option<protos::cri::UInt64Value>| v.map(|v| v.value);
        let container = value!({
            "name": label(labels::CONTAINER_NAME),
            "cpu": {"time": time(cpu.timestamp), "usageCoreNanoSeconds": number(cpu.usage_core_nano_seconds),
                "usageNanoCores": number(cpu.usage_nano_cores)},
            "memory": {"time": time(memory.timestamp), "workingSetBytes": number(memory.working_set_bytes),
                "usageBytes": number(memory.usage_bytes), "rssBytes": number(memory.rss_bytes)},
        });
        let uid = label(labels::POD_UID);
        let reference =
            value!({"name": label(labels::POD_NAME), "namespace": label(labels::POD_NAMESPACE), "uid": uid});
        pods.entry(uid)
            .or_insert((reference, Vec::new()))
            .1
            .push(container);
    }
    let pods: Vec<Value> = pods
        .into_values()
        .map(|(reference, containers)| value!({"podRef": reference, "containers": containers}))
        .collect();
    let disk = node::filesystem(&context.paths.root);
    let node = value!({
        "nodeName": context.config.node_name,
        "cpu": {"time": Timestamp::now().to_string(), "usageCoreNanoSeconds": context.cgroups.cpu_usage_ns()},
        "memory": {"time": Timestamp::now().to_string(), "workingSetBytes": context.cgroups.memory_working_set()},
        "fs": disk.map(|f| value!({"capacityBytes": f.total, "availableBytes": f.available,
            "inodes": f.inodes.0, "inodesFree": f.inodes.1})),
    });
    json(&value!({"node": node, "pods": pods}))
}

fn time(nanos: i64) -> String {
    Timestamp::from_nanosecond(i128::from(nanos))
        .map(|t| t.to_string())
        .unwrap_or_default()
}

/// Prometheus text.
pub async fn metrics(context: &Context, pods: &Informer<Pod>) -> Answer {
    let seen = context.relist.pods();
    let containers: usize = seen.values().map(|s| s.containers.len()).sum();
    let mut out = String::new();
    let mut gauge = |name: &str, help: &str, value: u64| {
        // Writing to a String cannot fail.
        let _ = write!(out, "# HELP {name} {help}\n# TYPE {name} gauge\n{name} {value}\n");
    };
    gauge(
        "kubelet_pods",
        "Pods that the API assigns to this node.",
        pods.len() as u64,
    );
    gauge(
        "kubelet_running_pods",
        "Pods that the runtime holds.",
        seen.len() as u64,
    );
    gauge(
        "kubelet_containers",
        "Containers that the runtime holds.",
        containers as u64,
    );
    gauge(
        "kubelet_runtime_up",
        "Whether the runtime answers.",
        u64::from(*context.relist.health().borrow()),
    );
    gauge(
        "kubelet_fenced",
        "Whether pods with replicated volumes must not run.",
        u64::from(context.fence.is_fenced()),
    );
    text(StatusCode::OK, out)
}
