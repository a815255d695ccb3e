//! Three stores and engines as real processes, with certificates, for the integration tests.
#![allow(dead_code)]

pub mod measure;
pub mod proxy;
pub mod shim;
pub mod writer;

use hikube_replication::StorageConfig;
use hikube_replication::admin::Admin;
use protos::engine as api;
use protos::engine::engine_client::EngineClient;
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tls::{Authority, Subject};
use tonic::transport::Channel;

pub const REGIONS: [&str; 3] = ["geneva", "gland", "lucerne"];
pub const CLUSTER: &str = "test";

/// Lines of each log that a failure shows.
const LOG_LINES: usize = 40;

/// Tests run one at a time: each measures time on few cores.
static ONE: std::sync::Mutex<()> = std::sync::Mutex::new(());

pub fn one_at_a_time() -> std::sync::MutexGuard<'static, ()> {
    ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Whether devices can be attached here.
pub fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        println!("skipped: attaching needs root");
    }
    root
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

/// Runs a test with a cluster of its own, alone.
pub fn with_cluster(test: impl AsyncFnOnce(Cluster)) {
    let _one = one_at_a_time();
    if is_root() {
        runtime().block_on(test(Cluster::start()));
    }
}

pub async fn pause(seconds: f64) {
    tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
}

/// Asks until the answer is yes; the limit is generous, for machines that are busy with other things.
pub async fn eventually(limit: Duration, what: &str, mut check: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !check().await {
        assert!(start.elapsed() < limit, "not within {limit:?}: {what}");
        pause(0.1).await;
    }
}

pub struct Cluster {
    pub dir: tempfile::TempDir,
    pub authority: Authority,
    pub ports: Vec<u16>,
    pub stores: Vec<Option<Child>>,
    pub engines: BTreeMap<String, Child>,
    /// Ports at which an engine finds the stores, when there is a proxy between.
    pub via: BTreeMap<String, Vec<u16>>,
    /// The stores are on disks that forget, see [`shim`].
    pub shim: bool,
    /// What engines hand over for their successors, where a service manager is played.
    pub kept: BTreeMap<String, fdstore::Store>,
}

fn program() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let release = test.parent().unwrap().parent().unwrap();
    let program = release.join("examples/node");
    assert!(
        program.exists(),
        "{} is not built: cargo build --release --workspace --examples",
        program.display()
    );
    program
}

