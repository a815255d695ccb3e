//! The test suite: each part, in the order in which it fails cheapest.

use crate::run::{self, cargo, cargo_command, checked, has_program, step};
use crate::{packages, tidy};
use anyhow::{Result, bail};
use std::process::Command;
use std::time::Instant;

/// A part's name and what it runs.
type Part = (&'static str, fn() -> Result<()>);

const PARTS: &[Part] = &[
    ("fmt", || cargo(&["fmt", "--all", "--check"])),
    ("tidy", tidy::run),
    ("deny", deny),
    ("clippy", || {
        cargo(&[
            "clippy",
            "--release",
            "--workspace",
            "--all-targets",
            "--",
            "-D",
            "warnings",
        ])
    }),
    ("unit", || tests(&["--lib", "--bins"])),
    ("integration", || {
        // Programs that tests start; unlike `cargo test`, a choice of test targets does not build them.
        run::build_with_examples()?;
        tests(&["--test", "*"])
    }),
    // The unit tests have simulated the seeds below 500.
    ("sim", || {
        simulate(&["--start", "500", "--seeds", "500"].map(String::from))
    }),
    ("cluster", || cluster(&[], &[])),
];

/// Runs the named parts, or all, and ends with one line that counts them.
pub fn test(names: &[String]) -> Result<()> {
    for name in names {
        if !PARTS.iter().any(|(part, _)| part == name) {
            let known: Vec<_> = PARTS.iter().map(|(part, _)| *part).collect();
            bail!("unknown part {name:?}; there are {}", known.join(", "));
        }
    }
    packages::install(packages::CLUSTER)?;
    packages::install(packages::TESTS)?;
    say_space()?;
    let (mut passed, mut failed) = (0, Vec::new());
    for (name, part) in PARTS {
        if !names.is_empty() && !names.iter().any(|n| n == name) {
            continue;
        }
        step(name);
        let start = Instant::now();
        match part() {
            Ok(()) => {
                println!("==> {name}: passed in {} s", start.elapsed().as_secs());
                passed += 1;
            }
            Err(error) => {
                println!("==> {name}: FAILED in {} s: {error:#}", start.elapsed().as_secs());
                failed.push(*name);
            }
        }
    }
    println!("\n{passed} passed, {} failed", failed.len());
    if !failed.is_empty() {
        bail!("failed: {}", failed.join(", "));
    }
    Ok(())
}

/// What a whole build and the tests' volumes take, in GiB. Measured on a clean clone without incremental state.
const SPACE_NEEDED: u64 = 10;

/// Says how much space there is: a disk that fills up fails tests in ways that do not name it.
fn say_space() -> Result<()> {
    let dirs = [run::workspace_root(), std::env::temp_dir()];
    let output = Command::new("df")
        .args(["--output=avail", "--block-size=1G"])
        .args(&dirs)
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let free = text.lines().filter_map(|line| line.trim().parse::<u64>().ok());
    for (dir, free) in dirs.iter().zip(free) {
        println!("{free} GiB free in {}", dir.display());
        if free < SPACE_NEEDED {
            println!(
                "warning: that may not be enough; tests that fill up disks fail first ({SPACE_NEEDED} GiB are)"
            );
        }
    }
    Ok(())
}

/// Runs the tests of these targets in the whole workspace. Several test programs of one run would compete for two
/// cores; cargo runs them one after the other.
fn tests(targets: &[&str]) -> Result<()> {
    let mut command = cargo_command();
    command
        .args(["test", "--release", "--workspace", "--no-fail-fast"])
        .args(targets);
    checked(&mut command)
}

/// Licences, advisories and banned crates; cargo-deny is not in Debian, so its absence is said and passed over.
fn deny() -> Result<()> {
    if !has_program("cargo-deny") {
        println!("cargo-deny is not installed (cargo install cargo-deny): licences and bans not checked");
        return Ok(());
    }
    cargo(&["deny", "--offline", "check", "bans", "licenses", "sources"])
}

/// Simulates the replication core.
pub fn simulate(args: &[String]) -> Result<()> {
    example("sim", args)
}

/// Programs that feed damaged input, and what they feed it to. The unit tests do a bounded count of the same.
const FUZZERS: [(&str, &[&str]); 2] = [
    ("fuzz", &["frames", "disk", "session", "handshake", "requests"]),
    ("api_fuzz", &["bodies", "patches", "selectors", "protobuf"]),
];

/// Feeds damaged input to what stores, engines and the API server read: to one target, or to all.
pub fn fuzz(args: &[String]) -> Result<()> {
    let target = args.iter().skip_while(|arg| *arg != "--target").nth(1);
    let mut chosen = FUZZERS
        .iter()
        .filter(|(_, targets)| target.is_none_or(|t| targets.contains(&t.as_str())));
    let Some((first, _)) = chosen.next() else {
        let known: Vec<_> = FUZZERS
            .iter()
            .flat_map(|(_, targets)| *targets)
            .copied()
            .collect();
        bail!("no such target; there are {}", known.join(", "));
    };
    example(first, args)?;
    chosen.try_for_each(|(name, _)| example(name, args))
}

fn example(name: &str, args: &[String]) -> Result<()> {
    run::build_with_examples()?;
    checked(Command::new(run::hikube_binary().with_file_name("examples").join(name)).args(args))
}

/// Runs the cluster test (`crates/cluster-test`) against the built binary.
pub fn cluster(mode: &[&str], args: &[String]) -> Result<()> {
    packages::install(packages::CLUSTER)?;
    packages::install(packages::TESTS)?;
    run::build()?;
    let runner = run::hikube_binary().with_file_name("cluster-test");
    checked(
        Command::new(runner)
            .args(mode)
            .args(args)
            .env("HIKUBE_BINARY", run::hikube_binary()),
    )
}
