//! `cargo xtask conformance`: upstream's own end-to-end suite against a cluster of ours, into `docs/conformance.md`.
//!
//! Upstream's suite is compiled from its Go module into a cache outside the tree; nothing of it is kept here but the
//! names of the behaviours, which are facts.

mod behaviours;
mod images;
mod progress;
mod report;
mod upstream;

use crate::{packages, run};
use anyhow::{Context, Result, bail, ensure};
use behaviours::Selection;
use report::Outcome;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

/// Where the table goes.
const DOCUMENT: &str = "docs/conformance.md";
/// Behaviours that run at once. Most of them wait for something most of the time.
const PROCESSES: usize = 6;
/// Longest run of a selection; ginkgo ends what still runs then, so that there is a report.
const TIMEOUT: &str = "4h";

const HELP: &str = "\
Runs upstream's conformance behaviours against a cluster and writes docs/conformance.md.

  --focus RE         only behaviours whose name matches the regular expression
  --all              also those that need running containers
  --procs N          how many at once (6)
  --repeat N         the selection N times in a row; one passes only if it passed each time
  --keep             leave the cluster running, for the next run or to look into it
  --prepare          compile the suite and make the images of the tests; run nothing
  --kubeconfig FILE  against this cluster instead of one that is started and deleted

Compiling the suite takes 20 minutes of two cores and 3 GB of disk the first time, below ~/.cache/hikube.";

struct Options {
    selection: Selection,
    processes: usize,
    repeat: usize,
    keep: bool,
    prepare: bool,
    kubeconfig: Option<PathBuf>,
}

/// Builds, runs, reports.
pub fn run(args: &[String]) -> Result<()> {
    if args.iter().any(|a| a == "--help" || a == "-h") {
        println!("{HELP}");
        return Ok(());
    }
    let options = parse(args)?;
    packages::install(packages::CLUSTER)?;
    let suite = upstream::suite()?;
    if options.prepare {
        return upstream::images().map(drop);
    }
    let all = behaviours::list(&suite.tests)?;
    let cluster = match &options.kubeconfig {
        Some(file) => Cluster::given(file)?,
        None => Cluster::start(&upstream::images()?, options.keep)?,
    };
    let day = format!(
        "{} {}",
        upstream::output(Path::new("date"), &["+%F"])?.trim(),
        commit()?
    );
    let mut outcomes = BTreeMap::new();
    let mut rounds = Vec::new();
    for round in 1..=options.repeat {
        run::step(&format!("Round {round} of {}", options.repeat));
        let start = Instant::now();
        let results = behave(&suite, &cluster, &options, &all)?;
        println!(
            "==> round {round}: {} passed, {} failed, in {} s",
            results.values().filter(|o| o.passed).count(),
            results.values().filter(|o| !o.passed).count(),
            start.elapsed().as_secs()
        );
        rounds.push(report::round(
            &day,
            &options.selection.to_string(),
            &results,
            start.elapsed().as_secs(),
        ));
        merge(&mut outcomes, results);
    }
    ensure!(!outcomes.is_empty(), "no behaviour matches");
    let before = std::fs::read_to_string(DOCUMENT).unwrap_or_default();
    let (text, totals) = report::document(&all, &outcomes, &before, &day, &rounds);
    std::fs::write(DOCUMENT, text).with_context(|| format!("write {DOCUMENT}"))?;
    for (name, outcome) in outcomes.iter().filter(|(_, o)| !o.passed) {
        println!("FAILED {name}\n       {}", outcome.reason);
    }
    println!("{totals}; {DOCUMENT} has the table");
    Ok(())
}

/// The commit of the tree; `+` when the tree is not as committed.
fn commit() -> Result<String> {
    let git = Path::new("git");
    let commit = upstream::output(git, &["rev-parse", "--short", "HEAD"])?;
    let changed = upstream::output(
        git,
        &[
            "status",
            "--porcelain",
            "--untracked-files=no",
            "--",
            "crates",
            "Cargo.lock",
        ],
    )?;
    let mark = if changed.is_empty() { "" } else { "+" };
    Ok(format!("{}{mark}", commit.trim()))
}

/// A behaviour passed if it passed in every round; its time is that of the slowest.
fn merge(into: &mut BTreeMap<String, Outcome>, round: BTreeMap<String, Outcome>) {
    for (name, outcome) in round {
        match into.get_mut(&name) {
            Some(known) => {
                known.seconds = known.seconds.max(outcome.seconds);
                if known.passed && !outcome.passed {
                    *known = outcome;
                }
            }
            None => {
                into.insert(name, outcome);
            }
        }
    }
}

fn parse(args: &[String]) -> Result<Options> {
    let mut options = Options {
        selection: Selection::WithoutContainers,
        processes: PROCESSES,
        repeat: 1,
        keep: false,
        prepare: false,
        kubeconfig: None,
    };
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let mut value = || args.next().with_context(|| format!("{arg} needs a value"));
        match arg.as_str() {
            "--focus" => options.selection = Selection::Focus(value()?.clone()),
            "--all" => options.selection = Selection::All,
            "--procs" => options.processes = value()?.parse().context("--procs")?,
            "--repeat" => options.repeat = value()?.parse().context("--repeat")?,
            "--keep" => options.keep = true,
            "--prepare" => options.prepare = true,
            "--kubeconfig" => options.kubeconfig = Some(value()?.into()),
            other => bail!("unknown option {other:?}; --help lists them"),
        }
    }
    Ok(options)
}

