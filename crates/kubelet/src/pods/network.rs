//! Names: a pod's host name, its `/etc/resolv.conf` (through the runtime) and its `/etc/hosts`.

use k8s_openapi::api::core::v1::{Pod, PodSpec};
use protos::cri::DnsConfig;

/// Longest host name of a pod, as upstream.
const MAX_HOSTNAME: usize = 63;
/// Most name servers and search domains that are passed on, as upstream.
const MAX_NAMESERVERS: usize = 3;
const MAX_SEARCHES: usize = 32;

/// (host name, domain) of a pod.
pub fn hostname(pod: &Pod, cluster_domain: &str) -> (String, String) {
    let spec = pod.spec.as_ref();
    let given = |value: Option<&String>| value.filter(|v| !v.is_empty()).cloned();
    let name = given(spec.and_then(|s| s.hostname_override.as_ref()))
        .or_else(|| given(spec.and_then(|s| s.hostname.as_ref())))
        .unwrap_or_else(|| {
            let name = pod.metadata.name.clone().unwrap_or_default();
            let cut: String = name.chars().take(MAX_HOSTNAME).collect();
            cut.trim_end_matches(['-', '.']).to_owned()
        });
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let domain = given(spec.and_then(|s| s.subdomain.as_ref()))
        .map(|subdomain| format!("{subdomain}.{namespace}.svc.{cluster_domain}"))
        .unwrap_or_default();
    (name, domain)
}

/// The name that the kernel gets.
pub fn kernel_hostname(pod: &Pod, cluster_domain: &str) -> String {
    let (name, domain) = hostname(pod, cluster_domain);
    let fqdn = pod.spec.as_ref().and_then(|s| s.set_hostname_as_fqdn) == Some(true);
    if fqdn && !domain.is_empty() {
        format!("{name}.{domain}")
    } else {
        name
    }
}

/// What stands in a `resolv.conf`.
pub fn parse_resolv_conf(text: &str) -> DnsConfig {
    let mut config = DnsConfig::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => config.servers.extend(words.next().map(str::to_owned)),
            Some("search" | "domain") => config.searches = words.map(str::to_owned).collect(),
            Some("options") => config.options = words.map(str::to_owned).collect(),
            _ => {}
        }
    }
    config
}

/// The resolver configuration of a pod; `host` is the node's own.
pub fn dns(
    spec: &PodSpec,
    namespace: &str,
    cluster_dns: &str,
    cluster_domain: &str,
    host: DnsConfig,
) -> DnsConfig {
    let host_network = spec.host_network == Some(true);
    let policy = match spec.dns_policy.as_deref().unwrap_or("ClusterFirst") {
        "ClusterFirst" if host_network => "Default",
        policy => policy,
    };
    let mut config = match policy {
        "None" => DnsConfig::default(),
        "Default" => host,
        _ => DnsConfig {
            servers: vec![cluster_dns.into()],
            searches: [
                format!("{namespace}.svc.{cluster_domain}"),
                format!("svc.{cluster_domain}"),
            ]
            .into_iter()
            .chain([cluster_domain.to_owned()])
            .chain(host.searches)
            .collect(),
            options: vec!["ndots:5".into()],
        },
    };
    if let Some(extra) = &spec.dns_config {
        config.servers.extend(extra.nameservers.iter().flatten().cloned());
        config.searches.extend(extra.searches.iter().flatten().cloned());
        for option in extra.options.iter().flatten() {
            let Some(name) = &option.name else { continue };
            config.options.retain(|o| o.split(':').next() != Some(name));
            config.options.push(match option.value.as_deref() {
                Some(value) if !value.is_empty() => format!("{name}:{value}"),
                _ => name.clone(),
            });
        }
    }
    dedup(&mut config.servers);
    dedup(&mut config.searches);
    config.servers.truncate(MAX_NAMESERVERS);
    config.searches.truncate(MAX_SEARCHES);
    config
}

