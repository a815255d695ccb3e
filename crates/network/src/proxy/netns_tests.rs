//! The rules in real network namespaces: a node, two pods on it, a pod elsewhere and a client outside. Needs root
//! and nft.

use super::model::{Protocol, ServicePort};
use super::rules::{Place, ruleset};
use super::{Ruleset, apply};
use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::time::Duration;

const NODE: &str = "hkn-node";
const POD1: &str = "hkn-p1";
const POD2: &str = "hkn-p2";
const FAR: &str = "hkn-far";
const OUT: &str = "hkn-out";
const ALL: [&str; 5] = [NODE, POD1, POD2, FAR, OUT];
const NODE_IP: &str = "192.168.77.1";

fn run(command: &str) -> bool {
    let mut words = command.split_whitespace();
    let tool = words.next().unwrap();
    Command::new(tool).args(words).output().unwrap().status.success()
}

fn must(command: &str) {
    assert!(run(command), "{command}");
}

/// Runs a closure on a thread of the namespace; its sockets stay there.
fn inside<T: Send + 'static>(namespace: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
    use std::os::fd::AsFd;
    let file = std::fs::File::open(format!("/run/netns/{namespace}")).unwrap();
    let thread = std::thread::spawn(move || {
        let kind = Some(rustix::thread::LinkNameSpaceType::Network);
        rustix::thread::move_into_link_name_space(file.as_fd(), kind).unwrap();
        work()
    });
    thread.join().unwrap()
}

/// The namespaces, as the CNI plugin `ptp` and `platform` would set them up.
struct Network;

impl Network {
    fn new() -> Self {
        let network = Self;
        network.clear();
        for name in ALL {
            must(&format!("ip netns add {name}"));
            must(&format!("ip -n {name} link set lo up"));
        }
        for (name, ip) in [(POD1, "10.128.1.2"), (POD2, "10.128.1.3")] {
            must(&format!(
                "ip -n {NODE} link add v{name} type veth peer name eth0 netns {name}"
            ));
            must(&format!("ip -n {NODE} address add 10.128.1.1/32 dev v{name}"));
            must(&format!("ip -n {NODE} link set v{name} up"));
            must(&format!("ip -n {NODE} route add {ip}/32 dev v{name}"));
            must(&format!("ip -n {name} address add {ip}/32 dev eth0"));
            must(&format!("ip -n {name} link set eth0 up"));
            must(&format!("ip -n {name} route add 10.128.1.1/32 dev eth0"));
            must(&format!("ip -n {name} route add default via 10.128.1.1"));
        }
        for (name, subnet, ip) in [
            (FAR, "192.168.78", "10.128.2.2"),
            (OUT, "192.168.77", "192.168.77.2"),
        ] {
            must(&format!(
                "ip -n {NODE} link add v{name} type veth peer name eth0 netns {name}"
            ));
            must(&format!("ip -n {NODE} address add {subnet}.1/24 dev v{name}"));
            must(&format!("ip -n {NODE} link set v{name} up"));
            must(&format!("ip -n {name} address add {subnet}.2/24 dev eth0"));
            must(&format!("ip -n {name} link set eth0 up"));
            must(&format!("ip -n {name} route add default via {subnet}.1"));
            if name == FAR {
                must(&format!("ip -n {NODE} route add 10.128.2.0/24 via {subnet}.2"));
                must(&format!("ip -n {name} address add {ip}/32 dev lo"));
            }
        }
        // Traffic of the node itself is routed before it is translated, so that there must be a route.
        must(&format!("ip -n {NODE} route add default via 192.168.77.2"));
        for (name, ip) in [
            (POD1, "10.128.1.2"),
            (POD2, "10.128.1.3"),
            (FAR, "10.128.2.2"),
            (OUT, "192.168.77.2"),
        ] {
            serve(name, ip);
        }
        network
    }

    fn clear(&self) {
        for name in ALL {
            run(&format!("ip netns delete {name}"));
        }
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.clear();
    }
}

