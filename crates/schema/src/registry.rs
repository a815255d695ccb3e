//! The resources that the API serves.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use crate::custom::Slot;
use crate::facts::{TypeId, facts, resource_lines};
use crate::structural::Structural;
use crate::traits;

/// Text that is static for built-in resources and owned for those added at run time.
pub type Text = Cow<'static, str>;

/// A resource (a collection in the API) and what the server needs to know to serve it.
#[derive(Clone, Debug)]
pub struct Resource {
    /// API group; empty for core.
    pub group: Text,
    /// API version.
    pub version: Text,
    /// Kind of its objects.
    pub kind: Text,
    /// Kind of a list of them.
    pub list_kind: Text,
    /// Name in the path.
    pub plural: Text,
    /// Name of one, for people.
    pub singular: Text,
    /// Abbreviations that kubectl accepts.
    pub short_names: Vec<Text>,
    /// Groups of resources that kubectl lists together (`all`).
    pub categories: Vec<Text>,
    /// Objects live in namespaces.
    pub namespaced: bool,
    /// Verbs of the main resource, sorted.
    pub verbs: Vec<Text>,
    /// Subresources, sorted by name.
    pub subresources: Vec<Subresource>,
    /// Where its objects are stored, without a slash at the end: `/registry/minions`. Empty where nothing is stored.
    pub storage_prefix: Text,
    /// (group, version) in which objects are stored; differs from the resource's own where two share their storage.
    pub storage_version: (Text, Text),
    /// It has a status subresource: writes to the main resource leave the status alone and the reverse.
    pub has_status: bool,
    /// The server counts changes of the desired state in `metadata.generation`.
    pub has_generation: bool,
    /// A deletion with a grace period only marks the object (pods).
    pub graceful_deletion: bool,
    /// PUT to a name that does not exist creates it.
    pub create_on_update: bool,
    /// An update without a resourceVersion is allowed.
    pub unconditional_update: bool,
    /// The structure of its objects; none for resources whose schema is not built in.
    pub type_id: Option<TypeId>,
    /// What its definition says of a custom resource; empty for built-in ones.
    pub custom: Slot,
}

/// A part of a resource with its own path and verbs.
#[derive(Clone, Debug)]
pub struct Subresource {
    /// Name in the path.
    pub name: Text,
    /// Kind of its body.
    pub kind: Text,
    /// (group, version) of that kind, where it is not the resource's own.
    pub group_version: Option<(Text, Text)>,
    /// Verbs, sorted.
    pub verbs: Vec<Text>,
}

impl Resource {
    /// `group/version`, or the version alone in the core group: the `apiVersion` of its objects.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_string()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// `plural.group`, or the plural alone in the core group: as errors name the resource.
    pub fn qualified_name(&self) -> String {
        if self.group.is_empty() {
            self.plural.to_string()
        } else {
            format!("{}.{}", self.plural, self.group)
        }
    }

    /// `Kind.group`, or the kind alone in the core group: as validation errors name it.
    pub fn qualified_kind(&self) -> String {
        if self.group.is_empty() {
            self.kind.to_string()
        } else {
            format!("{}.{}", self.kind, self.group)
        }
    }

    /// The schema of a custom resource.
    pub fn structural(&self) -> Option<Arc<Structural>> {
        self.custom.get().map(|custom| custom.schema.clone())
    }

    /// Whether it is defined at run time.
    pub fn is_custom(&self) -> bool {
        self.type_id.is_none()
    }

    /// Whether the main resource has this verb.
    pub fn has_verb(&self, verb: &str) -> bool {
        self.verbs.iter().any(|v| v == verb)
    }

    /// A subresource by name.
    pub fn subresource(&self, name: &str) -> Option<&Subresource> {
        self.subresources.iter().find(|s| s.name == name)
    }

    /// Whether objects are stored (reviews and bindings are not).
    pub fn is_stored(&self) -> bool {
        !self.storage_prefix.is_empty()
    }

    /// Whether this is a given built-in resource.
    pub fn is(&self, group: &str, plural: &str) -> bool {
        self.group == group && self.plural == plural
    }
}

