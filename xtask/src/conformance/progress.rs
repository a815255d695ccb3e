//! A line for each behaviour that ends, while the suite runs.

use anyhow::{Context, Result};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;

/// Copies the suite's output into a log and says what ends, until the suite closes its output.
pub fn follow(output: impl Read, log: &Path, expected: Option<usize>) -> Result<()> {
    let mut log = std::fs::File::create(log).with_context(|| format!("create {}", log.display()))?;
    let mut reader = Reader::default();
    let of = expected.map_or_else(String::new, |n| format!("/{n}"));
    let mut ended = 0;
    for line in BufReader::new(output).split(b'\n') {
        let line = line.context("read the suite's output")?;
        log.write_all(&line)
            .and_then(|()| log.write_all(b"\n"))
            .context("write the suite's log")?;
        if let Some((result, name)) = reader.line(&String::from_utf8_lossy(&line)) {
            ended += 1;
            println!("{ended}{of} {result} {name}");
        }
    }
    Ok(())
}

/// Finds ends of behaviours: a line with result and time, then one with the name.
#[derive(Default)]
struct Reader {
    result: Option<String>,
}

impl Reader {
    fn line(&mut self, line: &str) -> Option<(String, String)> {
        if let Some(result) = self.result.take()
            && line.starts_with("[sig-")
        {
            let name = line.replace("[It] ", "");
            // Labels follow.
            let name = name.split(" [Conformance]").next().unwrap_or_default();
            return Some((result, name.to_owned()));
        }
        let marks = line.strip_prefix("• ")?;
        let words: Vec<&str> = marks
            .split(['[', ']'])
            .map(str::trim)
            .filter(|w| !w.is_empty())
            .collect();
        let (time, marks) = words.split_last()?;
        let time = time.strip_suffix(" seconds")?;
        let result = if marks.is_empty() { "passed" } else { "FAILED" };
        self.result = Some(format!("{result} {time} s"));
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_found_and_nothing_else() {
        let text = "• [0.071 seconds]\n[sig-node] Lease lease API should be available [Conformance] [sig-node]\nx.go:72\n• \
                    [FAILED] [300.2 seconds]\n[sig-auth] A [It] fails [Conformance]\n• wrong\n[sig-x] Not this\n";
        let mut reader = Reader::default();
        let ends: Vec<_> = text.lines().filter_map(|l| reader.line(l)).collect();
        assert_eq!(
            ends,
            [
                (
                    "passed 0.071 s".to_owned(),
                    "[sig-node] Lease lease API should be available".to_owned()
                ),
                ("FAILED 300.2 s".to_owned(), "[sig-auth] A fails".to_owned()),
            ]
        );
    }
}
