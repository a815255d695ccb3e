//! OpenAPI documents, made from the facts on demand: nothing is kept, a caller that wants to may cache the bytes.
//!
//! They carry structure; what types and fields are for is told by whoever calls ([`Describe`]), since those words are
//! not facts that this crate knows.

mod custom;
mod descriptions;
mod operations;
mod protobuf;
mod render;
mod types;

use std::collections::BTreeSet;
use std::sync::OnceLock;

use serde_json::{Map, Value, json};

use crate::KUBERNETES_VERSION;
use crate::facts::{Inner, TypeId, facts};
use crate::registry::registry;
pub use custom::{Published, v3_custom};
use operations::PathItem;

/// Says what a type of this name is for, or (where a second name is given) a field of it.
pub type Describe<'a> = &'a (dyn Fn(&str, &str) -> Option<&'a str> + 'a);

/// Tells nothing: documents have the structure alone.
pub fn undescribed(_: &str, _: &str) -> Option<&'static str> {
    None
}

/// Which version of the specification a part is rendered for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flavour {
    V2,
    V3,
}

impl Flavour {
    fn reference(self, name: &str) -> String {
        match self {
            Flavour::V2 => format!("#/definitions/{name}"),
            Flavour::V3 => format!("#/components/schemas/{name}"),
        }
    }
}

/// `/openapi/v2` as JSON.
pub fn v2_json() -> Vec<u8> {
    v2_json_with(&[], &undescribed)
}

