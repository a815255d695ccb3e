//! Upstream's conformance behaviours: their list, which of them run by default, and what the others wait for.

use super::upstream;
use anyhow::{Result, ensure};
use std::fmt;
use std::path::Path;

/// Fewer than this many behaviours in the suite's own list means that we misread it.
const AT_LEAST: usize = 400;

/// Which behaviours run.
pub enum Selection {
    /// Those that need no running container, and nothing that we know not to have.
    WithoutContainers,
    /// Those whose name matches a regular expression of Go's.
    Focus(String),
    /// All of them.
    All,
}

impl fmt::Display for Selection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WithoutContainers => f.write_str("without containers"),
            Self::Focus(expression) => write!(f, "`{expression}`"),
            Self::All => f.write_str("all"),
        }
    }
}

impl Selection {
    /// The regular expression for the runner, if it is not to run everything.
    pub fn focus(&self, all: &[String]) -> Option<String> {
        match self {
            Self::All => None,
            Self::Focus(expression) => Some(expression.clone()),
            Self::WithoutContainers => {
                let names: Vec<String> = all
                    .iter()
                    .filter(|n| needs_no_container(n))
                    .map(|n| quoted(n))
                    .collect();
                Some(names.join("|"))
            }
        }
    }

    /// How many behaviours run, where that is known beforehand.
    pub fn count(&self, all: &[String]) -> Option<usize> {
        match self {
            Self::All => Some(all.len()),
            Self::Focus(_) => None,
            Self::WithoutContainers => Some(all.iter().filter(|n| needs_no_container(n)).count()),
        }
    }
}

/// The names of all behaviours, from the list in the suite itself.
pub fn list(tests: &Path) -> Result<Vec<String>> {
    let names = names(&upstream::output(tests, &["--list-conformance-tests"])?);
    ensure!(
        names.len() >= AT_LEAST,
        "the suite lists only {} behaviours: its list was misread",
        names.len()
    );
    Ok(names)
}

/// The values of `codename` in a YAML list of flat objects. A value may go on over indented lines, plain or quoted.
fn names(yaml: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut lines = yaml.lines().peekable();
    while let Some(line) = lines.next() {
        let Some(value) = line.trim_start_matches(['-', ' ']).strip_prefix("codename: ") else {
            continue;
        };
        let mut value = value.trim().to_owned();
        while let Some(more) = lines.next_if(|l| l.starts_with("    ")) {
            value.push(' ');
            value.push_str(more.trim());
        }
        names.push(unquoted(&value));
    }
    names.sort();
    names
}

fn unquoted(value: &str) -> String {
    let inside = |quote: char| value.strip_prefix(quote)?.strip_suffix(quote);
    match (inside('\''), inside('"')) {
        (Some(inner), _) => inner.replace("''", "'"),
        (_, Some(inner)) => inner.replace("\\\"", "\"").replace("\\\\", "\\"),
        _ => value.to_owned(),
    }
}

/// The name as a regular expression that matches only itself.
fn quoted(name: &str) -> String {
    let mut quoted = String::new();
    for c in name.chars() {
        if "\\.+*?()|[]{}^$".contains(c) {
            quoted.push('\\');
        }
        quoted.push(c);
    }
    quoted
}

fn needs_no_container(name: &str) -> bool {
    WITHOUT_CONTAINERS.iter().any(|start| name.starts_with(start)) && missing(name).is_none()
}

/// How the names of behaviours start that need an API server, controllers and nodes, but no container that does
/// something (a few wait until a pod runs).
const WITHOUT_CONTAINERS: &[&str] = &[
    "[sig-api-machinery] API priority and fairness",
    "[sig-api-machinery] AggregatedDiscovery",
    "[sig-api-machinery] CustomResourceDefinition",
    "[sig-api-machinery] CustomResourceFieldSelectors",
    "[sig-api-machinery] CustomResourcePublishOpenAPI",
    "[sig-api-machinery] Discovery",
    "[sig-api-machinery] FieldValidation",
    "[sig-api-machinery] Garbage collector",
    "[sig-api-machinery] MutatingAdmissionPolicy",
    "[sig-api-machinery] Namespaces",
    "[sig-api-machinery] ResourceQuota",
    "[sig-api-machinery] Servers with support",
    "[sig-api-machinery] ValidatingAdmissionPolicy",
    "[sig-api-machinery] Watchers",
    "[sig-api-machinery] server version",
    "[sig-apps] CronJob should not schedule jobs when suspended",
    "[sig-apps] CronJob should support CronJob API operations",
    "[sig-apps] DisruptionController Listing",
    "[sig-apps] DisruptionController should create",
    "[sig-apps] DisruptionController should observe",
    "[sig-apps] DisruptionController should update",
    "[sig-apps] Job should apply changes",
    "[sig-apps] Job should manage the lifecycle",
    "[sig-apps] ReplicationController should surface",
    "[sig-apps] ReplicationController should get and update a ReplicationController scale",
    "[sig-architecture]",
    "[sig-auth] Certificates",
    "[sig-auth] ServiceAccounts should allow opting out",
    "[sig-auth] ServiceAccounts should create",
    "[sig-auth] ServiceAccounts should guarantee",
    "[sig-auth] ServiceAccounts should run through",
    "[sig-auth] ServiceAccounts should update",
    "[sig-auth] SubjectReview",
    "[sig-cli] Kubectl client Kubectl api-versions",
    "[sig-cli] Kubectl client Kubectl cluster-info",
    "[sig-cli] Kubectl client Kubectl diff",
    "[sig-cli] Kubectl client Kubectl run pod",
    "[sig-cli] Kubectl client Kubectl version",
    "[sig-cli] Kubectl client Proxy server",
    "[sig-instrumentation]",
    "[sig-network] API Server",
    "[sig-network] EndpointSlice should create and delete",
    "[sig-network] EndpointSlice should support creating",
    "[sig-network] EndpointSliceMirroring",
    "[sig-network] Endpoints should",
    "[sig-network] EndpointsController should create and delete",
    "[sig-network] Ingress",
    "[sig-network] ServiceCIDR",
    "[sig-network] Services should complete",
    "[sig-network] Services should delete a collection",
    "[sig-network] Services should find a service",
    "[sig-node] ConfigMap should fail",
    "[sig-node] ConfigMap should run through",
    "[sig-node] ConfigMap should update",
    "[sig-node] Lease",
    "[sig-node] Node Lifecycle",
    "[sig-node] PodTemplates",
    "[sig-node] Pods Extended Pods Set QOS",
    "[sig-node] Pods should delete a collection",
    "[sig-node] Pods should patch a pod status",
    "[sig-node] RuntimeClass should reject",
    "[sig-node] RuntimeClass should support",
    "[sig-node] Secrets should fail",
    "[sig-node] Secrets should patch",
    "[sig-node] Sysctls [LinuxOnly] [NodeConformance] should reject",
    "[sig-node] [DRA] CRUD",
    "[sig-scheduling] LimitRange",
    "[sig-scheduling] SchedulerPreemption [Serial] PriorityClass",
    "[sig-storage] CSIInlineVolumes",
    "[sig-storage] CSINodes",
    "[sig-storage] CSIStorageCapacity",
    "[sig-storage] ConfigMap should be immutable",
    "[sig-storage] PersistentVolumes",
    "[sig-storage] Secrets should be immutable",
    "[sig-storage] StorageClasses",
    "[sig-storage] VolumeAttachment",
    "[sig-storage] VolumeAttributesClass",
];

