//! The acceptance test of a whole cluster: `hikube up` with real processes, which are then killed, cut off and
//! restarted while real clients work. Every step is a command that a user could type.
//!
//! `cluster-test [--only STEP,..] [--skip STEP,..] [--name N] [--keep] [--chaos [--rounds N]] [--bench]`
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod cluster;
mod image;
mod ledger;
mod processes;
mod shell;
mod steps;
mod traces;

use anyhow::{Context, Result, bail};
use cluster::Cluster;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// What to run and how.
struct Options {
    only: Vec<String>,
    skip: Vec<String>,
    name: String,
    keep: bool,
    chaos: bool,
    bench: bool,
    rounds: u32,
}

fn options() -> Result<Options> {
    let mut options = Options {
        only: Vec::new(),
        skip: Vec::new(),
        name: "acceptance".into(),
        keep: false,
        chaos: false,
        bench: false,
        rounds: 20,
    };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut value = || args.next().with_context(|| format!("{arg} needs a value"));
        match arg.as_str() {
            "--only" => options.only = value()?.split(',').map(str::to_owned).collect(),
            "--skip" => options.skip = value()?.split(',').map(str::to_owned).collect(),
            "--name" => options.name = value()?,
            "--rounds" => options.rounds = value()?.parse().context("--rounds")?,
            "--keep" => options.keep = true,
            "--chaos" => options.chaos = true,
            "--bench" => options.bench = true,
            other => bail!("unknown argument {other:?}"),
        }
    }
    Ok(options)
}

fn main() -> ExitCode {
    match run() {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("cluster-test: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the steps in order and returns how many failed. A step that the later ones build on ends the run.
fn run() -> Result<usize> {
    let options = options()?;
    let mut cluster = Cluster::new(&options.name)?;
    let steps: Vec<steps::Step> = if options.chaos {
        steps::chaos(options.rounds)
    } else if options.bench {
        steps::bench()
    } else {
        // Short, so that the whole test runs on renewed certificates.
        cluster.certificate_lifetime = Some(Duration::from_secs(120));
        steps::acceptance()
    };
    let (mut passed, mut failed) = (0, 0);
    let start = Instant::now();
    for step in steps {
        let chosen = options.only.is_empty() || options.only.iter().any(|o| o == step.name);
        if !chosen || options.skip.iter().any(|s| s == step.name) || (options.keep && step.name == "delete") {
            continue;
        }
        println!("\n--- {}: {}", step.name, step.what);
        let begin = Instant::now();
        match (step.run)(&cluster) {
            Ok(()) => {
                passed += 1;
                println!("--- {}: ok in {:.1} s", step.name, begin.elapsed().as_secs_f64());
            }
            Err(error) => {
                failed += 1;
                println!(
                    "--- {}: FAILED in {:.1} s: {error:#}",
                    step.name,
                    begin.elapsed().as_secs_f64()
                );
                cluster.show_failure();
                if step.needed {
                    break;
                }
            }
        }
    }
    if !options.keep {
        cluster.delete_quietly();
    }
    println!("\ncluster-test: {:.0} s", start.elapsed().as_secs_f64());
    println!("{passed} passed, {failed} failed");
    Ok(failed)
}
