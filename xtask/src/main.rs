//! Developer commands. `cargo xtask help` lists them.
//!
//! Few dependencies on purpose: this is the first thing that a fresh machine compiles.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod bench;
mod bench_api;
mod conformance;
mod packages;
mod run;
mod schema;
mod suite;
mod tidy;

use anyhow::{Result, bail};
use std::process::ExitCode;

const HELP: &str = "\
Developer commands of Hikube.

  cargo xtask up [ARGS]      install what is missing, build, and bring up a cluster (ARGS go to `hikube up`)
  cargo xtask test [PART..]  what CI runs; parts: fmt, tidy, deny, clippy, unit, integration,
                             sim, cluster
  cargo xtask tidy           house rules: lengths, headers, banned calls
  cargo xtask sim [ARGS]     simulate the replication core: --seeds N, --start S
  cargo xtask fuzz [ARGS]    damage what stores read from disks and networks, and what clients send to the API server:
                             --seconds N for each target, --target T, --start S
  cargo xtask chaos [ARGS]   the cluster test's region failures, round after round: --rounds N
  cargo xtask bench          measure start, idle memory and CPU of a running cluster
  cargo xtask bench volume   measure a replicated volume against the disk below it (--help: options)
  cargo xtask bench api      the API server beside bare etcd: --seconds N, --watchers N
  cargo xtask conformance    upstream's own end-to-end suite, into docs/conformance.md (--help: options)
  cargo xtask schema S D     derive the facts of the API anew from swagger.json and aggregated discovery

Examples:
  cargo xtask up
  cargo xtask up -f cluster.yaml --name staging
  cargo xtask test unit sim
  cargo xtask sim --seeds 100000
";

fn main() -> ExitCode {
    match dispatch() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let command = args.next().unwrap_or_else(|| "help".into());
    let rest: Vec<String> = args.collect();
    std::env::set_current_dir(run::workspace_root())?;
    match command.as_str() {
        "up" => up(&rest),
        "test" => suite::test(&rest),
        "tidy" => tidy::run(),
        "sim" => suite::simulate(&rest),
        "fuzz" => suite::fuzz(&rest),
        "chaos" => suite::cluster(&["--chaos"], &rest),
        "bench" => bench::run(&rest),
        "conformance" => conformance::run(&rest),
        "schema" => schema::run(&rest),
        "help" | "--help" | "-h" => {
            print!("{HELP}");
            Ok(())
        }
        other => bail!("unknown command {other:?}; `cargo xtask help` lists them"),
    }
}

/// Everything from a fresh machine to a running cluster.
fn up(args: &[String]) -> Result<()> {
    packages::install(packages::CLUSTER)?;
    run::step("Building hikube (release)");
    run::build()?;
    let binary = run::hikube_binary();
    let mut command = std::process::Command::new(&binary);
    command.arg("up").args(args);
    run::checked(&mut command)
}
