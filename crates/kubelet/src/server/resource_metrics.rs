//! `/metrics/resource`: what nodes, pods and containers use, in the names that metrics-server and autoscalers read
//! (KEP-727).

use super::{Answer, text};
use crate::context::Context;
use crate::runtime::labels;
use http::StatusCode;
use protos::cri::ContainerStats;
use std::collections::BTreeMap;
use std::fmt::Write;

/// Use of one container or pod: CPU in nanoseconds so far, memory in bytes, and when that was, in nanoseconds
/// since 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Use {
    cpu_ns: u64,
    memory: u64,
    at_ns: i64,
}

/// Answers with the metrics, or with a sign that they could not be read.
pub async fn serve(context: &Context) -> Answer {
    match context.runtime.container_stats().await {
        Ok(stats) => {
            let node = Use {
                cpu_ns: context.cgroups.cpu_usage_ns().unwrap_or(0),
                memory: context.cgroups.memory_working_set().unwrap_or(0),
                at_ns: now_ns(),
            };
            text(StatusCode::OK, write(&stats, node))
        }
        Err(error) => {
            tracing::debug!(%error, "no statistics of containers");
            text(StatusCode::OK, failed())
        }
    }
}

fn now_ns() -> i64 {
    i64::try_from(k8s_openapi::jiff::Timestamp::now().as_nanosecond()).unwrap_or(0)
}

/// Families in their order: name, help, type.
const FAMILIES: [(&str, &str, &str); 7] = [
    (
        "container_cpu_usage_seconds_total",
        "Cumulative cpu time consumed by the container in core-seconds",
        "counter",
    ),
    (
        "container_memory_working_set_bytes",
        "Current working set of the container in bytes",
        "gauge",
    ),
    (
        "node_cpu_usage_seconds_total",
        "Cumulative cpu time consumed by the node in core-seconds",
        "counter",
    ),
    (
        "node_memory_working_set_bytes",
        "Current working set of the node in bytes",
        "gauge",
    ),
    (
        "pod_cpu_usage_seconds_total",
        "Cumulative cpu time consumed by the pod in core-seconds",
        "counter",
    ),
    (
        "pod_memory_working_set_bytes",
        "Current working set of the pod in bytes",
        "gauge",
    ),
    (
        "resource_scrape_error",
        "1 if there was an error while getting container metrics, 0 otherwise",
        "gauge",
    ),
];

fn header(out: &mut String, name: &str) {
    if let Some((name, help, kind)) = FAMILIES.iter().find(|f| f.0 == name) {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "# HELP {name} [STABLE] {help}\n# TYPE {name} {kind}");
    }
}

fn failed() -> String {
    let mut out = String::new();
    header(&mut out, "resource_scrape_error");
    out.push_str("resource_scrape_error 1\n");
    out
}

fn write(stats: &[ContainerStats], node: Use) -> String {
    let mut containers: BTreeMap<String, Use> = BTreeMap::new();
    let mut pods: BTreeMap<String, Use> = BTreeMap::new();
    for one in stats {
        let Some(attributes) = &one.attributes else {
            continue;
        };
        let label = |key: &str| escape(attributes.labels.get(key).map(String::as_str).unwrap_or_default());
        let cpu = one.cpu.unwrap_or_default();
        let memory = one.memory.unwrap_or_default();
        let usage = Use {
            cpu_ns: cpu.usage_core_nano_seconds.map_or(0, |v| v.value),
            memory: memory.working_set_bytes.map_or(0, |v| v.value),
            at_ns: cpu.timestamp,
        };
        let pod = format!(
            "namespace=\"{}\",pod=\"{}\"",
            label(labels::POD_NAMESPACE),
            label(labels::POD_NAME)
        );
        let sum = pods.entry(pod.clone()).or_default();
        sum.cpu_ns += usage.cpu_ns;
        sum.memory += usage.memory;
        sum.at_ns = sum.at_ns.max(usage.at_ns);
        let key = format!("container=\"{}\",{pod}", label(labels::CONTAINER_NAME));
        containers.insert(key, usage);
    }
    let node = BTreeMap::from([(String::new(), node)]);
    let mut out = String::new();
    for (prefix, members) in [("container", &containers), ("node", &node), ("pod", &pods)] {
        let name = format!("{prefix}_cpu_usage_seconds_total");
        header(&mut out, &name);
        for (key, usage) in members {
            let nanos = usage.cpu_ns % 1_000_000_000;
            let value = format!("{}.{nanos:09}", usage.cpu_ns / 1_000_000_000);
            sample(&mut out, &name, key, &value, usage.at_ns);
        }
        let name = format!("{prefix}_memory_working_set_bytes");
        header(&mut out, &name);
        for (key, usage) in members {
            sample(&mut out, &name, key, &usage.memory.to_string(), usage.at_ns);
        }
    }
    header(&mut out, "resource_scrape_error");
    out.push_str("resource_scrape_error 0\n");
    out
}

