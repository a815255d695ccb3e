//! The OpenAPI documents, custom resources included. They are made when they are asked for: clients keep them by
//! their `ETag`, which changes with the definitions.

use crate::call::Response;
use crate::http::respond;
use crate::http::status::Status;
use crate::server::Server;
use http::{HeaderValue, header};
use schema::Resource;
use schema::openapi::{self, Published};
use std::collections::BTreeMap;

/// Answers `/openapi/...`.
pub fn answer(
    server: &Server,
    path: &[&str],
    accept: &str,
    known_etag: Option<&str>,
) -> Result<Response, Status> {
    let etag = format!("\"{}{}\"", openapi::hash(), server.store.customs().tag());
    if known_etag == Some(&etag) {
        return Ok(respond::not_modified(&etag));
    }
    let (content_type, body) = match path {
        ["v2"] => v2(server, accept),
        ["v3"] => ("application/json", openapi::v3_index_with(index(server))),
        ["v3", "api", version] => ("application/json", v3(server, version)?),
        ["v3", "apis", group, version] => ("application/json", v3(server, &format!("{group}/{version}"))?),
        _ => return Err(Status::no_such_path()),
    };
    let mut response = respond::bytes(200, content_type, body);
    respond::set_etag(&mut response, &etag);
    response
        .headers_mut()
        .insert(header::VARY, HeaderValue::from_static("Accept"));
    Ok(response)
}

/// The custom resources of which a test holds, with their schemas.
fn with_published<R>(
    server: &Server,
    wanted: impl Fn(&Resource) -> bool,
    render: impl FnOnce(&[Published<'_>]) -> R,
) -> R {
    let definitions = server.store.customs().definitions();
    let mut published = Vec::new();
    for definition in &definitions {
        for resource in definition.served().filter(|r| wanted(r)) {
            published.push(Published {
                resource,
                schema: definition.schema_of(&resource.version),
            });
        }
    }
    render(&published)
}

fn v2(server: &Server, accept: &str) -> (&'static str, Vec<u8>) {
    if accept.contains("application/com.github.proto-openapi.spec.v2@v1.0+protobuf") {
        let content_type = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
        return (
            content_type,
            with_published(server, |_| true, openapi::v2_protobuf_with),
        );
    }
    (
        "application/json",
        with_published(server, |_| true, openapi::v2_json_with),
    )
}

fn v3(server: &Server, group_version: &str) -> Result<Vec<u8>, Status> {
    if let Some(document) = openapi::v3(group_version) {
        return Ok(document);
    }
    with_published(
        server,
        |r| r.api_version() == group_version,
        |published| (!published.is_empty()).then(|| openapi::v3_custom(published)),
    )
    .ok_or_else(Status::no_such_path)
}

/// The documents of groups of custom resources, each with a name for its content.
fn index(server: &Server) -> Vec<(String, String)> {
    let mut found: BTreeMap<String, String> = BTreeMap::new();
    for definition in server.store.customs().definitions() {
        for resource in definition.served() {
            let name = format!("apis/{}", resource.api_version());
            let hash = found.entry(name).or_default();
            // Revisions are unique among all objects, so their list names the content.
            hash.push_str(&format!("{:X}", definition.object.revision));
        }
    }
    found.into_iter().collect()
}
