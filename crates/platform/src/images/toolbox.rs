//! What the toolbox image holds: busybox under all its names, and the hikube binary with its libraries.

use super::archive::{Content, Entry};
use crate::host::{Error, io, programs};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Changes when the image would: the content of the binary and of busybox, by size and time of modification.
pub(super) fn key(binary: &Path) -> Result<String, Error> {
    use sha2::{Digest, Sha256};
    let mut said = String::new();
    for path in [binary, &busybox()?] {
        let metadata = std::fs::metadata(path).map_err(io("look at", path.display()))?;
        said.push_str(&format!(
            "{:?} {} {:?};",
            path,
            metadata.len(),
            metadata.modified().ok()
        ));
    }
    Ok(super::hex(&Sha256::digest(said)))
}

fn busybox() -> Result<PathBuf, Error> {
    programs::find("busybox").ok_or(Error::Program {
        program: "busybox",
        reason: "is not installed (Debian package busybox-static)".into(),
    })
}

/// All files of the image.
pub(super) fn entries(binary: &Path) -> Result<Vec<Entry>, Error> {
    let mut entries = directories();
    let busybox = busybox()?;
    entries.push(Entry::program("bin/busybox", read(&busybox)?));
    let mut applets = programs::run("busybox", &["--list"], "")?;
    applets.push_str("sh\n");
    let applets: BTreeSet<&str> = applets
        .lines()
        .filter(|l| *l != "busybox" && !l.is_empty())
        .collect();
    for applet in applets {
        entries.push(link(format!("bin/{applet}"), "busybox"));
    }
    entries.push(Entry::program(
        "usr/bin/hikube",
        without_debug_information(binary)?,
    ));
    for library in libraries(binary)? {
        let name = library.file_name().unwrap_or_default();
        // The loader has its path written into every program, and the libraries are found beside it.
        let path = match name.to_string_lossy().starts_with("ld-linux") {
            true => library.strip_prefix("/").unwrap_or(&library).to_owned(),
            false => Path::new("lib").join(name),
        };
        entries.push(Entry::program(path, read(&library)?));
    }
    for (path, text) in [
        (
            "etc/passwd",
            "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n",
        ),
        ("etc/group", "root:x:0:\nnogroup:x:65534:\n"),
        ("etc/nsswitch.conf", "hosts: files dns\n"),
    ] {
        entries.push(Entry {
            path: path.into(),
            content: Content::File(text.into()),
        });
    }
    Ok(entries)
}

fn directories() -> Vec<Entry> {
    let ordinary = [
        "bin", "etc", "lib", "lib64", "root", "usr", "usr/bin", "var", "var/run", "dev", "proc", "sys",
    ];
    let mut entries: Vec<Entry> = ordinary.iter().map(|d| directory(d, 0o755)).collect();
    entries.push(directory("tmp", 0o1777));
    entries
}

fn directory(path: &str, mode: u32) -> Entry {
    Entry {
        path: path.into(),
        content: Content::Directory(mode),
    }
}

fn link(path: String, target: &str) -> Entry {
    Entry {
        path: path.into(),
        content: Content::Link(target.into()),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    std::fs::read(path).map_err(io("read", path.display()))
}

/// The binary without what only a debugger reads, where binutils are installed: it is most of its size.
fn without_debug_information(binary: &Path) -> Result<Vec<u8>, Error> {
    let stripped = std::env::temp_dir().join(format!("hikube-stripped-{}", std::process::id()));
    let (from, to) = (binary.to_string_lossy(), stripped.to_string_lossy());
    let result = match programs::run("objcopy", &["--strip-debug", &from, &to], "") {
        Ok(_) => read(&stripped),
        Err(_) => read(binary),
    };
    let _ = std::fs::remove_file(&stripped);
    result
}

/// The shared libraries of a program, the loader included.
fn libraries(binary: &Path) -> Result<Vec<PathBuf>, Error> {
    let listed = programs::run("ldd", &[&binary.to_string_lossy()], "")?;
    let paths = listed.lines().filter_map(|line| {
        let word = line.split_whitespace().find(|w| w.starts_with('/'))?;
        Some(PathBuf::from(word))
    });
    Ok(paths.collect())
}
