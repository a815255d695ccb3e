//! RBAC: which rules a user has, from the roles and bindings in the cache.

use super::{Attributes, Rule};
use crate::authn::{SERVICE_ACCOUNT_PREFIX, User};
use crate::store::{Object, ResourceCache, Store};
use arc_swap::ArcSwap;
use serde_json::Value;
use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

const GROUP: &str = "rbac.authorization.k8s.io";
const SOURCES: [&str; 4] = ["clusterroles", "clusterrolebindings", "roles", "rolebindings"];

/// The index, rebuilt when a role or binding has changed.
pub struct Rbac {
    index: ArcSwap<Index>,
    /// The caches of [`SOURCES`], which are the same as long as the server runs.
    caches: OnceLock<[Option<Arc<ResourceCache>>; 4]>,
}

/// Rules by subject.
#[derive(Default)]
pub struct Index {
    /// Revisions of the caches that it was built from.
    revisions: [i64; 4],
    /// Grants by `user`, and by `group`.
    users: HashMap<String, Vec<Grant>>,
    groups: HashMap<String, Vec<Grant>>,
}

struct Grant {
    /// Namespace; empty is the whole cluster.
    namespace: String,
    rules: Arc<Vec<Rule>>,
}

impl Rbac {
    /// Without rules.
    pub fn new() -> Self {
        Self {
            index: ArcSwap::from_pointee(Index::default()),
            caches: OnceLock::new(),
        }
    }

    /// The rules as the cache has them now.
    pub fn current(&self, store: &Store) -> Arc<Index> {
        let caches = self
            .caches
            .get_or_init(|| SOURCES.map(|plural| store.cache(crate::store::builtin(GROUP, plural)?).ok()));
        let revisions = caches
            .each_ref()
            .map(|cache| cache.as_ref().map_or(0, |cache| cache.last_revision()));
        let index = self.index.load_full();
        if index.revisions == revisions {
            return index;
        }
        let index = Arc::new(build(store, revisions));
        self.index.store(index.clone());
        index
    }
}

impl Default for Rbac {
    fn default() -> Self {
        Self::new()
    }
}

fn build(store: &Store, revisions: [i64; 4]) -> Index {
    let rules_of = |object: &Arc<Object>| Arc::new(Rule::list(&object.value()));
    let cluster_roles: HashMap<String, Arc<Vec<Rule>>> = store
        .cached_list(GROUP, "clusterroles", "")
        .iter()
        .map(|role| (role.name.to_string(), rules_of(role)))
        .collect();
    let roles: HashMap<(String, String), Arc<Vec<Rule>>> = store
        .cached_list(GROUP, "roles", "")
        .iter()
        .map(|role| {
            (
                (role.namespace.to_string(), role.name.to_string()),
                rules_of(role),
            )
        })
        .collect();
    let mut index = Index {
        revisions,
        ..Index::default()
    };
    for plural in ["clusterrolebindings", "rolebindings"] {
        for binding in store.cached_list(GROUP, plural, "") {
            let value = binding.value();
            let name = value["roleRef"]["name"].as_str().unwrap_or_default();
            let rules = if value["roleRef"]["kind"] == "ClusterRole" {
                cluster_roles.get(name)
            } else {
                roles.get(&(binding.namespace.to_string(), name.to_owned()))
            };
            // A binding may come before its role.
            if let Some(rules) = rules {
                index.add(&value, &binding.namespace, rules);
            }
        }
    }
    index
}

impl Index {
    fn add(&mut self, binding: &Value, namespace: &str, rules: &Arc<Vec<Rule>>) {
        for subject in binding["subjects"]
            .as_array()
            .map(Vec::as_slice)
            .unwrap_or_default()
        {
            let name = subject["name"].as_str().unwrap_or_default();
            let (map, key) = match subject["kind"].as_str() {
                Some("User") => (&mut self.users, name.to_owned()),
                Some("Group") => (&mut self.groups, name.to_owned()),
                Some("ServiceAccount") => {
                    let own = subject["namespace"].as_str().unwrap_or(namespace);
                    (&mut self.users, format!("{SERVICE_ACCOUNT_PREFIX}{own}:{name}"))
                }
                _ => continue,
            };
            let grant = Grant {
                namespace: namespace.to_owned(),
                rules: rules.clone(),
            };
            map.entry(key).or_default().push(grant);
        }
    }

    fn grants<'a>(&'a self, user: &'a User, namespace: &'a str) -> impl Iterator<Item = &'a Grant> {
        let own = self.users.get(&user.name).into_iter().flatten();
        let of_groups = user.groups.iter().filter_map(|g| self.groups.get(g)).flatten();
        own.chain(of_groups)
            .filter(move |g| g.namespace.is_empty() || g.namespace == namespace)
    }

    /// Whether a user may do something.
    pub fn allows(&self, user: &User, wanted: &Attributes) -> bool {
        self.grants(user, &wanted.namespace)
            .any(|grant| grant.rules.iter().any(|rule| rule.allows(wanted)))
    }

    /// All rules that a user has in a namespace (empty: in the whole cluster only).
    pub fn rules(&self, user: &User, namespace: &str) -> Vec<Rule> {
        self.grants(user, namespace)
            .flat_map(|grant| grant.rules.iter().cloned())
            .collect()
    }
}
