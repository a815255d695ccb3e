//! Devices that pods claim (`resource.k8s.io`).

use serde_json::Value;

use super::cause::Causes;
use super::checks::NOT_POSITIVE;
use super::{meta, scheduling, spec, storage};
use crate::names;
use crate::value::ValueExt as _;

/// Bounds that keep allocation fast: requests, constraints and configurations of a claim, selectors and tolerations
/// of a request, alternatives, consumers of a claim, devices and attributes.
const REQUESTS_MAX: usize = 32;
const SELECTORS_MAX: usize = 32;
const TOLERATIONS_MAX: usize = 16;
const ALTERNATIVES_MAX: usize = 8;
const CONSUMERS_MAX: usize = 256;
const DEVICES_MAX: usize = 128;
const DEVICE_PROPERTIES_MAX: usize = 32;
const EXPRESSION_MAX: usize = 10 * 1024;
const PARAMETERS_MAX: usize = 10 * 1024;

/// `DeviceClass`.
pub(super) fn class(c: &mut Causes, o: &Value) {
    c.at("spec", |c| {
        selectors(c, spec(o));
        c.at_most(spec(o), "config", REQUESTS_MAX);
        c.each(spec(o), "config", |c, _, config| configuration(c, config));
    });
}

/// `ResourceClaim`.
pub(super) fn claim(c: &mut Causes, o: &Value) {
    c.at("spec", |c| claim_spec(c, spec(o)));
}

/// `ResourceClaimTemplate`.
pub(super) fn template(c: &mut Causes, o: &Value) {
    c.at("spec", |c| {
        c.at("metadata", |c| {
            let metadata = spec(o).get("metadata").unwrap_or(&Value::Null);
            c.field(metadata, "labels", meta::labels);
            c.field(metadata, "annotations", meta::annotations);
        });
        c.at("spec", |c| claim_spec(c, spec(spec(o))));
    });
}

fn claim_spec(c: &mut Causes, spec: &Value) {
    c.field(spec, "devices", |c, devices| {
        for list in ["requests", "constraints", "config"] {
            c.at_most(devices, list, REQUESTS_MAX);
        }
        c.each(devices, "requests", |c, _, request| self::request(c, request));
        c.unique(devices, "requests", "name");
        let known = request_names(devices);
        c.each(devices, "constraints", |c, _, constraint| {
            references(c, constraint, &known);
            let keys = ["matchAttribute", "distinctAttribute"];
            if keys.iter().all(|key| constraint.text(&[key]).is_empty()) {
                c.at("matchAttribute", |c| c.required(""));
            }
            for key in keys {
                attribute_name(c, constraint, key);
            }
        });
        c.each(devices, "config", |c, _, config| {
            references(c, config, &known);
            configuration(c, config);
        });
    });
}

/// Names by which requests, and alternatives of them, are referred to.
fn request_names(devices: &Value) -> Vec<String> {
    let mut known = Vec::new();
    for request in devices.items(&["requests"]) {
        let name = request.text(&["name"]);
        known.push(name.to_owned());
        for alternative in request.items(&["firstAvailable"]) {
            known.push(format!("{name}/{}", alternative.text(&["name"])));
        }
    }
    known
}

fn references(c: &mut Causes, holder: &Value, known: &[String]) {
    c.at_most(holder, "requests", REQUESTS_MAX);
    let mut seen: Vec<String> = Vec::new();
    c.texts(holder, "requests", |c, name| {
        if !known.iter().any(|other| other == name) {
            c.invalid(
                name,
                "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'",
            );
        }
        if seen.iter().any(|other| other == name) {
            c.duplicate(name);
        }
        seen.push(name.to_owned());
    });
}

fn request(c: &mut Causes, request: &Value) {
    c.name_required(request, "name", names::dns_label);
    let alternatives = request.items(&["firstAvailable"]);
    match (request.at(&["exactly"]), alternatives.is_empty()) {
        (None, true) => c.required("exactly one of `exactly` or `firstAvailable` is required"),
        (Some(_), false) => {
            c.invalid(
                request.clone(),
                "exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set",
            );
        }
        (Some(exactly), true) => c.at("exactly", |c| requested(c, exactly)),
        (None, false) => {
            c.at_most(request, "firstAvailable", ALTERNATIVES_MAX);
            c.each(request, "firstAvailable", |c, _, alternative| {
                c.name_required(alternative, "name", names::dns_label);
                requested(c, alternative);
            });
            c.unique(request, "firstAvailable", "name");
        }
    }
}

