//! Running the machine's own programs (`ip`, `nft`, `losetup`, `ctr`).

use super::{Error, io};
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Where programs are looked for besides `PATH`: root's `PATH` may lack the sbin directories.
const DIRECTORIES: &[&str] = &[
    "/usr/local/sbin",
    "/usr/local/bin",
    "/usr/sbin",
    "/usr/bin",
    "/sbin",
    "/bin",
];

/// The file of a program.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories = std::env::split_paths(&path).chain(DIRECTORIES.iter().map(PathBuf::from));
    let mut candidates = directories.map(|d| d.join(program));
    candidates.find(|p| p.is_file())
}

/// Runs a program with the given standard input, and returns its standard output.
pub fn run(program: &'static str, arguments: &[&str], input: &str) -> Result<String, Error> {
    let path = find(program).ok_or_else(|| Error::Program {
        program,
        reason: "is not installed".into(),
    })?;
    let mut child = Command::new(path)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(io("start", program))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that ends before it has read everything says why below.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().map_err(io("wait for", program))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(Error::Program {
        program,
        reason: format!("{} ({}): {}", arguments.join(" "), output.status, said.trim()),
    })
}
