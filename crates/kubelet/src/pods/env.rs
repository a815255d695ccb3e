//! The environment of a container: `envFrom`, `env`, and the variables that describe Services.

use super::expand::expand;
use super::fields::{self, Allocatable};
use crate::objects::{self, Kind, ObjectKey, Objects};
use k8s_openapi::api::core::v1::{Container, EnvVarSource, Pod, PodSpec, Service};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

/// Why an environment cannot be made; shown as `CreateContainerConfigError`.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A ConfigMap or Secret is missing.
    #[error(transparent)]
    Object(#[from] objects::Error),
    /// It has not the key.
    #[error("couldn't find key {key} in {kind} {namespace}/{name}")]
    Key {
        /// Wanted key.
        key: String,
        /// `ConfigMap` or `Secret`.
        kind: &'static str,
        /// Namespace of the object.
        namespace: String,
        /// Name of the object.
        name: String,
    },
    /// A `fieldRef` or `resourceFieldRef` names nothing.
    #[error("unsupported field {0}")]
    Field(String),
    /// The list of Services has not been read yet.
    #[error("services have not yet been read at least once, cannot construct envvars")]
    Services,
}

/// What the environment is made from.
pub struct Sources<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// Addresses of the pod.
    pub pod_ips: &'a [String],
    /// Addresses of the node.
    pub host_ips: &'a [String],
    /// What the node offers.
    pub allocatable: Allocatable,
    /// ConfigMaps and Secrets.
    pub objects: &'a Objects,
    /// Services of the pod's namespace, and the API's own.
    pub services: Vec<Arc<Service>>,
}

/// ConfigMaps and Secrets that the environments of a pod's containers need.
pub fn references(spec: &PodSpec, namespace: &str) -> HashSet<ObjectKey> {
    let key = |kind, name: &str| ObjectKey {
        kind,
        namespace: namespace.into(),
        name: name.into(),
    };
    let mut keys = HashSet::new();
    for (_, container) in super::spec::containers(spec) {
        for source in container.env_from.iter().flatten() {
            keys.extend(
                source
                    .config_map_ref
                    .iter()
                    .map(|r| key(Kind::ConfigMap, &r.name)),
            );
            keys.extend(source.secret_ref.iter().map(|r| key(Kind::Secret, &r.name)));
        }
        for source in container
            .env
            .iter()
            .flatten()
            .filter_map(|v| v.value_from.as_ref())
        {
            keys.extend(
                source
                    .config_map_key_ref
                    .iter()
                    .map(|r| key(Kind::ConfigMap, &r.name)),
            );
            keys.extend(source.secret_key_ref.iter().map(|r| key(Kind::Secret, &r.name)));
        }
    }
    keys
}

/// The environment as name and value, in order.
pub async fn environment(
    sources: &Sources<'_>,
    container: &Container,
) -> Result<Vec<(String, String)>, Error> {
    let namespace = sources.pod.metadata.namespace.clone().unwrap_or_default();
    let mut result: Vec<(String, String)> = Vec::new();
    let mut known: HashMap<String, String> = HashMap::new();
    for source in container.env_from.iter().flatten() {
        let prefix = source.prefix.as_deref().unwrap_or_default();
        let (kind, name, optional) = match (&source.config_map_ref, &source.secret_ref) {
            (Some(r), _) => (Kind::ConfigMap, &r.name, r.optional),
            (_, Some(r)) => (Kind::Secret, &r.name, r.optional),
            _ => continue,
        };
        let key = ObjectKey {
            kind,
            namespace: namespace.clone(),
            name: name.clone(),
        };
        let data = match sources.objects.get(&key).await {
            Ok(data) => data,
            Err(objects::Error::NotFound(_)) if optional == Some(true) => continue,
            Err(error) => return Err(error.into()),
        };
        for (name, value) in data {
            set(
                &mut result,
                &mut known,
                format!("{prefix}{name}"),
                String::from_utf8_lossy(&value).into(),
            );
        }
    }
    let links = container_services(sources);
    for variable in container.env.iter().flatten() {
        let value = match (&variable.value, &variable.value_from) {
            (Some(value), _) if !value.is_empty() => expand(value, &|name| {
                known.get(name).or_else(|| links.get(name)).cloned()
            }),
            (_, Some(source)) => match resolve(sources, &container.name, &namespace, source).await? {
                Some(value) => value,
                None => continue,
            },
            _ => String::new(),
        };
        set(&mut result, &mut known, variable.name.clone(), value);
    }
    for (name, value) in links {
        if !known.contains_key(&name) {
            result.push((name, value));
        }
    }
    Ok(result)
}

/// Sets a variable; a later one of the same name wins, in its own place.
fn set(result: &mut Vec<(String, String)>, known: &mut HashMap<String, String>, name: String, value: String) {
    if known.insert(name.clone(), value.clone()).is_some() {
        result.retain(|(n, _)| *n != name);
    }
    result.push((name, value));
}

