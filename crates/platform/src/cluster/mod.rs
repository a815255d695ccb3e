//! What the user asks for: bring a cluster up, look at it, fail and restore regions, take it down, remove it.

mod addons;
mod delete;
mod down;
mod drain;
mod image;
mod prepare;
mod ready;
mod region;
mod status;
mod up;

pub(crate) use addons::conflist;
pub use addons::{Parts, set_parts};
pub use delete::delete;
pub use down::down;
pub use image::{Loaded, load_image};
pub use region::{FailMode, fail, restore};
pub use status::{Status, status};
pub use up::{Summary, UpOptions, up, upkeep};

use crate::host;
use crate::layout::Layout;
use crate::manifest::{self, Manifest, Problem};
use crate::plan::{Machine, Placements, Plan};
use crate::{api, pki, plan, registry, supervisor};
use std::path::PathBuf;

/// Why a request of the user cannot be met.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The manifest is wrong.
    #[error("{}", lines(.0))]
    Manifest(Vec<Problem>),
    /// There is no such cluster.
    #[error("there is no cluster {0:?} on this machine; `hikube up` makes one")]
    NoCluster(String),
    /// There is no such region.
    #[error("there is no region {0:?}; there are {regions}", regions = plan::REGIONS.join(", "))]
    NoRegion(String),
    /// The name cannot be a cluster's.
    #[error(transparent)]
    Name(#[from] crate::layout::BadName),
    /// It needs root.
    #[error("this must be run as root: it makes network namespaces, cgroups and mounts")]
    NotRoot,
    /// Programs that must be installed first.
    #[error(
        "these programs are missing: {0}; `cargo xtask up` installs them, or install the Debian packages {1}"
    )]
    Missing(String, String),
    /// Another command works on the cluster.
    #[error("another hikube command is changing cluster {0:?}; wait for it to end")]
    Busy(String),
    /// A component does not come up.
    #[error("{component} {reason}; last lines of its log ({log}):\n{tail}")]
    Component {
        /// Its name.
        component: String,
        /// What is wrong with it.
        reason: String,
        /// Its log file.
        log: PathBuf,
        /// The end of its log.
        tail: String,
    },
    /// A file.
    #[error("{action} {path}: {source}")]
    File {
        /// What was attempted.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// The machine.
    #[error(transparent)]
    Host(#[from] host::Error),
    /// The numbers of clusters.
    #[error(transparent)]
    Registry(#[from] registry::Error),
    /// The address plan.
    #[error(transparent)]
    Plan(#[from] plan::Error),
    /// Certificates.
    #[error(transparent)]
    Pki(#[from] pki::Error),
    /// Supervisors.
    #[error(transparent)]
    Supervisor(#[from] supervisor::Error),
    /// The API.
    #[error(transparent)]
    Api(#[from] api::Error),
    /// The storage layer.
    #[error("storage: {0}")]
    Storage(String),
    /// Anything else, said in full.
    #[error("{0}")]
    Other(String),
}

fn lines(problems: &[Problem]) -> String {
    let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
    lines.join("\n")
}

/// Adds what was attempted to an I/O error.
fn file(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.into();
    move |source| Error::File { action, path, source }
}

/// Tells the user what happens. One line each.
pub type Say<'a> = &'a (dyn Fn(&str) + Sync);

/// A cluster that exists on this machine.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// Where everything lies.
    pub layout: Layout,
    /// What there is.
    pub plan: Plan,
}

impl Cluster {
    /// The cluster called `name`, as it was last brought up.
    pub fn open(name: &str) -> Result<Self, Error> {
        let layout = Layout::new(name)?;
        let missing = || Error::NoCluster(name.into());
        let number = registry::existing(&layout)?.ok_or_else(missing)?;
        let text = std::fs::read_to_string(layout.manifest()).map_err(|_| missing())?;
        let manifest = manifest::parse(&text).map_err(Error::Manifest)?;
        let mut placements = load_placements(&layout);
        let mut plan = make_plan(&layout, number, manifest, &mut placements)?;
        plan.datastore = load_datastore(&layout)?.unwrap_or_default();
        Ok(Self { layout, plan })
    }

    /// A client of the API through the host's forwarder, with the administrator's identity.
    fn api(&self, timeout: std::time::Duration) -> Result<api::Client, Error> {
        let files = pki::identity(&self.layout, pki::Signer::Cluster, "admin");
        Ok(api::Client::new(self.plan.endpoint(), &files, timeout)?)
    }

    /// Regions whose supervisors may run.
    fn living_regions(&self) -> impl Iterator<Item = &plan::Region> {
        let living = |r: &&plan::Region| !crate::components::killed_mark(&self.layout, &r.name).exists();
        self.plan.regions.iter().filter(living)
    }

    /// Regions that are neither killed nor cut off.
    fn whole_regions(&self) -> impl Iterator<Item = &plan::Region> {
        let whole = |r: &&plan::Region| !crate::components::cut_mark(&self.layout, &r.name).exists();
        self.living_regions().filter(whole)
    }
}

fn make_plan(
    layout: &Layout,
    number: u8,
    manifest: Manifest,
    placements: &mut Placements,
) -> Result<Plan, Error> {
    Ok(Plan::new(
        layout.cluster(),
        number,
        manifest,
        machine(),
        placements,
    )?)
}

/// What this machine has.
fn machine() -> Machine {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = text.lines().find_map(|l| l.strip_prefix("MemTotal:"));
    let kib: Option<u64> = total.and_then(|t| t.split_whitespace().next()?.parse().ok());
    Machine {
        cpu_millis: cpus as u64 * 1000,
        memory_bytes: kib.unwrap_or(1 << 20) * 1024,
    }
}

fn datastore_path(layout: &Layout) -> PathBuf {
    layout.state().join("datastore.json")
}

/// What the cluster keeps its state in; `None` before its first `hikube up`, and for one older than this choice.
fn load_datastore(layout: &Layout) -> Result<Option<plan::Datastore>, Error> {
    let path = datastore_path(layout);
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(file("read", path)(error)),
    };
    // Taking it for the other kind would begin a second, empty state.
    let broken = |e| Error::Other(format!("{}: {e}", path.display()));
    serde_json::from_slice(&bytes).map(Some).map_err(broken)
}

fn placements_path(layout: &Layout) -> PathBuf {
    layout.state().join("nodes.json")
}

fn load_placements(layout: &Layout) -> Placements {
    let bytes = std::fs::read(placements_path(layout)).unwrap_or_default();
    serde_json::from_slice(&bytes).unwrap_or_default()
}

/// Holds off other commands that change the same cluster.
fn exclusive(layout: &Layout) -> Result<std::fs::File, Error> {
    if !rustix::process::geteuid().is_root() {
        return Err(Error::NotRoot);
    }
    let dir = layout.run();
    crate::files::private_dir(&dir).map_err(file("create", &dir))?;
    let path = dir.join("command.lock");
    let lock = std::fs::File::create(&path).map_err(file("create", &path))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(_) => Err(Error::Busy(layout.cluster().into())),
    }
}
