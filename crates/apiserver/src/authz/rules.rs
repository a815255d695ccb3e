//! Policy rules: what they match, and which rules cover which.

use super::Attributes;
use serde_json::Value;

/// One `PolicyRule`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// Verbs, or `*`.
    pub verbs: Vec<String>,
    /// API groups, or `*`.
    pub groups: Vec<String>,
    /// Resources with subresources (`pods/log`, `*/scale`), or `*`.
    pub resources: Vec<String>,
    /// Names; none means all.
    pub names: Vec<String>,
    /// Paths that are no resource; a trailing `*` matches the rest.
    pub paths: Vec<String>,
}

impl Rule {
    /// Reads a `PolicyRule`.
    pub fn from_value(value: &Value) -> Self {
        let list = |field: &str| {
            let items = value[field].as_array().map(Vec::as_slice).unwrap_or_default();
            items
                .iter()
                .filter_map(|v| v.as_str().map(str::to_owned))
                .collect()
        };
        Self {
            verbs: list("verbs"),
            groups: list("apiGroups"),
            resources: list("resources"),
            names: list("resourceNames"),
            paths: list("nonResourceURLs"),
        }
    }

    /// Reads the rules of a role.
    pub fn list(role: &Value) -> Vec<Self> {
        role["rules"]
            .as_array()
            .map(|rules| rules.iter().map(Self::from_value).collect())
            .unwrap_or_default()
    }

    /// Whether the rule allows something.
    pub fn allows(&self, wanted: &Attributes) -> bool {
        if !has(&self.verbs, &wanted.verb) {
            return false;
        }
        if wanted.resource.is_empty() {
            return self.paths.iter().any(|p| path_matches(p, &wanted.path));
        }
        has(&self.groups, &wanted.group)
            && self.covers_resource(&wanted.resource, &wanted.subresource)
            && (self.names.is_empty() || self.names.contains(&wanted.name))
    }

    fn covers_resource(&self, resource: &str, subresource: &str) -> bool {
        self.resources.iter().any(|r| {
            if r == "*" {
                return true;
            }
            match r.split_once('/') {
                None => subresource.is_empty() && r == resource,
                Some((parent, sub)) => sub == subresource && (parent == "*" || parent == resource),
            }
        })
    }

    /// Splits the rule into rules of one verb, group, resource and name each.
    fn parts(&self) -> Vec<Rule> {
        let mut parts = Vec::new();
        let names: Vec<Vec<String>> = if self.names.is_empty() {
            vec![Vec::new()]
        } else {
            self.names.iter().map(|n| vec![n.clone()]).collect()
        };
        for verb in &self.verbs {
            for path in &self.paths {
                let (verbs, paths) = (vec![verb.clone()], vec![path.clone()]);
                parts.push(Rule {
                    verbs,
                    paths,
                    ..Rule::default()
                });
            }
            for group in &self.groups {
                for resource in &self.resources {
                    for names in &names {
                        parts.push(Rule {
                            verbs: vec![verb.clone()],
                            groups: vec![group.clone()],
                            resources: vec![resource.clone()],
                            names: names.clone(),
                            paths: Vec::new(),
                        });
                    }
                }
            }
        }
        parts
    }

    /// Whether the rule allows all that `part` (of one verb, group, resource and name) does.
    fn covers(&self, part: &Rule) -> bool {
        let all = |mine: &[String], wanted: &[String]| wanted.iter().all(|w| has(mine, w));
        let paths = part
            .paths
            .iter()
            .all(|p| self.paths.iter().any(|mine| path_matches(mine, p)));
        let names = self.names.is_empty()
            || (!part.names.is_empty() && part.names.iter().all(|n| self.names.contains(n)));
        let resources = part.resources.iter().all(|r| match r.split_once('/') {
            None => has(&self.resources, r),
            Some((resource, sub)) => self.resources.contains(r) || self.covers_resource(resource, sub),
        });
        all(&self.verbs, &part.verbs) && all(&self.groups, &part.groups) && resources && names && paths
    }
}

/// The parts of `wanted` that none of the `owned` rules covers.
pub fn uncovered(owned: &[Rule], wanted: &[Rule]) -> Vec<Rule> {
    let parts = wanted.iter().flat_map(Rule::parts);
    parts
        .filter(|part| !owned.iter().any(|rule| rule.covers(part)))
        .collect()
}

fn has(list: &[String], item: &str) -> bool {
    list.iter().any(|entry| entry == "*" || entry == item)
}

fn path_matches(pattern: &str, path: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => path.starts_with(start),
        None => pattern == path,
    }
}

impl std::fmt::Display for Rule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut fields = Vec::new();
        for (name, list) in [
            ("APIGroups", &self.groups),
            ("Resources", &self.resources),
            ("ResourceNames", &self.names),
            ("NonResourceURLs", &self.paths),
            ("Verbs", &self.verbs),
        ] {
            if !list.is_empty() {
                fields.push(format!("{name}:{list:?}"));
            }
        }
        write!(f, "{{{}}}", fields.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn rule(value: Value) -> Rule {
        Rule::from_value(&value)
    }

    fn wants(verb: &str, resource: &str, sub: &str, name: &str) -> Attributes {
        Attributes {
            verb: verb.into(),
            resource: resource.into(),
            subresource: sub.into(),
            name: name.into(),
            ..Attributes::default()
        }
    }

    #[test]
    fn subresources_are_not_their_parents() {
        let pods = rule(json!({"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}));
        assert!(pods.allows(&wants("get", "pods", "", "x")));
        assert!(!pods.allows(&wants("get", "pods", "log", "x")));
        assert!(!pods.allows(&wants("list", "pods", "", "")));
        let scale = rule(json!({"apiGroups": ["*"], "resources": ["*/scale"], "verbs": ["*"]}));
        assert!(scale.allows(&wants("update", "deployments", "scale", "x")));
        let named =
            rule(json!({"apiGroups": [""], "resources": ["pods"], "resourceNames": ["x"], "verbs": ["get"]}));
        assert!(named.allows(&wants("get", "pods", "", "x")));
        assert!(!named.allows(&wants("get", "pods", "", "y")));
    }

    #[test]
    fn escalation_is_found() {
        let owned = [rule(
            json!({"apiGroups": [""], "resources": ["pods", "pods/log"], "verbs": ["get", "list"]}),
        )];
        let same = [rule(
            json!({"apiGroups": [""], "resources": ["pods"], "resourceNames": ["x"], "verbs": ["get"]}),
        )];
        assert!(uncovered(&owned, &same).is_empty());
        let more = [rule(
            json!({"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "delete"]}),
        )];
        assert_eq!(uncovered(&owned, &more).len(), 1);
        let all = [rule(
            json!({"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}),
        )];
        assert_eq!(uncovered(&owned, &all).len(), 1);
        assert!(uncovered(&all, &more).is_empty());
    }

    #[test]
    fn paths() {
        let health = rule(json!({"nonResourceURLs": ["/healthz", "/api/*"], "verbs": ["get"]}));
        let path = |p: &str| Attributes {
            verb: "get".into(),
            path: p.into(),
            ..Attributes::default()
        };
        assert!(health.allows(&path("/healthz")));
        assert!(health.allows(&path("/api/v1")));
        assert!(!health.allows(&path("/metrics")));
    }
}
