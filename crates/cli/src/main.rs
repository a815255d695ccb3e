//! The `hikube` binary: every component and every command of the product. Arguments and human output are here;
//! whatever deserves a test is in the crates below.
#![allow(clippy::print_stderr)]

/// glibc's allocator takes a fifth of the API server's time: buffers of connections are above what it caches by thread.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Prints a line. A reader that has gone (`hikube up | head`) ends nothing.
macro_rules! say {
    ($($arg:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stdout(), $($arg)*);
    }};
}

/// The same without the end of the line.
macro_rules! say_part {
    ($($arg:tt)*) => {{
        use std::io::Write as _;
        let _ = write!(std::io::stdout(), $($arg)*);
    }};
}

mod args;
mod component;
mod contact;
mod control_plane;
mod logging;
mod show;
mod user;
mod volume;

use args::{Cli, Command};
use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    let command = Cli::parse().command;
    tls::install_provider();
    let result = match command {
        // Becomes another program: no thread may exist before.
        Command::Launch(launch) => Err(anyhow::Error::new(platform::launch(
            launch.netns.as_deref(),
            launch.cgroup.as_deref(),
            &launch.command,
        ))),
        Command::User(command) => user::run(command),
        Command::Component(component) => component::run(*component),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Lines that already say where they come from need no prefix (a manifest's problems).
            eprintln!("{}", show::error(&error));
            ExitCode::FAILURE
        }
    }
}
