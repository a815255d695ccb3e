//! Which rules belong to which resource.
//!
//! Every stable built-in resource has an entry here (a test holds it to that): its content, what must not change, and
//! what its status must obey.

use std::collections::HashMap;
use std::sync::OnceLock;

use serde_json::Value;

use super::cause::Causes;
use super::{
    access, admission, apps, autoscale, config, definition, device, events, extension, flow, job, network,
    node, pod, quota, service, status, storage, update,
};

/// Rules of one resource.
#[derive(Clone, Copy)]
pub(super) struct Rules {
    /// Of the object, new or changed.
    pub(super) content: fn(&mut Causes, &Value),
    /// Of a change of the desired state: old, new.
    pub(super) change: fn(&mut Causes, &Value, &Value),
    /// Of a changed status: old object, new object.
    pub(super) status: fn(&mut Causes, &Value, &Value),
}

/// Metadata says it all.
fn no_content(_: &mut Causes, _: &Value) {}

/// Anything may change.
fn any_change(_: &mut Causes, _: &Value, _: &Value) {}

/// Rules of the content alone.
const fn content(content: fn(&mut Causes, &Value)) -> Rules {
    Rules {
        content,
        change: any_change,
        status: any_change,
    }
}

impl Rules {
    const fn change(self, change: fn(&mut Causes, &Value, &Value)) -> Rules {
        Rules { change, ..self }
    }

    const fn status(self, status: fn(&mut Causes, &Value, &Value)) -> Rules {
        Rules { status, ..self }
    }
}

