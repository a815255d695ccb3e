//! Refusals of pod specs: volumes, containers, security, placement.

use super::*;

fn spec(mut spec: Value) -> Vec<String> {
    if spec.get("containers").is_none() {
        spec["containers"] = json!([{"name": "c", "image": "i"}]);
    }
    create("", "pods", pod_with(spec))
}

fn with(extra: Value) -> Vec<String> {
    create("", "pods", container(extra))
}

/// A volume of each kind that is refused, and the causes below `spec.volumes[0]`; the first half of the alphabet.
fn volumes_a_to_f() -> Vec<(Value, &'static [&'static str])> {
    vec![
        (
            json!({"awsElasticBlockStore": {"volumeID": "", "partition": 300}}),
            &[
                "awsElasticBlockStore.volumeID: Required value",
                "awsElasticBlockStore.partition: Invalid value: 300: must be between 1 and 255, inclusive",
            ],
        ),
        (
            json!({"azureDisk": {"diskName": "d", "diskURI": "x", "kind": "Managed"}}),
            &[
                "azureDisk.diskURI: Unsupported value: \"x\": supported values: \"/subscriptions/{sub-id}/resourceGroups/{group-name}/providers/Microsoft.Compute/disks/{disk-id}\"",
            ],
        ),
        (
            json!({"azureFile": {"secretName": "s"}}),
            &["azureFile.shareName: Required value"],
        ),
        (
            json!({"cephfs": {"monitors": []}}),
            &["cephfs.monitors: Required value"],
        ),
        (
            json!({"cinder": {"volumeID": "", "secretRef": {}}}),
            &[
                "cinder.volumeID: Required value",
                "cinder.secretRef.name: Required value",
            ],
        ),
        (
            json!({"configMap": {"name": "c", "defaultMode": 512, "items": [{"key": "", "path": "../x"}]}}),
            &[
                "configMap.defaultMode: Invalid value: 512: must be a number between 0 and 0777 (octal), both inclusive",
                "configMap.items[0].key: Required value",
                "configMap.items[0].path: Invalid value: \"../x\": must not contain '..'",
            ],
        ),
        (json!({"csi": {"driver": ""}}), &["csi.driver: Required value"]),
        (
            json!({"downwardAPI": {"items": [{"path": "p", "resourceFieldRef": {"resource": "limits.cpu", "divisor": "2"}},
                                          {"path": "q", "fieldRef": {"fieldPath": "spec.nodeName"}}]}}),
            &[
                "downwardAPI.items[0].resourceFieldRef.containerName: Required value",
                "downwardAPI.items[0].resourceFieldRef.divisor: Invalid value: \"2\": only divisor's values 1m and 1 are supported with the cpu resource",
                "downwardAPI.items[1].fieldRef.fieldPath: Unsupported value: \"spec.nodeName\": supported values: \"metadata.annotations\", \"metadata.labels\", \"metadata.name\", \"metadata.namespace\", \"metadata.uid\"",
            ],
        ),
        (
            json!({"emptyDir": {"sizeLimit": "-1"}}),
            &["emptyDir.sizeLimit: Forbidden: SizeLimit field must be a valid resource quantity"],
        ),
        (
            json!({"ephemeral": {}}),
            &["ephemeral.volumeClaimTemplate: Required value"],
        ),
        (
            json!({"fc": {"targetWWNs": ["a"]}}),
            &["fc.lun: Required value: lun is required if targetWWNs is specified"],
        ),
        (
            json!({"flexVolume": {"driver": "d", "options": {"kubernetes.io/x": "y"}}}),
            &[
                "flexVolume.options[kubernetes.io/x]: Invalid value: \"kubernetes.io/x\": kubernetes.io and k8s.io namespaces are reserved",
            ],
        ),
        (
            json!({"flocker": {}}),
            &["flocker: Required value: one of datasetName and datasetUUID is required"],
        ),
        (
            json!({"gcePersistentDisk": {"pdName": ""}}),
            &["gcePersistentDisk.pdName: Required value"],
        ),
        (
            json!({"gitRepo": {"repository": "r", "directory": "/d"}}),
            &["gitRepo.directory: Invalid value: \"/d\": must be a relative path"],
        ),
        (
            json!({"glusterfs": {"endpoints": "e", "path": ""}}),
            &["glusterfs.path: Required value"],
        ),
    ]
}

