//! Writes the documents that this crate makes (discovery, OpenAPI) into a directory, laid out as the API serves
//! them, to look at them or to serve them to a client without a cluster.
//!
//! `cargo run -p hikube-schema --example dump -- DIRECTORY`
#![allow(clippy::unwrap_used)]

use std::error::Error;
use std::fs;
use std::path::Path;

use hikube_schema::discovery::{self, AggregatedVersion};
use hikube_schema::{openapi, registry};

fn main() -> Result<(), Box<dyn Error>> {
    let directory = std::env::args().nth(1).ok_or("usage: dump DIRECTORY")?;
    let write = |path: &str, bytes: &[u8]| -> std::io::Result<()> {
        let path = Path::new(&directory).join(path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(path, bytes)
    };
    let text = |value: serde_json::Value| value.to_string().into_bytes();
    write(
        "api/aggregated.json",
        &text(discovery::aggregated_api(AggregatedVersion::V2)),
    )?;
    write("api/plain.json", &text(discovery::api_versions("127.0.0.1:6443")))?;
    write(
        "apis/aggregated.json",
        &text(discovery::aggregated_apis(AggregatedVersion::V2, Vec::new())),
    )?;
    write("apis/plain.json", &text(discovery::api_group_list(Vec::new())))?;
    write("openapi/v2.json", &openapi::v2_json())?;
    write("openapi/v2.pb", &openapi::v2_protobuf())?;
    write("openapi/v3/index.json", &openapi::v3_index())?;
    for (group, version) in registry().group_versions() {
        let (name, path) = match group {
            "" => (version.to_owned(), format!("api/{version}")),
            group => (format!("{group}/{version}"), format!("apis/{group}/{version}")),
        };
        let list = discovery::resource_list(&name).ok_or("a group and version without resources")?;
        write(&format!("{path}.json"), &text(list))?;
        let document =
            openapi::v3(&name, &openapi::undescribed).ok_or("a group and version without a document")?;
        write(&format!("openapi/v3/{path}.json"), &document)?;
    }
    Ok(())
}
