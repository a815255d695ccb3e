//! Kubernetes' own Go libraries against our protobuf: first the codec alone, over every type, then the server.
//! The Go program is built from `tests/clientgo` the first time, which takes about a minute.
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout)]

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use hikube_testkit::Cluster;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tokio::sync::OnceCell;

/// The Go program; none, and a sentence that says so, where Go is not installed.
async fn program() -> Option<&'static PathBuf> {
    static PROGRAM: OnceCell<Option<PathBuf>> = OnceCell::const_new();
    let built = PROGRAM.get_or_init(|| async { tokio::task::spawn_blocking(build).await.unwrap() });
    built.await.as_ref()
}

fn build() -> Option<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clientgo");
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("clientgo");
    for go in ["go", "/usr/local/go/bin/go", "/usr/lib/go/bin/go"] {
        let built = Command::new(go)
            .args(["build", "-o"])
            .arg(&program)
            .arg(".")
            .current_dir(&source)
            .stdin(Stdio::null())
            .output();
        match built {
            Ok(output) if output.status.success() => return Some(program),
            Ok(output) => panic!("{}", String::from_utf8_lossy(&output.stderr)),
            Err(_) => {}
        }
    }
    println!("Go is not installed: its client libraries are not tested against");
    None
}

/// Without what Go writes as null and we leave out.
fn without_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, v| !v.is_null());
            map.values_mut().for_each(without_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(without_nulls),
        _ => {}
    }
}

/// Every kind, with every field set and with every pointer to an empty value.
#[tokio::test(flavor = "multi_thread")]
async fn every_type_is_read_and_written_as_go_does() {
    let Some(program) = program().await else { return };
    let output = Command::new(program).arg("corpus").output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let mut encoded = String::new();
    let (mut kinds, mut differences) = (std::collections::BTreeSet::new(), Vec::new());
    for line in output.stdout.split(|b| *b == b'\n').filter(|l| !l.is_empty()) {
        let mut sample: Value = serde_json::from_slice(line).unwrap();
        let text = |field: &str| sample[field].as_str().unwrap().to_owned();
        let (group, version, kind) = (text("group"), text("version"), text("kind"));
        let protobuf = BASE64.decode(text("protobuf")).unwrap();
        let served = schema::registry().by_kind(&group, &version, &kind).is_some();
        let mut decoded = match schema::protobuf::decode(&protobuf) {
            Ok(decoded) => decoded,
            // Internals of upstream's that no resource has.
            Err(schema::protobuf::Error::UnknownType { .. }) if !served => continue,
            Err(error) => panic!("{group}/{version} {kind}: {error}"),
        };
        let mut expected = sample["json"].take();
        without_nulls(&mut expected);
        without_nulls(&mut decoded);
        if decoded != expected {
            differences.push(format!(
                "{group}/{version} {kind}:\nwant {expected}\ngot  {decoded}"
            ));
            continue;
        }
        let bytes = schema::protobuf::encode(&expected).unwrap_or_else(|e| panic!("{kind}: {e}"));
        let back = json!({
            "group": group, "version": version, "kind": kind, "protobuf": BASE64.encode(bytes), "json": expected,
        });
        encoded += &format!("{back}\n");
        kinds.insert((group, version, kind));
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    for resource in schema::registry().resources() {
        let kind = (
            resource.group.to_string(),
            resource.version.to_string(),
            resource.kind.to_string(),
        );
        assert!(kinds.contains(&kind), "{kind:?} was not tested");
    }
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("clientgo-encoded");
    std::fs::write(&path, encoded).unwrap();
    let input = std::fs::File::open(&path).unwrap();
    let output = Command::new(program).arg("check").stdin(input).output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    println!(
        "{} kinds: {}",
        kinds.len(),
        String::from_utf8_lossy(&output.stdout)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn go_programs_use_the_server_in_protobuf() {
    let Some(program) = program().await else { return };
    let cluster = Cluster::start().await.unwrap();
    let admin = cluster.admin.clone();
    let output =
        tokio::task::spawn_blocking(move || Command::new(program).arg("drive").arg(admin).output().unwrap())
            .await
            .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "{}{}",
        text(&output.stdout),
        text(&output.stderr)
    );
    println!("{}", text(&output.stdout));
}
