//! Load from wrk.

use crate::eprintln_progress;
use crate::setup::{Bench, config_map};
use anyhow::{Context, Result, ensure};
use std::process::Command;
use std::time::Duration;

/// GETs of a path per second.
pub fn get(bench: &Bench, length: Duration, connections: usize, path: &str) -> Result<f64> {
    run(bench, length, connections, path, None)
}

/// Creations of ConfigMaps per second; every answer must be 201.
pub fn create(bench: &Bench, length: Duration, connections: usize) -> Result<f64> {
    let body = config_map("NAME").replace('\'', "\\'");
    let script = format!(
        "local threads = 0\n\
         function setup(thread) thread:set('id', threads); threads = threads + 1 end\n\
         local number = 0\n\
         local body = '{body}'\n\
         function request()\n\
           number = number + 1\n\
           local name = 'w' .. id .. 'x' .. number\n\
           return wrk.format('POST', nil, nil, (body:gsub('NAME', name)))\n\
         end\n\
         wrk.headers['content-type'] = 'application/json'\n"
    );
    run(
        bench,
        length,
        connections,
        "/api/v1/namespaces/load/configmaps",
        Some(&script),
    )
}

fn run(bench: &Bench, length: Duration, connections: usize, path: &str, script: Option<&str>) -> Result<f64> {
    let mut command = Command::new("wrk");
    command
        .args(["-t2", "--timeout", "10s"])
        .arg(format!("-c{connections}"))
        .arg(format!("-d{}s", length.as_secs()));
    command
        .arg("-H")
        .arg(format!("Authorization: Bearer {}", bench.token));
    let file = tempfile::Builder::new().suffix(".lua").tempfile()?;
    if let Some(script) = script {
        std::fs::write(file.path(), script)?;
        command.arg("-s").arg(file.path());
    }
    command.arg(format!("https://{}{path}", bench.address));
    let output = command.output().context("start wrk (package wrk)")?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(
        output.status.success(),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    ensure!(!text.contains("Non-2xx"), "not every answer was good:\n{text}");
    let rate = text
        .lines()
        .find_map(|l| l.strip_prefix("Requests/sec:"))
        .context("no rate")?
        .trim()
        .parse()?;
    eprintln_progress(&format!("wrk {path}: {rate}/s"));
    Ok(rate)
}
