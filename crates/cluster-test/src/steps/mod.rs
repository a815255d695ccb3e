//! The steps of the acceptance test, in order.

mod control;
mod embedded;
mod idle;
mod lifecycle;
mod manifest_change;
mod manifests;
mod pods;
mod regions;
mod workloads;

use crate::cluster::Cluster;
use anyhow::Result;

/// What a step does.
type Run = Box<dyn Fn(&Cluster) -> Result<()>>;

/// One step: a name for `--only`, what it shows, and its code.
pub struct Step {
    /// Short name.
    pub name: &'static str,
    /// What it shows.
    pub what: &'static str,
    /// Whether the later steps need it.
    pub needed: bool,
    /// The step itself.
    pub run: Run,
}

fn step(name: &'static str, what: &'static str, run: impl Fn(&Cluster) -> Result<()> + 'static) -> Step {
    Step {
        name,
        what,
        needed: false,
        run: Box::new(run),
    }
}

fn needed(name: &'static str, what: &'static str, run: impl Fn(&Cluster) -> Result<()> + 'static) -> Step {
    Step {
        needed: true,
        ..step(name, what, run)
    }
}

/// Everything that issue and README promise.
pub fn acceptance() -> Vec<Step> {
    vec![
        step(
            "manifests",
            "bad manifests are refused with path and reason, and change nothing",
            manifests::refused,
        ),
        needed(
            "up",
            "one command to three Ready nodes, and again is a no-op",
            lifecycle::up,
        ),
        step("idle", "memory and CPU of an idle cluster", |c| {
            idle::measure(c, 10)
        }),
        needed(
            "workloads",
            "Deployment, Service, ConfigMap, Secret, StatefulSet with a claim",
            workloads::deploy,
        ),
        step("kubectl", "kubectl behaves as with upstream", workloads::kubectl),
        step(
            "kubectl-debian",
            "so does Debian's kubectl 1.20",
            workloads::debian_kubectl,
        ),
        step(
            "network",
            "DNS, Services across nodes, the API from inside a pod",
            workloads::network,
        ),
        step(
            "pods",
            "memory limits kill, and a missing image says how to load it",
            pods::limits_and_images,
        ),
        step(
            "resize",
            "a changed manifest moves nodes, pods and volumes",
            manifest_change::resize,
        ),
        step(
            "down",
            "down keeps everything for the next up",
            manifest_change::down_and_up,
        ),
        step("demo", "the demo loses nothing", lifecycle::demo),
        needed("postgres", "PostgreSQL on a replicated claim", regions::postgres),
        step(
            "engine",
            "an engine is killed under PostgreSQL, which notices a pause",
            control::kill_engine,
        ),
        step("region-fail", "each region in turn is killed and cut off", |c| {
            regions::each(c, &[])
        }),
        step(
            "region-cut",
            "the pod's region is cut off: never two running copies",
            regions::cut_home,
        ),
        step(
            "control-plane",
            "an etcd member, then the leading control plane, are killed",
            control::kill_leaders,
        ),
        step(
            "api-outage",
            "no control plane for a while stops no pod and no I/O",
            control::outage,
        ),
        step(
            "kill-all",
            "every process killed at once, then `up` again",
            control::kill_all,
        ),
        step(
            "certificates",
            "every certificate ran out and was renewed while all this ran",
            lifecycle::certificates,
        ),
        step(
            "logs",
            "no component logged a warning or an error that nobody announced",
            lifecycle::logs,
        ),
        step("delete", "delete leaves nothing behind", lifecycle::delete),
        step(
            "embedded",
            "a cluster on the embedded datastore keeps everything when all is killed",
            embedded::life,
        ),
    ]
}

/// Region failures under load, round after round.
pub fn chaos(rounds: u32) -> Vec<Step> {
    vec![
        needed("up", "cluster", lifecycle::up),
        needed("postgres", "PostgreSQL on a replicated claim", regions::postgres),
        step("rounds", "regions fail in turn", move |c| {
            for round in 1..=rounds {
                println!("round {round} of {rounds}");
                regions::each(c, &[])?;
                regions::cut_home(c)?;
            }
            Ok(())
        }),
        step("delete", "delete leaves nothing behind", lifecycle::delete),
    ]
}

/// Start time, idle memory and CPU.
pub fn bench() -> Vec<Step> {
    vec![
        needed("up", "cluster", lifecycle::up),
        step("idle", "memory and CPU of an idle cluster", |c| {
            idle::measure(c, 60)
        }),
        step("delete", "delete leaves nothing behind", lifecycle::delete),
    ]
}
