//! Networks, devices, storage.

use super::*;

pub(super) fn networks() -> Vec<Case> {
    vec![
        (
            "discovery.k8s.io",
            "endpointslices",
            json!({"addressType": "IPv4", "endpoints": [{"addresses": ["::1"]}, {"addresses": []}], "ports": [{"name": "a"}, {"name": "a"}]}),
            &[
                "endpoints[0].addresses[0]: Invalid value: \"::1\": must be a valid IPv4 address",
                "endpoints[1].addresses: Required value: must contain at least 1 address",
                "ports[1].name: Duplicate value: \"a\"",
            ],
        ),
        (
            "events.k8s.io",
            "events",
            json!({"eventTime": "2026-01-01T00:00:00.000000Z", "reportingController": "c/d", "reportingInstance": "i", "reason": "r", "action": "a",
            "type": "Odd", "regarding": {"namespace": "default"}, "deprecatedCount": 1, "series": {"count": 1}}),
            &[
                "type: Invalid value: \"\": has invalid value: Odd",
                "count: Invalid value: \"\": needs to be unset",
                "series.count: Invalid value: \"\": should be at least 2",
                "series.lastObservedTime: Required value",
            ],
        ),
        (
            "networking.k8s.io",
            "ingressclasses",
            json!({"spec": {"controller": "c", "parameters": {"kind": "K", "name": "n", "scope": "Namespace"}}}),
            &[
                "spec.controller: Invalid value: \"c\": must be a domain-prefixed path (such as \"acme.io/foo\")",
                "spec.parameters.namespace: Required value: `parameters.scope` is set to 'Namespace'",
            ],
        ),
        (
            "networking.k8s.io",
            "ingresses",
            json!({"spec": {"tls": [{"hosts": ["A"]}], "rules": [{"host": "1.2.3.4", "http": {"paths": [
            {"pathType": "Prefix", "path": "a//b", "backend": {"service": {"name": "s", "port": {}}}}, {"path": "/", "backend": {"resource": {"kind": "K", "name": "n"}}}]}}]}}),
            &[
                "spec.rules[0].host: Invalid value: \"1.2.3.4\": must be a DNS name, not an IP address",
                "spec.rules[0].http.paths[0].path: Invalid value: \"a//b\": must be an absolute path",
                "spec.rules[0].http.paths[0].path: Invalid value: \"a//b\": must not contain '//'",
                "spec.rules[0].http.paths[0].backend.service: Required value: port name or number is required",
                "spec.rules[0].http.paths[1].pathType: Required value: pathType must be specified",
                "spec.tls[0].hosts[0]: Invalid value: \"A\": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
            ],
        ),
        (
            "networking.k8s.io",
            "ipaddresses",
            json!({"spec": {}}),
            &[
                "metadata.name: Invalid value: \"a\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
                "spec.parentRef: Required value",
            ],
        ),
        (
            "networking.k8s.io",
            "networkpolicies",
            json!({"spec": {"podSelector": {}, "policyTypes": ["Sideways"], "ingress": [{"ports": [{"endPort": 1}, {"port": "a", "endPort": 2}, {"port": 3, "endPort": 2}],
            "from": [{}, {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.0.0.0/8", "10.1.0.0/16", "192.168.0.0/24"]}}]}]}}),
            &[
                "spec.ingress[0].ports[0].endPort: Invalid value: 1: may not be specified when `port` is not specified",
                "spec.ingress[0].ports[1].endPort: Invalid value: 2: may not be specified when `port` is non-numeric",
                "spec.ingress[0].ports[2].endPort: Invalid value: 2: must be greater than or equal to `port`",
                "spec.ingress[0].from[0]: Required value: must specify a peer",
                "spec.ingress[0].from[1].ipBlock.except[0]: Invalid value: \"10.0.0.0/8\": must be a strict subset of `cidr`",
                "spec.ingress[0].from[1].ipBlock.except[2]: Invalid value: \"192.168.0.0/24\": must be a strict subset of `cidr`",
                "spec.policyTypes[0]: Unsupported value: \"Sideways\": supported values: \"Egress\", \"Ingress\"",
            ],
        ),
        (
            "networking.k8s.io",
            "servicecidrs",
            json!({"spec": {"cidrs": ["10.0.0.0/8", "11.0.0.0/8"]}}),
            &[
                "spec.cidrs: Invalid value: [\"10.0.0.0/8\",\"11.0.0.0/8\"]: may specify no more than one IP for each IP family, i.e. 192.168.0.0/24 and 2001:db8::/64",
            ],
        ),
    ]
}

pub(super) fn resources() -> Vec<Case> {
    vec![
        (
            "resource.k8s.io",
            "deviceclasses",
            json!({"spec": {"selectors": [{"cel": {"expression": ""}}, {}], "config": [{}]}}),
            &[
                "spec.selectors[0].cel.expression: Required value",
                "spec.selectors[1].cel: Required value",
                "spec.config[0].opaque: Required value",
            ],
        ),
        (
            "resource.k8s.io",
            "resourceclaims",
            json!({"spec": {"devices": {"requests": [{"name": "r", "exactly": {"deviceClassName": "c", "allocationMode": "All", "count": 2}}, {"name": "r"}],
            "constraints": [{"requests": ["x"], "matchAttribute": "a"}]}}}),
            &[
                "spec.devices.requests[0].exactly.count: Invalid value: 2: must not be specified when allocationMode is 'All'",
                "spec.devices.requests[1]: Required value: exactly one of `exactly` or `firstAvailable` is required",
                "spec.devices.requests[1].name: Duplicate value: \"r\"",
                "spec.devices.constraints[0].requests[0]: Invalid value: \"x\": must be the name of a request in the claim or the name of a request and a subrequest separated by '/'",
                "spec.devices.constraints[0].matchAttribute: Invalid value: \"a\": must include a domain",
            ],
        ),
        (
            "resource.k8s.io",
            "resourceclaimtemplates",
            json!({"spec": {"spec": {"devices": {"requests": [{"name": "r", "exactly": {}}]}}}}),
            &["spec.spec.devices.requests[0].exactly.deviceClassName: Required value"],
        ),
        (
            "resource.k8s.io",
            "resourceslices",
            json!({"spec": {"driver": "d", "pool": {"name": "p"}, "nodeName": "n", "allNodes": true, "devices": [{"name": "A"}]}}),
            &[
                "spec.pool.resourceSliceCount: Invalid value: 0: must be greater than zero",
                "spec: Invalid value: \"{nodeName, allNodes}\": exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required, but multiple fields are set",
                "spec.devices[0].name: Invalid value: \"A\": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')",
            ],
        ),
        (
            "storage.k8s.io",
            "csidrivers",
            json!({"spec": {"fsGroupPolicy": "X", "tokenRequests": [{"audience": "a", "expirationSeconds": 1}, {"audience": "a"}], "nodeAllocatableUpdatePeriodSeconds": 1}}),
            &[
                "spec.nodeAllocatableUpdatePeriodSeconds: Invalid value: 1: must be greater than or equal to 10 seconds",
                "spec.fsGroupPolicy: Unsupported value: \"X\": supported values: \"File\", \"None\", \"ReadWriteOnceWithFSType\"",
                "spec.tokenRequests[0].expirationSeconds: Invalid value: 1: may not specify a duration less than 10 minutes",
                "spec.tokenRequests[1].audience: Duplicate value: \"a\"",
            ],
        ),
        (
            "storage.k8s.io",
            "csinodes",
            json!({"spec": {"drivers": [{"name": "d", "nodeID": "", "topologyKeys": ["a", "a"]}]}}),
            &[
                "spec.drivers[0].nodeID: Required value",
                "spec.drivers[0].topologyKeys: Duplicate value: \"a\"",
            ],
        ),
        (
            "storage.k8s.io",
            "csistoragecapacities",
            json!({"capacity": "-1"}),
            &[
                "storageClassName: Required value",
                "capacity: Invalid value: \"-1\": must be greater than or equal to 0",
            ],
        ),
        (
            "storage.k8s.io",
            "storageclasses",
            json!({"provisioner": "p", "volumeBindingMode": "X", "parameters": {"": "v"}}),
            &[
                "parameters: Invalid value: \"\": field can not be empty.",
                "volumeBindingMode: Unsupported value: \"X\": supported values: \"Immediate\", \"WaitForFirstConsumer\"",
            ],
        ),
        (
            "storage.k8s.io",
            "volumeattachments",
            json!({"spec": {"nodeName": "n", "source": {}}}),
            &[
                "spec.attacher: Required value",
                "spec.source: Required value: must specify exactly one of inlineVolumeSpec and persistentVolumeName",
            ],
        ),
        (
            "storage.k8s.io",
            "volumeattributesclasses",
            json!({"driverName": "d"}),
            &["parameters: Required value: must contain at least one key/value pair"],
        ),
    ]
}
