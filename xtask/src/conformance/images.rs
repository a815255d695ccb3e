//! The images that the behaviours ask for, under upstream's names: upstream's test program `agnhost`, and programs of
//! this machine's Debian packages with their libraries.

use super::upstream;
use crate::packages::{self, Package, package};
use crate::run::{checked, step};
use anyhow::{Context, Result, ensure};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Packages whose programs go into the images.
const PACKAGES: &[Package] = &[
    package("busybox-static", "/bin/busybox"),
    package("bash", "bash"),
    package("curl", "curl"),
    package("bind9-dnsutils", "dig"),
    package("netcat-openbsd", "nc.openbsd"),
    package("iproute2", "ss"),
    package("nginx", "/usr/sbin/nginx"),
];
/// What `agnhost` and the tests call in a container.
const TOOLS: &[(&str, &str)] = &[
    ("/bin/bash", "bin/bash"),
    ("/usr/bin/curl", "usr/bin/curl"),
    ("/usr/bin/dig", "usr/bin/dig"),
    ("/bin/nc.openbsd", "usr/bin/nc"),
    ("/usr/bin/ss", "usr/bin/ss"),
    ("/usr/sbin/ip", "usr/sbin/ip"),
    ("/usr/bin/getent", "usr/bin/getent"),
];

/// Number of this set of images: an archive of another one is not used.
pub const REVISION: u32 = 3;

const FILES: &[(&str, &str)] = &[
    (
        "etc/passwd",
        "root:x:0:0:root:/root:/bin/sh\nuser-defined-in-image:x:1000:1000::/home:/bin/sh\n\
         nobody:x:65534:65534:nobody:/:/bin/sh\n",
    ),
    (
        "etc/group",
        "root:x:0:\nuser-defined-in-image:x:1000:\ngroup-defined-in-image:x:50000:user-defined-in-image\n\
         nogroup:x:65534:\n",
    ),
    (
        "etc/nsswitch.conf",
        "passwd: files\ngroup: files\nhosts: files dns\n",
    ),
];

const NGINX: &str = "\
user nobody nogroup;
worker_processes 1;
pid /run/nginx.pid;
error_log /dev/stderr notice;
events {}
http {
  access_log /dev/stdout;
  types { text/html html; }
  server { listen 80; root /usr/share/nginx/html; }
}
";

/// An image: its names below `registry.k8s.io`, its layers, and what it runs.
struct Image {
    names: &'static [&'static str],
    layers: &'static [&'static str],
    entrypoint: &'static [&'static str],
    command: &'static [&'static str],
    user: &'static str,
}

const LAYERS: [&str; 6] = ["base", "agnhost", "nonewprivs", "nginx", "nautilus", "kitten"];

const IMAGES: &[Image] = &[
    Image {
        names: &["e2e-test-images/agnhost:2.63.0", "e2e-test-images/agnhost:2.55"],
        layers: &["base", "agnhost"],
        entrypoint: &["/agnhost"],
        command: &["pause"],
        user: "",
    },
    Image {
        names: &["pause:3.10.2"],
        layers: &["base", "agnhost"],
        entrypoint: &["/agnhost", "pause"],
        command: &[],
        user: "",
    },
    Image {
        names: &["e2e-test-images/busybox:1.37.0-1"],
        layers: &["base"],
        entrypoint: &[],
        command: &["sh"],
        user: "",
    },
    Image {
        names: &["e2e-test-images/nonroot:1.5"],
        layers: &["base"],
        entrypoint: &[],
        command: &["sh"],
        user: "1234",
    },
    Image {
        names: &["e2e-test-images/glibc-dns-testing:2.0.0"],
        layers: &["base"],
        entrypoint: &[],
        command: &["bash"],
        user: "",
    },
    Image {
        names: &["e2e-test-images/nonewprivs:1.4"],
        layers: &["base", "nonewprivs"],
        entrypoint: &[],
        command: &["nnp"],
        user: "",
    },
    Image {
        names: &["e2e-test-images/nginx:1.15-4", "e2e-test-images/nginx:1.27-0"],
        layers: &["base", "nginx"],
        entrypoint: &[],
        command: &["/usr/sbin/nginx", "-g", "daemon off;"],
        user: "",
    },
    Image {
        names: &["e2e-test-images/nautilus:1.8"],
        layers: &["base", "agnhost", "nautilus"],
        entrypoint: &["/agnhost"],
        command: &["test-webserver"],
        user: "",
    },
    Image {
        names: &["e2e-test-images/kitten:1.8"],
        layers: &["base", "agnhost", "kitten"],
        entrypoint: &["/agnhost"],
        command: &["test-webserver"],
        user: "",
    },
];

/// Upstream's programs that go into images, compiled.
pub struct Programs {
    /// What most tests run in their containers.
    pub agnhost: PathBuf,
    /// Prints its effective user: whether a set-user-ID program gained anything.
    pub nonewprivs: PathBuf,
}

