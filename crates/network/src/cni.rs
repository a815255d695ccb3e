//! The CNI configuration of a node.
//!
//! Every pod has a point-to-point link to its node (`ptp`) rather than a port of a bridge: all traffic is routed,
//! so that translated connections between two pods of one node come back through the node without `br_netfilter`,
//! which a network namespace or a fresh machine may lack, and a pod that reaches itself needs no hairpin mode.

use serde_json::json;

/// The configuration list for containerd's `conf_dir`, as JSON. `name` tells the node's network apart in CNI's cache,
/// which nodes on one machine share. `pod_cidr` is the node's own subnet of pods; its first address is the pods'
/// gateway. Addresses are kept in `data_dir`, which must be the node's own.
pub fn conflist(name: &str, pod_cidr: &str, mtu: u32, data_dir: &std::path::Path) -> String {
    let list = json!({
        "cniVersion": "0.4.0",
        "name": name,
        "plugins": [
            {
                "type": "ptp",
                "mtu": mtu,
                // The node's own rules do that, for what leaves the cluster only.
                "ipMasq": false,
                "ipam": {
                    "type": "host-local",
                    "ranges": [[{"subnet": pod_cidr}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                    "dataDir": data_dir,
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": true}, "snat": true},
        ],
    });
    format!("{list:#}\n")
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_configuration_is_json_that_names_the_subnet() {
        let text = super::conflist("hikube.c1.n1", "10.129.3.0/24", 1500, "/var/lib/x/cni".as_ref());
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            value["plugins"][0]["ipam"]["ranges"][0][0]["subnet"],
            "10.129.3.0/24"
        );
        assert_eq!(value["plugins"][1]["capabilities"]["portMappings"], true);
    }
}