/// What devices, and how many.
fn requested(c: &mut Causes, request: &Value) {
    c.name_required(request, "deviceClassName", names::dns_subdomain);
    selectors(c, request);
    let count = request.int(&["count"]).unwrap_or_default();
    match request.text(&["allocationMode"]) {
        "All" => {
            if count != 0 {
                c.at("count", |c| {
                    c.invalid(count, "must not be specified when allocationMode is 'All'")
                });
            }
        }
        "ExactCount" => {
            if count <= 0 {
                c.at("count", |c| c.invalid(count, NOT_POSITIVE));
            }
        }
        other => c.at("allocationMode", |c| {
            c.not_supported(other, &["All", "ExactCount"])
        }),
    }
    c.at_most(request, "tolerations", TOLERATIONS_MAX);
    c.each(request, "tolerations", |c, _, toleration| {
        c.name_rule(toleration, "key", names::qualified_name);
        let (key, value) = (toleration.text(&["key"]), toleration.text(&["value"]));
        match toleration.text(&["operator"]) {
            "Exists" if !value.is_empty() => c.at("value", |c| {
                c.invalid(value, "must be empty for operator `Exists`");
            }),
            "Exists" => {}
            "Equal" => {
                if key.is_empty() {
                    c.at("key", |c| c.required(""));
                }
                c.name_rule(toleration, "value", names::label_value);
            }
            "" => c.at("operator", |c| c.required("")),
            other => c.at("operator", |c| c.not_supported(other, &["Equal", "Exists"])),
        }
        c.one_of(toleration, "effect", &["NoExecute", "NoSchedule", "None"], false);
    });
}

fn selectors(c: &mut Causes, holder: &Value) {
    c.at_most(holder, "selectors", SELECTORS_MAX);
    c.each(holder, "selectors", |c, _, selector| {
        match selector.at(&["cel"]) {
            None => c.at("cel", |c| c.required("")),
            Some(cel) => c.at("cel", |c| {
                c.text_required(cel, "expression");
                c.short(cel, "expression", EXPRESSION_MAX);
            }),
        }
    });
}

fn configuration(c: &mut Causes, config: &Value) {
    match config.at(&["opaque"]) {
        None => c.at("opaque", |c| c.required("")),
        Some(opaque) => c.at("opaque", |c| {
            c.text_required(opaque, "driver");
            storage::driver_name(c, opaque, "driver");
            match opaque.at(&["parameters"]) {
                None => c.at("parameters", |c| c.required("")),
                Some(parameters) => c.at("parameters", |c| {
                    if !parameters.is_object() {
                        c.invalid("<value omitted>", "must be a valid JSON object");
                    }
                    if parameters.to_string().len() > PARAMETERS_MAX {
                        c.too_long(PARAMETERS_MAX);
                    }
                }),
            }
        }),
    }
}

/// The name of an attribute, with the domain of who defines it.
fn attribute_name(c: &mut Causes, holder: &Value, field: &str) {
    let name = holder.text(&[field]);
    if name.is_empty() {
        return;
    }
    c.at(field, |c| match name.split_once('/') {
        None => c.invalid(name, "must include a domain"),
        Some((domain, id)) => {
            c.invalid_each(domain, names::dns_subdomain(domain));
            identifier(c, id);
        }
    });
}

fn identifier(c: &mut Causes, id: &str) {
    const ID_MAX: usize = 32;
    if id.is_empty() {
        c.required("");
    } else if !super::checks::is_identifier(id) {
        c.invalid(
            id,
            "a valid C identifier must start with alphabetic character or '_', followed by a string of alphanumeric characters or '_' (e.g. 'my_name',  or 'MY_NAME',  or 'MyName', regex used for validation is '[A-Za-z_][A-Za-z0-9_]*')",
        );
    }
    if id.len() > ID_MAX {
        c.too_long(ID_MAX);
    }
}

/// Status of a `ResourceClaim`: who may use it, and what it was given.
pub(super) fn claim_status(c: &mut Causes, old: &Value, new: &Value) {
    let none = Value::Null;
    let (before, status) = (
        old.get("status").unwrap_or(&none),
        new.get("status").unwrap_or(&none),
    );
    c.at("status", |c| {
        let consumers = status.items(&["reservedFor"]);
        c.at_most(status, "reservedFor", CONSUMERS_MAX);
        let mut seen: Vec<&str> = Vec::new();
        c.each_ref(status, "reservedFor", |c, consumer| {
            for name in ["resource", "name", "uid"] {
                c.text_required(consumer, name);
            }
            let uid = consumer.text(&["uid"]);
            if seen.contains(&uid) {
                c.at("uid", |c| c.duplicate(uid));
            }
            seen.push(uid);
        });
        let (allocated, was) = (status.at(&["allocation"]), before.at(&["allocation"]));
        if allocated.is_none() && !consumers.is_empty() {
            c.at("reservedFor", |c| c.forbidden("may not be specified when `allocated` is not set"));
        }
        if new.at(&["metadata", "deletionTimestamp"]).is_some()
            && consumers.iter().any(|consumer| !before.items(&["reservedFor"]).contains(consumer))
        {
            c.at("reservedFor", |c| {
                c.forbidden("new entries may not be added while `deallocationRequested` or `deletionTimestamp` are set");
            });
        }
        if let (Some(was), Some(is)) = (was, allocated)
            && !crate::value::same(Some(was), Some(is))
        {
            c.at("allocation", |c| c.invalid(is.clone(), "field is immutable"));
        }
    });
}