/// The second half.
fn volumes_g_to_z() -> Vec<(Value, &'static [&'static str])> {
    vec![
        (
            json!({"hostPath": {"path": "/a/../b", "type": "X"}}),
            &[
                "hostPath.path: Invalid value: \"/a/../b\": must not contain '..'",
                "hostPath.type: Unsupported value: \"X\": supported values: \"\", \"BlockDevice\", \"CharDevice\", \"Directory\", \"DirectoryOrCreate\", \"File\", \"FileOrCreate\", \"Socket\"",
            ],
        ),
        (
            json!({"image": {"pullPolicy": "Always"}}),
            &["image.reference: Required value"],
        ),
        (
            json!({"iscsi": {"targetPortal": "p", "iqn": "x", "lun": 256, "chapAuthSession": true}}),
            &[
                "iscsi.iqn: Invalid value: \"x\": must be valid format starting with iqn, eui, or naa",
                "iscsi.lun: Invalid value: 256: must be between 0 and 255, inclusive",
                "iscsi.secretRef: Required value",
            ],
        ),
        (
            json!({"nfs": {"server": "s", "path": "p"}}),
            &["nfs.path: Invalid value: \"p\": must be an absolute path"],
        ),
        (
            json!({"persistentVolumeClaim": {"claimName": ""}}),
            &["persistentVolumeClaim.claimName: Required value"],
        ),
        (
            json!({"photonPersistentDisk": {"pdID": ""}}),
            &["photonPersistentDisk.pdID: Required value"],
        ),
        (
            json!({"portworxVolume": {"volumeID": ""}}),
            &["portworxVolume.volumeID: Required value"],
        ),
        (
            json!({"projected": {"sources": [{"serviceAccountToken": {"path": "t", "expirationSeconds": 1}}, {"secret": {"name": "s", "items": [{"key": "k", "path": "t"}]}},
                                          {"clusterTrustBundle": {"path": "b"}}, {}]}}),
            &[
                "projected.sources[0].serviceAccountToken.expirationSeconds: Invalid value: 1: may not specify a duration less than 10 minutes",
                "projected.sources[1].secret: Invalid value: \"t\": conflicting duplicate paths",
                "projected.sources[2].clusterTrustBundle: Required value: either name or signerName must be specified",
                "projected.sources[3]: Required value: must specify a volume type",
            ],
        ),
        (
            json!({"quobyte": {"registry": "r", "volume": "v"}}),
            &[
                "quobyte.registry: Invalid value: \"r\": must be a host:port pair or multiple pairs separated by commas",
            ],
        ),
        (
            json!({"rbd": {"monitors": ["m"], "image": ""}}),
            &["rbd.image: Required value"],
        ),
        (
            json!({"scaleIO": {"gateway": "g", "system": "s"}}),
            &[
                "scaleIO.volumeName: Required value",
                "scaleIO.secretRef: Required value",
            ],
        ),
        (
            json!({"secret": {"secretName": ""}}),
            &["secret.secretName: Required value"],
        ),
        (
            json!({"storageos": {"secretRef": {}}}),
            &["storageos.secretRef.name: Required value"],
        ),
        (
            json!({"vsphereVolume": {"volumePath": ""}}),
            &["vsphereVolume.volumePath: Required value"],
        ),
    ]
}

