//! The certificates of a cluster: three authorities (etcd, cluster, storage) that trust nothing of each other, and
//! under them one identity for each component, with upstream's names where upstream has one.

use crate::files;
use crate::layout::Layout;
use crate::plan::{KUBERNETES_SERVICE, Node, Plan, Region};
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;
use tls::{Authority, IdentityFiles, Subject};

/// How long a component's certificate is valid, unless the cluster was made with another lifetime.
pub const LIFETIME: Duration = Duration::from_secs(90 * 24 * 3600);

/// Why certificates cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A certificate.
    #[error(transparent)]
    Tls(#[from] tls::Error),
    /// Another secret.
    #[error("{action} {path}: {source}")]
    File {
        /// What was attempted.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
}

/// Who signs a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Signer {
    /// etcd members and their clients.
    Etcd,
    /// The API server, kubelets and every API client.
    Cluster,
    /// Stores, engines and those who ask them.
    Storage,
}

impl Signer {
    fn directory(self) -> &'static str {
        match self {
            Signer::Etcd => "etcd",
            Signer::Cluster => "cluster",
            Signer::Storage => "storage",
        }
    }
}

/// A certificate that a cluster needs.
#[derive(Clone, Debug)]
pub struct Certificate {
    /// Who signs it.
    pub signer: Signer,
    /// Its file name.
    pub name: String,
    /// What it says.
    pub subject: Subject,
}

/// Where the files of a certificate lie.
pub fn identity(layout: &Layout, signer: Signer, name: &str) -> IdentityFiles {
    let dir = layout.pki().join(signer.directory());
    IdentityFiles {
        cert: dir.join(format!("{name}.crt")),
        key: dir.join(format!("{name}.key")),
        ca: dir.join("ca.crt"),
    }
}

/// The authority's certificate.
pub fn authority(layout: &Layout, signer: Signer) -> PathBuf {
    layout.pki().join(signer.directory()).join("ca.crt")
}

/// Key that signs service-account tokens.
pub fn service_account_key(layout: &Layout) -> PathBuf {
    layout.pki().join("cluster/service-account.key")
}

/// Key that Secrets are encrypted with in etcd.
pub fn encryption_key(layout: &Layout) -> PathBuf {
    layout.pki().join("cluster/encryption.key")
}

/// Everything that the components of a plan present to each other.
pub fn certificates(plan: &Plan) -> Vec<Certificate> {
    let mut all = vec![
        client(Signer::Etcd, "status", "hikube-status", &[]),
        client(Signer::Cluster, "scheduler", "system:kube-scheduler", &[]),
        client(
            Signer::Cluster,
            "controller-manager",
            "system:kube-controller-manager",
            &[],
        ),
        client(
            Signer::Cluster,
            "kubelet-client",
            "kube-apiserver-kubelet-client",
            &["system:kubelet-api-admin"],
        ),
        client(Signer::Cluster, "admin", "kubernetes-admin", &["system:masters"]),
        storage(plan, "admin", "admin"),
        storage(plan, "control-plane", "control-plane"),
    ];
    for region in &plan.regions {
        all.extend(region_certificates(plan, region));
    }
    for node in &plan.nodes {
        all.extend(node_certificates(plan, node));
    }
    all
}

fn region_certificates(plan: &Plan, region: &Region) -> Vec<Certificate> {
    // etcd compares a peer's address with its certificate: the router's two addresses are both possible.
    let own: Vec<IpAddr> = vec![
        region.address.into(),
        region.uplink.into(),
        Ipv4Addr::LOCALHOST.into(),
    ];
    let name = &region.name;
    let mut peer = server(Signer::Etcd, &format!("peer-{name}"), name, own.clone());
    peer.subject.client = true;
    let mut member = server(Signer::Etcd, &format!("member-{name}"), name, own.clone());
    // etcd's own gateway connects to it with the server's certificate.
    member.subject.client = true;
    member.subject.dns = vec!["localhost".into()];
    let mut store = storage(plan, &format!("store-{name}"), &format!("store/{name}"));
    store.subject.server = true;
    store.subject.ips = own;
    vec![
        peer,
        member,
        client(Signer::Etcd, &format!("apiserver-{name}"), "kube-apiserver", &[]),
        api_server(plan, region),
        store,
    ]
}

fn api_server(plan: &Plan, region: &Region) -> Certificate {
    let mut ips: Vec<IpAddr> = vec![
        KUBERNETES_SERVICE.into(),
        Ipv4Addr::LOCALHOST.into(),
        plan.host().into(),
    ];
    for region in &plan.regions {
        ips.push(region.address.into());
        ips.push(region.uplink.into());
    }
    let name = format!("apiserver-{}", region.name);
    let mut certificate = server(Signer::Cluster, &name, "kube-apiserver", ips);
    certificate.subject.dns = [
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
        "localhost",
    ]
    .map(str::to_owned)
    .to_vec();
    certificate
}

fn node_certificates(plan: &Plan, node: &Node) -> Vec<Certificate> {
    let name = &node.name;
    let mut serving = server(
        Signer::Cluster,
        &format!("kubelet-{name}-serving"),
        &format!("system:node:{name}"),
        vec![node.address.into(), Ipv4Addr::LOCALHOST.into()],
    );
    serving.subject.organizations = vec!["system:nodes".into()];
    serving.subject.dns = vec![name.clone()];
    vec![
        serving,
        client(
            Signer::Cluster,
            &format!("kubelet-{name}"),
            &format!("system:node:{name}"),
            &["system:nodes"],
        ),
        client(
            Signer::Cluster,
            &format!("proxy-{name}"),
            "system:kube-proxy",
            &[],
        ),
        client(
            Signer::Cluster,
            &format!("csi-{name}"),
            &format!("system:hikube-csi:{name}"),
            &["hikube:csi"],
        ),
        storage(plan, &format!("engine-{name}"), &format!("engine/{name}")),
    ]
}

