//! The network of a cluster on one machine: a bridge between the regions, a router namespace for each region, a
//! namespace for each node, routes between all of them, and masquerading towards the outside.
//!
//! Everything is idempotent: what exists is kept, what a reboot took is made again.
//!
//! The hardware address of an interface follows from its IP address. A bridge without one of its own takes the lowest
//! of its ports, so it changes whenever a node comes or goes, and a node that is made again gets a random one; the
//! neighbours would go on sending to the old one until their ARP entries expire, after 35 to 70 s.

use super::programs::run;
use super::{Error, io, netns};
use crate::layout::Layout;
use crate::plan::{Node, Plan, Region};
use std::fmt::Write;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

/// Makes what is missing of the whole network. Regions in `cut` keep their uplink down.
pub fn ensure(layout: &Layout, plan: &Plan, cut: &[String]) -> Result<(), Error> {
    ensure_host(layout, plan)?;
    for region in &plan.regions {
        ensure_region(layout, plan, region)?;
        set_uplink(layout, &region.name, !cut.contains(&region.name))?;
    }
    std::thread::scope(|scope| {
        let threads: Vec<_> = plan
            .nodes
            .iter()
            .map(|node| scope.spawn(move || ensure_node(layout, plan, node)))
            .collect();
        threads.into_iter().try_for_each(|t| {
            t.join().unwrap_or_else(|_| {
                Err(Error::Program {
                    program: "ip",
                    reason: "setting up a node panicked".into(),
                })
            })
        })
    })
}

/// Takes the region's uplink up or down, on the host's side.
pub fn set_uplink(layout: &Layout, region: &str, up: bool) -> Result<(), Error> {
    let link = uplink(layout, region);
    let state = if up { "up" } else { "down" };
    run("ip", &["link", "set", &link, state], "").map(drop)
}

/// Removes a node's namespace and with it its links.
pub fn remove_node(layout: &Layout, node: &str) -> Result<(), Error> {
    remove_namespace(&layout.netns(node))
}

/// Removes every namespace, link and rule of the cluster.
pub fn remove(layout: &Layout) -> Result<(), Error> {
    for name in netns::list(&layout.netns_prefix()) {
        remove_namespace(&name)?;
    }
    let bridge = layout.interface("bridge");
    if interface_exists(&bridge) {
        delete_link(&bridge)?;
    }
    for region in crate::plan::REGIONS {
        // Usually gone with the namespace that held its peer.
        let link = uplink(layout, region);
        if interface_exists(&link) {
            delete_link(&link)?;
        }
    }
    let table = layout.table();
    if run("nft", &["list", "table", "ip", &table], "").is_ok() {
        run("nft", &["delete", "table", "ip", &table], "")?;
    }
    Ok(())
}

/// Deletes a link. The kernel takes down a deleted namespace in the background, and with it the peers of its
/// links, so one that is gone by now is as good as deleted.
fn delete_link(link: &str) -> Result<(), Error> {
    match run("ip", &["link", "delete", link], "") {
        Err(error) if interface_exists(link) => Err(error),
        _ => Ok(()),
    }
}

fn remove_namespace(name: &str) -> Result<(), Error> {
    if netns::path(name).exists() {
        run("ip", &["netns", "delete", name], "")?;
    }
    Ok(())
}

/// Name of the host's end of a region's uplink.
fn uplink(layout: &Layout, region: &str) -> String {
    layout.interface(&format!("uplink/{region}"))
}

fn interface_exists(name: &str) -> bool {
    Path::new("/sys/class/net").join(name).exists()
}

fn ensure_host(layout: &Layout, plan: &Plan) -> Result<(), Error> {
    let bridge = layout.interface("bridge");
    let mut batch = String::new();
    if !interface_exists(&bridge) {
        let _ = writeln!(batch, "link add {bridge} type bridge");
    }
    let _ = writeln!(
        batch,
        "link set {bridge} address {}",
        hardware_address(plan.host())
    );
    let _ = writeln!(batch, "address replace {}/26 dev {bridge}", plan.host());
    let _ = writeln!(batch, "link set {bridge} up");
    for region in &plan.regions {
        for subnet in [plan.region_cidr(region), plan.region_pod_cidr(region)] {
            let _ = writeln!(batch, "route replace {subnet} via {} dev {bridge}", region.uplink);
        }
    }
    run("ip", &["-batch", "-"], &batch)?;
    if has_default_route() {
        forward_to_outside(layout, plan, &bridge)?;
    }
    Ok(())
}

/// A locally administered address that no other interface of this machine's clusters has.
fn hardware_address(address: Ipv4Addr) -> String {
    let [a, b, c, d] = address.octets();
    format!("02:68:{a:02x}:{b:02x}:{c:02x}:{d:02x}")
}

fn has_default_route() -> bool {
    run("ip", &["route", "show", "default"], "").is_ok_and(|out| !out.trim().is_empty())
}

