//! Nodes.

use serde_json::Value;

use super::cause::Causes;
use crate::names;
use crate::value::ValueExt as _;

/// `Node`.
pub(super) fn node(c: &mut Causes, o: &Value) {
    c.at("spec", |c| spec(c, super::spec(o)));
}

/// `Binding` of a pod to a node.
pub(super) fn binding(c: &mut Causes, o: &Value) {
    let target = o.get("target").unwrap_or(&Value::Null);
    c.at("target", |c| {
        let kind = target.text(&["kind"]);
        if !matches!(kind, "" | "Node") {
            c.at("kind", |c| c.not_supported(kind, &["Node", "<empty>"]));
        }
        c.text_required(target, "name");
    });
}

fn spec(c: &mut Causes, spec: &Value) {
    let mut seen: Vec<(&str, &str)> = Vec::new();
    c.each_ref(spec, "taints", |c, taint| {
        let (key, effect) = (taint.text(&["key"]), taint.text(&["effect"]));
        c.text_required(taint, "key");
        c.name_rule(taint, "key", names::qualified_name);
        let value = taint.text(&["value"]);
        c.at("value", |c| c.invalid_each(value, names::label_value(value)));
        let effects = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
        c.one_of(taint, "effect", &effects, true);
        if seen.contains(&(key, effect)) {
            c.duplicate(taint.clone());
        }
        seen.push((key, effect));
    });
    let ranges = spec.items(&["podCIDRs"]);
    c.at("podCIDRs", |c| {
        for (index, range) in ranges.iter().filter_map(Value::as_str).enumerate() {
            c.index(index, |c| c.invalid_each(range, names::cidr(range)));
        }
    });
    if let (Some(first), range) = (ranges.first().and_then(Value::as_str), spec.text(&["podCIDR"]))
        && first != range
    {
        c.at("podCIDRs", |c| {
            c.index(0, |c| c.invalid(first, "must match `podCIDR`"));
        });
    }
}
