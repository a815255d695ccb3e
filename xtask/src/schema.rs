//! `cargo xtask schema SWAGGER DISCOVERY`: derives the facts of the API anew from a Kubernetes release.

use std::fs;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};

/// Where the facts are kept.
const FACTS: &str = "crates/schema/src/facts.txt";

/// Runs the generator and replaces the facts; the difference is then reviewed like any other change.
pub fn run(args: &[String]) -> Result<()> {
    let [swagger, discovery] = args else {
        bail!("usage: cargo xtask schema SWAGGER.json DISCOVERY-aggregated_v2.json");
    };
    let output = Command::new(env!("CARGO"))
        .args([
            "run",
            "--release",
            "--quiet",
            "-p",
            "hikube-schema",
            "--example",
            "generate",
            "--",
        ])
        .args([swagger, discovery])
        .stderr(Stdio::inherit())
        .output()
        .context("starting the generator")?;
    ensure!(
        output.status.success(),
        "the generator failed on {swagger} and {discovery}"
    );
    fs::write(FACTS, &output.stdout).with_context(|| format!("writing {FACTS}"))
}
