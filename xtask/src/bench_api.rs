//! `cargo xtask bench api`: the API server's figures beside those of the bare etcd under it, into `docs/bench-api.md`.

use crate::packages::{self, Package, package};
use crate::run::{cargo, hikube_binary, step};
use anyhow::{Context, Result, ensure};
use std::process::{Command, Stdio};

/// What the load needs beyond a cluster's packages.
const PACKAGES: &[Package] = &[package("wrk", "wrk")];
/// The measuring program, built with the whole workspace, whose features the dependencies are compiled with already.
const EXAMPLE: [&str; 4] = ["--release", "--workspace", "--example", "bench_api"];
/// Where the table goes.
const DOCUMENT: &str = "docs/bench-api.md";

/// Builds, measures and writes the table; `args` go to the measuring program (`--seconds N`, `--watchers N`).
pub fn run(args: &[String]) -> Result<()> {
    packages::install(packages::CLUSTER)?;
    packages::install(PACKAGES)?;
    step("Building the API server and its load");
    cargo(&[&["build"], &EXAMPLE[..]].concat())?;
    step("Measuring (about three minutes)");
    let output = Command::new(hikube_binary().with_file_name("examples").join("bench_api"))
        .arg("run")
        .args(args)
        .stderr(Stdio::inherit())
        .output()
        .context("start the measuring program")?;
    let table = String::from_utf8(output.stdout).context("the table")?;
    ensure!(output.status.success(), "the measurement failed");
    println!("{table}");
    let text = format!(
        "## API server\n\n`cargo xtask bench api`: one API server and one etcd that writes to the disk before it \
         acknowledges, TLS, RBAC (a service account's token), 32 connections of wrk (4 for the lists), all on this one \
         machine.\nBare etcd is our etcd client alone, with as many requests at once. Aims are of issue 3; `reached` \
         above 1 is better than the aim.\n\n{table}"
    );
    std::fs::write(DOCUMENT, text).with_context(|| format!("write {DOCUMENT}"))
}
