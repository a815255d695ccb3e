//! Acceptance 7: bad manifests each get one line with path and reason, and change nothing.

use crate::cluster::Cluster;
use crate::shell::{attempt, ensure, text};
use anyhow::Result;

const HEAD: &str = "apiVersion: apps.cozystack.io/v1alpha1\nkind: Kubernetes\nmetadata:\n  name: x\nspec:\n";

/// Manifest, and what the line must name.
const BAD: &[(&str, &str)] = &[
    (
        "  nodeGroups:\n    a:\n      minReplicas: 1\n      maxReplicas: 1\n      colour: red\n",
        "spec.nodeGroups.a.colour",
    ),
    (
        "  controlPlane:\n    replicas: -1\n",
        "spec.controlPlane.replicas",
    ),
    (
        "  nodeGroups:\n    a:\n      minReplicas: 3\n      maxReplicas: 2\n",
        "spec.nodeGroups.a",
    ),
    (
        "  nodeGroups:\n    a:\n      minReplicas: -2\n",
        "spec.nodeGroups.a.minReplicas",
    ),
    (
        "  nodeGroups:\n    a:\n      instanceType: z9.huge\n",
        "spec.nodeGroups.a.instanceType",
    ),
    (
        "  controlPlane:\n    replicas: many\n",
        "spec.controlPlane.replicas",
    ),
    ("  version: v1.12\n", "spec.version"),
    ("  surprise: true\n", "spec.surprise"),
];

/// Runs `hikube up -f` with each of them.
pub fn refused(cluster: &Cluster) -> Result<()> {
    cluster.delete_quietly();
    let cases = BAD.iter().map(|(body, path)| (format!("{HEAD}{body}"), *path));
    for (manifest, path) in cases.chain([("{ this is: [not yaml".to_owned(), "bad.yaml")]) {
        let file = cluster.write("bad.yaml", &manifest)?;
        let file = file.to_string_lossy().into_owned();
        let result = attempt(&mut cluster.hikube(&["up", "-f", &file]))?;
        let said = text(&result.stderr);
        ensure(!result.status.success(), || format!("accepted:\n{manifest}"))?;
        let lines: Vec<&str> = said.lines().filter(|l| !l.is_empty()).collect();
        ensure(lines.len() == 1, || {
            format!("{} lines instead of one for\n{manifest}\n{said}", lines.len())
        })?;
        ensure(said.contains(path), || format!("does not name {path}: {said}"))?;
        println!("{}", lines[0]);
    }
    ensure(!cluster.state_dir().exists(), || {
        "a refused manifest left a state directory".into()
    })
}
