//! An image with one layer, as a tar archive in the OCI image layout.

use serde_json::json;
use sha2::{Digest, Sha256};
use std::io::Result;
use std::path::{Path, PathBuf};

/// A file of the image.
pub(super) struct Entry {
    /// Path in the image, without a leading slash.
    pub path: PathBuf,
    /// What it is.
    pub content: Content,
}

/// What a file of the image is.
pub(super) enum Content {
    /// An executable file.
    Program(Vec<u8>),
    /// An ordinary file.
    File(Vec<u8>),
    /// A symbolic link.
    Link(PathBuf),
    /// A directory with its mode.
    Directory(u32),
}

impl Entry {
    /// An executable file.
    pub fn program(path: impl Into<PathBuf>, bytes: Vec<u8>) -> Self {
        Self {
            path: path.into(),
            content: Content::Program(bytes),
        }
    }
}

/// An image.
pub(super) struct Archive {
    /// Its full name.
    pub name: &'static str,
    /// Its files; a directory comes before what is in it.
    pub entries: Vec<Entry>,
    /// What a container runs by default.
    pub command: Vec<String>,
    /// `PATH` in a container.
    pub path: Option<&'static str>,
}

impl Archive {
    /// Writes the archive. The same content always gives the same bytes.
    pub fn write(&self, file: &Path) -> Result<()> {
        let layer = self.layer()?;
        let layer_digest = digest(&layer);
        let environment: Vec<String> = self.path.iter().map(|p| format!("PATH={p}")).collect();
        let config = serde_json::to_vec(&json!({
            "architecture": architecture(),
            "os": "linux",
            "config": {"Cmd": self.command, "Env": environment},
            "rootfs": {"type": "layers", "diff_ids": [layer_digest]},
            "history": [{"created_by": "hikube"}],
        }))?;
        let manifest = serde_json::to_vec(&json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
            "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", &layer)],
        }))?;
        let mut described = descriptor("application/vnd.oci.image.manifest.v1+json", &manifest);
        described["annotations"] = json!({
            "io.containerd.image.name": self.name,
            "org.opencontainers.image.ref.name": self.name,
        });
        described["platform"] = json!({"os": "linux", "architecture": architecture()});
        let index = serde_json::to_vec(&json!({"schemaVersion": 2, "manifests": [described]}))?;
        let mut tar = tar::Builder::new(std::io::BufWriter::new(std::fs::File::create(file)?));
        append(
            &mut tar,
            Path::new("oci-layout"),
            0o644,
            br#"{"imageLayoutVersion":"1.0.0"}"#,
        )?;
        append(&mut tar, Path::new("index.json"), 0o644, &index)?;
        for blob in [&manifest, &config, &layer] {
            let path = format!("blobs/{}", digest(blob).replace(':', "/"));
            append(&mut tar, Path::new(&path), 0o644, blob)?;
        }
        tar.into_inner()?
            .into_inner()
            .map_err(|e| e.into_error())?
            .sync_all()
    }

    fn layer(&self) -> Result<Vec<u8>> {
        let mut tar = tar::Builder::new(Vec::new());
        for entry in &self.entries {
            match &entry.content {
                Content::Program(bytes) => append(&mut tar, &entry.path, 0o755, bytes)?,
                Content::File(bytes) => append(&mut tar, &entry.path, 0o644, bytes)?,
                Content::Link(target) => {
                    let mut header = header(0, 0o777);
                    header.set_entry_type(tar::EntryType::Symlink);
                    tar.append_link(&mut header, &entry.path, target)?;
                }
                Content::Directory(mode) => {
                    let mut header = header(0, *mode);
                    header.set_entry_type(tar::EntryType::Directory);
                    tar.append_data(&mut header, &entry.path, std::io::empty())?;
                }
            }
        }
        tar.into_inner()
    }
}

fn header(size: u64, mode: u32) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_size(size);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    // A fixed time: the archive depends on its content only.
    header.set_mtime(0);
    header
}

fn append<W: std::io::Write>(tar: &mut tar::Builder<W>, path: &Path, mode: u32, bytes: &[u8]) -> Result<()> {
    tar.append_data(&mut header(bytes.len() as u64, mode), path, bytes)
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", super::hex(&Sha256::digest(bytes)))
}

fn descriptor(kind: &str, bytes: &[u8]) -> serde_json::Value {
    json!({"mediaType": kind, "digest": digest(bytes), "size": bytes.len()})
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