/// One run of the selection: what each behaviour's outcome was.
fn behave(
    suite: &upstream::Suite,
    cluster: &Cluster,
    options: &Options,
    all: &[String],
) -> Result<BTreeMap<String, Outcome>> {
    let reports = upstream::cache()?.join("report");
    std::fs::create_dir_all(&reports).with_context(|| format!("create {}", reports.display()))?;
    let junit = reports.join("junit.xml");
    let _ = std::fs::remove_file(&junit);
    let mut command = Command::new(&suite.ginkgo);
    command
        .arg(format!("--procs={}", options.processes))
        .arg(format!("--timeout={TIMEOUT}"))
        .args([
            "-v",
            "--no-color",
            "--label-filter=Conformance",
            "--junit-report=junit.xml",
        ])
        .arg(format!("--output-dir={}", reports.display()))
        .args(
            options
                .selection
                .focus(all)
                .map(|focus| format!("--focus={focus}")),
        )
        .arg(&suite.tests)
        .arg("--")
        .args([
            "--provider=skeleton",
            "--disable-log-dump",
            "--dump-logs-on-failure=false",
        ])
        .arg(format!("--kubeconfig={}", cluster.kubeconfig.display()))
        .current_dir(&reports)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit());
    let mut child = command
        .spawn()
        .with_context(|| format!("start {}", suite.ginkgo.display()))?;
    let log = reports.join("log.txt");
    println!("the suite's own words are in {}", log.display());
    if let Some(output) = child.stdout.take() {
        progress::follow(output, &log, options.selection.count(all))?;
    }
    // Its exit code says whether anything failed, which the report says better.
    child.wait().context("wait for ginkgo")?;
    let text = std::fs::read_to_string(&junit)
        .with_context(|| format!("the suite left no report; see {}", log.display()))?;
    Ok(report::outcomes(&text, all))
}

/// A cluster to test, deleted at the end if we started it and nobody wants to keep it.
struct Cluster {
    kubeconfig: PathBuf,
    delete: bool,
}

impl Cluster {
    const NAME: &str = "conformance";

    fn given(kubeconfig: &Path) -> Result<Self> {
        let kubeconfig = kubeconfig
            .canonicalize()
            .with_context(|| format!("find {}", kubeconfig.display()))?;
        Ok(Self {
            kubeconfig,
            delete: false,
        })
    }

    fn start(images: &Path, keep: bool) -> Result<Self> {
        run::step("Building hikube (release)");
        run::build()?;
        run::step("Starting a cluster");
        let hikube = |args: &[&str]| {
            let mut command = Command::new(run::hikube_binary());
            command.args(args).args(["--name", Self::NAME]);
            command
        };
        run::checked(&mut hikube(&["up"]))?;
        let cluster = Self {
            kubeconfig: upstream::cache()?.join("kubeconfig"),
            delete: !keep,
        };
        let printed = hikube(&["kubeconfig"]).output().context("hikube kubeconfig")?;
        ensure!(printed.status.success(), "hikube kubeconfig: {}", printed.status);
        write_private(&cluster.kubeconfig, &printed.stdout)?;
        run::checked(hikube(&["image", "load"]).arg(images))?;
        Ok(cluster)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if !self.delete {
            return;
        }
        let _ = std::fs::remove_file(&self.kubeconfig);
        let mut command = Command::new(run::hikube_binary());
        command.args(["delete", "--yes", "--name", Self::NAME]);
        if let Err(error) = run::checked(&mut command) {
            eprintln!("xtask: the cluster stays: {error:#}");
        }
    }
}

/// An administrator's kubeconfig is for its owner only.
fn write_private(path: &Path, bytes: &[u8]) -> Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let _ = std::fs::remove_file(path);
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("create {}", path.display()))?;
    file.write_all(bytes)
        .with_context(|| format!("write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(passed: bool, seconds: f64) -> Outcome {
        Outcome {
            passed,
            seconds,
            reason: if passed { String::new() } else { "why".into() },
        }
    }

    #[test]
    fn a_behaviour_that_failed_once_has_failed() {
        let mut all = BTreeMap::new();
        for (passed, seconds) in [(true, 1.0), (false, 2.0), (true, 3.0)] {
            merge(
                &mut all,
                BTreeMap::from([("a".to_owned(), outcome(passed, seconds))]),
            );
        }
        assert_eq!((all["a"].passed, all["a"].seconds), (false, 3.0));
        assert_eq!(all["a"].reason, "why");
    }

    #[test]
    fn options_are_read_and_unknown_ones_refused() {
        let options = parse(&["--procs", "3", "--keep", "--focus", "Lease"].map(String::from)).expect("good");
        assert_eq!((options.processes, options.keep), (3, true));
        assert!(matches!(options.selection, Selection::Focus(re) if re == "Lease"));
        assert!(parse(&["--fast".to_owned()]).is_err());
        assert!(parse(&["--procs".to_owned()]).is_err());
    }
}