/// Lets pods and nodes reach what the host reaches, with the host's address.
fn forward_to_outside(layout: &Layout, plan: &Plan, bridge: &str) -> Result<(), Error> {
    let switch = "/proc/sys/net/ipv4/ip_forward";
    let before = std::fs::read_to_string(switch).map_err(io("read", switch))?;
    if before.trim() != "1" {
        crate::registry::note_ip_forward(layout, before.trim()).map_err(|e| Error::Program {
            program: "hikube",
            reason: e.to_string(),
        })?;
        std::fs::write(switch, "1").map_err(io("write", switch))?;
    }
    let table = layout.table();
    let own = format!("{}, {}", plan.infrastructure_cidr(), plan.pod_cidr());
    let rules = format!(
        "add table ip {table}\n\
         delete table ip {table}\n\
         table ip {table} {{\n\
           chain postrouting {{\n\
             type nat hook postrouting priority srcnat; policy accept;\n\
             ip saddr {{ {own} }} ip daddr != {{ {own} }} oifname != \"{bridge}\" masquerade\n\
           }}\n\
         }}\n"
    );
    run("nft", &["-f", "-"], &rules).map(drop)
}

fn ensure_region(layout: &Layout, plan: &Plan, region: &Region) -> Result<(), Error> {
    let name = layout.netns(&region.name);
    let fresh = ensure_namespace(&name)?;
    let (outer, bridge) = (uplink(layout, &region.name), layout.interface("bridge"));
    if fresh || !interface_exists(&outer) {
        if interface_exists(&outer) {
            delete_link(&outer)?;
        }
        let batch = format!(
            "link add {outer} type veth peer name uplink netns {name}\n\
             link set {outer} master {bridge} up\n"
        );
        run("ip", &["-batch", "-"], &batch)?;
        let mut batch = format!(
            "link set lo up\n\
             link set uplink address {}\n\
             address add {}/26 dev uplink\n\
             link set uplink up\n\
             link add nodes address {} type bridge\n\
             address add {}/26 dev nodes\n\
             link set nodes up\n\
             route add default via {}\n",
            hardware_address(region.uplink),
            region.uplink,
            hardware_address(region.address),
            region.address,
            plan.host()
        );
        for other in plan.regions.iter().filter(|r| r.index != region.index) {
            for subnet in [plan.region_cidr(other), plan.region_pod_cidr(other)] {
                let _ = writeln!(batch, "route add {subnet} via {} dev uplink", other.uplink);
            }
        }
        run("ip", &["-n", &name, "-batch", "-"], &batch)?;
        netns::within(&name, router_switches)??;
    }
    Ok(())
}

fn ensure_node(layout: &Layout, plan: &Plan, node: &Node) -> Result<(), Error> {
    let name = layout.netns(&node.name);
    let region = layout.netns(&node.region);
    let Some(router) = plan.region(&node.region) else {
        return Ok(());
    };
    let port = layout.interface(&format!("node/{}", node.name));
    let connected = run("ip", &["-n", &region, "link", "show", &port], "").is_ok();
    if ensure_namespace(&name)? || !connected {
        if connected {
            run("ip", &["-n", &region, "link", "delete", &port], "")?;
        }
        let batch = format!(
            "link add {port} type veth peer name eth0 netns {name}\n\
             link set {port} master nodes up\n\
             route replace {} via {} dev nodes\n",
            node.pod_cidr, node.address
        );
        run("ip", &["-n", &region, "-batch", "-"], &batch)?;
        let batch = format!(
            "link set lo up\n\
             link set eth0 address {}\n\
             address add {}/26 dev eth0\n\
             link set eth0 up\n\
             route add default via {}\n",
            hardware_address(node.address),
            node.address,
            router.address
        );
        run("ip", &["-n", &name, "-batch", "-"], &batch)?;
        netns::within(&name, router_switches)??;
    }
    Ok(())
}

/// Makes the namespace. Returns whether it is new.
fn ensure_namespace(name: &str) -> Result<bool, Error> {
    if netns::exists(name) {
        return Ok(false);
    }
    // An empty file that a reboot or a failed deletion left.
    let _ = rustix::mount::unmount(netns::path(name), rustix::mount::UnmountFlags::DETACH);
    let _ = std::fs::remove_file(netns::path(name));
    run("ip", &["netns", "add", name], "")?;
    Ok(true)
}

/// Settings of a namespace that forwards; to be called inside it.
fn router_switches() -> Result<(), Error> {
    for (key, value) in [
        ("net/ipv4/ip_forward", "1"),
        // Paths between regions may differ in the two directions while a link comes back.
        ("net/ipv4/conf/all/rp_filter", "0"),
        ("net/ipv4/conf/default/rp_filter", "0"),
        ("net/ipv4/conf/all/send_redirects", "0"),
        // Nothing here uses IPv6; its neighbour discovery would only wake everyone up.
        ("net/ipv6/conf/all/disable_ipv6", "1"),
        ("net/ipv6/conf/default/disable_ipv6", "1"),
    ] {
        let path = PathBuf::from("/proc/sys").join(key);
        match std::fs::write(&path, value) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            result => result.map_err(io("write", path.display()))?,
        }
    }
    Ok(())
}