impl Cluster {
    /// Three formatted stores, all running.
    pub fn start() -> Cluster {
        tls::install_provider();
        let dir = tempfile::Builder::new()
            .prefix("hikube-store-test-")
            .tempdir()
            .unwrap();
        let authority = Authority::open(&dir.path().join("pki"), "storage").unwrap();
        let listeners: Vec<TcpListener> = (0..3)
            .map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap())
            .collect();
        let ports = listeners.iter().map(|l| l.local_addr().unwrap().port()).collect();
        drop(listeners);
        let mut cluster = Cluster {
            dir,
            authority,
            ports,
            stores: vec![None, None, None],
            engines: BTreeMap::new(),
            via: BTreeMap::new(),
            shim: false,
            kept: BTreeMap::new(),
        };
        cluster.issue("admin", &format!("hikube://{CLUSTER}/admin"));
        cluster.issue("control-plane", &format!("hikube://{CLUSTER}/control-plane"));
        for (index, region) in REGIONS.iter().enumerate() {
            cluster.issue(
                &format!("store-{region}"),
                &format!("hikube://{CLUSTER}/store/{region}"),
            );
            cluster.format(index);
            cluster.start_store(index);
        }
        cluster
    }

    pub fn issue(&self, name: &str, uri: &str) {
        let subject = Subject {
            common_name: name.into(),
            uris: vec![uri.into()],
            ips: vec![Ipv4Addr::LOCALHOST.into()],
            server: true,
            client: true,
            validity: Duration::from_secs(3600),
            ..Subject::default()
        };
        self.authority.issue_files(name, &subject).unwrap();
    }

    pub fn store_dir(&self, index: usize) -> PathBuf {
        self.dir.path().join("store").join(REGIONS[index])
    }

    pub fn format(&self, index: usize) {
        hikube_replication::store_format(&self.store_dir(index), CLUSTER, REGIONS[index]).unwrap();
    }

    /// From now on the node's engines hand over their devices to each other.
    pub fn keep_devices(&mut self, node: &str) {
        let store = fdstore::Store::listen(&self.dir.path().join(format!("{node}.notify"))).unwrap();
        self.kept.insert(node.to_owned(), store);
    }

    fn spawn_with_kept(&self, node: &str, store: &fdstore::Store, arguments: &[String]) -> Child {
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", "LISTEN_PID=$$ exec \"$0\" \"$@\""])
            .arg(program())
            .args(arguments)
            .env(
                fdstore::SOCKET_VARIABLE,
                self.dir.path().join(format!("{node}.notify")),
            );
        fdstore::pass(&mut command, store.descriptors().unwrap()).unwrap();
        self.start_logged(command, &format!("engine-{node}"))
    }

    fn spawn(&self, log: &str, arguments: &[String], environment: Vec<(&'static str, PathBuf)>) -> Child {
        let mut command = Command::new(program());
        command.args(arguments).envs(environment);
        self.start_logged(command, log)
    }

    fn start_logged(&self, mut command: Command, log: &str) -> Child {
        let log = self.dir.path().join(format!("{log}.log"));
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(log)
            .unwrap();
        command
            .env(
                "RUST_LOG",
                std::env::var("RUST_LOG").unwrap_or_else(|_| "info,fuser=off".into()),
            )
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap()
    }

    fn identity(&self, name: &str) -> Vec<String> {
        let files = self.authority.files(name);
        vec![
            format!("--storage-cert={}", files.cert.display()),
            format!("--storage-key={}", files.key.display()),
            format!("--storage-ca={}", files.ca.display()),
        ]
    }

    pub fn start_store(&mut self, index: usize) {
        let region = REGIONS[index];
        let mut arguments = vec![
            "store".to_owned(),
            format!("--region={region}"),
            format!("--cluster={CLUSTER}"),
            format!("--data-dir={}", self.store_dir(index).display()),
            format!("--listen=127.0.0.1:{}", self.ports[index]),
        ];
        arguments.extend(self.identity(&format!("store-{region}")));
        let environment = if self.shim {
            shim::environment(self, index)
        } else {
            Vec::new()
        };
        self.stores[index] = Some(self.spawn(&format!("store-{region}"), &arguments, environment));
    }

    pub fn kill_store(&mut self, index: usize) {
        if let Some(mut child) = self.stores[index].take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// SIGTERM, and waits for the end.
    pub fn stop_store(&mut self, index: usize) {
        if let Some(mut child) = self.stores[index].take() {
            signal(&child, rustix::process::Signal::TERM);
            child.wait().unwrap();
        }
    }

    pub fn addresses(&self) -> Vec<String> {
        Self::named(&self.ports)
    }

    fn named(ports: &[u16]) -> Vec<String> {
        let pairs = REGIONS.iter().zip(ports);
        pairs
            .map(|(region, port)| format!("{region}=127.0.0.1:{port}"))
            .collect()
    }

    pub fn engine_socket(&self, node: &str) -> PathBuf {
        self.dir.path().join("run").join(format!("{node}.sock"))
    }

    /// An engine whose paths to the stores can be cut.
    pub fn start_engine_behind_paths(
        &mut self,
        node: &str,
        region: &str,
    ) -> Vec<std::sync::Arc<proxy::Path>> {
        let (ports, paths) = self.ports.iter().map(|port| proxy::start(*port)).unzip();
        self.via.insert(node.to_owned(), ports);
        self.start_engine(node, region);
        paths
    }

    pub fn start_engine(&mut self, node: &str, region: &str) {
        self.issue(node, &format!("hikube://{CLUSTER}/engine/{node}"));
        let mut arguments = vec![
            "engine".to_owned(),
            format!("--node-name={node}"),
            format!("--region={region}"),
            format!("--socket={}", self.engine_socket(node).display()),
            format!(
                "--state-dir={}",
                self.dir.path().join("engine").join(node).display()
            ),
            format!(
                "--stores={}",
                Self::named(self.via.get(node).unwrap_or(&self.ports)).join(",")
            ),
        ];
        arguments.extend(self.identity(node));
        let child = match self.kept.get(node) {
            Some(store) => self.spawn_with_kept(node, store, &arguments),
            None => self.spawn(&format!("engine-{node}"), &arguments, Vec::new()),
        };
        self.engines.insert(node.to_owned(), child);
    }

    /// An engine in the first region that has a new volume of so many MiB attached, and its device.
    pub async fn with_volume(&mut self, mib: u64) -> (EngineClient<Channel>, String) {
        self.start_engine("n1", REGIONS[0]);
        let mut client = self.client("n1").await;
        create(&mut client, "vol", mib << 20).await;
        let (device, _) = attach(&mut client, "vol").await.unwrap();
        (client, device)
    }

    /// Directory of the volume's replica in a region.
    pub fn replica_dir(&self, index: usize) -> PathBuf {
        self.store_dir(index).join("volumes/vol/replica")
    }

    /// The whole log of a store.
    pub fn store_log(&self, index: usize) -> String {
        let path = self.dir.path().join(format!("store-{}.log", REGIONS[index]));
        std::fs::read_to_string(path).unwrap_or_default()
    }

    pub fn kill_engine(&mut self, node: &str) {
        if let Some(mut child) = self.engines.remove(node) {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    pub fn signal_engine(&self, node: &str, number: rustix::process::Signal) {
        signal(&self.engines[node], number);
    }

    pub fn signal_store(&self, index: usize, number: rustix::process::Signal) {
        signal(self.stores[index].as_ref().unwrap(), number);
    }

    /// A client of the engine, once it is in contact with a majority.
    pub async fn client(&self, node: &str) -> EngineClient<Channel> {
        let socket = self.engine_socket(node);
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            if let Ok(mut client) = hikube_replication::api::connect(&socket).await {
                let status = client.status(api::StatusRequest {}).await.unwrap().into_inner();
                if status.quorum.unwrap().majority {
                    return client;
                }
            }
            assert!(
                Instant::now() < deadline,
                "engine {node} is not in contact: {}",
                self.logs()
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub fn storage(&self, name: &str) -> StorageConfig {
        let files = self.authority.files(name);
        StorageConfig {
            stores: self.addresses(),
            storage_cert: files.cert,
            storage_key: files.key,
            storage_ca: files.ca,
        }
    }

    pub fn admin(&self, name: &str) -> Admin {
        Admin::new(&self.storage(name)).unwrap()
    }

    /// Gives a store an empty disk of its own, so that nothing else on the machine decides how much space it has. The
    /// store must not run; unmounted with the cluster.
    pub fn own_disk(&mut self, index: usize, mib: u64) {
        let dir = self.store_dir(index);
        std::fs::remove_dir_all(&dir).unwrap();
        std::fs::create_dir(&dir).unwrap();
        let options = format!("size={mib}m");
        run(
            "mount",
            &["-t", "tmpfs", "-o", &options, "tmpfs", dir.to_str().unwrap()],
        );
        self.format(index);
    }

    /// How much space there is where the stores are.
    fn space(&self) -> String {
        let stores = (0..REGIONS.len()).map(|index| self.store_dir(index));
        let free = |dir: PathBuf| {
            let stat = rustix::fs::statvfs(&dir).map(|s| (s.f_bavail, s.f_blocks, s.f_frsize));
            let (free, all, size) = stat.unwrap_or_default();
            format!(
                "--- {}: {} of {} MiB free\n",
                dir.display(),
                (free * size) >> 20,
                (all * size) >> 20
            )
        };
        stores.map(free).collect()
    }

    /// The end of every log, for failures, and how much space there is.
    pub fn logs(&self) -> String {
        let mut text = self.space();
        for entry in std::fs::read_dir(self.dir.path()).unwrap().flatten() {
            if entry.path().extension().is_some_and(|e| e == "log") {
                let log = std::fs::read_to_string(entry.path()).unwrap_or_default();
                let tail: Vec<&str> = log.lines().rev().take(LOG_LINES).collect();
                text += &format!("--- {}\n", entry.path().display());
                for line in tail.iter().rev() {
                    text += &format!("{line}\n");
                }
            }
        }
        text
    }

    /// Waits until every replica of the volume is complete and without lag, as an engine says.
    pub async fn wait_complete(
        &self,
        client: &mut EngineClient<Channel>,
        id: &str,
        limit: Duration,
    ) -> Duration {
        let start = Instant::now();
        loop {
            let volume = get(client, id).await;
            if volume.replicas.iter().all(|r| r.state == "complete") {
                return start.elapsed();
            }
            assert!(start.elapsed() < limit, "{volume:?}\n{}", self.logs());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("{}", self.logs());
        }
        for child in self.engines.values_mut().chain(self.stores.iter_mut().flatten()) {
            let _ = child.kill();
            let _ = child.wait();
        }
        for store in self.kept.values() {
            store.clear();
        }
        for name in ["mnt", "other"] {
            let _ = rustix::mount::unmount(self.dir.path().join(name), rustix::mount::UnmountFlags::DETACH);
        }
        // A disk of its own that a test gave to a store.
        for index in 0..REGIONS.len() {
            let _ = rustix::mount::unmount(self.store_dir(index), rustix::mount::UnmountFlags::DETACH);
        }
        let _ = blockdev::clean_stale(self.dir.path(), &[]);
    }
}

fn signal(child: &Child, number: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_child(child);
    rustix::process::kill_process(pid, number).unwrap();
}

pub async fn create(client: &mut EngineClient<Channel>, id: &str, size_bytes: u64) -> api::Volume {
    let request = api::CreateVolumeRequest {
        id: id.into(),
        size_bytes,
        class: "replicated".into(),
        regions: Vec::new(),
        labels: [("claim".to_owned(), "data".to_owned())].into(),
        ..api::CreateVolumeRequest::default()
    };
    client
        .create_volume(request)
        .await
        .unwrap()
        .into_inner()
        .volume
        .unwrap()
}

pub async fn attach(client: &mut EngineClient<Channel>, id: &str) -> Result<(String, u64), tonic::Status> {
    let request = api::AttachVolumeRequest {
        id: id.into(),
        ..api::AttachVolumeRequest::default()
    };
    let answer = client.attach_volume(request).await?.into_inner();
    Ok((answer.device_path, answer.epoch))
}

pub async fn detach(client: &mut EngineClient<Channel>, id: &str, force: bool) -> Result<(), tonic::Status> {
    let request = api::DetachVolumeRequest { id: id.into(), force };
    client.detach_volume(request).await.map(drop)
}

pub async fn get(client: &mut EngineClient<Channel>, id: &str) -> api::Volume {
    let request = api::GetVolumeRequest { id: id.into() };
    client
        .get_volume(request)
        .await
        .unwrap()
        .into_inner()
        .volume
        .unwrap()
}

pub async fn delete(client: &mut EngineClient<Channel>, id: &str) -> Result<(), tonic::Status> {
    client
        .delete_volume(api::DeleteVolumeRequest { id: id.into() })
        .await
        .map(drop)
}

/// Compares the replicas, and insists that they are equal.
pub async fn verify(client: &mut EngineClient<Channel>, id: &str) -> api::VerifyVolumeResponse {
    let request = api::VerifyVolumeRequest { id: id.into() };
    let report = client.verify_volume(request).await.unwrap().into_inner();
    assert!(report.equal, "{report:?}");
    assert!(report.differences.is_empty(), "{report:?}");
    report
}

/// Runs a command to its end, and insists on success.
pub fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(output.status.success(), "{program} {arguments:?}: {text}");
    text
}

/// Random bytes over a stretch of a device, not cached.
pub fn fill(device: &str, seek_mib: u64, count_mib: u64) {
    let (to, seek, count) = (
        format!("of={device}"),
        format!("seek={seek_mib}"),
        format!("count={count_mib}"),
    );
    run(
        "dd",
        &["if=/dev/urandom", &to, "bs=1M", &seek, &count, "oflag=direct"],
    );
}

/// Starts fio with verification on a device: random writes, each checked after a pass.
pub fn fio(device: &str, seconds: u32, size: &str) -> Child {
    Command::new("fio")
        .args([
            "--name=verify",
            &format!("--filename={device}"),
            "--rw=randwrite",
            "--bsrange=4k-64k",
            "--blockalign=4k",
            "--ioengine=libaio",
            "--direct=1",
            "--iodepth=16",
            &format!("--size={size}"),
            "--time_based",
            &format!("--runtime={seconds}"),
            "--fsync=64",
            "--verify=crc32c",
            "--verify_fatal=1",
            "--verify_state_save=0",
            "--verify_backlog=256",
            "--do_verify=1",
            "--max_latency=15s",
        ])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Waits for fio, and insists on success.
pub fn finish(child: Child) -> String {
    let output = child.wait_with_output().unwrap();
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(output.status.success(), "{text}");
    text
}
