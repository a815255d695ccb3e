//! House rules that neither rustfmt nor clippy knows, each with its reason.

use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};

/// A file is read in one sitting.
const MAX_FILE_LINES: usize = 600;
/// A function fits on a screen, with its match arms.
const MAX_FUNCTION_LINES: usize = 100;
/// A scenario of an integration test reads from top to bottom.
const MAX_SCENARIO_LINES: usize = 130;

/// Text that may not stand in the sources, and why.
const BANNED: &[(&str, &str)] = &[
    (concat!("todo", "!("), "unfinished"),
    (concat!("unimplemented", "!("), "unfinished"),
    (concat!("dbg", "!("), "left from debugging"),
    (concat!("FIX", "ME"), "unfinished"),
    (
        concat!("std::process", "::exit("),
        "skips destructors; return an ExitCode from main",
    ),
    (concat!("/work", "/"), "a path of the developer's machine"),
    (concat!("/ro", "ot/"), "a path of the developer's machine"),
    (
        concat!("#[ig", "nore"),
        "an ignored test protects nothing; give it a command that runs it",
    ),
];

/// Checks every source file of the workspace and fails with the list of what it found.
pub fn run() -> Result<()> {
    let mut files = Vec::new();
    for root in ["crates", "xtask"] {
        collect(Path::new(root), &mut files)?;
    }
    let mut found = Vec::new();
    for path in &files {
        let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
        check(path, &text, &mut found);
    }
    if files.len() < 10 {
        bail!(
            "only {} source files found: tidy looks in the wrong place",
            files.len()
        );
    }
    if !found.is_empty() {
        for line in &found {
            println!("{line}");
        }
        bail!("{} places break the house rules", found.len());
    }
    println!("tidy: {} files", files.len());
    Ok(())
}

fn collect(dir: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(dir).with_context(|| format!("read {}", dir.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            if path.file_name().is_none_or(|n| n != "target") {
                collect(&path, files)?;
            }
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
    Ok(())
}

fn check(path: &Path, text: &str, found: &mut Vec<String>) {
    let shown = path.display();
    let lines: Vec<&str> = text.lines().collect();
    if lines.len() > MAX_FILE_LINES {
        found.push(format!(
            "{shown}: {} lines; split it (at most {MAX_FILE_LINES})",
            lines.len()
        ));
    }
    let header = lines.iter().find(|l| !l.is_empty());
    if header.is_some_and(|l| !l.starts_with("//!") && !l.starts_with("#!")) {
        found.push(format!(
            "{shown}:1: starts without a //! header that says what the file is about"
        ));
    }
    for (number, line) in lines.iter().enumerate() {
        for (text, reason) in BANNED {
            if line.contains(text) {
                found.push(format!("{shown}:{}: {text} ({reason})", number + 1));
            }
        }
    }
    let is_test = path.components().any(|c| c.as_os_str() == "tests");
    let limit = if is_test {
        MAX_SCENARIO_LINES
    } else {
        MAX_FUNCTION_LINES
    };
    for (start, length) in long_functions(&lines, limit) {
        found.push(format!(
            "{shown}:{start}: function of {length} lines (at most {limit})"
        ));
    }
}

/// First line and length of each function that is too long. Relies on rustfmt: a function's closing brace
/// stands alone at the indentation of its first line.
fn long_functions(lines: &[&str], limit: usize) -> Vec<(usize, usize)> {
    let mut long = Vec::new();
    for (start, line) in lines.iter().enumerate() {
        let trimmed = line.trim_start();
        let is_function = [
            "fn ",
            "pub fn ",
            "pub(crate) fn ",
            "pub(super) fn ",
            "async fn ",
            "pub async fn ",
        ]
        .iter()
        .chain(&[
            "pub(crate) async fn ",
            "pub(super) async fn ",
            "unsafe fn ",
            "const fn ",
            "pub const fn ",
        ])
        .any(|prefix| trimmed.starts_with(prefix));
        // A declaration in a trait has no body.
        if !is_function || trimmed.ends_with(';') {
            continue;
        }
        let closing = format!("{}}}", &line[..line.len() - trimmed.len()]);
        let end = lines[start..].iter().position(|l| *l == closing);
        if let Some(length) = end.map(|e| e + 1).filter(|l| *l > limit) {
            long.push((start + 1, length));
        }
    }
    long
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(text: &str) -> Vec<String> {
        let mut found = Vec::new();
        check(Path::new("x.rs"), text, &mut found);
        found
    }

    #[test]
    fn finds_each_kind_of_problem_and_nothing_else() {
        assert!(problems("//! A file.\nfn f() {\n}\n").is_empty());
        assert_eq!(problems("fn f() {\n}\n").len(), 1);
        assert_eq!(
            problems(&format!(
                "//! A file.\nfn f() {{\n{}}}\n",
                "    x();\n".repeat(99)
            ))
            .len(),
            1
        );
        assert_eq!(
            problems(&format!(
                "//! A file.\nfn f() {{\n{}}}\n",
                "    x();\n".repeat(98)
            ))
            .len(),
            0
        );
        assert_eq!(
            problems(&format!("//! A file.\n{}", "// x\n".repeat(600))).len(),
            1
        );
        assert_eq!(problems(concat!("//! A file.\n// FIX", "ME\n")).len(), 1);
    }
}
