//! Images without a registry: archives on this machine that every node's containerd imports.
//!
//! All archives lie in one directory, named by their content, and stay there: a node that joins later, or whose
//! region was away, imports what it lacks when it starts.

mod archive;
mod toolbox;

use crate::host::{Error, io, programs};
use crate::layout::Layout;
use archive::{Archive, Entry};
use sha2::{Digest, Sha256};
use std::io::Read;
use std::path::{Path, PathBuf};

/// Image of the process that holds a pod's namespaces.
pub const PAUSE: &str = "hikube.io/pause:v1";
/// Image with a shell, busybox's tools and the hikube binary.
pub const TOOLBOX: &str = "hikube.io/toolbox:latest";

/// The pause program that `build.rs` compiles.
const PAUSE_PROGRAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/pause"));

/// Makes the archives of the pause and toolbox images where they are missing, and removes those that an earlier
/// binary made.
pub fn ensure(layout: &Layout, binary: &Path) -> Result<(), Error> {
    let dir = layout.images();
    crate::files::private_dir(&dir).map_err(io("create", dir.display()))?;
    let pause = vec![Entry::program("pause", PAUSE_PROGRAM.to_vec())];
    let pause_key = hex(&Sha256::digest(PAUSE_PROGRAM));
    make(&dir, "pause", &pause_key, || {
        Ok(Archive {
            name: PAUSE,
            entries: pause,
            command: vec!["/pause".into()],
            path: None,
        })
    })?;
    let key = toolbox::key(binary)?;
    make(&dir, "toolbox", &key, || {
        Ok(Archive {
            name: TOOLBOX,
            entries: toolbox::entries(binary)?,
            command: vec!["sh".into()],
            path: Some("/usr/bin:/bin"),
        })
    })
}

fn make(
    dir: &Path,
    name: &str,
    key: &str,
    build: impl FnOnce() -> Result<Archive, Error>,
) -> Result<(), Error> {
    let file = format!("{name}-{}.tar", &key[..16]);
    let path = dir.join(&file);
    if !path.exists() {
        let temporary = dir.join(format!("{file}.new"));
        build()?
            .write(&temporary)
            .map_err(io("write", temporary.display()))?;
        std::fs::rename(&temporary, &path).map_err(io("write", path.display()))?;
    }
    for old in archives(dir) {
        let old_name = file_name(&old);
        if old_name.starts_with(&format!("{name}-")) && old_name != file {
            std::fs::remove_file(&old).map_err(io("remove", old.display()))?;
        }
    }
    Ok(())
}

/// Keeps an archive that a user brings, for all nodes. Returns its file and whether it is new.
pub fn keep(layout: &Layout, archive: &Path) -> Result<(PathBuf, bool), Error> {
    check(archive)?;
    let dir = layout.images();
    crate::files::private_dir(&dir).map_err(io("create", dir.display()))?;
    let digest = hash(archive).map_err(io("read", archive.display()))?;
    let path = dir.join(format!("user-{}.tar", &digest[..16]));
    if path.exists() {
        return Ok((path, false));
    }
    let temporary = path.with_extension("new");
    std::fs::copy(archive, &temporary).map_err(io("copy", archive.display()))?;
    std::fs::rename(&temporary, &path).map_err(io("write", path.display()))?;
    Ok((path, true))
}

/// Whether the file is an archive in OCI's or docker's layout, by its first names.
fn check(archive: &Path) -> Result<(), Error> {
    let wrong = |reason: String| Error::Program {
        program: "image",
        reason: format!("{}: {reason}", archive.display()),
    };
    let file = std::fs::File::open(archive).map_err(io("open", archive.display()))?;
    let mut tar = tar::Archive::new(file);
    let entries = tar
        .entries()
        .map_err(|e| wrong(format!("not a tar archive: {e}")))?;
    for entry in entries {
        let entry = entry.map_err(|e| wrong(format!("not an (uncompressed) tar archive: {e}")))?;
        let path = entry.path().map_err(|e| wrong(e.to_string()))?.into_owned();
        let name = path.strip_prefix("./").unwrap_or(&path);
        if name == Path::new("index.json") || name == Path::new("manifest.json") {
            return Ok(());
        }
    }
    Err(wrong(
        "holds neither index.json (OCI) nor manifest.json (docker), so it is no image archive".into(),
    ))
}

/// Imports into a node's containerd what it does not have yet, or only the pause image. Returns the names of the
/// archives.
pub fn import(layout: &Layout, node: &str, only_pause: bool) -> Result<Vec<String>, Error> {
    let marks = layout.node(node).join("images");
    crate::files::private_dir(&marks).map_err(io("create", marks.display()))?;
    // The node's start and `hikube image load` may come together.
    let lock_path = marks.join("lock");
    let lock = std::fs::File::create(&lock_path).map_err(io("create", lock_path.display()))?;
    lock.lock().map_err(io("lock", lock_path.display()))?;
    let mut imported = Vec::new();
    for archive in archives(&layout.images()) {
        let name = file_name(&archive);
        let mark = marks.join(&name);
        if mark.exists() || (only_pause && !name.starts_with("pause-")) {
            continue;
        }
        import_one(layout, node, &archive)?;
        std::fs::write(&mark, "").map_err(io("write", mark.display()))?;
        imported.push(name);
    }
    Ok(imported)
}

fn import_one(layout: &Layout, node: &str, archive: &Path) -> Result<(), Error> {
    let socket = layout.containerd_socket(node);
    let (socket, archive) = (socket.to_string_lossy(), archive.to_string_lossy());
    programs::run(
        "ctr",
        &[
            "--address",
            &socket,
            "--namespace",
            "k8s.io",
            "images",
            "import",
            &archive,
        ],
        "",
    )
    .map(drop)
}

/// The archives in a directory, the smallest first: pods wait for the pause image before any other.
fn archives(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut archives: Vec<PathBuf> = entries.map(|e| e.path()).collect();
    archives.retain(|p| p.extension().is_some_and(|e| e == "tar"));
    archives.sort_by_key(|p| (std::fs::metadata(p).map_or(0, |m| m.len()), p.clone()));
    archives
}

fn file_name(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

fn hash(path: &Path) -> std::io::Result<String> {
    let mut file = std::fs::File::open(path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0u8; 1 << 20];
    loop {
        let n = file.read(&mut buffer)?;
        if n == 0 {
            return Ok(hex(&hasher.finalize()));
        }
        hasher.update(&buffer[..n]);
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archives_are_made_once_and_replaced_with_the_binary() {
        let root = tempfile::tempdir().expect("a directory");
        let layout = Layout::below(root.path(), "c").expect("a good name");
        let binary = Path::new("/bin/sh");
        ensure(&layout, binary).expect("made");
        let first = archives(&layout.images());
        assert_eq!(first.len(), 2);
        assert!(file_name(&first[0]).starts_with("pause-"));
        check(&first[0]).expect("it is an image archive");
        ensure(&layout, Path::new("/bin/ls")).expect("made");
        let second = archives(&layout.images());
        assert_eq!((second.len(), &second[0]), (2, &first[0]));
        assert_ne!(second[1], first[1]);
        let (kept, new) = keep(&layout, &second[1]).expect("kept");
        assert!(new && kept.exists());
        assert!(!keep(&layout, &second[1]).expect("kept").1);
        let error = keep(&layout, Path::new("/bin/sh")).expect_err("not an archive");
        assert!(error.to_string().contains("/bin/sh"), "{error}");
    }
}
