//! What a request asks for: verb, resource, namespace, name, subresource.

use super::query::{Query, decode_path};
use http::Method;
use schema::Resource;

/// What a request is about, read from its method, path and query.
#[derive(Clone, Debug, Default)]
pub struct RequestInfo {
    /// Verb of authorization: `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`,
    /// `deletecollection`; for paths that are no resource the method in lower case.
    pub verb: String,
    /// The path as it came.
    pub path: String,
    /// API group; empty is core.
    pub group: String,
    /// API version; empty for paths that are no resource.
    pub version: String,
    /// Namespace, or empty.
    pub namespace: String,
    /// Plural name of the resource; empty for paths that are no resource.
    pub resource: String,
    /// Name of the object, or empty.
    pub name: String,
    /// Subresource, or empty.
    pub subresource: String,
    /// The rest of the path after the subresource (`proxy`).
    pub rest: String,
}

impl RequestInfo {
    /// Reads a request.
    pub fn parse(method: &Method, path: &str, query: &Query) -> Self {
        let mut info = Self {
            path: path.to_owned(),
            verb: method.as_str().to_lowercase(),
            ..Self::default()
        };
        let segments: Vec<&str> = path.trim_matches('/').split('/').collect();
        let rest = match segments.as_slice() {
            ["api", version, rest @ ..] if !rest.is_empty() => {
                info.version = (*version).to_owned();
                rest
            }
            ["apis", group, version, rest @ ..] if !rest.is_empty() => {
                info.group = (*group).to_owned();
                info.version = (*version).to_owned();
                rest
            }
            _ => return info,
        };
        let old_watch = rest[0] == "watch";
        info.read_resource(if old_watch { &rest[1..] } else { rest });
        info.verb = info.resource_verb(method, query, old_watch).to_owned();
        info
    }

    fn read_resource(&mut self, segments: &[&str]) {
        let segments: Vec<String> = segments.iter().map(|s| decode_path(s)).collect();
        let mut segments = segments.as_slice();
        if let [first, namespace, rest @ ..] = segments
            && first == "namespaces"
        {
            self.namespace.clone_from(namespace);
            // A namespace itself, or one of its own subresources, is not "in" itself for the resource name, but
            // it is for authorization.
            if !rest.is_empty() && !matches!(rest[0].as_str(), "status" | "finalize") {
                segments = rest;
            }
        }
        let mut parts = segments.iter();
        self.resource = parts.next().cloned().unwrap_or_default();
        self.name = parts.next().cloned().unwrap_or_default();
        self.subresource = parts.next().cloned().unwrap_or_default();
        self.rest = parts.map(String::as_str).collect::<Vec<_>>().join("/");
    }

    fn resource_verb(&self, method: &Method, query: &Query, old_watch: bool) -> &'static str {
        match *method {
            Method::POST => "create",
            Method::PUT => "update",
            Method::PATCH => "patch",
            Method::DELETE if self.name.is_empty() => "deletecollection",
            Method::DELETE => "delete",
            Method::GET | Method::HEAD if old_watch => "watch",
            Method::GET | Method::HEAD if self.name.is_empty() => {
                if query.flag("watch") {
                    "watch"
                } else {
                    "list"
                }
            }
            Method::GET | Method::HEAD => "get",
            _ => "",
        }
    }

    /// Whether the path names a resource.
    pub fn is_resource(&self) -> bool {
        !self.resource.is_empty()
    }

    /// Facts of the resource.
    pub fn lookup(&self) -> Option<&'static Resource> {
        schema::registry().find(&self.group, &self.version, &self.resource)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(method: Method, path: &str, query: &str) -> RequestInfo {
        RequestInfo::parse(&method, path, &Query::parse(query))
    }

    #[test]
    fn paths() {
        let info = parse(Method::GET, "/api/v1/namespaces/a/pods/b/log", "");
        assert_eq!((info.namespace.as_str(), info.resource.as_str()), ("a", "pods"));
        assert_eq!(
            (info.name.as_str(), info.subresource.as_str(), info.verb.as_str()),
            ("b", "log", "get")
        );
        let info = parse(Method::PUT, "/api/v1/namespaces/a/finalize", "");
        assert_eq!((info.resource.as_str(), info.name.as_str()), ("namespaces", "a"));
        assert_eq!(
            (info.subresource.as_str(), info.verb.as_str()),
            ("finalize", "update")
        );
        let info = parse(Method::GET, "/apis/apps/v1/deployments", "watch=true");
        assert_eq!((info.group.as_str(), info.verb.as_str()), ("apps", "watch"));
        let info = parse(Method::DELETE, "/apis/apps/v1/namespaces/x/deployments", "");
        assert_eq!(info.verb, "deletecollection");
        let info = parse(Method::GET, "/apis/apps/v1", "");
        assert!(!info.is_resource());
        assert_eq!(info.verb, "get");
        let info = parse(Method::GET, "/api/v1/nodes/n/proxy/a/b", "");
        assert_eq!((info.subresource.as_str(), info.rest.as_str()), ("proxy", "a/b"));
    }
}
