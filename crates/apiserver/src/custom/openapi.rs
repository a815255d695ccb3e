//! The OpenAPI documents, custom resources included. They are made when they are asked for: clients keep them by
//! their `ETag`, which is each document's own. Clients that ask for one at the same time share its bytes.

use crate::call::Response;
use crate::http::query::Query;
use crate::http::respond;
use crate::http::status::Status;
use crate::server::Server;
use bytes::Bytes;
use descriptions::Descriptions;
use http::{HeaderValue, StatusCode, header};
use parking_lot::Mutex;
use schema::Resource;
use schema::openapi::{self, Published};
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock, Weak};

/// Version 2 as protobuf, by the name that is sent back.
const V2_PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
/// The name that client-go had for it before 1.28.
const V2_PROTOBUF_OLD: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
/// How long a document may be kept that was asked for by its hash: its content is always the same.
const KEEP_SECONDS: i64 = 365 * 24 * 3600;

/// What a client asks with.
pub struct Asked<'a> {
    /// Below `/openapi`.
    pub path: &'a [&'a str],
    /// Parameters.
    pub query: &'a Query,
    /// The header `Accept`.
    pub accept: &'a str,
    /// The header `If-None-Match`.
    pub known_etag: Option<&'a str>,
}

/// Answers `/openapi/...`.
pub fn answer(server: &Server, asked: &Asked<'_>) -> Result<Response, Status> {
    let all = || format!("{}{}", own_hash(), server.store.customs().tag());
    match asked.path {
        ["v2"] => {
            let (content_type, protobuf) =
                if asked.accept.contains(V2_PROTOBUF) || asked.accept.contains(V2_PROTOBUF_OLD) {
                    (V2_PROTOBUF, true)
                } else {
                    ("application/json", false)
                };
            Ok(document(asked, content_type, &all(), || v2(server, protobuf)))
        }
        ["v3"] => Ok(document(asked, "application/json", &all(), || {
            openapi::v3_index_with(own_hash(), index(server))
        })),
        ["v3", "api", version] => group(server, asked, version),
        ["v3", "apis", group_name, version] => group(server, asked, &format!("{group_name}/{version}")),
        _ => Err(Status::no_such_path()),
    }
}

/// Names the content of the documents of built-in resources.
fn own_hash() -> &'static str {
    static HASH: OnceLock<String> = OnceLock::new();
    HASH.get_or_init(|| format!("{}{:016X}", openapi::hash(), descriptions::digest()))
}

/// The document of one group and version. Asked for by its hash it may be kept for ever; by an old one, the client
/// is sent to the new one.
fn group(server: &Server, asked: &Asked<'_>, group_version: &str) -> Result<Response, Status> {
    let (group, version) = group_version.split_once('/').unwrap_or(("", group_version));
    let built_in = schema::registry().group_versions().contains(&(group, version));
    let hash = if built_in {
        own_hash().to_owned()
    } else {
        index(server)
            .into_iter()
            .find_map(|(name, hash)| (name.strip_prefix("apis/") == Some(group_version)).then_some(hash))
            .ok_or_else(Status::no_such_path)?
    };
    let wanted = asked.query.get("hash");
    if let Some(old) = wanted.filter(|wanted| *wanted != hash) {
        tracing::debug!(group_version, old, "OpenAPI document asked for by an old hash");
        return Ok(moved(&format!("/openapi/{}?hash={hash}", asked.path.join("/"))));
    }
    let mut response = document(asked, "application/json", &hash, || v3(server, group_version));
    if wanted.is_some() {
        let until = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(KEEP_SECONDS);
        let until = until.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
        let headers = response.headers_mut();
        headers.insert(
            header::CACHE_CONTROL,
            HeaderValue::from_static("public, immutable"),
        );
        if let Ok(until) = HeaderValue::from_str(&until) {
            headers.insert(header::EXPIRES, until);
        }
    }
    Ok(response)
}

fn moved(to: &str) -> Response {
    let mut response = respond::bytes(StatusCode::MOVED_PERMANENTLY.as_u16(), "text/plain", "");
    if let Ok(to) = HeaderValue::from_str(to) {
        response.headers_mut().insert(header::LOCATION, to);
    }
    response
}

/// A document, or word that the client has it already.
fn document(
    asked: &Asked<'_>,
    content_type: &'static str,
    hash: &str,
    render: impl FnOnce() -> Vec<u8>,
) -> Response {
    let etag = format!("\"{hash}\"");
    let mut response = if respond::has_etag(asked.known_etag, &etag) {
        respond::not_modified(&etag)
    } else {
        let key = format!("{}{content_type}{hash}", asked.path.join("/"));
        respond::bytes(200, content_type, shared(key, render))
    };
    respond::set_etag(&mut response, &etag);
    response
        .headers_mut()
        .insert(header::VARY, HeaderValue::from_static("Accept"));
    response
}

/// Bytes that all who asked for the same document hold, and nobody else.
struct Document(Arc<Vec<u8>>);

impl AsRef<[u8]> for Document {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// The bytes of a document: those that another client is being sent, or new ones. One is made at a time, since making
/// one takes several times its memory.
fn shared(key: String, render: impl FnOnce() -> Vec<u8>) -> Bytes {
    static SENT: Mutex<BTreeMap<String, Weak<Vec<u8>>>> = Mutex::new(BTreeMap::new());
    let mut sent = SENT.lock();
    if let Some(bytes) = sent.get(&key).and_then(Weak::upgrade) {
        return Bytes::from_owner(Document(bytes));
    }
    let bytes = Arc::new(render());
    sent.retain(|_, bytes| bytes.strong_count() > 0);
    sent.insert(key, Arc::downgrade(&bytes));
    Bytes::from_owner(Document(bytes))
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

fn v2(server: &Server, protobuf: bool) -> Vec<u8> {
    let texts = Descriptions::load();
    let describe = |ty: &str, field: &str| texts.get(ty, field);
    with_published(
        server,
        |_| true,
        |published| {
            if protobuf {
                openapi::v2_protobuf_with(published, &describe)
            } else {
                openapi::v2_json_with(published, &describe)
            }
        },
    )
}

fn v3(server: &Server, group_version: &str) -> Vec<u8> {
    let texts = Descriptions::load();
    let describe = |ty: &str, field: &str| texts.get(ty, field);
    if let Some(document) = openapi::v3(group_version, &describe) {
        return document;
    }
    with_published(
        server,
        |r| r.api_version() == group_version,
        |published| openapi::v3_custom(published, &describe),
    )
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
