//! Times the functions that the API server calls on each write, and tells how much memory the facts take.
//!
//! `cargo run --release -p hikube-schema --example bench`
#![allow(clippy::unwrap_used)]

use std::error::Error;
use std::hint::black_box;
use std::io::Write as _;
use std::time::Instant;

use hikube_schema as schema;
use serde_json::{Value, json};

/// Calls per figure: enough for a stable mean in well under a second.
const ROUNDS: u32 = 20_000;

fn resident_kib() -> Result<u64, Box<dyn Error>> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status
        .lines()
        .find(|l| l.starts_with("RssAnon:"))
        .ok_or("no RssAnon")?;
    Ok(line.split_whitespace().nth(1).ok_or("no number")?.parse()?)
}

fn pod() -> Value {
    let container = |name: &str| {
        json!({"name": name, "image": "registry.example.com/app:1.2.3", "ports": [{"name": "http", "containerPort": 8080}],
               "env": [{"name": "A", "value": "b"}, {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}],
               "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "256Mi"}},
               "livenessProbe": {"httpGet": {"path": "/healthz", "port": "http"}, "periodSeconds": 5},
               "volumeMounts": [{"name": "data", "mountPath": "/data"}]})
    };
    json!({"apiVersion": "v1", "kind": "Pod",
           "metadata": {"name": "web-0", "namespace": "default", "uid": "0", "labels": {"app": "web", "tier": "front"}},
           "spec": {"containers": [container("a"), container("b")], "volumes": [{"name": "data", "emptyDir": {}}],
                    "tolerations": [{"key": "x", "operator": "Exists"}]}})
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut out = std::io::stdout().lock();
    let before = resident_kib()?;
    let start = Instant::now();
    let pods = schema::registry()
        .find("", "v1", "pods")
        .ok_or("pods are built in")?;
    writeln!(
        out,
        "decode the facts: {:?}, {} KiB",
        start.elapsed(),
        resident_kib()? - before
    )?;
    let mut object = pod();
    schema::prune(pods, &mut object);
    schema::default(pods, &mut object);
    schema::strategy::prepare_create(pods, &mut object);
    let bytes = object.to_string();
    let changed =
        json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "a", "image": "x"}]}});
    let mut time = |name: &str, step: &mut dyn FnMut()| -> std::io::Result<()> {
        let start = Instant::now();
        for _ in 0..ROUNDS {
            step();
        }
        writeln!(
            out,
            "{name}: {:.2} us",
            start.elapsed().as_secs_f64() * 1e6 / f64::from(ROUNDS)
        )
    };
    time("clone", &mut || drop(black_box(object.clone())))?;
    time("decode::parse", &mut || {
        drop(black_box(schema::decode::parse(bytes.as_bytes())))
    })?;
    let mut copy = object.clone();
    time("prune", &mut || drop(black_box(schema::prune(pods, &mut copy))))?;
    time("default", &mut || schema::default(pods, black_box(&mut copy)))?;
    time("validate_create", &mut || {
        drop(black_box(schema::validate_create(pods, &object)))
    })?;
    time("validate_update", &mut || {
        drop(black_box(schema::validate_update(pods, &object, &object)))
    })?;
    time("prepare_update", &mut || {
        schema::strategy::prepare_update(pods, &object, black_box(&mut copy))
    })?;
    time("strategic_merge", &mut || {
        drop(black_box(schema::strategic_merge(pods, &object, &changed)))
    })?;
    time("field_labels", &mut || {
        drop(black_box(schema::field_labels(pods, &object)))
    })?;
    time("table::row", &mut || {
        drop(black_box(schema::table::row(pods, &object, 0)))
    })?;
    let start = Instant::now();
    let length = black_box(schema::openapi::v2_json()).len();
    writeln!(out, "openapi v2 JSON: {length} bytes in {:?}", start.elapsed())?;
    let start = Instant::now();
    let length = black_box(schema::openapi::v2_protobuf()).len();
    writeln!(
        out,
        "openapi v2 protobuf: {length} bytes in {:?}",
        start.elapsed()
    )?;
    writeln!(
        out,
        "memory in the end: {} KiB above the start",
        resident_kib()?.saturating_sub(before)
    )?;
    Ok(())
}
