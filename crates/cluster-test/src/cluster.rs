//! The cluster under test, through its own command and kubectl.

use crate::shell::{attempt, ensure, eventually, output, output_with_input, text};
use crate::{processes, traces};
use anyhow::{Context, Result};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// Names of the regions.
pub const REGIONS: [&str; 3] = ["geneva", "gland", "lucerne"];

/// A cluster by its name.
#[derive(Clone)]
pub struct Cluster {
    /// Its name.
    pub name: String,
    binary: PathBuf,
    /// Scratch directory of this run.
    pub dir: PathBuf,
    /// Traces of clusters that were on the machine before this run.
    pub before: Vec<String>,
    kubectl: PathBuf,
    /// How long its certificates are valid; unset, as long as `hikube up` likes.
    pub certificate_lifetime: Option<Duration>,
}

impl Cluster {
    /// Uses the binary in `HIKUBE_BINARY`, or the one beside this program.
    pub fn new(name: &str) -> Result<Self> {
        let beside = std::env::current_exe()?.with_file_name("hikube");
        let binary = std::env::var_os("HIKUBE_BINARY").map_or(beside, PathBuf::from);
        ensure(binary.is_file(), || {
            format!("{} is not there: build it first", binary.display())
        })?;
        let dir = std::env::temp_dir().join(format!("hikube-cluster-test-{name}"));
        std::fs::create_dir_all(&dir)?;
        Ok(Self {
            name: name.into(),
            binary,
            dir,
            before: traces::find(name)?,
            kubectl: "kubectl".into(),
            certificate_lifetime: None,
        })
    }

    /// The same cluster through another kubectl.
    pub fn with_kubectl(&self, program: &Path) -> Self {
        Self {
            kubectl: program.to_owned(),
            ..self.clone()
        }
    }

    /// `hikube ARGS --name NAME`.
    pub fn hikube(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command.args(args).args(["--name", &self.name]);
        command
    }

    /// Brings the cluster up; how long it took.
    pub fn up(&self) -> Result<Duration> {
        let start = Instant::now();
        let said = output(&mut self.hikube_up(&[]))?;
        let took = start.elapsed();
        print!("{said}");
        Ok(took)
    }

    /// `hikube up ARGS --name NAME`. Certificates get the lifetime of this run each time: `up` applies what it is told.
    pub fn hikube_up(&self, args: &[&str]) -> Command {
        let mut command = self.hikube(&["up"]);
        if let Some(lifetime) = self.certificate_lifetime {
            command.arg(format!("--certificate-lifetime={}s", lifetime.as_secs()));
        }
        command.args(args);
        command
    }

    /// Path of the kubeconfig that `hikube up` names. Not a copy: its certificate is renewed.
    pub fn kubeconfig(&self) -> PathBuf {
        self.state_dir().join("admin.kubeconfig")
    }

