//! What the published API description does not say about a resource: where and how upstream stores and counts it.

use crate::registry::Text;

/// Behaviour of a resource's strategy.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Traits {
    pub generation: bool,
    pub graceful: bool,
    pub create_on_update: bool,
    pub unconditional_update: bool,
}

/// Resources whose changes of the desired state are counted in `metadata.generation`.
const GENERATION: &[(&str, &str)] = &[
    ("", "pods"),
    ("", "replicationcontrollers"),
    ("admissionregistration.k8s.io", "mutatingadmissionpolicies"),
    ("admissionregistration.k8s.io", "mutatingadmissionpolicybindings"),
    ("admissionregistration.k8s.io", "mutatingwebhookconfigurations"),
    ("admissionregistration.k8s.io", "validatingadmissionpolicies"),
    (
        "admissionregistration.k8s.io",
        "validatingadmissionpolicybindings",
    ),
    ("admissionregistration.k8s.io", "validatingwebhookconfigurations"),
    ("apiextensions.k8s.io", "customresourcedefinitions"),
    ("apps", "daemonsets"),
    ("apps", "deployments"),
    ("apps", "replicasets"),
    ("apps", "statefulsets"),
    ("batch", "cronjobs"),
    ("batch", "jobs"),
    ("discovery.k8s.io", "endpointslices"),
    ("flowcontrol.apiserver.k8s.io", "flowschemas"),
    ("flowcontrol.apiserver.k8s.io", "prioritylevelconfigurations"),
    ("networking.k8s.io", "ingressclasses"),
    ("networking.k8s.io", "ingresses"),
    ("networking.k8s.io", "networkpolicies"),
    ("policy", "poddisruptionbudgets"),
    ("resource.k8s.io", "deviceclasses"),
    ("resource.k8s.io", "resourceslices"),
    ("scheduling.k8s.io", "priorityclasses"),
    ("storage.k8s.io", "csidrivers"),
];

/// Resources where a PUT to a new name creates the object.
const CREATE_ON_UPDATE: &[(&str, &str)] = &[
    ("", "endpoints"),
    ("", "events"),
    ("", "limitranges"),
    ("", "services"),
    ("coordination.k8s.io", "leases"),
    ("events.k8s.io", "events"),
    ("rbac.authorization.k8s.io", "clusterrolebindings"),
    ("rbac.authorization.k8s.io", "clusterroles"),
    ("rbac.authorization.k8s.io", "rolebindings"),
    ("rbac.authorization.k8s.io", "roles"),
];

/// Resources where an update must carry the resourceVersion that it is based on.
const CONDITIONAL_UPDATE: &[(&str, &str)] = &[
    ("admissionregistration.k8s.io", "mutatingadmissionpolicies"),
    ("admissionregistration.k8s.io", "mutatingadmissionpolicybindings"),
    ("admissionregistration.k8s.io", "mutatingwebhookconfigurations"),
    ("admissionregistration.k8s.io", "validatingadmissionpolicies"),
    (
        "admissionregistration.k8s.io",
        "validatingadmissionpolicybindings",
    ),
    ("admissionregistration.k8s.io", "validatingwebhookconfigurations"),
    ("apiextensions.k8s.io", "customresourcedefinitions"),
    ("apiregistration.k8s.io", "apiservices"),
    ("coordination.k8s.io", "leases"),
    ("node.k8s.io", "runtimeclasses"),
    ("policy", "poddisruptionbudgets"),
    ("storage.k8s.io", "csidrivers"),
    ("storage.k8s.io", "csinodes"),
    ("storage.k8s.io", "csistoragecapacities"),
    ("storage.k8s.io", "volumeattachments"),
];

/// Prefixes below `/registry` that are not the plural name.
const PREFIXES: &[(&str, &str, &str)] = &[
    ("", "nodes", "minions"),
    ("", "replicationcontrollers", "controllers"),
    ("", "services", "services/specs"),
    ("", "endpoints", "services/endpoints"),
    ("networking.k8s.io", "ingresses", "ingress"),
    (
        "apiregistration.k8s.io",
        "apiservices",
        "apiregistration.k8s.io/apiservices",
    ),
    (
        "apiextensions.k8s.io",
        "customresourcedefinitions",
        "apiextensions.k8s.io/customresourcedefinitions",
    ),
];

/// The strategy of a resource.
pub(crate) fn of(group: &str, plural: &str) -> Traits {
    let key = (group, plural);
    Traits {
        generation: GENERATION.contains(&key),
        graceful: key == ("", "pods"),
        create_on_update: CREATE_ON_UPDATE.contains(&key),
        unconditional_update: !CONDITIONAL_UPDATE.contains(&key),
    }
}

/// The full storage prefix of a resource.
pub(crate) fn storage_prefix(group: &str, plural: &str) -> String {
    let below = PREFIXES
        .iter()
        .find(|(g, p, _)| *g == group && *p == plural)
        .map_or(plural, |(_, _, b)| b);
    format!("/registry/{below}")
}

/// The (group, version) in which a resource is stored.
pub(crate) fn storage_version(group: &'static str, version: &'static str, plural: &str) -> (Text, Text) {
    match (group, plural) {
        ("events.k8s.io", "events") => ("".into(), "v1".into()),
        ("autoscaling", "horizontalpodautoscalers") => ("autoscaling".into(), "v2".into()),
        _ => (group.into(), version.into()),
    }
}
