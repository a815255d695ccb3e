//! Who sends a request: a client certificate, a service-account token, or nobody.

pub mod bootstrap;
pub mod client;
pub mod issuer;
pub mod token;

use crate::http::status::Status;
use std::collections::BTreeMap;

/// The user of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    /// Name.
    pub name: String,
    /// Unique id, of service accounts.
    pub uid: String,
    /// Groups.
    pub groups: Vec<String>,
    /// What else is known, such as the pod of a bound token.
    pub extra: BTreeMap<String, Vec<String>>,
}

/// Everybody who is known.
pub const AUTHENTICATED: &str = "system:authenticated";
/// Everybody who is not.
pub const UNAUTHENTICATED: &str = "system:unauthenticated";
/// May do everything.
pub const MASTERS: &str = "system:masters";
/// All service accounts.
pub const SERVICE_ACCOUNTS: &str = "system:serviceaccounts";
/// What the names of service accounts begin with.
pub const SERVICE_ACCOUNT_PREFIX: &str = "system:serviceaccount:";
/// What the names of kubelets begin with.
pub const NODE_PREFIX: &str = "system:node:";
/// The group of all kubelets.
pub const NODES: &str = "system:nodes";

impl User {
    /// Somebody without credentials.
    pub fn anonymous() -> Self {
        Self {
            name: "system:anonymous".into(),
            groups: vec![UNAUTHENTICATED.into()],
            ..Self::default()
        }
    }

    /// The holder of a client certificate.
    pub fn from_certificate(peer: &tls::Peer) -> Option<Self> {
        if peer.common_name.is_empty() {
            return None;
        }
        let mut groups = peer.organizations.clone();
        groups.push(AUTHENTICATED.into());
        Some(Self {
            name: peer.common_name.clone(),
            groups,
            ..Self::default()
        })
    }

    /// Whether it has no credentials.
    pub fn is_anonymous(&self) -> bool {
        self.groups.iter().any(|g| g == UNAUTHENTICATED)
    }

    /// Whether it is in a group.
    pub fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|g| g == group)
    }

    /// The node whose kubelet this is.
    pub fn node(&self) -> Option<&str> {
        self.name.strip_prefix(NODE_PREFIX).filter(|_| self.is_in(NODES))
    }

    /// The form of `UserInfo` in reviews.
    pub fn to_value(&self) -> serde_json::Value {
        let mut value = serde_json::json!({"username": self.name});
        if !self.uid.is_empty() {
            value["uid"] = self.uid.as_str().into();
        }
        if !self.groups.is_empty() {
            value["groups"] = self.groups.clone().into();
        }
        if !self.extra.is_empty() {
            value["extra"] = serde_json::json!(self.extra);
        }
        value
    }
}

/// The token of an `Authorization: Bearer` header. A header of another form is refused.
pub fn bearer(headers: &http::HeaderMap) -> Result<Option<&str>, Status> {
    let Some(header) = headers.get(http::header::AUTHORIZATION) else {
        return Ok(None);
    };
    let text = header.to_str().map_err(|_| Status::unauthorized())?;
    let (scheme, token) = text.split_once(' ').ok_or_else(Status::unauthorized)?;
    if !scheme.eq_ignore_ascii_case("bearer") || token.trim().is_empty() {
        return Err(Status::unauthorized());
    }
    Ok(Some(token.trim()))
}
