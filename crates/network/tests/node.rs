//! A whole node: `network::run` in a network namespace, against a real API server outside of it. A pod's view:
//! Services and DNS, their changes, and an outage of the API.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use hikube_network as network;
use serde_json::{Value, json};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

const NODE: &str = "hkn-knode";
const POD: &str = "hkn-kpod";
const HOST_IP: &str = "192.168.79.1";
const NODE_IP: &str = "192.168.79.2";
/// Changes take effect in well under this.
const PATIENCE: Duration = Duration::from_secs(30);

fn must(command: &str) {
    assert!(run(command), "{command}");
}

fn run(command: &str) -> bool {
    let mut words = command.split_whitespace();
    let tool = words.next().unwrap();
    Command::new(tool).args(words).output().unwrap().status.success()
}

/// Runs a closure on a thread of the namespace.
fn spawn<T: Send + 'static>(
    namespace: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> std::thread::JoinHandle<T> {
    let file = std::fs::File::open(format!("/run/netns/{namespace}")).unwrap();
    std::thread::spawn(move || {
        let kind = Some(rustix::thread::LinkNameSpaceType::Network);
        rustix::thread::move_into_link_name_space(file.as_fd(), kind).unwrap();
        work()
    })
}

fn inside<T: Send + 'static>(namespace: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
    spawn(namespace, work).join().unwrap()
}

struct Machine {
    runtime: tokio::runtime::Runtime,
    /// etcd and the API server, outside of the node.
    cluster: Option<testkit::Cluster>,
    dir: tempfile::TempDir,
    api: SocketAddr,
    /// Where no API server listens.
    nowhere: SocketAddr,
}

impl Machine {
    fn new() -> Self {
        clear();
        for name in [NODE, POD] {
            must(&format!("ip netns add {name}"));
            must(&format!("ip -n {name} link set lo up"));
        }
        must(&format!(
            "ip link add hkn-host type veth peer name eth0 netns {NODE}"
        ));
        must(&format!("ip address add {HOST_IP}/24 dev hkn-host"));
        must("ip link set hkn-host up");
        must(&format!("ip -n {NODE} address add {NODE_IP}/24 dev eth0"));
        must(&format!("ip -n {NODE} link set eth0 up"));
        must(&format!("ip -n {NODE} route add default via {HOST_IP}"));
        must(&format!(
            "ip -n {NODE} link add vpod type veth peer name eth0 netns {POD}"
        ));
        must(&format!("ip -n {NODE} address add 10.128.1.1/32 dev vpod"));
        must(&format!("ip -n {NODE} link set vpod up"));
        must(&format!("ip -n {NODE} route add 10.128.1.2/32 dev vpod"));
        must(&format!("ip -n {POD} address add 10.128.1.2/32 dev eth0"));
        must(&format!("ip -n {POD} link set eth0 up"));
        must(&format!("ip -n {POD} route add 10.128.1.1/32 dev eth0"));
        must(&format!("ip -n {POD} route add default via 10.128.1.1"));
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let host: std::net::IpAddr = HOST_IP.parse().unwrap();
        let dir = tempfile::Builder::new().prefix("hkn-node-").tempdir().unwrap();
        let options = testkit::Options {
            dir: Some(dir.path().into()),
            listen: [0, 0, 0, 0].into(),
            advertise: host,
            addresses: vec![host],
            ..testkit::Options::default()
        };
        let cluster = runtime.block_on(testkit::Cluster::start_with(options)).unwrap();
        Self {
            runtime,
            dir,
            api: cluster.address,
            nowhere: SocketAddr::new(host, testkit::free_port().unwrap()),
            cluster: Some(cluster),
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The end of the API, with its etcd.
    fn kill_api(&mut self) {
        let _inside = self.runtime.enter();
        self.cluster = None;
    }

    /// The proxy on a thread of the node's namespace, as `hikube proxy` runs it.
    fn proxy(&self) -> (CancellationToken, std::thread::JoinHandle<()>) {
        // Clients on the node go through the forwarder.
        let kubeconfig = self.file("node-proxy.kubeconfig");
        let text = std::fs::read_to_string(self.file("proxy.kubeconfig")).unwrap();
        let at = text.find("https://").unwrap();
        let end = at + text[at..].find(['"', '\n']).unwrap();
        std::fs::write(
            &kubeconfig,
            text.replace(&text[at..end], "https://127.0.0.1:6443"),
        )
        .unwrap();
        let config = network::Config {
            kubeconfig,
            node_name: "n1".into(),
            node_ip: NODE_IP.parse().unwrap(),
            cluster_cidr: "10.128.0.0/16".into(),
            service_cidr: "10.96.0.0/16".into(),
            cluster_dns: "10.96.0.10".parse().unwrap(),
            cluster_domain: "cluster.local".into(),
            forward: network::ForwardConfig {
                api_listen: "127.0.0.1:6443".parse().unwrap(),
                api_backends: vec![self.nowhere, self.api],
                api_ca: self.file("pki/cluster/ca.crt"),
            },
        };
        let shutdown = CancellationToken::new();
        let token = shutdown.clone();
        let thread = spawn(NODE, move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(network::run(config, token)).unwrap();
        });
        (shutdown, thread)
    }

    fn kubectl(&self, args: &[&str], input: &Value) {
        let mut kubectl = Command::new("kubectl")
            .args(["--kubeconfig", self.file("admin.kubeconfig").to_str().unwrap()])
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        kubectl
            .stdin
            .take()
            .unwrap()
            .write_all(input.to_string().as_bytes())
            .unwrap();
        assert!(kubectl.wait().unwrap().success(), "{args:?} {input}");
    }
}

fn clear() {
    for name in [NODE, POD] {
        run(&format!("ip netns delete {name}"));
    }
    run("ip link delete hkn-host");
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.kill_api();
        clear();
    }
}

