//! What manifests are accepted, and what is said about the others.

use super::*;
use proptest::prelude::*;

fn with(spec: &str) -> Result<Manifest, Vec<Problem>> {
    parse(&format!(
        "apiVersion: apps.cozystack.io/v1alpha1\nkind: Kubernetes\nmetadata: {{name: x}}\nspec: {spec}\n"
    ))
}

fn problem(spec: &str) -> String {
    let problems = with(spec).expect_err("must be refused");
    assert_eq!(problems.len(), 1, "{problems:?}");
    problems[0].to_string()
}

#[test]
fn the_default_manifest_has_three_nodes_in_two_groups() {
    let manifest = parse(DEFAULT).expect("the default is valid");
    assert_eq!(manifest.control_planes, 2);
    assert_eq!(manifest.groups.len(), 2);
    assert_eq!(manifest.groups.iter().map(|g| g.min).sum::<u32>(), 3);
    assert!(manifest.not_acted_on.is_empty());
}

#[test]
fn bad_manifests_name_path_and_reason() {
    for (spec, expected) in [
        ("{nodeGroup: {}}", "spec.nodeGroup: unknown field"),
        (
            "{controlPlane: {replicas: -1}}",
            "spec.controlPlane.replicas: must be between 1 and 9, found -1",
        ),
        (
            "{nodeGroups: {a: {minReplicas: -2}}}",
            "spec.nodeGroups.a.minReplicas: must not be negative, found -2",
        ),
        (
            "{nodeGroups: {a: {minReplicas: 3, maxReplicas: 2}}}",
            "spec.nodeGroups.a.minReplicas: 3 is above maxReplicas 2",
        ),
        (
            "{nodeGroups: {a: {minReplicas: many}}}",
            "spec.nodeGroups.a.minReplicas: must be an integer, found \"many\"",
        ),
        (
            "{nodeGroups: {A: {}}}",
            "spec.nodeGroups.A: the name must be a DNS label of at most 24 characters",
        ),
        (
            "{nodeGroups: {a: {resources: {cpu: 2}}}}",
            "spec.nodeGroups.a.resources: cpu and memory must be set together or not at all",
        ),
        (
            "{version: v1.30}",
            "spec.version: must be one of v1.31, v1.32, v1.33, v1.34, v1.35, v1.36, found \"v1.30\"",
        ),
        (
            "{nodeGroups: {a: {diskSize: 3Gx}}}",
            "spec.nodeGroups.a.diskSize: must be a quantity such as 2 or 4Gi, found \"3Gx\"",
        ),
        (
            "{storageClass: fast}",
            "spec.storageClass: unknown class \"fast\"; known: replicated, local",
        ),
        ("[]", "spec: must be an object, found a list"),
    ] {
        assert_eq!(problem(spec), expected);
    }
    assert!(
        problem("{nodeGroups: {a: {instanceType: z9.huge}}}").starts_with(
            "spec.nodeGroups.a.instanceType: unknown instance type \"z9.huge\"; known: s1.small,"
        )
    );
}

#[test]
fn what_is_not_yaml_or_not_a_cluster_is_one_line() {
    for text in ["{", "a: b: c", "just words", "", "- 1", "a: 1\n---\nb: 2\n"] {
        let problems = parse(text).expect_err("must be refused");
        assert_eq!(problems.len(), 1, "{text:?}: {problems:?}");
        assert!(!problems[0].to_string().contains('\n'));
    }
    let problems = parse("kind: Pod\napiVersion: v1\n").expect_err("a pod is not a cluster");
    assert_eq!(problems.len(), 2);
}

#[test]
fn fields_of_the_schema_are_accepted_and_reported() {
    let manifest = with(
        "{host: a.b, addons: {certManager: {enabled: yes, valuesOverride: {x: 1}}, fluxcd: {enabled: true}}, \
         controlPlane: {replicas: 3, apiServer: {resourcesPreset: c1.medium}}, \
         nodeGroups: {a: {ephemeralStorage: {size: 30Gi}, gpus: [{name: n}], roles: [web]}}}",
    )
    .expect("valid");
    assert_eq!(
        manifest.not_acted_on,
        [
            "spec.host",
            "spec.addons.certManager.enabled",
            "spec.addons.certManager.valuesOverride",
            "spec.addons.fluxcd.enabled",
            "spec.controlPlane.apiServer.resourcesPreset",
            "spec.nodeGroups.a.gpus[0].name",
        ]
    );
    assert_eq!(manifest.groups[0].size.disk_bytes, 30 << 30);
    assert_eq!(manifest.groups[0].min, 0);
}

#[test]
fn resources_replace_the_instance_type() {
    let manifest = with("{nodeGroups: {a: {instanceType: nope, resources: {cpu: 1500m, memory: 1Gi}}}}");
    let size = &manifest.expect("the type is ignored").groups[0].size;
    assert_eq!((size.cpu_millis, size.memory_bytes), (1500, 1 << 30));
}

#[test]
fn quantities() {
    for (text, thousandths) in [
        ("1", 1000),
        ("1.5", 1500),
        ("100m", 100),
        ("1Ki", 1_024_000),
        (".5", 500),
        ("-2", -2000),
        ("1e3", 1_000_000),
        ("1E-1", 100),
        ("1n", 1),
    ] {
        assert_eq!(parse_quantity(text), Some(thousandths), "{text}");
    }
    for text in ["", "Gi", "1.2.3", "1 Gi", "0x10", "1e99", "--1", "1Gi2"] {
        assert_eq!(parse_quantity(text), None, "{text}");
    }
}

proptest! {
    #[test]
    fn no_text_makes_the_parser_panic(text in ".{0,200}") {
        let _ = parse(&text);
        let _ = parse_quantity(&text);
        let _ = with(&text);
    }

    #[test]
    fn whole_quantities_are_exact(value in 0i64..1_000_000_000, suffix in "(|k|M|Ki|Mi|Gi)") {
        let factor: i128 = match suffix.as_str() {
            "k" => 1000, "M" => 1_000_000, "Ki" => 1024, "Mi" => 1 << 20, "Gi" => 1 << 30, _ => 1,
        };
        prop_assert_eq!(parse_quantity(&format!("{value}{suffix}")), Some(i128::from(value) * factor * 1000));
    }
}