async fn resolve(
    sources: &Sources<'_>,
    container: &str,
    namespace: &str,
    source: &EnvVarSource,
) -> Result<Option<String>, Error> {
    if let Some(selector) = &source.field_ref {
        let path = &selector.field_path;
        let value = fields::field(sources.pod, path, sources.pod_ips, sources.host_ips);
        return value.map(Some).ok_or_else(|| Error::Field(path.clone()));
    }
    if let Some(selector) = &source.resource_field_ref {
        let value = fields::resource(sources.pod, selector, Some(container), &sources.allocatable);
        return value
            .map(Some)
            .ok_or_else(|| Error::Field(selector.resource.clone()));
    }
    let (kind, shown, name, key, optional) = match (&source.config_map_key_ref, &source.secret_key_ref) {
        (Some(r), _) => (Kind::ConfigMap, "ConfigMap", &r.name, &r.key, r.optional),
        (_, Some(r)) => (Kind::Secret, "Secret", &r.name, &r.key, r.optional),
        _ => return Ok(None),
    };
    let optional = optional == Some(true);
    let object = ObjectKey {
        kind,
        namespace: namespace.into(),
        name: name.clone(),
    };
    let data = match sources.objects.get(&object).await {
        Ok(data) => data,
        Err(objects::Error::NotFound(_)) if optional => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    match data.get(key) {
        Some(value) => Ok(Some(String::from_utf8_lossy(value).into())),
        None if optional => Ok(None),
        None => Err(Error::Key {
            key: key.clone(),
            kind: shown,
            namespace: namespace.into(),
            name: name.clone(),
        }),
    }
}

fn container_services(sources: &Sources<'_>) -> BTreeMap<String, String> {
    let spec = sources.pod.spec.as_ref();
    let links = spec.and_then(|s| s.enable_service_links).unwrap_or(true);
    let namespace = sources.pod.metadata.namespace.as_deref().unwrap_or_default();
    service_variables(&sources.services, namespace, links)
}

/// Variables for the Services of `namespace` (if `links`) and for the API's Service `default/kubernetes`.
pub fn service_variables(
    services: &[Arc<Service>],
    namespace: &str,
    links: bool,
) -> BTreeMap<String, String> {
    let mut variables = BTreeMap::new();
    let is_api = |s: &Service| {
        s.metadata.namespace.as_deref() == Some("default") && s.metadata.name.as_deref() == Some("kubernetes")
    };
    // The API's Service first, so that one of the same name in the namespace wins.
    let (api, own): (Vec<_>, Vec<_>) = services.iter().partition(|s| is_api(s));
    let own = own
        .into_iter()
        .filter(|s| links && s.metadata.namespace.as_deref() == Some(namespace));
    for service in api.into_iter().chain(own) {
        describe(service, &mut variables);
    }
    variables
}

fn describe(service: &Service, variables: &mut BTreeMap<String, String>) {
    let Some(spec) = &service.spec else { return };
    let ip = spec.cluster_ip.as_deref().unwrap_or_default();
    let ports = spec.ports.as_deref().unwrap_or_default();
    let (Some(name), Some(first)) = (&service.metadata.name, ports.first()) else {
        return;
    };
    if ip.is_empty() || ip == "None" {
        return;
    }
    let shown_ip = if ip.contains(':') {
        format!("[{ip}]")
    } else {
        ip.to_owned()
    };
    let prefix = name.to_uppercase().replace(['-', '.'], "_");
    variables.insert(format!("{prefix}_SERVICE_HOST"), ip.into());
    variables.insert(format!("{prefix}_SERVICE_PORT"), first.port.to_string());
    for port in ports {
        if let Some(port_name) = port.name.as_deref().filter(|n| !n.is_empty()) {
            let port_name = port_name.to_uppercase().replace('-', "_");
            variables.insert(
                format!("{prefix}_SERVICE_PORT_{port_name}"),
                port.port.to_string(),
            );
        }
    }
    for (index, port) in ports.iter().enumerate() {
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        let lower = protocol.to_lowercase();
        let number = port.port;
        let url = format!("{lower}://{shown_ip}:{number}");
        if index == 0 {
            variables.insert(format!("{prefix}_PORT"), url.clone());
        }
        let stem = format!("{prefix}_PORT_{number}_{}", protocol.to_uppercase());
        variables.insert(format!("{stem}_PROTO"), lower);
        variables.insert(format!("{stem}_PORT"), number.to_string());
        variables.insert(format!("{stem}_ADDR"), ip.into());
        variables.insert(stem, url);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn service(namespace: &str, name: &str, ip: &str) -> Arc<Service> {
        let ports = json!([{"name": "web-ui", "port": 80}, {"port": 53, "protocol": "UDP"}]);
        let spec = json!({"clusterIP": ip, "ports": ports});
        let value = json!({"metadata": {"namespace": namespace, "name": name}, "spec": spec});
        Arc::new(serde_json::from_value(value).expect("a service"))
    }

    #[test]
    fn variables_of_services() {
        let services = [
            service("default", "kubernetes", "10.96.0.1"),
            service("n", "my-db", "10.96.0.9"),
            service("n", "headless", "None"),
            service("other", "x", "10.96.0.8"),
        ];
        let all = service_variables(&services, "n", true);
        let get = |name: &str| all.get(name).map(String::as_str);
        assert_eq!(get("KUBERNETES_SERVICE_HOST"), Some("10.96.0.1"));
        assert_eq!(get("MY_DB_SERVICE_PORT_WEB_UI"), Some("80"));
        assert_eq!(get("MY_DB_PORT"), Some("tcp://10.96.0.9:80"));
        assert_eq!(get("MY_DB_PORT_53_UDP_ADDR"), Some("10.96.0.9"));
        assert_eq!(get("X_SERVICE_HOST"), None);
        assert_eq!(get("HEADLESS_SERVICE_HOST"), None);
        let few = service_variables(&services, "n", false);
        assert!(few.contains_key("KUBERNETES_SERVICE_HOST") && !few.contains_key("MY_DB_SERVICE_HOST"));
    }
}
