//! Discovery documents, in the aggregated and in the plain form.

use serde_json::{Map, Value, json};

use crate::registry::{Resource, Subresource, Text, registry};

/// Version of the aggregated form that is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AggregatedVersion {
    /// `apidiscovery.k8s.io/v2`.
    V2,
    /// `apidiscovery.k8s.io/v2beta1`, for kubectl 1.26 to 1.29.
    V2Beta1,
}

impl AggregatedVersion {
    fn api_version(self) -> &'static str {
        match self {
            AggregatedVersion::V2 => "apidiscovery.k8s.io/v2",
            AggregatedVersion::V2Beta1 => "apidiscovery.k8s.io/v2beta1",
        }
    }
}

/// `/api` in the aggregated form (`APIGroupDiscoveryList`).
pub fn aggregated_api(version: AggregatedVersion) -> Value {
    aggregated(version, vec![aggregated_group("", registry().resources())])
}

/// `/apis` in the aggregated form. `extra` are further items, such as the groups of custom resources
/// ([`aggregated_group`]).
pub fn aggregated_apis(version: AggregatedVersion, extra: Vec<Value>) -> Value {
    let mut items: Vec<Value> = groups()
        .into_iter()
        .map(|group| aggregated_group(group, registry().resources()))
        .collect();
    items.extend(extra);
    aggregated(version, items)
}

fn aggregated(version: AggregatedVersion, items: Vec<Value>) -> Value {
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": version.api_version(), "metadata": {}, "items": items})
}

/// One group of the aggregated form, from those resources that are of this group.
pub fn aggregated_group(group: &str, resources: &[Resource]) -> Value {
    let versions: Vec<Value> = versions(group, resources)
        .into_iter()
        .map(|version| {
            let resources: Vec<Value> = resources
                .iter()
                .filter(|r| r.group == group && r.version == version)
                .map(aggregated_resource)
                .collect();
            json!({"version": version, "resources": resources, "freshness": "Current"})
        })
        .collect();
    let mut metadata = json!({"creationTimestamp": null});
    if !group.is_empty() {
        metadata = json!({"name": group, "creationTimestamp": null});
    }
    json!({"metadata": metadata, "versions": versions})
}

fn aggregated_resource(resource: &Resource) -> Value {
    let kind = json!({"group": resource.group, "version": resource.version, "kind": resource.kind});
    let mut item = json!({
        "resource": resource.plural,
        "responseKind": kind,
        "scope": if resource.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": resource.singular,
        "verbs": resource.verbs,
    });
    set_list(&mut item, "shortNames", &resource.short_names);
    set_list(&mut item, "categories", &resource.categories);
    if !resource.subresources.is_empty() {
        let subs: Vec<Value> = resource
            .subresources
            .iter()
            .map(|sub| aggregated_subresource(resource, sub))
            .collect();
        item["subresources"] = subs.into();
    }
    item
}

fn aggregated_subresource(resource: &Resource, sub: &Subresource) -> Value {
    let (group, version) = sub_group_version(resource, sub);
    json!({
        "subresource": sub.name,
        "responseKind": {"group": group, "version": version, "kind": sub.kind},
        "verbs": sub.verbs,
    })
}

fn sub_group_version<'a>(resource: &'a Resource, sub: &'a Subresource) -> (&'a str, &'a str) {
    match &sub.group_version {
        Some((group, version)) => (group, version),
        None => (&resource.group, &resource.version),
    }
}

/// `/api` in the plain form (`APIVersions`). `server_address` is `host:port` as clients reach it.
pub fn api_versions(server_address: &str) -> Value {
    json!({
        "kind": "APIVersions",
        "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": server_address}],
    })
}

/// `/apis` in the plain form (`APIGroupList`). `extra` are further groups ([`api_group`] without kind and apiVersion).
pub fn api_group_list(extra: Vec<Value>) -> Value {
    let mut list: Vec<Value> = groups()
        .into_iter()
        .map(|g| group_entry(g, registry().resources()))
        .collect();
    list.extend(extra);
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": list})
}

/// `/apis/{group}` (`APIGroup`) for a built-in group.
pub fn api_group(group: &str) -> Option<Value> {
    if !groups().contains(&group) {
        return None;
    }
    let mut value = json!({"kind": "APIGroup", "apiVersion": "v1"});
    if let (Some(object), Value::Object(entry)) =
        (value.as_object_mut(), group_entry(group, registry().resources()))
    {
        object.extend(entry);
    }
    Some(value)
}

/// A group as it stands in `APIGroupList`, from those resources that are of this group.
pub fn group_entry(group: &str, resources: &[Resource]) -> Value {
    let versions: Vec<Value> = versions(group, resources)
        .into_iter()
        .map(|v| json!({"groupVersion": format!("{group}/{v}"), "version": v}))
        .collect();
    let preferred = versions.first().cloned();
    json!({"name": group, "versions": versions, "preferredVersion": preferred})
}