#[test]
fn volumes() {
    let mut wrong = Vec::new();
    for (volume, expected) in volumes_a_to_f().into_iter().chain(volumes_g_to_z()) {
        let mut named = volume.clone();
        named["name"] = "v".into();
        let found = spec(json!({"volumes": [named]}));
        let expected: Vec<String> = expected
            .iter()
            .map(|line| format!("spec.volumes[0].{line}"))
            .collect();
        if found != expected {
            wrong.push(format!("{found:#?}\n  expected {expected:#?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn security() {
    assert_eq!(
        spec(
            json!({"hostUsers": false, "hostPID": true, "shareProcessNamespace": true,
            "securityContext": {"runAsUser": -1, "appArmorProfile": {"type": "Localhost"}, "seccompProfile": {"type": "Localhost", "localhostProfile": "/x"},
                                "sysctls": [{"name": "A"}], "fsGroupChangePolicy": "X"}})
        ),
        [
            "spec.securityContext.runAsUser: Invalid value: -1: must be between 0 and 2147483647, inclusive",
            "spec.securityContext.sysctls[0].name: Invalid value: \"A\": must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$",
            "spec.securityContext.fsGroupChangePolicy: Unsupported value: \"X\": supported values: \"Always\", \"OnRootMismatch\"",
            "spec.securityContext.seccompProfile.localhostProfile: Invalid value: \"/x\": must be a relative path",
            "spec.securityContext.appArmorProfile.localhostProfile: Required value: must be set when AppArmor type is Localhost",
            "spec.shareProcessNamespace: Invalid value: true: ShareProcessNamespace and HostPID cannot both be enabled",
            "spec.hostPID: Forbidden: when `pod.Spec.HostUsers` is false",
        ]
    );
    assert_eq!(
        with(
            json!({"securityContext": {"privileged": true, "allowPrivilegeEscalation": false, "procMount": "Unmasked"}})
        ),
        [
            "spec.containers[0].securityContext.procMount: Invalid value: \"Unmasked\": `hostUsers` must be false to use `Unmasked`",
            "spec.containers[0].securityContext: Invalid value: {\"privileged\":true,\"allowPrivilegeEscalation\":false,\"procMount\":\"Unmasked\"}: cannot set `allowPrivilegeEscalation` to false and `privileged` to true",
        ]
    );
    assert_eq!(
        spec(
            json!({"os": {"name": "windows"}, "hostIPC": true, "securityContext": {"fsGroup": 1},
            "containers": [{"name": "c", "image": "i", "securityContext": {"privileged": true}}]})
        ),
        [
            "spec.hostIPC: Forbidden: cannot be set for a windows pod",
            "spec.securityContext.fsGroup: Forbidden: cannot be set for a windows pod",
            "spec.containers[0].securityContext.privileged: Forbidden: cannot be set for a windows pod",
        ]
    );
}

#[test]
fn placement() {
    assert_eq!(
        spec(json!({
            "tolerations": [{"key": "a", "operator": "Exists", "value": "b"}, {"operator": "Equal"}, {"key": "k", "operator": "X"}, {"key": "k", "tolerationSeconds": 1}],
            "topologySpreadConstraints": [{"maxSkew": 0, "topologyKey": "k", "whenUnsatisfiable": "ScheduleAnyway", "minDomains": 1, "matchLabelKeys": ["a"]},
                                          {"maxSkew": 1, "topologyKey": "k", "whenUnsatisfiable": "ScheduleAnyway"}],
            "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": []},
                                          "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 101, "preference": {"matchExpressions": [{"key": "a", "operator": "In"}]}}]},
                         "podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": "", "namespaces": ["A"], "matchLabelKeys": ["x"]}]}}})),
        [
            "spec.tolerations[0].operator: Invalid value: \"b\": value must be empty when `operator` is 'Exists'".to_owned(),
            "spec.tolerations[1].operator: Invalid value: \"Equal\": operator must be Exists when `key` is empty, which means \"match all values and all keys\"".to_owned(),
            "spec.tolerations[2].operator: Unsupported value: \"X\": supported values: \"Equal\", \"Exists\"".to_owned(),
            "spec.tolerations[3].effect: Invalid value: \"\": effect must be 'NoExecute' when `tolerationSeconds` is set".to_owned(),
            "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms: Required value: must have at least one node selector term".to_owned(),
            "spec.affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].weight: Invalid value: 101: must be in the range 1-100".to_owned(),
            "spec.affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].preference.matchExpressions[0].values: Required value: must be specified when `operator` is 'In' or 'NotIn'".to_owned(),
            format!("spec.affinity.podAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].namespace: Invalid value: \"A\": {LABEL}"),
            "spec.affinity.podAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].matchLabelKeys: Forbidden: must not be set when labelSelector is not set".to_owned(),
            "spec.affinity.podAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].topologyKey: Required value: can not be empty".to_owned(),
            "spec.topologySpreadConstraints[0].maxSkew: Invalid value: 0: must be greater than zero".to_owned(),
            "spec.topologySpreadConstraints[0].minDomains: Invalid value: 1: can only use minDomains if whenUnsatisfiable=DoNotSchedule, not ScheduleAnyway".to_owned(),
            "spec.topologySpreadConstraints[0].matchLabelKeys: Forbidden: must not be set when labelSelector is not set".to_owned(),
            "spec.topologySpreadConstraints[1].{topologyKey, whenUnsatisfiable}: Duplicate value: \"{k, ScheduleAnyway}\"".to_owned(),
        ]
    );
}