/// Answers every connection with the server's name and the client's address.
fn serve(name: &'static str, ip: &str) {
    let address = format!("{ip}:8080");
    let (tcp, udp) = inside(name, move || {
        (
            TcpListener::bind(&address).unwrap(),
            UdpSocket::bind(&address).unwrap(),
        )
    });
    std::thread::spawn(move || {
        for stream in tcp.incoming() {
            let mut stream = stream.unwrap();
            let peer = stream.peer_addr().unwrap().ip();
            let _ = stream.write_all(format!("{name} {peer}").as_bytes());
        }
    });
    std::thread::spawn(move || {
        let mut buffer = [0; 10];
        while let Ok((_, peer)) = udp.recv_from(&mut buffer) {
            let _ = udp.send_to(format!("{name} {}", peer.ip()).as_bytes(), peer);
        }
    });
}

/// Connects from a namespace: (server, address that it saw).
fn connect(from: &str, to: &str) -> Result<(String, String), ErrorKind> {
    let to = to.parse().unwrap();
    inside(from, move || {
        let mut stream = TcpStream::connect_timeout(&to, Duration::from_millis(700)).map_err(|e| e.kind())?;
        let mut text = String::new();
        stream.read_to_string(&mut text).map_err(|e| e.kind())?;
        let (name, peer) = text.split_once(' ').unwrap();
        Ok((name.to_owned(), peer.to_owned()))
    })
}

fn reached(from: &str, to: &str) -> BTreeSet<String> {
    (0..20).map(|_| connect(from, to).unwrap().0).collect()
}

fn port(name: &str, ip: &str, endpoints: &[&str]) -> ServicePort {
    let endpoints: BTreeSet<SocketAddrV4> = endpoints.iter().map(|e| e.parse().unwrap()).collect();
    let local = endpoints
        .iter()
        .filter(|e| e.ip().octets()[2] == 1)
        .copied()
        .collect();
    ServicePort {
        id: format!("test/{name}/tcp/http"),
        protocol: Protocol::Tcp,
        port: 80,
        cluster_ip: ip.parse().unwrap(),
        node_port: None,
        external_ips: BTreeSet::new(),
        balancer_ips: BTreeSet::new(),
        source_ranges: BTreeSet::new(),
        affinity: None,
        internal_local: false,
        external_local: false,
        endpoints,
        local,
    }
}

fn place() -> Place {
    Place {
        node_ip: NODE_IP.parse().unwrap(),
        cluster_cidr: "10.128.0.0/16".into(),
        service_cidr: "10.96.0.0/16".into(),
        cluster_dns: "10.96.0.10".parse().unwrap(),
    }
}

const P1: &str = "10.128.1.2:8080";
const P2: &str = "10.128.1.3:8080";
const F: &str = "10.128.2.2:8080";

fn services() -> Vec<ServicePort> {
    let mut ports = vec![
        port("both", "10.96.1.1", &[P2, F]),
        port("self", "10.96.1.2", &[P1]),
        port("none", "10.96.1.3", &[]),
        port("sticky", "10.96.1.4", &[P1, P2, F]),
        port("outer", "10.96.1.5", &[P2, F]),
        port("near", "10.96.1.6", &[P2, F]),
        port("nothere", "10.96.1.7", &[F]),
        port("udp", "10.96.1.8", &[P2]),
        port("inner", "10.96.1.9", &[P2, F]),
    ];
    ports[3].affinity = Some(600);
    ports[4].node_port = Some(30005);
    ports[4].external_ips = BTreeSet::from([Ipv4Addr::new(203, 0, 113, 5)]);
    ports[5].node_port = Some(30006);
    ports[5].external_local = true;
    ports[5].balancer_ips = BTreeSet::from([Ipv4Addr::new(203, 0, 113, 6)]);
    ports[5].source_ranges = BTreeSet::from(["198.51.100.0/24".to_owned()]);
    ports[6].node_port = Some(30007);
    ports[6].external_local = true;
    ports[7].protocol = Protocol::Udp;
    ports[7].id = "test/udp/udp/dns".into();
    ports[8].internal_local = true;
    ports[2].node_port = Some(30003);
    ports
}

fn write(text: String) {
    inside(NODE, move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(apply::rules(&text)).unwrap();
    });
}

fn listed() -> String {
    let output = Command::new("nsenter")
        .args([
            &format!("--net=/run/netns/{NODE}"),
            "nft",
            "list",
            "table",
            "ip",
            "hikube",
        ])
        .output()
        .unwrap();
    // In the order of creation, which differs.
    let text = String::from_utf8(output.stdout).unwrap();
    let mut blocks: Vec<&str> = text
        .trim()
        .trim_end_matches('}')
        .split("\n\n")
        .map(str::trim)
        .collect();
    blocks.sort_unstable();
    blocks.join("\n\n")
}