/// `/api/v1` or `/apis/{group}/{version}` (`APIResourceList`) for a built-in group and version.
///
/// `group_version` is `v1` or `group/version`.
pub fn resource_list(group_version: &str) -> Option<Value> {
    let (group, version) = group_version.split_once('/').unwrap_or(("", group_version));
    let found: Vec<&Resource> = registry()
        .resources()
        .iter()
        .filter(|r| r.group == group && r.version == version)
        .collect();
    if found.is_empty() {
        return None;
    }
    Some(resource_list_of(group_version, found))
}

/// The groups of custom resources in the aggregated form. Those that are built in as well are not repeated.
pub fn aggregated_custom(resources: &[Resource]) -> Vec<Value> {
    let groups = custom_groups(resources);
    groups.map(|group| aggregated_group(group, resources)).collect()
}

/// The groups of custom resources as they stand in `APIGroupList`.
pub fn custom_entries(resources: &[Resource]) -> Vec<Value> {
    let groups = custom_groups(resources);
    groups.map(|group| group_entry(group, resources)).collect()
}

fn custom_groups(resources: &[Resource]) -> impl Iterator<Item = &str> {
    let mut found: Vec<&str> = resources.iter().map(|r| r.group.as_ref()).collect();
    found.sort_unstable();
    found.dedup();
    let built_in = groups();
    found.into_iter().filter(move |group| !built_in.contains(group))
}

/// An `APIResourceList` of given resources.
pub fn resource_list_of<'a>(group_version: &str, resources: impl IntoIterator<Item = &'a Resource>) -> Value {
    let mut list = Vec::new();
    for r in resources {
        let mut item = json!({
            "name": r.plural,
            "singularName": r.singular,
            "namespaced": r.namespaced,
            "kind": r.kind,
            "verbs": r.verbs,
        });
        set_list(&mut item, "shortNames", &r.short_names);
        set_list(&mut item, "categories", &r.categories);
        list.push(item);
        for sub in &r.subresources {
            let mut item = Map::new();
            item.insert("name".into(), format!("{}/{}", r.plural, sub.name).into());
            item.insert("singularName".into(), "".into());
            item.insert("namespaced".into(), r.namespaced.into());
            if let Some((group, version)) = &sub.group_version {
                item.insert("group".into(), group.as_ref().into());
                item.insert("version".into(), version.as_ref().into());
            }
            item.insert("kind".into(), sub.kind.as_ref().into());
            item.insert("verbs".into(), json!(sub.verbs));
            list.push(Value::Object(item));
        }
    }
    json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": list})
}

fn set_list(item: &mut Value, name: &str, list: &[Text]) {
    if !list.is_empty() {
        item[name] = json!(list);
    }
}

/// The named groups that are built in, in order of preference.
pub fn groups() -> Vec<&'static str> {
    let mut found: Vec<&'static str> = Vec::new();
    for (group, _) in registry().group_versions() {
        if !group.is_empty() && !found.contains(&group) {
            found.push(group);
        }
    }
    found
}

fn versions<'a>(group: &str, resources: &'a [Resource]) -> Vec<&'a str> {
    let mut found: Vec<&str> = Vec::new();
    for r in resources.iter().filter(|r| r.group == group) {
        if !found.contains(&r.version.as_ref()) {
            found.push(&r.version);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aggregated_core_has_pods_with_subresources() {
        let api = aggregated_api(AggregatedVersion::V2);
        let resources = api["items"][0]["versions"][0]["resources"].as_array().unwrap();
        let pods = resources.iter().find(|r| r["resource"] == "pods").unwrap();
        assert_eq!(
            pods["responseKind"],
            json!({"group": "", "version": "v1", "kind": "Pod"})
        );
        assert_eq!(pods["shortNames"], json!(["po"]));
        let subs: Vec<&str> = pods["subresources"]
            .as_array()
            .unwrap()
            .iter()
            .map(|s| s["subresource"].as_str().unwrap())
            .collect();
        assert!(subs.contains(&"eviction") && subs.contains(&"log") && subs.contains(&"status"));
    }

    #[test]
    fn preferred_version_is_the_first() {
        let group = api_group("autoscaling").unwrap();
        assert_eq!(group["preferredVersion"]["groupVersion"], "autoscaling/v2");
        assert_eq!(group["versions"].as_array().unwrap().len(), 2);
        assert!(api_group("nosuch").is_none());
        let apis = aggregated_apis(AggregatedVersion::V2Beta1, Vec::new());
        assert_eq!(apis["apiVersion"], "apidiscovery.k8s.io/v2beta1");
        assert_eq!(apis["items"][0]["metadata"]["name"], "apiregistration.k8s.io");
    }

    #[test]
    fn plain_lists_name_subresources() {
        let list = resource_list("apps/v1").unwrap();
        let scale = list["resources"]
            .as_array()
            .unwrap()
            .iter()
            .find(|r| r["name"] == "deployments/scale")
            .unwrap();
        assert_eq!(
            (&scale["group"], &scale["kind"]),
            (&json!("autoscaling"), &json!("Scale"))
        );
        assert!(resource_list("v1").is_some());
        assert!(resource_list("apps/v9").is_none());
    }
}