#[test]
fn containers() {
    assert_eq!(
        with(json!({
            "lifecycle": {"preStop": {"sleep": {"seconds": 31}}, "stopSignal": "SIGTERM"},
            "livenessProbe": {"httpGet": {"port": 1, "httpHeaders": [{"name": "a_b", "value": "x"}]}, "terminationGracePeriodSeconds": 0},
            "resizePolicy": [{"resourceName": "disk", "restartPolicy": "NotRequired"}],
            "restartPolicyRules": [{"action": "Restart"}],
            "resources": {"claims": [{"name": "x"}], "limits": {"example.com/a": "1500m"}, "requests": {"example.com/b": "1"}},
            "env": [{"name": "A", "valueFrom": {"resourceFieldRef": {"resource": "limits.gpu"}}}, {"name": "B", "valueFrom": {"fileKeyRef": {"key": "k"}}}],
            "volumeMounts": [{"name": "v", "mountPath": "/a", "subPath": "/s", "recursiveReadOnly": "Enabled", "mountPropagation": "Bidirectional"}],
            "volumeDevices": [{"name": "v", "devicePath": "/a"}]})),
        [
            "spec.containers[0].env[0].valueFrom.resourceFieldRef.resource: Unsupported value: \"limits.gpu\": supported values: \"limits.cpu\", \"limits.ephemeral-storage\", \"limits.memory\", \"requests.cpu\", \"requests.ephemeral-storage\", \"requests.memory\"",
            "spec.containers[0].env[1].valueFrom.fileKeyRef.volumeName: Required value",
            "spec.containers[0].env[1].valueFrom.fileKeyRef.path: Required value",
            "spec.containers[0].volumeMounts[0].name: Not found: \"v\"",
            "spec.containers[0].volumeMounts[0].mountPath: Invalid value: \"/a\": must not already exist as a path in volumeDevices",
            "spec.containers[0].volumeMounts[0].subPath: Invalid value: \"/s\": must be a relative path",
            "spec.containers[0].volumeMounts[0].mountPropagation: Forbidden: Bidirectional mount propagation is available only to privileged containers",
            "spec.containers[0].volumeMounts[0].recursiveReadOnly: Forbidden: may only be specified when readOnly is true",
            "spec.containers[0].volumeMounts[0].recursiveReadOnly: Forbidden: may only be specified when mountPropagation is None or not specified",
            "spec.containers[0].volumeDevices[0].name: Not found: \"v\"",
            "spec.containers[0].volumeDevices[0].devicePath: Invalid value: \"/a\": must not already exist as a path in volumeMounts",
            "spec.containers[0].resources.limits[example.com/a]: Invalid value: \"1500m\": must be an integer",
            "spec.containers[0].resources.requests[example.com/a]: Invalid value: \"1500m\": must be an integer",
            "spec.containers[0].resources.limits: Required value: Limit must be set for non overcommitable resources",
            "spec.containers[0].resources.claims[0].name: Not found: \"x\"",
            "spec.containers[0].resizePolicy[0].resourceName: Unsupported value: \"disk\": supported values: \"cpu\", \"memory\"",
            "spec.containers[0].restartPolicy: Required value: must specify restartPolicy when restart rules are used",
            "spec.containers[0].restartPolicyRules[0].exitCodes: Required value: must be specified",
            "spec.containers[0].lifecycle.preStop.sleep: Invalid value: 31: must be non-negative and less than terminationGracePeriodSeconds (30)",
            "spec.containers[0].lifecycle.stopSignal: Forbidden: may not be set for containers with empty `spec.os.name`",
            "spec.containers[0].livenessProbe.httpGet.httpHeaders: Invalid value: \"a_b\": a valid HTTP header must consist of alphanumeric characters or '-' (e.g. 'X-Header-Name', regex used for validation is '[-A-Za-z0-9]+')",
            "spec.containers[0].livenessProbe.terminationGracePeriodSeconds: Invalid value: 0: must be greater than 0",
        ]
    );
    assert_eq!(
        spec(
            json!({"containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": "2"}, "limits": {"cpu": "3"}}}],
                    "resources": {"requests": {"cpu": "1"}, "limits": {"cpu": "2", "disk": "1"}}})
        ),
        [
            "spec.resources.limits[disk]: Unsupported value: \"disk\": supported values: \"cpu\", \"hugepages-\", \"memory\"",
            "spec.resources.limits[disk]: Invalid value: \"disk\": must be a standard resource for containers",
            "spec.resources.requests[cpu]: Invalid value: \"1\": must be greater than or equal to aggregate container requests of 2",
            "spec.containers[0].resources.limits[cpu]: Invalid value: \"3\": must be less than or equal to pod limits of 2",
        ]
    );
}

#[test]
fn names_and_claims() {
    assert_eq!(
        spec(json!({"hostname": "A", "hostnameOverride": "x", "setHostnameAsFQDN": true, "activeDeadlineSeconds": 0, "imagePullSecrets": [{"name": ""}],
                    "resourceClaims": [{"name": "r"}, {"name": "r", "resourceClaimName": "a", "resourceClaimTemplateName": "b"}]})),
        [
            "spec.resourceClaims[0]: Invalid value: {\"name\":\"r\"}: must specify one of: `resourceClaimName`, `resourceClaimTemplateName`".to_owned(),
            "spec.resourceClaims[1].name: Duplicate value: \"r\"".to_owned(),
            "spec.resourceClaims[1]: Invalid value: {\"name\":\"r\",\"resourceClaimName\":\"a\",\"resourceClaimTemplateName\":\"b\"}: at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified".to_owned(),
            format!("spec.hostname: Invalid value: \"A\": {LABEL}"),
            "spec.hostnameOverride: Forbidden: cannot be set when setHostnameAsFQDN is true".to_owned(),
            "spec.activeDeadlineSeconds: Invalid value: 0: must be between 1 and 2147483647, inclusive".to_owned(),
        ]
    );
}