/// All built-in resources.
#[derive(Debug)]
pub struct Registry {
    resources: Vec<Resource>,
    by_plural: HashMap<(&'static str, &'static str, &'static str), usize>,
    by_kind: HashMap<(&'static str, &'static str, &'static str), usize>,
}

impl Registry {
    /// Finds a resource by the parts of its path.
    pub fn find(&self, group: &str, version: &str, plural: &str) -> Option<&Resource> {
        self.by_plural
            .get(&(group, version, plural))
            .map(|&i| &self.resources[i])
    }

    /// Finds a resource by the kind of its objects.
    pub fn by_kind(&self, group: &str, version: &str, kind: &str) -> Option<&Resource> {
        self.by_kind
            .get(&(group, version, kind))
            .map(|&i| &self.resources[i])
    }

    /// All resources: the core group first, then groups and versions in order of preference.
    pub fn resources(&self) -> &[Resource] {
        &self.resources
    }

    /// The (group, version)s served, in order of preference; core first, as an empty group.
    pub fn group_versions(&self) -> Vec<(&str, &str)> {
        let mut found: Vec<(&str, &str)> = Vec::new();
        for r in &self.resources {
            let gv = (r.group.as_ref(), r.version.as_ref());
            if !found.contains(&gv) {
                found.push(gv);
            }
        }
        found
    }
}

/// The built-in resources, decoded on first use.
pub fn registry() -> &'static Registry {
    static REGISTRY: OnceLock<Registry> = OnceLock::new();
    REGISTRY.get_or_init(|| decode().expect("the embedded facts are checked by a test"))
}

fn decode() -> Option<Registry> {
    let mut registry = Registry {
        resources: Vec::new(),
        by_plural: HashMap::new(),
        by_kind: HashMap::new(),
    };
    for line in resource_lines() {
        if let Some(rest) = line.strip_prefix("res ") {
            let index = registry.resources.len();
            let (key, resource) = decode_resource(rest)?;
            let (group, version, plural, kind) = key;
            registry.by_plural.insert((group, version, plural), index);
            registry.by_kind.insert((group, version, kind), index);
            registry.resources.push(resource);
        } else if let Some(rest) = line.strip_prefix(" sub ") {
            let resource = registry.resources.last_mut()?;
            let sub = decode_subresource(rest)?;
            resource.has_status |= sub.name == "status";
            resource.subresources.push(sub);
        }
    }
    Some(registry)
}

type ResourceKey = (&'static str, &'static str, &'static str, &'static str);

fn decode_resource(line: &'static str) -> Option<(ResourceKey, Resource)> {
    let mut words = line.split(' ');
    let group = match words.next()? {
        "core" => "",
        group => group,
    };
    let (version, plural, kind) = (words.next()?, words.next()?, words.next()?);
    let singular = words.next()?;
    let namespaced = words.next()? == "Namespaced";
    let verbs = split(words.next()?);
    let (mut short_names, mut categories) = (Vec::new(), Vec::new());
    for word in words {
        match word.split_once('=')? {
            ("short", names) => short_names = split(names),
            ("categories", names) => categories = split(names),
            _ => return None,
        }
    }
    let stored = verbs.iter().any(|v| v == "create") && verbs.iter().any(|v| v == "list");
    let traits = traits::of(group, plural);
    let resource = Resource {
        group: group.into(),
        version: version.into(),
        kind: kind.into(),
        list_kind: format!("{kind}List").into(),
        plural: plural.into(),
        singular: singular.into(),
        short_names,
        categories,
        namespaced,
        storage_prefix: if stored {
            traits::storage_prefix(group, plural).into()
        } else {
            "".into()
        },
        storage_version: traits::storage_version(group, version, plural),
        has_status: false,
        has_generation: traits.generation,
        graceful_deletion: traits.graceful,
        create_on_update: traits.create_on_update,
        unconditional_update: traits.unconditional_update,
        verbs,
        subresources: Vec::new(),
        type_id: facts().find_kind(group, version, kind),
        custom: Slot::default(),
    };
    Some(((group, version, plural, kind), resource))
}

fn decode_subresource(line: &'static str) -> Option<Subresource> {
    let mut words = line.split(' ');
    let (name, kind, verbs) = (words.next()?, words.next()?, words.next()?);
    let group_version = match words.next() {
        Some(gv) => gv.split_once('/').map(|(g, v)| (g.into(), v.into())),
        None => None,
    };
    Some(Subresource {
        name: name.into(),
        kind: kind.into(),
        group_version,
        verbs: split(verbs),
    })
}

fn split(list: &'static str) -> Vec<Text> {
    list.split(',').map(Text::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resources_are_found_by_path_and_kind() {
        let pods = registry().find("", "v1", "pods").unwrap();
        assert_eq!((&*pods.kind, &*pods.list_kind), ("Pod", "PodList"));
        assert!(pods.namespaced && pods.has_status && pods.has_generation && pods.graceful_deletion);
        assert_eq!(
            pods.subresource("eviction").unwrap().group_version,
            Some(("policy".into(), "v1".into()))
        );
        let deployment = registry().by_kind("apps", "v1", "Deployment").unwrap();
        assert_eq!(deployment.api_version(), "apps/v1");
        assert_eq!(deployment.qualified_kind(), "Deployment.apps");
        assert!(registry().find("apps", "v1beta1", "deployments").is_none());
    }

    #[test]
    fn every_resource_has_a_structure() {
        for r in registry().resources() {
            assert!(r.type_id.is_some(), "{}", r.qualified_name());
        }
    }

    #[test]
    fn storage_follows_upstream() {
        let prefix = |g, v, p| registry().find(g, v, p).unwrap().storage_prefix.to_string();
        assert_eq!(prefix("", "v1", "nodes"), "/registry/minions");
        assert_eq!(prefix("", "v1", "services"), "/registry/services/specs");
        assert_eq!(prefix("", "v1", "endpoints"), "/registry/services/endpoints");
        assert_eq!(
            prefix("", "v1", "replicationcontrollers"),
            "/registry/controllers"
        );
        assert_eq!(
            prefix("networking.k8s.io", "v1", "ingresses"),
            "/registry/ingress"
        );
        assert_eq!(prefix("coordination.k8s.io", "v1", "leases"), "/registry/leases");
        assert_eq!(prefix("events.k8s.io", "v1", "events"), "/registry/events");
        assert_eq!(
            prefix("apiextensions.k8s.io", "v1", "customresourcedefinitions"),
            "/registry/apiextensions.k8s.io/customresourcedefinitions"
        );
        assert!(
            !registry()
                .find("authentication.k8s.io", "v1", "tokenreviews")
                .unwrap()
                .is_stored()
        );
    }
}