fn client(signer: Signer, name: &str, common_name: &str, organizations: &[&str]) -> Certificate {
    Certificate {
        signer,
        name: name.into(),
        subject: Subject {
            common_name: common_name.into(),
            organizations: organizations.iter().map(|o| (*o).to_owned()).collect(),
            client: true,
            ..Subject::default()
        },
    }
}

fn server(signer: Signer, name: &str, common_name: &str, ips: Vec<IpAddr>) -> Certificate {
    Certificate {
        signer,
        name: name.into(),
        subject: Subject {
            common_name: common_name.into(),
            ips,
            server: true,
            ..Subject::default()
        },
    }
}

fn storage(plan: &Plan, name: &str, path: &str) -> Certificate {
    let mut certificate = client(Signer::Storage, name, path, &[]);
    certificate.subject.uris = vec![format!("hikube://{}/{path}", plan.cluster)];
    certificate
}

/// Issues what is missing, what has lived two thirds of `lifetime`, and what says something else than it should.
/// Returns how many certificates were issued.
pub fn ensure(layout: &Layout, plan: &Plan, lifetime: Duration) -> Result<usize, Error> {
    let mut issued = 0;
    for signer in [Signer::Etcd, Signer::Cluster, Signer::Storage] {
        let title = format!("hikube {} {}", plan.cluster, signer.directory());
        let authority = Authority::open(&layout.pki().join(signer.directory()), &title)?;
        for wanted in certificates(plan).into_iter().filter(|c| c.signer == signer) {
            let files = authority.files(&wanted.name);
            // What the subject says is kept beside the certificate: a changed address issues a new one.
            let said = files.cert.with_extension("subject");
            let says = format!("{:?} {lifetime:?}", wanted.subject);
            let same = std::fs::read(&said).is_ok_and(|old| old == says.as_bytes());
            if same && !tls::expires_within(&files.cert, lifetime / 3) {
                continue;
            }
            let subject = Subject {
                validity: lifetime,
                ..wanted.subject
            };
            authority.issue_files(&wanted.name, &subject)?;
            write(&said, says.as_bytes())?;
            issued += 1;
        }
    }
    ensure_keys(
        layout,
        &Authority::open(&layout.pki().join(Signer::Cluster.directory()), "")?,
    )?;
    Ok(issued)
}

/// The keys that are not certificates. They are made once and never renewed: tokens and stored Secrets
/// depend on them.
fn ensure_keys(layout: &Layout, authority: &Authority) -> Result<(), Error> {
    let signing = service_account_key(layout);
    if !signing.exists() {
        // Only the key of this pair is used.
        let (_, key) = authority.issue(&Subject::default())?;
        write(&signing, key.as_bytes())?;
    }
    let encryption = encryption_key(layout);
    if !encryption.exists() {
        use base64::Engine;
        let mut bytes = [0u8; 32];
        random(&mut bytes)?;
        let text = base64::engine::general_purpose::STANDARD.encode(bytes);
        write(&encryption, text.as_bytes())?;
    }
    Ok(())
}

fn random(bytes: &mut [u8]) -> Result<(), Error> {
    use std::io::Read;
    let mut read = || std::fs::File::open("/dev/urandom")?.read_exact(bytes);
    read().map_err(|source| Error::File {
        action: "read",
        path: "/dev/urandom".into(),
        source,
    })
}

fn write(path: &std::path::Path, bytes: &[u8]) -> Result<(), Error> {
    files::replace(path, bytes).map_err(|source| Error::File {
        action: "write",
        path: path.into(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Machine, Placements};

    #[test]
    fn every_certificate_is_issued_once_and_renewed_in_time() {
        let root = tempfile::tempdir().expect("a directory");
        let layout = Layout::below(root.path(), "c").expect("a good name");
        let manifest = crate::manifest::parse(crate::manifest::DEFAULT).expect("valid");
        let machine = Machine {
            cpu_millis: 1000,
            memory_bytes: 1 << 30,
        };
        let plan = Plan::new("c", 0, manifest, machine, &mut Placements::new()).expect("it fits");
        let wanted = certificates(&plan).len();
        assert_eq!(ensure(&layout, &plan, LIFETIME).expect("issued"), wanted);
        let key = std::fs::read(service_account_key(&layout)).expect("made");
        assert!(key.starts_with(b"-----BEGIN PRIVATE KEY-----"));
        assert_eq!(ensure(&layout, &plan, LIFETIME).expect("nothing to do"), 0);
        // Another lifetime is another certificate.
        let short = Duration::from_secs(3);
        assert_eq!(ensure(&layout, &plan, short).expect("issued"), wanted);
        // Certificates count whole seconds, so one more than the two thirds must pass to be sure.
        std::thread::sleep(Duration::from_millis(3300));
        assert_eq!(ensure(&layout, &plan, short).expect("renewed"), wanted);
        assert_eq!(std::fs::read(service_account_key(&layout)).expect("kept"), key);
        let files = identity(&layout, Signer::Cluster, "admin");
        tls::client_config(&files, &[]).expect("the files make an identity");
    }
}