/// What a behaviour waits for that did not pass, or did not run.
pub fn waits_for(name: &str, ran: bool) -> &'static str {
    match missing(name) {
        Some(feature) => feature,
        None if ran || needs_no_container(name) => "somebody to look into it",
        None => "a run with containers (`--all`)",
    }
}

/// The feature that we know not to have and without which a behaviour cannot pass.
fn missing(name: &str) -> Option<&'static str> {
    MISSING
        .iter()
        .find(|(part, _)| name.contains(part))
        .map(|(_, feature)| *feature)
}

/// Parts of the names of behaviours, and what they need that does not exist.
const MISSING: &[(&str, &str)] = &[
    ("] AdmissionWebhook", "admission webhooks"),
    ("] CustomResourceConversionWebhook", "conversion webhooks"),
    ("] CustomResourceFieldSelectors", "conversion webhooks"),
    ("] ImageVolume", "volumes made of images"),
    (
        "] StatefulSet Basic StatefulSet functionality [StatefulSetBasic] Should recreate evicted",
        "the kubelet's refusal of pods whose ports are taken",
    ),
    (
        "] Pods should support retrieving logs from the container over websockets",
        "logs over WebSocket",
    ),
    (
        "] Aggregator",
        "aggregation, and an image of the sample API server",
    ),
    (
        "] MutatingAdmissionPolicy [Privileged:ClusterAdmin] should mutate",
        "CEL in admission",
    ),
    (
        "] ValidatingAdmissionPolicy [Privileged:ClusterAdmin] should allow expressions",
        "CEL in admission",
    ),
    (
        "] ValidatingAdmissionPolicy [Privileged:ClusterAdmin] should validate",
        "CEL in admission",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_over_lines_and_through_quotes() {
        let yaml = "- testname: A\n  codename: '[sig-a] it''s\n    one [Conformance]'\n  file: x\n- testname: B\n  \
                    codename: \"[sig-a] \\\"two\\\"\"\n  description: codename\n- codename: '[sig-0] plain'\n";
        assert_eq!(
            names(yaml),
            [
                "[sig-0] plain",
                "[sig-a] \"two\"",
                "[sig-a] it's one [Conformance]"
            ]
        );
    }

    #[test]
    fn a_name_as_an_expression_matches_itself_only() {
        assert_eq!(
            quoted("[sig-a] b. (c) *not*"),
            "\\[sig-a\\] b\\. \\(c\\) \\*not\\*"
        );
    }

    #[test]
    fn what_cannot_pass_is_not_run_by_default() {
        let name = "[sig-api-machinery] ValidatingAdmissionPolicy [Privileged:ClusterAdmin] should validate against a \
                    Deployment";
        assert!(!needs_no_container(name));
        assert_eq!(waits_for(name, true), "CEL in admission");
        let probing = "[sig-node] Probing container";
        assert_eq!(waits_for(probing, false), "a run with containers (`--all`)");
        assert_eq!(waits_for(probing, true), "somebody to look into it");
    }

    #[test]
    fn the_default_selection_is_part_of_all() {
        let all = ["[sig-node] Lease lease API", "[sig-node] Probing container"].map(String::from);
        let selection = Selection::WithoutContainers;
        assert_eq!(selection.count(&all), Some(1));
        assert_eq!(
            selection.focus(&all).as_deref(),
            Some("\\[sig-node\\] Lease lease API")
        );
        assert_eq!(Selection::All.focus(&all), None);
    }
}
