//! Nodes.

use serde_json::Value;

use super::cause::Causes;
use crate::names;
use crate::value::ValueExt as _;

/// The spec of a node.
pub(super) fn spec(c: &mut Causes, spec: &Value) {
    let mut seen: Vec<(&str, &str)> = Vec::new();
    c.each_ref(spec, "taints", |c, taint| {
        let (key, effect) = (taint.text(&["key"]), taint.text(&["effect"]));
        c.at("key", |c| c.invalid_each(key, names::qualified_name(key)));
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