fn sample(out: &mut String, name: &str, labels: &str, value: &str, at_ns: i64) {
    let labels = if labels.is_empty() {
        String::new()
    } else {
        format!("{{{labels}}}")
    };
    let _ = writeln!(out, "{name}{labels} {value} {}", at_ns / 1_000_000);
}

/// A label's value as Prometheus' text format wants it.
fn escape(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use protos::cri::{ContainerAttributes, CpuUsage, MemoryUsage, UInt64Value};

    fn stats(pod: &str, container: &str, cpu: u64, memory: u64) -> ContainerStats {
        let labels = [
            (labels::POD_NAMESPACE, "n"),
            (labels::POD_NAME, pod),
            (labels::CONTAINER_NAME, container),
        ];
        let number = |value| Some(UInt64Value { value });
        ContainerStats {
            attributes: Some(ContainerAttributes {
                labels: labels.map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
                ..ContainerAttributes::default()
            }),
            cpu: Some(CpuUsage {
                timestamp: 5_000_000,
                usage_core_nano_seconds: number(cpu),
                ..CpuUsage::default()
            }),
            memory: Some(MemoryUsage {
                working_set_bytes: number(memory),
                ..MemoryUsage::default()
            }),
            ..ContainerStats::default()
        }
    }

    #[test]
    fn containers_are_summed_up_to_pods() {
        let node = Use {
            cpu_ns: 7,
            memory: 9,
            at_ns: 8_000_000,
        };
        let all = [
            stats("p", "a", 1_500_000_000, 10),
            stats("p", "b", 1_000_000_000, 20),
        ];
        let out = write(&all, node);
        let samples: Vec<&str> = out.lines().filter(|l| !l.starts_with('#')).collect();
        assert_eq!(
            samples,
            [
                "container_cpu_usage_seconds_total{container=\"a\",namespace=\"n\",pod=\"p\"} 1.500000000 5",
                "container_cpu_usage_seconds_total{container=\"b\",namespace=\"n\",pod=\"p\"} 1.000000000 5",
                "container_memory_working_set_bytes{container=\"a\",namespace=\"n\",pod=\"p\"} 10 5",
                "container_memory_working_set_bytes{container=\"b\",namespace=\"n\",pod=\"p\"} 20 5",
                "node_cpu_usage_seconds_total 0.000000007 8",
                "node_memory_working_set_bytes 9 8",
                "pod_cpu_usage_seconds_total{namespace=\"n\",pod=\"p\"} 2.500000000 5",
                "pod_memory_working_set_bytes{namespace=\"n\",pod=\"p\"} 30 5",
                "resource_scrape_error 0",
            ]
        );
        assert!(out.contains("# TYPE pod_cpu_usage_seconds_total counter"));
        assert!(failed().ends_with("resource_scrape_error 1\n"));
    }
}
