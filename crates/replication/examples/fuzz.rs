//! Fuzzes for a while: `fuzz --seconds 60 [--target disk] [--start 1000000]`. Prints the seed of a failure and ends.
#![allow(clippy::unwrap_used)]

use clap::Parser;
use hikube_replication::fuzz;
use std::io::Write;
use std::time::{Duration, Instant};

#[derive(Parser)]
struct Args {
    /// For each target.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// `frames`, `disk`, `session`, `handshake` or `requests` (these two of NBD); all of them one after the other by default.
    #[arg(long)]
    target: Option<String>,
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    start: u64,
}

/// What stores and engines read, and what NBD clients send.
#[derive(Clone, Copy)]
enum Target {
    Store(fuzz::Target),
    Nbd(blockdev::fuzz::Target),
}

impl Target {
    fn name(self) -> String {
        match self {
            Target::Store(target) => format!("{target:?}"),
            Target::Nbd(target) => format!("{target:?}"),
        }
        .to_lowercase()
    }

    fn run(self, seed: u64) -> Result<(), String> {
        match self {
            Target::Store(target) => fuzz::run(target, seed),
            Target::Nbd(target) => blockdev::fuzz::run(target, seed),
        }
    }
}

fn main() -> std::process::ExitCode {
    let args = Args::parse();
    let mut out = std::io::stdout();
    let stores = fuzz::Target::ALL.map(Target::Store);
    let nbd = blockdev::fuzz::Target::ALL.map(Target::Nbd);
    let chosen = |target: &Target| args.target.as_ref().is_none_or(|t| *t == target.name());
    for target in stores.into_iter().chain(nbd).filter(chosen) {
        let begun = Instant::now();
        let mut seed = args.start;
        while begun.elapsed() < Duration::from_secs(args.seconds) {
            let result = std::panic::catch_unwind(|| target.run(seed));
            if !matches!(result, Ok(Ok(()))) {
                writeln!(out, "{} fails at seed {seed}: {result:?}", target.name()).unwrap();
                return std::process::ExitCode::FAILURE;
            }
            seed += 1;
        }
        writeln!(out, "{}: {} cases", target.name(), seed - args.start).unwrap();
    }
    std::process::ExitCode::SUCCESS
}
