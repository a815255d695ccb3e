//! Questions to the cluster's domain, over real sockets.

use super::{Server, Upstream, Zone, datagrams, sockets, streams};
use crate::watches::Watches;
use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

fn watches() -> Watches {
    let watches = Watches::new();
    let services = [
        json!({"metadata": {"name": "kubernetes", "namespace": "default"},
            "spec": {"clusterIP": "10.96.0.1", "ports": [{"name": "https", "port": 443, "protocol": "TCP"}]}}),
        json!({"metadata": {"name": "db", "namespace": "shop"},
            "spec": {"clusterIP": "None", "ports": [{"name": "pg", "port": 5432}]}}),
        json!({"metadata": {"name": "early", "namespace": "shop"},
            "spec": {"clusterIP": "None", "publishNotReadyAddresses": true}}),
        json!({"metadata": {"name": "out", "namespace": "shop"},
            "spec": {"type": "ExternalName", "externalName": "www.example.org"}}),
        json!({"metadata": {"name": "alias", "namespace": "shop"},
            "spec": {"type": "ExternalName", "externalName": "kubernetes.default.svc.cluster.local"}}),
    ];
    for service in services {
        watches.services.observe(serde_json::from_value(service).unwrap());
    }
    let slice = |service: &str, endpoints: Value| {
        json!({"metadata": {"name": format!("{service}-x"), "namespace": "shop",
                "labels": {"kubernetes.io/service-name": service}},
            "addressType": "IPv4", "ports": [{"name": "pg", "port": 5432, "protocol": "TCP"}], "endpoints": endpoints})
    };
    let unready = json!({"ready": false});
    for slice in [
        slice(
            "db",
            json!([
                {"addresses": ["10.128.1.5"], "hostname": "db-0", "conditions": {"ready": true}},
                {"addresses": ["10.128.2.5"], "hostname": "db-1", "conditions": unready},
                {"addresses": ["10.128.3.5"], "conditions": {"ready": true}},
            ]),
        ),
        slice(
            "early",
            json!([{"addresses": ["10.128.1.6"], "conditions": unready}]),
        ),
    ] {
        watches.slices.observe(serde_json::from_value(slice).unwrap());
    }
    watches
}

