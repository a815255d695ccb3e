//! Where `pods/proxy` and `services/proxy` lead: an address and a port inside the cluster, over HTTP or HTTPS.
//!
//! Nobody vouches for the certificate of a pod, so as upstream does, none is refused (`tls::unverified_client_config`).

use crate::call::Call;
use crate::http::status::Status;
use crate::store::Freshness;
use rand::seq::IndexedRandom;
use schema::Resource;
use serde_json::Value;

/// Label of the slices of a Service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// The parts of `[scheme:]name[:port]`, as the path names an object behind a proxy.
#[derive(Debug, PartialEq, Eq)]
struct Target<'a> {
    scheme: &'a str,
    name: &'a str,
    port: &'a str,
}

impl<'a> Target<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let parts: Vec<&str> = text.split(':').collect();
        let (scheme, name, port) = match parts.as_slice() {
            [name] => ("", *name, ""),
            [name, port] => ("", *name, *port),
            [scheme, name, port] => (*scheme, *name, *port),
            _ => return None,
        };
        (matches!(scheme, "" | "http" | "https") && !name.is_empty()).then_some(Self { scheme, name, port })
    }
}

/// Where a request is to be sent.
#[derive(Debug)]
pub struct Destination {
    /// Address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// HTTPS?
    pub encrypted: bool,
}

/// Where the request leads.
pub async fn destination(call: &Call, resource: &'static Resource) -> Result<Destination, Status> {
    let text = call.info.name.as_str();
    let target = Target::parse(text)
        .ok_or_else(|| Status::bad_request(format!("invalid {} request {text:?}", resource.singular)))?;
    let store = &call.server.store;
    let found = store
        .get(resource, &call.info.namespace, target.name, Freshness::Newest)
        .await?;
    let object = found
        .ok_or_else(|| Status::not_found(resource, target.name))?
        .value();
    let (host, port) = if resource.is("", "pods") {
        pod(&object, &target)?
    } else {
        service(call, &object, &target)?
    };
    Ok(Destination {
        host,
        port,
        encrypted: target.scheme == "https",
    })
}

fn pod(pod: &Value, target: &Target<'_>) -> Result<(String, u16), Status> {
    let ip = pod["status"]["podIP"].as_str().filter(|ip| !ip.is_empty());
    let ip =
        ip.ok_or_else(|| Status::unavailable(format!("address not allowed: pod {} has none", target.name)))?;
    let ports = crate::json::items(&pod["spec"], "containers")
        .iter()
        .flat_map(|c| crate::json::items(c, "ports"));
    let port = if target.port.is_empty() {
        ports
            .filter_map(|p| port_number(&p["containerPort"]))
            .next()
            .unwrap_or(80)
    } else if let Ok(number) = target.port.parse() {
        number
    } else {
        let mut named = ports.filter(|p| p["name"] == target.port);
        let found = named.find_map(|p| port_number(&p["containerPort"]));
        found
            .ok_or_else(|| Status::bad_request(format!("no port {:?} in pod {}", target.port, target.name)))?
    };
    Ok((ip.to_owned(), port))
}

/// A ready endpoint of a Service.
fn service(call: &Call, service: &Value, target: &Target<'_>) -> Result<(String, u16), Status> {
    let unavailable =
        || Status::unavailable(format!("no endpoints available for service {:?}", call.info.name));
    let ports = crate::json::items(&service["spec"], "ports");
    let wanted = ports.iter().find(|p| match target.port {
        "" => ports.len() == 1,
        text => p["name"] == text || text.parse::<u64>().is_ok_and(|n| p["port"].as_u64() == Some(n)),
    });
    let wanted = wanted.ok_or_else(unavailable)?;
    let name = wanted["name"].as_str().unwrap_or_default();
    let slices = call
        .server
        .store
        .cached_list("discovery.k8s.io", "endpointslices", &call.info.namespace);
    let mut found: Vec<(String, u16)> = Vec::new();
    for slice in slices
        .iter()
        .filter(|s| s.label(SERVICE_NAME) == Some(target.name))
    {
        let slice = slice.value();
        let mut ports = crate::json::items(&slice, "ports").iter();
        let port = ports
            .find(|p| p["name"].as_str().unwrap_or_default() == name)
            .and_then(|p| port_number(&p["port"]));
        let Some(port) = port else { continue };
        for endpoint in crate::json::items(&slice, "endpoints") {
            // Unknown readiness counts as ready.
            if endpoint["conditions"]["ready"] != false
                && let Some(address) = endpoint["addresses"][0].as_str()
            {
                found.push((address.to_owned(), port));
            }
        }
    }
    found.choose(&mut rand::rng()).cloned().ok_or_else(unavailable)
}

fn port_number(value: &Value) -> Option<u16> {
    value
        .as_u64()
        .and_then(|n| u16::try_from(n).ok())
        .filter(|n| *n > 0)
}

/// The path behind the proxy as the client wrote it, with its slashes and escapes.
pub fn path(whole: &str, namespaced: bool) -> String {
    // "/api/v1/namespaces/{namespace}/pods/{name}/proxy/..." or "/api/v1/nodes/{name}/proxy/..."
    let before = if namespaced { 7 } else { 5 };
    let rest = whole.trim_start_matches('/').splitn(before + 1, '/').nth(before);
    format!("/{}", rest.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn targets() {
        let parse = Target::parse;
        let target = |scheme, name, port| Some(Target { scheme, name, port });
        assert_eq!(parse("a"), target("", "a", ""));
        assert_eq!(parse("a:80"), target("", "a", "80"));
        assert_eq!(parse("http:a:web"), target("http", "a", "web"));
        assert_eq!(parse("https:a:"), target("https", "a", ""));
        assert_eq!(
            (parse("ftp:a:1"), parse(":80"), parse("a:b:c:d")),
            (None, None, None)
        );
    }

    #[test]
    fn paths_keep_their_form() {
        assert_eq!(path("/api/v1/namespaces/t/pods/a/proxy/x%2Fy/", true), "/x%2Fy/");
        assert_eq!(path("/api/v1/namespaces/t/pods/a/proxy", true), "/");
        assert_eq!(
            path("/api/v1/nodes/n/proxy/metrics/cadvisor", false),
            "/metrics/cadvisor"
        );
    }

    #[test]
    fn ports_of_pods() {
        let value = json!({"status": {"podIP": "10.0.0.1"}, "spec": {"containers": [
            {"name": "a"}, {"name": "b", "ports": [{"name": "web", "containerPort": 8080}]},
        ]}});
        let port = |text: &str| {
            pod(&value, &Target::parse(text).unwrap())
                .map(|(_, port)| port)
                .ok()
        };
        assert_eq!(
            (port("p"), port("p:web"), port("p:9"), port("p:no")),
            (Some(8080), Some(8080), Some(9), None)
        );
    }
}