#[test]
fn services_work_in_real_namespaces() {
    let _network = Network::new();
    inside(NODE, || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime
            .block_on(apply::prepare("10.96.0.10".parse().unwrap()))
            .unwrap();
        runtime
            .block_on(apply::prepare("10.96.0.10".parse().unwrap()))
            .unwrap();
    });
    let table = ruleset(&services(), &place());
    write(table.text());
    cluster_addresses();
    outside();
    refusals();
    affinity(&table);
    dns();
    stray_segments();
    // A table that was changed bit by bit is the same as one that was written at once.
    let fewer: Vec<ServicePort> = services().into_iter().step_by(2).collect();
    let half = ruleset(&fewer, &place());
    write(table.changes_to(&half));
    let changed = listed();
    write(half.text());
    assert_eq!(changed, listed());
    assert_eq!(
        connect(POD1, "10.96.1.6:80"),
        Err(ErrorKind::ConnectionRefused),
        "it is gone"
    );
    write(half.changes_to(&Ruleset::default()));
}

fn cluster_addresses() {
    let both = BTreeSet::from([POD2.to_owned(), FAR.to_owned()]);
    assert_eq!(reached(POD1, "10.96.1.1:80"), both);
    assert_eq!(reached(NODE, "10.96.1.1:80"), both);
    // A pod keeps its address, on the same node too.
    assert_eq!(
        connect(POD1, "10.96.1.8:80"),
        Err(ErrorKind::ConnectionRefused),
        "another protocol"
    );
    assert_eq!(
        connect(POD1, "10.96.1.9:80").unwrap(),
        (POD2.into(), "10.128.1.2".into())
    );
    assert_eq!(
        reached(POD1, "10.96.1.9:80"),
        BTreeSet::from([POD2.to_owned()]),
        "traffic from within stays"
    );
    // Through itself, under the node's address.
    assert_eq!(
        connect(POD1, "10.96.1.2:80").unwrap(),
        (POD1.into(), "10.128.1.1".into())
    );
    // A client outside that is routed here reaches cluster addresses, under the node's address.
    let (_, seen) = connect(OUT, "10.96.1.1:80").unwrap();
    assert!(["10.128.1.1", "192.168.78.1"].contains(&seen.as_str()), "{seen}");
    let udp = inside(POD1, || {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        socket.send_to(b"x", "10.96.1.8:80").unwrap();
        let mut buffer = [0; 100];
        let (length, from) = socket.recv_from(&mut buffer).unwrap();
        (
            String::from_utf8_lossy(&buffer[..length]).into_owned(),
            from.to_string(),
        )
    });
    assert_eq!(udp, (format!("{POD2} 10.128.1.2"), "10.96.1.8:80".into()));
}

fn outside() {
    let both = BTreeSet::from([POD2.to_owned(), FAR.to_owned()]);
    assert_eq!(reached(OUT, "192.168.77.1:30005"), both);
    assert_eq!(reached(OUT, "203.0.113.5:80"), both);
    assert_eq!(reached(NODE, "192.168.77.1:30005"), both);
    assert_eq!(reached(POD1, "192.168.77.1:30005"), both);
    // Local: only here, and the client's address is seen; from within everywhere.
    assert_eq!(
        connect(OUT, "192.168.77.1:30006").unwrap(),
        (POD2.into(), "192.168.77.2".into())
    );
    assert_eq!(reached(OUT, "192.168.77.1:30006").len(), 1);
    assert_eq!(reached(POD1, "192.168.77.1:30006"), both);
    assert_eq!(reached(NODE, "192.168.77.1:30006"), both);
    assert_eq!(
        connect(OUT, "203.0.113.6:80"),
        Err(ErrorKind::TimedOut),
        "not in the source ranges"
    );
    assert_eq!(
        connect(OUT, "192.168.77.1:30007"),
        Err(ErrorKind::TimedOut),
        "no endpoint here"
    );
    assert_eq!(connect(POD1, "192.168.77.1:30007").unwrap().0, FAR);
    // What leaves the cluster leaves under the node's address; what stays in it does not.
    assert_eq!(connect(POD1, "192.168.77.2:8080").unwrap().1, NODE_IP);
    assert_eq!(connect(POD1, F).unwrap().1, "10.128.1.2");
}