/// [`v2_json`] with custom resources.
pub fn v2_json_with(published: &[Published<'_>], describe: Describe<'_>) -> Vec<u8> {
    let (paths, definitions) = custom::v2_parts(published);
    // Written part by part: the whole tree would take ten times the memory of its text.
    let mut out = Vec::with_capacity(2 << 20);
    out.extend_from_slice(br#"{"swagger":"2.0","info":"#);
    out.extend(
        json!({"title": "Kubernetes", "version": KUBERNETES_VERSION})
            .to_string()
            .bytes(),
    );
    out.extend_from_slice(br#","paths":"#);
    write_map(
        &mut out,
        operations::all()
            .map(|item| (item.path.clone(), render::path_v2(&item)))
            .chain(paths),
    );
    out.extend_from_slice(br#","definitions":"#);
    write_map(
        &mut out,
        facts()
            .types()
            .map(|(id, ty)| (ty.name.to_owned(), types::definition(id, Flavour::V2, describe)))
            .chain(definitions),
    );
    out.extend_from_slice(br#","parameters":"#);
    write_map(&mut out, render::shared_parameters());
    out.extend_from_slice(br#","securityDefinitions":"#);
    let scheme = json!({"BearerToken": {"type": "apiKey", "name": "authorization", "in": "header"}});
    out.extend(scheme.to_string().bytes());
    out.extend_from_slice(br#","security":[{"BearerToken":[]}]}"#);
    out
}

/// `/openapi/v2` as protobuf: `openapi.v2.Document` of gnostic, which older clients ask for as
/// `application/com.github.proto-openapi.spec.v2@v1.0+protobuf`.
pub fn v2_protobuf() -> Vec<u8> {
    v2_protobuf_with(&[], &undescribed)
}

/// [`v2_protobuf`] with custom resources.
pub fn v2_protobuf_with(published: &[Published<'_>], describe: Describe<'_>) -> Vec<u8> {
    let (paths, definitions) = custom::v2_parts(published);
    protobuf::document(
        KUBERNETES_VERSION,
        operations::all()
            .map(|item| (item.path.clone(), render::path_v2(&item)))
            .chain(paths),
        facts()
            .types()
            .map(|(id, ty)| (ty.name.to_owned(), types::definition(id, Flavour::V2, describe)))
            .chain(definitions),
        render::shared_parameters(),
    )
}

/// `/openapi/v3`: the index of documents, one for each group and version.
pub fn v3_index() -> Vec<u8> {
    v3_index_with(hash(), std::iter::empty())
}

/// [`v3_index`] with a name for the content of its documents (which [`hash`] is, without descriptions), and with
/// further entries: (`apis/group/version`, hash), for custom resources.
pub fn v3_index_with(own: &str, extra: impl IntoIterator<Item = (String, String)>) -> Vec<u8> {
    let mut paths = Map::new();
    let own = registry().group_versions().into_iter().map(|(group, version)| {
        let name = if group.is_empty() {
            format!("api/{version}")
        } else {
            format!("apis/{group}/{version}")
        };
        (name, own.to_owned())
    });
    for (name, hash) in own.chain(extra) {
        let url = format!("/openapi/v3/{name}?hash={hash}");
        paths.insert(name, json!({"serverRelativeURL": url}));
    }
    json!({"paths": paths}).to_string().into_bytes()
}

/// `/openapi/v3/api/v1` or `/openapi/v3/apis/{group}/{version}`, for `v1` or `group/version`; none if it is not built in.
pub fn v3(group_version: &str, describe: Describe<'_>) -> Option<Vec<u8>> {
    let (group, version) = group_version.split_once('/').unwrap_or(("", group_version));
    let items: Vec<PathItem> = operations::of_group_version(group, version).collect();
    if !registry().group_versions().contains(&(group, version)) {
        return None;
    }
    let mut out = Vec::with_capacity(256 << 10);
    out.extend_from_slice(br#"{"openapi":"3.0.0","info":"#);
    out.extend(
        json!({"title": "Kubernetes", "version": KUBERNETES_VERSION})
            .to_string()
            .bytes(),
    );
    out.extend_from_slice(br#","paths":"#);
    write_map(
        &mut out,
        items
            .iter()
            .map(|item| (item.path.clone(), render::path_v3(item))),
    );
    out.extend_from_slice(br#","components":{"schemas":"#);
    let schemas = closure(&items);
    let facts = facts();
    write_map(
        &mut out,
        schemas.into_iter().map(|id| {
            (
                facts.get(id).name.to_owned(),
                types::definition(id, Flavour::V3, describe),
            )
        }),
    );
    out.extend_from_slice(
        br#","securitySchemes":{"BearerToken":{"type":"apiKey","name":"authorization","in":"header"}}}}"#,
    );
    Some(out)
}

/// A name for the content of all documents: the same facts give the same hash.
pub fn hash() -> &'static str {
    static HASH: OnceLock<String> = OnceLock::new();
    HASH.get_or_init(|| {
        // FNV-1a over what the documents are made from.
        let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
        let sources = [
            crate::facts::text(),
            env!("CARGO_PKG_VERSION"),
            KUBERNETES_VERSION,
        ];
        for byte in sources.iter().flat_map(|source| source.bytes()) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        format!("{hash:016X}")
    })
}

/// The definitions that paths need.
fn closure(items: &[PathItem]) -> BTreeSet<TypeId> {
    let operations = items.iter().flat_map(|item| &item.operations);
    let types = operations.flat_map(|operation| [operation.returns, operation.body]);
    closure_of(types.flatten().collect())
}

/// These definitions and all that they refer to.
fn closure_of(mut queue: Vec<TypeId>) -> BTreeSet<TypeId> {
    let facts = facts();
    let mut found = BTreeSet::new();
    while let Some(id) = queue.pop() {
        if !found.insert(id) {
            continue;
        }
        for field in facts.fields(id) {
            if let Inner::Type(inner) = field.shape.inner {
                queue.push(inner);
            }
        }
    }
    found
}

fn write_map(out: &mut Vec<u8>, entries: impl Iterator<Item = (String, Value)>) {
    out.push(b'{');
    for (index, (name, value)) in entries.enumerate() {
        if index > 0 {
            out.push(b',');
        }
        out.extend(Value::String(name).to_string().bytes());
        out.push(b':');
        // Writing to a vector cannot fail.
        let _ = serde_json::to_writer(&mut *out, &value);
    }
    out.push(b'}');
}

#[cfg(test)]
mod tests;
