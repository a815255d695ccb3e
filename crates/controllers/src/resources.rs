//! What kinds of objects the server has, by discovery, for the controllers that act on all of them.

use kube::api::DynamicObject;
use kube::core::PartialObjectMeta;
use kube::discovery::{ApiResource, Discovery, Scope, verbs};
use kube::{Api, Client};

/// Metadata of an object of any kind.
pub type Meta = PartialObjectMeta<DynamicObject>;

/// One kind of object.
#[derive(Clone, Debug, PartialEq)]
pub struct Kind {
    /// Group, version, kind, plural.
    pub resource: ApiResource,
    /// Do its objects live in namespaces?
    pub namespaced: bool,
    /// Verbs that the server offers.
    pub verbs: Vec<String>,
}

impl Kind {
    /// Does the server offer a verb?
    pub fn can(&self, verb: &str) -> bool {
        self.verbs.iter().any(|known| known == verb)
    }

    /// Group and plural, which name a kind whatever its version.
    pub fn id(&self) -> (String, String) {
        (self.resource.group.clone(), self.resource.plural.clone())
    }

    /// The API of its objects' metadata in one namespace, or of all.
    pub fn api(&self, client: &Client, namespace: Option<&str>) -> Api<Meta> {
        match namespace.filter(|namespace| self.namespaced && !namespace.is_empty()) {
            Some(namespace) => Api::namespaced_with(client.clone(), namespace, &self.resource),
            None => Api::all_with(client.clone(), &self.resource),
        }
    }
}

/// All kinds with at least one verb, each in its preferred version.
pub async fn discover(client: &Client) -> kube::Result<Vec<Kind>> {
    let discovery = match Discovery::new(client.clone()).run_aggregated().await {
        Ok(discovery) => discovery,
        // A server without aggregated discovery.
        Err(kube::Error::SerdeError(_)) => Discovery::new(client.clone()).run().await?,
        Err(error) => return Err(error),
    };
    let mut kinds = Vec::new();
    for group in discovery.groups() {
        for (resource, capabilities) in group.recommended_resources() {
            if capabilities.operations.is_empty() {
                continue;
            }
            kinds.push(Kind {
                resource,
                namespaced: capabilities.scope == Scope::Namespaced,
                verbs: capabilities.operations,
            });
        }
    }
    Ok(kinds)
}

/// Kinds whose objects can be found and deleted.
pub fn deletable(kinds: Vec<Kind>) -> impl Iterator<Item = Kind> {
    kinds
        .into_iter()
        .filter(|kind| kind.can(verbs::DELETE) && kind.can(verbs::LIST))
}
