//! What the kubelet needs around it: a containerd of its own with images made from busybox, a fake CSI driver
//! and a fake engine.

pub mod csi;
pub mod engine;
mod image;

use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const START: Duration = Duration::from_secs(20);

/// A containerd with everything below one directory.
pub struct Containerd {
    pub dir: PathBuf,
    bridge: String,
    cgroup: String,
    child: Option<Child>,
}

fn run(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    let text = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {text}");
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

impl Containerd {
    /// Starts it below `dir`, with pods in `subnet`.
    pub fn start(dir: &Path, subnet: &str) -> Result<Self> {
        let mut containerd = Self {
            dir: dir.to_owned(),
            bridge: format!("klt{}", std::process::id()),
            cgroup: format!("/kubelet-test-{}", std::process::id()),
            child: None,
        };
        std::fs::create_dir_all(dir.join("cni"))?;
        let bridge = &containerd.bridge;
        let network = serde_json::json!({"cniVersion": "0.4.0", "name": bridge, "plugins": [{
            "type": "bridge", "bridge": bridge, "isGateway": true, "ipMasq": false,
            "ipam": {"type": "host-local", "dataDir": dir.join("ipam"), "ranges": [[{"subnet": subnet}]],
                "routes": [{"dst": "0.0.0.0/0"}]}}]});
        std::fs::write(dir.join("cni/10-test.conflist"), network.to_string())?;
        let root = dir.display();
        let config = format!(
            r#"version = 2
root = "{root}/root"
state = "{root}/state"
[grpc]
  address = "{root}/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "test/pause:1"
  restrict_oom_score_adj = true
  disable_apparmor = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{root}/cni"
"#
        );
        std::fs::write(dir.join("config.toml"), config)?;
        containerd.spawn()?;
        let archive = dir.join("images.tar");
        image::write(&archive)?;
        run(containerd.ctr(&["images", "import"]).arg(&archive))?;
        Ok(containerd)
    }

    /// The socket.
    pub fn socket(&self) -> PathBuf {
        self.dir.join("containerd.sock")
    }

    /// Cgroup for the pods.
    pub fn cgroup(&self) -> String {
        format!("{}/pods", self.cgroup)
    }

    fn ctr(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("ctr");
        command
            .arg("-a")
            .arg(self.socket())
            .args(["-n", "k8s.io"])
            .args(arguments);
        command
    }

    fn spawn(&mut self) -> Result<()> {
        let log = std::fs::File::create(self.dir.join("containerd.log"))?;
        let child = Command::new("containerd")
            .arg("-c")
            .arg(self.dir.join("config.toml"))
            .stderr(log)
            .stdout(Stdio::null())
            .spawn()?;
        self.child = Some(child);
        let started = Instant::now();
        while run(&mut self.ctr(&["version"])).is_err() {
            ensure!(started.elapsed() < START, "containerd does not start");
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        // Shims and containers, by the cgroup and the directory that are ours alone.
        let ours = self.dir.join("containerd.sock").display().to_string();
        for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<i32>().ok()) else {
                continue;
            };
            let read = |name: &str| std::fs::read_to_string(entry.path().join(name)).unwrap_or_default();
            let is_shim =
                read("cmdline").starts_with("/usr/bin/containerd-shim") && read("cmdline").contains(&ours);
            if (is_shim || read("cgroup").contains(&format!(":{}/", self.cgroup)))
                && let Some(pid) = rustix::process::Pid::from_raw(pid)
            {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
    }

    /// Kills everything at once, as a power failure would, and starts containerd again.
    pub fn crash(&mut self) -> Result<()> {
        self.kill();
        std::thread::sleep(Duration::from_millis(300));
        self.spawn()
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        self.kill();
        std::thread::sleep(Duration::from_millis(300));
        let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let ours = self.dir.display().to_string();
        let points = table.lines().rev().filter_map(|l| l.split(' ').nth(4));
        for point in points.filter(|p| p.starts_with(&ours)) {
            let _ = rustix::mount::unmount(point, rustix::mount::UnmountFlags::DETACH);
        }
        let _ = Command::new("ip").args(["link", "del", &self.bridge]).output();
        for hierarchy in std::fs::read_dir("/sys/fs/cgroup")
            .into_iter()
            .flatten()
            .flatten()
        {
            let dir = format!("{}{}", hierarchy.path().display(), self.cgroup);
            let _ = Command::new("find")
                .args([&dir, "-depth", "-type", "d", "-exec", "rmdir", "{}", "+"])
                .output();
        }
    }
}
