//! Custom resources: what the CustomResourceDefinitions in the store make this server serve.
//!
//! Every server derives this from its own watch of the state store, so a group that one server creates is served by
//! all. The feed calls [`Customs::plan`] after each change of a definition, fills the caches of what is new, and
//! then puts the new picture in place: a custom resource is served only when its cache is complete.

pub mod conditions;
pub mod controller;
pub mod documents;
pub mod names;
pub mod openapi;

use crate::store::Object;
use arc_swap::ArcSwap;
use parking_lot::Mutex;
use schema::Resource;
use schema::custom::Slot;
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// Custom resources as they are at one moment.
#[derive(Default)]
pub struct Snapshot {
    by_path: HashMap<(String, String, String), Served>,
    /// All that is served, in the order of discovery.
    resources: Vec<Resource>,
    /// Definitions that are established, with their served versions.
    definitions: Vec<Arc<Definition>>,
    /// Changes whenever anything that clients see of the definitions does.
    tag: String,
}

/// A version of a custom resource that clients may use.
#[derive(Clone)]
pub struct Served {
    /// The resource.
    pub resource: &'static Resource,
    /// The warning for its users.
    pub deprecated: Option<String>,
    /// Its definition is being deleted: nothing new is created.
    pub terminating: bool,
}

/// A definition, parsed.
pub struct Definition {
    /// The definition itself.
    pub object: Arc<Object>,
    generation: i64,
    established: bool,
    terminating: bool,
    /// The versions in order of preference.
    versions: Vec<Version>,
}

struct Version {
    resource: &'static Resource,
    served: bool,
    storage: bool,
    deprecated: Option<String>,
}

/// What has to change in the caches.
#[derive(Default)]
pub struct Plan {
    /// Resources (in their storage version) whose caches are to be filled anew.
    pub fill: Vec<&'static Resource>,
    /// Storage prefixes that no definition has any more.
    pub drop: Vec<&'static str>,
    next: Snapshot,
    known: HashMap<Box<str>, Arc<Definition>>,
}

/// The custom resources of a server.
#[derive(Default)]
pub struct Customs {
    current: ArcSwap<Snapshot>,
    known: Mutex<HashMap<Box<str>, Arc<Definition>>>,
    /// Resources by what identifies them. They live as long as the program: requests and watches refer to them, and
    /// there are at most as many as there were different names and versions in definitions, some hundred bytes each.
    interned: Mutex<HashMap<String, &'static Resource>>,
}

impl Customs {
    /// A custom resource by the parts of its path.
    pub fn find(&self, group: &str, version: &str, plural: &str) -> Option<Served> {
        let key = (group.to_owned(), version.to_owned(), plural.to_owned());
        self.current.load().by_path.get(&key).cloned()
    }

    /// All that are served, in the order of discovery.
    pub fn resources(&self) -> Vec<Resource> {
        self.current.load().resources.clone()
    }

    /// The established definitions.
    pub fn definitions(&self) -> Vec<Arc<Definition>> {
        self.current.load().definitions.clone()
    }

    /// Changes whenever the definitions do; empty while there are none.
    pub fn tag(&self) -> String {
        self.current.load().tag.clone()
    }

    /// Compares the definitions with what is served. With `all`, every cache is to be filled anew.
    pub fn plan(&self, objects: &[Arc<Object>], all: bool) -> Plan {
        let before = self.known.lock();
        let mut plan = Plan::default();
        for object in objects {
            let old = before.get(&object.name);
            let definition = match old {
                Some(old) if old.object.revision == object.revision => old.clone(),
                _ => Arc::new(self.read(object)),
            };
            let storage = definition.storage();
            let same = old.is_some_and(|old| {
                old.generation == definition.generation
                    && old
                        .storage()
                        .is_some_and(|r| storage.is_some_and(|s| std::ptr::eq(r, s)))
            });
            if let Some(storage) = storage.filter(|_| all || !same) {
                plan.fill.push(storage);
            }
            plan.known.insert(object.name.clone(), definition);
        }
        let prefix = |definition: &Arc<Definition>| definition.storage().map(|r| r.storage_prefix.as_ref());
        let kept: Vec<&str> = plan.known.values().filter_map(prefix).collect();
        plan.drop = before
            .values()
            .filter_map(prefix)
            .filter(|p| !kept.contains(p))
            .collect();
        plan.next = Snapshot::of(&plan.known);
        plan
    }

