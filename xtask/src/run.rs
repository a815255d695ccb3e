//! Running other programs.

use anyhow::{Context, Result, bail};
use std::path::PathBuf;
use std::process::Command;

/// The root of the workspace: the parent of this crate.
pub fn workspace_root() -> PathBuf {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    here.parent().map_or_else(|| here.clone(), PathBuf::from)
}

/// Where `cargo build --release` puts the `hikube` binary.
pub fn hikube_binary() -> PathBuf {
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace_root().join("target"), PathBuf::from);
    target.join("release/hikube")
}

/// Builds every program. The whole workspace: another selection of packages has other features, and would compile
/// the dependencies again.
pub fn build() -> Result<()> {
    cargo(&["build", "--release", "--workspace", "--bins"])
}

/// Builds every program and every example: what tests and benchmarks start besides `hikube`. Always all of them, for
/// the reason that [`build`] gives.
pub fn build_with_examples() -> Result<()> {
    cargo(&["build", "--release", "--workspace", "--bins", "--examples"])
}

/// Says what comes next.
pub fn step(what: &str) {
    println!("==> {what}");
}

/// Runs a command to its end; an exit code other than 0 is an error that names it.
pub fn checked(command: &mut Command) -> Result<()> {
    let shown = shown(command);
    let status = command.status().with_context(|| format!("start {shown}"))?;
    if !status.success() {
        bail!("{shown}: {status}");
    }
    Ok(())
}

/// Runs cargo with these arguments.
pub fn cargo(args: &[&str]) -> Result<()> {
    checked(cargo_command().args(args))
}

/// The cargo that started us, without what it told us about ourselves: build scripts look at some of these
/// variables, and would compile half of the dependencies anew whenever a developer changes between `cargo` and
/// `cargo xtask`.
pub fn cargo_command() -> Command {
    let mut command = Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".into()));
    for (name, _) in std::env::vars_os() {
        let ours = name.to_str().is_some_and(|name| {
            name.starts_with("CARGO_PKG_")
                || name.starts_with("CARGO_MANIFEST_")
                || name == "CARGO_CRATE_NAME"
                || name == "CARGO_BIN_NAME"
                || name == "CARGO_PRIMARY_PACKAGE"
        });
        if ours {
            command.env_remove(name);
        }
    }
    command
}

/// Whether a program is on the PATH or in the directories of system programs.
pub fn has_program(name: &str) -> bool {
    let path = std::env::var("PATH").unwrap_or_default();
    path.split(':')
        .chain(["/usr/sbin", "/sbin", "/usr/local/sbin"])
        .any(|dir| PathBuf::from(dir).join(name).is_file())
}

fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|w| w.to_string_lossy()).collect::<Vec<_>>().join(" ")
}
