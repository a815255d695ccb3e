//! The network of a cluster, made in real namespaces.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

use hikube_platform::Layout;
use hikube_platform::host::{net, netns};
use hikube_platform::manifest;
use hikube_platform::plan::{Machine, Node, Placements, Plan};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::time::Duration;

/// No cluster gets this number while fewer than 120 are on the machine.
const NUMBER: u8 = 121;
/// Far below the life of an ARP entry, and enough for a busy machine.
const SOON: Duration = Duration::from_secs(5);

struct Network {
    layout: Layout,
    plan: Plan,
    _dir: tempfile::TempDir,
}

impl Drop for Network {
    fn drop(&mut self) {
        let _ = net::remove(&self.layout);
    }
}

/// Two nodes in each region, or nothing without root.
fn network() -> Option<Network> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: namespaces need root");
        return None;
    }
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::below(dir.path(), "nettest").unwrap();
    let text = "{apiVersion: apps.cozystack.io/v1alpha1, kind: Kubernetes, \
                spec: {nodeGroups: {a: {minReplicas: 6}}}}";
    let machine = Machine {
        cpu_millis: 2000,
        memory_bytes: 4 << 30,
    };
    let manifest = manifest::parse(text).unwrap();
    let plan = Plan::new("nettest", NUMBER, manifest, machine, &mut Placements::new()).unwrap();
    let _ = net::remove(&layout);
    net::ensure(&layout, &plan, &[]).unwrap();
    Some(Network {
        layout,
        plan,
        _dir: dir,
    })
}

impl Network {
    /// A connection from one node to another that must come about soon.
    fn connects(&self, from: &Node, to: &Node) -> std::io::Result<()> {
        let listener =
            netns::within(&self.layout.netns(&to.name), || TcpListener::bind("0.0.0.0:0")).unwrap()?;
        let address = SocketAddr::new(to.address.into(), listener.local_addr()?.port());
        let connect = || TcpStream::connect_timeout(&address, SOON).map(drop);
        netns::within(&self.layout.netns(&from.name), connect).unwrap()
    }

    fn hardware_address(&self, namespace: &str, interface: &str) -> String {
        let name = self.layout.netns(namespace);
        let shown = Command::new("ip")
            .args(["-n", &name, "-o", "link", "show", interface])
            .output()
            .unwrap();
        let shown = String::from_utf8(shown.stdout).unwrap();
        let after = shown.split("link/ether ").nth(1).expect("an Ethernet interface");
        after.split(' ').next().unwrap().to_owned()
    }
}

#[test]
fn who_talked_to_a_node_reaches_it_at_once_after_it_was_made_again() {
    let Some(network) = network() else { return };
    let (layout, plan) = (&network.layout, &network.plan);
    let region = &plan.nodes[0].region;
    let (mut here, mut away): (Vec<_>, Vec<_>) = plan.nodes.iter().partition(|n| n.region == *region);
    let (stays, goes) = (here.remove(0), here.remove(0));
    let far = away.remove(0);
    for (from, to) in [(stays, goes), (goes, stays), (far, goes), (stays, far)] {
        network.connects(from, to).unwrap();
    }
    let gateway = network.hardware_address(region, "nodes");
    let node = network.hardware_address(&goes.name, "eth0");
    net::remove_node(layout, &goes.name).unwrap();
    network.connects(stays, far).unwrap();
    net::ensure(layout, plan, &[]).unwrap();
    // Neighbours remember where a node and its gateway were; both must still be there.
    assert_eq!(network.hardware_address(region, "nodes"), gateway);
    assert_eq!(network.hardware_address(&goes.name, "eth0"), node);
    for (from, to) in [(stays, goes), (goes, stays), (far, goes), (stays, far)] {
        network.connects(from, to).unwrap();
    }
}