/// (group, plural, rules) of every stable built-in resource.
const TABLE: &[(&str, &str, Rules)] = &[
    ("", "bindings", content(node::binding)),
    ("", "componentstatuses", content(no_content)),
    (
        "",
        "configmaps",
        content(config::config_map).change(update::config_map),
    ),
    ("", "endpoints", content(network::endpoints)),
    ("", "events", content(events::core)),
    ("", "limitranges", content(quota::limit_range)),
    (
        "",
        "namespaces",
        content(extension::namespace).status(status::namespace),
    ),
    (
        "",
        "nodes",
        content(node::node).change(update::node).status(status::node),
    ),
    (
        "",
        "persistentvolumeclaims",
        content(storage::claim)
            .change(update::claim)
            .status(status::claim),
    ),
    (
        "",
        "persistentvolumes",
        content(storage::volume).change(update::volume),
    ),
    (
        "",
        "pods",
        content(pod::pod).change(update::pod).status(status::pod),
    ),
    ("", "podtemplates", content(pod::pod_template)),
    (
        "",
        "replicationcontrollers",
        content(apps::replication_controller).status(status::replicas),
    ),
    (
        "",
        "resourcequotas",
        content(quota::resource_quota)
            .change(update::quota)
            .status(status::quota),
    ),
    ("", "secrets", content(config::secret).change(update::secret)),
    ("", "serviceaccounts", content(no_content)),
    (
        "",
        "services",
        content(service::service)
            .change(update::service)
            .status(status::load_balancer),
    ),
    (
        "admissionregistration.k8s.io",
        "mutatingadmissionpolicies",
        content(admission::mutating_policy),
    ),
    (
        "admissionregistration.k8s.io",
        "mutatingadmissionpolicybindings",
        content(admission::mutating_binding),
    ),
    (
        "admissionregistration.k8s.io",
        "mutatingwebhookconfigurations",
        content(admission::webhooks),
    ),
    (
        "admissionregistration.k8s.io",
        "validatingadmissionpolicies",
        content(admission::validating_policy),
    ),
    (
        "admissionregistration.k8s.io",
        "validatingadmissionpolicybindings",
        content(admission::validating_binding),
    ),
    (
        "admissionregistration.k8s.io",
        "validatingwebhookconfigurations",
        content(admission::webhooks),
    ),
    (
        "apiextensions.k8s.io",
        "customresourcedefinitions",
        content(definition::custom_resource).change(update::custom_resource_definition),
    ),
    (
        "apiregistration.k8s.io",
        "apiservices",
        content(definition::api_service),
    ),
    (
        "apps",
        "controllerrevisions",
        content(apps::controller_revision).change(update::controller_revision),
    ),
    (
        "apps",
        "daemonsets",
        content(apps::daemon_set)
            .change(update::selector)
            .status(status::daemon_set),
    ),
    (
        "apps",
        "deployments",
        content(apps::deployment)
            .change(update::selector)
            .status(status::deployment),
    ),
    (
        "apps",
        "replicasets",
        content(apps::replica_set)
            .change(update::selector)
            .status(status::replicas),
    ),
    (
        "apps",
        "statefulsets",
        content(apps::stateful_set)
            .change(update::stateful_set)
            .status(status::stateful_set),
    ),
    ("authentication.k8s.io", "selfsubjectreviews", content(no_content)),
    (
        "authentication.k8s.io",
        "tokenreviews",
        content(access::token_review),
    ),
    (
        "authorization.k8s.io",
        "localsubjectaccessreviews",
        content(access::local_review),
    ),
    (
        "authorization.k8s.io",
        "selfsubjectaccessreviews",
        content(access::self_review),
    ),
    (
        "authorization.k8s.io",
        "selfsubjectrulesreviews",
        content(no_content),
    ),
    (
        "authorization.k8s.io",
        "subjectaccessreviews",
        content(access::subject_review),
    ),
    (
        "autoscaling",
        "horizontalpodautoscalers",
        content(autoscale::autoscaler).status(status::autoscaler),
    ),
    ("batch", "cronjobs", content(job::cron_job)),
    (
        "batch",
        "jobs",
        content(job::job).change(update::job).status(status::job),
    ),
    (
        "certificates.k8s.io",
        "certificatesigningrequests",
        content(access::certificate_request).status(status::certificate_request),
    ),
    ("coordination.k8s.io", "leases", content(extension::lease)),
    (
        "discovery.k8s.io",
        "endpointslices",
        content(network::endpoint_slice).change(update::endpoint_slice),
    ),
    (
        "events.k8s.io",
        "events",
        content(events::v1).change(events::v1_change),
    ),
    (
        "flowcontrol.apiserver.k8s.io",
        "flowschemas",
        content(flow::flow_schema),
    ),
    (
        "flowcontrol.apiserver.k8s.io",
        "prioritylevelconfigurations",
        content(flow::priority_level),
    ),
    (
        "networking.k8s.io",
        "ingressclasses",
        content(network::ingress_class).change(update::ingress_class),
    ),
    (
        "networking.k8s.io",
        "ingresses",
        content(network::ingress).status(status::load_balancer),
    ),
    (
        "networking.k8s.io",
        "ipaddresses",
        content(network::ip_address).change(update::ip_address),
    ),
    (
        "networking.k8s.io",
        "networkpolicies",
        content(network::network_policy),
    ),
    (
        "networking.k8s.io",
        "servicecidrs",
        content(network::service_cidr).change(update::service_cidr),
    ),
    (
        "node.k8s.io",
        "runtimeclasses",
        content(extension::runtime_class).change(update::runtime_class),
    ),
    (
        "policy",
        "poddisruptionbudgets",
        content(extension::budget).status(status::budget),
    ),
    (
        "rbac.authorization.k8s.io",
        "clusterrolebindings",
        content(access::cluster_binding).change(update::binding),
    ),
    (
        "rbac.authorization.k8s.io",
        "clusterroles",
        content(access::cluster_role),
    ),
    (
        "rbac.authorization.k8s.io",
        "rolebindings",
        content(access::role_binding).change(update::binding),
    ),
    ("rbac.authorization.k8s.io", "roles", content(access::role)),
    ("resource.k8s.io", "deviceclasses", content(device::class)),
    (
        "resource.k8s.io",
        "resourceclaims",
        content(device::claim)
            .change(update::whole_spec)
            .status(device::claim_status),
    ),
    (
        "resource.k8s.io",
        "resourceclaimtemplates",
        content(device::template).change(update::whole_spec),
    ),
    (
        "resource.k8s.io",
        "resourceslices",
        content(device::slice).change(update::resource_slice),
    ),
    (
        "scheduling.k8s.io",
        "priorityclasses",
        content(extension::priority_class).change(update::priority_class),
    ),
    (
        "storage.k8s.io",
        "csidrivers",
        content(storage::csi_driver).change(update::csi_driver),
    ),
    (
        "storage.k8s.io",
        "csinodes",
        content(storage::csi_node).change(update::csi_node),
    ),
    (
        "storage.k8s.io",
        "csistoragecapacities",
        content(storage::capacity).change(update::capacity),
    ),
    (
        "storage.k8s.io",
        "storageclasses",
        content(storage::class).change(update::storage_class),
    ),
    (
        "storage.k8s.io",
        "volumeattachments",
        content(storage::attachment).change(update::whole_spec),
    ),
    (
        "storage.k8s.io",
        "volumeattributesclasses",
        content(storage::attributes_class).change(update::attributes_class),
    ),
];

/// The rules of a built-in resource; none for those of custom ones.
pub(super) fn rules(group: &str, plural: &str) -> Option<Rules> {
    static INDEX: OnceLock<HashMap<(&str, &str), Rules>> = OnceLock::new();
    INDEX
        .get_or_init(|| {
            TABLE
                .iter()
                .map(|(group, plural, rules)| ((*group, *plural), *rules))
                .collect()
        })
        .get(&(group, plural))
        .copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_stable_resource_has_rules() {
        for resource in crate::registry().resources() {
            if resource.version.contains("alpha") || resource.version.contains("beta") {
                continue;
            }
            assert!(
                rules(&resource.group, &resource.plural).is_some(),
                "{} has no entry",
                resource.qualified_name()
            );
        }
    }

    #[test]
    fn entries_are_sorted_and_occur_once() {
        let names: Vec<_> = TABLE.iter().map(|(group, plural, _)| (*group, *plural)).collect();
        assert!(names.is_sorted_by(|a, b| a < b));
    }
}