    /// `kubectl ARGS`.
    pub fn kubectl(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.kubectl);
        command.env("KUBECONFIG", self.kubeconfig()).args(args);
        command
    }

    /// Standard output of `kubectl ARGS`.
    pub fn kube(&self, args: &[&str]) -> Result<String> {
        output(&mut self.kubectl(args))
    }

    /// `kubectl apply -f -` of these documents.
    pub fn apply(&self, manifest: &str) -> Result<()> {
        output_with_input(&mut self.kubectl(&["apply", "-f", "-"]), manifest).map(drop)
    }

    /// An object or list as JSON.
    pub fn json(&self, args: &[&str]) -> Result<Value> {
        let printed = output(self.kubectl(args).args(["-o", "json"]))?;
        serde_json::from_str(&printed).context("kubectl printed no JSON")
    }

    /// Waits for `kubectl rollout status`.
    pub fn rolled_out(&self, what: &str, limit: Duration) -> Result<()> {
        let timeout = format!("--timeout={}s", limit.as_secs());
        self.kube(&["rollout", "status", what, &timeout]).map(drop)
    }

    /// The picture of `hikube status -o json`.
    pub fn status(&self) -> Result<Value> {
        let printed = output(&mut self.hikube(&["status", "-o", "json"]))?;
        serde_json::from_str(&printed).context("hikube status printed no JSON")
    }

    /// Region of a node.
    pub fn region_of_node(&self, node: &str) -> Result<String> {
        let object = self.json(&["get", "node", node])?;
        let region = &object["metadata"]["labels"]["topology.kubernetes.io/region"];
        region
            .as_str()
            .map(str::to_owned)
            .with_context(|| format!("node {node} has no region label"))
    }

    /// Waits until all nodes are Ready and all members, control planes and regions are well.
    pub fn wait_healthy(&self, limit: Duration) -> Result<()> {
        eventually("cluster healthy", limit, || {
            let nodes = self.json(&["get", "nodes"])?;
            for node in nodes["items"].as_array().into_iter().flatten() {
                ensure(is_ready(node), || {
                    format!("node {} is not Ready", node["metadata"]["name"])
                })?;
            }
            let status = self.status()?;
            for member in status["etcd"].as_array().into_iter().flatten() {
                ensure(member["healthy"] == true, || format!("etcd {member}"))?;
            }
            for plane in status["controlPlanes"].as_array().into_iter().flatten() {
                ensure(plane["ready"] == true, || format!("control plane {plane}"))?;
            }
            Ok(())
        })
    }

    /// Waits until every replica of every volume is complete and none lags.
    pub fn wait_replicated(&self, limit: Duration) -> Result<()> {
        eventually("replicas complete", limit, || {
            let status = self.status()?;
            let volumes = status["volumes"].as_array().context("no volumes in status")?;
            for volume in volumes {
                for replica in volume["replicas"].as_array().into_iter().flatten() {
                    ensure(replica["state"] == "complete", || format!("volume {volume}"))?;
                }
            }
            Ok(())
        })
    }

    /// Compares the replicas of every volume by checksum; how many volumes there are.
    pub fn verify_volumes(&self) -> Result<usize> {
        let listed = output(&mut self.hikube(&["volume", "list", "-o", "json"]))?;
        let volumes: Value = serde_json::from_str(&listed).context("volume list printed no JSON")?;
        let volumes = volumes
            .as_array()
            .or_else(|| volumes["volumes"].as_array())
            .context("no list")?;
        for volume in volumes {
            let id = volume["id"].as_str().context("volume without id")?;
            output(&mut self.hikube(&["volume", "verify", id]))?;
        }
        Ok(volumes.len())
    }

    /// Processes whose command line holds all of these words.
    pub fn processes_with(&self, words: &[&str]) -> Vec<processes::Process> {
        let all = processes::of_cluster(&self.name);
        all.into_iter()
            .filter(|p| words.iter().all(|w| p.command.contains(w)))
            .collect()
    }

    /// What helps to see why a step failed.
    pub fn show_failure(&self) {
        for args in [
            &["get", "nodes", "-o", "wide"][..],
            // Why a node is not ready, and since when it is silent.
            &["get", "nodes", "-o", CONDITIONS],
            &["get", "leases", "-A", "-o", LEASES],
            &["get", "pods", "-A", "-o", "wide"],
            &["get", "events", "-A"],
        ] {
            let mut command = self.kubectl(args);
            command.arg("--request-timeout=5s");
            if let Ok(result) = attempt(&mut command) {
                let shown = text(&result.stdout);
                let lines: Vec<&str> = shown.lines().collect();
                let from = lines.len().saturating_sub(25);
                println!("$ kubectl {}\n{}", args.join(" "), lines[from..].join("\n"));
            }
        }
        if let Ok(result) = attempt(&mut self.hikube(&["status"])) {
            println!("$ hikube status\n{}", text(&result.stdout));
        }
    }

    /// Removes the cluster, whatever its state.
    pub fn delete_quietly(&self) {
        let _ = attempt(&mut self.hikube(&["delete", "--yes"]));
    }

    /// Writes a scratch file.
    pub fn write(&self, name: &str, content: &str) -> Result<PathBuf> {
        let path = self.dir.join(name);
        std::fs::write(&path, content).with_context(|| format!("write {}", path.display()))?;
        Ok(path)
    }

    /// The kubeconfig's path as text.
    pub fn state_dir(&self) -> PathBuf {
        Path::new("/var/lib/hikube").join(&self.name)
    }
}

const CONDITIONS: &str = "jsonpath={range .items[*]}{.metadata.name}{range .status.conditions[*]}{'\\n  '}{.type}={.status} {.lastTransitionTime} {.message}{end}{'\\n'}{end}";
const LEASES: &str = "custom-columns=NAME:.metadata.name,HOLDER:.spec.holderIdentity,RENEWED:.spec.renewTime";

/// Whether an object's Ready condition is True.
pub fn is_ready(object: &Value) -> bool {
    let conditions = object["status"]["conditions"].as_array();
    conditions
        .into_iter()
        .flatten()
        .any(|c| c["type"] == "Ready" && c["status"] == "True")
}
