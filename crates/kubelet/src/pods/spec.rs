//! Questions about a pod's spec that several parts ask.

use crate::quantity;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use std::borrow::Cow;

/// Grace period of a pod that names none (only pods written before defaulting).
pub const DEFAULT_GRACE_SECS: i64 = 30;

/// Identity of a pod, in pieces that logs, paths and labels need.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PodId {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// UID.
    pub uid: String,
}

impl PodId {
    /// Of a pod from the API.
    pub fn of(pod: &Pod) -> Self {
        Self {
            namespace: pod.metadata.namespace.clone().unwrap_or_default(),
            name: pod.metadata.name.clone().unwrap_or_default(),
            uid: pod.metadata.uid.clone().unwrap_or_default(),
        }
    }
}

impl std::fmt::Display for PodId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}_{}({})", self.name, self.namespace, self.uid)
    }
}

/// Which list of the spec a container stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// `initContainers`.
    Init,
    /// `containers`.
    App,
    /// `ephemeralContainers`.
    Ephemeral,
}

/// The pod's spec; a pod from the API always has one.
pub fn spec(pod: &Pod) -> Cow<'_, PodSpec> {
    match &pod.spec {
        Some(spec) => Cow::Borrowed(spec),
        None => Cow::Owned(PodSpec::default()),
    }
}

/// All containers with their kind: init, app, ephemeral.
pub fn containers(spec: &PodSpec) -> Vec<(Kind, Cow<'_, Container>)> {
    let init = spec.init_containers.iter().flatten();
    let ephemeral = spec.ephemeral_containers.iter().flatten();
    init.map(|c| (Kind::Init, Cow::Borrowed(c)))
        .chain(spec.containers.iter().map(|c| (Kind::App, Cow::Borrowed(c))))
        .chain(ephemeral.map(|c| (Kind::Ephemeral, Cow::Owned(plain(c)))))
        .collect()
}

/// An ephemeral container as an ordinary one: it has the same fields and one more.
fn plain(container: &k8s_openapi::api::core::v1::EphemeralContainer) -> Container {
    serde_json::to_value(container)
        .and_then(serde_json::from_value)
        .unwrap_or_else(|_| Container {
            name: container.name.clone(),
            ..Container::default()
        })
}

/// Whether an init container keeps running beside the app containers.
pub fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// When containers are restarted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestartPolicy {
    /// Whatever their exit code was.
    Always,
    /// When it was not 0.
    OnFailure,
    /// Not.
    Never,
}

/// A policy by its name; the default is `Always`.
pub fn policy_named(name: Option<&str>) -> RestartPolicy {
    match name {
        Some("OnFailure") => RestartPolicy::OnFailure,
        Some("Never") => RestartPolicy::Never,
        _ => RestartPolicy::Always,
    }
}

/// The policy of the pod.
pub fn restart_policy(spec: &PodSpec) -> RestartPolicy {
    policy_named(spec.restart_policy.as_deref())
}

/// Whether a container that ended with `exit_code` is started again.
pub fn restarts(spec: &PodSpec, kind: Kind, container: &Container, exit_code: i32) -> bool {
    if kind == Kind::Ephemeral {
        return false;
    }
    if kind == Kind::Init && is_sidecar(container) {
        return true;
    }
    for rule in container.restart_policy_rules.iter().flatten() {
        let Some(codes) = &rule.exit_codes else { continue };
        let listed = codes.values.iter().flatten().any(|v| *v == exit_code);
        if listed == (codes.operator == "In") {
            return rule.action == "Restart";
        }
    }
    let policy = match &container.restart_policy {
        Some(own) => policy_named(Some(own)),
        None => restart_policy(spec),
    };
    match policy {
        // An init container that succeeded is done.
        RestartPolicy::Always => kind == Kind::App || exit_code != 0,
        RestartPolicy::OnFailure => exit_code != 0,
        RestartPolicy::Never => false,
    }
}

