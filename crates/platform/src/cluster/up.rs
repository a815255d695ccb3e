//! `hikube up`: from a manifest to a cluster that is Ready. Every step looks at what is there, so the same command
//! creates, resumes after a crash or a reboot, applies a changed manifest, and does nothing when all is well.

use super::{Cluster, Error, Say, drain, exclusive, file, make_plan, prepare, ready};
use crate::components::{Builder, HOST};
use crate::layout::Layout;
use crate::manifest::{self, Manifest};
use crate::plan::Datastore;
use crate::supervisor::{self, Request, Unit};
use crate::{pki, registry};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What `hikube up` was asked.
pub struct UpOptions {
    /// Name of the cluster.
    pub name: String,
    /// The manifest's text; without it the one of the existing cluster, or the default.
    pub manifest: Option<String>,
    /// How long to wait until everything is Ready.
    pub wait: Duration,
    /// Lifetime of certificates.
    pub certificate_lifetime: Duration,
    /// The hikube binary.
    pub binary: PathBuf,
    /// What holds the cluster's state; without it what the existing cluster has, or etcd.
    pub datastore: Option<Datastore>,
}

/// What the user should know in the end.
#[derive(Clone, Debug)]
pub struct Summary {
    /// The cluster.
    pub cluster: Cluster,
    /// Regions that stay failed on purpose.
    pub failed_regions: Vec<String>,
    /// How long it took.
    pub took: Duration,
}

/// How long a supervisor may take to answer: it stops what was changed before it does.
const SUPERVISOR_PATIENCE: Duration = Duration::from_secs(120);
/// How long the host's supervisor may take to listen.
const START_PATIENCE: Duration = Duration::from_secs(10);

/// Brings a cluster up.
pub async fn up(options: UpOptions, say: Say<'_>) -> Result<Summary, Error> {
    let start = Instant::now();
    let layout = Layout::new(&options.name)?;
    let datastore = datastore(&layout, options.datastore)?;
    let (text, manifest) = wanted(&layout, options.manifest, datastore)?;
    prepare::check_machine(datastore)?;
    let lock = exclusive(&layout)?;
    for path in &manifest.not_acted_on {
        say(&format!("note: {path} is accepted, and not acted on yet"));
    }
    if manifest.version != manifest::RUNNING_VERSION {
        let (wanted, running) = (&manifest.version, manifest::RUNNING_VERSION);
        say(&format!("note: version {wanted} is accepted; {running} runs"));
    }
    let before = Cluster::open(&options.name).ok();
    let number = registry::number(&layout)?;
    let mut placements = super::load_placements(&layout);
    let mut plan = make_plan(&layout, number, manifest, &mut placements)?;
    plan.datastore = datastore;
    for line in &plan.capped {
        say(&format!("note: {line}"));
    }
    let cluster = Cluster { layout, plan };
    prepare::check_paths(&cluster)?;
    let binary = prepare::install_binary(&cluster.layout, &options.binary)?;
    let removed = before
        .as_ref()
        .map_or(Vec::new(), |b| drain::removed(b, &cluster));
    if let Some(before) = &before {
        drain::drain(before, &removed, say).await?;
    }
    prepare::prepare(&cluster, &binary, options.certificate_lifetime, say)?;
    write_state(&cluster, &text, &placements)?;
    let builder = Builder {
        layout: &cluster.layout,
        plan: &cluster.plan,
        binary: &binary,
        certificate_seconds: options.certificate_lifetime.as_secs(),
    };
    start_supervisors(&cluster, &builder, say).await?;
    if let Some(before) = &before {
        drain::remove(before, &removed, say).await?;
    }
    ready::wait(&cluster, options.wait, start, say).await?;
    drop(lock);
    let marked = |r: &&crate::plan::Region| {
        crate::components::killed_mark(&cluster.layout, &r.name).exists()
            || crate::components::cut_mark(&cluster.layout, &r.name).exists()
    };
    let failed = cluster.plan.regions.iter().filter(marked);
    Ok(Summary {
        failed_regions: failed.map(|r| r.name.clone()).collect(),
        took: start.elapsed(),
        cluster,
    })
}

