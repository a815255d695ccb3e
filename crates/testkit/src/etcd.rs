//! etcd members as child processes.

use crate::Pki;
use anyhow::{Context, Result, bail};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// A port that nobody listens on at this moment.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

struct Member {
    name: String,
    client_port: u16,
    peer_port: u16,
    child: Option<Child>,
}

/// An etcd cluster on this machine, with TLS. Killed when dropped.
pub struct Etcd {
    dir: PathBuf,
    files: tls::IdentityFiles,
    members: Vec<Member>,
    durable: bool,
}

impl Etcd {
    /// Starts so many members with their data below `dir`. It does not wait for them.
    pub fn start(dir: &Path, pki: &Pki, size: usize) -> Result<Self> {
        Self::start_with(dir, pki, size, false)
    }

    /// The same; a `durable` one writes to the disk before it acknowledges, as in production.
    pub fn start_with(dir: &Path, pki: &Pki, size: usize, durable: bool) -> Result<Self> {
        let files = pki.etcd("member")?;
        let mut members = Vec::new();
        for index in 0..size {
            let (client_port, peer_port) = (free_port()?, free_port()?);
            members.push(Member {
                name: format!("m{index}"),
                client_port,
                peer_port,
                child: None,
            });
        }
        let mut etcd = Self {
            dir: dir.into(),
            files,
            members,
            durable,
        };
        for index in 0..size {
            etcd.spawn(index)?;
        }
        Ok(etcd)
    }

    /// URLs of all members.
    pub fn endpoints(&self) -> Vec<String> {
        self.members
            .iter()
            .map(|m| format!("https://127.0.0.1:{}", m.client_port))
            .collect()
    }

    /// The process of a member, if it runs.
    pub fn pid(&self, index: usize) -> Option<u32> {
        self.members[index].child.as_ref().map(Child::id)
    }

    /// Kills a member with SIGKILL.
    pub fn kill(&mut self, index: usize) -> Result<()> {
        if let Some(mut child) = self.members[index].child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// Stops a member where it is, as if it were cut off: its connections stay, and nothing answers.
    pub fn pause(&self, index: usize) -> Result<()> {
        self.signal(index, "-STOP")
    }

    /// Lets a paused member go on.
    pub fn resume(&self, index: usize) -> Result<()> {
        self.signal(index, "-CONT")
    }

    fn signal(&self, index: usize, signal: &str) -> Result<()> {
        let child = self.members[index]
            .child
            .as_ref()
            .context("the member does not run")?;
        let status = Command::new("kill")
            .args([signal, &child.id().to_string()])
            .status()?;
        if !status.success() {
            bail!("kill {signal} failed");
        }
        Ok(())
    }

    /// Starts a member again with the data that it had.
    pub fn restart(&mut self, index: usize) -> Result<()> {
        self.spawn(index)
    }

    fn spawn(&mut self, index: usize) -> Result<()> {
        let cluster: Vec<String> = self
            .members
            .iter()
            .map(|m| format!("{}=https://127.0.0.1:{}", m.name, m.peer_port))
            .collect();
        let member = &mut self.members[index];
        if member.child.is_some() {
            bail!("member {index} runs already");
        }
        let data = self.dir.join(&member.name);
        std::fs::create_dir_all(&data)?;
        let log = std::fs::File::create(self.dir.join(format!("{}.log", member.name)))?;
        let client = format!("https://127.0.0.1:{}", member.client_port);
        let peer = format!("https://127.0.0.1:{}", member.peer_port);
        let mut command = Command::new("etcd");
        command.args(["--name", &member.name, "--data-dir"]).arg(&data);
        command.args([
            "--listen-client-urls",
            &client,
            "--advertise-client-urls",
            &client,
        ]);
        command.args([
            "--listen-peer-urls",
            &peer,
            "--initial-advertise-peer-urls",
            &peer,
        ]);
        command.args([
            "--initial-cluster",
            &cluster.join(","),
            "--initial-cluster-token",
            "testkit",
        ]);
        command.args(["--client-cert-auth", "--peer-client-cert-auth", "--logger", "zap"]);
        command.args(["--auto-compaction-retention", "0"]);
        if !self.durable {
            // Tests restart often and need no durability against power loss.
            command.arg("--unsafe-no-fsync");
        }
        for (kind, path) in [
            ("cert-file", &self.files.cert),
            ("key-file", &self.files.key),
            ("trusted-ca-file", &self.files.ca),
            ("peer-cert-file", &self.files.cert),
            ("peer-key-file", &self.files.key),
            ("peer-trusted-ca-file", &self.files.ca),
        ] {
            command.arg(format!("--{kind}")).arg(path);
        }
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn();
        member.child = Some(child.context("start etcd (package etcd-server)")?);
        Ok(())
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        for member in &mut self.members {
            if let Some(child) = &mut member.child {
                // Already gone is as good.
                let _ = child.kill();
                let _ = child.wait();
            }
        }
    }
}
