//! PodSecurity: the pod security standards that a namespace asks for by its labels (KEP-2579).
//!
//! `enforce` refuses pods; `warn` warns about pods and about the templates of workloads. Messages are upstream's.

use crate::call::Call;
use crate::http::status::Status;
use crate::json::items;
use crate::store::builtin;
use schema::Resource;
use serde_json::Value;

const PREFIX: &str = "pod-security.kubernetes.io/";
/// Capabilities that containers have by default, which the baseline allows.
const DEFAULT_CAPABILITIES: [&str; 13] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];
const SAFE_SYSCTLS: [&str; 10] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
];
/// Kinds of volumes that the restricted level allows.
const PLAIN_VOLUMES: [&str; 8] = [
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "image",
    "persistentVolumeClaim",
    "projected",
];

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Privileged,
    Baseline,
    Restricted,
}

impl Level {
    fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "privileged" => Self::Privileged,
            "baseline" => Self::Baseline,
            "restricted" => Self::Restricted,
            _ => return None,
        })
    }

    fn name(self) -> &'static str {
        match self {
            Self::Privileged => "privileged",
            Self::Baseline => "baseline",
            Self::Restricted => "restricted",
        }
    }
}

/// Checks a pod, or the template of a workload, that is about to be stored.
pub fn check(call: &Call, resource: &Resource, old: Option<&Value>, new: &Value) -> Result<(), Status> {
    let Some(path) = template(resource) else {
        return Ok(());
    };
    let Some(namespaces) = builtin("", "namespaces") else {
        return Ok(());
    };
    let Some(namespace) = call.server.store.cached(namespaces, "", &call.info.namespace) else {
        return Ok(());
    };
    if namespace.labels.is_null() {
        return Ok(());
    }
    let of = |value: &Value| {
        path.iter()
            .fold(value.clone(), |mut value, name| value[*name].take())
    };
    let pod = of(new);
    // What an update leaves alone was checked when it came.
    if old.is_some_and(|old| of(old)["spec"] == pod["spec"]) {
        return Ok(());
    }
    let violations = |mode: &str| -> Option<String> {
        let level = Level::parse(namespace.label(&format!("{PREFIX}{mode}"))?)?;
        let version = namespace
            .label(&format!("{PREFIX}{mode}-version"))
            .unwrap_or("latest");
        let found = evaluate(level, &pod["spec"]);
        (!found.is_empty()).then(|| {
            format!(
                "violate PodSecurity \"{}:{version}\": {}",
                level.name(),
                found.join(", ")
            )
        })
    };
    if path.is_empty()
        && let Some(problem) = violations("enforce")
    {
        let name = new["metadata"]["name"].as_str().unwrap_or_default();
        let why = problem.replacen("violate", "violates", 1);
        return Err(Status::forbidden(resource, name, why));
    }
    if let Some(problem) = violations("warn") {
        call.warn(format!("would {problem}"));
    }
    Ok(())
}

/// Where a resource has a pod's metadata and spec; nothing for those that make no pods.
fn template(resource: &Resource) -> Option<&'static [&'static str]> {
    match (resource.group.as_ref(), resource.plural.as_ref()) {
        ("", "pods") => Some(&[]),
        ("", "podtemplates") => Some(&["template"]),
        ("" | "apps" | "batch", "cronjobs") => Some(&["spec", "jobTemplate", "spec", "template"]),
        ("", "replicationcontrollers")
        | ("apps", "deployments" | "replicasets" | "statefulsets" | "daemonsets")
        | ("batch", "jobs") => Some(&["spec", "template"]),
        _ => None,
    }
}

/// The violations of a level, as upstream words them.
fn evaluate(level: Level, spec: &Value) -> Vec<String> {
    let mut found = Vec::new();
    if level == Level::Privileged {
        return found;
    }
    let pod = Pod {
        spec,
        containers: ["initContainers", "containers", "ephemeralContainers"]
            .iter()
            .flat_map(|kind| items(spec, kind))
            .collect(),
    };
    pod.baseline(level, &mut found);
    if level == Level::Restricted {
        pod.restricted(&mut found);
    }
    found
}

struct Pod<'a> {
    spec: &'a Value,
    containers: Vec<&'a Value>,
}

fn quoted(names: &[&str]) -> String {
    let names: Vec<String> = names.iter().map(|n| format!("{n:?}")).collect();
    names.join(", ")
}

/// `container "a"` or `containers "a", "b"`.
fn listed(what: &str, names: &[&str]) -> String {
    let plural = if names.len() == 1 { "" } else { "s" };
    format!("{what}{plural} {}", quoted(names))
}

