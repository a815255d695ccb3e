//! Paths that are no resource: discovery, OpenAPI, version, health, metrics, keys.

use crate::call::Response;
use crate::custom::documents as custom;
use crate::custom::openapi;
use crate::health;
use crate::http::query::Query;
use crate::http::request::RequestInfo;
use crate::http::respond;
use crate::http::status::Status;
use crate::server::Server;
use http::{HeaderValue, header};
use schema::discovery::{self, AggregatedVersion};
use serde_json::{Value, json};
use std::sync::Arc;

/// `/version`.
pub fn version() -> Value {
    let built = option_env!("HIKUBE_BUILD_DATE").unwrap_or("1970-01-01T00:00:00Z");
    let commit = option_env!("HIKUBE_COMMIT").unwrap_or("");
    json!({
        "major": "1", "minor": "36", "emulationMajor": "1", "emulationMinor": "36",
        "minCompatibilityMajor": "1", "minCompatibilityMinor": "35",
        "gitVersion": format!("{}+hikube", schema::KUBERNETES_VERSION), "gitCommit": commit, "gitTreeState": "clean",
        "buildDate": built, "goVersion": "", "compiler": "rustc", "platform": "linux/amd64",
    })
}

/// Answers a path that is no resource.
pub async fn answer(
    server: &Arc<Server>,
    info: &RequestInfo,
    query: &Query,
    accept: Option<&str>,
    known_etag: Option<&str>,
) -> Result<Response, Status> {
    if info.verb != "get" && info.verb != "head" {
        return Err(Status::method_not_allowed());
    }
    let accept = accept.unwrap_or_default();
    let segments: Vec<&str> = info.path.trim_matches('/').split('/').collect();
    match segments.as_slice() {
        [""] => Ok(respond::json(200, &json!({"paths": paths(server)}))),
        ["version"] => Ok(respond::json(200, &version())),
        ["livez" | "readyz" | "healthz", rest @ ..] => {
            Ok(health::answer(server, segments[0], rest, query).await)
        }
        ["metrics"] => Ok(respond::bytes(
            200,
            "text/plain; version=0.0.4",
            server.metrics.render(server),
        )),
        ["openid", "v1", "jwks"] => Ok(respond::bytes(
            200,
            "application/jwk-set+json",
            server.issuer.jwks().to_string(),
        )),
        [".well-known", "openid-configuration"] => Ok(respond::json(200, &openid(server))),
        ["api"] => Ok(group_list(server, accept, known_etag, true)),
        ["apis"] => Ok(group_list(server, accept, known_etag, false)),
        ["api", version] => resource_list(server, version),
        ["apis", group] => {
            let group = discovery::api_group(group)
                .or_else(|| custom::group(server, group))
                .ok_or_else(Status::no_such_path)?;
            Ok(respond::json(200, &group))
        }
        ["apis", group, version] => resource_list(server, &format!("{group}/{version}")),
        ["openapi", rest @ ..] => {
            let asked = openapi::Asked {
                path: rest,
                query,
                accept,
                known_etag,
            };
            openapi::answer(server, &asked)
        }
        _ => Err(Status::no_such_path()),
    }
}

fn paths(server: &Server) -> Vec<String> {
    let mut paths: Vec<String> = ["/.well-known/openid-configuration", "/api", "/api/v1", "/apis"]
        .map(str::to_owned)
        .into();
    for group in discovery::groups() {
        paths.push(format!("/apis/{group}"));
    }
    for (group, version) in schema::registry().group_versions() {
        if !group.is_empty() {
            paths.push(format!("/apis/{group}/{version}"));
        }
    }
    paths.extend(
        [
            "/healthz",
            "/livez",
            "/metrics",
            "/openapi/v2",
            "/openapi/v3",
            "/openid/v1/jwks",
            "/readyz",
            "/version",
        ]
        .map(str::to_owned),
    );
    for resource in server.store.customs().resources() {
        paths.push(format!("/apis/{}", resource.group));
        paths.push(format!("/apis/{}", resource.api_version()));
    }
    paths.sort();
    paths.dedup();
    paths
}

fn openid(server: &Server) -> Value {
    json!({
        "issuer": server.issuer.url,
        "jwks_uri": format!("https://{}/openid/v1/jwks", own_address(server)),
        "response_types_supported": ["id_token"], "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["ES256"],
    })
}

fn own_address(server: &Server) -> String {
    std::net::SocketAddr::new(server.config.advertise_address, server.config.bind.port()).to_string()
}

/// The aggregated form that a client asks for, before plain JSON.
fn aggregated(accept: &str) -> Option<AggregatedVersion> {
    for alternative in accept.split(',') {
        let parts: Vec<&str> = alternative.split(';').map(str::trim).collect();
        if parts.first() != Some(&"application/json") {
            continue;
        }
        if !parts.contains(&"as=APIGroupDiscoveryList") {
            return None;
        }
        if parts.contains(&"v=v2") {
            return Some(AggregatedVersion::V2);
        }
        if parts.contains(&"v=v2beta1") {
            return Some(AggregatedVersion::V2Beta1);
        }
    }
    None
}

fn group_list(server: &Server, accept: &str, known_etag: Option<&str>, core: bool) -> Response {
    let Some(version) = aggregated(accept) else {
        let value = if core {
            discovery::api_versions(&own_address(server))
        } else {
            discovery::api_group_list(discovery::custom_entries(&server.store.customs().resources()))
        };
        return respond::json(200, &value);
    };
    let value = if core {
        discovery::aggregated_api(version)
    } else {
        discovery::aggregated_apis(
            version,
            discovery::aggregated_custom(&server.store.customs().resources()),
        )
    };
    let content_type = match version {
        AggregatedVersion::V2 => "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
        AggregatedVersion::V2Beta1 => {
            "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList"
        }
    };
    let text = value.to_string();
    let etag = format!("\"{}\"", digest(content_type, &text));
    let mut response = if respond::has_etag(known_etag, &etag) {
        respond::not_modified(&etag)
    } else {
        respond::bytes(200, content_type, text)
    };
    respond::set_etag(&mut response, &etag);
    response
        .headers_mut()
        .insert(header::VARY, HeaderValue::from_static("Accept"));
    response
}

/// A name for what a document says in a form.
fn digest(content_type: &str, text: &str) -> String {
    use sha2::Digest as _;
    let digest = sha2::Sha256::new()
        .chain_update(content_type)
        .chain_update(text)
        .finalize();
    digest.iter().take(16).map(|byte| format!("{byte:02X}")).collect()
}

fn resource_list(server: &Server, group_version: &str) -> Result<Response, Status> {
    let list = discovery::resource_list(group_version)
        .or_else(|| custom::resource_list(server, group_version))
        .ok_or_else(Status::no_such_path)?;
    Ok(respond::json(200, &list))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aggregated_discovery_is_negotiated() {
        let kubectl = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";
        assert_eq!(aggregated(kubectl), Some(AggregatedVersion::V2));
        assert_eq!(aggregated("application/json, */*"), None);
        assert_eq!(aggregated(""), None);
    }
}
