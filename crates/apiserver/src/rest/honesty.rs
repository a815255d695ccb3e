//! Resources that are stored but that nothing acts on yet: whoever creates one is told so.

use schema::Resource;

/// (group, plural) of what has no effect yet; an empty plural is the whole group.
const WITHOUT_EFFECT: &[(&str, &str)] = &[
    ("admissionregistration.k8s.io", ""),
    ("apiregistration.k8s.io", "apiservices"),
    ("autoscaling", "horizontalpodautoscalers"),
    ("certificates.k8s.io", "certificatesigningrequests"),
    ("flowcontrol.apiserver.k8s.io", ""),
    ("networking.k8s.io", "ingresses"),
    ("networking.k8s.io", "networkpolicies"),
    ("resource.k8s.io", ""),
];

/// Warns whoever creates an object that will have no effect.
pub fn warn(call: &crate::call::Call, resource: &Resource) {
    if let Some(warning) = warning(resource) {
        call.warn(warning);
    }
}

/// The warning for a new object, if it will have no effect.
fn warning(resource: &Resource) -> Option<String> {
    let listed = WITHOUT_EFFECT
        .iter()
        .any(|(group, plural)| resource.group == *group && (plural.is_empty() || resource.plural == *plural));
    listed.then(|| {
        format!(
            "{} is stored, but nothing in this cluster acts on it yet",
            resource.qualified_kind()
        )
    })
}
