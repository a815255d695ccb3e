//! Benchmarks: of a running cluster, and of the replication layer alone against the disk below it.

use crate::run::{cargo, checked, step};
use crate::{packages, suite};
use anyhow::Result;
use std::process::Command;

/// `bench` measures a cluster; `bench volume` a replicated volume; `bench api` the API server.
pub fn run(args: &[String]) -> Result<()> {
    match args.split_first() {
        Some((first, rest)) if first == "volume" => volume(rest),
        Some((first, rest)) if first == "api" => crate::bench_api::run(rest),
        _ => suite::cluster(&["--bench"], args),
    }
}

/// Three stores and an engine as processes, fio through the NBD socket, and three writers on raw files.
fn volume(args: &[String]) -> Result<()> {
    packages::install(packages::TESTS)?;
    step("Building stores and engine (release)");
    cargo(&["build", "--release", "--workspace", "--example", "volume_bench"])?;
    let target = crate::run::hikube_binary();
    let program = target.with_file_name("examples").join("volume_bench");
    step("Measuring; this takes about five minutes (--help tells how to shorten it)");
    checked(Command::new(program).args(args))
}