/// The manifest to apply. Nothing on the machine has changed when it is refused.
fn wanted(layout: &Layout, given: Option<String>, datastore: Datastore) -> Result<(String, Manifest), Error> {
    let existing = std::fs::read_to_string(layout.manifest()).ok();
    let text = given
        .or_else(|| existing.clone())
        .unwrap_or_else(|| manifest::default_for(datastore));
    let manifest = manifest::parse(&text).map_err(Error::Manifest)?;
    if datastore == Datastore::Embedded && manifest.control_planes != 1 {
        return Err(Error::Manifest(vec![manifest::Problem {
            path: "spec.controlPlane.replicas".into(),
            reason: format!(
                "is {}, and the embedded datastore serves exactly one control plane: set it to 1, or use etcd",
                manifest.control_planes
            ),
        }]));
    }
    let before = existing.and_then(|text| manifest::parse(&text).ok());
    if let Some(before) = before.filter(|b| b.storage_class != manifest.storage_class) {
        return Err(Error::Manifest(vec![manifest::Problem {
            path: "spec.storageClass".into(),
            reason: format!(
                "is {:?} in this cluster and cannot be changed to {:?}",
                before.storage_class, manifest.storage_class
            ),
        }]));
    }
    Ok((text, manifest))
}

/// The datastore to use. What a cluster has begun with it keeps: there is no way yet to move its state.
fn datastore(layout: &Layout, asked: Option<Datastore>) -> Result<Datastore, Error> {
    let known = super::load_datastore(layout)?;
    let known = known.or_else(|| layout.manifest().exists().then_some(Datastore::Etcd));
    match (known, asked) {
        (Some(known), Some(asked)) if known != asked => Err(Error::Other(format!(
            "--datastore: is {known} in this cluster and cannot be changed to {asked}; another --name makes another cluster"
        ))),
        (Some(known), _) => Ok(known),
        (None, asked) => Ok(asked.unwrap_or_default()),
    }
}

fn write_state(cluster: &Cluster, manifest: &str, placements: &crate::plan::Placements) -> Result<(), Error> {
    let layout = &cluster.layout;
    let path = super::placements_path(layout);
    let text = serde_json::to_vec_pretty(placements).map_err(|e| Error::Other(e.to_string()))?;
    crate::files::ensure(&path, &text).map_err(file("write", &path))?;
    let path = super::datastore_path(layout);
    let text = serde_json::to_vec(&cluster.plan.datastore).map_err(|e| Error::Other(e.to_string()))?;
    crate::files::ensure(&path, &text).map_err(file("write", &path))?;
    let path = layout.manifest();
    crate::files::ensure(&path, manifest.as_bytes()).map_err(file("write", &path))?;
    Ok(())
}

/// Writes the specifications, and makes the supervisors act on them.
async fn start_supervisors(cluster: &Cluster, builder: &Builder<'_>, say: Say<'_>) -> Result<(), Error> {
    let layout = &cluster.layout;
    let mut changed = Vec::new();
    for region in &cluster.plan.regions {
        if builder.region(region).store(&layout.spec(&region.name))? {
            changed.push(region.name.clone());
        }
    }
    let host = builder.host();
    host.store(&layout.spec(HOST))?;
    if !reload_host(cluster, builder.binary).await {
        say("starting supervisors");
        start_host(cluster, &host).await?;
    }
    for region in cluster.living_regions() {
        // One that was just started has read the new specification already.
        let control = layout.control(&region.name);
        if let Err(error) = supervisor::call(&control, &Request::Reload, SUPERVISOR_PATIENCE) {
            tracing::debug!(region = region.name, %error, "supervisor starts");
        }
    }
    if !changed.is_empty() {
        say(&format!("applied changes in {}", changed.join(", ")));
    }
    Ok(())
}

/// Makes a running supervisor of the host act on its specification. `false` when none runs any more: one that runs
/// an older program leaves its components to a new one.
async fn reload_host(cluster: &Cluster, binary: &Path) -> bool {
    let control = cluster.layout.control(HOST);
    let Ok(answer) = supervisor::call(&control, &Request::Status, START_PATIENCE) else {
        return false;
    };
    let same = answer.program == binary;
    if same || supervisor::call(&control, &Request::Leave, START_PATIENCE).is_err() {
        return supervisor::call(&control, &Request::Reload, SUPERVISOR_PATIENCE).is_ok();
    }
    let deadline = Instant::now() + START_PATIENCE;
    while control.exists() && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    false
}

