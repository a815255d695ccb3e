//! OpenAPI documents, made from the facts on demand.

/// `/openapi/v2` as JSON.
pub fn v2_json() -> Vec<u8> {
    Vec::new()
}
/// `/openapi/v2` as protobuf (gnostic's `openapi.v2.Document`).
pub fn v2_protobuf() -> Vec<u8> {
    Vec::new()
}
/// `/openapi/v3`: the index of documents, one for each group and version.
pub fn v3_index() -> Vec<u8> {
    Vec::new()
}
/// `/openapi/v3/api/v1` or `/openapi/v3/apis/{group}/{version}`, for `v1` or `group/version`.
pub fn v3(_group_version: &str) -> Option<Vec<u8>> {
    None
}
