//! A bad object of every kind, and the causes that it is refused with.

mod core;
mod extending;
mod others;
mod workloads;

use super::*;

/// (group, plural, object without its name, causes).
type Case = (&'static str, &'static str, Value, &'static [&'static str]);

/// Kinds whose metadata is all that can be wrong.
const METADATA_ONLY: &[&str] = &[
    "componentstatuses",
    "serviceaccounts",
    "selfsubjectreviews",
    "selfsubjectrulesreviews",
];

fn template() -> Value {
    json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}})
}

fn job_template() -> Value {
    json!({"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}})
}

fn selector() -> Value {
    json!({"matchLabels": {"a": "b"}})
}

fn all() -> Vec<Case> {
    [
        core::core(),
        core::claims_and_services(),
        extending::admission(),
        extending::access(),
        workloads::workloads(),
        workloads::jobs_and_more(),
        others::networks(),
        others::resources(),
    ]
    .concat()
}

/// Whole lists of versions are too long to be told in a table.
fn shortened(line: &str) -> String {
    match (
        line.starts_with("spec.versions: Invalid value: ["),
        line.rfind("]: "),
    ) {
        (true, Some(end)) => format!("spec.versions: Invalid value: […{}", &line[end..]),
        _ => line.to_owned(),
    }
}

#[test]
fn bad_objects_are_refused_with_upstreams_causes() {
    let mut wrong = Vec::new();
    for (group, plural, mut object, expected) in all() {
        object["metadata"] = if resource(group, plural).namespaced {
            metadata()
        } else {
            json!({"name": "a"})
        };
        let found: Vec<String> = create(group, plural, object)
            .iter()
            .map(|line| shortened(line))
            .collect();
        if found != expected {
            wrong.push(format!(
                "{plural}.{group}:\n  found    {found:#?}\n  expected {expected:#?}"
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_stable_kind_has_a_bad_object() {
    let cases = all();
    for resource in registry().resources() {
        let stable = !resource.version.contains("beta") && !resource.version.contains("alpha");
        let told = cases.iter().any(|(group, plural, ..)| resource.is(group, plural));
        let metadata_only = METADATA_ONLY.contains(&&*resource.plural);
        assert!(
            !stable || told || metadata_only,
            "{} has none",
            resource.qualified_name()
        );
    }
}

#[test]
fn names_are_checked_for_every_stored_kind() {
    for resource in registry().resources().iter().filter(|r| r.is_stored()) {
        let object = json!({"metadata": {"name": "a/b", "namespace": "default"}});
        let causes = validate_create(resource, &object);
        assert!(
            causes
                .iter()
                .any(|c| c.field == "metadata.name" && c.reason == Reason::Invalid),
            "{}",
            resource.qualified_name()
        );
    }
}
