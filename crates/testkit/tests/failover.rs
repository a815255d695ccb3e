//! The loss of an etcd member, and of an API server, while somebody writes.
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout)]

mod common;

use common::{api, namespace};
use hikube_testkit::{Cluster, Options};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

#[tokio::test(flavor = "multi_thread")]
async fn no_acknowledged_write_is_lost() {
    let options = Options {
        etcd_members: 3,
        ..Options::default()
    };
    let mut cluster = Cluster::start_with(options).await.unwrap();
    namespace(&cluster, "t").await;
    let maps = "/api/v1/namespaces/t/configmaps";
    let (mut acknowledged, mut refused, mut longest) = (Vec::new(), 0, Duration::ZERO);
    let started = Instant::now();
    let mut last = Instant::now();
    let mut plan = vec![
        (1, 0, true),
        (4, 0, false),
        (7, 1, true),
        (10, 1, false),
        (13, 2, true),
        (16, 2, false),
    ];
    plan.reverse();
    let mut number = 0;
    while started.elapsed() < Duration::from_secs(19) {
        if let Some((at, member, kill)) = plan.last().copied()
            && started.elapsed() >= Duration::from_secs(at)
        {
            plan.pop();
            if kill {
                cluster.etcd.kill(member).unwrap();
            } else {
                cluster.etcd.restart(member).unwrap();
            }
        }
        number += 1;
        let name = format!("m{number:05}");
        let (code, _) = api(&cluster, "POST", maps, json!({"metadata": {"name": name}})).await;
        if code == 201 {
            longest = longest.max(last.elapsed());
            last = Instant::now();
            acknowledged.push(name);
        } else {
            refused += 1;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    println!(
        "{} writes acknowledged, {refused} refused, longest pause {longest:?}",
        acknowledged.len()
    );
    let (code, list) = api(&cluster, "GET", maps, Value::Null).await;
    assert_eq!(code, 200);
    let names: std::collections::HashSet<&str> = list["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|i| i["metadata"]["name"].as_str().unwrap())
        .collect();
    let lost: Vec<_> = acknowledged
        .iter()
        .filter(|n| !names.contains(n.as_str()))
        .collect();
    assert!(lost.is_empty(), "{lost:?}");
    assert!(acknowledged.len() > 200);
    // An election of etcd takes up to two seconds, and the machine may be busy.
    assert!(longest < Duration::from_secs(8), "{longest:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_servers_agree() {
    let cluster = Cluster::start().await.unwrap();
    namespace(&cluster, "t").await;
    let mut config = cluster.config().clone();
    let port = hikube_testkit::free_port().unwrap();
    config.bind.set_port(port);
    config.advertise_address = "127.0.0.2".parse().unwrap();
    let stop = tokio_util::sync::CancellationToken::new();
    let second = tokio::spawn(apiserver::run(config, stop.clone()));
    let endpoints = "/api/v1/namespaces/default/endpoints/kubernetes";
    let addresses = || async {
        let (_, value) = api(&cluster, "GET", endpoints, Value::Null).await;
        let list = value["subsets"][0]["addresses"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        list.iter()
            .map(|a| a["ip"].as_str().unwrap_or_default().to_owned())
            .collect::<Vec<_>>()
    };
    let wait_for = |count: usize| async move {
        for _ in 0..200 {
            if addresses().await.len() == count {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("{count} addresses expected");
    };
    wait_for(2).await;
    let other = std::net::SocketAddr::new(cluster.address.ip(), port);
    reads_see_what_the_other_server_acknowledged(&cluster, other).await;
    stop.cancel();
    second.await.unwrap().unwrap();
    wait_for(1).await;
}

/// Many reads at once through one server share their questions to etcd; each must see what was acknowledged by the other
/// before it began.
async fn reads_see_what_the_other_server_acknowledged(cluster: &Cluster, other: std::net::SocketAddr) {
    const READERS: usize = 24;
    let map = |number: u32| json!({"metadata": {"name": "m"}, "data": {"n": number.to_string()}});
    let path = "/api/v1/namespaces/t/configmaps";
    assert_eq!(api(cluster, "POST", path, map(0)).await.0, 201);
    let path = "/api/v1/namespaces/t/configmaps/m";
    let acknowledged = std::sync::atomic::AtomicU32::new(0);
    let done = std::sync::atomic::AtomicBool::new(false);
    let order = std::sync::atomic::Ordering::SeqCst;
    let read = || async {
        while !done.load(order) {
            let before = acknowledged.load(order);
            let (code, text) = cluster
                .admin_request_at(other, "GET", path, &[], "")
                .await
                .unwrap();
            assert_eq!(code, 200, "{text}");
            let value: Value = serde_json::from_str(&text).unwrap();
            let seen: u32 = value["data"]["n"].as_str().unwrap().parse().unwrap();
            assert!(seen >= before, "{seen} after {before} was acknowledged");
        }
    };
    let write = async {
        for number in 1..=150 {
            let (code, answer) = api(cluster, "PUT", path, map(number)).await;
            assert_eq!(code, 200, "{answer}");
            acknowledged.store(number, order);
        }
        done.store(true, order);
    };
    let readers = futures_of((0..READERS).map(|_| read()));
    tokio::join!(write, readers);
}

/// Runs all of them at once.
async fn futures_of<F: Future<Output = ()>>(futures: impl Iterator<Item = F>) {
    let mut all: Vec<_> = futures.map(Box::pin).collect();
    std::future::poll_fn(|cx| {
        all.retain_mut(|one| one.as_mut().poll(cx).is_pending());
        if all.is_empty() {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_member_stops_neither_writes_nor_watches() {
    let options = Options {
        etcd_members: 3,
        ..Options::default()
    };
    let cluster = Cluster::start_with(options).await.unwrap();
    namespace(&cluster, "t").await;
    let maps = "/api/v1/namespaces/t/configmaps";
    for member in 0..3 {
        cluster.etcd.pause(member).unwrap();
        let started = Instant::now();
        let mut slowest = Duration::ZERO;
        for number in 0..20 {
            let name = format!("m{member}-{number}");
            let one = Instant::now();
            let (code, status) = api(&cluster, "POST", maps, json!({"metadata": {"name": name}})).await;
            assert_eq!(code, 201, "{status}");
            // Read your writes, through the watch cache.
            let (code, _) = api(&cluster, "GET", &format!("{maps}/{name}"), Value::Null).await;
            assert_eq!(code, 200);
            slowest = slowest.max(one.elapsed());
        }
        println!(
            "member {member} silent: 20 writes and reads in {:?}, slowest {slowest:?}",
            started.elapsed()
        );
        assert!(slowest < Duration::from_secs(8), "{slowest:?}");
        cluster.etcd.resume(member).unwrap();
        // It has to be a follower again before the next one goes.
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
}