impl<'a> Pod<'a> {
    /// Names of the containers whose security context is as asked.
    fn with(&self, wanted: impl Fn(&Value) -> bool) -> Vec<&'a str> {
        let found = self.containers.iter().filter(|c| wanted(&c["securityContext"]));
        found.filter_map(|c| c["name"].as_str()).collect()
    }

    fn baseline(&self, level: Level, found: &mut Vec<String>) {
        let context = &self.spec["securityContext"];
        let hosts: Vec<String> = ["hostNetwork", "hostPID", "hostIPC"]
            .iter()
            .filter(|f| self.spec[**f] == true)
            .map(|f| format!("{f}=true"))
            .collect();
        if !hosts.is_empty() {
            found.push(format!("host namespaces ({})", hosts.join(", ")));
        }
        let privileged = self.with(|c| c["privileged"] == true);
        if !privileged.is_empty() {
            let who = listed("container", &privileged);
            found.push(format!(
                "privileged ({who} must not set securityContext.privileged=true)"
            ));
        }
        // The restricted level says more about capabilities.
        if level == Level::Baseline {
            self.capabilities(&DEFAULT_CAPABILITIES, "non-default capabilities", found);
        }
        let volumes: Vec<&str> = items(self.spec, "volumes")
            .iter()
            .filter(|v| !v["hostPath"].is_null())
            .filter_map(|v| v["name"].as_str())
            .collect();
        if !volumes.is_empty() && level == Level::Baseline {
            found.push(format!("hostPath volumes ({})", listed("volume", &volumes)));
        }
        let ports: Vec<String> = self
            .containers
            .iter()
            .flat_map(|c| items(c, "ports").iter().map(move |p| (c, p)))
            .filter(|(_, p)| p["hostPort"].as_i64().unwrap_or(0) != 0)
            .map(|(c, p)| format!("container {} uses hostPort {}", c["name"], p["hostPort"]))
            .collect();
        if !ports.is_empty() {
            found.push(format!("hostPort ({})", ports.join(", ")));
        }
        let masks = self.with(|c| c["procMount"].as_str().is_some_and(|m| m != "Default"));
        if !masks.is_empty() {
            let who = listed("container", &masks);
            found.push(format!(
                "procMount ({who} must not set securityContext.procMount to \"Unmasked\")"
            ));
        }
        let linux = |c: &Value| {
            let kind = c["seLinuxOptions"]["type"].as_str().unwrap_or_default();
            let allowed = [
                "",
                "container_t",
                "container_init_t",
                "container_kvm_t",
                "container_engine_t",
            ];
            !allowed.contains(&kind)
                || ["user", "role"]
                    .iter()
                    .any(|f| c["seLinuxOptions"][*f].as_str().is_some_and(|v| !v.is_empty()))
        };
        self.either(
            "seLinuxOptions",
            "must not set forbidden securityContext.seLinuxOptions",
            linux,
            found,
        );
        self.either(
            "forbidden AppArmor profile",
            "must not set AppArmor profile type to \"Unconfined\"",
            |c| c["appArmorProfile"]["type"] == "Unconfined",
            found,
        );
        if level == Level::Baseline {
            self.either(
                "seccompProfile",
                "must not set securityContext.seccompProfile.type to \"Unconfined\"",
                |c| c["seccompProfile"]["type"] == "Unconfined",
                found,
            );
        }
        let sysctls: Vec<&str> = items(context, "sysctls")
            .iter()
            .filter_map(|s| s["name"].as_str())
            .filter(|name| !SAFE_SYSCTLS.contains(name))
            .collect();
        if !sysctls.is_empty() {
            found.push(format!("forbidden sysctls ({})", sysctls.join(", ")));
        }
        self.either(
            "hostProcess",
            "must not set securityContext.windowsOptions.hostProcess=true",
            |c| c["windowsOptions"]["hostProcess"] == true,
            found,
        );
    }

    /// A rule for the security context of the pod and of each container.
    fn either(&self, name: &str, must: &str, wrong: impl Fn(&Value) -> bool, found: &mut Vec<String>) {
        let mut who = Vec::new();
        if wrong(&self.spec["securityContext"]) {
            who.push("pod".to_owned());
        }
        let containers = self.with(&wrong);
        if !containers.is_empty() {
            who.push(listed("container", &containers));
        }
        if !who.is_empty() {
            found.push(format!("{name} ({} {must})", who.join(" and ")));
        }
    }

    fn capabilities(&self, allowed: &[&str], title: &str, found: &mut Vec<String>) {
        let mut who = Vec::new();
        let mut names: Vec<&str> = Vec::new();
        for container in &self.containers {
            let added = items(&container["securityContext"]["capabilities"], "add").iter();
            let wrong: Vec<&str> = added
                .filter_map(Value::as_str)
                .filter(|c| !allowed.contains(c))
                .collect();
            if !wrong.is_empty() {
                who.extend(container["name"].as_str());
                names.extend(wrong);
            }
        }
        if !who.is_empty() {
            names.sort_unstable();
            names.dedup();
            found.push(format!(
                "{title} ({} must not include {} in securityContext.capabilities.add)",
                listed("container", &who),
                quoted(&names)
            ));
        }
    }

    fn restricted(&self, found: &mut Vec<String>) {
        let escalating = self.with(|c| c["allowPrivilegeEscalation"] != false);
        if !escalating.is_empty() {
            let who = listed("container", &escalating);
            found.push(format!(
                "allowPrivilegeEscalation != false ({who} must set securityContext.allowPrivilegeEscalation=false)"
            ));
        }
        let keeping = self.with(|c| !items(&c["capabilities"], "drop").iter().any(|d| d == "ALL"));
        if !keeping.is_empty() {
            let who = listed("container", &keeping);
            found.push(format!(
                "unrestricted capabilities ({who} must set securityContext.capabilities.drop=[\"ALL\"])"
            ));
        }
        self.capabilities(&["NET_BIND_SERVICE"], "unrestricted capabilities", found);
        let volumes: Vec<String> = items(self.spec, "volumes")
            .iter()
            .filter_map(|volume| {
                let mut kinds = volume.as_object()?.keys().filter(|k| *k != "name");
                let kind = kinds.find(|k| !PLAIN_VOLUMES.contains(&k.as_str()))?;
                Some(format!(
                    "volume {} uses restricted volume type {kind:?}",
                    volume["name"]
                ))
            })
            .collect();
        if !volumes.is_empty() {
            found.push(format!("restricted volume types ({})", volumes.join(", ")));
        }
        let context = &self.spec["securityContext"];
        let root = self.with(|c| {
            let own = &c["runAsNonRoot"];
            *own == false || (own.is_null() && context["runAsNonRoot"] != true)
        });
        if !root.is_empty() {
            let who = listed("container", &root);
            found.push(format!(
                "runAsNonRoot != true (pod or {who} must set securityContext.runAsNonRoot=true)"
            ));
        }
        self.either(
            "runAsUser=0",
            "must not set runAsUser=0",
            |c| c["runAsUser"] == 0,
            found,
        );
        let open = |c: &Value| {
            let kind = c["seccompProfile"]["type"].as_str();
            let kind = kind.or(context["seccompProfile"]["type"].as_str());
            !matches!(kind, Some("RuntimeDefault" | "Localhost"))
        };
        let open = self.with(open);
        if !open.is_empty() {
            let who = listed("container", &open);
            found.push(format!(
                "seccompProfile (pod or {who} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \
                 \"Localhost\")"
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn baseline_forbids_the_host() {
        let spec = json!({"hostNetwork": true, "volumes": [{"name": "v", "hostPath": {"path": "/"}}], "containers": [
            {"name": "c", "ports": [{"hostPort": 80}],
                "securityContext": {"privileged": true, "capabilities": {"add": ["NET_ADMIN", "CHOWN"]}}},
        ]});
        assert_eq!(
            evaluate(Level::Baseline, &spec),
            [
                "host namespaces (hostNetwork=true)",
                "privileged (container \"c\" must not set securityContext.privileged=true)",
                "non-default capabilities (container \"c\" must not include \"NET_ADMIN\" in \
                 securityContext.capabilities.add)",
                "hostPath volumes (volume \"v\")",
                "hostPort (container \"c\" uses hostPort 80)",
            ]
        );
        assert!(evaluate(Level::Privileged, &spec).is_empty());
        assert!(evaluate(Level::Baseline, &json!({"containers": [{"name": "c"}]})).is_empty());
    }

    #[test]
    fn restricted_wants_everything_said() {
        let spec = json!({"containers": [{"name": "a"}, {"name": "b"}]});
        assert_eq!(
            evaluate(Level::Restricted, &spec),
            [
                "allowPrivilegeEscalation != false (containers \"a\", \"b\" must set \
                 securityContext.allowPrivilegeEscalation=false)",
                "unrestricted capabilities (containers \"a\", \"b\" must set \
                 securityContext.capabilities.drop=[\"ALL\"])",
                "runAsNonRoot != true (pod or containers \"a\", \"b\" must set securityContext.runAsNonRoot=true)",
                "seccompProfile (pod or containers \"a\", \"b\" must set securityContext.seccompProfile.type to \
                 \"RuntimeDefault\" or \"Localhost\")",
            ]
        );
        let good = json!({
            "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{"name": "a", "securityContext": {
                "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]},
            }}],
        });
        assert!(evaluate(Level::Restricted, &good).is_empty());
    }
}