    /// Serves what was planned; its caches are filled.
    pub fn publish(&self, plan: Plan) {
        let before = std::mem::replace(&mut *self.known.lock(), plan.known.clone());
        for (name, old) in before {
            // What is not defined any more keeps no schema in memory.
            if !plan.known.contains_key(&name) {
                old.versions.iter().for_each(|v| v.resource.custom.set(None));
            }
        }
        self.current.store(Arc::new(plan.next));
    }

    /// Parses a definition. The schemas are in place afterwards: objects are read with them from now on.
    fn read(&self, object: &Arc<Object>) -> Definition {
        let value = object.value();
        let versions = schema::custom::versions(&value)
            .into_iter()
            .map(|version| {
                let resource = self.intern(version.resource);
                resource.custom.set(Some(Arc::new(version.custom)));
                Version {
                    resource,
                    served: version.served,
                    storage: version.storage,
                    deprecated: version.deprecated,
                }
            })
            .collect();
        Definition {
            object: object.clone(),
            generation: value["metadata"]["generation"].as_i64().unwrap_or_default(),
            established: conditions::is_true(&value, "Established"),
            terminating: crate::rest::meta::is_terminating(&value),
            versions,
        }
    }

    fn intern(&self, resource: Resource) -> &'static Resource {
        // The slot is empty in all of them, so what is printed is what identifies the resource.
        let identity = format!("{resource:?}");
        let mut interned = self.interned.lock();
        if let Some(known) = interned.get(&identity) {
            return known;
        }
        let leaked: &'static Resource = Box::leak(Box::new(Resource {
            custom: Slot::default(),
            ..resource
        }));
        interned.insert(identity, leaked);
        leaked
    }
}

impl Definition {
    fn storage(&self) -> Option<&'static Resource> {
        let mut versions = self.versions.iter();
        versions.find(|v| v.storage).map(|v| v.resource)
    }

    /// The versions that are served, if it is established.
    pub fn served(&self) -> impl Iterator<Item = &'static Resource> {
        let served = self.versions.iter().filter(|v| v.served && self.established);
        served.map(|v| v.resource)
    }

    /// The published schema of a version.
    pub fn schema_of(&self, version: &str) -> Value {
        let value = self.object.value();
        let versions = value["spec"]["versions"].as_array();
        let found = versions.into_iter().flatten().find(|v| v["name"] == version);
        found.map_or(Value::Null, |v| v["schema"]["openAPIV3Schema"].clone())
    }
}

impl Snapshot {
    fn of(known: &HashMap<Box<str>, Arc<Definition>>) -> Self {
        let mut next = Self::default();
        // By name, so that all servers show the same order.
        let sorted: BTreeMap<&str, &Arc<Definition>> = known.iter().map(|(n, d)| (n.as_ref(), d)).collect();
        for definition in sorted.values().filter(|d| d.established) {
            for version in definition.versions.iter().filter(|v| v.served) {
                let r = version.resource;
                let key = (r.group.to_string(), r.version.to_string(), r.plural.to_string());
                next.by_path.insert(
                    key,
                    Served {
                        resource: r,
                        deprecated: version.deprecated.clone(),
                        terminating: definition.terminating,
                    },
                );
                next.resources.push(r.clone());
            }
            next.definitions.push((*definition).clone());
        }
        let rank = |r: &Resource| schema::custom::preference(&r.version);
        next.resources
            .sort_by(|a, b| a.group.cmp(&b.group).then_with(|| rank(b).cmp(&rank(a))));
        next.tag = next.fingerprint();
        next
    }

    /// A short name for the definitions and their generations.
    fn fingerprint(&self) -> String {
        if self.definitions.is_empty() {
            return String::new();
        }
        use sha2::{Digest, Sha256};
        let mut hash = Sha256::new();
        for definition in &self.definitions {
            let served: Vec<&str> = definition.served().map(|r| r.kind.as_ref()).collect();
            hash.update(format!(
                "{} {} {served:?}\n",
                definition.object.name, definition.generation
            ));
        }
        hash.finalize()
            .iter()
            .take(8)
            .map(|b| format!("{b:02x}"))
            .collect()
    }
}