fn refusals() {
    for from in [POD1, NODE, OUT] {
        assert_eq!(
            connect(from, "10.96.1.3:80"),
            Err(ErrorKind::ConnectionRefused),
            "no endpoints, from {from}"
        );
        assert_eq!(
            connect(from, "10.96.1.1:81"),
            Err(ErrorKind::ConnectionRefused),
            "no such port, from {from}"
        );
        assert_eq!(
            connect(from, "10.96.9.9:80"),
            Err(ErrorKind::ConnectionRefused),
            "no such Service"
        );
        assert_eq!(
            connect(from, "192.168.77.1:30003"),
            Err(ErrorKind::ConnectionRefused)
        );
    }
}

fn affinity(table: &Ruleset) {
    let first = reached(POD2, "10.96.1.4:80");
    assert_eq!(first.len(), 1);
    // Changes elsewhere, and another endpoint, do not move the client.
    let mut ports = services();
    ports.remove(0);
    ports[2].endpoints.insert("10.128.2.9:8080".parse().unwrap());
    let next = ruleset(&ports, &place());
    write(table.changes_to(&next));
    assert_eq!(reached(POD2, "10.96.1.4:80"), first);
    write(next.changes_to(table));
    assert_eq!(reached(POD2, "10.96.1.4:80"), first);
}

fn dns() {
    // The address is the node's own; it is refused to who is not of the cluster.
    let listener = inside(NODE, || TcpListener::bind("10.96.0.10:53").unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let peer = stream.peer_addr().unwrap().ip();
            let _ = { stream }.write_all(format!("dns {peer}").as_bytes());
        }
    });
    assert_eq!(connect(POD1, "10.96.0.10:53").unwrap().1, "10.128.1.2");
    assert_eq!(connect(NODE, "10.96.0.10:53").unwrap().0, "dns");
    assert_eq!(connect(OUT, "10.96.0.10:53"), Err(ErrorKind::TimedOut));
}

/// A TCP segment without content, from the first pod's address.
fn segment(source_port: u16, flags: u8) -> Vec<u8> {
    let mut segment = vec![0; 20];
    segment[0..2].copy_from_slice(&source_port.to_be_bytes());
    segment[2..4].copy_from_slice(&8080_u16.to_be_bytes());
    segment[4..8].copy_from_slice(&1_000_u32.to_be_bytes());
    segment[12] = 5 << 4;
    segment[13] = flags;
    segment[14..16].copy_from_slice(&1_024_u16.to_be_bytes());
    // The checksum covers addresses, protocol and length, too.
    let mut covered = vec![10, 128, 1, 2, 10, 128, 2, 2, 0, 6, 0, 20];
    covered.extend_from_slice(&segment);
    let sum: u32 = covered
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
        .sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = u16::try_from((folded & 0xffff) + (folded >> 16)).unwrap();
    segment[16..18].copy_from_slice(&(!folded).to_be_bytes());
    segment
}

/// What belongs to no connection does not pass the node.
fn stray_segments() {
    use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, ipproto};
    const SYN: u8 = 2;
    const RST: u8 = 4;
    let raw = || {
        let kind = (AddressFamily::INET, SocketType::RAW, SocketFlags::CLOEXEC);
        rustix::net::socket_with(kind.0, kind.1, kind.2, Some(ipproto::TCP)).unwrap()
    };
    let ear = inside(FAR, raw);
    let mouth = inside(POD1, raw);
    let far: SocketAddrV4 = "10.128.2.2:0".parse().unwrap();
    for (port, flags) in [(4242, RST), (4243, SYN)] {
        rustix::net::sendto(&mouth, &segment(port, flags), SendFlags::empty(), &far).unwrap();
    }
    let limit = Some(Duration::from_secs(2));
    rustix::net::sockopt::set_socket_timeout(&ear, rustix::net::sockopt::Timeout::Recv, limit).unwrap();
    let mut buffer = [0; 100];
    loop {
        let (length, _) = rustix::net::recv(&ear, &mut buffer, RecvFlags::empty()).unwrap();
        let header = usize::from(buffer[0] & 15) * 4;
        assert!(length >= header + 20);
        match u16::from_be_bytes([buffer[header], buffer[header + 1]]) {
            4242 => panic!("a reset that belongs to no connection has passed"),
            4243 => break,
            _ => {}
        }
    }
}

#[test]
fn the_table_is_as_reviewed() {
    insta::assert_snapshot!(ruleset(&services(), &place()).text());
}
