//! Fuzzes for a while: `api_fuzz --seconds 60 [--target patches] [--start 1000000]`. Prints the seed of a failure and ends.
#![allow(clippy::unwrap_used)]

use clap::Parser;
use hikube_apiserver::fuzz::{Target, run};
use std::io::Write;
use std::time::{Duration, Instant};

#[derive(Parser)]
struct Args {
    /// For each target.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// `bodies`, `patches`, `selectors` or `protobuf`; all of them one after the other by default.
    #[arg(long)]
    target: Option<String>,
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    start: u64,
}

fn main() -> std::process::ExitCode {
    let args = Args::parse();
    let mut out = std::io::stdout();
    let name = |target: Target| format!("{target:?}").to_lowercase();
    let chosen = |target: &Target| args.target.as_ref().is_none_or(|t| *t == name(*target));
    for target in Target::ALL.into_iter().filter(chosen) {
        let begun = Instant::now();
        let mut seed = args.start;
        while begun.elapsed() < Duration::from_secs(args.seconds) {
            let result = std::panic::catch_unwind(|| run(target, seed));
            if !matches!(result, Ok(Ok(()))) {
                writeln!(out, "{} fails at seed {seed}: {result:?}", name(target)).unwrap();
                return std::process::ExitCode::FAILURE;
            }
            seed += 1;
        }
        writeln!(out, "{}: {} cases", name(target), seed - args.start).unwrap();
    }
    std::process::ExitCode::SUCCESS
}