/// Quality of service: who is killed first when memory is short, and where the pod's cgroup lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Qos {
    /// Requests equal limits for CPU and memory in every container.
    Guaranteed,
    /// Some request or limit.
    Burstable,
    /// None.
    BestEffort,
}

impl Qos {
    /// As `status.qosClass` shows it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        }
    }
}

/// The class of a pod. Only CPU and memory count.
pub fn qos(spec: &PodSpec) -> Qos {
    let mut guaranteed = true;
    let mut any = false;
    for (_, container) in containers(spec)
        .iter()
        .filter(|(kind, _)| *kind != Kind::Ephemeral)
    {
        for resource in ["cpu", "memory"] {
            let of = |map: Option<&std::collections::BTreeMap<_, _>>| {
                map.and_then(|m| m.get(resource))
                    .and_then(quantity::milli)
                    .filter(|v| *v != 0)
            };
            let resources = container.resources.as_ref();
            let limit = of(resources.and_then(|r| r.limits.as_ref()));
            let request = of(resources.and_then(|r| r.requests.as_ref())).or(limit);
            any |= limit.is_some() || request.is_some();
            guaranteed &= limit.is_some() && limit == request;
        }
    }
    match (any, guaranteed) {
        (false, _) => Qos::BestEffort,
        (true, true) => Qos::Guaranteed,
        (true, false) => Qos::Burstable,
    }
}

/// Grace period in seconds for stopping the pod: of its deletion, if it is being deleted, else of its spec.
pub fn grace_secs(pod: &Pod) -> i64 {
    pod.metadata
        .deletion_grace_period_seconds
        .or_else(|| pod.spec.as_ref().and_then(|s| s.termination_grace_period_seconds))
        .unwrap_or(DEFAULT_GRACE_SECS)
}

/// Hash of what makes a running container obsolete when it changes: its name and image, as upstream. FNV-1a,
/// so that it is the same in every build.
pub fn hash(container: &Container) -> String {
    let image = container.image.as_deref().unwrap_or_default();
    let mut hash: u32 = 0x811c_9dc5;
    for byte in container.name.bytes().chain([0]).chain(image.bytes()) {
        hash = (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
    }
    format!("{hash:08x}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn of(value: serde_json::Value) -> PodSpec {
        serde_json::from_value(value).expect("a spec")
    }

    #[test]
    fn qos_classes() {
        let none = of(json!({"containers": [{"name": "a"}]}));
        assert_eq!(qos(&none), Qos::BestEffort);
        let limits = json!({"limits": {"cpu": "1", "memory": "1Gi"}});
        let limited = of(json!({"containers": [{"name": "a", "resources": limits}]}));
        assert_eq!(qos(&limited), Qos::Guaranteed);
        let mixed = of(json!({"containers": [{"name": "a", "resources": limits}, {"name": "b"}]}));
        assert_eq!(qos(&mixed), Qos::Burstable);
        let request = json!({"requests": {"cpu": "100m"}});
        assert_eq!(
            qos(&of(json!({"containers": [{"name": "a", "resources": request}]}))),
            Qos::Burstable
        );
    }

    #[test]
    fn restart_rules() {
        let spec = of(json!({"restartPolicy": "OnFailure", "containers": [{"name": "a"}]}));
        assert!(restarts(&spec, Kind::App, &spec.containers[0], 1));
        assert!(!restarts(&spec, Kind::App, &spec.containers[0], 0));
        let always = of(json!({"containers": [{"name": "a"}]}));
        assert!(restarts(&always, Kind::App, &always.containers[0], 0));
        assert!(
            !restarts(&always, Kind::Init, &always.containers[0], 0),
            "init containers end"
        );
        let rules = of(
            json!({"restartPolicy": "Never", "containers": [{"name": "a", "restartPolicy": "Never",
            "restartPolicyRules": [{"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}]}]}),
        );
        assert!(restarts(&rules, Kind::App, &rules.containers[0], 42));
        assert!(!restarts(&rules, Kind::App, &rules.containers[0], 1));
    }
}
