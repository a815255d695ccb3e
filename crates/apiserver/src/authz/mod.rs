//! Who may do what: system:masters everything, kubelets what concerns their node, everybody what RBAC grants.

pub mod node;
pub mod rbac;
pub mod rules;

pub use rules::Rule;

use crate::authn::{MASTERS, User};
use crate::http::request::RequestInfo;
use crate::store::Store;

/// What somebody wants to do.
#[derive(Clone, Debug, Default)]
pub struct Attributes {
    /// `get`, `list`, `create`...
    pub verb: String,
    /// API group.
    pub group: String,
    /// Namespace, or empty.
    pub namespace: String,
    /// Resource; empty for paths that are no resource.
    pub resource: String,
    /// Subresource, or empty.
    pub subresource: String,
    /// Object, or empty.
    pub name: String,
    /// The path, for those that are no resource.
    pub path: String,
    /// The field selector of a list or watch.
    pub fields: String,
}

impl From<&RequestInfo> for Attributes {
    fn from(info: &RequestInfo) -> Self {
        Self {
            verb: info.verb.clone(),
            group: info.group.clone(),
            namespace: info.namespace.clone(),
            resource: info.resource.clone(),
            subresource: info.subresource.clone(),
            name: info.name.clone(),
            path: info.path.clone(),
            fields: String::new(),
        }
    }
}

/// The authorizers.
pub struct Authorizer {
    rbac: rbac::Rbac,
}

impl Authorizer {
    /// With nothing known yet; rules are read from the store's cache when they are needed.
    pub fn new() -> Self {
        Self {
            rbac: rbac::Rbac::new(),
        }
    }

    /// RBAC alone, for the checks that it makes on writes of its own objects.
    pub fn rbac(&self) -> &rbac::Rbac {
        &self.rbac
    }

    /// Whether a user may do something. The reason is for a person.
    pub fn allows(&self, store: &Store, user: &User, wanted: &Attributes) -> Result<(), String> {
        if user.is_in(MASTERS) {
            return Ok(());
        }
        let mut reason = String::new();
        if let Some(name) = user.node() {
            match node::decide(store, name, wanted) {
                node::Decision::Allow => return Ok(()),
                node::Decision::Common if node::common().iter().any(|rule| rule.allows(wanted)) => {
                    return Ok(());
                }
                node::Decision::Common => {}
                node::Decision::Deny(why) => reason = why,
            }
        }
        if self.rbac.current(store).allows(user, wanted) {
            Ok(())
        } else {
            Err(reason)
        }
    }
}

impl Default for Authorizer {
    fn default() -> Self {
        Self::new()
    }
}

/// Upstream's sentence for a refusal.
pub fn refusal(user: &User, wanted: &Attributes, reason: &str) -> String {
    let colon = if reason.is_empty() {
        String::new()
    } else {
        format!(": {reason}")
    };
    if wanted.resource.is_empty() {
        return format!(
            "User \"{}\" cannot {} path \"{}\"{colon}",
            user.name, wanted.verb, wanted.path
        );
    }
    let resource = if wanted.subresource.is_empty() {
        wanted.resource.clone()
    } else {
        format!("{}/{}", wanted.resource, wanted.subresource)
    };
    let scope = if wanted.namespace.is_empty() {
        "at the cluster scope".to_owned()
    } else {
        format!("in the namespace \"{}\"", wanted.namespace)
    };
    format!(
        "User \"{}\" cannot {} resource \"{resource}\" in API group \"{}\" {scope}{colon}",
        user.name, wanted.verb, wanted.group
    )
}