/// `ResourceSlice`.
pub(super) fn slice(c: &mut Causes, o: &Value) {
    let spec = spec(o);
    c.at("spec", |c| {
        c.text_required(spec, "driver");
        storage::driver_name(c, spec, "driver");
        let none = Value::Null;
        c.at("pool", |c| {
            let pool = spec.at(&["pool"]).unwrap_or(&none);
            let name = pool.text(&["name"]);
            c.text_required(pool, "name");
            c.at("name", |c| {
                for part in name.split('/').filter(|_| !name.is_empty()) {
                    c.invalid_each(part, names::dns_subdomain(part));
                }
            });
            let slices = pool.int(&["resourceSliceCount"]).unwrap_or_default();
            if slices <= 0 {
                c.at("resourceSliceCount", |c| c.invalid(slices, NOT_POSITIVE));
            }
            c.not_negative(pool, "generation");
        });
        placement(c, spec, true);
        c.at_most(spec, "devices", DEVICES_MAX);
        c.each(spec, "devices", |c, _, device| self::device(c, device, spec));
        c.unique(spec, "devices", "name");
    });
}

/// Which nodes can use the devices: exactly one way to say it.
fn placement(c: &mut Causes, holder: &Value, of_slice: bool) {
    let mut ways: Vec<&str> = Vec::new();
    for name in ["nodeName", "nodeSelector"] {
        if !crate::value::is_empty(holder.get(name)) {
            ways.push(name);
        }
    }
    for name in ["allNodes", "perDeviceNodeSelection"] {
        if holder.flag(&[name]) {
            ways.push(name);
        }
    }
    let all = if of_slice {
        "`nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection`"
    } else {
        "`nodeName`, `nodeSelector`, `allNodes`"
    };
    match ways.len() {
        0 => c.required(&format!("exactly one of {all} is required")),
        1 => {}
        _ => {
            let found = format!("{{{}}}", ways.join(", "));
            c.invalid(
                found,
                &format!("exactly one of {all} is required, but multiple fields are set"),
            );
        }
    }
    c.name_rule(holder, "nodeName", names::dns_subdomain);
    c.field(holder, "nodeSelector", |c, selector| {
        scheduling::node_selector(c, selector);
        let terms = selector.items(&["nodeSelectorTerms"]);
        if terms.len() > 1 {
            c.at("nodeSelectorTerms", |c| {
                c.invalid(terms.to_vec(), "must have exactly one node selector term");
            });
        }
    });
}

fn device(c: &mut Causes, device: &Value, slice: &Value) {
    c.name_required(device, "name", names::dns_label);
    let count = |name: &str| {
        device
            .at(&[name])
            .and_then(Value::as_object)
            .map_or(0, serde_json::Map::len)
    };
    let properties = count("attributes") + count("capacity");
    if properties > DEVICE_PROPERTIES_MAX {
        c.invalid(
            i64::try_from(properties).unwrap_or(i64::MAX),
            &format!("the total number of attributes and capacities must not exceed {DEVICE_PROPERTIES_MAX}"),
        );
    }
    c.field(device, "attributes", |c, attributes| {
        for (name, value) in attributes.as_object().into_iter().flatten() {
            c.key(name, |c| {
                identifier(c, name.rsplit('/').next().unwrap_or_default());
                match value.as_object().map_or(0, serde_json::Map::len) {
                    0 => c.required("exactly one value must be specified"),
                    1 => {}
                    _ => c.invalid(value.clone(), "exactly one value must be specified"),
                }
            });
        }
    });
    c.field(device, "capacity", |c, capacity| {
        for name in capacity.as_object().into_iter().flat_map(serde_json::Map::keys) {
            c.key(name, |c| {
                identifier(c, name.rsplit('/').next().unwrap_or_default())
            });
        }
    });
    if slice.flag(&["perDeviceNodeSelection"]) {
        placement(c, device, false);
    } else {
        for name in ["nodeName", "nodeSelector", "allNodes"] {
            c.forbidden_field(
                device,
                name,
                "field can only be set when perDeviceNodeSelection is true",
            );
        }
    }
}
