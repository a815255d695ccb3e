//! RBAC and the groups by which the API is extended and governed.

use super::{Object, ensure, object, objects, set, set_absent, set_number, text};

const RBAC_GROUP: &str = "rbac.authorization.k8s.io";

/// `RoleBinding`, `ClusterRoleBinding`.
pub(super) fn role_binding(o: &mut Object) {
    if let Some(role) = object(o, "roleRef") {
        set(role, "apiGroup", RBAC_GROUP);
    }
    for subject in objects(o, "subjects") {
        if matches!(text(subject, "kind"), "User" | "Group") {
            set(subject, "apiGroup", RBAC_GROUP);
        }
    }
}

/// Fills in the defaults of an object of one of these groups.
pub(super) fn default(kind: &str, o: &mut Object) {
    match kind {
        "MutatingWebhookConfiguration" | "ValidatingWebhookConfiguration" => webhooks(kind, o),
        "MutatingAdmissionPolicy" | "ValidatingAdmissionPolicy" => admission_policy(kind, o),
        "MutatingAdmissionPolicyBinding" | "ValidatingAdmissionPolicyBinding" => {
            if let Some(spec) = object(o, "spec") {
                if let Some(parameters) = object(spec, "paramRef") {
                    set(parameters, "parameterNotFoundAction", "Deny");
                }
                match_resources(spec, "matchResources");
            }
        }
        "CustomResourceDefinition" => custom_resource_definition(o),
        "APIService" => {
            if let Some(service) = object(o, "spec").and_then(|spec| object(spec, "service")) {
                set_absent(service, "port", 443);
            }
        }
        "FlowSchema" => {
            if let Some(spec) = ensure(o, "spec") {
                set_number(spec, "matchingPrecedence", 1000);
            }
        }
        "PriorityLevelConfiguration" => priority_level(o),
        "ResourceClaim" => {
            if let Some(spec) = object(o, "spec") {
                device_requests(spec);
            }
        }
        "ResourceClaimTemplate" => {
            if let Some(spec) = object(o, "spec").and_then(|spec| object(spec, "spec")) {
                device_requests(spec);
            }
        }
        _ => {}
    }
}

fn webhooks(kind: &str, o: &mut Object) {
    for webhook in objects(o, "webhooks") {
        set(webhook, "failurePolicy", "Fail");
        set(webhook, "matchPolicy", "Equivalent");
        ensure(webhook, "namespaceSelector");
        ensure(webhook, "objectSelector");
        set_absent(webhook, "timeoutSeconds", 10);
        if kind == "MutatingWebhookConfiguration" {
            set(webhook, "reinvocationPolicy", "Never");
        }
        for rule in objects(webhook, "rules") {
            set(rule, "scope", "*");
        }
        if let Some(service) = object(webhook, "clientConfig").and_then(|c| object(c, "service")) {
            set_absent(service, "port", 443);
        }
    }
}

fn admission_policy(kind: &str, o: &mut Object) {
    let Some(spec) = ensure(o, "spec") else { return };
    set(spec, "failurePolicy", "Fail");
    if kind == "MutatingAdmissionPolicy" {
        set(spec, "reinvocationPolicy", "Never");
    }
    match_resources(spec, "matchConstraints");
}

fn match_resources(spec: &mut Object, field: &str) {
    let Some(constraints) = object(spec, field) else {
        return;
    };
    set(constraints, "matchPolicy", "Equivalent");
    ensure(constraints, "namespaceSelector");
    ensure(constraints, "objectSelector");
    for list in ["resourceRules", "excludeResourceRules"] {
        for rule in objects(constraints, list) {
            set(rule, "scope", "*");
        }
    }
}

fn custom_resource_definition(o: &mut Object) {
    let Some(spec) = ensure(o, "spec") else { return };
    if let Some(names) = ensure(spec, "names") {
        let kind = text(names, "kind").to_owned();
        if !kind.is_empty() {
            set(names, "singular", kind.to_lowercase());
            set(names, "listKind", format!("{kind}List"));
        }
    }
    if let Some(conversion) = ensure(spec, "conversion") {
        set(conversion, "strategy", "None");
        let client = object(conversion, "webhook").and_then(|w| object(w, "clientConfig"));
        if let Some(service) = client.and_then(|c| object(c, "service")) {
            set_absent(service, "port", 443);
        }
    }
}

fn priority_level(o: &mut Object) {
    let Some(spec) = ensure(o, "spec") else { return };
    if text(spec, "type") == "Exempt" {
        if let Some(exempt) = ensure(spec, "exempt") {
            set_absent(exempt, "nominalConcurrencyShares", 0);
            set_absent(exempt, "lendablePercent", 0);
        }
        return;
    }
    let Some(limited) = object(spec, "limited") else {
        return;
    };
    set_absent(limited, "nominalConcurrencyShares", 30);
    set_absent(limited, "lendablePercent", 0);
    if let Some(queuing) = object(limited, "limitResponse").and_then(|r| object(r, "queuing")) {
        set_number(queuing, "queues", 64);
        set_number(queuing, "handSize", 8);
        set_number(queuing, "queueLengthLimit", 50);
    }
}

fn device_requests(spec: &mut Object) {
    let Some(devices) = object(spec, "devices") else {
        return;
    };
    for request in objects(devices, "requests") {
        if let Some(exactly) = object(request, "exactly") {
            device_count(exactly);
        }
        for alternative in objects(request, "firstAvailable") {
            device_count(alternative);
        }
    }
}

fn device_count(request: &mut Object) {
    set(request, "allocationMode", "ExactCount");
    if text(request, "allocationMode") == "ExactCount" {
        set_number(request, "count", 1);
    }
    for toleration in objects(request, "tolerations") {
        set(toleration, "operator", "Equal");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn binding_subjects_get_their_group() {
        let mut o: Object = serde_json::from_value(json!({
            "roleRef": {"kind": "Role", "name": "r"},
            "subjects": [{"kind": "User", "name": "u"}, {"kind": "ServiceAccount", "name": "s"}],
        }))
        .unwrap();
        role_binding(&mut o);
        assert_eq!(o["roleRef"]["apiGroup"], RBAC_GROUP);
        assert_eq!(o["subjects"][0]["apiGroup"], RBAC_GROUP);
        assert!(o["subjects"][1].get("apiGroup").is_none());
    }
}