fn connect(address: &str) -> Result<String, ErrorKind> {
    let address: SocketAddr = address.parse().unwrap();
    inside(POD, move || {
        let mut stream =
            TcpStream::connect_timeout(&address, Duration::from_secs(1)).map_err(|e| e.kind())?;
        let mut text = String::new();
        stream.read_to_string(&mut text).map_err(|e| e.kind())?;
        Ok(text)
    })
}

/// Asks cluster DNS from the pod; first answer, or the code.
fn resolve(name: &str) -> Result<String, ResponseCode> {
    let mut message = Message::new();
    message
        .set_id(7)
        .add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
    let query = message.to_vec().unwrap();
    let bytes = inside(POD, move || {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        socket.connect("10.96.0.10:53").unwrap();
        let mut buffer = vec![0; 1500];
        let sent = socket.send(&query).and_then(|_| socket.recv(&mut buffer));
        sent.map(|length| buffer[..length].to_vec()).unwrap_or_default()
    });
    let reply = Message::from_vec(&bytes).map_err(|_| ResponseCode::ServFail)?;
    let first = reply.answers().first().map(|a| a.data().to_string());
    first.ok_or(reply.response_code())
}

fn eventually(what: &str, check: impl Fn() -> bool) -> Duration {
    let start = Instant::now();
    while !check() {
        assert!(start.elapsed() < PATIENCE, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
    start.elapsed()
}

fn slice(addresses: &[&str], port: u16) -> Value {
    let endpoints: Vec<Value> = addresses
        .iter()
        .map(|a| json!({"addresses": [a], "nodeName": "n1"}))
        .collect();
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": "web-1", "namespace": "default", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4", "ports": [{"name": "http", "port": port, "protocol": "TCP"}], "endpoints": endpoints})
}

/// Private memory of this process in KiB, and the CPU time that it has used.
fn usage() -> (u64, Duration) {
    let rollup = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap();
    let sum = |key: &str| {
        let lines = rollup.lines().filter(|l| l.starts_with(key));
        lines
            .filter_map(|l| l.split_whitespace().nth(1)?.parse::<u64>().ok())
            .sum::<u64>()
    };
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    (sum("Private_"), Duration::from_millis(ticks * 10))
}

#[test]
fn a_node_serves_services_and_names_and_outlives_the_api() {
    let mut machine = Machine::new();
    let (shutdown, thread) = machine.proxy();
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "default"},
        "spec": {"clusterIP": "10.96.7.7", "ports": [{"name": "http", "port": 80, "targetPort": 8080}]}});
    machine.kubectl(&["create", "-f", "-"], &service);
    let web = "web.default.svc.cluster.local.";
    eventually("the name is known", || resolve(web) == Ok("10.96.7.7".into()));
    eventually("no endpoints: refused", || {
        connect("10.96.7.7:80") == Err(ErrorKind::ConnectionRefused)
    });

    let listener = inside(NODE, || TcpListener::bind("0.0.0.0:8080").unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let _ = stream.unwrap().write_all(b"hello");
        }
    });
    machine.kubectl(&["create", "-f", "-"], &slice(&[NODE_IP], 8080));
    let took = eventually("an endpoint came", || {
        connect("10.96.7.7:80") == Ok("hello".into())
    });
    println!("endpoint served after {took:?}");
    let tcp = inside(POD, || TcpStream::connect("10.96.0.10:53").is_ok());
    assert!(tcp, "DNS over TCP");
    assert_eq!(
        resolve("kubernetes.default.svc.cluster.local."),
        Ok("10.96.0.1".into())
    );
    assert_eq!(
        resolve("nothing.default.svc.cluster.local."),
        Err(ResponseCode::NXDomain)
    );

    let before = usage();
    std::thread::sleep(Duration::from_secs(3));
    let after = usage();
    println!(
        "idle: {} KiB private, {:?} of CPU in 3 s",
        after.0,
        after.1 - before.1
    );

    // Without the API everything goes on.
    machine.kill_api();
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(connect("10.96.7.7:80"), Ok("hello".into()));
    assert_eq!(resolve(web), Ok("10.96.7.7".into()));
    // Without the proxy the rules stay.
    shutdown.cancel();
    thread.join().unwrap();
    assert_eq!(connect("10.96.7.7:80"), Ok("hello".into()));
}
