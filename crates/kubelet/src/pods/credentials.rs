//! Credentials for registries, from a pod's `imagePullSecrets`. A registry is named as in Docker's configuration: a
//! host, perhaps with a port and a path, perhaps written as a URL.

use crate::context::Context;
use crate::objects::{Kind, ObjectKey};
use base64::Engine;
use k8s_openapi::api::core::v1::Pod;
use protos::cri::AuthConfig;
use serde::Deserialize;
use std::collections::BTreeMap;

const CONFIG: &str = ".dockerconfigjson";
const LEGACY_CONFIG: &str = ".dockercfg";
/// Names of Docker's own registry in images that name none, and in configurations.
const DEFAULT_REGISTRY: &str = "docker.io";
const DEFAULT_ALIAS: &str = "index.docker.io";

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Login {
    username: String,
    password: String,
    auth: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Config {
    auths: BTreeMap<String, Login>,
}

/// The credentials that fit an image, the most specific first. A secret that is missing or makes no sense is told,
/// and otherwise as if it were not named.
pub async fn for_image(context: &Context, pod: &Pod, image: &str) -> Vec<AuthConfig> {
    let namespace = pod.metadata.namespace.clone().unwrap_or_default();
    let names = pod
        .spec
        .iter()
        .flat_map(|s| s.image_pull_secrets.iter().flatten());
    let mut found = Vec::new();
    for name in names.map(|reference| reference.name.clone()) {
        let key = ObjectKey {
            kind: Kind::Secret,
            namespace: namespace.clone(),
            name: name.clone(),
        };
        let logins = match context.objects.fetch(&key).await {
            Ok(data) => logins(&data),
            Err(_) => None,
        };
        let Some(logins) = logins else {
            let message = format!(
                "Unable to retrieve some image pull secrets ({name}); attempting to pull the image may not succeed."
            );
            let pod = client::events::reference(pod);
            context
                .recorder
                .event(&pod, "Warning", "FailedToRetrieveImagePullSecret", message);
            continue;
        };
        found.extend(logins);
    }
    fitting(found, image)
}

fn logins(data: &BTreeMap<String, Vec<u8>>) -> Option<Vec<(String, Login)>> {
    let logins = if let Some(config) = data.get(CONFIG) {
        serde_json::from_slice::<Config>(config).ok()?.auths
    } else {
        serde_json::from_slice(data.get(LEGACY_CONFIG)?).ok()?
    };
    Some(logins.into_iter().collect())
}

fn fitting(logins: Vec<(String, Login)>, image: &str) -> Vec<AuthConfig> {
    let image = full_name(image);
    let mut fitting: Vec<(usize, AuthConfig)> = logins
        .into_iter()
        .filter_map(|(registry, login)| {
            let place = place(&registry);
            let rest = image.strip_prefix(&place)?;
            let at_boundary = rest.is_empty() || rest.starts_with(['/', ':', '@']);
            // A host without its port is another registry.
            let is_host = !place.contains('/') && rest.starts_with(':');
            (at_boundary && !is_host).then(|| (place.len(), auth(&registry, login)))
        })
        .collect();
    fitting.sort_by_key(|(length, _)| std::cmp::Reverse(*length));
    fitting.into_iter().map(|(_, auth)| auth).collect()
}

/// The image's name with its registry.
fn full_name(image: &str) -> String {
    let host = image.split_once('/').map(|(host, _)| host);
    match host {
        Some(host) if host.contains(['.', ':']) || host == "localhost" => image.to_owned(),
        Some(_) => format!("{DEFAULT_REGISTRY}/{image}"),
        None => format!("{DEFAULT_REGISTRY}/library/{image}"),
    }
}

/// A registry's name in a configuration, without what URLs have more.
fn place(registry: &str) -> String {
    let bare = registry
        .trim_start_matches("https://")
        .trim_start_matches("http://")
        .trim_end_matches('/');
    let bare = bare
        .strip_suffix("/v1")
        .or(bare.strip_suffix("/v2"))
        .unwrap_or(bare);
    match bare.strip_prefix(DEFAULT_ALIAS) {
        Some(path) => format!("{DEFAULT_REGISTRY}{path}"),
        None => bare.to_owned(),
    }
}

fn auth(registry: &str, login: Login) -> AuthConfig {
    let decoded = base64::engine::general_purpose::STANDARD
        .decode(login.auth.trim())
        .ok()
        .and_then(|bytes| String::from_utf8(bytes).ok());
    let pair = decoded.as_deref().and_then(|text| text.split_once(':'));
    let (username, password) = match pair {
        Some((user, password)) if login.username.is_empty() => (user.to_owned(), password.to_owned()),
        _ => (login.username, login.password),
    };
    AuthConfig {
        username,
        password,
        auth: String::new(),
        server_address: registry.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn users(config: serde_json::Value, key: &str, image: &str) -> Vec<String> {
        let data = [(key.to_owned(), config.to_string().into_bytes())].into();
        let fitting = fitting(logins(&data).expect("a configuration"), image);
        fitting
            .into_iter()
            .map(|a| format!("{}:{}", a.username, a.password))
            .collect()
    }

    #[test]
    fn the_most_specific_registry_comes_first() {
        let login = |name: &str| json!({"username": name, "password": "p"});
        let config = json!({"auths": {
            "registry.example.com": login("host"),
            "https://registry.example.com/team/": login("team"),
            "registry.example.com:5000": login("port"),
            "https://index.docker.io/v1/": {"auth": "aHViOnM6ZQ=="},
        }});
        let of = |image: &str| users(config.clone(), CONFIG, image);
        assert_eq!(of("registry.example.com/team/app:1"), ["team:p", "host:p"]);
        assert_eq!(of("registry.example.com/teams/app"), ["host:p"]);
        assert_eq!(of("registry.example.com:5000/app"), ["port:p"]);
        assert_eq!(of("busybox"), ["hub:s:e"]);
        assert_eq!(of("user/app"), ["hub:s:e"]);
        assert!(of("elsewhere.example.com/app").is_empty());
        let legacy = json!({"registry.example.com": login("old")});
        assert_eq!(users(legacy, LEGACY_CONFIG, "registry.example.com/x"), ["old:p"]);
        assert!(logins(&[(CONFIG.to_owned(), b"{".to_vec())].into()).is_none());
        assert!(logins(&BTreeMap::new()).is_none());
    }
}
