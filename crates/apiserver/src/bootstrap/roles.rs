//! The default roles and bindings, from the table in `roles.txt`.

use crate::authz::Rule;
use serde_json::{Value, json};

const TABLE: &str = include_str!("roles.txt");
const GROUP: &str = "rbac.authorization.k8s.io";

/// One entry of the table.
#[derive(Debug)]
pub enum Entry {
    /// A role with its labels.
    Role {
        /// Name.
        name: &'static str,
        /// Labels, `key=value`.
        labels: Vec<&'static str>,
        /// Rules.
        rules: Vec<Rule>,
    },
    /// A role that is the sum of those with one of these labels.
    Aggregate {
        /// Name.
        name: &'static str,
        /// Label keys.
        labels: Vec<&'static str>,
    },
    /// A binding of a role to subjects.
    Binding {
        /// Name.
        name: &'static str,
        /// The role.
        role: &'static str,
        /// `user:`, `group:` or `account:` and a name.
        subjects: Vec<&'static str>,
    },
}

/// The table.
pub fn entries() -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::new();
    for line in TABLE.lines() {
        let words: Vec<&'static str> = line.split_whitespace().collect();
        // Rules are indented: their verbs (`bind`) may be words of the table.
        if line.starts_with(' ') {
            if let Some(Entry::Role { rules, .. }) = entries.last_mut() {
                rules.push(rule(&words));
            }
            continue;
        }
        match words.as_slice() {
            [] => {}
            [first, ..] if first.starts_with('#') => {}
            ["role", name, labels @ ..] => {
                entries.push(Entry::Role {
                    name,
                    labels: labels.to_vec(),
                    rules: Vec::new(),
                });
            }
            ["aggregate", name, labels @ ..] => entries.push(Entry::Aggregate {
                name,
                labels: labels.to_vec(),
            }),
            ["bind", name, role, subjects @ ..] => {
                entries.push(Entry::Binding {
                    name,
                    role,
                    subjects: subjects.to_vec(),
                });
            }
            _ => {}
        }
    }
    entries
}

fn rule(words: &[&str]) -> Rule {
    let list = |text: &str| -> Vec<String> {
        text.split(',')
            .map(|w| if w == "core" { String::new() } else { w.to_owned() })
            .collect()
    };
    match words {
        [verbs, paths] => Rule {
            verbs: list(verbs),
            paths: list(paths),
            ..Rule::default()
        },
        [verbs, groups, resources, names @ ..] => Rule {
            verbs: list(verbs),
            groups: list(groups),
            resources: list(resources),
            names: names.first().map(|n| list(n)).unwrap_or_default(),
            paths: Vec::new(),
        },
        _ => Rule::default(),
    }
}

/// The rules of a default role.
pub fn rules_of(wanted: &str) -> Vec<Rule> {
    let found = entries().into_iter().find_map(|entry| match entry {
        Entry::Role { name, rules, .. } if name == wanted => Some(rules),
        _ => None,
    });
    found.unwrap_or_default()
}

/// A rule as it stands in a role.
pub fn rule_value(rule: &Rule) -> Value {
    let mut value = json!({"verbs": rule.verbs});
    for (field, list) in [
        ("apiGroups", &rule.groups),
        ("resources", &rule.resources),
        ("resourceNames", &rule.names),
        ("nonResourceURLs", &rule.paths),
    ] {
        if !list.is_empty() {
            value[field] = list.clone().into();
        }
    }
    value
}

impl Entry {
    /// (plural, object) to store.
    pub fn object(&self) -> (&'static str, Value) {
        let metadata = |name: &str| {
            json!({
                "name": name, "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"},
                "annotations": {format!("{GROUP}/autoupdate"): "true"},
            })
        };
        let api_version = format!("{GROUP}/v1");
        match self {
            Self::Role { name, labels, rules } => {
                let mut value =
                    json!({"apiVersion": api_version, "kind": "ClusterRole", "metadata": metadata(name)});
                for (key, text) in labels.iter().filter_map(|label| label.split_once('=')) {
                    value["metadata"]["labels"][key] = text.into();
                }
                value["rules"] = rules.iter().map(rule_value).collect();
                ("clusterroles", value)
            }
            Self::Aggregate { name, labels } => {
                let selectors: Vec<Value> = labels
                    .iter()
                    .map(|label| json!({"matchLabels": {*label: "true"}}))
                    .collect();
                let mut meta = metadata(name);
                if *name != "admin" {
                    meta["labels"][format!("{GROUP}/aggregate-to-admin")] = "true".into();
                }
                let value = json!({
                    "apiVersion": api_version, "kind": "ClusterRole", "metadata": meta,
                    "aggregationRule": {"clusterRoleSelectors": selectors}, "rules": [],
                });
                ("clusterroles", value)
            }
            Self::Binding { name, role, subjects } => {
                let subjects: Vec<Value> = subjects.iter().filter_map(|s| subject(s)).collect();
                let value = json!({
                    "apiVersion": api_version, "kind": "ClusterRoleBinding", "metadata": metadata(name),
                    "roleRef": {"apiGroup": GROUP, "kind": "ClusterRole", "name": role}, "subjects": subjects,
                });
                ("clusterrolebindings", value)
            }
        }
    }
}

fn subject(text: &str) -> Option<Value> {
    match text.split_once(':')? {
        ("user", name) => Some(json!({"apiGroup": GROUP, "kind": "User", "name": name})),
        ("group", name) => Some(json!({"apiGroup": GROUP, "kind": "Group", "name": name})),
        ("account", rest) => {
            let (namespace, name) = rest.split_once(':')?;
            Some(json!({"kind": "ServiceAccount", "namespace": namespace, "name": name}))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_complete() {
        let entries = entries();
        let roles: Vec<&str> = entries
            .iter()
            .filter_map(|e| match e {
                Entry::Role { name, rules, .. } => {
                    assert!(
                        rules.iter().all(|r| !r.verbs.is_empty()) && !rules.is_empty(),
                        "{name}"
                    );
                    Some(*name)
                }
                Entry::Aggregate { name, .. } => Some(*name),
                Entry::Binding { .. } => None,
            })
            .collect();
        for entry in &entries {
            if let Entry::Binding { name, role, subjects } = entry {
                assert!(roles.contains(role), "{name}");
                assert!(subjects.iter().all(|s| subject(s).is_some()), "{name}");
            }
        }
    }

    #[test]
    fn nobody_but_masters_and_controllers_reads_all_secrets() {
        let wanted = crate::authz::Attributes {
            verb: "list".into(),
            resource: "secrets".into(),
            ..crate::authz::Attributes::default()
        };
        for entry in entries() {
            if let Entry::Role { name, rules, .. } = entry {
                let reads = rules.iter().any(|r| r.allows(&wanted));
                let may = matches!(
                    name,
                    "cluster-admin" | "system:kube-controller-manager" | "system:aggregate-to-edit"
                );
                assert!(!reads || may, "{name}");
            }
        }
    }
}