/// Starts the supervisor outside of the regions, as a process of its own.
async fn start_host(cluster: &Cluster, unit: &Unit) -> Result<(), Error> {
    let layout = &cluster.layout;
    let mut command = supervisor::launcher();
    command
        .args(["--cgroup", &format!("{}/supervisor", layout.cgroup()), "--"])
        .arg(binary_of(unit, layout))
        .args([
            "supervisor",
            "--name",
            &cluster.plan.cluster,
            "--upkeep",
            "--spec",
        ])
        .arg(layout.spec(HOST));
    let log = &unit.own_log;
    let mut command = supervisor::detached(command, log).map_err(file("open", log))?;
    let mut child = command.spawn().map_err(file("start", log))?;
    let deadline = Instant::now() + START_PATIENCE;
    loop {
        if supervisor::call(&layout.control(HOST), &Request::Status, START_PATIENCE).is_ok() {
            return Ok(());
        }
        let ended = child.try_wait().ok().flatten();
        if ended.is_some() || Instant::now() > deadline {
            return Err(Error::Component {
                component: "supervisor-host".into(),
                reason: ended.map_or("does not answer".into(), |status| format!("ended ({status})")),
                log: log.clone(),
                tail: crate::files::tail(log, 20),
            });
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn binary_of(unit: &Unit, layout: &Layout) -> PathBuf {
    let command = unit.components.first().and_then(|c| c.command.first());
    command.map_or_else(|| layout.state().join("bin/hikube"), PathBuf::from)
}

/// What the supervisor outside the regions does now and then: it renews certificates. Returns when to look again.
pub fn upkeep(name: &str) -> Duration {
    const SOON: Duration = Duration::from_secs(60);
    const AT_MOST: Duration = Duration::from_secs(3600);
    let renew = || -> Result<Duration, Error> {
        let cluster = Cluster::open(name)?;
        let lifetime = prepare::certificate_lifetime(&cluster.layout);
        let issued = pki::ensure(&cluster.layout, &cluster.plan, lifetime)?;
        if issued > 0 {
            tracing::info!(issued, "renewed certificates");
            prepare::write_kubeconfigs(&cluster)?;
        }
        // Renewal is due when a third is left; a twelfth is soon enough to notice.
        Ok((lifetime / 12).clamp(Duration::from_secs(1), AT_MOST))
    };
    renew().unwrap_or_else(|error| {
        tracing::error!(%error, "certificates cannot be renewed");
        SOON
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_keeps_its_datastore() {
        let root = tempfile::tempdir().expect("a directory");
        let layout = Layout::below(root.path(), "c").expect("a good name");
        let of = |asked| datastore(&layout, asked);
        assert_eq!(of(None).expect("new"), Datastore::Etcd);
        assert_eq!(of(Some(Datastore::Embedded)).expect("new"), Datastore::Embedded);
        std::fs::create_dir_all(layout.state()).expect("made");
        // A cluster from before there was a choice.
        std::fs::write(layout.manifest(), manifest::DEFAULT).expect("written");
        assert_eq!(of(None).expect("known"), Datastore::Etcd);
        assert!(of(Some(Datastore::Embedded)).is_err());
        std::fs::write(crate::cluster::datastore_path(&layout), "\"embedded\"").expect("written");
        assert_eq!(of(None).expect("known"), Datastore::Embedded);
        let error = of(Some(Datastore::Etcd)).expect_err("refused").to_string();
        assert!(error.contains("is embedded in this cluster"), "{error}");
        // Half a word is no reason to begin an empty state of the other kind.
        std::fs::write(crate::cluster::datastore_path(&layout), "\"emb").expect("written");
        assert!(of(None).is_err());
    }

    #[test]
    fn the_embedded_datastore_serves_one_control_plane() {
        let root = tempfile::tempdir().expect("a directory");
        let layout = Layout::below(root.path(), "c").expect("a good name");
        let two = Some(manifest::DEFAULT.to_owned());
        let error = wanted(&layout, two, Datastore::Embedded)
            .expect_err("refused")
            .to_string();
        assert!(error.starts_with("spec.controlPlane.replicas: is 2"), "{error}");
        let (_, manifest) = wanted(&layout, None, Datastore::Embedded).expect("its own default");
        assert_eq!(manifest.control_planes, 1);
    }
}