fn dedup(list: &mut Vec<String>) {
    let mut seen = std::collections::HashSet::new();
    list.retain(|item| seen.insert(item.clone()));
}

/// `/etc/hosts` of a pod with its own network.
pub fn hosts(pod: &Pod, ips: &[String], cluster_domain: &str) -> String {
    let mut text = String::from(
        "# Kubernetes-managed hosts file.\n\
         127.0.0.1\tlocalhost\n\
         ::1\tlocalhost ip6-localhost ip6-loopback\n\
         fe00::\tip6-localnet\n\
         fe00::\tip6-mcastprefix\n\
         fe00::1\tip6-allnodes\n\
         fe00::2\tip6-allrouters\n",
    );
    let (name, domain) = hostname(pod, cluster_domain);
    for ip in ips {
        if domain.is_empty() {
            text.push_str(&format!("{ip}\t{name}\n"));
        } else {
            text.push_str(&format!("{ip}\t{name}.{domain}\t{name}\n"));
        }
    }
    text + &aliases(pod)
}

/// `/etc/hosts` of a pod in the node's network: the node's file and the pod's aliases.
pub fn hosts_of_node(pod: &Pod, node_hosts: &str) -> String {
    format!(
        "# Kubernetes-managed hosts file (host network).\n{node_hosts}{}",
        aliases(pod)
    )
}

fn aliases(pod: &Pod) -> String {
    let list = pod
        .spec
        .as_ref()
        .and_then(|s| s.host_aliases.as_deref())
        .unwrap_or_default();
    if list.is_empty() {
        return String::new();
    }
    let mut text = String::from("\n# Entries added by HostAliases.\n");
    for alias in list {
        let names = alias.hostnames.as_deref().unwrap_or_default().join("\t");
        text.push_str(&format!("{}\t{names}\n", alias.ip));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p-0", "namespace": "n"}, "spec": spec}))
            .expect("a pod")
    }

    fn dns_of(spec: serde_json::Value) -> DnsConfig {
        let host = parse_resolv_conf("# x\nnameserver 1.1.1.1\nsearch corp\noptions rotate\n");
        let pod = pod(spec);
        dns(
            &pod.spec.expect("a spec"),
            "n",
            "10.96.0.10",
            "cluster.local",
            host,
        )
    }

    #[test]
    fn dns_policies() {
        let first = dns_of(json!({"containers": []}));
        assert_eq!(first.servers, ["10.96.0.10"]);
        assert_eq!(
            first.searches,
            [
                "n.svc.cluster.local",
                "svc.cluster.local",
                "cluster.local",
                "corp"
            ]
        );
        assert_eq!(first.options, ["ndots:5"]);
        let host = dns_of(json!({"containers": [], "hostNetwork": true}));
        assert_eq!(
            (host.servers, host.options),
            (vec!["1.1.1.1".to_owned()], vec!["rotate".to_owned()])
        );
        let own = dns_of(json!({"containers": [], "dnsPolicy": "None", "dnsConfig": {
            "nameservers": ["9.9.9.9"], "options": [{"name": "ndots", "value": "1"}]}}));
        assert_eq!(
            (own.servers, own.options),
            (vec!["9.9.9.9".to_owned()], vec!["ndots:1".to_owned()])
        );
    }

    #[test]
    fn names_of_a_stateful_pod() {
        let pod = pod(json!({"containers": [], "hostname": "p-0", "subdomain": "s",
            "hostAliases": [{"ip": "1.2.3.4", "hostnames": ["a", "b"]}]}));
        let text = hosts(&pod, &["10.0.0.2".into()], "cluster.local");
        assert!(
            text.contains("10.0.0.2\tp-0.s.n.svc.cluster.local\tp-0\n"),
            "{text}"
        );
        assert!(text.ends_with("1.2.3.4\ta\tb\n"), "{text}");
        assert_eq!(kernel_hostname(&pod, "cluster.local"), "p-0");
    }
}