async fn serve(upstream: &str) -> SocketAddr {
    let (udp, tcp) = sockets("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = udp.local_addr().unwrap();
    let subnets = ["10.128.0.0/16".parse().unwrap(), "10.96.0.0/16".parse().unwrap()];
    let file = tempfile::NamedTempFile::new().unwrap();
    let mut port = 1;
    if let Some((ip, at)) = upstream.split_once(':') {
        port = at.parse().unwrap();
        std::fs::write(file.path(), format!("nameserver {ip}\n")).unwrap();
    }
    let (_, path) = file.keep().unwrap();
    let server = Arc::new(Server {
        zone: Zone::new("cluster.local", subnets, 1).unwrap(),
        watches: Arc::new(watches()),
        upstream: Upstream::new(path, port, "10.96.0.10".parse().unwrap()),
    });
    tokio::spawn(datagrams(server.clone(), udp));
    tokio::spawn(streams(server, tcp));
    address
}

fn question(name: &str, kind: RecordType) -> Vec<u8> {
    let mut message = Message::new();
    message.set_id(4711).set_recursion_desired(true);
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message.to_vec().unwrap()
}

async fn ask(server: SocketAddr, name: &str, kind: RecordType) -> Message {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.send_to(&question(name, kind), server).await.unwrap();
    let mut buffer = [0; 2000];
    let wait = tokio::time::timeout(std::time::Duration::from_secs(5), socket.recv(&mut buffer));
    let length = wait.await.unwrap().unwrap();
    let reply = Message::from_vec(&buffer[..length]).unwrap();
    assert_eq!(reply.id(), 4711);
    reply
}

/// The answers as text, sorted; a negative one as its code.
fn text(reply: &Message) -> String {
    let mut answers: Vec<String> = reply.answers().iter().map(|r| r.data().to_string()).collect();
    answers.sort();
    match (reply.response_code(), answers.is_empty()) {
        (ResponseCode::NoError, false) => answers.join(" "),
        (ResponseCode::NoError, true) => "no data".into(),
        (ResponseCode::NXDomain, _) => "no name".into(),
        (code, _) => code.to_string(),
    }
}

#[tokio::test]
async fn the_domain_answers_as_specified() {
    let server = serve("").await;
    let cases = [
        (
            "kubernetes.default.svc.cluster.local.",
            RecordType::A,
            "10.96.0.1",
        ),
        (
            "KUBERNETES.Default.svc.cluster.local.",
            RecordType::A,
            "10.96.0.1",
        ),
        (
            "kubernetes.default.svc.cluster.local.",
            RecordType::AAAA,
            "no data",
        ),
        ("kubernetes.shop.svc.cluster.local.", RecordType::A, "no name"),
        (
            "kubernetes.default.svc.cluster.local.default.svc.cluster.local.",
            RecordType::A,
            "no name",
        ),
        (
            "_https._tcp.kubernetes.default.svc.cluster.local.",
            RecordType::SRV,
            "0 100 443 kubernetes.default.svc.cluster.local.",
        ),
        (
            "_http._tcp.kubernetes.default.svc.cluster.local.",
            RecordType::SRV,
            "no name",
        ),
        (
            "_tcp.kubernetes.default.svc.cluster.local.",
            RecordType::A,
            "no data",
        ),
        (
            "db.shop.svc.cluster.local.",
            RecordType::A,
            "10.128.1.5 10.128.3.5",
        ),
        ("db-0.db.shop.svc.cluster.local.", RecordType::A, "10.128.1.5"),
        ("db-0.db.shop.svc.cluster.local.", RecordType::AAAA, "no data"),
        ("db-1.db.shop.svc.cluster.local.", RecordType::A, "no name"),
        (
            "10-128-3-5.db.shop.svc.cluster.local.",
            RecordType::A,
            "10.128.3.5",
        ),
        (
            "_pg._tcp.db.shop.svc.cluster.local.",
            RecordType::SRV,
            "0 100 5432 10-128-3-5.db.shop.svc.cluster.local. 0 100 5432 db-0.db.shop.svc.cluster.local.",
        ),
        ("early.shop.svc.cluster.local.", RecordType::A, "10.128.1.6"),
        ("shop.svc.cluster.local.", RecordType::A, "no data"),
        ("nowhere.svc.cluster.local.", RecordType::A, "no name"),
        ("cluster.local.", RecordType::A, "no data"),
        ("dns-version.cluster.local.", RecordType::TXT, "1.1.0"),
        ("10-128-9-9.shop.pod.cluster.local.", RecordType::A, "10.128.9.9"),
        (
            "out.shop.svc.cluster.local.",
            RecordType::CNAME,
            "www.example.org.",
        ),
        ("out.shop.svc.cluster.local.", RecordType::A, "www.example.org."),
        (
            "alias.shop.svc.cluster.local.",
            RecordType::A,
            "10.96.0.1 kubernetes.default.svc.cluster.local.",
        ),
        (
            "1.0.96.10.in-addr.arpa.",
            RecordType::PTR,
            "kubernetes.default.svc.cluster.local.",
        ),
        (
            "5.1.128.10.in-addr.arpa.",
            RecordType::PTR,
            "db-0.db.shop.svc.cluster.local.",
        ),
        ("9.9.128.10.in-addr.arpa.", RecordType::PTR, "no name"),
        // Nobody to ask about the rest of the world.
        ("www.example.org.", RecordType::A, "no name"),
        ("9.9.9.9.in-addr.arpa.", RecordType::PTR, "no name"),
    ];
    for (name, kind, expected) in cases {
        assert_eq!(text(&ask(server, name, kind).await), expected, "{name} {kind}");
    }
}

#[tokio::test]
async fn negative_answers_carry_the_authority() {
    let server = serve("").await;
    for name in ["x.default.svc.cluster.local.", "cluster.local."] {
        let reply = ask(server, name, RecordType::AAAA).await;
        assert!(reply.authoritative() && reply.recursion_available());
        assert_eq!(reply.name_servers()[0].record_type(), RecordType::SOA);
        assert_eq!(reply.name_servers()[0].name().to_ascii(), "cluster.local.");
    }
}

#[tokio::test]
async fn other_names_are_asked_of_the_resolvers_and_streams_work() {
    // One of our servers is the other's resolver.
    let inner = serve("").await;
    let outer = serve(&inner.to_string()).await;
    let reply = ask(outer, "out.shop.svc.cluster.local.", RecordType::A).await;
    assert_eq!(text(&reply), "no name", "the resolver's answer about the target");
    let mut stream = TcpStream::connect(outer).await.unwrap();
    for _ in 0..2 {
        let query = question("9.9.9.9.in-addr.arpa.", RecordType::PTR);
        stream
            .write_u16(u16::try_from(query.len()).unwrap())
            .await
            .unwrap();
        stream.write_all(&query).await.unwrap();
        let mut answer = vec![0; stream.read_u16().await.unwrap().into()];
        stream.read_exact(&mut answer).await.unwrap();
        let reply = Message::from_vec(&answer).unwrap();
        assert_eq!(
            (reply.id(), reply.response_code()),
            (4711, ResponseCode::NXDomain)
        );
    }
    let silent = serve("127.0.0.1:9").await;
    assert_eq!(
        ask(silent, "www.example.org.", RecordType::A)
            .await
            .response_code(),
        ResponseCode::ServFail
    );
}

#[tokio::test]
async fn long_answers_are_cut_for_datagrams() {
    let server = Server {
        zone: Zone::new("cluster.local", ["10.128.0.0/16".parse().unwrap(); 2], 1).unwrap(),
        watches: Arc::new(watches()),
        upstream: Upstream::new("/nonexistent".into(), 1, "10.96.0.10".parse().unwrap()),
    };
    let endpoints: Vec<Value> = (0..100)
        .map(|i| json!({"addresses": [format!("10.128.9.{i}")]}))
        .collect();
    let slice = json!({"metadata": {"name": "db-big", "namespace": "shop",
            "labels": {"kubernetes.io/service-name": "db"}},
        "addressType": "IPv4", "endpoints": endpoints});
    server
        .watches
        .slices
        .observe(serde_json::from_value(slice).unwrap());
    let query = question("db.shop.svc.cluster.local.", RecordType::A);
    let super::Answer::Ready(short) = server.local(&query, Some(super::ANSWER)) else {
        panic!()
    };
    assert!(short.len() <= 512);
    let short = Message::from_vec(&short).unwrap();
    assert!(short.truncated());
    assert_eq!(short.id(), 4711);
    let super::Answer::Ready(long) = server.local(&query, None) else {
        panic!()
    };
    assert_eq!(Message::from_vec(&long).unwrap().answers().len(), 102);
}

proptest::proptest! {
    #[test]
    fn no_datagram_is_too_odd(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..100)) {
        let server = Server {
            zone: Zone::new("cluster.local", ["10.128.0.0/16".parse().unwrap(); 2], 1).unwrap(),
            watches: Arc::new(Watches::new()),
            upstream: Upstream::new("/nonexistent".into(), 1, "10.96.0.10".parse().unwrap()),
        };
        let _ = server.local(&bytes, Some(super::ANSWER));
    }
}
