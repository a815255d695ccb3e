//! System tools (mkfs, fsck, blkid) as bounded children.

use std::ffi::OsStr;
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;
use tonic::Status;

/// Where administrators' tools are, in case the caller's PATH lacks them.
const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";
/// Of a tool's complaints, what goes into an error. Bytes.
const MESSAGE_LIMIT: usize = 600;

/// How a tool ended.
pub(crate) struct Ended {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    /// What it said on both streams, shortened.
    pub(crate) said: String,
}

/// Runs `tool` and waits for its end, at most `timeout`; then it is killed and DEADLINE_EXCEEDED returned. A
/// tool that is missing is FAILED_PRECONDITION.
pub(crate) async fn run<A: AsRef<OsStr>>(tool: &str, args: &[A], timeout: Duration) -> Result<Ended, Status> {
    let mut command = Command::new(tool);
    command
        .args(args)
        .env_clear()
        .env("PATH", PATH)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let output = tokio::time::timeout(timeout, command.output())
        .await
        .map_err(|_| Status::deadline_exceeded(format!("{tool} did not end within {} s", timeout.as_secs())))?
        .map_err(|e| Status::failed_precondition(format!("cannot run {tool}: {e}")))?;
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut said = format!(
        "{} {}",
        stdout.trim(),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    if let Some((at, _)) = said.char_indices().nth(MESSAGE_LIMIT) {
        said.truncate(at);
    }
    Ok(Ended {
        // Killed by a signal: no code of its own.
        code: output.status.code().unwrap_or(-1),
        stdout,
        said: said.trim().replace('\n', " "),
    })
}

/// As [`run`], where every code but 0 is INTERNAL.
pub(crate) async fn succeed<A: AsRef<OsStr>>(
    tool: &str,
    args: &[A],
    timeout: Duration,
) -> Result<(), Status> {
    let ended = run(tool, args, timeout).await?;
    if ended.code == 0 {
        return Ok(());
    }
    Err(Status::internal(format!(
        "{tool} ended with {}: {}",
        ended.code, ended.said
    )))
}