/// Makes the archive with all images at `archive`, from compiled programs and the directory of upstream's images.
pub fn make(archive: &Path, programs: &Programs, source: &Path) -> Result<()> {
    packages::install(PACKAGES)?;
    step("Making the images that the behaviours ask for");
    let work = archive.with_extension("work");
    remove(&work)?;
    layer(&work, "base", base)?;
    layer(&work, "agnhost", |root| {
        program(&programs.agnhost, &root.join("agnhost"))?;
        symlink("agnhost", root.join("agnhost-2")).context("link agnhost-2")?;
        directory(&root.join("uploads"), 0o777)?;
        for name in ["localhost.crt", "localhost.key"] {
            copy(&source.join("agnhost/porter").join(name), &root.join(name))?;
        }
        Ok(())
    })?;
    layer(&work, "nonewprivs", |root| {
        let nnp = root.join("usr/local/bin/nnp");
        program(&programs.nonewprivs, &nnp)?;
        fs::set_permissions(&nnp, fs::Permissions::from_mode(0o6755)).context("chmod nnp")
    })?;
    layer(&work, "nginx", |root| {
        program(Path::new("/usr/sbin/nginx"), &root.join("usr/sbin/nginx"))?;
        for dir in ["var/lib/nginx", "var/log/nginx", "run"] {
            directory(&root.join(dir), 0o755)?;
        }
        write(&root.join("etc/nginx/nginx.conf"), NGINX)?;
        write(
            &root.join("usr/share/nginx/html/index.html"),
            "<title>Welcome to nginx!</title>\n",
        )
    })?;
    for pet in ["nautilus", "kitten"] {
        layer(&work, pet, |root| {
            let html = source.join(pet).join("html");
            for name in ["data.json".to_owned(), format!("{pet}.jpg")] {
                copy(&html.join(&name), &root.join(&name))?;
            }
            Ok(())
        })?;
    }
    let mut listed = Vec::new();
    for (number, image) in IMAGES.iter().enumerate() {
        let digests = image
            .layers
            .iter()
            .map(|l| digest(&work.join(format!("{l}.tar"))));
        let config = format!("{number}.json");
        write(
            &work.join(&config),
            &image.config(&digests.collect::<Result<Vec<_>>>()?),
        )?;
        listed.push(image.listed(&config));
    }
    write(&work.join("manifest.json"), &format!("[{}]", listed.join(",")))?;
    let unfinished = archive.with_extension("new");
    let mut tar = Command::new("tar");
    tar.arg("-cf")
        .arg(&unfinished)
        .arg("-C")
        .arg(&work)
        .arg("manifest.json");
    tar.args((0..IMAGES.len()).map(|n| format!("{n}.json")));
    tar.args(LAYERS.map(|l| format!("{l}.tar")));
    checked(&mut tar)?;
    fs::rename(&unfinished, archive).with_context(|| format!("rename {}", unfinished.display()))?;
    remove(&work)
}

impl Image {
    fn config(&self, diffs: &[String]) -> String {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        format!(
            "{{\"architecture\":\"{architecture}\",\"os\":\"linux\",\"config\":{{\"User\":\"{}\",\"WorkingDir\":\"/\",\
             \"Env\":[\"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\"],\"Entrypoint\":{},\
             \"Cmd\":{}}},\"rootfs\":{{\"type\":\"layers\",\"diff_ids\":{}}}}}",
            self.user,
            strings(self.entrypoint),
            strings(self.command),
            strings(diffs)
        )
    }

    fn listed(&self, config: &str) -> String {
        let names: Vec<_> = self
            .names
            .iter()
            .map(|n| format!("registry.k8s.io/{n}"))
            .collect();
        let layers: Vec<_> = self.layers.iter().map(|l| format!("{l}.tar")).collect();
        format!(
            "{{\"Config\":\"{config}\",\"RepoTags\":{},\"Layers\":{}}}",
            strings(&names),
            strings(&layers)
        )
    }
}

/// Strings that need no escapes, as a JSON list.
fn strings<S: AsRef<str>>(strings: &[S]) -> String {
    let quoted: Vec<_> = strings.iter().map(|s| format!("\"{}\"", s.as_ref())).collect();
    format!("[{}]", quoted.join(","))
}

/// What all images have: busybox under all its names, the tools, users.
fn base(root: &Path) -> Result<()> {
    for dir in [
        "bin", "etc", "home", "root", "run", "usr/bin", "usr/sbin", "var", "dev", "proc", "sys",
    ] {
        directory(&root.join(dir), 0o755)?;
    }
    directory(&root.join("tmp"), 0o1777)?;
    let busybox = Path::new("/bin/busybox");
    program(busybox, &root.join("bin/busybox"))?;
    for (from, to) in TOOLS {
        program(Path::new(from), &root.join(to))?;
    }
    // Debian's busybox is older than upstream's and its shell drops variables that are no names in a shell's eyes,
    // such as `data-1`, instead of passing them on.
    symlink("bash", root.join("bin/sh")).context("link sh")?;
    for applet in upstream::output(busybox, &["--list"])?.lines() {
        let hidden = ["bin", "usr/bin", "usr/sbin"]
            .iter()
            .any(|d| root.join(d).join(applet).exists());
        if !hidden {
            symlink("busybox", root.join("bin").join(applet)).with_context(|| format!("link {applet}"))?;
        }
    }
    FILES
        .iter()
        .try_for_each(|(path, text)| write(&root.join(path), text))
}

