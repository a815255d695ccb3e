//! Runs many seeds of the simulator: `sim --seeds 500 --start 0`.
#![allow(clippy::unwrap_used)]

use clap::Parser;
use hikube_replication::core::mutations::Mutations;
use hikube_replication::sim::{Options, run_seed};

#[derive(Parser)]
struct Args {
    /// How many seeds.
    #[arg(long, default_value_t = 50)]
    seeds: u64,
    /// The first.
    #[arg(long, default_value_t = 0)]
    start: u64,
    /// Switch off a rule, for example R8; the run then succeeds when a seed notices.
    #[arg(long)]
    mutate: Option<String>,
    /// Print every event of the run.
    #[arg(long)]
    trace: bool,
    /// Go on after a failure.
    #[arg(long)]
    all: bool,
}

fn main() -> std::process::ExitCode {
    let args = Args::parse();
    if args.trace {
        tracing_subscriber::fmt()
            .with_max_level(tracing::Level::DEBUG)
            .with_ansi(false)
            .without_time()
            .with_target(false)
            .with_writer(std::io::stderr)
            .init();
    }
    let mutations = match args.mutate.as_deref().map(Mutations::parse) {
        None => Mutations::default(),
        Some(Some(mutations)) => mutations,
        Some(None) => return std::process::ExitCode::from(2),
    };
    let begun = std::time::Instant::now();
    let (mut failures, mut events, mut faults) = (0, 0, 0);
    let mut out = std::io::stdout();
    for seed in args.start..args.start + args.seeds {
        match run_seed(
            seed,
            Options {
                mutations,
                trace: args.trace,
                ..Options::default()
            },
        ) {
            Ok(outcome) => {
                events += outcome.events;
                faults += outcome.faults;
            }
            Err(failure) => {
                failures += 1;
                let _ = std::io::Write::write_fmt(&mut out, format_args!("{failure}\n"));
                if !args.all {
                    break;
                }
            }
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    let _ = std::io::Write::write_fmt(
        &mut out,
        format_args!("{failures} failures; {events} events, {faults} faults in {seconds:.1} s\n"),
    );
    let noticed = failures > 0;
    if noticed == args.mutate.is_some() {
        std::process::ExitCode::SUCCESS
    } else {
        std::process::ExitCode::FAILURE
    }
}
