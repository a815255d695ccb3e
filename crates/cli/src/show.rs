//! Output for people and for programs.

use crate::args::Format;
use anyhow::Result;
use platform::cluster::{Status, Summary};
use serde::Serialize;
use std::fmt::Write;

/// Prints what a program asked for; a table is JSON here, since its columns are somebody else's.
pub fn value(format: Format, value: &impl Serialize) -> Result<()> {
    match format {
        Format::Yaml => say_part!("{}", yaml_serde::to_string(value)?),
        Format::Json | Format::Table => say!("{}", serde_json::to_string_pretty(value)?),
    }
    Ok(())
}

/// A command's error. A manifest's problems come one to a line, each with its path, and nothing else.
pub fn error(error: &anyhow::Error) -> String {
    match error.downcast_ref::<platform::cluster::Error>() {
        Some(known @ platform::cluster::Error::Manifest(_)) => known.to_string(),
        _ => format!("hikube: {error:#}"),
    }
}

/// How to go on after `hikube up`.
pub fn summary(summary: &Summary) -> String {
    let cluster = &summary.cluster;
    let name = cluster.layout.cluster();
    let option = match name {
        "hikube" => String::new(),
        other => format!(" --name {other}"),
    };
    let mut text = String::new();
    for region in &summary.failed_regions {
        let _ = writeln!(
            text,
            "region {region} stays failed: hikube region restore {region}{option}"
        );
    }
    let _ = write!(
        text,
        "cluster {name} is Ready ({:.1} s)

  export KUBECONFIG={}
  kubectl get nodes
  hikube status{option}              etcd, control planes, nodes, regions, volumes
  hikube demo{option}                a workload that must lose nothing
  hikube down{option}                stop, keep data (hikube delete{option} removes everything)
",
        summary.took.as_secs_f64(),
        cluster.layout.admin_kubeconfig().display()
    );
    text
}

/// The picture of `hikube status`.
pub fn status(status: &Status) -> String {
    let mut text = format!(
        "cluster {}: {}, Kubernetes {}\n",
        status.cluster, status.state, status.version
    );
    let rows = status.etcd.iter().map(|m| {
        let healthy = word(m.healthy, "healthy", "unhealthy");
        vec![m.member.clone(), healthy, flag(m.leader, "leader")]
    });
    if status.datastore == platform::plan::Datastore::Etcd {
        table(&mut text, &["ETCD", "STATE", "ROLE"], rows.collect());
    } else {
        text.push_str("state in the embedded datastore of the one control plane\n");
    }
    let rows = status.control_planes.iter().map(|p| {
        let ready = word(p.ready, "ready", "not ready");
        vec![p.name.clone(), p.region.clone(), ready, p.leads.join(",")]
    });
    table(
        &mut text,
        &["CONTROL PLANE", "REGION", "STATE", "LEADS"],
        rows.collect(),
    );
    let mut rows = Vec::new();
    for group in &status.node_groups {
        let range = format!("{}..{}", group.min, group.max);
        if group.nodes.is_empty() {
            rows.push(vec![group.name.clone(), range.clone(), "-".into()]);
        }
        for node in &group.nodes {
            let ready = word(node.ready, "Ready", "NotReady");
            let row = [&group.name, &range, &node.name, &node.region, &ready];
            rows.push(row.map(String::clone).to_vec());
        }
    }
    table(
        &mut text,
        &["NODE GROUP", "SIZE", "NODE", "REGION", "STATE"],
        rows,
    );
    let rows = status.regions.iter().map(|r| {
        let stores = r.stores.iter().map(|s| format!("{} {}", s.address, s.state));
        vec![
            r.name.clone(),
            r.state.clone(),
            stores.collect::<Vec<_>>().join(","),
        ]
    });
    table(&mut text, &["REGION", "STATE", "STORE"], rows.collect());
    let rows = status.volumes.iter().map(|v| {
        let replicas = v.replicas.iter().map(|r| match r.lag_bytes {
            0 => format!("{} {}", r.region, r.state),
            lag => format!("{} {} (-{})", r.region, r.state, size(lag)),
        });
        let node = if v.node.is_empty() {
            "-".into()
        } else {
            v.node.clone()
        };
        let claim = match v.namespace.as_str() {
            "" => v.claim.clone(),
            namespace => format!("{namespace}/{}", v.claim),
        };
        let replicas = replicas.collect::<Vec<_>>().join(", ");
        vec![claim, size(v.size_bytes), v.epoch.to_string(), node, replicas]
    });
    table(
        &mut text,
        &["VOLUME", "SIZE", "EPOCH", "NODE", "REPLICAS"],
        rows.collect(),
    );
    text
}

fn word(value: Option<bool>, yes: &str, no: &str) -> String {
    match value {
        Some(true) => yes.into(),
        Some(false) => no.into(),
        None => "unknown".into(),
    }
}

fn flag(value: Option<bool>, yes: &str) -> String {
    if value == Some(true) {
        yes.into()
    } else {
        String::new()
    }
}

fn size(bytes: u64) -> String {
    const UNITS: [(&str, u64); 3] = [("Gi", 1 << 30), ("Mi", 1 << 20), ("Ki", 1 << 10)];
    for (unit, factor) in UNITS {
        if bytes >= factor {
            let rounded = bytes as f64 / factor as f64;
            let text = format!("{rounded:.1}");
            return format!("{}{unit}", text.trim_end_matches(".0"));
        }
    }
    bytes.to_string()
}

/// Columns as kubectl aligns them; nothing when there are no rows.
fn table(text: &mut String, header: &[&str], rows: Vec<Vec<String>>) {
    if rows.is_empty() {
        return;
    }
    let header: Vec<String> = header.iter().map(|h| (*h).to_owned()).collect();
    let width = |column: usize| {
        let all = rows.iter().chain([&header]);
        all.filter_map(|r| r.get(column))
            .map(|c| c.chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    text.push('\n');
    for row in [&header].into_iter().chain(&rows) {
        let cells = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:width$}"));
        let line = cells.collect::<Vec<_>>().join("   ");
        text.push_str(line.trim_end());
        text.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_aligned() {
        let mut text = String::new();
        table(
            &mut text,
            &["A", "B"],
            vec![vec!["long".into(), "x".into()], vec!["y".into()]],
        );
        assert_eq!(text, "\nA      B\nlong   x\ny\n");
    }

    #[test]
    fn sizes() {
        let texts: Vec<String> = [0, 1000, 1 << 20, 3 << 29].into_iter().map(size).collect();
        assert_eq!(texts, ["0", "1000", "1Mi", "1.5Gi"]);
    }
}