/// A layer: what `fill` puts into a directory, as an archive beside it that depends on the content only.
fn layer(work: &Path, name: &str, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let root = work.join(name);
    directory(&root, 0o755)?;
    fill(&root).with_context(|| format!("layer {name}"))?;
    let mut tar = Command::new("tar");
    tar.args([
        "--sort=name",
        "--owner=0",
        "--group=0",
        "--numeric-owner",
        "--mtime=@0",
        "-cf",
    ]);
    checked(
        tar.arg(work.join(format!("{name}.tar")))
            .arg("-C")
            .arg(&root)
            .arg("."),
    )
}

/// A program with the libraries that it loads, each where the program looks for it; its root is that of `to`.
fn program(from: &Path, to: &Path) -> Result<()> {
    copy(from, to)?;
    let root = to
        .ancestors()
        .find(|dir| {
            dir.parent()
                .is_some_and(|p| p.extension().is_some_and(|e| e == "work"))
        })
        .context("a layer's directory")?;
    // A static program has none: ldd says so and fails.
    let listed = Command::new("ldd").arg(from).output().context("start ldd")?;
    for library in libraries(&String::from_utf8_lossy(&listed.stdout))? {
        let inside = root.join(library.strip_prefix("/").unwrap_or(&library));
        if !inside.exists() {
            copy(&library, &inside)?;
        }
    }
    Ok(())
}

fn libraries(ldd: &str) -> Result<Vec<PathBuf>> {
    ensure!(!ldd.contains("not found"), "a library is missing: {ldd}");
    let paths = ldd
        .lines()
        .filter_map(|l| l.split_whitespace().find(|w| w.starts_with('/')));
    Ok(paths.map(PathBuf::from).collect())
}

fn digest(file: &Path) -> Result<String> {
    let file = file.to_str().context("a path that is text")?;
    let printed = upstream::output(Path::new("sha256sum"), &[file])?;
    let sum = printed
        .split_whitespace()
        .next()
        .context("sha256sum prints no sum")?;
    Ok(format!("sha256:{sum}"))
}

fn directory(path: &Path, mode: u32) -> Result<()> {
    fs::create_dir_all(path).with_context(|| format!("create {}", path.display()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .with_context(|| format!("chmod {}", path.display()))
}

/// Copies a file, and its mode but for being writable: sources in Go's cache are read-only.
fn copy(from: &Path, to: &Path) -> Result<()> {
    if let Some(parent) = to.parent() {
        fs::create_dir_all(parent).with_context(|| format!("create {}", parent.display()))?;
    }
    fs::copy(from, to).with_context(|| format!("copy {} to {}", from.display(), to.display()))?;
    let mode = fs::metadata(from).map_or(0o644, |m| m.permissions().mode() & 0o555 | 0o200);
    fs::set_permissions(to, fs::Permissions::from_mode(mode))
        .with_context(|| format!("chmod {}", to.display()))
}

fn write(path: &Path, text: &str) -> Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).with_context(|| format!("create {}", parent.display()))?;
    }
    fs::write(path, text).with_context(|| format!("write {}", path.display()))
}

fn remove(dir: &Path) -> Result<()> {
    if dir.exists() {
        fs::remove_dir_all(dir).with_context(|| format!("remove {}", dir.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_those_with_a_path_and_none_may_be_missing() {
        let ldd = "\tlinux-vdso.so.1 (0x7ffe)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x7f)\n\t\
                   /lib64/ld-linux-x86-64.so.2 (0x7f)\n";
        let expected = ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"];
        assert_eq!(libraries(ldd).expect("found"), expected.map(PathBuf::from));
        assert!(libraries("\tlibx.so => not found\n").is_err());
    }

    #[test]
    fn images_consist_of_layers_that_are_made() {
        let layers = IMAGES.iter().flat_map(|i| i.layers);
        assert_eq!(layers.filter(|l| !LAYERS.contains(l)).count(), 0);
    }

    #[test]
    fn an_image_is_described_as_docker_does() {
        let image = &IMAGES[0];
        let listed = image.listed("0.json");
        assert!(
            listed.starts_with("{\"Config\":\"0.json\",\"RepoTags\":[\"registry.k8s.io/e2e"),
            "{listed}"
        );
        assert!(
            listed.ends_with("\"Layers\":[\"base.tar\",\"agnhost.tar\"]}"),
            "{listed}"
        );
        let config = image.config(&["sha256:1".to_owned(), "sha256:2".to_owned()]);
        assert!(
            config.contains("\"diff_ids\":[\"sha256:1\",\"sha256:2\"]"),
            "{config}"
        );
        assert!(
            config.contains("\"Entrypoint\":[\"/agnhost\"],\"Cmd\":[\"pause\"]"),
            "{config}"
        );
    }
}
